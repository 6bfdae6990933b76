//! Products of 8-bit integers: unsigned ones on the left, signed ones on the right, sums in 32 bits, exact.
//!
//! Four values that follow each other along k lie in one 32-bit element, the first in its lowest byte, so that every
//! layout and loop of an f32 product serves, on a quarter of the depth. The elements of a sum are integers of 32 bits.
//! All of them travel as f32, whose bits nobody looks at. A multiply-add of quadruples is that of VPDPBUSD
//! (AVX512-VNNI); where it is missing, bytes are widened to 16 bits first, so that nothing saturates.

#[cfg(target_arch = "x86_64")]
#[allow(clippy::wildcard_imports, reason = "a dozen intrinsics")]
use std::arch::x86_64::*;

use super::bf16::{Arithmetic, wrapped};
use super::tile::Strip;
use super::vector::{Plain, Vector};
use crate::element::Element;

/// Values in one element.
pub const VALUES: usize = 4;

/// Quadruples of integers.
pub struct Int8;

impl Arithmetic<f32> for Int8 {
    /// A right operand is in quadruples already.
    const VALUES: usize = 1;
    const PRODUCTS: usize = VALUES;
    #[cfg(target_arch = "x86_64")]
    type Avx512Bf16 = Quads<__m512>;
    #[cfg(target_arch = "x86_64")]
    type Avx512Vnni = Native;
    #[cfg(target_arch = "x86_64")]
    type Avx512 = Quads<__m512>;
    #[cfg(target_arch = "x86_64")]
    type Avx2 = Quads<__m256>;
    type Portable = Quads<Plain<f32, 4>>;

    #[inline(always)]
    fn pair(first: f32, _: f32) -> f32 {
        first
    }

    #[inline(always)]
    fn has_vnni() -> bool {
        vnni_native()
    }
}

/// Whether this machine has the instruction.
pub fn vnni_native() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512vnni")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// The bytes of an element, given as its bits.
#[inline(always)]
pub fn bytes(bits: u32) -> [u8; VALUES] {
    bits.to_ne_bytes()
}

/// The bits of an element of four bytes.
#[inline(always)]
pub fn quad(bytes: [u8; VALUES]) -> u32 {
    u32::from_ne_bytes(bytes)
}

/// The bytes of elements.
#[inline(always)]
pub fn bytes_of<F: Element>(elements: &mut [F]) -> &mut [u8] {
    let len = size_of_val(elements);
    // SAFETY: the elements are plain numbers, of which any bytes are values; the slice stays borrowed.
    unsafe { std::slice::from_raw_parts_mut(elements.as_mut_ptr().cast(), len) }
}

/// Vectors that multiply quadruples.
///
/// # Safety
/// As for [`Vector`].
pub unsafe trait Integers: Vector<f32> {
    /// sum + self · b, of unsigned bytes in `self` and signed ones in `b`.
    unsafe fn multiply_add(self, b: Self, sum: Self) -> Self;
    /// The sums of integers.
    unsafe fn plus(self, b: Self) -> Self;
}

// SAFETY: no instruction set is needed.
unsafe impl Integers for Plain<f32, 4> {
    #[inline(always)]
    unsafe fn multiply_add(self, b: Self, sums: Self) -> Self {
        Self(std::array::from_fn(|i| {
            let [a, b, sum] = [self.0[i], b.0[i], sums.0[i]].map(f32::to_bits);
            let pairs = bytes(a).into_iter().zip(bytes(b));
            let products = pairs.map(|(a, b)| i32::from(a) * i32::from(b as i8));
            f32::from_bits(products.fold(sum as i32, i32::wrapping_add) as u32)
        }))
    }
    #[inline(always)]
    unsafe fn plus(self, b: Self) -> Self {
        Self(std::array::from_fn(|i| {
            f32::from_bits(self.0[i].to_bits().wrapping_add(b.0[i].to_bits()))
        }))
    }
}

#[cfg(target_arch = "x86_64")]
// SAFETY: the intrinsics are those of AVX2.
unsafe impl Integers for __m256 {
    #[inline(always)]
    unsafe fn multiply_add(self, b: Self, sum: Self) -> Self {
        // SAFETY: forwarded to the caller.
        unsafe {
            let [a, b, sum] = [self, b, sum].map(|x| _mm256_castps_si256(x));
            // Bytes 0 and 2 of each element, then 1 and 3, as integers of 16 bits.
            let even = _mm256_and_si256(a, _mm256_set1_epi32(0x00FF_00FF));
            let odd = _mm256_srli_epi16::<8>(a);
            let even_b = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b));
            let odd_b = _mm256_srai_epi16::<8>(b);
            let products = _mm256_add_epi32(
                _mm256_madd_epi16(even, even_b),
                _mm256_madd_epi16(odd, odd_b),
            );
            _mm256_castsi256_ps(_mm256_add_epi32(sum, products))
        }
    }
    #[inline(always)]
    unsafe fn plus(self, b: Self) -> Self {
        // SAFETY: forwarded to the caller.
        unsafe {
            let [a, b] = [self, b].map(|x| _mm256_castps_si256(x));
            _mm256_castsi256_ps(_mm256_add_epi32(a, b))
        }
    }
}

#[cfg(target_arch = "x86_64")]
// SAFETY: the intrinsics are those of AVX-512 F and BW.
unsafe impl Integers for __m512 {
    #[inline(always)]
    unsafe fn multiply_add(self, b: Self, sum: Self) -> Self {
        // SAFETY: forwarded to the caller.
        unsafe {
            let [a, b, sum] = [self, b, sum].map(|x| _mm512_castps_si512(x));
            // As in 256 bits.
            let even = _mm512_and_si512(a, _mm512_set1_epi32(0x00FF_00FF));
            let odd = _mm512_srli_epi16::<8>(a);
            let even_b = _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(b));
            let odd_b = _mm512_srai_epi16::<8>(b);
            let products = _mm512_add_epi32(
                _mm512_madd_epi16(even, even_b),
                _mm512_madd_epi16(odd, odd_b),
            );
            _mm512_castsi512_ps(_mm512_add_epi32(sum, products))
        }
    }
    #[inline(always)]
    unsafe fn plus(self, b: Self) -> Self {
        // SAFETY: forwarded to the caller.
        unsafe {
            let [a, b] = [self, b].map(|x| _mm512_castps_si512(x));
            _mm512_castsi512_ps(_mm512_add_epi32(a, b))
        }
    }
}

/// Quadruples, multiplied by instructions for 16 bits.
#[derive(Clone, Copy)]
pub struct Quads<V>(V);

/// Quadruples, multiplied by the instruction.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub struct Native(__m512);

// SAFETY: the instruction set is that of V.
unsafe impl<V: Integers> Vector<f32> for Quads<V> {
    wrapped!(V, 1);

    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        // SAFETY: forwarded to the caller.
        Self(unsafe { self.0.plus(b.0) })
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, sum: Self) -> Self {
        // SAFETY: forwarded to the caller.
        Self(unsafe { self.0.multiply_add(b.0, sum.0) })
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

    // SAFETY: the intrinsics are those of AVX-512 F and AVX512-VNNI.
    unsafe impl Vector<f32> for Native {
        wrapped!(__m512, 1);

        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            // SAFETY: forwarded to the caller.
            Self(unsafe { self.0.plus(b.0) })
        }
        #[inline(always)]
        unsafe fn fma(self, b: Self, sum: Self) -> Self {
            // SAFETY: forwarded to the caller.
            unsafe {
                let [a, b, sum] = [self, b, sum].map(|x| _mm512_castps_si512(x.0));
                Self(_mm512_castsi512_ps(_mm512_dpbusd_epi32(sum, a, b)))
            }
        }
        compiled_tile!(
            f32,
            "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq,avx512vnni"
        );
    }
};

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    /// Sums that `fma` and `add` give, for any bytes.
    #[inline(always)]
    unsafe fn results<V: Vector<f32>>(seed: u32) -> Vec<u32> {
        let mut values = [0.0f32; 64];
        for (i, value) in values.iter_mut().enumerate() {
            let mixed = (64 * seed + i as u32 + 1).wrapping_mul(0x9E37_79B9);
            let mixed = (mixed ^ mixed >> 15).wrapping_mul(0x85EB_CA6B) ^ mixed >> 11;
            // Bytes at the ends of their range, too.
            *value = f32::from_bits(if i % 3 == 0 {
                mixed | 0xFF80_7F00
            } else {
                mixed
            });
        }
        let mut out = [0.0f32; 16];
        for lane in (0..16).step_by(V::LANES) {
            // SAFETY: forwarded to the caller; every pointer has room for a vector.
            unsafe {
                let [a, b, c, sum] =
                    std::array::from_fn(|i| V::load(values[16 * i + lane..].as_ptr()));
                a.fma(b, c.fma(a, sum))
                    .add(b)
                    .store(out[lane..].as_mut_ptr());
            }
        }
        out.iter().map(|value| value.to_bits()).collect()
    }

    #[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq,avx512vnni")]
    fn all(seed: u32) -> [Vec<u32>; 4] {
        // SAFETY: the features are there.
        unsafe {
            [
                results::<Quads<Plain<f32, 4>>>(seed),
                results::<Quads<__m256>>(seed),
                results::<Quads<__m512>>(seed),
                results::<Native>(seed),
            ]
        }
    }

    #[test]
    fn the_instruction_and_its_emulations_give_the_same_sums() {
        if !vnni_native() {
            return;
        }
        for seed in 0..20_000 {
            // SAFETY: the instruction was found, and machines with it have the rest.
            let [portable, avx2, avx512, native] = unsafe { all(seed) };
            assert_eq!(portable, avx2, "{seed}");
            assert_eq!(portable, avx512, "{seed}");
            assert_eq!(portable, native, "{seed}");
        }
    }
}
