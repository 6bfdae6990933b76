"""A training by PyTorch, as a trace."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._arrays import Array
from ..errors import ArgumentError, DTypeError, MissingDependencyError
from ..model import Sequential
from ._trace import Batch, Step, Trace, mapped

try:
    import torch
except ImportError as error:
    raise MissingDependencyError(
        "crosscheck against a torch module needs torch: pip install 'ranvier[torch]'"
    ) from error


class _Module:
    """A module with our names for its parameters."""

    def __init__(self, module: Any, model: Sequential) -> None:
        self.module = module
        self._entries = [
            (name, tensor)
            for name, tensor in module.state_dict(keep_vars=True).items()
            if not name.endswith("num_batches_tracked")
        ]
        shapes = [tuple(tensor.shape) for _, tensor in self._entries]
        self.names = mapped(model, shapes, turned=True)
        self._shapes = model._shapes()

    def put(self, parameters: dict[str, Array]) -> None:
        with torch.no_grad():
            for name, (_, tensor) in zip(self.names, self._entries, strict=True):
                array = np.ascontiguousarray(parameters[name].T)
                tensor.copy_(torch.from_numpy(array).reshape(tensor.shape))

    def numbers(self) -> dict[str, Array]:
        return {
            name: self._array(name, tensor)
            for name, (_, tensor) in zip(self.names, self._entries, strict=True)
        }

    def gradients(self) -> dict[str, Array]:
        """Zeros where there are none."""
        return {
            name: self._array(
                name, torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            )
            for name, (_, tensor) in zip(self.names, self._entries, strict=True)
            if isinstance(tensor, torch.nn.Parameter)
        }

    def _array(self, name: str, tensor: Any) -> Array:
        array: Array = tensor.detach().cpu().numpy().T.reshape(self._shapes[name]).copy()
        return array

    def watch(self, outputs: dict[int, Array]) -> list[Any]:
        """Keeps what comes into each layer with parameters as the output of the one before."""
        modules = dict(self.module.named_modules())
        hooks = []
        seen = {0}
        for name, (entry, _) in zip(self.names, self._entries, strict=True):
            layer = int(name.partition(".")[0])
            if layer not in seen:
                seen.add(layer)

                def keep(_: Any, given: Any, before: int = layer - 1) -> None:
                    outputs.setdefault(before, given[0].detach().cpu().numpy().copy())

                hooks.append(modules[entry.rpartition(".")[0]].register_forward_pre_hook(keep))
        return hooks


def _brief(value: Any) -> str:
    """A repr in one line; torch's have many."""
    return f"{' '.join(repr(value).split()):.80}"


def trace(model: Sequential, against: tuple[Any, Any, Any], batches: Sequence[Batch]) -> Trace:
    """A copy of the module, trained from the model's parameters on these batches."""
    module, loss, optimizer = against
    if not callable(loss):
        raise DTypeError(
            f"against: expected a loss of torch's that can be called, got {_brief(loss)}"
        )
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise DTypeError(f"against: expected an optimizer of torch.optim, got {_brief(optimizer)}")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not held & {id(p) for p in module.parameters()}:
        raise ArgumentError(
            "against: expected an optimizer of the module's parameters, got another"
        )
    dtype = torch.float32 if model.dtype == np.float32 else torch.float64
    # Together, so that the optimizer's copy holds the parameters of the module's copy.
    module, loss, optimizer = copy.deepcopy((module, loss, optimizer))
    optimizer.state.clear()
    module.to(dtype).train()
    if isinstance(loss, torch.nn.Module):
        loss.to(dtype)
    own = _Module(module, model)
    own.put(model.parameters())
    device = next(module.parameters()).device
    start = own.numbers()
    steps = []
    for x, y in batches:
        outputs: dict[int, Array] = {}
        hooks = own.watch(outputs)
        optimizer.zero_grad()
        output = module(torch.from_numpy(x).to(device))
        for hook in hooks:
            hook.remove()
        target = torch.from_numpy(y).to(device)
        if target.is_floating_point() and target.numel() == output.numel():
            target = target.reshape(output.shape)
        value = loss(output, target)
        value.backward()
        gradients = own.gradients()
        optimizer.step()
        steps.append(
            Step(
                own.numbers(),
                gradients,
                output.detach().cpu().numpy().copy(),
                {n: array for n, array in outputs.items() if array.ndim == 2},
                float(value.detach()),
            )
        )
    return Trace("torch", start, steps, model.dtype)
