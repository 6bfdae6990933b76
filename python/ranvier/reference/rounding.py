"""What 8-bit integers can stand for; see `quantization`."""

from dataclasses import dataclass

from .vectors import Matrix, Vector, transpose

LEVELS = 255
MOST = 127


@dataclass(frozen=True)
class InputMap:
    """x = scale (q - zero) for integers q from 0 to 255."""

    scale: float
    zero: int

    @classmethod
    def of(cls, x: Matrix) -> "InputMap":
        """The map that reaches over all numbers, and 0."""
        low = min(0.0, *(min(row) for row in x))
        high = max(0.0, *(max(row) for row in x))
        scale = high / LEVELS - low / LEVELS
        if scale <= 0.0:
            return cls(1.0, 0)
        return cls(scale, min(max(round(-low / scale), 0), LEVELS))

    def integer(self, x: float) -> int:
        """q, clipped to its range before it is rounded to even."""
        low, high = -self.zero, LEVELS - self.zero
        return round(min(max(x * (1.0 / self.scale), low), high)) + self.zero

    def rounded(self, x: float) -> float:
        """The number that stands for x."""
        return (self.integer(x) - self.zero) * self.scale


def scales_of(weight: Matrix) -> Vector:
    """One scale for each output; 1 where all of its weights are 0."""
    scales = [max(abs(w) for w in unit) / MOST for unit in transpose(weight)]
    return [scale if scale > 0.0 else 1.0 for scale in scales]


def integers_of(weight: Matrix) -> list[list[int]]:
    """Weights as integers of their outputs' scales."""
    scales = scales_of(weight)

    def integer(w: float, scale: float) -> int:
        return round(min(max(w / scale, -MOST), MOST))

    return [[integer(w, s) for w, s in zip(row, scales, strict=True)] for row in weight]


def rounded_weight(weight: Matrix) -> Matrix:
    """The numbers that the integers stand for."""
    scales, integers = scales_of(weight), integers_of(weight)
    return [[q * scale for q, scale in zip(row, scales, strict=True)] for row in integers]


def rounded_input(x: Matrix) -> Matrix:
    """A batch as the integers of its own range say it."""
    reach = InputMap.of(x)
    return [[reach.rounded(value) for value in row] for row in x]
