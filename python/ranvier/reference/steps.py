"""One step of an optimiser: clip, decay, update, constrain. The updates are in `optimizers`.

theta is a parameter, g its gradient, rate the learning rate and lambda the weight decay.
"""

import math
from collections.abc import Mapping
from typing import Protocol

from . import schedules
from .schedules import ScheduleLike
from .vectors import Tensor, Vector, flatten, reshape, shape, total

DIALECTS = ("torch", "keras", "sklearn")


class DivergedError(ArithmeticError):
    """A loss, a gradient's norm, a parameter or a moment is no longer finite."""


class Model(Protocol):
    """What a step needs of a model."""

    def parameters(self) -> dict[str, Tensor]: ...

    def set_parameters(self, parameters: Mapping[str, Tensor], /) -> None: ...

    def constrain(self) -> None: ...


class Optimizer:
    """Base: clipping, weight decay, and one list of moments per parameter name.

    Args:
        learning_rate: the rate, or a schedule of rates; it may be changed between steps.
        weight_decay: lambda. In the torch dialect of SGD and Adam it joins the gradient,
            g += lambda theta; otherwise it shrinks the parameter itself by rate lambda theta.
        dialect: "torch", "keras" or "sklearn"; the last has no weight decay.
        clip_norm: all gradients are multiplied by min(1, clip_norm / (norm + 1e-6)), norm being
            the root of the sum of their squares. A norm that is not finite is a DivergedError.
        clip_value: every gradient is clamped to [-clip_value, clip_value].
    """

    decoupled_decay = False

    def __init__(
        self,
        *,
        learning_rate: ScheduleLike,
        weight_decay: float,
        dialect: str,
        clip_norm: float | None,
        clip_value: float | None,
    ) -> None:
        first = schedules.get(learning_rate)(0)
        require(math.isfinite(first) and first >= 0.0, "learning_rate >= 0")
        require(math.isfinite(weight_decay) and weight_decay >= 0.0, "weight_decay >= 0")
        require(clip_norm is None or clip_norm > 0.0, "clip_norm > 0")
        require(clip_value is None or clip_value > 0.0, "clip_value > 0")
        require(clip_norm is None or clip_value is None, "clip_norm or clip_value, not both")
        require(dialect in DIALECTS, f"dialect one of {DIALECTS}")
        require(dialect != "sklearn" or weight_decay == 0.0, "no weight_decay in sklearn's dialect")
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.dialect = dialect
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.steps = 0
        # Epochs ended, which a trainer tells.
        self.epoch = 0
        self.rate = first
        self.moments: dict[str, dict[str, Vector]] = {}

    def step(self, model: Model, gradients: Mapping[str, Tensor]) -> None:
        """One step for every parameter that has a gradient."""
        parameters = model.parameters()
        for name, gradient in gradients.items():
            if name not in parameters:
                raise ValueError(f"a gradient for {name!r}, a parameter that the model lacks")
            expected = shape(parameters[name])
            if shape(gradient) != expected:
                raise ValueError(f"gradient {name}: shape {shape(gradient)}, expected {expected}")
        flat = {name: flatten(gradient) for name, gradient in gradients.items()}
        factor = self._norm_factor(flat)
        self.rate = schedules.get(self.learning_rate)(self.steps, self.epoch)
        self.steps += 1
        updated = {}
        for name, raw in flat.items():
            theta, g = self._decayed(flatten(parameters[name]), self._clipped(raw, factor))
            moments = self.moments.setdefault(name, {})
            updated[name] = reshape(self._update(theta, g, moments), parameters[name])
        model.set_parameters(updated)
        model.constrain()

    def _norm_factor(self, gradients: Mapping[str, Vector]) -> float:
        """min(1, clip_norm / (norm + 1e-6)), and 1 without clip_norm."""
        if self.clip_norm is None:
            return 1.0
        norm = math.sqrt(total(g * g for gradient in gradients.values() for g in gradient))
        if not math.isfinite(norm):
            raise DivergedError(f"the norm of the gradients is {norm}")
        return min(1.0, self.clip_norm / (norm + 1e-6))

    def _clipped(self, gradient: Vector, factor: float) -> Vector:
        if self.clip_value is None:
            return [factor * g for g in gradient]
        return [max(min(g, self.clip_value), -self.clip_value) for g in gradient]

    def _decayed(self, theta: Vector, gradient: Vector) -> tuple[Vector, Vector]:
        """Parameter and gradient after weight decay."""
        decay = self.weight_decay
        if decay == 0.0:
            return theta, gradient
        if self.dialect == "keras":
            return [p - self.rate * decay * p for p in theta], gradient
        if self.decoupled_decay:
            return [p * (1.0 - self.rate * decay) for p in theta], gradient
        return theta, [g + decay * p for p, g in zip(theta, gradient, strict=True)]

    def _update(self, theta: Vector, gradient: Vector, moments: dict[str, Vector]) -> Vector:
        """The next theta; `moments` is this parameter's own, empty before the first step."""
        raise TypeError(f"{type(self).__name__} must define _update")


class AnyOptimizer(Protocol):
    """What a trainer needs of an optimiser."""

    def step(self, model: Model, gradients: Mapping[str, Tensor], /) -> None: ...


def or_default(value: float | None, default: float) -> float:
    """What was given, or else the dialect's default."""
    return default if value is None else value


def require(holds: bool, what: str) -> None:
    """Refuses an option; `what` says what was expected."""
    if not holds:
        raise ValueError(f"the optimizer needs {what}")
