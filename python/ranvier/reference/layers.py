"""Layers: dense, activation, dropout and softmax; those that normalise are in `normalization`."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import cast

from . import activations, initializers
from .activations import Kind, LeakyReLU, PReLU, ScalarActivation, SoftmaxRow
from .initializers import Initializer
from .normalization import BatchNorm, LayerNorm, Standardize
from .passes import Forward, Layer, Mode, Parameters
from .random import (
    BIAS_INITIALISATION,
    DROPOUT,
    NOISE,
    WEIGHT_INITIALISATION,
    Stream,
    dropout_mask,
    noise,
)
from .rounding import rounded_input, rounded_weight
from .vectors import Matrix, Tensor, Vector, column_sums, matmul, total, transpose

__all__ = [
    "Activation",
    "BatchNorm",
    "Dense",
    "Dropout",
    "GaussianNoise",
    "Layer",
    "LayerNorm",
    "Softmax",
    "Standardize",
]


@dataclass(frozen=True)
class Dense:
    """Every output is a weighted sum of every input: a = f(z), z = x @ weight + bias.

    Shapes: x (batch, in_features), weight (in_features, units), bias (units,), z and a
    (batch, units). Backward, with d_z = d_a * f'(z):

        d_weight = x^T @ d_z
        d_bias   = sum of d_z over the batch
        d_input  = d_z @ weight^T

    Args:
        units: numbers per row that come out.
        activation: a name or an object of `activations`; None is the identity.
        use_bias: False leaves the bias out.
        weight_init: a name or an object of `initializers`; "auto" is He uniform before a
            relu-like activation and Glorot uniform otherwise.
        bias_init: likewise; "auto" is zeros. Not orthogonal.
        l1, l2: the loss has l1 sum |w| + l2 sum w^2 more, and d_weight l1 sign w + 2 l2 w.
        max_norm, non_negative: what `constrain` does after a step.
    """

    units: int
    activation: str | Kind | None = None
    _: KW_ONLY
    use_bias: bool = True
    weight_init: str | Initializer = "auto"
    bias_init: str | Initializer = "zeros"
    l1: float = 0.0
    l2: float = 0.0
    max_norm: float | None = None
    non_negative: bool = False

    def __post_init__(self) -> None:
        if self.units < 1:
            raise ValueError(f"units must be at least 1, got {self.units}")
        activations.get(self.activation)
        self._weight_initializer()
        if isinstance(self._bias_initializer(), initializers.Orthogonal):
            raise ValueError("bias_init cannot be orthogonal: a bias is not a matrix")

    def _weight_initializer(self) -> Initializer:
        if self.weight_init == "auto":
            return initializers.automatic(self.activation)
        return initializers.get(self.weight_init)

    def _bias_initializer(self) -> Initializer:
        return initializers.get("zeros" if self.bias_init == "auto" else self.bias_init)

    def penalty(self, weight: Matrix) -> tuple[float, Matrix]:
        """What the weight adds to the loss, and to its gradient."""
        value = total(self.l1 * abs(w) + self.l2 * w * w for row in weight for w in row)

        def slope(w: float) -> float:
            return self.l1 * ((w > 0.0) - (w < 0.0)) + 2.0 * self.l2 * w

        return value, [[slope(w) for w in row] for row in weight]

    def constrain(self, weight: Matrix) -> Matrix:
        """Negative weights to 0, then each unit's weights w to w M / |w| where |w| > M."""
        if self.non_negative:
            weight = [[0.0 if w < 0.0 else w for w in row] for row in weight]
        if self.max_norm is None:
            return weight
        norms = [math.sqrt(total(w * w for w in unit)) for unit in transpose(weight)]
        factors = [self.max_norm / norm if norm > self.max_norm else 1.0 for norm in norms]
        return [[w * factor for w, factor in zip(row, factors, strict=True)] for row in weight]

    def output_size(self, in_features: int) -> int:
        return self.units

    def initial_parameters(self, in_features: int, seed: int, layer: int) -> dict[str, Tensor]:
        fans = (in_features, self.units)
        weights = Stream(seed, WEIGHT_INITIALISATION, layer=layer)
        biases = Stream(seed, BIAS_INITIALISATION, layer=layer)
        parameters: dict[str, Tensor] = {
            "weight": self._weight_initializer().draw(weights, in_features, self.units, *fans)
        }
        if self.use_bias:
            parameters["bias"] = self._bias_initializer().draw(biases, 1, self.units, *fans)[0]
        return parameters | Activation(self.activation).initial_parameters(self.units, seed, layer)

    def forward(self, parameters: Parameters, x: Matrix, mode: Mode) -> Forward:
        weight = cast(Matrix, parameters["weight"])
        if mode.quantized:
            weight, x = rounded_weight(weight), rounded_input(x)
        z = matmul(x, weight)
        if self.use_bias:
            bias = cast(Vector, parameters["bias"])
            z = [[value + b for value, b in zip(row, bias, strict=True)] for row in z]
        activated = Activation(self.activation).forward(parameters, z, mode)

        def backward(d_output: Matrix) -> tuple[Matrix, dict[str, Tensor]]:
            d_z, d_activation = activated.backward(d_output)
            gradients: dict[str, Tensor] = {"weight": matmul(transpose(x), d_z)}
            if self.use_bias:
                gradients["bias"] = column_sums(d_z)
            d_input = matmul(d_z, transpose(weight))
            return d_input, gradients | d_activation

        return Forward(activated.output, backward)


@dataclass(frozen=True)
class Activation:
    """a = f(z) for every number (for every row: softmax); d_input = d_output * f'(z).

    Args:
        activation: a name or an object of `activations`. "prelu" has one learned number, slope.
    """

    activation: str | Kind | None

    def __post_init__(self) -> None:
        activations.get(self.activation)

    def output_size(self, in_features: int) -> int:
        return in_features

    def initial_parameters(self, in_features: int, seed: int, layer: int) -> dict[str, Tensor]:
        kind = activations.get(self.activation)
        return {"slope": float(kind.slope)} if isinstance(kind, PReLU) else {}

    def forward(self, parameters: Parameters, x: Matrix, mode: Mode) -> Forward:
        kind = activations.get(self.activation)
        if isinstance(kind, SoftmaxRow):
            return _softmax(x)
        if isinstance(kind, PReLU):
            return _prelu(cast(float, parameters["slope"]), x)
        return _elementwise(kind, x)


def _elementwise(kind: ScalarActivation, x: Matrix) -> Forward:
    def backward(d_output: Matrix) -> tuple[Matrix, dict[str, Tensor]]:
        derivatives = [[kind.derivative(value) for value in row] for row in x]
        return _times(d_output, derivatives), {}

    return Forward([[kind.value(value) for value in row] for row in x], backward)


def _prelu(slope: float, x: Matrix) -> Forward:
    """A leaky relu, and d_slope = sum over the batch and the units of d_output min(x, 0)."""
    leaky = _elementwise(LeakyReLU(slope), x)

    def backward(d_output: Matrix) -> tuple[Matrix, dict[str, Tensor]]:
        d_input, _ = leaky.backward(d_output)
        below = [[min(value, 0.0) for value in row] for row in x]
        return d_input, {"slope": total(v for row in _times(d_output, below) for v in row)}

    return Forward(leaky.output, backward)


def _softmax(x: Matrix) -> Forward:
    """p = softmax(x), row by row; d_x = p * (d_p - sum of p * d_p over the row)."""
    probabilities = [activations.softmax(row) for row in x]

    def backward(d_output: Matrix) -> tuple[Matrix, dict[str, Tensor]]:
        pairs = zip(probabilities, d_output, strict=True)
        return [activations.softmax_backward(p, d_p) for p, d_p in pairs], {}

    return Forward(probabilities, backward)


def _times(a: Matrix, b: Matrix) -> Matrix:
    """The elementwise product of two matrices of one shape."""
    rows = zip(a, b, strict=True)
    return [[p * q for p, q in zip(left, right, strict=True)] for left, right in rows]


@dataclass(frozen=True)
class Softmax:
    """p_k = e^x_k / sum_j e^x_j in every row. The losses take logits: for textbook use."""

    def output_size(self, in_features: int) -> int:
        return in_features

    def initial_parameters(self, in_features: int, seed: int, layer: int) -> dict[str, Tensor]:
        return {}

    def forward(self, parameters: Parameters, x: Matrix, mode: Mode) -> Forward:
        return _softmax(x)


@dataclass(frozen=True)
class Dropout:
    """In training every number is zeroed with probability rate, or else divided by 1 - rate.

    The mean stays what it was, so that evaluation is the identity. `random.dropout_mask` says
    which numbers are kept. Srivastava et al. (2014).

    Args:
        rate: 0 <= rate < 1.
    """

    rate: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.rate < 1.0:
            raise ValueError(f"rate must lie in [0, 1), got {self.rate}")

    def output_size(self, in_features: int) -> int:
        return in_features

    def initial_parameters(self, in_features: int, seed: int, layer: int) -> dict[str, Tensor]:
        return {}

    def forward(self, parameters: Parameters, x: Matrix, mode: Mode) -> Forward:
        if not mode.training:
            return Forward(x, lambda d_output: (d_output, {}))
        stream = Stream(mode.seed, DROPOUT, layer=mode.layer, epoch=mode.epoch)
        scale = 1.0 / (1.0 - self.rate)
        factors = [
            [scale if keep else 0.0 for keep in self._kept(stream, mode.first_position + r, row)]
            for r, row in enumerate(x)
        ]
        return Forward(_times(x, factors), lambda d_output: (_times(d_output, factors), {}))

    def _kept(self, stream: Stream, position: int, row: Vector) -> list[bool]:
        return dropout_mask(stream, position=position, units=len(row), rate=self.rate)


@dataclass(frozen=True)
class GaussianNoise:
    """In training a normal number of mean 0 is added to every number; evaluation is the identity.

    `random.noise` says which. The derivative is 1. Bishop (1995), "Training with noise is
    equivalent to Tikhonov regularization".

    Args:
        stddev: the standard deviation of what is added, >= 0.
    """

    stddev: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.stddev < math.inf:
            raise ValueError(f"stddev must be 0 or more, and finite, got {self.stddev}")

    def output_size(self, in_features: int) -> int:
        return in_features

    def initial_parameters(self, in_features: int, seed: int, layer: int) -> dict[str, Tensor]:
        return {}

    def forward(self, parameters: Parameters, x: Matrix, mode: Mode) -> Forward:
        if not mode.training:
            return Forward(x, lambda d_output: (d_output, {}))
        stream = Stream(mode.seed, NOISE, layer=mode.layer, epoch=mode.epoch)
        output = []
        for r, row in enumerate(x):
            draws = noise(stream, position=mode.first_position + r, units=len(row))
            output.append([a + self.stddev * z for a, z in zip(row, draws, strict=True)])
        return Forward(output, lambda d_output: (d_output, {}))
