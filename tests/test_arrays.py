"""Whatever NumPy can describe either gives the bits of the plain array, or is refused by name.

"Plain" is the C-contiguous array of the model's dtype. No input is ever modified.
"""

import array
import json
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import ranvier as rv

ROWS, INPUTS, OUTPUTS = 9, 3, 2
DTYPES = ["float32", "float64"]
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
OPERATIONS = ["fit", "predict", "value_and_gradient", "evaluate", "loss"]

# Small integers, so that every dtype holds them exactly; the first column is 0 or 1.
_rng = np.random.default_rng(0)
X = np.column_stack([_rng.integers(0, 2, ROWS), _rng.integers(0, 100, (ROWS, INPUTS - 1))]) * 1.0
Y = _rng.integers(0, 100, (ROWS, OUTPUTS)) * 1.0
W = _rng.integers(1, 10, ROWS) * 1.0
WIDE = {"X": INPUTS, "y": OUTPUTS}


def network(dtype="float32", outputs=OUTPUTS, inputs=INPUTS):
    layers = [rv.Dense(5, activation="tanh"), rv.Dense(outputs)]
    return rv.Sequential(layers, input_size=inputs, seed=3, dtype=dtype)


def flat(*arrays):
    """Dtype, shape and bytes of everything."""
    made = [np.asarray(a) for a in arrays]
    return [(a.dtype.str, a.shape, a.tobytes()) for a in made]


def operate(operation, X, y, weight, dtype="float32", loss="mse", outputs=OUTPUTS):
    """Everything that an operation returns or changes, as bytes."""
    if operation == "loss":
        return flat(*rv.losses.get(loss).value_and_gradient(X, y, weight))
    model = network(dtype, outputs)
    trainer = rv.Trainer(model, loss=loss, optimizer=rv.SGD(learning_rate=1e-3))
    if operation == "fit":
        history = trainer.fit(X, y, epochs=2, batch_size=4, sample_weight=weight)
        return flat(history["loss"], *model.parameters().values())
    if operation == "predict":
        return flat(model.predict(X))
    if operation == "evaluate":
        return flat(*trainer.evaluate(X, y, sample_weight=weight).values())
    value, gradients = model.value_and_gradient(X, y, loss=loss, sample_weight=weight)
    return flat(value, gradients.d_input, *gradients.values())


def arguments(operation, **changed):
    """X, y and sample_weight for an operation, some replaced; a loss takes outputs for X."""
    given = {"X": X[:, :OUTPUTS] if operation == "loss" else X, "y": Y, "weight": W, **changed}
    return given["X"], given["y"], given["weight"]


def named(operation, argument):
    """What the message calls the argument."""
    if operation == "loss":
        return {"X": "output", "y": "target", "weight": "sample_weight"}[argument]
    return {"X": "X", "y": "y", "weight": "sample_weight"}[argument]


def takes(operation, argument):
    return operation != "predict" or argument == "X"


# ---------------------------------------------------------------- what is taken


class WithArray:
    """Something that is an array only when asked."""

    def __init__(self, value):
        self.value = value

    def __array__(self, dtype=None, copy=None):
        return np.array(self.value, dtype=dtype)


class Subclass(np.ndarray):
    """An array whose arithmetic lies."""

    def __getitem__(self, item):
        raise RuntimeError("a subclass may do anything")

    def astype(self, *args, **kwargs):
        raise RuntimeError("a subclass may do anything")


def misaligned(a):
    memory = np.zeros(a.nbytes + 1, np.uint8)[1:]
    view = memory.view(a.dtype).reshape(a.shape)
    view[...] = a
    assert not view.flags.aligned
    return view


def field(a):
    """A field of packed records: strides that are no multiple of the item."""
    records = np.zeros(a.shape, [("pad", "u1"), ("value", a.dtype)])
    records["value"] = a
    return records["value"]


def strided(a):
    """Every second element of every axis of something larger."""
    large = np.full([2 * n + 1 for n in a.shape], 77.0)
    view = large[tuple(slice(1, 2 * n, 2) for n in a.shape)]
    view[...] = a
    return view


def readonly(a):
    copy = a.copy()
    copy.flags.writeable = False
    return copy


def reversed_view(a):
    index = (slice(None, None, -1),) * a.ndim
    return np.ascontiguousarray(a[index])[index]


def from_memmap(a, path):
    file = path / "array.bin"
    a.tofile(file)
    return np.memmap(file, a.dtype, mode="r", shape=a.shape)


def nested_tuples(a):
    return tuple(map(tuple, a.tolist())) if a.ndim == 2 else tuple(a.tolist())


VIEWS = {
    "list": lambda a: a.tolist(),
    "tuples": nested_tuples,
    "list of arrays": list,
    "list of numbers of NumPy": lambda a: [list(row) if a.ndim == 2 else row for row in a],
    "Fortran": np.asfortranarray,
    "strided": strided,
    "reversed": reversed_view,
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "read-only": readonly,
    "misaligned": misaligned,
    "field": field,
    "subclass": lambda a: a.view(Subclass),
    "masked, no mask": np.ma.array,
    "masked, nothing": lambda a: np.ma.array(a, mask=np.zeros(a.shape, bool)),
    "__array__": WithArray,
    "memoryview": memoryview,
    "float16": lambda a: a.astype("f2"),
    "longdouble": lambda a: a.astype(np.longdouble),
    "big-endian f2": lambda a: a.astype(">f2"),
    "big-endian f8": lambda a: a.astype(">f8"),
    "big-endian i2": lambda a: a.astype(">i2"),
    "big-endian u8": lambda a: a.astype(">u8"),
    "misaligned float16": lambda a: misaligned(a.astype("f2")),
    "strided longdouble": lambda a: strided(a).astype(np.longdouble)[::1],
    "Python integers": lambda a: a.astype(int).tolist(),
    "integers and floats": lambda a: [
        [int(v) if i % 2 else v for i, v in enumerate(np.atleast_1d(row))]
        if a.ndim == 2
        else int(row)
        for row in a.tolist()
    ],
} | {name: (lambda a, name=name: a.astype(name)) for name in [*INTEGERS, "longlong", "ulonglong"]}

FRAMES = {
    "matrix": np.asmatrix,
    "frame": pd.DataFrame,
    "frame of integers": lambda a: pd.DataFrame(a.astype("int32")),
    "frame of mixed columns": lambda a: pd.DataFrame(
        {
            f"c{j}": a[:, j].astype(kind)
            for j, kind in zip(range(a.shape[1]), ["i8", "i2", "f4"], strict=False)
        }
    ),
    "frame with an index": lambda a: pd.DataFrame(a, index=range(100, 100 - len(a), -1)),
    "frame in pieces": lambda a: pd.DataFrame(np.repeat(a, 2, axis=0)).iloc[::2],
    "frame with names of attributes": lambda a: pd.DataFrame(
        a, columns=["toarray", "dtype", "shape"][: a.shape[1]]
    ),
}
SERIES = {
    "Series": pd.Series,
    "Series with an index": lambda a: pd.Series(a, index=range(50, 50 - len(a), -1)),
    "Series of Int64": lambda a: pd.Series(a.astype(int), dtype="Int64"),
    "Index": lambda a: pd.Index(a),
    "array.array": lambda a: array.array("d", a),
    "range": None,
}


@pytest.mark.parametrize("argument", ["X", "y", "weight"])
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_view_gives_the_bits_of_the_plain_array(operation, view, argument):
    if not takes(operation, argument):
        return
    original = dict(zip(["X", "y", "weight"], arguments(operation), strict=True))[argument]
    value = VIEWS[view](original)
    before = np.array(value, copy=True).tobytes() if view != "__array__" else b""
    for dtype in ["float64"] if operation == "loss" else DTYPES:
        expected = operate(operation, *arguments(operation, **{argument: original.astype(dtype)}))
        got = operate(operation, *arguments(operation, **{argument: value}))
        assert got == expected
    if before:
        assert np.array(value, copy=True).tobytes() == before


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_matrices_and_frames_give_the_bits_of_the_plain_array(operation, frame):
    for argument in ("X", "y"):
        if takes(operation, argument):
            original = arguments(operation)["Xy".index(argument)]
            value = FRAMES[frame](original)
            expected = operate(
                operation, *arguments(operation, **{argument: np.array(value, dtype=float)})
            )
            assert operate(operation, *arguments(operation, **{argument: value})) == expected


@pytest.mark.parametrize("series", SERIES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_one_dimensional_containers(operation, series):
    if operation == "predict":
        return
    for argument in ("y", "weight"):
        plain = np.arange(1.0, ROWS + 1)
        value = SERIES[series](plain) if SERIES[series] else range(1, ROWS + 1)
        x = X[:, :1] if operation == "loss" else X
        y, weight = (value, None) if argument == "y" else (plain, value)
        expected = operate(operation, x, plain, None if argument == "y" else plain, outputs=1)
        assert operate(operation, x, y, weight, outputs=1) == expected


def test_a_memmap_is_read_in_place(tmp_path):
    value = from_memmap(X, tmp_path)
    for operation in OPERATIONS:
        x = value[:, :OUTPUTS] if operation == "loss" else value
        assert operate(operation, x, Y, W) == operate(operation, *arguments(operation))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_booleans_are_zeros_and_ones(operation, dtype):
    x = np.arange(ROWS * INPUTS).reshape(ROWS, INPUTS) % 2 == 0
    y = np.arange(ROWS * OUTPUTS).reshape(ROWS, OUTPUTS) % 3 == 0
    w = np.arange(ROWS) % 4 != 0
    if operation == "loss":
        x = x[:, :OUTPUTS]
    expected = operate(operation, x.astype(float), y.astype(float), w.astype(float), dtype)
    assert operate(operation, x, y, w, dtype) == expected
    assert operate(operation, x.tolist(), y.tolist(), w.tolist(), dtype) == expected


@pytest.mark.parametrize("view", ["big-endian", "misaligned", "strided", "Fortran"])
def test_a_loss_keeps_float32_whatever_its_bytes(view):
    output = X[:, :OUTPUTS].astype("f4")
    value = {
        "big-endian": output.astype(">f4"),
        "misaligned": misaligned(output),
        "strided": output[::-1],
        "Fortran": np.asfortranarray(output),
    }[view]
    target = Y[::-1] if view == "strided" else Y
    got, d_output = rv.losses.MSE().value_and_gradient(value, target)
    expected, d_expected = rv.losses.MSE().value_and_gradient(np.array(value, "f4"), target)
    assert d_output.dtype.isnative
    assert flat(got, d_output) == flat(expected, d_expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i1", "i8", "?", ">f4", "g"])
def test_stretched_arrays_are_read_as_what_they_show(kind, dtype):
    stretched = [
        np.broadcast_to(np.ones((), kind), (ROWS, INPUTS)),
        np.broadcast_to(X[:1].astype(kind), (ROWS, INPUTS)),
        np.broadcast_to(X[:, :1].astype(kind), (ROWS, INPUTS)),
    ]
    for x in stretched:
        for operation in OPERATIONS[:-1]:
            expected = operate(operation, np.ascontiguousarray(x, dtype), Y, W, dtype)
            assert operate(operation, x, Y, W, dtype) == expected
    y = np.broadcast_to(np.ones((), kind), (ROWS, OUTPUTS))
    w = np.broadcast_to(np.ones((), kind), ROWS)
    for operation in ("fit", "evaluate", "value_and_gradient"):
        expected = operate(operation, X, np.ones((ROWS, OUTPUTS)), np.ones(ROWS), dtype)
        assert operate(operation, X, y, w, dtype) == expected


def test_arguments_may_be_views_of_each_other():
    for dtype in DTYPES:
        x = X.astype(dtype)
        x[:, 0] += 1
        expected = operate("fit", x.copy(), x.copy(), x[:, 0].copy(), dtype, outputs=INPUTS)
        assert operate("fit", x, x, x[:, 0], dtype, outputs=INPUTS) == expected
        expected = operate("fit", x.copy(), x[:, 1:].copy(), None, dtype)
        assert operate("fit", x, x[:, 1:], None, dtype) == expected
        expected = operate("fit", x[::-1].copy(), x[:, :2].copy(), None, dtype)
        assert operate("fit", x[::-1], x[:, :2], None, dtype) == expected
    model = network(outputs=INPUTS)
    assert model.predict(model.predict(X)).shape == X.shape


def test_no_array_is_changed_by_an_operation():
    given = [X.astype("f4"), Y.astype("f4"), W.copy()]
    before = [a.tobytes() for a in given]
    for operation in OPERATIONS:
        x = given[0][:, :OUTPUTS] if operation == "loss" else given[0]
        operate(operation, x, given[1], given[2])
    assert [a.tobytes() for a in given] == before


def test_results_are_arrays_of_the_callers_own():
    model = network()
    x = X.astype("f4")
    first = model.predict(x)
    kept = first.copy()
    first[...] = np.nan
    assert np.array_equal(model.predict(x), kept)
    assert first.flags.owndata
    assert first.flags.writeable
    assert first.flags.c_contiguous


# ---------------------------------------------------------------- numbers at the edges


def with_overflow_allowed(x, dtype):
    with np.errstate(over="ignore"):
        return x.astype(dtype)


def predictions(model, x):
    """Bits of the predictions, every NaN being the same."""
    out = model.predict(x)
    return np.where(np.isnan(out), np.nan, out).tobytes()


@pytest.mark.parametrize("kind", [">f8", "g", "f8", ">g"])
def test_too_large_for_the_models_dtype_is_infinite_without_a_warning(kind):
    x = X.astype(kind)
    x[4, 1] = 1e300
    model = network("float32")
    assert predictions(model, x) == predictions(model, with_overflow_allowed(x, "float32"))
    for operation in ("fit", "evaluate", "value_and_gradient"):
        with pytest.raises(rv.ArgumentError, match=r"^X: .*row 4"):
            operate(operation, x, Y, W)
        y = Y.astype(kind)
        y[5, 0] = -1e300
        with pytest.raises(rv.ArgumentError, match=r"^y: .*row 5"):
            operate(operation, X, y, W)


@pytest.mark.parametrize("kind", ["i8", "u8", ">i8", ">u8"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_large_integers_are_rounded_once(kind, dtype):
    """2^60 + 2^36 + 1 is above the middle of two float32; its float64 is the middle."""
    values = [2**60 + 2**36 + 1, 2**60 + 2**36 - 1, 2**53 + 1, 2**63 - 1, 3, 0]
    if "u" in kind:
        values = [2**64 - 1, 2**63 + 2**39 + 1, *values[:4]]
    x = np.array(values, dtype=object).reshape(2, 3).astype(kind)
    model = rv.Sequential([rv.Activation(None)], input_size=3, dtype=dtype)
    assert model.predict(x).tobytes() == x.astype(dtype).tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormals_and_signed_zeros_pass(dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.array([[tiny, -tiny, -0.0], [0.0, np.finfo(dtype).max, np.finfo(dtype).min]], dtype)
    model = rv.Sequential([rv.Activation(None)], input_size=3, dtype=dtype)
    for value in (x, np.asfortranarray(x), x.astype(np.longdouble), x.astype(">" + dtype[0] + "8")):
        assert model.predict(value).tobytes() == x.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_touches_its_own_row_of_predictions_only(bad, dtype):
    x = np.random.default_rng(1).normal(size=(300, INPUTS)).astype(dtype)
    layers = [
        rv.Dense(70, activation="gelu"),
        rv.LayerNorm(),
        rv.BatchNorm(),
        rv.Dropout(0.5),
        rv.Dense(5, activation=rv.activations.PReLU()),
        rv.Softmax(),
    ]
    model = rv.Sequential(layers, input_size=INPUTS, dtype=dtype)
    clean = model.predict(x)
    for row in (0, 63, 64, 255, 256, 299):
        spoiled = x.copy()
        spoiled[row, 1] = bad
        out = model.predict(spoiled)
        others = np.arange(300) != row
        assert np.array_equal(out[others], clean[others])
        assert np.isnan(out[row]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("operation", ["fit", "evaluate", "value_and_gradient"])
def test_what_is_not_finite_is_refused_with_its_first_row(operation, bad):
    for argument, plain in [("X", X), ("y", Y), ("weight", W)]:
        for kind in ("f2", "f4", "f8", ">f4", "g"):
            value = plain.astype(kind)
            value[7], value[8] = bad, bad
            with pytest.raises(rv.ArgumentError, match=rf"^{named(operation, argument)}: .*row 7"):
                operate(operation, *arguments(operation, **{argument: value}))
    frame = pd.DataFrame({"a": [1.0, None], "b": [1.0, 2.0], "c": [3.0, 4.0]})
    with pytest.raises(rv.ArgumentError, match=r"^X: .*row 0|^X: .*row 1"):
        operate(operation, frame, Y[:2], None)


def test_what_is_not_finite_in_validation_data_is_refused_by_name():
    for number, name in enumerate(["validation X", "validation y", "validation sample_weight"]):
        data = [X.copy(), Y.copy(), W.copy()]
        data[number][3] = np.nan
        model = network()
        before = flat(*model.parameters().values())
        with pytest.raises(rv.ArgumentError, match=f"^{name}: .*row 3"):
            model.fit(X, Y, loss="mse", validation_data=tuple(data))
        assert flat(*model.parameters().values()) == before


ELEMENTS = {
    "f": st.floats(-1e30, 1e30) | st.sampled_from([np.nan, np.inf, -0.0, 1e-320]),
    "i": st.integers(-100, 100),
    "u": st.integers(0, 200),
    "b": st.booleans(),
}


@st.composite
def surgically_strided(draw):
    """An array cut out of a larger one: any dtype, byte order, alignment, order and steps."""
    kind = draw(st.sampled_from([*"efdgbhlqBHLQ?", "i4", "u4"]))
    dtype = np.dtype(kind)
    if dtype.itemsize > 1 and draw(st.booleans()):
        dtype = dtype.newbyteorder()
    rows = draw(st.integers(1, 6))
    steps = [draw(st.sampled_from([1, 2, 3, -1, -2])) for _ in range(2)]
    shape = [rows * abs(steps[0]), INPUTS * abs(steps[1])]
    turned = draw(st.booleans())
    if turned:
        shape.reverse()
    pool = draw(st.lists(ELEMENTS[dtype.kind], min_size=1, max_size=8))
    offset = draw(st.integers(0, 3))
    memory = np.zeros(shape[0] * shape[1] * dtype.itemsize + offset, np.uint8)
    base = memory[offset:].view(dtype).reshape(shape)
    if kind == "e":
        pool = [min(max(v, -6e4), 6e4) for v in pool]
    base[...] = np.resize(np.array(pool, dtype), shape)
    if turned:
        base = base.T
    view = base[:: steps[0], :: steps[1]]
    if draw(st.booleans()):
        view = np.broadcast_to(view[:1], view.shape)
    if draw(st.booleans()):
        view.flags.writeable = False
    return view


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_strides_any_dtype(dtype):
    model = network(dtype)
    trainer = rv.Trainer(model, loss="mse")
    names = [r"^X: expected finite numbers, got \S+ in row \d+"]

    @settings(max_examples=200, deadline=None, derandomize=True, database=None)
    @given(surgically_strided())
    def check(x):
        before = x.tobytes()
        plain = np.ascontiguousarray(with_overflow_allowed(x, dtype))
        assert predictions(model, x) == predictions(model, plain)
        y = np.zeros((len(x), OUTPUTS))
        if np.isfinite(plain).all():
            assert trainer.evaluate(x, y) == trainer.evaluate(plain, y)
            target = x[:, :OUTPUTS]
            got = model.value_and_gradient(x, target, loss="mae")
            expected = model.value_and_gradient(plain, plain[:, :OUTPUTS].copy(), loss="mae")
            assert flat(got[0], *got[1].values()) == flat(expected[0], *expected[1].values())
        else:
            with pytest.raises(rv.ArgumentError, match=names[0]):
                trainer.evaluate(x, y)
        assert x.tobytes() == before

    check()


# ---------------------------------------------------------------- what is refused


class Raising:
    def __init__(self, error):
        self.error = error

    def __array__(self, dtype=None, copy=None):
        raise self.error


class Lying:
    """Promises an array and gives something else."""

    shape = (ROWS, INPUTS)
    dtype = np.dtype("f4")
    ndim = 2

    def __init__(self, given):
        self.given = given

    def __len__(self):
        return ROWS

    def __array__(self, dtype=None, copy=None):
        return self.given


class BadInterface:
    @property
    def __array_interface__(self):
        return {"shape": (ROWS, INPUTS), "typestr": "<f4", "data": "nonsense", "version": 3}


class Touchy:
    """Does not like to be asked for anything."""

    def __getattr__(self, name):
        raise RuntimeError(f"do not ask me for {name}")


class HasToArray:
    def toarray(self):
        return X


def deep_list():
    nested = [1.0]
    for _ in range(100):
        nested = [nested]
    return nested


def itself():
    nested = []
    nested.append(nested)
    return nested


def objects_that_are_arrays():
    value = np.empty(2, object)
    value[:] = [X, Y]
    return value


def masked_some():
    value = np.ma.array(X.copy())
    value[2, 1] = np.ma.masked
    return value


REFUSED = {
    "None": lambda: None,
    "dict": lambda: {"a": 1},
    "dict of columns": lambda: {"a": list(X[:, 0])},
    "set": lambda: {1.0, 2.0},
    "generator": lambda: (row for row in X),
    "object": object,
    "class": lambda: np.ndarray,
    "function": lambda: len,
    "string": lambda: "abc",
    "bytes": lambda: b"abc",
    "strings": lambda: [["1", "2", "3"]] * ROWS,
    "array of strings": lambda: X.astype(str),
    "array of bytes": lambda: X.astype("S8"),
    "StringDType": lambda: X.astype(str).astype(np.dtypes.StringDType()),
    "objects": lambda: X.astype(object),
    "objects that are arrays": objects_that_are_arrays,
    "list of None": lambda: [[None] * INPUTS] * ROWS,
    "huge integers": lambda: [[2**70] * INPUTS] * ROWS,
    "complex": lambda: X + 1j,
    "complex list": lambda: [[1j] * INPUTS] * ROWS,
    "complex64": lambda: X.astype("c8"),
    "datetime": lambda: X.astype("datetime64[s]"),
    "timedelta": lambda: X.astype("timedelta64[s]"),
    "void": lambda: X.view("V8"),
    "records": lambda: np.zeros((ROWS, INPUTS), "f4,f8"),
    "records of one field": lambda: np.zeros((ROWS, INPUTS), [("a", "f4")]),
    "ragged": lambda: [[1.0, 2.0], [1.0]],
    "ragged 3-d": lambda: [[[1.0]], [[1.0, 2.0]]],
    "nested 100 deep": deep_list,
    "contains itself": itself,
    "csr": lambda: scipy.sparse.csr_matrix(X),
    "csr array": lambda: scipy.sparse.csr_array(X),
    "coo": lambda: scipy.sparse.coo_array(X),
    "has toarray": HasToArray,
    "masked": masked_some,
    "all masked": lambda: np.ma.masked_all((ROWS, INPUTS)),
    "the masked constant": lambda: np.ma.masked,
    "__array__ raises": lambda: Raising(RuntimeError("no")),
    "__array__ raises TypeError": lambda: Raising(TypeError("no")),
    "__array__ raises KeyError": lambda: Raising(KeyError("no")),
    "__array__ raises MemoryError": lambda: Raising(MemoryError("no")),
    "__array__ raises RecursionError": lambda: Raising(RecursionError("no")),
    "__array__ gives a list": lambda: Lying([1.0]),
    "__array__ gives None": lambda: Lying(None),
    "__array__ gives strings": lambda: Lying(X.astype(str)),
    "__array__ gives a scalar": lambda: Lying(np.array(3.0)),
    "__array__ gives another length": lambda: Lying(X[:4]),
    "bad __array_interface__": BadInterface,
    "touchy": Touchy,
    "0-d": lambda: np.array(1.0),
    "scalar": lambda: 1.0,
    "3-d": lambda: np.zeros((ROWS, INPUTS, 1)),
    "3-d of no rows": lambda: np.zeros((0, 3, 3)),
    "32-d": lambda: np.zeros((1,) * 32),
    "frame with strings": lambda: pd.DataFrame({"a": X[:, 0], "b": ["x"] * ROWS, "c": X[:, 2]}),
    "frame with dates": lambda: pd.DataFrame({"a": pd.to_datetime(["2020-01-01"] * ROWS)}),
    "frame of complex": lambda: pd.DataFrame(X + 1j),
    "frame of categories": lambda: pd.DataFrame({"a": pd.Categorical(["x", "y", "z"] * 3)}),
    "empty frame": pd.DataFrame,
    "one row too many": lambda: np.zeros((ROWS + 1, INPUTS)),
    "one column too many": lambda: np.zeros((ROWS, INPUTS + 1)),
    "one column": lambda: np.zeros((ROWS, 1)),
    "no column": lambda: np.zeros((ROWS, 0)),
    "no row": lambda: np.zeros((0, INPUTS)),
    "nothing": lambda: np.zeros((0, 0)),
    "empty list": list,
    "empty lists": lambda: [[]] * ROWS,
    "transposed": lambda: X.T.copy(),
}
SIZES = {
    "__array__ gives another length",
    "empty frame",
    "one row too many",
    "one column too many",
    "one column",
    "no column",
    "no row",
    "nothing",
    "empty lists",
    "transposed",
}
PREDICT_TAKES = {"__array__ gives another length", "no row", "one row too many"}
CLASSES = {
    rv.DTypeError: """None|dict|dict of columns|set|generator|object|class|function|string|bytes
        |strings|array of strings|array of bytes|StringDType|objects|objects that are arrays
        |list of None
        |huge integers|complex|complex list|complex64|datetime|timedelta|void|records
        |records of one field|csr|csr array|coo|has toarray|__array__ gives strings
        |frame with strings|frame with dates|frame of complex|frame of categories""",
    rv.ArgumentError: """ragged|ragged 3-d|masked|all masked|__array__ raises
        |__array__ raises TypeError|__array__ raises KeyError|__array__ gives a list
        |__array__ gives None|touchy""",
    rv.OutOfMemoryError: "__array__ raises MemoryError",
    rv.ShapeError: """0-d|scalar|3-d|3-d of no rows|32-d|one column too many|no column|nothing
        |empty list|empty lists|transposed|__array__ gives a scalar""",
}
EXPECTED = {name.strip(): kind for kind, names in CLASSES.items() for name in names.split("|")}


@pytest.mark.parametrize("argument", ["X", "y", "weight"])
@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_is_no_array_of_numbers_is_refused_by_name(operation, case, argument):
    if not takes(operation, argument) or (operation == "predict" and case in PREDICT_TAKES):
        return
    if argument == "weight" and case == "None":
        return
    name = named(operation, argument)
    if argument == "X" and case in SIZES and operation != "predict":  # y may be what does not fit
        name = f"({name}|{named(operation, 'y')})"
    with pytest.raises(rv.RanvierError, match=f"^{name}: ") as caught:
        operate(operation, *arguments(operation, **{argument: REFUSED[case]()}))
    if argument == "X" and case in EXPECTED and operation != "loss":
        assert isinstance(caught.value, EXPECTED[case])
    message = str(caught.value)
    assert len(message) < 600
    for word in ("panic", "buffer", "Rust", "PyO3", "usize", "extract"):
        assert word not in message


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_interrupt_inside_a_conversion_passes(operation):
    for error in (KeyboardInterrupt(), SystemExit()):
        with pytest.raises(type(error)):
            operate(operation, *arguments(operation, X=Raising(error)))


def test_messages_say_what_to_do():
    model = network()
    for value, words in [
        (X[0], r"^X: expected shape \(rows, features\).*np\.newaxis"),
        (scipy.sparse.csr_array(X), r"^X: .*X\.toarray\(\)"),
        (masked_some(), r"^X: .*1 masked.*filled"),
        (X[:, :2], r"^X: expected 3 .*\(9, 2\)"),
        (REFUSED["frame with strings"](), r"^X: .*column 'b'"),
    ]:
        with pytest.raises(rv.RanvierError, match=words):
            model.predict(value)


def test_a_frame_with_missing_values_names_the_column():
    for dtype in ("Int64", "Float64", "boolean"):
        column = pd.array([1, None, 0], dtype=dtype)
        frame = pd.DataFrame({"a": [1.0, 2, 3], "gap": column, "c": [1, 2, 3]})
        with pytest.raises(rv.RanvierError, match=r"^X: .*(gap|row 1)"):
            network().fit(frame, Y[:3], loss="mse")


def test_nullable_columns_without_gaps_are_numbers():
    for dtype in ("Int64", "Float64", "UInt8"):
        frame = pd.DataFrame(X).astype(dtype)
        for operation in OPERATIONS[:-1]:
            assert operate(operation, frame, Y, W) == operate(operation, X, Y, W)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_one_row_and_no_row(operation):
    x, y, w = arguments(operation)
    expected = operate(operation, x[:1].copy(), y[:1].copy(), w[:1].copy())
    assert operate(operation, x[:1], y[:1], w[:1]) == expected
    assert operate(operation, x[:1].tolist(), y[:1].tolist(), [1]) == operate(
        operation, x[:1], y[:1], None
    )
    if operation == "predict":
        out = network().predict(X[:0])
        assert out.shape == (0, OUTPUTS)
        assert out.dtype == np.float32
    else:
        with pytest.raises(rv.ShapeError, match=f"^{named(operation, 'X')}: .*row"):
            operate(operation, x[:0], y[:0], None)


def test_an_unbuilt_model_refuses_no_columns():
    model = rv.Sequential([rv.Dense(1)])
    with pytest.raises(rv.ShapeError, match=r"^X: "):
        model.fit(np.zeros((3, 0)), np.zeros(3), loss="mse")
    assert model.input_size is None


# ---------------------------------------------------------------- sizes that only strides can hold

HUGE = """
import json, resource, sys, time, warnings
warnings.simplefilter("error")
import numpy as np
import ranvier as rv
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
model = rv.Sequential([rv.Dense(1)], input_size=int(sys.argv[2]))
rows, columns, outcomes = int(sys.argv[1]), int(sys.argv[2]), {}
for kind in ("f8", "f4", "f2", "i8", "?", ">f4"):
    x = np.broadcast_to(np.zeros((), kind), (rows, columns))
    y = np.broadcast_to(np.zeros((), kind), (rows,))
    trainer = rv.Trainer(model, loss="mse")
    custom = rv.Trainer(model, loss=rv.losses.MSE())
    calls = {
        "predict": lambda: model.predict(x),
        "fit": lambda: trainer.fit(x, y),
        "fit, weights": lambda: trainer.fit(x, y, sample_weight=y),
        "fit, validation": lambda: trainer.fit(
            np.zeros((2, columns)), np.zeros(2), validation_data=(x, y)
        ),
        "evaluate": lambda: trainer.evaluate(x, y),
        "value_and_gradient": lambda: model.value_and_gradient(x, y, loss="mse"),
        "loss": lambda: rv.losses.MSE().value_and_gradient(x, x),
        "loss with labels": lambda: rv.losses.CrossEntropy().value_and_gradient(
            x, np.broadcast_to(np.int8(0), (rows,))
        ),
        "set_parameters": lambda: model.set_parameters({"0.bias": y}),
        "y alone": lambda: trainer.fit(np.zeros((2, columns)), y),
        "weight alone": lambda: trainer.fit(np.zeros((2, columns)), [1, 2], sample_weight=y),
    }
    for name, call in calls.items():
        begun = time.perf_counter()
        try:
            call()
            outcome = "accepted"
        except rv.RanvierError as error:
            outcome = f"{type(error).__name__} {error}"
        except BaseException as error:
            outcome = f"LEAKED {type(error).__name__} {error}"
        outcomes[f"{kind} {name}"] = (outcome, time.perf_counter() - begun)
    assert trainer.step == 0
    assert np.isfinite(model.predict(np.zeros((3, columns)))).all()
json.dump(outcomes, sys.stdout)
"""


@pytest.mark.parametrize("shape", [(2**40, 8), (2**33, 4), (2**32, 2), (2**58, 1)])
def test_a_stretched_array_of_impossible_size_is_an_error_at_once(shape):
    command = [sys.executable, "-c", textwrap.dedent(HUGE), *map(str, shape)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    for case, (outcome, seconds) in json.loads(done.stdout).items():
        assert outcome.startswith(("ShapeError ", "OutOfMemoryError ", "ArgumentError ")), case
        assert seconds < 1.0, case


# ---------------------------------------------------------------- targets and weights


@pytest.mark.parametrize("operation", ["fit", "evaluate", "value_and_gradient", "loss"])
def test_one_column_of_targets_may_be_one_dimensional(operation):
    x = X[:, :1] if operation == "loss" else X
    expected = operate(operation, x, Y[:, :1].copy(), W, outputs=1)
    assert operate(operation, x, Y[:, 0], W, outputs=1) == expected
    assert operate(operation, x, Y[:, 0].tolist(), W, outputs=1) == expected
    for wrong in (Y[:, :2], Y[:-1, 0], Y[:, 0][np.newaxis], Y[:, :0]):
        with pytest.raises(rv.ShapeError, match=f"^{named(operation, 'y')}: "):
            operate(operation, x, wrong, W, outputs=1)
    if operation != "loss":
        with pytest.raises(rv.ShapeError, match=r"^y: expected .*\(9, 2\)"):
            operate(operation, x, Y[:, 0], W)


LABELS = np.array([0, 1, 2, 0, 1, 2, 2, 1, 0])


@pytest.mark.parametrize("kind", [*INTEGERS, "longlong", ">i2", ">u8", "list", "Series"])
@pytest.mark.parametrize("operation", ["fit", "evaluate", "value_and_gradient", "loss"])
def test_labels_of_every_integer_dtype(operation, kind):
    labels = {"list": LABELS.tolist(), "Series": pd.Series(LABELS)}.get(kind)
    if labels is None:
        labels = LABELS.astype(kind)
    common = {"loss": "cross_entropy", "outputs": 3}
    expected = operate(operation, X, LABELS, W, **common)
    assert operate(operation, X, labels, W, **common) == expected
    column = np.asarray(labels)[:, np.newaxis]
    assert operate(operation, X, column, W, **common) == expected
    stepped = np.repeat(column, 2, axis=0)[::2]
    assert operate(operation, X, stepped, W, **common) == expected


@pytest.mark.parametrize("operation", ["fit", "evaluate", "value_and_gradient"])
def test_boolean_labels_are_two_classes(operation):
    labels = LABELS > 0
    expected = operate(operation, X, labels.astype(int), W, loss="cross_entropy")
    assert operate(operation, X, labels, W, loss="cross_entropy") == expected
    assert operate(operation, X, labels.tolist(), W, loss="cross_entropy") == expected


@pytest.mark.parametrize("operation", ["fit", "evaluate", "value_and_gradient", "loss"])
def test_labels_out_of_range_are_refused_with_row_and_range(operation):
    for kind, bad in [
        ("i1", -1),
        ("i8", 3),
        ("i8", -(2**63)),
        ("u8", 2**64 - 1),
        ("i8", 2**32),
        ("i8", 2**32 + 1),
        ("u4", 2**32 - 1),
        (">u8", 2**63),
        (">u8", 2**64 - 1),
        (">i4", -1),
    ]:
        labels = LABELS.astype(kind)
        labels[5] = bad
        with pytest.raises(rv.ArgumentError, match=f"^{named(operation, 'y')}: .*0 to 2.* row 5"):
            operate(operation, X, labels, W, loss="cross_entropy", outputs=3)


@pytest.mark.parametrize("operation", ["fit", "evaluate", "value_and_gradient", "loss"])
def test_float_labels_are_refused_and_told_what_to_do(operation):
    for labels in (LABELS * 1.0, LABELS.astype("f2"), (LABELS * 1.0)[:, np.newaxis]):
        with pytest.raises(rv.DTypeError, match=rf"^{named(operation, 'y')}: .*astype\(int\)"):
            operate(operation, X, labels, W, loss="cross_entropy", outputs=3)


@pytest.mark.parametrize("operation", ["fit", "evaluate", "value_and_gradient", "loss"])
def test_one_hot_targets_of_every_dtype_are_probabilities(operation):
    one_hot = np.eye(3)[LABELS]
    common = {"loss": "cross_entropy", "outputs": 3}
    expected = operate(operation, X, one_hot, W, **common)
    for kind in ("i8", "u1", "?", "f4", "f2", ">i4"):
        assert operate(operation, X, one_hot.astype(kind), W, **common) == expected
    assert operate(operation, X, np.asfortranarray(one_hot), W, **common) == expected
    for wrong in (np.eye(4)[LABELS], np.eye(3)[LABELS][:-1], one_hot[:, :2]):
        with pytest.raises(rv.ShapeError, match=f"^{named(operation, 'y')}: "):
            operate(operation, X, wrong, W, **common)
    for bad in (-0.5, 1.5, np.nan):
        spoiled = one_hot.copy()
        spoiled[4, 1] = bad
        with pytest.raises(rv.ArgumentError, match=f"^{named(operation, 'y')}: .*row 4"):
            operate(operation, X, spoiled, W, **common)


def test_binary_targets_outside_zero_and_one_are_refused():
    for bad in (-0.1, 1.1, 2, np.nan):
        y = (LABELS > 0) * 1.0
        y[6] = bad
        with pytest.raises(rv.ArgumentError, match=r"^y: .*row 6"):
            operate("fit", X, y, W, loss="binary_cross_entropy", outputs=1)


WEIGHTS = {
    "negative": (lambda w: np.r_[w[:4], -1, w[5:]], rv.ArgumentError, "row 4"),
    "a little negative": (lambda w: np.r_[w[:4], -1e-300, w[5:]], rv.ArgumentError, "row 4"),
    "NaN": (lambda w: np.r_[w[:4], np.nan, w[5:]], rv.ArgumentError, "row 4"),
    "infinite": (lambda w: np.r_[w[:4], np.inf, w[5:]], rv.ArgumentError, "row 4"),
    "all zero": (np.zeros_like, rv.ArgumentError, "positive"),
    "minus zeros": (lambda w: -np.zeros_like(w), rv.ArgumentError, "positive"),
    "all False": (lambda w: w < 0, rv.ArgumentError, "positive"),
    "sum too large": (lambda w: np.full_like(w, 1e308), rv.ArgumentError, "sum"),
    "too short": (lambda w: w[:-1], rv.ShapeError, r"\(9,\)"),
    "too long": (lambda w: np.r_[w, 1], rv.ShapeError, r"\(9,\)"),
    "column": (lambda w: w[:, np.newaxis], rv.ShapeError, r"\(9,\)"),
    "row": (lambda w: w[np.newaxis], rv.ShapeError, r"\(9,\)"),
    "scalar": (lambda w: 1.0, rv.ShapeError, r"\(9,\)"),
    "dict of class weights": (lambda w: {0: 1.0, 1: 2.0}, rv.DTypeError, "dict|object"),
    "name": (lambda w: "balanced", rv.DTypeError, "U8|str"),
    "objects": (lambda w: w.astype(object), rv.DTypeError, "object"),
    "complex": (lambda w: w + 0j, rv.DTypeError, "complex"),
}


@pytest.mark.parametrize("case", WEIGHTS)
@pytest.mark.parametrize("operation", ["fit", "evaluate", "value_and_gradient", "loss"])
def test_weights_that_are_refused(operation, case):
    make, kind, words = WEIGHTS[case]
    with pytest.raises(kind, match=rf"^sample_weight: .*({words})"):
        operate(operation, *arguments(operation, weight=make(W)))


@pytest.mark.parametrize("operation", ["evaluate", "value_and_gradient", "loss"])
def test_weights_count_rows(operation):
    """Weight k is the row k times, 0 is the row removed (up to rounding)."""
    w = np.array([0, 1, 2, 3, 0, 1, 1, 2, 0])
    x, y, _ = arguments(operation)
    rows = np.repeat(np.arange(ROWS), w)
    got = operate(operation, x, y, w, dtype="float64")
    expected = operate(operation, x[rows], y[rows], None, dtype="float64")
    value = np.frombuffer(got[0][2])
    np.testing.assert_allclose(value, np.frombuffer(expected[0][2]), rtol=1e-12)
    uniform = operate(operation, x, y, np.full(ROWS, 3.5), dtype="float64")
    plain = operate(operation, x, y, None, dtype="float64")
    for a, b in zip(uniform, plain, strict=True):
        np.testing.assert_allclose(np.frombuffer(a[2]), np.frombuffer(b[2]), rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------- losses written in Python


class Custom:
    def value_and_gradient(self, output, target, sample_weight=None):
        difference = output - np.asarray(target, dtype=output.dtype).reshape(output.shape)
        return float((difference**2).mean()), 2 * difference / difference.size


@pytest.mark.parametrize("operation", ["fit", "evaluate", "value_and_gradient"])
def test_a_custom_loss_takes_every_container_of_targets(operation):
    expected = operate(operation, X, Y, None, loss=Custom())
    for y in (Y.tolist(), np.asfortranarray(Y), pd.DataFrame(Y, index=range(9, 0, -1)), Y[::1]):
        assert operate(operation, X, y, None, loss=Custom()) == expected


@pytest.mark.parametrize("operation", ["fit", "evaluate", "value_and_gradient"])
@pytest.mark.parametrize(
    "y",
    [
        None,
        5,
        np.array(5),
        object(),
        Y[:-1],
        [[1], [1, 2]] * 4 + [[1]],
        dict.fromkeys(range(9)),
        "abcdefghi",
    ],
)
def test_a_custom_loss_refuses_targets_that_have_no_rows(operation, y):
    with pytest.raises(rv.RanvierError, match=r"^y: "):
        operate(operation, X, y, None, loss=Custom())


@pytest.mark.parametrize(
    "result",
    [
        None,
        3.0,
        (1.0,),
        (1.0, 2.0),
        ("a", X),
        (1.0, "abc"),
        (1.0, X),
        (1j, Y),
        (1.0, None),
        (1.0, [[1], [1, 2]]),
    ],
)
def test_a_custom_loss_that_returns_nonsense_is_told_so(result):
    class Nonsense:
        def value_and_gradient(self, output, target, sample_weight=None):
            return result

    model = network()
    before = flat(*model.parameters().values())
    with pytest.raises(rv.RanvierError, match=r"^loss: "):
        model.fit(X, Y, loss=Nonsense())
    with pytest.raises(rv.RanvierError, match=r"^loss: "):
        model.value_and_gradient(X, Y, loss=Nonsense())
    assert flat(*model.parameters().values()) == before


def test_an_exception_of_a_custom_loss_arrives_as_it_is():
    class MineError(Exception):
        pass

    class Broken:
        def value_and_gradient(self, output, target, sample_weight=None):
            raise MineError

    model = network()
    for operation in ("fit", "evaluate", "value_and_gradient"):
        with pytest.raises(MineError):
            operate(operation, X, Y, None, loss=Broken())
    model.fit(X, Y, loss="mse")


# ---------------------------------------------------------------- parameters and gradients


@pytest.mark.parametrize("view", sorted(set(VIEWS) - {"big-endian u8"}))
def test_parameters_take_every_view(view):
    model = network("float64")
    weight = np.arange(15.0).reshape(3, 5)
    model.set_parameters({"0.weight": VIEWS[view](weight)})
    assert np.array_equal(model.parameters()["0.weight"], weight)


@pytest.mark.parametrize("case", sorted(set(REFUSED) - {"one row too many"}))
def test_parameters_and_gradients_refuse_the_same_by_name(case):
    model = network()
    before = flat(*model.parameters().values())
    with pytest.raises(rv.RanvierError, match=r"^parameters\['0.weight'\]: "):
        model.set_parameters({"0.bias": np.ones(5), "0.weight": REFUSED[case]()})
    gradients = dict(model.parameters())
    gradients["0.weight"] = REFUSED[case]()
    with pytest.raises(rv.RanvierError, match=r"^gradients\['0.weight'\]: "):
        rv.SGD().step(model, gradients)
    assert flat(*model.parameters().values()) == before
