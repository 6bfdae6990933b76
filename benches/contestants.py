"""Ranvier and its peers, each trained and run the way its users would who want it fast.

A contestant is imported, built from common weights and timed in a process of its own.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from workloads import LEARNING_RATE, Layers, Workload, activate, features, forward

# Rows that show how far the inputs of quantised layers reach.
_CALIBRATION_ROWS = 256
_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8


class UnavailableError(Exception):
    """The contestant cannot run this workload here; the message says why."""


class Trainee(ABC):
    """A contestant in training: the same network, data and weights for each."""

    precision: str | None = None

    def __init__(self, workload: Workload, X: np.ndarray, y: np.ndarray, layers: Layers) -> None:
        if workload.precision != self.precision:
            raise UnavailableError(f"trains in {self.precision or workload.dtype} only")
        self.workload = workload
        self.X, self.y = X, y
        self.version = self.build(layers)

    @abstractmethod
    def build(self, layers: Layers) -> str:
        """Imports the library, makes the network with these weights, returns the version."""

    @abstractmethod
    def train(self, epochs: int) -> None:
        """Goes on training; returns when it is done."""

    @abstractmethod
    def layers(self) -> Layers:
        """The weights as they are now."""

    def settings(self) -> dict[str, Callable[[], None]]:
        """Settings of which the fastest is to be used, the usual one first: name and setter."""
        return {}

    def tune(self) -> str:
        """Chooses the fastest of the settings; says which, unless it is the usual one."""
        settings = self.settings()
        if not settings:
            return ""
        seconds = {}
        for name, choose in settings.items():
            choose()
            seconds[name] = self._best_epoch()
        best = min(seconds, key=seconds.__getitem__)
        settings[best]()
        return "" if best == next(iter(settings)) else best

    def _best_epoch(self) -> float:
        self.train(1)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            self.train(1)
            times.append(time.perf_counter() - start)
        return min(times)

    @property
    def learning_rate(self) -> float:
        return LEARNING_RATE[self.workload.optimizer]


def ranvier_model(workload: Workload, layers: Layers) -> Any:
    """The network in Ranvier."""
    import ranvier as rv

    hidden = [rv.Dense(size, activation=workload.activation) for size in workload.sizes[1:-1]]
    model = rv.Sequential(
        [*hidden, rv.Dense(workload.sizes[-1])],
        input_size=workload.sizes[0],
        dtype=workload.dtype,
    )
    for number, (weight, bias) in enumerate(layers):
        model.set_parameters({f"{number}.weight": weight, f"{number}.bias": bias})
    return model


def quantized_model(workload: Workload, layers: Layers) -> Any:
    """The network in Ranvier's integers."""
    return ranvier_model(workload, layers).quantize(features(workload, _CALIBRATION_ROWS))


class RanvierTrainee(Trainee):
    """`Trainer.fit`."""

    def __init__(self, workload: Workload, X: np.ndarray, y: np.ndarray, layers: Layers) -> None:
        self.precision = workload.precision
        super().__init__(workload, X, y, layers)

    def build(self, layers: Layers) -> str:
        import ranvier as rv

        self.model = ranvier_model(self.workload, layers)
        rate = self.learning_rate
        adam = self.workload.optimizer == "adam"
        self.trainer = rv.Trainer(
            self.model,
            loss=self.workload.loss,
            optimizer=rv.Adam(learning_rate=rate) if adam else rv.SGD(learning_rate=rate),
            precision=self.precision,
        )
        return rv.__version__

    def train(self, epochs: int) -> None:
        self.trainer.fit(self.X, self.y, epochs=epochs, batch_size=self.workload.batch)

    def layers(self) -> Layers:
        values = list(self.model.parameters().values())
        return list(zip(values[::2], values[1::2], strict=True))


class NumpyTrainee(Trainee):
    """The loop that one writes by hand: vectorised, updates in place."""

    _DERIVATIVE: ClassVar[dict[str, Callable[[np.ndarray], np.ndarray]]] = {
        "relu": lambda a: a > 0,
        "tanh": lambda a: 1 - a * a,
        "sigmoid": lambda a: a * (1 - a),
    }

    def build(self, layers: Layers) -> str:
        self.parameters = [array.copy() for layer in layers for array in layer]
        self.moments = [(np.zeros_like(p), np.zeros_like(p)) for p in self.parameters]
        self.steps = 0
        self.rng = np.random.default_rng(4)
        return np.__version__

    def layers(self) -> Layers:
        return list(zip(self.parameters[::2], self.parameters[1::2], strict=True))

    def train(self, epochs: int) -> None:
        batch = self.workload.batch
        update = self._adam if self.workload.optimizer == "adam" else self._sgd
        for _ in range(epochs):
            order = self.rng.permutation(len(self.X))
            for start in range(0, len(order), batch):
                rows = order[start : start + batch]
                update(self._gradients(self.X[rows], self.y[rows]))

    def _gradients(self, X: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
        layers = self.layers()
        inputs = [X]
        for weight, bias in layers[:-1]:
            inputs.append(activate(self.workload.activation, inputs[-1] @ weight + bias))
        weight, bias = layers[-1]
        delta = self._d_output(inputs[-1] @ weight + bias, y)
        gradients = []
        for number in reversed(range(len(layers))):
            gradients += [delta.sum(axis=0), inputs[number].T @ delta]
            if number:
                delta = delta @ layers[number][0].T
                delta *= self._DERIVATIVE[self.workload.activation](inputs[number])
        return gradients[::-1]

    def _d_output(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        if self.workload.loss == "mse":
            return 2 * (z - y) / z.size
        z = np.exp(z - z.max(axis=1, keepdims=True))
        z /= z.sum(axis=1, keepdims=True)
        z[np.arange(len(y)), y] -= 1
        return z / len(y)

    def _sgd(self, gradients: list[np.ndarray]) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter -= self.learning_rate * gradient

    def _adam(self, gradients: list[np.ndarray]) -> None:
        self.steps += 1
        rate = self.learning_rate / (1 - _BETA1**self.steps)
        root = (1 - _BETA2**self.steps) ** 0.5
        for parameter, gradient, (m, v) in zip(
            self.parameters, gradients, self.moments, strict=True
        ):
            m += (1 - _BETA1) * (gradient - m)
            v += (1 - _BETA2) * (gradient * gradient - v)
            parameter -= rate * m / (np.sqrt(v) / root + _EPS)


class SklearnTrainee(Trainee):
    """`partial_fit` of the multi-layer perceptrons, an epoch each.

    For two classes scikit-learn has one logistic output: it starts from the difference of the two.
    """

    _ACTIVATION: ClassVar[dict[str, str]] = {"relu": "relu", "tanh": "tanh", "sigmoid": "logistic"}

    def build(self, layers: Layers) -> str:
        import sklearn
        from sklearn.neural_network import MLPClassifier, MLPRegressor

        workload = self.workload
        regression = workload.loss == "mse"
        # It follows the gradient of the sum over outputs of half the squared error.
        scale = 2 / workload.sizes[-1] if regression and workload.optimizer == "sgd" else 1.0
        self.network = (MLPRegressor if regression else MLPClassifier)(
            hidden_layer_sizes=workload.sizes[1:-1],
            activation=self._ACTIVATION[workload.activation],
            solver=workload.optimizer,
            alpha=0.0,
            batch_size=workload.batch,
            learning_rate_init=self.learning_rate * scale,
            momentum=0.0,
            nesterovs_momentum=False,
            # An integer would shuffle each epoch alike.
            random_state=np.random.RandomState(0),
        )
        self.classes = {} if regression else {"classes": np.arange(workload.sizes[-1])}
        if regression and workload.sizes[-1] == 1:
            self.y = self.y.ravel()
        self._allocate(layers)
        return sklearn.__version__

    def _allocate(self, layers: Layers) -> None:
        rows = self.workload.batch
        self.network.partial_fit(self.X[:rows], self.y[:rows], **self.classes)
        if self._binary:
            weight, bias = layers[-1]
            layers = [*layers[:-1], (weight[:, 1:] - weight[:, :1], bias[1:] - bias[:1])]
        for number, (weight, bias) in enumerate(layers):
            self.network.coefs_[number][...] = weight
            self.network.intercepts_[number][...] = bias
        del self.network._optimizer  # moments of the first step; the next call makes new ones

    @property
    def _binary(self) -> bool:
        return bool(self.classes) and self.workload.sizes[-1] == 2

    def train(self, epochs: int) -> None:
        for _ in range(epochs):
            self.network.partial_fit(self.X, self.y, **self.classes)

    def layers(self) -> Layers:
        layers = list(zip(self.network.coefs_, self.network.intercepts_, strict=True))
        if self._binary:
            weight, bias = layers[-1]
            both = np.hstack([np.zeros_like(weight), weight]), np.append(np.zeros_like(bias), bias)
            layers[-1] = both
        return layers


def torch_network(workload: Workload, layers: Layers) -> Any:
    """The network in PyTorch."""
    import torch

    activation = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh, "sigmoid": torch.nn.Sigmoid}
    modules: list[Any] = []
    for number, (weight, bias) in enumerate(layers):
        if number:
            modules.append(activation[workload.activation]())
        linear = torch.nn.Linear(*weight.shape, dtype=getattr(torch, workload.dtype))
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight.T.copy()))
            linear.bias.copy_(torch.from_numpy(bias))
        modules.append(linear)
    return torch.nn.Sequential(*modules)


class TorchTrainee(Trainee):
    """Eager PyTorch with a fused optimiser, on all threads or on one, whichever is faster."""

    def build(self, layers: Layers) -> str:
        import torch

        self.torch = torch
        self.inputs, self.targets = torch.from_numpy(self.X), torch.from_numpy(self.y)
        self.network = torch_network(self.workload, layers)
        optimizer = torch.optim.Adam if self.workload.optimizer == "adam" else torch.optim.SGD
        self.optimizer = optimizer(self.network.parameters(), lr=self.learning_rate, fused=True)
        mse = self.workload.loss == "mse"
        self.criterion = torch.nn.MSELoss() if mse else torch.nn.CrossEntropyLoss()
        torch.manual_seed(0)
        self.threads = torch.get_num_threads()
        return str(torch.__version__)

    def loss(self, X: Any, y: Any) -> Any:
        """The batch's loss as a tensor."""
        return self.criterion(self.network(X), y)

    def train(self, epochs: int) -> None:
        for _ in range(epochs):
            for rows in self.torch.randperm(len(self.X)).split(self.workload.batch):
                loss = self.loss(self.inputs.index_select(0, rows), self.targets[rows])
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                self.optimizer.step()

    def settings(self) -> dict[str, Callable[[], None]]:
        return {
            f"{n} thread{'s' if n > 1 else ''}": partial(self.torch.set_num_threads, n)
            for n in sorted({self.threads, 1}, reverse=True)
        }

    def layers(self) -> Layers:
        linear = [m for m in self.network if isinstance(m, self.torch.nn.Linear)]
        return [(m.weight.detach().numpy().T, m.bias.detach().numpy()) for m in linear]


class CompiledTorchTrainee(TorchTrainee):
    """`torch.compile` around forward pass and loss, which compiles the backward pass as well."""

    def build(self, layers: Layers) -> str:
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            raise UnavailableError(f"no C++ compiler ({compiler})")
        version = super().build(layers)
        self.loss = self.torch.compile(super().loss)
        return version

    def settings(self) -> dict[str, Callable[[], None]]:
        return {}  # the number of threads is compiled in


class AutocastTorchTrainee(TorchTrainee):
    """Mixed precision: products in bfloat16, parameters and moments in float32."""

    precision = "bf16"

    def loss(self, X: Any, y: Any) -> Any:
        with self.torch.autocast("cpu", dtype=self.torch.bfloat16):
            return super().loss(X, y)


class JaxTrainee(Trainee):
    """An epoch is one compiled `lax.scan` whose state is donated.

    NumPy draws the order: `jax.random.permutation` sorts, which takes longer than a small step.
    """

    def build(self, layers: Layers) -> str:
        import jax

        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_enable_x64", self.workload.dtype == "float64")
        self.jax = jax
        self.inputs, self.targets = jax.device_put((self.X, self.y))
        parameters = [tuple(map(jax.numpy.array, layer)) for layer in layers]
        zeros = jax.tree.map(jax.numpy.zeros_like, parameters)
        self.state = (parameters, zeros, jax.tree.map(jax.numpy.copy, zeros), 0.0)
        self.rng = np.random.default_rng(4)
        self._gather_each_step(True)
        return str(jax.__version__)

    def settings(self) -> dict[str, Callable[[], None]]:
        return {
            "gather in each step": partial(self._gather_each_step, True),
            "gather before the scan": partial(self._gather_each_step, False),
        }

    def _gather_each_step(self, each: bool) -> None:
        self.epoch = self.jax.jit(partial(self._epoch, each), donate_argnums=0)

    def train(self, epochs: int) -> None:
        workload = self.workload
        for _ in range(epochs):
            order = self.rng.permutation(workload.rows).astype(np.int32)
            order = order.reshape(workload.batches, workload.batch)
            self.state = self.epoch(self.state, order, self.inputs, self.targets)
        self.jax.block_until_ready(self.state)

    def layers(self) -> Layers:
        return [(np.asarray(weight), np.asarray(bias)) for weight, bias in self.state[0]]

    def _epoch(self, gather_each_step: bool, state: Any, order: Any, X: Any, y: Any) -> Any:
        gradient = self.jax.grad(self._loss)
        update = self._adam if self.workload.optimizer == "adam" else self._sgd

        def step(state: Any, rows: Any) -> tuple[Any, None]:
            batch = (X[rows], y[rows]) if gather_each_step else rows
            return update(state, gradient(state[0], *batch)), None

        return self.jax.lax.scan(step, state, order if gather_each_step else (X[order], y[order]))[
            0
        ]

    def _loss(self, parameters: Any, X: Any, y: Any) -> Any:
        jax, jnp = self.jax, self.jax.numpy
        activation = getattr(jax.nn, self.workload.activation)
        for weight, bias in parameters[:-1]:
            X = activation(X @ weight + bias)
        weight, bias = parameters[-1]
        z = X @ weight + bias
        if self.workload.loss == "mse":
            return jnp.mean((z - y) ** 2)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], axis=1))

    def _sgd(self, state: Any, gradients: Any) -> Any:
        def update(p: Any, g: Any) -> Any:
            return p - self.learning_rate * g

        return (self.jax.tree.map(update, state[0], gradients), *state[1:])

    def _adam(self, state: Any, gradients: Any) -> Any:
        tree_map, jnp = self.jax.tree.map, self.jax.numpy
        parameters, m, v, steps = state
        steps += 1
        rate = self.learning_rate / (1 - _BETA1**steps)
        root = jnp.sqrt(1 - _BETA2**steps)
        m = tree_map(lambda m, g: _BETA1 * m + (1 - _BETA1) * g, m, gradients)
        v = tree_map(lambda v, g: _BETA2 * v + (1 - _BETA2) * g * g, v, gradients)

        def update(p: Any, m: Any, v: Any) -> Any:
            return (p - rate * m / (jnp.sqrt(v) / root + _EPS)).astype(p.dtype)

        return tree_map(update, parameters, m, v), m, v, steps


class Predictor(ABC):
    """A contestant in prediction, from a NumPy array to a NumPy array.

    Attributes:
        predict: raw outputs of rows; a method, or what `build` finds in the library.
    """

    precisions: ClassVar[tuple[str | None, ...]] = (None,)
    predict: Callable[[np.ndarray], np.ndarray]

    def __init__(self, workload: Workload, layers: Layers, threads: int) -> None:
        if workload.precision not in self.precisions:
            words = " or ".join(precision or "the network's dtype" for precision in self.precisions)
            raise UnavailableError(f"predicts in {words} only")
        self.workload = workload
        self.threads = threads
        self.version = self.build(layers)

    @abstractmethod
    def build(self, layers: Layers) -> str:
        """Imports the library, makes the network with these weights, returns the version."""


class RanvierPredictor(Predictor):
    """`model.predict`, of the quantised model for int8."""

    precisions = (None, "int8")

    def build(self, layers: Layers) -> str:
        import ranvier as rv

        make = quantized_model if self.workload.precision else ranvier_model
        self.predict = make(self.workload, layers).predict
        return rv.__version__


class RanvierFloatPredictor(Predictor):
    """`model.predict` beside that of the quantised model."""

    precisions = ("int8",)

    def build(self, layers: Layers) -> str:
        import ranvier as rv

        self.predict = ranvier_model(self.workload, layers).predict
        return rv.__version__


class NumpyPredictor(Predictor):
    """A loop over the layers."""

    def build(self, layers: Layers) -> str:
        self.layers = layers
        return np.__version__

    def predict(self, X: np.ndarray) -> np.ndarray:
        return forward(self.layers, X, self.workload.activation)


class SklearnPredictor(Predictor):
    """`MLPRegressor.predict`, whose outputs are raw, with the weights put in."""

    def build(self, layers: Layers) -> str:
        trained = SklearnTrainee(
            Workload("", self.workload.sizes, 1, loss="mse", activation=self.workload.activation),
            np.zeros((1, self.workload.sizes[0]), self.workload.dtype),
            np.zeros((1, self.workload.sizes[-1]), self.workload.dtype),
            layers,
        )
        self.network = trained.network
        return trained.version

    def predict(self, X: np.ndarray) -> np.ndarray:
        output = self.network.predict(X)
        return output.reshape(len(X), -1)


class TorchPredictor(Predictor):
    """Eager PyTorch in inference mode."""

    def build(self, layers: Layers) -> str:
        import torch

        self.torch = torch
        self.network = torch_network(self.workload, layers).eval()
        return str(torch.__version__)

    def predict(self, X: np.ndarray) -> np.ndarray:
        with self.torch.inference_mode():
            return self.network(self.torch.from_numpy(X)).numpy()


class OnnxruntimePredictor(Predictor):
    """A chain of Gemm and activation nodes in an inference session.

    For int8 it is what `ranvier.export.onnx` writes of the quantised model (QDQ).
    """

    precisions = (None, "int8")
    _ACTIVATION: ClassVar[dict[str, str]] = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}

    def build(self, layers: Layers) -> str:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        model = self._quantized(layers) if self.workload.precision else self._model(layers)
        self.session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        return str(onnxruntime.__version__)

    def _model(self, layers: Layers) -> bytes:
        from onnx import helper, numpy_helper

        nodes, initializers, tensor = [], [], "X"
        for number, (weight, bias) in enumerate(layers):
            if number:
                kind = self._ACTIVATION[self.workload.activation]
                nodes.append(helper.make_node(kind, [tensor], [f"a{number}"]))
                tensor = f"a{number}"
            initializers.append(numpy_helper.from_array(weight, f"W{number}"))
            initializers.append(numpy_helper.from_array(bias, f"b{number}"))
            inputs = [tensor, f"W{number}", f"b{number}"]
            tensor = f"z{number}"
            nodes.append(helper.make_node("Gemm", inputs, [tensor]))
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.workload.dtype))
        sizes = self.workload.sizes
        graph = helper.make_graph(
            nodes,
            "mlp",
            [helper.make_tensor_value_info("X", kind, ["rows", sizes[0]])],
            [helper.make_tensor_value_info(tensor, kind, ["rows", sizes[-1]])],
            initializers,
        )
        # Versions that every onnxruntime of the last years reads.
        opset = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=8)
        return model.SerializeToString()

    def _quantized(self, layers: Layers) -> bytes:
        import ranvier as rv

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            rv.export.onnx(quantized_model(self.workload, layers), path, check=False)
            return path.read_bytes()

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"X": X})[0]


TRAINEES: dict[str, type[Trainee]] = {
    "ranvier": RanvierTrainee,
    "jax": JaxTrainee,
    "torch": TorchTrainee,
    "torch-compile": CompiledTorchTrainee,
    "torch-bf16": AutocastTorchTrainee,
    "sklearn": SklearnTrainee,
    "numpy": NumpyTrainee,
}

PREDICTORS: dict[str, type[Predictor]] = {
    "ranvier": RanvierPredictor,
    "ranvier-float32": RanvierFloatPredictor,
    "onnxruntime": OnnxruntimePredictor,
    "torch": TorchPredictor,
    "sklearn": SklearnPredictor,
    "numpy": NumpyPredictor,
}

NAMES = (*TRAINEES, *(name for name in PREDICTORS if name not in TRAINEES))


def usual(workload: Workload, kind: str) -> list[str]:
    """The contestants of a workload, where nobody asks for particular ones."""
    if kind == "predict":
        return [name for name, p in PREDICTORS.items() if workload.precision in p.precisions]
    if workload.precision is None:
        return [name for name, trainee in TRAINEES.items() if trainee.precision is None]
    fitting = [name for name, t in TRAINEES.items() if t.precision == workload.precision]
    return ["ranvier", *fitting]
