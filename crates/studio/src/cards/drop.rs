//! Files that are dropped on the window: what they are while they hover, and what becomes of them.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use fs_err as fs;

use super::{
    Cards, copy, fit,
    reading::{Reading, rank_text},
    rows, scan,
    types::{DropItem, DropKind, Dropped, ModelKind},
};
use crate::{
    Code, Error, Failure, Recipe, Result,
    error::sentence,
    library::{self, Walk, file_name, same_file},
    picture, studio,
};

/// More than this are dropped as well, but not told of while they hover.
const MAX_TOLD: usize = 40;

/// Models in a dropped folder; more is a library: add the folder instead.
const MAX_IN_FOLDER: usize = 500;

/// What a dropped path is.
enum Thing {
    Picture {
        recipe: Option<Recipe>,
    },
    Model(Box<Reading>),
    /// A folder that is no model, with models in it.
    Folder(Vec<PathBuf>),
}

impl Cards {
    /// What files are that hover over the window, and what dropping them would do on a base model.
    pub(crate) fn describe(&self, paths: &[PathBuf], checkpoint: Option<u32>) -> Vec<DropItem> {
        let target = checkpoint.and_then(|id| self.target(&self.file(id).ok()?).ok());
        let describe = |path: &PathBuf| {
            let (kind, what, fate, usable) = match look(path) {
                Ok(Thing::Picture { recipe: Some(_) }) => (
                    DropKind::Picture,
                    "a picture with its recipe".into(),
                    "offer its recipe",
                    true,
                ),
                Ok(Thing::Picture { recipe: None }) => {
                    (DropKind::Picture, "a picture".into(), "offered to start from", true)
                }
                Ok(Thing::Folder(models)) => {
                    let what = format!("a folder with {} models", models.len());
                    (DropKind::Other, what, "each by itself", true)
                }
                Ok(Thing::Model(reading)) => {
                    let mut what = parts(path, &reading);
                    if reading.kind == ModelKind::Adapter
                        && let Some(target) = &target
                    {
                        let fit = fit(target, 0, path);
                        if fit.refusal.is_none() {
                            what.push(format!("{} of {} modules match", fit.applied, fit.total));
                        }
                    }
                    let words = reading.trigger_words.iter().take(1);
                    what.extend(words.map(|word| format!("trigger “{word}”")));
                    let (kind, fate) = fate(&reading);
                    (kind, what.join(" · "), fate, reading.usable)
                }
                Err(error) => {
                    let what = sentence(error.message());
                    (DropKind::Other, what, "left alone", false)
                }
            };
            let path = path.display().to_string();
            DropItem { name: name_of(&path), path, kind, what, fate: fate.to_owned(), usable }
        };
        paths.iter().take(MAX_TOLD).map(describe).collect()
    }

    /// Takes dropped files in; one result for each, or for each model in a folder.
    pub(crate) fn drop(&self, paths: &[PathBuf]) -> Vec<Dropped> {
        let mut results = Vec::new();
        for path in paths {
            self.drop_one(path, true, &mut results);
        }
        results
    }

    fn drop_one(&self, path: &Path, into_folders: bool, results: &mut Vec<Dropped>) {
        let dropped = look(path).and_then(|thing| match thing {
            Thing::Folder(models) if into_folders => {
                for model in models {
                    self.drop_one(&model, false, results);
                }
                Ok(None)
            }
            Thing::Folder(_) => Ok(None),
            Thing::Picture { recipe } => {
                let picture = self.0.inputs.add(path)?;
                let names = self.names()?;
                let recipe = recipe.and_then(|recipe| studio::offer(&names, recipe).ok());
                Ok(Some(Dropped::Picture { picture, recipe: recipe.map(Box::new) }))
            }
            Thing::Model(reading) => self.drop_model(path, &reading).map(Some),
        });
        match dropped {
            Ok(dropped) => results.extend(dropped),
            Err(error) => {
                let name = name_of(&path.to_string_lossy());
                results.push(Dropped::Refused { name, failure: Failure::from(&error) });
            }
        }
    }

    fn drop_model(&self, path: &Path, reading: &Reading) -> Result<Dropped> {
        let usable = reading.usable;
        let note = (!usable).then(|| reading.notes.join(" "));
        match reading.kind {
            ModelKind::Adapter => {
                let card = self.install(path, reading)?;
                Ok(Dropped::Adapter { card, usable, note })
            }
            ModelKind::Checkpoint => {
                Ok(Dropped::Checkpoint { card: self.place(path)?, usable, note })
            }
            ModelKind::Vae if usable => Ok(Dropped::Vae { card: self.place(path)? }),
            ModelKind::Embedding => Ok(Dropped::Embedding { card: self.install(path, reading)? }),
            ModelKind::Vae | ModelKind::Other => Err(refusal(path, reading)),
        }
    }

    /// Copies a model into the library's own folder, unless it is in the library already.
    fn install(&self, path: &Path, reading: &Reading) -> Result<u32> {
        if let Some(id) = self.at(path) {
            return Ok(id);
        }
        if let Some(id) = self.twin(path)? {
            return Ok(id);
        }
        let folder = self.0.data.models().join(copy::shelf_of(reading.kind));
        let sources = copy::sources(path)?;
        let copied = copy::copy_model(path, &file_name(path), &sources, &folder, &mut |_| true)?;
        copy::copy_sidecars(path, &copied);
        self.take(library::entry(&self.0.data.models(), copied), Some(0))
    }

    /// Uses a model where it lies.
    fn place(&self, path: &Path) -> Result<u32> {
        if let Some(id) = self.at(path) {
            return Ok(id);
        }
        let path = fs::canonicalize(path)?;
        rows::place(&self.0.db.lock(), &path)?;
        self.take(scan::in_place(&path), None)
    }

    /// The card of a file that is in the library.
    fn at(&self, path: &Path) -> Option<u32> {
        let name = path.file_name();
        let alike: Vec<(u32, PathBuf)> = {
            let shelf = self.shelf();
            let alike = shelf.files.iter().filter(|(_, file)| file.entry.path.file_name() == name);
            alike.map(|(id, file)| (*id, file.entry.path.clone())).collect()
        };
        alike.into_iter().find(|(_, other)| same_file(other, path)).map(|(id, _)| id)
    }

    /// The card of a file with the same contents.
    fn twin(&self, path: &Path) -> Result<Option<u32>> {
        let size = super::Stamp::of_model(path)?.size;
        let candidates: Vec<u32> = {
            let shelf = self.shelf();
            let same = shelf.order.iter().filter(|id| shelf.files[id].stamp.size == size);
            same.copied().collect()
        };
        if candidates.is_empty() {
            return Ok(None);
        }
        let sha256 = self.0.hashes.hashes(path)?.sha256;
        Ok(candidates.into_iter().find(|id| self.sha256(*id).is_ok_and(|own| own == sha256)))
    }
}

/// What is at a path, from its header.
fn look(path: &Path) -> Result<Thing> {
    let text = path.to_string_lossy();
    if text.starts_with("http://") || text.starts_with("https://") {
        return Err(Error::new(Code::Unknown, "it is a link, and this program loads nothing")
            .hint("save the file first, then drop that"));
    }
    let status = fs::metadata(path).map_err(|error| unreadable(path, error))?;
    if status.is_file() {
        fs::File::open(path).map_err(|error| unreadable(path, error))?;
    }
    if status.is_file() && picture::size(path).is_ok() {
        return Ok(Thing::Picture { recipe: Recipe::open(path).ok() });
    }
    if status.is_dir() && !library::is_model_folder(path) {
        let mut walk = Walk::default();
        walk.folder(path);
        let models: Vec<PathBuf> = walk.entries.into_iter().map(|entry| entry.path).collect();
        return match models.len() {
            0 => Err(Error::new(Code::Unknown, "it is a folder without models")
                .hint("drop a model, a picture, or a folder with models in it")),
            1..=MAX_IN_FOLDER => Ok(Thing::Folder(models)),
            count => Err(Error::new(Code::Unknown, format!("it is a folder with {count} models"))
                .hint(
                    "add it under Settings → Folders instead: then they are used where they lie",
                )),
        };
    }
    Ok(Thing::Model(Box::new(Reading::of(path))))
}

/// Why a file cannot be looked at.
fn unreadable(path: &Path, error: std::io::Error) -> Error {
    let name = file_name(path);
    match (error.kind(), fs::read_link(path)) {
        (ErrorKind::NotFound, Ok(target)) => {
            let message = format!("`{name}` is a link to `{}`, not found there", target.display());
            Error::new(Code::MissingFile, message).hint("mend the link, or drop the file itself")
        }
        (ErrorKind::NotFound, Err(_)) => {
            Error::new(Code::MissingFile, format!("`{name}` is not found any more"))
                .hint("it was moved or deleted: drop it from where it is now")
        }
        (ErrorKind::PermissionDenied, _) => {
            Error::new(Code::Unknown, format!("`{name}` may not be read by this user"))
                .hint("change its permissions, or ask its owner to")
        }
        // It names the file.
        _ => error.into(),
    }
}

/// "LoCon · rank 8 · SD 1.x · 1.3 MB".
fn parts(path: &Path, reading: &Reading) -> Vec<String> {
    let size = match reading.bytes {
        bytes if bytes >= 1_000_000_000 => format!("{:.1} GB", bytes as f64 / 1e9),
        bytes => format!("{:.1} MB", bytes as f64 / 1e6),
    };
    match reading.kind {
        ModelKind::Other => {
            let (what, notes) = account(path, reading);
            [what].into_iter().chain(notes.into_iter().take(1)).collect()
        }
        kind => {
            let first = reading.algorithm.clone();
            let mut parts: Vec<String> = first.into_iter().chain(reading.family.clone()).collect();
            match kind {
                ModelKind::Adapter => parts.extend(reading.rank.map(rank_text)),
                _ => parts.extend([reading.summary.clone(), size]),
            }
            if !reading.usable {
                parts.extend(reading.notes.first().cloned());
            }
            parts
        }
    }
}

fn fate(reading: &Reading) -> (DropKind, &'static str) {
    match (reading.kind, reading.usable) {
        (ModelKind::Adapter, true) => (DropKind::Adapter, "onto the stack"),
        (ModelKind::Adapter, false) => (DropKind::Adapter, "kept in the library"),
        (ModelKind::Checkpoint, true) => (DropKind::Checkpoint, "offered as ground"),
        (ModelKind::Checkpoint, false) => (DropKind::Checkpoint, "kept in the library"),
        (ModelKind::Vae, true) => (DropKind::Vae, "offered as VAE"),
        (ModelKind::Embedding, _) => (DropKind::Embedding, "kept, to be called in the words"),
        (ModelKind::Vae | ModelKind::Other, _) => (DropKind::Other, "left alone"),
    }
}

/// [`Reading::what`] -> what to do about it, where the notes do not say so.
const TODO: &[(&str, &str)] = &[
    ("a zip archive", "Unpack it, and drop what is in it."),
    (
        "a file of an unknown format",
        "If a model was downloaded under this name, download it again.",
    ),
    ("a text file", "Drop adapters, base models or pictures."),
    ("a PNG picture", "It is damaged, or was not saved completely: save it again."),
    ("a JPEG picture", "It is damaged, or was not saved completely: save it again."),
];

/// What a file is that cannot be used, and what else there is to say, each thing once.
fn account(path: &Path, reading: &Reading) -> (String, Vec<String>) {
    let mut notes = reading.notes.iter();
    // What could not be read says everything itself; the window has its name above that.
    let what = match reading.is_damaged() {
        true => notes
            .next()
            .map(|note| note.replace(&*path.to_string_lossy(), &file_name(path)))
            .unwrap_or_default(),
        false => reading.what.clone(),
    };
    // A note that is one about the file as a whole begins with what it is.
    let said = format!("It is {}", reading.what);
    let rest = notes.map(|note| {
        sentence(note.strip_prefix(&said).unwrap_or(note).trim_start_matches([':', ',', ';', ' ']))
    });
    (what, rest.collect())
}

/// Why a file cannot be used.
fn refusal(path: &Path, reading: &Reading) -> Error {
    let (what, mut rest) = account(path, reading);
    let message = if reading.is_damaged() { what } else { format!("it is {what}") };
    let todo = TODO.iter().find(|(what, _)| reading.what.starts_with(what));
    rest.extend(todo.map(|(_, todo)| (*todo).to_owned()));
    let error = Error::new(Code::Unknown, message);
    if rest.is_empty() { error } else { error.hint(rest.join(" ")) }
}

fn name_of(path: &str) -> String {
    match path.contains("://") {
        true => path.to_owned(),
        false => file_name(Path::new(path)),
    }
}
