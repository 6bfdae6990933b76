"""Training beside another implementation, number by number."""

from ._crosscheck import TOLERANCE, crosscheck
from ._reference import mirror
from ._report import CrosscheckReport, Deviation, StepErrors
from ._trace_step import LayerStep, StepTrace, trace_step

__all__ = [
    "TOLERANCE",
    "CrosscheckReport",
    "Deviation",
    "LayerStep",
    "StepErrors",
    "StepTrace",
    "crosscheck",
    "mirror",
    "trace_step",
]
