//! Architectures: the families of base models, one record each.
//!
//! A record says how to recognize a family by the structure of its UNet, and what neither a shape nor
//! a configuration file shows. Widths and depths are no part of it: they are read from the weights, so
//! that pruned, distilled and tiny models of a family load without a line of code.
//!
//! # Adding an architecture
//!
//! Write `architecture/<name>.rs` and add its record to [`ARCHITECTURES`].

mod sd1;
mod sd2;

use std::collections::BTreeMap;

use crate::{ops::Activation, sample::denoiser::Prediction};

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
    /// The text encoder.
    pub(crate) text_encoder: TextEncoder,
    /// Groups of all group normalizations.
    pub groups: usize,
    /// Latents of unit variance are the VAE's latents times this.
    pub scaling_factor: f64,
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

/// What the text encoder of a family is, as far as no shape shows it.
#[derive(Debug)]
pub(crate) struct TextEncoder {
    /// The activation of its feed-forward layers.
    pub(crate) activation: Activation,
    /// Layers at its end that a single file has and the prompt's encoding leaves out. Diffusers' folders
    /// do not have them.
    pub(crate) unused_layers: usize,
    /// What fills a chunk behind its end token: another word than the end token itself.
    pub(crate) padding: Option<u8>,
}

/// Every architecture that loads.
pub static ARCHITECTURES: &[&Architecture] = &[&sd1::SD1, &sd2::SD2];

/// The names of all that load, in a sentence: "SD 1.x and SD 2.x".
#[must_use]
pub fn names() -> String {
    let names: Vec<_> = ARCHITECTURES.iter().map(|architecture| architecture.name).collect();
    names.join(" and ")
}

/// Whether base models of a family load, by its name; also one of two that a name leaves open.
#[must_use]
pub fn loads(family: &str) -> bool {
    ARCHITECTURES.iter().any(|architecture| family.starts_with(architecture.name))
}

/// Whether a UNet takes latents alone, and no class or pooled text embedding: SD 1.x or 2.x, by the form
/// of its transformers' first layer.
fn is_plain(modules: &Modules, proj_in_dimensions: usize) -> bool {
    let four_inputs = modules.get("unet.conv_in").is_some_and(|shape| shape.get(1) == Some(&4));
    let mut projections =
        modules.iter().filter(|(name, _)| name.starts_with("unet.") && name.ends_with(".proj_in"));
    four_inputs
        && !modules.contains_key("unet.add_embedding.linear_1")
        && !modules.contains_key("unet.class_embedding.linear_1")
        && projections.next().is_some_and(|(_, shape)| shape.len() == proj_in_dimensions)
}

/// The architecture of a UNet, or the name of what it is instead.
pub(crate) fn recognize(modules: &Modules) -> Result<&'static Architecture, &'static str> {
    if let Some(found) = ARCHITECTURES.iter().find(|record| (record.recognizes)(modules)) {
        return Ok(found);
    }
    let inputs = modules.get("unet.conv_in").and_then(|shape| shape.get(1)).copied();
    let context = modules
        .iter()
        .find(|(name, _)| name.starts_with("unet.") && name.ends_with("attn2.to_k"))
        .and_then(|(_, shape)| shape.get(1))
        .copied();
    Err(match (inputs, context) {
        (None, _) => "a model without a UNet",
        (Some(4), _) if modules.contains_key("unet.add_embedding.linear_1") => match context {
            Some(1280) => "an SDXL refiner",
            _ => "an SDXL model",
        },
        (Some(4), _) if modules.contains_key("unet.class_embedding.linear_1") => {
            "an SD 2.x unCLIP model"
        }
        (Some(9), _) => "an inpainting model (its UNet takes 9 channels)",
        (Some(8), _) => "an InstructPix2Pix model (its UNet takes 8 channels)",
        (Some(5), _) => "an SD 2.x depth model (its UNet takes 5 channels)",
        (Some(7), _) => "an upscaler (its UNet takes 7 channels)",
        _ => "a UNet of an unknown family",
    })
}
