"""Penalties, constraints and averages of weights, and noise: what they are, and what they do."""

import pickle

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

import ranvier as rv
from conftest import TOLERANCE, Follow, error, reference_of
from ranvier import reference
from ranvier.model import _from_bytes

_rng = np.random.default_rng(0)
X = _rng.normal(size=(30, 5))
Y = _rng.normal(size=(30, 2))


def model(l1=(0.0, 0.0, 0.0), l2=(0.0, 0.0, 0.0), dtype="float64", units=70, outputs=2):
    layers = [
        rv.Dense(units, activation="tanh", l1=l1[0], l2=l2[0]),
        rv.Dense(9, activation="gelu", l1=l1[1], l2=l2[1]),
        rv.Dense(outputs, l1=l1[2], l2=l2[2]),
    ]
    return rv.Sequential(layers, input_size=5, dtype=dtype, seed=3)


L1, L2 = (0.01, 0.0, 0.3), (0.02, 0.1, 0.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("outputs", [2, 40])
def test_the_loss_has_the_penalty_and_the_gradient_its_derivative(dtype, outputs):
    y = _rng.normal(size=(30, outputs))
    plain, penalised = model(dtype=dtype, outputs=outputs), model(L1, L2, dtype, outputs=outputs)
    # A weight at 0 is at the kink of |w|.
    weight = penalised.parameters()["2.weight"]
    weight[:3] = 0.0
    for m in (plain, penalised):
        m.set_parameters({"2.weight": weight})
    without, gradients = plain.value_and_gradient(X, y, loss="mse")
    value, own = penalised.value_and_gradient(X, y, loss="mse")
    expected = without
    for layer, (l1, l2) in enumerate(zip(L1, L2, strict=True)):
        w = penalised.parameters()[f"{layer}.weight"].astype(np.float64)
        expected += l1 * np.abs(w).sum() + l2 * (w**2).sum()
        slope = gradients[f"{layer}.weight"] + l1 * np.sign(w) + 2 * l2 * w
        assert error(own[f"{layer}.weight"], slope) <= TOLERANCE[dtype]
        assert own[f"{layer}.bias"].tobytes() == gradients[f"{layer}.bias"].tobytes()
    assert value == pytest.approx(expected, rel=1e-12)
    assert own.d_input.tobytes() == gradients.d_input.tobytes()
    # Evaluations tell the same loss.
    assert rv.Trainer(penalised, loss="mse").evaluate(X, y)["loss"] == pytest.approx(
        value, rel=1e-6
    )


def test_the_gradient_is_that_of_the_loss():
    m = model(L1, L2)
    value, gradients = m.value_and_gradient(X, Y, loss="mse")
    parameters = m.parameters()
    for name in ("0.weight", "1.weight", "2.weight"):
        for place in [(0, 0), (4, 1), (2, 1)]:
            step = 1e-6
            values = []
            for sign in (1, -1):
                moved = parameters[name].copy()
                moved[place] += sign * step
                m.set_parameters({name: moved})
                values.append(m.value_and_gradient(X, Y, loss="mse")[0])
            m.set_parameters({name: parameters[name]})
            slope = (values[0] - values[1]) / (2 * step)
            assert gradients[name][place] == pytest.approx(slope, rel=1e-5, abs=1e-8)
    assert m.value_and_gradient(X, Y, loss="mse")[0] == value


def test_the_reference_agrees():
    m = model(L1, L2, units=6)
    value, gradients = m.value_and_gradient(X, Y, loss="mse")
    expected, theirs = reference_of(m).value_and_gradient(X.tolist(), Y.tolist(), loss="mse")
    assert value == pytest.approx(expected, rel=1e-13)
    for name, gradient in gradients.items():
        assert error(gradient, theirs[name]) <= TOLERANCE["float64"]
    for optimizer in (
        rv.SGD(learning_rate=0.1, momentum=0.9),
        rv.Adam(learning_rate=0.01, weight_decay=0.1),
        rv.Adam(learning_rate=0.01, clip_norm=0.5),
        rv.SGD(learning_rate=0.1, clip_value=0.05),
    ):
        assert rv.crosscheck(m, X, Y, loss="mse", optimizer=optimizer, steps=10).ok


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_update_as_an_epilogue_and_by_itself_give_the_same_bits(dtype):
    """A norm that clips nothing takes the other path."""
    for outputs in (2, 40):
        y = _rng.normal(size=(30, outputs))
        results = []
        for clip_norm in (None, 1e30):
            m = model(L1, L2, dtype, outputs=outputs)
            optimizer = rv.Adam(learning_rate=0.01, clip_norm=clip_norm)
            history = m.fit(X, y, loss="mse", optimizer=optimizer, epochs=5, batch_size=7)
            results.append([history["loss"], *map(np.ndarray.tobytes, m.parameters().values())])
        assert results[0] == results[1]


def test_training_follows_the_penalised_loss():
    l2 = 0.05
    m = rv.Sequential([rv.Dense(2, use_bias=False, l2=l2)], input_size=5, dtype="float64")
    history = m.fit(
        X, Y, loss="mse", optimizer=rv.SGD(learning_rate=0.3), epochs=800, batch_size=30
    )
    # Ridge regression: minimise mean((XW − Y)²) over 60 elements + l2·ΣW².
    expected = np.linalg.solve(X.T @ X / 60 + l2 * np.eye(5), X.T @ Y / 60)
    np.testing.assert_allclose(m.parameters()["0.weight"], expected, rtol=1e-9)
    least = ((X @ expected - Y) ** 2).mean() + l2 * (expected**2).sum()
    assert history["loss"][-1] == pytest.approx(least, rel=1e-9)


def test_l1_makes_weights_vanish_that_do_not_matter():
    y = X[:, :1] * 2.0
    m = rv.Sequential([rv.Dense(1, l1=0.1)], input_size=5)
    schedule = rv.schedules.Polynomial(0.05, steps=2000)
    m.fit(X, y, loss="mse", optimizer=rv.SGD(learning_rate=schedule), epochs=2000, batch_size=30)
    weight = np.abs(m.parameters()["0.weight"].ravel())
    assert weight[0] > 1.5
    assert weight[1:].max() < 1e-3


def test_a_loss_of_ones_own_is_penalised_too():
    class Squares:
        def value_and_gradient(self, output, target, sample_weight=None):
            return float(((output - target) ** 2).mean()), 2 * (output - target) / output.size

    results = []
    for loss in ("mse", Squares()):
        m = model(L1, L2)
        trainer = rv.Trainer(m, loss=loss, optimizer="sgd")
        trainer.fit(X, Y, epochs=3, batch_size=10, validation_data=(X, Y))
        results.append((trainer.history["loss"], trainer.history["val_loss"]))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-12)


def test_penalties_travel_with_the_model():
    m = model(L1, L2)
    twin = _from_bytes(m.__reduce__()[1][0])
    assert twin.layers == m.layers == m.copy().layers
    values = [n.value_and_gradient(X, Y, loss="mse")[0] for n in (m, twin, m.copy())]
    assert len(set(values)) == 1
    assert repr(m.layers[2]) == "Dense(2, l1=0.3)"


@pytest.mark.parametrize("name", ["l1", "l2"])
@pytest.mark.parametrize("bad", [-0.1, np.nan, np.inf, "0.1", None, True])
def test_wrong_penalties_are_refused(name, bad):
    with pytest.raises(rv.RanvierError, match=f"{name}: expected"):
        rv.Dense(3, **{name: bad})


# ---------------------------------------------------------------- noise


def noisy(stddev, rows, units, dtype="float64", seed=0, step=0):
    """What a noise layer gives for zeros in training."""
    follow = Follow()
    m = rv.Sequential([rv.GaussianNoise(stddev)], input_size=units, dtype=dtype, seed=seed)
    zeros = np.zeros((rows, units))
    m.value_and_gradient(zeros, zeros, loss=follow, training=True, step=step)
    return follow.outputs[0]


def test_noise_is_normal_with_the_given_deviation():
    values = noisy(0.5, 1000, 200).ravel() / 0.5
    assert scipy.stats.kstest(values, "norm").pvalue > 0.01
    assert len(np.unique(values)) > 0.9999 * values.size


@pytest.mark.parametrize("units", [1, 3, 4, 70, 130])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_noise_is_the_references(units, dtype):
    stream = reference.random.Stream(7, reference.random.NOISE, layer=0, epoch=3)
    expected = [reference.random.noise(stream, position=q, units=units) for q in range(5)]
    ours = noisy(2.0, 5, units, dtype, seed=7, step=3)
    np.testing.assert_allclose(
        ours, 2.0 * np.array(expected), rtol=1e-13 if dtype == "float64" else 1e-7
    )


def test_noise_does_not_depend_on_batch_size_or_threads():
    zeros = np.zeros((50, 70))
    seen = []
    threads = rv.get_num_threads()
    try:
        for batch_size, count in [(50, 1), (50, 2), (7, 1), (1, 2)]:
            rv.set_num_threads(count)
            follow = Follow()
            m = rv.Sequential([rv.GaussianNoise(1.0)], input_size=70)
            trainer = rv.Trainer(m, loss=follow, seed=5)
            trainer.fit(zeros, zeros, batch_size=batch_size, epochs=2)
            seen.append(np.concatenate(follow.outputs))
    finally:
        rv.set_num_threads(threads)
    for other in seen[1:]:
        assert other.tobytes() == seen[0].tobytes()
    assert not (seen[0][:50] == seen[0][50:]).any()


def test_noise_is_for_training_alone():
    m = rv.Sequential([rv.GaussianNoise(1.0)], input_size=5)
    assert (m.predict(X) == X.astype(np.float32)).all()
    assert rv.Trainer(m, loss="mse").evaluate(X, X.astype(np.float32))["loss"] == 0.0
    assert (noisy(0.0, 3, 5) == 0.0).all()


def test_input_noise_acts_like_ridge_regression():
    """For a linear model the mean over the noise is an l2 penalty of stddev² (Bishop 1995)."""
    stddev, y = 0.5, X[:, :1] + 0.1 * Y[:, :1]
    m = rv.Sequential([rv.GaussianNoise(stddev), rv.Dense(1, use_bias=False)], input_size=5)
    rate = rv.schedules.Polynomial(0.1, steps=20000)
    m.fit(X, y, loss="mse", optimizer=rv.SGD(learning_rate=rate), epochs=20000, batch_size=30)
    expected = np.linalg.solve(X.T @ X / 30 + stddev**2 * np.eye(5), X.T @ y / 30)
    np.testing.assert_allclose(m.parameters()["1.weight"], expected, atol=0.02)


# ---------------------------------------------------------------- constraints


def limited(weight, max_norm):
    norms = np.sqrt((weight.astype(np.float64) ** 2).sum(axis=0))
    return weight * np.minimum(1.0, max_norm / np.maximum(norms, 1e-9))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("inputs", "units"), [(1, 1), (5, 2), (70, 1), (33, 70), (130, 200)])
def test_a_step_ends_inside_the_constraints(inputs, units, dtype):
    x, y = _rng.normal(size=(20, inputs)), _rng.normal(size=(20, units))
    results = []
    for options in (
        {},
        {"non_negative": True},
        {"max_norm": 0.3},
        {"non_negative": True, "max_norm": 0.3},
    ):
        m = rv.Sequential([rv.Dense(units, **options)], input_size=inputs, dtype=dtype)
        m.fit(x, y, loss="mse", optimizer=rv.SGD(learning_rate=0.5), batch_size=20)
        results.append(m.parameters()["0.weight"])
    free, positive, short, both = results
    assert (positive == np.maximum(free, 0.0)).all()
    np.testing.assert_allclose(short, limited(free, 0.3), rtol=TOLERANCE[dtype])
    np.testing.assert_allclose(both, limited(positive, 0.3), rtol=TOLERANCE[dtype])


def test_weights_inside_the_constraint_keep_their_bits():
    results = []
    for max_norm in (None, 1e6):
        m = rv.Sequential(
            [rv.Dense(70, max_norm=max_norm), rv.Dense(1, max_norm=max_norm)], input_size=5
        )
        m.fit(X, Y[:, :1], loss="mse", epochs=5)
        results.append([value.tobytes() for value in m.parameters().values()])
    assert results[0] == results[1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_constrained_training_agrees_with_the_reference(dtype):
    layers = [
        rv.Dense(6, activation="tanh", max_norm=0.4),
        rv.GaussianNoise(0.2),
        rv.Dense(20, activation="softplus", non_negative=True),
        rv.Dense(2, max_norm=0.5, non_negative=True, l2=0.1),
    ]
    m = rv.Sequential(layers, input_size=5, dtype=dtype)
    for optimizer in ("sgd", rv.AdamW(learning_rate=0.05, clip_norm=1.0)):
        report = rv.crosscheck(m, X, Y, loss="mse", optimizer=optimizer, steps=8, batch_size=10)
        assert report.ok, report


def test_non_negative_least_squares_is_scipys():
    x, y = np.abs(X), Y[:, 0]
    m = rv.Sequential(
        [rv.Dense(1, use_bias=False, non_negative=True)], input_size=5, dtype="float64"
    )
    m.fit(x, y, loss="mse", optimizer=rv.SGD(learning_rate=0.1), epochs=3000, batch_size=30)
    expected, _ = scipy.optimize.nnls(x, y)
    np.testing.assert_allclose(m.parameters()["0.weight"][:, 0], expected, atol=1e-9)


def test_a_loop_of_ones_own_keeps_the_constraints():
    trained = rv.Sequential([rv.Dense(2, max_norm=0.1, non_negative=True)], input_size=5)
    stepped, optimizer = trained.copy(), rv.SGD(learning_rate=0.1)
    trained.fit(X, Y, loss="mse", optimizer=optimizer, epochs=4, batch_size=30, shuffle=False)
    for _ in range(4):
        _, gradients = stepped.value_and_gradient(X, Y, loss="mse")
        optimizer.step(stepped, gradients)
    for a, b in zip(trained.parameters().values(), stepped.parameters().values(), strict=True):
        assert a.tobytes() == b.tobytes()


# ---------------------------------------------------------------- averages


class Recorder(rv.Callback):
    """Parameters after each step and at the end of each epoch."""

    def __init__(self, m):
        self.model, self.steps, self.epochs = m, [], []

    def on_train_batch_end(self, step, logs):
        self.steps.append(self.model.parameters())

    def on_epoch_end(self, epoch, logs):
        self.epochs.append(self.model.parameters())


def bits(m):
    return [value.tobytes() for value in m.parameters().values()]


def averaged(dtype="float32", ema_decay=0.9, **options):
    layers = [rv.Dense(70, activation="tanh"), rv.BatchNorm(), rv.Dense(2)]
    m = rv.Sequential(layers, input_size=5, dtype=dtype)
    return rv.Trainer(m, loss="mse", ema_decay=ema_decay, **options)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_model_ends_with_the_mean_of_the_steps_that_decays(dtype):
    trainer = averaged(dtype)
    recorder = Recorder(trainer.model)
    trainer.fit(X, Y, epochs=5, batch_size=10, callbacks=[recorder])
    shares = 0.9 ** np.arange(15)[::-1]
    for name, value in trainer.model.parameters().items():
        steps = np.array([step[name] for step in recorder.steps], np.float64)
        if "running" in name:
            expected = steps[-1]
        else:
            expected = np.tensordot(shares / shares.sum(), steps, axes=1)
        np.testing.assert_allclose(
            value, expected, rtol=TOLERANCE[dtype], atol=1e-7 if dtype == "float32" else 1e-15
        )


def test_epochs_are_validated_on_the_average():
    trainer = averaged()
    recorder = Recorder(trainer.model)
    trainer.fit(X, Y, epochs=6, batch_size=10, validation_data=(X[:9], Y[:9]), callbacks=[recorder])
    twin = trainer.model.copy()
    for parameters, loss in zip(recorder.epochs, trainer.history["val_loss"], strict=True):
        twin.set_parameters(parameters)
        assert rv.Trainer(twin, loss="mse").evaluate(X[:9], Y[:9])["loss"] == loss
    assert bits(trainer.model) == [
        v.tobytes() for v in recorder.epochs[trainer.best_epoch].values()
    ]


@pytest.mark.parametrize("validated", [False, True])
def test_fits_of_n_and_m_epochs_are_one_of_n_plus_m_with_an_average(validated, tmp_path):
    options = {"batch_size": 10} | ({"validation_data": (X[:9], Y[:9])} if validated else {})
    once, twice, stored = averaged(), averaged(), averaged()
    once.fit(X, Y, epochs=7, **options)
    for epochs in (3, 4):
        twice.fit(X, Y, epochs=epochs, **options)
        stored.fit(X, Y, epochs=epochs, **options)
        stored.save(tmp_path / "run.safetensors")
        stored = rv.Trainer.resume(tmp_path / "run.safetensors")
    assert bits(once.model) == bits(twice.model) == bits(stored.model)
    assert once.history["loss"] == twice.history["loss"] == stored.history["loss"]
    assert stored.ema_decay == 0.9


def test_the_average_changes_nothing_of_the_training():
    plain, trainer = averaged(ema_decay=None), averaged()
    for t in (plain, trainer):
        for _ in range(2):
            t.fit(X, Y, epochs=3, batch_size=10)
    assert plain.history["loss"] == trainer.history["loss"]
    assert bits(plain.model) != bits(trainer.model)
    instant = averaged(ema_decay=0.0)
    instant.fit(X, Y, epochs=6, batch_size=10)
    for a, b in zip(
        plain.model.parameters().values(), instant.model.parameters().values(), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_model_that_was_changed_begins_a_new_average():
    trainer, fresh = averaged(optimizer="sgd"), averaged(optimizer="sgd")
    trainer.fit(X, Y, epochs=3, batch_size=10)
    start = fresh.model.parameters()
    trainer.model.set_parameters(start)
    for t in (trainer, fresh):
        t.fit(X, Y, batch_size=30, shuffle=False)
    assert bits(trainer.model) == bits(fresh.model)


def test_the_average_agrees_with_the_reference():
    m = rv.Sequential([rv.Dense(4, activation="tanh"), rv.Dense(2)], input_size=5, dtype="float64")
    twin = reference_of(m)
    trainer = rv.Trainer(m, loss="mse", ema_decay=0.8)
    theirs = reference.Trainer(twin, loss="mse", optimizer="adam", ema_decay=0.8)
    for _ in range(2):
        trainer.fit(X, Y, epochs=2, batch_size=10)
        theirs.fit(X.tolist(), Y.tolist(), epochs=2, batch_size=10)
        for name, value in m.parameters().items():
            assert error(value, twin.parameters()[name]) <= TOLERANCE["float64"]


def test_an_interrupted_or_diverged_fit_leaves_the_average():
    class Interrupt(rv.Callback):
        def on_train_batch_end(self, step, logs):
            if step == 4:
                raise KeyboardInterrupt

    trainer = averaged()
    recorder = Recorder(trainer.model)
    trainer.fit(
        X, Y, epochs=5, batch_size=10, callbacks=[recorder, Interrupt()], raise_on_interrupt=False
    )
    shares = 0.9 ** np.arange(4)[::-1]
    steps = np.array([step["2.weight"] for step in recorder.steps])
    expected = np.tensordot(shares / shares.sum(), steps, axes=1)
    np.testing.assert_allclose(trainer.model.parameters()["2.weight"], expected, atol=1e-6)

    m = rv.Sequential([rv.Dense(2)], input_size=5)
    trainer = rv.Trainer(m, loss="mse", optimizer=rv.SGD(learning_rate=1e3), ema_decay=0.5)
    recorder = Recorder(m)
    with pytest.raises(rv.DivergedError):
        trainer.fit(X, Y, epochs=1000, callbacks=[recorder])
    assert bits(m) == [value.tobytes() for value in recorder.epochs[-1].values()]


@pytest.mark.parametrize("bad", [-0.1, 1.0, 1, 2, np.nan, "0.9", True])
def test_a_wrong_decay_is_refused(bad):
    with pytest.raises(rv.RanvierError, match="ema_decay: expected"):
        averaged(ema_decay=bad)


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_epoch_end"])
@pytest.mark.parametrize("validated", [False, True])
def test_a_change_in_a_hook_begins_a_new_average_that_a_file_goes_on_with(hook, validated):
    options = {"validation_data": (X[:9], Y[:9])} if validated else {}

    class Change(rv.Callback):
        calls = 0

        def on_train_begin(self, trainer):
            self.trainer = trainer

        def called(self):
            self.calls += 1
            if self.calls == 2:
                parameters = self.trainer.model.parameters()
                self.trainer.model.set_parameters({k: v + 0.5 for k, v in parameters.items()})
                self.file = pickle.dumps(self.trainer)

    setattr(Change, hook, lambda self, *_: self.called())
    change, trainer = Change(), averaged(optimizer=rv.SGD(learning_rate=1e-12))
    trainer.fit(X, Y, epochs=4, batch_size=10, callbacks=[change], **options)
    resumed = pickle.loads(change.file)
    resumed.fit(X, Y, **options)
    assert bits(resumed.model) == bits(trainer.model)
    # The rate is next to nothing, so that the average is what it was changed to.
    fresh = rv.Sequential(trainer.model.layers, input_size=5).parameters()
    if not validated:
        np.testing.assert_allclose(
            trainer.model.parameters()["0.weight"], fresh["0.weight"] + 0.5, atol=1e-5
        )
