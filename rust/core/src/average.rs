//! The exponential moving average of a network's parameters over the steps of its training (Polyak and Juditsky 1992;
//! in this form Kingma and Ba 2015, section 7.2).

use crate::element::Element;
use crate::error::Result;
use crate::math::integer_power;
use crate::matrix::{Buffer, for_each_chunk};
use crate::network::Network;
use crate::simd::kernel;

/// Elements given to one task.
const CHUNK: usize = 1 << 14;
/// What an element costs, in multiply-adds of a product.
const WORK: usize = 8;

/// The average θ̄ after t steps: θ̄ += (1−β)/(1−β^t) · (θ − θ̄), so that the weights of all t sum to 1.
pub struct Average<F: Element> {
    decay: f64,
    /// t
    steps: u64,
    parameters: Buffer<F>,
    /// Whether the network holds the average, and `parameters` those that training goes on from.
    shown: bool,
    /// That of the network that this belongs to; any other one has been changed meanwhile.
    version: Option<u64>,
}

impl<F: Element> Average<F> {
    pub fn new(network: &Network<F>, decay: f64) -> Result<Self> {
        Ok(Self {
            decay,
            steps: 0,
            parameters: Buffer::zeroed(network.parameters.len())?,
            shown: false,
            version: None,
        })
    }

    /// As a file had it.
    pub fn restore(&mut self, network: &Network<F>, steps: u64, shown: bool) -> &mut [F] {
        (self.steps, self.shown) = (steps, shown);
        self.version = Some(network.version);
        &mut self.parameters
    }

    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// What is beside the network, and whether the network holds the average; none if it has been changed.
    pub fn aside(&self, network: &Network<F>) -> Option<(&[F], bool)> {
        self.belongs(network)
            .then_some((&self.parameters, self.shown))
    }

    pub fn belongs(&self, network: &Network<F>) -> bool {
        self.version == Some(network.version)
    }

    /// Says that this belongs to the network as it is now.
    pub fn follow(&mut self, network: &Network<F>) {
        self.version = Some(network.version);
    }

    /// Begins anew from the network.
    fn begin(&mut self, network: &Network<F>) {
        self.restore(network, 0, false)
            .copy_from_slice(&network.parameters);
    }

    /// Belongs to nothing.
    pub fn forget(&mut self) {
        self.version = None;
    }

    /// Takes a step's parameters in; it was a step of ours if this belonged to the network before.
    pub fn observe(&mut self, network: &Network<F>, ours: bool) {
        if !ours {
            self.begin(network);
        }
        self.steps += 1;
        if self.steps == 1 {
            self.parameters.copy_from_slice(&network.parameters);
        } else {
            let share = (1.0 - self.decay) / (1.0 - integer_power(self.decay, self.steps));
            approach(F::of(share), &network.parameters, &mut self.parameters);
        }
        self.follow(network);
    }

    /// Makes the network hold the average, or the parameters that training goes on from; begins anew if somebody has
    /// changed the network.
    pub fn show(&mut self, network: &mut Network<F>, shown: bool) {
        if !self.belongs(network) {
            self.begin(network);
        }
        if self.shown != shown {
            std::mem::swap(&mut self.parameters, &mut network.parameters);
            network.version += 1;
            self.shown = shown;
            self.follow(network);
        }
    }
}

fn approach<F: Element>(share: F, theta: &[F], average: &mut [F]) {
    let work = WORK * theta.len();
    for_each_chunk([average], CHUNK, work, |start, [average]| {
        let theta = &theta[start..start + average.len()];
        approach_chunk(share, theta, average);
    });
}

kernel! {
    fn approach_chunk[F: Element](share: F, theta: &[F], average: &mut [F])[F] {
        for (mean, &theta) in average.iter_mut().zip(theta) {
            *mean += share * (theta - *mean);
        }
    }
}
