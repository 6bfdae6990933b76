"""Intervals that hold and probabilities that mean what they say, from rows not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, ndtri

from .._arrays import Array

# Levels of the quantile heads.
LEVELS = (0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975)


def log_loss(logits: Array, labels: Array, weight: Array | None) -> float:
    """−log p_y with p = softmax(logits), the weighted mean over rows."""
    each = logsumexp(logits, axis=1) - logits[np.arange(len(logits)), labels]
    return float(np.average(each, weights=weight))


def temperature(
    logits: Array, labels: Array, weight: Array | None, *, smoothed: bool = False
) -> float:
    """T for which softmax(logits / T) has the least log-loss, from 1/20 to 20 (Guo et al. 2017).

    Where all rows are right the loss has no minimum, and T would be as small as it may. smoothed
    gives each label the share 1/(n + 1) of one more row, which is of all classes alike, in the
    spirit of Platt (1999); n is the effective number of rows, (Σw)²/Σw².
    """
    share = 0.0
    if smoothed:
        rows = len(labels) if weight is None else weight.sum() ** 2 / (weight**2).sum()
        share = 1 / (rows + 1)

    def loss(log_t: float) -> float:
        z = logits / np.exp(log_t)
        value = log_loss(z, labels, weight)
        if share:
            # The mean of -log p over the classes, in place of that of the label.
            alike = np.average(logsumexp(z, axis=1) - z.mean(axis=1), weights=weight)
            value += share * (float(alike) - value)
        return value

    limit = np.log(20.0)
    found = minimize_scalar(loss, bounds=(-limit, limit), method="bounded")
    return float(np.exp(found.x))


def conformal_margin(scores: Array, weight: Array | None, share: float) -> Array:
    """The least margin that at least `share` of the scores, and one more, do not exceed.

    Of n scores without weights that is the ⌈share·(n + 1)⌉-th smallest, infinite where n is too
    small for it. The one more has the mean weight.

    Args:
        scores: (rows, targets).
        weight: (rows,), above 0.
        share: in (0, 1).

    Returns:
        (targets,)
    """
    rows = len(scores)
    weight = np.ones(rows) if weight is None else weight / weight.mean()
    order = np.argsort(scores, axis=0, kind="stable")
    reached = np.cumsum(weight[order], axis=0)
    enough = reached >= share * (rows + 1) - 1e-9 * rows
    first = enough.argmax(axis=0)[np.newaxis]
    ordered = np.take_along_axis(scores, order, axis=0)
    margin = np.take_along_axis(ordered, first, axis=0)[0]
    return np.where(enough.any(axis=0), margin, np.inf)


def between(heads: Array, levels: Array) -> Array:
    """Quantiles between the heads, on the scale of normal deviates; beyond them the outermost.

    Args:
        heads: (rows, targets · len(LEVELS)).
        levels: in (0, 1).

    Returns:
        (rows, targets, len(levels))
    """
    ascending = np.sort(heads.reshape(len(heads), -1, len(LEVELS)), axis=2)
    known, wanted = ndtri(np.array(LEVELS)), ndtri(levels)
    above = np.clip(np.searchsorted(known, wanted), 1, len(known) - 1)
    share = (wanted - known[above - 1]) / (known[above] - known[above - 1])
    low, high = ascending[..., above - 1], ascending[..., above]
    return np.asarray(low + np.clip(share, 0.0, 1.0) * (high - low))


class Intervals:
    """Conformalised quantiles, by rows that were not trained on.

    Args:
        heads: quantiles of those rows, (rows, targets · len(LEVELS)).
        targets: (rows, targets).
        weight: (rows,), 0 or more.
    """

    def __init__(self, heads: Array, targets: Array, weight: Array | None) -> None:
        if weight is not None:
            present = weight > 0
            heads, targets, weight = heads[present], targets[present], weight[present]
        self.heads, self.targets, self.weight = heads, targets, weight

    def interval(self, heads: Array, coverage: float) -> Array:
        """Both ends, (rows, targets, 2)."""
        levels = np.array([(1 - coverage) / 2, (1 + coverage) / 2])
        known = between(self.heads, levels)
        scores = np.maximum(known[..., 0] - self.targets, self.targets - known[..., 1])
        margin = conformal_margin(scores, self.weight, coverage)
        ends = between(heads, levels)
        # A negative margin does not turn an interval round.
        margin = np.maximum(margin, (ends[..., 0] - ends[..., 1]) / 2)
        return np.stack([ends[..., 0] - margin, ends[..., 1] + margin], axis=-1)

    def quantiles(self, heads: Array, levels: Array) -> Array:
        """Quantiles that do not cross, (rows, targets, len(levels))."""
        scores = self.targets[..., np.newaxis] - between(self.heads, levels)
        margins = [
            conformal_margin(scores[..., place], self.weight, float(level))
            for place, level in enumerate(levels)
        ]
        moved = np.asarray(between(heads, levels) + np.stack(margins, axis=-1))
        order = np.argsort(levels, kind="stable")
        moved[..., order] = np.sort(moved, axis=-1)
        return moved


@dataclass(frozen=True)
class Units:
    """Targets to mean 0 and variance 1, and back.

    Args:
        flat: whether targets have one dimension.
        unit: the largest absolute target; what is counted in it does not overflow.
        mean: in units.
        deviation: in units; 1 where the target is constant.
        least: the smallest target; most the largest.
    """

    flat: bool
    unit: Array
    mean: Array
    deviation: Array
    least: Array
    most: Array

    @classmethod
    def of(cls, y: Array, weight: Array | None) -> Units:
        """Those of targets (rows,) or (rows, targets)."""
        values = y.reshape(len(y), -1)
        if weight is not None:
            values, weight = values[weight > 0], weight[weight > 0]
        unit = np.abs(values).max(axis=0)
        unit = np.where(unit > 0.0, unit, 1.0)
        mean = np.average(values / unit, axis=0, weights=weight)
        variance = np.average((values / unit - mean) ** 2, axis=0, weights=weight)
        least, most = values.min(axis=0), values.max(axis=0)
        deviation = np.where(least < most, np.sqrt(variance), 1.0)
        return cls(y.ndim == 1, unit, mean, np.where(deviation > 0.0, deviation, 1.0), least, most)

    def scaled(self, y: Array) -> Array:
        """(rows, targets)."""
        return np.asarray((y.reshape(len(y), -1) / self.unit - self.mean) / self.deviation)

    def back(self, z: Array) -> Array:
        """Of the shape that targets have."""
        y = (z * self.deviation + self.mean) * self.unit
        return np.asarray(y[:, 0] if self.flat else y)

    def clipped(self, z: Array) -> Array:
        """Likewise, within the range of the targets."""
        y = np.clip((z * self.deviation + self.mean) * self.unit, self.least, self.most)
        return np.asarray(y[:, 0] if self.flat else y)
