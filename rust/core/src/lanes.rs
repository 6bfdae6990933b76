//! Sums in a fixed order. A sum over one row or one vector runs in sixteen interleaved lanes (element i in
//! lane i mod 16) that are then added as a tree: the order depends on the length alone.

use crate::element::Element;

pub const COUNT: usize = 16;

/// Sixteen elements.
pub type Piece<F> = [F; COUNT];

/// Runs `function` over arrays of one length (the shortest counts), sixteen elements at a time, the last piece filled
/// up with zeros: `read` holds those of the arrays that are only read, `written` those that it may change. Pieces are
/// copies, so that the compiler knows their length and that they do not overlap.
#[inline(always)]
pub fn pieces<F: Element, const R: usize, const W: usize>(
    read: [&[F]; R],
    written: [&mut [F]; W],
    mut function: impl FnMut(&[Piece<F>; R], &mut [Piece<F>; W]),
) {
    let lengths = read.iter().map(|array| array.len());
    let lengths = lengths.chain(written.iter().map(|array| array.len()));
    let len = lengths.min().unwrap_or(0);
    let whole = len / COUNT;
    let mut inputs = [[F::ZERO; COUNT]; R];
    let mut outputs = [[F::ZERO; COUNT]; W];
    for n in 0..whole {
        for i in 0..R {
            inputs[i] = read[i].as_chunks().0[n];
        }
        for i in 0..W {
            outputs[i] = written[i].as_chunks().0[n];
        }
        function(&inputs, &mut outputs);
        for i in 0..W {
            written[i].as_chunks_mut().0[n] = outputs[i];
        }
    }
    let rest = whole * COUNT..len;
    if !rest.is_empty() {
        for i in 0..R {
            inputs[i][..rest.len()].copy_from_slice(&read[i][rest.clone()]);
        }
        for i in 0..W {
            outputs[i][..rest.len()].copy_from_slice(&written[i][rest.clone()]);
        }
        function(&inputs, &mut outputs);
        for i in 0..W {
            written[i][rest.clone()].copy_from_slice(&outputs[i][..rest.len()]);
        }
    }
}

/// The sum of `terms` in f64.
#[inline(always)]
pub fn sum_f64<F: Element>(terms: impl Iterator<Item = F>) -> f64 {
    sum(terms.map(F::to_f64))
}

/// Adds `terms` to the lanes; all calls but the last must bring a multiple of sixteen terms.
#[inline(always)]
pub fn add<F: Element>(lanes: &mut [F; COUNT], terms: impl Iterator<Item = F>) {
    for (i, term) in terms.enumerate() {
        lanes[i % COUNT] += term;
    }
}

/// The sum of the lanes.
#[inline(always)]
pub fn total<F: Element>(mut lanes: [F; COUNT]) -> F {
    let mut width = COUNT / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The sum of `terms`.
#[inline(always)]
pub fn sum<F: Element>(terms: impl Iterator<Item = F>) -> F {
    let mut lanes = [F::ZERO; COUNT];
    add(&mut lanes, terms);
    total(lanes)
}
