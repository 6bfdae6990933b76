"""Networks as C99: the same bits as `predict`, whatever the compiler and its options."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ranvier as rv
from networks import ACTIVATIONS, alike, moved, quantized_network, random_network, rows
from ranvier.export._agreement import compared
from ranvier.export._c_text import Text
from ranvier.export._coefficients import coefficients

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


def skip_without(compiler, options, folder):
    """Skips a test where a compiler has not all of the options."""
    (folder / "empty.c").write_text("int main(void) { return 0; }\n")
    command = [compiler, *shlex.split(options), "empty.c", "-o", "empty"]
    if subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode:
        pytest.skip(f"{compiler} has not all of {options}")


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
    """A program of random networks, half as many of them quantised.

    RANVIER_NETWORKS=200 (`make c`) for the whole of it.
    """
    folder = tmp_path_factory.mktemp("networks")
    models = [random_network(seed) for seed in range(NETWORKS)]
    models += [quantized_network(seed) for seed in range(NETWORKS // 2)]
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
    skip_without(compiler, OPTIONS[options], folder)
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


@needs_compiler
@pytest.mark.parametrize("tiny", [("float32", 1e-30), ("float64", 1e-200)])
def test_zeros_keep_their_signs(tiny, tmp_path):
    dtype, small = tiny
    layers = [rv.Dense(2, use_bias=False)]
    model = rv.Sequential(layers, input_size=1, dtype=dtype)
    model.set_parameters({"0.weight": [[-small, small]]})
    # Products that underflow give -0.0; sums begin at 0.0, so that products of -0.0 give 0.0.
    x = np.array([[small], [-0.0], [0.0], [-small]], dtype)
    expected = [[True, False], [False, False], [False, False], [False, True]]
    assert np.signbit(model.predict(x)).tolist() == expected
    program([model], [x], tmp_path)
    run = compiled(COMPILERS[0], STRICT, tmp_path, "all.c")
    assert_same_bits(run, [model], [x])


def quantized(*layers, input_size=3, sign=0):
    """A quantised network with moved parameters; rows of one sign for the ends of its integers."""
    rng = np.random.default_rng(0)
    model = moved(rv.Sequential(layers, input_size=input_size), rng)
    x = rng.normal(size=(50, input_size))
    return model.quantize(sign * abs(x) if sign else x)


@needs_compiler
@pytest.mark.parametrize("sign", [0, 1, -1])
def test_quantized_activations_give_the_bits_of_predict(sign, tmp_path, rng):
    models = [quantized(rv.Dense(18, a), rv.Dense(2, a), sign=sign) for a in ACTIVATIONS]
    q = models[0].parameters()
    scale, zero = q["0.input_scale"], q["0.input_zero_point"]
    assert zero == {0: 128, 1: 0, -1: 255}[sign]
    x = [rows(model, rng, 200) for model in models]
    for each in x:
        # Halfway between two integers.
        each[:100] = np.arange(-300, 300).reshape(200, 3)[50:150] * scale / 2
    program(models, x, tmp_path)
    run = compiled(COMPILERS[0], f"{STRICT} {NATIVE}", tmp_path, "all.c")
    assert_same_bits(run, models, x)


@needs_compiler
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_of_the_most_integers_that_are_allowed_are_exact(sign, tmp_path, rng):
    size = 66_311
    model = rv.Sequential([rv.Dense(2, use_bias=False)], input_size=size)
    weights = rng.normal(size=(size, 2))
    weights[:, 0] = 1
    model.set_parameters({"0.weight": weights})
    x = np.full((3, size), sign, np.float32)
    x[1] *= rng.random(size, np.float32)
    x[2, 7] = np.nan
    model = model.quantize(x[:1])
    assert model.predict(x)[0, 0] == sign * np.float32(size)
    program([model], [x], tmp_path)
    skip_without(COMPILERS[0], OPTIONS["sanitized"], tmp_path)
    run = compiled(COMPILERS[0], OPTIONS["sanitized"], tmp_path, "all.c")
    assert_same_bits(run, [model], [x])


@needs_compiler
@pytest.mark.skipif(not shutil.which("size"), reason="no size")
def test_quantized_constants_take_a_quarter(tmp_path):
    layers = [rv.Dense(300, "relu"), rv.Dense(200, "relu")]
    floats = moved(rv.Sequential(layers, input_size=400), np.random.default_rng(0))
    sizes = []
    for model in (floats, quantized(*layers, input_size=400)):
        rv.export.c(model, tmp_path / "net.c", check=False)
        compiled(COMPILERS[0], f"{STRICT} -c", tmp_path, "net.c", output="net.o")
        said = subprocess.run(["size", tmp_path / "net.o"], capture_output=True, check=True).stdout
        sizes.append(int(said.split()[6]))
    assert sizes[1] < 0.27 * sizes[0]


def exported(folder, *layers, file="net.c", input_size=3, dtype="float32", **options):
    """A model with moved parameters, and what exporting it says; "int8" is a quantised one."""
    if dtype == "int8":
        model = quantized(*layers, input_size=input_size)
    else:
        model = rv.Sequential(layers, input_size=input_size, dtype=dtype)
        moved(model, np.random.default_rng(0))
    return model, rv.export.c(model, folder / file, **options)


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8"])
def test_the_report_comes_from_the_compiled_files(dtype, tmp_path):
    layers = [rv.Standardize(), rv.Dense(8, activation="gelu"), rv.Dense(2, activation="softmax")]
    _, agreement = exported(tmp_path, *layers, dtype=dtype)
    assert agreement.format == "c"
    assert agreement.paths == (str(tmp_path / "net.c"), str(tmp_path / "net.h"))
    assert (agreement.rows, agreement.max_error, agreement.bit_equal) == (64, 0.0, True)
    assert agreement.runner
    assert str(agreement).endswith("the same bits")


@needs_compiler
def test_the_report_is_of_the_rows_that_are_given(tmp_path):
    X = [[1, 2, 3], [4, np.nan, 5], [-np.inf, np.inf, 0]]
    _, agreement = exported(tmp_path, rv.Dense(2), X=X)
    assert (agreement.rows, agreement.bit_equal) == (3, True)


@needs_compiler
def test_the_report_says_how_far_outputs_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(Text, "_literals", lambda self, values: ["0.5f" for _ in values])
    _, agreement = exported(tmp_path, rv.Dense(2))
    assert agreement.rows == 64
    assert not agreement.bit_equal
    assert agreement.max_error > 0.1


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("no-such-compiler -O2", "CC names 'no-such-compiler -O2', which is not there"),
        (f"{sys.executable} -c 'import sys; sys.exit(3)'", "ended with 3"),
        (f'{sys.executable} -c \'open("run", "w").close()\'', "Permission denied"),
    ],
)
def test_what_cannot_be_compiled_is_not_run(command, reason, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", command)
    _, agreement = exported(tmp_path, rv.Dense(2))
    assert (agreement.rows, agreement.runner) == (0, None)
    assert reason in agreement.reason
    assert (tmp_path / "net.c").exists()


def test_without_a_compiler_the_files_are_not_run(tmp_path, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    _, agreement = exported(tmp_path, rv.Dense(2))
    assert (agreement.rows, agreement.reason) == (0, "no C compiler was found")


@needs_compiler
def test_the_variable_cc_chooses_the_compiler(tmp_path, monkeypatch):
    log = tmp_path / "log"
    script = tmp_path / "compiler"
    script.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {COMPILERS[0]} "$@"\n')
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CC", "./compiler -O1")
    _, agreement = exported(tmp_path, rv.Dense(2))
    assert agreement.bit_equal
    assert log.read_text().startswith("-O1 -std=c99")


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8"])
def test_the_self_test_finds_out_about_a_wrong_bit(dtype, tmp_path):
    layers = [rv.Dense(4, activation="tanh"), rv.Dense(2)]
    X = [[1, 2, 3], [np.nan, 1, 2], [0, 0, 0], [np.inf, 0, -np.inf], [5, 5, 5]]
    _, agreement = exported(tmp_path, *layers, X=X, self_test=True, dtype=dtype, check=False)
    assert agreement.paths[2:] == (str(tmp_path / "net_test.c"),)
    changed = "net_1_factor[" if dtype == "int8" else "net_1_weight["
    for wrong in (False, True):
        if wrong:
            source = (tmp_path / "net.c").read_text()
            first = source.index("0x", source.index(changed))
            end = source.index("p", first)
            last = "2" if source[end - 1] != "2" else "4"
            (tmp_path / "net.c").write_text(source[: end - 1] + last + source[end:])
        run = compiled(COMPILERS[0], STRICT, tmp_path, "net.c", "net_test.c")
        done = subprocess.run(run, capture_output=True, text=True, check=False)
        assert done.returncode == wrong
        if wrong:
            assert re.fullmatch(r"net: row 0, output 0: expected \S+, got \S+\n", done.stdout)
        else:
            assert done.stdout == "net: ok, 4 rows\n"


BOTH = """\
#include "one.h"
#include "two.h"
#include "three.h"
#include <stdio.h>
int main()
{
    float x[ONE_INPUTS] = {0}, y[ONE_OUTPUTS], a[ONE_SCRATCH];
    double u[TWO_INPUTS] = {0}, v[TWO_OUTPUTS], b[TWO_SCRATCH];
    float p[THREE_INPUTS] = {0}, q[THREE_OUTPUTS], c[THREE_SCRATCH];
    one_predict(x, y, a);
    two_predict(u, v, b);
    three_predict(p, q, c);
    one_predict_batch(0, 0, 0, 0);
    printf("%a %a %a", (double)y[0], v[0], (double)q[0]);
    return 0;
}
"""


@needs_compiler
def test_models_link_into_one_program_of_c_or_c_plus_plus(tmp_path):
    layers = [rv.LayerNorm(), rv.Dense(40, activation="gelu"), rv.Dense(1, activation="elu")]
    one, _ = exported(tmp_path, *layers, file="one.c", check=False)
    two, _ = exported(tmp_path, *layers, file="two.c", dtype="float64", check=False)
    three, _ = exported(tmp_path, *layers, file="three.c", dtype="int8", check=False)
    expected = [float(model.predict(np.zeros((1, 3)))[0, 0]) for model in (one, two, three)]
    builds = [(COMPILERS[0], STRICT, "main.c")]
    if shutil.which("g++"):
        builds += [("g++", "-std=c++17 -O2 -Wall -Wextra -Werror -pedantic", "main.cc")]
        builds += [("g++", "-O2 -Wall -Wextra -Werror", "main.cc")]
    for compiler, options, main in builds:
        (tmp_path / main).write_text(BOTH)
        run = compiled(compiler, options, tmp_path, main, "one.c", "two.c", "three.c")
        printed = subprocess.run(run, capture_output=True, text=True, check=True).stdout
        assert [float.fromhex(number) for number in printed.split()] == expected
    if shutil.which("g++"):
        # Compiled as C, called from C++.
        for name in ("one", "two", "three"):
            compiled(COMPILERS[0], f"{STRICT} -c", tmp_path, f"{name}.c", output=f"{name}.o")
        run = compiled("g++", "-O2", tmp_path, "main.cc", "one.o", "two.o", "three.o")
        printed = subprocess.run(run, capture_output=True, text=True, check=True).stdout
        assert [float.fromhex(number) for number in printed.split()] == expected


@needs_compiler
@pytest.mark.skipif(not shutil.which("nm"), reason="no nm")
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_nothing_is_kept_between_calls_and_all_names_have_the_prefix(dtype, tmp_path):
    layers = [layer for a in ACTIVATIONS for layer in (rv.Dense(5, activation=a), rv.LayerNorm())]
    exported(tmp_path, *layers, rv.BatchNorm(), name="my_net", dtype=dtype, check=False)
    for options in ("-O0", "-O2"):
        compiled(COMPILERS[0], f"-std=c99 {options} -c", tmp_path, "net.c", output="net.o")
        listed = subprocess.run(
            ["nm", tmp_path / "net.o"], capture_output=True, text=True, check=True
        )
        symbols = [line.split()[-2:] for line in listed.stdout.splitlines()]
        public = {name for kind, name in symbols if kind == "T"}
        assert public == {"my_net_predict", "my_net_predict_batch"}
        foreign = {name for kind, name in symbols if kind == "U"}
        assert foreign <= {"copysignf", "fabsf", "fmaf", "sqrtf"}
        # Code and constants, nothing that could change.
        assert {kind for kind, _ in symbols} <= set("TtrRU")
        own = [name for kind, name in symbols if kind in "tr" and not name.startswith(".")]
        assert all(name.startswith("my_net_") for name in own), own


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_the_need_of_stack_does_not_grow_with_the_widths(dtype, tmp_path):
    layers = [rv.Dense(3000, activation="mish"), rv.LayerNorm(), rv.Dense(2, activation="softmax")]
    exported(tmp_path, *layers, dtype=dtype, check=False)
    options = "-Wframe-larger-than=1024 -Werror -c"
    compiled(COMPILERS[0], f"{STRICT} {options}", tmp_path, "net.c", output="net.o")


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("option", ["-ffast-math", "-Ofast", "-ffinite-math-only", "-mfpmath=387"])
def test_options_that_change_bits_are_refused_by_the_source(option, dtype, tmp_path):
    if option == "-mfpmath=387" and (os.uname().machine != "x86_64" or COMPILERS[0] != "gcc"):
        pytest.skip("an option of GCC for x86")
    exported(tmp_path, rv.Dense(2), dtype=dtype, check=False)
    command = [COMPILERS[0], "-std=c99", option, "-c", "net.c"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "net.c: compile without" in done.stderr


def test_values_between_the_layers_lie_in_two_parts_of_the_scratch(tmp_path):
    def scratch(*layers, **options):
        exported(tmp_path, *layers, check=False, input_size=7, **options)
        return int(re.search(r"NET_SCRATCH (\d+)", (tmp_path / "net.h").read_text())[1])

    assert scratch(rv.Dense(5, activation="relu")) == 1
    assert scratch(rv.Standardize(), rv.Dense(5), rv.LayerNorm()) == 7
    assert scratch(rv.Dense(10), rv.Dense(20), rv.Dense(30), rv.Dense(5)) == 30 + 20
    assert scratch(rv.Softmax(), rv.LayerNorm()) == 1
    # Integers of a layer lie behind, as bytes; its outputs may take the place of its inputs.
    assert scratch(rv.Dense(5, activation="relu"), dtype="int8") == 2
    layers = [rv.Dense(10), rv.Dense(20), rv.Dense(30), rv.Dense(5)]
    assert scratch(*layers, dtype="int8") == 30 + 8


@pytest.mark.parametrize(
    ("file", "name", "prefix"),
    [
        ("net.c", None, "net"),
        ("My-net.v2.c", None, "My_net_v2"),
        ("1.c", "x", "x"),
        ("net.c", "int", "int"),
        ("two words.c", None, "two_words"),
    ],
)
@needs_compiler
def test_names_begin_with_that_of_the_file_or_the_one_that_is_given(file, name, prefix, tmp_path):
    _, agreement = exported(tmp_path, rv.Dense(2), file=file, name=name, self_test=True)
    assert agreement.bit_equal
    header = (tmp_path / file).with_suffix(".h").read_text()
    assert f"void {prefix}_predict(const float x[{prefix.upper()}_INPUTS]" in header
    compiled(COMPILERS[0], STRICT, tmp_path, file, Path(file).stem + "_test.c")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("1.c", None),
        ("größe.c", None),
        ("net.c", ""),
        ("net.c", "_x"),
        ("net.c", "a-b"),
        ("net.c", "a b"),
        ("net.c", "ä"),
        ("net.c", "x\n"),
        ('a"b.c', "x"),
        ("net", None),
        ("net.cpp", None),
        ("net.h", None),
        (".c", None),
        ("signal.c", None),
        ("math.c", "x"),
    ],
)
def test_names_that_c_does_not_take_are_refused(file, name, tmp_path):
    with pytest.raises(rv.ArgumentError, match=r"(name|path): expected a"):
        exported(tmp_path, rv.Dense(2), file=file, name=name)
    assert not list(tmp_path.iterdir())


def test_what_is_wrong_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "net.c").write_text("old")
    with pytest.raises(rv.DTypeError, match=r"model: expected a ranvier\.Sequential"):
        rv.export.c("model", tmp_path / "net.c")
    with pytest.raises(rv.NotFittedError, match="input_size"):
        rv.export.c(rv.Sequential([rv.Dense(2)]), tmp_path / "net.c")
    with pytest.raises(rv.ShapeError, match="X: expected 3 features"):
        exported(tmp_path, rv.Dense(2), X=np.zeros((2, 4)))
    for option in ("check", "self_test"):
        with pytest.raises(rv.DTypeError, match=f"{option}: expected"):
            exported(tmp_path, rv.Dense(2), **{option: 1})
    with pytest.raises(rv.DTypeError, match="name: expected"):
        exported(tmp_path, rv.Dense(2), name=3)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
    with pytest.raises(FileNotFoundError):
        exported(tmp_path / "missing", rv.Dense(2))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_constants_are_those_of_the_core(dtype):
    core = (ROOT / "rust/core/src/math.rs").read_text(encoding="utf-8")
    core = core.partition(f"impl Math for {dtype.replace('loat', '')} {{")[2].partition("\n}\n")[0]
    # Polynomials are slices; ROUNDER and the like are made of others.
    found = {}
    for name, kind, value in re.findall(r"const (\w+): (&?)\S+ = (.*?);", core, re.DOTALL):
        numbers = tuple(float(number) for number in re.findall(r"-?\d[\d.]*(?:e-?\d+)?", value))
        found[name] = numbers if kind else numbers[0]
    assert {"EXP_MIN", "TANH_LIMIT", "LN2_LO", "EXPM1", "LN", "ERFC", "ERFC_SCALE"} <= set(found)
    own = coefficients(dtype)
    assert {name: own[name] for name in found} == found
    activations = (ROOT / "rust/core/src/activation.rs").read_text(encoding="utf-8")
    written = {float(number.replace("_", "")) for number in re.findall(r"\d\.[\d_]+", activations)}
    scales = {own[name] for name in ("SELU_LAMBDA", "GELU_SCALE", "GELU_CUBIC")}
    assert scales | {own["SELU_LAMBDA_ALPHA"] / own["SELU_LAMBDA"]} <= written


def test_all_nan_count_as_one_and_zeros_have_signs():
    def equal(found, expected):
        arrays = [np.array([values], np.float32) for values in (found, expected)]
        return compared("c", (), "", arrays[1], arrays[0]).bit_equal

    assert equal([np.nan, 1.0], [-np.nan, 1.0])
    assert not equal([0.0], [-0.0])
    assert not equal([np.nan], [1.0])


@needs_compiler
@pytest.mark.skipif(not shutil.which("cc"), reason="the guide says cc")
def test_the_lines_of_the_guide_for_the_shell_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    model = rv.Sequential([rv.Standardize(), rv.Dense(10)], input_size=64)
    rv.export.c(model, "digits.c", self_test=True)
    rv.export.numpy(model, "digits_network.py")
    page = (ROOT / "docs/exporting.md").read_text(encoding="utf-8").partition("\n## C\n")[2]
    [main] = re.findall(r"```c\n(.*?)```", page, re.DOTALL)
    Path("main.c").write_text(main)
    compiled("cc", f"{STRICT} -c", tmp_path, "main.c", output="main.o")
    printed = [
        subprocess.run(["sh", "-ec", lines], capture_output=True, text=True, check=True).stdout
        for lines in re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    ]
    called, tested, table = printed
    expected = model.predict([np.arange(1, 65)])[0]
    assert np.array_equal(np.array(called.split(), np.float32), expected)
    assert tested == "digits: ok, 4 rows\n"
    np.testing.assert_allclose(np.array(table.split(","), np.float32), expected, rtol=1e-4)
