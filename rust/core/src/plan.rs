//! From layers as the user describes them to the plan of a network: which nodes run, and where each
//! parameter lies in the flat vector.

use crate::activation::Activation;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::init::{Fans, Initializer};
use crate::lanes;
use crate::matmul::narrow_len;
use crate::matrix::Panels;
use crate::optimizers::Constraint;
use crate::quantization::{MAX_INPUTS, in_quads};
use crate::rng::Purpose;
use crate::simd::quads;

/// A last layer with fewer outputs than a vector has lanes, by this factor, is computed with the batch as columns:
/// its padding would cost more than transposing its input.
const NARROW: usize = 4;

/// An activation as a layer names it: elementwise, or one of the two that are layers of their own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum AnyActivation {
    Elementwise(Activation),
    /// One learned slope for the layer, from this start.
    PRelu {
        slope: f64,
    },
    Softmax,
}

impl AnyActivation {
    /// The activation with this name; see [`Activation::parse`].
    pub fn parse(name: &str, parameter: Option<f64>) -> Result<Self> {
        if let Some(value) = parameter.filter(|value| !value.is_finite()) {
            return Err(Error::argument(
                "activation",
                "a finite parameter",
                format!("{name} with {value}"),
            ));
        }
        match name {
            "prelu" => Ok(Self::PRelu {
                slope: parameter.unwrap_or(0.25),
            }),
            "softmax" => Ok(Self::Softmax),
            _ => Activation::parse(name, parameter).map(Self::Elementwise),
        }
    }

    fn relu_like(self) -> bool {
        match self {
            Self::Elementwise(activation) => activation.relu_like(),
            Self::PRelu { .. } => true,
            Self::Softmax => false,
        }
    }
}

/// A fully connected layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dense {
    pub units: usize,
    pub activation: AnyActivation,
    pub use_bias: bool,
    pub weight_init: Initializer,
    pub bias_init: Initializer,
    /// Penalties of the weight in the loss.
    pub l1: f64,
    pub l2: f64,
    /// What each step ends with.
    pub max_norm: Option<f64>,
    pub non_negative: bool,
    /// Whether it multiplies 8-bit integers, which cannot be trained; see [`crate::quantization`].
    pub integer: bool,
}

impl Dense {
    /// A layer without options.
    pub fn new(units: usize, activation: Activation) -> Self {
        Self {
            units,
            activation: AnyActivation::Elementwise(activation),
            use_bias: true,
            weight_init: Initializer::Auto,
            bias_init: Initializer::Constant(0.0),
            l1: 0.0,
            l2: 0.0,
            max_norm: None,
            non_negative: false,
            integer: false,
        }
    }
}

/// What a layer standardises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The network's inputs.
    Inputs,
    /// Its outputs are put into the units of the targets.
    Targets,
}

impl Subject {
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "inputs" => Ok(Self::Inputs),
            "targets" => Ok(Self::Targets),
            _ => Err(Error::argument(
                "of",
                "inputs or targets",
                format!("{name:?}"),
            )),
        }
    }
}

/// A layer as the user describes it.
#[derive(Debug, Clone, PartialEq)]
pub enum Layer {
    Dense(Dense),
    Activation(AnyActivation),
    Dropout {
        rate: f64,
    },
    GaussianNoise {
        stddev: f64,
    },
    LayerNorm {
        eps: f64,
    },
    BatchNorm {
        momentum: f64,
        eps: f64,
    },
    Softmax,
    /// The first layer, or of targets the last one.
    Standardize {
        of: Subject,
    },
}

/// A parameter's place in a flat vector.
#[derive(Debug, Clone)]
pub struct Slot {
    /// Ranvier's name: layer number and role, "0.weight".
    pub name: String,
    /// Shape as the outside sees it: (in, out), (n,) or ().
    pub dims: Vec<usize>,
    /// Shape in storage.
    pub panels: Panels,
    pub storage: Storage,
    pub offset: usize,
}

/// How a parameter is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    Plain,
    /// As its transpose.
    Turned,
    /// As 8-bit integers, four that follow each other in a column to an element.
    Integer,
}

impl Slot {
    /// Number of values.
    pub fn count(&self) -> usize {
        self.dims.iter().product()
    }

    /// Row-major `values` to storage.
    pub fn pack<F: Element>(&self, values: &[F], storage: &mut [F]) {
        match self.storage {
            Storage::Plain => self.panels.pack(values, storage),
            Storage::Turned => self.panels.pack_transposed(values, storage),
            Storage::Integer => self.pack_integers(values, storage, false),
        }
    }

    /// Storage to row-major `values`.
    pub fn unpack<F: Element>(&self, storage: &[F], values: &mut [F]) {
        match self.storage {
            Storage::Plain => self.panels.unpack(storage, values),
            Storage::Turned => self.panels.unpack_transposed(storage, values),
            Storage::Integer => self.unpack_integers(storage, values, false),
        }
    }

    /// Where a row-major, or transposed, integer lies: the element, and the byte in it.
    fn place<F: Element>(&self, index: usize, transposed: bool) -> (usize, usize) {
        let (row, column) = if transposed {
            (index % self.dims[0], index / self.dims[0])
        } else {
            (index / self.dims[1], index % self.dims[1])
        };
        let (panel, element) = (column / F::PANEL, row / quads::VALUES);
        let start = self.panels.panel::<F>(panel).start;
        let at = start + element * self.panels.width::<F>(panel) + column % F::PANEL;
        (at, row % quads::VALUES)
    }

    /// Row-major integers (in, out), or transposed (out, in), to storage.
    pub(crate) fn pack_integers<F: Element>(
        &self,
        values: &[F],
        storage: &mut [F],
        transposed: bool,
    ) {
        storage.fill(F::ZERO);
        for (index, value) in values.iter().enumerate() {
            let (at, byte) = self.place::<F>(index, transposed);
            let mut bytes = quads::bytes(storage[at].bits());
            bytes[byte] = value.to_f64() as i8 as u8;
            storage[at] = F::of_bits(quads::quad(bytes));
        }
    }

    /// The inverse of [`Self::pack_integers`].
    pub(crate) fn unpack_integers<F: Element>(
        &self,
        storage: &[F],
        values: &mut [F],
        transposed: bool,
    ) {
        for (index, value) in values.iter_mut().enumerate() {
            let (at, byte) = self.place::<F>(index, transposed);
            *value = F::of_int((quads::bytes(storage[at].bits())[byte] as i8).into());
        }
    }

    pub(crate) fn range<F: Element>(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.panels.len::<F>()
    }
}

/// What a node computes. Indices point into the parameter slots or, for running statistics, state slots.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Op {
    Dense {
        weight: usize,
        bias: Option<usize>,
        activation: Activation,
        /// Whether output, gradient and weight are stored as their transposes: the batch as columns.
        turned: bool,
    },
    /// A dense layer of 8-bit integers: its scales of the weights, its map of the inputs (scale, zero) in consecutive
    /// state slots.
    Integer {
        weight: usize,
        bias: Option<usize>,
        activation: Activation,
        scales: usize,
        /// Number among the layers of its kind.
        place: usize,
    },
    Pointwise(Activation),
    PRelu {
        slope: usize,
    },
    Dropout {
        rate: f64,
        layer: usize,
    },
    GaussianNoise {
        stddev: f64,
        layer: usize,
    },
    LayerNorm {
        eps: f64,
        weight: usize,
    },
    BatchNorm {
        momentum: f64,
        eps: f64,
        weight: usize,
        mean: usize,
    },
    Softmax,
    Standardize {
        of: Subject,
        mean: usize,
        /// As for `Dense`, and so is the input.
        turned: bool,
    },
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    pub(crate) op: Op,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
}

impl Node {
    /// Whether the forward pass leaves the derivative for the layer behind to multiply.
    pub(crate) fn gated(&self) -> bool {
        match self.op {
            Op::Dense { activation, .. } => activation != Activation::Identity,
            Op::Pointwise(_) | Op::Dropout { .. } => true,
            _ => false,
        }
    }

    /// Whether training changes parameters of it.
    pub(crate) fn trainable(&self) -> bool {
        matches!(
            self.op,
            Op::Dense { .. } | Op::PRelu { .. } | Op::LayerNorm { .. } | Op::BatchNorm { .. }
        )
    }

    /// Whether the output is stored as its transpose, the batch as columns.
    pub(crate) fn turned(&self) -> bool {
        matches!(
            self.op,
            Op::Dense { turned: true, .. } | Op::Standardize { turned: true, .. }
        )
    }

    /// Shape in which `rows` rows of input are stored.
    pub(crate) fn input_shape(&self, rows: usize) -> Panels {
        match self.op {
            Op::Standardize { turned: true, .. } => Panels::new(self.inputs, rows),
            _ => Panels::new(rows, self.inputs),
        }
    }

    /// Shape in which `rows` rows of output are stored.
    pub(crate) fn output_shape(&self, rows: usize) -> Panels {
        if self.turned() {
            Panels::new(self.outputs, rows)
        } else {
            Panels::new(rows, self.outputs)
        }
    }

    /// Elements that the left operand of any of the node's products takes in bf16.
    pub(crate) fn narrow_len<F: Element>(&self, rows: usize) -> usize {
        let input = Panels::new(rows, self.inputs);
        let output = self.output_shape(rows);
        let lefts = match self.op {
            Op::Dense { turned: true, .. } => [
                (Panels::new(self.outputs, self.inputs), false),
                (output, true),
                (output, false),
            ],
            Op::Dense { .. } => [(input, false), (output, false), (input, true)],
            _ => return 0,
        };
        let lens = lefts.map(|(left, transposed)| narrow_len::<F>(left, transposed));
        lens.into_iter().max().unwrap_or(0)
    }

    /// Elements that the node's input takes as integers.
    pub(crate) fn quads<F: Element>(&self, rows: usize) -> usize {
        match self.op {
            Op::Integer { .. } => in_quads(rows, self.inputs).len::<F>(),
            _ => 0,
        }
    }

    /// Elements of what a batch leaves: forward for backward, or one part of a batch for the next one.
    pub(crate) fn statistics<F: Element>(&self, rows: usize) -> usize {
        match self.op {
            Op::Dense {
                turned: true,
                bias: Some(_),
                ..
            } => lanes::COUNT * self.outputs,
            Op::LayerNorm { .. } => 2 * rows,
            Op::BatchNorm { .. } => 3 * Panels::new(1, self.outputs).len::<F>(),
            Op::Standardize { .. } => 2 * Panels::new(1, self.outputs).len::<F>(),
            _ => 0,
        }
    }
}

/// How a parameter gets its first values.
pub(crate) struct Fill {
    pub(crate) initializer: Initializer,
    pub(crate) purpose: Purpose,
    pub(crate) layer: usize,
    pub(crate) fans: Fans,
}

/// One flat vector in the making.
#[derive(Default)]
pub(crate) struct Layout {
    pub(crate) slots: Vec<Slot>,
    pub(crate) len: usize,
}

impl Layout {
    fn add<F: Element>(&mut self, name: String, dims: Vec<usize>, storage: Storage) -> usize {
        let panels = match (&dims[..], storage) {
            (&[rows, cols], Storage::Plain) => Panels::new(rows, cols),
            (&[rows, cols], Storage::Turned) => Panels::new(cols, rows),
            (&[rows, cols], Storage::Integer) => Panels::new(rows.div_ceil(quads::VALUES), cols),
            (&[cols], _) => Panels::new(1, cols),
            _ => Panels::new(1, 1),
        };
        let offset = self.len;
        self.len = self.len.saturating_add(panels.len::<F>());
        self.slots.push(Slot {
            name,
            dims,
            panels,
            storage,
            offset,
        });
        self.slots.len() - 1
    }
}

/// A network in the making.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) outputs: usize,
    pub(crate) nodes: Vec<Node>,
    pub(crate) parameters: Layout,
    pub(crate) state: Layout,
    pub(crate) fills: Vec<(Fill, usize)>,
    pub(crate) state_fills: Vec<(usize, f64)>,
    /// (slot, l1, l2)
    pub(crate) penalties: Vec<(usize, f64, f64)>,
    /// By slot.
    pub(crate) constraints: Vec<(usize, Constraint)>,
}

/// Parameters and running statistics of a network that is not made.
pub fn slots<F: Element>(layers: &[Layer], inputs: usize) -> Result<[Vec<Slot>; 2]> {
    let plan = Plan::of::<F>(layers, inputs)?;
    Ok([plan.parameters.slots, plan.state.slots])
}

impl Plan {
    /// The plan of `layers` for rows of `inputs` features.
    pub(crate) fn of<F: Element>(layers: &[Layer], inputs: usize) -> Result<Self> {
        check_sizes::<F>(layers, inputs)?;
        let mut plan = Self {
            outputs: inputs,
            ..Self::default()
        };
        // What puts outputs into the targets' units takes them as they lie.
        let depth = match layers {
            [before @ .., Layer::Standardize { .. }] => before.len(),
            _ => layers.len(),
        };
        for (number, layer) in layers.iter().enumerate() {
            let last = number + 1 == depth;
            if matches!(layer, Layer::Dense(dense) if dense.integer) && plan.outputs > MAX_INPUTS {
                return Err(Error::argument(
                    format!("layers[{number}]"),
                    format!(
                        "at most {MAX_INPUTS} inputs of a layer of integers, whose sums have 32 bits"
                    ),
                    plan.outputs,
                ));
            }
            plan.outputs = plan.add::<F>(number, layer, plan.outputs, last);
        }
        Ok(plan)
    }

    /// Adds the nodes of `layer`; returns its width.
    fn add<F: Element>(&mut self, number: usize, layer: &Layer, width: usize, last: bool) -> usize {
        let outputs = match layer {
            Layer::Dense(dense) => dense.units,
            _ => width,
        };
        let node = |op| Node {
            op,
            inputs: width,
            outputs,
        };
        match layer {
            Layer::Dense(dense) => self.dense::<F>(number, dense, width, last),
            Layer::Activation(activation) => self.activation::<F>(number, *activation, width),
            Layer::Dropout { rate } => self.nodes.push(node(Op::Dropout {
                rate: *rate,
                layer: number,
            })),
            Layer::GaussianNoise { stddev } => self.nodes.push(node(Op::GaussianNoise {
                stddev: *stddev,
                layer: number,
            })),
            Layer::LayerNorm { eps } => {
                let weight = self.affine::<F>(number, width);
                self.nodes.push(node(Op::LayerNorm { eps: *eps, weight }));
            }
            Layer::BatchNorm { momentum, eps } => {
                let weight = self.affine::<F>(number, width);
                let mean = self.running::<F>(number, width);
                self.state_fills.push((mean + 1, 1.0));
                self.nodes.push(node(Op::BatchNorm {
                    momentum: *momentum,
                    eps: *eps,
                    weight,
                    mean,
                }));
            }
            Layer::Softmax => self.nodes.push(node(Op::Softmax)),
            Layer::Standardize { of } => {
                let turned = self.nodes.last().is_some_and(Node::turned);
                let mean = self.running::<F>(number, width);
                self.nodes.push(node(Op::Standardize {
                    of: *of,
                    mean,
                    turned,
                }));
            }
        }
        outputs
    }

    fn dense<F: Element>(&mut self, number: usize, dense: &Dense, width: usize, last: bool) {
        let Dense {
            units: outputs,
            activation,
            l1,
            l2,
            max_norm,
            non_negative,
            ..
        } = *dense;
        let weight_init = match dense.weight_init {
            Initializer::Auto if activation.relu_like() => Initializer::HeUniform,
            other => other,
        };
        let fans = Fans {
            inputs: width,
            outputs,
        };
        let turned = last
            && !dense.integer
            && NARROW * outputs <= F::LANES
            && matches!(activation, AnyActivation::Elementwise(_));
        let storage = match (dense.integer, turned) {
            (true, _) => Storage::Integer,
            (false, true) => Storage::Turned,
            (false, false) => Storage::Plain,
        };
        let weight = self.parameter::<F>(
            format!("{number}.weight"),
            vec![width, outputs],
            storage,
            Fill {
                initializer: weight_init,
                purpose: Purpose::Weight,
                layer: number,
                fans,
            },
        );
        if l1 != 0.0 || l2 != 0.0 {
            self.penalties.push((weight, l1, l2));
        }
        if max_norm.is_some() || non_negative {
            self.constraints.push((
                weight,
                Constraint {
                    max_norm,
                    non_negative,
                },
            ));
        }
        let bias = dense.use_bias.then(|| {
            let fill = Fill {
                initializer: dense.bias_init,
                purpose: Purpose::Bias,
                layer: number,
                fans,
            };
            self.parameter::<F>(
                format!("{number}.bias"),
                vec![outputs],
                Storage::Plain,
                fill,
            )
        });
        let elementwise = match activation {
            AnyActivation::Elementwise(activation) => activation,
            _ => Activation::Identity,
        };
        let op = if dense.integer {
            let place = |node: &&Node| matches!(node.op, Op::Integer { .. });
            Op::Integer {
                weight,
                bias,
                activation: elementwise,
                scales: self.scales::<F>(number, outputs),
                place: self.nodes.iter().filter(place).count(),
            }
        } else {
            Op::Dense {
                weight,
                bias,
                activation: elementwise,
                turned,
            }
        };
        self.nodes.push(Node {
            op,
            inputs: width,
            outputs,
        });
        if !matches!(activation, AnyActivation::Elementwise(_)) {
            self.activation::<F>(number, activation, outputs);
        }
    }

    /// Scales of an integer layer's weights, and scale and zero of its inputs, in consecutive slots; returns the first.
    fn scales<F: Element>(&mut self, number: usize, outputs: usize) -> usize {
        let mut add = |role, dims| {
            let name = format!("{number}.{role}");
            let slot = self.state.add::<F>(name, dims, Storage::Plain);
            self.state_fills.push((slot, 1.0));
            slot
        };
        let scales = add("weight_scale", vec![outputs]);
        add("input_scale", vec![]);
        add("input_zero_point", vec![]);
        scales
    }

    /// Running mean and variance in consecutive slots; returns the mean's.
    fn running<F: Element>(&mut self, number: usize, width: usize) -> usize {
        let mut add = |role| {
            self.state
                .add::<F>(format!("{number}.{role}"), vec![width], Storage::Plain)
        };
        let mean = add("running_mean");
        add("running_var");
        mean
    }

    fn activation<F: Element>(&mut self, number: usize, activation: AnyActivation, width: usize) {
        let op = match activation {
            AnyActivation::Elementwise(activation) => Op::Pointwise(activation),
            AnyActivation::Softmax => Op::Softmax,
            AnyActivation::PRelu { slope } => Op::PRelu {
                slope: self.constant::<F>(format!("{number}.slope"), vec![], slope),
            },
        };
        self.nodes.push(Node {
            op,
            inputs: width,
            outputs: width,
        });
    }

    /// Weight 1 and bias 0 of a normalisation, in consecutive slots; returns the weight's.
    fn affine<F: Element>(&mut self, number: usize, width: usize) -> usize {
        let weight = self.constant::<F>(format!("{number}.weight"), vec![width], 1.0);
        self.constant::<F>(format!("{number}.bias"), vec![width], 0.0);
        weight
    }

    fn constant<F: Element>(&mut self, name: String, dims: Vec<usize>, value: f64) -> usize {
        let fill = Fill {
            initializer: Initializer::Constant(value),
            purpose: Purpose::Weight,
            layer: 0,
            fans: Fans {
                inputs: 1,
                outputs: 1,
            },
        };
        self.parameter::<F>(name, dims, Storage::Plain, fill)
    }

    fn parameter<F: Element>(
        &mut self,
        name: String,
        dims: Vec<usize>,
        storage: Storage,
        fill: Fill,
    ) -> usize {
        let slot = self.parameters.add::<F>(name, dims, storage);
        self.fills.push((fill, slot));
        slot
    }
}

/// Refuses widths that make no network or whose matrices no machine could address.
fn check_sizes<F: Element>(layers: &[Layer], inputs: usize) -> Result<()> {
    const LIMIT: usize = 1 << 31;
    if layers.is_empty() {
        return Err(Error::argument("layers", "at least one layer", "none"));
    }
    if layers.len() > 1 << 16 {
        return Err(Error::argument(
            "layers",
            "at most 65536 layers",
            layers.len(),
        ));
    }
    if inputs == 0 || inputs > LIMIT {
        return Err(Error::argument(
            "input_size",
            "a positive number of features up to 2^31",
            inputs,
        ));
    }
    for (number, layer) in layers.iter().enumerate() {
        let fault = match layer {
            Layer::Standardize {
                of: Subject::Inputs,
            } if number > 0 => Some((
                "layers",
                "a Standardize of inputs as the first layer",
                format!("it as layer {number}"),
            )),
            Layer::Standardize {
                of: Subject::Targets,
            } if number + 1 < layers.len() => Some((
                "layers",
                "a Standardize of targets as the last layer",
                format!("it as layer {number} of {}", layers.len()),
            )),
            Layer::Dense(Dense { units, .. }) if *units == 0 || *units > LIMIT => {
                Some(("units", "a positive number up to 2^31", units.to_string()))
            }
            Layer::Dense(Dense {
                activation: AnyActivation::Elementwise(activation),
                ..
            })
            | Layer::Activation(AnyActivation::Elementwise(activation))
                if activation.parameter().is_some_and(|p| !F::of(p).finite()) =>
            {
                Some((
                    "activation",
                    "a parameter that the model's dtype can hold",
                    format!("{activation:?}"),
                ))
            }
            Layer::Dense(Dense {
                max_norm: Some(max_norm),
                ..
            }) if !(*max_norm > 0.0 && max_norm.is_finite()) => Some((
                "max_norm",
                "a positive, finite number",
                max_norm.to_string(),
            )),
            Layer::GaussianNoise { stddev } if !(*stddev >= 0.0 && F::of(*stddev).finite()) => {
                Some((
                    "stddev",
                    "a number, 0 or more, that the model's dtype can hold",
                    stddev.to_string(),
                ))
            }
            Layer::Dropout { rate } if !(0.0..1.0).contains(rate) => {
                Some(("rate", "a number in [0, 1)", rate.to_string()))
            }
            Layer::LayerNorm { eps } | Layer::BatchNorm { eps, .. }
                if !(F::of(*eps) > F::ZERO && F::of(*eps).finite()) =>
            {
                Some((
                    "eps",
                    "a positive number that the model's dtype can hold",
                    format!("{eps:e}"),
                ))
            }
            Layer::BatchNorm { momentum, .. } if !(*momentum > 0.0 && *momentum <= 1.0) => {
                Some(("momentum", "a number in (0, 1]", momentum.to_string()))
            }
            Layer::Dense(Dense { integer: true, .. }) if size_of::<F>() != quads::VALUES => Some((
                "dtype",
                "float32 for layers of integers",
                F::NAME.to_owned(),
            )),
            Layer::Dense(Dense {
                bias_init: Initializer::Orthogonal { .. },
                ..
            }) => Some((
                "bias_init",
                "an initializer of vectors",
                "orthogonal".to_owned(),
            )),
            _ => None,
        };
        if let Some((argument, expected, got)) = fault {
            return Err(Error::argument(argument, expected, got));
        }
    }
    Ok(())
}
