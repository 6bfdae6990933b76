"""Quantisation: dense layers that multiply 8-bit integers, and training that rounds as they do.

A weight w of an output is scale q, q an integer in [-127, 127], scale = max |w| / 127 over the
output's weights. An input x of a layer is scale (q - zero), q an integer in [0, 255], for a range
[low, high] that holds 0: scale = (high - low) / 255, zero = the integer nearest to -low / scale.
Ties are rounded to even. So an output is

    z_o = scale scale_o sum_i (q_i - zero) q_io + bias_o

with a sum of integers, which is exact; a row with NaN gives NaN. Training that knows of it
multiplies the numbers that the integers stand for, and takes the derivative of rounding for 1
(straight through): d_weight and d_input are those of the rounded numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, isnan, nan
from typing import cast

from .layers import Activation, Dense
from .network import Sequential
from .passes import Layer, Mode
from .rounding import InputMap, integers_of, scales_of
from .vectors import Matrix, Rows, Tensor, Vector, as_matrix


@dataclass(frozen=True)
class QuantizedSequential:
    """Layers of which some multiply integers.

    Args:
        layers: the layers' definitions.
        parameters: by name, as `Sequential.parameters` has them; where there is an
            "0.input_scale", layer 0 multiplies integers: "0.weight" holds them, "0.weight_scale"
            (out_features,) and "0.input_zero_point" what they stand for.
    """

    layers: Sequence[Layer]
    parameters: Mapping[str, Tensor]

    def predict(self, X: Rows) -> Matrix:
        """Raw outputs, (batch, output_size)."""
        x: Matrix = [list(row) for row in X]
        for index, layer in enumerate(self.layers):
            own = _of_layer(self.parameters, index)
            if "input_scale" in own:
                x = self._integers(cast(Dense, layer), own, x)
            else:
                x = layer.forward(own, x, Mode(layer=index)).output
        return x

    @staticmethod
    def _integers(layer: Dense, own: Mapping[str, Tensor], x: Matrix) -> Matrix:
        scale, zero = cast(float, own["input_scale"]), int(cast(float, own["input_zero_point"]))
        to_integer = InputMap(scale, zero)
        scales = cast(Vector, own["weight_scale"])
        columns = list(zip(*cast(Matrix, own["weight"]), strict=True))
        biases = cast(Vector, own["bias"]) if layer.use_bias else [0.0] * layer.units
        z = []
        for row in x:
            if any(map(isnan, row)):
                # No integer says so.
                z.append([nan] * layer.units)
                continue
            q = [to_integer.integer(value) - zero for value in row]
            sums = [sum(a * int(b) for a, b in zip(q, w, strict=True)) for w in columns]
            factors = [scale * by_output for by_output in scales]
            z.append([s * f + b for s, f, b in zip(sums, factors, biases, strict=True)])
        return Activation(layer.activation).forward(own, z, Mode()).output


def quantize(model: Sequential, X: Rows) -> QuantizedSequential:
    """All dense layers in integers; their inputs reach as far as those of X do in the model."""
    x = as_matrix(X, model.input_size, "X")
    if not x or not all(isfinite(value) for row in x for value in row):
        raise ValueError(f"X must be at least one row of finite numbers, got {x}")
    parameters: dict[str, Tensor] = dict(model.parameters())
    for index, layer in enumerate(model.layers):
        place, own = f"{index}.", _of_layer(model.parameters(), index)
        if isinstance(layer, Dense):
            weight = cast(Matrix, own["weight"])
            reach = InputMap.of(x)
            parameters |= {
                f"{place}weight": [[float(q) for q in row] for row in integers_of(weight)],
                f"{place}weight_scale": scales_of(weight),
                f"{place}input_scale": reach.scale,
                f"{place}input_zero_point": float(reach.zero),
            }
        x = layer.forward(own, x, Mode(layer=index)).output
    return QuantizedSequential(model.layers, parameters)


def _of_layer(parameters: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    """The parameters of one layer, without its number."""
    place = f"{index}."
    own = {name: value for name, value in parameters.items() if name.startswith(place)}
    return {name.removeprefix(place): value for name, value in own.items()}
