//! Stochastic gradient descent with momentum.

use super::each::{each1, each2};
use super::{Dialect, flush};
use crate::element::Element;
use crate::error::{Error, Result};

/// With γ learning rate, μ momentum, τ dampening, λ weight decay:
///
/// - torch: g += λθ; b = g at the first step, then b = μb + (1−τ)g; θ −= γ(g + μb) if nesterov, else γb.
/// - keras, sklearn: v = μv − γg; θ += μv − γg if nesterov, else v. Keras's decay is decoupled:
///   θ −= γλθ first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    pub momentum: f64,
    pub dampening: f64,
    pub nesterov: bool,
    pub weight_decay: f64,
    pub dialect: Dialect,
}

/// The coefficients of one step, in the parameters' type.
#[derive(Clone, Copy)]
pub struct Step<F> {
    rate: F,
    momentum: F,
    /// Factor of the gradient in the velocity: 1 at the first step, then 1 − τ.
    fresh: F,
    decay: F,
    /// 1 − γλ of the decoupled decay, or 1.
    shrink: F,
    nesterov: bool,
    torch: bool,
}

impl Sgd {
    /// Refuses combinations that the dialect does not define.
    pub fn validate(&self) -> Result<()> {
        let refuse = |argument: &str, expected: &str, got: f64| {
            Err(Error::argument(argument, expected, got))
        };
        let torch = self.dialect == Dialect::Torch;
        if self.nesterov && torch && (self.momentum == 0.0 || self.dampening != 0.0) {
            return Err(Error::argument(
                "nesterov",
                "momentum > 0 and dampening 0 (the torch dialect defines no other)",
                format!("momentum {}, dampening {}", self.momentum, self.dampening),
            ));
        }
        if !torch && self.dampening != 0.0 {
            return refuse("dampening", "0 outside the torch dialect", self.dampening);
        }
        if self.dialect == Dialect::Sklearn && self.weight_decay != 0.0 {
            let expected = "0 in the sklearn dialect (its alpha is a penalty of the loss)";
            return refuse("weight_decay", expected, self.weight_decay);
        }
        Ok(())
    }

    /// The coefficients of step number `count`, from 1, at a rate.
    pub(super) fn step<F: Element>(&self, count: u64, rate: f64) -> Step<F> {
        let torch = self.dialect == Dialect::Torch;
        Step {
            rate: F::of(rate),
            momentum: F::of(self.momentum),
            fresh: F::of(if count == 1 {
                1.0
            } else {
                1.0 - self.dampening
            }),
            decay: F::of(if torch { self.weight_decay } else { 0.0 }),
            shrink: F::of(if torch {
                1.0
            } else {
                1.0 - rate * self.weight_decay
            }),
            nesterov: self.nesterov,
            torch,
        }
    }
}

impl<F: Element> Step<F> {
    /// Updates θ and, with momentum, the velocity.
    #[inline(always)]
    pub(super) fn apply(self, gradient: &[F], [theta, velocity, ..]: [&mut [F]; 4]) {
        if velocity.is_empty() {
            each1(gradient, theta, |g, theta| {
                let g = g + self.decay * *theta;
                *theta = *theta * self.shrink - self.rate * g;
            });
            return;
        }
        // One loop for each form, so that none has a branch inside.
        match (self.torch, self.nesterov) {
            (true, true) => {
                self.torch_form(gradient, theta, velocity, |g, b| g + self.momentum * b);
            }
            (true, false) => self.torch_form(gradient, theta, velocity, |_, b| b),
            (false, true) => {
                self.rate_form(gradient, theta, velocity, |move_now, v| {
                    self.momentum * v - move_now
                });
            }
            (false, false) => self.rate_form(gradient, theta, velocity, |_, v| v),
        }
    }

    /// `direction(g, b)` is followed.
    #[inline(always)]
    fn torch_form(
        self,
        gradient: &[F],
        theta: &mut [F],
        buffer: &mut [F],
        direction: impl Fn(F, F) -> F,
    ) {
        each2(gradient, theta, buffer, |g, theta, b| {
            let g = g + self.decay * *theta;
            // At the first step the buffer is zero and `fresh` is 1: b = g.
            *b = flush(self.momentum * *b + self.fresh * g);
            *theta -= self.rate * direction(g, *b);
        });
    }

    /// The velocity holds the rate; `change(rate · g, v)` is added.
    #[inline(always)]
    fn rate_form(
        self,
        gradient: &[F],
        theta: &mut [F],
        velocity: &mut [F],
        change: impl Fn(F, F) -> F,
    ) {
        each2(gradient, theta, velocity, |g, theta, v| {
            let move_now = self.rate * g;
            *v = flush(self.momentum * *v - move_now);
            *theta = *theta * self.shrink + change(move_now, *v);
        });
    }
}
