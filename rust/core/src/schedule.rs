//! Learning rates over time: functions of the steps done, or of the epochs begun, in f64.

use crate::error::{Error, Result};
use crate::math::{cos_pi, power};

/// Where a training is: steps done and epochs ended before the step whose rate is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time {
    pub step: u64,
    pub epoch: u64,
}

/// What a schedule counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    Step,
    Epoch,
}

impl Per {
    pub const NAMES: [&'static str; 2] = ["step", "epoch"];

    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "step" => Ok(Self::Step),
            "epoch" => Ok(Self::Epoch),
            _ => Err(Error::argument(
                "per",
                Self::NAMES.join(" or "),
                format!("{name:?}"),
            )),
        }
    }

    fn count(self, time: Time) -> u64 {
        match self {
            Self::Step => time.step,
            Self::Epoch => time.epoch,
        }
    }
}

/// The rate γ at time t, counted in `per`.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    pub rule: Rule,
    pub per: Per,
}

/// The functions of t.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    /// rate
    Constant { rate: f64 },
    /// rate · factor^⌊t / every⌋
    Step { rate: f64, every: u64, factor: f64 },
    /// rate · factor^(t / every)
    Exponential { rate: f64, every: u64, factor: f64 },
    /// end + (rate − end)(1 − min(t, steps) / steps)^power
    Polynomial {
        rate: f64,
        end: f64,
        steps: u64,
        power: f64,
    },
    /// end + (rate − end)(1 + cos(π·t / steps)) / 2. With `restarts` r > 0 it begins anew after `steps`, then after
    /// r times as many, and so on (Loshchilov and Hutter 2017, SGDR); else it stays at `end`.
    Cosine {
        rate: f64,
        end: f64,
        steps: u64,
        restarts: f64,
    },
    /// From `start` to `rate` over the first `warmup` of the steps, then to `end`, along half cosines (Smith and
    /// Topin 2018).
    OneCycle {
        rate: f64,
        start: f64,
        end: f64,
        steps: u64,
        warmup: f64,
    },
    /// rate / (t + 1)^power
    InverseScaling { rate: f64, power: f64 },
    /// From `start` in a straight line to what `then` begins with, over `steps`; then `then`, whose time begins there
    /// where it counts the same.
    Warmup {
        start: f64,
        steps: u64,
        then: Box<Schedule>,
    },
    /// rate, lowered when a figure has not become better; what is left of it is the trainer's to remember.
    Plateau(Plateau),
    /// A function of the caller's.
    External,
}

/// The options of a rate that is lowered on a plateau.
#[derive(Debug, Clone, PartialEq)]
pub struct Plateau {
    pub rate: f64,
    pub factor: f64,
    /// Epochs without a better figure after which the rate is lowered.
    pub patience: u64,
    /// Epochs after a lowering that do not count.
    pub cooldown: u64,
    pub min_rate: f64,
}

impl Schedule {
    pub fn constant(rate: f64) -> Self {
        Self {
            rule: Rule::Constant { rate },
            per: Per::Step,
        }
    }

    /// The rate at a time; that of a plateau before it was lowered, and of a function of the caller's what `external`
    /// says.
    pub fn rate(&self, time: Time, external: &mut impl FnMut(u64) -> Result<f64>) -> Result<f64> {
        let t = self.per.count(time);
        Ok(match self.rule {
            Rule::Constant { rate } => rate,
            Rule::Step {
                rate,
                every,
                factor,
            } => rate * power(factor, (t / every) as f64),
            Rule::Exponential {
                rate,
                every,
                factor,
            } => rate * power(factor, t as f64 / every as f64),
            Rule::Polynomial {
                rate,
                end,
                steps,
                power: exponent,
            } => {
                let left = 1.0 - t.min(steps) as f64 / steps as f64;
                end + (rate - end) * power(left, exponent)
            }
            Rule::Cosine {
                rate,
                end,
                steps,
                restarts,
            } => {
                let (passed, cycle) = cycle(t, steps, restarts);
                anneal(rate, end, passed / cycle)
            }
            Rule::OneCycle {
                rate,
                start,
                end,
                steps,
                warmup,
            } => {
                // The first step is at 0, the last one at steps − 1.
                let (peak, last) = (warmup * steps as f64 - 1.0, steps as f64 - 1.0);
                let t = (t as f64).min(last);
                if t <= peak {
                    anneal(start, rate, if peak > 0.0 { t / peak } else { 1.0 })
                } else {
                    anneal(rate, end, (t - peak) / (last - peak))
                }
            }
            Rule::InverseScaling {
                rate,
                power: exponent,
            } => rate / power((t + 1) as f64, exponent),
            Rule::Warmup {
                start,
                steps,
                ref then,
            } => {
                let zero = Time { step: 0, epoch: 0 };
                if t < steps {
                    let first = then.rate(zero, external)?;
                    start + (first - start) * (t as f64 / steps as f64)
                } else {
                    let mut time = time;
                    match (self.per == then.per, self.per) {
                        (false, _) => {}
                        (true, Per::Step) => time.step -= steps,
                        (true, Per::Epoch) => time.epoch -= steps,
                    }
                    then.rate(time, external)?
                }
            }
            Rule::Plateau(ref plateau) => plateau.rate,
            Rule::External => external(t)?,
        })
    }

    /// The plateau that the schedule ends in.
    pub fn plateau(&self) -> Option<&Plateau> {
        match &self.rule {
            Rule::Plateau(plateau) => Some(plateau),
            Rule::Warmup { then, .. } => then.plateau(),
            _ => None,
        }
    }
}

/// From `from` at 0 to `to` at 1 along half a cosine.
fn anneal(from: f64, to: f64, at: f64) -> f64 {
    to + (from - to) * (0.5 * (1.0 + cos_pi(at)))
}

/// How far t is into its cycle, and how long that is.
fn cycle(t: u64, steps: u64, restarts: f64) -> (f64, f64) {
    let (mut passed, mut cycle) = (t as f64, steps as f64);
    if restarts == 0.0 {
        return (passed.min(cycle), cycle);
    }
    if restarts == 1.0 {
        return ((t % steps) as f64, cycle);
    }
    while passed >= cycle {
        passed -= cycle;
        cycle *= restarts;
    }
    (passed, cycle)
}

/// How a rate on a plateau stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlateauState {
    /// Factor of the rate.
    pub scale: f64,
    /// Epochs since the figure was better.
    pub waited: u64,
    /// Epochs that do not count yet.
    pub rest: u64,
}

impl PlateauState {
    pub const START: Self = Self {
        scale: 1.0,
        waited: 0,
        rest: 0,
    };

    /// After an epoch whose figure was better than all before, or not.
    pub fn observe(&mut self, plateau: &Plateau, better: bool) {
        if better {
            self.waited = 0;
        } else {
            self.waited += 1;
        }
        if self.rest > 0 {
            self.rest -= 1;
            self.waited = 0;
        }
        if self.waited >= plateau.patience {
            self.scale = (self.scale * plateau.factor).max(plateau.min_rate / plateau.rate);
            self.rest = plateau.cooldown;
            self.waited = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(rule: Rule, times: &[u64]) -> Vec<f64> {
        let schedule = Schedule {
            rule,
            per: Per::Step,
        };
        let mut none = |_| Ok(f64::NAN);
        let rate = |&step: &u64| schedule.rate(Time { step, epoch: 0 }, &mut none).unwrap();
        times.iter().map(rate).collect()
    }

    #[test]
    fn cosines_begin_anew_and_stay_inside_their_ends() {
        let cosine = |restarts| Rule::Cosine {
            rate: 1.0,
            end: 0.5,
            steps: 4,
            restarts,
        };
        assert_eq!(rates(cosine(0.0), &[0, 2, 4, 9]), [1.0, 0.75, 0.5, 0.5]);
        assert_eq!(rates(cosine(1.0), &[0, 4, 6, 8]), [1.0, 1.0, 0.75, 1.0]);
        // Cycles of 4, 8 and 16 steps.
        assert_eq!(rates(cosine(2.0), &[4, 8, 12, 20]), [1.0, 0.75, 1.0, 0.75]);
    }

    #[test]
    fn a_warmup_hands_over_where_it_ends() {
        let then = Schedule {
            rule: Rule::Step {
                rate: 1.0,
                every: 2,
                factor: 0.5,
            },
            per: Per::Step,
        };
        let warm = Rule::Warmup {
            start: 0.0,
            steps: 4,
            then: Box::new(then),
        };
        let expected = [0.0, 0.25, 0.75, 1.0, 1.0, 0.5, 0.25];
        assert_eq!(rates(warm, &[0, 1, 3, 4, 5, 6, 8]), expected);
    }

    #[test]
    fn a_plateau_bears_patience_rests_and_ends_at_the_least_rate() {
        let plateau = Plateau {
            rate: 1.0,
            factor: 0.5,
            patience: 2,
            cooldown: 1,
            min_rate: 0.3,
        };
        let mut state = PlateauState::START;
        let mut scales = Vec::new();
        for better in [true, false, false, false, false, false, true, false, false] {
            state.observe(&plateau, better);
            scales.push(state.scale);
        }
        // The third and the sixth epoch are the second ones that count without a better figure.
        assert_eq!(scales, [1.0, 1.0, 0.5, 0.5, 0.5, 0.3, 0.3, 0.3, 0.3]);
    }
}
