"""Activations, layers and losses against torch's own numbers, in tests/data/layers.json.

The tolerance is absolute: both sides round once or twice, and torch's own functions lose relative
accuracy where their value is small (its gelu in the left tail). The sign of zero is not compared.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import ranvier as rv
from conftest import Follow

GOLDEN = json.loads(
    Path(__file__).with_name("data").joinpath("layers.json").read_text(encoding="utf-8")
)
TOLERANCE = 1e-14
PARAMETRISED = {"leaky_relu": rv.activations.LeakyReLU, "elu": rv.activations.ELU}


def label(entry):
    name = next(entry[key] for key in ("activation", "layer", "loss") if key in entry)
    return "-".join([name, *(f"{key}={value}" for key, value in entry["options"].items())])


def assert_equal(got, expected, scale=1.0):
    """Within TOLERANCE times the size of the numbers that went in, at least 1."""
    got, expected = np.asarray(got), np.asarray(expected, dtype=np.float64)
    assert got.dtype == np.float64
    assert got.shape == expected.shape
    assert (np.abs(got - expected) <= TOLERANCE * np.maximum(1.0, scale)).all()


@pytest.mark.parametrize("entry", GOLDEN["activations"], ids=label)
@pytest.mark.parametrize("place", ["layer", "dense"])
def test_activations(entry, place):
    x = np.array(GOLDEN["x"])[:, np.newaxis]
    name, options = entry["activation"], entry["options"]
    activation = PARAMETRISED[name](**options) if options else name
    if place == "layer":
        layers = [rv.Activation(activation)]
    else:
        layers = [rv.Dense(1, activation=activation, weight_init="ones")]
    model = rv.Sequential(layers, input_size=1, dtype="float64")
    assert_equal(model.predict(x).ravel(), entry["value"], np.abs(x.ravel()))
    # With a gradient of 1 handed in at the output, d_input is the derivative.
    _, gradients = model.value_and_gradient(x, np.zeros(len(x)), loss=Follow(1.0))
    stated = np.array([value is not None for value in entry["derivative"]])
    derivative = [value for value in entry["derivative"] if value is not None]
    assert_equal(gradients.d_input.ravel()[stated], derivative)


def norm_model(entry):
    layer = getattr(rv, entry["layer"])(**entry["options"])
    model = rv.Sequential([layer], input_size=4, dtype="float64")
    model.set_parameters({"0.weight": entry["weight"], "0.bias": entry["bias"]})
    return model


@pytest.mark.parametrize("entry", GOLDEN["layers"], ids=label)
def test_normalisation_layers(entry):
    model = norm_model(entry)
    for batch in entry["train"]:
        x, follow = np.array(batch["input"]), Follow(np.array(batch["d_output"]))
        _, gradients = model.value_and_gradient(x, x, loss=follow, training=True)
        assert_equal(follow.outputs[0], batch["output"])
        # 1/√var multiplies what rounding leaves of the cancelling terms.
        for name in ("d_input", "d_weight", "d_bias"):
            ours = gradients.d_input if name == "d_input" else gradients[f"0.{name[2:]}"]
            assert_equal(ours, batch[name], np.abs(batch[name]).max())


@pytest.mark.parametrize(
    "entry", [e for e in GOLDEN["layers"] if e["layer"] == "BatchNorm"], ids=label
)
def test_running_statistics_and_evaluation(entry):
    model = norm_model(entry)
    assert model.parameters()["0.running_mean"].tolist() == [0.0] * 4
    assert model.parameters()["0.running_var"].tolist() == [1.0] * 4
    # A rate that is too small to move a parameter: a fit then moves the running statistics alone.
    trainer = rv.Trainer(model, loss=Follow(), optimizer=rv.SGD(learning_rate=1e-300))
    for batch in entry["train"]:
        x = np.array(batch["input"])
        trainer.fit(x, x, batch_size=len(x), shuffle=False)
        parameters = model.parameters()
        for name in ("running_mean", "running_var"):
            assert_equal(parameters[f"0.{name}"], batch[name], np.abs(batch[name]).max())
    assert parameters["0.weight"].tolist() == entry["weight"]
    evaluation = entry["evaluation"]
    assert_equal(model.predict(evaluation["input"]), evaluation["output"])


def loss_of(entry):
    return rv.losses.BY_NAME[entry["loss"]](**entry["options"])


@pytest.mark.parametrize("entry", GOLDEN["losses"], ids=label)
def test_losses(entry):
    output, target = np.array(entry["output"]), np.array(entry["target"])
    value, gradient = loss_of(entry).value_and_gradient(output, target)
    assert math.isclose(value, entry["value"], rel_tol=TOLERANCE)
    assert_equal(gradient, entry["gradient"], np.abs(entry["gradient"]).max())


@pytest.mark.parametrize("entry", GOLDEN["losses"], ids=label)
def test_losses_of_a_model(entry):
    # The same numbers come out of a network that only passes its input on.
    model = rv.Sequential([rv.Activation("identity")], input_size=4, dtype="float64")
    output, target = np.array(entry["output"]), np.array(entry["target"])
    loss = loss_of(entry)
    value, gradients = model.value_and_gradient(output, target, loss=loss)
    assert math.isclose(value, entry["value"], rel_tol=TOLERANCE)
    assert_equal(gradients.d_input, entry["gradient"], np.abs(entry["gradient"]).max())
    report = rv.Trainer(model, loss=loss).evaluate(output, target)
    assert math.isclose(report["loss"], entry["value"], rel_tol=TOLERANCE)


def test_the_table_is_whole():
    without_table = {"identity", "prelu", "softmax"}
    assert {e["activation"] for e in GOLDEN["activations"]} | without_table == set(
        rv._core.names("activation")
    )
    # quantile is not in torch; test_losses works it by hand.
    assert {e["loss"] for e in GOLDEN["losses"]} | {"quantile"} == set(rv.losses.BY_NAME)
