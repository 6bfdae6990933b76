"""Schedules: learning rates that change. They stand where a rate does.

    >>> import ranvier as rv
    >>> rv.Adam(learning_rate=rv.schedules.Cosine(1e-3, steps=1000))
    Adam(learning_rate=Cosine(0.001, steps=1000))

A schedule is a function of t, counted from 0: the steps done before (`per="step"`, the default) or
the epochs ended before (`per="epoch"`). Called, it tells its rate:

    >>> halving = rv.schedules.Step(0.1, every=10, factor=0.5)
    >>> halving(0), halving(9), halving(10)
    (0.1, 0.1, 0.05)

Rates are formed in float64 by arithmetic of our own, so they have the same bits everywhere. A
function of one's own (`learning_rate=lambda step: ...`) serves too. Schedules are for a `Trainer`;
in one's own loop those that count steps work as well. A fit's history has the rate of each epoch's
last step as "learning_rate".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, TypeAlias

from . import _core
from ._arrays import integer, plain, real
from ._definitions import Definition
from .errors import ArgumentError, DTypeError

__all__ = [
    "Constant",
    "Cosine",
    "Exponential",
    "Function",
    "InverseScaling",
    "OneCycle",
    "Polynomial",
    "ReduceOnPlateau",
    "Schedule",
    "Step",
    "Warmup",
]


@dataclass(frozen=True, repr=False, eq=False)
class Schedule(Definition):
    """Base of the schedules.

    Args:
        per: what t counts, "step" or "epoch".
    """

    _: KW_ONLY
    per: str = "step"

    def __post_init__(self) -> None:
        if type(self) is Schedule:
            raise DTypeError("learning_rate: expected one such as Cosine, got the base class")
        plain(self)
        if self.per not in (names := _core.names("per")):
            raise ArgumentError(f"per: expected {' or '.join(names)}, got {self.per!r}")
        self._check()

    def _check(self) -> None:
        """Refuses options by name."""

    def _specs(self) -> list[dict[str, Any]]:
        """This schedule and those that follow it, as the core takes them."""
        options = {f.name: getattr(self, f.name) for f in fields(self)}
        return [options | {"kind": self._kind}]

    _kind = ""

    def __call__(self, step: int, epoch: int = 0) -> float:
        """The rate after `step` steps and `epoch` epochs."""
        step = integer(step, "step", least=0)
        epoch = integer(epoch, "epoch", least=0)
        return _core.rate(self._specs(), step, epoch, self._function())

    def _function(self) -> Callable[[int], float] | None:
        """What the core asks for rates that are the caller's."""
        return None

    def _plateau(self) -> ReduceOnPlateau | None:
        """The plateau that this schedule ends in."""
        return None

    def _counts_epochs(self) -> bool:
        return self.per == "epoch"


@dataclass(frozen=True, repr=False, eq=False)
class Constant(Schedule):
    """γ(t) = rate.

    Args:
        rate: 0 or more.
        per: has no effect.
    """

    rate: float
    _kind = "constant"

    def _check(self) -> None:
        real(self.rate, "rate", least=0.0)


@dataclass(frozen=True, repr=False, eq=False)
class Step(Schedule):
    """γ(t) = rate · factor^⌊t / every⌋; `torch.optim.lr_scheduler.StepLR`.

    Args:
        rate: at the start.
        every: t between two changes.
        factor: above 0.
        per: "step" or "epoch".
    """

    rate: float
    _: KW_ONLY
    every: int
    factor: float = 0.1
    _kind = "step"

    def _check(self) -> None:
        real(self.rate, "rate", least=0.0)
        integer(self.every, "every", least=1)
        real(self.factor, "factor", least=0.0, open_least=True)


@dataclass(frozen=True, repr=False, eq=False)
class Exponential(Schedule):
    """γ(t) = rate · factor^(t / every); with every=1 torch's `ExponentialLR`.

    Args:
        rate: at the start.
        factor: above 0.
        every: t after which the rate has been multiplied by `factor`.
        per: "step" or "epoch".
    """

    rate: float
    _: KW_ONLY
    factor: float
    every: int = 1
    _kind = "exponential"

    def _check(self) -> None:
        real(self.rate, "rate", least=0.0)
        real(self.factor, "factor", least=0.0, open_least=True)
        integer(self.every, "every", least=1)


@dataclass(frozen=True, repr=False, eq=False)
class Polynomial(Schedule):
    """γ(t) = end + (rate − end)(1 − min(t, steps) / steps)^power; power 1 is a straight line.

    Args:
        rate: at the start.
        steps: t at which `end` is reached.
        end: the rate from there on.
        power: above 0.
        per: "step" or "epoch".
    """

    rate: float
    _: KW_ONLY
    steps: int
    end: float = 0.0
    power: float = 1.0
    _kind = "polynomial"

    def _check(self) -> None:
        real(self.rate, "rate", least=0.0)
        integer(self.steps, "steps", least=1)
        real(self.end, "end", least=0.0)
        real(self.power, "power", least=0.0, open_least=True)


@dataclass(frozen=True, repr=False, eq=False)
class Cosine(Schedule):
    """γ(t) = end + (rate − end)(1 + cos(π·min(t, steps) / steps)) / 2.

    With restarts r the cosine begins anew after `steps`, then after r·steps, r²·steps and so on:
    SGDR (Loshchilov and Hutter 2017), torch's `CosineAnnealingWarmRestarts`.

    Args:
        rate: at the start of a cosine.
        steps: length of the (first) cosine.
        end: the rate at its end.
        restarts: None for no restarts; else how many times as long the next cosine is, 1 or more.
        per: "step" or "epoch".
    """

    rate: float
    _: KW_ONLY
    steps: int
    end: float = 0.0
    restarts: float | None = None
    _kind = "cosine"

    def _check(self) -> None:
        real(self.rate, "rate", least=0.0)
        integer(self.steps, "steps", least=1)
        real(self.end, "end", least=0.0)
        if self.restarts is not None:
            real(self.restarts, "restarts", least=1.0)

    def _specs(self) -> list[dict[str, Any]]:
        return [super()._specs()[0] | {"restarts": self.restarts or 0.0}]


@dataclass(frozen=True, repr=False, eq=False)
class OneCycle(Schedule):
    """Up from rate · start_factor to rate, then down to rate · end_factor, along half cosines.

    Smith and Topin 2018; the turning point and the ends are those of torch's `OneCycleLR`
    (div_factor = 1 / start_factor, final_div_factor = start_factor / end_factor). After the last
    step this stays at its end, where torch raises.

    Args:
        rate: the peak.
        steps: t of the whole cycle.
        warmup: share of the cycle before the peak.
        start_factor: first rate over the peak.
        end_factor: last rate over the peak.
        per: "step" or "epoch".
    """

    rate: float
    _: KW_ONLY
    steps: int
    warmup: float = 0.3
    start_factor: float = 1 / 25
    end_factor: float = 1 / 250_000
    _kind = "one_cycle"

    def _check(self) -> None:
        real(self.rate, "rate", least=0.0)
        integer(self.steps, "steps", least=2)
        real(self.warmup, "warmup", least=0.0, most=1.0, open_most=True)
        real(self.start_factor, "start_factor", least=0.0)
        real(self.end_factor, "end_factor", least=0.0)

    def _specs(self) -> list[dict[str, Any]]:
        ends = {"start": self.rate * self.start_factor, "end": self.rate * self.end_factor}
        return [super()._specs()[0] | ends]


@dataclass(frozen=True, repr=False, eq=False)
class InverseScaling(Schedule):
    """γ(t) = rate / (t + 1)^power; scikit-learn's "invscaling" counts rows instead.

    Args:
        rate: at the start.
        power: above 0.
        per: "step" or "epoch".
    """

    rate: float
    _: KW_ONLY
    power: float = 0.5
    _kind = "inverse_scaling"

    def _check(self) -> None:
        real(self.rate, "rate", least=0.0)
        real(self.power, "power", least=0.0, open_least=True)


@dataclass(frozen=True, repr=False, eq=False)
class Warmup(Schedule):
    """A straight line from `start` to where another schedule begins, then that schedule.

    γ(t) = start + (then(0) − start)·t / steps for t < steps; the other's time begins at `steps` if
    it counts the same (`per`), else with the training.

    Args:
        then: a schedule, or a number for a constant rate.
        steps: length of the line.
        start: the first rate. At 0, the default, the first step changes nothing but moments (as in
            optax).
        per: "step" or "epoch", of the line.

    Example:
        >>> import ranvier as rv
        >>> warm = rv.schedules.Warmup(rv.schedules.Cosine(1.0, steps=100), steps=4)
        >>> [warm(step) for step in (0, 1, 4, 54, 104)]
        [0.0, 0.25, 1.0, 0.5, 0.0]
    """

    then: Schedule | float
    _: KW_ONLY
    steps: int
    start: float = 0.0
    _kind = "warmup"

    def __post_init__(self) -> None:
        object.__setattr__(self, "then", get(self.then, "then"))
        super().__post_init__()

    def _check(self) -> None:
        integer(self.steps, "steps", least=1)
        real(self.start, "start", least=0.0)

    def _specs(self) -> list[dict[str, Any]]:
        own = {"kind": self._kind, "per": self.per, "steps": self.steps, "start": self.start}
        return [own, *get(self.then)._specs()]

    def _function(self) -> Callable[[int], float] | None:
        return get(self.then)._function()

    def _plateau(self) -> ReduceOnPlateau | None:
        return get(self.then)._plateau()

    def _counts_epochs(self) -> bool:
        return super()._counts_epochs() or get(self.then)._counts_epochs()


@dataclass(frozen=True, repr=False, eq=False)
class ReduceOnPlateau(Schedule):
    """rate, multiplied by `factor` whenever a figure has not become better for `patience` epochs.

    Better means by more than min_delta than the best so far. As Keras's callback and torch's
    scheduler of this name (threshold_mode="abs"; torch's patience is one less).

    Args:
        rate: at the start.
        factor: in (0, 1).
        patience: epochs without a better figure, 1 or more.
        min_delta: least difference that counts.
        cooldown: epochs after a change that do not count.
        min_rate: never less than this.
        monitor: name of a figure of the history; None for "val_loss", or "loss" in a fit without
            validation.
        mode: "min", "max", or None for what the figure's name says.
    """

    rate: float
    _: KW_ONLY
    factor: float = 0.1
    patience: int = 10
    min_delta: float = 1e-4
    cooldown: int = 0
    min_rate: float = 0.0
    monitor: str | None = None
    mode: str | None = None
    per: str = "epoch"
    _kind = "plateau"

    def _check(self) -> None:
        real(self.rate, "rate", least=0.0, open_least=True)
        real(self.factor, "factor", least=0.0, most=1.0, open_least=True, open_most=True)
        integer(self.patience, "patience", least=1)
        real(self.min_delta, "min_delta", least=0.0)
        integer(self.cooldown, "cooldown", least=0)
        real(self.min_rate, "min_rate", least=0.0, most=self.rate)
        check_goal(self.monitor, self.mode)
        if self.per != "epoch":
            raise ArgumentError(
                f"per: expected 'epoch' (a plateau is one of epochs), got {self.per!r}"
            )

    def _plateau(self) -> ReduceOnPlateau | None:
        return self


@dataclass(frozen=True, repr=False, eq=False)
class Function(Schedule):
    """γ(t) = function(t), a function of one's own, called before each step with no lock held.

    Args:
        function: takes t, an int, and returns a rate, 0 or more and finite.
        per: what t counts, "step" or "epoch".
    """

    function: Callable[[int], float]
    _kind = "function"

    def _check(self) -> None:
        if not callable(self.function):
            raise DTypeError(f"function: expected a function of t, got {self.function!r}")

    def _specs(self) -> list[dict[str, Any]]:
        return [{"kind": self._kind, "per": self.per}]

    def _function(self) -> Callable[[int], float] | None:
        name = "learning_rate, what the function returned"
        return lambda t: real(self.function(t), name, least=0.0)


ScheduleLike: TypeAlias = float | Schedule | Callable[[int], float]


def get(rate: ScheduleLike, name: str = "learning_rate") -> Schedule:
    """The schedule; numbers are constant ones, functions are asked at each step."""
    if isinstance(rate, Schedule):
        return rate
    if callable(rate) and not isinstance(rate, type):
        return Function(rate)
    return Constant(real(rate, name, least=0.0, open_least=True))


def check_goal(monitor: str | None, mode: str | None) -> None:
    """Refuses what is no figure's name, or no direction."""
    if monitor is not None and not isinstance(monitor, str):
        raise DTypeError(f"monitor: expected the name of a figure, or None, got {monitor!r}")
    if mode not in (None, "min", "max"):
        raise ArgumentError(f"mode: expected None, 'min' or 'max', got {mode!r}")
