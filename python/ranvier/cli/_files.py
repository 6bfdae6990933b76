"""Model files as the commands read them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._arrays import Array
from .._files import Reader, decode
from .._predictor import Predictor
from .._table import Category, Number, Table
from ..errors import ArgumentError, FileFormatError
from ..layers import Dense
from ..losses import MSE, CrossEntropy, Loss
from ..model import Sequential, read_predictor
from ..quantization import QuantizedSequential
from ..quantization import figures as measured
from ._output import figure, note
from ._tables import ENDINGS, Frame

# What is told of predictions besides the loss, of quantities and of classes.
_FIGURES = (
    ["r2", "rmse", "mae"],
    ["accuracy", "balanced_accuracy", "f1", "roc_auc", "log_loss", "brier"],
)


@dataclass(frozen=True)
class ModelFile:
    """What a file holds.

    Args:
        path: of the file.
        metadata: as text.
        model: the network, quantised or not.
        table: how a table becomes its input; None in a file that no command has written.
        training: how it was trained; empty where the file does not say.
    """

    path: str
    metadata: dict[str, str]
    model: Sequential | QuantizedSequential
    table: Table | None
    training: dict[str, Any]

    @classmethod
    def read(cls, path: str) -> ModelFile:
        """Reads and checks a file."""
        try:
            reader = Reader(path)
        except FileFormatError as error:
            if not path.lower().endswith(ENDINGS):
                raise
            raise ArgumentError(
                f"MODEL: expected a model file, such as `ranvier train` writes, got a table, {path}"
            ) from error
        model = read_predictor(reader)
        table, training = None, {}
        if "ranvier.table" in reader.metadata:
            table = reader.take("ranvier.table", Table.from_json)
            outputs = 1 if table.classes is None else len(table.classes)
            if (len(table.inputs), outputs) != (model.input_size, model.output_size):
                raise reader.fault(
                    f"a table of {len(table.inputs)} inputs and {outputs} outputs for a network of "
                    f"{model.input_size} and {model.output_size}"
                )
        for key in ("ranvier.training", "ranvier.run"):
            if key in reader.metadata:
                training = reader.take(key, _training)
        return cls(path, reader.metadata, model, table, training)

    @property
    def loss(self) -> Loss:
        """The loss that the outputs are for: by the table, else the file's, else the square."""
        if self.table is not None:
            return MSE() if self.table.classes is None else CrossEntropy()
        stored = decode(self.training.get("loss"))
        return stored if isinstance(stored, Loss) else MSE()

    def require_table(self) -> Table:
        """The table, of a file of `ranvier train`."""
        if self.table is None:
            raise ArgumentError(
                f"{self.path}: expected a model of `ranvier train`, which knows the columns of its "
                "table, got one without; ranvier.load reads it in Python"
            )
        return self.table


def encoded(table: Table, frame: Frame) -> tuple[Array, dict[str, int]]:
    """The network's input of a table, and in how many rows each column has a new category."""
    frame.require([column.name for column in table.columns], "of the training")
    values, strange = {}, {}
    for column in table.columns:
        values[column.name] = frame.read(column.name, column.kind)
        if isinstance(column, Number) and not column.indicator:
            lacking = int(np.isnan(values[column.name]).sum())
            if lacking:
                note(
                    f"column {column.name!r}: {lacking} of {frame.rows} rows have no value, which "
                    f"the training always had: {column.fill:.6g} is taken"
                )
        if isinstance(column, Category) and not column.others:
            unknown = Counter(column.unknown(values[column.name]))
            if unknown:
                strange[column.name] = unknown.total()
                shown = ", ".join(
                    "a missing value" if u is None else repr(u) for u in [*unknown][:5]
                )
                more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
                note(
                    f"column {column.name!r}: {unknown.total()} of {frame.rows} rows have a "
                    f"category that the training has not seen, taken as none: {shown}{more}"
                )
    return table.encode(values, frame.rows), strange


def metrics_of(loss: Any) -> list[Any]:
    """What is told of predictions besides the loss."""
    return [*_FIGURES[isinstance(loss, CrossEntropy)]]


def scored(model: Predictor, loss: Any, X: Array, y: Array) -> dict[str, float]:
    """Loss and figures of a model's predictions."""
    return measured(model, X, y, loss, metrics_of(loss))


def network(model: Predictor) -> str:
    """The widths of a network."""
    widths = [layer.units for layer in model.layers if isinstance(layer, Dense)]
    return "-".join(map(str, [model.input_size, *widths]))


def figures(values: dict[str, Any]) -> list[tuple[str, str]]:
    """Figures by name, for people."""
    return [(name.replace("_", " "), figure(value)) for name, value in values.items()]


def _training(entry: dict[str, Any]) -> dict[str, Any]:
    """How a model was trained, as a file says."""
    history = entry["history"]
    if not isinstance(history, dict) or not all(isinstance(v, list) for v in history.values()):
        raise ValueError("a history that is none")
    if len({len(column) for column in history.values()}) > 1:
        raise ValueError("a history whose columns do not agree")
    scores = entry.get("scores", {})
    if not isinstance(scores, dict):
        raise ValueError("scores that are none")
    for column in (*history.values(), list(scores.values())):
        if not all(value is None or isinstance(value, int | float) for value in column):
            raise ValueError("a history of other things than numbers")
    if history and not all(isinstance(value, int) for value in history["epoch"]):
        raise ValueError("a history without numbers of epochs")
    decode(entry.get("loss"))
    return entry
