//! After the first step a training step allocates nothing, and neither does a prediction after the first.

#![allow(unsafe_code, reason = "a counting allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use ranvier_core::activation::Activation;
use ranvier_core::data::{Data, Objective, Role, Targets};
use ranvier_core::element::Element;
use ranvier_core::error::Result;
use ranvier_core::evaluation::{Monitor, Shared, predict, predict_at_once};
use ranvier_core::loss::Loss;
use ranvier_core::network::{Network, Precision};
use ranvier_core::optimizers::{
    Adam, Clip, Dialect, Lbfgs, LevenbergMarquardt, Method, Optimizer, Rule, Search,
};
use ranvier_core::plan::{Dense, Layer, Subject};
use ranvier_core::schedule::Schedule;
use ranvier_core::source::{Rows, Sink, Source};
use ranvier_core::trainer::{Ending, FitPlan, Trainer};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: delegates to the system's allocator; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: forwarded.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: forwarded.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Nobody;

impl<F: Element> Monitor<F> for Nobody {
    fn tick(&mut self) -> Result<()> {
        Ok(())
    }

    fn loss(&mut self, _: Role, _: &[F], _: Rows<'_>, _: &mut [F]) -> Result<f64> {
        Ok(0.0)
    }
}

fn dense(units: usize, activation: Activation) -> Layer {
    Layer::Dense(Dense::new(units, activation))
}

/// Allocations of a fit of so many epochs by a trainer that is warm.
fn allocations(precision: Precision, epochs: u64) -> usize {
    let layers = [
        Layer::Standardize {
            of: Subject::Inputs,
        },
        dense(70, Activation::Tanh),
        Layer::BatchNorm {
            momentum: 0.1,
            eps: 1e-5,
        },
        Layer::Dropout { rate: 0.5 },
        Layer::LayerNorm { eps: 1e-5 },
        dense(3, Activation::Identity),
    ];
    let shared = Shared::new(Network::<f32>::new(&layers, 20, 1).unwrap());
    let optimizer = Optimizer {
        rule: Rule::Adam(Adam {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            amsgrad: true,
            weight_decay: 0.0,
            decoupled: false,
            dialect: Dialect::Torch,
        }),
        clip: Clip::Norm(1.0),
        learning_rate: Schedule::constant(1e-3),
    };
    let mut trainer = Trainer::new(&shared.read(), optimizer, precision, Some(0.9), 1).unwrap();
    let x: Vec<f32> = (0..130 * 20).map(|i| (i % 17) as f32 - 8.0).collect();
    let y: Vec<f32> = (0..130).map(|i| (i % 3) as f32).collect();
    let loss = Loss::CrossEntropy {
        label_smoothing: 0.1,
    };
    let labels = Targets::Labels(Source::from_slice(&y, 130, 1));
    let x = Source::from_slice(&x, 130, 20);
    let data = Data::new(x, Some(labels), None, Role::Main);
    let plan = |epochs| FitPlan {
        epochs: Some(epochs),
        ..FitPlan::new(data, Objective::Core(&loss), 32)
    };
    trainer.fit(&shared, plan(1), &mut Nobody).unwrap();
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    trainer.fit(&shared, plan(epochs), &mut Nobody).unwrap();
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

/// The same of a second-order method.
fn search_allocations(search: Search, epochs: u64) -> usize {
    let layers = [
        dense(9, Activation::Tanh),
        Layer::LayerNorm { eps: 1e-5 },
        dense(2, Activation::Identity),
    ];
    let shared = Shared::new(Network::<f64>::new(&layers, 5, 1).unwrap());
    let method = Method::Search(search);
    let mut trainer = Trainer::new(&shared.read(), method, Precision::Full, None, 1).unwrap();
    let x: Vec<f64> = (0..300 * 5).map(|i| f64::from(i % 17) - 8.0).collect();
    let y: Vec<f64> = (0..300 * 2).map(|i| f64::from(i % 7)).collect();
    let targets = Targets::Values(Source::from_slice(&y, 300, 2));
    let x = Source::from_slice(&x, 300, 5);
    let data = Data::new(x, Some(targets), None, Role::Main);
    let plan = |epochs| FitPlan {
        epochs: Some(epochs),
        ..FitPlan::new(data, Objective::Core(&Loss::Mse), 300)
    };
    trainer.fit(&shared, plan(1), &mut Nobody).unwrap();
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let ending = trainer.fit(&shared, plan(epochs), &mut Nobody).unwrap();
    assert_eq!(ending, Ending::Epochs);
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

/// Allocations of `count` predictions of so many rows by a network that has predicted as many before.
fn predictions(units: usize, rows: usize, count: usize) -> usize {
    let layers = [
        Layer::Standardize {
            of: Subject::Inputs,
        },
        dense(units, Activation::Tanh),
        Layer::BatchNorm {
            momentum: 0.1,
            eps: 1e-5,
        },
        dense(3, Activation::Identity),
        Layer::Standardize {
            of: Subject::Targets,
        },
    ];
    let shared = Shared::new(Network::<f32>::new(&layers, 20, 1).unwrap());
    let x = vec![0.5; rows * 20];
    let x = Source::from_slice(&x, rows, 20);
    let mut out = vec![0.0; rows * 3];
    let mut run = || {
        let mut out = Sink::from_slice(&mut out);
        if !predict_at_once(&shared, &x, &mut out).unwrap() {
            predict(&shared, &x, &mut out, &mut || Ok(())).unwrap();
        }
    };
    // Until every helper has come in time for a task.
    for _ in 0..50 {
        run();
    }
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..count {
        run();
    }
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

/// One test, because the counter is one.
#[test]
fn a_step_and_a_prediction_allocate_nothing() {
    for precision in [Precision::Full, Precision::Bf16] {
        assert_eq!(allocations(precision, 1), allocations(precision, 40));
    }
    let lbfgs = Search::Lbfgs(Lbfgs {
        history_size: 4,
        max_evaluations: 20,
        tolerance_grad: 0.0,
        tolerance_loss: 0.0,
    });
    let squares = Search::LevenbergMarquardt(LevenbergMarquardt {
        damping: 1e-3,
        tolerance_grad: 0.0,
        tolerance_loss: 0.0,
        tolerance_step: 0.0,
    });
    for search in [lbfgs, squares] {
        // Until every helper has come in time for a task, and has its place to work in.
        for _ in 0..10 {
            search_allocations(search, 20);
        }
        assert_eq!(
            search_allocations(search, 1),
            search_allocations(search, 20)
        );
    }
    for (units, rows) in [(64, 1), (64, 8), (50_000, 1)] {
        assert_eq!(predictions(units, rows, 20), 0);
    }
}
