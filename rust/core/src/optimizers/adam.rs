//! Adam (Kingma and Ba 2015), AdamW (Loshchilov and Hutter 2019) and AMSGrad (Reddi et al. 2018).

use super::each::{each3, each4};
use super::{Dialect, flush};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::math::integer_power;

/// m += (1−β1)(g−m); v = β2·v + ((1−β2)g)g; with AMSGrad v is replaced by its largest value so far; then
///
/// - torch: θ −= γ/(1−β1^t) · m / (√v/√(1−β2^t) + ε)
/// - keras, sklearn: θ −= γ√(1−β2^t)/(1−β1^t) · m / (√v + ε)
///
/// Decay: coupled, g += λθ; or decoupled, θ ← θ(1−γλ) before the step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub amsgrad: bool,
    pub weight_decay: f64,
    /// AdamW, and Keras's decay in every optimiser.
    pub decoupled: bool,
    pub dialect: Dialect,
}

/// The coefficients of one step, in the parameters' type.
#[derive(Clone, Copy)]
pub struct Step<F> {
    rate: F,
    keep1: F,
    keep2: F,
    fresh2: F,
    /// 1/√(1−β2^t) where it multiplies √v, or 1.
    root_scale: F,
    eps: F,
    decay: F,
    shrink: F,
}

impl Adam {
    /// Refuses combinations that the dialect does not define.
    pub fn validate(&self) -> Result<()> {
        if self.dialect == Dialect::Sklearn {
            if self.amsgrad || self.decoupled {
                return Err(Error::argument(
                    "dialect",
                    "torch or keras for AMSGrad and AdamW (scikit-learn has neither)",
                    "sklearn",
                ));
            }
            if self.weight_decay != 0.0 {
                return Err(Error::argument(
                    "weight_decay",
                    "0 in the sklearn dialect (its alpha is a penalty of the loss)",
                    self.weight_decay,
                ));
            }
        }
        Ok(())
    }

    /// The coefficients of step number `count`, from 1, at a rate.
    pub(super) fn step<F: Element>(&self, count: u64, rate: f64) -> Step<F> {
        let correction1 = 1.0 - integer_power(self.beta1, count);
        let root = (1.0 - integer_power(self.beta2, count)).sqrt();
        let torch = self.dialect == Dialect::Torch;
        Step {
            rate: F::of(if torch {
                rate / correction1
            } else {
                rate * root / correction1
            }),
            keep1: F::of(1.0 - self.beta1),
            keep2: F::of(self.beta2),
            fresh2: F::of(1.0 - self.beta2),
            root_scale: F::of(if torch { 1.0 / root } else { 1.0 }),
            eps: F::of(self.eps),
            decay: F::of(if self.decoupled {
                0.0
            } else {
                self.weight_decay
            }),
            shrink: F::of(if self.decoupled {
                1.0 - rate * self.weight_decay
            } else {
                1.0
            }),
        }
    }
}

impl<F: Element> Step<F> {
    /// Updates θ, m, v and, for AMSGrad, the largest v.
    #[inline(always)]
    pub(super) fn apply(self, gradient: &[F], [theta, m, v, v_max]: [&mut [F]; 4]) {
        if v_max.is_empty() {
            each3(gradient, theta, m, v, |g, theta, m, v| {
                self.one(theta, g, m, v, None);
            });
        } else {
            each4(gradient, theta, m, v, v_max, |g, theta, m, v, v_max| {
                self.one(theta, g, m, v, Some(v_max));
            });
        }
    }

    #[inline(always)]
    fn one(self, theta: &mut F, g: F, m: &mut F, v: &mut F, v_max: Option<&mut F>) {
        let g = g + self.decay * *theta;
        *m = flush(*m + self.keep1 * (g - *m));
        *v = flush(self.keep2 * *v + (self.fresh2 * g) * g);
        let second = match v_max {
            None => *v,
            Some(v_max) => {
                // NaN in v must come through.
                if *v > *v_max || v.nan() {
                    *v_max = *v;
                }
                *v_max
            }
        };
        let size = second.root() * self.root_scale + self.eps;
        *theta = *theta * self.shrink - self.rate * *m / size;
    }
}
