"""Hypotheses of what differs in an update, where the gradients agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from .._arrays import Array
from ..errors import RanvierError
from ..layers import BatchNorm
from ..model import Sequential
from ..optimizers import SGD, Adam, AdamW, FirstOrder
from ._hints import Hypothesis, Scene, constant_ratio
from ._ours import Numbers, statistics, updated

__all__ = ["updates"]


def updates(scene: Scene) -> Iterator[Hypothesis]:
    """What may have been done in place of the update."""
    name = scene.first.name
    if name.endswith((".running_mean", ".running_var")):
        yield from _statistics(scene, name)
        return
    yield from _idle(scene)
    for text, rule in _rules(scene.rule):
        yield text, _by(scene, rule)
    if isinstance(scene.rule, Adam):
        yield from _corrections(scene, scene.rule)
    yield from _decays(scene)
    yield from _rates(scene)
    yield from _clipped(scene)


def _after(scene: Scene, rule: FirstOrder, index: int) -> Numbers:
    """The parameters after the step of an index, by some optimizer."""
    comparison = scene.comparison
    befores, gradients = comparison.befores[: index + 1], comparison.gradients[: index + 1]
    return updated(scene.model, rule, befores, gradients)[-1]


def _by(scene: Scene, rule: FirstOrder) -> Callable[[int], Any]:
    return lambda index: _after(scene, rule, index)


def _pairs(scene: Scene, predicted: Numbers) -> list[tuple[Array, Array]]:
    """Steps, a prediction's and theirs."""
    before = scene.comparison.befores[scene.index]
    theirs = scene.steps[scene.index].parameters
    return [(array - before[n], theirs[n] - before[n]) for n, array in predicted.items()]


# ---------------------------------------------------------------- other options


def _rules(rule: FirstOrder) -> Iterator[tuple[str, FirstOrder]]:
    """Optimizers that differ in an option or two, with what differs."""
    own = rule._resolved()
    changes: list[tuple[str, dict[str, Any]]] = []

    def one(name: str, values: Sequence[Any]) -> None:
        for value in values:
            if value != own[name]:
                text = f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
                shown = own[name] if isinstance(own[name], bool) else f"{own[name]:g}"
                changes.append((f"{text} in place of {shown}", {name: value}))

    decay = own["weight_decay"]
    if decay:
        changes.append(("no weight decay", {"weight_decay": 0.0}))
    if isinstance(rule, Adam):
        epsilons = [10.0**-n for n in range(3, 17)]
        one("eps", epsilons)
        where = (
            "epsilon is added to the corrected root, as in torch"
            if rule.dialect != "torch"
            else "epsilon is added before the bias correction, as in Keras and scikit-learn"
        )
        hat = "torch" if rule.dialect != "torch" else "keras"
        for eps in dict.fromkeys([own["eps"], 1e-7, 1e-8, *epsilons]):
            more = "" if eps == own["eps"] else f", and is {eps:g} in place of {own['eps']:g}"
            changes.append((where + more, {"dialect": hat, "eps": eps}))
        swapped = {"beta1": own["beta2"], "beta2": own["beta1"]}
        changes.append(("beta1 and beta2 have changed places", swapped))
        one("beta1", [0.0, 0.5, 0.8, 0.9, 0.95, 0.99])
        one("beta2", [0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999])
        one("amsgrad", [not own["amsgrad"]])
    else:
        one("nesterov", [not own["nesterov"]])
        one("momentum", [0.0, 0.5, 0.8, 0.9, 0.95, 0.99])
        if own["momentum"]:
            one("dampening", [own["momentum"], 0.0, 0.5])
            for other in ("torch", "keras"):
                if other != rule.dialect:
                    changes.append((f"momentum as in {other}", {"dialect": other}))
    one("weight_decay", [1e-1, 1e-2, 4e-3, 1e-3, 5e-4, 1e-4, 1e-5, 2 * decay, decay / 2])
    if own["clip_norm"] or own["clip_value"]:
        changes.append(("no clipping", {"clip_norm": None, "clip_value": None}))
    for most in (0.1, 0.5, 1.0, 5.0, 10.0):
        changes.append((f"clip_norm={most:g}", {"clip_norm": most, "clip_value": None}))
        changes.append((f"clip_value={most:g}", {"clip_value": most, "clip_norm": None}))
    for text, options in changes:
        try:
            # The dialect's own defaults stay those of the rule.
            full = {n: own[n] for n in ("weight_decay", *_numbers(rule))} | options
            yield text, replace(rule, **full)
        except RanvierError:
            # A combination that the dialect does not define.
            continue
    yield from _kinds(rule, own)


def _numbers(rule: FirstOrder) -> tuple[str, ...]:
    if isinstance(rule, Adam):
        return ("beta1", "beta2", "eps", "amsgrad")
    return ("momentum", "dampening", "nesterov")


def _kinds(rule: FirstOrder, own: dict[str, Any]) -> Iterator[tuple[str, FirstOrder]]:
    """Another optimizer of the same rate."""
    rate = rule.learning_rate if rule.learning_rate is not None else own["learning_rate"]
    decay = own["weight_decay"]
    same = {n: own[n] for n in ("beta1", "beta2", "eps", "amsgrad") if isinstance(rule, Adam)}
    others: list[tuple[str, FirstOrder]] = [
        ("plain SGD", SGD(learning_rate=rate, weight_decay=decay)),
        ("Adam", Adam(learning_rate=rate, weight_decay=decay)),
    ]
    coupled = Adam(learning_rate=rate, weight_decay=decay, **same)
    decoupled = AdamW(learning_rate=rate, weight_decay=decay, **same)
    if decay and isinstance(rule, AdamW):
        others.append(("weight decay is coupled: it joins the gradient, as in Adam", coupled))
    elif decay:
        others.append(("weight decay is decoupled from the gradient, as in AdamW", decoupled))
    for text, other in others:
        if type(other) is not type(rule) or "decay" in text:
            yield (text if "decay" in text else f"the optimizer is {text}"), other


# ---------------------------------------------------------------- what no option says


def _idle(scene: Scene) -> Iterator[Hypothesis]:
    """Some tensors stay what they were."""
    comparison = scene.comparison
    before, theirs = comparison.befores[scene.index], scene.steps[scene.index].parameters
    ours = _after(scene, scene.rule, scene.index)
    idle = [
        name
        for name, array in ours.items()
        if np.array_equal(theirs[name], before[name]) and not np.array_equal(array, before[name])
    ]
    if not idle:
        return

    def predict(index: int) -> Any:
        after = _after(scene, scene.rule, index)
        return after | {name: comparison.befores[index][name] for name in idle}

    yield f"{', '.join(idle)} are not updated: frozen, or not given to the optimizer", predict


def _corrections(scene: Scene, rule: Adam) -> Iterator[Hypothesis]:
    """Adam without its bias corrections, or with a count of steps that stands still."""
    own = rule._resolved()
    b1, b2, eps = own["beta1"], own["beta2"], own["eps"]
    comparison = scene.comparison

    def adam(index: int, first: Callable[[int], float], second: Callable[[int], float]) -> Any:
        predicted = {}
        before = comparison.befores[index]
        # The rate and what decay does are the rule's own.
        rate = rule._schedule(index)
        still = _after(scene, replace(rule, learning_rate=rate), index)
        for name in still:
            m = v = np.zeros(before[name].shape)
            for i in range(index + 1):
                g = comparison.gradients[i][name].astype(np.float64)
                if own["weight_decay"] and not own["decoupled"] and rule.dialect == "torch":
                    g = g + own["weight_decay"] * comparison.befores[i][name]
                m, v = m + (1 - b1) * (g - m), b2 * v + (1 - b2) * g * g
            theta = before[name].astype(np.float64)
            if own["weight_decay"] and (own["decoupled"] or rule.dialect == "keras"):
                theta = theta * (1 - rate * own["weight_decay"])
            c1, c2 = first(index + 1), np.sqrt(second(index + 1))
            if rule.dialect == "torch":
                predicted[name] = theta - rate * (m / c1) / (np.sqrt(v) / c2 + eps)
            else:
                predicted[name] = theta - rate * c2 / c1 * m / (np.sqrt(v) + eps)
        return predicted

    def right(beta: float) -> Callable[[int], float]:
        return lambda t: 1.0 - beta**t

    def none(t: int) -> float:
        return 1.0

    cases = [
        ("no bias correction of m and v", none, none),
        ("no bias correction of v", right(b1), none),
        ("no bias correction of m", none, right(b2)),
        ("the step count stays 1", lambda t: 1.0 - b1, lambda t: 1.0 - b2),
        ("the step count begins at 0", lambda t: 1 - b1 ** (t - 1), lambda t: 1 - b2 ** (t - 1)),
        ("the step count begins at 2", lambda t: 1 - b1 ** (t + 1), lambda t: 1 - b2 ** (t + 1)),
    ]
    for text, *corrections in cases:
        yield text, partial(adam, first=corrections[0], second=corrections[1])


def _decays(scene: Scene) -> Iterator[Hypothesis]:
    """A decay c θ besides the step, of all parameters or of the weights."""
    comparison, rule = scene.comparison, scene.rule
    own = rule._resolved()
    plain = replace(rule, weight_decay=0.0)
    before, theirs = comparison.befores[scene.index], scene.steps[scene.index].parameters
    after = _after(scene, plain, scene.index)
    matrices = [name for name in after if before[name].ndim == 2]
    for names, which in ((list(after), ""), (matrices, " of the weights alone")):
        share = constant_ratio([(before[n], after[n] - theirs[n]) for n in names])
        if share is None or share < 0:
            continue
        rate = rule._schedule(scene.index)
        decay = own["weight_decay"]
        if decay and abs(share / rate / decay - 1.0) < 1e-3:
            # Of the right size: another rule says what differs.
            continue
        if decay and abs(share / decay - 1.0) < 1e-3 and rate != 1.0:
            text = f"weight decay{which} is {decay:g} θ, not multiplied by the learning rate"
        else:
            text = f"decoupled weight decay{which} of {share / rate:.4g} in place of {decay:g}"

        def predict(index: int, names: list[str] = names, share: float = share) -> Any:
            found = _after(scene, plain, index)
            return {
                n: a - share * comparison.befores[index][n] if n in names else a
                for n, a in found.items()
            }

        yield text, predict
    if own["weight_decay"]:

        def weights_only(index: int) -> Any:
            decayed, found = _after(scene, rule, index), _after(scene, plain, index)
            return {n: decayed[n] if n in matrices else a for n, a in found.items()}

        yield "weight decay of the weights alone, not of biases", weights_only


def _rates(scene: Scene) -> Iterator[Hypothesis]:
    """All steps are longer or shorter by one factor."""
    comparison, rule = scene.comparison, scene.rule
    plain = _after(scene, rule, scene.index)
    ratio = constant_ratio(_pairs(scene, plain))
    if ratio is None:
        return

    def predict(index: int) -> Any:
        before = comparison.befores[index]
        return {
            n: before[n] + ratio * (a - before[n]) for n, a in _after(scene, rule, index).items()
        }

    rate = rule._schedule(scene.index)
    if abs(ratio + 1.0) < 1e-3:
        yield "the step has the other sign: up the gradient", predict
        return
    yield f"learning_rate={ratio * rate:.4g} in place of {rate:g}", predict
    # A decay is not a step's: the rule itself at that rate.
    yield (
        f"learning_rate={ratio * rate:.4g} in place of {rate:g}",
        _by(scene, replace(rule, learning_rate=abs(ratio) * rate)),
    )
    yield from _rate_now(scene, rate)


def _rate_now(scene: Scene, rate: float) -> Iterator[Hypothesis]:
    """The rate is another from this step on; an update is linear in it."""
    if scene.index == 0:
        return

    def after(now: float) -> Numbers:
        def rates(t: int) -> float:
            return now if t == scene.index else scene.rule._schedule(t)

        return _after(scene, replace(scene.rule, learning_rate=rates), scene.index)

    idle, full = after(0.0), after(rate)
    theirs = scene.steps[scene.index].parameters
    share = constant_ratio([(full[n] - idle[n], theirs[n] - idle[n]) for n in full])
    if share is not None and share >= 0.0:
        found = after(share * rate)
        yield (
            f"learning_rate={share * rate:.4g} in place of {rate:g} from this step on",
            lambda index: found if index == scene.index else None,
        )


def _clipped(scene: Scene) -> Iterator[Hypothesis]:
    """The optimizer clips what it gets, each tensor by its own norm."""
    comparison, rule = scene.comparison, scene.rule

    def clipped(gradients: Numbers, most: float) -> Numbers:
        return {n: g * min(1.0, most / (_norm(g) or 1.0)) for n, g in gradients.items()}

    for most in (0.1, 0.5, 1.0, 5.0):

        def predict(index: int, most: float = most) -> Any:
            befores = comparison.befores[: index + 1]
            some = [
                {n: a.astype(scene.model.dtype) for n, a in clipped(g, most).items()}
                for g in comparison.gradients[: index + 1]
            ]
            return updated(scene.model, rule, befores, some)[-1]

        yield f"each tensor's gradient is clipped to a norm of {most:g}", predict


def _norm(array: Array) -> float:
    return float(np.linalg.norm(array.astype(np.float64)))


# ---------------------------------------------------------------- running statistics


def _statistics(scene: Scene, name: str) -> Iterator[Hypothesis]:
    """Other conventions of BatchNorm's running statistics."""
    number, _, role = name.partition(".")
    layer = scene.model.layers[int(number)]
    if not isinstance(layer, BatchNorm):
        return
    comparison = scene.comparison

    def batch(index: int) -> Array:
        """The batch's own figure: what the statistics would be if they forgot at once."""
        x, y = comparison.batches[index]
        stack = list(scene.model.layers)
        stack[int(number)] = replace(layer, momentum=1.0)
        other = Sequential(stack, input_size=scene.model.input_size, dtype=scene.model.dtype)
        return statistics(other, comparison.befores[index], x, y, scene.loss)[name]

    def blended(momentum: float, *, biased: bool) -> Callable[[int], Any]:
        def predict(index: int) -> Any:
            before, rows = comparison.befores[index][name], len(comparison.batches[index][0])
            factor = (rows - 1) / rows if biased and role == "running_var" else 1.0
            return {name: before + momentum * (factor * batch(index) - before)}

        return predict

    yield f"{name} is not updated", lambda index: {name: comparison.befores[index][name]}
    yield f"{name} takes the biased variance, divided by n", blended(layer.momentum, biased=True)
    other = 1.0 - layer.momentum
    yield f"momentum={other:g} in place of {layer.momentum:g}", blended(other, biased=False)
    before = comparison.befores[scene.index][name]
    theirs = scene.steps[scene.index].parameters[name]
    rows = scene.rows
    for biased in (False, True) if role == "running_var" else (False,):
        factor = (rows - 1) / rows if biased else 1.0
        momentum = constant_ratio([(factor * batch(scene.index) - before, theirs - before)])
        if momentum is not None and abs(momentum / layer.momentum - 1.0) > 1e-3:
            more = ", and the biased variance" if biased else ""
            yield (
                f"momentum={momentum:.4g} in place of {layer.momentum:g}{more}",
                blended(momentum, biased=biased),
            )
