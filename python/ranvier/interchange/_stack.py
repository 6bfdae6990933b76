"""What a foreign model is taken apart into."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from .._arrays import Array
from .._predictor import of_layer
from ..activations import ActivationLike
from ..errors import ArgumentError, RanvierError
from ..layers import Activation, Dense, Layer
from ..model import Sequential
from ..quantization import QuantizedSequential, built

Losses = list[tuple[str, str]]
Values = Mapping[str, Array]

_NONE: Values = {}


def tell(call: str, losses: Losses) -> None:
    """Logs what only training would have seen and could not be taken along."""
    for place, what in losses:
        logging.getLogger("ranvier").warning("%s: %s: %s", call, place, what)


@contextmanager
def at(place: str) -> Iterator[None]:
    """Puts the place in front of a refusal."""
    try:
        yield
    except RanvierError as error:
        raise type(error)(f"{place}: {error}") from error


class Stack:
    """Layers one behind the other, with the values of their parameters."""

    def __init__(self, input_size: int | None = None) -> None:
        self.layers: list[Layer] = []
        self.losses: Losses = []
        # Of layers that multiply 8-bit integers: their numbers, and their parameters but the bias.
        self.integer_layers: list[int] = []
        self._integers: dict[str, Array] = {}
        # Of parameters and of what the layers compute.
        self.dtypes: set[str] = set()
        # What the last layer gives; None until a layer says what it takes.
        self.width = input_size
        self._input_size = input_size
        self._values: dict[str, Array] = {}
        self._seen: set[int] = set()

    def add(self, layer: Layer, features: int | None = None, values: Values = _NONE) -> None:
        """One more layer, which takes so many features, with its parameters by role."""
        if features is not None:
            if self.width not in (None, features):
                raise ArgumentError(
                    f"expected a layer of {self.width} features, as the one before gives, "
                    f"got one of {features}"
                )
            if self._input_size is None:
                self._input_size = features
            self.width = layer.units if isinstance(layer, Dense) else features
        self.dtypes |= {value.dtype.name for value in values.values()}
        for role, value in values.items():
            self._values[f"{len(self.layers)}.{role}"] = value
        self.layers.append(layer)

    def add_integers(self, layer: Dense, features: int, values: Values, integers: Values) -> None:
        """A layer that multiplies integers, which are given as floats."""
        self.add(layer, features, values)
        number = len(self.layers) - 1
        self.integer_layers.append(number)
        self._integers |= {f"{number}.{role}": value for role, value in integers.items()}

    def extend(self, model: Sequential) -> None:
        """The layers of a model of ours."""
        parameters, features = model.parameters(), model.input_size
        for number, layer in enumerate(model.layers):
            self.add(layer, features, of_layer(parameters, number))
            features = layer.units if isinstance(layer, Dense) else features

    def activate(self, activation: ActivationLike, values: Values = _NONE) -> None:
        """An activation: of the Dense layer before, or as a layer."""
        last = self.layers[-1] if self.layers else None
        if isinstance(last, Dense) and last.activation is None:
            self.layers.pop()
            self.add(replace(last, activation=activation), values=values)
        else:
            self.add(Activation(activation), values=values)

    def lose(self, place: str, what: str) -> None:
        """Something that predictions do not need and that no layer of ours has."""
        self.losses.append((place, what))

    def trains(self, place: str, parameters: Iterable[Any], *, all_of_them: bool) -> None:
        """What a foreign layer trains, by the identity of its parameters."""
        seen = {id(parameter) for parameter in parameters}
        if seen & self._seen:
            self.lose(place, "it shares parameters with a layer before; each gets its own")
        self._seen |= seen
        if seen and not all_of_them:
            self.lose(place, "it has frozen parameters; ranvier trains all")

    def model(self, argument: str) -> Sequential:
        """The model, in the dtype of the values."""
        dtypes = sorted(self.dtypes)
        if self._input_size is None:
            raise ArgumentError(
                f"{argument}: expected a layer that says how many features there are, got "
                f"{self.layers or 'no layer'}"
            )
        if dtypes not in (["float32"], ["float64"]):
            raise ArgumentError(
                f"{argument}: expected all layers in float32 or all in float64, "
                f"got {' and '.join(dtypes) or 'none'}"
            )
        model = Sequential(self.layers, input_size=self._input_size, dtype=dtypes[0])
        model.set_parameters(self._values)
        return model

    def quantized(self, argument: str) -> QuantizedSequential:
        """The network, of which layers multiply integers."""
        model = self.model(argument)
        values = model.parameters() | self._integers
        return built(model.layers, self.integer_layers, model.input_size or 0, values)


def left_out(layer: Dense, place: str) -> Losses:
    """What no other framework keeps in a layer, by which training differs."""
    options = {name: getattr(layer, name) for name in ("l1", "l2", "max_norm", "non_negative")}
    return [
        (place, f"{name}={value} is not taken along") for name, value in options.items() if value
    ]
