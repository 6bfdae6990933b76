"""Layer norm and batch norm: y = weight * n + bias with n = (x - mean) / sqrt(variance + eps).

They differ in what mean and variance are taken over: the features of a row, or the rows of a
batch. Both variances divide by the count (biased). The mean and the variance depend on every x,
so the derivative has two terms besides the plain one; with d_n = d_output * weight,

    d_x = (d_n - mean(d_n) - n * mean(d_n * n)) / sqrt(variance + eps).

Standardisation takes them over all data, once, and they are constants from there on.
"""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import cast

from .passes import Forward, Mode, Parameters
from .vectors import Matrix, Tensor, Vector, column_sums, total, transpose


def _weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """sum(w v) / sum(w), over the places where w > 0."""
    return total(w * v for w, v in zip(weights, values, strict=True) if w > 0.0) / total(weights)


def _normalize(values: Vector, mean: float, variance: float, eps: float) -> Vector:
    """(x - mean) / sqrt(variance + eps)."""
    deviation = math.sqrt(variance + eps)
    return [(value - mean) / deviation for value in values]


def _moments(values: Vector, weights: Vector) -> tuple[float, float]:
    """mean = sum(w x) / W and variance = sum(w (x - mean)^2) / W with W = sum(w)."""
    mean = _weighted_mean(values, weights)
    return mean, _weighted_mean([(value - mean) * (value - mean) for value in values], weights)


def _d_normalize(d_n: Vector, n: Vector, weights: Vector, deviation: float) -> Vector:
    """d_x_i = (d_n_i - w_i / W * (sum(d_n) + n_i * sum(d_n * n))) / deviation.

    x_i enters the mean and the variance with its share w_i / W of the weights.
    """
    all_weights = total(weights)
    sum_d_n = total(d_n)
    sum_d_n_n = total(d * value for d, value in zip(d_n, n, strict=True))
    return [
        (d - w / all_weights * (sum_d_n + value * sum_d_n_n)) / deviation
        for d, value, w in zip(d_n, n, weights, strict=True)
    ]


def _scale_and_shift(n: Matrix, parameters: Parameters) -> Matrix:
    """weight * n + bias, one weight and one bias per feature."""
    weight, bias = cast(Vector, parameters["weight"]), cast(Vector, parameters["bias"])
    return [[w * v + b for v, w, b in zip(row, weight, bias, strict=True)] for row in n]


def _d_scale_and_shift(
    d_output: Matrix, n: Matrix, parameters: Parameters
) -> tuple[Matrix, dict[str, Tensor]]:
    """d_n = d_output * weight; d_weight = sum of d_output * n; d_bias = sum of d_output."""
    weight = cast(Vector, parameters["weight"])
    d_n = [[d * w for d, w in zip(row, weight, strict=True)] for row in d_output]
    rows = zip(d_output, n, strict=True)
    products = [[d * v for d, v in zip(d_row, row, strict=True)] for d_row, row in rows]
    return d_n, {"weight": column_sums(products), "bias": column_sums(d_output)}


def _check_eps(eps: float) -> None:
    if not (math.isfinite(eps) and eps > 0.0):
        raise ValueError(f"eps must be finite and > 0, got {eps}")


@dataclass(frozen=True)
class LayerNorm:
    """Every row normalised over its features. Ba, Kiros and Hinton (2016).

    Args:
        eps: added to the variance.
    """

    _: KW_ONLY
    eps: float = 1e-5

    def __post_init__(self) -> None:
        _check_eps(self.eps)

    def output_size(self, in_features: int) -> int:
        return in_features

    def initial_parameters(self, in_features: int, seed: int, layer: int) -> dict[str, Tensor]:
        return {"weight": [1.0] * in_features, "bias": [0.0] * in_features}

    def forward(self, parameters: Parameters, x: Matrix, mode: Mode) -> Forward:
        ones = [1.0] * len(x[0]) if x else []
        moments = [_moments(row, ones) for row in x]
        n = [_normalize(row, *moments[i], self.eps) for i, row in enumerate(x)]

        def backward(d_output: Matrix) -> tuple[Matrix, dict[str, Tensor]]:
            d_n, gradients = _d_scale_and_shift(d_output, n, parameters)
            d_input = [
                _d_normalize(d_n[i], n[i], ones, math.sqrt(variance + self.eps))
                for i, (_, variance) in enumerate(moments)
            ]
            return d_input, gradients

        return Forward(_scale_and_shift(n, parameters), backward)


@dataclass(frozen=True)
class BatchNorm:
    """Every feature normalised over the rows of its batch. Ioffe and Szegedy (2015).

    In training the statistics are those of the batch, weighted: a row of weight k counts k
    times, a row of weight 0 not at all. In evaluation they are the running ones, which training
    moves: running = (1 - momentum) * running + momentum * batch. There the batch's variance is
    made unbiased by W / (W - 1) if W, the sum of the weights, is at least 2. A batch with fewer
    than two rows of positive weight leaves the running statistics alone.

    Args:
        momentum: share of the newest batch in the running statistics (torch's sense).
        eps: added to the variance.
    """

    _: KW_ONLY
    momentum: float = 0.1
    eps: float = 1e-5

    def __post_init__(self) -> None:
        _check_eps(self.eps)
        if not 0.0 <= self.momentum <= 1.0:
            raise ValueError(f"momentum must lie in [0, 1], got {self.momentum}")

    def output_size(self, in_features: int) -> int:
        return in_features

    def initial_parameters(self, in_features: int, seed: int, layer: int) -> dict[str, Tensor]:
        ones, zeros = [1.0] * in_features, [0.0] * in_features
        return {
            "weight": list(ones),
            "bias": list(zeros),
            "running_mean": list(zeros),
            "running_var": list(ones),
        }

    def forward(self, parameters: Parameters, x: Matrix, mode: Mode) -> Forward:
        if mode.training:
            return self._training(parameters, x, mode)
        return self._evaluation(parameters, x)

    def _training(self, parameters: Parameters, x: Matrix, mode: Mode) -> Forward:
        weights = [1.0] * len(x) if mode.weights is None else mode.weights
        columns = transpose(x)
        moments = [_moments(column, weights) for column in columns]
        pairs = zip(columns, moments, strict=True)
        n_columns = [_normalize(column, *moment, self.eps) for column, moment in pairs]
        n = transpose(n_columns)

        def backward(d_output: Matrix) -> tuple[Matrix, dict[str, Tensor]]:
            d_n, gradients = _d_scale_and_shift(d_output, n, parameters)
            d_columns = [
                _d_normalize(d_column, n_column, weights, math.sqrt(variance + self.eps))
                for d_column, n_column, (_, variance) in zip(
                    transpose(d_n), n_columns, moments, strict=True
                )
            ]
            return transpose(d_columns), gradients

        running = self._running(parameters, moments, weights)
        return Forward(_scale_and_shift(n, parameters), backward, running)

    def _evaluation(self, parameters: Parameters, x: Matrix) -> Forward:
        means = cast(Vector, parameters["running_mean"])
        deviations = [math.sqrt(v + self.eps) for v in cast(Vector, parameters["running_var"])]
        statistics = list(zip(means, deviations, strict=True))
        n = [[(v - m) / s for v, (m, s) in zip(row, statistics, strict=True)] for row in x]

        def backward(d_output: Matrix) -> tuple[Matrix, dict[str, Tensor]]:
            d_n, gradients = _d_scale_and_shift(d_output, n, parameters)
            d_input = [[d / s for d, s in zip(row, deviations, strict=True)] for row in d_n]
            return d_input, gradients

        return Forward(_scale_and_shift(n, parameters), backward)

    def _running(
        self, parameters: Parameters, moments: list[tuple[float, float]], weights: Vector
    ) -> dict[str, Tensor]:
        """The running statistics after this batch; nothing if the batch does not count."""
        if sum(weight > 0.0 for weight in weights) < 2:
            return {}
        count = total(weights)
        unbiased = count / (count - 1.0) if count >= 2.0 else 1.0
        means = [mean for mean, _ in moments]
        variances = [variance * unbiased for _, variance in moments]
        return {
            "running_mean": self._blend(cast(Vector, parameters["running_mean"]), means),
            "running_var": self._blend(cast(Vector, parameters["running_var"]), variances),
        }

    def _blend(self, running: Vector, batch: Vector) -> Vector:
        pairs = zip(running, batch, strict=True)
        return [(1.0 - self.momentum) * r + self.momentum * b for r, b in pairs]


@dataclass(frozen=True)
class Standardize:
    """Every feature by the mean and the variance that it has in the data of the first fit.

    For inputs, as the first layer, and for targets, as the last one, with s = sqrt(variance):

        a = (x - mean) / s       d_x = d_a / s
        a = x * s + mean         d_x = d_a * s

    A variance of 0 says that nothing was measured; that feature passes as it is.

    Args:
        of: "inputs" or "targets".
    """

    _: KW_ONLY
    of: str = "inputs"

    def __post_init__(self) -> None:
        if self.of not in ("inputs", "targets"):
            raise ValueError(f"of must be 'inputs' or 'targets', got {self.of!r}")

    def output_size(self, in_features: int) -> int:
        return in_features

    def initial_parameters(self, in_features: int, seed: int, layer: int) -> dict[str, Tensor]:
        return {"running_mean": [0.0] * in_features, "running_var": [0.0] * in_features}

    def measure(self, values: Matrix, weights: Vector, outputs: int) -> dict[str, Tensor]:
        """Mean and variance of the columns, each for outputs / columns outputs in turn.

        A variance within the error bound of its computation, which grows with the number n of
        rows, is that of a constant, and becomes 1 (Chan, Golub and LeVeque 1983; scikit-learn's
        rule).
        """
        means, variances = [], []
        rounding = sum(weight > 0.0 for weight in weights) * 2.0**-52
        for column in transpose(values):
            mean, variance = _moments(column, weights)
            constant = variance <= rounding * variance + (rounding * mean) ** 2
            means.append(mean)
            variances.append(1.0 if constant else variance)
        each = outputs // len(means)
        return {
            "running_mean": [mean for mean in means for _ in range(each)],
            "running_var": [variance for variance in variances for _ in range(each)],
        }

    def forward(self, parameters: Parameters, x: Matrix, mode: Mode) -> Forward:
        variances = cast(Vector, parameters["running_var"])
        deviations = [math.sqrt(variance) or 1.0 for variance in variances]
        means = [
            mean if variance else 0.0
            for mean, variance in zip(
                cast(Vector, parameters["running_mean"]), variances, strict=True
            )
        ]
        pairs = list(zip(means, deviations, strict=True))
        if self.of == "inputs":
            output = [[(v - m) / s for v, (m, s) in zip(row, pairs, strict=True)] for row in x]
            factors = [1.0 / s for s in deviations]
        else:
            output = [[v * s + m for v, (m, s) in zip(row, pairs, strict=True)] for row in x]
            factors = deviations

        def backward(d_output: Matrix) -> tuple[Matrix, dict[str, Tensor]]:
            d_input = [[d * f for d, f in zip(row, factors, strict=True)] for row in d_output]
            return d_input, {}

        return Forward(output, backward)
