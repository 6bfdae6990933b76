//! Everything that runs a network without changing it: prediction, evaluation, one gradient.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use crate::data::{BatchTargets, Data, Objective, Role};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::matrix::{Buffer, Panels};
use crate::network::{Network, Pass};
use crate::source::{Rows, Source};

/// How often the monitor is asked.
pub(crate) const TICK: Duration = Duration::from_millis(50);

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
    /// Value of an external loss on `rows` of the data; writes its gradient with respect to `output`
    /// (row-major).
    fn loss(&mut self, role: Role, output: &[F], rows: Rows<'_>, d_output: &mut [F])
    -> Result<f64>;
    /// Whether [`Monitor::step_end`] is wanted.
    fn wants_steps(&self) -> bool {
        false
    }
    /// After a step; true ends the training.
    fn step_end(&mut self, _epoch: u64, _step: u64, _loss: f64) -> Result<bool> {
        Ok(false)
    }
    /// After an epoch; true ends the training.
    fn epoch_end(&mut self, _report: &EpochReport) -> Result<bool> {
        Ok(false)
    }
}

/// Says when a tick is due without reading the time at every step of a tiny network.
pub(crate) struct Clock {
    last: Instant,
    checked: Instant,
    stride: u32,
    left: u32,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            last: now,
            checked: now,
            stride: 1,
            left: 1,
        }
    }

    pub(crate) fn due(&mut self) -> bool {
        self.left -= 1;
        if self.left > 0 {
            return false;
        }
        let now = Instant::now();
        let since = now - self.checked;
        self.checked = now;
        if since < TICK / 16 {
            self.stride = (self.stride * 2).min(64);
        } else if since > TICK / 8 {
            self.stride = 1;
        }
        self.left = self.stride;
        let due = now - self.last >= TICK;
        if due {
            self.last = now;
        }
        due
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

/// Writes the raw outputs for every row of `x` to `out`, row-major. All rows see one state of the network.
pub fn predict<F: Element>(
    shared: &Shared<F>,
    x: &Source<'_>,
    out: &mut [F],
    tick: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let (inputs, outputs) = {
        let network = shared.read();
        (network.inputs, network.outputs)
    };
    if x.cols != inputs || out.len() != x.rows * outputs {
        return Err(Error::shape(
            "X and out",
            format!("{inputs} and {outputs} columns"),
            format!("{} columns and {} values", x.cols, out.len()),
        ));
    }
    let mut workspace = shared.read().workspace(ROWS.min(x.rows), false, false)?;
    let mut copy: Option<Network<F>> = None;
    let mut version = None;
    let mut clock = Clock::new();
    let mut first = 0;
    while first < x.rows {
        let guard = copy.is_none().then(|| shared.read());
        let Some(network) = copy.as_ref().or(guard.as_deref()) else {
            break;
        };
        if version.is_some_and(|seen| seen != network.version) {
            // The network was trained while the lock was free: start over, on a copy.
            let fresh = network.duplicate()?;
            drop(guard);
            (version, copy, first) = (Some(fresh.version), Some(fresh), 0);
            continue;
        }
        version = Some(network.version);
        while first < x.rows {
            let count = ROWS.min(x.rows - first);
            x.gather(Rows::Range { first, count }, workspace.input());
            network.forward(&mut workspace, count, Pass::EVALUATION);
            let len = count * outputs;
            out[first * outputs..][..len].copy_from_slice(&workspace.output[..len]);
            first += count;
            if clock.due() {
                break;
            }
        }
        drop(guard);
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
    let classifies = matches!(objective, Objective::Core(loss) if loss.classifies());
    let (mut loss_sum, mut correct, mut whole) = (0.0, 0.0, 0.0);
    let mut clock = Clock::new();
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
                    if classifies {
                        correct += loss.correct(output, target, weights, count);
                    }
                    loss.value_and_gradient(output, target, weights, count, d_output)
                }
                Objective::External => monitor.loss(data.role, output, rows, d_output)?,
            };
            loss_sum += value * weight;
            whole += weight;
        }
        if clock.due() {
            monitor.tick()?;
        }
    }
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
    // A loss outside the core may use the network: it runs with no lock held, on a copy.
    let copy = match objective {
        Objective::Core(_) => None,
        Objective::External => Some(shared.read().duplicate()?),
    };
    let guard = copy.is_none().then(|| shared.read());
    let network = copy.as_ref().or(guard.as_deref());
    let network = network.ok_or(Error::Interrupted)?;
    let inputs = network.inputs;
    let mut workspace = network.workspace(rows, true, true)?;
    let mut targets = BatchTargets::new(data, rows)?;
    let mut parameters = Buffer::zeroed(network.parameters.len())?;
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
    network.forward(&mut workspace, rows, pass);
    let value = match objective {
        Objective::Core(loss) => loss.value_and_gradient(
            &workspace.output,
            targets.target(rows),
            targets.weights(rows),
            rows,
            &mut workspace.d_output,
        ),
        Objective::External => {
            monitor.loss(Role::Main, &workspace.output, all, &mut workspace.d_output)?
        }
    };
    network.backward(&mut workspace, rows, pass, &mut parameters);
    Panels::new(rows, inputs).unpack(workspace.d_input(), &mut input);
    Ok(Gradient {
        value,
        parameters,
        input,
    })
}
