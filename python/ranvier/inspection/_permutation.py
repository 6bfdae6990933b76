"""Importance of columns by permuting them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np

from .. import _core
from .._arrays import Array, integer, weights
from .._arrays import seed as checked_seed
from .._pictures import pandas_of
from ..errors import ArgumentError, DTypeError
from ..losses import LossLike
from ..metrics import MetricLike
from ..trainer import Trainer
from ._bars import bars
from ._subject import Subject

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

__all__ = ["Importance", "permutation_importance"]

Groups: TypeAlias = Mapping[str, Iterable[int | str]]


@dataclass(frozen=True, repr=False, eq=False)
class Importance:
    """How much worse a figure is when a column's values change places.

    Attributes:
        importances: (columns, repeats): the figure with the column permuted minus the one without,
            or the other way round where more is better. Above 0: the model is worse without.
        names: of the columns and groups.
        metric: name of the figure.
        figure: its value on the data as it is.
        greater_is_better: whether more of it is better.
    """

    importances: Array
    names: tuple[str, ...]
    metric: str
    figure: float
    greater_is_better: bool

    @property
    def mean(self) -> Array:
        """Mean over the repeats, (columns,)."""
        mean: Array = self.importances.mean(axis=1)
        return mean

    @property
    def std(self) -> Array:
        """Standard deviation over the repeats (divided by their number), (columns,)."""
        std: Array = self.importances.std(axis=1)
        return std

    def _order(self) -> Array:
        return np.argsort(-self.mean, kind="stable")

    def __repr__(self) -> str:
        """The figure, and the most important columns."""
        mean = self.mean
        first = ", ".join(f"{self.names[i]} {mean[i]:.3g}" for i in self._order()[:3])
        return f"<Importance by {self.metric} ({self.figure:.4g}); largest: {first}>"

    def to_pandas(self) -> pandas.DataFrame:
        """A DataFrame of mean and std by column, the most important first (needs pandas)."""
        order = self._order()
        return pandas_of("to_pandas").DataFrame(
            {"mean": self.mean[order], "std": self.std[order]},
            index=[self.names[i] for i in order],
        )

    def plot(self, ax: Axes | None = None, *, max_features: int = 20) -> Axes:
        """Draws the means, with the standard deviations as whiskers (needs matplotlib).

        Args:
            ax: axes to draw on; None makes a figure.
            max_features: most bars; the most important ones are shown, from the top.

        Returns:
            The axes.
        """
        change = "decrease" if self.greater_is_better else "increase"
        return bars(
            ax,
            self.names,
            self.mean,
            self._order(),
            errors=self.std if self.importances.shape[1] > 1 else None,
            xlabel=f"{change} of {self.metric.replace('_', ' ')} when permuted",
            max_features=max_features,
        )


@overload
def permutation_importance(
    model: Any,
    X: ArrayLike,
    y: Any,
    *,
    loss: LossLike | None = None,
    metrics: MetricLike = "loss",
    sample_weight: ArrayLike | None = None,
    groups: Groups | None = None,
    n_repeats: int = 5,
    seed: int | None = 0,
    feature_names: Sequence[str] | None = None,
) -> Importance: ...


@overload
def permutation_importance(
    model: Any,
    X: ArrayLike,
    y: Any,
    *,
    loss: LossLike | None = None,
    metrics: list[MetricLike],
    sample_weight: ArrayLike | None = None,
    groups: Groups | None = None,
    n_repeats: int = 5,
    seed: int | None = 0,
    feature_names: Sequence[str] | None = None,
) -> dict[str, Importance]: ...


def permutation_importance(
    model: Any,
    X: ArrayLike,
    y: Any,
    *,
    loss: LossLike | None = None,
    metrics: MetricLike | list[MetricLike] = "loss",
    sample_weight: ArrayLike | None = None,
    groups: Groups | None = None,
    n_repeats: int = 5,
    seed: int | None = 0,
    feature_names: Sequence[str] | None = None,
) -> Importance | dict[str, Importance]:
    """How much worse the model is when a column's values change places among the rows.

    The column keeps its distribution and loses what it says of y and of the other columns (Breiman
    2001; the difference e_perm − e_orig of Fisher, Rudin and Dominici 2019). Take rows that the
    model was not trained on: on others a column that it learned by heart looks important. Of two
    columns that say the same each looks unimportant; put them into one group.

    Args:
        model: a `Sequential`, or a fitted MLPClassifier or MLPRegressor of `ranvier.sklearn`.
        X: (rows, features), finite, any real dtype.
        y: targets as the loss takes them; class labels of a classifier.
        loss: a name, an object of `ranvier.losses`, or a custom loss. None is the estimator's own
            (of an MLPRegressor "mse", without scikit-learn's ½); a `Sequential` needs one.
        metrics: which figure: "loss", or a metric as a `Trainer` takes it; a function gets raw
            outputs, and a classifier's labels as numbers. A list of such gives a dict of results
            by name, from the same predictions.
        sample_weight: (rows,), 0 or more, not all 0, of the figures. Values change places
            whatever the weights, but not with rows of weight 0.
        groups: columns that are permuted together, such as those of a one-hot code: their numbers
            or names, by the name of the group. Columns in no group are taken one by one.
        n_repeats: permutations of each column, 1 or more.
        seed: of the permutations, 0 to 2^64 − 1; None draws one. They are the same for all
            columns, on any machine.
        feature_names: as for `input_gradients`.

    Returns:
        An `Importance` whose columns are in X's order, a group standing where its first column
        does; a dict of such by the metric's name where `metrics` is a list.

    Raises:
        DTypeError: `model` is something else.
        ArgumentError, ShapeError: X, y or weights do not fit the model or each other; the loss of
            a `Sequential` is missing; a group names a column that is not there or in another one.

    Example:
        >>> import numpy as np, ranvier as rv
        >>> X = np.random.default_rng(0).normal(size=(200, 3))
        >>> model = rv.Sequential([rv.Dense(1)], input_size=3)
        >>> model.set_parameters({"0.weight": [[2.0], [1.0], [0.0]]})
        >>> seen = rv.inspection.permutation_importance(model, X, 2 * X[:, 0] + X[:, 1], loss="mse")
        >>> seen.importances.shape, seen.mean.round().tolist()
        ((3, 5), [8.0, 2.0, 0.0])

    `sklearn.inspection.permutation_importance` takes any estimator of scikit-learn's, also one in
    a pipeline; its importances are of a score, where more is better, and it has no groups.
    """
    subject = Subject(model)
    x, names = subject.features(X, feature_names)
    several = isinstance(metrics, list | tuple)
    asked: list[Any] = list(metrics) if isinstance(metrics, list | tuple) else [metrics]
    if not asked:
        raise ArgumentError("metrics: expected at least one figure, got none")
    trainer = Trainer(
        subject.network,
        loss=subject.loss() if loss is None else loss,
        metrics=[metric for metric in asked if not _is_loss(metric)],
    )
    columns = _columns(groups, names)
    n_repeats = integer(n_repeats, "n_repeats", least=1)
    seed = checked_seed(seed)
    y = subject.targets(y, own=loss is None)

    def figures(x: Array) -> list[float]:
        return list(trainer.evaluate(x, y, sample_weight).values())

    before = figures(x)
    rows = np.arange(len(x))
    if sample_weight is not None:
        rows = np.flatnonzero(weights(sample_weight, len(x)) > 0)
    after = np.empty((len(before), len(columns), n_repeats))
    moved = np.array(x)
    for repeat in range(n_repeats):
        order = rows[np.frombuffer(_core.block_order(len(rows), seed, repeat), np.uint32)]
        for place, (_, group) in enumerate(columns):
            moved[np.ix_(rows, group)] = x[np.ix_(order, group)]
            after[:, place, repeat] = figures(moved)
            moved[:, group] = x[:, group]

    # In the order of an evaluation's figures.
    kinds = [("loss", False), *((m.name, m.greater_is_better) for m in trainer.metrics)]
    labels = tuple(name for name, _ in columns)
    results = {
        name: Importance(old - new if greater else new - old, labels, name, old, greater)
        for (name, greater), old, new in zip(kinds, before, after, strict=True)
    }
    own = iter(trainer.metrics)
    chosen = ["loss" if _is_loss(metric) else next(own).name for metric in asked]
    return {name: results[name] for name in chosen} if several else results[chosen[0]]


def _is_loss(metric: Any) -> bool:
    return isinstance(metric, str) and metric == "loss"


def _columns(groups: Groups | None, names: tuple[str, ...]) -> list[tuple[str, Array]]:
    """Names and columns of the groups, and of the columns in none, in the order of the first."""
    if not isinstance(groups, Mapping | None):
        raise DTypeError(
            f"groups: expected columns by the name of their group, got {type(groups).__name__}"
        )
    found: dict[int, tuple[str, list[int]]] = {}
    taken: dict[int, str] = {}
    for group, members in (groups or {}).items():
        if isinstance(members, str) or not isinstance(members, Iterable):
            raise DTypeError(f"groups[{group!r}]: expected a list of columns, got {members!r}")
        own = [_column(member, names, f"groups[{group!r}]") for member in members]
        for column in own:
            if column in taken:
                raise ArgumentError(
                    f"groups[{group!r}]: expected columns of no other group and none twice, got "
                    f"{names[column]!r}, which {taken[column]!r} has"
                )
            taken[column] = str(group)
        if not own:
            raise ArgumentError(f"groups[{group!r}]: expected at least one column, got none")
        found[min(own)] = (str(group), sorted(own))
    for column, name in enumerate(names):
        if column not in taken:
            found[column] = (name, [column])
    ordered = (found[first] for first in sorted(found))
    return [(name, np.array(columns)) for name, columns in ordered]


def _column(member: Any, names: tuple[str, ...], name: str) -> int:
    """The number of a column that is given by its number or its name."""
    if isinstance(member, str):
        if names.count(member) != 1:
            raise ArgumentError(f"{name}: expected columns among {list(names)}, got {member!r}")
        return names.index(member)
    return integer(member, name, least=0, most=len(names) - 1)
