"""The loop of one fit, with scikit-learn's arithmetic, draws and messages."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult
from scipy.sparse import issparse
from scipy.special import xlogy
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPRegressor
from sklearn.utils.optimize import _check_optimize_result

from .._arrays import Array
from .._files import Reader, torch_names
from ..errors import DivergedError
from ..layers import Dense
from ..losses import MSE, BinaryCrossEntropy, CrossEntropy, Loss, Poisson
from ..model import Sequential
from ..optimizers import LBFGS, SGD, Adam, Optimizer
from ..schedules import Function
from ..trainer import Trainer

_ACTIVATIONS = {"identity": None, "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}


# What a fit of the core is told besides.
_PLAN: dict[str, Any] = {
    "validation": None,
    "rows": None,
    "held_out": None,
    "alone": False,
    "split": None,
    "metrics": [],
    "accumulate": 1,
    "shuffle": False,
    "max_steps": None,
    "max_time": None,
    "max_evaluations": None,
    "watch": None,
    "plateau": None,
    "on_step": None,
    "on_tick": None,
    "on_rate": None,
    "on_measure": None,
}


class _Rate:
    """A learning rate that changes between epochs."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, epoch: int) -> float:
        return self.value


class Run:
    """A network of the core with the moments of its optimiser, for further calls of partial_fit."""

    def __init__(self, estimator: Any, units: list[int], dtype: Any) -> None:
        self.rate = _Rate(float(estimator.learning_rate_init))
        optimizer: SGD | Adam | LBFGS
        if estimator.solver == "lbfgs":
            optimizer = LBFGS(tolerance_grad=float(estimator.tol))
        elif estimator.solver == "sgd":
            constant = estimator.learning_rate == "constant"
            optimizer = SGD(
                learning_rate=self.rate.value if constant else Function(self.rate, per="epoch"),
                momentum=float(estimator.momentum),
                nesterov=bool(estimator.nesterovs_momentum),
                dialect="sklearn",
            )
        else:
            optimizer = Adam(
                learning_rate=self.rate.value,
                beta1=float(estimator.beta_1),
                beta2=float(estimator.beta_2),
                eps=float(estimator.epsilon),
                dialect="sklearn",
            )
        self._units, self._dtype = units, dtype
        self.trainer = self._trainer(estimator, optimizer)

    def follow(self, estimator: Any) -> None:
        """Takes over an activation and an alpha that have changed since; the moments go on."""
        if self._made_with == (estimator.activation, estimator.alpha):
            return
        old = self.trainer
        network = old.model._require()
        core, file = old._ensured(network), Reader(old._write(None) or b"").file
        names = [name for table in network.tables() for name, _ in table]
        self.trainer = self._trainer(estimator, old.optimizer)
        self.trainer._ensured(self.trainer.model._require()).restore(
            file, torch_names(old.model.layers, names), core.standing()
        )

    def _trainer(self, estimator: Any, optimizer: Optimizer) -> Trainer:
        self._made_with = (estimator.activation, estimator.alpha)
        hidden = _ACTIVATIONS[estimator.activation]
        # scikit-learn's penalty is half of alpha, divided by the weight of the batch.
        penalty = 0.5 * float(estimator.alpha)
        features, *counts, outputs = self._units
        layers = [Dense(count, hidden, l2=penalty) for count in counts]
        layers.append(Dense(outputs, l2=penalty))
        model = Sequential(layers, input_size=features, dtype=self._dtype)
        loss, self.convention = _loss(estimator, outputs)
        return Trainer(model, loss=loss, optimizer=optimizer, metrics=[])


def _loss(estimator: Any, outputs: int) -> tuple[Loss, tuple[float, float, bool]]:
    """The loss, and by what scikit-learn's and its gradient differ from ours."""
    if is_classifier(estimator):
        if estimator.out_activation_ == "softmax":
            return CrossEntropy(), (1.0, 1.0, True)
        return BinaryCrossEntropy(), (float(outputs), float(outputs), True)
    if estimator.loss == "poisson":
        return Poisson(), (float(outputs), float(outputs), True)
    return MSE(), (0.5, 0.5 * outputs, True)


class Loop:
    """One call of fit or partial_fit with a stochastic solver."""

    def __init__(
        self,
        run: Run,
        estimator: Any,
        X: Any,
        y: Array,
        sample_weight: Array | None,
        incremental: bool,
    ) -> None:
        self._run, self._estimator, self._incremental = run, estimator, incremental
        self._held_out: tuple[Any, ...] = (None, None, None)
        if estimator.early_stopping and estimator.solver != "lbfgs":
            X, y, sample_weight = self._split(X, y, sample_weight)
        self._rows = X.shape[0]
        self._order = np.arange(self._rows)
        self._checked = False
        self._lost = False
        targets = y
        if isinstance(run.trainer.loss, CrossEntropy):
            targets = y.argmax(axis=1)
        elif y.dtype == bool:
            targets = y.astype(X.dtype)
        self._arrays = run.trainer._arrays(
            X.toarray() if issparse(X) else X, targets, sample_weight
        )
        # What scikit-learn's Poisson loss has more than ours, which lacks what y alone decides.
        self._more: Array | None = None
        if isinstance(run.trainer.loss, Poisson):
            self._more = (xlogy(y, y) - y).sum(axis=1)
        self._weight = sample_weight

    def _split(self, X: Any, y: Array, sample_weight: Array | None) -> tuple[Any, Array, Any]:
        """Holds the validation rows out, as scikit-learn does."""
        estimator = self._estimator
        weights = [] if sample_weight is None else [sample_weight]
        stratify = y if is_classifier(estimator) and estimator.n_outputs_ == 1 else None
        parts = train_test_split(
            X,
            y,
            *weights,
            random_state=estimator._random_state,
            test_size=estimator.validation_fraction,
            stratify=stratify,
        )
        if parts[1].shape[0] < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' "
                "or the size of your dataset."
            )
        held_out = parts[3]
        if is_classifier(estimator):
            held_out = estimator._label_binarizer.inverse_transform(held_out)
        self._held_out = (parts[1], held_out, parts[5] if weights else None)
        return parts[0], parts[2], parts[4] if weights else None

    def run(self) -> None:
        estimator = self._estimator
        reports: list[Any] = []
        batch_size = self._batch_size()
        estimator.n_iter_ = 0
        try:
            self._train(
                data=self._epoch,
                epochs=1 if self._incremental else estimator.max_iter,
                batch_size=batch_size,
                on_epoch=(reports, lambda: self._end(reports[-1], batch_size)),
                on_rate=self._run.trainer.optimizer._rate_function(),
            )
        except DivergedError as error:
            if not estimator.early_stopping:
                raise _non_finite() from error
            self._run_on(batch_size)
        finally:
            if estimator.early_stopping:
                estimator.coefs_ = estimator._best_coefs
                estimator.intercepts_ = estimator._best_intercepts

    def _train(self, **options: Any) -> str:
        """Trains from the estimator's coefficients on; says why it ended."""
        trainer = self._run.trainer
        network = trainer.model._require()
        plan = _PLAN | options
        plan["loss"] = trainer.loss._spec()  # type: ignore[union-attr]
        plan["convention"] = self._run.convention
        self._put()
        try:
            return trainer._ensured(network).fit(plan)
        finally:
            self._take()

    def _run_on(self, batch_size: int) -> None:
        """The epochs that follow a divergence, to return to the best coefficients at the end."""
        estimator, self._lost = self._estimator, True
        while not self._end((0, 0, np.nan), batch_size) and estimator.n_iter_ < estimator.max_iter:
            self._draw()

    def _batch_size(self) -> int:
        size = self._estimator.batch_size
        if size == "auto":
            return int(min(200, self._rows))
        if size > self._rows:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than "
                "sample size. It is going to be clipped",
                stacklevel=4,
            )
        return int(np.clip(size, 1, self._rows))

    def _epoch(self, epoch: int, place: int) -> Any:
        """The rows of an epoch in their order, as the core asks for them."""
        if place > 0:
            return None
        self._draw()
        checked, self._checked = self._checked, True
        return 0, self._arrays, self._order.astype(np.uint32), checked

    def _draw(self) -> None:
        """Draws the order of an epoch."""
        if self._estimator.shuffle:
            # As sklearn.utils.shuffle does it, whose checks take as long as an epoch of a few rows.
            places = np.arange(self._rows)
            self._estimator._random_state.shuffle(places)
            self._order = self._order[places]

    def _end(self, report: Any, batch_size: int) -> bool:
        """What scikit-learn does after an epoch; whether training is to end."""
        estimator, rate = self._estimator, self._run.rate
        estimator.n_iter_ += 1
        estimator.loss_ = np.float64(report[2] + self._rest(batch_size))
        estimator.t_ += self._rows
        estimator.loss_curve_.append(estimator.loss_)
        if estimator.verbose:
            print(f"Iteration {estimator.n_iter_}, loss = {estimator.loss_:.8f}")
        # A subclass may look at the coefficients there, and change them.
        hook = type(estimator)._update_no_improvement_count
        watched = hook is not MLPRegressor._update_no_improvement_count
        if estimator.early_stopping or watched:
            self._take()
        estimator._update_no_improvement_count(estimator.early_stopping, *self._held_out)
        if watched and not self._lost:
            self._put()
        sgd = estimator.solver == "sgd"
        if sgd and estimator.learning_rate == "invscaling":
            first = float(estimator.learning_rate_init)
            rate.value = first / (estimator.t_ + 1) ** estimator.power_t
        if estimator._no_improvement_count > estimator.n_iter_no_change:
            if self._stops(adaptive=sgd and estimator.learning_rate == "adaptive"):
                return True
            estimator._no_improvement_count = 0
        if not self._incremental and estimator.n_iter_ == estimator.max_iter:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({estimator.max_iter:d}) "
                "reached and the optimization hasn't converged yet.",
                ConvergenceWarning,
                stacklevel=6,
            )
        return False

    def _stops(self, *, adaptive: bool) -> bool:
        estimator, rate = self._estimator, self._run.rate
        what = "Validation score" if estimator.early_stopping else "Training loss"
        message = (
            f"{what} did not improve more than tol={estimator.tol:f} for "
            f"{estimator.n_iter_no_change} consecutive epochs."
        )
        stops = True
        if not adaptive:
            message += " Stopping."
        elif rate.value <= 1e-6:
            message += " Learning rate too small. Stopping."
        else:
            rate.value /= 5.0
            message += f" Setting learning rate to {rate.value:f}"
            stops = False
        if estimator.verbose:
            print(message)
        return stops

    def _rest(self, batch_size: int) -> float:
        """What the epoch's loss has more than ours: the mean over rows of each batch's."""
        if self._more is None:
            return 0.0
        more = self._more[self._order]
        weight = np.ones(self._rows) if self._weight is None else self._weight[self._order]
        firsts = np.arange(0, self._rows, batch_size)
        sums = np.add.reduceat(weight * more, firsts) / np.add.reduceat(weight, firsts)
        counts = np.diff(np.append(firsts, self._rows))
        return float((sums * counts).sum() / self._rows)

    def _put(self) -> None:
        """The estimator's coefficients into the network."""
        estimator = self._estimator
        pairs = zip(estimator.coefs_, estimator.intercepts_, strict=True)
        parameters: dict[str, Array] = {}
        for layer, (coef, intercept) in enumerate(pairs):
            parameters |= {f"{layer}.weight": coef, f"{layer}.bias": intercept}
        self._run.trainer.model.set_parameters(parameters)

    def _take(self) -> None:
        """The network's parameters into the estimator's arrays; NaN after a divergence."""
        parameters = self._run.trainer.model.parameters()
        estimator = self._estimator
        for layer in range(len(estimator.coefs_)):
            for arrays, name in ((estimator.coefs_, "weight"), (estimator.intercepts_, "bias")):
                np.copyto(arrays[layer], np.nan if self._lost else parameters[f"{layer}.{name}"])


def _non_finite() -> ValueError:
    return ValueError(
        "Solver produced non-finite parameter weights. The input data may"
        " contain large values and need to be preprocessed."
    )


class Search(Loop):
    """One call of fit with the solver "lbfgs"."""

    def run(self) -> None:
        estimator = self._estimator
        reports: list[Any] = []
        iterations, most = 0, int(estimator.max_iter)
        try:
            ending = self._train(
                data=self._arrays,
                epochs=most,
                batch_size=self._rows,
                max_evaluations=int(estimator.max_fun),
                on_epoch=(reports, None),
            )
        except DivergedError as error:
            raise _non_finite() from error
        finally:
            iterations = len(reports)
            estimator.n_iter_ = iterations
            core = self._run.trainer._core
            reached = None if core is None else core.reached()
            if reached is not None:
                estimator.loss_ = np.float64(reached + self._rest(self._rows))
        if iterations == most:
            ending = "epochs"
        status, message = _ENDINGS[ending]
        result = OptimizeResult(nit=iterations, status=status, message=message)
        _check_optimize_result("lbfgs", result, most)


# SciPy's status and message for why a search has ended.
_ENDINGS = {
    "converged": (0, "CONVERGENCE"),
    "epochs": (1, "STOP: TOTAL NO. OF ITERATIONS REACHED LIMIT"),
    "max_evaluations": (1, "STOP: TOTAL NO. OF F,G EVALUATIONS EXCEEDS LIMIT"),
    "line_search": (2, "ABNORMAL: "),
}
