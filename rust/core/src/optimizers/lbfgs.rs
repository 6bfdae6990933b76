//! Limited-memory BFGS: Nocedal and Wright, Numerical Optimization, 2nd edition (2006), algorithms 7.4 and 7.5; first
//! steps, restarts and stopping as in L-BFGS-B (Zhu et al., ACM Transactions on Mathematical Software 23, 1997) without
//! bounds.

use crate::element::Element;
use crate::error::Result;
use crate::lanes::dot;
use crate::matrix::Buffer;
use crate::simd::kernel;

/// The direction is −H·g. H starts as (sᵀy / yᵀy)·I of the newest pair of changes, s of the parameters and y of the
/// gradient; then each pair, from the oldest to the newest, makes it (I − ρsyᵀ)H(I − ρysᵀ) + ρssᵀ, ρ = 1/sᵀy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lbfgs {
    /// Pairs that are kept.
    pub history_size: usize,
    /// Of the loss, in one line search.
    pub max_evaluations: u64,
    /// Converged when no entry of the gradient is larger.
    pub tolerance_grad: f64,
    /// Converged when a step has lowered the loss by no more than this times max(|before|, |after|, 1).
    pub tolerance_loss: f64,
}

/// What a step has taught: the change of the parameters and that of the gradient.
pub struct Pair<F: Element> {
    pub s: Buffer<F>,
    pub y: Buffer<F>,
}

/// The last pairs, oldest first.
pub struct Pairs<F: Element> {
    pairs: Vec<Pair<F>>,
    count: usize,
}

impl<F: Element> Pairs<F> {
    /// Room for `most` pairs of `len` parameters; memory is used as they come.
    pub fn new(most: usize, len: usize) -> Result<Self> {
        let pair = |_| {
            Ok(Pair {
                s: Buffer::zeroed(len)?,
                y: Buffer::zeroed(len)?,
            })
        };
        Ok(Self {
            pairs: (0..most).map(pair).collect::<Result<_>>()?,
            count: 0,
        })
    }

    /// How many there can be.
    pub fn room(&self) -> usize {
        self.pairs.len()
    }

    /// Those that there are.
    pub fn get(&self) -> &[Pair<F>] {
        &self.pairs[..self.count]
    }

    pub fn clear(&mut self) {
        self.count = 0;
    }

    /// A place for the newest pair; the oldest goes where there is no other.
    pub fn push(&mut self) -> Option<&mut Pair<F>> {
        if self.count < self.pairs.len() {
            self.count += 1;
        } else {
            self.pairs.rotate_left(1);
        }
        self.pairs.get_mut(self.count.wrapping_sub(1))
    }
}

/// −H·g by the two loops: from the newest pair to the oldest, and back.
pub(crate) fn descend<F: Element>(
    gradient: &[F],
    pairs: &[Pair<F>],
    alphas: &mut [f64],
    direction: &mut [F],
) {
    for (d, &g) in direction.iter_mut().zip(gradient) {
        *d = -g;
    }
    for (pair, alpha) in pairs.iter().zip(&mut *alphas).rev() {
        *alpha = dot(&pair.s, direction) / dot(&pair.s, &pair.y);
        add(-*alpha, &pair.y, direction);
    }
    if let Some(newest) = pairs.last() {
        scale(
            dot(&newest.s, &newest.y) / dot(&newest.y, &newest.y),
            direction,
        );
    }
    for (pair, alpha) in pairs.iter().zip(alphas) {
        let beta = dot(&pair.y, direction) / dot(&pair.s, &pair.y);
        add(*alpha - beta, &pair.s, direction);
    }
}

/// The largest magnitude.
pub(crate) fn largest<F: Element>(values: &[F]) -> f64 {
    let largest = |a: f64, value: &F| a.max(value.to_f64().abs());
    values.iter().fold(0.0, largest)
}

/// y += factor · x.
pub(crate) fn add<F: Element>(factor: f64, x: &[F], y: &mut [F]) {
    add_scaled(F::of(factor), x, y);
}

kernel! {
    fn add_scaled[F: Element](factor: F, x: &[F], y: &mut [F])[F] {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += factor * x;
        }
    }
}

fn scale<F: Element>(factor: f64, values: &mut [F]) {
    let factor = F::of(factor);
    for value in values {
        *value *= factor;
    }
}
