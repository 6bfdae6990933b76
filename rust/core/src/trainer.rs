//! The epoch loop: shuffle, gather, step, evaluate, stop.

mod epoch;
mod search;
mod squares;
mod standardize;

use std::time::{Duration, Instant};

use crate::average::Average;
use crate::checkpoint::{File, Form, Tensor};
use crate::data::{self, BatchTargets, Data, Feed, Objective, Split};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::evaluation::{Clock, EpochReport, Monitor, Shared, evaluate, nothing};
use crate::matrix::{Buffer, all_finite};
use crate::metric::Metric;
use crate::network::{Network, Precision, Workspace};
use crate::optimizers::lbfgs::Pairs;
use crate::optimizers::{Method, OptimizerState};
use crate::pool;
use crate::schedule::PlateauState;
use crate::simd::bf16::Arithmetic;
use crate::watch::{Figure, Goal, Progress, Watch};
use epoch::Batch;
use search::Search;

/// What another library's loss has otherwise than ours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Convention {
    /// Factors of the loss and of its gradient.
    pub loss: f64,
    pub gradient: f64,
    /// Whether penalties are divided by the weight of the batch, and an epoch's loss is the mean over rows.
    pub by_batch: bool,
    /// Whether the reported log-loss is that of clipped probabilities, summed over outputs.
    pub clips: bool,
}

impl Convention {
    pub const OURS: Self = Self {
        loss: 1.0,
        gradient: 1.0,
        by_batch: false,
        clips: false,
    };

    fn scale<F: Element>(&self, gradient: &mut [F]) {
        if self.gradient != 1.0 {
            let factor = F::of(self.gradient);
            for g in gradient {
                *g *= factor;
            }
        }
    }

    /// The loss of a batch of this weight, from ours.
    fn value<F: Element>(
        &self,
        ours: f64,
        objective: Objective<'_>,
        output: &[F],
        (targets, rows): (&BatchTargets<F>, usize),
        whole: f64,
    ) -> f64 {
        let clipped = match objective {
            Objective::Core(loss) if self.clips => {
                let (target, weights) = (targets.target(0..rows), targets.weights(0..rows));
                loss.of_probabilities(output, target, weights, rows)
            }
            _ => None,
        };
        clipped.map_or(self.loss * ours, |sum| sum / whole)
    }

    /// Factor of the penalties in a batch of this weight.
    fn penalty(&self, weight: f64) -> f64 {
        if self.by_batch { 1.0 / weight } else { 1.0 }
    }

    /// What a batch counts by in the loss of its epoch.
    fn share(&self, weight: f64, rows: usize) -> f64 {
        if self.by_batch { rows as f64 } else { weight }
    }
}

/// What one call of [`Trainer::fit`] does.
#[derive(Clone, Copy)]
pub struct FitPlan<'a> {
    pub data: Feed<'a>,
    pub validation: Option<Feed<'a>>,
    /// Rows of the data to validate on instead.
    pub split: Option<Split>,
    pub objective: Objective<'a>,
    pub convention: Convention,
    /// Figures of the validation besides the loss.
    pub metrics: &'a [Metric],
    /// None goes on with what [`Trainer::restore`] found in progress.
    pub epochs: Option<u64>,
    pub batch_size: usize,
    /// Batches in a step.
    pub accumulate: usize,
    pub shuffle: bool,
    /// Steps of this call, at most.
    pub max_steps: Option<u64>,
    pub max_time: Option<Duration>,
    /// Looks at the loss, after which a step of a second-order method is the last.
    pub max_evaluations: Option<u64>,
    pub watch: Option<Watch>,
    /// What lowers the rate of a schedule with a plateau.
    pub plateau: Option<Goal>,
}

impl<'a> FitPlan<'a> {
    /// One epoch of shuffled batches, and nothing else.
    pub fn new(data: Data<'a>, objective: Objective<'a>, batch_size: usize) -> Self {
        Self {
            data: Feed::Arrays(data),
            validation: None,
            split: None,
            objective,
            convention: Convention::OURS,
            metrics: &[],
            epochs: Some(1),
            batch_size,
            accumulate: 1,
            shuffle: true,
            max_steps: None,
            max_time: None,
            max_evaluations: None,
            watch: None,
            plateau: None,
        }
    }

    /// Refuses parts of the rows of which nothing counts.
    fn check_parts(&self) -> Result<()> {
        for (part, feed) in [
            ("train on", Some(&self.data)),
            ("validate on", self.validation.as_ref()),
        ] {
            let Some(data) = feed.and_then(Feed::arrays) else {
                continue;
            };
            let rows = data.count();
            let weighty = data.weights.is_none_or(|weights| {
                let mut weight = [0.0f64];
                (0..rows).any(|row| {
                    weights.read(data.range(row, 1).get(0), 0, &mut weight);
                    weight[0] > 0.0
                })
            });
            if data.rows.is_some() && (rows == 0 || !weighty) {
                let argument = match self.split {
                    Some(_) => "validation_split",
                    None => "rows",
                };
                return Err(Error::argument(
                    argument,
                    format!("at least one row of positive weight to {part}"),
                    format!("{rows} rows of {}", data.x.rows),
                ));
            }
        }
        Ok(())
    }
}

/// Why a fit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Epochs,
    Patience,
    Steps,
    Time,
    Monitor,
    /// A second-order method is at its goal,
    Converged,
    /// or finds no step that lowers the loss,
    LineSearch,
    /// or has looked at it often enough.
    Evaluations,
}

impl Ending {
    pub fn name(self) -> &'static str {
        match self {
            Self::Epochs => "epochs",
            Self::Patience => "patience",
            Self::Steps => "max_steps",
            Self::Time => "max_time",
            Self::Monitor => "callback",
            Self::Converged => "converged",
            Self::LineSearch => "line_search",
            Self::Evaluations => "max_evaluations",
        }
    }
}

/// Parameters and running statistics beside those of the network.
struct Kept<F: Element> {
    parameters: Buffer<F>,
    state: Buffer<F>,
    role: Role,
}

/// What is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The end of the last finite epoch.
    Good,
    /// The best epoch.
    Best,
    /// Where training ended; the network of this version holds the best epoch.
    Last { version: u64 },
}

impl<F: Element> Kept<F> {
    fn of(network: &Network<F>) -> Result<Self> {
        Ok(Self {
            parameters: Buffer::copied(&network.parameters)?,
            state: Buffer::copied(&network.state)?,
            role: Role::Good,
        })
    }

    fn keep(&mut self, network: &Network<F>, role: Role) {
        self.parameters.copy_from_slice(&network.parameters);
        self.state.copy_from_slice(&network.state);
        self.role = role;
    }

    /// Puts the kept ones back.
    fn restore(&self, network: &mut Network<F>) {
        network.parameters.copy_from_slice(&self.parameters);
        network.state.copy_from_slice(&self.state);
        network.version += 1;
    }

    fn swap(&mut self, network: &mut Network<F>) {
        std::mem::swap(&mut self.parameters, &mut network.parameters);
        std::mem::swap(&mut self.state, &mut network.state);
        network.version += 1;
    }
}

/// What the tensors of a run are called in a file, besides those of its network.
pub const PREFIXES: [&str; 7] = [
    MOMENTS[0], MOMENTS[1], MOMENTS[2], BEST, LAST, AVERAGE, TRAINED,
];
const MOMENTS: [&str; 3] = ["optimizer.m.", "optimizer.v.", "optimizer.v_max."];
/// And of the pairs of L-BFGS, each with its number, the oldest being 0.
pub const PAIRS: [&str; 2] = ["optimizer.s.", "optimizer.y."];
const BEST: &str = "best.";
const LAST: &str = "last.";
/// The average of the parameters or, where the network holds that, those that training goes on from.
const AVERAGE: &str = "average.";
const TRAINED: &str = "trained.";

/// How far an epoch is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Position {
    /// Batches done or passed over.
    pub batches: u64,
    pub loss_sum: f64,
    pub whole: f64,
    /// Of the last step.
    pub learning_rate: f64,
}

impl Position {
    const START: Self = Self {
        batches: 0,
        loss_sum: 0.0,
        whole: 0.0,
        learning_rate: f64::NAN,
    };

    /// Takes a batch in that counts by its share.
    fn add(&mut self, loss: f64, share: f64, rate: f64) {
        self.batches += 1;
        self.loss_sum += loss * share;
        self.whole += share;
        self.learning_rate = rate;
    }
}

/// Where a training stands, but for parameters and moments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    /// Epochs begun.
    pub epoch: u64,
    /// Steps done.
    pub step: u64,
    /// Of the epoch that is not at its end.
    pub position: Option<Position>,
    /// The epoch and the step at which the fit in progress, or the last one, ends.
    pub until: u64,
    pub last_step: u64,
    pub plateau: PlateauState,
    pub plateau_progress: Progress,
    /// What was watched for, and whether the best parameters were to be restored.
    pub goal: Option<(Goal, bool)>,
    pub progress: Progress,
    /// The loss before the last step of this fit, for a second-order method.
    pub loss_before: Option<f64>,
    /// μ of Levenberg-Marquardt.
    pub damping: Option<f64>,
}

impl Standing {
    const START: Self = Self {
        epoch: 0,
        step: 0,
        position: None,
        until: 0,
        last_step: u64::MAX,
        plateau: PlateauState::START,
        plateau_progress: Progress::NONE,
        goal: None,
        progress: Progress::NONE,
        loss_before: None,
        damping: None,
    };
}

/// Training state of one network: moments, counters, buffers.
pub struct Trainer<F: Element> {
    method: Method,
    state: OptimizerState<F>,
    /// What L-BFGS remembers.
    pairs: Pairs<F>,
    precision: Precision,
    seed: u64,
    pub standing: Standing,
    /// The loss where the last second-order method came to.
    pub reached: Option<f64>,
    kept: Option<Kept<F>>,
    average: Option<Average<F>>,
    workspace: Option<Workspace<F>>,
    gradient: Buffer<F>,
}

/// A fit on its way.
struct Fit<'a, F: Element> {
    shared: &'a Shared<F>,
    plan: &'a FitPlan<'a>,
    batch: Batch<F>,
    deadline: Option<Instant>,
    clock: Clock,
    monitor: &'a mut dyn Monitor<F>,
}

impl<F: Element> Trainer<F> {
    pub fn new(
        network: &Network<F>,
        method: impl Into<Method>,
        precision: Precision,
        ema_decay: Option<f64>,
        seed: u64,
    ) -> Result<Self> {
        let method = method.into();
        if precision == Precision::Bf16 && F::Narrow::VALUES == 1 {
            return Err(Error::argument(
                "precision",
                "none for a model of float64 (bf16 is for float32)",
                "bf16",
            ));
        }
        let len = network.parameters.len();
        let history = search::check(&method, network, precision, ema_decay)?;
        Ok(Self {
            precision,
            state: match &method {
                Method::Step(optimizer) => optimizer.state(len)?,
                Method::Search(_) => OptimizerState::empty(),
            },
            pairs: Pairs::new(history, len)?,
            method,
            seed,
            standing: Standing::START,
            reached: None,
            kept: None,
            average: ema_decay
                .map(|decay| Average::new(network, decay))
                .transpose()?,
            workspace: None,
            gradient: Buffer::zeroed(len)?,
        })
    }

    /// Trains for `plan.epochs` epochs, or until a limit is reached, patience is at its end or the monitor says stop.
    /// Refuses bad data before anything has changed. At the end the network holds the parameters of the best epoch
    /// where that is watched for, and a next fit goes on from the last ones, unless the network has been changed
    /// meanwhile. Else, on [`Error::Interrupted`] it holds the last complete step; on [`Error::Diverged`] the parameters
    /// of the best or the last finite epoch, and the moments start anew.
    pub fn fit(
        &mut self,
        shared: &Shared<F>,
        plan: FitPlan<'_>,
        monitor: &mut dyn Monitor<F>,
    ) -> Result<Ending> {
        let begun = Instant::now();
        for (name, number) in [
            ("batch_size", plan.batch_size),
            ("accumulate", plan.accumulate),
        ] {
            if number == 0 {
                return Err(Error::argument(name, "a positive integer", 0));
            }
        }
        let (inputs, outputs) = (shared.inputs, shared.outputs);
        let feeds = || std::iter::once(&plan.data).chain(&plan.validation);
        for data in feeds().filter_map(Feed::arrays) {
            data.check_shapes(plan.objective, inputs, outputs)?;
        }
        for data in feeds().filter_map(Feed::arrays) {
            data.check_values::<F>(plan.objective, outputs, false, &mut || monitor.tick())?;
        }
        let mut plan = plan;
        let parts = match (&plan.data, plan.split) {
            (Feed::Arrays(data), Some(split)) => Some(split.of(data)?),
            _ => None,
        };
        if let (Feed::Arrays(data), Some((rest, out))) = (&mut plan.data, &parts) {
            plan.validation = Some(Feed::Arrays(Data {
                rows: Some(out),
                role: data::Role::Validation,
                ..*data
            }));
            data.rows = Some(rest);
        }
        plan.check_parts()?;
        let rows = plan.data.arrays().map_or(usize::MAX, Data::count);
        let batch_size = plan.batch_size.min(rows);
        let mut search = self.search(&shared.read(), &plan)?;
        let step_rows = batch_size.saturating_mul(plan.accumulate).min(rows);
        let apart = if step_rows > batch_size {
            self.check_accumulation(&shared.read(), &plan)?;
            step_rows.saturating_mul(outputs)
        } else {
            0
        };
        let mut batch = Batch::new(step_rows, apart)?;
        if let Some(data) = plan.data.arrays() {
            batch.suit(data)?;
        }
        if self.kept.is_none() {
            self.kept = Some(Kept::of(&shared.read())?);
        }
        if self.workspace.as_ref().is_none_or(|w| w.rows != batch_size) {
            self.workspace = None;
            let workspace = shared
                .read()
                .workspace(batch_size, true, false, self.precision);
            self.workspace = Some(workspace?);
        }
        plan.standardize(shared, monitor)?;
        if search.is_some() {
            search::gather(&shared.read(), &plan, &mut batch, self.workspace.as_mut());
        }
        self.take_up(shared, &plan);
        let standing = &mut self.standing;
        if let Some(epochs) = plan.epochs {
            standing.position = None;
            standing.loss_before = None;
            standing.until = standing.epoch.saturating_add(epochs);
            standing.last_step = standing
                .step
                .saturating_add(plan.max_steps.unwrap_or(u64::MAX));
        }
        let deadline = plan.max_time.and_then(|time| begun.checked_add(time));
        let work = search.as_ref().map_or(0, |search| search.work(rows));
        let _session = pool::Session::new(shared.read().step_work(batch_size).max(work));
        let mut fit = Fit {
            shared,
            plan: &plan,
            batch,
            deadline,
            clock: Clock::new(),
            monitor,
        };
        let ended = self.run(&mut fit, &mut search);
        self.reached = search.and_then(|search| search.reached());
        self.hand_over(shared, ended)
    }

    /// Refuses what has no meaning, or other bits, in parts of a batch.
    fn check_accumulation(&self, network: &Network<F>, plan: &FitPlan<'_>) -> Result<()> {
        if network.has_batch_norm() {
            return Err(Error::argument(
                "accumulate",
                "1 for a model with BatchNorm, whose statistics are those of a whole batch",
                plan.accumulate,
            ));
        }
        if self.precision == Precision::Int8 {
            return Err(Error::argument(
                "accumulate",
                "1 with quantization, whose range of inputs is that of a whole batch",
                plan.accumulate,
            ));
        }
        if self.precision == Precision::Bf16 && !plan.batch_size.is_multiple_of(2) {
            return Err(Error::argument(
                "batch_size",
                "an even number for accumulate in bf16, which multiplies rows in pairs",
                plan.batch_size,
            ));
        }
        Ok(())
    }

    /// The tensors of a run for a file, where the network's have `names`: the network, the moments and, beside it, the
    /// best or the last parameters.
    pub fn tensors<'a>(&'a self, network: &'a Network<F>, names: &[String]) -> Vec<Tensor<'a, F>> {
        let none: &[F] = &[];
        let mut tensors =
            network.tensors(names, "", &network.parameters, &network.state, Form::Own);
        let OptimizerState { m, v, v_max, .. } = &self.state;
        for (prefix, moments) in MOMENTS.into_iter().zip([m, v, v_max]) {
            tensors.extend(network.tensors(names, prefix, moments, none, Form::Own));
        }
        for (i, pair) in self.pairs.get().iter().enumerate() {
            for (prefix, flat) in PAIRS.into_iter().zip([&pair.s, &pair.y]) {
                tensors.extend(network.tensors(
                    names,
                    &format!("{prefix}{i}."),
                    flat,
                    none,
                    Form::Own,
                ));
            }
        }
        if let Some((parameters, shown)) = self.average.as_ref().and_then(|a| a.aside(network)) {
            let prefix = if shown { TRAINED } else { AVERAGE };
            tensors.extend(network.tensors(names, prefix, parameters, none, Form::Own));
        }
        if let Some((prefix, kept)) = self.aside(network) {
            tensors.extend(network.tensors(
                names,
                prefix,
                &kept.parameters,
                &kept.state,
                Form::Own,
            ));
        }
        tensors
    }

    /// What is kept beside the network and goes on being of use, and what it is.
    fn aside(&self, network: &Network<F>) -> Option<(&'static str, &Kept<F>)> {
        let kept = self.kept.as_ref()?;
        match kept.role {
            Role::Best => Some((BEST, kept)),
            Role::Last { version } if version == network.version => Some((LAST, kept)),
            Role::Good | Role::Last { .. } => None,
        }
    }

    /// Takes up a run from a file: the opposite of [`Self::tensors`], but for the network itself.
    pub fn restore(
        &mut self,
        network: &Network<F>,
        file: &mut File,
        names: &[String],
        standing: Standing,
        updates: u64,
        averaged: u64,
    ) -> Result<()> {
        let OptimizerState { m, v, v_max, .. } = &mut self.state;
        for (prefix, moments) in MOMENTS.into_iter().zip([m, v, v_max]) {
            if !moments.is_empty() {
                network.read_tensors(file, names, prefix, moments, &mut [])?;
            }
        }
        let has = |file: &File, prefix| {
            let mut names = names.iter();
            names.any(|name| file.has(&format!("{prefix}{name}")))
        };
        let averages = self.average.is_some();
        for (one, other, taken) in [(AVERAGE, TRAINED, averages), (BEST, LAST, true)] {
            if has(file, one) && has(file, other) || !taken && (has(file, one) || has(file, other))
            {
                return Err(Error::argument(
                    "file",
                    "one set beside the parameters",
                    one,
                ));
            }
        }
        if let Some(average) = &mut self.average {
            for (prefix, shown) in [(AVERAGE, false), (TRAINED, true)] {
                if has(file, prefix) {
                    let parameters = average.restore(network, averaged, shown);
                    network.read_tensors(file, names, prefix, parameters, &mut [])?;
                }
            }
        }
        self.restore_pairs(network, file, names)?;
        let role = Role::Last {
            version: network.version,
        };
        for (prefix, role) in [(BEST, Role::Best), (LAST, role)] {
            if has(file, prefix) {
                let mut kept = Kept::of(network)?;
                kept.role = role;
                network.read_tensors(file, names, prefix, &mut kept.parameters, &mut kept.state)?;
                self.kept = Some(kept);
            }
        }
        self.state.step = updates;
        self.standing = standing;
        Ok(())
    }

    /// Updates that the optimiser has done.
    pub fn updates(&self) -> u64 {
        self.state.step
    }

    /// Steps in the average of the parameters.
    pub fn averaged(&self) -> u64 {
        self.average.as_ref().map_or(0, Average::steps)
    }

    /// What the last fit put aside comes back, if nobody has touched the network since, and figures of another goal
    /// are forgotten.
    fn take_up(&mut self, shared: &Shared<F>, plan: &FitPlan<'_>) {
        let Some(kept) = &mut self.kept else { return };
        let mut network = shared.write();
        let network = &mut *network;
        let ours = self.average.as_ref().is_some_and(|a| a.belongs(network));
        if let Role::Last { version } = kept.role
            && version == network.version
        {
            kept.swap(network);
            kept.role = Role::Best;
        }
        let goal = plan.watch.map(|watch| (watch.goal, watch.restore));
        let restore = plan.watch.is_some_and(|watch| watch.restore);
        if goal != self.standing.goal || restore && kept.role != Role::Best {
            self.standing.goal = goal;
            self.standing.progress = Progress::NONE;
        }
        if !restore || self.standing.progress.best.is_none() {
            kept.keep(network, Role::Good);
        }
        if let Some(average) = &mut self.average {
            // What was put aside, and comes back, is no change of somebody's.
            if ours {
                average.follow(network);
            }
            average.show(network, false);
        }
        if plan.epochs.is_some() && patience_ended(plan, &self.standing.progress) {
            self.standing.progress.waited = 0;
        }
    }

    /// The network as the caller gets it.
    fn hand_over(&mut self, shared: &Shared<F>, ended: Result<Ending>) -> Result<Ending> {
        let Some(mut kept) = self.kept.take() else {
            return ended;
        };
        let mut network = shared.write();
        let network = &mut *network;
        let best = kept.role == Role::Best;
        // Nothing goes on from what is not finite.
        let lost = best && self.non_finite(network).is_some();
        if lost || matches!(ended, Err(Error::Diverged { .. })) {
            if let Some(average) = &mut self.average {
                average.forget();
            }
            kept.restore(network);
            self.state.reset();
            self.pairs.clear();
            self.standing.damping = None;
            // The epoch was another one's.
            self.standing.position = None;
        } else {
            if let Some(average) = &mut self.average {
                average.show(network, !best);
            }
            if best {
                kept.swap(network);
            }
            if let Some(average) = &mut self.average {
                average.follow(network);
            }
        }
        // The end of the last finite epoch is what the network holds itself.
        if best {
            kept.role = Role::Last {
                version: network.version,
            };
            self.kept = Some(kept);
        }
        ended
    }

    fn run(&mut self, fit: &mut Fit<'_, F>, search: &mut Option<Search<F>>) -> Result<Ending> {
        let (shared, plan) = (fit.shared, fit.plan);
        loop {
            self.show_average(shared, false);
            let begun = Instant::now();
            let spent = self.standing.step >= self.standing.last_step;
            if self.standing.position.is_none() {
                if spent {
                    return Ok(Ending::Steps);
                }
                if patience_ended(plan, &self.standing.progress) {
                    return Ok(Ending::Patience);
                }
                if let Some(search) = search
                    && self.converged(fit, search)?
                {
                    return Ok(Ending::Converged);
                }
                if self.standing.epoch >= self.standing.until {
                    return Ok(Ending::Epochs);
                }
                self.standing.epoch += 1;
                self.standing.position = Some(Position::START);
            }
            let epoch = self.standing.epoch - 1;
            let cut = match search {
                // The epoch in which a file was written at the last step is still to be ended.
                _ if spent => Some(Ending::Steps),
                Some(search) => self.run_search(fit, search)?,
                None => self.run_epoch(fit)?,
            };
            if let Some(what) = self.non_finite(&shared.read()) {
                return Err(self.diverged(what));
            }
            let Some(position) = self.standing.position else {
                return Ok(cut.unwrap_or(Ending::Monitor));
            };
            if position.whole <= 0.0 {
                return Err(nothing(false));
            }
            self.show_average(shared, true);
            let validation = match &plan.validation {
                Some(feed) => Some(evaluate(
                    shared,
                    *feed,
                    plan.objective,
                    plan.metrics,
                    (true, Some(epoch)),
                    fit.monitor,
                )?),
                None => None,
            };
            let mut report = EpochReport {
                epoch,
                step: self.standing.step,
                loss: position.loss_sum / position.whole,
                validation,
                learning_rate: position.learning_rate,
                best: false,
                seconds: begun.elapsed().as_secs_f64(),
            };
            self.observe(fit, &mut report)?;
            let stop = fit.monitor.epoch_end(self, &report)?;
            let ending = if stop { Some(Ending::Monitor) } else { cut };
            if let Some(ending) = ending {
                return Ok(ending);
            }
            if fit.clock.due() {
                fit.monitor.tick()?;
            }
        }
    }

    /// Makes the network hold the average of its parameters, where there is one, or those that are trained.
    fn show_average(&mut self, shared: &Shared<F>, shown: bool) {
        if let Some(average) = &mut self.average {
            average.show(&mut shared.write(), shown);
        }
    }

    /// Ends an epoch: takes its figures in, and keeps its parameters if they are to be kept.
    fn observe(&mut self, fit: &mut Fit<'_, F>, report: &mut EpochReport) -> Result<()> {
        let (shared, plan) = (fit.shared, fit.plan);
        let optimizer = self.method.optimizer();
        let plateau = optimizer.and_then(|optimizer| optimizer.learning_rate.plateau());
        // Figures of the caller's may fail: then the epoch is not at its end yet.
        let mut figures = [None; 2];
        let goals = [plan.watch.map(|watch| watch.goal), plan.plateau];
        for (found, goal) in figures.iter_mut().zip(&goals) {
            if let Some(goal) = goal {
                *found = Some(figure(goal.figure, report, fit.monitor)?);
            }
        }
        let standing = &mut self.standing;
        standing.position = None;
        if let (Some(goal), Some(value)) = (&goals[0], figures[0]) {
            report.best = standing.progress.observe(goal, report.epoch, value);
        }
        if let (Some(goal), Some(value), Some(plateau)) = (&goals[1], figures[1], plateau) {
            let progress = &mut standing.plateau_progress;
            let better = progress.observe(goal, report.epoch, value);
            standing.plateau.observe(plateau, better);
        }
        let restore = plan.watch.is_some_and(|watch| watch.restore);
        if let Some(kept) = &mut self.kept {
            if restore && report.best {
                kept.keep(&shared.read(), Role::Best);
            } else if kept.role == Role::Good {
                kept.keep(&shared.read(), Role::Good);
            }
        }
        Ok(())
    }

    fn diverged(&self, what: &str) -> Error {
        Error::Diverged {
            what: what.to_owned(),
            epoch: self.standing.epoch.saturating_sub(1),
            step: self.standing.step,
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
}

/// Whether patience is at its end.
fn patience_ended(plan: &FitPlan<'_>, progress: &Progress) -> bool {
    let patience = plan.watch.and_then(|watch| watch.patience);
    patience.is_some_and(|patience| progress.waited >= patience)
}

fn figure<F: Element>(
    figure: Figure,
    report: &EpochReport,
    monitor: &mut dyn Monitor<F>,
) -> Result<f64> {
    let validation = report.validation.as_ref();
    Ok(match figure {
        Figure::Loss => report.loss,
        Figure::ValidationLoss => validation.map_or(f64::NAN, |v| v.loss),
        Figure::Metric(index) => validation
            .and_then(|v| v.metrics.get(index).copied())
            .unwrap_or(f64::NAN),
        Figure::External(number) => monitor.measure(report, number)?,
    })
}
