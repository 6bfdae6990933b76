"""Every command of the guide runs and shows what the guide says, but for its figures."""

import os
import re
import subprocess
import sys
from pathlib import Path

GUIDE = Path(__file__).parent.parent / "docs" / "command-line.md"
_NUMBER = re.compile(r"(?<![\w.])-?\d+(\.\d+)?(e[-+]?\d+)?\b")
# Orders that hang on figures.
_TOWNS = re.compile(r"Lund|Oslo|Rome")


def loosely(text):
    """Lines without figures, and what an ellipsis may stand for."""
    lines = [" ".join(line.split()) for line in text.strip().splitlines()]
    return [_TOWNS.sub("TOWN", _NUMBER.sub("#", line)) for line in lines]


def agrees(expected, got):
    """Whether lines are those expected, of which "..." is any number."""
    pattern = "".join(
        r"(?:.*\n)*" if line == "..." else re.escape(line) + "\n" for line in loosely(expected)
    )
    return re.fullmatch(pattern, "".join(line + "\n" for line in loosely(got))) is not None


def test_the_guide_tells_what_the_commands_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = tmp_path / "bin" / "ranvier"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ranvier "$@"\n')
    command.chmod(0o755)
    python = Path(sys.executable).parent
    monkeypatch.setenv(
        "PATH", os.pathsep.join(map(str, (command.parent, python, os.environ["PATH"])))
    )
    text = GUIDE.read_text(encoding="utf-8")
    count = 0
    for kind, block in re.findall(r"```(python|console)\n(.*?)```", text, re.DOTALL):
        if kind == "python":
            exec(compile(block, str(GUIDE), "exec"), {})
            continue
        for line, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            result = subprocess.run(
                ["bash", "-c", line],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            assert agrees(expected, result.stdout), f"$ {line}\n{result.stdout}"
            count += 1
    assert count >= 12


def test_the_comparison_of_the_guide_can_fail():
    assert agrees("a 1.5\n...\nend", "a 2e-05\nmore\nlines\nend")
    assert agrees("a  1", "a 12")
    assert not agrees("a 1", "b 1")
    assert not agrees("a\nb", "a")
    assert not agrees("a", "a\nb")
