"""Estimators of scikit-learn, there and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import activations
from .._arrays import Array, boolean
from ..errors import ArgumentError, DTypeError, MissingDependencyError, NotFittedError
from ..layers import Activation, Dense, Dropout, GaussianNoise, Softmax, Standardize
from ..model import Sequential
from ._stack import Losses, Stack, at, left_out, tell

try:
    from sklearn.base import clone, is_classifier
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import Pipeline, make_pipeline
    from sklearn.preprocessing import LabelBinarizer, StandardScaler
    from sklearn.utils import check_random_state
except ImportError as error:
    raise MissingDependencyError(
        "from_sklearn and to_sklearn need scikit-learn: pip install 'ranvier[sklearn]'"
    ) from error

from ..sklearn._interchange import Interchange, network_of, plain_parameters
from ..sklearn._options import ACTIVATIONS

# scikit-learn's names, by ours.
_NAMES = {ours or "identity": theirs for theirs, ours in ACTIVATIONS.items()}


# ---------------------------------------------------------------- from scikit-learn


def _statistics(scaler: Any, features: int, dtype: Any) -> dict[str, Array]:
    """Mean and variance of a StandardScaler, which may have left either out."""
    if type(scaler) is not StandardScaler:
        raise ArgumentError(f"expected no scaler but StandardScaler, got {scaler!r}")
    mean = scaler.mean_ if scaler.with_mean else np.zeros(features)
    scale = scaler.scale_ if scaler.with_std else np.ones(features)
    with np.errstate(over="ignore"):
        return {"running_mean": mean.astype(dtype), "running_var": (scale**2).astype(dtype)}


def _unwrapped(estimator: Any) -> tuple[Any, Any, Any]:
    """The MLP, with the scalers of inputs and of targets around it."""
    inputs = targets = None
    if isinstance(estimator, TransformedTargetRegressor):
        if not hasattr(estimator, "regressor_"):
            raise NotFittedError(f"expected a fitted estimator, got {estimator!r}; call fit")
        estimator, targets = estimator.regressor_, estimator.transformer_
    if isinstance(estimator, Pipeline):
        steps = [step for _, step in estimator.steps if step not in (None, "passthrough")]
        if not 1 <= len(steps) <= 2:
            raise ArgumentError(f"expected an MLP behind at most one StandardScaler, got {steps}")
        estimator, inputs = steps[-1], steps[0] if len(steps) == 2 else None
    return estimator, inputs, targets


def from_sklearn(estimator: Any, probabilities: bool) -> Sequential:
    """See `ranvier.interchange.from_sklearn`."""
    boolean(probabilities, "probabilities")
    with at("estimator"):
        mlp, inputs, targets = _unwrapped(estimator)
        if not isinstance(mlp, MLPClassifier | MLPRegressor):
            raise DTypeError(
                "expected a fitted MLPClassifier or MLPRegressor, alone or behind a "
                f"StandardScaler in a Pipeline, got {type(mlp).__name__}"
            )
    ours = network_of(mlp, "estimator") if isinstance(mlp, Interchange) else None
    if ours is None:
        plain_parameters(mlp, "estimator")
    if probabilities and not is_classifier(mlp):
        raise ArgumentError("probabilities: expected False for a regressor, got True")
    stack = Stack()
    dtype = mlp.coefs_[0].dtype
    with at("estimator"):
        if inputs is not None:
            features = len(mlp.coefs_[0])
            statistics = _statistics(inputs, features, dtype)
            stack.add(Standardize(), features, statistics)
        if ours is not None:
            stack.extend(ours)
        else:
            name = ACTIVATIONS[mlp.activation]
            hidden = [None if name == "identity" else name] * (len(mlp.coefs_) - 1)
            for activation, weight, bias in zip(
                [*hidden, None], mlp.coefs_, mlp.intercepts_, strict=True
            ):
                values = {"weight": weight, "bias": bias}
                stack.add(Dense(weight.shape[1], activation), len(weight), values)
        if probabilities:
            softmax = mlp.out_activation_ == "softmax"
            stack.add(Softmax() if softmax else Activation(ACTIVATIONS[mlp.out_activation_]))
        if targets is not None and mlp.out_activation_ == "exp":
            raise ArgumentError(
                "expected targets that are not scaled with loss='poisson', whose raw outputs are "
                f"logarithms, got {targets!r}"
            )
        if targets is not None:
            outputs = mlp.n_outputs_
            statistics = _statistics(targets, outputs, dtype)
            stack.add(Standardize(of="targets"), outputs, statistics)
    return stack.model("estimator")


# ---------------------------------------------------------------- to scikit-learn


class _Network:
    """What scikit-learn can say of a model: weights, one activation, scalers."""

    def __init__(self, model: Sequential) -> None:
        self._values = model.parameters()
        self.weights: list[tuple[Array, Array]] = []
        self.losses: Losses = []
        self.inputs: tuple[Array, Array] | None = None
        self.targets: tuple[Array, Array] | None = None
        # Of each Dense: the activation, and where it stands.
        self._activations: list[tuple[str, str]] = []
        for number, layer in enumerate(model.layers):
            with at(f"layers[{number}]"):
                self._add(number, layer)
        if not self.weights:
            raise ArgumentError("model: expected at least one Dense layer, got none")
        self.output, self.output_place = self._activations.pop()
        self.activation = self._activations[0][0] if self._activations else "identity"
        for name, place in self._activations:
            with at(place):
                if name not in _NAMES:
                    raise ArgumentError(
                        f"expected an activation that scikit-learn has, {', '.join(_NAMES)}, "
                        f"got {name!r}"
                    )
                if name != self.activation:
                    raise ArgumentError(
                        f"expected {self.activation!r} as in the first layer, since scikit-learn "
                        f"has one activation for all hidden layers, got {name!r}"
                    )

    def _add(self, number: int, layer: Any) -> None:
        place = f"layers[{number}]"
        match layer:
            case Dense(units, activation):
                weight = self._values[f"{number}.weight"]
                bias = self._values.get(f"{number}.bias")
                if bias is None:
                    self.losses.append((place, "has no bias; scikit-learn learns one, from 0 on"))
                    bias = np.zeros(units, weight.dtype)
                self.losses += left_out(layer, place)
                self.weights.append((weight, bias))
                self._activations.append(("identity", place))
                self._activate(activation, place)
            case Activation(activation):
                self._activate(activation, place)
            case Softmax():
                self._activate("softmax", place)
            case Dropout() | GaussianNoise():
                self.losses.append((place, f"{layer!r} is left out; scikit-learn has none"))
            case Standardize(of="inputs"):
                self.inputs = self._statistics(number)
            case Standardize():
                self.targets = self._statistics(number)
            case _:
                raise ArgumentError(f"expected a layer that scikit-learn has too, got {layer!r}")

    def _activate(self, activation: Any, place: str) -> None:
        name = activations.spec(activation)[0]
        if name == "identity":
            return
        if not self._activations or self._activations[-1][0] != "identity":
            raise ArgumentError(f"expected an activation right behind a Dense layer, got {name!r}")
        self._activations[-1] = (name, place)

    def _statistics(self, number: int) -> tuple[Array, Array]:
        """Mean and variance; a feature of which nothing was measured passes as it is."""
        mean, variance = (self._values[f"{number}.running_{role}"] for role in ("mean", "var"))
        return np.where(variance > 0, mean, 0), np.where(variance > 0, variance, 1)


def _labels(classes: Any) -> tuple[Any, Array]:
    """A fitted LabelBinarizer, and where each of its classes is in `classes`."""
    binarizer = LabelBinarizer()
    try:
        labels = np.asarray(classes)
        if labels.ndim != 1:
            raise ValueError(f"{labels.ndim} dimension(s)")
        binarizer.fit(labels)
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"classes: expected a list of labels, got {classes!r}") from error
    if not 2 <= len(binarizer.classes_) == len(labels):
        raise ArgumentError(f"classes: expected two or more different labels, got {classes!r}")
    return binarizer, np.argsort(labels)


def _classified(network: _Network, classes: Any, multilabel: bool) -> Any:
    """The LabelBinarizer; the last layer's columns are put in the order of its classes."""
    weight, bias = network.weights[-1]
    outputs = len(bias)
    if multilabel:
        if classes is not None:
            raise ArgumentError(
                "classes: expected None with multilabel=True, where scikit-learn numbers the "
                f"labels, got {classes!r}"
            )
        if outputs < 2:
            raise ArgumentError("multilabel: expected a model of two or more outputs, got one")
        binarizer = LabelBinarizer().fit(np.eye(outputs, dtype=int))
        squash = "sigmoid"
    else:
        binarizer, order = _labels(classes)
        count = len(order)
        if outputs != count and (outputs, count) != (1, 2):
            raise ArgumentError(
                f"classes: expected {max(outputs, 2)} labels for {outputs} outputs, got {count}"
            )
        squash = "softmax" if outputs > 1 else "sigmoid"
        if outputs == 1:
            # The logit of the second class, that of the first being 0.
            weight, bias = (np.stack([0 * part, part], axis=-1) for part in (weight[:, 0], bias[0]))
        weight, bias = weight[:, order], bias[order]
        if count == 2:
            # scikit-learn has the difference of both only.
            weight, bias = weight[:, 1:] - weight[:, :1], bias[1:] - bias[:1]
        network.weights[-1] = (weight, bias)
    if network.output not in ("identity", squash):
        raise ArgumentError(
            f"{network.output_place}: expected raw outputs or {squash}, got {network.output!r}"
        )
    if network.targets is not None:
        raise ArgumentError("layers[-1]: expected no Standardize of targets before classes")
    return binarizer


def _fitted(kind: Any, network: _Network, binarizer: Any, options: dict[str, Any]) -> Any:
    """An MLP with all that scikit-learn's fit leaves, before its first epoch."""
    widths = [len(bias) for _, bias in network.weights]
    for name in ("hidden_layer_sizes", "activation"):
        if name in options:
            raise ArgumentError(f"{name}: expected none, the model says it, got {options[name]!r}")
    try:
        mlp = kind(
            hidden_layer_sizes=tuple(widths[:-1]),
            activation=_NAMES[network.activation],
            **options,
        )
        mlp._validate_params()
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"to_sklearn: {error}") from error
    if binarizer is not None:
        mlp._label_binarizer, mlp.classes_ = binarizer, binarizer.classes_
    mlp.n_features_in_ = len(network.weights[0][0])
    # scikit-learn's own start of a training, whose weights are replaced.
    mlp._random_state = np.random.RandomState(0)
    mlp._initialize(
        np.empty((0, widths[-1])), [mlp.n_features_in_, *widths], network.weights[0][0].dtype
    )
    mlp._random_state = check_random_state(mlp.random_state)
    mlp.coefs_ = [weight for weight, _ in network.weights]
    mlp.intercepts_ = [bias for _, bias in network.weights]
    mlp._best_coefs = [weight.copy() for weight in mlp.coefs_]
    mlp._best_intercepts = [bias.copy() for bias in mlp.intercepts_]
    # The loss on data that scikit-learn has not seen.
    mlp.loss_ = np.nan
    return mlp


def _scaler(statistics: tuple[Array, Array]) -> Any:
    """A fitted StandardScaler."""
    mean, variance = (part.astype(np.float64) for part in statistics)
    scaler = StandardScaler()
    scaler.mean_, scaler.var_, scaler.scale_ = mean, variance, np.sqrt(variance)
    scaler.n_features_in_, scaler.n_samples_seen_ = len(mean), 0
    return scaler


def to_sklearn(model: Sequential, classes: Any, multilabel: bool, options: dict[str, Any]) -> Any:
    """See `Sequential.to_sklearn`."""
    network = _Network(model)
    binarizer = None
    if boolean(multilabel, "multilabel") or classes is not None:
        binarizer = _classified(network, classes, multilabel)
    elif network.output != "identity":
        raise ArgumentError(
            f"{network.output_place}: expected raw outputs for a regressor, "
            f"got {network.output!r}; pass classes= or multilabel=True for a classifier"
        )
    kind = MLPRegressor if binarizer is None else MLPClassifier
    made = _fitted(kind, network, binarizer, options)
    if network.inputs is not None:
        made = make_pipeline(_scaler(network.inputs), made)
    if network.targets is not None:
        inner = made
        made = TransformedTargetRegressor(clone(inner), transformer=StandardScaler())
        made.regressor_, made.transformer_ = inner, _scaler(network.targets)
        made._training_dim = 1 if model.output_size == 1 else 2
    tell("to_sklearn", network.losses)
    return made
