"""How the time of a training step grows with width, depth, batch and threads, and where it goes.

    python benches/growth.py                            # about three minutes
    python benches/growth.py --quick --axis width
    python benches/growth.py --json growth.json --plot growth.png

Each step is split by differences between fits that are timed in turns:

    optimiser   Adam less SGD without momentum, on the same network: what moments cost
    gather      a network of one output on as many features and rows, less `overhead`: it does
                little but fetch its rows, so this is an upper limit
    overhead    a network of ones, of the same depth, at batch 1: what a step costs before it works
    arithmetic  the rest: products, activations, loss; to be compared with the floor

The floor is the arithmetic of the products at the FMA peak, measured before and after.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import machine
from compare import progress, provenance_line
from contestants import RanvierTrainee
from results import gigaflops, number, percent
from workloads import Workload, data, initial_layers

import ranvier as rv
from ranvier import _core

AXES = ("width", "depth", "batch", "threads")
# A time this far above the line through its neighbours is a cliff.
CLIFF = 1.5
# Rows of an epoch, or 32 batches: many networks are timed, so that epochs are short.
_ROWS = 8192


@dataclass(frozen=True)
class Plan:
    """What is swept, and how long a fit is timed.

    Args:
        base: width of all hidden layers and the input; rows of a batch where they are not swept.
        thread_widths: networks of which each number of threads is timed.
    """

    widths: tuple[int, ...] = (8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129)
    large_widths: tuple[int, ...] = (256, 512, 1000, 1024)
    depths: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16)
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 17, 31, 32, 33, 64, 127, 128, 129, 256, 512, 1000)
    thread_widths: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    base: int = 128
    seconds: float = 0.1
    repeats: int = 5


QUICK = Plan(
    widths=(16, 32, 64, 65, 128),
    large_widths=(256,),
    depths=(1, 2, 4),
    batches=(1, 16, 128),
    thread_widths=(16, 128),
    seconds=0.02,
    repeats=3,
)


@dataclass
class Point:
    """A step of one network: microseconds, in all and by parts that add up to it."""

    axis: str
    value: int
    network: str
    batch: int
    threads: int
    work: int
    step: float
    optimizer: float
    gather: float
    overhead: float
    floor: float = 0.0

    @property
    def arithmetic(self) -> float:
        """What is left."""
        return self.step - self.optimizer - self.gather - self.overhead


@dataclass
class Sweep:
    """The points of one axis and what is odd about them."""

    axis: str
    points: list[Point]
    cliffs: list[str] = field(default_factory=list)


class _Slow(RanvierTrainee):
    """Too slow a learner to diverge: SGD at batch 1 would on wide networks."""

    learning_rate = 1e-6


class Stopwatch:
    """Times steps of Ranvier; remembers networks that several points need."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._known: dict[tuple[Workload, int], float] = {}

    def together(self, workloads: Sequence[Workload]) -> list[float]:
        """Median microseconds of a step of each, timed in turns."""
        fits = [self._fit(workload) for workload in workloads]
        times: list[list[float]] = [[] for _ in fits]
        for _ in range(self._plan.repeats):
            for fit, seen in zip(fits, times, strict=True):
                seen.append(fit())
        return [statistics.median(seen) for seen in times]

    def once(self, workload: Workload) -> float:
        """The same for one network, from memory if it is there."""
        key = workload, rv.get_num_threads()
        if key not in self._known:
            self._known[key] = self.together([workload])[0]
        return self._known[key]

    def _fit(self, workload: Workload) -> Callable[[], float]:
        X, y = data(workload)
        rows = min(workload.rows, max(_ROWS, 32 * workload.batch))
        steps = rows // workload.batch
        trainee = _Slow(workload, X[:rows], y[:rows], initial_layers(workload))
        trainee.train(1)
        epochs = max(1, round(self._plan.seconds / _seconds(trainee, 1)))

        def fit() -> float:
            return _seconds(trainee, epochs) / (epochs * steps) * 1e6

        return fit


def _seconds(trainee: _Slow, epochs: int) -> float:
    start = time.perf_counter()
    trainee.train(epochs)
    return time.perf_counter() - start


def network(width: int, depth: int, batch: int) -> Workload:
    """As many inputs as units in each of the hidden layers, and ten classes."""
    return Workload("growth", (width,) * (depth + 1) + (10,), batch)


def measure(watch: Stopwatch, axis: str, value: int, workload: Workload) -> Point:
    """One point with its parts."""
    step, sgd = watch.together([workload, replace(workload, optimizer="sgd")])
    probe = replace(workload, optimizer="sgd", loss="mse")
    ones = replace(probe, sizes=(1,) * len(workload.sizes), batch=1)
    overhead = watch.once(ones)
    # The probe for the gather has one layer, so it is compared with one layer's overhead.
    bare = watch.once(replace(ones, sizes=(1, 1)))
    fetching = watch.once(replace(probe, sizes=(workload.sizes[0], 1)))
    return Point(
        axis,
        value,
        str(workload),
        workload.batch,
        rv.get_num_threads(),
        work=workload.n_parameters * workload.batch,
        step=step,
        optimizer=max(step - sgd, 0.0),
        gather=max(fetching - bare, 0.0),
        overhead=overhead,
    )


def sweep(axis: str, plan: Plan) -> Sweep:
    """All points of an axis."""
    watch = Stopwatch(plan)
    base = plan.base
    networks = {
        "width": [(w, network(w, 2, base)) for w in plan.widths + plan.large_widths],
        "depth": [(d, network(base, d, base)) for d in plan.depths],
        "batch": [(b, network(base, 2, b)) for b in plan.batches],
    }
    if axis == "threads":
        return _thread_sweep(watch, plan)
    points = []
    for value, workload in networks[axis]:
        progress(f"{axis} {value}")
        points.append(measure(watch, axis, value, workload))
    return Sweep(axis, points, _named_cliffs(axis, points))


def _thread_sweep(watch: Stopwatch, plan: Plan) -> Sweep:
    most = rv.get_num_threads()
    points = []
    for width in plan.thread_widths:
        for threads in range(1, most + 1):
            progress(f"threads {threads}, width {width}")
            rv.set_num_threads(threads)
            points.append(measure(watch, "threads", threads, network(width, 2, plan.base)))
    rv.set_num_threads(most)
    return Sweep("threads", points, _slower_with_threads(points))


def cliffs(values: Sequence[int], times: Sequence[float]) -> list[tuple[int, float]]:
    """Places whose time exceeds CLIFF times the straight line, in logarithms, of its neighbours.

    Returns:
        Place in the sequence and the factor.
    """
    found = []
    for i in range(1, len(values) - 1):
        (x0, y0), (x, y), (x1, y1) = (
            (math.log(values[j]), math.log(times[j])) for j in (i - 1, i, i + 1)
        )
        factor = math.exp(y - (y0 + (y1 - y0) * (x - x0) / (x1 - x0)))
        if factor > CLIFF:
            found.append((i, factor))
    return found


def _named_cliffs(axis: str, points: Sequence[Point]) -> list[str]:
    found = cliffs([p.value for p in points], [p.step for p in points])
    return [f"{axis} {points[i].value} takes {factor:.2f}× its neighbours" for i, factor in found]


def _slower_with_threads(points: Sequence[Point]) -> list[str]:
    """More threads that take a tenth longer than one."""
    one = {p.network: p.step for p in points if p.threads == 1}
    return [
        f"{p.network} takes {p.step / one[p.network]:.2f}× as long on {p.threads} threads as on one"
        for p in points
        if p.step > 1.1 * one[p.network]
    ]


def exponent(points: Sequence[Point]) -> float:
    """Slope of log time over log (parameters × batch) between the smallest and the largest work."""
    first, last = min(points, key=lambda p: p.work), max(points, key=lambda p: p.work)
    if first.work == last.work:
        return 0.0
    return math.log(last.step / first.step) / math.log(last.work / first.work)


def table(sweep: Sweep) -> str:
    """Points in columns of fixed width; parts in microseconds."""
    header = (sweep.axis, "network", "batch", "µs/step", "arithmetic", "optimiser", "gather")
    rows = [(*header, "overhead", "floor", "of peak")]
    for p in sweep.points:
        parts = (p.step, p.arithmetic, p.optimizer, p.gather, p.overhead, p.floor)
        shown = [number(part) for part in parts]
        shares = percent(p.floor / p.step)
        rows.append((str(p.value), _short(p.network), str(p.batch), *shown, shares))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    if sweep.axis != "threads":
        lines.append(f"time grows with (parameters × batch)^{exponent(sweep.points):.2f}")
    lines += [f"cliff: {cliff}" for cliff in sweep.cliffs] or ["no cliff"]
    return "\n".join(lines)


def _short(network: str) -> str:
    """Long networks by their ends."""
    sizes = network.split("-")
    return network if len(sizes) <= 4 else f"{sizes[0]}-(×{len(sizes) - 1})-{sizes[-1]}"


def main() -> None:
    """The command."""
    p = argparse.ArgumentParser(prog="growth.py", description="How a training step grows.")
    p.add_argument("--axis", choices=AXES, action="append", help="only this; may be repeated")
    p.add_argument("--quick", action="store_true", help="fewer points, seconds instead of minutes")
    p.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    p.add_argument("--plot", type=Path, metavar="FILE", help="write a picture there")
    options = p.parse_args()
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        p.error("--plot: expected matplotlib to be installed")
    plan = QUICK if options.quick else Plan()
    sweeps, peaks = [], _Peaks()
    for axis in options.axis or AXES:
        sweeps.append(sweep(axis, plan))
        peaks.look()
    peaks.apply(sweeps)
    origin = _provenance()
    print(f"{provenance_line(origin)}\nFMA peak {peaks}; times in µs")
    for each in sweeps:
        print(f"\n{table(each)}")
    if options.json:
        content = {**origin, "peaks": peaks.best, "sweeps": [asdict(each) for each in sweeps]}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    if options.plot:
        from picture import draw_growth

        draw_growth(sweeps, provenance_line(origin), options.plot)


class _Peaks:
    """The FMA peak of each number of threads: the best of several looks."""

    def __init__(self) -> None:
        self.best: dict[int, float] = {}
        self.look()

    def look(self) -> None:
        most = rv.get_num_threads()
        for threads in range(1, most + 1):
            rv.set_num_threads(threads)
            rate = _core.fma_peak("float32", 0.1)
            self.best[threads] = max(self.best.get(threads, 0.0), rate)
        rv.set_num_threads(most)

    def apply(self, sweeps: Sequence[Sweep]) -> None:
        for point in (point for sweep in sweeps for point in sweep.points):
            sizes = tuple(map(int, point.network.split("-")))
            flops = Workload("", sizes, point.batch).step_flops
            point.floor = flops / self.best[point.threads] * 1e6

    def __str__(self) -> str:
        rates = (f"{gigaflops(rate)} on {n}" for n, rate in self.best.items())
        return f"{', '.join(rates)} thread{'s' if len(self.best) > 1 else ''}"


def _provenance() -> dict[str, object]:
    config = rv.config()
    return {
        "processor": machine.describe(),
        "threads": config["threads"],
        "isa": config["isa"],
        "versions": {name: config[name] for name in ("python", "ranvier", "numpy")},
        "date": machine.today(),
    }


if __name__ == "__main__":
    main()
