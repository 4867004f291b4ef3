//! The library as a window shows it.

mod types;

pub use types::{
    DropItem, DropKind, Dropped, Fit, InputPicture, LibraryFolder, LibraryView, ModelCard,
    ModelKind, ModelNote, Problem, RecipeOffer,
};
