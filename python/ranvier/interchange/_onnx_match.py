"""Where in an ONNX graph the forms of layers and activations stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from ..export._onnx_forms import Form, Input, Number, Op, Tensor
from ._onnx_constants import FLOATS
from ._onnx_graph import Graph

# Tensors by role, numbers by name, and under "" the name of what comes in.
Matched: TypeAlias = dict[str, Any]

_COMMUTE = frozenset({"Add", "Max", "Min", "Mul"})
# Attributes that say nothing about predictions.
_NO_MATTER = frozenset({"seed", "stash_type"})
# How far a constant may be from what it stands for, over the larger of that and 1.
_CLOSE = {"float32": 1e-6, "float64": 1e-12}


def by_operator(table: Mapping[str, list[Form]]) -> dict[str, list[tuple[str, Op]]]:
    """The forms that end in an operator, the largest first."""
    found: dict[str, list[tuple[str, Op]]] = {}
    for kind, forms in table.items():
        for form in forms:
            found.setdefault(form.expression.kind, []).append((kind, form.expression))
    for entries in found.values():
        entries.sort(key=lambda entry: -entry[1].size())
    return found


def matched(graph: Graph, form: Op, tensor: str) -> tuple[Matched, str] | None:
    """What a form that gives the tensor is made of, and what comes into it; None if none does."""
    found = _operator(graph, form, tensor, {})
    if found is None or "" not in found:
        return None
    return found, found.pop("")


def _part(graph: Graph, part: Any, tensor: str, found: Matched) -> Matched | None:
    """What is found so far with what the tensor adds to it, if it is this part of a form."""
    match part:
        case Input():
            # Several copies of one tensor are the same.
            same = graph.skip(found.get("", tensor)) == graph.skip(tensor)
            return {"": tensor} | found if same and tensor not in graph.constants else None
        case Op():
            place: str | None = tensor
            while place is not None:
                after = _operator(graph, part, place, found)
                if after is not None:
                    return after
                place = graph.before(place)
            return None
    constant = graph.constants.get(tensor)
    if constant is None or constant.ndim > 2:
        # More dimensions would give rows some too.
        return None
    floats = constant.dtype in FLOATS.values()
    match part:
        case Tensor(role):
            # One tensor in two places is the same, of integers too.
            same = role not in found or np.array_equal(found[role], constant)
            return found | {role: constant} if same else None
        case Number(name) if constant.size == 1 and floats:
            return _bound(found, name, graph.number(constant.reshape(-1)[0]))
        case float() if constant.size == 1 and _close(graph, constant.reshape(-1)[0], part):
            return found
        case tuple() if _axes(constant.reshape(-1).tolist()) == part:
            return found
    return None


def _operator(graph: Graph, part: Op, tensor: str, found: Matched) -> Matched | None:
    node = graph.producer(tensor)
    if node is None or node.output[0] != tensor or graph.kind(node) != part.kind:
        return None
    if node.op_type == "BatchNormalization" and len(node.output) > 1:
        # Up to opset 13 that is training mode.
        return None
    inputs = list(node.input)
    while inputs and not inputs[-1]:
        inputs.pop()
    if len(inputs) != len(part.inputs):
        return None
    after = _attributes(graph, part, node, found)
    orders = [inputs, inputs[::-1]] if part.kind in _COMMUTE else [inputs]
    for order in orders:
        result = after
        for expression, name in zip(part.inputs, order, strict=True):
            result = None if result is None else _part(graph, expression, name, result)
        if result is not None:
            return result
    return None


def _attributes(graph: Graph, part: Op, node: Any, found: Matched) -> Matched | None:
    """Likewise of the attributes; those that the form does not name have their defaults."""
    values = graph.attributes(node)
    defaults = graph.attributes(type(node)(op_type=node.op_type, domain=node.domain))
    for name in {entry.name for entry in node.attribute} - set(part.attributes) - _NO_MATTER:
        if values[name] != defaults.get(name):
            return None
    for name, expected in part.attributes.items():
        value = values.get(name)
        after: Matched | None = found
        match expected:
            case _ if value is None:
                return None
            case Number():
                after = _bound(found, expected.name, value)
            case Tensor(role):
                after = found | {role: np.array(value, np.float32)}
            case float():
                after = found if abs(value - expected) <= _CLOSE["float32"] else None
            case tuple():
                after = found if _axes(value) == expected else None
            case _:
                value = _axes([value])[0] if name == "axis" else value
                after = found if value == expected else None
        if after is None:
            return None
        found = after
    return found


def _axes(axes: Any) -> tuple[Any, ...]:
    """Axes of two dimensions, of which the last one is number 1."""
    return tuple(-1 if axis == 1 else axis for axis in axes)


def _bound(found: Matched, name: str, value: Any) -> Matched | None:
    """With one more value, unless another has the name."""
    return found | {name: value} if found.get(name, value) == value else None


def _close(graph: Graph, value: Any, expected: float) -> bool:
    tolerance = _CLOSE[graph.dtype.name] * max(abs(expected), 1.0)
    return bool(abs(float(value) - expected) <= tolerance)
