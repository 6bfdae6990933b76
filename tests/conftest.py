"""What several test files share: tolerances, hypothesis profiles, and a table of all losses."""

import os
from dataclasses import dataclass
from typing import Any

import hypothesis
import numpy as np
import pytest

import ranvier as rv
from houses import put, ranvier, table
from ranvier import reference
from ranvier._crosscheck import mirror

# Core against reference, one step: difference over the largest value that the tensor has had.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}

# Keras asks for one before it is imported; its own default is another library.
os.environ.setdefault("KERAS_BACKEND", "torch")

# CI draws the same examples in every run; elsewhere each run looks at new ones.
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("dev", deadline=None, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


def error(got, expected, scale=0.0):
    """Largest difference over the largest expected value (or `scale`, if that is larger)."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape
    difference = np.abs(got - expected).max(initial=0.0)
    if difference == 0.0:
        return 0.0
    return float(difference / max(scale, np.abs(expected).max(), np.finfo(np.float64).tiny))


def as_reference(definition):
    """The reference's object of the same class and options."""
    return mirror(definition, reference)


def reference_of(model):
    """The reference's model with the same layers, seed and parameters."""
    layers = [as_reference(layer) for layer in model.layers]
    twin = reference.Sequential(layers, input_size=model.input_size, seed=model.seed)
    twin.set_parameters({name: value.tolist() for name, value in model.parameters().items()})
    return twin


@dataclass(frozen=True)
class LossCase:
    """A loss with what it asks of targets.

    Args:
        loss: the definition.
        target: kind of target: "values", "counts", "bits", "labels" or "probabilities".
        per_target: outputs for each target column.
        kink: distances |z − y| at which the loss has a kink.
    """

    loss: Any
    target: str = "values"
    per_target: int = 1
    kink: tuple[float, ...] = ()

    def targets(self, rng, output):
        """Targets for these raw outputs, none of them within 0.05 of a kink of the loss."""
        rows, outputs = output.shape
        if self.target == "labels":
            return rng.integers(outputs, size=rows)
        if self.target == "probabilities":
            return rng.dirichlet(np.ones(outputs), size=rows)
        if self.target == "bits":
            return rng.choice([0.0, 0.25, 1.0], size=(rows, outputs))
        if self.target == "counts":
            return rng.poisson(2.0, size=(rows, outputs)).astype(float)
        size = (rows, outputs // self.per_target)
        y = rng.normal(size=size)
        while True:
            distance = np.abs(output - np.repeat(y, self.per_target, axis=1))
            near = np.zeros(output.shape, bool)
            for kink in self.kink:
                near |= np.abs(distance - kink) <= 0.05
            if not near.any():
                return y
            redrawn = near.reshape(*size, self.per_target).any(axis=2)
            y = np.where(redrawn, rng.normal(size=size), y)


# Every loss by an id; all of them take 4 outputs.
LOSSES = {
    "mse": LossCase(rv.losses.MSE()),
    "mae": LossCase(rv.losses.MAE(), kink=(0.0,)),
    "huber": LossCase(rv.losses.Huber(), kink=(1.0,)),
    "huber-0.3": LossCase(rv.losses.Huber(delta=0.3), kink=(0.3,)),
    "quantile": LossCase(rv.losses.Quantile(), kink=(0.0,)),
    "quantile-0.8": LossCase(rv.losses.Quantile(0.8), kink=(0.0,)),
    "quantile-0.1-0.7": LossCase(rv.losses.Quantile([0.1, 0.7]), per_target=2, kink=(0.0,)),
    "poisson": LossCase(rv.losses.Poisson(), "counts"),
    "gaussian_nll": LossCase(rv.losses.GaussianNLL(), per_target=2),
    "cross_entropy": LossCase(rv.losses.CrossEntropy(), "labels"),
    "cross_entropy-smoothed": LossCase(rv.losses.CrossEntropy(label_smoothing=0.2), "labels"),
    "cross_entropy-probabilities": LossCase(rv.losses.CrossEntropy(), "probabilities"),
    "cross_entropy-probabilities-smoothed": LossCase(
        rv.losses.CrossEntropy(label_smoothing=0.1), "probabilities"
    ),
    "binary_cross_entropy": LossCase(rv.losses.BinaryCrossEntropy(), "bits"),
    "binary_cross_entropy-weighted": LossCase(rv.losses.BinaryCrossEntropy(pos_weight=2.5), "bits"),
    "binary_cross_entropy-each": LossCase(
        rv.losses.BinaryCrossEntropy(pos_weight=[0.5, 1.0, 2.0, 3.0]), "bits"
    ),
}


class Follow:
    """A custom loss whose gradient is given; it keeps the outputs and targets that it sees."""

    def __init__(self, d_output=None):
        self.d_output = d_output
        self.outputs = []
        self.targets = []

    def value_and_gradient(self, output, target, sample_weight=None):
        self.outputs.append(output)
        self.targets.append(np.array(target))
        d_output = np.zeros_like(output) if self.d_output is None else self.d_output
        return 0.0, np.broadcast_to(d_output, output.shape)


@pytest.fixture
def rng():
    """A generator that starts alike in every test."""
    return np.random.default_rng(0)


@pytest.fixture
def houses(tmp_path):
    return put(tmp_path / "houses.csv", table())


@pytest.fixture
def fitted(tmp_path, houses, capfd):
    """A model of prices, and the rows that it has learnt from."""
    path = tmp_path / "model.safetensors"
    options = ["--ignore", "dear", "--epochs", 40, "--quiet"]
    ranvier(capfd, "train", houses, "--target", "price", "--out", path, *options)
    return path
