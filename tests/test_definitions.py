"""Core, Python layer and reference know the same things by the same names and defaults."""

import inspect
from dataclasses import MISSING, fields

import numpy as np
import pytest

import ranvier as rv
from ranvier import _core, activations, initializers, layers, losses, optimizers, reference

LAYERS = ["Dense", "Activation", "Dropout", "GaussianNoise", "LayerNorm", "BatchNorm", "Softmax"]
LAYERS += ["Standardize"]


def options(definition):
    """Names and defaults of a definition's options."""
    return {
        field.name: None if field.default is MISSING else field.default
        for field in fields(definition)
        if field.init
    }


def signature(definition):
    """The same of a constructor of the reference."""
    parameters = inspect.signature(definition).parameters.values()
    return {p.name: None if p.default is p.empty else p.default for p in parameters}


def test_activations_are_the_same_in_all_three_places():
    for name in [*_core.names("activation"), "swish"]:
        assert activations.spec(name)[0] in _core.names("activation")
        reference.activations.get(name)
    known = set(reference.activations.BY_NAME)
    assert known - set(_core.names("activation")) == {"swish"}


def test_losses_are_the_same_in_all_three_places():
    assert list(losses.BY_NAME) == _core.names("loss")
    assert set(reference.losses.BY_NAME) == set(_core.names("loss"))


def test_initializers_are_the_same_in_all_three_places():
    core = set(_core.names("initializer"))
    assert set(initializers.BY_NAME) == core - {"auto", "constant"}
    assert set(reference.initializers.BY_NAME) == set(initializers.BY_NAME)


def test_optimizers_are_the_same_in_python_and_reference():
    assert list(optimizers.BY_NAME) == list(reference.optimizers.BY_NAME)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_have_the_options_and_defaults_of_the_reference(name):
    assert options(getattr(layers, name)) == signature(getattr(reference, name))


@pytest.mark.parametrize("kind", losses.BY_NAME.values())
def test_losses_have_the_options_and_defaults_of_the_reference(kind):
    assert options(kind) == signature(getattr(reference.losses, kind.__name__))


@pytest.mark.parametrize("kind", optimizers.BY_NAME.values())
def test_optimizers_have_the_options_of_the_reference(kind):
    assert set(options(kind)) == set(signature(getattr(reference, kind.__name__)))


@pytest.mark.parametrize("name", ["LeakyReLU", "ELU", "PReLU"])
def test_activations_have_the_options_and_defaults_of_the_reference(name):
    ours, theirs = getattr(activations, name), getattr(reference.activations, name)
    assert options(ours) == signature(theirs)


@pytest.mark.parametrize("name", ["GlorotNormal", "HeNormal", "LecunNormal", "Orthogonal"])
def test_initializers_have_the_options_and_defaults_of_the_reference(name):
    ours, theirs = getattr(initializers, name), getattr(reference.initializers, name)
    assert options(ours) == signature(theirs)


def test_the_version_is_that_of_the_package():
    from importlib.metadata import version

    assert rv.__version__ == version("ranvier")


def test_config_says_what_runs(capsys):
    config = rv.config()
    assert config["isa"] in config["available_isas"]
    assert config["threads"] == rv.get_num_threads()
    rv.show_config()
    shown = capsys.readouterr().out
    assert all(key in shown for key in config)


def test_the_bundled_digits_are_those_of_scikit_learn():
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    X, y = rv.datasets.load_digits()
    expected = sklearn_datasets.load_digits()
    np.testing.assert_array_equal(X * 16, expected.data)
    np.testing.assert_array_equal(y, expected.target)
