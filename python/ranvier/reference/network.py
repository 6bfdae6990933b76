"""Sequential: layers in a row, and the chain rule through them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from . import losses
from .layers import Dense, Standardize
from .losses import AnyLoss, Target
from .passes import Backward, Layer, Mode
from .random import check_seed
from .vectors import Matrix, Rows, Tensor, Vector, as_matrix, copy, row_weights, shape


class Gradients(dict[str, Tensor]):
    """Derivatives of the loss by the trainable parameters, under the parameters' names.

    `d_input`, of the shape of the batch, is the derivative by the input.
    """

    def __init__(self, gradients: Mapping[str, Tensor], d_input: Matrix) -> None:
        super().__init__(gradients)
        self.d_input = d_input


@dataclass(frozen=True)
class Differentiated:
    """A loss, its gradients, and what the running statistics become if the pass is kept."""

    value: float
    gradients: Gradients
    running: dict[str, Tensor]


class Sequential:
    """A network: each layer's output is the next one's input.

    Parameters are named by layer and by what they are: "0.weight" (in_features, out_features),
    "0.bias" (out_features,), "0.slope" (a number), "1.running_mean" (features,).

    Args:
        layers: the layers' definitions, from the input on.
        input_size: features per row of the input.
        seed: what the initial weights are drawn from.
    """

    def __init__(self, layers: Sequence[Layer], *, input_size: int, seed: int = 0) -> None:
        if not layers:
            raise ValueError("layers must hold at least one layer")
        if input_size < 1:
            raise ValueError(f"input_size must be at least 1, got {input_size}")
        for index, layer in enumerate(layers):
            if isinstance(layer, Standardize):
                place = 0 if layer.of == "inputs" else len(layers) - 1
                if index != place:
                    raise ValueError(f"layer {index}: {layer} must be layer {place}")
        self.layers = list(layers)
        self.input_size = input_size
        self.seed = check_seed(seed)
        self._states: list[dict[str, Tensor]] = []
        size = input_size
        for index, layer in enumerate(self.layers):
            self._states.append(layer.initial_parameters(size, seed, index))
            size = layer.output_size(size)
        self.output_size = size

    def parameters(self) -> dict[str, Tensor]:
        """Copies of all parameters and running statistics, by name."""
        return {
            f"{index}.{name}": copy(value)
            for index, state in enumerate(self._states)
            for name, value in state.items()
        }

    def set_parameters(self, parameters: Mapping[str, Tensor]) -> None:
        """Replaces the named parameters by copies of these; the others stay."""
        present = self.parameters()
        for name, value in parameters.items():
            if name not in present:
                raise ValueError(f"no parameter {name!r}; there are {', '.join(present)}")
            if shape(value) != shape(present[name]):
                raise ValueError(f"{name}: shape {shape(value)}, expected {shape(present[name])}")
        for name, value in parameters.items():
            index, _, local = name.partition(".")
            self._states[int(index)][local] = copy(value)

    def constrain(self) -> None:
        """Every weight to the nearest one that its layer allows; the end of each step."""
        for layer, state in zip(self.layers, self._states, strict=True):
            if isinstance(layer, Dense):
                state["weight"] = layer.constrain(cast(Matrix, state["weight"]))

    def predict(self, X: Rows) -> Matrix:
        """Raw outputs, (batch, output_size), in evaluation mode."""
        output, _, _ = self._forward(as_matrix(X, self.input_size, "X"), Mode())
        return output

    def value_and_gradient(
        self,
        X: Rows,
        y: Target,
        *,
        loss: str | AnyLoss,
        sample_weight: Sequence[float] | None = None,
        training: bool = False,
        step: int = 0,
    ) -> tuple[float, Gradients]:
        """The loss of a batch and its gradients. Nothing of the model changes.

        Args:
            X: (batch, input_size).
            y: targets, as the loss wants them.
            loss: a name, an object of `losses`, or any object with `value_and_gradient`.
            sample_weight: one weight per row, None for 1 each.
            training: True: dropout is on, batch norm uses the statistics of this batch.
            step: draws the dropout masks, together with the model's seed.
        """
        mode = Mode(training=training, seed=self.seed, epoch=step)
        result = self.differentiate(X, y, losses.get(loss), sample_weight, mode)
        return result.value, result.gradients

    def differentiate(
        self,
        X: Rows,
        y: Target,
        loss: AnyLoss,
        sample_weight: Sequence[float] | None,
        mode: Mode,
    ) -> Differentiated:
        """Forward through the layers, the loss, and backward through the layers."""
        x = as_matrix(X, self.input_size, "X")
        if not x:
            raise ValueError("X must have at least one row")
        weights = row_weights(sample_weight, len(x))
        output, backwards, running = self._forward(x, replace(mode, weights=weights))
        value, by_output = loss.value_and_gradient(output, y, sample_weight)
        d_output = [[float(d) for d in row] for row in by_output]
        d_input, gradients = self._backward(backwards, d_output)
        for index, layer in enumerate(self.layers):
            if isinstance(layer, Dense) and (layer.l1 or layer.l2):
                name = f"{index}.weight"
                more, slopes = layer.penalty(cast(Matrix, self._states[index]["weight"]))
                value += more
                gradients[name] = [
                    [d + slope for d, slope in zip(*rows, strict=True)]
                    for rows in zip(cast(Matrix, gradients[name]), slopes, strict=True)
                ]
        in_order = {name: gradients[name] for name in self.parameters() if name in gradients}
        return Differentiated(float(value), Gradients(in_order, d_input=d_input), running)

    def output_gradients(self, row: Vector) -> tuple[Vector, list[dict[str, Tensor]]]:
        """The outputs for one row, and for each of them its gradients by the parameters."""
        output, backwards, _ = self._forward([row], Mode())
        outputs = range(self.output_size)
        all_gradients = []
        for k in outputs:
            _, gradients = self._backward(backwards, [[float(j == k) for j in outputs]])
            in_order = {name: gradients[name] for name in self.parameters() if name in gradients}
            all_gradients.append(in_order)
        return output[0], all_gradients

    def _backward(
        self, backwards: list[Backward], d_output: Matrix
    ) -> tuple[Matrix, dict[str, Tensor]]:
        """d_input, and the derivatives by the parameters by full name."""
        gradients: dict[str, Tensor] = {}
        for index in reversed(range(len(self.layers))):
            d_output, by_name = backwards[index](d_output)
            gradients |= {f"{index}.{name}": by_name[name] for name in by_name}
        return d_output, gradients

    def _forward(self, x: Matrix, mode: Mode) -> tuple[Matrix, list[Backward], dict[str, Tensor]]:
        """Output, the layers' backward functions, and the running statistics by full name."""
        backwards: list[Backward] = []
        running: dict[str, Tensor] = {}
        for index, (layer, state) in enumerate(zip(self.layers, self._states, strict=True)):
            result = layer.forward(state, x, replace(mode, layer=index))
            x = result.output
            backwards.append(result.backward)
            running |= {f"{index}.{name}": value for name, value in result.running.items()}
        return x, backwards, running
