"""Models from ONNX graphs that are dense networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path as FilePath
from typing import Any

import numpy as np

from .. import activations
from .._arrays import Array
from .._files import path_of
from ..errors import ArgumentError, DTypeError, FileFormatError, MissingDependencyError
from ..export._onnx_forms import ACTIVATIONS, LAYERS
from ..layers import BatchNorm, Dense, Dropout, LayerNorm, Softmax, Standardize
from ..model import Sequential
from ..quantization import QuantizedSequential
from ._stack import Stack, at

try:
    import onnx
    import onnx.checker
    import onnx.shape_inference
    from google.protobuf.message import DecodeError
except ImportError as error:
    raise MissingDependencyError("from_onnx needs onnx: pip install 'ranvier[onnx]'") from error

from ._onnx_graph import Graph
from ._onnx_match import Matched, by_operator, matched

# ---------------------------------------------------------------- matched forms as layers


def _row(values: Matched, role: str, width: int | None) -> Array:
    """A tensor as one value for each feature."""
    array = values[role]
    if array.size != max(array.shape[-1:] or (1,)) or (width and array.size not in (1, width)):
        raise ArgumentError(
            f"expected a {role} with one number, or one for each of {width or 'the'} features, "
            f"got shape {array.shape}"
        )
    row: Array = array.reshape(-1)
    return np.repeat(row, width) if width and row.size == 1 else row


def _rows(stack: Stack, values: Matched, *roles: str) -> tuple[int, dict[str, Array]]:
    """Tensors of one value for each feature, and how many features there are."""
    width = stack.width or max((values[role].size for role in roles if role in values), default=0)
    if not width:
        raise ArgumentError("expected an input that says how many features it has")
    return width, {role: _row(values, role, width) for role in roles if role in values}


def _dense(stack: Stack, values: Matched) -> None:
    weight = values["weight"]
    if weight.ndim != 2:
        raise ArgumentError(f"expected a weight of two dimensions, got shape {weight.shape}")
    if values.get("transA"):
        raise ArgumentError("expected rows as they come, got transA=1")
    weight = weight.T if values.get("transB") else weight
    tensors = {"weight": weight * weight.dtype.type(values.get("alpha", 1.0))}
    if "bias" in values:
        bias = _row(values, "bias", weight.shape[1])
        tensors["bias"] = bias * bias.dtype.type(values.get("beta", 1.0))
    layer = Dense(weight.shape[1], use_bias="bias" in tensors)
    stack.add(layer, weight.shape[0], tensors)


def _integers(stack: Stack, values: Matched) -> None:
    weight, zero = values["weight"], values["input_zero_point"]
    if weight.ndim != 2 or (weight.dtype, zero.dtype, zero.size) != (np.int8, np.uint8, 1):
        raise ArgumentError(
            "expected an int8 weight of two dimensions and a uint8 zero point of its inputs, got "
            f"{weight.dtype} of shape {weight.shape} and {zero.dtype} of shape {zero.shape}"
        )
    zeros = [values[role] for role in ("weight_zero_point", "bias_zero_point") if role in values]
    if any(each.any() for each in zeros):
        raise ArgumentError("expected zero points of 0 for weight and bias, got others")
    inputs, outputs = weight.shape
    integers = {
        "weight": weight.astype(np.float32),
        "weight_scale": _row(values, "weight_scale", outputs),
        "input_scale": np.array(values["input_scale"], np.float32),
        "input_zero_point": zero.astype(np.float32).reshape(()),
    }
    for role in ("weight_scale", "input_scale"):
        if not (np.isfinite(integers[role]) & (integers[role] > 0)).all():
            raise ArgumentError(f"expected {role} above 0, got {integers[role]}")
    tensors = {}
    if "bias" in values:
        steps = _row(values, "bias", outputs)
        scale = _row(values, "bias_scale", outputs) if "bias_scale" in values else 1
        tensors["bias"] = (steps * scale).astype(np.float32)
    layer = Dense(outputs, use_bias="bias" in tensors)
    stack.add_integers(layer, inputs, tensors, integers)


def _layer_norm(stack: Stack, values: Matched) -> None:
    width, tensors = _rows(stack, values, "weight", "bias")
    stack.add(LayerNorm(eps=values["eps"]), width, tensors)


def _batch_norm(stack: Stack, values: Matched) -> None:
    width, tensors = _rows(stack, values, "weight", "bias", "running_mean", "running_var")
    # ONNX's momentum is the share of what was there.
    options = {"momentum": round(1.0 - values["kept"], 7)} if "kept" in values else {}
    if not 0.0 < options.get("momentum", 0.1) <= 1.0:
        options = {}
    stack.add(BatchNorm(eps=values["eps"], **options), width, tensors)


def _standardize_inputs(stack: Stack, values: Matched) -> None:
    width, tensors = _rows(stack, values, "running_mean", "running_var", "deviation")
    some = next(iter(tensors.values()))
    mean = tensors.get("running_mean", np.zeros_like(some))
    deviation = tensors.get("deviation", np.ones_like(some))
    variance = tensors.get("running_var", deviation**2)
    if not (np.all(variance > 0) and np.all(deviation > 0)):
        raise ArgumentError("expected positive deviations, by which inputs are divided")
    stack.add(Standardize(), width, {"running_mean": mean, "running_var": variance})


def _scaler(stack: Stack, values: Matched) -> None:
    with np.errstate(divide="ignore", over="ignore"):
        deviation = 1.0 / values["scale"].astype(np.float64)
    as_it_is = {"running_mean": values["offset"], "deviation": deviation.astype(np.float32)}
    _standardize_inputs(stack, as_it_is)


def _standardize_targets(stack: Stack, values: Matched) -> None:
    width, tensors = _rows(stack, values, "running_mean", "running_var")
    # A variance of 0 would say that nothing was measured.
    if not np.all(tensors["running_var"] > 0):
        raise ArgumentError("expected positive variances, by whose roots outputs are multiplied")
    stack.add(Standardize(of="targets"), width, tensors)


def _two_probabilities(stack: Stack, values: Matched) -> None:
    # 1 − σ(z) and σ(z) are the softmax of 0 and z.
    if stack.width != 1:
        raise ArgumentError(f"expected one output in front of it, got {stack.width}")
    stack.add(Dense(2, use_bias=False), 1, {"weight": np.array([[0, 1]], next(iter(stack.dtypes)))})
    stack.add(Softmax())


def _dropout(stack: Stack, values: Matched) -> None:
    stack.add(Dropout(values.get("rate", 0.5)))


def _prelu(stack: Stack, values: Matched) -> None:
    slope = values["slope"]
    if slope.size != 1:
        raise ArgumentError(f"expected one slope for all units, got {slope.size}")
    stack.activate("prelu", {"slope": slope.reshape(())})


_BUILDERS: dict[str, Callable[[Stack, Matched], None]] = {
    "dense": _dense,
    "dense_without_bias": _dense,
    "gemm": _dense,
    "integers": _integers,
    "integers_float_bias": _integers,
    "integers_without_bias": _integers,
    "dropout": _dropout,
    "layer_norm": _layer_norm,
    "batch_norm": _batch_norm,
    "standardize_inputs": _standardize_inputs,
    "standardize_targets": _standardize_targets,
    "scaler": _scaler,
    "two_probabilities": _two_probabilities,
    "prelu": _prelu,
    "leaky_relu": lambda stack, values: stack.activate(activations.LeakyReLU(values["slope"])),
    "elu": lambda stack, values: stack.activate(activations.ELU(values["alpha"])),
    "celu": lambda stack, _: stack.activate("elu"),
    "softmax": lambda stack, _: stack.add(Softmax()),
}


def _build(kind: str) -> Callable[[Stack, Matched], None]:
    return _BUILDERS.get(kind) or (lambda stack, _: stack.activate(kind))


# ---------------------------------------------------------------- graphs as chains


_FORMS = by_operator(LAYERS | ACTIVATIONS)


def _chain(graph: Graph) -> Iterator[tuple[str, str, Matched]]:
    """Place, form and values of each layer, from the output back to the input."""
    tensor = graph.output
    while tensor != graph.input:
        node = graph.producer(tensor)
        if node is None or tensor in graph.constants:
            raise ArgumentError(
                f"expected outputs that depend on the input {graph.input!r}, got those of the "
                f"constant {tensor!r}"
            )
        found = _layer(graph, tensor)
        if found is not None:
            kind, values, tensor = found
            yield graph.place(node), kind, values
        elif (earlier := graph.before(tensor)) is not None:
            tensor = earlier
        else:
            raise ArgumentError(f"{graph.place(node)}: {graph.why(node, set(_FORMS))}")


def _layer(graph: Graph, tensor: str) -> tuple[str, Matched, str] | None:
    """Form and values of the layer that gives a tensor, and what comes into it."""
    for kind, form in _FORMS.get(graph.kind(graph.producer(tensor)), ()):
        found = matched(graph, form, tensor)
        if found is not None:
            values, earlier = found
            # A constant shift or scale is a layer at the input only.
            if kind not in ("standardize_inputs", "scaler") or graph.skip(earlier) == graph.input:
                return kind, values, earlier
    return None


def _loaded(model: Any) -> tuple[str, Any]:
    """What to call a model, and its protobuf message."""
    if isinstance(model, onnx.ModelProto):
        return "model", model
    path = path_of(model, "model")
    try:
        proto = onnx.load_from_string(FilePath(path).read_bytes())
    except DecodeError as error:
        raise FileFormatError(f"{path}: expected an ONNX model, got {error}") from error
    try:
        onnx.load_external_data_for_model(proto, str(FilePath(path).parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise FileFormatError(
            f"{path}: expected the files in which its tensors lie beside it, got {error}"
        ) from error
    return path, proto


def _checked(name: str, proto: Any) -> Any:
    """The message with the shapes of its tensors, if it is a valid model."""
    if proto.functions:
        raise ArgumentError(
            f"{name}: expected operators of ONNX's, got functions of the file's own"
        )
    if proto.graph.sparse_initializer:
        raise ArgumentError(f"{name}: expected dense tensors, got sparse ones")
    for node in proto.graph.node:
        if node.domain not in ("", "ai.onnx", "ai.onnx.ml"):
            raise ArgumentError(
                f"{name}: node {node.name or node.op_type!r}: expected an operator of ONNX's, got "
                f"{node.domain}.{node.op_type}"
            )
    try:
        onnx.checker.check_model(proto, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
        scaled = [node.output[0] for node in proto.graph.node if node.op_type == "Scaler"]
        if scaled:
            # Of its shape onnx says nothing; behind the input it is the input's.
            for name in scaled:
                inferred.graph.value_info.add().CopyFrom(proto.graph.input[0])
                inferred.graph.value_info[-1].name = name
            inferred = onnx.shape_inference.infer_shapes(inferred, data_prop=True)
        return inferred
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        ValueError,
        TypeError,
        RuntimeError,
        DecodeError,
    ) as error:
        text = " ".join(str(error).split())[:500]
        raise FileFormatError(f"{name}: expected a valid ONNX model, got {text}") from error


def from_onnx(model: Any) -> Sequential | QuantizedSequential:
    """See `ranvier.interchange.from_onnx`."""
    if not isinstance(model, onnx.ModelProto | str | PathLike):
        raise DTypeError(
            f"model: expected a path or an onnx.ModelProto, got {type(model).__name__}"
        )
    name, proto = _loaded(model)
    proto = _checked(name, proto)
    with at(name):
        graph = Graph(proto)
        graph.check_rows()
        stack = Stack(graph.width)
        stack.dtypes.add(graph.dtype.name)
        for place, kind, values in reversed(list(_chain(graph))):
            with at(place):
                _build(kind)(stack, values)
    return stack.quantized(name) if stack.integer_layers else stack.model(name)
