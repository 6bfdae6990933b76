"""Networks learn: each task has a bar that is stated, and convex ones have an exact answer."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import sklearn.datasets
import sklearn.linear_model

import ranvier as rv
from ranvier import reference

DTYPES = ["float32", "float64"]


def r2(y, prediction):
    return 1 - ((y - prediction) ** 2).sum() / ((y - y.mean()) ** 2).sum()


def split(n, seed=0):
    """Indices of four fifths and of the held-out fifth, shuffled."""
    order = np.random.default_rng(seed).permutation(n)
    return order[n // 5 :], order[: n // 5]


# ---------------------------------------------------------------- small classics


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", ["mse", "binary_cross_entropy", "cross_entropy"])
def test_xor(loss, dtype):
    """Bar: loss below 1e-2 and every row right."""
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    y = np.array([0, 1, 1, 0])
    outputs = 2 if loss == "cross_entropy" else 1
    layers = [rv.Dense(8, activation="tanh"), rv.Dense(outputs)]
    model = rv.Sequential(layers, input_size=2, seed=0, dtype=dtype)
    trainer = rv.Trainer(model, loss=loss, optimizer=rv.Adam(learning_rate=0.05))
    trainer.fit(x, y, epochs=500)
    assert trainer.evaluate(x, y)["loss"] < 1e-2
    out = model.predict(x)
    answers = {
        "mse": out[:, 0] > 0.5,
        "binary_cross_entropy": out[:, 0] > 0,
        "cross_entropy": out.argmax(axis=1),
    }
    assert np.array_equal(answers[loss], y)


def spirals(n, seed):
    """Two interleaved spirals of n points each, a turn and a half, with a little noise."""
    rng = np.random.default_rng(seed)
    angle = np.sqrt(rng.uniform(0.02, 1, n)) * 3 * np.pi
    arm = np.column_stack([np.cos(angle), np.sin(angle)]) * angle[:, np.newaxis] / (3 * np.pi)
    x = np.concatenate([arm, -arm]) + rng.normal(scale=0.01, size=(2 * n, 2))
    return x, np.repeat([0, 1], n)


def test_two_spirals():
    """Bar: 99 % of points that were not trained on."""
    x, y = spirals(500, 0)
    layers = [rv.Dense(64, activation="relu"), rv.Dense(64, activation="relu"), rv.Dense(2)]
    model = rv.Sequential(layers, input_size=2, seed=0)
    trainer = rv.Trainer(model, loss="cross_entropy", optimizer=rv.Adam(learning_rate=0.01))
    trainer.fit(x, y, epochs=150, batch_size=50)
    assert trainer.evaluate(*spirals(300, 1))["accuracy"] >= 0.99


SINE_OPTIMIZERS = {
    "sgd": rv.SGD(learning_rate=0.05),
    "momentum": rv.SGD(learning_rate=0.02, momentum=0.9),
    "nesterov": rv.SGD(learning_rate=0.02, momentum=0.9, nesterov=True),
    "sgd keras": rv.SGD(learning_rate=0.02, momentum=0.9, nesterov=True, dialect="keras"),
    "sgd sklearn": rv.SGD(learning_rate=0.02, dialect="sklearn"),
    "adam": rv.Adam(learning_rate=0.01),
    "amsgrad": rv.Adam(learning_rate=0.01, amsgrad=True),
    "adam keras": rv.Adam(learning_rate=0.01, dialect="keras"),
    "adam sklearn": rv.Adam(learning_rate=0.01, dialect="sklearn"),
    "adamw": rv.AdamW(learning_rate=0.01, weight_decay=1e-4),
    "adamw keras": rv.AdamW(learning_rate=0.01, weight_decay=1e-4, dialect="keras"),
    "clipped by norm": rv.Adam(learning_rate=0.01, clip_norm=0.1),
    "clipped by value": rv.SGD(learning_rate=0.1, momentum=0.9, clip_value=0.01),
}


@pytest.mark.parametrize("optimizer", SINE_OPTIMIZERS)
def test_sine_with_every_optimizer(optimizer):
    """Bar: mean squared error below 0.01 (the variance of a sine is 0.5)."""
    x = np.linspace(-np.pi, np.pi, 128)[:, np.newaxis]
    y = np.sin(x)
    model = rv.Sequential([rv.Dense(32, activation="tanh"), rv.Dense(1)], input_size=1, seed=0)
    trainer = rv.Trainer(model, loss="mse", optimizer=SINE_OPTIMIZERS[optimizer])
    trainer.fit(x, y, epochs=800, batch_size=32)
    assert trainer.evaluate(x, y)["loss"] < 0.01


ACTIVATIONS = ["sigmoid", "tanh", "relu", "leaky_relu", "elu", "selu", "gelu", "gelu_tanh", "silu"]
ACTIVATIONS += ["softplus", "hard_swish", "mish", "prelu", "hard_sigmoid"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_bump_with_every_activation(activation):
    """Bar: R² of 0.98 for a product of two inputs, which no linear model fits at all."""
    x = np.random.default_rng(0).uniform(-1, 1, (400, 2))
    y = x[:, 0] * x[:, 1]
    if activation == "hard_sigmoid":
        x = 6 * x  # its kinks are at ±3
    model = rv.Sequential([rv.Dense(32, activation=activation), rv.Dense(1)], input_size=2, seed=1)
    model.fit(x, y, loss="mse", optimizer=rv.Adam(learning_rate=0.02), epochs=200, batch_size=50)
    assert r2(y, model.predict(x)[:, 0]) > 0.98


@pytest.mark.parametrize("dtype", DTYPES)
def test_normalized_layers_learn_what_badly_scaled_data_hide(dtype):
    """Bar: R² of 0.95 with features of scales from 1e-3 to 1e3."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 4))
    y = np.tanh(x[:, 0]) + x[:, 1] * x[:, 2]
    x = x * [1e-3, 1.0, 30.0, 1e3]
    layers = [
        rv.BatchNorm(),
        rv.Dense(48, activation="gelu"),
        rv.LayerNorm(),
        rv.Dense(1),
    ]
    model = rv.Sequential(layers, input_size=4, seed=0, dtype=dtype)
    model.fit(x, y, loss="mse", optimizer=rv.Adam(learning_rate=0.01), epochs=100, batch_size=50)
    assert r2(y, model.predict(x)[:, 0]) > 0.95


# ---------------------------------------------------------------- data of the world


def test_digits():
    """Bar: 97 % of a held-out fifth."""
    x, y = rv.datasets.load_digits()
    assert x.shape == (1797, 64)
    assert np.bincount(y).min() > 170
    train, test = split(len(x))
    layers = [rv.Dense(128, activation="relu"), rv.Dropout(0.2), rv.Dense(10)]
    model = rv.Sequential(layers, input_size=64, seed=0)
    trainer = rv.Trainer(model, loss="cross_entropy")
    history = trainer.fit(x[train], y[train], epochs=30, validation_data=(x[test], y[test]))
    assert history["val_accuracy"][-1] >= 0.97
    assert history["val_loss"][-1] < 0.15
    assert history["loss"][-1] < history["loss"][0] / 5


def test_the_digits_are_those_of_scikit_learn():
    x, y = rv.datasets.load_digits()
    theirs = sklearn.datasets.load_digits()
    assert np.array_equal(x * 16, theirs.data)
    assert np.array_equal(y, theirs.target)


def test_diabetes():
    """Bar: R² of 0.4 on a held-out fifth (linear regression reaches about 0.45)."""
    data = sklearn.datasets.load_diabetes()
    train, test = split(len(data.data), seed=1)
    mean, scale = data.target[train].mean(), data.target[train].std()
    x = data.data / data.data[train].std(axis=0)
    layers = [rv.Dense(16, activation="tanh"), rv.Dropout(0.2), rv.Dense(1)]
    model = rv.Sequential(layers, input_size=10, seed=0)
    optimizer = rv.AdamW(learning_rate=3e-3, weight_decay=0.1)
    model.fit(
        x[train], (data.target[train] - mean) / scale, loss="mse", optimizer=optimizer, epochs=60
    )
    prediction = model.predict(x[test])[:, 0] * scale + mean
    assert r2(data.target[test], prediction) >= 0.4


# ---------------------------------------------------------------- convex problems


@pytest.mark.parametrize(
    "optimizers",
    [
        [rv.SGD(learning_rate=0.2)],
        [rv.SGD(learning_rate=0.1, momentum=0.9)],
        # Adam's steps stay as long as the rate: it comes close only by smaller and smaller rates.
        [rv.Adam(learning_rate=0.05 / 10**k) for k in range(9)],
    ],
    ids=["gradient descent", "momentum", "adam"],
)
def test_least_squares(optimizers):
    """Bar: 1e-8 of the normal equations' solution."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5))
    y = x @ rng.normal(size=(5, 2)) + [1.0, -2.0] + rng.normal(size=(200, 2))
    with_one = np.column_stack([x, np.ones(200)])
    exact = np.linalg.solve(with_one.T @ with_one, with_one.T @ y)
    model = rv.Sequential([rv.Dense(2)], input_size=5, dtype="float64")
    for optimizer in optimizers:
        model.fit(x, y, loss="mse", optimizer=optimizer, epochs=2000, batch_size=200)
    found = model.parameters()
    np.testing.assert_allclose(found["0.weight"], exact[:5], rtol=0, atol=1e-8)
    np.testing.assert_allclose(found["0.bias"], exact[5], rtol=0, atol=1e-8)


def test_weighted_least_squares():
    """Bar: 1e-8 of the weighted normal equations' solution."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(100, 3))
    y = x.sum(axis=1) + rng.normal(size=100)
    weight = rng.uniform(0, 3, 100) * (rng.uniform(size=100) > 0.2)
    with_one = np.column_stack([x, np.ones(100)])
    exact = np.linalg.solve(with_one.T * weight @ with_one, with_one.T * weight @ y)
    model = rv.Sequential([rv.Dense(1)], input_size=3, dtype="float64")
    trainer = rv.Trainer(model, loss="mse", optimizer=rv.SGD(learning_rate=0.2))
    trainer.fit(x, y, epochs=2000, batch_size=100, sample_weight=weight)
    np.testing.assert_allclose(model.parameters()["0.weight"][:, 0], exact[:3], rtol=0, atol=1e-8)


def test_quantiles_of_a_sample():
    """Bar: 0.02 (two steps' length); a constant is all there is to learn."""
    y = np.random.default_rng(0).exponential(size=999)
    levels = [0.1, 0.5, 0.9]
    model = rv.Sequential([rv.Dense(3)], input_size=1, dtype="float64")
    trainer = rv.Trainer(
        model, loss=rv.losses.Quantile(levels), optimizer=rv.SGD(learning_rate=0.03)
    )
    trainer.fit(np.zeros((999, 1)), y, epochs=4000, batch_size=999)
    np.testing.assert_allclose(model.parameters()["0.bias"], np.quantile(y, levels), atol=0.02)


def test_mean_and_variance_of_a_sample():
    """Bar: 1e-6. The Gaussian likelihood's optimum is mean and log of the (biased) variance."""
    y = np.random.default_rng(0).normal(3.0, 2.0, size=500)
    model = rv.Sequential([rv.Dense(2)], input_size=1, dtype="float64")
    trainer = rv.Trainer(model, loss="gaussian_nll", optimizer=rv.SGD(learning_rate=0.5))
    trainer.fit(np.zeros((500, 1)), y, epochs=1500, batch_size=500)
    expected = [y.mean(), np.log(y.var())]
    np.testing.assert_allclose(model.parameters()["0.bias"], expected, atol=1e-6)


def test_rate_of_counts():
    """Bar: 1e-6 of the maximum of the Poisson likelihood, found by scipy."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2))
    y = rng.poisson(np.exp(0.5 + x @ [0.3, -0.6]))

    def loss(theta):
        z = x @ theta[:2] + theta[2]
        return (np.exp(z) - y * z).mean()

    exact = scipy.optimize.minimize(loss, np.zeros(3), tol=1e-14).x
    model = rv.Sequential([rv.Dense(1)], input_size=2, dtype="float64")
    trainer = rv.Trainer(model, loss="poisson", optimizer=rv.SGD(learning_rate=0.2))
    trainer.fit(x, y, epochs=1500, batch_size=300)
    found = np.append(model.parameters()["0.weight"][:, 0], model.parameters()["0.bias"])
    np.testing.assert_allclose(found, exact, atol=1e-6)


def noisy_classes(classes):
    """Classes that overlap, so that the likelihood has a finite optimum."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    z = x @ rng.normal(size=(3, classes)) + rng.gumbel(size=(300, classes))
    return x, z.argmax(axis=1)


def test_logistic_regression():
    """Bar: 1e-6 of scikit-learn's unpenalised optimum, and of scipy's."""
    x, y = noisy_classes(2)
    model = rv.Sequential([rv.Dense(1)], input_size=3, dtype="float64")
    trainer = rv.Trainer(
        model, loss="binary_cross_entropy", optimizer=rv.SGD(learning_rate=1.0, momentum=0.9)
    )
    trainer.fit(x, y, epochs=3000, batch_size=300)
    found = model.parameters()
    theirs = sklearn.linear_model.LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000).fit(x, y)
    np.testing.assert_allclose(found["0.weight"][:, 0], theirs.coef_[0], atol=1e-6)
    np.testing.assert_allclose(found["0.bias"], theirs.intercept_, atol=1e-6)

    def loss(theta):
        z = x @ theta[:3] + theta[3]
        return (np.logaddexp(0, z) - y * z).mean()

    exact = scipy.optimize.minimize(loss, np.zeros(4), tol=1e-12)
    assert trainer.evaluate(x, y)["loss"] == pytest.approx(exact.fun, abs=1e-9)
    assert trainer.evaluate(x, y)["accuracy"] == pytest.approx(theirs.score(x, y))


def test_softmax_regression():
    """Bar: 1e-6 in every probability of scikit-learn's unpenalised optimum."""
    x, y = noisy_classes(4)
    model = rv.Sequential([rv.Dense(4)], input_size=3, dtype="float64")
    trainer = rv.Trainer(
        model, loss="cross_entropy", optimizer=rv.SGD(learning_rate=1.0, momentum=0.9)
    )
    trainer.fit(x, y, epochs=4000, batch_size=300)
    theirs = sklearn.linear_model.LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000).fit(x, y)
    found = scipy.special.softmax(model.predict(x), axis=1)
    np.testing.assert_allclose(found, theirs.predict_proba(x), atol=1e-6)


# ---------------------------------------------------------------- the textbook example


def textbook_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 3))
    y = (x[:, :2] @ [[1.0, -1.0], [0.5, 2.0]] > 0) * 1.0
    return x, y, rng.normal(size=(3, 2)), rng.normal(size=2)


def textbook_numpy(x, y, w, b, steps=1000, rate=0.1):
    """a = σ(xW + b), L = mean((a − y)²), by six lines of NumPy."""
    for _ in range(steps):
        a = 1 / (1 + np.exp(-(x @ w + b)))
        d_z = 2 * (a - y) / y.size * a * (1 - a)
        d_w, d_b = x.T @ d_z, d_z.sum(axis=0)
        w = w - rate * d_w
        b = b - rate * d_b
    return w, b


def test_the_textbook_example():
    """Bar: core, reference and NumPy agree to 1e-12 after 1,000 steps of gradient descent."""
    x, y, w, b = textbook_data()
    expected = dict(zip(["0.weight", "0.bias"], textbook_numpy(x, y, w, b), strict=True))

    core = rv.Sequential([rv.Dense(2, activation="sigmoid")], input_size=3, dtype="float64")
    core.set_parameters({"0.weight": w, "0.bias": b})
    trainer = rv.Trainer(core, loss="mse", optimizer=rv.SGD(learning_rate=0.1))
    history = trainer.fit(x, y, epochs=1000, batch_size=20, shuffle=False)

    readable = reference.Sequential([reference.Dense(2, activation="sigmoid")], input_size=3)
    readable.set_parameters({"0.weight": w.tolist(), "0.bias": b.tolist()})
    optimizer = reference.SGD(learning_rate=0.1)
    teacher = reference.Trainer(readable, loss="mse", optimizer=optimizer)
    losses = teacher.fit(x.tolist(), y.tolist(), epochs=1000, batch_size=20, shuffle=False)

    assert trainer.step == teacher.step == 1000
    for name, value in expected.items():
        np.testing.assert_allclose(core.parameters()[name], value, rtol=0, atol=1e-12)
        np.testing.assert_allclose(readable.parameters()[name], value, rtol=0, atol=1e-12)
    np.testing.assert_allclose(history["loss"], losses, rtol=0, atol=1e-12)
    assert history["loss"][-1] < history["loss"][0] / 2


def test_the_textbook_example_by_hand_with_the_pieces():
    """The same through value_and_gradient and Optimizer.step, and its gradient by differences."""
    x, y, w, b = textbook_data()
    model = rv.Sequential([rv.Dense(2, activation="sigmoid")], input_size=3, dtype="float64")
    model.set_parameters({"0.weight": w, "0.bias": b})
    optimizer = rv.SGD(learning_rate=0.1)
    value, gradients = model.value_and_gradient(x, y, loss="mse")
    a = 1 / (1 + np.exp(-(x @ w + b)))
    assert value == pytest.approx(((a - y) ** 2).mean(), rel=1e-13)
    d_z = 2 * (a - y) / y.size * a * (1 - a)
    np.testing.assert_allclose(gradients["0.weight"], x.T @ d_z, rtol=0, atol=1e-15)
    np.testing.assert_allclose(gradients.d_input, d_z @ w.T, rtol=0, atol=1e-15)
    for _ in range(1000):
        optimizer.step(model, model.value_and_gradient(x, y, loss="mse")[1])
    expected = textbook_numpy(x, y, w, b)
    np.testing.assert_allclose(model.parameters()["0.weight"], expected[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(model.parameters()["0.bias"], expected[1], rtol=0, atol=1e-12)
