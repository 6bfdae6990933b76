//! Losses of the network's raw output: value and gradient in one pass over row-major rows.
//!
//! A loss is a weighted mean over rows, Σ wᵢ·lᵢ / Σ wᵢ, where lᵢ is the mean over the row's elements (for
//! cross-entropy: the row's negative log-likelihood). The gradient is that of the reported value.

use crate::activation::maximum;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::lanes;
use crate::math::{exp, ln, ln_1p, sigmoid};
use crate::matrix::for_each_block;
use crate::pool;
use crate::simd::kernel;

/// What an element of a loss costs, in multiply-adds of a product.
const WORK: usize = 32;

/// A loss with its options.
#[derive(Debug, Clone, PartialEq)]
pub enum Loss {
    /// (z − y)²
    Mse,
    /// |z − y|
    Mae,
    /// ½d² where |d| < delta, else delta·(|d| − ½delta); d = z − y.
    Huber { delta: f64 },
    /// max(q·d, (q − 1)·d), d = y − z; output column t·Q + j is quantile j of target t.
    Quantile { q: Vec<f64> },
    /// e^z − y·z
    Poisson,
    /// ½(s + (m − y)²·e^−s); the outputs are [means | log-variances].
    GaussianNll,
    /// −log softmax(z)[y], with label smoothing.
    CrossEntropy { label_smoothing: f64 },
    /// (1 − y)·z − (1 + (p − 1)·y)·logsigmoid(z); `pos_weight` p is one number, or one for each output.
    BinaryCrossEntropy { pos_weight: Vec<f64> },
}

/// Targets of a batch: row-major values, or class labels.
#[derive(Clone, Copy)]
pub enum Target<'a, F> {
    Values(&'a [F]),
    Labels(&'a [u32]),
}

impl Loss {
    /// Every name that [`Self::parse`] knows.
    pub const NAMES: [&'static str; 8] = [
        "mse",
        "mae",
        "huber",
        "quantile",
        "poisson",
        "gaussian_nll",
        "cross_entropy",
        "binary_cross_entropy",
    ];

    /// The loss with this name; `options` are delta, the quantiles, the smoothing or the positive weights.
    pub fn parse(name: &str, options: &[f64]) -> Result<Self> {
        let first = |default| options.first().copied().unwrap_or(default);
        let check = |argument: &str, valid: bool, expected: &str| {
            if valid {
                Ok(())
            } else {
                Err(Error::argument(argument, expected, format!("{options:?}")))
            }
        };
        Ok(match name {
            "mse" => Self::Mse,
            "mae" => Self::Mae,
            "huber" => {
                let delta = first(1.0);
                check(
                    "delta",
                    delta > 0.0 && delta.is_finite(),
                    "a positive number",
                )?;
                Self::Huber { delta }
            }
            "quantile" => {
                let inside = options.iter().all(|&q| q > 0.0 && q < 1.0);
                let expected = "one or several numbers strictly between 0 and 1";
                check("q", inside && !options.is_empty(), expected)?;
                Self::Quantile { q: options.into() }
            }
            "poisson" => Self::Poisson,
            "gaussian_nll" => Self::GaussianNll,
            "cross_entropy" => {
                let label_smoothing = first(0.0);
                let valid = (0.0..1.0).contains(&label_smoothing);
                check("label_smoothing", valid, "a number in [0, 1)")?;
                Self::CrossEntropy { label_smoothing }
            }
            "binary_cross_entropy" => {
                let valid = options.iter().all(|&p| p > 0.0 && p.is_finite());
                check("pos_weight", valid, "positive numbers")?;
                Self::BinaryCrossEntropy {
                    pos_weight: options.into(),
                }
            }
            _ => {
                return Err(Error::argument(
                    "loss",
                    format!("one of {}", Self::NAMES.join(", ")),
                    format!("{name:?}"),
                ));
            }
        })
    }

    /// Whether a row's loss is the mean over its elements, each of which depends on one output and one target.
    fn is_elementwise(&self) -> bool {
        matches!(
            self,
            Self::Mse
                | Self::Mae
                | Self::Huber { .. }
                | Self::Poisson
                | Self::BinaryCrossEntropy { .. }
        )
    }

    /// Columns of a target of values for a network with `outputs` outputs.
    pub fn target_width(&self, outputs: usize) -> Result<usize> {
        let refuse =
            |expected: &str| Err(Error::shape("loss", expected, format!("{outputs} outputs")));
        match self {
            Self::Quantile { q } if !outputs.is_multiple_of(q.len()) => refuse(&format!(
                "a network whose number of outputs is a multiple of the {} quantiles",
                q.len()
            )),
            Self::Quantile { q } => Ok(outputs / q.len()),
            Self::GaussianNll if !outputs.is_multiple_of(2) => {
                refuse("a network with an even number of outputs, [means | log-variances]")
            }
            Self::GaussianNll => Ok(outputs / 2),
            Self::CrossEntropy { .. } if outputs < 2 => refuse(
                "a network with at least 2 outputs, one for each class \
                 (for a single output use binary_cross_entropy)",
            ),
            Self::BinaryCrossEntropy { pos_weight }
                if pos_weight.len() > 1 && pos_weight.len() != outputs =>
            {
                refuse(&format!(
                    "as many outputs as there are numbers in pos_weight ({})",
                    pos_weight.len()
                ))
            }
            _ => Ok(outputs),
        }
    }

    /// What is wrong with a row of target values, if anything.
    pub fn target_fault<F: Element>(&self, row: &[F]) -> Option<&'static str> {
        match self {
            Self::Poisson if row.iter().any(|&y| y < F::ZERO) => Some("counts, 0 or more"),
            Self::BinaryCrossEntropy { .. }
                if row.iter().any(|&y| !(F::ZERO..=F::ONE).contains(&y)) =>
            {
                Some("values from 0 to 1")
            }
            Self::CrossEntropy { .. }
                if row.iter().any(|&y| y < F::ZERO)
                    || (row.iter().map(|y| y.to_f64()).sum::<f64>() - 1.0).abs() > 1e-3 =>
            {
                Some("class labels, or rows of probabilities that sum to 1")
            }
            _ => None,
        }
    }

    /// The loss of `rows` rows of `output`; its gradient goes to `d_output` (same shape). `weights` has one number for
    /// each row, `whole` is their sum: positive, and more where the rows are part of a batch, whose losses then add up.
    pub fn value_and_gradient<F: Element>(
        &self,
        output: &[F],
        target: Target<'_, F>,
        weights: Option<&[f64]>,
        whole: f64,
        rows: usize,
        d_output: &mut [F],
    ) -> f64 {
        if rows == 0 {
            return 0.0;
        }
        let outputs = output.len() / rows;
        if let (Target::Values(y), None, 1, true) =
            (target, weights, outputs, self.is_elementwise())
        {
            let mut value = 0.0;
            evaluate_column(self, output, &y[..rows], whole, d_output, &mut value);
            return value;
        }
        let width = self.target_width(outputs).unwrap_or(outputs);
        let work = WORK * output.len();
        let size = rows
            .div_ceil(pool::team(work))
            .next_multiple_of(lanes::COUNT);
        f64::scratch(rows, |terms| {
            let gradient = (&mut d_output[..rows * outputs], size * outputs);
            for_each_block(
                gradient,
                (&mut *terms, size),
                work,
                |block, d_output, terms| {
                    let (first, count) = (block * size, terms.len());
                    let output = &output[first * outputs..][..count * outputs];
                    let target = match target {
                        Target::Values(y) => Target::Values(&y[first * width..][..count * width]),
                        Target::Labels(labels) => Target::Labels(&labels[first..][..count]),
                    };
                    let weights = weights.map(|weights| &weights[first..][..count]);
                    evaluate(self, output, target, weights, whole, d_output, terms);
                },
            );
            lanes::sum(terms.iter().copied()) / whole
        })
    }
}

impl Loss {
    /// The log-loss of probabilities that are rounded and clipped to [ε, 1 − ε], as scikit-learn reports it: weighted,
    /// summed over rows and outputs. None where it is ours but for rounding.
    pub fn of_probabilities<F: Element>(
        &self,
        output: &[F],
        target: Target<'_, F>,
        weights: Option<&[f64]>,
        rows: usize,
    ) -> Option<f64> {
        let outputs = output.len() / rows.max(1);
        let mut sum = 0.0;
        match (self, target) {
            (Self::CrossEntropy { .. }, Target::Labels(labels)) => {
                let near = -ln(F::EPSILON) - 1.0 - ln(outputs as f64);
                let clipped = output.chunks_exact(outputs).zip(labels).any(|(z, &label)| {
                    let label = z[(label as usize).min(outputs - 1)];
                    z.iter().any(|&z| (z - label).to_f64() > near)
                });
                if !clipped {
                    return None;
                }
                categorical_of_probabilities(output, labels, weights, &mut sum);
            }
            (Self::BinaryCrossEntropy { .. }, Target::Values(y)) => {
                binary_of_probabilities(output, &y[..output.len()], weights, outputs, &mut sum);
            }
            _ => return None,
        }
        Some(sum)
    }
}

/// p, or what is nearest to it in [ε, 1 − ε].
#[inline(always)]
fn clipped<F: Element>(p: F) -> F {
    let (least, most) = (F::of(F::EPSILON), F::of(1.0 - F::EPSILON));
    if p < least {
        least
    } else if p > most {
        most
    } else {
        p
    }
}

kernel! {
    fn categorical_of_probabilities[F: Element](
        output: &[F],
        labels: &[u32],
        weights: Option<&[f64]>,
        sum: &mut f64,
    )[F] {
        let outputs = output.len() / labels.len();
        for (row, (z, &label)) in output.chunks_exact(outputs).zip(labels).enumerate() {
            let weight = weights.map_or(1.0, |w| w[row]);
            if weight <= 0.0 {
                continue;
            }
            let mut largest = z[0];
            for &z in z {
                largest = maximum(largest, z);
            }
            let mut whole = F::ZERO;
            for &z in z {
                whole += exp(z - largest);
            }
            let label = z[(label as usize).min(outputs - 1)];
            *sum -= weight * ln(clipped(exp(label - largest) / whole)).to_f64();
        }
    }
}

kernel! {
    fn binary_of_probabilities[F: Element](
        output: &[F],
        target: &[F],
        weights: Option<&[f64]>,
        outputs: usize,
        sum: &mut f64,
    )[F] {
        let mut sums = [0.0; lanes::COUNT];
        let parts = output.chunks(lanes::COUNT).zip(target.chunks(lanes::COUNT));
        for (part, (z, y)) in parts.enumerate() {
            let mut terms = [F::ZERO; lanes::COUNT];
            for ((term, &z), &y) in terms.iter_mut().zip(z).zip(y) {
                // scikit-learn's own formula, whose rounding counts near 1.
                let p = clipped(F::ONE / (F::ONE + exp(-z)));
                *term = y * ln(p) + (F::ONE - y) * ln(F::ONE - p);
            }
            for (i, (lane, term)) in sums.iter_mut().zip(&terms[..z.len()]).enumerate() {
                let weight = weights.map_or(1.0, |w| w[(part * lanes::COUNT + i) / outputs]);
                *lane -= if weight > 0.0 { weight * term.to_f64() } else { 0.0 };
            }
        }
        *sum = lanes::total(sums);
    }
}

/// Index of the first largest value.
pub(crate) fn largest<F: Element>(values: &[F]) -> usize {
    let mut best = 0;
    for (i, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = i;
        }
    }
    best
}

/// Σ weights, or the number of rows.
pub fn weight_sum(weights: Option<&[f64]>, rows: usize) -> f64 {
    weights.map_or(rows as f64, |weights| lanes::sum(weights.iter().copied()))
}

kernel! {
    /// A loss of one column: the rows themselves are the lanes.
    fn evaluate_column[F: Element](
        loss: &Loss,
        output: &[F],
        target: &[F],
        whole: f64,
        d_output: &mut [F],
        value: &mut f64,
    )[F] {
        *value = row_of_values(loss, output, target, d_output) / whole;
        let scale = F::of(1.0 / whole);
        for d in d_output {
            *d *= scale;
        }
    }
}

kernel! {
    /// Weighted loss and gradient of each row, `whole` being the weight of all rows of the batch.
    fn evaluate[F: Element](
        loss: &Loss,
        output: &[F],
        target: Target<'_, F>,
        weights: Option<&[f64]>,
        whole: f64,
        d_output: &mut [F],
        terms: &mut [f64],
    )[F] {
        let rows = terms.len();
        let outputs = output.len() / rows;
        let width = loss.target_width(outputs).unwrap_or(outputs);
        // Elements whose mean is a row's loss.
        let elements = match loss {
            Loss::CrossEntropy { .. } => 1,
            Loss::GaussianNll => width,
            _ => outputs,
        };
        let narrow = match (loss, target) {
            (&Loss::CrossEntropy { label_smoothing: 0.0 }, Target::Labels(labels))
                if outputs <= lanes::COUNT =>
            {
                narrow_cross_entropy(output, labels, weights, whole, d_output, terms)
            }
            _ => 0,
        };
        for row in narrow..rows {
            let weight = weights.map_or(1.0, |w| w[row]);
            let z = &output[row * outputs..(row + 1) * outputs];
            let d = &mut d_output[row * outputs..(row + 1) * outputs];
            let row_loss = match target {
                Target::Labels(labels) => {
                    // Labels were checked; one that its owner changed meanwhile must stay in range.
                    let label = (labels[row] as usize).min(outputs - 1);
                    cross_entropy(loss, z, Goal::Label(label), d).to_f64()
                }
                Target::Values(y) => {
                    let y = &y[row * width..(row + 1) * width];
                    row_of_values(loss, z, y, d)
                }
            };
            if weight > 0.0 {
                let scale = F::of(weight / (whole * elements as f64));
                for d in d {
                    *d *= scale;
                }
                terms[row] = weight * (row_loss / elements as f64);
            } else {
                // A row of weight 0 is absent, whatever its loss.
                d.fill(F::ZERO);
                terms[row] = 0.0;
            }
        }
    }
}

/// Cross-entropy of as many rows as make whole blocks of sixteen, with the rows as lanes: rows of a few elements
/// would leave lanes idle. The same operations in the same order as in [`cross_entropy`], so the same bits. Returns
/// the number of rows done.
#[inline(always)]
fn narrow_cross_entropy<F: Element>(
    output: &[F],
    labels: &[u32],
    weights: Option<&[f64]>,
    whole: f64,
    d_output: &mut [F],
    terms: &mut [f64],
) -> usize {
    const ROWS: usize = lanes::COUNT;
    let outputs = output.len() / labels.len();
    let blocks = labels.len() / ROWS;
    for block in 0..blocks {
        let span = block * ROWS * outputs..(block + 1) * ROWS * outputs;
        let (z, d) = (&output[span.clone()], &mut d_output[span]);
        let labels = &labels[block * ROWS..(block + 1) * ROWS];
        let mut columns = [[F::ZERO; ROWS]; lanes::COUNT];
        for (i, row) in z.chunks_exact(outputs).enumerate() {
            for (column, &z) in columns.iter_mut().zip(row) {
                column[i] = z;
            }
        }
        let mut largest = columns[0];
        for column in &columns[..outputs] {
            for i in 0..ROWS {
                largest[i] = maximum(largest[i], column[i]);
            }
        }
        let mut chosen = [F::ZERO; ROWS];
        for i in 0..ROWS {
            // Labels were checked; one that its owner changed meanwhile must stay in range.
            chosen[i] = columns[(labels[i] as usize).min(outputs - 1)][i] - largest[i];
        }
        for column in &mut columns[..outputs] {
            for i in 0..ROWS {
                column[i] = exp(column[i] - largest[i]);
            }
        }
        let mut sum = [F::ZERO; ROWS];
        for i in 0..ROWS {
            sum[i] = lanes::total(std::array::from_fn(|j| columns[j][i]));
        }
        let mut nll = [F::ZERO; ROWS];
        for i in 0..ROWS {
            nll[i] = ln(sum[i]) - chosen[i];
        }
        let weight: [f64; ROWS] =
            std::array::from_fn(|i| weights.map_or(1.0, |w| w[block * ROWS + i]));
        let mut scale = [F::ZERO; ROWS];
        for i in 0..ROWS {
            scale[i] = F::of(weight[i] / whole);
        }
        for (j, column) in columns[..outputs].iter().enumerate() {
            for i in 0..ROWS {
                let hit = if (labels[i] as usize).min(outputs - 1) == j {
                    F::ONE
                } else {
                    F::ZERO
                };
                let slope = (column[i] / sum[i] - hit) * scale[i];
                d[i * outputs + j] = if weight[i] > 0.0 { slope } else { F::ZERO };
            }
        }
        for (i, term) in terms[block * ROWS..][..ROWS].iter_mut().enumerate() {
            // A row of weight 0 is absent, whatever its loss.
            *term = if weight[i] > 0.0 {
                weight[i] * nll[i].to_f64()
            } else {
                0.0
            };
        }
    }
    blocks * ROWS
}

/// What a row should be under cross-entropy.
enum Goal<'a, F> {
    Label(usize),
    Probabilities(&'a [F]),
}

/// Sum of a loss whose elements are on their own; writes the derivatives. Sixteen elements at a time, one for each lane
/// of the sum; the last ones are filled up with zeros, so that one loop of known length does all of them. A macro,
/// because a closure so large would be called, and be compiled for no instruction set.
macro_rules! elementwise {
    ($z:ident, $y:ident, $d:ident, |$i:pat_param| $function:expr) => {{
        const COUNT: usize = lanes::COUNT;
        let mut sums = [0.0; COUNT];
        let parts = $z
            .chunks(COUNT)
            .zip($y.chunks(COUNT))
            .zip($d.chunks_mut(COUNT));
        for (part, ((outputs, targets), d)) in parts.enumerate() {
            let count = outputs.len();
            let [mut z, mut y] = [[F::ZERO; COUNT]; 2];
            z[..count].copy_from_slice(outputs);
            y[..count].copy_from_slice(&targets[..count]);
            let [mut values, mut slopes] = [[F::ZERO; COUNT]; 2];
            for i in 0..COUNT {
                let ($z, $y, $i) = (z[i], y[i], part * COUNT + i);
                (values[i], slopes[i]) = $function;
            }
            d.copy_from_slice(&slopes[..count]);
            for (sum, value) in sums.iter_mut().zip(&values[..count]) {
                *sum += value.to_f64();
            }
        }
        lanes::total(sums)
    }};
}

/// Sum of the element losses of one row; writes the derivatives.
#[inline(always)]
fn row_of_values<F: Element>(loss: &Loss, z: &[F], y: &[F], d: &mut [F]) -> f64 {
    let half = F::of(0.5);
    match loss {
        Loss::Mse => elementwise!(z, y, d, |_| {
            let e = z - y;
            (e * e, e + e)
        }),
        Loss::Mae => elementwise!(z, y, d, |_| {
            let e = z - y;
            (e.magnitude(), sign(e))
        }),
        Loss::Huber { delta } => {
            let delta = F::of(*delta);
            elementwise!(z, y, d, |_| {
                let e = z - y;
                let size = e.magnitude();
                if size < delta {
                    (half * e * e, e)
                } else {
                    (delta * (size - half * delta), delta * sign(e))
                }
            })
        }
        Loss::Poisson => elementwise!(z, y, d, |_| {
            let rate = exp(z);
            (rate - y * z, rate - y)
        }),
        Loss::BinaryCrossEntropy { pos_weight } => match pos_weight[..] {
            [] => elementwise!(z, y, d, |_| binary(1.0, z, y)),
            [p] => elementwise!(z, y, d, |_| binary(p, z, y)),
            _ => elementwise!(z, y, d, |i| {
                // Past the last output there is nothing that counts.
                binary(pos_weight.get(i).copied().unwrap_or(1.0), z, y)
            }),
        },
        Loss::Quantile { q } => lanes::sum_f64(z.iter().zip(d).enumerate().map(|(i, (&z, d))| {
            let e = y[i / q.len()] - z;
            let q = F::of(q[i % q.len()]);
            let (value, slope) = if e > F::ZERO {
                (q * e, -q)
            } else {
                ((q - F::ONE) * e, F::ONE - q)
            };
            *d = if e == F::ZERO {
                F::ZERO
            } else if e.nan() {
                e
            } else {
                slope
            };
            value
        })),
        Loss::GaussianNll => {
            let count = y.len();
            let (mean, log_variance) = z.split_at(count);
            let (d_mean, d_log_variance) = d.split_at_mut(count);
            lanes::sum_f64((0..count).map(|t| {
                let e = mean[t] - y[t];
                let precision = exp(-log_variance[t]);
                let square = e * e * precision;
                d_mean[t] = e * precision;
                d_log_variance[t] = half * (F::ONE - square);
                half * (log_variance[t] + square)
            }))
        }
        Loss::CrossEntropy { .. } => cross_entropy(loss, z, Goal::Probabilities(y), d).to_f64(),
    }
}

/// Binary cross-entropy of one output and its derivative.
#[inline(always)]
fn binary<F: Element>(pos_weight: f64, z: F, y: F) -> (F, F) {
    let factor = F::ONE + F::of(pos_weight - 1.0) * y;
    let log_sigmoid = -(maximum(-z, F::ZERO) + ln_1p(exp(-z.magnitude())));
    let value = (F::ONE - y) * z - factor * log_sigmoid;
    (value, (F::ONE - y) - factor * sigmoid(-z))
}

/// −1, 0 or 1; NaN for NaN.
#[inline(always)]
fn sign<F: Element>(e: F) -> F {
    if e > F::ZERO {
        F::ONE
    } else if e < F::ZERO {
        -F::ONE
    } else {
        e
    }
}

/// log p = (z − max) − ln Σ e^(z − max); the loss is −Σ t·log p with t the smoothed target, its gradient
/// p·Σt − t.
#[inline(always)]
fn cross_entropy<F: Element>(loss: &Loss, z: &[F], goal: Goal<'_, F>, d: &mut [F]) -> F {
    let Loss::CrossEntropy { label_smoothing } = loss else {
        return F::of(f64::NAN);
    };
    let (keep, spread) = (
        F::of(1.0 - label_smoothing),
        F::of(label_smoothing / z.len() as f64),
    );
    let mut largest = z[0];
    for &z in z {
        largest = maximum(largest, z);
    }
    for (d, &z) in d.iter_mut().zip(z) {
        *d = exp(z - largest);
    }
    let sum = lanes::sum(d.iter().copied());
    let log_sum = ln(sum);
    match goal {
        Goal::Label(label) => {
            let nll = log_sum - (z[label] - largest);
            for d in d.iter_mut() {
                *d = *d / sum - spread;
            }
            d[label] -= keep;
            if *label_smoothing == 0.0 {
                return nll;
            }
            keep * nll + spread * lanes::sum(z.iter().map(|&z| log_sum - (z - largest)))
        }
        Goal::Probabilities(y) => {
            let mass = lanes::sum(y.iter().map(|&y| keep * y + spread));
            let value = lanes::sum(y.iter().zip(z).map(|(&y, &z)| {
                let t = keep * y + spread;
                // 0 · log 0 = 0
                if t == F::ZERO {
                    F::ZERO
                } else {
                    t * (log_sum - (z - largest))
                }
            }));
            for (d, &y) in d.iter_mut().zip(y) {
                *d = *d / sum * mass - (keep * y + spread);
            }
            value
        }
    }
}
