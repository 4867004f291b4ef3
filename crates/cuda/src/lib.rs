//! The arithmetic of Impasto on an NVIDIA card: no tensors, no models.
//!
//! The counterpart of the crate `kernels`: the same operations on the same channels-last data, on memory
//! of the card ([`Buffer`]) instead of slices. Sums are f32; a result is rounded once.
//!
//! A [`Card`] is one device with one stream: operations are queued and run in order, and only
//! [`Buffer::download`] waits for them. Behind it stands a `Backend`:
//!
//! - `nvidia` (a feature): the driver, and cuDNN and cuBLASLt where they are there. All are looked for when
//!   the program runs, so it starts without them.
//! - `emulated` (a feature, for tests): the same kernel sources compiled for the processor.
//!
//! Every kernel takes one parameter, a `repr(C)` struct that is written down twice: in Rust beside the
//! function that launches it, in C++ beside the kernel.

pub mod attention;
mod backend;
mod buffer;
mod card;
#[cfg(feature = "emulated")]
mod emulated;
mod error;
mod launch;
pub mod low_rank;
pub mod norm;
#[cfg(feature = "nvidia")]
mod nvidia;
pub mod pointwise;
#[cfg(any(feature = "nvidia", test))]
mod pool;
pub mod product;
#[cfg(test)]
mod testing;

pub use buffer::{Buffer, Format, Stowed};
pub use card::{Card, CardInfo, Graph};
pub use error::{Error, Result};
pub use kernels::conv::{Size, Window};
