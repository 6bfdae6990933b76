//! Dropout (Srivastava et al. 2014), inverted: kept values are multiplied by 1/(1 − rate) in training, so
//! that evaluation is the identity.

use crate::element::Element;
use crate::matrix::Panels;
use crate::rng::Stream;
use crate::simd::kernel;

kernel! {
    /// Unit u of the row at position q of the epoch is kept when word 4·(q·⌈n/4⌉) + u of the stream is at
    /// least `threshold`. `gates` receives the factors.
    pub fn forward[F: Element](
        stream: Stream,
        threshold: u32,
        factor: F,
        position: u64,
        shape: Panels,
        input: &[F],
        output: &mut [F],
        gates: &mut [F],
    )[F] {
        let blocks = shape.cols.div_ceil(4) as u64;
        for row in 0..shape.rows {
            let first = (position + row as u64).wrapping_mul(blocks);
            for p in 0..shape.count::<F>() {
                let span = shape.row::<F>(p, row);
                let gates = &mut gates[span.clone()];
                let first = first.wrapping_add((p * F::PANEL / 4) as u64);
                for (block, gates) in gates.chunks_exact_mut(4).enumerate() {
                    let words = stream.block(first.wrapping_add(block as u64));
                    for (gate, word) in gates.iter_mut().zip(words) {
                        *gate = if word >= threshold { factor } else { F::ZERO };
                    }
                }
                let values = output[span.clone()].iter_mut().zip(&input[span]);
                for ((out, &x), &gate) in values.zip(gates.iter()) {
                    *out = x * gate;
                }
            }
        }
    }
}
