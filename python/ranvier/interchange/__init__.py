"""Models of other frameworks, taken over with their weights.

`from_torch`, `from_keras`, `from_sklearn` and `from_onnx` make a `ranvier.Sequential` (`from_onnx`
of a quantised graph a `QuantizedSequential`);
`Sequential.to_torch`, `Sequential.to_sklearn` and `ranvier.export.onnx` go the other way. One rule
holds for all of them. Predictions are equal up to rounding, 1e-6 of the largest output in float32
and 1e-12 in float64 (more where layers amplify it, as by cancellation), or the model is refused,
with the name of the layer that stands in the way. What only training would notice and the other
side does not have, such as a frozen layer or a penalty, is left out and logged as a warning, to
"ranvier" (but for ONNX, which has nothing of training).

Weights are copied. The dtype is that of the foreign model. Models go over in evaluation mode, in
which ranvier always predicts: compare with torch's `module.eval()`.

The classification losses take raw outputs, as everywhere in ranvier. A sigmoid or softmax at the
end of a foreign model stays there, so that predictions stay what they were; leave it away for going
on with such a loss:

    >>> import ranvier as rv
    >>> foreign = rv.Sequential([rv.Dense(4), rv.Dense(3, activation="softmax")], input_size=2)
    >>> raw = rv.Sequential([*foreign.layers[:-1], rv.Dense(3)], input_size=2)
    >>> raw.set_parameters(foreign.parameters())
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..model import Sequential

if TYPE_CHECKING:
    import keras
    import onnx
    import torch

    from .._files import Path
    from ..quantization import QuantizedSequential

__all__ = ["from_keras", "from_onnx", "from_sklearn", "from_torch"]


def from_torch(module: torch.nn.Module) -> Sequential:
    """The model of a `torch.nn.Sequential`.

    Args:
        module: a Sequential, of Sequentials too, or one of the modules Linear, Dropout,
            BatchNorm1d, LayerNorm, Identity, Flatten, ReLU, LeakyReLU, ELU, CELU (alpha=1), SELU,
            GELU, SiLU, Mish, Sigmoid, Tanh, Softplus (beta=1), Softmax, PReLU (one slope),
            Hardsigmoid, Hardswish, and those of `Sequential.to_torch`. On any device, in float32 or
            float64. Behind a Flatten the model takes rows that are flat already.

    Returns:
        The model. An activation becomes that of the Linear before it.

    Raises:
        ArgumentError: another module, a subclass with a forward of its own, hooks, parametrised
            weights, half precision (`module.float()` widens it); the message says where.
        DTypeError: `module` is no module of torch's.
        MissingDependencyError: torch is not installed.

    Example:
        >>> import torch
        >>> import ranvier as rv
        >>> rv.from_torch(torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU())).layers
        (Dense(8, activation='relu'),)

    A Softplus of torch's default threshold leaves out e^-20 = 2e-9 of large values; ranvier's does
    not. Normalisations without weight and bias get some that would learn.
    """
    from ._torch import from_torch as convert

    return convert(module)


def from_keras(model: keras.Model) -> Sequential:
    """The model of a `keras.Sequential`, or of a functional model that is a chain; Keras 3.

    Args:
        model: of the layers Dense, Dropout, GaussianNoise, BatchNormalization, LayerNormalization,
            Normalization (the first layer, or with invert=True the last), Activation, ReLU,
            LeakyReLU, ELU, PReLU (one slope), Softmax, Identity, InputLayer, Flatten, and of such
            models. Any backend, in float32 or float64. Behind a Flatten the model takes rows that
            are flat already.

    Returns:
        The model. l1, l2, MaxNorm and NonNeg of a kernel become the options of its Dense;
        BatchNorm's momentum is 1 minus Keras's; Normalization becomes Standardize.

    Raises:
        ArgumentError: another layer, a subclass, a branch, mixed precision, a model that does not
            know its input's shape; the message says where.
        DTypeError: `model` is no model of Keras's.
        MissingDependencyError: Keras is not installed.

    Example:
        >>> import keras
        >>> import ranvier as rv
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(8, "relu")])
        >>> rv.from_keras(model).layers
        (Dense(8, activation='relu'),)

    But for TensorFlow's backend, Keras computes the products of layers in float64 in float32;
    ranvier does not.
    """
    from ._keras import from_keras as convert

    return convert(model)


def from_sklearn(estimator: Any, *, probabilities: bool = False) -> Sequential:
    """The model of a fitted MLPClassifier or MLPRegressor.

    Args:
        estimator: fitted, of scikit-learn or of `ranvier.sklearn`, with whatever layers the latter
            has (not a tabular one, which encodes its table first); alone, behind a StandardScaler
            in a Pipeline (which becomes a Standardize layer), or as the regressor of a
            TransformedTargetRegressor whose transformer is a StandardScaler.
        probabilities: a classifier's probabilities in place of raw outputs, by one more layer.

    Returns:
        The model, in the dtype of `coefs_`. Its outputs are raw: a regressor's predictions (with
        loss="poisson" their logarithm), a classifier's logits, one for each of `classes_`, of which
        two have one in common, that of the second.

    Raises:
        NotFittedError: the estimator is not fitted.
        DTypeError: it is something else.
        ArgumentError: another step in the Pipeline; an ensemble, which has a network for each of
            its `estimators_`; scaled targets with loss="poisson".
        MissingDependencyError: scikit-learn is not installed.

    Example:
        >>> import ranvier as rv
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.neural_network import MLPClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> clf = MLPClassifier((8,), solver="lbfgs", max_iter=1000, random_state=0).fit(X, y)
        >>> model = rv.from_sklearn(clf, probabilities=True)
        >>> bool(abs(model.predict(X) - clf.predict_proba(X)).max() < 1e-12)
        True

    The penalty is not taken along: scikit-learn's alpha depends on the batch; see
    `ranvier.Dense`'s l2.
    """
    from ._sklearn import from_sklearn as convert

    return convert(estimator, probabilities)


def from_onnx(model: Path | onnx.ModelProto) -> Sequential | QuantizedSequential:
    """The model of an ONNX graph that is a dense network.

    Args:
        model: the path of a file, or a model in memory. The graph has one input of float32 or
            float64 and one such output; other outputs (scikit-learn's labels) are left aside. It is
            a chain of what `ranvier.export.onnx`, PyTorch's two exporters and scikit-learn's
            converter write for a multi-layer perceptron: Gemm, or MatMul and Add; the activations
            of ranvier, as one operator or as the usual several; Softmax over the features, Dropout,
            BatchNormalization, LayerNormalization; an input that is shifted and scaled; Identity,
            Cast to the same type, Flatten and Reshape that keep the rows. Behind a Flatten the
            model takes rows that are flat already. Products of 8-bit integers are read as
            `ranvier.export.onnx` writes them.

    Returns:
        The model, in the dtype of the graph's input. An activation becomes that of the Dense before
        it. Where layers multiply integers it is a `QuantizedSequential`, with the biases of the
        file.

    Raises:
        ArgumentError: anything else, such as a branch, a second input, another type, an operator in
            training mode or of another domain; the message names the node, its operator and why.
        FileFormatError: the file is damaged, none of ONNX's, or lacks the files in which its
            tensors lie.
        DTypeError: `model` is neither.
        MissingDependencyError: onnx is not installed.
        OSError: the system refused.

    Example:
        >>> import os, tempfile, ranvier as rv
        >>> model = rv.Sequential([rv.Dense(8, activation="gelu"), rv.Dense(3)], input_size=4)
        >>> path = os.path.join(tempfile.mkdtemp(), "model.onnx")
        >>> agreement = rv.export.onnx(model, path, check=False)
        >>> rv.from_onnx(path).layers
        (Dense(8, activation='gelu'), Dense(3))

    Nothing in a file is executed. ONNX keeps attributes, such as eps or a slope, in float32; they
    are read as the shortest number that this may be, 1e-5 and not 9.99999975e-06, which is what
    PyTorch computes with in float64 too. A runtime takes the float32.
    """
    from ._onnx import from_onnx as convert

    return convert(model)
