"""Models as ONNX files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .. import _core, activations
from .._arrays import Array, boolean, integer
from .._files import Path, path_of
from .._predictor import Predictor
from ..errors import ArgumentError, DTypeError, MissingDependencyError
from ..layers import (
    Activation,
    BatchNorm,
    Dense,
    Dropout,
    GaussianNoise,
    Layer,
    LayerNorm,
    Softmax,
    Standardize,
)
from ..model import Sequential
from ..quantization import QuantizedSequential
from ._agreement import Agreement, compared, not_run, rows_of
from ._onnx_forms import OLDEST, Expression, Input, Number, Op, Tensor, written
from ._writing import write_all

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

# LayerNormalization is an operator from here on. onnxruntime has known it since 1.12.
OPSET = 17
# What one protobuf message can hold, with a MiB for everything but parameters.
LARGEST = 2**31 - 2**20

# Of a form: its name, and what its tensors and numbers are.
Part: TypeAlias = tuple[str, dict[str, Any]]


def _required() -> Any:
    """The package onnx."""
    try:
        import onnx
        import onnx.checker
    except ImportError as error:
        raise MissingDependencyError(
            "rv.export.onnx needs onnx: pip install 'ranvier[onnx]'"
        ) from error
    return onnx


def onnx(
    model: Sequential | QuantizedSequential,
    path: Path,
    *,
    opset: int = OPSET,
    X: ArrayLike | None = None,
    check: bool = True,
) -> Agreement:
    """Writes a model as an ONNX file, and runs it beside the model.

    The graph has one input "X" (rows, input_size) and one output "output" (rows, outputs), both in
    the model's dtype, for any number of rows. It predicts: GaussianNoise is left out, Dropout is
    there and does nothing, and what a layer has for training only (l1, l2, max_norm, non_negative,
    initialisers) is not in it. `ranvier.from_onnx` reads it back. In float64 it is made of ops for
    which onnxruntime has float64 kernels.

    Of a quantised network, the layers that multiply integers are products between QuantizeLinear
    and DequantizeLinear (QDQ), from which runtimes make products of integers. onnxruntime's fastest
    adds a bias of 32-bit integers, so biases are rounded to multiples of the product of both
    scales: an error of at most 1/127 of what rounding one input can cost. They stay floats where
    they are so large that the sum could overflow, or the weights of an output all 0.

    The file is checked by `onnx.checker` with strict shape inference, written beside its place,
    synced and renamed.

    Args:
        model: what to write, as it is or quantised; it knows its input_size.
        path: where to; a file that is there is replaced. The ending is usually ".onnx".
        opset: version of ONNX's operators, from 13 to the newest of the installed package. The
            file's IR version is the least that allows it (8 for 17). Runtimes take all older
            versions, so a higher one is rarely of use.
        X: rows to run; None draws 64, with the scale of a Standardize layer's inputs.
        check: whether onnxruntime runs the file; where it is not installed the agreement says so.

    Returns:
        How far the file, run by onnxruntime on the CPU, agrees with `model.predict`.

    Raises:
        ArgumentError: an opset out of range; X with check=False; parameters that one file cannot
            hold (2 GiB).
        DTypeError, ShapeError: `model` is none; X does not suit it. Nothing is written.
        NotFittedError: the model does not know its input_size yet.
        MissingDependencyError: onnx is not installed.
        OSError: the system refused. What was at the path is still there.

    Example:
        >>> import os, tempfile, numpy as np, ranvier as rv
        >>> model = rv.Sequential([rv.Dense(8, activation="relu"), rv.Dense(3)], input_size=4)
        >>> path = os.path.join(tempfile.mkdtemp(), "model.onnx")
        >>> agreement = rv.export.onnx(model, path)
        >>> agreement.rows, agreement.max_error < 1e-6
        (64, True)

        >>> X = np.random.default_rng(0).normal(size=(500, 4))
        >>> quantized = model.quantize(X)
        >>> agreement = rv.export.onnx(quantized, path, X=X)
        >>> agreement.max_error < 0.02 * agreement.scale
        True

    Runtimes add up products in an order of their own, so the last digits differ. At −∞ silu,
    hard_swish, mish and gelu are NaN there (gelu in float64 is not), where ranvier has their limit,
    0.

    Sums of integers are exact, but where biases are rounded, the next layer's inputs may become
    other integers. Over 500 random networks the largest difference of a network was 4e-6 of the
    largest output in the median, 4e-4 in the mean and 0.024 at most, beside 6e-3 in the median that
    quantising had cost; every row had the same class. In onnxruntime NaN becomes an integer, and on
    x86 without VNNI its products saturate unless the session option "session.x64quantprecision" is
    "1", as it is in the comparison.
    """
    package = _required()
    if not isinstance(model, Sequential | QuantizedSequential):
        raise DTypeError(
            "model: expected a ranvier.Sequential or QuantizedSequential, "
            f"got {type(model).__name__}"
        )
    model._require()
    place = path_of(path)
    integer(opset, "opset", least=OLDEST, most=package.defs.onnx_opset_version())
    if not boolean(check, "check") and X is not None:
        raise ArgumentError("X: expected None with check=False, got rows")
    # Another thread may be training it.
    model = model.copy()
    rows = rows_of(model, X) if check else None
    write_all({place: _serialised(package, model, opset)})
    if rows is None:
        return not_run("onnx", (place,), "check=False")
    return _run(model, place, rows)


def _run(model: Predictor, path: str, rows: Array) -> Agreement:
    """The agreement of a file with its model on these rows."""
    try:
        import onnxruntime
    except ImportError:
        reason = "onnxruntime is not installed: pip install 'ranvier[onnx]'"
        return not_run("onnx", (path,), reason)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # On x86 without VNNI its products of integers saturate otherwise.
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"X": rows})
    except Exception as error:
        # An old runtime may not know a new opset; its exceptions have no base of their own.
        reason = f"onnxruntime {onnxruntime.__version__}: {type(error).__name__}: {error}"
        return not_run("onnx", (path,), reason)
    runner = f"onnxruntime {onnxruntime.__version__}"
    return compared("onnx", (path,), runner, model.predict(rows), found)


# ---------------------------------------------------------------- layers as parts


def _activation(activation: Any, values: dict[str, Array]) -> Iterator[Part]:
    name, number = activations.spec(activation)
    match name:
        case "identity":
            return
        case "leaky_relu":
            slope = activations.LeakyReLU.slope if number is None else number
            yield name, {"slope": slope}
        case "elu":
            yield name, {"alpha": activations.ELU.alpha if number is None else number}
        case "prelu":
            yield name, {"slope": values["slope"].reshape(1)}
        case _:
            yield name, {}


def _integers(tensors: dict[str, Any]) -> Part:
    """The form of a product of integers, whose bias is one of integers where they do for it."""
    scales, weight = tensors["weight_scale"], tensors["weight"]
    tensors = tensors | {"weight_zero_point": np.zeros(scales.shape, np.int8)}
    if "bias" not in tensors:
        return "integers_without_bias", tensors
    scale = tensors["input_scale"] * scales
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        steps = np.rint(tensors["bias"].astype(np.float64) / scale)
    # They are added to the sum, whose 32 bits are not to overflow. Of weights that are all 0 the
    # scale says nothing.
    most = 2**31 - 1 - 255 * 127 * len(weight)
    if not (np.abs(steps) <= most).all() or not weight.any(axis=0).all():
        return "integers_float_bias", tensors
    return "integers", tensors | {
        "bias": steps.astype(np.int32),
        "bias_scale": scale,
        "bias_zero_point": np.zeros(scales.shape, np.int32),
    }


def parts(layer: Layer, values: dict[str, Array]) -> Iterator[Part]:
    """The forms that a layer becomes, one behind the other, with its tensors and numbers."""
    match layer:
        case Dense():
            tensors: dict[str, Any] = {k: v for k, v in values.items() if k != "slope"}
            if "weight_scale" in values:
                yield _integers(tensors)
            else:
                yield ("dense" if layer.use_bias else "dense_without_bias"), tensors
            yield from _activation(layer.activation, values)
        case Activation(activation):
            yield from _activation(activation, values)
        case Softmax():
            yield "softmax", {}
        case Dropout(rate):
            yield "dropout", {"rate": rate}
        case GaussianNoise():
            return
        case LayerNorm():
            yield "layer_norm", values | {"eps": layer.eps}
        case BatchNorm():
            yield "batch_norm", values | {"eps": layer.eps, "kept": 1.0 - layer.momentum}
        case Standardize():
            # Of what was not measured the mean is 0 and the variance 1.
            measured = values["running_var"] > 0
            others = {"running_mean": 0, "running_var": 1}
            statistics = {
                role: np.where(measured, value, value.dtype.type(others[role]))
                for role, value in values.items()
            }
            yield f"standardize_{layer.of}", statistics
        case _:
            raise ArgumentError(f"model: expected a layer that ONNX can say, got {layer!r}")


# ---------------------------------------------------------------- parts as nodes


class _Graph:
    """Nodes and initializers, in their order."""

    def __init__(self, package: Any, dtype: np.dtype[Any]) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.last = "X"
        self._onnx = package
        self._dtype = dtype
        self._names: set[str] = set()

    def add(self, place: str, expression: Expression, values: dict[str, Any]) -> None:
        """One form behind the last one; its tensors get the place in front of their names."""
        done: dict[int, str] = {}
        self.last = self._tensor(place, expression, values, self.last, done)

    def finish(self, output: str) -> None:
        """The last node gives the output; without one, the identity."""
        if not self.nodes:
            self.nodes.append(self._onnx.helper.make_node("Identity", ["X"], [output], output))
        self.nodes[-1].output[0] = output

    def _tensor(
        self,
        place: str,
        expression: Expression,
        values: dict[str, Any],
        x: str,
        done: dict[int, str],
    ) -> str:
        """The name under which the value of an expression is found."""
        match expression:
            case Input():
                return x
            case Tensor(role):
                return self._constant(f"{place}.{role}", values[role])
            case Number(name):
                return self._constant(f"{place}.{name}", np.array(values[name], self._dtype))
            case tuple():
                name = "axes." + "_".join(map(str, expression))
                return self._constant(name, np.array(expression, np.int64))
            case float():
                return self._constant(f"constant.{expression!r}", np.array(expression, self._dtype))
            case Op(kind, inputs, attributes):
                if id(expression) not in done:
                    names = [self._tensor(place, part, values, x, done) for part in inputs]
                    options = {
                        name: values[value.name] if isinstance(value, Number) else value
                        for name, value in attributes.items()
                    }
                    output = self._new(f"{place}.{kind}")
                    self.nodes.append(
                        self._onnx.helper.make_node(kind, names, [output], output, **options)
                    )
                    done[id(expression)] = output
                return done[id(expression)]
        raise TypeError(f"no expression: {expression!r}")

    def _constant(self, name: str, value: Array) -> str:
        if name not in self._names:
            self._names.add(name)
            self.initializers.append(
                self._onnx.numpy_helper.from_array(np.asarray(value, order="C"), name)
            )
        return name

    def _new(self, name: str) -> str:
        number = 1
        chosen = name
        while chosen in self._names:
            number += 1
            chosen = f"{name}_{number}"
        self._names.add(chosen)
        return chosen


def _serialised(package: Any, model: Predictor, opset: int) -> bytes:
    """The bytes of the file, checked."""
    parameters = model.parameters()
    size = sum(value.nbytes for value in parameters.values())
    if size >= LARGEST:
        raise ArgumentError(
            "model: expected parameters that one ONNX file can hold, fewer than "
            f"{LARGEST} bytes, got {size}"
        )
    graph = _Graph(package, model.dtype)
    for number, layer in enumerate(model.layers):
        own = f"{number}."
        values = {
            name.removeprefix(own): value
            for name, value in parameters.items()
            if name.startswith(own)
        }
        for kind, contents in parts(layer, values):
            graph.add(str(number), written(kind, model.dtype.name, opset), contents)
    graph.finish("output")

    helper = package.helper
    element = helper.np_dtype_to_tensor_dtype(model.dtype)
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "ranvier",
            [helper.make_tensor_value_info("X", element, ["rows", model.input_size])],
            [helper.make_tensor_value_info("output", element, ["rows", model.output_size])],
            graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        producer_name="ranvier",
        producer_version=_core.__version__,
        doc_string=repr(model),
    )
    proto.ir_version = helper.find_min_ir_version_for(proto.opset_import)
    helper.set_model_props(
        proto,
        {
            "ranvier.version": _core.__version__,
            "ranvier.numerics": str(_core.NUMERICS_VERSION),
        },
    )
    package.checker.check_model(proto, full_check=True)
    data: bytes = proto.SerializeToString()
    return data
