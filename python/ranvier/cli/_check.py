"""`ranvier check`: a model in the core and in the reference."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from .. import reference
from .._arrays import Array
from .._crosscheck import TOLERANCE, crosscheck, mirror
from .._table import Table
from ..errors import ArgumentError
from ..export._agreement import rows_of
from ..losses import BinaryCrossEntropy, CrossEntropy, GaussianNLL, Loss, Poisson, Quantile
from ..model import Sequential
from ._files import ModelFile, network
from ._output import note, report
from ._tables import read_table
from ._train import labelled


def run(options: argparse.Namespace) -> int:
    """Compares predictions in the model's dtype, then a training from there in float64."""
    file = ModelFile.read(options.model)
    model, loss = file.model, file.loss
    X, y = _rows(file, options)
    note(f"{len(X)} rows through a {network(model)} network in plain Python")
    predicted = _compared(model, X)
    twin = Sequential(model.layers, input_size=model.input_size, seed=model.seed, dtype="float64")
    twin.set_parameters(model.parameters())
    trained = crosscheck(
        twin, X, y, loss=loss, steps=options.steps, batch_size=len(X), seed=options.seed
    )
    allowed = TOLERANCE[model.dtype.name]
    ok = predicted <= allowed and trained.ok
    document = {
        "model": options.model,
        "rows": len(X),
        "drawn": options.data is None,
        "predictions": {"dtype": model.dtype.name, "max_error": predicted, "allowed": allowed},
        "training": {
            "dtype": "float64",
            "loss": repr(loss),
            "steps": options.steps,
            "max_error": trained.max_error,
            "allowed_per_step": trained.tolerance,
        },
        "ok": ok,
    }
    verdict = "agree" if predicted <= allowed else "DISAGREE"
    lines = [
        f"predictions in {model.dtype}: core and reference {verdict}: largest deviation "
        f"{predicted:.1e}, allowed {allowed:.0e}",
        f"{options.steps} steps of training by {loss!r} in float64:",
        *(f"  {line}" for line in str(trained).splitlines()),
    ]
    report(document, lines, options.json)
    return 0 if ok else 1


def _rows(file: ModelFile, options: argparse.Namespace) -> tuple[Array, Any]:
    """Rows of the table, the first of those whose target is known; or drawn ones."""
    if options.data is not None:
        table = file.require_table()
        frame = read_table(options.data, options.separator, table.missing)
        X, y = labelled(frame.take(np.arange(frame.rows) < options.rows), table)
        return X.astype(file.model.dtype), y
    rng = np.random.default_rng(options.seed)
    drawn = rows_of(file.model, None)
    X = drawn[rng.integers(len(drawn), size=options.rows)]
    return X, _drawn(file.model, file.loss, file.model.predict(X), file.table, rng)


def _drawn(
    model: Sequential, loss: Loss, output: Array, table: Table | None, rng: np.random.Generator
) -> Array:
    """Targets that the loss takes, near the outputs where they are quantities."""
    rows, outputs = output.shape
    match loss:
        case CrossEntropy():
            return np.asarray(rng.integers(outputs, size=rows))
        case BinaryCrossEntropy():
            return np.asarray(rng.integers(2, size=(rows, outputs)))
        case Poisson():
            return np.asarray(rng.poisson(2.0, size=(rows, outputs)))
    per_target = 2 if isinstance(loss, GaussianNLL) else 1
    if isinstance(loss, Quantile):
        per_target = np.size(loss.q)
    values = output[:, ::per_target].astype(np.float64)
    return np.asarray(values + (values.std() or 1.0) * rng.normal(size=values.shape))


def _compared(model: Sequential, X: Array) -> float:
    """The largest difference of two predictions over the largest prediction."""
    twin = reference.Sequential(
        [mirror(layer, reference) for layer in model.layers],
        input_size=X.shape[1],
        seed=model.seed,
    )
    twin.set_parameters({name: array.tolist() for name, array in model.parameters().items()})
    expected = np.asarray(twin.predict(X.tolist()), np.float64)
    found = model.predict(X).astype(np.float64)
    if not np.isfinite(expected).all():
        raise ArgumentError("the model: expected finite predictions to compare, got others")
    difference = float(np.abs(found - expected).max())
    return difference / float(np.abs(expected).max() or 1.0)
