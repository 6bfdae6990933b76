"""`predict` gives the bits of the plain call however it is called, and writes only results."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import ranvier as rv

INPUTS, OUTPUTS = 5, 3
DTYPES = ["float32", "float64"]
# Alone, a few, one chunk, several chunks for each of several threads.
ROWS = [1, 2, 63, 64, 256, 257, 2000]


def network(dtype="float32", width=40, inputs=INPUTS, outputs=OUTPUTS):
    layers = [rv.Dense(width, activation="tanh"), rv.LayerNorm(), rv.Dense(outputs)]
    return rv.Sequential(layers, input_size=inputs, seed=2, dtype=dtype)


def numbers(rows, cols=INPUTS, dtype="float32"):
    return np.random.default_rng(rows).standard_normal((rows, cols)).astype(dtype)


def alone(model, x):
    """Predictions of every row by itself."""
    return np.concatenate([model.predict(x[i : i + 1]) for i in range(len(x))])


@pytest.fixture(autouse=True)
def threads():
    before = rv.get_num_threads()
    yield
    rv.set_num_threads(before)


# ---------------------------------------------------------------- bits


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", ROWS)
def test_a_row_has_the_same_bits_alone_in_a_batch_in_out_and_on_any_threads(rows, dtype):
    # Wide enough that large batches are worth several threads.
    model, x = network(dtype, width=300), numbers(rows, dtype=dtype)
    expected = alone(model, x[-70:])
    for count in (1, 2, 3, 8):
        rv.set_num_threads(count)
        whole = model.predict(x)
        assert whole.dtype == dtype
        assert np.array_equal(whole[-70:], expected)
        out = np.full((rows, OUTPUTS), 7, dtype)
        assert model.predict(x, out=out) is out
        assert np.array_equal(out, whole)


def test_batches_of_falling_and_rising_size_do_not_disturb_each_other():
    model, x = network(), numbers(600)
    expected = alone(model, x)
    for rows in (600, 1, 300, 2, 600, 17, 0, 256, 1):
        assert np.array_equal(model.predict(x[:rows]), expected[:rows])


def spread(x):
    large = np.zeros((2 * len(x), 2 * x.shape[1]), x.dtype)
    large[::2, ::2] = x
    return large[::2, ::2]


def frozen(x):
    x = x.copy()
    x.flags.writeable = False
    return x


class Subclass(np.ndarray):
    def __getattribute__(self, name):
        if name == "__array_struct__":
            raise RuntimeError("a subclass may do anything")
        return super().__getattribute__(name)


FORMS = {
    "list": lambda x: x.tolist(),
    "Fortran": np.asfortranarray,
    "strided": spread,
    "reversed": lambda x: np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
    "read-only": frozen,
    "subclass": lambda x: x.view(Subclass),
    "float64": lambda x: x.astype("f8"),
    "float32": lambda x: x.astype("f4"),
    "float16": lambda x: x.astype("f2"),
    "big-endian": lambda x: x.astype(">f4"),
    "int8": lambda x: x.astype("i1"),
    "uint64": lambda x: x.astype("u8"),
    "memoryview": memoryview,
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 6, 700])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_x_gives_what_the_plain_one_gives(form, rows, dtype):
    model = network(dtype)
    plain = np.random.default_rng(0).integers(0, 9, (rows, INPUTS)).astype(dtype)
    expected = model.predict(plain)
    out = np.empty_like(expected)
    assert np.array_equal(model.predict(FORMS[form](plain)), expected)
    assert model.predict(FORMS[form](plain), out=out) is out
    assert np.array_equal(out, expected)


def test_a_stretched_row_is_read_as_it_shows():
    model, x = network(), numbers(1)
    expected = np.repeat(model.predict(x), 500, axis=0)
    assert np.array_equal(model.predict(np.broadcast_to(x, (500, INPUTS))), expected)


def test_no_rows_give_no_rows():
    model = network()
    for x in (np.empty((0, INPUTS), "f4"), np.empty((0, INPUTS)), np.empty((INPUTS, 0), "f4").T):
        assert model.predict(x).shape == (0, OUTPUTS)
        out = np.empty((0, OUTPUTS), "f4")
        assert model.predict(x, out=out) is out


# ---------------------------------------------------------------- out


class Plain(np.ndarray):
    pass


def test_out_may_be_part_of_a_larger_array_a_subclass_or_a_file(tmp_path):
    model, x = network(), numbers(4)
    expected = model.predict(x)
    table = np.zeros((10, OUTPUTS), "f4")
    assert np.array_equal(model.predict(x, out=table[3:7]), expected)
    assert np.array_equal(table[3:7], expected)
    assert not table[:3].any()
    assert not table[7:].any()
    subclass = np.zeros((4, OUTPUTS), "f4").view(Plain)
    assert model.predict(x, out=subclass) is subclass
    assert np.array_equal(np.asarray(subclass), expected)
    file = np.memmap(tmp_path / "out.bin", "f4", mode="w+", shape=(4, OUTPUTS))
    assert model.predict(x, out=file) is file
    assert np.array_equal(np.fromfile(tmp_path / "out.bin", "f4").reshape(4, -1), expected)


def unaligned(shape):
    memory = np.zeros(4 * shape[0] * shape[1] + 1, np.uint8)
    return memory[1:].view("f4").reshape(shape)


REFUSED = {
    "a list": (lambda: [[0.0] * OUTPUTS] * 4, rv.DTypeError, "list"),
    "a number": (lambda: 3.0, rv.DTypeError, "float"),
    "masked": (lambda: np.ma.zeros((4, OUTPUTS), "f4"), rv.DTypeError, "MaskedArray"),
    "float64": (lambda: np.zeros((4, OUTPUTS)), rv.DTypeError, "f8"),
    "integers": (lambda: np.zeros((4, OUTPUTS), "i4"), rv.DTypeError, "i4"),
    "big-endian": (lambda: np.zeros((4, OUTPUTS), ">f4"), rv.DTypeError, ">f4"),
    "fewer rows": (lambda: np.zeros((3, OUTPUTS), "f4"), rv.ShapeError, r"\(3, 3\)"),
    "more columns": (lambda: np.zeros((4, OUTPUTS + 1), "f4"), rv.ShapeError, r"\(4, 4\)"),
    "one dimension": (lambda: np.zeros(4 * OUTPUTS, "f4"), rv.ShapeError, r"\(12,\)"),
    "Fortran": (lambda: np.zeros((4, OUTPUTS), "f4", "F"), rv.ArgumentError, "not C-contiguous"),
    "strided": (lambda: np.zeros((8, OUTPUTS), "f4")[::2], rv.ArgumentError, "not C-contiguous"),
    "read-only": (lambda: frozen(np.zeros((4, OUTPUTS), "f4")), rv.ArgumentError, "not writable"),
    "unaligned": (lambda: unaligned((4, OUTPUTS)), rv.ArgumentError, "not aligned"),
}


@pytest.mark.parametrize("out", REFUSED)
def test_another_out_is_refused_by_name_and_left_alone(out):
    make, error, got = REFUSED[out]
    value, untouched = make(), make()
    for x in (numbers(4), numbers(4).tolist()):
        with pytest.raises(error, match=f"^out: expected .*{got}"):
            network().predict(x, out=value)
        assert np.array_equal(np.asarray(value), np.asarray(untouched))


def test_out_is_left_alone_when_x_is_refused():
    out = np.full((4, OUTPUTS), 7, "f4")
    refused = [numbers(4, INPUTS + 1), numbers(4)[0], np.array([["a"] * INPUTS] * 4), None]
    for x in refused:
        with pytest.raises(rv.RanvierError, match=r"^X: "):
            network().predict(x, out=out)
        with pytest.raises(rv.RanvierError, match=r"^X: "):
            network().predict(x)
    with pytest.raises(rv.NotFittedError):
        rv.Sequential([rv.Dense(OUTPUTS)]).predict(numbers(4), out=out)
    assert (out == 7).all()


@pytest.mark.parametrize("rows", [1, 40, 900])
def test_out_may_share_memory_with_x(rows):
    """As if X had been read before the first result is written."""
    model = network(inputs=3, outputs=3)
    for shift in (-3, -1, 0, 1, 2, 3 * rows):
        memory = numbers(3 * rows + 1, 3).ravel()
        start = 3 * rows if shift < 0 else 0
        x = memory[start : start + 3 * rows].reshape(rows, 3)
        out = memory[start + shift :][: 3 * rows].reshape(rows, 3)
        expected = model.predict(x.copy())
        assert model.predict(x, out=out) is out
        assert np.array_equal(out, expected)
    x = numbers(rows, 3)
    expected = model.predict(x[::-1].copy())
    assert np.array_equal(model.predict(x[::-1], out=x), expected)


def test_predictions_are_the_callers_own():
    model, x = network(), numbers(3)
    first = model.predict(x)
    kept = first.copy()
    second = model.predict(x)
    second[...] = 0
    assert np.array_equal(first, kept)
    assert first.flags.owndata


# ---------------------------------------------------------------- threads


@pytest.mark.parametrize("rows", [1, 50, 3000])
def test_many_threads_predict_at_once(rows):
    model, x = network(), numbers(rows)
    expected = model.predict(x)

    def run(number):
        out = np.empty_like(expected)
        for _ in range(2000 // rows + 3):
            if not np.array_equal(model.predict(x), expected):
                return False
            model.predict(x, out=out)
        return np.array_equal(out, expected)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run, range(8)))


class Predicting(rv.Callback):
    """Predicts from inside the fit."""

    def __init__(self, model, x):
        self.model, self.x = model, x

    def on_train_batch_end(self, step, logs):
        self.model.predict(self.x)


def test_every_prediction_during_a_fit_sees_the_state_after_one_step():
    """All rows are one row, so that a change between two of them would show."""
    model = network(width=200)
    x, y = numbers(512), numbers(512, OUTPUTS)
    ended = threading.Event()

    def run(rows):
        stretched = np.repeat(x[:1], rows, axis=0)
        states = set()
        while not ended.is_set():
            found = model.predict(stretched)
            if not np.isfinite(found).all() or (found != found[0]).any():
                return None
            states.add(found[0].tobytes())
        return states

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(run, rows) for rows in (1, 1, 30, 5000)]
        try:
            trainer = rv.Trainer(model, loss="mse", optimizer="adam")
            trainer.fit(x, y, epochs=20, batch_size=16, callbacks=[Predicting(model, x[:1])])
        finally:
            ended.set()
        states = [future.result(60) for future in running]
    assert all(states)
    assert max(map(len, states)) > 1
    assert np.array_equal(model.predict(x)[:70], alone(model, x[:70]))


def test_a_copy_and_other_models_predict_by_themselves():
    one, other = network(), network(width=7)
    twin = one.copy()
    x = numbers(300)
    expected = [model.predict(x) for model in (one, other)]
    one.set_parameters({"0.bias": np.ones(40)})
    assert not np.array_equal(one.predict(x), expected[0])
    assert np.array_equal(twin.predict(x), expected[0])
    assert np.array_equal(other.predict(x), expected[1])
