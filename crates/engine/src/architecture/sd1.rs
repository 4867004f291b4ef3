//! Stable Diffusion 1.x: one CLIP text encoder, 1 × 1 convolutions around the transformers.

use super::{Architecture, Heads, TextEncoder, is_plain};
use crate::ops::Activation;

pub(super) static SD1: Architecture = Architecture {
    id: "sd1",
    name: "SD 1.x",
    recognizes: |modules| is_plain(modules, 4),
    heads: Heads::Count(8),
    text_encoder: TextEncoder {
        activation: Activation::QuickGelu,
        unused_layers: 0,
        padding: None,
    },
    groups: 32,
    scaling_factor: 0.18215,
    native_size: |_| 512,
};
