//! The library as a window shows it: a card for each model file.
//!
//! Files are read once, from their headers; what was read is kept in the database and believed as long
//! as the file and its sidecars stay as they are. Two threads keep the cards true: one lists and reads
//! ([`scan`]) whenever a folder changes, one takes hashes. What the person says of a file is kept by
//! its hash, so that it survives renaming, and other copies have it as well.
//!
//! **Invariant:** the shelf's lock is the innermost: whoever holds it asks neither the database nor
//! anything that listens.

mod convert;
mod copy;
mod cover;
mod drop;
mod offer;
mod reading;
mod rows;
mod scan;
mod sidecar;
mod strength;
mod types;

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use engine::{
    acceleration::Acceleration,
    adapter::{AdapterReport, Outline, Target},
    checkpoint::header::TensorFile,
};
use serde_json::{Map, json};

pub use self::types::{
    AdapterStrength, BlockCoverage, ConvertPlan, ConvertWish, DropItem, DropKind, Dropped, Fit,
    FolderOffer, InputPicture, LibraryFolder, LibraryView, ModelCard, ModelKind, ModelNote,
    Problem, RecipeOffer, StackStrength, StoredName,
};
use self::{
    reading::{Reading, Stamp},
    rows::Said,
    scan::Scanner,
};
use crate::{
    Code, DataFolder, Error, FileRef, GenerationParams, Kind, Library, Prediction, Result,
    db::Db,
    error::sentence,
    event::{Event, Events},
    gallery,
    hash::{self, HashCache},
    input::Inputs,
    library::Entry,
    starter::{self, Starter, Style, Suggestion},
};

/// Modules without effect that are told of; the rest is counted.
const MAX_LEFT_OUT: usize = 100;

/// How many pigments there are.
const PIGMENTS: u8 = 12;

/// The cards, shared by all who need them.
#[derive(Debug, Clone)]
pub(crate) struct Cards(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    data: DataFolder,
    starter: Option<Starter>,
    db: Arc<Db>,
    events: Events,
    inputs: Inputs,
    hashes: Arc<HashCache>,
    revision: AtomicU32,
    shelf: Mutex<Shelf>,
    scanner: Scanner,
    /// What stops a copy, by the card's id.
    copies: Mutex<BTreeMap<u32, Arc<AtomicBool>>>,
    /// What stops a conversion, by the card's id.
    conversions: Mutex<BTreeMap<u32, Arc<AtomicBool>>>,
    /// The base model that adapters were last held against.
    target: Mutex<Option<(PathBuf, Stamp, Arc<Target>)>>,
    measured: Mutex<strength::Measured>,
}

/// What is on the shelf now.
#[derive(Debug, Default)]
struct Shelf {
    /// The person's folders.
    extra: Vec<PathBuf>,
    /// Where was looked: ours first.
    folders: Vec<LibraryFolder>,
    /// Other programs' folders that were found.
    offers: Vec<FolderOffer>,
    looked_for_programs: bool,
    files: BTreeMap<u32, File>,
    /// Ids as they are shown: the starter first, then by folder and name.
    order: Vec<u32>,
    /// Every file has been seen once.
    seen: bool,
    /// The same by name, made when it is asked for.
    names: Option<Arc<Library>>,
    /// What the person says that base models predict, by hash.
    predictions: BTreeMap<String, Prediction>,
    scanning: bool,
}

/// One model file.
#[derive(Debug, Clone)]
struct File {
    entry: Entry,
    /// Index into the folders.
    folder: Option<u32>,
    starter: bool,
    /// What the starter's list says of it.
    style: Option<Style>,
    stamp: Stamp,
    sha256: Option<String>,
    pigment: u8,
    reading: Reading,
}

impl Cards {
    pub(crate) fn open(
        data: &DataFolder,
        extra: Vec<PathBuf>,
        db: Arc<Db>,
        events: Events,
        inputs: Inputs,
    ) -> Result<Cards> {
        let starter = data.starter.as_deref().map(Starter::open).transpose()?;
        let predictions = rows::predictions(&db.lock())?;
        let cards = Cards(Arc::new(Inner {
            hashes: Arc::new(HashCache::open(Some(&data.cache))),
            data: data.clone(),
            starter,
            db,
            events,
            inputs,
            revision: AtomicU32::new(0),
            shelf: Mutex::new(Shelf { extra, predictions, scanning: true, ..Shelf::default() }),
            scanner: Scanner::default(),
            copies: Mutex::default(),
            conversions: Mutex::default(),
            target: Mutex::default(),
            measured: Mutex::default(),
        }));
        cards.begin()?;
        Ok(cards)
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // Every change is made whole before anything that could panic.
        self.0.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts up with every change.
    pub(crate) fn revision(&self) -> u32 {
        self.0.revision.load(Ordering::Relaxed)
    }

    fn changed(&self) {
        let revision = self.0.revision.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.events.send(&Event::Library { revision });
    }

    /// Other folders of the person's.
    pub(crate) fn set_folders(&self, extra: Vec<PathBuf>) -> Result<()> {
        self.answer_offers(&extra)?;
        let mut shelf = self.shelf();
        if shelf.extra != extra {
            shelf.extra = extra;
            drop(shelf);
            self.rescan();
        }
        Ok(())
    }

    /// Names to files, as they were last listed.
    pub(crate) fn names(&self) -> Result<Arc<Library>> {
        let (extra, predictions) = {
            let mut shelf = self.shelf();
            if shelf.seen {
                let names = shelf.names.take().unwrap_or_else(|| Arc::new(self.name(&shelf)));
                return Ok(shelf.names.insert(names).clone());
            }
            (shelf.extra.clone(), shelf.predictions.clone())
        };
        // A folder that is not there now is no reason to find nothing in the others.
        let there = extra.into_iter().filter(|folder| folder.is_dir()).collect();
        let mut library = Library::open(self.0.data.folders(there))?;
        // Nor does a job that was waiting when the program ended wait for the first look around.
        let placed = rows::placed(&self.0.db.lock())?;
        library.add(placed.iter().filter(|path| path.exists()).map(|path| {
            let kind = kind_of(&Reading::of(path));
            Entry { kind, ..scan::in_place(path) }
        }));
        Ok(Arc::new(library.with_predictions(predictions)))
    }

    /// Everything that was found.
    pub(crate) fn view(&self) -> Result<LibraryView> {
        let revision = self.revision();
        let (said, uses) = {
            let db = self.0.db.lock();
            (rows::said(&db)?, rows::uses(&db)?)
        };
        let shelf = self.shelf();
        let mut first: HashMap<&str, u32> = HashMap::new();
        let mut names: HashMap<(ModelKind, &str), usize> = HashMap::new();
        for id in &shelf.order {
            let file = &shelf.files[id];
            if let Some(sha256) = &file.sha256 {
                first.entry(sha256).or_insert(*id);
            }
            *names.entry((file.reading.kind, &file.entry.name)).or_default() += 1;
            *names.entry((file.reading.kind, &file.entry.qualified_name)).or_default() +=
                usize::from(file.entry.name != file.entry.qualified_name);
        }
        let cards = shelf.order.iter().map(|id| {
            let file = &shelf.files[id];
            let alone = |name: &str| names[&(file.reading.kind, name)] == 1;
            let name = match (alone(&file.entry.name), alone(&file.entry.qualified_name)) {
                (true, _) => file.entry.name.clone(),
                (_, true) => file.entry.qualified_name.clone(),
                _ => file.entry.path.display().to_string(),
            };
            let sha256 = file.sha256.as_deref();
            let said = sha256.and_then(|sha256| said.get(sha256)).cloned().unwrap_or_default();
            let used_at = sha256.and_then(|sha256| uses.get(sha256)).copied();
            let original = sha256.map(|sha256| first[sha256]).filter(|first| first != id);
            self.card(*id, file, name, said, used_at, original)
        });
        Ok(LibraryView {
            revision,
            cards: cards.collect(),
            folders: shelf.folders.clone(),
            offers: shelf.offers.clone(),
            scanning: shelf.scanning,
        })
    }

    fn card(
        &self,
        id: u32,
        file: &File,
        name: String,
        said: Said,
        used_at: Option<i64>,
        duplicate_of: Option<u32>,
    ) -> ModelCard {
        let File { entry, reading, .. } = file;
        let note = said.note;
        let title = note.title.as_ref().or(reading.title.as_ref()).or(entry.title.as_ref());
        let style = file.style.as_ref();
        let words = note.trigger_words.as_ref().or(style.map(|style| &style.trigger_words));
        let weight = note.default_weight.or(style.map(|style| style.weight.default));
        let runs = reading.kind == ModelKind::Checkpoint && reading.usable;
        // What the person says wins; "none" and the like are no method.
        let acceleration = match &note.acceleration {
            Some(id) => Acceleration::by(id).map(Suggestion::from),
            None => reading.acceleration.clone(),
        };
        ModelCard {
            id,
            kind: reading.kind,
            title: title.unwrap_or(&entry.name).clone(),
            path: entry.path.display().to_string(),
            folder: file.folder,
            family: reading.family.clone(),
            summary: match note.prediction.filter(|_| reading.kind == ModelKind::Checkpoint) {
                Some(prediction) => reading::prediction_text(prediction).to_owned(),
                None => reading.summary.clone(),
            },
            precision: reading.precision.clone(),
            algorithm: reading.algorithm.clone(),
            rank: reading.rank,
            modules: reading.modules,
            bytes: reading.bytes,
            modified_at: reading.modified_at,
            usable: reading.usable,
            notes: reading.notes.clone(),
            trigger_words: words.unwrap_or(&reading.trigger_words).clone(),
            default_weight: weight.unwrap_or(reading.default_weight),
            cover: cover::revision(said.cover.as_deref(), reading),
            pigment: note.pigment.unwrap_or(file.pigment),
            sha256: file.sha256.clone(),
            duplicate_of,
            starter: file.starter,
            defaults: runs.then(|| {
                let starter = self.0.starter.as_ref().filter(|_| file.starter);
                let mut params = starter::defaults(FileRef::named(&name), starter);
                if starter.is_none() {
                    starter::suit(&mut params, reading.native_size, acceleration.as_ref());
                }
                params
            }),
            acceleration,
            facts: reading.facts.clone(),
            used_at,
            note,
            name,
        }
    }

    fn file(&self, id: u32) -> Result<File> {
        self.shelf().files.get(&id).cloned().ok_or_else(|| {
            Error::new(Code::MissingFile, "this model is not in the library any more")
                .hint("look for it again, or drop it on the window")
        })
    }

    /// Where a card's file is.
    pub(crate) fn path(&self, id: u32) -> Result<PathBuf> {
        Ok(self.file(id)?.entry.path)
    }

    /// A card's hash, taken now if it is not known yet.
    fn sha256(&self, id: u32) -> Result<String> {
        let file = self.file(id)?;
        match file.sha256 {
            Some(sha256) => Ok(sha256),
            None => self.take_hash(id, &file.entry.path),
        }
    }

    /// Takes a file's hash and keeps it.
    fn take_hash(&self, id: u32, path: &Path) -> Result<String> {
        // What is no safetensors file has a hash as well.
        let sha256 = match self.0.hashes.hashes(path) {
            Ok(hashes) => hashes.sha256,
            Err(_) => hash::sha256(path)?,
        };
        rows::set_sha256(&self.0.db.lock(), id, &sha256)?;
        let mut shelf = self.shelf();
        if let Some(file) = shelf.files.get_mut(&id).filter(|file| file.entry.path == path) {
            file.sha256 = Some(sha256.clone());
            shelf.names = None;
        }
        Ok(sha256)
    }

    /// The files on the shelf by name.
    fn name(&self, shelf: &Shelf) -> Library {
        let entries = shelf.order.iter().map(|id| {
            let file = &shelf.files[id];
            let (kind, sha256) = (kind_of(&file.reading), file.sha256.clone());
            Entry { kind, sha256, ..file.entry.clone() }
        });
        let searched = shelf.folders.iter().map(|folder| folder.path.clone().into()).collect();
        Library::of(
            entries.collect(),
            self.0.starter.clone(),
            self.0.hashes.clone(),
            self.0.data.folders(Vec::new()).beside,
            searched,
        )
        .with_predictions(shelf.predictions.clone())
    }

    // ---- what the person says

    pub(crate) fn set_note(&self, id: u32, note: &ModelNote) -> Result<()> {
        let invalid = |field, message: &str| Error::new(Code::InvalidParams { field }, message);
        if note.pigment.is_some_and(|pigment| pigment >= PIGMENTS) {
            return Err(invalid("pigment", "there is no such pigment"));
        }
        let method = |id: &String| id == "none" || Acceleration::by(id).is_some();
        if !note.acceleration.as_ref().is_none_or(method) {
            return Err(invalid("acceleration", "there is no such method"));
        }
        if note.default_weight.is_some_and(|weight| !weight.is_finite()) {
            return Err(invalid("default_weight", "a weight is a number"));
        }
        let sha256 = self.sha256(id)?;
        rows::say(&self.0.db.lock(), &sha256, note)?;
        {
            let mut shelf = self.shelf();
            match note.prediction {
                Some(prediction) => shelf.predictions.insert(sha256, prediction),
                None => shelf.predictions.remove(&sha256),
            };
            shelf.names = None;
        }
        self.changed();
        Ok(())
    }

    /// Remembers that files were used.
    pub(crate) fn used(&self, params: &GenerationParams) -> Result<()> {
        let adapters = params.adapters.iter().filter(|adapter| adapter.enabled);
        let files = adapters.map(|adapter| &adapter.file).chain([&params.model]);
        {
            let db = self.0.db.lock();
            for sha256 in files.filter_map(|file| file.sha256.as_ref()) {
                rows::used(&db, sha256)?;
            }
        }
        self.changed();
        Ok(())
    }

    // ---- what files are good for

    /// What adapters would do on a base model, from headers alone.
    pub(crate) fn fits(&self, checkpoint: u32, adapters: &[u32]) -> Result<Vec<Fit>> {
        let target = self.target(&self.file(checkpoint)?)?;
        let fits = adapters.iter().filter_map(|id| Some((*id, self.file(*id).ok()?)));
        Ok(fits.map(|(id, file)| fit(&target, id, &file.entry.path)).collect())
    }

    fn target(&self, file: &File) -> Result<Arc<Target>> {
        let mut kept = self.0.target.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((path, stamp, target)) = &*kept
            && (path, stamp) == (&file.entry.path, &file.stamp)
        {
            return Ok(target.clone());
        }
        let target = Arc::new(Target::open(&file.entry.path)?);
        *kept = Some((file.entry.path.clone(), file.stamp, target.clone()));
        Ok(target)
    }

    /// `{name: shape}` of every tensor of a model.
    pub(crate) fn key_listing(&self, id: u32) -> Result<String> {
        let path = self.path(id)?;
        let files = match path.is_dir() {
            true => hash::weight_files(&path)?,
            false => vec![path.clone()],
        };
        let mut keys = Map::new();
        for file in files {
            let inside = file.strip_prefix(&path).ok().filter(|inside| *inside != Path::new(""));
            for (name, info) in TensorFile::open(&file)?.tensors() {
                let name = match inside {
                    Some(inside) => format!("{}: {name}", inside.display()),
                    None => name.clone(),
                };
                keys.insert(name, json!(info.shape));
            }
        }
        Ok(serde_json::to_string_pretty(&keys).expect("names and numbers"))
    }

    // ---- taking off

    /// Takes a file that is used where it lies off the list.
    pub(crate) fn forget(&self, id: u32) -> Result<()> {
        let file = self.file(id)?;
        if file.folder.is_some() || file.starter {
            let error = Error::new(Code::Unknown, "it lies in a folder of the library");
            return Err(error.hint("take it out of the folder, or the folder off the list"));
        }
        {
            let db = self.0.db.lock();
            rows::take_away(&db, &file.entry.path)?;
            rows::forget(&db, id)?;
        }
        self.take_off(id);
        Ok(())
    }

    /// Moves a file of our own folder to the trash, its sidecars with it.
    pub(crate) fn delete(&self, id: u32) -> Result<()> {
        let file = self.file(id)?;
        let path = &file.entry.path;
        if !path.starts_with(self.0.data.models()) {
            let error = Error::new(Code::Unknown, "it is not in the library's own folder");
            return Err(error.hint("other folders are never written to"));
        }
        let sidecars = sidecar::files(path);
        gallery::remove(path, false)?;
        for sidecar in sidecars {
            if let Err(error) = gallery::remove(&sidecar, false) {
                tracing::warn!("`{}` stays: {error}", sidecar.display());
            }
        }
        rows::forget(&self.0.db.lock(), id)?;
        self.take_off(id);
        Ok(())
    }

    fn take_off(&self, id: u32) {
        {
            let mut shelf = self.shelf();
            shelf.files.remove(&id);
            shelf.put(Vec::new());
        }
        self.changed();
    }

    /// Looks at every folder again.
    pub(crate) fn rescan(&self) {
        self.0.scanner.look();
    }

    /// Ends the threads; what they were at is done at the next start.
    pub(crate) fn close(&self) {
        self.0.scanner.close();
        for work in [&self.0.copies, &self.0.conversions] {
            for stop in work.lock().unwrap_or_else(PoisonError::into_inner).values() {
                stop.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// What an adapter would do on a base model. One that cannot be read is refused with the reason.
fn fit(target: &Target, id: u32, path: &Path) -> Fit {
    let outline = match Outline::open(path) {
        Ok(outline) => outline,
        Err(error) => {
            let refusal = Some(sentence(Error::from(error).message()));
            return Fit {
                adapter: id,
                applied: 0,
                total: 0,
                left_out: Vec::new(),
                coverage: Vec::new(),
                refusal,
            };
        }
    };
    let (report, refusal) = target.fit(&outline);
    let (applied, total, left_out) = effect(&report);
    let coverage = target.coverage(&report).into_iter().map(|(block, changed, of)| {
        let index = block.index() as u32;
        BlockCoverage { block: block.to_string(), index, changed: changed as u32, of: of as u32 }
    });
    Fit {
        adapter: id,
        applied,
        total,
        left_out,
        coverage: coverage.collect(),
        refusal: refusal.map(|error| sentence(Error::from(error).message())),
    }
}

/// What an adapter does: modules that it changes, modules that it has, and what has no effect.
pub(crate) fn effect(report: &AdapterReport) -> (u32, u32, Vec<Problem>) {
    let problems = report.unmatched.iter().chain(&report.wrong_shape);
    let applied = report.applied.len();
    let total = applied + problems.clone().count();
    let left_out = problems
        .take(MAX_LEFT_OUT)
        .map(|problem| Problem { name: problem.name.clone(), reason: problem.reason.clone() });
    (applied as u32, total as u32, left_out.collect())
}

/// What names look a file up as.
fn kind_of(reading: &Reading) -> Option<Kind> {
    match reading.kind {
        ModelKind::Checkpoint => Some(Kind::BaseModel),
        ModelKind::Adapter => Some(Kind::Adapter),
        ModelKind::Vae => Some(Kind::Vae),
        ModelKind::Embedding => Some(Kind::Embedding),
        ModelKind::Other => None,
    }
}
