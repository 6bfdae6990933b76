//! Least squares: the equations of a step, from backward passes of one row.

use std::sync::{Mutex, PoisonError};

use super::FitPlan;
use super::epoch::Batch;
use crate::data::Objective;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::loss::{Loss, Target};
use crate::matrix::Buffer;
use crate::network::{Network, Pass, Precision, Workspace};
use crate::optimizers::levenberg_marquardt::Equations;
use crate::pool;
use crate::source::Rows;

/// What least squares need besides a gradient.
pub(super) struct Squares<F: Element> {
    pub equations: Equations,
    /// Where the parameters lie in the flat vector.
    pub places: Buffer<u32>,
    /// Coefficients of the l2 penalties, parameter by parameter.
    ridge: Buffer<f64>,
    /// For each thread a backward pass of one row.
    passes: Mutex<Vec<RowPass<F>>>,
}

struct RowPass<F: Element> {
    workspace: Workspace<F>,
    gradient: Buffer<F>,
    /// A row of (J | r).
    values: Buffer<f64>,
}

impl<F: Element> Squares<F> {
    pub fn new(network: &Network<F>, objective: Objective<'_>) -> Result<Self> {
        let other = match objective {
            Objective::Core(Loss::Mse) => None,
            Objective::Core(loss) => Some(format!("{loss:?}")),
            Objective::External => Some("one of your own".to_owned()),
        };
        if let Some(other) = other {
            let expected = "mse for Levenberg-Marquardt, which is made for sums of squares";
            return Err(Error::argument("loss", expected, other));
        }
        if network.penalties.iter().any(|&(_, l1, _)| l1 != 0.0) {
            let expected = "l1 = 0 for Levenberg-Marquardt, which is made for sums of squares";
            return Err(Error::argument("layers", expected, "a penalty with l1"));
        }
        let count = network.count();
        let equations = Equations::new(count, network.outputs)?;
        let mut used = Buffer::<F>::zeroed(network.parameters.len())?;
        for (index, slot) in network.slots.iter().enumerate() {
            let mut values = Buffer::<F>::zeroed(slot.count())?;
            values.fill(F::ONE);
            network.pack_into(index, &values, &mut used);
        }
        let mut places = Buffer::zeroed(count)?;
        let filled = used
            .iter()
            .enumerate()
            .filter(|(_, used)| **used != F::ZERO);
        for (place, (at, _)) in places.iter_mut().zip(filled) {
            *place = at as u32;
        }
        let mut ridge = Buffer::zeroed(count)?;
        for &(slot, _, l2) in &network.penalties {
            let range = network.slots[slot].range::<F>();
            for (k, &at) in ridge.iter_mut().zip(places.iter()) {
                if range.contains(&(at as usize)) {
                    *k = l2;
                }
            }
        }
        let pass = |_| {
            Ok(RowPass {
                workspace: network.workspace(1, true, false, Precision::Full)?,
                gradient: Buffer::zeroed(network.parameters.len())?,
                values: Buffer::zeroed(count + 1)?,
            })
        };
        let passes = (0..pool::threads()?)
            .map(pass)
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            equations,
            places,
            ridge,
            passes: Mutex::new(passes),
        })
    }

    /// JᵀJ and Jᵀr where the network stands; √(wᵢ / (K·Σw))·(z − y) are the residuals.
    pub fn form(
        &mut self,
        network: &Network<F>,
        plan: &FitPlan<'_>,
        batch: &Batch<F>,
        tick: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        let (Some(data), Some(targets)) = (plan.data.arrays(), &batch.targets) else {
            return Err(Error::Interrupted);
        };
        let count = batch.order.len();
        let outputs = network.outputs;
        let share = 1.0 / (outputs as f64 * targets.whole(count));
        let weights = targets.weights(0..count);
        let Target::Values(targets) = targets.target(0..count) else {
            return Ok(());
        };
        self.equations.clear();
        let work = network.step_work(1).saturating_mul(outputs);
        let at_once = self.equations.rows_at_once(outputs);
        for first in (0..count).step_by(at_once) {
            let rows = at_once.min(count - first);
            let (passes, places) = (&self.passes, &self.places);
            let passes = || passes.lock().unwrap_or_else(PoisonError::into_inner);
            self.equations.add(rows, outputs, work, |row, put| {
                let row = first + row;
                let factor = weights.map_or(share, |w| w[row] * share).sqrt();
                // More threads than there were when the fit began wait for each other.
                let mut pass = loop {
                    if let Some(pass) = passes().pop() {
                        break pass;
                    }
                    std::thread::yield_now();
                };
                let RowPass {
                    workspace,
                    gradient,
                    values,
                } = &mut pass;
                let picked = Rows::Picked(&batch.order[row..=row]);
                network.take(&data.x, picked, workspace);
                for k in 0..outputs {
                    // Again for each output, as the backward pass uses it up.
                    network.forward(workspace, 1, Pass::EVALUATION);
                    workspace.d_output.fill(F::ZERO);
                    workspace.d_output[k] = F::ONE;
                    network.backward_of_outputs(workspace, 1, gradient);
                    let found = places.iter().map(|&at| gradient[at as usize].to_f64());
                    let target = targets[row * outputs + k].to_f64();
                    let residual = workspace.output[k].to_f64() - target;
                    for (value, found) in values.iter_mut().zip(found.chain([residual])) {
                        *value = factor * found;
                    }
                    put(k, values);
                }
                passes().push(pass);
            });
            tick()?;
        }
        let theta = |&at: &u32| network.parameters[at as usize].to_f64();
        self.equations
            .add_ridge(&self.ridge, self.places.iter().map(theta));
        Ok(())
    }
}
