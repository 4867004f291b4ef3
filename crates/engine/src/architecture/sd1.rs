//! Stable Diffusion 1.x: one CLIP text encoder, 1 × 1 convolutions around the transformers.

use super::{Architecture, Modules};

pub(super) static SD1: Architecture = Architecture {
    id: "sd1",
    name: "SD 1.x",
    recognizes,
    heads: 8,
    groups: 32,
    scaling_factor: 0.18215,
    native_size: 512,
};

/// The transformers' `proj_in` is a convolution here and a linear layer in SD 2.x and SDXL.
fn recognizes(modules: &Modules) -> bool {
    let four_inputs = modules.get("unet.conv_in").is_some_and(|shape| shape.get(1) == Some(&4));
    let mut projections =
        modules.iter().filter(|(name, _)| name.starts_with("unet.") && name.ends_with(".proj_in"));
    four_inputs
        && !modules.contains_key("unet.add_embedding.linear_1")
        && !modules.contains_key("unet.class_embedding.linear_1")
        && projections.next().is_some_and(|(_, shape)| shape.len() == 4)
}
