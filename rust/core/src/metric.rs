//! Figures of an evaluation besides the loss. Sums run in f64 over the rows in order, so they have the same bits
//! whatever the threads.

use crate::element::Element;
use crate::error::{Error, Result};
use crate::loss::{Loss, Target, largest};
use crate::math::{exp, ln, ln_1p, sigmoid};

/// A figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Metric {
    /// Share of the rows whose largest output is that of their class; of the elements on the right side of 0.
    Accuracy,
    /// Share of the rows whose class is among the k largest outputs.
    TopK(usize),
    /// Mean over the classes of the share that is found.
    BalancedAccuracy,
    /// Harmonic mean of precision and recall of the positive class, or the mean over the classes.
    F1,
    /// Probability that a row of a class scores above one of the others; the mean over the classes.
    RocAuc,
    /// −log of the probability of the class.
    LogLoss,
    /// Squared distance of the probabilities from the class.
    Brier,
    /// 1 − Σ(y − ŷ)² / Σ(y − ȳ)², a mean over the outputs.
    R2,
    Mae,
    Mse,
    /// Mean over the outputs of the root of the mean square.
    Rmse,
    /// Quantile loss.
    Pinball(f64),
}

/// What a network's outputs are under a loss.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Classes,
    Bits,
    Values,
}

fn kind(loss: &Loss) -> Kind {
    match loss {
        Loss::CrossEntropy { .. } => Kind::Classes,
        Loss::BinaryCrossEntropy { .. } => Kind::Bits,
        _ => Kind::Values,
    }
}

impl Metric {
    pub const NAMES: [&'static str; 12] = [
        "accuracy",
        "top_k_accuracy",
        "balanced_accuracy",
        "f1",
        "roc_auc",
        "log_loss",
        "brier",
        "r2",
        "mae",
        "mse",
        "rmse",
        "pinball",
    ];

    /// The metric of this name; the option is k, or the quantile.
    pub fn parse(name: &str, option: f64) -> Result<Self> {
        Ok(match name {
            "accuracy" => Self::Accuracy,
            "top_k_accuracy" => Self::TopK(option as usize),
            "balanced_accuracy" => Self::BalancedAccuracy,
            "f1" => Self::F1,
            "roc_auc" => Self::RocAuc,
            "log_loss" => Self::LogLoss,
            "brier" => Self::Brier,
            "r2" => Self::R2,
            "mae" => Self::Mae,
            "mse" => Self::Mse,
            "rmse" => Self::Rmse,
            "pinball" => Self::Pinball(option),
            _ => {
                return Err(Error::argument(
                    "metrics",
                    format!("names among {}", Self::NAMES.join(", ")),
                    format!("{name:?}"),
                ));
            }
        })
    }

    /// Whether the metric has a meaning under a loss.
    pub fn suits(self, loss: &Loss) -> bool {
        match self {
            Self::TopK(_) => kind(loss) == Kind::Classes,
            Self::R2 | Self::Mae | Self::Mse | Self::Rmse | Self::Pinball(_) => {
                kind(loss) == Kind::Values
            }
            _ => kind(loss) != Kind::Values,
        }
    }
}

/// Sums of one metric.
enum Sums {
    /// Weighted mean over rows.
    Rows(f64),
    /// For each class (two for each output of bits): found, there, and said.
    Classes([Vec<f64>; 3]),
    /// Weighted sum for each output.
    Outputs(Vec<f64>),
    /// For each output: mean and squares about it (Welford), and squares of what is left.
    Spread([Vec<f64>; 3]),
    /// Scores row by row, with what is positive and the weights.
    Scores(Vec<f64>, Vec<bool>, Vec<f64>),
}

/// Metrics in the making.
pub struct Tally<'a> {
    metrics: &'a [Metric],
    loss: &'a Loss,
    outputs: usize,
    /// Columns that are predicted.
    width: usize,
    whole: f64,
    sums: Vec<Sums>,
    probabilities: Vec<f64>,
}

impl<'a> Tally<'a> {
    pub fn new(metrics: &'a [Metric], loss: &'a Loss, outputs: usize) -> Self {
        let width = loss.target_width(outputs).unwrap_or(outputs);
        let zeros = |len: usize| vec![0.0; len];
        let classes = if kind(loss) == Kind::Bits {
            2 * outputs
        } else {
            outputs
        };
        let sums = metrics.iter().map(|metric| match metric {
            Metric::BalancedAccuracy | Metric::F1 => {
                Sums::Classes([zeros(classes), zeros(classes), zeros(classes)])
            }
            Metric::RocAuc => Sums::Scores(Vec::new(), Vec::new(), Vec::new()),
            Metric::R2 => Sums::Spread([zeros(width), zeros(width), zeros(width)]),
            Metric::Mae | Metric::Mse | Metric::Rmse | Metric::Pinball(_) => {
                Sums::Outputs(zeros(width))
            }
            _ => Sums::Rows(0.0),
        });
        Self {
            metrics,
            loss,
            outputs,
            width,
            whole: 0.0,
            sums: sums.collect(),
            probabilities: zeros(outputs),
        }
    }

    /// Takes rows in.
    pub fn add<F: Element>(
        &mut self,
        output: &[F],
        target: Target<'_, F>,
        weights: Option<&[f64]>,
    ) {
        for (row, z) in output.chunks_exact(self.outputs).enumerate() {
            let weight = weights.map_or(1.0, |weights| weights[row]);
            if weight == 0.0 {
                continue;
            }
            self.whole += weight;
            match (kind(self.loss), target) {
                (Kind::Values, Target::Values(y)) => {
                    self.add_values(z, &y[row * self.width..][..self.width], weight);
                }
                (Kind::Values, Target::Labels(_)) => {}
                (_, Target::Values(y)) => {
                    let y = &y[row * self.outputs..][..self.outputs];
                    self.add_classes(z, largest(y), |k| y[k].to_f64(), weight);
                }
                (_, Target::Labels(labels)) => {
                    let label = labels[row] as usize;
                    self.add_classes(z, label, |k| f64::from(u8::from(k == label)), weight);
                }
            }
        }
    }

    fn add_classes<F: Element>(
        &mut self,
        z: &[F],
        class: usize,
        target: impl Fn(usize) -> f64,
        weight: f64,
    ) {
        let bits = kind(self.loss) == Kind::Bits;
        let outputs = self.outputs as f64;
        let said = largest(z);
        let z = |k: usize| z[k].to_f64();
        if bits {
            for (k, p) in self.probabilities.iter_mut().enumerate() {
                *p = sigmoid(z(k));
            }
        } else {
            softmax(&mut self.probabilities, z);
        }
        let p = &self.probabilities;
        let all = 0..self.outputs;
        for (metric, sums) in self.metrics.iter().zip(&mut self.sums) {
            match sums {
                Sums::Rows(sum) => {
                    let term: f64 = match metric {
                        Metric::Accuracy if bits => {
                            let right = all.clone().filter(|&k| (z(k) > 0.0) == (target(k) > 0.5));
                            right.count() as f64 / outputs
                        }
                        Metric::Accuracy => f64::from(u8::from(said == class)),
                        Metric::TopK(most) => {
                            let own = z(class);
                            let before = all
                                .clone()
                                .filter(|&k| z(k) > own || z(k) == own && k < class)
                                .count();
                            f64::from(u8::from(before < *most && !own.is_nan()))
                        }
                        Metric::LogLoss if bits => {
                            // −log p = log(1 + e^−z), −log(1 − p) = log(1 + e^z).
                            let term = |k: usize| {
                                target(k) * softplus(-z(k)) + (1.0 - target(k)) * softplus(z(k))
                            };
                            all.clone().map(term).sum::<f64>() / outputs
                        }
                        Metric::LogLoss => {
                            let top = all.clone().map(z).fold(f64::NEG_INFINITY, f64::max);
                            let rest: f64 = all.clone().map(|k| exp(z(k) - top)).sum();
                            let log = ln(rest);
                            let term = |k: usize| target(k) * (log - (z(k) - top));
                            all.clone().filter(|&k| target(k) != 0.0).map(term).sum()
                        }
                        _ => {
                            let distance: f64 = all
                                .clone()
                                .map(|k| (p[k] - target(k)) * (p[k] - target(k)))
                                .sum();
                            if bits { distance / outputs } else { distance }
                        }
                    };
                    *sum += weight * term;
                }
                Sums::Classes([found, there, named]) => {
                    let pairs = if bits { all.clone() } else { 0..1 };
                    for k in pairs {
                        let (actual, guess) = if bits {
                            let bit = |set: bool| 2 * k + usize::from(set);
                            (bit(target(k) > 0.5), bit(z(k) > 0.0))
                        } else {
                            (class, said)
                        };
                        there[actual] += weight;
                        named[guess] += weight;
                        if actual == guess {
                            found[actual] += weight;
                        }
                    }
                }
                Sums::Scores(scores, positive, weights) => {
                    scores.extend(p);
                    positive.extend(
                        all.clone()
                            .map(|k| if bits { target(k) > 0.5 } else { k == class }),
                    );
                    weights.push(weight);
                }
                Sums::Outputs(_) | Sums::Spread(_) => {}
            }
        }
    }

    fn add_values<F: Element>(&mut self, z: &[F], y: &[F], weight: f64) {
        for (metric, sums) in self.metrics.iter().zip(&mut self.sums) {
            for j in 0..self.width {
                let quantile = match metric {
                    Metric::Pinball(q) => *q,
                    _ => 0.5,
                };
                let (said, y) = (prediction(self.loss, z, j, quantile), y[j].to_f64());
                match sums {
                    Sums::Outputs(sums) => {
                        let error = y - said;
                        sums[j] += weight
                            * match metric {
                                Metric::Mae => error.abs(),
                                Metric::Pinball(q) => (q * error).max((q - 1.0) * error),
                                _ => error * error,
                            };
                    }
                    Sums::Spread([mean, squares, left]) => {
                        let distance = y - mean[j];
                        mean[j] += distance * weight / self.whole;
                        squares[j] += weight * distance * (y - mean[j]);
                        left[j] += weight * (y - said) * (y - said);
                    }
                    _ => {}
                }
            }
        }
    }

    /// The figures, in the order of the metrics.
    pub fn figures(&self) -> Vec<f64> {
        let pairs = self.metrics.iter().zip(&self.sums);
        pairs
            .map(|(metric, sums)| self.figure(*metric, sums))
            .collect()
    }

    fn figure(&self, metric: Metric, sums: &Sums) -> f64 {
        let bits = kind(self.loss) == Kind::Bits;
        match sums {
            Sums::Rows(sum) => sum / self.whole,
            Sums::Outputs(sums) => mean(sums.iter().map(|sum| match metric {
                Metric::Rmse => (sum / self.whole).sqrt(),
                _ => sum / self.whole,
            })),
            Sums::Spread([_, squares, left]) => {
                mean(squares.iter().zip(left).map(|(&squares, &left)| {
                    if squares > 0.0 {
                        1.0 - left / squares
                    } else {
                        f64::from(u8::from(left == 0.0))
                    }
                }))
            }
            Sums::Classes([found, there, said]) if metric == Metric::F1 => {
                let classes = (0..found.len()).filter(|class| !bits || class % 2 == 1);
                // A class that is neither there nor said has no score, unless it is the positive one.
                let known = classes.filter(|&class| bits || there[class] + said[class] > 0.0);
                mean(known.map(|class| {
                    let all = there[class] + said[class];
                    if all > 0.0 {
                        2.0 * found[class] / all
                    } else {
                        0.0
                    }
                }))
            }
            Sums::Classes([found, there, _]) => {
                let group = if bits { 2 } else { found.len() };
                let recalls = found.chunks(group).zip(there.chunks(group));
                mean(recalls.map(|(found, there)| {
                    let known = found.iter().zip(there).filter(|(_, there)| **there > 0.0);
                    mean(known.map(|(found, there)| found / there))
                }))
            }
            Sums::Scores(scores, positive, weights) => {
                // Of two classes one says all.
                let columns = match (bits, self.outputs) {
                    (false, 2) => 1..2,
                    (_, outputs) => 0..outputs,
                };
                let areas = columns.map(|column| {
                    let every = self.outputs;
                    let mut rows: Vec<(f64, bool, f64)> = (0..weights.len())
                        .map(|row| {
                            let at = row * every + column;
                            (scores[at], positive[at], weights[row])
                        })
                        .collect();
                    area(&mut rows)
                });
                mean(areas.filter(|area| !area.is_nan()))
            }
        }
    }
}

/// The mean, NaN of none.
fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for value in values {
        sum += value;
        count += 1.0;
    }
    sum / count
}

fn softplus(z: f64) -> f64 {
    z.max(0.0) + ln_1p(exp(-z.abs()))
}

fn softmax(p: &mut [f64], z: impl Fn(usize) -> f64) {
    let top = (0..p.len()).map(&z).fold(f64::NEG_INFINITY, f64::max);
    let mut whole = 0.0;
    for (k, p) in p.iter_mut().enumerate() {
        *p = exp(z(k) - top);
        whole += *p;
    }
    for p in p {
        *p /= whole;
    }
}

/// What a row says of target j: its mean, or the quantile nearest to q.
fn prediction<F: Element>(loss: &Loss, z: &[F], j: usize, q: f64) -> f64 {
    match loss {
        Loss::Poisson => exp(z[j].to_f64()),
        Loss::Quantile { q: quantiles } => {
            let mut best = 0;
            for (i, quantile) in quantiles.iter().enumerate() {
                if (quantile - q).abs() < (quantiles[best] - q).abs() {
                    best = i;
                }
            }
            z[j * quantiles.len() + best].to_f64()
        }
        _ => z[j].to_f64(),
    }
}

/// Area under the curve of (score, positive, weight): of equal scores half counts. NaN without both kinds.
fn area(rows: &mut [(f64, bool, f64)]) -> f64 {
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut sum, mut positives) = (0.0, 0.0, 0.0);
    for group in rows.chunk_by(|a, b| a.0 == b.0) {
        let weigh = |kind: bool| -> f64 {
            group
                .iter()
                .filter(|row| row.1 == kind)
                .map(|row| row.2)
                .sum()
        };
        let (positive, negative) = (weigh(true), weigh(false));
        sum += positive * (below + 0.5 * negative);
        below += negative;
        positives += positive;
    }
    sum / (positives * below)
}
