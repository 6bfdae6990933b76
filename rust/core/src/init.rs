//! Initialisers. Numbers are drawn in f64 by the element's row-major index and rounded once, so a network
//! starts alike in f32 and f64, whatever its layout in memory.

use crate::element::Element;
use crate::error::{Error, Result};
use crate::math::ln;
use crate::matrix::Buffer;
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

/// Inverse of the standard normal distribution function: algorithm AS 241, PPND16 (Wichura 1988),
/// relative accuracy about 1e-16.
fn normal_quantile(p: f64) -> f64 {
    const A: [f64; 8] = [
        3.387_132_872_796_366_5,
        1.331_416_678_917_843_8e2,
        1.971_590_950_306_551_3e3,
        1.373_169_376_550_946e4,
        4.592_195_393_154_987e4,
        6.726_577_092_700_87e4,
        3.343_057_558_358_813e4,
        2.509_080_928_730_122_7e3,
    ];
    const B: [f64; 8] = [
        1.0,
        4.231_333_070_160_091e1,
        6.871_870_074_920_579e2,
        5.394_196_021_424_751e3,
        2.121_379_430_158_659_7e4,
        3.930_789_580_009_271e4,
        2.872_908_573_572_194_3e4,
        5.226_495_278_852_854e3,
    ];
    const C: [f64; 8] = [
        1.423_437_110_749_683_5,
        4.630_337_846_156_546,
        5.769_497_221_460_691,
        3.647_848_324_763_204_5,
        1.270_458_252_452_368_4,
        2.417_807_251_774_506e-1,
        2.272_384_498_926_918_4e-2,
        7.745_450_142_783_414e-4,
    ];
    const D: [f64; 8] = [
        1.0,
        2.053_191_626_637_759,
        1.676_384_830_183_803_8,
        6.897_673_349_851e-1,
        1.481_039_764_274_800_8e-1,
        1.519_866_656_361_645_7e-2,
        5.475_938_084_995_345e-4,
        1.050_750_071_644_416_9e-9,
    ];
    const E: [f64; 8] = [
        6.657_904_643_501_103,
        5.463_784_911_164_114,
        1.784_826_539_917_291_3,
        2.965_605_718_285_048_7e-1,
        2.653_218_952_657_612_4e-2,
        1.242_660_947_388_078_4e-3,
        2.711_555_568_743_487_6e-5,
        2.010_334_399_292_288_1e-7,
    ];
    const G: [f64; 8] = [
        1.0,
        5.998_322_065_558_879e-1,
        1.369_298_809_227_358e-1,
        1.487_536_129_085_061_5e-2,
        7.868_691_311_456_133e-4,
        1.846_318_317_510_054_8e-5,
        1.421_511_758_316_446e-7,
        2.044_263_103_389_939_8e-15,
    ];
    let ratio = |top: &[f64; 8], bottom: &[f64; 8], x: f64| {
        let horner = |c: &[f64; 8]| c.iter().rev().fold(0.0, |sum, &c| sum * x + c);
        horner(top) / horner(bottom)
    };
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        return q * ratio(&A, &B, 0.180_625 - q * q);
    }
    let r = (-ln(if q < 0.0 { p } else { 1.0 - p })).sqrt();
    let magnitude = if r <= 5.0 {
        ratio(&C, &D, r - 1.6)
    } else {
        ratio(&E, &G, r - 5.0)
    };
    if q < 0.0 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Purpose;

    #[test]
    fn quantiles_of_the_normal_are_those_of_the_tables() {
        for (p, expected) in [
            (0.5, 0.0),
            (0.975, 1.959_963_984_540_054),
            (0.1, -1.281_551_565_544_600_4),
            (1e-10, -6.361_340_902_404_056),
            (1e-20, -9.262_340_089_798_408),
        ] {
            assert!((normal_quantile(p) - expected).abs() <= 4e-15 * 10.0, "{p}");
        }
    }

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
