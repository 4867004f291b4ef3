//! Impasto without a window: recipes, pictures with recipes, and model files by name.
//!
//! The way of a picture: [`Library::defaults`] gives [`GenerationParams`] that suit a base model, a
//! [`Recipe`] and the person's own choices change them, [`resolve`] finds the files and makes an
//! [`engine::Request`], and [`png::save`] writes what the engine made together with its recipe.
//!
//! **Invariant:** parameters never hold a path once they are resolved, and a request never holds a
//! name.

mod error;
mod exif;
pub mod files;
pub mod hash;
pub mod infotext;
pub mod library;
pub mod output;
pub mod params;
pub mod picture;
pub mod png;
mod recipe;
mod resolve;
pub mod starter;
pub mod tags;

pub use error::{Code, Error, Result};
pub use library::{Folders, Kind, Library};
pub use output::Destination;
pub use params::{AdapterParams, FileRef, GenerationParams, InitParams, NoiseParams};
pub use recipe::Recipe;
pub use resolve::{Resolved, random_seed, resolve};
