"""The commands, their options and examples."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from .. import export
from .._core import __version__, names
from ..quantization import RANGES
from ._types import (
    above_zero,
    layers,
    percentile,
    positive,
    rate,
    seed,
    separator,
    share,
    widths,
    words,
    zero_or_more,
)

# By which ending of a file's name a format of `ranvier.export` is known.
ENDINGS = {".onnx": "onnx", ".c": "c", ".py": "numpy"}

_EXAMPLES = """examples:
  ranvier train houses.csv --target price --out model.safetensors
  ranvier predict model.safetensors new.csv -o prices.csv
  ranvier evaluate model.safetensors test.csv
  ranvier inspect model.safetensors
  ranvier COMMAND --help           options and examples of a command

exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted
"""
_DATA = "CSV (.csv, .tsv, compressed or not), Parquet (.parquet), or - for CSV on standard input"


def parser() -> argparse.ArgumentParser:
    """What the command line takes."""
    top = argparse.ArgumentParser(
        prog="ranvier",
        description="Dense neural networks on the CPU.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"ranvier {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: str, text: str, examples: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        return command

    _train(add)
    _predict(add)
    _evaluate(add)
    _inspect(add)
    _quantize(add)
    if formats():
        _export(add)
    _check(add)
    _bench(add)
    demo = add(
        "demo",
        "_demo:run",
        "train on the bundled handwritten digits and check against the reference",
        "  ranvier demo\n  ranvier demo --plot curves.png    needs ranvier[plot]\n",
    )
    demo.add_argument("--epochs", type=positive, default=60, metavar="N", help="default 60")
    _seed_option(demo)
    _threads_option(demo)
    demo.add_argument("--plot", metavar="FILE", help="write the loss curves (png, svg)")
    _json_option(demo)
    shown = add(
        "config",
        "_inspect:configuration",
        "show versions, instruction set, threads",
        "  ranvier config --json\n",
    )
    _json_option(shown)
    return top


def _train(add: Callable[..., argparse.ArgumentParser]) -> None:
    command = add(
        "train",
        "_train:run",
        "train a network on a table and save it",
        "  ranvier train houses.csv --target price --out model.safetensors\n"
        "  ranvier train houses.parquet --target price --hidden 128,128 --epochs 50 --out m.st\n"
        "  ranvier train iris.csv --target species --task classification --plot curves.png "
        "--out m.st\n"
        "  cat houses.csv | ranvier train - --target price --json --out m.st\n",
    )
    command.add_argument("data", metavar="DATA", help=_DATA)
    command.add_argument("--target", required=True, metavar="COLUMN", help="what to predict")
    command.add_argument("--out", "-o", required=True, metavar="FILE", help="the model file")
    table = command.add_argument_group("the table")
    table.add_argument(
        "--task",
        choices=["classification", "regression"],
        help="default: texts, truth values, two numbers and up to ten whole ones, with five rows "
        "each or more, are classes; other numbers are a quantity",
    )
    for name, text in (
        ("categorical", "columns of categories, also where they hold numbers"),
        ("ignore", "columns to leave out"),
    ):
        table.add_argument(f"--{name}", type=words, default=[], metavar="COLUMNS", help=text)
    _table_options(table)
    table.add_argument(
        "--missing",
        action="append",
        default=[],
        metavar="TEXT",
        help="what means a missing value besides nothing, NA, NaN, null and the like; again for "
        "more",
    )
    table.add_argument(
        "--validation-split",
        type=share,
        metavar="SHARE",
        help="of the rows, held out for validation; default 0.2, 0 for none",
    )
    table.add_argument(
        "--validation-data", metavar="DATA", help="a table to validate on in their place"
    )
    network = command.add_argument_group("the network and its training")
    network.add_argument(
        "--hidden",
        type=widths,
        default=(64, 64),
        metavar="WIDTHS",
        help='of the hidden layers; default 64,64, "" for none',
    )
    network.add_argument(
        "--activation",
        default="silu",
        choices=sorted(names("activation")),
        metavar="NAME",
        help=f"of the hidden layers: {', '.join(sorted(names('activation')))}; default silu",
    )
    network.add_argument(
        "--dropout", type=rate, default=0.2, metavar="RATE", help="behind each; default 0.2"
    )
    network.add_argument("--epochs", type=positive, default=100, metavar="N", help="default 100")
    network.add_argument(
        "--patience",
        type=positive,
        default=20,
        metavar="N",
        help="end after so many epochs without a better validation loss; default 20",
    )
    network.add_argument(
        "--batch-size",
        type=positive,
        metavar="ROWS",
        help="default: a 16th part of the rows, 16 to 256",
    )
    network.add_argument(
        "--learning-rate",
        type=above_zero,
        default=2e-3,
        metavar="RATE",
        help="of AdamW, falling to 0 along a cosine; default 0.002",
    )
    network.add_argument(
        "--class-weight",
        choices=["balanced"],
        help="balanced: rows count by how rare their class is, all classes alike; default: rows "
        "count alike",
    )
    network.add_argument(
        "--weight-decay", type=zero_or_more, default=0.1, metavar="RATE", help="default 0.1"
    )
    network.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    _seed_option(network)
    _threads_option(network)
    command.add_argument("--plot", metavar="FILE", help="write the loss curves (png, svg, pdf)")
    command.add_argument("--quiet", "-q", action="store_true", help="no progress")
    _json_option(command)


def _predict(add: Callable[..., argparse.ArgumentParser]) -> None:
    command = add(
        "predict",
        "_apply:predict",
        "predict the rows of a table",
        "  ranvier predict model.safetensors new.csv -o out.csv\n"
        "  ranvier predict model.safetensors new.parquet --probabilities -o out.parquet\n"
        "  cat new.csv | ranvier predict model.safetensors - --keep id\n",
    )
    _model_argument(command)
    command.add_argument("data", metavar="DATA", help=_DATA)
    command.add_argument(
        "--out",
        "-o",
        default="-",
        metavar="FILE",
        help="CSV (.csv, .tsv) or Parquet (.parquet), by the ending; default: CSV on standard "
        "output",
    )
    command.add_argument(
        "--probabilities", action="store_true", help="a column for each class as well"
    )
    command.add_argument(
        "--keep",
        type=words,
        default=[],
        metavar="COLUMNS",
        help="columns of the table to write in front",
    )
    _table_options(command)
    _threads_option(command)
    _json_option(command)


def _evaluate(add: Callable[..., argparse.ArgumentParser]) -> None:
    command = add(
        "evaluate",
        "_apply:evaluate",
        "compare the predictions of a table with its target",
        "  ranvier evaluate model.safetensors test.csv\n"
        "  ranvier evaluate model.safetensors test.csv --json\n",
    )
    _model_argument(command)
    command.add_argument("data", metavar="DATA", help=_DATA)
    _table_options(command)
    _threads_option(command)
    _json_option(command)


def _inspect(add: Callable[..., argparse.ArgumentParser]) -> None:
    command = add(
        "inspect",
        "_inspect:run",
        "show what a model file holds",
        "  ranvier inspect model.safetensors\n"
        "  ranvier inspect model.safetensors --json\n"
        "  ranvier inspect model.safetensors --plot curves.png\n",
    )
    _model_argument(command)
    command.add_argument("--plot", metavar="FILE", help="write the loss curves (png, svg, pdf)")
    _json_option(command)


def _quantize(add: Callable[..., argparse.ArgumentParser]) -> None:
    command = add(
        "quantize",
        "_quantize:run",
        "write a model whose layers multiply 8-bit integers",
        "  ranvier quantize model.safetensors houses.csv -o small.safetensors\n"
        "  ranvier quantize model.safetensors houses.csv --calibration percentile "
        "--keep-float first,last -o small.st\n",
    )
    _model_argument(command)
    command.add_argument(
        "data", metavar="DATA", help=f"typical rows, with the target or without: {_DATA}"
    )
    command.add_argument("--out", "-o", required=True, metavar="FILE", help="the model file")
    command.add_argument(
        "--calibration",
        choices=[*RANGES],
        default="min_max",
        help="what the integers reach of a layer's inputs: all, all but outliers, or where "
        "rounding and clipping err least; default min_max",
    )
    command.add_argument(
        "--percentile",
        type=percentile,
        metavar="P",
        help="of --calibration percentile, from 50 to 100; default 99.99",
    )
    command.add_argument(
        "--keep-float",
        type=layers,
        default=[],
        metavar="LAYERS",
        help="dense layers that stay as they are: first, last, or numbers that inspect shows",
    )
    _table_options(command)
    _json_option(command)


def formats() -> list[str]:
    """What a model can be written as: the functions of `ranvier.export`."""
    return [name for name in export.__all__ if name.islower()]


def _export(add: Callable[..., argparse.ArgumentParser]) -> None:
    command = add(
        "export",
        "_export:run",
        "write a model for another place",
        "".join(
            f"  ranvier export model.safetensors --format {name} --out model{ending} --check\n"
            for ending, name in ENDINGS.items()
            if name in formats()
        ),
    )
    _model_argument(command)
    command.add_argument("--out", "-o", required=True, metavar="FILE", help="the file to write")
    command.add_argument(
        "--format", choices=formats(), help="default: by the ending of the file's name"
    )
    command.add_argument(
        "--check", action="store_true", help="print how far it agrees with the model when it runs"
    )
    command.add_argument(
        "--data", metavar="DATA", help="a table whose rows are run; default: drawn rows"
    )
    _table_options(command)
    _json_option(command)


def _check(add: Callable[..., argparse.ArgumentParser]) -> None:
    command = add(
        "check",
        "_check:run",
        "compare a model with the reference in plain Python, number by number",
        "  ranvier check model.safetensors\n"
        "  ranvier check model.safetensors test.csv --rows 64 --steps 3\n",
    )
    _model_argument(command)
    command.add_argument("data", nargs="?", metavar="DATA", help=f"{_DATA}; default: drawn rows")
    command.add_argument("--rows", type=positive, default=32, metavar="N", help="default 32")
    command.add_argument(
        "--steps",
        type=positive,
        metavar="N",
        help="training steps; default 3, none of a quantised model",
    )
    _seed_option(command)
    _table_options(command)
    _json_option(command)


def _bench(add: Callable[..., argparse.ArgumentParser]) -> None:
    command = add(
        "bench",
        "_bench:run",
        "measure how fast training and prediction are here",
        "  ranvier bench\n  ranvier bench --seconds 2 --threads 1 --json\n",
    )
    command.add_argument(
        "--seconds",
        type=above_zero,
        default=0.5,
        metavar="S",
        help="for each measurement; default 0.5",
    )
    _threads_option(command)
    _json_option(command)


def _model_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="a model file")


def _table_options(command: Any) -> None:
    command.add_argument(
        "--separator",
        type=separator,
        metavar="CHARACTER",
        help="between the columns of a CSV file, or tab; default: a comma, in .tsv a tab",
    )


def _seed_option(command: Any) -> None:
    command.add_argument("--seed", type=seed, default=0, metavar="N", help="default 0")


def _threads_option(command: Any) -> None:
    command.add_argument("--threads", type=positive, metavar="N", help="default: all cores")


def _json_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print one JSON document")
