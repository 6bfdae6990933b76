"""`Trainer(precision="bf16")`: what is rounded, what is not, and that it learns as float32 does.

That the bits do not depend on threads or instruction set is in test_determinism.
"""

import numpy as np
import pytest

import ranvier as rv


def bf16(values):
    """The nearest bfloat16, ties to even, as float64."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    return (rounded & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)


def one_step(precision, batch=37):
    """A model of three layers before and after one step of SGD with rate 1, and its batch."""
    rng = np.random.default_rng(5)
    X = rng.normal(size=(batch, 45)).astype(np.float32)
    y = rng.normal(size=(batch, 3)).astype(np.float32)
    layers = [rv.Dense(67, activation="tanh"), rv.Dense(31, activation="relu"), rv.Dense(3)]
    model = rv.Sequential(layers, input_size=45, seed=2)
    before = model.parameters()
    sgd = rv.SGD(learning_rate=1.0)
    trainer = rv.Trainer(model, loss="mse", optimizer=sgd, precision=precision)
    history = trainer.fit(X, y, batch_size=batch, shuffle=False)
    return X, y, before, model.parameters(), history["loss"][0]


def test_operands_of_products_are_rounded_and_nothing_else():
    X, y, before, after, loss = one_step("bf16")
    w = [before[f"{layer}.weight"] for layer in range(3)]
    b = [before[f"{layer}.bias"].astype(np.float64) for layer in range(3)]
    a1 = np.tanh(bf16(X) @ bf16(w[0]) + b[0])
    z2 = bf16(a1) @ bf16(w[1]) + b[1]
    a2 = np.maximum(z2, 0)
    z3 = bf16(a2) @ bf16(w[2]) + b[2]
    assert loss == pytest.approx(np.mean((z3 - y) ** 2), rel=1e-4)
    d3 = 2 * (z3 - y) / y.size
    d2 = (bf16(d3) @ bf16(w[2]).T) * (z2 > 0)
    d1 = (bf16(d2) @ bf16(w[1]).T) * (1 - a1**2)
    expected = {
        "0.weight": bf16(X).T @ bf16(d1),
        "1.weight": bf16(a1).T @ bf16(d2),
        "2.weight": bf16(a2).T @ bf16(d3),
        "0.bias": d1.sum(axis=0),
        "1.bias": d2.sum(axis=0),
        "2.bias": d3.sum(axis=0),
    }
    for name, gradient in expected.items():
        found = before[name].astype(np.float64) - after[name]
        # A value near the middle of two bf16 may round the other way here: half a unit, 2^-9, of
        # one operand among dozens. In float32 alone the deviation would be 1e-6.
        assert np.abs(found - gradient).max() < 1e-3 * np.abs(gradient).max(), name


def test_it_is_another_arithmetic_than_float32():
    *_, narrow, _ = one_step("bf16")
    *_, full, _ = one_step(None)
    for name in ("0.weight", "1.weight", "2.weight"):
        value = full[name]
        difference = np.abs(narrow[name] - value).max() / np.abs(value).max()
        assert 1e-6 < difference < 5e-2, name


def test_prediction_and_evaluation_stay_float32():
    X, y = rv.datasets.load_digits()
    model = rv.Sequential([rv.Dense(32, activation="relu"), rv.Dense(10)], input_size=64, seed=0)
    trainer = rv.Trainer(model, loss="cross_entropy", precision="bf16")
    history = trainer.fit(X, y, validation_data=(X, y))
    twin = rv.Sequential(model.layers, input_size=64)
    twin.set_parameters(model.parameters())
    plain = rv.Trainer(twin, loss="cross_entropy").evaluate(X, y)
    assert trainer.evaluate(X, y) == plain
    assert history["val_loss"] == [plain["loss"]]
    assert (model.predict(X) == twin.predict(X)).all()


def clusters(outputs, inputs, rows, seed):
    """Classes as overlapping clusters: a loss that stays away from zero."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(outputs, size=rows)
    centers = rng.normal(size=(outputs, inputs)) * 1.5 / np.sqrt(inputs) ** 0.5
    return (centers[labels] + rng.normal(size=(rows, inputs))).astype(np.float32), labels


def smooth(rows, seed):
    """A regression with noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 64)).astype(np.float32)
    y = np.sin(X @ rng.normal(size=(64, 4)) / 4) + 0.3 * rng.normal(size=(rows, 4))
    return X, y.astype(np.float32)


TASKS = {
    "digits": (*rv.datasets.load_digits(), [128, 64], 10, "cross_entropy", 6),
    "wide classes": (*clusters(20, 256, 4096, 1), [512, 512], 20, "cross_entropy", 3),
    "wide regression": (*smooth(4096, 2), [512, 512], 4, "mse", 4),
}


@pytest.mark.parametrize("task", TASKS)
def test_it_reaches_the_loss_of_float32_within_two_percent(task):
    X, y, widths, outputs, loss, epochs = TASKS[task]
    losses = {}
    for precision in (None, "bf16"):
        layers = [rv.Dense(width, activation="relu") for width in widths]
        model = rv.Sequential([*layers, rv.Dense(outputs)], input_size=X.shape[1], seed=0)
        trainer = rv.Trainer(model, loss=loss, optimizer="adam", precision=precision)
        losses[precision] = trainer.fit(X, y, epochs=epochs, batch_size=64)["loss"]
    first, last = losses[None][0], losses[None][-1]
    assert last < 0.8 * first
    assert losses["bf16"][-1] == pytest.approx(last, rel=0.02)


def test_the_optimiser_as_an_epilogue_and_by_itself_give_the_same_bits():
    """A clipping norm needs the whole gradient first; one that is never reached changes nothing."""
    X, y = rv.datasets.load_digits()
    results = set()
    for clip_norm in (None, 1e30):
        layers = [rv.Dense(70, activation="gelu"), rv.Dense(10)]
        model = rv.Sequential(layers, input_size=64, seed=0)
        adam = rv.Adam(learning_rate=0.01, clip_norm=clip_norm)
        trainer = rv.Trainer(model, loss="cross_entropy", optimizer=adam, precision="bf16")
        trainer.fit(X[:300], y[:300], epochs=2, batch_size=100)
        results.add(b"".join(value.tobytes() for value in model.parameters().values()))
    assert len(results) == 1


@pytest.mark.parametrize(
    ("precision", "dtype", "error", "words"),
    [
        ("bf16", "float64", rv.errors.ArgumentError, "float64"),
        ("fp8", "float32", rv.errors.ArgumentError, "expected None or bf16, got 'fp8'"),
        (16, "float32", rv.errors.DTypeError, "precision: expected None or a string, got 16"),
    ],
)
def test_other_precisions_are_refused_by_name(precision, dtype, error, words):
    model = rv.Sequential([rv.Dense(2)], input_size=3, dtype=dtype)
    with pytest.raises(error, match="precision.*" + words.split("precision")[-1]):
        rv.Trainer(model, loss="mse", precision=precision)


def test_the_trainer_and_the_configuration_say_what_they_use():
    model = rv.Sequential([rv.Dense(2)], input_size=3)
    assert rv.Trainer(model, loss="mse").precision is None
    trainer = rv.Trainer(model, loss="mse", precision="bf16")
    assert trainer.precision == "bf16"
    assert "precision='bf16'" in repr(trainer)
    assert rv.config()["bf16"] in ("native", "emulated")
