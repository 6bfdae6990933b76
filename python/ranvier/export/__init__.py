"""Trained networks in the formats of other places, each with a report of how far they agree."""

from ._agreement import Agreement
from ._c import c
from ._numpy import numpy
from ._onnx import onnx

__all__ = ["Agreement", "c", "numpy", "onnx"]
