"""One step of ranvier's from given numbers: what it computes, and how much of that is rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .._arrays import Array
from ..errors import DivergedError
from ..layers import BatchNorm, GaussianNoise, Layer, Standardize
from ..losses import CustomLoss, Loss
from ..model import Sequential
from ..optimizers import SGD, FirstOrder
from ..schedules import Schedule
from ..trainer import Trainer

__all__ = [
    "Computed",
    "Numbers",
    "computed",
    "noise",
    "outputs_of",
    "statistics",
    "updated",
]

Numbers = dict[str, Array]

# Rounding of this many units in the last place moves what the noise is measured from.
_ULPS = 2.0

_GATED = ("gelu", "gelu_tanh", "silu", "swish", "mish", "hard_swish")

# How often: by chance one draw may come back to where it was.
_DRAWS = 3


class _Watch:
    """A loss that keeps the outputs that it sees; its gradient may be moved by rounding."""

    def __init__(
        self, loss: Loss | CustomLoss | None, rng: np.random.Generator | None = None
    ) -> None:
        self._loss = loss
        self._rng = rng
        self.output: Any = None

    def value_and_gradient(
        self, output: Array, target: Any, sample_weight: Array | None = None
    ) -> tuple[float, Any]:
        self.output = np.array(output)
        if self._loss is None:
            return 0.0, np.zeros_like(output)
        value, gradient = self._loss.value_and_gradient(output, target)
        if self._rng is not None:
            gradient = _moved(np.asarray(gradient), self._rng)
        return value, gradient


@dataclass
class Computed:
    """Forward and backward pass of one batch."""

    outputs: dict[int, Array]
    output: Array
    loss: float
    gradients: Numbers


def _output(model: Sequential, x: Array) -> Array:
    """The output in training mode."""
    watch = _Watch(None)
    model.value_and_gradient(x, np.zeros(len(x)), loss=watch, training=True)
    output: Array = watch.output
    return output


def outputs_of(
    layers: Sequence[Layer], parameters: Numbers, x: Array, dtype: np.dtype[Any]
) -> Array:
    """The output in training mode of layers with these parameters."""
    part = Sequential(list(layers), input_size=x.shape[1], dtype=dtype)
    part.set_parameters({name: parameters[name] for name in part._shapes()})
    return _output(part, x)


def computed(
    model: Sequential,
    parameters: Numbers,
    x: Array,
    y: Any,
    loss: Loss | CustomLoss,
    wanted: Sequence[int] = (),
    rng: np.random.Generator | None = None,
) -> Computed:
    """What the model computes in a step from these parameters; `wanted` are layers' numbers.

    `rng` moves the gradient of the outputs by rounding.
    """
    model.set_parameters(parameters)
    watch = _Watch(loss, rng)
    value, gradients = model.value_and_gradient(x, y, loss=watch, training=True)
    outputs = {
        number: outputs_of(model.layers[: number + 1], parameters, x, model.dtype)
        for number in wanted
    }
    return Computed(outputs, watch.output, value, dict(gradients))


def noise(
    model: Sequential,
    parameters: Numbers,
    x: Array,
    y: Any,
    loss: Loss | CustomLoss,
    found: Computed,
    after: Numbers,
    seed: int,
) -> dict[str, float]:
    """How far rounding of what each layer gets moves each figure, by its name in a report.

    Where this is much, as in the gradient of a bias in front of a BatchNorm, which is 0, two right
    answers differ. `after` are the running statistics after the step.
    """
    rng = np.random.default_rng(seed)
    eps = float(np.finfo(model.dtype).eps)
    layers: list[Layer] = []
    places = []
    for number, layer in enumerate(model.layers):
        places.append(len(layers))
        layers.append(layer)
        if not isinstance(layer, Standardize):
            # Such an activation is z times a gate, which is rounded as if it were near 1.
            gated = getattr(layer, "activation", None) in _GATED
            last = replace(layer, activation=None) if gated else layer  # type: ignore[call-arg]
            stack = [*model.layers[:number], last]
            output = outputs_of(stack, parameters, x, model.dtype)
            largest = float(np.abs(output).max(initial=0.0))
            layers.append(GaussianNoise(eps * largest if np.isfinite(largest) else 0.0))
    own = figures(found) | after
    most = dict.fromkeys(own, 0.0)
    for draw in range(_DRAWS):
        shaken = Sequential(layers, input_size=model.input_size, seed=draw, dtype=model.dtype)
        names = {_at(places, name): name for name in parameters}
        moved = {name: _moved(parameters[own_name], rng) for name, own_name in names.items()}
        shifted = _moved(x, rng)
        wanted = {places[n] + 1: n for n in found.outputs}
        other = computed(shaken, moved, shifted, y, loss, list(wanted), rng)
        other.gradients = {names[name]: array for name, array in other.gradients.items()}
        other.outputs = {wanted[n]: array for n, array in other.outputs.items()}
        others = statistics(shaken, moved, shifted, y, loss, seed=draw) if after else {}
        named = {names[name]: array for name, array in others.items()}
        for name, figure in (figures(other) | named).items():
            with np.errstate(invalid="ignore"):
                distance = np.abs(np.asarray(figure) - own[name]).max(initial=0.0)
            if np.isfinite(distance):
                most[name] = max(most[name], float(distance))
    return most


def _at(places: Sequence[int], name: str) -> str:
    """A parameter's name where its layer has another place."""
    number, _, role = name.partition(".")
    return f"{places[int(number)]}.{role}"


def figures(found: Computed) -> dict[str, Any]:
    """Everything that was computed, in that order, by its name in a report."""
    named: dict[str, Any] = {f"output.{n}": array for n, array in found.outputs.items()}
    named |= {"output": found.output, "loss": found.loss}
    # The last layer's gradient is the first.
    backwards = sorted(found.gradients, key=lambda name: -int(name.partition(".")[0]))
    return named | {f"d_{name}": found.gradients[name] for name in backwards}


def _moved(array: Array, rng: np.random.Generator) -> Array:
    if array.dtype.kind != "f":
        return array
    factors = 1.0 + _ULPS * np.finfo(array.dtype).eps * rng.uniform(-1.0, 1.0, array.shape)
    moved: Array = (array * factors).astype(array.dtype)
    return moved


def statistics(
    model: Sequential,
    parameters: Numbers,
    x: Array,
    y: Any,
    loss: Loss | CustomLoss,
    *,
    seed: int = 0,
) -> Numbers:
    """Running statistics of BatchNorm after a step on these rows; none where it diverges."""
    if not any(isinstance(layer, BatchNorm) for layer in model.layers):
        return {}
    copy = model.copy()
    copy.set_parameters(parameters)
    trainer = Trainer(copy, loss=loss, optimizer=SGD(learning_rate=1e-6), seed=seed)
    try:
        trainer.fit(x, y, batch_size=len(x), shuffle=False)
    except DivergedError:
        return {}
    after = copy.parameters()
    return {
        f"{number}.{role}": after[f"{number}.{role}"]
        for number, layer in enumerate(model.layers)
        if isinstance(layer, BatchNorm)
        for role in ("running_mean", "running_var")
    }


def updated(
    model: Sequential,
    rule: FirstOrder,
    befores: Sequence[Numbers],
    gradients: Sequence[Mapping[str, Array]],
) -> list[Numbers]:
    """The trainable parameters after each step: from those before it, with these gradients.

    The moments are those of all gradients so far. There are none after a step that ranvier refuses,
    since a gradient is not finite.
    """
    rule = rule.copy()
    after: list[Numbers] = []
    for before, gradient in zip(befores, gradients, strict=True):
        model.set_parameters(before)
        try:
            rule.step(model, gradient)
        except DivergedError:
            # Ranvier makes no such step.
            after.append({})
            continue
        present = model.parameters()
        after.append({name: present[name] for name in gradient})
    return after


def rounded(rule: FirstOrder, dtype: np.dtype[Any]) -> FirstOrder:
    """The optimiser with options of that dtype, as some frameworks keep them."""
    options: dict[str, Any] = {
        name: float(dtype.type(value))
        for name, value in rule._resolved().items()
        if isinstance(value, float)
    }
    if not isinstance(rule.learning_rate, Schedule):
        rate = rule._schedule(0)
        options["learning_rate"] = float(dtype.type(rate))
    return replace(rule, **options)
