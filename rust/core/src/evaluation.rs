//! Everything that runs a network without changing it: prediction, evaluation, one gradient.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::data::{BatchTargets, Data, Objective};
use crate::element::Element;
use crate::error::Result;
use crate::matrix::{Buffer, Panels, Rows, Source};
use crate::network::{Network, Pass};

/// Rows that go through the network together in evaluation. A row's result does not depend on it.
const ROWS: usize = 256;

/// A network that several threads use. Training holds the lock for a step at a time and lets the others in
/// between, so they always see the state after some complete step.
pub struct Shared<F: Element> {
    network: RwLock<Network<F>>,
    waiting: AtomicUsize,
}

impl<F: Element> Shared<F> {
    pub fn new(network: Network<F>) -> Self {
        Self {
            network: RwLock::new(network),
            waiting: AtomicUsize::new(0),
        }
    }

    pub fn read(&self) -> RwLockReadGuard<'_, Network<F>> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let guard = self.network.read().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        guard
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, Network<F>> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let guard = self.network.write().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        guard
    }

    /// Whether somebody waits for the lock.
    pub fn wanted(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }
}

/// The world outside a long call: signals, progress, and losses that are not the core's. It is called with
/// no lock held.
pub trait Monitor<F: Element> {
    /// About every 50 ms. An error ends the call.
    fn tick(&mut self) -> Result<()>;
    /// Value of an external loss on `rows` of the data (the validation data's or not); writes its gradient
    /// with respect to `output` (row-major).
    fn loss(
        &mut self,
        validation: bool,
        output: &[F],
        rows: Rows<'_>,
        d_output: &mut [F],
    ) -> Result<f64>;
    /// Whether [`Monitor::step_end`] is wanted.
    fn wants_steps(&self) -> bool {
        false
    }
    /// After a step; true ends the training.
    fn step_end(&mut self, _step: u64, _loss: f64) -> Result<bool> {
        Ok(false)
    }
    /// After an epoch; true ends the training.
    fn epoch_end(&mut self, _report: &EpochReport) -> Result<bool> {
        Ok(false)
    }
}

/// Figures of one epoch.
#[derive(Debug, Clone, Copy)]
pub struct EpochReport {
    /// Number of the epoch, from 0, over the trainer's life.
    pub epoch: u64,
    /// Steps of the trainer's life so far.
    pub step: u64,
    /// Mean loss over the epoch's batches, each measured before its step.
    pub loss: f64,
    pub validation: Option<Report>,
    pub seconds: f64,
}

/// Loss and, for classifications, accuracy over some data.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    pub loss: f64,
    pub accuracy: Option<f64>,
}

/// Writes the raw outputs for every row of `x` to `out`, row-major.
pub fn predict<F: Element>(
    shared: &Shared<F>,
    x: &Source<'_>,
    out: &mut [F],
    tick: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let outputs = shared.read().outputs;
    let chunk = ROWS.min(x.rows);
    let mut workspace = shared.read().workspace(chunk, false, false)?;
    for (number, out) in out.chunks_mut(ROWS * outputs).enumerate() {
        let count = out.len() / outputs;
        let rows = Rows::Range {
            first: number * ROWS,
            count,
        };
        x.gather(rows, workspace.input());
        shared
            .read()
            .forward(&mut workspace, count, Pass::EVALUATION);
        out.copy_from_slice(&workspace.output[..out.len()]);
        tick()?;
    }
    Ok(())
}

/// Loss and accuracy over `data`, whose shapes and values were checked.
pub fn evaluate<F: Element>(
    shared: &Shared<F>,
    data: &Data<'_>,
    objective: Objective<'_>,
    monitor: &mut dyn Monitor<F>,
) -> Result<Report> {
    let chunk = ROWS.min(data.rows());
    let mut workspace = shared.read().workspace(chunk, false, false)?;
    let outputs = shared.read().outputs;
    let mut targets = BatchTargets::new(data, chunk)?;
    let mut d_output = Buffer::<F>::zeroed(chunk * outputs)?;
    let (mut loss_sum, mut correct, mut whole) = (0.0, 0.0, 0.0);
    for first in (0..data.rows()).step_by(ROWS) {
        let count = ROWS.min(data.rows() - first);
        let rows = Rows::Range { first, count };
        data.x.gather(rows, workspace.input());
        targets.gather(data, rows);
        shared
            .read()
            .forward(&mut workspace, count, Pass::EVALUATION);
        let output = &workspace.output[..count * outputs];
        let weight = targets.whole(count);
        if weight > 0.0 {
            let (target, weights) = (targets.target(count), targets.weights(count));
            let d_output = &mut d_output[..count * outputs];
            let value = match objective {
                Objective::Core(loss) => {
                    correct += loss.correct(output, target, weights, count);
                    loss.value_and_gradient(output, target, weights, count, d_output)
                }
                Objective::External => monitor.loss(data.validation, output, rows, d_output)?,
            };
            loss_sum += value * weight;
            whole += weight;
        }
        monitor.tick()?;
    }
    let classifies = matches!(objective, Objective::Core(loss) if loss.classifies());
    Ok(Report {
        loss: loss_sum / whole,
        accuracy: classifies.then(|| correct / whole),
    })
}

/// A loss with its gradients.
pub struct Gradient<F: Element> {
    pub value: f64,
    /// With respect to the parameters, in the network's flat layout.
    pub parameters: Buffer<F>,
    /// With respect to the input, row-major.
    pub input: Buffer<F>,
}

/// Loss of all rows as one batch, and its gradients. `mode` is the pass in all but the weights.
pub fn value_and_gradient<F: Element>(
    shared: &Shared<F>,
    data: &Data<'_>,
    objective: Objective<'_>,
    mode: Pass<'_>,
    monitor: &mut dyn Monitor<F>,
) -> Result<Gradient<F>> {
    let rows = data.rows();
    let mut workspace = shared.read().workspace(rows, true, true)?;
    let mut targets = BatchTargets::new(data, rows)?;
    let (len, inputs) = {
        let network = shared.read();
        (network.parameters.len(), network.inputs)
    };
    let mut parameters = Buffer::zeroed(len)?;
    let mut input = Buffer::zeroed(rows * inputs)?;
    let all = Rows::Range {
        first: 0,
        count: rows,
    };
    data.x.gather(all, workspace.input());
    targets.gather(data, all);
    let pass = Pass {
        weights: targets.weights(rows),
        ..mode
    };
    shared.read().forward(&mut workspace, rows, pass);
    let value = match objective {
        Objective::Core(loss) => loss.value_and_gradient(
            &workspace.output,
            targets.target(rows),
            targets.weights(rows),
            rows,
            &mut workspace.d_output,
        ),
        Objective::External => {
            monitor.loss(false, &workspace.output, all, &mut workspace.d_output)?
        }
    };
    shared
        .read()
        .backward(&mut workspace, rows, pass, &mut parameters);
    Panels::new(rows, inputs).unpack(workspace.d_input(), &mut input);
    Ok(Gradient {
        value,
        parameters,
        input,
    })
}
