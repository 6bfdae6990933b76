//! Levenberg-Marquardt: Madsen, Nielsen and Tingleff, Methods for Non-Linear Least Squares Problems, 2nd edition (2004),
//! algorithm 3.16.

use crate::element::Element;
use crate::error::{Error, Result};
use crate::lanes;
use crate::matmul::{Epilogue, Left, Right, product};
use crate::matrix::{Buffer, Order, Panels, for_each_chunk, for_each_tile};
use crate::simd::kernel;

/// Most parameters, as their square is the memory and their cube the time.
pub const MOST: usize = 10_000;
/// Rows of the Jacobian that are added to the normal equations at once: at most, and at least.
const ROWS: (usize, usize) = (256, 16);
/// Work (multiply-adds) to do at once, between two looks at the clock.
const WORK: usize = 1 << 30;
/// Rows of the factor that are made at once.
const BLOCK: usize = 32;

/// The loss is Σr², J the derivative of r. A step h solves (JᵀJ + μI)h = −Jᵀr. Its gain is the decrease of the loss by
/// that which the linear r foretells; if it is positive, the step is taken and μ ← μ·max(1/3, 1 − (2·gain − 1)³), ν ← 2;
/// else μ ← μν, ν ← 2ν, and the next h is tried. At first μ = damping·max diag JᵀJ.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LevenbergMarquardt {
    pub damping: f64,
    /// Converged when no entry of the gradient is larger.
    pub tolerance_grad: f64,
    /// Converged when a step has lowered the loss by no more than this share.
    pub tolerance_loss: f64,
    /// Converged when ‖h‖ ≤ tolerance·(‖θ‖ + tolerance).
    pub tolerance_step: f64,
}

impl LevenbergMarquardt {
    /// By what a step of this gain multiplies μ.
    pub(crate) fn relief(gain: f64) -> f64 {
        let above = 2.0 * gain - 1.0;
        (1.0 - above * above * above).max(1.0 / 3.0)
    }
}

/// JᵀJ and Jᵀr of `count` parameters, in f64, and what solves the equations.
pub(crate) struct Equations {
    count: usize,
    /// Rows of (J | r), in panels.
    jacobian: Buffer<f64>,
    /// Σ (J | r)ᵀ(J | r), in panels.
    normal: Buffer<f64>,
    /// R of RᵀR = JᵀJ + μI, row-major; below the diagonal is what was there.
    factor: Buffer<f64>,
    /// h, after [`Self::solve`].
    pub step: Buffer<f64>,
}

impl Equations {
    pub fn new(count: usize, outputs: usize) -> Result<Self> {
        if count > MOST {
            return Err(Error::argument(
                "optimizer",
                format!("at most {MOST} parameters for Levenberg-Marquardt, whose square it keeps"),
                count,
            ));
        }
        let rows = rows_at_once(count, outputs) * outputs;
        Ok(Self {
            count,
            jacobian: Buffer::zeroed(Panels::new(rows, count + 1).len::<f64>())?,
            normal: Buffer::zeroed(Panels::new(count + 1, count + 1).len::<f64>())?,
            factor: Buffer::zeroed(count * count)?,
            step: Buffer::zeroed(count)?,
        })
    }

    /// How many rows of the data fill the Jacobian.
    pub fn rows_at_once(&self, outputs: usize) -> usize {
        rows_at_once(self.count, outputs)
    }

    /// Forgets the sums.
    pub fn clear(&mut self) {
        self.normal.fill(0.0);
    }

    /// Adds the products of rows of (J | r), `outputs` for each of `rows` rows of the data: `fill(row, put)` finds those of
    /// one, at a cost of `work`, and calls `put(k, values)` for each.
    pub fn add(
        &mut self,
        rows: usize,
        outputs: usize,
        work: usize,
        fill: impl Fn(usize, &mut dyn FnMut(usize, &[f64])) + Sync,
    ) {
        let shape = Panels::new(rows * outputs, self.count + 1);
        let jacobian = &mut self.jacobian[..shape.len::<f64>()];
        for_each_tile(
            shape,
            [&mut *jacobian],
            (outputs, shape.count::<f64>()),
            Order::Rows,
            work.saturating_mul(rows),
            |mut tile| {
                fill(tile.first_row / outputs, &mut |k, values| {
                    for (p, values) in values.chunks(<f64 as Element>::PANEL).enumerate() {
                        let first = k * tile.width(p);
                        let [to] = tile.part(p);
                        to[first..first + values.len()].copy_from_slice(values);
                    }
                });
            },
        );
        let rows = shape.of(jacobian);
        let (left, right) = (Left::Transposed(rows), Right::Plain(rows));
        product(left, right, [&mut *self.normal], Sum, None);
    }

    /// Adds Σ kᵢθᵢ² to the loss, whose residuals are √kᵢ·θᵢ.
    pub fn add_ridge(&mut self, ridge: &[f64], theta: impl Iterator<Item = f64>) {
        let shape = self.shape();
        for (i, (&k, theta)) in ridge.iter().zip(theta).enumerate() {
            self.normal[place(shape, i, i)] += k;
            self.normal[place(shape, i, self.count)] += k * theta;
        }
    }

    fn shape(&self) -> Panels {
        Panels::new(self.count + 1, self.count + 1)
    }

    /// The largest entry of JᵀJ's diagonal.
    pub fn largest(&self) -> f64 {
        let shape = self.shape();
        let diagonal = (0..self.count).map(|i| self.normal[place(shape, i, i)]);
        diagonal.fold(0.0, f64::max)
    }

    /// Solves (JᵀJ + μI)h = −Jᵀr; false where rounding has left no positive definite matrix.
    /// `tick` is called now and then.
    pub fn solve(&mut self, mu: f64, tick: &mut dyn FnMut() -> Result<()>) -> Result<bool> {
        let (count, shape) = (self.count, self.shape());
        for (i, row) in self.factor.chunks_exact_mut(count).enumerate() {
            for p in i / <f64 as Element>::PANEL..shape.count::<f64>() {
                let first = p * <f64 as Element>::PANEL;
                let used = shape.used::<f64>(p).min(count.saturating_sub(first));
                let from = shape.row::<f64>(p, i).start;
                row[first..first + used].copy_from_slice(&self.normal[from..from + used]);
            }
            row[i] += mu;
            self.step[i] = -self.normal[place(shape, i, count)];
        }
        if !factorize(&mut self.factor, count, tick)? {
            return Ok(false);
        }
        // Rᵀy = −Jᵀr, then Rh = y.
        for (i, row) in self.factor.chunks_exact(count).enumerate() {
            let (done, rest) = self.step.split_at_mut(i + 1);
            done[i] /= row[i];
            subtract(done[i], &row[i + 1..], rest);
        }
        for (i, row) in self.factor.chunks_exact(count).enumerate().rev() {
            let (done, rest) = self.step.split_at_mut(i + 1);
            done[i] = (done[i] - lanes::dot(&row[i + 1..], rest)) / row[i];
        }
        Ok(self.step.iter().all(|h| h.is_finite()))
    }

    /// hᵀ(μh − Jᵀr): the decrease of the loss if r were linear.
    pub fn foretold(&self, mu: f64) -> f64 {
        let shape = self.shape();
        let terms = self.step.iter().enumerate();
        lanes::sum(terms.map(|(i, &h)| h * (mu * h - self.normal[place(shape, i, self.count)])))
    }
}

fn rows_at_once(count: usize, outputs: usize) -> usize {
    let (most, least) = ROWS;
    let rows = WORK / (count * count).max(1);
    rows.clamp(least, most).div_ceil(outputs)
}

/// Where an element lies.
fn place(shape: Panels, row: usize, col: usize) -> usize {
    let p = col / <f64 as Element>::PANEL;
    shape.row::<f64>(p, row).start + col % <f64 as Element>::PANEL
}

/// Adds the product to what is there.
#[derive(Clone, Copy)]
struct Sum;

impl Epilogue<f64, 1> for Sum {
    const APART: bool = true;

    #[inline(always)]
    fn finish(self, _: usize, sums: &mut [f64], [out]: [&mut [f64]; 1]) {
        accumulate(sums, out);
    }
}

kernel! {
    fn accumulate[](sums: &[f64], out: &mut [f64])[] {
        for (out, &sum) in out.iter_mut().zip(sums) {
            *out += sum;
        }
    }
}

kernel! {
    /// values −= factor · row.
    fn subtract[](factor: f64, row: &[f64], values: &mut [f64])[] {
        for (value, &row) in values.iter_mut().zip(row) {
            *value = factor.mul_add(-row, *value);
        }
    }
}

/// Cholesky: the upper triangle of a symmetric matrix becomes R. Each element is one chain over the rows above it. False
/// where a pivot is not positive.
fn factorize(matrix: &mut [f64], n: usize, tick: &mut dyn FnMut() -> Result<()>) -> Result<bool> {
    for first in (0..n).step_by(BLOCK) {
        let end = n.min(first + BLOCK);
        let (above, below) = matrix.split_at_mut(end * n);
        let block = &mut above[first * n..];
        for j in first..end {
            let (row, rest) = block[(j - first) * n..].split_at_mut(n);
            let root = row[j].sqrt();
            // NaN is no pivot either.
            if !(root > 0.0 && root.is_finite()) {
                return Ok(false);
            }
            for value in &mut row[j..] {
                *value /= root;
            }
            for (i, other) in (j + 1..end).zip(rest.chunks_exact_mut(n)) {
                subtract(row[i], &row[i..], &mut other[i..]);
            }
        }
        let block = &*block;
        let work = (n - end) * (n - end) * BLOCK;
        for_each_chunk([below], n, work, |start, [row]| {
            let i = end + start / n;
            for above in block.chunks_exact(n) {
                subtract(above[i], &above[i..], &mut row[i..]);
            }
        });
        tick()?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AᵀA + I of a matrix of small integers.
    fn matrix(n: usize) -> Vec<f64> {
        let a = |i: usize, j: usize| ((i * 7 + j * 5) % 11) as f64 - 5.0;
        let entry = |at: usize| {
            let (i, j) = (at / n, at % n);
            let sum: f64 = (0..n).map(|k| a(k, i) * a(k, j)).sum();
            sum + f64::from(u8::from(i == j))
        };
        (0..n * n).map(entry).collect()
    }

    #[test]
    fn the_factor_times_its_transpose_is_the_matrix() {
        for n in [1, 2, 31, 32, 33, 64, 65, 97] {
            let whole = matrix(n);
            let mut factor = whole.clone();
            assert!(factorize(&mut factor, n, &mut || Ok(())).unwrap());
            for i in 0..n {
                for j in i..n {
                    let product: f64 = (0..=i).map(|k| factor[k * n + i] * factor[k * n + j]).sum();
                    let scale = whole[i * n + i].max(whole[j * n + j]);
                    assert!((product - whole[i * n + j]).abs() <= 1e-13 * scale);
                }
            }
        }
    }

    #[test]
    fn a_matrix_that_is_not_positive_definite_is_found_out() {
        for n in [1, 33, 65] {
            for bad in [-1.0, 0.0, f64::NAN, f64::INFINITY] {
                let mut factor = matrix(n);
                factor[n * n - 1] = bad;
                assert!(!factorize(&mut factor, n, &mut || Ok(())).unwrap());
            }
        }
    }

    #[test]
    fn the_normal_equations_give_the_nearest_point() {
        // Two outputs, three parameters, r = (θ₀ + θ₁ − 3, θ₁ + θ₂ − 5, θ₀ − 1, θ₂ − 3) at θ = 0.
        let rows = [
            [1.0, 1.0, 0.0, -3.0],
            [0.0, 1.0, 1.0, -5.0],
            [1.0, 0.0, 0.0, -1.0],
            [0.0, 0.0, 1.0, -3.0],
        ];
        let mut equations = Equations::new(3, 2).unwrap();
        equations.add(2, 2, 1, |row, put| {
            put(0, &rows[2 * row]);
            put(1, &rows[2 * row + 1]);
        });
        assert!(equations.solve(0.0, &mut || Ok(())).unwrap());
        for (h, expected) in equations.step.iter().zip([1.0, 2.0, 3.0]) {
            assert!((h - expected).abs() < 1e-14);
        }
        // All of Σr² = 9 + 25 + 1 + 9.
        assert!((equations.foretold(0.0) - 44.0).abs() < 1e-12);
    }
}
