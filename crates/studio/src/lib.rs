//! Impasto without a window: recipes, pictures with recipes, and model files by name.
//!
//! The way of a picture: [`Library::defaults`] gives [`GenerationParams`] that suit a base model, a
//! [`Recipe`] and the person's own choices change them, [`resolve`] finds the files and makes an
//! [`engine::Request`], and [`png::save`] writes what the engine made together with its recipe.
//!
//! **Invariant:** parameters never hold a path once they are resolved, and a request never holds a
//! name.

#[cfg(test)]
mod bindings;
pub mod cards;
pub mod catalog;
pub mod convert;
pub mod data;
mod db;
mod desk;
mod error;
pub mod event;
mod exif;
pub mod files;
pub mod gallery;
pub mod hash;
pub mod infotext;
mod input;
pub mod library;
pub mod live;
mod lock;
pub mod output;
pub mod params;
pub mod picture;
pub mod places;
pub mod png;
pub mod queue;
mod recipe;
mod resolve;
pub mod settings;
pub mod sheet;
pub mod starter;
mod studio;
pub mod swarm;
pub mod tags;
mod worker;
mod workers;

pub use data::DataFolder;
pub use error::{Code, Error, Failure, Result};
pub use library::{Folders, Kind, Library};
pub use output::Destination;
pub use params::{
    AdapterParams, FileRef, GenerationParams, InitFit, InitParams, NoiseParams, Prediction,
    RefinerParams, SizeParams,
};
pub use recipe::Recipe;
pub use resolve::{Resolved, random_seed, resolve};
pub use settings::Settings;
pub use studio::{Pixels, Studio, TokenCount};
