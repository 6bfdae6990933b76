"""Schedules: the learning rate as a function of t.

t counts from 0 what was done before: steps, or epochs where `per` is "epoch". A schedule is called
with both, schedule(step, epoch).
"""

import math
from collections.abc import Callable
from typing import TypeAlias


class Schedule:
    """Base: chooses t.

    Args:
        per: "step" or "epoch".
    """

    def __init__(self, *, per: str = "step") -> None:
        if per not in ("step", "epoch"):
            raise ValueError(f"per must be 'step' or 'epoch', got {per!r}")
        self.per = per

    def __call__(self, step: int, epoch: int = 0) -> float:
        """The rate after so many steps and epochs."""
        return self._rate(step if self.per == "step" else epoch)

    def _rate(self, t: int) -> float:
        raise TypeError(f"{type(self).__name__} must define _rate")


class Constant(Schedule):
    """rate."""

    def __init__(self, rate: float, *, per: str = "step") -> None:
        super().__init__(per=per)
        self.rate = rate

    def _rate(self, t: int) -> float:
        return self.rate


class Step(Schedule):
    """rate * factor^floor(t / every)."""

    def __init__(self, rate: float, *, every: int, factor: float = 0.1, per: str = "step") -> None:
        super().__init__(per=per)
        self.rate, self.every, self.factor = rate, every, factor

    def _rate(self, t: int) -> float:
        return self.rate * self.factor ** (t // self.every)


class Exponential(Schedule):
    """rate * factor^(t / every)."""

    def __init__(self, rate: float, *, factor: float, every: int = 1, per: str = "step") -> None:
        super().__init__(per=per)
        self.rate, self.every, self.factor = rate, every, factor

    def _rate(self, t: int) -> float:
        return float(self.rate * self.factor ** (t / self.every))


class Polynomial(Schedule):
    """end + (rate - end) (1 - min(t, steps) / steps)^power."""

    def __init__(
        self, rate: float, *, steps: int, end: float = 0.0, power: float = 1.0, per: str = "step"
    ) -> None:
        super().__init__(per=per)
        self.rate, self.steps, self.end, self.power = rate, steps, end, power

    def _rate(self, t: int) -> float:
        left = 1.0 - min(t, self.steps) / self.steps
        return float(self.end + (self.rate - self.end) * left**self.power)


class Cosine(Schedule):
    """end + (rate - end) (1 + cos(pi t / steps)) / 2; it ends, or restarts, at steps.

    With restarts r the next cosine is r times as long as the last one: Loshchilov and Hutter 2017.
    """

    def __init__(
        self,
        rate: float,
        *,
        steps: int,
        end: float = 0.0,
        restarts: float | None = None,
        per: str = "step",
    ) -> None:
        super().__init__(per=per)
        self.rate, self.steps, self.end, self.restarts = rate, steps, end, restarts

    def _rate(self, t: int) -> float:
        passed, length = float(t), float(self.steps)
        if self.restarts is None:
            passed = min(passed, length)
        else:
            while passed >= length:
                passed -= length
                length *= self.restarts
        return _anneal(self.rate, self.end, passed / length)


class OneCycle(Schedule):
    """From rate * start_factor to rate, then to rate * end_factor, along half cosines.

    The peak is at warmup * steps - 1, the end at steps - 1. Smith and Topin (2018).
    """

    def __init__(
        self,
        rate: float,
        *,
        steps: int,
        warmup: float = 0.3,
        start_factor: float = 1 / 25,
        end_factor: float = 1 / 250_000,
        per: str = "step",
    ) -> None:
        super().__init__(per=per)
        self.rate, self.steps, self.warmup = rate, steps, warmup
        self.start, self.end = rate * start_factor, rate * end_factor

    def _rate(self, t: int) -> float:
        peak, last = self.warmup * self.steps - 1.0, self.steps - 1.0
        at = min(float(t), last)
        if at > peak:
            return _anneal(self.rate, self.end, (at - peak) / (last - peak))
        return _anneal(self.start, self.rate, at / peak if peak > 0.0 else 1.0)


class InverseScaling(Schedule):
    """rate / (t + 1)^power."""

    def __init__(self, rate: float, *, power: float = 0.5, per: str = "step") -> None:
        super().__init__(per=per)
        self.rate, self.power = rate, power

    def _rate(self, t: int) -> float:
        return float(self.rate / (t + 1) ** self.power)


class Warmup(Schedule):
    """start + (then(0) - start) t / steps at first, then `then`.

    Where both count the same, the time of `then` begins at steps.
    """

    def __init__(
        self,
        then: "ScheduleLike",
        *,
        steps: int,
        start: float = 0.0,
        per: str = "step",
    ) -> None:
        super().__init__(per=per)
        self.then, self.steps, self.start = get(then), steps, start

    def __call__(self, step: int, epoch: int = 0) -> float:
        """The rate after so many steps and epochs."""
        t = step if self.per == "step" else epoch
        if t < self.steps:
            return self.start + (self.then(0, 0) - self.start) * (t / self.steps)
        if self.then.per != self.per:
            return self.then(step, epoch)
        if self.per == "step":
            return self.then(step - self.steps, epoch)
        return self.then(step, epoch - self.steps)


class ReduceOnPlateau(Schedule):
    """rate * factor^k, k counting how often a figure had not become better for `patience` epochs.

    `observe` takes the figure of each epoch. Better is by more than min_delta; the `cooldown`
    epochs after a change do not count; the rate never falls below min_rate.
    """

    def __init__(
        self,
        rate: float,
        *,
        factor: float = 0.1,
        patience: int = 10,
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_rate: float = 0.0,
        monitor: str = "loss",
        mode: str = "min",
        per: str = "epoch",
    ) -> None:
        super().__init__(per=per)
        self.rate, self.factor, self.min_rate = rate, factor, min_rate
        self.patience, self.min_delta, self.cooldown = patience, min_delta, cooldown
        self.sign = -1.0 if mode == "max" else 1.0
        self.monitor = monitor
        self.best = math.inf
        self.waited = 0
        self.rest = 0

    def observe(self, figure: float) -> None:
        """Takes in the figure of an epoch."""
        better = self.sign * figure + self.min_delta < self.best
        if better:
            self.best = self.sign * figure
        self.waited = 0 if better else self.waited + 1
        if self.rest > 0:
            self.rest -= 1
            self.waited = 0
        if self.waited >= self.patience:
            self.rate = max(self.rate * self.factor, self.min_rate)
            self.rest = self.cooldown
            self.waited = 0

    def _rate(self, t: int) -> float:
        return self.rate


class Function(Schedule):
    """function(t)."""

    def __init__(self, function: Callable[[int], float], *, per: str = "step") -> None:
        super().__init__(per=per)
        self.function = function

    def _rate(self, t: int) -> float:
        return self.function(t)


ScheduleLike: TypeAlias = float | Schedule | Callable[[int], float]


def get(rate: ScheduleLike) -> Schedule:
    """The schedule; numbers are constant ones, functions are asked for each step."""
    if isinstance(rate, Schedule):
        return rate
    return Function(rate) if callable(rate) else Constant(rate)


def plateau(schedule: Schedule) -> ReduceOnPlateau | None:
    """The plateau that a schedule ends in."""
    while isinstance(schedule, Warmup):
        schedule = schedule.then
    return schedule if isinstance(schedule, ReduceOnPlateau) else None


def _anneal(start: float, end: float, at: float) -> float:
    """From start at 0 to end at 1 along half a cosine."""
    return end + (start - end) * (1.0 + math.cos(math.pi * at)) / 2.0
