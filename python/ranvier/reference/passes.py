"""What a layer is: a forward pass, and the backward pass that belongs to it.

A layer is a definition. It holds no numbers: its parameters are handed in by name and its
gradients are handed out by the same names. `forward` returns the output and a function
`backward`, which takes d_output (the derivative of the loss by each number of the output, of the
output's shape) to d_input and the derivatives by the parameters. This is the chain rule, one
link at a time.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from .vectors import Matrix, Tensor, Vector

Parameters: TypeAlias = Mapping[str, Tensor]
Backward: TypeAlias = Callable[[Matrix], tuple[Matrix, dict[str, Tensor]]]


@dataclass(frozen=True)
class Mode:
    """The circumstances of a pass; most layers do not look at them.

    Args:
        training: False: dropout passes everything, batch norm uses its running statistics.
        seed, epoch, first_position: where dropout and noise are drawn; row r of the batch has
            the position first_position + r in the order of its epoch.
        weights: one weight per row of the batch, or None for 1 each.
        quantized: True: dense layers multiply what 8-bit integers stand for; see `quantization`.
        layer: index of the layer in its Sequential, set by it.
    """

    training: bool = False
    seed: int = 0
    epoch: int = 0
    first_position: int = 0
    weights: Vector | None = None
    quantized: bool = False
    layer: int = 0


@dataclass(frozen=True)
class Forward:
    """What a forward pass gives.

    Args:
        output: (batch, out_features).
        backward: takes d_output, (batch, out_features), to (d_input, gradients by name).
        running: new values of the running statistics, for whoever wants to keep them.
    """

    output: Matrix
    backward: Backward
    running: dict[str, Tensor] = field(default_factory=dict)


class Layer(Protocol):
    """The three things that a layer knows."""

    def output_size(self, in_features: int) -> int:
        """Numbers per row that come out when in_features go in."""
        ...

    def initial_parameters(self, in_features: int, seed: int, layer: int) -> dict[str, Tensor]:
        """First values of all parameters and running statistics, by name."""
        ...

    def forward(self, parameters: Parameters, x: Matrix, mode: Mode) -> Forward:
        """The output for a batch x of shape (batch, in_features)."""
        ...
