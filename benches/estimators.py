"""Speed of the drop-ins beside scikit-learn's own estimators.

    python benches/estimators.py                        # everything; minutes
    python benches/estimators.py --data digits,wine --repeats 3

Both get the same data, scaled, and the same hyperparameters: scikit-learn's defaults, for a fixed
number of epochs. Each fit has a process of its own, since threads of a linear algebra library that
still spin slow down whatever comes after them. scikit-learn's time is the better of its default
number of threads and one. Medians; the coefficients of both are compared.

fit: seconds. row: microseconds of `predict` for one row.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from typing import Any

import numpy as np
from machine import describe, isa, today

EPOCHS = {"digits": 100, "wine": 200, "breast cancer": 200, "diabetes": 200, "synthetic": 3}
# What the drop-ins are to reach, by dtype, and for one row.
BARS = {"float64": 8.0, "float32": 12.0}
ROW_BAR = 5.0


def data(name: str, dtype: str) -> tuple[str, np.ndarray, np.ndarray]:
    """The estimator's class, X and y."""
    from sklearn import datasets
    from sklearn.preprocessing import StandardScaler

    if name == "synthetic":
        X = np.random.default_rng(0).normal(size=(100_000, 50))
        y = (X[:, 0] + X[:, 1] ** 2 > 1).astype(int)
    else:
        load = getattr(datasets, f"load_{name.replace(' ', '_')}")
        X, y = load(return_X_y=True)
        X = StandardScaler().fit_transform(X)
    if name == "diabetes":
        return "MLPRegressor", X.astype(dtype), ((y - y.mean()) / y.std()).astype(dtype)
    return "MLPClassifier", X.astype(dtype), y


def work(home: str, name: str, dtype: str, threads: int | None, repeats: int) -> dict[str, Any]:
    """Times of one estimator, in this process."""
    warnings.simplefilter("ignore")
    if home == "ranvier":
        from ranvier import sklearn as module
    else:
        from sklearn import neural_network as module  # type: ignore[no-redef]
    from threadpoolctl import threadpool_limits

    kind, X, y = data(name, dtype)
    fits, rows = [], []
    with threadpool_limits(threads):
        for _ in range(repeats):
            estimator = getattr(module, kind)(
                random_state=0, max_iter=EPOCHS[name], tol=0.0, n_iter_no_change=10**9
            )
            begun = time.perf_counter()
            estimator.fit(X, y)
            fits.append(time.perf_counter() - begun)
            row = X[:1].copy()
            begun = time.perf_counter()
            for _ in range(1000):
                estimator.predict(row)
            rows.append(1000 * (time.perf_counter() - begun))
    norm = float(sum((coef**2).sum() for coef in estimator.coefs_))
    return {"fit": statistics.median(fits), "row": statistics.median(rows), "norm": norm}


def measure(home: str, name: str, dtype: str, threads: int | None, repeats: int) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--worker"]
    command.append(json.dumps([home, name, dtype, threads, repeats]))
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=",".join(EPOCHS), help="which, separated by commas")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(*json.loads(options.worker))))
        return
    print(f"{describe()}, {isa()}, {today()}")
    print(f"{'data':14} {'dtype':8} {'sklearn':>9} {'ranvier':>9} {'ratio':>6} {'bar':>5}", end="")
    print(f" {'row':>7} {'row':>7} {'ratio':>6} {'bar':>5}")
    for name in options.data.split(","):
        for dtype, bar in BARS.items():
            theirs = [measure("sklearn", name, dtype, n, options.repeats) for n in (None, 1)]
            ours = measure("ranvier", name, dtype, None, options.repeats)
            fit, row = (min(found[key] for found in theirs) for key in ("fit", "row"))
            tolerance = 1e-9 if dtype == "float64" else 1e-2
            assert abs(ours["norm"] / theirs[0]["norm"] - 1) < tolerance, "coefficients differ"
            print(
                f"{name:14} {dtype:8} {fit:9.4f} {ours['fit']:9.4f} {fit / ours['fit']:6.1f} "
                f"{bar:5.0f} {row:7.1f} {ours['row']:7.1f} {row / ours['row']:6.1f} {ROW_BAR:5.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
