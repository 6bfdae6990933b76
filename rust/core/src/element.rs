//! The two element types, `f32` and `f64`, and what the kernels need of them besides [`Math`].

use std::fmt::{Debug, Display};
use std::ops::{AddAssign, MulAssign, SubAssign};

use crate::math::Math;
use crate::matrix::Plain;

/// A floating-point type of parameters, activations and gradients.
pub trait Element:
    Math + Plain + Default + Debug + Display + AddAssign + SubAssign + MulAssign
{
    /// Elements in one 64-byte vector: the granule of every layout.
    const LANES: usize;
    /// Columns in a full panel: four vectors.
    const PANEL: usize = 4 * Self::LANES;
    /// Name of the type in files, messages and Python.
    const NAME: &'static str;

    /// Nearest value of this type; the one place where hyperparameters are rounded.
    fn of(value: f64) -> Self;
    /// Nearest value to an integer that may be wider than the type's digits.
    fn of_integer(value: i128) -> Self;
    fn to_f64(self) -> f64;
    fn root(self) -> Self;
    fn finite(self) -> bool;
    fn nan(self) -> bool;
}

macro_rules! element {
    ($type:ident, $lanes:literal) => {
        impl Element for $type {
            const LANES: usize = $lanes;
            const NAME: &'static str = stringify!($type);

            #[inline(always)]
            fn of(value: f64) -> Self {
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
        }
    };
}

element!(f32, 16);
element!(f64, 8);
