//! The one product routine: `out = left · right`, with an epilogue on each finished tile. All three products
//! of a dense layer are this routine (batch b, inputs i, outputs o):
//!
//! | product | left | right | epilogue |
//! |---|---|---|---|
//! | forward, b x o | input (b x i) | weight (i x o) | bias and activation |
//! | d_input, b x i | d_output (b x o) | weight transposed (block by block) | activation gradient |
//! | d_weight, i x o | input transposed (read in place) | d_output (b x o) | none, or the optimiser |
//!
//! Every output element is one chain `acc = fma(a_k, b_k, acc)` with k ascending from 0. Blocks of k continue
//! the chain, so neither they nor tiles nor threads can change a bit.

use crate::activation::{Activation, apply};
use crate::element::Element;
use crate::matrix::{Order, PanelRef, Panels, Tile, for_each_tile};
use crate::optimizers::Update;
use crate::pool;
use crate::simd::bf16::{Arithmetic, Full};
pub use crate::simd::tile::Left;
use crate::simd::tile::{Bias, Rows, fetch_block, multiply, pair_block, transpose_block};
use crate::simd::{kernel, vector_kernel};

/// Depth of a block of k: with a panel's width of columns it stays in the second-level cache (128 KiB).
const DEPTH: usize = 512;
/// The same where the block is transposed first (64 KiB).
const TRANSPOSED_DEPTH: usize = 256;
/// Elements of the left operand that stay in the second-level cache while a task streams the right one.
const CACHED: usize = 1 << 17;
/// Most rows of one task. Blocks of the right operand are streamed, or transposed, once for them; the block of the
/// left operand and the partial sums of more rows would not stay in the cache.
const MAX_ROWS: usize = 512;
/// Rows of a task that take longer than fetching the next block from memory.
const FETCHING_ROWS: usize = 128;
/// Panels of a task whose rows outgrow the cache.
const GROUP: usize = 2;
/// Rows that a task narrows.
const NARROW_ROWS: usize = 48;
/// Rows that one register tile holds, or two.
const FEW_ROWS: usize = 8;
/// What rounding a pair costs, in multiply-adds of a product.
const NARROWING: usize = 8;

/// The operand whose rows are streamed.
#[derive(Clone, Copy)]
pub enum Right<'a, F> {
    Plain(PanelRef<'a, F>),
    /// Used as its transpose.
    Transposed(PanelRef<'a, F>),
}

/// What happens to finished rows of a panel.
pub trait Epilogue<F: Element, const N: usize>: Copy + Sync {
    /// Whether the sums are made in a place of their own, because the first array holds something else.
    const APART: bool;

    /// Whether the first array holds the sums over an earlier part of the depth, which are gone on with.
    const CONTINUES: bool = false;

    /// What is added to each sum.
    fn bias(&self, _panel: usize, _row: usize) -> Bias<&[F]> {
        Bias::None
    }

    /// `sums` are rows of a panel of the product, `arrays` the same rows of each array; the first array is empty where
    /// it is `sums`.
    fn finish(self, panel: usize, sums: &mut [F], arrays: [&mut [F]; N]);
}

/// Store the product.
#[derive(Clone, Copy)]
pub struct Store;

impl<F: Element> Epilogue<F, 1> for Store {
    const APART: bool = false;

    #[inline(always)]
    fn finish(self, _: usize, _: &mut [F], _: [&mut [F]; 1]) {}
}

/// Go on with the sums that are in place.
#[derive(Clone, Copy)]
pub struct Continue;

impl<F: Element> Epilogue<F, 1> for Continue {
    const APART: bool = false;
    const CONTINUES: bool = true;

    #[inline(always)]
    fn finish(self, _: usize, _: &mut [F], _: [&mut [F]; 1]) {}
}

/// Multiply what is in place: the derivative that the forward pass left there.
#[derive(Clone, Copy)]
pub struct Gate;

impl<F: Element> Epilogue<F, 1> for Gate {
    const APART: bool = true;

    #[inline(always)]
    fn finish(self, _: usize, sums: &mut [F], [out]: [&mut [F]; 1]) {
        gate(sums, out);
    }
}

kernel! {
    fn gate[F: Element](sums: &[F], out: &mut [F])[F] {
        for (out, &sum) in out.iter_mut().zip(sums) {
            *out = sum * *out;
        }
    }
}

/// Add the bias (stored as one row of panels), apply the activation. The arrays are the output and, unless it is
/// empty, the place for the derivative.
#[derive(Clone, Copy)]
pub struct BiasActivation<'a, F> {
    pub bias: Option<&'a [F]>,
    pub activation: Activation,
    /// Whether a bias belongs to a row of the product, not to a column.
    pub turned: bool,
}

impl<F: Element> Epilogue<F, 2> for BiasActivation<'_, F> {
    const APART: bool = false;

    #[inline(always)]
    fn bias(&self, panel: usize, row: usize) -> Bias<&[F]> {
        match self.bias {
            Some(bias) if self.turned => Bias::Rows(&bias[row..]),
            Some(bias) => Bias::Columns(&bias[panel * F::PANEL..]),
            None => Bias::None,
        }
    }

    #[inline(always)]
    fn finish(self, _: usize, sums: &mut [F], [_, gates]: [&mut [F]; 2]) {
        if self.activation != Activation::Identity {
            apply(self.activation, sums, gates);
        }
    }
}

/// Make outputs of sums of integers: times a factor for each column, plus the bias, through the activation.
#[derive(Clone, Copy)]
pub struct Dequantize<'a, F> {
    /// What is added to the integers, of each column.
    pub offsets: &'a [F],
    pub factors: &'a [F],
    pub bias: Option<&'a [F]>,
    pub activation: Activation,
}

impl<F: Element> Epilogue<F, 1> for Dequantize<'_, F> {
    const APART: bool = false;

    #[inline(always)]
    fn bias(&self, panel: usize, _: usize) -> Bias<&[F]> {
        Bias::Columns(&self.offsets[panel * F::PANEL..])
    }

    #[inline(always)]
    fn finish(self, panel: usize, sums: &mut [F], _: [&mut [F]; 1]) {
        let first = panel * F::PANEL;
        let bias = self.bias.map_or(&[][..], |bias| &bias[first..]);
        dequantize(&self.factors[first..], bias, sums);
        if self.activation != Activation::Identity {
            apply(self.activation, sums, &mut []);
        }
    }
}

kernel! {
    fn dequantize[F: Element](factors: &[F], bias: &[F], sums: &mut [F])[F] {
        // The last panel is as wide as what is left.
        let width = factors.len().min(F::PANEL);
        let factors = &factors[..width];
        for row in sums.chunks_exact_mut(width) {
            if bias.is_empty() {
                for (sum, &factor) in row.iter_mut().zip(factors) {
                    *sum = F::of_int(sum.bits() as i32) * factor;
                }
            } else {
                for ((sum, &factor), &bias) in row.iter_mut().zip(factors).zip(bias) {
                    *sum = F::of_int(sum.bits() as i32).fma(factor, bias);
                }
            }
        }
    }
}

/// Update parameters with the product as their gradient. The arrays are the parameters and the moments.
impl<F: Element> Epilogue<F, 4> for Update<F> {
    const APART: bool = true;

    #[inline(always)]
    fn finish(self, _: usize, sums: &mut [F], arrays: [&mut [F]; 4]) {
        self.apply(sums, arrays);
    }
}

/// `left · right`, handed to the epilogue with the rows of `arrays`. With `narrow`, a place for
/// [`narrow_len`] elements, operands are rounded to bf16.
pub fn product<F: Element, E: Epilogue<F, N>, const N: usize>(
    left: Left<'_, F>,
    right: Right<'_, F>,
    arrays: [&mut [F]; N],
    epilogue: E,
    narrow: Option<&mut [F]>,
) {
    let (right_depth, cols) = match right {
        Right::Plain(b) => (b.shape.rows, b.shape.cols),
        Right::Transposed(b) => (b.shape.cols, b.shape.rows),
    };
    assert_eq!(left.shape().1, right_depth);
    match narrow {
        None => multiply_all::<F, Full, E, N>(left, right, cols, arrays, epilogue),
        Some(place) => {
            let left = narrowed(left, place);
            multiply_all::<F, F::Narrow, E, N>(left, right, cols, arrays, epilogue);
        }
    }
}

/// [`product`] of integers: quadruples of unsigned bytes on the left, of signed ones on the right.
pub fn integer_product<F: Element>(
    left: PanelRef<'_, F>,
    right: PanelRef<'_, F>,
    out: &mut [F],
    epilogue: Dequantize<'_, F>,
) {
    assert_eq!(left.shape.cols, right.shape.rows);
    let (left, cols, right) = (Left::Plain(left), right.shape.cols, Right::Plain(right));
    multiply_all::<F, F::Integer, _, 1>(left, right, cols, [out], epilogue);
}

/// Elements that a left operand takes in pairs.
pub fn narrow_len<F: Element>(left: Panels, transposed: bool) -> usize {
    in_pairs(left, transposed).len::<F>()
}

/// Shape of a left operand in pairs along its depth.
fn in_pairs(left: Panels, transposed: bool) -> Panels {
    if transposed {
        Panels::new(left.rows.div_ceil(2), left.cols)
    } else {
        Panels::new(left.rows, left.cols.div_ceil(2))
    }
}

/// The operand in pairs along its depth, written to `place`.
fn narrowed<'a, F: Element>(left: Left<'_, F>, place: &'a mut [F]) -> Left<'a, F> {
    let (from, transposed) = match left {
        Left::Plain(from) => (from, false),
        Left::Transposed(from) => (from, true),
    };
    let shape = in_pairs(from.shape, transposed);
    let place = &mut place[..shape.len::<F>()];
    let work = NARROWING * shape.rows * shape.cols;
    let block = shape.rows.div_ceil(pool::team(work)).clamp(1, NARROW_ROWS);
    let tiles = (block, 1);
    for_each_tile(
        shape,
        [&mut *place],
        tiles,
        Order::Rows,
        work,
        |mut tile| {
            let (panel, first) = (tile.panels.start, tile.first_row);
            let width = tile.width(panel);
            let [out] = tile.part(panel);
            if transposed {
                let end = from.shape.rows.min(2 * (first + out.len() / width));
                let rows = &from.panel(panel)[2 * first * width..end * width];
                pair_rows::<F, F::Narrow>(rows, width, out);
            } else {
                pair_columns::<F, F::Narrow>(from, panel, first, width, out);
            }
        },
    );
    if transposed {
        Left::Transposed(shape.of(place))
    } else {
        Left::Plain(shape.of(place))
    }
}

vector_kernel! {
    fn pair_rows[F: Element, A: Arithmetic](from: &[F], width: usize, out: &mut [F])[] {
        pair_block::<F, V>(from, width, out);
    }
}

kernel! {
    /// Rows of pairs from `first` on: neighbours in a row; the column after the last one is zero.
    fn pair_columns[F: Element, A: Arithmetic<F>](
        from: PanelRef<'_, F>,
        panel: usize,
        first: usize,
        width: usize,
        out: &mut [F],
    )[F, A] {
        for (row, out) in out.chunks_exact_mut(width).enumerate() {
            // Two panels of values are one of pairs.
            for (part, out) in out.chunks_mut(F::PANEL / 2).enumerate() {
                let panel = 2 * panel + part;
                if panel >= from.shape.count::<F>() {
                    continue;
                }
                let used = from.shape.used::<F>(panel);
                let values = &from.row(panel, first + row)[..used];
                let (pairs, rest) = values.as_chunks::<2>();
                for (out, &[a, b]) in out.iter_mut().zip(pairs) {
                    *out = A::pair(a, b);
                }
                if let [last] = *rest {
                    out[used / 2] = A::pair(last, F::ZERO);
                }
            }
        }
    }
}

/// [`product`] of operands in one arithmetic: the elements of `left` are those of A, `right` holds values.
fn multiply_all<F: Element, A: Arithmetic<F>, E: Epilogue<F, N>, const N: usize>(
    left: Left<'_, F>,
    right: Right<'_, F>,
    cols: usize,
    arrays: [&mut [F]; N],
    epilogue: E,
) {
    let (rows, depth) = left.shape();
    let shape = Panels::new(rows, cols);
    let work = rows * depth * cols;
    // Each thread has its own panels where those of the right operand are more to read than the rows of the left one,
    // else its own rows. Blocks of rows are of one size, as many for each thread.
    let team = pool::team(work);
    let panels = shape.count::<F>();
    let by_panels = cols > rows && panels >= team;
    // A narrow last panel would leave its thread idle, if there were no rows of the others' panels to help with.
    let whole = cols.is_multiple_of(F::PANEL) || panels >= 4 * team;
    let split = if by_panels && panels.is_multiple_of(team) && whole {
        1
    } else {
        team
    };
    let even = |rows: usize, most: usize| rows.div_ceil(split * rows.div_ceil(split * most));
    let block = match left {
        Left::Plain(_) => even(rows, MAX_ROWS),
        // Whole panels of the operand.
        Left::Transposed(_) => F::PANEL * even(rows.div_ceil(F::PANEL), MAX_ROWS / F::PANEL),
    };
    // Where the rows of a task outgrow the cache, its panels share them block by block of k. A few rows are done before
    // a task has begun: they get all panels.
    let group = match rows {
        0..FEW_ROWS => panels.div_ceil(team),
        _ if block * depth > CACHED => GROUP,
        _ => 1,
    };
    let order = if by_panels {
        Order::Panels
    } else {
        Order::Rows
    };
    for_each_tile(shape, arrays, (block, group), order, work, |tile| {
        let sums = if E::APART { block * group } else { 0 };
        F::scratch((TRANSPOSED_DEPTH + sums) * F::PANEL, |scratch| {
            multiply_tile::<F, A, E, N>(left, right, depth, tile, epilogue, scratch);
        });
    });
}

vector_kernel! {
    fn multiply_tile[F: Element, A: Arithmetic, E: Epilogue<F, N>; const N](
        left: Left<'_, F>,
        right: Right<'_, F>,
        depth: usize,
        tile: Tile<'_, F, N>,
        epilogue: E,
        scratch: &mut [F],
    )[E, N] {
        let mut tile = tile;
        let (first_row, rows) = (tile.first_row, tile.rows);
        let (turned, apart) = scratch.split_at_mut(TRANSPOSED_DEPTH * F::PANEL);
        let step = match right {
            // Nothing is read twice.
            Right::Plain(_) if V::VALUES == 1 && rows < FEW_ROWS => depth.max(1),
            Right::Plain(_) if V::VALUES == 1 => DEPTH,
            _ => TRANSPOSED_DEPTH,
        };
        // Rows of a register tile lie in one panel of a transposed operand.
        let stretch = match left {
            Left::Plain(_) => rows,
            Left::Transposed(_) => F::PANEL,
        };
        for k0 in (0..depth).step_by(step) {
            let k1 = depth.min(k0 + step);
            for panel in tile.panels.clone() {
                let (place, width) = (panel - tile.panels.start, tile.width(panel));
                // The block of this task that follows.
                let (next, n0) = match panel + 1 {
                    next if next < tile.panels.end => (next, k0),
                    _ => (tile.panels.start, k1),
                };
                let fetched = n0 < depth && rows >= FETCHING_ROWS;
                let most = V::ROWS[(width / V::LANES).min(V::ACROSS) - 1];
                let mut arrays = tile.part(panel);
                let block = match right {
                    Right::Plain(b) if V::VALUES == 1 => &b.panel(panel)[k0 * width..k1 * width],
                    Right::Plain(b) => {
                        let rows = V::VALUES * k0..b.shape.rows.min(V::VALUES * k1);
                        let values = &b.panel(panel)[rows.start * width..rows.end * width];
                        pair_block::<F, V>(values, width, turned);
                        &*turned
                    }
                    Right::Transposed(b) => {
                        transpose_block::<F, V>(b, panel * F::PANEL, (k0, k1), width, turned);
                        &*turned
                    }
                };
                let tiles = (0..rows).step_by(stretch).flat_map(|first| {
                    // Tiles of equal height, or one row less.
                    let height = stretch.min(rows - first);
                    let tiles = height.div_ceil(most);
                    (0..tiles).map(move |t| (first + height * t / tiles, first + height * (t + 1) / tiles))
                });
                for (row, end) in tiles {
                    if let Right::Transposed(b) = right && fetched {
                        let n1 = depth.min(n0 + step);
                        fetch_block::<F, V>(b, next * F::PANEL, (n0, n1), (row, end, rows));
                    }
                    let span = row * width..end * width;
                    let mut parts = arrays.each_mut().map(|array| {
                        if array.is_empty() { &mut [][..] } else { &mut array[span.clone()] }
                    });
                    let sums = if !E::APART {
                        std::mem::take(&mut parts[0])
                    } else if depth <= step {
                        // Alone in its block of k, a tile need not outlive its epilogue.
                        &mut apart[..span.len()]
                    } else {
                        &mut apart[place * rows * F::PANEL..][span]
                    };
                    let bias = epilogue.bias(panel, first_row + row);
                    let (row, count, resume) = (first_row + row, end - row, k0 > 0 || E::CONTINUES);
                    let rows = Rows { row, count, k0, k1, resume };
                    multiply::<F, V>(left, rows, block, width, bias, sums);
                    if k1 == depth {
                        epilogue.finish(panel, sums, parts);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The triple loop that supports every option.
    fn oracle<F: Element>(a: &[F], b: &[F], (m, k, n): (usize, usize, usize)) -> Vec<F> {
        let mut out = vec![F::ZERO; m * n];
        for i in 0..m {
            for j in 0..n {
                for l in 0..k {
                    out[i * n + j] = a[i * k + l].fma(b[l * n + j], out[i * n + j]);
                }
            }
        }
        out
    }

    fn packed<F: Element>(values: &[F], shape: Panels) -> Vec<F> {
        let mut panels = vec![F::ZERO; shape.len::<F>()];
        shape.pack(values, &mut panels);
        panels
    }

    fn check<F: Element>((m, k, n): (usize, usize, usize)) {
        let number = |i: usize| F::of(((i * 7919) % 1009) as f64 / 100.0 - 5.0);
        let a: Vec<F> = (0..m * k).map(number).collect();
        let b: Vec<F> = (0..k * n).map(|i| number(i + 17)).collect();
        let expected = oracle(&a, &b, (m, k, n));
        let a_turned: Vec<F> = (0..m * k).map(|i| a[(i % m) * k + i / m]).collect();
        let b_turned: Vec<F> = (0..k * n).map(|i| b[(i % k) * n + i / k]).collect();
        let (plain, turned) = (Panels::new(m, k), Panels::new(k, m));
        let (plain_data, turned_data) = (packed(&a, plain), packed(&a_turned, turned));
        let (right, right_turned) = (Panels::new(k, n), Panels::new(n, k));
        let (right_data, right_turned_data) = (packed(&b, right), packed(&b_turned, right_turned));
        let shape = Panels::new(m, n);
        let unpacked = |panels: &[F]| {
            let mut rows = vec![F::ZERO; m * n];
            shape.unpack(panels, &mut rows);
            rows
        };
        let bits = |values: &[F]| {
            values
                .iter()
                .map(|v| v.to_f64().to_bits())
                .collect::<Vec<_>>()
        };
        let lefts = [
            Left::Plain(plain.of(&plain_data)),
            Left::Transposed(turned.of(&turned_data)),
        ];
        let rights = [
            Right::Plain(right.of(&right_data)),
            Right::Transposed(right_turned.of(&right_turned_data)),
        ];
        for (left, right) in lefts.into_iter().flat_map(|l| rights.map(|r| (l, r))) {
            // What was in the output before must not matter.
            let mut out = vec![F::of(f64::NAN); shape.len::<F>()];
            product(left, right, [&mut out], Store, None);
            assert_eq!(bits(&unpacked(&out)), bits(&expected), "{m} {k} {n}");

            let mut out = vec![F::of(0.5); shape.len::<F>()];
            product(left, right, [&mut out], Gate, None);
            let halved: Vec<F> = expected.iter().map(|&v| v * F::of(0.5)).collect();
            assert_eq!(bits(&unpacked(&out)), bits(&halved));

            let bias: Vec<F> = (0..n).map(number).collect();
            let bias_data = packed(&bias, Panels::new(1, n));
            let mut out = vec![F::ZERO; shape.len::<F>()];
            let mut gates = vec![F::ZERO; shape.len::<F>()];
            let epilogue = BiasActivation {
                bias: Some(&bias_data),
                activation: Activation::Relu,
                turned: false,
            };
            product(left, right, [&mut out, &mut gates], epilogue, None);
            let shifted: Vec<F> = (0..m * n).map(|i| expected[i] + bias[i % n]).collect();
            let relu: Vec<F> = shifted
                .iter()
                .map(|&v| if v > F::ZERO { v } else { F::ZERO })
                .collect();
            let step: Vec<F> = shifted
                .iter()
                .map(|&v| if v > F::ZERO { F::ONE } else { F::ZERO })
                .collect();
            assert_eq!(bits(&unpacked(&out)), bits(&relu));
            assert_eq!(bits(&unpacked(&gates)), bits(&step));
        }
    }

    /// The nearest bf16, found by trying both neighbours.
    fn rounded(value: f32) -> f32 {
        let below = f32::from_bits(value.to_bits() & 0xFFFF_0000);
        let above = f32::from_bits((value.to_bits() & 0xFFFF_0000) + 0x1_0000);
        let (down, up) = ((value - below).abs(), (above - value).abs());
        let even = below.to_bits() >> 16 & 1 == 0;
        let nearest = if down < up || down == up && even {
            below
        } else {
            above
        };
        if nearest.abs() < f32::MIN_POSITIVE {
            0.0 * nearest
        } else {
            nearest
        }
    }

    /// Pairs along k, the second value first, small sums flushed: what VDPBF16PS does.
    fn narrow_oracle(a: &[f32], b: &[f32], (m, k, n): (usize, usize, usize)) -> Vec<f32> {
        let flushed = |x: f32| {
            if x.abs() < f32::MIN_POSITIVE {
                0.0 * x
            } else {
                x
            }
        };
        let mut out = vec![0.0; m * n];
        for i in 0..m {
            for j in 0..n {
                for first in (0..k).step_by(2) {
                    for l in [first + 1, first] {
                        let (x, y) = if l < k {
                            (a[i * k + l], b[l * n + j])
                        } else {
                            (0.0, 0.0)
                        };
                        let sum = rounded(x).mul_add(rounded(y), out[i * n + j]);
                        out[i * n + j] = flushed(sum);
                    }
                }
            }
        }
        out
    }

    fn check_narrow((m, k, n): (usize, usize, usize), scale: f32) {
        let number = |i: usize| (((i * 7919) % 10007) as f32 / 777.0 - 6.5) * scale;
        let a: Vec<f32> = (0..m * k).map(number).collect();
        let b: Vec<f32> = (0..k * n).map(|i| number(i + 17)).collect();
        let expected = narrow_oracle(&a, &b, (m, k, n));
        let a_turned: Vec<f32> = (0..m * k).map(|i| a[(i % m) * k + i / m]).collect();
        let b_turned: Vec<f32> = (0..k * n).map(|i| b[(i % k) * n + i / k]).collect();
        let (plain, turned) = (Panels::new(m, k), Panels::new(k, m));
        let (right, right_turned) = (Panels::new(k, n), Panels::new(n, k));
        // Padding of a left operand is never read as data.
        let mut plain_data = vec![f32::NAN; plain.len::<f32>()];
        let mut turned_data = vec![f32::NAN; turned.len::<f32>()];
        plain.pack(&a, &mut plain_data);
        turned.pack(&a_turned, &mut turned_data);
        let (right_data, right_turned_data) = (packed(&b, right), packed(&b_turned, right_turned));
        let shape = Panels::new(m, n);
        for (left, transposed) in [
            (Left::Plain(plain.of(&plain_data)), false),
            (Left::Transposed(turned.of(&turned_data)), true),
        ] {
            for right in [
                Right::Plain(right.of(&right_data)),
                Right::Transposed(right_turned.of(&right_turned_data)),
            ] {
                let stored = if transposed { turned } else { plain };
                let mut place = vec![f32::NAN; narrow_len::<f32>(stored, transposed)];
                let mut out = vec![f32::NAN; shape.len::<f32>()];
                product(left, right, [&mut out], Store, Some(&mut place));
                let mut rows = vec![0.0; m * n];
                shape.unpack(&out, &mut rows);
                let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&rows), bits(&expected), "{m} {k} {n} {scale}");
            }
        }
    }

    #[test]
    fn products_in_bf16_equal_the_loop_over_pairs() {
        for m in [1, 6, 65] {
            for k in [
                1,
                2,
                3,
                63,
                64,
                65,
                127,
                129,
                2 * TRANSPOSED_DEPTH + 3,
                2 * DEPTH + 1,
            ] {
                for n in [1, 16, 17, 70] {
                    check_narrow((m, k, n), 1.0);
                }
            }
        }
        // Operands, products and sums that vanish, and products that overflow.
        for scale in [1e-39, 1e-20, 3e-19, 1e19] {
            check_narrow((7, 9, 18), scale);
        }
    }

    #[test]
    fn blocks_of_k_continue_the_chain() {
        for k in [DEPTH - 1, DEPTH, DEPTH + 1, 2 * DEPTH + 70] {
            check::<f32>((13, k, 90));
            check::<f64>((MAX_ROWS + 1, k, 17));
        }
    }

    /// Panels by threads and rows by threads, groups of panels that share the left operand, a group that is cut short.
    #[test]
    fn groups_of_panels_and_shares_of_threads_change_no_bit() {
        let depth = 2 * DEPTH + 70;
        for (rows, cols) in [(200, 150), (130, 300), (130, 256), (7, 300)] {
            check::<f32>((rows, depth, cols));
            check_narrow((rows, 2 * depth + 1, cols), 1.0);
        }
        check::<f64>((200, depth, 150));
    }

    #[test]
    fn every_shape_around_the_block_edges_equals_the_triple_loop() {
        for m in [1, 2, 5, 6, 7, 63, 64, 65, 130] {
            for k in [1, 3, 64, 65] {
                for n in [1, 8, 10, 16, 17, 64, 70] {
                    check::<f32>((m, k, n));
                    check::<f64>((m, k, n));
                }
            }
        }
    }
}
