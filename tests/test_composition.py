"""Trainings of drawn options: everything with everything, saved at any step, to the same bits."""

import pickle

import hypothesis
import numpy as np
from hypothesis import strategies as st

import ranvier as rv
from test_resume import SaveEach, state


class Squares:
    """mse of one's own."""

    def value_and_gradient(self, output, target, sample_weight=None):
        weight = np.ones(len(output)) if sample_weight is None else sample_weight
        scale = (weight / weight.sum())[:, np.newaxis] / output.shape[1]
        error = output - np.asarray(target).reshape(output.shape)
        return float((scale * error**2).sum()), 2 * scale * error


@st.composite
def layers(draw, outputs, free):
    """A network; `free` of what second-order methods refuse."""

    def perhaps(*choices):
        return draw(st.sampled_from([None, None, *choices]))

    stack = [perhaps(rv.Standardize())]
    if not free:
        stack.append(perhaps(rv.GaussianNoise(0.1)))
    # Levenberg-Marquardt solves systems of as many equations as there are parameters.
    widths = [3, 8, 33] if free else [3, 8, 65]
    for _ in range(draw(st.integers(0, 2))):
        options = {"l2": draw(st.sampled_from([0.0, 0.01]))}
        if not free:
            options["max_norm"] = perhaps(0.3, 2.0)
            options["non_negative"] = draw(st.booleans())
        stack.append(rv.Dense(draw(st.sampled_from(widths)), activation="tanh", **options))
        stack.append(perhaps(rv.LayerNorm(), *([] if free else [rv.Dropout(0.3)])))
    stack += [rv.Dense(outputs), perhaps(rv.Standardize(of="targets"))]
    return [layer for layer in stack if layer is not None]


@st.composite
def trainings(draw):
    """A function that makes a trainer, the arguments of its fit, and what is given again."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    rows, outputs = draw(st.sampled_from([1, 5, 17, 64, 100])), draw(st.sampled_from([1, 3, 7]))
    X, y = rng.normal(size=(rows, 4)), 3.0 * rng.normal(size=(rows, outputs)) + 1.0
    dtype = draw(st.sampled_from(["float32", "float64"]))
    free = draw(st.sampled_from([False, False, True]))
    options = {"loss": draw(st.sampled_from(["mse", "huber", Squares()]))}
    plan = {"epochs": draw(st.integers(1, 6)), "max_steps": draw(st.sampled_from([None, 3]))}
    if free:
        options["optimizer"] = draw(
            st.sampled_from([rv.LBFGS(history_size=2), rv.LBFGS(), rv.LevenbergMarquardt()])
        )
        if isinstance(options["optimizer"], rv.LevenbergMarquardt):
            options["loss"] = "mse"
    else:
        rate = draw(st.sampled_from([0.01, rv.schedules.ReduceOnPlateau(0.05, patience=1)]))
        rule = draw(st.sampled_from([rv.SGD, rv.Adam, rv.AdamW]))
        clip = draw(st.sampled_from([None, 0.5]))
        options["optimizer"] = rule(learning_rate=rate, clip_norm=clip)
        options["ema_decay"] = draw(st.sampled_from([None, 0.0, 0.9]))
        plan["batch_size"] = draw(st.sampled_from([1, 8, 32, 200]))
        options["quantization"] = draw(st.sampled_from([None, "int8"]))
        plan["accumulate"] = 1 if options["quantization"] else draw(st.sampled_from([1, 3]))
        plan["shuffle"] = draw(st.booleans())
    weight = None
    if draw(st.booleans()):
        weight = rng.integers(0, 3, rows).astype(float)
        weight[0] = 1.0
    again = {"sample_weight": weight}
    data = (X, y)
    if not free and draw(st.booleans()):
        cut = draw(st.integers(0, rows))
        parts = (X, y) if weight is None else (X, y, weight)
        data = ([tuple(part[rows_] for part in parts) for rows_ in (slice(cut), slice(cut, None))],)
        again = {}
    validation = draw(st.sampled_from([None, "arrays", "blocks", "split"]))
    if validation == "split" and len(data) == 2 and rows >= 17 and weight is None:
        plan["validation_split"] = 0.3
    elif validation is not None:
        held_out = (rng.normal(size=(9, 4)), rng.normal(size=(9, outputs)))
        again["validation_data"] = held_out if validation == "arrays" else [held_out, held_out]
    if draw(st.booleans()):
        again["callbacks"] = [rv.EarlyStopping(patience=draw(st.integers(1, 3)))]
    stack = draw(layers(outputs, free))

    def make():
        return rv.Trainer(rv.Sequential(stack, seed=1, dtype=dtype), seed=2, **options)

    return make, data, plan, again


@hypothesis.given(trainings(), st.randoms(use_true_random=False))
@hypothesis.settings(deadline=None)
def test_any_training_goes_on_from_any_step_to_the_same_bits(training, random):
    make, data, plan, again = training
    hooks = again.get("callbacks", [])
    saver, whole = SaveEach(), make()
    threads = rv.get_num_threads()
    try:
        try:
            whole.fit(*data, **plan, **(again | {"callbacks": [*hooks, saver]}))
        except rv.DivergedError:
            hypothesis.reject()
        assert len(set(map(len, whole.history.values()))) <= 1
        expected = state(whole)
        for file in random.sample(saver.files, min(3, len(saver.files))):
            rv.set_num_threads(random.choice([1, 2, 3]))
            resumed = pickle.loads(file)
            resumed.fit(*data, **again)
            assert state(resumed) == expected
    finally:
        rv.set_num_threads(threads)


@hypothesis.given(trainings(), st.integers(1, 3), st.integers(1, 3))
@hypothesis.settings(deadline=None)
def test_any_fits_of_n_and_m_epochs_are_one_of_n_plus_m(training, n, m):
    make, data, plan, again = training
    plan = {name: value for name, value in plan.items() if name not in ("epochs", "max_steps")}
    again = {name: value for name, value in again.items() if name != "callbacks"}
    once, twice = make(), make()
    try:
        once.fit(*data, epochs=n + m, **plan, **again)
    except rv.DivergedError:
        hypothesis.reject()
    hypothesis.assume(once.stopped_by == "epochs")
    for epochs in (n, m):
        twice.fit(*data, epochs=epochs, **plan, **again)
        twice = pickle.loads(pickle.dumps(twice))
    assert state(once) == state(twice)
