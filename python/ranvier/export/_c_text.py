"""The text of an exported network in C: header, source, self-test, and the driver of a check."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files
from string import Template
from textwrap import wrap

from .. import _core
from .._arrays import Array
from .._predictor import Predictor
from ._coefficients import coefficients
from ._steps import Step, steps_of

_COMMENT = re.compile(r"/\*.*?\*/\n?", re.DOTALL)
_TOKEN = re.compile(r"/\*.*?\*/|[A-Za-z_]\w*|\d+\.\d+", re.DOTALL)
_DEFINED = re.compile(r"(?:static|enum)[^(=]*?(\w+)(?:\(| = )|typedef .*\} (\w+);", re.DOTALL)
# Steps that are a function of the row; the others are functions of one number.
_OF_ROWS = ("dense", "layer_norm", "batch_norm", "softmax", "standardize", "put_back")
# Characters in a line.
_WIDTH = 100

_HEADER = Template("""\
/* $name: a dense network, $inputs inputs, $outputs outputs, $parameters parameters, $real.
 *
 * Written by ranvier $version (numerics version $numerics) from
 *
$model
 *
 * To call it:
 *
 *     $real x[${NAME}_INPUTS], out[${NAME}_OUTPUTS], scratch[${NAME}_SCRATCH];
 *     ${name}_predict(x, out, scratch);
 *
 * To compile it: C99 or C++17, nothing but the C library's math.h. Vectors and fused multiply-adds
 * in hardware make it many times faster; where the compiler does not assume them, ask for them (on
 * x86-64 by -march=native or -march=x86-64-v3):
 *
 *     cc -std=c99 -O3 -march=native -c $file.c
 *
 * Outputs have the same bits as those of `predict` in ranvier for the same row of $real, where
 * arithmetic is that of IEEE 754, rounded to nearest, subnormal numbers included, and $fma rounds
 * once. All NaN count as one. $file.c refuses options such as -ffast-math.
 *
 * Nothing is allocated and nothing is kept between calls: threads may call at once, each with a
 * scratch of its own. x, out and scratch must not overlap. */
#ifndef ${NAME}_H
#define ${NAME}_H

#include <stddef.h>

#define ${NAME}_INPUTS $inputs
#define ${NAME}_OUTPUTS $outputs
/* Numbers between the layers. What the scratch holds before and after a call does not matter. */
#define ${NAME}_SCRATCH $scratch

#ifdef __cplusplus
extern "C" {
#endif

/* The outputs for one row. */
void ${name}_predict(const $real x[${NAME}_INPUTS], $real out[${NAME}_OUTPUTS],
        $real scratch[${NAME}_SCRATCH]);

/* The outputs for rows that lie one behind the other: x is (rows, ${NAME}_INPUTS), out is
 * (rows, ${NAME}_OUTPUTS). No row depends on another. */
void ${name}_predict_batch(const $real *x, size_t rows, $real *out,
        $real scratch[${NAME}_SCRATCH]);

#ifdef __cplusplus
}
#endif

#endif
""")

_SOURCE = Template("""\
/* The network of $file.h, which says what it is and how to call and compile it. */
#include "$file.h"

#include <float.h>
#include <math.h>
#include <stdint.h>

/* The bits need every operation as it is written, rounded for itself: a * b + c is two, fma is one.
 * Compilers make one of two on their own where they may; GCC 12, where it vectorises code without
 * loops, also where it may not. */
#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) \\
    || defined(__NO_SIGNED_ZEROS__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "$file.c: compile without -ffast-math, -Ofast and the options that they stand for"
#endif
#if $excess
#error "$file.c: compile without excess precision (on 32-bit x86 by -msse2 -mfpmath=sse)"
#endif
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=off", "no-tree-slp-vectorize")
#elif defined(_MSC_VER) && !defined(__clang__)
#pragma fp_contract(off)
#else
#pragma STDC FP_CONTRACT OFF
#endif

$kernels

$weights

void ${name}_predict(const $real x[${NAME}_INPUTS], $real out[${NAME}_OUTPUTS],
        $real scratch[${NAME}_SCRATCH])
{
$body
}

void ${name}_predict_batch(const $real *x, size_t rows, $real *out,
        $real scratch[${NAME}_SCRATCH])
{
    for (size_t row = 0; row < rows; row++)
        ${name}_predict(x + row * ${NAME}_INPUTS, out + row * ${NAME}_OUTPUTS, scratch);
}
""")

_TEST = Template("""\
/* Whether the network of $file.h gives, where it is compiled, the bits that ranvier gave:
 *
 *     cc -std=c99 -O2 $file.c ${file}_test.c -lm && ./a.out
 *
 * Exit status 0 and "ok", or 1 and the first output that differs. */
#include "$file.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { ROWS = $rows };

static const $real inputs[] = {
$inputs
};

static const $real expected[] = {
$expected
};

int main(void)
{
    static $real found[ROWS * ${NAME}_OUTPUTS];
    static $real scratch[${NAME}_SCRATCH];
    ${name}_predict_batch(inputs, ROWS, found, scratch);
    for (size_t i = 0; i < ROWS * ${NAME}_OUTPUTS; i++) {
        /* All NaN count as one. */
        const int same = memcmp(&found[i], &expected[i], sizeof found[i]) == 0
            || (found[i] != found[i] && expected[i] != expected[i]);
        if (!same) {
            printf("$name: row %lu, output %lu: expected %a, got %a\\n",
                   (unsigned long)(i / ${NAME}_OUTPUTS), (unsigned long)(i % ${NAME}_OUTPUTS),
                   expected[i], found[i]);
            return 1;
        }
    }
    printf("$name: ok, %d rows\\n", ROWS);
    return 0;
}
""")

# Runs the rows of one file and writes the outputs to another.
_DRIVER = Template("""\
#include "$file.h"

#include <stdio.h>

int main(int count, char **arguments)
{
    static $real x[${NAME}_INPUTS], out[${NAME}_OUTPUTS], scratch[${NAME}_SCRATCH];
    FILE *from = count == 3 ? fopen(arguments[1], "rb") : 0;
    FILE *to = count == 3 ? fopen(arguments[2], "wb") : 0;
    if (!from || !to)
        return 1;
    while (fread(x, sizeof x, 1, from) == 1) {
        ${name}_predict(x, out, scratch);
        if (fwrite(out, sizeof out, 1, to) != 1)
            return 1;
    }
    return fclose(to) != 0;
}
""")


class Text:
    """What is written for one model: `name` begins all names, `file` is that of the source."""

    def __init__(self, model: Predictor, name: str, file: str) -> None:
        self._model = model
        self._steps = steps_of(model)
        self._wide = model.dtype.name == "float64"
        real = "double" if self._wide else "float"
        self._places = _Places(self._steps)
        self._words = {
            "file": file,
            "name": name,
            "NAME": name.upper(),
            "real": real,
            "fma": "fma" if self._wide else "fmaf",
        }

    def header(self) -> str:
        """The header."""
        model = self._model
        lines = wrap(repr(model), _WIDTH - 7, break_on_hyphens=False)
        return _HEADER.substitute(
            self._words,
            inputs=model.input_size,
            outputs=model.output_size,
            parameters=f"{model.n_parameters:,}",
            version=_core.__version__,
            numerics=_core.NUMERICS_VERSION,
            model="\n".join(f" *     {line}" for line in lines),
            scratch=max(1, sum(self._places.sizes)),
        )

    def source(self) -> str:
        """The source."""
        weights = [
            self._array(f"{self._words['name']}_{step.layer}_{role}", array, step, role)
            for step in self._steps
            for role, array in _arrays(step).items()
        ]
        # float may be computed as such, double in double.
        allowed = (0, 1) if self._wide else (0, 16)
        return _SOURCE.substitute(
            self._words,
            excess=" && ".join(f"FLT_EVAL_METHOD != {method}" for method in allowed),
            kernels=self._kernels({step.function for step in self._steps}),
            weights="\n\n".join(weights),
            body=self._body(),
        )

    def test(self, x: Array, expected: Array) -> str:
        """A program that compares the outputs of a few rows with those that are expected."""
        return _TEST.substitute(
            self._words,
            rows=len(x),
            inputs=self._numbers(x),
            expected=self._numbers(expected),
        )

    def driver(self) -> str:
        """A program that runs rows."""
        return _DRIVER.substitute(self._words)

    def _literals(self, values: Iterable[float]) -> list[str]:
        """Numbers in hexadecimal, which is exact."""
        text = " ".join(map(float.hex, values))
        text = re.sub(r"\.?0*p([+-]\d+)", r"p\1" if self._wide else r"p\1f", text)
        return text.replace("inf", "INFINITY").replace("nan", "NAN").split()

    def _numbers(self, array: Array) -> str:
        """Lines of numbers."""
        flat = array.ravel()
        whole = array.dtype.kind == "i"
        count = 19 if whole else 4 if self._wide else 5
        lines = []
        # Python's numbers take much more memory than the array: some thousand at a time.
        for start in range(0, array.size, 1000 * count):
            numbers = flat[start : start + 1000 * count].tolist()
            literals = [*map(str, numbers)] if whole else self._literals(numbers)
            for i in range(0, len(literals), count):
                lines.append(f"    {', '.join(literals[i : i + count])},")
        return "\n".join(lines)

    def _array(self, name: str, array: Array, step: Step, role: str) -> str:
        shape = " x ".join(map(str, array.shape))
        kind = self._words["real"] if array.dtype.kind == "f" else f"{array.dtype.name}_t"
        return (
            f"/* {role} of layer {step.layer}, {shape}. */\n"
            f"static const {kind} {name}[{array.size}] = {{\n"
            f"{self._numbers(array)}\n}};"
        )

    def _kernels(self, functions: Iterable[str]) -> str:
        """The definitions of kernels.c and the constants that the functions need, renamed."""
        constants = {}
        for name, value in coefficients(self._model.dtype.name).items():
            each = value if isinstance(value, tuple) else (value,)
            literals = self._literals(float(self._model.dtype.type(number)) for number in each)
            if isinstance(value, tuple):
                constants[name] = _wrapped(f"static const real {name}[] = {{", literals)
            else:
                constants[name] = f"static const real {name} = {literals[0]};"
        template = files(__package__).joinpath("kernels.c").read_text("utf-8")
        blocks = {}
        for block in template.split("\n\n"):
            if found := _DEFINED.match(_COMMENT.sub("", block).strip()):
                blocks[found[1] or found[2]] = block.strip()
        definitions = constants | blocks
        needed: set[str] = set()
        waiting = list(functions)
        while waiting:
            name = waiting.pop()
            if name not in needed:
                needed.add(name)
                words = re.findall(r"\w+", _COMMENT.sub("", definitions[name]))
                waiting += [word for word in words if word in definitions]
        parts = [block for name, block in blocks.items() if name in needed]
        if own := [line for name, line in constants.items() if name in needed]:
            heading = "/* Constants; polynomials from the highest power down. */"
            parts.insert(0, "\n".join([heading, *own]))
        text = "\n\n".join(parts)
        return _TOKEN.sub(lambda token: self._renamed(token[0], needed), text)

    def _renamed(self, token: str, own: set[str]) -> str:
        suffix = "" if self._wide else "f"
        if token in own:
            return f"{self._words['name']}_{token}"
        if token in ("MANT_DIG", "MAX_EXP", "EPSILON"):
            return f"{'DBL' if self._wide else 'FLT'}_{token}"
        if token in ("fma", "sqrt", "fabs", "copysign") or token[0].isdigit():
            return token + suffix
        names = {"real": self._words["real"], "bits": "uint64_t" if self._wide else "uint32_t"}
        return names.get(token, token)

    def _body(self) -> str:
        """The calls, one behind the other."""
        name, real = self._words["name"], self._words["real"]
        lines = []
        first, second, third = self._places.sizes
        if first:
            lines.append(f"    {real} *const a = scratch;")
        if second:
            lines.append(f"    {real} *const b = scratch + {first};")
        if third:
            # C lets bytes lie in an array of any type.
            lines.append(
                f"    unsigned char *const q = (unsigned char *)(scratch + {first + second});"
            )
        if not lines:
            lines.append("    (void)scratch;")
        places = iter(self._places.of_steps)
        layer = -1
        for step, (source, target) in zip(self._steps, places, strict=True):
            if step.layer != layer:
                layer = step.layer
                lines += ["", *_comment(f"{layer}: {self._model.layers[layer]!r}")]
            arrays = {role: f"{name}_{layer}_{role}" for role in step.arrays}
            number = [] if step.number is None else self._literals([step.number])
            if step.function == "dense":
                pointers = f"{arrays['weight']}, {arrays.get('bias', '0')}"
                call = f"{source}, {step.inputs}, {pointers}, {target}, {step.outputs}"
            elif step.function == "integer_dense":
                integers = f"{number[0]}, {step.zero}, {arrays['weight']}, {arrays['factor']}"
                last = f"{arrays.get('bias', '0')}, q, {target}, {step.outputs}"
                call = f"{source}, {step.inputs}, {integers}, {last}"
            elif step.function in _OF_ROWS:
                call = ", ".join([source, target, str(step.inputs), *number, *arrays.values()])
            else:
                call = ", ".join([f"{source}[i]", *number])
                lines.append(f"    for (size_t i = 0; i < {step.outputs}; i++)")
                lines.append(f"        {target}[i] = {name}_{step.function}({call});")
                continue
            lines.append(f"    {name}_{step.function}({call});")
        if not self._steps:
            lines += [f"    for (size_t i = 0; i < {name.upper()}_INPUTS; i++)"]
            lines += ["        out[i] = x[i];"]
        return "\n".join(lines)


class _Places:
    """Where the values between the steps lie: x, out, and two parts, a and b, of the scratch.

    A dense layer reads one place and writes another; every other step may write where it reads,
    but not to x. So may a dense layer of integers, which first writes its inputs as bytes to a
    third part, q. From the last dense layer on, of either kind, values lie in out.

    Attributes:
        of_steps: where each step reads and writes.
        sizes: numbers in a and b, and in q, where four bytes take the room of one.
    """

    def __init__(self, steps: list[Step]) -> None:
        dense = [i for i, step in enumerate(steps) if step.function.endswith("dense")]
        last = dense[-1] if dense else 0
        sizes = {"a": 0, "b": 0}
        self.of_steps: list[tuple[str, str]] = []
        place = "x"
        for i, step in enumerate(steps):
            source = place
            if i >= last:
                place = "out"
            elif place == "x" or step.function == "dense":
                place = "b" if place == "a" else "a"
            if place in sizes:
                sizes[place] = max(sizes[place], step.outputs)
            self.of_steps.append((source, place))
        integers = [step.inputs for step in steps if step.function == "integer_dense"]
        self.sizes = (sizes["a"], sizes["b"], (max(integers, default=0) + 3) // 4)


def _arrays(step: Step) -> dict[str, Array]:
    """The arrays of a step as they are in C: the integers of an output lie side by side."""
    arrays = dict(step.arrays)
    if step.function == "integer_dense":
        arrays["weight"] = arrays["weight"].T
    return arrays


def _wrapped(first: str, literals: list[str]) -> str:
    """An array's definition."""
    lines = wrap(", ".join(literals), _WIDTH - 4, break_on_hyphens=False)
    return "\n".join([first, *(f"    {line}" for line in lines), "};"])


def _comment(text: str) -> list[str]:
    """A comment inside a function."""
    lines = wrap(text, _WIDTH - 12, break_on_hyphens=False)
    body = "\n     * ".join(lines)
    return [f"    /* {body} */"]
