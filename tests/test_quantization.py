"""Quantised networks: what the integers are, that they add up exactly, and how far they agree.

That the bits do not depend on threads, instruction set or batch is in test_determinism.
"""

import copy
import json
import pickle

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import ranvier as rv
from conftest import as_reference, error, reference_of
from ranvier import reference
from ranvier._files import Reader
from ranvier.model import read_model
from ranvier.quantization import _from_bytes
from test_files import forge, parts

F = np.float32


def network(sizes, activation="relu", seed=0, dtype="float32"):
    layers = [rv.Dense(units, activation, bias_init="torch") for units in sizes[1:-1]]
    layers.append(rv.Dense(sizes[-1], bias_init="torch"))
    return rv.Sequential(layers, input_size=sizes[0], seed=seed, dtype=dtype)


def rows(count, features, seed=0):
    return np.random.default_rng(seed).normal(size=(count, features)).astype(F)


def mixed(seed=0):
    """A network of every kind of layer, with statistics that are none of the defaults."""
    layers = [
        rv.Standardize(),
        rv.Dense(20, "gelu"),
        rv.BatchNorm(),
        rv.Dropout(0.5),
        rv.Dense(17, "prelu", use_bias=False),
        rv.LayerNorm(),
        rv.GaussianNoise(0.1),
        rv.Activation("tanh"),
        rv.Dense(5, "softmax"),
        rv.Dense(3),
        rv.Softmax(),
    ]
    model = rv.Sequential(layers, seed=seed)
    y = np.eye(3)[np.arange(200) % 3]
    model.fit(3 + 2 * rows(200, 9), y, loss="mse", epochs=2)
    return model


# ---------------------------------------------------------------- what the integers are


def test_weights_are_int8_with_one_scale_for_each_output():
    model = network((30, 20, 7))
    q = model.quantize(rows(50, 30)).parameters()
    for layer in (0, 1):
        weight = model.parameters()[f"{layer}.weight"]
        scale = np.abs(weight).max(axis=0) / F(127)
        assert q[f"{layer}.weight"].dtype == np.int8
        assert (q[f"{layer}.weight_scale"] == scale).all()
        assert (q[f"{layer}.weight"] == np.rint(weight / scale)).all()
        assert np.abs(q[f"{layer}.weight"]).max(axis=0).tolist() == [127] * len(scale)
        assert (q[f"{layer}.bias"] == model.parameters()[f"{layer}.bias"]).all()


@pytest.mark.parametrize(
    ("low", "high", "zero"),
    [(-1.0, 1.0, 127), (0.0, 3.0, 0), (2.0, 5.0, 0), (-3.0, -1.0, 255), (-1.0, 254.0, 1)],
)
def test_the_range_of_inputs_is_that_of_the_rows_and_zero(low, high, zero):
    X = np.linspace(low, high, 40, dtype=F).reshape(20, 2)
    q = network((2, 3)).quantize(X).parameters()
    scale = F(max(high, 0) / 255 - min(low, 0) / 255)
    assert q["0.input_scale"] == scale
    assert q["0.input_zero_point"] == zero
    assert q["0.input_zero_point"].dtype == np.uint8


def test_zeros_stay_zeros():
    model = rv.Sequential([rv.Dense(4), rv.Dense(2)], input_size=3)
    assert (model.quantize(rows(9, 3)).predict(np.zeros((2, 3))) == 0).all()


@pytest.mark.parametrize("weight", [0.0, 1e-45, 1e30])
def test_weights_and_inputs_of_any_size_are_quantised(weight):
    model = rv.Sequential([rv.Dense(2, use_bias=False)], input_size=2)
    model.set_parameters({"0.weight": np.array([[weight, 1.0], [weight, -1.0]])})
    for size in (0.0, 1e-30, 1.0):
        X = np.array([[1.0, 0.5]], F) * F(size)
        expected = model.predict(X)
        found = model.quantize(X).predict(X)
        assert np.abs(found - expected).max() <= 0.01 * np.abs(expected).max() + 1e-43
    # Inputs below 1e-36, whose scale would have no inverse, count as zeros.
    assert (model.quantize(X * F(1e-42)).predict(X * F(1e-42)) == 0).all()


@hypothesis.given(
    sizes=st.lists(st.integers(1, 200), min_size=2, max_size=4),
    count=st.integers(1, 40),
    activation=st.sampled_from([None, "relu"]),
    seed=st.integers(0, 99),
)
@hypothesis.settings(max_examples=30)
def test_outputs_are_exact_sums_scaled_once(sizes, count, activation, seed):
    """The equation in NumPy's integers, to the last bit."""
    model = network(sizes, activation, seed)
    X = rows(count, sizes[0], seed)
    small = model.quantize(X)
    q, x = small.parameters(), X
    for layer in range(len(sizes) - 1):
        scale, zero = q[f"{layer}.input_scale"], int(q[f"{layer}.input_zero_point"])
        integers = np.rint(np.clip(x * (F(1) / scale), F(-zero), F(255 - zero))).astype(np.int64)
        sums = integers @ q[f"{layer}.weight"].astype(np.int64)
        factor = scale * q[f"{layer}.weight_scale"]
        # In float64 the product is exact, and the sum is rounded once more than in one fma.
        wide = sums.astype(F).astype(np.float64) * factor + q[f"{layer}.bias"]
        x = (
            np.maximum(wide.astype(F), 0)
            if activation and layer < len(sizes) - 2
            else wide.astype(F)
        )
    found = small.predict(X)
    assert (np.abs(found - x) <= np.spacing(np.abs(x))).all()
    assert (found == x).mean() > 0.99


def test_the_largest_sums_do_not_overflow():
    model = rv.Sequential([rv.Dense(1, use_bias=False)], input_size=66_311)
    model.set_parameters({"0.weight": np.ones((66_311, 1))})
    X = np.ones((1, 66_311), F)
    assert model.quantize(X).predict(X)[0, 0] == pytest.approx(66_311, rel=1e-6)
    with pytest.raises(rv.ArgumentError, match=r"layers\[0\]: expected at most 66311 inputs"):
        rv.Sequential([rv.Dense(1)], input_size=66_312).quantize(np.ones((1, 66_312), F))


def test_the_reference_quantises_alike():
    model = network((9, 14, 6, 3), "tanh", dtype="float64")
    X = np.random.default_rng(1).normal(size=(60, 9))
    twin = reference.quantize(reference_of(model), X.tolist())
    small = model.quantize(X)
    q = small.parameters()
    for name, expected in twin.parameters.items():
        # Integers are the same but where float32 falls on the other side of a half.
        if name.endswith((".weight", "zero_point")):
            assert np.abs(q[name].astype(int) - np.asarray(expected)).max() <= 1, name
            assert (q[name] == np.asarray(expected)).mean() > 0.99, name
        else:
            assert error(q[name], expected) < 1e-6, name
    # From the same numbers the same outputs, but for such inputs of a layer: one step each.
    same = {name: value.tolist() for name, value in q.items()}
    layers = [as_reference(layer) for layer in model.layers]
    expected = np.array(reference.QuantizedSequential(layers, same).predict(X.tolist()))
    difference = np.abs(small.predict(X) - expected)
    assert (difference < 1e-5).mean() > 0.95
    step = max(float(q[f"{i}.input_scale"] * q[f"{i}.weight_scale"].max()) * 127 for i in (1, 2))
    assert difference.max() < 3 * step


def test_the_reference_says_nan_and_refuses_it_alike():
    model = network((3, 4, 2), "tanh", dtype="float64")
    X = rows(9, 3).astype(float)
    twin = reference.quantize(reference_of(model), X.tolist())
    X[2, 1], X[4, 0], X[5, 2] = np.nan, np.inf, -np.inf
    found, expected = model.quantize(rows(9, 3)).predict(X), np.array(twin.predict(X.tolist()))
    assert np.isnan(expected[2]).all()
    assert (np.isnan(found) == np.isnan(expected)).all()
    others = [row for row in range(9) if row != 2]
    assert error(found[others], expected[others]) < 0.02
    for bad in ([], [[np.nan] * 3], [[np.inf] * 3]):
        with pytest.raises(ValueError, match="X must be at least one row of finite numbers"):
            reference.quantize(reference_of(model), bad)


def test_every_kind_of_layer_has_its_place():
    model = mixed()
    X = 3 + 2 * rows(300, 9, seed=4)
    small = model.quantize(X)
    assert small.integer_layers == (1, 4, 8, 9)
    assert small.layers == model.layers
    assert small.n_parameters == model.n_parameters
    assert np.abs(small.predict(X) - model.predict(X)).max() < 0.05
    layers = [as_reference(layer) for layer in model.layers]
    same = {name: value.tolist() for name, value in small.parameters().items()}
    expected = np.array(reference.QuantizedSequential(layers, same).predict(X.tolist()))
    assert np.median(np.abs(small.predict(X) - expected)) < 1e-6


def test_targets_of_any_scale_come_out_in_their_units():
    X = rows(400, 4)
    y = 1e4 + 500 * X[:, 0]
    layers = [rv.Dense(16, "relu"), rv.Dense(1), rv.Standardize(of="targets")]
    model = rv.Sequential(layers)
    model.fit(X, y, loss="mse", epochs=60, optimizer=rv.Adam(learning_rate=0.01))
    assert np.abs(model.quantize(X).predict(X) - model.predict(X)).max() < 50


# ---------------------------------------------------------------- calibration


def test_percentile_leaves_outliers_out():
    X = rows(10_000, 2)
    X[0, 0] = 1000
    model = network((2, 3))
    scales = {
        name: float(model.quantize(X, **options).parameters()["0.input_scale"])
        for name, options in {
            "all": {},
            "default": {"calibration": "percentile"},
            "half": {"calibration": "percentile", "percentile": 75.0},
            "whole": {"calibration": "percentile", "percentile": 100},
        }.items()
    }
    assert scales["all"] == scales["whole"] == pytest.approx(1000 / 255, rel=0.01)
    assert scales["default"] == pytest.approx(2 * 3.7 / 255, rel=0.1)
    assert scales["half"] == pytest.approx(2 * 0.674 / 255, rel=0.02)


def test_mse_errs_less_than_the_whole_range_and_than_a_percentile():
    X = np.random.default_rng(0).standard_t(3, size=(5000, 4)).astype(F)
    model = network((4, 3))

    def mean_square(calibration):
        q = model.quantize(X, calibration=calibration).parameters()
        scale, zero = q["0.input_scale"], float(q["0.input_zero_point"])
        rounded = np.rint(np.clip(X / scale, -zero, 255 - zero)) * scale
        return np.square(rounded - X).mean()

    found = {name: mean_square(name) for name in ("min_max", "percentile", "mse")}
    assert found["mse"] < min(found["min_max"], found["percentile"])


@pytest.mark.parametrize("shape", [(500, 784), (1000, 1024), (70_001, 2)])
def test_mse_looks_at_every_column(shape):
    """The sample that it is sought on does not miss the one that reaches far."""
    X = 0.01 * rows(*shape)
    X[:, 1] = rows(len(X), 1, seed=1)[:, 0]
    q = network((shape[1], 3)).quantize(X, calibration="mse").parameters()
    assert q["0.input_scale"] > 0.5 * 6 / 255


@pytest.mark.parametrize("calibration", ["min_max", "percentile", "mse"])
@pytest.mark.parametrize("sign", [1, -1])
def test_inputs_that_are_nearly_all_zero_are_not_all_rounded_away(calibration, sign):
    X = np.zeros((300, 500), F)
    X[::40, 7] = sign * np.linspace(0.05, 0.4, 8)
    model = network((500, 3))
    q = model.quantize(X, calibration=calibration)
    assert q.parameters()["0.input_scale"] == pytest.approx(0.4 / 255, rel=0.1)
    assert np.abs(q.predict(X) - model.predict(X)).max() < 1e-3


@pytest.mark.parametrize("calibration", ["min_max", "percentile", "mse"])
def test_ranges_of_one_side_keep_all_integers_for_it(calibration):
    """Outputs of relu, also of a calibration of one row."""
    model = network((6, 40, 3))
    for X in (rows(400, 6), rows(1, 6)):
        hidden = np.maximum(X @ model.parameters()["0.weight"] + model.parameters()["0.bias"], 0)
        q = model.quantize(X, calibration=calibration).parameters()
        assert q["1.input_zero_point"] == 0
        assert 0.5 * hidden.max() < 255 * q["1.input_scale"] < 1.001 * hidden.max()


def test_layers_can_be_kept_in_float():
    model = network((6, 8, 7, 5))
    X = rows(40, 6)
    for keep, numbers in [
        ("first", (1, 2)),
        (["last"], (0, 1)),
        (("first", "last"), (1,)),
        ([1], (0, 2)),
        (2, (0, 1)),
        (np.array([0, 2]), (1,)),
        ([np.int64(1)], (0, 2)),
        (np.int32(1), (0, 2)),
        (range(2), (2,)),
    ]:
        small = model.quantize(X, keep_float=keep)
        assert small.integer_layers == numbers
        kept = {0, 1, 2} - {*numbers}
        for layer in kept:
            weight = small.parameters()[f"{layer}.weight"]
            assert (weight == model.parameters()[f"{layer}.weight"]).all()


def test_the_model_does_not_change():
    model = network((6, 8, 5))
    before = model.parameters()
    model.quantize(rows(40, 6))
    assert all((value == before[name]).all() for name, value in model.parameters().items())


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"calibration": "best"}, rv.ArgumentError, "calibration: expected one of min_max, perc"),
        ({"calibration": None}, rv.ArgumentError, "calibration: expected one of"),
        ({"percentile": 99.0}, rv.ArgumentError, "percentile: expected it with calibration"),
        (
            {"calibration": "percentile", "percentile": 40},
            rv.ArgumentError,
            "percentile: expected",
        ),
        ({"keep_float": ["middle"]}, rv.ArgumentError, "keep_float: expected 'first', 'last' or"),
        ({"keep_float": [7]}, rv.ArgumentError, r"Dense layers \(0, 1\), got 7"),
        ({"keep_float": [True]}, rv.ArgumentError, "got True"),
        ({"keep_float": np.array([0.5])}, rv.ArgumentError, "got 0.5"),
        ({"keep_float": np.array([True])}, rv.ArgumentError, "got True"),
        ({"keep_float": 1.5}, rv.DTypeError, "keep_float: expected a list"),
        ({"keep_float": ["first", "last"]}, rv.ArgumentError, "expected a layer left to quantise"),
        ({"X": np.full((2, 3), np.nan)}, rv.ArgumentError, "X: expected finite numbers"),
        ({"X": np.ones((0, 3))}, rv.ShapeError, "X: expected at least one row"),
        ({"X": np.ones((2, 4))}, rv.ShapeError, "X: expected 3 features"),
    ],
)
def test_what_cannot_be_quantised_is_refused_by_name(options, kind, words):
    options = {"X": rows(5, 3)} | options
    with pytest.raises(kind, match=words):
        network((3, 4, 2)).quantize(**options)


def test_models_without_what_it_takes_are_refused():
    with pytest.raises(rv.NotFittedError, match="input_size"):
        rv.Sequential([rv.Dense(2)]).quantize(rows(3, 2))
    with pytest.raises(rv.ArgumentError, match="model: expected a Dense layer"):
        rv.Sequential([rv.LayerNorm()], input_size=2).quantize(rows(3, 2))
    large = rv.Sequential([rv.Dense(1)], input_size=1, dtype="float64")
    large.set_parameters({"0.weight": [[1e300]]})
    with pytest.raises(rv.ArgumentError, match="model: expected parameters that float32"):
        large.quantize([[1.0]])


def test_rows_that_float32_cannot_hold_are_refused():
    """Their scale would be infinite, and every prediction NaN."""
    deep = network((2, 3, 1), None, dtype="float64")
    with pytest.raises(rv.ArgumentError, match="X: expected finite numbers of float32"):
        deep.quantize(np.full((4, 2), 1e39))
    deep.set_parameters({"0.weight": np.full((2, 3), 1e20)})
    with pytest.raises(rv.ArgumentError, match="X: expected rows that give finite inputs of lay"):
        deep.quantize(np.full((4, 2), 1e30))


# ---------------------------------------------------------------- prediction


def test_rows_with_nan_give_nan_and_others_do_not_notice():
    model = network((5, 300, 70, 3))
    X = rows(200, 5)
    small = model.quantize(X)
    expected = small.predict(X)
    X[[3, 150], 2] = np.nan
    X[7, 0], X[8, 0] = np.inf, -np.inf
    found = small.predict(X)
    assert np.isnan(found[[3, 150]]).all()
    others = [row for row in range(200) if row not in (3, 7, 8, 150)]
    assert (found[others] == expected[others]).all()
    # Infinities are clipped to the range.
    assert np.isfinite(found[[7, 8]]).all()


@pytest.mark.parametrize(
    "change",
    [np.asfortranarray, lambda x: x[::-1][::-1], lambda x: x.astype(np.float64), list],
)
def test_it_takes_what_a_model_takes(change):
    X = rows(20, 6)
    small = network((6, 9, 4)).quantize(X)
    assert (small.predict(change(X)) == small.predict(X)).all()
    out = np.empty((20, 4), F)
    assert small.predict(X, out=out) is out
    with pytest.raises(rv.ShapeError, match="X: expected 6 features"):
        small.predict(rows(2, 5))


def test_it_is_no_model_to_train():
    small = network((3, 2)).quantize(rows(4, 3))
    with pytest.raises(rv.DTypeError, match=r"model: expected a ranvier\.Sequential"):
        rv.Trainer(small, loss="mse")
    assert not hasattr(small, "fit")


# ---------------------------------------------------------------- accuracy, size


def tasks():
    X, y = rv.datasets.load_digits()
    yield "digits", X, y
    rng = np.random.default_rng(3)
    centers = rng.normal(size=(8, 20))
    y = rng.integers(8, size=2400)
    yield "clusters", centers[y] + rng.normal(size=(2400, 20)), y
    X = rng.normal(size=(2400, 12)) * np.logspace(-1, 1, 12)
    yield "quadratic", X, (np.sin(X[:, 3]) * X[:, 8] + X[:, 1] > 0).astype(int)


@pytest.mark.parametrize("case", list(tasks()), ids=lambda case: case[0])
@pytest.mark.parametrize("calibration", ["min_max", "percentile", "mse"])
def test_accuracy_is_within_half_a_point_of_the_model(case, calibration):
    _, X, y = case
    layers = [rv.Standardize(), rv.Dense(128, "relu"), rv.Dense(64, "relu"), rv.Dense(y.max() + 1)]
    model = rv.Sequential(layers)
    train = slice(None, 2 * len(X) // 3)
    model.fit(X[train], y[train], loss="cross_entropy", epochs=15)
    small = model.quantize(X[train][:500], calibration=calibration)
    test = slice(2 * len(X) // 3, None)
    report = rv.quantization_report(model, small, X[test], y[test])
    assert abs(report.after["accuracy"] - report.before["accuracy"]) <= 0.005
    assert report.agreement > 0.985


def test_files_are_a_quarter_as_large(tmp_path):
    model = network((784, 512, 256, 10))
    model.save(tmp_path / "model.safetensors")
    model.quantize(rows(10, 784)).save(tmp_path / "small.safetensors")
    sizes = [
        (tmp_path / name).stat().st_size for name in ("small.safetensors", "model.safetensors")
    ]
    assert sizes[0] <= 0.27 * sizes[1]


# ---------------------------------------------------------------- files


def test_files_pickles_and_copies_have_the_same_bits(tmp_path):
    X = 3 + 2 * rows(50, 9, seed=4)
    small = mixed().quantize(X, keep_float="last")
    small.save(tmp_path / "small.safetensors")
    loaded = rv.load(tmp_path / "small.safetensors")
    for twin in (loaded, pickle.loads(pickle.dumps(small)), copy.deepcopy(small), small.copy()):
        assert isinstance(twin, rv.QuantizedSequential)
        assert repr(twin) == repr(small)
        assert (twin.predict(X) == small.predict(X)).all()
        for name, value in twin.parameters().items():
            assert value.dtype == small.parameters()[name].dtype
            assert value.tobytes() == small.parameters()[name].tobytes()


def small_file():
    return network((3, 4, 2)).quantize(rows(9, 3)).__reduce__()[1][0]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("integer_layers", [0], "tensor '0.weight': expected"),
        ("integer_layers", [5], "integer_layers"),
        ("integer_layers", "01", "integer_layers"),
        ("integer_layers", [[0]], "list"),
        ("integer_layers", [1, 0], "integer_layers"),
        ("integer_layers", [0, 1, 1], "integer_layers"),
        ("integer_layers", None, "integer_layers"),
        ("input_size", 4, "expected"),
        ("input_size", 0, "input_size"),
        ("layers", [], "a layer that is none"),
        ("layers", None, "layers"),
    ],
)
def test_a_definition_that_cannot_be_is_refused(key, value, words):
    header, data = parts(small_file())
    model = json.loads(header["__metadata__"]["ranvier.model"])
    model[key] = value
    header["__metadata__"]["ranvier.model"] = json.dumps(model)
    with pytest.raises(rv.FileFormatError):
        _from_bytes(forge(header, data))


def test_a_weight_that_quantising_does_not_give_is_refused():
    """The sum of many of them would not fit 32 bits."""
    header, data = parts(small_file())
    first = header["0.weight"]["data_offsets"][0]
    data = data[:first] + b"\x80" + data[first + 1 :]
    with pytest.raises(rv.FileFormatError, match="a weight of -128 in layer 0"):
        _from_bytes(forge(header, data))


@pytest.mark.parametrize("value", [256.0, -1.0, 0.5, np.nan, np.inf])
def test_a_zero_point_that_is_none_is_refused(value):
    header, data = parts(small_file())
    first, end = header["0.input_zero_point"]["data_offsets"]
    data = data[:first] + np.float32(value).tobytes() + data[end:]
    with pytest.raises(rv.FileFormatError, match=r"zero point|not finite"):
        _from_bytes(forge(header, data))


@pytest.mark.parametrize("name", ["0.input_scale", "2.weight_scale"])
@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_a_scale_that_is_none_is_refused(name, value):
    header, data = parts(small_file())
    first = header[name]["data_offsets"][0]
    data = data[:first] + np.float32(value).tobytes() + data[first + 4 :]
    with pytest.raises(rv.FileFormatError, match=r"scale|not finite"):
        _from_bytes(forge(header, data))


def test_damaged_files_are_refused():
    good = small_file()
    for place in range(0, len(good), 7):
        bad = bytearray(good)
        bad[place] ^= 0x20
        with pytest.raises(rv.FileFormatError):
            _from_bytes(bytes(bad))


# ---------------------------------------------------------------- weights in fewer bits


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_file_of_int8_weights_holds_what_its_integers_stand_for(tmp_path, dtype):
    model = rv.Sequential(
        [rv.Dense(40, "relu"), rv.LayerNorm(), rv.Dense(1)], input_size=70, dtype=dtype
    )
    path = tmp_path / "model.safetensors"
    model.save(path, weights="int8")
    loaded = rv.load(path)
    assert repr(loaded) == repr(model)
    for name, value in model.parameters().items():
        found = loaded.parameters()[name]
        if value.ndim == 2:
            scale = np.abs(value).max(axis=0) / value.dtype.type(127)
            assert (found == np.rint(value / scale) * scale).all()
        else:
            assert (found == value).all()
    # It is a model like any other.
    loaded.fit(rows(10, 70), rows(10, 1), loss="mse")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_file_of_bf16_weights_holds_the_nearest(tmp_path, dtype):
    model = network((9, 5, 2), dtype=dtype)
    model.set_parameters({"1.weight": np.full((5, 2), 3.4e38)})
    path = tmp_path / "model.safetensors"
    model.save(path, weights="bf16")
    found = rv.load(path).parameters()
    bits = model.parameters()["0.weight"].astype(F).view(np.uint32)
    nearest = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    assert (found["0.weight"] == nearest.astype(np.uint32).view(F)).all()
    # The largest bf16 stands for what is larger.
    assert (found["1.weight"] == F(np.uint32(0x7F7F0000).view(F))).all()
    assert (found["0.bias"] == model.parameters()["0.bias"]).all()


def test_files_of_narrow_weights_are_smaller(tmp_path):
    model = network((784, 512, 256, 10))
    path, sizes = tmp_path / "model.safetensors", {}
    for weights in (None, "bf16", "int8"):
        model.save(path, weights=weights)
        sizes[weights] = path.stat().st_size
    assert sizes["bf16"] < 0.51 * sizes[None]
    assert sizes["int8"] < 0.26 * sizes[None]


def test_integers_without_scales_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    network((3, 2)).save(path, weights="int8")
    header, data = parts(path.read_bytes())
    header["0.other"] = header.pop("0.weight_scale")
    path.write_bytes(forge(header, data))
    with pytest.raises(rv.FileFormatError, match=r"0\.other"):
        rv.load(path)


def test_files_for_another_call_are_refused_with_the_call_for_them(tmp_path):
    model, path = network((3, 2)), tmp_path / "model.safetensors"
    before = model.parameters()
    for weights, kind in [("int8", "I8"), ("bf16", "BF16")]:
        rv.Sequential([rv.Dense(2)], input_size=3, seed=9).save(path, weights=weights)
        with pytest.raises(rv.FileFormatError, match=rf"got {kind}; ranvier\.load reads"):
            model.load_weights(path)
    assert all((value == before[name]).all() for name, value in model.parameters().items())
    model.quantize(rows(5, 3)).save(path)
    with pytest.raises(rv.FileFormatError, match=r"quantised network, no model; ranvier\.load"):
        read_model(Reader(path))


@pytest.mark.parametrize("weights", ["int4", "", 8])
def test_other_widths_are_refused_and_nothing_is_written(tmp_path, weights):
    path = tmp_path / "model.safetensors"
    with pytest.raises((rv.ArgumentError, rv.DTypeError), match="weights: expected None or"):
        network((3, 2)).save(path, weights=weights)
    assert not path.exists()


# ---------------------------------------------------------------- report


def test_the_report_has_the_figures_of_both():
    model = network((4, 30, 3))
    X, y = rows(300, 4), np.arange(300) % 3
    model.fit(X, y, loss="cross_entropy")
    small = model.quantize(X)
    report = rv.quantization_report(model, small, X, y)
    trainer = rv.Trainer(model, loss="cross_entropy")
    assert report.before == trainer.evaluate(X, y)
    z, a = small.predict(X).astype(np.float64), model.predict(X)
    shifted = z - z.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(300), y]
    assert report.after["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert report.after["accuracy"] == pytest.approx((z.argmax(axis=1) == y).mean())
    assert report.max_deviations[-1] == np.abs(z - a).max()
    assert report.mean_deviations[-1] == pytest.approx(np.abs(z - a).mean())
    assert report.agreement == (z.argmax(axis=1) == a.argmax(axis=1)).mean()
    assert report.rows == 300
    assert report.sizes[1] == len(small.__reduce__()[1][0])
    text = str(report)
    assert "0 Dense int8" in text
    assert "the same class" in text
    assert f"accuracy {report.before['accuracy']:.6g} -> " in text


def test_the_report_follows_both_networks_through_every_layer():
    """Of the first layers of each, cut off behind every one, the outputs' differences."""
    model, X = mixed(), 3 + 2 * rows(60, 9, seed=4)
    small = model.quantize(X, keep_float=[4])
    report = rv.quantization_report(model, small, X)
    assert len(report.layers) == len(model.layers)
    numbers = {name: value.tobytes() for name, value in small.parameters().items()}
    for depth in range(1, len(model.layers) + 1):
        head = rv.Sequential(model.layers[:depth], input_size=9)
        head.set_parameters({n: model.parameters()[n] for n in head.parameters()})
        if depth == 1:
            assert report.max_deviations[0] == report.mean_deviations[0] == 0
            continue
        cut = head.quantize(X, keep_float=[4] if depth > 4 else ())
        assert all(numbers[name] == value.tobytes() for name, value in cut.parameters().items())
        difference = np.abs(cut.predict(X).astype(np.float64) - head.predict(X))
        assert report.max_deviations[depth - 1] == difference.max()
        assert report.mean_deviations[depth - 1] == difference.mean()
        assert report.scales[depth - 1] == np.abs(head.predict(X)).max()


@pytest.mark.parametrize(
    ("y", "outputs", "names"),
    [
        (np.arange(20) % 3, 3, {"loss", "accuracy"}),
        (np.arange(20) % 2, 1, {"loss", "accuracy"}),
        (np.linspace(0, 1, 20), 1, {"loss", "r2"}),
        (np.ones((20, 2)) * np.arange(20)[:, None], 2, {"loss", "r2"}),
        (None, 2, set()),
    ],
)
def test_the_report_takes_the_loss_that_suits_the_targets(y, outputs, names):
    model = network((4, outputs))
    report = rv.quantization_report(model, model.quantize(rows(20, 4)), rows(20, 4), y)
    assert {*report.before} == {*report.after} == names


def test_the_report_refuses_what_does_not_belong_together():
    model, X = network((4, 3)), rows(20, 4)
    small = model.quantize(X)
    for arguments, kind, words in [
        ((small, small, X), rv.DTypeError, "model: expected a ranvier.Sequential"),
        ((model, model, X), rv.DTypeError, "quantized: expected what model.quantize gives"),
        ((network((4, 2)), small, X), rv.ArgumentError, "quantized: expected the layers of"),
        ((model, small, X * np.inf), rv.ArgumentError, "X: expected finite"),
    ]:
        with np.errstate(invalid="ignore"), pytest.raises(kind, match=words):
            rv.quantization_report(*arguments)
    with pytest.raises(rv.ArgumentError, match="y: expected targets with loss"):
        rv.quantization_report(model, small, X, loss="mse")
    with pytest.raises(rv.ArgumentError, match="metrics: expected those of"):
        rv.quantization_report(model, small, X, X[:, :3], metrics=[lambda y, z: 0.0])
    model.set_parameters({"0.weight": np.full((4, 3), 3e38)})
    with pytest.raises(rv.ArgumentError, match="X: expected rows that give finite outputs of la"):
        rv.quantization_report(model, model.quantize(X), 100 * np.abs(X))


def test_the_report_draws_its_layers():
    plt = pytest.importorskip("matplotlib.pyplot")
    model = network((4, 6, 3))
    ax = rv.quantization_report(model, model.quantize(rows(9, 4)), rows(9, 4)).plot()
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["0 Dense int8", "1 Dense int8"]
    none = rv.Sequential([rv.Dense(2, weight_init="zeros")], input_size=4)
    ax = rv.quantization_report(none, none.quantize(rows(9, 4)), rows(9, 4)).plot()
    assert ax.get_xlim()[0] == 0
    plt.close("all")


# ---------------------------------------------------------------- training that knows of it


@pytest.mark.parametrize("activation", ["tanh", "relu", "softmax", "prelu"])
def test_training_agrees_with_the_reference(activation):
    layers = [
        rv.Dense(7, activation),
        rv.LayerNorm(eps=0.1),
        rv.Dense(6, "gelu", l2=0.01),
        rv.Dropout(0.2),
        rv.Dense(2),
    ]
    model = rv.Sequential(layers, input_size=5, seed=3, dtype="float64")
    twin = reference_of(model)
    X = np.random.default_rng(0).normal(size=(30, 5))
    y = X[:, :2] ** 2
    adam = rv.Adam(learning_rate=0.01, eps=1e-3)
    trainer = rv.Trainer(model, loss="mse", optimizer=adam, quantization="int8", seed=1)
    history = trainer.fit(X, y, epochs=3, batch_size=8)
    expected = reference.Trainer(
        twin, loss="mse", optimizer=as_reference(adam), quantization="int8", seed=1
    ).fit(X.tolist(), y.tolist(), epochs=3, batch_size=8)
    assert error(history["loss"], expected) < 1e-11
    for name, value in twin.parameters().items():
        assert error(model.parameters()[name], value) < 1e-11, name


def test_a_step_in_float32_multiplies_what_the_integers_stand_for():
    """A wide step, shared by threads, against NumPy."""
    model = rv.Sequential([rv.Dense(150, "tanh"), rv.Dense(3)], input_size=90, seed=2)
    before = {name: value.astype(np.float64) for name, value in model.parameters().items()}
    X, y = rows(400, 90), rows(400, 3, seed=1)
    sgd = rv.SGD(learning_rate=1.0)
    trainer = rv.Trainer(model, loss="mse", optimizer=sgd, quantization="int8")
    loss = trainer.fit(X, y, batch_size=400, shuffle=False)["loss"][0]

    def weight(w):
        scale = np.abs(w).max(axis=0) / 127
        return np.rint(w / scale) * scale

    def inputs(x):
        low, high = min(x.min(), 0), max(x.max(), 0)
        scale = (high - low) / 255
        zero = np.rint(-low / scale)
        return np.rint(np.clip(x / scale, -zero, 255 - zero)) * scale

    w = [weight(before[f"{layer}.weight"]) for layer in (0, 1)]
    x = inputs(X.astype(np.float64))
    a = np.tanh(x @ w[0] + before["0.bias"])
    h = inputs(a)
    z = h @ w[1] + before["1.bias"]
    assert loss == pytest.approx(np.mean((z - y) ** 2), rel=1e-4)
    d = 2 * (z - y) / y.size
    d_hidden = (d @ w[1].T) * (1 - a**2)
    expected = {"0.weight": x.T @ d_hidden, "1.weight": h.T @ d, "0.bias": d_hidden.sum(axis=0)}
    for name, gradient in expected.items():
        found = before[name] - model.parameters()[name]
        # A number near the middle of two integers may fall on the other side in float32.
        assert np.abs(found - gradient).max() < 5e-3 * np.abs(gradient).max(), name


def test_prediction_and_evaluation_stay_in_float():
    X, y = rows(64, 5), np.arange(64) % 3
    model = network((5, 8, 3))
    trainer = rv.Trainer(model, loss="cross_entropy", quantization="int8")
    history = trainer.fit(X, y, validation_data=(X, y))
    twin = network((5, 8, 3))
    twin.set_parameters(model.parameters())
    plain = rv.Trainer(twin, loss="cross_entropy").evaluate(X, y)
    assert history["val_loss"] == [plain["loss"]]
    assert (model.predict(X) == twin.predict(X)).all()


def test_rows_of_weight_zero_count_for_the_range_alone():
    X, y = rows(40, 5), rows(40, 2)
    far = np.vstack([X, 100 * X])
    weight = np.repeat([1.0, 0.0], 40)

    def loss(X, y, weight):
        trainer = rv.Trainer(network((5, 2)), loss="mse", quantization="int8")
        return trainer.fit(X, y, sample_weight=weight, batch_size=80)["loss"][0]

    near = loss(np.vstack([X, X]), np.vstack([y, -y]), weight)
    assert near == pytest.approx(loss(X, y, None), rel=1e-6)
    assert loss(far, np.vstack([y, y]), weight) != pytest.approx(near, rel=1e-3)


def test_a_network_learns_to_live_with_the_rounding():
    aware = plain = 0.0
    for seed in range(3):
        X = rows(500, 6, seed)
        y = np.tanh(X[:, 0]) + 0.5 * X[:, 1] * X[:, 2]
        model = network((6, 12, 8, 1), "tanh", seed)
        model.fit(X, y, loss="mse", epochs=300, optimizer=rv.Adam(learning_rate=0.01))
        twin, adam = model.copy(), rv.Adam(learning_rate=rv.schedules.Cosine(2e-3, steps=1600))
        rv.Trainer(twin, loss="mse", optimizer=adam, quantization="int8").fit(X, y, epochs=100)
        model.fit(X, y, loss="mse", optimizer=adam, epochs=100)
        aware += rv.quantization_report(twin, twin.quantize(X), X, y).after["loss"]
        plain += rv.quantization_report(model, model.quantize(X), X, y).after["loss"]
    assert aware < 0.95 * plain


def test_it_goes_on_from_a_file_as_if_nothing_had_happened(tmp_path):
    X, y = rows(60, 5), np.arange(60) % 3
    models = [network((5, 8, 3)) for _ in range(2)]
    trainers = [rv.Trainer(m, loss="cross_entropy", quantization="int8") for m in models]
    trainers[0].fit(X, y, epochs=4)
    trainers[1].fit(X, y, epochs=2)
    trainers[1].save(tmp_path / "run.safetensors")
    resumed = rv.Trainer.resume(tmp_path / "run.safetensors")
    assert resumed.quantization == "int8"
    assert "quantization='int8'" in repr(resumed)
    resumed.fit(X, y, epochs=2)
    for name, value in models[0].parameters().items():
        assert (resumed.model.parameters()[name] == value).all()
    assert pickle.loads(
        pickle.dumps(rv.Trainer(models[0], loss="mse", quantization="int8"))
    ).quantization


def test_runs_of_earlier_versions_are_read(tmp_path):
    path = tmp_path / "run.safetensors"
    trainer = rv.Trainer(network((3, 2)), loss="mse")
    trainer.fit(rows(8, 3), rows(8, 2))
    trainer.save(path)
    header, data = parts(path.read_bytes())
    run = json.loads(header["__metadata__"]["ranvier.run"])
    del run["quantization"]
    header["__metadata__"]["ranvier.run"] = json.dumps(run)
    path.write_bytes(forge(header, data))
    assert rv.Trainer.resume(path).quantization is None


def test_what_has_no_meaning_with_it_is_refused():
    X, y = rows(64, 5), rows(64, 3)
    model = network((5, 8, 3))
    before = model.parameters()
    for options, kind, words in [
        ({"quantization": "int4"}, rv.ArgumentError, "quantization: expected None or int8"),
        ({"quantization": 8}, rv.DTypeError, "quantization: expected None or a string"),
        (
            {"quantization": "int8", "precision": "bf16"},
            rv.ArgumentError,
            "quantization: expected None with precision",
        ),
        ({"precision": "int8"}, rv.ArgumentError, "precision: expected None or bf16"),
    ]:
        with pytest.raises(kind, match=words):
            rv.Trainer(model, loss="mse", **options)
    lbfgs = rv.Trainer(model, loss="mse", optimizer="lbfgs", quantization="int8")
    with pytest.raises(rv.ArgumentError, match="quantization: expected None for"):
        lbfgs.fit(X, y)
    trainer = rv.Trainer(model, loss="mse", quantization="int8")
    with pytest.raises(rv.ArgumentError, match="accumulate: expected 1 with quantization"):
        trainer.fit(X, y, batch_size=8, accumulate=2)
    assert all((value == before[name]).all() for name, value in model.parameters().items())
