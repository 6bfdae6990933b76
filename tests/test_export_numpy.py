"""Networks as one Python file: `predict` up to rounding, by NumPy alone."""

import ast
import base64
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import ranvier as rv
from networks import ACTIVATIONS, alike, moved, quantized_network, random_network, rows
from ranvier.export import _numpy

# Of the largest output; a few layers amplify what each one rounds.
CLOSE = {"float32": 1e-5, "float64": 1e-13}


def predict_of(path):
    """The `predict` of a file, which sees nothing of this process."""
    scope = {"__name__": path.stem}
    exec(compile(path.read_text(encoding="utf-8"), path, "exec"), scope)
    return scope["predict"]


@pytest.mark.parametrize("seed", range(40))
def test_random_networks_agree_with_predict(seed, tmp_path):
    model = random_network(seed)
    path = tmp_path / "network.py"
    x = rows(model, np.random.default_rng(seed), overflow=False)
    rv.export.numpy(model, path, check=False)
    found, expected = predict_of(path)(x), model.predict(x)
    assert found.dtype == model.dtype
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    scale = max(1.0, np.abs(expected[np.isfinite(expected)]).max(initial=0.0))
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE[model.dtype.name] * scale)


@pytest.mark.parametrize("seed", range(20))
def test_random_quantized_networks_agree_with_predict(seed, tmp_path):
    model = quantized_network(seed)
    path = tmp_path / "network.py"
    x = rows(model, np.random.default_rng(seed), overflow=False)
    rv.export.numpy(model, path, check=False)
    found, expected = predict_of(path)(x), model.predict(x)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    scale = max(1.0, np.abs(expected[np.isfinite(expected)]).max(initial=0.0))
    # Where exp differs in the last place, an input halfway between two integers may be the other.
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.05 * scale)
    near = np.isclose(found, expected, rtol=0, atol=CLOSE["float32"] * scale, equal_nan=True)
    assert near.mean() > 0.9


@pytest.mark.parametrize("sign", [0, 1, -1])
def test_sums_of_integers_give_the_bits_of_predict(sign, tmp_path):
    """Where all that is around them is exact too: no exp, no sums of floats."""
    layers = [
        rv.Dense(70, activation="relu"),
        rv.BatchNorm(),
        rv.Dense(33, activation=rv.activations.LeakyReLU(0.2), use_bias=False),
        rv.BatchNorm(),
        rv.Dense(40, activation="hard_swish"),
        rv.Dense(20, activation="hard_sigmoid"),
        rv.Dense(3),
    ]
    rng = np.random.default_rng(0)
    model = moved(rv.Sequential(layers, input_size=600), rng)
    x = rng.normal(size=(100, 600))
    model = model.quantize(x if sign == 0 else sign * abs(x))
    assert rv.export.numpy(model, tmp_path / "network.py", X=x).bit_equal
    scale = model.parameters()["0.input_scale"]
    halves = rng.integers(-600, 600, (100, 600)) * scale / 2
    x = np.concatenate([x, halves, 2 * abs(halves), rows(model, rng, 40)]).astype(np.float32)
    found, expected = predict_of(tmp_path / "network.py")(x), model.predict(x)
    assert alike(found, expected)
    assert np.isnan(model.predict(x)).any()


def test_sums_that_float32_does_not_hold_are_rounded_as_by_predict(tmp_path):
    rng = np.random.default_rng(0)
    model = rv.Sequential([rv.Dense(50)], input_size=4000)
    model.set_parameters({"0.weight": rng.uniform(0.5, 1.0, (4000, 50))})
    x = rng.uniform(0.5, 1.0, (50, 4000))
    assert rv.export.numpy(model.quantize(x), tmp_path / "network.py", X=x).bit_equal


def test_weights_of_quantized_networks_are_bytes(tmp_path):
    model = moved(rv.Sequential([rv.Dense(100)], input_size=200), np.random.default_rng(0))
    sizes = []
    for network in (model, model.quantize(np.eye(200))):
        rv.export.numpy(network, tmp_path / "network.py", check=False)
        sizes.append((tmp_path / "network.py").stat().st_size)
    assert sizes[1] < 0.3 * sizes[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations_agree_with_predict(activation, dtype, tmp_path):
    model = rv.Sequential([rv.Activation(activation)], input_size=1, dtype=dtype)
    x = np.concatenate([np.linspace(-30, 30, 2001), [np.nan, np.inf, -np.inf, 0.0, -1e4, 1e4]])
    x = x.astype(dtype)[:, None]
    rv.export.numpy(model, tmp_path / "network.py", check=False)
    found, expected = predict_of(tmp_path / "network.py")(x), model.predict(x)
    assert found.dtype == model.dtype
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(found, expected, rtol=8 * eps, atol=8 * eps)


def test_the_report_comes_from_a_fresh_interpreter(tmp_path):
    model = random_network(1)
    agreement = rv.export.numpy(model, tmp_path / "network.py")
    assert agreement.format == "numpy"
    assert agreement.paths == (str(tmp_path / "network.py"),)
    assert agreement.runner.startswith("Python 3.")
    assert f"NumPy {np.__version__}" in agreement.runner
    assert agreement.rows == 64
    assert agreement.max_error <= CLOSE[model.dtype.name] * max(1.0, agreement.scale)


def test_the_report_is_of_the_rows_that_are_given(tmp_path):
    model = rv.Sequential([rv.Activation("relu")], input_size=2)
    X = [[1, 2], [3, np.nan], [-np.inf, np.inf]]
    agreement = rv.export.numpy(model, tmp_path / "network.py", X=X)
    assert (agreement.rows, agreement.max_error, agreement.bit_equal) == (3, 0.0, True)


def test_the_report_says_how_far_outputs_differ(tmp_path, monkeypatch):
    model = moved(rv.Sequential([rv.Dense(3)], input_size=2), np.random.default_rng(0))
    monkeypatch.setitem(_numpy._LINES, "dense", "a @ {weight} + {bias} + 0.5")
    agreement = rv.export.numpy(model, tmp_path / "network.py")
    assert not agreement.bit_equal
    assert agreement.max_error == pytest.approx(0.5, rel=1e-5)
    monkeypatch.setitem(_numpy._LINES, "dense", "nothing @ {weight}")
    agreement = rv.export.numpy(model, tmp_path / "network.py")
    assert agreement.rows == 0
    assert "NameError" in agreement.reason


def test_without_an_interpreter_the_file_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    agreement = rv.export.numpy(random_network(1), tmp_path / "network.py")
    assert (agreement.rows, agreement.runner) == (0, None)
    assert (tmp_path / "network.py").exists()


def test_the_file_imports_numpy_alone(tmp_path):
    everything = [layer for a in ACTIVATIONS for layer in (rv.Dense(20, activation=a),)]
    rv.export.numpy(rv.Sequential(everything, input_size=3), tmp_path / "network.py", check=False)
    tree = ast.parse((tmp_path / "network.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imports for alias in node.names}
    assert names == {"base64", "math", "sys", "numpy"}


def test_the_file_has_the_functions_that_it_needs_and_no_others(tmp_path):
    model = rv.Sequential([rv.Dense(2, activation="hard_swish")], input_size=3)
    rv.export.numpy(model, tmp_path / "network.py", check=False)
    tree = ast.parse((tmp_path / "network.py").read_text(encoding="utf-8"))
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert names == {"gated", "hard_sigmoid", "hard_swish", "predict"}


def test_the_file_runs_on_a_table(tmp_path):
    model = moved(rv.Sequential([rv.Dense(2)], input_size=3), np.random.default_rng(0))
    rv.export.numpy(model, tmp_path / "network.py", check=False)
    (tmp_path / "rows.csv").write_text("1,2,3\n4,5,6\n")
    command = [sys.executable, tmp_path / "network.py", tmp_path / "rows.csv"]
    printed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    found = np.array([line.split(",") for line in printed.splitlines()], np.float32)
    np.testing.assert_allclose(found, model.predict([[1, 2, 3], [4, 5, 6]]), rtol=1e-5)
    alone = subprocess.run(command[:2], capture_output=True, check=False, text=True)
    assert (alone.returncode, alone.stderr) == (1, "usage: python network.py rows.csv\n")


def test_other_shapes_are_refused_and_no_rows_are_fine(tmp_path):
    rv.export.numpy(random_network(3), tmp_path / "network.py", check=False)
    predict = predict_of(tmp_path / "network.py")
    model = random_network(3)
    assert predict(np.zeros((0, model.input_size))).shape == (0, model.output_size)
    with pytest.raises(ValueError, match=r"X: expected shape \(rows, "):
        predict(np.zeros(model.input_size))
    with pytest.raises(ValueError, match=r"X: expected shape \(rows, "):
        predict(np.zeros((1, model.input_size + 1)))


def test_means_are_taken_from_rows_before_they_are_rounded(tmp_path):
    model = rv.Sequential([rv.Standardize()], input_size=1)
    model.set_parameters({"0.running_mean": [1e8], "0.running_var": [1.0]})
    rv.export.numpy(model, tmp_path / "network.py", check=False)
    X = np.array([[1e8 + 1.25]])
    assert predict_of(tmp_path / "network.py")(X) == model.predict(X) == 1.25


def test_outputs_are_no_view_of_the_inputs(tmp_path):
    rv.export.numpy(rv.Sequential([rv.Dropout(0.5)], input_size=2), tmp_path / "network.py")
    X = np.ones((1, 2), np.float32)
    assert not np.shares_memory(predict_of(tmp_path / "network.py")(X), X)


FINITE = {"allow_nan": False, "allow_infinity": False}


@given(
    st.sampled_from([np.float32, np.float64, np.int8]).flatmap(
        lambda dtype: arrays(
            dtype,
            st.sampled_from([(1,), (7,), (40,), (3, 5), (2, 100), (300,), (20, 20)]),
            elements=st.integers(-128, 127)
            if dtype is np.int8
            else st.floats(width=np.dtype(dtype).itemsize * 8, **FINITE),
        )
    )
)
def test_arrays_are_written_exactly(array):
    scope = {"np": np, "base64": base64}
    exec(_numpy._DECODER + _numpy._array("found", array), scope)
    assert scope["found"].dtype == array.dtype
    assert scope["found"].shape == array.shape
    assert scope["found"].tobytes() == array.tobytes()


def test_lines_have_at_most_100_characters(tmp_path):
    for seed in range(5):
        rv.export.numpy(random_network(seed), tmp_path / "network.py", check=False)
        lines = (tmp_path / "network.py").read_text(encoding="utf-8").splitlines()
        assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    "name", ["network", "network.txt", "my-network.py", "1.py", "numpy.py", "math.py", "class.py"]
)
def test_files_that_cannot_be_imported_are_refused(name, tmp_path):
    with pytest.raises(rv.ArgumentError, match="path: expected a file"):
        rv.export.numpy(random_network(0), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_what_is_wrong_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "network.py"
    path.write_text("old")
    model = rv.Sequential([rv.Dense(2)], input_size=3)
    with pytest.raises(rv.DTypeError, match=r"model: expected a ranvier\.Sequential"):
        rv.export.numpy("model", path)
    with pytest.raises(rv.NotFittedError, match="input_size"):
        rv.export.numpy(rv.Sequential([rv.Dense(2)]), path)
    with pytest.raises(rv.ShapeError, match="X: expected 3 features"):
        rv.export.numpy(model, path, X=np.zeros((2, 4)))
    with pytest.raises(rv.ShapeError, match="X: expected at least one row"):
        rv.export.numpy(model, path, X=np.zeros((0, 3)))
    with pytest.raises(rv.DTypeError, match="check: expected"):
        rv.export.numpy(model, path, check=1)
    with pytest.raises(rv.DTypeError, match="path: expected a path"):
        rv.export.numpy(model, 3)
    assert path.read_text() == "old"
    with pytest.raises(FileNotFoundError):
        rv.export.numpy(model, tmp_path / "missing" / "network.py")
