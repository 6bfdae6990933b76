"""The command line: `ranvier` and `python -m ranvier`.

Results go to stdout, messages and progress to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage,
130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from ..errors import RanvierError
from ._options import parser
from ._tables import check_separator

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0 done, 1 failed, 130 interrupted (2, wrong usage, exits)."""
    try:
        options = parser().parse_args(arguments)
        check_separator(options)
        return int(_command(options.run)(options))
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        return 130
    except BrokenPipeError:
        # The reader of our output has gone; there is nobody left to tell.
        return 1
    except (RanvierError, OSError, MemoryError) as error:
        sys.stderr.write(f"ranvier: {_said(error)}\n")
        return 1


def _command(name: str) -> Callable[[argparse.Namespace], int]:
    """The function of a command, from the module that has it: others stay unread."""
    module, _, function = name.partition(":")
    command: Callable[[argparse.Namespace], int] = getattr(
        import_module(f"{__name__}.{module}"), function
    )
    return command


def _said(error: Exception) -> str:
    """An error in one line."""
    if isinstance(error, OSError) and not isinstance(error, RanvierError) and error.strerror:
        return f"{error.filename or 'the standard output'}: {error.strerror}"
    return " ".join(str(error).split()) or "not enough memory"
