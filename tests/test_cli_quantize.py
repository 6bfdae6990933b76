"""The command line on quantised networks: from a model file and a table to a smaller file."""

import errno
import io
import json
import os
import resource
import signal
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ranvier as rv
from houses import ROWS, column, names, put, ranvier, table
from ranvier.cli import _check, _quantize, main
from ranvier.cli._files import ModelFile, encoded
from ranvier.cli._tables import read_table
from ranvier.export._agreement import compared, rows_of


@pytest.fixture
def small(tmp_path, houses, fitted, capfd):
    """The model of prices, quantised on the rows that it has learnt from."""
    path = tmp_path / "small.safetensors"
    ranvier(capfd, "quantize", fitted, houses, "-o", path)
    return path


@pytest.fixture
def classes(tmp_path, houses, capfd):
    """A model of classes."""
    path = tmp_path / "classes.safetensors"
    options = ["--ignore", "price", "--epochs", 30, "--quiet"]
    ranvier(capfd, "train", houses, "--target", "dear", "--out", path, *options)
    return path


def input_of(model, path):
    """A table as the model file encodes it."""
    file = ModelFile.read(str(model))
    return encoded(file.table, read_table(str(path), None))[0]


# ---------------------------------------------------------------- what is written and said


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ([], {}),
        (["--calibration", "mse"], {"calibration": "mse"}),
        (
            ["--calibration", "percentile", "--percentile", 99],
            {"calibration": "percentile", "percentile": 99},
        ),
        (["--keep-float", "first,last"], {"keep_float": ["first", "last"]}),
        (["--keep-float", "3"], {"keep_float": 3}),
    ],
)
def test_the_file_holds_what_the_library_makes_of_the_rows(
    tmp_path, fitted, houses, options, arguments, capfd
):
    out, X = tmp_path / "small.st", input_of(fitted, houses)
    ranvier(capfd, "quantize", fitted, houses, "-o", out, *options)
    expected = rv.load(fitted).quantize(X, **arguments)
    found = rv.load(out)
    assert found.integer_layers == expected.integer_layers
    for name, value in expected.parameters().items():
        assert np.array_equal(found.parameters()[name], value), name
    assert np.array_equal(found.predict(X), expected.predict(X))


def test_the_report_is_that_of_the_library(tmp_path, classes, houses, capfd):
    out = tmp_path / "small.st"
    said = json.loads(ranvier(capfd, "quantize", classes, houses, "-o", out, "--json").out)
    X, y = input_of(classes, houses), np.array(table()["dear"]) == "yes"
    expected = rv.quantization_report(rv.load(classes), rv.load(out), X, y.astype(int))
    found = said["report"]
    assert (found["agreement"], found["rows"]) == (expected.agreement, ROWS)
    assert tuple(found["max_deviations"]) == expected.max_deviations
    assert tuple(found["mean_deviations"]) == expected.mean_deviations
    assert found["before"]["accuracy"] == expected.before["accuracy"]
    assert found["after"]["accuracy"] == expected.after["accuracy"]
    # Sizes are those of the files.
    assert found["sizes"] == [classes.stat().st_size, out.stat().st_size]
    assert found["sizes"][1] < 0.6 * found["sizes"][0]
    text = ranvier(capfd, "quantize", classes, houses, "-o", out).out
    lines = [line.split() for line in text.splitlines()]
    assert f"the same class in {expected.agreement:.2%} of {ROWS} rows".split() in lines
    before, after = (figures["roc_auc"] for figures in (found["before"], found["after"]))
    assert ["roc", "auc", f"{before:.4f}", "->", f"{after:.4f}"] in lines
    assert lines[-1] == ["saved", str(out)]


def test_the_figures_are_those_that_evaluate_finds(fitted, houses, small, tmp_path, capfd):
    said = json.loads(
        ranvier(capfd, "quantize", fitted, houses, "-o", tmp_path / "again.st", "--json").out
    )
    for path, figures in ((fitted, "before"), (small, "after")):
        scores = json.loads(ranvier(capfd, "evaluate", path, houses, "--json").out)["scores"]
        # The report rounds inputs to float32 first, a float64 table is scaled before.
        assert scores == pytest.approx(said["report"][figures], rel=1e-5)
    assert scores["r2"] > 0.9
    assert said["report"]["agreement"] is None
    assert "class" not in ranvier(capfd, "quantize", fitted, houses, "-o", small).out


def test_rows_without_a_target_calibrate_too(tmp_path, fitted, houses, small, capfd):
    columns = table()
    columns["price"][: ROWS // 2] = [None] * (ROWS // 2)
    some = put(tmp_path / "some.csv", columns)
    out = tmp_path / "other.st"
    said = ranvier(capfd, "quantize", fitted, some, "-o", out, "--json")
    assert f"{ROWS // 2} of them have a 'price' and are compared" in said.err
    scores = json.loads(ranvier(capfd, "evaluate", out, some, "--json").out)["scores"]
    found = json.loads(said.out)["report"]
    assert found["rows"] == ROWS // 2
    assert found["after"] == pytest.approx(scores, rel=1e-5)
    X = input_of(fitted, houses)
    assert np.array_equal(rv.load(out).predict(X), rv.load(small).predict(X))
    for change in (lambda c: c.pop("price"), lambda c: c.update(price=[""] * ROWS)):
        change(columns)
        path = put(tmp_path / "none.csv", columns)
        said = ranvier(capfd, "quantize", fitted, path, "-o", out)
        assert "rmse" not in said.out
        assert "compared" in said.err
        assert np.array_equal(rv.load(out).predict(X), rv.load(small).predict(X))
        columns["price"] = []


def test_of_many_rows_some_are_drawn_and_it_is_said(tmp_path, fitted, houses, monkeypatch, capfd):
    monkeypatch.setattr(_quantize, "_MOST_ROWS", 50)
    command = ["quantize", fitted, houses, "--json", "-o"]
    said = ranvier(capfd, *command, tmp_path / "a.st")
    assert f"50 of {ROWS} rows, drawn at random, calibrate" in said.err
    document = json.loads(said.out)
    assert (document["calibration_rows"], document["report"]["rows"]) == (50, 50)
    # The first rows are all alike: it is not those that are taken.
    columns = {name: values[:1] * 100 + values for name, values in table().items()}
    same = put(tmp_path / "same.csv", columns)
    found = json.loads(ranvier(capfd, "quantize", fitted, same, "--json", "-o", tmp_path / "b").out)
    assert found["report"]["scales"][0] > 0.9 * document["report"]["scales"][0]
    # And always the same ones.
    ranvier(capfd, *command, tmp_path / "c.st")
    assert (tmp_path / "c.st").read_bytes() == (tmp_path / "a.st").read_bytes()


# ---------------------------------------------------------------- the commands on both kinds


def test_predictions_come_from_the_small_file_alone(fitted, small, houses, capfd):
    X = input_of(small, houses)
    fitted.unlink()
    text = ranvier(capfd, "predict", small, houses, "--keep", "town").out
    found = np.array(column(text, "price"), float)
    assert np.array_equal(found.astype(np.float32), rv.load(small).predict(X)[:, 0])


def test_classes_and_probabilities_come_from_the_small_file(tmp_path, classes, houses, capfd):
    out = tmp_path / "small.st"
    ranvier(capfd, "quantize", classes, houses, "-o", out)
    text = ranvier(capfd, "predict", out, houses, "--probabilities").out
    logits = rv.load(out).predict(input_of(out, houses)).astype(float)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    yes = [float(value) for value in column(text, "probability yes")]
    assert np.allclose(yes, expected[:, 1], rtol=1e-5)
    assert column(text, "dear") == [["no", "yes"][one] for one in logits.argmax(axis=1)]
    scores = json.loads(ranvier(capfd, "evaluate", out, houses, "--json").out)["scores"]
    right = np.mean(np.array(column(text, "dear")) == table()["dear"])
    assert scores["accuracy"] == pytest.approx(right)


def test_inspect_tells_integers_sizes_and_the_training(fitted, small, houses, tmp_path, capfd):
    text = ranvier(capfd, "inspect", small).out
    for part in (
        "7-64-64-1, 4737 parameters, float32, 3 layers int8",
        f"size        {small.stat().st_size} bytes",
        "int8 weight (7, 64), bias (64,), inputs from -",
        "predicts 'price', a quantity",
        "trained in floats for 40 epochs",
    ):
        assert part in text
    assert "0  Standardize(): running_mean" in text
    document = json.loads(ranvier(capfd, "inspect", small, "--json").out)
    before = json.loads(ranvier(capfd, "inspect", fitted, "--json").out)
    assert (document["kind"], before["kind"]) == ("quantized", "model")
    assert (document["integer_layers"], before["integer_layers"]) == ([1, 3, 5], [])
    assert document["bytes"] == small.stat().st_size
    for name in ("table", "training", "layers", "parameters"):
        assert document[name] == before[name]
    kept = tmp_path / "kept.st"
    ranvier(capfd, "quantize", fitted, houses, "-o", kept, "--keep-float", "first")
    text = ranvier(capfd, "inspect", kept).out
    assert "2 layers int8" in text
    assert "1  Dense(64, activation='silu'): weight (7, 64), bias (64,)\n" in text


def test_a_quantised_file_from_python_is_shown_and_checked(tmp_path, capfd):
    rng = np.random.default_rng(0)
    model = rv.Sequential([rv.Dense(5, activation="prelu"), rv.Dense(2)], input_size=3, seed=0)
    model.quantize(rng.normal(size=(50, 3))).save(tmp_path / "q.st")
    text = ranvier(capfd, "inspect", tmp_path / "q.st").out
    assert "int8 weight (3, 5), bias (5,), slope (), inputs from" in text
    assert "agree" in ranvier(capfd, "check", tmp_path / "q.st").out
    said = ranvier(capfd, "predict", tmp_path / "q.st", tmp_path / "x.csv", code=1).err
    assert "expected a model of `ranvier train`" in said


@pytest.mark.parametrize("kind", [name for name in rv.export.__all__ if name.islower()])
def test_export_does_with_a_small_file_as_the_library_does(small, kind, tmp_path, capfd):
    ending = {"numpy": "py"}.get(kind, kind)
    command = ["export", small, "--format", kind, "--out", tmp_path / f"exported.{ending}"]
    if kind == "onnx":
        pytest.importorskip("onnx")
    refused = ""
    try:
        getattr(rv.export, kind)(rv.load(small), tmp_path / f"own.{ending}", check=False)
    except rv.DTypeError as error:
        refused = f"ranvier: {error}\n"
    said = ranvier(capfd, *command, code=int(bool(refused))).err
    assert said == refused or not refused
    assert (tmp_path / f"exported.{ending}").exists() == (not refused)


@pytest.mark.parametrize(
    ("kind", "by", "code"),
    [("onnx", 2.9 / 255, 0), ("onnx", 3.1 / 255, 1), ("c", 1 / 255, 1), ("c", 1e-6, 0)],
)
def test_an_exported_small_file_may_differ_by_a_step_of_each_layer_in_onnx_alone(
    small, fitted, tmp_path, kind, by, code, monkeypatch, capfd
):
    def export(model, path, *, check, X=None):
        expected = model.predict(rows_of(model, X))
        return compared(kind, (path,), "a test", expected, expected + by * np.abs(expected).max())

    monkeypatch.setattr(rv.export, kind, export)
    command = ["--format", kind, "--check", "--out", tmp_path / "x"]
    ranvier(capfd, "export", small, *command, code=code)
    ranvier(capfd, "export", fitted, *command, code=int(by > 1e-5))


# ---------------------------------------------------------------- check


def test_check_compares_with_the_reference(small, houses, tmp_path, capfd):
    columns = table()
    del columns["price"]
    for data in ([], [houses], [put(tmp_path / "bare.csv", columns)]):
        text = ranvier(capfd, "check", small, *data, "--rows", 8).out
        assert "float32 and int8, layer by layer: core and reference agree" in text
    document = json.loads(ranvier(capfd, "check", small, "--json").out)
    assert document["ok"] is True
    assert "training" not in document
    assert document["predictions"]["integer_layers"] == [1, 3, 5]
    assert 0 < document["predictions"]["max_error"] < document["predictions"]["allowed"]
    said = ranvier(capfd, "check", small, "--steps", 3, code=1).err
    assert said.startswith("ranvier: --steps: expected none")


@pytest.mark.parametrize("wrong", [1.0001, np.nan])
def test_check_finds_a_core_that_computes_something_else(small, wrong, monkeypatch, capfd):
    honest = rv.QuantizedSequential.predict

    def spoilt(self, X, **options):
        return honest(self, X, **options) * np.float32(wrong)

    monkeypatch.setattr(rv.QuantizedSequential, "predict", spoilt)
    assert "DISAGREE" in ranvier(capfd, "check", small, "--rows", 4, code=1).out


def test_check_finds_an_input_that_becomes_another_integer(monkeypatch):
    """Two more units of one input of a layer, which no rounding explains."""
    model, X = network([6, 8, 3], seed=0)
    assert _check._compared_by_layers(model, X) < 1e-5
    honest = rv.QuantizedSequential.predict

    def spoilt(self, rows, **options):
        rows = rows.copy()
        rows[0, 0] += 2 * self.parameters()["0.input_scale"]
        return honest(self, rows, **options)

    monkeypatch.setattr(rv.QuantizedSequential, "predict", spoilt)
    assert _check._compared_by_layers(model, X) > 1e-5


def network(sizes, seed, activation="tanh"):
    """A quantised network, and rows."""
    layers = [rv.Dense(units, activation=activation) for units in sizes[1:-1]]
    model = rv.Sequential([*layers, rv.Dense(sizes[-1])], input_size=sizes[0], seed=seed)
    X = np.random.default_rng(seed).normal(size=(40, sizes[0])).astype(np.float32)
    return model.quantize(X), X


@given(
    sizes=st.lists(st.integers(1, 20), min_size=2, max_size=4),
    activation=st.sampled_from(["tanh", "relu", "gelu"]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=25)
def test_any_quantised_network_agrees_layer_by_layer(sizes, activation, seed):
    model, X = network(sizes, seed, activation)
    assert _check._compared_by_layers(model, X) <= 1e-5


def test_inputs_halfway_between_two_integers_are_no_disagreement(monkeypatch):
    """To float32 they are halfway, to float64 on either side."""
    model, _ = network([8, 4], seed=0)
    values = model.parameters()
    scale, zero = values["0.input_scale"], int(values["0.input_zero_point"])
    steps = np.random.default_rng(0).integers(-zero, 255 - zero, size=(400, 8)) + 0.5
    X = (steps * np.float64(scale)).astype(np.float32)
    assert _check._compared_by_layers(model, X) <= 1e-5
    monkeypatch.setattr(_check, "_told", lambda x, own: x)
    assert _check._compared_by_layers(model, X) > 1e-5


# ---------------------------------------------------------------- what goes wrong


def test_models_that_cannot_be_quantised_by_a_table_are_refused(
    tmp_path, fitted, small, houses, capfd
):
    rv.load(fitted).save(tmp_path / "bare.st")
    out = tmp_path / "out.st"
    for path, said in (
        (small, "expected a model in floats, got a quantised one"),
        (tmp_path / "bare.st", "ranvier.load(path).quantize(X)"),
        (houses, "expected a model file"),
        (tmp_path / "none.st", "No such file"),
    ):
        captured = ranvier(capfd, "quantize", path, houses, "-o", out, code=1)
        assert captured.err.startswith("ranvier: ")
        assert said in captured.err
        assert str(path) in captured.err
        assert captured.err.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--percentile", 99], "--percentile: expected --calibration percentile beside it"),
        (["--keep-float", "2"], "numbers of Dense layers (1, 3, 5), got 2"),
        (["--keep-float", "1,3,5"], "expected a layer left to quantise"),
        (["--keep-float", "middle"], None),
        (["--keep-float", "-1"], None),
        (["--calibration", "median"], None),
        (["--calibration", "percentile", "--percentile", 49], None),
    ],
)
def test_options_that_have_no_meaning_are_refused(tmp_path, fitted, houses, options, said, capfd):
    command = ["quantize", fitted, houses, "-o", tmp_path / "out.st", *options]
    if said is None:
        with pytest.raises(SystemExit) as wrong:
            ranvier(capfd, *command)
        assert wrong.value.code == 2
        assert f"argument {options[-2]}" in capfd.readouterr().err
    else:
        captured = ranvier(capfd, *command, code=1)
        assert said in captured.err
        assert captured.out == ""
    assert not (tmp_path / "out.st").exists()


def test_tables_unlike_that_of_the_training_are_refused(tmp_path, fitted, houses, capfd):
    out = tmp_path / "out.st"
    columns = table()
    empty = put(tmp_path / "empty.csv", {name: [] for name in columns})
    (tmp_path / "nothing.csv").touch()
    without = put(tmp_path / "without.csv", {k: v for k, v in columns.items() if k != "area"})
    wrong = put(tmp_path / "wrong.csv", columns | {"price": ["dear"] * ROWS})
    for path, said in (
        (empty, "expected rows"),
        (tmp_path / "nothing.csv", "got an empty file"),
        (without, "expected column 'area' of the training"),
        (wrong, "expected a number in column 'price', got 'dear' in row 1"),
    ):
        captured = ranvier(capfd, "quantize", fitted, path, "-o", out, code=1)
        assert said in captured.err.splitlines()[-1]
        assert captured.out == ""
    assert not out.exists()
    columns["town"] = ["Pisa", *columns["town"][1:]]
    path = put(tmp_path / "pisa.csv", columns)
    assert (
        "not seen, taken as none: 'Pisa'" in ranvier(capfd, "quantize", fitted, path, "-o", out).err
    )


def test_a_table_that_is_not_the_networks_is_refused(fitted, classes, small, capfd):
    notes = {"ranvier.table": ModelFile.read(str(classes)).metadata["ranvier.table"]}
    rv.load(small)._write(str(small), notes)
    said = ranvier(capfd, "predict", small, small, code=1).err
    assert "for a network of 7 and 1" in said


def test_a_full_disk_leaves_what_was_there(tmp_path, fitted, houses, small, capfd):
    """A limit on the size of files stands for the disk: EFBIG where it would be ENOSPC."""
    before, there = small.read_bytes(), names(tmp_path)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stderr", io.StringIO())
            patch.setattr("sys.stdout", io.StringIO())
            assert main(["quantize", str(fitted), str(houses), "-o", str(small)]) == 1
            lines = sys.stderr.getvalue().splitlines()
            assert sys.stdout.getvalue() == ""
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert lines[-1].startswith(f"ranvier: {tmp_path}")
    assert lines[-1].endswith(os.strerror(errno.EFBIG))
    assert small.read_bytes() == before
    assert names(tmp_path) == there


@pytest.mark.parametrize("out", ["missing/model.st", "."])
def test_a_place_that_cannot_be_written_is_refused_before_reading(tmp_path, out, capfd):
    captured = ranvier(capfd, "quantize", "no.st", "no.csv", "-o", tmp_path / out, code=1)
    assert captured.err.startswith("ranvier: --out: expected")
    assert captured.err.count("\n") == 1
