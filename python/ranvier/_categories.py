"""Categories as columns of 0 and 1."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from ._arrays import Array

# A category has a column of its own if it is one of so many, and has this share of the weight.
_MOST = 64
_LEAST_SHARE = 0.002


class Categories:
    """How one column of categories is encoded.

    Args:
        kept: the categories with a column of their own, in order.
        others: whether one more column stands for all others; without it they are 0 in all.
    """

    def __init__(self, kept: Sequence[Hashable], others: bool) -> None:
        self.columns = {value: number for number, value in enumerate(kept)}
        self.rest = len(kept) if others else -1
        self.width = len(kept) + int(others)

    @classmethod
    def of(cls, column: Iterable[Any], weight: Array | None) -> Categories:
        """As a column suggests: the 64 of most weight, without those of less than 0.2 % of it."""
        table: dict[Hashable, int] = {}
        codes = _codes(column, table)
        shares = np.bincount(codes, weight, minlength=len(table)).astype(np.float64)
        shares /= shares.sum()
        order = sorted(table, key=lambda value: (-shares[table[value]], _sort_key(value)))
        kept = [v for v in order[:_MOST] if shares[table[v]] >= _LEAST_SHARE]
        seen = sum(share > 0.0 for share in shares)
        return cls(kept, len(kept) < seen)

    def write(self, column: Iterable[Any], out: Array) -> None:
        """Fills the column's part of the encoded table, which is 0."""
        table: dict[Hashable, int] = {}
        codes = _codes(column, table)
        places = np.array([self.columns.get(value, self.rest) for value in table], np.intp)
        place = places[codes]
        known = np.flatnonzero(place >= 0)
        out[known, place[known]] = 1.0


def _codes(values: Iterable[Any], table: dict[Hashable, int]) -> Array:
    """The number of each value in `table`, which grows in the order of appearance."""
    return np.fromiter((table.setdefault(value, len(table)) for value in values), np.intp)


def _sort_key(value: Any) -> tuple[str, str]:
    return type(value).__name__, str(value)
