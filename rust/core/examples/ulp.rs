//! Measures the functions of `ranvier_core::math` on all 2³² numbers of `f32`.
//!
//! For each function the largest error in units in the last place and the argument that has it.
//! Exits with 1 when an error exceeds its bound or a result leaves the function's range. The
//! oracle is the standard library in `f64`, except for erfc, which it lacks: there it is
//! `math::erfc` itself in `f64`, held to values from mpmath by the tests of the module.
//!
//! ```text
//! RUSTFLAGS="-C target-feature=+fma,+avx2" cargo run --release -p ranvier-core --example ulp
//! ```
//!
//! The flags are for speed alone: without them each fused multiply-add is a call.

#![allow(clippy::print_stdout, reason = "a program that reports")]

use std::process::ExitCode;
use std::thread;

use ranvier_core::math;

/// The largest error found, in ulp, and its argument.
#[derive(Clone, Copy)]
struct Worst {
    ulp: f64,
    argument: f32,
}

/// Returns |result − truth| in units of the last place that `truth` has in `f32`. Infinity counts
/// as 2^128, the next number if there were one.
fn error_in_ulp(result: f32, truth: f64) -> f64 {
    let limit = 2.0 * 2.0_f64.powi(127);
    let result = f64::from(result).clamp(-limit, limit);
    let truth = truth.clamp(-limit, limit);
    // The power of two below |truth|, at least the least normal number.
    let power = f64::from_bits(truth.abs().to_bits() & (0x7ff << 52))
        .clamp(f64::from(f32::MIN_POSITIVE), limit / 2.0);
    (result - truth).abs() / (power * f64::from(f32::EPSILON))
}

/// Measures the arguments that have these bits. A result that is a NaN where the truth is none, or
/// the reverse, or outside `range`, is an infinite error.
fn measure(
    function: impl Fn(f32) -> f32,
    truth: impl Fn(f64) -> f64,
    range: (f32, f32),
    bits: impl Iterator<Item = u32>,
) -> Worst {
    let mut worst = Worst {
        ulp: 0.0,
        argument: 0.0,
    };
    for bits in bits {
        let x = f32::from_bits(bits);
        let y = function(x);
        let truth = truth(f64::from(x));
        let ulp = if y.is_nan() && truth.is_nan() {
            0.0
        } else if range.0 <= y && y <= range.1 {
            error_in_ulp(y, truth)
        } else {
            f64::INFINITY
        };
        if ulp.is_nan() || ulp > worst.ulp {
            worst = Worst {
                ulp: if ulp.is_nan() { f64::INFINITY } else { ulp },
                argument: x,
            };
        }
    }
    worst
}

/// Measures all arguments on every core and prints a line; returns whether `bound` holds.
fn report(
    name: &str,
    function: impl Fn(f32) -> f32 + Copy + Send,
    truth: impl Fn(f64) -> f64 + Copy + Send,
    range: (f32, f32),
    bound: f64,
) -> bool {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let worst = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|i| {
                let bits = (0..=u32::MAX).skip(i).step_by(threads);
                scope.spawn(move || measure(function, truth, range, bits))
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("a measuring thread panicked"))
            .max_by(|a, b| a.ulp.total_cmp(&b.ulp))
            .expect("there is at least one thread")
    });
    let holds = worst.ulp <= bound;
    println!(
        "{name:8} {:7.4} ulp at {:e} ({:#010x}), bound {bound} {}",
        worst.ulp,
        worst.argument,
        worst.argument.to_bits(),
        if holds { "holds" } else { "EXCEEDED" },
    );
    holds
}

fn main() -> ExitCode {
    let all = (f32::NEG_INFINITY, f32::INFINITY);
    let positive = (0.0, f32::INFINITY);
    // The domain of ln_1p is x ≥ 0 here.
    let ln_1p = |x: f64| if x >= 0.0 { x.ln_1p() } else { f64::NAN };
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let results = [
        report("exp", math::exp, f64::exp, positive, 1.5),
        report(
            "expm1",
            math::expm1,
            f64::exp_m1,
            (-1.0, f32::INFINITY),
            1.5,
        ),
        report("ln", math::ln, f64::ln, all, 1.5),
        report("ln_1p", math::ln_1p, ln_1p, positive, 1.5),
        report("tanh", math::tanh, f64::tanh, (-1.0, 1.0), 3.0),
        report("sigmoid", math::sigmoid, sigmoid, (0.0, 1.0), 3.0),
        report("erfc", math::erfc, math::erfc, (0.0, 2.0), 4.0),
    ];
    if results.iter().all(|&holds| holds) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
