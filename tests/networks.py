"""Random networks over every layer and activation, for the tests of what models are exported to."""

from itertools import count

import numpy as np

import ranvier as rv
from ranvier import _core

ACTIVATIONS = [
    None,
    *_core.names("activation"),
    rv.activations.LeakyReLU(0.2),
    rv.activations.ELU(0.5),
    rv.activations.PReLU(0.1),
]
WIDTHS = [1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 40, 64, 65]


def moved(model, rng):
    """The model, with parameters and statistics away from where they start."""
    values = {}
    for name, value in model.parameters().items():
        noise = rng.normal(size=value.shape)
        if name.endswith("running_var"):
            # Now and then a feature that Standardize has not measured.
            values[name] = rng.uniform(0.3, 3.0, size=value.shape) * (noise > -0.7)
        else:
            values[name] = value + 0.3 * noise
    model.set_parameters(values)
    return model


def random_network(seed):
    """A network of one to six layers."""
    rng = np.random.default_rng(seed)

    def activation():
        return ACTIVATIONS[rng.integers(len(ACTIVATIONS))]

    def width():
        return int(WIDTHS[rng.integers(len(WIDTHS))])

    makers = [
        lambda: rv.Dense(width(), activation=activation(), use_bias=bool(rng.random() < 0.8)),
        lambda: rv.Dense(width(), activation=activation(), use_bias=bool(rng.random() < 0.8)),
        lambda: rv.Dense(width(), activation=activation()),
        lambda: rv.Activation(activation()),
        lambda: rv.Dropout(0.3),
        lambda: rv.GaussianNoise(0.3),
        lambda: rv.LayerNorm(eps=float(10 ** rng.uniform(-6, -1))),
        lambda: rv.BatchNorm(eps=float(10 ** rng.uniform(-6, -1))),
        rv.Softmax,
    ]
    layers = [makers[rng.integers(len(makers))]() for _ in range(rng.integers(1, 7))]
    if rng.random() < 0.3:
        layers.insert(0, rv.Standardize())
    if rng.random() < 0.3:
        layers.append(rv.Standardize(of="targets"))
    dtype = "float32" if rng.random() < 0.5 else "float64"
    model = rv.Sequential(layers, input_size=width(), dtype=dtype, seed=seed)
    return moved(model, rng)


def quantized_network(seed):
    """Such a network, quantised, with some of its dense layers kept in float."""
    rng = np.random.default_rng(seed)
    model, dense = next(
        (model, numbers)
        for model in map(random_network, count(seed, 10_000))
        if (numbers := [i for i, layer in enumerate(model.layers) if isinstance(layer, rv.Dense)])
    )
    # Also inputs of one sign, whose zero is the first or the last integer.
    x = rng.normal(size=(40, model.input_size))
    x = [x, abs(x), -abs(x)][rng.integers(3)]
    kept = [int(number) for number in rng.permutation(dense)[1:] if rng.random() < 0.3]
    how = ["min_max", "percentile", "mse"][rng.integers(3)]
    return model.quantize(x, calibration=how, keep_float=kept)


def rows(model, rng, count=12, overflow=True):
    """Rows of the model's dtype; half of them with NaN, infinities, zeros or subnormal numbers.

    With `overflow` also with the largest ones: where a sum overflows depends on its order.
    """
    x = rng.normal(size=(count, model.input_size)) * 10.0 ** rng.integers(-3, 3, (count, 1))
    limits = np.finfo(model.dtype)
    odd = [np.nan, np.inf, -np.inf, 0.0, -0.0, limits.tiny / 8, limits.max, -limits.max]
    odd = odd if overflow else odd[:-2]
    for row in x[count // 2 :]:
        row[rng.integers(model.input_size)] = odd[rng.integers(len(odd))]
    x[-1] = -0.0
    return x.astype(model.dtype)


def alike(a, b):
    """Whether arrays have the same bits, where all NaN count as one."""
    nan = np.isnan(a)
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and bool((nan == np.isnan(b)).all() and a[~nan].tobytes() == b[~nan].tobytes())
    )
