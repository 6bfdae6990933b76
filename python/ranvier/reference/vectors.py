"""Lists of floats as vectors, lists of rows as matrices: the little arithmetic that is needed.

A matrix is a list of rows, batch first: `x[i][j]` is feature j of sample i.
Every sum here is rounded once, at its end, so that no result depends on an order of summation.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias

Vector: TypeAlias = list[float]
Matrix: TypeAlias = list[Vector]
Tensor: TypeAlias = float | Vector | Matrix
Rows: TypeAlias = Sequence[Sequence[float]]


def total(values: Iterable[float]) -> float:
    """The sum, rounded once; infinities and overflow give what adding in turn gives."""
    terms = list(values)
    try:
        return math.fsum(terms)
    except (OverflowError, ValueError):
        return sum(terms)


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    """sum_k a_k b_k."""
    return total(p * q for p, q in zip(a, b, strict=True))


def transpose(a: Matrix) -> Matrix:
    """Rows become columns: (m, n) to (n, m)."""
    return [list(column) for column in zip(*a, strict=True)]


def matmul(a: Matrix, b: Matrix) -> Matrix:
    """The product c_ij = sum_k a_ik b_kj: (m, k) times (k, n) is (m, n)."""
    columns = transpose(b)
    return [[dot(row, column) for column in columns] for row in a]


def column_sums(a: Matrix) -> Vector:
    """sum_i a_ij for every column j."""
    return [total(column) for column in transpose(a)]


def exp(x: float) -> float:
    """e^x, and infinity where that is too large for a float."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def power(base: float, exponent: int) -> float:
    """base^exponent by repeated squaring, for exponent >= 0."""
    result = 1.0
    while exponent > 0:
        if exponent % 2 == 1:
            result *= base
        base *= base
        exponent //= 2
    return result


def all_finite(values: Sequence[float]) -> bool:
    """Whether no value is infinite or NaN."""
    return all(math.isfinite(value) for value in values)


def flatten(tensor: Tensor) -> Vector:
    """The numbers of a tensor, row by row."""
    if isinstance(tensor, list):
        return [value for part in tensor for value in flatten(part)]
    return [tensor]


def reshape(values: Sequence[float], like: Tensor) -> Tensor:
    """The tensor with the shape of `like` whose numbers, row by row, are `values`."""
    if not isinstance(like, list):
        return values[0]
    if not like or not isinstance(like[0], list):
        return list(values)
    width = len(like[0])
    return [list(values[i * width : (i + 1) * width]) for i in range(len(like))]


def shape(tensor: Tensor) -> tuple[int, ...]:
    """() for a number, (n,) for a vector, (m, n) for a matrix; rows must be equally long."""
    if not isinstance(tensor, list):
        return ()
    if not tensor or not isinstance(tensor[0], list):
        if any(isinstance(value, list) for value in tensor):
            raise ValueError("a vector must hold numbers only, but a row was found in it")
        return (len(tensor),)
    width = len(tensor[0])
    if any(not isinstance(row, list) or len(row) != width for row in tensor):
        raise ValueError("the rows of a matrix must be lists of one length")
    return (len(tensor), width)


def copy(tensor: Tensor) -> Tensor:
    """The same numbers, as floats, in lists of their own."""
    return reshape([float(value) for value in flatten(tensor)], tensor)


def as_matrix(rows: Rows, columns: int, name: str) -> Matrix:
    """A copy of the rows as lists of floats; `name` is what an error calls them."""
    matrix = []
    for i, row in enumerate(rows):
        if not isinstance(row, Sequence) or len(row) != columns:
            raise ValueError(f"{name}: row {i} must be a list of {columns} numbers, got {row!r}")
        matrix.append([float(value) for value in row])
    return matrix


def row_weights(sample_weight: Sequence[float] | None, rows: int) -> Vector:
    """One weight per row, 1 each by default. Negative, non-finite or all-zero ones are errors."""
    if sample_weight is None:
        return [1.0] * rows
    if len(sample_weight) != rows:
        raise ValueError(f"sample_weight has {len(sample_weight)} entries for {rows} rows")
    weights = [float(weight) for weight in sample_weight]
    for i, weight in enumerate(weights):
        if not (math.isfinite(weight) and weight >= 0.0):
            raise ValueError(f"sample_weight must be finite and >= 0, but row {i} has {weight}")
    if not any(weights):
        raise ValueError("sample_weight is zero in every row")
    return weights
