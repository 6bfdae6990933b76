//! Memory: the aligned buffer, the panel layout with its views, and foreign arrays.
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

#![allow(
    unsafe_code,
    reason = "aligned allocation, disjoint tiles, foreign arrays"
)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;

use crate::element::Element;
use crate::error::{Error, Result};
use crate::pool;

const ALIGN: usize = 64;

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

/// A zero-initialised, 64-byte aligned array whose allocation can fail without ending the process.
pub struct Buffer<T: Plain> {
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
        let layout = Self::layout(len)?;
        if layout.size() == 0 {
            return Ok(Self {
                start: NonNull::dangling(),
                len: 0,
            });
        }
        // SAFETY: the layout has a non-zero size.
        let start = unsafe { alloc_zeroed(layout) }.cast::<T>();
        NonNull::new(start)
            .map(|start| Self { start, len })
            .ok_or(Error::Memory {
                bytes: layout.size(),
            })
    }

    /// A copy of `values`.
    pub fn copied(values: &[T]) -> Result<Self> {
        let mut buffer = Self::zeroed(values.len())?;
        buffer.copy_from_slice(values);
        Ok(buffer)
    }

    fn layout(len: usize) -> Result<Layout> {
        let bytes = len.checked_mul(size_of::<T>());
        bytes
            .and_then(|bytes| Layout::from_size_align(bytes, ALIGN).ok())
            .ok_or(Error::Memory {
                bytes: bytes.unwrap_or(usize::MAX),
            })
    }
}

impl<T: Plain> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.len == 0 {
            return;
        }
        if let Ok(layout) = Self::layout(self.len) {
            // SAFETY: allocated in `zeroed` with this very layout, freed once.
            unsafe { dealloc(self.start.as_ptr().cast(), layout) };
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
        for p in 0..self.count::<F>() {
            let used = self.used::<F>(p);
            for row in 0..self.rows {
                let to = row * self.cols + p * F::PANEL;
                let from = self.row::<F>(p, row).start;
                values[to..to + used].copy_from_slice(&panels[from..from + used]);
            }
        }
    }

    /// Writes the transpose of `from` (of this shape) to `to` (of shape `cols` x `rows`).
    pub fn transpose<F: Element>(self, from: &[F], to: &mut [F]) {
        let turned = Panels::new(self.cols, self.rows);
        for p in 0..self.count::<F>() {
            for row in 0..self.rows {
                let source = &from[self.row::<F>(p, row)][..self.used::<F>(p)];
                let (panel, lane) = (row / F::PANEL, row % F::PANEL);
                let width = turned.width::<F>(panel);
                let start = turned.row::<F>(panel, p * F::PANEL).start + lane;
                for (i, &value) in source.iter().enumerate() {
                    to[start + i * width] = value;
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

/// Consecutive rows of one panel, given to one task for writing.
pub struct Tile<'a, F> {
    pub panel: usize,
    pub first_row: usize,
    pub width: usize,
    pub data: &'a mut [F],
    /// The same rows of a second matrix of the same shape; empty when there is none.
    pub companion: &'a mut [F],
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

/// Runs `task` on tiles of at most `block` rows that together cover `matrix` (and `companion`, of the
/// same shape or empty), over the threads of the pool when `work` (multiply-adds) is worth it.
pub fn for_each_tile<F: Element>(
    shape: Panels,
    matrix: &mut [F],
    companion: &mut [F],
    block: usize,
    work: usize,
    task: impl Fn(Tile<'_, F>) + Sync,
) {
    let len = shape.len::<F>();
    assert!(matrix.len() >= len && (companion.is_empty() || companion.len() >= len));
    let has_companion = !companion.is_empty();
    let (first, second) = (Base(matrix.as_mut_ptr()), Base(companion.as_mut_ptr()));
    let blocks = shape.rows.div_ceil(block);
    pool::run(shape.count::<F>() * blocks, work, &|index| {
        let (panel, block_index) = (index / blocks, index % blocks);
        let first_row = block_index * block;
        let last_row = (first_row + block).min(shape.rows);
        let start = shape.row::<F>(panel, first_row).start;
        let end = shape.row::<F>(panel, last_row - 1).end;
        // SAFETY: (panel, rows) differ for every index, so ranges are disjoint; `end <= len`, and
        // both slices hold at least `len` elements (asserted above).
        let (data, companion) = unsafe {
            let companion = if has_companion { start..end } else { 0..0 };
            (first.slice(start..end), second.slice(companion))
        };
        task(Tile {
            panel,
            first_row,
            width: shape.width::<F>(panel),
            data,
            companion,
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

/// Element types of foreign arrays that are read in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceType {
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
}

/// A foreign two-dimensional array: any strides, read-only, converted element by element as it is read.
/// This is the only place where memory that others own is touched, and only through raw pointers, so a
/// caller that writes the array meanwhile gets mixed values, never a broken reference.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    start: *const u8,
    kind: SourceType,
    pub rows: usize,
    pub cols: usize,
    row_stride: isize,
    col_stride: isize,
    owner: PhantomData<&'a [u8]>,
}

// SAFETY: only reads, through raw pointers; the owner outlives 'a.
unsafe impl Send for Source<'_> {}
// SAFETY: as above.
unsafe impl Sync for Source<'_> {}

impl<'a> Source<'a> {
    /// # Safety
    /// For every `row < rows` and `col < cols`, the element of `kind` at byte offset
    /// `row * row_stride + col * col_stride` from `start` must be readable during `'a`
    /// (it need not be aligned).
    pub unsafe fn new(
        start: *const u8,
        kind: SourceType,
        (rows, cols): (usize, usize),
        (row_stride, col_stride): (isize, isize),
    ) -> Self {
        Self {
            start,
            kind,
            rows,
            cols,
            row_stride,
            col_stride,
            owner: PhantomData,
        }
    }

    /// A row-major slice of the crate's own.
    pub fn from_slice<F: Element>(values: &'a [F], rows: usize, cols: usize) -> Self {
        assert_eq!(values.len(), rows * cols);
        let kind = if size_of::<F>() == 4 {
            SourceType::F32
        } else {
            SourceType::F64
        };
        let item = size_of::<F>() as isize;
        // SAFETY: the slice has rows * cols elements, contiguous and row-major.
        unsafe {
            Self::new(
                values.as_ptr().cast(),
                kind,
                (rows, cols),
                (item * cols as isize, item),
            )
        }
    }

    /// Copies columns `[first, first + out.len())` of `row`.
    #[inline]
    pub fn read<F: Element>(&self, row: usize, first: usize, out: &mut [F]) {
        assert!(row < self.rows && first + out.len() <= self.cols);
        let item = size_of::<F>() as isize;
        let same = matches!(
            (self.kind, F::NAME),
            (SourceType::F32, "f32") | (SourceType::F64, "f64")
        );
        if same && self.col_stride == item {
            let offset = row as isize * self.row_stride + first as isize * item;
            // SAFETY: the elements of the row are contiguous and of type F; both ends were checked.
            unsafe {
                let from = self.start.offset(offset);
                std::ptr::copy_nonoverlapping(from, out.as_mut_ptr().cast(), size_of_val(out));
            }
            return;
        }
        match self.kind {
            SourceType::F32 => self.convert(row, first, out, |v: f32| F::of(f64::from(v))),
            SourceType::F64 => self.convert(row, first, out, |v: f64| F::of(v)),
            SourceType::I8 => self.convert(row, first, out, |v: i8| F::of(f64::from(v))),
            SourceType::I16 => self.convert(row, first, out, |v: i16| F::of(f64::from(v))),
            SourceType::I32 => self.convert(row, first, out, |v: i32| F::of(f64::from(v))),
            SourceType::I64 => self.convert(row, first, out, |v: i64| F::of_integer(v.into())),
            SourceType::U8 => self.convert(row, first, out, |v: u8| F::of(f64::from(v))),
            SourceType::U16 => self.convert(row, first, out, |v: u16| F::of(f64::from(v))),
            SourceType::U32 => self.convert(row, first, out, |v: u32| F::of(f64::from(v))),
            SourceType::U64 => self.convert(row, first, out, |v: u64| F::of_integer(v.into())),
        }
    }

    /// Reads elements of type `T`, which must be that of `kind`; row and columns were checked.
    #[inline(always)]
    fn convert<T, F>(&self, row: usize, first: usize, out: &mut [F], convert: impl Fn(T) -> F) {
        for (i, value) in out.iter_mut().enumerate() {
            let offset = row as isize * self.row_stride + (first + i) as isize * self.col_stride;
            // SAFETY: `read` has checked row and column; `new` promises the rest.
            *value = convert(unsafe { self.start.offset(offset).cast::<T>().read_unaligned() });
        }
    }

    /// Copies the rows named by `order` into panels of `order.len()` rows.
    pub fn gather<F: Element>(&self, order: Rows<'_>, panels: &mut [F]) {
        let shape = Panels::new(order.len(), self.cols);
        for p in 0..shape.count::<F>() {
            for row in 0..shape.rows {
                let used = shape.used::<F>(p);
                let at = shape.row::<F>(p, row).start;
                self.read(order.get(row), p * F::PANEL, &mut panels[at..at + used]);
            }
        }
    }

    /// Copies the rows named by `order` one after the other.
    pub fn gather_rows<F: Element>(&self, order: Rows<'_>, out: &mut [F]) {
        for (row, out) in out
            .chunks_exact_mut(self.cols)
            .enumerate()
            .take(order.len())
        {
            self.read(order.get(row), 0, out);
        }
    }
}

/// Rows of the data that make a batch: picked one by one, or a range.
#[derive(Clone, Copy)]
pub enum Rows<'a> {
    Picked(&'a [u32]),
    Range { first: usize, count: usize },
}

impl Rows<'_> {
    pub fn len(self) -> usize {
        match self {
            Self::Picked(rows) => rows.len(),
            Self::Range { count, .. } => count,
        }
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    #[inline(always)]
    pub fn get(self, index: usize) -> usize {
        match self {
            Self::Picked(rows) => rows[index] as usize,
            Self::Range { first, .. } => first + index,
        }
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
        }
    }

    #[test]
    fn transposing_twice_gives_the_matrix_back() {
        for (rows, cols) in [(1, 1), (3, 70), (130, 5), (64, 64)] {
            let shape = Panels::new(rows, cols);
            let values: Vec<f64> = (0..rows * cols).map(|i| i as f64).collect();
            let mut panels = vec![0.0; shape.len::<f64>()];
            shape.pack(&values, &mut panels);
            let turned_shape = Panels::new(cols, rows);
            let mut turned = vec![0.0; turned_shape.len::<f64>()];
            shape.transpose(&panels, &mut turned);
            let mut rows_of_turned = vec![0.0; rows * cols];
            turned_shape.unpack(&turned, &mut rows_of_turned);
            for row in 0..rows {
                for col in 0..cols {
                    assert_eq!(
                        values[row * cols + col].to_bits(),
                        rows_of_turned[col * rows + row].to_bits()
                    );
                }
            }
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

    #[test]
    fn a_source_reads_any_stride_and_type() {
        let data: [i16; 6] = [1, -2, 3, 4, 5, -6];
        // SAFETY: two rows of three columns, read from the last element backwards.
        let source = unsafe {
            Source::new(
                data.as_ptr().add(5).cast(),
                SourceType::I16,
                (2, 3),
                (-6, -2),
            )
        };
        let mut out = [0.0f32; 6];
        source.gather_rows(Rows::Range { first: 0, count: 2 }, &mut out);
        assert_eq!(out, [-6.0, 5.0, 4.0, 3.0, -2.0, 1.0]);
    }
}
