"""Models of Keras."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import activations
from .._arrays import Array
from ..errors import ArgumentError, DTypeError, MissingDependencyError
from ..layers import BatchNorm, Dense, Dropout, GaussianNoise, LayerNorm, Softmax, Standardize
from ..model import Sequential
from ._stack import Stack, at, tell

try:
    import keras
    from keras import constraints, regularizers
    from keras import layers as kl
except ImportError as error:
    raise MissingDependencyError(
        "from_keras needs Keras 3 or newer: pip install 'ranvier[keras]'"
    ) from error


# Functions that stand for an activation of ours.
_FUNCTIONS: dict[Any, activations.ActivationLike] = {
    keras.activations.linear: None,
    keras.activations.sigmoid: "sigmoid",
    keras.activations.tanh: "tanh",
    keras.activations.relu: "relu",
    # The default of the function; the layer's is 0.3.
    keras.activations.leaky_relu: activations.LeakyReLU(0.2),
    keras.activations.elu: "elu",
    keras.activations.selu: "selu",
    keras.activations.gelu: "gelu",
    keras.activations.silu: "silu",
    keras.activations.softplus: "softplus",
    keras.activations.hard_sigmoid: "hard_sigmoid",
    keras.activations.hard_silu: "hard_swish",
    keras.activations.mish: "mish",
    keras.activations.softmax: "softmax",
}


def _array(variable: Any) -> Array:
    """The numbers of a variable, from whatever backend and device."""
    with warnings.catch_warnings():
        # Keras calls NumPy on torch's tensors in a way that NumPy 2 warns of.
        warnings.simplefilter("ignore", DeprecationWarning)
        return np.array(keras.ops.convert_to_numpy(variable))


def _last(axis: Any) -> bool:
    """Whether an axis is that of the features."""
    return axis in (-1, 1, [-1], [1], (-1,), (1,))


def _activate(stack: Stack, place: str, activation: Any) -> None:
    if isinstance(activation, kl.Layer):
        _read(stack, place, activation)
        return
    if activation not in _FUNCTIONS:
        known = ", ".join(function.__name__ for function in _FUNCTIONS)
        name = getattr(activation, "__name__", repr(activation))
        raise ArgumentError(f"expected an activation among {known}, got {name}")
    if _FUNCTIONS[activation] is not None:
        stack.activate(_FUNCTIONS[activation])


def _dense(stack: Stack, place: str, layer: Any) -> None:
    options: dict[str, Any] = {"use_bias": layer.use_bias}
    lost = {name: getattr(layer, name) for name in ("bias_regularizer", "activity_regularizer")}
    lost["bias_constraint"] = layer.bias_constraint
    match layer.kernel_regularizer:
        case regularizers.L1L2(l1=l1, l2=l2):
            options |= {"l1": float(l1), "l2": float(l2)}
        case regularizers.L1(l1=l1):
            options["l1"] = float(l1)
        case regularizers.L2(l2=l2):
            options["l2"] = float(l2)
        case other:
            lost["kernel_regularizer"] = other
    match layer.kernel_constraint:
        case constraints.MaxNorm(max_value=max_norm, axis=0):
            options["max_norm"] = float(max_norm)
        case constraints.NonNeg():
            options["non_negative"] = True
        case other:
            lost["kernel_constraint"] = other
    for name, value in lost.items():
        if value is not None:
            stack.lose(place, f"{name}={type(value).__name__} is not taken along")
    kernel = _array(layer.kernel)
    values = {"weight": kernel} | ({"bias": _array(layer.bias)} if layer.use_bias else {})
    stack.add(Dense(layer.units, **options), kernel.shape[0], values)
    _activate(stack, place, layer.activation)


def _affine(stack: Stack, place: str, layer: Any) -> dict[str, Array]:
    """Weight and bias of a normalisation; ours always has both, from 1 and 0 on."""
    if not _last(layer.axis):
        raise ArgumentError(f"expected axis=-1, the features, got {layer.axis}")
    values = {}
    for role, theirs in (("weight", "gamma"), ("bias", "beta")):
        for kind in ("regularizer", "constraint"):
            if getattr(layer, f"{theirs}_{kind}") is not None:
                stack.lose(place, f"{theirs}_{kind} is not taken along")
        if getattr(layer, theirs) is None:
            stack.lose(place, f"has no {theirs}; the layer that it becomes learns one")
        else:
            values[role] = _array(getattr(layer, theirs))
    return values


def _batch_norm(stack: Stack, place: str, layer: Any) -> None:
    if getattr(layer, "renorm", False):
        stack.lose(place, "renorm=True is not taken along")
    values = _affine(stack, place, layer)
    values["running_mean"] = _array(layer.moving_mean)
    values["running_var"] = _array(layer.moving_variance)
    norm = BatchNorm(momentum=1 - layer.momentum, eps=layer.epsilon)
    stack.add(norm, values["running_mean"].size, values)


def _layer_norm(stack: Stack, place: str, layer: Any) -> None:
    if getattr(layer, "rms_scaling", False):
        raise ArgumentError("expected a normalisation by mean and variance, got rms_scaling=True")
    values = _affine(stack, place, layer)
    stack.add(LayerNorm(eps=layer.epsilon), stack.width, values)


def _normalization(stack: Stack, place: str, layer: Any) -> None:
    mean, variance = _array(layer.mean), _array(layer.variance)
    # Keras divides by √var, but by its epsilon at least.
    variance = np.maximum(variance, variance.dtype.type(keras.config.epsilon() ** 2))
    # One number for all features, or one for each.
    width: Any = stack.width
    values = {
        "running_mean": np.broadcast_to(mean.reshape(-1), width),
        "running_var": np.broadcast_to(variance.reshape(-1), width),
    }
    stack.add(Standardize(of="targets" if layer.invert else "inputs"), width, values)


def _relu(stack: Stack, place: str, layer: Any) -> None:
    if layer.max_value is not None or layer.threshold != 0:
        raise ArgumentError(
            "expected a ReLU without max_value and threshold, "
            f"got {layer.max_value} and {layer.threshold}"
        )
    slope = float(layer.negative_slope)
    stack.activate(activations.LeakyReLU(slope) if slope else "relu")


def _prelu(stack: Stack, place: str, layer: Any) -> None:
    alpha = _array(layer.alpha)
    if alpha.size != 1:
        raise ArgumentError(f"expected one slope for all units, shared_axes=[1], got {alpha.size}")
    stack.activate("prelu", {"slope": alpha.reshape(())})


def _softmax(stack: Stack, place: str, layer: Any) -> None:
    if not _last(layer.axis):
        raise ArgumentError(f"expected a softmax over the features, axis=-1, got {layer.axis}")
    stack.add(Softmax())


_READERS: dict[Any, Callable[[Stack, str, Any], None]] = {
    kl.Dense: _dense,
    kl.Dropout: lambda stack, _, layer: stack.add(Dropout(layer.rate)),
    kl.GaussianNoise: lambda stack, _, layer: stack.add(GaussianNoise(layer.stddev)),
    kl.BatchNormalization: _batch_norm,
    kl.LayerNormalization: _layer_norm,
    kl.Normalization: _normalization,
    kl.Activation: lambda stack, place, layer: _activate(stack, place, layer.activation),
    kl.ReLU: _relu,
    kl.LeakyReLU: lambda stack, _, layer: stack.activate(
        activations.LeakyReLU(float(layer.negative_slope))
    ),
    kl.ELU: lambda stack, _, layer: stack.activate(activations.ELU(float(layer.alpha))),
    kl.PReLU: _prelu,
    kl.Softmax: _softmax,
    kl.Identity: lambda stack, _, layer: None,
    kl.InputLayer: lambda stack, _, layer: None,
    kl.Flatten: lambda stack, _, layer: None,
}


def _read(stack: Stack, place: str, layer: Any) -> None:
    # A subclass may compute something else.
    read = _READERS.get(type(layer))
    if read is None:
        known = ", ".join(kind.__name__ for kind in _READERS)
        raise ArgumentError(f"expected one of {known}, got {type(layer).__name__}")
    if type(layer) is not kl.InputLayer:
        if layer.compute_dtype != layer.variable_dtype or layer.dtype_policy.quantization_mode:
            raise ArgumentError(
                "expected a layer that computes in the dtype of its variables, got the policy "
                f"{layer.dtype_policy.name!r}"
            )
        stack.dtypes.add(layer.compute_dtype)
    read(stack, place, layer)
    stack.trains(
        place, [] if type(layer) is kl.Normalization else layer.weights, all_of_them=layer.trainable
    )


def _chain(model: Any) -> list[Any]:
    """The layers from a model's input to its output."""
    if not getattr(model, "outputs", None) or not type(model).call.__module__.startswith("keras."):
        raise ArgumentError(
            "expected a keras.Sequential or a functional model that knows its input's shape, "
            f"got {type(model).__name__} {model.name!r}; give it an Input, or call its build"
        )
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ArgumentError(
            f"expected one input and one output, got {len(model.inputs)} and {len(model.outputs)}"
        )
    (tensor,) = model.outputs
    chain: list[Any] = []
    while tensor is not model.inputs[0]:
        operation, number, _ = tensor._keras_history
        node = operation._inbound_nodes[number]
        if len(node.input_tensors) != 1:
            raise ArgumentError(
                f"expected a chain of layers, got {operation.name!r} "
                f"with {len(node.input_tensors)} inputs"
            )
        if node.arguments.kwargs.get("training"):
            raise ArgumentError(
                f"expected layers that predict in evaluation mode, got {operation.name!r} "
                "called with training=True"
            )
        chain.append(operation)
        (tensor,) = node.input_tensors
    return chain[::-1]


def _walk(stack: Stack, place: str, model: Any, flat: bool) -> bool:
    """Reads a model's layers; `flat` says whether they have got rows of features by now."""
    # Keras rounds what comes in to the dtype of the Input.
    stack.dtypes.add(model.inputs[0].dtype)
    for part in _chain(model):
        own = f"layer {part.name!r}"
        with at(own):
            if isinstance(part, keras.Model):
                flat = _walk(stack, f"{place}{own}: ", part, flat)
                continue
            flat = flat or isinstance(part, kl.Flatten)
            if not flat:
                raise ArgumentError(
                    "expected a Flatten in front of it, since ranvier's layers take rows of "
                    f"features, got {type(part).__name__}"
                )
            _read(stack, place + own, part)
    return flat


def from_keras(model: Any) -> Sequential:
    """See `ranvier.interchange.from_keras`."""
    if not isinstance(model, keras.Model):
        raise DTypeError(f"model: expected a keras.Model, got {type(model).__name__}")
    with at("model"):
        _chain(model)
        shape = model.inputs[0].shape[1:]
        if None in shape:
            raise ArgumentError(f"expected an input of a known shape, got {shape}")
        stack = Stack(int(np.prod(shape)))
        _walk(stack, "", model, flat=len(shape) == 1)
    made = stack.model("model")
    tell("from_keras", stack.losses)
    return made
