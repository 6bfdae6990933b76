"""`ranvier.export.numpy`: a network as one Python file."""

from __future__ import annotations

import base64
import inspect
import keyword
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from string import Template
from textwrap import indent, wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from .._arrays import Array, boolean
from .._files import Path as PathLike
from .._files import path_of
from .._predictor import Predictor, checked_predictor
from ..errors import ArgumentError
from . import _functions
from ._agreement import Agreement, compared, not_run, rows_of
from ._steps import Step, steps_of
from ._writing import write_all

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ..model import Sequential
    from ..quantization import QuantizedSequential

# Arrays up to this size are numbers that one can read; others are the text of their bytes.
_READABLE = 256
# Characters in a line.
_WIDTH = 100

_FILE = Template('''\
"""A dense network: $inputs inputs, $outputs outputs, $parameters parameters, $dtype.

Written by ranvier $version (numerics version $numerics) from

$model

It needs NumPy alone.

    >>> import numpy as np
    >>> from $module import predict
    >>> predict(np.zeros((1, $inputs))).shape
    (1, $outputs)

`python $module.py rows.csv` prints the outputs for the rows of a file without a heading.
"""

$imports

import numpy as np


$definitions@np.errstate(all="ignore")
def predict(X):
    """Outputs (rows, $outputs) for X (rows, $inputs). NaN gives NaN, in its own row."""
    a = np.array(X, np.$taken)
    if a.ndim != 2 or a.shape[1] != $inputs:
        raise ValueError(f"X: expected shape (rows, $inputs), got {a.shape}")
$body    return a


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python $module.py rows.csv")
    rows = np.loadtxt(sys.argv[1], delimiter=",", ndmin=2)
    np.savetxt(sys.stdout, predict(rows), delimiter=",", fmt="%.${digits}g")
''')

# Makes an array of what `_array` writes.
_DECODER = '''\
def array(text, dtype, *shape):
    """The numbers of a text: base64 of their bytes."""
    return np.frombuffer(base64.b64decode(text), dtype).reshape(shape)
'''

# What a step does to `a`, where that is no function of _functions.py.
_LINES = {
    "dense": "a @ {weight} + {bias}",
    "integer_dense": "(integer_sums(a, {number}, {zero}, {weight}) * {factor} + {bias})"
    ".astype({dtype})",
    "standardize": "(a - {mean}).astype({dtype}) * {factor}",
    "put_back": "a * {deviation} + {mean}",
    "batch_norm": "(a - {mean}) * {factor} * {weight} + {bias}",
}

# Names of what code calls.
_CALLED = re.compile(r"(?<![.\w])\w+(?=\()")

# Runs rows of standard input by the file that is named.
_DRIVER = """\
import platform, runpy, sys
import numpy as np
path, dtype, columns = sys.argv[1:]
predict = runpy.run_path(path)["predict"]
found = predict(np.frombuffer(sys.stdin.buffer.read(), dtype).reshape(-1, int(columns)))
assert found.dtype == dtype, found.dtype
sys.stdout.buffer.write(f"Python {platform.python_version()}, NumPy {np.__version__}\\n".encode())
sys.stdout.buffer.write(found.tobytes())
"""


def numpy(
    model: Sequential | QuantizedSequential,
    path: PathLike,
    *,
    X: ArrayLike | None = None,
    check: bool = True,
) -> Agreement:
    """Writes a network as one Python file that needs NumPy alone.

    The file has the parameters, the functions that the network needs, and `predict(X)`. It can be
    imported, read, and run on a CSV file. Arrays up to 256 values are decimal numbers that give the
    same bits back, longer ones base64 of their bytes: half as long as decimals, and read at once.

    Products are NumPy's, whose sums have no fixed order, and so are exp and tanh: outputs agree
    with `model.predict` up to rounding, and may differ between machines. For the same bits see
    `ranvier.export.c`.

    Of a quantised network sums of products are exact, and so their bits the same. Where what comes
    before a layer is rounded otherwise, an input halfway between two integers may become the other
    one, which moves outputs by a step of that input.

    Args:
        model: a model that knows its input_size, or a quantised one. It is written as it predicts:
            Dropout and noise are no part of it.
        path: of the file, whose name ends in ".py" and can be imported. A file there is replaced.
        X: (rows, input_size), the rows to check; None draws some.
        check: run the file on the rows in an interpreter of its own.

    Returns:
        How far the outputs agree.

    Raises:
        ArgumentError, DTypeError, ShapeError: a value that the argument does not take.
        NotFittedError: the model does not know its input_size yet.
        OSError: the system refused, with its errno. A file that was there still is.

    Example:
        >>> import pathlib, tempfile, ranvier as rv
        >>> model = rv.Sequential([rv.Dense(8, activation="tanh"), rv.Dense(1)], input_size=2)
        >>> path = pathlib.Path(tempfile.mkdtemp(), "net.py")
        >>> agreement = rv.export.numpy(model, path)
        >>> agreement.max_error <= 1e-6 * agreement.scale
        True
    """
    checked_predictor(model)._require()
    place = Path(path_of(path))
    name = place.stem
    if place.suffix != ".py" or not name.isidentifier() or keyword.iskeyword(name):
        raise ArgumentError(
            "path: expected a file that Python can import, such as 'network.py', "
            f"got {place.name!r}"
        )
    if name in ("numpy", *sys.stdlib_module_names):
        raise ArgumentError(
            f"path: expected a file that hides no module of Python's or NumPy, got {place.name!r}"
        )
    boolean(check, "check")
    x = rows_of(model, X)
    write_all({str(place): _text(model, name).encode()})
    if not check:
        return not_run("numpy", (str(place),), "check=False")
    return _checked(str(place), x, model.predict(x))


def _text(model: Predictor, module: str) -> str:
    """The file."""
    steps = steps_of(model)
    arrays = [
        _array(f"{role}_{step.layer}", array)
        for step in steps
        for role, array in step.arrays.items()
    ]
    body = _body(model, steps)
    functions = _sources(_CALLED.findall(body))
    decoder = [_DECODER] if any(" = array(" in array for array in arrays) else []
    definitions = [*decoder, "\n".join(arrays), *functions]
    math = any("math." in function for function in functions)
    used = {"base64": bool(decoder), "math": math, "sys": True}
    standard = bool(steps) and steps[0].function == "standardize"
    return _FILE.substitute(
        inputs=model.input_size,
        outputs=model.output_size,
        parameters=f"{model.n_parameters:,}",
        dtype=model.dtype.name,
        version=_core.__version__,
        numerics=_core.NUMERICS_VERSION,
        model=indent("\n".join(wrap(repr(model), _WIDTH - 4, break_on_hyphens=False)), "    "),
        module=module,
        imports="\n".join(f"import {name}" for name, needed in used.items() if needed),
        definitions="".join(f"{text.strip()}\n\n\n" for text in definitions if text),
        # Less the mean in float64 with one rounding, as ranvier does.
        taken="float64" if standard else model.dtype.name,
        body=body,
        digits=17 if model.dtype == np.float64 else 9,
    )


def _array(name: str, array: Array) -> str:
    """An assignment."""
    dtype = array.dtype
    if array.size > _READABLE or not np.isfinite(array).all():
        stored = array.astype(dtype.newbyteorder("<"))
        data = base64.b64encode(stored.tobytes()).decode()
        lines = [data[i : i + _WIDTH] for i in range(0, len(data), _WIDTH)]
        shape = ", ".join(map(str, array.shape))
        return "\n".join([f'{name} = array("""', *lines, f'""", "{stored.dtype.str}", {shape})'])
    if array.ndim == 1:
        return f"{name} = np.array({_row(array, _WIDTH - 50)}, np.{dtype.name})"
    body = "".join(indent(f"{_row(row, _WIDTH - 5)},\n", "    ") for row in array)
    return f"{name} = np.array([\n{body}], np.{dtype.name})"


def _row(values: Array, room: int) -> str:
    """A list of numbers in as few digits as give them back, in one line where there is room."""
    numbers = [_number(value) for value in values]
    line = f"[{', '.join(numbers)}]"
    if len(line) <= room:
        return line
    lines = wrap(", ".join(numbers), _WIDTH - 8, break_on_hyphens=False)
    return "\n".join(["[", *(f"    {each}" for each in lines), "]"])


def _number(value: Any) -> str:
    text = str(value)
    # Rounded twice, by way of float64, a decimal may be another float32.
    return text if value.dtype.type(float(text)) == value else repr(float(value))


def _sources(needed: Iterable[str]) -> list[str]:
    """The source of functions of _functions.py and of those that they call."""
    # Types are for the checks of this package.
    sources = {
        name: re.sub(r": (Array|float|int)(?=[,)])| -> Array", "", inspect.getsource(value))
        for name, value in vars(_functions).items()
        if inspect.isfunction(value)
    }
    found: set[str] = set()
    waiting = list(needed)
    while waiting:
        name = waiting.pop()
        if name in sources and name not in found:
            found.add(name)
            waiting += _CALLED.findall(re.sub(r'""".*?"""', "", sources[name]))
    return [source for name, source in sources.items() if name in found]


def _body(model: Predictor, steps: list[Step]) -> str:
    """The lines of `predict`."""
    lines = []
    of = model.dtype.type
    layer = -1
    for step in steps:
        if step.layer != layer:
            layer = step.layer
            comment = wrap(f"{layer}: {model.layers[layer]!r}", _WIDTH - 6, break_on_hyphens=False)
            lines += [f"# {line}" for line in comment]
        arrays = {role: f"{role}_{layer}" for role in step.arrays}
        number = [] if step.number is None else [_number(of(step.number))]
        if line := _LINES.get(step.function):
            if "bias" not in arrays:
                line = line.replace(" + {bias}", "")
            names = arrays | {"dtype": f"np.{model.dtype.name}", "number": "".join(number)}
            lines.append(f"a = {line.format(**names, zero=step.zero)}")
        else:
            lines.append(f"a = {step.function}({', '.join(['a', *number, *arrays.values()])})")
    return "".join(f"    {line}\n" for line in lines)


def _checked(path: str, x: Array, expected: Array) -> Agreement:
    """Runs the rows by the file and compares."""
    if not sys.executable:
        return not_run("numpy", (path,), "this program knows no Python interpreter to run it by")
    command = [sys.executable, "-I", "-c", _DRIVER, path, x.dtype.name, str(x.shape[1])]
    done = subprocess.run(command, input=x.tobytes(), capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or [""]
        return not_run(
            "numpy", (path,), f"{sys.executable} ended with {done.returncode}: {said[-1]}"
        )
    runner, _, data = done.stdout.partition(b"\n")
    found = np.frombuffer(data, x.dtype).reshape(expected.shape)
    return compared("numpy", (path,), runner.decode(), expected, found)
