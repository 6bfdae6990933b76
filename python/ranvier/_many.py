"""`fit_many`: many networks at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from . import _core
from ._arrays import Array, as_array, boolean, numeric
from .callbacks import Callback
from .errors import ArgumentError, DivergedError, DTypeError, ShapeError
from .loggers import ProgressBar
from .losses import LossLike
from .model import Sequential
from .optimizers import OptimizerLike
from .trainer import Part, Trainer

if TYPE_CHECKING:
    from concurrent.futures import Future

    from numpy.typing import ArrayLike

__all__ = ["fit_many"]

RowsLike: TypeAlias = "ArrayLike | tuple[ArrayLike, ArrayLike] | None"


def fit_many(
    networks: Iterable[Trainer | Sequential],
    X: ArrayLike,
    y: Any,
    *,
    loss: LossLike | None = None,
    optimizer: OptimizerLike = "adam",
    rows: Sequence[RowsLike] | None = None,
    sample_weight: ArrayLike | None = None,
    epochs: int = 1,
    progress: bool = False,
    **options: Any,
) -> list[Trainer]:
    """Trains many networks at once, one on each core, on one copy of the data.

    For ensembles, seeds, folds, bootstraps and hyperparameters: each network ends with the bits
    that it has when it is trained alone. The interpreter's lock is held only for callbacks and for
    losses, rates and metrics written in Python. A network that diverges ends by itself, with a
    warning in the log "ranvier" and `stopped_by` "DivergedError"; any other error, and Ctrl-C, ends
    all.

    Args:
        networks: trainers, each with its model, loss, optimizer, metrics and seed; or models, which
            get a `Trainer` with `loss`, `optimizer` and the model's seed.
        X: (rows, input_size), of all networks.
        y: targets of all.
        loss: of the models among `networks`; needed where there are any.
        optimizer: likewise.
        rows: for each network the rows that it trains on, as indices (which may repeat, as in a
            bootstrap) or a mask, or a pair of those and the rows that it validates on, as
            scikit-learn's splitters give them; None for all rows.
        sample_weight: (rows,), of all.
        epochs: passes over each network's rows.
        progress: show on standard error, if it is a terminal, how many are done.
        options: of `Trainer.fit`: batch_size, accumulate, shuffle, validation_data,
            validation_split, class_weight, monitor, restore_best_weights, max_steps, max_time.
            `callbacks` is a function of the network's number that returns a list of its own ones.

    Returns:
        The trainers, in the order of `networks`.

    Example:
        >>> import numpy as np, ranvier as rv
        >>> X = np.linspace(-1, 1, 60)[:, None]
        >>> models = [
        ...     rv.Sequential([rv.Dense(8, activation="tanh"), rv.Dense(1)], seed=seed)
        ...     for seed in range(3)
        ... ]
        >>> every = np.arange(60)
        >>> folds = [(every[every % 3 != k], every[every % 3 == k]) for k in range(3)]
        >>> trainers = rv.fit_many(models, X, X**2, loss="mse", rows=folds, epochs=20)
        >>> [round(len(trainer.history["val_loss"])) for trainer in trainers]
        [20, 20, 20]
    """
    if isinstance(networks, Trainer | Sequential):
        raise DTypeError(f"networks: expected a list of them, got {networks!r:.100}")
    if y is None:
        raise ArgumentError("y: expected the targets of all networks, got None")
    trainers = [
        _trainer(network, number, loss, optimizer) for number, network in enumerate(networks)
    ]
    if len({id(trainer.model) for trainer in trainers}) < len(trainers):
        raise ArgumentError("networks: expected different models, got one twice")
    parts = _parts(rows, len(trainers), np.shape(X)[0] if np.ndim(X) else 0)
    make = options.pop("callbacks", None)
    if make is not None and not callable(make):
        raise DTypeError(f"callbacks: expected a function of the network's number, got {make!r}")
    wanted = {name: options.pop(name, None) for name in _PLANNED}
    given = {name: options.pop(name, None) for name in ("validation_data", "max_time")}
    if options:
        raise ArgumentError(
            f"options: expected those of Trainer.fit, got {', '.join(sorted(options))}"
        )
    if rows is not None and wanted["validation_split"] is not None:
        raise ArgumentError(
            "validation_split: expected none where rows are given (a pair of them says which are "
            f"held out), got {wanted['validation_split']!r}"
        )
    stop = threading.Event()

    def tick() -> None:
        if stop.is_set():
            raise KeyboardInterrupt

    def train(number: int) -> None:
        own, held_out = parts[number]
        hooks: Iterable[Callback] = () if make is None else make(number)
        try:
            trainers[number]._fit(
                X,
                y,
                epochs,
                wanted,
                sample_weight=sample_weight,
                callbacks=hooks,
                part=Part(own, held_out, tick),
                **given,
            )
        except DivergedError as error:
            logging.getLogger("ranvier").warning("network %d of fit_many: %s", number, error)

    _run(train, len(trainers), stop, show=boolean(progress, "progress"))
    return trainers


# Options of a fit that a file would keep.
_PLANNED = (
    "batch_size",
    "accumulate",
    "shuffle",
    "validation_split",
    "class_weight",
    "monitor",
    "restore_best_weights",
    "max_steps",
)


def _trainer(network: Any, number: int, loss: LossLike | None, optimizer: OptimizerLike) -> Trainer:
    if isinstance(network, Trainer):
        return network
    if not isinstance(network, Sequential):
        raise DTypeError(f"networks[{number}]: expected a Trainer or a model, got {network!r}")
    if loss is None:
        raise ArgumentError(f"loss: expected one for the model networks[{number}], got None")
    return Trainer(network, loss=loss, optimizer=optimizer, seed=network.seed)


def _parts(rows: Any, count: int, length: int) -> list[tuple[Array | None, Array | None]]:
    """For each network the rows to train on and those to validate on."""
    if rows is None:
        return [(None, None)] * count
    if isinstance(rows, Iterator):
        rows = list(rows)
    if not isinstance(rows, Sequence) or len(rows) != count:
        raise ArgumentError(
            f"rows: expected a list with an entry for each of {count} networks, got {rows!r:.100}"
        )
    parts = []
    for number, entry in enumerate(rows):
        pair = entry if isinstance(entry, tuple) and len(entry) == 2 else (entry, None)
        name = f"rows[{number}]"
        parts.append((_indices(pair[0], name, length), _indices(pair[1], name, length)))
    return parts


def _indices(rows: Any, name: str, length: int) -> Array | None:
    if rows is None:
        return None
    array = as_array(rows, name)
    if array.dtype == bool and array.shape == (length,):
        array = np.flatnonzero(array)
    array = numeric(array, name, np.int64) if array.dtype != bool else array
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise ShapeError(
            f"{name}: expected one or more row numbers, got an array of {array.dtype} with shape "
            f"{array.shape}"
        )
    if array.min() < 0 or array.max() >= length:
        raise ArgumentError(
            f"{name}: expected row numbers from 0 to {length - 1}, "
            f"got {array.min()} to {array.max()}"
        )
    return array.astype(np.uint32)


def _run(train: Any, count: int, stop: threading.Event, *, show: bool) -> None:
    """Runs train(0..count) on as many threads as a fit may use; a failure ends all."""
    from concurrent.futures import ThreadPoolExecutor

    # An interruption within `concurrent.futures.wait` may leave locks taken, for which the networks
    # that run would wait for ever.
    done: SimpleQueue[Future[None]] = SimpleQueue()
    bar = ProgressBar()._counter(count, "network") if show else None
    with ThreadPoolExecutor(max(1, min(count, _core.get_num_threads()))) as pool:
        futures: list[Future[None]] = []
        # Also an interruption while they are submitted ends those that run.
        try:
            for number in range(count):
                futures.append(pool.submit(train, number))
                futures[-1].add_done_callback(done.put)
            for _ in range(count):
                _next(done).result()
                if bar is not None:
                    bar.step()
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            raise
        finally:
            if bar is not None:
                bar.close()


def _next(done: SimpleQueue[Future[None]]) -> Future[None]:
    """The next one that is done. A signal that another thread has received wakes nobody here."""
    while True:
        try:
            return done.get(timeout=0.05)
        except Empty:
            continue
