"""`ranvier bench`: how fast training and prediction are on this machine."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from .. import _core
from ..config import config, set_num_threads
from ..layers import Dense
from ..model import Sequential
from ..trainer import Trainer
from ._output import note, report, say

# Widths and rows in a step: of a table, of small and of large images, and wide.
NETWORKS = (
    ((16, 64, 64, 1), 32),
    ((64, 256, 10), 32),
    ((784, 512, 256, 10), 128),
    ((1024, 2048, 2048, 1000), 256),
)
_ROWS = 4096


def run(options: argparse.Namespace) -> int:
    """Times a few networks."""
    if options.threads is not None:
        set_num_threads(options.threads)
    settings = config()
    # As JSON the figures are for a program: the lines are progress.
    show = note if options.json else say
    show(
        f"ranvier {settings['ranvier']}, {settings['isa']}, {settings['threads']} thread(s), "
        "float32, Adam"
    )
    show(
        f"{'network':>19} {'batch':>5} {'steps/s':>9} {'GFLOP/s':>8} {'of peak':>7} "
        f"{'rows/s':>11} {'one row':>9} {'int8':>5}"
    )
    results = []
    for widths, batch in NETWORKS:
        results.append(_timed(widths, batch, options.seconds))
        show(_line(results[-1]))
    peak = max(result["peak_gflops"] for result in results)
    show(f"peak of multiply-adds, measured beside each: {peak:.0f} GFLOP/s")
    show("int8: rows/s of the network quantised, over those of float32")
    report({"config": settings, "dtype": "float32", "results": results}, (), options.json)
    return 0


def _timed(widths: tuple[int, ...], batch: int, seconds: float) -> dict[str, Any]:
    """Training, prediction of many rows, prediction of one."""
    rng = np.random.default_rng(0)
    rows = min(_ROWS, 64 * batch)
    X = rng.normal(size=(rows, widths[0])).astype(np.float32)
    classes = widths[-1] > 1
    y = rng.integers(widths[-1], size=rows) if classes else X[:, 0]
    layers = [Dense(units, activation="relu") for units in widths[1:-1]]
    model = Sequential([*layers, Dense(widths[-1])], input_size=widths[0])
    trainer = Trainer(model, loss="cross_entropy" if classes else "mse", metrics=[])
    one = X[:1].copy()
    # A first call makes room; its time is nobody's.
    trainer.fit(X, y, max_steps=1, batch_size=batch)
    peak = _core.fma_peak("float32", min(seconds, 0.2)) / 1e9
    begun, before = time.perf_counter(), trainer.step
    trainer.fit(X, y, epochs=2**30, batch_size=batch, max_time=seconds)
    steps = (trainer.step - before) / (time.perf_counter() - begun)
    many = _calls(lambda: model.predict(X), seconds)
    single = _calls(lambda: model.predict(one), seconds)
    small = model.quantize(X)
    integers = _calls(lambda: small.predict(X), seconds)
    products = [a * b for a, b in pairwise(widths)]
    # Forward and two products backward; the first layer needs no gradient of its input.
    gflops = 2 * batch * (3 * sum(products) - products[0]) * steps / 1e9
    return {
        "network": "-".join(map(str, widths)),
        "batch": batch,
        "steps_per_second": steps,
        "gflops": gflops,
        "peak_gflops": peak,
        "share_of_peak": gflops / peak,
        "rows_per_second": rows * many,
        "single_row_us": 1e6 / single,
        "int8_rows_per_second": rows * integers,
    }


def _calls(call: Callable[[], Any], seconds: float) -> float:
    """Calls in a second."""
    call()
    begun, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - begun) < seconds:
        call()
        count += 1
    return count / passed


def _line(result: dict[str, Any]) -> str:
    return (
        f"{result['network']:>19} {result['batch']:>5} {result['steps_per_second']:>9,.0f} "
        f"{result['gflops']:>8.1f} {result['share_of_peak']:>7.0%} "
        f"{result['rows_per_second']:>11,.0f} {result['single_row_us']:>6.1f} us "
        f"{result['int8_rows_per_second'] / result['rows_per_second']:>4.1f}x"
    )
