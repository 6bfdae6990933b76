//! Standardisation by the mean and variance of the data: (x − mean)/√var for inputs, x·√var + mean for outputs in the
//! units of the targets. A feature whose variance is 0 passes as it is.

use super::DInput;
use crate::element::Element;
use crate::matrix::Panels;
use crate::plan::Subject;
use crate::simd::kernel;

kernel! {
    /// What is subtracted and multiplied, or multiplied and added, for each feature.
    pub fn factors[F: Element](
        of: Subject,
        mean: &[F],
        var: &[F],
        shift: &mut [F],
        scale: &mut [F],
    )[F] {
        for j in 0..mean.len() {
            let deviation = if var[j] > F::ZERO { var[j].root() } else { F::ONE };
            shift[j] = if var[j] > F::ZERO { mean[j] } else { F::ZERO };
            scale[j] = match of {
                Subject::Inputs => F::ONE / deviation,
                Subject::Targets => deviation,
            };
        }
    }
}

kernel! {
    /// x·scale for inputs, from which the mean has been taken, x·scale + shift for targets; features are rows where the
    /// batch is the columns (`turned`).
    pub fn forward[F: Element](
        of: Subject,
        shape: Panels,
        turned: bool,
        factors: [&[F]; 2],
        input: &[F],
        output: &mut [F],
    )[F] {
        let standardize = |x: F, _, scale: F| x * scale;
        let put_back = |x: F, shift, scale| x.fma(scale, shift);
        match of {
            Subject::Inputs => each(shape, turned, factors, input, output, standardize),
            Subject::Targets => each(shape, turned, factors, input, output, put_back),
        }
    }
}

/// Every value by `function` of it and its feature's factors.
#[inline(always)]
fn each<F: Element>(
    shape: Panels,
    turned: bool,
    [shift, scale]: [&[F]; 2],
    input: &[F],
    output: &mut [F],
    function: impl Fn(F, F, F) -> F,
) {
    for p in 0..shape.count::<F>() {
        let width = shape.width::<F>(p);
        for row in 0..shape.rows {
            let span = shape.row::<F>(p, row);
            let (x, out) = (&input[span.clone()], &mut output[span]);
            if turned {
                for j in 0..width {
                    out[j] = function(x[j], shift[row], scale[row]);
                }
            } else {
                let columns = p * F::PANEL..p * F::PANEL + width;
                let (shift, scale) = (&shift[columns.clone()], &scale[columns]);
                for j in 0..width {
                    out[j] = function(x[j], shift[j], scale[j]);
                }
            }
        }
    }
}

kernel! {
    /// d_input = d_output·scale
    pub fn backward[F: Element](
        shape: Panels,
        turned: bool,
        scale: &[F],
        d_output: &[F],
        d_input: DInput<'_, F>,
    )[F] {
        let mut d_input = d_input;
        for p in 0..shape.count::<F>() {
            let width = shape.width::<F>(p);
            for row in 0..shape.rows {
                let span = shape.row::<F>(p, row);
                let (start, d) = (span.start, d_output[span].iter());
                if turned {
                    d_input.put(start, d.map(|&d| d * scale[row]));
                } else {
                    let scale = &scale[p * F::PANEL..p * F::PANEL + width];
                    d_input.put(start, d.zip(scale).map(|(&d, &scale)| d * scale));
                }
            }
        }
    }
}

kernel! {
    /// Adds s·(x − center) and s·(x − center)² of each row of `values` (row-major) to the columns' sums; rows whose
    /// share s is 0 are absent.
    pub fn add_moments[](
        shares: &[f64],
        center: &[f64],
        values: &[f64],
        firsts: &mut [f64],
        seconds: &mut [f64],
    )[] {
        let cols = center.len();
        for (&share, row) in shares.iter().zip(values.chunks_exact(cols)) {
            if share == 0.0 {
                continue;
            }
            for j in 0..cols {
                let d = row[j] - center[j];
                firsts[j] += share * d;
                seconds[j] += share * d * d;
            }
        }
    }
}
