"""`rv.trace_step`: every number of one step, as in the textbook and as in the core."""

import numpy as np
import pytest

import ranvier as rv
from conftest import LOSSES, error

STACKS = {
    "one": [rv.Dense(4, "sigmoid")],
    "three": [rv.Dense(5, "tanh"), rv.Dense(3, "prelu"), rv.Dense(4)],
    "softmax": [rv.Dense(5, "relu"), rv.Softmax(), rv.Dense(4, "softmax", use_bias=False)],
    "penalties": [rv.Dense(5, "gelu", l1=0.1, l2=0.2, max_norm=1.0), rv.Dense(4)],
    "norms": [
        rv.Standardize(),
        rv.Dense(5),
        rv.BatchNorm(),
        rv.Activation("elu"),
        rv.LayerNorm(),
        rv.Dense(4),
    ],
    "noise": [rv.Dropout(0.3), rv.Dense(5, "silu"), rv.GaussianNoise(0.1), rv.Dense(4)],
}
OPTIMIZERS = [
    rv.SGD(learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    rv.Adam(dialect="keras", clip_norm=0.1, eps=0.1),
    # A bias in front of BatchNorm has a gradient of 0, which a small eps would take for something.
    rv.AdamW(learning_rate=rv.schedules.Cosine(0.1, steps=10), eps=0.1),
]


def drawn(stack, rng):
    model = rv.Sequential(STACKS[stack], input_size=3, dtype="float64", seed=3)
    moved = {
        name: rng.uniform(0.1, 1.0, value.shape)
        for name, value in model.parameters().items()
        if "running" not in name
    }
    model.set_parameters(moved)
    return model, rng.normal(size=(6, 3)), rng.normal(size=(6, 4))


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("stack", STACKS)
def test_it_is_the_first_step_of_a_fit_in_the_core(stack, optimizer, rng):
    model, x, y = drawn(stack, rng)
    step = rv.trace_step(model, x, y, loss="mse", optimizer=optimizer, seed=5)
    twin = model.copy()
    trainer = rv.Trainer(twin, loss="mse", optimizer=optimizer, seed=5)
    history = trainer.fit(x, y, batch_size=6, shuffle=False)
    assert step.loss == pytest.approx(history["loss"][0], rel=1e-12)
    seen = {
        f"{entry.number}.{role}": value
        for entry in step.layers
        for role, value in entry.after.items()
    }
    after = twin.parameters()
    assert set(seen) == set(after)
    for name, value in after.items():
        assert error(seen[name], value) <= 1e-11, name


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_the_cores(loss, rng):
    model, x, _ = drawn("three", rng)
    y = LOSSES[loss].targets(rng, model.predict(x))
    step = rv.trace_step(model, x, y, loss=LOSSES[loss].loss)
    value, gradients = model.value_and_gradient(x, y, loss=LOSSES[loss].loss)
    assert step.loss == pytest.approx(value, rel=1e-12)
    assert error(step.output, model.predict(x)) <= 1e-12
    assert error(step[0].d_input, gradients.d_input) <= 1e-12
    for name, expected in gradients.items():
        number, _, role = name.partition(".")
        assert error(step[int(number)].gradients[role], expected) <= 1e-12, name


def test_the_textbooks_equations_hold(rng):
    model, x, y = drawn("three", rng)
    step = rv.trace_step(model, x, y, loss="mse", optimizer=rv.SGD(learning_rate=0.1))
    # 1. z = x W + b, a = f(z); a layer's a is the next one's x.
    incoming = x
    for entry in step.layers:
        np.testing.assert_array_equal(entry.x, incoming)
        np.testing.assert_allclose(entry.z, entry.x @ entry.before["weight"] + entry.before["bias"])
        incoming = entry.a
    np.testing.assert_array_equal(step.output, incoming)
    np.testing.assert_allclose(step[0].a, np.tanh(step[0].z))
    # 2. L
    assert step.loss == pytest.approx(((step.output - y) ** 2).mean())
    np.testing.assert_allclose(step.d_output, 2 * (step.output - y) / y.size)
    # 3. delta = ∂L/∂a ⊙ f'(z), and ∂L/∂a of a layer is the next one's ∂L/∂x.
    d_a = step.d_output
    for entry in reversed(step.layers):
        np.testing.assert_allclose(entry.delta, d_a * entry.local_gradient)
        np.testing.assert_allclose(entry.gradients["weight"], entry.x.T @ entry.delta)
        np.testing.assert_allclose(entry.gradients["bias"], entry.delta.sum(axis=0))
        np.testing.assert_allclose(entry.d_input, entry.delta @ entry.before["weight"].T)
        d_a = entry.d_input
    np.testing.assert_allclose(step[0].local_gradient, 1 - np.tanh(step[0].z) ** 2)
    # 4. W ← W − α ∂L/∂W
    for entry in step.layers:
        for role, gradient in entry.gradients.items():
            np.testing.assert_allclose(entry.updates[role], -0.1 * gradient, atol=1e-15)
            np.testing.assert_allclose(entry.after[role], entry.before[role] + entry.updates[role])


def test_a_softmax_has_no_local_gradient_and_a_plain_layer_ones(rng):
    model, x, y = drawn("softmax", rng)
    step = rv.trace_step(model, x, y, loss="mse")
    assert step[1].local_gradient is None
    assert step[2].local_gradient is None
    plain = rv.trace_step(drawn("norms", rng)[0], x, y, loss="mse")
    assert (plain[1].local_gradient == 1.0).all()
    np.testing.assert_array_equal(plain[1].z, plain[1].a)


def test_the_model_stays_as_it_is(rng):
    model, x, y = drawn("norms", rng)
    before, optimizer = model.parameters(), rv.Adam()
    rv.trace_step(model, x, y, loss="mse", optimizer=optimizer)
    for name, value in model.parameters().items():
        np.testing.assert_array_equal(value, before[name])
    optimizer.step(model, model.value_and_gradient(x, y, loss="mse")[1])


def test_it_prints_the_five_steps(rng):
    model, x, y = drawn("one", rng)
    text = str(rv.trace_step(model, x[:1], y[:1], loss="mse"))
    numbered = [line for line in text.splitlines() if line[0].isdecimal()]
    assert [line[0] for line in numbered] == list("12345")
    step = rv.trace_step(model, x[:1], y[:1], loss="mse")
    assert repr(step) == text
    for value in (*step[0].z[0], *step[0].delta[0], *step[0].gradients["bias"], step.loss):
        assert f"{value:.4g}"[:5] in text
    # Larger tensors are cut short, with their shapes.
    assert "… (6 x 4)" in str(rv.trace_step(model, x, y, loss="mse"))


def test_printed_rows_are_parted_and_what_a_layer_passes_back_is_shown():
    layers = [rv.Dense(2, activation="relu"), rv.Dense(1)]
    model = rv.Sequential(layers, input_size=2, dtype="float64")
    weights = {"0.weight": [[1.0, 2.0], [3.0, 4.0]], "1.weight": [[1.0], [-2.0]]}
    model.set_parameters(weights)
    text = str(rv.trace_step(model, [[1.0, 2.0], [-1.0, 0.5]], [1.0, 1.0], loss="mse"))
    lines = [line.strip() for line in text.splitlines()]
    assert "x              1  2 | -1  0.5" in lines
    assert "z              7  10 |  0.5  0" in lines
    # dL/da is output − y, and dL/dx = delta Wᵀ.
    assert "dL/da         -14 | -0.5" in lines
    assert "dL/dx         -14  28 | -0.5  1" in lines
    assert sum(line.startswith("dL/dx") for line in lines) == 1


def test_every_number_is_in_the_frame(rng):
    model, x, y = drawn("three", rng)
    step = rv.trace_step(model, x, y, loss="mse")
    frame = step.to_pandas()
    assert list(frame.columns) == ["layer", "tensor", "row", "column", "value"]
    cell = frame.query("layer == 1 and tensor == 'delta' and row == 4 and column == 2")
    assert cell["value"].item() == step[1].delta[4, 2]
    expected = sum(a.size for entry in step.layers for _, a in entry.figures() if a is not None)
    assert len(frame) == expected


def test_a_custom_loss_is_laid_open_too(rng):
    class Squares:
        def value_and_gradient(self, output, target, sample_weight=None):
            return float(((output - target) ** 2).mean()), 2 * (output - target) / output.size

    model, x, y = drawn("three", rng)
    ours, own = (rv.trace_step(model, x, y, loss=loss) for loss in (Squares(), "mse"))
    assert ours.loss == pytest.approx(own.loss)
    np.testing.assert_allclose(ours[0].delta, own[0].delta)


@pytest.mark.parametrize(
    ("kind", "argument", "options"),
    [
        (rv.ArgumentError, "optimizer", {"optimizer": "lbfgs"}),
        (rv.ArgumentError, "loss", {"loss": "mean"}),
        (rv.ShapeError, "x", {"x": np.zeros((6, 2))}),
        (rv.ShapeError, "y", {"y": np.zeros((5, 4))}),
        (rv.ArgumentError, "x", {"x": np.full((6, 3), np.nan)}),
        (rv.ArgumentError, "seed", {"seed": -1}),
        (rv.DTypeError, "model", {"model": 3}),
    ],
)
def test_bad_arguments_are_refused_by_name(kind, argument, options, rng):
    model, x, y = drawn("three", rng)
    given = {"model": model, "x": x, "y": y, "loss": "mse", **options}
    with pytest.raises(kind, match=f"^{argument}: expected "):
        rv.trace_step(given.pop("model"), given.pop("x"), given.pop("y"), **given)
