"""The loss of all rows as a function of one flat vector, for methods that see the curvature."""

import math
from collections.abc import Sequence

from .layers import BatchNorm, Dense, Dropout, GaussianNoise
from .losses import MSE, AnyLoss, Target
from .network import Sequential
from .passes import Mode
from .vectors import Matrix, Tensor, Vector, flatten, reshape, total


class Problem:
    """What `second_order.Problem` asks for, of a model and its data.

    theta is every trainable parameter, one after the other, each row by row.
    """

    def __init__(
        self, model: Sequential, x: Matrix, y: Target, loss: AnyLoss, weights: Vector
    ) -> None:
        if any(isinstance(layer, Dropout | GaussianNoise | BatchNorm) for layer in model.layers):
            raise ValueError("expected layers whose output is a function of row and parameters")
        dense = [layer for layer in model.layers if isinstance(layer, Dense)]
        if any(layer.max_norm is not None or layer.non_negative for layer in dense):
            raise ValueError("expected no constraint of weights")
        self.model = model
        self.x, self.y, self.loss, self.weights = x, y, loss, weights

    def _trained(self) -> dict[str, Tensor]:
        """The parameters but for what layers have measured."""
        parameters = self.model.parameters().items()
        return {name: tensor for name, tensor in parameters if ".running_" not in name}

    def theta(self) -> Vector:
        """Where the model stands."""
        return [value for tensor in self._trained().values() for value in flatten(tensor)]

    def move(self, theta: Sequence[float]) -> None:
        """Puts the model to theta."""
        moved: dict[str, Tensor] = {}
        first = 0
        for name, like in self._trained().items():
            end = first + len(flatten(like))
            moved[name] = reshape(theta[first:end], like)
            first = end
        self.model.set_parameters(moved)

    def value_and_gradient(self, theta: Vector) -> tuple[float, Vector]:
        """The loss at theta, and its gradient; the model stays where it is."""
        here = self.theta()
        self.move(theta)
        result = self.model.differentiate(self.x, self.y, self.loss, self.weights, Mode())
        self.move(here)
        gradients = result.gradients
        return result.value, [value for name in gradients for value in flatten(gradients[name])]

    def residuals(self, theta: Vector) -> tuple[Vector, Matrix]:
        """r and its Jacobian, where the loss is the sum of the squares of r.

        For row i and output k, r = sqrt(w_i / (K sum w)) (z_ik - y_ik); for a weight with the
        penalty l2, r = sqrt(l2) weight.
        """
        if not isinstance(self.loss, MSE):
            raise ValueError("expected the loss mse, which is a sum of squares")
        here = self.theta()
        self.move(theta)
        outputs = self.model.output_size
        targets = self.loss.target_rows(self.y, outputs)
        share = 1.0 / (outputs * total(self.weights))
        residuals: Vector = []
        jacobian: Matrix = []
        for row, target, weight in zip(self.x, targets, self.weights, strict=True):
            factor = math.sqrt(weight * share)
            output, slopes = self.model.output_gradients(row)
            residuals += [factor * (z - t) for z, t in zip(output, target, strict=True)]
            for gradients in slopes:
                flat = [value for name in gradients for value in flatten(gradients[name])]
                jacobian.append([factor * value for value in flat])
        for i, (root, value) in enumerate(zip(self._roots(), theta, strict=True)):
            if root:
                residuals.append(root * value)
                jacobian.append([root if j == i else 0.0 for j in range(len(theta))])
        self.move(here)
        return residuals, jacobian

    def _roots(self) -> Vector:
        """sqrt(l2) for each parameter."""
        roots: Vector = []
        for name, tensor in self._trained().items():
            index, _, local = name.partition(".")
            layer = self.model.layers[int(index)]
            l2 = layer.l2 if isinstance(layer, Dense) and local == "weight" else 0.0
            if isinstance(layer, Dense) and layer.l1:
                raise ValueError("expected l1 = 0, for a sum of squares")
            roots += [math.sqrt(l2)] * len(flatten(tensor))
        return roots
