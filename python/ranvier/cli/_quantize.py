"""`ranvier quantize`: a model with 8-bit integers, calibrated by the rows of a table."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from .._arrays import Array
from .._table import Table
from ..errors import ArgumentError
from ..model import Sequential
from ..quantization import QuantizationReport, quantization_report
from ._files import ModelFile, encoded, figures, metrics_of
from ._output import aligned, check_place, note, report
from ._tables import Frame, read_table
from ._train import targets

# So many rows calibrate, where some hundreds would do.
_MOST_ROWS = 4096
# What `ranvier train` has written into the file.
_NOTES = ("ranvier.table", "ranvier.training")


def run(options: argparse.Namespace) -> int:
    """Calibrates, compares, saves."""
    check_place(options.out, "--out")
    if options.percentile is not None and options.calibration != "percentile":
        raise ArgumentError(
            f"--percentile: expected --calibration percentile beside it, got {options.calibration}"
        )
    file = ModelFile.read(options.model)
    if not isinstance(file.model, Sequential):
        raise ArgumentError(f"{options.model}: expected a model in floats, got a quantised one")
    if file.table is None:
        raise ArgumentError(
            f"{options.model}: expected a model of `ranvier train`, which knows the columns of its "
            "table, got one without; in Python ranvier.load(path).quantize(X) takes the rows"
        )
    frame = _drawn(read_table(options.data, options.separator, file.table.missing))
    X, _ = encoded(file.table, frame)
    small = file.model.quantize(
        X,
        calibration=options.calibration,
        percentile=options.percentile,
        keep_float=options.keep_float,
    )
    compared: dict[str, Any] = {}
    known, y = _known(frame, file.table)
    if len(y):
        X = X[known]
        compared = {"y": y, "loss": file.loss, "metrics": metrics_of(file.loss)}
    found = quantization_report(file.model, small, X, **compared)
    before = Path(options.model).stat().st_size
    small._write(
        options.out, {name: file.metadata[name] for name in _NOTES if name in file.metadata}
    )
    found = replace(found, sizes=(before, Path(options.out).stat().st_size))
    document = {"model": options.model, "data": options.data, "out": options.out}
    document |= {"calibration": options.calibration, "calibration_rows": frame.rows}
    document |= {"integer_layers": small.integer_layers, "report": asdict(found)}
    if file.table.classes is None:
        document["report"]["agreement"] = None
    report(document, _lines(found, file.table, options.out), options.json)
    return 0


def _lines(found: QuantizationReport, table: Table, out: str) -> list[str]:
    """The report's table of layers, and its figures as the other commands show them."""
    before, after = found.sizes
    rows = [("size", f"{before} -> {after} bytes ({after / before:.2f})")]
    for (name, one), (_, other) in zip(figures(found.before), figures(found.after), strict=True):
        rows.append((name, f"{one} -> {other}"))
    if table.classes is not None:
        rows.append(("the same class", f"in {found.agreement:.2%} of {found.rows} rows"))
    return [*str(found).splitlines()[: len(found.layers) + 1], *aligned([*rows, ("saved", out)])]


def _drawn(frame: Frame) -> Frame:
    """The rows that calibrate: all, or as many as suffice from all over the table."""
    if frame.rows <= _MOST_ROWS:
        note(f"{frame.rows} rows calibrate and are compared")
        return frame
    note(f"{_MOST_ROWS} of {frame.rows} rows, drawn at random, calibrate and are compared")
    kept = np.random.default_rng(0).permutation(frame.rows) < _MOST_ROWS
    return frame.take(kept)


def _known(frame: Frame, table: Table) -> tuple[Array, Array]:
    """Which rows have a target, and the targets; none where the table has not got the column."""
    if table.target not in frame.names:
        return np.zeros(frame.rows, bool), np.zeros(0)
    found = frame.targets(table.target, table.target_kind)
    known = np.array([value is not None for value in found])
    if not known.all() and known.any():
        note(f"{known.sum()} of them have a {table.target!r} and are compared")
    given = [value for value in found if value is not None]
    return known, targets(frame.source, table.target, given, table.classes)
