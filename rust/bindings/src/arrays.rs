//! Python buffers as the core's sources and destinations. The Python layer has already chosen dtype and rank;
//! here each buffer's own description is checked again before a pointer is taken.

#![allow(unsafe_code, reason = "pointers of Python buffers")]

use pyo3::buffer::{ElementType, PyUntypedBuffer};
use pyo3::prelude::*;
use ranvier_core::element::Element;
use ranvier_core::source::{Source, SourceType};

use crate::errors::raise;

/// A readable array of one or two dimensions. It keeps its Python object alive.
pub struct Readable(PyUntypedBuffer, SourceType);

impl FromPyObject<'_, '_> for Readable {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        let buffer = PyUntypedBuffer::get(&object)?;
        let kind = source_type(&buffer)?;
        if !(1..=2).contains(&buffer.dimensions()) || buffer.suboffsets().is_some() {
            return Err(raise(
                "ShapeError",
                format!(
                    "array: expected 1 or 2 dimensions, got {}",
                    buffer.dimensions()
                ),
            ));
        }
        Ok(Self(buffer, kind))
    }
}

impl Readable {
    /// The array as a matrix; one dimension is a column.
    pub fn source(&self) -> Source<'_> {
        let (shape, strides) = (self.0.shape(), self.0.strides());
        let cols = shape.get(1).copied().unwrap_or(1);
        let col_stride = strides.get(1).copied().unwrap_or(0);
        // SAFETY: shape, strides and element type are those of the buffer, which `self` keeps alive
        // and unmoved during the source's lifetime. Python code may still write its values: the
        // source reads through raw pointers only.
        unsafe {
            Source::new(
                self.0.buf_ptr().cast::<u8>(),
                self.1,
                (shape[0], cols),
                (strides[0], col_stride),
            )
        }
    }
}

fn source_type(buffer: &PyUntypedBuffer) -> PyResult<SourceType> {
    let native = match buffer.format().to_bytes().first() {
        Some(b'>' | b'!') => cfg!(target_endian = "big"),
        Some(b'<') => cfg!(target_endian = "little"),
        _ => true,
    };
    let kind = match (ElementType::from_format(buffer.format()), native) {
        (ElementType::Float { bytes: 4 }, true) => SourceType::F32,
        (ElementType::Float { bytes: 8 }, true) => SourceType::F64,
        (ElementType::SignedInteger { bytes: 1 }, _) => SourceType::I8,
        (ElementType::SignedInteger { bytes: 2 }, true) => SourceType::I16,
        (ElementType::SignedInteger { bytes: 4 }, true) => SourceType::I32,
        (ElementType::SignedInteger { bytes: 8 }, true) => SourceType::I64,
        (ElementType::UnsignedInteger { bytes: 1 }, _) => SourceType::U8,
        (ElementType::UnsignedInteger { bytes: 2 }, true) => SourceType::U16,
        (ElementType::UnsignedInteger { bytes: 4 }, true) => SourceType::U32,
        (ElementType::UnsignedInteger { bytes: 8 }, true) => SourceType::U64,
        _ => {
            let format = buffer.format().to_string_lossy();
            return Err(raise(
                "DTypeError",
                format!("array: expected native numbers, got buffer format {format:?}"),
            ));
        }
    };
    Ok(kind)
}

/// A writable, C-contiguous array of one element type, freshly made by our own Python layer.
pub struct Writable<T> {
    buffer: PyUntypedBuffer,
    len: usize,
    element: std::marker::PhantomData<T>,
}

impl<T: pyo3::buffer::Element> FromPyObject<'_, '_> for Writable<T> {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        let buffer = PyUntypedBuffer::get(&object)?;
        let typed = buffer.as_typed::<T>().is_ok();
        if !typed || buffer.readonly() || !buffer.is_c_contiguous() {
            return Err(raise(
                "DTypeError",
                "out: expected a writable, C-contiguous array of the model's dtype".to_owned(),
            ));
        }
        Ok(Self {
            len: buffer.item_count(),
            buffer,
            element: std::marker::PhantomData,
        })
    }
}

impl<T> Writable<T> {
    /// The memory, for as long as the call lasts.
    ///
    /// Nothing stops other Python code from touching the array meanwhile; the Python layer only passes
    /// arrays that it has just made and shown to nobody.
    pub fn slice(&mut self) -> &mut [T] {
        if self.len == 0 {
            return &mut [];
        }
        // SAFETY: the buffer is writable, contiguous, aligned and of element type T (checked on
        // extraction by `as_typed`), has `len` items, and is alive while `self` is.
        unsafe { std::slice::from_raw_parts_mut(self.buffer.buf_ptr().cast::<T>(), self.len) }
    }
}

/// Element types with a Python buffer format.
pub trait Number: Element + pyo3::buffer::Element {}
impl Number for f32 {}
impl Number for f64 {}
