//! Data as a fit or an evaluation sees it: foreign arrays that are checked once and then gathered batch by
//! batch into buffers of our own.

use std::ops::Range;

use crate::element::Element;
use crate::error::{Error, Result};
use crate::evaluation::Clock;
use crate::layers::standardize::add_moments;
use crate::loss::{Loss, Target, weight_sum};
use crate::matrix::Buffer;
use crate::rng::{self, Purpose, Stream};
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
    /// Targets and weights as the caller has them, which those above need not be: what [`Moments`] are taken of.
    pub given: (Option<Source<'a>>, Option<Source<'a>>),
    pub role: Role,
    /// Those rows of the arrays alone.
    pub rows: Option<&'a [u32]>,
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
    /// A block, by its number in its source.
    Block { number: u64, validation: bool },
}

impl Role {
    /// Whether it is evaluated after an epoch.
    pub fn validates(self) -> bool {
        matches!(
            self,
            Self::Validation
                | Self::Block {
                    validation: true,
                    ..
                }
        )
    }
}

/// What a fit or an evaluation goes through.
#[derive(Clone, Copy)]
#[allow(clippy::large_enum_variant, reason = "there is one for each call")]
pub enum Feed<'a> {
    Arrays(Data<'a>),
    /// What [`Monitor::block`](crate::evaluation::Monitor::block) gives, block by block.
    Blocks,
}

impl<'a> Feed<'a> {
    pub fn arrays(&self) -> Option<&Data<'a>> {
        match self {
            Self::Arrays(data) => Some(data),
            Self::Blocks => None,
        }
    }
}

/// Arrays that live as long as a block is needed.
pub trait Block {
    fn data(&self) -> Data<'_>;
    /// Whether its values have been checked before.
    fn checked(&self) -> bool {
        false
    }
}

/// What is minimised: a loss of the core, or one that the monitor computes.
#[derive(Clone, Copy)]
pub enum Objective<'a> {
    Core(&'a Loss),
    External,
}

impl<'a> Data<'a> {
    /// All rows, to train on or to evaluate.
    pub fn new(
        x: Source<'a>,
        targets: Option<Targets<'a>>,
        weights: Option<Source<'a>>,
        role: Role,
    ) -> Self {
        let values = match targets {
            Some(Targets::Values(values)) => Some(values),
            _ => None,
        };
        Self {
            x,
            targets,
            weights,
            given: (values, weights),
            role,
            rows: None,
        }
    }
}

impl Data<'_> {
    /// Number of rows.
    pub fn count(&self) -> usize {
        self.rows.map_or(self.x.rows, <[u32]>::len)
    }

    /// Where `count` rows from `first` on lie in the arrays.
    pub fn range(&self, first: usize, count: usize) -> Rows<'_> {
        match self.rows {
            Some(rows) => Rows::Picked(&rows[first..first + count]),
            None => Rows::Range { first, count },
        }
    }

    /// What the caller calls an array.
    fn name(&self, array: &str) -> String {
        match (self.role, array) {
            (Role::Main, _) | (Role::Output, "sample_weight") => array.to_owned(),
            (Role::Validation, _) => format!("validation {array}"),
            (Role::Block { number, validation }, _) => {
                let part = if validation { "validation " } else { "" };
                format!("{part}{array} of block {number}")
            }
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
        let rows = self.x.rows;
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

    /// Checks shapes and values of what is trained on or evaluated.
    pub fn check<F: Element>(
        &self,
        objective: Objective<'_>,
        inputs: usize,
        outputs: usize,
        tick: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        self.check_shapes(objective, inputs, outputs)?;
        self.check_values::<F>(objective, outputs, false, tick)
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
        for row in 0..self.x.rows {
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
        // Far inside the range of f64, so that products with losses neither vanish nor overflow. A block may weigh
        // nothing.
        let none = whole == 0.0 && matches!(self.role, Role::Block { .. });
        if self.weights.is_some() && !(1e-200..=1e200).contains(&whole) && !none {
            return Err(Error::argument(
                self.name("sample_weight"),
                "weights with a positive, finite sum, from 1e-200 to 1e200",
                format!("the sum {whole}"),
            ));
        }
        Ok(())
    }
}

/// Most rows of a source that are measured together, and most numbers, which the cache holds.
const ROWS: usize = 64;
const VALUES: usize = 1 << 14;

/// Mean and biased variance of columns, over rows that count by their weights.
pub struct Moments {
    pub mean: Buffer<f64>,
    pub var: Buffer<f64>,
    /// Weight and number of the rows.
    whole: f64,
    present: f64,
}

impl Moments {
    /// Those of the columns of `source`. Rows are added in order, in f64, once for the means and once more
    /// about them, which mends what rounding left of both. `tick` runs about every 50 ms.
    pub fn of(
        source: &Source<'_>,
        weights: Option<&Source<'_>>,
        rows: Rows<'_>,
        tick: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Self> {
        let cols = source.cols;
        let block_rows = (VALUES / cols.max(1)).clamp(1, ROWS);
        let mut values = Buffer::<f64>::zeroed(block_rows.saturating_mul(cols))?;
        let mut shares = [1.0; ROWS];
        let (mut whole, mut present) = (rows.len() as f64, rows.len() as f64);
        if let Some(weights) = weights {
            (whole, present) = (0.0, 0.0);
            for block in rows.blocks(ROWS) {
                weights.gather_rows(block, &mut shares);
                for &weight in shares.iter().take(block.len()).filter(|&&w| w > 0.0) {
                    whole += weight;
                    present += 1.0;
                }
            }
        }
        let mut found = Self {
            mean: Buffer::zeroed(cols)?,
            var: Buffer::zeroed(cols)?,
            whole,
            present,
        };
        if whole <= 0.0 {
            return Ok(found);
        }
        let divisor = if weights.is_some() { 1.0 } else { whole };
        let mut clock = Clock::new();
        let mut about = |center: &[f64]| -> Result<[Buffer<f64>; 2]> {
            let [mut firsts, mut seconds] = [Buffer::zeroed(cols)?, Buffer::zeroed(cols)?];
            for block in rows.blocks(block_rows) {
                if clock.due() {
                    tick()?;
                }
                let values = &mut values[..block.len() * cols];
                source.gather_rows(block, values);
                let shares = &mut shares[..block.len()];
                if let Some(weights) = weights {
                    weights.gather_rows(block, shares);
                    for share in &mut *shares {
                        *share /= whole;
                    }
                }
                add_moments(shares, center, values, &mut firsts, &mut seconds);
            }
            for sum in firsts.iter_mut().chain(seconds.iter_mut()) {
                *sum /= divisor;
            }
            Ok([firsts, seconds])
        };
        let [mean, _] = about(&found.mean)?;
        let [rest, var] = about(&mean)?;
        for column in 0..cols {
            found.mean[column] = mean[column] + rest[column];
            found.var[column] = var[column] - rest[column] * rest[column];
        }
        Ok(found)
    }

    /// Takes those of other rows in (Chan, Golub and LeVeque 1983).
    pub fn merge(&mut self, other: &Self) {
        if other.whole <= 0.0 {
            return;
        }
        let share = other.whole / (self.whole + other.whole);
        for (column, mean) in self.mean.iter_mut().enumerate() {
            let apart = other.mean[column] - *mean;
            let var = &mut self.var[column];
            *var = (1.0 - share) * *var
                + share * other.var[column]
                + share * (1.0 - share) * apart * apart;
            *mean += share * apart;
        }
        self.whole += other.whole;
        self.present += other.present;
    }

    /// What a layer takes: a column counts as constant, and has the variance 1 or more, where the variance is within the error
    /// bound of the textbook algorithm, as in scikit-learn's `StandardScaler`.
    pub fn finish<F: Element>(mut self, name: &str) -> Result<Self> {
        if self.whole <= 0.0 {
            return Err(Error::argument(
                "sample_weight",
                "a positive weight among the rows to train on",
                "none",
            ));
        }
        for (column, var) in self.var.iter_mut().enumerate() {
            let mean = self.mean[column];
            let rounding = self.present * f64::EPSILON;
            if *var <= rounding * *var + (rounding * mean) * (rounding * mean) {
                // A constant that F cannot hold leaves a rest, which is to vanish.
                let rest = 1e3 * (mean - F::of(mean).to_f64());
                *var = (rest * rest).clamp(1.0, 1e38);
            }
            let rounded = F::of(*var);
            if !(rounded >= F::MIN_POSITIVE && rounded.finite() && F::of(mean).finite()) {
                return Err(Error::argument(
                    name,
                    format!("columns whose mean and variance {} can hold", F::NAME),
                    format!("{mean:e} and {var:e} in column {column}"),
                ));
            }
        }
        Ok(self)
    }
}

/// How to hold rows out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Split {
    /// Share of the rows that is held out.
    pub fraction: f64,
    pub seed: u64,
}

impl Split {
    /// The rows to train on and those held out, both ascending: of each class, where targets are labels, as many as
    /// its share of the rows asks for; else of all. Which ones, a permutation says.
    pub fn of(&self, data: &Data<'_>) -> Result<(Buffer<u32>, Buffer<u32>)> {
        let rows = data.x.rows;
        let labels = match &data.targets {
            Some(Targets::Labels(labels)) => Some(labels),
            _ => None,
        };
        let class = |row: usize| {
            labels.map_or(0, |labels| {
                let mut label = [0.0f64];
                labels.read(row, 0, &mut label);
                label[0] as usize
            })
        };
        let mut sizes = Vec::new();
        for row in 0..rows {
            let class = class(row);
            if class >= sizes.len() {
                sizes.resize(class + 1, 0usize);
            }
            sizes[class] += 1;
        }
        let mut wanted = self.shares(rows, &sizes);
        let held = wanted.iter().sum();
        let mut order = Buffer::zeroed(rows)?;
        rng::permute(&mut order, Stream::new(self.seed, Purpose::Split, 0, 0));
        let mut out = Buffer::<u32>::zeroed(held)?;
        let mut place = out.iter_mut();
        for &row in order.iter() {
            let wanted = &mut wanted[class(row as usize)];
            if *wanted > 0 {
                *wanted -= 1;
                if let Some(place) = place.next() {
                    *place = row;
                }
            }
        }
        out.sort_unstable();
        let mut rest = Buffer::<u32>::zeroed(rows - held)?;
        let mut skip = out.iter().copied().peekable();
        let left = (0..rows as u32).filter(|&row| skip.next_if_eq(&row).is_none());
        for (place, row) in rest.iter_mut().zip(left) {
            *place = row;
        }
        Ok((rest, out))
    }

    /// How many rows of each class to hold out: the whole, rounded, by largest remainders; of equal ones the first
    /// class has it.
    fn shares(&self, rows: usize, sizes: &[usize]) -> Vec<usize> {
        let whole = (rows as f64 * self.fraction).round() as usize;
        let exact = |size: usize| size as f64 * self.fraction;
        let mut shares: Vec<usize> = sizes.iter().map(|&size| exact(size) as usize).collect();
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        let remainder = |class: &usize| exact(sizes[*class]) - shares[*class] as f64;
        order.sort_by(|a, b| remainder(b).total_cmp(&remainder(a)));
        let missing = whole.saturating_sub(shares.iter().sum());
        for &class in order.iter().take(missing) {
            shares[class] += 1;
        }
        shares
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

    /// Whether this has the place for batches of this data.
    pub fn suits(&self, data: &Data<'_>) -> bool {
        let width = match &data.targets {
            Some(Targets::Values(y)) => y.cols,
            _ => 0,
        };
        let labels = matches!(data.targets, Some(Targets::Labels(_)));
        self.width == width
            && self.labels.is_empty() != labels
            && self.weights.is_empty() != data.weights.is_some()
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

    /// Targets of some rows of the batch.
    pub fn target(&self, rows: Range<usize>) -> Target<'_, F> {
        if self.labels.is_empty() {
            Target::Values(&self.values[rows.start * self.width..rows.end * self.width])
        } else {
            Target::Labels(&self.labels[rows])
        }
    }

    pub fn weights(&self, rows: Range<usize>) -> Option<&[f64]> {
        (!self.weights.is_empty()).then(|| &self.weights[rows])
    }

    /// Sum of the first rows' weights.
    pub fn whole(&self, rows: usize) -> f64 {
        weight_sum(self.weights(0..rows), rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_takes_of_each_class_its_share_and_every_row_once() {
        for sizes in [vec![10], vec![50, 50], vec![97, 1, 2], vec![33, 0, 34, 7]] {
            for fraction in [0.0, 0.1, 0.25, 0.5, 0.9] {
                let labels: Vec<f64> = (0..)
                    .zip(&sizes)
                    .flat_map(|(class, &size)| vec![f64::from(class); size])
                    .collect();
                let rows = labels.len();
                let column = Source::from_slice(&labels, rows, 1);
                let data = Data::new(column, Some(Targets::Labels(column)), None, Role::Main);
                let (rest, out) = Split { fraction, seed: 7 }.of(&data).unwrap();
                let mut all: Vec<u32> = rest.iter().chain(out.iter()).copied().collect();
                assert!(rest.is_sorted() && out.is_sorted());
                all.sort_unstable();
                assert!(all.iter().copied().eq(0..rows as u32));
                assert_eq!(out.len(), (rows as f64 * fraction).round() as usize);
                for (class, &size) in sizes.iter().enumerate() {
                    let held = out
                        .iter()
                        .filter(|&&row| labels[row as usize] == class as f64)
                        .count();
                    assert!((held as f64 - size as f64 * fraction).abs() < 1.0);
                }
            }
        }
    }
}
