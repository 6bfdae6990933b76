//! Memory: the aligned buffer, and the panel layout with its views.
//!
//! # The panel layout
//!
//! A matrix of `rows` x `cols` is stored as column panels: columns `[p * PANEL, (p + 1) * PANEL)` of
//! all rows, one panel after the other, each panel row-major. The last panel is as wide as its
//! columns need, rounded up to a whole vector ([`Element::LANES`]); the padding holds zeros in
//! parameters and is never read as data elsewhere. The layout depends on the shape alone.
//!
//! No product has to pack: a row of a panel is contiguous for the operand that is streamed, and
//! `PANEL` consecutive columns of a row are contiguous for the operand that is broadcast.

#![allow(unsafe_code, reason = "aligned allocation, disjoint tiles")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::element::Element;
use crate::error::{Error, Result};
use crate::pool;
use crate::simd::kernel;

const ALIGN: usize = 64;
/// Bytes from which on a buffer asks for huge pages.
const HUGE: usize = 4 << 20;
const HUGE_PAGE: usize = 2 << 20;
/// What copying an element costs, in multiply-adds of a product.
const COPYING: usize = 4;
/// Elements that one task scans.
const CHUNK: usize = 1 << 16;

/// Types for which the all-zero bit pattern is a value and which need no drop.
///
/// # Safety
/// Implementors must be plain numbers: any bit pattern is valid, `Copy`, alignment at most 64.
pub unsafe trait Plain: Copy + Send + Sync + 'static {}
macro_rules! plain {
    ($($type:ty),*) => {$(
        // SAFETY: a primitive number; every bit pattern is a value.
        unsafe impl Plain for $type {}
    )*};
}
plain!(f32, f64, u8, u32, u64);

/// A zero-initialised, 64-byte aligned array whose allocation can fail without ending the process. Pages that
/// are never touched take no memory. Large buffers ask for huge pages, which spare the address translation.
pub struct Buffer<T: Plain> {
    /// What the allocator gave; null for an empty buffer.
    block: *mut u8,
    start: NonNull<T>,
    len: usize,
}

// SAFETY: the buffer owns its memory exclusively; T is a plain number.
unsafe impl<T: Plain> Send for Buffer<T> {}
// SAFETY: shared access only reads.
unsafe impl<T: Plain> Sync for Buffer<T> {}

impl<T: Plain> Buffer<T> {
    /// A buffer of `len` zeros; [`Error::Memory`] when the allocator refuses.
    pub fn zeroed(len: usize) -> Result<Self> {
        let bytes = len.saturating_mul(size_of::<T>());
        let refused = Error::Memory { bytes };
        let Some(layout) = Self::layout(len) else {
            return Err(refused);
        };
        if len == 0 {
            return Ok(Self::default());
        }
        // SAFETY: the layout has a non-zero size.
        let block = unsafe { alloc_zeroed(layout) };
        let align = Self::align(bytes);
        let skip = block.align_offset(align);
        let Some(start) = NonNull::new(block).filter(|_| skip < align) else {
            return Err(refused);
        };
        // SAFETY: the block is `align` bytes longer than the data.
        let start = unsafe { start.add(skip) };
        if align == HUGE_PAGE {
            ask_for_huge_pages(start, bytes);
        }
        Ok(Self {
            block,
            start: start.cast(),
            len,
        })
    }

    /// A copy of `values`.
    pub fn copied(values: &[T]) -> Result<Self> {
        let mut buffer = Self::zeroed(values.len())?;
        buffer.copy_from_slice(values);
        Ok(buffer)
    }

    fn align(bytes: usize) -> usize {
        if bytes >= HUGE { HUGE_PAGE } else { ALIGN }
    }

    /// The block for `len` elements. Its own alignment is small and the data is aligned inside it: a larger
    /// one would make the allocator write the zeros instead of asking the system for fresh pages.
    fn layout(len: usize) -> Option<Layout> {
        let bytes = len.checked_mul(size_of::<T>())?;
        let size = bytes.checked_add(Self::align(bytes))?;
        Layout::from_size_align(size, align_of::<T>()).ok()
    }
}

fn ask_for_huge_pages(start: NonNull<u8>, bytes: usize) {
    #[cfg(target_os = "linux")]
    // SAFETY: the range lies inside an allocation of ours; the advice changes no contents, and a refusal is no harm.
    unsafe {
        libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE);
    }
}

impl<T: Plain> Default for Buffer<T> {
    /// An empty one.
    fn default() -> Self {
        Self {
            block: std::ptr::null_mut(),
            start: NonNull::dangling(),
            len: 0,
        }
    }
}

impl<T: Plain> Drop for Buffer<T> {
    fn drop(&mut self) {
        if let (false, Some(layout)) = (self.block.is_null(), Self::layout(self.len)) {
            // SAFETY: allocated in `zeroed` with this very layout, freed once.
            unsafe { dealloc(self.block, layout) };
        }
    }
}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `start` is valid for `len` initialised elements (or dangling with len 0).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// Shape of a matrix in the panel layout; says where each element lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Panels {
    pub rows: usize,
    pub cols: usize,
}

impl Panels {
    pub fn new(rows: usize, cols: usize) -> Self {
        Self { rows, cols }
    }

    /// Number of panels.
    #[inline(always)]
    pub fn count<F: Element>(self) -> usize {
        self.cols.div_ceil(F::PANEL)
    }

    /// Stored columns of panel `p`, padding included.
    #[inline(always)]
    pub fn width<F: Element>(self, p: usize) -> usize {
        F::PANEL.min((self.cols - p * F::PANEL).next_multiple_of(F::LANES))
    }

    /// Columns of panel `p` that hold data.
    #[inline(always)]
    pub fn used<F: Element>(self, p: usize) -> usize {
        F::PANEL.min(self.cols - p * F::PANEL)
    }

    /// Where panel `p` lies in the storage.
    #[inline(always)]
    pub fn panel<F: Element>(self, p: usize) -> Range<usize> {
        let start = p * F::PANEL * self.rows;
        start..start + self.rows * self.width::<F>(p)
    }

    /// Where row `row` of panel `p` lies in the storage, padding included.
    #[inline(always)]
    pub fn row<F: Element>(self, p: usize, row: usize) -> Range<usize> {
        let width = self.width::<F>(p);
        let start = p * F::PANEL * self.rows + row * width;
        start..start + width
    }

    /// Stored elements, padding included.
    #[allow(clippy::len_without_is_empty, reason = "a shape is no container")]
    pub fn len<F: Element>(self) -> usize {
        if self.cols == 0 {
            return 0;
        }
        self.panel::<F>(self.count::<F>() - 1).end
    }

    /// Copies row-major `values` in; the padding is left as it is.
    pub fn pack<F: Element>(self, values: &[F], panels: &mut [F]) {
        for p in 0..self.count::<F>() {
            let used = self.used::<F>(p);
            for row in 0..self.rows {
                let from = row * self.cols + p * F::PANEL;
                let to = self.row::<F>(p, row).start;
                panels[to..to + used].copy_from_slice(&values[from..from + used]);
            }
        }
    }

    /// Copies row-major values out.
    pub fn unpack<F: Element>(self, panels: &[F], values: &mut [F]) {
        let len = self.rows * self.cols;
        let rows = self.rows.div_ceil(pool::team(COPYING * len)).max(1);
        let size = (rows * self.cols).max(1);
        for_each_chunk(
            [&mut values[..len]],
            size,
            COPYING * len,
            |start, [values]| {
                let first = start / self.cols;
                for p in 0..self.count::<F>() {
                    let (to, used) = (p * F::PANEL, self.used::<F>(p));
                    for (i, row) in values.chunks_exact_mut(self.cols).enumerate() {
                        let from = self.row::<F>(p, first + i).start;
                        row[to..to + used].copy_from_slice(&panels[from..from + used]);
                    }
                }
            },
        );
    }

    /// Copies the transpose of row-major `values` (cols x rows) in; the padding is left as it is.
    pub fn pack_transposed<F: Element>(self, values: &[F], panels: &mut [F]) {
        if self.rows == 1 {
            return self.pack(values, panels);
        }
        self.for_each::<F>(|row, col, at| panels[at] = values[col * self.rows + row]);
    }

    /// Copies the transpose out, row-major (cols x rows).
    pub fn unpack_transposed<F: Element>(self, panels: &[F], values: &mut [F]) {
        if self.rows == 1 {
            return self.unpack(panels, values);
        }
        self.for_each::<F>(|row, col, at| values[col * self.rows + row] = panels[at]);
    }

    /// Calls `visit` with the row, the column and the place of each element.
    fn for_each<F: Element>(self, mut visit: impl FnMut(usize, usize, usize)) {
        for p in 0..self.count::<F>() {
            for row in 0..self.rows {
                let start = self.row::<F>(p, row).start;
                for i in 0..self.used::<F>(p) {
                    visit(row, p * F::PANEL + i, start + i);
                }
            }
        }
    }

    /// A view of storage in this shape.
    #[inline(always)]
    pub fn of<F: Element>(self, data: &[F]) -> PanelRef<'_, F> {
        PanelRef {
            data: &data[..self.len::<F>()],
            shape: self,
        }
    }
}

/// A matrix in the panel layout.
#[derive(Clone, Copy)]
pub struct PanelRef<'a, F> {
    pub data: &'a [F],
    pub shape: Panels,
}

impl<'a, F: Element> PanelRef<'a, F> {
    /// Row `row` of panel `p`, padding included.
    #[inline(always)]
    pub fn row(self, p: usize, row: usize) -> &'a [F] {
        &self.data[self.shape.row::<F>(p, row)]
    }

    #[inline(always)]
    pub fn panel(self, p: usize) -> &'a [F] {
        &self.data[self.shape.panel::<F>(p)]
    }
}

/// Consecutive rows of some panels of several matrices of one shape, given to one task for writing.
pub struct Tile<'a, F, const N: usize> {
    pub panels: Range<usize>,
    pub first_row: usize,
    pub rows: usize,
    shape: Panels,
    bases: &'a [(Base<F>, bool); N],
}

impl<F: Element, const N: usize> Tile<'_, F, N> {
    /// Stored columns of panel `p`.
    #[inline(always)]
    pub fn width(&self, p: usize) -> usize {
        self.shape.width::<F>(p)
    }

    /// The tile's rows of panel `p` in each matrix; empty where a matrix is absent.
    #[inline(always)]
    pub fn part(&mut self, p: usize) -> [&mut [F]; N] {
        assert!(self.panels.contains(&p));
        let start = self.shape.row::<F>(p, self.first_row).start;
        let len = self.rows * self.width(p);
        std::array::from_fn(|i| {
            let (base, empty) = &self.bases[i];
            let range = if *empty { 0..0 } else { start..start + len };
            // SAFETY: no two tiles of `for_each_tile` share rows of a panel, and this one is borrowed for as long
            // as the slices live; they end inside every matrix that is not empty, as was asserted there.
            unsafe { base.slice(range) }
        })
    }
}

/// Which tiles follow each other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Those of the same rows, panel by panel.
    Rows,
    /// Those of the same panels, from the first row to the last.
    Panels,
}

struct Base<T>(*mut T);
// SAFETY: the pointer is only turned into slices that the callers below prove to be disjoint.
unsafe impl<T: Send> Sync for Base<T> {}

impl<T> Base<T> {
    /// # Safety
    /// `range` must lie inside the allocation and overlap no other slice alive at the same time.
    unsafe fn slice<'a>(&self, range: Range<usize>) -> &'a mut [T] {
        // SAFETY: forwarded to the caller.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(range.start), range.len()) }
    }
}

/// Runs `task` on tiles of at most `block` rows of `group` panels that together cover `matrices` of one shape (empty
/// ones are absent), over the threads of the pool when `work` (multiply-adds) is worth it. A thread gets tiles that
/// follow each other in `order` and, where shapes agree, the same ones of one matrix after the other.
pub fn for_each_tile<F: Element, const N: usize>(
    shape: Panels,
    matrices: [&mut [F]; N],
    (block, group): (usize, usize),
    order: Order,
    work: usize,
    task: impl Fn(Tile<'_, F, N>) + Sync,
) {
    let len = shape.len::<F>();
    assert!(matrices.iter().all(|m| m.is_empty() || m.len() >= len));
    let bases = matrices.map(|m| (Base(m.as_mut_ptr()), m.is_empty()));
    let panels = shape.count::<F>();
    let (groups, blocks) = (panels.div_ceil(group), shape.rows.div_ceil(block));
    pool::run(groups * blocks, work, &|index| {
        let (place, row_block) = match order {
            Order::Rows => (index % groups, index / groups),
            Order::Panels => (index / blocks, index % blocks),
        };
        let (first_panel, first_row) = (place * group, row_block * block);
        task(Tile {
            panels: first_panel..panels.min(first_panel + group),
            first_row,
            rows: block.min(shape.rows - first_row),
            shape,
            bases: &bases,
        });
    });
}

/// Runs `task(start, chunks)` on chunks of `size` elements of several arrays at once. Arrays are of one
/// length, or empty and then given as empty chunks.
pub fn for_each_chunk<T: Plain, const N: usize>(
    arrays: [&mut [T]; N],
    size: usize,
    work: usize,
    task: impl Fn(usize, [&mut [T]; N]) + Sync,
) {
    let len = arrays.iter().map(|array| array.len()).max().unwrap_or(0);
    assert!(arrays.iter().all(|a| a.is_empty() || a.len() == len));
    let bases = arrays.map(|array| (Base(array.as_mut_ptr()), array.is_empty()));
    pool::run(len.div_ceil(size), work, &|index| {
        let range = index * size..((index + 1) * size).min(len);
        let chunks = std::array::from_fn(|i| {
            let (base, empty) = &bases[i];
            let range = if *empty { 0..0 } else { range.clone() };
            // SAFETY: chunks of different indices are disjoint and end at `len`, the length of
            // every array that is not empty.
            unsafe { base.slice(range) }
        });
        task(range.start, chunks);
    });
}

/// Runs `task(block, a, b)` on blocks of two arrays, which are divided into as many.
pub fn for_each_block<A: Plain, B: Plain>(
    (a, a_size): (&mut [A], usize),
    (b, b_size): (&mut [B], usize),
    work: usize,
    task: impl Fn(usize, &mut [A], &mut [B]) + Sync,
) {
    let blocks = a.len().div_ceil(a_size);
    assert_eq!(blocks, b.len().div_ceil(b_size));
    let (a_len, b_len) = (a.len(), b.len());
    let (a, b) = (Base(a.as_mut_ptr()), Base(b.as_mut_ptr()));
    pool::run(blocks, work, &|index| {
        let range = |size: usize, len: usize| index * size..len.min((index + 1) * size);
        // SAFETY: blocks of different indices are disjoint and end at the arrays' lengths.
        let (a, b) = unsafe { (a.slice(range(a_size, a_len)), b.slice(range(b_size, b_len))) };
        task(index, a, b);
    });
}

/// Whether every value is finite.
pub fn all_finite<F: Element>(values: &[F]) -> bool {
    let finite = AtomicBool::new(true);
    let chunks = values.len().div_ceil(CHUNK);
    pool::run(chunks, values.len(), &|index| {
        let chunk = &values[index * CHUNK..values.len().min((index + 1) * CHUNK)];
        let mut all = true;
        finite_chunk(chunk, &mut all);
        if !all {
            finite.store(false, Ordering::Relaxed);
        }
    });
    finite.into_inner()
}

kernel! {
    /// Without an early end, so that it is vectorised.
    fn finite_chunk[F: Element](values: &[F], all: &mut bool)[F] {
        *all = values.iter().fold(true, |all, value| all & value.finite());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_place_every_element_once_and_pad_to_vectors() {
        for (rows, cols) in [(1, 1), (3, 10), (5, 64), (7, 65), (2, 130), (4, 0), (0, 4)] {
            let shape = Panels::new(rows, cols);
            let values: Vec<f32> = (0..rows * cols).map(|i| i as f32 + 1.0).collect();
            let mut panels = vec![0.0f32; shape.len::<f32>()];
            shape.pack(&values, &mut panels);
            assert_eq!(panels.len() % 16, 0);
            assert_eq!(panels.iter().filter(|&&v| v != 0.0).count(), rows * cols);
            let mut back = vec![0.0; rows * cols];
            shape.unpack(&panels, &mut back);
            assert_eq!(back, values);

            let turned: Vec<f32> = (0..rows * cols)
                .map(|i| values[i % rows * cols + i / rows])
                .collect();
            let mut same = vec![0.0f32; shape.len::<f32>()];
            shape.pack_transposed(&turned, &mut same);
            assert_eq!(same, panels);
            shape.unpack_transposed(&same, &mut back);
            assert_eq!(back, turned);
        }
    }

    #[test]
    fn an_impossible_buffer_is_an_error() {
        assert!(matches!(
            Buffer::<f64>::zeroed(usize::MAX / 4),
            Err(Error::Memory { .. })
        ));
        assert!(matches!(
            Buffer::<f64>::zeroed(1 << 50),
            Err(Error::Memory { .. })
        ));
    }
}
