"""`ranvier export`: a model in the format of another place."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import export
from .._crosscheck import TOLERANCE
from ..errors import ArgumentError
from ..model import Sequential
from ..quantization import QuantizedSequential
from ._files import ModelFile, encoded
from ._options import ENDINGS, formats
from ._output import check_place, note, report
from ._tables import read_table

# A step of a layer's inputs in 8 bits, as a share of their range.
_STEP = 1 / 255


def run(options: argparse.Namespace) -> int:
    """Writes the files; 1 if they are to be checked and do not agree, or cannot be run."""
    check_place(options.out, "--out", [options.model, options.data])
    if options.data is not None and not options.check:
        raise ArgumentError(f"--data: expected --check beside it, got {options.data} alone")
    kind = options.format or ENDINGS.get(Path(options.out).suffix.lower())
    if kind not in formats():
        known = ", ".join(ending for ending, name in ENDINGS.items() if name in formats())
        raise ArgumentError(
            f"--out: expected a name that ends in {known}, or --format, got {options.out}"
        )
    file = ModelFile.read(options.model)
    given: dict[str, Any] = {"check": options.check}
    if options.data is not None:
        table = file.require_table()
        given["X"] = encoded(table, read_table(options.data, options.separator, table.missing))[0]
    agreement = getattr(export, kind)(file.model, options.out, **given)
    document = {"model": options.model} | asdict(agreement)
    if not agreement.rows:
        document["bit_equal"] = None
    if file.table is not None:
        document["inputs"] = file.table.inputs
        note(
            f"{options.out} takes the {len(file.table.inputs)} inputs that the columns are encoded "
            f"as; ranvier inspect {options.model} --json has their names"
        )
    written = [f"written {path}" for path in agreement.paths]
    report(document, [str(agreement)] if options.check else written, options.json)
    allowed = _allowed(kind, file.model) * agreement.scale
    # A comparison with NaN, of what was not run, is false.
    if options.check and not agreement.max_error <= allowed:
        if agreement.rows:
            note(f"{options.out} DISAGREES with the model: more than {allowed:.1e}")
        return 1
    return 0


def _allowed(kind: str, model: Sequential | QuantizedSequential) -> float:
    """How far outputs may differ, as a share of the largest.

    ONNX divides by the scale where the core multiplies by its inverse: an input halfway between two
    integers may become the other one, and so do some of those that it moves in the layers behind.
    """
    if kind == "onnx" and isinstance(model, QuantizedSequential):
        return _STEP * len(model.integer_layers)
    return TOLERANCE[model.dtype.name]
