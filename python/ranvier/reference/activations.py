"""Activations: each one a value a = f(x) and a derivative f'(x), one number at a time.

A NaN comes out as a NaN, of the value and of the derivative alike. Where f has a kink, the
derivative is one-sided and stated. Softmax mixes the numbers of a row, so it stands apart.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from .vectors import Vector, dot, exp, total

SELU_SCALE = 1.0507009873554805
SELU_ALPHA = 1.6732632423543772


class ScalarActivation(Protocol):
    """Any object with these two methods serves as an activation."""

    def value(self, x: float, /) -> float: ...

    def derivative(self, x: float, /) -> float: ...


def _unless_nan(x: float, result: float) -> float:
    return x if math.isnan(x) else result


def d_identity(x: float) -> float:
    """1."""
    return _unless_nan(x, 1.0)


def sigmoid(x: float) -> float:
    """1 / (1 + e^-x), as e^x / (1 + e^x) below 0, so that no exponential overflows."""
    if x >= 0.0:
        return 1.0 / (1.0 + math.exp(-x))
    e = math.exp(x)
    return e / (1.0 + e)


def d_sigmoid(x: float) -> float:
    """sigmoid(x) (1 - sigmoid(x)), the bracket being sigmoid(-x)."""
    return sigmoid(x) * sigmoid(-x)


def d_tanh(x: float) -> float:
    """1 - tanh(x)^2 = 4 sigmoid(2x) sigmoid(-2x)."""
    return 4.0 * d_sigmoid(2.0 * x)


def relu(x: float) -> float:
    """max(x, 0)."""
    return x if x > 0.0 else _unless_nan(x, 0.0)


def d_relu(x: float) -> float:
    """1 for x > 0, else 0 (also at 0)."""
    return _unless_nan(x, 1.0 if x > 0.0 else 0.0)


def softplus(x: float) -> float:
    """ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|)."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def log_sigmoid(x: float) -> float:
    """ln sigmoid(x) = min(x, 0) - ln(1 + e^-|x|)."""
    return min(x, 0.0) - math.log1p(math.exp(-abs(x)))


def hard_sigmoid(x: float) -> float:
    """clip(x + 3, 0, 6) / 6."""
    return min(max(x + 3.0, 0.0), 6.0) / 6.0


def d_hard_sigmoid(x: float) -> float:
    """1/6 inside of the clip, 0 outside of it and at its ends +-3."""
    return _unless_nan(x, 1.0 / 6.0 if -3.0 < x < 3.0 else 0.0)


# A gated activation is x g(x), with a gate g that rises from 0 to 1.


def _gated(x: float, gate: float) -> float:
    """x g(x); where g is 0 so is the product, for an infinite x too."""
    return 0.0 if gate == 0.0 else x * gate


def silu(x: float) -> float:
    """x sigmoid(x); also known as swish."""
    return _gated(x, sigmoid(x))


def d_silu(x: float) -> float:
    """sigmoid(x) + x sigmoid'(x)."""
    return sigmoid(x) + _gated(x, d_sigmoid(x))


def normal_cdf(x: float) -> float:
    """Phi(x) = erfc(-x / sqrt 2) / 2, accurate in both tails."""
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


def normal_density(x: float) -> float:
    """phi(x) = e^(-x^2 / 2) / sqrt(2 pi)."""
    return math.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)


def gelu(x: float) -> float:
    """x Phi(x), exact."""
    return _gated(x, normal_cdf(x))


def d_gelu(x: float) -> float:
    """Phi(x) + x phi(x)."""
    return normal_cdf(x) + _gated(x, normal_density(x))


def _gelu_tanh_inner(x: float) -> tuple[float, float]:
    """u = sqrt(2 / pi) (x + 0.044715 x^3) and du/dx."""
    c = math.sqrt(2.0 / math.pi)
    return c * (x + 0.044715 * x * x * x), c * (1.0 + 3.0 * 0.044715 * x * x)


def gelu_tanh(x: float) -> float:
    """x (1 + tanh u) / 2, whose gate is sigmoid(2u)."""
    u, _ = _gelu_tanh_inner(x)
    return _gated(x, sigmoid(2.0 * u))


def d_gelu_tanh(x: float) -> float:
    """sigmoid(2u) + x 2 sigmoid'(2u) du/dx."""
    u, d_u = _gelu_tanh_inner(x)
    return sigmoid(2.0 * u) + _gated(2.0 * x * d_u, d_sigmoid(2.0 * u))


def mish(x: float) -> float:
    """x tanh(softplus(x))."""
    return _gated(x, math.tanh(softplus(x)))


def d_mish(x: float) -> float:
    """t + x (1 - t^2) sigmoid(x) with t = tanh(softplus(x)).

    Since e^-softplus(x) = sigmoid(-x), 1 - t^2 = 4q / (1 + q)^2 with q = sigmoid(-x)^2.
    """
    q = sigmoid(-x) * sigmoid(-x)
    d_gate = 4.0 * q / ((1.0 + q) * (1.0 + q)) * sigmoid(x)
    return math.tanh(softplus(x)) + _gated(x, d_gate)


def hard_swish(x: float) -> float:
    """x hard_sigmoid(x)."""
    return _gated(x, hard_sigmoid(x))


def d_hard_swish(x: float) -> float:
    """hard_sigmoid(x) + x hard_sigmoid'(x)."""
    return hard_sigmoid(x) + _gated(x, d_hard_sigmoid(x))


@dataclass(frozen=True)
class Elementwise:
    """An activation without numbers of its own."""

    value: Callable[[float], float]
    derivative: Callable[[float], float]


@dataclass(frozen=True)
class LeakyReLU:
    """x for x > 0, else slope * x; the derivative at 0 is the slope."""

    slope: float = 0.01

    def value(self, x: float, /) -> float:
        return x if x > 0.0 else self.slope * x

    def derivative(self, x: float, /) -> float:
        return _unless_nan(x, 1.0 if x > 0.0 else self.slope)


@dataclass(frozen=True)
class ELU:
    """x for x > 0, else alpha (e^x - 1); at 0 the lower branch."""

    alpha: float = 1.0

    def value(self, x: float, /) -> float:
        return x if x > 0.0 else self.alpha * math.expm1(x)

    def derivative(self, x: float, /) -> float:
        return 1.0 if x > 0.0 else self.alpha * math.exp(x)


def selu(x: float) -> float:
    """SELU_SCALE times the ELU with alpha = SELU_ALPHA."""
    return SELU_SCALE * ELU(SELU_ALPHA).value(x)


def d_selu(x: float) -> float:
    """SELU_SCALE times the derivative of that ELU."""
    return SELU_SCALE * ELU(SELU_ALPHA).derivative(x)


@dataclass(frozen=True)
class PReLU:
    """LeakyReLU whose slope, one number per layer, is learned; `slope` is where it starts."""

    slope: float = 0.25


@dataclass(frozen=True)
class SoftmaxRow:
    """Stands for softmax where an activation is named."""


Kind: TypeAlias = ScalarActivation | PReLU | SoftmaxRow

BY_NAME: dict[str, Kind] = {
    "identity": Elementwise(lambda x: x, d_identity),
    "sigmoid": Elementwise(sigmoid, d_sigmoid),
    "tanh": Elementwise(math.tanh, d_tanh),
    "relu": Elementwise(relu, d_relu),
    "leaky_relu": LeakyReLU(),
    "elu": ELU(),
    "selu": Elementwise(selu, d_selu),
    "gelu": Elementwise(gelu, d_gelu),
    "gelu_tanh": Elementwise(gelu_tanh, d_gelu_tanh),
    "silu": Elementwise(silu, d_silu),
    "swish": Elementwise(silu, d_silu),
    "softplus": Elementwise(softplus, sigmoid),
    "hard_sigmoid": Elementwise(hard_sigmoid, d_hard_sigmoid),
    "hard_swish": Elementwise(hard_swish, d_hard_swish),
    "mish": Elementwise(mish, d_mish),
    "prelu": PReLU(),
    "softmax": SoftmaxRow(),
}


def get(activation: str | Kind | None) -> Kind:
    """The activation of that name; None is "identity"; objects pass as they are."""
    if activation is None:
        return BY_NAME["identity"]
    if not isinstance(activation, str):
        return activation
    if activation not in BY_NAME:
        raise ValueError(f"unknown activation {activation!r}; there are {', '.join(BY_NAME)}")
    return BY_NAME[activation]


def softmax(x: Sequence[float]) -> Vector:
    """p_k = e^(x_k - m) / sum_j e^(x_j - m) with m = max x."""
    highest = max(x)
    exponentials = [exp(value - highest) for value in x]
    scale = total(exponentials)
    return [value / scale for value in exponentials]


def softmax_backward(p: Sequence[float], d_p: Sequence[float]) -> Vector:
    """d_x_k = p_k (d_p_k - sum_j p_j d_p_j), p being the softmax of x."""
    mean = dot(p, d_p)
    return [value * (d_value - mean) for value, d_value in zip(p, d_p, strict=True)]


def log_softmax(x: Sequence[float]) -> Vector:
    """ln p_k = (x_k - m) - ln sum_j e^(x_j - m) with m = max x."""
    highest = max(x)
    log_scale = math.log(total(exp(value - highest) for value in x))
    return [(value - highest) - log_scale for value in x]
