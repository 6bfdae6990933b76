"""The benchmarks: that they run, that their figures hold together, and whom they do not believe."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHES = Path(__file__).parents[1] / "benches"


def run(program, *arguments):
    command = [sys.executable, "-W", "error", str(BENCHES / program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def benches(monkeypatch):
    """Modules of the benchmarks, importable by name."""
    monkeypatch.syspath_prepend(BENCHES)


def test_training_is_compared(tmp_path):
    out = tmp_path / "out.json"
    done = run(
        *("compare.py", "train", "--workload", "tiny", "--contestants", "ranvier,numpy"),
        *("--seconds", 0.01, "--repeats", 3, "--json", out, "--bars"),
    )
    assert done.returncode == 0, done.stderr
    content = json.loads(out.read_text())
    assert set(content["versions"]) == {"python", "ranvier", "numpy"}
    (comparison,) = content["comparisons"]
    ranvier, numpy = comparison["results"]
    assert [ranvier["name"], numpy["name"]] == ["ranvier", "numpy"]
    for result in (ranvier, numpy):
        assert len(result["microseconds"]) == 3
        assert 0 < min(result["microseconds"]) <= result["median"]
        assert 0 < result["loss"] < result["start_loss"]
        assert not result["problem"]
        assert not result["doubt"]
    assert comparison["best_peer"] == "numpy"
    assert comparison["ratio"] == pytest.approx(numpy["median"] / ranvier["median"])
    assert comparison["flops"] == 2 * 32 * (3 * (2 * 32 + 32) - 2 * 32)
    assert 0 < ranvier["share_of_peak"] < 1
    assert "15×" in done.stdout


def test_predictions_of_an_own_network_make_a_markdown_table_and_a_picture(tmp_path):
    out = tmp_path / "out.png"
    done = run(
        *("compare.py", "predict", "--sizes", "5,7,3", "--batch", 4, "--activation", "tanh"),
        *("--contestants", "ranvier,numpy,sklearn", "--seconds", 0.01, "--repeats", 1),
        *("--markdown", "--plot", out),
    )
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("| own"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1] == "5-7-3, b4"
    assert all(float(cell.replace(",", "")) > 0 for cell in cells[2:6])
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workload", "tinny"], "--workload: expected some of tiny"),
        (["predict", "--workload", "tiny"], "--workload: expected some of tab-small@1"),
        (["--contestants", "tensorflow"], "--contestants: expected some of ranvier"),
        (["trian"], "mode: expected some of train, predict, got trian"),
        (["--sizes", "784"], "expected inputs,...,outputs"),
        (["--batch", "0"], "expected 1 or more"),
        (["--seconds", "0"], "--seconds: expected more than 0"),
        (["--optimizer", "lion"], "invalid choice: 'lion'"),
    ],
)
def test_wrong_usage_is_refused(benches, monkeypatch, capsys, arguments, words):
    import compare

    monkeypatch.setattr(sys, "argv", ["compare.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        compare.main()
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_a_contestant_whose_loss_differs_is_not_believed(benches):
    from results import Comparison, Result, judge_losses, table
    from workloads import TRAINING

    results = [
        Result("ranvier", microseconds=[2.0], start_loss=1.0, loss=0.50),
        Result("numpy", microseconds=[9.0], start_loss=1.0, loss=0.52),
        Result("sklearn", microseconds=[8.0], start_loss=1.0, loss=0.49),
        Result("torch", microseconds=[1.0], start_loss=1.0, loss=0.70),
        Result("jax", microseconds=[1.0], start_loss=1.0, loss=float("nan")),
        Result("torch-compile", problem="no C++ compiler (g++)"),
    ]
    judge_losses(results)
    assert [r.name for r in results if r.believed] == ["ranvier", "numpy", "sklearn"]
    comparison = Comparison("train", TRAINING[0], results)
    assert comparison.best_peer.name == "sklearn"
    assert comparison.ratio == 4.0
    assert comparison.meets_bar is False
    shown = table(comparison)
    assert "NOT COUNTED, loss differs: 0.7" in shown
    assert "no C++ compiler" in shown


def test_contestants_that_learned_nothing_are_not_believed(benches):
    from results import Result, judge_losses

    results = [Result(name, start_loss=1.0, loss=1.0) for name in ("ranvier", "numpy")]
    judge_losses(results)
    assert all("did not fall" in r.doubt for r in results)


def test_a_contestant_that_fails_is_reported(benches):
    from worker import Worker, WorkerError, as_request
    from workloads import TRAINING

    worker = Worker("nobody", threads=1)
    with pytest.raises(WorkerError, match="KeyError: 'nobody'"):
        worker.ask(60.0, kind="train", workload=as_request(TRAINING[0]), seconds=0.01)


def test_predictions_in_integers_are_compared_with_those_in_floats(tmp_path):
    out = tmp_path / "out.json"
    done = run(
        *("compare.py", "predict", "--workload", "mnist-int8@1", "--seconds", 0.01, "--repeats", 1),
        *("--bars", "--json", out),
    )
    assert done.returncode == 0, done.stderr
    (comparison,) = json.loads(out.read_text())["comparisons"]
    results = {result["name"]: result for result in comparison["results"]}
    assert list(results) == ["ranvier", "ranvier-float32", "onnxruntime"]
    assert not any(result["problem"] or result["doubt"] for result in results.values())
    # The two that multiply integers are the same network, and not that of the floats.
    integers, floats, other = (result["deviation"] for result in results.values())
    assert floats < 1e-5 < integers == pytest.approx(other, rel=0.2)
    medians = {name: result["median"] for name, result in results.items()}
    assert comparison["own_ratio"] == medians["ranvier-float32"] / medians["ranvier"]
    assert comparison["best_peer"] == "onnxruntime"
    assert "int8; floor" in done.stdout
    assert "× float32 (bar 1×)" in done.stdout


def test_a_bar_of_floats_is_reached_by_one_figure_and_one_of_integers_by_all(benches):
    from results import Comparison, Result, bar_line
    from workloads import Bar, Workload

    def verdict(bar, floats=6.0, peer=3.0, peak=0.5):
        workload = Workload("", (1, 1), 1, bar=bar, precision=bar.own and "int8")
        times = {"ranvier": 2.0, "ranvier-float32": floats, "onnxruntime": peer}
        results = [Result(name, microseconds=[time]) for name, time in times.items() if time]
        # Of two operations, in microseconds.
        comparison = Comparison("predict", workload, results, peak and 1e6 / peak)
        return comparison.meets_bar, bar_line(comparison)

    assert verdict(Bar(1.5, 0.9)) == (
        True,
        "PASS  1.50× the best peer (bar 1.5×), 50 % of the peak (bar 90 %); either is enough",
    )
    assert verdict(Bar(1.6, 0.5))[0]
    assert verdict(Bar(1.6, 0.6))[0] is False
    assert verdict(Bar(1.6, 0.6), peak=None)[0] is None
    assert verdict(Bar(1.5, 0.5, own=3.0)) == (
        True,
        "PASS  1.50× the best peer (bar 1.5×), 3.00× float32 (bar 3×), 50 % of the peak (bar 50 %)",
    )
    for bar in (Bar(1.6, 0.5, own=3.0), Bar(1.5, 0.6, own=3.0), Bar(1.5, 0.5, own=3.1)):
        assert verdict(bar)[0] is False
    assert verdict(Bar(1.5, 0.5, own=3.0), floats=None)[0] is None
    assert verdict(Bar(1.6, 0.5, own=3.0), floats=None)[0] is False
    # Ranvier's own floats are no peer.
    assert "1.50× the best peer" in verdict(Bar(1.5, own=1.0), floats=2.5)[1]
    assert verdict(Bar(None, own=3.0)) == (True, "PASS  3.00× float32 (bar 3×)")


def test_a_contestant_that_does_not_know_a_precision_says_so():
    done = run(
        *("compare.py", "predict", "--workload", "mnist-int8@1", "--contestants", "numpy"),
        *("--seconds", 0.01, "--repeats", 1),
    )
    assert done.returncode == 0, done.stderr
    assert "predicts in the network's dtype only" in done.stdout


def test_growth_splits_steps(tmp_path):
    out = tmp_path / "out.json"
    done = run("growth.py", "--quick", "--axis", "depth", "--json", out)
    assert done.returncode == 0, done.stderr
    (sweep,) = json.loads(out.read_text())["sweeps"]
    assert [point["value"] for point in sweep["points"]] == [1, 2, 4]
    for point in sweep["points"]:
        assert 0 < point["floor"] < point["step"]
        assert point["overhead"] > 0
        assert point["optimizer"] >= 0


def test_growth_finds_a_cliff(benches):
    from growth import cliffs

    assert cliffs([32, 33, 64], [1.0, 1.9, 2.0]) == [(1, pytest.approx(1.84, abs=0.01))]
    assert cliffs([32, 64, 128], [1.0, 4.0, 16.0]) == []


def test_tables_are_scored_beside_scikit_learns_estimators(benches, capsys):
    import tables

    ((name, outcomes),) = tables.accuracy(["iris"], seeds=2).items()
    assert name == "iris"
    assert list(outcomes) == ["ranvier", "sklearn MLP", "boosting", "forest"]
    assert all(len(o.scores) == 2 and min(o.scores) > 0.8 for o in outcomes.values())
    shown = capsys.readouterr().out
    assert "mean rank" in shown
    assert "below the MLP by more than a standard error: 0 of 1" in shown


def test_ranks_and_differences_of_tables(benches):
    from tables import Outcome, differences, ranks

    a, b, c = (Outcome(scores) for scores in ([0.9, 0.7], [0.8, 0.8], [0.5, 0.7]))
    assert ranks({"a": a, "b": b, "c": c}) == {"a": 1.5, "b": 1.5, "c": 3.0}
    mean, error = differences(a, c)
    assert mean == pytest.approx(0.2)
    assert error == pytest.approx(0.2)


def test_wrong_usage_of_tables_is_refused(benches, monkeypatch, capsys):
    import tables

    for arguments, words in ((["--tables", "isir"], "expected some of iris"), (["x"], "part:")):
        monkeypatch.setattr(sys, "argv", ["tables.py", *arguments])
        with pytest.raises(SystemExit):
            tables.main()
        assert words in capsys.readouterr().err


def test_the_drop_ins_are_compared():
    done = run("estimators.py", "--data", "wine", "--repeats", 1)
    assert done.returncode == 0, done.stderr
    *_, wide, narrow = done.stdout.splitlines()
    for line, dtype in ((wide, "float64"), (narrow, "float32")):
        name, kind, *figures = line.split()
        assert (name, kind) == ("wine", dtype)
        theirs, ours, ratio = map(float, figures[:3])
        assert ratio == pytest.approx(theirs / ours, rel=0.05)
