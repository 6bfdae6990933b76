"""`History`: what a training recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._pictures import axes, pandas_of, whole_ticks

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

__all__ = ["History"]


class History(dict[str, list[Any]]):
    """A dict of lists, one entry for each epoch.

    Keys: "epoch" (from 0), "step" (steps done), "loss" (mean over the epoch's batches, each
    measured before its step), "learning_rate" (of the last step), "seconds"; with validation data
    "val_loss" and each metric of the trainer with "val_" in front, such as "val_accuracy".

        >>> import numpy as np, ranvier as rv
        >>> model = rv.Sequential([rv.Dense(1)])
        >>> history = model.fit(np.eye(4), np.ones(4), loss="mse", epochs=2, batch_size=2)
        >>> history["epoch"], history["step"], len(history.rows())
        ([0, 1], [2, 4], 2)
    """

    def __repr__(self) -> str:
        """How many epochs, and the figures of the last one; `dict(history)` shows all."""
        count = max(map(len, self.values()), default=0)
        last = {name: column[-1] for name, column in self.items() if column}
        shown = [
            f"{name} {value:.4g}"
            for name, value in last.items()
            if name not in ("epoch", "step") and isinstance(value, float)
        ]
        figures = f": {', '.join(shown)}" if shown else ""
        return f"<History of {count} epoch{'s' * (count != 1)}{figures}>"

    def append(self, row: dict[str, Any]) -> None:
        """Adds one epoch; a figure that is new gets None for the epochs before."""
        self._put(max(map(len, self.values()), default=0), row)

    def _put(self, index: int, row: dict[str, Any]) -> None:
        """Makes `row` the last one, at an index; done again it mends what an interruption broke."""
        for key in {**self, **row}:
            column = self.setdefault(key, [])
            del column[index:]
            column.extend([None] * (index - len(column)))
            column.append(row.get(key))

    def rows(self) -> list[dict[str, Any]]:
        """One dict for each epoch."""
        return [dict(zip(self, values, strict=True)) for values in zip(*self.values(), strict=True)]

    def to_pandas(self) -> pandas.DataFrame:
        """A DataFrame with one row for each epoch, indexed by epoch (needs pandas)."""
        return pandas_of("to_pandas").DataFrame(dict(self) or {"epoch": []}).set_index("epoch")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draws the losses, and metrics on a second axis, over the epochs (needs matplotlib).

        Args:
            ax: axes to draw on; None makes a figure.

        Returns:
            The axes of the losses.
        """
        ax = axes(ax)
        epochs = [epoch + 1 for epoch in self.get("epoch", [])]
        marker = "o" if len(epochs) == 1 else None
        for key, label in [("loss", "training loss"), ("val_loss", "validation loss")]:
            if key in self:
                ax.plot(epochs, self[key], label=label, marker=marker)
        ax.set_xlabel("epoch")
        whole_ticks(ax)
        ax.set_ylabel("loss")
        lines, labels = ax.get_legend_handles_labels()
        metrics = [key for key in self if key.startswith("val_") and key != "val_loss"]
        if metrics:
            right = ax.twinx()
            for number, key in enumerate(metrics):
                name = key.removeprefix("val_").replace("_", " ")
                right.plot(
                    epochs,
                    self[key],
                    # Behind the colours of the losses.
                    color=f"C{2 + number}",
                    linestyle="--",
                    label=f"validation {name}",
                    marker=marker,
                )
            right.set_ylabel(name if len(metrics) == 1 else "metrics")
            more_lines, more_labels = right.get_legend_handles_labels()
            lines, labels = lines + more_lines, labels + more_labels
        if lines:
            ax.legend(lines, labels, loc="center right")
        return ax
