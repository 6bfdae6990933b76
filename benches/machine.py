"""What a time depends on besides the program."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe() -> str:
    """The processor and its cores."""
    model = _cpuinfo("model name") or platform.processor() or platform.machine()
    count = cores()
    return f"{model}, {count} core{'s' if count > 1 else ''}"


def today() -> str:
    """The date of a table."""
    return datetime.date.today().isoformat()


def isa() -> str:
    """The instruction set that Ranvier detects."""
    try:
        import ranvier
    except ModuleNotFoundError:
        return "ranvier not installed"
    return str(ranvier.config()["isa"])


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
