"""Optimisers: definitions of update rules, and `step` for one's own loop.

θ parameters, g gradient, γ learning_rate, λ weight_decay, t step from 1. A step is: clip, decay,
update, and the constraints of the layers. `dialect` chooses whose equations and defaults are
followed: "torch" (the published form), "keras" or "sklearn". Coefficients are formed in float64 and
rounded once to the model's dtype.

    >>> import ranvier as rv
    >>> rv.Adam(learning_rate=3e-4, clip_norm=1.0)
    Adam(learning_rate=0.0003, clip_norm=1.0)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from . import _core
from ._arrays import boolean, numeric, plain, real
from ._definitions import Definition
from .errors import ArgumentError, DTypeError, ShapeError
from .schedules import Schedule, ScheduleLike
from .schedules import get as schedule

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from .model import Sequential

__all__ = ["SGD", "Adam", "AdamW", "Optimizer"]


@dataclass(frozen=True, repr=False, eq=False)
class Optimizer(Definition):
    """Base of the optimisers. Options are fixed; another rate is another optimiser.

    Args:
        learning_rate: γ > 0, or what changes it: a schedule of `ranvier.schedules` or a function of
            the steps done; None is the dialect's default.
        weight_decay: λ >= 0. It touches every parameter, biases too. Coupled (g += λθ) in SGD and
            Adam of the torch dialect; decoupled (θ −= γλθ) in AdamW and in the keras dialect; the
            sklearn dialect has none, as scikit-learn's alpha is a penalty of the loss.
        clip_norm: g ← g·min(1, clip_norm/(‖g‖ + 1e-6)), ‖g‖ over all parameters, accumulated in
            float64. A norm that is not finite raises DivergedError. Keras's `clipnorm` works
            variable by variable instead.
        clip_value: clamps each element to ±clip_value. Not together with clip_norm.
        dialect: "torch", "keras" or "sklearn".

    Raises:
        ArgumentError, DTypeError: a value, or a combination, that the dialect does not define.
    """

    _: KW_ONLY
    learning_rate: ScheduleLike | None = None
    weight_decay: float | None = None
    clip_norm: float | None = None
    clip_value: float | None = None
    dialect: str = "torch"
    _stepper: _core.Stepper | None = field(default=None, init=False, compare=False)

    def __post_init__(self) -> None:
        if type(self) is Optimizer:
            raise DTypeError("optimizer: expected one such as ranvier.Adam(), got the base class")
        plain(self)
        self._spec()

    def _defaults(self) -> dict[str, Any]:
        """Values of the options that may be None."""
        return {"weight_decay": 0.0}

    def _resolved(self) -> dict[str, Any]:
        """Every option with its value."""
        dialects = _core.names("dialect")
        if self.dialect not in dialects:
            raise ArgumentError(
                f"dialect: expected one of {', '.join(dialects)}, got {self.dialect!r}"
            )
        options = self._options()
        for name, value in self._defaults().items():
            if options[name] is None:
                options[name] = value
        options["learning_rate"] = schedule(options["learning_rate"])
        real(options["weight_decay"], "weight_decay", least=0.0)
        for name in ("clip_norm", "clip_value"):
            if options[name] is not None:
                real(options[name], name, least=0.0, open_least=True)
        return options

    def _spec(self) -> dict[str, Any]:
        options = self._resolved()
        options["learning_rate"] = options["learning_rate"]._specs()
        _core.check_optimizer(options)
        return options

    def step(self, model: Sequential, gradients: Mapping[str, ArrayLike]) -> None:
        """Changes the model's parameters by one step.

        The optimiser keeps its moments for the model of its first step; another model needs an
        optimiser of its own. A `Trainer` does not touch these moments, it has its own.

        Args:
            model: the model to train.
            gradients: one array for each trainable parameter, by name, as
                `model.value_and_gradient` returns them.

        Raises:
            ArgumentError: a gradient is missing or superfluous, or the model is another one.
            ShapeError: a gradient has not its parameter's shape.
            DivergedError: a gradient or, with clip_norm, the norm is not finite. Nothing has
                changed.

        Example:
            >>> import numpy as np, ranvier as rv
            >>> model = rv.Sequential([rv.Dense(1)], input_size=2, seed=0)
            >>> optimizer = rv.SGD(learning_rate=0.1)
            >>> X, y = np.eye(2), np.array([1.0, 2.0])
            >>> for _ in range(200):
            ...     loss, gradients = model.value_and_gradient(X, y, loss="mse")
            ...     optimizer.step(model, gradients)
            >>> bool(loss < 1e-6)
            True
        """
        from .model import checked_model

        network = checked_model(model)._require()
        stepper = self._stepper
        if stepper is not None and not stepper.follows(network):
            raise ArgumentError(
                "model: expected the model of this optimizer's first step, got another one; "
                "make one optimizer for each model"
            )
        shapes = dict(network.tables()[0])
        if not isinstance(gradients, Mapping):
            raise DTypeError(
                "gradients: expected arrays by parameter name, as value_and_gradient returns them, "
                f"got {type(gradients).__name__}"
            )
        if set(gradients) != set(shapes):
            raise ArgumentError(
                f"gradients: expected exactly {list(shapes)}, got {list(gradients)}"
            )
        arrays = []
        for name, shape in shapes.items():
            array = numeric(gradients[name], f"gradients[{name!r}]", model.dtype)
            if array.shape != tuple(shape):
                raise ShapeError(
                    f"gradients[{name!r}]: expected shape {tuple(shape)}, got {array.shape}"
                )
            arrays.append(array.reshape(-1, 1) if array.ndim == 0 else array)
        if stepper is None:
            stepper = _core.Stepper(network, self._spec())
            object.__setattr__(self, "_stepper", stepper)
        stepper.step(arrays, self._rate(stepper.steps))

    def _rate(self, step: int) -> float | None:
        """The rate of a function of the caller's, in one's own loop."""
        rate = self._schedule
        if rate._counts_epochs():
            raise ArgumentError(
                f"learning_rate: expected a schedule that counts steps, got {rate!r}; "
                "a loop of one's own has no epochs, a Trainer has"
            )
        return None if rate._function() is None else rate(step)

    @property
    def _schedule(self) -> Schedule:
        return schedule(self._resolved()["learning_rate"])

    def _options(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init}

    def copy(self) -> Self:
        """The same definition without moments."""
        return type(self)(**self._options())

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A definition is immutable; moments stay with the model that they were made for."""
        return self.copy()

    def __reduce__(self) -> Any:
        """A pickle holds the definition, not the moments."""
        return partial(type(self), **self._options()), ()


@dataclass(frozen=True, repr=False, eq=False)
class SGD(Optimizer):
    """Stochastic gradient descent; with batch_size = len(X), gradient descent.

    With μ momentum and τ dampening:

    - torch: g += λθ; b = g at the first step, then b = μb + (1−τ)g; θ −= γ(g + μb) if nesterov,
      else θ −= γb. Nesterov needs μ > 0 and τ = 0.
    - keras, sklearn: v = μv − γg; θ += μv − γg if nesterov, else θ += v. The rate sits inside the
      velocity: equal to torch only while γ is constant.

    Args:
        learning_rate: 0.01; in the sklearn dialect 0.001. (`torch.optim.SGD` has 0.001 since 2.x.)
        momentum: μ in [0, 1); default 0, in the sklearn dialect 0.9.
        dampening: τ in [0, 1], torch dialect only.
        nesterov: look ahead; default False, in the sklearn dialect True.
        weight_decay: λ, default 0; see `Optimizer`.
        clip_norm: see `Optimizer`.
        clip_value: see `Optimizer`.
        dialect: "torch", "keras" or "sklearn".

    Source: Sutskever et al. 2013; PyTorch's documentation of SGD.
    """

    _: KW_ONLY
    momentum: float | None = None
    dampening: float = 0.0
    nesterov: bool | None = None

    def _defaults(self) -> dict[str, Any]:
        sklearn = self.dialect == "sklearn"
        return {
            "learning_rate": 0.001 if sklearn else 0.01,
            "momentum": 0.9 if sklearn else 0.0,
            "nesterov": sklearn,
        } | super()._defaults()

    def _resolved(self) -> dict[str, Any]:
        options = super()._resolved() | {"kind": "sgd"}
        real(options["momentum"], "momentum", least=0.0, most=1.0, open_most=True)
        real(options["dampening"], "dampening", least=0.0, most=1.0)
        boolean(options["nesterov"], "nesterov")
        return options


@dataclass(frozen=True, repr=False, eq=False)
class Adam(Optimizer):
    """Adam: steps scaled by running moments of the gradient (Kingma and Ba 2015).

    m += (1−β1)(g−m); v = β2·v + ((1−β2)g)g; with amsgrad, v is replaced by its largest value so far
    (Reddi et al. 2018). Then

    - torch: θ −= γ/(1−β1^t) · m / (√v/√(1−β2^t) + ε)
    - keras, sklearn ("epsilon hat"): θ −= γ√(1−β2^t)/(1−β1^t) · m / (√v + ε)

    Args:
        learning_rate: 0.001.
        beta1: β1 in [0, 1).
        beta2: β2 in [0, 1).
        eps: ε > 0; default 1e-8, in the keras dialect 1e-7.
        amsgrad: not in the sklearn dialect.
        weight_decay: λ, default 0: g += λθ in the torch dialect; see `Optimizer`.
        clip_norm: see `Optimizer`.
        clip_value: see `Optimizer`.
        dialect: "torch", "keras" or "sklearn".
    """

    _: KW_ONLY
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float | None = None
    amsgrad: bool = False

    def _defaults(self) -> dict[str, Any]:
        eps = 1e-7 if self.dialect == "keras" else 1e-8
        return {"learning_rate": 1e-3, "eps": eps} | super()._defaults()

    def _resolved(self) -> dict[str, Any]:
        options = super()._resolved() | {"kind": "adam", "decoupled": self.dialect == "keras"}
        real(options["beta1"], "beta1", least=0.0, most=1.0, open_most=True)
        real(options["beta2"], "beta2", least=0.0, most=1.0, open_most=True)
        boolean(options["amsgrad"], "amsgrad")
        # Below this the float32 value would be 0, and 0/0 the step of an idle parameter.
        real(options["eps"], "eps", least=1e-30)
        return options


@dataclass(frozen=True, repr=False, eq=False)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    θ ← θ(1 − γλ) before the step of `Adam`.

    Args:
        learning_rate: 0.001.
        beta1: β1 in [0, 1).
        beta2: β2 in [0, 1).
        eps: ε > 0; default 1e-8, in the keras dialect 1e-7.
        amsgrad: replace v by its largest value so far.
        weight_decay: λ; default 0.01, in the keras dialect 0.004. (The paper multiplies λ by the
            schedule alone, all frameworks by γ.)
        clip_norm: see `Optimizer`.
        clip_value: see `Optimizer`.
        dialect: "torch" or "keras"; scikit-learn has no AdamW.
    """

    def _defaults(self) -> dict[str, Any]:
        return super()._defaults() | {"weight_decay": 4e-3 if self.dialect == "keras" else 1e-2}

    def _resolved(self) -> dict[str, Any]:
        return super()._resolved() | {"decoupled": True}


OptimizerLike: TypeAlias = str | Optimizer

BY_NAME: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}


def get(optimizer: OptimizerLike) -> Optimizer:
    """The optimiser of that name with its defaults; objects pass as they are."""
    if isinstance(optimizer, Optimizer):
        return optimizer
    if not isinstance(optimizer, str):
        raise DTypeError(
            f"optimizer: expected a name or an object of ranvier.optimizers, got {optimizer!r}"
        )
    if optimizer not in BY_NAME:
        raise ArgumentError(f"optimizer: expected one of {', '.join(BY_NAME)}, got {optimizer!r}")
    return BY_NAME[optimizer]()
