"""Gradients are those of the reported loss: against differences of it, and against the reference.

Every activation under every loss, and every kind of layer, in float64, with and without weights.
"""

import itertools

import numpy as np
import pytest

import ranvier as rv
from conftest import LOSSES, TOLERANCE, Follow, as_reference, error, reference_of
from ranvier import _core

# No input lies within this of a kink of an activation (0 and ±3), so that differences make sense.
MARGIN = 0.02
STEP = 1e-3

ACTIVATIONS = {
    **{name: name for name in _core.names("activation")},
    "none": None,
    "swish": "swish",
    "leaky_relu-0.2": rv.activations.LeakyReLU(slope=0.2),
    "elu-0.7": rv.activations.ELU(alpha=0.7),
    "prelu-0.4": rv.activations.PReLU(slope=0.4),
}
WEIGHTS = {"plain": None, "weighted": np.array([1.0, 0.5, 0.0, 2.5, 3.0])}


def difference(function, start):
    """df/dx of each element by the five-point rule, error of order STEP^4."""
    slopes = np.empty(start.size)
    for i in range(start.size):

        def at(offset, i=i):
            moved = start.copy()
            moved.flat[i] += offset * STEP
            return function(moved)

        slopes[i] = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * STEP)
    return slopes.reshape(start.shape)


def assert_slope(gradient, numeric, name):
    """Relative error below 1e-6, element by element; 1e-10 is what differences cannot resolve."""
    assert gradient.shape == numeric.shape, name
    assert np.isfinite(gradient).all(), name
    allowed = 1e-6 * np.abs(numeric) + 1e-10 * max(1.0, np.abs(numeric).max(initial=0.0))
    assert (np.abs(gradient - numeric) <= allowed).all(), name


def check(model, X, y, **options):
    """All gradients of the model against differences of its own loss and against the reference."""
    before = model.parameters()
    value, gradients = model.value_and_gradient(X, y, **options)
    assert set(gradients) == {name for name in before if "running" not in name}

    twin = model.copy()

    def loss(X, parameters=None):
        twin.set_parameters({**before, **(parameters or {})})
        return twin.value_and_gradient(X, y, **options)[0]

    assert_slope(gradients.d_input, difference(loss, X), "d_input")
    for name, gradient in gradients.items():
        numeric = difference(lambda moved, name=name: loss(X, {name: moved}), before[name])
        assert_slope(gradient, numeric, name)

    weight = options["sample_weight"]
    reference_options = {
        **options,
        "loss": as_reference(options["loss"]),
        "sample_weight": None if weight is None else weight.tolist(),
    }
    expected, expected_gradients = reference_of(model).value_and_gradient(
        X.tolist(), y.tolist(), **reference_options
    )
    tolerance = TOLERANCE["float64"]
    assert value == pytest.approx(expected, rel=tolerance, abs=tolerance)
    assert error(gradients.d_input, expected_gradients.d_input) <= tolerance
    for name, gradient in gradients.items():
        assert error(gradient, expected_gradients[name]) <= tolerance, name
    for name, parameter in model.parameters().items():
        np.testing.assert_array_equal(parameter, before[name], err_msg=name)


def hidden(seed):
    """A first layer and a batch for it."""
    rng = np.random.default_rng(seed)
    return {
        "X": 1.5 * rng.normal(size=(5, 3)),
        "weight": 1.5 * rng.normal(size=(3, 4)),
        "bias": rng.normal(size=4),
    }


def sound(start):
    """Whether pre-activations keep away from kinks and lie on every side of them."""
    z = start["X"] @ start["weight"] + start["bias"]
    away = min(np.abs(z - kink).min() for kink in (-3.0, 0.0, 3.0)) > MARGIN
    places = {int(np.searchsorted([-3.0, 0.0, 3.0], value)) for value in z.flat}
    return away and places == {0, 1, 2, 3} and np.abs(z).max() < 8.0


START = next(start for start in map(hidden, itertools.count()) if sound(start))


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_under_every_loss(activation, loss, weights, rng):
    model = rv.Sequential(
        [rv.Dense(4, activation=ACTIVATIONS[activation]), rv.Dense(4)],
        input_size=3,
        dtype="float64",
    )
    model.set_parameters(
        {
            "0.weight": START["weight"],
            "0.bias": START["bias"],
            "1.weight": 0.5 * rng.normal(size=(4, 4)),
            "1.bias": 0.5 * rng.normal(size=4),
        }
    )
    case = LOSSES[loss]
    y = case.targets(rng, model.predict(START["X"]))
    check(model, START["X"], y, loss=case.loss, sample_weight=WEIGHTS[weights])


def test_the_loss_table_is_complete():
    assert set(_core.names("loss")) == set(rv.losses.BY_NAME)
    assert {type(case.loss) for case in LOSSES.values()} == set(rv.losses.BY_NAME.values())


STACKS = {
    "dense": [rv.Dense(5, activation="tanh"), rv.Dense(4, use_bias=False)],
    "dropout": [rv.Dropout(0.3), rv.Dense(8), rv.Dropout(0.5), rv.Dense(4)],
    "noise": [rv.GaussianNoise(0.3), rv.Dense(8), rv.GaussianNoise(0.5), rv.Dense(4)],
    "layer_norm": [rv.Dense(5), rv.LayerNorm(), rv.Dense(4)],
    "layer_norm-at-the-ends": [rv.LayerNorm(eps=0.1), rv.Dense(4), rv.LayerNorm()],
    "batch_norm": [rv.Dense(5, use_bias=False), rv.BatchNorm(), rv.Dense(4)],
    "batch_norm-first": [rv.BatchNorm(eps=0.1), rv.Dense(4)],
    "batch_norm-last": [rv.Dense(4, use_bias=False), rv.BatchNorm(momentum=0.5)],
    "activation": [rv.Dense(5), rv.Activation("gelu"), rv.Dense(4)],
    "activation-first-and-last": [rv.Activation("silu"), rv.Dense(4), rv.Activation("softplus")],
    "prelu": [rv.Activation("prelu"), rv.Dense(4)],
    "standardize": [rv.Standardize(), rv.Dense(5), rv.Dense(4), rv.Standardize(of="targets")],
    "standardize-alone": [rv.Standardize(), rv.Activation("prelu"), rv.Dense(4)],
    "softmax": [rv.Dense(5), rv.Softmax(), rv.Dense(4, activation="softmax")],
    "everything": [
        rv.Standardize(),
        rv.Dense(6, activation="tanh"),
        rv.BatchNorm(),
        rv.Activation("mish"),
        rv.Dropout(0.4),
        rv.Dense(5, activation=rv.activations.ELU(alpha=0.5), use_bias=False),
        rv.LayerNorm(),
        rv.Dense(4),
    ],
}
STACK_LOSSES = ["mse", "huber-0.3", "gaussian_nll", "cross_entropy-smoothed"]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("loss", STACK_LOSSES)
@pytest.mark.parametrize("stack", STACKS)
def test_every_layer(stack, loss, training, weights, rng):
    model = rv.Sequential(STACKS[stack], input_size=3, dtype="float64", seed=3)
    # No parameter at a special value such as 0 or 1; variances stay positive.
    changed = {
        name: rng.uniform(0.5, 1.5, size=value.shape)
        for name, value in model.parameters().items()
        if "weight" not in name or value.ndim == 1
    }
    model.set_parameters(changed)
    # Away from 0, where prelu has its kink.
    X = rng.uniform(0.1, 2.0, size=(5, 3)) * rng.choice([-1.0, 1.0], size=(5, 3))
    case = LOSSES[loss]
    weight = WEIGHTS[weights]
    y = case.targets(rng, training_output(model, X, weight) if training else model.predict(X))
    options = {"loss": case.loss, "sample_weight": weight, "training": training, "step": 3}
    check(model, X, y, **options)


def training_output(model, X, weight):
    """The raw outputs that `value_and_gradient` sees in training mode, at step 3."""
    follow = Follow()
    options = {"sample_weight": weight, "training": True, "step": 3}
    model.value_and_gradient(X, np.zeros(len(X)), loss=follow, **options)
    return follow.outputs[0]


def test_a_bias_in_front_of_batch_norm_has_no_gradient_in_training(rng):
    # The batch's mean takes it out again. What is left is rounding, in no direction of meaning.
    layers = [rv.Dense(5), rv.BatchNorm(), rv.Dense(4)]
    model = rv.Sequential(layers, input_size=3, dtype="float64")
    X, y = rng.normal(size=(6, 3)), rng.normal(size=(6, 4))
    _, gradients = model.value_and_gradient(X, y, loss="mse", training=True)
    assert np.abs(gradients["0.bias"]).max() < 1e-14 * np.abs(gradients["0.weight"]).max()
    _, gradients = model.value_and_gradient(X, y, loss="mse")
    assert np.abs(gradients["0.bias"]).min() > 1e-3 * np.abs(gradients["0.weight"]).max()


def test_the_step_and_the_seed_choose_the_dropout_masks(rng):
    X, y = rng.normal(size=(6, 20)), np.zeros((6, 20))

    def d_input(seed, step, training=True):
        model = rv.Sequential([rv.Dropout(0.5)], input_size=20, seed=seed, dtype="float64")
        options = {"loss": "mse", "training": training, "step": step}
        return model.value_and_gradient(X, y, **options)[1].d_input

    np.testing.assert_array_equal(d_input(0, 1), d_input(0, 1))
    assert (d_input(0, 1) != d_input(0, 2)).any()
    assert (d_input(0, 1) != d_input(1, 1)).any()
    assert (d_input(0, 1) == 0.0).any()
    # d/dx of mean(x²) over 120 elements; without training nothing is dropped.
    np.testing.assert_allclose(d_input(0, 1, training=False), 2 * X / 120, rtol=1e-15)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_float32_gradients_are_those_of_float64_rounded(activation, rng):
    y = rng.normal(size=(5, 4))
    results = []
    for dtype in ("float64", "float32"):
        layers = [rv.Dense(4, activation=ACTIVATIONS[activation]), rv.Dense(4)]
        model = rv.Sequential(layers, input_size=3, dtype=dtype)
        model.set_parameters({"0.weight": START["weight"], "0.bias": START["bias"]})
        value, gradients = model.value_and_gradient(START["X"], y, loss="mse")
        results.append({**gradients, "value": value, "d_input": gradients.d_input})
    exact, rounded = results
    for name, gradient in rounded.items():
        assert name == "value" or gradient.dtype == np.float32
        assert error(gradient, exact[name]) <= TOLERANCE["float32"], name


# Slopes at the kinks themselves: the branch that NUMERICS.md promises.
KINKS = [
    ("relu", 0.0, 0.0),
    ("relu", -0.0, 0.0),
    ("leaky_relu", 0.0, 0.01),
    ("leaky_relu", -0.0, 0.01),
    (rv.activations.LeakyReLU(slope=0.2), 0.0, 0.2),
    (rv.activations.ELU(alpha=0.7), 0.0, 0.7),
    ("elu", -0.0, 1.0),
    # λα: the branch for x <= 0.
    ("selu", 0.0, 1.0507009873554805 * 1.6732632423543772),
    ("prelu", 0.0, 0.25),
    ("hard_sigmoid", 3.0, 0.0),
    ("hard_sigmoid", -3.0, 0.0),
    # hard_sigmoid(±3) + x·0 = 1 and 0.
    ("hard_swish", 3.0, 1.0),
    ("hard_swish", -3.0, 0.0),
]


@pytest.mark.parametrize(("activation", "x", "slope"), KINKS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_slope_at_a_kink_is_the_one_promised(activation, x, slope, dtype):
    model = rv.Sequential([rv.Activation(activation)], input_size=1, dtype=dtype)
    _, gradients = model.value_and_gradient([[x]], [[0.0]], loss=Follow(1.0))
    rounding = 2 * float(np.finfo(dtype).eps)
    assert gradients.d_input.item() == pytest.approx(slope, rel=rounding, abs=0.0)


def test_two_layers_of_backpropagation_worked_by_hand():
    # x = (1, 2), W0 = [[1, -1], [1, 2]], b0 = (-1, -4): z0 = (1 + 2 - 1, -1 + 4 - 4) = (2, -1).
    # relu: a0 = (2, 0). W1 = (3, 5)ᵀ, b1 = 1: output 3·2 + 5·0 + 1 = 7.
    # The target is 4: loss (7 - 4)² = 9.
    layers = [rv.Dense(2, activation="relu"), rv.Dense(1)]
    model = rv.Sequential(layers, input_size=2, dtype="float64")
    model.set_parameters(
        {
            "0.weight": [[1.0, -1.0], [1.0, 2.0]],
            "0.bias": [-1.0, -4.0],
            "1.weight": [[3.0], [5.0]],
            "1.bias": [1.0],
        }
    )
    value, gradients = model.value_and_gradient([[1.0, 2.0]], [4.0], loss="mse")
    assert value == 9.0
    # d_output = 2 (7 - 4) = 6; d_W1 = a0ᵀ·6, d_b1 = 6.
    assert gradients["1.weight"].tolist() == [[12.0], [0.0]]
    assert gradients["1.bias"].tolist() == [6.0]
    # d_a0 = 6·(3, 5) = (18, 30); relu passes the first alone: d_z0 = (18, 0).
    assert gradients["0.weight"].tolist() == [[18.0, 0.0], [36.0, 0.0]]
    assert gradients["0.bias"].tolist() == [18.0, 0.0]
    # d_x = W0 @ d_z0 = (1·18, 1·18).
    assert gradients.d_input.tolist() == [[18.0, 18.0]]
