"""`crosscheck`: trains a model and something that should do the same, and compares the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, islice
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from .._arrays import Array, boolean, integer, real
from ..errors import ArgumentError, DTypeError
from ..layers import Standardize
from ..losses import CustomLoss, Loss, LossLike, arrays_of
from ..losses import get as get_loss
from ..model import Sequential, checked_model
from ..optimizers import FirstOrder, OptimizerLike
from ..optimizers import get as get_optimizer
from ._reference import against_reference
from ._report import CrosscheckReport
from ._trace import Batch, Trace

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["crosscheck"]

# Error per step, relative to the largest value that a tensor has had (rounding of one step).
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def crosscheck(
    model: Sequential,
    X: ArrayLike,
    y: Any,
    *,
    loss: LossLike,
    optimizer: OptimizerLike = "adam",
    against: Any = "reference",
    steps: int = 5,
    batch_size: int | None = None,
    shuffle: bool = True,
    sample_weight: ArrayLike | None = None,
    seed: int = 0,
    tolerance: float | None = None,
) -> CrosscheckReport:
    """Trains copies of the model in ranvier and elsewhere and compares them number by number.

    Both start from the model's parameters and get the same batches, drawn from the seed. Nothing
    that is passed changes.

    The reference and the core each go on from their own numbers, with the same dropout masks, and
    measure the data for `Standardize` where the model has not been fitted. The reference is plain
    Python: a network of some thousand parameters and a few steps take a second.

    With anything else every step is judged on its own: ranvier computes it from the numbers that
    the other training has reached, and its optimizer gets the other's gradients. So errors do not
    add up, and the first deviation names its cause: an output, the loss, a gradient or a parameter
    after the update. Where rounding of the inputs alone moves a figure by more than the tolerance,
    that much is allowed. Hints are hypotheses that have been tried on the numbers.

    Args:
        model: a model that knows its input_size.
        X: (rows, input_size).
        y: targets as the loss takes them.
        loss: as for `Trainer`; what ranvier is to use.
        optimizer: as for `Trainer`; what ranvier is to use.
        against: with what to compare:

            - "reference": `ranvier.reference`;
            - (module, loss, optimizer) of PyTorch: any module whose parameters come in the order of
              the model's layers, with the functions that a training loop calls. It is copied and
              trained in training mode;
            - a compiled Keras model, or (model, loss, optimizer) of Keras;
            - an MLPClassifier or MLPRegressor of scikit-learn, fitted or not;
            - the path of a recorded trace: see docs/cross-checking.md. Its parameters are taken as
              they are.
        steps: optimiser steps to compare; fewer where a second-order optimizer has converged, a
            trace is shorter, or the other training has left the finite numbers.
        batch_size: rows in a step; None is 32, or all rows for a second-order optimizer.
        shuffle: as for `Trainer.fit`.
        sample_weight: as for `Trainer.fit`; with the reference only.
        seed: of shuffling and dropout.
        tolerance: allowed relative deviation per step; None is 1e-12 for float64, 1e-5 for float32.
            Keras, whose products are in float32 but for TensorFlow's backend, has the latter.

    Returns:
        A `CrosscheckReport`; `print` shows it.

    Raises:
        ArgumentError: parameters that do not fit the model's; with another framework a model with
            Dropout or GaussianNoise, which draw other numbers there, or a second-order optimizer.
        DTypeError: `against` is something else.
        FileFormatError: the file is no trace of such a model.

    Example:
        >>> import numpy as np, ranvier as rv
        >>> model = rv.Sequential(
        ...     [rv.Dense(4, activation="tanh"), rv.Dense(1)], input_size=3, dtype="float64"
        ... )
        >>> X = np.random.default_rng(0).normal(size=(20, 3))
        >>> report = rv.crosscheck(model, X, X[:, 0], loss="mse", batch_size=8)
        >>> report.ok, report.max_error < 1e-13
        (True, True)

        >>> import torch
        >>> module = model.to_torch()
        >>> adam = torch.optim.Adam(module.parameters(), eps=1e-5)
        >>> report = rv.crosscheck(
        ...     model, X, X[:, 0], loss="mse", against=(module, torch.nn.MSELoss(), adam)
        ... )
        >>> report.first.step, report.first.quantity, report.hints
        (1, 'parameter', ('eps=1e-05 in place of 1e-08',))
    """
    model = checked_model(model)
    seed = integer(seed, "seed", least=0, most=2**64 - 1)
    steps = integer(steps, "steps", least=1)
    if batch_size is not None:
        batch_size = integer(batch_size, "batch_size", least=1)
    shuffle = boolean(shuffle, "shuffle")
    if tolerance is not None:
        tolerance = real(tolerance, "tolerance", least=0.0)
    chosen = get_loss(loss)
    model._require()
    x = model._features(X, rows=True)
    rule = get_optimizer(optimizer)
    if batch_size is None:
        batch_size = x.shape[0] if rule._whole else 32
    if isinstance(against, str) and against == "reference":
        return against_reference(
            model,
            x,
            y,
            sample_weight,
            chosen,
            rule,
            seed,
            steps=steps,
            batch_size=batch_size,
            shuffle=shuffle,
            tolerance=TOLERANCE[model.dtype.name] if tolerance is None else tolerance,
        )
    if sample_weight is not None:
        raise ArgumentError(
            "sample_weight: expected None but with against='reference', got an array"
        )
    if not isinstance(rule, FirstOrder):
        raise ArgumentError(f"optimizer: expected SGD, Adam or AdamW, got {rule!r}")
    _check_layers(model)
    x, targets = _data(model, x, y, chosen)
    batches = list(islice(_batches(x, targets, batch_size, seed, shuffle=shuffle), steps))
    trace = _trace(model, against, batches)
    if tolerance is None:
        tolerance = max(TOLERANCE[model.dtype.name], TOLERANCE[trace.dtype.name])
    from ._compare import against_trace

    return against_trace(model, batches, chosen, rule, trace, tolerance)


def _check_layers(model: Sequential) -> None:
    """Refuses what two frameworks cannot have alike."""
    parameters = model.parameters()
    for number, layer in enumerate(model.layers):
        if getattr(layer, "rate", 0.0) or getattr(layer, "stddev", 0.0):
            raise ArgumentError(
                f"model: expected no {layer!r} with another framework, which draws other numbers; "
                f"leave layer {number} out on both sides"
            )
        if isinstance(layer, Standardize) and not parameters[f"{number}.running_var"].any():
            raise ArgumentError(
                f"model: expected a Standardize that has been fitted, got layer {number} without "
                "statistics"
            )


def _data(model: Sequential, x: Array, y: Any, loss: Loss | CustomLoss) -> tuple[Array, Array]:
    """Rows in the model's dtype, and targets as numbers of that dtype or as integers."""
    # Whatever does not fit is refused here, in ranvier's words.
    model.value_and_gradient(x, y, loss=loss)
    arrays = arrays_of(x, y, None, loss, model.dtype)
    if arrays["labels"] is not None:
        targets = np.array(arrays["labels"], np.int64)
    elif arrays["values"] is not None:
        targets = np.array(arrays["values"], model.dtype)
    else:
        own = np.asarray(arrays["own"])
        targets = own.astype(model.dtype if own.dtype.kind == "f" else np.int64)
    with np.errstate(over="ignore"):
        return np.array(x, model.dtype, order="C"), targets


def _batches(x: Array, y: Array, batch_size: int, seed: int, *, shuffle: bool) -> Iterator[Batch]:
    """Those of a fit, epoch after epoch."""
    for epoch in count():
        order = np.arange(len(x))
        if shuffle:
            order = np.frombuffer(_core.block_order(len(x), seed, epoch), np.uint32)
        for first in range(0, len(x), batch_size):
            rows = order[first : first + batch_size]
            yield x[rows], y[rows]


def _trace(model: Sequential, against: Any, batches: Sequence[Batch]) -> Trace:
    """What `against` computes on the batches."""
    # A framework's name is no path that somebody means.
    if isinstance(against, str | PathLike) and against not in ("torch", "keras", "sklearn"):
        from ._trace import read_trace

        return read_trace(against, model, batches)
    subject = against[0] if isinstance(against, tuple) and len(against) == 3 else against
    homes = {kind.__module__.partition(".")[0] for kind in type(subject).__mro__}
    # Keras's models may be torch's modules as well.
    if "keras" in homes:
        from ._keras import trace as keras_trace

        return keras_trace(model, against, batches)
    if "torch" in homes and subject is not against:
        from ._torch import trace as torch_trace

        return torch_trace(model, against, batches)
    if "sklearn" in homes and subject is against:
        from ._sklearn import trace as sklearn_trace

        return sklearn_trace(model, against, batches)
    raise DTypeError(
        "against: expected 'reference', (module, loss, optimizer) of torch, a Keras model, "
        "(model, loss, optimizer) of Keras, an MLP of scikit-learn, or the path of a trace, got "
        f"{_called(against)}"
    )


def _called(against: Any) -> str:
    """What something is, in one line."""
    if isinstance(against, tuple):
        return f"({', '.join(map(_called, against))})"
    plain = against is None or isinstance(against, str | int | float)
    return repr(against) if plain else f"{type(against).__module__}.{type(against).__qualname__}"
