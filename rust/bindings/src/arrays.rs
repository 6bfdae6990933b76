//! Python buffers as the core's sources and destinations. The Python layer has already chosen dtype and rank;
//! here each buffer's own description is checked again before a pointer is taken.

#![allow(unsafe_code, reason = "pointers of Python buffers")]

use std::ffi::{c_char, c_int, c_void};
use std::ops::Range;

use pyo3::buffer::{ElementType, PyUntypedBuffer};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCapsule, PyType};
use ranvier_core::element::Element;
use ranvier_core::source::{Sink, Source, SourceType};

use crate::errors::raise;
use crate::monitor::Lent;

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

/// NumPy's array interface, as `__array_struct__` gives it.
#[repr(C)]
struct Interface {
    two: c_int,
    dimensions: c_int,
    kind: c_char,
    item: c_int,
    flags: c_int,
    shape: *const isize,
    strides: *const isize,
    data: *mut c_void,
}

const C_CONTIGUOUS: c_int = 0x1;
const ALIGNED: c_int = 0x100;
const NATIVE: c_int = 0x200;
const WRITEABLE: c_int = 0x400;

/// A `numpy.ndarray` (no subclass) of two dimensions and native numbers: what small calls are made with, in a
/// fraction of the time that a buffer takes. It keeps the array alive.
pub struct Matrix<'py> {
    capsule: Bound<'py, PyCapsule>,
    kind: SourceType,
    /// Bytes of an item.
    item: isize,
    flags: c_int,
    shape: (usize, usize),
    strides: (isize, isize),
    data: *mut c_void,
}

impl<'py> Matrix<'py> {
    /// None for anything else.
    pub fn of(object: &Bound<'py, PyAny>) -> PyResult<Option<Self>> {
        static NDARRAY: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let py = object.py();
        if !object
            .get_type()
            .is(NDARRAY.import(py, "numpy", "ndarray")?)
        {
            return Ok(None);
        }
        let capsule = object.getattr(intern!(py, "__array_struct__"))?;
        let capsule = capsule.cast_into::<PyCapsule>()?;
        let interface = capsule.pointer_checked(None)?.cast::<Interface>();
        // SAFETY: NumPy's own type has made the capsule, which holds an interface while it lives.
        let interface = unsafe { interface.as_ref() };
        let kind = match (interface.kind as u8, interface.item) {
            (b'f', 4) => SourceType::F32,
            (b'f', 8) => SourceType::F64,
            (b'i', 1) => SourceType::I8,
            (b'i', 2) => SourceType::I16,
            (b'i', 4) => SourceType::I32,
            (b'i', 8) => SourceType::I64,
            (b'u', 1) => SourceType::U8,
            (b'u', 2) => SourceType::U16,
            (b'u', 4) => SourceType::U32,
            (b'u', 8) => SourceType::U64,
            _ => return Ok(None),
        };
        let usable = ALIGNED | NATIVE;
        if interface.two != 2 || interface.dimensions != 2 || interface.flags & usable != usable {
            return Ok(None);
        }
        // SAFETY: the interface has two dimensions, so both arrays have two elements.
        let (shape, strides) = unsafe {
            (
                interface.shape.cast::<[usize; 2]>().read(),
                interface.strides.cast::<[isize; 2]>().read(),
            )
        };
        Ok(Some(Self {
            kind,
            item: interface.item as isize,
            flags: interface.flags,
            shape: shape.into(),
            strides: strides.into(),
            data: interface.data,
            capsule,
        }))
    }

    pub fn py(&self) -> Python<'py> {
        self.capsule.py()
    }

    pub fn rows(&self) -> usize {
        self.shape.0
    }

    pub fn cols(&self) -> usize {
        self.shape.1
    }

    pub fn source(&self) -> Source<'_> {
        // SAFETY: NumPy describes the memory of the array, which `self` keeps alive during the source's lifetime.
        // Python code may still write its values: the source reads through raw pointers only.
        unsafe { Source::new(self.data.cast::<u8>(), self.kind, self.shape, self.strides) }
    }

    /// The array as the place for results, if it is writable, contiguous, and of this type and shape.
    pub fn sink<F: Number>(&mut self, shape: (usize, usize)) -> Option<Sink<'_, F>> {
        let wanted = C_CONTIGUOUS | WRITEABLE;
        let fits = self.kind == F::KIND && self.shape == shape && self.flags & wanted == wanted;
        // SAFETY: NumPy describes the memory of the array, which `self` keeps alive during the sink's lifetime; it
        // is writable and contiguous. Python code may touch it meanwhile: the sink writes through raw pointers only.
        fits.then(|| unsafe { Sink::new(self.data.cast::<F>(), shape.0 * shape.1) })
    }

    /// Whether the addresses that two arrays lie between overlap.
    pub fn meets(&self, other: &Self) -> bool {
        let (a, b) = (self.span(), other.span());
        a.start < b.end && b.start < a.end
    }

    fn span(&self) -> Range<isize> {
        let start = self.data as isize;
        if self.shape.0 == 0 || self.shape.1 == 0 {
            return start..start;
        }
        let rows = (self.shape.0 as isize - 1) * self.strides.0;
        let cols = (self.shape.1 as isize - 1) * self.strides.1;
        start + rows.min(0) + cols.min(0)..start + rows.max(0) + cols.max(0) + self.item
    }
}

/// A new array, C-contiguous and uninitialised.
pub fn empty<F: Number>(py: Python<'_>, shape: (usize, usize)) -> PyResult<Bound<'_, PyAny>> {
    static EMPTY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    EMPTY
        .import(py, "numpy", "empty")?
        .call1((shape, F::dtype(py)?))
}

/// Element types with a Python buffer format.
pub trait Number: Element + Lent + pyo3::buffer::Element {
    const KIND: SourceType;
    /// NumPy's dtype.
    fn dtype(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>>;
}

macro_rules! number {
    ($type:ty, $kind:ident, $name:literal) => {
        impl Number for $type {
            const KIND: SourceType = SourceType::$kind;

            fn dtype(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
                static DTYPE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
                let make = || py.import("numpy")?.getattr("dtype")?.call1(($name,));
                let dtype = DTYPE.get_or_try_init(py, || make().map(Bound::unbind))?;
                Ok(dtype.bind(py))
            }
        }
    };
}
number!(f32, F32, "float32");
number!(f64, F64, "float64");
