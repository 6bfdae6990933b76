"""An ONNX graph from one input to one output, and what in it changes nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx.defs
from onnx import TensorProto, helper

from .._arrays import Array
from ..errors import ArgumentError
from ._onnx_constants import FLOATS, constants

# What operators have to be of which some are known.
_EXPECTED = {
    "BatchNormalization": "statistics, scale and bias that are constants, and no training mode",
    "Cast": "the type of the input to be kept",
    "Celu": "alpha=1, with which CELU is ELU",
    "DequantizeLinear": "it around a product, between uint8 inputs with one scale and int8 weights "
    "(in, out) with one for each output, as rv.export.onnx writes them",
    "Dropout": "a ratio that is a constant, and no training mode",
    "Flatten": "rows that are kept: axis=1, at the input or on rows that are flat",
    "Gemm": "a weight and a bias that are constants",
    "HardSigmoid": "alpha=1/6 and beta=1/2",
    "LayerNormalization": "the last axis, and a weight and a bias that are constants",
    "LogSoftmax": "raw outputs; leave it away: ranvier's cross_entropy takes what comes before",
    "MatMul": "a weight that is a constant, on the right",
    "Reshape": "a shape that keeps the rows and their features, or that flattens the input",
    "Selu": "the published alpha and gamma",
    "Softmax": "a softmax over the features",
}


# What may change nothing, besides Add, Sub, Mul and Div.
_COPIES = frozenset({"Cast", "CastLike", "Flatten", "Identity", "Reshape"})


class Graph:
    """A checked graph of one input and one output of floats.

    Raises:
        ArgumentError: it has others.
        FileFormatError: a tensor's numbers do not fit its shape.
    """

    def __init__(self, proto: Any) -> None:
        graph = proto.graph
        self.constants = constants(graph)
        self._opsets = {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import}
        self._producers = {name: node for node in graph.node for name in node.output}
        self._shapes = {
            value.name: [
                dim.dim_value if dim.HasField("dim_value") else None
                for dim in value.type.tensor_type.shape.dim
            ]
            for value in [*graph.input, *graph.value_info, *graph.output]
            if value.type.tensor_type.HasField("shape")
        }
        self.input, self.dtype = self._only_input(graph)
        self.output = self._only_output(graph)
        # Behind a Flatten, rows of several dimensions are flat.
        self.width = _product(self._shapes.get(self.input, [])[1:])

    def _only_input(self, graph: Any) -> tuple[str, np.dtype[Any]]:
        inputs = [value for value in graph.input if value.name not in self.constants]
        if len(inputs) != 1:
            names = [value.name for value in inputs]
            raise ArgumentError(f"expected a graph of one input, got {names}")
        (value,) = inputs
        element = value.type.tensor_type.elem_type
        if element not in FLOATS:
            raise ArgumentError(
                f"expected an input {value.name!r} of float32 or float64, "
                f"got {_type_name(value.type)}"
            )
        return str(value.name), FLOATS[element]

    def _only_output(self, graph: Any) -> str:
        outputs = []
        for value in graph.output:
            node = self.producer(value.name)
            if node is not None and self.kind(node) == "ai.onnx.ml.ZipMap":
                # Probabilities with the names of their classes.
                outputs.append(str(node.input[0]))
            elif value.type.tensor_type.elem_type in FLOATS:
                outputs.append(str(value.name))
        if len(outputs) != 1:
            names = [f"{value.name!r} ({_type_name(value.type)})" for value in graph.output]
            raise ArgumentError(
                f"expected a graph of one output in float32 or float64, got {', '.join(names)}"
            )
        return outputs[0]

    def check_rows(self) -> None:
        """Refuses an input that is no rows and is not made flat."""
        shape = self._shapes.get(self.input)
        flat = [node for node in self._producers.values() if self.input in node.input]
        if (
            shape is not None
            and len(shape) != 2
            and not all(node.op_type in ("Flatten", "Reshape") for node in flat)
        ):
            raise ArgumentError(
                f"expected an input {self.input!r} of rows and features, got one of "
                f"{len(shape)} dimensions"
            )

    # ------------------------------------------------------------ nodes

    def producer(self, tensor: str) -> Any:
        """The node that gives a tensor, or None."""
        return self._producers.get(tensor)

    @staticmethod
    def kind(node: Any) -> str:
        """The operator, with its domain where it is not ONNX's own."""
        standard = node.domain in ("", "ai.onnx")
        return str(node.op_type if standard else f"{node.domain}.{node.op_type}")

    def place(self, node: Any) -> str:
        """How a message names a node."""
        return f"node {node.name or node.output[0]!r} ({self.kind(node)})"

    def attributes(self, node: Any) -> dict[str, Any]:
        """All attributes of a node, the defaults of its operator too."""
        domain = "" if node.domain == "ai.onnx" else node.domain
        version = self._opsets[domain or "ai.onnx"]
        schema = onnx.defs.get_schema(node.op_type, version, domain)
        values = {
            name: helper.get_attribute_value(attribute.default_value)
            for name, attribute in schema.attributes.items()
            if attribute.default_value.type
        }
        values |= {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        for name, value in values.items():
            if isinstance(value, bytes):
                values[name] = value.decode("utf-8", "replace")
            elif isinstance(value, float):
                # A float32; the shortest number that it may stand for is what was meant.
                values[name] = float(str(np.float32(value)))
        return values

    def number(self, value: Any) -> float:
        """A float; in a float32 graph the shortest one that stands for this float32."""
        return float(str(value)) if self.dtype == np.float32 else float(value)

    def why(self, node: Any, known: set[str]) -> str:
        """Why a node is refused that is no part of any form."""
        kind = self.kind(node)
        before = [self.producer(name) for name in node.input]
        if any(each is not None and each.op_type == "DequantizeLinear" for each in before):
            kind = "DequantizeLinear"
        if kind in _EXPECTED:
            return f"expected {_EXPECTED[kind]}"
        if kind not in known:
            return f"expected one of {', '.join(sorted(known | _COPIES))}, got {kind}"
        computed = sorted({repr(name) for name in node.input} - {*map(repr, self.constants)})
        if len(computed) > 1:
            return (
                "expected a chain of layers, got an operator on several computed values, "
                f"{', '.join(computed)}"
            )
        return "expected it as part of a layer or an activation of ranvier's"

    # ------------------------------------------------------------ what changes nothing

    def before(self, tensor: str) -> str | None:
        """The tensor of which this one is a copy, or None."""
        node = self.producer(tensor)
        if node is None or tensor in self.constants:
            return None
        computed = [name for name in node.input if name not in self.constants]
        return computed[0] if len(computed) == 1 and self._copies(node) else None

    def skip(self, tensor: str) -> str:
        """The first tensor of which this one is a copy."""
        while (earlier := self.before(tensor)) is not None:
            tensor = earlier
        return tensor

    def _copies(self, node: Any) -> bool:
        match self.kind(node):
            case "Identity":
                return True
            case "Cast":
                return FLOATS.get(self.attributes(node)["to"]) == self.dtype
            case "CastLike":
                like = self.constants.get(node.input[1])
                return like is not None and like.dtype == self.dtype
            case "Flatten":
                return bool(self.attributes(node)["axis"] == 1) and self._keeps_rows(node, None)
            case "Reshape":
                return self._keeps_rows(node, self.constants.get(node.input[1]))
            case "Add" | "Sub":
                return self._neutral(node, 0.0)
            case "Mul" | "Div":
                return self._neutral(node, 1.0)
        return False

    def _neutral(self, node: Any, value: float) -> bool:
        """Whether one operand is a number that changes nothing, where it may stand."""
        places = node.input if node.op_type in ("Add", "Mul") else node.input[1:]
        numbers = [self.constants[name] for name in places if name in self.constants]
        return any(n.size == 1 and n.ndim <= 2 and n.reshape(-1)[0] == value for n in numbers)

    def _keeps_rows(self, node: Any, shape: Array | None) -> bool:
        """Whether features come and go as they are, or are made flat at the input."""
        before, after = (self._shapes.get(name) for name in (node.input[0], node.output[0]))
        if before is None or after is None or len(before) < 2 or len(after) != 2:
            return False
        if node.op_type == "Flatten":
            return True
        # There are as many rows as before if the shape says so, or if each has as many features.
        width = _product(before[1:])
        rows = [] if shape is None else shape.tolist()
        return width is not None and (after[1] == width or rows in ([0, -1], [before[0], -1]))


def _product(dims: list[int | None]) -> int | None:
    """How many features there are, where all dimensions are known."""
    known = [dim for dim in dims if dim is not None]
    return math.prod(known) if known and len(known) == len(dims) else None


def _type_name(kind: Any) -> str:
    """A type as a message says it."""
    if kind.HasField("tensor_type"):
        return str(TensorProto.DataType.Name(kind.tensor_type.elem_type)).lower()
    return str(kind.WhichOneof("value")).removesuffix("_type")
