"""`rv.crosscheck(against=...)`: torch, Keras, scikit-learn and recorded traces.

Every seeded mistake is found in the step and at the layer where it is made, and named; correct
twins are never accused. torch's and Keras's trainings are recorded (tests/data/make_traces.py), and
run live where the libraries are installed.
"""

import dataclasses
import os
import sys
import warnings
import zipfile
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from sklearn.neural_network import MLPClassifier, MLPRegressor

import foreign
import ranvier as rv
from mistakes import (
    KERAS,
    KERAS_TWINS,
    ROWS,
    STEPS,
    TORCH,
    TORCH_TWINS,
    Case,
    assert_found,
    check,
    data,
    model,
    write_trace,
)

# Drawn twins of each framework.
EXAMPLES = int(os.environ.get("RANVIER_TWINS", "40"))

DATA = Path(__file__).parent / "data"
sys.path.insert(0, str(DATA))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The folder of the recorded traces."""
    folder = tmp_path_factory.mktemp("traces")
    with zipfile.ZipFile(DATA / "traces.zip") as archive:
        archive.extractall(folder)
    return folder


# ---------------------------------------------------------------- recorded mistakes


@pytest.mark.parametrize("name", TORCH)
def test_mistakes_in_torch_are_found(name, recorded):
    assert_found(TORCH[name], check(TORCH[name], recorded / f"torch-{name}.safetensors"))


@pytest.mark.parametrize("name", KERAS)
def test_mistakes_in_keras_are_found(name, recorded):
    assert_found(KERAS[name], check(KERAS[name], recorded / f"keras-{name}.safetensors"))


@pytest.mark.parametrize("name", TORCH_TWINS)
def test_correct_twins_in_torch_are_not_accused(name, recorded):
    assert_found(
        TORCH_TWINS[name], check(TORCH_TWINS[name], recorded / f"torch-twin-{name}.safetensors")
    )


@pytest.mark.parametrize("name", KERAS_TWINS)
def test_correct_twins_in_keras_are_not_accused(name, recorded):
    assert_found(
        KERAS_TWINS[name], check(KERAS_TWINS[name], recorded / f"keras-twin-{name}.safetensors")
    )


def test_a_loss_of_log_probabilities_that_gets_raw_outputs_is_found(tmp_path):
    """torch.nn.NLLLoss where nn.CrossEntropyLoss was meant."""
    case = Case(1, "loss", "loss", "takes logarithms of probabilities", {"loss": "cross_entropy"})
    X, y = data(case)
    twin, tensors = model(case.stack), {}
    for step in range(STEPS + 1):
        # The parameters, which stay, are not what is asked for.
        tensors |= {f"{step}.parameter.{name}": a for name, a in twin.parameters().items()}
        if step:
            rows = slice(ROWS * (step - 1), ROWS * step)
            z = twin.predict(X[rows])
            loss = -z[np.arange(ROWS), y[rows]].mean()
            tensors |= {f"{step}.output": z, f"{step}.loss": np.array([loss])}
    write_trace(tmp_path / "t.safetensors", tensors, "ranvier")
    assert_found(case, check(case, tmp_path / "t.safetensors"))


# ---------------------------------------------------------------- drawn twins

RATES = st.sampled_from([1e-4, 1e-3, 1e-2, 0.1])
EPSILONS = st.sampled_from([None, 1e-10, 1e-8, 1e-4])


@st.composite
def rules(draw, dialect):
    """Any optimizer with any options that the other framework has too."""
    kinds = [rv.SGD, rv.Adam] if dialect == "sklearn" else [rv.SGD, rv.Adam, rv.AdamW]
    kind = draw(st.sampled_from(kinds))
    options = {"learning_rate": draw(RATES), "dialect": dialect}
    if dialect != "sklearn":
        options["weight_decay"] = draw(st.sampled_from([0.0, 0.01, 0.5]))
    if kind is rv.SGD:
        options["momentum"] = draw(st.sampled_from([0.0, 0.5, 0.9]))
        options["nesterov"] = bool(options["momentum"]) and draw(st.booleans())
        if dialect == "torch" and options["momentum"] and not options["nesterov"]:
            options["dampening"] = draw(st.sampled_from([0.0, 0.3]))
        return kind(**options)
    options["beta1"] = draw(st.sampled_from([0.0, 0.8, 0.9]))
    options["beta2"] = draw(st.sampled_from([0.9, 0.99, 0.999]))
    options["eps"] = draw(EPSILONS)
    if dialect != "sklearn":
        options["amsgrad"] = draw(st.booleans())
    return kind(**options)


ACTIVATIONS = [
    *(None, "sigmoid", "tanh", "relu", "leaky_relu", "elu", "selu", "gelu", "gelu_tanh", "silu"),
    # Not hard_sigmoid: torch's derivative of it is 1/6 in float32, in float64 too.
    *("softplus", "hard_swish", "mish", "prelu", "softmax"),
]


@st.composite
def stacks(draw, known=tuple(ACTIVATIONS), *, norms=True):
    """Up to three hidden layers, with normalisations in between."""
    layers = []
    for _ in range(draw(st.integers(0, 3))):
        dense = rv.Dense(draw(st.integers(1, 12)), draw(st.sampled_from(known)))
        layers.append(dataclasses.replace(dense, use_bias=not norms or draw(st.booleans())))
        kind = draw(st.sampled_from(["", "", "batch", "layer", "activation"])) if norms else ""
        if kind == "batch":
            layers.append(rv.BatchNorm(momentum=draw(st.sampled_from([0.1, 0.5]))))
        # Of a single feature nothing but rounding is left.
        if kind == "layer" and dense.units > 1:
            layers.append(rv.LayerNorm())
        if kind == "activation":
            layers.append(rv.Activation(draw(st.sampled_from(known))))
    return layers


CLASSES = ["cross_entropy", "binary_cross_entropy"]
LOSSES = ["mse", "mae", "huber", "poisson", *CLASSES]


@st.composite
def trainings(draw, dialect, *, losses=LOSSES, **of_stacks):
    """(model, X, y, options of crosscheck): parameters as they start, biases at 0 too."""
    loss = draw(st.sampled_from(losses))
    outputs = draw(st.integers(2 if loss == "cross_entropy" else 1, 6))
    layers = [*draw(stacks(**of_stacks)), rv.Dense(outputs)]
    dtype = draw(st.sampled_from(["float32", "float64"]))
    seed = draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    size = draw(st.integers(1, 12))
    made = rv.Sequential(layers, input_size=size, seed=seed, dtype=dtype)
    batch_size = draw(st.integers(2, 24))
    # No batch of a single row, which torch's BatchNorm refuses.
    rows = batch_size * draw(st.integers(1, 2))
    # scikit-learn keeps probabilities away from 0 and 1 in its loss.
    scales = [0.1, 1.0] if dialect == "sklearn" else [0.1, 1.0, 10.0]
    X = draw(st.sampled_from(scales)) * rng.normal(size=(rows, size))
    options = {
        "loss": loss,
        "optimizer": draw(rules(dialect)),
        "batch_size": batch_size,
        "shuffle": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**64 - 1)),
        "steps": draw(st.integers(1, 6)),
    }
    return made, X, foreign.targets(loss, rng, rows, outputs), options


def accused(report):
    return f"{report}" if not report.ok or report.first or report.hints else ""


@hypothesis.given(trainings("torch"))
@hypothesis.settings(max_examples=EXAMPLES)
def test_no_drawn_twin_in_torch_is_accused(training):
    torch = pytest.importorskip("torch")
    made, X, y, options = training
    module = made.to_torch()
    parameters = foreign.torch_optimizer(torch, options["optimizer"], module.parameters())
    against = (module, foreign.torch_loss(torch, options["loss"]), parameters)
    report = rv.crosscheck(made, X, y, against=against, **options)
    # On the way to infinity torch has NaN where ranvier has numbers: z³ of gelu_tanh overflows.
    hypothesis.assume(report.first is None or abs(report.first.ours) < 1e12)
    assert not accused(report), f"{report}\n{made}\n{options}"
    # Fewer where a training leaves the finite numbers.
    assert 1 <= len(report.steps) <= options["steps"]


SKLEARN = trainings(
    "sklearn",
    losses=["cross_entropy", "mse"],
    known=[None, "sigmoid", "tanh", "relu"],
    norms=False,
)


@hypothesis.given(SKLEARN, st.sampled_from([0.0, 0.1]))
@hypothesis.settings(max_examples=EXAMPLES)
def test_no_drawn_twin_in_sklearn_is_accused(training, alpha):
    made, X, y, options = training
    hidden = [layer.units for layer in made.layers[:-1]]
    name = {None: "identity", "sigmoid": "logistic"}.get(
        getattr(made.layers[0], "activation", None), getattr(made.layers[0], "activation", None)
    )
    # One activation for all hidden layers, and a penalty that the batch's size divides.
    layers = [
        rv.Dense(
            layer.units,
            made.layers[0].activation if layer is not made.layers[-1] else None,
            l2=alpha / (2 * options["batch_size"]),
        )
        for layer in made.layers
    ]
    made = rv.Sequential(layers, input_size=made.input_size, seed=made.seed, dtype=made.dtype)
    kind = MLPClassifier if options["loss"] == "cross_entropy" else MLPRegressor
    if options["loss"] == "mse":
        options["loss"] = foreign.HalfSquares()
    elif made.output_size == 2:
        # Of two classes scikit-learn has one logit.
        layers[-1] = dataclasses.replace(layers[-1], units=1)
        made = rv.Sequential(layers, input_size=made.input_size, seed=made.seed, dtype=made.dtype)
        options["loss"] = "binary_cross_entropy"
    like = foreign.sklearn_options(options["optimizer"])
    mlp = kind(hidden_layer_sizes=hidden, activation=name, alpha=alpha, **like)
    report = rv.crosscheck(made, X, y, against=mlp, **options)
    assert not accused(report), f"{report}\n{made}\n{mlp}\n{options}"
    # Fewer where a training leaves the finite numbers.
    assert 1 <= len(report.steps) <= options["steps"]


# ---------------------------------------------------------------- Keras, live


@pytest.fixture
def keras():
    pytest.importorskip("torch")
    library = pytest.importorskip("keras")
    from keras.src.backend.common import dtypes

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        # But for TensorFlow's, Keras has products in float64 computed in float32.
        patch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")
        # Keras calls NumPy on torch's tensors in a way that NumPy 2 warns of.
        warnings.simplefilter("ignore", DeprecationWarning)
        yield library


KERAS_LAYERS = [None, "sigmoid", "tanh", "relu", "elu", "selu", "gelu", "silu", "softplus", "mish"]


def keras_twin(keras, model, squash=None):
    """A Keras model of the same layers."""
    layers = []
    for layer in model.layers:
        match layer:
            case rv.Dense(units, activation):
                layers.append(keras.layers.Dense(units, activation, use_bias=layer.use_bias))
            case rv.Activation(activation):
                layers.append(keras.layers.Activation(activation or "linear"))
            case rv.LayerNorm():
                layers.append(keras.layers.LayerNormalization(epsilon=layer.eps))
    if squash:
        layers[-1].activation = getattr(keras.activations, squash)
    return keras.Sequential([keras.Input((model.input_size,)), *layers])


def keras_loss(keras, name, *, logits=True):
    return {
        "mse": keras.losses.MeanSquaredError(),
        "mae": keras.losses.MeanAbsoluteError(),
        "huber": keras.losses.Huber(),
        "cross_entropy": keras.losses.SparseCategoricalCrossentropy(from_logits=logits),
        "binary_cross_entropy": keras.losses.BinaryCrossentropy(from_logits=logits),
    }[name]


@hypothesis.given(
    trainings("keras", losses=["mse", "mae", "huber", *CLASSES], known=KERAS_LAYERS),
    st.booleans(),
)
@hypothesis.settings(
    max_examples=max(1, EXAMPLES // 4),
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_no_drawn_twin_in_keras_is_accused(keras, training, logits):
    made, X, y, options = training
    layers = [layer for layer in made.layers if not isinstance(layer, rv.BatchNorm)]
    made = rv.Sequential(layers, input_size=made.input_size, seed=made.seed)
    squash = {"cross_entropy": "softmax", "binary_cross_entropy": "sigmoid"}.get(options["loss"])
    # Probabilities that Keras clips are another loss.
    squash = None if logits or np.abs(X).max() > 3 else squash
    theirs = keras_twin(keras, made, squash)
    theirs.compile(
        loss=keras_loss(keras, options["loss"], logits=squash is None),
        optimizer=foreign.keras_optimizer(keras, options["optimizer"]),
    )
    report = rv.crosscheck(made, X, y, against=theirs, **options)
    assert not accused(report), f"{report}\n{made}\n{options}"
    # Fewer where a training leaves the finite numbers.
    assert 1 <= len(report.steps) <= options["steps"]


@pytest.mark.parametrize("name", KERAS)
def test_mistakes_in_keras_are_found_live(keras, name):
    make_traces = pytest.importorskip("make_traces")
    case = KERAS[name]
    assert_found(case, check(case, make_traces.keras_subject(name, case)))


@pytest.mark.parametrize("name", [*TORCH, *TORCH_TWINS])
def test_what_is_recorded_of_torch_is_what_torch_does(name, recorded, tmp_path):
    make_traces = pytest.importorskip("make_traces")
    kind, case = ("torch", TORCH[name]) if name in TORCH else ("torch-twin", TORCH_TWINS[name])
    live = make_traces.torch_training(name, case)
    write_trace(tmp_path / "live", live, "torch")
    reports = [
        check(case, path) for path in (tmp_path / "live", recorded / f"{kind}-{name}.safetensors")
    ]
    assert_found(case, reports[0])
    assert reports[0].hints == reports[1].hints


# ---------------------------------------------------------------- scikit-learn


def sklearn_adam(mistake):
    """Updates of Adam with a mistake, in place of an optimizer's of scikit-learn."""

    def updates(self, grads):
        self.t += 1
        b1, b2 = self.beta_1, self.beta_2
        self.ms = [b1 * m + (1 - b1) * g for m, g in zip(self.ms, grads, strict=True)]
        self.vs = [b2 * v + (1 - b2) * g**2 for v, g in zip(self.vs, grads, strict=True)]
        t = 1 if mistake == "count_stays" else self.t
        c1, c2 = 1 - b1**t, np.sqrt(1 - b2**t)
        if mistake == "no_correction":
            c1 = c2 = 1.0
        rate = self.learning_rate_init * c2 / c1
        eps = self.epsilon * c2 if mistake == "eps_in_torch" else self.epsilon
        return [-rate * m / (np.sqrt(v) + eps) for m, v in zip(self.ms, self.vs, strict=True)]

    return updates


class Wrong:
    """An MLP that computes something else; the classes below say what."""

    mistake = ""

    def _forward_pass(self, activations):
        if self.mistake == "transposed":
            # As if the weight of layer 1 were (out, in).
            self.coefs_[1] = self.coefs_[1].T
            try:
                return super()._forward_pass(activations)
            finally:
                self.coefs_[1] = self.coefs_[1].T
        if self.mistake == "no_bias":
            kept, self.intercepts_[0] = self.intercepts_[0], 0 * self.intercepts_[0]
            try:
                return super()._forward_pass(activations)
            finally:
                self.intercepts_[0] = kept
        return super()._forward_pass(activations)

    def _backprop(self, X, *args):
        loss, coefs, intercepts = super()._backprop(X, *args)
        grads = [*coefs, *intercepts]
        match self.mistake:
            case "sum":
                loss *= len(X)
                grads = [g * len(X) for g in grads]
            case "clipped":
                norm = np.sqrt(sum((g**2).sum() for g in grads))
                grads = [g * min(1.0, 0.1 / norm) for g in grads]
            case "clipped_values":
                grads = [np.clip(g, -0.05, 0.05) for g in grads]
            case "frozen":
                grads[0], grads[len(coefs)] = 0 * grads[0], 0 * grads[len(coefs)]
            case "ascent":
                grads = [-g for g in grads]
            case "accumulated":
                before = self._before if self.t_ else [0 * g for g in grads]
                grads = self._before = [g + b for g, b in zip(grads, before, strict=True)]
            case "decay":
                grads = [
                    g + 0.1 * p for g, p in zip(grads, self.coefs_ + self.intercepts_, strict=True)
                ]
            case "turned":
                grads[1] = grads[1].T
        for place, grad in zip([*coefs, *intercepts], grads, strict=True):
            place[...] = grad
        return loss, coefs, intercepts


SK_ADAM = rv.Adam(learning_rate=0.01, dialect="sklearn")
SK_SGD = rv.SGD(learning_rate=0.1, dialect="sklearn")
HALF = foreign.HalfSquares()


def _sk(step, quantity, name, hint, given, optimizer=SK_ADAM, loss=HALF, stack="plain"):
    options = {"optimizer": optimizer, "loss": loss}
    return Case(step, quantity, name, hint, options, stack), given


def _wrong(mistake):
    return type(
        "WrongMLP", (Wrong, MLPRegressor), {"mistake": mistake, "__init__": MLPRegressor.__init__}
    )


SKLEARN_MISTAKES = {
    "eps": _sk(1, "parameter", "0.weight", "eps=1e-06 in place of 1e-08", {"epsilon": 1e-6}),
    "beta1": _sk(2, "parameter", "0.weight", "beta1=0.8 in place of 0.9", {"beta_1": 0.8}),
    "beta2": _sk(1, "parameter", "0.weight", "beta2=0.99 in place of 0.999", {"beta_2": 0.99}),
    "betas": _sk(1, "parameter", "0.weight", "changed places", {"beta_1": 0.999, "beta_2": 0.9}),
    "rate": _sk(1, "parameter", "0.weight", "rate=0.02 in place", {"learning_rate_init": 0.02}),
    "no_correction": _sk(1, "parameter", "0.weight", "no bias correction of m and v", {}),
    "count_stays": _sk(2, "parameter", "0.weight", "the step count stays 1", {}),
    "eps_in_torch": _sk(
        1,
        "parameter",
        "0.weight",
        "added to the corrected root, as in torch",
        {"epsilon": 1e-3},
        rv.Adam(learning_rate=0.01, eps=1e-3, dialect="sklearn"),
    ),
    "sgd": _sk(
        1, "parameter", "0.weight", "the optimizer is plain SGD", {"solver": "sgd", "momentum": 0.0}
    ),
    "momentum": _sk(1, "parameter", "0.weight", "momentum=0.5", {"momentum": 0.5}, SK_SGD),
    "nesterov": _sk(
        1, "parameter", "0.weight", "nesterov=False", {"nesterovs_momentum": False}, SK_SGD
    ),
    "schedule": _sk(
        2, "parameter", "0.weight", "from this step on", {"learning_rate": "invscaling"}, SK_SGD
    ),
    "squares": _sk(1, "loss", "loss", "half of it", {}, loss="mse"),
    "alpha": _sk(1, "loss", "loss", "an l2 penalty", {"alpha": 0.3}),
    "no_alpha": _sk(
        1,
        "loss",
        "loss",
        "the l2 penalty is missing",
        {"hidden_layer_sizes": (3,)},
        stack="penalty",
    ),
    "relu": _sk(1, "output", "0", "activation relu in place of tanh", {"activation": "relu"}),
    "identity": _sk(1, "output", "0", "layer 0 has no activation", {"activation": "identity"}),
    "transposed": _sk(1, "output", "1", "the weight of layer 1 is transposed", {}),
    "no_bias": _sk(1, "output", "0", "layer 0 leaves its bias out", {}),
    "sum": _sk(1, "loss", "loss", "a sum over rows in place of the mean", {}),
    "clipped": _sk(1, "gradient", "2.weight", "clipped to a norm of 0.1", {}),
    "clipped_values": _sk(1, "gradient", "2.weight", "clipped to values of 0.05", {}),
    "frozen": _sk(1, "gradient", "0.weight", "get no gradient", {}),
    "ascent": _sk(1, "gradient", "2.weight", "the sign turned round", {}),
    "accumulated": _sk(2, "gradient", "2.weight", "not set to zero", {}),
    "decay": _sk(1, "gradient", "2.weight", "weight decay, 0.1 θ, is in the gradients", {}),
    "turned": _sk(1, "gradient", "1.weight", "the gradient of 1.weight is transposed", {}),
}


def mlp_of(optimizer, **given):
    options = {"hidden_layer_sizes": (3, 3), "activation": "tanh", "alpha": 0.0}
    return options | foreign.sklearn_options(optimizer) | given


@pytest.mark.parametrize("name", SKLEARN_MISTAKES)
def test_mistakes_in_sklearn_are_found(name, monkeypatch):
    case, given = SKLEARN_MISTAKES[name]
    if name in ("no_correction", "count_stays", "eps_in_torch"):
        from sklearn.neural_network import _stochastic_optimizers

        monkeypatch.setattr(
            _stochastic_optimizers.AdamOptimizer, "_get_updates", sklearn_adam(name)
        )
    mlp = _wrong(name)(**mlp_of(case.options["optimizer"], **given))
    assert_found(case, check(case, mlp))


def test_the_same_mlp_without_a_mistake_is_not_accused():
    case, _ = _sk(None, "", "", "", {})
    assert_found(case, check(case, _wrong("")(**mlp_of(SK_ADAM))))
