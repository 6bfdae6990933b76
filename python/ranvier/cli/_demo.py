"""`ranvier demo`: handwritten digits, and the cross-check."""

from __future__ import annotations

import argparse
import time

import numpy as np

from .. import datasets
from .._crosscheck import crosscheck
from ..config import config, set_num_threads
from ..layers import Dense, Dropout
from ..losses import CrossEntropy
from ..model import Sequential
from ..optimizers import Adam
from ..trainer import Trainer
from ._output import check_plot, note, plot, progress, report
from ._output import say as say_


def run(options: argparse.Namespace) -> int:
    """Trains, tests, cross-checks."""
    # As JSON the figures are for a program: the lines are messages.
    say = note if options.json else say_
    if options.plot is not None:
        check_plot(options.plot)
    if options.threads is not None:
        set_num_threads(options.threads)
    X, y = datasets.load_digits()
    order = np.random.default_rng(options.seed).permutation(len(X))
    test, validation, train = np.split(order, [len(X) // 5, 3 * len(X) // 10])
    settings = config()
    say(
        f"ranvier {settings['ranvier']}, {settings['isa']}, {settings['threads']} thread(s), "
        f"numerics version {settings['numerics']}"
    )
    say(
        f"handwritten digits, 8 x 8 pixels, 10 classes: {len(train)} images to train, "
        f"{len(validation)} to validate, {len(test)} to test"
    )
    model = Sequential(
        [Dense(256, activation="relu"), Dropout(0.4), Dense(10)],
        input_size=X.shape[1],
        seed=options.seed,
    )
    say(f"network 64-256-10 with dropout, {model.n_parameters} parameters, Adam, batches of 32")
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
        callbacks=progress(options.epochs),
    )
    seconds = time.perf_counter() - begun
    accuracy = trainer.evaluate(X[test], y[test])["accuracy"]
    each = seconds / trainer.step * 1e6
    say(f"trained {trainer.step} steps in {seconds:.2f} s ({each:.0f} us each)")
    say(f"test accuracy {accuracy:.4f} on {len(test)} images never seen")
    small = Sequential([Dense(16, activation="relu"), Dense(10)], input_size=64, dtype="float64")
    checked = crosscheck(small, X[train], y[train], loss="cross_entropy", steps=5)
    say(
        f"cross-check of 5 steps of a 64-16-10 network in float64: core and reference "
        f"{'agree' if checked.ok else 'DISAGREE'}, largest deviation {checked.max_error:.1e}"
    )
    if options.plot is not None:
        plot(history, "handwritten digits", options.plot)
        say(f"loss curves written to {options.plot}")
    document = {
        "config": settings,
        "steps": trainer.step,
        "seconds": seconds,
        "test_accuracy": accuracy,
        "crosscheck": {"ok": checked.ok, "max_error": checked.max_error},
        "history": dict(history),
    }
    report(document, (), options.json)
    return 0 if checked.ok else 1
