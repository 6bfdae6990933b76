"""`ranvier train`: from a table to a model file."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import compress
from typing import Any

import numpy as np

from .. import _core
from .._arrays import Array
from .._files import encode
from .._table import Category, Class, Column, Number, Table, batch_size
from ..callbacks import EarlyStopping
from ..config import set_num_threads
from ..errors import ArgumentError, DivergedError
from ..layers import Dense, Dropout, Layer, Standardize
from ..losses import MSE, CrossEntropy, Loss, arrays_of
from ..model import Sequential
from ..optimizers import AdamW
from ..schedules import Cosine
from ..trainer import Trainer
from ._files import encoded, figures, network, scored
from ._output import (
    aligned,
    check_place,
    check_plot,
    figure,
    note,
    plot,
    progress,
    report,
    uninterrupted,
)
from ._tables import Frame, read_table

# So many whole numbers, or any two, may be classes, with so many rows each on average.
_MOST_CLASSES = 10
_ROWS_EACH = 5
# With fewer rows none is held out.
_LEAST_HELD_OUT = 10
_SHARE = 0.2


def run(options: argparse.Namespace) -> int:
    """Trains, validates, saves."""
    tables = [options.data, options.validation_data]
    check_place(options.out, "--out", tables)
    if options.validation_data is not None and options.validation_split is not None:
        raise ArgumentError(
            "--validation-split: expected none beside --validation-data, got "
            f"{options.validation_split:g}"
        )
    if options.plot is not None:
        check_plot(options.plot, [*tables, options.out])
    if options.threads is not None:
        set_num_threads(options.threads)
    frame = read_table(options.data, options.separator, options.missing)
    frame.require([options.target], "of --target")
    given: list[str] = [options.target]
    for option in ("categorical", "ignore"):
        names = getattr(options, option)
        frame.require(names, f"of --{option}")
        if twice := sorted(set(names) & set(given)):
            raise ArgumentError(
                f"--{option}: expected other columns than those of --target and --categorical, got "
                f"{twice[0]!r}"
            )
        given += names
    frame, target = known_rows(frame, options.target)
    classes = _classes(target, options)
    if classes is None and options.class_weight is not None:
        raise ArgumentError(
            f"--class-weight: expected a target of classes, got a quantity, {options.target!r}"
        )
    y = targets(frame.source, options.target, target, classes)
    held_out = _held_out(y, classes, options)
    train = np.ones(len(y), bool)
    train[held_out] = False
    table = _table(frame, train, classes, options)
    X, _ = encoded(table, frame)
    validation = (X[held_out], y[held_out]) if len(held_out) else None
    if options.validation_data is not None:
        validation = _validation(options, table)
    trainer = _trainer(X[train], y[train], table, options)
    return _fit(trainer, X[train], y[train], validation, table, options)


def known_rows(frame: Frame, name: str, kind: str | None = None) -> tuple[Frame, list[Class]]:
    """The rows whose target is known, and the targets; of the kind that the column shows."""
    target = frame.targets(name, kind)
    keep = np.array([value is not None for value in target])
    if not keep.any():
        raise ArgumentError(f"{frame.source}: expected values in column {name!r}, got none")
    if not keep.all():
        note(f"{(~keep).sum()} of {frame.rows} rows have no {name!r} and are left out")
        frame = frame.take(keep)
    return frame, [value for value in target if value is not None]


def _classes(target: list[Class], options: argparse.Namespace) -> tuple[Class, ...] | None:
    """The classes of the target, or None for a quantity."""
    classes: tuple[Any, ...] = tuple(sorted(set(target)))
    numbers = not any(isinstance(value, str | bool) for value in classes)
    whole = numbers and all(isinstance(value, int) for value in classes)
    few = whole and len(classes) <= min(_MOST_CLASSES, len(target) // _ROWS_EACH)
    few |= len(classes) == 2 and len(target) >= 2 * _ROWS_EACH
    if len(classes) < 2:
        raise ArgumentError(
            f"column {options.target!r}: expected different values to predict, got {classes[0]!r} "
            "in all rows"
        )
    task = options.task
    if task is None:
        task = "regression" if numbers and not few else "classification"
        other = "classification" if task == "regression" else "regression"
        hint = f"; if it is not, pass --task {other}" if numbers else ""
        kind = "a quantity" if task == "regression" else f"{len(classes)} classes"
        note(f"{options.target!r} is taken for {kind}: {task}{hint}")
    if task == "regression":
        if not numbers:
            raise ArgumentError(
                f"column {options.target!r}: expected numbers for --task regression, got "
                f"{classes[0]!r}"
            )
        return None
    if len(classes) > len(target) // 2:
        raise ArgumentError(
            f"column {options.target!r}: expected classes of several rows each, got "
            f"{len(classes)} different values in {len(target)} rows, such as {classes[0]!r}"
        )
    return classes if whole or not numbers else tuple(map(float, classes))


def targets(
    source: str, name: str, target: Sequence[Class], classes: tuple[Class, ...] | None
) -> Array:
    """Targets as the loss takes them: numbers of classes, or quantities."""
    if classes is None:
        return np.array(target, np.float64)
    numbers = {value: number for number, value in enumerate(classes)}
    try:
        return np.array([numbers[value] for value in target])
    except KeyError as error:
        strange = next(value for value in target if value not in numbers)
        raise ArgumentError(
            f"{source}: expected classes of the training in column {name!r}, "
            f"{', '.join(map(repr, classes[:10]))}, got {strange!r}"
        ) from error


def _held_out(y: Array, classes: Any, options: argparse.Namespace) -> Array:
    """Rows for validation, as `Trainer.fit(validation_split=)` draws them."""
    none: Array = np.arange(0)
    if options.validation_data is not None or options.validation_split == 0.0:
        return none
    share = _SHARE if options.validation_split is None else options.validation_split
    if len(y) < _LEAST_HELD_OUT:
        note(f"{len(y)} rows are too few to hold some out: no validation")
        return none
    loss = MSE() if classes is None else CrossEntropy()
    arrays = arrays_of(np.zeros((len(y), 1)), y, None, loss, np.dtype(np.float64))
    arrays["given"] = (None, None)
    rows = _core.holdout(arrays, (share, options.seed))
    return np.frombuffer(rows, np.uint32)


def _table(
    frame: Frame, train: Array, classes: tuple[Class, ...] | None, options: argparse.Namespace
) -> Table:
    """The columns that serve, as the training rows suggest."""
    columns: list[Column] = []
    left_out: dict[str, str] = {}
    for name in frame.names:
        if name == options.target:
            continue
        if name in options.ignore:
            left_out[name] = "--ignore"
            continue
        kind, reason = ("category", "") if name in options.categorical else frame.kind(name)
        if kind:
            values = frame.read(name, kind)
            column = (
                Category.of(name, list(compress(values, train)))
                if kind == "category"
                else Number.of(name, kind, values[train])
            )
            if column.inputs:
                columns.append(column)
            else:
                rare = kind == "category" and len(set(values)) > 1
                reason = "all its texts are rare" if rare else "it is the same in all rows"
        if reason:
            left_out[name] = reason
    for name, reason in left_out.items():
        if name not in options.ignore:
            note(f"column {name!r} is left out: {reason}")
    if not columns:
        raise ArgumentError(
            f"{frame.source}: expected a column to predict {options.target!r} from, got none that "
            "serves"
        )
    return Table(options.target, classes, tuple(columns), left_out, tuple(options.missing))


def _validation(options: argparse.Namespace, table: Table) -> tuple[Array, Array]:
    """The rows of --validation-data."""
    frame = read_table(options.validation_data, options.separator, table.missing)
    return labelled(frame, table)


def labelled(frame: Frame, table: Table) -> tuple[Array, Array]:
    """Inputs and targets of the rows whose target is known."""
    frame.require([table.target], "to compare with")
    frame, target = known_rows(frame, table.target, table.target_kind)
    return encoded(table, frame)[0], targets(frame.source, table.target, target, table.classes)


def _trainer(X: Array, y: Array, table: Table, options: argparse.Namespace) -> Trainer:
    """A network for the table, its numbers scaled, and how it is trained."""
    scaled = table.scaled
    layers: list[Layer] = [Standardize()] if scaled.any() else []
    for units in options.hidden:
        layers.append(Dense(units, activation=options.activation))
        if options.dropout > 0.0:
            layers.append(Dropout(options.dropout))
    layers.append(Dense(1 if table.classes is None else len(table.classes)))
    if table.classes is None:
        layers.append(Standardize(of="targets"))
    model = Sequential(layers, input_size=X.shape[1], seed=options.seed, dtype=options.dtype)
    if scaled.any():
        model.set_parameters(_moments(X, table, model.dtype))
    size = options.batch_size or batch_size(len(X))
    steps = options.epochs * -(-len(X) // size)
    rule = AdamW(
        learning_rate=Cosine(options.learning_rate, steps=steps),
        weight_decay=options.weight_decay,
        beta2=0.99,
    )
    loss: Loss = MSE() if table.classes is None else CrossEntropy()
    metrics: Any = ["r2" if table.classes is None else "accuracy"]
    return Trainer(model, loss=loss, optimizer=rule, metrics=metrics, seed=options.seed)


def _moments(X: Array, table: Table, dtype: np.dtype[Any]) -> dict[str, Array]:
    """What the first layer scales by; a variance of 0 lets an input pass as it is."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        means = np.where(table.scaled, X.mean(axis=0), 0.0)
        variances = np.where(table.scaled, X.var(axis=0), 0.0)
        held = np.isfinite(means.astype(dtype)) & np.isfinite(variances.astype(dtype))
        held &= variances.astype(dtype) > 0
    strange = np.flatnonzero(table.scaled & ~held)
    if strange.size:
        hint = " or pass --dtype float64" if dtype == np.float32 else ""
        raise ArgumentError(
            f"column {table.inputs[strange[0]]!r}: expected numbers whose variance {dtype} can "
            f"hold, got {variances[strange[0]]:.1e}; divide or multiply them{hint}"
        )
    return {"0.running_mean": means, "0.running_var": variances}


def _fit(
    trainer: Trainer,
    X: Array,
    y: Array,
    validation: tuple[Array, Array] | None,
    table: Table,
    options: argparse.Namespace,
) -> int:
    """Trains, saves, reports."""
    model, held_out = trainer.model, 0 if validation is None else len(validation[1])
    size = options.batch_size or batch_size(len(X))
    note(
        f"{len(X)} rows to train, {held_out} to validate; {len(table.columns)} columns, network "
        f"{network(model)}, {model.n_parameters} parameters, batches of {size}"
    )
    begun = time.perf_counter()
    try:
        trainer.fit(
            X,
            y,
            epochs=options.epochs,
            batch_size=size,
            validation_data=validation,
            class_weight=options.class_weight,
            callbacks=[
                EarlyStopping(patience=options.patience),
                *progress(options.epochs, quiet=options.quiet),
            ],
            raise_on_interrupt=False,
        )
    except DivergedError as error:
        raise DivergedError(
            f"{str(error).partition(';')[0]}; nothing was saved, a smaller --learning-rate than "
            f"{options.learning_rate:g} usually helps"
        ) from error
    seconds = time.perf_counter() - begun
    if not trainer.history.get("epoch"):
        note("interrupted before the first epoch had ended: nothing was saved")
        return 130
    with uninterrupted():
        return _finish(trainer, X, y, validation, table, options, seconds)


def _finish(
    trainer: Trainer,
    X: Array,
    y: Array,
    validation: tuple[Array, Array] | None,
    table: Table,
    options: argparse.Namespace,
    seconds: float,
) -> int:
    """Saves, reports; 130 for a training that Ctrl-C has ended."""
    model, held_out = trainer.model, 0 if validation is None else len(validation[1])
    history, best = trainer.history, trainer.best_epoch
    interrupted = trainer.stopped_by == "KeyboardInterrupt"
    done = len(history["epoch"])
    scores = scored(model, trainer.loss, *(validation or (X, y)))
    baseline = _baseline(y, table)
    document = {
        "model": options.out,
        "task": "regression" if table.classes is None else "classification",
        "target": table.target,
        "classes": table.classes,
        "columns": [column.name for column in table.columns],
        "left_out": dict(table.left_out),
        "rows": len(X),
        "validation_rows": held_out,
        "network": network(model),
        "parameters": model.n_parameters,
        "batch_size": options.batch_size or batch_size(len(X)),
        "class_weight": options.class_weight,
        "epochs": done,
        "best_epoch": best,
        "stopped_by": "interrupt" if interrupted else trainer.stopped_by,
        "seconds": seconds,
        "validation" if held_out else "training": scores,
        "baseline": baseline,
    }
    # Without the seconds, so that the same training gives the same bytes.
    kept = "rows validation_rows batch_size class_weight best_epoch stopped_by"
    training = {name: document[name] for name in kept.split()} | {
        "history": {name: values for name, values in history.items() if name != "seconds"},
        "loss": encode(trainer.loss),
        "optimizer": encode(trainer.optimizer),
        "scores": scores,
    }
    model._write(options.out, {"ranvier.table": table.as_json(), "ranvier.training": training})
    rows = [
        (
            "epochs",
            f"{done} of {options.epochs} in {seconds:.2f} s, the best one {1 + (best or 0)}",
        ),
        *(((f"{'validation' if held_out else 'training'} {k}"), v) for k, v in figures(scores)),
        *((k, figure(v)) for k, v in baseline.items()),
        ("saved", options.out),
    ]
    report(document, aligned(rows), options.json)
    if options.plot is not None:
        plot(history, f"{options.data}: {table.target}", options.plot)
        note(f"loss curves written to {options.plot}")
    if interrupted:
        note(f"interrupted: the best model so far was saved to {options.out}")
        return 130
    return 0


def _baseline(y: Array, table: Table) -> dict[str, float]:
    """What a constant prediction reaches on the training rows."""
    if table.classes is None:
        return {"rmse of the mean": float(y.std())}
    return {"share of the largest class": float(np.bincount(y).max() / len(y))}
