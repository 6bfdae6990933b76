"""Which known difference explains the numbers at the first deviation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._report import Deviation

if TYPE_CHECKING:
    from ._compare import Comparison

__all__ = ["hints_of"]


def hints_of(comparison: Comparison, first: Deviation) -> tuple[str, ...]:
    """What fits, in words."""
    return ()
