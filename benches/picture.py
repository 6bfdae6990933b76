"""Pictures of what was measured."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results import Comparison

if TYPE_CHECKING:
    from growth import Point, Sweep

_COLORS = {
    "ranvier": "#d62728",
    "ranvier-float32": "#ff9896",
    "jax": "#1f77b4",
    "torch": "#ff7f0e",
    "torch-compile": "#8c564b",
    "torch-bf16": "#e377c2",
    "onnxruntime": "#2ca02c",
    "sklearn": "#9467bd",
    "numpy": "#7f7f7f",
}
_PARTS = {
    "arithmetic": ("arithmetic", "#1f77b4"),
    "optimizer": ("optimiser", "#2ca02c"),
    "gather": ("gather, at most", "#ff7f0e"),
    "overhead": ("overhead", "#7f7f7f"),
}
_FLOOR = "#000000"


def draw_comparisons(comparisons: Sequence[Comparison], caption: str, path: Path) -> None:
    """Training and prediction side by side: a bar for each contestant, a line for the floor."""
    kinds = [kind for kind in ("train", "predict") if any(c.kind == kind for c in comparisons)]
    figure, panels = _figure(1, len(kinds), caption)
    for kind, axes in zip(kinds, panels, strict=True):
        _bars(axes, [c for c in comparisons if c.kind == kind])
        axes.set_title("Training" if kind == "train" else "Prediction from Python")
        axes.set_ylabel(f"µs per {'step' if kind == 'train' else 'call'}, median")
    figure.savefig(path, dpi=130)


def draw_growth(sweeps: Sequence[Sweep], caption: str, path: Path) -> None:
    """A panel for each axis: the step, its parts, and the floor."""
    figure, panels = _figure(2, 2, caption)
    for axes in panels[len(sweeps) :]:
        axes.set_visible(False)
    for axes, sweep in zip(panels, sweeps, strict=False):
        if sweep.axis == "threads":
            _thread_lines(axes, sweep.points)
        else:
            _part_lines(axes, sweep.points)
        axes.set(yscale="log", xlabel=sweep.axis, ylabel="µs per step")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=130)


def _part_lines(axes: Any, points: Sequence[Point]) -> None:
    values = [p.value for p in points]
    axes.plot(values, [p.step for p in points], "o-", color=_COLORS["ranvier"], label="step")
    for part, (label, color) in _PARTS.items():
        # Noise can leave a part nothing; a logarithmic axis has no place for that.
        heights = [getattr(p, part) if getattr(p, part) > 0 else math.nan for p in points]
        axes.plot(values, heights, ".-", color=color, label=label, lw=1)
    axes.plot(values, [p.floor for p in points], "--", color=_FLOOR, label="floor")


def _thread_lines(axes: Any, points: Sequence[Point]) -> None:
    for name in dict.fromkeys(p.network for p in points):
        line = [p for p in points if p.network == name]
        threads = [p.threads for p in line]
        drawn = axes.plot(threads, [p.step for p in line], "o-", label=name)[0]
        axes.plot(threads, [p.floor for p in line], "--", color=drawn.get_color(), lw=1)
    axes.plot([], [], "--", color=_FLOOR, label="floor")


def _bars(axes: Any, comparisons: Sequence[Comparison]) -> None:
    names = list(dict.fromkeys(r.name for c in comparisons for r in c.results if r.believed))
    width = 0.8 / max(len(names), 1)
    for place, name in enumerate(names):
        points = [
            (number - 0.4 + (place + 0.5) * width, result)
            for number, comparison in enumerate(comparisons)
            for result in comparison.results
            if result.name == name and result.believed
        ]
        medians = [result.median for _, result in points]
        spread = [
            [result.median - min(result.microseconds) for _, result in points],
            [max(result.microseconds) - result.median for _, result in points],
        ]
        axes.bar(
            [x for x, _ in points],
            medians,
            width * 0.9,
            yerr=spread,
            error_kw={"elinewidth": 1},
            color=_COLORS[name],
            label=name,
        )
    floors = [(number, c.floor) for number, c in enumerate(comparisons) if c.floor is not None]
    if floors:
        starts = [number - 0.45 for number, _ in floors]
        ends = [number + 0.45 for number, _ in floors]
        heights = [floor for _, floor in floors]
        axes.hlines(heights, starts, ends, color=_FLOOR, label="arithmetic at the FMA peak")
    axes.set_yscale("log")
    labels = [f"{c.workload.name}\n{c.workload}" for c in comparisons]
    axes.set_xticks(range(len(labels)), labels, fontsize=8, rotation=20)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


def _figure(rows: int, columns: int, caption: str) -> tuple[Any, list[Any]]:
    """A figure with a caption below, and its panels; drawn without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8 * columns, 5 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.supxlabel("\n".join(textwrap.wrap(caption, 110)), fontsize=7)
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes in panels:
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels
