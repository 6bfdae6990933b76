//! Elementwise layers: passing gradients on, and the learned slope of prelu.

use super::DInput;
use crate::element::Element;
use crate::lanes;
use crate::matrix::{PanelRef, Panels, for_each_chunk};
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
    /// d_slope = Σ d_output · z over z <= 0, `resumed` or from 0: lanes along a row, rows in order.
    pub fn prelu_backward[F: Element](
        slope: F,
        shape: Panels,
        input: &[F],
        d_output: &[F],
        resumed: bool,
        d_slope: &mut F,
        d_input: Option<DInput<'_, F>>,
    )[F] {
        let mut sum = if resumed { *d_slope } else { F::ZERO };
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

/// d_bias: for each column the sum over rows, in order, `resumed` or from 0.
pub fn column_sums<F: Element>(values: PanelRef<'_, F>, resumed: bool, sums: &mut [F]) {
    let work = 4 * values.data.len();
    for_each_chunk([sums], F::PANEL, work, |start, [sums]| {
        panel_sums(values.panel(start / F::PANEL), resumed, sums);
    });
}

kernel! {
    fn panel_sums[F: Element](panel: &[F], resumed: bool, sums: &mut [F])[F] {
        match F::LANES {
            16 => sum_columns::<F, 16>(panel, resumed, sums),
            _ => sum_columns::<F, 8>(panel, resumed, sums),
        }
    }
}

/// Sums of the columns of a panel, `L` columns at a time.
#[inline(always)]
fn sum_columns<F: Element, const L: usize>(panel: &[F], resumed: bool, sums: &mut [F]) {
    let width = sums.len();
    for (first, sums) in (0..width).step_by(L).zip(sums.chunks_exact_mut(L)) {
        let mut total = [F::ZERO; L];
        if resumed {
            total.copy_from_slice(sums);
        }
        for row in panel.chunks_exact(width) {
            let row = &row[first..first + L];
            for j in 0..L {
                total[j] += row[j];
            }
        }
        sums.copy_from_slice(&total);
    }
}

kernel! {
    /// d_bias where the batch is the columns: for each row the sum over its lanes. `partial` holds the lanes of all
    /// rows, into which `before` columns have gone.
    pub fn row_sums[F: Element](values: PanelRef<'_, F>, before: usize, partial: &mut [F], sums: &mut [F])[F] {
        let (partial, _) = partial.as_chunks_mut::<{ lanes::COUNT }>();
        for ((row, sum), lanes) in sums.iter_mut().enumerate().zip(partial).take(values.shape.rows) {
            if before == 0 {
                lanes.fill(F::ZERO);
            }
            let turn = before % lanes::COUNT;
            lanes.rotate_left(turn);
            for p in 0..values.shape.count::<F>() {
                let used = values.shape.used::<F>(p);
                lanes::add(lanes, values.row(p, row)[..used].iter().copied());
            }
            lanes.rotate_right(turn);
            *sum = lanes::total(*lanes);
        }
    }
}
