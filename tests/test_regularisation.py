"""Penalties of weights: their value, their gradient, and what training does with them."""

import numpy as np
import pytest

import ranvier as rv
from conftest import TOLERANCE, error, reference_of
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
