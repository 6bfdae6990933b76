"""What a network computes in evaluation mode: common ground of the exporters that write code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import activations
from .._arrays import Array
from .._predictor import Predictor
from ..layers import (
    Activation,
    BatchNorm,
    Dense,
    Layer,
    LayerNorm,
    Softmax,
    Standardize,
)

# Parameters of activations that are given by their names.
_DEFAULTS = {
    "elu": activations.ELU().alpha,
    "leaky_relu": activations.LeakyReLU().slope,
}


@dataclass(frozen=True)
class Step:
    """One function of a row.

    Attributes:
        function: "dense", "integer_dense", "layer_norm", "batch_norm", "softmax", "standardize",
            "put_back" (targets into their units) or the name of an elementwise activation. Dropout
            and noise are none.
        layer: number of the layer that it belongs to.
        inputs: how many values it takes.
        outputs: how many values it gives.
        arrays: what it reads, by name: parameters, and factors that are made of statistics as the
            core makes them, to the bit.
        number: slope, alpha or eps, or what quantised inputs are multiplied by, rounded to the
            model's dtype.
        zero: the integer that stands for a quantised input of 0.
    """

    function: str
    layer: int
    inputs: int
    outputs: int
    arrays: dict[str, Array]
    number: float | None = None
    zero: int | None = None


_Part = tuple[str, dict[str, Array], float | None]


def steps_of(model: Predictor) -> list[Step]:
    """The steps, in order."""
    values: list[dict[str, Array]] = [{} for _ in model.layers]
    for name, value in model.parameters().items():
        place, _, role = name.partition(".")
        values[int(place)][role] = value
    steps: list[Step] = []
    width = model.input_size or 0
    of = model.dtype.type
    for count, (layer, own) in enumerate(zip(model.layers, values, strict=True)):
        for function, arrays, number in _parts(layer, own, of):
            dense = function in ("dense", "integer_dense")
            outputs = arrays["weight"].shape[1] if dense else width
            rounded = None if number is None else float(of(number))
            zero = int(own["input_zero_point"]) if function == "integer_dense" else None
            steps.append(Step(function, count, width, outputs, arrays, rounded, zero))
            width = outputs
    return steps


def _parts(layer: Layer, own: dict[str, Array], of: Any) -> Iterator[_Part]:
    """Function, arrays and number of what a layer does."""
    affine: dict[str, Array] = {role: own[role] for role in ("weight", "bias") if role in own}
    if "weight_scale" in own:
        factor = own["input_scale"] * own["weight_scale"]
        yield "integer_dense", {"factor": factor, **affine}, of(1) / own["input_scale"]
    elif isinstance(layer, Dense):
        yield "dense", affine, None
    if isinstance(layer, Dense | Activation):
        name, number = activations.spec(layer.activation)
        if name != "identity":
            if name == "prelu":
                number = float(own["slope"])
            yield name, {}, _DEFAULTS.get(name) if number is None else number
    elif isinstance(layer, Softmax):
        yield "softmax", {}, None
    elif isinstance(layer, LayerNorm):
        yield "layer_norm", affine, layer.eps
    elif isinstance(layer, BatchNorm):
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = of(1) / np.sqrt(own["running_var"] + of(layer.eps))
        yield "batch_norm", {"mean": own["running_mean"], "factor": factor, **affine}, None
    elif isinstance(layer, Standardize):
        # A variance of 0 says that nothing was measured.
        measured = own["running_var"] > 0
        mean = np.where(measured, own["running_mean"], of(0))
        deviation = np.sqrt(np.where(measured, own["running_var"], of(1)))
        if layer.of == "inputs":
            yield "standardize", {"mean": mean, "factor": of(1) / deviation}, None
        else:
            yield "put_back", {"mean": mean, "deviation": deviation}, None
