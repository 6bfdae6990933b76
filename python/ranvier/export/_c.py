"""`ranvier.export.c`: a network as C99."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._arrays import Array, boolean
from .._files import Path as PathLike
from .._files import path_of
from .._predictor import checked_predictor
from ..errors import ArgumentError, DTypeError
from ._agreement import Agreement, compared, not_run, rows_of
from ._c_text import Text
from ._writing import write_all

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ..model import Sequential
    from ..quantization import QuantizedSequential

# Rows of a self-test.
_TESTED = 4
# Compilers in the order in which they are looked for, after the one that CC names.
_COMPILERS = ("cc", "gcc", "clang")
_FLAGS = ("-std=c99", "-O2")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# Headers of C99, which one of the same name would hide.
_HEADERS = re.compile(
    "assert|complex|ctype|errno|fenv|float|inttypes|iso646|limits|locale|math|setjmp|signal|stdarg|"
    "stdbool|stddef|stdint|stdio|stdlib|string|tgmath|time|wchar|wctype"
)


def c(
    model: Sequential | QuantizedSequential,
    path: PathLike,
    *,
    name: str | None = None,
    self_test: bool = False,
    X: ArrayLike | None = None,
    check: bool = True,
) -> Agreement:
    """Writes a network as C99: a source, and a header beside it.

    The code needs nothing but `math.h`, allocates nothing and keeps no state. It has two functions,
    `name_predict` for a row and `name_predict_batch` for several, and three macros, `NAME_INPUTS`,
    `NAME_OUTPUTS` and `NAME_SCRATCH`; the header says how to call and to compile them. The values
    between the layers lie in an array of the caller's, the scratch, so that the need of stack is
    small and the same whatever the widths.

    Its outputs have the same bits as `model.predict` for the same rows in the model's dtype: each
    output is the same chain of fused multiply-adds, and exp, tanh and the like are the core's own.
    Where the compiler does not assume fused multiply-adds in hardware, say so (`-march=native`):
    by the C library they are several times slower. `-ffast-math` is refused. Other NaN than the
    core's may come out.

    A quantised network is called in the same way and has the same bits as its `predict`, too. Its
    weights are constants of one byte; inputs of a layer become bytes in the scratch, and inner
    loops are of integers alone.

    Args:
        model: a model that knows its input_size, or a quantised one. It is written as it predicts:
            Dropout and noise are no part of it.
        path: of the source, ending in ".c"; the header ends in ".h". Files there are replaced.
        name: what all names in the code begin with, a C identifier; None is the name of the file.
            Two networks in one program need names that differ in more than upper and lower case.
        self_test: also write `name_test.c`, a program with the first four rows and their outputs,
            which says whether the bits are the same where it is compiled.
        X: (rows, input_size), the rows to check and to put into the self-test; None draws some.
        check: compile the files by the compiler that the variable CC names, else by cc, gcc or
            clang, and run them on the rows.

    Returns:
        How far the outputs agree; without a compiler, why that is not known.

    Raises:
        ArgumentError, DTypeError, ShapeError: a value that the argument does not take.
        NotFittedError: the model does not know its input_size yet.
        OSError: the system refused, with its errno. Files that were there still are.

    Example:
        >>> import pathlib, tempfile, ranvier as rv
        >>> model = rv.Sequential([rv.Dense(8, activation="tanh"), rv.Dense(1)], input_size=2)
        >>> path = pathlib.Path(tempfile.mkdtemp(), "net.c")
        >>> agreement = rv.export.c(model, path)
        >>> agreement.bit_equal or agreement.rows == 0
        True
        >>> [line for line in path.with_suffix(".h").read_text().splitlines() if "#define" in line]
        ['#define NET_H', '#define NET_INPUTS 2', '#define NET_OUTPUTS 1', '#define NET_SCRATCH 8']
    """
    checked_predictor(model)._require()
    source = Path(path_of(path))
    if source.suffix != ".c":
        raise ArgumentError(f"path: expected a file whose name ends in .c, got {str(source)!r}")
    if re.search(r'["\\]|[^ -~]', source.stem):
        raise ArgumentError(f"path: expected a file name of plain characters, got {source.name!r}")
    if _HEADERS.fullmatch(source.stem):
        raise ArgumentError(f"path: expected a file that hides no header of C, got {source.name!r}")
    prefix = _prefix(name, source.stem)
    boolean(self_test, "self_test")
    boolean(check, "check")
    x = rows_of(model, X)
    text = Text(model, prefix, source.stem)
    contents = {source: text.source(), source.with_suffix(".h"): text.header()}
    if self_test:
        few = x[:_TESTED]
        contents[source.with_name(f"{source.stem}_test.c")] = text.test(few, model.predict(few))
    paths = tuple(map(str, contents))
    write_all({str(place): content.encode() for place, content in contents.items()})
    if not check:
        return not_run("c", paths, "check=False")
    return _checked(text, source.absolute(), paths, x, model.predict(x))


def _prefix(name: str | None, stem: str) -> str:
    """The name, if it is one."""
    if name is None:
        prefix = re.sub(r"[-. ]", "_", stem)
        hint = f", made of the file's name {stem!r}; pass name="
    elif isinstance(name, str):
        prefix, hint = name, ""
    else:
        raise DTypeError(f"name: expected a string or None, got {name!r}")
    if not _NAME.fullmatch(prefix):
        raise ArgumentError(
            "name: expected a C identifier of letters, digits and underscores that begins with a "
            f"letter, got {prefix!r}{hint}"
        )
    return prefix


def _compiler() -> list[str] | None:
    """The command of a compiler, if there is one."""
    asked = shlex.split(os.environ.get("CC", ""))
    for command in [asked] if asked else [[name] for name in _COMPILERS]:
        if found := shutil.which(command[0]):
            # Absolute, since it runs in another folder.
            return [str(Path(found).absolute()), *command[1:]]
    return None


def _checked(
    text: Text, source: Path, paths: tuple[str, ...], x: Array, expected: Array
) -> Agreement:
    """Compiles the files, runs the rows and compares."""
    compiler = _compiler()
    if compiler is None:
        asked = os.environ.get("CC")
        missing = f"CC names {asked!r}, which is not there" if asked else "no C compiler was found"
        return not_run("c", paths, missing)
    with tempfile.TemporaryDirectory(prefix="ranvier-") as folder:
        place = Path(folder)
        place.joinpath("main.c").write_text(text.driver(), encoding="utf-8")
        place.joinpath("rows").write_bytes(x.tobytes())
        files = ["main.c", str(source), "-I", str(source.parent), "-o", "run", "-lm"]
        commands = [[*compiler, *_FLAGS, *files], [str(place / "run"), "rows", "outputs"]]
        for command in commands:
            try:
                done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
            except OSError as error:
                return not_run("c", paths, f"{command[0]}: {error.strerror}")
            if done.returncode:
                said = done.stderr.decode(errors="replace").strip().splitlines() or [""]
                reason = f"{command[0]} ended with {done.returncode}: {said[0]}"
                return not_run("c", paths, reason)
        found = np.frombuffer(place.joinpath("outputs").read_bytes(), x.dtype)
    version = subprocess.run([*compiler, "--version"], capture_output=True, check=False).stdout
    runner = (version.decode(errors="replace").splitlines() or compiler)[0]
    return compared("c", paths, runner, expected, found.reshape(expected.shape))
