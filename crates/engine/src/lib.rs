//! From checkpoint, adapters and parameters to images.

pub mod adapter;
pub mod checkpoint;
mod error;
pub mod noise;
mod request;
pub mod sample;
pub mod text;

pub use adapter::PatchReport;
pub use error::{Error, Result};
pub use request::{
    AdapterUse, Conditioning, Image, InitImage, MAX_SIDE, Output, Phase, Precision, Progress,
    Request, Rng, Watch,
};
