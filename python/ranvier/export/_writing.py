"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path


def write_all(files: Mapping[str, bytes]) -> None:
    """Writes files beside their places, syncs them, then renames all.

    What was there stays if anything fails before the first of the renames. The umask holds. An
    OSError names the file that was to be written.
    """
    umask = os.umask(0)
    os.umask(umask)
    written: list[tuple[str, str]] = []
    path = ""
    try:
        for path, content in files.items():
            place = Path(path)
            number, beside = tempfile.mkstemp(
                dir=place.parent, prefix=f".{place.name}.", suffix=".tmp"
            )
            written.append((beside, path))
            with os.fdopen(number, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(number)
            Path(beside).chmod(0o666 & ~umask)
        while written:
            beside, path = written[0]
            Path(beside).replace(path)
            written.pop(0)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        for beside, _ in written:
            with contextlib.suppress(OSError):
                Path(beside).unlink()
