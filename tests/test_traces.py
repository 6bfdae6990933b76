"""Recorded traces: the file format, what the report says, and what is refused or left alone.

The mistakes that a trace shows are in test_crosscheck_against.py.
"""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier, MLPRegressor

import foreign
import mistakes
import ranvier as rv
from mistakes import ROWS, Case, check, write_trace

CASE = Case(options={"optimizer": rv.SGD(learning_rate=0.1)})


def recorded(**changes):
    """Tensors of two right steps by ranvier itself, in ranvier's layout; None leaves one out."""
    model, (X, y) = mistakes.model("plain"), mistakes.data(CASE)
    tensors = {f"0.parameter.{name}": value for name, value in model.parameters().items()}
    optimizer = rv.SGD(learning_rate=0.1)
    for step in (1, 2):
        rows = slice((step - 1) * ROWS, step * ROWS)
        output = model.predict(X[rows])
        loss, gradients = model.value_and_gradient(X[rows], y[rows], loss="mse")
        optimizer.step(model, gradients)
        tensors |= {f"{step}.output": output, f"{step}.loss": np.array([loss])}
        tensors |= {f"{step}.gradient.{name}": value for name, value in gradients.items()}
        tensors |= {f"{step}.parameter.{n}": value for n, value in model.parameters().items()}
    tensors |= changes
    return {name: value for name, value in tensors.items() if value is not None}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


def report_of(path, tensors, layout="ranvier", metadata=None, **options):
    write_trace(path, tensors, layout, **(metadata or {}))
    return check(CASE, path, **options)


# ---------------------------------------------------------------- the format


def test_a_trace_of_ranviers_own_agrees_to_the_last_bit(path):
    report = report_of(path, recorded())
    assert report.ok
    assert report.first is None
    assert report.max_error == 0.0
    assert report.against == "run.safetensors"
    assert [entry.step for entry in report.steps] == [1, 2]


def turned(tensors, names):
    """As torch has it: other names, weights (out, in)."""
    own = [f"{n}.{role}" for n in (0, 1, 2) for role in ("weight", "bias")]
    found = {}
    for name, value in tensors.items():
        step, kind, rest = [*name.split(".", 2), ""][:3]
        if rest:
            found[f"{step}.{kind}.{names[own.index(rest)]}"] = np.ascontiguousarray(value.T)
        else:
            found[name] = value
    return found


def test_names_are_torchs_or_given_in_the_order_of_the_layers(path):
    torchs = [f"{n}.{role}" for n in (0, 2, 4) for role in ("weight", "bias")]
    assert report_of(path, turned(recorded(), torchs), "torch").max_error == 0.0
    others = ["encoder.w", "encoder.b", "body.w", "body.b", "a head.w", "a head.b"]
    given = {"names": json.dumps(others)}
    assert report_of(path, turned(recorded(), others), "torch", given).max_error == 0.0


def test_what_is_not_recorded_is_not_compared(path):
    tensors = recorded()
    bare = {name: value for name, value in tensors.items() if ".parameter." in name}
    report = report_of(path, bare)
    assert report.ok
    kinds = {kind for entry in report.steps for kind, _, _ in entry.figures()}
    assert kinds == {"loss", "parameter"}
    # The update is found wrong without gradients, too.
    bare["2.parameter.1.bias"] = bare["2.parameter.1.bias"] + 1e-6
    report = report_of(path, bare)
    assert (report.first.step, report.first.name) == (2, "1.bias")


def test_a_trace_may_be_shorter_or_longer_than_what_is_asked(path):
    assert len(report_of(path, recorded(), steps=5).steps) == 2
    assert len(report_of(path, recorded(), steps=1).steps) == 1


def test_float32_traces_get_the_tolerance_of_float32(path):
    single = {name: value.astype(np.float32) for name, value in recorded().items()}
    report = report_of(path, single)
    assert report.tolerance == 1e-5
    assert report.ok
    assert report.max_error > 1e-9


def test_a_training_that_leaves_the_finite_numbers_is_compared_until_then(path):
    tensors = recorded()
    tensors["1.parameter.0.bias"] = np.full(3, np.inf)
    report = report_of(path, tensors)
    assert [entry.step for entry in report.steps] == [1]
    assert (report.first.quantity, report.first.name) == ("parameter", "0.bias")
    assert report.first.error == np.inf
    assert "inf" in str(report)


# ---------------------------------------------------------------- the report


def test_the_report_names_step_tensor_element_and_both_numbers(path):
    tensors = recorded()
    wrong = tensors["2.gradient.1.weight"].copy()
    wrong[2, 0] += 1e-3
    report = report_of(path, {**tensors, "2.gradient.1.weight": wrong})
    first = report.first
    assert (first.step, first.quantity, first.layer, first.name) == (2, "gradient", 1, "1.weight")
    assert first.index == (2, 0)
    assert first.ours == tensors["2.gradient.1.weight"][2, 0]
    assert first.theirs == wrong[2, 0]
    largest = max(np.abs(tensors["1.gradient.1.weight"]).max(), np.abs(wrong).max())
    assert first.error == pytest.approx(1e-3 / largest)
    assert first.allowed == 2e-12
    text = str(report)
    assert "first at step 2: the gradient of 1.weight at [2, 0]:" in text
    assert f"{first.ours:.17g}" in text
    assert f"{first.theirs:.17g}" in text
    header, one, two = (line.split() for line in text.splitlines()[:3])
    assert header == ["step", "output", "loss", "gradient", "parameter"]
    assert "!" not in " ".join(one)
    assert next(cell for cell in two if "!" in cell) == f"{first.error:.1e}!"


def test_one_number_in_any_tensor_is_found(path):
    tensors = recorded()
    for name, value in tensors.items():
        step, kind, rest = [*name.split(".", 2), ""][:3]
        changed = value.copy()
        changed.flat[-1] *= 1 + 1e-6
        first = report_of(path, {**tensors, name: changed}).first
        assert (first.step, first.quantity) == (int(step), kind), name
        assert first.name == (rest or kind)


def test_nothing_is_said_of_numbers_that_nothing_explains(path):
    tensors = recorded()
    rng = np.random.default_rng(0)
    for name in ("1.output", "1.loss", "1.gradient.1.weight", "1.parameter.1.weight"):
        value = tensors[name]
        changed = value * (1 + 0.1 * rng.normal(size=value.shape))
        report = report_of(path, {**tensors, name: changed})
        # Of one number, the loss, a penalty could be the reason; its gradients say no.
        assert report.hints == (), (name, report.hints)


def test_the_frame_has_every_deviation(path):
    report = report_of(path, recorded())
    frame = report.to_pandas()
    assert list(frame.columns) == ["step", "quantity", "name", "error", "allowed"]
    assert len(frame) == sum(1 + len(entry.errors) for entry in report.steps)
    assert set(frame["quantity"]) == {"output", "loss", "gradient", "parameter"}
    assert frame["allowed"].tolist() == (frame["step"] * report.tolerance).tolist()


def test_the_plot_shows_the_quantities_and_what_is_allowed(path):
    single = {name: value.astype(np.float32) for name, value in recorded().items()}
    report = report_of(path, single)
    ax = report.plot()
    assert all(float(tick).is_integer() for tick in ax.get_xticks())
    labels = [line.get_label() for line in ax.get_lines()]
    assert labels == ["output", "loss", "gradient", "parameter", "allowed"]
    assert ax.get_yscale() == "log"
    worst = max(error for kind, _, error in report.steps[1].figures() if kind == "output")
    assert ax.get_lines()[0].get_ydata()[1] == worst
    assert report.plot(ax) is ax
    plt.close("all")


def test_the_report_of_the_reference_has_a_frame_and_a_picture_too():
    X, y = mistakes.data(CASE)
    report = rv.crosscheck(mistakes.model("plain"), X, y, loss="mse", steps=2)
    assert report.first is None
    assert report.against == "reference"
    assert set(report.to_pandas()["quantity"]) == {"loss", "gradient", "parameter"}
    report.plot()
    plt.close("all")


def test_an_activation_that_is_none_is_compared_too():
    model = rv.Sequential([rv.Activation(None), rv.Dense(2)], input_size=2, dtype="float64")
    assert rv.crosscheck(model, *mistakes.data(CASE), loss="mse", steps=2).ok


def test_the_reference_names_the_first_deviation():
    X, y = mistakes.data(CASE)
    report = rv.crosscheck(mistakes.model("plain"), X, y, loss="mse", steps=2, tolerance=0.0)
    first = report.first
    assert first.error > 0.0
    assert first.step == next(e.step for e in report.steps if max([e.loss, *e.errors.values()]) > 0)
    assert f"first at step {first.step}" in str(report)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("what", "change", "metadata", "layout"),
    [
        ("the kind 'model'", {}, {"kind": "model"}, "ranvier"),
        ("the layout 'keras'", {}, {}, "keras"),
        ("no '0.parameter.1.bias'", {"0.parameter.1.bias": None}, {}, "ranvier"),
        ("no '2.parameter.2.weight'", {"2.parameter.2.weight": None}, {}, "ranvier"),
        (
            "'1.parameter.0.weight' of shape",
            {"1.parameter.0.weight": np.ones((3, 2))},
            {},
            "ranvier",
        ),
        ("'1.gradient.0.weight' of shape", {"1.gradient.0.weight": np.ones(6)}, {}, "ranvier"),
        ("'1.loss' of shape", {"1.loss": np.ones(2)}, {}, "ranvier"),
        ("'1.output.7'", {"1.output.7": np.ones((6, 3))}, {}, "ranvier"),
        ("of type I64", {"1.loss": np.ones(1, np.int64)}, {}, "ranvier"),
        ("names that are no JSON", {}, {"names": "0.weight"}, "ranvier"),
        ("in place of a list of 6", {}, {"names": '["a"]'}, "ranvier"),
    ],
)
def test_files_that_are_no_trace_of_the_model_are_refused(path, what, change, metadata, layout):
    with pytest.raises(
        rv.FileFormatError, match=r"run\.safetensors: expected a recorded trace"
    ) as e:
        report_of(path, recorded(**change), layout, metadata)
    assert what in str(e.value)


def test_a_trace_of_no_step_is_refused(path):
    starts = {name: value for name, value in recorded().items() if name.startswith("0.")}
    with pytest.raises(rv.FileFormatError, match="no step"):
        report_of(path, starts)


def test_a_damaged_or_missing_file_is_refused(path):
    with pytest.raises(FileNotFoundError):
        check(CASE, path)
    path.write_bytes(b"nonsense")
    with pytest.raises(rv.FileFormatError):
        check(CASE, path)


def test_batches_of_another_size_are_refused(path):
    with pytest.raises(rv.ArgumentError, match="batch_size"):
        report_of(path, recorded(), batch_size=4)


@pytest.mark.parametrize("against", [None, 3, object(), (1, 2), (1, 2, 3), [], rv.Adam(), "torch"])
def test_what_no_training_is_in_is_refused(against):
    with pytest.raises(rv.DTypeError, match=r"^against: expected 'reference', .*$"):
        check(CASE, against)


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("model", {"stack": [rv.Dense(3), rv.Dropout(0.5), rv.Dense(2)]}),
        ("model", {"stack": [rv.GaussianNoise(0.5), rv.Dense(2)]}),
        ("model", {"stack": [rv.Standardize(), rv.Dense(2)]}),
        ("optimizer", {"optimizer": "lbfgs"}),
        ("sample_weight", {"sample_weight": np.ones(12)}),
        ("X", {"X": np.full((12, 2), np.nan)}),
        ("y", {"y": np.zeros((12, 3))}),
    ],
)
def test_what_two_frameworks_cannot_have_alike_is_refused(argument, change):
    X, y = mistakes.data(CASE)
    change = {"X": X, "y": y, "stack": [rv.Dense(2)], **change}
    model = rv.Sequential(change.pop("stack"), input_size=2)
    with pytest.raises(rv.RanvierError, match=f"^{argument}: expected "):
        rv.crosscheck(
            model, change.pop("X"), change.pop("y"), loss="mse", against=MLPRegressor(), **change
        )


@pytest.mark.parametrize(
    "mlp",
    [
        MLPRegressor(hidden_layer_sizes=(3, 4), activation="tanh"),
        MLPRegressor(hidden_layer_sizes=(3,), activation="tanh"),
        MLPRegressor(hidden_layer_sizes=(3, 3), solver="lbfgs"),
        MLPRegressor(hidden_layer_sizes=(3, 3), solver="adam", early_stopping=True),
    ],
    ids=str,
)
def test_an_mlp_that_is_not_the_models_is_refused(mlp):
    with pytest.raises(rv.ArgumentError, match=r"^against: expected "):
        check(CASE, mlp)


def test_layers_that_draw_nothing_are_no_reason_to_refuse():
    model = rv.Sequential([rv.Dropout(0.0), rv.Dense(2)], input_size=2, dtype="float64")
    X, y = mistakes.data(CASE)
    mlp = MLPRegressor(hidden_layer_sizes=(), alpha=0.0, random_state=0)
    options = {"loss": foreign.HalfSquares(), "optimizer": rv.Adam(dialect="sklearn")}
    assert rv.crosscheck(model, X, y, against=mlp, **options).ok


# ---------------------------------------------------------------- what stays as it is


def test_an_estimator_and_the_model_stay_as_they_are():
    model, (X, y) = mistakes.model("plain"), mistakes.data(CASE)
    before = model.parameters()
    mlp = MLPClassifier(hidden_layer_sizes=(3, 3), max_iter=1, random_state=0)
    fitted = [mlp.partial_fit(X, y[:, 0] > 0, classes=[False, True])]
    coefs, options = [w.copy() for w in fitted[0].coefs_], mlp.get_params()
    one = rv.Sequential([rv.Dense(3, "relu"), rv.Dense(3, "relu"), rv.Dense(1)], input_size=2)
    rv.crosscheck(one, X, y[:, 0] > 0, loss="binary_cross_entropy", against=mlp)
    assert mlp.get_params() == options
    for w, own in zip(mlp.coefs_, coefs, strict=True):
        np.testing.assert_array_equal(w, own)
    optimizer = rv.Adam()
    check(CASE, mlp_of_plain(), optimizer=optimizer)
    optimizer.step(model, model.value_and_gradient(X, y, loss="mse")[1])
    assert any((model.parameters()[name] != value).any() for name, value in before.items())


def mlp_of_plain():
    return MLPRegressor(hidden_layer_sizes=(3, 3), activation="tanh", random_state=0)


def test_a_torch_module_its_optimizer_and_its_gradients_stay_as_they_are():
    torch = pytest.importorskip("torch")
    model, (X, y) = mistakes.model("plain"), mistakes.data(CASE)
    module = model.to_torch()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    optimizer = torch.optim.Adam(module.parameters())
    torch.nn.MSELoss()(module(torch.from_numpy(X)), torch.from_numpy(y)).backward()
    optimizer.step()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in module.parameters()]
    moments = optimizer.state_dict()["state"][0]["exp_avg"].clone()
    report = rv.crosscheck(model, X, y, loss="mse", against=(module, torch.nn.MSELoss(), optimizer))
    # It starts from the model's parameters and without moments, whatever the module has.
    assert report.ok
    assert not module.training
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, state[name])
    for parameter, gradient in zip(module.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)
    assert torch.equal(optimizer.state_dict()["state"][0]["exp_avg"], moments)
    assert optimizer.param_groups[0]["params"][0] is module[0].weight


def test_any_torch_module_will_do_whose_parameters_come_in_order():
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Linear(2, 3), torch.nn.Linear(3, 3)
            self.head = torch.nn.Linear(3, 2)

        def forward(self, x):
            return self.head(torch.sigmoid(self.second(torch.tanh(self.first(x)))))

    net = Net()
    rule = torch.optim.SGD(net.parameters(), lr=0.1)
    report = check(CASE, (net, torch.nn.MSELoss(), rule))
    assert (report.first.quantity, report.first.layer) == ("output", 1)
    assert report.hints == ("layer 1 has the activation sigmoid in place of tanh",)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_torch_training_of_wrong_parts_is_refused(position):
    torch = pytest.importorskip("torch")
    module = mistakes.model("plain").to_torch()
    parts = [module, torch.nn.MSELoss(), torch.optim.SGD(module.parameters(), lr=0.1)]
    parts[position] = [
        torch.nn.Linear(2, 2),
        "mse",
        torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=0.1),
    ][position]
    with pytest.raises(rv.RanvierError, match=r"^against: expected "):
        check(CASE, tuple(parts))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_keras_model_stays_as_it_is_and_must_be_compiled():
    pytest.importorskip("torch")
    keras = pytest.importorskip("keras")
    layers = [keras.layers.Dense(3, "tanh"), keras.layers.Dense(3, "tanh"), keras.layers.Dense(2)]
    theirs = keras.Sequential([keras.Input((2,)), *layers])
    with pytest.raises(rv.ArgumentError, match=r"^against: expected a compiled Keras model"):
        check(CASE, theirs)
    theirs.compile(loss="mse", optimizer=keras.optimizers.SGD(0.1))
    weights = [keras.ops.convert_to_numpy(w).copy() for w in theirs.weights]
    X, y = mistakes.data(CASE)
    model = mistakes.model("plain", "float32")
    options = {"loss": "mse", "optimizer": rv.SGD(learning_rate=0.1)}
    assert rv.crosscheck(model, X, y, against=theirs, **options).ok
    parts = (theirs, "mse", keras.optimizers.SGD(0.1))
    assert rv.crosscheck(model, X, y, against=parts, **options).ok
    for weight, own in zip(theirs.weights, weights, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), own)
    assert int(theirs.optimizer.iterations) == 0
    with pytest.raises(rv.ArgumentError, match=r"^against: expected parameters of the shapes"):
        rv.crosscheck(rv.Sequential([rv.Dense(2)], input_size=2), X, y, against=theirs, **options)
