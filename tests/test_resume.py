"""Going on from a file: the same bits as if nothing had happened."""

import copy
import itertools
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import ranvier as rv

_rng = np.random.default_rng(0)
X = _rng.normal(size=(80, 5))
LABELS = (X[:, 0] > 0) + 2 * (X[:, 1] > 1)
# Half of its labels are wrong, so that the best epoch is not the last one.
VALIDATION = (X[::3] + 0.1, np.where(np.arange(27) % 2, LABELS[::3], 0))


def trainer(seed=3, dtype="float32", **options):
    layers = [
        rv.Dense(20, activation="tanh"),
        rv.BatchNorm(),
        rv.Dropout(0.2),
        rv.Dense(8, activation="prelu"),
        rv.LayerNorm(),
        rv.Dense(4),
    ]
    model = rv.Sequential(layers, input_size=5, seed=seed, dtype=dtype)
    schedule = rv.schedules.Warmup(
        rv.schedules.ReduceOnPlateau(0.02, patience=2, factor=0.5), steps=5
    )
    options = {
        "loss": rv.losses.CrossEntropy(label_smoothing=0.1),
        "optimizer": rv.Adam(learning_rate=schedule, amsgrad=True, clip_norm=1.0),
    } | options
    return rv.Trainer(model, seed=seed, **options)


def state(t):
    """Everything that must be the same: parameters and history, but for the clock."""
    history = {name: column for name, column in t.history.items() if name != "seconds"}
    parameters = [(name, value.tobytes()) for name, value in t.model.parameters().items()]
    return parameters, repr(history), t.epoch, t.step, t.best_epoch, t.best_value, t.stopped_by


class SaveEach(rv.Callback):
    """A file after each step, in memory."""

    def __init__(self):
        self.files = []

    def on_train_begin(self, trainer):
        self.trainer = trainer

    def on_train_batch_end(self, step, logs):
        self.files.append(pickle.dumps(self.trainer))


# ---------------------------------------------------------------- any step

PLAN = {"epochs": 50, "batch_size": 20}
STOP = {"patience": 100}


@pytest.mark.parametrize(
    "options",
    [
        {"validation_data": VALIDATION, "callbacks": [rv.EarlyStopping(**STOP)]},
        {
            "validation_split": 0.1,
            "sample_weight": 1.0 + np.arange(80) % 3,
            "class_weight": {1: 2.0, 3: 0.5},
        },
        {"shuffle": False},
        {"ema_decay": 0.9},
        {"ema_decay": 0.9, "validation_split": 0.2},
        {"quantization": "int8", "validation_split": 0.2},
    ],
    ids=["validation", "split", "plain", "average", "average-split", "quantised"],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_run_resumed_at_any_step_is_the_run_itself(options, dtype):
    """200 of 200 steps of the first case, each tenth of the others."""
    saver = SaveEach()
    own = {name: options[name] for name in options if name in ("ema_decay", "quantization")}
    options = {name: value for name, value in options.items() if name not in own}
    whole = trainer(dtype=dtype, **own)
    hooks = [*options.get("callbacks", []), saver]
    whole.fit(X, LABELS, **PLAN, **(options | {"callbacks": hooks}))
    expected = state(whole)
    assert len(saver.files) == whole.step >= 200
    again = {
        name: value
        for name, value in options.items()
        if name in ("validation_data", "sample_weight", "callbacks")
    }
    every = 1 if dtype == "float32" and "validation_data" in options else 10
    for data in saver.files[::every]:
        resumed = pickle.loads(data)
        resumed.fit(X, LABELS, **again)
        assert state(resumed) == expected


CHILD = """
import sys, numpy as np, ranvier as rv
sys.path.insert(0, {tests!r})
from test_resume import X, LABELS, VALIDATION, state
import hashlib
rv.set_num_threads(int(sys.argv[2]))
trainer = rv.Trainer.resume(sys.argv[1])
trainer.fit(X, LABELS, validation_data=VALIDATION)
print(hashlib.sha256(repr(state(trainer)).encode()).hexdigest())
"""


def test_another_process_with_another_number_of_threads_goes_on_alike(tmp_path):
    import hashlib

    whole = trainer()
    saver = rv.Checkpoint(tmp_path / "run-{step}.safetensors", every_steps=37)
    whole.fit(X, LABELS, **PLAN, validation_data=VALIDATION, callbacks=[saver])
    expected = hashlib.sha256(repr(state(whole)).encode()).hexdigest()
    files = sorted(tmp_path.iterdir())
    assert len(files) == 5
    code = textwrap.dedent(CHILD).format(tests=str(Path(__file__).parent))
    for file, threads in zip(files, (1, 2, 3, 4, 8), strict=True):
        command = [sys.executable, "-c", code, str(file), str(threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout.strip() == expected


def test_n_epochs_then_m_are_n_plus_m(tmp_path):
    once = trainer()
    once.fit(X, LABELS, epochs=30, validation_data=VALIDATION)
    again = trainer()
    for epochs in (11, 1, 18):
        again.fit(X, LABELS, epochs=epochs, validation_data=VALIDATION)
        again.save(tmp_path / "run.safetensors")
        again = rv.Trainer.resume(tmp_path / "run.safetensors")
    assert state(again)[:-1] == state(once)[:-1]


def test_the_file_of_a_run_gives_the_model_that_the_trainer_shows(tmp_path):
    t = trainer()
    t.fit(X, LABELS, epochs=40, validation_data=VALIDATION)
    assert t.best_epoch < 39
    t.save(tmp_path / "run.safetensors")
    model = rv.load(tmp_path / "run.safetensors")
    for name, value in t.model.parameters().items():
        assert model.parameters()[name].tobytes() == value.tobytes()
    assert repr(model) == repr(t.model)


def test_a_run_that_was_interrupted_goes_on_in_the_middle_of_its_epoch(tmp_path):
    whole = trainer()
    whole.fit(X, LABELS, **PLAN, validation_data=VALIDATION)

    class Interrupt(rv.Callback):
        def on_train_batch_end(self, step, logs):
            if step == 77:
                raise KeyboardInterrupt

    t = trainer()
    with pytest.raises(KeyboardInterrupt):
        t.fit(X, LABELS, **PLAN, validation_data=VALIDATION, callbacks=[Interrupt()])
    t.save(tmp_path / "run.safetensors")
    resumed = rv.Trainer.resume(tmp_path / "run.safetensors")
    assert resumed.stopped_by == "KeyboardInterrupt"
    resumed.fit(X, LABELS, validation_data=VALIDATION)
    assert state(resumed) == state(whole)


def test_after_a_divergence_a_file_begins_with_a_new_epoch():
    t = trainer(optimizer=rv.SGD(learning_rate=1e30))
    with pytest.raises(rv.DivergedError):
        t.fit(X, LABELS, **PLAN)
    assert t._core.standing()["position"] is None


# ---------------------------------------------------------------- what comes from the file


def saved(tmp_path, steps=33, **options):
    path = tmp_path / "run-{step}.safetensors"
    t = trainer()
    t.fit(
        X,
        LABELS,
        **(PLAN | options),
        max_steps=steps,
        callbacks=[rv.Checkpoint(path, every_steps=steps - 2)],
    )
    return tmp_path / f"run-{steps - 2}.safetensors"


def test_max_steps_counts_on(tmp_path):
    path = saved(tmp_path, monitor="loss")
    resumed = rv.Trainer.resume(path)
    assert resumed.step == 31
    resumed.fit(X, LABELS)
    assert (resumed.step, resumed.stopped_by) == (33, "max_steps")
    # Then the fit in the file is at its end, and another one can begin.
    resumed.save(path)
    again = rv.Trainer.resume(path)
    again.fit(X, LABELS, epochs=1, batch_size=40)
    assert again.step == 35


def test_epochs_begin_another_fit(tmp_path):
    resumed = rv.Trainer.resume(saved(tmp_path))
    resumed.fit(X, LABELS, epochs=2, batch_size=80)
    assert (resumed.step, resumed.stopped_by) == (33, "epochs")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 20}, "batch_size: expected none, as it comes from the file, got 20"),
        ({"shuffle": True}, "shuffle: expected none"),
        ({"validation_split": 0.1}, "validation_split: expected none"),
        ({"max_steps": 5}, "max_steps: expected none"),
        ({"monitor": "loss"}, "monitor: expected none"),
        ({"restore_best_weights": False}, "restore_best_weights: expected none"),
        ({"validation_data": VALIDATION}, "validation_data: expected none, got some"),
        ({"X": X[:70], "y": LABELS[:70]}, "X and y: expected the data of the fit in the file"),
        ({"X": X.astype(np.float32)}, "X and y: expected the data of the fit in the file"),
        ({"X": X + 1e-9}, "X and y: expected the data of the fit in the file"),
        ({"y": LABELS[::-1]}, "X and y: expected the data of the fit in the file"),
        ({"sample_weight": np.ones(80)}, "X and y: expected the data of the fit in the file"),
        ({"allow_other_data": 1}, "allow_other_data: expected True or False, got 1"),
    ],
)
def test_what_does_not_fit_the_file_is_refused_by_name(tmp_path, options, words):
    resumed = rv.Trainer.resume(saved(tmp_path))
    before = state(resumed)
    with pytest.raises(rv.RanvierError, match=words):
        resumed.fit(**({"X": X, "y": LABELS} | options))
    assert state(resumed) == before
    resumed.fit(X, LABELS)


def test_other_data_can_be_allowed(tmp_path):
    resumed = rv.Trainer.resume(saved(tmp_path))
    resumed.fit(X + 1e-9, LABELS, allow_other_data=True)
    assert resumed.step == 33


def test_validation_data_is_asked_for(tmp_path):
    resumed = rv.Trainer.resume(saved(tmp_path, validation_data=VALIDATION))
    with pytest.raises(rv.ArgumentError, match="validation_data: expected that of the fit"):
        resumed.fit(X, LABELS)
    with pytest.raises(rv.ArgumentError, match="callbacks: expected the file's EarlyStopping"):
        resumed.fit(X, LABELS, validation_data=VALIDATION, callbacks=[rv.EarlyStopping(patience=7)])
    resumed.fit(X, LABELS, validation_data=VALIDATION)


class Halved:
    """A loss of the user's."""

    def value_and_gradient(self, output, target, sample_weight=None):
        one_hot = np.eye(4)[target]
        return float(((output - one_hot) ** 2).mean()), 2 * (output - one_hot) / output.size


def constant(step):
    return 0.01


def test_what_a_file_cannot_hold_is_given_again(tmp_path):
    optimizer = rv.Adam(learning_rate=constant)
    whole = trainer(loss=Halved(), optimizer=optimizer)
    whole.fit(X, LABELS, epochs=5)
    t = trainer(loss=Halved(), optimizer=optimizer)
    t.fit(X, LABELS, epochs=3)
    path = tmp_path / "run.safetensors"
    t.save(path)
    with pytest.raises(rv.ArgumentError, match=r"loss: expected what a file cannot hold, .*Halved"):
        rv.Trainer.resume(path)
    with pytest.raises(rv.ArgumentError, match="optimizer: expected what a file cannot hold"):
        rv.Trainer.resume(path, loss=Halved())
    resumed = rv.Trainer.resume(path, loss=Halved(), optimizer=optimizer)
    resumed.fit(X, LABELS, epochs=2)
    assert state(resumed) == state(whole)
    # A pickle brings them along.
    pickled = pickle.loads(pickle.dumps(t))
    pickled.fit(X, LABELS, epochs=2)
    assert state(pickled) == state(whole)


def test_another_optimizer_may_take_over_the_moments(tmp_path):
    t = trainer(optimizer=rv.Adam(learning_rate=0.01))
    t.fit(X, LABELS, epochs=2)
    t.save(tmp_path / "run.safetensors")
    slower = rv.Trainer.resume(tmp_path / "run.safetensors", optimizer=rv.Adam(learning_rate=1e-3))
    assert slower.fit(X, LABELS, epochs=1)["learning_rate"] == [0.01, 0.01, 1e-3]
    with pytest.raises(rv.FileFormatError, match=r'no tensor "optimizer\.v_max\.0\.weight"'):
        rv.Trainer.resume(tmp_path / "run.safetensors", optimizer=rv.Adam(amsgrad=True))


def test_a_model_is_no_run(tmp_path):
    trainer().model.save(tmp_path / "model.safetensors")
    with pytest.raises(rv.FileFormatError, match=r"a model, no run; ranvier\.load reads it"):
        rv.Trainer.resume(tmp_path / "model.safetensors")


# ---------------------------------------------------------------- copies


def test_pickles_and_copies_go_on_as_the_original():
    t = trainer()
    t.fit(X, LABELS, epochs=20, validation_data=VALIDATION)
    twins = [pickle.loads(pickle.dumps(t)), copy.copy(t), copy.deepcopy(t)]
    for twin in (t, *twins):
        twin.fit(X, LABELS, epochs=3, validation_data=VALIDATION)
    assert len({repr(state(twin)) for twin in (t, *twins)}) == 1
    fresh = pickle.loads(pickle.dumps(trainer()))
    fresh.fit(X, LABELS, epochs=23, validation_data=VALIDATION)
    assert state(fresh)[0] == state(t)[0]


def test_joblib_carries_models_and_trainers():
    joblib = pytest.importorskip("joblib")
    models = [trainer(seed).model for seed in range(3)]
    jobs = (joblib.delayed(rv.Sequential.predict)(model, X) for model in models)
    for model, result in zip(models, joblib.Parallel(n_jobs=2)(jobs), strict=True):
        assert result.tobytes() == model.predict(X).tobytes()


# ---------------------------------------------------------------- checkpoints


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_checkpoints_are_written_when_they_are_due(tmp_path):
    for options, expected in (
        ({}, [4, 8, 12]),
        ({"every_epochs": 2}, [8]),
        ({"every_steps": 5}, [5, 10]),
        ({"every_steps": 6, "every_epochs": 3}, [6, 12]),
        ({"every_steps": 1, "keep": 2}, [11, 12]),
    ):
        folder = tmp_path / str(options)
        folder.mkdir()
        saver = rv.Checkpoint(folder / "run-{step:04}.safetensors", **options)
        trainer().fit(X, LABELS, epochs=3, batch_size=20, monitor="loss", callbacks=[saver])
        assert names(folder) == [f"run-{step:04}.safetensors" for step in expected]


def test_only_the_best_epochs_are_written(tmp_path):
    t = trainer()
    saver = rv.Checkpoint(tmp_path / "{epoch}.safetensors", best_only=True)
    history = t.fit(X, LABELS, epochs=20, validation_data=VALIDATION, callbacks=[saver])
    lowest = itertools.accumulate(history["val_loss"], min)
    best = [
        epoch
        for epoch, (value, low, before) in enumerate(
            zip(
                history["val_loss"],
                lowest,
                [np.inf, *itertools.accumulate(history["val_loss"], min)],
                strict=False,
            )
        )
        if value == low < before
    ]
    assert names(tmp_path) == sorted(f"{epoch + 1}.safetensors" for epoch in best)
    newest = rv.load(tmp_path / f"{best[-1] + 1}.safetensors")
    assert newest.predict(X).tobytes() == t.model.predict(X).tobytes()


def test_keep_counts_files_from_before_and_leaves_others_alone(tmp_path):
    pattern = tmp_path / "run-{step}.safetensors"
    options = {"every_steps": 4, "keep": 2}
    for name in ("run-9000.safetensors", "run-x.safetensors", "notes.txt"):
        (tmp_path / name).write_text("another's")
    trainer().fit(
        X,
        LABELS,
        **PLAN,
        max_steps=16,
        monitor="loss",
        callbacks=[rv.Checkpoint(pattern, **options)],
    )
    others = ["notes.txt", "run-9000.safetensors", "run-x.safetensors"]
    assert names(tmp_path) == sorted([*others, "run-12.safetensors", "run-16.safetensors"])
    resumed = rv.Trainer.resume(tmp_path / "run-12.safetensors")
    resumed.fit(X, LABELS, callbacks=[rv.Checkpoint(pattern, **options)])
    assert names(tmp_path) == sorted([*others, "run-12.safetensors", "run-16.safetensors"])


TERMINATED = """
import sys, ranvier as rv
sys.path.insert(0, {tests!r})
from test_resume import X, LABELS, VALIDATION, trainer
saver = rv.Checkpoint(sys.argv[1], every_epochs=10**9, on_sigterm=True)
class Ready(rv.Callback):
    def on_epoch_end(self, epoch, logs):
        if epoch == 3:
            print("ready", flush=True)
t = trainer()
t.fit(X, LABELS, epochs=10**8, batch_size=20, validation_data=VALIDATION,
      callbacks=[saver, Ready()])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGTERM"), reason="signals")
def test_sigterm_writes_a_file_that_goes_on(tmp_path):
    path = tmp_path / "run.safetensors"
    code = TERMINATED.format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.05)
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=20) == 143
    resumed = rv.Trainer.resume(path)
    assert resumed.stopped_by == "SystemExit"
    # A few epochs more, from that very step, are those of a run that was left alone.
    steps = resumed.step + 7
    whole = trainer()
    whole.fit(X, LABELS, epochs=10**8, batch_size=20, validation_data=VALIDATION, max_steps=steps)

    class Stop(rv.Callback):
        def on_train_batch_end(self, step, logs):
            return step == steps

    resumed.fit(X, LABELS, validation_data=VALIDATION, callbacks=[Stop()])
    assert state(resumed)[:-1] == state(whole)[:-1]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: rv.Checkpoint(7), "path: expected a path, got 7"),
        (lambda: rv.Checkpoint("run-{loss}"), r"path: .*the placeholder \{loss\}"),
        (lambda: rv.Checkpoint("run-{step"), "path: expected a file's name"),
        (lambda: rv.Checkpoint("run-{step:s}"), "path: expected a file's name"),
        (lambda: rv.Checkpoint("run", every_steps=0), "every_steps: .*got 0"),
        (lambda: rv.Checkpoint("run", every_epochs=-1), "every_epochs: .*got -1"),
        (lambda: rv.Checkpoint("run", keep=2), "keep: expected None for a path without"),
        (lambda: rv.Checkpoint("run-{step}", keep=0), "keep: .*got 0"),
        (lambda: rv.Checkpoint("run", best_only=1), "best_only: .*got 1"),
        (lambda: rv.Checkpoint("run", best_only=True, every_steps=1), "best_only: expected False"),
        (lambda: rv.Checkpoint("run", on_sigterm=None), "on_sigterm: .*got None"),
        (lambda: trainer().save(3), "path: expected a path, got 3"),
        (lambda: trainer().save(b"run"), "path: expected a path, got b'run'"),
    ],
)
def test_wrong_options_are_refused_by_name(make, words):
    with pytest.raises(rv.RanvierError, match=words):
        make()


def test_a_trainer_that_fits_in_another_thread_cannot_be_saved(tmp_path):
    import threading

    begun, done = threading.Event(), threading.Event()

    class Wait(rv.Callback):
        def on_epoch_end(self, epoch, logs):
            begun.set()
            done.wait(10)

    t = trainer()
    fit = threading.Thread(
        target=lambda: t.fit(X, LABELS, monitor="loss", callbacks=[Wait()]), daemon=True
    )
    fit.start()
    assert begun.wait(10)
    try:
        with pytest.raises(rv.BusyError, match="another thread"):
            t.save(tmp_path / "run.safetensors")
        # A model can: it is that of some complete step.
        t.model.save(tmp_path / "model.safetensors")
    finally:
        done.set()
        fit.join()
    assert names(tmp_path) == ["model.safetensors"]


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_file_of_the_last_step_ends_its_epoch(optimizer):
    """`max_steps` closes the epoch in progress; so does going on from a file of that very step."""
    model = rv.Sequential([rv.Dense(6, activation="tanh"), rv.Dense(4)], input_size=5)
    whole = rv.Trainer(model, loss="cross_entropy", optimizer=optimizer)
    saver, validation = SaveEach(), {"validation_data": VALIDATION}
    whole.fit(X, LABELS, epochs=5, max_steps=2, callbacks=[saver], **validation)
    for data in saver.files:
        resumed = pickle.loads(data)
        resumed.fit(X, LABELS, **validation)
        assert state(resumed) == state(whole)


CALLS = []


def share(y, output):
    """Right answers; fails when it is asked for the second time."""
    CALLS.append(len(CALLS))
    if len(CALLS) == 2:
        raise KeyboardInterrupt
    return float((np.asarray(y) == output.argmax(axis=1)).mean())


def test_a_metric_that_fails_leaves_its_epoch_to_be_ended():
    t = trainer(metrics=[share])
    CALLS.clear()
    with pytest.raises(KeyboardInterrupt):
        t.fit(X, LABELS, epochs=4, validation_data=VALIDATION, monitor="val_share")
    t = pickle.loads(pickle.dumps(t))
    t.fit(X, LABELS, validation_data=VALIDATION)
    assert t.history["epoch"] == [0, 1, 2, 3]
    assert None not in t.history["val_share"]


class Raise(rv.Callback):
    """An exception in the hook of a step, or before the first."""

    def __init__(self, step=None):
        self.step = step

    def on_train_begin(self, trainer):
        if self.step is None:
            raise ZeroDivisionError

    def on_train_batch_end(self, step, logs):
        if step == self.step:
            raise ZeroDivisionError


def test_a_fit_that_does_not_begin_leaves_the_one_before_in_progress():
    whole, t = trainer(), trainer()
    whole.fit(X, LABELS, epochs=4, batch_size=10)
    with pytest.raises(ZeroDivisionError):
        t.fit(X, LABELS, epochs=4, batch_size=10, callbacks=[Raise(5)])
    with pytest.raises(ZeroDivisionError):
        t.fit(X, LABELS, epochs=1, batch_size=50, callbacks=[Raise()])
    t = pickle.loads(pickle.dumps(t))
    with pytest.raises(ZeroDivisionError):
        t.fit(X, LABELS, callbacks=[Raise()])
    t.fit(X, LABELS)
    assert state(t)[:4] == state(whole)[:4]


def test_a_fault_in_a_block_is_an_ending_like_others():
    good = [(X[:40], LABELS[:40]), (X[40:], LABELS[40:])]

    class Torn:
        reads = 0

        def __len__(self):
            return 2

        def __getitem__(self, number):
            self.reads += 1
            return good[number] if self.reads == 1 else (X[:40] * np.nan, LABELS[:40])

    t = trainer()
    t.fit(good, epochs=2, batch_size=10)
    with pytest.raises(rv.ArgumentError, match="X of block"):
        t.fit(Torn(), epochs=5, batch_size=8)
    assert t.stopped_by == "ArgumentError"
    assert (t.epoch, t.step) == (3, 16)
    t = pickle.loads(pickle.dumps(t))
    t.fit(good)
    assert t.epoch == 7


def test_what_is_not_finite_is_not_gone_on_with():
    t = trainer(optimizer=rv.SGD(learning_rate=lambda t: 1e-3 if t < 8 else 1e39))
    with pytest.raises(ZeroDivisionError):
        t.fit(X, LABELS, epochs=9, batch_size=10, validation_data=VALIDATION, callbacks=[Raise(9)])
    assert all(np.isfinite(value).all() for value in t.model.parameters().values())
    # The best epoch is where it goes on, with the first rates.
    t.fit(X, LABELS, epochs=1, batch_size=40)
    assert all(np.isfinite(value).all() for value in t.model.parameters().values())
