//! Second-order methods: an epoch is one step, found by looking at the loss of all rows from several points. They are
//! looked at in a network apart, so that the others see complete steps only and an interruption leaves the last one.

use std::time::Instant;

use super::epoch::{Batch, let_others_in};
use super::squares::Squares;
use super::{Ending, Fit, FitPlan, PAIRS, Position, Trainer};
use crate::backward::Part;
use crate::checkpoint::File;
use crate::data::{Objective, Role};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::evaluation::{Clock, Monitor};
use crate::lanes;
use crate::matrix::{Buffer, all_finite};
use crate::network::{Network, Pass, Precision, Workspace};
use crate::optimizers::lbfgs::{self, Lbfgs};
use crate::optimizers::line_search::{self, LONGEST, Point};
use crate::optimizers::{self, LevenbergMarquardt, Method};
use crate::plan::Op;
use crate::source::Rows;

/// What a search works with during one fit.
pub(super) struct Search<F: Element> {
    method: optimizers::Search,
    look: Look<F>,
    /// Where the step starts: the network of this version, its loss and its gradient.
    start: Buffer<F>,
    start_gradient: Buffer<F>,
    loss: f64,
    version: Option<u64>,
    direction: Buffer<F>,
    alphas: Buffer<f64>,
    squares: Option<Squares<F>>,
}

/// The point that is looked at.
struct Look<F: Element> {
    network: Network<F>,
    /// Of the loss.
    gradient: Buffer<F>,
    evaluations: u64,
    clock: Clock,
}

/// What a search has found: a step at a rate, or the end.
enum Found {
    Step { rate: f64 },
    End(Ending),
}

/// Refuses what a method cannot work with; says how many pairs it keeps.
pub(super) fn check<F: Element>(
    method: &Method,
    network: &Network<F>,
    precision: Precision,
    ema_decay: Option<f64>,
) -> Result<usize> {
    let Method::Search(method) = method else {
        return Ok(0);
    };
    if precision != Precision::Full {
        let expected = format!(
            "None for {}: rounding makes steps of the loss",
            method.name()
        );
        let (name, given) = match precision {
            Precision::Int8 => ("quantization", "int8"),
            _ => ("precision", "bf16"),
        };
        return Err(Error::argument(name, expected, given));
    }
    let unsteady = network.nodes.iter().find_map(|node| match node.op {
        Op::Dropout { .. } => Some("Dropout"),
        Op::GaussianNoise { .. } => Some("GaussianNoise"),
        Op::BatchNorm { .. } => Some("BatchNorm"),
        Op::Dense { .. }
        | Op::Integer { .. }
        | Op::Pointwise(_)
        | Op::PRelu { .. }
        | Op::LayerNorm { .. }
        | Op::Softmax
        | Op::Standardize { .. } => None,
    });
    if let Some(layer) = unsteady {
        let expected = format!(
            "for {} layers whose output is a function of one row and the parameters",
            method.name()
        );
        return Err(Error::argument("layers", expected, layer));
    }
    if !network.constraints.is_empty() {
        let expected = format!("for {} weights that are free", method.name());
        return Err(Error::argument(
            "layers",
            expected,
            "max_norm or non_negative",
        ));
    }
    if let Some(decay) = ema_decay {
        let expected = format!("None for {}, which ends at a minimum", method.name());
        return Err(Error::argument("ema_decay", expected, decay));
    }
    match method {
        optimizers::Search::Lbfgs(method) => Ok(method.history_size),
        optimizers::Search::LevenbergMarquardt(_) => Ok(0),
    }
}

/// Takes all rows in, for the whole fit.
pub(super) fn gather<F: Element>(
    network: &Network<F>,
    plan: &FitPlan<'_>,
    batch: &mut Batch<F>,
    workspace: Option<&mut Workspace<F>>,
) {
    let rows = Rows::Picked(&batch.order);
    if let (Some(data), Some(targets), Some(workspace)) =
        (plan.data.arrays(), &mut batch.targets, workspace)
    {
        targets.gather(data, rows);
        network.take(&data.x, rows, workspace);
    }
}

impl<F: Element> Search<F> {
    fn new(method: optimizers::Search, network: &Network<F>, plan: &FitPlan<'_>) -> Result<Self> {
        let Some(data) = plan.data.arrays() else {
            let expected = format!("arrays, whose rows {} takes together", method.name());
            return Err(Error::argument("X", expected, "data in blocks"));
        };
        if plan.accumulate > 1 {
            let expected = format!("1 for {}", method.name());
            return Err(Error::argument("accumulate", expected, plan.accumulate));
        }
        let rows = data.count();
        if plan.batch_size < rows {
            let expected = format!(
                "None, or the {rows} rows, which {} takes together",
                method.name()
            );
            return Err(Error::argument("batch_size", expected, plan.batch_size));
        }
        let len = network.parameters.len();
        let (alphas, direction, squares) = match method {
            optimizers::Search::Lbfgs(lbfgs) => (lbfgs.history_size, len, None),
            optimizers::Search::LevenbergMarquardt(_) => {
                (0, 0, Some(Squares::new(network, plan.objective)?))
            }
        };
        Ok(Self {
            method,
            look: Look {
                network: network.duplicate()?,
                gradient: Buffer::zeroed(len)?,
                evaluations: 0,
                clock: Clock::new(),
            },
            start: Buffer::zeroed(len)?,
            start_gradient: Buffer::zeroed(len)?,
            loss: f64::NAN,
            version: None,
            direction: Buffer::zeroed(direction)?,
            alphas: Buffer::zeroed(alphas)?,
            squares,
        })
    }

    /// Work of a step besides that of gradients, in multiply-adds: the normal equations of `rows` rows and their solution.
    pub fn work(&self, rows: usize) -> usize {
        let squares = self.squares.as_ref();
        let count = squares.map_or(0, |squares| squares.places.len());
        let residuals = rows.saturating_mul(self.look.network.outputs);
        (count * count).saturating_mul(residuals + count / 3)
    }

    /// The loss at the start, once it has been looked at.
    pub fn reached(&self) -> Option<f64> {
        self.version.map(|_| self.loss)
    }

    /// What is looked at becomes the start.
    fn arrive(&mut self, loss: f64) {
        self.start.copy_from_slice(&self.look.network.parameters);
        std::mem::swap(&mut self.start_gradient, &mut self.look.gradient);
        self.loss = loss;
    }
}

impl<F: Element> Look<F> {
    /// The loss there; its gradient will be in `self.gradient`.
    fn evaluate(&mut self, fit: &mut Fit<'_, F>, workspace: &mut Workspace<F>) -> Result<f64> {
        let Fit {
            plan,
            batch,
            monitor,
            ..
        } = fit;
        let Some(targets) = &batch.targets else {
            return Err(Error::Interrupted);
        };
        let count = batch.order.len();
        let (whole, convention) = (targets.whole(count), plan.convention);
        let pass = Pass {
            weights: targets.weights(0..count),
            penalty: convention.penalty(whole),
            ..Pass::EVALUATION
        };
        self.evaluations += 1;
        self.network.forward(workspace, count, pass);
        let len = count * self.network.outputs;
        let (output, d_output) = (&workspace.output[..len], &mut workspace.d_output[..len]);
        let loss = match plan.objective {
            Objective::Core(loss) => {
                let target = targets.target(0..count);
                loss.value_and_gradient(output, target, pass.weights, whole, count, d_output)
            }
            Objective::External => {
                let rows = Rows::Picked(&batch.order);
                monitor.loss(Role::Main, output, rows, d_output)?
            }
        };
        convention.scale(&mut workspace.d_output[..len]);
        self.network
            .backward(workspace, count, pass, Part::WHOLE, &mut self.gradient);
        tick(&mut self.clock, *monitor)?;
        let output = &workspace.output[..len];
        let loss = convention.value(loss, plan.objective, output, (targets, count), whole);
        Ok(loss + pass.penalty * self.network.penalty())
    }
}

impl<F: Element> Trainer<F> {
    /// What a search of this trainer's method works with, if it is one.
    pub(super) fn search(
        &self,
        network: &Network<F>,
        plan: &FitPlan<'_>,
    ) -> Result<Option<Search<F>>> {
        match &self.method {
            Method::Step(_) => Ok(None),
            Method::Search(method) => Search::new(*method, network, plan).map(Some),
        }
    }

    /// Whether the network stands where the method wants to be. Looks at the loss there, unless that is known.
    pub(super) fn converged(
        &mut self,
        fit: &mut Fit<'_, F>,
        search: &mut Search<F>,
    ) -> Result<bool> {
        let network = fit.shared.read();
        let version = network.version;
        if search.version != Some(version) {
            if search.version.is_some() {
                // Somebody has moved the network: that was no step of ours.
                self.standing.loss_before = None;
            }
            let look = &mut search.look.network;
            look.parameters.copy_from_slice(&network.parameters);
            look.state.copy_from_slice(&network.state);
            drop(network);
            let Some(workspace) = &mut self.workspace else {
                return Ok(false);
            };
            let loss = search.look.evaluate(fit, workspace)?;
            if !loss.is_finite() {
                return Err(self.diverged("the loss"));
            }
            if !all_finite(&search.look.gradient) {
                return Err(self.diverged("the gradient"));
            }
            search.arrive(loss);
            search.version = Some(version);
        }
        if lbfgs::largest(&search.start_gradient) <= search.method.tolerance_grad() {
            return Ok(true);
        }
        let (before, after) = (self.standing.loss_before, search.loss);
        Ok(before.is_some_and(|before| before - after <= search.method.little(before, after)))
    }

    /// An epoch: one step. Without one, where the search is at its end, the epoch has not been.
    pub(super) fn run_search(
        &mut self,
        fit: &mut Fit<'_, F>,
        search: &mut Search<F>,
    ) -> Result<Option<Ending>> {
        let mut position = self.standing.position.unwrap_or(Position::START);
        if position.batches > 0 {
            return Ok(None);
        }
        // Of an epoch that a file had begun.
        self.converged(fit, search)?;
        let loss = search.loss;
        let Some(mut workspace) = self.workspace.take() else {
            return Ok(Some(Ending::Monitor));
        };
        let found = match search.method {
            optimizers::Search::Lbfgs(method) => {
                self.step_lbfgs(method, fit, search, &mut workspace)
            }
            optimizers::Search::LevenbergMarquardt(method) => {
                self.step_squares(method, fit, search, &mut workspace)
            }
        };
        self.workspace = Some(workspace);
        let rate = match found? {
            Found::Step { rate } => rate,
            Found::End(ending) => {
                self.standing.epoch -= 1;
                self.standing.position = None;
                return Ok(Some(ending));
            }
        };
        let mut guard = Some(fit.shared.write());
        if let Some(network) = &mut guard {
            network.parameters.copy_from_slice(&search.start);
            network.version += 1;
            search.version = Some(network.version);
        }
        self.standing.loss_before = Some(loss);
        self.standing.step += 1;
        self.state.step += 1;
        let targets = fit.batch.targets.as_ref();
        let weight = targets.map_or(0.0, |targets| targets.whole(fit.batch.order.len()));
        position.add(loss, weight, rate);
        self.standing.position = Some(position);
        if fit.monitor.wants_steps() {
            guard = None;
            if fit.monitor.step_end(self, loss)? {
                return Ok(Some(Ending::Monitor));
            }
        }
        let_others_in(fit.shared, &mut guard);
        if self.standing.step >= self.standing.last_step {
            return Ok(Some(Ending::Steps));
        }
        if fit.deadline.is_some_and(|at| Instant::now() >= at) {
            return Ok(Some(Ending::Time));
        }
        let looks = search.look.evaluations;
        if fit.plan.max_evaluations.is_some_and(|most| looks > most) {
            return Ok(Some(Ending::Evaluations));
        }
        Ok(None)
    }

    /// A line search along −H·g; if it fails, the pairs mislead, and one along −g is tried.
    fn step_lbfgs(
        &mut self,
        method: Lbfgs,
        fit: &mut Fit<'_, F>,
        search: &mut Search<F>,
        workspace: &mut Workspace<F>,
    ) -> Result<Found> {
        let Search {
            look,
            start,
            start_gradient: gradient,
            loss,
            direction,
            alphas,
            ..
        } = search;
        let mut pairs = self.pairs.get();
        let (point, slope) = loop {
            lbfgs::descend(gradient, pairs, alphas, direction);
            // What rounding lets the parameters move by, so that s is what they have moved by.
            for (d, &start) in direction.iter_mut().zip(start.iter()) {
                *d = (start + *d) - start;
            }
            let first = if self.state.step == 0 {
                (1.0 / lanes::dot(direction, direction).sqrt()).min(LONGEST)
            } else {
                1.0
            };
            let here = Point {
                step: 0.0,
                loss: *loss,
                slope: lanes::dot(gradient, direction),
            };
            let mut phi = |step: f64| {
                let theta = &mut look.network.parameters;
                theta.copy_from_slice(start);
                lbfgs::add(step, direction, theta);
                let loss = look.evaluate(fit, workspace)?;
                let slope = lanes::dot(&look.gradient, direction);
                Ok(Point { step, loss, slope })
            };
            if here.slope < 0.0
                && let Some(point) =
                    line_search::search(here, first, method.max_evaluations, &mut phi)?
            {
                break (point, here.slope);
            }
            if pairs.is_empty() {
                return Ok(Found::End(Ending::LineSearch));
            }
            pairs = &[];
        };
        if pairs.is_empty() {
            self.pairs.clear();
        }
        // The curvature along the step, beside what rounding makes of the slopes.
        if (point.slope - slope) * point.step > F::EPSILON * (-slope * point.step)
            && let Some(pair) = self.pairs.push()
        {
            pair.s.fill(F::ZERO);
            lbfgs::add(point.step, direction, &mut pair.s);
            pair.y.copy_from_slice(&look.gradient);
            lbfgs::add(-1.0, gradient, &mut pair.y);
        }
        search.arrive(point.loss);
        Ok(Found::Step { rate: point.step })
    }

    /// Raises the damping until a step lowers the loss.
    fn step_squares(
        &mut self,
        method: LevenbergMarquardt,
        fit: &mut Fit<'_, F>,
        search: &mut Search<F>,
        workspace: &mut Workspace<F>,
    ) -> Result<Found> {
        let Search {
            look,
            start,
            loss: here,
            squares: Some(squares),
            ..
        } = search
        else {
            return Ok(Found::End(Ending::Converged));
        };
        look.network.parameters.copy_from_slice(start);
        let Look { network, clock, .. } = look;
        squares.form(network, fit.plan, &fit.batch, &mut || {
            tick(clock, fit.monitor)
        })?;
        let Squares {
            equations, places, ..
        } = squares;
        let norm = lanes::dot(start, start).sqrt();
        let first = || (method.damping * equations.largest()).max(f64::MIN_POSITIVE);
        let mut mu = self.standing.damping.unwrap_or_else(first);
        let mut nu = 2.0;
        while mu.is_finite() {
            let solved = equations.solve(mu, &mut || tick(&mut look.clock, fit.monitor))?;
            if solved {
                let step = lanes::dot(&equations.step, &equations.step).sqrt();
                if step <= method.tolerance_step * (norm + method.tolerance_step) {
                    return Ok(Found::End(Ending::Converged));
                }
                let mut moved = false;
                for (&h, &at) in equations.step.iter().zip(places.iter()) {
                    let (from, to) = (
                        &start[at as usize],
                        &mut look.network.parameters[at as usize],
                    );
                    *to = F::of(from.to_f64() + h);
                    moved |= *to != *from;
                }
                if !moved {
                    return Ok(Found::End(Ending::Converged));
                }
                let loss = look.evaluate(fit, workspace)?;
                let gain = (*here - loss) / equations.foretold(mu);
                if gain > 0.0 && all_finite(&look.gradient) {
                    let relieved = mu * LevenbergMarquardt::relief(gain);
                    self.standing.damping = Some(relieved.max(f64::MIN_POSITIVE));
                    search.arrive(loss);
                    return Ok(Found::Step { rate: 0.5 / mu });
                }
            }
            mu *= nu;
            nu *= 2.0;
        }
        Err(self.diverged("the Jacobian"))
    }

    /// The newest pairs of a file, as many as there is room for.
    pub(super) fn restore_pairs(
        &mut self,
        network: &Network<F>,
        file: &mut File,
        names: &[String],
    ) -> Result<()> {
        let Some(first) = names.first() else {
            return Ok(());
        };
        let stored = (0..).take_while(|i| file.has(&format!("{}{i}.{first}", PAIRS[0])));
        let stored = stored.count();
        for i in stored.saturating_sub(self.pairs.room())..stored {
            let Some(pair) = self.pairs.push() else {
                return Ok(());
            };
            for (prefix, flat) in PAIRS.into_iter().zip([&mut pair.s, &mut pair.y]) {
                for (slot, name) in network.slots.iter().zip(names) {
                    file.read(&format!("{prefix}{i}.{name}"), slot, flat)?;
                }
            }
        }
        Ok(())
    }
}

fn tick<F: Element>(clock: &mut Clock, monitor: &mut dyn Monitor<F>) -> Result<()> {
    if clock.due() {
        monitor.tick()?;
    }
    Ok(())
}
