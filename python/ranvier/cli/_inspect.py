"""`ranvier inspect`: what a model file holds; `ranvier config`: what runs it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .._arrays import Array
from .._predictor import of_layer
from .._table import Category, Column
from ..config import config, show_config
from ..errors import ArgumentError
from ..history import History
from ..quantization import QuantizedSequential
from ._files import ModelFile, figures, network
from ._output import aligned, check_plot, figure, note, plot, report

# Epochs of the history that are shown.
_SHOWN = 10


def run(options: argparse.Namespace) -> int:
    """Shows architecture, parameters, columns, history."""
    if options.plot is not None:
        check_plot(options.plot, [options.model])
    file = ModelFile.read(options.model)
    model, table, training = file.model, file.table, file.training
    parameters = model.parameters()
    integers = model.integer_layers if isinstance(model, QuantizedSequential) else ()
    size = Path(options.model).stat().st_size
    history = History(training.get("history", {}))
    document: dict[str, Any] = {
        "model": options.model,
        "kind": file.metadata.get("ranvier.kind"),
        "ranvier": file.metadata.get("ranvier.version"),
        "numerics": int(file.metadata["ranvier.numerics"]),
        "bytes": size,
        "dtype": model.dtype.name,
        "network": network(model),
        "layers": list(map(repr, model.layers)),
        "integer_layers": integers,
        "parameters": model.n_parameters,
        "tensors": {name: list(value.shape) for name, value in parameters.items()},
        "table": None if table is None else table.as_json() | {"inputs": table.inputs},
        "training": training or None,
    }
    lines = aligned(
        [
            ("file", options.model),
            (
                "written by",
                f"ranvier {document['ranvier']}, numerics version {document['numerics']}",
            ),
            (
                "network",
                f"{document['network']}, {model.n_parameters} parameters, {model.dtype}"
                + (f", {len(integers)} layer{'s' * (len(integers) > 1)} int8" if integers else ""),
            ),
            ("size", f"{size} bytes"),
        ]
    )
    for number, layer in enumerate(model.layers):
        own = of_layer(parameters, number)
        shown = _quantized(own) if number in integers else _shapes(own)
        lines.append(f"  {number}  {layer!r}" + (f": {shown}" if shown else ""))
    if table is not None:
        quantity = "a quantity"
        if table.classes is not None:
            quantity = f"{len(table.classes)} classes: {_listed(table.classes)}"
        lines += ["", f"predicts {table.target!r}, {quantity}", "from the columns"]
        lines += [f"  {line}" for line in aligned((c.name, _described(c)) for c in table.columns)]
        if table.left_out:
            lines += ["without", *(f"  {line}" for line in aligned(table.left_out.items()))]
    if training:
        lines += ["", *_trained(training, history, "in floats " if integers else "")]
    report(document, lines, options.json)
    if options.plot is not None:
        if not history.get("epoch"):
            raise ArgumentError(f"--plot: expected a model with a history, got {options.model}")
        plot(history, options.model, options.plot)
        note(f"loss curves written to {options.plot}")
    return 0


def configuration(options: argparse.Namespace) -> int:
    """Shows versions, instruction set, threads."""
    if options.json:
        report(config(), (), True)
    else:
        show_config()
    return 0


def _described(column: Column) -> str:
    if isinstance(column, Category):
        known = ["missing" if c is None else c for c in column.categories]
        others = ", all others together" if column.others else ""
        return f"category: {_listed(known)}{others}"
    missing = f"; missing ones are {column.fill:.6g}" + ", and said to be" * column.indicator
    return f"{column.kind}{missing}"


def _shapes(own: dict[str, Array]) -> str:
    """The parameters of a layer."""
    return ", ".join(f"{role} {value.shape}" for role, value in own.items())


def _quantized(own: dict[str, Array]) -> str:
    """Those of a layer that multiplies integers, and how far its inputs reach."""
    scale, zero = float(own["input_scale"]), int(own["input_zero_point"])
    low, high = -zero * scale, (255 - zero) * scale
    shapes = _shapes({role: own[role] for role in ("weight", "bias", "slope") if role in own})
    return f"int8 {shapes}, inputs from {low:.3g} to {high:.3g}"


def _trained(training: dict[str, Any], history: History, how: str) -> list[str]:
    """What is known of the training."""
    rows = history.rows()
    lines = [
        f"{key.replace('_', ' ')} {training[key]}"
        for key in ("rows", "validation_rows", "batch_size", "class_weight")
        if training.get(key) is not None
    ]
    said = f"trained {how}for {len(rows)} epochs"
    if isinstance(training.get("best_epoch"), int):
        said += f", the best one {training['best_epoch'] + 1}"
    if training.get("stopped_by"):
        said += f", ended by {training['stopped_by']}"
    lines = [said + (f" ({', '.join(lines)})" if lines else "")]
    scores = training.get("scores")
    if isinstance(scores, dict):
        lines += [f"  {line}" for line in aligned(figures(scores))]
    names = [name for name in history if name not in ("epoch", "step", "seconds")]
    step = max(1, -(-len(rows) // _SHOWN))
    shown = [row for row in rows if (row["epoch"] + 1) % step == 0 or row is rows[-1]]
    table = [["epoch", *(name.replace("_", " ") for name in names)]]
    table += [[str(row["epoch"] + 1), *(figure(row[name]) for name in names)] for row in shown]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table if shown else []:
        lines.append("  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)))
    return lines


def _listed(values: Any) -> str:
    shown = ", ".join(str(value) for value in values[:8])
    return f"{shown} and {len(values) - 8} more" if len(values) > 8 else shown
