"""The picture of figures by feature, and the frame of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .._arrays import Array, integer
from .._pictures import axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Characters of a name that a picture has room for.
_NAME = 40


def bars(
    ax: Axes | None,
    names: Sequence[str],
    figures: Array,
    order: Array,
    *,
    xlabel: str,
    max_features: int,
    errors: Array | None = None,
) -> Axes:
    """Horizontal bars from the top in the order given, at most so many; below 0 in red."""
    shown = order[: integer(max_features, "max_features", least=1)]
    ax = axes(ax, (6.4, 1.2 + 0.26 * len(shown)))
    lengths = figures[shown]
    places = np.arange(len(shown))
    colors = ["C3" if length < 0 else "C0" for length in lengths]
    ax.barh(places, lengths, color=colors, height=0.7)
    if errors is not None:
        ax.errorbar(lengths, places, xerr=errors[shown], fmt="none", ecolor="0.25", capsize=2)
    ax.axvline(0.0, color="0.25", linewidth=0.8)
    ax.set_yticks(places, [_shown(names[feature]) for feature in shown])
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.grid(axis="x", alpha=0.3)
    ax.set_axisbelow(True)
    ax.set_xlabel(xlabel)
    if len(shown) < len(names):
        ax.set_ylabel(f"first {len(shown)} of {len(names)}")
    return ax


def _shown(name: str) -> str:
    """A name that fits beside its bar and is no formula."""
    if len(name) > _NAME:
        name = f"{name[: _NAME // 2]}…{name[1 - _NAME // 2 :]}"
    return name.replace("$", r"\$")
