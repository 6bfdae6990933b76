//! Elementary functions with the same bits on every machine.
//!
//! Each algorithm is written once for `f32` and `f64` and computes natively in that format, by
//! operations that IEEE 754 specifies exactly: + − × ÷, fused multiply-add, comparison and
//! selection, casts and shifts of bits. There are no branches, so a loop over a slice becomes
//! vector code under whatever instruction set its caller is compiled for, with the same results.
//!
//! A NaN argument gives the one quiet NaN, [`Math::NAN`], and so does an argument outside the
//! domain. Results stay in the mathematical range of their function. Overflow gives ∞, underflow
//! is gradual.
//!
//! Errors are stated in units in the last place of the true value, subnormal values included, and
//! are the largest measured: for `f32` over all 2³² arguments (`examples/ulp.rs`), for `f64` over
//! two million of every magnitude and near points where the computation changes.

use core::ops::{Add, Div, Mul, Neg, Sub};

/// The constants and exact operations that the functions of this module are made of.
pub trait Math:
    Copy
    + PartialOrd
    + Neg<Output = Self>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + 'static
{
    /// 0.
    const ZERO: Self;
    /// ½.
    const HALF: Self;
    /// 1.
    const ONE: Self;
    /// 2.
    const TWO: Self;
    /// ∞.
    const INFINITY: Self;
    /// −∞.
    const NEG_INFINITY: Self;
    /// The quiet NaN without sign and payload.
    const NAN: Self;
    /// The least normal number.
    const MIN_POSITIVE: Self;
    /// A power of two that makes every subnormal number normal, and its exponent.
    const NORMALIZER: (Self, Self);
    /// 1.5 · 2^(stored mantissa bits): adding it rounds to an integer and leaves that integer in
    /// the low bits.
    const ROUNDER: Self;
    /// log2 e.
    const LOG2_E: Self;
    /// ln 2 = `LN2_HI` + `LN2_LO`, the first being ln 2 rounded.
    const LN2_HI: Self;
    /// See `LN2_HI`.
    const LN2_LO: Self;
    /// At and below `EXP_MIN` exp rounds to 0, at and above `EXP_MAX` it overflows.
    const EXP_MIN: Self;
    /// See `EXP_MIN`.
    const EXP_MAX: Self;
    /// At and below it expm1 rounds to −1.
    const EXPM1_MIN: Self;
    /// tanh(x) rounds to 1 where 2x is at or above it.
    const TANH_LIMIT: Self;
    /// Nearer to 0 expm1(x) rounds to x.
    const EXPM1_TINY: Self;
    /// p in expm1(r) = r + r² p(r).
    const EXPM1: &[Self];
    /// g in ln((1 + s) / (1 − s)) = 2s + s z g(z), z = s².
    const LN: &[Self];
    /// P in erfc(x) = t exp(−x²) P(y), t = 1 / (`ERFC_SHIFT` + x), y = `ERFC_SCALE` x t
    /// + 1, for 0 ≤ x ≤ `ERFC_LIMIT`; there erfc rounds to 0.
    const ERFC: &[Self];
    /// See `ERFC`.
    const ERFC_LIMIT: Self;
    /// See `ERFC`.
    const ERFC_SHIFT: Self;
    /// See `ERFC`.
    const ERFC_SCALE: Self;

    /// self · a + b, rounded once.
    #[must_use]
    fn fma(self, a: Self, b: Self) -> Self;
    /// |self|.
    #[must_use]
    fn magnitude(self) -> Self;
    /// |self| with the sign bit of `sign`.
    #[must_use]
    fn signed_as(self, sign: Self) -> Self;
    /// 2^(n−1) for self = `ROUNDER` + n, if that is normal.
    #[must_use]
    fn half_power(self) -> Self;
    /// 2^a and 2^b with a + b = n for self = `ROUNDER` + n, if n is at most twice a normal
    /// exponent.
    #[must_use]
    fn power_halves(self) -> (Self, Self);
    /// (k, m) with self = 2^k m and √½ ≤ m < √2, for a positive normal number.
    #[must_use]
    fn exponent_and_mantissa(self) -> (Self, Self);
}

/// The operations of [`Math`] for one format, given its integer type of the same size.
macro_rules! operations {
    ($float:ident, $bits:ident) => {
        const ZERO: $float = 0.0;
        const HALF: $float = 0.5;
        const ONE: $float = 1.0;
        const TWO: $float = 2.0;
        const INFINITY: $float = $float::INFINITY;
        const NEG_INFINITY: $float = $float::NEG_INFINITY;
        const NAN: $float =
            $float::from_bits($float::INFINITY.to_bits() | 1 << ($float::MANTISSA_DIGITS - 2));
        const MIN_POSITIVE: $float = $float::MIN_POSITIVE;
        const NORMALIZER: ($float, $float) = (
            4.0 / $float::EPSILON,
            ($float::MANTISSA_DIGITS + 1) as $float,
        );
        const ROUNDER: $float = 1.5 / $float::EPSILON;
        const LOG2_E: $float = core::$float::consts::LOG2_E;
        const LN2_HI: $float = core::$float::consts::LN_2;
        const EXPM1_TINY: $float = $float::EPSILON / 4.0;

        #[inline(always)]
        fn fma(self, a: $float, b: $float) -> $float {
            self.mul_add(a, b)
        }

        #[inline(always)]
        fn magnitude(self) -> $float {
            self.abs()
        }

        #[inline(always)]
        fn signed_as(self, sign: $float) -> $float {
            self.copysign(sign)
        }

        #[inline(always)]
        fn half_power(self) -> $float {
            const MANTISSA: u32 = $float::MANTISSA_DIGITS - 1;
            const BIAS: $bits = $float::MAX_EXP as $bits - 1;
            $float::from_bits(self.to_bits().wrapping_add(BIAS - 1) << MANTISSA)
        }

        #[inline(always)]
        fn power_halves(self) -> ($float, $float) {
            const MANTISSA: u32 = $float::MANTISSA_DIGITS - 1;
            const BIAS: $bits = $float::MAX_EXP as $bits - 1;
            // Only the low bits of these survive the last shift, so that the bits of ROUNDER and
            // the sign do not matter.
            let n = self.to_bits();
            let a = n >> 1;
            let b = n.wrapping_sub(a);
            (
                $float::from_bits(a.wrapping_add(BIAS) << MANTISSA),
                $float::from_bits(b.wrapping_add(BIAS) << MANTISSA),
            )
        }

        #[inline(always)]
        fn exponent_and_mantissa(self) -> ($float, $float) {
            const MANTISSA: u32 = $float::MANTISSA_DIGITS - 1;
            const SQRT_HALF: $bits = core::$float::consts::FRAC_1_SQRT_2.to_bits();
            const ONE: $bits = <$float as Math>::ONE.to_bits();
            const SHIFTER: $float = 1.0 / $float::EPSILON;
            // The exponent field of these bits is k + bias. SHIFTER's last place is worth 1.
            let bits = self.to_bits().wrapping_add(ONE - SQRT_HALF);
            let k = $float::from_bits(SHIFTER.to_bits() | (bits >> MANTISSA));
            let bias = $float::from_bits(SHIFTER.to_bits() | (ONE >> MANTISSA));
            let m = (bits & ((1 << MANTISSA) - 1)) + SQRT_HALF;
            (k - bias, $float::from_bits(m))
        }
    };
}

#[allow(
    clippy::unreadable_literal,
    reason = "the script prints the shortest literals"
)]
impl Math for f32 {
    operations!(f32, u32);

    const EXP_MIN: f32 = -104.0;
    const EXP_MAX: f32 = 89.0;
    const EXPM1_MIN: f32 = -18.0;
    const TANH_LIMIT: f32 = 20.0;

    // What follows is printed by coefficients.py.
    const LN2_LO: f32 = -1.9046542e-9;
    // p in expm1(r) = r + r^2 p(r), |r| <= ln(2)/2. Error 2^-30.3.
    #[rustfmt::skip]
    const EXPM1: &[f32] = &[
        0.00019882694,
        0.0013926174,
        0.008333275,
        0.04166656,
        0.16666667,
        0.5,
    ];
    // g in ln((1 + s) / (1 - s)) = 2s + s z g(z), z = s^2. Error 2^-28.66.
    #[rustfmt::skip]
    const LN: &[f32] = &[
        0.29581028,
        0.39988798,
        0.66666687,
    ];
    const ERFC_LIMIT: f32 = 10.1;
    const ERFC_SHIFT: f32 = 1.875;
    const ERFC_SCALE: f32 = -2.371287;
    // P in erfc(x) = t exp(-x^2) P(y). Error 2^-25.56.
    #[rustfmt::skip]
    const ERFC: &[f32] = &[
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
    ];
}

#[allow(
    clippy::unreadable_literal,
    reason = "the script prints the shortest literals"
)]
impl Math for f64 {
    operations!(f64, u64);

    const EXP_MIN: f64 = -746.0;
    const EXP_MAX: f64 = 710.0;
    const EXPM1_MIN: f64 = -38.0;
    const TANH_LIMIT: f64 = 40.0;

    // What follows is printed by coefficients.py.
    const LN2_LO: f64 = 2.3190468138462996e-17;
    // p in expm1(r) = r + r^2 p(r), |r| <= ln(2)/2. Error 2^-59.65.
    #[rustfmt::skip]
    const EXPM1: &[f64] = &[
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
    ];
    // g in ln((1 + s) / (1 - s)) = 2s + s z g(z), z = s^2. Error 2^-57.65.
    #[rustfmt::skip]
    const LN: &[f64] = &[
        0.14617775335974023,
        0.1533161429873236,
        0.18182892354942637,
        0.22222211090445548,
        0.285714286262473,
        0.3999999999989896,
        0.666666666666667,
    ];
    const ERFC_LIMIT: f64 = 27.3;
    const ERFC_SHIFT: f64 = 2.0;
    const ERFC_SCALE: f64 = -2.1465201465201464;
    // P in erfc(x) = t exp(-x^2) P(y). Error 2^-54.36.
    #[rustfmt::skip]
    const ERFC: &[f64] = &[
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
    ];
}

/// Returns the polynomial with these coefficients, highest power first, by Horner's rule.
#[inline(always)]
fn polynomial<F: Math>(x: F, coefficients: &[F]) -> F {
    let mut sum = coefficients[0];
    for &c in &coefficients[1..] {
        sum = sum.fma(x, c);
    }
    sum
}

/// Returns `y`, or the quiet NaN where `x` is a NaN.
#[inline(always)]
#[allow(clippy::eq_op, reason = "only a NaN differs from itself")]
fn unless_nan<F: Math>(x: F, y: F) -> F {
    if x == x { y } else { F::NAN }
}

/// Splits x + tail = n ln 2 + r, |r| ≤ ln 2 / 2, for a tail below the last place of x: returns
/// `ROUNDER` + n, and expm1(r) as a large and a small part.
#[inline(always)]
fn reduced_expm1<F: Math>(x: F, tail: F) -> (F, F, F) {
    let shifted = x.fma(F::LOG2_E, F::ROUNDER);
    let minus_n = F::ROUNDER - shifted;
    // Exact: x and n ln 2 are close.
    let large = minus_n.fma(F::LN2_HI, x);
    let low = minus_n.fma(F::LN2_LO, tail);
    let r = large + low;
    (shifted, large, (r * r).fma(polynomial(r, F::EXPM1), low))
}

/// Returns y 2^n, rounded once when that is subnormal, for `shifted` = `ROUNDER` + n.
#[inline(always)]
fn scale<F: Math>(y: F, shifted: F) -> F {
    let (a, b) = shifted.power_halves();
    y * a * b
}

/// Returns exp(x) for x ≤ 0 (at most `EXP_MAX`), no NaN.
#[inline(always)]
fn exp_below<F: Math>(x: F) -> F {
    let x = if x > F::EXP_MIN { x } else { F::EXP_MIN };
    let (shifted, large, small) = reduced_expm1(x, F::ZERO);
    scale(F::ONE + (large + small), shifted)
}

/// Returns expm1(x) / 2 for `EXPM1_MIN` ≤ x ≤ `EXP_MAX`, `EXPM1_TINY` ≤ |x|.
#[inline(always)]
fn half_expm1<F: Math>(x: F) -> F {
    let (shifted, large, small) = reduced_expm1(x, F::ZERO);
    let power = shifted.half_power();
    power.fma(small, power.fma(large, power - F::HALF))
}

/// Returns e^x. Error: 0.85 ulp in `f32`, 0.84 in `f64`.
#[inline(always)]
pub fn exp<F: Math>(x: F) -> F {
    let bounded = if x < F::EXP_MAX { x } else { F::EXP_MAX };
    unless_nan(x, exp_below(bounded))
}

/// Returns e^x − 1, accurate near 0 too. Keeps −0.0. Error: 1.16 ulp in `f32`, 1.31 in `f64`.
#[inline(always)]
pub fn expm1<F: Math>(x: F) -> F {
    let bounded = if x < F::EXP_MAX { x } else { F::EXP_MAX };
    let bounded = if bounded > F::EXPM1_MIN {
        bounded
    } else {
        F::EXPM1_MIN
    };
    let y = F::TWO * half_expm1(bounded);
    unless_nan(x, if x.magnitude() < F::EXPM1_TINY { x } else { y })
}

/// Returns k ln 2 + ln m + c for k, m as of [`Math::exponent_and_mantissa`] and a small c.
#[inline(always)]
fn ln_of_parts<F: Math>(k: F, m: F, c: F) -> F {
    // ln(1 + f) = 2s + s R = f − (f²/2 − s (f²/2 + R)) with s = f / (2 + f).
    let f = m - F::ONE;
    let s = f / (F::TWO + f);
    let z = s * s;
    let rest = z * polynomial(z, F::LN);
    let half_square = F::HALF * f * f;
    let low = s.fma(half_square + rest, k.fma(F::LN2_LO, c));
    k.fma(F::LN2_HI, f - (half_square - low))
}

/// Returns the natural logarithm: −∞ at ±0, NaN below. Error: 0.85 ulp in `f32`, 0.83 in `f64`.
#[inline(always)]
pub fn ln<F: Math>(x: F) -> F {
    let (factor, exponent) = F::NORMALIZER;
    let subnormal = x < F::MIN_POSITIVE;
    let (k, m) = if subnormal { x * factor } else { x }.exponent_and_mantissa();
    let k = if subnormal { k - exponent } else { k };
    let y = ln_of_parts(k, m, F::ZERO);
    let y = if x == F::ZERO { F::NEG_INFINITY } else { y };
    let y = if x == F::INFINITY { x } else { y };
    if x >= F::ZERO { y } else { F::NAN }
}

/// Returns ln(1 + x) for x ≥ 0, accurate near 0 too; NaN below. Error: 0.86 ulp in `f32`, 0.83 in
/// `f64`.
#[inline(always)]
pub fn ln_1p<F: Math>(x: F) -> F {
    let u = F::ONE + x;
    // ln(1 + x) = ln u + ln(1 + c) to first order in c = (1 + x − u) / u; x − (u − 1) is exact.
    let c = (x - (u - F::ONE)) / u;
    let (k, m) = u.exponent_and_mantissa();
    let y = ln_of_parts(k, m, c);
    let y = if x == F::INFINITY { x } else { y };
    if x >= F::ZERO { y } else { F::NAN }
}

/// Returns tanh x, in [−1, 1]. Keeps −0.0. Error: 1.64 ulp in `f32`, 1.51 in `f64`.
#[inline(always)]
pub fn tanh<F: Math>(x: F) -> F {
    // tanh x = h / (1 + h) = h − h h / (1 + h) = 1 − 1 / (1 + h) with h = expm1(2x) / 2. What is
    // subtracted is the smaller part of the result, so that its rounding errors count for little.
    let doubled = F::TWO * x.magnitude();
    let h = half_expm1(if doubled < F::TANH_LIMIT {
        doubled
    } else {
        F::TANH_LIMIT
    });
    let g = if h < F::ONE { h } else { F::ONE };
    let y = (-g).fma(g / (F::ONE + h), g);
    let y = if doubled < F::EXPM1_TINY { x } else { y };
    unless_nan(x, y.signed_as(x))
}

/// Returns 1 / (1 + e^−x), in [0, 1]. Error: 1.62 ulp in `f32`, 1.59 in `f64`.
#[inline(always)]
pub fn sigmoid<F: Math>(x: F) -> F {
    // e / (1 + e) = e − e e / (1 + e) for x < 0, and 1 / (1 + e) = 1 − e / (1 + e).
    let e = exp_below(-x.magnitude());
    let g = if x < F::ZERO { e } else { F::ONE };
    unless_nan(x, (-g).fma(e / (F::ONE + e), g))
}

/// Returns 1 − erf x = 2/√π ∫ₓ^∞ exp(−u²) du, in [0, 2]. Error: 3.42 ulp in `f32`, 3.15 in `f64`,
/// down to the least subnormal result.
#[inline(always)]
pub fn erfc<F: Math>(x: F) -> F {
    let a = x.magnitude();
    let a = if a < F::ERFC_LIMIT { a } else { F::ERFC_LIMIT };
    let t = F::ONE / (F::ERFC_SHIFT + a);
    let p = t * polynomial((a * t).fma(F::ERFC_SCALE, F::ONE), F::ERFC);
    // −a² = square + low exactly.
    let square = -(a * a);
    let low = (-a).fma(a, -square);
    let (shifted, large, small) = reduced_expm1(square, low);
    let y = scale((large + small).fma(p, p), shifted);
    unless_nan(x, if x < F::ZERO { F::TWO - y } else { y })
}

/// base^exponent by repeated squaring.
pub fn integer_power(mut base: f64, mut exponent: u64) -> f64 {
    let mut result = 1.0;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result *= base;
        }
        base *= base;
        exponent >>= 1;
    }
    result
}

/// base^exponent for a base ≥ 0: by repeated squaring for the first sixty-four integers, else e^(exponent · ln base),
/// whose relative error is about |exponent · ln base| ulp.
pub fn power(base: f64, exponent: f64) -> f64 {
    let whole = exponent as u64;
    if whole <= 64 && whole as f64 == exponent {
        integer_power(base, whole)
    } else {
        exp(exponent * ln(base))
    }
}

/// cos(πx) for 0 ≤ x ≤ 1, exact at 0, ½ and 1: the Taylor series on a quarter, which ends below the last bit. Error:
/// 2 ulp of the larger of |cos(πx)| and sin(πx).
pub fn cos_pi(x: f64) -> f64 {
    const COS: [f64; 9] = [
        1.0,
        -1.0 / 2.0,
        1.0 / 24.0,
        -1.0 / 720.0,
        1.0 / 40_320.0,
        -1.0 / 3_628_800.0,
        1.0 / 479_001_600.0,
        -1.0 / 87_178_291_200.0,
        1.0 / 20_922_789_888_000.0,
    ];
    const SIN: [f64; 9] = [
        1.0,
        -1.0 / 6.0,
        1.0 / 120.0,
        -1.0 / 5_040.0,
        1.0 / 362_880.0,
        -1.0 / 39_916_800.0,
        1.0 / 6_227_020_800.0,
        -1.0 / 1_307_674_368_000.0,
        1.0 / 355_687_428_096_000.0,
    ];
    let series = |terms: [f64; 9], z: f64| terms.iter().rev().fold(0.0, |sum, &c| sum * z + c);
    let (y, sign) = if x > 0.5 { (1.0 - x, -1.0) } else { (x, 1.0) };
    let value = if y <= 0.25 {
        let angle = std::f64::consts::PI * y;
        series(COS, angle * angle)
    } else {
        let angle = std::f64::consts::PI * (0.5 - y);
        angle * series(SIN, angle * angle)
    };
    sign * value
}

#[cfg(test)]
mod tests {
    use super::*;

    type Oracle = fn(f64) -> f64;

    /// A function in both formats, the truth in `f64`, its range, and its bounds in ulp.
    struct Case {
        name: &'static str,
        f32: fn(f32) -> f32,
        f64: fn(f64) -> f64,
        truth: Oracle,
        range: (f64, f64),
        bounds: (f64, f64),
    }

    macro_rules! case {
        ($name:ident, $truth:expr, $range:expr, $bounds:expr) => {
            Case {
                name: stringify!($name),
                f32: $name::<f32>,
                f64: $name::<f64>,
                truth: $truth,
                range: $range,
                bounds: $bounds,
            }
        };
    }

    const INF: f64 = f64::INFINITY;

    /// The standard library is the oracle for `f32`; it has no erfc, so that erfc in `f64`, which
    /// is held to mpmath below, is the oracle for erfc in `f32`.
    const CASES: [Case; 7] = [
        case!(exp, f64::exp, (0.0, INF), (1.5, 1.5)),
        case!(expm1, f64::exp_m1, (-1.0, INF), (1.5, 1.5)),
        case!(ln, f64::ln, (-INF, INF), (1.5, 1.5)),
        case!(ln_1p, ln_1p_of_nonnegative, (0.0, INF), (1.5, 1.5)),
        case!(tanh, f64::tanh, (-1.0, 1.0), (2.0, 2.0)),
        case!(sigmoid, logistic, (0.0, 1.0), (2.0, 2.0)),
        case!(erfc, erfc::<f64>, (0.0, 2.0), (4.0, 4.0)),
    ];

    fn ln_1p_of_nonnegative(x: f64) -> f64 {
        if x >= 0.0 { x.ln_1p() } else { f64::NAN }
    }

    fn logistic(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    /// Returns the unit in the last place of `truth` in a format of this epsilon and least normal.
    fn last_place(truth: f64, epsilon: f64, least_normal: f64) -> f64 {
        let power = f64::from_bits(truth.abs().to_bits() & f64::INFINITY.to_bits());
        power.max(least_normal) * epsilon
    }

    #[test]
    fn f32_is_near_the_truth_and_in_range() {
        // Infinity counts as 2^128, the next number if there were one.
        let limit = 2.0_f64.powi(128);
        for case in &CASES {
            for bits in (0..u32::MAX).step_by(3989) {
                let x = f32::from_bits(bits);
                let y = (case.f32)(x);
                let truth = (case.truth)(f64::from(x)).clamp(-limit, limit);
                if truth.is_nan() {
                    assert_eq!(y.to_bits(), f32::NAN.to_bits(), "{}({x:e})", case.name);
                    continue;
                }
                let y = f64::from(y);
                assert!(
                    case.range.0 <= y && y <= case.range.1,
                    "{}({x:e}) = {y:e}",
                    case.name
                );
                let place = last_place(
                    truth.clamp(-limit / 2.0, limit / 2.0),
                    f64::from(f32::EPSILON),
                    f64::from(f32::MIN_POSITIVE),
                );
                let error = (y.clamp(-limit, limit) - truth).abs() / place;
                assert!(error <= case.bounds.0, "{}({x:e}): {error} ulp", case.name);
            }
        }
    }

    #[test]
    fn f64_is_near_the_values_of_mpmath() {
        let mut case = &CASES[0];
        let mut checked = 0;
        for line in include_str!("../tests/data/math.txt").lines() {
            if let Some(name) = line.strip_prefix("# ") {
                case = CASES
                    .iter()
                    .find(|case| case.name == name)
                    .expect("a known function");
                continue;
            }
            let fields: Vec<&str> = line.split(' ').collect();
            let [x, truth] = [fields[0], fields[1]]
                .map(|hex| f64::from_bits(u64::from_str_radix(hex, 16).expect("hexadecimal")));
            let above: f64 = fields[2].parse().expect("a number");
            let place = last_place(truth, f64::EPSILON, f64::MIN_POSITIVE);
            let error = (((case.f64)(x) - truth) / place - above).abs();
            assert!(error <= case.bounds.1, "{}({x:e}): {error} ulp", case.name);
            checked += 1;
        }
        assert!(checked > 1500);
    }

    #[test]
    fn f64_is_in_range() {
        for case in &CASES {
            for i in 0..50_000_u64 {
                // Odd multiples of this number run through all signs and exponents.
                let x = f64::from_bits((2 * i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
                let y = (case.f64)(x);
                if (case.truth)(x).is_nan() {
                    assert_eq!(y.to_bits(), f64::NAN.to_bits(), "{}({x:e})", case.name);
                } else {
                    assert!(
                        case.range.0 <= y && y <= case.range.1,
                        "{}({x:e})",
                        case.name
                    );
                }
            }
        }
    }

    /// Checks that `function` maps each argument to exactly the result in the same place.
    fn assert_maps<F, const N: usize>(function: fn(F) -> F, arguments: [F; N], results: [F; N])
    where
        F: Math + Into<f64>,
    {
        for (x, expected) in arguments.into_iter().zip(results) {
            let (x, y, expected) = (x.into(), function(x).into(), expected.into());
            assert_eq!(y.to_bits(), expected.to_bits(), "{y:e} at {x:e}");
        }
    }

    macro_rules! special_values {
        ($test:ident, $float:ident, $tiny_exp:expr, $huge_exp:expr) => {
            #[test]
            fn $test() {
                const NAN: $float = $float::NAN;
                const INF: $float = $float::INFINITY;
                const MAX: $float = $float::MAX;
                const LEAST: $float = $float::from_bits(1);
                const TINY: $float = $float::MIN_POSITIVE;
                const UNDER: $float = $tiny_exp;
                const OVER: $float = $huge_exp;
                const LN_2: $float = core::$float::consts::LN_2;

                let values = [NAN, -NAN, INF, -INF, MAX, -MAX, LEAST, -LEAST, 0.0, -0.0];
                let results = [NAN, NAN, INF, 0.0, INF, 0.0, 1.0, 1.0, 1.0, 1.0];
                assert_maps(exp, values, results);
                let results = [NAN, NAN, INF, -1.0, INF, -1.0, LEAST, -LEAST, 0.0, -0.0];
                assert_maps(expm1, values, results);
                let results = [NAN, NAN, 1.0, -1.0, 1.0, -1.0, LEAST, -LEAST, 0.0, -0.0];
                assert_maps(tanh, values, results);
                let results = [NAN, NAN, 1.0, 0.0, 1.0, 0.0, 0.5, 0.5, 0.5, 0.5];
                assert_maps(sigmoid, values, results);
                let results = [NAN, NAN, 0.0, 2.0, 0.0, 2.0, 1.0, 1.0, 1.0, 1.0];
                assert_maps(erfc, values, results);
                let results = [NAN, NAN, INF, NAN, ln(MAX), NAN, LEAST, NAN, 0.0, 0.0];
                assert_maps(ln_1p, values, results);
                let results = [NAN, NAN, INF, NAN, ln(MAX), NAN, ln(LEAST), NAN, -INF, -INF];
                assert_maps(ln, values, results);

                assert_maps(exp, [UNDER, UNDER - 1.0, OVER + 1.0], [LEAST, 0.0, INF]);
                assert_maps(expm1, [TINY, UNDER, OVER + 1.0], [TINY, -1.0, INF]);
                assert_maps(tanh, [TINY, -TINY, 30.0], [TINY, -TINY, 1.0]);
                assert_maps(sigmoid, [UNDER, UNDER - 1.0, 40.0], [LEAST, 0.0, 1.0]);
                assert_maps(ln, [1.0, 2.0, 0.5], [0.0, LN_2, -LN_2]);
                assert_maps(ln_1p, [TINY, 1.0, -1.0], [TINY, LN_2, NAN]);
                assert!(exp(OVER) < INF && expm1(OVER) < INF && ln(MAX) < OVER + 1.0);
            }
        };
    }

    special_values!(special_values_of_f32, f32, -103.5, 88.72);
    special_values!(special_values_of_f64, f64, -745.0, 709.78);

    #[test]
    fn tanh_is_odd() {
        for bits in (0..f32::INFINITY.to_bits()).step_by(9973) {
            let x = f32::from_bits(bits);
            assert_eq!(tanh(-x).to_bits(), (-tanh(x)).to_bits(), "{x:e}");
        }
    }

    /// The results are part of the numerics contract: whatever the machine and the instruction
    /// set, they hash to these values. They change with the numerics version alone.
    #[test]
    fn bits_are_those_of_the_contract() {
        // FNV-1a on whole words.
        let mix = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        let mut hashes = (0xcbf2_9ce4_8422_2325, 0xcbf2_9ce4_8422_2325);
        for case in &CASES {
            for i in 0..20_000_u32 {
                let narrow = f32::from_bits(i * 214_741);
                let wide = f64::from(i) * 0.005 - 50.0;
                hashes.0 = mix(hashes.0, u64::from((case.f32)(narrow).to_bits()));
                hashes.1 = mix(hashes.1, (case.f64)(wide).to_bits());
            }
        }
        assert_eq!(hashes, (0xc7ab_2796_ed35_d006, 0x7997_4f55_774d_7653));
    }

    /// Against the standard library, whose argument πx is rounded itself.
    #[test]
    fn powers_and_cosines_of_schedules_are_accurate() {
        for i in 0..=1000 {
            let x = f64::from(i) / 1000.0;
            assert!(
                (cos_pi(x) - (std::f64::consts::PI * x).cos()).abs() < 1e-15,
                "{x}"
            );
            for exponent in [0.5, 1.0, 2.0, 3.7, 64.0, 100.0, 1234.5] {
                let (ours, theirs) = (power(x, exponent), x.powf(exponent));
                assert!((ours - theirs).abs() <= 2e-13 * theirs, "{x}^{exponent}");
            }
        }
        assert_eq!([0.0, 0.5, 1.0].map(cos_pi), [1.0, 0.0, -1.0]);
        assert_eq!(power(0.5, 30.0), 0.5f64.powi(30));
    }
}
