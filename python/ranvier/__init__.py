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

from typing import Any

from . import (
    activations,
    data,
    datasets,
    errors,
    initializers,
    inspection,
    interchange,
    losses,
    metrics,
    optimizers,
    schedules,
)
from ._core import __version__
from ._crosscheck import CrosscheckReport, crosscheck
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
from .interchange import from_keras, from_sklearn, from_torch
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
    "RanvierError",
    "Sequential",
    "ShapeError",
    "Softmax",
    "Standardize",
    "TensorBoard",
    "Trainer",
    "__version__",
    "activations",
    "config",
    "crosscheck",
    "data",
    "datasets",
    "errors",
    "fit_many",
    "from_keras",
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
    "reference",
    "schedules",
    "set_num_threads",
    "show_config",
]


def __getattr__(name: str) -> Any:
    # The reference is for reading and checking: it is imported when it is asked for.
    if name == "reference":
        from importlib import import_module

        return import_module("ranvier.reference")
    raise AttributeError(f"module 'ranvier' has no attribute {name!r}")
