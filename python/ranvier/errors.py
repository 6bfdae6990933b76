"""Exceptions. Each also derives from the built-in one that a user would expect.

Every message names the argument, what was expected and what came.
"""

__all__ = [
    "ArgumentError",
    "BusyError",
    "DTypeError",
    "DivergedError",
    "FileFormatError",
    "InternalError",
    "MissingDependencyError",
    "NotFittedError",
    "OutOfMemoryError",
    "RanvierError",
    "ShapeError",
]


class RanvierError(Exception):
    """Base of everything that ranvier raises on purpose."""


class ArgumentError(RanvierError, ValueError):
    """A value outside what the argument allows."""


class ShapeError(RanvierError, ValueError):
    """An array of the wrong rank or size."""


class DTypeError(RanvierError, TypeError):
    """A type, or an array's dtype, that the argument does not take."""


class NotFittedError(RanvierError, AttributeError):
    """The model does not know its number of input features yet."""


class DivergedError(RanvierError, ArithmeticError):
    """Training left the finite numbers; the model holds the last finite state."""


class FileFormatError(RanvierError, ValueError):
    """A file is damaged, or none of ranvier's; the message names the file and the fault."""


class OutOfMemoryError(RanvierError, MemoryError):
    """The system refused memory; nothing has changed."""


class BusyError(RanvierError, RuntimeError):
    """The trainer is fitting already."""


class MissingDependencyError(RanvierError, ImportError):
    """An optional package is not installed; the message says how to install it."""


class InternalError(RanvierError, RuntimeError):
    """A bug of ranvier's own."""
