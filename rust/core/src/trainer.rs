//! The epoch loop: shuffle, gather, step, evaluate, stop.

use std::sync::RwLockWriteGuard;
use std::time::Instant;

use crate::data::{BatchTargets, Data, Objective, Role};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::evaluation::{Clock, EpochReport, Monitor, Shared, TICK, evaluate};
use crate::matrix::{Buffer, all_finite};
use crate::network::{Network, Pass, Precision, Workspace};
use crate::optimizers::{Optimizer, OptimizerState};
use crate::pool;
use crate::rng::{identity_order, shuffle};
use crate::simd::bf16::Arithmetic;
use crate::source::Rows;

/// What one call of [`Trainer::fit`] does.
#[derive(Clone, Copy)]
pub struct FitPlan<'a> {
    pub data: Data<'a>,
    pub validation: Option<Data<'a>>,
    pub objective: Objective<'a>,
    pub epochs: u64,
    pub batch_size: usize,
    pub shuffle: bool,
}

/// Training state of one network: moments, counters, buffers.
pub struct Trainer<F: Element> {
    optimizer: Optimizer,
    state: OptimizerState<F>,
    precision: Precision,
    seed: u64,
    /// Epochs begun.
    pub epoch: u64,
    /// Steps done.
    pub step: u64,
    workspace: Option<Workspace<F>>,
    gradient: Buffer<F>,
}

/// Buffers of one fit.
struct Batch<F: Element> {
    order: Buffer<u32>,
    targets: BatchTargets<F>,
    /// Parameters and running statistics at the end of the last finite epoch.
    good: (Buffer<F>, Buffer<F>),
}

impl<F: Element> Trainer<F> {
    pub fn new(
        network: &Network<F>,
        optimizer: Optimizer,
        precision: Precision,
        seed: u64,
    ) -> Result<Self> {
        if precision == Precision::Bf16 && F::Narrow::VALUES == 1 {
            return Err(Error::argument(
                "precision",
                "none for a model of float64 (bf16 is for float32)",
                "bf16",
            ));
        }
        let len = network.parameters.len();
        Ok(Self {
            precision,
            state: optimizer.state(len)?,
            optimizer,
            seed,
            epoch: 0,
            step: 0,
            workspace: None,
            gradient: Buffer::zeroed(len)?,
        })
    }

    /// Trains for `plan.epochs` epochs, or until the monitor says stop. Refuses bad data before anything has
    /// changed. On [`Error::Interrupted`] the network holds the last complete step; on [`Error::Diverged`] the
    /// parameters of the last finite epoch, and the moments start anew.
    pub fn fit(
        &mut self,
        shared: &Shared<F>,
        plan: FitPlan<'_>,
        monitor: &mut dyn Monitor<F>,
    ) -> Result<()> {
        if plan.batch_size == 0 {
            return Err(Error::argument("batch_size", "a positive integer", 0));
        }
        let (inputs, outputs) = {
            let network = shared.read();
            (network.inputs, network.outputs)
        };
        plan.data.check_shapes(plan.objective, inputs, outputs)?;
        if let Some(validation) = &plan.validation {
            validation.check_shapes(plan.objective, inputs, outputs)?;
        }
        let rows = plan.data.rows();
        let batch_size = plan.batch_size.min(rows);
        let mut batch = Batch {
            order: identity_order(rows)?,
            targets: BatchTargets::new(&plan.data, batch_size)?,
            good: {
                let network = shared.read();
                (
                    Buffer::copied(&network.parameters)?,
                    Buffer::copied(&network.state)?,
                )
            },
        };
        if self.workspace.as_ref().is_none_or(|w| w.rows != batch_size) {
            self.workspace = None;
            let workspace = shared
                .read()
                .workspace(batch_size, true, false, self.precision);
            self.workspace = Some(workspace?);
        }
        for data in std::iter::once(&plan.data).chain(&plan.validation) {
            data.check_values::<F>(plan.objective, outputs, false, &mut || monitor.tick())?;
        }
        let _session = pool::Session::new(shared.read().step_work(batch_size));
        let mut clock = Clock::new();
        for _ in 0..plan.epochs {
            let begun = Instant::now();
            let epoch = self.epoch;
            self.epoch += 1;
            if plan.shuffle {
                shuffle(&mut batch.order, self.seed, epoch);
            }
            let run = self.run_epoch(shared, &plan, &mut batch, epoch, &mut clock, monitor);
            let (loss, stop) = run.map_err(|error| self.recover(error, shared, &batch))?;
            // The lock is released here: recovering takes it for writing.
            let fault = self.non_finite(&shared.read());
            if let Some(what) = fault {
                return Err(self.recover(self.diverged(what), shared, &batch));
            }
            {
                let network = shared.read();
                batch.good.0.copy_from_slice(&network.parameters);
                batch.good.1.copy_from_slice(&network.state);
            }
            let validation = match &plan.validation {
                Some(data) => Some(evaluate(shared, data, plan.objective, monitor)?),
                None => None,
            };
            let report = EpochReport {
                epoch,
                step: self.step,
                loss,
                validation,
                seconds: begun.elapsed().as_secs_f64(),
            };
            if monitor.epoch_end(&report)? || stop {
                break;
            }
            if clock.due() {
                monitor.tick()?;
            }
        }
        Ok(())
    }

    /// One pass over the data. Returns the mean loss and whether the monitor wants to stop.
    fn run_epoch(
        &mut self,
        shared: &Shared<F>,
        plan: &FitPlan<'_>,
        batch: &mut Batch<F>,
        epoch: u64,
        clock: &mut Clock,
        monitor: &mut dyn Monitor<F>,
    ) -> Result<(f64, bool)> {
        let Some(mut workspace) = self.workspace.take() else {
            return Ok((f64::NAN, true));
        };
        let result = self.run_batches(shared, plan, batch, epoch, clock, monitor, &mut workspace);
        self.workspace = Some(workspace);
        result
    }

    fn run_batches(
        &mut self,
        shared: &Shared<F>,
        plan: &FitPlan<'_>,
        batch: &mut Batch<F>,
        epoch: u64,
        clock: &mut Clock,
        monitor: &mut dyn Monitor<F>,
        workspace: &mut Workspace<F>,
    ) -> Result<(f64, bool)> {
        let (mut loss_sum, mut whole) = (0.0, 0.0);
        let mut guard = Some(shared.write());
        let size = workspace.rows;
        for (number, rows) in batch.order.chunks(size).enumerate() {
            let picked = Rows::Picked(rows);
            let count = rows.len();
            plan.data.x.gather(picked, workspace.input());
            batch.targets.gather(&plan.data, picked);
            let weight = batch.targets.whole(count);
            if weight <= 0.0 {
                let_others_in(shared, &mut guard);
                if clock.due() {
                    guard = None;
                    monitor.tick()?;
                }
                continue;
            }
            let pass = Pass {
                training: true,
                seed: self.seed,
                epoch,
                position: (number * size) as u64,
                weights: batch.targets.weights(count),
            };
            let network = guard.get_or_insert_with(|| shared.write());
            network.forward(workspace, count, pass);
            let loss = match plan.objective {
                Objective::Core(loss) => {
                    let len = count * network.outputs;
                    loss.value_and_gradient(
                        &workspace.output[..len],
                        batch.targets.target(count),
                        pass.weights,
                        count,
                        &mut workspace.d_output[..len],
                    )
                }
                Objective::External => {
                    let len = count * network.outputs;
                    guard = None;
                    let d_output = &mut workspace.d_output[..len];
                    monitor.loss(Role::Main, &workspace.output[..len], picked, d_output)?
                }
            };
            if !loss.is_finite() {
                return Err(self.diverged("the loss"));
            }
            let network = guard.get_or_insert_with(|| shared.write());
            self.update(network, workspace, count, pass)?;
            loss_sum += loss * weight;
            whole += weight;
            if monitor.wants_steps() {
                guard = None;
                if monitor.step_end(epoch, self.step, loss)? {
                    return Ok((loss_sum / whole, true));
                }
            }
            let_others_in(shared, &mut guard);
            // After the last batch the epoch is recorded first.
            if (number + 1) * size < batch.order.len() && clock.due() {
                guard = None;
                monitor.tick()?;
            }
        }
        Ok((loss_sum / whole, false))
    }

    /// Backward pass and optimiser step.
    fn update(
        &mut self,
        network: &mut Network<F>,
        workspace: &mut Workspace<F>,
        rows: usize,
        pass: Pass<'_>,
    ) -> Result<()> {
        let (state, gradient) = (&mut self.state, &mut self.gradient);
        if let Some(update) = self.optimizer.elementwise(state) {
            network.backward_and_update(workspace, rows, pass, gradient, update, state);
        } else {
            network.backward(workspace, rows, pass, gradient);
            let step = self
                .optimizer
                .step(state, &mut network.parameters, gradient);
            if step.is_err() {
                return Err(self.diverged("the norm of the gradient"));
            }
        }
        network.track_statistics(workspace, rows, pass);
        network.version += 1;
        self.step += 1;
        Ok(())
    }

    fn diverged(&self, what: &str) -> Error {
        Error::Diverged {
            what: what.to_owned(),
            epoch: self.epoch.saturating_sub(1),
            step: self.step,
        }
    }

    fn non_finite(&self, network: &Network<F>) -> Option<&'static str> {
        if !all_finite(&network.parameters) {
            Some("a parameter")
        } else if !all_finite(&network.state) {
            Some("a running statistic")
        } else if !all_finite(&self.state.m) || !all_finite(&self.state.v) {
            Some("a moment of the optimizer")
        } else {
            None
        }
    }

    /// After a divergence: back to the last finite epoch, with fresh moments.
    fn recover(&mut self, error: Error, shared: &Shared<F>, batch: &Batch<F>) -> Error {
        if matches!(error, Error::Diverged { .. }) {
            let mut network = shared.write();
            network.parameters.copy_from_slice(&batch.good.0);
            network.state.copy_from_slice(&batch.good.1);
            network.version += 1;
            self.state.reset();
        }
        error
    }
}

/// Gives way to threads that wait for the network.
fn let_others_in<'a, F: Element>(
    shared: &'a Shared<F>,
    guard: &mut Option<RwLockWriteGuard<'a, Network<F>>>,
) {
    if shared.wanted() {
        *guard = None;
        let begun = Instant::now();
        while shared.wanted() && begun.elapsed() < TICK / 50 {
            std::thread::yield_now();
        }
    }
}
