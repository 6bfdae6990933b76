//! Foreign arrays: read and written in place, never referenced.

#![allow(unsafe_code, reason = "memory that others own")]

use std::marker::PhantomData;

use crate::element::Element;
use crate::matrix::{Order, Panels, for_each_tile};
use crate::pool;

/// Columns of the widest panel.
const MAX_PANEL: usize = 64;
/// Rows that a task gathers.
const ROWS: usize = 64;
/// The same where a row lies in several panels: it is read through before others are.
const WIDE_ROWS: usize = 8;
/// What gathering an element costs, in multiply-adds of a product.
const WORK: usize = 8;

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
/// With [`Sink`] this is the only place where memory that others own is touched, and only through raw pointers,
/// so a caller that writes the array meanwhile gets mixed values, never a broken reference.
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

    /// Whether rows are stretches of memory that hold elements of type F.
    #[inline(always)]
    fn contiguous<F: Element>(&self) -> bool {
        let same = matches!(
            (self.kind, F::NAME),
            (SourceType::F32, "f32") | (SourceType::F64, "f64")
        );
        same && self.col_stride == size_of::<F>() as isize
    }

    /// [`Self::read`] where rows are contiguous.
    #[inline(always)]
    fn copy<F: Element>(&self, row: usize, first: usize, out: &mut [F]) {
        assert!(row < self.rows && first + out.len() <= self.cols && self.contiguous::<F>());
        let offset = row as isize * self.row_stride + (first * size_of::<F>()) as isize;
        // SAFETY: the elements of the row are contiguous and of type F; both ends were checked.
        unsafe {
            let (from, to) = (self.start.offset(offset), out.as_mut_ptr().cast());
            copy(from, to, size_of_val(out));
        }
    }

    /// Copies columns `[first, first + out.len())` of `row`.
    #[inline]
    pub fn read<F: Element>(&self, row: usize, first: usize, out: &mut [F]) {
        if self.contiguous::<F>() {
            return self.copy(row, first, out);
        }
        assert!(row < self.rows && first + out.len() <= self.cols);
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

    /// [`Self::read`], less `shift`, with one rounding: what an f64 or an integer has beyond F survives an offset.
    fn read_shifted<F: Element>(&self, row: usize, first: usize, shift: &[F], out: &mut [F]) {
        let mut wide = [0.0f64; MAX_PANEL];
        let wide = &mut wide[..out.len()];
        self.read(row, first, wide);
        for ((out, &x), &shift) in out.iter_mut().zip(&*wide).zip(shift) {
            *out = F::of(x - shift.to_f64());
        }
    }

    /// Copies the rows named by `order` into panels of `order.len()` rows, less the columns' `shift` (stored as one row
    /// of panels; empty for none).
    pub fn gather<F: Element>(&self, order: Rows<'_>, shift: &[F], panels: &mut [F]) {
        let shape = Panels::new(order.len(), self.cols);
        let work = WORK * shape.rows * shape.cols;
        let most = if shape.count::<F>() > 1 {
            WIDE_ROWS
        } else {
            ROWS
        };
        let rows = shape.rows.div_ceil(pool::team(work)).min(most);
        for_each_tile(
            shape,
            [panels],
            (rows.max(1), 1),
            Order::Rows,
            work,
            |mut tile| {
                for p in tile.panels.clone() {
                    let (first, width, used) = (tile.first_row, tile.width(p), shape.used::<F>(p));
                    let [data] = tile.part(p);
                    let rows = data.chunks_exact_mut(width).enumerate();
                    if !shift.is_empty() {
                        let shift = &shift[p * F::PANEL..];
                        for (i, row) in rows {
                            let row = &mut row[..used];
                            self.read_shifted(order.get(first + i), p * F::PANEL, shift, row);
                        }
                    } else if self.contiguous::<F>() {
                        for (i, row) in rows {
                            self.copy(order.get(first + i), p * F::PANEL, &mut row[..used]);
                        }
                    } else {
                        for (i, row) in rows {
                            self.read(order.get(first + i), p * F::PANEL, &mut row[..used]);
                        }
                    }
                }
            },
        );
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

/// Copies bytes; short rows inline, since a call would cost more than the copy.
///
/// # Safety
/// As for [`std::ptr::copy_nonoverlapping`].
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
    macro_rules! sizes {
        ($($size:literal),*) => {
            match bytes {
                // SAFETY: forwarded to the caller.
                $($size => unsafe { to.cast::<[u8; $size]>().write(from.cast::<[u8; $size]>().read()) },)*
                // SAFETY: forwarded to the caller.
                _ => unsafe { std::ptr::copy_nonoverlapping(from, to, bytes) },
            }
        };
    }
    sizes!(4, 8, 12, 16, 24, 32, 64, 128, 256);
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

    /// The rows in blocks of `size`, the last one shorter.
    pub fn blocks(self, size: usize) -> impl Iterator<Item = Self> {
        (0..self.len()).step_by(size).map(move |at| {
            let count = size.min(self.len() - at);
            match self {
                Self::Picked(rows) => Self::Picked(&rows[at..at + count]),
                Self::Range { first, .. } => Self::Range {
                    first: first + at,
                    count,
                },
            }
        })
    }

    #[inline(always)]
    pub fn get(self, index: usize) -> usize {
        match self {
            Self::Picked(rows) => rows[index] as usize,
            Self::Range { first, .. } => first + index,
        }
    }
}

/// A foreign contiguous array that results are written to.
pub struct Sink<'a, F> {
    start: *mut F,
    len: usize,
    owner: PhantomData<&'a mut [F]>,
}

// SAFETY: only writes, through raw pointers, of elements that no other sink has; the owner outlives 'a.
unsafe impl<F: Element> Send for Sink<'_, F> {}
// SAFETY: a shared sink only tells its length.
unsafe impl<F: Element> Sync for Sink<'_, F> {}

impl<'a, F: Element> Sink<'a, F> {
    /// # Safety
    /// `len` elements from `start` on must be writable during `'a` (they need not be aligned), by no other sink.
    pub unsafe fn new(start: *mut F, len: usize) -> Self {
        Self {
            start,
            len,
            owner: PhantomData,
        }
    }

    /// A slice of the crate's own.
    pub fn from_slice(values: &'a mut [F]) -> Self {
        // SAFETY: the slice is borrowed exclusively.
        unsafe { Self::new(values.as_mut_ptr(), values.len()) }
    }

    #[allow(clippy::len_without_is_empty, reason = "a place, not a container")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The elements from `first` on in parts of `size`, the last one shorter.
    pub fn parts(&mut self, first: usize, size: usize) -> impl Iterator<Item = Sink<'_, F>> + Send {
        let whole = &*self;
        (first..whole.len).step_by(size).map(move |at| {
            // SAFETY: the parts are disjoint and end at `len`; the whole is borrowed exclusively meanwhile.
            unsafe { Sink::new(whole.start.add(at), size.min(whole.len - at)) }
        })
    }

    /// Fills the array.
    pub fn write(&mut self, values: &[F]) {
        assert_eq!(values.len(), self.len);
        // SAFETY: the lengths agree; bytes have no alignment. Nobody else's memory is in `values`, a reference.
        unsafe {
            let bytes = size_of_val(values);
            copy(values.as_ptr().cast(), self.start.cast(), bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
