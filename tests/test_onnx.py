"""`ranvier.export.onnx`: what is written runs in onnxruntime and says what the model says.

RANVIER_NETWORKS=500 runs the full count of random networks (`make onnx`).
"""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.checker
import onnxruntime
import pytest

import ranvier as rv
import ranvier.export._onnx as writer
from ranvier.export import _onnx_forms as forms
from ranvier.export._agreement import rows_of
from test_interchange import ACTIVATIONS, filled

NETWORKS = int(os.environ.get("RANVIER_NETWORKS", "60"))

# Over the largest output, or 1 where outputs are smaller: each layer rounds in proportion to its
# largest values, and products are added up in another order. float32 is the bar of the issue.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
DTYPES = list(TOLERANCE)
# Keras's default. A normalisation multiplies what was rounded before it by up to 1/√eps.
EPS = 1e-3


def network(seed):
    """Layers of every kind; dtype and first activation go round, so that no pair is missed."""
    draw = random.Random(seed)
    dtype = DTYPES[seed % 2]
    layers = [rv.Standardize()] if draw.random() < 0.5 else []
    for place in range(draw.randint(1, 4)):
        activation = (
            draw.choice(ACTIVATIONS) if place else ACTIVATIONS[seed // 2 % len(ACTIVATIONS)]
        )
        width = draw.choice([1, 2, 3, 8, 17, 65])
        layers.append(rv.Dense(width, activation, use_bias=draw.random() < 0.7))
        others = [
            rv.LayerNorm(eps=EPS),
            rv.BatchNorm(eps=EPS, momentum=0.3),
            rv.Softmax(),
            rv.Dropout(0.3),
            rv.GaussianNoise(0.2),
            rv.Activation(draw.choice(ACTIVATIONS)),
        ]
        layers += draw.sample(others, draw.randint(0, 2))
    layers += [rv.Standardize(of="targets")] if draw.random() < 0.3 else []
    return filled(layers, draw.choice([1, 4, 20]), dtype, seed)


def everything(dtype="float32", activation="gelu", seed=0):
    """One network of all kinds of layers."""
    layers = [
        rv.Standardize(),
        rv.Dense(9, activation),
        rv.LayerNorm(eps=EPS),
        rv.Activation(activation),
        rv.Dropout(0.3),
        rv.BatchNorm(eps=EPS, momentum=0.3),
        rv.GaussianNoise(0.1),
        rv.Dense(4, use_bias=False),
        rv.Softmax(),
        rv.Dense(3),
        rv.Standardize(of="targets"),
    ]
    return filled(layers, 5, dtype, seed)


def small(**options):
    return rv.Sequential([rv.Dense(3, activation="relu"), rv.Dense(2)], input_size=4, **options)


def relative(agreement):
    return agreement.max_error / max(agreement.scale, 1.0)


def run(path, X):
    options = onnxruntime.SessionOptions()
    # Products of integers that do not saturate, on any processor.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (outputs,) = session.run(["output"], {"X": X})
    return outputs


# ---------------------------------------------------------------- agreement


def test_random_networks_agree_with_onnxruntime(tmp_path):
    path = tmp_path / "model.onnx"
    worst = dict.fromkeys(DTYPES, 0.0)
    seen = set()
    classes = 0
    for seed in range(NETWORKS):
        model = network(seed)
        dtype = model.dtype.name
        seen |= {(type(layer).__name__, dtype) for layer in model.layers}
        seen |= {(str(getattr(layer, "activation", None)), dtype) for layer in model.layers}
        X = np.random.default_rng(seed).normal(size=(64, model.input_size)).astype(dtype)
        agreement = rv.export.onnx(model, path, X=X)
        onnx.checker.check_model(onnx.load(path), full_check=True)
        assert agreement.rows == 64, agreement
        expected, found = model.predict(X), run(path, X)
        scale = max(np.abs(expected).max(), 1.0)
        error = float(np.abs(found - expected).max() / scale)
        worst[dtype] = max(worst[dtype], error)
        assert error <= TOLERANCE[dtype], (seed, error, model)
        assert relative(agreement) <= TOLERANCE[dtype]
        if model.output_size > 1:
            best = np.sort(expected, axis=1)
            clear = best[:, -1] - best[:, -2] > TOLERANCE[dtype] * scale
            classes += clear.sum()
            assert (found.argmax(1) == expected.argmax(1))[clear].all(), seed
    print(f"\n{NETWORKS} networks, largest differences {worst}, {classes} rows with a clear class")
    if NETWORKS >= 60:
        kinds = ["Standardize", "Dense", "LayerNorm", "BatchNorm", "Softmax", "Dropout"]
        kinds += ["GaussianNoise", "Activation", *map(str, ACTIVATIONS)]
        assert {(kind, dtype) for kind in kinds for dtype in DTYPES} <= seen
        assert classes > 10 * NETWORKS


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_every_activation_agrees_far_from_zero(activation, dtype, tmp_path):
    model = filled([rv.Activation(activation)], 3, dtype, 0)
    line = np.linspace(-50, 50, 3003).reshape(-1, 3)
    agreement = rv.export.onnx(model, tmp_path / "model.onnx", X=line)
    assert agreement.rows == 1001
    # Of one activation alone: 2e-7 is two units in the last place of a float32.
    assert relative(agreement) <= {"float32": 3e-7, "float64": 1e-15}[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_every_activation_agrees_at_huge_values_and_nan(activation, dtype, tmp_path):
    model = filled([rv.Activation(activation)], 1, dtype, 0)
    huge = np.array([[-1e30], [-1e8], [-200.0], [-0.0], [1e8], [np.nan]], dtype)
    assert rv.export.onnx(model, tmp_path / "model.onnx", X=huge).rows == 6
    found, expected = run(tmp_path / "model.onnx", huge), model.predict(huge)
    assert np.allclose(found, expected, rtol=TOLERANCE[dtype], atol=1e-15, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("opset", range(forms.OLDEST, onnx.defs.onnx_opset_version() + 1))
def test_every_opset_says_the_same(opset, dtype, tmp_path):
    path = tmp_path / "model.onnx"
    for activation in ("gelu", "elu", "hard_swish", "prelu"):
        agreement = rv.export.onnx(everything(dtype, activation), path, opset=opset)
        if not agreement.rows:
            # An onnxruntime that is older than onnx says so.
            assert "opset" in agreement.reason
            continue
        assert relative(agreement) <= TOLERANCE[dtype]
    assert onnx.load(path).opset_import[0].version == opset


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_number_of_rows_goes_in(dtype, tmp_path):
    model = everything(dtype)
    rv.export.onnx(model, tmp_path / "model.onnx", check=False)
    X = np.random.default_rng(0).normal(size=(9, 5)).astype(dtype)
    for count in (1, 2, 9):
        found = run(tmp_path / "model.onnx", X[:count])
        assert found.dtype == dtype
        assert np.allclose(found, model.predict(X[:count]), rtol=0, atol=1e-5)


def test_nan_stays_in_its_row(tmp_path):
    model = rv.Sequential([rv.Dense(4, "gelu"), rv.Dense(2, "silu")], input_size=3)
    X = np.zeros((3, 3), np.float32)
    X[1, 1] = np.nan
    agreement = rv.export.onnx(model, tmp_path / "model.onnx", X=X)
    assert agreement.max_error < 1e-6


def test_a_model_of_layers_that_only_train_is_the_identity(tmp_path):
    model = rv.Sequential([rv.GaussianNoise(0.5)], input_size=3)
    assert rv.export.onnx(model, tmp_path / "model.onnx").bit_equal


def test_trained_digits_agree_in_class(tmp_path):
    X, y = rv.datasets.load_digits()
    model = rv.Sequential([rv.Standardize(), rv.Dense(32, activation="relu"), rv.Dense(10)])
    model.fit(X, y, loss="cross_entropy", epochs=3)
    agreement = rv.export.onnx(model, tmp_path / "model.onnx", X=X)
    assert agreement.rows == 1797
    assert relative(agreement) < 1e-6
    found = run(tmp_path / "model.onnx", X.astype(np.float32))
    assert (found.argmax(1) == model.predict(X).argmax(1)).all()


# ---------------------------------------------------------------- quantised


def kinds_of(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def test_random_quantised_networks_agree_with_onnxruntime(tmp_path):
    """As read back, with the biases of the file, to the bar of floats; as they were, nearly."""
    path = tmp_path / "model.onnx"
    read, rounded, differing, total = [], [], 0, 0
    for seed in range(NETWORKS):
        model = network(seed)
        X = np.random.default_rng(seed).normal(size=(64, model.input_size)).astype(np.float32)
        quantized = model.quantize(X[:48])
        agreement = rv.export.onnx(quantized, path, X=X)
        onnx.checker.check_model(onnx.load(path), full_check=True)
        found, expected = run(path, X), quantized.predict(X)
        assert agreement.max_error == pytest.approx(np.abs(found - expected).max(), rel=1e-6)
        scale = max(agreement.scale, 1.0)
        rounded.append(agreement.max_error / scale)
        # An input halfway between two integers may become the other one.
        deviations = np.abs(rv.from_onnx(path).predict(X) - found).max(axis=1) / scale
        read.append((deviations > TOLERANCE["float32"]).mean())
        if model.output_size > 1:
            differing += (found.argmax(1) != expected.argmax(1)).sum()
            total += len(X)
    print(
        f"\n{NETWORKS} quantised networks, largest differences: median {np.median(rounded):.1e}, "
        f"mean {np.mean(rounded):.1e}, all {max(rounded):.1e}; another class in {differing} of "
        f"{total} rows; rows that differ once read back {np.mean(read):.1e}"
    )
    assert np.mean(read) <= 1e-3
    assert np.median(rounded) <= 1e-4
    assert max(rounded) <= 0.05
    assert differing <= 1e-3 * total


def test_each_step_of_a_quantised_layer_is_one_that_onnxruntime_makes_integers_of(tmp_path):
    path = tmp_path / "model.onnx"
    model = small()
    rv.export.onnx(model.quantize(np.eye(4)), path)
    product = ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "DequantizeLinear", "Gemm"]
    assert kinds_of(path) == [*product, "Relu", *product]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    assert kinds_of(tmp_path / "optimised.onnx") == ["QuantizeLinear", "QGemm", "QGemm"]


def test_layers_that_stay_in_float_are_written_as_such(tmp_path):
    path = tmp_path / "model.onnx"
    quantized = everything(activation="prelu").quantize(
        np.random.default_rng(0).normal(size=(50, 5)), keep_float=["first", "last"]
    )
    agreement = rv.export.onnx(quantized, path)
    assert relative(agreement) <= TOLERANCE["float32"]
    assert kinds_of(path).count("QuantizeLinear") == 1
    assert kinds_of(path).count("Gemm") == 2
    tensors = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
    for name, value in quantized.parameters().items():
        if not name.endswith(("running_mean", "running_var")):
            assert onnx.numpy_helper.to_array(tensors[name]).dtype == value.dtype


@pytest.mark.parametrize("change", [{"1.bias": [1e9, 1]}, {"1.weight": [[0, 1]] * 3}], ids=str)
def test_a_bias_that_integers_do_not_suit_stays_exact(change, tmp_path):
    path = tmp_path / "model.onnx"
    model = small()
    model.set_parameters({"0.bias": [0.5, 1 / 3, -0.1], "1.bias": [1 / 3, 0.7]} | change)
    X = np.random.default_rng(0).normal(size=(100, 4))
    quantized = model.quantize(X)
    rv.export.onnx(quantized, path, X=X)
    assert kinds_of(path)[-2:] == ["MatMul", "Add"]
    read, written = (each.parameters() for each in (rv.from_onnx(path), quantized))
    assert (read["1.bias"] == written["1.bias"]).all()
    step = written["0.input_scale"] * written["0.weight_scale"]
    assert (np.abs(read["0.bias"] - written["0.bias"]) <= 0.5001 * step).all()
    assert not np.array_equal(read["0.bias"], written["0.bias"])


def test_the_largest_biases_of_integers_do_not_overflow_the_sum(tmp_path):
    path = tmp_path / "model.onnx"
    model = rv.Sequential([rv.Dense(1, weight_init="ones")], input_size=40)
    X = np.concatenate([np.zeros((1, 40)), np.ones((1, 40))])
    step = model.quantize(X).parameters()
    step = float(step["0.input_scale"]) * float(step["0.weight_scale"][0])
    most = 2**31 - 1 - 255 * 127 * 40
    for bias, last in ((0.999999 * most, "Gemm"), (1.000001 * most, "Add")):
        model.set_parameters({"0.bias": [bias * step]})
        agreement = rv.export.onnx(model.quantize(X), path, X=X)
        assert kinds_of(path)[-1] == last
        assert relative(agreement) <= TOLERANCE["float32"]


@pytest.mark.parametrize("opset", range(forms.OLDEST, onnx.defs.onnx_opset_version() + 1))
def test_every_opset_says_the_same_of_a_quantised_network(opset, tmp_path):
    X = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
    agreement = rv.export.onnx(everything().quantize(X), tmp_path / "m.onnx", X=X, opset=opset)
    if agreement.rows:
        assert relative(agreement) <= 1e-2
    else:
        # An onnxruntime that is older than onnx says so.
        assert "opset" in agreement.reason or f"QuantizeLinear({opset})" in agreement.reason


# ---------------------------------------------------------------- the report


def test_the_report_tells_who_ran_what(tmp_path):
    path = str(tmp_path / "model.onnx")
    agreement = rv.export.onnx(small(), path)
    assert (agreement.format, agreement.paths, agreement.rows) == ("onnx", (path,), 64)
    assert agreement.runner == f"onnxruntime {onnxruntime.__version__}"
    assert "64 rows run by onnxruntime" in str(agreement)


def test_the_report_sees_a_graph_that_says_something_else(tmp_path, monkeypatch):
    wrong = [forms.Form(forms.op("Neg", forms.X))]
    monkeypatch.setitem(forms.ACTIVATIONS, "relu", wrong)
    agreement = rv.export.onnx(small(), tmp_path / "model.onnx")
    assert not agreement.bit_equal
    assert agreement.max_error > 0.1 * agreement.scale


def test_without_onnxruntime_the_file_is_written_and_not_run(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    agreement = rv.export.onnx(small(), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").exists()
    assert (agreement.rows, agreement.runner) == (0, None)
    assert "ranvier[onnx]" in agreement.reason


def test_a_runtime_that_refuses_is_told_of(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("opset 99 is not known")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    agreement = rv.export.onnx(small(), tmp_path / "model.onnx")
    assert agreement.rows == 0
    assert "opset 99 is not known" in agreement.reason


def test_check_false_does_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(onnxruntime, "InferenceSession", None)
    agreement = rv.export.onnx(small(), tmp_path / "model.onnx", check=False)
    assert agreement.reason == "check=False"
    assert "not run" in str(agreement)


def test_a_model_that_is_trained_meanwhile_is_compared_as_it_was_written(tmp_path, monkeypatch):
    model = small()

    def then_trained(*arguments):
        data = serialised(*arguments)
        model.fit(np.eye(4), np.ones((4, 2)), loss="mse")
        return data

    serialised = writer._serialised
    monkeypatch.setattr(writer, "_serialised", then_trained)
    agreement = rv.export.onnx(model, tmp_path / "model.onnx")
    assert relative(agreement) < 1e-6


def test_rows_that_are_drawn_suit_the_inputs_and_differ(tmp_path):
    model = filled([rv.Standardize(), rv.Dense(2)], 3, "float64", 0)
    model.set_parameters({"0.running_mean": [1e6, 0, 7], "0.running_var": [1e8, 0, 0]})
    rows = rows_of(model, None)
    # What was not measured passes as it is.
    assert np.allclose(rows.mean(0), [1e6, 0, 0], atol=[5e3, 0.5, 0.5])
    assert np.allclose(rows.std(0), [1e4, 1, 1], rtol=0.3)


# ---------------------------------------------------------------- the file


def test_names_and_origin_are_in_the_file(tmp_path):
    model = everything()
    rv.export.onnx(model, tmp_path / "model.onnx")
    proto = onnx.load(tmp_path / "model.onnx")
    (entry,), (result,) = proto.graph.input, proto.graph.output
    assert (entry.name, result.name) == ("X", "output")
    for value, size in ((entry, 5), (result, 3)):
        rows, features = value.type.tensor_type.shape.dim
        assert (rows.dim_param, features.dim_value) == ("rows", size)
    assert (proto.producer_name, proto.producer_version) == ("ranvier", rv.__version__)
    assert proto.doc_string == repr(model)
    texts = {entry.key: entry.value for entry in proto.metadata_props}
    assert texts == {"ranvier.version": rv.__version__, "ranvier.numerics": "1"}
    # What runtimes of 2022 take.
    assert (proto.opset_import[0].version, proto.ir_version) == (17, 8)
    names = [node.name for node in proto.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)


def test_parameters_keep_their_names_and_bits(tmp_path):
    model = small()
    rv.export.onnx(model, tmp_path / "model.onnx")
    tensors = onnx.load(tmp_path / "model.onnx").graph.initializer
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in tensors}
    expected = model.parameters()
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], value) for name, value in expected.items())


def test_the_same_model_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        rv.export.onnx(everything("float64"), tmp_path / name, check=False)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_float32_of_the_default_opset_has_one_operator_for_each_step(tmp_path):
    model = rv.Sequential(
        [rv.Dense(4, "leaky_relu"), rv.LayerNorm(), rv.BatchNorm(), rv.Dense(2, use_bias=False)],
        input_size=3,
    )
    rv.export.onnx(model, tmp_path / "model.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert kinds == ["Gemm", "LeakyRelu", "LayerNormalization", "BatchNormalization", "MatMul"]


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (rv.ArgumentError, "opset: expected an integer", {"opset": 12}),
        (rv.ArgumentError, "opset: expected an integer", {"opset": 10**6}),
        (rv.DTypeError, "opset", {"opset": "17"}),
        (rv.DTypeError, "check", {"check": "yes"}),
        (rv.ShapeError, "X: expected 4 features", {"X": np.zeros((2, 3))}),
        (rv.ArgumentError, "X: expected None", {"X": np.zeros((2, 4)), "check": False}),
    ],
    ids=str,
)
def test_bad_arguments_write_nothing(error, match, options, tmp_path):
    with pytest.raises(error, match=match):
        rv.export.onnx(small(), tmp_path / "model.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_models_that_are_none_are_refused(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(rv.DTypeError, match=r"model: expected a .*Sequential, got dict"):
        rv.export.onnx({}, path)
    with pytest.raises(rv.NotFittedError, match="input_size"):
        rv.export.onnx(rv.Sequential([rv.Dense(1)]), path)
    with pytest.raises(rv.DTypeError, match="path"):
        rv.export.onnx(small(), 3)
    assert not list(tmp_path.iterdir())


def test_more_than_one_file_can_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "LARGEST", 4 * (4 * 3 + 3 + 3 * 2 + 2))
    with pytest.raises(rv.ArgumentError, match="fewer than 92 bytes, got 92"):
        rv.export.onnx(small(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(writer, "LARGEST", writer.LARGEST + 1)
    rv.export.onnx(small(), tmp_path / "model.onnx")


@pytest.mark.parametrize("place", ["checker", "disk"])
def test_what_fails_leaves_the_old_file(place, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    if place == "disk":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(onnx.checker, "check_model", fail)
    with pytest.raises(OSError, match="No space"):
        rv.export.onnx(small(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_onnx_is_named(tmp_path, monkeypatch):
    for name in ["onnx", *(name for name in sys.modules if name.startswith("onnx."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(rv.MissingDependencyError, match=r"ranvier\[onnx\]"):
        rv.export.onnx(small(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_importing_ranvier_and_its_export_imports_no_onnx():
    code = "import sys, ranvier; ranvier.export, ranvier.interchange; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"onnx", "onnxruntime", "google"} & set(done.stdout.split())


def test_every_form_is_written_or_read_from_somewhere_else():
    """A form that is written for no dtype and opset is there for other people's files."""
    table = forms.ACTIVATIONS | forms.LAYERS
    newest = onnx.defs.onnx_opset_version()
    used = {
        id(forms.written(kind, dtype, opset))
        for kind, entries in table.items()
        if any(form.dtypes for form in entries)
        for dtype in DTYPES
        for opset in range(forms.OLDEST, newest + 1)
    }
    for kind, entries in table.items():
        for form in entries:
            assert (id(form.expression) in used) == bool(form.dtypes), kind


def test_the_make_target_runs_the_full_count():
    makefile = (Path(__file__).parent.parent / "Makefile").read_text(encoding="utf-8")
    assert "RANVIER_NETWORKS=500 pytest -s tests/test_onnx.py" in makefile
    assert "RANVIER_CHANGES=2000 pytest tests/test_from_onnx.py" in makefile
