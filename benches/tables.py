"""Accuracy on tables with default settings, beside scikit-learn's estimators.

    python benches/tables.py                            # everything; tens of minutes
    python benches/tables.py --tables "iris;digits" --seeds 3
    python benches/tables.py accuracy --json tables.json
    python benches/tables.py coverage
    python benches/tables.py time                       # 1,000,000 rows

accuracy: `TabularClassifier` and `TabularRegressor`, scikit-learn's MLP behind a StandardScaler,
HistGradientBoosting and RandomForest, each with its defaults, on the same splits, one for each
seed. Accuracy or R² on the rows held out. Where a table has categories or missing values, the MLP
and the forest get imputation by the median and one-hot columns. The bars: on no table below the
MLP by more than one standard error of the mean difference over the splits, and a mean rank of at
most 1.75 (by the mean over the splits; equal ones share).

coverage: share of targets that lie in `predict_interval`, calibrated on 200 rows of their own
(friedman1) or on the rows of the fit (diabetes).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sklearn
from machine import describe, today
from scipy.stats import rankdata
from sklearn import datasets
from sklearn.base import is_classifier
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import ranvier
from ranvier.sklearn import TabularClassifier, TabularRegressor

Data = tuple[Any, np.ndarray]
# Rows of the generated tables, half of which are for training.
ROWS = 2000
MEAN_RANK = 1.75
COVERAGES = (0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Table:
    """A table: `make(seed)` gives X and y; of the seed where the table is drawn."""

    make: Callable[[int], Data]
    regression: bool = False
    test_size: float = 0.25
    mixed: bool = False


def _moons(seed: int) -> Data:
    return datasets.make_moons(500, noise=0.3, random_state=seed)


def _hastie(seed: int) -> Data:
    return datasets.make_hastie_10_2(2 * ROWS, random_state=seed)


def _gaussian_quantiles(seed: int) -> Data:
    return datasets.make_gaussian_quantiles(
        n_samples=ROWS, n_features=10, n_classes=3, random_state=seed
    )


def _classification(seed: int) -> Data:
    return datasets.make_classification(
        ROWS, 12, n_informative=8, n_redundant=2, n_clusters_per_class=3, random_state=seed
    )


def _mixed(seed: int) -> Data:
    """Four of the columns as categories, two of them with rare ones; 10 % of all cells missing."""
    X, y = _classification(seed)
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(X, columns=[f"x{j}" for j in range(X.shape[1])])
    for j, levels in enumerate([3, 5, 10, 30]):
        cuts = np.quantile(X[:, j], np.sort(rng.random(levels - 1)))
        names = rng.permutation([f"c{k}" for k in range(levels)])
        frame[f"x{j}"] = pd.Series(names[np.searchsorted(cuts, X[:, j])], dtype="category")
    return frame.mask(rng.random(X.shape) < 0.1), y


def _heavy(make: Callable[[int], Data]) -> Callable[[int], Data]:
    """Every column stretched to tails of a lognormal's kind: z to sign(z)·(e^(3|z|) − 1)."""

    def made(seed: int) -> Data:
        X, y = make(seed)
        z = (X - X.mean(axis=0)) / X.std(axis=0)
        return np.sign(z) * np.expm1(3.0 * np.abs(z)), y

    return made


def _unscaled(make: Callable[[int], Data]) -> Callable[[int], Data]:
    """Columns of very different size and origin."""

    def made(seed: int) -> Data:
        X, y = make(seed)
        rng = np.random.default_rng(1)
        scale = 10.0 ** rng.uniform(-6, 6, X.shape[1])
        return X * scale + scale * rng.normal(size=X.shape[1]) * 100, y

    return made


def _load(load: Callable[..., Data]) -> Callable[[int], Data]:
    return lambda seed: load(return_X_y=True)


def _friedman(number: int, noise: float) -> Callable[[int], Data]:
    make = getattr(datasets, f"make_friedman{number}")
    return lambda seed: make(n_samples=ROWS, noise=noise, random_state=seed)


_DIABETES = _load(datasets.load_diabetes)
_FRIEDMAN1 = _friedman(1, 1.0)


def _diabetes_in_other_units(seed: int) -> Data:
    X, y = _unscaled(_DIABETES)(seed)
    return X, 1e6 + 1e4 * y


TABLES = {
    "iris": Table(_load(datasets.load_iris)),
    "wine": Table(_load(datasets.load_wine)),
    "breast cancer": Table(_load(datasets.load_breast_cancer)),
    "digits": Table(_load(datasets.load_digits)),
    "moons": Table(_moons, test_size=0.5),
    "hastie": Table(_hastie, test_size=0.5),
    "gaussian quantiles": Table(_gaussian_quantiles, test_size=0.5),
    "mixed": Table(_mixed, test_size=0.5, mixed=True),
    "breast cancer, unscaled": Table(_unscaled(_load(datasets.load_breast_cancer))),
    "classification, heavy": Table(_heavy(_classification), test_size=0.5),
    "diabetes": Table(_DIABETES, regression=True),
    "friedman1": Table(_FRIEDMAN1, regression=True, test_size=0.5),
    "friedman2": Table(_friedman(2, 125.0), regression=True, test_size=0.5),
    "friedman3": Table(_friedman(3, 0.1), regression=True, test_size=0.5),
    "friedman1, heavy": Table(_heavy(_FRIEDMAN1), regression=True, test_size=0.5),
    "diabetes, unscaled": Table(_diabetes_in_other_units, regression=True),
}


def _prepared(table: Table, scaled: bool) -> list[Any]:
    """What stands before estimators that take numbers only."""
    steps: list[Any] = [StandardScaler()] if scaled else []
    if not table.mixed:
        return steps
    categories = make_column_selector(dtype_include="category")
    numbers = make_column_selector(dtype_include="number")
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    return [
        make_column_transformer(
            (make_pipeline(SimpleImputer(strategy="median"), *steps), numbers),
            (encoder, categories),
        )
    ]


def _ranvier(table: Table, seed: int) -> Any:
    kind = TabularRegressor if table.regression else TabularClassifier
    return kind(random_state=seed)


def _mlp(table: Table, seed: int) -> Any:
    kind = MLPRegressor if table.regression else MLPClassifier
    return make_pipeline(*_prepared(table, True), kind(random_state=seed))


def _boosting(table: Table, seed: int) -> Any:
    kind = HistGradientBoostingRegressor if table.regression else HistGradientBoostingClassifier
    return kind(random_state=seed)


def _forest(table: Table, seed: int) -> Any:
    kind = RandomForestRegressor if table.regression else RandomForestClassifier
    return make_pipeline(*_prepared(table, False), kind(random_state=seed))


CONTESTANTS: dict[str, Callable[[Table, int], Any]] = {
    "ranvier": _ranvier,
    "sklearn MLP": _mlp,
    "boosting": _boosting,
    "forest": _forest,
}


@dataclass
class Outcome:
    """What one contestant reached on one table, an entry for each split."""

    scores: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def split(table: Table, seed: int) -> list[Any]:
    """Rows to train on and rows to test, as X, X, y, y."""
    X, y = table.make(seed)
    stratify = None if table.regression else y
    return train_test_split(X, y, test_size=table.test_size, random_state=seed, stratify=stratify)


def measure(name: str, table: Table, seeds: int, contestants: list[str]) -> dict[str, Outcome]:
    """All contestants on the same splits of a table."""
    outcomes = {contestant: Outcome() for contestant in contestants}
    for seed in range(seeds):
        X, X_test, y, y_test = split(table, seed)
        for contestant, outcome in outcomes.items():
            print(f"\r{name}, split {seed}, {contestant:12}", end="", file=sys.stderr, flush=True)
            estimator = CONTESTANTS[contestant](table, seed)
            begin = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                estimator.fit(X, y)
            outcome.seconds.append(time.perf_counter() - begin)
            outcome.scores.append(float(estimator.score(X_test, y_test)))
    print("\r" + 60 * " " + "\r", end="", file=sys.stderr, flush=True)
    return outcomes


def differences(ours: Outcome, theirs: Outcome) -> tuple[float, float]:
    """Mean difference of the scores over the splits, and its standard error."""
    difference = np.subtract(ours.scores, theirs.scores)
    if len(difference) < 2:
        return float(difference.mean()), float("nan")
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))


def ranks(outcomes: dict[str, Outcome]) -> dict[str, float]:
    """Ranks by the mean score, 1 for the highest; equal ones share."""
    # Sums of counts differ in their last digits though the counts are the same.
    means = [-round(float(np.mean(outcome.scores)), 9) for outcome in outcomes.values()]
    return dict(zip(outcomes, rankdata(means).tolist(), strict=True))


def accuracy(names: list[str], seeds: int) -> dict[str, dict[str, Outcome]]:
    """Prints a row for each table, then the mean ranks; returns what was measured."""
    contestants = list(CONTESTANTS)
    print("\nAccuracy (R² for regressions) on held-out rows, mean over the splits\n")
    print(f"{'table':24}" + "".join(f"{c:>13}" for c in contestants), end="")
    print(f"{'to MLP':>10}{'± SE':>8}{'s per fit':>11}  bar")
    outcomes = {}
    missed = 0
    for name in names:
        outcomes[name] = found = measure(name, TABLES[name], seeds, contestants)
        mean, error = differences(found["ranvier"], found["sklearn MLP"])
        below = mean < -error
        missed += below
        cells = [f"{np.mean(found[c].scores):13.4f}" for c in contestants]
        seconds = float(np.mean(found["ranvier"].seconds))
        print(f"{name:24}" + "".join(cells), end="")
        print(f"{mean:+10.4f}{error:8.4f}{seconds:11.2f}  {'BELOW' if below else 'ok'}", flush=True)
    table_ranks = [ranks(found) for found in outcomes.values()]
    mean_ranks = {c: float(np.mean([r[c] for r in table_ranks])) for c in contestants}
    print(f"{'mean rank':24}" + "".join(f"{mean_ranks[c]:13.2f}" for c in contestants), end="")
    reached = mean_ranks["ranvier"] <= MEAN_RANK
    print(f"{'':29}  {'ok' if reached else 'ABOVE'} (at most {MEAN_RANK})")
    print(f"below the MLP by more than a standard error: {missed} of {len(names)}")
    return outcomes


def coverage(seeds: int) -> dict[str, dict[str, float]]:
    """Prints the share of targets inside the intervals, mean over the seeds."""
    print(
        "\nCoverage of predict_interval, mean over the seeds (width in standard deviations of y)\n"
    )
    print(f"{'table':44}" + "".join(f"{f'{level:.0%}':>15}" for level in COVERAGES) + "  bar")
    means = {}
    for name, points, draw in (
        ("friedman1, 200 rows of calibration", 0.01, _friedman_to_cover),
        ("diabetes, calibrated on the rows of the fit", 0.03, _diabetes_to_cover),
    ):
        shares: list[list[float]] = []
        widths: list[list[float]] = []
        for seed in range(seeds):
            print(f"\r{name}, seed {seed}", end="", file=sys.stderr, flush=True)
            regressor, X, y = draw(seed)
            intervals = [regressor.predict_interval(X, coverage=level) for level in COVERAGES]
            shares.append([float(((low <= y) & (y <= high)).mean()) for low, high in intervals])
            widths.append([float((high - low).mean() / y.std()) for low, high in intervals])
        print("\r" + 60 * " " + "\r", end="", file=sys.stderr, flush=True)
        share, width = np.mean(shares, axis=0), np.mean(widths, axis=0)
        means[name] = {str(c): float(s) for c, s in zip(COVERAGES, share, strict=True)}
        off = float(np.abs(share - COVERAGES).max())
        cells = [f"{f'{s:.1%} ({w:.2f})':>15}" for s, w in zip(share, width, strict=True)]
        verdict = "ok" if off <= points else "MISSED"
        print(f"{name:44}" + "".join(cells) + f"  {verdict} (within {points:.0%})", flush=True)
    return means


def _friedman_to_cover(seed: int) -> tuple[TabularRegressor, Any, np.ndarray]:
    X, y = datasets.make_friedman1(1000 + 200 + 5000, noise=1.0, random_state=seed)
    regressor = TabularRegressor(uncertainty=True, random_state=seed)
    regressor.fit(X[:1000], y[:1000]).calibrate(X[1000:1200], y[1000:1200])
    return regressor, X[1200:], y[1200:]


def _diabetes_to_cover(seed: int) -> tuple[TabularRegressor, Any, np.ndarray]:
    X, X_test, y, y_test = split(TABLES["diabetes"], seed)
    return TabularRegressor(uncertainty=True, random_state=seed).fit(X, y), X_test, y_test


def duration() -> None:
    """Prints how long fits and predictions of 1,000,000 rows of 20 columns take."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1_100_000, 20)).astype(np.float32)
    signal = X[:, 0] * X[:, 1] + np.sin(2 * X[:, 2]) + np.abs(X[:, 3]) + 0.5 * X[:, 4]
    y = signal + 0.5 * rng.normal(size=len(X)).astype(np.float32)
    train, test = slice(0, 1_000_000), slice(1_000_000, None)
    print("\n1,000,000 × 20\n")
    for label, estimator, target in (
        ("TabularRegressor", TabularRegressor(random_state=0), y),
        ("TabularClassifier", TabularClassifier(random_state=0), (y > y.mean()).astype(int)),
        ("HistGradientBoostingRegressor", HistGradientBoostingRegressor(random_state=0), y),
    ):
        begin = time.perf_counter()
        estimator.fit(X[train], target[train])
        middle = time.perf_counter()
        score = estimator.score(X[test], target[test])
        end = time.perf_counter()
        kind = "accuracy" if is_classifier(estimator) else "R²"
        print(
            f"{label:30} fit {middle - begin:6.1f} s, predict {1e6 * (end - middle) / 1e5:5.1f} µs "
            f"per row, {kind} {score:.4f}",
            flush=True,
        )


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parts = ("accuracy", "coverage", "time")
    parser.add_argument("part", nargs="*", help=f"some of {', '.join(parts)}; all by default")
    parser.add_argument("--tables", help="some of these, by semicolon: " + "; ".join(TABLES))
    parser.add_argument("--seeds", type=int, help="splits; default 10, of coverage 20")
    parser.add_argument("--json", type=Path, help="write every score of every split here")
    options = parser.parse_args()
    chosen = options.part or list(parts)
    if wrong := [part for part in chosen if part not in parts]:
        parser.error(f"part: expected some of {', '.join(parts)}, got {', '.join(wrong)}")
    names = list(TABLES) if options.tables is None else options.tables.split(";")
    if wrong := [name for name in names if name not in TABLES]:
        parser.error(f"--tables: expected some of {', '.join(TABLES)}, got {', '.join(wrong)}")
    if options.seeds is not None and options.seeds < 1:
        parser.error(f"--seeds: expected 1 or more, got {options.seeds}")
    versions = f"ranvier {ranvier.__version__}, scikit-learn {sklearn.__version__}"
    print(f"{describe()}; {versions}; {today()}")
    report: dict[str, Any] = {}
    if "accuracy" in chosen:
        found = accuracy(names, options.seeds or 10)
        report["accuracy"] = {
            name: {contestant: asdict(o) for contestant, o in outcomes.items()}
            for name, outcomes in found.items()
        }
    if "coverage" in chosen:
        report["coverage"] = coverage(options.seeds or 20)
    if "time" in chosen:
        duration()
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
