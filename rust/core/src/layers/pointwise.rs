//! Elementwise layers: passing gradients on, and the learned slope of prelu.

use super::DInput;
use crate::element::Element;
use crate::lanes;
use crate::matrix::Panels;
use crate::simd::kernel;

kernel! {
    /// d_input of a layer whose derivative is already in `d_output`.
    pub fn pass_on[F: Element](d_output: &[F], d_input: DInput<'_, F>)[F] {
        let mut d_input = d_input;
        d_input.put(0, d_output.iter().copied());
    }
}

kernel! {
    /// z where z > 0, slope · z elsewhere.
    pub fn prelu_forward[F: Element](slope: F, input: &[F], output: &mut [F])[F] {
        for (out, &z) in output.iter_mut().zip(input) {
            *out = if z > F::ZERO { z } else { slope * z };
        }
    }
}

kernel! {
    /// d_slope = Σ d_output · z over z <= 0: lanes along a row, rows in order.
    pub fn prelu_backward[F: Element](
        slope: F,
        shape: Panels,
        input: &[F],
        d_output: &[F],
        d_slope: &mut F,
        d_input: Option<DInput<'_, F>>,
    )[F] {
        let mut sum = F::ZERO;
        for row in 0..shape.rows {
            let mut lanes = [F::ZERO; lanes::COUNT];
            for p in 0..shape.count::<F>() {
                let start = shape.row::<F>(p, row).start;
                let span = start..start + shape.used::<F>(p);
                let terms = input[span.clone()].iter().zip(&d_output[span]);
                lanes::add(
                    &mut lanes,
                    terms.map(|(&z, &d)| if z > F::ZERO { F::ZERO } else { d * z }),
                );
            }
            sum += lanes::total(lanes);
        }
        *d_slope = sum;
        if let Some(mut d_input) = d_input {
            let slopes = input.iter().zip(d_output);
            d_input.put(0, slopes.map(|(&z, &d)| if z > F::ZERO { d } else { slope * d }));
        }
    }
}

kernel! {
    /// d_bias: for each column the sum over rows, in order.
    pub fn column_sums[F: Element](shape: Panels, values: &[F], sums: &mut [F])[F] {
        for p in 0..shape.count::<F>() {
            let width = shape.width::<F>(p);
            let sums = &mut sums[p * F::PANEL..][..width];
            sums.fill(F::ZERO);
            for row in values[shape.panel::<F>(p)].chunks_exact(width) {
                for (sum, &value) in sums.iter_mut().zip(row) {
                    *sum += value;
                }
            }
        }
    }
}
