"""Losses: worked by hand, weights as repeated rows, targets that are refused, custom losses."""

import math

import numpy as np
import pytest

import ranvier as rv
from conftest import LOSSES, TOLERANCE, error

DTYPES = ["float32", "float64"]
LN2 = math.log(2.0)


def value_and_gradient(loss, output, target, sample_weight=None, dtype="float64"):
    value, gradient = loss.value_and_gradient(np.array(output, dtype), target, sample_weight)
    assert isinstance(value, float)
    assert gradient.dtype == dtype
    return value, gradient


# ---------------------------------------------------------------- worked by hand

HAND = {
    # d = (1, -2, 0, 3): (1 + 4 + 0 + 9)/4 = 3.5; 2d/4.
    "mse": (
        rv.losses.MSE(),
        [[1.0, 0.0], [3.0, 5.0]],
        [[0.0, 2.0], [3.0, 2.0]],
        3.5,
        [[0.5, -1.0], [0.0, 1.5]],
    ),
    # (1 + 2 + 0 + 3)/4 = 1.5; sign(d)/4, 0 at the kink.
    "mae": (
        rv.losses.MAE(),
        [[1.0, 0.0], [3.0, 5.0]],
        [[0.0, 2.0], [3.0, 2.0]],
        1.5,
        [[0.25, -0.25], [0.0, 0.25]],
    ),
    # delta 2, d = (1, -2, 0, 3): ½·1, 2·(2 - 1) = 2, 0, 2·(3 - 1) = 4; sum 6.5.
    # Gradient: d clipped to ±2, /4.
    "huber": (
        rv.losses.Huber(delta=2.0),
        [[1.0, 0.0], [3.0, 5.0]],
        [[0.0, 2.0], [3.0, 2.0]],
        6.5 / 4,
        [[0.25, -0.5], [0.0, 0.5]],
    ),
    # q = ¼, d = y - z = (2, -4, 0): ¼·2, (¼ - 1)·(-4), 0: 3.5/3. -q above, 1 - q below, 0 at 0.
    "quantile": (
        rv.losses.Quantile(0.25),
        [[1.0], [5.0], [2.0]],
        [3.0, 1.0, 2.0],
        3.5 / 3,
        [[-0.25 / 3], [0.75 / 3], [0.0]],
    ),
    # Two targets (1, 10), quantiles (¼, ½): columns are 1@¼, 1@½, 10@¼, 10@½.
    # d = (1 - 0, 1 - 3, 10 - 6, 10 - 12) = (1, -2, 4, -2): ¼, ½·2, ¼·4, ½·2: 3.25/4.
    "quantile, columns": (
        rv.losses.Quantile([0.25, 0.5]),
        [[0.0, 3.0, 6.0, 12.0]],
        [[1.0, 10.0]],
        3.25 / 4,
        [[-0.25 / 4, 0.5 / 4, -0.25 / 4, 0.5 / 4]],
    ),
    # e^0 - 2·0 = 1, e^ln2 - 3 ln2 = 2 - 3 ln2; e^z - y = (-1, -1), halved.
    "poisson": (
        rv.losses.Poisson(),
        [[0.0, LN2]],
        [[2.0, 3.0]],
        (3.0 - 3.0 * LN2) / 2,
        [[-0.5, -0.5]],
    ),
    # Means (3, 1), log-variances (0, ln2), targets (1, 2): ½(0 + 4·1) = 2, ½(ln2 + 1·½).
    # By m: (2·1, -1·½)/2; by s: ½(1 - 4)/2, ½(1 - ½)/2.
    "gaussian_nll": (
        rv.losses.GaussianNLL(),
        [[3.0, 1.0, 0.0, LN2]],
        [[1.0, 2.0]],
        (2.0 + 0.5 * (LN2 + 0.5)) / 2,
        [[1.0, -0.25, -0.75, 0.125]],
    ),
    # p = (¼, ¼, ½): -ln ½ = ln2 for class 2, -ln ¼ = 2 ln2 for class 0. p - onehot, halved.
    "cross_entropy": (
        rv.losses.CrossEntropy(),
        [[0.0, 0.0, LN2], [0.0, 0.0, LN2]],
        [2, 0],
        1.5 * LN2,
        [[0.125, 0.125, -0.25], [-0.375, 0.125, 0.25]],
    ),
    # ε = 0.3 over K = 3: (1 - ε)·ln2 + 0.1·(2 + 2 + 1) ln2 = 0.7 ln2 + 0.5 ln2 = 1.2 ln2.
    # Smoothed target (0.1, 0.1, 0.8): p minus it.
    "cross_entropy, smoothed": (
        rv.losses.CrossEntropy(label_smoothing=0.3),
        [[0.0, 0.0, LN2]],
        [2],
        1.2 * LN2,
        [[0.15, 0.15, -0.3]],
    ),
    # ½·2 ln2 + ½·ln2.
    "cross_entropy, probabilities": (
        rv.losses.CrossEntropy(),
        [[0.0, 0.0, LN2]],
        [[0.5, 0.0, 0.5]],
        1.5 * LN2,
        [[-0.25, 0.25, 0.0]],
    ),
    # z = 0: ln2 each, σ - y = ∓½; z = ln3, y = 1: σ = ¾, -ln ¾, -¼. A mean over 4 elements.
    "binary_cross_entropy": (
        rv.losses.BinaryCrossEntropy(),
        [[0.0, 0.0], [math.log(3.0), 0.0]],
        [[1.0, 0.0], [1.0, 0.5]],
        (3 * LN2 + math.log(4 / 3)) / 4,
        [[-0.125, 0.125], [-0.0625, 0.0]],
    ),
    # p = (3, 5): 3·ln2 for the positive, ln2 for the negative; -½·3 and +½, halved.
    "binary_cross_entropy, pos_weight": (
        rv.losses.BinaryCrossEntropy(pos_weight=[3.0, 5.0]),
        [[0.0, 0.0]],
        [[1.0, 0.0]],
        4 * LN2 / 2,
        [[-0.75, 0.25]],
    ),
}


@pytest.mark.parametrize("name", HAND)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_loss_worked_by_hand(name, dtype):
    loss, output, target, expected, expected_gradient = HAND[name]
    rounding = 8 * float(np.finfo(dtype).eps)
    value, gradient = value_and_gradient(loss, output, target, dtype=dtype)
    assert value == pytest.approx(expected, rel=rounding)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0.0, atol=rounding)


def test_every_loss_was_worked_by_hand():
    assert {type(case[0]) for case in HAND.values()} == set(rv.losses.BY_NAME.values())


@pytest.mark.parametrize("name", HAND)
def test_weights_worked_by_hand(name):
    # Rows of weight 1 and 3: (l0 + 3·l1)/4, each row's gradient by its share.
    loss, output, target, _, _ = HAND[name]
    first, second = [output[0]], [output[-1]]
    targets = [target[0]], [target[-1]]
    one, d_one = value_and_gradient(loss, first, targets[0])
    two, d_two = value_and_gradient(loss, second, targets[1])
    both = [output[0], output[-1]], [target[0], target[-1]]
    value, gradient = value_and_gradient(loss, *both, sample_weight=[1.0, 3.0])
    assert value == pytest.approx((one + 3 * two) / 4, rel=1e-15)
    np.testing.assert_allclose(gradient, np.vstack([d_one / 4, 3 * d_two / 4]), atol=1e-16)


def test_the_names_are_the_losses_with_their_defaults():
    defaults = {
        "mse": rv.losses.MSE(),
        "mae": rv.losses.MAE(),
        "huber": rv.losses.Huber(delta=1.0),
        "quantile": rv.losses.Quantile(0.5),
        "poisson": rv.losses.Poisson(),
        "gaussian_nll": rv.losses.GaussianNLL(),
        "cross_entropy": rv.losses.CrossEntropy(label_smoothing=0.0),
        "binary_cross_entropy": rv.losses.BinaryCrossEntropy(pos_weight=None),
    }
    assert {name: rv.losses.get(name) for name in rv.losses.BY_NAME} == defaults


@pytest.mark.parametrize("name", LOSSES)
def test_a_models_loss_is_the_loss_of_its_outputs(name, rng):
    case = LOSSES[name]
    model = rv.Sequential([rv.Dense(4)], input_size=3, dtype="float64")
    X = rng.normal(size=(300, 3))  # more rows than are evaluated together
    y = case.targets(rng, model.predict(X))
    weight = rng.uniform(size=300)
    expected, _ = case.loss.value_and_gradient(model.predict(X), y, weight)
    value, _ = model.value_and_gradient(X, y, loss=case.loss, sample_weight=weight)
    assert value == pytest.approx(expected, rel=1e-15)
    report = rv.Trainer(model, loss=case.loss).evaluate(X, y, sample_weight=weight)
    assert report["loss"] == pytest.approx(expected, rel=1e-14)
    classification = case.target in ("labels", "probabilities", "bits")
    assert set(report) == {"loss", "accuracy"} if classification else {"loss"}
    validation = (X, y, weight)
    history = model.fit(X[:2], y[:2], loss=case.loss, validation_data=validation)
    expected, _ = case.loss.value_and_gradient(model.predict(X), y, weight)
    assert history["val_loss"] == [pytest.approx(expected, rel=1e-14)]


# ---------------------------------------------------------------- extreme outputs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shift", [10000.0, -10000.0, 0.0])
def test_cross_entropy_sees_differences_of_logits_alone(dtype, shift):
    # Class 0 of (0, 1, 2, 3): ln(1 + e + e² + e³).
    expected = math.log(1 + math.e + math.e**2 + math.e**3)
    loss, z = rv.losses.CrossEntropy(), np.array([[0.0, 1.0, 2.0, 3.0]])
    rounding = 4 * float(np.finfo(dtype).eps)
    value, gradient = value_and_gradient(loss, z + shift, [0], dtype=dtype)
    assert value == pytest.approx(expected, rel=rounding)
    plain, plain_gradient = value_and_gradient(loss, z, [0], dtype=dtype)
    assert value == plain
    np.testing.assert_array_equal(gradient, plain_gradient)


@pytest.mark.parametrize("dtype", DTYPES)
def test_classification_losses_stay_finite_at_extreme_logits(dtype):
    z = [[1e4, -1e4, 0.0]]
    value, gradient = value_and_gradient(rv.losses.CrossEntropy(), z, [1], dtype=dtype)
    assert value == 2e4
    assert gradient.tolist() == [[1.0, -1.0, 0.0]]
    smoothed = rv.losses.CrossEntropy(label_smoothing=0.3)
    # 0.7·0 + 0.1·(0 + 2e4 + 1e4).
    assert value_and_gradient(smoothed, z, [0], dtype=dtype)[0] == pytest.approx(3e3, rel=1e-6)
    # Wrong by 1e4 twice, right once (and ln2 is nothing beside it): (1e4 + 1e4 + ln2)/3.
    loss = rv.losses.BinaryCrossEntropy()
    value, gradient = value_and_gradient(loss, z, [[0.0, 1.0, 1.0]], dtype=dtype)
    assert value == pytest.approx((2e4 + LN2) / 3, rel=1e-6)
    np.testing.assert_allclose(gradient, [[1 / 3, -1 / 3, -1 / 6]], rtol=1e-6)
    value, gradient = value_and_gradient(loss, [[1e4, -1e4]], [[1.0, 0.0]], dtype=dtype)
    assert value == 0.0
    assert gradient.tolist() == [[0.0, 0.0]]


def test_a_probability_of_zero_costs_nothing_where_nothing_is_asked_of_it():
    # 0·log 0 = 0, although log p = -1e4 here.
    value, _ = value_and_gradient(rv.losses.CrossEntropy(), [[1e4, 0.0]], [[1.0, 0.0]])
    assert value == 0.0


def test_binary_cross_entropy_keeps_its_digits_in_the_tails():
    # At z = -40 with y = 0 the loss is ln(1 + e^-40) = e^-40, which 1 + e^-40 would round away.
    value, gradient = value_and_gradient(rv.losses.BinaryCrossEntropy(), [[-40.0]], [0.0])
    assert value == pytest.approx(math.exp(-40), rel=1e-14)
    assert gradient.item() == pytest.approx(math.exp(-40), rel=1e-14)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_goes_through_every_loss(name, dtype, rng):
    case = LOSSES[name]
    z = rng.normal(size=(3, 4))
    y = case.targets(rng, z)
    z[1, 2] = np.nan
    value, gradient = value_and_gradient(case.loss, z, y, dtype=dtype)
    assert math.isnan(value)
    assert math.isnan(gradient[1, 2])
    assert np.isfinite(gradient[[0, 2]]).all()


# ---------------------------------------------------------------- sample weights

COUNTS = np.array([2, 0, 1, 3, 0, 1, 1, 2])


def repeated(rows):
    return np.repeat(rows, COUNTS, axis=0)


@pytest.mark.parametrize("name", LOSSES)
def test_weight_k_is_the_row_k_times_and_weight_0_is_no_row(name, rng):
    case = LOSSES[name]
    z = rng.normal(size=(8, 4))
    y = case.targets(rng, z)
    value, gradient = value_and_gradient(case.loss, z, y, COUNTS)
    expected, copies = value_and_gradient(case.loss, repeated(z), repeated(y))
    assert value == pytest.approx(expected, rel=1e-15)
    # A row's gradient is the sum of its copies'.
    rows = np.repeat(np.arange(8), COUNTS)
    summed = np.zeros((8, 4))
    np.add.at(summed, rows, copies)
    np.testing.assert_allclose(gradient, summed, rtol=1e-14, atol=1e-16)
    assert (gradient[COUNTS == 0] == 0.0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_only_the_ratio_of_weights_counts(name, rng):
    case = LOSSES[name]
    z = rng.normal(size=(8, 4))
    y = case.targets(rng, z)
    plain = value_and_gradient(case.loss, z, y)
    for weight in (np.ones(8), np.full(8, 0.25), np.full(8, 7, dtype=np.int8), [True] * 8):
        value, gradient = value_and_gradient(case.loss, z, y, weight)
        assert value == pytest.approx(plain[0], rel=1e-15)
        np.testing.assert_allclose(gradient, plain[1], rtol=1e-15)


EXTREME_ROWS = {
    "mse": (1e200, 0.0),
    "poisson": (1000.0, 1.0),
    "gaussian_nll": (-1000.0, 1.0),
    "cross_entropy-probabilities": (1e308, None),
    "binary_cross_entropy": (-1e308, 1.0),
}


@pytest.mark.parametrize("name", EXTREME_ROWS)
def test_a_row_of_weight_0_is_absent_even_where_its_own_loss_overflows(name, rng):
    case = LOSSES[name]
    z = rng.normal(size=(3, 4))
    y = case.targets(rng, z)
    expected, expected_gradient = value_and_gradient(case.loss, z[[0, 2]], y[[0, 2]])
    output, target = EXTREME_ROWS[name]
    z[1] = output
    if target is not None:
        y[1] = target
    value, gradient = value_and_gradient(case.loss, z, y, [1.0, 0.0, 1.0])
    assert value == expected
    np.testing.assert_array_equal(gradient[[0, 2]], expected_gradient)
    assert gradient[1].tolist() == [0.0] * 4


def network(seed=1, dtype="float64"):
    # No bias in front of BatchNorm: its gradient is rounding, of which Adam would make steps.
    layers = [
        rv.Dense(7, use_bias=False),
        rv.BatchNorm(),
        rv.Activation("tanh"),
        rv.Dense(6, activation="prelu"),
        rv.LayerNorm(),
        rv.Dense(4),
    ]
    return rv.Sequential(layers, input_size=3, seed=seed, dtype=dtype)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_gradients_of_a_network_cannot_tell_weights_from_copies(name, training, rng):
    case, model = LOSSES[name], network()
    X = rng.normal(size=(8, 3))
    y = case.targets(rng, model.predict(X))
    options = {"loss": case.loss, "training": training}
    value, gradients = model.value_and_gradient(X, y, sample_weight=COUNTS, **options)
    expected, copies = model.value_and_gradient(repeated(X), repeated(y), **options)
    assert value == pytest.approx(expected, rel=1e-13)
    for parameter, gradient in gradients.items():
        assert error(gradient, copies[parameter]) <= TOLERANCE["float64"], parameter
    assert (gradients.d_input[COUNTS == 0] == 0.0).all()


@pytest.mark.parametrize("name", LOSSES)
# With its small ε Adam would make a whole step of the rounding of a gradient that is 0.
@pytest.mark.parametrize("optimizer", [rv.SGD(), rv.Adam(eps=1e-3)], ids=repr)
def test_a_full_batch_training_cannot_tell_weights_from_copies(name, optimizer, rng):
    case = LOSSES[name]
    models = network(), network()
    X = rng.normal(size=(8, 3))
    y = case.targets(rng, models[0].predict(X))
    # A row of weight 0 may hold anything.
    X[COUNTS == 0] *= 1e6
    options = {"epochs": 20, "batch_size": 100, "shuffle": False}
    options |= {"loss": case.loss, "optimizer": optimizer}
    weighted = models[0].fit(X, y, sample_weight=COUNTS, **options)
    copied = models[1].fit(repeated(X), repeated(y), **options)
    assert error(weighted["loss"], copied["loss"]) <= TOLERANCE["float64"]
    for parameter, value in models[0].parameters().items():
        assert error(value, models[1].parameters()[parameter]) <= TOLERANCE["float64"], parameter


def test_a_row_of_weight_0_is_absent_from_the_statistics_however_large_it_is(rng):
    model = network()
    X, y = rng.normal(size=(8, 3)), rng.normal(size=(8, 4))
    weight = np.ones(8)
    weight[3] = 0.0
    options = {"loss": "mse", "training": True}
    expected, gradients = model.value_and_gradient(
        np.delete(X, 3, 0), np.delete(y, 3, 0), **options
    )
    X[3] = 1e200  # its square overflows
    value, got = model.value_and_gradient(X, y, sample_weight=weight, **options)
    assert value == pytest.approx(expected, rel=1e-13)
    for parameter, gradient in gradients.items():
        assert error(got[parameter], gradient) <= TOLERANCE["float64"], parameter


def test_short_batches_and_epochs_weigh_by_their_weights(rng):
    # Losses are those before each step; the rate is too small to move anything.
    model = rv.Sequential([rv.Dense(1)], input_size=3, dtype="float64")
    X, y, weight = rng.normal(size=(10, 3)), rng.normal(size=10), rng.uniform(size=10)
    options = {"loss": "mse", "optimizer": rv.SGD(learning_rate=1e-300), "batch_size": 4}
    for sample_weight in (None, weight):
        history = model.fit(X, y, sample_weight=sample_weight, **options)
        squares = (model.predict(X)[:, 0] - y) ** 2
        expected = np.average(squares, weights=sample_weight)
        assert history["loss"] == [pytest.approx(expected, rel=1e-14)]


def test_accuracy_is_a_weighted_share():
    model = rv.Sequential([rv.Activation("identity")], input_size=2, dtype="float64")
    X = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, -2.0], [3.0, 4.0]])
    trainer = rv.Trainer(model, loss="cross_entropy")
    labels = [0, 1, 1, 0]  # right, right, wrong, wrong
    assert trainer.evaluate(X, labels)["accuracy"] == 0.5
    assert trainer.evaluate(X, labels, sample_weight=[1, 2, 1, 0])["accuracy"] == 0.75
    assert trainer.evaluate(X, np.eye(2)[labels])["accuracy"] == 0.5
    # Element by element: z > 0 where y > ½.
    trainer = rv.Trainer(model, loss="binary_cross_entropy")
    bits = [[1, 1], [0, 1], [1, 0], [0, 0]]  # 1, 2, 2 and 0 of 2
    assert trainer.evaluate(X, bits)["accuracy"] == 5 / 8


BAD_WEIGHTS = [
    (rv.ArgumentError, [1.0, -1.0, 1.0], "sample_weight: expected finite numbers, 0 or more"),
    (rv.ArgumentError, [1.0, np.nan, 1.0], "sample_weight: expected finite numbers, 0 or more"),
    (rv.ArgumentError, [1.0, np.inf, 1.0], "sample_weight: expected finite numbers, 0 or more"),
    (rv.ArgumentError, [0.0, 0.0, 0.0], "sample_weight: expected .*positive"),
    (rv.ArgumentError, [1e308, 1e308, 1e308], "sample_weight: expected .*finite sum"),
    (rv.ShapeError, [1.0, 1.0], r"sample_weight: expected shape \(3,\)"),
    (rv.ShapeError, [[1.0], [1.0], [1.0]], r"sample_weight: expected shape \(3,\)"),
    (rv.DTypeError, ["a", "b", "c"], "sample_weight: expected real numbers"),
]


@pytest.mark.parametrize(("kind", "weight", "message"), BAD_WEIGHTS)
def test_unusable_weights_are_refused_everywhere(kind, weight, message):
    model = rv.Sequential([rv.Dense(1)], input_size=1)
    trainer = rv.Trainer(model, loss="mse")
    X, y, options = np.ones((3, 1)), np.ones(3), {"sample_weight": weight}
    before = model.parameters()
    for call in (
        lambda: rv.losses.MSE().value_and_gradient(X, y, **options),
        lambda: model.value_and_gradient(X, y, loss="mse", **options),
        lambda: trainer.evaluate(X, y, **options),
        lambda: trainer.fit(X, y, **options),
    ):
        with pytest.raises(kind, match=f"^{message}"):
            call()
    with pytest.raises(kind, match=f"^validation {message}"):
        trainer.fit(X, y, validation_data=(X, y, weight))
    for name, value in model.parameters().items():
        np.testing.assert_array_equal(value, before[name])
    assert trainer.step == 0


# ---------------------------------------------------------------- targets


def test_labels_in_every_form(rng):
    z, labels = rng.normal(size=(4, 3)), np.array([0, 2, 1, 2])
    expected, expected_gradient = value_and_gradient(rv.losses.CrossEntropy(), z, np.eye(3)[labels])
    forms = [labels, labels.tolist(), labels[:, np.newaxis], labels[::-1][::-1]]
    forms += [labels.astype(kind) for kind in ("int8", "uint8", "uint64", "int32", ">i4")]
    for form in forms:
        value, gradient = value_and_gradient(rv.losses.CrossEntropy(), z, form)
        assert value == pytest.approx(expected, rel=1e-15)
        np.testing.assert_allclose(gradient, expected_gradient, atol=1e-16)
    two, _ = value_and_gradient(rv.losses.CrossEntropy(), z[:, :2], [True, False, False, True])
    assert two == value_and_gradient(rv.losses.CrossEntropy(), z[:, :2], [1, 0, 0, 1])[0]


@pytest.mark.parametrize("label", [-1, 3, 255, -(2**63), 2**62])
def test_a_label_out_of_range_is_refused_with_its_row(label):
    y = np.array([0, label, 2])
    model = rv.Sequential([rv.Dense(3)], input_size=2)
    trainer = rv.Trainer(model, loss="cross_entropy")
    X, good = np.ones((3, 2)), np.zeros(3, int)
    message = "y: expected class labels from 0 to 2, got .* in row 1"
    for call in (
        lambda: model.value_and_gradient(X, y, loss="cross_entropy"),
        lambda: trainer.evaluate(X, y),
        lambda: trainer.fit(X, y),
        # Also in a row that does not count.
        lambda: trainer.fit(X, y, sample_weight=[1, 0, 1]),
    ):
        with pytest.raises(rv.ArgumentError, match=f"^{message}"):
            call()
    with pytest.raises(rv.ArgumentError, match=f"^validation {message}"):
        trainer.fit(X, good, validation_data=(X, y))
    with pytest.raises(rv.ArgumentError, match=r"^target: expected class labels from 0 to 2"):
        rv.losses.CrossEntropy().value_and_gradient(np.ones((3, 3)), y)
    assert trainer.step == 0


BAD_TARGETS = [
    ("cross_entropy", rv.ArgumentError, [[0.5, 0.6, 0.0, 0.0]], "sum to 1"),
    ("cross_entropy", rv.ArgumentError, [[0.25, 0.25, 0.25, 0.2]], "sum to 1"),
    ("cross_entropy", rv.ArgumentError, [[1.5, -0.5, 0.0, 0.0]], "sum to 1"),
    ("cross_entropy", rv.ArgumentError, [[np.nan, 1.0, 0.0, 0.0]], "finite"),
    ("cross_entropy", rv.DTypeError, [1.0], "integer class labels"),
    ("cross_entropy", rv.ShapeError, [[0.5, 0.5]], r"\(1, 4\)"),
    ("cross_entropy", rv.ShapeError, [[[1, 0, 0, 0]]], "shape"),
    ("binary_cross_entropy", rv.ArgumentError, [[0.0, 1.0, 1.1, 0.0]], "from 0 to 1"),
    ("binary_cross_entropy", rv.ArgumentError, [[0.0, -1.0, 1.0, 0.0]], "from 0 to 1"),
    ("poisson", rv.ArgumentError, [[0.0, -1.0, 1.0, 0.0]], "counts, 0 or more"),
    ("mse", rv.ArgumentError, [[0.0, np.nan, 1.0, 0.0]], "finite"),
    ("mse", rv.ArgumentError, [[0.0, np.inf, 1.0, 0.0]], "finite"),
    ("mse", rv.ShapeError, [[0.0, 1.0]], r"\(1, 4\)"),
    ("mse", rv.ShapeError, [0.0], r"\(1, 4\)"),
    ("mse", rv.DTypeError, [["a", "b", "c", "d"]], "real numbers"),
    ("mse", rv.DTypeError, [[1j, 0, 0, 0]], "real numbers"),
    ("gaussian_nll", rv.ShapeError, [[0.0, 1.0, 2.0, 3.0]], r"\(1, 2\)"),
]


@pytest.mark.parametrize(("loss", "kind", "target", "message"), BAD_TARGETS)
def test_unusable_targets_are_refused(loss, kind, target, message):
    model = rv.Sequential([rv.Dense(4)], input_size=2)
    before = model.parameters()
    with pytest.raises(kind, match=f"^y: expected .*{message}"):
        model.fit(np.ones((1, 2)), target, loss=loss)
    for name, value in model.parameters().items():
        np.testing.assert_array_equal(value, before[name])
    # The same of the loss alone, by the name that the argument has there.
    with pytest.raises(kind, match=f"^target: expected .*{message}"):
        rv.losses.get(loss).value_and_gradient(np.ones((1, 4)), target)


@pytest.mark.parametrize(
    ("loss", "outputs", "message"),
    [
        (rv.losses.Quantile([0.1, 0.5, 0.9]), 4, "multiple of the 3 quantiles"),
        (rv.losses.GaussianNLL(), 3, "even number of outputs"),
        (rv.losses.CrossEntropy(), 1, "at least 2 outputs"),
        (rv.losses.BinaryCrossEntropy(pos_weight=[1.0, 2.0]), 3, "pos_weight"),
    ],
    ids=repr,
)
def test_a_network_with_outputs_that_the_loss_cannot_read_is_refused(loss, outputs, message):
    model = rv.Sequential([rv.Dense(outputs)], input_size=2)
    y = np.zeros(2, int) if isinstance(loss, rv.losses.CrossEntropy) else np.zeros((2, outputs))
    with pytest.raises(rv.ShapeError, match=f"^loss: expected .*{message}"):
        model.fit(np.ones((2, 2)), y, loss=loss)


BAD_OPTIONS = [
    (rv.losses.Huber, "delta", [0.0, -1.0, math.nan, math.inf], ["1", None, True]),
    (rv.losses.Quantile, "q", [0.0, 1.0, -0.5, math.nan, [], [0.5, 1.0]], ["0.5", None, [None]]),
    (rv.losses.CrossEntropy, "label_smoothing", [-0.1, 1.0, math.nan], ["0.1", None]),
    (rv.losses.BinaryCrossEntropy, "pos_weight", [0.0, -1.0, math.inf, [1.0, 0.0]], ["1", ["1"]]),
]


@pytest.mark.parametrize(("loss", "option", "values", "types"), BAD_OPTIONS)
def test_options_out_of_range_are_refused_by_name(loss, option, values, types):
    for value in values:
        with pytest.raises(rv.ArgumentError, match=f"^{option}: expected "):
            loss(**{option: value})
    for value in types:
        with pytest.raises(rv.DTypeError, match=f"^{option}: expected "):
            loss(**{option: value})


@pytest.mark.parametrize("loss", ["mean", "MSE", ""])
def test_an_unknown_name_is_refused(loss):
    with pytest.raises(rv.ArgumentError, match=r"^loss: expected one of mse, mae, .*, got "):
        rv.losses.get(loss)


@pytest.mark.parametrize("loss", [rv.losses.MSE, None, 3, len, object()])
def test_what_is_no_loss_is_refused(loss):
    model = rv.Sequential([rv.Dense(1)], input_size=1)
    with pytest.raises(rv.DTypeError, match=r"^loss: expected a name, an object .*, got "):
        rv.Trainer(model, loss=loss)


def test_one_dimension_serves_one_output(rng):
    z, y = rng.normal(size=(6, 1)), rng.uniform(size=6)
    for loss in ("mse", "mae", "huber", "quantile", "poisson", "binary_cross_entropy"):
        flat = value_and_gradient(rv.losses.get(loss), z, y)
        column = value_and_gradient(rv.losses.get(loss), z, y[:, np.newaxis])
        assert flat[0] == column[0]
        np.testing.assert_array_equal(flat[1], column[1])


def test_quantiles_of_several_targets_find_their_columns():
    # The bias alone learns the quantiles of each column of y: t·Q + j is quantile j of target t.
    y = np.stack([np.linspace(0.0, 1.0, 101), np.linspace(10.0, 20.0, 101)], axis=1)
    model = rv.Sequential([rv.Dense(6, weight_init="zeros")], input_size=1, dtype="float64")
    loss = rv.losses.Quantile([0.1, 0.5, 0.9])
    options = {"epochs": 4000, "batch_size": 101, "optimizer": rv.SGD(learning_rate=0.2)}
    model.set_parameters({"0.bias": [0.5, 0.5, 0.5, 15.0, 15.0, 15.0]})
    model.fit(np.zeros((101, 1)), y, loss=loss, **options)
    found = model.parameters()["0.bias"]
    assert found == pytest.approx([0.1, 0.5, 0.9, 11.0, 15.0, 19.0], abs=0.06)


# ---------------------------------------------------------------- custom losses


class PythonMSE:
    """Mean squared error in the core's own order of operations, so that the bits agree."""

    def __init__(self):
        self.calls = []

    def value_and_gradient(self, output, target, sample_weight=None):
        self.calls.append((output, target, sample_weight))
        weight = np.ones(len(output)) if sample_weight is None else sample_weight
        target = np.asarray(target, output.dtype).reshape(output.shape)
        difference = output - target
        rows = (difference.astype(np.float64) ** 2).sum(axis=1) / output.shape[1]
        scale = weight / (weight.sum() * output.shape[1])
        gradient = (difference + difference) * scale.astype(output.dtype)[:, np.newaxis]
        return (weight * rows).sum() / weight.sum(), gradient


def small_model(dtype="float64", outputs=2):
    layers = [rv.Dense(6, activation="tanh"), rv.BatchNorm(), rv.Dropout(0.2), rv.Dense(outputs)]
    return rv.Sequential(layers, input_size=3, seed=5, dtype=dtype)


def trained(loss, rng, dtype="float64", outputs=2, weights=False, **options):
    """Parameters and history after a few epochs of short batches with validation."""
    X, y = rng.normal(size=(22, 3)), rng.normal(size=(22, outputs))
    Xv, yv = rng.normal(size=(300, 3)), rng.normal(size=(300, outputs))
    validation = (Xv, yv)
    if weights:
        # Sums of quarters are exact, in any order.
        options["sample_weight"] = rng.integers(0, 9, size=22) / 4
        validation = (Xv, yv, rng.integers(0, 9, size=300) / 4)
    model = small_model(dtype, outputs)
    trainer = rv.Trainer(model, loss=loss, optimizer="adam", seed=3)
    options = {"epochs": 4, "batch_size": 5, "validation_data": validation, **options}
    history = trainer.fit(X, y, **options)
    return model.parameters(), history, trainer.evaluate(*validation)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("weights", [False, True], ids=["plain", "weighted"])
def test_a_python_loss_trains_as_the_built_in_one(dtype, outputs, weights):
    options = {"dtype": dtype, "outputs": outputs, "weights": weights}
    ours, ours_history, ours_report = trained(PythonMSE(), np.random.default_rng(1), **options)
    core, core_history, core_report = trained("mse", np.random.default_rng(1), **options)
    # The gradients have the same bits, so the parameters do.
    for name, value in ours.items():
        np.testing.assert_array_equal(value, core[name], err_msg=name)
    # A value may be summed in another order.
    rounding = 1e-15 if dtype == "float64" else 1e-6
    for key in ("loss", "val_loss"):
        assert error(ours_history[key], core_history[key]) <= rounding
    assert ours_report == {"loss": pytest.approx(core_report["loss"], rel=rounding)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 2.0, 0.25]])
def test_value_and_gradient_takes_a_python_loss(dtype, weights, rng):
    model = small_model(dtype)
    X, y = rng.normal(size=(4, 3)), rng.normal(size=(4, 2))
    options = {"sample_weight": weights, "training": True, "step": 2}
    value, gradients = model.value_and_gradient(X, y, loss=PythonMSE(), **options)
    expected, expected_gradients = model.value_and_gradient(X, y, loss="mse", **options)
    assert value == pytest.approx(expected, rel=1e-15 if dtype == "float64" else 1e-6)
    np.testing.assert_array_equal(gradients.d_input, expected_gradients.d_input)
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(gradient, expected_gradients[name])


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_a_custom_loss_is_given(dtype, rng):
    model = rv.Sequential([rv.Dense(2)], input_size=3, dtype=dtype)
    X, y = rng.normal(size=(7, 3)), np.arange(7.0)
    loss, weight = PythonMSE(), np.arange(7) + 1
    expected = model.predict(X)

    class Keep(PythonMSE):
        def value_and_gradient(self, output, target, sample_weight=None):
            self.calls.append((output, target, sample_weight))
            return 0.0, np.zeros(output.shape)

    loss = Keep()
    options = {"loss": loss, "shuffle": False, "batch_size": 4, "optimizer": "sgd"}
    model.fit(X, y, sample_weight=weight, **options)
    assert len(loss.calls) == 2
    for (output, target, sample_weight), rows in zip(
        loss.calls, (slice(0, 4), slice(4, 7)), strict=True
    ):
        assert output.dtype == dtype
        np.testing.assert_array_equal(output, expected[rows])  # a copy of its own, kept till now
        np.testing.assert_array_equal(target, y[rows])
        np.testing.assert_array_equal(sample_weight, weight[rows])
    loss.calls.clear()
    model.fit(X, y, **options)
    assert [call[2] for call in loss.calls] == [None, None]


def test_a_custom_loss_may_take_any_targets(rng):
    class Words:
        """The length of the word is what is meant."""

        def value_and_gradient(self, output, target, sample_weight=None):
            assert set(target.tolist()) <= {"one", "three", "fourteen"}
            lengths = np.array([[len(word)] for word in target])
            return PythonMSE().value_and_gradient(output, lengths, sample_weight)

    words = np.array(["one", "three", "fourteen", "three", "one"])
    X = rng.normal(size=(5, 3))
    ours, core = small_model(outputs=1), small_model(outputs=1)
    ours.fit(X, words, loss=Words(), epochs=3, batch_size=2)
    core.fit(X, np.char.str_len(words), loss="mse", epochs=3, batch_size=2)
    for name, value in ours.parameters().items():
        np.testing.assert_array_equal(value, core.parameters()[name])
    listed = small_model(outputs=1)
    listed.fit(X, words.tolist(), loss=Words(), epochs=3, batch_size=2)
    for name, value in listed.parameters().items():
        np.testing.assert_array_equal(value, core.parameters()[name])


def test_a_custom_loss_may_take_a_data_frame(rng):
    pandas = pytest.importorskip("pandas")
    y = pandas.DataFrame(rng.normal(size=(9, 2)), columns=["a", "b"], index=range(100, 109))

    class Frame(PythonMSE):
        def value_and_gradient(self, output, target, sample_weight=None):
            assert list(target.columns) == ["a", "b"]
            return super().value_and_gradient(output, target.to_numpy(), sample_weight)

    X = rng.normal(size=(9, 3))
    ours, core = small_model(), small_model()
    ours.fit(X, y, loss=Frame(), batch_size=4)
    core.fit(X, y.to_numpy(), loss="mse", batch_size=4)
    for name, value in ours.parameters().items():
        np.testing.assert_array_equal(value, core.parameters()[name])


class Returns:
    def __init__(self, result):
        self.result = result

    def value_and_gradient(self, output, target, sample_weight=None):
        return self.result(output) if callable(self.result) else self.result


BAD_RESULTS = {
    "nothing": (None, rv.ArgumentError, r"loss: expected .*\(float, array\), got NoneType"),
    "a value alone": (1.0, rv.ArgumentError, r"loss: expected .*\(float, array\), got float"),
    "three things": ((1.0, 2.0, 3.0), rv.ArgumentError, r"loss: expected .*\(float, array\)"),
    "a word for the value": (
        lambda z: ("a", np.zeros_like(z)),
        rv.ArgumentError,
        r"loss: expected .*\(float, array\)",
    ),
    "an array for the value": (
        lambda z: (np.zeros(2), np.zeros_like(z)),
        rv.ArgumentError,
        r"loss: expected .*\(float, array\)",
    ),
    "words for the gradient": (
        lambda z: (0.0, np.full(z.shape, "a")),
        rv.ArgumentError,
        r"loss: expected .*\(float, array\)",
    ),
    "a gradient that is flat": (
        lambda z: (0.0, np.zeros(z.size)),
        rv.ShapeError,
        r"loss: expected a gradient of the output's shape \(4, 2\), got \(8,\)",
    ),
    "a gradient that would broadcast": (
        lambda z: (0.0, np.zeros((1, 2))),
        rv.ShapeError,
        r"loss: expected a gradient of the output's shape \(4, 2\), got \(1, 2\)",
    ),
    "no gradient": (lambda z: (0.0, None), rv.ArgumentError, "loss: expected"),
}


@pytest.mark.parametrize("case", BAD_RESULTS)
def test_a_wrong_result_of_a_custom_loss_is_explained(case, rng):
    result, kind, message = BAD_RESULTS[case]
    loss, model = Returns(result), small_model()
    X, y = rng.normal(size=(4, 3)), rng.normal(size=(4, 2))
    before = model.parameters()
    trainer = rv.Trainer(model, loss=loss)
    for call in (
        lambda: model.value_and_gradient(X, y, loss=loss),
        lambda: trainer.fit(X, y),
        lambda: trainer.evaluate(X, y),
    ):
        with pytest.raises(kind, match=f"^{message}"):
            call()
    assert trainer.step == 0
    for name, value in model.parameters().items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_custom_loss_that_is_not_finite_diverges(value, rng):
    model = small_model()
    X, y = rng.normal(size=(4, 3)), rng.normal(size=(4, 2))
    before = model.parameters()
    with pytest.raises(rv.DivergedError, match="loss"):
        model.fit(X, y, loss=Returns(lambda z: (value, np.zeros_like(z))))
    for name, parameter in model.parameters().items():
        np.testing.assert_array_equal(parameter, before[name])


def test_a_custom_gradient_that_is_not_finite_diverges(rng):
    model = small_model()
    X, y = rng.normal(size=(4, 3)), rng.normal(size=(4, 2))
    before = model.parameters()
    with pytest.raises(rv.DivergedError):
        model.fit(X, y, loss=Returns(lambda z: (0.0, np.full_like(z, np.nan))))
    for name, parameter in model.parameters().items():
        np.testing.assert_array_equal(parameter, before[name])


class InterruptionError(Exception):
    """Nothing that ranvier knows."""


class StopAt(PythonMSE):
    """Raises at a certain call."""

    def __init__(self, call, raised):
        super().__init__()
        self.call, self.raised = call, raised

    def value_and_gradient(self, output, target, sample_weight=None):
        result = super().value_and_gradient(output, target, sample_weight)
        if len(self.calls) == self.call:
            raise self.raised
        return result


class StopAfter(rv.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, step, logs):
        return step == self.step


@pytest.mark.parametrize("raised", [InterruptionError("why"), KeyboardInterrupt(), TypeError("oh")])
@pytest.mark.parametrize("call", [1, 2, 8])
def test_an_exception_passes_unchanged_and_leaves_the_last_complete_step(raised, call, rng):
    X, y = rng.normal(size=(22, 3)), rng.normal(size=(22, 2))
    options = {"batch_size": 5, "epochs": 3}  # 5 batches an epoch
    model, twin = small_model(), small_model()
    before = model.parameters()
    trainer = rv.Trainer(model, loss=StopAt(call, raised))
    with pytest.raises(type(raised)) as caught:
        trainer.fit(X, y, **options)
    assert caught.value is raised
    assert trainer.step == call - 1
    if call > 1:
        rv.Trainer(twin, loss="mse").fit(X, y, callbacks=[StopAfter(call - 1)], **options)
        assert (model.parameters()["0.weight"] != before["0.weight"]).any()
    for name, value in model.parameters().items():
        np.testing.assert_array_equal(value, twin.parameters()[name], err_msg=name)
    trainer.fit(X, y)  # the loss raises but once
    assert trainer.step == call - 1 + 1 * math.ceil(22 / 32)


def test_an_exception_in_validation_passes_and_leaves_the_epoch(rng):
    raised = InterruptionError("in the validation")
    X, y = rng.normal(size=(22, 3)), rng.normal(size=(22, 2))
    model, twin = small_model(), small_model()
    trainer = rv.Trainer(model, loss=StopAt(6, raised))
    with pytest.raises(InterruptionError) as caught:
        trainer.fit(X, y, batch_size=5, validation_data=(X, y))
    assert caught.value is raised
    assert trainer.step == 5
    twin.fit(X, y, loss="mse", batch_size=5)
    for name, value in model.parameters().items():
        np.testing.assert_array_equal(value, twin.parameters()[name], err_msg=name)


def test_an_exception_passes_through_value_and_gradient_and_evaluate(rng):
    raised = InterruptionError("why")
    model = small_model()
    X, y = rng.normal(size=(4, 3)), rng.normal(size=(4, 2))
    with pytest.raises(InterruptionError) as caught:
        model.value_and_gradient(X, y, loss=StopAt(1, raised))
    assert caught.value is raised
    with pytest.raises(InterruptionError) as caught:
        rv.Trainer(model, loss=StopAt(1, raised)).evaluate(X, y)
    assert caught.value is raised


@pytest.mark.timeout(60, method="thread")  # a deadlock would hold the main thread
def test_a_custom_loss_may_use_the_model_that_is_trained(rng):
    X, y = rng.normal(size=(22, 3)), rng.normal(size=(22, 2))
    model, twin = small_model(), small_model()
    seen = []

    class Curious(PythonMSE):
        def value_and_gradient(self, output, target, sample_weight=None):
            # Nothing of this must wait for the fit, in training, validation or value_and_gradient.
            predictions = model.predict(X)
            model.value_and_gradient(X, y, loss="mse")
            seen.append((model.parameters()["0.weight"], predictions, model.copy().predict(X)))
            return super().value_and_gradient(output, target, sample_weight)

    loss = Curious()
    trainer = rv.Trainer(model, loss=loss)
    trainer.fit(X, y, batch_size=5, validation_data=(X, y))
    model.value_and_gradient(X, y, loss=loss)
    trainer.evaluate(X, y)
    assert len(seen) == 5 + 1 + 1 + 1
    for _, predictions, copied in seen:
        np.testing.assert_array_equal(predictions, copied)
    # Each call saw the state after the step before.
    assert (seen[0][0] != seen[1][0]).any()
    rv.Trainer(twin, loss="mse").fit(X, y, batch_size=5, validation_data=(X, y))
    for name, value in model.parameters().items():
        np.testing.assert_array_equal(value, twin.parameters()[name], err_msg=name)


@pytest.mark.timeout(60, method="thread")
def test_a_custom_loss_cannot_start_a_second_fit_of_its_trainer(rng):
    X, y = rng.normal(size=(4, 3)), rng.normal(size=(4, 2))

    class Nested(PythonMSE):
        def value_and_gradient(self, output, target, sample_weight=None):
            with pytest.raises(rv.BusyError, match="fitting already"):
                trainer.fit(X, y)
            return super().value_and_gradient(output, target, sample_weight)

    trainer = rv.Trainer(small_model(), loss=Nested())
    trainer.fit(X, y)
    assert trainer.step == 1


# ---------------------------------------------------------------- class weights

CLASS_X = np.random.default_rng(5).normal(size=(40, 3))
CLASSES = np.arange(40) % 7 // 3
BITS = (np.arange(80).reshape(40, 2) % 5 < 2).astype(float)


def trained_with(loss, y, outputs, **options):
    model = rv.Sequential([rv.Dense(outputs)], input_size=3, dtype="float64")
    history = model.fit(CLASS_X, y, loss=loss, epochs=3, batch_size=7, **options)
    return history["loss"], history.get("val_loss"), model.parameters()["0.weight"].tobytes()


@pytest.mark.parametrize("sample_weight", [None, 1.0 + np.arange(40) % 3])
def test_class_weights_are_sample_weights(sample_weight):
    base = np.ones(40) if sample_weight is None else sample_weight
    counts = np.bincount(CLASSES)
    ones, shares = np.eye(3)[CLASSES], np.full((40, 3), 0.1) + 0.7 * np.eye(3)[CLASSES]
    by_class = np.array([1.0, 3.0, 0.5])
    factors = np.where(BITS == 1, [0.5, 4.0], [2.0, 1.0])
    balanced = np.where(BITS == 1, 40 / (2 * BITS.sum(0)), 40 / (2 * (1 - BITS).sum(0)))
    cases = [
        ("cross_entropy", CLASSES, 3, {1: 3.0, 2: 0.5}, by_class[CLASSES]),
        ("cross_entropy", CLASSES, 3, [{1: 3.0, 2: 0.5}], by_class[CLASSES]),
        ("cross_entropy", CLASSES, 3, "balanced", (40 / (3 * counts))[CLASSES]),
        ("cross_entropy", CLASSES, 4, "balanced", (40 / (3 * counts))[CLASSES]),
        ("cross_entropy", ones, 3, {1: 3.0, 2: 0.5}, by_class[CLASSES]),
        ("cross_entropy", shares, 3, {1: 3.0, 2: 0.5}, shares @ by_class),
        ("binary_cross_entropy", BITS[:, 0], 1, {0: 2.0, 1: 0.5}, factors[:, 0]),
        ("binary_cross_entropy", BITS[:, :1], 1, "balanced", balanced[:, 0]),
        ("binary_cross_entropy", BITS, 2, [{0: 2.0, 1: 0.5}, {1: 4.0}], factors.prod(axis=1)),
        ("binary_cross_entropy", BITS, 2, "balanced", balanced.prod(axis=1)),
    ]
    for loss, y, outputs, class_weight, expected in cases:
        ours = trained_with(
            loss, y, outputs, sample_weight=sample_weight, class_weight=class_weight
        )
        by_hand = trained_with(loss, y, outputs, sample_weight=base * expected)
        np.testing.assert_allclose(ours[0], by_hand[0], rtol=1e-13)
        parameters = [np.frombuffer(result[2]) for result in (ours, by_hand)]
        np.testing.assert_allclose(*parameters, rtol=1e-12)


def test_validation_rows_are_weighted_likewise():
    weights = {0: 3.0, 2: 0.25}
    factor = np.array([3.0, 1.0, 0.25])[CLASSES]
    for options, by_hand in (
        ({"validation_split": 0.3}, {"validation_split": 0.3}),
        (
            {"validation_data": (CLASS_X, CLASSES)},
            {"validation_data": (CLASS_X, CLASSES, factor)},
        ),
    ):
        ours = trained_with("cross_entropy", CLASSES, 3, class_weight=weights, **options)
        assert ours == trained_with("cross_entropy", CLASSES, 3, sample_weight=factor, **by_hand)


@pytest.mark.parametrize(
    ("loss", "class_weight", "words"),
    [
        ("mse", "balanced", "class_weight: expected None for a loss without classes"),
        ("cross_entropy", "even", "class_weight: expected None, 'balanced'.*got 'even'"),
        ("cross_entropy", 3.0, "class_weight: .*got 3.0"),
        ("cross_entropy", {3: 1.0}, "class_weight: expected classes from 0 to 2, got 3"),
        ("cross_entropy", {"a": 1.0}, "class_weight, a class: .*got 'a'"),
        ("cross_entropy", {0: -1.0}, r"class_weight\[0\]: .*got -1.0"),
        ("cross_entropy", {0: "x"}, r"class_weight\[0\]: .*got 'x'"),
        (
            "cross_entropy",
            [{}, {}],
            "class_weight: expected one entry for each of 1 outputs, got 2",
        ),
        ("cross_entropy", {0: 0, 1: 0, 2: 0}, "sample_weight: .*sum"),
    ],
)
def test_class_weights_that_do_not_fit_are_refused(loss, class_weight, words):
    y = CLASS_X if loss == "mse" else CLASSES
    with pytest.raises(rv.RanvierError, match=words):
        trained_with(loss, y, 3, class_weight=class_weight)


def test_labels_out_of_range_are_named_with_class_weights_too():
    with pytest.raises(rv.ArgumentError, match="y: expected class labels from 0 to 1"):
        trained_with("cross_entropy", CLASSES, 2, class_weight="balanced")
