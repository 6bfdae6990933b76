"""Records the trainings of tests/mistakes.py in torch and Keras: writes traces.zip beside itself.

    pip install torch keras && KERAS_BACKEND=torch python tests/data/make_traces.py

Keras computes products in float64 in float32 unless it is told otherwise, as here.
"""

import os
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch

import mistakes
from mistakes import ROWS, STEPS, data, model, write_trace

# ---------------------------------------------------------------- torch


class Turned(torch.nn.Linear):
    """A layer that takes its weight for (in, out)."""

    def forward(self, x):
        return x @ self.weight + self.bias


class Unbiased(torch.nn.Linear):
    """A layer that forgets its bias."""

    def forward(self, x):
        return x @ self.weight.T + 0 * self.bias


class FlatTanh(torch.autograd.Function):
    """tanh whose derivative is left out."""

    @staticmethod
    def forward(ctx, x):
        return torch.tanh(x)

    @staticmethod
    def backward(ctx, d):
        return d


class Flat(torch.nn.Module):
    def forward(self, x):
        return FlatTanh.apply(x)


class Adam(torch.optim.Optimizer):
    """Adam written out, with a mistake."""

    def __init__(self, parameters, mistake, lr=0.01):
        super().__init__(parameters, {"lr": lr})
        self.mistake = mistake

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                t = state["t"] = state.get("t", 0) + 1
                m = state["m"] = 0.9 * state.get("m", 0) + 0.1 * p.grad
                v = state["v"] = 0.999 * state.get("v", 0) + 0.001 * p.grad**2
                t = 1 if self.mistake == "count_stays" else t
                c1, c2 = 1 - 0.9**t, (1 - 0.999**t) ** 0.5
                if self.mistake == "no_correction":
                    c1 = c2 = 1.0
                eps = 1e-8 / c2 if self.mistake == "eps_hat" else 1e-8
                p -= group["lr"] / c1 * m / (v.sqrt() / c2 + eps)


def torch_training(name, case):
    """Tensors of a trace, by the recorder of the guide with the mistake of that name."""
    ours = model(case.stack)
    module = ours.to_torch().train()
    start = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    if name == "other_start":
        start["2.weight"] = start["2.weight"].T.contiguous()
    kinds = {"transposed": (2, Turned), "no_bias": (4, Unbiased)}
    if name in kinds:
        place, kind = kinds[name]
        old = module[place]
        module[place] = kind(old.in_features, old.out_features, dtype=torch.float64)
    others = {
        "no_activation": (1, torch.nn.Identity()),
        "sigmoid": (3, torch.nn.Sigmoid()),
        "no_derivative": (1, Flat()),
        "dropout": (1, torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Dropout(0.5))),
        "norm_eps": (2, torch.nn.LayerNorm(3, eps=1e-3, dtype=torch.float64)),
        "norm_momentum": (2, torch.nn.BatchNorm1d(3, momentum=0.9, dtype=torch.float64)),
    }
    if name in others:
        module[others[name][0]] = others[name][1]
    module.load_state_dict(start)
    if name == "softmax":
        module.append(torch.nn.Softmax(dim=1))
    if name == "norm_evaluates":
        module[2].eval()
    if name == "frozen":
        module[0].requires_grad_(False)

    ce = case.options.get("loss", "mse") == "cross_entropy"
    losses = {
        "sum": torch.nn.MSELoss(reduction="sum"),
        "sum_of_rows": torch.nn.CrossEntropyLoss(reduction="sum"),
        "half": lambda z, y: 0.5 * ((z - y) ** 2).mean(),
        "broadcast": lambda z, y: ((z - y[:, 0]) ** 2).mean(),
        "double_softmax": lambda z, y: torch.nn.functional.cross_entropy(z.softmax(1), y),
        "smoothing": torch.nn.CrossEntropyLoss(label_smoothing=0.1),
        "l1_loss": torch.nn.L1Loss(),
        "penalty": lambda z, y: (
            ((z - y) ** 2).mean() + 0.01 * sum((module[i].weight ** 2).sum() for i in (0, 2, 4))
        ),
    }
    loss = losses.get(name, torch.nn.CrossEntropyLoss() if ce else torch.nn.MSELoss())

    parameters = list(module.parameters())
    matrices = [p for p in parameters if p.ndim == 2]
    others = [p for p in parameters if p.ndim != 2]
    groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    sgd = {"lr": 0.1}
    optim = torch.optim
    made = {
        "eps": lambda: optim.Adam(parameters, eps=1e-6),
        "eps_hat": lambda: Adam(parameters, name),
        "no_correction": lambda: Adam(parameters, name, lr=0.001),
        "count_stays": lambda: Adam(parameters, name),
        "coupled": lambda: optim.Adam(parameters, lr=0.01, weight_decay=0.1),
        "no_decay": lambda: optim.Adam(parameters, lr=0.01),
        "double_decay": lambda: optim.AdamW(parameters, lr=0.01, weight_decay=0.2),
        # 0.1 = 0.01 · 10.
        "decay_without_rate": lambda: optim.AdamW(parameters, lr=0.01, weight_decay=10.0),
        "decay_of_weights": lambda: optim.AdamW(groups, lr=0.01, weight_decay=0.1),
        "betas_swapped": lambda: optim.Adam(parameters, betas=(0.999, 0.9)),
        "rate": lambda: optim.Adam(parameters, lr=0.02),
        "no_momentum": lambda: optim.SGD(parameters, **sgd),
        "nesterov": lambda: optim.SGD(parameters, momentum=0.9, nesterov=True, **sgd),
        "dampening": lambda: optim.SGD(parameters, momentum=0.9, dampening=0.9, **sgd),
        "ascent": lambda: optim.SGD(parameters, maximize=True, **sgd),
        "bias_left_out": lambda: optim.SGD([*matrices, module[0].bias, module[4].bias], **sgd),
    }
    own = {
        mistakes.ADAM: lambda: optim.Adam(parameters, lr=0.01),
        mistakes.ADAMW: lambda: optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
        mistakes.SGD: lambda: optim.SGD(parameters, **sgd),
        mistakes.MOMENTUM: lambda: optim.SGD(parameters, momentum=0.9, **sgd),
    }
    rule = case.options.get("optimizer")
    optimizer = (
        made[name]() if name in made else own[rule]() if rule else optim.Adam(parameters, lr=0.001)
    )

    X, y = map(torch.from_numpy, data(case))
    tensors = {}

    def keep(step, kind, values):
        for key, value in values:
            if not key.endswith("num_batches_tracked"):
                value = value.detach().numpy().astype(np.float64)
                tensors[f"{step}.{kind}.{key}"] = np.ascontiguousarray(value)

    keep(0, "parameter", module.state_dict().items())
    # What comes into a layer is the output of the one before.
    inner = {}
    numbers = [0, *(i for i, m in enumerate(module) if list(m.parameters()))][1:]
    for layer, place in enumerate(numbers[1:]):
        module[place].register_forward_pre_hook(
            lambda _, given, layer=layer: inner.update({layer: given[0]})
        )
    for step in range(1, STEPS + 1):
        first = (step - 1) * ROWS % len(X)
        rows = torch.arange(first, first + ROWS)
        if name == "other_rows":
            rows = rows.flip(0)
        if name != "not_zeroed":
            optimizer.zero_grad()
        output = module(X[rows])
        value = loss(output, y[rows])
        value.backward()
        if name == "clipped":
            torch.nn.utils.clip_grad_norm_(parameters, 0.1)
        if name == "clipped_values":
            torch.nn.utils.clip_grad_value_(parameters, 0.05)
        if name == "mean_of_bias":
            module[4].bias.grad /= ROWS
        gradients = [
            (key, torch.zeros_like(p) if p.grad is None else p.grad)
            for key, p in module.named_parameters()
        ]
        keep(step, "gradient", gradients)
        keep(step, "output", ((str(layer), given) for layer, given in inner.items()))
        tensors[f"{step}.output"] = output.detach().numpy()
        tensors[f"{step}.loss"] = np.float64(value.item())
        optimizer.step()
        keep(step, "parameter", module.state_dict().items())
    return tensors


# ---------------------------------------------------------------- Keras


def keras_subject(name, case):
    """(model, loss, optimizer) of Keras with the mistake of that name."""
    import keras
    from keras import layers as kl
    from keras import optimizers as ko

    def tanh(units, **options):
        return kl.Dense(units, "tanh", **options)

    class Turned(kl.Dense):
        def call(self, x):
            return self.activation(
                keras.ops.matmul(x, keras.ops.transpose(self.kernel)) + self.bias
            )

    class Adam(ko.Adam):
        """Without bias corrections."""

        def update_step(self, gradient, variable, learning_rate):
            m, v = (
                moments[self._get_variable_index(variable)]
                for moments in (self._momentums, self._velocities)
            )
            self.assign(m, 0.9 * m + 0.1 * gradient)
            self.assign(v, 0.999 * v + 0.001 * gradient**2)
            step = learning_rate * m / (keras.ops.sqrt(v) + self.epsilon)
            self.assign_sub(variable, step)

    l2 = keras.regularizers.L2
    stacks = {
        "plain": lambda: [tanh(3), tanh(3), kl.Dense(2)],
        "batch_norm": lambda: [
            tanh(3),
            kl.BatchNormalization(momentum=0.9, epsilon=1e-5),
            kl.Dense(2),
        ],
        "keras_norm": lambda: [tanh(3), kl.LayerNormalization(), kl.Dense(2)],
        "layer_norm": lambda: [kl.Dense(3, "relu"), kl.LayerNormalization(), kl.Dense(2)],
        "penalty": lambda: [
            tanh(3, kernel_regularizer=l2(0.05)),
            kl.Dense(2, kernel_regularizer=l2(0.05)),
        ],
    }
    others = {
        "transposed": lambda: [tanh(3), Turned(3, "tanh"), kl.Dense(2)],
        "no_activation": lambda: [kl.Dense(3), tanh(3), kl.Dense(2)],
        "relu": lambda: [tanh(3), kl.Dense(3, "relu"), kl.Dense(2)],
        "dropout": lambda: [tanh(3), kl.Dropout(0.5, seed=0), tanh(3), kl.Dense(2)],
        "frozen": lambda: [tanh(3, trainable=False), tanh(3), kl.Dense(2)],
        "penalty": lambda: [
            *(tanh(3, kernel_regularizer=l2(0.01)) for _ in range(2)),
            kl.Dense(2, kernel_regularizer=l2(0.01)),
        ],
    }
    keras.config.set_floatx("float64")
    stack = (others[name] if name in others and case.step else stacks[case.stack])()
    made = keras.Sequential([keras.Input((2,)), *stack])

    ce = case.options.get("loss", "mse") == "cross_entropy"
    sparse = keras.losses.SparseCategoricalCrossentropy
    losses = {
        "sum": keras.losses.MeanSquaredError(reduction="sum"),
        "mae": keras.losses.MeanAbsoluteError(),
        "double_softmax": lambda y, z: sparse(from_logits=True)(y, keras.ops.softmax(z)),
        "smoothing": lambda y, z: keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=0.1
        )(keras.ops.one_hot(y, 2, dtype="float64"), z),
    }
    loss = losses.get(name, sparse(from_logits=True) if ce else keras.losses.MeanSquaredError())
    optimizers = {
        "eps": ko.Adam(0.01, epsilon=1e-4),
        "no_correction": Adam(0.01),
        "no_decay": ko.Adam(0.01),
        "double_decay": ko.AdamW(0.01, weight_decay=0.2),
        "betas_swapped": ko.Adam(0.01, beta_1=0.999, beta_2=0.9),
        "rate": ko.Adam(0.02),
        "no_momentum": ko.SGD(0.1),
        "nesterov": ko.SGD(0.1, momentum=0.9, nesterov=True),
        "clip_each": ko.SGD(0.1, clipnorm=0.1),
        "clip_value": ko.SGD(0.1, clipvalue=0.1),
        "plain_sgd": ko.SGD(0.01),
    }
    if name == "decay_of_weights":

        class Excluding(ko.AdamW):
            def _use_weight_decay(self, variable):
                return "bias" not in variable.name

        optimizers[name] = Excluding(0.01, weight_decay=0.1)
    own = {
        mistakes.COARSE: ko.Adam(0.01, epsilon=1e-3),
        mistakes.KERAS_ADAM: ko.Adam(0.01),
        mistakes.KERAS_DECAY: ko.AdamW(0.01, weight_decay=0.1),
        mistakes.KERAS_SGD: ko.SGD(0.1),
        mistakes.KERAS_MOMENTUM: ko.SGD(0.1, momentum=0.9),
    }
    keras.config.set_floatx("float32")
    fallback = own[case.options["optimizer"]]
    return made, loss, optimizers.get(name, fallback) if case.step else fallback


def keras_training(name, case):
    """Tensors of a trace: what `crosscheck` has a live model compute."""
    from ranvier._crosscheck._keras import trace

    X, y = data(case)
    batches = [(X[i : i + ROWS], y[i : i + ROWS]) for i in (0, ROWS)]
    found = trace(model(case.stack), keras_subject(name, case), batches)
    tensors = {f"0.parameter.{key}": array for key, array in found.start.items()}
    for number, step in enumerate(found.steps, start=1):
        tensors |= {f"{number}.output.{layer}": array for layer, array in step.outputs.items()}
        tensors |= {f"{number}.gradient.{key}": array for key, array in step.gradients.items()}
        tensors |= {f"{number}.parameter.{key}": array for key, array in step.parameters.items()}
        tensors |= {f"{number}.output": step.output, f"{number}.loss": np.float64(step.loss)}
    # As exact as Keras's rates, which are variables in float32.
    return {key: array.astype(np.float32) for key, array in tensors.items()}


def exact_keras(patch):
    """Keras in float64: `patch` sets an entry of a dict."""
    from keras.src.backend.common import dtypes

    patch(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")


def main():
    torch.manual_seed(0)
    exact_keras(dict.__setitem__)
    kinds = [
        ("torch", "torch", torch_training, mistakes.TORCH),
        ("torch-twin", "torch", torch_training, mistakes.TORCH_TWINS),
        ("keras", "ranvier", keras_training, mistakes.KERAS),
        ("keras-twin", "ranvier", keras_training, mistakes.KERAS_TWINS),
    ]
    target = Path(__file__).with_name("traces.zip")
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(target, "w") as archive:
        for kind, layout, training, cases in kinds:
            for name, case in cases.items():
                path = Path(folder) / f"{kind}-{name}.safetensors"
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    write_trace(path, training(name, case), layout)
                # The same bytes whenever it is run.
                entry = zipfile.ZipInfo(path.name)
                archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, 9)


if __name__ == "__main__":
    main()
