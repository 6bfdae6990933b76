"""`accumulate`: a step in several parts has the bits of the step in one."""

import numpy as np
import pytest

import ranvier as rv

_rng = np.random.default_rng(0)
X = _rng.normal(size=(100, 9))
TARGETS = {1: X[:, :1] ** 2, 3: _rng.normal(size=(100, 3)), 40: _rng.normal(size=(100, 40))}
LABELS = (X[:, 0] > 0) + 2 * (X[:, 1] > 1)


class Squares:
    """A loss of one's own, whose value depends on all rows of a batch."""

    def value_and_gradient(self, output, target, sample_weight=None):
        weight = np.ones(len(output)) if sample_weight is None else sample_weight
        scale = (weight / weight.sum())[:, None] / output.shape[1]
        error = output - target.reshape(output.shape)
        return float((scale * error**2).sum()), 2 * scale * error


def layers(outputs):
    return [
        rv.GaussianNoise(0.1),
        rv.Dense(70, activation="prelu", l1=0.001),
        rv.LayerNorm(),
        rv.Dropout(0.2),
        rv.Dense(20, activation="tanh", max_norm=1.5),
        rv.Dense(outputs, l2=0.01),
    ]


def fit(batch_size, accumulate=1, *, outputs=3, y=None, dtype="float32", weight=None, **options):
    model = rv.Sequential(layers(outputs), input_size=9, dtype=dtype)
    options = {"loss": "mse", "optimizer": "adam"} | options
    trainer = rv.Trainer(model, **options)
    y = TARGETS[outputs] if y is None else y
    trainer.fit(X, y, epochs=3, batch_size=batch_size, accumulate=accumulate, sample_weight=weight)
    parameters = [value.tobytes() for value in model.parameters().values()]
    return parameters, trainer.history["loss"], trainer.step


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("outputs", [1, 3, 40])
@pytest.mark.parametrize(
    ("batch_size", "accumulate"), [(1, 32), (5, 3), (7, 5), (16, 4), (50, 2), (33, 3), (30, 99)]
)
def test_k_batches_have_the_bits_of_the_large_one(batch_size, accumulate, outputs, dtype):
    whole = fit(batch_size * accumulate, outputs=outputs, dtype=dtype)
    assert fit(batch_size, accumulate, outputs=outputs, dtype=dtype) == whole
    assert whole[2] == 3 * -(-100 // (batch_size * accumulate))


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": rv.SGD(learning_rate=0.05, momentum=0.9, nesterov=True)},
        {"optimizer": rv.AdamW(clip_norm=0.1)},
        {"optimizer": rv.Adam(clip_value=0.01, amsgrad=True)},
        {"loss": "huber", "outputs": 1},
        {"loss": rv.losses.Quantile(q=[0.1, 0.5, 0.9]), "y": X[:, 0]},
        {"loss": rv.losses.CrossEntropy(label_smoothing=0.1), "y": LABELS % 3},
        {"loss": "cross_entropy", "y": LABELS % 3},
        {"weight": np.arange(100) % 4},
        {"weight": np.where(np.arange(100) < 50, 0.0, 2.0), "outputs": 1},
        {"ema_decay": 0.5},
        {"precision": "bf16"},
        {"precision": "bf16", "outputs": 1},
    ],
    ids=str,
)
def test_with_every_option(options):
    assert fit(10, 3, **options) == fit(30, **options)


@pytest.mark.parametrize("outputs", [1, 40])
@pytest.mark.parametrize("weight", [None, 1.0 + np.arange(100) % 3], ids=["plain", "weighted"])
def test_a_loss_of_ones_own_sees_all_rows_of_a_step(outputs, weight):
    options = {"loss": Squares(), "outputs": outputs, "weight": weight}
    assert fit(8, 4, **options) == fit(32, **options)


def test_a_wide_network_on_several_threads_has_the_same_bits():
    x, y = _rng.normal(size=(512, 300)), _rng.normal(size=(512, 130))
    results, threads = [], rv.get_num_threads()
    try:
        for batch_size, accumulate, count in [(512, 1, 1), (512, 1, 2), (100, 6, 2), (64, 8, 1)]:
            rv.set_num_threads(count)
            model = rv.Sequential([rv.Dense(600, activation="gelu"), rv.Dense(130)], input_size=300)
            model.fit(x, y, loss="mse", epochs=2, batch_size=batch_size, accumulate=accumulate)
            results.append([value.tobytes() for value in model.parameters().values()])
    finally:
        rv.set_num_threads(threads)
    assert results[1:] == results[:1] * 3


def test_a_file_goes_on_with_the_parts(tmp_path):
    class Stop(rv.Callback):
        def on_train_begin(self, trainer):
            self.trainer = trainer

        def on_train_batch_end(self, step, logs):
            if step == 5:
                self.trainer.save(tmp_path / "run.safetensors")

    options = {"epochs": 4, "batch_size": 10, "accumulate": 3}
    model = rv.Sequential(layers(3), input_size=9)
    trainer = rv.Trainer(model, loss="mse")
    trainer.fit(X, TARGETS[3], **options, callbacks=[Stop()])
    resumed = rv.Trainer.resume(tmp_path / "run.safetensors")
    resumed.fit(X, TARGETS[3])
    for a, b in zip(model.parameters().values(), resumed.model.parameters().values(), strict=True):
        assert a.tobytes() == b.tobytes()
    assert resumed.history["loss"] == trainer.history["loss"]


def test_a_diverging_step_changes_nothing():
    model = rv.Sequential([rv.Dense(1)], input_size=9)
    before = model.parameters()
    trainer = rv.Trainer(model, loss="mse")
    y = np.where(np.arange(100) == 99, 1e25, 0.0)
    with pytest.raises(rv.DivergedError):
        trainer.fit(X, y, batch_size=10, accumulate=10, shuffle=False)
    assert (model.parameters()["0.weight"] == before["0.weight"]).all()


def test_what_has_no_meaning_in_parts_is_refused():
    model = rv.Sequential([rv.Dense(4), rv.BatchNorm(), rv.Dense(3)])
    trainer = rv.Trainer(model, loss="mse")
    with pytest.raises(rv.ArgumentError, match="accumulate: expected 1 for a model with BatchNorm"):
        trainer.fit(X, TARGETS[3], batch_size=10, accumulate=2)
    assert model.input_size is None
    trainer.fit(X, TARGETS[3], batch_size=100, accumulate=2)
    with pytest.raises(rv.ArgumentError, match="batch_size: expected an even number"):
        fit(5, 2, precision="bf16")
    for bad, kind in [(0, rv.ArgumentError), (-1, rv.ArgumentError), (1.5, rv.DTypeError)]:
        with pytest.raises(kind, match="accumulate: expected"):
            fit(5, bad)
