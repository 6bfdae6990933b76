"""Initialisers of weights and biases; n is the fan-in, m the fan-out of the layer.

Numbers are drawn in float64 from (seed, layer, element) and rounded once, so float32 and float64
models of one seed start alike. "auto", the default of weights, is He uniform before relu-like
activations (relu, leaky_relu, elu, prelu, gelu, gelu_tanh, silu, mish, hard_swish) and Glorot
uniform otherwise. PyTorch's own default is `TorchDefault`, Keras's `GlorotUniform`.

    >>> import ranvier as rv
    >>> layer = rv.Dense(3, weight_init=rv.initializers.Orthogonal(gain=2.0), bias_init="ones")
    >>> model = rv.Sequential([layer], input_size=4, seed=1)
    >>> model.parameters()["0.bias"]
    array([1., 1., 1.], dtype=float32)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from ._arrays import boolean, plain, real
from ._definitions import Definition
from .errors import ArgumentError, DTypeError

__all__ = [
    "Constant",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Initializer",
    "LecunNormal",
    "LecunUniform",
    "Ones",
    "Orthogonal",
    "TorchDefault",
    "Zeros",
]


@dataclass(frozen=True, repr=False, eq=False)
class Initializer(Definition):
    """Base of the initialisers."""

    name: ClassVar[str] = ""

    def __post_init__(self) -> None:
        plain(self)
        if not self.name:
            raise DTypeError(
                "initializer: expected one such as ranvier.initializers.Zeros(), got a base class"
            )

    def _spec(self) -> tuple[str, float | None, bool]:
        return self.name, None, False


@dataclass(frozen=True, repr=False, eq=False)
class GlorotUniform(Initializer):
    """U(±√(6/(n+m))) (Glorot and Bengio 2010)."""

    name = "glorot_uniform"


@dataclass(frozen=True, repr=False, eq=False)
class HeUniform(Initializer):
    """U(±√(6/n)) (He et al. 2015)."""

    name = "he_uniform"


@dataclass(frozen=True, repr=False, eq=False)
class LecunUniform(Initializer):
    """U(±√(3/n)) (LeCun et al. 1998)."""

    name = "lecun_uniform"


@dataclass(frozen=True, repr=False, eq=False)
class TorchDefault(Initializer):
    """U(±1/√n) for weights and biases, the default of `torch.nn.Linear`."""

    name = "torch"


@dataclass(frozen=True, repr=False, eq=False)
class _Normal(Initializer):
    truncated: bool = False

    def __post_init__(self) -> None:
        boolean(self.truncated, "truncated")
        super().__post_init__()

    def _spec(self) -> tuple[str, float | None, bool]:
        return self.name, None, bool(self.truncated)


@dataclass(frozen=True, repr=False, eq=False)
class GlorotNormal(_Normal):
    """N(0, 2/(n+m)); `truncated=True` cuts at two deviations and rescales, as Keras does."""

    name = "glorot_normal"


@dataclass(frozen=True, repr=False, eq=False)
class HeNormal(_Normal):
    """N(0, 2/n); `truncated=True` cuts at two deviations and rescales, as Keras does."""

    name = "he_normal"


@dataclass(frozen=True, repr=False, eq=False)
class LecunNormal(_Normal):
    """N(0, 1/n); `truncated=True` cuts at two deviations and rescales, as Keras does."""

    name = "lecun_normal"


@dataclass(frozen=True, repr=False, eq=False)
class Orthogonal(Initializer):
    """Orthonormal columns (or rows, where there are fewer) times `gain` (Saxe et al. 2013)."""

    gain: float = 1.0
    name = "orthogonal"

    def __post_init__(self) -> None:
        real(self.gain, "gain")
        super().__post_init__()

    def _spec(self) -> tuple[str, float | None, bool]:
        return self.name, float(self.gain), False


@dataclass(frozen=True, repr=False, eq=False)
class Constant(Initializer):
    """`value` everywhere."""

    value: float
    name = "constant"

    def __post_init__(self) -> None:
        real(self.value, "value")
        super().__post_init__()

    def _spec(self) -> tuple[str, float | None, bool]:
        return self.name, float(self.value), False


@dataclass(frozen=True, repr=False, eq=False)
class Zeros(Initializer):
    """0 everywhere."""

    name = "zeros"


@dataclass(frozen=True, repr=False, eq=False)
class Ones(Initializer):
    """1 everywhere."""

    name = "ones"


InitializerLike: TypeAlias = str | Initializer

BY_NAME: dict[str, type[Initializer]] = {
    kind.name: kind
    for kind in (
        GlorotUniform,
        GlorotNormal,
        HeUniform,
        HeNormal,
        LecunUniform,
        LecunNormal,
        Orthogonal,
        TorchDefault,
        Zeros,
        Ones,
    )
}


def spec(initializer: InitializerLike, argument: str) -> tuple[str, float | None, bool]:
    """Name, value and truncation as the core takes them; refuses what is no initialiser."""
    if isinstance(initializer, Initializer):
        return initializer._spec()
    if not isinstance(initializer, str):
        raise DTypeError(
            f"{argument}: expected a name or an object of ranvier.initializers, got {initializer!r}"
        )
    if initializer == "auto":
        return ("auto" if argument == "weight_init" else "zeros"), None, False
    if initializer not in BY_NAME:
        raise ArgumentError(
            f"{argument}: expected one of auto, {', '.join(BY_NAME)}, got {initializer!r}"
        )
    return BY_NAME[initializer]()._spec()
