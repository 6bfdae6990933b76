//! Fitting the layers that standardise to the data of a fit.

use super::FitPlan;
use crate::data::{Data, Feed, Moments};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::evaluation::{Monitor, Shared};
use crate::matrix::Buffer;
use crate::plan::Subject;
use crate::source::Source;

impl FitPlan<'_> {
    /// Fits the layers that standardise and have no statistics yet to the rows that are trained on, all or none.
    pub(super) fn standardize<F: Element>(
        &self,
        shared: &Shared<F>,
        monitor: &mut dyn Monitor<F>,
    ) -> Result<()> {
        let slots = [Subject::Inputs, Subject::Targets].map(|of| shared.read().unfitted(of));
        let mut found = [None, None];
        match &self.data {
            _ if slots == [None, None] => return Ok(()),
            Feed::Arrays(data) => {
                measure(data, slots, shared.outputs, &mut found, &mut || {
                    monitor.tick()
                })?;
            }
            Feed::Blocks => {
                let mut place = 0;
                while let Some(block) = monitor.block(false, None, place)? {
                    let data = block.data();
                    let (inputs, outputs) = (shared.inputs, shared.outputs);
                    let tick = &mut || monitor.tick();
                    data.check::<F>(self.objective, inputs, outputs, tick)?;
                    measure(&data, slots, outputs, &mut found, tick)?;
                    place += 1;
                }
            }
        }
        let mut values = Vec::new();
        for ((slot, moments), name) in slots.into_iter().zip(found).zip(["X", "y"]) {
            let (Some(slot), Some(moments)) = (slot, moments) else {
                continue;
            };
            let moments = moments.finish::<F>(name)?;
            for (slot, numbers) in [(slot, &moments.mean), (slot + 1, &moments.var)] {
                // Outputs share the statistics of their target.
                let each = shared.read().state_slots[slot].count() / numbers.len();
                let mut rounded = Buffer::<F>::zeroed(numbers.len() * each)?;
                for (to, &number) in rounded.chunks_exact_mut(each).zip(numbers.iter()) {
                    to.fill(F::of(number));
                }
                values.push((slot, rounded));
            }
        }
        let mut network = shared.write();
        for (slot, values) in values {
            network.write_state(slot, &values);
        }
        Ok(())
    }
}

/// Takes some rows into the statistics of the features and of the targets, where there is a slot for them.
fn measure(
    data: &Data<'_>,
    slots: [Option<usize>; 2],
    outputs: usize,
    found: &mut [Option<Moments>; 2],
    tick: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let (targets, weights) = &data.given;
    let fits =
        |y: &Source<'_>| y.rows == data.x.rows && y.cols > 0 && outputs.is_multiple_of(y.cols);
    if slots[1].is_some() && !targets.as_ref().is_some_and(fits) {
        return Err(Error::argument(
            "y",
            "columns of numbers that the outputs predict, for a Standardize of targets",
            "others",
        ));
    }
    let sources = [Some(data.x), *targets];
    for ((source, found), slot) in sources.iter().zip(found).zip(slots) {
        if let (Some(source), Some(_)) = (source, slot) {
            let rows = data.range(0, data.count());
            let moments = Moments::of(source, weights.as_ref(), rows, tick)?;
            match found {
                Some(found) => found.merge(&moments),
                None => *found = Some(moments),
            }
        }
    }
    Ok(())
}
