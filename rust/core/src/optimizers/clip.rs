//! Gradient clipping.

use super::NonFiniteNorm;
use crate::element::Element;
use crate::lanes;
use crate::simd::kernel;

/// What is done to the gradient before the update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Clip {
    None,
    /// g · min(1, M / (‖g‖ + 1e-6)), ‖g‖ over all parameters (torch's `clip_grad_norm_`).
    Norm(f64),
    /// Each element to [−c, c].
    Value(f64),
}

impl Clip {
    /// Scales the gradient down to the norm, if that is what is asked for.
    pub(super) fn scale<F: Element>(self, gradient: &mut [F]) -> Result<(), NonFiniteNorm> {
        if let Self::Norm(limit) = self {
            let norm = lanes::dot(gradient, gradient).sqrt();
            if !norm.is_finite() {
                return Err(NonFiniteNorm);
            }
            let factor = limit / (norm + 1e-6);
            if factor < 1.0 {
                scale(gradient, F::of(factor));
            }
        }
        Ok(())
    }
}

kernel! {
    fn scale[F: Element](values: &mut [F], factor: F)[F] {
        for value in values {
            *value *= factor;
        }
    }
}

/// Each value to [−limit, limit]; NaN stays NaN.
#[inline(always)]
pub(super) fn clamp<F: Element>(values: &mut [F], limit: F) {
    for value in values {
        let low = if *value < -limit { -limit } else { *value };
        *value = if low > limit { limit } else { low };
    }
}
