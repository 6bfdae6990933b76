"""Many networks at once: each as if it were alone."""

import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import ranvier as rv

_rng = np.random.default_rng(0)
X = _rng.normal(size=(300, 6))
LABELS = (X[:, 0] > 0) + 1 * (X[:, 1] > 0)


def models(count=9):
    layers = [rv.Dense(12, activation="relu"), rv.Dropout(0.1), rv.Dense(3)]
    return [rv.Sequential(layers, input_size=6, seed=seed) for seed in range(count)]


def bits(trainer):
    history = {name: column for name, column in trainer.history.items() if name != "seconds"}
    values = [value.tobytes() for value in trainer.model.parameters().values()]
    return values, history, trainer.step, trainer.best_epoch, trainer.stopped_by


FOLDS = [(np.flatnonzero(np.arange(300) % 3 != k), np.arange(k, 300, 3)) for k in range(3)]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_each_network_has_the_bits_that_it_has_alone(threads):
    before = rv.get_num_threads()
    options = {"epochs": 5, "batch_size": 20, "validation_split": 0.2, "class_weight": "balanced"}
    try:
        rv.set_num_threads(threads)
        together = rv.fit_many(models(), X, LABELS, loss="cross_entropy", **options)
    finally:
        rv.set_num_threads(before)
    for model, trainer in zip(models(), together, strict=True):
        alone = rv.Trainer(model, loss="cross_entropy", seed=model.seed)
        alone.fit(X, LABELS, **options)
        assert bits(trainer) == bits(alone)


def test_large_networks_share_the_cores_too():
    layers = [rv.Dense(400, activation="relu"), rv.Dense(3)]
    pair = [rv.Sequential(layers, input_size=6, seed=seed) for seed in range(2)]
    together = rv.fit_many(pair, X, LABELS, loss="cross_entropy", epochs=2, batch_size=300)
    for seed, trainer in enumerate(together):
        alone = rv.Trainer(
            rv.Sequential(layers, input_size=6, seed=seed), loss="cross_entropy", seed=seed
        )
        alone.fit(X, LABELS, epochs=2, batch_size=300)
        assert bits(trainer) == bits(alone)


def test_trainers_bring_their_own_losses_optimizers_and_metrics():
    def trainers():
        first, second = models(2)
        return [
            rv.Trainer(first, loss="cross_entropy", optimizer=rv.SGD(learning_rate=0.1), seed=5),
            rv.Trainer(second, loss=rv.losses.CrossEntropy(label_smoothing=0.1), metrics=["f1"]),
        ]

    together, alone = trainers(), trainers()
    rv.fit_many(together, X, LABELS, epochs=3, validation_data=(X[:50], LABELS[:50]))
    for trainer in alone:
        trainer.fit(X, LABELS, epochs=3, validation_data=(X[:50], LABELS[:50]))
    assert list(map(bits, together)) == list(map(bits, alone))


@pytest.mark.parametrize("class_weight", [None, "balanced", {1: 3.0}])
def test_rows_are_trained_on_as_if_they_were_all(class_weight):
    bootstrap = _rng.integers(0, 300, size=300)
    rows = [*FOLDS, bootstrap, (bootstrap, np.arange(40)), None]
    options = {"epochs": 4, "batch_size": 32, "class_weight": class_weight}
    weight = 1.0 + np.arange(300) % 2
    together = rv.fit_many(
        models(6), X, LABELS, loss="cross_entropy", rows=rows, sample_weight=weight, **options
    )
    for trainer, model, entry in zip(together, models(6), rows, strict=True):
        train, held = entry if isinstance(entry, tuple) else (entry, None)
        train = np.arange(300) if train is None else train
        alone = rv.Trainer(model, loss="cross_entropy", seed=model.seed)
        validation = None
        if held is not None:
            factor = weight[held]
            if class_weight == "balanced":
                counts = np.bincount(LABELS[train])
                factor = factor * (len(train) / (3 * counts))[LABELS[held]]
            elif class_weight:
                factor = factor * np.array([1.0, 3.0, 1.0])[LABELS[held]]
            validation = (X[held], LABELS[held], factor)
            alone_weight = {"class_weight": None}
            own = weight[train]
            if class_weight == "balanced":
                own = own * (len(train) / (3 * counts))[LABELS[train]]
            elif class_weight:
                own = own * np.array([1.0, 3.0, 1.0])[LABELS[train]]
        else:
            alone_weight, own = {}, weight[train]
        alone.fit(
            X[train],
            LABELS[train],
            sample_weight=own,
            validation_data=validation,
            **(options | alone_weight),
        )
        assert bits(trainer) == bits(alone)


def test_callbacks_are_made_for_each_network():
    seen = {}

    class Note(rv.Callback):
        def __init__(self, number):
            self.number = number

        def on_epoch_end(self, epoch, logs):
            seen.setdefault(self.number, []).append(logs["loss"])
            return epoch == self.number

    trainers = rv.fit_many(
        models(4), X, LABELS, loss="cross_entropy", epochs=9, callbacks=lambda k: [Note(k)]
    )
    assert [len(seen[k]) for k in range(4)] == [1, 2, 3, 4]
    assert [t.history["loss"] for t in trainers] == [seen[k] for k in range(4)]
    assert [t.stopped_by for t in trainers] == ["callback"] * 4


def test_functions_of_the_users_are_called_for_each_network():
    def spread(y, output):
        assert len(y) == len(output) == 100
        return float(np.ptp(output) + 0.0 * np.sum(y))

    trainers = [
        rv.Trainer(model, loss="cross_entropy", metrics=[spread], seed=1) for model in models(3)
    ]
    rv.fit_many(trainers, X, LABELS, rows=FOLDS, epochs=2)
    assert all(len(t.history["val_spread"]) == 2 for t in trainers)


def test_a_network_that_diverges_ends_by_itself(caplog):
    trainers = [
        rv.Trainer(model, loss="cross_entropy", optimizer=rv.SGD(learning_rate=rate))
        for model, rate in zip(models(3), (0.1, 1e30, 0.1), strict=True)
    ]
    with caplog.at_level(logging.WARNING, "ranvier"):
        rv.fit_many(trainers, X, LABELS, epochs=3)
    assert [t.stopped_by for t in trainers] == ["epochs", "DivergedError", "epochs"]
    assert "network 1 of fit_many: training diverged" in caplog.text
    assert all(np.isfinite(v).all() for t in trainers for v in t.model.parameters().values())


def test_an_error_of_one_ends_all():
    class Fail(rv.Callback):
        def on_epoch_end(self, epoch, logs):
            raise LookupError("a bug in a callback")

    begun = time.perf_counter()
    with pytest.raises(LookupError, match="a bug in a callback"):
        rv.fit_many(
            models(4),
            X,
            LABELS,
            loss="cross_entropy",
            epochs=10**7,
            callbacks=lambda k: [Fail()] if k == 1 else [],
        )
    assert time.perf_counter() - begun < 5


def test_ctrl_c_ends_all_with_complete_steps():
    trainers = [rv.Trainer(model, loss="cross_entropy") for model in models(4)]
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    begun = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        rv.fit_many(trainers, X, LABELS, epochs=10**7)
    assert time.perf_counter() - begun < 1.5
    begun = [trainer for trainer in trainers if trainer.step]
    assert begun
    assert all(trainer.stopped_by == "KeyboardInterrupt" for trainer in begun)
    # They can go on.
    rv.fit_many(trainers, X, LABELS, epochs=1)


def test_ctrl_c_while_they_are_started_ends_those_that_run(monkeypatch):
    submit = ThreadPoolExecutor.submit
    trainers = [rv.Trainer(model, loss="cross_entropy") for model in models(3)]

    def interrupted(pool, train, number):
        if number == 1:
            raise KeyboardInterrupt
        return submit(pool, train, number)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", interrupted)
    begun = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        rv.fit_many(trainers, X, LABELS, epochs=10**7)
    assert time.perf_counter() - begun < 5
    assert trainers[0].stopped_by == "KeyboardInterrupt"


def test_progress_is_shown_on_a_terminal_alone(capsys, monkeypatch):
    rv.fit_many(models(3), X, LABELS, loss="cross_entropy", progress=True)
    assert capsys.readouterr() == ("", "")
    import io
    import sys

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for tqdm in (True, False):
        if not tqdm:
            monkeypatch.setitem(sys.modules, "tqdm", None)
        out = Terminal()
        monkeypatch.setattr(sys, "stderr", out)
        rv.fit_many(models(3), X, LABELS, loss="cross_entropy", progress=True)
        assert "3/3" in out.getvalue()
        assert out.getvalue().endswith("\n")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"networks": [3]}, r"networks\[0\]: expected a Trainer or a model, got 3"),
        ({"loss": None}, r"loss: expected one for the model networks\[0\]"),
        ({"networks": models(1) * 2}, "networks: expected different models"),
        ({"rows": [None]}, "rows: expected a list with an entry for each of 2 networks"),
        ({"rows": [None, [300]]}, r"rows\[1\]: expected row numbers from 0 to 299"),
        ({"rows": [None, [-1]]}, r"rows\[1\]: expected row numbers from 0 to 299"),
        ({"rows": [None, []]}, r"rows\[1\]: expected one or more row numbers"),
        ({"rows": [None, [0.5]]}, r"rows\[1\]: expected one or more row numbers"),
        ({"rows": [None, ([1], [[2]])]}, r"rows\[1\]: expected one or more row numbers"),
        ({"rows": FOLDS[:2], "validation_split": 0.1}, "validation_split: expected none"),
        ({"callbacks": [rv.EarlyStopping()]}, "callbacks: expected a function"),
        ({"batch_sizes": 3}, "options: expected those of Trainer.fit, got batch_sizes"),
        ({"batch_size": 0}, "batch_size: .*got 0"),
        ({"epochs": 0}, "epochs: .*got 0"),
        ({"progress": 1}, "progress: .*got 1"),
    ],
)
def test_wrong_options_are_refused_by_name(options, words):
    given = {"networks": models(2), "loss": "cross_entropy", "X": X, "y": LABELS} | options
    with pytest.raises(rv.RanvierError, match=words):
        rv.fit_many(**given)


def test_no_networks_are_no_work():
    assert rv.fit_many([], X, LABELS) == []


def test_masks_and_splitters_say_which_rows():
    model_selection = pytest.importorskip("sklearn.model_selection")
    mask = np.arange(len(X)) % 3 > 0
    results = []
    for rows in (
        [mask, (mask, ~mask)],
        [np.flatnonzero(mask), (np.flatnonzero(mask), np.flatnonzero(~mask))],
    ):
        models = [rv.Sequential([rv.Dense(3)], seed=seed) for seed in range(2)]
        trainers = rv.fit_many(models, X, LABELS, loss="cross_entropy", rows=rows, epochs=2)
        results.append(
            [[t.step, *map(np.ndarray.tobytes, t.model.parameters().values())] for t in trainers]
        )
    assert results[0] == results[1]
    models = [rv.Sequential([rv.Dense(3)], seed=seed) for seed in range(4)]
    folds = model_selection.KFold(4).split(X)
    trainers = rv.fit_many(models, X, LABELS, loss="cross_entropy", rows=folds)
    assert all(len(t.history["val_loss"]) == 1 for t in trainers)
    with pytest.raises(rv.ShapeError, match=r"rows\[0\]: expected one or more row numbers"):
        rv.fit_many(models[:1], X, LABELS, loss="cross_entropy", rows=[mask[:5]])
    with pytest.raises(rv.ArgumentError, match=r"rows\[0\]: expected something"):
        rv.fit_many(models[:1], X, LABELS, loss="cross_entropy", rows=[[1, [2, 3]]])


class Squares:
    def value_and_gradient(self, output, target, sample_weight=None):
        error = output - np.asarray(target).reshape(output.shape)
        return float((error**2).mean()), 2 * error / error.size


@pytest.mark.parametrize("options", [{"batch_size": 2000}, {"batch_size": 400, "accumulate": 5}])
def test_a_bootstrap_may_have_more_rows_than_the_data(options):
    rows = np.random.default_rng(0).integers(0, len(X), 3000)
    results = []
    for loss in ("mse", Squares()):
        model = rv.Sequential([rv.Dense(1)])
        (t,) = rv.fit_many([model], X, X[:, 0], loss=loss, rows=[rows], epochs=3, **options)
        results.append(t.history["loss"])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5)
    model = rv.Sequential([rv.Dense(1)], dtype="float64")
    (t,) = rv.fit_many([model], X, X[:, 0], loss="mse", optimizer="lbfgs", rows=[rows], epochs=99)
    assert t.stopped_by == "converged"


def test_rows_of_which_nothing_counts_are_refused():
    weight = np.where(np.arange(len(X)) < 150, 1.0, 0.0)
    first, rest = np.arange(150), np.arange(150, 300)
    for rows, part in [((first, rest), "validate"), ((rest, first), "train")]:
        model = rv.Sequential([rv.Dense(1)])
        with pytest.raises(rv.ArgumentError, match=f"rows: .*positive weight to {part} on"):
            rv.fit_many(
                [model], X, X[:, 0], loss="mse", rows=[rows], sample_weight=weight, epochs=1
            )
        assert model.input_size is None
