"""Losses: how far an output is from its target, and d_output, the derivative by every output.

The loss of a batch is sum_i w_i l_i / sum_i w_i, where l_i is the loss of row i and w_i its
weight (1 by default): a row of weight k counts like k copies of it, a row of weight 0 like none.
Elementwise losses take l_i as the mean over the row's elements. Outputs are raw: cross-entropies
take logits. z is an output, y its target, K the number of outputs.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Protocol, TypeAlias

from .activations import log_sigmoid, log_softmax, sigmoid, softplus
from .vectors import Matrix, Rows, Vector, as_matrix, exp, row_weights, total

Target: TypeAlias = Sequence[float | Sequence[float]]


class AnyLoss(Protocol):
    """What a model needs of a loss; one's own may be any object with this method."""

    def value_and_gradient(
        self, output: Matrix, target: Target, sample_weight: Sequence[float] | None = None, /
    ) -> tuple[float, Matrix]: ...


class Loss:
    """Base: weighs the rows. A subclass says what one row's loss is."""

    def row(self, output: Vector, target: Vector) -> tuple[float, Vector]:
        """The loss of one row, and its derivative by each of the row's outputs."""
        raise TypeError(f"{type(self).__name__} must define row")

    def target_size(self, outputs: int) -> int:
        """Targets per row that a network with so many outputs needs."""
        return outputs

    def target_rows(self, target: Target, outputs: int) -> Matrix:
        """The targets as rows, checked; a flat list serves a single target per row."""
        rows = [value if isinstance(value, Sequence) else [value] for value in target]
        return as_matrix(rows, self.target_size(outputs), "target")

    def value_and_gradient(
        self, output: Rows, target: Target, sample_weight: Sequence[float] | None = None
    ) -> tuple[float, Matrix]:
        """The loss of a batch and d_output.

        Args:
            output: raw outputs of the network, (batch, outputs).
            target: one entry per row.
            sample_weight: one weight per row, None for 1 each.
        """
        if not output:
            raise ValueError("output must have at least one row")
        outputs = len(output[0])
        rows = as_matrix(output, outputs, "output")
        targets = self.target_rows(target, outputs)
        if len(targets) != len(rows):
            raise ValueError(f"target has {len(targets)} rows, output has {len(rows)}")
        weights = row_weights(sample_weight, len(rows))
        all_weights = total(weights)
        values: Vector = []
        d_output: Matrix = []
        for z, y, weight in zip(rows, targets, weights, strict=True):
            value, d_row = self.row(z, y) if weight > 0.0 else (0.0, [0.0] * outputs)
            values.append(weight * value)
            d_output.append([weight / all_weights * d for d in d_row])
        return total(values) / all_weights, d_output


def _mean(elements: Iterable[tuple[float, float]]) -> tuple[float, Vector]:
    """The mean of the elements' losses, and its derivative by each element."""
    values, derivatives = zip(*elements, strict=True)
    return total(values) / len(values), [d / len(values) for d in derivatives]


class _Elementwise(Loss):
    """The mean over a row of a loss with one output and one target."""

    def element(self, z: float, y: float) -> tuple[float, float]:
        """(loss, derivative by z)."""
        raise TypeError(f"{type(self).__name__} must define element")

    def row(self, output: Vector, target: Vector) -> tuple[float, Vector]:
        return _mean(self.element(z, y) for z, y in zip(output, target, strict=True))


@dataclass(frozen=True)
class MSE(_Elementwise):
    """Squared error (z - y)^2; derivative 2 (z - y)."""

    def element(self, z: float, y: float) -> tuple[float, float]:
        return (z - y) * (z - y), 2.0 * (z - y)


@dataclass(frozen=True)
class MAE(_Elementwise):
    """Absolute error |z - y|; derivative sign(z - y), 0 at 0."""

    def element(self, z: float, y: float) -> tuple[float, float]:
        d = z - y
        return abs(d), d if d == 0.0 or math.isnan(d) else math.copysign(1.0, d)


@dataclass(frozen=True)
class Huber(_Elementwise):
    """With d = z - y: d^2 / 2 if |d| < delta, else delta (|d| - delta / 2).

    Its derivative is d clipped to [-delta, delta].
    """

    _: KW_ONLY
    delta: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.delta) and self.delta > 0.0):
            raise ValueError(f"delta must be finite and > 0, got {self.delta}")

    def element(self, z: float, y: float) -> tuple[float, float]:
        d = z - y
        if abs(d) < self.delta:
            return 0.5 * d * d, d
        return self.delta * (abs(d) - 0.5 * self.delta), max(min(d, self.delta), -self.delta)


@dataclass(frozen=True)
class Poisson(_Elementwise):
    """e^z - y z, z being the logarithm of the predicted rate; derivative e^z - y."""

    def element(self, z: float, y: float) -> tuple[float, float]:
        return exp(z) - y * z, exp(z) - y


@dataclass(frozen=True)
class Quantile(Loss):
    """The pinball loss: with d = y - z, max(q d, (q - 1) d). Koenker and Bassett (1978).

    The derivative by z is -q for d > 0, 1 - q for d < 0 and 0 at d = 0. With Q quantiles and T
    targets the network has T Q outputs; column t Q + j is quantile j of target t.

    Args:
        q: one quantile or a list of them, 0 < q < 1.
    """

    q: float | Sequence[float] = 0.5

    def __post_init__(self) -> None:
        if not self._levels() or not all(0.0 < q < 1.0 for q in self._levels()):
            raise ValueError(f"q must lie between 0 and 1, got {self.q}")

    def _levels(self) -> list[float]:
        return list(self.q) if isinstance(self.q, Sequence) else [self.q]

    def target_size(self, outputs: int) -> int:
        levels = len(self._levels())
        if outputs % levels != 0:
            raise ValueError(f"{levels} quantiles need a multiple of {levels} outputs: {outputs}")
        return outputs // levels

    def row(self, output: Vector, target: Vector) -> tuple[float, Vector]:
        levels = self._levels()
        pairs = [(y, q) for y in target for q in levels]
        return _mean(_pinball(z, y, q) for z, (y, q) in zip(output, pairs, strict=True))


def _pinball(z: float, y: float, q: float) -> tuple[float, float]:
    d = y - z
    if d == 0.0 or math.isnan(d):
        return d, d
    return max(q * d, (q - 1.0) * d), -q if d > 0.0 else 1.0 - q


@dataclass(frozen=True)
class GaussianNLL(Loss):
    """With a mean m and a log-variance s per target: (s + (m - y)^2 e^-s) / 2.

    The outputs are [T means | T log-variances]. By m the derivative is (m - y) e^-s, by s it is
    (1 - (m - y)^2 e^-s) / 2. The row's loss is a mean over T; the constant ln(2 pi) / 2 is left
    out. Nix and Weigend (1994).
    """

    def target_size(self, outputs: int) -> int:
        if outputs % 2 != 0:
            raise ValueError(f"gaussian_nll needs an even number of outputs, got {outputs}")
        return outputs // 2

    def row(self, output: Vector, target: Vector) -> tuple[float, Vector]:
        size = len(target)
        values, d_means, d_logs = [], [], []
        for m, s, y in zip(output[:size], output[size:], target, strict=True):
            squared = (m - y) * (m - y) * exp(-s)
            values.append(0.5 * (s + squared))
            d_means.append((m - y) * exp(-s) / size)
            d_logs.append(0.5 * (1.0 - squared) / size)
        return total(values) / size, d_means + d_logs


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """-sum_k y_k ln p_k with p = softmax(z); derivative p_k sum_j y_j - y_k.

    A label c means y_k = 1 for k = c and 0 otherwise. Smoothing takes y to
    (1 - eps) y + eps / K.

    Args:
        label_smoothing: eps, 0 <= eps <= 1.
    """

    _: KW_ONLY
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing <= 1.0:
            raise ValueError(f"label_smoothing must lie in [0, 1], got {self.label_smoothing}")

    def target_rows(self, target: Target, outputs: int) -> Matrix:
        """One distribution per row, from labels (also as rows of one label) or probabilities."""
        rows: Matrix = []
        for i, entry in enumerate(target):
            label = entry[0] if isinstance(entry, Sequence) and len(entry) == 1 else entry
            if isinstance(label, int):
                rows.append(_one_hot(label, outputs, i))
            elif isinstance(entry, Sequence):
                rows += as_matrix([entry], outputs, f"target from row {i} on")
            else:
                raise ValueError(f"target: row {i} must be a whole number or a row, got {entry!r}")
        return [[self._smoothed(y, outputs) for y in row] for row in rows]

    def _smoothed(self, y: float, outputs: int) -> float:
        return (1.0 - self.label_smoothing) * y + self.label_smoothing / outputs

    def row(self, output: Vector, target: Vector) -> tuple[float, Vector]:
        logs = log_softmax(output)
        value = -total(y * log_p for y, log_p in zip(target, logs, strict=True) if y != 0.0)
        mass = total(target)
        return value, [mass * exp(log_p) - y for y, log_p in zip(target, logs, strict=True)]


def _one_hot(label: int, outputs: int, row: int) -> Vector:
    if not 0 <= label < outputs:
        raise ValueError(f"target: row {row} has label {label}, not in 0 .. {outputs - 1}")
    return [1.0 if k == label else 0.0 for k in range(outputs)]


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """(1 - y) z - (1 + (p - 1) y) ln sigmoid(z), p being the weight of the positive class.

    As z = ln sigmoid(z) - ln sigmoid(-z), this is (1 - y) softplus(z) - p y ln sigmoid(z), and
    its derivative is (1 - y) sigmoid(z) - p y sigmoid(-z). Neither overflows or cancels.

    Args:
        pos_weight: p, one number or one per output; None is 1.
    """

    _: KW_ONLY
    pos_weight: float | Sequence[float] | None = None

    def __post_init__(self) -> None:
        if not all(math.isfinite(p) and p > 0.0 for p in self._weights(1)):
            raise ValueError(f"pos_weight must be finite and > 0, got {self.pos_weight}")

    def _weights(self, outputs: int) -> list[float]:
        if isinstance(self.pos_weight, Sequence):
            return list(self.pos_weight)
        return [1.0 if self.pos_weight is None else self.pos_weight] * outputs

    def target_size(self, outputs: int) -> int:
        if len(self._weights(outputs)) != outputs:
            raise ValueError(f"pos_weight has {self.pos_weight} for {outputs} outputs")
        return outputs

    def row(self, output: Vector, target: Vector) -> tuple[float, Vector]:
        weights = self._weights(len(output))
        return _mean(
            (
                (1.0 - y) * softplus(z) - p * y * log_sigmoid(z),
                (1.0 - y) * sigmoid(z) - p * y * sigmoid(-z),
            )
            for z, y, p in zip(output, target, weights, strict=True)
        )


BY_NAME: dict[str, Callable[[], Loss]] = {
    "mse": MSE,
    "mae": MAE,
    "huber": Huber,
    "quantile": Quantile,
    "poisson": Poisson,
    "gaussian_nll": GaussianNLL,
    "cross_entropy": CrossEntropy,
    "binary_cross_entropy": BinaryCrossEntropy,
}


def get(loss: str | AnyLoss) -> AnyLoss:
    """The loss of that name with its defaults; objects pass as they are."""
    if not isinstance(loss, str):
        return loss
    if loss not in BY_NAME:
        raise ValueError(f"unknown loss {loss!r}; there are {', '.join(BY_NAME)}")
    return BY_NAME[loss]()
