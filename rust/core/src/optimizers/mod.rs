//! Optimisers over the flat parameter vector. A step is: clip, decay, update, constrain. Every coefficient is formed
//! in f64 and rounded once.

mod adam;
mod clip;
mod constraint;
mod each;
pub(crate) mod lbfgs;
pub(crate) mod levenberg_marquardt;
pub(crate) mod line_search;
mod sgd;

pub use adam::Adam;
pub use clip::Clip;
pub use constraint::Constraint;
pub use lbfgs::Lbfgs;
pub use levenberg_marquardt::LevenbergMarquardt;
pub use sgd::Sgd;

use crate::element::Element;
use crate::error::{Error, Result};
use crate::matrix::{Buffer, for_each_chunk};
use crate::schedule::Schedule;
use crate::simd::kernel;

/// Elements given to one task.
const CHUNK: usize = 1 << 14;
/// What an element costs, in multiply-adds of a product: the root and the quotients.
const WORK: usize = 32;

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

/// A rule, the clipping in front of it, and the rate that it is followed at.
#[derive(Debug, Clone, PartialEq)]
pub struct Optimizer {
    pub rule: Rule,
    pub clip: Clip,
    pub learning_rate: Schedule,
}

/// How a trainer finds the next parameters.
#[derive(Debug, Clone, PartialEq)]
pub enum Method {
    /// From the gradient of one batch.
    Step(Optimizer),
    /// From the loss of all rows, as a function of the parameters.
    Search(Search),
}

impl Method {
    /// The optimiser, if its step needs no more than a gradient.
    pub fn optimizer(&self) -> Option<&Optimizer> {
        match self {
            Self::Step(optimizer) => Some(optimizer),
            Self::Search(_) => None,
        }
    }
}

impl From<Optimizer> for Method {
    fn from(optimizer: Optimizer) -> Self {
        Self::Step(optimizer)
    }
}

/// A method that asks for the loss at several points.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Search {
    Lbfgs(Lbfgs),
    LevenbergMarquardt(LevenbergMarquardt),
}

impl Search {
    pub fn name(self) -> &'static str {
        match self {
            Self::Lbfgs(_) => "L-BFGS",
            Self::LevenbergMarquardt(_) => "Levenberg-Marquardt",
        }
    }

    pub(crate) fn tolerance_grad(self) -> f64 {
        match self {
            Self::Lbfgs(method) => method.tolerance_grad,
            Self::LevenbergMarquardt(method) => method.tolerance_grad,
        }
    }

    /// The decrease of the loss by a step that makes no other worth while.
    pub(crate) fn little(self, before: f64, after: f64) -> f64 {
        match self {
            Self::Lbfgs(method) => method.tolerance_loss * before.abs().max(after.abs()).max(1.0),
            Self::LevenbergMarquardt(method) => method.tolerance_loss * before,
        }
    }
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
    /// Without moments.
    pub fn empty() -> Self {
        Self {
            step: 0,
            m: Buffer::default(),
            v: Buffer::default(),
            v_max: Buffer::default(),
        }
    }

    /// `parameters` with the moments, each of which may be empty.
    pub fn moments<'a>(&'a mut self, parameters: &'a mut [F]) -> [&'a mut [F]; 4] {
        [parameters, &mut self.m, &mut self.v, &mut self.v_max]
    }

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

    /// The update of the step that follows, at a rate: element by element, so that it can run wherever a gradient is
    /// finished. None when the clipping has to see the whole gradient first.
    pub fn elementwise<F: Element>(
        &self,
        state: &OptimizerState<F>,
        rate: f64,
    ) -> Option<Update<F>> {
        (!matches!(self.clip, Clip::Norm(_))).then(|| self.update(state, rate))
    }

    fn update<F: Element>(&self, state: &OptimizerState<F>, rate: f64) -> Update<F> {
        let count = state.step + 1;
        Update {
            penalty: None,
            limit: match self.clip {
                Clip::Value(limit) => Some(F::of(limit)),
                _ => None,
            },
            rule: match &self.rule {
                Rule::Sgd(sgd) => UpdateRule::Sgd(sgd.step(count, rate)),
                Rule::Adam(adam) => UpdateRule::Adam(adam.step(count, rate)),
            },
        }
    }

    /// One step at a rate: clips `gradient` in place, then updates `parameters`. Refuses (before any change to
    /// parameters or moments) a gradient whose norm is asked for and is not finite.
    pub fn step<F: Element>(
        &self,
        state: &mut OptimizerState<F>,
        parameters: &mut [F],
        gradient: &mut [F],
        rate: f64,
    ) -> std::result::Result<(), NonFiniteNorm> {
        self.clip.scale(gradient)?;
        let update = self.update(state, rate);
        update.run(gradient, state.moments(parameters));
        state.step += 1;
        Ok(())
    }
}

/// One step of an optimiser as it is done to each element: clip, decay, update.
#[derive(Clone, Copy)]
pub struct Update<F> {
    penalty: Option<Penalty<F>>,
    limit: Option<F>,
    rule: UpdateRule<F>,
}

#[derive(Clone, Copy)]
enum UpdateRule<F> {
    Sgd(sgd::Step<F>),
    Adam(adam::Step<F>),
}

/// Coefficients of l1·Σ|θ| + l2·Σθ², a part of the loss.
#[derive(Debug, Clone, Copy)]
pub struct Penalty<F> {
    l1: F,
    /// 2·l2, that of the derivative.
    slope: F,
}

impl<F: Element> Penalty<F> {
    pub fn new(l1: f64, l2: f64) -> Self {
        Self {
            l1: F::of(l1),
            slope: F::of(2.0 * l2),
        }
    }

    /// Adds the derivative; that of |θ| at 0 is 0.
    pub fn add_to(self, gradient: &mut [F], theta: &[F]) {
        penalize(self, gradient, theta);
    }
}

kernel! {
    fn penalize[F: Element](penalty: Penalty<F>, gradient: &mut [F], theta: &[F])[F] {
        add_penalty(penalty, gradient, theta);
    }
}

#[inline(always)]
fn add_penalty<F: Element>(penalty: Penalty<F>, gradient: &mut [F], theta: &[F]) {
    for (g, &theta) in gradient.iter_mut().zip(theta) {
        let sign = if theta > F::ZERO {
            penalty.l1
        } else if theta < F::ZERO {
            -penalty.l1
        } else {
            F::ZERO
        };
        *g += penalty.slope * theta + sign;
    }
}

impl<F: Element> Update<F> {
    /// The same for parameters that the loss penalises.
    pub fn penalized(self, penalty: Option<Penalty<F>>) -> Self {
        Self { penalty, ..self }
    }

    /// Updates a stretch of the parameters and of the moments (see [`OptimizerState::moments`]).
    pub fn apply(self, gradient: &mut [F], arrays: [&mut [F]; 4]) {
        apply(self, gradient, arrays);
    }

    /// The same over the threads.
    pub fn run(self, gradient: &mut [F], [theta, m, v, v_max]: [&mut [F]; 4]) {
        let work = WORK * theta.len();
        let arrays = [gradient, theta, m, v, v_max];
        for_each_chunk(arrays, CHUNK, work, |_, [gradient, theta, m, v, v_max]| {
            self.apply(gradient, [theta, m, v, v_max]);
        });
    }
}

kernel! {
    fn apply[F: Element](update: Update<F>, gradient: &mut [F], arrays: [&mut [F]; 4])[F] {
        if let Some(penalty) = update.penalty {
            add_penalty(penalty, gradient, arrays[0]);
        }
        if let Some(limit) = update.limit {
            clip::clamp(gradient, limit);
        }
        match update.rule {
            UpdateRule::Sgd(step) => step.apply(gradient, arrays),
            UpdateRule::Adam(step) => step.apply(gradient, arrays),
        }
    }
}

/// The gradient's norm is NaN or infinite.
#[derive(Debug)]
pub struct NonFiniteNorm;

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
