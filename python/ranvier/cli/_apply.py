"""`ranvier predict` and `ranvier evaluate`: a model file on a table."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from .._arrays import Array
from .._table import Table
from ..config import set_num_threads
from ..errors import ArgumentError
from ._files import ModelFile, encoded, figures, scored
from ._output import aligned, check_place, note, report, write
from ._tables import Frame, as_lists, read_table, table_bytes
from ._train import labelled


def predict(options: argparse.Namespace) -> int:
    """Writes a column of predictions, and of each class's probability where asked for."""
    table_on_stdout = options.out == "-" and not options.json
    if options.out != "-":
        check_place(options.out, "--out", [options.model, options.data], device=True)
    file, table, frame = _read(options)
    frame.require(options.keep, "of --keep")
    if options.probabilities and table.classes is None:
        raise ArgumentError(
            f"--probabilities: expected a model of classes, got one of a quantity, {table.target!r}"
        )
    X, unknown = encoded(table, frame)
    output = file.model.predict(X)
    name = table.target if table.target not in options.keep else f"predicted {table.target}"
    columns: dict[str, Any] = dict(frame.pick(options.keep))
    if table.classes is None:
        columns[name] = output[:, 0]
    else:
        columns[name] = [table.classes[number] for number in output.argmax(axis=1)]
        if options.probabilities:
            for value, column in zip(table.classes, _probabilities(output).T, strict=True):
                columns[f"probability {value}"] = column.astype(output.dtype)
    document = {"model": options.model, "data": options.data, "rows": frame.rows}
    document |= {"unknown_categories": unknown, "out": None if options.out == "-" else options.out}
    if options.out != "-" or table_on_stdout:
        write(options.out, table_bytes(columns, options.out))
    if options.json:
        if options.out == "-":
            document["predictions"] = as_lists(columns)
        report(document, (), True)
    elif not table_on_stdout:
        note(f"{frame.rows} predictions written to {options.out}")
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """Prints figures of the predictions."""
    file, table, frame = _read(options)
    X, y = labelled(frame, table)
    scores = scored(file.model, file.loss, X, y)
    document = {"model": options.model, "data": options.data, "target": table.target}
    document |= {"rows": len(y), "scores": scores}
    lines = aligned([("rows", str(len(y))), *figures(scores)])
    report(document, lines, options.json)
    return 0


def _read(options: argparse.Namespace) -> tuple[ModelFile, Table, Frame]:
    """The model, its table, and the rows."""
    if options.threads is not None:
        set_num_threads(options.threads)
    file = ModelFile.read(options.model)
    table = file.require_table()
    return file, table, read_table(options.data, options.separator, table.missing)


def _probabilities(output: Array) -> Array:
    """Softmax of raw outputs."""
    wide = output.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
