"""Ranvier beside its peers: training and prediction, timed side by side in one run.

    python benches/compare.py                                  # every workload
    python benches/compare.py train --workload tiny,mnist --bars
    python benches/compare.py --sizes 784,512,10 --batch 128 --optimizer adam --activation tanh

benches/README.md has the method.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import machine
from contestants import NAMES, PREDICTORS, TRAINEES, usual
from results import (
    PREDICTION_TOLERANCE,
    Comparison,
    Result,
    bar_line,
    heading,
    judge_losses,
    judge_predictions,
    markdown,
    table,
)
from worker import ISAS, Worker, WorkerError, as_request, serve
from workloads import (
    ACTIVATIONS,
    DTYPES,
    LOSSES,
    OPTIMIZERS,
    PREDICTION,
    TRAINING,
    Workload,
)

KINDS = ("train", "predict")
# Seconds for one answer of a worker; compiling or one repeat of the largest network fit in.
TIMEOUT = 600.0


@dataclass(frozen=True)
class Settings:
    """How to measure."""

    threads: int
    isa: str | None
    repeats: int
    seconds: float
    contestants: tuple[str, ...] | None  # None: the workload's usual ones


def compare(kind: str, workload: Workload, settings: Settings) -> Comparison:
    """All contestants on one workload: prepared one by one, then timed in turns."""
    names = settings.contestants or usual(workload, kind)
    registry = TRAINEES if kind == "train" else PREDICTORS
    results = [Result(name) for name in names if name in registry]
    with ExitStack() as stack:
        peak = _Peak(stack, workload, settings)
        workers: dict[str, Worker] = {}
        for result in results:
            progress(f"{kind} {workload.name}: preparing {result.name}")
            worker = Worker(result.name, settings.threads, settings.isa)
            stack.callback(worker.close)
            if _prepared(worker, kind, workload, settings, result):
                workers[result.name] = worker
        comparison = Comparison(kind, workload, results)
        peak.measure()
        for repeat in range(settings.repeats):
            progress(f"{kind} {workload.name}: repeat {repeat + 1} of {settings.repeats}")
            comparison.disturbance = max(comparison.disturbance, _round(results, workers))
            if repeat == settings.repeats // 2:
                peak.measure()
        peak.measure()
    comparison.peak = peak.best
    if kind == "train":
        judge_losses(results)
    else:
        judge_predictions(results, PREDICTION_TOLERANCE[workload.precision])
    return comparison


class _Peak:
    """The FMA peak at the workload's precision: the best of several looks at it."""

    def __init__(self, stack: ExitStack, workload: Workload, settings: Settings) -> None:
        self.best: float | None = None
        self._worker: Worker | None = Worker("ranvier", settings.threads, settings.isa)
        stack.callback(self._worker.close)
        try:
            self._worker.ask(TIMEOUT, **_request("peak", workload, settings))
        except WorkerError as error:
            progress(f"no FMA peak: {error}")
            self._worker = None

    def measure(self) -> None:
        if self._worker is not None:
            rate = self._worker.ask(TIMEOUT)["value"]
            self.best = max(self.best or 0.0, rate)


def _request(kind: str, workload: Workload, settings: Settings) -> dict[str, Any]:
    return {"kind": kind, "workload": as_request(workload), "seconds": settings.seconds}


def _prepared(
    worker: Worker, kind: str, workload: Workload, settings: Settings, result: Result
) -> bool:
    try:
        report = worker.ask(TIMEOUT, **_request(kind, workload, settings))
    except WorkerError as error:
        result.problem = str(error)
        return False
    for name, value in report.items():
        setattr(result, name, value)
    return True


def _round(results: Sequence[Result], workers: dict[str, Worker]) -> float:
    """One repeat of every contestant that is still there.

    Returns:
        Processor time of those that waited, over the time of the measurements.
    """
    seconds = idle = 0.0
    for result in results:
        worker = workers.get(result.name)
        if worker is None:
            continue
        waiting = [other for other in workers.values() if other is not worker]
        before = sum(other.processor_seconds() for other in waiting)
        start = time.perf_counter()
        try:
            result.microseconds.append(worker.ask(TIMEOUT)["value"])
        except WorkerError as error:
            result.problem = str(error)
            del workers[result.name]
        seconds += time.perf_counter() - start
        idle += sum(other.processor_seconds() for other in waiting) - before
        worker.settle()
    return idle / seconds if seconds else 0.0


def progress(message: str) -> None:
    """For whoever waits."""
    print(message, file=sys.stderr, flush=True)


def report(comparison: Comparison, *, bars: bool) -> str:
    """One workload as text."""
    lines = [heading(comparison), table(comparison)]
    if comparison.disturbance > 0.02:
        lines.append(f"waiting contestants used {comparison.disturbance:.0%} of the time")
    if bars:
        lines.append(bar_line(comparison))
    return "\n".join(lines)


def provenance(comparisons: Sequence[Comparison], settings: Settings) -> dict[str, Any]:
    """Where and with what the times were measured."""
    versions = {"python": platform.python_version()}
    for result in (result for c in comparisons for result in c.results):
        if result.version:
            versions[_PACKAGE.get(result.name, result.name)] = result.version
    return {
        "processor": machine.describe(),
        "threads": settings.threads,
        "isa": settings.isa or machine.isa(),
        "versions": versions,
        "date": machine.today(),
    }


# The package that a contestant's version is of.
_PACKAGE = {
    "ranvier-float32": "ranvier",
    "torch-compile": "torch",
    "torch-bf16": "torch",
    "sklearn": "scikit-learn",
}


def provenance_line(origin: dict[str, Any]) -> str:
    """The same as a sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
    threads = f"{origin['threads']} thread{'s' if origin['threads'] > 1 else ''}"
    return f"{origin['processor']}, {threads}, {origin['isa']}; {versions}; {origin['date']}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    names = ", ".join(workload.name for workload in (*TRAINING, *PREDICTION))
    p = argparse.ArgumentParser(
        prog="compare.py",
        description="Time Ranvier beside its peers.",
        epilog=f"Workloads: {names}. A name without @ stands for all that begin with it.",
    )
    p.add_argument("kinds", nargs="*", metavar="train|predict", help="what to time (default: both)")
    p.add_argument("--workload", type=_words, metavar="NAME,...", help="only these")
    p.add_argument("--sizes", type=_sizes, metavar="N,N,...", help="a network of your own")
    p.add_argument("--batch", type=_positive, help="rows of a step or call (own network: 128)")
    p.add_argument("--optimizer", choices=OPTIMIZERS, help="(default: adam)")
    p.add_argument("--activation", choices=ACTIVATIONS, help="of hidden layers (default: relu)")
    p.add_argument("--loss", choices=LOSSES, help="(default: the workload's, or cross_entropy)")
    p.add_argument("--dtype", choices=DTYPES, help="(default: float32)")
    p.add_argument("--threads", type=_positive, default=machine.cores(), help="for all contestants")
    p.add_argument("--isa", choices=ISAS, help="for all that have such a switch")
    p.add_argument("--contestants", type=_words, metavar="NAME,...", help=", ".join(NAMES))
    p.add_argument("--repeats", type=_positive, default=5, help="(default: %(default)s)")
    p.add_argument("--seconds", type=float, default=0.5, help="of one repeat (default: 0.5)")
    p.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    p.add_argument("--markdown", action="store_true", help="print a table for a README instead")
    p.add_argument("--plot", type=Path, metavar="FILE", help="write a picture there")
    p.add_argument("--bars", action="store_true", help="print what is to be reached, PASS or MISS")
    return p


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return value


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(_positive(word) for word in text.split(","))
    if len(sizes) < 2:
        raise argparse.ArgumentTypeError(
            f"expected inputs,...,outputs such as 784,512,10, got {text}"
        )
    return sizes


def chosen(options: argparse.Namespace) -> list[tuple[str, Workload]]:
    """Workloads with what is to be done with them.

    Raises:
        ValueError: a word that is none of those that there are.
    """
    _known(options.kinds, KINDS, "mode")
    if options.contestants is not None:
        _known(options.contestants, NAMES, "--contestants")
    kinds = [kind for kind in KINDS if kind in options.kinds or not options.kinds]
    named = {"train": TRAINING, "predict": PREDICTION}
    picked = [(kind, w) for kind in kinds for w in named[kind] if _matches(w.name, options)]
    for word in options.workload or ():
        if not any(_is_named(w.name, word) for _, w in picked):
            there = ", ".join(w.name for kind in kinds for w in named[kind])
            raise ValueError(f"--workload: expected some of {there}, got {word}")
    picked = [(kind, _changed(workload, options)) for kind, workload in picked]
    if options.sizes is not None:
        own = Workload("own", options.sizes, 128)
        picked += [(kind, _changed(own, options)) for kind in kinds]
    return picked


def _known(words: Sequence[str], there: Sequence[str], what: str) -> None:
    for word in words:
        if word not in there:
            raise ValueError(f"{what}: expected some of {', '.join(there)}, got {word}")


def _is_named(name: str, word: str) -> bool:
    return word in (name, name.partition("@")[0])


def _matches(name: str, options: argparse.Namespace) -> bool:
    if options.workload is None:
        return options.sizes is None
    return any(_is_named(name, word) for word in options.workload)


def _changed(workload: Workload, options: argparse.Namespace) -> Workload:
    """The workload with the options that were given; a bar holds for what it was set for only."""
    names = ("batch", "optimizer", "activation", "loss", "dtype")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    other = replace(workload, **given)
    return workload if other == workload else replace(other, bar=None)


def write_json(path: Path, comparisons: Sequence[Comparison], origin: dict[str, Any]) -> None:
    """Everything that was measured."""
    entries = [comparison.as_json() for comparison in comparisons]
    path.write_text(json.dumps({**origin, "comparisons": entries}, indent=1) + "\n")


def main() -> None:
    """The command."""
    p = parser()
    options = p.parse_args()
    try:
        todo = chosen(options)
    except ValueError as error:
        p.error(str(error))
    if options.seconds <= 0:
        p.error(f"--seconds: expected more than 0, got {options.seconds:g}")
    if options.threads > machine.cores():
        p.error(f"--threads: expected at most {machine.cores()} cores, got {options.threads}")
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        p.error("--plot: expected matplotlib to be installed")
    settings = Settings(
        options.threads, options.isa, options.repeats, options.seconds, options.contestants
    )
    comparisons = []
    for kind, workload in todo:
        comparisons.append(compare(kind, workload, settings))
        if not options.markdown:
            print(report(comparisons[-1], bars=options.bars), end="\n\n", flush=True)
    origin = provenance(comparisons, settings)
    print(provenance_line(origin))
    if options.markdown:
        print(f"\n{markdown(comparisons)}")
    if options.json:
        write_json(options.json, comparisons, origin)
    if options.plot:
        from picture import draw_comparisons

        draw_comparisons(comparisons, provenance_line(origin), options.plot)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        serve(sys.argv[2], int(sys.argv[4]))
    else:
        main()
