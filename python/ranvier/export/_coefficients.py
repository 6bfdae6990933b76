"""Constants of the core's elementary functions, for code that must give the same bits.

They are those of rust/core/src/math.rs and activation.rs, with the names of the first; the tests
compare them.
"""

from __future__ import annotations

__all__ = ["coefficients"]

Coefficients = dict[str, float | tuple[float, ...]]

SELU_SCALE = 1.0507009873554805
SELU_ALPHA = 1.6732632423543772

# Those that both dtypes round from one number.
_COMMON: Coefficients = {
    "LOG2_E": 1.4426950408889634,
    "LN2_HI": 0.6931471805599453,
    "SQRT_HALF": 0.7071067811865476,
    "SELU_LAMBDA": SELU_SCALE,
    "SELU_LAMBDA_ALPHA": SELU_SCALE * SELU_ALPHA,
    "GELU_SCALE": 0.7978845608028654,  # √(2/π)
    "GELU_CUBIC": 0.044715,
}

# Of each dtype: numbers, and polynomials from the highest power down.
_OWN: dict[str, Coefficients] = {
    "float32": {
        "EXP_MIN": -104.0,
        "EXP_MAX": 89.0,
        "EXPM1_MIN": -18.0,
        "TANH_LIMIT": 20.0,
        "LN2_LO": -1.9046542e-9,
        "EXPM1": (
            0.00019882694,
            0.0013926174,
            0.008333275,
            0.04166656,
            0.16666667,
            0.5,
        ),
        "LN": (
            0.29581028,
            0.39988798,
            0.66666687,
        ),
        "ERFC_LIMIT": 10.1,
        "ERFC_SHIFT": 1.875,
        "ERFC_SCALE": -2.371287,
        "ERFC": (
            2.3994305e-6,
            3.7572885e-5,
            -9.6236756e-5,
            -0.0002361918,
            0.0011839941,
            0.0006415468,
            -0.012331788,
            -0.004374043,
            0.16390984,
            0.6085831,
            1.1176798,
        ),
    },
    "float64": {
        "EXP_MIN": -746.0,
        "EXP_MAX": 710.0,
        "EXPM1_MIN": -38.0,
        "TANH_LIMIT": 40.0,
        "LN2_LO": 2.3190468138462996e-17,
        "EXPM1": (
            2.091129714711245e-9,
            2.5100470238808384e-8,
            2.755728284220997e-7,
            2.755726828167972e-6,
            2.4801587317226586e-5,
            0.00019841269863168337,
            0.0013888888888886539,
            0.008333333333329963,
            0.04166666666666667,
            0.16666666666666669,
            0.5,
        ),
        "LN": (
            0.14617775335974023,
            0.1533161429873236,
            0.18182892354942637,
            0.22222211090445548,
            0.285714286262473,
            0.3999999999989896,
            0.666666666666667,
        ),
        "ERFC_LIMIT": 27.3,
        "ERFC_SHIFT": 2.0,
        "ERFC_SCALE": -2.1465201465201464,
        "ERFC": (
            -1.071391389085447e-9,
            1.040710163416561e-9,
            8.391483148481483e-9,
            -1.4040614659108253e-8,
            -1.9648467937705685e-8,
            7.507149173656794e-8,
            -5.765049047743408e-8,
            -1.4906843430262233e-7,
            5.479611835097702e-7,
            -5.400778590366378e-7,
            -1.4025491992395409e-6,
            5.426578333223733e-6,
            -3.5601622263603136e-6,
            -2.1266016705812948e-5,
            5.601077945278115e-5,
            2.869505352060473e-5,
            -0.0003725572603554277,
            0.00028938405019979555,
            0.0022271336877817513,
            -0.003611765705664855,
            -0.017709447113177814,
            0.024498899843974953,
            0.24856057074921117,
            0.6762528852387815,
            1.069801141918463,
        ),
    },
}


def coefficients(dtype: str) -> Coefficients:
    """All of them, before they are rounded to the dtype of this name."""
    return _COMMON | _OWN[dtype]
