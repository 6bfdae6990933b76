"""`Sequential`: a stack of layers with its parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from ._arrays import Array, boolean, empty, integer, numeric
from ._arrays import seed as checked_seed
from ._files import Path, Reader, contents, decode, encode, path_of, torch_names
from ._predictor import Predictor
from .errors import (
    ArgumentError,
    DTypeError,
    FileFormatError,
    ShapeError,
)
from .layers import Dense, Layer, Standardize, check_places
from .losses import Adapter, CustomLoss, Loss, LossLike, arrays_of
from .losses import get as get_loss

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike, DTypeLike

    from .history import History
    from .metrics import MetricLike
    from .optimizers import OptimizerLike
    from .quantization import QuantizedSequential

__all__ = ["Gradients", "Sequential", "load"]


class Gradients(dict[str, Array]):
    """Gradients by parameter name, with that of the input as `d_input` (rows, in_features)."""

    d_input: Array

    def __init__(self, gradients: Mapping[str, Array], d_input: Array) -> None:
        super().__init__(gradients)
        self.d_input = d_input


class Sequential(Predictor):
    """Layers one behind the other.

    Args:
        layers: at least one layer of `ranvier.layers`.
        input_size: number of input features; None waits for the first `fit`.
        seed: of the initial parameters, 0 to 2^64 − 1; None draws one, which `seed` then tells.
        dtype: "float32" or "float64", of parameters, activations and predictions.

    Raises:
        ArgumentError, DTypeError: a value that the argument does not take.
        OutOfMemoryError: the parameters do not fit.

    Example:
        >>> import numpy as np, ranvier as rv
        >>> model = rv.Sequential([rv.Dense(8, activation="tanh"), rv.Dense(1)], input_size=2)
        >>> model.n_parameters
        33
        >>> model.predict(np.zeros((3, 2))).shape
        (3, 1)

    A model may be used from several threads: during a fit, `predict` and `parameters` see the
    state after some complete step.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        input_size: int | None = None,
        seed: int | None = 0,
        dtype: DTypeLike = "float32",
    ) -> None:
        if isinstance(layers, Layer) or not isinstance(layers, Sequence):
            raise DTypeError(f"layers: expected a list of layers, got {layers!r}")
        for number, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise DTypeError(
                    f"layers[{number}]: expected a layer such as ranvier.Dense(10), got {layer!r}"
                )
        if not layers:
            raise ArgumentError("layers: expected at least one layer, got none")
        check_places(layers)
        self._layers = tuple(layers)
        self._seed = checked_seed(seed)
        self._dtype = _checked_dtype(dtype)
        if input_size is not None:
            self._build(integer(input_size, "input_size", least=1, most=2**31))

    def _build(self, input_size: int) -> None:
        specs = [layer._spec() for layer in self._layers]
        self._network = _core.Network(specs, input_size, self._seed, self._dtype.name)
        self._input_size = input_size

    def _forget(self) -> None:
        """Back to not knowing the number of input features."""
        self._network = None
        self._input_size = None

    @property
    def seed(self) -> int:
        """Seed of the initial parameters."""
        return self._seed

    def __repr__(self) -> str:
        """The call that makes the model."""
        layers = ", ".join(map(repr, self._layers))
        return (
            f"Sequential([{layers}], input_size={self._input_size}, seed={self._seed}, "
            f"dtype={self._dtype.name!r})"
        )

    def copy(self) -> Sequential:
        """A model of its own with the same parameters."""
        twin = Sequential(self._layers, seed=self._seed, dtype=self._dtype)
        if self._network is not None:
            twin._network = self._network.duplicate()
            twin._input_size = self._input_size
        return twin

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Sequential:
        """Definitions are immutable: a copy is deep."""
        return self.copy()

    def __reduce__(self) -> Any:
        """A pickle holds a model file."""
        if self._network is None:
            return partial(Sequential, self._layers, seed=self._seed, dtype=self._dtype.name), ()
        return _from_bytes, (self._write(None),)

    def _write(
        self,
        path: str | None,
        notes: Mapping[str, Any] | None = None,
        *,
        weights: str | None = None,
    ) -> bytes | None:
        """Writes a file, or returns its bytes; notes go into its metadata, as JSON."""
        network = self._require()
        metadata = {"ranvier.kind": "model", "ranvier.model": self._definition(), **(notes or {})}
        return network.save(contents(path, self._layers, network.tables(), metadata, weights))

    def _definition(self) -> dict[str, Any]:
        return {
            "layers": encode(self._layers),
            "input_size": self._input_size,
            "seed": self._seed,
            "dtype": self._dtype.name,
        }

    def save(self, path: Path, *, weights: str | None = None) -> None:
        """Writes the model to a file that `ranvier.load` reads: definition, parameters, statistics.

        The format is safetensors, with the names and the layout, (out, in), of torch's Sequential:
        `torch_model.load_state_dict(safetensors.torch.load_file(path))` takes it. The file is
        written beside its place, synced and renamed: a crash leaves the old file or the new one.

        Args:
            path: where to; a file that is there is replaced. The ending is usually ".safetensors".
            weights: None stores the weights of dense layers as they are; "bf16" the nearest
                bfloat16, half as large as float32; "int8" integers with a scale for each output
                (see `ranvier.quantization`), a quarter. `ranvier.load` gives a model of the same
                dtype with the numbers that these stand for; torch takes files of "bf16" alone.

        Raises:
            OSError: the system refused, with its errno. What was at the path is still there.
            ArgumentError: another `weights`.
            NotFittedError: the model does not know its input_size yet.

        Example:
            >>> import os, tempfile, numpy as np, ranvier as rv
            >>> model = rv.Sequential([rv.Dense(2)], input_size=3)
            >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
            >>> model.save(path)
            >>> bool(np.all(rv.load(path).predict(np.eye(3)) == model.predict(np.eye(3))))
            True
        """
        if weights is not None and not isinstance(weights, str):
            raise DTypeError(f"weights: expected None or a string, got {weights!r}")
        self._write(path_of(path), weights=weights)

    def load_weights(self, path: Path) -> None:
        """Replaces all parameters by those of a safetensors file with torch's names.

        The file may come from elsewhere: `safetensors.torch.save_file(torch_model.state_dict(),
        path)` for a `torch.nn.Sequential` of the same layers. Tensors are float32 or float64.

        Raises:
            FileFormatError: the file is damaged, a tensor is missing, superfluous or of another
                shape or type. Nothing has changed.
            ArgumentError: a number is not finite. Nothing has changed.
            OSError: the system refused.
        """
        file = _core.File(path_of(path), None, False)
        found = {name: (dtype, tuple(shape)) for name, dtype, shape in file.tensors()}
        own = self._shapes()
        names = dict(zip(own, torch_names(self._layers, list(own)), strict=True))
        if narrow := sorted({dtype for dtype, _ in found.values()} & {"I8", "BF16"}):
            raise FileFormatError(
                f"{path}: expected F32 or F64, got {' and '.join(narrow)}; ranvier.load reads "
                "what Sequential.save(weights=...) has written"
            )
        counters = {name for name in found if name.endswith(".num_batches_tracked")}
        if set(names.values()) != set(found) - counters:
            raise FileFormatError(
                f"{path}: expected tensors {list(names.values())}, got {sorted(found)}"
            )
        values = {}
        for name, theirs in names.items():
            dtype, shape = found[theirs]
            expected = own[name][::-1] or (1,)
            if dtype not in ("F32", "F64") or shape != expected:
                raise FileFormatError(
                    f"{path}: expected F32 or F64 of shape {expected} for {theirs!r}, "
                    f"got {dtype} of shape {shape}"
                )
            array = empty(shape, np.float32 if dtype == "F32" else np.float64)
            file.read(theirs, array)
            values[name] = array.T.reshape(own[name])
        self.set_parameters(values)

    def quantize(
        self,
        X: ArrayLike,
        *,
        calibration: str = "min_max",
        percentile: float | None = None,
        keep_float: Sequence[int | str] = (),
    ) -> QuantizedSequential:
        """A network that predicts as this one does, its dense layers with 8-bit integers.

        Weights become int8 with one scale for each output, symmetric; the inputs of each dense
        layer uint8 with a scale and a zero point, whose range comes from the rows of X as they
        pass through this model. Equations and sources are in `ranvier.quantization`. The result is
        a quarter as large and, where products are most of the work and the processor has
        AVX512-VNNI, three to four times as fast.

        Args:
            X: (rows, input_size), finite: some hundred rows that are typical.
            calibration: what of a layer's inputs the integers reach: "min_max", the smallest to the
                largest; "percentile", all but a share of the smallest and the largest, which are
                clipped (none where only zeros would be left); "mse", the part of it in which
                rounding and clipping together err least, of a hundred sizes.
            percentile: of "percentile", from 50 to 100; None is 99.99.
            keep_float: dense layers that stay as they are: "first", "last", or their numbers.

        Returns:
            The network. It is in float32 where it is not in integers; this model does not change.

        Raises:
            ArgumentError: a value that the argument does not take, no dense layer to quantise, one
                of more than 66,311 inputs, whose sums 32 bits might not hold.
            ShapeError, DTypeError: X is no such array.
            NotFittedError: the model does not know its input_size yet.

        Example:
            >>> import numpy as np, ranvier as rv
            >>> X = np.random.default_rng(0).normal(size=(200, 8)).astype("float32")
            >>> model = rv.Sequential([rv.Dense(32, activation="relu"), rv.Dense(3)], input_size=8)
            >>> small = model.quantize(X)
            >>> small.parameters()["0.weight"].dtype
            dtype('int8')
            >>> bool(abs(small.predict(X) - model.predict(X)).max() < 0.2)
            True

        A row with NaN gives NaN; infinities are clipped to the range.
        """
        from .quantization import quantize

        return quantize(
            self, X, calibration=calibration, percentile=percentile, keep_float=keep_float
        )

    def to_torch(self) -> torch.nn.Sequential:
        """A `torch.nn.Sequential` of the same layers and parameters, in evaluation mode.

        A Dense layer with an activation becomes two modules; everything else becomes one, of
        torch's own but for Standardize and GaussianNoise, which torch does not have: their small
        modules come with ranvier. Parameters are copied, in the model's dtype, on the CPU;
        `load_state_dict` takes a file of `save`. Call `train()` before going on with training.

        Returns:
            The module. Predictions agree to 1e-6 of the largest in float32, to 1e-12 in float64.
            What a Dense has for training only (l1, l2, max_norm, non_negative) is left out and
            logged.

        Raises:
            NotFittedError: the model does not know its input_size yet.
            MissingDependencyError: torch is not installed.

        Example:
            >>> import torch
            >>> import ranvier as rv
            >>> model = rv.Sequential([rv.Dense(8, activation="relu"), rv.Dense(1)], input_size=3)
            >>> model.to_torch()
            Sequential(
              (0): Linear(in_features=3, out_features=8, bias=True)
              (1): ReLU()
              (2): Linear(in_features=8, out_features=1, bias=True)
            )

        The way back is `ranvier.from_torch`. Differences in training: torch's BatchNorm knows no
        sample weights and refuses a batch of one row.
        """
        from .interchange._torch import to_torch

        return to_torch(self)

    def to_sklearn(
        self, classes: ArrayLike | None = None, *, multilabel: bool = False, **options: Any
    ) -> Any:
        """A fitted `sklearn.neural_network` estimator with the same parameters.

        It predicts, pickles and clones without ranvier, and goes on where scikit-learn can: `fit`
        with warm_start=True, and `partial_fit`. scikit-learn itself has trained it for no epoch yet
        (`n_iter_` is 0), and its `loss_` is NaN.

        Args:
            classes: labels of the outputs, in their order; None makes an MLPRegressor. One output
                has two: it is the logit of the second. Of two outputs scikit-learn keeps the
                difference. A softmax or sigmoid at the end may be there or not.
            multilabel: a classifier of which each output is a label of its own, so that y has a
                column for each.
            options: parameters of the estimator, such as solver, alpha, warm_start, random_state;
                loss="poisson" says that the raw outputs are logarithms.

        Returns:
            MLPClassifier or MLPRegressor. With a Standardize of inputs, a Pipeline of a
            StandardScaler and it; with one of targets, a TransformedTargetRegressor around that.
            What predictions do not need and scikit-learn does not have (Dropout, GaussianNoise, l1,
            l2, max_norm, non_negative, a missing bias) is left out and logged.

        Raises:
            ArgumentError: a layer that scikit-learn does not have, hidden activations that differ
                or are none of identity, sigmoid, tanh and relu, other labels than the outputs
                need, an option that scikit-learn refuses.
            NotFittedError: the model does not know its input_size yet.
            MissingDependencyError: scikit-learn is not installed.

        Example:
            >>> import ranvier as rv
            >>> X, y = rv.datasets.load_digits()
            >>> model = rv.Sequential([rv.Dense(32, activation="relu"), rv.Dense(10)])
            >>> history = model.fit(X, y, loss="cross_entropy", epochs=5)
            >>> clf = model.to_sklearn(classes=range(10), random_state=0)
            >>> bool((clf.predict(X) == model.predict(X).argmax(axis=1)).all())
            True

        The way back is `ranvier.from_sklearn`.
        """
        from .interchange._sklearn import to_sklearn

        return to_sklearn(self, classes, multilabel, options)

    def _outputs(self, input_size: int) -> int:
        """Number of outputs, also where input_size is not known yet."""
        widths = [layer.units for layer in self._layers if isinstance(layer, Dense)]
        return widths[-1] if widths else input_size

    def set_parameters(self, parameters: Mapping[str, ArrayLike]) -> None:
        """Replaces parameters by name; those that are not named stay.

        Args:
            parameters: arrays of the shapes that `parameters` shows; finite numbers.

        Raises:
            ArgumentError: an unknown name, a value that is not finite, or a negative variance of
                Standardize.
            ShapeError: a shape that is not the parameter's. Nothing has changed.
        """
        network = self._require()
        if not isinstance(parameters, Mapping):
            raise DTypeError(
                f"parameters: expected arrays by parameter name, got {type(parameters).__name__}"
            )
        shapes = self._shapes()
        order = {name: index for index, name in enumerate(shapes)}
        values = []
        for name, value in parameters.items():
            if name not in shapes:
                raise ArgumentError(
                    f"parameters: expected names among {list(shapes)}, got {name!r}"
                )
            array = numeric(value, f"parameters[{name!r}]", self._dtype)
            if array.shape != shapes[name]:
                raise ShapeError(
                    f"parameters[{name!r}]: expected shape {shapes[name]}, got {array.shape}"
                )
            with np.errstate(over="ignore"):
                array = np.atleast_1d(array.astype(self._dtype))
            if not np.isfinite(array).all():
                raise ArgumentError(
                    f"parameters[{name!r}]: expected finite {self._dtype} numbers, got others"
                )
            number, _, role = name.partition(".")
            standard = isinstance(self._layers[int(number)], Standardize)
            if standard and role == "running_var" and (array < 0).any():
                raise ArgumentError(
                    f"parameters[{name!r}]: expected variances, 0 or more, got {array.min()}"
                )
            values.append((order[name], array))
        network.write(values)

    def value_and_gradient(
        self,
        X: ArrayLike,
        y: Any,
        *,
        loss: LossLike,
        sample_weight: ArrayLike | None = None,
        training: bool = False,
        step: int = 0,
    ) -> tuple[float, Gradients]:
        """The loss of all rows as one batch, and its gradients. Nothing in the model changes.

        Args:
            X: (rows, input_size), finite.
            y: targets as the loss takes them.
            loss: a name, an object of `ranvier.losses`, or a custom loss.
            sample_weight: (rows,), 0 or more, not all 0.
            training: use the batch's statistics in BatchNorm, drop values in Dropout and add noise
                in GaussianNoise. The running statistics of BatchNorm move in a `Trainer` only.
            step: number that chooses what is dropped and added, together with the model's seed (a
                Trainer of that seed does the same in epoch `step`).

        Returns:
            The value, and gradients by parameter name; `gradients.d_input` is the input's.

        Example:
            >>> import numpy as np, ranvier as rv
            >>> model = rv.Sequential([rv.Dense(1, weight_init="ones")], input_size=2)
            >>> value, gradients = model.value_and_gradient([[1.0, 2.0]], [0.0], loss="mse")
            >>> value, gradients["0.weight"].ravel().tolist(), gradients.d_input.tolist()
            (9.0, [6.0, 12.0], [[6.0, 6.0]])
        """
        network = self._require()
        x = self._features(X, rows=True)
        chosen = get_loss(loss)
        arrays = arrays_of(x, y, sample_weight, chosen, self._dtype)
        spec = core_loss(chosen, self, x.shape[0], [arrays])
        shapes = {name: tuple(shape) for name, shape in network.tables()[0]}
        gradients = {name: empty(shape, self._dtype) for name, shape in shapes.items()}
        d_input = empty(x.shape, self._dtype)
        value = network.value_and_gradient(
            arrays,
            spec,
            boolean(training, "training"),
            self._seed,
            integer(step, "step", least=0, most=2**32 - 1),
            [np.atleast_1d(gradient) for gradient in gradients.values()],
            d_input,
        )
        return value, Gradients(gradients, d_input)

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        loss: LossLike,
        optimizer: OptimizerLike = "adam",
        metrics: list[MetricLike] | None = None,
        seed: int | None = 0,
        **options: Any,
    ) -> History:
        """Trains by a `Trainer` made for this call: `Trainer(self, ...).fit(X, y, **options)`.

        Options: epochs=1, batch_size=32, accumulate=1, shuffle=True, validation_data,
        validation_split, sample_weight, class_weight, monitor, restore_best_weights, max_steps,
        max_time, callbacks, raise_on_interrupt=True; see `Trainer.fit`. To score, or to go on
        later, keep a `Trainer` yourself.

        Example:
            >>> import numpy as np, ranvier as rv
            >>> X = np.linspace(-1, 1, 64)[:, None]
            >>> model = rv.Sequential([rv.Dense(16, activation="tanh"), rv.Dense(1)])
            >>> adam = rv.Adam(learning_rate=0.01)
            >>> history = model.fit(X, X**2, loss="mse", optimizer=adam, epochs=200)
            >>> history["loss"][-1] < 0.01
            True
        """
        from .trainer import Trainer

        trainer = Trainer(self, loss=loss, optimizer=optimizer, metrics=metrics, seed=seed)
        return trainer.fit(X, y, **options)


def _restore(reader: Reader, model: dict[str, Any]) -> Sequential:
    layers = decode(model["layers"])
    twin = Sequential(layers, seed=model["seed"], dtype=model["dtype"])
    if any(not isinstance(layer, Layer) for layer in twin._layers):
        raise ValueError("a layer that is none")
    size = integer(model["input_size"], "input_size", least=1, most=2**31)
    specs = [layer._spec() for layer in layers]
    tables = _core.tables(specs, size, twin._dtype.name)
    names = torch_names(layers, [name for table in tables for name, _ in table])
    reader.refuse_others(names, len(tables[0]))
    twin._network = _core.Network.load(specs, size, twin._dtype.name, reader.file, names)
    twin._input_size = size
    return twin


def read_model(reader: Reader) -> Sequential:
    """The model of a file."""
    if reader.metadata.get("ranvier.kind") == "quantized":
        raise reader.fault("a quantised network, no model; ranvier.load reads it")
    model: Sequential = reader.take("ranvier.model", partial(_restore, reader))
    return model


def read_predictor(reader: Reader) -> Sequential | QuantizedSequential:
    """The model of a file, quantised or not."""
    if reader.metadata.get("ranvier.kind") == "quantized":
        from .quantization import read_quantized

        return read_quantized(reader)
    return read_model(reader)


def load(path: Path) -> Sequential | Any:
    """The model of a file that `Sequential.save` or `Trainer.save` has written.

    Args:
        path: the file. It is read whole and its checksum compared; nothing in it is executed.

    Returns:
        The model; a `QuantizedSequential` where that was saved. To a type checker it is a
        Sequential or Any, so that a program that knows what it loads goes on without isinstance.

    Raises:
        FileFormatError: the file is damaged, or none of ranvier's; the message says what is wrong.
        OSError: the system refused, with its errno.
    """
    return read_predictor(Reader(path))


def _from_bytes(data: bytes) -> Sequential:
    """The model of a pickle."""
    return read_model(Reader(data))


def core_loss(
    loss: Loss | CustomLoss,
    model: Predictor,
    rows: int,
    data: Sequence[dict[str, Any]],
) -> Any:
    """The loss as the core takes it; a custom one in an adapter for `rows` rows at a time."""
    if isinstance(loss, Loss):
        return loss._spec()
    adapter = Adapter(loss, model.output_size, rows, model.dtype)
    for arrays in data:
        adapter.add(arrays)
    return adapter.spec()


def checked_model(model: Any) -> Sequential:
    """The model, if it is one."""
    if not isinstance(model, Sequential):
        raise DTypeError(f"model: expected a ranvier.Sequential, got {type(model).__name__}")
    return model


def _checked_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    try:
        # None would be NumPy's default.
        checked = np.dtype(object if dtype is None else dtype)
    except Exception:
        checked = np.dtype(object)
    if checked not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ArgumentError(f"dtype: expected 'float32' or 'float64', got {dtype!r}")
    return np.dtype(checked.name)
