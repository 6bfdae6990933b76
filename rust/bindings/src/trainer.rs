//! `Trainer`, which fits, and `Stepper`, an optimiser for one's own loop.

use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::Duration;

use pyo3::prelude::*;
use ranvier_core::data::{Role, Split};
use ranvier_core::error::{Error, Result};
use ranvier_core::matrix::Buffer;
use ranvier_core::network::Precision;
use ranvier_core::optimizers::{Optimizer, OptimizerState};
use ranvier_core::schedule::Time;
use ranvier_core::trainer::{FitPlan, Trainer as CoreTrainer};
use ranvier_core::watch::{Figure, Goal, Watch};

use crate::arrays::Readable;
use crate::errors::{guarded, raise};
use crate::monitor::Hooks;
use crate::network::{AnyLoss, AnyNetwork, Arrays, Network, copied, objective};
use crate::specs::OptimizerSpec;

enum AnyTrainer {
    F32(CoreTrainer<f32>),
    F64(CoreTrainer<f64>),
}

/// Training state of one network.
#[pyclass(frozen, module = "ranvier._core")]
pub struct Trainer {
    network: Arc<AnyNetwork>,
    /// Held during a fit.
    trainer: Mutex<AnyTrainer>,
}

/// What one fit does.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct PlanSpec {
    data: Arrays,
    validation: Option<Arrays>,
    /// (share, seed)
    split: Option<(f64, u64)>,
    loss: AnyLoss,
    epochs: u64,
    batch_size: usize,
    shuffle: bool,
    max_steps: Option<u64>,
    max_time: Option<f64>,
    watch: Option<WatchSpec>,
    plateau: Option<GoalSpec>,
    on_step: Option<Py<PyAny>>,
    on_epoch: Option<Py<PyAny>>,
    on_rate: Option<Py<PyAny>>,
    on_measure: Option<Py<PyAny>>,
}

/// (figure, whether more is better, least difference)
type GoalSpec = (String, bool, f64);
/// A goal, patience, and whether to restore the best parameters.
type WatchSpec = (GoalSpec, Option<u64>, bool);

fn goal((figure, higher, min_delta): &GoalSpec) -> Goal {
    Goal {
        figure: match figure.as_str() {
            "loss" => Figure::Loss,
            "val_loss" => Figure::ValidationLoss,
            "val_accuracy" => Figure::ValidationAccuracy,
            _ => Figure::External,
        },
        higher: *higher,
        min_delta: *min_delta,
    }
}

#[pymethods]
impl Trainer {
    #[new]
    fn new(
        py: Python<'_>,
        network: &Network,
        optimizer: OptimizerSpec,
        precision: Option<&str>,
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
                        seed,
                    )?),
                    AnyNetwork::F64(shared) => AnyTrainer::F64(CoreTrainer::new(
                        &shared.read(),
                        optimizer,
                        precision,
                        seed,
                    )?),
                })
            })?;
            Ok(Self {
                network: network.any.clone(),
                trainer: Mutex::new(trainer),
            })
        })
    }

    /// Runs a fit; says why it ended.
    fn fit(&self, py: Python<'_>, plan: PlanSpec) -> PyResult<&'static str> {
        guarded(|| {
            let mut trainer = match self.trainer.try_lock() {
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
                on_rate: plan.on_rate,
                on_measure: plan.on_measure,
                ..Hooks::default()
            };
            let loss = plan.loss.install(&mut hooks)?;
            let plan = FitPlan {
                data: plan.data.data(Role::Main),
                validation: plan.validation.as_ref().map(|v| v.data(Role::Validation)),
                split: plan.split.map(|(fraction, seed)| Split { fraction, seed }),
                objective: objective(loss.as_ref()),
                epochs: plan.epochs,
                batch_size: plan.batch_size,
                shuffle: plan.shuffle,
                max_steps: plan.max_steps,
                max_time: plan
                    .max_time
                    .map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)),
                watch: plan.watch.as_ref().map(|(spec, patience, restore)| Watch {
                    goal: goal(spec),
                    patience: *patience,
                    restore: *restore,
                }),
                plateau: plan.plateau.as_ref().map(goal),
            };
            let trainer = &mut *trainer;
            let result = py.detach(|| match (&*self.network, trainer) {
                (AnyNetwork::F32(shared), AnyTrainer::F32(trainer)) => {
                    trainer.fit(shared, plan, &mut hooks)
                }
                (AnyNetwork::F64(shared), AnyTrainer::F64(trainer)) => {
                    trainer.fit(shared, plan, &mut hooks)
                }
                _ => Err(Error::Interrupted),
            });
            match result {
                Ok(ending) => Ok(ending.name()),
                Err(error) => Err(hooks.failure(error)),
            }
        })
    }

    /// (figure, epoch) of the best epoch that was watched for; None without one, and while it fits.
    fn best(&self) -> Option<(f64, u64)> {
        let best = match &*self.trainer.try_lock().ok()? {
            AnyTrainer::F32(trainer) => trainer.best(),
            AnyTrainer::F64(trainer) => trainer.best(),
        };
        best.map(|best| (best.value, best.epoch))
    }

    /// (epochs begun, steps done) over the trainer's life; None while it fits.
    fn progress(&self) -> Option<(u64, u64)> {
        let trainer = match self.trainer.try_lock() {
            Ok(trainer) => trainer,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        match &*trainer {
            AnyTrainer::F32(trainer) => Some((trainer.epoch, trainer.step)),
            AnyTrainer::F64(trainer) => Some((trainer.epoch, trainer.step)),
        }
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
    network.version += 1;
    done.map_err(|_| diverged("the norm of the gradient"))
}
