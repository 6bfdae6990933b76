"""Metrics: figures of an evaluation besides the loss.

A `Trainer` takes them by name, as objects, or as functions of one's own:

    >>> import ranvier as rv
    >>> rv.metrics.TopKAccuracy(3)
    TopKAccuracy(k=3)

n rows with weights w, K outputs z. Under cross_entropy a row says the class of its largest output,
with probabilities softmax(z); under binary_cross_entropy each output says yes where z > 0, with
probability sigmoid(z). Under other losses a row's prediction is z itself, e^z (poisson), the means
(gaussian_nll) or the quantile nearest to the median (quantile). Sums run in float64 over the rows
in order: the same bits on any machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from . import _core
from ._arrays import boolean, integer, plain, real
from ._definitions import Definition
from .errors import ArgumentError, DTypeError
from .losses import Loss

__all__ = [
    "F1",
    "MAE",
    "MSE",
    "R2",
    "RMSE",
    "ROCAUC",
    "Accuracy",
    "BalancedAccuracy",
    "Brier",
    "Function",
    "LogLoss",
    "Metric",
    "Pinball",
    "TopKAccuracy",
]


@dataclass(frozen=True, repr=False, eq=False)
class Metric(Definition):
    """Base of the metrics."""

    _kind = ""
    _higher = False

    def __post_init__(self) -> None:
        if type(self) is Metric:
            raise DTypeError("metrics: expected one such as Accuracy(), got the base class")
        plain(self)
        self._check()

    def _check(self) -> None:
        """Refuses options by name."""

    @property
    def name(self) -> str:
        """Its name in results and, with "val_" in front, in the history."""
        return self._kind

    @property
    def greater_is_better(self) -> bool:
        """Whether more is better."""
        return self._higher

    def _spec(self) -> tuple[str, float] | None:
        """What the core computes; None for what it does not."""
        return self._kind, 0.0


@dataclass(frozen=True, repr=False, eq=False)
class Accuracy(Metric):
    """Share of the rows whose class is said; under binary_cross_entropy, of the elements."""

    _kind = "accuracy"
    _higher = True


@dataclass(frozen=True, repr=False, eq=False)
class TopKAccuracy(Metric):
    """Share of the rows whose class is among the k largest outputs; of equal ones the first counts.

    Args:
        k: 1 or more. Under cross_entropy only.
    """

    k: int = 5
    _kind = "top_k_accuracy"
    _higher = True

    def _check(self) -> None:
        integer(self.k, "k", least=1, most=2**31)

    @property
    def name(self) -> str:
        """top_<k>_accuracy."""
        return f"top_{self.k}_accuracy"

    def _spec(self) -> tuple[str, float]:
        return self._kind, float(self.k)


@dataclass(frozen=True, repr=False, eq=False)
class BalancedAccuracy(Metric):
    """Mean over the classes present of the share of their rows that is found.

    Under binary_cross_entropy the mean of it over the outputs.
    """

    _kind = "balanced_accuracy"
    _higher = True


@dataclass(frozen=True, repr=False, eq=False)
class F1(Metric):
    """2·found / (present + said): under cross_entropy the mean over the classes present or said.

    Under binary_cross_entropy that of yes, the mean over the outputs. As scikit-learn's f1_score
    with average="macro", or "binary" for one output.
    """

    _kind = "f1"
    _higher = True


@dataclass(frozen=True, repr=False, eq=False)
class ROCAUC(Metric):
    """Probability that a row of the class has a higher probability than another; ties count half.

    Under cross_entropy each class against the others, the mean over the classes that are there and
    not everywhere (of two classes the second); under binary_cross_entropy the mean over the
    outputs. NaN without any. Takes 8·n·K bytes while it runs.
    """

    _kind = "roc_auc"
    _higher = True


@dataclass(frozen=True, repr=False, eq=False)
class LogLoss(Metric):
    """Mean of −log(probability of the class): cross-entropy without smoothing and pos_weight."""

    _kind = "log_loss"


@dataclass(frozen=True, repr=False, eq=False)
class Brier(Metric):
    """Mean of Σₖ(pₖ − yₖ)²; under binary_cross_entropy of (p − y)², the mean over the outputs."""

    _kind = "brier"


@dataclass(frozen=True, repr=False, eq=False)
class R2(Metric):
    """1 − Σ(y − ŷ)² / Σ(y − ȳ)², the mean over the targets; 1 or 0 where y is constant."""

    _kind = "r2"
    _higher = True


@dataclass(frozen=True, repr=False, eq=False)
class MAE(Metric):
    """Mean of |y − ŷ|."""

    _kind = "mae"


@dataclass(frozen=True, repr=False, eq=False)
class MSE(Metric):
    """Mean of (y − ŷ)²."""

    _kind = "mse"


@dataclass(frozen=True, repr=False, eq=False)
class RMSE(Metric):
    """√(mean of (y − ŷ)²), the mean over the targets."""

    _kind = "rmse"


@dataclass(frozen=True, repr=False, eq=False)
class Pinball(Metric):
    """Mean of max(q·d, (q − 1)·d), d = y − ŷ, ŷ being the nearest quantile where there are several.

    Args:
        q: in (0, 1).
    """

    q: float = 0.5
    _kind = "pinball"

    def _check(self) -> None:
        real(self.q, "q", least=0.0, most=1.0, open_least=True, open_most=True)

    @property
    def name(self) -> str:
        """pinball, with q where it is not ½."""
        return "pinball" if self.q == 0.5 else f"pinball_{self.q:g}"

    def _spec(self) -> tuple[str, float]:
        return self._kind, float(self.q)


@dataclass(frozen=True, repr=False, eq=False)
class Function(Metric):
    """A function of one's own: function(y, output), of all rows at once.

    Args:
        function: takes the targets as they were given (of a validation split, its rows) and the raw
            outputs (n, K), and returns a number; weights are its own affair.
        label: its name; None for the function's.
        greater_is_better: whether more is better.
    """

    function: Callable[[Any, Any], float]
    label: str | None = None
    higher: bool = True

    def _check(self) -> None:
        if not callable(self.function):
            raise DTypeError(f"function: expected a function of (y, output), got {self.function!r}")
        boolean(self.higher, "higher")
        if not isinstance(self.label, str | None):
            raise DTypeError(f"label: expected a string or None, got {self.label!r}")

    @property
    def name(self) -> str:
        """The label, or the function's name."""
        own: str = getattr(self.function, "__name__", type(self.function).__name__)
        return own if self.label is None else self.label

    @property
    def greater_is_better(self) -> bool:
        """Whether more is better."""
        return self.higher

    def _spec(self) -> None:
        return None

    def _value(self, y: Any, output: Any) -> float:
        value = self.function(y, output)
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise DTypeError(
                f"metrics, {self.name}: expected a number, got {type(value).__name__}"
            ) from error


MetricLike: TypeAlias = str | Metric | Callable[[Any, Any], float]

BY_NAME: dict[str, type[Metric]] = {
    kind._kind: kind
    for kind in (
        Accuracy,
        TopKAccuracy,
        BalancedAccuracy,
        F1,
        ROCAUC,
        LogLoss,
        Brier,
        R2,
        MAE,
        MSE,
        RMSE,
        Pinball,
    )
}


def get(metrics: Any, loss: Any) -> tuple[Metric, ...]:
    """The metrics; None is accuracy where the loss has classes."""
    if metrics is None:
        return tuple(m for m in (Accuracy(),) if isinstance(loss, Loss) and suits(m, loss))
    if isinstance(metrics, str | Metric) or not isinstance(metrics, list | tuple):
        raise DTypeError(f"metrics: expected a list of names or metrics, got {metrics!r}")
    chosen = tuple(_one(metric) for metric in metrics)
    names = [metric.name for metric in chosen]
    for metric in chosen:
        if names.count(metric.name) > 1 or metric.name == "loss":
            raise ArgumentError(f"metrics: expected different names, got {metric.name!r} twice")
        if not suits(metric, loss):
            raise ArgumentError(f"metrics: expected figures of the loss {loss!r}, got {metric!r}")
    return chosen


def suits(metric: Metric, loss: Any) -> bool:
    """Whether a metric has a meaning under a loss."""
    spec = metric._spec()
    return spec is None or (isinstance(loss, Loss) and _core.metric_suits(spec, loss._spec()))


def _one(metric: MetricLike) -> Metric:
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        if metric not in BY_NAME:
            raise ArgumentError(
                f"metrics: expected names among {', '.join(BY_NAME)}, got {metric!r}"
            )
        return BY_NAME[metric]()
    if callable(metric) and not isinstance(metric, type):
        return Function(metric)
    raise DTypeError(f"metrics: expected names, metrics or functions, got {metric!r}")
