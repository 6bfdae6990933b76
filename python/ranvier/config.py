"""Threads, instruction set, versions."""

from __future__ import annotations

import platform
import sys
from typing import Any

import numpy as np

from . import _core
from ._arrays import integer

__all__ = ["config", "get_num_threads", "set_num_threads", "show_config"]


def get_num_threads() -> int:
    """Number of threads that a call may use.

    What `set_num_threads` said, else RANVIER_NUM_THREADS, else OMP_NUM_THREADS, else the cores that
    affinity and quota leave to this process. Results do not depend on it.

    Raises:
        ArgumentError: RANVIER_NUM_THREADS is not an integer from 1 to 4096.
    """
    return _core.get_num_threads()


def set_num_threads(num_threads: int) -> None:
    """Sets the number of threads of this process from the next call on.

    Args:
        num_threads: 1 to 4096; taken as it is, above the number of cores too.

    Example:
        >>> import ranvier as rv
        >>> before = rv.get_num_threads()
        >>> rv.set_num_threads(1)
        >>> rv.get_num_threads()
        1
        >>> rv.set_num_threads(before)
    """
    _core.set_num_threads(integer(num_threads, "num_threads", least=1, most=4096))


def config() -> dict[str, Any]:
    """Versions, instruction set and threads, as `show_config` prints them."""
    return {
        "ranvier": _core.__version__,
        "numerics": _core.NUMERICS_VERSION,
        "isa": _core.isa(),
        "available_isas": _core.available_isas(),
        "bf16": "native" if _core.bf16_native() else "emulated",
        "int8": "native" if _core.int8_native() else "emulated",
        "threads": get_num_threads(),
        "optimized": _core.OPTIMIZED,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": f"{sys.platform}-{platform.machine()}",
    }


def show_config() -> None:
    """Prints `config` to stdout, a line for each entry."""
    for key, value in config().items():
        shown = ", ".join(value) if isinstance(value, list) else value
        sys.stdout.write(f"{key:>14}: {shown}\n")
