"""Write `tests/data/math.txt`: true values in f64 for the tests of `src/math.rs`.

Run in any environment that has mpmath:

    python vectors.py > tests/data/math.txt

A line `# name` starts a function. Every other line holds the bits of an argument, the bits of the
true value rounded to f64, and how far the true value lies above that, in units of its last place.
The arguments lie near points where a function or its algorithm changes, in its main interval, and
in all magnitudes; they come from a seeded generator, so that the file is always the same.
"""

import math
import random
import struct
from collections.abc import Callable

from mpmath import mp, mpf

mp.prec = 200

LEAST_EXPONENT = -1074
LN2 = math.log(2)


def bits(x: float) -> str:
    """Return the bits of a float in hexadecimal."""
    return f"{struct.unpack('>Q', struct.pack('>d', x))[0]:016x}"


def to_float(value: mpf) -> float:
    """Return the nearest f64, subnormal or not."""
    exponent = max(mp.frexp(value)[1] - 53, LEAST_EXPONENT)
    return math.ldexp(int(mp.nint(mp.ldexp(value, -exponent))), exponent)


def sigmoid(x: mpf) -> mpf:
    """Return 1 / (1 + e^-x)."""
    return 1 / (1 + mp.exp(-x))


# Per function: itself, its main interval, the interval in which it neither overflows nor
# underflows to 0, and points around which to test.
FUNCTIONS: dict[str, tuple[Callable[[mpf], mpf], tuple, tuple, list[float]]] = {
    "exp": (mp.exp, (-2, 2), (-745.1, 709.7), [k * LN2 / 2 for k in range(-2149, 2047, 65)]),
    "expm1": (mp.expm1, (-2, 2), (-50, 709.7), [k * LN2 / 2 for k in range(-109, 2047, 33)]),
    "ln": (mp.log, (0.5, 2), (5e-324, 1.7e308), [2.0 ** (k / 2) for k in range(-2147, 2047, 65)]),
    "ln_1p": (mp.log1p, (0, 2), (0, 1.7e308), [2.0 ** (k / 2) - 1 for k in range(1, 65)]),
    "tanh": (mp.tanh, (-1.5, 1.5), (-25, 25), [k * LN2 / 4 for k in range(-60, 60, 2)]),
    "sigmoid": (sigmoid, (-4, 4), (-745.1, 40), [k * LN2 / 2 for k in range(-2149, 100, 35)]),
    "erfc": (mp.erfc, (-3, 6), (-6, 27.22), [math.sqrt(k * LN2 / 2) for k in range(1, 2130, 35)]),
}


def arguments(
    random_: random.Random, main: tuple, whole: tuple, special: list[float]
) -> list[float]:
    """Return about 280 arguments inside the whole interval."""
    low, high = whole
    points = [random_.uniform(*main) for _ in range(80)]
    points += [random_.uniform(low, high) for _ in range(40)]
    points += [random_.choice((-1, 1)) * 2.0 ** random_.uniform(-60, 10) for _ in range(60)]
    points += [random_.choice((-1, 1)) * 2.0 ** random_.uniform(-1074, 1024) for _ in range(40)]
    points += [x * (1 + random_.choice((-1, 1)) * 2.0 ** random_.uniform(-52, -8)) for x in special]
    return sorted({x for x in points if low <= x <= high and x != 0})


def main() -> None:
    """Print the file."""
    for name, (function, *intervals, special) in FUNCTIONS.items():
        print(f"# {name}")
        for x in arguments(random.Random(name), *intervals, special):
            value = function(mpf(x))
            rounded = to_float(value)
            above = (value - mpf(rounded)) / mpf(math.ulp(rounded))
            print(bits(x), bits(rounded), f"{float(above):.3f}")


if __name__ == "__main__":
    main()
