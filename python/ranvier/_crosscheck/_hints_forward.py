"""Hypotheses of what differs in a forward pass: the layers, the rows, the loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .. import _core, activations, losses
from .._arrays import Array
from ..layers import Activation, BatchNorm, Dense, Layer, LayerNorm, Softmax
from ..model import Sequential
from ._compare import squashed
from ._hints import Hypothesis, Scene, scales_of
from ._ours import Numbers, outputs_of

__all__ = ["loss_values", "outputs", "starts"]

# What else the ε of a normalisation is: torch's, Keras's, and others'.
_EPS = (1e-5, 1e-3, 1e-6, 1e-8, 1e-12)


def starts(scene: Scene) -> Iterator[str]:
    """What parameters before the first step may be."""
    name = scene.first.name
    ours, theirs = scene.comparison.start[name], scene.comparison.trace.start[name]
    if theirs.ndim == 2 and theirs.shape[0] == theirs.shape[1] and np.allclose(ours.T, theirs):
        yield f"{name} is transposed: (out, in) on one side, (in, out) on the other"
    else:
        yield "other initial parameters"


# ---------------------------------------------------------------- outputs


def outputs(scene: Scene) -> Iterator[Hypothesis]:
    """What may have been computed in place of an output."""
    label = scene.label()
    last = len(scene.model.layers) - 1 if label == "output" else int(label.partition(".")[2])
    recorded = [n for n in scene.steps[scene.index].outputs if n < last]
    span = range(max(recorded, default=-1) + 1, last + 1)
    for number in span:
        yield from _layer(scene, label, number, last)
    yield from _rows(scene, label, last)
    yield from _behind(scene, label)

    def later(index: int) -> Any:
        x, _ = scene.comparison.batches[index]
        return {label: _run(scene, scene.steps[index].parameters, x, last)}

    yield "measured after the update, not before it", later


def _run(scene: Scene, parameters: Numbers, x: Array, last: int) -> Array:
    return outputs_of(scene.model.layers[: last + 1], parameters, x, scene.model.dtype)


def _layer(scene: Scene, label: str, number: int, last: int) -> Iterator[Hypothesis]:
    """Layer `number` is another one."""
    layers = scene.model.layers[: last + 1]
    own = layers[number]

    def instead(layer: Layer, changed: dict[str, Any]) -> Any:
        def predict(index: int) -> Any:
            x, _ = scene.comparison.batches[index]
            parameters = dict(scene.comparison.befores[index])
            for role, change in changed.items():
                name = f"{number}.{role}"
                if name in parameters:
                    parameters[name] = change(parameters[name])
            stack = [*layers[:number], layer, *layers[number + 1 :]]
            return {label: outputs_of(stack, parameters, x, scene.model.dtype)}

        return predict

    if isinstance(own, Dense | Activation):
        present = activations.spec(own.activation)
        others: list[Any] = [name for name in _core.names("activation") if name != present[0]]
        others += [activations.LeakyReLU(0.2), activations.LeakyReLU(0.3)]
        for other in others:
            if activations.spec(other) != present and other != "prelu":
                name = other if isinstance(other, str) else repr(other)
                missing = name == "identity"
                yield (
                    f"layer {number} has no activation, in place of {present[0]}"
                    if missing
                    else f"layer {number} has the activation {name} in place of {present[0]}",
                    instead(replace(own, activation=other), {}),
                )
    if isinstance(own, Dense):
        weight = scene.comparison.befores[0][f"{number}.weight"]
        if weight.shape[0] == weight.shape[1]:
            yield (
                f"the weight of layer {number} is transposed",
                instead(own, {"weight": lambda w: w.T}),
            )
        if own.use_bias:
            yield (
                f"layer {number} leaves its bias out",
                instead(own, {"bias": np.zeros_like}),
            )
    if isinstance(own, BatchNorm | LayerNorm):
        for eps in _EPS:
            if eps != own.eps:
                yield (
                    f"eps={eps:g} in place of {own.eps:g} in layer {number}",
                    instead(replace(own, eps=eps), {}),
                )
        yield (
            f"layer {number} is left out",
            instead(Activation("identity"), {}),
        )
    if isinstance(own, BatchNorm):

        def evaluated(index: int) -> Any:
            x, _ = scene.comparison.batches[index]
            part = Sequential(list(layers), input_size=x.shape[1], dtype=scene.model.dtype)
            before = scene.comparison.befores[index]
            part.set_parameters({name: before[name] for name in part._shapes()})
            return {label: part.predict(x)}

        yield f"layer {number} is in evaluation mode, with running statistics", evaluated


def _rows(scene: Scene, label: str, last: int) -> Iterator[Hypothesis]:
    """The batch has other rows, or the same in another order."""
    theirs = np.asarray(scene.theirs(scene.index, label), np.float64)
    x = np.unique(np.concatenate([x for x, _ in scene.comparison.batches]), axis=0)
    found = np.asarray(_run(scene, scene.comparison.befores[scene.index], x, last), np.float64)
    if any(isinstance(layer, BatchNorm) for layer in scene.model.layers) or len(x) < 2:
        return
    distances = np.abs(theirs[:, None, :] - found[None, :, :]).max(axis=2)
    nearest = distances.argmin(axis=1)
    if len(set(nearest.tolist())) > 1:
        yield (
            "rows of another batch, or in another order",
            lambda index: {label: found[nearest]} if index == scene.index else None,
        )


def _behind(scene: Scene, label: str) -> Iterator[Hypothesis]:
    """Something stands behind our output."""

    def ours(index: int) -> Any:
        found = scene.comparison.found[index]
        return found.output if label == "output" else found.outputs[int(label.partition(".")[2])]

    if label == "output" and not isinstance(scene.model.layers[-1], Softmax):
        for kind in ("softmax", "sigmoid"):

            def behind(index: int, kind: str = kind) -> Any:
                return {label: squashed(ours(index), kind)}

            yield f"a {kind} behind the last layer", behind
    output = np.asarray(ours(scene.index), np.float64)
    theirs = np.asarray(scene.theirs(scene.index, label), np.float64)
    kept = (theirs != 0.0) & (output != 0.0)
    if kept.any() and (~kept & (output != 0.0)).any():
        scale = float(np.median(theirs[kept] / output[kept]))
        yield (
            f"dropout of rate {1.0 - 1.0 / scale:.3g} is active"
            if scale > 1
            else "values are zero",
            lambda index: {label: output * scale * kept} if index == scene.index else None,
        )


# ---------------------------------------------------------------- losses


def _other_losses(own: Any) -> Sequence[tuple[str, Any]]:
    """The other losses, with their defaults."""
    return [(name, kind()) for name, kind in losses.BY_NAME.items() if kind is not type(own)]


def _loss_batch(scene: Scene, index: int) -> tuple[Array, Array]:
    """Our outputs and the targets."""
    return scene.comparison.found[index].output, scene.comparison.batches[index][1]


def loss_values(scene: Scene) -> Iterator[Hypothesis]:
    found = scene.comparison.found
    theirs = scene.theirs(scene.index, "loss")
    ours = found[scene.index].loss
    rows, outputs = found[scene.index].output.shape
    ratio = theirs / ours if ours else 0.0
    same = all(
        scene.fits(scene.index, {f"d_{name}": array})
        for name, array in found[scene.index].gradients.items()
    )
    for text in scales_of(ratio, rows, outputs) if ratio else []:

        def scaled(index: int, text: str = text) -> Any:
            # What is a factor of rows is another in a batch of other rows.
            more = len(scene.comparison.batches[index][0]) / rows
            by = more if "over rows" in text else 1 / more if "by the rows" in text else 1.0
            return {"loss": ratio * by * found[index].loss}

        yield (text + ("; the gradient is as here" if same else ""), scaled)
    for name, other in _other_losses(scene.loss):

        def named(index: int, other: Any = other) -> Any:
            output, y = _loss_batch(scene, index)
            return {"loss": other.value_and_gradient(output, y)[0]}

        yield f"the loss is {name}", named
    for kind in ("softmax", "sigmoid"):

        def twice(index: int, kind: str = kind) -> Any:
            output, y = _loss_batch(scene, index)
            again = squashed(output, kind).astype(output.dtype)
            return {"loss": scene.loss.value_and_gradient(again, y)[0]}

        yield f"the loss, which applies a {kind} itself, gets outputs behind one", twice
    if isinstance(scene.loss, losses.CrossEntropy):

        def unnormalised(index: int) -> Any:
            output, y = _loss_batch(scene, index)
            return {"loss": -output[np.arange(len(y)), y].mean()} if y.dtype.kind == "i" else None

        yield "the loss, which takes logarithms of probabilities, gets raw outputs", unnormalised
    yield from _clamped(scene)
    yield from _smoothed(scene, theirs, ours)
    yield from _penalised(scene, theirs - ours)

    def crossed(index: int) -> Any:
        output, y = _loss_batch(scene, index)
        if output.shape[1] != 1 or y.size != len(output):
            return None
        n = len(output)
        value, _ = scene.loss.value_and_gradient(
            np.repeat(output, n, axis=0), np.tile(y.reshape(-1, 1), (n, 1))
        )
        return {"loss": value}

    yield "targets (n,) are broadcast against outputs (n, 1): every row meets every target", crossed

    def later(index: int) -> Any:
        x, y = scene.comparison.batches[index]
        parameters = {**scene.comparison.befores[index], **scene.steps[index].parameters}
        scene.model.set_parameters(parameters)
        value, _ = scene.model.value_and_gradient(x, y, loss=scene.loss, training=True)
        return {"loss": value}

    yield "measured after the update, not before it", later


def _clamped(scene: Scene) -> Iterator[Hypothesis]:
    """The logarithms are those of probabilities that keep away from 0 and 1."""
    if scene.loss not in (losses.CrossEntropy(), losses.BinaryCrossEntropy()):
        return
    kind = "softmax" if isinstance(scene.loss, losses.CrossEntropy) else "sigmoid"
    # scikit-learn's, by dtype, and Keras's.
    for least in (float(np.finfo(np.float32).eps), float(np.finfo(np.float64).eps), 1e-7):

        def clamped(index: int, least: float = least) -> Any:
            output, y = _loss_batch(scene, index)
            p = np.clip(squashed(output, kind), least, 1.0 - least)
            if kind == "sigmoid":
                t = y.reshape(p.shape)
                return {"loss": -(t * np.log(p) + (1.0 - t) * np.log1p(-p)).mean()}
            t = np.eye(p.shape[1])[y.reshape(-1)] if y.dtype.kind == "i" else y
            return {"loss": -(t * np.log(p)).sum(axis=1).mean()}

        yield f"probabilities are kept {least:.2g} away from 0 and 1 in the loss", clamped


def _smoothed(scene: Scene, theirs: float, ours: float) -> Iterator[Hypothesis]:
    """The loss is linear in ε of label smoothing."""
    if not isinstance(scene.loss, losses.CrossEntropy):
        return
    output, y = _loss_batch(scene, scene.index)
    ends = [
        losses.CrossEntropy(label_smoothing=e).value_and_gradient(output, y)[0] for e in (0.0, 0.5)
    ]
    eps = 0.5 * (theirs - ends[0]) / (ends[1] - ends[0]) if ends[0] != ends[1] else -1.0
    if -1e-9 < eps < 1.0:
        other = losses.CrossEntropy(label_smoothing=max(eps, 0.0))

        def smoothed(index: int) -> Any:
            output, y = _loss_batch(scene, index)
            return {"loss": other.value_and_gradient(output, y)[0]}

        given = scene.loss.label_smoothing
        yield f"label_smoothing={max(eps, 0.0):.3g} in place of {given:g}", smoothed


def _penalised(scene: Scene, more: float) -> Iterator[Hypothesis]:
    """A penalty λ Σ w² of all weights, which the gradients confirm if there are any."""
    found, befores = scene.comparison.found, scene.comparison.befores
    weights = [name for name, array in befores[0].items() if array.ndim == 2]

    def squares(index: int) -> float:
        return sum(float((befores[index][name].astype(np.float64) ** 2).sum()) for name in weights)

    scale = squares(scene.index)
    if scale:
        factor = more / scale

        def penalised(index: int) -> Any:
            predicted: dict[str, Any] = {"loss": found[index].loss + factor * squares(index)}
            # One number is too little to tell.
            if not scene.steps[index].gradients and len(scene.steps) < 2:
                return None
            for name in weights:
                gradient = found[index].gradients[name]
                predicted[f"d_{name}"] = gradient + 2.0 * factor * befores[index][name]
            return predicted

        text = f"an l2 penalty of {factor:.4g} Σw²" if factor > 0 else "the l2 penalty is missing"
        yield text, penalised
