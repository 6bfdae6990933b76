"""`ranvier.from_onnx`: graphs of ranvier's, PyTorch's and scikit-learn's, or a refusal by name.

tests/data/torch_onnx.npz holds what PyTorch has written. scikit-learn's converter is no part of the
tests: its graphs are built here as it builds them.
"""

import os
import random
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler

import ranvier as rv
from conftest import error
from test_interchange import ACTIVATIONS, EQUAL, stacks
from test_interchange import filled as filled_model
from test_onnx import network

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# Each is another network with one change.
CHANGES = int(os.environ.get("RANVIER_CHANGES", "150"))
# An operator that is changed may keep a constant that is an attribute, in float32, in float64.
TOLERANCE = {"float32": 2e-5, "float64": 1e-7}

ELEMENTS = {"float32": "float", "float64": "double"}


def graph(body, *, x="X[N, 3]", y="Y[N, 2]", dtype="float32", opset=17, domains="", **tensors):
    """A model of a graph in ONNX's text form, with tensors by name."""
    element = ELEMENTS[dtype]
    inputs, outputs = (
        re.sub(r"(\w+)\[", rf"{element}[", value, count=1).replace(
            "]", f"] {value.split('[')[0]}", 1
        )
        for value in (x, y)
    )
    header = f'<ir_version: 8, opset_import: ["" : {opset}{domains}]>'
    model = parser.parse_model(f"{header} g ({inputs}) => ({outputs}) {{ {body} }}")
    for name, value in tensors.items():
        value = np.asarray(value)
        value = value.astype(dtype) if value.dtype.kind == "f" else value
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


def run(model, X, *, as_it_says=False):
    """All outputs, by onnxruntime; as the graph says, without what makes it faster."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if as_it_says:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: X})


def agrees(model, features=3, factor=1):
    """The model of a graph, which predicts what onnxruntime says."""
    read = rv.from_onnx(model)
    X = np.random.default_rng(0).normal(size=(7, features)).astype(read.dtype)
    (expected,) = run(model, X)
    assert error(read.predict(X), expected, 1.0) <= factor * EQUAL[read.dtype.name]
    return read


RNG = np.random.default_rng(0)
W, B = RNG.normal(size=(3, 2)), RNG.normal(size=2)
SQUARE = RNG.normal(size=(2, 2))


# ---------------------------------------------------------------- ranvier's own


def normal_form(layers):
    """Layers as they come back: without noise, activations in the Dense before, softmax apart."""
    found = []
    for layer in layers:
        activation = getattr(layer, "activation", None)
        if isinstance(layer, rv.GaussianNoise) or layer == rv.Activation("identity"):
            continue
        if isinstance(layer, rv.Activation) and layer.activation is None:
            continue
        if isinstance(layer, rv.Dense):
            found.append(rv.Dense(layer.units, use_bias=layer.use_bias))
        elif not isinstance(layer, rv.Activation):
            found.append(layer)
        if activation in (None, "identity"):
            continue
        if activation == "softmax":
            found.append(rv.Softmax())
            continue
        if activation in ("leaky_relu", "elu"):
            activation = {"leaky_relu": rv.activations.LeakyReLU(), "elu": rv.activations.ELU()}[
                activation
            ]
        if isinstance(activation, rv.activations.PReLU):
            activation = "prelu"
        last = found[-1] if found else None
        if isinstance(last, rv.Dense) and last.activation is None:
            found[-1] = rv.Dense(last.units, activation, use_bias=last.use_bias)
        else:
            found.append(rv.Activation(activation))
    return tuple(found)


@settings(max_examples=60)
@given(st.data(), st.sampled_from(sorted(EQUAL)), st.integers(1, 9), st.integers(0, 99))
def test_what_is_written_is_read_back(tmp_path_factory, data, dtype, features, seed):
    path = tmp_path_factory.getbasetemp() / "there_and_back.onnx"
    model = filled_model(data.draw(stacks()), features, dtype, seed)
    opset = data.draw(st.sampled_from([13, 17, 18, 20]))
    rv.export.onnx(model, path, opset=opset, check=False)
    read = rv.from_onnx(path)
    # A batch norm is written without its momentum in float64.
    forget = dtype == "float64"
    expected = [
        rv.BatchNorm(eps=layer.eps) if forget and isinstance(layer, rv.BatchNorm) else layer
        for layer in normal_form(model.layers)
    ]
    assert read.layers == tuple(expected)
    assert (read.dtype, read.input_size) == (model.dtype, features)
    X = np.random.default_rng(seed).normal(size=(9, features)).astype(dtype)
    assert error(read.predict(X), model.predict(X), 1.0) <= EQUAL[dtype]


@pytest.mark.parametrize("dtype", sorted(EQUAL))
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_every_activation_comes_back(activation, dtype, tmp_path):
    model = filled_model([rv.Dense(4), rv.Activation(activation), rv.Dense(2)], 3, dtype, 0)
    for opset in (13, 17, 20):
        rv.export.onnx(model, tmp_path / "model.onnx", opset=opset, check=False)
        read = rv.from_onnx(tmp_path / "model.onnx")
        assert read.layers == normal_form(model.layers)
        X = np.random.default_rng(0).normal(size=(20, 3)).astype(dtype) * 4
        assert error(read.predict(X), model.predict(X), 1.0) <= EQUAL[dtype]


def test_a_message_in_memory_is_read_like_its_file(tmp_path):
    model = filled_model([rv.Dense(2, "tanh")], 3, "float32", 0)
    rv.export.onnx(model, tmp_path / "model.onnx", check=False)
    X = np.eye(3)
    for source in (
        tmp_path / "model.onnx",
        str(tmp_path / "model.onnx"),
        onnx.load(tmp_path / "model.onnx"),
    ):
        assert np.array_equal(rv.from_onnx(source).predict(X), model.predict(X))


def test_integers_are_read_back(tmp_path):
    model = filled_model([rv.Dense(7, "gelu"), rv.LayerNorm(), rv.Dense(4)], 5, "float32", 0)
    model = rv.Sequential([*model.layers, rv.Dense(2, "prelu", use_bias=False)], input_size=5)
    X = RNG.normal(size=(50, 5)).astype(np.float32)
    quantized = model.quantize(X, keep_float=[2])
    rv.export.onnx(quantized, tmp_path / "first.onnx", check=False)
    read = rv.from_onnx(tmp_path / "first.onnx")
    assert isinstance(read, rv.QuantizedSequential)
    assert (read.layers, read.integer_layers) == (quantized.layers, (0, 3))
    values, before = read.parameters(), quantized.parameters()
    assert values.keys() == before.keys()
    for name, value in values.items():
        assert (value.dtype, value.shape) == (before[name].dtype, before[name].shape)
        # Biases are rounded, by what test_onnx.py says.
        if name != "0.bias":
            assert np.array_equal(value, before[name]), name
    rv.export.onnx(read, tmp_path / "second.onnx", check=False)
    again = rv.from_onnx(tmp_path / "second.onnx")
    assert np.array_equal(again.predict(X), read.predict(X))


# ---------------------------------------------------------------- PyTorch's

RECORDED = np.load(Path(__file__).parent / "data" / "torch_onnx.npz")
NAMES = RECORDED["names"].tolist()
BECOMES = {
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "ReLU": "relu",
    "LeakyReLU": rv.activations.LeakyReLU(0.2),
    "ELU(alpha=0.5)": rv.activations.ELU(0.5),
    "ELU(alpha=1.0)": rv.activations.ELU(),
    "SELU": "selu",
    "GELU(approximate='none')": "gelu",
    "GELU(approximate='tanh')": "gelu_tanh",
    "SiLU": "silu",
    "Softplus": "softplus",
    "Hardsigmoid": "hard_sigmoid",
    "Hardswish": "hard_swish",
    "Mish": "mish",
    "PReLU": "prelu",
    "CELU": "elu",
    "Softmax": rv.Softmax(),
    "Dropout": None,
    "Identity": None,
    "BatchNorm1d": rv.BatchNorm(eps=1e-3, momentum=0.2),
    "LayerNorm": rv.LayerNorm(),
    "Linear": rv.Dense(4, use_bias=False),
}


@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_what_pytorch_has_written_is_read(number):
    ends = [0, *RECORDED["ends"]]
    file = RECORDED["files"][ends[number] : ends[number + 1]].tobytes()
    model = rv.from_onnx(onnx.load_from_string(file))
    name, dtype, _ = NAMES[number].split("/")
    kind = BECOMES.get(name, BECOMES.get(name.partition("(")[0], "unknown"))
    between = [kind] if isinstance(kind, rv.layers.Layer) else []
    first = rv.Dense(4, None if between else kind)
    assert model.layers == (first, *between, rv.Dense(3))
    outputs = model.predict(RECORDED["rows"].astype(dtype))
    # PyTorch's softplus is z above 20.
    assert error(outputs, RECORDED["outputs"][number], 1.0) <= EQUAL[dtype]


def test_the_recorded_files_have_every_kind():
    kinds = {name.split("/")[0] for name in NAMES}
    assert {kind for key in BECOMES for kind in kinds if kind.startswith(key)} == kinds
    assert {"/".join(name.split("/")[1:]) for name in NAMES} == {
        *("float32/11", "float32/13", "float32/20", "float64/17")
    }


# What PyTorch's newer exporter makes of modules that the older one writes otherwise: its library of
# operators decomposes them so, before opset 20 (GELU) and 18 (Mish).
NEWER = {
    "linear": ("Y = Gemm <transB = 1> (X, W, B)", None),
    "transposed": ("T = Transpose <perm = [1, 0]> (W) Z = MatMul(X, T) Y = Add(Z, B)", None),
    "gelu": (
        "Z = Gemm <transB = 1> (X, W, B) D = Div(Z, root) E = Erf(D) A = Add(E, one) "
        "M = Mul(half, A) Y = Mul(Z, M)",
        "gelu",
    ),
    "gelu as it was": (
        "Z = Gemm <transB = 1> (X, W, B) D = Div(Z, root) E = Erf(D) A = Add(E, one) "
        "M = Mul(Z, A) Y = Mul(half, M)",
        "gelu",
    ),
    "gelu_tanh": (
        "Z = Gemm <transB = 1> (X, W, B) C = Pow(Z, three) K = Mul(cubic, C) S = Add(Z, K) "
        "Q = Div(two, pi) R = CastLike(Q, Z) P = Sqrt(R) I = Mul(P, S) T = Tanh(I) "
        "A = Add(T, one) H = Mul(half, A) Y = Mul(Z, H)",
        "gelu_tanh",
    ),
    "silu": ("Z = Gemm <transB = 1> (X, W, B) S = Sigmoid(Z) Y = Mul(Z, S)", "silu"),
    "softplus": (
        "Z = Gemm <transB = 1> (X, W, B) S = Mul(Z, one) G = Greater(S, twenty) T = Softplus(S) "
        "D = Div(T, one) Y = Where(G, Z, D)",
        "softplus",
    ),
    "elu": (
        "Z = Gemm <transB = 1> (X, W, B) S = Mul(Z, one) E = Elu <alpha = 0.5> (S) Y = Mul(E, one)",
        rv.activations.ELU(0.5),
    ),
    "mish": ("Z = Gemm <transB = 1> (X, W, B) Y = Mish(Z)", "mish"),
}
NUMBERS = {
    "root": np.sqrt(2.0),
    "one": 1.0,
    "half": 0.5,
    "three": 3.0,
    "cubic": 0.044715,
    "two": 2.0,
    "pi": np.pi,
    "twenty": 20.0,
}


@pytest.mark.parametrize("case", NEWER)
def test_what_pytorchs_newer_exporter_writes_is_read(case):
    body, activation = NEWER[case]
    numbers = {name: value for name, value in NUMBERS.items() if re.search(rf"\b{name}\b", body)}
    model = agrees(graph(body, opset=18, W=W.T, B=B, **numbers))
    assert model.layers == (rv.Dense(2, activation),)


def test_pytorchs_newer_exporter_itself(tmp_path):
    pytest.importorskip("onnxscript")
    torch = pytest.importorskip("torch")
    from torch import nn

    module = nn.Sequential(
        *(nn.Flatten(), nn.Linear(6, 5), nn.GELU(), nn.LayerNorm(5), nn.Linear(5, 5), nn.SiLU()),
        *(nn.BatchNorm1d(5), nn.Dropout(0.1), nn.Linear(5, 3), nn.Softmax(-1)),
    ).eval()
    rows = torch.randn(4, 6)
    program = torch.onnx.export(module, (rows,), dynamo=True, verbose=False)
    model = rv.from_onnx(program.model_proto)
    assert error(model.predict(rows.numpy()), module(rows).detach().numpy(), 1.0) <= 1e-6


# ---------------------------------------------------------------- scikit-learn's

X = np.random.default_rng(0).normal(size=(80, 5))
VALUES = X[:, 0] * X[:, 1] + X[:, 2]
WORDS = np.array(["no", "yes"])[(VALUES > 0).astype(int)]
THREE = np.digitize(VALUES, [-0.5, 0.5])
LABELS = np.column_stack([VALUES > 0, X[:, 3] > 0.3, X[:, 1] < 0.1]).astype(int)

FITS = {
    "values": (MLPRegressor, VALUES, {}),
    "pairs": (MLPRegressor, np.column_stack([VALUES, X[:, 3]]), {"activation": "tanh"}),
    "linear": (MLPRegressor, VALUES, {"hidden_layer_sizes": (), "activation": "identity"}),
    "two": (MLPClassifier, WORDS, {"activation": "logistic"}),
    "three": (MLPClassifier, THREE, {"hidden_layer_sizes": (9, 8)}),
    "labels": (MLPClassifier, LABELS, {}),
}
OPS = {"identity": "Identity", "logistic": "Sigmoid", "tanh": "Tanh", "relu": "Relu"}


def converted(mlp, dtype, *, scaler=None, zipmap=False):
    """The graph that scikit-learn's converter makes: a cast, MatMul and Add, labels beside."""
    nodes, tensors = [], []
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    def tensor(name, value, as_type=dtype):
        tensors.append(numpy_helper.from_array(np.asarray(value, as_type), name))
        return name

    def node(op, inputs, output, **options):
        nodes.append(helper.make_node(op, inputs, [output], f"N{len(nodes)}", **options))
        return output

    last = "X"
    if scaler is not None and dtype == "float32":
        options = {"offset": scaler.mean_.tolist(), "scale": (1 / scaler.scale_).tolist()}
        last = node("Scaler", [last], "variable", domain="ai.onnx.ml", **options)
    elif scaler is not None:
        last = node("Sub", [last, tensor("mean", scaler.mean_)], "centred")
        last = node("Div", [last, tensor("scale", scaler.scale_)], "variable")
    last = node("Cast", [last], "cast_input", to=kind)
    layers = list(zip(mlp.coefs_, mlp.intercepts_, strict=True))
    for number, (weight, bias) in enumerate(layers):
        name = f"coefficient{number}"
        last = node("MatMul", [last, tensor(name, weight)], f"mul_result{number}")
        bias = tensor(f"intercepts{number}", bias.reshape(1, -1))
        last = node("Add", [last, bias], f"add_result{number}")
        final = number == len(layers) - 1
        activation = mlp.out_activation_ if final else mlp.activation
        last = node(OPS.get(activation, "Softmax"), [last], f"next_activations{number}")
    if isinstance(mlp, MLPRegressor):
        shape = tensor("shape", [-1, mlp.n_outputs_], np.int64)
        node("Reshape", [last, shape], "variable_out")
        outputs = [helper.make_tensor_value_info("variable_out", kind, [None, mlp.n_outputs_])]
    else:
        several = mlp._label_binarizer.y_type_ == "multilabel-indicator"
        if len(mlp.classes_) == 2:
            negative = node("Sub", [tensor("unity", 1), last], "negative_class_proba")
            node("Concat", [negative, last], "probabilities", axis=1)
        else:
            node("Identity", [last], "probabilities")
        if several:
            name = node("Binarizer", [last], "binary", domain="ai.onnx.ml", threshold=0.5)
            node("Cast", [name], "label", to=TensorProto.INT64)
        else:
            best = node("ArgMax", ["probabilities"], "argmax_output", axis=1)
            classes = tensor("classes", np.arange(len(mlp.classes_)), np.int32)
            name = "array_feature_extractor_result"
            node("ArrayFeatureExtractor", [classes, best], name, domain="ai.onnx.ml")
            node("Reshape", [name, tensor("flat", [-1], np.int64)], "reshaped_result")
            node("Cast", ["reshaped_result"], "label", to=TensorProto.INT64)
        shape = [None, len(mlp.classes_)] if several else [None]
        label = helper.make_tensor_value_info("label", TensorProto.INT64, shape)
        result = helper.make_tensor_value_info("probabilities", kind, [None, len(mlp.classes_)])
        if zipmap:
            names = list(range(len(mlp.classes_)))
            node("ZipMap", ["probabilities"], "map", domain="ai.onnx.ml", classlabels_int64s=names)
            entry = helper.make_tensor_type_proto(kind, [])
            entries = helper.make_map_type_proto(TensorProto.INT64, entry)
            result = helper.make_value_info("map", helper.make_sequence_type_proto(entries))
        outputs = [label, result]
    inputs = [helper.make_tensor_value_info("X", kind, [None, mlp.n_features_in_])]
    made = helper.make_graph(nodes, "sklearn", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("dtype", sorted(EQUAL))
@pytest.mark.parametrize("case", FITS)
def test_what_scikit_learns_converter_writes_is_read(case, dtype, scaled):
    kind, y, options = FITS[case]
    scaler = StandardScaler().fit(X * [1, 10, 100, 1, 1] + 5) if scaled else None
    inputs = X if scaler is None else scaler.transform(X * [1, 10, 100, 1, 1] + 5)
    mlp = kind(max_iter=20, random_state=0, **options).fit(inputs, y)
    rows = (X if scaler is None else X * [1, 10, 100, 1, 1] + 5).astype(dtype)
    proto = converted(mlp, dtype, scaler=scaler)
    model = rv.from_onnx(proto)
    assert isinstance(model.layers[0], rv.Standardize) == scaled
    found = model.predict(rows)
    # Of float32 inputs that are scaled, the offset of 5 takes a digit.
    factor = 10 if scaled else 1
    # onnxruntime's Binarizer is of float32.
    if dtype == "float32" or case != "labels":
        theirs = run(proto, rows)[-1]
        assert error(found, theirs, 1.0) <= factor * EQUAL[dtype]
    expected = mlp.predict(inputs) if kind is MLPRegressor else mlp.predict_proba(inputs)
    assert error(found, np.reshape(expected, found.shape), 1.0) <= 10 * EQUAL[dtype]


def test_probabilities_behind_a_map_are_read():
    mlp = MLPClassifier(max_iter=20, random_state=0).fit(X, THREE)
    model = rv.from_onnx(converted(mlp, "float32", zipmap=True))
    assert error(model.predict(X), mlp.predict_proba(X)) <= 1e-6


# ---------------------------------------------------------------- spellings


SPELLINGS = {
    "alpha and beta": ("Y = Gemm <alpha = 0.5, beta = 2.0> (X, W, B)", {}),
    "beta of 0": ("Y = Gemm <beta = 0.0> (X, W, B)", {}),
    "without bias": ("Y = Gemm (X, W)", {}),
    "a bias of one number": ("Y = Gemm (X, W, one)", {"one": np.array([3.0])}),
    "a bias of one row": ("Y = Gemm (X, W, row)", {"row": B.reshape(1, 2)}),
    "bias first": ("Z = MatMul(X, W) Y = Add(B, Z)", {}),
    "identities": ("A = Identity(X) Z = Gemm(A, W, B) Y = Identity(Z)", {}),
    "cast": ("A = Cast <to = 1> (X) Y = Gemm(A, W, B)", {}),
    "flatten": ("A = Flatten(X) Z = Gemm(A, W, B) Y = Flatten <axis = 1> (Z)", {}),
    "reshape": (
        "Z = Gemm(X, W, B) Y = Reshape(Z, shape)",
        {"shape": np.array([0, -1], np.int64)},
    ),
    "reshape by features": (
        "Z = Gemm(X, W, B) Y = Reshape(Z, shape)",
        {"shape": np.array([-1, 2], np.int64)},
    ),
    "dropout": ("Z = Gemm(X, W, B) Y = Dropout(Z)", {}),
    "dropout off": (
        "Z = Gemm(X, W, B) Y, mask = Dropout(Z, rate, off)",
        {"rate": np.array(0.5), "off": np.array(False)},
    ),
    "softmax of axis 1": ("Z = Gemm(X, W, B) Y = Softmax <axis = 1> (Z)", {}),
    "relu as a maximum": ("Z = Gemm(X, W, B) Y = Max(Z, zero)", {"zero": np.array(0.0)}),
    "pixels": ("A = Div(X, white) Y = Gemm(A, W, B)", {"white": np.array(255.0)}),
    "centred": ("A = Sub(X, mean) Y = Gemm(A, W, B)", {"mean": np.array([1.0, 2.0, 3.0])}),
    "a constant": ("C = Constant <value_floats = [1.0, 2.0]> () Y = Gemm(X, W, C)", {}),
    "a weight that is computed": (
        "V = Neg(W) U = Mul(V, two) Y = MatMul(X, U)",
        {"two": np.array(2.0)},
    ),
    "nothing but an activation": ("Y = Tanh(X)", {"y": "Y[N, 3]"}),
    "scale and shift of one number": (
        "A = Mul(X, one) Z = Gemm(A, W, B) Y = Add(Z, zero)",
        {"one": np.array(1.0), "zero": np.array([[0.0]])},
    ),
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_other_spellings_are_read(case):
    body, options = SPELLINGS[case]
    tensors = {name: value for name, value in {"W": W, "B": B}.items() if name in body}
    agrees(graph(body, **tensors, **options))


def test_images_are_flat_rows():
    body = "A = Flatten(X) Y = Gemm(A, V, B)"
    V = RNG.normal(size=(8, 2))
    proto = graph(body, x="X[N, 2, 2, 2]", V=V, B=B)
    images = RNG.normal(size=(5, 2, 2, 2)).astype(np.float32)
    model = rv.from_onnx(proto)
    assert model.input_size == 8
    assert error(model.predict(images.reshape(5, 8)), run(proto, images)[0], 1.0) <= 1e-6


def test_a_batch_of_fixed_size_is_any():
    model = rv.from_onnx(graph("Y = Gemm(X, W, B)", x="X[1, 3]", y="Y[1, 2]", W=W, B=B))
    assert model.predict(np.zeros((4, 3))).shape == (4, 2)


def test_the_first_layer_says_how_many_features_there_are():
    model = rv.from_onnx(graph("Y = Gemm(X, W, B)", x="X[N, F]", W=W, B=B))
    assert model.input_size == 3


def test_layer_norms_of_older_opsets_are_read():
    body = (
        "M = ReduceMean <axes = [-1]> (X) D = Sub(X, M) P = Pow(D, two) "
        "V = ReduceMean <axes = [-1]> (P) E = Add(V, eps) S = Sqrt(E) N = Div(D, S) "
        "Z = Mul(N, scale) Y = Add(Z, shift)"
    )
    tensors = {"two": 2.0, "eps": 1e-3, "scale": [1.0, 2.0, 3.0], "shift": [0.0, 1.0, 2.0]}
    model = agrees(graph(body, y="Y[N, 3]", opset=13, **tensors), factor=2)
    assert model.layers == (rv.LayerNorm(eps=1e-3),)


# ---------------------------------------------------------------- refusals

IF = """
C = Constant <value = bool {1}> ()
Y = If (C) <
  then_branch = g1 () => (float[N, 2] A) { A = MatMul(X, W) },
  else_branch = g2 () => (float[N, 2] D) { D = MatMul(X, W) }
>
"""
INTEGERS = """
Q = QuantizeLinear (X, S, Z)
D = DequantizeLinear (Q, S, Z)
I = DequantizeLinear <axis = 1> (V, SV, ZV)
C = DequantizeLinear <axis = 0> (BI, SB, ZB)
Y = Gemm (D, I, C)
"""
QUANTIZED = {
    "S": 0.5,
    "Z": np.uint8(3),
    "V": np.arange(6, dtype=np.int8).reshape(3, 2),
    "SV": [0.5, 0.25],
    "ZV": np.zeros(2, np.int8),
    "BI": np.array([1, 2], np.int32),
    "SB": [0.25, 0.125],
    "ZB": np.zeros(2, np.int32),
}
REFUSED = {
    "another operator": (
        r"node 'Y' \(Sin\): expected one of Add, ",
        "Z = MatMul(X, W) Y = Sin(Z)",
        {},
    ),
    "a name": (r"node 'last' \(Sin\)", "Z = MatMul(X, W) [last] Y = Sin(Z)", {}),
    "a branch": (
        r"node 'Y' \(Add\): expected a chain of layers, got an operator on several computed "
        "values, 'A', 'Z'",
        "Z = MatMul(X, W) A = Relu(Z) Y = Add(A, Z)",
        {},
    ),
    "a product of computed values": (
        r"node 'Y' \(MatMul\): expected a weight that is a constant, on the right",
        "T = Transpose(X) Z = MatMul(X, T) Y = MatMul(Z, X)",
        {"y": "Y[N, 3]"},
    ),
    "a weight on the left": (
        r"\(MatMul\): expected a weight that is a constant, on the right",
        "T = Transpose(X) Y = MatMul(V, T)",
        {"V": W.T, "y": "Y[2, N]"},
    ),
    "columns as rows": (
        r"node 'Y' \(Gemm\): expected rows as they come, got transA=1",
        "Y = Gemm <transA = 1> (X, W, B)",
        {"x": "X[3, 3]", "y": "Y[3, 2]"},
    ),
    "a bias for each row": (
        r"expected a bias with one number, or one for each of 2 features, got shape \(3, 2\)",
        "Y = Gemm (X, W, C)",
        {"C": RNG.normal(size=(3, 2)), "x": "X[3, 3]", "y": "Y[3, 2]"},
    ),
    "a softmax over rows": (
        r"\(Softmax\): expected a softmax over the features",
        "Z = MatMul(X, W) Y = Softmax <axis = 0> (Z)",
        {},
    ),
    "log-softmax": (
        "leave it away: ranvier's cross_entropy",
        "Z = MatMul(X, W) Y = LogSoftmax (Z)",
        {},
    ),
    "dropout in training": (
        r"\(Dropout\): expected a ratio that is a constant, and no training mode",
        "Z = MatMul(X, W) Y = Dropout(Z, rate, on)",
        {"rate": np.array(0.5), "on": np.array(True)},
    ),
    "batch norm in training": (
        r"\(BatchNormalization\): expected .* no training mode",
        "Z = MatMul(X, W) Y, m, v = BatchNormalization <training_mode = 1> (Z, B, B, B, B)",
        {"B": np.ones(2)},
    ),
    "batch norm in training, as it was": (
        r"\(BatchNormalization\): expected .* no training mode",
        "Z = MatMul(X, W) Y, m, v, n, w = BatchNormalization (Z, B, B, B, B)",
        {"B": np.ones(2), "opset": 13},
    ),
    "a bias of three dimensions": (
        "expected",
        "Z = MatMul(X, W) A = Add(Z, C) Y = Relu(A)",
        {"C": B.reshape(1, 1, 2), "y": "Y[1, N, 2]"},
    ),
    "reciprocals": (
        r"\(Div\): expected",
        "Z = MatMul(X, W) Y = Div(one, Z)",
        {"one": np.array(1.0)},
    ),
    "negatives": (
        r"\(Sub\): expected",
        "Z = MatMul(X, W) Y = Sub(zero, Z)",
        {"zero": np.array(0.0)},
    ),
    "integers that are divided": (
        r"\(Gemm\): expected a weight and a bias that are constants",
        "D = Div(five, two) C = Cast <to = 1> (D) Y = Gemm(X, W, C)",
        {"five": np.array([5], np.int64), "two": np.array([2], np.int64)},
    ),
    "images that are mixed before they are flat": (
        "expected an input 'X' of rows and features, got one of 4 dimensions",
        "S = Softmax(X) A = Flatten(S) Y = MatMul(A, V)",
        {"x": "X[N, 2, 2, 2]", "V": np.ones((8, 2))},
    ),
    "slopes for each unit": (
        r"\(PRelu\): expected one slope for all units, got 2",
        "Z = MatMul(X, W) Y = PRelu(Z, B)",
        {},
    ),
    "another hard sigmoid": (
        r"\(HardSigmoid\): expected alpha=1/6",
        "Z = MatMul(X, W) Y = HardSigmoid(Z)",
        {},
    ),
    "another selu": (r"\(Selu\)", "Z = MatMul(X, W) Y = Selu <alpha = 1.0> (Z)", {}),
    "another celu": (r"\(Celu\)", "Z = MatMul(X, W) Y = Celu <alpha = 2.0> (Z)", {}),
    "a cut": (
        r"\(Clip\): expected one of",
        "Z = MatMul(X, W) Y = Clip(Z, zero)",
        {"zero": np.array(0.0)},
    ),
    "a scale in the middle": (
        r"\(Mul\): expected it as part of a layer",
        "Z = MatMul(X, W) Y = Mul(Z, three)",
        {"three": np.array(3.0)},
    ),
    "a division in the middle": (
        r"\(Div\): expected it as part of a layer",
        "Z = MatMul(X, W) Y = Div(Z, three)",
        {"three": np.array(3.0)},
    ),
    "inputs divided by nothing": (
        "expected positive deviations",
        "A = Div(X, zeros) Y = MatMul(A, W)",
        {"zeros": np.array([1.0, 0.0, 2.0])},
    ),
    "outputs multiplied by nothing": (
        "expected positive variances",
        "Z = MatMul(X, W) S = Sqrt(zeros) A = Mul(Z, S) Y = Add(A, B)",
        {"zeros": np.array([1.0, 0.0])},
    ),
    "another width": (
        r"\(Reshape\): expected a shape that keeps the rows",
        "Z = Reshape(X, shape) A = MatMul(Z, V) Y = Reshape(A, back)",
        {
            "shape": np.array([-1, 1], np.int64),
            "back": np.array([-1, 3], np.int64),
            "V": np.ones((1, 1)),
            "y": "Y[N, 3]",
        },
    ),
    "three dimensions": (
        "expected an input 'X' of rows and features, got one of 3 dimensions",
        "Y = MatMul(X, W)",
        {"x": "X[N, 4, 3]", "y": "Y[N, 4, 2]"},
    ),
    "one dimension": ("got one of 1 dimensions", "Y = MatMul(X, W)", {"x": "X[3]", "y": "Y[2]"}),
    "an output that is a constant": (
        "expected outputs that depend on the input",
        "Y = Identity(W)",
        {"y": "Y[3, 2]"},
    ),
    "two inputs": (
        r"expected a graph of one input, got \['X', 'U'\]",
        "Z = Add(X, U) Y = MatMul(Z, W)",
        {"x": "X[N, 3], float[N, 3] U"},
    ),
    "two outputs": (
        r"expected a graph of one output in float32 or float64, got 'Y' \(float\), 'Z' \(float\)",
        "Z = MatMul(X, W) Y = Relu(Z)",
        {"y": "Y[N, 2], float[N, 2] Z"},
    ),
    "a subgraph": (r"\(If\): expected one of", IF, {}),
    "a domain": (
        "expected an operator of ONNX's, got com.microsoft.FusedGemm",
        "Y = com.microsoft.FusedGemm(X, W, B)",
        {"domains": ', "com.microsoft" : 1'},
    ),
    "integers of a weight (out, in)": (
        r"node 'Y' \(Gemm\): expected it around a product, between uint8 inputs with one scale",
        INTEGERS.replace("Gemm (", "Gemm <transB = 1> (").replace("<axis = 1>", "<axis = 0>"),
        QUANTIZED | {"V": QUANTIZED["V"].T},
    ),
    "weights with a zero point": (
        "expected zero points of 0",
        INTEGERS,
        QUANTIZED | {"ZV": np.ones(2, np.int8)},
    ),
    "unsigned weights": (
        r"expected an int8 weight .*, got uint8 of shape \(3, 2\)",
        INTEGERS,
        QUANTIZED | {"V": np.ones((3, 2), np.uint8), "ZV": np.zeros(2, np.uint8)},
    ),
    "signed inputs": (
        "and a uint8 zero point of its inputs, .* and int8 of shape",
        INTEGERS,
        QUANTIZED | {"Z": np.int8(0)},
    ),
    "a scale below 0": ("weight_scale above 0", INTEGERS, QUANTIZED | {"SV": [0.5, -0.5]}),
    "a scale that changes on the way": (
        "expected it around a product",
        INTEGERS.replace("(Q, S, Z)", "(Q, T, Z)"),
        QUANTIZED | {"T": 0.25},
    ),
    "a zero point that changes on the way": (
        "expected it around a product",
        INTEGERS.replace("(Q, S, Z)", "(Q, S, O)"),
        QUANTIZED | {"O": np.uint8(4)},
    ),
    "integers around no product": (
        r"node 'D' \(DequantizeLinear\): expected it around a product",
        "Q = QuantizeLinear(X, S, Z) D = DequantizeLinear(Q, S, Z) Y = Relu(D)",
        {"S": 0.5, "Z": np.uint8(3), "y": "Y[N, 3]"},
    ),
    "numbers that are not finite": ("finite", "Y = MatMul(X, V)", {"V": np.full((3, 2), np.nan)}),
    "a layer norm of no eps": (
        "eps",
        "Z = MatMul(X, W) Y = LayerNormalization <epsilon = 0.0> (Z, B, B)",
        {},
    ),
    "no parameters at all": (
        "how many features",
        "Y = Relu(X)",
        {"x": "X[N, F]", "y": "Y[N, F]"},
    ),
}


def test_integers_that_others_write_in_this_form_are_read():
    read = rv.from_onnx(graph(INTEGERS, **QUANTIZED))
    # Q is 3, 5 and 7 of 0, 1 and 2.
    expected = [0.25 * (2 * 2 + 4 * 4 + 1), 0.125 * (2 * 3 + 4 * 5 + 2)]
    assert read.predict([[0.0, 1.0, 2.0]]).tolist() == [expected]


@pytest.mark.parametrize("case", REFUSED)
def test_anything_else_is_refused_by_name(case):
    match, body, options = REFUSED[case]
    options = dict(options)
    for name, value in {"W": W, "B": B}.items():
        if re.search(rf"\b{name}\b", body):
            options.setdefault(name, value)
    with pytest.raises(rv.ArgumentError, match=match):
        rv.from_onnx(graph(body, **options))


@pytest.mark.parametrize("element", ["float16", "bfloat16", "int64", "bool", "string"])
def test_inputs_of_other_types_are_refused(element):
    kind = getattr(TensorProto, element.upper())
    nodes = [helper.make_node("Identity", ["X"], ["Y"])]
    values = [helper.make_tensor_value_info(name, kind, ["N", 3]) for name in ("X", "Y")]
    made = helper.make_graph(nodes, "g", values[:1], values[1:])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(rv.ArgumentError, match=f"expected an input 'X' of .*, got {element}"):
        rv.from_onnx(model)


def test_layers_of_two_types_are_refused():
    body = "A = Cast <to = 11> (X) Z = MatMul(A, V) Y = Cast <to = 1> (Z)"
    proto = graph(body)
    proto.graph.initializer.append(numpy_helper.from_array(W, "V"))
    with pytest.raises(rv.ArgumentError, match=r"\(Cast\): expected the type of the input"):
        rv.from_onnx(proto)


def test_sparse_tensors_are_refused():
    proto = graph("Y = MatMul(X, W)")
    values = numpy_helper.from_array(np.ones(2, np.float32), "W")
    indices = numpy_helper.from_array(np.array([0, 3], np.int64), "places")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3, 2]))
    with pytest.raises(rv.ArgumentError, match="sparse"):
        rv.from_onnx(proto)


def test_functions_of_a_file_are_refused():
    proto = graph("Y = MatMul(X, W)", W=W)
    nodes = [helper.make_node("Relu", ["a"], ["b"])]
    opsets = [helper.make_opsetid("", 17)]
    proto.functions.append(helper.make_function("own", "f", ["a"], ["b"], nodes, opsets))
    with pytest.raises(rv.ArgumentError, match="functions"):
        rv.from_onnx(proto)


@pytest.mark.parametrize("source", [None, 3, b"bytes", {}, np.zeros(3)], ids=repr)
def test_other_sources_are_refused(source):
    with pytest.raises(rv.DTypeError, match=r"model: expected a path or an onnx\.ModelProto"):
        rv.from_onnx(source)


# ---------------------------------------------------------------- damaged and hostile files


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    model = filled_model([rv.Dense(3, "gelu"), rv.LayerNorm(), rv.Dense(2)], 4, "float64", 0)
    rv.export.onnx(model, path, check=False)
    return path.read_bytes()


def survives(path, data):
    """Whether a file is read; what else happens must be an error of ranvier's."""
    path.write_bytes(data)
    try:
        rv.from_onnx(path)
    except rv.RanvierError as refusal:
        text = str(refusal)
    else:
        return True
    assert str(path) in text
    return False


@settings(max_examples=150)
@given(st.data())
def test_damaged_files_are_refused_or_read(tmp_path_factory, content, data):
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    place = data.draw(st.integers(0, len(content) - 1))
    kind = data.draw(st.sampled_from(["cut", "flip", "zero", "double"]))
    if kind == "cut":
        damaged = content[:place]
    elif kind == "flip":
        damaged = bytearray(content)
        damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "zero":
        damaged = content[:place] + bytes(len(content) - place)
    else:
        damaged = content[:place] + content[place // 2 :]
    survives(path, bytes(damaged))


OTHERS = ["Relu", "Sigmoid", "Neg", "Exp", "Add", "Mul", "Sub", "Div", "Max", "Gemm", "Softmax"]


def changed(proto, draw):
    """Changes an operator, an operand, an attribute or a tensor, or leaves a node away."""
    nodes = proto.graph.node
    node = draw.choice(nodes)
    match draw.choice(["operator", "operand", "order", "attribute", "tensor", "skip"]):
        case "operator":
            node.op_type = draw.choice(OTHERS)
        case "operand":
            names = [name for each in nodes for name in [*each.output, *each.input]]
            node.input[draw.randrange(len(node.input))] = draw.choice(names)
        case "order":
            names = draw.sample(list(node.input), len(node.input))
            del node.input[:]
            node.input.extend(names)
        case "attribute" if node.op_type == "Gemm":
            name = draw.choice(["alpha", "beta"])
            node.attribute.append(helper.make_attribute(name, draw.choice([0.0, 0.5])))
        case "attribute" if node.attribute:
            entry = draw.choice(node.attribute)
            entry.f, entry.i = draw.choice([0.0, 0.5, 2.0]), draw.choice([-1, 0, 1])
        case "tensor" if proto.graph.initializer:
            entry = draw.choice(proto.graph.initializer)
            array = numpy_helper.to_array(entry)
            array = (array * draw.choice([0, 2])).astype(array.dtype)
            array = array.reshape(draw.choice([array.shape, (1, *array.shape), (-1,)]))
            entry.CopyFrom(numpy_helper.from_array(array, entry.name))
        case "skip":
            for each in nodes:
                for place, name in enumerate(each.input):
                    if name == node.output[0]:
                        each.input[place] = node.input[0]


@pytest.mark.parametrize("quantized", [False, True], ids=["floats", "integers"])
def test_changed_graphs_are_refused_or_say_what_onnxruntime_says(quantized, tmp_path):
    path = tmp_path / "model.onnx"
    read = 0
    for seed in range(CHANGES):
        draw = random.Random(seed)
        original = network(draw.randrange(400))
        if quantized:
            original = original.quantize(RNG.normal(size=(40, original.input_size)))
        rv.export.onnx(original, path, check=False)
        proto = onnx.load(path)
        changed(proto, draw)
        try:
            model = rv.from_onnx(proto)
        except rv.RanvierError:
            continue
        rows = np.random.default_rng(seed).normal(size=(6, model.input_size)).astype(model.dtype)
        try:
            (expected,) = run(proto, rows, as_it_says=quantized)
        except Exception:
            # It has no kernel for the operator in float64; its exceptions have no common base.
            continue
        found = model.predict(rows)
        # In onnxruntime NaN becomes an integer.
        if np.isfinite(expected).all() and not (quantized and np.isnan(found).any()):
            read += 1
            assert error(found, expected, 1.0) <= TOLERANCE[model.dtype.name], seed
    assert read > CHANGES // 5


def test_files_of_something_else_are_refused(tmp_path):
    path = tmp_path / "model.onnx"
    for data in (b"", b"\0" * 64, b"<html>", bytes(range(256)), b"PK\3\4" + b"x" * 100):
        assert not survives(path, data)
    with pytest.raises(FileNotFoundError):
        rv.from_onnx(tmp_path / "none.onnx")
    with pytest.raises(IsADirectoryError):
        rv.from_onnx(tmp_path)


@pytest.mark.parametrize("dims", [[3, 3], [2**40, 2**40], [-3, 2], [0, 2]], ids=str)
def test_tensors_that_do_not_fit_their_shapes_are_refused(dims):
    proto = graph("Y = MatMul(X, W)", W=W)
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].dims.extend(dims)
    with pytest.raises((rv.FileFormatError, rv.ArgumentError)):
        rv.from_onnx(proto)


def test_cycles_are_refused():
    proto = graph("Z = Relu(X) Y = MatMul(Z, W)", W=W)
    proto.graph.node[0].input[0] = "Y"
    with pytest.raises(rv.FileFormatError, match="expected a valid ONNX model"):
        rv.from_onnx(proto)


def test_a_tensor_of_no_node_is_refused():
    with pytest.raises(rv.FileFormatError, match="expected a valid ONNX model"):
        rv.from_onnx(graph("Z = Relu(X) Y = MatMul(Q, W)", W=W))


def test_small_files_that_compute_large_tensors_are_refused():
    """A row plus a column of 2^17 numbers each would be 64 GiB."""
    body = "S = Add(row, column) Y = MatMul(X, S)"
    row = np.zeros((1, 2**17))
    proto = graph(body, x=f"X[N, {2**17}]", y=f"Y[N, {2**17}]", row=row, column=row.T)
    with pytest.raises(rv.ArgumentError, match="expected a weight that is a constant"):
        rv.from_onnx(proto)


def test_long_files_that_compute_one_tensor_again_and_again_are_refused():
    steps = 2000
    body = " ".join(f"W{n + 1} = Neg(W{n})" for n in range(steps)) + f" Y = MatMul(X, W{steps})"
    proto = graph(body, x="X[N, 512]", y="Y[N, 512]", W0=np.zeros((512, 512)))
    with pytest.raises(rv.ArgumentError, match="expected a weight that is a constant"):
        rv.from_onnx(proto)


def test_long_chains_are_read():
    steps = 3000
    body = "Z0 = MatMul(X, W) " + " ".join(f"Z{n + 1} = Identity(Z{n})" for n in range(steps))
    model = rv.from_onnx(graph(f"{body} Y = Relu(Z{steps})", W=W))
    assert model.layers == (rv.Dense(2, "relu", use_bias=False),)


def test_tensors_in_other_files_are_read_or_missed(tmp_path):
    path = tmp_path / "model.onnx"
    proto = graph("Y = Gemm(X, W, B)", W=W, B=B)
    expected = rv.from_onnx(proto).predict(np.eye(3))
    options = {"location": "weights.bin", "size_threshold": 0}
    onnx.save_model(proto, path, save_as_external_data=True, **options)
    assert np.array_equal(rv.from_onnx(path).predict(np.eye(3)), expected)
    with pytest.raises(rv.RanvierError, match="model"):
        rv.from_onnx(onnx.load(path, load_external_data=False))
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(rv.FileFormatError, match=r"weights\.bin"):
        rv.from_onnx(path)


def test_tensors_are_not_looked_for_outside_of_the_folder(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    path = tmp_path / "inside" / "model.onnx"
    options = {"location": "weights.bin", "size_threshold": 0}
    proto = graph("Y = Gemm(X, W, B)", W=W, B=B)
    onnx.save_model(proto, path, save_as_external_data=True, **options)
    stored = (
        path.read_bytes()
        .replace(b"weights.bin", b"../secret.b")
        .replace(b"../secret.b", b"../secret.b")
    )
    (tmp_path / "secret.b").write_bytes(bytes(64))
    path.write_bytes(stored)
    with pytest.raises(rv.FileFormatError, match="expected the files in which its tensors lie"):
        rv.from_onnx(path)
