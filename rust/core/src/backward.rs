//! The backward pass: from the gradient of the output to those of the input and of the parameters, which an optimiser
//! may use at once.

use std::ops::Range;

use crate::element::Element;
use crate::layers::{
    DInput, batch_norm, clear_padding, layer_norm, pointwise, softmax, standardize,
};
use crate::loss::weight_sum;
use crate::matmul::{Continue, Gate, Left, Right, Store, product};
use crate::matrix::{Order, Panels, for_each_tile};
use crate::network::{Network, Pass, Workspace};
use crate::optimizers::{OptimizerState, Penalty, Update};
use crate::plan::{Node, Op, Slot};
use crate::pool;

/// What an element of the output's gradient costs on its way into panels, in multiply-adds of a product.
const RECEIVING: usize = 4;

impl<F: Element> Network<F> {
    /// From `workspace.d_output` (row-major, of the last forward pass) to the gradient of every parameter in
    /// `gradient` and, where the workspace was planned for it, of the input. Of a batch in several parts, `gradient`
    /// must hold what the part before has left, in the same workspace.
    pub fn backward(
        &self,
        workspace: &mut Workspace<F>,
        rows: usize,
        pass: Pass<'_>,
        part: Part,
        gradient: &mut [F],
    ) {
        Backward {
            nodes: &self.nodes,
            slots: &self.slots,
            penalties: &self.penalties,
            parameters: Parameters::Fixed(&self.parameters),
            gradient,
            rows,
            pass,
            part,
        }
        .run(workspace);
    }

    /// The same without what the penalties add: the derivative of the outputs along `workspace.d_output`.
    pub fn backward_of_outputs(
        &self,
        workspace: &mut Workspace<F>,
        rows: usize,
        gradient: &mut [F],
    ) {
        Backward {
            nodes: &self.nodes,
            slots: &self.slots,
            penalties: &[],
            parameters: Parameters::Fixed(&self.parameters),
            gradient,
            rows,
            pass: Pass::EVALUATION,
            part: Part::WHOLE,
        }
        .run(workspace);
    }

    /// The same as [`Self::backward`], and each parameter is updated as soon as its gradient is known: the gradient of a
    /// weight exists tile by tile only. `gradient` is scratch.
    pub fn backward_and_update(
        &mut self,
        workspace: &mut Workspace<F>,
        rows: usize,
        pass: Pass<'_>,
        gradient: &mut [F],
        update: Update<F>,
        state: &mut OptimizerState<F>,
    ) {
        Backward {
            nodes: &self.nodes,
            slots: &self.slots,
            penalties: &self.penalties,
            parameters: Parameters::Updated(update, state.moments(&mut self.parameters)),
            gradient,
            rows,
            pass,
            part: Part::WHOLE,
        }
        .run(workspace);
        state.step += 1;
    }
}

/// Which rows of a batch a backward pass is for.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// Rows that came before.
    pub before: usize,
    /// Whether none comes after.
    pub last: bool,
}

impl Part {
    pub const WHOLE: Self = Self {
        before: 0,
        last: true,
    };
}

/// The parameters during a backward pass.
enum Parameters<'a, F> {
    Fixed(&'a [F]),
    /// With their moments.
    Updated(Update<F>, [&'a mut [F]; 4]),
}

/// A backward pass.
struct Backward<'a, F> {
    nodes: &'a [Node],
    slots: &'a [Slot],
    penalties: &'a [(usize, f64, f64)],
    parameters: Parameters<'a, F>,
    gradient: &'a mut [F],
    rows: usize,
    pass: Pass<'a>,
    part: Part,
}

/// What the forward pass left for one node.
struct Stored<'a, F> {
    input: &'a [F],
    output: &'a [F],
    statistics: &'a mut [F],
}

impl<F: Element> Backward<'_, F> {
    fn run(mut self, workspace: &mut Workspace<F>) {
        let depth = self.nodes.len();
        let last = self.nodes[depth - 1];
        receive(
            last,
            self.rows,
            &workspace.d_output,
            &mut workspace.deltas[depth],
        );
        // Gradients in front of the first parameter are of use for that of the input alone.
        let trained = self.nodes.iter().position(Node::trainable).unwrap_or(depth);
        let first = if workspace.d_input { 0 } else { trained };
        for l in (first..depth).rev() {
            let node = self.nodes[l];
            let (before, after) = workspace.deltas.split_at_mut(l + 1);
            let d_output = &after[0][..node.output_shape(self.rows).len::<F>()];
            let inputs = node.input_shape(self.rows);
            let d_input = (l > first || workspace.d_input).then(|| DInput {
                data: &mut before[l][..inputs.len::<F>()],
                gated: l > 0 && self.nodes[l - 1].gated(),
            });
            let rounded = workspace.rounded.as_ref();
            let input = match (node.op, rounded) {
                (Op::Dense { .. }, Some(rounded)) => &rounded.inputs[l],
                _ => &workspace.values[l],
            };
            let stored = Stored {
                input,
                output: &workspace.values[l + 1],
                statistics: &mut workspace.statistics[l],
            };
            self.node(
                node,
                rounded.map(|rounded| &*rounded.weights),
                stored,
                d_output,
                d_input,
                workspace.narrow.as_deref_mut(),
            );
        }
    }

    /// `rounded` has what was multiplied in place of weights.
    fn node(
        &mut self,
        node: Node,
        rounded: Option<&[F]>,
        stored: Stored<'_, F>,
        d_output: &[F],
        d_input: Option<DInput<'_, F>>,
        narrow: Option<&mut [F]>,
    ) {
        let inputs = node.input_shape(self.rows);
        match node.op {
            Op::Dense {
                weight,
                bias,
                turned,
                ..
            } => self.dense(
                node,
                rounded,
                (weight, bias, turned),
                stored,
                d_output,
                d_input,
                narrow,
            ),
            // Integers are for prediction alone.
            Op::Integer { .. } => {}
            Op::Pointwise(_) | Op::Dropout { .. } | Op::GaussianNoise { .. } => {
                if let Some(d_input) = d_input {
                    pointwise::pass_on(d_output, d_input);
                }
            }
            Op::PRelu { slope } => {
                let value = self.parameter(slope)[0];
                let resumed = self.part.before > 0;
                let d_slope = &mut self.gradient(slope)[0];
                pointwise::prelu_backward(
                    value,
                    inputs,
                    stored.input,
                    d_output,
                    resumed,
                    d_slope,
                    d_input,
                );
                self.update(slope, 1);
            }
            Op::LayerNorm { weight, .. } => {
                let resumed = self.part.before > 0;
                let (value, d_weight, d_bias) = self.affine(weight);
                layer_norm::backward(
                    inputs,
                    value,
                    stored.input,
                    stored.statistics,
                    d_output,
                    resumed,
                    d_weight,
                    d_bias,
                    d_input,
                );
                self.update(weight, 2);
            }
            Op::BatchNorm { weight, .. } => {
                let width = Panels::new(1, node.outputs).len::<F>();
                let (mean, scale) = (&stored.statistics[..width], &stored.statistics[2 * width..]);
                let whole = weight_sum(self.pass.weights, self.rows);
                let batch = self.pass.training.then_some((self.pass.weights, whole));
                let (value, d_weight, d_bias) = self.affine(weight);
                batch_norm::backward(
                    inputs,
                    batch,
                    mean,
                    scale,
                    value,
                    stored.input,
                    d_output,
                    d_weight,
                    d_bias,
                    d_input,
                );
                self.update(weight, 2);
            }
            Op::Softmax => {
                if let Some(d_input) = d_input {
                    softmax::backward(inputs, stored.output, d_output, d_input);
                }
            }
            Op::Standardize { turned, .. } => {
                if let Some(d_input) = d_input {
                    let scale = &stored.statistics[Panels::new(1, node.outputs).len::<F>()..];
                    standardize::backward(inputs, turned, scale, d_output, d_input);
                }
            }
        }
    }

    fn dense(
        &mut self,
        node: Node,
        rounded: Option<&[F]>,
        (weight, bias, turned): (usize, Option<usize>, bool),
        stored: Stored<'_, F>,
        d_output: &[F],
        d_input: Option<DInput<'_, F>>,
        mut narrow: Option<&mut [F]>,
    ) {
        let d_output = node.output_shape(self.rows).of(d_output);
        if let Some(d_input) = d_input {
            let slot = &self.slots[weight];
            let values = rounded.map(|rounded| &rounded[slot.range::<F>()]);
            let weight = slot.panels.of(values.unwrap_or(self.parameter(weight)));
            let (left, right) = if turned {
                (Left::Transposed(d_output), Right::Plain(weight))
            } else {
                (Left::Plain(d_output), Right::Transposed(weight))
            };
            let narrow = narrow.as_deref_mut();
            if d_input.gated {
                product(left, right, [d_input.data], Gate, narrow);
            } else {
                product(left, right, [d_input.data], Store, narrow);
            }
        }
        let input = node.input_shape(self.rows).of(stored.input);
        let (left, right) = if turned {
            (Left::Plain(d_output), Right::Plain(input))
        } else {
            (Left::Transposed(input), Right::Plain(d_output))
        };
        self.weight_gradient(weight, left, right, narrow);
        if let Some(bias) = bias {
            let before = self.part.before;
            let sums = self.gradient(bias);
            if turned {
                pointwise::row_sums(d_output, before, stored.statistics, sums);
            } else {
                pointwise::column_sums(d_output, before > 0, sums);
            }
            self.update(bias, 1);
        }
    }

    fn parameter(&self, index: usize) -> &[F] {
        let parameters = match &self.parameters {
            Parameters::Fixed(parameters) => parameters,
            Parameters::Updated(_, [parameters, ..]) => &**parameters,
        };
        &parameters[self.slots[index].range::<F>()]
    }

    fn gradient(&mut self, index: usize) -> &mut [F] {
        &mut self.gradient[self.slots[index].range::<F>()]
    }

    fn span(&self, index: usize, count: usize) -> Range<usize> {
        self.slots[index].offset..self.slots[index + count - 1].range::<F>().end
    }

    /// A scale with the gradients of itself and of the shift that follows it.
    fn affine(&mut self, weight: usize) -> (&[F], &mut [F], &mut [F]) {
        let parameters = match &self.parameters {
            Parameters::Fixed(parameters) => parameters,
            Parameters::Updated(_, [parameters, ..]) => &**parameters,
        };
        let (weight, bias) = (self.slots[weight].range::<F>(), &self.slots[weight + 1]);
        let (before, after) = self.gradient.split_at_mut(bias.offset);
        (
            &parameters[weight.clone()],
            &mut before[weight],
            &mut after[..bias.panels.len::<F>()],
        )
    }

    /// `left · right` as the gradient of a weight: stored, or used at once.
    fn weight_gradient(
        &mut self,
        index: usize,
        left: Left<'_, F>,
        right: Right<'_, F>,
        narrow: Option<&mut [F]>,
    ) {
        let range = self.slots[index].range::<F>();
        let penalty = self.penalties.iter().find(|(slot, ..)| *slot == index);
        let penalty = penalty.map(|&(_, l1, l2)| {
            let factor = self.pass.penalty;
            Penalty::new(factor * l1, factor * l2)
        });
        match &mut self.parameters {
            Parameters::Fixed(parameters) => {
                let gradient = &mut self.gradient[range.clone()];
                if self.part.before == 0 {
                    product(left, right, [&mut *gradient], Store, narrow);
                } else {
                    product(left, right, [&mut *gradient], Continue, narrow);
                }
                if let (Some(penalty), true) = (penalty, self.part.last) {
                    penalty.add_to(gradient, &parameters[range]);
                }
            }
            Parameters::Updated(update, arrays) => {
                let update = update.penalized(penalty);
                product(left, right, stretch(arrays, range), update, narrow);
            }
        }
    }

    /// Updates `count` parameters from `index` on, whose gradients are known.
    fn update(&mut self, index: usize, count: usize) {
        let range = self.span(index, count);
        if let Parameters::Updated(update, arrays) = &mut self.parameters {
            update.run(&mut self.gradient[range.clone()], stretch(arrays, range));
        }
    }
}

/// The same stretch of each array that is not empty.
fn stretch<'a, F>(arrays: &'a mut [&mut [F]; 4], range: Range<usize>) -> [&'a mut [F]; 4] {
    arrays.each_mut().map(|array| {
        if array.is_empty() {
            &mut [][..]
        } else {
            &mut array[range.clone()]
        }
    })
}

/// Takes the row-major gradient of the output in, multiplying the gate where the last node left one.
fn receive<F: Element>(node: Node, rows: usize, d_output: &[F], delta: &mut [F]) {
    let shape = node.output_shape(rows);
    let (row_step, col_step) = if node.turned() {
        (1, node.outputs)
    } else {
        (node.outputs, 1)
    };
    let gated = node.gated();
    let work = RECEIVING * shape.rows * shape.cols;
    let block = shape.rows.div_ceil(pool::team(work));
    for_each_tile(
        shape,
        [&mut *delta],
        (block, 1),
        Order::Rows,
        work,
        |mut tile| {
            let (p, first) = (tile.panels.start, tile.first_row);
            let (width, used) = (tile.width(p), shape.used::<F>(p));
            let [delta] = tile.part(p);
            for (row, to) in delta.chunks_exact_mut(width).enumerate() {
                let from = &d_output[(first + row) * row_step + p * F::PANEL * col_step..];
                let to = &mut to[..used];
                if col_step > 1 {
                    for (to, &from) in to.iter_mut().zip(from.iter().step_by(col_step)) {
                        *to = if gated { from * *to } else { from };
                    }
                } else if gated {
                    for (to, &from) in to.iter_mut().zip(from) {
                        *to = from * *to;
                    }
                } else {
                    to.copy_from_slice(&from[..used]);
                }
            }
        },
    );
    clear_padding(shape, delta);
}
