"""`Trainer`: fits a model and keeps what is needed to go on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from ._arrays import Array, boolean, integer, matrix, real
from ._arrays import seed as checked_seed
from ._feeds import Arrays, Blocks, Feed, holds_blocks
from ._files import (
    Opaque,
    Path,
    Reader,
    contents,
    decode,
    encode,
    fingerprint,
    path_of,
    torch_names,
    tuples,
)
from .callbacks import Callback, EarlyStopping
from .errors import (
    ArgumentError,
    BusyError,
    DivergedError,
    DTypeError,
    FileFormatError,
    RanvierError,
    ShapeError,
)
from .history import History
from .layers import Softmax, Standardize
from .losses import (
    MAE,
    MSE,
    BinaryCrossEntropy,
    ClassWeight,
    CrossEntropy,
    CustomLoss,
    Huber,
    Loss,
    LossLike,
    Quantile,
    arrays_of,
    checked_class_weight,
    class_weighted,
)
from .losses import get as get_loss
from .metrics import Function, Metric, MetricLike
from .metrics import get as get_metrics
from .model import Sequential, checked_model, core_loss, read_model
from .optimizers import Optimizer, OptimizerLike
from .optimizers import get as get_optimizer
from .schedules import check_goal

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["Trainer"]

# Rows that the core evaluates together; a custom loss sees at most as many at once.
_EVALUATION_ROWS = 256
# Options of a fit that the core takes as a file has them.
_OF_THE_CORE = ("split", "batch_size", "accumulate", "shuffle", "watch", "plateau")


class Trainer:
    """Trains a model: epochs of shuffled batches through a loss and an optimiser.

    Same model, data, seed and options give the same bits, whatever the threads and the
    instruction set.

    Args:
        model: the model to train; one without input_size learns it from the first X.
        loss: a name, an object of `ranvier.losses`, or a custom loss (see there).
        optimizer: a name or an object of `ranvier.optimizers`. The trainer keeps moments of its
            own; the object is a definition and is not changed.
        metrics: what evaluations tell besides the loss: names, objects of `ranvier.metrics`, or
            functions (y, output) -> number; None is accuracy for cross_entropy and
            binary_cross_entropy.
        precision: None for products in the model's dtype; "bf16" for mixed precision (models in
            float32 only): the operands of every dense product of a training step are rounded to
            bfloat16 (8 bits of significand) and summed in float32; parameters, moments, activations
            and losses stay float32, as do prediction and evaluation. Twice as fast where the
            processor has AVX512-BF16 and the network is large (`rv.config()["bf16"]` says
            "native"); elsewhere emulated, to the same bits, slower than float32. There is no loss
            scaling, for bfloat16 has float32's range. Unlike under torch's autocast, layers
            between the products see float32.
        quantization: None, or "int8" for quantisation-aware training (Jacob et al. 2018): every
            training step multiplies weights and inputs of dense layers rounded as
            `model.quantize` rounds them, weights with one scale for each output, inputs with the
            range of all rows of the batch, also of those of weight 0; gradients pass the rounding
            as if it were not there (straight through, Bengio et al. 2013) and move the numbers
            behind. So the network learns to live with the rounding: train as usual, then some
            epochs so, then `quantize`. Prediction and evaluation, also of validation rows, stay in
            the model's dtype. PyTorch averages the ranges of batches and reduces the range of
            inputs by half.
        ema_decay: β in [0, 1): the exponential moving average of the parameters, θ̄ ← θ̄ +
            (1−β)/(1−β^t)·(θ − θ̄) after step t (Kingma and Ba 2015, section 7.2), is what is
            validated at the end of each epoch, kept as the best, and left in the model; 0.99 looks
            back some hundred steps; None, the default, takes no average. Training itself goes on
            from θ, also in a further fit. Whoever changes the model's parameters, in a callback or
            between fits, begins training and average anew from there. Running statistics of
            BatchNorm are not averaged. Keras's use_ema is without the bias correction and starts
            from the initial parameters; torch has `swa_utils.AveragedModel`.
        seed: of shuffling and dropout, 0 to 2^64 − 1; None draws one, which `seed` then tells.

    Attributes:
        history: a `History` over the trainer's life.
        stopped_by: why the last fit ended: "epochs", "patience", "max_steps", "max_time",
            "callback", or the name of the exception that it raised; of a second-order optimizer
            also "converged", and "line_search" where no step along the gradient lowers the loss.
            None before the first.

    Example:
        >>> import numpy as np, ranvier as rv
        >>> X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
        >>> y = np.array([0, 1, 1, 0])
        >>> model = rv.Sequential([rv.Dense(16, activation="tanh"), rv.Dense(2)], input_size=2)
        >>> trainer = rv.Trainer(model, loss="cross_entropy", optimizer=rv.Adam(learning_rate=0.05))
        >>> history = trainer.fit(X, y, epochs=200)
        >>> trainer.evaluate(X, y)["accuracy"]
        1.0
    """

    def __init__(
        self,
        model: Sequential,
        *,
        loss: LossLike,
        optimizer: OptimizerLike = "adam",
        metrics: list[MetricLike] | None = None,
        precision: str | None = None,
        quantization: str | None = None,
        ema_decay: float | None = None,
        seed: int | None = 0,
    ) -> None:
        self._model = checked_model(model)
        self._loss = get_loss(loss)
        _warn_of_double_squash(self._model, self._loss)
        self._metrics = get_metrics(metrics, self._loss)
        self._optimizer = get_optimizer(optimizer).copy()
        self._precision = _checked_precision(precision, self._model)
        self._quantization = _named(quantization, "quantization")
        if precision is not None and quantization is not None:
            raise ArgumentError(
                f"quantization: expected None with precision={precision!r}, got {quantization!r}"
            )
        if ema_decay is not None:
            ema_decay = real(ema_decay, "ema_decay", least=0.0, most=1.0, open_most=True)
        self._ema_decay = ema_decay
        self._seed = checked_seed(seed)
        self._core: _core.Trainer | None = None
        self._fitting = threading.Lock()
        self._progress = (0, 0)
        # Options of the last fit, and of one that a file had in progress.
        self._plan: dict[str, Any] | None = None
        self._resumable: dict[str, Any] | None = None
        # Epochs ended before the last fit, and with it if nothing ends it.
        self._span = (0, 0)
        self.history = History()
        self.stopped_by: str | None = None

    @property
    def model(self) -> Sequential:
        """The model that is trained."""
        return self._model

    @property
    def loss(self) -> Loss | CustomLoss:
        """The loss that is followed."""
        return self._loss

    @property
    def optimizer(self) -> Optimizer:
        """The optimiser's definition."""
        return self._optimizer

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What evaluations tell besides the loss."""
        return self._metrics

    @property
    def precision(self) -> str | None:
        """What products are narrowed to while training; None for the model's dtype."""
        return self._precision

    @property
    def quantization(self) -> str | None:
        """What weights and inputs of dense layers are rounded to while training."""
        return self._quantization

    @property
    def ema_decay(self) -> float | None:
        """Decay of the parameters' moving average; None where there is none."""
        return self._ema_decay

    @property
    def seed(self) -> int:
        """Seed of shuffling and dropout."""
        return self._seed

    @property
    def epoch(self) -> int:
        """Epochs begun over the trainer's life."""
        return self._counters()[0]

    @property
    def step(self) -> int:
        """Steps done over the trainer's life."""
        return self._counters()[1]

    @property
    def best_epoch(self) -> int | None:
        """The epoch whose watched figure was the best one; None if none was watched."""
        best = self._best()
        return None if best is None else best[1]

    @property
    def best_value(self) -> float | None:
        """The watched figure of `best_epoch`."""
        best = self._best()
        return None if best is None else best[0]

    def _best(self) -> tuple[float, int] | None:
        standing = self._standing()
        return None if standing is None else standing["progress"][0]

    def _standing(self) -> dict[str, Any] | None:
        """Where the training stands; None where that cannot be seen now."""
        if self._core is None:
            return None
        try:
            return self._core.standing()
        except BusyError:
            return None

    def _counters(self) -> tuple[int, int]:
        if (standing := self._standing()) is not None:
            self._progress = (standing["epoch"], standing["step"])
        return self._progress

    def __repr__(self) -> str:
        """Definition and progress."""
        named = ("precision", "quantization", "ema_decay")
        options = {name: getattr(self, name) for name in named}
        given = "".join(
            f"{name}={value!r} " for name, value in options.items() if value is not None
        )
        return (
            f"<Trainer loss={self._loss!r} optimizer={self._optimizer!r} {given}"
            f"seed={self._seed} epoch={self.epoch} step={self.step}>"
        )

    def __reduce__(self) -> Any:
        """A pickle holds a run's file, or the definition if nothing was trained."""
        if self._core is None:
            made = partial(Trainer, self._model, loss=self._loss, optimizer=self._optimizer)
            made = partial(made, metrics=list(self._metrics))
            made = partial(made, precision=self._precision, quantization=self._quantization)
            made = partial(made, ema_decay=self._ema_decay)
            return partial(made, seed=self._seed), ()
        own = {"loss": self._loss, "optimizer": self._optimizer, "metrics": list(self._metrics)}
        for name, part in list(own.items()):
            if not any(isinstance(entry, Opaque) for entry in _flat(decode(encode(part)))):
                del own[name]
        return _from_bytes, (self._write(None), own)

    def save(self, path: Path) -> None:
        """Writes the run to a file, from which `Trainer.resume` goes on as if nothing had happened.

        The file holds the model as `Sequential.save` writes it, so `ranvier.load` reads it too.
        Between fits or in a callback of a fit, after any step. The file is written beside its
        place, synced and renamed: a crash leaves the old file or the new one. A loss, or a function
        for a rate, of one's own is not stored; `resume` asks for it.

        Args:
            path: where to; a file that is there is replaced. The ending is usually ".safetensors".

        Raises:
            OSError: the system refused, with its errno. What was at the path is still there.
            NotFittedError: the model does not know its input_size yet.
            BusyError: another thread is fitting with this trainer.
        """
        self._write(path_of(path))

    def _write(self, path: str | None) -> bytes | None:
        network = self._model._require()
        core = self._ensured(network)
        run = {
            "loss": encode(self._loss),
            "optimizer": encode(self._optimizer),
            "metrics": encode(self._metrics),
            "precision": self._precision,
            "quantization": self._quantization,
            "ema_decay": self._ema_decay,
            "seed": self._seed,
            "stopped_by": self.stopped_by,
            "plan": self._plan,
            "standing": core.standing(),
            "history": dict(self.history),
        }
        metadata = {"ranvier.kind": "run", "ranvier.model": self._model._definition()}
        metadata["ranvier.run"] = run
        return core.save(contents(path, self._model.layers, network.tables(), metadata))

    def _ensured(self, network: _core.Network) -> _core.Trainer:
        if self._core is None:
            spec = self._optimizer._spec()
            rounding = self._precision or self._quantization
            self._core = _core.Trainer(network, spec, rounding, self._ema_decay, self._seed)
        return self._core

    @classmethod
    def resume(
        cls,
        path: Path,
        *,
        loss: LossLike | None = None,
        optimizer: OptimizerLike | None = None,
        metrics: list[MetricLike] | None = None,
    ) -> Trainer:
        """The run of a file, with a model of its own, as it was when it was saved.

        `fit(X, y)` without `epochs` then carries the fit that was in progress to its end, from the
        very step, to the same bits, whatever the number of threads: arrays, validation data and
        callbacks are given again, all else comes from the file. `fit(X, y, epochs=...)` begins
        another.

        Args:
            path: a file of `Trainer.save` or `Checkpoint`.
            loss: in place of the one in the file; needed where that was one of one's own.
            optimizer: likewise; moments of the file that it does not remember are dropped, and one
                that remembers others is refused.
            metrics: likewise.

        Raises:
            FileFormatError: the file is damaged, or none of a run.
            ArgumentError: the file needs a loss or an optimizer that was not given.
            OSError: the system refused, with its errno.

        Example:
            >>> import os, tempfile, numpy as np, ranvier as rv
            >>> path = os.path.join(tempfile.mkdtemp(), "run.safetensors")
            >>> class Stop(rv.Callback):
            ...     def on_epoch_end(self, epoch, logs):
            ...         return epoch == 1
            >>> model = rv.Sequential([rv.Dense(1)], input_size=2)
            >>> trainer = rv.Trainer(model, loss="mse")
            >>> history = trainer.fit(np.eye(2), np.ones(2), epochs=5, callbacks=[Stop()])
            >>> trainer.save(path)
            >>> again = rv.Trainer.resume(path)
            >>> len(again.fit(np.eye(2), np.ones(2))["loss"])
            5
        """
        return _resumed(Reader(path), loss=loss, optimizer=optimizer, metrics=metrics)

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        epochs: int | None = None,
        batch_size: int | None = None,
        accumulate: int | None = None,
        shuffle: bool | None = None,
        validation_data: Any = None,
        validation_split: float | None = None,
        sample_weight: ArrayLike | None = None,
        class_weight: ClassWeight | None = None,
        monitor: str | None = None,
        restore_best_weights: bool | None = None,
        max_steps: int | None = None,
        max_time: float | None = None,
        callbacks: Iterable[Callback] = (),
        raise_on_interrupt: bool = True,
        allow_other_data: bool = False,
    ) -> History:
        """Trains for some epochs; a second call goes on where the first ended.

        float32, float64 and integer arrays are read in place, batch by batch, whatever their order
        and strides; do not write to them meanwhile. The last batch of an epoch is shorter where
        batch_size does not divide the rows, and counts by its size. A batch whose weights are all 0
        is passed over.

        Where validation data is given, the model ends with the parameters of the best epoch,
        whatever ends the training (Keras and others restore them only when early stopping has
        fired, if at all). The trainer keeps the last ones beside: a further fit goes on from there,
        so that fits of N and M epochs are one of N + M, unless the model's parameters were changed
        meanwhile.

        Args:
            X: (rows, input_size), finite; or, without y, a source of data that is larger than
                memory: blocks (X, y) or (X, y, weight), as a sequence (such as `rv.data.Parquet`),
                of which each epoch draws an order, or as an object that can be iterated for each
                epoch, in its own order. The rows of a block are shuffled too; a batch does not
                reach from a block into the next, which is read meanwhile, so that two are in
                memory. A fault in a later block ends the fit when it is read.
            y: targets as the loss takes them.
            epochs: passes over the data, 1 or more; default 1, or 200 for `LBFGS` and
                `LevenbergMarquardt`, whose epoch is one step. After `Trainer.resume` the default
                goes on with the fit in progress, whose options come from the file: then none of
                batch_size, accumulate, shuffle, validation_split, class_weight, monitor,
                restore_best_weights and max_steps may be given.
            batch_size: rows in a step, default 32; above len(X) it is the whole. A second-order
                optimizer takes no less, and by default all.
            accumulate: batches in a step, default 1: fit(batch_size=b, accumulate=k) ends with the
                bits of fit(batch_size=b·k), but has the activations of b rows alone in memory. A
                custom loss sees all b·k rows at once; for it the network is run forward twice. Not
                with BatchNorm. (A loop that adds up gradients, as with torch, rounds otherwise than
                the large batch.)
            shuffle: True, the default: a new order for each epoch, from the seed; False keeps the
                rows' order, as a second-order optimizer always does.
            validation_data: (X, y) or (X, y, sample_weight), evaluated after each epoch; or a
                source of blocks.
            validation_split: share of the rows, in [0, 1), default 0, that is held out for
                validation: drawn from the seed, the same ones at every fit, of each class its share
                where targets are labels. (Keras takes the last rows.) Not together with
                validation_data.
            sample_weight: (rows,), 0 or more, not all 0.
            class_weight: factors of the rows' weights by their class: a dict (classes that it does
                not name have 1), or "balanced" for rows / (classes · rows of the class), counted
                without sample_weight. For probabilities a row's factor is their mean over the
                classes; for binary_cross_entropy with several outputs it is the product over them,
                and a list gives each output its own. Validation rows are weighted likewise, so that
                both losses mean the same (Keras weights those of training alone).
            monitor: the figure of the history that "best" goes by; None for that of an
                `EarlyStopping` among the callbacks, else "val_loss".
            restore_best_weights: default True; False leaves the model with the last parameters.
            max_steps: steps of this call at most. The epoch in progress ends there, and its other
                rows are passed over.
            max_time: seconds of this call; the step in progress is finished, the epoch ends there,
                and the validation data is evaluated once more.
            callbacks: objects of `ranvier.Callback`.
            raise_on_interrupt: False makes Ctrl-C end the fit quietly; `stopped_by` tells.
            allow_other_data: going on with a fit from a file is refused where shapes, types or some
                rows are not those it had; True allows it.

        Returns:
            The trainer's `history`.

        Raises:
            ShapeError, DTypeError, ArgumentError: arrays or options that do not fit, before
                anything has changed.
            DivergedError: a loss, parameter or moment is no longer finite. The model holds the
                parameters of the best epoch, or of the last finite one, and the moments start anew.
            BusyError: this trainer is fitting already.
            KeyboardInterrupt: on Ctrl-C, unless it is to return quietly; the model holds the
                parameters of the best epoch, or of the last complete step, and a next fit starts a
                new epoch.

        Example:
            >>> import numpy as np, ranvier as rv
            >>> X = np.linspace(-1, 1, 80)[:, None]
            >>> model = rv.Sequential([rv.Dense(16, activation="tanh"), rv.Dense(1)])
            >>> trainer = rv.Trainer(model, loss="mse", optimizer=rv.Adam(learning_rate=0.01))
            >>> history = trainer.fit(
            ...     X, X**2, epochs=1000, validation_split=0.2,
            ...     callbacks=[rv.EarlyStopping(patience=20)],
            ... )
            >>> min(history["val_loss"]) == history["val_loss"][trainer.best_epoch]
            True

            Blocks, and steps of several batches; a class would read its parts from files:

            >>> class Parts:
            ...     def __iter__(self):
            ...         for first in range(0, 80, 20):
            ...             yield X[first : first + 20], X[first : first + 20] ** 2
            >>> history = trainer.fit(Parts(), epochs=2, batch_size=5, accumulate=4)
            >>> history["step"][-1] - history["step"][-2]
            4
        """
        options = {
            "batch_size": batch_size,
            "accumulate": accumulate,
            "shuffle": shuffle,
            "validation_split": validation_split,
            "class_weight": class_weight,
            "monitor": monitor,
            "restore_best_weights": restore_best_weights,
            "max_steps": max_steps,
        }
        return self._fit(
            X,
            y,
            epochs,
            options,
            validation_data=validation_data,
            sample_weight=sample_weight,
            max_time=max_time,
            callbacks=callbacks,
            raise_on_interrupt=raise_on_interrupt,
            allow_other_data=allow_other_data,
        )

    def _fit(self, *data: Any, **options: Any) -> History:
        """`fit`, or what `fit_many` does of it; one at a time."""
        if not self._fitting.acquire(blocking=False):
            raise BusyError(
                "this trainer is fitting already, in this thread or another; make one Trainer for "
                "each fit that runs at the same time"
            )
        try:
            return self._fit_alone(*data, **options)
        finally:
            self._fitting.release()

    def _fit_alone(
        self,
        X: Any,
        y: Any,
        epochs: int | None,
        options: dict[str, Any],
        *,
        validation_data: Any = None,
        sample_weight: ArrayLike | None = None,
        max_time: float | None = None,
        callbacks: Iterable[Callback] = (),
        raise_on_interrupt: bool = True,
        allow_other_data: bool = False,
        part: Part | None = None,
    ) -> History:
        hooks = _checked_callbacks(callbacks)
        allowed = boolean(allow_other_data, "allow_other_data")
        quiet = not boolean(raise_on_interrupt, "raise_on_interrupt")
        going_on = epochs is None and self._resumable is not None
        feed = self._feed(X, y, sample_weight)
        validation = self._validation(validation_data)
        if going_on:
            saved = self._going_on(options, hooks, feed, validation, allowed)
        else:
            default = self._optimizer._epochs
            epochs = default if epochs is None else integer(epochs, "epochs", least=1)
            apart = part is not None and part.held_out is not None
            # All rows are one batch for those who need them all.
            whole = self._optimizer._whole and not isinstance(feed, Blocks)
            rows = 2**62 if whole else 32
            saved = self._planned(options, hooks, validation is not None or apart, rows)
            saved["data"] = fingerprint(feed.arrays)
        (length, width), split = feed.arrays["x"].shape, saved["split"]
        if isinstance(feed, Blocks):
            if split is not None:
                raise ArgumentError(
                    f"validation_split: expected 0 for data in blocks, got {split[0]!r}; "
                    "pass validation_data"
                )
            feed.order_by(self._seed if saved["shuffle"] else None)
            names = [f.features for f in (feed, validation) if isinstance(f, Blocks)]
            if None not in names and len(set(map(tuple, names))) > 1:
                raise ArgumentError(
                    f"validation_data: expected the features of X, {names[0]}, got {names[1]}"
                )
        outputs = self._model._outputs(width)
        own = None if part is None else part.rows
        if (wanted := saved["class_weight"]) is not None:
            self._weigh(feed, wanted, outputs, own)
            if validation is not None:
                self._weigh(validation, wanted, outputs, None)
        held_out = partial(_held_out, self._model, feed, split, validation, part)
        epoch_hooks, record = self._epoch_hooks(hooks, held_out, part)
        plan = {
            "data": feed.core,
            "validation": None if validation is None else validation.core,
            **{name: saved[name] for name in _OF_THE_CORE},
            "convention": None,
            "epochs": epochs,
            "max_steps": options["max_steps"],
            "max_time": None if max_time is None else real(max_time, "max_time", least=0.0),
            "max_evaluations": None,
            "on_step": self._step_hook(hooks),
            **epoch_hooks,
            **_part_options(part),
            "on_rate": self._optimizer._rate_function(),
            "metrics": self._core_metrics(),
        }
        ending = ExitStack()
        before, standing = (self._plan, self._resumable), None
        built_here = self._model.input_size is None
        if built_here:
            self._model._build(width)
        network = self._model._require()
        try:
            rows = saved["batch_size"] * saved["accumulate"]
            if not isinstance(feed, Blocks):
                rows = min(rows, length if own is None else len(own))
            rows = max(rows, _EVALUATION_ROWS)
            data = [feed.current, (feed if validation is None else validation).current]
            plan["loss"] = core_loss(self._loss, self._model, rows, data)
            core = self._ensured(network)
            standing = core.standing()
            self._plan, self._resumable = saved, None
            begun = standing["epoch"] - (standing["position"] is not None and going_on)
            self._span = (begun, standing["until"] if epochs is None else begun + epochs)
            for hook in reversed(hooks):
                ending.callback(hook.on_train_end, self)
            for hook in hooks:
                hook.on_train_begin(self)
            self.stopped_by = core.fit(plan)
        except BaseException as error:
            # A call that is refused, or does not come to its first epoch, leaves all as it was.
            unchanged = standing is None or repr(self._standing()) == repr(standing)
            if unchanged:
                self._plan, self._resumable = before
            if unchanged and built_here and self._counters() == (0, 0):
                self._model._forget()
                self._core = None
            refused = isinstance(error, RanvierError) and not isinstance(error, DivergedError)
            if not (refused and unchanged):
                self.stopped_by = type(error).__name__
            if not (quiet and isinstance(error, KeyboardInterrupt)):
                raise
        finally:
            record()
            ending.close()
            feed.close()
            if validation is not None:
                validation.close()
        return self.history

    def _planned(
        self, options: dict[str, Any], hooks: list[Callback], validation: bool, batch_size: int
    ) -> dict[str, Any]:
        """The options of a fit, checked, as a file keeps them."""
        given = {name: value for name, value in options.items() if value is not None}
        share = real(
            given.get("validation_split", 0.0),
            "validation_split",
            least=0.0,
            most=1.0,
            open_most=True,
        )
        if validation and share > 0.0:
            raise ArgumentError(
                f"validation_split: expected 0 where validation_data is given, got {share!r}"
            )
        if "max_steps" in given:
            integer(given["max_steps"], "max_steps", least=1)
        validated = validation or share > 0.0
        restore = boolean(given.get("restore_best_weights", True), "restore_best_weights")
        return {
            "batch_size": integer(given.get("batch_size", batch_size), "batch_size", least=1),
            "accumulate": integer(given.get("accumulate", 1), "accumulate", least=1),
            "shuffle": boolean(given.get("shuffle", True), "shuffle"),
            "split": (share, self._seed) if share > 0.0 else None,
            "validation": validation,
            "class_weight": checked_class_weight(given.get("class_weight")),
            "watch": self._watch(given.get("monitor"), restore, hooks, validated),
            "plateau": self._plateau(validated),
        }

    def _going_on(
        self,
        options: dict[str, Any],
        hooks: list[Callback],
        feed: Feed,
        validation: Feed | None,
        allowed: bool,
    ) -> dict[str, Any]:
        """The options of the fit that a file had in progress."""
        saved = self._resumable or {}
        for name, value in options.items():
            if value is not None:
                raise ArgumentError(
                    f"{name}: expected none, as it comes from the file, got {value!r}; "
                    "pass epochs= to begin another fit"
                )
        standing = self._standing() or {}
        if standing.get("position") is None and standing["epoch"] >= standing["until"]:
            raise ArgumentError(
                "epochs: expected a number, as the fit in the file is at its end, got None"
            )
        if saved["validation"] != (validation is not None):
            expected = "that of the fit in the file" if saved["validation"] else "none"
            got = "none" if validation is None else "some"
            raise ArgumentError(f"validation_data: expected {expected}, got {got}")
        for hook in hooks:
            if isinstance(hook, EarlyStopping):
                validated = validation is not None or saved["split"] is not None
                watch = self._watch(None, saved["watch"][2], [hook], validated)
                if watch != saved["watch"]:
                    raise ArgumentError(
                        f"callbacks: expected the file's EarlyStopping, got {hook!r}"
                    )
        if not allowed and fingerprint(feed.arrays) != saved["data"]:
            raise ArgumentError(
                "X and y: expected the data of the fit in the file, got other shapes, types or "
                "rows; allow_other_data=True goes on nevertheless"
            )
        return saved

    def _watch(
        self, monitor: str | None, restore: bool, hooks: list[Callback], validated: bool
    ) -> Any:
        """What the core watches: a goal, patience, and whether to restore the best parameters."""
        stoppers = [hook for hook in hooks if isinstance(hook, EarlyStopping)]
        if len(stoppers) > 1:
            raise ArgumentError(
                f"callbacks: expected at most one EarlyStopping, got {len(stoppers)}"
            )
        stopper = stoppers[0] if stoppers else None
        if stopper is None:
            check_goal(monitor, None)
            if monitor is None and not validated:
                return None
            return self._goal("monitor", monitor, None, 0.0, validated), None, restore
        if monitor not in (None, stopper.monitor):
            raise ArgumentError(
                f"monitor: expected None, or EarlyStopping's {stopper.monitor!r}, got {monitor!r}"
            )
        goal = self._goal(
            "EarlyStopping", stopper.monitor, stopper.mode, stopper.min_delta, validated
        )
        return goal, stopper.patience, restore and stopper.restore_best_weights

    def _plateau(self, validated: bool) -> Any:
        plateau = self._optimizer._rate_plateau()
        if plateau is None:
            return None
        return self._goal(
            "ReduceOnPlateau", plateau.monitor, plateau.mode, plateau.min_delta, validated
        )

    def _goal(
        self, owner: str, monitor: str | None, mode: str | None, min_delta: float, validated: bool
    ) -> tuple[int, bool, float]:
        if monitor is None:
            monitor = "val_loss" if validated else "loss"
        figures = {"loss": (-1, False)}
        if validated:
            figures["val_loss"] = (-2, False)
            core, own = 0, -3
            for metric in self._metrics:
                if metric._spec() is not None:
                    figures[f"val_{metric.name}"] = (core, metric.greater_is_better)
                    core += 1
                else:
                    figures[f"val_{metric.name}"] = (own, metric.greater_is_better)
                    own -= 1
        if monitor not in figures:
            hint = "" if validated else " (those of validation need validation data)"
            raise ArgumentError(
                f"{owner}: expected a figure of the history, {' or '.join(figures)}{hint}, "
                f"got {monitor!r}"
            )
        figure, higher = figures[monitor]
        return figure, higher if mode is None else mode == "max", float(min_delta)

    def _feed(self, X: Any, y: Any, sample_weight: ArrayLike | None) -> Feed:
        """What is trained on or evaluated."""
        if not holds_blocks(X, y):
            return Arrays(self._arrays(X, y, sample_weight, rows=True), y)
        if sample_weight is not None:
            raise ArgumentError(
                "sample_weight: expected None for data in blocks, each of which brings its own"
            )
        return Blocks(X, self._arrays)

    def _validation(self, validation_data: Any) -> Feed | None:
        if validation_data is None:
            return None
        given = validation_data
        listed = isinstance(given, tuple | list)
        blocks = not listed or (bool(given) and isinstance(given[0], tuple))
        if not blocks and len(given) in (2, 3):
            X, y, *rest = given
            weight = rest[0] if rest else None
            return Arrays(self._arrays(X, y, weight, "validation ", rows=True), y)
        if not blocks or hasattr(given, "__array__") or isinstance(given, str | Mapping):
            raise DTypeError(
                "validation_data: expected (X, y) or (X, y, sample_weight), or a source of blocks "
                f"(X, y), got {type(given).__name__}"
            )
        return Blocks(given, self._arrays, prefix="validation ")

    def _arrays(
        self, X: Any, y: Any, weight: Any, prefix: str = "", suffix: str = "", *, rows: bool = False
    ) -> dict[str, Any]:
        """X, y and weights as the core takes them."""
        x = self._model._features(X, f"{prefix}X{suffix}", rows=rows)
        dtype = self._model.dtype
        arrays = arrays_of(x, y, weight, self._loss, dtype, prefix=prefix, suffix=suffix)
        return arrays | {"given": self._given(arrays, f"{prefix}y{suffix}")}

    def _given(self, arrays: dict[str, Any], name: str) -> tuple[Any, Any]:
        """Targets and weights that Standardize measures, before class weights come in."""
        last, loss = self._model.layers[-1], self._loss
        if last != Standardize(of="targets"):
            return None, arrays["weights"]
        if isinstance(loss, Loss):
            if not isinstance(loss, MSE | MAE | Huber | Quantile):
                raise ArgumentError(
                    f"loss: expected mse, mae, huber or quantile before {last!r}, for its outputs "
                    f"are in the units of y, got {loss!r}"
                )
            return arrays["values"], arrays["weights"]
        outputs = self._model._outputs(arrays["x"].shape[1])
        targets = matrix(arrays["own"], self._model.dtype, name)
        if targets.size != len(targets) * outputs:
            raise ShapeError(
                f"{name}: expected {outputs} columns, one for each output, for {last!r} and a loss "
                f"of one's own, got shape {targets.shape}"
            )
        return targets, arrays["weights"]

    def _weigh(self, feed: Feed, wanted: Any, outputs: int, own: Array | None) -> None:
        """Multiplies the weights by those of the classes."""
        balanced = wanted == "balanced" or (isinstance(wanted, list) and "balanced" in wanted)
        if balanced and isinstance(feed, Blocks):
            raise ArgumentError(
                "class_weight: expected weights by class for data in blocks, got 'balanced', for "
                "which all rows would have to be counted first"
            )
        feed.weigh(lambda arrays: class_weighted(arrays, wanted, self._loss, outputs, own))

    def _epoch_hooks(
        self,
        hooks: list[Callback],
        held_out: Callable[[], tuple[Any, Array]],
        part: Part | None,
    ) -> tuple[dict[str, Any], Callable[[], None]]:
        """Where the core puts each epoch's report, what it calls then, and what mends the history.

        A signal may be handled anywhere in Python's code, so what came is put down before any runs.
        `held_out` gives targets and outputs of the validation, for metrics of one's own.
        """
        called = [hook for hook in hooks if _overrides(hook, "on_epoch_end")]
        functions = [metric for metric in self._metrics if isinstance(metric, Function)]
        reports: list[Any] = []
        first = max(map(len, self.history.values()), default=0)
        recorded = 0
        figures: dict[int, list[float]] = {}

        def measured(epoch: int) -> list[float]:
            if epoch not in figures:
                y, output = held_out()
                figures[epoch] = [function._value(y, output) for function in functions]
            return figures[epoch]

        def row_of(report: Any) -> dict[str, Any]:
            epoch, step, loss, validation, learning_rate, seconds = report
            row: dict[str, Any] = {"epoch": epoch, "step": step, "loss": loss}
            if validation is not None:
                row["val_loss"], values = validation
                values = self._named(values)
                own = zip((f.name for f in functions), figures.get(epoch, ()), strict=False)
                values |= dict(own)
                for metric in self._metrics:
                    row[f"val_{metric.name}"] = values.get(metric.name)
            return row | {"learning_rate": learning_rate, "seconds": seconds}

        def record() -> None:
            nonlocal recorded
            while recorded < len(reports):
                self.history._put(first + recorded, row_of(reports[recorded]))
                recorded += 1

        def on_epoch() -> bool:
            epoch, step, _, validation, *_ = reports[-1]
            if functions and validation is not None:
                measured(epoch)
            record()
            self._progress = (epoch + 1, step)
            row = row_of(reports[-1])
            wishes = [hook.on_epoch_end(epoch, dict(row)) for hook in called]
            return any(isinstance(wish, (bool, np.bool_)) and wish for wish in wishes)

        return {
            # One of many networks asks for the interpreter only if somebody listens.
            "on_epoch": (reports, on_epoch if called or functions or part is None else None),
            "on_measure": lambda epoch, number: measured(epoch)[number],
        }, record

    def _step_hook(self, hooks: list[Callback]) -> Any:
        called = [hook for hook in hooks if _overrides(hook, "on_train_batch_end")]
        if not called:
            return None

        def on_step(epoch: int, step: int, loss: float, learning_rate: float) -> bool:
            self._progress = (epoch + 1, step)
            logs = {"loss": loss, "learning_rate": learning_rate}
            wishes = [hook.on_train_batch_end(step, dict(logs)) for hook in called]
            return any(isinstance(wish, (bool, np.bool_)) and wish for wish in wishes)

        return on_step

    def evaluate(
        self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None
    ) -> dict[str, float]:
        """The loss and the metrics over some data in evaluation mode.

        Args:
            X: (rows, input_size); or, without y, a source of blocks as for `fit`.
            y: targets as the loss takes them.
            sample_weight: (rows,), 0 or more, not all 0.

        Returns:
            {"loss": ..., "accuracy": ...}: the loss, then a figure for each of `metrics`.
        """
        network = self._model._require()
        feed = self._feed(X, y, sample_weight)
        try:
            loss = core_loss(self._loss, self._model, _EVALUATION_ROWS, [feed.current] * 2)
            value, figures = network.evaluate(feed.core, loss, self._core_metrics())
        finally:
            feed.close()
        report = {"loss": value} | self._named(figures)
        own = [metric for metric in self._metrics if isinstance(metric, Function)]
        y, output = feed.outcome(self._model) if own else (None, None)
        for metric in own:
            report[metric.name] = metric._value(y, output)
        return {name: report[name] for name in ("loss", *(m.name for m in self._metrics))}

    def _core_metrics(self) -> list[tuple[str, float]]:
        specs = (metric._spec() for metric in self._metrics)
        return [spec for spec in specs if spec is not None]

    def _named(self, figures: Sequence[float]) -> dict[str, float]:
        """The core's figures by name."""
        names = [metric.name for metric in self._metrics if metric._spec() is not None]
        return dict(zip(names, figures, strict=True))


def _resumed(reader: Reader, **own: Any) -> Trainer:
    if reader.metadata.get("ranvier.kind") != "run":
        raise reader.fault("a model, no run; ranvier.load reads it")
    model = read_model(reader)
    trainer: Trainer = reader.take("ranvier.run", partial(_restored, reader, model, own))
    return trainer


def _restored(
    reader: Reader, model: Sequential, own: dict[str, Any], run: dict[str, Any]
) -> Trainer:
    parts = {}
    for name, given in own.items():
        stored = decode(run[name])
        opaque = [part for part in _flat(stored) if isinstance(part, Opaque)]
        if given is None and opaque:
            raise _MissingPartError(
                f"{name}: expected what a file cannot hold, {opaque[0].text}; pass it to resume"
            )
        parts[name] = stored if given is None else given
    parts["metrics"] = list(parts["metrics"])
    options = {name: run[name] for name in ("precision", "ema_decay", "seed")}
    # Runs of earlier versions have none.
    options["quantization"] = run.get("quantization")
    trainer = Trainer(model, **options, **parts)
    network = model._require()
    tables = network.tables()
    names = torch_names(model.layers, [name for table in tables for name, _ in table])
    core = trainer._ensured(network)
    core.restore(reader.file, names, tuples_of(run["standing"]))
    trainer.history.update(_history(run["history"]))
    trainer.stopped_by = run["stopped_by"]
    trainer._plan = trainer._resumable = _checked_plan(run["plan"], len(trainer.metrics))
    return trainer


def _checked_plan(stored: Any, metrics: int) -> dict[str, Any] | None:
    """A fit's options from a file of a run with so many metrics."""
    if stored is None:
        return None
    if not isinstance(stored, dict):
        raise ValueError("a plan that is none")
    plan = tuples_of(stored)

    def goal(value: Any) -> bool:
        if not isinstance(value, tuple) or list(map(type, value)) != [int, bool, float]:
            return False
        return bool(-2 - metrics <= value[0] < metrics)

    match plan:
        case {
            "batch_size": int(),
            "accumulate": int(),
            "shuffle": bool(),
            "split": None | (float(), int()),
            "validation": bool(),
            "watch": None | (_, None | int(), bool()),
            "plateau": _,
            "class_weight": _,
            "data": str(),
        } if (plan["watch"] is None or goal(plan["watch"][0])) and (
            plan["plateau"] is None or goal(plan["plateau"])
        ):
            pass
        case _:
            raise ValueError("a torn plan")
    for name in ("batch_size", "accumulate"):
        integer(plan[name], name, least=1)
    if plan["watch"] is not None and plan["watch"][1] is not None:
        integer(plan["watch"][1], "patience", least=0)
    if plan["split"] is not None:
        share, seed = plan["split"]
        real(share, "validation_split", least=0.0, most=1.0, open_least=True, open_most=True)
        checked_seed(seed)
    plan["class_weight"] = _class_weight(plan["class_weight"])
    return plan


def _class_weight(stored: Any) -> Any:
    """Class weights from a file: pairs, or a list of them."""
    if stored is None or stored == "balanced":
        return stored
    if all(isinstance(pair, tuple) and list(map(type, pair)) == [int, float] for pair in stored):
        return checked_class_weight(dict(stored))
    return [_class_weight(entry) for entry in stored]


class _MissingPartError(FileFormatError, ArgumentError):
    """The file is well, and something must be given beside it."""


def tuples_of(entries: dict[str, Any]) -> dict[str, Any]:
    """An object of JSON with the tuples that it had."""
    return {key: tuples(value) for key, value in entries.items()}


def _history(columns: Any) -> dict[str, list[Any]]:
    if not isinstance(columns, dict):
        raise ValueError("a history that is none")
    lengths = {len(column) for column in columns.values() if isinstance(column, list)}
    if len(lengths) > 1 or any(not isinstance(column, list) for column in columns.values()):
        raise ValueError("a history whose columns do not agree")
    return columns


def _flat(part: Any) -> tuple[Any, ...]:
    return part if isinstance(part, tuple) else (part,)


def _from_bytes(data: bytes, own: dict[str, Any]) -> Trainer:
    """The run of a pickle, with what a file cannot hold."""
    parts: dict[str, Any] = {"loss": None, "optimizer": None, "metrics": None}
    return _resumed(Reader(data), **(parts | own))


@dataclass(frozen=True)
class Part:
    """What one of many networks trains on.

    Args:
        rows: of X, in a training epoch; None for all.
        held_out: rows of X to validate on; None for none.
        tick: called about every 50 ms; what it raises ends the training.
    """

    rows: Array | None
    held_out: Array | None
    tick: Callable[[], None]


def _part_options(part: Part | None) -> dict[str, Any]:
    if part is None:
        return {"rows": None, "held_out": None, "alone": False, "on_tick": None}
    columns = [None if rows is None else rows[:, None] for rows in (part.rows, part.held_out)]
    return {"rows": columns[0], "held_out": columns[1], "alone": True, "on_tick": part.tick}


def _held_out(
    model: Sequential,
    feed: Feed,
    split: tuple[float, int] | None,
    validation: Feed | None,
    part: Part | None,
) -> tuple[Any, Array]:
    """Targets and outputs of the validation."""
    if validation is not None:
        return validation.outcome(model)
    if split is not None:
        rows = np.frombuffer(_core.holdout(feed.arrays, split), np.uint32)
        return feed.outcome(model, rows)
    return feed.outcome(model, None if part is None else part.held_out)


def _warn_of_double_squash(model: Sequential, loss: Loss | CustomLoss) -> None:
    """Says that the classification losses take logits, to those who come from where they do not."""
    last = model.layers[-1]
    squash = "softmax" if isinstance(last, Softmax) else getattr(last, "activation", None)
    squash = squash if isinstance(squash, str) else getattr(type(squash), "__name__", "").lower()
    pair = (squash, type(loss))
    if pair in (("softmax", CrossEntropy), ("sigmoid", BinaryCrossEntropy)):
        logging.getLogger("ranvier").warning(
            "%r takes raw outputs and has a %s of its own: leave that of the last layer, %r, out",
            loss,
            squash,
            last,
        )


def _named(value: str | None, option: str) -> str | None:
    """None, or one of the core's names for an option."""
    names = _core.names(option)
    if value is not None and not isinstance(value, str):
        raise DTypeError(f"{option}: expected None or a string, got {value!r}")
    if value is not None and value not in names:
        raise ArgumentError(f"{option}: expected None or {', '.join(names)}, got {value!r}")
    return value


def _checked_precision(precision: str | None, model: Sequential) -> str | None:
    if _named(precision, "precision") is None:
        return None
    if model.dtype != "float32":
        raise ArgumentError(
            f"precision: expected None for a model of {model.dtype}, got {precision!r} "
            "(a mode of float32 models)"
        )
    return precision


def _checked_callbacks(callbacks: Iterable[Callback]) -> list[Callback]:
    if isinstance(callbacks, Callback) or not isinstance(callbacks, Iterable):
        raise DTypeError(f"callbacks: expected a list of ranvier.Callback, got {callbacks!r}")
    hooks = list(callbacks)
    for number, hook in enumerate(hooks):
        if not isinstance(hook, Callback):
            raise DTypeError(
                f"callbacks[{number}]: expected an object of ranvier.Callback, got {hook!r}"
            )
    return hooks


def _overrides(hook: Callback, name: str) -> bool:
    return getattr(getattr(hook, name), "__func__", None) is not getattr(Callback, name)
