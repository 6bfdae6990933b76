//! Elementary functions with the same bits on every machine.
//!
//! Each algorithm is written once for `f32` and `f64` and computes natively in that format, by
//! operations that IEEE 754 specifies exactly: + − × ÷, fused multiply-add, comparison and
//! selection, casts and shifts of bits. There are no branches, so a loop over a slice becomes
//! vector code under whatever instruction set its caller is compiled for, with the same results.
//!
//! A NaN argument gives the one quiet NaN, [`Math::NAN`], and so does an argument outside the
//! domain. Results stay in the mathematical range of their function. Subnormal arguments and
//! results are exact to the same bounds. The bounds are errors in units in the last place of the
//! true value: for `f32` over all arguments, for `f64` over samples (`examples/ulp.rs`).

#![allow(
    clippy::inline_always,
    reason = "the functions must become part of loops that are compiled for other instruction sets"
)]
#![allow(
    clippy::many_single_char_names,
    reason = "the names are those of the formulas"
)]

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
    const ZERO: Self;
    const HALF: Self;
    const ONE: Self;
    const TWO: Self;
    const INFINITY: Self;
    const NEG_INFINITY: Self;
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
    const LN2_LO: Self;
    /// At and below `EXP_MIN` exp rounds to 0, at and above `EXP_MAX` it overflows.
    const EXP_MIN: Self;
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
    const ERFC_LIMIT: Self;
    const ERFC_SHIFT: Self;
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
        const NAN: $float = $float::NAN;
        const MIN_POSITIVE: $float = $float::MIN_POSITIVE;
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

    const NORMALIZER: (f32, f32) = (33_554_432.0, 25.0);
    const EXP_MIN: f32 = -104.0;
    const EXP_MAX: f32 = 89.0;
    const EXPM1_MIN: f32 = -18.0;
    const TANH_LIMIT: f32 = 20.0;

    // What follows is printed by coefficients.py.
    const LN2_LO: f32 = -1.9046542e-9;
    // p in expm1(r) = r + r^2 p(r), |r| <= ln(2)/2. Error 2^-29.0.
    #[rustfmt::skip]
    const EXPM1: &[f32] = &[
        0.0001988277,
        0.0013926249,
        0.008333321,
        0.041666552,
        0.16666667,
        0.5,
    ];
    // g in ln((1 + s) / (1 - s)) = 2s + s z g(z), z = s^2. Error 2^-28.55.
    #[rustfmt::skip]
    const LN: &[f32] = &[
        0.29580963,
        0.3998876,
        0.66666687,
    ];
    const ERFC_LIMIT: f32 = 10.1;
    const ERFC_SHIFT: f32 = 1.75;
    const ERFC_SCALE: f32 = -2.3465347;
    // P in erfc(x) = t exp(-x^2) P(y). Error 2^-23.66.
    #[rustfmt::skip]
    const ERFC: &[f32] = &[
        -4.243757e-6,
        -1.1000679e-5,
        6.356808e-5,
        -8.299979e-8,
        -0.00045831877,
        0.0007954821,
        0.002441062,
        -0.010304671,
        -0.017825335,
        0.12299264,
        0.56140965,
        1.0909013,
    ];
}

#[allow(
    clippy::unreadable_literal,
    reason = "the script prints the shortest literals"
)]
impl Math for f64 {
    operations!(f64, u64);

    const NORMALIZER: (f64, f64) = (18_014_398_509_481_984.0, 54.0);
    const EXP_MIN: f64 = -746.0;
    const EXP_MAX: f64 = 710.0;
    const EXPM1_MIN: f64 = -38.0;
    const TANH_LIMIT: f64 = 40.0;

    // What follows is printed by coefficients.py.
    const LN2_LO: f64 = 2.3190468138462996e-17;
    // p in expm1(r) = r + r^2 p(r), |r| <= ln(2)/2. Error 2^-58.48.
    #[rustfmt::skip]
    const EXPM1: &[f64] = &[
        2.091129714711246e-9,
        2.5100470238808523e-8,
        2.75572828422099e-7,
        2.7557268281679976e-6,
        2.4801587317226525e-5,
        0.00019841269863168478,
        0.0013888888888886537,
        0.008333333333330039,
        0.041666666666666664,
        0.16666666666666669,
        0.5,
    ];
    // g in ln((1 + s) / (1 - s)) = 2s + s z g(z), z = s^2. Error 2^-57.57.
    #[rustfmt::skip]
    const LN: &[f64] = &[
        0.14617775335974037,
        0.15331614298732416,
        0.18182892354942654,
        0.2222221109044554,
        0.285714286262473,
        0.39999999999898905,
        0.666666666666667,
    ];
    const ERFC_LIMIT: f64 = 27.3;
    const ERFC_SHIFT: f64 = 2.5;
    const ERFC_SCALE: f64 = -2.183150183150183;
    // P in erfc(x) = t exp(-x^2) P(y). Error 2^-52.23.
    #[rustfmt::skip]
    const ERFC: &[f64] = &[
        -2.5398819623755137e-10,
        4.951805939594867e-10,
        1.822770687788215e-9,
        -5.922578521530712e-9,
        -2.197851994785411e-9,
        3.46859014030161e-8,
        -4.419447609082863e-8,
        -1.1361869724074666e-7,
        4.3130988487341497e-7,
        -7.89418644497687e-9,
        -2.5909226713638424e-6,
        3.4597848057246885e-6,
        1.290021625722949e-5,
        -3.63634346443614e-5,
        -6.503632258459327e-5,
        0.00031022179049836843,
        0.00048111838998347704,
        -0.0026165532126145906,
        -0.00692419985529445,
        0.01714639178736133,
        0.13848583013875826,
        0.41808113029295324,
        0.8102901117544836,
        1.124833285360749,
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

/// Splits x = n ln 2 + r, |r| ≤ ln 2 / 2: returns `ROUNDER` + n and r.
#[inline(always)]
fn reduce<F: Math>(x: F) -> (F, F) {
    let shifted = x.fma(F::LOG2_E, F::ROUNDER);
    let minus_n = F::ROUNDER - shifted;
    // The inner step is exact: x and n ln 2 are close.
    let r = minus_n.fma(F::LN2_LO, minus_n.fma(F::LN2_HI, x));
    (shifted, r)
}

/// Returns expm1(r) − r for |r| ≤ ln 2 / 2.
#[inline(always)]
fn expm1_beyond_linear<F: Math>(r: F) -> F {
    r * r * polynomial(r, F::EXPM1)
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
    let (shifted, r) = reduce(x);
    scale(F::ONE + (r + expm1_beyond_linear(r)), shifted)
}

/// Returns expm1(x) / 2 for `EXPM1_MIN` ≤ x ≤ `EXP_MAX`, `EXPM1_TINY` ≤ |x|.
#[inline(always)]
fn half_expm1<F: Math>(x: F) -> F {
    let (shifted, r) = reduce(x);
    let power = shifted.half_power();
    power.fma(expm1_beyond_linear(r), power.fma(r, power - F::HALF))
}

/// Returns e^x.
#[inline(always)]
pub fn exp<F: Math>(x: F) -> F {
    let bounded = if x < F::EXP_MAX { x } else { F::EXP_MAX };
    unless_nan(x, exp_below(bounded))
}

/// Returns e^x − 1, accurate near 0 too. Keeps −0.0.
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

/// Returns the natural logarithm: −∞ at ±0, NaN below.
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

/// Returns ln(1 + x) for x ≥ 0, accurate near 0 too; NaN below.
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

/// Returns tanh x, in [−1, 1]. Keeps −0.0.
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

/// Returns 1 / (1 + e^−x), in [0, 1].
#[inline(always)]
pub fn sigmoid<F: Math>(x: F) -> F {
    // e / (1 + e) = e − e e / (1 + e) for x < 0, and 1 / (1 + e) = 1 − e / (1 + e).
    let e = exp_below(-x.magnitude());
    let g = if x < F::ZERO { e } else { F::ONE };
    unless_nan(x, (-g).fma(e / (F::ONE + e), g))
}

/// Returns 1 − erf x = 2/√π ∫ₓ^∞ exp(−u²) du, in [0, 2], with relative accuracy for large x too.
#[inline(always)]
pub fn erfc<F: Math>(x: F) -> F {
    let a = x.magnitude();
    let a = if a < F::ERFC_LIMIT { a } else { F::ERFC_LIMIT };
    let t = F::ONE / (F::ERFC_SHIFT + a);
    let p = t * polynomial((a * t).fma(F::ERFC_SCALE, F::ONE), F::ERFC);
    // −a² = square + low exactly.
    let square = -(a * a);
    let low = (-a).fma(a, -square);
    let (shifted, r) = reduce(square);
    let r = r + low;
    let y = scale((r + expm1_beyond_linear(r)).fma(p, p), shifted);
    unless_nan(x, if x < F::ZERO { F::TWO - y } else { y })
}
