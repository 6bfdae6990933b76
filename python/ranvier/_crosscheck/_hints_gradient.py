"""Hypotheses of what differs in a backward pass, where output and loss agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .._arrays import Array
from ._backward import activated, without_derivative
from ._hints import Hypothesis, Scene, constant_ratio, scales_of
from ._ours import Numbers

__all__ = ["gradients"]


def gradients(scene: Scene) -> Iterator[Hypothesis]:
    """What may have been computed in place of the gradients."""
    found, steps = scene.comparison.found, scene.steps
    theirs, ours = steps[scene.index].gradients, found[scene.index].gradients
    if any(not np.isfinite(array).all() for array in theirs.values()):
        return
    yield from _missing(scene)
    yield from _scaled(scene, theirs, ours)

    def summed(index: int) -> Any:
        if index == 0:
            return _labelled(found[0].gradients)
        before = steps[index - 1].gradients
        return _labelled({n: g + before[n] for n, g in found[index].gradients.items()})

    yield "gradients are added to those of the steps before: they are not set to zero", summed
    yield from _clipped(scene, theirs)
    yield from _decayed(scene, theirs, ours)
    yield from _turned(scene)
    yield from _without_derivative(scene)


def _labelled(numbers: Numbers) -> dict[str, Any]:
    return {f"d_{name}": array for name, array in numbers.items()}


def _deviating(scene: Scene) -> list[str]:
    """Names of the gradients that deviate in the step."""
    theirs = scene.steps[scene.index].gradients
    ours = scene.comparison.found[scene.index].gradients
    return [n for n in ours if n in theirs and not scene.fits(scene.index, {f"d_{n}": ours[n]})]


def _missing(scene: Scene) -> Iterator[Hypothesis]:
    """Some tensors get no gradient."""
    found, theirs = scene.comparison.found, scene.steps[scene.index].gradients
    idle = [name for name in _deviating(scene) if not theirs[name].any()]
    if not idle:
        return

    def predict(index: int) -> Any:
        return _labelled(
            {n: np.zeros_like(g) if n in idle else g for n, g in found[index].gradients.items()}
        )

    yield f"{', '.join(idle)} get no gradient: frozen, or cut off from the loss", predict


def _scaled(scene: Scene, theirs: Numbers, ours: Numbers) -> Iterator[Hypothesis]:
    """All gradients, or those that deviate, are multiplied by one number."""
    found = scene.comparison.found
    rows, outputs = found[scene.index].output.shape
    names = _deviating(scene)
    ratio = constant_ratio([(ours[n], theirs[n]) for n in names])
    if ratio is None:
        return
    which = "" if len(names) == len(ours) else f" of {', '.join(names)}"
    known = [text for text in scales_of(ratio, rows, outputs) if text]
    for text in known or [f"{ratio:.10g} times those here"]:

        def predict(index: int, text: str = text) -> Any:
            # What is a factor of rows is another in a batch of other rows.
            more = len(scene.comparison.batches[index][0]) / rows
            by = more if "over rows" in text else 1 / more if "by the rows" in text else 1.0
            return _labelled(
                {
                    name: ratio * by * array if name in names else array
                    for name, array in found[index].gradients.items()
                }
            )

        yield f"gradients{which} are {text}", predict


def _clipped(scene: Scene, theirs: Numbers) -> Iterator[Hypothesis]:
    """By norm or by value."""
    found = scene.comparison.found
    most = _norm(theirs)
    largest = max(float(np.abs(array).max(initial=0.0)) for array in theirs.values())

    def by_norm(index: int) -> Any:
        ours = found[index].gradients
        factor = min(1.0, most / _norm(ours))
        return _labelled({name: factor * array for name, array in ours.items()})

    def by_value(index: int) -> Any:
        ours = found[index].gradients
        return _labelled({n: np.clip(array, -largest, largest) for n, array in ours.items()})

    if _norm(found[scene.index].gradients) > most:
        yield f"gradients are clipped to a norm of {most:.4g}", by_norm
        yield f"gradients are clipped to values of {largest:.4g}", by_value


def _norm(numbers: Numbers) -> float:
    return float(np.sqrt(sum((a.astype(np.float64) ** 2).sum() for a in numbers.values())))


def _decayed(scene: Scene, theirs: Numbers, ours: Numbers) -> Iterator[Hypothesis]:
    """A decay is in the gradient."""
    found, befores = scene.comparison.found, scene.comparison.befores
    before = befores[scene.index]
    weights = [name for name in ours if before[name].ndim == 2]
    shapes: list[tuple[str, Callable[[Array], Array], list[str]]] = [
        ("an l2 penalty of {0:.4g} Σw²", lambda p: 2.0 * p, weights),
        ("weight decay, {1:.4g} θ, is in the gradients", lambda p: 2.0 * p, list(ours)),
        ("an l1 penalty of {0:.4g} Σ|w|", np.sign, weights),
    ]
    for text, slope, names in shapes:
        factor = constant_ratio(
            [(slope(before[n]), theirs[n] - ours[n]) for n in names if n in theirs]
        )
        if factor is None:
            continue

        def predict(
            index: int,
            names: list[str] = names,
            slope: Callable[[Array], Array] = slope,
            factor: float = factor,
        ) -> Any:
            return _labelled(
                {
                    n: g + factor * slope(befores[index][n]) if n in names else g
                    for n, g in found[index].gradients.items()
                }
            )

        yield (
            text.format(factor, 2.0 * factor) if factor > 0 else "the l2 penalty is not in them",
            predict,
        )


def _turned(scene: Scene) -> Iterator[Hypothesis]:
    """Square gradients are transposed."""
    found = scene.comparison.found
    for name in _deviating(scene):
        gradient = found[scene.index].gradients[name]
        if gradient.ndim == 2 and gradient.shape[0] == gradient.shape[1]:

            def turned(index: int, name: str = name) -> Any:
                return {f"d_{name}": found[index].gradients[name].T}

            yield f"the gradient of {name} is transposed", turned


def _without_derivative(scene: Scene) -> Iterator[Hypothesis]:
    """The derivative of an activation is left out, as by whoever forgets f'(z)."""
    for layer in activated(scene.model.layers):

        def predict(index: int, layer: int = layer) -> Any:
            x, y = scene.comparison.batches[index]
            before, found = scene.comparison.befores[index], scene.comparison.found[index]
            wrong = without_derivative(scene.model, layer, before, x, y, scene.loss)
            return _labelled(found.gradients | wrong)

        yield f"the derivative of the activation of layer {layer} is left out", predict
