"""What was measured, whether to believe it, and how it is written down."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from workloads import Workload

# Losses after the same epochs with other shuffles: of the median, or of the loss at the start.
LOSS_TOLERANCE = 0.10
LOSS_FLOOR = 0.02
# Predictions against those of the floats in float64, over the largest output, by precision.
PREDICTION_TOLERANCE = {None: 1e-4, "int8": 0.03}


@dataclass
class Result:
    """One contestant on one workload.

    Args:
        microseconds: of a training step or a call, one for each repeat.
        loss: after the epochs that all contestants train first; start_loss before them.
        deviation: of predictions.
        note: a setting that was chosen.
        problem: why there is no time; empty where there is one.
        doubt: why the time is not believed; empty where it is.
    """

    name: str
    version: str = ""
    microseconds: list[float] = field(default_factory=list)
    start_loss: float | None = None
    loss: float | None = None
    deviation: float | None = None
    note: str = ""
    problem: str = ""
    doubt: str = ""

    @property
    def median(self) -> float:
        """Of the repeats."""
        return statistics.median(self.microseconds)

    @property
    def believed(self) -> bool:
        """Whether there is a time that counts."""
        return not self.problem and not self.doubt


@dataclass
class Comparison:
    """All contestants on one workload.

    Args:
        kind: "train" or "predict".
        peak: FLOP/s at the workload's precision; None where it was not measured.
        disturbance: processor time of waiting contestants over the time of the measurements.
    """

    kind: str
    workload: Workload
    results: list[Result]
    peak: float | None = None
    disturbance: float = 0.0

    @property
    def flops(self) -> int:
        """Arithmetic of a step or call."""
        return self.workload.step_flops if self.kind == "train" else self.workload.predict_flops

    @property
    def floor(self) -> float | None:
        """Microseconds of the arithmetic at the peak."""
        return None if self.peak is None else self.flops / self.peak * 1e6

    def share(self, result: Result) -> float | None:
        """Of the peak."""
        floor = self.floor
        return None if floor is None or not result.believed else floor / result.median

    @property
    def ranvier(self) -> Result | None:
        """Ranvier's believed result."""
        return next((r for r in self.results if r.name == "ranvier" and r.believed), None)

    @property
    def best_peer(self) -> Result | None:
        """The fastest of the others that is believed."""
        peers = [r for r in self.results if not r.name.startswith("ranvier") and r.believed]
        return min(peers, key=lambda r: r.median, default=None)

    @property
    def ratio(self) -> float | None:
        """Time of the best peer over Ranvier's."""
        own, peer = self.ranvier, self.best_peer
        return None if own is None or peer is None else peer.median / own.median

    @property
    def own_ratio(self) -> float | None:
        """Time of Ranvier's float32 over that of its integers."""
        own = self.ranvier
        floats = (r for r in self.results if r.name == "ranvier-float32" and r.believed)
        other = next(floats, None)
        return None if own is None or other is None else other.median / own.median

    @property
    def figures(self) -> list[tuple[float | None, float, str]]:
        """What is reached and what the bar is, and of what, for each figure that the bar has."""
        bar, own = self.workload.bar, self.ranvier
        if bar is None:
            return []
        share = None if own is None else self.share(own)
        all_of_them = [
            (self.ratio, bar.ratio, "the best peer"),
            (self.own_ratio, bar.own, "float32"),
            (share, bar.share, "the peak"),
        ]
        return [(reached, wanted, of) for reached, wanted, of in all_of_them if wanted is not None]

    @property
    def meets_bar(self) -> bool | None:
        """Whether one of the bar's figures is reached, or all of integers'.

        None where that cannot be told.
        """
        bar = self.workload.bar
        if bar is None:
            return None
        met = [
            None if reached is None else reached >= wanted for reached, wanted, _ in self.figures
        ]
        decisive = bar.own is None
        if decisive in met:
            return decisive
        return None if None in met else not decisive

    def as_json(self) -> dict[str, Any]:
        """Everything, derived figures included."""
        entry = asdict(self)
        for result, row in zip(self.results, entry["results"], strict=True):
            row["median"] = result.median if result.microseconds else None
            row["share_of_peak"] = self.share(result)
        peer = self.best_peer
        return {
            **entry,
            "flops": self.flops,
            "floor": self.floor,
            "best_peer": None if peer is None else peer.name,
            "ratio": self.ratio,
            "own_ratio": self.own_ratio,
            "meets_bar": self.meets_bar,
        }


def judge_losses(results: Sequence[Result]) -> None:
    """Sets the doubt of contestants that did not do the same work as the others.

    They start from the same weights and differ in the order of rows, so their losses after the
    same epochs agree with the median to LOSS_TOLERANCE, or to LOSS_FLOOR of the loss at the start.
    """
    ran = [r for r in results if not r.problem and r.loss is not None]
    if not ran:
        return
    median = statistics.median(r.loss for r in ran)
    for result in ran:
        allowed = max(LOSS_TOLERANCE * abs(median), LOSS_FLOOR * abs(result.start_loss))
        if not abs(result.loss - median) <= allowed:
            result.doubt = f"loss differs: {result.loss:.4g}, median {median:.4g}"
        elif not result.loss < result.start_loss:
            result.doubt = f"loss did not fall: {result.loss:.4g} from {result.start_loss:.4g}"


def judge_predictions(results: Sequence[Result], tolerance: float) -> None:
    """Sets the doubt of contestants whose outputs are not the network's."""
    for result in results:
        deviation = result.deviation
        if deviation is not None and not deviation <= tolerance:
            result.doubt = f"outputs differ by {deviation:.1e}"


def number(value: float) -> str:
    """Three digits or more, with thousands separated."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def percent(share: float | None) -> str:
    """A share of the peak."""
    if share is None:
        return "n/a"
    if share < 0.001:
        return "<0.1 %"
    return f"{share * 100:.{0 if share >= 0.095 else 1}f} %"


def gigaflops(peak: float | None, precision: str | None = None) -> str:
    """A rate; what is done to integers is not called FLOP."""
    unit = "GOP/s" if precision == "int8" else "GFLOP/s"
    return "n/a" if peak is None else f"{peak / 1e9:,.0f} {unit}"


def bar_line(comparison: Comparison) -> str:
    """The bar beside what was reached."""
    bar = comparison.workload.bar
    if bar is None:
        return "no bar"
    verdict = {True: "PASS", False: "MISS", None: "?"}[comparison.meets_bar]
    parts = []
    for reached, wanted, of in comparison.figures:
        if of == "the peak":
            parts.append(f"{percent(reached)} of {of} (bar {percent(wanted)})")
        else:
            ratio = "n/a" if reached is None else f"{reached:.2f}×"
            parts.append(f"{ratio} {of} (bar {wanted:g}×)")
    either = "; either is enough" if bar.own is None and len(parts) > 1 else ""
    return f"{verdict}  {', '.join(parts)}{either}"


def table(comparison: Comparison) -> str:
    """The contestants of one workload, the fastest first, in columns of fixed width."""
    unit = "µs/step" if comparison.kind == "train" else "µs/call"
    check = "loss" if comparison.kind == "train" else "deviation"
    rows = [("", unit, "min … max", "vs ranvier", "of peak", check, "")]
    own = comparison.ranvier
    timed = [r for r in comparison.results if not r.problem]
    for result in sorted(timed, key=lambda r: r.median):
        low, high = min(result.microseconds), max(result.microseconds)
        shown = f"{result.loss:.4f}" if comparison.kind == "train" else f"{result.deviation:.0e}"
        rows.append(
            (
                result.name,
                number(result.median),
                f"{number(low)} … {number(high)}",
                f"{result.median / own.median:.2f}×" if own else "n/a",
                percent(comparison.share(result)),
                shown,
                f"NOT COUNTED, {result.doubt}" if result.doubt else result.note,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:6], widths[1:], strict=True)),
            ]
            + ([row[6]] if row[6] else [])
        ).rstrip()
        for row in rows
    ]
    lines += [f"{r.name.ljust(widths[0])}  {r.problem}" for r in comparison.results if r.problem]
    return "\n".join(lines)


def heading(comparison: Comparison) -> str:
    """The workload, and the arithmetic at the peak."""
    workload = comparison.workload
    if comparison.kind == "train":
        what = f"train {workload.name}: {workload.describe()}"
    else:
        precision = workload.precision or workload.dtype
        what = f"predict {workload.name}: {workload}, {workload.activation}, {precision}"
    if comparison.floor is None:
        return f"{what}; peak n/a"
    peak = gigaflops(comparison.peak, workload.precision)
    return f"{what}; floor {number(comparison.floor)} µs at {peak}"


def markdown(comparisons: Sequence[Comparison]) -> str:
    """A row for each workload, a column for each contestant; training and prediction apart."""
    parts = []
    for kind, title in (("train", "Training, µs per step"), ("predict", "Prediction, µs per call")):
        chosen = [c for c in comparisons if c.kind == kind]
        if chosen:
            parts.append(f"{title}\n\n{_markdown_table(chosen)}")
    return "\n\n".join(parts)


def _markdown_table(comparisons: Sequence[Comparison]) -> str:
    names = list(dict.fromkeys(r.name for c in comparisons for r in c.results))
    header = ["workload", "network", *names, "best peer / ranvier", "of the peak"]
    rows = [header, ["---", "---", *["--:"] * (len(header) - 2)]]
    for comparison in comparisons:
        by_name = {result.name: result for result in comparison.results}
        own = comparison.ranvier
        rows.append(
            [
                comparison.workload.name,
                f"{comparison.workload}, b{comparison.workload.batch}",
                *(_cell(by_name.get(name)) for name in names),
                "–" if comparison.ratio is None else f"{comparison.ratio:.2f}",
                "–" if own is None else percent(comparison.share(own)),
            ]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(result: Result | None) -> str:
    if result is None or result.problem:
        return "–"
    shown = number(result.median)
    return f"~~{shown}~~ ({result.doubt})" if result.doubt else shown
