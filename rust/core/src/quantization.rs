//! Quantisation to 8 bits: what a dense layer multiplies as integers.
//!
//! A weight w of output o is scale_o · q with a signed q from −127 to 127; scale_o = max |w| / 127 over the output's
//! weights. An input x is scale · (q − zero) with an unsigned q; scale and zero hold for the layer's whole input, and 0
//! is represented exactly. So an output is
//!
//! y_o = scale · scale_o · Σ_i (q_i − zero) · q_io + bias_o,
//!
//! where the sum is one of integers, exact in any order (`crate::simd::quads`). Rounding is to nearest, ties to even.

use std::sync::{Mutex, PoisonError};

use crate::element::Element;
use crate::matrix::{Buffer, Order, PanelRef, Panels, for_each_chunk, for_each_tile};
use crate::plan::{Slot, Storage};
use crate::pool;
use crate::simd::{kernel, quads};

/// Most inputs of a layer whose sums of products surely fit 32 bits.
pub const MAX_INPUTS: usize = i32::MAX as usize / (LEVELS * MOST) as usize;
/// Steps between the smallest and the largest input.
const LEVELS: i32 = 255;
/// The largest weight.
const MOST: i32 = 127;
/// What quantising a value costs, in multiply-adds of a product.
const ROUNDING: usize = 4;
/// Rows that a task quantises.
const ROWS: usize = 48;
/// Elements that a task rounds.
const CHUNK: usize = 1 << 12;

/// How the inputs of a layer are quantised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine<F> {
    pub scale: F,
    /// The integer that stands for 0.
    pub zero: F,
}

impl<F: Element> Affine<F> {
    /// The map that reaches from `low` to `high`, and to 0.
    pub fn of(low: F, high: F) -> Self {
        let (low, high) = (low.to_f64().min(0.0), high.to_f64().max(0.0));
        let levels = f64::from(LEVELS);
        // The difference of the largest numbers is none.
        let scale = F::of(high / levels - low / levels);
        if scale <= F::ZERO || !(F::ONE / scale).finite() {
            let scale = F::ONE;
            return Self {
                scale,
                zero: F::ZERO,
            };
        }
        let zero = F::of((-low / scale.to_f64()).round_ties_even().clamp(0.0, levels));
        Self { scale, zero }
    }

    /// The smallest and the largest q − zero.
    #[inline(always)]
    fn bounds(self) -> (F, F) {
        (F::ZERO - self.zero, F::of_int(LEVELS) - self.zero)
    }
}

/// The nearest integer, ties to even, of a number below 2^22.
#[inline(always)]
fn nearest<F: Element>(value: F) -> F {
    (value + F::ROUNDER) - F::ROUNDER
}

/// The value between two bounds; NaN gives the lower one.
#[inline(always)]
fn clamped<F: Element>(value: F, low: F, high: F) -> F {
    let value = if value > low { value } else { low };
    if value < high { value } else { high }
}

/// Scale of weights whose largest absolute value is `most`.
#[inline(always)]
pub fn weight_scale<F: Element>(most: F) -> F {
    let scale = most / F::of_int(MOST);
    if scale > F::ZERO { scale } else { F::ONE }
}

/// The integer that stands for a weight, as a number.
#[inline(always)]
fn integer<F: Element>(weight: F, scale: F) -> F {
    let most = F::of_int(MOST);
    nearest(clamped(weight / scale, F::ZERO - most, most))
}

/// The larger of `most` and the absolute value; NaN counts as nothing.
#[inline(always)]
fn larger<F: Element>(most: F, value: F) -> F {
    let size = if value < F::ZERO {
        F::ZERO - value
    } else {
        value
    };
    if size > most { size } else { most }
}

/// Scales of columns, as many as `scales` has.
#[inline(always)]
fn column_scales<F: Element>(weights: &[F], scales: &mut [F]) {
    scales.fill(F::ZERO);
    for row in weights.chunks_exact(scales.len()) {
        for (most, &weight) in scales.iter_mut().zip(row) {
            *most = larger(*most, weight);
        }
    }
    for scale in scales.iter_mut() {
        *scale = weight_scale(*scale);
    }
}

kernel! {
    /// Integers of row-major weights (inputs, outputs), as numbers, and the scale of each output.
    pub fn quantize_weights[F: Element](weights: &mut [F], scales: &mut [F])[F] {
        column_scales(weights, scales);
        for row in weights.chunks_exact_mut(scales.len()) {
            for (weight, &scale) in row.iter_mut().zip(&*scales) {
                *weight = integer(*weight, scale);
            }
        }
    }
}

kernel! {
    /// Integers of the weights of one output, as numbers, and their scale.
    pub fn quantize_row[F: Element](weights: &mut [F], scale: &mut F)[F] {
        *scale = weight_scale(weights.iter().fold(F::ZERO, |most, &weight| larger(most, weight)));
        for weight in weights {
            *weight = integer(*weight, *scale);
        }
    }
}

/// What a training step with quantised products multiplies in place of weights and inputs: the numbers that the integers
/// stand for. The map of the inputs reaches over the whole batch. Gradients are passed on as if nothing had been rounded
/// (straight through).
pub struct Rounded<F: Element> {
    /// In the layout of the parameters; those of dense layers' weights are filled.
    pub weights: Buffer<F>,
    /// By node; empty where it is no dense layer.
    pub inputs: Vec<Buffer<F>>,
}

/// Rounds a weight in its storage, by output.
pub fn round_weight<F: Element>(slot: &Slot, from: &[F], to: &mut [F]) {
    let shape = slot.panels;
    let work = ROUNDING * shape.rows * shape.cols;
    if slot.storage == Storage::Turned {
        // A row for each of a few outputs.
        for row in 0..shape.rows {
            let spans = (0..shape.count::<F>()).map(|panel| {
                let width = shape.width::<F>(panel);
                let start = shape.panel::<F>(panel).start + row * width;
                start..start + width
            });
            let mut most = F::ZERO;
            for span in spans.clone() {
                most = from[span]
                    .iter()
                    .fold(most, |most, &weight| larger(most, weight));
            }
            for span in spans {
                round_by(weight_scale(most), &from[span.clone()], &mut to[span]);
            }
        }
        return;
    }
    for_each_tile(
        shape,
        [to],
        (shape.rows, 1),
        Order::Panels,
        work,
        |mut tile| {
            let panel = tile.panels.start;
            let width = tile.width(panel);
            let [to] = tile.part(panel);
            round_columns(&from[shape.panel::<F>(panel)], width, to);
        },
    );
}

kernel! {
    fn round_by[F: Element](scale: F, from: &[F], to: &mut [F])[F] {
        for (to, &value) in to.iter_mut().zip(from) {
            *to = integer(value, scale) * scale;
        }
    }
}

kernel! {
    fn round_columns[F: Element](from: &[F], width: usize, to: &mut [F])[F] {
        let mut scales = [F::ZERO; 64];
        let scales = &mut scales[..width];
        column_scales(from, scales);
        for (from, to) in from.chunks_exact(width).zip(to.chunks_exact_mut(width)) {
            for ((to, &value), &scale) in to.iter_mut().zip(from).zip(&*scales) {
                *to = integer(value, scale) * scale;
            }
        }
    }
}

/// Rounds the inputs of a layer. NaN stays NaN.
pub fn round_inputs<F: Element>(from: PanelRef<'_, F>, to: &mut [F]) {
    let shape = from.shape;
    let mut ends = [F::ZERO, F::ZERO];
    for panel in 0..shape.count::<F>() {
        range(
            from.panel(panel),
            shape.width::<F>(panel),
            shape.used::<F>(panel),
            &mut ends,
        );
    }
    let map = Affine::of(ends[0], ends[1]);
    let len = shape.len::<F>();
    let from = &from.data[..len];
    let work = ROUNDING * shape.rows * shape.cols;
    for_each_chunk([&mut to[..len]], CHUNK, work, |start, [to]| {
        round_values(map, &from[start..start + to.len()], to);
    });
}

kernel! {
    /// Widens (least, largest) to the columns that hold data.
    fn range[F: Element](panel: &[F], width: usize, used: usize, ends: &mut [F; 2])[F] {
        // One pair for each column, so that the loop over rows has no chain.
        let (mut low, mut high) = ([ends[0]; 64], [ends[1]; 64]);
        for row in panel.chunks_exact(width) {
            for ((low, high), &value) in low.iter_mut().zip(&mut high).zip(&row[..used]) {
                *low = if value < *low { value } else { *low };
                *high = if value > *high { value } else { *high };
            }
        }
        for (&low, &high) in low.iter().zip(&high) {
            ends[0] = if low < ends[0] { low } else { ends[0] };
            ends[1] = if high > ends[1] { high } else { ends[1] };
        }
    }
}

kernel! {
    fn round_values[F: Element](map: Affine<F>, from: &[F], to: &mut [F])[F] {
        let ((low, high), inverse) = (map.bounds(), F::ONE / map.scale);
        for (to, &value) in to.iter_mut().zip(from) {
            let rounded = nearest(clamped(value * inverse, low, high)) * map.scale;
            *to = if value.nan() { value } else { rounded };
        }
    }
}

/// Shape of quantised rows of `cols` inputs, four to an element.
pub fn in_quads(rows: usize, cols: usize) -> Panels {
    Panels::new(rows, cols.div_ceil(quads::VALUES))
}

/// Quantises an input into quadruples. Returns the rows with a NaN in them, which no integer is.
pub fn quantize_rows<F: Element>(
    from: PanelRef<'_, F>,
    map: Affine<F>,
    out: &mut [F],
) -> Vec<usize> {
    assert_eq!(size_of::<F>(), quads::VALUES);
    let (rows, cols) = (from.shape.rows, from.shape.cols);
    let shape = in_quads(rows, cols);
    let work = ROUNDING * rows * cols;
    let block = rows.div_ceil(pool::team(work)).clamp(1, ROWS);
    // It takes memory only where there are such rows.
    let found = Mutex::new(Vec::new());
    let tiles = (block, shape.count::<F>());
    for_each_tile(shape, [out], tiles, Order::Rows, work, |mut tile| {
        let (first, mut marks) = (tile.first_row, [false; ROWS]);
        for panel in tile.panels.clone() {
            let width = tile.width(panel);
            let [out] = tile.part(panel);
            quantize_panel(from, panel, (first, width), map, out, &mut marks);
        }
        if marks.contains(&true) {
            let rows = (0..ROWS).filter(|&row| marks[row]).map(|row| first + row);
            found
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend(rows);
        }
    });
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}

kernel! {
    /// A panel of quadruples, rows from `first` on; bytes behind the last column are not touched.
    fn quantize_panel[F: Element](
        from: PanelRef<'_, F>,
        panel: usize,
        rows: (usize, usize),
        map: Affine<F>,
        out: &mut [F],
        marks: &mut [bool],
    )[F] {
        let (first, width) = rows;
        let ((low, high), inverse) = (map.bounds(), F::ONE / map.scale);
        let zero = (map.zero + F::ROUNDER).bits() as u8;
        let panels = quads::VALUES * panel..from.shape.count::<F>().min(quads::VALUES * (panel + 1));
        for ((row, out), mark) in out.chunks_exact_mut(width).enumerate().zip(marks) {
            let bytes = quads::bytes_of(out).chunks_mut(F::PANEL);
            for (panel, bytes) in panels.clone().zip(bytes) {
                let values = &from.row(panel, first + row)[..from.shape.used::<F>(panel)];
                for (byte, &value) in bytes.iter_mut().zip(values) {
                    *mark |= value.nan();
                    // Adding it leaves the nearest integer in the low bits.
                    let rounded = clamped(value * inverse, low, high) + F::ROUNDER;
                    *byte = (rounded.bits() as u8).wrapping_add(zero);
                }
            }
        }
    }
}

/// What a product of integers is made of, beside its operands: for each output what is added to the sum, and what the
/// result is multiplied by. `weights` are quadruples, `scales` one row of panels.
pub fn derive<F: Element>(
    weights: PanelRef<'_, F>,
    scales: &[F],
    map: Affine<F>,
    offsets: &mut [F],
    factors: &mut [F],
) {
    let zero = map.zero.to_f64() as i32;
    for panel in 0..weights.shape.count::<F>() {
        let (first, width) = (panel * F::PANEL, weights.shape.width::<F>(panel));
        for column in 0..width {
            let quads = weights.panel(panel)[column..].iter().step_by(width);
            let bytes = quads.flat_map(|quad| quads::bytes(quad.bits()));
            let sum: i32 = bytes.map(|byte| i32::from(byte as i8)).sum();
            offsets[first + column] = F::of_bits(sum.wrapping_mul(-zero) as u32);
        }
    }
    for (factor, &scale) in factors.iter_mut().zip(scales) {
        *factor = map.scale * scale;
    }
}
