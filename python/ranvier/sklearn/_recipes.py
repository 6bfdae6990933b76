"""The networks of the tabular estimators: how many steps, which rows held out, trained at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._arrays import Array
from .._many import fit_many
from .._table import batch_size
from ..callbacks import Callback
from ..errors import DivergedError
from ..layers import Dense, Dropout, Layer
from ..losses import Loss
from ..model import Sequential
from ..optimizers import AdamW
from ..schedules import Cosine
from ..trainer import Trainer

_LOG = logging.getLogger("ranvier")
# Fewer rows than this are one batch, in float64, for a fixed number of steps.
_TINY = 50
_TINY_STEPS = 200
_FOLDS = 4
_BETA2 = 0.99
# Trainings of fewer epochs are not tried in other ways.
_LONG = 16
# Held-out rows that are looked at, at most.
_KEPT = 10_000


@dataclass(frozen=True)
class Recipe:
    """One way of training, among several of which held-out rows choose.

    Args:
        share: of the epochs of the longest training.
        dropout: rate behind each hidden layer.
        label_smoothing: of a classifier's loss.
    """

    share: float
    dropout: float
    label_smoothing: float = 0.0


LIGHT = Recipe(1.0, 0.1)
STRONG = Recipe(1.0, 0.3, 0.1)
SHORT = Recipe(1 / 5, 0.3, 0.1)
SHORTEST = Recipe(1 / 20, 0.3, 0.1)


@dataclass(frozen=True)
class Head:
    """An ensemble that is wanted.

    Args:
        loss: from a label smoothing.
        outputs: of the network.
        recipes: to choose from.
        read_out: what is averaged over the members, from a network's outputs.
        judge: the loss of averaged outputs on held-out rows, from those, targets and weights.
        folds: whether rows are to be held out also where they are few.
    """

    loss: Callable[[float], Loss]
    outputs: int
    recipes: Sequence[Recipe]
    read_out: Callable[[Array], Array]
    judge: Callable[[Array, Array, Array | None], float]
    folds: bool = False


@dataclass(frozen=True)
class Ensemble:
    """Trained networks, and what they say of rows that they have not been trained on.

    Args:
        epochs: that each was trained for.
        known: outputs, targets and weights of held-out rows; the outputs are the mean over the
            members that hold a row out. None where nothing was held out.
    """

    models: list[Sequential]
    epochs: int
    known: tuple[Array, Array, Array | None] | None


@dataclass(frozen=True)
class Plan:
    """What the number of rows decides."""

    rows: int
    max_epochs: int
    max_steps: int

    @property
    def tiny(self) -> bool:
        """Whether every row is needed for the training."""
        return self.rows < _TINY

    @property
    def dtype(self) -> str:
        """Of the networks."""
        return "float64" if self.tiny else "float32"

    @property
    def batch_size(self) -> int:
        """Rows in a step."""
        return self.rows if self.tiny else batch_size(self.rows)

    @property
    def steps(self) -> int:
        """Of an epoch, of a member that holds a fold out."""
        return 1 if self.tiny else -(-(self.rows - self.rows // _FOLDS) // self.batch_size)

    @property
    def longest(self) -> int:
        """Epochs of the longest training."""
        if self.tiny:
            return min(_TINY_STEPS, self.max_steps)
        return max(1, min(self.max_epochs, self.max_steps // self.steps))

    def recipes(self, head: Head) -> Sequence[Recipe]:
        """Those that are tried."""
        return head.recipes[:1] if self.tiny or self.longest < _LONG else head.recipes

    def epochs(self, recipe: Recipe) -> int:
        """Of a training; many rows may end it within the first."""
        return max(1, round(recipe.share * self.longest))


class Training:
    """The networks of one fit.

    Each member of an ensemble holds a fold out in turn. The first ones, one for each fold, are
    trained by every recipe; the other members by the one that is best for the held-out rows.

    Args:
        estimator: whose parameters are followed.
        heads: the ensembles that are wanted.
        encoded: (rows, features).
        targets: of all heads.
        weight: (rows,), above 0.
        plan: of so many rows.
        rng: a RandomState; from it come seeds, and folds where there are any.
    """

    def __init__(
        self,
        estimator: Any,
        heads: Sequence[Head],
        encoded: Array,
        targets: Array,
        weight: Array | None,
        plan: Plan,
        rng: Any,
    ) -> None:
        self._estimator, self._heads, self._plan = estimator, heads, plan
        self._encoded, self._targets, self._weight = encoded, targets, weight
        self._members = int(estimator.n_ensemble)
        self._seeds = rng.randint(2**31 - 1, size=self._members).tolist()
        rows = len(encoded)
        self._whole = self._folds = [(np.arange(rows), np.arange(0))]
        self._kept = np.arange(0)
        if rows > 1 and (not plan.tiny or any(head.folds for head in heads)):
            self._folds = folds(targets, min(_FOLDS, rows), rng)
            self._kept = rng.permutation(rows)[:_KEPT]

    def run(self) -> list[Ensemble]:
        """Trains; an ensemble for each head."""
        first = min(self._members, len(self._folds))
        tries = [(head, recipe) for head in self._heads for recipe in self._plan.recipes(head)]
        tried = list(zip(tries, self._train(tries, range(first)), strict=True))
        chosen = []
        for head in self._heads:
            own = [(recipe, models) for (other, recipe), models in tried if other is head]
            chosen.append(min(own, key=lambda entry: self._judged(head, *entry)))
        winners = [(head, recipe) for head, (recipe, _) in zip(self._heads, chosen, strict=True)]
        others = self._train(winners, range(first, self._members))
        ensembles = []
        for (head, recipe), (_, models), more in zip(winners, chosen, others, strict=True):
            known = self._known(head, models + more)
            ensembles.append(Ensemble(models + more, self._plan.epochs(recipe), known))
        return ensembles

    def _train(self, ways: Sequence[tuple[Head, Recipe]], members: range) -> list[list[Sequential]]:
        """These members of each head, trained by the recipe beside it."""
        jobs = [(head, recipe, member) for head, recipe in ways for member in members]
        trainers = [self._trainer(*job) for job in jobs]
        if jobs:
            fit_many(
                trainers,
                self._encoded,
                self._targets,
                rows=[self._part(head, member)[0] for head, _, member in jobs],
                sample_weight=self._weight,
                epochs=self._plan.longest,
                max_steps=self._plan.max_steps,
                batch_size=self._plan.batch_size,
                callbacks=lambda number: [_Until(self._plan.epochs(jobs[number][1]))],
                progress=bool(self._estimator.verbose),
            )
            if all(trainer.stopped_by == "DivergedError" for trainer in trainers):
                raise DivergedError(
                    "every network has diverged; a smaller learning_rate than "
                    f"{self._estimator.learning_rate!r} usually helps"
                )
        models = [trainer.model for trainer in trainers]
        return [models[len(members) * way :][: len(members)] for way in range(len(ways))]

    def _part(self, head: Head, member: int) -> tuple[Array, Array]:
        """Rows that a member is trained on, and those that it holds out."""
        parts = self._folds if head.folds or not self._plan.tiny else self._whole
        return parts[member % len(parts)]

    def _trainer(self, head: Head, recipe: Recipe, member: int) -> Trainer:
        """One member, not yet trained."""
        estimator, plan, seed = self._estimator, self._plan, self._seeds[member]
        # What is dropped depends on the places of rows; few rows shall weigh as their repetitions.
        dropout = 0.0 if plan.tiny else _first(estimator.dropout, recipe.dropout)
        smoothing = _first(getattr(estimator, "label_smoothing", None), recipe.label_smoothing)
        layers: list[Layer] = []
        for units in estimator.hidden_layer_sizes:
            layers.append(Dense(units, activation=estimator.activation))
            if dropout > 0.0:
                layers.append(Dropout(dropout))
        layers.append(Dense(head.outputs))
        steps = min(plan.epochs(recipe) * plan.steps, plan.max_steps)
        optimizer = AdamW(
            learning_rate=Cosine(estimator.learning_rate, steps=steps),
            weight_decay=estimator.weight_decay,
            beta2=_BETA2,
        )
        model = Sequential(layers, seed=seed, dtype=plan.dtype)
        loss = head.loss(smoothing)
        return Trainer(model, loss=loss, optimizer=optimizer, metrics=[], seed=seed)

    def _known(
        self, head: Head, models: list[Sequential]
    ) -> tuple[Array, Array, Array | None] | None:
        """What the members say of rows that they hold out, on average, with targets and weights."""
        rows, sums = self._kept, np.zeros(1)
        counts = np.zeros((len(rows), 1))
        if not rows.size:
            return None
        for member, model in enumerate(models):
            own = np.isin(rows, self._part(head, member)[1])[:, np.newaxis]
            sums = sums + own * head.read_out(model.predict(self._encoded[rows]))
            counts += own
        some = counts[:, 0] > 0
        if not some.any():
            return None
        rows, outputs = rows[some], sums[some] / counts[some]
        return outputs, self._targets[rows], None if self._weight is None else self._weight[rows]

    def _judged(self, head: Head, recipe: Recipe, models: list[Sequential]) -> float:
        """The loss on held-out rows."""
        known = self._known(head, models)
        if known is None:
            return 0.0
        loss = head.judge(*known)
        name = type(self._estimator).__name__
        _LOG.debug("%s, %r: %.6g on held-out rows", name, recipe, loss)
        return loss if np.isfinite(loss) else np.inf


def mean_output(models: list[Sequential], encoded: Array, read_out: Any) -> Array:
    """The mean over the members."""
    return np.asarray(sum(read_out(model.predict(encoded)) for model in models) / len(models))


class _Until(Callback):
    """Ends a training after so many epochs."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> bool:
        return epoch + 1 >= self.epochs


def folds(targets: Array, count: int, rng: Any) -> list[tuple[Array, Array]]:
    """For each fold the rows to train on and to hold out; of each class its share."""
    labels = targets if targets.ndim == 1 else np.zeros(len(targets))
    order = np.lexsort((rng.permutation(len(targets)), labels))
    fold = np.empty(len(targets), np.intp)
    fold[order] = np.arange(len(targets)) % count
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(count)]


def _first(given: float | None, otherwise: float) -> float:
    return otherwise if given is None else given
