"""The mechanics of a fit: batches, epochs, going on, history, hooks, divergence, Ctrl-C, copies."""

import copy
import gc
import os
import signal
import statistics
import sys
import threading
import time
from contextlib import contextmanager, suppress

import numpy as np
import pytest

import ranvier as rv

DTYPES = ["float32", "float64"]
_rng = np.random.default_rng(0)
X = _rng.normal(size=(50, 6))
Y = np.column_stack([np.sin(X[:, 0]), X[:, 1] * X[:, 2]])
LABELS = (X[:, 0] > 0) + 1 * (X[:, 1] > 0)


def network(dtype="float32", seed=0, outputs=2):
    layers = [
        rv.Dense(20, activation="gelu"),
        rv.BatchNorm(),
        rv.Dropout(0.3),
        rv.Dense(7, activation=rv.activations.PReLU()),
        rv.LayerNorm(),
        rv.Dense(outputs),
    ]
    return rv.Sequential(layers, input_size=6, seed=seed, dtype=dtype)


def small(dtype="float32", seed=0, outputs=2):
    layers = [rv.Dense(5, activation="tanh"), rv.Dense(outputs)]
    return rv.Sequential(layers, input_size=6, seed=seed, dtype=dtype)


def bits(model):
    return [(name, value.tobytes()) for name, value in model.parameters().items()]


def trainer(model, loss="mse", optimizer=None, seed=1):
    return rv.Trainer(model, loss=loss, optimizer=optimizer or rv.Adam(), seed=seed)


class Hook(rv.Callback):
    """Calls a function at a hook."""

    def __init__(self, **functions):
        for name, function in functions.items():
            setattr(self, f"_{name}", function)

    def on_train_begin(self, trainer):
        return getattr(self, "_begin", lambda *_: None)(trainer)

    def on_train_end(self, trainer):
        return getattr(self, "_end", lambda *_: None)(trainer)


class StepHook(Hook):
    def on_train_batch_end(self, step, logs):
        return self._step(step, logs)


class EpochHook(Hook):
    def on_epoch_end(self, epoch, logs):
        return self._epoch(epoch, logs)


# ---------------------------------------------------------------- epochs, batches, steps

OPTIMIZERS = {
    "sgd": lambda: rv.SGD(learning_rate=0.01),
    "momentum": lambda: rv.SGD(learning_rate=0.01, momentum=0.9, dampening=0.1),
    "keras nesterov": lambda: rv.SGD(momentum=0.9, nesterov=True, dialect="keras"),
    "adam": lambda: rv.Adam(clip_norm=1.0),
    "amsgrad": lambda: rv.Adam(amsgrad=True, weight_decay=0.01),
    "adamw": lambda: rv.AdamW(clip_value=0.1),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_second_fit_goes_on_where_the_first_ended(optimizer, dtype):
    options = {"batch_size": 16, "validation_data": (X[:9], Y[:9])}
    once = trainer(network(dtype), optimizer=OPTIMIZERS[optimizer]())
    once.fit(X, Y, epochs=7, **options)
    twice = trainer(network(dtype), optimizer=OPTIMIZERS[optimizer]())
    for epochs in (3, 1, 3):
        twice.fit(X, Y, epochs=epochs, **options)
    assert bits(once.model) == bits(twice.model)
    for key in ("epoch", "step", "loss", "val_loss"):
        assert once.history[key] == twice.history[key]
    assert (once.epoch, once.step) == (twice.epoch, twice.step) == (7, 28)


def test_other_batch_sizes_and_data_between_two_fits():
    """Going on does not depend on buffers of the fits before."""
    one = trainer(network())
    one.fit(X, Y, epochs=2, batch_size=16)
    one.fit(X[:10], Y[:10], epochs=1, batch_size=3)
    one.fit(X, Y, epochs=2, batch_size=64)
    other = trainer(network())
    other.fit(X, Y, epochs=1, batch_size=16)
    other.fit(X, Y, epochs=1, batch_size=16)
    other.fit(X[:10], Y[:10], epochs=1, batch_size=3)
    other.fit(X, Y, epochs=1, batch_size=50)
    other.fit(X, Y, epochs=1, batch_size=1000)
    assert bits(one.model) == bits(other.model)
    assert one.step == other.step == 4 + 4 + 4 + 1 + 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_batches_are_what_stepping_by_hand_gives(dtype):
    """Unshuffled, without dropout: value_and_gradient and Optimizer.step are the same step."""
    model, twin = small(dtype), small(dtype)
    losses = []
    trained = trainer(model, optimizer=rv.Adam(learning_rate=0.01, weight_decay=0.1))
    hook = StepHook(step=lambda step, logs: losses.append(logs["loss"]))
    history = trained.fit(X, Y, epochs=2, batch_size=16, shuffle=False, callbacks=[hook])
    optimizer = rv.Adam(learning_rate=0.01, weight_decay=0.1)
    expected = []
    for _ in range(2):
        for first in range(0, 50, 16):
            rows = slice(first, first + 16)
            value, gradients = twin.value_and_gradient(X[rows], Y[rows], loss="mse")
            optimizer.step(twin, gradients)
            expected.append(value)
    assert bits(model) == bits(twin)
    assert losses == expected
    sizes = np.array([16, 16, 16, 2])
    for epoch in range(2):
        mean = (sizes * expected[4 * epoch : 4 * epoch + 4]).sum() / 50
        assert history["loss"][epoch] == pytest.approx(mean, rel=1e-14)


@pytest.mark.parametrize("n", [1, 2, 17, 50])
def test_every_row_is_visited_once_in_an_epoch_and_in_another_order(n):
    seen = []

    class Spy:
        def value_and_gradient(self, output, target, sample_weight=None):
            seen.append(target.copy())
            return 0.0, np.zeros_like(output)

    trained = trainer(small(outputs=1), loss=Spy())
    trained.fit(X[:n], np.arange(n), epochs=3, batch_size=8)
    orders = np.split(np.concatenate(seen), 3)
    for order in orders:
        assert sorted(order) == list(range(n))
    if n > 10:
        assert len({tuple(order) for order in orders}) == 3
        assert orders[0].tolist() != list(range(n))
    assert [len(batch) for batch in seen] == 3 * [
        len(b) for b in np.array_split(np.arange(n), range(8, n, 8))
    ]
    seen.clear()
    trained.fit(X[:n], np.arange(n), epochs=2, batch_size=8, shuffle=False)
    assert np.concatenate(seen).tolist() == 2 * list(range(n))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_batch_size_above_the_rows_is_the_full_batch(dtype):
    models = []
    for batch_size in (50, 51, 10**6, 2**62):
        model = network(dtype)
        trained = trainer(model)
        history = trained.fit(X, Y, epochs=3, batch_size=batch_size)
        assert history["step"] == [1, 2, 3]
        models.append(bits(model))
    assert models.count(models[0]) == len(models)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_batch_without_weight_is_passed_over(dtype):
    """No step, no count, nothing in running statistics or moments."""
    weight = np.ones(50)
    weight[16:32] = 0
    steps = []
    skipping = trainer(network(dtype))
    hook = StepHook(step=lambda step, logs: steps.append(step))
    skipping.fit(X, Y, batch_size=16, shuffle=False, sample_weight=weight, callbacks=[hook])
    assert steps == [1, 2, 3]
    assert skipping.step == 3
    assert skipping.history["step"] == [3]

    # The same without the rows. (Dropout hangs on the row's place: leave it out.)
    def without_dropout():
        layers = [layer for layer in network().layers if not isinstance(layer, rv.Dropout)]
        return rv.Sequential(layers, input_size=6, dtype=dtype)

    one, other = trainer(without_dropout()), trainer(without_dropout())
    one.fit(X, Y, epochs=2, batch_size=16, shuffle=False, sample_weight=weight)
    rows = weight > 0
    other.fit(X[rows], Y[rows], epochs=2, batch_size=16, shuffle=False, sample_weight=weight[rows])
    assert bits(one.model) == bits(other.model)
    assert one.history["loss"] == other.history["loss"]


def test_weights_of_one_are_no_weights_and_the_epoch_loss_is_weighted():
    one, other = trainer(small("float64")), trainer(small("float64"))
    one.fit(X, Y, epochs=2, batch_size=16)
    other.fit(X, Y, epochs=2, batch_size=16, sample_weight=np.ones(50))
    for a, b in zip(
        one.model.parameters().values(), other.model.parameters().values(), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
    weight = np.random.default_rng(1).uniform(0, 2, 50)
    losses, sums = [], []
    hook = StepHook(step=lambda step, logs: losses.append(logs["loss"]))
    third = trainer(small("float64"))
    third.fit(X, Y, batch_size=16, shuffle=False, sample_weight=weight, callbacks=[hook])
    sums = [weight[first : first + 16].sum() for first in range(0, 50, 16)]
    assert third.history["loss"][0] == pytest.approx(np.dot(losses, sums) / weight.sum(), rel=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
def test_validation_figures_are_those_of_evaluate(dtype):
    for loss, y, outputs in (("mse", Y, 2), ("cross_entropy", LABELS, 3)):
        trained = trainer(network(dtype, outputs=outputs), loss=loss)
        weight = np.arange(1.0, 21)
        data = (X[:20], y[:20], weight)
        found = []

        def evaluate(*_, trained=trained, found=found, y=y, weight=weight):
            found.append(trained.evaluate(X[:20], y[:20], sample_weight=weight))

        hook = EpochHook(epoch=evaluate)
        history = trained.fit(X, y, epochs=3, validation_data=data, callbacks=[hook])
        assert history["val_loss"] == [f["loss"] for f in found]
        if loss == "mse":
            assert "val_accuracy" not in history
            assert set(found[0]) == {"loss"}
            out = trained.model.predict(X[:20])
            by_hand = np.average(((out - y[:20]) ** 2).mean(axis=1), weights=weight)
        else:
            assert history["val_accuracy"] == [f["accuracy"] for f in found]
            out = trained.model.predict(X[:20])
            right = out.argmax(axis=1) == y[:20]
            assert found[-1]["accuracy"] == pytest.approx(np.average(right, weights=weight))
            shifted = out - out.max(axis=1, keepdims=True)
            log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
            by_hand = np.average(-log_p[np.arange(20), y[:20]], weights=weight)
        assert found[-1]["loss"] == pytest.approx(by_hand, rel=1e-5)


def test_validation_does_not_change_the_training():
    one, other = trainer(network()), trainer(network())
    one.fit(X, Y, epochs=3)
    other.fit(X, Y, epochs=3, validation_data=(X[:7], Y[:7]))
    assert bits(one.model) == bits(other.model)


def test_accuracy_of_binary_outputs_counts_elements():
    y = np.column_stack([X[:, 0] > 0, X[:, 1] > 0])
    trained = trainer(small(), loss="binary_cross_entropy")
    trained.fit(X, y, epochs=2)
    right = (trained.model.predict(X) > 0) == y
    assert trained.evaluate(X, y)["accuracy"] == pytest.approx(right.mean(), abs=1e-12)


def test_evaluation_over_many_chunks_is_one_mean():
    x = np.random.default_rng(2).normal(size=(1000, 6))
    y = x[:, :2]
    trained = trainer(network("float64"))
    out = trained.model.predict(x)
    assert trained.evaluate(x, y)["loss"] == pytest.approx(((out - y) ** 2).mean(), rel=1e-12)


def test_the_input_size_comes_from_the_first_fit():
    model = rv.Sequential([rv.Dense(5, activation="tanh"), rv.Dense(2)], seed=0)
    trained = trainer(model)
    trained.fit(X, Y, epochs=2)
    assert model.input_size == 6
    twin = trainer(small())
    twin.fit(X, Y, epochs=2)
    assert bits(model) == bits(twin.model)


def test_the_one_liner_is_a_trainer_made_for_the_call():
    one, other = network(), network()
    history = one.fit(X, Y, loss="mse", optimizer=rv.SGD(learning_rate=0.1), seed=3, epochs=2)
    trained = trainer(other, optimizer=rv.SGD(learning_rate=0.1), seed=3)
    trained.fit(X, Y, epochs=2)
    assert bits(one) == bits(other)
    assert history["loss"] == trained.history["loss"]
    default = network()
    default.fit(X, Y, loss="mse")
    explicit = trainer(network(), optimizer="adam", seed=0)
    explicit.fit(X, Y, epochs=1, batch_size=32, shuffle=True)
    assert bits(default) == bits(explicit.model)


def test_a_trainer_keeps_an_optimizer_of_its_own():
    optimizer = rv.Adam(learning_rate=0.1)
    one, other = trainer(small(), optimizer=optimizer), trainer(small(), optimizer=optimizer)
    one.fit(X, Y, epochs=2)
    by_hand = small()
    optimizer.step(by_hand, by_hand.value_and_gradient(X, Y, loss="mse")[1])
    other.fit(X, Y, epochs=2)
    assert bits(one.model) == bits(other.model)
    assert one.optimizer == optimizer
    assert one.optimizer is not optimizer


def test_definitions_may_be_shared_by_models():
    layer = rv.Dense(6, activation="tanh")
    model = rv.Sequential([layer, layer, rv.Dense(2)], input_size=6)
    assert not np.array_equal(model.parameters()["0.weight"], model.parameters()["1.weight"])
    other = rv.Sequential(model.layers, input_size=6)
    model.fit(X, Y, loss="mse")
    assert bits(other) == bits(rv.Sequential(model.layers, input_size=6))


# ---------------------------------------------------------------- history


def test_history_is_a_dict_of_lists():
    trained = trainer(small())
    history = trained.fit(X, Y, epochs=2)
    assert history is trained.history
    assert isinstance(history, dict)
    assert list(history) == ["epoch", "step", "loss", "learning_rate", "seconds"]
    assert history["epoch"] == [0, 1]
    assert history["step"] == [2, 4]
    assert all(isinstance(v, float) for v in history["loss"] + history["seconds"])
    assert all(v >= 0 for v in history["seconds"])
    trained.fit(X, Y, validation_data=(X, Y))
    assert history["epoch"] == [0, 1, 2]
    assert history["val_loss"][:2] == [None, None]
    trained.fit(X, Y)
    assert history["val_loss"][3] is None
    assert {len(column) for column in history.values()} == {4}
    rows = history.rows()
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    assert rows[2] == {key: column[2] for key, column in history.items()}
    assert rv.History().rows() == []


def test_history_as_a_frame():
    trained = trainer(small(outputs=3), loss="cross_entropy")
    trained.fit(X, LABELS)
    history = trained.fit(X, LABELS, epochs=2, validation_data=(X, LABELS))
    frame = history.to_pandas()
    assert frame.index.name == "epoch"
    assert list(frame.index) == [0, 1, 2]
    assert list(frame.columns) == [key for key in history if key != "epoch"]
    assert frame["loss"].tolist() == history["loss"]
    assert frame["val_loss"].isna().tolist() == [True, False, False]
    assert frame["val_accuracy"].dtype == float
    assert len(rv.History().to_pandas()) == 0


@pytest.fixture
def axes():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


def labels(legend):
    return [text.get_text() for text in legend.get_texts()]


def test_history_as_a_plot(axes):
    trained = trainer(small(outputs=3), loss="cross_entropy")
    ax = trained.fit(X, LABELS, epochs=2).plot()
    assert all(float(tick).is_integer() for tick in ax.get_xticks())
    assert ax.get_xlabel() == "epoch"
    assert ax.get_ylabel() == "loss"
    assert labels(ax.get_legend()) == ["training loss"]
    (line,) = ax.lines
    assert line.get_xdata().tolist() == [1, 2]
    assert line.get_ydata().tolist() == trained.history["loss"]
    history = trained.fit(X, LABELS, epochs=2, validation_data=(X, LABELS))
    ax = history.plot()
    assert labels(ax.get_legend()) == ["training loss", "validation loss", "validation accuracy"]
    assert [line.get_label() for line in ax.lines] == ["training loss", "validation loss"]
    drawn = np.asarray(ax.lines[1].get_ydata(), dtype=float)
    assert np.isnan(drawn[:2]).all()
    assert drawn[2:].tolist() == history["val_loss"][2:]
    (right,) = [a for a in ax.figure.axes if a is not ax]
    assert right.get_ylabel() == "accuracy"
    ax.figure.canvas.draw()
    metrics = ["f1", "roc_auc"]
    several = rv.Trainer(small(outputs=3), loss="cross_entropy", metrics=metrics)
    ax = several.fit(X, LABELS, validation_split=0.2).plot()
    (right,) = [a for a in ax.figure.axes if a is not ax]
    assert right.get_ylabel() == "metrics"
    assert labels(ax.get_legend())[2:] == ["validation f1", "validation roc auc"]


def test_history_draws_on_given_axes_and_one_epoch_is_a_point(axes):
    _, given = axes.subplots()
    history = trainer(small()).fit(X, Y)
    assert history.plot(given) is given
    assert history.plot(ax=given) is given
    assert given.lines[0].get_marker() == "o"
    given.set_xscale("log")
    given.set_xticks([1, 2])
    assert history.plot(given).get_xticks().tolist() == [1, 2]
    assert rv.History().plot().lines[:] == []


@pytest.mark.parametrize(("name", "method"), [("pandas", "to_pandas"), ("matplotlib", "plot")])
def test_a_missing_extra_says_how_to_install_it(monkeypatch, name, method):
    history = trainer(small()).fit(X, Y)
    for module in [m for m in sys.modules if m.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        rv.MissingDependencyError, match=rf"{name}.*pip install 'ranvier\["
    ) as caught:
        getattr(history, method)()
    assert isinstance(caught.value, ImportError)


# ---------------------------------------------------------------- callbacks


def test_hooks_come_in_order_and_hear_the_truth():
    calls = []

    class Everything(rv.Callback):
        def __init__(self, name):
            self.name = name

        def on_train_begin(self, trainer):
            calls.append((self.name, "begin", trainer.epoch, trainer.step))
            self.trainer = trainer

        def on_train_batch_end(self, step, logs):
            calls.append((self.name, "step", step, self.trainer.step, self.trainer.epoch))
            assert set(logs) == {"loss", "learning_rate"}

        def on_epoch_end(self, epoch, logs):
            calls.append((self.name, "epoch", epoch, self.trainer.step, self.trainer.epoch))
            assert logs == self.trainer.history.rows()[-1]
            logs.clear()

        def on_train_end(self, trainer):
            calls.append((self.name, "end", trainer.epoch, trainer.step))

    trained = trainer(small())
    for fits in range(2):
        calls.clear()
        trained.fit(X, Y, epochs=2, batch_size=25, callbacks=(Everything("a"), Everything("b")))
        base, step = 2 * fits, 4 * fits
        expected = [
            ("begin", base, step),
            ("step", step + 1, step + 1, base + 1),
            ("step", step + 2, step + 2, base + 1),
            ("epoch", base, step + 2, base + 1),
            ("step", step + 3, step + 3, base + 2),
            ("step", step + 4, step + 4, base + 2),
            ("epoch", base + 1, step + 4, base + 2),
            ("end", base + 2, step + 4),
        ]
        assert calls == [(name, *call) for call in expected for name in "ab"]


def test_hooks_do_not_change_the_training():
    plain, watched = trainer(network()), trainer(network())
    plain.fit(X, Y, epochs=3, batch_size=16)
    watched.fit(
        X,
        Y,
        epochs=3,
        batch_size=16,
        callbacks=[
            StepHook(step=lambda *_: None),
            EpochHook(epoch=lambda *_: False),
            rv.Callback(),
        ],
    )
    assert bits(plain.model) == bits(watched.model)


@pytest.mark.parametrize("yes", [True, np.True_])
def test_true_at_the_end_of_an_epoch_stops(yes):
    trained = trainer(network())
    seen = []
    stop = EpochHook(epoch=lambda epoch, _: yes if epoch == 2 else None)
    also = EpochHook(epoch=lambda epoch, _: seen.append(epoch))
    trained.fit(X, Y, epochs=10, callbacks=[stop, also])
    assert seen == [0, 1, 2]
    assert trained.epoch == 3
    twin = trainer(network())
    twin.fit(X, Y, epochs=3)
    assert bits(trained.model) == bits(twin.model)


@pytest.mark.parametrize("yes", [True, np.True_])
def test_true_after_a_step_stops(yes):
    trained = trainer(network())
    seen, epochs = [], []
    hooks = [
        StepHook(step=lambda step, _: yes if step == 6 else None),
        StepHook(step=lambda step, _: seen.append(step)),
        EpochHook(epoch=lambda epoch, logs: epochs.append(logs)),
    ]
    trained.fit(X, Y, epochs=10, batch_size=16, callbacks=hooks, validation_data=(X, Y))
    assert seen == [1, 2, 3, 4, 5, 6]
    assert trained.step == 6
    assert trained.epoch == 2
    assert [logs["epoch"] for logs in epochs] == [0, 1]
    assert trained.history["step"] == [4, 6]
    assert np.isfinite(trained.history["loss"]).all()
    assert bits(trained.model) == bits(after_steps(6, batch_size=16).model)
    trained.fit(X, Y, batch_size=16)
    assert (trained.epoch, trained.step) == (3, 10)


@pytest.mark.parametrize("no", [None, False, 0, "yes", [1], np.zeros(3)])
def test_only_true_stops(no):
    trained = trainer(small())
    hooks = [StepHook(step=lambda *_: no), EpochHook(epoch=lambda *_: no)]
    trained.fit(X, Y, epochs=3, callbacks=hooks)
    assert trained.epoch == 3


class StopAtError(Exception):
    pass


def after_steps(k, *, batch_size, model=None, x=X, y=Y, epochs=10):
    """A trainer that did exactly k steps."""
    trained = trainer(model or network())

    def stop(step, logs):
        if step == k:
            raise StopAtError

    with pytest.raises(StopAtError):
        trained.fit(x, y, epochs=epochs, batch_size=batch_size, callbacks=[StepHook(step=stop)])
    assert trained.step == k
    return trained


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_exception_in_a_hook_arrives_and_the_model_holds_the_last_step(dtype):
    states = []
    model = network(dtype)
    trained = trainer(model)

    def step(number, logs):
        states.append(bits(model))
        if number == 6:
            raise StopAtError("here")

    ended = []
    hooks = [StepHook(step=step), Hook(end=lambda t: ended.append(t.step))]
    with pytest.raises(StopAtError, match="here"):
        trained.fit(X, Y, epochs=5, batch_size=16, callbacks=hooks)
    assert len(states) == 6
    assert bits(model) == states[-1]
    assert ended == [6]
    assert (trained.epoch, trained.step) == (2, 6)
    assert trained.history["epoch"] == [0]
    # The next fit starts a new epoch with the moments as they are.
    trained.fit(X, Y, batch_size=16)
    assert (trained.epoch, trained.step) == (3, 10)
    assert trained.history["epoch"] == [0, 2]
    for error in (KeyboardInterrupt, SystemExit, GeneratorExit, rv.DivergedError):

        def fail(*_, error=error):
            raise error

        before = trained.step
        with pytest.raises(error):
            trained.fit(X, Y, batch_size=16, callbacks=[StepHook(step=fail)])
        assert trained.step == before + 1
        with pytest.raises(error):
            trained.fit(X, Y, batch_size=16, callbacks=[EpochHook(epoch=fail)])
        assert trained.step == before + 5


def test_an_exception_before_or_after_the_epochs_arrives():
    for where in ("begin", "end"):
        trained = trainer(small())
        ended = []

        def fail(_):
            raise StopAtError

        hooks = [Hook(end=ended.append), Hook(**{where: fail}), Hook(end=ended.append)]
        with pytest.raises(StopAtError):
            trained.fit(X, Y, callbacks=hooks)
        if where == "begin":
            assert len(ended) == 2
            assert bits(trained.model) == bits(small())
            assert trained.step == 0
        trained.fit(X, Y)


def test_the_model_may_be_read_and_run_inside_hooks():
    seen = []
    model = network()
    trained = trainer(model)

    def look(*_):
        value, gradients = model.value_and_gradient(X, Y, loss="mse")
        seen.append(model.predict(X))
        assert np.isfinite(value)
        assert set(gradients) < set(model.parameters())
        assert trained.evaluate(X, Y)["loss"] == pytest.approx(value, rel=1e-5)
        assert np.array_equal(model.copy().predict(X), seen[-1])
        assert "Trainer" in repr(trained)

    hooks = [
        Hook(begin=look, end=look),
        StepHook(step=look),
        EpochHook(epoch=look),
    ]
    trained.fit(X, Y, epochs=2, batch_size=25, callbacks=hooks)
    assert len(seen) == 8
    assert np.array_equal(seen[-1], model.predict(X))
    plain = trainer(network())
    plain.fit(X, Y, epochs=2, batch_size=25)
    assert bits(model) == bits(plain.model)


def test_parameters_set_inside_a_hook_take_effect():
    model = small()
    start = model.parameters()

    def reset(*_):
        model.set_parameters(start)

    trained = trainer(model, optimizer=rv.SGD(learning_rate=0.1))
    values = []
    hooks = [
        StepHook(step=lambda step, logs: (values.append(logs["loss"]), reset())[1]),
        EpochHook(epoch=reset),
    ]
    trained.fit(X, Y, epochs=3, batch_size=50, shuffle=False, callbacks=hooks)
    assert bits(model) == bits(small())
    assert len(set(values)) == 1


def test_a_trainer_cannot_be_fitted_inside_its_own_hook_but_another_can():
    model = small()
    trained = trainer(model)
    errors, inner = [], trainer(small())

    def nested(*_):
        try:
            trained.fit(X, Y)
        except rv.BusyError as error:
            errors.append(error)
        inner.fit(X, Y)

    trained.fit(X, Y, callbacks=[EpochHook(epoch=nested)])
    assert len(errors) == 1
    assert isinstance(errors[0], RuntimeError)
    assert bits(inner.model) == bits(model)
    assert trained.epoch == 1
    assert trained.history["epoch"] == [0]


def test_hooks_set_on_the_object_are_called_too():
    hook, seen = rv.Callback(), []
    hook.on_epoch_end = lambda epoch, logs: seen.append(epoch)
    hook.on_train_batch_end = lambda step, logs: seen.append(-step)
    trainer(small()).fit(X, Y, callbacks=[hook])
    assert seen == [-1, -2, 0]


def test_arrays_are_let_go_after_a_fit():
    class Tracked(np.ndarray):
        pass

    import weakref

    x = X.copy().view(Tracked)
    trained = trainer(small())
    dead = weakref.ref(x)
    trained.fit(x, Y, epochs=1)
    with pytest.raises(rv.ArgumentError):
        trained.fit(x, Y * np.nan)
    del x
    gc.collect()
    assert dead() is None


# ---------------------------------------------------------------- divergence


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ["sgd", "momentum", "adam", "clip_norm", "custom"])
def test_divergence_restores_the_last_finite_epoch(case, dtype):
    optimizer = {
        "sgd": rv.SGD(learning_rate=1e30),
        "momentum": rv.SGD(learning_rate=1e30, momentum=0.9),
        "adam": rv.Adam(learning_rate=1e300),
        "clip_norm": rv.SGD(learning_rate=1e30, clip_norm=1e30),
        "custom": rv.SGD(),
    }[case]
    loss, ends = "mse", []
    if case == "custom":

        class Exploding:
            calls = 0

            def value_and_gradient(self, output, target, sample_weight=None):
                self.calls += 1
                gradient = np.full_like(output, np.nan if self.calls > 9 else 0.01)
                return 1.0, gradient

        loss = Exploding()
    model = network(dtype)
    trained = trainer(model, loss=loss, optimizer=optimizer)
    start = bits(model)
    hook = EpochHook(epoch=lambda *_: ends.append(bits(model)))
    with pytest.raises(rv.DivergedError, match="diverged") as caught:
        trained.fit(X, Y, epochs=1000, batch_size=16, callbacks=[hook])
    assert isinstance(caught.value, ArithmeticError)
    assert bits(model) == (ends[-1] if ends else start)
    assert all(np.isfinite(v).all() for v in model.parameters().values())
    assert len(trained.history["loss"] if ends else []) == len(ends)
    assert np.isfinite(trained.history.get("loss", [])).all()
    if case == "custom":
        assert len(ends) == 2


def test_after_a_divergence_a_fit_starts_with_fresh_moments():
    class Sometimes:
        bad = False

        def value_and_gradient(self, output, target, sample_weight=None):
            difference = output - target
            value = np.inf if self.bad else float((difference**2).mean())
            return value, 2 * difference / difference.size

    loss = Sometimes()
    trained = trainer(small(), loss=loss, optimizer=rv.Adam(learning_rate=0.1))
    trained.fit(X, Y, epochs=2, batch_size=50, shuffle=False)
    loss.bad = True
    with pytest.raises(rv.DivergedError, match="the loss"):
        trained.fit(X, Y, batch_size=50, shuffle=False)
    loss.bad = False
    fresh_model = small()
    fresh_model.set_parameters(trained.model.parameters())
    fresh = trainer(fresh_model, loss=loss, optimizer=rv.Adam(learning_rate=0.1))
    for each in (trained, fresh):
        each.fit(X, Y, epochs=3, batch_size=50, shuffle=False)
    assert bits(trained.model) == bits(fresh.model)
    assert trained.history["epoch"] == [0, 1, 3, 4, 5]


def test_a_divergence_says_what_and_where_and_what_helps():
    trained = trainer(small(), optimizer=rv.SGD(learning_rate=1e30))
    with pytest.raises(rv.DivergedError, match=r"epoch \d+.*step \d+.*learning_rate") as caught:
        trained.fit(X, Y, epochs=50)
    assert "model holds" in str(caught.value)


# ---------------------------------------------------------------- Ctrl-C

BIG_X = np.random.default_rng(3).normal(size=(4000, 6)).astype("f4")
BIG_Y = BIG_X[:, :2]


@contextmanager
def interrupted_after(seconds):
    """Sends SIGINT from another thread; notes when."""
    sent = []

    def send():
        time.sleep(seconds)
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        with suppress(KeyboardInterrupt):  # the call was over before the signal: a failure, once
            thread.join()
        thread.join()


def latencies(call, times=5):
    """Seconds from SIGINT to KeyboardInterrupt."""
    found = []
    for attempt in range(times):
        with interrupted_after(0.07 + 0.013 * attempt) as sent:
            with pytest.raises(KeyboardInterrupt):
                call()
            found.append(time.perf_counter() - sent[0])
    return found


def prompt(found):
    assert max(found) < 0.4, found
    assert statistics.median(found) < 0.1, found


@pytest.mark.parametrize("custom", [False, True])
def test_ctrl_c_during_a_fit_leaves_the_last_complete_step(custom):
    class Python:
        def value_and_gradient(self, output, target, sample_weight=None):
            difference = output - target
            return float((difference**2).mean()), 2 * difference / difference.size

    loss = Python() if custom else "mse"
    model = network()
    trained = trainer(model, loss=loss)
    ended = []
    found = latencies(
        lambda: trained.fit(
            BIG_X, BIG_Y, epochs=10**6, batch_size=64, callbacks=[Hook(end=ended.append)]
        )
    )
    prompt(found)
    assert len(ended) == 5
    assert trained.step > 100
    assert trained.epoch >= 5
    assert all(np.isfinite(v).all() for v in model.parameters().values())
    trained.fit(BIG_X[:100], BIG_Y[:100])


def test_ctrl_c_in_the_first_fit_equals_exactly_k_steps():
    for attempt in range(2):
        trained = trainer(network())
        with interrupted_after(0.08 + 0.03 * attempt), pytest.raises(KeyboardInterrupt):
            trained.fit(BIG_X, BIG_Y, epochs=10**6, batch_size=64)
        k = trained.step
        assert k > 10
        replayed = after_steps(k, batch_size=64, x=BIG_X, y=BIG_Y, epochs=10**6)
        assert bits(trained.model) == bits(replayed.model)
        assert trained.epoch == replayed.epoch
        for each in (trained, replayed):  # and so do the moments
            each.fit(BIG_X, BIG_Y, batch_size=64)
        assert bits(trained.model) == bits(replayed.model)
        assert trained.epoch == replayed.epoch


def test_ctrl_c_by_a_timer_signal_and_by_a_handler_of_ones_own():
    class AlarmError(Exception):
        pass

    def handler(number, frame):
        raise AlarmError

    before = signal.signal(signal.SIGALRM, handler)
    try:
        trained = trainer(network())
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        begun = time.perf_counter()
        with pytest.raises(AlarmError):
            trained.fit(BIG_X, BIG_Y, epochs=10**6)
        assert time.perf_counter() - begun < 0.5
        # A handler that returns lets the fit go on, and may look at the model.
        outputs = []
        signal.signal(signal.SIGALRM, lambda *_: outputs.append(trained.model.predict(X)))
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        twin = trainer(network())
        deadline = time.perf_counter() + 0.3
        twin.fit(
            BIG_X,
            BIG_Y,
            epochs=10**6,
            callbacks=[EpochHook(epoch=lambda *_: time.perf_counter() > deadline)],
        )
        assert len(outputs) == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_ctrl_c_during_prediction_and_evaluation():
    layers = [rv.Dense(300, activation="tanh"), rv.Dense(300, activation="tanh"), rv.Dense(2)]
    model = rv.Sequential(layers, input_size=6)
    trained = trainer(model)
    x = np.broadcast_to(BIG_X[:1], (4_000_000, 6))
    y = np.broadcast_to(BIG_Y[:1], (4_000_000, 2))
    prompt(latencies(lambda: model.predict(x), 3))
    prompt(latencies(lambda: trained.evaluate(x, y), 3))
    prompt(
        latencies(
            lambda: trained.fit(BIG_X[:64], BIG_Y[:64], epochs=100, validation_data=(x, y)), 3
        )
    )
    assert model.predict(x[:3]).shape == (3, 2)


def test_ctrl_c_while_data_are_checked_changes_nothing():
    x = np.broadcast_to(BIG_X[:1], (200_000_000, 6))
    y = np.broadcast_to(BIG_Y[:1], (200_000_000, 2))
    trained = trainer(network())
    prompt(latencies(lambda: trained.fit(BIG_X, BIG_Y, validation_data=(x, y)), 2))
    assert (trained.epoch, trained.step, dict(trained.history)) == (0, 0, {})
    assert bits(trained.model) == bits(network())


# ---------------------------------------------------------------- copies and parameters


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [rv.Sequential.copy, copy.copy, copy.deepcopy])
def test_a_copy_is_a_model_of_its_own(make, dtype):
    model = network(dtype)
    model.fit(X, Y, loss="mse")
    twin = make(model)
    before = bits(model)
    assert bits(twin) == before
    assert np.array_equal(twin.predict(X), model.predict(X))
    twin.fit(X, Y, loss="mse")
    assert bits(model) == before
    assert bits(twin) != before
    model.fit(X, Y, loss="mse")
    assert bits(model) == bits(twin)
    assert (twin.dtype, twin.seed, twin.layers) == (model.dtype, model.seed, model.layers)


def test_a_model_inside_something_that_is_copied():
    model = network()
    holder = {"a": model, "b": [model]}
    twins = copy.deepcopy(holder)
    assert twins["a"] is not model
    assert twins["b"][0] is twins["a"]
    assert bits(twins["a"]) == bits(model)


@pytest.mark.parametrize("dtype", DTYPES)
def test_parameters_come_and_go(dtype):
    model, other = network(dtype), network(dtype, seed=5)
    model.fit(X, Y, loss="mse")
    parameters = model.parameters()
    assert list(parameters) == [
        *("0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias", "3.slope"),
        *("4.weight", "4.bias", "5.weight", "5.bias", "1.running_mean", "1.running_var"),
    ]
    assert parameters["0.weight"].shape == (6, 20)
    assert parameters["3.slope"].shape == ()
    assert all(v.dtype == dtype for v in parameters.values())
    assert model.n_parameters == sum(v.size for n, v in parameters.items() if "running" not in n)
    other.set_parameters(parameters)
    assert bits(other) == bits(model)
    assert np.array_equal(other.predict(X), model.predict(X))
    for name, value in parameters.items():  # copies: nobody else sees a change
        value[...] = 7
        assert model.parameters()[name].tobytes() != value.tobytes()
    third = network(dtype)
    third.set_parameters({"3.slope": 0.5, "5.bias": [1, 2], "1.running_var": np.full(20, 4)})
    changed = {
        n for (n, a), (_, b) in zip(bits(third), bits(network(dtype)), strict=True) if a != b
    }
    assert changed == {"3.slope", "5.bias", "1.running_var"}
    assert third.parameters()["5.bias"].tolist() == [1, 2]
    third.set_parameters({})


def test_parameters_that_were_given_may_change_afterwards():
    model = small()
    bias = np.ones(5, np.float32)
    model.set_parameters({"0.bias": bias})
    bias[:] = 9
    assert model.parameters()["0.bias"].tolist() == [1] * 5


def test_a_trainer_sees_parameters_that_were_set():
    one, other = small(), small()
    trained, twin = trainer(one), trainer(other)
    for model in (one, other):
        model.set_parameters({"0.bias": np.arange(5)})
    trained.fit(X, Y, epochs=2)
    twin.fit(X, Y)
    twin.model.set_parameters(twin.model.parameters())
    twin.fit(X, Y)
    assert bits(one) == bits(other)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_the_input(dtype):
    model = small(dtype)
    value, gradients = model.value_and_gradient(X, Y, loss="mse")
    assert isinstance(value, float)
    assert gradients.d_input.shape == X.shape
    assert gradients.d_input.dtype == dtype
    assert set(gradients) == set(model.parameters())
    p = {n: v.astype(float) for n, v in model.parameters().items()}
    hidden = np.tanh(X @ p["0.weight"] + p["0.bias"])
    d_output = 2 * (hidden @ p["1.weight"] + p["1.bias"] - Y) / Y.size
    expected = (d_output @ p["1.weight"].T * (1 - hidden**2)) @ p["0.weight"].T
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    np.testing.assert_allclose(gradients.d_input, expected, rtol=0, atol=tolerance)


def test_dropout_masks_hang_on_seed_and_step_alone():
    model = network()
    before = bits(model)

    def gradient(**options):
        _, found = model.value_and_gradient(X, Y, loss="mse", **options)
        return found["0.weight"].tobytes()

    assert gradient() == gradient(training=False) == gradient(step=5)
    assert gradient(training=True) == gradient(training=True, step=0)
    assert gradient(training=True) != gradient(training=True, step=1) != gradient()
    assert bits(model) == before
    other = model.copy()
    assert np.array_equal(other.predict(X), model.predict(X))


# ---------------------------------------------------------------- repr


class Free:
    """A custom loss."""

    def value_and_gradient(self, output, target, sample_weight=None):
        return 0.0, output * 0


REPRESENTED = [
    rv.Dense(3),
    rv.Dense(3, activation="relu", use_bias=False),
    rv.Dense(3, rv.activations.LeakyReLU(0.5), weight_init=rv.initializers.Orthogonal(gain=2.0)),
    rv.Dense(3, bias_init="ones", weight_init=rv.initializers.HeNormal(truncated=True)),
    rv.Dense(3, weight_init=rv.initializers.Constant(0.1)),
    rv.Activation("gelu"),
    rv.Activation(None),
    rv.Activation(rv.activations.PReLU()),
    rv.Activation(rv.activations.ELU(alpha=0.3)),
    rv.Dropout(0.25),
    rv.LayerNorm(),
    rv.LayerNorm(eps=1e-3),
    rv.BatchNorm(momentum=0.2, eps=1e-3),
    rv.Softmax(),
    rv.SGD(),
    rv.SGD(learning_rate=0.1, momentum=0.9, nesterov=True),
    rv.Adam(),
    rv.Adam(learning_rate=1e-4, beta1=0.8, amsgrad=True, clip_norm=1.0, dialect="keras"),
    rv.AdamW(weight_decay=0.1, clip_value=2.0),
    rv.losses.MSE(),
    rv.losses.Huber(delta=0.3),
    rv.losses.Quantile(0.9),
    rv.losses.Quantile([0.1, 0.9]),
    rv.losses.CrossEntropy(label_smoothing=0.1),
    rv.losses.BinaryCrossEntropy(pos_weight=[1.0, 2.0]),
    rv.initializers.GlorotUniform(),
    rv.initializers.TorchDefault(),
]


def names():
    found = {"np": np}
    for room in (rv, rv.activations, rv.initializers, rv.losses, rv.optimizers):
        found |= {name: getattr(room, name) for name in room.__all__}
    return found


@pytest.mark.parametrize("thing", REPRESENTED, ids=repr)
def test_definitions_evaluate_back_from_their_repr(thing):
    assert eval(repr(thing), names()) == thing
    assert copy.copy(thing) == copy.deepcopy(thing) == thing


def test_a_model_evaluates_back_from_its_repr():
    for model in (
        network(),
        network("float64", seed=2**64 - 1),
        rv.Sequential([rv.Dense(3)]),
        rv.Sequential([rv.Dense(np.int64(3))], input_size=np.int32(2), seed=np.uint8(3)),
        rv.Sequential((rv.Softmax(),)),
    ):
        twin = eval(repr(model), names())
        assert repr(twin) == repr(model)
        assert (twin.layers, twin.seed, twin.dtype) == (model.layers, model.seed, model.dtype)
        if model.input_size:
            assert bits(twin) == bits(model)


def test_a_trainer_tells_definition_and_progress():
    trained = trainer(small(), optimizer=rv.SGD(learning_rate=0.5))
    trained.fit(X, Y)
    text = repr(trained)
    for part in ("MSE()", "SGD(learning_rate=0.5)", "seed=1", "epoch=1", "step=2"):
        assert part in text
    assert "Trainer" in repr(rv.Trainer(small(), loss=Free()))


def test_seed_none_draws_one_and_tells_it():
    model = rv.Sequential([rv.Dense(2)], input_size=6, seed=None)
    other = rv.Sequential([rv.Dense(2)], input_size=6, seed=None)
    assert model.seed != other.seed
    assert 0 <= model.seed < 2**64
    assert bits(rv.Sequential([rv.Dense(2)], input_size=6, seed=model.seed)) == bits(model)
    one = rv.Trainer(model, loss="mse", seed=None)
    two = rv.Trainer(model.copy(), loss="mse", seed=one.seed)
    for each in (one, two):
        each.fit(X, Y)
    assert bits(one.model) == bits(two.model)


def test_ctrl_c_between_epochs_loses_no_record():
    """With one step in an epoch, every complete step is an epoch of the history."""
    for _ in range(3):
        trained = trainer(small())
        timer = threading.Timer(0.15, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            trained.fit(X, Y, epochs=10**7, batch_size=len(X))
        timer.join()
        assert trained.epoch == trained.step == len(trained.history["epoch"])


# ---------------------------------------------------------------- files as data


def test_a_memory_map_is_read_in_place(tmp_path):
    """Pages that the kernel brings and takes; the same bits as the array in memory."""
    rng = np.random.default_rng(3)
    path = tmp_path / "x.npy"
    np.save(path, rng.normal(size=(200_000, 20)).astype(np.float32))
    mapped = np.load(path, mmap_mode="r")
    y = (mapped[:, 0] > 0) * 1
    models = []
    for data in (mapped, np.array(mapped)):
        model = rv.Sequential([rv.Dense(4, activation="relu"), rv.Dense(2)], input_size=20)
        model.fit(data, y, loss="cross_entropy", batch_size=512, validation_split=0.1)
        models.append(bits(model))
    assert models[0] == models[1]


@pytest.mark.parametrize(
    ("layer", "loss"),
    [
        (rv.Dense(3, activation="softmax"), "cross_entropy"),
        (rv.Softmax(), "cross_entropy"),
        (rv.Activation("softmax"), rv.losses.CrossEntropy()),
        (rv.Dense(1, activation="sigmoid"), "binary_cross_entropy"),
    ],
    ids=repr,
)
def test_a_squash_in_front_of_a_loss_that_has_one_is_logged(layer, loss, caplog):
    rv.Trainer(rv.Sequential([rv.Dense(3), layer]), loss=loss)
    assert "takes raw outputs" in caplog.text
    caplog.clear()
    rv.Trainer(rv.Sequential([rv.Dense(3), layer]), loss="mse")
    assert caplog.text == ""


def test_a_history_shows_its_last_epoch():
    model = rv.Sequential([rv.Dense(1)])
    history = model.fit(np.eye(4), np.ones(4), loss="mse", epochs=2)
    assert repr(history).startswith("<History of 2 epochs: loss ")
    assert repr(rv.History()) == "<History of 0 epochs>"
