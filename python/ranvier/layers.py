"""Layers: definitions. They hold no numbers; `Sequential` makes a network of them.

Shapes: a batch is (rows, features); a weight is (in_features, out_features), so that
y = x @ weight + bias. PyTorch and ONNX store the transpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from . import activations, initializers
from ._arrays import boolean, integer, plain, real
from ._definitions import Definition
from .activations import ActivationLike
from .errors import ArgumentError, DTypeError
from .initializers import InitializerLike

__all__ = [
    "Activation",
    "BatchNorm",
    "Dense",
    "Dropout",
    "GaussianNoise",
    "Layer",
    "LayerNorm",
    "Softmax",
    "Standardize",
]


@dataclass(frozen=True, repr=False, eq=False)
class Layer(Definition):
    """Base of the layers."""

    def __post_init__(self) -> None:
        plain(self)
        self._spec()

    def _spec(self) -> dict[str, Any]:
        raise DTypeError("layers: expected a layer such as ranvier.Dense(10), got the base class")


@dataclass(frozen=True, repr=False, eq=False)
class Dense(Layer):
    """Fully connected layer: a = f(x @ weight + bias).

    Input (rows, in_features), output (rows, units); parameters "weight" (in_features, units) and
    "bias" (units,).

    Args:
        units: number of outputs.
        activation: f, a name or an object of `ranvier.activations`; None is the identity.
        use_bias: whether there is a bias.
        weight_init: a name or an object of `ranvier.initializers`; "auto" is He uniform before
            relu-like activations and Glorot uniform otherwise.
        bias_init: likewise.
        l1: λ₁ >= 0: the loss has λ₁·Σ|w| more, the sum over the weight, not the bias; in training,
            in evaluations and in gradients (that of |w| at 0 is 0).
        l2: λ₂ >= 0: likewise λ₂·Σw², whose gradient is 2·λ₂·w. As Keras's regularisers;
            scikit-learn's alpha is 2·λ₂ times the number of rows. Unlike an optimiser's
            weight_decay it passes through momentum, Adam's scaling and clipping.
        max_norm: M > 0: each step ends with w ← w·M/‖w‖ for every unit whose incoming weights w
            have ‖w‖ > M (Srivastava et al. 2014). Keras's MaxNorm adds 1e-7 to ‖w‖.
        non_negative: each step ends with w ← max(w, 0), before max_norm. Both concern the weight,
            not the bias, and hold from the first step on: initial weights stay as they are.

    Raises:
        ArgumentError, DTypeError: a value that the argument does not take.

    Example:
        >>> import ranvier as rv
        >>> rv.Dense(16, activation="relu")
        Dense(16, activation='relu')

    Elsewhere: `torch.nn.Linear` stores (out, in) and starts from U(±1/√in); `keras.layers.Dense`
    has the same layout as here and starts from Glorot uniform.
    """

    units: int
    activation: ActivationLike = None
    _: KW_ONLY
    use_bias: bool = True
    weight_init: InitializerLike = "auto"
    bias_init: InitializerLike = "zeros"
    l1: float = 0.0
    l2: float = 0.0
    max_norm: float | None = None
    non_negative: bool = False

    def __post_init__(self) -> None:
        integer(self.units, "units", least=1, most=2**31)
        real(self.l1, "l1", least=0.0)
        real(self.l2, "l2", least=0.0)
        if self.max_norm is not None:
            real(self.max_norm, "max_norm", least=0.0, open_least=True)
        super().__post_init__()
        if initializers.spec(self.bias_init, "bias_init")[0] == "orthogonal":
            raise ArgumentError("bias_init: expected an initializer of vectors, got 'orthogonal'")

    def _spec(self) -> dict[str, Any]:
        return {
            "kind": "dense",
            "units": int(self.units),
            "activation": activations.spec(self.activation),
            "use_bias": boolean(self.use_bias, "use_bias"),
            "weight_init": initializers.spec(self.weight_init, "weight_init"),
            "bias_init": initializers.spec(self.bias_init, "bias_init"),
            "l1": float(self.l1),
            "l2": float(self.l2),
            "max_norm": None if self.max_norm is None else float(self.max_norm),
            "non_negative": boolean(self.non_negative, "non_negative"),
        }


@dataclass(frozen=True, repr=False, eq=False)
class Activation(Layer):
    """An activation as a layer of its own, for instance behind a normalisation."""

    activation: ActivationLike

    def _spec(self) -> dict[str, Any]:
        return {"kind": "activation", "activation": activations.spec(self.activation)}


@dataclass(frozen=True, repr=False, eq=False)
class Dropout(Layer):
    """In training, sets each value to 0 with probability `rate` and divides the others by 1 − rate.

    In evaluation it is the identity (Srivastava et al. 2014). Which values are dropped is a
    function of the trainer's seed, the epoch, the row's place in the epoch and the unit: the same
    for any batch size and any number of threads.

    Args:
        rate: probability of dropping, in [0, 1).
    """

    rate: float

    def __post_init__(self) -> None:
        real(self.rate, "rate", least=0.0, most=1.0, open_most=True)
        super().__post_init__()

    def _spec(self) -> dict[str, Any]:
        return {"kind": "dropout", "rate": float(self.rate)}


@dataclass(frozen=True, repr=False, eq=False)
class GaussianNoise(Layer):
    """In training, adds stddev·z to each value, z standard normal; in evaluation the identity.

    As the first layer it is the input noise that acts like a penalty of the network's slope (Bishop
    1995, "Training with noise is equivalent to Tikhonov regularization"). Which numbers are added
    is a function of the trainer's seed, the epoch, the row's place in the epoch and the unit: the
    same for any batch size and any number of threads. As Keras's GaussianNoise.

    Args:
        stddev: standard deviation of what is added, 0 or more, in the units of the values.

    Example:
        >>> import numpy as np, ranvier as rv
        >>> model = rv.Sequential([rv.GaussianNoise(0.1), rv.Dense(1)], input_size=2)
        >>> bool(np.all(model.predict(np.zeros((1, 2))) == 0))
        True
    """

    stddev: float

    def __post_init__(self) -> None:
        real(self.stddev, "stddev", least=0.0)
        super().__post_init__()

    def _spec(self) -> dict[str, Any]:
        return {"kind": "gaussian_noise", "stddev": float(self.stddev)}


@dataclass(frozen=True, repr=False, eq=False)
class LayerNorm(Layer):
    """Each row to mean 0 and variance 1 over its features, then times weight plus bias.

    a = weight·(x − mean)/√(var + eps) + bias with the biased variance (Ba et al. 2016).
    Parameters "weight" (from 1) and "bias" (from 0), both (features,). As in PyTorch; Keras's eps
    is 1e-3.
    """

    _: KW_ONLY
    eps: float = 1e-5

    def __post_init__(self) -> None:
        real(self.eps, "eps", least=0.0, open_least=True)
        super().__post_init__()

    def _spec(self) -> dict[str, Any]:
        return {"kind": "layer_norm", "eps": float(self.eps)}


@dataclass(frozen=True, repr=False, eq=False)
class BatchNorm(Layer):
    """Each feature to mean 0 and variance 1 over the batch, then times weight plus bias.

    a = weight·(x − mean)/√(var + eps) + bias (Ioffe and Szegedy 2015). Training uses the batch's
    statistics, weighted by `sample_weight` (so that a row of weight 0 is absent), and moves the
    running ones: running ← (1 − momentum)·running + momentum·batch, the running variance being
    made unbiased by W/(W − 1) where the sum of weights W is at least 2. Evaluation uses the
    running ones. A batch with fewer than two rows of positive weight does not move them.

    Args:
        momentum: share of the new batch, in (0, 1]. PyTorch's meaning; Keras's momentum is 1 minus
            this one (its default is 0.99, and its running variance is biased).
        eps: added to the variance. Keras's default is 1e-3.
    """

    _: KW_ONLY
    momentum: float = 0.1
    eps: float = 1e-5

    def __post_init__(self) -> None:
        real(self.momentum, "momentum", least=0.0, most=1.0, open_least=True)
        real(self.eps, "eps", least=0.0, open_least=True)
        super().__post_init__()

    def _spec(self) -> dict[str, Any]:
        return {"kind": "batch_norm", "momentum": float(self.momentum), "eps": float(self.eps)}


@dataclass(frozen=True, repr=False, eq=False)
class Softmax(Layer):
    """e^z / Σ e^z over the features of each row.

    For reading probabilities off and for textbook examples. The classification losses take raw
    outputs: do not put this in front of them.
    """

    def _spec(self) -> dict[str, Any]:
        return {"kind": "softmax"}


@dataclass(frozen=True, repr=False, eq=False)
class Standardize(Layer):
    """Features, or targets, to mean 0 and variance 1, by statistics that the first `fit` measures.

    As the first layer a = (x − mean)/√var, feature by feature; input and output (rows, features).
    With of="targets", as the last layer, a = x·√var + mean, with mean and variance of y: the layers
    before work on numbers around 0 and 1, while predictions, the loss and its metrics are in y's
    own units. Input and output (rows, outputs).

    Mean and variance (biased, as `numpy.var`) are those of the rows that the first `fit` trains
    on: no validation rows, weighted by `sample_weight` (a row of weight 0 is absent), not by
    `class_weight`. They are taken before the first step, in float64, and stay as they are in later
    fits; `set_parameters`, files and copies carry them like BatchNorm's, as "0.running_mean" and
    "0.running_var". A constant column has variance 1 (more where the dtype cannot hold it, so that
    what is left of it vanishes); columns count as constant as in
    scikit-learn's `StandardScaler`. Data in blocks is read once more for that, before the first
    epoch.

    A variance of 0 says that nothing was measured: the feature passes as it is. So the layer is the
    identity before the first fit; where all variances are 0, the next fit measures. Whoever writes
    the loop sets the statistics by hand, with `set_parameters`; features that shall pass as they
    are get a variance of 0 then.

    Args:
        of: "inputs" or "targets". Targets are for the losses mse, mae, huber, quantile (all
            quantiles of a target share its statistics) and for custom losses whose y has as many
            columns as the network has outputs.

    Raises:
        ArgumentError: `of` is something else; the layer stands elsewhere; in `fit`, a loss whose
            outputs are not in the units of y, or a column whose mean or variance the model's dtype
            cannot hold. Nothing has changed.

    Example:
        >>> import numpy as np, ranvier as rv
        >>> X = np.array([[1e6, 5.0], [3e6, 5.0]])
        >>> y = np.array([200.0, 600.0])
        >>> model = rv.Sequential(
        ...     [rv.Standardize(), rv.Dense(1), rv.Standardize(of="targets")], dtype="float64"
        ... )
        >>> adam = rv.Adam(learning_rate=0.05)
        >>> history = model.fit(X, y, loss="mse", optimizer=adam, epochs=300)
        >>> model.predict(X).ravel().round(3).tolist()
        [200.0, 600.0]
        >>> parameters = model.parameters()
        >>> parameters["0.running_mean"].tolist(), parameters["0.running_var"].tolist()
        ([2000000.0, 5.0], [1000000000000.0, 1.0])

    Of the learning rate: the gradient of the loss is the true one, in y's units. Adam does not see
    its scale (but for ε), so rates are those that suit standardised targets. With SGD the gradients
    of mse are var(y) times as large as there: divide the rate by the variance, or clip. Huber's
    delta is in y's units.

    Of float32: x − mean is formed in float64 and then rounded, so float64 and integer columns may
    have large offsets, as times have; in a float32 array those digits are lost before (around 1e9
    it has steps of 64). Predictions of a model in float32 are float32, also of targets far from 0.

    Elsewhere: `keras.layers.Normalization` is fitted by a call of `adapt`; scikit-learn has a
    `Pipeline` with `StandardScaler`, and `TransformedTargetRegressor`, whose inner loss is of
    transformed targets. PyTorch has none; `Sequential.to_torch` brings a small module along, whose
    buffers have the names of the tensors in a file.
    """

    _: KW_ONLY
    of: str = "inputs"

    def __post_init__(self) -> None:
        if self.of not in ("inputs", "targets"):
            raise ArgumentError(f"of: expected 'inputs' or 'targets', got {self.of!r}")
        super().__post_init__()

    def _spec(self) -> dict[str, Any]:
        return {"kind": "standardize", "of": self.of}


def check_places(layers: Sequence[Layer]) -> None:
    """Refuses layers that stand where they have no meaning."""
    for number, layer in enumerate(layers):
        if isinstance(layer, Standardize):
            inputs = layer.of == "inputs"
            if number != (0 if inputs else len(layers) - 1):
                place = "first" if inputs else "last"
                raise ArgumentError(
                    f"layers[{number}]: expected {layer!r} as the {place} layer, "
                    f"got it as layer {number} of {len(layers)}"
                )
