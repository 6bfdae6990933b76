"""The functions of an exported NumPy file, which gets the source of those that it needs.

They take and give arrays (rows, features) of one floating-point type.
"""

# mypy: disable-error-code="no-any-return, union-attr"
# They stay as one would write them: NumPy's functions of any numbers give Any.

import math

import numpy as np

from .._arrays import Array


def gated(gate: Array, z: Array) -> Array:
    """gate·z, and 0 where the gate has closed, at −∞ too."""
    return np.multiply(gate, z, out=np.zeros_like(z), where=gate != 0)


def sigmoid(z: Array) -> Array:
    """1 / (1 + e^−z)."""
    e = np.exp(-np.abs(z))
    return np.where(z < 0, e, 1) / (1 + e)


def tanh(z: Array) -> Array:
    """Hyperbolic tangent."""
    return np.tanh(z)


def relu(z: Array) -> Array:
    """max(z, 0)."""
    return np.maximum(z, 0)


def leaky_relu(z: Array, slope: float) -> Array:
    """z where z > 0, slope·z elsewhere."""
    return np.where(z > 0, z, slope * z)


def prelu(z: Array, slope: float) -> Array:
    """z where z > 0, slope·z elsewhere; the slope was learned."""
    return np.where(z > 0, z, slope * z)


def elu(z: Array, alpha: float) -> Array:
    """z where z > 0, alpha·(e^z − 1) elsewhere."""
    return np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0)))


def selu(z: Array) -> Array:
    """elu, scaled so that mean 0 and variance 1 stay what they are."""
    return 1.0507009873554805 * elu(z, 1.6732632423543772)


def gelu(z: Array) -> Array:
    """z·Φ(z), Φ being the distribution function of the normal distribution."""
    erfc = np.frompyfunc(math.erfc, 1, 1)
    return gated((erfc(z * -math.sqrt(0.5)) / 2).astype(z.dtype), z)


def gelu_tanh(z: Array) -> Array:
    """z·(1 + tanh(√(2/π)·(z + 0.044715·z³))) / 2."""
    return gated(sigmoid(2 * math.sqrt(2 / math.pi) * z * (1 + 0.044715 * z * z)), z)


def silu(z: Array) -> Array:
    """z / (1 + e^−z)."""
    return gated(sigmoid(z), z)


def softplus(z: Array) -> Array:
    """ln(1 + e^z)."""
    return np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))


def hard_sigmoid(z: Array) -> Array:
    """clip(z + 3, 0, 6) / 6."""
    return np.clip(z + 3, 0, 6) / 6


def hard_swish(z: Array) -> Array:
    """z·clip(z + 3, 0, 6) / 6."""
    return gated(hard_sigmoid(z), z)


def mish(z: Array) -> Array:
    """z·tanh(ln(1 + e^z))."""
    return gated(np.tanh(softplus(z)), z)


def integer_sums(x: Array, inverse: float, zero: int, weight: Array) -> Array:
    """q·weight, q + zero being the integers from 0 to 255 that stand for x."""
    q = np.rint(np.clip(x * inverse, -zero, 255 - zero)).astype(np.float64)
    # Exact, as float64 holds them, then rounded once.
    return (q @ weight).astype(np.float32).astype(np.float64)


def softmax(z: Array) -> Array:
    """e^z / Σ e^z over each row."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def layer_norm(z: Array, eps: float, weight: Array, bias: Array) -> Array:
    """Each row to mean 0 and variance 1, then times weight plus bias."""
    centred = z - z.mean(axis=1, keepdims=True)
    variance = np.square(centred).mean(axis=1, keepdims=True)
    return centred / np.sqrt(variance + eps) * weight + bias
