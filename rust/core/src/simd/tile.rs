//! The register tile of a product: R rows by C vectors of the output, accumulated over k.

use super::fetch;
use super::vector::Vector;
use crate::element::Element;
use crate::matrix::PanelRef;

/// The operand that is broadcast.
#[derive(Clone, Copy)]
pub enum Left<'a, F> {
    Plain(PanelRef<'a, F>),
    /// Used as its transpose.
    Transposed(PanelRef<'a, F>),
}

impl<F: Element> Left<'_, F> {
    /// (rows, depth) of the operand as it is used.
    pub(crate) fn shape(&self) -> (usize, usize) {
        match self {
            Self::Plain(a) => (a.shape.rows, a.shape.cols),
            Self::Transposed(a) => (a.shape.cols, a.shape.rows),
        }
    }
}

/// Pointers and strides of one tile. Of the left operand, whole panels of k come first (rows a panel's width
/// apart), then the rest: rows `stride` apart, or, for a transposed operand, values of k.
pub struct Strip<F> {
    body: *const F,
    panels: usize,
    panel_stride: usize,
    tail: *const F,
    rest: usize,
    stride: usize,
    right: *const F,
    right_stride: usize,
    out: *mut F,
    out_stride: usize,
    /// Whether `out` holds the sum over smaller k.
    resume: bool,
    bias: Bias<*const F>,
}

/// What is added to a finished sum: nothing, a number for each column, or one for each row.
#[derive(Clone, Copy)]
pub enum Bias<T> {
    None,
    Columns(T),
    Rows(T),
}

/// A row tile: rows `row..row + count` of the output over `k0..k1`.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) row: usize,
    pub(crate) count: usize,
    pub(crate) k0: usize,
    pub(crate) k1: usize,
    /// Whether the output holds the sums over smaller k.
    pub(crate) resume: bool,
}

/// `out = left · right` for the rows and depths in `rows`, over all columns of a panel of `width`. `right` holds
/// rows k0..k1 of the panel, `out` the tile's rows; k0 is a multiple of a panel's width. Rows of a tile lie in one
/// panel of a transposed operand. A bias of this panel's columns
/// or of the tile's rows is added when k1 is the whole depth.
#[inline(always)]
pub(crate) fn multiply<F: Element, V: Vector<F>>(
    left: Left<'_, F>,
    rows: Rows,
    right: &[F],
    width: usize,
    bias: Bias<&[F]>,
    out: &mut [F],
) {
    let Rows {
        row,
        count,
        k0,
        k1,
        resume,
    } = rows;
    let (height, depth) = left.shape();
    assert!(row + count <= height && k0 < k1 && k1 <= depth && k0.is_multiple_of(F::PANEL));
    assert!(right.len() >= (k1 - k0) * width && out.len() >= count * width);
    assert!(width.is_multiple_of(F::LANES));
    let mut strip = Strip {
        body: std::ptr::null(),
        panels: 0,
        panel_stride: 0,
        tail: std::ptr::null(),
        rest: 0,
        stride: 0,
        right: right.as_ptr(),
        right_stride: width,
        out: out.as_mut_ptr(),
        out_stride: width,
        resume,
        bias: match bias {
            Bias::Columns(bias) if k1 == depth => {
                assert!(bias.len() >= width);
                Bias::Columns(bias.as_ptr())
            }
            Bias::Rows(bias) if k1 == depth => {
                assert!(bias.len() >= count);
                Bias::Rows(bias.as_ptr())
            }
            _ => Bias::None,
        },
    };
    let turned = match left {
        Left::Plain(a) => {
            let (first, end) = (k0 / F::PANEL, k1 / F::PANEL);
            strip.panels = end - first;
            strip.panel_stride = F::PANEL * a.shape.rows;
            if strip.panels > 0 {
                strip.body = a.row(first, row).as_ptr();
            }
            strip.rest = k1 - end * F::PANEL;
            if strip.rest > 0 {
                strip.tail = a.row(end, row).as_ptr();
                strip.stride = a.shape.width::<F>(end);
            }
            false
        }
        Left::Transposed(a) => {
            let (panel, lane) = (row / F::PANEL, row % F::PANEL);
            assert!(lane + count <= F::PANEL);
            strip.rest = k1 - k0;
            strip.tail = a.row(panel, k0)[lane..].as_ptr();
            strip.stride = a.shape.width::<F>(panel);
            true
        }
    };
    let mut column = 0;
    while column < width {
        let across = ((width - column) / V::LANES).min(V::ACROSS);
        // SAFETY: the operands hold the rows, columns and depths that the strip walks over: asserted above for
        // `right` and `out`; for the left operand `a.row` has found the first row, and the others follow inside the
        // same matrix, because `row + count <= height` and `k1 <= depth`.
        unsafe {
            if turned {
                dispatch::<F, V, true>(across, count, &strip);
            } else {
                dispatch::<F, V, false>(across, count, &strip);
            }
            strip.right = strip.right.add(across * V::LANES);
            strip.out = strip.out.add(across * V::LANES);
            if let Bias::Columns(bias) = &mut strip.bias {
                *bias = bias.add(across * V::LANES);
            }
        }
        column += across * V::LANES;
    }
}

/// Runs the tile of `rows` by `across` vectors.
#[inline(always)]
unsafe fn dispatch<F: Element, V: Vector<F>, const TURNED: bool>(
    across: usize,
    rows: usize,
    strip: &Strip<F>,
) {
    macro_rules! choose {
        ($($c:literal: $($r:literal)*;)*) => {
            match (across, rows) {
                $($(($c, $r) => {
                    if const { $r <= V::ROWS[$c - 1] } {
                        // SAFETY: forwarded to the caller.
                        unsafe { V::tile::<V, $r, $c, TURNED>(strip) }
                    } else {
                        unreachable!("no tile of {} x {} vectors", $r, $c)
                    }
                })*)*
                _ => unreachable!("no tile of {rows} x {across} vectors"),
            }
        };
    }
    choose! {
        4: 1 2 3 4 5 6;
        3: 1 2 3 4 5 6 7 8;
        2: 1 2 3 4 5 6 7 8 9 10 11 12;
        1: 1 2 3 4 5 6 7 8 9 10 11 12;
    }
}

/// The tile itself: every output is one chain sum = fma(a_k, b_k, sum), k ascending.
///
/// # Safety
/// The machine must have the instruction set of `V`; the strip must describe R rows and C vectors inside its
/// matrices.
#[inline(always)]
pub(crate) unsafe fn tile<
    F: Element,
    V: Vector<F>,
    const R: usize,
    const C: usize,
    const TURNED: bool,
>(
    strip: &Strip<F>,
) {
    // SAFETY: forwarded to the caller.
    unsafe {
        let mut sums = [[V::zero(); C]; R];
        if strip.resume {
            for (i, sums) in sums.iter_mut().enumerate() {
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = V::load(strip.out.add(i * strip.out_stride + j * V::LANES));
                }
            }
        }
        let mut right = strip.right;
        if TURNED {
            let mut left = strip.tail;
            for _ in 0..strip.rest {
                accumulate(&mut sums, right, |i| left.add(i));
                left = left.add(strip.stride);
                right = right.add(strip.right_stride);
            }
        } else {
            let mut panel = strip.body;
            for _ in 0..strip.panels {
                for k in 0..F::PANEL {
                    accumulate(&mut sums, right, |i| panel.add(i * F::PANEL + k));
                    right = right.add(strip.right_stride);
                }
                panel = panel.add(strip.panel_stride);
            }
            for k in 0..strip.rest {
                accumulate(&mut sums, right, |i| strip.tail.add(i * strip.stride + k));
                right = right.add(strip.right_stride);
            }
        }
        match strip.bias {
            Bias::None => {}
            Bias::Columns(bias) => {
                for j in 0..C {
                    let bias = V::load(bias.add(j * V::LANES));
                    for sums in &mut sums {
                        sums[j] = sums[j].add(bias);
                    }
                }
            }
            Bias::Rows(bias) => {
                for (i, sums) in sums.iter_mut().enumerate() {
                    let bias = V::splat(bias.add(i));
                    for sum in sums {
                        *sum = sum.add(bias);
                    }
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                sum.store(strip.out.add(i * strip.out_stride + j * V::LANES));
            }
        }
    }
}

/// Adds one k to the sums.
#[inline(always)]
unsafe fn accumulate<F: Element, V: Vector<F>, const R: usize, const C: usize>(
    sums: &mut [[V; C]; R],
    right: *const F,
    left: impl Fn(usize) -> *const F,
) {
    // SAFETY: forwarded to the caller.
    unsafe {
        let mut row = [V::zero(); C];
        for (j, row) in row.iter_mut().enumerate() {
            *row = V::load(right.add(j * V::LANES));
        }
        for i in 0..R {
            let a = V::splat(left(i));
            for j in 0..C {
                sums[i][j] = a.fma(row[j], sums[i][j]);
            }
        }
    }
}

/// Writes the transpose of a block: element (k, j) of `out` (rows of `width`) is element (first + j, k) of `from`,
/// for `k0 <= k < k1`; k0 is a multiple of a panel's width. Where V holds pairs, k counts those of `from`, whose padding
/// must be zero. Rows that `from` lacks give zeros.
#[inline(always)]
pub(crate) fn transpose_block<F: Element, V: Vector<F>>(
    from: PanelRef<'_, F>,
    first: usize,
    (k0, k1): (usize, usize),
    width: usize,
    out: &mut [F],
) {
    let depth = (k1 - k0).next_multiple_of(V::LANES);
    assert!(k1 <= from.shape.cols.div_ceil(V::VALUES) && k0.is_multiple_of(F::PANEL));
    assert!(out.len() >= depth * width && width.is_multiple_of(V::LANES));
    for k in (0..depth).step_by(V::LANES) {
        let column = V::VALUES * (k0 + k);
        let (panel, lane) = (column / F::PANEL, column % F::PANEL);
        let stride = from.shape.width::<F>(panel);
        let start = from.shape.panel::<F>(panel).start + lane;
        assert!(lane + V::LANES <= stride);
        let more = V::VALUES == 2 && lane + 2 * V::LANES <= stride;
        for j in (0..width).step_by(V::LANES) {
            let rows = from.shape.rows.saturating_sub(first + j).min(V::LANES);
            // SAFETY: rows first + j .. + rows exist; the vectors at `lane` lie inside the stored width of their panel;
            // `out` has `depth` rows of `width`, both multiples of LANES.
            unsafe {
                let mut square = [V::zero(); 16];
                let base = from.data.as_ptr().add(start + (first + j) * stride);
                for i in 0..V::LANES {
                    if i < rows {
                        let row = base.add(i * stride);
                        square[i] = V::load(row);
                        if V::VALUES == 2 {
                            let next = if more {
                                V::load(row.add(V::LANES))
                            } else {
                                V::zero()
                            };
                            square[i] = square[i].along(next);
                        }
                    }
                }
                V::transpose(&mut square);
                let out = out.as_mut_ptr().add(k * width + j);
                for i in 0..V::LANES {
                    square[i].store(out.add(i * width));
                }
            }
        }
    }
}

/// Asks for shares `start..end` of `whole` of what [`transpose_block`] will read of a block of a panel's columns: its
/// rows lie too far apart for the processor to foresee.
#[inline(always)]
pub(crate) fn fetch_block<F: Element, V: Vector<F>>(
    from: PanelRef<'_, F>,
    first: usize,
    (k0, k1): (usize, usize),
    (start, end, whole): (usize, usize, usize),
) {
    let last = from.shape.rows.min(first + F::PANEL);
    let columns = V::VALUES * k0..from.shape.cols.min(V::VALUES * k1);
    for panel in columns.start / F::PANEL..columns.end.div_ceil(F::PANEL) {
        let width = from.shape.width::<F>(panel);
        let block = &from.panel(panel)[first * width..last * width];
        fetch(&block[block.len() * start / whole..block.len() * end / whole]);
    }
}

/// Writes the pairs of consecutive rows of a block; the row after the last one is zero.
#[inline(always)]
pub(crate) fn pair_block<F: Element, V: Vector<F>>(from: &[F], width: usize, out: &mut [F]) {
    let pairs = (from.len() / width).div_ceil(2);
    assert!(width.is_multiple_of(V::LANES) && out.len() >= pairs * width);
    for (rows, out) in from.chunks(2 * width).zip(out.chunks_exact_mut(width)) {
        for j in (0..width).step_by(V::LANES) {
            // SAFETY: rows have `width` elements, a multiple of LANES; the second one is there where `rows` is longer.
            unsafe {
                let first = V::load(rows.as_ptr().add(j));
                let second = if rows.len() > width {
                    V::load(rows.as_ptr().add(width + j))
                } else {
                    V::zero()
                };
                first.across(second).store(out.as_mut_ptr().add(j));
            }
        }
    }
}
