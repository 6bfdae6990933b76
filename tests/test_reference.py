"""The reference keeps its promises: known answers, worked examples, finite differences."""

import ast
import doctest
import itertools
import math
import statistics
from pathlib import Path

import pytest

from ranvier import reference as ref
from ranvier.reference import activations, initializers, losses, normal, random, vectors

NAN = math.nan
ACTIVATIONS = sorted(activations.BY_NAME)
SCALAR = [name for name in ACTIVATIONS if name not in ("prelu", "softmax")]


def flat(tensor):
    return vectors.flatten(tensor)


def numbers(stream, rows, columns, scale=2.0):
    """Rows of numbers between -scale and scale, the same in every run."""
    generator = random.Stream(stream, 9)
    draw = iter(range(rows * columns))
    return [
        [scale * (2 * generator.uniform(next(draw)) - 1) for _ in range(columns)]
        for _ in range(rows)
    ]


def scalar(kind):
    """Value and derivative functions of a scalar activation."""
    return activations.get(kind).value, activations.get(kind).derivative


# ---------------------------------------------------------------- the package itself


def sources():
    return sorted(Path(ref.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.name)
def test_imports_only_math_and_typing_helpers(path):
    allowed = {"math", "dataclasses", "typing", "collections.abc"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert {alias.name for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1 or (node.level == 0 and node.module in allowed)


def test_everything_in_all_is_there():
    assert all(hasattr(ref, name) for name in ref.__all__)


def test_the_docstring_runs():
    result = doctest.testmod(ref)
    assert result.attempted > 0
    assert result.failed == 0


# ---------------------------------------------------------------- randomness


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        (
            "00000000 00000000 00000000 00000000",
            "00000000 00000000",
            "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        ),
        (
            "ffffffff ffffffff ffffffff ffffffff",
            "ffffffff ffffffff",
            "408f276d 41c83b0e a20bc7c6 6d5451fd",
        ),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, expected):
    def words(text):
        return tuple(int(word, 16) for word in text.split())

    assert random.philox4x32(words(counter), words(key)) == words(expected)


def test_a_stream_reads_blocks_by_seed_purpose_layer_and_epoch():
    seed, epoch, layer = 0x0123_4567_89AB_CDEF, 7, 3
    stream = random.Stream(seed, random.DROPOUT, layer=layer, epoch=epoch)
    block = 5 + 2**32
    words = random.philox4x32((5, 1, epoch, 4 << 16 | layer), (0x89AB_CDEF, 0x0123_4567))
    assert [stream.word32(4 * block + i) for i in range(4)] == list(words)
    assert stream.word64(2 * block) == words[0] + (words[1] << 32)
    assert stream.word64(2 * block + 1) == words[2] + (words[3] << 32)
    assert stream.uniform(2 * block) == (stream.word64(2 * block) >> 11) / 2**53
    assert stream.open_uniform(9) == ((stream.word64(9) >> 11) + 0.5) / 2**53


def test_a_seed_has_64_bits():
    random.Stream(2**64 - 1, random.SHUFFLE)
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match="seed"):
            random.Stream(seed, random.SHUFFLE)


def test_inverse_normal_cdf_is_that_of_the_standard_library():
    grid = [i / 1000 for i in range(1, 1000)]
    tails = [10.0**-k for k in range(4, 300, 7)] + [1 - 10.0**-k for k in range(4, 16)]
    standard = statistics.NormalDist()
    for p in grid + tails + [2.0**-54, 1 - 2.0**-53]:
        assert normal.inverse_normal_cdf(p) == pytest.approx(standard.inv_cdf(p), rel=1e-15, abs=0)
    for p in (0.0, 1.0, NAN):
        with pytest.raises(ValueError, match="between 0 and 1"):
            normal.inverse_normal_cdf(p)


def test_an_epoch_visits_every_row_once_in_an_order_of_its_own():
    orders = [random.permutation(50, seed=1, epoch=epoch) for epoch in range(5)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 5
    assert random.permutation(50, seed=1, epoch=2) == orders[2]
    assert random.permutation(0, seed=1, epoch=0) == []
    assert random.permutation(1, seed=1, epoch=0) == [0]


def test_shuffle_is_fisher_yates_from_the_last_row_down():
    stream = random.Stream(11, random.SHUFFLE, epoch=3)
    order = [0, 1, 2, 3]
    for i, draw in ((3, 0), (2, 1), (1, 2)):
        j = stream.word64(draw) * (i + 1) // 2**64
        order[i], order[j] = order[j], order[i]
    assert random.permutation(4, seed=11, epoch=3) == order


def test_all_orders_are_equally_likely():
    counts = dict.fromkeys(itertools.permutations(range(3)), 0)
    for epoch in range(3000):
        counts[tuple(random.permutation(3, seed=5, epoch=epoch))] += 1
    # 500 each, standard deviation 20.
    assert all(abs(count - 500) < 100 for count in counts.values())


# ---------------------------------------------------------------- initialisers


def drawn(initializer, rows, columns, seed=0):
    layer = ref.Dense(columns, weight_init=initializer)
    return layer.initial_parameters(rows, seed, 0)["weight"]


@pytest.mark.parametrize(
    ("name", "variance"),
    [
        ("glorot_uniform", 2 / (40 + 60)),
        ("glorot_normal", 2 / (40 + 60)),
        ("he_uniform", 2 / 40),
        ("he_normal", 2 / 40),
        ("lecun_uniform", 1 / 40),
        ("lecun_normal", 1 / 40),
        ("torch", 1 / (3 * 40)),
        (initializers.GlorotNormal(truncated=True), 2 / (40 + 60)),
        (initializers.HeNormal(truncated=True), 2 / 40),
        (initializers.LecunNormal(truncated=True), 1 / 40),
    ],
)
def test_an_initialiser_has_its_mean_variance_and_bounds(name, variance):
    values = flat(drawn(name, 40, 60))
    deviation = math.sqrt(variance)
    # 2,400 draws: the mean is within 5 standard errors, the variance within 10 %.
    assert abs(statistics.fmean(values)) < 5 * deviation / math.sqrt(2400)
    assert statistics.pvariance(values) == pytest.approx(variance, rel=0.1)
    largest = max(abs(value) for value in values)
    if isinstance(name, str) and ("uniform" in name or name == "torch"):
        bound = math.sqrt(3) * deviation
        assert 0.99 * bound < largest <= bound
    elif isinstance(name, str):
        assert largest > 3 * deviation
    else:
        assert largest <= 2 * deviation / 0.87962566103423978


def test_a_weight_depends_on_its_place_alone():
    stream = random.Stream(4, random.WEIGHT_INITIALISATION, layer=2)
    weight = ref.Dense(3, weight_init="he_uniform").initial_parameters(2, 4, 2)["weight"]
    bound = math.sqrt(6 / 2)
    assert weight[1][2] == bound * (2 * stream.uniform(1 * 3 + 2) - 1)
    layer = ref.Dense(3, weight_init="he_normal", bias_init="torch")
    parameters = layer.initial_parameters(2, 4, 2)
    uniform = stream.open_uniform(5)
    assert parameters["weight"][1][2] == pytest.approx(statistics.NormalDist().inv_cdf(uniform))
    biases = random.Stream(4, random.BIAS_INITIALISATION, layer=2)
    assert parameters["bias"][1] == 1 / math.sqrt(2) * (2 * biases.uniform(1) - 1)


@pytest.mark.parametrize(("rows", "columns"), [(7, 4), (4, 7), (5, 5)])
def test_orthogonal_weights_keep_lengths(rows, columns):
    weight = drawn(initializers.Orthogonal(gain=2.0), rows, columns)
    short = weight if rows < columns else vectors.transpose(weight)
    for i, a in enumerate(short):
        for j, b in enumerate(short):
            assert vectors.dot(a, b) == pytest.approx(4.0 if i == j else 0.0, abs=1e-14)


def test_orthogonal_is_qr_with_a_positive_diagonal():
    stream = random.Stream(0, random.WEIGHT_INITIALISATION)
    normals = [[stream.normal(r * 3 + c) for c in range(3)] for r in range(4)]
    q = drawn("orthogonal", 4, 3)
    r = vectors.matmul(vectors.transpose(q), normals)  # Q^T G = R, upper triangular
    assert all(r[i][i] > 0 for i in range(3))
    assert all(abs(r[i][j]) < 1e-14 for i in range(3) for j in range(i))


def test_orthogonal_survives_columns_that_are_almost_parallel():
    a, b, c = initializers._orthonormal([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0 + 1e-9], [1.0, 0.0, 0.0]])
    for left, right in ((a, b), (b, c), (a, c)):
        assert abs(vectors.dot(left, right)) < 1e-15


def test_zeros_ones_and_constant_are_what_they_say():
    assert drawn("zeros", 1, 2) == [[0.0, 0.0]]
    assert drawn(initializers.Ones(), 1, 2) == [[1.0, 1.0]]
    assert drawn(initializers.Constant(0.5), 1, 2) == [[0.5, 0.5]]


def test_auto_is_he_before_relu_like_activations_and_glorot_otherwise():
    relu_like = {"relu", "leaky_relu", "elu", "prelu", "gelu", "gelu_tanh", "silu", "swish"}
    relu_like |= {"mish", "hard_swish"}
    for name in ACTIVATIONS:
        expected = "he_uniform" if name in relu_like else "glorot_uniform"
        automatic = ref.Dense(3, activation=name).initial_parameters(2, 0, 0)
        named = ref.Dense(3, activation=name, weight_init=expected).initial_parameters(2, 0, 0)
        assert automatic == named
        assert automatic["bias"] == [0.0] * 3
    sloped = ref.Dense(3, activation=activations.LeakyReLU(0.3)).initial_parameters(2, 0, 0)
    assert sloped["weight"] == drawn("he_uniform", 2, 3)


def test_an_unsuitable_initialiser_is_refused():
    with pytest.raises(ValueError, match="orthogonal"):
        ref.Dense(3, bias_init="orthogonal")
    with pytest.raises(ValueError, match="unknown initializer"):
        ref.Dense(3, weight_init="xavier")


# ---------------------------------------------------------------- activations


@pytest.mark.parametrize("name", SCALAR)
def test_nan_goes_through_every_activation_and_its_derivative(name):
    value, derivative = scalar(name)
    assert math.isnan(value(NAN))
    assert math.isnan(derivative(NAN))


def test_nan_stays_in_its_own_row_of_a_prediction():
    for name in ACTIVATIONS:
        layers = [ref.Dense(3, activation=name), ref.LayerNorm(), ref.Softmax(), ref.Dense(2)]
        model = ref.Sequential(layers, input_size=2)
        good, bad, alone = model.predict([[1.0, 2.0], [NAN, 2.0], [1.0, 2.0]])
        assert good == alone == model.predict([[1.0, 2.0]])[0]
        assert all(math.isfinite(value) for value in good)
        assert all(math.isnan(value) for value in bad)


@pytest.mark.parametrize("name", SCALAR)
def test_no_activation_overflows_by_accident(name):
    value, derivative = scalar(name)
    bounded = name in ("sigmoid", "tanh", "hard_sigmoid")
    slope = 1.0507009873554805 if name == "selu" else 1.0
    for x in (1e3, 1e200, 1.7e308):
        assert value(x) == pytest.approx(1.0 if bounded else slope * x, rel=1e-15)
        assert math.isfinite(value(-x))
        assert math.isfinite(derivative(x))
        assert math.isfinite(derivative(-x))
    for x in (math.inf, -math.inf):
        assert not math.isnan(value(x))
        assert math.isfinite(derivative(x))


@pytest.mark.parametrize("name", SCALAR)
def test_every_derivative_is_the_slope_of_its_value(name):
    value, derivative = scalar(name)
    h = 1e-5
    for x in (-6.3, -2.9, -1.3, -0.4, -1e-3, 1e-3, 0.7, 2.2, 2.99, 5.1):
        slope = (value(x + h) - value(x - h)) / (2 * h)
        assert derivative(x) == pytest.approx(slope, rel=1e-6, abs=1e-10)


def test_kinks_have_the_derivatives_that_are_promised():
    for zero in (0.0, -0.0):
        assert scalar("relu")[1](zero) == 0.0
        assert scalar("leaky_relu")[1](zero) == 0.01
        assert scalar(activations.ELU(alpha=0.5))[1](zero) == 0.5
        expected = 1.0507009873554805 * 1.6732632423543772
        assert scalar("selu")[1](zero) == pytest.approx(expected, rel=1e-15)
    assert scalar("hard_sigmoid")[1](3.0) == scalar("hard_sigmoid")[1](-3.0) == 0.0
    assert scalar("hard_swish")[1](-3.0) == 0.0
    assert scalar("hard_swish")[1](3.0) == 1.0


def test_activations_are_accurate_in_their_tails():
    # Phi(-10) = 7.619853024160526e-24 (tables); e^-50 and e^-700 where 1 + e^x would be 1.
    assert scalar("gelu")[0](-10.0) == pytest.approx(-7.619853024160526e-23, rel=1e-13)
    assert scalar("softplus")[0](-50.0) == pytest.approx(math.exp(-50), rel=1e-15)
    assert scalar("sigmoid")[0](-700.0) == pytest.approx(math.exp(-700), rel=1e-15)
    assert scalar("elu")[0](-1e-20) == -1e-20
    assert scalar("tanh")[1](20.0) == pytest.approx(4 * math.exp(-40), rel=1e-13)
    assert activations.log_softmax([1000.0, 0.0]) == [0.0, -1000.0]
    assert activations.softmax([1000.0, 1000.0]) == [0.5, 0.5]


def test_activation_values_at_one():
    expected = {
        "identity": 1.0,
        "sigmoid": 1 / (1 + math.exp(-1)),
        "tanh": math.tanh(1),
        "relu": 1.0,
        "leaky_relu": 1.0,
        "elu": 1.0,
        "selu": 1.0507009873554805,
        "gelu": 0.5 * (1 + math.erf(1 / math.sqrt(2))),
        "gelu_tanh": 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * 1.044715)),
        "silu": 1 / (1 + math.exp(-1)),
        "swish": 1 / (1 + math.exp(-1)),
        "softplus": math.log(1 + math.e),
        "hard_sigmoid": 4 / 6,
        "hard_swish": 4 / 6,
        "mish": math.tanh(math.log(1 + math.e)),
    }
    assert sorted(expected) == SCALAR
    for name, value in expected.items():
        assert scalar(name)[0](1.0) == pytest.approx(value, rel=1e-15)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="unknown activation"):
        ref.Dense(3, activation="rellu")
    with pytest.raises(ValueError, match="unknown loss"):
        losses.get("mean")
    with pytest.raises(ValueError, match="unknown optimizer"):
        ref.optimizers.get("adagrad")


# ---------------------------------------------------------------- backpropagation


def test_two_layers_of_backpropagation_worked_by_hand():
    # x = [ 1 2]   weight 0 = [0.5  -1  ]  bias 0 = [0 -0.5]   weight 1 = [2]  bias 1 = [0.5]
    #     [-1 2]              [0.25  0.5]                                 [3]
    model = ref.Sequential([ref.Dense(2, activation="relu"), ref.Dense(1)], input_size=2)
    model.set_parameters(
        {
            "0.weight": [[0.5, -1.0], [0.25, 0.5]],
            "0.bias": [0.0, -0.5],
            "1.weight": [[2.0], [3.0]],
            "1.bias": [0.5],
        }
    )
    x, y = [[1.0, 2.0], [-1.0, 2.0]], [[1.0], [4.0]]

    # Forward. z0 = x @ weight 0 + bias 0:
    #   row 0: [0.5 + 0.5 + 0, -1 + 1 - 0.5] = [1, -0.5]   relu -> [1, 0]
    #   row 1: [-0.5 + 0.5 + 0, 1 + 1 - 0.5] = [0, 1.5]    relu -> [0, 1.5]
    # z1 = a0 @ weight 1 + bias 1:  2 + 0 + 0.5 = 2.5  and  0 + 4.5 + 0.5 = 5
    assert model.predict(x) == [[2.5], [5.0]]

    # Loss: the mean of (2.5 - 1)^2 = 2.25 and (5 - 4)^2 = 1.
    value, gradients = model.value_and_gradient(x, y, loss="mse")
    assert value == 1.625

    # d_z1 = 2 (z1 - y) / (n K) with n K = 2:  [1.5], [1].
    # d_weight 1 = a0^T @ d_z1 = [1 * 1.5 + 0 * 1], [0 * 1.5 + 1.5 * 1];  d_bias 1 = 1.5 + 1.
    assert gradients["1.weight"] == [[1.5], [1.5]]
    assert gradients["1.bias"] == [2.5]

    # d_a0 = d_z1 @ weight 1^T = [3, 4.5], [2, 3]; relu'(z0) = [1, 0], [0, 1] (0 at z = 0),
    # so d_z0 = [3, 0], [0, 3].
    # d_weight 0 = x^T @ d_z0 = [1 * 3 - 1 * 0, 1 * 0 - 1 * 3], [2 * 3 + 2 * 0, 2 * 0 + 2 * 3].
    assert gradients["0.weight"] == [[3.0, -3.0], [6.0, 6.0]]
    assert gradients["0.bias"] == [3.0, 3.0]

    # d_input = d_z0 @ weight 0^T = [3 * 0.5, 3 * 0.25], [3 * -1, 3 * 0.5].
    assert gradients.d_input == [[1.5, 0.75], [-3.0, 1.5]]


def test_the_textbook_example_is_followed_for_a_thousand_steps():
    x, y = numbers(1, 6, 2), [[float(i % 2)] for i in range(6)]
    model = ref.Sequential([ref.Dense(1, activation="sigmoid")], input_size=2, seed=3)
    (w0,), (w1,) = model.parameters()["0.weight"]
    b, rate = 0.0, 0.5
    for _ in range(1000):
        a = [1 / (1 + math.exp(-(p * w0 + q * w1 + b))) for p, q in x]
        delta = [2 * (u - t) / 6 * u * (1 - u) for u, (t,) in zip(a, y, strict=True)]
        w0 -= rate * sum(p * d for (p, _), d in zip(x, delta, strict=True))
        w1 -= rate * sum(q * d for (_, q), d in zip(x, delta, strict=True))
        b -= rate * sum(delta)
    trainer = ref.Trainer(model, loss="mse", optimizer=ref.SGD(learning_rate=rate))
    history = trainer.fit(x, y, epochs=1000, batch_size=6)
    assert flat(list(model.parameters().values())) == pytest.approx([w0, w1, b], rel=1e-12)
    assert history[-1] < history[0]


def check_gradients(model, x, y, **options):
    """Every derivative is (loss(p + h) - loss(p - h)) / 2h, to 1e-6 of its tensor's largest."""

    def loss(x):
        return model.value_and_gradient(x, y, **options)[0]

    def central(values, put, h=1e-5):
        result = []
        for i, value in enumerate(values):
            ends = [put([*values[:i], value + s, *values[i + 1 :]]) for s in (h, -h)]
            result.append((ends[0] - ends[1]) / (2 * h))
        put(values)
        return result

    def with_parameter(name, start):
        def put(values):
            model.set_parameters({name: vectors.reshape(values, start)})
            return loss(x)

        return put

    _, gradients = model.value_and_gradient(x, y, **options)
    parameters = model.parameters()
    trainable = {name for name in parameters if "running" not in name}
    assert set(gradients) == trainable
    pairs = [(gradients.d_input, central(flat(x), lambda v: loss(vectors.reshape(v, x))))]
    for name, gradient in gradients.items():
        start = parameters[name]
        assert vectors.shape(gradient) == vectors.shape(start)
        pairs.append((gradient, central(flat(start), with_parameter(name, start))))
    for gradient, numeric in pairs:
        size = max(1e-3, *(abs(value) for value in numeric))
        for exact, estimate in zip(flat(gradient), numeric, strict=True):
            assert abs(exact - estimate) < 1e-6 * size


# Every loss with targets for four rows of two outputs.
LOSSES = {
    "mse": (losses.MSE(), numbers(21, 4, 2)),
    "mae": (losses.MAE(), numbers(22, 4, 2)),
    "huber": (losses.Huber(delta=0.7), numbers(23, 4, 2)),
    "quantile": (losses.Quantile(q=[0.1, 0.6]), [1.5, -2.0, 0.3, 0.9]),
    "poisson": (losses.Poisson(), [[0.0, 2.0], [1.0, 3.0], [4.0, 0.0], [1.0, 1.0]]),
    "gaussian_nll": (losses.GaussianNLL(), [1.5, -2.0, 0.3, 0.9]),
    "cross_entropy": (losses.CrossEntropy(label_smoothing=0.1), [1, 0, 0, 1]),
    "binary_cross_entropy": (
        losses.BinaryCrossEntropy(pos_weight=[2.0, 0.5]),
        [[0.0, 1.0], [1.0, 0.0], [0.25, 1.0], [1.0, 0.5]],
    ),
}


def test_cross_entropy_has_the_right_gradient_for_any_row_of_targets():
    model = ref.Sequential([ref.Dense(3)], input_size=2)
    target = [[0.2, 0.3, 0.5], [2.0, 0.0, 1.0], [0.1, 0.0, 0.0], [0.0, 0.0, 1.0]]
    check_gradients(model, numbers(33, 4, 2), target, loss="cross_entropy")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_of_every_activation_and_loss_are_finite_differences(activation, loss):
    model = ref.Sequential([ref.Dense(3, activation=activation), ref.Dense(2)], input_size=2)
    model.set_parameters({"0.bias": [0.3, -0.2, 0.1]})
    function, target = LOSSES[loss]
    check_gradients(model, numbers(31, 4, 2), target, loss=function)


STACKS = {
    "layer_norm": [ref.Dense(3), ref.LayerNorm(), ref.Dense(2)],
    "batch_norm": [ref.Dense(3, use_bias=False), ref.BatchNorm(), ref.Dense(2)],
    "batch_norm_first_and_last": [ref.BatchNorm(), ref.Dense(2), ref.BatchNorm(eps=0.1)],
    "dropout": [ref.Dropout(0.3), ref.Dense(5), ref.Dropout(0.5), ref.Dense(2)],
    "activation": [ref.Dense(3), ref.Activation("gelu"), ref.Dense(2)],
    "prelu": [ref.Dense(3), ref.Activation(activations.PReLU(0.4)), ref.Dense(2, "prelu")],
    "softmax": [ref.Dense(3), ref.Softmax(), ref.Dense(2, activation="softmax")],
    "everything": [
        ref.Dense(4, activation="tanh"),
        ref.BatchNorm(),
        ref.Activation("silu"),
        ref.Dropout(0.4),
        ref.LayerNorm(),
        ref.Dense(2, activation="elu"),
    ],
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_gradients_of_every_layer_and_loss_are_finite_differences(stack, loss, training):
    model = ref.Sequential(STACKS[stack], input_size=2, seed=1)
    generator = random.Stream(2, 9)
    for name, value in model.parameters().items():
        if "bias" in name or "running" in name:
            noise = [0.5 + generator.uniform(i) for i, _ in enumerate(flat(value))]
            model.set_parameters({name: noise})
    function, target = LOSSES[loss]
    weights = [1.0, 0.5, 0.0, 2.5]
    x = numbers(32, 4, 2)
    check_gradients(
        model, x, target, loss=function, training=training, sample_weight=weights, step=3
    )


# ---------------------------------------------------------------- losses


def test_losses_worked_by_hand():
    def value_and_gradient(loss, output, target):
        value, d_output = loss.value_and_gradient(output, target)
        return [value, *flat(d_output)]

    # d = z - y = 1 and -3: the mean of 1 and 9; 2 d / 2.
    assert value_and_gradient(losses.MSE(), [[2.0, 0.0]], [[1.0, 3.0]]) == [5.0, 1.0, -3.0]
    assert value_and_gradient(losses.MAE(), [[2.0, 0.0]], [[1.0, 3.0]]) == [2.0, 0.5, -0.5]
    # delta = 2: |1| is inside, 1/2; |-3| outside, 2 (3 - 1) = 4.
    huber = losses.Huber(delta=2.0)
    assert value_and_gradient(huber, [[2.0, 0.0]], [[1.0, 3.0]]) == [2.25, 0.5, -1.0]
    # One target, quantiles 0.25 and 0.75: d = y - z = 2 gives 0.5, d = -4 gives 1.
    quantile = losses.Quantile(q=[0.25, 0.75])
    assert value_and_gradient(quantile, [[1.0, 7.0]], [3.0]) == [0.75, -0.125, 0.125]
    # e^0 - 3 * 0 = 1; e^0 - 3 = -2.
    assert value_and_gradient(losses.Poisson(), [[0.0]], [3.0]) == [1.0, -2.0]
    # m = 1, s = 0, y = 3: (0 + 4) / 2; by m: -2; by s: (1 - 4) / 2.
    assert value_and_gradient(losses.GaussianNLL(), [[1.0, 0.0]], [3.0]) == [2.0, -2.0, -1.5]
    # Two equal logits: ln 2; p - y.
    assert value_and_gradient(losses.CrossEntropy(), [[0.0, 0.0]], [1]) == pytest.approx(
        [math.log(2), 0.5, -0.5]
    )
    # z = 0: (1 - y) ln 2 + 3 y ln 2 at y = 1; -3 sigmoid(0).
    binary = losses.BinaryCrossEntropy(pos_weight=3.0)
    assert value_and_gradient(binary, [[0.0]], [1.0]) == pytest.approx([3 * math.log(2), -1.5])


def test_smoothed_labels_are_the_probabilities_that_they_mean():
    output = numbers(41, 2, 4)
    by_label = losses.CrossEntropy(label_smoothing=0.2).value_and_gradient(output, [2, 0])
    smooth = [[0.05, 0.05, 0.85, 0.05], [0.85, 0.05, 0.05, 0.05]]
    by_probability = losses.CrossEntropy().value_and_gradient(output, smooth)
    assert by_label[0] == pytest.approx(by_probability[0], rel=1e-15)
    assert flat(by_label[1]) == pytest.approx(flat(by_probability[1]), rel=1e-14)
    # (1 - eps) nll + eps / K sum of -ln p
    logs = [activations.log_softmax(row) for row in output]
    formula = [-0.8 * row[label] - 0.05 * sum(row) for row, label in zip(logs, [2, 0], strict=True)]
    assert by_label[0] == pytest.approx(statistics.fmean(formula), rel=1e-14)
    hot = [[0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
    smoothed_again = losses.CrossEntropy(label_smoothing=0.2).value_and_gradient(output, hot)
    assert smoothed_again == by_label


def test_binary_cross_entropy_is_the_formula_with_logits():
    for z, y, p in itertools.product((-3.0, -0.2, 0.0, 1.7), (0.0, 0.3, 1.0), (0.5, 1.0, 4.0)):
        log_sigmoid = min(z, 0.0) - math.log1p(math.exp(-abs(z)))
        value, _ = losses.BinaryCrossEntropy(pos_weight=p).value_and_gradient([[z]], [y])
        assert value == pytest.approx((1 - y) * z - (1 + (p - 1) * y) * log_sigmoid, rel=1e-13)


def test_classification_losses_survive_extreme_logits():
    value, d_output = losses.CrossEntropy().value_and_gradient([[1e4, -1e4]], [1])
    assert (value, d_output) == (2e4, [[1.0, -1.0]])
    for z, y, expected in ((1e4, 1.0, 0.0), (1e4, 0.0, 1e4), (-1e4, 1.0, 1e4), (-1e4, 0.0, 0.0)):
        value, d_output = losses.BinaryCrossEntropy().value_and_gradient([[z]], [y])
        assert value == expected
        assert math.isfinite(d_output[0][0])
    assert losses.Poisson().value_and_gradient([[1e4]], [1.0])[0] == math.inf


def test_losses_have_gradient_zero_where_they_are_met():
    for loss in (losses.MAE(), losses.Quantile(0.3), losses.Huber(), losses.MSE()):
        assert loss.value_and_gradient([[2.0]], [2.0]) == (0.0, [[0.0]])
    assert losses.Huber().value_and_gradient([[3.0]], [2.0]) == (0.5, [[1.0]])


@pytest.mark.parametrize("loss", LOSSES)
def test_nan_goes_through_every_loss(loss):
    function, target = LOSSES[loss]
    value, d_output = function.value_and_gradient([[NAN, NAN], [0, 0], [0, 0], [0, 0]], target)
    assert math.isnan(value)
    assert all(math.isnan(d) for d in d_output[0])
    assert all(math.isfinite(d) for d in flat(d_output[1:]))


@pytest.mark.parametrize("label", [-1, 2, 100])
def test_a_label_out_of_range_is_refused_even_at_weight_zero(label):
    for weights in (None, [1.0, 0.0]):
        with pytest.raises(ValueError, match="label"):
            losses.CrossEntropy().value_and_gradient([[0.0, 0.0]] * 2, [0, label], weights)


def test_labels_may_come_as_rows_of_one():
    output = numbers(42, 3, 4)
    loss = losses.CrossEntropy()
    assert loss.value_and_gradient(output, [[3], [0], [1]]) == loss.value_and_gradient(
        output, [3, 0, 1]
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: losses.Huber(delta=0.0),
        lambda: losses.Quantile(1.0),
        lambda: losses.Quantile([]),
        lambda: losses.CrossEntropy(label_smoothing=1.1),
        lambda: losses.BinaryCrossEntropy(pos_weight=-1.0),
        lambda: losses.Quantile([0.1, 0.9]).value_and_gradient([[0.0] * 3], [1.0]),
        lambda: losses.GaussianNLL().value_and_gradient([[0.0] * 3], [1.0]),
        lambda: losses.BinaryCrossEntropy(pos_weight=[1.0, 2.0]).value_and_gradient([[0.0]], [1.0]),
        lambda: losses.MSE().value_and_gradient([[0.0, 1.0]], [[1.0]]),
        lambda: losses.MSE().value_and_gradient([[0.0]], [1.0, 2.0]),
        lambda: losses.MSE().value_and_gradient([], []),
        lambda: losses.CrossEntropy().value_and_gradient([[0.0, 1.0]], [0.5]),
    ],
)
def test_a_loss_refuses_what_it_cannot_mean(make):
    with pytest.raises(ValueError, match=r"must|need|target|pos_weight"):
        make()


@pytest.mark.parametrize(
    "weights", [[1.0, -1.0], [1.0, NAN], [math.inf, 1.0], [0.0, 0.0], [1.0], [1.0, 1.0, 1.0]]
)
def test_unusable_sample_weights_are_refused(weights):
    with pytest.raises(ValueError, match="sample_weight"):
        losses.MSE().value_and_gradient([[1.0], [2.0]], [1.0, 2.0], weights)


# ---------------------------------------------------------------- sample weights


def mixed_model():
    layers = [ref.Dense(4, activation="tanh"), ref.BatchNorm(), ref.LayerNorm(), ref.Dense(2)]
    return ref.Sequential(layers, input_size=2, seed=1)


@pytest.mark.parametrize("loss", LOSSES)
def test_weight_k_is_the_row_k_times_and_weight_zero_is_no_row(loss):
    function, target = LOSSES[loss]
    x, weights = numbers(51, 4, 2), [2.0, 0.0, 1.0, 3.0]
    repeated = [0, 0, 2, 3, 3, 3]
    model = mixed_model()
    options = {"loss": function, "training": True}
    weighted = model.value_and_gradient(x, target, sample_weight=weights, **options)
    plain = model.value_and_gradient(
        [x[i] for i in repeated], [target[i] for i in repeated], **options
    )
    assert weighted[0] == pytest.approx(plain[0], rel=1e-13)
    for name, gradient in weighted[1].items():
        assert flat(gradient) == pytest.approx(flat(plain[1][name]), rel=1e-10, abs=1e-14)
    for i, row in enumerate(weighted[1].d_input):
        copies = [plain[1].d_input[r] for r, source in enumerate(repeated) if source == i]
        total = [sum(column) for column in zip(*copies, strict=True)] or [0.0, 0.0]
        assert row == pytest.approx(total, rel=1e-10, abs=1e-14)


def test_a_full_batch_training_cannot_tell_weights_from_copies():
    x, y, repeated = numbers(52, 4, 2), numbers(53, 4, 2), [0, 0, 2, 3, 3, 3]
    weighted, plain = mixed_model(), mixed_model()
    ref.Trainer(weighted, loss="mse", optimizer="adam").fit(
        x, y, epochs=5, sample_weight=[2, 0, 1, 3]
    )
    ref.Trainer(plain, loss="mse", optimizer="adam").fit(
        [x[i] for i in repeated], [y[i] for i in repeated], epochs=5
    )
    for name, value in weighted.parameters().items():
        assert flat(value) == pytest.approx(flat(plain.parameters()[name]), rel=1e-9, abs=1e-12)


def test_all_weights_equal_is_no_weights():
    x, y = numbers(54, 3, 2), numbers(55, 3, 2)
    model = mixed_model()
    plain = model.value_and_gradient(x, y, loss="mse", training=True)
    same = model.value_and_gradient(x, y, loss="mse", training=True, sample_weight=[4.0] * 3)
    assert plain[0] == pytest.approx(same[0], rel=1e-14)
    assert flat(plain[1]["0.weight"]) == pytest.approx(flat(same[1]["0.weight"]), rel=1e-10)


# ---------------------------------------------------------------- norms and dropout


def test_layer_norm_worked_by_hand():
    model = ref.Sequential([ref.LayerNorm(eps=1.0)], input_size=2)
    model.set_parameters({"0.weight": [2.0, 1.0], "0.bias": [0.0, 5.0]})
    # mean 3, variance ((-s)^2 + s^2) / 2 = 3 with s = sqrt 3, deviation sqrt(3 + 1) = 2.
    s = math.sqrt(3)
    assert model.predict([[3 - s, 3 + s]])[0] == pytest.approx([-s, 5 + s / 2])


def test_batch_norm_worked_by_hand():
    model = ref.Sequential([ref.BatchNorm(momentum=0.5, eps=1.0)], input_size=1)
    # Weighted: W = 4, mean (1 + 3 * 5) / 4 = 4, variance (9 + 3) / 4 = 3, deviation 2.
    x, weights = [[1.0], [5.0], [100.0]], [1.0, 3.0, 0.0]
    outputs = []
    trainer = ref.Trainer(model, loss=Recording(outputs), optimizer=ref.SGD(learning_rate=0.0))
    trainer.fit(x, [0.0] * 3, shuffle=False, sample_weight=weights)
    assert outputs[0][0] == [-1.5]
    assert outputs[0][1] == [0.5]
    # running = half of the old (0, 1) and half of the batch's; variance 3 * 4 / (4 - 1) = 4.
    assert model.parameters()["0.running_mean"] == [2.0]
    assert model.parameters()["0.running_var"] == [2.5]
    # Evaluation: (5 - 2) / sqrt(2.5 + 1).
    assert model.predict([[5.0]])[0] == pytest.approx([3 / math.sqrt(3.5)])


class Recording:
    """A loss of one's own: the sum of the outputs of the rows that count."""

    def __init__(self, outputs):
        self.outputs = outputs

    def value_and_gradient(self, output, target, sample_weight=None):
        self.outputs += [output]
        assert len(output) == len(target) == len(sample_weight)
        counts = [1.0 if weight > 0 else 0.0 for weight in sample_weight]
        value = sum(c * z for c, row in zip(counts, output, strict=True) for z in row)
        return value, [[c] * len(output[0]) for c in counts]


def test_a_batch_of_less_than_two_rows_leaves_the_running_statistics_alone():
    for x, weights in (([[3.0]], None), ([[3.0], [4.0]], [2.0, 0.0])):
        model = ref.Sequential([ref.BatchNorm()], input_size=1)
        trainer = ref.Trainer(model, loss="mse", optimizer="sgd")
        trainer.fit(x, [0.0] * len(x), sample_weight=weights)
        assert model.parameters()["0.running_mean"] == [0.0]
        assert model.parameters()["0.running_var"] == [1.0]


def test_small_weights_take_the_biased_variance():
    # W = 0.5 is not above 1, so the variance stays as it is: ((-1)^2 + 1^2) / 2 = 1.
    model = ref.Sequential([ref.BatchNorm(momentum=1.0)], input_size=1)
    trainer = ref.Trainer(model, loss="mse", optimizer="sgd")
    trainer.fit([[1.0], [3.0]], [0.0, 0.0], sample_weight=[0.25, 0.25])
    assert model.parameters()["0.running_mean"] == [2.0]
    assert model.parameters()["0.running_var"] == [1.0]


def test_value_and_gradient_leaves_the_model_as_it_was():
    model = mixed_model()
    before = model.parameters()
    model.value_and_gradient(numbers(61, 3, 2), numbers(62, 3, 2), loss="mse", training=True)
    assert model.parameters() == before


def test_dropout_keeps_the_mean_and_is_the_identity_in_evaluation():
    model = ref.Sequential([ref.Dropout(0.3)], input_size=50, seed=2)
    x = [[1.0] * 50] * 40
    assert model.predict(x) == x
    loss = Recording([])
    _, gradients = model.value_and_gradient(
        x, [0.0] * 40, loss=loss, training=True, sample_weight=[1.0] * 40
    )
    (output,) = loss.outputs
    values = flat(output)
    assert set(values) == {0.0, 1 / 0.7}
    # 2,000 units: 0.3 with standard deviation 0.0102.
    assert values.count(0.0) / 2000 == pytest.approx(0.3, abs=0.05)
    assert statistics.fmean(values) == pytest.approx(1.0, abs=0.075)
    assert gradients.d_input == output


def test_a_dropped_unit_is_found_by_epoch_layer_position_and_unit():
    seed, step, width, rate = 2**40 + 7, 5, 6, 0.4
    model = ref.Sequential([ref.Activation(None), ref.Dropout(rate)], input_size=width, seed=seed)
    x = [[1.0] * width] * 3
    loss = Recording([])
    model.value_and_gradient(
        x, [0.0] * 3, loss=loss, training=True, step=step, sample_weight=[1.0] * 3
    )
    for q, u in itertools.product(range(3), range(width)):
        block = q * 2 + u // 4
        words = random.philox4x32((block, 0, step, 4 << 16 | 1), (7, 2**8))
        kept = words[u % 4] >= math.floor(rate * 2**32)
        assert (loss.outputs[0][q][u] != 0.0) == kept


def test_dropout_does_not_depend_on_the_size_of_the_batches():
    x, y = numbers(63, 7, 3), numbers(64, 7, 1)
    epoch_losses = []
    for batch_size in (1, 2, 3, 7, 100):
        model = ref.Sequential([ref.Dense(8), ref.Dropout(0.5), ref.Dense(1)], input_size=3)
        trainer = ref.Trainer(model, loss="mse", optimizer=ref.SGD(learning_rate=0.0), seed=9)
        epoch_losses.append(trainer.fit(x, y, epochs=2, batch_size=batch_size))
    for losses_of_run in epoch_losses:
        assert losses_of_run == pytest.approx(epoch_losses[0], rel=1e-13)
    assert epoch_losses[0][0] != epoch_losses[0][1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: ref.Dense(0),
        lambda: ref.Dropout(1.0),
        lambda: ref.Dropout(-0.1),
        lambda: ref.LayerNorm(eps=0.0),
        lambda: ref.BatchNorm(momentum=1.5),
        lambda: ref.Sequential([], input_size=1),
        lambda: ref.Sequential([ref.Dense(1)], input_size=0),
    ],
)
def test_an_impossible_layer_or_network_is_refused(make):
    with pytest.raises(ValueError, match="must"):
        make()


# ---------------------------------------------------------------- networks


def test_parameters_are_named_by_layer_and_shaped_as_promised():
    layers = [
        ref.Dense(4, activation="prelu"),
        ref.BatchNorm(),
        ref.Dropout(0.1),
        ref.LayerNorm(),
        ref.Activation(activations.PReLU(0.5)),
        ref.Dense(3, use_bias=False),
    ]
    model = ref.Sequential(layers, input_size=2)
    assert {name: vectors.shape(value) for name, value in model.parameters().items()} == {
        "0.weight": (2, 4),
        "0.bias": (4,),
        "0.slope": (),
        "1.weight": (4,),
        "1.bias": (4,),
        "1.running_mean": (4,),
        "1.running_var": (4,),
        "3.weight": (4,),
        "3.bias": (4,),
        "4.slope": (),
        "5.weight": (4, 3),
    }
    assert model.parameters()["0.slope"] == 0.25
    assert model.parameters()["4.slope"] == 0.5


def test_parameters_are_copies_in_both_directions():
    model = ref.Sequential([ref.Dense(1)], input_size=1)
    given = {"0.weight": [[2.0]], "0.bias": [1.0]}
    model.set_parameters(given)
    given["0.weight"][0][0] = 7.0
    taken = model.parameters()
    taken["0.bias"][0] = 7.0
    assert model.predict([[3.0]]) == [[7.0]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"0.wieght": [[1.0]]},
        {"1.weight": [[1.0]]},
        {"0.bias": [1.0], "0.weight": [[1.0, 2.0]]},
        {"0.bias": [1.0], "0.weight": [1.0]},
        {"0.bias": [[1.0]]},
        {"0.bias": 1.0},
        {"0.weight": [[1.0], 2.0]},
    ],
)
def test_unknown_names_and_wrong_shapes_are_refused_and_change_nothing(wrong):
    model = ref.Sequential([ref.Dense(1)], input_size=1)
    before = model.parameters()
    with pytest.raises(ValueError, match=r"parameter|shape|rows"):
        model.set_parameters(wrong)
    assert model.parameters() == before


def test_rows_of_the_wrong_width_are_refused():
    model = ref.Sequential([ref.Dense(1)], input_size=2)
    for x in ([[1.0]], [[1.0, 2.0], [1.0, 2.0, 3.0]], [1.0, 2.0]):
        with pytest.raises(ValueError, match="X: row"):
            model.predict(x)
    assert model.predict([]) == []


# ---------------------------------------------------------------- optimisers


def steps(optimizer, gradients, start=1.0):
    """The parameter, from `start` on, after each step along these gradients."""
    model = ref.Sequential([ref.Dense(1, use_bias=False)], input_size=1)
    model.set_parameters({"0.weight": [[start]]})
    path = []
    for gradient in gradients:
        optimizer.step(model, {"0.weight": [[gradient]]})
        path.append(model.parameters()["0.weight"][0][0])
    return path


# theta = 1, g = 0.5 twice.
SGD_STEPS = {
    "sgd": ({"learning_rate": 0.1}, [0.95, 0.9]),
    # b = 0.5, 0.9 * 0.5 + 0.5 = 0.95.
    "momentum": ({"learning_rate": 0.1, "momentum": 0.9}, [0.95, 0.855]),
    # b = 0.5, 0.9 * 0.5 + 0.5 * 0.5 = 0.7.
    "dampening": ({"learning_rate": 0.1, "momentum": 0.9, "dampening": 0.5}, [0.95, 0.88]),
    # Without momentum there is nothing to dampen.
    "dampening_alone": ({"learning_rate": 0.1, "dampening": 0.5}, [0.95, 0.9]),
    # b = 0.5, 0.95; g + 0.9 b = 0.95, 1.355.
    "nesterov": ({"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}, [0.905, 0.7695]),
    # g = 0.6, b = 0.6; then g = 0.5 + 0.094 = 0.594, b = 0.54 + 0.594 = 1.134.
    "decay": ({"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.1}, [0.94, 0.8266]),
    # v = -0.05, 0.9 * -0.05 - 0.05 = -0.095.
    "keras": ({"learning_rate": 0.1, "momentum": 0.9, "dialect": "keras"}, [0.95, 0.855]),
    # The same v; 0.9 v - 0.05 = -0.095, -0.1355.
    "keras_nesterov": (
        {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "dialect": "keras"},
        [0.905, 0.7695],
    ),
    "keras_nesterov_without_momentum": (
        {"learning_rate": 0.1, "nesterov": True, "dialect": "keras"},
        [0.95, 0.9],
    ),
    # theta = 0.99, v = -0.05; then theta = 0.94 - 0.0094 = 0.9306, v = -0.095.
    "keras_decay": (
        {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.1, "dialect": "keras"},
        [0.94, 0.8356],
    ),
    # The defaults are rate 0.01 and nothing else: 1 - 0.005.
    "torch_defaults": ({}, [0.995, 0.99]),
    "keras_defaults": ({"dialect": "keras"}, [0.995, 0.99]),
    # Rate 0.001, momentum 0.9, Nesterov: v = -0.0005, -0.00095; 0.9 v - 0.0005.
    "sklearn_defaults": ({"dialect": "sklearn"}, [0.99905, 0.997695]),
    # The gradient is clamped to 0.2 before the decay adds 1 * theta: 1 - 0.12; 0.88 - 0.108.
    "clip_then_decay": (
        {"learning_rate": 0.1, "clip_value": 0.2, "weight_decay": 1.0},
        [0.88, 0.772],
    ),
}


@pytest.mark.parametrize("case", SGD_STEPS)
def test_sgd_steps_worked_by_hand(case):
    options, expected = SGD_STEPS[case]
    assert steps(ref.SGD(**options), [0.5, 0.5]) == pytest.approx(expected, rel=1e-14)


def test_adam_steps_worked_by_hand():
    # g = 2: m = 0.1 * 2 = 0.2, v = 0.01 * 2 * 2 = 0.04.
    # g = -1: m = 0.2 + 0.1 * (-1 - 0.2) = 0.08, v = 0.99 * 0.04 + 0.01 = 0.0496.
    # 1 - beta1^t = 0.1, 0.19;  sqrt(1 - beta2^t) = 0.1, sqrt(0.0199).
    options = {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.99}
    first = 0.2 / (2 + 1e-8)  # rate 0.1 / 0.1, sqrt(v) / 0.1 = 2
    second = 0.1 / 0.19 * 0.08 / (math.sqrt(0.0496) / math.sqrt(0.0199) + 1e-8)
    expected = [1 - first, 1 - first - second]
    assert steps(ref.Adam(**options), [2.0, -1.0]) == pytest.approx(expected, rel=1e-14)

    for dialect, eps in (("keras", 1e-7), ("sklearn", 1e-8)):
        first = 0.1 * 0.2 / (0.2 + eps)  # rate 0.1 * 0.1 / 0.1, sqrt(v) = 0.2
        second = 0.1 * math.sqrt(0.0199) / 0.19 * 0.08 / (math.sqrt(0.0496) + eps)
        expected = [1 - first, 1 - first - second]
        path = steps(ref.Adam(**options, dialect=dialect), [2.0, -1.0])
        assert path == pytest.approx(expected, rel=1e-14)


def test_amsgrad_takes_the_largest_raw_v():
    # g = 2, 0: m = 0.2, 0.18; v = 0.04, 0.0396, of which the larger one, 0.04, stays.
    options = {"learning_rate": 0.1, "beta2": 0.99, "amsgrad": True}
    first = 0.2 / (2 + 1e-8)
    second = 0.1 / 0.19 * 0.18 / (0.2 / math.sqrt(0.0199) + 1e-8)
    expected = [1 - first, 1 - first - second]
    assert steps(ref.Adam(**options), [2.0, 0.0]) == pytest.approx(expected, rel=1e-14)
    second = 0.1 * math.sqrt(0.0199) / 0.19 * 0.18 / (0.2 + 1e-7)
    expected = 1 - 0.1 * 0.2 / (0.2 + 1e-7) - second
    path = steps(ref.Adam(**options, dialect="keras"), [2.0, 0.0])
    assert path[1] == pytest.approx(expected, rel=1e-14)


def test_weight_decay_of_adam_and_adamw():
    step = 0.1 * 2 / 2  # the first step of Adam is rate * sign(g), but for eps
    options = {"learning_rate": 0.1, "eps": 1e-30}
    # AdamW, torch: 1 * (1 - 0.1 * 0.01); keras: 1 - 0.1 * 0.004; Adam, keras: the same form.
    assert steps(ref.AdamW(**options), [2.0]) == pytest.approx([0.999 - step])
    assert steps(ref.AdamW(**options, dialect="keras"), [2.0]) == pytest.approx([0.9996 - step])
    keras = ref.Adam(**options, weight_decay=0.01, dialect="keras")
    assert steps(keras, [2.0]) == pytest.approx([0.999 - step])
    # Adam, torch: the decay joins the gradient, 2 - 3 * 1 = -1, and turns the step around.
    assert steps(ref.Adam(**options, weight_decay=3.0), [-2.0]) == pytest.approx([1 - step])


def test_clipping_by_norm_takes_all_gradients_together():
    model = ref.Sequential([ref.Dense(1)], input_size=1)
    model.set_parameters({"0.weight": [[0.0]], "0.bias": [0.0]})
    optimizer = ref.SGD(learning_rate=1.0, clip_norm=1.0)
    optimizer.step(model, {"0.weight": [[3.0]], "0.bias": [-4.0]})  # norm 5
    assert model.parameters()["0.weight"][0][0] == pytest.approx(-3 / (5 + 1e-6), rel=1e-15)
    assert model.parameters()["0.bias"][0] == pytest.approx(4 / (5 + 1e-6), rel=1e-15)
    before = model.parameters()
    with pytest.raises(ref.DivergedError, match="norm"):
        optimizer.step(model, {"0.weight": [[NAN]], "0.bias": [0.0]})
    assert model.parameters() == before
    assert steps(ref.SGD(learning_rate=1.0, clip_norm=9.0), [0.5]) == [0.5]


def test_a_gradient_that_does_not_fit_changes_nothing():
    model = ref.Sequential([ref.Dense(2)], input_size=1)
    before, optimizer = model.parameters(), ref.Adam()
    for wrong in (
        {"0.bias": [1.0, 2.0], "0.weight": [[1.0]]},
        {"0.bias": [[1.0, 2.0]]},
        {"b": 1.0},
    ):
        with pytest.raises(ValueError, match="gradient"):
            optimizer.step(model, wrong)
    assert model.parameters() == before
    assert (optimizer.steps, optimizer.moments) == (0, {})


@pytest.mark.parametrize(
    "make",
    [
        lambda: ref.SGD(nesterov=True),
        lambda: ref.SGD(nesterov=True, momentum=0.9, dampening=0.1),
        lambda: ref.SGD(dampening=0.1, dialect="keras"),
        lambda: ref.SGD(dampening=0.1, dialect="sklearn"),
        lambda: ref.SGD(weight_decay=0.1, dialect="sklearn"),
        lambda: ref.SGD(clip_norm=1.0, clip_value=1.0),
        lambda: ref.SGD(learning_rate=-1.0),
        lambda: ref.SGD(dialect="jax"),
        lambda: ref.Adam(dialect="jax"),
        lambda: ref.Adam(beta1=1.0),
        lambda: ref.Adam(eps=0.0),
        lambda: ref.Adam(amsgrad=True, dialect="sklearn"),
        lambda: ref.Adam(weight_decay=0.1, dialect="sklearn"),
        lambda: ref.AdamW(dialect="sklearn"),
    ],
)
def test_options_that_a_dialect_lacks_are_refused(make):
    with pytest.raises(ValueError, match="optimizer needs"):
        make()


def test_powers_come_from_repeated_squaring():
    assert vectors.power(0.9, 0) == 1.0
    assert vectors.power(3.0, 13) == 3.0**13
    assert vectors.power(0.999, 5) == (0.999 * ((0.999 * 0.999) * (0.999 * 0.999)))


# ---------------------------------------------------------------- training


def small_model():
    return ref.Sequential([ref.Dense(3, activation="tanh"), ref.Dense(1)], input_size=2, seed=5)


def test_a_second_fit_goes_on_where_the_first_ended():
    x, y = numbers(71, 7, 2), numbers(72, 7, 1)
    once, twice = small_model(), small_model()
    trainer = ref.Trainer(once, loss="mse", optimizer="adam", seed=4)
    history = trainer.fit(x, y, epochs=3, batch_size=3)
    assert (trainer.epoch, trainer.step) == (3, 9)
    other = ref.Trainer(twice, loss="mse", optimizer="adam", seed=4)
    first = other.fit(x, y, epochs=1, batch_size=3)
    assert first + other.fit(x, y, epochs=2, batch_size=3) == history
    assert once.parameters() == twice.parameters()


def test_an_epoch_takes_consecutive_batches_of_its_order():
    x, y = [[float(i), 0.0] for i in range(5)], [0.0] * 5
    seen = []

    class Watching(ref.Sequential):
        def differentiate(self, X, *rest):
            seen.append([int(row[0]) for row in X])
            return super().differentiate(X, *rest)

    model = Watching([ref.Dense(1)], input_size=2)
    ref.Trainer(model, loss="mse", optimizer="sgd", seed=8).fit(x, y, epochs=2, batch_size=2)
    orders = [random.permutation(5, seed=8, epoch=epoch) for epoch in (0, 1)]
    assert seen == [order[i : i + 2] for order in orders for i in (0, 2, 4)]
    seen.clear()
    ref.Trainer(model, loss="mse", optimizer="sgd").fit(x, y, batch_size=3, shuffle=False)
    assert seen == [[0, 1, 2], [3, 4]]


def test_the_epoch_loss_weighs_batches_by_their_rows():
    x, y = numbers(73, 5, 2), numbers(74, 5, 1)
    model, calls = small_model(), []
    trainer = ref.Trainer(model, loss="mse", optimizer=ref.SGD(learning_rate=0.0))
    (loss,) = trainer.fit(
        x, y, batch_size=2, on_step=lambda step, value, of: calls.append((step, value, of is model))
    )
    assert loss == pytest.approx(model.value_and_gradient(x, y, loss="mse")[0], rel=1e-14)
    assert [(step, same) for step, _, same in calls] == [(1, True), (2, True), (3, True)]
    assert loss == pytest.approx((2 * calls[0][1] + 2 * calls[1][1] + calls[2][1]) / 5)


def test_a_batch_without_weight_is_no_step():
    x, y = numbers(75, 6, 2), numbers(76, 6, 1)
    with_gap, without = small_model(), small_model()
    trainer = ref.Trainer(with_gap, loss="mse", optimizer="adam")
    history = trainer.fit(x, y, batch_size=2, shuffle=False, sample_weight=[1, 1, 0, 0, 1, 1])
    assert trainer.step == 2
    other = ref.Trainer(without, loss="mse", optimizer="adam")
    assert other.fit(x[:2] + x[4:], y[:2] + y[4:], batch_size=2, shuffle=False) == history
    assert with_gap.parameters() == without.parameters()


def test_full_batch_training_is_the_gradient_step_of_value_and_gradient():
    x, y = numbers(77, 4, 2), numbers(78, 4, 1)
    trained, stepped = small_model(), small_model()
    ref.Trainer(trained, loss="huber", optimizer="adamw").fit(x, y, epochs=3, shuffle=False)
    optimizer = ref.AdamW()
    for _ in range(3):
        _, gradients = stepped.value_and_gradient(x, y, loss="huber")
        optimizer.step(stepped, gradients)
    assert trained.parameters() == stepped.parameters()


def test_training_learns_to_tell_classes_apart():
    x = numbers(79, 40, 2)
    y = [int(a * b > 0) for a, b in x]
    layers = [ref.Dense(8, activation="relu"), ref.Dense(2)]
    model = ref.Sequential(layers, input_size=2, seed=1)
    trainer = ref.Trainer(model, loss="cross_entropy", optimizer=ref.Adam(learning_rate=0.05))
    history = trainer.fit(x, y, epochs=60, batch_size=10)
    assert history[-1] < 0.2 * history[0]
    predicted = [int(row[1] > row[0]) for row in model.predict(x)]
    assert sum(p == t for p, t in zip(predicted, y, strict=True)) >= 38


def test_divergence_restores_the_last_good_epoch():
    model = ref.Sequential([ref.Dense(1)], input_size=1, seed=1)
    trainer = ref.Trainer(model, loss="mse", optimizer=ref.SGD(learning_rate=1e60))
    ends = []

    def note_end(step, loss, model):
        if step % 2 == 0:
            ends.append(model.parameters())

    with pytest.raises(ref.DivergedError, match="epoch"):
        trainer.fit([[1.0], [2.0]], [1.0, 3.0], epochs=50, batch_size=1, on_step=note_end)
    assert 0 < trainer.epoch < 50
    assert model.parameters() == ends[trainer.epoch - 1]
    assert all(math.isfinite(value) for value in flat(list(model.parameters().values())))


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        ([[1.0, 2.0], [NAN, 1.0]], [0, 1], {}, "X must be finite, but row 1"),
        ([[1.0, 2.0], [1.0]], [0, 1], {}, "X: row 1"),
        ([[1.0, 2.0]], [0, 1], {}, "rows"),
        ([[1.0, 2.0]], [2], {}, "label 2"),
        ([[1.0, 2.0]], [[math.inf, 0.0]], {}, "y must be finite, but row 0"),
        ([[1.0, 2.0]], [0], {"epochs": 0}, "epochs"),
        ([[1.0, 2.0]], [0], {"batch_size": 0}, "batch_size"),
        ([[1.0, 2.0]], [0], {"sample_weight": [-1.0]}, "sample_weight"),
        ([], [], {}, "."),
    ],
)
def test_a_refused_fit_leaves_everything_as_it_was(x, y, options, message):
    model = ref.Sequential([ref.Dense(2)], input_size=2)
    before = model.parameters()
    trainer = ref.Trainer(model, loss="cross_entropy", optimizer="sgd")
    with pytest.raises(ValueError, match=message):
        trainer.fit(x, y, **options)
    assert model.parameters() == before
    assert (trainer.epoch, trainer.step) == (0, 0)
