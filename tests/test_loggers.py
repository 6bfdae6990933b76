"""Callbacks that show or write down how a training goes."""

import csv
import io
import itertools
import math
import sys

import numpy as np
import pytest

import ranvier as rv

X = np.random.default_rng(0).normal(size=(40, 3))
LABELS = (X[:, 0] > 0) * 1


def fit(*callbacks, epochs=4, trainer=None, **options):
    if trainer is None:
        model = rv.Sequential([rv.Dense(2)], input_size=3)
        trainer = rv.Trainer(model, loss="cross_entropy")
    options = {"validation_split": 0.25, "batch_size": 10} | options
    trainer.fit(X, LABELS, epochs=epochs, callbacks=callbacks, **options)
    return trainer


class Terminal(io.StringIO):
    def isatty(self):
        return True


# ---------------------------------------------------------------- the progress bar


def test_the_plain_line_is_written_over_and_ends(monkeypatch):
    monkeypatch.setattr(rv.ProgressBar, "_PAUSE", 0.0)
    out = Terminal()
    trainer = fit(rv.ProgressBar(file=out, plain=True))
    lines = out.getvalue().split("\r")[1:]
    assert out.getvalue().count("\n") == 1
    assert out.getvalue().endswith("\n")
    assert [line.split()[1] for line in lines] == ["1/4", "2/4", "3/4", "4/4", "4/4"]
    row = trainer.history.rows()[-1]
    last = lines[-1].rstrip()
    assert last.startswith(
        f"epoch 4/4 loss {row['loss']:.4g} val_loss {row['val_loss']:.4g} "
        f"val_accuracy {row['val_accuracy']:.4g} "
    )
    assert last.endswith("s left")
    # Each line covers what was left of the one before.
    assert all(len(a.rstrip()) <= len(b) for a, b in itertools.pairwise(lines))
    out = Terminal()
    fit(rv.ProgressBar(file=out, plain=True), trainer=trainer)
    assert "epoch 8/8" in out.getvalue()


def test_the_plain_line_does_not_hold_up_a_slow_terminal():
    out = Terminal()
    fit(rv.ProgressBar(file=out, plain=True), epochs=2000, validation_split=None)
    # Some ten a second, whatever the epochs.
    assert out.getvalue().count("\r") < 100
    assert "epoch 2000/2000" in out.getvalue().rsplit("\r", 1)[1]


def test_tqdm_draws_the_bar_where_it_is_installed():
    pytest.importorskip("tqdm")
    out = Terminal()
    fit(rv.ProgressBar(file=out))
    assert "100%" in out.getvalue()
    assert "val_accuracy=" in out.getvalue()
    assert "4/4" in out.getvalue()


def test_without_tqdm_the_plain_line_takes_its_place(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    out = Terminal()
    fit(rv.ProgressBar(file=out))
    assert "epoch 4/4" in out.getvalue()


def test_what_is_no_terminal_gets_nothing(capsys):
    out = io.StringIO()
    fit(rv.ProgressBar(file=out), rv.ProgressBar())
    assert out.getvalue() == ""
    assert capsys.readouterr() == ("", "")


def test_the_line_ends_also_when_training_does_not(monkeypatch):
    class Fail(rv.Callback):
        def on_epoch_end(self, epoch, logs):
            raise KeyboardInterrupt

    out = Terminal()
    with pytest.raises(KeyboardInterrupt):
        fit(rv.ProgressBar(file=out, plain=True), Fail())
    assert out.getvalue().endswith("\n")


# ---------------------------------------------------------------- files


def test_a_csv_file_has_the_history(tmp_path):
    path = tmp_path / "log.csv"
    trainer = fit(rv.CSVLogger(path))
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [{k: float(v) for k, v in row.items()} for row in rows] == trainer.history.rows()
    # Appended rows keep the columns; without append the file begins anew.
    fit(rv.CSVLogger(path, append=True), trainer=trainer, epochs=2, validation_split=None)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == list("012345")
    assert rows[-1]["val_loss"] == ""
    fit(rv.CSVLogger(path), trainer=trainer, epochs=1)
    assert path.read_text(encoding="utf-8").count("\n") == 2


def test_a_csv_row_is_there_as_soon_as_its_epoch_has_ended(tmp_path):
    path, seen = tmp_path / "log.csv", []

    class Look(rv.Callback):
        def on_epoch_end(self, epoch, logs):
            seen.append(path.read_text(encoding="utf-8").count("\n"))

    fit(rv.CSVLogger(path, append=True), Look())
    assert seen == [2, 3, 4, 5]
    with pytest.raises(FileNotFoundError):
        fit(rv.CSVLogger(tmp_path / "no" / "log.csv"))


def test_the_rate_of_every_step_is_kept():
    monitor = rv.LearningRateMonitor()
    schedule = rv.schedules.Cosine(0.1, steps=12)
    model = rv.Sequential([rv.Dense(2)], input_size=3)
    optimizer = rv.SGD(learning_rate=schedule)
    fit(monitor, trainer=rv.Trainer(model, loss="cross_entropy", optimizer=optimizer))
    assert monitor.steps == list(range(1, 13))
    assert monitor.rates == [schedule(step) for step in range(12)]


def test_tensorboard_has_the_history(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto import event_pb2

    trainer = fit(rv.TensorBoard(tmp_path))
    (file,) = tmp_path.iterdir()
    data, found = file.read_bytes(), {}
    while data:
        length = int.from_bytes(data[:8], "little")
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    assert set(found) == {"loss", "val_loss", "val_accuracy", "learning_rate"}
    for name, points in found.items():
        assert [step for step, _ in points] == trainer.history["step"]
        np.testing.assert_allclose([value for _, value in points], trainer.history[name], 1e-6)


def test_mlflow_has_the_history(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    # The skinny package has no other store of its own.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    with mlflow.start_run() as run:
        trainer = fit(rv.MLflow())
        assert mlflow.active_run() is not None
    client = mlflow.MlflowClient()
    stored = client.get_metric_history(run.info.run_id, "val_loss")
    assert [point.value for point in stored] == trainer.history["val_loss"]
    assert [point.step for point in stored] == trainer.history["step"]
    assert client.get_run(run.info.run_id).data.params["ranvier.loss"] == "CrossEntropy()"
    fit(rv.MLflow())
    assert mlflow.active_run() is None


@pytest.mark.parametrize(
    ("package", "callback", "extra"),
    [
        ("tensorboardX", lambda: rv.TensorBoard("runs"), r"ranvier\[tensorboard\]"),
        ("mlflow", rv.MLflow, r"ranvier\[mlflow\]"),
    ],
)
def test_a_missing_package_is_named_before_anything_changes(monkeypatch, package, callback, extra):
    monkeypatch.setitem(sys.modules, package, None)
    model = rv.Sequential([rv.Dense(2)], input_size=3)
    trainer = rv.Trainer(model, loss="cross_entropy")
    with pytest.raises(rv.MissingDependencyError, match=extra):
        fit(callback(), trainer=trainer)
    assert trainer.step == 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: rv.ProgressBar(file=3), "file: .*got 3"),
        (lambda: rv.ProgressBar(plain=1), "plain: .*got 1"),
        (lambda: rv.CSVLogger(3), "path: .*got 3"),
        (lambda: rv.CSVLogger("log", append="yes"), "append: .*got 'yes'"),
        (lambda: rv.TensorBoard(None), "path: .*got None"),
    ],
)
def test_wrong_options_are_refused(make, words):
    with pytest.raises(rv.RanvierError, match=words):
        make()


def test_figures_without_a_value_are_left_out(tmp_path):
    """A metric of one's own that failed has None in the history, a NaN is a figure."""
    from ranvier.loggers import _figures

    assert _figures({"epoch": 1, "loss": 2.0, "val_own": None}) == {"loss": 2.0}
    assert math.isnan(_figures({"val_loss": math.nan})["val_loss"])
