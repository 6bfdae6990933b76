"""Trainings beside other frameworks that are installed: NumPy by hand, torch, scikit-learn.

The same weights, the same batches, float64: the same numbers. Without torch its tests are skipped;
tests/data/ holds numbers of torch and Keras for that case.
"""

import warnings

import numpy as np
import pytest

import ranvier as rv
from conftest import TOLERANCE, error
from ranvier import reference

STEPS = 30


# ---------------------------------------------------------------- the textbook example


def test_the_textbook_example_in_core_reference_and_numpy(rng):
    X, y = rng.normal(size=(8, 3)), rng.uniform(size=(8, 2))
    model = rv.Sequential([rv.Dense(2, activation="sigmoid")], input_size=3, dtype="float64")
    start = model.parameters()
    twin = reference.Sequential([reference.Dense(2, activation="sigmoid")], input_size=3)

    # a = σ(xW + b), L = mean((a−y)²), δ = 2(a−y)/(nK) ⊙ a(1−a), dW = xᵀδ, db = Σδ.
    W, b, rate = start["0.weight"], start["0.bias"], 0.5
    for _ in range(1000):
        a = 1 / (1 + np.exp(-(X @ W + b)))
        delta = 2 * (a - y) / y.size * a * (1 - a)
        W, b = W - rate * X.T @ delta, b - rate * delta.sum(axis=0)

    options = {"epochs": 1000, "batch_size": 8, "shuffle": False}
    history = model.fit(X, y, loss="mse", optimizer=rv.SGD(learning_rate=rate), **options)
    trainer = reference.Trainer(twin, loss="mse", optimizer=reference.SGD(learning_rate=rate))
    losses = trainer.fit(X.tolist(), y.tolist(), **options)

    for name, expected in (("0.weight", W), ("0.bias", b)):
        assert error(model.parameters()[name], expected) <= TOLERANCE["float64"]
        assert error(twin.parameters()[name], expected) <= TOLERANCE["float64"]
    assert error(history["loss"], losses) <= TOLERANCE["float64"]
    assert losses[-1] < 0.5 * losses[0]


# ---------------------------------------------------------------- torch

TORCH_OPTIMIZERS = {
    "SGD": (rv.SGD(learning_rate=0.05), {"lr": 0.05}),
    "SGD-momentum": (rv.SGD(learning_rate=0.05, momentum=0.9), {"lr": 0.05, "momentum": 0.9}),
    "SGD-nesterov": (
        rv.SGD(learning_rate=0.02, momentum=0.9, nesterov=True, weight_decay=0.01),
        {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    ),
    "Adam": (rv.Adam(), {}),
    "Adam-amsgrad": (
        rv.Adam(learning_rate=0.01, beta1=0.8, beta2=0.95, amsgrad=True, weight_decay=0.01),
        {"lr": 0.01, "betas": (0.8, 0.95), "amsgrad": True, "weight_decay": 0.01},
    ),
    "AdamW": (rv.AdamW(learning_rate=0.01), {"lr": 0.01}),
}


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def torch_stack(torch, *layers):
    return torch.nn.Sequential(*layers).to(torch.float64)


def tensors(model, stack):
    """torch's parameters and running statistics by ranvier's names."""
    layers = [layer for layer in stack if list(layer.parameters())]
    numbers = sorted({int(name.split(".")[0]) for name in model.parameters()})
    named = {}
    for number, layer in zip(numbers, layers, strict=True):
        for name, tensor in layer.state_dict().items():
            ours = "slope" if type(layer).__name__ == "PReLU" else name
            if name != "num_batches_tracked":
                named[f"{number}.{ours}"] = tensor
    assert set(named) == set(model.parameters())
    return named


def give_weights(torch, model, stack):
    """Ranvier's numbers to torch, whose weights are (out, in) and whose slope is a vector."""
    parameters = model.parameters()
    for name, tensor in tensors(model, stack).items():
        tensor.copy_(torch.from_numpy(parameters[name].T.copy()).reshape(tensor.shape))


def torch_training(torch, stack, loss, optimizer, X, y, batch_size):
    """The loss of each of STEPS steps over consecutive batches."""
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    losses = []
    while len(losses) < STEPS:
        for first in range(0, len(X), batch_size):
            rows = slice(first, first + batch_size)
            optimizer.zero_grad()
            value = loss(stack(X[rows]), y[rows])
            value.backward()
            optimizer.step()
            losses.append(value.item())
    return losses[:STEPS]


class StepLosses(rv.Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_end(self, step, logs):
        self.values.append(logs["loss"])
        return len(self.values) == STEPS


def output_of(torch, stack, X):
    """torch's outputs in evaluation mode."""
    return stack.eval()(torch.from_numpy(X)).detach().numpy()


def assert_same_training(torch, model, stack, losses, optimizers, data):
    (ours, theirs), (optimizer, torch_optimizer) = losses, optimizers
    X, y = data
    give_weights(torch, model, stack)
    tolerance = TOLERANCE["float64"]
    assert error(model.predict(X), output_of(torch, stack, X)) <= tolerance
    record = StepLosses()
    # Three batches an epoch: 16, 16 and 8 rows.
    options = {"batch_size": 16, "shuffle": False, "callbacks": [record], "epochs": STEPS}
    model.fit(X, y, loss=ours, optimizer=optimizer, **options)
    expected = torch_training(torch, stack.train(), theirs, torch_optimizer, X, y, 16)
    assert len(record.values) == STEPS
    assert error(record.values, expected) <= tolerance
    assert record.values[-3] < record.values[0]  # the same batch, nine epochs later
    for name, tensor in tensors(model, stack).items():
        value = model.parameters()[name]
        assert error(value, tensor.numpy().T.reshape(value.shape)) <= tolerance, name
    assert error(model.predict(X), output_of(torch, stack, X)) <= tolerance


@pytest.mark.parametrize("name", TORCH_OPTIMIZERS)
def test_a_regression_follows_torch(name, torch, rng):
    model = rv.Sequential(
        [rv.Dense(16, activation="tanh"), rv.Dense(12, activation="gelu"), rv.Dense(2)],
        input_size=5,
        dtype="float64",
    )
    nn = torch.nn
    stack = torch_stack(
        torch, nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 2)
    )
    optimizer, options = TORCH_OPTIMIZERS[name]
    kind = getattr(torch.optim, name.split("-")[0])
    X = rng.normal(size=(40, 5))
    y = np.sin(X[:, :2]) + 1.0
    assert_same_training(
        torch,
        model,
        stack,
        ("mse", nn.MSELoss()),
        (optimizer, kind(stack.parameters(), **options)),
        (X, y),
    )


@pytest.mark.parametrize("name", TORCH_OPTIMIZERS)
def test_a_classification_follows_torch(name, torch, rng):
    model = rv.Sequential(
        [rv.Dense(16, activation="relu"), rv.Dense(12, activation="silu"), rv.Dense(3)],
        input_size=5,
        dtype="float64",
    )
    nn = torch.nn
    stack = torch_stack(
        torch, nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 12), nn.SiLU(), nn.Linear(12, 3)
    )
    optimizer, options = TORCH_OPTIMIZERS[name]
    kind = getattr(torch.optim, name.split("-")[0])
    X = rng.normal(size=(40, 5))
    y = np.argmax(X[:, :3], axis=1)
    assert_same_training(
        torch,
        model,
        stack,
        (rv.losses.CrossEntropy(label_smoothing=0.05), nn.CrossEntropyLoss(label_smoothing=0.05)),
        (optimizer, kind(stack.parameters(), **options)),
        (X, y),
    )


def test_normalised_layers_follow_torch(torch, rng):
    layers = [
        rv.Dense(8, use_bias=False),
        rv.BatchNorm(),
        rv.Activation(rv.activations.PReLU()),
        rv.Dense(6),
        rv.LayerNorm(),
        rv.Activation("mish"),
        rv.Dense(1),
    ]
    model = rv.Sequential(layers, input_size=5, dtype="float64")
    nn = torch.nn
    stack = torch_stack(
        torch,
        nn.Linear(5, 8, bias=False),
        nn.BatchNorm1d(8),
        nn.PReLU(),
        nn.Linear(8, 6),
        nn.LayerNorm(6),
        nn.Mish(),
        nn.Linear(6, 1),
    )
    X = rng.normal(size=(40, 5))
    y = (X[:, :1] > 0).astype(float)
    assert_same_training(
        torch,
        model,
        stack,
        ("binary_cross_entropy", nn.BCEWithLogitsLoss()),
        (rv.SGD(learning_rate=0.05), torch.optim.SGD(stack.parameters(), lr=0.05)),
        (X, y),
    )


def test_clipping_follows_torch(torch, rng):
    model = rv.Sequential([rv.Dense(3)], input_size=4, dtype="float64")
    linear = torch.nn.Linear(4, 3).to(torch.float64)
    give_weights(torch, model, [linear])
    X, y = rng.normal(size=(10, 4)), 5 * rng.normal(size=(10, 3))
    torch.nn.functional.mse_loss(linear(torch.from_numpy(X)), torch.from_numpy(y)).backward()
    norm = torch.nn.utils.clip_grad_norm_(linear.parameters(), 0.5)
    assert norm > 0.5
    before = model.parameters()
    _, gradients = model.value_and_gradient(X, y, loss="mse")
    rv.SGD(learning_rate=1.0, clip_norm=0.5).step(model, gradients)
    for name, theirs in (("0.weight", linear.weight.grad.T), ("0.bias", linear.bias.grad)):
        assert error(before[name] - model.parameters()[name], theirs.numpy()) <= 1e-13


# ---------------------------------------------------------------- scikit-learn


@pytest.fixture
def sklearn():
    return pytest.importorskip("sklearn.neural_network")


# (ours, arguments of theirs); what is not named is at the default of scikit-learn's MLP.
SKLEARN_OPTIMIZERS = {
    "SGD": (rv.SGD(dialect="sklearn"), {"learning_rate_init": 0.001}),
    "SGD-momentum": (
        rv.SGD(dialect="sklearn", learning_rate=0.05, momentum=0.8, nesterov=False),
        {"learning_rate_init": 0.05, "momentum": 0.8, "nesterov": False},
    ),
    "Adam": (rv.Adam(dialect="sklearn"), {}),
    "Adam-options": (
        rv.Adam(dialect="sklearn", learning_rate=0.03, beta1=0.8, beta2=0.9, eps=1e-4),
        {"learning_rate_init": 0.03, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-4},
    ),
}


@pytest.mark.parametrize("name", SKLEARN_OPTIMIZERS)
def test_scikit_learns_optimizers_take_the_same_steps(name, sklearn, rng):
    optimizer, options = SKLEARN_OPTIMIZERS[name]
    optimizer = optimizer.copy()
    kind = f"{type(optimizer).__name__}Optimizer"
    layers = [rv.Dense(6, activation="tanh"), rv.Dense(2)]
    model = rv.Sequential(layers, input_size=4, dtype="float64")
    X, y = rng.normal(size=(20, 4)), rng.normal(size=(20, 2))
    names = list(model.parameters())
    theirs = [model.parameters()[name] for name in names]
    their_optimizer = getattr(sklearn._stochastic_optimizers, kind)(theirs, **options)
    for _ in range(STEPS):
        # Each goes by the gradient at its own place.
        own = model.copy()
        own.set_parameters(dict(zip(names, theirs, strict=True)))
        _, gradients = own.value_and_gradient(X, y, loss="mse")
        their_optimizer.update_params(theirs, [gradients[name] for name in names])
        _, gradients = model.value_and_gradient(X, y, loss="mse")
        optimizer.step(model, gradients)
        for name, expected in zip(names, theirs, strict=True):
            assert error(model.parameters()[name], expected) <= TOLERANCE["float64"], name


ACTIVATIONS = {"identity": "identity", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}


def as_ranvier(mlp):
    """A model with the layers and weights of a fitted MLP, its output raw."""
    hidden = [rv.Dense(w.shape[1], activation=ACTIVATIONS[mlp.activation]) for w in mlp.coefs_[:-1]]
    layers = [*hidden, rv.Dense(mlp.coefs_[-1].shape[1])]
    model = rv.Sequential(layers, input_size=mlp.n_features_in_, dtype="float64")
    weights = {f"{i}.weight": w for i, w in enumerate(mlp.coefs_)}
    biases = {f"{i}.bias": b for i, b in enumerate(mlp.intercepts_)}
    model.set_parameters(weights | biases)
    return model


def fitted(mlp, X, y):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Maximum iterations.*")
        return mlp.fit(X, y)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("classes", [2, 3])
def test_predictions_of_a_fitted_mlp_classifier(activation, classes, sklearn, rng):
    X = rng.normal(size=(60, 5))
    y = np.argmax(X[:, :classes], axis=1)
    mlp = sklearn.MLPClassifier(
        hidden_layer_sizes=(8, 6), activation=activation, max_iter=5, random_state=0
    )
    fitted(mlp, X, y)
    raw = as_ranvier(mlp).predict(X)
    if classes == 2:  # one output, the logit of the second class
        probability = 1 / (1 + np.exp(-raw[:, 0]))
        expected, labels = mlp.predict_proba(X)[:, 1], (raw[:, 0] > 0).astype(int)
    else:
        softmax = rv.Sequential([rv.Softmax()], input_size=classes, dtype="float64")
        probability, expected = softmax.predict(raw), mlp.predict_proba(X)
        labels = raw.argmax(axis=1)
    assert error(probability, expected) <= 1e-14
    np.testing.assert_array_equal(labels, mlp.predict(X))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("outputs", [1, 3])
def test_predictions_of_a_fitted_mlp_regressor(activation, outputs, sklearn, rng):
    X = rng.normal(size=(60, 5))
    y = X[:, :outputs] ** 2
    mlp = sklearn.MLPRegressor(
        hidden_layer_sizes=(8, 6), activation=activation, max_iter=5, random_state=0
    )
    fitted(mlp, X, y[:, 0] if outputs == 1 else y)
    expected = mlp.predict(X).reshape(60, outputs)
    assert error(as_ranvier(mlp).predict(X), expected) <= 1e-14


# scikit-learn's regressor is left out: it follows a gradient that is not that of its loss.
@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_training_of_mlp_classifier(solver, classes, sklearn, rng):
    X = rng.normal(size=(60, 5))
    y = np.argmax(X[:, :classes], axis=1)
    options = {
        "hidden_layer_sizes": (8, 6),
        "activation": "tanh",
        "solver": solver,
        "alpha": 0.0,
        "batch_size": 25,  # batches of 25, 25 and 10
        "shuffle": False,
        "random_state": 0,
        "tol": 0.0,
        "n_iter_no_change": 1000,
    }
    # One epoch at a rate that moves nothing leaves the weights that a fit starts from.
    rate = {"learning_rate_init": 1e-300}
    start = fitted(sklearn.MLPClassifier(**options, **rate, max_iter=1), X, y)
    rate = {"learning_rate_init": 0.01}
    mlp = fitted(sklearn.MLPClassifier(**options, **rate, max_iter=10), X, y)
    model = as_ranvier(start)
    kind = rv.SGD if solver == "sgd" else rv.Adam
    history = model.fit(
        X,
        y,
        loss="cross_entropy" if classes > 2 else "binary_cross_entropy",
        optimizer=kind(learning_rate=0.01, dialect="sklearn"),
        epochs=10,
        batch_size=25,
        shuffle=False,
    )
    tolerance = TOLERANCE["float64"]
    assert error(history["loss"], mlp.loss_curve_) <= tolerance
    expected = as_ranvier(mlp).parameters()
    for name, value in model.parameters().items():
        assert error(value, expected[name]) <= tolerance, name
