"""What a fit or an evaluation goes through: arrays, or blocks that are read ahead."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from . import _core
from ._arrays import Array
from .errors import DTypeError, ShapeError

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

# (X, y, weight, prefix and suffix of their names in messages) -> arrays as the core takes them.
Make: TypeAlias = Callable[[Any, Any, Any, str, str], dict[str, Any]]
# (arrays) -> the same with other weights.
Weigh: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]


class Model(Protocol):
    """What predicts."""

    def predict(self, X: Array, /) -> Array:
        """Raw outputs."""


class Arrays:
    """X, y and weights in memory.

    Attributes:
        arrays: as the core takes them.
        current: those whose rows a custom loss is asked about.
    """

    def __init__(self, arrays: dict[str, Any], y: Any) -> None:
        self.arrays = self.current = arrays
        self._y = y

    @property
    def core(self) -> Any:
        """What the core is handed."""
        return self.arrays

    def weigh(self, weigh: Weigh) -> None:
        """Changes the weights."""
        self.arrays = self.current = weigh(self.arrays)

    def outcome(self, model: Model, rows: Array | None = None) -> tuple[Any, Array]:
        """Targets, as they were given, and outputs of all rows or some."""
        x, y = self.arrays["x"], self._y
        if rows is not None:
            x, y = x[rows], y.iloc[rows] if hasattr(type(y), "iloc") else np.asarray(y)[rows]
        return y, model.predict(x)

    def close(self) -> None:
        """Nothing to let go of."""


class Blocks:
    """Blocks of (X, y) or (X, y, weight) from a source.

    A block is read, checked and made ready on a thread of its own while the one before is used, so
    two are in memory. Those of a sequence come in an order that is drawn for each epoch, others in
    the source's.

    Attributes:
        arrays: of the first block that has rows, until blocks are taken.
        current: those of the block in use.
    """

    def __init__(self, source: Any, make: Make, *, prefix: str = "") -> None:
        name = "validation_data" if prefix else "X"
        self._indexed = hasattr(source, "__getitem__") and hasattr(source, "__len__")
        if not self._indexed and not isinstance(source, Iterable):
            hint = "; pass an object whose __iter__ calls it" if callable(source) else ""
            raise DTypeError(
                f"{name}: expected a source of blocks (X, y), got {source!r:.100}{hint}"
            )
        if not self._indexed and iter(source) is source:
            raise DTypeError(
                f"{name}: expected blocks that can be read again for each epoch, got "
                f"{type(source).__name__}, which can be read once; pass a list, or an object whose "
                "__iter__ begins anew"
            )
        self._source, self._make, self._prefix, self._name = source, make, prefix, name
        self._seed: int | None = None
        self._weigh: Weigh = lambda arrays: arrays
        self._stream: Iterator[tuple[int, dict[str, Any]]] = iter(())
        self._next: Future[Any] | None = None
        self._reader: ThreadPoolExecutor | None = None
        self.current: dict[str, Any] = {}
        first = next(self._read(self._order(None)), None)
        if first is None:
            raise ShapeError(f"{name}: expected blocks with at least one row, got none")
        self.arrays = first[1]

    @property
    def features(self) -> Any:
        """Names of the features, where the source has them."""
        return getattr(self._source, "features", None)

    @property
    def core(self) -> Any:
        """What the core asks for block after block."""
        return self._take

    def weigh(self, weigh: Weigh) -> None:
        """Changes the weights of every block."""
        self.arrays = weigh(self.arrays)
        self._weigh = weigh

    def order_by(self, seed: int | None) -> None:
        """Shuffles the blocks of each epoch by a seed; None keeps their order."""
        self._seed = seed

    def _order(self, epoch: int | None) -> Iterable[int] | None:
        if not self._indexed:
            return None
        if epoch is None or self._seed is None:
            return range(len(self._source))
        order = _core.block_order(len(self._source), self._seed, epoch)
        return map(int, np.frombuffer(order, np.uint32))

    def _blocks(self, order: Iterable[int] | None) -> Iterator[tuple[int, Any]]:
        if order is None:
            yield from enumerate(self._source)
        else:
            for number in order:
                yield number, self._source[number]

    def _parts(self, block: Any, number: int) -> tuple[Any, Any, Any]:
        if not isinstance(block, tuple | list) or len(block) not in (2, 3):
            got = f"{len(block)} parts" if isinstance(block, tuple | list) else type(block).__name__
            raise DTypeError(
                f"{self._name}: expected (X, y) or (X, y, weight) as each block of a source, got "
                f"{got} as block {number} (a single block is [(X, y)]; arrays are fit(X, y))"
            )
        return block[0], block[1], block[2] if len(block) == 3 else None

    def _read(self, order: Iterable[int] | None) -> Iterator[tuple[int, dict[str, Any]]]:
        """Blocks that have rows, each with its number in the source."""
        for number, block in self._blocks(order):
            suffix = f" of block {number}"
            arrays = self._make(*self._parts(block, number), self._prefix, suffix)
            if arrays["x"].shape[0]:
                yield number, self._weigh(arrays)

    def _take(self, epoch: int | None, place: int) -> tuple[int, dict[str, Any], None, bool] | None:
        """The next block of an epoch, or in the source's order; None after the last one."""
        self.current.clear()
        self.arrays = {}
        from concurrent.futures import ThreadPoolExecutor, wait

        if self._reader is None:
            self._reader = ThreadPoolExecutor(1, thread_name_prefix="ranvier-blocks")
        if place == 0 or self._next is None:
            self._stream = self._read(self._order(epoch))
            self._next = self._reader.submit(next, self._stream, None)
        # A signal that another thread received is heard between two waits.
        while not self._next.done():
            wait((self._next,), timeout=0.05)
        found: tuple[int, dict[str, Any]] | None = self._next.result()
        self._next = None if found is None else self._reader.submit(next, self._stream, None)
        if found is not None:
            self.current.update(found[1])
        return None if found is None else (*found, None, False)

    def outcome(self, model: Model, rows: Array | None = None) -> tuple[Any, Array]:
        """Targets and outputs of all rows, in the order of the source."""
        pairs = []
        for number, block in self._blocks(self._order(None)):
            X, y, _ = self._parts(block, number)
            pairs.append((np.asarray(y), model.predict(X)))
        targets, outputs = zip(*pairs, strict=True)
        if len({y.ndim for y in targets}) > 1:
            targets = tuple(y.reshape(len(y), -1) for y in targets)
        return np.concatenate(targets), np.concatenate(outputs)

    def close(self) -> None:
        """Ends reading ahead."""
        if self._reader is not None:
            self._reader.shutdown(wait=False, cancel_futures=True)
        self._reader = self._next = None


Feed: TypeAlias = Arrays | Blocks


def holds_blocks(X: Any, y: Any) -> bool:
    """Whether X, without y, is a source of blocks; an array without targets is refused."""
    if y is not None:
        return False
    if isinstance(X, str | bytes | os.PathLike):
        raise DTypeError(
            "X: expected arrays or a source of blocks, got a path; "
            "ranvier.data.CSV(path, target=...) or Parquet reads one"
        )
    if hasattr(X, "__array__") or isinstance(X, Mapping):
        raise DTypeError(
            "y: expected targets (only a source of blocks (X, y) or (X, y, weight) goes without), "
            f"got None with X a {type(X).__name__}"
        )
    return True
