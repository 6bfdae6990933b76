"""Parameters that the drop-ins have beyond scikit-learn's: what they take and what they make."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from inspect import signature
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.metrics import get_scorer_names
from sklearn.neural_network import MLPRegressor, _base
from sklearn.utils import compute_sample_weight
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from .. import _core
from .._arrays import Array, real
from ..activations import _ALIASES, ELU, LeakyReLU, PReLU
from ..callbacks import Callback, Checkpoint, EarlyStopping
from ..errors import ArgumentError, DTypeError
from ..layers import Activation, BatchNorm, Dense, Dropout, Layer, LayerNorm
from ..losses import (
    MSE,
    BinaryCrossEntropy,
    CrossEntropy,
    CustomLoss,
    GaussianNLL,
    Loss,
    Poisson,
    Quantile,
)
from ..losses import get as get_loss
from ..optimizers import LBFGS, SGD, Adam, AdamW, FirstOrder, Optimizer
from ..schedules import Function, Schedule, ScheduleLike

# scikit-learn's activations, by our names.
ACTIVATIONS = {"identity": "identity", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}

CONSTRAINTS: dict[str, list[Any]] = {
    "activation": [
        StrOptions({*ACTIVATIONS, *_core.names("activation"), *_ALIASES}),
        LeakyReLU,
        ELU,
        PReLU,
        list,
        tuple,
    ],
    "solver": [StrOptions({"lbfgs", "sgd", "adam", "adamw"}), Optimizer],
    "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"}), Schedule, callable],
    "dropout": [Interval(Real, 0, 1, closed="left"), list, tuple],
    "normalization": [StrOptions({"batch", "layer"}), None],
    "weight_decay": [Interval(Real, 0, None, closed="left"), None],
    "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
    "clip_value": [Interval(Real, 0, None, closed="neither"), None],
    "scoring": [StrOptions({"loss", *get_scorer_names()}), callable, None],
    "restore_best_weights": ["boolean"],
    "max_time": [Interval(Real, 0, None, closed="neither"), None],
    "callbacks": [list, tuple],
    "progress": ["boolean"],
    "n_ensemble": [Interval(Integral, 1, None, closed="left")],
}
CLASSIFIER = CONSTRAINTS | {
    "loss": [StrOptions({"log_loss"}), HasMethods("value_and_gradient")],
    "class_weight": [StrOptions({"balanced"}), dict, list, None],
}
_REGRESSION = {"mse", "mae", "huber", "quantile", "gaussian_nll"}
REGRESSOR = CONSTRAINTS | {
    "loss": [
        StrOptions({"squared_error", "poisson", *_REGRESSION}),
        HasMethods("value_and_gradient"),
    ],
}

# Parameters that scikit-learn has not, besides the classifier's loss.
_ADDED = (CLASSIFIER | REGRESSOR).keys() - {"activation", "solver", "learning_rate", "loss"}

# What an optimizer that is an object has of its own, and what "lbfgs" has no use for.
_OF_THE_OPTIMIZER = (
    "learning_rate",
    "learning_rate_init",
    "power_t",
    "momentum",
    "nesterovs_momentum",
    "beta_1",
    "beta_2",
    "epsilon",
    "weight_decay",
    "clip_norm",
    "clip_value",
)
_STOCHASTIC = (
    "dropout",
    "normalization",
    "weight_decay",
    "clip_norm",
    "clip_value",
    "scoring",
    "restore_best_weights",
    "max_time",
)


def keep(estimator: Any, given: Mapping[str, Any]) -> None:
    """What a constructor was given, as attributes."""
    for name, value in given.items():
        if name != "self":
            setattr(estimator, name, value)


@cache
def _defaults(kind: Any) -> dict[str, Any]:
    return {name: p.default for name, p in signature(kind).parameters.items()}


def uses_nothing(estimator: Any) -> bool:
    """Whether all is scikit-learn's."""
    kind: Any = type(estimator)
    defaults = _defaults(kind)
    return (
        estimator.solver in ("lbfgs", "sgd", "adam")
        and isinstance(estimator.learning_rate, str)
        and isinstance(estimator.activation, str)
        and estimator.activation in ACTIVATIONS
        and loss_of(estimator) is None
        and all(getattr(estimator, name, None) is defaults.get(name) for name in _ADDED)
    )


def refused_by_core(estimator: Any, y: Array, sample_weight: Array | None) -> bool:
    """Whether scikit-learn takes what the core refuses, so that its own loop has to train."""
    kind = type(estimator)
    return (
        any(
            getattr(kind, name) is not getattr(MLPRegressor, name)
            for name in ("_backprop", "_compute_loss_grad", "_forward_pass")
        )
        or (sample_weight is not None and bool((sample_weight < 0).any()))
        or (estimator.loss == "poisson" and bool((y < 0).any()))
        or (estimator.solver == "sgd" and estimator.momentum == 1)
    )


def check(estimator: Any, *, incremental: bool, validates: bool) -> None:
    """Refuses parameters that would have no effect beside others, before anything changes."""
    kind: Any = type(estimator)
    defaults = _defaults(kind)
    if not validates and uses_nothing(estimator):
        return

    def refuse(where: str, *names: str) -> None:
        for name in names:
            value = getattr(estimator, name, None)
            if name in defaults and value is not defaults[name] and value != defaults[name]:
                raise ArgumentError(f"{name}: expected {defaults[name]!r} {where}, got {value!r}")

    solver, count = estimator.solver, estimator.n_ensemble
    own_rate = not isinstance(estimator.learning_rate, str)
    if isinstance(solver, Optimizer):
        if not isinstance(solver, FirstOrder):
            raise ArgumentError(
                "solver: expected an optimizer whose steps take batches, such as ranvier.Adam(), "
                f"or 'lbfgs', got {solver!r}"
            )
        refuse(f"with solver={solver!r}, which has its own", *_OF_THE_OPTIMIZER)
    elif solver == "lbfgs":
        where = "with solver='lbfgs'"
        refuse(where, *_STOCHASTIC)
        if count == 1:
            refuse(where, "progress")
        if estimator.callbacks:
            refuse(where, "callbacks")
        if own_rate:
            refuse(where, "learning_rate")
        if not isinstance(estimator.activation, str) or estimator.activation not in ACTIVATIONS:
            raise ArgumentError(
                f"activation: expected one of {', '.join(ACTIVATIONS)} {where}, "
                f"got {estimator.activation!r}"
            )
        if loss_of(estimator) is not None:
            refuse(where, "loss")
        if validates:
            raise ArgumentError(f"X_val: expected None {where}, which does not look at it")
    elif own_rate:
        refuse("with a schedule, which has the rates", "learning_rate_init")
    elif solver == "adamw":
        refuse("(or a schedule) with solver='adamw'", "learning_rate")
    if solver != "adamw":
        refuse("unless solver='adamw'", "weight_decay")
    if not estimator.early_stopping:
        refuse("unless early_stopping=True", "scoring")
    if incremental:
        refuse("in partial_fit, which has one epoch", "restore_best_weights")
        if getattr(estimator, "class_weight", None) == "balanced":
            raise ArgumentError(
                "class_weight: expected weights by class in partial_fit, which does not see all "
                "rows, got 'balanced'"
            )
    if count > 1:
        where = f"with n_ensemble={count}"
        refuse(where, "warm_start")
        if estimator.callbacks:
            refuse(f"{where}, whose members are trained at once", "callbacks")
        if incremental:
            raise ArgumentError(f"n_ensemble: expected 1 in partial_fit, got {count}")
    _check_callbacks(estimator.callbacks)
    layers_of(estimator, [1] * (len(hidden(estimator)) + 2))
    loss = loss_of(estimator)
    several = isinstance(loss, Quantile) and outputs_of(loss, 1) > 1
    if several and estimator.early_stopping and estimator.scoring is None:
        raise ArgumentError(
            "scoring: expected 'loss' or a scorer for the early stopping of several quantiles, "
            "which have no R², got None"
        )


def _check_callbacks(callbacks: Any) -> None:
    for number, hook in enumerate(callbacks):
        name = f"callbacks[{number}]"
        if not isinstance(hook, Callback):
            raise DTypeError(f"{name}: expected an object of ranvier.Callback, got {hook!r}")
        if isinstance(hook, EarlyStopping):
            raise ArgumentError(
                f"{name}: expected early_stopping=True (with scoring, n_iter_no_change and tol) "
                f"to stop early, got {hook!r}"
            )
        if isinstance(hook, Checkpoint) and hook.best_only:
            raise ArgumentError(
                f"{name}: expected best_only=False, for the estimator itself keeps the best "
                f"weights, got {hook!r}"
            )


def hidden(estimator: Any) -> list[int]:
    """Sizes of the hidden layers."""
    sizes = estimator.hidden_layer_sizes
    return list(sizes) if hasattr(sizes, "__iter__") else [sizes]


def _each(value: Any, count: int, name: str) -> list[Any]:
    """A value for each hidden layer."""
    if not isinstance(value, list | tuple):
        return [value] * count
    if len(value) != count:
        raise ArgumentError(
            f"{name}: expected one entry for each of {count} hidden layers, got {value!r}"
        )
    return list(value)


def activations_of(estimator: Any, count: int) -> list[Any]:
    """The activation of each hidden layer, by our names."""
    return [
        ACTIVATIONS.get(activation, activation) if isinstance(activation, str) else activation
        for activation in _each(estimator.activation, count, "activation")
    ]


def layers_of(estimator: Any, units: list[int], penalty: float = 0.0) -> list[Layer]:
    """The network's layers. `units` are those of input, hidden layers and output."""
    layers: list[Layer] = []
    count = len(units) - 2
    activations = activations_of(estimator, count)
    dropout = _each(estimator.dropout, count, "dropout")
    for size, activation, rate in zip(units[1:-1], activations, dropout, strict=True):
        if estimator.normalization is None:
            layers.append(Dense(int(size), activation, l2=penalty))
        else:
            layers.append(Dense(int(size), l2=penalty))
            layers.append(BatchNorm() if estimator.normalization == "batch" else LayerNorm())
            layers.append(Activation(activation))
        if real(rate, "dropout", least=0.0, most=1.0, open_most=True) > 0:
            layers.append(Dropout(rate))
    layers.append(Dense(int(units[-1]), l2=penalty))
    return layers


def is_plain(estimator: Any) -> bool:
    """Whether coefs_ and intercepts_ are the whole network, and scikit-learn can run it."""
    own = isinstance(estimator.activation, str) and estimator.activation in ACTIVATIONS
    drops = estimator.dropout
    drops = any(drops) if isinstance(drops, list | tuple) else drops > 0
    return own and estimator.normalization is None and not drops


def optimizer_of(estimator: Any, solver: Any, rate: Any) -> Optimizer:
    """The optimizer; `rate` is a function of the epoch that scikit-learn's rules change."""
    if isinstance(solver, FirstOrder):
        return solver
    if solver == "lbfgs":
        return LBFGS(tolerance_grad=float(estimator.tol))
    learning_rate: ScheduleLike = rate.value
    if not isinstance(estimator.learning_rate, str):
        learning_rate = estimator.learning_rate
    elif solver == "sgd" and estimator.learning_rate != "constant":
        learning_rate = Function(rate, per="epoch")
    given = {
        "learning_rate": learning_rate,
        "clip_norm": estimator.clip_norm,
        "clip_value": estimator.clip_value,
    }
    if solver == "sgd":
        return SGD(
            momentum=float(estimator.momentum),
            nesterov=bool(estimator.nesterovs_momentum),
            dialect="sklearn",
            **given,
        )
    given |= {
        "beta1": float(estimator.beta_1),
        "beta2": float(estimator.beta_2),
        "eps": float(estimator.epsilon),
    }
    if solver == "adamw":
        return AdamW(weight_decay=estimator.weight_decay, **given)
    return Adam(dialect="sklearn", **given)


def loss_of(estimator: Any) -> Loss | CustomLoss | None:
    """The loss; None for scikit-learn's own."""
    name = estimator.loss
    if isinstance(name, str) and name in ("squared_error", "poisson", "log_loss"):
        return None
    loss = get_loss(name)
    classes = isinstance(loss, CrossEntropy | BinaryCrossEntropy)
    if isinstance(loss, Loss) and classes != is_classifier(estimator):
        kind = "classification" if is_classifier(estimator) else "regression"
        raise ArgumentError(f"loss: expected one of {kind}, got {loss!r}")
    return loss


def trained_loss(
    estimator: Any, loss: Loss | CustomLoss | None
) -> tuple[Loss | CustomLoss, tuple[float, float, bool, bool]]:
    """The loss of the training, and by what scikit-learn's and its gradient differ from ours."""
    several = estimator.n_outputs_
    squashed = estimator.out_activation_
    if isinstance(loss, CrossEntropy) and squashed != "softmax":
        raise ArgumentError(
            f"loss: expected BinaryCrossEntropy for two classes or labels, got {loss!r}"
        )
    if isinstance(loss, BinaryCrossEntropy) and squashed != "logistic":
        raise ArgumentError(f"loss: expected CrossEntropy for more than two classes, got {loss!r}")
    if loss is not None:
        return loss, (1.0, 1.0, True, False)
    if squashed == "softmax":
        return CrossEntropy(), (1.0, 1.0, True, True)
    if squashed == "logistic":
        return BinaryCrossEntropy(), (float(several), float(several), True, True)
    if squashed == "exp":
        return Poisson(), (float(several), float(several), True, False)
    return MSE(), (0.5, 0.5 * several, True, False)


def outputs_of(loss: Loss | CustomLoss | None, targets: int) -> int:
    """How many outputs a loss wants for so many columns of y."""
    if isinstance(loss, GaussianNLL):
        return 2 * targets
    return targets * len(loss._levels()) if isinstance(loss, Quantile) else targets


def activated(estimator: Any, raw: Array) -> Array:
    """What is predicted, from the network's raw outputs."""
    outputs = raw.copy()
    _base.ACTIVATIONS[estimator.out_activation_](outputs)
    return predicted(estimator, outputs)


def predicted(estimator: Any, outputs: Array) -> Array:
    """Of a Gaussian the means."""
    gaussian = isinstance(estimator._loss, GaussianNLL)
    return outputs[:, : estimator.n_outputs_] if gaussian else outputs


def targets_of(loss: Loss | CustomLoss, estimator: Any, y: Array, dtype: Any) -> Array:
    """y, as scikit-learn's estimators have it, as a loss takes it."""
    if is_classifier(estimator) and estimator.out_activation_ == "softmax":
        labels: Array = y.argmax(axis=1)
        return labels
    return y.astype(dtype) if y.dtype == bool else y


def weighted(estimator: Any, y: Array, sample_weight: Array | None, dtype: Any) -> Array | None:
    """The rows' weights times those of their classes."""
    wanted = getattr(estimator, "class_weight", None)
    if wanted is None:
        return sample_weight
    factors = class_factors(wanted, estimator._label_binarizer.inverse_transform(y))
    return np.asarray(factors if sample_weight is None else sample_weight * factors, dtype)


def class_factors(class_weight: Any, labels: Array) -> Array:
    """For each row the weight of its class."""
    factors: Array = compute_sample_weight(class_weight, labels)
    if not (np.isfinite(factors).all() and factors.min() >= 0 and factors.any()):
        raise ArgumentError(
            f"class_weight: expected finite numbers, 0 or more, not all 0, got {class_weight!r}"
        )
    return factors
