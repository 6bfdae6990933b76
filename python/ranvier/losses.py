"""Losses: definitions, and values and gradients of the network's raw output.

z raw output (n rows, K outputs), y target, w sample weights. A loss is Σ wᵢ·lᵢ / Σ wᵢ, where lᵢ is
the mean over the elements of row i (for cross-entropy, the row's own loss); without weights it is
the mean over rows. The gradient is that of the reported value. A weight k equals the row repeated
k times, weight 0 the row removed.

A loss of one's own is any object with

    value_and_gradient(output, target, sample_weight=None) -> (float, array like output)

It is called for each batch with a copy of the output (n, K), the batch's rows of whatever y was
given, and their weights if there are any. It may follow any convention; ours is the mean above.

    >>> import numpy as np, ranvier as rv
    >>> value, d_output = rv.losses.MSE().value_and_gradient(np.array([[1.0, 2.0]]), [[0.0, 0.0]])
    >>> value, d_output.tolist()
    (2.5, [[1.0, 2.0]])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from . import _core
from ._arrays import Array, empty, features, integer, matrix, numeric, plain, real, weights
from ._definitions import Definition
from .errors import ArgumentError, DTypeError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

__all__ = [
    "MAE",
    "MSE",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "CustomLoss",
    "GaussianNLL",
    "Huber",
    "Loss",
    "Poisson",
    "Quantile",
]


def _numbers(values: Any) -> tuple[Any, ...]:
    """The entries as Python's own numbers, for a definition."""
    return tuple(value.item() if isinstance(value, np.generic) else value for value in values)


@runtime_checkable
class CustomLoss(Protocol):
    """A loss written in Python; see the module's text."""

    def value_and_gradient(
        self, output: Array, target: Any, sample_weight: Array | None = None
    ) -> tuple[float, ArrayLike]:
        """The loss of `output`, shape (n, K), and its gradient, of the same shape."""


@dataclass(frozen=True, repr=False, eq=False)
class Loss(Definition):
    """Base of the core's losses."""

    def _spec(self) -> tuple[str, list[float]]:
        raise DTypeError("loss: expected one such as ranvier.losses.MSE(), got the base class")

    def targets(self, y: ArrayLike, dtype: DTypeLike, name: str = "y") -> dict[str, Array]:
        """Targets as the core takes them: {"values": (n, columns)} or {"labels": (n,)}."""
        return {"values": matrix(y, dtype, name)}

    def value_and_gradient(
        self, output: ArrayLike, target: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> tuple[float, Array]:
        """The loss of raw outputs and its gradient with respect to them.

        Args:
            output: z, shape (n, K); float32 stays float32, all else is float64.
            target: as the loss takes it.
            sample_weight: shape (n,), 0 or more.

        Returns:
            The value and an array of output's shape.

        Raises:
            ShapeError, ArgumentError, DTypeError: the arrays do not fit the loss or each other.
        """
        z = features(output, np.float64, "output")
        dtype = np.dtype(np.float32 if z.dtype == np.float32 else np.float64)
        if 0 in z.shape:
            raise ShapeError(f"output: expected at least one row and column, got shape {z.shape}")
        arrays = arrays_of(z, target, sample_weight, self, dtype, target_name="target")
        d_output = empty(z.shape, dtype)
        value = _core.loss_value_and_gradient(self._spec(), arrays, d_output)
        return value, d_output


@dataclass(frozen=True, repr=False, eq=False)
class MSE(Loss):
    """Squared error (z − y)², a mean over all n·K elements.

    Target: (n, K), or (n,) for one output. Gradient 2(z−y)/(nK). As in PyTorch and Keras;
    scikit-learn's MLP reports ½ of it and follows a gradient K times as large.
    """

    def _spec(self) -> tuple[str, list[float]]:
        return "mse", []


@dataclass(frozen=True, repr=False, eq=False)
class MAE(Loss):
    """Absolute error |z − y|, a mean over all n·K elements; gradient 0 where z = y.

    Target: (n, K), or (n,) for one output.
    """

    def _spec(self) -> tuple[str, list[float]]:
        return "mae", []


@dataclass(frozen=True, repr=False, eq=False)
class Huber(Loss):
    """½d² where |d| < delta, else delta·(|d| − ½delta), with d = z − y (Huber 1964).

    Target: (n, K), or (n,) for one output. PyTorch's `SmoothL1Loss(beta)` is this divided by beta.
    """

    _: KW_ONLY
    delta: float = 1.0

    def __post_init__(self) -> None:
        real(self.delta, "delta", least=0.0, open_least=True)
        plain(self)

    def _spec(self) -> tuple[str, list[float]]:
        return "huber", [float(self.delta)]


@dataclass(frozen=True, repr=False, eq=False)
class Quantile(Loss):
    """Pinball loss max(q·d, (q−1)·d) with d = y − z; its minimum is the q-quantile.

    With Q quantiles and targets of T columns the network has K = T·Q outputs, column t·Q + j being
    quantile j of target t. Gradient 0 at d = 0 (Koenker and Bassett 1978).

    Args:
        q: one number, or several, strictly between 0 and 1.
    """

    q: float | Sequence[float] = 0.5

    def __post_init__(self) -> None:
        if isinstance(self.q, list | tuple | np.ndarray):
            object.__setattr__(self, "q", _numbers(self.q))
        if self._levels() == []:
            raise ArgumentError("q: expected at least one quantile, got none")
        for q in self._levels():
            real(q, "q", least=0.0, most=1.0, open_least=True, open_most=True)
        plain(self)

    def _levels(self) -> list[Any]:
        return list(self.q) if isinstance(self.q, tuple) else [self.q]

    def _spec(self) -> tuple[str, list[float]]:
        return "quantile", [float(q) for q in self._levels()]


@dataclass(frozen=True, repr=False, eq=False)
class Poisson(Loss):
    """e^z − y·z, a mean over all n·K elements; e^z is the predicted rate.

    Target: counts, 0 or more, (n, K) or (n,). As `torch.nn.PoissonNLLLoss(log_input=True)`.
    """

    def _spec(self) -> tuple[str, list[float]]:
        return "poisson", []


@dataclass(frozen=True, repr=False, eq=False)
class GaussianNLL(Loss):
    """½(s + (m−y)²·e^−s), a mean over n·T elements; m means and s log-variances.

    The outputs are [T means | T log-variances].

    Target: (n, T), or (n,) for T = 1, where the network has 2T outputs. Without the constant
    ½ln 2π. PyTorch's `GaussianNLLLoss` takes the variance itself and clamps it.
    """

    def _spec(self) -> tuple[str, list[float]]:
        return "gaussian_nll", []


@dataclass(frozen=True, repr=False, eq=False)
class CrossEntropy(Loss):
    """−log p_y with p = softmax(z), a mean over rows.

    Target: integer labels 0..K−1 of shape (n,) or (n, 1), or probabilities of shape (n, K), rows
    summing to 1 (−Σ y_k·log p_k). Labels out of range are refused, always. The softmax is the
    loss's own: the last layer has none, and the predicted class is `output.argmax(axis=1)`.

    Args:
        label_smoothing: ε in [0, 1): the target becomes (1−ε)·y + ε/K.
    """

    _: KW_ONLY
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        real(self.label_smoothing, "label_smoothing", least=0.0, most=1.0, open_most=True)
        plain(self)

    def _spec(self) -> tuple[str, list[float]]:
        return "cross_entropy", [float(self.label_smoothing)]

    def targets(self, y: ArrayLike, dtype: DTypeLike, name: str = "y") -> dict[str, Array]:
        """Integer labels, or rows of probabilities."""
        array = numeric(y, name, dtype)
        if array.ndim == 2 and array.shape[1] > 1:
            return {"values": array}
        if array.ndim == 0 or array.ndim > 2:
            raise ShapeError(
                f"{name}: expected labels of shape (rows,) or probabilities of shape "
                f"(rows, outputs), got shape {array.shape}"
            )
        if array.dtype.kind == "f":
            raise DTypeError(
                f"{name}: expected integer class labels (or probabilities of shape "
                f"(rows, outputs)), got dtype {array.dtype} with shape {array.shape}; "
                f"make them integers if they are labels (.astype(int))"
            )
        return {"labels": array.reshape(-1) if array.ndim == 2 else array}


@dataclass(frozen=True, repr=False, eq=False)
class BinaryCrossEntropy(Loss):
    """(1−y)·z − (1+(p−1)·y)·logsigmoid(z), a mean over all n·K elements, from logits z.

    logsigmoid(z) = min(z, 0) − log1p(e^−|z|). Target: values from 0 to 1, (n, K), or (n,) for one
    output. As `torch.nn.BCEWithLogitsLoss`: the last layer has no sigmoid, and a class is predicted
    where the output is above 0.

    Args:
        pos_weight: p, the weight of positive targets: one number, or one for each output.
    """

    _: KW_ONLY
    pos_weight: float | Sequence[float] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.pos_weight, list | tuple | np.ndarray):
            object.__setattr__(self, "pos_weight", _numbers(self.pos_weight))
        for p in self._weights():
            real(p, "pos_weight", least=0.0, open_least=True)
        plain(self)

    def _weights(self) -> list[Any]:
        if self.pos_weight is None:
            return []
        return list(self.pos_weight) if isinstance(self.pos_weight, tuple) else [self.pos_weight]

    def _spec(self) -> tuple[str, list[float]]:
        return "binary_cross_entropy", [float(p) for p in self._weights()]


LossLike: TypeAlias = str | Loss | CustomLoss

BY_NAME: dict[str, type[Loss]] = {
    "mse": MSE,
    "mae": MAE,
    "huber": Huber,
    "quantile": Quantile,
    "poisson": Poisson,
    "gaussian_nll": GaussianNLL,
    "cross_entropy": CrossEntropy,
    "binary_cross_entropy": BinaryCrossEntropy,
}


def get(loss: LossLike) -> Loss | CustomLoss:
    """The loss of that name with its defaults; objects pass as they are."""
    if isinstance(loss, str):
        if loss not in BY_NAME:
            raise ArgumentError(f"loss: expected one of {', '.join(BY_NAME)}, got {loss!r}")
        return BY_NAME[loss]()
    if isinstance(loss, type) or not isinstance(loss, CustomLoss):
        raise DTypeError(
            "loss: expected a name, an object of ranvier.losses, or an object with the method "
            f"value_and_gradient(output, target, sample_weight=None), got {loss!r}"
        )
    return loss


def arrays_of(
    X: Array,
    y: Any,
    sample_weight: ArrayLike | None,
    loss: Loss | CustomLoss,
    dtype: DTypeLike,
    *,
    prefix: str = "",
    suffix: str = "",
    target_name: str = "y",
) -> dict[str, Any]:
    """X, y and weights as the core takes them; a custom loss has its targets under "own"."""
    arrays: dict[str, Any] = dict.fromkeys(("values", "labels", "weights", "own"))
    arrays["x"] = X
    arrays["given"] = (None, None)
    name = prefix + target_name + suffix
    if isinstance(loss, Loss):
        targets = loss.targets(y, dtype, name)
        arrays.update(targets)
        for array in targets.values():
            _check_length(name, array, X)
    else:
        arrays["own"] = _own_targets(y, name)
        _check_length(name, arrays["own"], X)
    if sample_weight is not None:
        arrays["weights"] = weights(sample_weight, X.shape[0], f"{prefix}sample_weight{suffix}")
    return arrays


ClassWeight: TypeAlias = str | Mapping[int, float] | Sequence[str | Mapping[int, float]]


def checked_class_weight(class_weight: Any) -> Any:
    """Class weights as a file keeps them: "balanced", pairs, or a list of either."""
    if class_weight is None or class_weight == "balanced":
        return class_weight
    if isinstance(class_weight, Mapping):
        pairs = []
        for label, weight in class_weight.items():
            integer(label, "class_weight, a class", least=0, most=2**31)
            pairs.append((int(label), real(weight, f"class_weight[{label}]", least=0.0)))
        return tuple(sorted(pairs))
    if isinstance(class_weight, list | tuple) and class_weight and None not in class_weight:
        return [checked_class_weight(entry) for entry in class_weight]
    raise DTypeError(
        "class_weight: expected None, 'balanced', a dict of weights by class, or a list of such "
        f"for several outputs, got {class_weight!r}"
    )


def class_weighted(
    arrays: dict[str, Any],
    class_weight: Any,
    loss: Loss | CustomLoss,
    outputs: int,
    own: Array | None = None,
) -> dict[str, Any]:
    """The arrays with weights that the classes of their targets ask for, counted in `own` rows."""
    some: Any = slice(None) if own is None else own
    labels, values = arrays["labels"], arrays["values"]
    if labels is None and not isinstance(loss, CrossEntropy | BinaryCrossEntropy):
        raise ArgumentError(
            f"class_weight: expected None for a loss without classes, {loss!r}, "
            f"got {class_weight!r}"
        )
    binary = isinstance(loss, BinaryCrossEntropy)
    several = isinstance(class_weight, list)
    if several and len(class_weight) != (outputs if binary else 1):
        raise ArgumentError(
            f"class_weight: expected one entry for each of {outputs if binary else 1} outputs, "
            f"got {len(class_weight)}"
        )
    rows = arrays["x"].shape[0]
    weight = np.ones(rows) if arrays["weights"] is None else arrays["weights"].astype(float)
    if labels is not None:
        if labels.size and labels.min() >= 0 and labels.max() < outputs:
            wanted = class_weight[0] if several else class_weight
            counts = np.bincount(labels[some], minlength=outputs)
            weight *= _by_class(counts, wanted)[labels]
        # Else the core says which label is none.
    elif binary:
        for number, column in enumerate(values.reshape(rows, -1).T):
            shares = np.column_stack([1.0 - column, column])
            wanted = class_weight[number] if several else class_weight
            weight *= shares @ _by_class(shares[some].sum(axis=0), wanted)
    else:
        wanted = class_weight[0] if several else class_weight
        weight *= values @ _by_class(values[some].sum(axis=0), wanted)
    return arrays | {"weights": weight}


def _by_class(counts: Array, wanted: Any) -> Array:
    """The weight of each class, of which there are so many rows."""
    factors = np.ones(len(counts))
    if wanted == "balanced":
        present = counts > 0
        factors[present] = counts.sum() / (present.sum() * counts[present])
        return factors
    for label, value in wanted:
        if label >= len(counts):
            raise ArgumentError(
                f"class_weight: expected classes from 0 to {len(counts) - 1}, got {label}"
            )
        factors[label] = value
    return factors


def _own_targets(y: Any, name: str) -> Any:
    """Targets of a custom loss: anything with rows; lists become arrays, pandas stays pandas."""
    if hasattr(type(y), "iloc"):
        return y
    try:
        array = np.asarray(y)
    except Exception as error:
        raise ArgumentError(
            f"{name}: expected something that NumPy makes an array from, "
            f"got {type(y).__name__} ({str(error)[:200]})"
        ) from error
    if array.ndim == 0:
        raise ShapeError(f"{name}: expected one entry for each row, got {type(y).__name__}")
    return array


def _check_length(name: str, y: Any, X: Array) -> None:
    if y.shape[0] != X.shape[0]:
        raise ShapeError(
            f"{name}: expected {X.shape[0]} rows, as many as "
            f"{'output' if name == 'target' else 'X'} has, got shape {tuple(y.shape)}"
        )


class Adapter:
    """Carries a custom loss across the border: arrays that the core fills, and the call."""

    def __init__(self, loss: CustomLoss, outputs: int, rows: int, dtype: DTypeLike) -> None:
        self._loss = loss
        self._output = empty((rows, outputs), dtype)
        self._d_output = empty((rows, outputs), dtype)
        self._rows = empty((rows,), np.uint32)
        self._data: list[dict[str, Any]] = []

    def add(self, arrays: dict[str, Any]) -> None:
        """First those of the data, then those of the validation data; looked at in each call."""
        self._data.append(arrays)

    def spec(self) -> dict[str, Any]:
        """What the core takes."""
        return {
            "call": self._call,
            "output": self._output,
            "rows": self._rows,
            "d_output": self._d_output,
        }

    def _call(self, validation: bool, count: int) -> float:
        y, sample_weight = (self._data[validation][name] for name in ("own", "weights"))
        rows = self._rows[:count]
        output = self._output[:count].copy()
        target = y.iloc[rows] if hasattr(type(y), "iloc") else y[rows]
        if sample_weight is None:
            result = self._loss.value_and_gradient(output, target)
        else:
            weight = sample_weight[rows]
            result = self._loss.value_and_gradient(output, target, sample_weight=weight)
        try:
            value, gradient = result
            value = float(value)
            gradient = np.asarray(gradient)
            if gradient.dtype.kind not in "fiub":
                raise TypeError(f"a gradient of dtype {gradient.dtype}")
        except (TypeError, ValueError, OverflowError) as error:
            raise ArgumentError(
                "loss: expected value_and_gradient to return (float, array), "
                f"got {type(result).__name__} ({error})"
            ) from error
        if gradient.shape != output.shape:
            raise ShapeError(
                f"loss: expected a gradient of the output's shape {output.shape}, "
                f"got {gradient.shape}"
            )
        with np.errstate(over="ignore"):
            self._d_output[:count] = gradient
        return value
