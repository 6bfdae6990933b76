"""Data in blocks: what an epoch sees, in what order, and what is in memory meanwhile."""

import gc
import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest

import ranvier as rv
from conftest import Follow
from ranvier import reference
from test_resume import SaveEach

_rng = np.random.default_rng(0)
X = _rng.normal(size=(103, 5))
Y = X[:, 0] ** 2
LABELS = (X[:, 0] > 0) + 2 * (X[:, 1] > 1)
CUTS = [0, 40, 41, 73, 103]


def blocks(*arrays):
    """Four blocks, of 40, 1, 32 and 30 rows."""
    return [
        tuple(array[first:last] for array in arrays) for first, last in itertools.pairwise(CUTS)
    ]


class Again:
    """Blocks that can only be iterated."""

    def __init__(self, source):
        self.source = source

    def __iter__(self):
        return iter(self.source)


def trainer(loss="mse", outputs=1, **options):
    layers = [rv.Dense(20, activation="tanh"), rv.Dropout(0.2), rv.Dense(outputs)]
    model = rv.Sequential(layers, seed=3)
    return rv.Trainer(model, loss=loss, seed=7, **options)


def state(t):
    history = {name: column for name, column in t.history.items() if name != "seconds"}
    return [value.tobytes() for value in t.model.parameters().values()], repr(history)


# ---------------------------------------------------------------- the order


@pytest.mark.parametrize("options", [{}, {"shuffle": False}, {"accumulate": 3}], ids=str)
def test_one_block_has_the_bits_of_the_arrays(options):
    whole, single = trainer(), trainer()
    whole.fit(X, Y, epochs=5, batch_size=8, **options)
    single.fit([(X, Y)], epochs=5, batch_size=8, **options)
    assert state(whole) == state(single)


class Order(rv.Callback):
    """The rows that a network without parameters has seen, step by step."""

    def __init__(self):
        self.follow = Follow()

    def fit(self, source, **options):
        model = rv.Sequential([rv.Activation("identity")], input_size=1)
        t = rv.Trainer(model, loss=self.follow, seed=9)
        t.fit(source, **options)
        return [output[:, 0].astype(int).tolist() for output in self.follow.outputs]


NUMBERS = np.arange(103.0)[:, np.newaxis]


def test_an_epoch_shuffles_the_blocks_and_then_the_rows_of_each():
    steps = Order().fit(blocks(NUMBERS, NUMBERS), epochs=3, batch_size=16)
    expected = []
    for epoch in range(3):
        order = reference.random.permutation(
            4, seed=9, epoch=epoch, purpose=reference.random.BLOCKS
        )
        for place, number in enumerate(order):
            count = CUTS[number + 1] - CUTS[number]
            rows = reference.random.permutation(count, seed=9, epoch=epoch, block=place)
            rows = [CUTS[number] + row for row in rows]
            expected += [rows[first : first + 16] for first in range(0, count, 16)]
    assert steps == expected
    first = itertools.chain.from_iterable(steps[: len(steps) // 3])
    assert sorted(first) == list(range(103))


def test_without_a_shuffle_and_without_numbers_blocks_keep_their_order():
    steps = Order().fit(blocks(NUMBERS, NUMBERS), shuffle=False, batch_size=40)
    assert steps == [list(range(a, b)) for a, b in itertools.pairwise(CUTS)]
    steps = Order().fit(Again(blocks(NUMBERS, NUMBERS)), epochs=2, batch_size=99)
    assert [sorted(step) for step in steps] == [
        list(range(a, b)) for a, b in itertools.pairwise(CUTS)
    ] * 2


def test_the_bits_do_not_depend_on_the_threads():
    results, threads = [], rv.get_num_threads()
    x = _rng.normal(size=(600, 200))
    source = [(x[:350], x[:350, :130]), (x[350:], x[350:, :130])]
    try:
        for count in (1, 2):
            rv.set_num_threads(count)
            model = rv.Sequential([rv.Dense(300, activation="gelu"), rv.Dense(130)], seed=1)
            t = rv.Trainer(model, loss="mse")
            t.fit(source, epochs=2, batch_size=128)
            results.append(state(t))
    finally:
        rv.set_num_threads(threads)
    assert results[0] == results[1]


# ---------------------------------------------------------------- going on


@pytest.mark.parametrize("kind", [list, Again])
def test_a_run_goes_on_from_any_step_of_any_block(kind):
    source, validation = kind(blocks(X, Y)), kind(blocks(X[::-1], Y[::-1]))
    saver, whole = SaveEach(), trainer()
    options = {"epochs": 3, "batch_size": 16}
    whole.fit(source, validation_data=validation, callbacks=[saver], **options)
    assert len(saver.files) == whole.step == 3 * 8
    for data in saver.files:
        resumed = pickle.loads(data)
        resumed.fit(source, validation_data=validation)
        assert state(resumed) == state(whole)
    resumed = pickle.loads(saver.files[0])
    with pytest.raises(rv.ArgumentError, match="expected the data of the fit in the file"):
        resumed.fit(kind(blocks(X + 1, Y)), validation_data=validation)


def test_fits_of_n_and_m_epochs_are_one_of_n_plus_m():
    once, twice = trainer(), trainer()
    once.fit(blocks(X, Y), epochs=5)
    for epochs in (2, 3):
        twice.fit(blocks(X, Y), epochs=epochs)
    assert state(once) == state(twice)


# ---------------------------------------------------------------- everything else of a fit


def test_validation_and_evaluation_of_blocks_are_those_of_the_arrays():
    whole, parts = trainer(), trainer()
    for t, validation in [(whole, (X[::-1], Y[::-1])), (parts, blocks(X[::-1], Y[::-1]))]:
        t.fit(X, Y, epochs=3, validation_data=validation)
    np.testing.assert_allclose(parts.history["val_loss"], whole.history["val_loss"], rtol=1e-6)
    assert parts.evaluate(blocks(X, Y))["loss"] == pytest.approx(whole.evaluate(X, Y)["loss"])


def test_metrics_weights_and_class_weights_work_on_blocks():
    def share(y, output):
        return float((np.asarray(y) == output.argmax(axis=1)).mean())

    weight = 1.0 + np.arange(103) % 3
    options = {"loss": "cross_entropy", "outputs": 4, "metrics": ["accuracy", "roc_auc", share]}
    t = trainer(**options)
    t.fit(
        blocks(X, LABELS, weight),
        epochs=3,
        validation_data=blocks(X, LABELS, weight),
        class_weight={0: 2.0},
        monitor="val_share",
    )
    weight = np.where(LABELS == 0, 2.0 * weight, weight)
    expected = t.evaluate(X, LABELS, weight)
    best = t.best_epoch
    assert t.history["val_accuracy"][best] == pytest.approx(expected["accuracy"])
    assert t.history["val_roc_auc"][best] == pytest.approx(expected["roc_auc"])
    assert t.history["val_share"][best] == expected["share"] == t.best_value
    assert t.evaluate(blocks(X, LABELS, weight)) == pytest.approx(expected)


def test_a_loss_of_ones_own_sees_the_targets_of_its_block():
    class Squares:
        def value_and_gradient(self, output, target, sample_weight=None):
            error = output - target.reshape(output.shape)
            return float((error**2).mean()), 2 * error / error.size

    results = []
    for loss in ("mse", Squares()):
        t = trainer(loss)
        t.fit(blocks(X, Y), epochs=4, batch_size=16, validation_data=blocks(X, Y))
        results.append((t.history["loss"], t.history["val_loss"]))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5)


def test_blocks_without_rows_and_without_weight_are_passed_over():
    empty, weight = (X[:0], Y[:0]), np.zeros(40)
    plain, gaps = trainer(), trainer()
    plain.fit(blocks(X, Y), epochs=2, shuffle=False)
    first, *rest = blocks(X, Y)
    gaps.fit([empty, first, empty, *rest, empty], epochs=2, shuffle=False)
    assert state(plain) == state(gaps)
    t = trainer()
    t.fit([(X[:40], Y[:40], weight), (X, Y, np.ones(103))], epochs=2, batch_size=103)
    assert t.step == 2
    with pytest.raises(rv.ArgumentError, match="X: expected blocks with a row of positive weight"):
        trainer().fit([(X[:40], Y[:40], weight)])


def test_blocks_may_have_different_kinds_of_targets():
    one_hot = np.eye(4)[LABELS]
    mixed = [(X[:50], LABELS[:50]), (X[50:], one_hot[50:], np.ones(53))]
    alike = [(X[:50], LABELS[:50]), (X[50:], LABELS[50:])]
    results = []
    for source in (mixed, alike):
        t = trainer("cross_entropy", 4)
        t.fit(source, epochs=3, shuffle=False)
        results.append(t.history["loss"])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6)


def test_steps_and_time_end_a_fit_within_a_block():
    t = trainer()
    t.fit(blocks(X, Y), epochs=9, batch_size=16, max_steps=2)
    assert (t.step, t.stopped_by, len(t.history["loss"])) == (2, "max_steps", 1)
    t.fit(blocks(X, Y), epochs=9, batch_size=16, max_time=0.0)
    assert (t.step, t.stopped_by) == (3, "max_time")


# ---------------------------------------------------------------- memory, threads


class Watched:
    """Blocks that say how many of them are alive and which thread has read them."""

    def __init__(self, count, rows=64):
        self.count, self.rows = count, rows
        self.alive, self.most, self.reads, self.threads = 0, 0, 0, set()
        self.read = threading.Event()

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        x = np.random.default_rng(number).normal(size=(self.rows, 5))
        self.alive += 1
        weakref.finalize(x, self.end)
        self.most = max(self.most, self.alive)
        self.reads += 1
        self.threads.add(threading.current_thread().name)
        self.read.set()
        return x, x[:, 0]

    def end(self):
        self.alive -= 1


def test_the_next_block_is_read_while_this_one_is_trained_on():
    source, seen = Watched(6), []

    class Wait(rv.Callback):
        def on_train_batch_end(self, step, logs):
            # With the block in training the next one is read, without anybody asking for it.
            wanted = min(step + 2, 7)
            begun = time.monotonic()
            while source.reads < wanted and time.monotonic() - begun < 20:
                time.sleep(0.001)
            seen.append(source.reads)

    trainer().fit(source, batch_size=64, callbacks=[Wait()])
    # The first block is looked at before the fit.
    assert seen == [3, 4, 5, 6, 7, 7]


def test_two_blocks_are_in_memory_at_most():
    source = Watched(40)
    gc.disable()
    try:
        trainer().fit(source, epochs=3, validation_data=[source[0]])
    finally:
        gc.enable()
    # Those, and the one that validates.
    assert source.most <= 3
    gc.collect()
    assert source.alive == 0


def test_no_thread_stays_behind():
    before = threading.active_count()
    source = Watched(3)
    trainer().fit(source, epochs=2)
    begun = time.monotonic()
    while threading.active_count() > before and time.monotonic() - begun < 10:
        time.sleep(0.01)
    assert threading.active_count() == before
    assert any(name.startswith("ranvier-blocks") for name in source.threads)


def test_a_fault_of_the_source_is_raised_as_it_is():
    class Torn(Watched):
        def __getitem__(self, number):
            if number == 2:
                raise OSError(5, "Input/output error")
            return super().__getitem__(number)

    t = trainer()
    with pytest.raises(OSError, match="Input/output error") as caught:
        t.fit(Torn(4), shuffle=False, epochs=3)
    assert caught.value.errno == 5
    assert t.step == 4
    assert t.stopped_by == "OSError"
    t.fit(Watched(4), epochs=1)
    assert t.stopped_by == "epochs"


def test_ctrl_c_is_heard_while_a_block_is_awaited():
    class Slow(Watched):
        def __getitem__(self, number):
            if self.reads:
                time.sleep(3)
            return super().__getitem__(number)

    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        trainer().fit(Slow(4), epochs=3)
    assert time.monotonic() - begun < 2.0


CHILD = """
import sys, resource, numpy as np, ranvier as rv
class Source:
    def __init__(self, count): self.count = count
    def __len__(self): return self.count
    def __getitem__(self, number):
        x = np.random.default_rng(number).normal(size=(20000, 50)).astype(np.float32)
        return x, x[:, 0]
t = rv.Trainer(rv.Sequential([rv.Dense(8), rv.Dense(1)]), loss="mse")
t.fit(Source(3), batch_size=512)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
t.fit(Source(int(sys.argv[1])), batch_size=512)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_number_of_blocks():
    command = [sys.executable, "-c", CHILD, "60"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    # 60 blocks of 4 MB are 240 MB.
    assert int(done.stdout) * 1024 < 16e6


# ---------------------------------------------------------------- wrong sources


@pytest.mark.parametrize(
    ("source", "kind", "words"),
    [
        ((block for block in blocks(X, Y)), rv.DTypeError, "X: expected blocks that can be read"),
        ([], rv.ShapeError, "X: expected blocks with at least one row, got none"),
        ([(X[:0], Y[:0])], rv.ShapeError, "X: expected blocks with at least one row, got none"),
        (
            [X],
            rv.DTypeError,
            r"X: expected \(X, y\) or \(X, y, weight\) .*, got ndarray as block 0",
        ),
        ([(X,)], rv.DTypeError, "X: expected .*, got 1 parts as block 0"),
        ([(X, Y[:3])], rv.ShapeError, "y of block 0: expected 103 rows"),
        ([(X, Y), (X[:, 1:], Y)], rv.ShapeError, "X of block 1: expected 5 features"),
        ([(X, Y), (X, Y, -Y)], rv.ArgumentError, "sample_weight of block 1: expected finite"),
        ([(X, Y), (X * np.nan, Y)], rv.ArgumentError, "X of block 1: expected finite numbers"),
        (X, rv.DTypeError, "y: expected targets"),
        ("data.csv", rv.DTypeError, "X: expected arrays or a source of blocks, got a path"),
        ({"X": X}, rv.DTypeError, "y: expected targets"),
        (7, rv.DTypeError, "X: expected a source of blocks \\(X, y\\), got 7"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_source_is_named(source, kind, words):
    t = trainer()
    with pytest.raises(rv.RanvierError, match=words) as caught:
        t.fit(source, shuffle=False)
    assert type(caught.value) is kind


def test_an_evaluation_names_what_it_was_given():
    t = trainer()
    t.fit(X, Y)
    with pytest.raises(rv.ArgumentError, match=r"^X of block 1: expected finite"):
        t.evaluate([(X, Y), (X * np.nan, Y)])
    with pytest.raises(rv.ArgumentError, match=r"^X: expected blocks with a row of positive"):
        t.evaluate([(X, Y, np.zeros(103))])
    with pytest.raises(rv.ArgumentError, match=r"^validation_data: expected blocks with a row"):
        t.fit(X, Y, validation_data=[(X, Y, np.zeros(103))])


def test_options_that_need_all_rows_are_refused():
    refusals = {
        "validation_split: expected 0": {"validation_split": 0.1},
        "sample_weight: expected None": {"sample_weight": np.ones(103)},
        "class_weight: expected weights by class": {"class_weight": "balanced"},
    }
    for words, options in refusals.items():
        t = trainer("cross_entropy", 4)
        with pytest.raises(rv.ArgumentError, match=words):
            t.fit(blocks(X, LABELS), **options)
        assert t.model.input_size is None
    with pytest.raises(rv.ArgumentError, match="y: expected the targets of all"):
        rv.fit_many([rv.Sequential([rv.Dense(1)])], blocks(X, Y), None, loss="mse")
    with pytest.raises(rv.DTypeError, match="validation_data: expected"):
        trainer().fit(X, Y, validation_data=X)
