"""Ranvier: dense neural networks on the CPU.

Fast, the same bits whatever the threads and the instruction set, and a reference that says what
right means.

    >>> import ranvier as rv
    >>> X, y = rv.datasets.load_digits()
    >>> model = rv.Sequential([rv.Dense(32, activation="relu"), rv.Dense(10)])
    >>> history = model.fit(X, y, loss="cross_entropy", epochs=5)
    >>> model.predict(X).shape
    (1797, 10)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import (
    activations,
    data,
    datasets,
    errors,
    initializers,
    losses,
    metrics,
    optimizers,
    schedules,
)
from ._core import __version__
from ._many import fit_many
from .callbacks import Callback, Checkpoint, EarlyStopping
from .config import config, get_num_threads, set_num_threads, show_config
from .errors import (
    ArgumentError,
    BusyError,
    DivergedError,
    DTypeError,
    FileFormatError,
    InternalError,
    MissingDependencyError,
    NotFittedError,
    OutOfMemoryError,
    RanvierError,
    ShapeError,
)
from .history import History
from .layers import (
    Activation,
    BatchNorm,
    Dense,
    Dropout,
    GaussianNoise,
    LayerNorm,
    Softmax,
    Standardize,
)
from .loggers import CSVLogger, LearningRateMonitor, MLflow, ProgressBar, TensorBoard
from .model import Gradients, Sequential, load
from .optimizers import LBFGS, SGD, Adam, AdamW, LevenbergMarquardt
from .trainer import Trainer

if TYPE_CHECKING:
    from . import export, inspection, interchange, quantization, reference
    from ._crosscheck import CrosscheckReport, StepTrace, crosscheck, trace_step
    from .interchange import from_keras, from_onnx, from_sklearn, from_torch
    from .quantization import QuantizationReport, QuantizedSequential, quantization_report

__all__ = [
    "LBFGS",
    "SGD",
    "Activation",
    "Adam",
    "AdamW",
    "ArgumentError",
    "BatchNorm",
    "BusyError",
    "CSVLogger",
    "Callback",
    "Checkpoint",
    "CrosscheckReport",
    "DTypeError",
    "Dense",
    "DivergedError",
    "Dropout",
    "EarlyStopping",
    "FileFormatError",
    "GaussianNoise",
    "Gradients",
    "History",
    "InternalError",
    "LayerNorm",
    "LearningRateMonitor",
    "LevenbergMarquardt",
    "MLflow",
    "MissingDependencyError",
    "NotFittedError",
    "OutOfMemoryError",
    "ProgressBar",
    "QuantizationReport",
    "QuantizedSequential",
    "RanvierError",
    "Sequential",
    "ShapeError",
    "Softmax",
    "Standardize",
    "StepTrace",
    "TensorBoard",
    "Trainer",
    "__version__",
    "activations",
    "config",
    "crosscheck",
    "data",
    "datasets",
    "errors",
    "export",
    "fit_many",
    "from_keras",
    "from_onnx",
    "from_sklearn",
    "from_torch",
    "get_num_threads",
    "initializers",
    "inspection",
    "interchange",
    "load",
    "losses",
    "metrics",
    "optimizers",
    "quantization",
    "quantization_report",
    "reference",
    "schedules",
    "set_num_threads",
    "show_config",
    "trace_step",
]


# Imported when they are asked for: most programs need none of them.
_MODULES = ("export", "inspection", "interchange", "quantization", "reference")
_HOMES = {
    "CrosscheckReport": "_crosscheck",
    "QuantizationReport": "quantization",
    "QuantizedSequential": "quantization",
    "StepTrace": "_crosscheck",
    "crosscheck": "_crosscheck",
    "from_keras": "interchange",
    "from_onnx": "interchange",
    "from_sklearn": "interchange",
    "from_torch": "interchange",
    "quantization_report": "quantization",
    "trace_step": "_crosscheck",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"ranvier.{name}")
    if name in _HOMES:
        return getattr(import_module(f"ranvier.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'ranvier' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
