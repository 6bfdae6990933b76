//! Sums in a fixed order. A sum over one row or one vector runs in sixteen interleaved lanes (element i in
//! lane i mod 16) that are then added as a tree: the order depends on the length alone.

use crate::element::Element;
use crate::simd::kernel;

pub const COUNT: usize = 16;

/// The sum of `terms` in f64.
#[inline(always)]
pub fn sum_f64<F: Element>(terms: impl Iterator<Item = F>) -> f64 {
    sum(terms.map(F::to_f64))
}

/// Adds `terms` to the lanes; all calls but the last must bring a multiple of sixteen terms.
#[inline(always)]
pub fn add<F: Element>(lanes: &mut [F; COUNT], terms: impl Iterator<Item = F>) {
    for (i, term) in terms.enumerate() {
        lanes[i % COUNT] += term;
    }
}

/// The sum of the lanes.
#[inline(always)]
pub fn total<F: Element>(mut lanes: [F; COUNT]) -> F {
    let mut width = COUNT / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The sum of `terms`.
#[inline(always)]
pub fn sum<F: Element>(terms: impl Iterator<Item = F>) -> F {
    let mut lanes = [F::ZERO; COUNT];
    add(&mut lanes, terms);
    total(lanes)
}

/// Σ aᵢbᵢ in f64, where squares of f32 do not overflow.
pub fn dot<F: Element>(a: &[F], b: &[F]) -> f64 {
    let mut sum = 0.0;
    sum_of_products(a, b, &mut sum);
    sum
}

kernel! {
    fn sum_of_products[F: Element](a: &[F], b: &[F], sum: &mut f64)[F] {
        let mut lanes = [0.0; COUNT];
        for (a, b) in a.chunks(COUNT).zip(b.chunks(COUNT)) {
            for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
                *lane = a.to_f64().mul_add(b.to_f64(), *lane);
            }
        }
        *sum = total(lanes);
    }
}

/// Σ l1·|vᵢ| + l2·vᵢ² in f64.
pub fn penalty<F: Element>(values: &[F], l1: f64, l2: f64) -> f64 {
    let mut sum = 0.0;
    sum_of_penalties(values, l1, l2, &mut sum);
    sum
}

kernel! {
    fn sum_of_penalties[F: Element](values: &[F], l1: f64, l2: f64, sum: &mut f64)[F] {
        let mut lanes = [0.0; COUNT];
        for values in values.chunks(COUNT) {
            for (lane, value) in lanes.iter_mut().zip(values) {
                let value = value.to_f64();
                *lane += l1 * value.abs() + l2 * (value * value);
            }
        }
        *sum = total(lanes);
    }
}
