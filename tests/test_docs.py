"""Every example in the documentation runs and shows what it says."""

import doctest
import importlib
import importlib.util
import pkgutil
import re
from pathlib import Path

import pytest

import ranvier

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(ranvier.__path__, "ranvier.")
    if not module.name.endswith(("__main__", "._core"))
)


# Libraries of which an example may tell, but which the tests do without.
LIBRARIES = ("keras", "safetensors", "torch")
MISSING = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]


@pytest.mark.parametrize("name", ["ranvier", *MODULES])
def test_docstring_examples_run(name):
    try:
        module = importlib.import_module(name)
    except ranvier.MissingDependencyError as error:
        pytest.skip(str(error))
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder().find(module):
        sources = "".join(example.source for example in test.examples)
        if not any(f"import {library}" in sources for library in MISSING):
            runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def test_public_classes_and_functions_are_documented():
    for name in ranvier.__all__:
        assert name == "__version__" or getattr(ranvier, name).__doc__, name


PAGES = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"]
PAGES += [f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_of_the_pages_run(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text(encoding="utf-8")
    scope = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        if any(f"import {library}" in block or f"from {library}" in block for library in MISSING):
            continue
        if ">>>" in block:
            runner = doctest.DocTestRunner()
            test = doctest.DocTestParser().get_doctest(block, scope, page, page, 0)
            assert runner.run(test, clear_globs=False).failed == 0
            scope = test.globs
        else:
            exec(compile(block, page, "exec"), scope)


def test_readme_shows_python():
    assert "```python" in (ROOT / "README.md").read_text(encoding="utf-8")
