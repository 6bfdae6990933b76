"""`trace_step`: one step of training laid open, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import activations
from .._arrays import Array
from .._arrays import seed as checked_seed
from .._pictures import pandas_of
from ..errors import ArgumentError
from ..layers import Activation, Dense, Layer, Softmax
from ..losses import LossLike
from ..losses import get as get_loss
from ..model import Sequential, checked_model
from ..optimizers import FirstOrder, OptimizerLike
from ..optimizers import get as get_optimizer
from ._reference import mirror, mirrored_of

if TYPE_CHECKING:
    import pandas
    from numpy.typing import ArrayLike

__all__ = ["LayerStep", "StepTrace", "trace_step"]

# Numbers of a tensor that a printed table has room for.
_SHOWN = 9


@dataclass(frozen=True, repr=False, eq=False)
class LayerStep:
    """What one layer computes in a step. Arrays are float64, batch first.

    Attributes:
        number: of the layer in the model.
        layer: its definition.
        x: what comes in, (rows, in_features).
        z: before the activation, (rows, units): x @ weight + bias of a Dense.
        a: after it, (rows, units): f(z). Of a layer without an activation a is z.
        local_gradient: f'(z), (rows, units): 1 without an activation; None of a softmax, whose
            derivative is a matrix for each row.
        delta: ∂L/∂z, (rows, units).
        d_input: ∂L/∂x, (rows, in_features).
        gradients: ∂L/∂θ by role, such as "weight"; with the layer's penalties.
        before: parameters and statistics by role.
        after: those after the update.
    """

    number: int
    layer: Layer
    x: Array
    z: Array
    a: Array
    local_gradient: Array | None
    delta: Array
    d_input: Array
    gradients: dict[str, Array]
    before: dict[str, Array]
    after: dict[str, Array]

    @property
    def updates(self) -> dict[str, Array]:
        """after − before, by role."""
        return {role: self.after[role] - value for role, value in self.before.items()}

    def figures(self) -> list[tuple[str, Array | None]]:
        """Every tensor with its name, in the order of computation."""
        named: list[tuple[str, Array | None]] = [("x", self.x), ("z", self.z), ("a", self.a)]
        named += [("f'(z)", self.local_gradient), ("delta", self.delta)]
        named += [(f"d_{role}", array) for role, array in self.gradients.items()]
        named += [(f"{role} before", array) for role, array in self.before.items()]
        named += [(f"{role} update", array) for role, array in self.updates.items()]
        return named


@dataclass(frozen=True, repr=False, eq=False)
class StepTrace:
    """One step of training, in the textbook's five steps; `print` shows them.

    Attributes:
        layers: a `LayerStep` for each layer, from the input on.
        output: raw outputs, (rows, outputs).
        loss: L, one number; with the layers' penalties.
        d_output: ∂L/∂output without them, (rows, outputs).
    """

    layers: tuple[LayerStep, ...]
    output: Array
    loss: float
    d_output: Array

    def __getitem__(self, number: int) -> LayerStep:
        """The layer of that number."""
        return self.layers[number]

    def __str__(self) -> str:
        """The five steps, with the first numbers of every tensor; its rows are parted by |."""
        lines = ["1. forward: z = x W + b, a = f(z)"]
        for entry in self.layers:
            lines.append(f"   layer {entry.number}: {entry.layer!r}")
            lines += [_line("x", entry.x)] if entry is self.layers[0] else []
            lines += [_line("z", entry.z)] if _activated(entry.layer) else []
            lines.append(_line("a", entry.a))
        lines += ["2. loss of the output", f"      {'L':<14}{self.loss: .6g}"]
        lines.append(_line("dL/da", self.d_output))
        lines.append("3. gradients: delta = dL/da f'(z), dL/dW = xᵀ delta, dL/dx = delta Wᵀ")
        for entry in reversed(self.layers):
            lines.append(f"   layer {entry.number}")
            if _activated(entry.layer) and entry.local_gradient is not None:
                lines.append(_line("f'(z)", entry.local_gradient))
            lines.append(_line("delta", entry.delta))
            lines += [_line(f"dL/d{role}", array) for role, array in entry.gradients.items()]
            lines += [_line("dL/dx", entry.d_input)] if entry is not self.layers[0] else []
        lines.append("4. update of the parameters")
        for entry in self.layers:
            lines += [f"   layer {entry.number}"] if entry.before else []
            for role, value in entry.before.items():
                lines.append(_line(role, value))
                lines.append(_line("  update", entry.updates[role]))
                lines.append(_line("  after", entry.after[role]))
        lines.append("5. again from 1, with these parameters")
        return "\n".join(lines)

    __repr__ = __str__

    def to_pandas(self) -> pandas.DataFrame:
        """A DataFrame with a line for each number (needs pandas).

        Columns: layer, tensor, row, column, value. Of a vector the row is 0.
        """
        pandas = pandas_of("to_pandas")
        lines = [
            (entry.number, name, *place, value)
            for entry in self.layers
            for name, array in entry.figures()
            if array is not None
            for place, value in np.ndenumerate(np.atleast_2d(array))
        ]
        return pandas.DataFrame(lines, columns=["layer", "tensor", "row", "column", "value"])


def _activated(layer: Layer) -> bool:
    """Whether a and z of a layer differ."""
    if isinstance(layer, Dense | Activation):
        return activations.spec(layer.activation)[0] != "identity"
    return isinstance(layer, Softmax)


def _line(name: str, array: Array) -> str:
    """A name, and the first numbers of a tensor."""
    width = array.shape[-1]
    bars = (" | " if i and not i % width else " " * bool(i) for i in range(_SHOWN))
    numbers = (f"{value: .4g}" for value in array.flat)
    shown = "".join(bar + number for bar, number in zip(bars, numbers, strict=False))
    more = f" … ({' x '.join(map(str, array.shape))})" if array.size > _SHOWN else ""
    return f"      {name:<14}{shown}{more}"


def trace_step(
    model: Sequential,
    x: ArrayLike,
    y: Any,
    *,
    loss: LossLike,
    optimizer: OptimizerLike = "sgd",
    seed: int = 0,
) -> StepTrace:
    """Lays one step of training open: every number of it, layer by layer. The model stays as it is.

    The five steps of the textbook, with z = x W + b, a = f(z) and α the learning rate:

    1. the prediction: z and a of each layer, from the input on;
    2. the loss L of the output;
    3. the gradients, from the last layer on: delta = ∂L/∂z = ∂L/∂a ⊙ f'(z), and by the chain rule
       ∂L/∂W = ∂L/∂z · ∂z/∂W = xᵀ delta, ∂L/∂b = sum of delta, and ∂L/∂x = delta Wᵀ, which is ∂L/∂a
       of the layer before;
    4. the update: W ← W − α ∂L/∂W with SGD; other optimizers as they are defined;
    5. again from 1, until the loss is small.

    The numbers are those of `ranvier.reference`, in float64; a `Trainer` computes the same in its
    first step on these rows as one batch.

    Args:
        model: a model that knows its input_size; small ones can be read when printed.
        x: (rows, input_size).
        y: targets as the loss takes them.
        loss: as for `Trainer`.
        optimizer: SGD, Adam or AdamW, as for `Trainer`; its first step.
        seed: of dropout and noise.

    Returns:
        A `StepTrace`, whose `layers` have x, z, a, local_gradient, delta, gradients, before and
        after as arrays.

    Raises:
        ArgumentError: an optimizer of second order, whose step is no function of one gradient; a
            number that is not finite.
        ShapeError, DTypeError: x or y do not fit the model or the loss.

    Example:
        >>> import numpy as np, ranvier as rv
        >>> model = rv.Sequential([rv.Dense(1, activation="sigmoid")], input_size=2)
        >>> model.set_parameters({"0.weight": [[1.0], [-1.0]], "0.bias": [0.0]})
        >>> step = rv.trace_step(
        ...     model, [[2.0, 2.0]], [1.0], loss="mse", optimizer=rv.SGD(learning_rate=1.0)
        ... )
        >>> step[0].z.item(), step[0].a.item(), step[0].local_gradient.item()
        (0.0, 0.5, 0.25)
        >>> step[0].delta.item(), step[0].after["weight"].ravel().tolist()
        (-0.25, [1.5, -0.5])
    """
    from .. import reference
    from ..reference.passes import Mode

    model = checked_model(model)
    model._require()
    chosen, rule = get_loss(loss), get_optimizer(optimizer)
    seed = checked_seed(seed)
    if not isinstance(rule, FirstOrder):
        raise ArgumentError(f"optimizer: expected SGD, Adam or AdamW, got {rule!r}")
    rows = model._features(x, "x", rows=True)
    if not np.isfinite(rows).all():
        raise ArgumentError(f"x: expected finite numbers, got {rows[~np.isfinite(rows)][0]}")
    # The core refuses targets that do not fit.
    model.value_and_gradient(rows, y, loss=chosen)
    twin = mirrored_of(model, rows, y, None, chosen)
    trainer = reference.Trainer(
        twin.network, loss=twin.loss, optimizer=mirror(rule, reference), seed=seed
    )
    trainer.standardize(twin.rows, twin.targets)
    before = twin.network.parameters()
    mode = Mode(training=True, seed=seed, weights=[1.0] * len(twin.rows))
    found = twin.network.differentiate(twin.rows, twin.targets, twin.loss, None, mode)
    parts = forward_parts(twin.network, twin.rows, mode)
    _, d_output = twin.loss.value_and_gradient(parts[-1].a, twin.targets, None)
    d_output = [[float(d) for d in row] for row in d_output]
    backwards = backward_parts(parts, d_output)
    trainer.fit(twin.rows, twin.targets, batch_size=len(twin.rows), shuffle=False)
    after = twin.network.parameters()
    layers = []
    for part, (delta, d_input) in zip(parts, backwards, strict=True):

        def own(numbers: Any, number: int = part.number) -> dict[str, Array]:
            return {
                name.partition(".")[2]: np.array(value, np.float64)
                for name, value in numbers.items()
                if name.startswith(f"{number}.")
            }

        layers.append(
            LayerStep(
                part.number,
                model.layers[part.number],
                np.array(part.x),
                np.array(part.z),
                np.array(part.a),
                None if part.local is None else np.array(part.local),
                np.array(delta),
                np.array(d_input),
                own(found.gradients),
                own(before),
                own(after),
            )
        )
    return StepTrace(tuple(layers), np.array(parts[-1].a), found.value, np.array(d_output))


@dataclass(frozen=True)
class Part:
    """A layer's forward pass in two halves: to z, and to a. Matrices are lists, as the reference's.

    `local` is f'(z), None where it is no number for each z.
    """

    number: int
    x: Any
    z: Any
    a: Any
    local: Any
    to_z: Any
    to_a: Any


def forward_parts(network: Any, x: Any, mode: Any) -> list[Part]:
    """The layers' halves from the input on; network is the reference's."""
    from .. import reference

    parts = []
    states = network.parameters()
    for number, layer in enumerate(network.layers):
        state = {
            name.partition(".")[2]: value
            for name, value in states.items()
            if name.startswith(f"{number}.")
        }
        at = replace(mode, layer=number)
        plain, activation = layer, reference.Activation(None)
        if isinstance(layer, reference.Dense):
            plain, activation = (
                replace(layer, activation=None),
                reference.Activation(layer.activation),
            )
        elif isinstance(layer, reference.Activation):
            plain, activation = reference.Activation(None), layer
        elif isinstance(layer, reference.Softmax):
            plain, activation = reference.Activation(None), reference.Activation("softmax")
        to_z = plain.forward(state, x, at)
        to_a = activation.forward(state, to_z.output, at)
        softmax = activation.activation == "softmax"
        ones = [[1.0] * len(row) for row in to_z.output]
        local = None if softmax else to_a.backward(ones)[0]
        parts.append(Part(number, x, to_z.output, to_a.output, local, to_z, to_a))
        x = to_a.output
    return parts


def backward_parts(parts: list[Part], d_output: Any) -> list[tuple[Any, Any]]:
    """(delta, d_input) of each layer."""
    found = []
    for part in reversed(parts):
        delta = part.to_a.backward(d_output)[0]
        d_output = part.to_z.backward(delta)[0]
        found.append((delta, d_output))
    return found[::-1]
