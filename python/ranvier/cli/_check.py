"""`ranvier check`: a model in the core and in the reference."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from .. import reference
from .._arrays import Array
from .._crosscheck import TOLERANCE, crosscheck, mirror
from .._predictor import of_layer
from ..errors import ArgumentError
from ..export._agreement import rows_of
from ..losses import BinaryCrossEntropy, CrossEntropy, GaussianNLL, Loss, Poisson, Quantile
from ..model import Sequential
from ..quantization import QuantizedSequential, stages
from ._files import ModelFile, encoded, network
from ._output import note, report
from ._tables import read_table
from ._train import labelled

_STEPS = 3
# Error of two roundings to float32, of 1 / scale and of the product with it; and as much again.
_HALFWAY = 2.0**-22


def run(options: argparse.Namespace) -> int:
    """Compares predictions in the model's dtype, then a training from there in float64.

    A quantised network is not trained.
    """
    file = ModelFile.read(options.model)
    if isinstance(file.model, QuantizedSequential):
        found, lines, ok = _quantized(file, file.model, options)
    else:
        found, lines, ok = _floats(file, file.model, options)
    document = {"model": options.model, "drawn": options.data is None} | found | {"ok": ok}
    report(document, lines, options.json)
    return 0 if ok else 1


def _floats(
    file: ModelFile, model: Sequential, options: argparse.Namespace
) -> tuple[dict[str, Any], list[str], bool]:
    """Predictions and training."""
    X, y = _rows(file, model, options)
    _announce(model, X)
    document, lines, ok = _predictions(model.dtype.name, _compared(model, X))
    steps = options.steps or _STEPS
    twin = Sequential(model.layers, input_size=model.input_size, seed=model.seed, dtype="float64")
    twin.set_parameters(model.parameters())
    trained = crosscheck(
        twin, X, y, loss=file.loss, steps=steps, batch_size=len(X), seed=options.seed
    )
    document["training"] = {
        "dtype": "float64",
        "loss": repr(file.loss),
        "steps": steps,
        "max_error": trained.max_error,
        "allowed_per_step": trained.tolerance,
    }
    lines.append(f"{steps} steps of training by {file.loss!r} in float64:")
    lines += [f"  {line}" for line in str(trained).splitlines()]
    return {"rows": len(X)} | document, lines, ok and trained.ok


def _quantized(
    file: ModelFile, model: QuantizedSequential, options: argparse.Namespace
) -> tuple[dict[str, Any], list[str], bool]:
    """Predictions, layer by layer."""
    if options.steps is not None:
        raise ArgumentError(
            f"--steps: expected none for {file.path}, which is quantised and not trained any "
            f"more, got {options.steps}"
        )
    X = _inputs(file, options)
    _announce(model, X)
    document, lines, ok = _predictions(
        model.dtype.name, _compared_by_layers(model, X), " and int8, layer by layer"
    )
    document["predictions"]["integer_layers"] = model.integer_layers
    return {"rows": len(X)} | document, lines, ok


def _announce(model: Sequential | QuantizedSequential, X: Array) -> None:
    note(f"{len(X)} rows through a {network(model)} network in plain Python")


def _predictions(dtype: str, error: float, how: str = "") -> tuple[dict[str, Any], list[str], bool]:
    """What is said of a deviation of predictions."""
    allowed = TOLERANCE[dtype]
    verdict = "agree" if error <= allowed else "DISAGREE"
    line = (
        f"predictions in {dtype}{how}: core and reference {verdict}: largest deviation "
        f"{error:.1e}, allowed {allowed:.0e}"
    )
    figures = {"dtype": dtype, "max_error": error, "allowed": allowed}
    return {"predictions": figures}, [line], error <= allowed


def _rows(file: ModelFile, model: Sequential, options: argparse.Namespace) -> tuple[Array, Any]:
    """Rows of the table, the first of those whose target is known; or drawn ones."""
    if options.data is not None:
        table = file.require_table()
        frame = read_table(options.data, options.separator, table.missing)
        X, y = labelled(frame.take(np.arange(frame.rows) < options.rows), table)
        return X.astype(model.dtype), y
    X = _inputs(file, options)
    return X, _drawn(file.loss, model.predict(X), np.random.default_rng(options.seed))


def _inputs(file: ModelFile, options: argparse.Namespace) -> Array:
    """The first rows of the table, with a target or without; or drawn ones."""
    if options.data is not None:
        table = file.require_table()
        frame = read_table(options.data, options.separator, table.missing)
        X, _ = encoded(table, frame.take(np.arange(frame.rows) < options.rows))
    else:
        drawn = rows_of(file.model, None)
        X = drawn[np.random.default_rng(options.seed).integers(len(drawn), size=options.rows)]
    return np.asarray(X, file.model.dtype)


def _drawn(loss: Loss, output: Array, rng: np.random.Generator) -> Array:
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
    """The deviation of predictions."""
    twin = reference.Sequential(
        [mirror(layer, reference) for layer in model.layers],
        input_size=X.shape[1],
        seed=model.seed,
    )
    twin.set_parameters({name: array.tolist() for name, array in model.parameters().items()})
    return _deviation(model.predict(X), twin.predict(X.tolist()))


def _compared_by_layers(model: QuantizedSequential, X: Array) -> float:
    """The largest deviation of a layer's outputs, given the inputs that the core's layer has.

    From end to end, inputs that differ in their last bits could become integers that differ by one.
    """
    parameters = model.parameters()
    deviations = []
    for number, x, found in stages(model, X):
        own = {f"0.{role}": value for role, value in of_layer(parameters, number).items()}
        twin = reference.QuantizedSequential(
            [mirror(model.layers[number], reference)],
            {name: value.tolist() for name, value in own.items()},
        )
        told = _told(x, own) if number in model.integer_layers else x
        deviations.append(_deviation(found, twin.predict(told.tolist())))
        if not np.isfinite(found).all():
            break
    return float(np.max(deviations))


def _told(x: Array, own: dict[str, Array]) -> Array:
    """Inputs as the reference, in float64, is told them.

    Which of two integers an input halfway between them becomes is a matter of the last bit of
    float32: it is given as the number that the integer stands for which float32 arithmetic takes.
    """
    scale, zero = own["0.input_scale"], np.float32(own["0.input_zero_point"])
    with np.errstate(over="ignore"):
        product = x * (np.float32(1.0) / scale)
    integers = np.rint(np.clip(product, -zero, 255 - zero)).astype(np.float64)
    exact = x.astype(np.float64) / scale
    halfway = np.abs(np.abs(exact - np.rint(exact)) - 0.5) <= _HALFWAY * np.abs(exact)
    return np.where(halfway, integers * scale, x)


def _deviation(found: Array, expected: Any) -> float:
    """The largest difference over the largest expected number."""
    exact = np.asarray(expected, np.float64)
    if not np.isfinite(exact).all():
        raise ArgumentError("the model: expected finite predictions to compare, got others")
    difference = float(np.abs(found - exact).max())
    return difference / float(np.abs(exact).max() or 1.0)
