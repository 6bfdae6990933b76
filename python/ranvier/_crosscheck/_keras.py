"""A training by Keras, as a trace."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._arrays import Array
from ..errors import ArgumentError, DTypeError, MissingDependencyError
from ..layers import Softmax
from ..model import Sequential
from ._trace import Batch, Step, Trace, mapped

try:
    import keras
except ImportError as error:
    raise MissingDependencyError(
        "crosscheck against a Keras model needs Keras 3 or newer: pip install 'ranvier[keras]'"
    ) from error


def _array(variable: Any) -> Array:
    return np.array(keras.ops.convert_to_numpy(variable))


def _parts(against: Any) -> tuple[Any, Any, Any]:
    """Copies: the model, the loss, the optimizer."""
    if isinstance(against, tuple):
        model, loss, optimizer = against
    else:
        model = against
        loss, optimizer = getattr(model, "loss", None), getattr(model, "optimizer", None)
        if loss is None or optimizer is None:
            raise ArgumentError(
                "against: expected a compiled Keras model, or (model, loss, optimizer), got one "
                "that is not compiled"
            )
    loss, optimizer = keras.losses.get(loss), keras.optimizers.get(optimizer)
    if not isinstance(model, keras.Model) or not getattr(model, "outputs", None):
        raise DTypeError(
            "against: expected a keras.Sequential or a functional model that knows its input's "
            f"shape, got {model!r}"
        )
    copied = keras.models.clone_model(model)
    copied.set_weights(model.get_weights())
    for layer, own in zip(model.layers, copied.layers, strict=True):
        own.trainable = layer.trainable
    return copied, loss, type(optimizer).from_config(optimizer.get_config())


def _squash(model: Any, ours: Sequential) -> str | None:
    """The activation of probabilities that a model ends with, where ours ends with raw outputs."""
    last, own = model.layers[-1], ours.layers[-1]
    if isinstance(own, Softmax) or getattr(own, "activation", None) not in (None, "identity"):
        return None
    activation = getattr(last, "activation", last)
    name = getattr(activation, "__name__", type(activation).__name__).lower()
    return name if name in ("softmax", "sigmoid") else None


class _Model:
    """A compiled copy with our names for its weights."""

    def __init__(self, parts: tuple[Any, Any, Any], model: Sequential) -> None:
        self.model, loss, self._optimizer = parts
        self.model.compile(
            loss=loss, optimizer=self._optimizer, run_eagerly=True, jit_compile=False
        )
        self._weights = [w for w in self.model.weights if "seed_generator" not in w.path]
        shapes = [tuple(w.shape) for w in self._weights]
        self.names = mapped(model, shapes, turned=False)
        self._shapes = model._shapes()
        self._apply = self._optimizer.apply
        self._optimizer.apply = self._keep
        self._seen: list[Any] = []
        self._inner = self._watched()

    def _watched(self) -> Any:
        """A model of the output, and of what comes into each layer with weights."""
        first = {id(w): name for w, name in zip(self._weights, self.names, strict=True)}
        outputs = {"output": self.model.outputs[0]}
        for owner in self.model.layers:
            name = next((first[id(w)] for w in owner.weights if id(w) in first), "0")
            number = int(name.partition(".")[0])
            if number:
                # Of several that are one layer of ours the first.
                outputs.setdefault(str(number - 1), owner.input)
        return keras.Model(self.model.inputs, outputs)

    def put(self, parameters: dict[str, Array]) -> None:
        for name, weight in zip(self.names, self._weights, strict=True):
            weight.assign(parameters[name].reshape(weight.shape))

    def numbers(self) -> dict[str, Array]:
        return {
            name: _array(weight).reshape(self._shapes[name])
            for name, weight in zip(self.names, self._weights, strict=True)
        }

    def _keep(self, grads: Any, trainable_variables: Any = None) -> Any:
        self._seen = [None if g is None else _array(g) for g in grads]
        if trainable_variables is None:
            return self._apply(grads)
        return self._apply(grads, trainable_variables)

    def step(self, x: Array, y: Array) -> Step:
        before = [_array(weight) for weight in self._weights]
        inner = self._inner([x], training=True)
        output = inner.pop("output")
        target = y
        if y.dtype.kind == "f" and y.size == np.prod(output.shape):
            target = y.reshape(tuple(output.shape))
        loss = float(_array(self.model.compute_loss(x=x, y=target, y_pred=output, training=True)))
        for weight, array in zip(self._weights, before, strict=True):
            weight.assign(array)
        self.model.train_on_batch(x, target)
        trained = {
            id(w): g for w, g in zip(self.model.trainable_variables, self._seen, strict=True)
        }
        gradients = {}
        for name, weight in zip(self.names, self._weights, strict=True):
            if not name.endswith(("running_mean", "running_var")):
                gradient = trained.get(id(weight))
                gradient = np.zeros(weight.shape, x.dtype) if gradient is None else gradient
                gradients[name] = gradient.reshape(self._shapes[name])
        outputs = {int(number): _array(inputs) for number, inputs in inner.items()}
        return Step(self.numbers(), gradients, _array(output), outputs, loss)


def trace(model: Sequential, against: Any, batches: Sequence[Batch]) -> Trace:
    """A copy of the model, trained from the parameters of ours on these batches."""
    with warnings.catch_warnings():
        # Keras calls NumPy on torch's tensors in a way that NumPy 2 warns of.
        warnings.simplefilter("ignore", DeprecationWarning)
        own = _Model(_parts(against), model)
        own.put(model.parameters())
        start = own.numbers()
        steps = [own.step(x, y) for x, y in batches]
    squash = _squash(own.model, model)
    # But for TensorFlow's backend, products in float64 are computed in float32.
    exact = keras.backend.backend() == "tensorflow"
    return Trace("keras", start, steps, model.dtype if exact else np.dtype(np.float32), squash)
