"""When a training ends, and what the model then holds: the best epoch, whatever the reason."""

import itertools
import math
import time

import numpy as np
import pytest

import ranvier as rv

_rng = np.random.default_rng(0)
X = _rng.normal(size=(60, 5))
Y = np.sin(X[:, :1]) + 0.5 * _rng.normal(size=(60, 1))
LABELS = (X[:, 0] > 0) + 2 * (X[:, 1] > 1)
XV = _rng.normal(size=(40, 5))
YV = np.sin(XV[:, :1])
VALIDATION = (XV, YV)


def trainer(loss="mse", rate=0.05, outputs=1):
    layers = [rv.Dense(30, activation="tanh"), rv.BatchNorm(), rv.Dense(outputs)]
    model = rv.Sequential(layers, input_size=5, dtype="float64")
    return rv.Trainer(model, loss=loss, optimizer=rv.Adam(learning_rate=rate), seed=3)


def bits(model):
    return b"".join(value.tobytes() for value in model.parameters().values())


class Recorder(rv.Callback):
    """The model after each epoch, and what a function of the epoch does then."""

    def __init__(self, then=lambda epoch: None):
        self.models = []
        self.then = then

    def on_train_begin(self, trainer):
        self.trainer = trainer

    def on_epoch_end(self, epoch, logs):
        self.models.append(bits(self.trainer.model))
        return self.then(epoch)


def best(history, figure="val_loss", sign=1):
    return int(np.argmin(sign * np.array(history[figure])))


# ---------------------------------------------------------------- the best epoch


def test_the_model_ends_with_the_best_epoch_wherever_validation_is_watched():
    ours, recorder = trainer(), Recorder()
    history = ours.fit(X, Y, epochs=40, validation_data=VALIDATION, callbacks=[recorder])
    epoch = best(history)
    assert 0 < epoch < 39
    assert bits(ours.model) == recorder.models[epoch]
    assert (ours.best_epoch, ours.best_value) == (epoch, history["val_loss"][epoch])
    assert ours.evaluate(*VALIDATION)["loss"] == ours.best_value
    assert ours.stopped_by == "epochs"


def test_without_validation_or_when_asked_the_last_epoch_stays():
    for options in ({}, {"validation_data": VALIDATION, "restore_best_weights": False}):
        ours, recorder = trainer(), Recorder()
        ours.fit(X, Y, epochs=40, callbacks=[recorder], **options)
        assert bits(ours.model) == recorder.models[-1]
    assert ours.best_epoch == best(ours.history)
    assert trainer().best_epoch is None


def test_watching_does_not_change_the_training():
    plain, watched = trainer(), trainer()
    plain.fit(X, Y, epochs=10)
    recorder = Recorder()
    watched.fit(X, Y, epochs=10, validation_data=VALIDATION, callbacks=[recorder])
    assert recorder.models[-1] == bits(plain.model)


@pytest.mark.parametrize("figure", ["val_loss", "val_accuracy", "loss"])
def test_best_goes_by_the_figure_that_is_named(figure):
    ours, recorder = trainer("cross_entropy", outputs=4), Recorder()
    data = (XV, (XV[:, 0] > 0) + 2 * (XV[:, 1] > 1))
    history = ours.fit(
        X, LABELS, epochs=30, validation_data=data, monitor=figure, callbacks=[recorder]
    )
    epoch = best(history, figure, -1 if figure == "val_accuracy" else 1)
    assert ours.best_epoch == epoch
    assert bits(ours.model) == recorder.models[epoch]


def interrupt(epoch):
    if epoch == 30:
        raise KeyboardInterrupt


def fail(epoch):
    if epoch == 30:
        raise LookupError("a bug in a callback")


@pytest.mark.parametrize(
    ("then", "error", "reason"),
    [
        (lambda epoch: epoch == 30, None, "callback"),
        (interrupt, KeyboardInterrupt, "KeyboardInterrupt"),
        (fail, LookupError, "LookupError"),
    ],
)
def test_the_best_epoch_is_restored_also_when_the_run_ends_for_another_reason(then, error, reason):
    ours, recorder = trainer(), Recorder(then)
    options = {"epochs": 99, "validation_data": VALIDATION, "callbacks": [recorder]}
    if error is None:
        ours.fit(X, Y, **options)
    else:
        with pytest.raises(error):
            ours.fit(X, Y, **options)
    assert len(recorder.models) == 31
    assert bits(ours.model) == recorder.models[best(ours.history)]
    assert ours.stopped_by == reason


def test_ctrl_c_may_end_a_fit_quietly():
    ours, recorder = trainer(), Recorder(interrupt)
    options = {"validation_data": VALIDATION, "callbacks": [recorder]}
    history = ours.fit(X, Y, epochs=99, raise_on_interrupt=False, **options)
    assert history is ours.history
    assert (len(history["loss"]), ours.stopped_by) == (31, "KeyboardInterrupt")
    assert bits(ours.model) == recorder.models[best(history)]
    # Nothing else is silenced.
    with pytest.raises(LookupError):
        trainer().fit(X, Y, epochs=99, raise_on_interrupt=False, callbacks=[Recorder(fail)])


def test_after_a_divergence_the_model_holds_the_best_epoch():
    ours, recorder = trainer(), Recorder()

    class Explode(rv.Callback):
        def on_epoch_end(self, epoch, logs):
            if epoch == 30:
                ours.model.set_parameters({"2.weight": np.full((30, 1), 1e300)})

    hooks = [recorder, Explode()]
    with pytest.raises(rv.DivergedError):
        ours.fit(X, Y, epochs=99, validation_data=VALIDATION, callbacks=hooks)
    assert bits(ours.model) == recorder.models[best(ours.history)]
    # From there a further fit goes on, and it knows how good that was.
    value = ours.best_value
    ours.fit(X, Y, validation_data=VALIDATION)
    assert ours.best_value <= value
    assert ours.evaluate(*VALIDATION)["loss"] == ours.best_value


def test_without_validation_a_divergence_leaves_the_last_finite_epoch():
    ours, recorder = trainer(), Recorder()
    ours.fit(X, Y, epochs=3, callbacks=[recorder])
    ours.model.set_parameters({"2.weight": np.full((30, 1), 1e300)})
    before = bits(ours.model)
    with pytest.raises(rv.DivergedError):
        ours.fit(X, Y)
    assert bits(ours.model) == before


def test_nan_is_never_the_best():
    class Strange:
        def value_and_gradient(self, output, target, sample_weight=None):
            value = float(((output - target) ** 2).mean())
            return (value, 2 * (output - target) / output.size)

    ours = trainer(Strange())
    nan_at_first = itertools.chain([math.nan], itertools.repeat(None))
    original = Strange.value_and_gradient

    def value_and_gradient(self, output, target, sample_weight=None):
        value, gradient = original(self, output, target)
        instead = next(nan_at_first) if len(target) == 40 else None
        return value if instead is None else instead, gradient

    Strange.value_and_gradient = value_and_gradient
    history = ours.fit(X, Y, epochs=3, batch_size=60, validation_data=VALIDATION)
    assert math.isnan(history["val_loss"][0])
    assert ours.best_epoch == 1 + int(np.argmin(history["val_loss"][1:]))


# ---------------------------------------------------------------- going on


def test_fits_of_n_and_m_epochs_are_one_of_n_plus_m():
    once, twice = trainer(), trainer()
    once.fit(X, Y, epochs=40, validation_data=VALIDATION)
    for epochs in (25, 1, 14):
        twice.fit(X, Y, epochs=epochs, validation_data=VALIDATION)
    assert twice.history["val_loss"] == once.history["val_loss"]
    assert (twice.best_epoch, bits(twice.model)) == (once.best_epoch, bits(once.model))


def test_a_fit_without_validation_goes_on_from_the_last_epoch_too():
    once, twice = trainer(), trainer()
    once.fit(X, Y, epochs=42)
    twice.fit(X, Y, epochs=40, validation_data=VALIDATION)
    assert twice.best_epoch < 39
    twice.fit(X, Y, epochs=2)
    assert bits(twice.model) == bits(once.model)


def test_parameters_that_were_set_meanwhile_are_where_a_fit_starts():
    start = trainer().model.parameters()
    ours, other = trainer(), trainer()
    ours.fit(X, Y, epochs=40, validation_data=VALIDATION)
    other.fit(X, Y, epochs=40)
    for t in (ours, other):
        t.model.set_parameters(start)
    ours.fit(X, Y, epochs=1, validation_data=VALIDATION)
    other.fit(X, Y, epochs=1)
    assert bits(ours.model) == bits(other.model)
    # What was best before belongs to parameters that are gone.
    assert ours.best_epoch == 40


def test_another_figure_forgets_the_best_one():
    ours = trainer()
    ours.fit(X, Y, epochs=40, validation_data=VALIDATION)
    ours.fit(X, Y, epochs=1, validation_data=VALIDATION, monitor="loss")
    assert ours.best_epoch == 40


# ---------------------------------------------------------------- patience


@pytest.mark.parametrize("patience", [1, 2, 5])
def test_early_stopping_waits_for_patience_epochs(patience):
    ours = trainer()
    stop = rv.EarlyStopping(patience=patience)
    history = ours.fit(X, Y, epochs=500, validation_data=VALIDATION, callbacks=[stop])
    assert ours.stopped_by == "patience"
    assert len(history["loss"]) == ours.best_epoch + 1 + patience
    # It would have stopped earlier had there been as many epochs in a row without a better one.
    values, waited, lowest = history["val_loss"], 0, math.inf
    for epoch, value in enumerate(values):
        waited = 0 if value < lowest else waited + 1
        lowest = min(lowest, value)
        assert (waited == patience) == (epoch == len(values) - 1)


def test_a_difference_below_min_delta_is_not_better():
    stop = rv.EarlyStopping(monitor="loss", patience=3, min_delta=1e9)
    ours = trainer()
    ours.fit(X, Y, epochs=50, callbacks=[stop])
    assert (ours.epoch, ours.best_epoch) == (4, 0)


def test_the_mode_follows_the_name_unless_it_is_given():
    for mode, expected in ((None, np.argmax), ("max", np.argmax), ("min", np.argmin)):
        ours = trainer("cross_entropy", outputs=4)
        stop = rv.EarlyStopping("val_accuracy", patience=50, mode=mode)
        history = ours.fit(X, LABELS, epochs=9, validation_split=0.3, callbacks=[stop])
        assert ours.best_epoch == expected(history["val_accuracy"])


def test_after_patience_a_further_fit_waits_again():
    ours = trainer()
    stop = rv.EarlyStopping(patience=4)
    options = {"validation_data": VALIDATION, "callbacks": [stop]}
    ours.fit(X, Y, epochs=500, **options)
    epochs = ours.epoch
    ours.fit(X, Y, epochs=500, **options)
    assert ours.epoch >= epochs + 4
    assert ours.stopped_by == "patience"


# ---------------------------------------------------------------- budgets


def test_max_steps_ends_in_the_middle_of_an_epoch():
    ours, other = trainer(), trainer()
    history = ours.fit(X, Y, epochs=10, batch_size=10, max_steps=15)
    assert (ours.step, ours.stopped_by) == (15, "max_steps")
    assert history["step"] == [6, 12, 15]
    steps = []

    class StopAt15(rv.Callback):
        def on_train_batch_end(self, step, logs):
            steps.append(step)
            return step == 15

    other.fit(X, Y, epochs=10, batch_size=10, callbacks=[StopAt15()])
    assert bits(ours.model) == bits(other.model)
    assert (steps[-1], other.stopped_by) == (15, "callback")
    # The limit is one call's.
    ours.fit(X, Y, epochs=10, batch_size=10, max_steps=15)
    assert ours.step == 30


def test_max_time_ends_after_the_step_in_progress_with_the_best_epoch():
    class Slow:
        def value_and_gradient(self, output, target, sample_weight=None):
            time.sleep(0.01)
            difference = output - target
            return float((difference**2).mean()), 2 * difference / output.size

    ours = trainer(Slow())
    begun = time.perf_counter()
    history = ours.fit(X, Y, epochs=10_000, batch_size=10, validation_data=VALIDATION, max_time=0.3)
    assert 0.3 <= time.perf_counter() - begun < 0.6
    assert ours.stopped_by == "max_time"
    assert ours.best_epoch == best(history)
    ours.fit(X, Y, epochs=10_000, batch_size=10, max_time=0)
    assert history["step"][-1] == history["step"][-2] + 1


# ---------------------------------------------------------------- held-out rows


class Seen:
    """A loss that notes the rows it is asked for, by their targets."""

    def __init__(self):
        self.calls = []

    def value_and_gradient(self, output, target, sample_weight=None):
        self.calls.append(np.array(target))
        return float(((output - target[:, None]) ** 2).mean()), np.zeros_like(output)


def test_validation_split_holds_rows_out_and_trains_on_the_others():
    loss = Seen()
    rows = np.arange(60)
    trainer(loss).fit(X, rows, epochs=2, batch_size=45, validation_split=0.25)
    train, held, again, held_again = loss.calls
    assert (len(train), len(held)) == (45, 15)
    assert sorted([*train, *held]) == list(rows)
    assert list(held) == sorted(held) != list(range(45, 60))
    assert sorted(again) == sorted(train)
    assert list(again) != list(train)
    assert list(held_again) == list(held)
    loss.calls.clear()
    trainer(loss).fit(X, rows, batch_size=45, validation_split=0.25, shuffle=False)
    assert list(loss.calls[0]) == sorted(train)


def test_a_split_trains_as_the_parts_given_by_hand():
    loss = Seen()
    trainer(loss).fit(X, np.arange(60), batch_size=60, validation_split=0.3, shuffle=False)
    train, held = loss.calls
    weight = 1.0 + np.arange(60) % 3
    ours, other = trainer(), trainer()
    options = {"epochs": 5, "batch_size": 16}
    ours.fit(X, Y, sample_weight=weight, validation_split=0.3, **options)
    validation = (X[held], Y[held], weight[held])
    other.fit(
        X[train], Y[train], sample_weight=weight[train], validation_data=validation, **options
    )
    assert ours.history["val_loss"] == other.history["val_loss"]
    assert bits(ours.model) == bits(other.model)


def test_of_each_class_its_share_is_held_out():
    """A model that always says one class is right for that class's share of the held-out rows."""
    labels = np.repeat([0, 1, 2], [90, 8, 2])
    for label, share in ((0, 0.9), (1, 0.08), (2, 0.02)):
        model = rv.Sequential([rv.Dense(3)], input_size=1)
        model.set_parameters({"0.bias": 9.0 * np.eye(3)[label]})
        still = rv.SGD(learning_rate=1e-9)
        history = model.fit(
            np.zeros((100, 1)), labels, loss="cross_entropy", optimizer=still, validation_split=0.5
        )
        assert history["val_accuracy"] == [share]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"validation_split": 1.0}, "validation_split: .*got 1.0"),
        ({"validation_split": -0.1}, "validation_split: .*got -0.1"),
        ({"validation_split": True}, "validation_split: .*got True"),
        ({"validation_split": 0.001}, "validation_split: .*at least one row.*got 0 rows of 60"),
        ({"validation_split": 0.999}, "validation_split: .*to train on, got 0 rows of 60"),
        (
            {"validation_split": 0.1, "validation_data": VALIDATION},
            "validation_split: expected 0 where validation_data is given, got 0.1",
        ),
        (
            {"validation_split": 0.1, "sample_weight": np.eye(60)[0]},
            "validation_split: .*positive weight",
        ),
        ({"monitor": "val_loss"}, "monitor: expected .*loss .*got 'val_loss'"),
        ({"monitor": "val_accuracy", "validation_split": 0.1}, "monitor: .*got 'val_accuracy'"),
        ({"monitor": 3}, "monitor: .*got 3"),
        ({"restore_best_weights": 1}, "restore_best_weights: .*got 1"),
        ({"raise_on_interrupt": 0}, "raise_on_interrupt: .*got 0"),
        ({"max_steps": 0}, "max_steps: .*got 0"),
        ({"max_time": -1}, "max_time: .*got -1"),
        ({"max_time": "1h"}, "max_time: .*got '1h'"),
        ({"callbacks": [rv.EarlyStopping()] * 2, "validation_split": 0.1}, "at most one"),
        ({"callbacks": [rv.EarlyStopping("val_loss")]}, "EarlyStopping: .*got 'val_loss'"),
        (
            {
                "callbacks": [rv.EarlyStopping("loss")],
                "monitor": "val_loss",
                "validation_split": 0.1,
            },
            "monitor: .*EarlyStopping's 'loss'",
        ),
    ],
)
def test_wrong_options_are_refused_by_name_before_anything_changes(options, words):
    ours = trainer()
    before = bits(ours.model)
    with pytest.raises(rv.RanvierError, match=words):
        ours.fit(X, Y, **options)
    assert (bits(ours.model), ours.step, dict(ours.history)) == (before, 0, {})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patience": 0}, "patience: .*got 0"),
        ({"min_delta": -1.0}, "min_delta: .*got -1.0"),
        ({"mode": "best"}, "mode: .*got 'best'"),
        ({"monitor": 7}, "monitor: .*got 7"),
        ({"restore_best_weights": None}, "restore_best_weights: .*got None"),
    ],
)
def test_early_stopping_refuses_wrong_options(options, words):
    with pytest.raises(rv.RanvierError, match=words):
        rv.EarlyStopping(**options)
