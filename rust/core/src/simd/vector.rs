//! Vectors of each instruction set, as far as a product needs them: the only place of intrinsics.

#[cfg(target_arch = "x86_64")]
#[allow(clippy::wildcard_imports, reason = "forty intrinsics")]
use std::arch::x86_64::*;

use super::tile::{Strip, tile};
use crate::element::Element;

/// A vector of elements in one instruction set.
///
/// # Safety
/// Every function may only run on a machine with that instruction set, and pointers must be valid for
/// [`Self::LANES`] elements (for one in `splat`).
pub unsafe trait Vector<F: Element>: Copy {
    const LANES: usize;
    /// Values of k in one element of an operand: 2 where elements are pairs of bf16 (see [`super::bf16`]).
    const VALUES: usize = 1;
    /// Most rows of a register tile that is 1, 2, 3 or 4 vectors wide; 0 where that width is not used.
    const ROWS: [usize; 4];
    /// Vectors side by side in the widest tile.
    const ACROSS: usize;

    unsafe fn zero() -> Self;
    unsafe fn load(from: *const F) -> Self;
    /// The element at `from` in every lane.
    unsafe fn splat(from: *const F) -> Self;
    unsafe fn store(self, to: *mut F);
    /// self · b + sum, rounded once.
    unsafe fn fma(self, b: Self, sum: Self) -> Self;
    unsafe fn add(self, b: Self) -> Self;
    /// Transposes the square matrix whose rows are the first [`Self::LANES`] entries of `rows`.
    unsafe fn transpose(rows: &mut [Self; 16]);
    /// Where elements are pairs: those of the same lanes of two vectors of values.
    #[inline(always)]
    unsafe fn across(self, _second: Self) -> Self {
        self
    }
    /// Where elements are pairs: those of neighbours in this vector of values, then in `next`.
    #[inline(always)]
    unsafe fn along(self, _next: Self) -> Self {
        self
    }
    /// [`tile`] of vectors W, compiled for the instruction set.
    unsafe fn tile<W: Vector<F>, const R: usize, const C: usize, const TURNED: bool>(
        strip: &Strip<F>,
    );
}

/// [`Vector::tile`] with target features.
macro_rules! compiled_tile {
    ($float:ty $(, $features:literal)?) => {
        #[inline(always)]
        unsafe fn tile<W: Vector<$float>, const R: usize, const C: usize, const TURNED: bool>(
            strip: &Strip<$float>,
        ) {
            $(#[target_feature(enable = $features)])?
            #[inline(never)]
            unsafe fn compiled<W: Vector<$float>, const R: usize, const C: usize, const TURNED: bool>(
                strip: &Strip<$float>,
            ) {
                // SAFETY: forwarded to the caller.
                unsafe { tile::<$float, W, R, C, TURNED>(strip) }
            }
            // SAFETY: forwarded to the caller.
            unsafe { compiled::<W, R, C, TURNED>(strip) }
        }
    };
}
pub(super) use compiled_tile;

/// What needs no instruction set: sixteen bytes at a time.
#[derive(Clone, Copy)]
pub struct Plain<F, const N: usize>(pub(super) [F; N]);

macro_rules! portable {
    ($float:ident, $lanes:literal) => {
        const _: () = {
            // SAFETY: no instruction set is needed; pointers are the caller's.
            unsafe impl Vector<$float> for Plain<$float, $lanes> {
                const LANES: usize = $lanes;
                const ROWS: [usize; 4] = [0, 0, 0, 4];
                const ACROSS: usize = 4;

                #[inline(always)]
                unsafe fn zero() -> Self {
                    Self([0.0; $lanes])
                }
                #[inline(always)]
                unsafe fn load(from: *const $float) -> Self {
                    // SAFETY: forwarded to the caller.
                    Self(unsafe { from.cast::<[$float; $lanes]>().read() })
                }
                #[inline(always)]
                unsafe fn splat(from: *const $float) -> Self {
                    // SAFETY: forwarded to the caller.
                    Self([unsafe { *from }; $lanes])
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut $float) {
                    // SAFETY: forwarded to the caller.
                    unsafe { to.cast::<[$float; $lanes]>().write(self.0) }
                }
                #[inline(always)]
                unsafe fn fma(self, b: Self, sum: Self) -> Self {
                    Self(std::array::from_fn(|i| self.0[i].mul_add(b.0[i], sum.0[i])))
                }
                #[inline(always)]
                unsafe fn add(self, b: Self) -> Self {
                    Self(std::array::from_fn(|i| self.0[i] + b.0[i]))
                }
                #[inline(always)]
                unsafe fn transpose(rows: &mut [Self; 16]) {
                    for i in 0..$lanes {
                        for j in 0..i {
                            let (above, below) = (rows[j].0[i], rows[i].0[j]);
                            (rows[j].0[i], rows[i].0[j]) = (below, above);
                        }
                    }
                }
                compiled_tile!($float);
            }
        };
    };
}
portable!(f32, 4);
portable!(f64, 2);

/// The members of [`Vector`] that are one intrinsic each.
#[cfg(target_arch = "x86_64")]
macro_rules! intrinsics {
    ($float:ident, $zero:ident, $load:ident, $splat:ident, $store:ident, $fma:ident, $add:ident) => {
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: forwarded to the caller.
            unsafe { $zero() }
        }
        #[inline(always)]
        unsafe fn load(from: *const $float) -> Self {
            // SAFETY: forwarded to the caller.
            unsafe { $load(from) }
        }
        #[inline(always)]
        unsafe fn splat(from: *const $float) -> Self {
            // SAFETY: forwarded to the caller.
            unsafe { $splat(*from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut $float) {
            // SAFETY: forwarded to the caller.
            unsafe { $store(to, self) }
        }
        #[inline(always)]
        unsafe fn fma(self, b: Self, sum: Self) -> Self {
            // SAFETY: forwarded to the caller.
            unsafe { $fma(self, b, sum) }
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            // SAFETY: forwarded to the caller.
            unsafe { $add(self, b) }
        }
    };
}

#[cfg(target_arch = "x86_64")]
const _: () = {
    // SAFETY: the intrinsics are those of AVX-512F.
    unsafe impl Vector<f32> for __m512 {
        const LANES: usize = 16;
        const ROWS: [usize; 4] = [12, 12, 8, 6];
        const ACROSS: usize = 4;
        intrinsics!(
            f32,
            _mm512_setzero_ps,
            _mm512_loadu_ps,
            _mm512_set1_ps,
            _mm512_storeu_ps,
            _mm512_fmadd_ps,
            _mm512_add_ps
        );
        #[inline(always)]
        unsafe fn transpose(rows: &mut [Self; 16]) {
            // SAFETY: forwarded to the caller.
            unsafe {
                // Pairs, then quadruples inside each 128-bit block.
                let mut t = *rows;
                for i in (0..16).step_by(2) {
                    t[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
                    t[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
                }
                let mut q = *rows;
                for i in (0..16).step_by(4) {
                    q[i] = _mm512_shuffle_ps::<0x44>(t[i], t[i + 2]);
                    q[i + 1] = _mm512_shuffle_ps::<0xEE>(t[i], t[i + 2]);
                    q[i + 2] = _mm512_shuffle_ps::<0x44>(t[i + 1], t[i + 3]);
                    q[i + 3] = _mm512_shuffle_ps::<0xEE>(t[i + 1], t[i + 3]);
                }
                // q[4g + j] holds in block b column 4b + j of rows 4g to 4g + 3: transpose the blocks.
                for j in 0..4 {
                    let low = _mm512_shuffle_f32x4::<0x44>(q[j], q[4 + j]);
                    let high = _mm512_shuffle_f32x4::<0xEE>(q[j], q[4 + j]);
                    let low2 = _mm512_shuffle_f32x4::<0x44>(q[8 + j], q[12 + j]);
                    let high2 = _mm512_shuffle_f32x4::<0xEE>(q[8 + j], q[12 + j]);
                    rows[j] = _mm512_shuffle_f32x4::<0x88>(low, low2);
                    rows[4 + j] = _mm512_shuffle_f32x4::<0xDD>(low, low2);
                    rows[8 + j] = _mm512_shuffle_f32x4::<0x88>(high, high2);
                    rows[12 + j] = _mm512_shuffle_f32x4::<0xDD>(high, high2);
                }
            }
        }
        compiled_tile!(f32, "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq");
    }
};

#[cfg(target_arch = "x86_64")]
const _: () = {
    // SAFETY: the intrinsics are those of AVX-512F.
    unsafe impl Vector<f64> for __m512d {
        const LANES: usize = 8;
        const ROWS: [usize; 4] = [12, 12, 8, 6];
        const ACROSS: usize = 4;
        intrinsics!(
            f64,
            _mm512_setzero_pd,
            _mm512_loadu_pd,
            _mm512_set1_pd,
            _mm512_storeu_pd,
            _mm512_fmadd_pd,
            _mm512_add_pd
        );
        #[inline(always)]
        unsafe fn transpose(rows: &mut [Self; 16]) {
            // SAFETY: forwarded to the caller.
            unsafe {
                // t[2g + j] holds in block b column 2b + j of rows 2g and 2g + 1: transpose the blocks.
                let mut t = *rows;
                for i in (0..8).step_by(2) {
                    t[i] = _mm512_unpacklo_pd(rows[i], rows[i + 1]);
                    t[i + 1] = _mm512_unpackhi_pd(rows[i], rows[i + 1]);
                }
                for j in 0..2 {
                    let low = _mm512_shuffle_f64x2::<0x44>(t[j], t[2 + j]);
                    let high = _mm512_shuffle_f64x2::<0xEE>(t[j], t[2 + j]);
                    let low2 = _mm512_shuffle_f64x2::<0x44>(t[4 + j], t[6 + j]);
                    let high2 = _mm512_shuffle_f64x2::<0xEE>(t[4 + j], t[6 + j]);
                    rows[j] = _mm512_shuffle_f64x2::<0x88>(low, low2);
                    rows[2 + j] = _mm512_shuffle_f64x2::<0xDD>(low, low2);
                    rows[4 + j] = _mm512_shuffle_f64x2::<0x88>(high, high2);
                    rows[6 + j] = _mm512_shuffle_f64x2::<0xDD>(high, high2);
                }
            }
        }
        compiled_tile!(f64, "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq");
    }
};

#[cfg(target_arch = "x86_64")]
const _: () = {
    // SAFETY: the intrinsics are those of AVX and FMA.
    unsafe impl Vector<f32> for __m256 {
        const LANES: usize = 8;
        const ROWS: [usize; 4] = [0, 6, 0, 0];
        const ACROSS: usize = 2;
        intrinsics!(
            f32,
            _mm256_setzero_ps,
            _mm256_loadu_ps,
            _mm256_set1_ps,
            _mm256_storeu_ps,
            _mm256_fmadd_ps,
            _mm256_add_ps
        );
        #[inline(always)]
        unsafe fn transpose(rows: &mut [Self; 16]) {
            // SAFETY: forwarded to the caller.
            unsafe {
                let mut t = *rows;
                for i in (0..8).step_by(2) {
                    t[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
                    t[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
                }
                // q[4g + j] holds in block b column 4b + j of rows 4g to 4g + 3.
                let mut q = *rows;
                for i in (0..8).step_by(4) {
                    q[i] = _mm256_shuffle_ps::<0x44>(t[i], t[i + 2]);
                    q[i + 1] = _mm256_shuffle_ps::<0xEE>(t[i], t[i + 2]);
                    q[i + 2] = _mm256_shuffle_ps::<0x44>(t[i + 1], t[i + 3]);
                    q[i + 3] = _mm256_shuffle_ps::<0xEE>(t[i + 1], t[i + 3]);
                }
                for j in 0..4 {
                    rows[j] = _mm256_permute2f128_ps::<0x20>(q[j], q[4 + j]);
                    rows[4 + j] = _mm256_permute2f128_ps::<0x31>(q[j], q[4 + j]);
                }
            }
        }
        compiled_tile!(f32, "avx2,fma");
    }
};

#[cfg(target_arch = "x86_64")]
const _: () = {
    // SAFETY: the intrinsics are those of AVX and FMA.
    unsafe impl Vector<f64> for __m256d {
        const LANES: usize = 4;
        const ROWS: [usize; 4] = [0, 6, 0, 0];
        const ACROSS: usize = 2;
        intrinsics!(
            f64,
            _mm256_setzero_pd,
            _mm256_loadu_pd,
            _mm256_set1_pd,
            _mm256_storeu_pd,
            _mm256_fmadd_pd,
            _mm256_add_pd
        );
        #[inline(always)]
        unsafe fn transpose(rows: &mut [Self; 16]) {
            // SAFETY: forwarded to the caller.
            unsafe {
                let mut t = *rows;
                for i in (0..4).step_by(2) {
                    t[i] = _mm256_unpacklo_pd(rows[i], rows[i + 1]);
                    t[i + 1] = _mm256_unpackhi_pd(rows[i], rows[i + 1]);
                }
                for j in 0..2 {
                    rows[j] = _mm256_permute2f128_pd::<0x20>(t[j], t[2 + j]);
                    rows[2 + j] = _mm256_permute2f128_pd::<0x31>(t[j], t[2 + j]);
                }
            }
        }
        compiled_tile!(f64, "avx2,fma");
    }
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::bf16::Full;
    use crate::simd::vector_kernel;

    vector_kernel! {
        fn turned[F: Element, A: Arithmetic](square: &mut [F], side: &mut usize)[] {
            // SAFETY: compiled for the instruction set.
            let mut rows = [unsafe { V::zero() }; 16];
            *side = V::LANES;
            for (i, row) in rows.iter_mut().enumerate().take(V::LANES) {
                // SAFETY: the square has room for LANES rows of LANES.
                *row = unsafe { V::load(square[i * V::LANES..].as_ptr()) };
            }
            // SAFETY: compiled for the instruction set.
            unsafe { V::transpose(&mut rows) };
            for (i, row) in rows.into_iter().enumerate().take(V::LANES) {
                // SAFETY: as above.
                unsafe { row.store(square[i * V::LANES..].as_mut_ptr()) };
            }
        }
    }

    #[test]
    fn squares_are_transposed() {
        fn check<F: Element>() {
            let mut square: Vec<F> = (0..256).map(|i| F::of(f64::from(i))).collect();
            let mut side = 0;
            turned::<F, Full>(&mut square, &mut side);
            for i in 0..side {
                for j in 0..side {
                    assert_eq!(square[i * side + j].to_f64(), (j * side + i) as f64);
                }
            }
        }
        check::<f32>();
        check::<f64>();
    }
}
