"""What another framework computed, step by step, and the file format of such a record.

A recorded trace is a safetensors file. Its tensors, in float32 or float64, are named by step, from
1 on, and by what they are; NAME is a parameter's:

    0.parameter.NAME   every parameter before the first step
    1.output           raw outputs of step 1's batch before the update, (rows, outputs)
    1.output.2         optional: the output of layer 2, numbered as in ranvier's model
    1.loss             one number
    1.gradient.NAME    of every trainable parameter, as the optimizer gets it
    1.parameter.NAME   every parameter after the update

Parameters are needed in every step; what else is missing is not compared. Metadata: "kind" is
"trace"; "layout" is "torch" (names as in the state_dict of a torch.nn.Sequential, weights (out,
in)) or "ranvier" (names and shapes of `Sequential.parameters`); "names", optional, a JSON list of
the names in the file in the order of the layers, where they are others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import _core
from .._arrays import Array, empty
from .._files import Path as PathLike
from .._files import path_of, torch_names
from ..errors import ArgumentError, FileFormatError
from ..model import Sequential

__all__ = ["Batch", "Step", "Trace", "in_order", "mapped", "read_trace"]

Batch = tuple[Array, Array]


@dataclass
class Step:
    """One step of a training, by ranvier's names and in its layout.

    Args:
        parameters: after the update, statistics too.
        gradients: as the optimizer got them.
        output: raw outputs before the update.
        outputs: of some layers, by their numbers.
        loss: before the update.
    """

    parameters: dict[str, Array]
    gradients: dict[str, Array] = field(default_factory=dict)
    output: Array | None = None
    outputs: dict[int, Array] = field(default_factory=dict)
    loss: float | None = None


@dataclass
class Trace:
    """A training: what it started from, and its steps.

    Args:
        name: what trained.
        start: parameters before the first step.
        steps: at least one.
        dtype: what it computed in.
        squash: "softmax" or "sigmoid" where its outputs are those of ranvier's raw ones.
    """

    name: str
    start: dict[str, Array]
    steps: list[Step]
    dtype: np.dtype[Any]
    squash: str | None = None


def in_order(model: Sequential) -> list[str]:
    """Names of all parameters and statistics, layer by layer."""
    return sorted(model._shapes(), key=lambda name: int(name.partition(".")[0]))


def mapped(model: Sequential, shapes: Sequence[tuple[int, ...]], *, turned: bool) -> list[str]:
    """Our names of foreign parameters, layer by layer; `turned` says that weights are (out, in).

    Raises:
        ArgumentError: another number of parameters, or another shape.
    """
    names, own = in_order(model), model._shapes()
    expected = [own[name][::-1] if turned else own[name] for name in names]
    # A slope may be a vector of one.
    if len(shapes) != len(expected) or any(
        shape != own and (own, shape) != ((), (1,))
        for shape, own in zip(shapes, expected, strict=True)
    ):
        raise ArgumentError(
            f"against: expected parameters of the shapes {expected}, layer by layer as {names}, "
            f"got {list(shapes)}"
        )
    return names


class _File:
    """A trace file, taken apart."""

    def __init__(self, path: str, model: Sequential) -> None:
        self._path, self._model = path, model
        self._file = _core.File(path, None, False)
        metadata = self._file.metadata()
        if metadata.get("kind") != "trace":
            raise self._fault(f"the kind {metadata.get('kind')!r} in place of 'trace'")
        self._layout = metadata.get("layout", "")
        if self._layout not in ("torch", "ranvier"):
            raise self._fault(f"the layout {self._layout!r} in place of 'torch' or 'ranvier'")
        self._tensors = {name: (dtype, tuple(shape)) for name, dtype, shape in self._file.tensors()}
        self._names = self._foreign(metadata.get("names"))

    def _fault(self, what: str) -> FileFormatError:
        return FileFormatError(f"{self._path}: expected a recorded trace, got {what}")

    def _foreign(self, given: str | None) -> dict[str, str]:
        """The names of the file by ours."""
        ours = in_order(self._model)
        if given is None:
            foreign = ours if self._layout == "ranvier" else torch_names(self._model.layers, ours)
            return dict(zip(ours, foreign, strict=True))
        try:
            foreign = json.loads(given)
        except ValueError as error:
            raise self._fault(f"names that are no JSON, {given[:80]!r}") from error
        if not isinstance(foreign, list) or len(foreign) != len(ours):
            raise self._fault(f"names {given[:300]} in place of a list of {len(ours)}, for {ours}")
        return {own: str(name) for own, name in zip(ours, foreign, strict=True)}

    def _array(self, name: str) -> Array:
        dtype, shape = self._tensors[name]
        if dtype not in ("F32", "F64"):
            raise self._fault(f"{name!r} of type {dtype} in place of F32 or F64")
        array = empty(shape, np.float32 if dtype == "F32" else np.float64)
        self._file.read(name, np.atleast_1d(array))
        return array

    def _named(self, step: int, kind: str, *, complete: bool) -> dict[str, Array]:
        """Parameters or gradients of a step, by our names and in our layout."""
        found = {}
        own = self._model._shapes()
        for name, foreign in self._names.items():
            key = f"{step}.{kind}.{foreign}"
            if key not in self._tensors:
                if complete:
                    raise self._fault(f"no {key!r}")
                continue
            array = self._array(key)
            if self._layout == "torch":
                array = array.T
            if array.size == 1:
                array = array.reshape(own[name]) if own[name] in ((), (1,), (1, 1)) else array
            if array.shape != own[name]:
                raise self._fault(
                    f"{key!r} of shape {self._tensors[key][1]} in the layout {self._layout!r}, "
                    f"which {name!r} of shape {own[name]} does not have"
                )
            found[name] = array
        return found

    def trace(self, batches: Sequence[Batch]) -> Trace:
        """The record, no longer than the batches."""
        numbers = {name.partition(".")[0] for name in self._tensors}
        last = max((int(n) for n in numbers if n.isascii() and n.isdecimal()), default=0)
        if last < 1:
            raise self._fault("no step: no tensor with a name such as '1.loss'")
        steps = [
            self._step(number, len(x))
            for number, (x, _) in enumerate(batches[: min(last, len(batches))], start=1)
        ]
        start = self._named(0, "parameter", complete=True)
        dtypes = {array.dtype for array in start.values()} or {self._model.dtype}
        return Trace(
            Path(self._path).name, start, steps, min(dtypes, key=lambda dtype: dtype.itemsize)
        )

    def _step(self, number: int, rows: int) -> Step:
        step = Step(self._named(number, "parameter", complete=True))
        step.gradients = self._named(number, "gradient", complete=False)
        if f"{number}.loss" in self._tensors:
            loss = self._array(f"{number}.loss")
            if loss.size != 1:
                raise self._fault(f"'{number}.loss' of shape {loss.shape} in place of one number")
            step.loss = float(loss.reshape(()))
        prefix = f"{number}.output"
        for name in self._tensors:
            if name != prefix and not name.startswith(prefix + "."):
                continue
            output = self._array(name)
            output = output.reshape(rows, -1) if len(output) == rows else output
            layer = name.removeprefix(prefix).removeprefix(".")
            if not layer:
                step.output = output
            elif layer.isdecimal() and int(layer) < len(self._model.layers):
                step.outputs[int(layer)] = output
            else:
                raise self._fault(f"{name!r}, of a layer that the model does not have")
        return step


def read_trace(path: PathLike, model: Sequential, batches: Sequence[Batch]) -> Trace:
    """The trace of a file.

    Raises:
        FileFormatError: it is damaged, or its tensors do not fit the model.
        OSError: the system refused.
    """
    return _File(path_of(path, "against"), model).trace(batches)
