"""`TabularRegressor`: numbers from a table, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils import column_or_1d
from sklearn.utils.validation import check_array, check_is_fitted

from .._arrays import Array, boolean, numeric, real
from ..activations import ActivationLike
from ..errors import ArgumentError, ShapeError
from ..losses import MSE, Loss, Quantile
from ._recipes import LIGHT, SHORT, SHORTEST, Head
from ._tabular import Tabular, checked_weight
from ._uncertainty import LEVELS, Intervals, Units


class TabularRegressor(RegressorMixin, Tabular):
    """Numbers from a table, by networks whose defaults are chosen for accuracy.

    As `TabularClassifier`, but for the loss, the squared error, of targets that are scaled to mean
    0 and variance 1, and for recipes: three, without label smoothing. Predictions are the mean of
    the networks', and stay within the range of the targets of the fit.

    With uncertainty=True a second ensemble learns nine quantiles (pinball loss; it takes as long
    again). Its members' errors on held-out rows, which it has also where rows are few, say how far
    the quantiles are to be moved to hold what they promise: conformalised quantile regression
    (Romano, Patterson and Candès 2019).

    Args:
        hidden_layer_sizes: widths of the hidden layers.
        activation: of the hidden layers, as `ranvier.Dense` takes it.
        dropout: rate behind each hidden layer; None for the recipe's.
        learning_rate: of AdamW, at the start of a cosine that ends at 0.
        weight_decay: of AdamW.
        n_ensemble: networks whose outputs are averaged.
        max_epochs: of the longest training.
        max_steps: of the longest training; it is what bounds the time of a fit on many rows.
        categorical_features: which columns hold categories. "from_dtype": of a pandas or polars
            frame those of categories, strings, booleans, and of objects unless all are numbers; of
            an array none. Else a list of names or numbers, or a mask; None for none.
        uncertainty: whether `predict_interval` and `predict_quantiles` are wanted.
        random_state: None for another fit each time; an int or a RandomState for the same bits,
            whatever the number of threads.
        verbose: whether to show on standard error, if it is a terminal, how many networks are
            done. What the recipes reach goes to the log "ranvier", at level DEBUG.

    Attributes:
        models_: the networks, a list of `ranvier.Sequential`, which take `encode(X)` and give
            targets that are scaled to mean 0 and variance 1.
        encoder_: the encoding of the table.
        n_epochs_: that each network was trained for.
        n_features_in_: columns of X.
        feature_names_in_: their names, if X has names that are strings.
        quantile_models_: with uncertainty, the networks of the quantiles; else None.

    Raises:
        ArgumentError, DTypeError, ValueError: a parameter, or an X or y that does not serve.
        DivergedError: every network has diverged; a smaller learning_rate helps. Whatever `fit`
            raises, the estimator is as it was before.

    y may have several columns; then predictions have as many.

    Example:
        >>> from ranvier.sklearn import TabularRegressor
        >>> from sklearn.datasets import load_diabetes
        >>> X, y = load_diabetes(return_X_y=True, as_frame=True)
        >>> regressor = TabularRegressor(uncertainty=True, random_state=0).fit(X[:400], y[:400])
        >>> regressor.predict(X[400:]).shape
        (42,)
        >>> low, high = regressor.predict_interval(X[400:], coverage=0.9)
        >>> bool(((low <= y[400:]) & (y[400:] <= high)).mean() > 0.8)
        True
    """

    _intervals: Intervals | None
    _units: Units

    def __init__(
        self,
        *,
        hidden_layer_sizes: Sequence[int] = (128, 128),
        activation: ActivationLike = "silu",
        dropout: float | None = None,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.1,
        n_ensemble: int = 8,
        max_epochs: int = 100,
        max_steps: int = 3000,
        categorical_features: Any = "from_dtype",
        uncertainty: bool = False,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.n_ensemble = n_ensemble
        self.max_epochs = max_epochs
        self.max_steps = max_steps
        self.categorical_features = categorical_features
        self.uncertainty = uncertainty
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> TabularRegressor:
        """Trains.

        Args:
            X: a table (rows, columns): a frame or an array. NaN is a missing value.
            y: (rows,) or (rows, targets), numbers.
            sample_weight: (rows,), 0 or more, not all 0.
        """
        weight = checked_weight(X, y, sample_weight)
        boolean(self.uncertainty, "uncertainty")
        values = self._targets(y)
        units = Units.of(values, weight)
        count = values.size // len(values)
        heads = [_head(MSE(), count)]
        if self.uncertainty:
            heads.append(_head(Quantile(LEVELS), count * len(LEVELS), folds=True))
        (_, *more), state = self._train(X, units.scaled(values), weight, weight, heads)
        known = more[0].known if more else None
        self._keep(
            state
            | {
                "_units": units,
                "quantile_models_": more[0].models if more else None,
                "_intervals": None if known is None else Intervals(*known),
            }
        )
        return self

    @staticmethod
    def _targets(y: Any) -> Array:
        try:
            values = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        except ValueError as error:
            if "string" not in str(error):
                raise
            raise ArgumentError(f"y: expected numbers, got words: {error}") from error
        if values.ndim == 2 and values.shape[1] == 1:
            values = column_or_1d(values, warn=True)
        return np.asarray(values)

    def predict(self, X: Any) -> Array:
        """The expected target, (rows,) or (rows, targets)."""
        check_is_fitted(self)
        output = self._mean(self.models_, X, _plain)
        return self._units.clipped(output)

    def predict_interval(self, X: Any, coverage: float = 0.9) -> tuple[Array, Array]:
        """Ends of intervals in which the target lies with probability `coverage`.

        The quantiles (1 ± coverage)/2 of the networks, both moved out (or in) by the margin that
        covers ⌈coverage·(n + 1)⌉ of n rows which were not trained on. With rows of one's own
        (`calibrate`), drawn as those of X are, the probability is at least `coverage`, whatever the
        distribution and the networks; that is over calibration rows and rows of X together, not for
        each X by itself. After `fit` alone the rows are those that members hold out, at most
        10,000, and there is no such theorem: members are trained on a quarter less than all rows
        and judged one or two at a time, which makes the margin wider, and the same rows have
        chosen the recipe, which makes it narrower.

        Args:
            X: a table as in `fit`.
            coverage: in (0, 1), of each target by itself.

        Returns:
            Lower and upper ends, each (rows,) or (rows, targets); infinite where there are too few
            rows to say, n < coverage / (1 − coverage).

        Raises:
            ArgumentError: the regressor was fitted without uncertainty=True.
        """
        share = real(coverage, "coverage", least=0.0, most=1.0, open_least=True, open_most=True)
        heads = self._heads(X)
        ends = self._known().interval(heads, share)
        return self._units.back(ends[..., 0]), self._units.back(ends[..., 1])

    def predict_quantiles(self, X: Any, quantiles: Any = (0.05, 0.5, 0.95)) -> Array:
        """Quantiles of the target.

        Those of the networks, in between on the scale of normal deviates, each moved by the margin
        that lets a share q of the rows which were not trained on lie below; sorted, so that they
        do not cross. What is said of the probability at `predict_interval` holds here of the
        target lying below, where sorting has changed nothing.

        Args:
            X: a table as in `fit`.
            quantiles: one or several, in (0, 1).

        Returns:
            (rows, quantiles) or (rows, targets, quantiles).

        Raises:
            ArgumentError: the regressor was fitted without uncertainty=True.
        """
        levels = np.atleast_1d(numeric(quantiles, "quantiles", np.float64).astype(np.float64))
        if levels.ndim != 1 or not levels.size or not ((levels > 0.0) & (levels < 1.0)).all():
            raise ArgumentError(
                f"quantiles: expected one or more numbers in (0, 1), got {quantiles!r}"
            )
        heads = self._heads(X)
        values = self._known().quantiles(heads, levels)
        return np.stack(
            [self._units.back(values[..., place]) for place in range(len(levels))], axis=-1
        )

    def calibrate(self, X: Any, y: Any, sample_weight: Any = None) -> TabularRegressor:
        """Takes rows that were not trained on as those that the margins go by.

        Args:
            X: a table as in `fit`.
            y: as in `fit`.
            sample_weight: (rows,), 0 or more, not all 0.

        Raises:
            ArgumentError: the regressor was fitted without uncertainty=True.
            ShapeError: y has not as many columns as that of `fit`.
        """
        weight = checked_weight(X, y, sample_weight)
        values = self._targets(y)
        heads = self._heads(X)
        count = heads.shape[1] // len(LEVELS)
        if values.size != len(values) * count:
            raise ShapeError(
                f"y: expected {count} target{'s' * (count > 1)} as in fit, got shape {values.shape}"
            )
        self._intervals = Intervals(heads, self._units.scaled(values), weight)
        return self

    def _known(self) -> Intervals:
        if self._intervals is None:
            raise ArgumentError(
                "X: expected at least two rows in fit, of which some are held out, got one; "
                "calibrate(X, y) takes others"
            )
        return self._intervals

    def _heads(self, X: Any) -> Array:
        """Quantiles of the scaled targets, (rows, targets · levels)."""
        check_is_fitted(self)
        if self.quantile_models_ is None:
            raise ArgumentError(
                "uncertainty: expected True when the regressor is fitted, for intervals and "
                "quantiles, got False"
            )
        return self._mean(self.quantile_models_, X, _plain)


def _plain(output: Array) -> Array:
    return output.astype(np.float64)


def _head(loss: Loss, outputs: int, *, folds: bool = False) -> Head:
    """Of a regression."""
    return Head(
        loss=lambda _: loss,
        outputs=outputs,
        recipes=(LIGHT, SHORT, SHORTEST),
        read_out=_plain,
        judge=lambda *arrays: loss.value_and_gradient(*arrays)[0],
        folds=folds,
    )
