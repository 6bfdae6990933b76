//! Times the parts that training is made of: products, elementary functions, optimisers, whole steps.
//!
//! ```text
//! cargo bench -p ranvier-core                            # everything, several minutes
//! cargo bench -p ranvier-core -- products/forward        # names that contain this
//! cargo bench -p ranvier-core -- --quick                 # everything, roughly
//! RANVIER_NUM_THREADS=1 cargo bench -p ranvier-core      # on so many threads
//! ```
//!
//! An element of the products' throughput is one floating-point operation, so Gelem/s are Gflop/s, to be held
//! against the peak printed first. Elsewhere elements are values, or parameters. The times of `step` are those of one
//! training step.

#![allow(clippy::print_stdout, reason = "a program that reports")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};

use ranvier_core::activation::{Activation, apply};
use ranvier_core::data::{Data, Objective, Role, Targets};
use ranvier_core::element::Element;
use ranvier_core::error::Result;
use ranvier_core::evaluation::{Monitor, Shared};
use ranvier_core::loss::Loss;
use ranvier_core::matmul::{BiasActivation, Left, Right, Store, product};
use ranvier_core::matrix::{Buffer, PanelRef, Panels};
use ranvier_core::network::{Network, Precision};
use ranvier_core::optimizers::{Adam, Clip, Dialect, Optimizer, Rule, Sgd};
use ranvier_core::plan::{Dense, Layer};
use ranvier_core::pool::{self, Session};
use ranvier_core::schedule::Schedule;
use ranvier_core::simd::{Bf16, Full, fma_peak, isa};
use ranvier_core::source::{Rows, Source};
use ranvier_core::trainer::{FitPlan, Trainer};

type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// Batch, inputs and outputs of the layers whose products are timed.
const LAYERS: [[usize; 3]; 4] = [
    [32, 64, 256],
    [128, 784, 512],
    [512, 2048, 2048],
    [128, 128, 10],
];
/// Values that a function is applied to.
const VALUES: usize = 4096;
/// Parameters that an optimiser updates.
const PARAMETERS: [usize; 2] = [1 << 14, 1 << 20];
/// What an optimiser's parameter costs, in multiply-adds of a product.
const UPDATE_WORK: usize = 32;
/// Units of each layer, the input's first, and batch size of the networks whose steps are timed.
const NETWORKS: [(&[usize], usize); 4] = [
    (&[2, 32, 1], 32),
    (&[32, 64, 32, 2], 64),
    (&[100, 256, 128, 10], 128),
    (&[784, 512, 256, 10], 128),
];
/// Steps of an epoch.
const STEPS: usize = 64;
/// Too small to learn anything: the last step's numbers are like the first's.
const LEARNING_RATE: f64 = 1e-6;

fn main() {
    // Under `cargo test --benches`, which does not say so, everything runs once and is not timed.
    if std::env::args().any(|argument| argument == "--bench") {
        print_peak();
    }
    let mut criterion = Criterion::default().configure_from_args();
    products(&mut criterion);
    functions(&mut criterion);
    optimizers(&mut criterion);
    steps(&mut criterion);
    criterion.final_summary();
}

fn print_peak() {
    let threads = pool::threads().unwrap();
    let time = Duration::from_millis(200);
    println!(
        "peak of {threads} threads ({}): {:.1} Gflop/s in f32, {:.1} in f64, {:.1} in bf16",
        isa().unwrap().name(),
        fma_peak::<f32, Full>(threads, time) / 1e9,
        fma_peak::<f64, Full>(threads, time) / 1e9,
        fma_peak::<f32, Bf16>(threads, time) / 1e9,
    );
}

/// Times `call` in a session whose rounds do so much work, as training would call it.
fn time(group: &mut Group<'_>, id: BenchmarkId, work: usize, mut call: impl FnMut()) {
    group.bench_function(id, |bencher| {
        let _session = Session::new(work);
        bencher.iter(&mut call);
    });
}

/// A number from −½ to ½.
fn number<F: Element>(index: usize) -> F {
    F::of(((index * 7919) % 1009) as f64 / 1008.0 - 0.5)
}

fn numbers<F: Element>(len: usize) -> Buffer<F> {
    let mut values = Buffer::zeroed(len).unwrap();
    for (index, value) in values.iter_mut().enumerate() {
        *value = number(index);
    }
    values
}

struct Matrix {
    shape: Panels,
    data: Buffer<f32>,
}

impl Matrix {
    fn new(rows: usize, cols: usize) -> Self {
        let shape = Panels::new(rows, cols);
        let values: Vec<f32> = (0..rows * cols).map(number).collect();
        let mut data = Buffer::zeroed(shape.len::<f32>()).unwrap();
        shape.pack(&values, &mut data);
        Self { shape, data }
    }

    fn panels(&self) -> PanelRef<'_, f32> {
        self.shape.of(&self.data)
    }
}

fn products(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("products");
    for shape in LAYERS {
        let flops = 2 * shape.iter().product::<usize>();
        group.throughput(Throughput::Elements(flops as u64));
        forward(&mut group, shape);
        d_input(&mut group, shape);
        d_weight(&mut group, shape);
        d_weight_adam(&mut group, shape);
    }
    group.finish();
}

/// Times a product of the layer as a step of its three products would call it.
fn time_product(group: &mut Group<'_>, name: &str, shape: [usize; 3], call: impl FnMut()) {
    let [batch, inputs, outputs] = shape;
    let id = BenchmarkId::new(name, format!("{batch}x{inputs}x{outputs}"));
    time(group, id, 3 * batch * inputs * outputs, call);
}

fn forward(group: &mut Group<'_>, shape: [usize; 3]) {
    let [batch, inputs, outputs] = shape;
    let (input, weight) = (Matrix::new(batch, inputs), Matrix::new(inputs, outputs));
    let bias = Matrix::new(1, outputs);
    let (mut output, mut gates) = (Matrix::new(batch, outputs), Matrix::new(batch, outputs));
    let epilogue = BiasActivation {
        bias: Some(&bias.data),
        activation: Activation::Relu,
        turned: false,
    };
    time_product(group, "forward", shape, || {
        let arrays = [&mut output.data[..], &mut gates.data];
        let right = Right::Plain(weight.panels());
        product(Left::Plain(input.panels()), right, arrays, epilogue, None);
    });
}

fn d_input(group: &mut Group<'_>, shape: [usize; 3]) {
    let [batch, inputs, outputs] = shape;
    let (d_output, weight) = (Matrix::new(batch, outputs), Matrix::new(inputs, outputs));
    let mut d_input = Matrix::new(batch, inputs);
    time_product(group, "d_input", shape, || {
        let right = Right::Transposed(weight.panels());
        let arrays = [&mut d_input.data[..]];
        product(Left::Plain(d_output.panels()), right, arrays, Store, None);
    });
}

fn d_weight(group: &mut Group<'_>, shape: [usize; 3]) {
    let [batch, inputs, outputs] = shape;
    let (input, d_output) = (Matrix::new(batch, inputs), Matrix::new(batch, outputs));
    let mut d_weight = Matrix::new(inputs, outputs);
    time_product(group, "d_weight", shape, || {
        let right = Right::Plain(d_output.panels());
        let arrays = [&mut d_weight.data[..]];
        product(Left::Transposed(input.panels()), right, arrays, Store, None);
    });
}

fn d_weight_adam(group: &mut Group<'_>, shape: [usize; 3]) {
    let [batch, inputs, outputs] = shape;
    let (input, d_output) = (Matrix::new(batch, inputs), Matrix::new(batch, outputs));
    let mut weight = Matrix::new(inputs, outputs);
    let optimizer = adam();
    let mut state = optimizer.state(weight.data.len()).unwrap();
    let update = optimizer.elementwise(&state, LEARNING_RATE).unwrap();
    time_product(group, "d_weight_adam", shape, || {
        let right = Right::Plain(d_output.panels());
        let arrays = state.moments(&mut weight.data);
        product(
            Left::Transposed(input.panels()),
            right,
            arrays,
            update,
            None,
        );
    });
}

/// Activations without their derivatives, each for a function of `math`: sigmoid for exp, elu for expm1, softplus for
/// exp and `ln_1p`, gelu for erfc. Copying the arguments is included.
fn functions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("functions");
    group.throughput(Throughput::Elements(VALUES as u64));
    for name in ["sigmoid", "tanh", "elu", "softplus", "gelu"] {
        function::<f32>(&mut group, name);
        function::<f64>(&mut group, name);
    }
    group.finish();
}

fn function<F: Element>(group: &mut Group<'_>, name: &str) {
    let activation = Activation::parse(name, None).unwrap();
    let mut arguments = numbers::<F>(VALUES);
    for argument in arguments.iter_mut() {
        *argument *= F::of(10.0);
    }
    let mut values = Buffer::zeroed(VALUES).unwrap();
    time(group, BenchmarkId::new(name, F::NAME), 0, || {
        values.copy_from_slice(&arguments);
        apply(activation, &mut values, &mut []);
        black_box(&mut values[..]);
    });
}

fn optimizers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("optimizers");
    for len in PARAMETERS {
        group.throughput(Throughput::Elements(len as u64));
        update(&mut group, "sgd_momentum", &sgd(), len);
        update(&mut group, "adam", &adam(), len);
    }
    group.finish();
}

fn update(group: &mut Group<'_>, name: &str, optimizer: &Optimizer, len: usize) {
    let (mut parameters, mut gradient) = (numbers::<f32>(len), numbers(len));
    let mut state = optimizer.state(len).unwrap();
    time(
        group,
        BenchmarkId::new(name, len),
        UPDATE_WORK * len,
        || {
            let step = optimizer.step(&mut state, &mut parameters, &mut gradient, LEARNING_RATE);
            step.unwrap();
        },
    );
}

fn sgd() -> Optimizer {
    Optimizer {
        rule: Rule::Sgd(Sgd {
            momentum: 0.9,
            dampening: 0.0,
            nesterov: false,
            weight_decay: 0.0,
            dialect: Dialect::Torch,
        }),
        clip: Clip::None,
        learning_rate: Schedule::constant(LEARNING_RATE),
    }
}

fn adam() -> Optimizer {
    Optimizer {
        rule: Rule::Adam(Adam {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            amsgrad: false,
            weight_decay: 0.0,
            decoupled: false,
            dialect: Dialect::Torch,
        }),
        clip: Clip::None,
        learning_rate: Schedule::constant(LEARNING_RATE),
    }
}

fn steps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("step");
    group.sample_size(20);
    for (units, batch) in NETWORKS {
        step(&mut group, units, batch);
    }
    group.finish();
}

/// Fits by Adam, with a share of what an epoch and a call cost besides.
fn step(group: &mut Group<'_>, units: &[usize], batch: usize) {
    let (inputs, outputs) = (units[0], units[units.len() - 1]);
    let rows = STEPS * batch;
    let network = Network::<f32>::new(&layers(units), inputs, 1).unwrap();
    let mut trainer = Trainer::new(&network, adam(), Precision::Full, None, 1).unwrap();
    let shared = Shared::new(network);
    let x = numbers::<f32>(rows * inputs);
    let (y, loss) = target(rows, outputs);
    let y = Source::from_slice(&y, rows, 1);
    let targets = match loss {
        Loss::CrossEntropy { .. } => Targets::Labels(y),
        _ => Targets::Values(y),
    };
    let x = Source::from_slice(&x, rows, inputs);
    let data = Data::new(x, Some(targets), None, Role::Main);
    let plan = FitPlan::new(data, Objective::Core(&loss), batch);
    let name: Vec<String> = units.iter().map(ToString::to_string).collect();
    let id = BenchmarkId::new(name.join("-"), format!("b{batch}"));
    group.bench_function(id, |bencher| {
        bencher.iter_custom(|epochs| {
            let begun = Instant::now();
            let plan = FitPlan {
                epochs: Some(epochs),
                ..plan
            };
            trainer.fit(&shared, plan, &mut Nobody).unwrap();
            begun.elapsed() / STEPS as u32
        });
    });
}

/// Dense layers, all but the last with relu.
fn layers(units: &[usize]) -> Vec<Layer> {
    let last = units.len() - 2;
    let dense = |(index, &units)| {
        let activation = if index < last {
            Activation::Relu
        } else {
            Activation::Identity
        };
        Layer::Dense(Dense::new(units, activation))
    };
    units[1..].iter().enumerate().map(dense).collect()
}

/// Values for one output, labels for several, and the loss that takes them.
fn target(rows: usize, outputs: usize) -> (Vec<f32>, Loss) {
    if outputs == 1 {
        return ((0..rows).map(number).collect(), Loss::Mse);
    }
    let labels = (0..rows).map(|row| (row % outputs) as f32).collect();
    let loss = Loss::CrossEntropy {
        label_smoothing: 0.0,
    };
    (labels, loss)
}

/// Watches nothing.
struct Nobody;

impl<F: Element> Monitor<F> for Nobody {
    fn tick(&mut self) -> Result<()> {
        Ok(())
    }

    fn loss(&mut self, _: Role, _: &[F], _: Rows<'_>, _: &mut [F]) -> Result<f64> {
        Ok(0.0)
    }
}
