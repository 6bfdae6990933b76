"""The command line on people's own tables: from CSV and Parquet to predictions, and what is odd."""

import csv
import errno
import io
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ranvier as rv
from houses import ROWS, column, names, put, ranvier, table
from ranvier.cli import main
from ranvier.cli._options import ENDINGS
from ranvier.cli._output import Lines, figure
from ranvier.cli._tables import read_table
from ranvier.export._agreement import compared, not_run, rows_of

# ---------------------------------------------------------------- from CSV to predictions


def test_a_quantity_is_learnt_and_predicted_from_the_file_alone(tmp_path, houses, fitted, capfd):
    out = tmp_path / "out.csv"
    houses.unlink()
    test = put(tmp_path / "test.csv", new := table(seed=1))
    assert ranvier(capfd, "predict", fitted, test, "-o", out).out == ""
    predicted = np.array(column(out.read_text(), "price"), float)
    known = np.array([area is not None for area in new["area"]])
    errors = predicted[known] - np.array(new["price"])[known]
    assert np.sqrt(np.mean(errors**2)) < 0.15 * np.std(new["price"])
    scores = json.loads(ranvier(capfd, "evaluate", fitted, test, "--json").out)["scores"]
    assert scores["rmse"] == pytest.approx(np.sqrt(np.mean((predicted - new["price"]) ** 2)))
    assert scores["r2"] > 0.9


def test_classes_are_learnt_and_come_back_by_name_with_probabilities(tmp_path, houses, capfd):
    model = tmp_path / "model.safetensors"
    options = ["--ignore", "price", "--epochs", 40]
    said = ranvier(capfd, "train", houses, "--target", "dear", "--out", model, *options)
    assert "'dear' is taken for 2 classes: classification" in said.err
    test = put(tmp_path / "test.csv", new := table(seed=1))
    text = ranvier(capfd, "predict", model, test, "--probabilities", "--keep", "town,area").out
    assert text.splitlines()[0] == "town,area,dear,probability no,probability yes"
    right = np.mean(np.array(column(text, "dear")) == new["dear"])
    assert right > 0.9
    yes = np.array(column(text, "probability yes"), float)
    no = np.array(column(text, "probability no"), float)
    assert np.allclose(yes + no, 1.0, atol=1e-6)
    assert ((yes > no) == (np.array(column(text, "dear")) == "yes")).all()
    scores = json.loads(ranvier(capfd, "evaluate", model, test, "--json").out)["scores"]
    assert scores["accuracy"] == pytest.approx(right)


def test_parquet_is_read_and_written_and_gives_the_predictions_of_csv(tmp_path, fitted, capfd):
    columns = table(seed=1)
    columns["town"] = pa.array(columns["town"]).dictionary_encode()
    dates = pa.array(np.array(columns["sold"], "datetime64[D]"))
    pq.write_table(pa.table({**columns, "sold": dates}), tmp_path / "test.parquet")
    ranvier(capfd, "predict", fitted, tmp_path / "test.parquet", "-o", tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet")["price"]
    assert str(found.type) == "float"
    test = put(tmp_path / "test.csv", table(seed=1))
    text = ranvier(capfd, "predict", fitted, test).out
    assert np.array_equal(found.to_pylist(), np.array(column(text, "price"), np.float32))


def test_stdin_and_stdout_stand_for_files(fitted, houses):
    command = [sys.executable, "-m", "ranvier", "predict", str(fitted), "-"]
    with houses.open("rb") as file:
        result = subprocess.run(command, stdin=file, capture_output=True, check=True)
    assert result.stdout.count(b"\n") == ROWS + 1
    assert result.stderr == b""


def test_the_file_is_a_plain_model_too_whose_input_is_encoded(fitted, houses, capfd):
    model = rv.load(fitted)
    document = json.loads(ranvier(capfd, "inspect", fitted, "--json").out)
    inputs = document["table"]["inputs"]
    towns = sorted(name for name in inputs if name.startswith("town="))
    assert towns == ["town=Lund", "town=Oslo, N", "town=Rome"]
    columns = table()
    X = np.zeros((ROWS, len(inputs)))
    fill = next(c["fill"] for c in document["table"]["columns"] if c["name"] == "area")
    for number, name in enumerate(inputs):
        if name in towns:
            X[:, number] = [f"town={town}" == name for town in columns["town"]]
        elif name == "area":
            X[:, number] = [fill if area is None else area for area in columns["area"]]
        elif name == "area missing":
            X[:, number] = [area is None for area in columns["area"]]
        elif name == "garden":
            X[:, number] = columns["garden"]
        else:
            assert name == "sold"
            X[:, number] = np.array(columns["sold"], "datetime64[D]").astype(int)
    predicted = np.array(column(ranvier(capfd, "predict", fitted, houses).out, "price"), np.float32)
    assert np.array_equal(model.predict(X)[:, 0], predicted)
    # Numbers are scaled, truth values too; what says 0 or 1 of a category or a hole is not.
    scaled = [name in ("area", "garden", "sold") for name in inputs]
    assert ((model.parameters()["0.running_var"] > 0) == scaled).all()


def test_validation_rows_take_no_part_in_what_the_encoding_measures(tmp_path, capfd):
    """Those are the rows that `Trainer.fit(validation_split=)` holds out."""
    x = [0.0, None] * 50
    y = list(np.random.default_rng(0).normal(size=100))
    path, model = put(tmp_path / "t.csv", {"x": x, "y": y}), tmp_path / "m.st"
    options = ["--epochs", 1, "--quiet"]
    ranvier(
        capfd, "train", path, "--target", "y", "--out", model, *options, "--validation-data", path
    )
    stored = json.loads(ranvier(capfd, "inspect", model, "--json").out)
    assert stored["training"]["validation_rows"] == 100
    assert stored["training"]["rows"] == 100
    values = np.arange(100.0).tolist()
    path = put(tmp_path / "t.csv", {"x": values, "y": y})
    ranvier(capfd, "train", path, "--target", "y", "--out", model, "--epochs", 1, "--quiet")
    stored = json.loads(ranvier(capfd, "inspect", model, "--json").out)
    assert (stored["training"]["rows"], stored["training"]["validation_rows"]) == (80, 20)
    (only,) = stored["table"]["columns"]
    mean = rv.load(model).parameters()["0.running_mean"][0]
    assert mean == np.float32(only["fill"])
    assert only["fill"] != np.mean(values)


def test_the_same_seed_gives_the_same_file(tmp_path, houses, capfd):
    path, files = tmp_path / "m.st", []
    for seed in (1, 1, 2):
        options = ["--epochs", 3, "--seed", seed, "--quiet"]
        ranvier(capfd, "train", houses, "--target", "price", "--out", path, *options)
        files.append(path.read_bytes())
    assert files[0] == files[1] != files[2]


def test_training_ends_early_and_keeps_the_best_epoch(tmp_path, houses, capfd):
    model = tmp_path / "m.st"
    picture = tmp_path / "curves.svg"
    options = ["--epochs", 500, "--patience", 3, "--learning-rate", 0.05, "--json"]
    options += ["--plot", picture]
    document = json.loads(
        ranvier(capfd, "train", houses, "--target", "dear", "--out", model, *options).out
    )
    assert document["stopped_by"] == "patience"
    assert "<svg" in picture.read_text()
    assert document["epochs"] == document["best_epoch"] + 4 < 500
    history = json.loads(ranvier(capfd, "inspect", model, "--json").out)["training"]["history"]
    assert min(history["val_loss"]) == history["val_loss"][document["best_epoch"]]
    assert document["validation"]["loss"] == pytest.approx(min(history["val_loss"]))


def test_inspect_shows_network_columns_and_history(fitted, tmp_path, capfd):
    text = ranvier(capfd, "inspect", fitted, "--plot", tmp_path / "curves.png").out
    for part in (
        "numerics version 1",
        "7-64-64-1, 4737 parameters, float32",
        "Standardize(of='targets')",
        "predicts 'price', a quantity",
        "category: ",
        "trained for 40 epochs",
        "learning rate",
    ):
        assert part in text
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_inspect_shows_files_of_models_and_runs_from_python(tmp_path, capfd):
    model = rv.Sequential([rv.Dense(3, activation="tanh"), rv.Dense(1)], input_size=2)
    trainer = rv.Trainer(model, loss="mse")
    trainer.fit(np.eye(2), np.ones(2), epochs=3)
    model.save(tmp_path / "model.st")
    trainer.save(tmp_path / "run.st")
    assert "2-3-1, 13 parameters" in ranvier(capfd, "inspect", tmp_path / "model.st").out
    assert "trained for 3 epochs" in ranvier(capfd, "inspect", tmp_path / "run.st").out
    said = ranvier(capfd, "predict", tmp_path / "model.st", tmp_path / "x.csv", code=1).err
    assert "expected a model of `ranvier train`" in said
    said = ranvier(
        capfd, "inspect", tmp_path / "model.st", "--plot", tmp_path / "curves.png", code=1
    ).err
    assert "expected a model with a history" in said


# ---------------------------------------------------------------- check, export, bench


def test_check_compares_with_the_reference_on_rows_of_a_table_or_drawn_ones(fitted, houses, capfd):
    for data in ([], [houses]):
        text = ranvier(capfd, "check", fitted, *data, "--rows", 8, "--steps", 2).out
        assert "predictions in float32: core and reference agree" in text
        assert text.count("agree") == 2
    document = json.loads(ranvier(capfd, "check", fitted, "--rows", 4, "--json").out)
    assert document["ok"] is True
    assert 0 < document["predictions"]["max_error"] < document["predictions"]["allowed"]
    assert 0 < document["training"]["max_error"] < document["training"]["allowed_per_step"]


@pytest.mark.parametrize(
    ("loss", "outputs"),
    [("cross_entropy", 3), ("binary_cross_entropy", 2), ("poisson", 1), ("gaussian_nll", 4)],
)
def test_check_draws_targets_for_the_loss_of_a_run(tmp_path, loss, outputs, capfd):
    model = rv.Sequential([rv.Dense(4, activation="tanh"), rv.Dense(outputs)], input_size=2)
    trainer = rv.Trainer(model, loss=loss)
    trainer._ensured(model._require())
    trainer.save(tmp_path / "run.st")
    document = json.loads(ranvier(capfd, "check", tmp_path / "run.st", "--json").out)
    assert document["ok"]
    assert document["training"]["loss"] == repr(trainer.loss)


def test_check_finds_a_core_that_computes_something_else(fitted, monkeypatch, capfd):
    honest = rv.Sequential.predict

    def wrong(self, X, **options):
        return honest(self, X, **options) * np.float32(1.0001)

    monkeypatch.setattr(rv.Sequential, "predict", wrong)
    said = ranvier(capfd, "check", fitted, "--rows", 4, code=1)
    assert "predictions in float32: core and reference DISAGREE" in said.out


@pytest.fixture
def twin(monkeypatch):
    """An exporter among the real ones, and by what it is wrong; None where it cannot be run."""
    wrong = [0.0]

    def export(model, path, *, X=None, check=True):
        Path(path).write_text("exported")
        if not check or wrong[0] is None:
            return not_run("twin", (path,), "there is no twin here")
        expected = model.predict(rows_of(model, X))
        found = expected + np.float32(wrong[0]) * np.abs(expected).max()
        return compared("twin", (path,), "a test", expected, found)

    monkeypatch.setattr(rv.export, "twin", export, raising=False)
    monkeypatch.setattr(rv.export, "__all__", [*rv.export.__all__, "twin"])
    return wrong


def test_export_offers_what_the_library_has(fitted, houses, twin, tmp_path, capfd):
    out = tmp_path / "model.twin"
    command = ["export", fitted, "--format", "twin", "--out", out]
    assert ranvier(capfd, *command).out == f"written {out}\n"
    assert json.loads(ranvier(capfd, *command, "--json").out)["bit_equal"] is None
    said = ranvier(capfd, *command, "--check", "--data", houses).out
    assert said == f"twin: {out}: {ROWS} rows run by a test: the same bits\n"
    document = json.loads(ranvier(capfd, *command, "--check", "--json").out)
    assert document["bit_equal"] is True
    assert "town=Rome" in document["inputs"]
    said = ranvier(capfd, "export", fitted, "--out", out, code=1).err
    assert "--out: expected a name that ends in" in said
    assert "--data: expected --check" in ranvier(capfd, *command, "--data", houses, code=1).err
    with pytest.raises(SystemExit) as wrong:
        main(["export", str(fitted), "--format", "nosuch", "--out", str(out)])
    assert wrong.value.code == 2


def test_an_export_that_disagrees_or_cannot_be_checked_fails(fitted, twin, tmp_path, capfd):
    command = ["export", fitted, "--format", "twin", "--out", tmp_path / "model.twin", "--check"]
    twin[0] = 1e-6
    ranvier(capfd, *command)
    twin[0] = 1e-3
    assert "DISAGREES with the model" in ranvier(capfd, *command, code=1).err
    twin[0] = None
    assert "not run: there is no twin here" in ranvier(capfd, *command, code=1).out


@pytest.mark.parametrize("kind", [name for name in rv.export.__all__ if name.islower()])
def test_every_format_is_written_by_the_ending_of_its_name(fitted, kind, tmp_path, capfd):
    ending = next(ending for ending, name in ENDINGS.items() if name == kind)
    if kind == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    if kind == "c" and not (shutil.which("cc") or shutil.which("gcc")):
        pytest.skip("no C compiler")
    command = ["export", fitted, "--out", tmp_path / f"model{ending}", "--check"]
    assert ranvier(capfd, *command).out.startswith(f"{kind}: ")


def test_bench_measures_training_and_prediction(monkeypatch, capfd):
    from ranvier.cli import _bench

    monkeypatch.setattr(_bench, "NETWORKS", (((4, 8, 1), 16), ((8, 8, 3), 16)))
    document = json.loads(ranvier(capfd, "bench", "--seconds", 0.02, "--json").out)
    assert [result["network"] for result in document["results"]] == ["4-8-1", "8-8-3"]
    for result in document["results"]:
        products = {"4-8-1": 3 * (32 + 8) - 32, "8-8-3": 3 * (64 + 24) - 64}[result["network"]]
        expected = 2 * 16 * products * result["steps_per_second"] / 1e9
        assert result["gflops"] == pytest.approx(expected)
        assert 0 < result["share_of_peak"] < 1
        assert result["rows_per_second"] > 0 < result["single_row_us"]
        assert result["int8_rows_per_second"] > 0
    assert "4-8-1" in ranvier(capfd, "bench", "--seconds", 0.02).out


# ---------------------------------------------------------------- what a table may hold


def kinds(tmp_path, text, **options):
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())
    frame = read_table(str(path), **({"separator": None} | options))
    return {name: frame.kind(name)[0] for name in frame.names}


def test_columns_are_what_their_texts_are(tmp_path):
    text = (
        "\ufeffnumber,exponent,whole,truth,day,time,zip,word,huge,none,quoted\n"
        '1.5, 1e3 ,7,true,2024-01-31,2024-01-31 12:00,01234,a,123456789012345678,,"x\n1"\n'
        'NA,-2.5,8,FALSE,,2024-02-01T00:00:00,12345,b,123456789012345679,NA,"y,2"\n'
    )
    assert kinds(tmp_path, text) == {
        "number": "number",
        "exponent": "number",
        "whole": "number",
        "truth": "boolean",
        "day": "time",
        "time": "time",
        "zip": "category",
        "word": "category",
        "huge": "",
        "none": "",
        "quoted": "category",
    }
    frame = read_table(str(tmp_path / "t.csv"), None)
    assert frame.numbers("exponent").tolist() == [1000.0, -2.5]
    assert math.isnan(frame.numbers("number")[1])
    assert frame.booleans("truth").tolist() == [1.0, 0.0]
    assert frame.times("time").tolist() == [19753.5, 19754.0]
    assert frame.texts("quoted") == ["x\n1", "y,2"]


def test_identifiers_and_free_text_are_left_out(tmp_path):
    rows = "".join(f"{i},n{i},{i % 2}\n" for i in range(40))
    assert kinds(tmp_path, "id,note,x\n" + rows) == {"id": "", "note": "", "x": "number"}
    assert kinds(tmp_path, "size,note,x\n" + rows)["size"] == "number"
    assert kinds(tmp_path, "serial,atoms\n123456789012345678,6e23\n1,1e22\n") == {
        "serial": "",
        "atoms": "number",
    }


@pytest.mark.parametrize("date", ["31.12.{}", "12/31/{}", "1-2-{}", "31.12.{} 23:59"])
def test_dates_that_are_written_otherwise_are_left_out_and_it_says_how_to_write_them(
    tmp_path, date, capfd
):
    columns = {"sold": [date.format(2000 + row % 9) for row in range(60)], "x": range(60)}
    path = put(tmp_path / "t.csv", columns | {"y": range(60)})
    options = ["--target", "y", "--out", tmp_path / "m.st", "--epochs", 1, "--json"]
    said = ranvier(capfd, "train", path, *options)
    reason = json.loads(said.out)["left_out"]["sold"]
    assert reason.startswith("dates are read where they are written as 2024-12-31, not as ")
    assert f"column 'sold' is left out: {reason}" in said.err
    said = ranvier(capfd, "train", path, *options, "--categorical", "sold")
    assert json.loads(said.out)["columns"] == ["sold", "x"]


def test_texts_that_are_all_rare_are_left_out(tmp_path, capfd):
    rng = np.random.default_rng(0)
    columns = {"word": [f"w{row // 2}" for row in range(3000)], "x": rng.normal(size=3000)}
    path = put(tmp_path / "t.csv", columns | {"y": rng.normal(size=3000)})
    options = ["--out", tmp_path / "m.st", "--epochs", 1, "--json"]
    said = ranvier(capfd, "train", path, "--target", "y", *options)
    assert json.loads(said.out)["left_out"] == {"word": "all its texts are rare"}


def test_other_separators_missing_texts_and_compression(tmp_path):
    assert kinds(tmp_path, "a;b\n1;x\n", separator=";") == {"a": "number", "b": "category"}
    assert kinds(tmp_path, "a,b\n1,?\n?,2\n", absent=["?"]) == {"a": "number", "b": "number"}
    import gzip

    (tmp_path / "t.tsv.gz").write_bytes(gzip.compress(b"a\tb\n1\tx\n"))
    assert read_table(str(tmp_path / "t.tsv.gz"), None).names == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "got an empty file"),
        ("\n\n", "got an empty file"),
        ("a,b\n", "expected rows below the names"),
        ("a,a\n1,2\n", "got 'a' more than once"),
        ("a;b\n1;2\n", "pass --separator ';'"),
        ("a\tb\n1\t2\n", "pass --separator tab"),
        ("a,b\n1,2\n3\n", "Row #3: Expected 2 columns, got 1"),
        *(
            (f'a,b\n1,"{one}"\n2,"2,25"\n', f"numbers such as 1234.5 in column 'b', got '{one}'")
            for one in ("1,5", "-1.234,5", "1,234", "1,234,567.8", "1.234.567")
        ),
        ("a,b\n1,inf\n2,3\n", "expected finite numbers in column 'b', got inf in row 1"),
        ("a,c\n1,2\n", "expected column 'b' of --target, got 'a', 'c'\n"),
        ("a,B\n1,2\n", "expected column 'b' of --target, got 'a', 'B'; did you mean 'B'?"),
        ("a,b\n1,\n2,\n", "expected values in column 'b', got none"),
        ("a,b\n1,3\n2,3\n", "got 3 in all rows"),
        ("a,b\n1,x\n2,y\n", "2 different values in 2 rows"),
        ("b\n1\n2\n", "expected a column to predict 'b' from"),
        ("a,b\n5,1\n5,2\n", "expected a column to predict 'b' from"),
        ("a,b\n1e-30,1\n2e-30,2.5\n3e-30,7\n", "pass --dtype float64"),
    ],
)
def test_a_table_that_does_not_serve_is_one_line_and_no_file(tmp_path, text, said, capfd):
    path = tmp_path / "t.csv"
    path.write_text(text)
    captured = ranvier(capfd, "train", path, "--target", "b", "--out", tmp_path / "m.st", code=1)
    assert captured.out == ""
    assert captured.err.splitlines()[-1].startswith("ranvier: ")
    assert said in captured.err
    assert names(tmp_path) == ["t.csv"]


@pytest.mark.parametrize("command", ["predict", "evaluate", "inspect", "check", "export"])
def test_a_table_in_the_place_of_the_model_is_said(tmp_path, houses, fitted, command, capfd):
    rest = {"inspect": [], "export": ["--out", tmp_path / "m.py"]}.get(command, [fitted])
    said = ranvier(capfd, command, houses, *rest, code=1).err
    assert said == (
        "ranvier: MODEL: expected a model file, such as `ranvier train` writes, got a table, "
        f"{houses}\n"
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (-0.0123456, "-0.01235"),
        (0.98765, "0.9877"),
        (1.0, "1.000"),
        (48.3307, "48.33"),
        (999.96, "1000"),
        (-32031.7, "-32032"),
        (1.23456e9, "1.235e+09"),
        (math.inf, "inf"),
        (math.nan, "-"),
        (None, "-"),
    ],
)
def test_figures_have_four_digits_and_no_power_below_a_million(value, shown):
    assert figure(value) == shown


def test_other_encodings_and_files_are_refused(tmp_path, capfd):
    for name, data, said in [
        ("t.csv", "a,b\n1,\u00e4\n".encode("latin-1"), "UTF-8"),
        ("t.csv", b"PK\x03\x04\x00\xff\xfe,b\n", "UTF-8"),
        ("t.parquet", b"a,b\n1,2\n", "expected a Parquet file"),
        ("t.parquet", b"", "expected a Parquet file"),
    ]:
        (tmp_path / name).write_bytes(data)
        err = ranvier(
            capfd, "train", tmp_path / name, "--target", "b", "--out", tmp_path / "m", code=1
        ).err
        assert said in err
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (["a", "b"] * 20, "classification"),
        (["true", "false"] * 20, "classification"),
        ([0, 1] * 20, "classification"),
        ([-1.5, 2.5] * 20, "classification"),
        ([1, 2, 3, 4, 5] * 8, "classification"),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10] * 4, "regression"),
        ([0.5, 1.5, 2.5] * 14, "regression"),
        (list(range(40)), "regression"),
    ],
)
def test_whether_a_target_is_classes_or_a_quantity(tmp_path, values, task, capfd):
    x = np.random.default_rng(0).normal(size=len(values)).tolist()
    path, model = put(tmp_path / "t.csv", {"x": x, "y": values}), tmp_path / "m.st"
    said = ranvier(capfd, "train", path, "--target", "y", "--out", model, "--epochs", 2, "--json")
    assert json.loads(said.out)["task"] == task
    assert task in said.err
    predicted = column(ranvier(capfd, "predict", model, path).out, "y")
    if task == "classification":
        assert set(predicted) <= set(map(str, values))
    numbers = not isinstance(values[0], str)
    if numbers:
        other = "regression" if task == "classification" else "classification"
        assert f"pass --task {other}" in said.err
    if numbers and task == "classification":
        options = ["--task", "regression", "--epochs", 2, "--json"]
        said = ranvier(capfd, "train", path, "--target", "y", "--out", model, *options)
        assert json.loads(said.out)["task"] == "regression"
        assert "taken for" not in said.err


def test_words_are_no_quantity(tmp_path, houses, capfd):
    command = ["train", houses, "--target", "dear", "--task", "regression", "--out", tmp_path / "m"]
    assert (
        "expected numbers for --task regression, got 'no'" in ranvier(capfd, *command, code=1).err
    )


def test_rows_without_a_target_are_left_out_and_said(tmp_path, capfd):
    columns = table()
    columns["price"][:7] = [None] * 7
    path, model = put(tmp_path / "t.csv", columns), tmp_path / "m.st"
    said = ranvier(
        capfd, "train", path, "--target", "price", "--out", model, "--epochs", 1, "--json"
    )
    assert f"7 of {ROWS} rows have no 'price' and are left out" in said.err
    document = json.loads(said.out)
    assert document["rows"] + document["validation_rows"] == ROWS - 7


def test_few_rows_are_all_trained_on(tmp_path, capfd):
    path = put(tmp_path / "t.csv", {"x": [1, 2, 3, 4], "y": [1.5, 2.5, 3.5, 4.25]})
    said = ranvier(capfd, "train", path, "--target", "y", "--out", tmp_path / "m.st", "--json")
    assert "too few to hold some out" in said.err
    assert json.loads(said.out)["training"]["r2"] > 0


def test_numbers_are_categories_where_it_is_said(tmp_path, capfd):
    columns = table() | {"floor": [1, 2, 3] * (ROWS // 3)}
    path, model = put(tmp_path / "t.csv", columns), tmp_path / "m.st"
    options = ["--categorical", "floor,town", "--epochs", 1, "--quiet"]
    ranvier(capfd, "train", path, "--target", "price", "--out", model, *options)
    inputs = json.loads(ranvier(capfd, "inspect", model, "--json").out)["table"]["inputs"]
    assert {"floor=1", "floor=2", "floor=3"} < set(inputs)
    said = ranvier(
        capfd, "train", path, "--target", "price", "--out", model, "--categorical", "flor", code=1
    )
    assert "expected column 'flor' of --categorical" in said.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ignore", "price"], "--ignore: expected other columns than those of --target"),
        (["--categorical", "town", "--ignore", "town"], "got 'town'"),
        (["--validation-split", 0.1, "--validation-data", "x.csv"], "--validation-split: expected"),
        (["--hidden", "0"], None),
        (["--hidden", "8,,8"], None),
        (["--dropout", 1], None),
        (["--learning-rate", "nan"], None),
        (["--activation", "step"], None),
        (["--separator", ";;"], None),
        (["--validation-split", 1], None),
    ],
)
def test_options_that_contradict_or_have_no_meaning_are_refused(
    tmp_path, houses, options, said, capfd
):
    command = ["train", houses, "--target", "price", "--out", tmp_path / "m.st", *options]
    if said is None:
        with pytest.raises(SystemExit) as wrong:
            ranvier(capfd, *command)
        assert wrong.value.code == 2
        assert f"argument {options[0]}" in capfd.readouterr().err
    else:
        assert said in ranvier(capfd, *command, code=1).err


def test_a_separator_without_a_csv_file_is_refused(tmp_path, fitted, houses, capfd):
    pq.write_table(pa.table(table()), tmp_path / "t.parquet")
    path, out = tmp_path / "t.parquet", tmp_path / "m.st"
    for command in (
        ["train", path, "--target", "price", "--out", out],
        ["predict", fitted, path],
        ["quantize", fitted, path, "-o", out],
        ["check", fitted],
    ):
        captured = ranvier(capfd, *command, "--separator", ";", code=1)
        assert captured.err.startswith("ranvier: --separator: expected a CSV file to read, got ")
        assert captured.out == ""
    # One of two tables is CSV.
    semicolons = tmp_path / "t.csv"
    semicolons.write_text(houses.read_text().replace(",", ";").replace('"Oslo; N"', '"Oslo, N"'))
    command = ["train", path, "--target", "price", "--out", out, "--epochs", 1, "--quiet"]
    ranvier(capfd, *command, "--separator", ";", "--validation-data", semicolons)


def test_balanced_classes_find_the_rare_one(tmp_path, houses, capfd):
    rng = np.random.default_rng(0)
    x = rng.normal(size=1000)
    hit = np.where(rng.random(1000) < 1 / (1 + np.exp(4 - 2 * x)), "yes", "no").tolist()
    path = put(tmp_path / "rare.csv", {"x": x.tolist(), "hit": hit})
    found = {}
    for options in ((), ("--class-weight", "balanced")):
        model = tmp_path / "m.st"
        command = ["train", path, "--target", "hit", "--out", model, "--epochs", 20, "--quiet"]
        ranvier(capfd, *command, *options)
        scores = json.loads(ranvier(capfd, "evaluate", model, path, "--json").out)["scores"]
        found[options] = scores["balanced_accuracy"]
        training = json.loads(ranvier(capfd, "inspect", model, "--json").out)["training"]
        assert training["class_weight"] == (options[1] if options else None)
        text = ranvier(capfd, "inspect", model).out
        assert ("class weight balanced" in text) == bool(options)
    plain, balanced = found.values()
    assert balanced > plain + 0.1
    command = ["train", houses, "--target", "price", "--out", model, "--class-weight", "balanced"]
    said = ranvier(capfd, *command, code=1).err
    assert "--class-weight: expected a target of classes, got a quantity, 'price'" in said


def test_a_quantity_has_no_probabilities(fitted, houses, capfd):
    said = ranvier(capfd, "predict", fitted, houses, "--probabilities", code=1)
    assert "--probabilities: expected a model of classes" in said.err
    assert said.out == ""


# ---------------------------------------------------------------- rows unlike those of training


def test_an_unknown_category_is_said_and_taken_as_none(tmp_path, fitted, capfd):
    columns = table(rows=3, seed=2) | {"town": ["Rome", "Berlin", "Berlin"]}
    path = put(tmp_path / "new.csv", columns)
    said = ranvier(capfd, "predict", fitted, path, "--json", "--keep", "town")
    assert "column 'town': 2 of 3 rows have a category that the training has not seen" in said.err
    assert "'Berlin'" in said.err
    document = json.loads(said.out)
    assert document["unknown_categories"] == {"town": 2}
    assert document["predictions"]["town"] == ["Rome", "Berlin", "Berlin"]
    predictions = document["predictions"]["price"]
    assert len(predictions) == 3
    assert np.isfinite(predictions).all()


def test_values_missing_where_training_had_them_are_said_and_filled(tmp_path, fitted, capfd):
    columns = table(rows=3, seed=2) | {"sold": ["2016-01-01", "", "NA"]}
    said = ranvier(capfd, "predict", fitted, put(tmp_path / "new.csv", columns))
    assert "column 'sold': 2 of 3 rows have no value, which the training always had" in said.err
    assert said.out.count("\n") == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"area": None}, "expected column 'area' of the training, got 'town'"),
        ({"area": None, "town": None}, "expected columns 'town', 'area' of the training"),
        ({"area": ["1", "wide", "2"]}, "expected a number in column 'area', got 'wide' in row 2"),
        ({"garden": ["true", "no", ""]}, "expected true or false in column 'garden', got 'no'"),
        ({"sold": ["2016-01-01", "", "soon"]}, "column 'sold', got 'soon' in row 3"),
    ],
)
def test_columns_unlike_those_of_training_are_refused(tmp_path, fitted, change, said, capfd):
    columns = {k: v for k, v in (table(rows=3) | change).items() if v is not None}
    path, out = put(tmp_path / "new.csv", columns), tmp_path / "out.csv"
    captured = ranvier(capfd, "predict", fitted, path, "-o", out, code=1)
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not out.exists()


def test_order_of_columns_and_further_ones_do_not_matter(tmp_path, fitted, houses, capfd):
    columns = dict(reversed(table().items())) | {"more": ["?"] * ROWS}
    other = put(tmp_path / "other.csv", columns)
    assert (
        ranvier(capfd, "predict", fitted, houses).out
        == ranvier(capfd, "predict", fitted, other).out
    )


def test_a_class_that_training_did_not_have_is_refused(tmp_path, houses, capfd):
    model = tmp_path / "m.st"
    ranvier(capfd, "train", houses, "--target", "dear", "--out", model, "--epochs", 1, "--quiet")
    new = put(tmp_path / "new.csv", table(rows=3) | {"dear": ["yes", "no", "perhaps"]})
    said = ranvier(capfd, "evaluate", model, new, code=1).err
    assert "expected classes of the training in column 'dear', 'no', 'yes', got 'perhaps'" in said
    without = {k: v for k, v in table(rows=3).items() if k != "dear"}
    said = ranvier(capfd, "evaluate", model, put(tmp_path / "new.csv", without), code=1).err
    assert "expected column 'dear' to compare with" in said


# ---------------------------------------------------------------- files


def test_a_wrong_model_file_is_one_line(tmp_path, houses, capfd):
    (tmp_path / "torn.st").write_bytes(b"torn")
    for command in ("predict", "evaluate", "check", "inspect"):
        data = [] if command == "inspect" else [houses]
        for path in (houses, tmp_path / "nosuch.st", tmp_path / "torn.st", tmp_path):
            captured = ranvier(capfd, command, path, *data, code=1)
            assert captured.out == ""
            assert captured.err.startswith("ranvier: ")
            assert str(path) in captured.err
            assert captured.err.count("\n") == 1


def stored(fitted):
    """Table and training of a file, as they may be changed."""
    document = {}
    for key in ("ranvier.table", "ranvier.training"):
        from ranvier._files import Reader

        document[key] = json.loads(Reader(fitted).metadata[key])
    return document


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d.update({"ranvier.table": []}),
        lambda d: d["ranvier.table"].update(version=2),
        lambda d: d["ranvier.table"].pop("columns"),
        lambda d: d["ranvier.table"].update(columns=[]),
        lambda d: d["ranvier.table"].update(columns={}),
        lambda d: d["ranvier.table"]["columns"].pop(),
        lambda d: d["ranvier.table"]["columns"].append(d["ranvier.table"]["columns"][0]),
        lambda d: d["ranvier.table"]["columns"][0].update(kind="unknown"),
        lambda d: d["ranvier.table"]["columns"][0].update(categories=["a", "a"]),
        lambda d: d["ranvier.table"]["columns"][0].update(categories=[["a"], "b", "c"]),
        lambda d: d["ranvier.table"]["columns"][1].update(fill=math.nan),
        lambda d: d["ranvier.table"]["columns"][1].update(fill="1"),
        lambda d: d["ranvier.table"]["columns"][1].update(indicator=1),
        lambda d: d["ranvier.table"]["columns"][1].update(name=None),
        lambda d: d["ranvier.table"]["target"].update(classes=["a", "b"]),
        lambda d: d["ranvier.table"]["target"].update(classes=["a"]),
        lambda d: d["ranvier.table"]["target"].update(classes=["a", 1]),
        lambda d: d["ranvier.table"]["target"].update(classes=[{}, {}]),
        lambda d: d["ranvier.table"].update(missing=[None]),
        lambda d: d["ranvier.table"].update(left_out=["id"]),
        lambda d: d["ranvier.training"].update(history={"loss": [1.0]}),
        lambda d: d["ranvier.training"].update(history={"epoch": [0], "loss": ["x"]}),
        lambda d: d["ranvier.training"].update(history={"epoch": [0], "loss": []}),
        lambda d: d["ranvier.training"].update(history=None),
        lambda d: d["ranvier.training"].update(scores={"r2": "x"}),
        lambda d: d["ranvier.training"].update(scores=[]),
        lambda d: d["ranvier.training"].update(loss={"class": "os.system", "options": {}}),
    ],
)
def test_a_forged_table_or_history_is_refused(fitted, spoil, capfd):
    document = stored(fitted)
    spoil(document)
    rv.load(fitted)._write(str(fitted), document)
    captured = ranvier(capfd, "inspect", fitted, code=1)
    assert captured.out == ""
    assert f"ranvier: {fitted}: expected a file of ranvier's, got" in captured.err
    assert captured.err.count("\n") == 1


def test_names_cannot_steer_the_terminal(tmp_path, capfd):
    columns = {"x\x1b[31m": [1, 2, 3, 4] * 5, "y": ["a\x07", "b"] * 10}
    path, model = put(tmp_path / "t.csv", columns), tmp_path / "m.st"
    said = ranvier(capfd, "train", path, "--target", "y", "--out", model, "--epochs", 1)
    shown = said.out + said.err + ranvier(capfd, "inspect", model).out
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "x\\x1b[31m" in shown


def test_a_full_disk_leaves_what_was_there(tmp_path, fitted, houses, capfd):
    """A limit on the size of files stands for the disk: EFBIG where it would be ENOSPC."""
    out = tmp_path / "out.csv"
    out.write_text("old")
    before = fitted.read_bytes()
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    said = []
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
        for command in (
            ["predict", fitted, houses, "-o", out],
            ["train", houses, "--target", "price", "--out", fitted, "--epochs", 1, "--quiet"],
            ["inspect", fitted, "--plot", tmp_path / "curves.png"],
            ["export", fitted, "--out", tmp_path / "network.c"],
        ):
            # pytest's own files have the limit too.
            lines = []
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("sys.stderr", io.StringIO())
                patch.setattr("sys.stdout", io.StringIO())
                assert main(list(map(str, command))) == 1
                lines = sys.stderr.getvalue().splitlines()
            said.append(lines[-1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert all(os.strerror(errno.EFBIG) in line for line in said), said
    assert said[0] == f"ranvier: {out}: {os.strerror(errno.EFBIG)}"
    assert said[3] == f"ranvier: {tmp_path / 'network.c'}: {os.strerror(errno.EFBIG)}"
    assert out.read_text() == "old"
    assert fitted.read_bytes() == before
    assert names(tmp_path) == ["houses.csv", "model.safetensors", "out.csv"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_an_output_that_is_full_is_said_once(fitted, houses):
    command = [sys.executable, "-m", "ranvier", "predict", str(fitted), str(houses)]
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        result = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert result.returncode == 1
    assert result.stderr == "ranvier: the standard output: No space left on device\n"
    result = subprocess.run(
        [*command, "-o", "/dev/full"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stderr == "ranvier: /dev/full: No space left on device\n"
    assert not Path("/dev/full").is_file()


@pytest.mark.parametrize("out", ["missing/model.st", "."])
def test_a_place_that_cannot_be_written_is_refused_before_training(tmp_path, houses, out, capfd):
    path = tmp_path / out
    captured = ranvier(capfd, "train", houses, "--target", "price", "--out", path, code=1)
    assert captured.err.startswith("ranvier: --out: expected")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        "train table.csv --target price --out table.csv",
        "train houses.csv --target price --validation-data table.csv --out ./table.csv",
        "train houses.csv --target price --out new.png --plot new.png",
        "predict model.png table.csv -o table.csv",
        "predict model.png table.csv -o model.png",
        "export model.png --format onnx --out model.png",
        "export model.png --format onnx --check --data table.csv --out table.csv",
        "inspect model.png --plot model.png",
    ],
)
def test_no_result_takes_the_place_of_another_file_of_the_command(
    tmp_path, fitted, houses, command, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(houses, "table.csv")
    shutil.copy(fitted, "model.png")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    said = ranvier(capfd, *command.split(), code=1).err
    assert "expected a file of its own, got" in said
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_link_is_followed_and_one_to_itself_is_an_error(tmp_path, fitted, houses, capfd):
    link, loop = tmp_path / "link", tmp_path / "loop"
    link.symlink_to("out.csv")
    loop.symlink_to(loop)
    ranvier(capfd, "predict", fitted, houses, "-o", link)
    assert link.is_symlink()
    assert len((tmp_path / "out.csv").read_text().splitlines()) == ROWS + 1
    said = ranvier(capfd, "predict", fitted, houses, "-o", loop / "out.csv", code=1).err
    assert said.startswith("ranvier: ")
    assert said.count("\n") == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_predictions_go_into_a_pipe_and_models_do_not(tmp_path, fitted, houses, capfd):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    said = ranvier(capfd, "train", houses, "--target", "price", "--out", pipe, code=1).err
    assert "--out: expected the name of a file, got a pipe or device" in said
    command = [sys.executable, "-c", f"print(len(open({str(pipe)!r}).readlines()))"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        ranvier(capfd, "predict", fitted, houses, "-o", pipe)
        assert reader.communicate(timeout=30)[0] == f"{ROWS + 1}\n"
    assert pipe.is_fifo()


def test_without_pyarrow_it_says_what_to_install(houses, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said = ranvier(capfd, "train", houses, "--target", "x", "--out", tmp_path / "m", code=1).err
    assert said.endswith("pip install 'ranvier[cli]'\n")


# ---------------------------------------------------------------- Ctrl-C


def test_ctrl_c_saves_the_best_model_so_far(tmp_path, houses, capfd):
    model = tmp_path / "m.st"
    many = ["--epochs", "1000000", "--patience", "1000000", "--hidden", "8", "--json"]
    # A tenth part of the epochs is too far away to wait for its line.
    code = (
        "import sys, time; from ranvier.cli import _output, main\n"
        "from ranvier.cli import _train\n"
        "honest = _train.scored\n"
        "def slowly(*arguments):\n"
        "    _output.note('saving')\n"
        "    time.sleep(0.3)\n"
        "    return honest(*arguments)\n"
        "_train.scored = slowly\n"
        "def every(self, epoch, logs):\n"
        "    if epoch == 20: _output.note('epoch 21')\n"
        "_output.Lines.on_epoch_end = every\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "train", str(houses), "--target", "price"]
    command += ["--out", str(model), *many]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        while "epoch 21" not in (line := process.stderr.readline()):
            assert line
        process.send_signal(signal.SIGINT)
        assert "saving" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    # The second one came while the first was obeyed.
    assert err == f"interrupted: the best model so far was saved to {model}\n"
    document = json.loads(out)
    assert document["stopped_by"] == "interrupt"
    assert 21 <= document["epochs"] < 1000000
    history = json.loads(ranvier(capfd, "inspect", model, "--json").out)["training"]["history"]
    assert history["val_loss"][document["best_epoch"]] == min(history["val_loss"])
    assert document["validation"]["loss"] == pytest.approx(min(history["val_loss"]))
    assert ranvier(capfd, "predict", model, houses).out.count("\n") == ROWS + 1


def test_ctrl_c_before_the_first_epoch_saves_nothing(tmp_path, houses, monkeypatch, capfd):
    def interrupt(self, trainer):
        raise KeyboardInterrupt

    monkeypatch.setattr(rv.EarlyStopping, "on_train_begin", interrupt)
    model = tmp_path / "m.st"
    said = ranvier(capfd, "train", houses, "--target", "price", "--out", model, code=130)
    assert said.out == ""
    assert "nothing was saved" in said.err
    assert not model.exists()


@pytest.mark.parametrize(("seconds", "epochs"), [(0.5, [4, 8]), (4, [4, 8]), (8, [2, 4, 6, 8])])
def test_without_a_terminal_a_long_training_has_more_lines(monkeypatch, capsys, seconds, epochs):
    lines = Lines(40)
    for epoch in range(8):
        with monkeypatch.context() as patch:
            later = time.monotonic() + seconds * (epoch + 1)
            patch.setattr("ranvier.cli._output.time.monotonic", lambda later=later: later)
            lines.on_epoch_end(epoch, {"loss": 1.0})
    said = capsys.readouterr().err.splitlines()
    assert said == [f"epoch {epoch}/40  loss 1.000" for epoch in epochs]


def test_a_training_that_diverges_says_so_and_saves_nothing(tmp_path, houses, capfd):
    options = ["--learning-rate", "1e30", "--out", tmp_path / "m.st", "--quiet"]
    said = ranvier(capfd, "train", houses, "--target", "price", *options, code=1)
    assert "a smaller --learning-rate than 1e+30 usually helps" in said.err
    assert said.err.count("usually helps") == 1
    assert names(tmp_path) == ["houses.csv"]


# ---------------------------------------------------------------- whatever comes

ENTRIES = st.one_of(
    st.sampled_from(["", "NA", "1", "0", "-2.5", "1e300", "-1e300", "1e-320", "inf", "true"]),
    st.sampled_from(["False", "007", "1,5", "2024-01-31", "0001-01-01", "9999-12-31T23:59:59"]),
    st.just("123456789012345678901"),
    st.integers(-3, 3).map(str),
    st.floats(-1e6, 1e6).map(str),
    st.text(st.characters(codec="utf-8"), max_size=4),
)


@settings(max_examples=int(os.environ.get("RANVIER_TABLES", "30")))
@given(
    titles=st.lists(st.text(st.characters(codec="utf-8"), max_size=3), min_size=1, max_size=3),
    rows=st.lists(st.tuples(ENTRIES, ENTRIES, ENTRIES, ENTRIES), max_size=14),
    again=st.integers(1, 8),
    task=st.sampled_from([[], ["--task", "regression"], ["--task", "classification"]]),
)
def test_any_table_is_learnt_and_predicted_or_refused_in_one_line(titles, rows, again, task):
    """RANVIER_TABLES=5000 for more of it."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        data, model, out = (str(Path(folder, name)) for name in ("t.csv", "m.st", "out.csv"))
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow([*titles, "y"])
        writer.writerows([[*row[: len(titles)], row[-1]] for row in rows * again])
        Path(data).write_bytes(text.getvalue().encode())
        patch.setattr("sys.stderr", io.StringIO())
        patch.setattr("sys.stdout", io.StringIO())
        options = ["--target", "y", "--out", model, "--epochs", "2", "--hidden", "3", *task]
        code = main(["train", data, *options])
        last = sys.stderr.getvalue().splitlines()[-1]
        assert last.startswith("ranvier: ") == (code == 1), last
        assert code in (0, 1)
        if code == 1:
            assert names(Path(folder)) == ["t.csv"]
            return
        code = main(["predict", model, data, "-o", out])
        if "are left out" in sys.stderr.getvalue() and code == 1:
            # Rows without a target, which the training has not looked at.
            assert sys.stderr.getvalue().splitlines()[-1].startswith("ranvier: ")
            return
        assert code == 0, sys.stderr.getvalue()
        with Path(out).open(newline="", encoding="utf-8") as file:
            assert sum(1 for _ in csv.reader(file)) == 1 + len(rows) * again
        patch.setattr("sys.stdout", io.StringIO())
        assert main(["evaluate", model, data, "--json"]) == 0, sys.stderr.getvalue()
        assert json.loads(sys.stdout.getvalue())["rows"] > 0
