//! The extension module `ranvier._core`: converts arguments, detaches from the interpreter, delegates to
//! `ranvier-core` and maps errors. It computes nothing. The public API is Python's, in `python/ranvier`.

mod arrays;
mod errors;
mod file;
mod monitor;
mod network;
mod specs;
mod trainer;

use pyo3::prelude::*;

#[pymodule]
mod _core {
    use super::{PyResult, errors::guarded};
    use ranvier_core::{
        activation::Activation,
        checkpoint::Form,
        init::Initializer,
        loss::Loss,
        metric::Metric,
        network::Precision,
        optimizers::Dialect,
        pool,
        schedule::Per,
        simd,
        trainer::{PAIRS, PREFIXES},
    };

    #[pymodule_export]
    use super::file::{File, digest};
    #[pymodule_export]
    use super::network::{
        Network, block_order, holdout, input_map, loss_value_and_gradient, metric_suits,
        quantize_weights, rate, tables,
    };
    #[pymodule_export]
    use super::trainer::{Stepper, Trainer};

    #[pymodule_export]
    #[allow(non_upper_case_globals, reason = "Python's name")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
    #[pymodule_export]
    const NUMERICS_VERSION: u32 = ranvier_core::NUMERICS_VERSION;
    #[pymodule_export]
    const OPTIMIZED: bool = !cfg!(debug_assertions);

    use pyo3::prelude::*;
    use std::time::Duration;

    /// Number of threads that a call may use.
    #[pyfunction]
    fn get_num_threads() -> PyResult<usize> {
        guarded(|| Ok(pool::threads()?))
    }

    /// Sets the number of threads from the next call on.
    #[pyfunction]
    fn set_num_threads(count: usize) -> PyResult<()> {
        guarded(|| Ok(pool::set_threads(count)?))
    }

    /// Name of the instruction set in use.
    #[pyfunction]
    fn isa() -> PyResult<&'static str> {
        guarded(|| Ok(simd::isa()?.name()))
    }

    /// Names of the instruction sets that this machine could use.
    #[pyfunction]
    fn available_isas() -> Vec<&'static str> {
        let available = simd::Isa::ALL.into_iter().filter(|isa| isa.available());
        available.map(simd::Isa::name).collect()
    }

    /// Whether products in bf16 are done by instructions of the processor; else they are emulated.
    #[pyfunction]
    fn bf16_native() -> PyResult<bool> {
        guarded(|| Ok(simd::isa()? == simd::Isa::Avx512 && simd::bf16_native()))
    }

    /// Whether products of 8-bit integers are done by instructions for them; else by those for 16 bits.
    #[pyfunction]
    fn int8_native() -> PyResult<bool> {
        guarded(|| Ok(simd::isa()? == simd::Isa::Avx512 && simd::vnni_native()))
    }

    /// Operations per second that multiply-adds reach on the threads of a call, measured for so many seconds: what
    /// benches divide by.
    #[pyfunction]
    fn fma_peak(py: Python<'_>, dtype: &str, seconds: f64) -> PyResult<f64> {
        guarded(|| {
            let (threads, time) = (
                pool::threads()?,
                Duration::from_secs_f64(seconds.clamp(0.0, 60.0)),
            );
            Ok(py.detach(|| match dtype {
                "float64" => simd::fma_peak::<f64, simd::Full>(threads, time),
                "bf16" => simd::fma_peak::<f32, simd::Bf16>(threads, time),
                "int8" => simd::fma_peak::<f32, simd::Int8>(threads, time),
                _ => simd::fma_peak::<f32, simd::Full>(threads, time),
            }))
        })
    }

    /// Refuses an optimiser that the core does not define.
    #[pyfunction]
    fn check_optimizer(optimizer: super::specs::MethodSpec) -> PyResult<()> {
        guarded(|| {
            optimizer.parse()?;
            Ok(())
        })
    }

    /// Every name that the core knows, by kind.
    #[pyfunction]
    fn names(kind: &str) -> Vec<&'static str> {
        match kind {
            "activation" => Activation::NAMES
                .into_iter()
                .chain(["prelu", "softmax"])
                .collect(),
            "initializer" => Initializer::NAMES.into(),
            "loss" => Loss::NAMES.into(),
            "dialect" => Dialect::NAMES.into(),
            "precision" => Precision::NAMES.into(),
            "quantization" => Precision::QUANTIZED.into(),
            "weights" => Form::NAMES.into(),
            "per" => Per::NAMES.into(),
            "metric" => Metric::NAMES.into(),
            "prefix" => PREFIXES.into(),
            "pairs" => PAIRS.into(),
            _ => Vec::new(),
        }
    }
}
