"""Trainings with a mistake each, and what a cross-check says of them.

Each case is a training of ours; tests/data/make_traces.py has the same training in torch and in
Keras, with the mistake, and records it into tests/data/traces.zip.
"""

import json
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import ranvier as rv

STEPS, ROWS = 2, 6


@dataclass(frozen=True)
class Case:
    """What ranvier is to compute, and where the other training parts from it.

    Args:
        step, quantity, name: of the first deviation; None where there is none.
        hint: a part of one of the hints.
        options: loss and optimizer of `crosscheck`.
        stack: which of the networks.
    """

    step: int | None = None
    quantity: str = ""
    name: str = ""
    hint: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    stack: str = "plain"


def layers(stack):
    """Three Dense layers, or one of the others."""
    match stack:
        case "plain":
            return [rv.Dense(3, "tanh"), rv.Dense(3, "tanh"), rv.Dense(2)]
        case "one":
            return [rv.Dense(3, "tanh"), rv.Dense(3, "sigmoid"), rv.Dense(1)]
        case "batch_norm":
            return [rv.Dense(3, "tanh"), rv.BatchNorm(), rv.Dense(2)]
        case "keras_norm":
            return [rv.Dense(3, "tanh"), rv.LayerNorm(eps=1e-3), rv.Dense(2)]
        case "layer_norm":
            return [rv.Dense(3, "relu"), rv.LayerNorm(), rv.Dense(2)]
        case "penalty":
            return [rv.Dense(3, "tanh", l2=0.05), rv.Dense(2, l2=0.05)]
    raise KeyError(stack)


def model(stack, dtype="float64"):
    """The network with its numbers, none of which is 0."""
    made = rv.Sequential(layers(stack), input_size=2, dtype=dtype)
    rng = np.random.default_rng(1)
    made.set_parameters(
        {
            name: rng.uniform(0.3, 1.0, value.shape) * rng.choice([-1.0, 1.0], value.shape)
            if not name.endswith("running_var")
            else rng.uniform(0.5, 1.5, value.shape)
            for name, value in made.parameters().items()
        }
    )
    return made


def data(case):
    """Rows and targets as the case's loss takes them."""
    rng = np.random.default_rng(2)
    X = rng.normal(size=(2 * ROWS, 2))
    outputs = 1 if case.stack == "one" else 2
    y = np.sin(X[:, :outputs])
    if case.options.get("loss", "mse") == "cross_entropy":
        return X, (y[:, 0] > 0).astype(int)
    return X, y


def check(case, against, **options):
    """The report of a case."""
    X, y = data(case)
    given = {"loss": "mse", "optimizer": "adam", "steps": STEPS, "batch_size": ROWS}
    given |= {"shuffle": False, **case.options, **options}
    return rv.crosscheck(model(case.stack), X, y, against=against, **given)


def assert_found(case, report):
    """Asserts that the report says what the case expects."""
    if case.step is None:
        assert report.ok, report
        assert report.first is None
        assert report.hints == ()
        return
    first = report.first
    assert not report.ok
    assert (first.step, first.quantity, first.name) == (case.step, case.quantity, case.name), report
    assert first.error > first.allowed
    assert any(case.hint in hint for hint in report.hints), report


def write_trace(path, tensors, layout, **metadata):
    """A trace file, as safetensors' own package writes it."""
    header, blobs, start = {"__metadata__": {"kind": "trace", "layout": layout, **metadata}}, [], 0
    for name, array in tensors.items():
        array = np.asarray(array)
        blobs.append(array.tobytes())
        header[name] = {
            "dtype": {"float32": "F32", "float64": "F64", "int64": "I64"}[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [start, start + len(blobs[-1])],
        }
        start += len(blobs[-1])
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def _at(step, quantity, name, hint, stack="plain", **options):
    return Case(step, quantity, name, hint, options, stack)


ADAM = rv.Adam(learning_rate=0.01)
ADAMW = rv.AdamW(learning_rate=0.01, weight_decay=0.1)
SGD = rv.SGD(learning_rate=0.1)
MOMENTUM = rv.SGD(learning_rate=0.1, momentum=0.9)
CE = "cross_entropy"

# Mistakes in torch.
TORCH = {
    "eps": _at(1, "parameter", "0.weight", "eps=1e-06 in place of 1e-08"),
    "eps_hat": _at(1, "parameter", "0.weight", "added before the bias correction", optimizer=ADAM),
    "no_correction": _at(1, "parameter", "0.weight", "no bias correction of m and v"),
    "count_stays": _at(2, "parameter", "0.weight", "the step count stays 1", optimizer=ADAM),
    "coupled": _at(1, "parameter", "0.weight", "decay is coupled", optimizer=ADAMW),
    "no_decay": _at(1, "parameter", "0.weight", "no weight decay", optimizer=ADAMW),
    "double_decay": _at(1, "parameter", "0.weight", "0.2 in place of 0.1", optimizer=ADAMW),
    "decay_without_rate": _at(1, "parameter", "0.weight", "not multiplied", optimizer=ADAMW),
    "decay_of_weights": _at(1, "parameter", "0.bias", "weights alone", optimizer=ADAMW),
    "betas_swapped": _at(2, "parameter", "0.weight", "changed places"),
    "rate": _at(1, "parameter", "0.weight", "learning_rate=0.02 in place of 0.01", optimizer=ADAM),
    "no_momentum": _at(2, "parameter", "0.weight", "momentum=0", optimizer=MOMENTUM),
    "nesterov": _at(1, "parameter", "0.weight", "nesterov=True", optimizer=MOMENTUM),
    "dampening": _at(2, "parameter", "0.weight", "dampening=0.9", optimizer=MOMENTUM),
    "ascent": _at(1, "parameter", "0.weight", "the other sign", optimizer=SGD),
    "bias_left_out": _at(1, "parameter", "1.bias", "1.bias are not updated", optimizer=SGD),
    "sum": _at(1, "loss", "loss", "a sum over rows and outputs"),
    "sum_of_rows": _at(1, "loss", "loss", "a sum over rows in place", loss=CE),
    "half": _at(1, "loss", "loss", "half of it"),
    "broadcast": _at(1, "loss", "loss", "broadcast", stack="one"),
    "double_softmax": _at(1, "loss", "loss", "gets outputs behind one", loss=CE),
    "smoothing": _at(1, "loss", "loss", "label_smoothing=0.1 in place of 0", loss=CE),
    "l1_loss": _at(1, "loss", "loss", "the loss is mae"),
    "penalty": _at(1, "loss", "loss", "an l2 penalty of 0.01"),
    "softmax": _at(1, "output", "output", "a softmax behind the last layer"),
    "transposed": _at(1, "output", "1", "the weight of layer 1 is transposed"),
    "no_activation": _at(1, "output", "0", "layer 0 has no activation"),
    "sigmoid": _at(1, "output", "1", "layer 1 has the activation sigmoid in place of tanh"),
    "no_bias": _at(1, "output", "output", "layer 2 leaves its bias out"),
    "dropout": _at(1, "output", "0", "dropout of rate 0.5 is active"),
    "other_rows": _at(1, "output", "0", "in another order"),
    "norm_evaluates": _at(1, "output", "1", "evaluation mode", stack="batch_norm"),
    "norm_eps": _at(1, "output", "1", "eps=0.001 in place of 1e-05", stack="layer_norm"),
    "norm_momentum": _at(
        1, "parameter", "1.running_mean", "momentum=0.9 in place of 0.1", stack="batch_norm"
    ),
    "not_zeroed": _at(2, "gradient", "2.weight", "not set to zero", optimizer=SGD),
    "clipped": _at(1, "gradient", "2.weight", "clipped to a norm of 0.1", optimizer=SGD),
    "clipped_values": _at(1, "gradient", "2.weight", "values of 0.05", optimizer=SGD),
    "frozen": _at(1, "gradient", "0.weight", "0.weight, 0.bias get no gradient", optimizer=SGD),
    "no_derivative": _at(1, "gradient", "0.weight", "derivative of the activation of layer 0"),
    "mean_of_bias": _at(1, "gradient", "2.bias", "of 2.bias are divided by the rows once more"),
    "other_start": _at(0, "parameter", "1.weight", "1.weight is transposed"),
}

TORCH_TWINS = {
    "adam": Case(options={"optimizer": ADAM}),
    "adamw": Case(options={"optimizer": ADAMW, "loss": CE}),
    "momentum": Case(options={"optimizer": MOMENTUM}, stack="batch_norm"),
    "sgd": Case(options={"optimizer": SGD}, stack="layer_norm"),
}
KERAS_ADAM = rv.Adam(learning_rate=0.01, dialect="keras")
COARSE = rv.Adam(learning_rate=0.01, eps=1e-3)
KERAS_DECAY = rv.AdamW(learning_rate=0.01, weight_decay=0.1, dialect="keras")
KERAS_SGD = rv.SGD(learning_rate=0.1, dialect="keras")
KERAS_MOMENTUM = rv.SGD(learning_rate=0.1, momentum=0.9, dialect="keras")

# Mistakes in Keras.
KERAS = {
    "eps": _at(1, "parameter", "0.weight", "eps=0.0001 in place of 1e-07", optimizer=KERAS_ADAM),
    "eps_in_torch": _at(1, "parameter", "0.weight", "added before", optimizer=COARSE),
    "no_correction": _at(1, "parameter", "0.weight", "no bias correct", optimizer=KERAS_ADAM),
    "no_decay": _at(1, "parameter", "0.weight", "no weight decay", optimizer=KERAS_DECAY),
    "double_decay": _at(1, "parameter", "0.weight", "0.2 in place", optimizer=KERAS_DECAY),
    "decay_of_weights": _at(1, "parameter", "0.bias", "weights alone", optimizer=KERAS_DECAY),
    "betas_swapped": _at(2, "parameter", "0.weight", "changed places", optimizer=KERAS_ADAM),
    "rate": _at(1, "parameter", "0.weight", "rate=0.02 in place of 0.01", optimizer=KERAS_ADAM),
    "no_momentum": _at(2, "parameter", "0.weight", "momentum=0", optimizer=KERAS_MOMENTUM),
    "nesterov": _at(1, "parameter", "0.weight", "nesterov=True", optimizer=KERAS_MOMENTUM),
    "clip_each": _at(1, "parameter", "0.weight", "norm of 0.1", optimizer=KERAS_SGD),
    "clip_value": _at(1, "parameter", "0.weight", "clip_value=0.1", optimizer=KERAS_SGD),
    "plain_sgd": _at(1, "parameter", "0.weight", "optimizer is plain SGD", optimizer=KERAS_ADAM),
    "sum": _at(1, "loss", "loss", "a sum over rows in place", optimizer=KERAS_ADAM),
    "mae": _at(1, "loss", "loss", "the loss is mae", optimizer=KERAS_ADAM),
    "double_softmax": _at(
        1, "loss", "loss", "gets outputs behind one", loss=CE, optimizer=KERAS_ADAM
    ),
    "smoothing": _at(1, "loss", "loss", "smoothing=0.1", loss=CE, optimizer=KERAS_ADAM),
    "penalty": _at(1, "loss", "loss", "l2 penalty of 0.01", optimizer=KERAS_ADAM),
    "transposed": _at(1, "output", "1", "weight of layer 1 is transposed", optimizer=KERAS_ADAM),
    "no_activation": _at(1, "output", "0", "layer 0 has no activation", optimizer=KERAS_ADAM),
    "relu": _at(1, "output", "1", "activation relu in place of tanh", optimizer=KERAS_ADAM),
    "norm_eps": _at(
        1, "output", "1", "eps=0.001 in place of 1e-05", "layer_norm", optimizer=KERAS_ADAM
    ),
    "dropout": _at(1, "output", "0", "dropout of rate 0.5", optimizer=KERAS_ADAM),
    "frozen": _at(1, "gradient", "0.weight", "get no gradient", optimizer=KERAS_ADAM),
    "biased_variance": _at(
        1, "parameter", "1.running_var", "biased variance", "batch_norm", optimizer=KERAS_ADAM
    ),
}
KERAS_TWINS = {
    "adam": Case(options={"optimizer": KERAS_ADAM}),
    "adamw": Case(options={"optimizer": KERAS_DECAY, "loss": CE}),
    "momentum": Case(options={"optimizer": KERAS_MOMENTUM}, stack="keras_norm"),
    "sgd": Case(options={"optimizer": KERAS_SGD}, stack="penalty"),
}
