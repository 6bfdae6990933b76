//! Activations: value and derivative, elementwise. The forward pass of training stores the derivative,
//! so the backward pass is one multiplication whatever the function. NaN gives NaN in both.
//!
//! prelu (a learned slope) and softmax (not elementwise) are layers: see [`crate::layers`].

use crate::element::Element;
use crate::error::{Error, Result};
use crate::math::{erfc, exp, expm1, ln_1p, sigmoid, tanh};
use crate::simd::kernel;

/// An elementwise function without parameters that are learned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    Identity,
    Sigmoid,
    Tanh,
    Relu,
    LeakyRelu { slope: f64 },
    Elu { alpha: f64 },
    Selu,
    Gelu,
    GeluTanh,
    Silu,
    Softplus,
    HardSigmoid,
    HardSwish,
    Mish,
}

impl Activation {
    /// Every name that [`Self::parse`] knows.
    pub const NAMES: [&'static str; 14] = [
        "identity",
        "sigmoid",
        "tanh",
        "relu",
        "leaky_relu",
        "elu",
        "selu",
        "gelu",
        "gelu_tanh",
        "silu",
        "softplus",
        "hard_sigmoid",
        "hard_swish",
        "mish",
    ];

    /// The activation with this name; `parameter` is the slope of `leaky_relu` (0.01) or the α of `elu` (1).
    pub fn parse(name: &str, parameter: Option<f64>) -> Result<Self> {
        Ok(match name {
            "identity" => Self::Identity,
            "sigmoid" => Self::Sigmoid,
            "tanh" => Self::Tanh,
            "relu" => Self::Relu,
            "leaky_relu" => Self::LeakyRelu {
                slope: parameter.unwrap_or(0.01),
            },
            "elu" => Self::Elu {
                alpha: parameter.unwrap_or(1.0),
            },
            "selu" => Self::Selu,
            "gelu" => Self::Gelu,
            "gelu_tanh" => Self::GeluTanh,
            "silu" => Self::Silu,
            "softplus" => Self::Softplus,
            "hard_sigmoid" => Self::HardSigmoid,
            "hard_swish" => Self::HardSwish,
            "mish" => Self::Mish,
            _ => {
                return Err(Error::argument(
                    "activation",
                    format!("one of {}, prelu, softmax", Self::NAMES.join(", ")),
                    format!("{name:?}"),
                ));
            }
        })
    }

    /// The slope or α, where there is one.
    pub fn parameter(self) -> Option<f64> {
        match self {
            Self::LeakyRelu { slope } => Some(slope),
            Self::Elu { alpha } => Some(alpha),
            _ => None,
        }
    }

    /// Whether He initialisation suits the layer in front.
    pub fn relu_like(self) -> bool {
        matches!(
            self,
            Self::Relu
                | Self::LeakyRelu { .. }
                | Self::Elu { .. }
                | Self::Gelu
                | Self::GeluTanh
                | Self::Silu
                | Self::Mish
                | Self::HardSwish
        )
    }

    /// Replaces each z of `values` by its activation and, unless `derivatives` is empty, stores the
    /// derivative there.
    #[inline(always)]
    pub fn forward<F: Element>(self, values: &mut [F], derivatives: &mut [F]) {
        match self {
            Self::Identity => {
                derivatives.fill(F::ONE);
            }
            Self::Sigmoid => map(values, derivatives, |z| {
                let a = sigmoid(z);
                (a, a * (F::ONE - a))
            }),
            Self::Tanh => map(values, derivatives, |z| {
                let a = tanh(z);
                (a, F::ONE - a * a)
            }),
            Self::Relu => map(values, derivatives, |z| {
                piecewise(z, (z, F::ONE), (F::ZERO, F::ZERO))
            }),
            Self::LeakyRelu { slope } => {
                let slope = F::of(slope);
                map(values, derivatives, |z| {
                    piecewise(z, (z, F::ONE), (slope * z, slope))
                });
            }
            Self::Elu { alpha } => exponential(values, derivatives, F::ONE, F::of(alpha)),
            Self::Selu => {
                let (lambda, alpha) = (1.050_700_987_355_480_5, 1.673_263_242_354_377_2);
                exponential(values, derivatives, F::of(lambda), F::of(lambda * alpha));
            }
            Self::Gelu => {
                let half = F::of(0.5);
                let root_half = F::of(std::f64::consts::FRAC_1_SQRT_2);
                // φ(0) = 1/√(2π)
                let peak = F::of(0.398_942_280_401_432_7);
                map(values, derivatives, |z| {
                    let phi = half * erfc(-(z * root_half));
                    // A density that has underflowed adds 0, at infinite z too.
                    let density = peak * exp(-half * z * z);
                    let slope = if density == F::ZERO {
                        F::ZERO
                    } else {
                        z * density
                    };
                    (limit(phi, z), phi + slope)
                });
            }
            Self::GeluTanh => {
                let (two, cubic) = (F::of(2.0), F::of(0.044_715));
                let scale = F::of(0.797_884_560_802_865_4); // √(2/π)
                map(values, derivatives, |z| {
                    let square = z * z;
                    // (1 + tanh u)/2 = σ(2u), without cancellation.
                    let gate = sigmoid(two * scale * z * (F::ONE + cubic * square));
                    let inner = scale * (F::ONE + F::of(3.0) * cubic * square);
                    let bend = two * gate * (F::ONE - gate);
                    let slope = if bend == F::ZERO {
                        F::ZERO
                    } else {
                        z * bend * inner
                    };
                    (limit(gate, z), gate + slope)
                });
            }
            Self::Silu => map(values, derivatives, |z| {
                let s = sigmoid(z);
                let bend = s * (F::ONE - s);
                let slope = if bend == F::ZERO { F::ZERO } else { z * bend };
                (limit(s, z), s + slope)
            }),
            Self::Softplus => map(values, derivatives, |z| {
                let a = maximum(z, F::ZERO) + ln_1p(exp(-z.magnitude()));
                (a, sigmoid(z))
            }),
            Self::HardSigmoid => map(values, derivatives, |z| (hard_gate(z), hard_slope(z))),
            Self::HardSwish => map(values, derivatives, |z| {
                let gate = hard_gate(z);
                let bend = hard_slope(z);
                let slope = if bend == F::ZERO { F::ZERO } else { z * bend };
                (limit(gate, z), gate + slope)
            }),
            Self::Mish => map(values, derivatives, |z| {
                // tanh(ln(1 + e^z)) through e = e^-|z|, so that nothing overflows.
                let two = F::of(2.0);
                let e = exp(-z.magnitude());
                let t = if z > F::ZERO {
                    let top = F::ONE + two * e;
                    top / (top + two * e * e)
                } else {
                    let top = e * (e + two);
                    top / (top + two)
                };
                let bend = (F::ONE - t * t) * sigmoid(z);
                let slope = if bend == F::ZERO { F::ZERO } else { z * bend };
                (limit(t, z), t + slope)
            }),
        }
    }
}

#[inline(always)]
fn map<F: Element>(values: &mut [F], derivatives: &mut [F], function: impl Fn(F) -> (F, F)) {
    if derivatives.is_empty() {
        for value in values {
            *value = function(*value).0;
        }
    } else {
        for (value, derivative) in values.iter_mut().zip(derivatives) {
            (*value, *derivative) = function(*value);
        }
    }
}

/// `above` where z > 0, `below` where z <= 0, NaN where z is NaN.
#[inline(always)]
fn piecewise<F: Element>(z: F, above: (F, F), below: (F, F)) -> (F, F) {
    let nan = z.nan();
    let pick = |above, below| if z > F::ZERO { above } else { below };
    (
        if nan { z } else { pick(above.0, below.0) },
        if nan { z } else { pick(above.1, below.1) },
    )
}

/// scale·z above 0, weight·(e^z − 1) below.
#[inline(always)]
fn exponential<F: Element>(values: &mut [F], derivatives: &mut [F], scale: F, weight: F) {
    map(values, derivatives, |z| {
        let below = weight * expm1(z);
        piecewise(z, (scale * z, scale), (below, below + weight))
    });
}

/// gate · z with the limit 0 where the gate has closed, at z = −∞ too.
#[inline(always)]
fn limit<F: Element>(gate: F, z: F) -> F {
    if gate == F::ZERO { F::ZERO } else { gate * z }
}

/// clip(z + 3, 0, 6) / 6
#[inline(always)]
fn hard_gate<F: Element>(z: F) -> F {
    let six = F::of(6.0);
    let shifted = maximum(z + F::of(3.0), F::ZERO);
    (if shifted > six { six } else { shifted }) / six
}

/// Derivative of [`hard_gate`]: 1/6 strictly inside (−3, 3), NaN at NaN.
#[inline(always)]
fn hard_slope<F: Element>(z: F) -> F {
    let inside = z.magnitude() < F::of(3.0);
    let slope = if inside { F::ONE / F::of(6.0) } else { F::ZERO };
    if z.nan() { z } else { slope }
}

/// The larger one; NaN in the first argument stays NaN.
#[inline(always)]
pub fn maximum<F: Element>(a: F, b: F) -> F {
    if a < b { b } else { a }
}

kernel! {
    /// [`Activation::forward`] over slices.
    pub fn apply[F: Element](activation: Activation, values: &mut [F], derivatives: &mut [F])[F] {
        activation.forward(values, derivatives);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_passes_and_infinities_give_limits() {
        for name in Activation::NAMES {
            let activation = Activation::parse(name, None).unwrap();
            let mut values = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0];
            let mut derivatives = [0.0; 4];
            apply(activation, &mut values, &mut derivatives);
            assert!(values[0].is_nan(), "{name}");
            assert!(
                derivatives[0].is_nan() || activation == Activation::Identity,
                "{name}"
            );
            assert!(values[1..].iter().all(|v| !v.is_nan()), "{name} {values:?}");
            assert!(derivatives[1..].iter().all(|v| v.is_finite()), "{name}");
        }
    }

    #[test]
    fn derivatives_are_those_of_the_values() {
        for name in Activation::NAMES {
            let activation = Activation::parse(name, None).unwrap();
            for i in -60..60 {
                let z = f64::from(i) * 0.1 + 0.05;
                let h = 1e-5;
                let mut values = [z - h, z + h, z];
                let mut derivatives = [0.0; 3];
                apply(activation, &mut values, &mut derivatives);
                let slope = (values[1] - values[0]) / (2.0 * h);
                assert!((slope - derivatives[2]).abs() < 1e-8, "{name} at {z}");
            }
        }
    }
}
