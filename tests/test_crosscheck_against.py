"""`rv.crosscheck(against=...)`: torch, Keras, scikit-learn and recorded traces.

Every seeded mistake is found in the step and at the layer where it is made, and named; correct
twins are never accused. torch's and Keras's trainings are recorded (tests/data/make_traces.py), and
run live where the libraries are installed.
"""

import zipfile
from pathlib import Path

import pytest

from mistakes import KERAS, KERAS_TWINS, TORCH, TORCH_TWINS, assert_found, check

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The folder of the recorded traces."""
    folder = tmp_path_factory.mktemp("traces")
    with zipfile.ZipFile(DATA / "traces.zip") as archive:
        archive.extractall(folder)
    return folder


# ---------------------------------------------------------------- recorded mistakes


@pytest.mark.parametrize("name", TORCH)
def test_mistakes_in_torch_are_found(name, recorded):
    assert_found(TORCH[name], check(TORCH[name], recorded / f"torch-{name}.safetensors"))


@pytest.mark.parametrize("name", KERAS)
def test_mistakes_in_keras_are_found(name, recorded):
    assert_found(KERAS[name], check(KERAS[name], recorded / f"keras-{name}.safetensors"))


@pytest.mark.parametrize("name", TORCH_TWINS)
def test_correct_twins_in_torch_are_not_accused(name, recorded):
    assert_found(
        TORCH_TWINS[name], check(TORCH_TWINS[name], recorded / f"torch-twin-{name}.safetensors")
    )


@pytest.mark.parametrize("name", KERAS_TWINS)
def test_correct_twins_in_keras_are_not_accused(name, recorded):
    assert_found(
        KERAS_TWINS[name], check(KERAS_TWINS[name], recorded / f"keras-twin-{name}.safetensors")
    )
