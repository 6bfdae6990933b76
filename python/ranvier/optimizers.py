"""Optimisers: definitions of update rules, and `step` for one's own loop.

SGD, Adam and AdamW need the gradient of one batch (`FirstOrder`); LBFGS and LevenbergMarquardt look
at the loss of all rows from several points (`SecondOrder`), and a `Trainer` runs them.

θ parameters, g gradient, γ learning_rate, λ weight_decay, t step from 1. A step is: clip, decay,
update, and the constraints of the layers. `dialect` chooses whose equations and defaults are
followed: "torch" (the published form), "keras" or "sklearn". Coefficients are formed in float64 and
rounded once to the model's dtype.

    >>> import ranvier as rv
    >>> rv.Adam(learning_rate=3e-4, clip_norm=1.0)
    Adam(learning_rate=0.0003, clip_norm=1.0)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

from . import _core
from ._arrays import boolean, integer, numeric, plain, real
from ._definitions import Definition
from .errors import ArgumentError, DTypeError, ShapeError
from .schedules import ReduceOnPlateau, Schedule, ScheduleLike
from .schedules import get as schedule

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from .model import Sequential

__all__ = [
    "LBFGS",
    "SGD",
    "Adam",
    "AdamW",
    "FirstOrder",
    "LevenbergMarquardt",
    "Optimizer",
    "SecondOrder",
]


@dataclass(frozen=True, repr=False, eq=False)
class Optimizer(Definition):
    """Base of all optimisers. Options are fixed; another rate is another optimiser."""

    # Whether a step takes all rows as one batch.
    _whole: ClassVar[bool] = False
    # Of a fit that is not told.
    _epochs: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if type(self) in (Optimizer, FirstOrder, SecondOrder):
            raise DTypeError("optimizer: expected one such as ranvier.Adam(), got the base class")
        plain(self)
        self._spec()

    def _resolved(self) -> dict[str, Any]:
        """Every option with its value."""
        return self._options()

    def _spec(self) -> dict[str, Any]:
        """What the core takes."""
        options = self._resolved()
        _core.check_optimizer(options)
        return options

    def _rate_function(self) -> Callable[[int], float] | None:
        """The rate, where it is a function of the caller's."""
        return None

    def _rate_plateau(self) -> ReduceOnPlateau | None:
        """What lowers the rate, where a figure of the history does."""
        return None

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
class FirstOrder(Optimizer):
    """Base of the optimisers whose step needs no more than the gradient of one batch.

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

    def _rate_function(self) -> Callable[[int], float] | None:
        return self._schedule._function()

    def _rate_plateau(self) -> ReduceOnPlateau | None:
        return self._schedule._plateau()

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


@dataclass(frozen=True, repr=False, eq=False)
class SGD(FirstOrder):
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
        weight_decay: λ, default 0; see `FirstOrder`.
        clip_norm: see `FirstOrder`.
        clip_value: see `FirstOrder`.
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
class Adam(FirstOrder):
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
        weight_decay: λ, default 0: g += λθ in the torch dialect; see `FirstOrder`.
        clip_norm: see `FirstOrder`.
        clip_value: see `FirstOrder`.
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
        clip_norm: see `FirstOrder`.
        clip_value: see `FirstOrder`.
        dialect: "torch" or "keras"; scikit-learn has no AdamW.
    """

    def _defaults(self) -> dict[str, Any]:
        return super()._defaults() | {"weight_decay": 4e-3 if self.dialect == "keras" else 1e-2}

    def _resolved(self) -> dict[str, Any]:
        return super()._resolved() | {"decoupled": True}


@dataclass(frozen=True, repr=False, eq=False)
class SecondOrder(Optimizer):
    """Base of the methods that see the curvature, for small problems; a `Trainer` runs them.

    A step is no function of one gradient: it asks for the loss of all rows at several points. So an
    epoch is one step on all rows as one batch, in their order, whatever `shuffle` says, and
    batch_size is None or at least their number. Layers whose output depends on chance or on the
    other rows (Dropout, GaussianNoise, BatchNorm) are refused, as are constraints of weights, mixed
    precision, accumulate, ema_decay and data in blocks. A fit has 200 epochs unless told otherwise,
    and `Trainer.evaluate` tells the loss at its end. There is no learning rate, no weight decay
    (a layer's l2 penalty is part of the loss) and no clipping.

    A fit ends before its last epoch, or its first one, where there is nothing left to gain: then
    `Trainer.stopped_by` is "converged". As with every optimiser the history has the loss before
    each step. With float32 the loss itself is good to some 1e-7; float64 lets these methods do what
    they are made for.
    """

    _whole: ClassVar[bool] = True
    _epochs: ClassVar[int] = 200


@dataclass(frozen=True, repr=False, eq=False)
class LBFGS(SecondOrder):
    """Limited-memory BFGS with the line search of Moré and Thuente.

    The direction is −H·g. H approximates the inverse of the Hessian from the last pairs of changes,
    s of the parameters and y of the gradient: it starts as (sᵀy / yᵀy)·I of the newest one, and
    each pair, from the oldest to the newest, makes it (I − ρsyᵀ)H(I − ρysᵀ) + ρssᵀ, ρ = 1/sᵀy. A
    step θ ← θ + a·d is accepted when loss(θ + a·d) ≤ loss + 10⁻³·a·gᵀd and the slope there is at
    most 0.9 of what it was (the strong Wolfe conditions); a = 1 is tried first, at the very first
    step a = 1/‖g‖. A search that fails is repeated along −g, the pairs forgotten; if that fails
    too, the fit ends, `Trainer.stopped_by` being "line_search". The history's learning_rate is a.

    As every `SecondOrder` method it takes all rows in one step. Numbers are those of
    `scipy.optimize.minimize(method="L-BFGS-B")` without bounds, up to rounding, which on losses
    that are not convex makes the paths part after some hundred steps; the options there are
    maxcor, maxls, gtol and ftol. (torch.optim.LBFGS keeps 100 pairs and takes a fixed step of 1
    unless it is told to search.) Where SciPy gives up, at a loss that is not finite, this one goes
    half the way back. l1 penalties are followed as they are; at their kinks a line search may fail.

    Args:
        history_size: pairs that are kept, each two vectors of the model's size; 1 to 1000.
        max_evaluations: of the loss and its gradient in one line search; 1 to 1000.
        tolerance_grad: converged when no entry of the gradient is larger; 0 or more.
        tolerance_loss: converged when a step has lowered the loss by no more than this times
            max(|loss before|, |loss after|, 1); 0 or more.

    Source: Nocedal and Wright, Numerical Optimization (2006), algorithms 7.4 and 7.5; Moré and
    Thuente 1994; Zhu et al. 1997.

    Example:
        >>> import numpy as np, ranvier as rv
        >>> X = np.random.default_rng(0).normal(size=(50, 3))
        >>> y = X @ [1.0, -2.0, 0.5] + 3.0
        >>> model = rv.Sequential([rv.Dense(1)], dtype="float64", seed=0)
        >>> trainer = rv.Trainer(model, loss="mse", optimizer=rv.LBFGS())
        >>> history = trainer.fit(X, y)
        >>> trainer.stopped_by, len(history["loss"]) < 10
        ('converged', True)
        >>> [round(float(b), 3) for b in model.parameters()["0.bias"]]
        [3.0]
    """

    _: KW_ONLY
    history_size: int = 10
    max_evaluations: int = 20
    tolerance_grad: float = 1e-5
    tolerance_loss: float = 1e7 * 2.0**-52

    def _resolved(self) -> dict[str, Any]:
        integer(self.history_size, "history_size", least=1, most=1000)
        integer(self.max_evaluations, "max_evaluations", least=1, most=1000)
        real(self.tolerance_grad, "tolerance_grad", least=0.0)
        real(self.tolerance_loss, "tolerance_loss", least=0.0)
        return super()._resolved()


@dataclass(frozen=True, repr=False, eq=False)
class LevenbergMarquardt(SecondOrder):
    """Least squares by Gauss-Newton steps, damped by Marquardt's rule in Nielsen's form.

    For loss="mse" alone, with sample weights and l2 penalties: the loss is Σr², with the residuals
    √(wᵢ/(KΣw))·(z − y) and √l2·θ. With their Jacobian J a step h solves (JᵀJ + μI)h = −Jᵀr. Its
    gain is (loss(θ) − loss(θ + h)) / hᵀ(μh − Jᵀr), what it brings by what a linear r foretells. If
    it is positive, the step is taken and μ ← μ·max(1/3, 1 − (2·gain − 1)³), ν ← 2; else μ ← μν,
    ν ← 2ν, and another h is tried. At first μ = damping·max diag JᵀJ. The history's learning_rate
    is 1/(2μ), the rate where there is no curvature. As every `SecondOrder` method it takes all rows
    in one step.

    J is summed up row by row and the equations are solved in float64 by Cholesky's method: memory
    grows with the square of the number of parameters, time with its cube; more than 10,000 are
    refused. `scipy.optimize.least_squares(method="lm")` is MINPACK's, whose damping differs; the
    minima are the same, and so are the default tolerances (gtol, ftol, xtol there).

    Args:
        damping: μ at first, by the largest entry of JᵀJ's diagonal; positive. Smaller where the
            start is near the minimum.
        tolerance_grad: converged when no entry of the loss's gradient is larger; 0 or more.
        tolerance_loss: converged when a step has lowered the loss by no more than this share of it;
            0 or more.
        tolerance_step: converged when ‖h‖ ≤ tolerance_step·(‖θ‖ + tolerance_step); 0 or more.

    Source: Madsen, Nielsen and Tingleff, Methods for Non-Linear Least Squares Problems, 2nd edition
    (2004), algorithm 3.16.

    Example:
        >>> import numpy as np, ranvier as rv
        >>> x = np.linspace(-3, 3, 60)[:, None]
        >>> model = rv.Sequential(
        ...     [rv.Dense(6, activation="tanh"), rv.Dense(1)], dtype="float64", seed=0
        ... )
        >>> trainer = rv.Trainer(model, loss="mse", optimizer=rv.LevenbergMarquardt())
        >>> history = trainer.fit(x, np.sin(x), epochs=100)
        >>> history["loss"][-1] < 1e-3
        True
    """

    _: KW_ONLY
    damping: float = 1e-3
    tolerance_grad: float = 1e-8
    tolerance_loss: float = 1e-8
    tolerance_step: float = 1e-8

    def _resolved(self) -> dict[str, Any]:
        real(self.damping, "damping", least=0.0, open_least=True)
        real(self.tolerance_grad, "tolerance_grad", least=0.0)
        real(self.tolerance_loss, "tolerance_loss", least=0.0)
        real(self.tolerance_step, "tolerance_step", least=0.0)
        return super()._resolved()


OptimizerLike: TypeAlias = str | Optimizer

BY_NAME: dict[str, type[Optimizer]] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "lbfgs": LBFGS,
    "levenberg_marquardt": LevenbergMarquardt,
}


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
