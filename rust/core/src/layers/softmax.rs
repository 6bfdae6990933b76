//! Softmax as a layer.

use super::{DInput, clear_padding};
use crate::activation::maximum;
use crate::element::Element;
use crate::lanes;
use crate::math::exp;
use crate::matrix::Panels;
use crate::simd::kernel;

kernel! {
    /// e^(z − max) / Σ e^(z − max), row by row.
    pub fn forward[F: Element](shape: Panels, input: &[F], output: &mut [F])[F] {
        for row in 0..shape.rows {
            let mut largest = input[shape.row::<F>(0, row).start];
            for p in 0..shape.count::<F>() {
                let start = shape.row::<F>(p, row).start;
                for &z in &input[start..start + shape.used::<F>(p)] {
                    largest = maximum(largest, z);
                }
            }
            let mut sums = [F::ZERO; lanes::COUNT];
            for p in 0..shape.count::<F>() {
                let start = shape.row::<F>(p, row).start;
                let span = start..start + shape.used::<F>(p);
                for (out, &z) in output[span.clone()].iter_mut().zip(&input[span.clone()]) {
                    *out = exp(z - largest);
                }
                lanes::add(&mut sums, output[span].iter().copied());
            }
            let sum = lanes::total(sums);
            for p in 0..shape.count::<F>() {
                let start = shape.row::<F>(p, row).start;
                for out in &mut output[start..start + shape.used::<F>(p)] {
                    *out = *out / sum;
                }
            }
        }
        clear_padding(shape, output);
    }
}

kernel! {
    /// d_input = a · (d − Σ d·a), a the output.
    pub fn backward[F: Element](
        shape: Panels,
        output: &[F],
        d_output: &[F],
        d_input: DInput<'_, F>,
    )[F] {
        let mut d_input = d_input;
        for row in 0..shape.rows {
            let mut sums = [F::ZERO; lanes::COUNT];
            for p in 0..shape.count::<F>() {
                let start = shape.row::<F>(p, row).start;
                let span = start..start + shape.used::<F>(p);
                let terms = output[span.clone()].iter().zip(&d_output[span]);
                lanes::add(&mut sums, terms.map(|(&a, &d)| a * d));
            }
            let mean = lanes::total(sums);
            for p in 0..shape.count::<F>() {
                let span = shape.row::<F>(p, row);
                let terms = output[span.clone()].iter().zip(&d_output[span.clone()]);
                d_input.put(span.start, terms.map(|(&a, &d)| a * (d - mean)));
            }
        }
        clear_padding(shape, d_input.data);
    }
}
