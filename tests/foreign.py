"""Losses and optimizers of torch, Keras and scikit-learn that are those of ranvier."""

import numpy as np

import ranvier as rv


def torch_loss(torch, name):
    """torch's own of this name, which agrees with ranvier's to the last digits."""
    nn = torch.nn
    return {
        "mse": nn.MSELoss(),
        "mae": nn.L1Loss(),
        "huber": nn.HuberLoss(),
        "poisson": nn.PoissonNLLLoss(log_input=True),
        "cross_entropy": nn.CrossEntropyLoss(),
        "binary_cross_entropy": nn.BCEWithLogitsLoss(),
    }[name]


def targets(name, rng, rows, outputs):
    """Some that the loss takes."""
    if name == "cross_entropy":
        return rng.integers(outputs, size=rows)
    if name == "binary_cross_entropy":
        return rng.integers(2, size=(rows, outputs)).astype(float)
    if name == "poisson":
        return rng.poisson(2.0, size=(rows, outputs)).astype(float)
    return rng.normal(size=(rows, outputs))


def torch_optimizer(torch, rule, parameters):
    """torch's optimizer of the same options."""
    own = rule._resolved()
    options = {"lr": rule._schedule(0), "weight_decay": own["weight_decay"]}
    if isinstance(rule, rv.SGD):
        options |= {name: own[name] for name in ("momentum", "dampening", "nesterov")}
        return torch.optim.SGD(parameters, **options)
    options |= {"betas": (own["beta1"], own["beta2"]), "eps": own["eps"], "amsgrad": own["amsgrad"]}
    kind = torch.optim.AdamW if isinstance(rule, rv.AdamW) else torch.optim.Adam
    return kind(parameters, **options)


def keras_optimizer(keras, rule):
    """Keras's optimizer of the same options."""
    own = rule._resolved()
    options = {"learning_rate": rule._schedule(0), "weight_decay": own["weight_decay"] or None}
    if isinstance(rule, rv.SGD):
        options |= {name: own[name] for name in ("momentum", "nesterov")}
        return keras.optimizers.SGD(**options)
    options |= {"beta_1": own["beta1"], "beta_2": own["beta2"]}
    options |= {"epsilon": own["eps"], "amsgrad": own["amsgrad"]}
    if isinstance(rule, rv.AdamW):
        return keras.optimizers.AdamW(**options | {"weight_decay": own["weight_decay"]})
    return keras.optimizers.Adam(**options)


def sklearn_options(rule):
    """Options of an MLP that trains by this optimizer of the sklearn dialect."""
    own = rule._resolved()
    options = {"learning_rate_init": rule._schedule(0)}
    if isinstance(rule, rv.SGD):
        return options | {
            "solver": "sgd",
            "momentum": own["momentum"],
            "nesterovs_momentum": own["nesterov"],
        }
    return options | {"beta_1": own["beta1"], "beta_2": own["beta2"], "epsilon": own["eps"]}


class HalfSquares:
    """scikit-learn's squared error: it reports ½(z − y)², a mean, and follows (z − y)/n."""

    def value_and_gradient(self, output, target, sample_weight=None):
        difference = output - np.reshape(target, output.shape)
        return 0.5 * float((difference**2).mean()), difference / len(output)
