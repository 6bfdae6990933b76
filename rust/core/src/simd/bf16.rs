//! Products in bf16, the upper half of an f32: operands are rounded, sums stay f32.
//!
//! Two values that follow each other along k lie in one 32-bit element, the first in its low half, so that every
//! layout and loop of an f32 product serves, on half the depth. A multiply-add of pairs is that of VDPBF16PS
//! (AVX512-BF16): sum = fma(second, second, sum), then fma(first, first, sum), each rounded to nearest even, and what
//! is below the normal numbers flushed to zero. Where the instruction is missing the same is done step by step, to
//! the same bits.

#[cfg(target_arch = "x86_64")]
#[allow(clippy::wildcard_imports, reason = "a dozen intrinsics")]
use std::arch::x86_64::*;

use super::tile::Strip;
use super::vector::{Plain, Vector};
use crate::element::Element;

/// What the elements of a product's operands are, and the vectors for them in each instruction set.
pub trait Arithmetic<F: Element>: 'static {
    /// See [`Vector::VALUES`].
    const VALUES: usize;
    /// Multiply-adds of two elements.
    const PRODUCTS: usize = Self::VALUES;
    /// AVX-512 with AVX512-BF16.
    #[cfg(target_arch = "x86_64")]
    type Avx512Bf16: Vector<F>;
    /// AVX-512 with AVX512-VNNI.
    #[cfg(target_arch = "x86_64")]
    type Avx512Vnni: Vector<F>;
    #[cfg(target_arch = "x86_64")]
    type Avx512: Vector<F>;
    #[cfg(target_arch = "x86_64")]
    type Avx2: Vector<F>;
    type Portable: Vector<F>;

    /// The element of two values.
    fn pair(first: F, second: F) -> F;

    /// Whether elements are quadruples of integers, and this machine has an instruction for them.
    #[inline(always)]
    fn has_vnni() -> bool {
        false
    }
}

/// Numbers as they are.
pub struct Full;

impl<F: Element> Arithmetic<F> for Full {
    const VALUES: usize = 1;
    #[cfg(target_arch = "x86_64")]
    type Avx512Bf16 = F::Avx512;
    #[cfg(target_arch = "x86_64")]
    type Avx512Vnni = F::Avx512;
    #[cfg(target_arch = "x86_64")]
    type Avx512 = F::Avx512;
    #[cfg(target_arch = "x86_64")]
    type Avx2 = F::Avx2;
    type Portable = F::Portable;

    #[inline(always)]
    fn pair(first: F, _: F) -> F {
        first
    }
}

/// Pairs of bf16.
pub struct Bf16;

impl Arithmetic<f32> for Bf16 {
    const VALUES: usize = 2;
    #[cfg(target_arch = "x86_64")]
    type Avx512Bf16 = Native;
    #[cfg(target_arch = "x86_64")]
    type Avx512Vnni = Pairs<__m512>;
    #[cfg(target_arch = "x86_64")]
    type Avx512 = Pairs<__m512>;
    #[cfg(target_arch = "x86_64")]
    type Avx2 = Pairs<__m256>;
    type Portable = Pairs<Plain<f32, 4>>;

    #[inline(always)]
    fn pair(first: f32, second: f32) -> f32 {
        f32::from_bits(rounded(first) >> 16 | rounded(second))
    }
}

/// Whether this machine has the instruction.
pub fn bf16_native() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

const UPPER: u32 = 0xFFFF_0000;
const SIGN: u32 = 1 << 31;

/// Zero, with its sign, in place of what is below the normal numbers.
#[inline(always)]
fn flush(value: f32) -> f32 {
    if value.abs() < f32::MIN_POSITIVE {
        f32::from_bits(value.to_bits() & SIGN)
    } else {
        value
    }
}

/// The nearest bf16, ties to even, in the upper half.
#[inline(always)]
fn rounded(value: f32) -> u32 {
    let bits = flush(value).to_bits();
    let nearest = bits.wrapping_add(0x7FFF + (bits >> 16 & 1));
    UPPER
        & if value.is_nan() {
            bits | 1 << 22
        } else {
            nearest
        }
}

/// The nearest bf16, ties to even; what is below the normal numbers is 0.
pub fn rounded_bf16(value: f32) -> u16 {
    (rounded(value) >> 16) as u16
}

/// Vectors that can take pairs apart.
///
/// # Safety
/// As for [`Vector`].
pub unsafe trait Halves: Vector<f32> {
    /// The first values, in f32.
    unsafe fn first(self) -> Self;
    /// The second values.
    unsafe fn second(self) -> Self;
    /// [`flush`].
    unsafe fn flush(self) -> Self;
}

// SAFETY: no instruction set is needed.
unsafe impl Halves for Plain<f32, 4> {
    #[inline(always)]
    unsafe fn first(self) -> Self {
        Self(self.0.map(|value| f32::from_bits(value.to_bits() << 16)))
    }
    #[inline(always)]
    unsafe fn second(self) -> Self {
        Self(self.0.map(|value| f32::from_bits(value.to_bits() & UPPER)))
    }
    #[inline(always)]
    unsafe fn flush(self) -> Self {
        Self(self.0.map(flush))
    }
}

#[cfg(target_arch = "x86_64")]
// SAFETY: the intrinsics are those of AVX2.
unsafe impl Halves for __m256 {
    #[inline(always)]
    unsafe fn first(self) -> Self {
        // SAFETY: forwarded to the caller.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(self))) }
    }
    #[inline(always)]
    unsafe fn second(self) -> Self {
        // SAFETY: forwarded to the caller.
        unsafe { _mm256_and_ps(self, _mm256_set1_ps(f32::from_bits(UPPER))) }
    }
    #[inline(always)]
    unsafe fn flush(self) -> Self {
        // SAFETY: forwarded to the caller.
        unsafe {
            let sign = _mm256_set1_ps(f32::from_bits(SIGN));
            let size = _mm256_andnot_ps(sign, self);
            let small = _mm256_cmp_ps::<_CMP_LT_OQ>(size, _mm256_set1_ps(f32::MIN_POSITIVE));
            _mm256_andnot_ps(_mm256_andnot_ps(sign, small), self)
        }
    }
}

#[cfg(target_arch = "x86_64")]
// SAFETY: the intrinsics are those of AVX-512 F and DQ.
unsafe impl Halves for __m512 {
    #[inline(always)]
    unsafe fn first(self) -> Self {
        // SAFETY: forwarded to the caller.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(self))) }
    }
    #[inline(always)]
    unsafe fn second(self) -> Self {
        // SAFETY: forwarded to the caller.
        unsafe { _mm512_and_ps(self, _mm512_set1_ps(f32::from_bits(UPPER))) }
    }
    #[inline(always)]
    unsafe fn flush(self) -> Self {
        // SAFETY: forwarded to the caller.
        unsafe {
            let size = _mm512_abs_ps(self);
            let small = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(size, _mm512_set1_ps(f32::MIN_POSITIVE));
            _mm512_mask_and_ps(self, small, self, _mm512_set1_ps(f32::from_bits(SIGN)))
        }
    }
}

/// Pairs, multiplied step by step.
#[derive(Clone, Copy)]
pub struct Pairs<V>(V);

/// Pairs, multiplied by the instruction.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub struct Native(__m512);

/// The members of [`Vector`] that do not look into elements, but for `add`.
macro_rules! wrapped {
    ($inner:ty, $values:literal) => {
        const LANES: usize = <$inner>::LANES;
        const VALUES: usize = $values;
        const ROWS: [usize; 4] = <$inner>::ROWS;
        const ACROSS: usize = <$inner>::ACROSS;

        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: forwarded to the caller.
            Self(unsafe { <$inner>::zero() })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: forwarded to the caller.
            Self(unsafe { <$inner>::load(from) })
        }
        #[inline(always)]
        unsafe fn splat(from: *const f32) -> Self {
            // SAFETY: forwarded to the caller.
            Self(unsafe { <$inner>::splat(from) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: forwarded to the caller.
            unsafe { self.0.store(to) }
        }
        #[inline(always)]
        unsafe fn transpose(rows: &mut [Self; 16]) {
            let mut inner = rows.map(|row| row.0);
            // SAFETY: forwarded to the caller.
            unsafe { <$inner>::transpose(&mut inner) };
            *rows = inner.map(Self);
        }
    };
}
pub(super) use wrapped;

// SAFETY: the instruction set is that of V.
unsafe impl<V: Halves> Vector<f32> for Pairs<V> {
    wrapped!(V, 2);

    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        // SAFETY: forwarded to the caller.
        Self(unsafe { self.0.add(b.0) })
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, sum: Self) -> Self {
        // SAFETY: forwarded to the caller.
        unsafe {
            let sum = self.0.second().fma(b.0.second(), sum.0).flush();
            Self(self.0.first().fma(b.0.first(), sum).flush())
        }
    }
    #[inline(always)]
    unsafe fn across(self, second: Self) -> Self {
        let (mut firsts, mut seconds) = ([0.0; 16], [0.0; 16]);
        // SAFETY: forwarded to the caller; no vector has more than 16 lanes.
        unsafe {
            self.0.store(firsts.as_mut_ptr());
            second.0.store(seconds.as_mut_ptr());
            let pairs: [f32; 16] = std::array::from_fn(|i| Bf16::pair(firsts[i], seconds[i]));
            Self(V::load(pairs.as_ptr()))
        }
    }
    #[inline(always)]
    unsafe fn along(self, next: Self) -> Self {
        let mut values = [0.0; 32];
        let mut pairs = [0.0; 16];
        // SAFETY: forwarded to the caller; no vector has more than 16 lanes.
        unsafe {
            self.0.store(values.as_mut_ptr());
            next.0.store(values.as_mut_ptr().add(V::LANES));
            for i in 0..16 {
                pairs[i] = Bf16::pair(values[2 * i], values[2 * i + 1]);
            }
            Self(V::load(pairs.as_ptr()))
        }
    }
    #[inline(always)]
    unsafe fn tile<W: Vector<f32>, const R: usize, const C: usize, const TURNED: bool>(
        strip: &Strip<f32>,
    ) {
        // SAFETY: forwarded to the caller.
        unsafe { V::tile::<W, R, C, TURNED>(strip) }
    }
}

#[cfg(target_arch = "x86_64")]
const _: () = {
    use super::tile::tile;
    use super::vector::compiled_tile;

    // SAFETY: the intrinsics are those of AVX-512 F and BW and AVX512-BF16.
    unsafe impl Vector<f32> for Native {
        wrapped!(__m512, 2);

        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            // SAFETY: forwarded to the caller.
            Self(unsafe { self.0.add(b.0) })
        }
        #[inline(always)]
        unsafe fn fma(self, b: Self, sum: Self) -> Self {
            // SAFETY: forwarded to the caller; the types are 64 bytes of any contents.
            unsafe {
                let halves = |x: Self| std::mem::transmute::<__m512, __m512bh>(x.0);
                Self(_mm512_dpbf16_ps(sum.0, halves(self), halves(b)))
            }
        }
        #[inline(always)]
        unsafe fn across(self, second: Self) -> Self {
            // SAFETY: as above.
            unsafe {
                let halves = self.along(second);
                // Word i of the first values to 2i, of the second ones to 2i + 1.
                let order = _mm512_set_epi16(
                    31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                    5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0,
                );
                let halves = _mm512_castps_si512(halves.0);
                Self(_mm512_castsi512_ps(_mm512_permutexvar_epi16(order, halves)))
            }
        }
        #[inline(always)]
        unsafe fn along(self, next: Self) -> Self {
            // SAFETY: as above.
            unsafe {
                let halves = _mm512_cvtne2ps_pbh(next.0, self.0);
                Self(std::mem::transmute::<__m512bh, __m512>(halves))
            }
        }
        compiled_tile!(
            f32,
            "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq,avx512bf16"
        );
    }
};

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    /// Any bits, many of them at the ends of the range.
    fn bits(index: u32) -> f32 {
        let mixed = (index + 1).wrapping_mul(0x9E37_79B9);
        let mixed = (mixed ^ mixed >> 15).wrapping_mul(0x85EB_CA6B) ^ mixed >> 11;
        let exponent = match index % 4 {
            0 => mixed >> 9 & 15,
            1 => 64 + (mixed >> 9 & 1),
            2 => 120 + (mixed >> 9 & 15),
            _ => mixed >> 9 & 255,
        };
        f32::from_bits(mixed & 0x807F_FFFF | exponent << 23)
    }

    /// Elements that `across`, `along` and `fma` give, NaN all alike.
    #[inline(always)]
    unsafe fn results<V: Vector<f32>>(seed: u32) -> Vec<u32> {
        let mut values: Vec<f32> = (0..80).map(|i| bits(80 * seed + i)).collect();
        // Sums come from an earlier multiply-add.
        values[64..].iter_mut().for_each(|sum| *sum = flush(*sum));
        // SAFETY: forwarded to the caller; `values` and `out` have room for five and three vectors of 16.
        unsafe {
            let [a, b, c, d, sum] = std::array::from_fn(|i| V::load(values[16 * i..].as_ptr()));
            let mut out = [0.0f32; 48];
            let (left, right) = (a.across(b), c.along(d));
            left.store(out.as_mut_ptr());
            right.store(out[16..].as_mut_ptr());
            left.fma(right, sum).store(out[32..].as_mut_ptr());
            let sums = out[32..]
                .iter()
                .map(|v| if v.is_nan() { u32::MAX } else { v.to_bits() });
            out[..32].iter().map(|v| v.to_bits()).chain(sums).collect()
        }
    }

    #[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq,avx512bf16")]
    fn both(seed: u32) -> [Vec<u32>; 2] {
        // SAFETY: the features are there.
        unsafe { [results::<Native>(seed), results::<Pairs<__m512>>(seed)] }
    }

    #[test]
    fn the_instruction_and_its_emulation_give_the_same_bits() {
        if !bf16_native() {
            return;
        }
        for seed in 0..20_000 {
            // SAFETY: the instruction was found, and machines with it have the rest.
            let [native, emulated] = unsafe { both(seed) };
            assert_eq!(native, emulated, "{seed}");
        }
    }
}
