//! The two element types, `f32` and `f64`, and what the kernels need of them besides [`Math`].

use std::cell::RefCell;
use std::fmt::{Debug, Display};
use std::ops::{AddAssign, MulAssign, SubAssign};

use crate::math::Math;
use crate::matrix::{Buffer, Plain};
use crate::simd::bf16::{Arithmetic, Bf16, Full};
use crate::simd::quads::Int8;
use crate::simd::vector::{self, Vector};

/// A floating-point type of parameters, activations and gradients.
pub trait Element:
    Math + Plain + Default + Debug + Display + AddAssign + SubAssign + MulAssign
{
    /// Elements in one 64-byte vector: the granule of every layout.
    const LANES: usize;
    /// Columns in a full panel: four vectors.
    const PANEL: usize = 4 * Self::LANES;
    /// From 1 to the next value.
    const EPSILON: f64;
    /// Name of the type in files, messages and Python.
    const NAME: &'static str;
    /// Vectors of each instruction set.
    #[cfg(target_arch = "x86_64")]
    type Avx512: Vector<Self>;
    #[cfg(target_arch = "x86_64")]
    type Avx2: Vector<Self>;
    type Portable: Vector<Self>;
    /// The narrow arithmetic of products, where the type has one.
    type Narrow: Arithmetic<Self>;
    /// The integer arithmetic of products, where the type has one.
    type Integer: Arithmetic<Self>;

    /// Nearest value of this type; the one place where hyperparameters are rounded.
    fn of(value: f64) -> Self;
    /// Nearest value to an integer of 32 bits.
    fn of_int(value: i32) -> Self;
    /// Nearest value to an integer that may be wider than the type's digits.
    fn of_integer(value: i128) -> Self;
    fn to_f64(self) -> f64;
    fn root(self) -> Self;
    fn finite(self) -> bool;
    fn nan(self) -> bool;
    /// The lowest 32 bits, for elements that are no numbers of this type.
    fn bits(self) -> u32;
    /// The inverse of [`Self::bits`].
    fn of_bits(bits: u32) -> Self;
    /// The value's bytes, least first.
    fn to_le(self, bytes: &mut [u8]);
    /// The inverse of [`Self::to_le`].
    fn from_le(bytes: &[u8]) -> Self;
    /// Lends `len` elements of this thread's own, with anything in them.
    fn scratch<T>(len: usize, function: impl FnOnce(&mut [Self]) -> T) -> T;
}

macro_rules! element {
    ($type:ident, $lanes:literal, $avx512:ident, $avx2:ident, $narrow:ident, $integer:ident, $bits:ident) => {
        impl Element for $type {
            const LANES: usize = $lanes;
            const EPSILON: f64 = $type::EPSILON as f64;
            const NAME: &'static str = stringify!($type);
            #[cfg(target_arch = "x86_64")]
            type Avx512 = std::arch::x86_64::$avx512;
            #[cfg(target_arch = "x86_64")]
            type Avx2 = std::arch::x86_64::$avx2;
            type Portable = vector::Plain<$type, { 16 / size_of::<$type>() }>;
            type Narrow = $narrow;
            type Integer = $integer;

            #[inline(always)]
            fn of(value: f64) -> Self {
                value as $type
            }
            #[inline(always)]
            #[allow(clippy::cast_lossless, reason = "it is for one of the two types")]
            fn of_int(value: i32) -> Self {
                value as $type
            }
            #[inline(always)]
            fn of_integer(value: i128) -> Self {
                value as $type
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                self.into()
            }
            #[inline(always)]
            fn root(self) -> Self {
                self.sqrt()
            }
            #[inline(always)]
            fn finite(self) -> bool {
                self.is_finite()
            }
            #[inline(always)]
            fn nan(self) -> bool {
                self.is_nan()
            }
            #[inline(always)]
            fn bits(self) -> u32 {
                self.to_bits() as u32
            }
            #[inline(always)]
            fn of_bits(bits: u32) -> Self {
                Self::from_bits($bits::from(bits))
            }
            #[inline(always)]
            fn to_le(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
            #[inline(always)]
            fn from_le(bytes: &[u8]) -> Self {
                let mut own = [0; size_of::<$type>()];
                own.copy_from_slice(bytes);
                Self::from_le_bytes(own)
            }
            #[inline]
            fn scratch<T>(len: usize, function: impl FnOnce(&mut [Self]) -> T) -> T {
                thread_local! {
                    static SCRATCH: RefCell<Option<Buffer<$type>>> = const { RefCell::new(None) };
                }
                SCRATCH.with_borrow_mut(|scratch| {
                    if scratch.as_ref().is_none_or(|scratch| scratch.len() < len) {
                        *scratch =
                            Some(Buffer::zeroed(len).expect("memory for a thread's scratch"));
                    }
                    function(&mut scratch.as_mut().expect("made above")[..len])
                })
            }
        }
    };
}

element!(f32, 16, __m512, __m256, Bf16, Int8, u32);
element!(f64, 8, __m512d, __m256d, Full, Full, u64);
