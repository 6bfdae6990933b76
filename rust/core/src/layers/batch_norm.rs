//! Batch normalisation (Ioffe and Szegedy 2015) with weighted statistics: a row of weight 0 is absent, a row
//! of weight k counts as k rows.

use super::DInput;
use crate::element::Element;
use crate::matrix::Panels;
use crate::simd::kernel;

/// Statistics of one batch, each in one row of panels.
pub struct Statistics<'a, F> {
    pub mean: &'a mut [F],
    pub var: &'a mut [F],
}

kernel! {
    /// mean = Σ w·x / W and var = Σ w·(x − mean)² / W over the rows, in order; rows of weight 0 are absent.
    pub fn measure[F: Element](
        shape: Panels,
        weights: Option<&[f64]>,
        whole: f64,
        input: &[F],
        statistics: Statistics<'_, F>,
    )[F] {
        // Without weights the sum is divided once.
        let divisor = F::of(if weights.is_some() { 1.0 } else { whole });
        for p in 0..shape.count::<F>() {
            let width = shape.width::<F>(p);
            let columns = p * F::PANEL..p * F::PANEL + width;
            let mean = &mut statistics.mean[columns.clone()];
            let var = &mut statistics.var[columns];
            let rows = input[shape.panel::<F>(p)].chunks_exact(width);
            mean.fill(F::ZERO);
            var.fill(F::ZERO);
            for (row, values) in rows.clone().enumerate() {
                // Shares rather than weights, so that their scale does not matter.
                let w = F::of(weights.map_or(1.0, |weights| weights[row] / whole));
                if w == F::ZERO {
                    continue;
                }
                for (mean, &x) in mean.iter_mut().zip(values) {
                    *mean += w * x;
                }
            }
            for mean in mean.iter_mut() {
                *mean = *mean / divisor;
            }
            for (row, values) in rows.enumerate() {
                // Shares rather than weights, so that their scale does not matter.
                let w = F::of(weights.map_or(1.0, |weights| weights[row] / whole));
                if w == F::ZERO {
                    continue;
                }
                for ((var, &mean), &x) in var.iter_mut().zip(mean.iter()).zip(values) {
                    *var += w * ((x - mean) * (x - mean));
                }
            }
            for var in var.iter_mut() {
                *var = *var / divisor;
            }
        }
    }
}

kernel! {
    /// scale = 1/√(var + eps)
    pub fn scales[F: Element](eps: F, var: &[F], scale: &mut [F])[F] {
        for (scale, &var) in scale.iter_mut().zip(var) {
            *scale = F::ONE / (var + eps).root();
        }
    }
}

kernel! {
    /// weight · (x − mean) · scale + bias
    pub fn forward[F: Element](
        shape: Panels,
        mean: &[F],
        scale: &[F],
        weight: &[F],
        bias: &[F],
        input: &[F],
        output: &mut [F],
    )[F] {
        for p in 0..shape.count::<F>() {
            let width = shape.width::<F>(p);
            let columns = p * F::PANEL..p * F::PANEL + width;
            let (mean, scale) = (&mean[columns.clone()], &scale[columns.clone()]);
            let (weight, bias) = (&weight[columns.clone()], &bias[columns]);
            let panel = shape.panel::<F>(p);
            let rows = output[panel.clone()].chunks_exact_mut(width);
            for (out, values) in rows.zip(input[panel].chunks_exact(width)) {
                for j in 0..width {
                    out[j] = (values[j] - mean[j]) * scale[j] * weight[j] + bias[j];
                }
            }
        }
    }
}

kernel! {
    /// d_weight = Σ d·x̂, d_bias = Σ d; with batch statistics (`whole` is the sum of weights)
    /// d_input = weight·scale·(d − w/W·(d_bias + x̂·d_weight)), with running ones weight·scale·d.
    pub fn backward[F: Element](
        shape: Panels,
        batch: Option<(Option<&[f64]>, f64)>,
        mean: &[F],
        scale: &[F],
        weight: &[F],
        input: &[F],
        d_output: &[F],
        d_weight: &mut [F],
        d_bias: &mut [F],
        d_input: Option<DInput<'_, F>>,
    )[F] {
        let mut d_input = d_input;
        for p in 0..shape.count::<F>() {
            let width = shape.width::<F>(p);
            let columns = p * F::PANEL..p * F::PANEL + width;
            let (mean, scale) = (&mean[columns.clone()], &scale[columns.clone()]);
            let weight = &weight[columns.clone()];
            let (d_weight, d_bias) = (&mut d_weight[columns.clone()], &mut d_bias[columns]);
            d_weight.fill(F::ZERO);
            d_bias.fill(F::ZERO);
            let panel = shape.panel::<F>(p);
            let rows = input[panel.clone()].chunks_exact(width);
            let rows = rows.zip(d_output[panel].chunks_exact(width));
            for (x, d) in rows.clone() {
                for j in 0..width {
                    d_weight[j] += d[j] * ((x[j] - mean[j]) * scale[j]);
                    d_bias[j] += d[j];
                }
            }
            let Some(d_input) = &mut d_input else {
                continue;
            };
            for (row, (x, d)) in rows.enumerate() {
                let share = match batch {
                    Some((weights, whole)) => {
                        F::of(weights.map_or(1.0, |weights| weights[row]) / whole)
                    }
                    None => F::ZERO,
                };
                let start = shape.row::<F>(p, row).start;
                d_input.put(start, (0..width).map(|j| {
                    let normal = (x[j] - mean[j]) * scale[j];
                    let common = share * (d_bias[j] + normal * d_weight[j]);
                    weight[j] * scale[j] * (d[j] - common)
                }));
            }
        }
    }
}

/// running = (1 − momentum)·running + momentum·batch; the variance is made unbiased by W/(W − 1) when W >= 2.
pub fn track<F: Element>(
    momentum: f64,
    whole: f64,
    running: (&mut [F], &mut [F]),
    batch: (&[F], &[F]),
) {
    let (keep, fresh) = (F::of(1.0 - momentum), F::of(momentum));
    let unbiased = if whole >= 2.0 {
        whole / (whole - 1.0)
    } else {
        1.0
    };
    let fresh_var = F::of(momentum * unbiased);
    for (running, &batch) in running.0.iter_mut().zip(batch.0) {
        *running = keep * *running + fresh * batch;
    }
    for (running, &batch) in running.1.iter_mut().zip(batch.1) {
        *running = keep * *running + fresh_var * batch;
    }
}
