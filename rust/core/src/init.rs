//! Initialisers. Numbers are drawn in f64 by the element's row-major index and rounded once, so a network
//! starts alike in f32 and f64, whatever its layout in memory.

use crate::element::Element;
use crate::error::{Error, Result};
use crate::matrix::Buffer;
use crate::normal::normal_quantile;
use crate::rng::Stream;

/// How the values of a parameter are drawn; n is the fan-in, m the fan-out of the layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Initializer {
    /// He uniform before relu-like activations, else Glorot uniform.
    Auto,
    /// U(±√(6/(n+m))) (Glorot and Bengio 2010).
    GlorotUniform,
    /// N(0, 2/(n+m)).
    GlorotNormal { truncated: bool },
    /// U(±√(6/n)) (He et al. 2015).
    HeUniform,
    /// N(0, 2/n).
    HeNormal { truncated: bool },
    /// U(±√(3/n)) (LeCun et al. 1998).
    LecunUniform,
    /// N(0, 1/n).
    LecunNormal { truncated: bool },
    /// Orthonormal columns (or rows, where there are fewer) times `gain` (Saxe et al. 2013).
    Orthogonal { gain: f64 },
    /// U(±1/√n), the default of `torch.nn.Linear` for weight and bias.
    Torch,
    /// The same value everywhere.
    Constant(f64),
}

/// Fan-in and fan-out of a layer.
#[derive(Debug, Clone, Copy)]
pub struct Fans {
    pub inputs: usize,
    pub outputs: usize,
}

impl Initializer {
    /// The initialiser with this name; `value` is the constant or the gain, `truncated` cuts normals at two
    /// deviations as Keras does.
    pub fn parse(name: &str, value: Option<f64>, truncated: bool) -> Result<Self> {
        if value.is_some_and(|value| !value.is_finite()) {
            return Err(Error::argument(
                name,
                "a finite number",
                value.unwrap_or(f64::NAN),
            ));
        }
        Ok(match name {
            "auto" => Self::Auto,
            "glorot_uniform" => Self::GlorotUniform,
            "glorot_normal" => Self::GlorotNormal { truncated },
            "he_uniform" => Self::HeUniform,
            "he_normal" => Self::HeNormal { truncated },
            "lecun_uniform" => Self::LecunUniform,
            "lecun_normal" => Self::LecunNormal { truncated },
            "orthogonal" => Self::Orthogonal {
                gain: value.unwrap_or(1.0),
            },
            "torch" => Self::Torch,
            "zeros" => Self::Constant(0.0),
            "ones" => Self::Constant(1.0),
            "constant" => Self::Constant(value.unwrap_or(0.0)),
            _ => {
                return Err(Error::argument(
                    "initializer",
                    format!("one of {}", Self::NAMES.join(", ")),
                    format!("{name:?}"),
                ));
            }
        })
    }

    /// Every name that [`Self::parse`] knows.
    pub const NAMES: [&'static str; 12] = [
        "auto",
        "glorot_uniform",
        "glorot_normal",
        "he_uniform",
        "he_normal",
        "lecun_uniform",
        "lecun_normal",
        "orthogonal",
        "torch",
        "zeros",
        "ones",
        "constant",
    ];

    /// Fills row-major `values` of `rows` x `cols` from `stream`.
    pub fn fill<F: Element>(
        self,
        values: &mut [F],
        (rows, cols): (usize, usize),
        fans: Fans,
        stream: &Stream,
    ) -> Result<()> {
        let (n, m) = (fans.inputs as f64, fans.outputs as f64);
        match self {
            Self::Auto | Self::GlorotUniform => uniform(values, (6.0 / (n + m)).sqrt(), stream),
            Self::HeUniform => uniform(values, (6.0 / n).sqrt(), stream),
            Self::LecunUniform => uniform(values, (3.0 / n).sqrt(), stream),
            Self::Torch => uniform(values, 1.0 / n.sqrt(), stream),
            Self::GlorotNormal { truncated } => {
                normal(values, (2.0 / (n + m)).sqrt(), truncated, stream);
            }
            Self::HeNormal { truncated } => normal(values, (2.0 / n).sqrt(), truncated, stream),
            Self::LecunNormal { truncated } => normal(values, (1.0 / n).sqrt(), truncated, stream),
            Self::Constant(value) => values.fill(F::of(value)),
            Self::Orthogonal { gain } => orthogonal(values, (rows, cols), gain, stream)?,
        }
        Ok(())
    }
}

fn uniform<F: Element>(values: &mut [F], bound: f64, stream: &Stream) {
    for (i, value) in values.iter_mut().enumerate() {
        *value = F::of(bound * (2.0 * stream.uniform(i as u64) - 1.0));
    }
}

/// Φ(−2): the mass below two deviations.
const TAIL: f64 = 0.022_750_131_948_179_195;
/// Deviation of a standard normal that is cut at ±2.
const TRUNCATED_DEVIATION: f64 = 0.879_625_661_034_239_8;

fn normal<F: Element>(values: &mut [F], deviation: f64, truncated: bool, stream: &Stream) {
    for (i, value) in values.iter_mut().enumerate() {
        let u = stream.open_uniform(i as u64);
        let draw = if truncated {
            deviation / TRUNCATED_DEVIATION * normal_quantile(TAIL + (1.0 - 2.0 * TAIL) * u)
        } else {
            deviation * normal_quantile(u)
        };
        *value = F::of(draw);
    }
}

/// Orthonormalises the columns of a standard normal matrix by modified Gram-Schmidt, each column twice:
/// the Q of the QR decomposition whose R has a positive diagonal.
fn orthogonal<F: Element>(
    values: &mut [F],
    (rows, cols): (usize, usize),
    gain: f64,
    stream: &Stream,
) -> Result<()> {
    let wide = rows < cols;
    let (long, short) = if wide { (cols, rows) } else { (rows, cols) };
    // Column c of the tall matrix is basis[c * long..(c + 1) * long].
    let mut basis = Buffer::<f64>::zeroed(long * short)?;
    for c in 0..short {
        for r in 0..long {
            let index = if wide { c * cols + r } else { r * cols + c };
            basis[c * long + r] = normal_quantile(stream.open_uniform(index as u64));
        }
    }
    for c in 0..short {
        let (earlier, column) = basis.split_at_mut(c * long);
        let column = &mut column[..long];
        for _ in 0..2 {
            for other in earlier.chunks_exact(long) {
                let along = dot(other, column);
                for (value, &o) in column.iter_mut().zip(other) {
                    *value -= along * o;
                }
            }
        }
        let length = dot(column, column).sqrt();
        for value in column {
            *value /= length;
        }
    }
    for r in 0..rows {
        for c in 0..cols {
            let at = if wide { r * long + c } else { c * long + r };
            values[r * cols + c] = F::of(gain * basis[at]);
        }
    }
    Ok(())
}

/// Inner product in sixteen interleaved sums, added in order.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 16];
    for (a, b) in a.chunks(16).zip(b.chunks(16)) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Purpose;

    #[test]
    fn orthogonal_columns_or_rows_have_length_gain_and_right_angles() {
        for (rows, cols) in [(7, 4), (4, 7), (5, 5), (1, 3)] {
            let mut values = vec![0.0f64; rows * cols];
            let fans = Fans {
                inputs: rows,
                outputs: cols,
            };
            let stream = Stream::new(3, Purpose::Weight, 0, 0);
            Initializer::Orthogonal { gain: 2.0 }
                .fill(&mut values, (rows, cols), fans, &stream)
                .unwrap();
            let short = rows.min(cols);
            for a in 0..short {
                for b in 0..short {
                    let product: f64 = (0..rows.max(cols))
                        .map(|i| {
                            let at = |c: usize| {
                                if rows < cols {
                                    values[c * cols + i]
                                } else {
                                    values[i * cols + c]
                                }
                            };
                            at(a) * at(b)
                        })
                        .sum();
                    let expected = if a == b { 4.0 } else { 0.0 };
                    assert!((product - expected).abs() < 1e-13);
                }
            }
        }
    }
}
