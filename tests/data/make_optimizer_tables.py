"""Make `optimizers.json`: what torch, Keras and scikit-learn do with Ranvier's optimiser options.

Six parameters walk 200 steps in float64 along a gradient that depends on the step and on the
parameters, once per entry of `ENTRIES`. Each walk is made by the framework itself and compared,
step by step, with the equations of Ranvier written out in `equations`; the largest deviation of
each is printed, and none may exceed `TOLERANCE`. Tests read the table, so that they need none of
the three frameworks.

Needs the packages torch, keras (3, with its torch backend) and scikit-learn. Run it with

    python tests/data/make_optimizer_tables.py
"""

import json
import math
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"
os.environ["KERAS_TORCH_DEVICE"] = "cpu"

import keras
import numpy as np
import sklearn
import torch
from sklearn.neural_network import MLPRegressor
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

COMMAND = "python tests/data/make_optimizer_tables.py"
STEPS = 200
RECORDED = (1, 2, 3, 5, 10, 50, 100, 200)
TOLERANCE = 1e-12

START = [0.5, -0.3, 0.8, -1.2, 0.05, 2.0]
CURVATURE = [1.0, 0.1, 10.0, 0.01, 0.5, 3.0]
GRADIENT_TEXT = (
    "g[i] = a[i] * theta[i] + 0.3 * sin(0.7 * t * (i + 1)) at step t = 1, 2, ... and index "
    "i = 0 ... 5, with the theta before the step, before clipping and weight decay; "
    "g[4] = 0 exactly for 50 <= t <= 120"
)

Vector = list[float]
Options = dict[str, object]

# (framework, optimizer, options); what is not named keeps the default of the framework. torch's SGD
# always names its rate, because torch's default (0.001) is not Ranvier's (0.01).
ENTRIES: list[tuple[str, str, Options]] = [
    ("torch", "SGD", {"learning_rate": 0.05}),
    ("torch", "SGD", {"learning_rate": 0.02, "momentum": 0.9}),
    ("torch", "SGD", {"learning_rate": 0.02, "momentum": 0.9, "dampening": 0.3}),
    ("torch", "SGD", {"learning_rate": 0.02, "momentum": 0.9, "nesterov": True}),
    ("torch", "SGD", {"learning_rate": 0.05, "weight_decay": 0.1}),
    ("torch", "SGD", {"learning_rate": 0.02, "momentum": 0.8, "weight_decay": 0.1}),
    (
        "torch",
        "SGD",
        {"learning_rate": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    ),
    ("torch", "SGD", {"learning_rate": 0.05, "clip_norm": 1.0}),
    ("torch", "SGD", {"learning_rate": 0.05, "clip_value": 0.5}),
    ("torch", "SGD", {"learning_rate": 0.05, "weight_decay": 0.1, "clip_norm": 1.0}),
    ("torch", "Adam", {}),
    ("torch", "Adam", {"learning_rate": 0.05}),
    ("torch", "Adam", {"learning_rate": 0.03, "beta1": 0.8, "beta2": 0.95}),
    ("torch", "Adam", {"learning_rate": 0.03, "eps": 1e-3}),
    ("torch", "Adam", {"learning_rate": 0.03, "weight_decay": 0.1}),
    ("torch", "Adam", {"learning_rate": 0.05, "beta2": 0.9, "amsgrad": True}),
    (
        "torch",
        "Adam",
        {"learning_rate": 0.05, "beta2": 0.9, "amsgrad": True, "weight_decay": 0.1},
    ),
    ("torch", "Adam", {"learning_rate": 0.03, "clip_norm": 1.0}),
    ("torch", "AdamW", {}),
    ("torch", "AdamW", {"learning_rate": 0.05}),
    ("torch", "AdamW", {"learning_rate": 0.03, "weight_decay": 0.1}),
    ("torch", "AdamW", {"learning_rate": 0.05, "beta2": 0.9, "amsgrad": True}),
    ("keras", "SGD", {}),
    ("keras", "SGD", {"learning_rate": 0.05}),
    ("keras", "SGD", {"learning_rate": 0.02, "momentum": 0.9}),
    ("keras", "SGD", {"learning_rate": 0.02, "momentum": 0.9, "nesterov": True}),
    ("keras", "SGD", {"learning_rate": 0.05, "nesterov": True}),
    ("keras", "SGD", {"learning_rate": 0.05, "weight_decay": 0.1}),
    ("keras", "SGD", {"learning_rate": 0.02, "momentum": 0.9, "weight_decay": 0.1}),
    ("keras", "Adam", {}),
    ("keras", "Adam", {"learning_rate": 0.03, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3}),
    ("keras", "Adam", {"learning_rate": 0.05, "beta2": 0.9, "amsgrad": True}),
    ("keras", "Adam", {"learning_rate": 0.03, "weight_decay": 0.1}),
    ("keras", "AdamW", {}),
    ("keras", "AdamW", {"learning_rate": 0.05, "weight_decay": 0.1}),
    ("keras", "AdamW", {"learning_rate": 0.05, "beta2": 0.9, "amsgrad": True}),
    ("sklearn", "SGD", {}),
    ("sklearn", "SGD", {"learning_rate": 0.02}),
    ("sklearn", "SGD", {"learning_rate": 0.02, "momentum": 0.8, "nesterov": False}),
    ("sklearn", "SGD", {"learning_rate": 0.05, "momentum": 0.0}),
    ("sklearn", "Adam", {}),
    ("sklearn", "Adam", {"learning_rate": 0.03, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3}),
]


def gradient(t: int, theta: Vector) -> Vector:
    """Return the gradient at step t (from 1), as `GRADIENT_TEXT` says."""
    g = [
        a * x + 0.3 * math.sin(0.7 * t * (i + 1))
        for i, (a, x) in enumerate(zip(CURVATURE, theta, strict=True))
    ]
    if 50 <= t <= 120:
        g[4] = 0.0
    return g


# The frameworks. Each function yields theta after every step.


def walk_torch(optimizer: str, options: Options) -> Iterator[Vector]:
    """Walk with torch.optim, theta in two tensors so that the norm to clip by is a global one."""
    names = {"learning_rate": "lr"}
    own = {"beta1", "beta2", "clip_norm", "clip_value"}
    arguments = {names.get(k, k): v for k, v in options.items() if k not in own}
    if "beta1" in options or "beta2" in options:
        arguments["betas"] = (options.get("beta1", 0.9), options.get("beta2", 0.999))
    parts = [
        torch.nn.Parameter(torch.tensor(part, dtype=torch.float64))
        for part in (START[:4], START[4:])
    ]
    step = getattr(torch.optim, optimizer)(parts, foreach=False, fused=False, **arguments)
    for t in range(1, STEPS + 1):
        theta = [x for part in parts for x in part.tolist()]
        g = torch.tensor(gradient(t, theta), dtype=torch.float64)
        parts[0].grad, parts[1].grad = g[:4].clone(), g[4:].clone()
        if "clip_norm" in options:
            torch.nn.utils.clip_grad_norm_(
                parts, options["clip_norm"], error_if_nonfinite=True, foreach=False
            )
        if "clip_value" in options:
            torch.nn.utils.clip_grad_value_(parts, options["clip_value"], foreach=False)
        step.step()
        yield [x for part in parts for x in part.tolist()]


def walk_keras(optimizer: str, options: Options) -> Iterator[Vector]:
    """Walk with keras.optimizers; floatx is float64, so that no hyperparameter is float32."""
    names = {"beta1": "beta_1", "beta2": "beta_2", "eps": "epsilon"}
    keras.config.set_floatx("float64")
    theta = keras.Variable(np.array(START), dtype="float64", name="theta")
    step = getattr(keras.optimizers, optimizer)(**{names.get(k, k): v for k, v in options.items()})
    step.build([theta])
    for variable in step.variables:
        if variable.name != "iteration" and variable.dtype != "float64":
            raise TypeError(f"{variable.name} is {variable.dtype}")
    for t in range(1, STEPS + 1):
        g = keras.ops.convert_to_tensor(gradient(t, theta.numpy().tolist()), dtype="float64")
        step.apply([g])
        yield theta.numpy().tolist()


def walk_sklearn(optimizer: str, options: Options) -> Iterator[Vector]:
    """Walk with the optimisers of scikit-learn's MLP, whose defaults are those of the MLP."""
    mlp = MLPRegressor()
    arguments = {"learning_rate_init": mlp.learning_rate_init}
    if optimizer == "SGD":
        arguments |= {"momentum": mlp.momentum, "nesterov": mlp.nesterovs_momentum}
        step_class = SGDOptimizer
    else:
        arguments |= {"beta_1": mlp.beta_1, "beta_2": mlp.beta_2, "epsilon": mlp.epsilon}
        step_class = AdamOptimizer
    names = {
        "learning_rate": "learning_rate_init",
        "beta1": "beta_1",
        "beta2": "beta_2",
        "eps": "epsilon",
    }
    arguments |= {names.get(k, k): v for k, v in options.items()}
    theta = np.array(START)
    step = step_class([theta], **arguments)
    for t in range(1, STEPS + 1):
        step.update_params([theta], [np.array(gradient(t, theta.tolist()))])
        yield theta.tolist()


# The equations of Ranvier, parameter by parameter.


def with_defaults(dialect: str, optimizer: str, options: Options) -> Options:
    """Return all options of an optimiser, those not given at the default of the dialect."""
    if optimizer == "SGD":
        sklearn_dialect = dialect == "sklearn"
        defaults: Options = {
            "learning_rate": 0.001 if sklearn_dialect else 0.01,
            "momentum": 0.9 if sklearn_dialect else 0.0,
            "nesterov": sklearn_dialect,
            "dampening": 0.0,
            "weight_decay": 0.0,
        }
    else:
        decay = {"torch": 1e-2, "keras": 4e-3}[dialect] if optimizer == "AdamW" else 0.0
        defaults = {
            "learning_rate": 1e-3,
            "beta1": 0.9,
            "beta2": 0.999,
            "eps": 1e-7 if dialect == "keras" else 1e-8,
            "amsgrad": False,
            "weight_decay": decay,
        }
    return defaults | {"clip_norm": None, "clip_value": None} | options


def clipped(g: Vector, clip_norm: float | None, clip_value: float | None) -> Vector:
    """Return the gradient clipped by its norm or by value."""
    if clip_norm is not None:
        c = min(1.0, clip_norm / (math.sqrt(sum(x * x for x in g)) + 1e-6))
        return [c * x for x in g]
    if clip_value is not None:
        return [min(max(x, -clip_value), clip_value) for x in g]
    return g


def equations(dialect: str, optimizer: str, options: Options) -> Iterator[Vector]:
    """Walk with the update equations: clip, then decay, then update."""
    o = with_defaults(dialect, optimizer, options)
    lr, decay = o["learning_rate"], o["weight_decay"]
    decoupled = optimizer == "AdamW" or dialect == "keras"
    theta = list(START)
    first, second, largest = ([0.0] * len(theta) for _ in range(3))
    for t in range(1, STEPS + 1):
        g = clipped(gradient(t, theta), o["clip_norm"], o["clip_value"])
        for i, x in enumerate(theta):
            gi = g[i] if decoupled else g[i] + decay * x
            if decoupled:
                x = x * (1 - lr * decay) if dialect == "torch" else x - lr * decay * x
            if optimizer != "SGD":
                beta1, beta2, eps = o["beta1"], o["beta2"], o["eps"]
                m = first[i] = first[i] + (1 - beta1) * (gi - first[i])
                v = second[i] = beta2 * second[i] + ((1 - beta2) * gi) * gi
                if o["amsgrad"]:
                    v = largest[i] = max(largest[i], v)
                correction1, correction2 = 1 - beta1**t, math.sqrt(1 - beta2**t)
                if dialect == "torch":
                    update = -lr / correction1 * m / (math.sqrt(v) / correction2 + eps)
                else:
                    update = -lr * correction2 / correction1 * m / (math.sqrt(v) + eps)
            elif dialect == "torch":
                mu = o["momentum"]
                b = first[i] = gi if t == 1 else mu * first[i] + (1 - o["dampening"]) * gi
                update = -lr * (gi + mu * b if o["nesterov"] else b)
            else:
                mu = o["momentum"]
                v = first[i] = mu * first[i] - lr * gi
                update = mu * v - lr * gi if o["nesterov"] else v
            theta[i] = x + update
        yield list(theta)


def deviation(walk: list[Vector], reference: list[Vector]) -> float:
    """Return the largest difference of two walks, relative to each parameter's largest value."""
    scale = [abs(x) for x in START]
    worst = 0.0
    for theta, expected in zip(walk, reference, strict=True):
        scale = [max(s, abs(x)) for s, x in zip(scale, expected, strict=True)]
        differences = zip(theta, expected, scale, strict=True)
        worst = max(worst, *(abs(x - y) / s for x, y, s in differences))
    return worst


WALKS: dict[str, Callable[[str, Options], Iterator[Vector]]] = {
    "torch": walk_torch,
    "keras": walk_keras,
    "sklearn": walk_sklearn,
}


def main() -> None:
    """Walk every entry, check it against the equations and write the table."""
    lines = []
    for framework, optimizer, options in ENTRIES:
        walk = list(WALKS[framework](optimizer, options))
        worst = deviation(walk, list(equations(framework, optimizer, options)))
        print(f"{worst:9.2e}  {framework:7}  {optimizer:5}  {options}")
        if not worst <= TOLERANCE:
            raise SystemExit(f"{framework} {optimizer} {options} departs from the equations")
        entry = {
            "framework": framework,
            "optimizer": optimizer,
            "options": options | {"dialect": framework},
            "trajectory": {str(t): walk[t - 1] for t in RECORDED},
        }
        lines.append(json.dumps(entry))
    header = {
        "about": "Optimiser trajectories in float64, made by the frameworks themselves",
        "command": COMMAND,
        "versions": {
            "torch": torch.__version__,
            "keras": keras.__version__,
            "scikit-learn": sklearn.__version__,
            "python": platform.python_version(),
        },
        "options": "those not named are at the default of the dialect",
        "trajectory": "theta after the step that is its key",
        "gradient": GRADIENT_TEXT,
        "theta": START,
        "a": CURVATURE,
    }
    text = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in header.items())
    entries = ",\n".join(lines)
    path = Path(__file__).with_name("optimizers.json")
    path.write_text(f'{{\n{text},\n"entries": [\n{entries}\n]\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
