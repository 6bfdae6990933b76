"""Make the coefficient tables of `src/math.rs`.

Run in any environment that has mpmath, and paste what it prints over the tables:

    python coefficients.py

Every polynomial interpolates its function at Chebyshev nodes, in 60 digits, which comes within a
small factor of the best polynomial of that degree. Its coefficients are rounded to the format and
then moved by single places for as long as that makes it better. The comment over a table is the
largest error of the polynomial, relative to the elementary function, when it is evaluated exactly.
"""

import struct
from collections.abc import Callable

from mpmath import mp, mpf

mp.dps = 60

Function = Callable[[mpf], mpf]

FORMATS = ("f32", "f64")
# Half of ln 2, and a little more: x / ln 2 is rounded before the nearest integer is taken.
EXP_REACH = mp.log(2) / 2 * (1 + mpf(2) ** -10)
# The square of s = f / (2 + f) at the ends 1 + f = sqrt(2) and sqrt(1/2).
LN_REACH = (mp.sqrt(2) - 1) ** 4 * (1 + mpf(2) ** -10)
# Where erfc has fallen below half the least subnormal number.
ERFC_LIMIT = {"f32": mpf("10.1"), "f64": mpf("27.3")}
# a in t = 1 / (a + x): chosen by trial for short polynomials and small errors of rounding.
ERFC_SHIFT = {"f32": mpf("1.875"), "f64": mpf(2)}
# Numbers of coefficients: with them the errors of rounding prevail.
EXPM1_TERMS = {"f32": 5, "f64": 10}
LN_TERMS = {"f32": 3, "f64": 7}
ERFC_TERMS = {"f32": 11, "f64": 25}


def rounded(value: mpf, fmt: str) -> mpf:
    """Return `value` rounded to the nearest number of the format."""
    with mp.workprec({"f32": 24, "f64": 53}[fmt]):
        return +value


def neighbour(value: mpf, direction: int, fmt: str) -> mpf:
    """Return the next number of the format above (direction 1) or below (-1) `value`."""
    step = abs(value) * mpf("0.75") * mpf(2) ** -{"f32": 23, "f64": 52}[fmt]
    return rounded(value + direction * step, fmt)


def short(text: str) -> str:
    """Return the text of a number without zeros that lead its exponent."""
    return text.replace("e-0", "e-")


def literal(value: mpf, fmt: str) -> str:
    """Return the shortest Rust literal of a number of the format."""
    number = float(value)
    if fmt == "f64":
        return short(repr(number))
    for digits in range(1, 10):
        text = f"{number:.{digits}g}"
        if struct.unpack("f", struct.pack("f", float(text)))[0] == number:
            break
    return short(repr(float(text)))


def near_minimax(
    function: Function, weight: Function, low: mpf, high: mpf, terms: int, fmt: str
) -> tuple[list[mpf], mpf]:
    """Return coefficients in the format, highest power first, and the largest weighted error.

    The error is weight(x) |polynomial(x) - function(x)|. Each rounded coefficient moves to its
    neighbour for as long as that lowers the largest error.
    """
    points = [(x, function(x), weight(x)) for x in mp.linspace(low, high, 202)]

    def largest(c: list[mpf]) -> mpf:
        return max(abs(w * (mp.polyval(c, x) - f)) for x, f, w in points)

    coefficients = [rounded(c, fmt) for c in mp.chebyfit(function, [low, high], terms)]
    best = largest(coefficients)
    improved = True
    while improved:
        improved = False
        for i in reversed(range(terms)):
            for direction in (-1, 1):
                trial = coefficients.copy()
                trial[i] = neighbour(trial[i], direction, fmt)
                error = largest(trial)
                if error < best:
                    coefficients, best, improved = trial, error, True
    return coefficients, best


def table(name: str, doc: str, coefficients: list[mpf], error: mpf, fmt: str) -> None:
    """Print one table as Rust."""
    print(f"    // {doc} Error 2^{mp.nstr(mp.log(error, 2), 4)}.")
    print("    #[rustfmt::skip]")
    print(f"    const {name}: &[{fmt}] = &[")
    for coefficient in coefficients:
        print(f"        {literal(coefficient, fmt)},")
    print("    ];")


def scalar(name: str, value: mpf, fmt: str) -> None:
    """Print one constant as Rust."""
    print(f"    const {name}: {fmt} = {literal(rounded(value, fmt), fmt)};")


def expm1_table(fmt: str) -> None:
    """Print p of expm1(r) = r + r^2 p(r), whose constant term is exactly 1/2."""

    def target(r: mpf) -> mpf:
        # (expm1(r) - r - r^2/2) / r^3, by its series: the closed form cancels at 0.
        return mp.nsum(lambda k: r**k / mp.factorial(k + 3), [0, mp.inf])

    def weight(r: mpf) -> mpf:
        return r**3 / mp.expm1(r)

    terms = EXPM1_TERMS[fmt]
    upper, worst = near_minimax(target, weight, -EXP_REACH, EXP_REACH, terms, fmt)
    doc = "p in expm1(r) = r + r^2 p(r), |r| <= ln(2)/2."
    table("EXPM1", doc, [*upper, mpf(0.5)], worst, fmt)


def ln_table(fmt: str) -> None:
    """Print g of ln((1 + s) / (1 - s)) = 2s + s z g(z), z = s^2."""

    def target(z: mpf) -> mpf:
        return mp.nsum(lambda k: 2 * z**k / (2 * k + 3), [0, mp.inf])

    def weight(z: mpf) -> mpf:
        s = mp.sqrt(z)
        return s * z / (2 * mp.atanh(s)) if s else mpf(0)

    terms = LN_TERMS[fmt]
    coefficients, worst = near_minimax(target, weight, mpf(0), LN_REACH, terms, fmt)
    doc = "g in ln((1 + s) / (1 - s)) = 2s + s z g(z), z = s^2."
    table("LN", doc, coefficients, worst, fmt)


def erfc_table(fmt: str) -> None:
    """Print P of erfc(x) = t exp(-x^2) P(y), t = 1 / (shift + x), y = 1 + scale x t in [-1, 1]."""
    shift, limit = ERFC_SHIFT[fmt], rounded(ERFC_LIMIT[fmt], fmt)
    scale = rounded(-2 * (shift + limit) / limit, fmt)

    def target(y: mpf) -> mpf:
        ratio = (y - 1) / scale  # x t
        x = shift * ratio / (1 - ratio)
        return mp.erfc(x) * mp.exp(x**2) * (shift + x)

    def weight(y: mpf) -> mpf:
        return 1 / target(y)

    terms = ERFC_TERMS[fmt]
    coefficients, worst = near_minimax(target, weight, mpf(-1), mpf(1), terms, fmt)
    scalar("ERFC_LIMIT", limit, fmt)
    scalar("ERFC_SHIFT", shift, fmt)
    scalar("ERFC_SCALE", scale, fmt)
    table("ERFC", "P in erfc(x) = t exp(-x^2) P(y).", coefficients, worst, fmt)


def main() -> None:
    """Print the tables of both formats."""
    for fmt in FORMATS:
        print(f"// {fmt}")
        high = rounded(mp.log(2), fmt)
        scalar("LN2_LO", mp.log(2) - high, fmt)
        expm1_table(fmt)
        ln_table(fmt)
        erfc_table(fmt)


if __name__ == "__main__":
    main()
