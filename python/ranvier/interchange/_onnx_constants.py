"""Which tensors of an ONNX graph are constants, and their numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from .._arrays import Array
from ..errors import FileFormatError

FLOATS: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.DOUBLE: np.dtype(np.float64),
}

# Attributes of Constant besides tensors, with their types.
_PLAIN = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


def _reshaped(array: Array, shape: Array) -> Array:
    return array.reshape([array.shape[i] if n == 0 else n for i, n in enumerate(shape.tolist())])


def _squeezed(array: Array, axes: Array | None = None) -> Array:
    return array.squeeze(None if axes is None else tuple(axes.tolist()))


# What is computed of constants alone: of floats, and of any.
_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Div": np.divide,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Reciprocal": np.reciprocal,
    "Sqrt": np.sqrt,
    "Sub": np.subtract,
}
_SHAPING: dict[str, Callable[..., Any]] = {
    # Like a tensor of the chain, whose type the constant then has but for its precision.
    "CastLike": lambda array, other=None: array if other is None else array.astype(other.dtype),
    "Identity": lambda array: array,
    "Reshape": _reshaped,
    "Squeeze": _squeezed,
    "Unsqueeze": lambda array, axes: np.expand_dims(array, tuple(axes.tolist())),
}
_BY_ATTRIBUTE: dict[str, Callable[..., Any]] = {
    "Cast": lambda array, options: array.astype(helper.tensor_dtype_to_np_dtype(options["to"])),
    "Transpose": lambda array, options: array.transpose(options.get("perm")),
}


def _array(tensor: Any) -> Array:
    try:
        array: Array = numpy_helper.to_array(tensor)
    except Exception as error:
        raise FileFormatError(
            f"expected numbers that fit the tensor {tensor.name!r}, got {error}"
        ) from error
    return array


def constants(graph: Any) -> dict[str, Array]:
    """Every tensor that does not depend on the input, as far as its operators are known here.

    Nodes come in an order in which they can be computed; the checker has seen to it. How many
    numbers are computed is bounded by how many are in the file, which might be made to have many.
    """
    found = {tensor.name: _array(tensor) for tensor in graph.initializer}
    left = 2**16 + 8 * sum(array.size for array in found.values())
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type == "Constant":
            (attribute,) = node.attribute
            value = helper.get_attribute_value(attribute)
            if attribute.name == "value":
                found[node.output[0]] = _array(value)
            elif attribute.name in _PLAIN:
                found[node.output[0]] = np.array(value, _PLAIN[attribute.name])
            continue
        names = node.input[:1] if node.op_type == "CastLike" else node.input
        if not names or any(name not in found for name in names):
            continue
        arrays = [found[name] for name in node.input if name in found]
        try:
            if node.op_type in _ARITHMETIC:
                left -= math.prod(np.broadcast_shapes(*(array.shape for array in arrays)))
            else:
                left -= arrays[0].size
            if left >= 0:
                value = _computed(node, arrays)
                if value is not None:
                    found[node.output[0]] = value
        except (ValueError, TypeError, IndexError, KeyError):
            # Not understood here, so no constant: a layer that needs it is refused.
            continue
    return found


def _computed(node: Any, arrays: list[Array]) -> Array | None:
    kind = node.op_type
    if kind in _ARITHMETIC and all(array.dtype in FLOATS.values() for array in arrays):
        with np.errstate(all="ignore"):
            return np.asarray(_ARITHMETIC[kind](*arrays))
    if kind in _SHAPING:
        return np.asarray(_SHAPING[kind](*arrays))
    if kind in _BY_ATTRIBUTE:
        options = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        return np.asarray(_BY_ATTRIBUTE[kind](*arrays, options))
    return None
