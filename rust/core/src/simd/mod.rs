//! Instruction sets: which there are, which one this process uses, and how a kernel is compiled for
//! each of them.
//!
//! A kernel is written once; [`kernel!`] compiles it for every instruction set and picks one at run time.
//! Most are plain loops that the compiler vectorises; the register tile of a product is written in vectors of
//! the instruction set ([`vector`]), which [`vector_kernel!`] hands to its body as the type `V`. All of them
//! compute the same bits, because vector lanes run across outputs and every operation is exact or a fused
//! multiply-add.

#![allow(
    unsafe_code,
    reason = "target features are checked at run time, here alone"
)]

pub(crate) mod bf16;
mod peak;
pub(crate) mod quads;
pub(crate) mod tile;
pub(crate) mod vector;

use std::sync::OnceLock;

use crate::error::{Error, Result};
pub use bf16::{Bf16, Full, bf16_native, rounded_bf16};
pub use peak::fma_peak;
pub use quads::{Int8, vnni_native};

/// Instruction sets with kernels, slowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What every processor of the target has; fused multiply-adds through the C library.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, VL, BW and DQ.
    Avx512,
}

impl Isa {
    pub const ALL: [Self; 3] = [Self::Portable, Self::Avx2, Self::Avx512];

    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// Whether this machine has it.
    pub fn available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            match self {
                Self::Portable => true,
                Self::Avx2 => avx2(),
                Self::Avx512 => {
                    avx2()
                        && is_x86_feature_detected!("avx512f")
                        && is_x86_feature_detected!("avx512vl")
                        && is_x86_feature_detected!("avx512bw")
                        && is_x86_feature_detected!("avx512dq")
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Self::Portable
        }
    }
}

static CHOSEN: OnceLock<Result<Isa>> = OnceLock::new();

/// The instruction set of this process: `RANVIER_ISA` when it is set, else the fastest that the
/// machine has. An unknown or missing one is an error.
pub fn isa() -> Result<Isa> {
    CHOSEN.get_or_init(choose).clone()
}

/// The same where a kernel runs: entry points have reported a wrong `RANVIER_ISA` before.
#[inline(always)]
pub(crate) fn chosen() -> Isa {
    match CHOSEN.get() {
        Some(Ok(isa)) => *isa,
        _ => isa().unwrap_or(Isa::Portable),
    }
}

fn choose() -> Result<Isa> {
    let best = || Isa::ALL.into_iter().rfind(|isa| isa.available());
    let Some(asked) = std::env::var_os("RANVIER_ISA") else {
        return Ok(best().unwrap_or(Isa::Portable));
    };
    let known = Isa::ALL.into_iter().find(|isa| asked == isa.name());
    match known {
        Some(isa) if isa.available() => Ok(isa),
        Some(isa) => Err(Error::argument(
            "RANVIER_ISA",
            "an instruction set of this machine",
            format!("{}, which it lacks", isa.name()),
        )),
        None => Err(Error::argument(
            "RANVIER_ISA",
            "portable, avx2 or avx512",
            asked.display(),
        )),
    }
}

/// Asks for values that will be read soon, so that they wait in the second-level cache.
#[inline(always)]
pub(crate) fn fetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in values.chunks(64 / size_of::<T>()) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a hint, which every processor of the target takes and which changes nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

/// Defines a function that is compiled for every [`Isa`] and runs as the chosen one. Everything that
/// it calls must be `#[inline(always)]`, or it loses the instruction set.
macro_rules! kernel {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident [$($generics:tt)*] ($($arg:ident : $type:ty),* $(,)?)
        [$($turbofish:tt)*] $body:block
    ) => {
        $(#[$meta])*
        #[allow(unsafe_code, reason = "the features were detected when the instruction set was chosen")]
        $vis fn $name<$($generics)*>($($arg: $type),*) {
            #[inline(always)]
            fn portable<$($generics)*>($($arg: $type),*) $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2<$($generics)*>($($arg: $type),*) {
                portable::<$($turbofish)*>($($arg),*);
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq")]
            fn avx512<$($generics)*>($($arg: $type),*) {
                portable::<$($turbofish)*>($($arg),*);
            }

            match $crate::simd::chosen() {
                // SAFETY: `chosen` gives only what `Isa::available` has found on this machine.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Isa::Avx512 => unsafe { avx512::<$($turbofish)*>($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Isa::Avx2 => unsafe { avx2::<$($turbofish)*>($($arg),*) },
                _ => portable::<$($turbofish)*>($($arg),*),
            }
        }
    };
}
pub(crate) use kernel;

/// [`kernel!`] whose body may name `V`, the vector of `F` for the arithmetic `A` in the instruction set that it is
/// compiled for.
macro_rules! vector_kernel {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident
        [F: Element, A: Arithmetic $(, $generic:ident $(: $bound:path)?)* $(; const $size:ident)*]
        ($($arg:ident : $type:ty),* $(,)?) [$($turbofish:tt)*] $body:block
    ) => {
        $(#[$meta])*
        #[allow(unsafe_code, reason = "the features were detected when the instruction set was chosen")]
        $vis fn $name<
            F: Element, A: $crate::simd::bf16::Arithmetic<F> $(, $generic $(: $bound)?)* $(, const $size: usize)*
        >($($arg: $type),*) {
            #[inline(always)]
            fn body<
                V: $crate::simd::vector::Vector<F>, F: Element $(, $generic $(: $bound)?)* $(, const $size: usize)*
            >($($arg: $type),*) $body

            /// For pairs alone.
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq,avx512bf16")]
            fn avx512_bf16<
                F: Element, A: $crate::simd::bf16::Arithmetic<F> $(, $generic $(: $bound)?)* $(, const $size: usize)*
            >($($arg: $type),*) {
                body::<A::Avx512Bf16, F, $($turbofish)*>($($arg),*);
            }

            /// For integers alone.
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq,avx512vnni")]
            fn avx512_vnni<
                F: Element, A: $crate::simd::bf16::Arithmetic<F> $(, $generic $(: $bound)?)* $(, const $size: usize)*
            >($($arg: $type),*) {
                body::<A::Avx512Vnni, F, $($turbofish)*>($($arg),*);
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq")]
            fn avx512<
                F: Element, A: $crate::simd::bf16::Arithmetic<F> $(, $generic $(: $bound)?)* $(, const $size: usize)*
            >($($arg: $type),*) {
                body::<A::Avx512, F, $($turbofish)*>($($arg),*);
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2<
                F: Element, A: $crate::simd::bf16::Arithmetic<F> $(, $generic $(: $bound)?)* $(, const $size: usize)*
            >($($arg: $type),*) {
                body::<A::Avx2, F, $($turbofish)*>($($arg),*);
            }

            match $crate::simd::chosen() {
                // SAFETY: `chosen` gives only what `Isa::available` has found on this machine, and the last feature
                // was found too.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Isa::Avx512 if A::VALUES == 2 && $crate::simd::bf16_native() => unsafe {
                    avx512_bf16::<F, A, $($turbofish)*>($($arg),*)
                },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Isa::Avx512 if A::has_vnni() => unsafe {
                    avx512_vnni::<F, A, $($turbofish)*>($($arg),*)
                },
                // SAFETY: `chosen` gives only what `Isa::available` has found on this machine.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Isa::Avx512 => unsafe {
                    avx512::<F, A, $($turbofish)*>($($arg),*)
                },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Isa::Avx2 => unsafe { avx2::<F, A, $($turbofish)*>($($arg),*) },
                _ => body::<A::Portable, F, $($turbofish)*>($($arg),*),
            }
        }
    };
}
pub(crate) use vector_kernel;
