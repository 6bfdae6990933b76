//! Layer normalisation (Ba, Kiros and Hinton 2016): each row to mean 0 and variance 1 over its features, then
//! weight and bias.

use super::{DInput, clear_padding};
use crate::element::Element;
use crate::lanes;
use crate::matrix::Panels;
use crate::simd::kernel;

kernel! {
    /// weight · (x − mean) / √(var + eps) + bias with the biased variance; `statistics` receives mean and
    /// 1/√(var + eps) of each row.
    pub fn forward[F: Element](
        shape: Panels,
        eps: F,
        weight: &[F],
        bias: &[F],
        input: &[F],
        output: &mut [F],
        statistics: &mut [F],
    )[F] {
        let count = F::of(shape.cols as f64);
        for row in 0..shape.rows {
            let mut sums = [F::ZERO; lanes::COUNT];
            for p in 0..shape.count::<F>() {
                let start = shape.row::<F>(p, row).start;
                lanes::add(&mut sums, input[start..start + shape.used::<F>(p)].iter().copied());
            }
            let mean = lanes::total(sums) / count;
            let mut sums = [F::ZERO; lanes::COUNT];
            for p in 0..shape.count::<F>() {
                let start = shape.row::<F>(p, row).start;
                let values = &input[start..start + shape.used::<F>(p)];
                lanes::add(&mut sums, values.iter().map(|&x| (x - mean) * (x - mean)));
            }
            let scale = F::ONE / (lanes::total(sums) / count + eps).root();
            statistics[2 * row] = mean;
            statistics[2 * row + 1] = scale;
            for p in 0..shape.count::<F>() {
                let start = shape.row::<F>(p, row).start;
                let span = start..start + shape.used::<F>(p);
                let affine = weight[p * F::PANEL..].iter().zip(&bias[p * F::PANEL..]);
                let values = output[span.clone()].iter_mut().zip(&input[span]);
                for ((out, &x), (&w, &b)) in values.zip(affine) {
                    *out = (x - mean) * scale * w + b;
                }
            }
        }
        clear_padding(shape, output);
    }
}

kernel! {
    /// With x̂ the normalised input, e = d · weight and n features:
    /// d_input = (e − Σe/n − x̂·Σ(e·x̂)/n) / √(var + eps); d_weight = Σ d·x̂ and d_bias = Σ d over rows,
    /// `resumed` or from 0.
    pub fn backward[F: Element](
        shape: Panels,
        weight: &[F],
        input: &[F],
        statistics: &[F],
        d_output: &[F],
        resumed: bool,
        d_weight: &mut [F],
        d_bias: &mut [F],
        d_input: Option<DInput<'_, F>>,
    )[F] {
        let count = F::of(shape.cols as f64);
        if !resumed {
            d_weight.fill(F::ZERO);
            d_bias.fill(F::ZERO);
        }
        for row in 0..shape.rows {
            let (mean, scale) = (statistics[2 * row], statistics[2 * row + 1]);
            for p in 0..shape.count::<F>() {
                let start = shape.row::<F>(p, row).start;
                let span = start..start + shape.used::<F>(p);
                let sums = d_weight[p * F::PANEL..].iter_mut().zip(&mut d_bias[p * F::PANEL..]);
                let values = input[span.clone()].iter().zip(&d_output[span]);
                for ((d_weight, d_bias), (&x, &d)) in sums.zip(values) {
                    *d_weight += d * ((x - mean) * scale);
                    *d_bias += d;
                }
            }
        }
        let Some(mut d_input) = d_input else {
            return;
        };
        for row in 0..shape.rows {
            let (mean, scale) = (statistics[2 * row], statistics[2 * row + 1]);
            let mut plain = [F::ZERO; lanes::COUNT];
            let mut along = [F::ZERO; lanes::COUNT];
            for p in 0..shape.count::<F>() {
                let start = shape.row::<F>(p, row).start;
                let span = start..start + shape.used::<F>(p);
                let terms = d_output[span.clone()].iter().zip(&weight[p * F::PANEL..]);
                lanes::add(&mut plain, terms.clone().map(|(&d, &w)| d * w));
                let terms = terms.zip(&input[span]);
                lanes::add(&mut along, terms.map(|((&d, &w), &x)| d * w * ((x - mean) * scale)));
            }
            let plain = lanes::total(plain) / count;
            let along = lanes::total(along) / count;
            for p in 0..shape.count::<F>() {
                let span = shape.row::<F>(p, row);
                let terms = d_output[span.clone()].iter().zip(&weight[p * F::PANEL..]);
                let terms = terms.zip(&input[span.clone()]);
                d_input.put(span.start, terms.map(|((&d, &w), &x)| {
                    (d * w - plain - (x - mean) * scale * along) * scale
                }));
            }
        }
        clear_padding(shape, d_input.data);
    }
}
