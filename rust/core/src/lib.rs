//! The engine of ranvier: dense neural networks on the CPU.
//!
//! Conventions
//!
//! - Row-major, batch first, outside: X is (batch, in_features), a weight is (in_features, out_features),
//!   y = x · W + b. Inside, every matrix lies in column panels ([`matrix`]).
//! - All parameters of a network are one flat vector, and so are gradients and moments.
//! - Losses take raw outputs and are means over samples.
//! - Numerics version 1: each output of a product is one chain of fused multiply-adds over ascending k;
//!   other reductions run in an order that the shape alone fixes ([`lanes`]); elementary functions are our
//!   own ([`math`]); randomness is a function of counters ([`rng`]). So the same seed, data and
//!   hyperparameters give the same bits, whatever the threads and the instruction set.
//! - Gradients are named d_weight, d_bias, d_input, d_output. Inside a product the letters are m, k, n.
//! - A function that can run out of memory says so by [`error::Error::Memory`]; after the first step a
//!   training step allocates nothing.

pub mod activation;
mod average;
pub mod backward;
pub mod checkpoint;
pub mod data;
pub mod element;
pub mod error;
pub mod evaluation;
pub mod init;
pub mod lanes;
pub mod layers;
pub mod loss;
pub mod math;
pub mod matmul;
pub mod matrix;
pub mod metric;
pub mod network;
mod normal;
pub mod optimizers;
pub mod plan;
pub mod pool;
pub mod quantization;
pub mod rng;
pub mod schedule;
pub mod simd;
pub mod source;
pub mod trainer;
pub mod watch;

/// Version of the numerics contract; results change only when it does.
pub const NUMERICS_VERSION: u32 = 1;
