//! Everything that runs a network without changing it: prediction, evaluation, one gradient.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use crate::backward::Part;
use crate::data::{BatchTargets, Block, Data, Feed, Objective, Role};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::matrix::{Buffer, Panels};
use crate::metric::{Metric, Tally};
use crate::network::{Network, Pass, Precision, Workspace};
use crate::pool;
use crate::source::{Rows, Sink, Source};
use crate::trainer::Trainer;

/// How often the monitor is asked.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// Most rows that go through the network together in evaluation. A row's result does not depend on it.
const ROWS: usize = 256;
/// Elements of the widest layer of so many rows where layers are of integers: these are done before larger values have
/// come back from the third-level cache, and their weights are less to read again.
const INTEGER_ELEMENTS: usize = 96 << 10;
/// Fewest rows that a thread predicts by itself; of fewer, the threads share each product.
const MIN_ROWS: usize = 64;
/// Bytes of workspaces that a network keeps for the next predictions.
const KEPT: usize = 8 << 20;
/// Work (multiply-adds) of a prediction that takes some ten microseconds.
const SHORT_WORK: usize = 1 << 18;

/// A network that several threads use. Training holds the lock for a step at a time and lets the others in
/// between, so they always see the state after some complete step.
pub struct Shared<F: Element> {
    network: RwLock<Network<F>>,
    waiting: AtomicUsize,
    /// Workspaces of predictions that have ended. This lock is only tried: a fork may have copied it locked.
    spare: Mutex<Vec<Workspace<F>>>,
    pub inputs: usize,
    pub outputs: usize,
    row_work: usize,
    /// Most rows that go through the network together.
    most_rows: usize,
}

impl<F: Element> Shared<F> {
    pub fn new(network: Network<F>) -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            spare: Mutex::new(Vec::new()),
            inputs: network.inputs,
            outputs: network.outputs,
            row_work: network.row_work(),
            most_rows: if network.has_integers() {
                (INTEGER_ELEMENTS / network.widest()).clamp(MIN_ROWS / 2, ROWS)
            } else {
                ROWS
            },
            network: RwLock::new(network),
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

    /// A workspace for the evaluation of `rows` rows; one that was used before if it is large enough.
    fn workspace(&self, network: &Network<F>, rows: usize) -> Result<Workspace<F>> {
        let spare = self.spare.try_lock();
        match spare.ok().and_then(|mut spare| spare.pop()) {
            Some(workspace) if workspace.rows >= rows => Ok(workspace),
            _ => network.workspace(rows, false, false, Precision::Full),
        }
    }

    /// Takes a workspace back.
    fn keep(&self, workspace: Workspace<F>) {
        if let Ok(mut spare) = self.spare.try_lock() {
            let kept: usize = spare.iter().map(Workspace::bytes).sum();
            if kept + workspace.bytes() <= KEPT {
                spare.push(workspace);
            }
        }
    }

    fn check(&self, x: &Source<'_>, out: &Sink<'_, F>) -> Result<()> {
        if x.cols == self.inputs && out.len() == x.rows * self.outputs {
            return Ok(());
        }
        Err(Error::shape(
            "X and out",
            format!("{} and {} columns", self.inputs, self.outputs),
            format!("{} columns and {} values", x.cols, out.len()),
        ))
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
    /// Block `place` of a pass over data that comes in blocks, in the order of an epoch or that of the source; none
    /// after the last one.
    fn block(
        &mut self,
        _validation: bool,
        _epoch: Option<u64>,
        _place: usize,
    ) -> Result<Option<Box<dyn Block>>> {
        Ok(None)
    }
    /// The learning rate at time t, where it is a function of the caller's.
    fn rate(&mut self, _t: u64) -> Result<f64> {
        Ok(f64::NAN)
    }
    /// A figure that the caller finds, by its number.
    fn measure(&mut self, _report: &EpochReport, _number: usize) -> Result<f64> {
        Ok(f64::NAN)
    }
    /// Whether [`Monitor::step_end`] is wanted.
    fn wants_steps(&self) -> bool {
        false
    }
    /// After a step; true ends the training.
    fn step_end(&mut self, _trainer: &Trainer<F>, _loss: f64) -> Result<bool> {
        Ok(false)
    }
    /// After an epoch; true ends the training.
    fn epoch_end(&mut self, _trainer: &Trainer<F>, _report: &EpochReport) -> Result<bool> {
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
#[derive(Debug, Clone)]
pub struct EpochReport {
    /// Number of the epoch, from 0, over the trainer's life.
    pub epoch: u64,
    /// Steps of the trainer's life so far.
    pub step: u64,
    /// Mean loss over the epoch's batches, each measured before its step.
    pub loss: f64,
    pub validation: Option<Report>,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Whether the watched figure was better than ever before.
    pub best: bool,
    pub seconds: f64,
}

/// Loss and metrics over some data.
#[derive(Debug, Clone)]
pub struct Report {
    pub loss: f64,
    /// In the order they were asked for.
    pub metrics: Vec<f64>,
}

/// [`predict`] where that is a matter of microseconds: it waits for nobody, so it may be called by a thread that
/// others wait for. False, and nothing done, when there is more work or the network is being changed.
pub fn predict_at_once<F: Element>(
    shared: &Shared<F>,
    x: &Source<'_>,
    out: &mut Sink<'_, F>,
) -> Result<bool> {
    shared.check(x, out)?;
    if x.rows > ROWS || x.rows * shared.row_work > SHORT_WORK {
        return Ok(false);
    }
    match shared.network.try_read() {
        Ok(network) => predict_together(shared, &network, x, out).map(|()| true),
        Err(_) => Ok(false),
    }
}

/// Writes the raw outputs for every row of `x` to `out`, row-major. All rows see one state of the network. Nothing
/// is written when memory is refused, unless the network is changed meanwhile.
pub fn predict<F: Element>(
    shared: &Shared<F>,
    x: &Source<'_>,
    out: &mut Sink<'_, F>,
    tick: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    shared.check(x, out)?;
    let work = x.rows.saturating_mul(shared.row_work);
    let _session = pool::Session::new(work);
    let team = pool::team(work);
    let tasks = if x.rows < team * MIN_ROWS { 1 } else { team };
    let most = shared.most_rows;
    if tasks == 1 && x.rows <= most {
        return predict_together(shared, &shared.read(), x, out);
    }
    // As many chunks for each task, of one size.
    let chunk = x.rows.div_ceil(tasks * x.rows.div_ceil(tasks * most));
    let workspaces = (0..tasks)
        .map(|_| shared.workspace(&shared.read(), chunk).map(Mutex::new))
        .collect::<Result<Vec<_>>>()?;
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
        // Every task claims chunks until a tick is due.
        let (start, mut due) = (first, false);
        let parts = out.parts(start * shared.outputs, chunk * shared.outputs);
        let claims = Mutex::new(parts.map_while(|part| {
            let row = first;
            (!due).then(|| {
                (due, first) = (clock.due(), row + chunk);
                (row, part)
            })
        }));
        pool::run(tasks, usize::MAX, &|task| {
            let mut workspace = lock(&workspaces[task]);
            loop {
                let claim = lock(&claims).next();
                let Some((row, mut part)) = claim else { break };
                let count = chunk.min(x.rows - row);
                forward(network, x, row, count, &mut workspace, &mut part);
            }
        });
        drop(guard);
        tick()?;
    }
    for workspace in workspaces {
        let workspace = workspace.into_inner();
        shared.keep(workspace.unwrap_or_else(PoisonError::into_inner));
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Predicts all rows at once.
fn predict_together<F: Element>(
    shared: &Shared<F>,
    network: &Network<F>,
    x: &Source<'_>,
    out: &mut Sink<'_, F>,
) -> Result<()> {
    if x.rows > 0 {
        let mut workspace = shared.workspace(network, x.rows)?;
        forward(network, x, 0, x.rows, &mut workspace, out);
        shared.keep(workspace);
    }
    Ok(())
}

/// Predicts `count` rows of `x` from `first` on.
fn forward<F: Element>(
    network: &Network<F>,
    x: &Source<'_>,
    first: usize,
    count: usize,
    workspace: &mut Workspace<F>,
    out: &mut Sink<'_, F>,
) {
    network.take(x, Rows::Range { first, count }, workspace);
    network.forward(workspace, count, Pass::EVALUATION);
    out.write(&workspace.output[..count * network.outputs]);
}

/// Loss and metrics over data, which may be the validation after an epoch, and of which arrays were checked. A loss
/// outside the core has no metrics in it.
pub fn evaluate<F: Element>(
    shared: &Shared<F>,
    feed: Feed<'_>,
    objective: Objective<'_>,
    metrics: &[Metric],
    (validation, epoch): (bool, Option<u64>),
    monitor: &mut dyn Monitor<F>,
) -> Result<Report> {
    let outputs = shared.read().outputs;
    let mut evaluation = Evaluation {
        shared,
        objective,
        tally: match objective {
            Objective::Core(loss) => Some(Tally::new(metrics, loss, outputs)),
            Objective::External => None,
        },
        loss_sum: 0.0,
        whole: 0.0,
        clock: Clock::new(),
    };
    match feed {
        Feed::Arrays(data) => evaluation.add(&data, monitor)?,
        Feed::Blocks => {
            let mut place = 0;
            while let Some(block) = monitor.block(validation, epoch, place)? {
                let data = block.data();
                data.check::<F>(objective, shared.inputs, outputs, &mut || monitor.tick())?;
                evaluation.add(&data, monitor)?;
                place += 1;
            }
            if evaluation.whole <= 0.0 {
                return Err(nothing(validation));
            }
        }
    }
    Ok(Report {
        loss: evaluation.loss_sum / evaluation.whole + shared.read().penalty(),
        metrics: evaluation
            .tally
            .map_or_else(Vec::new, |tally| tally.figures()),
    })
}

/// Blocks without a row that counts.
pub(crate) fn nothing(validation: bool) -> Error {
    let name = if validation { "validation_data" } else { "X" };
    Error::argument(name, "blocks with a row of positive weight", "none")
}

/// An evaluation on its way.
struct Evaluation<'a, F: Element> {
    shared: &'a Shared<F>,
    objective: Objective<'a>,
    tally: Option<Tally<'a>>,
    loss_sum: f64,
    whole: f64,
    clock: Clock,
}

impl<F: Element> Evaluation<'_, F> {
    fn add(&mut self, data: &Data<'_>, monitor: &mut dyn Monitor<F>) -> Result<()> {
        let shared = self.shared;
        let chunk = ROWS.min(data.count());
        let _session = pool::Session::new(chunk * shared.row_work);
        let mut workspace = shared
            .read()
            .workspace(chunk, false, false, Precision::Full)?;
        let mut targets = BatchTargets::new(data, chunk)?;
        let mut d_output = Buffer::<F>::zeroed(chunk * shared.outputs)?;
        for first in (0..data.count()).step_by(ROWS) {
            let count = ROWS.min(data.count() - first);
            let rows = data.range(first, count);
            targets.gather(data, rows);
            let network = shared.read();
            network.take(&data.x, rows, &mut workspace);
            network.forward(&mut workspace, count, Pass::EVALUATION);
            drop(network);
            let output = &workspace.output[..count * shared.outputs];
            let weight = targets.whole(count);
            if weight > 0.0 {
                let (target, weights) = (targets.target(0..count), targets.weights(0..count));
                let d_output = &mut d_output[..count * shared.outputs];
                let value = match self.objective {
                    Objective::Core(loss) => {
                        if let Some(tally) = &mut self.tally {
                            tally.add(output, target, weights);
                        }
                        loss.value_and_gradient(output, target, weights, weight, count, d_output)
                    }
                    Objective::External => monitor.loss(data.role, output, rows, d_output)?,
                };
                self.loss_sum += value * weight;
                self.whole += weight;
            }
            if self.clock.due() {
                monitor.tick()?;
            }
        }
        Ok(())
    }
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
    let rows = data.count();
    // A loss outside the core may use the network: it runs with no lock held, on a copy.
    let copy = match objective {
        Objective::Core(_) => None,
        Objective::External => Some(shared.read().duplicate()?),
    };
    let guard = copy.is_none().then(|| shared.read());
    let network = copy.as_ref().or(guard.as_deref());
    let network = network.ok_or(Error::Interrupted)?;
    let inputs = network.inputs;
    let mut workspace = network.workspace(rows, true, true, Precision::Full)?;
    let mut targets = BatchTargets::new(data, rows)?;
    let mut parameters = Buffer::zeroed(network.parameters.len())?;
    let mut input = Buffer::zeroed(rows * inputs)?;
    let all = data.range(0, rows);
    network.take(&data.x, all, &mut workspace);
    targets.gather(data, all);
    let pass = Pass {
        weights: targets.weights(0..rows),
        ..mode
    };
    network.forward(&mut workspace, rows, pass);
    let value = match objective {
        Objective::Core(loss) => loss.value_and_gradient(
            &workspace.output,
            targets.target(0..rows),
            targets.weights(0..rows),
            targets.whole(rows),
            rows,
            &mut workspace.d_output,
        ),
        Objective::External => {
            monitor.loss(Role::Main, &workspace.output, all, &mut workspace.d_output)?
        }
    };
    network.backward(&mut workspace, rows, pass, Part::WHOLE, &mut parameters);
    Panels::new(rows, inputs).unpack(workspace.d_input(), &mut input);
    Ok(Gradient {
        value: value + network.penalty(),
        parameters,
        input,
    })
}
