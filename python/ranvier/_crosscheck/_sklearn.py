"""A training by scikit-learn's MLP, as a trace."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._arrays import Array
from ..errors import ArgumentError, DTypeError, MissingDependencyError
from ..model import Sequential
from ._trace import Batch, Step, Trace, mapped

try:
    from sklearn.base import clone, is_classifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier, MLPRegressor
except ImportError as error:
    raise MissingDependencyError(
        "crosscheck against an MLP needs scikit-learn: pip install 'ranvier[sklearn]'"
    ) from error


class _Watched:
    """A clone that keeps what `partial_fit` computes on the way."""

    def __init__(self, mlp: Any, batch: Batch, outputs: int) -> None:
        self.mlp = mlp
        self._given: dict[str, Any] = {}
        if is_classifier(mlp):
            self._given["classes"] = np.arange(max(outputs, 2))
        # The first step makes the parameters, the labels and the optimizer.
        self.step(batch)
        del mlp._optimizer
        mlp.t_ = 0
        self._backprop = mlp._backprop
        mlp._backprop = self._keep
        self.seen: dict[str, Any] = {}

    def step(self, batch: Batch) -> None:
        x, y = batch
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        self.mlp.batch_size = len(x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.mlp.partial_fit(x, y, **self._given)
        # The labels are known from now on.
        if is_classifier(self.mlp) and self.mlp.n_outputs_ > 1 and y.ndim == 2:
            self._given = {}

    def _keep(self, *given: Any) -> Any:
        loss, coefs, intercepts = result = self._backprop(*given)
        depth = self.mlp.n_layers_
        activations = next(a for a in given if isinstance(a, list) and len(a) == depth)
        inputs = [np.array(a) for a in activations[:-1]]
        self.seen = {
            "inputs": inputs,
            "output": inputs[-1] @ self.mlp.coefs_[-1] + self.mlp.intercepts_[-1],
            "loss": float(loss),
            "gradients": [
                np.array(a) for pair in zip(coefs, intercepts, strict=True) for a in pair
            ],
        }
        return result

    def parameters(self) -> list[Array]:
        pairs = zip(self.mlp.coefs_, self.mlp.intercepts_, strict=True)
        return [array for pair in pairs for array in pair]


def _checked(mlp: Any) -> Any:
    """An MLP that can be stepped, cloned."""
    if not isinstance(mlp, MLPClassifier | MLPRegressor) or hasattr(mlp, "to_ranvier"):
        raise DTypeError(
            "against: expected an MLPClassifier or MLPRegressor of scikit-learn, got "
            f"{type(mlp).__name__}"
        )
    if mlp.solver not in ("sgd", "adam"):
        raise ArgumentError(f"against: expected solver='sgd' or 'adam', got {mlp.solver!r}")
    if mlp.early_stopping:
        raise ArgumentError("against: expected early_stopping=False, got True")
    return clone(mlp).set_params(shuffle=False, verbose=False)


def trace(model: Sequential, against: Any, batches: Sequence[Batch]) -> Trace:
    """A clone, trained from the model's parameters on these batches."""
    watched = _Watched(_checked(against), batches[0], model.output_size)
    own = model.parameters()
    names = mapped(model, [array.shape for array in watched.parameters()], turned=False)
    for name, array in zip(names, watched.parameters(), strict=True):
        array[...] = own[name]
    layers = [int(name.partition(".")[0]) for name in names[::2]]

    def numbers(arrays: Sequence[Array]) -> dict[str, Array]:
        return {name: np.array(array) for name, array in zip(names, arrays, strict=True)}

    start = numbers(watched.parameters())
    steps = []
    for batch in batches:
        watched.step(batch)
        seen = watched.seen
        outputs = {
            layer - 1: array for layer, array in zip(layers, seen["inputs"], strict=True) if layer
        }
        steps.append(
            Step(
                numbers(watched.parameters()),
                numbers(seen["gradients"]),
                seen["output"],
                outputs,
                seen["loss"],
            )
        )
    return Trace("scikit-learn", start, steps, watched.parameters()[0].dtype)
