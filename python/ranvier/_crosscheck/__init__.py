"""Training beside another implementation, number by number."""

from ._crosscheck import crosscheck
from ._reference import mirror
from ._report import CrosscheckReport, Deviation, StepErrors

__all__ = ["CrosscheckReport", "Deviation", "StepErrors", "crosscheck", "mirror"]
