"""Methods that see the curvature: L-BFGS and Levenberg-Marquardt.

Their step is no function of one gradient: they ask for the loss of all rows at several points. So
they take a `Problem`, which is the loss as a function of one flat vector theta, and answer with the
loss and the next theta, or with None at their end.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from .line_search import Point, search
from .steps import DivergedError, require
from .vectors import Matrix, Vector, dot, transpose

EPSILON = 2.0**-52
# Below it a product with the damping would be stuck at 0.
SMALLEST = 2.0**-1022


class Problem(Protocol):
    """A loss as a function of the parameters."""

    def theta(self) -> Vector:
        """Where the model stands."""
        ...

    def value_and_gradient(self, theta: Vector) -> tuple[float, Vector]:
        """The loss at theta, and its gradient."""
        ...

    def residuals(self, theta: Vector) -> tuple[Vector, Matrix]:
        """r and its Jacobian, where the loss is the sum of the squares of r."""
        ...


class SecondOrder:
    """Base: when to stop. `stopped_by` says why None was the answer.

    Args:
        tolerance_grad: converged when no entry of the gradient is larger.
        tolerance_loss: converged when a step has lowered the loss by no more than this, relative
            to what `_whole` says.
    """

    def __init__(self, *, tolerance_grad: float, tolerance_loss: float) -> None:
        require(math.isfinite(tolerance_grad) and tolerance_grad >= 0.0, "tolerance_grad >= 0")
        require(math.isfinite(tolerance_loss) and tolerance_loss >= 0.0, "tolerance_loss >= 0")
        self.tolerance_grad = tolerance_grad
        self.tolerance_loss = tolerance_loss
        self.steps = 0
        self.loss_before: float | None = None
        self.stopped_by: str | None = None

    def begin(self) -> None:
        """A fit begins, with data that may be others: an earlier loss says nothing about theirs."""
        self.stopped_by = None
        self.loss_before = None

    def next(self, problem: Problem) -> tuple[float, Vector] | None:
        """The loss and the next theta, or None."""
        theta = problem.theta()
        loss, gradient = problem.value_and_gradient(theta)
        if not math.isfinite(loss):
            raise DivergedError(f"the loss is {loss}")
        before = self.loss_before
        if max(map(abs, gradient)) <= self.tolerance_grad or (
            before is not None and before - loss <= self.tolerance_loss * self._whole(before, loss)
        ):
            self.stopped_by = "converged"
            return None
        found = self._step(problem, theta, loss, gradient)
        if found is None:
            return None
        self.steps += 1
        self.loss_before = loss
        return loss, found

    def _whole(self, before: float, after: float) -> float:
        raise TypeError(f"{type(self).__name__} must define _whole")

    def _step(
        self, problem: Problem, theta: Vector, loss: float, gradient: Vector
    ) -> Vector | None:
        raise TypeError(f"{type(self).__name__} must define _step")


@dataclass(frozen=True)
class Pair:
    """What a step has taught: s, the change of theta, and y, that of the gradient."""

    s: Vector
    y: Vector


class LBFGS(SecondOrder):
    """Limited-memory BFGS with the line search of More and Thuente.

    The direction is -H g, where H is the inverse of the Hessian as the last pairs (s, y) show it:
    it starts as (s'y / y'y) I of the newest pair, and each pair, from the oldest to the newest,
    makes it

        H = (I - rho s y') H (I - rho y s') + rho s s',   rho = 1 / s'y

    so that H y = s. Nocedal's two loops (`direction`) apply it without forming it. The first
    direction is -g, and the first step along it has the length 1; later steps try H's own length.

    Sources: J. Nocedal and S. J. Wright, Numerical Optimization, 2nd edition (2006), algorithms 7.4
    and 7.5; C. Zhu et al., L-BFGS-B, ACM TOMS 23 (1997), for the rest, as in SciPy.

    Args:
        history_size: pairs that are kept.
        max_evaluations: of the loss, in one line search.
        tolerance_grad: converged when no entry of the gradient is larger.
        tolerance_loss: converged when a step has lowered the loss by no more than this times
            max(|loss before|, |loss after|, 1).
    """

    def __init__(
        self,
        *,
        history_size: int = 10,
        max_evaluations: int = 20,
        tolerance_grad: float = 1e-5,
        tolerance_loss: float = 1e7 * EPSILON,
    ) -> None:
        super().__init__(tolerance_grad=tolerance_grad, tolerance_loss=tolerance_loss)
        require(history_size >= 1, "history_size >= 1")
        require(max_evaluations >= 1, "max_evaluations >= 1")
        self.history_size = history_size
        self.max_evaluations = max_evaluations
        self.pairs: list[Pair] = []

    def _whole(self, before: float, after: float) -> float:
        return max(abs(before), abs(after), 1.0)

    def _step(
        self, problem: Problem, theta: Vector, loss: float, gradient: Vector
    ) -> Vector | None:
        while True:
            whole = descent(gradient, self.pairs)
            # What rounding lets theta move by, so that s is what it has moved by.
            direction = [(p + d) - p for p, d in zip(theta, whole, strict=True)]
            slope = dot(gradient, direction)
            found = self._search(problem, theta, Point(0.0, loss, slope), direction)
            if found is not None:
                break
            if not self.pairs:
                self.stopped_by = "line_search"
                return None
            # The history misleads: forget it, and go down the gradient.
            self.pairs = []
        at, there, gradient_there = found
        s = [at.step * d for d in direction]
        y = [b - a for a, b in zip(gradient, gradient_there, strict=True)]
        # The curvature along the step, next to what rounding makes of the slopes.
        if (at.slope - slope) * at.step > EPSILON * (-slope * at.step):
            self.pairs = [*self.pairs, Pair(s, y)][-self.history_size :]
        return there

    def _search(
        self, problem: Problem, theta: Vector, start: Point, direction: Vector
    ) -> tuple[Point, Vector, Vector] | None:
        """The accepted point of the line, theta there and the gradient there."""
        if start.slope >= 0.0:
            return None
        seen: dict[float, tuple[Vector, Vector]] = {}

        def phi(step: float) -> Point:
            there = [p + step * d for p, d in zip(theta, direction, strict=True)]
            loss, gradient = problem.value_and_gradient(there)
            seen[step] = there, gradient
            return Point(step, loss, dot(gradient, direction))

        first = 1.0
        if self.steps == 0:
            first = min(1.0 / math.sqrt(dot(direction, direction)), 1e10)
        at = search(phi, start, first, self.max_evaluations)
        return None if at is None else (at, *seen[at.step])


def descent(gradient: Vector, pairs: list[Pair]) -> Vector:
    """-H g by the two loops: newest to oldest and back."""
    q = [-g for g in gradient]
    alphas = []
    for pair in reversed(pairs):
        alpha = dot(pair.s, q) / dot(pair.s, pair.y)
        q = [a - alpha * b for a, b in zip(q, pair.y, strict=True)]
        alphas.append(alpha)
    if pairs:
        newest = pairs[-1]
        scale = dot(newest.s, newest.y) / dot(newest.y, newest.y)
        q = [scale * a for a in q]
    for pair, alpha in zip(pairs, reversed(alphas), strict=True):
        beta = dot(pair.y, q) / dot(pair.s, pair.y)
        q = [a + (alpha - beta) * b for a, b in zip(q, pair.s, strict=True)]
    return q


class LevenbergMarquardt(SecondOrder):
    """Least squares by damped Gauss-Newton steps.

    The loss is the sum of the squares of the residuals r, whose Jacobian is J. If r were linear,
    the step h with J'J h = -J'r would lead to the minimum. Damped by mu, (J'J + mu I) h = -J'r, it
    is shorter and turned towards the steepest descent. The gain compares what h brings with what a
    linear r foretells,

        gain = (loss(theta) - loss(theta + h)) / h'(mu h - J'r)

    and decides how far to trust the linear picture: if it is positive, h is taken and mu falls, at
    most to a third; else mu grows, faster and faster, until some h is good.

    Source: K. Madsen, H. B. Nielsen and O. Tingleff, Methods for Non-Linear Least Squares Problems,
    2nd edition (2004), algorithm 3.16.

    Args:
        damping: mu at first, by the largest entry of the diagonal of J'J.
        tolerance_grad: converged when no entry of the gradient is larger.
        tolerance_loss: converged when a step has lowered the loss by no more than this share.
        tolerance_step: converged when |h| <= tolerance_step (|theta| + tolerance_step).
    """

    def __init__(
        self,
        *,
        damping: float = 1e-3,
        tolerance_grad: float = 1e-8,
        tolerance_loss: float = 1e-8,
        tolerance_step: float = 1e-8,
    ) -> None:
        super().__init__(tolerance_grad=tolerance_grad, tolerance_loss=tolerance_loss)
        require(math.isfinite(damping) and damping > 0.0, "damping > 0")
        require(math.isfinite(tolerance_step) and tolerance_step >= 0.0, "tolerance_step >= 0")
        self.damping = damping
        self.tolerance_step = tolerance_step
        self.mu: float | None = None

    def _whole(self, before: float, after: float) -> float:
        return before

    def _step(
        self, problem: Problem, theta: Vector, loss: float, gradient: Vector
    ) -> Vector | None:
        residuals, jacobian = problem.residuals(theta)
        columns = transpose(jacobian)
        normal = [[dot(a, b) for b in columns] for a in columns]
        slope = [dot(column, residuals) for column in columns]
        mu = self.mu
        if mu is None:
            mu = max(self.damping * max(row[i] for i, row in enumerate(normal)), SMALLEST)
        nu = 2.0
        while math.isfinite(mu):
            h = solve(normal, mu, [-s for s in slope])
            if h is not None:
                limit = math.sqrt(dot(theta, theta)) + self.tolerance_step
                if math.sqrt(dot(h, h)) <= self.tolerance_step * limit:
                    self.stopped_by = "converged"
                    return None
                there = [p + q for p, q in zip(theta, h, strict=True)]
                if there == theta:
                    self.stopped_by = "converged"
                    return None
                foretold = dot(h, [mu * q - s for q, s in zip(h, slope, strict=True)])
                gain = (loss - problem.value_and_gradient(there)[0]) / foretold
                if gain > 0.0:
                    self.mu = max(mu * max(1.0 / 3.0, 1.0 - (2.0 * gain - 1.0) ** 3), SMALLEST)
                    return there
            mu *= nu
            nu *= 2.0
        raise DivergedError("the Jacobian is not finite")


def solve(matrix: Matrix, mu: float, right: Vector) -> Vector | None:
    """x of (matrix + mu I) x = right by Cholesky's method; None if that is not positive definite.

    matrix + mu I = L L' with L lower triangular; L y = right, then L' x = y.
    """
    n = len(right)
    lower: Matrix = []
    for i in range(n):
        row: Vector = []
        for j in range(i):
            row.append((matrix[i][j] - dot(row, lower[j][:j])) / lower[j][j])
        pivot = matrix[i][i] + mu - dot(row, row)
        if not pivot > 0.0:
            return None
        lower.append([*row, math.sqrt(pivot)])
    y: Vector = []
    for i in range(n):
        y.append((right[i] - dot(lower[i][:i], y)) / lower[i][i])
    x = [0.0] * n
    for i in reversed(range(n)):
        below = [lower[j][i] for j in range(i + 1, n)]
        x[i] = (y[i] - dot(below, x[i + 1 :])) / lower[i][i]
    return x
