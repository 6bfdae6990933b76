"""Optimisers: from gradients to the next parameters.

theta is a parameter, g its gradient, rate the learning rate, lambda the weight decay and t the
number of the step, from 1. A step clips, then decays, then updates (`steps`). `dialect` chooses
whose equations and whose defaults are meant: "torch" (the published form), "keras" or "sklearn".
"""

import math
from collections.abc import Callable

from .schedules import ScheduleLike
from .second_order import LBFGS, LevenbergMarquardt, SecondOrder
from .steps import AnyOptimizer, DivergedError, Optimizer, or_default, require
from .vectors import Vector, power

__all__ = [
    "LBFGS",
    "SGD",
    "Adam",
    "AdamW",
    "DivergedError",
    "LevenbergMarquardt",
    "Optimizer",
    "SecondOrder",
    "get",
]


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum mu and dampening tau.

    torch: b = g at first, later b = mu b + (1 - tau) g; theta -= rate b, or
    theta -= rate (g + mu b) with Nesterov's rule, which needs mu > 0 and tau = 0. With mu = 0,
    theta -= rate g.

    keras and sklearn: v = mu v - rate g; theta += v, or theta += mu v - rate g with Nesterov's
    rule. The rate sits inside the velocity: equal to torch only while the rate is constant.

    Args:
        learning_rate, momentum, nesterov: None for 0.01, 0 and False; in the sklearn dialect
            for 0.001, 0.9 and True.
        dampening: tau, torch's dialect only.
    """

    def __init__(
        self,
        *,
        learning_rate: ScheduleLike | None = None,
        momentum: float | None = None,
        dampening: float = 0.0,
        nesterov: bool | None = None,
        weight_decay: float = 0.0,
        dialect: str = "torch",
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        sklearn = dialect == "sklearn"
        super().__init__(
            learning_rate=(0.001 if sklearn else 0.01) if learning_rate is None else learning_rate,
            weight_decay=weight_decay,
            dialect=dialect,
            clip_norm=clip_norm,
            clip_value=clip_value,
        )
        self.momentum = or_default(momentum, 0.9 if sklearn else 0.0)
        self.dampening = dampening
        self.nesterov = sklearn if nesterov is None else nesterov
        torch = dialect == "torch"
        require(math.isfinite(self.momentum) and self.momentum >= 0.0, "momentum >= 0")
        require(math.isfinite(dampening), "a finite dampening")
        require(torch or dampening == 0.0, "dampening = 0 outside of torch's dialect")
        if torch and self.nesterov:
            require(self.momentum > 0.0, "momentum > 0 for nesterov")
            require(dampening == 0.0, "dampening = 0 for nesterov")

    def _update(self, theta: Vector, gradient: Vector, moments: dict[str, Vector]) -> Vector:
        if self.dialect == "torch":
            return self._torch(theta, gradient, moments)
        return self._velocity(theta, gradient, moments)

    def _torch(self, theta: Vector, gradient: Vector, moments: dict[str, Vector]) -> Vector:
        rate, mu, tau = self.rate, self.momentum, self.dampening
        direction = gradient
        if mu > 0.0:
            b = moments.get("momentum")
            b = gradient if b is None else _combine(mu, b, 1.0 - tau, gradient)
            moments["momentum"] = b
            direction = _combine(1.0, gradient, mu, b) if self.nesterov else b
        return _combine(1.0, theta, -rate, direction)

    def _velocity(self, theta: Vector, gradient: Vector, moments: dict[str, Vector]) -> Vector:
        rate, mu = self.rate, self.momentum
        v = _combine(mu, moments.get("momentum", [0.0] * len(theta)), -rate, gradient)
        moments["momentum"] = v
        change = _combine(mu, v, -rate, gradient) if self.nesterov else v
        return _combine(1.0, theta, 1.0, change)


class Adam(Optimizer):
    """Adaptive moments. Kingma and Ba (2015), algorithm 1.

    m += (1 - beta1) (g - m);  v = beta2 v + ((1 - beta2) g) g;  both start at 0.

    torch:           theta -= rate / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
    keras, sklearn:  theta -= rate sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps)

    Args:
        eps: None for 1e-8, or 1e-7 in the keras dialect.
        amsgrad: v is replaced by the largest v so far in the last line (not in sklearn's dialect).
    """

    def __init__(
        self,
        *,
        learning_rate: ScheduleLike | None = None,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float | None = None,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        dialect: str = "torch",
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        super().__init__(
            learning_rate=0.001 if learning_rate is None else learning_rate,
            weight_decay=weight_decay,
            dialect=dialect,
            clip_norm=clip_norm,
            clip_value=clip_value,
        )
        self.beta1 = beta1
        self.beta2 = beta2
        self.eps = or_default(eps, 1e-7 if dialect == "keras" else 1e-8)
        self.amsgrad = amsgrad
        require(0.0 <= beta1 < 1.0 and 0.0 <= beta2 < 1.0, "beta1 and beta2 in [0, 1)")
        require(math.isfinite(self.eps) and self.eps > 0.0, "eps > 0")
        require(not (amsgrad and dialect == "sklearn"), "no amsgrad in sklearn's dialect")

    def _update(self, theta: Vector, gradient: Vector, moments: dict[str, Vector]) -> Vector:
        zeros = [0.0] * len(theta)
        m, v = moments.get("m", zeros), moments.get("v", zeros)
        m = [a + (1.0 - self.beta1) * (g - a) for a, g in zip(m, gradient, strict=True)]
        v = [
            self.beta2 * a + ((1.0 - self.beta2) * g) * g for a, g in zip(v, gradient, strict=True)
        ]
        moments["m"], moments["v"] = m, v
        if self.amsgrad:
            # max keeps its first argument unless the second is larger, and so it keeps a NaN of v.
            v = [max(a, b) for a, b in zip(v, moments.get("v_max", zeros), strict=True)]
            moments["v_max"] = v
        correction1 = 1.0 - power(self.beta1, self.steps)
        correction2 = math.sqrt(1.0 - power(self.beta2, self.steps))
        if self.dialect == "torch":
            rate = self.rate / correction1
            divisors = [math.sqrt(a) / correction2 + self.eps for a in v]
        else:
            rate = self.rate * correction2 / correction1
            divisors = [math.sqrt(a) + self.eps for a in v]
        return [p - rate * a / d for p, a, d in zip(theta, m, divisors, strict=True)]


class AdamW(Adam):
    """Adam whose weight decay acts on the parameter. Loshchilov and Hutter (2019).

    torch: theta = theta (1 - rate lambda), keras: theta -= rate lambda theta, each before the
    Adam step. There is no AdamW in the sklearn dialect.

    Args:
        weight_decay: None for 0.01, or 0.004 in the keras dialect.
    """

    decoupled_decay = True

    def __init__(
        self,
        *,
        learning_rate: ScheduleLike | None = None,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float | None = None,
        weight_decay: float | None = None,
        amsgrad: bool = False,
        dialect: str = "torch",
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        require(dialect != "sklearn", "another dialect: sklearn has no AdamW")
        super().__init__(
            learning_rate=learning_rate,
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            weight_decay=or_default(weight_decay, 0.004 if dialect == "keras" else 0.01),
            amsgrad=amsgrad,
            dialect=dialect,
            clip_norm=clip_norm,
            clip_value=clip_value,
        )


def _combine(a: float, x: Vector, b: float, y: Vector) -> Vector:
    """a x + b y."""
    return [a * p + b * q for p, q in zip(x, y, strict=True)]


BY_NAME: dict[str, Callable[[], Optimizer | SecondOrder]] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "lbfgs": LBFGS,
    "levenberg_marquardt": LevenbergMarquardt,
}


def get(optimizer: str | AnyOptimizer | SecondOrder) -> AnyOptimizer | SecondOrder:
    """The optimiser of that name with its defaults; objects pass as they are."""
    if not isinstance(optimizer, str):
        return optimizer
    if optimizer not in BY_NAME:
        raise ValueError(f"unknown optimizer {optimizer!r}; there are {', '.join(BY_NAME)}")
    return BY_NAME[optimizer]()
