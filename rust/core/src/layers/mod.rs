//! Layers other than the dense product: pure functions on panels. The network calls them; see
//! [`crate::network`] for what is stored where.

pub mod batch_norm;
pub mod dropout;
pub mod layer_norm;
pub mod noise;
pub mod pointwise;
pub mod softmax;
pub mod standardize;

use crate::element::Element;
use crate::matrix::Panels;

/// Zeroes the padding columns: no kernel reads them as data, and zeros there keep the padding of gradients
/// and parameters at zero.
pub fn clear_padding<F: Element>(shape: Panels, data: &mut [F]) {
    let Some(last) = shape.count::<F>().checked_sub(1) else {
        return;
    };
    let (used, width) = (shape.used::<F>(last), shape.width::<F>(last));
    if used < width {
        for row in data[shape.panel::<F>(last)].chunks_exact_mut(width) {
            row[used..].fill(F::ZERO);
        }
    }
}

/// Where the gradient of a layer's input goes: the layer in front may have left its derivative there.
pub struct DInput<'a, F> {
    pub data: &'a mut [F],
    /// Multiply what is there instead of replacing it.
    pub gated: bool,
}

impl<F: Element> DInput<'_, F> {
    /// Stores or multiplies elements `start..` of the storage.
    #[inline(always)]
    pub fn put(&mut self, start: usize, values: impl Iterator<Item = F>) {
        let data = &mut self.data[start..];
        if self.gated {
            for (old, value) in data.iter_mut().zip(values) {
                *old = value * *old;
            }
        } else {
            for (old, value) in data.iter_mut().zip(values) {
                *old = value;
            }
        }
    }
}
