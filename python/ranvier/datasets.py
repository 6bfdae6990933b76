"""Data that comes with the package, for demonstrations and tests."""

from __future__ import annotations

import numpy as np

from ._arrays import Array

__all__ = ["load_digits"]


def load_digits() -> tuple[Array, Array]:
    """The 1,797 handwritten digits of 8 x 8 pixels that scikit-learn carries.

    Returns:
        X, shape (1797, 64), float32, pixels from 0 (white) to 1 (black), row by row; and y, shape
        (1797,), int64, the digits.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (1998), UCI Machine
    Learning Repository, doi 10.24432/C50P49, licence CC BY 4.0; the test part of the set, in the
    order of `sklearn.datasets.load_digits`.

    Example:
        >>> import ranvier as rv
        >>> X, y = rv.datasets.load_digits()
        >>> X.shape, int(y[0])
        ((1797, 64), 0)
    """
    # Importing ranvier is quicker without it.
    from importlib.resources import as_file, files

    with as_file(files("ranvier") / "digits.npz") as path, np.load(path) as stored:
        pixels, digits = stored["pixels"], stored["digits"]
    return (pixels / np.float32(16)).astype(np.float32), digits.astype(np.int64)
