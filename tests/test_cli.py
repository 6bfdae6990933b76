"""The command line: what it prints where, and its exit codes."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest

import ranvier as rv
from ranvier.cli import main


def run(*arguments, **options):
    command = [sys.executable, "-m", "ranvier", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_demo_learns_digits_and_agrees_with_the_reference():
    result = run("demo")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    accuracy = next(line for line in lines if line.startswith("test accuracy"))
    assert float(accuracy.split()[2]) >= 0.97
    assert "core and reference agree" in result.stdout
    assert "thread(s)" in lines[0]
    # Progress goes to stderr, in whole lines when it is no terminal.
    assert "validation loss" in result.stderr
    assert "\r" not in result.stderr


def test_demo_plots_the_loss_curves(tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "curves.png"
    assert run("demo", "--epochs", "2", "--plot", str(picture)).returncode == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_plot_without_matplotlib_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["demo", "--plot", "curves.png"]) == 1
    captured = capsys.readouterr()
    assert "pip install 'ranvier[plot]'" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("path", ["missing/folder/curves.png", "curves.unknown"])
def test_a_picture_that_cannot_be_written_is_refused_before_training(path, capsys):
    pytest.importorskip("matplotlib")
    assert main(["demo", "--plot", path]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("ranvier: --plot")
    assert captured.out == ""


@pytest.mark.parametrize(
    "arguments", [[], ["unknown"], ["demo", "--epochs", "0"], ["demo", "--epochs", "x"]]
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_a_bad_environment_variable_is_an_error_that_names_it():
    for name, value in [("RANVIER_ISA", "sse9"), ("RANVIER_NUM_THREADS", "many")]:
        result = run("config", env=os.environ | {name: value})
        assert result.returncode == 1
        assert name in result.stderr
        assert value in result.stderr
        assert "Traceback" not in result.stderr


COMMANDS = [
    "train",
    "predict",
    "evaluate",
    "inspect",
    "quantize",
    "check",
    "bench",
    "demo",
    "config",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert f"\n  ranvier {command}" in text
    assert "--json" in text


def test_help_reads_no_library_that_it_does_not_need():
    code = (
        "import sys; from ranvier.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'pyarrow', 'pandas', 'matplotlib', 'sklearn', 'onnx', 'ranvier.reference'}\n"
        "sys.exit(','.join(heavy & set(sys.modules)) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def fileno(self):
        return 2


@pytest.mark.parametrize(
    ("columns", "term", "bar"),
    [(100, "xterm", True), (40, "xterm", False), (100, "dumb", False), (None, "xterm", False)],
)
def test_a_bar_is_for_terminals_of_some_width(columns, term, bar, monkeypatch):
    from ranvier.cli import _output

    monkeypatch.setattr("sys.stderr", Terminal() if columns else io.StringIO())
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr("os.get_terminal_size", lambda _: os.terminal_size((columns, 24)))
    (shown,) = _output.progress(20)
    assert isinstance(shown, rv.ProgressBar) == bar
    assert _output.progress(20, quiet=True) == []


def test_demo_and_config_speak_json(capsys):
    assert main(["demo", "--epochs", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert 0 < document["test_accuracy"] < 1
    assert document["crosscheck"]["ok"] is True
    assert main(["config", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == rv.config()


def test_version_and_config(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert main(["config"]) == 0
    assert "isa" in capsys.readouterr().out


def test_ctrl_c_exits_with_130():
    command = [sys.executable, "-m", "ranvier", "demo", "--epochs", "100000"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert "ranvier" in process.stdout.readline()
    while "network" not in process.stdout.readline():
        pass
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.endswith("interrupted\n")
    assert "Traceback" not in err


def test_a_closed_pipe_ends_quietly():
    command = f"{sys.executable} -m ranvier demo --epochs 1 | head -n 1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr
