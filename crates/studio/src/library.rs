//! The library: model files by name.
//!
//! Base models, adapters and VAEs are found in the [starter](crate::starter), in the folders that the
//! person names (those of [other programs](crate::places) among them), and in the platform's data folder.
//! A file's name is its file name without extension, a
//! folder's the folder's. What lies in subfolders can also be called by its path from the library's
//! folder (`styles/ink`), an adapter also by the name that its trainer gave it (`ss_output_name`). A
//! path always works.
//!
//! Opening the library only lists files. A header is read when a name alone does not decide, so that
//! thousands of files cost nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use engine::{
    ModelFile,
    checkpoint::header::TensorFile,
    inspect::{Family, inspect},
};
use fs_err as fs;

use crate::{
    Code, Error, FileRef, GenerationParams, Prediction, Result,
    hash::{self, HashCache, Hashes},
    places::Place,
    starter::{self, Starter, Suggestion},
};

/// How many folders deep a library's folder is searched.
const MAX_DEPTH: usize = 8;

/// How many files and folders are looked at in all; more is no library.
const MAX_VISITED: usize = 200_000;

/// Folders in which no person keeps models, and programs keep much else.
const NO_MODELS: &[&str] =
    &["venv", "node_modules", "custom_nodes", "site-packages", "__pycache__"];

/// What a model file is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A checkpoint with all its networks.
    BaseModel,
    /// A file of weight changes.
    Adapter,
    /// A VAE by itself.
    Vae,
    /// Vectors that stand for a word.
    Embedding,
}

impl Kind {
    fn noun(self) -> &'static str {
        match self {
            Kind::BaseModel => "base model",
            Kind::Adapter => "adapter",
            Kind::Vae => "VAE",
            Kind::Embedding => "embedding",
        }
    }
}

/// Where a library looks.
#[derive(Debug, Clone, Default)]
pub struct Folders {
    /// The starter's folder.
    pub starter: Option<PathBuf>,
    /// Folders with models, as the person names them, those of other programs too: each must exist.
    pub models: Vec<PathBuf>,
    /// The platform's folder for models, if it exists.
    pub data: Option<PathBuf>,
    /// Where hashes are remembered.
    pub cache: Option<PathBuf>,
    /// Where a recipe's other files are looked for by name: the picture that it starts from.
    pub beside: Vec<PathBuf>,
}

impl Folders {
    /// The starter, the data folder and the cache folder of this machine.
    #[must_use]
    pub fn of_this_machine() -> Folders {
        Folders {
            starter: Starter::folder(),
            models: Vec::new(),
            data: dirs::data_dir().map(|folder| folder.join("impasto").join("models")),
            cache: dirs::cache_dir().map(|folder| folder.join("impasto")),
            beside: Vec::new(),
        }
    }
}

/// Model files by name.
#[derive(Debug)]
pub struct Library {
    entries: Vec<Entry>,
    starter: Option<Starter>,
    hashes: Arc<HashCache>,
    beside: Vec<PathBuf>,
    /// The folders that were searched, for messages.
    searched: Vec<PathBuf>,
    /// What could not be read of them: whole sentences.
    problems: Vec<String>,
    /// What the person says that base models predict, by hash.
    predictions: BTreeMap<String, Prediction>,
}

/// One file or folder of the library.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Name without extension and folder.
    pub name: String,
    /// Path from the library's folder, with slashes, without extension; the starter's begin with
    /// `starter/`.
    pub qualified_name: String,
    /// For a person, where that is known.
    pub title: Option<String>,
    /// Where it is.
    pub path: PathBuf,
    /// What it is, where that is known without reading it.
    pub(crate) kind: Option<Kind>,
    /// Its hash, where that is known without reading it.
    pub(crate) sha256: Option<String>,
}

/// A file that was found, and how it is called from now on.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// By name and complete hashes.
    pub reference: FileRef,
    /// If it is not quite what was asked for.
    pub warning: Option<String>,
}

impl Library {
    /// Lists what is in the folders.
    ///
    /// # Errors
    /// Fails if a folder that was named cannot be read, or the starter's list is damaged.
    pub fn open(folders: Folders) -> Result<Library> {
        let mut entries = Vec::new();
        let starter = folders.starter.as_deref().map(Starter::open).transpose()?;
        if let Some(starter) = &starter {
            list_starter(starter, &mut entries);
        }
        let mut searched = Vec::new();
        let mut problems = Vec::new();
        let mut walk = Walk { entries, ..Walk::default() };
        for folder in &folders.models {
            // Failing here, with a message that names the folder, is better than finding nothing.
            fs::read_dir(folder)?;
            let place = Place::at(folder);
            place.list(&mut walk);
            problems.extend(place.problem);
            searched.push(folder.clone());
        }
        if let Some(folder) = folders.data.filter(|folder| folder.is_dir()) {
            walk.folder(&folder);
            searched.push(folder);
        }
        let hashes = Arc::new(HashCache::open(folders.cache.as_deref()));
        let (entries, beside) = (walk.entries, folders.beside);
        let predictions = BTreeMap::new();
        Ok(Library { entries, starter, hashes, beside, searched, problems, predictions })
    }

    /// What could not be read of the folders, as whole sentences.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// A library of what was listed before, and of hashes that others use as well.
    pub(crate) fn of(
        entries: Vec<Entry>,
        starter: Option<Starter>,
        hashes: Arc<HashCache>,
        beside: Vec<PathBuf>,
        searched: Vec<PathBuf>,
    ) -> Library {
        let (problems, predictions) = (Vec::new(), BTreeMap::new());
        Library { entries, starter, hashes, beside, searched, problems, predictions }
    }

    /// The same, with what the person says that base models predict, by hash.
    pub(crate) fn with_predictions(self, predictions: BTreeMap<String, Prediction>) -> Library {
        Library { predictions, ..self }
    }

    /// What the person says that a base model predicts, whose hash is known.
    pub(crate) fn prediction_of(&self, model: &FileRef) -> Option<Prediction> {
        self.predictions.get(model.sha256.as_ref()?).copied()
    }

    /// Adds files that lie in none of the folders.
    pub(crate) fn add(&mut self, entries: impl IntoIterator<Item = Entry>) {
        self.entries.extend(entries);
    }

    /// Everything that was found, the starter first, then by folder and name.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The starter, if the program has one.
    #[must_use]
    pub fn starter(&self) -> Option<&Starter> {
        self.starter.as_ref()
    }

    /// Parameters that suit a base model: what `starter.json` says for the starter, else the
    /// [defaults](GenerationParams::default) at the size of its family.
    ///
    /// # Errors
    /// Fails if there is no such base model.
    pub fn defaults(&self, model: &FileRef) -> Result<GenerationParams> {
        let (path, _) = self.locate(Kind::BaseModel, model)?;
        let starter = self.starter.as_ref().filter(|starter| same_file(&path, &starter.model()));
        let mut params = starter::defaults(model.clone(), starter);
        // What does not open says why when a picture is wanted of it.
        if starter.is_none()
            && let Ok(file) = engine::inspect(&path)
        {
            let acceleration = file.acceleration.map(Suggestion::from);
            starter::suit(&mut params, file.native_size, acceleration.as_ref());
        }
        Ok(params)
    }

    /// For a UNet without the rest of a base model: the first whole one of its family, which lends that.
    /// Nothing for a whole base model, or if there is none.
    #[must_use]
    pub fn lender(&self, checkpoint: &Path) -> Option<&Entry> {
        let unet = inspect(checkpoint).ok().filter(ModelFile::is_unet)?.family?;
        unet.name?;
        // A narrow model of a family has other text encoders than the family's own.
        let is_alike = |other: &Family| (other.name, other.context) == (unet.name, unet.context);
        self.entries.iter().filter(|entry| entry.kind() == Some(Kind::BaseModel)).find(|entry| {
            inspect(&entry.path).is_ok_and(|other| {
                other.usable && !other.is_unet() && other.family.as_ref().is_some_and(is_alike)
            })
        })
    }

    /// TAESD files, for previews: those that are called so.
    #[must_use]
    pub fn preview_decoders(&self) -> Vec<PathBuf> {
        let is_one = |entry: &&Entry| {
            let name = entry.name.to_lowercase();
            name.starts_with("taesd") && !name.contains("encoder")
        };
        let found = self.entries.iter().filter(is_one);
        found
            .filter(|entry| entry.kind() == Some(Kind::Vae))
            .map(|entry| entry.path.clone())
            .collect()
    }

    /// The embeddings whose names stand in a text, in whatever case, by name.
    #[must_use]
    pub fn embeddings_in(&self, text: &str) -> Vec<&Entry> {
        let text = text.to_lowercase();
        let mut found: Vec<_> = self
            .entries
            .iter()
            .filter(|entry| text.contains(&entry.name.to_lowercase()))
            .filter(|entry| entry.kind() == Some(Kind::Embedding))
            .collect();
        found.sort_by_key(|entry| entry.name.to_lowercase());
        found.dedup_by_key(|entry| entry.name.to_lowercase());
        found
    }

    /// Where a model file is; its contents are not looked at.
    ///
    /// # Errors
    /// Fails if nothing or more than one thing has that name.
    pub fn path(&self, kind: Kind, wanted: &FileRef) -> Result<PathBuf> {
        Ok(self.locate(kind, wanted)?.0)
    }

    /// Finds a model file by path, by name, or else by hash.
    ///
    /// # Errors
    /// Fails if nothing or more than one thing has that name (the message lists what comes near), or
    /// the file cannot be read.
    pub fn find(&self, kind: Kind, wanted: &FileRef) -> Result<Found> {
        let (path, name) = self.locate(kind, wanted)?;
        let hashes = self.hashes.hashes(&path)?;
        if !agrees(wanted, &hashes) && !noted_by_trainer(wanted, &path) {
            // Another file has taken the name. The right one may be here under another.
            if let Some((path, name, hashes)) = self.by_hash(kind, wanted) {
                return Ok(found(path, name, hashes, None));
            }
            let warning = format!(
                "the {} `{name}` is not the file that the recipe names: its contents differ",
                kind.noun()
            );
            return Ok(found(path, name, hashes, Some(warning)));
        }
        Ok(found(path, name, hashes, None))
    }

    /// Finds a file that is no model (a first picture, first noise) by path, or by name beside the
    /// recipe.
    ///
    /// # Errors
    /// Fails if there is none.
    pub fn find_file(&self, wanted: &FileRef) -> Result<Found> {
        let here = Path::new("").to_owned();
        let candidates = [&here].into_iter().chain(&self.beside);
        let path = candidates
            .map(|folder| folder.join(&wanted.name))
            .find(|path| path.is_file())
            .ok_or_else(|| {
            Error::new(Code::MissingFile, format!("there is no file `{}`", wanted.name))
                .hint("put it beside the recipe, or give its path")
        })?;
        let hashes = Hashes { sha256: hash::sha256(&path)?, data_sha256: None };
        let name = file_name(&path);
        let warning = (!agrees(wanted, &hashes)).then(|| {
            format!("`{name}` is not the file that the recipe names: its contents differ")
        });
        Ok(found(path, name, hashes, warning))
    }

    /// Path and name of a model file; its contents are not looked at.
    fn locate(&self, kind: Kind, wanted: &FileRef) -> Result<(PathBuf, String)> {
        let name = wanted.name.as_str();
        let as_path = Path::new(name);
        let by_path = || {
            // A recipe should name what the library finds again.
            let entry = self.entries.iter().find(|entry| same_file(&entry.path, as_path));
            let name = entry.map_or_else(|| model_name(as_path), |entry| entry.name.clone());
            (as_path.to_owned(), name)
        };
        // A plain word is a name first, so that a folder which happens to be here does not get in the
        // way.
        let is_word = as_path.components().count() == 1 && as_path.extension().is_none();
        if !is_word && as_path.exists() {
            return Ok(by_path());
        }
        let matches = self.named(kind, name);
        match matches[..] {
            [entry] => return Ok((entry.path.clone(), entry.name.clone())),
            [] => {}
            _ => return self.only_one(kind, wanted, &matches),
        }
        if !name.is_empty() && as_path.exists() {
            return Ok(by_path());
        }
        if let Some((path, name, _)) = self.by_hash(kind, wanted) {
            return Ok((path, name));
        }
        Err(self.nothing(kind, name))
    }

    /// Of several with one name, the one that is of the right kind, or has the wanted hash; any, if
    /// they are all known to be the same.
    fn only_one(&self, kind: Kind, wanted: &FileRef, all: &[&Entry]) -> Result<(PathBuf, String)> {
        let name = &wanted.name;
        let right: Vec<&Entry> =
            all.iter().copied().filter(|entry| entry.kind() == Some(kind)).collect();
        let only = match right[..] {
            [only] => Some(only),
            [first, ..] => {
                let asked = |entry: &&Entry| says(wanted.sha256.as_ref(), entry.sha256.as_ref());
                let same = first.sha256.is_some()
                    && right.iter().all(|entry| entry.sha256 == first.sha256);
                right.iter().copied().find(asked).or(same.then_some(first))
            }
            [] => None,
        };
        if let Some(entry) = only {
            return Ok((entry.path.clone(), entry.name.clone()));
        }
        let names: Vec<_> = all.iter().map(|entry| entry.qualified_name.as_str()).collect();
        let paths: Vec<_> = all.iter().map(|entry| format!("`{}`", entry.path.display())).collect();
        let distinct = names.iter().collect::<BTreeSet<_>>().len() == names.len();
        let hint = if distinct {
            format!("call one of them `{}`", names.join("` or `"))
        } else {
            "give the path of one of them".to_owned()
        };
        let message =
            format!("`{name}` could be more than one {}: {}", kind.noun(), paths.join(" or "));
        Err(Error::new(Code::Unknown, message).hint(hint))
    }

    /// Entries of a name: exact, then by a trainer's name, then in another case.
    fn named(&self, kind: Kind, name: &str) -> Vec<&Entry> {
        let stem = name.strip_suffix(".safetensors").unwrap_or(name);
        // What is known to be something else is out of the question.
        let possible = || {
            self.entries.iter().filter(move |entry| entry.kind.is_none_or(|known| known == kind))
        };
        let is = |entry: &&Entry| entry.name == stem || entry.qualified_name == stem;
        let exact: Vec<_> = possible().filter(is).collect();
        if !exact.is_empty() || stem.is_empty() {
            return exact;
        }
        if kind == Kind::Adapter {
            let aliased: Vec<_> =
                possible().filter(|entry| entry.alias().as_deref() == Some(stem)).collect();
            if !aliased.is_empty() {
                return aliased;
            }
        }
        let lower = stem.to_lowercase();
        possible().filter(|entry| entry.name.to_lowercase() == lower).collect()
    }

    /// A file with the wanted hash, among those whose hash is known without reading them.
    fn by_hash(&self, kind: Kind, wanted: &FileRef) -> Option<(PathBuf, String, Hashes)> {
        if wanted.sha256.is_none() && wanted.data_sha256.is_none() {
            return None;
        }
        self.entries.iter().filter(|entry| entry.kind.is_none_or(|known| known == kind)).find_map(
            |entry| {
                let known = entry.sha256.clone().map(|sha256| Hashes { sha256, data_sha256: None });
                let hashes = self.hashes.known(&entry.path).or(known)?;
                let right = says(wanted.sha256.as_ref(), Some(&hashes.sha256))
                    || says(wanted.data_sha256.as_ref(), hashes.data_sha256.as_ref());
                let right = right && entry.kind() == Some(kind);
                let hashes = self.hashes.hashes(&entry.path).ok().filter(|_| right)?;
                Some((entry.path.clone(), entry.name.clone(), hashes))
            },
        )
    }

    fn nothing(&self, kind: Kind, name: &str) -> Error {
        let noun = kind.noun();
        let message = format!("there is no {noun} `{name}`");
        let error = Error::new(Code::MissingFile, message);
        let names: BTreeSet<&str> = self
            .entries
            .iter()
            .filter(|entry| entry.kind.is_none_or(|known| known == kind))
            .map(|entry| entry.name.as_str())
            .collect();
        let near = near_matches(name, &names);
        if !near.is_empty() {
            return error.hint(format!("did you mean `{}`?", near.join("` or `")));
        }
        // Few names are told at once. Of many, it is told where they were looked for.
        if (1..=8).contains(&names.len()) {
            let names: Vec<_> = names.into_iter().collect();
            return error
                .hint(format!("known: `{}`; a path can be given, too", names.join("`, `")));
        }
        let folders: Vec<_> =
            self.searched.iter().map(|folder| format!("`{}`", folder.display())).collect();
        error.hint(match &folders[..] {
            [] => "give its path, or the folder that it is in (`--models`)".to_owned(),
            _ => format!("looked in {}; a path can be given, too", folders.join(", ")),
        })
    }
}

impl Entry {
    /// What it is; reads its header if need be.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        self.kind.or_else(|| kind_of(&self.path))
    }

    /// The name that an adapter's trainer gave it. A1111 counts the empty ones as none.
    fn alias(&self) -> Option<String> {
        let file = TensorFile::open(&self.path).ok()?;
        let alias = file.metadata().get("ss_output_name")?;
        (!alias.is_empty() && !alias.eq_ignore_ascii_case("none")).then(|| alias.clone())
    }
}

/// What a file or folder is, from its header.
fn kind_of(path: &Path) -> Option<Kind> {
    let file = inspect(path).ok()?;
    match (file.kind, &file.components[..]) {
        (engine::inspect::Kind::BaseModel, _) => Some(Kind::BaseModel),
        (engine::inspect::Kind::Adapter, _) => Some(Kind::Adapter),
        (engine::inspect::Kind::Component, [only]) if only.name == "VAE" => Some(Kind::Vae),
        (engine::inspect::Kind::Component, _) if file.is_unet() => Some(Kind::BaseModel),
        (engine::inspect::Kind::Embedding, _) => Some(Kind::Embedding),
        _ => None,
    }
}

fn found(path: PathBuf, name: String, hashes: Hashes, warning: Option<String>) -> Found {
    let Hashes { sha256, data_sha256 } = hashes;
    let reference = FileRef { name, sha256: Some(sha256), data_sha256 };
    Found { path, reference, warning }
}

/// Whether hashes are those of a file that was asked for, as far as that says.
fn agrees(wanted: &FileRef, found: &Hashes) -> bool {
    let fits = |wanted: &Option<String>, found: Option<&String>| {
        wanted.is_none() || found.is_none() || says(wanted.as_ref(), found)
    };
    fits(&wanted.sha256, Some(&found.sha256))
        && fits(&wanted.data_sha256, found.data_sha256.as_ref())
}

/// Whether an adapter is wanted by the hash that its trainer noted in it. A1111 believes that one, even
/// where it is not the file's.
fn noted_by_trainer(wanted: &FileRef, path: &Path) -> bool {
    let Ok(file) = TensorFile::open(path) else { return false };
    says(wanted.data_sha256.as_ref(), file.metadata().get("sshs_model_hash"))
}

/// Whether a wanted hash, maybe shortened, is that of a file.
fn says(wanted: Option<&String>, found: Option<&String>) -> bool {
    match (wanted, found) {
        (Some(wanted), Some(found)) => {
            wanted.len() >= 8 && found.starts_with(&wanted.to_ascii_lowercase())
        }
        _ => false,
    }
}

pub(crate) fn same_file(a: &Path, b: &Path) -> bool {
    match (fs::canonicalize(a), fs::canonicalize(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// What a model file or folder is called.
pub(crate) fn model_name(path: &Path) -> String {
    // A path like `.` or `models/..` has no name of its own.
    let named = match path.file_name() {
        Some(_) => path.to_owned(),
        None => fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()),
    };
    match named.extension() {
        Some(_) if is_model_file(&named) => {
            named.file_stem().unwrap_or_default().to_string_lossy().into_owned()
        }
        _ => file_name(&named),
    }
}

/// The starter's base model and its adapters.
pub(crate) fn list_starter(starter: &Starter, entries: &mut Vec<Entry>) {
    let qualified = |name: &str| format!("{}/{name}", starter::NAME);
    entries.push(Entry {
        name: starter::NAME.to_owned(),
        qualified_name: qualified(starter::NAME),
        title: Some(starter.catalog.model.title.clone()),
        path: starter.model(),
        kind: Some(Kind::BaseModel),
        sha256: None,
    });
    for style in &starter.catalog.adapters {
        entries.push(Entry {
            name: style.name.clone(),
            qualified_name: qualified(&style.name),
            title: Some(style.title.clone()),
            path: starter.folder.join(&style.file),
            kind: Some(Kind::Adapter),
            sha256: Some(style.sha256.clone()),
        });
    }
    // Adapters that are there but not in the list work like any other file.
    let mut walk = Walk::default();
    let folder = starter.folder.join("adapters");
    walk.below(&folder, &folder, 1);
    for entry in walk.entries {
        if entries.iter().all(|listed| !same_file(&listed.path, &entry.path)) {
            let qualified_name = qualified(&entry.name);
            entries.push(Entry { qualified_name, kind: Some(Kind::Adapter), ..entry });
        }
    }
}

/// A search through folders that ends, whatever links there are.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// What was found, by folder and name.
    pub(crate) entries: Vec<Entry>,
    /// Where links lead has been seen before, or not.
    seen: BTreeSet<PathBuf>,
    visited: usize,
}

impl Walk {
    /// Lists a library's folder.
    pub(crate) fn folder(&mut self, root: &Path) {
        // A link to it leads in a circle.
        self.first_time(root);
        self.below(root, root, MAX_DEPTH);
    }

    /// Lists a folder of another program's; names from its own (`loras/ink`) tell its kinds apart.
    /// `left_out` are folders in it that are for the program alone.
    pub(crate) fn shelf(&mut self, shelf: &Path, left_out: &[&str]) {
        for name in left_out {
            self.first_time(&shelf.join(name));
        }
        self.below(shelf.parent().unwrap_or(shelf), shelf, MAX_DEPTH);
    }

    fn below(&mut self, root: &Path, folder: &Path, depth: usize) {
        // What cannot be read is not in the library. A folder that the person named was read before.
        let Ok(read) = fs::read_dir(folder) else { return };
        let mut paths: Vec<PathBuf> = read.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        for path in paths {
            self.visited += 1;
            if self.visited > MAX_VISITED {
                return;
            }
            let name = path.file_name().unwrap_or_default();
            let hidden = name.as_encoded_bytes().starts_with(b".");
            let is_folder = path.is_dir();
            let foreign = is_folder && NO_MODELS.iter().any(|other| name == *other);
            if hidden || foreign || !self.first_time(&path) {
                continue;
            }
            if is_model_folder(&path) || !is_folder && is_model_file(&path) {
                self.entries.push(entry(root, path));
            } else if is_folder && depth > 1 {
                self.below(root, &path, depth - 1);
            }
        }
    }

    /// Whether a path, with its links followed, is seen for the first time.
    pub(crate) fn first_time(&mut self, path: &Path) -> bool {
        fs::canonicalize(path).is_ok_and(|path| self.seen.insert(path))
    }
}

/// What a model file in a library's folder is called.
pub(crate) fn entry(root: &Path, path: PathBuf) -> Entry {
    let name = model_name(&path);
    let folder = path.strip_prefix(root).ok().and_then(Path::parent);
    let parts = folder.into_iter().flatten().map(|part| part.to_string_lossy().into_owned());
    let parts: Vec<String> = parts.chain([name.clone()]).collect();
    Entry { name, qualified_name: parts.join("/"), title: None, path, kind: None, sha256: None }
}

/// What only a diffusers folder has, or an adapter as PEFT or diffusers stores it.
const IN_MODEL_FOLDERS: &[&str] = &[
    "unet/config.json",
    "model_index.json",
    "adapter_config.json",
    "unet/adapter_config.json",
    "text_encoder/adapter_config.json",
    "pytorch_lora_weights.safetensors",
    "pytorch_lora_weights.bin",
];

pub(crate) fn is_model_folder(path: &Path) -> bool {
    IN_MODEL_FOLDERS.iter().any(|file| path.join(file).is_file())
}

/// How names of models end; those that cannot be opened are listed all the same, to say why.
const EXTENSIONS: &[&str] = &["safetensors", "ckpt", "pt", "pth", "bin", "gguf"];

pub(crate) fn is_model_file(path: &Path) -> bool {
    let is = |one: &&str| path.extension().is_some_and(|own| own.eq_ignore_ascii_case(one));
    EXTENSIONS.iter().any(is)
}

/// Names like this one, the nearest first: with few letters changed, or with this one in them.
fn near_matches<'a>(name: &str, names: &BTreeSet<&'a str>) -> Vec<&'a str> {
    // Longer ones are no slips.
    const LONGEST: usize = 200;
    let name: String = name.to_lowercase().chars().take(LONGEST).collect();
    let mut near: Vec<(usize, &str)> = names
        .iter()
        .filter_map(|&candidate| {
            let lower = candidate.to_lowercase();
            let distance = edit_distance(&name, &lower);
            let contained = name.chars().count() >= 3 && lower.contains(&name);
            (contained || distance <= name.chars().count().div_ceil(4))
                .then_some((distance, candidate))
        })
        .collect();
    near.sort_unstable();
    near.into_iter().take(5).map(|(_, candidate)| candidate).collect()
}

/// How many letters to insert, delete, replace or swap with their neighbor (optimal string alignment).
pub(crate) fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // `rows[i][j]`: from the first `i` letters of `a` to the first `j` of `b`.
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A safetensors file with tensors of zeros, by name and shape, and metadata.
    fn write(path: &Path, tensors: &[(&str, &[usize])], metadata: &[(&str, &str)]) {
        let mut header = serde_json::Map::new();
        header.insert("__metadata__".into(), metadata.iter().copied().collect());
        let mut at = 0;
        for (name, shape) in tensors {
            let end = at + 4 * shape.iter().product::<usize>();
            let info =
                serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [at, end]});
            header.insert((*name).into(), info);
            at = end;
        }
        let header = serde_json::Value::Object(header).to_string();
        let len = (header.len() as u64).to_le_bytes();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, [&len[..], header.as_bytes(), &vec![0; at]].concat()).unwrap();
    }

    fn write_adapter(path: &Path, alias: &str) {
        let module = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q";
        let (down, up) = (format!("{module}.lora_down.weight"), format!("{module}.lora_up.weight"));
        write(path, &[(&down, &[1, 4]), (&up, &[4, 1])], &[("ss_output_name", alias)]);
    }

    fn open(folder: &Path) -> Library {
        let starter = Some(Starter::folder().expect("it is in the repository"));
        let models = vec![folder.to_owned()];
        Library::open(Folders { starter, models, ..Folders::default() }).unwrap()
    }

    fn path_of(library: &Library, name: &str) -> Result<PathBuf> {
        library.find(Kind::Adapter, &FileRef::named(name)).map(|found| found.path)
    }

    #[test]
    fn adapters_go_by_many_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("Lora/styles/Wet Ink v1.2.safetensors");
        write_adapter(&path, "wetink_trained");
        let library = open(folder.path());
        let full_path = path.to_str().unwrap();
        for name in [
            "Wet Ink v1.2",
            "wet ink V1.2",
            "Wet Ink v1.2.safetensors",
            "Lora/styles/Wet Ink v1.2",
            "wetink_trained",
            full_path,
        ] {
            assert_eq!(path_of(&library, name).unwrap(), path, "{name}");
        }
        let found = library.find(Kind::Adapter, &FileRef::named(full_path)).unwrap();
        assert_eq!(found.reference.name, "Wet Ink v1.2", "a recipe names no folder");
        assert_eq!(found.reference.sha256.unwrap(), hash::sha256(&path).unwrap());
    }

    #[test]
    fn the_starter_goes_by_its_short_names() {
        let folder = tempfile::tempdir().unwrap();
        let library = open(folder.path());
        let starter = library.starter().unwrap();
        for style in &starter.catalog.adapters {
            let path = path_of(&library, &style.name).unwrap();
            assert_eq!(path, starter.folder.join(&style.file));
        }
        assert!(path_of(&library, "pixel-diffusers-naming").is_ok(), "it is not in the list");
        let model = library.find(Kind::BaseModel, &FileRef::named("starter")).unwrap();
        assert_eq!(model.path, starter.model());
        let kinds: Vec<_> = library.entries().iter().map(Entry::kind).collect();
        assert_eq!(kinds[0], Some(Kind::BaseModel));
        assert!(kinds[1..].iter().all(|kind| *kind == Some(Kind::Adapter)));
    }

    #[test]
    fn defaults_are_those_of_the_model() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("other.safetensors"), &[("x", &[1])], &[]);
        let library = open(folder.path());
        let starter = library.starter().unwrap().model();
        for name in ["starter", starter.to_str().unwrap()] {
            let params = library.defaults(&FileRef::named(name)).unwrap();
            assert_eq!((params.width, params.height, params.guidance_scale), (128, 128, 4.0));
            assert_eq!(params.prompt, "a fox on a light blue background");
            let found = library.find(Kind::BaseModel, &FileRef::named(name)).unwrap();
            assert_eq!(found.reference.name, "starter");
        }
        let params = library.defaults(&FileRef::named("other")).unwrap();
        assert_eq!((params.width, params.steps, params.prompt.as_str()), (512, 20, ""));
    }

    #[test]
    fn names_that_are_none_get_suggestions() {
        let folder = tempfile::tempdir().unwrap();
        let library = open(folder.path());
        let hint = |name: &str| {
            let error = path_of(&library, name).unwrap_err();
            assert_eq!(error.code(), Code::MissingFile);
            assert!(error.message().contains(name), "{error}");
            error.suggestion().unwrap().to_owned()
        };
        assert!(hint("noen").contains("did you mean `neon`"));
        assert!(hint("water").contains("`watercolor`"));
        assert!(hint("something else").contains("known: `ink`, `neon`"));
        assert!(!hint("starte").contains("starter"), "a base model is no adapter");
    }

    #[test]
    fn one_name_for_several_files() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a/x.safetensors"), folder.path().join("b/x.safetensors"));
        write_adapter(&a, "");
        write(&b, &[("decoder.conv_in.weight", &[4, 4, 3, 3])], &[]);
        // The other is no adapter.
        assert_eq!(path_of(&open(folder.path()), "x").unwrap(), a);

        write_adapter(&b, "");
        let library = open(folder.path());
        let error = path_of(&library, "x").unwrap_err();
        assert!(error.message().contains("more than one adapter"), "{error}");
        assert_eq!(error.suggestion(), Some("call one of them `a/x` or `b/x`"));
        assert_eq!(path_of(&library, "b/x").unwrap(), b);
    }

    #[test]
    fn hashes_tell_renamed_and_replaced_files() {
        let folder = tempfile::tempdir().unwrap();
        let library = open(folder.path());
        let neon = library.find(Kind::Adapter, &FileRef::named("neon")).unwrap();
        assert_eq!(neon.warning, None);

        // Renamed since: found by its hash, which the starter's list has.
        let sha256 = neon.reference.sha256.clone();
        let renamed = FileRef { name: "glow".into(), sha256: sha256.clone(), data_sha256: None };
        assert_eq!(library.find(Kind::Adapter, &renamed).unwrap(), neon);
        // Another file has its name now.
        let taken = FileRef { name: "ink".into(), sha256, data_sha256: None };
        assert_eq!(library.find(Kind::Adapter, &taken).unwrap(), neon);

        // As A1111 shortens hashes.
        let data_sha256 = neon.reference.data_sha256.as_ref().map(|hash| hash[..12].to_uppercase());
        let short = FileRef { name: "neon".into(), sha256: None, data_sha256 };
        assert_eq!(library.find(Kind::Adapter, &short).unwrap(), neon);
        // As A1111 takes them from the metadata.
        let file = TensorFile::open(&neon.path).unwrap();
        let noted = file.metadata()["sshs_model_hash"].clone();
        let noted = FileRef { name: "neon".into(), sha256: None, data_sha256: Some(noted) };
        assert_eq!(library.find(Kind::Adapter, &noted).unwrap(), neon);
        // A file that is not here.
        let sha256 = Some("0".repeat(64));
        let gone = FileRef { name: "neon".into(), sha256, data_sha256: None };
        let warning = library.find(Kind::Adapter, &gone).unwrap().warning.unwrap();
        assert!(warning.contains("`neon`"), "{warning}");
    }

    #[cfg(unix)]
    #[test]
    fn links_may_lead_in_circles() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("real/a.safetensors");
        write_adapter(&path, "");
        std::os::unix::fs::symlink(folder.path(), folder.path().join("real/loop")).unwrap();
        std::os::unix::fs::symlink(&path, folder.path().join("real/twin.safetensors")).unwrap();
        let library = open(folder.path());
        let own: Vec<_> =
            library.entries().iter().filter(|e| e.path.starts_with(folder.path())).collect();
        assert_eq!(own.len(), 1, "{own:?}");
    }

    #[test]
    fn folders_that_are_models_are_not_searched() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("m/unet/x.safetensors"), &[("x", &[1])], &[]);
        fs::write(folder.path().join("m/model_index.json"), "{}").unwrap();
        let library = open(folder.path());
        let names: Vec<_> = library.entries().iter().map(|entry| entry.name.as_str()).collect();
        assert!(names.contains(&"m") && !names.contains(&"x"), "{names:?}");
        let missing = Folders { models: vec![folder.path().join("none")], ..Folders::default() };
        let error = Library::open(missing).unwrap_err();
        assert_eq!(error.code(), Code::MissingFile);
    }

    #[test]
    fn edit_distances() {
        for (a, b, distance) in
            [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("noen", "neon", 1)]
        {
            assert_eq!(edit_distance(a, b), distance);
            assert_eq!(edit_distance(b, a), distance);
        }
    }
}
