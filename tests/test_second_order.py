"""L-BFGS and Levenberg-Marquardt: SciPy's numbers, the reference's, and a place in every fit."""

import hashlib
import itertools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import least_squares, minimize, rosen, rosen_der

import ranvier as rv
from conftest import error
from ranvier import _core, optimizers, reference

_rng = np.random.default_rng(0)
X = _rng.normal(size=(60, 4))
Y = np.sin(X[:, 0]) + X[:, 1] ** 2
LABELS = (X[:, 0] > 0) + (X[:, 1] > 0).astype(int)
NOISY = Y + 0.3 * _rng.normal(size=60)
WEIGHTS = np.arange(60) % 4

METHODS = {"lbfgs": rv.LBFGS, "levenberg_marquardt": rv.LevenbergMarquardt}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def network(widths, inputs=4, activation="tanh", dtype="float64", seed=1, **last):
    hidden = [rv.Dense(width, activation=activation) for width in widths[:-1]]
    layers = [*hidden, rv.Dense(widths[-1], **last)]
    return rv.Sequential(layers, input_size=inputs, seed=seed, dtype=dtype)


def flat(parameters):
    return np.concatenate([np.ravel(value) for value in parameters.values()])


def unflat(theta, like):
    ends = np.cumsum([value.size for value in like.values()])[:-1]
    parts = zip(like.items(), np.split(theta, ends), strict=True)
    return {name: part.reshape(value.shape) for (name, value), part in parts}


def bits(model):
    return b"".join(value.tobytes() for value in model.parameters().values())


class Iterates(rv.Callback):
    """The parameters after each step."""

    def on_train_begin(self, trainer):
        self.model = trainer.model
        self.seen = []

    def on_train_batch_end(self, step, logs):
        self.seen.append(flat(self.model.parameters()))


class Recorded:
    """A loss that remembers its values: one for each evaluation."""

    def __init__(self, loss):
        self.loss = loss
        self.values = []

    def value_and_gradient(self, output, target, sample_weight=None):
        value, gradient = self.loss.value_and_gradient(output, target, sample_weight)
        self.values.append(value)
        return value, gradient


def scipys(model, X, y, loss, weight=None, **options):
    """SciPy's L-BFGS-B on the same function: (result, values, iterates)."""
    twin = model.copy()
    like = twin.parameters()
    values, iterates = [], []

    def function(theta):
        twin.set_parameters(unflat(theta, like))
        value, gradients = twin.value_and_gradient(X, y, loss=loss, sample_weight=weight)
        values.append(value)
        return value, flat(gradients)

    result = minimize(
        function,
        flat(like),
        jac=True,
        method="L-BFGS-B",
        callback=lambda theta: iterates.append(theta.copy()),
        options={"ftol": 1e7 * 2.0**-52, "maxfun": 10**6, **options},
    )
    return result, values, iterates


# ---------------------------------------------------------------- L-BFGS beside SciPy

PROBLEMS = {
    "tanh": (lambda: network([8, 1]), Y, rv.losses.MSE()),
    "relu": (lambda: network([20, 10, 1], activation="relu"), Y, rv.losses.MSE()),
    "logistic": (lambda: network([3]), LABELS, rv.losses.CrossEntropy()),
    "classes": (lambda: network([10, 3]), LABELS, rv.losses.CrossEntropy()),
    "two outputs": (lambda: network([17, 2]), np.c_[Y, -Y], rv.losses.Huber()),
}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("history", [10, 2])
def test_every_evaluation_is_that_of_scipy(problem, history):
    make, y, loss = PROBLEMS[problem]
    model = make()
    result, expected, _ = scipys(model, X, y, loss, maxiter=60, maxcor=history)
    recorded = Recorded(loss)
    trainer = rv.Trainer(model, loss=recorded, optimizer=rv.LBFGS(history_size=history))
    trainer.fit(X, y, epochs=60)
    assert (len(recorded.values), trainer.step) == (len(expected), result.nit)
    np.testing.assert_allclose(recorded.values[:50], expected[:50], rtol=1e-9)
    ended = {0: "converged", 1: "epochs"}
    assert trainer.stopped_by == ended[result.status]


@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["plain", "weighted"])
def test_every_iterate_is_that_of_scipy(weight):
    """The core's own loss, with penalties."""
    layers = [rv.Dense(10, activation="sigmoid", l2=1e-3), rv.Dense(2, l2=1e-2)]
    model = rv.Sequential(layers, input_size=4, seed=1, dtype="float64")
    y = np.c_[Y, -Y]
    _, _, expected = scipys(model, X, y, "mse", weight, maxiter=30)
    iterates = Iterates()
    trainer = rv.Trainer(model, loss="mse", optimizer=rv.LBFGS())
    trainer.fit(X, y, epochs=30, sample_weight=weight, callbacks=[iterates])
    assert error(iterates.seen, expected) < 1e-9


class Given:
    """A function of the parameters of a layer that only hands them on."""

    def __init__(self, function):
        self.function = function
        self.values = []

    def value_and_gradient(self, output, target, sample_weight=None):
        value, gradient = self.function(np.asarray(output[0], np.float64))
        self.values.append(value)
        return value, np.asarray(gradient)[None]


def minimum(function, start, dtype="float64", epochs=300, **options):
    """(trainer, loss) after a fit of the function itself."""
    model = rv.Sequential([rv.Dense(len(start), use_bias=False)], input_size=1, dtype=dtype, seed=0)
    model.set_parameters({"0.weight": np.array([start])})
    loss = Given(function)
    trainer = rv.Trainer(model, loss=loss, optimizer=rv.LBFGS(**options))
    trainer.fit([[1.0]], np.zeros((1, len(start))), epochs=epochs)
    return trainer, loss


def rosenbrock(z):
    return float(rosen(z)), rosen_der(z)


def wavy(z):
    """Many minima, so that line searches meet every case."""
    k = np.arange(1, len(z) + 1)
    value = 0.5 * z @ z / k.sum() + (3 * np.sin(k * z)).sum() + 0.01 * (z**4).sum()
    return float(value), z / k.sum() + 3 * k * np.cos(k * z) + 0.04 * z**3


@pytest.mark.parametrize("evaluations", [1, 2, 3, 20])
@pytest.mark.parametrize("function", [rosenbrock, wavy])
@pytest.mark.parametrize("start", [[-1.2, 1.0], [0.5, 3.0, -2.0], [5.0, -4.0, 3.0, 0.1, 2.0]])
def test_line_searches_are_those_of_scipy(function, start, evaluations):
    """With few evaluations most searches fail: then the history is forgotten, as SciPy does."""
    trainer, loss = minimum(function, start, max_evaluations=evaluations, epochs=40)
    expected = []

    def recorded(theta):
        value, gradient = function(theta)
        expected.append(value)
        return value, gradient

    options = {"ftol": 1e7 * 2.0**-52, "maxls": evaluations, "maxiter": 40}
    result = minimize(recorded, start, jac=True, method="L-BFGS-B", options=options)
    count = min(len(expected), 30)
    assert len(loss.values) >= count
    np.testing.assert_allclose(loss.values[:count], expected[:count], rtol=1e-7, atol=1e-9)
    if len(expected) <= 30:
        ended = {0: "converged", 1: "epochs", 2: "line_search"}
        assert trainer.stopped_by == ended[result.status]
        assert len(loss.values) == len(expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rosenbrocks_valley(dtype):
    trainer, loss = minimum(rosenbrock, [-1.2, 1.0, -0.5, 0.8], dtype)
    z = trainer.model.parameters()["0.weight"]
    np.testing.assert_allclose(z, 1.0, atol=1e-3)
    assert trainer.stopped_by in ("converged", "line_search")
    assert len(loss.values) < 100


def test_a_convex_problem_reaches_scipys_minimum():
    model = network([3], l2=1e-2)
    result, _, _ = scipys(model, X, LABELS, "cross_entropy", ftol=1e-15, gtol=1e-9, maxiter=500)
    optimizer = rv.LBFGS(tolerance_grad=1e-9, tolerance_loss=0.0)
    trainer = rv.Trainer(model, loss="cross_entropy", optimizer=optimizer)
    trainer.fit(X, LABELS, epochs=500)
    assert trainer.evaluate(X, LABELS)["loss"] == pytest.approx(result.fun, rel=1e-13)
    assert trainer.stopped_by == "converged"
    _, gradients = model.value_and_gradient(X, LABELS, loss="cross_entropy")
    assert np.abs(flat(gradients)).max() < 1e-8


def test_a_loss_that_is_not_finite_there_is_stepped_back_from():
    def walled(z):
        if z[0] >= 2.0:
            return np.inf, np.full(1, np.nan)
        return float(-np.log(2.0 - z[0]) - 2.0 * z[0]), 1.0 / (2.0 - z) - 2.0

    trainer, loss = minimum(walled, [-3.0])
    assert np.isinf(loss.values).any()
    assert trainer.model.parameters()["0.weight"][0, 0] == pytest.approx(1.5, abs=1e-5)


def test_a_gradient_that_points_up_ends_the_fit():
    trainer, loss = minimum(lambda z: (float(z @ z), -2.0 * z), [1.0, 2.0])
    assert (trainer.stopped_by, trainer.epoch, trainer.step) == ("line_search", 0, 0)
    assert not trainer.history
    np.testing.assert_array_equal(trainer.model.parameters()["0.weight"], [[1.0, 2.0]])
    assert len(loss.values) == 21


def test_l1_is_followed_as_it_is():
    model = rv.Sequential([rv.Dense(1, l1=0.05)], input_size=4, dtype="float64", seed=0)
    trainer = rv.Trainer(model, loss="mse", optimizer=rv.LBFGS())
    history = trainer.fit(X, NOISY, epochs=200)
    value = trainer.evaluate(X, NOISY)["loss"]
    assert value < history["loss"][0]
    assert trainer.stopped_by in ("converged", "line_search")
    predicted = ((model.predict(X)[:, 0] - NOISY) ** 2).mean()
    weights = np.abs(model.parameters()["0.weight"]).sum()
    assert value == pytest.approx(predicted + 0.05 * weights, rel=1e-12)


# ---------------------------------------------------------------- Levenberg-Marquardt


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("inputs", "outputs", "rows"), [(4, 1, 60), (1, 1, 2), (33, 17, 300)])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_linear_model_is_solved_at_once(inputs, outputs, rows, weighted, dtype):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(rows, inputs)), rng.normal(size=(rows, outputs))
    weight = 0.5 + rng.random(rows) if weighted else None
    model = network([outputs], inputs, dtype=dtype)
    optimizer = rv.LevenbergMarquardt(damping=1e-12)
    trainer = rv.Trainer(model, loss="mse", optimizer=optimizer)
    trainer.fit(x, y, epochs=2, sample_weight=weight)
    root = np.ones((rows, 1)) if weight is None else np.sqrt(weight)[:, None]
    design = np.c_[x, np.ones(rows)]
    expected = np.linalg.lstsq(root * design, root * y, rcond=None)[0]
    parameters = model.parameters()
    found = np.vstack([parameters["0.weight"], parameters["0.bias"]])
    assert error(found, expected) < {"float32": 1e-5, "float64": 1e-9}[dtype]


def test_a_penalty_is_ridge_regression():
    model = network([1], l2=0.3)
    trainer = rv.Trainer(model, loss="mse", optimizer=rv.LevenbergMarquardt(damping=1e-12))
    trainer.fit(X, NOISY, epochs=10)
    design = np.c_[X, np.ones(60)]
    ridge = np.diag([0.3] * 4 + [0.0])
    expected = np.linalg.solve(design.T @ design / 60 + ridge, design.T @ NOISY / 60)
    assert error(flat(model.parameters()), expected) < 1e-11
    assert trainer.stopped_by == "converged"


@pytest.mark.parametrize("seed", range(3))
def test_a_small_network_reaches_what_scipy_reaches(seed):
    """Both end in a minimum, not always the same one; this one's must be no worse by much."""
    model = network([3, 1], 1, seed=seed)
    x = np.linspace(-2, 2, 60)[:, None]
    y = np.tanh(2 * x[:, 0]) + 0.5 * x[:, 0] + 0.1 * NOISY
    twin, like = model.copy(), model.parameters()

    def residuals(theta):
        twin.set_parameters(unflat(theta, like))
        return (twin.predict(x)[:, 0] - y) / np.sqrt(60)

    expected = least_squares(residuals, flat(like), method="lm", max_nfev=20_000)
    trainer = rv.Trainer(model, loss="mse", optimizer=rv.LevenbergMarquardt())
    history = trainer.fit(x, y, epochs=2000)
    found = trainer.evaluate(x, y)["loss"]
    assert found <= 2 * expected.cost * 1.05
    assert (np.diff(history["loss"]) < 0).all()
    # A minimum of SciPy's eyes too.
    again = least_squares(residuals, flat(model.parameters()), method="lm", max_nfev=20_000)
    assert found <= 2 * again.cost * (1 + 1e-2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_where_rounding_lets_nothing_move_it_has_converged(dtype):
    optimizer = rv.LevenbergMarquardt(tolerance_grad=0.0, tolerance_loss=0.0, tolerance_step=0.0)
    model = network([1], dtype=dtype)
    trainer = rv.Trainer(model, loss="mse", optimizer=optimizer)
    history = trainer.fit(X, NOISY, epochs=10_000)
    assert trainer.stopped_by == "converged"
    assert np.isfinite(history["learning_rate"]).all()


def test_a_step_that_brings_little_is_the_last():
    optimizer = rv.LevenbergMarquardt(tolerance_loss=0.5)
    trainer = rv.Trainer(network([6, 1]), loss="mse", optimizer=optimizer)
    losses = trainer.fit(X, NOISY, epochs=100)["loss"]
    losses = [*losses, trainer.evaluate(X, NOISY)["loss"]]
    assert trainer.stopped_by == "converged"
    shares = [after / before for before, after in itertools.pairwise(losses)]
    assert max(shares[:-1]) < 0.5 <= shares[-1]


def test_it_takes_far_fewer_steps_than_adam():
    x = np.linspace(-3, 3, 60)[:, None]
    losses = {}
    for optimizer in (rv.LevenbergMarquardt(), rv.LBFGS(), rv.Adam(learning_rate=0.01)):
        model = network([6, 1], 1)
        history = model.fit(x, np.sin(x), loss="mse", optimizer=optimizer, epochs=50)
        losses[type(optimizer).__name__] = history["loss"][-1]
    assert losses["LevenbergMarquardt"] < 0.1 * losses["Adam"]
    assert losses["LBFGS"] < 0.1 * losses["Adam"]


def test_the_damping_is_nielsens():
    """One step worked by hand: z = w·1, loss (w − 3)², from w = 1."""
    model = rv.Sequential([rv.Dense(1, use_bias=False)], input_size=1, dtype="float64")
    model.set_parameters({"0.weight": [[1.0]]})
    optimizer = rv.LevenbergMarquardt(damping=0.5)
    trainer = rv.Trainer(model, loss="mse", optimizer=optimizer)
    history = trainer.fit([[1.0]], [3.0], epochs=2)
    # J = 1, r = −2, μ = 0.5: h = 2/1.5. The loss falls from 4 to (2/3)², by 32/9; foretold are
    # h(μh + 2) = 32/9: the gain is 1 and μ falls to a third.
    assert history["learning_rate"] == pytest.approx([1.0, 3.0], rel=1e-14)
    second = 2 / 3 / (1 + 0.5 / 3)
    assert model.parameters()["0.weight"][0, 0] == pytest.approx(1 + 2 / 1.5 + second, rel=1e-14)


# ---------------------------------------------------------------- core and reference

CROSSED = {
    "standardized": lambda dtype: rv.Sequential(
        [
            rv.Standardize(),
            rv.Dense(4, activation="tanh"),
            rv.Dense(2),
            rv.Standardize(of="targets"),
        ],
        input_size=4,
        seed=2,
        dtype=dtype,
    ),
    "tanh": lambda dtype: network([3, 2], dtype=dtype),
    "penalty": lambda dtype: network([5, 2], activation="sigmoid", dtype=dtype, l2=1e-2),
    "norm": lambda dtype: rv.Sequential(
        [rv.Dense(4, activation="prelu"), rv.LayerNorm(), rv.Dense(2, l2=1e-3)],
        input_size=4,
        seed=2,
        dtype=dtype,
    ),
}


@every_method
@pytest.mark.parametrize("name", CROSSED)
@pytest.mark.parametrize("weight", [None, WEIGHTS[:30]], ids=["plain", "weighted"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_core_and_reference_walk_together(method, name, weight, dtype):
    model = CROSSED[name](dtype)
    targets = np.c_[NOISY, -Y][:30]
    report = rv.crosscheck(
        model,
        X[:30],
        targets,
        loss="mse",
        optimizer=method(),
        steps=6,
        sample_weight=weight,
        tolerance={"float32": 1e-4, "float64": 1e-10}[dtype],
    )
    assert report.ok, report
    assert len(report.steps) == 7


def test_core_and_reference_stop_together():
    for optimizer, ended in ((rv.LBFGS(), "converged"), (rv.LevenbergMarquardt(), "converged")):
        report = rv.crosscheck(
            network([1]), X, NOISY, loss="mse", optimizer=optimizer, steps=100, tolerance=1e-9
        )
        assert report.ok, report
        trainer = rv.Trainer(network([1]), loss="mse", optimizer=optimizer)
        trainer.fit(X, NOISY, epochs=100)
        assert trainer.stopped_by == ended
        assert len(report.steps) == trainer.step + 1 < 20


def test_crosscheck_sees_who_stops_alone(monkeypatch):
    monkeypatch.setattr(reference.LBFGS, "next", lambda self, problem: None)
    report = rv.crosscheck(network([1]), X, NOISY, loss="mse", optimizer=rv.LBFGS())
    assert not report.ok


def test_the_reference_refuses_what_the_core_refuses():
    ref = reference
    rows, targets = X[:5].tolist(), Y[:5].tolist()

    def fit(layers, loss, optimizer, **options):
        model = ref.Sequential(layers, input_size=4)
        trainer = ref.Trainer(model, loss=loss, optimizer=optimizer)
        return trainer.fit(rows, targets, **options)

    squares = ref.LevenbergMarquardt()
    for case in (
        ([ref.Dense(1)], "mse", ref.LBFGS(), {"batch_size": 4}),
        ([ref.Dropout(0.5), ref.Dense(1)], "mse", ref.LBFGS(), {}),
        ([ref.BatchNorm(), ref.Dense(1)], "mse", squares, {}),
        ([ref.GaussianNoise(0.1), ref.Dense(1)], "mse", squares, {}),
        ([ref.Dense(1, non_negative=True)], "mse", ref.LBFGS(), {}),
        ([ref.Dense(1)], "mae", squares, {}),
        ([ref.Dense(1, l1=0.1)], "mse", squares, {}),
    ):
        with pytest.raises(ValueError, match=r"expected|must be"):
            fit(*case[:3], **case[3])
    assert fit([ref.Dense(1)], "mse", "lbfgs", epochs=3)[2] < 1.0


# ---------------------------------------------------------------- the same bits


def digest(method, threads=None, dtype="float32"):
    if threads is not None:
        rv.set_num_threads(threads)
    found = hashlib.sha256()
    # Work for several threads; odd shapes; the narrow last layer.
    large = ([65, 1], 700, 33) if method is rv.LBFGS else ([33, 1], 300, 17)
    for widths, rows, inputs in (large, ([17, 9, 3], 129, 4), ([1], 5, 1)):
        rng = np.random.default_rng(3)
        x, y = rng.normal(size=(rows, inputs)), rng.normal(size=(rows, widths[-1]))
        model = network(widths, inputs, dtype=dtype)
        model.fit(x, y, loss="mse", optimizer=method(), epochs=3)
        found.update(bits(model))
    return found.hexdigest()


@every_method
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_do_not_matter(method, dtype):
    before = rv.get_num_threads()
    try:
        assert len({digest(method, threads, dtype) for threads in (1, 2, 3)}) == 1
    finally:
        rv.set_num_threads(before)


CHILD = """
import sys
sys.path.insert(0, {tests!r})
from test_second_order import METHODS, digest
print(*(digest(method) for method in METHODS.values()))
"""


def test_instruction_sets_do_not_matter():
    code = CHILD.format(tests=str(Path(__file__).parent))
    found = set()
    for isa in _core.available_isas():
        environment = {**os.environ, "RANVIER_ISA": isa}
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=120
        )
        found.add(done.stdout)
    assert len(found) == 1


# ---------------------------------------------------------------- a fit like any other


def fitted(method, epochs=8, widths=(6, 1), **options):
    trainer = rv.Trainer(network(widths), loss="mse", optimizer=method())
    trainer.fit(X, NOISY, epochs=epochs, **options)
    return trainer


@every_method
def test_a_step_is_an_epoch_and_its_loss_is_that_before(method):
    iterates = Iterates()
    trainer = fitted(method, callbacks=[iterates])
    history = trainer.history
    assert (trainer.epoch, trainer.step, trainer.stopped_by) == (8, 8, "epochs")
    assert history["step"] == list(range(1, 9))
    model = network([6, 1])
    before = [flat(model.parameters()), *iterates.seen]
    for loss, theta in zip(history["loss"], before[:-1], strict=True):
        model.set_parameters(unflat(theta, model.parameters()))
        expected, _ = model.value_and_gradient(X, NOISY, loss="mse")
        assert loss == expected
    assert min(history["learning_rate"]) > 0.0
    assert trainer.evaluate(X, NOISY)["loss"] < history["loss"][-1]


@every_method
def test_shuffling_and_a_larger_batch_change_nothing(method):
    expected = bits(fitted(method).model)
    for options in ({"shuffle": False}, {"batch_size": 60}, {"batch_size": 61}):
        assert bits(fitted(method, **options).model) == expected


@every_method
def test_n_steps_then_m_are_n_plus_m(method):
    once = fitted(method)
    again = fitted(method, epochs=3)
    again.fit(X, NOISY, epochs=1)
    again.fit(X, NOISY, epochs=4)
    assert bits(again.model) == bits(once.model)
    assert again.history["loss"] == once.history["loss"]


@every_method
def test_a_weight_of_two_is_a_row_twice(method):
    weighted = fitted(method, epochs=4, sample_weight=np.r_[2.0, np.ones(59)])
    twice = rv.Trainer(network([6, 1]), loss="mse", optimizer=method())
    twice.fit(np.r_[X, X[:1]], np.r_[NOISY, NOISY[:1]], epochs=4)
    assert error(flat(weighted.model.parameters()), flat(twice.model.parameters())) < 1e-9


@every_method
def test_validation_patience_and_the_best_weights(method):
    trainer = rv.Trainer(network([30, 1]), loss="mse", optimizer=method())
    stopper = rv.EarlyStopping(patience=10)
    trainer.fit(X, NOISY, epochs=300, validation_split=0.4, callbacks=[stopper])
    values = trainer.history["val_loss"]
    assert trainer.stopped_by == "patience"
    assert len(values) == trainer.best_epoch + 11
    assert trainer.best_value == min(values)


@every_method
def test_limits_and_callbacks_end_it(method):
    assert fitted(method, max_steps=3).stopped_by == "max_steps"
    assert fitted(method, max_time=0.0).step == 1

    class Stop(rv.Callback):
        def on_epoch_end(self, epoch, logs):
            return epoch == 1

    trainer = fitted(method, callbacks=[Stop()])
    assert (trainer.stopped_by, trainer.step) == ("callback", 2)


@every_method
def test_many_at_once(method):
    trainers = [rv.Trainer(network([6, 1], seed=s), loss="mse", optimizer=method()) for s in (1, 2)]
    rows = [np.arange(40), np.arange(10, 60)]
    rv.fit_many(trainers, X, NOISY, epochs=5, rows=rows)
    for trainer, seed, own in zip(trainers, (1, 2), rows, strict=True):
        alone = network([6, 1], seed=seed)
        alone.fit(X[own], NOISY[own], loss="mse", optimizer=method(), epochs=5)
        assert bits(trainer.model) == bits(alone)


@every_method
def test_a_converged_fit_has_no_empty_epoch(method):
    trainer = rv.Trainer(network([1]), loss="mse", optimizer=method())
    trainer.fit(X, NOISY, epochs=100)
    assert trainer.stopped_by == "converged"
    assert len(trainer.history["loss"]) == trainer.epoch == trainer.step < 20
    solved = network([1])
    design = np.c_[X, np.ones(60)]
    best = np.linalg.lstsq(design, NOISY, rcond=None)[0]
    solved.set_parameters(unflat(best, solved.parameters()))
    before = bits(solved)
    trainer = rv.Trainer(solved, loss="mse", optimizer=method())
    trainer.fit(X, NOISY, epochs=5)
    assert (trainer.stopped_by, trainer.epoch, trainer.step) == ("converged", 0, 0)
    assert bits(solved) == before


@every_method
def test_a_model_without_parameters_is_at_its_goal(method):
    model = rv.Sequential([rv.Activation("tanh")], input_size=4)
    trainer = rv.Trainer(model, loss="mse", optimizer=method())
    trainer.fit(X, X, epochs=3)
    assert (trainer.stopped_by, trainer.step) == ("converged", 0)


def test_other_data_are_a_new_goal():
    """The loss before the last step, of other data, must not end the fit."""
    trainer = rv.Trainer(network([6, 1]), loss="mse", optimizer=rv.LBFGS())
    trainer.fit(X, 0.001 * NOISY, epochs=5)
    trainer.fit(X, 100.0 * NOISY, epochs=5)
    assert trainer.step == 10


@every_method
def test_parameters_that_a_callback_sets_are_gone_on_from(method):
    class Reset(rv.Callback):
        def on_train_begin(self, trainer):
            self.model, self.start = trainer.model, trainer.model.parameters()

        def on_epoch_end(self, epoch, logs):
            self.model.set_parameters(self.start)

    history = fitted(method, epochs=3, callbacks=[Reset()]).history["loss"]
    assert history[0] == history[1] == history[2]


@every_method
def test_an_interruption_leaves_the_last_complete_step(method):
    iterates = Iterates()
    loss = Recorded(rv.losses.MSE())

    class Stop(rv.Callback):
        def on_train_batch_end(self, step, logs):
            if step == 3:
                raise KeyboardInterrupt

    trainer = rv.Trainer(network([6, 1]), loss="mse", optimizer=method())
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(X, NOISY, epochs=9, callbacks=[iterates, Stop()])
    np.testing.assert_array_equal(flat(trainer.model.parameters()), iterates.seen[2])
    assert trainer.stopped_by == "KeyboardInterrupt"
    if method is rv.LBFGS:
        # In the middle of a line search.
        def fail(*args):
            raise ZeroDivisionError

        trainer = rv.Trainer(network([6, 1]), loss=loss, optimizer=method())
        trainer.fit(X, NOISY, epochs=3, callbacks=[iterates])
        loss.value_and_gradient = fail
        with pytest.raises(ZeroDivisionError):
            trainer.fit(X, NOISY, epochs=9)
        np.testing.assert_array_equal(flat(trainer.model.parameters()), iterates.seen[2])


@every_method
def test_a_start_that_is_not_finite_is_a_divergence(method):
    model = network([1], dtype="float32")
    model.set_parameters({"0.weight": np.full((4, 1), 3e38)})
    before = bits(model)
    trainer = rv.Trainer(model, loss="mse", optimizer=method())
    with pytest.raises(rv.DivergedError, match="the loss"):
        trainer.fit(X, NOISY)
    assert bits(model) == before


# ---------------------------------------------------------------- files


class SaveEach(rv.Callback):
    def on_train_begin(self, trainer):
        self.trainer, self.files = trainer, []

    def on_train_batch_end(self, step, logs):
        self.files.append(pickle.dumps(self.trainer))

    def on_epoch_end(self, epoch, logs):
        self.files.append(pickle.dumps(self.trainer))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "optimizer",
    [
        rv.LBFGS(history_size=3),
        rv.LBFGS(tolerance_loss=1e-2),
        rv.LevenbergMarquardt(),
        rv.LevenbergMarquardt(tolerance_loss=0.05),
    ],
    ids=repr,
)
def test_a_run_resumed_at_any_step_is_the_run_itself(optimizer, dtype):
    saver = SaveEach()
    whole = rv.Trainer(network([6, 1], dtype=dtype), loss="mse", optimizer=optimizer)
    whole.fit(X, NOISY, epochs=12, validation_data=(X[:9], Y[:9]), callbacks=[saver])
    assert len(saver.files) == 2 * whole.step
    for number, file in enumerate(saver.files):
        resumed = pickle.loads(file)
        if number + 1 == len(saver.files) and whole.epoch == 12:
            # Nothing is left of its fit.
            continue
        resumed.fit(X, NOISY, validation_data=(X[:9], Y[:9]))
        assert bits(resumed.model) == bits(whole.model)
        assert resumed.history["loss"] == whole.history["loss"]
        assert resumed.stopped_by == whole.stopped_by


@every_method
def test_files_between_fits(method, tmp_path):
    once = fitted(method)
    again = fitted(method, epochs=5)
    again.save(tmp_path / "run.safetensors")
    assert bits(rv.load(tmp_path / "run.safetensors")) == bits(again.model)
    again = rv.Trainer.resume(tmp_path / "run.safetensors")
    assert again.optimizer == method()
    again.fit(X, NOISY, epochs=3)
    assert bits(again.model) == bits(once.model)


@every_method
def test_a_model_with_statistics_goes_on_too(method, tmp_path):
    layers = [rv.Standardize(), rv.Dense(3, activation="tanh"), rv.Dense(1)]
    layers.append(rv.Standardize(of="targets"))
    trainers = []
    for epochs in ([6], [2, 4]):
        t = rv.Trainer(rv.Sequential(layers, dtype="float64"), loss="mse", optimizer=method())
        for count in epochs:
            t.fit(X, NOISY, epochs=count)
            t.save(tmp_path / "run.safetensors")
            t = rv.Trainer.resume(tmp_path / "run.safetensors")
        trainers.append(t)
    assert bits(trainers[0].model) == bits(trainers[1].model)


def test_a_fit_that_is_not_told_ends_where_it_has_converged():
    t = rv.Trainer(rv.Sequential([rv.Dense(1)], dtype="float64"), loss="mse", optimizer="lbfgs")
    t.fit(X, NOISY)
    assert t.stopped_by == "converged"
    assert 1 < t.epoch < 200


def test_a_shorter_history_takes_the_newest_pairs(tmp_path):
    path = tmp_path / "run.safetensors"
    fitted(rv.LBFGS, epochs=6).save(path)
    shorter = rv.Trainer.resume(path, optimizer=rv.LBFGS(history_size=2))
    shorter.fit(X, NOISY, epochs=1)
    expected = fitted(rv.LBFGS, epochs=6)
    assert shorter.history["loss"] == expected.fit(X, NOISY, epochs=1)["loss"]
    assert bits(shorter.model) != bits(expected.model)


def forged(change):
    """The bytes of a run whose header and tensors were changed."""
    from test_files import forge, parts

    header, data = parts(pickle.loads(pickle.dumps(fitted(rv.LBFGS, epochs=3))).__reduce__()[1][0])
    data = bytearray(data)
    change(header, data)
    return forge(header, bytes(data))


def rename(old, new):
    def change(header, data):
        header[new] = header.pop(old)

    return change


def spoil(name):
    def change(header, data):
        first, end = header[name]["data_offsets"]
        data[first:end] = np.full((end - first) // 8, np.nan).tobytes()

    return change


HOSTILE = {
    "half a pair": rename("optimizer.s.1.0.weight", "optimizer.s.9.0.weight"),
    "a gap": rename("optimizer.y.0.0.bias", "optimizer.y.3.0.bias"),
    "no number": rename("optimizer.s.1.0.bias", "optimizer.s.x.0.bias"),
    "not finite": spoil("optimizer.y.1.2.weight"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pairs_are_refused(case, tmp_path):
    path = tmp_path / "run.safetensors"
    path.write_bytes(forged(HOSTILE[case]))
    with pytest.raises(rv.FileFormatError):
        rv.Trainer.resume(path)


@pytest.mark.parametrize("damping", [-1.0, 0.0, "0.1", 1e999])
def test_a_hostile_damping_is_refused(damping, tmp_path):
    import json

    def change(header, data):
        run = json.loads(header["__metadata__"]["ranvier.run"])
        run["standing"]["damping"] = damping
        header["__metadata__"]["ranvier.run"] = json.dumps(run)

    path = tmp_path / "run.safetensors"
    path.write_bytes(forged(change))
    with pytest.raises(rv.FileFormatError):
        rv.Trainer.resume(path)


# ---------------------------------------------------------------- what is refused

REFUSED = {
    "batch_size": ({"batch_size": 59}, r"^batch_size: expected None, or the 60 rows, .*got 59"),
    "dropout": ({"layers": [rv.Dropout(0.1)]}, "^layers: expected for .*, got Dropout"),
    "noise": ({"layers": [rv.GaussianNoise(0.1)]}, "^layers: expected for .*, got GaussianNoise"),
    "constraint": ({"layers": [rv.Dense(2, max_norm=1.0)]}, "^layers: expected for .* max_norm"),
    "average": ({"ema_decay": 0.9}, r"^ema_decay: expected None for .*, got 0\.9"),
    "accumulate": ({"accumulate": 2}, "^accumulate: expected 1 for .*, got 2"),
    "batch norm": ({"layers": [rv.BatchNorm()]}, "^layers: expected for .*, got BatchNorm"),
    "bf16": ({"precision": "bf16", "dtype": "float32"}, "^precision: expected None for .*bf16"),
}


def refusal(method, *, layers=(), dtype="float64", loss="mse", **options):
    model = rv.Sequential([*layers, rv.Dense(1)], input_size=4, dtype=dtype, seed=0)
    before = bits(model)
    own = {name: options.pop(name) for name in ("precision", "ema_decay") if name in options}
    trainer = rv.Trainer(model, loss=loss, optimizer=method(), **own)
    with pytest.raises(rv.ArgumentError) as caught:
        trainer.fit(X, Y, **options)
    assert bits(model) == before
    assert (trainer.epoch, trainer.step, trainer.stopped_by) == (0, 0, None)
    return str(caught.value)


@every_method
@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_before_anything_changes(method, case):
    import re

    options, words = REFUSED[case]
    message = refusal(method, **options)
    assert re.search(words, message), message


@every_method
def test_blocks_are_not_all_rows(method):
    model = network([1])
    before = bits(model)
    trainer = rv.Trainer(model, loss="mse", optimizer=method())
    with pytest.raises(rv.ArgumentError, match=r"^X: expected arrays, .*got data in blocks"):
        trainer.fit([(X[:30], NOISY[:30]), (X[30:], NOISY[30:])])
    assert bits(model) == before
    # They may be evaluated.
    trainer.fit(X, NOISY, epochs=2, validation_data=[(X[:9], Y[:9]), (X[9:], Y[9:])])
    assert len(trainer.history["val_loss"]) == 2


def test_least_squares_are_squares():
    squares = rv.LevenbergMarquardt
    for loss in ("mae", "huber", "poisson", Recorded(rv.losses.MSE())):
        message = refusal(squares, loss=loss) if loss != "poisson" else "loss: expected mse"
        assert message.startswith("loss: expected mse")
    message = refusal(squares, layers=[rv.Dense(3, l1=0.1)])
    assert message.startswith("layers: expected l1 = 0")


def test_too_many_parameters_are_refused_with_the_figure():
    message = refusal(rv.LevenbergMarquardt, layers=[rv.Dense(2000)])
    assert "at most 10000 parameters" in message
    assert message.endswith("got 12001")


@every_method
def test_a_loop_of_ones_own_has_no_step(method):
    assert not hasattr(method(), "step")
    assert not isinstance(method(), optimizers.FirstOrder)
    for option in ("learning_rate", "weight_decay", "clip_norm", "momentum"):
        with pytest.raises(TypeError, match=option):
            method(**{option: 0.1})


def test_definitions_are_values():
    for name, kind in METHODS.items():
        assert optimizers.get(name) == kind()
        assert pickle.loads(pickle.dumps(kind())) == kind()
        assert repr(kind()) == f"{kind.__name__}()"
    assert rv.LBFGS(history_size=5) != rv.LBFGS()


def test_names_of_pairs_are_not_names_of_parameters():
    prefixes = [*_core.names("prefix"), *_core.names("pairs")]
    assert not any(a.startswith(b) for a, b in itertools.permutations(prefixes, 2))
