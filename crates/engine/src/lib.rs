//! From checkpoint, adapters and parameters to images.

pub mod adapter;
pub mod architecture;
pub mod checkpoint;
mod device;
mod engine;
mod error;
pub mod inspect;
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
pub use device::{DeviceId, DeviceInfo, devices};
pub use engine::Engine;
pub use error::{Error, Result};
pub use inspect::{ModelFile, inspect};
pub use preview::preview;
pub use request::{
    AdapterUse, Conditioning, Image, InitImage, MAX_SIDE, Output, Phase, Precision, Progress,
    Request, Rng, Watch,
};
