"""Initialisers: the first values of weights and biases.

n is the fan-in of a layer (its inputs) and m its fan-out (its units); a bias has the fans of its
layer. Element (row, column) of a weight of shape (n, m) is draw number row * m + column of the
layer's stream, so a value depends on its place alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from . import activations
from .activations import Kind
from .normal import inverse_normal_cdf
from .random import Stream
from .vectors import Matrix, dot, transpose

# Phi(-2), and the standard deviation of a normal distribution cut off at +-2.
_PHI_MINUS_2 = 0.022750131948179195
_TRUNCATED_DEVIATION = 0.87962566103423978

_RELU_LIKE = "relu leaky_relu elu prelu gelu gelu_tanh silu mish hard_swish"


class Initializer:
    """Base: every element from its own draw."""

    def element(self, stream: Stream, i: int, fan_in: int, fan_out: int) -> float:
        """Draw number i."""
        raise TypeError(f"{type(self).__name__} must define element or draw")

    def draw(self, stream: Stream, rows: int, columns: int, fan_in: int, fan_out: int) -> Matrix:
        """A matrix of shape (rows, columns)."""
        return [
            [self.element(stream, r * columns + c, fan_in, fan_out) for c in range(columns)]
            for r in range(rows)
        ]


class _Uniform(Initializer):
    """L (2u - 1) with u uniform in [0, 1): between -L and L."""

    def bound(self, fan_in: int, fan_out: int) -> float:
        raise TypeError(f"{type(self).__name__} must define bound")

    def element(self, stream: Stream, i: int, fan_in: int, fan_out: int) -> float:
        return self.bound(fan_in, fan_out) * (2.0 * stream.uniform(i) - 1.0)


class GlorotUniform(_Uniform):
    """L = sqrt(6 / (n + m)). Glorot and Bengio (2010)."""

    def bound(self, fan_in: int, fan_out: int) -> float:
        return math.sqrt(6.0 / (fan_in + fan_out))


class HeUniform(_Uniform):
    """L = sqrt(6 / n). He, Zhang, Ren and Sun (2015)."""

    def bound(self, fan_in: int, fan_out: int) -> float:
        return math.sqrt(6.0 / fan_in)


class LecunUniform(_Uniform):
    """L = sqrt(3 / n). LeCun, Bottou, Orr and Mueller (1998)."""

    def bound(self, fan_in: int, fan_out: int) -> float:
        return math.sqrt(3.0 / fan_in)


class TorchDefault(_Uniform):
    """L = 1 / sqrt(n), for weights and for biases: what torch.nn.Linear does."""

    def bound(self, fan_in: int, fan_out: int) -> float:
        return 1.0 / math.sqrt(fan_in)


@dataclass(frozen=True)
class _Normal(Initializer):
    """s Phi^-1(u) with u uniform in (0, 1).

    Truncated, as in Keras: s / 0.8796... Phi^-1(lo + (1 - 2 lo) u) with lo = Phi(-2). Nothing is
    beyond 2 s / 0.8796..., and the standard deviation is s again.
    """

    truncated: bool = False

    def deviation(self, fan_in: int, fan_out: int) -> float:
        raise TypeError(f"{type(self).__name__} must define deviation")

    def element(self, stream: Stream, i: int, fan_in: int, fan_out: int) -> float:
        s = self.deviation(fan_in, fan_out)
        if not self.truncated:
            return s * stream.normal(i)
        p = _PHI_MINUS_2 + (1.0 - 2.0 * _PHI_MINUS_2) * stream.open_uniform(i)
        return s / _TRUNCATED_DEVIATION * inverse_normal_cdf(p)


class GlorotNormal(_Normal):
    """s = sqrt(2 / (n + m))."""

    def deviation(self, fan_in: int, fan_out: int) -> float:
        return math.sqrt(2.0 / (fan_in + fan_out))


class HeNormal(_Normal):
    """s = sqrt(2 / n)."""

    def deviation(self, fan_in: int, fan_out: int) -> float:
        return math.sqrt(2.0 / fan_in)


class LecunNormal(_Normal):
    """s = sqrt(1 / n)."""

    def deviation(self, fan_in: int, fan_out: int) -> float:
        return math.sqrt(1.0 / fan_in)


@dataclass(frozen=True)
class Orthogonal(Initializer):
    """gain * Q, where Q R is the decomposition of standard normals with a positive diagonal in R.

    Q comes from modified Gram-Schmidt over the columns; a wide matrix is made by its transpose.
    Weights only. Saxe, McClelland and Ganguli (2014).
    """

    gain: float = 1.0

    def draw(self, stream: Stream, rows: int, columns: int, fan_in: int, fan_out: int) -> Matrix:
        normals = [[stream.normal(r * columns + c) for c in range(columns)] for r in range(rows)]
        # _orthonormal wants the vectors as rows: the columns of a tall matrix, the rows of a wide.
        vectors = normals if rows < columns else transpose(normals)
        scaled = [[self.gain * value for value in vector] for vector in _orthonormal(vectors)]
        return scaled if rows < columns else transpose(scaled)


def _orthonormal(vectors: Matrix) -> Matrix:
    """Each vector less its part along the earlier ones (twice, against rounding), at length 1."""
    basis: Matrix = []
    for start in vectors:
        vector = start
        for unit in basis + basis:
            along = dot(unit, vector)
            vector = [v - along * u for v, u in zip(vector, unit, strict=True)]
        length = math.sqrt(dot(vector, vector))
        basis.append([value / length for value in vector])
    return basis


@dataclass(frozen=True)
class Constant(Initializer):
    """The same value everywhere."""

    value: float

    def element(self, stream: Stream, i: int, fan_in: int, fan_out: int) -> float:
        return float(self.value)


class Zeros(Constant):
    """0 everywhere."""

    def __init__(self) -> None:
        super().__init__(0.0)


class Ones(Constant):
    """1 everywhere."""

    def __init__(self) -> None:
        super().__init__(1.0)


BY_NAME: dict[str, Callable[[], Initializer]] = {
    "glorot_uniform": GlorotUniform,
    "glorot_normal": GlorotNormal,
    "he_uniform": HeUniform,
    "he_normal": HeNormal,
    "lecun_uniform": LecunUniform,
    "lecun_normal": LecunNormal,
    "orthogonal": Orthogonal,
    "torch": TorchDefault,
    "zeros": Zeros,
    "ones": Ones,
}


def get(initializer: str | Initializer) -> Initializer:
    """The initialiser of that name; objects pass as they are."""
    if isinstance(initializer, Initializer):
        return initializer
    if initializer not in BY_NAME:
        raise ValueError(f"unknown initializer {initializer!r}; there are {', '.join(BY_NAME)}")
    return BY_NAME[initializer]()


def automatic(activation: str | Kind | None) -> Initializer:
    """What "auto" means for a weight: He uniform before a relu-like activation, else Glorot."""
    kind = activations.get(activation)
    parametric = (activations.LeakyReLU, activations.ELU, activations.PReLU)
    relu_like = [activations.BY_NAME[name] for name in _RELU_LIKE.split()]
    return HeUniform() if isinstance(kind, parametric) or kind in relu_like else GlorotUniform()
