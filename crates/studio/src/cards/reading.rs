//! What a model file says of itself, from its header and its sidecars: read once, kept in the database.

use std::{
    iter::Sum,
    path::{Path, PathBuf},
};

use engine::{
    ModelFile, architecture,
    inspect::{self, inspect},
};
use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::{
    sidecar::{self, Sidecars},
    types::ModelKind,
};
use crate::{Error, Prediction, Result, error::sentence, files, starter::Suggestion};

/// Of [`Reading`]: what an older program read is read again.
const VERSION: u32 = 4;

/// The weight of an adapter about which nobody said anything.
const DEFAULT_WEIGHT: f64 = 1.0;

/// [`Reading::what`] of a file that could not be read.
const DAMAGED: &str = "a file that cannot be read";

/// A text in the facts is no longer, in characters.
const MAX_FACT: usize = 400;

/// Changes whenever a file does: its size, and when it was written. Of several files, the sums.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Stamp {
    pub(super) size: i64,
    /// Milliseconds since 1970.
    pub(super) modified: i64,
}

impl Stamp {
    pub(super) fn of_file(path: &Path) -> Result<Stamp> {
        let (modified, size) = files::stamp(path)?;
        Ok(Stamp { size, modified })
    }

    /// Of a model: a file, or what is in a folder and one level below it.
    pub(super) fn of_model(path: &Path) -> Result<Stamp> {
        if !path.is_dir() {
            return Stamp::of_file(path);
        }
        let mut all = Stamp::default();
        let mut folders = vec![(path.to_owned(), 1)];
        while let Some((folder, depth)) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                match path.is_dir() {
                    true if depth > 0 => folders.push((path, depth - 1)),
                    true => {}
                    false => all = all + Stamp::of_file(&path)?,
                }
            }
        }
        Ok(all)
    }
}

impl std::ops::Add for Stamp {
    type Output = Stamp;

    fn add(self, other: Stamp) -> Stamp {
        Stamp {
            size: self.size.saturating_add(other.size),
            modified: self.modified.wrapping_add(other.modified),
        }
    }
}

impl Sum for Stamp {
    fn sum<I: Iterator<Item = Stamp>>(stamps: I) -> Stamp {
        stamps.fold(Stamp::default(), |sum, stamp| sum + stamp)
    }
}

/// What is known of a model file without its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Reading {
    version: u32,
    sidecars: Stamp,
    pub(super) kind: ModelKind,
    /// With its article: "an SDXL base model".
    pub(super) what: String,
    pub(super) family: Option<String>,
    pub(super) summary: String,
    pub(super) precision: Option<String>,
    pub(super) algorithm: Option<String>,
    pub(super) rank: Option<(u32, u32)>,
    pub(super) modules: u32,
    pub(super) bytes: u64,
    /// Milliseconds since 1970.
    pub(super) modified_at: i64,
    pub(super) usable: bool,
    pub(super) native_size: Option<u32>,
    pub(super) acceleration: Option<Suggestion>,
    /// Whole sentences.
    pub(super) notes: Vec<String>,
    pub(super) title: Option<String>,
    pub(super) trigger_words: Vec<String>,
    pub(super) default_weight: f64,
    pub(super) cover: Option<PathBuf>,
    pub(super) facts: Vec<(String, String)>,
}

impl Reading {
    /// Reads a model file and what lies beside it. One that cannot be read is a reading as well: it
    /// says why.
    pub(super) fn of(path: &Path) -> Reading {
        let modified_at = Stamp::of_file(path).map_or(0, |stamp| stamp.modified);
        let sidecars = sidecar::read(path);
        let reading = match inspect(path) {
            Ok(file) => Reading::of_model(file),
            Err(error) => Reading::of_damaged(path, &Error::from(error)),
        };
        Reading { sidecars: sidecar::stamp(path), modified_at, ..reading.with(sidecars) }
    }

    /// What was kept, if it was read by a program like this one and its sidecars are the same.
    pub(super) fn kept(json: &str) -> Option<Reading> {
        serde_json::from_str(json).ok().filter(|reading: &Reading| reading.version == VERSION)
    }

    /// Whether the sidecars are what they were.
    pub(super) fn is_current(&self, path: &Path) -> bool {
        self.sidecars == sidecar::stamp(path)
    }

    /// Changes whenever the picture beside the file does; `None` if there is none.
    pub(super) fn cover_stamp(&self) -> Option<(&Path, i64)> {
        Some((self.cover.as_deref()?, self.sidecars.modified))
    }

    /// Whether it could not be read.
    pub(super) fn is_damaged(&self) -> bool {
        self.what == DAMAGED
    }

    fn of_damaged(path: &Path, error: &Error) -> Reading {
        let bytes = fs::metadata(path).map_or(0, |status| status.len());
        let hint = error.suggestion().map(sentence);
        Reading {
            bytes,
            notes: [Some(sentence(error.message())), hint].into_iter().flatten().collect(),
            ..Reading::empty(ModelKind::Other, DAMAGED)
        }
    }

    fn empty(kind: ModelKind, what: impl Into<String>) -> Reading {
        Reading {
            version: VERSION,
            sidecars: Stamp::default(),
            kind,
            what: what.into(),
            family: None,
            summary: String::new(),
            precision: None,
            algorithm: None,
            rank: None,
            modules: 0,
            bytes: 0,
            modified_at: 0,
            usable: false,
            native_size: None,
            acceleration: None,
            notes: Vec::new(),
            title: None,
            trigger_words: Vec::new(),
            default_weight: DEFAULT_WEIGHT,
            cover: None,
            facts: Vec::new(),
        }
    }

    fn of_model(file: ModelFile) -> Reading {
        let kind = match file.kind {
            inspect::Kind::BaseModel => ModelKind::Checkpoint,
            inspect::Kind::Adapter => ModelKind::Adapter,
            inspect::Kind::Embedding => ModelKind::Embedding,
            inspect::Kind::Component if file.is_unet() => ModelKind::Checkpoint,
            inspect::Kind::Component if file.components.iter().any(|part| part.name == "VAE") => {
                ModelKind::Vae
            }
            _ => ModelKind::Other,
        };
        let mut reading = Reading::empty(kind, file.what.clone());
        reading.facts = facts(&file);
        reading.family = file.family.as_ref().and_then(|family| family.name).map(str::to_owned);
        reading.bytes = file.size;
        reading.precision = precision(&file);
        reading.usable = file.usable;
        reading.native_size = file.native_size;
        reading.acceleration = file.acceleration.map(Suggestion::from);
        reading.notes = notes(&file);
        reading.modules = file.tensors as u32;
        reading.summary = match kind {
            ModelKind::Checkpoint => match file.prediction.as_deref() {
                Some("v_prediction") => prediction_text(Prediction::VPrediction).to_owned(),
                Some(other) => other.replace('_', "-"),
                None => prediction_text(Prediction::Epsilon).to_owned(),
            },
            ModelKind::Vae => "VAE".to_owned(),
            ModelKind::Embedding => "embedding".to_owned(),
            ModelKind::Adapter | ModelKind::Other => without_article(&file.what).to_owned(),
        };
        if let Some(adapter) = &file.adapter {
            let range = adapter.rank.map(|(low, high)| (low as u32, high as u32));
            let algorithm = match &adapter.names()[..] {
                [] => "adapter".to_owned(),
                names => names.join(" and "),
            };
            let parts = [algorithm.clone()].into_iter().chain(range.map(rank_text));
            reading.summary = parts.collect::<Vec<_>>().join(" · ");
            reading.algorithm = Some(algorithm);
            reading.rank = range;
            reading.modules = adapter.modules.values().sum::<usize>() as u32;
            reading.trigger_words = adapter.trigger_words.clone();
        }
        reading
    }

    fn with(mut self, sidecars: Sidecars) -> Reading {
        self.title = sidecars.title;
        if let Some(words) = sidecars.trigger_words {
            self.trigger_words = words;
        }
        self.default_weight = sidecars.default_weight.unwrap_or(self.default_weight);
        self.cover = sidecars.cover;
        self.facts.extend(sidecars.facts.into_iter().map(|(label, text)| (label, short(&text))));
        self
    }
}

/// What a card says of a prediction.
pub(super) fn prediction_text(prediction: Prediction) -> &'static str {
    match prediction {
        Prediction::Epsilon => "epsilon",
        Prediction::VPrediction => "v-prediction",
    }
}

/// How most of its tensors are stored, and whether by PyTorch.
fn precision(file: &ModelFile) -> Option<String> {
    let (most, _) = file.precisions.iter().max_by_key(|(_, tensors)| **tensors)?;
    let most = match most.to_lowercase() {
        eight if eight.starts_with("f8") => "f8".to_owned(),
        most => most,
    };
    Some(if file.is_pickle { format!("PyTorch file · {most}") } else { most })
}

/// "rank 8", "rank 4 to 8".
pub(super) fn rank_text((low, high): (u32, u32)) -> String {
    match low == high {
        true => format!("rank {low}"),
        false => format!("rank {low} to {high}"),
    }
}

/// Why it is not usable, and what else is odd about it.
fn notes(file: &ModelFile) -> Vec<String> {
    let mut notes = file.notes.clone();
    if file.usable {
        return notes;
    }
    let family = file.family.as_ref().and_then(|family| family.name);
    let runs = format!("this version runs {} models", architecture::names());
    match file.kind {
        inspect::Kind::Adapter => {
            let algorithms = file.adapter.iter().flat_map(|adapter| &adapter.algorithms);
            let known: Vec<_> = algorithms.map(|(algorithm, _)| *algorithm).collect();
            let missing: Vec<_> = known.iter().filter(|one| !one.is_supported()).collect();
            if let Some(family) = family.filter(|family| !architecture::loads(family)) {
                notes.insert(0, format!("It is for {family}; {runs}."));
            } else if !missing.is_empty() && missing.len() == known.len() {
                let names: Vec<_> = missing.iter().map(|algorithm| algorithm.name).collect();
                let verb = if names.len() == 1 { "is" } else { "are" };
                notes.insert(0, format!("{} {verb} not supported yet.", names.join(" and ")));
            } else {
                notes.insert(0, "Nothing in it makes up a known change.".to_owned());
            }
        }
        // What is incomplete says so in its notes.
        inspect::Kind::BaseModel
            if notes.is_empty() || !family.is_some_and(architecture::loads) =>
        {
            notes.insert(0, format!("It is {}; {runs}.", file.what));
        }
        inspect::Kind::Component if notes.is_empty() => {
            notes.push(format!("It is {}, and cannot be used by itself.", file.what));
        }
        _ if notes.is_empty() => notes.push(format!("It is {}: nothing to paint with.", file.what)),
        _ => {}
    }
    notes
}

/// Metadata key -> its label.
const FACTS: &[(&str, &str)] = &[
    ("modelspec.title", "Title"),
    ("modelspec.author", "Author"),
    ("modelspec.license", "Licence"),
    ("modelspec.date", "Date"),
    ("modelspec.description", "Description"),
    ("modelspec.usage_hint", "Usage"),
    ("ss_sd_model_name", "Trained on"),
    ("ss_resolution", "Resolution"),
    ("ss_num_train_images", "Training pictures"),
    ("ss_training_comment", "Comment"),
];

fn facts(file: &ModelFile) -> Vec<(String, String)> {
    let told = FACTS.iter().filter_map(|(key, label)| {
        let value = file.metadata.get(*key)?.trim();
        (!value.is_empty() && value != "None").then(|| ((*label).to_owned(), short(value)))
    });
    let mut facts: Vec<_> = told.collect();
    facts.extend(file.naming.map(|naming| ("Names".to_owned(), naming.to_owned())));
    let precisions: Vec<_> = file.precisions.keys().copied().collect();
    if !precisions.is_empty() {
        facts.push(("Precision".to_owned(), precisions.join(", ")));
    }
    facts
}

fn short(text: &str) -> String {
    match text.char_indices().nth(MAX_FACT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// "a LoRA adapter" as "LoRA adapter".
fn without_article(what: &str) -> &str {
    ["a ", "an ", "the "].iter().find_map(|article| what.strip_prefix(article)).unwrap_or(what)
}
