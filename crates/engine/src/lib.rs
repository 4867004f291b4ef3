//! From checkpoint, adapters and parameters to images.
//!
//! [`Engine::generate`] takes a [`Request`] and gives an [`Output`]. On its way:
//!
//! 1. [`checkpoint`] opens the base model, tensors by canonical name; [`architecture`] says what it is
//! 2. [`adapter`] reads the stack, finds its modules in the base, and patches their weights
//! 3. `model` builds text encoder, UNet and VAE of the patched layers, in terms of `ops`
//! 4. [`text`] cuts the prompts into chunks, which the text encoder encodes
//! 5. [`noise`] and [`sample`] walk from noise to latents, calling the UNet
//! 6. the VAE decodes them; [`Estimate`] shows them on the way without it
//!
//! [`inspect`](inspect()) says what a file is, from its header alone.
//!
//! **Invariants:** the engine writes no file, prints nothing, has no clock and no global state. A picture
//! depends on its request alone, and not on the number of threads.

pub mod acceleration;
pub mod adapter;
pub mod architecture;
pub mod checkpoint;
mod device;
mod engine;
mod error;
mod guided;
pub mod inspect;
mod loaded;
mod model;
pub mod noise;
mod ops;
mod preview;
mod request;
pub mod sample;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod text;

pub use adapter::PatchReport;
pub use candle_core::Tensor;
pub use device::{DeviceId, DeviceInfo, devices, why_no_card};
pub use engine::Engine;
pub use error::{Error, Result};
pub use inspect::{ModelFile, inspect};
pub use preview::Estimate;
pub use request::{
    AdapterUse, Conditioning, Image, InitImage, MAX_SIDE, Output, Phase, Pooled, Precision,
    Progress, Refiner, Request, Rng, Sizes, Watch,
};
