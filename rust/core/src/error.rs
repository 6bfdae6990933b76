//! Every way in which the core refuses work. Each variant carries what came and what was expected,
//! in the caller's terms; the bindings map each to one Python class.

use std::fmt;

/// Result of everything in the core that can be refused.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the core refused or stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// An array has the wrong rank or size.
    Shape {
        argument: String,
        expected: String,
        got: String,
    },
    /// A value lies outside what the argument allows.
    Argument {
        argument: String,
        expected: String,
        got: String,
    },
    /// The allocator refused a buffer.
    Memory { bytes: usize },
    /// Training left the finite numbers; the network holds the last finite state.
    Diverged { what: String, epoch: u64, step: u64 },
    /// The system refused to read or write a file.
    Io {
        code: Option<i32>,
        message: String,
        path: String,
    },
    /// A file is damaged, or none of ours.
    File { path: String, fault: String },
    /// The monitor asked to stop at once (a signal, an exception in a callback).
    Interrupted,
}

impl Error {
    /// A value outside what `argument` allows.
    pub fn argument(
        argument: impl Into<String>,
        expected: impl Into<String>,
        got: impl fmt::Display,
    ) -> Self {
        Self::Argument {
            argument: argument.into(),
            expected: expected.into(),
            got: got.to_string(),
        }
    }

    /// An array of the wrong rank or size.
    pub fn shape(
        argument: impl Into<String>,
        expected: impl Into<String>,
        got: impl fmt::Display,
    ) -> Self {
        Self::Shape {
            argument: argument.into(),
            expected: expected.into(),
            got: got.to_string(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape {
                argument,
                expected,
                got,
            }
            | Self::Argument {
                argument,
                expected,
                got,
            } => {
                write!(f, "{argument}: expected {expected}, got {got}")
            }
            Self::Memory { bytes } => write!(f, "out of memory: a buffer of {bytes} bytes"),
            Self::Diverged { what, epoch, step } => write!(
                f,
                "training diverged: {what} is not finite (epoch {epoch}, step {step}); \
                 the model holds its last finite parameters; \
                 a smaller learning_rate or clip_norm usually helps"
            ),
            Self::Io { message, path, .. } => write!(f, "{path}: {message}"),
            Self::File { path, fault } => {
                write!(f, "{path}: expected a file of ranvier's, got {fault}")
            }
            Self::Interrupted => write!(f, "interrupted"),
        }
    }
}

impl std::error::Error for Error {}
