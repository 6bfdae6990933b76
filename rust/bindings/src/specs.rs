//! Definitions as the Python layer hands them over, parsed into the core's enums.

use pyo3::prelude::*;
use ranvier_core::error::{Error, Result};
use ranvier_core::init::Initializer;
use ranvier_core::loss::Loss;
use ranvier_core::metric::Metric;
use ranvier_core::optimizers::{
    Adam, Clip, Dialect, Lbfgs, LevenbergMarquardt, Method, Optimizer, Rule, Search, Sgd,
};
use ranvier_core::plan::{AnyActivation, Dense, Layer, Subject};
use ranvier_core::schedule::{self, Per, Plateau, Schedule};

/// (name, parameter)
type ActivationSpec = (String, Option<f64>);
/// (name, value, truncated)
type InitializerSpec = (String, Option<f64>, bool);

/// A layer: the attribute names are those of `ranvier.layers`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct LayerSpec {
    kind: String,
    #[pyo3(default)]
    units: usize,
    #[pyo3(default)]
    activation: ActivationSpec,
    #[pyo3(default)]
    use_bias: bool,
    #[pyo3(default)]
    weight_init: InitializerSpec,
    #[pyo3(default)]
    bias_init: InitializerSpec,
    #[pyo3(default)]
    l1: f64,
    #[pyo3(default)]
    l2: f64,
    #[pyo3(default)]
    max_norm: Option<f64>,
    #[pyo3(default)]
    non_negative: bool,
    #[pyo3(default)]
    integer: bool,
    #[pyo3(default)]
    rate: f64,
    #[pyo3(default)]
    stddev: f64,
    #[pyo3(default)]
    momentum: f64,
    #[pyo3(default)]
    eps: f64,
    #[pyo3(default)]
    of: String,
}

fn initializer((name, value, truncated): &InitializerSpec) -> Result<Initializer> {
    Initializer::parse(name, *value, *truncated)
}

impl LayerSpec {
    pub fn parse(&self) -> Result<Layer> {
        let activation = || AnyActivation::parse(&self.activation.0, self.activation.1);
        Ok(match self.kind.as_str() {
            "dense" => Layer::Dense(Dense {
                units: self.units,
                activation: activation()?,
                use_bias: self.use_bias,
                weight_init: initializer(&self.weight_init)?,
                bias_init: initializer(&self.bias_init)?,
                l1: self.l1,
                l2: self.l2,
                max_norm: self.max_norm,
                non_negative: self.non_negative,
                integer: self.integer,
            }),
            "activation" => Layer::Activation(activation()?),
            "dropout" => Layer::Dropout { rate: self.rate },
            "gaussian_noise" => Layer::GaussianNoise {
                stddev: self.stddev,
            },
            "layer_norm" => Layer::LayerNorm { eps: self.eps },
            "batch_norm" => Layer::BatchNorm {
                momentum: self.momentum,
                eps: self.eps,
            },
            "softmax" => Layer::Softmax,
            "standardize" => Layer::Standardize {
                of: Subject::parse(&self.of)?,
            },
            other => {
                return Err(Error::argument(
                    "layers",
                    "a layer of ranvier.layers",
                    other,
                ));
            }
        })
    }
}

/// Layers, or the first one's fault.
pub fn layers(specs: &[LayerSpec]) -> Result<Vec<Layer>> {
    specs.iter().map(LayerSpec::parse).collect()
}

/// A loss of the core: (name, options).
pub type LossSpec = (String, Vec<f64>);

pub fn loss((name, options): &LossSpec) -> Result<Loss> {
    Loss::parse(name, options)
}

/// A schedule: the attribute names are those of `ranvier.schedules`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct ScheduleSpec {
    kind: String,
    per: String,
    #[pyo3(default)]
    rate: f64,
    #[pyo3(default)]
    start: f64,
    #[pyo3(default)]
    end: f64,
    #[pyo3(default)]
    steps: u64,
    #[pyo3(default)]
    every: u64,
    #[pyo3(default)]
    factor: f64,
    #[pyo3(default)]
    power: f64,
    #[pyo3(default)]
    restarts: f64,
    #[pyo3(default)]
    warmup: f64,
    #[pyo3(default)]
    patience: u64,
    #[pyo3(default)]
    cooldown: u64,
    #[pyo3(default)]
    min_rate: f64,
}

impl ScheduleSpec {
    pub fn parse_all(specs: &[Self]) -> Result<Schedule> {
        let Some((first, rest)) = specs.split_first() else {
            return Err(Error::argument("learning_rate", "a schedule", "none"));
        };
        first.parse(rest)
    }

    fn parse(&self, rest: &[Self]) -> Result<Schedule> {
        let &Self {
            rate,
            start,
            end,
            steps,
            every,
            factor,
            power,
            restarts,
            warmup,
            ..
        } = self;
        let rule = match self.kind.as_str() {
            "constant" => schedule::Rule::Constant { rate },
            "step" => schedule::Rule::Step {
                rate,
                every,
                factor,
            },
            "exponential" => schedule::Rule::Exponential {
                rate,
                every,
                factor,
            },
            "polynomial" => schedule::Rule::Polynomial {
                rate,
                end,
                steps,
                power,
            },
            "cosine" => schedule::Rule::Cosine {
                rate,
                end,
                steps,
                restarts,
            },
            "one_cycle" => schedule::Rule::OneCycle {
                rate,
                start,
                end,
                steps,
                warmup,
            },
            "inverse_scaling" => schedule::Rule::InverseScaling { rate, power },
            "warmup" => schedule::Rule::Warmup {
                start,
                steps,
                then: Box::new(Self::parse_all(rest)?),
            },
            "plateau" => schedule::Rule::Plateau(Plateau {
                rate,
                factor,
                patience: self.patience,
                cooldown: self.cooldown,
                min_rate: self.min_rate,
            }),
            "function" => schedule::Rule::External,
            other => {
                return Err(Error::argument(
                    "learning_rate",
                    "a schedule of ranvier.schedules",
                    other,
                ));
            }
        };
        Ok(Schedule {
            rule,
            per: Per::parse(&self.per)?,
        })
    }
}

/// Metrics by name and option.
pub fn parse_metrics(specs: &[(String, f64)]) -> Result<Vec<Metric>> {
    specs
        .iter()
        .map(|(name, option)| Metric::parse(name, *option))
        .collect()
}

/// An optimiser: the attribute names are those of `ranvier.optimizers`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct OptimizerSpec {
    kind: String,
    dialect: String,
    /// What comes first warms up for what comes next.
    learning_rate: Vec<ScheduleSpec>,
    weight_decay: f64,
    clip_norm: Option<f64>,
    clip_value: Option<f64>,
    #[pyo3(default)]
    momentum: f64,
    #[pyo3(default)]
    dampening: f64,
    #[pyo3(default)]
    nesterov: bool,
    #[pyo3(default)]
    beta1: f64,
    #[pyo3(default)]
    beta2: f64,
    #[pyo3(default)]
    eps: f64,
    #[pyo3(default)]
    amsgrad: bool,
    #[pyo3(default)]
    decoupled: bool,
}

impl OptimizerSpec {
    pub fn parse(&self) -> Result<Optimizer> {
        let dialect = Dialect::parse(&self.dialect)?;
        let clip = match (self.clip_norm, self.clip_value) {
            (Some(limit), None) => Clip::Norm(limit),
            (None, Some(limit)) => Clip::Value(limit),
            (None, None) => Clip::None,
            (Some(_), Some(_)) => {
                return Err(Error::argument(
                    "clip_norm and clip_value",
                    "at most one of them",
                    "both",
                ));
            }
        };
        let rule = if self.kind == "sgd" {
            let sgd = Sgd {
                momentum: self.momentum,
                dampening: self.dampening,
                nesterov: self.nesterov,
                weight_decay: self.weight_decay,
                dialect,
            };
            sgd.validate()?;
            Rule::Sgd(sgd)
        } else {
            let adam = Adam {
                beta1: self.beta1,
                beta2: self.beta2,
                eps: self.eps,
                amsgrad: self.amsgrad,
                weight_decay: self.weight_decay,
                decoupled: self.decoupled,
                dialect,
            };
            adam.validate()?;
            Rule::Adam(adam)
        };
        Ok(Optimizer {
            rule,
            clip,
            learning_rate: ScheduleSpec::parse_all(&self.learning_rate)?,
        })
    }
}

/// Any optimiser, told apart by the attributes of `ranvier.optimizers`.
#[derive(FromPyObject)]
pub enum MethodSpec {
    Lbfgs(LbfgsSpec),
    LevenbergMarquardt(LevenbergMarquardtSpec),
    Step(OptimizerSpec),
}

#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct LbfgsSpec {
    history_size: usize,
    max_evaluations: u64,
    tolerance_grad: f64,
    tolerance_loss: f64,
}

#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct LevenbergMarquardtSpec {
    damping: f64,
    tolerance_grad: f64,
    tolerance_loss: f64,
    tolerance_step: f64,
}

impl MethodSpec {
    pub fn parse(&self) -> Result<Method> {
        Ok(match self {
            Self::Step(optimizer) => Method::Step(optimizer.parse()?),
            Self::Lbfgs(spec) => Method::Search(Search::Lbfgs(Lbfgs {
                history_size: spec.history_size,
                max_evaluations: spec.max_evaluations,
                tolerance_grad: spec.tolerance_grad,
                tolerance_loss: spec.tolerance_loss,
            })),
            Self::LevenbergMarquardt(spec) => {
                Method::Search(Search::LevenbergMarquardt(LevenbergMarquardt {
                    damping: spec.damping,
                    tolerance_grad: spec.tolerance_grad,
                    tolerance_loss: spec.tolerance_loss,
                    tolerance_step: spec.tolerance_step,
                }))
            }
        })
    }
}
