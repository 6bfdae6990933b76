"""The command line: `ranvier` and `python -m ranvier`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import __version__, datasets
from ._crosscheck import crosscheck
from .callbacks import Callback
from .config import config, set_num_threads, show_config
from .errors import ArgumentError, MissingDependencyError, RanvierError
from .history import History
from .layers import Dense, Dropout
from .losses import CrossEntropy
from .model import Sequential
from .optimizers import Adam
from .trainer import Trainer

__all__ = ["main"]

_EPILOG = """examples:
  ranvier demo                     train on handwritten digits, check against the reference
  ranvier demo --plot curves.png   and draw the loss curves (needs ranvier[plot])
  ranvier config                   versions, instruction set, threads
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0 done, 1 failed, 130 interrupted (2, wrong usage, exits)."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        return 130
    except BrokenPipeError:
        # The reader of our output has gone; there is nobody left to tell.
        sys.stderr.close()
        return 1
    except (RanvierError, OSError) as error:
        sys.stderr.write(f"ranvier: {error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ranvier",
        description="Dense neural networks on the CPU.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ranvier {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo", help="train on the bundled handwritten digits and check against the reference"
    )
    demo.add_argument("--epochs", type=_positive, default=60, metavar="N", help="default 60")
    demo.add_argument("--seed", type=_seed, default=0, metavar="N", help="default 0")
    demo.add_argument("--threads", type=_positive, metavar="N", help="default: all cores")
    demo.add_argument("--plot", type=Path, metavar="FILE", help="write the loss curves (png, svg)")
    demo.set_defaults(run=_demo)
    commands.add_parser("config", help="show versions, instruction set, threads").set_defaults(
        run=_config
    )
    return parser


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) >= 2**64:
        raise argparse.ArgumentTypeError(f"expected an integer from 0 to 2^64 - 1, got {text}")
    return int(text)


def _config(options: argparse.Namespace) -> int:
    show_config()
    return 0


class _ProgressLine(Callback):
    """One line on stderr: rewritten on a terminal, else every tenth epoch on a line of its own."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._terminal = sys.stderr.isatty()
        self._written = 0.0

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        last = epoch + 1 == self._epochs
        now = time.monotonic()
        if self._terminal:
            if not last and now - self._written < 0.1:
                return
        elif not last and (epoch + 1) % 10:
            return
        self._written = now
        line = (
            f"epoch {epoch + 1:3d}/{self._epochs}  loss {logs['loss']:.4f}  "
            f"validation loss {logs['val_loss']:.4f}  accuracy {logs['val_accuracy']:.4f}"
        )
        end = "\n" if last or not self._terminal else ""
        sys.stderr.write(("\r" if self._terminal else "") + line + end)
        sys.stderr.flush()


def _demo(options: argparse.Namespace) -> int:
    if options.plot is not None:
        _check_plot(options.plot)
    if options.threads is not None:
        set_num_threads(options.threads)
    X, y = datasets.load_digits()
    order = np.random.default_rng(options.seed).permutation(len(X))
    test, validation, train = np.split(order, [len(X) // 5, 3 * len(X) // 10])
    settings = config()
    _say(
        f"ranvier {settings['ranvier']}, {settings['isa']}, {settings['threads']} thread(s), "
        f"numerics version {settings['numerics']}"
    )
    _say(
        f"handwritten digits, 8 x 8 pixels, 10 classes: {len(train)} images to train, "
        f"{len(validation)} to validate, {len(test)} to test"
    )
    model = Sequential(
        [Dense(256, activation="relu"), Dropout(0.4), Dense(10)],
        input_size=X.shape[1],
        seed=options.seed,
    )
    _say(f"network 64-256-10 with dropout, {model.n_parameters} parameters, Adam, batches of 32")
    trainer = Trainer(
        model,
        loss=CrossEntropy(label_smoothing=0.05),
        optimizer=Adam(learning_rate=2e-3),
        seed=options.seed,
    )
    begun = time.perf_counter()
    history = trainer.fit(
        X[train],
        y[train],
        epochs=options.epochs,
        batch_size=32,
        validation_data=(X[validation], y[validation]),
        callbacks=[_ProgressLine(options.epochs)],
    )
    seconds = time.perf_counter() - begun
    accuracy = trainer.evaluate(X[test], y[test])["accuracy"]
    each = seconds / trainer.step * 1e6
    _say(f"trained {trainer.step} steps in {seconds:.2f} s ({each:.0f} us each)")
    _say(f"test accuracy {accuracy:.4f} on {len(test)} images never seen")
    small = Sequential([Dense(16, activation="relu"), Dense(10)], input_size=64, dtype="float64")
    report = crosscheck(small, X[train], y[train], loss="cross_entropy", steps=5)
    _say(
        f"cross-check of 5 steps of a 64-16-10 network in float64: core and reference "
        f"{'agree' if report.ok else 'DISAGREE'}, largest deviation {report.max_error:.1e}"
    )
    if options.plot is not None:
        _plot(history, options.plot)
        _say(f"loss curves written to {options.plot}")
    return 0 if report.ok else 1


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _check_plot(path: Path) -> None:
    """Says before the training what would keep the picture from being written."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            "--plot needs matplotlib: pip install 'ranvier[plot]'"
        ) from error
    known = Figure().canvas.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        raise ArgumentError(
            f"--plot: expected a file name that ends in one of {', '.join(known)}, got {path}"
        )
    if not path.parent.is_dir():
        raise ArgumentError(f"--plot: expected a file in an existing folder, got {path}")


def _plot(history: History, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = history.plot(figure.add_subplot())
    axes.set_title("handwritten digits")
    figure.savefig(path, dpi=120)
