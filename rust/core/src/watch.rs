//! Watching a figure: which epoch was the best, and when it is time to stop.

/// A figure of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// Of training.
    Loss,
    ValidationLoss,
    /// Of the validation, by its place.
    Metric(usize),
    /// What [`crate::evaluation::Monitor::measure`] says of this number.
    External(usize),
}

/// What counts as better.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goal {
    pub figure: Figure,
    /// Whether more is better.
    pub higher: bool,
    /// By how much a figure must be better than the best one.
    pub min_delta: f64,
}

impl Goal {
    /// Whether `value` is better than `best`; a NaN is never, and nothing is worse than none.
    pub fn better(&self, value: f64, best: Option<f64>) -> bool {
        match best {
            None => !value.is_nan(),
            Some(best) if self.higher => value - self.min_delta > best,
            Some(best) => value + self.min_delta < best,
        }
    }
}

/// A goal, and what follows from it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Watch {
    pub goal: Goal,
    /// Epochs without a better figure after which training ends.
    pub patience: Option<u64>,
    /// Whether the network ends with the parameters of the best epoch.
    pub restore: bool,
}

/// The best epoch so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Best {
    pub value: f64,
    pub epoch: u64,
}

/// How far a goal has been reached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    pub best: Option<Best>,
    /// Epochs since then.
    pub waited: u64,
}

impl Progress {
    pub const NONE: Self = Self {
        best: None,
        waited: 0,
    };

    /// Takes an epoch's figure in; says whether it is the best one.
    pub fn observe(&mut self, goal: &Goal, epoch: u64, value: f64) -> bool {
        let better = goal.better(value, self.best.map(|best| best.value));
        if better {
            self.best = Some(Best { value, epoch });
            self.waited = 0;
        } else {
            self.waited += 1;
        }
        better
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_is_by_more_than_the_least_difference_and_never_nan() {
        for higher in [false, true] {
            let goal = Goal {
                figure: Figure::Loss,
                higher,
                min_delta: 0.25,
            };
            let sign = if higher { -1.0 } else { 1.0 };
            let mut progress = Progress::NONE;
            let values = [f64::NAN, 2.0, 1.75, 1.5, f64::NAN, 1.0];
            let better: Vec<bool> = (0..)
                .zip(values)
                .map(|(epoch, value)| progress.observe(&goal, epoch, sign * value))
                .collect();
            assert_eq!(better, [false, true, false, true, false, true]);
            assert_eq!(
                progress.best,
                Some(Best {
                    value: sign,
                    epoch: 5
                })
            );
            assert_eq!(progress.waited, 0);
        }
    }
}
