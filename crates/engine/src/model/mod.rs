//! The networks: text encoder, UNet and VAE, built from layers and written in [`ops`](crate::ops).
//!
//! Names follow Diffusers, so that a network reads beside the files it loads. Sizes (channels, depth,
//! context width) are taken from the weights; what no shape shows comes from the model's
//! configuration. A network holds no adapters: it is built from layers that already have them, and
//! building one costs microseconds because layers are shared.

pub(crate) mod clip;
#[cfg(test)]
mod golden;
pub(crate) mod layers;
pub(crate) mod resnet;
pub(crate) mod tile;
pub(crate) mod tiny;
pub(crate) mod transformer;
pub(crate) mod unet;
pub(crate) mod vae;
