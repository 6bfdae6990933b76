"""Forks, process pools, threads, and what importing ranvier does and does not do."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

import ranvier as rv

INPUTS, ROWS = 130, 257
_rng = np.random.default_rng(0)
X = _rng.normal(size=(ROWS, INPUTS)).astype("f4")
Y = X[:, :3] ** 2
LIMIT = 30  # seconds; a hang is a failure

# Python warns (rightly) that forking a process with threads is dangerous; that is the test.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")


def network(seed=0):
    layers = [rv.Dense(256, activation="relu"), rv.Dropout(0.1), rv.Dense(130), rv.Dense(3)]
    return rv.Sequential(layers, input_size=INPUTS, seed=seed)


def bits(model):
    return b"".join(v.tobytes() for v in model.parameters().values())


def work(seed=0, threads=2):
    """Trains and predicts with products large enough for several threads."""
    rv.set_num_threads(threads)
    model = network(seed)
    rv.Trainer(model, loss="mse").fit(X, Y, epochs=2, batch_size=128)
    return bits(model) + model.predict(X).tobytes()


def predict_with(parameters):
    rv.set_num_threads(2)
    model = network()
    model.set_parameters(parameters)
    return model.predict(X).tobytes()


@pytest.fixture(autouse=True)
def threads_as_before():
    before = rv.get_num_threads()
    yield
    rv.set_num_threads(before)


def in_a_fork(function):
    """What `function` returns in a forked child, as bytes; None after LIMIT seconds."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            signal.alarm(LIMIT)
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(function())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        result = pipe.read()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "the child hung or failed"
    return result


# ---------------------------------------------------------------- fork


def test_a_fork_of_a_process_that_has_trained_trains_alike():
    expected = work()
    for _ in range(3):
        assert in_a_fork(work) == expected
    assert work() == expected


def test_a_forked_child_uses_the_parents_model_and_trainer():
    rv.set_num_threads(2)
    model = network()
    trainer = rv.Trainer(model, loss="mse")
    trainer.fit(X, Y, batch_size=128)

    def go_on():
        trainer.fit(X, Y, batch_size=128)
        return bits(model) + model.predict(X).tobytes()

    found = [in_a_fork(go_on) for _ in range(2)]
    assert trainer.epoch == 1
    assert [go_on()] * 2 == found


def test_a_fork_of_a_fork_of_a_fork():
    expected = work()
    assert in_a_fork(lambda: in_a_fork(lambda: work() and in_a_fork(work))) == expected


def test_a_fork_inside_a_hook_can_predict_and_train():
    rv.set_num_threads(2)
    model = network()
    expected = work()
    found = []

    class Forking(rv.Callback):
        def on_epoch_end(self, epoch, logs):
            here = model.predict(X).tobytes()
            found.append(in_a_fork(lambda: model.predict(X).tobytes()) == here)
            found.append(in_a_fork(work) == expected)

    rv.Trainer(model, loss="mse").fit(X, Y, batch_size=128, callbacks=[Forking()])
    assert found == [True, True]


def test_a_fork_while_other_threads_predict():
    """The child has only the forking thread; what the others held must not matter to it."""
    rv.set_num_threads(2)
    expected = work()
    other, stop = network(), threading.Event()

    def busy():
        while not stop.is_set():
            other.predict(X)

    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            assert in_a_fork(work) == expected
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_fork_while_another_thread_trains():
    """The child has models of its own; the one in training may be locked for ever there."""
    rv.set_num_threads(2)
    model = network()
    started, stop = threading.Event(), threading.Event()

    class Watch(rv.Callback):
        def on_epoch_end(self, epoch, logs):
            started.set()
            return stop.is_set()

    def train():
        rv.Trainer(model, loss="mse").fit(X, Y, epochs=10**6, batch_size=128, callbacks=[Watch()])

    thread = threading.Thread(target=train)
    thread.start()
    try:
        assert started.wait(LIMIT)
        expected = work()
        for _ in range(5):
            assert in_a_fork(work) == expected
    finally:
        stop.set()
        thread.join()


# ---------------------------------------------------------------- process pools


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_by_every_start_method(method):
    expected = [work(seed) for seed in (0, 1)]
    model = network()
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        found = [pool.submit(work, seed) for seed in (0, 1, 0)]
        served = pool.submit(predict_with, model.parameters())
        assert [f.result(LIMIT) for f in found] == [*expected, expected[0]]
        assert served.result(LIMIT) == model.predict(X).tobytes()


def test_joblib():
    joblib = pytest.importorskip("joblib")
    expected = work()
    found = joblib.Parallel(n_jobs=2, timeout=LIMIT)(joblib.delayed(work)() for _ in range(3))
    assert found == [expected] * 3


# ---------------------------------------------------------------- threads of one process


def test_threads_predict_at_once_on_one_model():
    rv.set_num_threads(2)
    model = network()
    x = np.random.default_rng(1).normal(size=(600, INPUTS)).astype("f4")
    expected = model.predict(x)

    def serve(number):
        rows = slice(number % 7, 600 - number % 11)
        return np.array_equal(model.predict(x[rows]), expected[rows])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(serve, range(200), timeout=LIMIT))


def test_threads_use_everything_else_at_once():
    rv.set_num_threads(2)
    model = network()
    trainer = rv.Trainer(model, loss="mse")

    def use(number):
        value, gradients = model.value_and_gradient(X, Y, loss="mse")
        report = trainer.evaluate(X, Y)
        twin = model.copy()
        loss, _ = rv.losses.MSE().value_and_gradient(model.predict(X), Y)
        return value, report["loss"], bits(twin), loss, gradients["0.weight"].tobytes()

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(use, range(30), timeout=LIMIT))
    assert found == [use(0)] * 30


def test_a_small_stack_is_enough():
    found = []
    before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=lambda: found.append(work()))
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join(LIMIT)
    assert found == [work()]


def test_predicting_during_a_fit_shows_some_complete_step():
    rv.set_num_threads(2)
    x, y = X[:64], Y[:64]

    def layers():
        return [rv.Dense(64, activation="tanh"), rv.BatchNorm(), rv.Dense(3)]

    states = {}

    class Record(rv.Callback):
        def on_train_batch_end(self, step, logs):
            states[twin.predict(x).tobytes()] = step

    # First all states of the fit, then the same fit watched from another thread.
    twin = rv.Sequential(layers(), input_size=INPUTS)
    states[twin.predict(x).tobytes()] = 0
    rv.Trainer(twin, loss="mse").fit(x, y, epochs=400, batch_size=32, callbacks=[Record()])

    model = rv.Sequential(layers(), input_size=INPUTS)
    trainer = rv.Trainer(model, loss="mse")
    done, seen, parameters = threading.Event(), [], []

    def watch():
        while not done.is_set():
            seen.append(model.predict(x).tobytes())
            parameters.append(model.parameters())

    watchers = [threading.Thread(target=watch) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    trainer.fit(x, y, epochs=400, batch_size=32)
    done.set()
    for watcher in watchers:
        watcher.join()
    assert bits(model) == bits(twin)
    assert all(found in states for found in seen)
    assert len({states[found] for found in seen}) > 3
    probe = model.copy()
    for found in parameters[:: max(1, len(parameters) // 20)]:
        probe.set_parameters(found)
        assert probe.predict(x).tobytes() in states


def test_a_long_prediction_during_a_fit_is_of_one_step():
    """All rows of one call see the same parameters, however many chunks they need."""
    rv.set_num_threads(2)
    x = np.repeat(X[:1], 5000, axis=0)
    model = network()
    done = threading.Event()

    class Stop(rv.Callback):
        def on_epoch_end(self, epoch, logs):
            return done.is_set()

    def train():
        hooks = [Stop()]
        rv.Trainer(model, loss="mse").fit(X, Y, epochs=10**6, batch_size=64, callbacks=hooks)

    thread = threading.Thread(target=train)
    thread.start()
    try:
        for _ in range(10):
            out = model.predict(x)
            assert np.isfinite(out).all()
            assert (out == out[0]).all()
    finally:
        done.set()
        thread.join()


def test_the_second_fit_of_a_trainer_that_is_fitting_is_refused():
    model = network()
    trainer = rv.Trainer(model, loss="mse")
    inside, go_on = threading.Event(), threading.Event()

    class Wait(rv.Callback):
        def on_epoch_end(self, epoch, logs):
            inside.set()
            assert go_on.wait(LIMIT)

    thread = threading.Thread(target=lambda: trainer.fit(X, Y, callbacks=[Wait()]))
    thread.start()
    try:
        assert inside.wait(LIMIT)
        before = trainer.step
        begun = time.perf_counter()
        with pytest.raises(rv.BusyError, match=r"fitting already.*Trainer"):
            trainer.fit(X, Y)
        assert time.perf_counter() - begun < 1.0
        assert trainer.step == before
        assert model.predict(X).shape == (ROWS, 3)
        assert np.isfinite(trainer.evaluate(X, Y)["loss"])
    finally:
        go_on.set()
        thread.join()
    assert trainer.epoch == 1
    assert trainer.history["epoch"] == [0]
    twin = network()
    rv.Trainer(twin, loss="mse").fit(X, Y)
    assert bits(model) == bits(twin)
    trainer.fit(X, Y)


def test_two_trainers_fit_two_models_at_once():
    rv.set_num_threads(2)
    expected = [work(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, [0, 1, 2, 3], timeout=LIMIT)) == expected


def test_two_trainers_fit_one_model_at_once_step_by_step():
    """Whose step comes when is not said; that the model stays whole is."""
    rv.set_num_threads(2)
    model = network()
    trainers = [rv.Trainer(model, loss="mse", seed=seed) for seed in (0, 1)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda t: t.fit(X, Y, epochs=20, batch_size=64), trainers, timeout=LIMIT))
    assert [t.step for t in trainers] == [100, 100]
    assert all(np.isfinite(v).all() for v in model.parameters().values())
    assert (
        trainers[0].evaluate(X, Y)["loss"]
        < rv.Trainer(network(), loss="mse").evaluate(X, Y)["loss"]
    )


def test_changing_the_number_of_threads_while_others_work():
    expected = work()
    stop = threading.Event()

    def change():
        count = 0
        while not stop.is_set():
            count += 1
            rv.set_num_threads(1 + count % 4)
            time.sleep(0.001)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(5):
            model = network()
            rv.Trainer(model, loss="mse").fit(X, Y, epochs=2, batch_size=128)
            assert bits(model) + model.predict(X).tobytes() == expected
    finally:
        stop.set()
        thread.join()


# ---------------------------------------------------------------- importing


def python(code, **environment):
    """What the code prints as JSON in a process of its own."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RANVIER_", "OMP_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_nothing_starts_at_import_or_for_small_work():
    found = python(
        """
        import json, os
        count = lambda: len(os.listdir("/proc/self/task"))
        import numpy as np
        counts = [count()]
        import ranvier as rv
        counts.append(count())
        rv.get_num_threads(), rv.config()
        model = rv.Sequential([rv.Dense(8), rv.Dense(1)], input_size=4)
        model.predict(np.zeros((3, 4)))
        model.fit(np.zeros((9, 4)), np.zeros(9), loss="mse")
        counts.append(count())
        rv.set_num_threads(3)
        counts.append(count())
        model = rv.Sequential([rv.Dense(400), rv.Dense(400)], input_size=400)
        model.predict(np.zeros((400, 400)))
        counts.append(count())
        print(json.dumps(counts))
        """
    )
    before, imported, small, chosen, large = found
    assert before == imported == small == chosen
    assert large == before + 2


def test_one_thread_starts_none():
    found = python(
        """
        import json, os
        import numpy as np, ranvier as rv
        before = len(os.listdir("/proc/self/task"))
        model = rv.Sequential([rv.Dense(400), rv.Dense(400)], input_size=400)
        model.fit(np.zeros((400, 400)), np.zeros((400, 400)), loss="mse", batch_size=400)
        print(json.dumps(len(os.listdir("/proc/self/task")) - before))
        """,
        RANVIER_NUM_THREADS="1",
    )
    assert found == 0


def test_importing_brings_nothing_but_numpy():
    found = python(
        """
        import json, sys
        import numpy
        alone = set(sys.modules)
        import ranvier
        new = {name.split(".")[0] for name in set(sys.modules) - alone}
        print(json.dumps(sorted(new - set(sys.stdlib_module_names))))
        """
    )
    assert set(found) <= {"numpy", "ranvier"}


def test_importing_the_reference_alone_needs_no_numpy_of_its_own():
    found = python(
        """
        import json, sys
        from ranvier import reference
        print(json.dumps([n for n in vars(reference) if n in ("np", "numpy", "_core")]))
        """
    )
    assert found == []


def test_importing_writes_and_warns_nothing_and_leaves_signals_alone():
    found = python(
        """
        import json, signal, sys, os
        before = [signal.getsignal(n) for n in signal.valid_signals()]
        files = len(os.listdir("/proc/self/fd"))
        import ranvier
        same = before == [signal.getsignal(n) for n in signal.valid_signals()]
        print(json.dumps([same, len(os.listdir("/proc/self/fd")) - files]))
        """
    )
    assert found == [True, 0]


def test_the_process_ends_while_helpers_sleep_or_work():
    found = python(
        """
        import json, threading, time
        import numpy as np, ranvier as rv
        rv.set_num_threads(4)
        model = rv.Sequential([rv.Dense(400), rv.Dense(400)], input_size=400)
        x = np.zeros((400, 400))
        def busy():
            while True:
                model.predict(x)
        for _ in range(3):
            threading.Thread(target=busy, daemon=True).start()
        time.sleep(0.2)
        print(json.dumps("done"))
        """
    )
    assert found == "done"
