"""Which ONNX ops a layer is: the one list that the writer writes from and the reader reads by.

A layer or an activation has forms: expressions of its input `X`. The writer takes the first one
that serves the dtype and the opset, the reader tries all. Some operators serve float32 only: those
for which onnxruntime has no kernel in float64, and those that keep a number of the layer in an
attribute, which ONNX has in float32 only. Forms of several operators then say the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from numpy.polynomial import Chebyshev, Polynomial

from ._coefficients import SELU_ALPHA, SELU_SCALE

# The oldest opset that is written. Softmax is along one axis from here on.
OLDEST = 13
NEWEST = 2**31

BOTH = ("float32", "float64")


@dataclass(frozen=True)
class Input:
    """What comes in."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of the layer's, by its role."""

    role: str


@dataclass(frozen=True)
class Number:
    """One number of the layer's, by its name: as an attribute, or as a tensor of one element."""

    name: str


@dataclass(frozen=True, eq=False)
class Op:
    """An operator on expressions. One object in two places is computed once."""

    kind: str
    inputs: tuple[Expression, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def size(self) -> int:
        """How many operators there are."""
        seen: set[Op] = set()
        waiting: list[Expression] = [self]
        while waiting:
            part = waiting.pop()
            if isinstance(part, Op) and part not in seen:
                seen.add(part)
                waiting += part.inputs
        return len(seen)


# A float is a constant in the layer's dtype, a tuple one of integers.
Expression: TypeAlias = Input | Tensor | Number | Op | float | tuple[int, ...]

X = Input()


def op(kind: str, *inputs: Expression, **attributes: Any) -> Op:
    """An operator on expressions."""
    return Op(kind, inputs, attributes)


@dataclass(frozen=True, eq=False)
class Form:
    """An expression with the dtypes and opsets that it is written for; none if it is only read."""

    expression: Op
    dtypes: tuple[str, ...] = BOTH
    since: int = OLDEST
    until: int = NEWEST

    def serves(self, dtype: str, opset: int) -> bool:
        """Whether it may be written."""
        return dtype in self.dtypes and self.since <= opset <= self.until


def _single(expression: Op, since: int = OLDEST) -> Form:
    """An operator that is written in float32."""
    return Form(expression, ("float32",), since)


def _read(expression: Op) -> Form:
    """What others write."""
    return Form(expression, ())


# ---------------------------------------------------------------- activations


def _above_zero(positive: Expression, other: Expression) -> Op:
    return op("Where", op("Greater", X, 0.0), positive, other)


def _elu(alpha: Expression) -> Op:
    """X above 0, alpha·(e^X − 1) elsewhere."""
    return _above_zero(X, op("Mul", op("Sub", op("Exp", op("Min", X, 0.0)), 1.0), alpha))


# max(X, 0) + ln(1 + e^−|X|), which cannot overflow.
_SOFTPLUS = op(
    "Add",
    op("Max", X, 0.0),
    op("Log", op("Add", op("Exp", op("Neg", op("Abs", X))), 1.0)),
)
_HARD_SIGMOID = op("HardSigmoid", X, alpha=1.0 / 6.0, beta=0.5)
_CLIPPED = op("Clip", op("Add", X, 3.0), 0.0, 6.0)
_ERF = op("Add", op("Erf", op("Div", X, math.sqrt(2.0))), 1.0)


def _gelu_tanh_inner(inner: Op) -> Op:
    return op("Add", op("Tanh", op("Mul", inner, math.sqrt(2.0 / math.pi))), 1.0)


_CUBIC = op("Add", X, op("Mul", op("Mul", op("Mul", X, X), X), 0.044715))
_POWER = op("Add", X, op("Mul", op("Pow", X, 3.0), 0.044715))


def _gelu() -> Op:
    """X·Φ(X) in float64, for which onnxruntime has no Erf.

    With z = min(|X|, 9) and t = 1/(1 + 0.3 z), ln Φ(−z) + z²/2 is smooth in t: a polynomial of
    degree 26 through its Chebyshev nodes errs by 5e-16. Below −9, where X·Φ(X) is under 1.1e-18, X
    counts as −9.
    """
    slope, far = 0.3, 9.0

    def logarithm(t: Any) -> Any:
        z = (1.0 / t - 1.0) / slope
        return [math.log(math.erfc(v / math.sqrt(2.0)) / 2.0) + v * v / 2.0 for v in z]

    fit = Chebyshev.interpolate(logarithm, 26, domain=[1.0 / (1.0 + slope * far), 1.0])
    offset, scale = fit.mapparms()
    z = op("Min", op("Abs", X), far)
    t = op("Div", 1.0, op("Add", op("Mul", z, slope), 1.0))
    y = op("Add", op("Mul", t, float(scale)), float(offset))
    window = fit.convert(kind=Polynomial, domain=fit.domain, window=fit.window)
    coefficients = [float(value) for value in window.coef]
    polynomial: Expression = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        polynomial = op("Add", op("Mul", polynomial, y), coefficient)
    tail = op("Exp", op("Sub", polynomial, op("Mul", op("Mul", z, z), 0.5)))
    return op("Mul", op("Max", X, -far), _above_zero(op("Sub", 1.0, tail), tail))


def _half(factor: Op) -> list[Op]:
    """0.5·X·factor, in the orders in which it is met."""
    return [
        op("Mul", op("Mul", X, factor), 0.5),
        op("Mul", X, op("Mul", factor, 0.5)),
        op("Mul", op("Mul", X, 0.5), factor),
    ]


def _of_gelu(tanh: bool, factors: list[Op]) -> list[Form]:
    orders = [order for factor in factors for order in _half(factor)]
    operator = op("Gelu", X, approximate="tanh" if tanh else "none")
    first = Form(orders[0]) if tanh else _single(orders[0])
    return [_single(operator, 20), first, *map(_read, orders[1:])]


ACTIVATIONS: dict[str, list[Form]] = {
    "sigmoid": [Form(op("Sigmoid", X))],
    "tanh": [Form(op("Tanh", X))],
    "relu": [Form(op("Relu", X)), _read(op("Max", X, 0.0))],
    "leaky_relu": [
        _single(op("LeakyRelu", X, alpha=Number("slope"))),
        Form(_above_zero(X, op("Mul", X, Number("slope")))),
    ],
    "elu": [_single(op("Elu", X, alpha=Number("alpha"))), Form(_elu(Number("alpha")))],
    "selu": [_single(op("Selu", X)), Form(op("Mul", _elu(SELU_ALPHA), SELU_SCALE))],
    "gelu": [
        *_of_gelu(False, [_ERF]),
        Form(_gelu()),
    ],
    "gelu_tanh": _of_gelu(True, [_gelu_tanh_inner(_CUBIC), _gelu_tanh_inner(_POWER)]),
    "silu": [Form(op("Mul", X, op("Sigmoid", X))), _read(op("Swish", X))],
    "softplus": [
        _single(op("Softplus", X)),
        Form(_SOFTPLUS),
        # PyTorch's threshold; above 20 it leaves out at most e^−20 = 2e-9.
        _read(op("Where", op("Greater", X, 20.0), X, op("Softplus", X))),
    ],
    "hard_sigmoid": [
        _single(_HARD_SIGMOID),
        Form(op("Div", _CLIPPED, 6.0)),
    ],
    "hard_swish": [
        _single(op("HardSwish", X), 14),
        Form(op("Mul", X, op("Div", _CLIPPED, 6.0))),
        _read(op("Mul", X, _HARD_SIGMOID)),
        _read(op("Div", op("Mul", X, _CLIPPED), 6.0)),
    ],
    "mish": [
        _single(op("Mul", X, op("Tanh", op("Softplus", X)))),
        Form(op("Mul", X, op("Tanh", _SOFTPLUS))),
        _read(op("Mish", X)),
    ],
    "prelu": [
        _single(op("PRelu", X, Tensor("slope"))),
        Form(op("Where", op("Less", X, 0.0), op("Mul", X, Tensor("slope")), X)),
    ],
    "softmax": [Form(op("Softmax", X, axis=-1))],
    # CELU with alpha 1, which is ELU.
    "celu": [_read(op("Celu", X))],
}


# ---------------------------------------------------------------- layers


def _layer_norm(axes_are_inputs: bool, square_by: str = "Mul") -> Op:
    """(X − mean)/√(variance + eps), by the mean of (X − mean)²."""

    def mean(x: Expression) -> Op:
        if axes_are_inputs:
            return op("ReduceMean", x, (-1,))
        return op("ReduceMean", x, axes=(-1,))

    centred = op("Sub", X, mean(X))
    square = op("Pow", centred, 2.0) if square_by == "Pow" else op("Mul", centred, centred)
    return op("Div", centred, op("Sqrt", op("Add", mean(square), Number("eps"))))


def _scaled(normal: Op) -> Op:
    return op("Mul", normal, Tensor("weight"))


def _shifted(scaled: Op) -> Op:
    return op("Add", scaled, Tensor("bias"))


_STATISTICS = (Tensor("running_mean"), Tensor("running_var"))
_CENTRED = op("Sub", X, Tensor("running_mean"))
_AFFINE = (Tensor("weight"), Tensor("bias"))

# 8-bit integers and the numbers that they stand for. onnxruntime multiplies the integers where this
# surrounds a product whose bias is of integers too; it asks for zero points, here of zeros.
_MAP = (Number("input_scale"), Tensor("input_zero_point"))
_ROUNDED = op("DequantizeLinear", op("QuantizeLinear", X, *_MAP), *_MAP)
_INTEGERS = op(
    "DequantizeLinear",
    *(Tensor("weight"), Tensor("weight_scale"), Tensor("weight_zero_point")),
    axis=-1,
)
_PRODUCT = op("MatMul", _ROUNDED, _INTEGERS)

LAYERS: dict[str, list[Form]] = {
    "dense": [
        Form(op("Gemm", X, Tensor("weight"), Tensor("bias"))),
        _read(op("Add", op("MatMul", X, Tensor("weight")), Tensor("bias"))),
    ],
    "dense_without_bias": [Form(op("MatMul", X, Tensor("weight")))],
    "gemm": [
        _read(
            op(
                "Gemm",
                X,
                *tensors,
                **{name: Number(name) for name in ("alpha", "beta", "transA", "transB")},
            )
        )
        for tensors in ((Tensor("weight"), Tensor("bias")), (Tensor("weight"),))
    ],
    "integers": [
        Form(
            op(
                "Gemm",
                *(_ROUNDED, _INTEGERS),
                op(
                    "DequantizeLinear",
                    *(Tensor("bias"), Tensor("bias_scale"), Tensor("bias_zero_point")),
                    axis=0,
                ),
            )
        ),
    ],
    "integers_float_bias": [Form(op("Add", _PRODUCT, Tensor("bias")))],
    "integers_without_bias": [Form(_PRODUCT)],
    "dropout": [
        Form(op("Dropout", X, Number("rate"))),
        _read(op("Dropout", X, Number("rate"), 0.0)),
        _read(op("Dropout", X)),
        _read(op("Dropout", X, ratio=Number("rate"))),
    ],
    "layer_norm": [
        _single(op("LayerNormalization", X, *_AFFINE, axis=-1, epsilon=Number("eps")), 17),
        Form(_shifted(_scaled(_layer_norm(False))), until=17),
        Form(_shifted(_scaled(_layer_norm(True))), since=18),
        _read(op("LayerNormalization", X, Tensor("weight"), axis=-1, epsilon=Number("eps"))),
        *(
            _read(form)
            for plain in (_layer_norm(False, "Pow"), _layer_norm(True, "Pow"))
            for form in (_shifted(_scaled(plain)), _scaled(plain), plain)
        ),
    ],
    "batch_norm": [
        _single(
            op(
                "BatchNormalization",
                X,
                *_AFFINE,
                *_STATISTICS,
                epsilon=Number("eps"),
                momentum=Number("kept"),
            )
        ),
        Form(
            _shifted(
                _scaled(
                    op("Div", _CENTRED, op("Sqrt", op("Add", Tensor("running_var"), Number("eps"))))
                )
            )
        ),
    ],
    "standardize_inputs": [
        Form(op("Div", _CENTRED, op("Sqrt", Tensor("running_var")))),
        _read(op("Div", _CENTRED, Tensor("deviation"))),
        _read(op("Div", X, Tensor("deviation"))),
        _read(_CENTRED),
    ],
    "standardize_targets": [
        Form(
            op("Add", op("Mul", X, op("Sqrt", Tensor("running_var"))), Tensor("running_mean")),
        )
    ],
    # What scikit-learn's converter writes: its scaler, and both probabilities of two classes.
    "scaler": [
        _read(op("ai.onnx.ml.Scaler", X, offset=Tensor("offset"), scale=Tensor("scale"))),
    ],
    "two_probabilities": [
        _read(op("Concat", op("Sub", 1.0, op("Sigmoid", X)), op("Sigmoid", X), axis=-1)),
    ],
}


def written(kind: str, dtype: str, opset: int) -> Op:
    """The expression of a layer or an activation for a dtype and an opset."""
    forms = ACTIVATIONS.get(kind) or LAYERS[kind]
    return next(form.expression for form in forms if form.serves(dtype, opset))
