//! Architectures: the families of base models, one record each.
//!
//! A record says how to recognize a family by the structure of its UNet, and what neither a shape nor
//! a configuration file shows. Widths and depths are no part of it: they are read from the weights, so
//! that pruned, distilled and tiny models of a family load without a line of code.
//!
//! # Adding an architecture
//!
//! Write `architecture/<name>.rs` and add its record to [`ARCHITECTURES`].

mod refiner;
mod sd1;
mod sd2;
mod sdxl;

use std::collections::BTreeMap;

use crate::{
    checkpoint::keys::Component, ops::Activation, preview::Colors, sample::denoiser::Prediction,
};

/// Canonical name of a module (a tensor's name without `.weight`) and the shape of its weight.
pub type Modules = BTreeMap<String, Vec<usize>>;

/// What the rest of the program knows of a family.
#[derive(Debug)]
pub struct Architecture {
    /// Written into files; never changes once released.
    pub id: &'static str,
    /// Shown to the person.
    pub name: &'static str,
    /// Whether a UNet with these modules is of this family.
    pub recognizes: fn(&Modules) -> bool,
    /// Attention heads of the UNet.
    pub(crate) heads: Heads,
    /// The text encoders, in the order in which their channels are put together.
    pub(crate) text_encoders: &'static [TextEncoder],
    /// Whether an empty negative prompt is encoded as zeros, where no configuration says it.
    pub(crate) zeroes_empty_negative: bool,
    /// Groups of all group normalizations.
    pub groups: usize,
    /// Latents of unit variance are the VAE's latents times this.
    pub scaling_factor: f64,
    /// Whether the VAE's values are too large for f16, where no configuration says it.
    pub(crate) vae_overflows_f16: bool,
    /// What its latents look like.
    pub(crate) colors: &'static Colors,
    /// The sides of the pictures that it was trained on, in pixels, by what it predicts.
    pub native_size: fn(Prediction) -> u32,
}

/// How attention is divided into heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heads {
    /// So many, whatever the width.
    Count(usize),
    /// As many as there are parts of this width.
    Width(usize),
}

impl Heads {
    /// How many there are in so many channels, if they can be divided so.
    pub(crate) fn of(self, channels: usize) -> Option<usize> {
        let divides = |by: usize| by > 0 && channels >= by && channels.is_multiple_of(by);
        match self {
            Heads::Count(count) => divides(count).then_some(count),
            Heads::Width(width) => divides(width).then(|| channels / width),
        }
    }
}

/// What a text encoder of a family is, as far as no shape shows it.
#[derive(Debug)]
pub(crate) struct TextEncoder {
    /// Where its tensors are.
    pub(crate) component: Component,
    /// The activation of its feed-forward layers.
    pub(crate) activation: Activation,
    /// Layers at its end that a single file has and the prompt's encoding leaves out. Diffusers' folders
    /// do not have them.
    pub(crate) unused_layers: usize,
    /// What fills a chunk behind its end token: another word than the end token itself.
    pub(crate) padding: Option<u8>,
    /// Which of its states the UNet reads.
    pub(crate) states: States,
    /// What its tensors' names begin with in a single file.
    pub(crate) prefix: &'static str,
    /// Whether they go on there as OpenCLIP has them, rather than CLIP.
    pub(crate) is_open_clip: bool,
}

/// Which of a text encoder's states the UNet reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum States {
    /// The last layer's (or with clip skip an earlier one's), normalized.
    Normalized,
    /// The last but one's as they are.
    Penultimate,
}

/// Every architecture that loads.
pub static ARCHITECTURES: &[&Architecture] =
    &[&sd1::SD1, &sd2::SD2, &sdxl::SDXL, &refiner::REFINER];

/// The names of all that load, in a sentence: "SD 1.x, SD 2.x and SDXL".
#[must_use]
pub fn names() -> String {
    let names: Vec<_> = ARCHITECTURES.iter().map(|architecture| architecture.name).collect();
    match names.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} and {last}", others.join(", ")),
        _ => names.concat(),
    }
}

/// Whether base models of a family load, by its name; also one of two that a name leaves open.
#[must_use]
pub fn loads(family: &str) -> bool {
    ARCHITECTURES.iter().any(|architecture| family.starts_with(architecture.name))
}

/// The channels that a UNet may take: latents; latents with a mask and what it leaves of a picture.
pub(crate) const INPUTS: [usize; 2] = [4, 9];

/// Whether a UNet takes what is made here for it.
fn takes_latents(modules: &Modules) -> bool {
    let inputs = modules.get("unet.conv_in").and_then(|shape| shape.get(1));
    inputs.is_some_and(|inputs| INPUTS.contains(inputs))
}

/// Whether a UNet takes latents, and no class or pooled text embedding: SD 1.x or 2.x, by the form of its
/// transformers' first layer.
fn is_plain(modules: &Modules, proj_in_dimensions: usize) -> bool {
    let mut projections =
        modules.iter().filter(|(name, _)| name.starts_with("unet.") && name.ends_with(".proj_in"));
    takes_latents(modules)
        && !modules.contains_key("unet.add_embedding.linear_1")
        && !modules.contains_key("unet.class_embedding.linear_1")
        && projections.next().is_some_and(|(_, shape)| shape.len() == proj_in_dimensions)
}

/// Whether a UNet takes latents, and beside the time a pooled text embedding with sizes: SDXL's kind.
fn is_pooled(modules: &Modules) -> bool {
    takes_latents(modules) && modules.contains_key("unet.add_embedding.linear_1")
}

/// The architecture of a UNet, or the name of what it is instead.
pub(crate) fn recognize(modules: &Modules) -> Result<&'static Architecture, &'static str> {
    if let Some(found) = ARCHITECTURES.iter().find(|record| (record.recognizes)(modules)) {
        return Ok(found);
    }
    let inputs = modules.get("unet.conv_in").and_then(|shape| shape.get(1)).copied();
    Err(match inputs {
        None => "a model without a UNet",
        Some(4) if modules.contains_key("unet.class_embedding.linear_1") => {
            "an SD 2.x unCLIP model"
        }
        Some(8) => "an InstructPix2Pix model (its UNet takes 8 channels)",
        Some(5) => "an SD 2.x depth model (its UNet takes 5 channels)",
        Some(7) => "an upscaler (its UNet takes 7 channels)",
        _ => "a UNet of an unknown family",
    })
}
