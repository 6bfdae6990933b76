"""Metrics: scikit-learn's numbers, in evaluations, histories and as what is watched."""

import pickle

import numpy as np
import pytest
from sklearn import metrics as theirs

import ranvier as rv

_rng = np.random.default_rng(0)
ROWS = 700
X = _rng.normal(size=(ROWS, 4))
WEIGHTS = _rng.integers(0, 4, size=ROWS).astype(float)


def model(outputs, seed=0):
    return rv.Sequential([rv.Dense(outputs, weight_init="glorot_uniform")], input_size=4, seed=seed)


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def evaluated(metric, loss, outputs, y, weight=None):
    m = model(outputs)
    z = m.predict(X).astype(np.float64)
    trainer = rv.Trainer(m, loss=loss, metrics=[metric])
    return trainer.evaluate(X, y, weight)[trainer.metrics[0].name], z


@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("name", ["accuracy", "top_k_accuracy", "balanced_accuracy", "f1"])
def test_classes_are_counted_as_scikit_learn_counts_them(name, classes, weight):
    y = _rng.integers(0, min(classes, 5), size=ROWS)
    metric = rv.metrics.TopKAccuracy(2) if name == "top_k_accuracy" else name
    value, z = evaluated(metric, "cross_entropy", classes, y, weight)
    said = z.argmax(axis=1)
    options = {"sample_weight": weight}
    expected = {
        "accuracy": lambda: theirs.accuracy_score(y, said, **options),
        "top_k_accuracy": lambda: np.average(
            (np.argsort(-z, axis=1)[:, :2] == y[:, None]).any(axis=1), weights=weight
        ),
        "balanced_accuracy": lambda: theirs.recall_score(
            y, said, average="macro", labels=np.unique(y), **options
        ),
        "f1": lambda: theirs.f1_score(y, said, average="macro", **options),
    }[name]()
    assert value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("name", ["roc_auc", "log_loss", "brier"])
def test_probabilities_are_judged_as_scikit_learn_judges_them(name, classes, weight):
    y = _rng.integers(0, classes, size=ROWS)
    value, z = evaluated(name, rv.losses.CrossEntropy(label_smoothing=0.2), classes, y, weight)
    p, one_hot = softmax(z), np.eye(classes)[y]
    if name == "roc_auc":
        columns = [1] if classes == 2 else range(classes)
        scores = [theirs.roc_auc_score(y == k, p[:, k], sample_weight=weight) for k in columns]
        expected = np.mean(scores)
    elif name == "log_loss":
        expected = theirs.log_loss(y, p, sample_weight=weight, labels=range(classes))
    else:
        expected = np.average(((p - one_hot) ** 2).sum(axis=1), weights=weight)
    assert value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize(
    "name", ["accuracy", "balanced_accuracy", "f1", "roc_auc", "log_loss", "brier"]
)
def test_yes_and_no_as_scikit_learn_has_it(name, outputs, weight):
    y = (_rng.uniform(size=(ROWS, outputs)) < 0.3).astype(float)
    loss = rv.losses.BinaryCrossEntropy(pos_weight=2.0)
    value, z = evaluated(name, loss, outputs, y, weight)
    p = 1 / (1 + np.exp(-z))

    def of(column):
        a, b, q = y[:, column], z[:, column] > 0, p[:, column]
        options = {"sample_weight": weight}
        return {
            "accuracy": lambda: theirs.accuracy_score(a, b, **options),
            "balanced_accuracy": lambda: theirs.balanced_accuracy_score(a, b, **options),
            "f1": lambda: theirs.f1_score(a, b, **options),
            "roc_auc": lambda: theirs.roc_auc_score(a, q, **options),
            "log_loss": lambda: theirs.log_loss(a, q, **options),
            "brier": lambda: theirs.brier_score_loss(a, q, **options),
        }[name]()

    assert value == pytest.approx(np.mean([of(k) for k in range(outputs)]), rel=1e-12)


@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("name", ["r2", "mae", "mse", "rmse", "pinball"])
def test_regressions_are_judged_as_scikit_learn_judges_them(name, outputs, weight):
    y = 1e6 + _rng.normal(size=(ROWS, outputs))
    metric = rv.metrics.Pinball(0.8) if name == "pinball" else name
    value, z = evaluated(metric, "huber", outputs, y, weight)
    y = y.astype(np.float32).astype(np.float64)
    function, options = {
        "r2": (theirs.r2_score, {}),
        "mae": (theirs.mean_absolute_error, {}),
        "mse": (theirs.mean_squared_error, {}),
        "rmse": (theirs.root_mean_squared_error, {}),
        "pinball": (theirs.mean_pinball_loss, {"alpha": 0.8}),
    }[name]
    assert value == pytest.approx(function(y, z, sample_weight=weight, **options), rel=1e-9)


def test_what_is_predicted_follows_the_loss():
    y = _rng.poisson(2.0, size=(ROWS, 1)).astype(float)
    value, z = evaluated("mae", "poisson", 1, y)
    assert value == pytest.approx(np.abs(y - np.exp(z)).mean())
    value, z = evaluated("mae", "gaussian_nll", 2, y)
    assert value == pytest.approx(np.abs(y - z[:, :1]).mean())
    quantiles = rv.losses.Quantile(q=[0.1, 0.5, 0.9])
    value, z = evaluated("mae", quantiles, 3, y)
    assert value == pytest.approx(np.abs(y - z[:, 1:2]).mean())
    value, z = evaluated(rv.metrics.Pinball(0.9), quantiles, 3, y)
    assert value == pytest.approx(theirs.mean_pinball_loss(y, z[:, 2:], alpha=0.9))


def test_what_has_no_value():
    still = np.zeros(ROWS, int)
    assert np.isnan(evaluated("roc_auc", "cross_entropy", 3, still)[0])
    assert evaluated("balanced_accuracy", "cross_entropy", 3, still)[0] <= 1
    constant = np.ones((ROWS, 1))
    assert evaluated("r2", "mse", 1, constant)[0] == 0.0


def test_ties_count_half():
    m = rv.Sequential([rv.Dense(1, weight_init="zeros")], input_size=4)
    trainer = rv.Trainer(m, loss="binary_cross_entropy", metrics=["roc_auc"])
    assert trainer.evaluate(X, np.arange(ROWS) % 2.0)["roc_auc"] == 0.5


def test_the_first_of_equal_outputs_counts():
    m = rv.Sequential([rv.Dense(4, weight_init="zeros")], input_size=4)
    names = ["accuracy", rv.metrics.TopKAccuracy(2)]
    trainer = rv.Trainer(m, loss="cross_entropy", metrics=names)
    for label, expected in enumerate([(1.0, 1.0), (0.0, 1.0), (0.0, 0.0), (0.0, 0.0)]):
        report = trainer.evaluate(X, np.full(ROWS, label))
        assert (report["accuracy"], report["top_2_accuracy"]) == expected


def test_probability_targets_count_as_their_largest_class():
    y = _rng.dirichlet(np.ones(3), size=ROWS)
    value, z = evaluated("accuracy", "cross_entropy", 3, y)
    assert value == np.mean(z.argmax(axis=1) == y.argmax(axis=1))
    value, z = evaluated("log_loss", "cross_entropy", 3, y)
    assert value == pytest.approx(-(y * np.log(softmax(z))).sum(axis=1).mean(), rel=1e-6)


# ---------------------------------------------------------------- in a training

LABELS = (X[:, 0] > 0) + (X[:, 1] > 0)


def spread(y, output):
    """A metric of the user's."""
    return float(np.mean(output.max(axis=1) - output.min(axis=1)) + 0.0 * np.sum(y))


@pytest.mark.parametrize(
    "options", [{"validation_data": (X[:90], LABELS[:90])}, {"validation_split": 0.2}]
)
def test_histories_have_every_metric_and_any_can_be_watched(options):
    metrics = ["f1", spread, rv.metrics.LogLoss()]
    for figure, pick in (
        ("val_f1", np.argmax),
        ("val_spread", np.argmax),
        ("val_log_loss", np.argmin),
        ("val_loss", np.argmin),
    ):
        trainer = rv.Trainer(model(3), loss="cross_entropy", metrics=metrics, optimizer="sgd")
        stop = rv.EarlyStopping(figure, patience=30)
        history = trainer.fit(X, LABELS, epochs=12, callbacks=[stop], **options)
        names = ["epoch", "step", "loss", "val_loss", "val_f1", "val_spread", "val_log_loss"]
        assert list(history) == [*names, "learning_rate", "seconds"]
        assert trainer.best_epoch == pick(history[figure])
        assert trainer.best_value == history[figure][trainer.best_epoch]
    report = trainer.evaluate(X[:90], LABELS[:90])
    assert list(report) == ["loss", "f1", "spread", "log_loss"]
    if "validation_data" in options:
        best = {name: history[f"val_{name}"][trainer.best_epoch] for name in report}
        assert report == pytest.approx(best)


def test_a_function_sees_the_held_out_rows_of_a_split():
    seen = []

    def look(y, output):
        seen.append((np.array(y), len(output)))
        return 0.0

    trainer = rv.Trainer(model(3), loss="cross_entropy", metrics=[look])
    trainer.fit(X, LABELS, epochs=2, validation_split=0.1)
    counts = np.bincount(LABELS)
    assert len(seen) == 2
    for y, rows in seen:
        assert len(y) == rows == 70
        assert np.all(np.abs(np.bincount(y) - 0.1 * counts) < 1)


def test_a_function_that_fails_ends_the_training_with_its_epoch_recorded():
    def fail(y, output):
        raise LookupError("no figure")

    trainer = rv.Trainer(model(3), loss="cross_entropy", metrics=["accuracy", fail])
    with pytest.raises(LookupError, match="no figure"):
        trainer.fit(X, LABELS, epochs=3, validation_split=0.1)
    assert trainer.history["val_fail"] == [None]
    assert trainer.history["epoch"] == [0]


def test_a_plateau_may_go_by_a_metric():
    schedule = rv.schedules.ReduceOnPlateau(
        0.1, monitor="val_accuracy", patience=1, min_delta=10.0, factor=0.5
    )
    trainer = rv.Trainer(model(3), loss="cross_entropy", optimizer=rv.SGD(learning_rate=schedule))
    history = trainer.fit(X, LABELS, epochs=4, validation_split=0.1)
    assert history["learning_rate"] == [0.1, 0.1, 0.05, 0.025]


def test_metrics_travel_with_a_run(tmp_path):
    metrics = ["roc_auc", rv.metrics.TopKAccuracy(2)]
    trainer = rv.Trainer(model(3), loss="cross_entropy", metrics=metrics)
    trainer.fit(X, LABELS, validation_split=0.1)
    trainer.save(tmp_path / "run.safetensors")
    assert rv.Trainer.resume(tmp_path / "run.safetensors").metrics == trainer.metrics
    trainer = rv.Trainer(model(3), loss="cross_entropy", metrics=["f1", spread])
    trainer.save(tmp_path / "run.safetensors")
    with pytest.raises(rv.ArgumentError, match="metrics: expected what a file cannot hold"):
        rv.Trainer.resume(tmp_path / "run.safetensors")
    resumed = rv.Trainer.resume(tmp_path / "run.safetensors", metrics=["f1", spread])
    assert resumed.metrics == trainer.metrics == pickle.loads(pickle.dumps(trainer)).metrics


def test_the_one_liner_takes_metrics_too():
    history = model(3).fit(X, LABELS, loss="cross_entropy", metrics=["f1"], validation_split=0.1)
    assert "val_f1" in history


def test_without_metrics_there_are_none():
    trainer = rv.Trainer(model(3), loss="cross_entropy", metrics=[])
    assert list(trainer.evaluate(X, LABELS)) == ["loss"]
    assert "val_accuracy" not in trainer.fit(X, LABELS, validation_split=0.1)


@pytest.mark.parametrize(
    ("loss", "metrics", "words"),
    [
        ("mse", ["accuracy"], r"metrics: expected figures of the loss MSE\(\), got Accuracy\(\)"),
        ("cross_entropy", ["r2"], "metrics: expected figures of the loss"),
        ("binary_cross_entropy", ["top_k_accuracy"], "metrics: expected figures of the loss"),
        ("mse", ["speed"], "metrics: expected names among accuracy, .*got 'speed'"),
        ("mse", "mae", "metrics: expected a list .*got 'mae'"),
        ("mse", [3], "metrics: .*got 3"),
        ("mse", [rv.metrics.MAE], "metrics: .*MAE"),
        ("mse", ["mae", rv.metrics.MAE()], "metrics: expected different names, got 'mae' twice"),
        ("mse", [rv.metrics.Function(spread, "loss")], "metrics: expected different names"),
    ],
)
def test_metrics_that_do_not_fit_are_refused(loss, metrics, words):
    with pytest.raises(rv.RanvierError, match=words):
        rv.Trainer(model(3), loss=loss, metrics=metrics)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: rv.metrics.TopKAccuracy(0), "k: .*got 0"),
        (lambda: rv.metrics.Pinball(1.0), "q: .*got 1.0"),
        (lambda: rv.metrics.Function(3), "function: .*got 3"),
        (lambda: rv.metrics.Function(spread, higher=1), "higher: .*got 1"),
        (lambda: rv.metrics.Function(spread, 7), "label: .*got 7"),
        (lambda: rv.metrics.Metric(), "metrics: .*the base class"),
        (
            lambda: rv.Trainer(
                model(3), loss="cross_entropy", metrics=[lambda y, output: "much"]
            ).evaluate(X, LABELS),
            "metrics, <lambda>: expected a number, got str",
        ),
    ],
)
def test_wrong_definitions_are_refused(make, words):
    with pytest.raises(rv.RanvierError, match=words):
        make()
