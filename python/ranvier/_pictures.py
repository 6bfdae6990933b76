"""What pictures and tables of results need of packages that only they need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def axes(ax: Axes | None, figsize: tuple[float, float] | None = None) -> Axes:
    """The axes, or those of a new figure."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MissingDependencyError(
            "plot needs matplotlib: pip install 'ranvier[plot]'"
        ) from error
    return plt.subplots(figsize=figsize, layout="constrained")[1] if ax is None else ax


def pandas_of(method: str) -> Any:
    """The package, or a message with what to install."""
    try:
        import pandas
    except ImportError as error:
        raise MissingDependencyError(
            f"{method} needs pandas: pip install 'ranvier[pandas]'"
        ) from error
    return pandas


def whole_ticks(ax: Axes) -> None:
    """Lets an axis of counts have whole numbers, unless the caller has chosen its ticks."""
    from matplotlib.ticker import AutoLocator

    locator = ax.xaxis.get_major_locator()
    if isinstance(locator, AutoLocator):
        locator.set_params(integer=True)
