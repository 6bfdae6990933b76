//! Gaussian noise (Bishop 1995, "Training with noise is equivalent to Tikhonov regularization"): in training, normal
//! numbers are added.

use crate::element::Element;
use crate::matrix::{Order, Panels, for_each_tile};
use crate::normal::{MIDDLE, middle, tail};
use crate::pool;
use crate::rng::Stream;
use crate::simd::kernel;

/// What a number costs, in multiply-adds of a product.
const WORK: usize = 256;
/// Numbers made at once: the longest row of a panel.
const BULK: usize = 64;

/// Unit u of the row at position q of the epoch gets `deviation` times the normal quantile of (w + 1/2)/2^32, w being
/// word 4·(q·⌈n/4⌉) + u of the stream.
pub fn forward<F: Element>(
    stream: Stream,
    deviation: f64,
    position: u64,
    shape: Panels,
    input: &[F],
    output: &mut [F],
) {
    let blocks = shape.cols.div_ceil(4) as u64;
    let work = WORK * shape.rows * shape.cols;
    let block = shape.rows.div_ceil(pool::team(work));
    for_each_tile(
        shape,
        [output],
        (block, 1),
        Order::Rows,
        work,
        |mut tile| {
            let (p, first_row) = (tile.panels.start, tile.first_row);
            let width = tile.width(p);
            let input = &input[shape.row::<F>(p, first_row).start..];
            let [output] = tile.part(p);
            let rows = output
                .chunks_exact_mut(width)
                .zip(input.chunks_exact(width));
            for (row, (output, input)) in (first_row..).zip(rows) {
                let first = (position + row as u64).wrapping_mul(blocks);
                let first = first.wrapping_add((p * F::PANEL / 4) as u64);
                add(stream, deviation, first, input, output);
            }
        },
    );
}

kernel! {
    fn add[F: Element](stream: Stream, deviation: f64, first: u64, input: &[F], output: &mut [F])[F] {
        let mut shares = [0.0; BULK];
        let shares = &mut shares[..input.len()];
        for (i, shares) in shares.chunks_exact_mut(4).enumerate() {
            let words = stream.block(first.wrapping_add(i as u64));
            for (share, word) in shares.iter_mut().zip(words) {
                *share = (f64::from(word) + 0.5) / 4_294_967_296.0;
            }
        }
        // One loop without a branch, one for the sixth part that lies in the tails.
        let mut draws = [0.0; BULK];
        for (draw, &share) in draws.iter_mut().zip(&*shares) {
            *draw = middle(share - 0.5);
        }
        for (draw, &share) in draws.iter_mut().zip(&*shares) {
            if (share - 0.5).abs() > MIDDLE {
                *draw = tail(share);
            }
        }
        for ((out, &x), &draw) in output.iter_mut().zip(input).zip(&draws) {
            *out = x + F::of(deviation * draw);
        }
    }
}
