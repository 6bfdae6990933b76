"""Networks as C99: the same bits as `predict`, whatever the compiler and its options."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ranvier as rv
from networks import ACTIVATIONS, alike, random_network, rows

ROOT = Path(__file__).parent.parent
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
STRICT = "-std=c99 -O2 -Wall -Wextra -Werror -pedantic"
NATIVE = "-march=native" if os.uname().machine in ("x86_64", "aarch64") else ""
OPTIONS = {
    "strict": STRICT,
    "not optimised": "-std=c99 -O0",
    "optimised": f"-std=c99 -O3 {NATIVE}",
    # Compilers contract a * b + c to a fused multiply-add then, if they are let.
    "GNU's dialect": f"-O3 {NATIVE}",
    "contracting": f"-std=gnu11 -O2 {NATIVE} -ffp-contract=on",
    "sanitized": "-std=c99 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all",
}
NETWORKS = int(os.environ.get("RANVIER_NETWORKS", "20"))
# glibc then does without the machine's fused multiply-add.
SOFTWARE = {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-FMA,-FMA4,-AVX2"}

needs_compiler = pytest.mark.skipif(not COMPILERS, reason="no C compiler")

BLOCK = """\
    {{
        const size_t rows = {rows};
        {real} *x = malloc((rows * {NAME}_INPUTS + 1) * sizeof *x);
        {real} *out = malloc((rows * {NAME}_OUTPUTS + 1) * sizeof *out);
        {real} *scratch = malloc({NAME}_SCRATCH * sizeof *scratch);
        if (!x || !out || !scratch || fread(x, sizeof *x, rows * {NAME}_INPUTS, from) < rows)
            return 1;
        {name}_predict_batch(x, rows, out, scratch);
        fwrite(out, sizeof *out, rows * {NAME}_OUTPUTS, to);
        free(x);
        free(out);
        free(scratch);
    }}
"""


def compiled(compiler, options, folder, *files, output="run"):
    """The program that a compiler makes of files."""
    command = [compiler, *shlex.split(options), *map(str, files), "-o", output, "-lm"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:3000]
    return folder / output


def program(models, inputs, folder):
    """Writes one source that has all the networks in it and runs their rows, a file to a file."""
    lines = ["#include <stdio.h>", "#include <stdlib.h>"]
    blocks = []
    for i, (model, x) in enumerate(zip(models, inputs, strict=True)):
        rv.export.c(model, folder / f"net{i}.c", check=False)
        lines.append(f'#include "net{i}.c"')
        real = "float" if model.dtype == np.float32 else "double"
        blocks.append(BLOCK.format(name=f"net{i}", NAME=f"NET{i}", real=real, rows=len(x)))
    lines += ["int main(int count, char **arguments)", "{", "    if (count != 3)", "    return 1;"]
    lines += [
        '    FILE *from = fopen(arguments[1], "rb");',
        '    FILE *to = fopen(arguments[2], "wb");',
    ]
    lines += ["    if (!from || !to)", "        return 1;"]
    lines += [*blocks, "    fclose(from);", "    return fclose(to) != 0;", "}", ""]
    (folder / "all.c").write_text("\n".join(lines))
    (folder / "rows").write_bytes(b"".join(x.tobytes() for x in inputs))


def outputs(run, models, inputs, environment=None):
    """What a program of `program` gives, network by network."""
    command = [str(run), "rows", "outputs"]
    variables = os.environ | (environment or {})
    done = subprocess.run(command, cwd=run.parent, env=variables, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[:3000]
    data = (run.parent / "outputs").read_bytes()
    for model, x in zip(models, inputs, strict=True):
        shape = (len(x), model.output_size)
        size = shape[0] * shape[1] * model.dtype.itemsize
        yield np.frombuffer(data[:size], model.dtype).reshape(shape)
        data = data[size:]
    assert not data


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A program of random networks. RANVIER_NETWORKS=200 (`make exports`) for the whole of it."""
    folder = tmp_path_factory.mktemp("networks")
    models = [random_network(seed) for seed in range(NETWORKS)]
    inputs = [rows(model, np.random.default_rng(seed)) for seed, model in enumerate(models)]
    program(models, inputs, folder)
    return folder, models, inputs


def assert_same_bits(run, models, inputs, environment=None):
    for i, found in enumerate(outputs(run, models, inputs, environment)):
        assert alike(found, models[i].predict(inputs[i])), f"network {i}: {models[i]!r}"


@needs_compiler
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_random_networks_give_the_bits_of_predict(compiler, options, networks):
    folder, models, inputs = networks
    run = compiled(compiler, OPTIONS[options], folder, "all.c")
    assert_same_bits(run, models, inputs)
    if options == "strict" and sys.platform == "linux":
        assert_same_bits(run, models, inputs, SOFTWARE)


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_activations_give_the_bits_of_predict_on_numbers_of_all_sizes(dtype, tmp_path, rng):
    count = 20_000
    bits = rng.integers(2 ** (32 if dtype == "float32" else 64), size=count, dtype=np.uint64)
    anywhere = bits.astype(np.uint32 if dtype == "float32" else np.uint64).view(dtype)
    near = (rng.normal(size=count) * 10.0 ** rng.integers(-4, 3, count)).astype(dtype)
    x = np.concatenate([anywhere, near])[:, None]
    models = [
        rv.Sequential([rv.Activation(activation)], input_size=1, dtype=dtype)
        for activation in ACTIVATIONS
    ]
    program(models, [x] * len(models), tmp_path)
    run = compiled(COMPILERS[0], f"{STRICT} {NATIVE}", tmp_path, "all.c")
    assert_same_bits(run, models, [x] * len(models))
