"""What is measured: networks, synthetic data, common initial weights, floors and bars."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

ACTIVATIONS = ("relu", "tanh", "sigmoid")
OPTIMIZERS = ("adam", "sgd")
LOSSES = ("cross_entropy", "mse")
DTYPES = ("float32", "float64")
LEARNING_RATE = {"adam": 1e-3, "sgd": 1e-2}

# A weight (in, out) and a bias (out,) for each layer.
Layers = list[tuple[np.ndarray, np.ndarray]]

# An epoch is about this much arithmetic, in between 6 and 512 batches: long enough that what
# happens once in an epoch does not matter, short enough to repeat.
_EPOCH_FLOPS = 2e10
_BATCHES = (6, 512)
# Steps from the common weights after which losses are compared.
_CHECK_STEPS = 12
# Rows on which that loss is evaluated.
_CHECK_ROWS = 1024


@dataclass(frozen=True)
class Bar:
    """What Ranvier is to reach.

    Args:
        ratio: time of the best peer over Ranvier's.
        share: of the peak, for the whole step or call; in floats this or the ratio is enough.
        own: time of Ranvier's float32 over that of its integers, which are to reach all figures.
    """

    ratio: float | None
    share: float | None = None
    own: float | None = None


@dataclass(frozen=True)
class Workload:
    """A stack of dense layers, its last one without activation, and how it is trained or run."""

    name: str
    sizes: tuple[int, ...]
    batch: int
    optimizer: str = "adam"
    loss: str = "cross_entropy"
    activation: str = "relu"
    dtype: str = "float32"
    precision: str | None = None
    bar: Bar | None = field(default=None, compare=False)

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        least, most = _BATCHES
        return int(np.clip(_EPOCH_FLOPS / self.step_flops, least, most))

    @property
    def rows(self) -> int:
        """Rows of the training data."""
        return self.batches * self.batch

    @property
    def check_epochs(self) -> int:
        """Epochs after which losses are compared."""
        return -(-_CHECK_STEPS // self.batches)

    @property
    def _weights(self) -> list[int]:
        return [m * n for m, n in zip(self.sizes, self.sizes[1:], strict=False)]

    @property
    def n_parameters(self) -> int:
        """Weights and biases."""
        return sum(self._weights) + sum(self.sizes[1:])

    @property
    def step_flops(self) -> int:
        """Arithmetic of one training step's products.

        Each layer has three of them, but the first needs no gradient of its input.
        """
        return 2 * self.batch * (3 * sum(self._weights) - self._weights[0])

    @property
    def predict_flops(self) -> int:
        """Arithmetic of one prediction's products."""
        return 2 * self.batch * sum(self._weights)

    def __str__(self) -> str:
        """The network as people write it."""
        return "-".join(map(str, self.sizes))

    def describe(self) -> str:
        """Everything that defines the training."""
        parts = [str(self), f"batch {self.batch}", self.optimizer, self.loss, self.activation]
        return ", ".join([*parts, self.precision or self.dtype])


_WIDE = (1024, 2048, 2048, 1000)
_TAB_SMALL = (32, 64, 32, 2)
_MNIST = (784, 512, 256, 10)

TRAINING = (
    Workload("tiny", (2, 32, 1), 32, loss="mse", bar=Bar(15.0)),
    Workload("tab-small", _TAB_SMALL, 64, bar=Bar(6.0, 0.42)),
    Workload("tab-mid", (100, 256, 128, 10), 128, bar=Bar(2.5, 0.66)),
    Workload("mnist", _MNIST, 128, bar=Bar(1.7, 0.78)),
    Workload("wide", _WIDE, 512, bar=Bar(1.25, 0.87)),
    Workload("xl", (4096,) * 4, 1024, bar=Bar(1.7, 0.86)),
    Workload("wide-bf16", _WIDE, 512, precision="bf16", bar=Bar(1.25, 0.70)),
)

PREDICTION = (
    Workload("tab-small@1", _TAB_SMALL, 1, bar=Bar(1.25)),
    Workload("tab-small@4096", _TAB_SMALL, 4096, bar=Bar(1.25)),
    Workload("mnist@1", _MNIST, 1, bar=Bar(1.25)),
    Workload("mnist@64", _MNIST, 64, bar=Bar(1.0)),
    Workload("mnist@4096", _MNIST, 4096, bar=Bar(1.0)),
    Workload("wide@4096", _WIDE, 4096, bar=Bar(1.0)),
    Workload("mnist-int8@1", _MNIST, 1, precision="int8", bar=Bar(None, own=1.0)),
    Workload("mnist-int8@4096", _MNIST, 4096, precision="int8", bar=Bar(1.2, own=2.0)),
    Workload("wide-int8@1", _WIDE, 1, precision="int8", bar=Bar(None, own=1.0)),
    Workload("wide-int8@4096", _WIDE, 4096, precision="int8", bar=Bar(1.2, 0.60, own=2.0)),
)


def initial_layers(workload: Workload) -> Layers:
    """He uniform before an activation, Glorot uniform at the end, biases 0; the same each time."""
    rng = np.random.default_rng(1)
    layers = []
    pairs = list(zip(workload.sizes, workload.sizes[1:], strict=False))
    for number, (fan_in, fan_out) in enumerate(pairs):
        last = number == len(pairs) - 1
        limit = np.sqrt(6.0 / (fan_in + fan_out if last else fan_in))
        weight = rng.uniform(-limit, limit, size=(fan_in, fan_out))
        layers.append((weight.astype(workload.dtype), np.zeros(fan_out, workload.dtype)))
    return layers


def features(workload: Workload, rows: int) -> np.ndarray:
    """Standard normal features."""
    rng = np.random.default_rng(2)
    return rng.standard_normal((rows, workload.sizes[0]), np.float32).astype(workload.dtype)


def data(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Features and targets that can be learned in part; the same each time.

    Classes are clusters, a tenth of the labels is drawn anew; regressions are a noisy tanh.
    """
    rng = np.random.default_rng(3)
    X = features(workload, workload.rows)
    inputs, outputs = workload.sizes[0], workload.sizes[-1]
    if workload.loss == "mse":
        teacher = rng.standard_normal((inputs, outputs)) / np.sqrt(inputs)
        y = np.tanh(X @ teacher) + 0.1 * rng.standard_normal((workload.rows, outputs))
        return X, y.astype(workload.dtype)
    clusters = rng.integers(outputs, size=workload.rows)
    centers = rng.standard_normal((outputs, inputs), np.float32) * np.sqrt(4.0 / inputs)
    X += centers[clusters].astype(workload.dtype)
    redrawn = rng.random(workload.rows) < 0.1
    labels = np.where(redrawn, rng.integers(outputs, size=workload.rows), clusters)
    return X, labels.astype(np.int64)


def activate(name: str, z: np.ndarray) -> np.ndarray:
    """The activation's value."""
    if name == "relu":
        return np.maximum(z, 0)
    if name == "tanh":
        return np.tanh(z)
    return 1 / (1 + np.exp(-z))


def forward(layers: Layers, X: np.ndarray, activation: str) -> np.ndarray:
    """Raw outputs."""
    for weight, bias in layers[:-1]:
        X = activate(activation, X @ weight + bias)
    weight, bias = layers[-1]
    return X @ weight + bias


def loss_of(workload: Workload, layers: Layers, X: np.ndarray, y: np.ndarray) -> float:
    """The training loss, over the first rows; one implementation judges all contestants."""
    X, y = X[:_CHECK_ROWS], y[:_CHECK_ROWS]
    output = forward(layers, X, workload.activation).astype(np.float64)
    if workload.loss == "mse":
        return float(np.mean((output - y) ** 2))
    output -= output.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(output).sum(axis=1))
    return float(np.mean(log_sum - output[np.arange(len(y)), y]))
