//! A stack of layers over one flat parameter vector: what lies where, forward and backward.
//!
//! Each parameter occupies one stretch of the vector in the panel layout (a vector is a matrix of one row);
//! padding is zero and stays zero. Activations and gradients live in a [`Workspace`] that is planned once
//! for a number of rows. In training the forward pass of an elementwise layer stores its derivative where
//! the gradient of its output will come, so the layer behind only has to multiply (its "gate").

use std::mem::take;

use crate::activation::apply;
use crate::checkpoint::{File, Form, Tensor};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::lanes;
use crate::layers::{
    batch_norm, clear_padding, dropout, layer_norm, noise, pointwise, softmax, standardize,
};
use crate::loss::weight_sum;
use crate::matmul::{BiasActivation, Dequantize, Left, Right, integer_product, product};
use crate::matrix::{Buffer, PanelRef, Panels};
use crate::optimizers::Constraint;
use crate::plan::{Fill, Layer, Node, Op, Plan, Slot, Subject};
use crate::quantization::{self, Affine, Rounded};
use crate::rng::{Purpose, Stream};
use crate::source::{Rows, Source};

/// A network: its plan, its parameters and the running statistics of its normalisations.
pub struct Network<F: Element> {
    pub(crate) nodes: Vec<Node>,
    pub slots: Vec<Slot>,
    pub state_slots: Vec<Slot>,
    /// (slot, l1, l2) of weights that are penalised.
    pub(crate) penalties: Vec<(usize, f64, f64)>,
    /// By slot of the weight.
    pub(crate) constraints: Vec<(usize, Constraint)>,
    pub parameters: Buffer<F>,
    pub state: Buffer<F>,
    /// By layer of integers: what is made of its parameters.
    derived: Vec<[Buffer<F>; 2]>,
    /// Raised by every change of parameters, so that what was derived from them is renewed.
    pub version: u64,
    pub inputs: usize,
    pub outputs: usize,
}

/// What the products of a network multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// The network's numbers.
    Full,
    /// Operands rounded to bf16, sums in f32; see [`crate::matmul`].
    Bf16,
    /// Weights and inputs rounded to what 8-bit integers stand for; see [`crate::quantization::Rounded`].
    Int8,
}

impl Precision {
    /// Names of what is narrower than the network's numbers.
    pub const NAMES: [&'static str; 1] = ["bf16"];
    /// Names of what is rounded as a quantised network rounds it.
    pub const QUANTIZED: [&'static str; 1] = ["int8"];

    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "bf16" => Ok(Self::Bf16),
            "int8" => Ok(Self::Int8),
            _ => Err(Error::argument(
                "precision",
                format!("None or {}", Self::NAMES.join(", ")),
                format!("{name:?}"),
            )),
        }
    }
}

/// How a forward pass is meant.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// Batch statistics and dropout instead of running statistics and identity.
    pub training: bool,
    pub seed: u64,
    pub epoch: u64,
    /// Rows of the epoch before this batch; numbers dropout's random words.
    pub position: u64,
    /// Weights of the batch's rows, for batch statistics.
    pub weights: Option<&'a [f64]>,
    /// What the penalties of the loss are multiplied by.
    pub penalty: f64,
}

impl Pass<'_> {
    /// A pass in evaluation mode.
    pub const EVALUATION: Self = Pass {
        training: false,
        seed: 0,
        epoch: 0,
        position: 0,
        weights: None,
        penalty: 1.0,
    };
}

/// Buffers of one forward and backward pass over at most `rows` rows.
pub struct Workspace<F: Element> {
    pub rows: usize,
    backward: bool,
    /// values[l] is the input of node l, values[l + 1] its output.
    pub(crate) values: Vec<Buffer<F>>,
    /// deltas[l] is first the derivative that node l - 1 left, then the gradient of values[l].
    pub(crate) deltas: Vec<Buffer<F>>,
    pub(crate) statistics: Vec<Buffer<F>>,
    pub(crate) d_input: bool,
    /// Where products are in bf16, the place for their left operands.
    pub(crate) narrow: Option<Buffer<F>>,
    /// Where weights and inputs are rounded, what they become.
    pub(crate) rounded: Option<Rounded<F>>,
    /// Where layers are of integers, the place for their inputs.
    quads: Buffer<F>,
    /// Row-major output of the last forward pass, and the place for its gradient.
    pub output: Buffer<F>,
    pub d_output: Buffer<F>,
}

impl<F: Element> Network<F> {
    /// A network for rows of `inputs` features, initialised from `seed`.
    pub fn new(layers: &[Layer], inputs: usize, seed: u64) -> Result<Self> {
        let mut plan = Plan::of::<F>(layers, inputs)?;
        let (fills, state_fills) = (take(&mut plan.fills), take(&mut plan.state_fills));
        let mut network = Self::of(plan, inputs)?;
        for (fill, index) in fills {
            network.initialize(index, fill, seed)?;
        }
        for (slot, value) in state_fills {
            network.fill_state(slot, value);
        }
        network.derive();
        Ok(network)
    }

    /// A network of zeros.
    fn of(plan: Plan, inputs: usize) -> Result<Self> {
        let zeros = |node: &Node| Buffer::zeroed(Panels::new(1, node.outputs).len::<F>());
        let integer = |node: &&Node| matches!(node.op, Op::Integer { .. });
        let layers = plan.nodes.iter().filter(integer);
        Ok(Self {
            derived: layers
                .map(|node| Ok([zeros(node)?, zeros(node)?]))
                .collect::<Result<_>>()?,
            nodes: plan.nodes,
            penalties: plan.penalties,
            constraints: plan.constraints,
            parameters: Buffer::zeroed(plan.parameters.len)?,
            state: Buffer::zeroed(plan.state.len)?,
            slots: plan.parameters.slots,
            state_slots: plan.state.slots,
            version: 0,
            inputs,
            outputs: plan.outputs,
        })
    }

    /// A network with the parameters and running statistics of a file, where they have `names`, in order.
    pub fn load(
        layers: &[Layer],
        inputs: usize,
        file: &mut File,
        names: &[String],
    ) -> Result<Self> {
        let plan = Plan::of::<F>(layers, inputs)?;
        let slots = plan.parameters.slots.iter().chain(&plan.state.slots);
        // Before memory is asked for: a small file may describe a large network.
        for (slot, name) in slots.zip(names) {
            file.check::<F>(name, slot)?;
        }
        let mut network = Self::of(plan, inputs)?;
        let (mut parameters, mut state) = (take(&mut network.parameters), take(&mut network.state));
        network.read_tensors(file, names, "", &mut parameters, &mut state)?;
        (network.parameters, network.state) = (parameters, state);
        network.derive();
        Ok(network)
    }

    /// Fills vectors of this network's layout, of which the state may be empty, from a file: the opposite of
    /// [`Self::tensors`].
    pub fn read_tensors(
        &self,
        file: &mut File,
        names: &[String],
        prefix: &str,
        parameters: &mut [F],
        state: &mut [F],
    ) -> Result<()> {
        let (own, others) = names.split_at(self.slots.len().min(names.len()));
        for (slot, name) in self.slots.iter().zip(own) {
            file.read(&format!("{prefix}{name}"), slot, parameters)?;
        }
        if !state.is_empty() {
            for (slot, name) in self.state_slots.iter().zip(others) {
                file.read(&format!("{prefix}{name}"), slot, state)?;
            }
        }
        Ok(())
    }

    /// The parameters and running statistics, or what belongs to them, for a file, where they have `names`, in order;
    /// matrices in the form of `weights`.
    pub fn tensors<'a>(
        &'a self,
        names: &[String],
        prefix: &str,
        parameters: &'a [F],
        state: &'a [F],
        weights: Form,
    ) -> Vec<Tensor<'a, F>> {
        let slots = self.slots.iter().map(|slot| (slot, parameters));
        let states = self.state_slots.iter().map(|slot| (slot, state));
        let all = slots.chain(states).zip(names);
        let all = all.filter(|((_, flat), _)| !flat.is_empty());
        let forms = |slot: &Slot| match weights {
            Form::Int8 if slot.dims.len() == 2 => {
                vec![(Form::Int8, ""), (Form::Scales, Form::SUFFIX)]
            }
            Form::Bf16 if slot.dims.len() == 2 => vec![(Form::Bf16, "")],
            _ => vec![(Form::Own, "")],
        };
        all.flat_map(|((slot, flat), name)| {
            forms(slot).into_iter().map(move |(form, suffix)| Tensor {
                name: format!("{prefix}{name}{suffix}"),
                slot,
                flat,
                form,
            })
        })
        .collect()
    }

    fn initialize(&mut self, index: usize, fill: Fill, seed: u64) -> Result<()> {
        let slot = self.slots[index].clone();
        let shape = match slot.dims[..] {
            [rows, cols] => (rows, cols),
            [cols] => (1, cols),
            _ => (1, 1),
        };
        let mut values = Buffer::<F>::zeroed(shape.0 * shape.1)?;
        let stream = Stream::new(seed, fill.purpose, fill.layer, 0);
        fill.initializer
            .fill(&mut values, shape, fill.fans, &stream)?;
        if !values.iter().all(|value| value.finite()) {
            return Err(Error::argument(
                format!("layers, {}", slot.name),
                format!("initial values that {} can hold", F::NAME),
                format!("{:?}", fill.initializer),
            ));
        }
        let range = slot.range::<F>();
        slot.pack(&values, &mut self.parameters[range]);
        Ok(())
    }

    /// Makes anew what follows from parameters of layers of integers.
    fn derive(&mut self) {
        let mut derived = take(&mut self.derived);
        for node in &self.nodes {
            if let Op::Integer {
                weight,
                scales,
                place,
                ..
            } = node.op
            {
                let weights = self.slots[weight].panels.of(self.parameter(weight));
                let [offsets, factors] = &mut derived[place];
                let map = self.map(scales);
                quantization::derive(weights, self.statistic(scales), map, offsets, factors);
            }
        }
        self.derived = derived;
    }

    fn statistic(&self, slot: usize) -> &[F] {
        &self.state[self.state_slots[slot].range::<F>()]
    }

    /// How a layer of integers takes its inputs.
    fn map(&self, scales: usize) -> Affine<F> {
        Affine {
            scale: self.statistic(scales + 1)[0],
            zero: self.statistic(scales + 2)[0],
        }
    }

    fn fill_state(&mut self, index: usize, value: f64) {
        let slot = &self.state_slots[index];
        self.state[slot.offset..][..slot.panels.cols].fill(F::of(value));
    }

    /// A copy with its own parameters.
    pub fn duplicate(&self) -> Result<Self> {
        Ok(Self {
            nodes: self.nodes.clone(),
            penalties: self.penalties.clone(),
            constraints: self.constraints.clone(),
            slots: self.slots.clone(),
            state_slots: self.state_slots.clone(),
            parameters: Buffer::copied(&self.parameters)?,
            state: Buffer::copied(&self.state)?,
            derived: self
                .derived
                .iter()
                .map(|[offsets, factors]| Ok([Buffer::copied(offsets)?, Buffer::copied(factors)?]))
                .collect::<Result<_>>()?,
            version: self.version,
            inputs: self.inputs,
            outputs: self.outputs,
        })
    }

    /// Copies a parameter or running statistic out, row-major.
    pub fn read(&self, slot: &Slot, flat: &[F], values: &mut [F]) {
        slot.unpack(&flat[slot.range::<F>()], values);
    }

    /// Replaces trainable parameters, and running statistics, which are counted after them, by row-major values.
    pub fn write<'a>(&mut self, values: impl IntoIterator<Item = (usize, &'a [F])>) {
        for (index, values) in values {
            let (slot, flat) = match index.checked_sub(self.slots.len()) {
                None => (&self.slots[index], &mut self.parameters),
                Some(index) => (&self.state_slots[index], &mut self.state),
            };
            slot.pack(values, &mut flat[slot.range::<F>()]);
        }
        self.derive();
        self.version += 1;
    }

    /// Replaces a running statistic.
    pub fn write_state(&mut self, index: usize, values: &[F]) {
        self.write([(self.slots.len() + index, values)]);
    }

    /// Packs row-major values of one parameter into a flat vector of this network's layout.
    pub fn pack_into(&self, index: usize, values: &[F], flat: &mut [F]) {
        let slot = &self.slots[index];
        slot.pack(values, &mut flat[slot.range::<F>()]);
    }

    /// Number of trainable values.
    pub fn count(&self) -> usize {
        self.slots.iter().map(Slot::count).sum()
    }

    /// What the penalties add to the loss: Σ l1·Σ|w| + l2·Σw², in f64.
    pub fn penalty(&self) -> f64 {
        let terms = self
            .penalties
            .iter()
            .map(|&(slot, l1, l2)| lanes::penalty(self.parameter(slot), l1, l2));
        terms.sum()
    }

    /// Whether a row's output depends on the other rows of its batch.
    pub fn has_batch_norm(&self) -> bool {
        let mut nodes = self.nodes.iter();
        nodes.any(|node| matches!(node.op, Op::BatchNorm { .. }))
    }

    /// Whether layers multiply integers.
    pub fn has_integers(&self) -> bool {
        !self.derived.is_empty()
    }

    /// Values of a row at the widest place.
    pub fn widest(&self) -> usize {
        let outputs = self.nodes.iter().map(|node| node.outputs);
        outputs.fold(self.inputs, usize::max)
    }

    /// What a step ends with: moves weights that break their constraint to where they keep it.
    pub fn constrain(&mut self) {
        for (slot, constraint) in &self.constraints {
            let slot = &self.slots[*slot];
            constraint.apply(slot, &mut self.parameters[slot.range::<F>()]);
        }
    }

    /// Work of a training step on `rows` rows, in multiply-adds of f32: an update of a parameter counts as twenty.
    pub fn step_work(&self, rows: usize) -> usize {
        let wide = size_of::<F>() / size_of::<f32>();
        self.parameters.len().saturating_mul(wide * (3 * rows + 20))
    }

    /// Work of a row's forward pass, in multiply-adds: a value that passes through a function counts as sixteen.
    pub fn row_work(&self) -> usize {
        let values: usize = self.nodes.iter().map(|node| node.outputs).sum();
        self.parameters.len() + 16 * values
    }

    /// Buffers for `rows` rows; `backward` for training, `d_input` when the gradient of the input is wanted.
    pub fn workspace(
        &self,
        rows: usize,
        backward: bool,
        d_input: bool,
        precision: Precision,
    ) -> Result<Workspace<F>> {
        let shapes = std::iter::once(Panels::new(rows, self.inputs))
            .chain(self.nodes.iter().map(|node| node.output_shape(rows)));
        let sizes: Vec<usize> = shapes.map(Panels::len::<F>).collect();
        let buffers = |needed: &dyn Fn(usize) -> bool| {
            let sizes = sizes.iter().enumerate();
            let sizes = sizes.map(|(l, &size)| if needed(l) { size } else { 0 });
            sizes.map(Buffer::zeroed).collect::<Result<Vec<_>>>()
        };
        Ok(Workspace {
            rows,
            backward,
            values: buffers(&|_| true)?,
            deltas: buffers(&|l| backward && (l > 0 || d_input))?,
            statistics: self
                .nodes
                .iter()
                .map(|node| Buffer::zeroed(node.statistics::<F>(rows)))
                .collect::<Result<_>>()?,
            d_input,
            rounded: match precision {
                Precision::Full | Precision::Bf16 => None,
                Precision::Int8 => {
                    let input = |node: &Node| match node.op {
                        Op::Dense { .. } => node.input_shape(rows).len::<F>(),
                        _ => 0,
                    };
                    let lens = self.nodes.iter().map(input);
                    Some(Rounded {
                        weights: Buffer::zeroed(self.parameters.len())?,
                        inputs: lens.map(Buffer::zeroed).collect::<Result<_>>()?,
                    })
                }
            },
            narrow: match precision {
                Precision::Full | Precision::Int8 => None,
                Precision::Bf16 => {
                    let lefts = self.nodes.iter().map(|node| node.narrow_len::<F>(rows));
                    Some(Buffer::zeroed(lefts.max().unwrap_or(0))?)
                }
            },
            quads: {
                let lens = self.nodes.iter().map(|node| node.quads::<F>(rows));
                Buffer::zeroed(lens.max().unwrap_or(0))?
            },
            output: Buffer::zeroed(rows * self.outputs)?,
            d_output: Buffer::zeroed(if backward { rows * self.outputs } else { 0 })?,
        })
    }

    fn parameter(&self, index: usize) -> &[F] {
        &self.parameters[self.slots[index].range::<F>()]
    }

    /// Puts rows of `x` into the workspace's input, less the mean where the first layer standardises.
    pub fn take(&self, x: &Source<'_>, rows: Rows<'_>, workspace: &mut Workspace<F>) {
        let shift = match self.nodes[0].op {
            Op::Standardize {
                of: of @ Subject::Inputs,
                mean,
                ..
            } => {
                self.factors(of, mean, &mut workspace.statistics[0]);
                &workspace.statistics[0][..Panels::new(1, self.inputs).len::<F>()]
            }
            _ => &[],
        };
        x.gather(rows, shift, &mut workspace.values[0]);
    }

    /// What a layer that standardises subtracts or adds, and multiplies, of each feature.
    fn factors(&self, of: Subject, mean: usize, factors: &mut [F]) {
        let [mean, var] =
            [mean, mean + 1].map(|slot| &self.state[self.state_slots[slot].range::<F>()]);
        let (shift, scale) = factors.split_at_mut(mean.len());
        standardize::factors(of, mean, var, shift, scale);
    }

    /// Runs the first `rows` rows of the workspace's input through all layers; the result is in
    /// `workspace.output`.
    pub fn forward(&self, workspace: &mut Workspace<F>, rows: usize, pass: Pass<'_>) {
        clear_padding(Panels::new(rows, self.inputs), &mut workspace.values[0]);
        for (l, node) in self.nodes.iter().enumerate() {
            let shape = node.output_shape(rows);
            let (before, after) = workspace.values.split_at_mut(l + 1);
            if node.turned() {
                // The input's columns are those of the weight and its gradient, whose padding is zero.
                clear_padding(node.input_shape(rows), &mut before[l]);
            }
            let inputs = node.input_shape(rows);
            let input = &before[l][..inputs.len::<F>()];
            let output = &mut after[0][..shape.len::<F>()];
            let gates = if workspace.backward && node.gated() {
                &mut workspace.deltas[l + 1][..shape.len::<F>()]
            } else {
                &mut []
            };
            let statistics = &mut workspace.statistics[l];
            if let Op::Integer { .. } = node.op {
                let marked =
                    self.forward_integers(node, inputs.of(input), output, &mut workspace.quads);
                for row in marked {
                    for panel in 0..shape.count::<F>() {
                        let width = shape.width::<F>(panel);
                        let start = shape.panel::<F>(panel).start + row * width;
                        output[start..start + width].fill(F::NAN);
                    }
                }
                continue;
            }
            let mut input = input;
            let mut parameters = &*self.parameters;
            if let (Op::Dense { weight, .. }, Some(rounded)) = (node.op, &mut workspace.rounded) {
                let range = self.slots[weight].range::<F>();
                let to = &mut rounded.weights[range.clone()];
                quantization::round_weight(&self.slots[weight], &parameters[range], to);
                quantization::round_inputs(inputs.of(input), &mut rounded.inputs[l]);
                input = &rounded.inputs[l][..input.len()];
                parameters = &rounded.weights;
            }
            let narrow = workspace.narrow.as_deref_mut();
            self.forward_node(
                parameters, node, inputs, input, output, gates, statistics, pass, narrow,
            );
        }
        let depth = self.nodes.len();
        let (node, last) = (self.nodes[depth - 1], &workspace.values[depth]);
        let output = &mut workspace.output[..rows * self.outputs];
        if node.turned() {
            node.output_shape(rows).unpack_transposed(last, output);
        } else {
            node.output_shape(rows).unpack(last, output);
        }
    }

    /// A dense layer of integers; the rows whose outputs are NaN.
    fn forward_integers(
        &self,
        node: &Node,
        input: PanelRef<'_, F>,
        output: &mut [F],
        place: &mut [F],
    ) -> Vec<usize> {
        let Op::Integer {
            weight,
            bias,
            activation,
            scales,
            place: number,
        } = node.op
        else {
            return Vec::new();
        };
        let shape = quantization::in_quads(input.shape.rows, input.shape.cols);
        let quads = &mut place[..shape.len::<F>()];
        let marked = quantization::quantize_rows(input, self.map(scales), quads);
        let [offsets, factors] = &self.derived[number];
        let epilogue = Dequantize {
            offsets,
            factors,
            bias: bias.map(|bias| self.parameter(bias)),
            activation,
        };
        let weights = self.slots[weight].panels.of(self.parameter(weight));
        integer_product(shape.of(quads), weights, output, epilogue);
        marked
    }

    /// `weights` has the weights of dense layers, in the layout of the parameters.
    fn forward_node(
        &self,
        weights: &[F],
        node: &Node,
        shape: Panels,
        input: &[F],
        output: &mut [F],
        gates: &mut [F],
        statistics: &mut [F],
        pass: Pass<'_>,
        narrow: Option<&mut [F]>,
    ) {
        match node.op {
            Op::Dense {
                weight,
                bias,
                activation,
                turned,
            } => {
                let slot = &self.slots[weight];
                let weight = slot.panels.of(&weights[slot.range::<F>()]);
                let input = shape.of(input);
                let epilogue = BiasActivation {
                    bias: bias.map(|bias| self.parameter(bias)),
                    activation,
                    turned,
                };
                let (left, right) = if turned {
                    (Left::Plain(weight), Right::Transposed(input))
                } else {
                    (Left::Plain(input), Right::Plain(weight))
                };
                product(left, right, [output, gates], epilogue, narrow);
            }
            Op::Integer { .. } => {}
            Op::Pointwise(activation) => {
                output.copy_from_slice(input);
                apply(activation, output, gates);
            }
            Op::PRelu { slope } => {
                pointwise::prelu_forward(self.parameter(slope)[0], input, output);
            }
            Op::Dropout { rate, layer } if pass.training => {
                let stream = Stream::new(pass.seed, Purpose::Dropout, layer, pass.epoch);
                let threshold = (rate * 4_294_967_296.0) as u32;
                let factor = F::of(1.0 / (1.0 - rate));
                dropout::forward(
                    stream,
                    threshold,
                    factor,
                    pass.position,
                    shape,
                    input,
                    output,
                    gates,
                );
            }
            Op::Dropout { .. } => {
                output.copy_from_slice(input);
                gates.fill(F::ONE);
            }
            Op::GaussianNoise { stddev, layer } if pass.training => {
                let stream = Stream::new(pass.seed, Purpose::Noise, layer, pass.epoch);
                noise::forward(stream, stddev, pass.position, shape, input, output);
            }
            Op::GaussianNoise { .. } => output.copy_from_slice(input),
            Op::LayerNorm { eps, weight } => layer_norm::forward(
                shape,
                F::of(eps),
                self.parameter(weight),
                self.parameter(weight + 1),
                input,
                output,
                statistics,
            ),
            Op::BatchNorm {
                eps, weight, mean, ..
            } => {
                let width = Panels::new(1, node.outputs).len::<F>();
                let (batch_mean, rest) = statistics.split_at_mut(width);
                let (batch_var, scale) = rest.split_at_mut(width);
                if pass.training {
                    let whole = weight_sum(pass.weights, shape.rows);
                    let batch = batch_norm::Statistics {
                        mean: batch_mean,
                        var: batch_var,
                    };
                    batch_norm::measure(shape, pass.weights, whole, input, batch);
                } else {
                    batch_mean.copy_from_slice(&self.state[self.state_slots[mean].range::<F>()]);
                    batch_var.copy_from_slice(&self.state[self.state_slots[mean + 1].range::<F>()]);
                }
                batch_norm::scales(F::of(eps), batch_var, scale);
                batch_norm::forward(
                    shape,
                    batch_mean,
                    scale,
                    self.parameter(weight),
                    self.parameter(weight + 1),
                    input,
                    output,
                );
            }
            Op::Softmax => softmax::forward(shape, input, output),
            Op::Standardize { of, mean, turned } => {
                // Those of the inputs are there, as the input was taken.
                if of == Subject::Targets {
                    self.factors(of, mean, statistics);
                }
                let factors = statistics.split_at(Panels::new(1, node.outputs).len::<F>());
                standardize::forward(of, shape, turned, factors.into(), input, output);
            }
        }
    }

    /// The slot of the mean of a layer that standardises `of` and has no statistics yet; that of the variance is the
    /// next.
    pub fn unfitted(&self, of: Subject) -> Option<usize> {
        self.nodes.iter().find_map(|node| match node.op {
            Op::Standardize { of: own, mean, .. } if own == of => {
                let var = &self.state[self.state_slots[mean + 1].range::<F>()];
                var.iter().all(|&var| var <= F::ZERO).then_some(mean)
            }
            _ => None,
        })
    }

    /// Moves the running statistics towards those of the workspace's last training pass. A batch with fewer
    /// than two rows of positive weight says nothing about a variance and is passed over.
    pub fn track_statistics(&mut self, workspace: &Workspace<F>, rows: usize, pass: Pass<'_>) {
        let present = pass
            .weights
            .map_or(rows, |w| w.iter().filter(|&&w| w > 0.0).count());
        if present < 2 {
            return;
        }
        let whole = weight_sum(pass.weights, rows);
        for (node, statistics) in self.nodes.iter().zip(&workspace.statistics) {
            if let Op::BatchNorm { momentum, mean, .. } = node.op {
                let width = self.state_slots[mean].panels.len::<F>();
                let running = &mut self.state[self.state_slots[mean].offset..][..2 * width];
                let running = running.split_at_mut(width);
                let batch = (&statistics[..width], &statistics[width..2 * width]);
                batch_norm::track(momentum, whole, running, batch);
            }
        }
    }
}

impl<F: Element> Workspace<F> {
    /// Memory of a workspace without a backward pass.
    pub fn bytes(&self) -> usize {
        let values: usize = self.values.iter().map(|buffer| buffer.len()).sum();
        (values + self.output.len()) * size_of::<F>()
    }

    /// Place for the input, in panels of (rows, inputs).
    pub fn input(&mut self) -> &mut [F] {
        &mut self.values[0]
    }

    /// Gradient of the input after [`Network::backward`], in panels.
    pub fn d_input(&self) -> &[F] {
        &self.deltas[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::Activation;
    use crate::backward::Part;
    use crate::init::Initializer;
    use crate::plan::Dense;

    fn dense(units: usize) -> Layer {
        Layer::Dense(Dense {
            bias_init: Initializer::Constant(0.5),
            ..Dense::new(units, Activation::Sigmoid)
        })
    }

    /// The sigmoid of padding is not zero, and padding must not reach norms of gradients.
    #[test]
    fn padding_of_gradients_is_zero_for_every_layout() {
        let of = Subject::Targets;
        for (widths, rows, last) in [
            (vec![20, 3], 5, None),
            (vec![20, 3], 5, Some(Layer::Standardize { of })),
            (vec![3, 1], 1, None),
            (vec![70, 9], 17, None),
            (vec![70, 9], 17, Some(Layer::Standardize { of })),
            (vec![2, 2], 2, None),
        ] {
            let layers = widths.iter().map(|&units| dense(units)).chain(last);
            let layers: Vec<Layer> = layers.collect();
            let network = Network::<f32>::new(&layers, 7, 1).unwrap();
            let mut workspace = network
                .workspace(rows, true, true, Precision::Full)
                .unwrap();
            // What an earlier, larger batch may have left.
            workspace.input().fill(3.0);
            network.forward(&mut workspace, rows, Pass::EVALUATION);
            workspace.d_output.fill(1.0);
            let mut gradient = Buffer::zeroed(network.parameters.len()).unwrap();
            network.backward(
                &mut workspace,
                rows,
                Pass::EVALUATION,
                Part::WHOLE,
                &mut gradient,
            );
            let mut data = vec![0.0; gradient.len()];
            for (index, slot) in network.slots.iter().enumerate() {
                network.pack_into(index, &vec![1.0; slot.count()], &mut data);
            }
            for (at, (&value, &data)) in gradient.iter().zip(&data).enumerate() {
                assert_eq!(value != 0.0, data != 0.0, "{widths:?} at {at}: {value}");
            }
        }
    }
}
