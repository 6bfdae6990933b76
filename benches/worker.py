"""A contestant in a process of its own, and the parent's handle on it.

The parent writes requests and reads replies, one line of JSON each. A worker that is not asked
waits for its next line and uses no processor time.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from contestants import PREDICTORS, TRAINEES, UnavailableError
from workloads import Workload, data, features, forward, initial_layers, loss_of

_COMPARE = Path(__file__).with_name("compare.py")
_PREDICT_CHECK_ROWS = 256
# Longer than the ticks in which processor time is counted.
_SETTLE_SECONDS = 0.03
_SETTLE_LOOKS = 20
# Seconds of an epoch that is mostly products, which no setting makes faster.
_LONG_EPOCH = 0.5

# What each library listens to. onnxruntime has no such switch.
_ISA_SWITCHES = {
    "portable": {"RANVIER_ISA": "portable", "ATEN_CPU_CAPABILITY": "default"},
    "avx2": {
        "RANVIER_ISA": "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
        "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
    },
    "avx512": {"RANVIER_ISA": "avx512"},
}
ISAS = tuple(_ISA_SWITCHES)


class WorkerError(Exception):
    """A contestant that cannot run, failed or took too long; the message says which."""


class Worker:
    """The parent's side: starts the process, asks it, ends it."""

    def __init__(self, name: str, threads: int, isa: str | None = None) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 closed by close()
        self._process = subprocess.Popen(
            [sys.executable, str(_COMPARE), "--worker", name, "--threads", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=_environment(threads, isa),
            text=True,
        )
        self._replies: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._replies.put(line)
        self._replies.put("")

    def ask(self, timeout: float, **request: Any) -> dict[str, Any]:
        """The reply to a request.

        Raises:
            WorkerError: there is none, or it is a refusal. The process has ended.
        """
        assert self._process.stdin is not None
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            reply = self._replies.get(timeout=timeout)
        except queue.Empty:
            self.close()
            raise WorkerError(f"no answer within {timeout:g} s") from None
        except BrokenPipeError:
            reply = ""
        answer = json.loads(reply) if reply else {"error": self._last_words()}
        if "error" in answer:
            self.close()
            raise WorkerError(answer["error"])
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").split("\n")
        words = next((line.strip() for line in reversed(lines) if line.strip()), "no message")
        return f"ended with code {code}: {words}"

    def processor_seconds(self) -> float:
        """Processor time so far, where the system tells it."""
        try:
            text = Path(f"/proc/{self._process.pid}/stat").read_text()
        except OSError:
            return 0.0
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def settle(self) -> None:
        """Waits until its threads rest: some pools spin for a while after their last work."""
        for _ in range(_SETTLE_LOOKS):
            before = self.processor_seconds()
            time.sleep(_SETTLE_SECONDS)
            if self.processor_seconds() == before:
                return

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def _environment(threads: int, isa: str | None) -> dict[str, str]:
    names = ("RANVIER", "OMP", "OPENBLAS", "MKL")
    counts = {f"{name}_NUM_THREADS": str(threads) for name in names}
    return {**os.environ, **counts, **(_ISA_SWITCHES[isa] if isa else {})}


class TrainingRun:
    """A contestant in training, between requests."""

    def __init__(self, name: str, workload: Workload, seconds: float) -> None:
        X, y = data(workload)
        layers = initial_layers(workload)
        start = loss_of(workload, layers, X, y)
        self._trainee = TRAINEES[name](workload, X, y, layers)
        self._trainee.train(workload.check_epochs)
        reached = loss_of(workload, self._trainee.layers(), X, y)
        long = _seconds(self._trainee.train, 1) > _LONG_EPOCH
        note = "" if long else self._trainee.tune()
        self._epochs = _repetitions(self._trainee.train, seconds)
        self._steps = self._epochs * workload.batches
        self.report = {
            "version": self._trainee.version,
            "start_loss": start,
            "loss": reached,
            "note": note,
        }

    def measure(self) -> float:
        """Microseconds for each step of one fit."""
        return _seconds(self._trainee.train, self._epochs) / self._steps * 1e6


class PredictionRun:
    """A contestant in prediction, between requests."""

    def __init__(self, name: str, workload: Workload, seconds: float, threads: int) -> None:
        layers = initial_layers(workload)
        self._X = features(workload, workload.batch)
        self._predictor = PREDICTORS[name](workload, layers, threads)
        self.report = {
            "version": self._predictor.version,
            "deviation": self._deviation(layers),
        }
        self._calls = _repetitions(self._call, seconds)

    def _call(self, calls: int) -> None:
        for _ in range(calls):
            self._predictor.predict(self._X)

    def _deviation(self, layers: list[tuple[np.ndarray, np.ndarray]]) -> float:
        """Largest difference to float64 NumPy, over the largest output; on some of the rows."""
        some = slice(None, None, -(-len(self._X) // _PREDICT_CHECK_ROWS))
        wide = [(weight.astype(np.float64), bias.astype(np.float64)) for weight, bias in layers]
        activation = self._predictor.workload.activation
        expected = forward(wide, self._X[some].astype(np.float64), activation)
        output = self._predictor.predict(self._X)[some]
        return float(np.abs(output - expected).max() / np.abs(expected).max())

    def measure(self) -> float:
        """Median microseconds of many calls."""
        times = np.empty(self._calls)
        clock = time.perf_counter
        predict, X = self._predictor.predict, self._X
        for call in range(self._calls):
            start = clock()
            predict(X)
            times[call] = clock() - start
        return float(np.median(times)) * 1e6


class PeakRun:
    """The FMA peak of the threads, as Ranvier's core measures it."""

    def __init__(self, dtype: str) -> None:
        from ranvier import _core

        measure = getattr(_core, "fma_peak", None)
        if measure is None:
            raise UnavailableError("this ranvier does not measure the FMA peak")
        self._dtype, self._peak = dtype, measure
        self.report: dict[str, Any] = {}

    def measure(self) -> float:
        """FLOP/s."""
        return self._peak(self._dtype, 0.2)


def _seconds(call: Any, count: int) -> float:
    start = time.perf_counter()
    call(count)
    return time.perf_counter() - start


def _repetitions(call: Any, seconds: float) -> int:
    """How often to repeat for about so many seconds."""
    count = 1
    while (taken := _seconds(call, count)) < seconds / 10:
        count *= 4
    return max(1, round(count * seconds / taken))


def _prepare(name: str, threads: int, request: dict[str, Any]) -> Any:
    kind, seconds = request["kind"], request["seconds"]
    fields = request["workload"]
    workload = Workload(**{**fields, "sizes": tuple(fields["sizes"])})
    if kind == "peak":
        return PeakRun(workload.precision or workload.dtype)
    if kind == "train":
        return TrainingRun(name, workload, seconds)
    return PredictionRun(name, workload, seconds, threads)


def as_request(workload: Workload) -> dict[str, Any]:
    """The workload in JSON."""
    return {name: value for name, value in asdict(workload).items() if name != "bar"}


def _pin(threads: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def serve(name: str, threads: int) -> None:
    """The child's side: prepares at the first request, measures at each further one."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no reply
    _pin(threads)
    run = None
    for line in sys.stdin:
        try:
            if run is None:
                run = _prepare(name, threads, json.loads(line))
                reply = run.report
            else:
                reply = {"value": run.measure()}
        except UnavailableError as error:
            reply = {"error": str(error)}
        except ModuleNotFoundError as error:
            reply = {"error": f"{error.name} is not installed"}
        except Exception as error:
            first = str(error).partition("\n")[0]
            reply = {"error": f"{type(error).__name__}: {first}"}
        print(json.dumps(reply), file=replies, flush=True)
