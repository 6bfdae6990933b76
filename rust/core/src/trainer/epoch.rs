//! A pass over the data: its batches, and the steps that they make.

use std::ops::Range;
use std::sync::RwLockWriteGuard;
use std::time::Instant;

use super::{Convention, Ending, Fit, Position, Trainer};
use crate::backward::Part;
use crate::data::{self, BatchTargets, Data, Feed, Objective};
use crate::element::Element;
use crate::error::Result;
use crate::evaluation::{Monitor, Shared, TICK};
use crate::matrix::Buffer;
use crate::network::{Network, Pass, Workspace};
use crate::optimizers::Method;
use crate::rng::{number_rows, shuffle};
use crate::schedule::Time;
use crate::source::Rows;

/// Buffers of one fit.
pub(super) struct Batch<F: Element> {
    /// Of a step.
    rows: usize,
    pub order: Buffer<u32>,
    pub targets: Option<BatchTargets<F>>,
    /// All output of a step that is done in parts, and its gradient.
    output: Buffer<F>,
    d_output: Buffer<F>,
}

impl<F: Element> Batch<F> {
    /// For steps of so many rows, `apart` being the size of their output where it is kept apart.
    pub fn new(rows: usize, apart: usize) -> Result<Self> {
        Ok(Self {
            rows,
            order: Buffer::zeroed(0)?,
            targets: None,
            output: Buffer::zeroed(apart)?,
            d_output: Buffer::zeroed(apart)?,
        })
    }

    /// Makes place for batches of this data, whose rows are put in their own order.
    pub fn suit(&mut self, data: &Data<'_>) -> Result<()> {
        let rows = data.count();
        if self.order.len() != rows {
            self.order = Buffer::zeroed(rows)?;
        }
        self.number(data);
        if self.targets.as_ref().is_none_or(|old| !old.suits(data)) {
            self.targets = Some(BatchTargets::new(data, self.rows)?);
        }
        Ok(())
    }

    /// The rows in their own order.
    fn number(&mut self, data: &Data<'_>) {
        match data.rows {
            Some(rows) => self.order.copy_from_slice(rows),
            None => number_rows(&mut self.order),
        }
    }

    /// The rows in the order of an epoch.
    fn shuffle(&mut self, data: &Data<'_>, seed: u64, epoch: u64, block: usize) {
        shuffle(&mut self.order, seed, epoch, block);
        if let Some(rows) = data.rows {
            for row in self.order.iter_mut() {
                *row = rows[*row as usize];
            }
        }
    }
}

/// Rows of an epoch that lie in the same arrays.
#[derive(Clone, Copy)]
struct Stretch<'a> {
    data: &'a Data<'a>,
    /// Batches and rows of the epoch before.
    batches: u64,
    rows: u64,
}

/// One step, up to the loss.
struct Step<'a, 's, F: Element> {
    data: &'a Data<'a>,
    objective: Objective<'a>,
    convention: Convention,
    rows: &'a [u32],
    pass: Pass<'a>,
    targets: &'a BatchTargets<F>,
    /// Of all rows.
    weight: f64,
    shared: &'s Shared<F>,
    /// Let go while a loss of the caller's runs.
    guard: Option<RwLockWriteGuard<'s, Network<F>>>,
    monitor: &'a mut dyn Monitor<F>,
}

impl<'a, F: Element> Step<'a, '_, F> {
    /// Forward pass of all rows at once; the loss, whose gradient lies in the workspace then.
    fn forward(&mut self, workspace: &mut Workspace<F>) -> Result<f64> {
        let rows = 0..self.rows.len();
        let network = self.run(workspace, rows.clone());
        let len = rows.len() * network.outputs;
        let d_output = &mut workspace.d_output[..len];
        let value = match self.objective {
            Objective::Core(loss) => loss.value_and_gradient(
                &workspace.output[..len],
                self.targets.target(rows.clone()),
                self.targets.weights(rows.clone()),
                self.weight,
                rows.len(),
                d_output,
            ),
            Objective::External => self.external(&workspace.output[..len], d_output)?,
        };
        self.convention.scale(d_output);
        Ok(self.value(value, &workspace.output[..len]))
    }

    /// Forward and backward pass in parts that the workspace holds; the loss. Every sum over rows goes on where the part
    /// before has left it, so that the gradient has the bits that it has in one.
    fn accumulate(
        &mut self,
        workspace: &mut Workspace<F>,
        [output, d_output]: [&mut [F]; 2],
        gradient: &mut [F],
    ) -> Result<f64> {
        let (whole, size) = (self.rows.len(), workspace.rows);
        let parts = (0..whole)
            .step_by(size)
            .map(|first| first..whole.min(first + size));
        let mut value = 0.0;
        if let Objective::External = self.objective {
            // It sees all rows, so these are run through the network twice.
            for rows in parts.clone() {
                let width = self.run(workspace, rows.clone()).outputs;
                let span = rows.start * width..rows.end * width;
                output[span.clone()].copy_from_slice(&workspace.output[..span.len()]);
            }
            let len = whole * workspace.output.len() / size;
            value = self.external(&output[..len], &mut d_output[..len])?;
        }
        for rows in parts {
            let width = self.run(workspace, rows.clone()).outputs;
            let span = rows.start * width..rows.end * width;
            let (from, to) = (
                &workspace.output[..span.len()],
                &mut workspace.d_output[..span.len()],
            );
            match self.objective {
                Objective::Core(loss) => {
                    output[span].copy_from_slice(from);
                    let target = self.targets.target(rows.clone());
                    let weights = self.targets.weights(rows.clone());
                    loss.value_and_gradient(from, target, weights, self.weight, rows.len(), to);
                }
                Objective::External => to.copy_from_slice(&d_output[span]),
            }
            self.convention.scale(to);
            let part = Part {
                before: rows.start,
                last: rows.end == whole,
            };
            let pass = self.pass_of(rows.clone());
            self.network()
                .backward(workspace, rows.len(), pass, part, gradient);
        }
        if let Objective::Core(loss) = self.objective {
            let target = self.targets.target(0..whole);
            let weights = self.targets.weights(0..whole);
            let len = whole * workspace.output.len() / size;
            let (output, d_output) = (&output[..len], &mut d_output[..len]);
            value = loss.value_and_gradient(output, target, weights, self.weight, whole, d_output);
        }
        let len = whole * workspace.output.len() / size;
        Ok(self.value(value, &output[..len]))
    }

    /// The loss of all rows, from ours.
    fn value(&self, ours: f64, output: &[F]) -> f64 {
        let rows = (self.targets, self.rows.len());
        self.convention
            .value(ours, self.objective, output, rows, self.weight)
    }

    /// Runs some of the rows forward.
    fn run(&mut self, workspace: &mut Workspace<F>, rows: Range<usize>) -> &Network<F> {
        let (x, pass) = (self.data.x, self.pass_of(rows.clone()));
        let picked = Rows::Picked(&self.rows[rows.clone()]);
        let network = self.network();
        network.take(&x, picked, workspace);
        network.forward(workspace, rows.len(), pass);
        network
    }

    fn pass_of(&self, rows: Range<usize>) -> Pass<'a> {
        Pass {
            position: self.pass.position + rows.start as u64,
            weights: self.targets.weights(rows),
            ..self.pass
        }
    }

    fn network(&mut self) -> &Network<F> {
        self.guard.get_or_insert_with(|| self.shared.write())
    }

    /// The loss of the caller's, which sees all rows; no lock is held meanwhile.
    fn external(&mut self, output: &[F], d_output: &mut [F]) -> Result<f64> {
        self.guard = None;
        let rows = Rows::Picked(self.rows);
        self.monitor.loss(data::Role::Main, output, rows, d_output)
    }
}

impl<F: Element> Trainer<F> {
    /// The rest of a pass over the data. Says why training has to end, if it has to.
    pub(super) fn run_epoch(&mut self, fit: &mut Fit<'_, F>) -> Result<Option<Ending>> {
        let Some(mut workspace) = self.workspace.take() else {
            return Ok(Some(Ending::Monitor));
        };
        let epoch = self.standing.epoch - 1;
        let result = match &fit.plan.data {
            Feed::Arrays(data) => {
                if fit.plan.shuffle {
                    fit.batch.shuffle(data, self.seed, epoch, 0);
                }
                let stretch = Stretch {
                    data,
                    batches: 0,
                    rows: 0,
                };
                self.run_batches(fit, stretch, &mut workspace)
            }
            Feed::Blocks => self.run_blocks(fit, &mut workspace),
        };
        self.workspace = Some(workspace);
        result
    }

    fn run_blocks(
        &mut self,
        fit: &mut Fit<'_, F>,
        workspace: &mut Workspace<F>,
    ) -> Result<Option<Ending>> {
        let epoch = self.standing.epoch - 1;
        let done = self.standing.position.map_or(0, |at| at.batches);
        let (mut batches, mut rows, mut place) = (0, 0, 0);
        while let Some(block) = fit.monitor.block(false, Some(epoch), place)? {
            let data = block.data();
            let stretch = Stretch {
                data: &data,
                batches,
                rows,
            };
            let count = data.count();
            batches += count.div_ceil(fit.batch.rows) as u64;
            rows += count as u64;
            if batches > done {
                let (inputs, outputs) = (fit.shared.inputs, fit.shared.outputs);
                let tick = &mut || fit.monitor.tick();
                if !block.checked() {
                    data.check::<F>(fit.plan.objective, inputs, outputs, tick)?;
                }
                fit.batch.suit(&data)?;
                if fit.plan.shuffle {
                    fit.batch.shuffle(&data, self.seed, epoch, place);
                }
                let cut = self.run_batches(fit, stretch, workspace)?;
                if cut.is_some() {
                    return Ok(cut);
                }
            }
            place += 1;
        }
        Ok(None)
    }

    fn run_batches(
        &mut self,
        fit: &mut Fit<'_, F>,
        stretch: Stretch<'_>,
        workspace: &mut Workspace<F>,
    ) -> Result<Option<Ending>> {
        let (shared, plan) = (fit.shared, fit.plan);
        let Fit { batch, clock, .. } = fit;
        let convention = plan.convention;
        let mut guard = Some(shared.write());
        let (size, epoch) = (batch.rows, self.standing.epoch - 1);
        let mut position = self.standing.position.unwrap_or(Position::START);
        let Some(targets) = &mut batch.targets else {
            return Ok(None);
        };
        for (number, rows) in batch.order.chunks(size).enumerate() {
            if stretch.batches + (number as u64) < position.batches {
                continue;
            }
            let count = rows.len();
            targets.gather(stretch.data, Rows::Picked(rows));
            let weight = targets.whole(count);
            if weight <= 0.0 {
                position.batches += 1;
                self.standing.position = Some(position);
                let_others_in(shared, &mut guard);
                if clock.due() {
                    guard = None;
                    fit.monitor.tick()?;
                }
                continue;
            }
            let Method::Step(optimizer) = &self.method else {
                break;
            };
            let step = self.state.step;
            let schedule = &optimizer.learning_rate;
            let rate = self.standing.plateau.scale
                * schedule.rate(Time { step, epoch }, &mut |t| {
                    // A function of the caller's is called with no lock held.
                    guard = None;
                    fit.monitor.rate(t)
                })?;
            let mut step = Step {
                data: stretch.data,
                objective: plan.objective,
                convention,
                rows,
                pass: Pass {
                    training: true,
                    seed: self.seed,
                    epoch,
                    position: stretch.rows + (number * size) as u64,
                    weights: targets.weights(0..count),
                    penalty: convention.penalty(weight),
                },
                targets,
                weight,
                shared,
                guard,
                monitor: fit.monitor,
            };
            let apart = count > workspace.rows;
            let loss = if apart {
                let outputs = [&mut batch.output[..], &mut batch.d_output[..]];
                step.accumulate(workspace, outputs, &mut self.gradient)?
            } else {
                step.forward(workspace)?
            };
            let pass = step.pass;
            guard = step.guard;
            let network = guard.get_or_insert_with(|| shared.write());
            let loss = loss + pass.penalty * network.penalty();
            if !loss.is_finite() {
                return Err(self.diverged("the loss"));
            }
            if apart {
                self.follow(network, rate)?;
            } else {
                self.update(network, workspace, count, pass, rate)?;
            }
            self.end_step(network);
            position.add(loss, convention.share(weight, count), rate);
            self.standing.position = Some(position);
            if fit.monitor.wants_steps() {
                guard = None;
                if fit.monitor.step_end(self, loss)? {
                    return Ok(Some(Ending::Monitor));
                }
            }
            if self.standing.step >= self.standing.last_step {
                return Ok(Some(Ending::Steps));
            }
            if fit.deadline.is_some_and(|at| Instant::now() >= at) {
                return Ok(Some(Ending::Time));
            }
            let_others_in(shared, &mut guard);
            // After the last batch the epoch is recorded first.
            if (number + 1) * size < batch.order.len() && clock.due() {
                guard = None;
                fit.monitor.tick()?;
            }
        }
        Ok(None)
    }

    /// Backward pass and optimiser.
    fn update(
        &mut self,
        network: &mut Network<F>,
        workspace: &mut Workspace<F>,
        rows: usize,
        pass: Pass<'_>,
        rate: f64,
    ) -> Result<()> {
        let Method::Step(optimizer) = &self.method else {
            return Ok(());
        };
        let (state, gradient) = (&mut self.state, &mut self.gradient);
        if let Some(update) = optimizer.elementwise(state, rate) {
            network.backward_and_update(workspace, rows, pass, gradient, update, state);
        } else {
            network.backward(workspace, rows, pass, Part::WHOLE, gradient);
            self.follow(network, rate)?;
        }
        network.track_statistics(workspace, rows, pass);
        Ok(())
    }

    /// The optimiser on a gradient that is stored.
    fn follow(&mut self, network: &mut Network<F>, rate: f64) -> Result<()> {
        let Method::Step(optimizer) = &self.method else {
            return Ok(());
        };
        let parameters = &mut network.parameters;
        optimizer
            .step(&mut self.state, parameters, &mut self.gradient, rate)
            .map_err(|_| self.diverged("the norm of the gradient"))
    }

    fn end_step(&mut self, network: &mut Network<F>) {
        let ours = self.average.as_ref().is_some_and(|a| a.belongs(network));
        network.constrain();
        network.version += 1;
        if let Some(average) = &mut self.average {
            average.observe(network, ours);
        }
        self.standing.step += 1;
    }
}

/// Gives way to threads that wait for the network.
pub(super) fn let_others_in<'a, F: Element>(
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
