"""Ranvier's reference: what a dense network computes, in plain Python.

This package is the specification that can be run. It works on lists of floats, imports nothing
but `math` and what the standard library has for types and records, and prefers the equation to
the speed. The fast core must agree with it to the last few digits.

How to read it. Start at the bottom and go up:

1. `vectors`: lists as vectors and matrices; `random` and `normal`: numbers drawn by counting.
2. `activations`, `initializers`: functions of one number, and the first values of weights.
3. `passes`: what a layer is; `layers` and `normalization`: the layers, each with its equations.
4. `losses`, `schedules`, `steps` and `optimizers`: what is made small, and how; `second_order`,
   `line_search` and `problem`: how it is done by looking at the curvature.
5. `rounding` and `quantization`: layers of 8-bit integers.
6. `network`: the chain rule through a row of layers; `trainer`: epochs, batches and steps.

The smallest network has one layer, a = sigmoid(x @ weight + bias), and learns by six lines. For
n samples with K outputs each, * being elementwise and @ the product of matrices, they are

    z = x @ weight + bias                              # layers.Dense, forward
    a = sigmoid(z)                                     # activations.sigmoid
    loss = mean((a - y)^2)                             # losses.MSE
    d_z = 2 (a - y) / (n K) * a * (1 - a)              # losses.MSE, activations.d_sigmoid
    d_weight, d_bias = x^T @ d_z, sum of d_z           # layers.Dense, backward
    weight -= rate * d_weight;  bias -= rate * d_bias  # optimizers.SGD

Lines four and five are the chain rule: the derivative of the loss by a, times that of a by z,
times that of z by weight and bias. The rest of the package is more of the same. Here is the
example in its terms:

    >>> from ranvier import reference as ref
    >>> X, y = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [0.0, 1.0, 1.0, 1.0]
    >>> model = ref.Sequential([ref.Dense(1, activation="sigmoid")], input_size=2, seed=0)
    >>> value, gradients = model.value_and_gradient(X, y, loss="mse")
    >>> sorted(gradients), len(gradients.d_input)
    (['0.bias', '0.weight'], 4)
    >>> trainer = ref.Trainer(model, loss="mse", optimizer=ref.SGD(learning_rate=2.0))
    >>> losses = trainer.fit(X, y, epochs=1000, batch_size=4)
    >>> losses[0] == value, losses[-1] < 0.01
    (True, True)
    >>> [round(row[0]) for row in model.predict(X)]
    [0, 1, 1, 1]
"""

from . import activations, initializers, layers, losses, optimizers, random, schedules
from .layers import (
    Activation,
    BatchNorm,
    Dense,
    Dropout,
    GaussianNoise,
    LayerNorm,
    Softmax,
    Standardize,
)
from .network import Gradients, Sequential
from .optimizers import LBFGS, SGD, Adam, AdamW, DivergedError, LevenbergMarquardt
from .quantization import QuantizedSequential, quantize
from .trainer import Trainer

__all__ = [
    "LBFGS",
    "SGD",
    "Activation",
    "Adam",
    "AdamW",
    "BatchNorm",
    "Dense",
    "DivergedError",
    "Dropout",
    "GaussianNoise",
    "Gradients",
    "LayerNorm",
    "LevenbergMarquardt",
    "QuantizedSequential",
    "Sequential",
    "Softmax",
    "Standardize",
    "Trainer",
    "activations",
    "initializers",
    "layers",
    "losses",
    "optimizers",
    "quantize",
    "random",
    "schedules",
]
