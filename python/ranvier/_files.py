"""Model files: definitions as JSON, torch's names for parameters, and what both are for.

A file is safetensors. Its metadata holds, besides the checksum,

- "ranvier.kind": "model" or "run"
- "ranvier.version" and "ranvier.numerics": the library's and the arithmetic's
- "ranvier.model": layers, input_size, seed, dtype
- "ranvier.run", in a run's: everything else that going on needs
- "ranvier.table" and "ranvier.training", in those of the command line: how a table becomes the
  input (`_table.py`), and how the model was trained.

Nothing in a file is executed: classes are looked up in a closed list, and their constructors check
every option.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from os import PathLike, fspath
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from . import _core, activations, initializers, layers, losses, metrics, optimizers, schedules
from ._arrays import Array
from .errors import ArgumentError, DTypeError, FileFormatError, RanvierError

Path: TypeAlias = str | PathLike[str]

_MODULES: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (activations, initializers, layers, losses, metrics, optimizers, schedules)
}
_CLASSES: dict[str, type] = {
    f"{home}.{kind.__name__}": kind
    for home, module in _MODULES.items()
    for kind in vars(module).values()
    if isinstance(kind, type) and is_dataclass(kind) and kind.__module__ == module.__name__
}
_NAMES = {kind: name for name, kind in _CLASSES.items()}


class Opaque:
    """Something of the user's in a definition, of which a file only keeps how it looked."""

    def __init__(self, text: str) -> None:
        self.text = text


def encode(value: Any) -> Any:
    """A definition, or an option of one, as JSON takes it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [encode(entry) for entry in value]
    if type(value) in _NAMES and not isinstance(value, schedules.Function | metrics.Function):
        options = {f.name: encode(getattr(value, f.name)) for f in fields(value) if f.init}
        return {"class": _NAMES[type(value)], "options": options}
    return {"opaque": repr(value)}


def decode(value: Any) -> Any:
    """The inverse of `encode`; what the user brought becomes an `Opaque`."""
    if isinstance(value, list):
        return tuple(decode(entry) for entry in value)
    if not isinstance(value, dict):
        return value
    if set(value) == {"opaque"} and isinstance(value["opaque"], str):
        return Opaque(value["opaque"])
    if set(value) != {"class", "options"} or not isinstance(value["options"], dict):
        raise ValueError(f"a definition with the keys {sorted(value)}")
    kind = _CLASSES.get(value["class"]) if isinstance(value["class"], str) else None
    if kind is None:
        raise ValueError(f"the class {value['class']!r}")
    options = {name: decode(option) for name, option in value["options"].items()}
    opaque = [option for option in options.values() if isinstance(option, Opaque)]
    return opaque[0] if opaque else kind(**options)


def path_of(path: Any, name: str = "path") -> str:
    """A path as a string."""
    if not isinstance(path, str | PathLike):
        raise DTypeError(f"{name}: expected a path, got {path!r}")
    text = fspath(path)
    if not isinstance(text, str):
        raise DTypeError(f"{name}: expected a path of text, got {path!r}")
    if "\0" in text:
        raise ArgumentError(f"{name}: expected a path without null characters, got {text!r}")
    return text


def torch_names(definitions: tuple[layers.Layer, ...], names: list[str]) -> list[str]:
    """Where a `torch.nn.Sequential` of the same layers has the parameters of these names.

    A Dense layer with an activation is two modules there: Linear and the activation.
    """
    modules = []
    count = 0
    for layer in definitions:
        modules.append(count)
        activated = isinstance(layer, layers.Dense) and activations.spec(layer.activation)[0]
        count += 2 if activated and activated != "identity" else 1
    mapped = []
    for name in names:
        number, _, role = name.partition(".")
        module = modules[int(number)]
        if role == "slope":
            module += isinstance(definitions[int(number)], layers.Dense)
            role = "weight"
        mapped.append(f"{module}.{role}")
    return mapped


def counters(names: list[str]) -> list[str]:
    """What torch's BatchNorm keeps beside the parameters of these names."""
    means = [name for name in names if name.endswith(".running_mean")]
    return [name.replace("running_mean", "num_batches_tracked") for name in means]


def contents(
    path: str | None,
    definitions: tuple[layers.Layer, ...],
    tables: tuple[Any, Any],
    metadata: dict[str, Any],
    weights: str | None = None,
) -> dict[str, Any]:
    """What the core needs for writing a file; without a path it returns the bytes."""
    place = None if path is None else pathlib.Path(path)
    if place is not None and place.exists() and not place.is_file():
        # Renaming would put a file in the place of a device.
        kind = "the folder" if place.is_dir() else "a pipe or device,"
        raise ArgumentError(f"path: expected a file's name, got {kind} {path}")
    names = torch_names(definitions, [name for table in tables for name, _ in table])
    texts = {"format": "pt", "ranvier.version": _core.__version__}
    texts["ranvier.numerics"] = str(_core.NUMERICS_VERSION)
    texts |= {
        key: value if isinstance(value, str) else dumps(value) for key, value in metadata.items()
    }
    return {
        "path": path,
        "metadata": list(texts.items()),
        "counters": [(name, 0) for name in counters(names)],
        "names": names,
        "weights": weights,
    }


def dumps(value: Any) -> str:
    """JSON; floats come back with the same bits."""
    return json.dumps(value, separators=(",", ":"))


class Reader:
    """A file that is being taken apart; whatever is wrong with it is a FileFormatError."""

    def __init__(self, source: Path | bytes) -> None:
        path = None if isinstance(source, bytes) else path_of(source)
        self.name = "the bytes" if path is None else path
        self.file = _core.File(path, source if isinstance(source, bytes) else None, True)
        self.metadata = self.file.metadata()
        numerics = self.metadata.get("ranvier.numerics", "")
        if numerics != str(_core.NUMERICS_VERSION):
            raise self.fault(f"numerics version {numerics!r}, where this ranvier has 1")

    def fault(self, what: str) -> FileFormatError:
        """What to raise."""
        return FileFormatError(f"{self.name}: expected a file of ranvier's, got {what}")

    def take(self, key: str, build: Callable[[dict[str, Any]], Any]) -> Any:
        """What `build` makes of the object under a key."""
        if key not in self.metadata:
            raise self.fault(f"no {key} in its metadata")
        try:
            entry = json.loads(self.metadata[key])
            if not isinstance(entry, dict):
                raise ValueError(f"{type(entry).__name__} in place of an object")
            return build(entry)
        except FileFormatError:
            raise
        except (RanvierError, ValueError, TypeError, KeyError, RecursionError, OverflowError) as e:
            text = f"no {e.args[0]!r}" if isinstance(e, KeyError) and e.args else str(e)
            raise self.fault(f"{key} with {text[:300]}") from e

    def refuse_others(self, names: list[str], trained: int) -> None:
        """Refuses tensors that belong to none of these names, of which the first ones train."""
        expected = {*names, *counters(names)}
        if self.metadata.get("ranvier.kind") == "run":
            expected |= {prefix + name for prefix in _core.names("prefix") for name in names}
        tensors = [name for name, _, _ in self.file.tensors()]
        expected |= {
            f"{name}_scale"
            for name, dtype, _ in self.file.tensors()
            if dtype == "I8" and name in names
        }
        for number in range(len(tensors) if self.metadata.get("ranvier.kind") == "run" else 0):
            own = names[:trained]
            pair = {f"{p}{number}.{name}" for p in _core.names("pairs") for name in own}
            if not pair.issubset(tensors):
                break
            expected |= pair
        for name in tensors:
            if name not in expected:
                raise self.fault(f"a tensor {name!r} that belongs to no parameter")


def tuples(value: Any) -> Any:
    """Lists of JSON as the tuples that they were."""
    return tuple(tuples(entry) for entry in value) if isinstance(value, list) else value


def fingerprint(arrays: dict[str, Any]) -> str:
    """What tells data from other data: shapes, types and sixteen rows."""
    parts = []
    for name in ("x", "values", "labels", "weights", "own"):
        array = arrays.get(name)
        if array is None:
            continue
        rows = sorted({i * (len(array) - 1) // 15 for i in range(16)})
        some: Array = np.asarray(array.iloc[rows] if hasattr(array, "iloc") else array[rows])
        parts.append(f"{name} {array.shape} {some.dtype.str}".encode())
        parts.append(repr(some.tolist()).encode() if some.dtype.hasobject else some.tobytes())
    return _core.digest(b"\0".join(parts))
