//! The core's view of Python during a long call: signals, hooks and losses written in Python.

use std::cell::Cell;

use pyo3::prelude::*;
use pyo3::types::PyList;
use ranvier_core::data::{Block, Role};
use ranvier_core::element::Element;
use ranvier_core::error::{Error, Result};
use ranvier_core::evaluation::{EpochReport, Monitor};
use ranvier_core::source::Rows;
use ranvier_core::trainer::{Standing, Trainer};

use scoped_tls::scoped_thread_local;

use crate::arrays::{Number, Readable, Writable};
use crate::errors::CoreError;
use crate::network::{Arrays, OwnBlock};
use crate::trainer::numbers;

scoped_thread_local!(static TRAINER_F32: Trainer<f32>);
scoped_thread_local!(static TRAINER_F64: Trainer<f64>);
thread_local! {
    /// Which trainer is lent.
    static LENT: Cell<u64> = const { Cell::new(0) };
}

/// Element types whose trainer a hook of its fit may look at.
pub trait Lent: Element {
    /// Runs `function`, meanwhile [`Self::borrow`] finds the trainer.
    fn lend<T>(trainer: &Trainer<Self>, id: u64, function: impl FnOnce() -> T) -> T;
    /// The trainer with this id, if this thread is in a hook of its fit.
    fn borrow<T>(id: u64, function: impl FnOnce(&Trainer<Self>) -> T) -> Option<T>;
}

macro_rules! lent {
    ($type:ident, $place:ident) => {
        impl Lent for $type {
            fn lend<T>(trainer: &Trainer<Self>, id: u64, function: impl FnOnce() -> T) -> T {
                let before = LENT.replace(id);
                let result = $place.set(trainer, function);
                LENT.set(before);
                result
            }

            fn borrow<T>(id: u64, function: impl FnOnce(&Trainer<Self>) -> T) -> Option<T> {
                (LENT.get() == id && $place.is_set()).then(|| $place.with(function))
            }
        }
    };
}
lent!(f32, TRAINER_F32);
lent!(f64, TRAINER_F64);

/// A loss written in Python: `call(validation, count)` reads the first `count` rows of `output` and `rows`, fills those of
/// `d_output` and returns the value. The arrays are the adapter's own.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct ExternalLoss {
    call: Py<PyAny>,
    output: Py<PyAny>,
    rows: Py<PyAny>,
    d_output: Py<PyAny>,
}

/// Epoch, step, loss, loss and metrics of the validation, rate, seconds.
pub type Report = (u64, u64, f64, Option<(f64, Vec<f64>)>, f64, f64);

/// Hooks of one call, and the exception that one of them raised.
#[derive(Default)]
pub struct Hooks {
    pub external: Option<ExternalLoss>,
    pub on_step: Option<Py<PyAny>>,
    /// Where reports of epochs go, and what is called then.
    pub on_epoch: Option<(Py<PyList>, Option<Py<PyAny>>)>,
    /// Called about every 50 ms.
    pub on_tick: Option<Py<PyAny>>,
    /// Reports on their way to the list, where nothing is called.
    pub reports: Vec<Report>,
    /// What gives the blocks of the training and of the validation.
    pub blocks: [Option<Py<PyAny>>; 2],
    pub on_rate: Option<Py<PyAny>>,
    pub on_measure: Option<Py<PyAny>>,
    pub raised: Option<PyErr>,
    /// Of the trainer.
    pub id: u64,
}

impl Hooks {
    fn attached<T>(
        &mut self,
        function: impl FnOnce(&Self, Python<'_>) -> PyResult<T>,
    ) -> Result<T> {
        Python::attach(|py| function(self, py)).map_err(|error| {
            self.raised = Some(error);
            Error::Interrupted
        })
    }

    /// Puts the reports where Python finds them.
    pub fn hand_over(&mut self, py: Python<'_>) -> PyResult<()> {
        let reports = std::mem::take(&mut self.reports);
        if let Some((list, _)) = &self.on_epoch {
            for report in reports {
                list.bind(py).append(report)?;
            }
        }
        Ok(())
    }

    /// The exception that interrupted the call, if that is what happened.
    pub fn failure(&mut self, error: Error) -> crate::errors::Failure {
        match (error, self.raised.take()) {
            (Error::Interrupted, Some(raised)) => raised.into(),
            (error, _) => error.into(),
        }
    }
}

fn rows_of(rows: Rows<'_>, out: &mut [u32]) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = rows.get(i) as u32;
    }
}

impl<F: Number> Monitor<F> for Hooks {
    fn tick(&mut self) -> Result<()> {
        Python::attach(|py| self.hand_over(py))
            .and_then(|()| {
                Python::attach(|py| {
                    py.check_signals()?;
                    self.on_tick
                        .as_ref()
                        .map_or(Ok(()), |hook| hook.call0(py).map(drop))
                })
            })
            .map_err(|error| {
                self.raised = Some(error);
                Error::Interrupted
            })
    }

    fn loss(
        &mut self,
        role: Role,
        output: &[F],
        rows: Rows<'_>,
        d_output: &mut [F],
    ) -> Result<f64> {
        self.attached(|hooks, py| {
            let Some(external) = &hooks.external else {
                return Ok(f64::NAN);
            };
            let mut shown: Writable<F> = external.output.extract(py)?;
            shown.slice()[..output.len()].copy_from_slice(output);
            let mut indices: Writable<u32> = external.rows.extract(py)?;
            rows_of(rows, &mut indices.slice()[..rows.len()]);
            let value = external
                .call
                .call1(py, (role.validates(), rows.len()))?
                .extract(py)?;
            let mut filled: Writable<F> = external.d_output.extract(py)?;
            d_output.copy_from_slice(&filled.slice()[..d_output.len()]);
            Ok(value)
        })
    }

    fn block(
        &mut self,
        validation: bool,
        epoch: Option<u64>,
        place: usize,
    ) -> Result<Option<Box<dyn Block>>> {
        self.attached(|hooks, py| {
            let Some(next) = &hooks.blocks[usize::from(validation)] else {
                return Ok(None);
            };
            let found = next.call1(py, (epoch, place))?;
            if found.is_none(py) {
                return Ok(None);
            }
            let (number, arrays, rows, checked): (_, Arrays, Option<Readable>, _) =
                found.extract(py)?;
            let block: Box<dyn Block> = Box::new(OwnBlock {
                arrays,
                role: Role::Block { number, validation },
                rows: rows
                    .as_ref()
                    .map(numbers)
                    .transpose()
                    .map_err(|error| PyErr::from(CoreError::from(error)))?,
                checked,
            });
            Ok(Some(block))
        })
    }

    fn rate(&mut self, t: u64) -> Result<f64> {
        self.attached(|hooks, py| match &hooks.on_rate {
            Some(hook) => hook.call1(py, (t,))?.extract(py),
            None => Ok(f64::NAN),
        })
    }

    fn measure(&mut self, report: &EpochReport, number: usize) -> Result<f64> {
        self.attached(|hooks, py| match &hooks.on_measure {
            Some(hook) => hook.call1(py, (report.epoch, number))?.extract(py),
            None => Ok(f64::NAN),
        })
    }

    fn wants_steps(&self) -> bool {
        self.on_step.is_some()
    }

    fn step_end(&mut self, trainer: &Trainer<F>, loss: f64) -> Result<bool> {
        let Standing { epoch, step, .. } = trainer.standing;
        let rate = trainer
            .standing
            .position
            .map_or(f64::NAN, |at| at.learning_rate);
        self.attached(|hooks, py| match &hooks.on_step {
            Some(hook) => F::lend(trainer, hooks.id, || {
                hook.call1(py, (epoch.saturating_sub(1), step, loss, rate))?
                    .is_truthy(py)
            }),
            None => Ok(false),
        })
    }

    fn epoch_end(&mut self, trainer: &Trainer<F>, report: &EpochReport) -> Result<bool> {
        let validation = report.validation.as_ref();
        self.reports.push((
            report.epoch,
            report.step,
            report.loss,
            validation.map(|v| (v.loss, v.metrics.clone())),
            report.learning_rate,
            report.seconds,
        ));
        if !matches!(self.on_epoch, Some((_, Some(_)))) {
            return Ok(false);
        }
        // A pending Ctrl-C would fire inside the hook and lose the epoch's record.
        let pending = Python::attach(|py| self.hand_over(py).and_then(|()| py.check_signals()));
        self.attached(|hooks, py| {
            let stop = match &hooks.on_epoch {
                Some((_, Some(hook))) => {
                    F::lend(trainer, hooks.id, || hook.call0(py)?.is_truthy(py))?
                }
                _ => false,
            };
            pending?;
            Ok(stop)
        })
    }
}
