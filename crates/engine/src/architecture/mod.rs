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

use std::collections::BTreeMap;

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
    pub heads: usize,
    /// Groups of all group normalizations.
    pub groups: usize,
    /// Latents of unit variance are the VAE's latents times this.
    pub scaling_factor: f64,
    /// The longer side that the family was trained for, in pixels.
    pub native_size: u32,
}

/// Every architecture that loads.
pub static ARCHITECTURES: &[&Architecture] = &[&sd1::SD1];

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
        (Some(4), _) => "an SD 2.x model",
        (Some(9), _) => "an inpainting model (its UNet takes 9 channels)",
        (Some(8), _) => "an InstructPix2Pix model (its UNet takes 8 channels)",
        (Some(5), _) => "an SD 2.x depth model (its UNet takes 5 channels)",
        (Some(7), _) => "an upscaler (its UNet takes 7 channels)",
        _ => "a UNet of an unknown family",
    })
}
