"""Standardize: statistics of the first fit, by the closed form, and what every layer promises."""

import copy
import itertools
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import ranvier as rv
from conftest import Follow, error
from ranvier import reference

TARGETS = rv.Standardize(of="targets")
DTYPES = ["float32", "float64"]
STILL = rv.SGD(learning_rate=1e-300)


def data(rows=90, columns=5, outputs=2, seed=0):
    """Columns of very different sizes and offsets, and targets far from 0."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, columns)) * 10.0 ** rng.uniform(-3, 3, columns)
    X += 3.0 * np.abs(X).max(axis=0) * rng.normal(size=columns)
    z = (X - X.mean(axis=0)) / X.std(axis=0)
    y = np.sin(z[:, :1] + z[:, 1:2] * np.arange(outputs)) * 40 + 700 + 100 * np.arange(outputs)
    return X, y


def net(*, outputs=2, hidden=8, targets=True, **options):
    layers = [rv.Standardize(), rv.Dense(hidden, activation="tanh"), rv.Dense(outputs)]
    return rv.Sequential([*layers, TARGETS] if targets else layers, **options)


def statistics(model, layer=0):
    parameters = model.parameters()
    return parameters[f"{layer}.running_mean"], parameters[f"{layer}.running_var"]


def fitted(X, dtype="float64", **options):
    """The statistics that a fit finds in X."""
    model = rv.Sequential([rv.Standardize()], dtype=dtype)
    model.fit(X, np.zeros(np.shape(X)), loss="mse", optimizer=STILL, **options)
    return statistics(model)


def bits(model):
    return {name: value.tobytes() for name, value in model.parameters().items()}


# ---------------------------------------------------------------- the closed form


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_statistics_are_those_of_standard_scaler(dtype, weighted):
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    X, y = data()
    X[:, 3] = 0.1
    X, y = X.astype(dtype), y.astype(dtype)
    weight = np.random.default_rng(1).integers(0, 4, len(X)) if weighted else None
    model = net(dtype=dtype)
    model.fit(X, y, loss="mse", sample_weight=weight)
    tolerance = 1e-6 if dtype == "float32" else 1e-13
    for layer, values in ((0, X), (3, y)):
        wide = values.astype(np.float64)
        scaler = preprocessing.StandardScaler().fit(wide, sample_weight=weight)
        mean, var = statistics(model, layer)
        np.testing.assert_allclose(mean, scaler.mean_, rtol=tolerance)
        np.testing.assert_allclose(np.sqrt(var), scaler.scale_, rtol=tolerance)
    first = rv.Sequential([rv.Standardize()], input_size=5, dtype="float64")
    first.set_parameters({name: model.parameters()[name] for name in first.parameters()})
    scaler = preprocessing.StandardScaler().fit(X.astype(np.float64), sample_weight=weight)
    expected = scaler.transform(X.astype(np.float64))
    np.testing.assert_allclose(first.predict(X), expected, rtol=100 * tolerance, atol=tolerance)


@hypothesis.given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40),
    st.floats(-1e12, 1e12),
    st.booleans(),
)
def test_mean_and_variance_are_right_to_the_last_digits(values, offset, weighted):
    column = np.array(values) + offset
    weight = np.arange(1.0, len(column) + 1) if weighted else np.ones(len(column))
    exact = column.astype(np.longdouble)
    mean = (weight * exact).sum() / weight.sum()
    var = (weight * (exact - mean) ** 2).sum() / weight.sum()
    found_mean, found_var = fitted(column[:, None], sample_weight=weight)
    assert abs(found_mean[0] - mean) <= 4e-16 * abs(mean) + 1e-16 * np.abs(column).max()
    bound = (len(column) * 2.3e-16 * mean) ** 2
    if var > 2 * bound:
        assert found_var[0] == pytest.approx(float(var), rel=1e-13)


def test_a_huge_offset_costs_no_digits():
    step = np.arange(1000) % 7
    mean, var = fitted((1e12 + step)[:, None])
    assert mean[0] - 1e12 == pytest.approx(step.mean(), abs=1e-4)
    assert var[0] == pytest.approx(step.var(), rel=1e-12)
    with np.errstate(all="raise"):
        mean, var = fitted((1e9 + 64.0 * step)[:, None], dtype="float32")
    assert var[0] == pytest.approx((64.0 * step).var(), rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 1e30, 1e-30, 1.7e9 + 3])
@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_a_constant_column_becomes_zeros(value, rows, dtype):
    X = np.full((rows, 2), value)
    model = rv.Sequential([rv.Standardize()], dtype=dtype)
    model.fit(X, np.zeros((rows, 2)), loss="mse", optimizer=STILL)
    mean, var = statistics(model)
    assert mean.tolist() == X.astype(dtype)[0].tolist()
    assert (var == 1.0).all() or (dtype == "float32" and value > 1e9)
    assert (model.predict(X.astype(dtype)) == 0.0).all()
    if value < 1e19:
        assert np.abs(model.predict(X)).max() <= 1e-3


def test_rounding_alone_is_a_constant_column():
    column = np.array([0.3, 0.1 + 0.2] * 10)
    assert column.var() > 0
    assert fitted(column[:, None])[1].tolist() == [1.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_kind_of_array_gives_what_the_plain_one_gives(dtype):
    rng = np.random.default_rng(2)
    plain = rng.integers(-100, 100, size=(70, 6))
    expected = fitted(plain.astype(dtype), dtype)
    wide = np.zeros((140, 12))
    wide[::2, ::2] = plain
    arrays = [
        plain,
        plain.astype(np.int8),
        plain.astype(np.float32),
        np.asfortranarray(plain.astype(dtype)),
        wide[::2, ::2],
        plain[::-1].astype(dtype)[::-1],
        plain.tolist(),
    ]
    for array in arrays:
        for ours, theirs in zip(fitted(array, dtype), expected, strict=True):
            assert ours.tobytes() == theirs.tobytes()


def test_numbers_are_measured_as_they_were_given():
    X = np.array([[2.0**24 + 1], [2.0**24 - 1]])
    for dtype in DTYPES:
        mean, var = fitted(X, dtype)
        assert (mean[0], var[0]) == (2.0**24, 1.0)
    mean, var = fitted(X.astype(np.float32), "float32")
    assert (mean[0], var[0]) == (2.0**24, 0.25)


def test_a_weight_is_so_many_rows_and_class_weights_do_not_count():
    X, _ = data(rows=40)
    labels = np.arange(40) % 2
    count = np.arange(40) % 4
    repeated = fitted(np.repeat(X, count, axis=0))
    for ours, theirs in zip(fitted(X, sample_weight=count), repeated, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-13)
    without = fitted(X[count > 0], sample_weight=count[count > 0])
    for ours, theirs in zip(fitted(X, sample_weight=count), without, strict=True):
        assert ours.tobytes() == theirs.tobytes()
    scaled = fitted(X, sample_weight=count * 1e150)
    for ours, theirs in zip(scaled, repeated, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-13)

    models = [net(targets=False, dtype="float64") for _ in range(3)]
    options = [{}, {"class_weight": {0: 9.0}}, {"class_weight": {0: 0.0}}]
    for model, option in zip(models, options, strict=True):
        model.fit(X, labels, loss="cross_entropy", sample_weight=1.0 + count, **option)
        for ours, theirs in zip(statistics(model), statistics(models[0]), strict=True):
            assert ours.tobytes() == theirs.tobytes()
    assert bits(models[0]) != bits(models[1])


# ---------------------------------------------------------------- when they are taken


def test_before_the_first_fit_the_layer_is_the_identity():
    X, _ = data()
    model = rv.Sequential([rv.Standardize()], input_size=5, dtype="float64")
    assert statistics(model)[1].tolist() == [0.0] * 5
    assert np.array_equal(model.predict(X), X)
    _, gradients = model.value_and_gradient(X, X, loss=Follow(1.0))
    assert (gradients.d_input == 1.0).all()
    both = rv.Sequential([rv.Standardize(), TARGETS], input_size=5, dtype="float64")
    assert np.array_equal(both.predict(X), X)


def test_later_fits_leave_the_statistics():
    X, y = data()
    model = net(dtype="float64")
    trainer = rv.Trainer(model, loss="mse")
    trainer.fit(X, y)
    before = np.hstack([*statistics(model), *statistics(model, 3)])
    trainer.fit(X * 2 + 1, y * 3)
    model.fit(X[:10], y[:10] * 5, loss="mae")
    assert np.array_equal(before, np.hstack([*statistics(model), *statistics(model, 3)]))


def test_statistics_may_be_set_by_hand_and_taken_anew():
    X, y = data()
    model = net(input_size=5, dtype="float64")
    by_hand = {"0.running_mean": np.arange(5.0), "0.running_var": [4.0, 0.0, 1.0, 9.0, 16.0]}
    model.set_parameters(by_hand)
    model.fit(X, y, loss="mse")
    for name, value in by_hand.items():
        assert model.parameters()[name].tolist() == list(value)
    np.testing.assert_allclose(statistics(model, 3)[0], y.mean(axis=0))
    # A feature of variance 0 passes as it is, mean or not.
    first = rv.Sequential([rv.Standardize()], input_size=5, dtype="float64")
    first.set_parameters(by_hand)
    assert first.predict([[9.0] * 5]).tolist() == [[4.5, 9.0, 7.0, 2.0, 1.25]]
    model.set_parameters({"0.running_var": np.zeros(5)})
    model.fit(X, y, loss="mse")
    np.testing.assert_allclose(statistics(model)[0], X.mean(axis=0))


def test_rows_held_out_are_not_seen():
    X, y = data(rows=60)
    y[50:] += 1e5
    Xv, yv = X + 1e6, y + 1e6
    model = net(dtype="float64")
    model.fit(X, y, loss="mse", validation_data=(Xv, yv))
    np.testing.assert_allclose(statistics(model)[0], X.mean(axis=0), rtol=1e-12)

    split = net(dtype="float64")
    trainer = rv.Trainer(split, loss="mse", seed=3)
    trainer.fit(X, y, validation_split=0.3)
    arrays = {"x": X, "values": y, "labels": None, "weights": None, "given": (None, None)}
    out = np.frombuffer(rv._core.holdout(arrays, (0.3, 3)), np.uint32)
    rows = np.setdiff1d(np.arange(60), out)
    np.testing.assert_allclose(statistics(split)[0], X[rows].mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(statistics(split, 3)[1], y[rows].var(axis=0), rtol=1e-12)


def test_each_of_many_networks_standardises_on_its_own_rows():
    X, y = data(rows=60)
    every = np.arange(60)
    draws = [every[:20], every[20:], np.array([3, 3, 7, 50]), (every[:30], every[30:])]
    models = [net(seed=seed, dtype="float64") for seed in range(4)]
    weight = 1.0 + every % 3
    options = {"loss": "mse", "epochs": 3, "batch_size": 8}
    rv.fit_many(models, X, y, rows=draws, sample_weight=weight, **options)
    for seed, (model, rows) in enumerate(zip(models, draws, strict=True)):
        own = rows[0] if isinstance(rows, tuple) else rows
        w = weight[own]
        np.testing.assert_allclose(statistics(model)[0], np.average(X[own], axis=0, weights=w))
        alone = net(seed=seed, dtype="float64")
        held_out = {"validation_data": (X[rows[1]], y[rows[1]], weight[rows[1]])}
        more = held_out if isinstance(rows, tuple) else {}
        alone.fit(X[own], y[own], sample_weight=w, seed=seed, **options, **more)
        assert bits(alone) == bits(model)


@pytest.mark.parametrize("layers", [[rv.Standardize(), rv.Dense(1)], [rv.Dense(1), TARGETS]])
def test_a_refused_fit_changes_nothing(layers):
    X, y = data(outputs=1)
    known = rv.Sequential(layers, input_size=5)
    trainer = rv.Trainer(known, loss="mse")
    before = bits(known)
    bad = X.copy()
    bad[7, 2] = np.nan
    for wrong_x, wrong_y in [(bad, y), (X, np.full_like(y, np.inf)), (X * 1e30, y * 1e30)]:
        with pytest.raises(rv.ArgumentError):
            trainer.fit(wrong_x, wrong_y)
        assert bits(known) == before
        assert (trainer.epoch, trainer.step) == (0, 0)
    unknown = rv.Sequential(layers)
    with pytest.raises(rv.ArgumentError):
        unknown.fit(bad, y, loss="mse")
    assert unknown.input_size is None
    trainer.fit(X, y)
    assert bits(known) != before


def test_one_layer_is_not_fitted_where_the_other_is_refused():
    X, y = data()
    model = net(input_size=5, dtype="float32")
    before = bits(model)
    with pytest.raises(
        rv.ArgumentError, match=r"^y: expected columns whose mean and variance f32 can hold"
    ):
        model.fit(X, y * 1e25, loss="mse")
    assert bits(model) == before


@pytest.mark.parametrize("scale", [1e-25, 1e22])
def test_a_variance_that_the_dtype_cannot_hold_is_refused(scale):
    X = np.array([[0.0, 1.0], [0.0, 2.0]]) * scale
    with pytest.raises(rv.ArgumentError, match=r"X: expected columns .* in column 1"):
        fitted(X, "float32")
    np.testing.assert_allclose(fitted(X)[1], [1.0, 0.25 * scale**2])


def test_a_fit_that_diverges_or_is_interrupted_keeps_the_statistics():
    X, y = data()
    model = net(input_size=5)
    with pytest.raises(rv.DivergedError):
        model.fit(X, y, loss="mse", optimizer=rv.SGD(learning_rate=1e30), epochs=50)
    np.testing.assert_allclose(statistics(model)[0], X.mean(axis=0), rtol=1e-5)
    assert np.isfinite(model.predict(X)).all()

    class Interrupt(rv.Callback):
        def on_train_batch_end(self, step, logs):
            raise KeyboardInterrupt

    model = net(input_size=5)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y, loss="mse", callbacks=[Interrupt()])
    np.testing.assert_allclose(statistics(model)[0], X.mean(axis=0), rtol=1e-5)


def test_rows_without_any_weight_are_refused():
    X, y = data()
    weight = np.zeros(len(X))
    weight[:5] = 1.0
    model = net(input_size=5)
    with pytest.raises(
        rv.ArgumentError, match="rows: expected at least one row of positive weight"
    ):
        rv.fit_many([model], X, y, loss="mse", rows=[np.arange(5, 9)], sample_weight=weight)


# ---------------------------------------------------------------- targets


@pytest.mark.parametrize(
    ("loss", "outputs"),
    [("mse", 2), ("mae", 2), ("huber", 2), (rv.losses.Quantile([0.1, 0.5, 0.9]), 6)],
    ids=str,
)
def test_outputs_share_the_statistics_of_their_target(loss, outputs):
    X, y = data()
    model = net(outputs=outputs, dtype="float64")
    history = model.fit(X, y, loss=loss)
    mean, var = statistics(model, 3)
    each = outputs // 2
    np.testing.assert_allclose(mean, np.repeat(y.mean(axis=0), each))
    np.testing.assert_allclose(var, np.repeat(y.var(axis=0), each))
    # The loss is in y's units: that of predictions near the mean, not of numbers near 0.
    assert history["loss"][0] > 5


@pytest.mark.parametrize(
    "loss", ["poisson", "gaussian_nll", "cross_entropy", "binary_cross_entropy"]
)
def test_other_losses_are_refused(loss):
    X, _ = data()
    y = np.zeros((len(X), 1 if loss == "gaussian_nll" else 2))
    if loss == "cross_entropy":
        y = np.zeros(len(X), int)
    model = net()
    message = r"loss: expected mse, mae, huber or quantile before Standardize\(of='targets'\)"
    with pytest.raises(rv.ArgumentError, match=message):
        model.fit(X, y, loss=loss)
    assert model.input_size is None
    net(targets=False).fit(X, y, loss=loss)


class Squares:
    """mse, by hand."""

    def value_and_gradient(self, output, target, sample_weight=None):
        error = output - np.asarray(target).reshape(output.shape)
        return float((error**2).mean()), 2 * error / error.size


def test_a_loss_of_ones_own_needs_a_target_for_each_output():
    X, y = data()
    ours, theirs = net(dtype="float64"), net(dtype="float64")
    ours.fit(X, y, loss=Squares(), epochs=3)
    theirs.fit(X, y, loss="mse", epochs=3)
    for name, value in ours.parameters().items():
        assert error(value, theirs.parameters()[name]) < 1e-11
    single = net(outputs=1)
    single.fit(X, y[:, 0], loss=Squares())
    np.testing.assert_allclose(statistics(single, 3)[0], y[:, 0].mean(), rtol=1e-6)
    with pytest.raises(rv.ShapeError, match="y: expected 2 columns, one for each output"):
        net().fit(X, y[:, 0], loss=Squares())
    with pytest.raises(rv.DTypeError, match="y: expected real numbers"):
        net().fit(X, np.full((len(X), 2), "a"), loss=Squares())
    wrong = y.copy()
    wrong[3, 1] = np.nan
    with pytest.raises(rv.ArgumentError, match="y: expected columns whose mean"):
        net().fit(X, wrong, loss=Squares())


ADAM = rv.Adam(learning_rate=0.01, eps=1e-30)
RATES = [(ADAM, ADAM), (rv.SGD(learning_rate=0.05), rv.SGD(learning_rate=0.05 / 900.0))]


@pytest.mark.parametrize(("plain_rate", "rate"), RATES, ids=["adam", "sgd"])
@pytest.mark.parametrize("outputs", [1, 2, 7])
def test_training_is_that_of_scaled_data(plain_rate, rate, outputs):
    """Adam takes the same rate, SGD one that is divided by the variance of y, here 900."""
    X, y = data(outputs=outputs)
    mean = y.mean(axis=0)
    scaled = (X - X.mean(axis=0)) / X.std(axis=0), (y - mean) / y.std(axis=0)
    y = scaled[1] * 30.0 + mean
    model = net(outputs=outputs, input_size=5, dtype="float64")
    plain = rv.Sequential(model.layers[1:-1], input_size=5, dtype="float64")
    start = plain.parameters()
    model.set_parameters({f"{int(name[0]) + 1}{name[1:]}": start[name] for name in start})
    expected = plain.fit(*scaled, loss="mse", optimizer=plain_rate, epochs=20)
    history = model.fit(X, y, loss="mse", optimizer=rate, epochs=20)
    np.testing.assert_allclose(np.array(history["loss"]) / 900, expected["loss"], rtol=1e-7)
    np.testing.assert_allclose(model.predict(X), plain.predict(scaled[0]) * 30 + mean, rtol=1e-9)


def test_regression_far_from_zero_is_learnt():
    X, y = data(rows=300, outputs=1)
    model = net(outputs=1, hidden=32)
    adam = rv.Adam(learning_rate=0.01)
    trainer = rv.Trainer(model, loss="mse", optimizer=adam, metrics=["r2"])
    trainer.fit(X, y, epochs=100)
    assert trainer.evaluate(X, y)["r2"] > 0.97


# ---------------------------------------------------------------- as every layer


@pytest.mark.parametrize(
    ("batch_size", "optimizer"),
    # Of all rows the gradient of a bias nearly cancels: Adam would make steps of its rounding.
    [(7, "adam"), (90, rv.SGD(learning_rate=1e-4))],
    ids=str,
)
@pytest.mark.parametrize("loss", ["mse", "huber", rv.losses.Quantile([0.2, 0.8])], ids=str)
@pytest.mark.parametrize("outputs", [2, 10])
def test_core_and_reference_agree(loss, outputs, batch_size, optimizer):
    X, y = data(outputs=outputs // 2 if isinstance(loss, rv.losses.Quantile) else outputs)
    weight = np.arange(len(X)) % 3
    model = net(outputs=outputs, input_size=5, dtype="float64")
    before = bits(model)
    options = {"loss": loss, "batch_size": batch_size, "sample_weight": weight, "steps": 4}
    options["optimizer"] = optimizer
    report = rv.crosscheck(model, X, y, **options)
    assert report.ok, str(report)
    assert bits(model) == before
    report = rv.crosscheck(model, X, y, **(options | {"sample_weight": None, "shuffle": False}))
    assert report.ok, str(report)
    model.fit(X, y, loss=loss)
    report = rv.crosscheck(model, 1.01 * X, y, **options)
    assert report.ok, str(report)


def test_core_and_reference_agree_in_float32_and_with_other_layers():
    rng = np.random.default_rng(5)
    X, y = rng.normal(size=(60, 4)) * 3 + 1, rng.normal(size=(60, 2)) * 2 + 3
    layers = [rv.Standardize(), rv.Dense(6, activation="gelu"), rv.BatchNorm(eps=0.1)]
    layers += [rv.Dropout(0.2), rv.Dense(2, activation="softplus"), TARGETS]
    for dtype in DTYPES:
        model = rv.Sequential(layers, input_size=4, dtype=dtype)
        report = rv.crosscheck(model, X, y, loss="mse", optimizer=rv.SGD(learning_rate=0.01))
        assert report.ok, str(report)
        report = rv.crosscheck(model, X, y, loss=Squares(), optimizer=rv.SGD(learning_rate=0.01))
        assert report.ok, str(report)


def test_the_reference_knows_the_same():
    layers = [reference.Standardize(), reference.Dense(1), reference.Standardize(of="targets")]
    model = reference.Sequential(layers, input_size=2)
    assert model.predict([[1.0, 2.0]]) != [[0.0]]
    trainer = reference.Trainer(model, loss="mse", optimizer="adam")
    # Means 2 and 4, variances 1 and constant; weights 1, 1 and 0.
    X, y, weight = [[1.0, 4.0], [3.0, 4.0], [9.0, 9.0]], [10.0, 30.0, 50.0], [1.0, 1.0, 0.0]
    trainer.fit(X, y, sample_weight=weight)
    parameters = model.parameters()
    assert parameters["0.running_mean"] == [2.0, 4.0]
    assert parameters["0.running_var"] == [1.0, 1.0]
    assert (parameters["2.running_mean"], parameters["2.running_var"]) == ([20.0], [100.0])
    trainer.fit([[5.0, 5.0]], [0.0])
    assert model.parameters()["0.running_mean"] == [2.0, 4.0]
    fresh = reference.Sequential(layers, input_size=2)
    with pytest.raises(ValueError, match="not in the units of the targets"):
        reference.Trainer(fresh, loss="poisson", optimizer="adam").fit(X, y)
    assert fresh.parameters()["0.running_var"] == [0.0, 0.0]
    for wrong in (layers[::-1], [layers[1], layers[0]], [layers[2], layers[1]]):
        with pytest.raises(ValueError, match="must be layer"):
            reference.Sequential(wrong, input_size=2)
    with pytest.raises(ValueError, match="of must be"):
        reference.Standardize(of="both")


@pytest.mark.parametrize("outputs", [1, 2, 3, 4, 5, 16, 17, 70])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_its_bits_in_any_batch(outputs, dtype):
    """Narrow outputs are stored as columns, wide ones in panels."""
    X, y = data(rows=600, outputs=outputs)
    model = net(outputs=outputs, dtype=dtype)
    model.fit(X, y, loss="mse", epochs=2)
    whole = model.predict(X)
    mean, var = statistics(model, 3)
    inner = rv.Sequential(model.layers[:-1], input_size=5, dtype=dtype)
    inner.set_parameters({n: v for n, v in model.parameters().items() if n[0] != "3"})
    expected = inner.predict(X).astype(np.float64) * np.sqrt(var.astype(np.float64)) + mean
    np.testing.assert_allclose(whole, expected, rtol=1e-6 if dtype == "float32" else 1e-14)
    for rows in (1, 2, 15, 16, 17, 63, 64, 65, 257):
        for first in (0, 100):
            some = slice(first, first + rows)
            assert model.predict(X[some]).tobytes() == whole[some].tobytes()


def trained(dtype, precision=None):
    """Everything that comes of some trainings, as hexadecimal digits."""
    X, y = data(rows=2500, columns=70, outputs=3)
    out = b""
    for outputs in (1, 3):
        layers = [rv.Standardize(), rv.Dense(90, activation="relu"), rv.BatchNorm()]
        model = rv.Sequential([*layers, rv.Dense(outputs), TARGETS], dtype=dtype)
        trainer = rv.Trainer(model, loss="mse", precision=precision)
        trainer.fit(X, y[:, :outputs], batch_size=700, sample_weight=1 + np.arange(2500) % 3)
        parts = [*model.parameters().values(), model.predict(X), trainer.history["loss"]]
        options = {"loss": "huber", "training": True}
        value, gradients = model.value_and_gradient(X, y[:, :outputs], **options)
        parts += [value, gradients.d_input, *gradients.values()]
        out += b"".join(np.asarray(part).tobytes() for part in parts)
    return out.hex()


def everything():
    return [*map(trained, DTYPES), trained("float32", "bf16")]


def test_threads_and_instruction_sets_give_the_same_bits():
    before = rv.get_num_threads()
    try:
        rv.set_num_threads(1)
        expected = everything()
        rv.set_num_threads(3)
        assert everything() == expected
    finally:
        rv.set_num_threads(before)
    for isa, threads in itertools.product(rv.config()["available_isas"], "12"):
        environment = {**os.environ, "RANVIER_ISA": isa, "RANVIER_NUM_THREADS": threads}
        command = [sys.executable, __file__]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=100
        )
        assert json.loads(done.stdout) == expected, isa


def test_copies_and_pickles_carry_the_statistics():
    X, y = data()
    model = net()
    model.fit(X, y, loss="mse")
    for twin in (model.copy(), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert bits(twin) == bits(model)
        assert twin.layers == model.layers
        twin.fit(X * 2, y, loss="mse")
        assert np.array_equal(statistics(twin), statistics(model))
    unfitted = pickle.loads(pickle.dumps(net(input_size=5)))
    assert statistics(unfitted)[1].tolist() == [0.0] * 5


# ---------------------------------------------------------------- files


def test_a_file_keeps_predictions_bit_for_bit_and_a_run_is_not_fitted_again(tmp_path):
    X, y = data()
    model = net()
    trainer = rv.Trainer(model, loss="mse")
    trainer.fit(X, y, epochs=3, validation_split=0.2)
    model.save(tmp_path / "model.safetensors")
    back = rv.load(tmp_path / "model.safetensors")
    assert back.layers == model.layers
    assert bits(back) == bits(model)
    assert back.predict(X).tobytes() == model.predict(X).tobytes()

    trainer.save(tmp_path / "run.safetensors")
    again = rv.Trainer.resume(tmp_path / "run.safetensors")
    again.fit(X * 2, y + 1, epochs=1)
    trainer.fit(X * 2, y + 1, epochs=1)
    assert bits(again.model) == bits(model)
    assert np.array_equal(statistics(again.model), statistics(back))


class Save(rv.Callback):
    """Saves the run after a step."""

    def __init__(self, trainer, path, at):
        self.trainer, self.path, self.at = trainer, path, at

    def on_train_batch_end(self, step, logs):
        if step == self.at:
            self.trainer.save(self.path)


@pytest.mark.parametrize("at", [1, 4])
def test_a_run_goes_on_from_any_step_with_the_same_bits(tmp_path, at):
    X, y = data()
    trainer = rv.Trainer(net(), loss="mse")
    path = tmp_path / "run.safetensors"
    trainer.fit(X, y, epochs=3, callbacks=[Save(trainer, path, at)])
    again = rv.Trainer.resume(path)
    again.fit(X, y)
    assert bits(again.model) == bits(trainer.model)


def test_a_run_that_was_saved_before_its_first_fit_is_fitted(tmp_path):
    X, y = data()
    trainer = rv.Trainer(net(input_size=5), loss="mse")
    trainer.save(tmp_path / "run.safetensors")
    again = rv.Trainer.resume(tmp_path / "run.safetensors")
    again.fit(X, y)
    trainer.fit(X, y)
    assert bits(again.model) == bits(trainer.model)


def test_torch_takes_the_layer_as_a_batch_norm_without_parameters(tmp_path):
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    nn = torch.nn
    X, y = data()
    model = net(targets=False)
    model.fit(X, y / 100, loss="mse", epochs=5)
    path = tmp_path / "model.safetensors"
    model.save(path)
    layers = [nn.BatchNorm1d(5, affine=False, eps=0.0), nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2)]
    twin = nn.Sequential(*layers).eval()
    twin.load_state_dict(safetensors.load_file(path), strict=True)
    with torch.no_grad():
        theirs = twin(torch.tensor(X, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(theirs, model.predict(X), rtol=1e-4, atol=1e-4)
    safetensors.save_file(twin.state_dict(), tmp_path / "theirs.safetensors")
    back = net(targets=False, input_size=5, seed=9)
    back.load_weights(tmp_path / "theirs.safetensors")
    assert bits(back) == bits(model)


def test_the_targets_layer_folds_into_the_last_linear_one():
    X, y = data()
    model = net(dtype="float64")
    model.fit(X, y, loss="mse", epochs=5)
    parameters = model.parameters()
    deviation = np.sqrt(parameters["3.running_var"])
    folded = net(targets=False, input_size=5, dtype="float64")
    own = {name: parameters[name] for name in folded.parameters()}
    own["2.weight"] = own["2.weight"] * deviation
    own["2.bias"] = own["2.bias"] * deviation + parameters["3.running_mean"]
    folded.set_parameters(own)
    np.testing.assert_allclose(folded.predict(X), model.predict(X), rtol=1e-13)


# ---------------------------------------------------------------- errors

PLACES = [
    ([rv.Dense(2), rv.Standardize()], r"layers\[1\]: expected Standardize\(\) as the first layer"),
    ([TARGETS, rv.Dense(2)], r"layers\[0\]: expected Standardize\(of='targets'\) as the last"),
    ([rv.Standardize(), rv.Standardize(), rv.Dense(2)], r"layers\[1\]: expected Standardize\(\)"),
    ([rv.Dense(2), TARGETS, TARGETS], r"layers\[1\]: expected Standardize\(of='targets'\)"),
]


@pytest.mark.parametrize(("layers", "message"), PLACES)
@pytest.mark.parametrize("input_size", [None, 3])
def test_another_place_is_refused(layers, message, input_size):
    with pytest.raises(rv.ArgumentError, match=message):
        rv.Sequential(layers, input_size=input_size)


def test_the_core_knows_the_places_too():
    for layers, _ in PLACES:
        with pytest.raises(rv.ArgumentError, match="layers: expected a Standardize of"):
            rv._core.tables([layer._spec() for layer in layers], 3, "float32")


@pytest.mark.parametrize("of", ["X", "", None, 1, ["inputs"]])
def test_of_is_inputs_or_targets(of):
    with pytest.raises(rv.ArgumentError, match="of: expected 'inputs' or 'targets', got"):
        rv.Standardize(of=of)


def test_a_negative_variance_is_refused():
    model = net(input_size=2)
    before = bits(model)
    for layer in (0, 3):
        with pytest.raises(rv.ArgumentError, match=rf"'{layer}.running_var'.*0 or more, got -1.0"):
            model.set_parameters({f"{layer}.running_var": [1.0, -1.0]})
    assert bits(model) == before


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    print(json.dumps(everything()))


# ---------------------------------------------------------------- offsets


@pytest.mark.parametrize("kind", [np.float64, np.int64])
def test_float32_models_see_what_is_behind_a_large_offset(kind):
    """Times of one hour, of which a float32 would hold steps of 128 seconds."""
    times = (1_700_000_000 + np.arange(0, 3600, 7)).astype(kind)[:, np.newaxis]
    model = rv.Sequential([rv.Standardize()], dtype="float32")
    model.fit(times, np.zeros(times.shape), loss="mse", optimizer=STILL)
    expected = (times - times.mean()) / times.std()
    ours = model.predict(times).astype(float)
    # The mean is held in float32; differences keep their digits.
    np.testing.assert_allclose(np.diff(ours, axis=0), np.diff(expected, axis=0), rtol=1e-3)
    np.testing.assert_allclose(ours, expected, atol=0.1)
    trainer = rv.Trainer(net(outputs=1, targets=False), loss="mse")
    trainer.fit(times, expected[:, 0], epochs=300)
    assert trainer.evaluate(times, expected[:, 0])["loss"] < 1e-3


def test_rows_have_the_same_bits_as_float32_and_float64():
    X = data()[0].astype(np.float32)
    model = net(dtype="float32")
    model.fit(X, data()[1], loss="mse")
    wide = model.predict(X.astype(np.float64))
    assert model.predict(X).tobytes() == wide.tobytes()
    assert model.predict(X[:1]).tobytes() == wide[:1].tobytes()


# ---------------------------------------------------------------- data in blocks


def in_blocks(*arrays):
    cuts = [0, 7, 8, 50, 90]
    return [tuple(a[first:last] for a in arrays) for first, last in itertools.pairwise(cuts)]


def test_one_block_is_measured_to_the_bits_of_the_arrays():
    X, y = data()
    whole, single = net(), net()
    whole.fit(X, y, loss="mse", epochs=2)
    single.fit([(X, y)], loss="mse", epochs=2)
    assert bits(whole) == bits(single)


@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_are_measured_together_before_the_first_step(weighted):
    X, y = data()
    weight = (np.arange(90) % 4 * (np.arange(90) >= 8)).astype(float) if weighted else None
    arrays = (X, y) if weight is None else (X, y, weight)
    options = {"loss": "mse", "optimizer": STILL}
    expected, model = net(dtype="float64"), net(dtype="float64")
    expected.fit(X, y, sample_weight=weight, **options)
    model.fit(in_blocks(*arrays), **options)
    for layer in (0, 3):
        for ours, theirs in zip(statistics(model, layer), statistics(expected, layer), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_a_loss_of_ones_own_and_class_weights_on_blocks_measure_what_was_given():
    X, y = data(outputs=1)
    model, expected = net(outputs=1, dtype="float64"), net(outputs=1, dtype="float64")
    model.fit(in_blocks(X, y), loss=Squares(), optimizer=STILL)
    expected.fit(X, y, loss="mse", optimizer=STILL)
    np.testing.assert_allclose(statistics(model, 3), statistics(expected, 3), rtol=1e-12)
    labels = np.arange(90) % 2
    measured = []
    for class_weight in (None, {1: 5.0}):
        model = net(targets=False, dtype="float64")
        model.fit(
            in_blocks(X, labels),
            loss="cross_entropy",
            optimizer=STILL,
            class_weight=class_weight,
        )
        measured.append(statistics(model))
    np.testing.assert_array_equal(measured[0], measured[1])


def test_a_fault_in_any_block_leaves_the_layers_as_they_were():
    X, y = data()
    X[60, 2] = np.nan
    model = net(input_size=5)
    before = bits(model)
    with pytest.raises(rv.ArgumentError, match="X of block 3: expected finite"):
        model.fit(in_blocks(X, y), loss="mse")
    assert bits(model) == before
