//! One mapping from the core's errors to the Python classes of `ranvier.errors`, and the choke point that
//! keeps panics out of Python.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;
use ranvier_core::error::Error;

/// A core error on its way to Python.
pub struct CoreError(pub Error);

impl From<Error> for CoreError {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl From<CoreError> for PyErr {
    fn from(error: CoreError) -> Self {
        if let Error::Io {
            code,
            message,
            path,
        } = error.0
        {
            // With a code Python makes it FileNotFoundError and the like.
            return match code {
                Some(code) => PyOSError::new_err((code, message, path)),
                None => PyOSError::new_err(format!("{path}: {message}")),
            };
        }
        raise(class_of(&error.0), error.0.to_string())
    }
}

fn class_of(error: &Error) -> &'static str {
    match error {
        Error::Shape { .. } => "ShapeError",
        Error::Argument { .. } => "ArgumentError",
        Error::Memory { .. } => "OutOfMemoryError",
        Error::Diverged { .. } => "DivergedError",
        Error::File { .. } => "FileFormatError",
        Error::Io { .. } | Error::Interrupted => "InternalError",
    }
}

/// An instance of `ranvier.errors.<class>`.
pub fn raise(class: &str, message: String) -> PyErr {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    Python::attach(|py| {
        let module = MODULE.get_or_try_init(py, || py.import("ranvier.errors").map(Bound::unbind));
        let class = module.and_then(|module| {
            let class = module.bind(py).getattr(class)?;
            Ok(class.cast_into::<PyType>()?)
        });
        match class {
            Ok(class) => PyErr::from_type(class, message),
            Err(error) => error,
        }
    })
}

/// Errors of a bound function: the core's, or Python's own.
pub enum Failure {
    Core(Error),
    Python(PyErr),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Core(error)
    }
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Self {
        Self::Python(error)
    }
}

/// Runs `function`; a panic, which is a bug of ours, becomes `InternalError`.
pub fn guarded<T>(function: impl FnOnce() -> Result<T, Failure>) -> PyResult<T> {
    match catch_unwind(AssertUnwindSafe(function)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(Failure::Core(error))) => Err(CoreError(error).into()),
        Ok(Err(Failure::Python(error))) => Err(error),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Err(raise(
                "InternalError",
                format!("a bug in ranvier's core, please report it: {text}"),
            ))
        }
    }
}
