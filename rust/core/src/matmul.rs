//! The one product routine: `out = left · right`, with an epilogue on each finished tile. All three products
//! of a dense layer are this routine (batch b, inputs i, outputs o):
//!
//! | product | left | right | epilogue |
//! |---|---|---|---|
//! | forward, b x o | input (b x i) | weight (i x o) | bias and activation |
//! | d_input, b x i | d_output (b x o) | weight transposed (o x i) | activation gradient |
//! | d_weight, i x o | input transposed (read in place) | d_output (b x o) | none |
//!
//! Every output element is one chain `acc = fma(a_k, b_k, acc)` with k ascending from 0.

use crate::activation::Activation;
use crate::element::Element;
use crate::matrix::{PanelRef, Panels, Tile, for_each_tile};
use crate::simd::kernel;

/// Rows of the register tile.
const MR: usize = 6;
/// Rows given to one task.
const ROW_BLOCK: usize = 64;

/// The operand that is broadcast.
#[derive(Clone, Copy)]
pub enum Left<'a, F> {
    Plain(PanelRef<'a, F>),
    /// Used as its transpose.
    Transposed(PanelRef<'a, F>),
}

/// What happens to a finished tile.
#[derive(Clone, Copy)]
pub enum Epilogue<'a, F> {
    /// Store it.
    Store,
    /// Multiply what is in place: the derivative that the forward pass left there.
    Gate,
    /// Add the bias (stored as one row of panels), apply the activation; its derivative goes to the companion matrix.
    BiasActivation {
        bias: Option<&'a [F]>,
        activation: Activation,
    },
}

/// `out = left · right`; `derivative` is the companion of [`Epilogue::BiasActivation`] or empty.
pub fn product<F: Element>(
    left: Left<'_, F>,
    right: PanelRef<'_, F>,
    out: &mut [F],
    derivative: &mut [F],
    epilogue: Epilogue<'_, F>,
) {
    let (rows, depth) = match left {
        Left::Plain(a) => (a.shape.rows, a.shape.cols),
        Left::Transposed(a) => (a.shape.cols, a.shape.rows),
    };
    assert_eq!(depth, right.shape.rows);
    let shape = Panels::new(rows, right.shape.cols);
    let work = rows * depth * shape.cols;
    for_each_tile(shape, out, derivative, ROW_BLOCK, work, |tile| {
        product_tile(left, right.panel(tile.panel), depth, tile, epilogue);
    });
}

kernel! {
    fn product_tile[F: Element](
        left: Left<'_, F>,
        right: &[F],
        depth: usize,
        tile: Tile<'_, F>,
        epilogue: Epilogue<'_, F>,
    )[F] {
        // A const generic cannot be an associated constant.
        if F::LANES == 16 {
            tile_in_strips::<F, 16>(left, right, depth, tile, epilogue);
        } else {
            tile_in_strips::<F, 8>(left, right, depth, tile, epilogue);
        }
    }
}

#[inline(always)]
fn tile_in_strips<F: Element, const L: usize>(
    left: Left<'_, F>,
    right: &[F],
    depth: usize,
    tile: Tile<'_, F>,
    epilogue: Epilogue<'_, F>,
) {
    let width = tile.width;
    let rows = tile.data.len() / width;
    let mut row = 0;
    while row < rows {
        let m = tile.first_row + row;
        // Rows of one register tile lie in one panel of a transposed operand.
        let limit = match left {
            Left::Plain(_) => rows - row,
            Left::Transposed(_) => (rows - row).min(F::PANEL - m % F::PANEL),
        };
        let count = limit.min(MR);
        let span = row * width..(row + count) * width;
        let out = &mut tile.data[span.clone()];
        for col in (0..width).step_by(L) {
            match count {
                6 => strip::<F, 6, L>(
                    left,
                    m,
                    &right[col..],
                    depth,
                    width,
                    &mut out[col..],
                    epilogue,
                ),
                5 => strip::<F, 5, L>(
                    left,
                    m,
                    &right[col..],
                    depth,
                    width,
                    &mut out[col..],
                    epilogue,
                ),
                4 => strip::<F, 4, L>(
                    left,
                    m,
                    &right[col..],
                    depth,
                    width,
                    &mut out[col..],
                    epilogue,
                ),
                3 => strip::<F, 3, L>(
                    left,
                    m,
                    &right[col..],
                    depth,
                    width,
                    &mut out[col..],
                    epilogue,
                ),
                2 => strip::<F, 2, L>(
                    left,
                    m,
                    &right[col..],
                    depth,
                    width,
                    &mut out[col..],
                    epilogue,
                ),
                _ => strip::<F, 1, L>(
                    left,
                    m,
                    &right[col..],
                    depth,
                    width,
                    &mut out[col..],
                    epilogue,
                ),
            }
        }
        if let Epilogue::BiasActivation { bias, activation } = epilogue {
            if let Some(bias) = bias {
                let bias = &bias[tile.panel * F::PANEL..][..width];
                for out in out.chunks_exact_mut(width) {
                    for (out, &b) in out.iter_mut().zip(bias) {
                        *out += b;
                    }
                }
            }
            let gates = if tile.companion.is_empty() {
                &mut [][..]
            } else {
                &mut tile.companion[span]
            };
            if activation != Activation::Identity {
                activation.forward(out, gates);
            }
        }
        row += count;
    }
}

/// `R` rows by `L` columns of the product, in registers.
#[inline(always)]
fn strip<F: Element, const R: usize, const L: usize>(
    left: Left<'_, F>,
    m: usize,
    right: &[F],
    depth: usize,
    width: usize,
    out: &mut [F],
    epilogue: Epilogue<'_, F>,
) {
    let mut acc = [[F::ZERO; L]; R];
    match left {
        Left::Plain(a) => {
            for p in 0..a.shape.count::<F>() {
                let span = a.shape.width::<F>(p);
                let start = a.shape.row::<F>(p, m).start;
                let first = p * F::PANEL;
                for k in 0..a.shape.used::<F>(p) {
                    let values = std::array::from_fn(|i| a.data[start + i * span + k]);
                    accumulate(&mut acc, values, &right[(first + k) * width..]);
                }
            }
        }
        Left::Transposed(a) => {
            let p = m / F::PANEL;
            let span = a.shape.width::<F>(p);
            let start = a.shape.panel::<F>(p).start + m % F::PANEL;
            for k in 0..depth {
                let row = &a.data[start + k * span..][..R];
                let values = std::array::from_fn(|i| row[i]);
                accumulate(&mut acc, values, &right[k * width..]);
            }
        }
    }
    for (out, acc) in out.chunks_mut(width).zip(&acc) {
        let out = &mut out[..L];
        if matches!(epilogue, Epilogue::Gate) {
            for (out, &acc) in out.iter_mut().zip(acc) {
                *out = acc * *out;
            }
        } else {
            out.copy_from_slice(acc);
        }
    }
}

#[inline(always)]
fn accumulate<F: Element, const R: usize, const L: usize>(
    acc: &mut [[F; L]; R],
    left: [F; R],
    right: &[F],
) {
    let right = &right[..L];
    for i in 0..R {
        for j in 0..L {
            acc[i][j] = left[i].fma(right[j], acc[i][j]);
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
        let (plain, turned) = (Panels::new(m, k), Panels::new(k, m));
        let (plain_data, turned_data) = (packed(&a, plain), packed(&a_turned, turned));
        let right = Panels::new(k, n);
        let right_data = packed(&b, right);
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
        for left in [
            Left::Plain(plain.of(&plain_data)),
            Left::Transposed(turned.of(&turned_data)),
        ] {
            // What was in the output before must not matter.
            let mut out = vec![F::of(f64::NAN); shape.len::<F>()];
            product(
                left,
                right.of(&right_data),
                &mut out,
                &mut [],
                Epilogue::Store,
            );
            assert_eq!(bits(&unpacked(&out)), bits(&expected), "{m} {k} {n}");

            let mut out = vec![F::of(0.5); shape.len::<F>()];
            product(
                left,
                right.of(&right_data),
                &mut out,
                &mut [],
                Epilogue::Gate,
            );
            let halved: Vec<F> = expected.iter().map(|&v| v * F::of(0.5)).collect();
            assert_eq!(bits(&unpacked(&out)), bits(&halved));

            let bias: Vec<F> = (0..n).map(number).collect();
            let bias_data = packed(&bias, Panels::new(1, n));
            let mut out = vec![F::ZERO; shape.len::<F>()];
            let mut gates = vec![F::ZERO; shape.len::<F>()];
            let epilogue = Epilogue::BiasActivation {
                bias: Some(&bias_data),
                activation: Activation::Relu,
            };
            product(left, right.of(&right_data), &mut out, &mut gates, epilogue);
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
