"""What a fit and an import cost: memory and time."""

import os
import subprocess
import sys

import pytest

FIT = """
import sys
import numpy as np, ranvier as rv

def kib(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(key))

width, batch, options = 1500, 64, eval(sys.argv[1])
X = np.zeros((20_000, width), np.float32)
X += np.linspace(-1, 1, width, dtype=np.float32)
y = np.arange(len(X)) % 10
layers = [rv.Dense(width, activation="relu"), rv.Dense(width, activation="relu"), rv.Dense(10)]
before = kib("VmRSS")
model = rv.Sequential(layers, input_size=width, seed=0)
trainer = rv.Trainer(model, loss="cross_entropy", optimizer="adam", **options)
trainer.fit(X[:640], y[:640], batch_size=batch)
trainer.fit(X, y, batch_size=512)
count = sum(value.size for value in model.parameters().values())
print((kib("VmHWM") - before) / 1024, 4 * count / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("options", ["{}", "{'precision': 'bf16'}"])
def test_a_fit_takes_the_memory_of_four_parameter_vectors_and_a_batch(options):
    """Parameters, two moments, the last good parameters; no copy of the data."""
    command = [sys.executable, "-c", FIT, options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    peak, vector = map(float, done.stdout.split())
    # Activations and their gradients of three layers and the gathered batch, 512 rows each.
    workspace = 4 * 512 * (2 * 3 * 1500) / 2**20
    assert peak < 4 * vector + workspace + 20
    # The data is 114 MiB, so a copy of it would show.
    assert peak < 0.95 * (4 * vector + 114)


IMPORT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def import_seconds(module, cache, tries=5):
    """The fastest of some imports in fresh processes, compiled as an installed package is."""
    command = [sys.executable, "-c", IMPORT.format(module)]
    environment = dict(os.environ, PYTHONPYCACHEPREFIX=str(cache))
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    options = {"env": environment, "capture_output": True, "text": True, "check": True}
    runs = [subprocess.run(command, **options) for _ in range(tries)]
    return min(float(run.stdout) for run in runs)


def test_importing_takes_at_most_50_ms_more_than_numpy(tmp_path):
    assert import_seconds("ranvier", tmp_path) < import_seconds("numpy", tmp_path) + 0.05
