//! What a window knows of model files.

use serde::{Deserialize, Serialize};
use ts_rs::TS;

use crate::{AdapterParams, Failure, FileRef, GenerationParams, Prediction, starter::Suggestion};

/// What a model file is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, TS)]
#[serde(rename_all = "snake_case")]
pub enum ModelKind {
    /// A base model, as a file or a folder.
    Checkpoint,
    /// A file of weight changes.
    Adapter,
    /// A VAE by itself.
    Vae,
    /// A textual-inversion embedding.
    Embedding,
    /// A model that is none of these.
    Other,
}

/// One model file, as the library shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
pub struct ModelCard {
    /// Stable as long as the file keeps its place.
    pub id: u32,
    /// What it is.
    pub kind: ModelKind,
    /// What recipes call it.
    pub name: String,
    /// For a person: the note's, the sidecar's, the starter's, else the name.
    pub title: String,
    /// Where it is.
    pub path: String,
    /// Index into [`Library::folders`]; `null`: used where it lies.
    pub folder: Option<u32>,
    /// "SD 1.x", "SDXL"; `null`: not known.
    pub family: Option<String>,
    /// One line about it: "LoCon · rank 8", "v-prediction · 27 MB".
    pub summary: String,
    /// How its numbers are stored: "f16", "bf16", "f8", "PyTorch file · f32"; `null`: not known.
    pub precision: Option<String>,
    /// "LoRA", "LoCon", "LoHa"; adapters only.
    pub algorithm: Option<String>,
    /// Smallest and largest.
    pub rank: Option<(u32, u32)>,
    /// Modules that it changes.
    pub modules: u32,
    /// Size on disk.
    pub bytes: u64,
    /// Milliseconds since 1970.
    pub modified_at: i64,
    /// Whether this program can run it.
    pub usable: bool,
    /// Why it is not usable, or what is odd about it: whole sentences.
    pub notes: Vec<String>,
    /// Words that bring it out.
    pub trigger_words: Vec<String>,
    /// Weight that it is put on the stack with.
    pub default_weight: f64,
    /// Revision of `cover/ID`; `null`: there is none.
    pub cover: Option<u32>,
    /// 0 to 11.
    pub pigment: u8,
    /// Once it is known.
    pub sha256: Option<String>,
    /// Id of another card with the same contents.
    pub duplicate_of: Option<u32>,
    /// Comes with the program.
    pub starter: bool,
    /// What suits it, for checkpoints that are usable.
    pub defaults: Option<GenerationParams>,
    /// The few steps that it wants, by its name.
    pub acceleration: Option<Suggestion>,
    /// Trainer, date, base model, license, …: label and value.
    pub facts: Vec<(String, String)>,
    /// When it was last used, in milliseconds since 1970.
    pub used_at: Option<i64>,
    /// What the person said of it, as it is kept.
    pub note: ModelNote,
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Serialize, TS)]
#[ts(rename = "Library")]
pub struct LibraryView {
    /// Counts up with every change.
    pub revision: u32,
    /// The starter first, then by folder and name.
    pub cards: Vec<ModelCard>,
    /// Where was looked: ours first.
    pub folders: Vec<LibraryFolder>,
    /// Folders of other programs that could be added; each until the person answers.
    pub offers: Vec<FolderOffer>,
    /// Not everything has been seen yet.
    pub scanning: bool,
}

/// A folder with models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, TS)]
pub struct LibraryFolder {
    /// For a person.
    pub name: String,
    /// Where it is.
    pub path: String,
    /// Ours: dropped adapters go there.
    pub own: bool,
    /// Whose it is, if it is another program's: "ComfyUI".
    pub program: Option<String>,
    /// Why it cannot be read, or a part of it: whole sentences.
    pub problem: Option<String>,
}

/// A folder of another program that was found in its usual place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, TS)]
pub struct FolderOffer {
    /// Whose it is: "ComfyUI".
    pub program: String,
    /// Where it is.
    pub path: String,
    /// Models in it that this program knows.
    pub models: u32,
}

/// What an adapter would do on a base model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, TS)]
pub struct Fit {
    /// Id of the adapter's card.
    pub adapter: u32,
    /// Modules that it changes there.
    pub applied: u32,
    /// Modules that it has.
    pub total: u32,
    /// What has no effect, and why.
    pub left_out: Vec<Problem>,
    /// Where in the base model these are, block by block; blocks that it lacks are left out.
    pub coverage: Vec<BlockCoverage>,
    /// Why it stays out of the picture: a whole sentence.
    pub refusal: Option<String>,
}

/// How much of a block an adapter changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, TS)]
pub struct BlockCoverage {
    /// "TE", "IN04", "MID", "OUT11", "other", "TE2".
    pub block: String,
    /// Its place in lists of 28 numbers; the first 26 are those of weights of blocks.
    pub index: u32,
    /// Modules that are changed.
    pub changed: u32,
    /// Modules that the base model has there.
    pub of: u32,
}

/// How much adapters change a base model, each by itself and together.
#[derive(Debug, Clone, PartialEq, Serialize, TS)]
pub struct StackStrength {
    /// In the order in which they were asked for.
    pub adapters: Vec<AdapterStrength>,
    /// `⟨Δᵢ, Δⱼ⟩` of the changes at weight 1, for each pair the 28 blocks; symmetric.
    pub products: Vec<Vec<Vec<f64>>>,
}

/// How much one adapter changes a base model.
#[derive(Debug, Clone, PartialEq, Serialize, TS)]
pub struct AdapterStrength {
    /// Id of its card.
    pub adapter: u32,
    /// The norm of its change at weight 1, relative to what it changes; `null` if it changes nothing.
    pub relative: Option<f64>,
    /// Modules whose change is exactly zero.
    pub without_effect: u32,
    /// What in it cannot be used, as numbers that are none: a whole sentence.
    pub problem: Option<String>,
}

/// A module without effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS)]
pub struct Problem {
    /// The module, as the file calls it.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// What the person says of a model file; it wins over what the file says. `null`: nothing said.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, TS)]
pub struct ModelNote {
    /// Its name for a person.
    pub title: Option<String>,
    /// Words that bring it out.
    pub trigger_words: Option<Vec<String>>,
    /// Weight that it is put on the stack with.
    pub default_weight: Option<f64>,
    /// 0 to 11.
    pub pigment: Option<u8>,
    /// What a base model predicts, where its file says it wrongly.
    #[serde(default)]
    pub prediction: Option<Prediction>,
    /// Id of the method by which it was made to need few steps, or "none", where its name says it wrongly.
    #[serde(default)]
    pub acceleration: Option<String>,
}

/// How a model is to be written anew.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, TS)]
pub struct ConvertWish {
    /// `null`: each number keeps its bits.
    pub precision: Option<StoredName>,
    /// As a diffusers folder instead of one file.
    pub folder: bool,
    /// Without extension; `null`: one that fits.
    pub name: Option<String>,
    /// A stack that is written into it.
    #[serde(default)]
    pub adapters: Vec<AdapterParams>,
}

/// How numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "lowercase")]
pub enum StoredName {
    /// 32 bits.
    F32,
    /// 16 bits.
    F16,
    /// 16 bits with the range of 32.
    Bf16,
}

/// What writing a model anew would give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, TS)]
pub struct ConvertPlan {
    /// The new model's, without extension.
    pub name: String,
    /// The folder that it goes to.
    pub place: String,
    /// What it takes.
    pub bytes: u64,
    /// What is free there, where the system tells.
    pub free: Option<u64>,
    /// Whether the model is a folder now.
    pub from_folder: bool,
    /// Why it cannot be done so: the name is taken, or there is no room.
    pub problem: Option<Failure>,
}

/// What a file is that hovers over the window, and what dropping it would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, TS)]
pub struct DropItem {
    /// Where it is.
    pub path: String,
    /// File name.
    pub name: String,
    /// What it is.
    pub kind: DropKind,
    /// "LoRA · SD 1.x · rank 32 · 264 of 264 modules match · trigger “inkwash”".
    pub what: String,
    /// "onto the stack", "offered as ground", "offer its recipe", "left alone".
    pub fate: String,
    /// Whether it can be used.
    pub usable: bool,
}

/// What can be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, TS)]
#[serde(rename_all = "snake_case")]
pub enum DropKind {
    /// Goes onto the stack.
    Adapter,
    /// Offered as ground.
    Checkpoint,
    /// Can be chosen as VAE.
    Vae,
    /// Can be called in the words.
    Embedding,
    /// Offers its recipe, and itself as a beginning.
    Picture,
    /// Nothing that can be used.
    Other,
}

/// What became of a dropped file.
#[derive(Debug, Clone, PartialEq, Serialize, TS)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Dropped {
    /// It is in the library.
    Adapter {
        /// Its card.
        card: u32,
        /// Whether this program can run it.
        usable: bool,
        /// What is odd about it: a whole sentence.
        note: Option<String>,
    },
    /// It is used where it lies.
    Checkpoint {
        /// Its card.
        card: u32,
        /// Whether this program can run it.
        usable: bool,
        /// What is odd about it: a whole sentence.
        note: Option<String>,
    },
    /// It is used where it lies.
    Vae {
        /// Its card.
        card: u32,
    },
    /// It was copied into the library.
    Embedding {
        /// Its card.
        card: u32,
    },
    /// A picture.
    Picture {
        /// To start from.
        picture: InputPicture,
        /// If it has one that is understood.
        recipe: Option<Box<RecipeOffer>>,
    },
    /// Nothing that can be used.
    Refused {
        /// File name.
        name: String,
        /// What it is, and why it cannot be used.
        failure: Failure,
    },
}

/// A picture that a recipe can start from; its pixels are at `input/ID`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, TS)]
pub struct InputPicture {
    /// Its SHA-256.
    pub id: String,
    /// What a recipe calls it.
    pub file: FileRef,
    /// What its file was called.
    pub name: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

/// The recipe of a file, as far as it could be read.
#[derive(Debug, Clone, PartialEq, Serialize, TS)]
pub struct RecipeOffer {
    /// On the defaults of its base model.
    pub params: GenerationParams,
    /// What cannot be honored: whole sentences.
    pub warnings: Vec<String>,
}
