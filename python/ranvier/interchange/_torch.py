"""Models of PyTorch, there and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import activations
from .._arrays import Array
from .._files import counters, torch_names
from ..errors import ArgumentError, DTypeError, MissingDependencyError
from ..layers import (
    Activation,
    BatchNorm,
    Dense,
    Dropout,
    GaussianNoise,
    Layer,
    LayerNorm,
    Softmax,
    Standardize,
)
from ..model import Sequential
from ._stack import Losses, Stack, at, left_out, tell

try:
    import torch
    from torch import nn
    from torch.nn.utils import parametrize
except ImportError as error:
    raise MissingDependencyError(
        "from_torch and to_torch need torch: pip install 'ranvier[torch]'"
    ) from error


class StandardizeModule(nn.Module):
    """ranvier's Standardize, which no module of torch's is: its statistics never move."""

    def __init__(self, features: int, of: str = "inputs") -> None:
        super().__init__()
        self.of = of
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.zeros(features))
        # Files keep one beside each running mean, as torch's BatchNorm does.
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(x − mean)/√var, or x·√var + mean; where var is 0, x."""
        measured = self.running_var > 0
        mean = torch.where(measured, self.running_mean, 0.0)
        deviation = torch.where(measured, self.running_var, 1.0).sqrt()
        return (x - mean) / deviation if self.of == "inputs" else x * deviation + mean

    def extra_repr(self) -> str:
        """Features and kind, for the module's repr."""
        return f"{self.running_mean.numel()}, of={self.of!r}"


class GaussianNoiseModule(nn.Module):
    """ranvier's GaussianNoise: stddev·z more in training."""

    def __init__(self, stddev: float) -> None:
        super().__init__()
        self.stddev = stddev

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The identity in evaluation."""
        return x + self.stddev * torch.randn_like(x) if self.training else x

    def extra_repr(self) -> str:
        """The deviation, for the module's repr."""
        return f"stddev={self.stddev}"


# Activations without a number, by name.
_PLAIN: dict[str, Any] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "selu": nn.SELU,
    "silu": nn.SiLU,
    "hard_sigmoid": nn.Hardsigmoid,
    "hard_swish": nn.Hardswish,
    "mish": nn.Mish,
}

# torch's Softplus is z above its threshold. From 40 on that is ln(1 + e^z) to the last digit.
_THRESHOLD = 40.0


# ---------------------------------------------------------------- to torch


def _activation(activation: Any) -> Any:
    name, number = activations.spec(activation)
    match name:
        case "identity":
            return nn.Identity()
        case "leaky_relu":
            return nn.LeakyReLU(activations.LeakyReLU.slope if number is None else number)
        case "elu":
            return nn.ELU(activations.ELU.alpha if number is None else number)
        case "prelu":
            return nn.PReLU()
        case "gelu":
            return nn.GELU()
        case "gelu_tanh":
            return nn.GELU("tanh")
        case "softplus":
            return nn.Softplus(threshold=_THRESHOLD)
        case "softmax":
            return nn.Softmax(dim=-1)
        case _:
            return _PLAIN[name]()


def _modules(layer: Layer, width: int) -> list[Any]:
    """The modules of a layer that takes `width` features."""
    match layer:
        case Dense(units, activation):
            linear = nn.Linear(width, units, bias=layer.use_bias)
            plain = activations.spec(activation)[0] == "identity"
            return [linear] if plain else [linear, _activation(activation)]
        case Activation(activation):
            return [_activation(activation)]
        case Softmax():
            return [nn.Softmax(dim=-1)]
        case Dropout(rate):
            return [nn.Dropout(rate)]
        case GaussianNoise(stddev):
            return [GaussianNoiseModule(stddev)]
        case LayerNorm():
            return [nn.LayerNorm(width, eps=layer.eps)]
        case BatchNorm():
            return [nn.BatchNorm1d(width, eps=layer.eps, momentum=layer.momentum)]
        case Standardize():
            return [StandardizeModule(width, layer.of)]
    raise ArgumentError(f"expected a layer that torch has too, got {layer!r}")


def to_torch(model: Sequential) -> Any:
    """See `Sequential.to_torch`."""
    shapes = model._shapes()
    losses: Losses = []
    modules = []
    width: Any = model.input_size
    # Nothing is drawn from torch's generator, and no memory taken, for what is replaced at once.
    with torch.device("meta"):
        for number, layer in enumerate(model.layers):
            place = f"layers[{number}]"
            with at(place):
                modules += _modules(layer, width)
            if isinstance(layer, Dense):
                width = layer.units
                losses += left_out(layer, place)
        sequential = nn.Sequential(*modules)
    names = torch_names(model.layers, list(shapes))
    state = {name: torch.tensor(0) for name in counters(names)}
    for name, value in zip(names, model.parameters().values(), strict=True):
        # (out, in); a slope is of shape (1,).
        state[name] = torch.from_numpy(np.ascontiguousarray(np.atleast_1d(value.T)))
    sequential.load_state_dict(state, assign=True)
    tell("to_torch", losses)
    return sequential.eval()


# ---------------------------------------------------------------- from torch


def _array(tensor: Any) -> Array:
    """The numbers of a tensor, from whatever device."""
    if tensor.is_meta:
        raise ArgumentError("expected parameters with numbers, got some without memory")
    if tensor.dtype not in (torch.float32, torch.float64):
        raise ArgumentError(
            f"expected parameters in float32 or float64, got {tensor.dtype}; "
            "module.float() converts them"
        )
    array: Array = tensor.detach().cpu().numpy()
    return array


def _affine(stack: Stack, place: str, module: Any) -> dict[str, Array]:
    """Weight and bias of a normalisation; ours always has both, from 1 and 0 on."""
    values = {}
    for role in ("weight", "bias"):
        if getattr(module, role) is None:
            stack.lose(place, f"has no {role}; the layer that it becomes learns one")
        else:
            values[role] = _array(getattr(module, role))
    return values


def _linear(stack: Stack, place: str, module: Any) -> None:
    values = {"weight": _array(module.weight).T}
    if module.bias is not None:
        values["bias"] = _array(module.bias)
    layer = Dense(module.out_features, use_bias=module.bias is not None)
    stack.add(layer, module.in_features, values)


def _batch_norm(stack: Stack, place: str, module: Any) -> None:
    if module.running_mean is None:
        raise ArgumentError(
            "expected running statistics, got track_running_stats=False, whose predictions "
            "depend on the rows around"
        )
    values = {role: _array(getattr(module, role)) for role in ("running_mean", "running_var")}
    values |= _affine(stack, place, module)
    options = {"eps": module.eps}
    if module.momentum is None:
        stack.lose(place, "momentum=None, the mean over all batches, becomes the default")
    else:
        options["momentum"] = module.momentum
    stack.add(BatchNorm(**options), module.num_features, values)


def _layer_norm(stack: Stack, place: str, module: Any) -> None:
    if len(module.normalized_shape) != 1:
        raise ArgumentError(f"expected one normalised dimension, got {module.normalized_shape}")
    (features,) = module.normalized_shape
    stack.add(LayerNorm(eps=module.eps), features, _affine(stack, place, module))


def _standardize(stack: Stack, place: str, module: Any) -> None:
    values = {role: _array(getattr(module, role)) for role in ("running_mean", "running_var")}
    stack.add(Standardize(of=module.of), module.running_mean.numel(), values)


def _prelu(stack: Stack, place: str, module: Any) -> None:
    if module.num_parameters != 1:
        raise ArgumentError(f"expected one slope for all units, got {module.num_parameters}")
    stack.activate("prelu", {"slope": _array(module.weight).reshape(())})


def _softplus(stack: Stack, place: str, module: Any) -> None:
    # Above the default threshold of 20 torch leaves out at most e^-20 = 2e-9.
    if module.beta != 1 or module.threshold < 20:
        raise ArgumentError("expected beta=1 and a threshold of 20 or more")
    stack.activate("softplus")


def _celu(stack: Stack, place: str, module: Any) -> None:
    if module.alpha != 1:
        raise ArgumentError("expected alpha=1, with which CELU is ELU")
    stack.activate("elu")


def _softmax(stack: Stack, place: str, module: Any) -> None:
    if module.dim not in (-1, 1, None):
        raise ArgumentError(f"expected a softmax over the features, dim=-1, got dim={module.dim}")
    stack.add(Softmax())


def _flatten(stack: Stack, place: str, module: Any) -> None:
    if (module.start_dim, module.end_dim) not in ((1, -1), (1, 1)):
        raise ArgumentError("expected a Flatten that keeps the rows, start_dim=1 and end_dim=-1")


_Reader = Callable[[Stack, str, Any], None]

_READERS: dict[Any, _Reader] = {
    nn.Linear: _linear,
    nn.Dropout: lambda stack, _, module: stack.add(Dropout(module.p)),
    nn.BatchNorm1d: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.LeakyReLU: lambda stack, _, m: stack.activate(activations.LeakyReLU(m.negative_slope)),
    nn.ELU: lambda stack, _, m: stack.activate(activations.ELU(m.alpha)),
    nn.GELU: lambda stack, _, m: stack.activate("gelu" if m.approximate == "none" else "gelu_tanh"),
    nn.PReLU: _prelu,
    nn.Softplus: _softplus,
    nn.CELU: _celu,
    nn.Softmax: _softmax,
    nn.Identity: lambda stack, _, module: None,
    nn.Flatten: _flatten,
    StandardizeModule: _standardize,
    GaussianNoiseModule: lambda stack, _, module: stack.add(GaussianNoise(module.stddev)),
} | {
    kind: lambda stack, _, module, name=name: stack.activate(name) for name, kind in _PLAIN.items()
}


def _is(module: Any, kind: Any) -> bool:
    """Whether a module computes what this class does."""
    return isinstance(module, kind) and (getattr(module.forward, "__func__", None) is kind.forward)


def _parts(module: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The modules that compute, in their order, with their names in the whole."""
    with at(f"module[{name!r}]" if name else "module"):
        if any(nn.parameter.is_lazy(parameter) for parameter in module.parameters(recurse=False)):
            raise ArgumentError("expected a module that knows its shape, got a lazy one; call it")
        if module._forward_hooks or module._forward_pre_hooks:
            raise ArgumentError(
                "expected a module without hooks, which may change what it computes, got "
                f"{type(module).__name__} with some; remove them first"
            )
    if not _is(module, nn.Sequential):
        yield name, module
        return
    # All of them: named_children passes over a module that it has seen.
    for own, part in module._modules.items():
        yield from _parts(part, f"{name}.{own}" if name else own)


def _read(stack: Stack, place: str, module: Any) -> None:
    if parametrize.is_parametrized(module):
        raise ArgumentError(
            "expected plain parameters, got parametrised ones; "
            "torch.nn.utils.parametrize.remove_parametrizations makes them plain"
        )
    for kind, read in _READERS.items():
        if _is(module, kind):
            read(stack, place, module)
            break
    else:
        if isinstance(module, nn.LogSoftmax):
            hint = "; leave it away: ranvier's cross_entropy takes what comes before"
        elif list(module.children()) and not type(module).__module__.startswith("torch."):
            hint = (
                "; where its forward is a chain of its modules, "
                "torch.nn.Sequential(*module.children()) is the same"
            )
        else:
            hint = ""
        known = ", ".join(["Sequential", *(kind.__name__ for kind in _READERS)])
        raise ArgumentError(f"expected one of {known}, got {type(module).__name__}{hint}")
    parameters = list(module.parameters())
    stack.trains(place, parameters, all_of_them=all(p.requires_grad for p in parameters))


def from_torch(module: Any) -> Sequential:
    """See `ranvier.interchange.from_torch`."""
    if not isinstance(module, nn.Module):
        raise DTypeError(f"module: expected a torch.nn.Sequential, got {type(module).__name__}")
    stack = Stack()
    for name, part in _parts(module):
        place = f"module[{name!r}]" if name else "module"
        with at(place):
            _read(stack, place, part)
    model = stack.model("module")
    tell("from_torch", stack.losses)
    return model
