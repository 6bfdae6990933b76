"""Make `layers.json`: activations, normalisation layers and losses of torch, with their gradients.

Everything is float64, made by torch and its autograd on inputs that the table holds. Each value and
each gradient is compared with Ranvier's equations, written out below and evaluated (and
differentiated) with 60 digits by mpmath; the largest deviation of each entry is printed, and none
may exceed `TOLERANCE`. Tests read the table, so that they need neither torch nor mpmath.

Needs the packages torch and mpmath (which comes with torch). Run it with

    python tests/data/make_layer_tables.py
"""

import json
import math
import platform
from collections.abc import Callable
from pathlib import Path

import mpmath as mp
import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch's documentation uses)
from torch import Tensor

COMMAND = "python tests/data/make_layer_tables.py"
TOLERANCE = 1e-12
mp.mp.dps = 60
H = mp.mpf(10) ** -20  # step of the difference quotients

Vector = list[mp.mpf]
Matrix = list[list[float]]
Table = dict[str, object]

# fmt: off
POINTS = [
    -12.0, -10.0, -7.5, -5.0, -4.0, -3.0, -2.5, -2.0, -1.5, -1.0, -0.5, -0.1, -0.001, -0.0,
    0.0, 0.001, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.5, 10.0, 12.0,
]
# fmt: on

# Input of the layers, raw outputs of the losses.
X = [
    [0.3, -1.7, 2.9, 0.8],
    [-0.6, 4.1, -2.2, 1.4],
    [1.9, 0.2, -0.4, -3.3],
    [-2.7, 1.1, 0.7, 2.3],
    [0.9, -0.8, 5.6, -1.5],
]
SECOND_X = [
    [1.2, 0.4, -1.1, 7.5],
    [-0.9, 2.6, 0.3, 6.2],
    [0.1, -3.4, 1.8, 8.9],
    [2.4, 1.7, -0.5, 5.1],
    [-1.6, 0.6, 2.1, 9.3],
]
D_OUTPUT = [
    [0.7, -0.2, 1.1, 0.4],
    [-0.5, 0.9, 0.3, -1.3],
    [0.2, 0.6, -0.8, 1.0],
    [1.4, -0.7, 0.1, -0.4],
    [-0.3, 0.5, -1.2, 0.8],
]
WEIGHT = [1.5, 0.5, -0.8, 2.0]
BIAS = [0.1, -0.4, 0.0, 0.7]
EXTREME = [
    [1000.0, 1001.0, 1002.0, 1003.0],
    [-800.0, 0.0, 750.0, -50.0],
    [-1003.0, -1002.0, -1001.0, -1000.0],
    [40.0, -40.0, 0.5, -0.5],
    [0.0, 0.0, 0.0, 0.0],
]

VALUES = [
    [0.5, -1.0, 2.0, 1.1],
    [0.2, 0.6, -2.5, 1.9],
    [1.4, 0.1, 1.3, -2.9],
    [-2.3, 3.0, 0.4, 2.6],
    [-0.7, -0.2, 1.5, -1.1],
]
TWO_TARGETS = [row[:2] for row in VALUES]
COUNTS = [
    [0.0, 1.0, 12.0, 3.0],
    [2.0, 7.0, 0.0, 5.0],
    [4.0, 0.0, 1.0, 0.0],
    [0.0, 3.0, 2.0, 9.0],
    [1.0, 0.0, 30.0, 1.0],
]
BITS = [
    [1.0, 0.0, 1.0, 0.0],
    [0.0, 1.0, 0.0, 1.0],
    [1.0, 1.0, 0.0, 0.0],
    [0.0, 0.25, 1.0, 1.0],
    [0.5, 0.0, 1.0, 0.75],
]
PROBABILITIES = [
    [0.125, 0.25, 0.5, 0.125],
    [0.0, 1.0, 0.0, 0.0],
    [0.75, 0.125, 0.125, 0.0],
    [0.25, 0.25, 0.25, 0.25],
    [0.0, 0.0, 0.375, 0.625],
]
LABELS = [2, 0, 3, 1, 2]
POS_WEIGHTS = [0.5, 1.0, 2.0, 5.0]

# Name in Ranvier, options, torch's function. torch's own hardsigmoid has the derivative 1/6 in
# float32 even for float64 inputs, 3e-8 off, so it is taken from its definition.
ACTIVATIONS: list[tuple[str, Table, Callable[[Tensor], Tensor]]] = [
    ("sigmoid", {}, torch.sigmoid),
    ("tanh", {}, torch.tanh),
    ("relu", {}, F.relu),
    ("leaky_relu", {}, F.leaky_relu),
    ("leaky_relu", {"slope": 0.2}, lambda x: F.leaky_relu(x, 0.2)),
    ("elu", {}, F.elu),
    ("elu", {"alpha": 0.7}, lambda x: F.elu(x, 0.7)),
    ("selu", {}, F.selu),
    ("gelu", {}, F.gelu),
    ("gelu_tanh", {}, lambda x: F.gelu(x, approximate="tanh")),
    ("silu", {}, F.silu),
    ("softplus", {}, F.softplus),
    ("hard_sigmoid", {}, lambda x: F.relu6(x + 3) / 6),
    ("hard_swish", {}, F.hardswish),
    ("mish", {}, F.mish),
]

# Loss, options, outputs, targets, torch's function.
LOSSES: list[tuple[str, Table, Matrix, list, Callable[[Tensor, Tensor], Tensor]]] = [
    ("mse", {}, X, VALUES, F.mse_loss),
    ("mae", {}, X, VALUES, F.l1_loss),
    ("huber", {}, X, VALUES, F.huber_loss),
    ("huber", {"delta": 0.5}, X, VALUES, lambda z, y: F.huber_loss(z, y, delta=0.5)),
    ("poisson", {}, X, COUNTS, lambda z, y: F.poisson_nll_loss(z, y, log_input=True, full=False)),
    (
        "gaussian_nll",
        {},
        X,
        TWO_TARGETS,
        lambda z, y: F.gaussian_nll_loss(z[:, :2], y, z[:, 2:].exp(), full=False),
    ),
    ("cross_entropy", {}, X, LABELS, F.cross_entropy),
    ("cross_entropy", {}, EXTREME, LABELS, F.cross_entropy),
    (
        "cross_entropy",
        {"label_smoothing": 0.1},
        X,
        LABELS,
        lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1),
    ),
    ("cross_entropy", {}, X, PROBABILITIES, F.cross_entropy),
    (
        "cross_entropy",
        {"label_smoothing": 0.1},
        X,
        PROBABILITIES,
        lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1),
    ),
    ("binary_cross_entropy", {}, X, BITS, F.binary_cross_entropy_with_logits),
    ("binary_cross_entropy", {}, EXTREME, BITS, F.binary_cross_entropy_with_logits),
    (
        "binary_cross_entropy",
        {"pos_weight": 2.5},
        X,
        BITS,
        lambda z, y: F.binary_cross_entropy_with_logits(z, y, pos_weight=tensor(2.5)),
    ),
    (
        "binary_cross_entropy",
        {"pos_weight": POS_WEIGHTS},
        X,
        BITS,
        lambda z, y: F.binary_cross_entropy_with_logits(z, y, pos_weight=tensor(POS_WEIGHTS)),
    ),
]


# Ranvier's equations, for mpmath.


def sigmoid(x: mp.mpf) -> mp.mpf:
    """Return 1 / (1 + exp(-x))."""
    return 1 / (1 + mp.exp(-x))


def softplus(x: mp.mpf) -> mp.mpf:
    """Return ln(1 + exp(x))."""
    return mp.log1p(mp.exp(x))


def hard_sigmoid(x: mp.mpf) -> mp.mpf:
    """Return x + 3, clipped to [0, 6], over 6."""
    return min(max(x + 3, mp.mpf(0)), mp.mpf(6)) / 6


def activation(name: str, options: Table) -> Callable[[mp.mpf], mp.mpf]:
    """Return the activation of that name as a function of one number."""
    slope = mp.mpf(options.get("slope", 0.01))
    alpha = mp.mpf(options.get("alpha", 1.0))
    selu_scale, selu_alpha = mp.mpf(1.0507009873554805), mp.mpf(1.6732632423543772)
    gelu_scale = mp.sqrt(2 / mp.pi)
    return {
        "sigmoid": sigmoid,
        "tanh": mp.tanh,
        "relu": lambda x: max(x, mp.mpf(0)),
        "leaky_relu": lambda x: x if x > 0 else slope * x,
        "elu": lambda x: x if x > 0 else alpha * mp.expm1(x),
        "selu": lambda x: selu_scale * (x if x > 0 else selu_alpha * mp.expm1(x)),
        "gelu": lambda x: x * mp.ncdf(x),
        "gelu_tanh": lambda x: x / 2 * (1 + mp.tanh(gelu_scale * (x + mp.mpf("0.044715") * x**3))),
        "silu": lambda x: x * sigmoid(x),
        "softplus": softplus,
        "hard_sigmoid": hard_sigmoid,
        "hard_swish": lambda x: x * hard_sigmoid(x),
        "mish": lambda x: x * mp.tanh(softplus(x)),
    }[name]


# Where an activation changes its branch: the side that gives its derivative there.
KINKS: dict[str, dict[float, int]] = {
    "relu": {0.0: -1},
    "leaky_relu": {0.0: -1},
    "elu": {0.0: -1},
    "selu": {0.0: -1},
    "hard_sigmoid": {-3.0: -1, 3.0: 1},
    "hard_swish": {-3.0: -1, 3.0: 1},
}


def normalized(x: Vector, eps: float) -> Vector:
    """Return (x - mean) / sqrt(var + eps) with the biased variance."""
    mean = mp.fsum(x) / len(x)
    var = mp.fsum((v - mean) ** 2 for v in x) / len(x)
    return [(v - mean) / mp.sqrt(var + mp.mpf(eps)) for v in x]


def norm_layer(kind: str, eps: float, x: list[Vector], weight: Vector, bias: Vector) -> Vector:
    """Return the output of LayerNorm or of BatchNorm in training, row after row."""
    if kind == "LayerNorm":
        rows = [normalized(row, eps) for row in x]
    else:
        columns = [normalized(list(column), eps) for column in zip(*x, strict=True)]
        rows = [list(row) for row in zip(*columns, strict=True)]
    return [w * v + b for row in rows for w, v, b in zip(weight, row, bias, strict=True)]


def loss(name: str, options: Table, targets: list, outputs: list[Vector]) -> mp.mpf:
    """Return the loss of raw outputs."""
    n, k = len(outputs), len(outputs[0])
    if name == "cross_entropy":
        smoothing = mp.mpf(options.get("label_smoothing", 0.0))
        total = mp.mpf(0)
        for z, target in zip(outputs, targets, strict=True):
            y = [float(j == target) for j in range(k)] if isinstance(target, int) else target
            log_sum = max(z) + mp.log(mp.fsum(mp.exp(v - max(z)) for v in z))
            total += mp.fsum(
                ((1 - smoothing) * t + smoothing / k) * (log_sum - v)
                for t, v in zip(y, z, strict=True)
            )
        return total / n
    if name == "gaussian_nll":
        terms = [
            (z[j + k // 2] + (z[j] - y[j]) ** 2 * mp.exp(-z[j + k // 2])) / 2
            for z, y in zip(outputs, targets, strict=True)
            for j in range(k // 2)
        ]
        return mp.fsum(terms) / len(terms)
    delta = mp.mpf(options.get("delta", 1.0))
    p = options.get("pos_weight", 1.0)
    positive = p if isinstance(p, list) else [p] * k

    def element(z: mp.mpf, y: float, p: float) -> mp.mpf:
        d = z - y
        if name == "mse":
            return d**2
        if name == "mae":
            return abs(d)
        if name == "huber":
            return d**2 / 2 if abs(d) < delta else delta * (abs(d) - delta / 2)
        if name == "poisson":
            return mp.exp(z) - y * z
        log_sigmoid = min(z, mp.mpf(0)) - mp.log1p(mp.exp(-abs(z)))
        return (1 - y) * z - (1 + (p - 1) * mp.mpf(y)) * log_sigmoid

    rows = zip(outputs, targets, strict=True)
    return mp.fsum(element(*e) for z, y in rows for e in zip(z, y, positive, strict=True)) / (n * k)


# Checks.


def difference_quotients(f: Callable[[Vector], mp.mpf], x: Vector) -> Vector:
    """Return the gradient of f by central differences."""

    def moved(i: int, h: mp.mpf) -> mp.mpf:
        return f([*x[:i], x[i] + h, *x[i + 1 :]])

    return [(moved(i, H) - moved(i, -H)) / (2 * H) for i in range(len(x))]


def exact(values: object) -> Vector:
    """Return all numbers of nested lists, row after row, as they are."""
    if isinstance(values, list):
        return [v for part in values for v in exact(part)]
    return [mp.mpf(values)]


def matrix(flat: Vector, columns: int = 4) -> list[Vector]:
    """Return the rows of a flat list."""
    return [flat[i : i + columns] for i in range(0, len(flat), columns)]


def deviation(values: object, expected: Vector) -> float:
    """Return the largest difference, relative to the largest value."""
    scale = max(abs(e) for e in expected)
    return float(
        max(abs(v - e) for v, e in zip(exact(values), expected, strict=True)) / (scale or 1)
    )


def report(name: str, options: Table, *deviations: float) -> None:
    """Print the deviations of an entry and stop at one that is too large."""
    print("  ".join(f"{d:8.1e}" for d in deviations), f" {name} {options or ''}")
    if not max(deviations) <= TOLERANCE:
        raise SystemExit(f"{name} {options} departs from the equations")


# torch.


def tensor(values: object) -> Tensor:
    """Return a float64 tensor."""
    return torch.tensor(values, dtype=torch.float64)


def is_negative_zero(x: float) -> bool:
    """Tell -0.0 from everything else."""
    return x == 0 and math.copysign(1, x) < 0


def activation_entry(name: str, options: Table, function: Callable[[Tensor], Tensor]) -> Table:
    """Return values and derivatives of an activation at `POINTS`, checked."""
    x = tensor(POINTS).requires_grad_()
    y = function(x)
    (dy,) = torch.autograd.grad(y.sum(), x)
    derivative: list[float | None] = dy.tolist()

    f = activation(name, options)
    kinks = KINKS.get(name, {})
    derivative_errors = []
    for i, point in enumerate(POINTS):
        p = mp.mpf(point)
        if point in kinks:
            side = kinks[point] * H
            expected = (f(p + side) - f(p)) / side
        else:
            expected = (f(p + H) - f(p - H)) / (2 * H)
        derivative_errors.append(float(abs(derivative[i] - expected)))
        if point in kinks and is_negative_zero(point):
            derivative[i] = None
    value_errors = [
        float(abs(v - f(mp.mpf(p))) / max(1, abs(p)))
        for v, p in zip(y.tolist(), POINTS, strict=True)
    ]
    report(name, options, max(value_errors), max(derivative_errors))
    return {
        "activation": name,
        "options": options,
        "value": y.tolist(),
        "derivative": derivative,
    }


def norm_step(kind: str, options: Table, layer: torch.nn.Module, inputs: Matrix) -> Table:
    """Return output and gradients of a layer in training on one batch, checked."""
    x = tensor(inputs).requires_grad_()
    output = layer(x)
    gradients = torch.autograd.grad(output, [x, layer.weight, layer.bias], tensor(D_OUTPUT))
    d_input, d_weight, d_bias = (g.tolist() for g in gradients)

    eps, d_output = options.get("eps", 1e-5), exact(D_OUTPUT)
    x0, w0, b0 = exact(inputs), exact(WEIGHT), exact(BIAS)

    def out(x: Vector, weight: Vector, bias: Vector) -> Vector:
        return norm_layer(kind, eps, matrix(x), weight, bias)

    report(
        kind,
        options,
        deviation(output.tolist(), out(x0, w0, b0)),
        deviation(d_input, difference_quotients(lambda v: mp.fdot(d_output, out(v, w0, b0)), x0)),
        deviation(d_weight, difference_quotients(lambda v: mp.fdot(d_output, out(x0, v, b0)), w0)),
        deviation(d_bias, difference_quotients(lambda v: mp.fdot(d_output, out(x0, w0, v)), b0)),
    )
    return {
        "input": inputs,
        "d_output": D_OUTPUT,
        "output": output.tolist(),
        "d_input": d_input,
        "d_weight": d_weight,
        "d_bias": d_bias,
    }


def norm_entry(kind: str, options: Table) -> Table:
    """Return a normalisation layer: one batch of LayerNorm, two and evaluation of BatchNorm."""
    layer_class = torch.nn.LayerNorm if kind == "LayerNorm" else torch.nn.BatchNorm1d
    layer = layer_class(4, dtype=torch.float64, **options)
    with torch.no_grad():
        layer.weight.copy_(tensor(WEIGHT))
        layer.bias.copy_(tensor(BIAS))
    entry = {"layer": kind, "options": options, "weight": WEIGHT, "bias": BIAS}
    if kind == "LayerNorm":
        return entry | {"train": [norm_step(kind, options, layer, X)]}

    batches = []
    momentum = mp.mpf(options.get("momentum", 0.1))
    mean, var = [mp.mpf(0)] * 4, [mp.mpf(1)] * 4
    for inputs in (X, SECOND_X):
        step = norm_step(kind, options, layer, inputs)
        step["running_mean"] = layer.running_mean.tolist()
        step["running_var"] = layer.running_var.tolist()
        batches.append(step)

        for j, column in enumerate(zip(*inputs, strict=True)):
            batch_mean = mp.fsum(column) / len(column)
            batch_var = mp.fsum((v - batch_mean) ** 2 for v in column) / (len(column) - 1)
            mean[j] = (1 - momentum) * mean[j] + momentum * batch_mean
            var[j] = (1 - momentum) * var[j] + momentum * batch_var
        mean_error = deviation(step["running_mean"], mean)
        report("  running", options, mean_error, deviation(step["running_var"], var))

    layer.eval()
    output = layer(tensor(X)).tolist()
    eps = mp.mpf(options.get("eps", 1e-5))
    expected = [
        w * (v - m) / mp.sqrt(s + eps) + b
        for row in X
        for w, v, m, s, b in zip(WEIGHT, row, mean, var, BIAS, strict=True)
    ]
    report("  evaluation", options, deviation(output, expected))
    return entry | {"train": batches, "evaluation": {"input": X, "output": output}}


def loss_entry(
    name: str,
    options: Table,
    outputs: Matrix,
    targets: list,
    function: Callable[[Tensor, Tensor], Tensor],
) -> Table:
    """Return value and gradient of a loss, checked."""
    z = tensor(outputs).requires_grad_()
    value = function(z, torch.tensor(targets) if targets is LABELS else tensor(targets))
    (gradient,) = torch.autograd.grad(value, z)

    def f(flat: Vector) -> mp.mpf:
        return loss(name, options, targets, matrix(flat))

    z0 = exact(outputs)
    report(
        name,
        options,
        deviation(value.item(), [f(z0)]),
        deviation(gradient.tolist(), difference_quotients(f, z0)),
    )
    return {
        "loss": name,
        "options": options,
        "output": outputs,
        "target": targets,
        "value": value.item(),
        "gradient": gradient.tolist(),
    }


def main() -> None:
    """Make and check every entry and write the table."""
    header = {
        "about": "Activations, layers and losses in float64, made by torch and its autograd",
        "command": COMMAND,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "options": "those not named are at their default",
        "derivative": "null at -0.0 for the activations that change their branch at 0",
        "d_input, d_weight, d_bias": "gradients of sum(d_output * output), of that batch alone",
        "running_mean, running_var": "after that batch; they start from 0 and 1",
        "gradient": "of the loss with respect to output",
        "x": POINTS,
    }
    norms: list[tuple[str, Table]] = [
        ("LayerNorm", {}),
        ("LayerNorm", {"eps": 0.1}),
        ("BatchNorm", {}),
        ("BatchNorm", {"momentum": 0.25, "eps": 0.01}),
    ]
    sections = {
        "activations": [activation_entry(*entry) for entry in ACTIVATIONS],
        "layers": [norm_entry(*entry) for entry in norms],
        "losses": [loss_entry(*entry) for entry in LOSSES],
    }
    parts = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in header.items()]
    for key, entries in sections.items():
        lines = ",\n".join(json.dumps(entry) for entry in entries)
        parts.append(f'"{key}": [\n{lines}\n]')
    path = Path(__file__).with_name("layers.json")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
