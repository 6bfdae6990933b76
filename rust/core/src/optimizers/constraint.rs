//! Constraints of weights, which the end of a step restores.

use crate::element::Element;
use crate::lanes;
use crate::matrix::for_each_chunk;
use crate::plan::{Slot, Storage};
use crate::simd::kernel;

/// What an element costs, in multiply-adds of a product.
const WORK: usize = 4;

/// What holds of a weight after each step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Constraint {
    /// Of the weights of one unit.
    pub max_norm: Option<f64>,
    pub non_negative: bool,
}

impl Constraint {
    /// The nearest weight in the slot's storage that keeps it: negative ones to 0, then the weights w of a unit to
    /// w · M/‖w‖ where ‖w‖ > M.
    pub(crate) fn apply<F: Element>(self, slot: &Slot, storage: &mut [F]) {
        let work = WORK * storage.len();
        let size = F::PANEL * slot.panels.rows;
        if self.non_negative {
            for_each_chunk([&mut *storage], size, work, |_, [panel]| {
                clear_negative(panel);
            });
        }
        let Some(limit) = self.max_norm else { return };
        if slot.storage == Storage::Turned {
            limit_rows(slot, limit, storage);
        } else {
            for_each_chunk([storage], size, work, |_, [panel]| {
                limit_columns(slot.panels.rows, limit, panel);
            });
        }
    }
}

kernel! {
    /// NaN stays NaN.
    fn clear_negative[F: Element](values: &mut [F])[F] {
        for value in values {
            *value = if *value < F::ZERO { F::ZERO } else { *value };
        }
    }
}

/// limit/‖w‖ where that is below 1, else 1. Squares are added in f64: those of f32 overflow at 1.8e19.
#[inline(always)]
fn factor<F: Element>(limit: f64, square: f64) -> F {
    let norm = square.sqrt();
    F::of(if norm > limit { limit / norm } else { 1.0 })
}

kernel! {
    /// Units are columns; their squares are added in the order of the rows.
    fn limit_columns[F: Element](rows: usize, limit: f64, panel: &mut [F])[F] {
        let width = panel.len() / rows;
        let mut squares = [0.0f64; 64];
        let mut factors = [F::ONE; 64];
        for row in panel.chunks_exact(width) {
            for (square, value) in squares.iter_mut().zip(row) {
                let value = value.to_f64();
                *square = value.mul_add(value, *square);
            }
        }
        let mut all = true;
        for (factor_of, &square) in factors.iter_mut().zip(&squares[..width]) {
            *factor_of = factor(limit, square);
            all &= *factor_of == F::ONE;
        }
        if !all {
            for row in panel.chunks_exact_mut(width) {
                for (value, &factor) in row.iter_mut().zip(&factors) {
                    *value *= factor;
                }
            }
        }
    }
}

kernel! {
    /// Units are rows; their squares are added in lanes.
    fn limit_rows[F: Element](slot: &Slot, limit: f64, storage: &mut [F])[F] {
        let panels = slot.panels;
        for row in 0..panels.rows {
            let mut sums = [0.0; lanes::COUNT];
            for p in 0..panels.count::<F>() {
                let squares = storage[panels.row::<F>(p, row)].iter();
                lanes::add(&mut sums, squares.map(|value| value.to_f64() * value.to_f64()));
            }
            let factor: F = factor(limit, lanes::total(sums));
            if factor != F::ONE {
                for p in 0..panels.count::<F>() {
                    for value in &mut storage[panels.row::<F>(p, row)] {
                        *value *= factor;
                    }
                }
            }
        }
    }
}
