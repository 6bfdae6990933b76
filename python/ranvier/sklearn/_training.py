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
from ..layers import Dense, Dropout, Layer
from ..model import Sequential, core_loss
from ..optimizers import FirstOrder, Optimizer
from ..schedules import Constant
from ..trainer import Trainer
from ._hooks import Hooks
from ._options import is_plain, layers_of, loss_of, optimizer_of, targets_of, trained_loss
from ._validation import HeldOut

# What a fit of the core is told besides.
_PLAN: dict[str, Any] = {
    "validation": None,
    "rows": None,
    "held_out": None,
    "split": None,
    "metrics": [],
    "accumulate": 1,
    "shuffle": False,
    "max_steps": None,
    "max_evaluations": None,
    "watch": None,
}


class _Rate:
    """A learning rate that changes between epochs."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, epoch: int) -> float:
        return self.value


class Run:
    """A network of the core with the moments of its optimiser, for further calls of partial_fit."""

    def __init__(self, estimator: Any, dtype: Any) -> None:
        self._dtype, self._seed = dtype, 0
        self.rate = _Rate(float(estimator.learning_rate_init))
        optimizer = optimizer_of(estimator, estimator._solver, self.rate)
        # A schedule is made for so many epochs: who gives one is not told that they were too few.
        own = not isinstance(estimator.learning_rate, str) or isinstance(
            estimator._solver, Optimizer
        )
        self.scheduled = own and not (
            isinstance(optimizer, FirstOrder) and isinstance(optimizer._schedule, Constant)
        )
        self.trainer = self._trainer(estimator, optimizer, _layers(estimator))

    def follow(self, estimator: Any) -> None:
        """Takes over layers and an alpha that have changed since; the moments go on."""
        layers = _layers(estimator)
        old = self.trainer
        if tuple(layers) == old.model.layers:
            return
        network = old.model._require()
        core, file = old._ensured(network), Reader(old._write(None) or b"").file
        self.trainer = self._trainer(estimator, old.optimizer, layers)
        fresh = self.trainer.model._require()
        if fresh.tables() == network.tables():
            names = [name for table in network.tables() for name, _ in table]
            torch = torch_names(old.model.layers, names)
            self.trainer._ensured(fresh).restore(file, torch, core.standing())

    def _trainer(self, estimator: Any, optimizer: Optimizer, layers: list[Layer]) -> Trainer:
        loss = loss_of(estimator)
        units = _units(estimator)
        own_layers = None if is_plain(estimator) else tuple(layers_of(estimator, units))
        if own_layers != estimator._layers:
            # A warm start with other layers goes on from coefs_ and intercepts_ alone.
            estimator._extra = estimator._best_extra = None
        estimator._loss, estimator._layers = loss, own_layers
        self.dense = [place for place, layer in enumerate(layers) if isinstance(layer, Dense)]
        model = Sequential(layers, input_size=units[0], dtype=self._dtype)
        trained, self.convention = trained_loss(estimator, loss)
        if not self._seed and any(isinstance(layer, Dropout) for layer in layers):
            self._seed = int(estimator._random_state.randint(2**31 - 1))
        return Trainer(model, loss=trained, optimizer=optimizer, metrics=[], seed=self._seed)


def _units(estimator: Any) -> list[int]:
    coefs = estimator.coefs_
    return [coefs[0].shape[0], *(coef.shape[1] for coef in coefs)]


def _layers(estimator: Any) -> list[Layer]:
    # scikit-learn's penalty is half of alpha, divided by the weight of the batch.
    return layers_of(estimator, _units(estimator), penalty=0.5 * float(estimator.alpha))


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
        validation: tuple[Any, Array, Any] | None,
    ) -> None:
        self._run, self._estimator, self._incremental = run, estimator, incremental
        self._lost = False
        if validation is None and estimator.early_stopping and estimator.solver != "lbfgs":
            (X, y, sample_weight), validation = self._split(X, y, sample_weight)
        self._held_out: HeldOut | None = None
        if validation is not None:
            self._held_out = HeldOut(estimator, run.trainer, *validation)
            if estimator.validation_loss_curve_ is None:
                estimator.validation_loss_curve_ = []
        self._epochs = 1 if incremental else estimator.max_iter
        self._hooks = Hooks(estimator, run, self._held_out, self._epochs)
        self._rows = X.shape[0]
        self._order = np.arange(self._rows)
        self._checked = False
        self._arrays = run.trainer._arrays(
            X.toarray() if issparse(X) else X,
            targets_of(run.trainer.loss, estimator, y, X.dtype),
            sample_weight,
        )
        # What scikit-learn's Poisson loss has more than ours, which lacks what y alone decides.
        self._more: Array | None = None
        if estimator._loss is None and estimator.out_activation_ == "exp":
            exact = y.astype(np.float64)
            self._more = (xlogy(exact, exact) - exact).sum(axis=1)
        self._weight = sample_weight

    def _split(self, X: Any, y: Array, sample_weight: Array | None) -> list[tuple[Any, Any, Any]]:
        """Holds the validation rows out, as scikit-learn does: rows to train on, and these."""
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
        return [(parts[k], parts[2 + k], parts[4 + k] if weights else None) for k in (0, 1)]

    def run(self) -> None:
        estimator = self._estimator
        reports: list[Any] = []
        batch_size = self._batch_size()
        estimator.n_iter_ = 0
        self._steps = 0 if estimator.max_time is None else self._run.trainer.step
        try:
            self._train(
                data=self._epoch,
                epochs=self._epochs,
                batch_size=batch_size,
                on_epoch=(reports, lambda: self._end(reports[-1], batch_size)),
            )
        except DivergedError as error:
            if not estimator.early_stopping:
                raise _non_finite() from error
            self._run_on(batch_size)
        finally:
            if estimator.early_stopping:
                estimator.coefs_ = estimator._best_coefs
                estimator.intercepts_ = estimator._best_intercepts
                estimator._extra = estimator._best_extra

    def _train(self, **options: Any) -> str:
        """Trains from the estimator's coefficients on; says why it ended."""
        trainer = self._run.trainer
        network = trainer.model._require()
        # Rows of the training and of the core's validation, which is none here.
        arrays = [self._arrays, self._arrays]
        plan = _PLAN | options | self._hooks.plan()
        rows = max(options["batch_size"], 256)
        plan["loss"] = core_loss(trainer.loss, trainer.model, rows, arrays)
        plan["convention"] = self._run.convention
        plan["on_rate"] = trainer.optimizer._rate_function()
        self._put()
        try:
            with self._hooks:
                return trainer._ensured(network).fit(plan)
        finally:
            self._take(self._hooks.best())

    def _run_on(self, batch_size: int) -> None:
        """The epochs that follow a divergence, to return to the best coefficients at the end."""
        estimator, self._lost = self._estimator, True
        report = (self._run.trainer.epoch, self._run.trainer.step, np.nan, None, np.nan, 0.0)
        if self._held_out is not None:
            self._held_out.look(report[0])
            self._held_out.lose()
        while not self._end(report, batch_size) and estimator.n_iter_ < estimator.max_iter:
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
        """What scikit-learn does after an epoch, then callbacks; whether training is to end."""
        estimator, rate, held_out = self._estimator, self._run.rate, self._held_out
        seen = self._rows
        if estimator.max_time is not None:
            # The epoch may have been cut.
            steps, self._steps = report[1] - self._steps, report[1]
            seen = min(seen, steps * batch_size)
        estimator.n_iter_ += 1
        estimator.loss_ = np.float64(report[2] + self._rest(batch_size, seen))
        estimator.t_ += seen
        estimator.loss_curve_.append(estimator.loss_)
        if estimator.verbose:
            print(f"Iteration {estimator.n_iter_}, loss = {estimator.loss_:.8f}")
        if held_out is not None:
            estimator.validation_loss_curve_.append(held_out.look(report[0]))
        scored = held_out if estimator.early_stopping else None
        # A subclass may look at the coefficients there, and change them.
        hook = type(estimator)._update_no_improvement_count
        watched = hook is not MLPRegressor._update_no_improvement_count
        if scored is not None or watched:
            self._take()
        best = estimator._best_coefs
        if scored is not None:
            estimator._update_no_improvement_count(True, scored, scored.labels, scored.weight)
            if estimator._best_coefs is not best:
                estimator._best_extra = estimator._extra
        else:
            estimator._update_no_improvement_count(False, None, None, None)
        if watched and not self._lost:
            self._put()
        sgd = estimator.solver == "sgd"
        if sgd and estimator.learning_rate == "invscaling":
            first = float(estimator.learning_rate_init)
            rate.value = first / (estimator.t_ + 1) ** estimator.power_t
        stops = False
        if estimator._no_improvement_count > estimator.n_iter_no_change:
            stops = self._stops(adaptive=sgd and estimator.learning_rate == "adaptive")
            if not stops:
                estimator._no_improvement_count = 0
        stops = self._hooks.end(report) or stops
        last = not self._incremental and estimator.n_iter_ == estimator.max_iter
        if last and not stops and not self._run.scheduled:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({estimator.max_iter:d}) "
                "reached and the optimization hasn't converged yet.",
                ConvergenceWarning,
                stacklevel=6,
            )
        return stops

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

    def _rest(self, batch_size: int, seen: int) -> float:
        """What the epoch's loss has more than ours: the mean over rows of each batch's."""
        if self._more is None:
            return 0.0
        order = self._order[:seen]
        more = self._more[order]
        weight = np.ones(seen) if self._weight is None else self._weight[order]
        firsts = np.arange(0, seen, batch_size)
        sums = np.add.reduceat(weight * more, firsts) / np.add.reduceat(weight, firsts)
        counts = np.diff(np.append(firsts, seen))
        return float((sums * counts).sum() / seen)

    def _put(self) -> None:
        """The estimator's parameters into the network."""
        estimator = self._estimator
        parameters: dict[str, Array] = dict(estimator._extra or {})
        pairs = zip(self._run.dense, estimator.coefs_, estimator.intercepts_, strict=True)
        for place, coef, intercept in pairs:
            parameters |= {f"{place}.weight": coef, f"{place}.bias": intercept}
        self._run.trainer.model.set_parameters(parameters)

    def _take(self, parameters: dict[str, Array] | None = None) -> None:
        """The network's parameters, or some that it had, into the estimator's; NaN when lost."""
        estimator = self._estimator
        rest = dict(parameters or self._run.trainer.model.parameters())
        for layer, place in enumerate(self._run.dense):
            for arrays, role in ((estimator.coefs_, "weight"), (estimator.intercepts_, "bias")):
                value = rest.pop(f"{place}.{role}")
                np.copyto(arrays[layer], np.nan if self._lost else value)
        estimator._extra = rest


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
        most = int(estimator.max_iter)
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
            estimator.n_iter_ = len(reports)
            core = self._run.trainer._core
            reached = None if core is None else core.reached()
            if reached is not None:
                estimator.loss_ = np.float64(reached + self._rest(self._rows, self._rows))
        if len(reports) == most:
            ending = "epochs"
        status, message = _ENDINGS[ending]
        if status != 0:
            result = OptimizeResult(nit=len(reports), status=status, message=message)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                _check_optimize_result("lbfgs", result, most)
            # From where scikit-learn's comes.
            warnings.warn(told[0].message, stacklevel=3)


# SciPy's status and message for why a search has ended.
_ENDINGS = {
    "converged": (0, "CONVERGENCE"),
    "epochs": (1, "STOP: TOTAL NO. OF ITERATIONS REACHED LIMIT"),
    "max_evaluations": (1, "STOP: TOTAL NO. OF F,G EVALUATIONS EXCEEDS LIMIT"),
    "line_search": (2, "ABNORMAL: "),
}
