//! Data as a fit or an evaluation sees it: foreign arrays that are checked once and then gathered batch by
//! batch into buffers of our own.

use crate::element::Element;
use crate::error::{Error, Result};
use crate::evaluation::Clock;
use crate::lanes;
use crate::loss::{Loss, Target};
use crate::matrix::Buffer;
use crate::source::{Rows, Source};

/// Targets: values (rows x columns) or class labels (rows x 1, integers).
#[derive(Clone, Copy)]
pub enum Targets<'a> {
    Values(Source<'a>),
    Labels(Source<'a>),
}

/// Features with what belongs to them. Targets are absent when a loss outside the core holds them.
#[derive(Clone, Copy)]
pub struct Data<'a> {
    pub x: Source<'a>,
    pub targets: Option<Targets<'a>>,
    pub weights: Option<Source<'a>>,
    pub role: Role,
}

/// What the arrays are for; messages and external losses tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// X and y of a training or an evaluation.
    Main,
    /// X and y that a fit evaluates after each epoch.
    Validation,
    /// Raw outputs and targets of a loss by itself.
    Output,
}

/// What is minimised: a loss of the core, or one that the monitor computes.
#[derive(Clone, Copy)]
pub enum Objective<'a> {
    Core(&'a Loss),
    External,
}

impl Data<'_> {
    pub fn rows(&self) -> usize {
        self.x.rows
    }

    /// What the caller calls an array.
    fn name(&self, array: &str) -> String {
        match (self.role, array) {
            (Role::Main, _) | (Role::Output, "sample_weight") => array.to_owned(),
            (Role::Validation, _) => format!("validation {array}"),
            (Role::Output, "X") => "output".to_owned(),
            (Role::Output, _) => "target".to_owned(),
        }
    }

    /// Checks shapes against a network of `inputs` and `outputs`.
    pub fn check_shapes(
        &self,
        objective: Objective<'_>,
        inputs: usize,
        outputs: usize,
    ) -> Result<()> {
        let rows = self.rows();
        if rows == 0 {
            return Err(Error::shape(self.name("X"), "at least one row", "no rows"));
        }
        if u32::try_from(rows).is_err() {
            return Err(Error::shape(
                self.name("X"),
                "at most 4294967295 rows",
                format!("{rows} rows"),
            ));
        }
        if self.x.cols != inputs {
            return Err(Error::shape(
                self.name("X"),
                format!("{inputs} features (columns)"),
                format!("{} columns", self.x.cols),
            ));
        }
        if let Objective::Core(loss) = objective {
            let width = loss.target_width(outputs)?;
            match &self.targets {
                Some(Targets::Values(y)) if (y.rows, y.cols) != (rows, width) => {
                    return Err(Error::shape(
                        self.name("y"),
                        format!("shape ({rows}, {width})"),
                        format!("({}, {})", y.rows, y.cols),
                    ));
                }
                Some(Targets::Labels(y)) if y.rows != rows => {
                    return Err(Error::shape(
                        self.name("y"),
                        format!("{rows} labels, one for each row of X"),
                        y.rows,
                    ));
                }
                _ => {}
            }
        }
        match &self.weights {
            Some(weights) if weights.rows != rows => Err(Error::shape(
                self.name("sample_weight"),
                format!("{rows} numbers, one for each row of X"),
                weights.rows,
            )),
            _ => Ok(()),
        }
    }

    /// Checks every value: features finite (unless `nan_allowed`), targets what the loss takes, weights finite,
    /// not negative and not all zero. `tick` runs about every 50 ms.
    pub fn check_values<F: Element>(
        &self,
        objective: Objective<'_>,
        outputs: usize,
        nan_allowed: bool,
        tick: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        let mut whole = 0.0;
        let mut clock = Clock::new();
        let mut features = Buffer::<F>::zeroed(self.x.cols)?;
        let mut values = match &self.targets {
            Some(Targets::Values(y)) => Buffer::<F>::zeroed(y.cols)?,
            _ => Buffer::zeroed(0)?,
        };
        for row in 0..self.rows() {
            if clock.due() {
                tick()?;
            }
            self.x.read::<F>(row, 0, &mut features);
            if !nan_allowed {
                check_finite(&features, || self.name("X"), row)?;
            }
            match &self.targets {
                Some(Targets::Values(y)) => {
                    y.read(row, 0, &mut values);
                    check_finite(&values, || self.name("y"), row)?;
                    if let Objective::Core(loss) = objective
                        && let Some(expected) = loss.target_fault(&values)
                    {
                        return Err(Error::argument(
                            self.name("y"),
                            expected,
                            format!("{values:?} in row {row}", values = &values[..]),
                        ));
                    }
                }
                Some(Targets::Labels(y)) => {
                    let mut label = [0.0f64];
                    y.read(row, 0, &mut label);
                    if !(0.0..outputs as f64).contains(&label[0]) {
                        return Err(Error::argument(
                            self.name("y"),
                            format!("class labels from 0 to {}", outputs - 1),
                            format!("{} in row {row}", label[0]),
                        ));
                    }
                }
                None => {}
            }
            if let Some(weights) = &self.weights {
                let mut weight = [0.0f64];
                weights.read(row, 0, &mut weight);
                if !(weight[0] >= 0.0 && weight[0].is_finite()) {
                    return Err(Error::argument(
                        self.name("sample_weight"),
                        "finite numbers, 0 or more",
                        format!("{} in row {row}", weight[0]),
                    ));
                }
                whole += weight[0];
            }
        }
        // Far inside the range of f64, so that products with losses neither vanish nor overflow.
        if self.weights.is_some() && !(1e-200..=1e200).contains(&whole) {
            return Err(Error::argument(
                self.name("sample_weight"),
                "weights with a positive, finite sum, from 1e-200 to 1e200",
                format!("the sum {whole}"),
            ));
        }
        Ok(())
    }
}

fn check_finite<F: Element>(values: &[F], name: impl FnOnce() -> String, row: usize) -> Result<()> {
    match values.iter().position(|value| !value.finite()) {
        None => Ok(()),
        Some(column) => Err(Error::argument(
            name(),
            "finite numbers",
            format!("{} in row {row}, column {column}", values[column]),
        )),
    }
}

/// Buffers for targets and weights of one batch.
pub struct BatchTargets<F: Element> {
    values: Buffer<F>,
    labels: Buffer<u32>,
    weights: Buffer<f64>,
    width: usize,
}

impl<F: Element> BatchTargets<F> {
    pub fn new(data: &Data<'_>, rows: usize) -> Result<Self> {
        let (width, labels) = match &data.targets {
            Some(Targets::Values(y)) => (y.cols, 0),
            Some(Targets::Labels(_)) => (0, rows),
            None => (0, 0),
        };
        Ok(Self {
            values: Buffer::zeroed(width.saturating_mul(rows))?,
            labels: Buffer::zeroed(labels)?,
            weights: Buffer::zeroed(if data.weights.is_some() { rows } else { 0 })?,
            width,
        })
    }

    /// Copies the batch's targets and weights.
    pub fn gather(&mut self, data: &Data<'_>, rows: Rows<'_>) {
        match &data.targets {
            Some(Targets::Values(y)) => y.gather_rows(rows, &mut self.values),
            Some(Targets::Labels(y)) => {
                for (i, label) in self.labels.iter_mut().enumerate().take(rows.len()) {
                    let mut value = [0.0f64];
                    y.read(rows.get(i), 0, &mut value);
                    *label = value[0] as u32;
                }
            }
            None => {}
        }
        if let Some(weights) = &data.weights {
            weights.gather_rows(rows, &mut self.weights);
        }
    }

    pub fn target(&self, rows: usize) -> Target<'_, F> {
        if self.labels.is_empty() {
            Target::Values(&self.values[..rows * self.width])
        } else {
            Target::Labels(&self.labels[..rows])
        }
    }

    pub fn weights(&self, rows: usize) -> Option<&[f64]> {
        (!self.weights.is_empty()).then(|| &self.weights[..rows])
    }

    /// Sum of the batch's weights.
    pub fn whole(&self, rows: usize) -> f64 {
        self.weights(rows)
            .map_or(rows as f64, |w| lanes::sum(w.iter().copied()))
    }
}
