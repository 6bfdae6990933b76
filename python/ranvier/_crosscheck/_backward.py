"""Backward passes cut at an activation: what a wrong or a rounded derivative does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .._arrays import Array
from ..layers import Activation, BatchNorm, Dense, Layer, LayerNorm, Softmax
from ..losses import CustomLoss, Loss
from ..model import Sequential
from ._ours import Numbers, outputs_of

__all__ = ["activated", "derivative_noise", "without_derivative"]

# How often the derivatives are shaken.
_DRAWS = 3

# Terms of a normalisation's derivative, of one size, that may cancel.
_TERMS = 3.0


class _Seed:
    """A loss whose gradient is given."""

    def __init__(self, d_output: Array) -> None:
        self._d_output = d_output

    def value_and_gradient(
        self, output: Array, target: Any, sample_weight: Array | None = None
    ) -> tuple[float, Array]:
        return 0.0, self._d_output


def activated(layers: Sequence[Layer]) -> list[int]:
    """Numbers of the layers whose activation has a derivative for each z."""
    return [
        number
        for number, layer in enumerate(layers)
        if isinstance(layer, Dense | Activation)
        and layer.activation not in (None, "identity", "softmax")
        and not isinstance(layer, Softmax)
    ]


def _seeded(
    layers: Sequence[Layer], parameters: Numbers, x: Array, d_output: Array, dtype: Any
) -> Numbers:
    """Gradients of layers whose outputs have this derivative."""
    part = Sequential(list(layers), input_size=x.shape[1], dtype=dtype)
    part.set_parameters({name: parameters[name] for name in part._shapes()})
    seed = _Seed(d_output)
    return dict(part.value_and_gradient(x, np.zeros(len(x)), loss=seed, training=True)[1])


def _d_activation(
    model: Sequential,
    number: int,
    parameters: Numbers,
    x: Array,
    y: Any,
    loss: Loss | CustomLoss,
) -> Array:
    """The derivative of the loss by what layer `number` gives."""
    a = outputs_of(model.layers[: number + 1], parameters, x, model.dtype)
    behind = model.layers[number + 1 :]
    if not behind:
        return np.asarray(loss.value_and_gradient(a, y)[1], model.dtype)
    rest = Sequential(list(behind), input_size=a.shape[1], dtype=model.dtype)
    own = {}
    for name in rest._shapes():
        place, _, role = name.partition(".")
        own[name] = parameters[f"{int(place) + number + 1}.{role}"]
    rest.set_parameters(own)
    return rest.value_and_gradient(a, y, loss=loss, training=True)[1].d_input


def _up_to_z(model: Sequential, number: int) -> list[Layer]:
    """The layers up to z of layer `number`."""
    plain: Any = model.layers[number]
    return [*model.layers[:number], replace(plain, activation=None)]


def without_derivative(
    model: Sequential,
    number: int,
    parameters: Numbers,
    x: Array,
    y: Any,
    loss: Loss | CustomLoss,
) -> Numbers:
    """Gradients up to layer `number` where the derivative of its activation is left out."""
    d_a = _d_activation(model, number, parameters, x, y, loss)
    return _seeded(_up_to_z(model, number), parameters, x, d_a, model.dtype)


def derivative_noise(
    model: Sequential, parameters: Numbers, x: Array, y: Any, loss: Loss | CustomLoss
) -> dict[str, float]:
    """How far rounding inside of each layer's derivative moves each gradient, by its report's name.

    Frameworks take f'(z) from a, such as a(1 − a), which keeps few digits where f is saturated.
    What comes back through a normalisation is a difference, of which little may be left.
    """
    rng = np.random.default_rng(0)
    eps = float(np.finfo(model.dtype).eps)
    # Penalties are not of the derivatives.
    layers = [
        replace(layer, l1=0.0, l2=0.0) if isinstance(layer, Dense) else layer
        for layer in model.layers
    ]
    seeds: list[tuple[list[Layer], Array]] = []
    for number in activated(layers):
        last: Any = layers[number]
        d_a = _d_activation(model, number, parameters, x, y, loss)
        seeds.append(([*layers[:number], replace(last, activation=None)], d_a))
    for number, layer in enumerate(layers):
        if number and isinstance(layer, BatchNorm | LayerNorm):
            given = outputs_of(layers[:number], parameters, x, model.dtype)
            across = 0 if isinstance(layer, BatchNorm) else 1
            deviation = np.sqrt(given.var(axis=across, keepdims=True) + layer.eps)
            d_n = _d_activation(model, number, parameters, x, y, loss)
            terms = d_n * parameters[f"{number}.weight"] / deviation
            seeds.append((layers[:number], _TERMS * np.broadcast_to(terms, given.shape)))
    most: dict[str, float] = {}
    for stack, terms in seeds:
        own: dict[str, float] = {}
        for _ in range(_DRAWS):
            moved = (eps * rng.uniform(-1.0, 1.0, terms.shape) * terms).astype(model.dtype)
            for name, gradient in _seeded(stack, parameters, x, moved, model.dtype).items():
                largest = float(np.abs(gradient).max(initial=0.0))
                own[f"d_{name}"] = max(own.get(f"d_{name}", 0.0), largest)
        for name, value in own.items():
            most[name] = most.get(name, 0.0) + value
    return most
