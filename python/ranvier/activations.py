"""Activations that have a parameter; all others are given by name.

Names: identity (or None), sigmoid, tanh, relu, leaky_relu, elu, selu, gelu (exact), gelu_tanh,
silu (also swish), softplus, hard_sigmoid, hard_swish, mish, prelu, softmax. Their equations are in
`ranvier.reference.activations`. NaN gives NaN; the derivative of relu at 0 is 0.

    >>> import ranvier as rv
    >>> rv.Dense(8, activation="gelu")
    Dense(8, activation='gelu')
    >>> rv.Dense(8, activation=rv.activations.LeakyReLU(slope=0.2))
    Dense(8, activation=LeakyReLU(slope=0.2))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from . import _core
from ._arrays import plain, real
from ._definitions import Definition
from .errors import ArgumentError, DTypeError

__all__ = ["ELU", "LeakyReLU", "PReLU"]

_ALIASES = {"swish": "silu", "linear": "identity"}


@dataclass(frozen=True, repr=False, eq=False)
class LeakyReLU(Definition):
    """z where z > 0, slope·z elsewhere. Keras 3 calls the slope negative_slope."""

    slope: float = 0.01

    def __post_init__(self) -> None:
        real(self.slope, "slope")
        plain(self)


@dataclass(frozen=True, repr=False, eq=False)
class ELU(Definition):
    """z where z > 0, alpha·(e^z − 1) elsewhere (Clevert et al. 2016)."""

    alpha: float = 1.0

    def __post_init__(self) -> None:
        real(self.alpha, "alpha")
        plain(self)


@dataclass(frozen=True, repr=False, eq=False)
class PReLU(Definition):
    """z where z > 0, slope·z elsewhere, the slope being learned (He et al. 2015).

    One slope for the layer, starting at `slope`, as in PyTorch; Keras learns one for each unit,
    from 0.
    """

    slope: float = 0.25

    def __post_init__(self) -> None:
        real(self.slope, "slope")
        plain(self)


ActivationLike: TypeAlias = str | LeakyReLU | ELU | PReLU | None


def spec(activation: ActivationLike) -> tuple[str, float | None]:
    """Name and parameter as the core takes them; refuses what is no activation."""
    match activation:
        case None:
            return "identity", None
        case LeakyReLU(slope):
            return "leaky_relu", float(slope)
        case ELU(alpha):
            return "elu", float(alpha)
        case PReLU(slope):
            return "prelu", float(slope)
        case str():
            name = _ALIASES.get(activation, activation)
            known = _core.names("activation")
            if name not in known:
                raise ArgumentError(
                    f"activation: expected one of {', '.join(known)}, got {activation!r}"
                )
            return name, None
        case _:
            raise DTypeError(
                "activation: expected a name or an object of ranvier.activations, "
                f"got {activation!r}"
            )
