//! Optimisers over the flat parameter vector. A step is: clip, decay, update. Every coefficient is formed
//! in f64 and rounded once.

mod adam;
mod clip;
mod sgd;

pub use adam::Adam;
pub use clip::Clip;
pub use sgd::Sgd;

use crate::element::Element;
use crate::error::{Error, Result};
use crate::matrix::Buffer;

/// Elements given to one task.
const CHUNK: usize = 1 << 14;

/// Which framework's equations (and defaults) an optimiser follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Torch,
    Keras,
    Sklearn,
}

impl Dialect {
    pub const NAMES: [&'static str; 3] = ["torch", "keras", "sklearn"];

    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "torch" => Ok(Self::Torch),
            "keras" => Ok(Self::Keras),
            "sklearn" => Ok(Self::Sklearn),
            _ => Err(Error::argument(
                "dialect",
                format!("one of {}", Self::NAMES.join(", ")),
                format!("{name:?}"),
            )),
        }
    }
}

/// The update rule with its hyperparameters.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    Sgd(Sgd),
    Adam(Adam),
}

/// A rule and the clipping in front of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Optimizer {
    pub rule: Rule,
    pub clip: Clip,
}

/// What an optimiser remembers of one network: step count and moments.
pub struct OptimizerState<F: Element> {
    pub step: u64,
    /// Velocity of SGD, or first moment.
    pub m: Buffer<F>,
    /// Second moment.
    pub v: Buffer<F>,
    /// Largest second moment so far (AMSGrad).
    pub v_max: Buffer<F>,
}

impl<F: Element> OptimizerState<F> {
    /// Forgets everything.
    pub fn reset(&mut self) {
        self.step = 0;
        for moments in [&mut self.m, &mut self.v, &mut self.v_max] {
            moments.fill(F::ZERO);
        }
    }
}

impl Optimizer {
    /// Fresh state for `len` parameters.
    pub fn state<F: Element>(&self, len: usize) -> Result<OptimizerState<F>> {
        let size = |needed: bool| if needed { len } else { 0 };
        let (m, v, v_max) = match &self.rule {
            Rule::Sgd(sgd) => (sgd.momentum != 0.0, false, false),
            Rule::Adam(adam) => (true, true, adam.amsgrad),
        };
        Ok(OptimizerState {
            step: 0,
            m: Buffer::zeroed(size(m))?,
            v: Buffer::zeroed(size(v))?,
            v_max: Buffer::zeroed(size(v_max))?,
        })
    }

    /// One step: clips `gradient` in place, then updates `parameters`. Refuses (before any change to
    /// parameters or moments) a gradient whose norm is asked for and is not finite.
    pub fn step<F: Element>(
        &self,
        state: &mut OptimizerState<F>,
        parameters: &mut [F],
        gradient: &mut [F],
    ) -> std::result::Result<(), NonFiniteNorm> {
        self.clip.apply(gradient)?;
        state.step += 1;
        match &self.rule {
            Rule::Sgd(sgd) => sgd.update(state, parameters, gradient),
            Rule::Adam(adam) => adam.update(state, parameters, gradient),
        }
        Ok(())
    }
}

/// The gradient's norm is NaN or infinite.
#[derive(Debug)]
pub struct NonFiniteNorm;

/// base^exponent by repeated squaring.
fn power(mut base: f64, mut exponent: u64) -> f64 {
    let mut result = 1.0;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result *= base;
        }
        base *= base;
        exponent >>= 1;
    }
    result
}

/// Moments that have decayed below the normal numbers are zero: arithmetic on them is slow on some
/// processors and changes nothing.
#[inline(always)]
fn flush<F: Element>(moment: F) -> F {
    if moment.magnitude() < F::MIN_POSITIVE {
        F::ZERO
    } else {
        moment
    }
}
