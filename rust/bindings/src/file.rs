//! `File`: a model file that was opened, and what is written to one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use ranvier_core::checkpoint::{self, Contents, Form, Tensor};
use ranvier_core::element::Element;
use ranvier_core::error::{Error, Result};

use crate::arrays::Writable;
use crate::errors::{Failure, guarded};

/// A file whose header, and checksum, were found to be right.
#[pyclass(frozen, module = "ranvier._core")]
pub struct File {
    pub file: Mutex<checkpoint::File>,
}

impl File {
    /// Uses the file.
    pub fn with<T>(&self, function: impl FnOnce(&mut checkpoint::File) -> T) -> T {
        function(&mut self.file.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[pymethods]
impl File {
    /// Opens a file, or bytes. Without `ours` a checksum need not be there.
    #[new]
    fn new(
        py: Python<'_>,
        path: Option<PathBuf>,
        data: Option<Vec<u8>>,
        ours: bool,
    ) -> PyResult<Self> {
        guarded(|| {
            let file = py.detach(|| match (path, data) {
                (Some(path), _) => checkpoint::File::open(&path, ours),
                (None, data) => checkpoint::File::of_bytes(data.unwrap_or_default()),
            });
            Ok(Self {
                file: Mutex::new(file?),
            })
        })
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        self.with(|file| file.metadata())
    }

    /// (name, dtype, shape) of each tensor.
    fn tensors(&self) -> Vec<(String, String, Vec<usize>)> {
        self.with(|file| file.tensors())
    }

    /// Fills an array with a tensor of its dtype.
    fn read(&self, py: Python<'_>, name: &str, array: Bound<'_, PyAny>) -> PyResult<()> {
        guarded(|| {
            if let Ok(mut array) = Writable::<f32>::extract(array.as_borrowed()) {
                return Ok(py.detach(|| self.with(|file| file.values(name, array.slice())))?);
            }
            let mut array = Writable::<f64>::extract(array.as_borrowed())?;
            Ok(py.detach(|| self.with(|file| file.values(name, array.slice())))?)
        })
    }
}

/// Where a file goes to: a path, or memory.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct Destination {
    path: Option<PathBuf>,
    metadata: Vec<(String, String)>,
    counters: Vec<(String, i64)>,
    /// Names of the parameters and running statistics, in the order of `Network.tables`.
    pub names: Vec<String>,
    /// What matrices are narrowed to.
    weights: Option<String>,
}

impl Destination {
    /// The form of matrices.
    pub fn weights(&self) -> Result<Form> {
        self.weights.as_deref().map_or(Ok(Form::Own), Form::parse)
    }

    /// Writes the file; returns its bytes where there is no path.
    pub fn write<F: Element>(&self, tensors: Vec<Tensor<'_, F>>) -> Result<Option<Vec<u8>>> {
        let contents = Contents {
            metadata: &self.metadata,
            counters: &self.counters,
            tensors,
        };
        match &self.path {
            Some(path) => contents.save(path).map(|()| None),
            None => contents.to_bytes().map(Some),
        }
    }
}

/// The bytes as Python has them.
pub fn as_bytes(
    py: Python<'_>,
    bytes: Result<Option<Vec<u8>>>,
) -> std::result::Result<Option<Bound<'_, PyBytes>>, Failure> {
    let bytes = bytes.map_err(|error: Error| Failure::from(error))?;
    Ok(bytes.map(|bytes| PyBytes::new(py, &bytes)))
}

/// SHA-256 in hexadecimal digits.
#[pyfunction]
pub fn digest(data: &[u8]) -> String {
    checkpoint::sha256(data)
}
