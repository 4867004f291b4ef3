//! The starter: the small base model and its adapters that come with the program.
//!
//! `starter.json` beside them tells their short names and the base model's defaults.

use std::path::{Path, PathBuf};

use engine::acceleration::Acceleration;
use fs_err as fs;
use serde::{Deserialize, Serialize};
use ts_rs::TS;

use crate::{Code, Error, FileRef, GenerationParams, Result};

/// The starter base model's name.
pub const NAME: &str = "starter";

/// The starter's folder and what its `starter.json` says.
#[derive(Debug, Clone)]
pub struct Starter {
    /// Where it is.
    pub folder: PathBuf,
    /// What is in it.
    pub catalog: Catalog,
}

/// `starter.json`, as far as the program needs it.
#[derive(Debug, Clone, Deserialize)]
pub struct Catalog {
    /// The base model.
    pub model: BaseModel,
    /// What suits it.
    pub defaults: Defaults,
    /// Its adapters.
    pub adapters: Vec<Style>,
}

/// The starter's base model.
#[derive(Debug, Clone, Deserialize)]
pub struct BaseModel {
    /// For a person.
    pub title: String,
    /// Relative to the starter's folder.
    pub folder: PathBuf,
}

/// Parameters that suit the starter.
#[derive(Debug, Clone, Deserialize)]
pub struct Defaults {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Sampler steps.
    pub steps: u32,
    /// Guidance scale.
    pub guidance: f64,
    /// Id of a sampler.
    pub sampler: String,
    /// Id of a schedule.
    pub schedule: String,
    /// An example.
    pub prompt: String,
}

/// The numbers that a distilled model or adapter wants, by its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
pub struct Suggestion {
    /// The method: "Lightning".
    pub name: String,
    /// Steps.
    pub steps: u32,
    /// Classifier-free guidance.
    pub guidance_scale: f64,
    /// Id of a sampler.
    pub sampler: String,
    /// Id of a schedule.
    pub schedule: String,
}

impl From<Acceleration> for Suggestion {
    fn from(Acceleration { method, steps }: Acceleration) -> Suggestion {
        Suggestion {
            name: method.name.to_owned(),
            steps,
            guidance_scale: method.guidance_scale,
            sampler: method.sampler.to_owned(),
            schedule: method.schedule.to_owned(),
        }
    }
}

/// One of the starter's adapters.
#[derive(Debug, Clone, Deserialize)]
pub struct Style {
    /// Short name.
    pub name: String,
    /// Relative to the starter's folder.
    pub file: PathBuf,
    /// For a person.
    pub title: String,
    /// Words that bring it out.
    pub trigger_words: Vec<String>,
    /// How much of it suits.
    pub weight: StyleWeight,
    /// Of the file.
    pub sha256: String,
}

/// How much of a style suits.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct StyleWeight {
    /// To begin with.
    pub default: f64,
}

/// Changes parameters to what suits a base model: the size that it was trained on, few steps if it needs
/// few.
pub(crate) fn suit(
    params: &mut GenerationParams,
    native_size: Option<u32>,
    acceleration: Option<&Suggestion>,
) {
    if let Some(side) = native_size {
        (params.width, params.height) = (side, side);
    }
    if let Some(suggestion) = acceleration {
        params.steps = suggestion.steps;
        params.guidance_scale = suggestion.guidance_scale;
        params.sampler.clone_from(&suggestion.sampler);
        params.schedule.clone_from(&suggestion.schedule);
    }
}

/// The starter's own parameters, if a base model is that, else the [defaults](GenerationParams::default).
pub(crate) fn defaults(model: FileRef, starter: Option<&Starter>) -> GenerationParams {
    let params = GenerationParams { model, ..GenerationParams::default() };
    let Some(starter) = starter else { return params };
    let defaults = starter.catalog.defaults.clone();
    GenerationParams {
        width: defaults.width,
        height: defaults.height,
        steps: defaults.steps,
        guidance_scale: defaults.guidance,
        sampler: defaults.sampler,
        schedule: defaults.schedule,
        prompt: defaults.prompt,
        ..params
    }
}

impl Starter {
    /// Opens a starter's folder.
    ///
    /// # Errors
    /// Fails if its `starter.json` cannot be read.
    pub fn open(folder: &Path) -> Result<Starter> {
        let path = folder.join("starter.json");
        let text = fs::read_to_string(&path)?;
        let catalog = serde_json::from_str(&text).map_err(|error| {
            let message = format!("cannot read `{}`: {error}", path.display());
            Error::new(Code::Unknown, message).because(error)
        })?;
        Ok(Starter { folder: folder.to_owned(), catalog })
    }

    /// The folder that comes with the program: in the repository it is run from or was built in, or
    /// beside the program where that is installed.
    #[must_use]
    pub fn folder() -> Option<PathBuf> {
        const IN_REPOSITORY: &str = "assets/starter";

        let program = std::env::current_exe().ok().and_then(|path| fs::canonicalize(path).ok());
        let program_folder = program.as_deref().and_then(Path::parent);
        let installed = program_folder
            .into_iter()
            .flat_map(|folder| [folder.join(NAME), folder.join("../share/impasto").join(NAME)]);
        let here = std::env::current_dir().ok();
        let upwards = |folder: &Path| -> Vec<PathBuf> {
            folder.ancestors().map(|folder| folder.join(IN_REPOSITORY)).collect()
        };
        // A development build may lie anywhere; it knows where it was built.
        let built = cfg!(debug_assertions).then(|| Path::new(env!("CARGO_MANIFEST_DIR")));

        let mut candidates = installed
            .chain(here.as_deref().into_iter().flat_map(upwards))
            .chain(program_folder.into_iter().flat_map(upwards))
            .chain(built.into_iter().flat_map(upwards));
        candidates.find(|folder| folder.join("starter.json").is_file())
    }

    /// The base model's folder.
    #[must_use]
    pub fn model(&self) -> PathBuf {
        self.folder.join(&self.catalog.model.folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash;

    #[test]
    fn the_repository_s_starter_is_whole() {
        let starter = Starter::open(&Starter::folder().expect("it is in the repository")).unwrap();
        assert!(starter.model().join("unet/config.json").is_file());
        assert!(!starter.catalog.adapters.is_empty());
        for style in &starter.catalog.adapters {
            let found = hash::sha256(&starter.folder.join(&style.file)).unwrap();
            assert_eq!(found, style.sha256, "{}", style.name);
        }
        assert!(starter.folder.join("README.md").is_file(), "the model card");
    }
}
