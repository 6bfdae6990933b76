"""The line search of More and Thuente: how far to go along a direction of descent.

phi(step) is the loss at theta + step * direction, with its slope. Wanted is a step that lowers the
loss enough and leaves little of the slope (the strong conditions of Wolfe):

    phi(step) <= phi(0) + DECREASE step phi'(0)   and   |phi'(step)| <= CURVATURE |phi'(0)|

Source: J. J. More and D. J. Thuente, "Line search algorithms with guaranteed sufficient decrease",
ACM Transactions on Mathematical Software 20 (1994); the details are those of the authors' own code
(MINPACK-2, dcsrch), which L-BFGS-B and SciPy use.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

DECREASE = 1e-3
CURVATURE = 0.9
# Relative width of an interval that is not worth dividing.
NARROW = 0.1
LONGEST = 1e10


@dataclass(frozen=True)
class Point:
    """A step with the loss and the slope there."""

    step: float
    loss: float
    slope: float

    def tilted(self, slope: float) -> "Point":
        """The same point of phi(step) - slope * step."""
        return Point(self.step, self.loss - self.step * slope, self.slope - slope)


Phi: TypeAlias = Callable[[float], Point]


def search(phi: Phi, start: Point, first: float, evaluations: int) -> Point | None:
    """The accepted point, or None after so many evaluations without one.

    Args:
        phi: the loss and the slope at a step.
        start: those at step 0; the slope is negative.
        first: the step that is tried first.
        evaluations: how often phi may be asked.
    """
    enough = DECREASE * start.slope
    best = other = start
    bracketed = False
    # Until there is enough decrease, the decrease itself is what is looked for.
    seeking_decrease = True
    width, width_before = LONGEST, 2.0 * LONGEST
    low, high = 0.0, 5.0 * first
    step = first
    for _ in range(evaluations):
        trial = phi(step)
        if not (math.isfinite(trial.loss) and math.isfinite(trial.slope)):
            # Beyond what can be computed: half the way back. SciPy gives up here.
            step = 0.5 * (best.step + step)
            continue
        most = start.loss + step * enough
        lower = trial.loss <= most
        if seeking_decrease and lower and trial.slope >= 0.0:
            seeking_decrease = False
        no_progress = bracketed and (not low < step < high or high - low <= NARROW * high)
        farthest = step == LONGEST and lower and trial.slope <= enough
        nowhere = step == 0.0 and (not lower or trial.slope >= enough)
        flat = lower and abs(trial.slope) <= CURVATURE * -start.slope
        if no_progress or farthest or nowhere or flat:
            return trial
        if seeking_decrease and most < trial.loss <= best.loss:
            best, other, trial = (point.tilted(enough) for point in (best, other, trial))
            step, best, other, bracketed = _next(best, other, trial, bracketed, low, high)
            best, other = best.tilted(-enough), other.tilted(-enough)
        else:
            step, best, other, bracketed = _next(best, other, trial, bracketed, low, high)
        if bracketed:
            if abs(other.step - best.step) >= 0.66 * width_before:
                step = best.step + 0.5 * (other.step - best.step)
            width_before, width = width, abs(other.step - best.step)
            low, high = min(best.step, other.step), max(best.step, other.step)
        else:
            low = step + 1.1 * (step - best.step)
            high = step + 4.0 * (step - best.step)
        step = min(max(step, 0.0), LONGEST)
        if bracketed and (not low < step < high or high - low <= NARROW * high):
            step = best.step
    return None


def _next(
    best: Point, other: Point, trial: Point, bracketed: bool, low: float, high: float
) -> tuple[float, Point, Point, bool]:
    """The next step, and the interval with the trial in it: best point, other end, bracketed.

    The step comes from the cubic, or the quadratic, through losses and slopes.
    """
    if trial.loss > best.loss:
        # Higher: there is a minimum between. The cubic's, if it is nearer to the best point.
        cubic = _cubic(best, trial, -1.0 if trial.step < best.step else 1.0)
        fall = (best.loss - trial.loss) / (trial.step - best.step)
        quadratic = best.step + best.slope / (fall + best.slope) / 2.0 * (trial.step - best.step)
        if abs(cubic - best.step) <= abs(quadratic - best.step):
            step = cubic
        else:
            step = cubic + (quadratic - cubic) / 2.0
        return step, best, trial, True
    if min(trial.slope, best.slope) < 0.0 < max(trial.slope, best.slope):
        # Lower, and the slope has turned: between again. What is farther from the trial.
        cubic = _cubic(trial, best, -1.0 if trial.step > best.step else 1.0)
        secant = _secant(best, trial)
        farther = abs(cubic - trial.step) > abs(secant - trial.step)
        return (cubic if farther else secant), trial, best, True
    if abs(trial.slope) < abs(best.slope):
        # Lower, less steep: the cubic's minimum if it lies ahead, else as far as is allowed.
        ahead = _cubic_ahead(best, trial)
        if ahead is None:
            ahead = high if trial.step > best.step else low
        secant = _secant(best, trial)
        nearer = abs(ahead - trial.step) < abs(secant - trial.step)
        if bracketed:
            step = ahead if nearer else secant
            limit = trial.step + 0.66 * (other.step - trial.step)
            step = min(limit, step) if trial.step > best.step else max(limit, step)
        else:
            farther = abs(ahead - trial.step) > abs(secant - trial.step)
            step = min(max(ahead if farther else secant, low), high)
        return step, trial, other, bracketed
    # Lower, and no less steep.
    if bracketed:
        step = _cubic(trial, other, -1.0 if trial.step > other.step else 1.0)
    else:
        step = high if trial.step > best.step else low
    return step, trial, other, bracketed


def _secant(best: Point, trial: Point) -> float:
    """Where a slope that changes linearly would be 0."""
    ratio = trial.slope / (trial.slope - best.slope)
    return trial.step + ratio * (best.step - trial.step)


def _bend(a: Point, b: Point) -> tuple[float, float, float]:
    """theta of the cubic through a and b, a scale for it, and its discriminant in that scale."""
    theta = 3.0 * (a.loss - b.loss) / (b.step - a.step) + a.slope + b.slope
    scale = max(abs(theta), abs(a.slope), abs(b.slope))
    return theta, scale, (theta / scale) ** 2 - (a.slope / scale) * (b.slope / scale)


def _cubic(a: Point, b: Point, sign: float) -> float:
    """The minimum of the cubic through a and b, seen from a."""
    theta, scale, square = _bend(a, b)
    gamma = sign * scale * math.sqrt(max(0.0, square))
    ratio = ((gamma - a.slope) + theta) / (((gamma - a.slope) + gamma) + b.slope)
    return a.step + ratio * (b.step - a.step)


def _cubic_ahead(best: Point, trial: Point) -> float | None:
    """The minimum of the cubic beyond the trial; None where it has none there."""
    theta, scale, square = _bend(best, trial)
    gamma = scale * math.sqrt(max(0.0, square))
    if trial.step > best.step:
        gamma = -gamma
    ratio = ((gamma - trial.slope) + theta) / ((gamma + (best.slope - trial.slope)) + gamma)
    if ratio < 0.0 and gamma != 0.0:
        return trial.step + ratio * (best.step - trial.step)
    return None
