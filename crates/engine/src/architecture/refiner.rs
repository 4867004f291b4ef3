//! The refiner of SDXL: its second text encoder alone, four levels, and a score of beauty in place of the
//! size aimed at.

use super::{Architecture, Heads, Modules, TextEncoder, is_pooled, sdxl};
use crate::preview;

pub(super) static REFINER: Architecture = Architecture {
    id: "sdxl-refiner",
    name: "SDXL refiner",
    recognizes: |modules| is_pooled(modules) && has_four_levels(modules),
    heads: Heads::Width(64),
    text_encoders: &[TextEncoder { prefix: "conditioner.embedders.0.model.", ..sdxl::BIG_G }],
    zeroes_empty_negative: false,
    groups: 32,
    scaling_factor: 0.13025,
    vae_overflows_f16: true,
    colors: &preview::SDXL,
    native_size: |_| 1024,
};

/// The refiner halves its map once more than SDXL and everything that was pruned from it.
pub(super) fn has_four_levels(modules: &Modules) -> bool {
    modules.contains_key("unet.down_blocks.3.resnets.0.conv1")
}
