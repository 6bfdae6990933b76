"""Learning rates that change: their equations, in core, reference and torch, and in a training."""

import hashlib
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ranvier as rv
from conftest import as_reference
from ranvier import schedules as s

X = np.random.default_rng(0).normal(size=(40, 3))
Y = X @ [[1.0], [-2.0], [0.5]]

RATES = st.floats(1e-6, 10.0)
COUNTS = st.integers(1, 500)
PER = st.sampled_from(["step", "epoch"])
PLAIN = st.one_of(
    st.builds(s.Constant, RATES, per=PER),
    st.builds(s.Step, RATES, every=COUNTS, factor=st.floats(0.1, 1.1), per=PER),
    st.builds(s.Exponential, RATES, factor=st.floats(0.5, 1.01), every=COUNTS, per=PER),
    st.builds(s.Polynomial, RATES, steps=COUNTS, end=RATES, power=st.floats(0.1, 5.0), per=PER),
    st.builds(
        s.Cosine,
        RATES,
        steps=COUNTS,
        end=RATES,
        restarts=st.one_of(st.none(), st.just(1.0), st.floats(1.0, 3.0)),
        per=PER,
    ),
    st.builds(s.OneCycle, RATES, steps=st.integers(2, 500), warmup=st.floats(0.0, 0.99), per=PER),
    st.builds(s.InverseScaling, RATES, power=st.floats(0.1, 2.0), per=PER),
    st.builds(s.Function, st.just(lambda t: 1.0 / (t + 2)), per=PER),
)
SCHEDULES = st.one_of(
    PLAIN,
    st.builds(s.Warmup, PLAIN, steps=COUNTS, start=st.floats(0.0, 1.0), per=PER),
    st.builds(s.Warmup, st.builds(s.Warmup, PLAIN, steps=COUNTS), steps=COUNTS),
)


def rates(schedule, times):
    return [schedule(t) for t in times]


@given(SCHEDULES, st.integers(0, 2000), st.integers(0, 2000))
def test_core_and_reference_agree(schedule, step, epoch):
    expected = as_reference(schedule)(step, epoch)
    # 600 is |exponent · ln base| of the largest power here.
    assert math.isclose(schedule(step, epoch), expected, rel_tol=1e-12, abs_tol=1e-15)


def test_the_values_at_the_landmarks():
    assert rates(s.Step(1.0, every=10, factor=0.5), (0, 9, 10, 20)) == [1.0, 1.0, 0.5, 0.25]
    assert rates(s.Exponential(1.0, factor=0.25, every=2), (0, 1, 2)) == [1.0, 0.5, 0.25]
    assert rates(s.Polynomial(1.0, steps=4, end=0.5), (0, 2, 4, 9)) == [1.0, 0.75, 0.5, 0.5]
    assert rates(s.Cosine(1.0, steps=8, end=0.5), (0, 4, 8, 9)) == [1.0, 0.75, 0.5, 0.5]
    assert rates(s.Cosine(1.0, steps=4, restarts=2), (0, 4, 8, 12)) == [1.0, 1.0, 0.5, 1.0]
    assert rates(s.InverseScaling(1.0), (0, 3, 8)) == pytest.approx([1.0, 0.5, 1 / 3])
    cycle = s.OneCycle(1.0, steps=11, warmup=6 / 11, start_factor=0.5, end_factor=0.25)
    assert rates(cycle, (0, 5, 10, 99)) == pytest.approx([0.5, 1.0, 0.25, 0.25])
    warm = s.Warmup(s.Step(1.0, every=2, factor=0.5), steps=4, start=0.5)
    assert rates(warm, (0, 2, 4, 5, 6)) == [0.5, 0.75, 1.0, 1.0, 0.5]
    assert rates(s.Warmup(0.5, steps=2), (0, 1, 2, 9)) == [0.0, 0.25, 0.5, 0.5]


def test_a_warmup_of_steps_leaves_a_schedule_of_epochs_its_time():
    warm = s.Warmup(s.Step(1.0, every=1, factor=0.5, per="epoch"), steps=4)
    assert [warm(step, epoch) for step, epoch in ((0, 0), (2, 1), (4, 2), (5, 3))] == [
        0.0,
        0.5,
        0.25,
        0.125,
    ]


def test_rates_have_the_same_bits_everywhere():
    """Arithmetic of our own: no library's cosine or power."""
    schedules = [
        s.Exponential(0.1, factor=0.97, every=7),
        s.Polynomial(0.1, steps=900, power=0.9),
        s.Cosine(0.1, steps=130, restarts=1.7),
        s.OneCycle(0.1, steps=1000),
        s.Warmup(s.InverseScaling(0.1, power=0.3), steps=50),
    ]
    values = [schedule(t) for schedule in schedules for t in range(1000)]
    digest = hashlib.sha256(struct.pack(f"<{len(values)}d", *values)).hexdigest()
    assert digest == ("a7e32a4016b2faabb0282974508fb87f8ba32a83582c2c4ba1d097186668b3f3")


# ---------------------------------------------------------------- torch

TORCH = {
    "StepLR": (s.Step(0.3, every=3, factor=0.2), {"step_size": 3, "gamma": 0.2}),
    "ExponentialLR": (s.Exponential(0.3, factor=0.9), {"gamma": 0.9}),
    "PolynomialLR": (s.Polynomial(0.3, steps=15, power=2.0), {"total_iters": 15, "power": 2.0}),
    "CosineAnnealingLR": (s.Cosine(0.3, steps=20, end=0.1), {"T_max": 20, "eta_min": 0.1}),
    "CosineAnnealingWarmRestarts": (s.Cosine(0.3, steps=4, restarts=2), {"T_0": 4, "T_mult": 2}),
    "OneCycleLR": (s.OneCycle(0.3, steps=20), {"max_lr": 0.3, "total_steps": 20}),
}


@pytest.mark.parametrize("name", TORCH)
def test_torch_has_the_same_rates(name):
    torch = pytest.importorskip("torch")
    schedule, options = TORCH[name]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    theirs = getattr(torch.optim.lr_scheduler, name)(optimizer, **options)
    for t in range(20):
        assert schedule(t) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12, abs=1e-15)
        optimizer.step()
        theirs.step()


# ---------------------------------------------------------------- in a training


def fit(rate, *, optimizer=rv.SGD, epochs=4, **options):
    model = rv.Sequential([rv.Dense(1)], input_size=3, dtype="float64")
    trainer = rv.Trainer(model, loss="mse", optimizer=optimizer(learning_rate=rate))
    return trainer, trainer.fit(X, Y, epochs=epochs, batch_size=10, **options)


@pytest.mark.parametrize("optimizer", [rv.SGD, rv.Adam, rv.AdamW])
def test_a_training_follows_the_schedule_as_the_reference_does(optimizer):
    model = rv.Sequential([rv.Dense(4, activation="tanh"), rv.Dense(1)], dtype="float64")
    model.fit(X, Y, loss="mse", max_steps=1)
    for rate in (
        s.Cosine(0.05, steps=9, restarts=1.5),
        s.Warmup(s.Exponential(0.05, factor=0.5, per="epoch"), steps=3),
        s.ReduceOnPlateau(0.05, monitor="loss", patience=1, min_delta=10.0),
        lambda step: 0.05 / (1 + step),
    ):
        options = {"loss": "mse", "optimizer": optimizer(learning_rate=rate), "steps": 12}
        assert rv.crosscheck(model, X, Y, batch_size=10, **options).ok


def test_the_history_has_the_rate_of_each_epochs_last_step():
    per_step = s.Polynomial(0.1, steps=16)
    assert fit(per_step)[1]["learning_rate"] == rates(per_step, (3, 7, 11, 15))
    per_epoch = s.Step(0.1, every=1, factor=0.5, per="epoch")
    assert fit(per_epoch)[1]["learning_rate"] == [0.1, 0.05, 0.025, 0.0125]
    assert fit(0.1)[1]["learning_rate"] == [0.1] * 4


def test_a_second_fit_goes_on_in_the_schedule():
    schedule = s.Cosine(0.1, steps=16)
    once, twice = fit(schedule)[0], fit(schedule, epochs=1)[0]
    twice.fit(X, Y, epochs=3, batch_size=10)
    assert twice.history["learning_rate"] == once.history["learning_rate"]
    for name, value in once.model.parameters().items():
        assert twice.model.parameters()[name].tobytes() == value.tobytes()


def test_a_plateau_lowers_the_rate_when_a_figure_has_not_become_better():
    never = s.ReduceOnPlateau(0.1, factor=0.5, patience=2, min_delta=1e9, min_rate=0.03)
    # The first epoch is the best one; each second epoch after it is one too many.
    expected = [0.1, 0.1, 0.1, 0.05, 0.05, 0.03, 0.03]
    assert fit(never, epochs=7)[1]["learning_rate"] == pytest.approx(expected)
    rested = s.ReduceOnPlateau(0.1, factor=0.5, patience=1, min_delta=1e9, cooldown=1)
    assert fit(rested, epochs=5)[1]["learning_rate"] == [0.1, 0.1, 0.05, 0.05, 0.025]
    always = s.ReduceOnPlateau(0.01, patience=1, min_delta=0.0, monitor="val_loss")
    _, history = fit(always, validation_data=(X, Y))
    assert history["learning_rate"] == [0.01] * 4
    warm = s.Warmup(never, steps=4)
    assert fit(warm, epochs=5)[1]["learning_rate"] == pytest.approx([0.075, 0.1, 0.1, 0.05, 0.05])


def test_a_function_is_asked_before_each_step():
    asked = []

    def function(step):
        asked.append(step)
        return 0.1 / (1 + step)

    assert fit(function, epochs=2)[1]["learning_rate"] == [0.1 / 4, 0.1 / 8]
    assert asked == list(range(8))
    asked.clear()
    fit(s.Function(function, per="epoch"), epochs=2)
    assert asked == [0] * 4 + [1] * 4


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf, "fast", None])
def test_what_a_function_returns_is_checked(bad):
    with pytest.raises(rv.RanvierError, match=r"learning_rate, what the function returned: .*got"):
        fit(lambda step: bad if step == 2 else 0.1)


def test_an_exception_of_a_function_comes_through():
    def function(step):
        raise LookupError("no rate today")

    with pytest.raises(LookupError, match="no rate today"):
        fit(function)


def test_in_ones_own_loop_a_schedule_counts_steps():
    for rate in (s.Step(0.1, every=1, factor=0.5), lambda step: 0.1 * 0.5**step):
        model = rv.Sequential([rv.Dense(1, use_bias=False)], input_size=3, dtype="float64")
        optimizer = rv.SGD(learning_rate=rate)
        before = model.parameters()["0.weight"]
        for step in range(3):
            optimizer.step(model, {"0.weight": np.ones((3, 1))})
            after = model.parameters()["0.weight"]
            np.testing.assert_allclose(before - after, 0.1 * 0.5**step, rtol=1e-12)
            before = after
    for rate in (s.Step(0.1, every=1, per="epoch"), s.ReduceOnPlateau(0.1)):
        with pytest.raises(rv.ArgumentError, match=r"learning_rate: .* counts steps"):
            rv.SGD(learning_rate=rate).step(model, {"0.weight": np.ones((3, 1))})


# ---------------------------------------------------------------- definitions


@pytest.mark.parametrize(
    "schedule",
    [
        s.Constant(0.1),
        s.Step(0.1, every=3),
        s.Exponential(0.1, factor=0.9, per="epoch"),
        s.Polynomial(0.1, steps=3, power=2.0),
        s.Cosine(0.1, steps=3, restarts=2.0),
        s.OneCycle(0.1, steps=10, warmup=0.5),
        s.InverseScaling(0.1, power=1.0),
        s.Warmup(s.Cosine(0.1, steps=3), steps=4, per="epoch"),
        s.ReduceOnPlateau(0.1, patience=3, mode="max", monitor="val_accuracy"),
    ],
)
def test_a_definition_prints_as_the_call_that_makes_it(schedule):
    assert eval(repr(schedule), vars(s)) == schedule
    assert eval(repr(rv.Adam(learning_rate=schedule)), vars(s) | vars(rv)).learning_rate == schedule


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: s.Step(-1.0, every=3), "rate: .*got -1.0"),
        (lambda: s.Step(0.1, every=0), "every: .*got 0"),
        (lambda: s.Step(0.1, every=3, factor=0.0), "factor: .*got 0.0"),
        (lambda: s.Step(0.1, every=3, per="row"), "per: expected step or epoch, got 'row'"),
        (lambda: s.Exponential(math.nan, factor=0.5), "rate: .*got nan"),
        (lambda: s.Polynomial(0.1, steps=1.5), "steps: .*got 1.5"),
        (lambda: s.Polynomial(0.1, steps=2, power=0), "power: .*got 0"),
        (lambda: s.Cosine(0.1, steps=3, restarts=0.5), "restarts: .*got 0.5"),
        (lambda: s.OneCycle(0.1, steps=1), "steps: .*got 1"),
        (lambda: s.OneCycle(0.1, steps=5, warmup=1.0), "warmup: .*got 1.0"),
        (lambda: s.Warmup("cosine", steps=5), "then: .*got 'cosine'"),
        (lambda: s.Warmup(0.1, steps=5, start=-1), "start: .*got -1"),
        (lambda: s.ReduceOnPlateau(0.1, factor=1.0), "factor: .*got 1.0"),
        (lambda: s.ReduceOnPlateau(0.1, min_rate=0.2), "min_rate: .*got 0.2"),
        (lambda: s.ReduceOnPlateau(0.1, mode="up"), "mode: .*got 'up'"),
        (lambda: s.ReduceOnPlateau(0.1, monitor=3), "monitor: .*got 3"),
        (lambda: s.ReduceOnPlateau(0.1, per="step"), "per: .*got 'step'"),
        (lambda: s.Function(0.1), "function: .*got 0.1"),
        (lambda: s.Schedule(), "learning_rate: .*the base class"),
        (lambda: rv.Adam(learning_rate="cosine"), "learning_rate: .*got 'cosine'"),
        (lambda: s.Cosine(0.1, steps=3)(-1), "step: .*got -1"),
        (lambda: fit(s.ReduceOnPlateau(0.1, monitor="val_loss")), "ReduceOnPlateau: .*'val_loss'"),
        (lambda: fit(s.ReduceOnPlateau(0.1, monitor="auc")), "ReduceOnPlateau: .*'auc'"),
    ],
)
def test_a_wrong_definition_is_refused_by_name(make, words):
    with pytest.raises(rv.RanvierError, match=words):
        make()
