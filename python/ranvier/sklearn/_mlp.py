"""The drop-ins of scikit-learn's multi-layer perceptron."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
from scipy.sparse import issparse
from sklearn import neural_network
from sklearn.base import _fit_context
from sklearn.neural_network import _base
from sklearn.utils.validation import check_is_fitted, validate_data

from .._arrays import Array
from ..errors import ArgumentError
from ..layers import Dense
from ..losses import GaussianNLL, Poisson
from ..model import Sequential
from ..optimizers import FirstOrder
from . import _ensemble
from ._interchange import Interchange
from ._options import (
    ACTIVATIONS,
    CLASSIFIER,
    REGRESSOR,
    activated,
    activations_of,
    check,
    hidden,
    keep,
    loss_of,
    outputs_of,
    predicted,
    refused_by_core,
    uses_nothing,
    weighted,
)
from ._training import Loop, Run, Search
from ._validation import HeldOut, checked

if TYPE_CHECKING:
    from collections.abc import Iterator


_Kind = TypeVar("_Kind")

# What both docstrings say of the parameters that both have.
_ADDED = """\
    Added:
        activation: any activation of ranvier too, by name or as an object, or a list with one for
            each hidden layer. Initial weights are drawn as scikit-learn does (a factor of 2 for
            "logistic", which is "sigmoid", 6 for all others).
        solver: "adamw" too, with `beta_1`, `beta_2` and `epsilon`; or an optimizer of ranvier
            whose steps take batches (`SGD`, `Adam`, `AdamW`), with all its own options. alpha is a
            penalty of the loss with each of them.
        learning_rate: a schedule of `ranvier.schedules`, or a function of the steps done, in place
            of learning_rate_init, for "sgd", "adam" and "adamw". ReduceOnPlateau watches the loss,
            or that of the validation rows. A schedule is made for so many epochs: there is no
            ConvergenceWarning at its end (n_iter_no_change=np.inf never stops before it).
        dropout: share of each hidden layer's activations that a training step sets to 0 (Srivastava
            et al. 2014), or a list with one for each hidden layer.
        normalization: "batch" or "layer", between the product of each hidden layer and its
            activation, as in the papers (Ioffe and Szegedy 2015; Ba et al. 2016).
        weight_decay: of "adamw", decoupled from the loss; None for 0.01.
        clip_norm: largest norm of a step's gradient, over all parameters; "sgd", "adam", "adamw".
        clip_value: largest absolute value of an entry of it; not together with clip_norm.
        scoring: what early_stopping=True watches: a name or a function (estimator, X, y) of
            scikit-learn's scorers, or "loss"; None for accuracy or R². `validation_scores_` has
            them, of the loss the negative.
        restore_best_weights: leave the parameters of the epoch with the lowest loss of the
            validation rows or, without these, of the training. early_stopping=True always leaves
            those of the best score.
        max_time: seconds after which a fit ends with the step in progress; of an ensemble, of all
            its members together, which share them and make at least one step each.
        callbacks: objects of `ranvier.Callback`. The trainer that they are given has the network as
            `model`; `logs` has epoch, step, loss, learning_rate, seconds and, where there are
            validation rows, val_loss and (with early_stopping) val_score. scikit-learn's `clone`
            copies them.
        progress: show the epochs, or the members of an ensemble, on standard error if that is a
            terminal.
        n_ensemble: how many networks to train, at once, one on each core; they differ by their
            random_state, drawn from the estimator's. Probabilities, or outputs, are averaged. They
            are the list `estimators_`, each as if it had been trained alone; what belongs to one
            network (`coefs_`, `loss_curve_`, `model_`) they have each, the ensemble has not.
            Neither `partial_fit` nor warm_start; Ctrl-C leaves no new members.
"""


def _documented(kind: type[_Kind]) -> type[_Kind]:
    kind.__doc__ = (kind.__doc__ or "").replace("    ADDED\n", _ADDED)
    return kind


class _Fast(Interchange):
    """What both have in place of scikit-learn's, and beyond it."""

    # What scikit-learn's `fit` has no place for: validation rows, and a solver of ours.
    _given: Any = None
    _solver: Any = None
    # scikit-learn's loss, and a network that its forward pass can run.
    _loss: Any = None
    _layers: Any = None
    # Parameters besides coefs_ and intercepts_, and those of the best epoch.
    _extra: Any = None
    _best_extra: Any = None

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Fits the network.

        Args:
            X: (n_samples, n_features), dense or CSR or CSC.
            y: (n_samples,) or (n_samples, n_outputs).
            sample_weight: (n_samples,), 0 or more.
            X_val: validation rows, (n_val, n_features). After each epoch their loss goes into
                `validation_loss_curve_`; with early_stopping=True they are scored in place of
                rows split from X. The names are those of scikit-learn's HistGradientBoosting, so
                that `Pipeline(..., transform_input=["X_val"])` transforms them.
            y_val: their targets.
            sample_weight_val: (n_val,), their weights; class_weight does not touch these.

        Returns:
            The estimator.
        """
        given = (X_val, y_val, sample_weight_val)
        if X_val is None and y_val is None and sample_weight_val is not None:
            raise ValueError("sample_weight_val is provided, but X_val was not provided.")
        self._given = None if X_val is None and y_val is None else given
        try:
            return self._fit(X, y, sample_weight=sample_weight, incremental=False)
        finally:
            vars(self).pop("_given", None)

    def __sklearn_is_fitted__(self) -> bool:
        # A fit that failed or was interrupted may have left `classes_` alone.
        return hasattr(self, "coefs_") or hasattr(self, "estimators_")

    def _fit(self, X: Any, y: Any, sample_weight: Any = None, incremental: bool = False) -> Self:
        estimator: Any = self
        check(self, incremental=incremental, validates=self._given is not None)
        if estimator.n_ensemble > 1:
            _ensemble.fit(self, X, y, sample_weight, self._given)
            return self
        with self._as_scikit_learns():
            super()._fit(X, y, sample_weight, incremental)  # type: ignore[misc]
        return self

    @contextmanager
    def _as_scikit_learns(self) -> Iterator[None]:
        """Calls a solver of ours "adam" meanwhile, which scikit-learn's `_fit` trains by epochs."""
        solver = self.solver  # type: ignore[has-type]
        self._solver = solver
        if solver not in ("lbfgs", "sgd", "adam"):
            self.solver = "adam"
        try:
            yield
        finally:
            self.solver = solver
            vars(self).pop("_solver", None)

    def _check_solver(self) -> bool:
        estimator: Any = self
        if estimator.n_ensemble > 1:
            raise AttributeError("partial_fit is only available with n_ensemble=1")
        ours = isinstance(estimator.solver, FirstOrder) or estimator.solver == "adamw"
        return ours or super()._check_solver()  # type: ignore[misc]

    def _initialize(self, y: Array, layer_units: list[int], dtype: Any) -> None:
        loss = loss_of(self)
        vars(self).pop("estimators_", None)
        self._extra = self._best_extra = None
        self.validation_loss_curve_: list[float] | None = None
        units = [*layer_units[:-1], outputs_of(loss, layer_units[-1])]
        super()._initialize(y, units, dtype)  # type: ignore[misc]
        if isinstance(loss, Poisson):
            self.out_activation_ = "exp"

    def _init_coef(self, fan_in: int, fan_out: int, dtype: Any) -> Any:
        estimator: Any = self
        if isinstance(estimator.activation, str) and estimator.activation != "sigmoid":
            return super()._init_coef(fan_in, fan_out, dtype)  # type: ignore[misc]
        # As there, where one activation stands for all layers.
        activations = activations_of(self, len(hidden(self))) or [None]
        number = min(len(estimator.coefs_), len(activations) - 1)
        factor = 2.0 if activations[number] == "sigmoid" else 6.0
        bound = np.sqrt(factor / (fan_in + fan_out))
        draw = estimator._random_state.uniform
        coef = draw(-bound, bound, (fan_in, fan_out)).astype(dtype, copy=False)
        return coef, draw(-bound, bound, fan_out).astype(dtype, copy=False)

    def _fit_lbfgs(self, X: Any, y: Array, sample_weight: Array | None, *rest: Any) -> None:
        estimator: Any = self
        sample_weight = weighted(self, y, sample_weight, X.dtype)
        if refused_by_core(estimator, y, sample_weight):
            self._loss = self._layers = self._extra = None
            super()._fit_lbfgs(X, y, sample_weight, *rest)  # type: ignore[misc]
            return
        _check_count(estimator, rest[-1])
        # SciPy searches in float64 whatever X is.
        for arrays in (estimator.coefs_, estimator.intercepts_):
            arrays[:] = [array.astype(np.float64) for array in arrays]
        run = Run(estimator, np.dtype(np.float64))
        Search(run, estimator, X, y, sample_weight, False, None).run()

    def _fit_stochastic(self, X: Any, y: Array, sample_weight: Array | None, *rest: Any) -> None:
        estimator: Any = self
        *_, layer_units, incremental = rest
        sample_weight = weighted(self, y, sample_weight, X.dtype)
        plain = self._given is None and uses_nothing(estimator)
        if plain and refused_by_core(estimator, y, sample_weight):
            vars(self).pop("_run", None)
            self._loss = self._layers = self._extra = None
            super()._fit_stochastic(X, y, sample_weight, *rest)  # type: ignore[misc]
            return
        vars(self).pop("_optimizer", None)
        if estimator.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        _check_count(estimator, layer_units)
        validation = None if self._given is None else checked(self, *self._given)
        if not incremental or not hasattr(self, "_run"):
            # A warm start keeps the type of its coefficients.
            self._run = Run(estimator, np.result_type(X.dtype, estimator.coefs_[0]))
        else:
            self._run.follow(estimator)
        Loop(self._run, estimator, X, y, sample_weight, incremental, validation).run()

    def _score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        estimator: Any = self
        if estimator.scoring is not None and isinstance(X, HeldOut):
            return X.score()
        return super()._score(X, y, sample_weight)  # type: ignore[misc, no-any-return]

    def _forward_pass_fast(self, X: Any, check_input: bool = True) -> Any:
        if isinstance(X, HeldOut):
            return X.outputs()
        if hasattr(self, "estimators_"):
            return _ensemble.mean(self, X, check_input)
        if self._layers is not None:
            return activated(self, self._raw(X, check_input))
        outputs = self._plain_outputs(X) if check_input else None
        if outputs is None:
            outputs = super()._forward_pass_fast(X, check_input)  # type: ignore[misc]
        return predicted(self, outputs)

    def _plain_outputs(self, X: Any) -> Any:
        """scikit-learn's arithmetic without its checks, where X needs none; else None.

        They take ten times as long as a row on its way through the network.
        """
        fitted = vars(self)
        if (
            type(X) is not np.ndarray
            or X.ndim != 2
            or X.dtype.char not in "fd"
            or X.shape[1] != fitted.get("n_features_in_")
            or X.shape[0] == 0
            # An initialisation that was interrupted has fewer.
            or len(fitted.get("coefs_", ())) + 1 != fitted.get("n_layers_")
            or self._layers is not None
            or "feature_names_in_" in fitted
            # The sum of squares is finite only if every number is.
            or not math.isfinite(np.vdot(X, X))
        ):
            return None
        squash, last = _base.ACTIVATIONS[fitted["activation"]], len(fitted["coefs_"]) - 1
        for layer, coef in enumerate(fitted["coefs_"]):
            X = X @ coef
            X += fitted["intercepts_"][layer]
            if layer < last:
                squash(X)
        _base.ACTIVATIONS[fitted["out_activation_"]](X)
        return X

    def _raw(self, X: Any, check_input: bool) -> Array:
        """The network's outputs."""
        if check_input:
            X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        return self.model_.predict(X.toarray() if issparse(X) else X)

    @property
    def model_(self) -> Sequential:
        """The network: a new model with the parameters of now, coefs_ and intercepts_ among them.

        Its outputs are raw: logits of a classifier, logarithms of rates of a Poisson loss.
        """
        check_is_fitted(self)
        estimator: Any = self
        if hasattr(self, "estimators_"):
            raise AttributeError("an ensemble has a model_ for each of its estimators_")
        coefs = estimator.coefs_
        layers = self._layers
        if layers is None:
            activation = ACTIVATIONS[estimator.activation]
            layers = [Dense(coef.shape[1], activation) for coef in coefs[:-1]]
            layers.append(Dense(coefs[-1].shape[1]))
        model = Sequential(layers, input_size=coefs[0].shape[0], dtype=coefs[0].dtype)
        dense = [place for place, layer in enumerate(layers) if isinstance(layer, Dense)]
        pairs = zip(dense, coefs, estimator.intercepts_, strict=True)
        parameters = dict(self._extra or {})
        for place, coef, intercept in pairs:
            parameters |= {f"{place}.weight": coef, f"{place}.bias": intercept}
        model.set_parameters(parameters)
        return model


def _check_count(estimator: Any, layer_units: list[int]) -> None:
    """Refuses a warm start with more or fewer layers; of their sizes it keeps what was there."""
    if len(layer_units) != estimator.n_layers_:
        raise ArgumentError(
            f"hidden_layer_sizes: expected {estimator.n_layers_ - 2} layers, as in the fit "
            f"that training goes on from, got {len(layer_units) - 2}"
        )


@_documented
class MLPClassifier(_Fast, neural_network.MLPClassifier):
    """scikit-learn's MLPClassifier, trained by Ranvier; see the module for what differs.

    Parameters up to `max_fun`, attributes and methods are those of
    `sklearn.neural_network.MLPClassifier`. What is added changes nothing when it is not used; what
    would have no effect beside other parameters is refused. There are two more attributes,
    `model_`, the network, and `validation_loss_curve_`, the loss of the validation rows after each
    epoch, in the units of `loss_curve_` but without its penalty; None where there are no such rows.

    ADDED
        loss: "log_loss", scikit-learn's; or an object with ranvier's convention:
            `ranvier.losses.CrossEntropy(label_smoothing=...)` for more than two classes,
            `BinaryCrossEntropy(pos_weight=...)` for two or for labels (a mean over these, where
            scikit-learn has a sum), or a loss of one's own (see `ranvier.losses`), whose target is
            the class's place in `classes_`, or, for two classes or labels, an array
            (rows, outputs) of 0 and 1.
        class_weight: factors of the rows' weights: a dict by class, "balanced", or for labels a
            list of either; as `sklearn.utils.compute_sample_weight`.

    Example:
        >>> from ranvier.sklearn import MLPClassifier
        >>> from sklearn.datasets import load_digits
        >>> X, y = load_digits(return_X_y=True)
        >>> clf = MLPClassifier((32,), random_state=0, max_iter=1000).fit(X / 16, y)
        >>> clf.score(X / 16, y) > 0.99
        True
        >>> clf = MLPClassifier(
        ...     (32, 32), activation="gelu", dropout=0.1, solver="adamw", class_weight="balanced",
        ...     early_stopping=True, scoring="neg_log_loss", random_state=0,
        ... )
        >>> clf.fit(X / 16, y).score(X / 16, y) > 0.95
        True
    """

    _parameter_constraints = neural_network.MLPClassifier._parameter_constraints | CLASSIFIER

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        loss: Any = "log_loss",
        class_weight: Any = None,
        dropout: Any = 0.0,
        normalization: str | None = None,
        weight_decay: float | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        scoring: Any = None,
        restore_best_weights: bool = False,
        max_time: float | None = None,
        callbacks: Any = (),
        progress: bool = False,
        n_ensemble: int = 1,
    ) -> None:
        keep(self, locals())

    def predict(self, X: Any) -> Any:
        """Labels of X's rows, as scikit-learn's."""
        outputs: Any = self._plain_outputs(X)
        if outputs is not None:
            # Not classes_, which a user may change without an effect on scikit-learn's.
            kind, classes = self._label_binarizer.y_type_, self._label_binarizer.classes_
            if kind == "multiclass":
                return classes.take(outputs.argmax(axis=1))
            if kind == "binary" and len(classes) == 2:
                return classes.take(outputs[:, 0] > 0.5)
        return super().predict(X)


@_documented
class MLPRegressor(_Fast, neural_network.MLPRegressor):
    """scikit-learn's MLPRegressor, trained by Ranvier; see the module for what differs.

    Parameters up to `max_fun`, attributes and methods are those of
    `sklearn.neural_network.MLPRegressor`. What is added changes nothing when it is not used; what
    would have no effect beside other parameters is refused. There are two more attributes,
    `model_`, the network, and `validation_loss_curve_`, the loss of the validation rows after each
    epoch, in the units of `loss_curve_` but without its penalty; None where there are no such rows.

    ADDED
        loss: "squared_error" or "poisson", scikit-learn's (halves, summed over outputs); or, with
            ranvier's convention (means over outputs), "mse", "mae", "huber", "quantile" (of 0.5),
            "gaussian_nll", an object of `ranvier.losses`, or a loss of one's own (see there), whose
            target is y as (rows, outputs). `predict` then gives: of `Poisson()` the rate; of
            `GaussianNLL()` the mean (`return_std=True` for the deviation too); of several quantiles
            a column for each (for T targets column t·Q + j is quantile j of target t), which
            `score` does not take; else the network's output.

    Example:
        >>> import numpy as np
        >>> from ranvier.sklearn import MLPRegressor
        >>> X = np.linspace(-1, 1, 200)[:, None]
        >>> reg = MLPRegressor(learning_rate_init=0.01, random_state=0)
        >>> reg = reg.fit(X, X[:, 0] ** 2)
        >>> reg.score(X, X[:, 0] ** 2) > 0.95
        True
        >>> reg = MLPRegressor(loss="huber", n_ensemble=3, random_state=0).fit(X, X[:, 0] ** 2)
        >>> len(reg.estimators_), reg.predict(X[:2]).shape
        (3, (2,))
    """

    _parameter_constraints = neural_network.MLPRegressor._parameter_constraints | REGRESSOR

    def __init__(
        self,
        loss: Any = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        dropout: Any = 0.0,
        normalization: str | None = None,
        weight_decay: float | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        scoring: Any = None,
        restore_best_weights: bool = False,
        max_time: float | None = None,
        callbacks: Any = (),
        progress: bool = False,
        n_ensemble: int = 1,
    ) -> None:
        keep(self, locals())

    def predict(self, X: Any, *, return_std: bool = False) -> Any:
        """Predicts from X, (n_samples, n_features).

        Args:
            X: dense or CSR or CSC.
            return_std: with the loss `GaussianNLL`, return the standard deviation of y as well; of
                an ensemble that of the members' mixture (Lakshminarayanan et al. 2017).

        Returns:
            (n_samples,) or (n_samples, n_outputs), and the deviations of that shape if asked for.
        """
        if not return_std:
            return super().predict(X)
        check_is_fitted(self)
        if not isinstance(self._loss, GaussianNLL):
            raise ArgumentError(
                f"return_std: expected False unless loss=GaussianNLL(), got True with {self.loss!r}"
            )
        X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        raw = np.stack([one._raw(X, False) for one in getattr(self, "estimators_", [self])])
        means, variances = raw[..., : self.n_outputs_], np.exp(raw[..., self.n_outputs_ :])
        mean = means.mean(axis=0)
        deviation = np.sqrt((variances + (means - mean) ** 2).mean(axis=0))
        if self.n_outputs_ == 1:
            return mean.ravel(), deviation.ravel()
        return mean, deviation
