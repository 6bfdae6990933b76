//! The line search of Moré and Thuente (ACM Transactions on Mathematical Software 20, 1994) with the details of its
//! authors' code (MINPACK-2, dcsrch), which L-BFGS-B and SciPy use: a step that lowers the loss enough and leaves little
//! of the slope,
//!
//! φ(a) ≤ φ(0) + 10⁻³·a·φ'(0)   and   |φ'(a)| ≤ 0.9·|φ'(0)|.

use crate::error::Result;

const DECREASE: f64 = 1e-3;
const CURVATURE: f64 = 0.9;
/// Relative width of an interval that is not worth dividing.
const NARROW: f64 = 0.1;
pub(crate) const LONGEST: f64 = 1e10;

/// A step with the loss and the slope there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Point {
    pub step: f64,
    pub loss: f64,
    pub slope: f64,
}

impl Point {
    /// The same point of φ(a) − slope·a.
    fn tilted(self, slope: f64) -> Self {
        Self {
            loss: self.loss - self.step * slope,
            slope: self.slope - slope,
            ..self
        }
    }
}

/// An interval that holds an acceptable step, once it is bracketed: its best point and its other end.
#[derive(Clone, Copy)]
struct Interval {
    best: Point,
    other: Point,
    bracketed: bool,
    /// Between which the next step lies.
    low: f64,
    high: f64,
}

impl Interval {
    /// Whether nothing new lies between the ends.
    fn spent(&self, step: f64) -> bool {
        let inside = self.low < step && step < self.high;
        self.bracketed && (!inside || self.high - self.low <= NARROW * self.high)
    }

    fn tilted(self, slope: f64) -> Self {
        Self {
            best: self.best.tilted(slope),
            other: self.other.tilted(slope),
            ..self
        }
    }
}

/// The accepted point, or none after so many evaluations without one. `start` is the point of step 0, of negative slope;
/// the last evaluation is that of the accepted point.
pub(crate) fn search(
    start: Point,
    first: f64,
    evaluations: u64,
    phi: &mut dyn FnMut(f64) -> Result<Point>,
) -> Result<Option<Point>> {
    let enough = DECREASE * start.slope;
    let mut interval = Interval {
        best: start,
        other: start,
        bracketed: false,
        low: 0.0,
        high: 5.0 * first,
    };
    // Until the loss is low enough where the slope has turned, the decrease itself is what is looked for.
    let mut seeking_decrease = true;
    let (mut width, mut width_before) = (LONGEST, 2.0 * LONGEST);
    let mut step = first;
    for _ in 0..evaluations {
        let trial = phi(step)?;
        if !(trial.loss.is_finite() && trial.slope.is_finite()) {
            // Beyond what can be computed: half the way back. SciPy gives up here.
            step = 0.5 * (interval.best.step + step);
            continue;
        }
        let most = start.loss + step * enough;
        let lower = trial.loss <= most;
        if seeking_decrease && lower && trial.slope >= 0.0 {
            seeking_decrease = false;
        }
        let farthest = step == LONGEST && lower && trial.slope <= enough;
        let nowhere = step == 0.0 && (!lower || trial.slope >= enough);
        let flat = lower && trial.slope.abs() <= CURVATURE * -start.slope;
        if interval.spent(step) || farthest || nowhere || flat {
            return Ok(Some(trial));
        }
        if seeking_decrease && !lower && trial.loss <= interval.best.loss {
            let tilted = interval.tilted(enough);
            (step, interval) = next(tilted, trial.tilted(enough));
            interval = interval.tilted(-enough);
        } else {
            (step, interval) = next(interval, trial);
        }
        let (best, other) = (interval.best.step, interval.other.step);
        if interval.bracketed {
            if (other - best).abs() >= 0.66 * width_before {
                step = best + 0.5 * (other - best);
            }
            (width_before, width) = (width, (other - best).abs());
            (interval.low, interval.high) = (best.min(other), best.max(other));
        } else {
            interval.low = step + 1.1 * (step - best);
            interval.high = step + 4.0 * (step - best);
        }
        step = step.clamp(0.0, LONGEST);
        if interval.spent(step) {
            step = best;
        }
    }
    Ok(None)
}

/// The step to try next, from cubics and quadratics through losses and slopes, and the interval with the trial in it.
fn next(interval: Interval, trial: Point) -> (f64, Interval) {
    let Interval {
        best,
        other,
        bracketed,
        low,
        high,
    } = interval;
    if trial.loss > best.loss {
        // Higher, so there is a minimum between: the cubic's, if it is nearer to the best point.
        let cubic = cubic(best, trial, trial.step < best.step);
        let fall = (best.loss - trial.loss) / (trial.step - best.step);
        let half = best.slope / (fall + best.slope) / 2.0;
        let quadratic = best.step + half * (trial.step - best.step);
        let step = if (cubic - best.step).abs() <= (quadratic - best.step).abs() {
            cubic
        } else {
            cubic + (quadratic - cubic) / 2.0
        };
        let interval = Interval {
            other: trial,
            bracketed: true,
            ..interval
        };
        return (step, interval);
    }
    let ratio = trial.slope / (trial.slope - best.slope);
    let secant = trial.step + ratio * (best.step - trial.step);
    let forward = trial.step > best.step;
    let after = Interval {
        best: trial,
        ..interval
    };
    if trial.slope > 0.0 && best.slope < 0.0 || trial.slope < 0.0 && best.slope > 0.0 {
        // Lower, and the slope has turned: between again, at what is farther from the trial.
        let cubic = cubic(trial, best, forward);
        let farther = (cubic - trial.step).abs() > (secant - trial.step).abs();
        let interval = Interval {
            other: best,
            bracketed: true,
            ..after
        };
        return (if farther { cubic } else { secant }, interval);
    }
    let end = if forward { high } else { low };
    let step = if trial.slope.abs() < best.slope.abs() {
        // Lower and less steep: the cubic's minimum if it lies ahead, else as far as is allowed.
        let ahead = cubic_ahead(best, trial).unwrap_or(end);
        let distance = (ahead - trial.step).abs();
        let to_secant = (secant - trial.step).abs();
        if bracketed {
            let step = if distance < to_secant { ahead } else { secant };
            let limit = trial.step + 0.66 * (other.step - trial.step);
            if forward {
                limit.min(step)
            } else {
                limit.max(step)
            }
        } else {
            let step = if distance > to_secant { ahead } else { secant };
            step.max(low).min(high)
        }
    } else if bracketed {
        // Lower and no less steep.
        cubic(trial, other, trial.step > other.step)
    } else {
        end
    };
    (step, after)
}

/// θ of the cubic through a and b, a scale for it, and the root of its discriminant.
fn bend(a: Point, b: Point) -> (f64, f64) {
    let theta = 3.0 * (a.loss - b.loss) / (b.step - a.step) + a.slope + b.slope;
    let scale = theta.abs().max(a.slope.abs()).max(b.slope.abs());
    let square = (theta / scale) * (theta / scale) - (a.slope / scale) * (b.slope / scale);
    (theta, scale * square.max(0.0).sqrt())
}

/// The minimum of the cubic through a and b, seen from a.
fn cubic(a: Point, b: Point, negative: bool) -> f64 {
    let (theta, root) = bend(a, b);
    let gamma = if negative { -root } else { root };
    let ratio = ((gamma - a.slope) + theta) / (((gamma - a.slope) + gamma) + b.slope);
    a.step + ratio * (b.step - a.step)
}

/// The minimum of the cubic beyond the trial, if it has one there.
fn cubic_ahead(best: Point, trial: Point) -> Option<f64> {
    let (theta, root) = bend(best, trial);
    let gamma = if trial.step > best.step { -root } else { root };
    let ratio = ((gamma - trial.slope) + theta) / ((gamma + (best.slope - trial.slope)) + gamma);
    (ratio < 0.0 && gamma != 0.0).then_some(trial.step + ratio * (best.step - trial.step))
}
