//! `Network`: parameters, prediction, evaluation, gradients.

use std::any::Any;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use ranvier_core::data::{BatchTargets, Block, Data, Feed, Objective, Role, Split, Targets};
use ranvier_core::element::Element;
use ranvier_core::error::{Error, Result};
use ranvier_core::evaluation::{self, Shared};
use ranvier_core::loss::{Loss, Target, weight_sum};
use ranvier_core::matrix::Buffer;
use ranvier_core::network::{Network as CoreNetwork, Pass};
use ranvier_core::plan::slots;
use ranvier_core::rng::{Purpose, Stream, permute};
use ranvier_core::schedule::Time;
use ranvier_core::source::Rows;
use ranvier_core::{pool, quantization, simd};

use crate::arrays::{self, Matrix, Number, Readable, Writable};
use crate::errors::{Failure, guarded, raise};
use crate::file::{Destination, File, as_bytes};
use crate::monitor::{ExternalLoss, Hooks};
use crate::specs::{self, LayerSpec, LossSpec};

/// A network of either element type.
pub enum AnyNetwork {
    F32(Shared<f32>),
    F64(Shared<f64>),
}

impl AnyNetwork {
    /// The network itself, for a caller that knows its type.
    pub fn shared(&self) -> &dyn Any {
        match self {
            Self::F32(shared) => shared,
            Self::F64(shared) => shared,
        }
    }
}

/// Runs an expression with `$shared` bound to the network of either type and `$F` to that type.
macro_rules! with_network {
    ($any:expr, $shared:ident, $F:ident => $body:expr) => {
        match &*$any {
            $crate::network::AnyNetwork::F32($shared) => {
                #[allow(dead_code, reason = "not every body names the type")]
                type $F = f32;
                $body
            }
            $crate::network::AnyNetwork::F64($shared) => {
                #[allow(dead_code, reason = "not every body names the type")]
                type $F = f64;
                $body
            }
        }
    };
}

/// Targets as the Python layer hands them over.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct Arrays {
    x: Readable,
    values: Option<Readable>,
    labels: Option<Readable>,
    weights: Option<Readable>,
    /// Targets and weights as they were given.
    given: (Option<Readable>, Option<Readable>),
}

impl Arrays {
    pub fn data(&self, role: Role) -> Data<'_> {
        let values = self.values.as_ref().map(|y| Targets::Values(y.source()));
        let labels = self.labels.as_ref().map(|y| Targets::Labels(y.source()));
        let weights = self.weights.as_ref().map(Readable::source);
        let (targets, own) = &self.given;
        let given = (
            targets.as_ref().map(Readable::source),
            own.as_ref().map(Readable::source),
        );
        Data {
            given,
            ..Data::new(self.x.source(), values.or(labels), weights, role)
        }
    }
}

/// Arrays, or a function (epoch, place) that gives block after block: its number, its arrays, the rows of them in the
/// order of the epoch (None for all), and whether they have been checked; or None.
#[derive(FromPyObject)]
pub enum AnyFeed {
    Arrays(Arrays),
    Blocks(Py<PyAny>),
}

impl AnyFeed {
    pub fn feed(&self, role: Role) -> Feed<'_> {
        match self {
            Self::Arrays(arrays) => Feed::Arrays(arrays.data(role)),
            Self::Blocks(_) => Feed::Blocks,
        }
    }

    pub fn blocks(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        match self {
            Self::Arrays(_) => None,
            Self::Blocks(next) => Some(next.clone_ref(py)),
        }
    }
}

/// The arrays of a block.
pub struct OwnBlock {
    pub arrays: Arrays,
    pub role: Role,
    /// Those of its rows that are meant, in the order in which they are meant.
    pub rows: Option<Vec<u32>>,
    pub checked: bool,
}

impl Block for OwnBlock {
    fn data(&self) -> Data<'_> {
        Data {
            rows: self.rows.as_deref(),
            ..self.arrays.data(self.role)
        }
    }

    fn checked(&self) -> bool {
        self.checked
    }
}

/// A loss of the core, or one written in Python.
#[derive(FromPyObject)]
pub enum AnyLoss {
    Core(LossSpec),
    External(ExternalLoss),
}

impl AnyLoss {
    /// The core's loss if it is one; the external one goes to `hooks`.
    pub fn install(self, hooks: &mut Hooks) -> Result<Option<Loss>> {
        match self {
            Self::Core(spec) => specs::loss(&spec).map(Some),
            Self::External(external) => {
                hooks.external = Some(external);
                Ok(None)
            }
        }
    }
}

pub fn objective(loss: Option<&Loss>) -> Objective<'_> {
    loss.map_or(Objective::External, Objective::Core)
}

#[pyclass(frozen, module = "ranvier._core")]
pub struct Network {
    pub any: Arc<AnyNetwork>,
}

#[pymethods]
impl Network {
    #[new]
    fn new(
        py: Python<'_>,
        layers: Vec<LayerSpec>,
        input_size: usize,
        seed: u64,
        dtype: &str,
    ) -> PyResult<Self> {
        guarded(|| {
            check_environment()?;
            let layers = specs::layers(&layers)?;
            let any = py.detach(|| -> Result<AnyNetwork> {
                Ok(if dtype == "float64" {
                    AnyNetwork::F64(Shared::new(CoreNetwork::new(&layers, input_size, seed)?))
                } else {
                    AnyNetwork::F32(Shared::new(CoreNetwork::new(&layers, input_size, seed)?))
                })
            })?;
            Ok(Self { any: Arc::new(any) })
        })
    }

    /// A network with the parameters of a file, where they have `names`, in the order of `tables`.
    #[staticmethod]
    fn load(
        py: Python<'_>,
        layers: Vec<LayerSpec>,
        input_size: usize,
        dtype: &str,
        file: &File,
        names: Vec<String>,
    ) -> PyResult<Self> {
        guarded(|| {
            check_environment()?;
            let layers = specs::layers(&layers)?;
            let any = py.detach(|| {
                file.with(|file| -> Result<AnyNetwork> {
                    Ok(if dtype == "float64" {
                        let network = CoreNetwork::load(&layers, input_size, file, &names)?;
                        AnyNetwork::F64(Shared::new(network))
                    } else {
                        let network = CoreNetwork::load(&layers, input_size, file, &names)?;
                        AnyNetwork::F32(Shared::new(network))
                    })
                })
            })?;
            Ok(Self { any: Arc::new(any) })
        })
    }

    /// Writes a model file; returns its bytes where there is no path.
    fn save<'py>(&self, py: Python<'py>, to: Destination) -> PyResult<Option<Bound<'py, PyBytes>>> {
        guarded(|| {
            let bytes = py.detach(|| {
                with_network!(self.any, shared, F => {
                    let network = shared.read();
                    let (parameters, state) = (&network.parameters, &network.state);
                    let weights = to.weights()?;
                    to.write(network.tensors(&to.names, "", parameters, state, weights))
                })
            });
            as_bytes(py, bytes)
        })
    }

    /// A copy with its own parameters.
    fn duplicate(&self, py: Python<'_>) -> PyResult<Self> {
        guarded(|| {
            let any = py.detach(|| -> Result<AnyNetwork> {
                Ok(match &*self.any {
                    AnyNetwork::F32(shared) => {
                        AnyNetwork::F32(Shared::new(shared.read().duplicate()?))
                    }
                    AnyNetwork::F64(shared) => {
                        AnyNetwork::F64(Shared::new(shared.read().duplicate()?))
                    }
                })
            })?;
            Ok(Self { any: Arc::new(any) })
        })
    }

    #[getter]
    fn input_size(&self) -> usize {
        with_network!(self.any, shared, F => shared.inputs)
    }

    #[getter]
    fn output_size(&self, py: Python<'_>) -> usize {
        py.detach(|| with_network!(self.any, shared, F => shared.read().outputs))
    }

    /// Number of trainable values.
    fn count(&self, py: Python<'_>) -> usize {
        py.detach(|| with_network!(self.any, shared, F => shared.read().count()))
    }

    /// (name, shape) of every trainable parameter, then of every running statistic.
    fn tables(&self, py: Python<'_>) -> [Vec<(String, Vec<usize>)>; 2] {
        py.detach(|| {
            with_network!(self.any, shared, F => {
                let network = shared.read();
                [&network.slots, &network.state_slots].map(|slots| {
                    slots.iter().map(|slot| (slot.name.clone(), slot.dims.clone())).collect()
                })
            })
        })
    }

    /// Fills `arrays` (in the order of `tables`) with parameters and running statistics.
    fn read(&self, py: Python<'_>, arrays: Vec<Bound<'_, PyAny>>) -> PyResult<()> {
        guarded(|| {
            with_network!(self.any, shared, F => {
                let mut arrays = writables::<F>(&arrays)?;
                py.detach(|| {
                    let network = shared.read();
                    let slots = network.slots.iter().map(|slot| (slot, &network.parameters));
                    let states = network.state_slots.iter().map(|slot| (slot, &network.state));
                    for ((slot, flat), array) in slots.chain(states).zip(&mut arrays) {
                        network.read(slot, flat, array.slice());
                    }
                });
                Ok(())
            })
        })
    }

    /// Replaces parameters or running statistics, given as (index in `tables`, values), all or none.
    fn write(&self, py: Python<'_>, values: Vec<(usize, Readable)>) -> PyResult<()> {
        guarded(|| {
            py.detach(|| {
                with_network!(self.any, shared, F => {
                    let mut copies = Vec::with_capacity(values.len());
                    for (index, array) in &values {
                        copies.push((*index, copied::<F>(array)?));
                    }
                    let values = copies.iter().map(|(index, values)| (*index, &values[..]));
                    shared.write().write(values);
                    Ok(())
                })
            })
        })
    }

    /// Raw outputs for every row of `x`, in `out` if it is given, else in a new array. None, and nothing done, when an
    /// argument is not the plain array that the Python layer makes of it.
    ///
    /// Work of some ten microseconds is done attached to the interpreter: detaching would cost more than it gives.
    fn predict<'py>(
        &self,
        x: &Bound<'py, PyAny>,
        out: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        guarded(|| {
            with_network!(self.any, shared, F => {
                let Some(x) = Matrix::of(x)?.filter(|x| x.cols() == shared.inputs) else {
                    return Ok(None);
                };
                predict_plain::<F>(shared, x, out)
            })
        })
    }

    /// (loss, metrics) over arrays or blocks.
    fn evaluate(
        &self,
        py: Python<'_>,
        feed: AnyFeed,
        loss: AnyLoss,
        metrics: Vec<(String, f64)>,
    ) -> PyResult<(f64, Vec<f64>)> {
        guarded(|| {
            let mut hooks = Hooks::default();
            let loss = loss.install(&mut hooks)?;
            let metrics = specs::parse_metrics(&metrics)?;
            hooks.blocks[0] = feed.blocks(py);
            let feed = feed.feed(Role::Main);
            let result = py.detach(|| {
                with_network!(self.any, shared, F => {
                    let objective = objective(loss.as_ref());
                    if let Some(data) = feed.arrays() {
                        check::<F>(shared, data, objective, &mut hooks)?;
                    }
                    evaluation::evaluate(shared, feed, objective, &metrics, (false, None), &mut hooks)
                })
            });
            let report = result.map_err(|error| hooks.failure(error))?;
            Ok((report.loss, report.metrics))
        })
    }

    /// Loss of all rows as one batch. `arrays_out` receives the gradients of the trainable parameters in the order of
    /// `tables`, `d_input` that of the input.
    #[allow(clippy::too_many_arguments, reason = "called from one place")]
    fn value_and_gradient(
        &self,
        py: Python<'_>,
        arrays: Arrays,
        loss: AnyLoss,
        training: bool,
        seed: u64,
        step: u64,
        arrays_out: Vec<Bound<'_, PyAny>>,
        d_input: Bound<'_, PyAny>,
    ) -> PyResult<f64> {
        guarded(|| {
            let mut hooks = Hooks::default();
            let loss = loss.install(&mut hooks)?;
            let data = arrays.data(Role::Main);
            with_network!(self.any, shared, F => {
                let mut outputs = writables::<F>(&arrays_out)?;
                let mut d_input = Writable::<F>::extract(d_input.as_borrowed())?;
                let result = py.detach(|| {
                    let objective = objective(loss.as_ref());
                    check::<F>(shared, &data, objective, &mut hooks)?;
                    let mode = Pass { training, seed, epoch: step, ..Pass::EVALUATION };
                    let gradient =
                        evaluation::value_and_gradient(shared, &data, objective, mode, &mut hooks)?;
                    let network = shared.read();
                    for (slot, out) in network.slots.iter().zip(&mut outputs) {
                        network.read(slot, &gradient.parameters, out.slice());
                    }
                    d_input.slice().copy_from_slice(&gradient.input);
                    Ok(gradient.value)
                });
                result.map_err(|error| hooks.failure(error))
            })
        })
    }
}

/// [`Network::predict`] for an `x` with the right number of columns.
fn predict_plain<'py, F: Number>(
    shared: &Shared<F>,
    x: Matrix<'py>,
    out: Option<Bound<'py, PyAny>>,
) -> std::result::Result<Option<Bound<'py, PyAny>>, Failure> {
    let shape = (x.rows(), shared.outputs);
    let result = out.map_or_else(|| arrays::empty::<F>(x.py(), shape).ok(), Some);
    let Some(result) = result else {
        return Ok(None);
    };
    let Some(mut memory) = Matrix::of(&result)?.filter(|out| !out.meets(&x)) else {
        return Ok(None);
    };
    let Some(mut sink) = memory.sink::<F>(shape) else {
        return Ok(None);
    };
    let source = x.source();
    if !evaluation::predict_at_once(shared, &source, &mut sink)? {
        let mut hooks = Hooks::default();
        let done = x.py().detach(|| {
            let mut tick = || evaluation::Monitor::<F>::tick(&mut hooks);
            evaluation::predict(shared, &source, &mut sink, &mut tick)
        });
        done.map_err(|error| hooks.failure(error))?;
    }
    Ok(Some(result))
}

/// Refuses a wrong `RANVIER_ISA` or `RANVIER_NUM_THREADS` where the core is first used.
fn check_environment() -> Result<()> {
    simd::isa()?;
    pool::threads()?;
    Ok(())
}

/// Shapes and values of `data` against the network.
fn check<F: Number>(
    shared: &Shared<F>,
    data: &Data<'_>,
    objective: Objective<'_>,
    hooks: &mut Hooks,
) -> Result<()> {
    let mut tick = || evaluation::Monitor::<F>::tick(hooks);
    data.check::<F>(objective, shared.inputs, shared.outputs, &mut tick)
}

/// Python arrays to write to.
pub fn writables<F: Number>(
    arrays: &[Bound<'_, PyAny>],
) -> std::result::Result<Vec<Writable<F>>, Failure> {
    let arrays = arrays
        .iter()
        .map(|array| Writable::extract(array.as_borrowed()));
    Ok(arrays.collect::<PyResult<_>>()?)
}

/// All values of an array, row-major.
pub fn copied<F: Number>(array: &Readable) -> Result<Buffer<F>> {
    let source = array.source();
    let mut values = Buffer::zeroed(source.rows.saturating_mul(source.cols))?;
    let rows = Rows::Range {
        first: 0,
        count: source.rows,
    };
    source.gather_rows(rows, &mut values);
    Ok(values)
}

/// Value of a loss of the core and, in `d_output`, its gradient.
#[pyfunction]
pub fn loss_value_and_gradient(
    py: Python<'_>,
    loss: LossSpec,
    arrays: Arrays,
    d_output: Bound<'_, PyAny>,
) -> PyResult<f64> {
    fn run<F: Number>(
        py: Python<'_>,
        loss: &Loss,
        data: &Data<'_>,
        d_output: &Bound<'_, PyAny>,
    ) -> std::result::Result<f64, Failure> {
        let mut d_output = Writable::<F>::extract(d_output.as_borrowed())?;
        Ok(py.detach(|| -> Result<f64> {
            let objective = Objective::Core(loss);
            let (rows, outputs) = (data.count(), data.x.cols);
            data.check_shapes(objective, outputs, outputs)?;
            data.check_values::<F>(objective, outputs, true, &mut || Ok(()))?;
            let all = Rows::Range {
                first: 0,
                count: rows,
            };
            let mut output = Buffer::<F>::zeroed(rows * outputs)?;
            data.x.gather_rows(all, &mut output);
            let mut targets = BatchTargets::<F>::new(data, rows)?;
            targets.gather(data, all);
            let target: Target<'_, F> = targets.target(0..rows);
            let weights = targets.weights(0..rows);
            if weight_sum(weights, rows) <= 0.0 {
                return Err(Error::argument("sample_weight", "a positive sum", 0));
            }
            Ok(loss.value_and_gradient(
                &output,
                target,
                weights,
                weight_sum(weights, rows),
                rows,
                d_output.slice(),
            ))
        })?)
    }
    guarded(|| {
        check_environment()?;
        let loss = specs::loss(&loss)?;
        let data = arrays.data(Role::Output);
        if Writable::<f64>::extract(d_output.as_borrowed()).is_ok() {
            run::<f64>(py, &loss, &data, &d_output)
        } else if Writable::<f32>::extract(d_output.as_borrowed()).is_ok() {
            run::<f32>(py, &loss, &data, &d_output)
        } else {
            Err(raise(
                "DTypeError",
                "output: expected float32 or float64".to_owned(),
            )
            .into())
        }
    })
}

/// The rate of a schedule after some steps and epochs; `function` is what a schedule of the caller's asks.
#[pyfunction]
pub fn rate(
    py: Python<'_>,
    schedule: Vec<specs::ScheduleSpec>,
    step: u64,
    epoch: u64,
    function: Option<Py<PyAny>>,
) -> PyResult<f64> {
    guarded(|| {
        let mut hooks = Hooks {
            on_rate: function,
            ..Hooks::default()
        };
        let schedule = specs::ScheduleSpec::parse_all(&schedule)?;
        let time = Time { step, epoch };
        let rate = py.detach(|| {
            schedule.rate(time, &mut |t| {
                evaluation::Monitor::<f64>::rate(&mut hooks, t)
            })
        });
        rate.map_err(|error| hooks.failure(error))
    })
}

/// A name with a shape.
type Table = Vec<(String, Vec<usize>)>;

/// [`Network::tables`] of a network that is not made.
#[pyfunction]
pub fn tables(layers: Vec<LayerSpec>, input_size: usize, dtype: &str) -> PyResult<[Table; 2]> {
    guarded(|| {
        let layers = specs::layers(&layers)?;
        let slots = if dtype == "float64" {
            slots::<f64>(&layers, input_size)?
        } else {
            slots::<f32>(&layers, input_size)?
        };
        Ok(slots.map(|slots| {
            slots
                .into_iter()
                .map(|slot| (slot.name, slot.dims))
                .collect()
        }))
    })
}

/// Replaces row-major weights (inputs, outputs) by 8-bit integers, as numbers; fills the scale of each output.
#[pyfunction]
pub fn quantize_weights(
    py: Python<'_>,
    weights: Bound<'_, PyAny>,
    scales: Bound<'_, PyAny>,
) -> PyResult<()> {
    fn run<F: Element + pyo3::buffer::Element>(
        py: Python<'_>,
        weights: &mut Writable<F>,
        scales: &Bound<'_, PyAny>,
    ) -> std::result::Result<(), Failure> {
        let mut scales = Writable::<F>::extract(scales.as_borrowed())?;
        py.detach(|| quantization::quantize_weights(weights.slice(), scales.slice()));
        Ok(())
    }
    guarded(|| {
        if let Ok(mut weights) = Writable::<f32>::extract(weights.as_borrowed()) {
            return run(py, &mut weights, &scales);
        }
        run(
            py,
            &mut Writable::<f64>::extract(weights.as_borrowed())?,
            &scales,
        )
    })
}

/// Scale and zero point of inputs of a layer of 8-bit integers that reach from `low` to `high`.
#[pyfunction]
pub fn input_map(low: f32, high: f32) -> (f32, f32) {
    let map = quantization::Affine::of(low, high);
    (map.scale, map.zero)
}

/// Whether a metric has a meaning under a loss.
#[pyfunction]
pub fn metric_suits(metric: (String, f64), loss: LossSpec) -> PyResult<bool> {
    guarded(|| {
        let metrics = specs::parse_metrics(&[metric])?;
        let loss = specs::loss(&loss)?;
        Ok(metrics.iter().all(|metric| metric.suits(&loss)))
    })
}

/// The order of blocks in an epoch, as bytes of u32.
#[pyfunction]
pub fn block_order(py: Python<'_>, count: usize, seed: u64, epoch: u64) -> Bound<'_, PyBytes> {
    let mut order = vec![0; count];
    permute(&mut order, Stream::new(seed, Purpose::Blocks, 0, epoch));
    bytes_of(py, &order)
}

fn bytes_of<'py>(py: Python<'py>, numbers: &[u32]) -> Bound<'py, PyBytes> {
    let bytes: Vec<u8> = numbers.iter().flat_map(|row| row.to_ne_bytes()).collect();
    PyBytes::new(py, &bytes)
}

/// Rows that a split holds out, as bytes of u32.
#[pyfunction]
pub fn holdout(py: Python<'_>, arrays: Arrays, split: (f64, u64)) -> PyResult<Bound<'_, PyBytes>> {
    guarded(|| {
        let (fraction, seed) = split;
        let split = Split { fraction, seed };
        let (_, out) = py.detach(|| split.of(&arrays.data(Role::Main)))?;
        Ok(bytes_of(py, &out))
    })
}
