//! Stable Diffusion XL (Podell et al., 2023, <https://arxiv.org/abs/2307.01952>): two text encoders side
//! by side, a pooled embedding and sizes beside the time. SSD-1B, Segmind-Vega and other pruned UNets
//! are of the same structure.

use super::{Architecture, Heads, States, TextEncoder, is_pooled};
use crate::{checkpoint::keys::Component, ops::Activation, preview};

/// OpenCLIP's ViT-bigG, which also gives the pooled embedding.
pub(super) const BIG_G: TextEncoder = TextEncoder {
    component: Component::TextEncoder2,
    activation: Activation::Gelu,
    unused_layers: 0,
    // The first of the vocabulary.
    padding: Some(b'!'),
    states: States::Penultimate,
    prefix: "conditioner.embedders.1.model.",
    is_open_clip: true,
};

pub(super) static SDXL: Architecture = Architecture {
    id: "sdxl",
    name: "SDXL",
    recognizes: |modules| is_pooled(modules) && !super::refiner::has_four_levels(modules),
    heads: Heads::Width(64),
    text_encoders: &[
        TextEncoder {
            component: Component::TextEncoder,
            activation: Activation::QuickGelu,
            unused_layers: 0,
            padding: None,
            states: States::Penultimate,
            prefix: "conditioner.embedders.0.transformer.",
            is_open_clip: false,
        },
        BIG_G,
    ],
    zeroes_empty_negative: true,
    groups: 32,
    scaling_factor: 0.13025,
    vae_overflows_f16: true,
    colors: &preview::SDXL,
    native_size: |_| 1024,
};
