//! Stable Diffusion 1.x: one CLIP text encoder, 1 × 1 convolutions around the transformers.

use super::{Architecture, Heads, States, TextEncoder, is_plain};
use crate::{checkpoint::keys::Component, ops::Activation, preview};

pub(super) static SD1: Architecture = Architecture {
    id: "sd1",
    name: "SD 1.x",
    recognizes: |modules| is_plain(modules, 4),
    heads: Heads::Count(8),
    text_encoders: &[TextEncoder {
        component: Component::TextEncoder,
        activation: Activation::QuickGelu,
        unused_layers: 0,
        padding: None,
        states: States::Normalized,
        prefix: "cond_stage_model.transformer.",
        is_open_clip: false,
    }],
    zeroes_empty_negative: false,
    groups: 32,
    scaling_factor: 0.18215,
    vae_overflows_f16: false,
    colors: &preview::SD,
    native_size: |_| 512,
};
