//! Stable Diffusion 2.x: OpenCLIP's ViT-H text encoder without its last layer, linear layers around the
//! transformers, heads of 64 channels.

use super::{Architecture, Heads, States, TextEncoder, is_plain};
use crate::{checkpoint::keys::Component, ops::Activation, preview, sample::denoiser::Prediction};

pub(super) static SD2: Architecture = Architecture {
    id: "sd2",
    name: "SD 2.x",
    recognizes: |modules| is_plain(modules, 2),
    heads: Heads::Width(64),
    text_encoders: &[TextEncoder {
        component: Component::TextEncoder,
        activation: Activation::Gelu,
        unused_layers: 1,
        // The first of the vocabulary.
        padding: Some(b'!'),
        states: States::Normalized,
        prefix: "cond_stage_model.model.",
        is_open_clip: true,
    }],
    zeroes_empty_negative: false,
    groups: 32,
    scaling_factor: 0.18215,
    vae_overflows_f16: false,
    colors: &preview::SD,
    native_size: |prediction| match prediction {
        Prediction::Epsilon => 512,
        Prediction::V => 768,
    },
};
