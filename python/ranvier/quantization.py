"""Quantisation: networks whose dense layers multiply 8-bit integers.

    >>> import ranvier as rv
    >>> X, y = rv.datasets.load_digits()
    >>> model = rv.Sequential([rv.Dense(64, activation="relu"), rv.Dense(10)])
    >>> history = model.fit(X, y, loss="cross_entropy", epochs=10)
    >>> small = model.quantize(X[:500])
    >>> report = rv.quantization_report(model, small, X, y)
    >>> report.agreement > 0.99
    True

A weight w of output o is s_o·q with an integer q from −127 to 127 and s_o = max|w| / 127 over the
output's weights. An input x of a layer is s·(q − z) with an integer q from 0 to 255; s and z come
from calibration rows, and 0 is always represented exactly. So a layer's outputs before the
activation are

    y_o = s·s_o·Σ_i (q_i − z)·q_io + b_o

(Jacob et al. 2018, with one scale for each output, as Krishnamoorthi 2018 advises). The sum is one
of integers in 32 bits: exact, in any order, so that outputs have the same bits on every instruction
set, whatever the threads or the batch. Everything else is float32, with the functions that the
model has. Differences to other frameworks: PyTorch's default observer for x86 halves the range of
inputs, because the product of its AVX2 kernels saturates; here nothing does. onnxruntime rounds
x / s where this multiplies by 1/s, so that inputs halfway between two integers may differ by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import gcd
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from ._arrays import Array, empty, integer, real
from ._files import Path, Reader, contents, decode, encode, path_of, torch_names
from ._pictures import axes
from ._predictor import Predictor, of_layer
from .errors import ArgumentError, DTypeError
from .layers import Dense, Layer
from .losses import LossLike, arrays_of
from .losses import get as get_loss
from .metrics import R2, MetricLike, suits
from .metrics import get as get_metrics
from .model import Sequential, core_loss

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

__all__ = ["QuantizationReport", "QuantizedSequential", "quantization_report"]

# Rows of calibration that the mean-square-optimal range is sought on, as numbers.
_SAMPLE = 1 << 16
# Share of the values that "percentile" keeps within the range, in per cent.
_PERCENTILE = 99.99


class QuantizedSequential(Predictor):
    """A network whose dense layers multiply 8-bit integers; made by `Sequential.quantize`.

    It predicts, is saved and loaded, copied and pickled. It is not trained: fine-tune the model
    that it comes from, with `Trainer(..., quantization="int8")`.

    Attributes:
        integer_layers: numbers of the layers that multiply integers.
    """

    integer_layers: tuple[int, ...]

    def __init__(
        self, layers: Sequence[Layer], integer_layers: Sequence[int], network: _core.Network
    ) -> None:
        self._layers = tuple(layers)
        self.integer_layers = tuple(integer_layers)
        self._dtype = np.dtype(np.float32)
        self._network = network
        self._input_size = network.input_size

    def __repr__(self) -> str:
        """Layers, and which of them multiply integers."""
        layers = ", ".join(map(repr, self._layers))
        return (
            f"QuantizedSequential([{layers}], input_size={self._input_size}, "
            f"integer_layers={self.integer_layers})"
        )

    def parameters(self) -> dict[str, Array]:
        """Copies of all parameters by name.

        Of layers that multiply integers: "0.weight", int8 (in, out); "0.weight_scale", float32
        (out,); "0.input_scale", float32 (); "0.input_zero_point", uint8 (); and "0.bias". All
        others are as those of a `Sequential`.
        """
        arrays = super().parameters()
        for number in self.integer_layers:
            for role, kind in (("weight", np.int8), ("input_zero_point", np.uint8)):
                name = f"{number}.{role}"
                arrays[name] = arrays[name].astype(kind)
        return arrays

    def copy(self) -> QuantizedSequential:
        """A network of its own with the same parameters."""
        network = self._require().duplicate()
        return QuantizedSequential(self._layers, self.integer_layers, network)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> QuantizedSequential:
        """Definitions are immutable: a copy is deep."""
        return self.copy()

    def __reduce__(self) -> Any:
        """A pickle holds a file."""
        return _from_bytes, (self._write(None),)

    def save(self, path: Path) -> None:
        """Writes a file that `ranvier.load` reads, a quarter as large as the model's.

        The format is that of `Sequential.save`; weights are int8, (out, in).

        Raises:
            OSError: the system refused, with its errno. What was at the path is still there.
        """
        self._write(path_of(path))

    def _write(self, path: str | None, notes: Mapping[str, Any] | None = None) -> bytes | None:
        """Writes a file, or returns its bytes; notes go into its metadata, as JSON."""
        network = self._require()
        definition = {
            "layers": encode(self._layers),
            "input_size": self._input_size,
            "integer_layers": list(self.integer_layers),
        }
        metadata = {"ranvier.kind": "quantized", "ranvier.model": definition, **(notes or {})}
        return network.save(contents(path, self._layers, network.tables(), metadata))


def _bare(layer: Layer) -> Layer:
    """The layer without its draw of weights, for one whose parameters are there."""
    return replace(layer, weight_init="zeros") if isinstance(layer, Dense) else layer


def _specs(layers: Sequence[Layer], integer_layers: Sequence[int]) -> list[dict[str, Any]]:
    return [
        layer._spec() | ({"integer": True} if number in integer_layers else {})
        for number, layer in enumerate(layers)
    ]


def built(
    layers: Sequence[Layer], integer_layers: Sequence[int], size: int, values: dict[str, Array]
) -> QuantizedSequential:
    """A network with those of the values, numbers by name, that belong to its layers."""
    specs = _specs([_bare(layer) for layer in layers], integer_layers)
    network = _core.Network(specs, size, 0, "float32")
    names = [name for table in network.tables() for name, _ in table]
    arrays = [np.atleast_1d(np.ascontiguousarray(values[name], np.float32)) for name in names]
    network.write(list(enumerate(arrays)))
    return QuantizedSequential(layers, integer_layers, network)


def _restore(reader: Reader, model: dict[str, Any]) -> QuantizedSequential:
    layers, numbers = decode(model["layers"]), model["integer_layers"]
    if not layers or any(not isinstance(layer, Layer) for layer in layers):
        raise ValueError("a layer that is none")
    dense = {number for number, layer in enumerate(layers) if isinstance(layer, Dense)}
    if numbers != sorted(dense.intersection(numbers)):
        raise ValueError(f"integer_layers {numbers!r}")
    size = integer(model["input_size"], "input_size", least=1, most=2**31)
    specs = _specs(layers, numbers)
    tables = _core.tables(specs, size, "float32")
    names = torch_names(layers, [name for table in tables for name, _ in table])
    reader.refuse_others(names, len(tables[0]))
    network = _core.Network.load(specs, size, "float32", reader.file, names)
    quantized = QuantizedSequential(layers, numbers, network)
    parameters = Predictor.parameters(quantized)
    for number in numbers:
        zero = parameters[f"{number}.input_zero_point"]
        scales = [parameters[f"{number}.{role}"] for role in ("input_scale", "weight_scale")]
        if not 0 <= zero <= 255 or zero != np.rint(zero) or any((s <= 0).any() for s in scales):
            raise ValueError(f"no scale or zero point in layer {number}")
        if (parameters[f"{number}.weight"] < -127).any():
            raise ValueError(f"a weight of -128 in layer {number}")
    return quantized


def read_quantized(reader: Reader) -> QuantizedSequential:
    """The quantised network of a file."""
    network: QuantizedSequential = reader.take("ranvier.model", partial(_restore, reader))
    return network


def _from_bytes(data: bytes) -> QuantizedSequential:
    """The network of a pickle."""
    return read_quantized(Reader(data))


# ---------------------------------------------------------------- calibration


def _min_max(values: Array) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _percentile(percentile: float, values: Array) -> tuple[float, float]:
    low, high = np.percentile(values, [100.0 - percentile, percentile])
    # Of values that are nearly all 0, it would keep zeros alone.
    return (float(low), float(high)) if low < 0.0 or high > 0.0 else _min_max(values)


def _mse(values: Array) -> tuple[float, float]:
    """The part of the range whose rounding and clipping err least, of a hundred."""
    low, high = _min_max(values)
    low, high = min(low, 0.0), max(high, 0.0)
    # A step without a common factor with the number of columns comes to all of them.
    step = -(-values.size // _SAMPLE)
    while gcd(step, values.shape[1]) > 1:
        step += 1
    values = values.ravel()[::step].astype(np.float64)
    best, chosen = np.inf, (low, high)
    for share in np.arange(100, 0, -1) / 100:
        scale, zero = _core.input_map(low * share, high * share)
        rounded = np.rint(np.clip(values / scale, -zero, 255 - zero)) * scale
        error = float(np.square(rounded - values).mean())
        if error < best:
            best, chosen = error, (low * share, high * share)
    return chosen


RANGES: dict[str, Callable[[Array], tuple[float, float]]] = {
    "min_max": _min_max,
    "percentile": partial(_percentile, _PERCENTILE),
    "mse": _mse,
}


def _range_of(calibration: Any, percentile: Any) -> Callable[[Array], tuple[float, float]]:
    if not isinstance(calibration, str) or calibration not in RANGES:
        raise ArgumentError(
            f"calibration: expected one of {', '.join(RANGES)}, got {calibration!r}"
        )
    if percentile is None:
        return RANGES[calibration]
    if calibration != "percentile":
        raise ArgumentError(
            f"percentile: expected it with calibration='percentile', got {calibration!r}"
        )
    share = real(percentile, "percentile", least=50.0, most=100.0)
    return partial(_percentile, share)


def _kept(keep_float: Any, dense: Sequence[int]) -> set[int]:
    """Numbers of the layers that stay as they are."""
    ends = {"first": dense[0], "last": dense[-1]}
    if isinstance(keep_float, np.ndarray | np.integer):
        keep_float = keep_float.tolist()
    if isinstance(keep_float, str | int):
        keep_float = (keep_float,)
    if not isinstance(keep_float, Sequence):
        raise DTypeError(
            f"keep_float: expected a list of 'first', 'last' and numbers of layers, "
            f"got {keep_float!r:.100}"
        )
    kept = set()
    for entry in keep_float:
        number: Any = ends.get(entry) if isinstance(entry, str) else entry
        integral = isinstance(number, int | np.integer) and not isinstance(number, bool)
        if not integral or number not in dense:
            raise ArgumentError(
                f"keep_float: expected 'first', 'last' or numbers of Dense layers "
                f"({', '.join(map(str, dense))}), got {entry!r}"
            )
        kept.add(int(number))
    return kept


def _single(values: Array) -> Array:
    """Values as a quantised network sees them; infinite where float32 holds none so large."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def stages(
    network: Sequential | QuantizedSequential, x: Array
) -> Iterator[tuple[int, Array, Array]]:
    """Each layer's number, its input and its output."""
    parameters = Predictor.parameters(network)
    for number, layer in enumerate(network.layers):
        own = {f"0.{role}": value for role, value in of_layer(parameters, number).items()}
        if isinstance(network, QuantizedSequential):
            integer_layers = [0] if number in network.integer_layers else []
            output = built([layer], integer_layers, x.shape[1], own).predict(x)
        else:
            alone = Sequential([_bare(layer)], input_size=x.shape[1], dtype=network.dtype)
            alone.set_parameters(own)
            output = alone.predict(x)
        yield number, x, output
        x = output


def quantize(
    model: Sequential,
    X: ArrayLike,
    *,
    calibration: str,
    percentile: float | None,
    keep_float: Any,
) -> QuantizedSequential:
    """See `Sequential.quantize`."""
    find = _range_of(calibration, percentile)
    x = model._features(X, rows=True).astype(model.dtype)
    if not np.isfinite(_single(x)).all():
        raise ArgumentError("X: expected finite numbers of float32 to calibrate with, got others")
    dense = [number for number, layer in enumerate(model.layers) if isinstance(layer, Dense)]
    if not dense:
        raise ArgumentError(
            f"model: expected a Dense layer to quantise, got {list(model.layers)!r:.200}"
        )
    kept = _kept(keep_float, dense)
    numbers = [number for number in dense if number not in kept]
    if not numbers:
        raise ArgumentError(f"keep_float: expected a layer left to quantise, got {keep_float}")
    model._require()
    values = {name: _single(array) for name, array in model.parameters().items()}
    if not all(np.isfinite(array).all() for array in values.values()):
        raise ArgumentError("model: expected parameters that float32 can hold, got larger ones")
    for number, inputs, _ in stages(model, x):
        if number in numbers:
            inputs = _single(inputs)
            if not np.isfinite(inputs).all():
                raise ArgumentError(
                    f"X: expected rows that give finite inputs of layer {number}, got others"
                )
            weight = values[f"{number}.weight"]
            scales = empty((weight.shape[1],), np.float32)
            _core.quantize_weights(weight, scales)
            scale, zero = _core.input_map(*find(inputs))
            values[f"{number}.weight_scale"] = scales
            values[f"{number}.input_scale"] = np.asarray(scale, np.float32)
            values[f"{number}.input_zero_point"] = np.asarray(zero, np.float32)
    return built(model.layers, numbers, x.shape[1], values)


# ---------------------------------------------------------------- report


@dataclass(frozen=True, repr=False)
class QuantizationReport:
    """How far a quantised network agrees with its model.

    Attributes:
        sizes: bytes of the model's file in its dtype and of the quantised one's.
        before: loss and metrics of the model, by name; empty where no y was given.
        after: those of the quantised network.
        max_deviations: by layer, the largest absolute difference of its outputs.
        mean_deviations: by layer, the mean absolute difference.
        scales: by layer, the largest absolute output of the model.
        agreement: share of the rows in which the largest output, or of one output the side of 0,
            is the same.
        rows: how many rows were looked at.
        layers: a name for each layer.
    """

    sizes: tuple[int, int]
    before: dict[str, float]
    after: dict[str, float]
    max_deviations: tuple[float, ...]
    mean_deviations: tuple[float, ...]
    scales: tuple[float, ...]
    agreement: float
    rows: int
    layers: tuple[str, ...]

    def __str__(self) -> str:
        """A table of the layers, and a line for each figure."""
        width = max(len(name) for name in self.layers)
        lines = [f"{'layer':{width}}  largest deviation  mean deviation  largest output"]
        rows = zip(self.layers, self.max_deviations, self.mean_deviations, self.scales, strict=True)
        lines += [f"{name:{width}}  {a:17.2e}  {b:14.2e}  {c:14.2e}" for name, a, b, c in rows]
        model, small = self.sizes
        lines.append(f"size {model} -> {small} bytes ({small / model:.2f})")
        for name, figure in self.before.items():
            lines.append(f"{name} {figure:.6g} -> {self.after[name]:.6g}")
        lines.append(
            f"the same class (largest output, or sign of a single one) in "
            f"{100 * self.agreement:.2f} % of {self.rows} rows"
        )
        return "\n".join(lines)

    __repr__ = __str__

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draws the deviations of each layer, relative to its largest output.

        Args:
            ax: matplotlib's axes; None makes a figure.

        Returns:
            The axes.

        Raises:
            MissingDependencyError: matplotlib is not installed.
        """
        ax = axes(ax, (6.4, 1.4 + 0.35 * len(self.layers)))
        places = np.arange(len(self.layers))
        scales = np.maximum(self.scales, np.finfo(np.float32).tiny)
        both = (self.max_deviations, self.mean_deviations)
        largest, mean = (100 * np.array(deviations) / scales for deviations in both)
        ax.barh(places, largest, color="C0", height=0.7, label="largest")
        ax.barh(places, mean, color="C1", height=0.35, label="mean")
        ax.set_yticks(places, list(self.layers))
        ax.set_ylim(len(places) - 0.4, -0.6)
        ax.set_xlabel("deviation of the outputs, % of the largest")
        ax.set_xlim(left=0.0)
        ax.grid(axis="x", alpha=0.3)
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
        return ax


def quantization_report(
    model: Sequential,
    quantized: QuantizedSequential,
    X: ArrayLike,
    y: Any = None,
    *,
    loss: LossLike | None = None,
    metrics: list[MetricLike] | None = None,
) -> QuantizationReport:
    """Compares a quantised network with the model that it was made from.

    Args:
        model: the model.
        quantized: what `model.quantize` has given.
        X: (rows, input_size), finite; best rows that calibration has not seen.
        y: targets as the loss takes them; None leaves loss and metrics out.
        loss: what y is to be measured by, a name or an object of `ranvier.losses`; None is
            "cross_entropy" where y are integers and there are several outputs,
            "binary_cross_entropy" where they are 0 and 1 and there is one, else "mse".
        metrics: as for `Trainer`.

    Returns:
        A `QuantizationReport`; `print` shows it, `plot()` draws it.

    Raises:
        DTypeError, ShapeError, ArgumentError: an argument that is none of these.

    Example:
        >>> import numpy as np, ranvier as rv
        >>> X = np.random.default_rng(0).normal(size=(500, 4))
        >>> model = rv.Sequential([rv.Dense(16, activation="tanh"), rv.Dense(1)])
        >>> history = model.fit(X, X[:, 0], loss="mse", epochs=20)
        >>> report = rv.quantization_report(model, model.quantize(X), X, X[:, 0])
        >>> report.after["r2"] > report.before["r2"] - 0.01
        True
    """
    if not isinstance(model, Sequential):
        raise DTypeError(f"model: expected a ranvier.Sequential, got {type(model).__name__}")
    if not isinstance(quantized, QuantizedSequential):
        raise DTypeError(
            f"quantized: expected what model.quantize gives, got {type(quantized).__name__}"
        )
    if quantized.layers != model.layers or quantized.input_size != model.input_size:
        raise ArgumentError(
            "quantized: expected the layers of the model, got "
            f"{quantized!r:.300} for {model!r:.300}"
        )
    if y is None and (loss is not None or metrics is not None):
        raise ArgumentError("y: expected targets with loss and metrics, got None")
    x = model._features(X, rows=True).astype(model.dtype)
    if not np.isfinite(x).all():
        raise ArgumentError("X: expected finite numbers, got others")
    deviations, scales = [], []
    both = zip(stages(model, x), stages(quantized, x), strict=True)
    for (number, _, output), (_, _, small) in both:
        if not np.isfinite(output).all():
            raise ArgumentError(
                f"X: expected rows that give finite outputs of layer {number}, got others"
            )
        difference = np.abs(small.astype(np.float64) - output)
        deviations.append((float(difference.max()), float(difference.mean())))
        scales.append(float(np.abs(output).max()))
    one, other = (z.argmax(axis=1) if z.shape[1] > 1 else z[:, 0] > 0 for z in (output, small))
    chosen = _loss_for(y, model.output_size) if loss is None else loss

    def measured(network: Predictor) -> dict[str, float]:
        return {} if y is None else figures(network, x, y, chosen, metrics)

    def size(network: Sequential | QuantizedSequential) -> int:
        return len(network._write(None) or b"")

    return QuantizationReport(
        sizes=(size(model), size(quantized)),
        before=measured(model),
        after=measured(quantized),
        max_deviations=tuple(largest for largest, _ in deviations),
        mean_deviations=tuple(mean for _, mean in deviations),
        scales=tuple(scales),
        agreement=float((one == other).mean()),
        rows=len(x),
        layers=tuple(
            f"{number} {type(layer).__name__}{' int8' * (number in quantized.integer_layers)}"
            for number, layer in enumerate(model.layers)
        ),
    )


def _loss_for(y: Any, outputs: int) -> str:
    target = np.asarray(y)
    if target.dtype.kind in "iub" and target.size:
        if outputs > 1 and target.ndim == 1:
            return "cross_entropy"
        if outputs == 1 and {*np.unique(target).tolist()} <= {0, 1}:
            return "binary_cross_entropy"
    return "mse"


def figures(
    network: Predictor, x: Array, y: Any, loss: LossLike, metrics: list[MetricLike] | None
) -> dict[str, float]:
    """Loss and metrics of the core, by name."""
    chosen = get_loss(loss)
    wanted = get_metrics(metrics, chosen)
    if metrics is None and not wanted and suits(R2(), chosen):
        wanted = (R2(),)
    arrays = arrays_of(x, y, None, chosen, network.dtype)
    specs = [metric._spec() for metric in wanted]
    known = [spec for spec in specs if spec is not None]
    if len(known) != len(specs):
        raise ArgumentError("metrics: expected those of ranvier.metrics, got functions")
    value, found = network._require().evaluate(
        arrays, core_loss(chosen, network, len(x), [arrays] * 2), known
    )
    names = [metric.name for metric in wanted]
    return {"loss": value} | dict(zip(names, found, strict=True))
