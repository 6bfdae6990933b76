//! `Trainer`, which fits, and `Stepper`, an optimiser for one's own loop.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use ranvier_core::data::{Data, Feed, Role, Split};
use ranvier_core::error::{Error, Result};
use ranvier_core::evaluation::Shared;
use ranvier_core::matrix::Buffer;
use ranvier_core::network::Precision;
use ranvier_core::optimizers::{Optimizer, OptimizerState};
use ranvier_core::pool;
use ranvier_core::schedule::{PlateauState, Time};
use ranvier_core::trainer::{Convention, FitPlan, Position, Standing, Trainer as CoreTrainer};
use ranvier_core::watch::{Best, Figure, Goal, Progress, Watch};

use crate::arrays::{Number, Readable};
use crate::errors::{Failure, guarded, raise};
use crate::file::{Destination, File, as_bytes};
use crate::monitor::{Hooks, Lent};
use crate::network::{AnyFeed, AnyLoss, AnyNetwork, Network, copied, objective};
use crate::specs::{MethodSpec, OptimizerSpec, parse_metrics};

enum AnyTrainer {
    F32(CoreTrainer<f32>),
    F64(CoreTrainer<f64>),
}

/// Training state of one network.
#[pyclass(frozen, module = "ranvier._core")]
pub struct Trainer {
    network: Arc<AnyNetwork>,
    /// Held during a fit.
    core: Mutex<AnyTrainer>,
    /// Its own.
    id: u64,
}

static TRAINERS: AtomicU64 = AtomicU64::new(1);

/// What one fit does.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct PlanSpec {
    data: AnyFeed,
    validation: Option<AnyFeed>,
    /// Rows to train on, and to validate on, of the same arrays.
    rows: Option<Readable>,
    held_out: Option<Readable>,
    /// Whether to stay on the calling thread.
    alone: bool,
    /// (share, seed)
    split: Option<(f64, u64)>,
    loss: AnyLoss,
    /// Factors of the loss and of its gradient, whether penalties go by the batch, and whether the log-loss clips; None
    /// for our own.
    convention: Option<(f64, f64, bool, bool)>,
    /// (name, option)
    metrics: Vec<(String, f64)>,
    /// None goes on with what the file had in progress.
    epochs: Option<u64>,
    batch_size: usize,
    accumulate: usize,
    shuffle: bool,
    max_steps: Option<u64>,
    max_time: Option<f64>,
    max_evaluations: Option<u64>,
    watch: Option<WatchSpec>,
    plateau: Option<GoalSpec>,
    on_step: Option<Py<PyAny>>,
    on_tick: Option<Py<PyAny>>,
    on_epoch: Option<(Py<PyList>, Option<Py<PyAny>>)>,
    on_rate: Option<Py<PyAny>>,
    on_measure: Option<Py<PyAny>>,
}

/// (figure, whether more is better, least difference); figures are -1 for the loss, -2 for that of the validation,
/// below that those that the caller finds, else the place of a metric.
type GoalSpec = (i64, bool, f64);
/// A goal, patience, and whether to restore the best parameters.
type WatchSpec = (GoalSpec, Option<u64>, bool);

fn goal((figure, higher, min_delta): &GoalSpec) -> Goal {
    Goal {
        figure: match *figure {
            -1 => Figure::Loss,
            -2 => Figure::ValidationLoss,
            index if index < 0 => Figure::External((-3 - index) as usize),
            index => Figure::Metric(index as usize),
        },
        higher: *higher,
        min_delta: *min_delta,
    }
}

/// (figure, epoch) of the best epoch, and the epochs since then.
type ProgressSpec = (Option<(f64, u64)>, u64);

fn progress((best, waited): ProgressSpec) -> Progress {
    let best = best.map(|(value, epoch)| Best { value, epoch });
    Progress { best, waited }
}

fn progress_spec(progress: Progress) -> ProgressSpec {
    let best = progress.best.map(|best| (best.value, best.epoch));
    (best, progress.waited)
}

/// Where a training stands, as a file has it.
#[derive(FromPyObject, IntoPyObject)]
#[pyo3(from_item_all)]
pub struct StandingSpec {
    epoch: u64,
    step: u64,
    updates: u64,
    averaged: u64,
    /// (batches, sum of losses, sum of weights, rate)
    position: Option<(u64, f64, f64, f64)>,
    until: u64,
    last_step: u64,
    /// (scale, epochs waited, epochs to rest)
    plateau: (f64, u64, u64),
    plateau_progress: ProgressSpec,
    /// A goal, and whether the best parameters are to be restored.
    goal: Option<(GoalSpec, bool)>,
    progress: ProgressSpec,
    loss_before: Option<f64>,
    damping: Option<f64>,
}

impl StandingSpec {
    fn of<F: Number>(trainer: &CoreTrainer<F>) -> Self {
        let standing = trainer.standing;
        let plateau = standing.plateau;
        Self {
            epoch: standing.epoch,
            step: standing.step,
            updates: trainer.updates(),
            averaged: trainer.averaged(),
            position: standing
                .position
                .map(|at| (at.batches, at.loss_sum, at.whole, at.learning_rate)),
            until: standing.until,
            last_step: standing.last_step,
            plateau: (plateau.scale, plateau.waited, plateau.rest),
            plateau_progress: progress_spec(standing.plateau_progress),
            goal: standing.goal.map(|(goal, restore)| {
                let figure = match goal.figure {
                    Figure::Loss => -1,
                    Figure::ValidationLoss => -2,
                    Figure::External(number) => -3 - number as i64,
                    Figure::Metric(index) => index as i64,
                };
                ((figure, goal.higher, goal.min_delta), restore)
            }),
            progress: progress_spec(standing.progress),
            loss_before: standing.loss_before,
            damping: standing.damping,
        }
    }

    fn parse(self) -> Result<Standing> {
        let (scale, waited, rest) = self.plateau;
        // Far beyond any training, and far from an overflow.
        let best = [self.progress.0, self.plateau_progress.0];
        let epochs = best.iter().flatten().map(|(_, epoch)| *epoch);
        let waits = [waited, rest, self.progress.1, self.plateau_progress.1];
        let counts = [self.epoch, self.step, self.updates, self.averaged];
        let mut counts = counts.into_iter().chain(waits).chain(epochs);
        if let Some(count) = counts.find(|count| *count > 1 << 60) {
            return Err(Error::argument("standing", "counts below 2^60", count));
        }
        if !(scale.is_finite() && scale > 0.0) {
            return Err(Error::argument("standing", "a positive scale", scale));
        }
        if let Some((batches, _, whole, _)) = self.position
            && (self.epoch == 0 || batches > 1 << 60 || !(whole.is_finite() && whole >= 0.0))
        {
            let got = format!(
                "{batches} batches of weight {whole} in epoch {}",
                self.epoch
            );
            return Err(Error::argument("standing", "a place in an epoch", got));
        }
        if let Some(damping) = self.damping.filter(|mu| !(mu.is_finite() && *mu > 0.0)) {
            return Err(Error::argument("standing", "a positive damping", damping));
        }
        Ok(Standing {
            epoch: self.epoch,
            step: self.step,
            position: self
                .position
                .map(|(batches, loss_sum, whole, learning_rate)| Position {
                    batches,
                    loss_sum,
                    whole,
                    learning_rate,
                }),
            until: self.until,
            last_step: self.last_step,
            plateau: PlateauState {
                scale,
                waited,
                rest,
            },
            plateau_progress: progress(self.plateau_progress),
            goal: self.goal.map(|(spec, restore)| (goal(&spec), restore)),
            progress: progress(self.progress),
            loss_before: self.loss_before,
            damping: self.damping,
        })
    }
}

/// Runs an expression with `$trainer` bound to the trainer of either type, also in a hook of its fit.
macro_rules! with_trainer {
    ($self:expr, $trainer:ident, $F:ident => $body:expr) => {{
        let busy = || {
            let message = "this trainer is fitting in another thread; \
                           use it in a callback of its fit, or after it";
            Failure::from(raise("BusyError", message.to_owned()))
        };
        let lock = match $self.core.try_lock() {
            Ok(lock) => Some(lock),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        match (lock.as_deref(), &*$self.network) {
            (Some(AnyTrainer::F32($trainer)), _) => {
                type $F = f32;
                Ok($body)
            }
            (Some(AnyTrainer::F64($trainer)), _) => {
                type $F = f64;
                Ok($body)
            }
            (None, AnyNetwork::F32(_)) => {
                type $F = f32;
                <f32 as Lent>::borrow($self.id, |$trainer| $body).ok_or_else(busy)
            }
            (None, AnyNetwork::F64(_)) => {
                type $F = f64;
                <f64 as Lent>::borrow($self.id, |$trainer| $body).ok_or_else(busy)
            }
        }
    }};
}

/// Row numbers of an array of integers.
pub fn numbers(array: &Readable) -> Result<Vec<u32>> {
    let values = copied::<f64>(array)?;
    Ok(values.iter().map(|&value| value as u32).collect())
}

#[pymethods]
impl Trainer {
    #[new]
    fn new(
        py: Python<'_>,
        network: &Network,
        optimizer: MethodSpec,
        precision: Option<&str>,
        ema_decay: Option<f64>,
        seed: u64,
    ) -> PyResult<Self> {
        guarded(|| {
            let optimizer = optimizer.parse()?;
            let precision = precision.map_or(Ok(Precision::Full), Precision::parse)?;
            let trainer = py.detach(|| -> Result<AnyTrainer> {
                Ok(match &*network.any {
                    AnyNetwork::F32(shared) => AnyTrainer::F32(CoreTrainer::new(
                        &shared.read(),
                        optimizer,
                        precision,
                        ema_decay,
                        seed,
                    )?),
                    AnyNetwork::F64(shared) => AnyTrainer::F64(CoreTrainer::new(
                        &shared.read(),
                        optimizer,
                        precision,
                        ema_decay,
                        seed,
                    )?),
                })
            })?;
            Ok(Self {
                network: network.any.clone(),
                core: Mutex::new(trainer),
                id: TRAINERS.fetch_add(1, Ordering::Relaxed),
            })
        })
    }

    /// Runs a fit; says why it ended.
    fn fit(&self, py: Python<'_>, plan: PlanSpec) -> PyResult<&'static str> {
        guarded(|| {
            let mut trainer = match self.core.try_lock() {
                Ok(trainer) => trainer,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    let message = "this trainer is fitting already, in this thread or another; \
                                   make one Trainer for each fit that runs at the same time";
                    return Err(raise("BusyError", message.to_owned()).into());
                }
            };
            let mut hooks = Hooks {
                on_step: plan.on_step,
                on_epoch: plan.on_epoch,
                on_tick: plan.on_tick,
                on_rate: plan.on_rate,
                on_measure: plan.on_measure,
                id: self.id,
                blocks: [
                    plan.data.blocks(py),
                    plan.validation.as_ref().and_then(|feed| feed.blocks(py)),
                ],
                ..Hooks::default()
            };
            let loss = plan.loss.install(&mut hooks)?;
            let metrics = parse_metrics(&plan.metrics)?;
            let rows = plan.rows.as_ref().map(numbers).transpose()?;
            let held_out = plan.held_out.as_ref().map(numbers).transpose()?;
            let alone = plan.alone;
            let mut feed = plan.data.feed(Role::Main);
            let mut validation = plan.validation.as_ref().map(|v| v.feed(Role::Validation));
            if let Feed::Arrays(data) = &mut feed {
                if let Some(held_out) = &held_out {
                    validation = Some(Feed::Arrays(Data {
                        role: Role::Validation,
                        rows: Some(held_out),
                        ..*data
                    }));
                }
                data.rows = rows.as_deref();
            }
            let plan = FitPlan {
                data: feed,
                validation,
                split: plan.split.map(|(fraction, seed)| Split { fraction, seed }),
                objective: objective(loss.as_ref()),
                convention: plan.convention.map_or(
                    Convention::OURS,
                    |(loss, gradient, by_batch, clips)| Convention {
                        loss,
                        gradient,
                        by_batch,
                        clips,
                    },
                ),
                metrics: &metrics,
                epochs: plan.epochs,
                batch_size: plan.batch_size,
                accumulate: plan.accumulate,
                shuffle: plan.shuffle,
                max_steps: plan.max_steps,
                max_time: plan
                    .max_time
                    .map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)),
                max_evaluations: plan.max_evaluations,
                watch: plan.watch.as_ref().map(|(spec, patience, restore)| Watch {
                    goal: goal(spec),
                    patience: *patience,
                    restore: *restore,
                }),
                plateau: plan.plateau.as_ref().map(goal),
            };
            let trainer = &mut *trainer;
            let result = py.detach(|| {
                let _alone = alone.then(pool::Alone::begin);
                match (&*self.network, trainer) {
                    (AnyNetwork::F32(shared), AnyTrainer::F32(trainer)) => {
                        trainer.fit(shared, plan, &mut hooks)
                    }
                    (AnyNetwork::F64(shared), AnyTrainer::F64(trainer)) => {
                        trainer.fit(shared, plan, &mut hooks)
                    }
                    _ => Err(Error::Interrupted),
                }
            });
            hooks.hand_over(py)?;
            match result {
                Ok(ending) => Ok(ending.name()),
                Err(error) => Err(hooks.failure(error)),
            }
        })
    }

    /// Where the training stands.
    fn standing(&self) -> PyResult<StandingSpec> {
        guarded(|| with_trainer!(self, trainer, F => StandingSpec::of::<F>(trainer)))
    }

    /// The loss where the last second-order method came to.
    fn reached(&self) -> PyResult<Option<f64>> {
        guarded(|| with_trainer!(self, trainer, _F => trainer.reached))
    }

    /// Writes a file of the run; returns its bytes where there is no path.
    fn save<'py>(&self, py: Python<'py>, to: Destination) -> PyResult<Option<Bound<'py, PyBytes>>> {
        guarded(|| {
            let bytes = py.detach(|| {
                with_trainer!(self, trainer, F => {
                    let any: &dyn Any = self.network.shared();
                    any.downcast_ref::<Shared<F>>().map(|shared| {
                        let network = shared.read();
                        to.write(trainer.tensors(&network, &to.names))
                    })
                })
            })?;
            as_bytes(py, bytes.unwrap_or(Err(Error::Interrupted)))
        })
    }

    /// Takes up a run from a file, where the network's parameters have `names`.
    fn restore(
        &self,
        py: Python<'_>,
        file: &File,
        names: Vec<String>,
        standing: StandingSpec,
    ) -> PyResult<()> {
        guarded(|| {
            let (updates, averaged) = (standing.updates, standing.averaged);
            let standing = standing.parse()?;
            Ok(py.detach(|| {
                let mut trainer = self.core.lock().unwrap_or_else(PoisonError::into_inner);
                file.with(|file| match (&*self.network, &mut *trainer) {
                    (AnyNetwork::F32(shared), AnyTrainer::F32(trainer)) => {
                        trainer.restore(&shared.read(), file, &names, standing, updates, averaged)
                    }
                    (AnyNetwork::F64(shared), AnyTrainer::F64(trainer)) => {
                        trainer.restore(&shared.read(), file, &names, standing, updates, averaged)
                    }
                    _ => Err(Error::Interrupted),
                })
            })?)
        })
    }
}

enum AnyState {
    F32(OptimizerState<f32>),
    F64(OptimizerState<f64>),
}

/// An optimiser bound to one network, stepped by hand.
#[pyclass(frozen, module = "ranvier._core")]
pub struct Stepper {
    network: Arc<AnyNetwork>,
    optimizer: Optimizer,
    state: Mutex<AnyState>,
}

#[pymethods]
impl Stepper {
    #[new]
    fn new(py: Python<'_>, network: &Network, optimizer: OptimizerSpec) -> PyResult<Self> {
        guarded(|| {
            let optimizer = optimizer.parse()?;
            let state = py.detach(|| -> Result<AnyState> {
                Ok(match &*network.any {
                    AnyNetwork::F32(shared) => {
                        AnyState::F32(optimizer.state(shared.read().parameters.len())?)
                    }
                    AnyNetwork::F64(shared) => {
                        AnyState::F64(optimizer.state(shared.read().parameters.len())?)
                    }
                })
            })?;
            Ok(Self {
                network: network.any.clone(),
                optimizer,
                state: Mutex::new(state),
            })
        })
    }

    /// One step with gradients in the order of the network's trainable parameters, at the rate of the schedule or, if
    /// that is a function of the caller's, at `rate`.
    fn step(&self, py: Python<'_>, gradients: Vec<Readable>, rate: Option<f64>) -> PyResult<()> {
        guarded(|| {
            Ok(py.detach(|| {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                match (&*self.network, &mut *state) {
                    (AnyNetwork::F32(shared), AnyState::F32(state)) => {
                        step(shared, &self.optimizer, state, &gradients, rate)
                    }
                    (AnyNetwork::F64(shared), AnyState::F64(state)) => {
                        step(shared, &self.optimizer, state, &gradients, rate)
                    }
                    _ => Err(Error::Interrupted),
                }
            })?)
        })
    }

    /// Steps done.
    #[getter]
    fn steps(&self, py: Python<'_>) -> u64 {
        py.detach(
            || match &*self.state.lock().unwrap_or_else(PoisonError::into_inner) {
                AnyState::F32(state) => state.step,
                AnyState::F64(state) => state.step,
            },
        )
    }

    /// Whether the network is this one's.
    fn follows(&self, network: &Network) -> bool {
        Arc::ptr_eq(&self.network, &network.any)
    }
}

fn step<F: crate::arrays::Number>(
    shared: &ranvier_core::evaluation::Shared<F>,
    optimizer: &Optimizer,
    state: &mut OptimizerState<F>,
    gradients: &[Readable],
    rate: Option<f64>,
) -> Result<()> {
    let time = Time {
        step: state.step,
        epoch: 0,
    };
    let rate = optimizer
        .learning_rate
        .rate(time, &mut |_| Ok(rate.unwrap_or(f64::NAN)))?;
    let mut network = shared.write();
    let mut flat = Buffer::<F>::zeroed(network.parameters.len())?;
    for (index, gradient) in gradients.iter().enumerate() {
        network.pack_into(index, &copied::<F>(gradient)?, &mut flat);
    }
    let step = state.step;
    let diverged = |what: &str| Error::Diverged {
        what: what.to_owned(),
        epoch: 0,
        step,
    };
    if !flat.iter().all(|value| value.finite()) {
        return Err(diverged("a gradient"));
    }
    let done = optimizer.step(state, &mut network.parameters, &mut flat, rate);
    network.constrain();
    network.version += 1;
    done.map_err(|_| diverged("the norm of the gradient"))
}
