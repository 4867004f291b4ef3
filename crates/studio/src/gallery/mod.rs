//! The gallery: pictures in a folder, and an index of them.
//!
//! The files are the truth. A picture has its recipe inside; the index in the database only makes
//! searching quick, and is brought up to date with the folder whenever that changes. Pictures lie in a
//! folder for each day.

mod index;
mod watch;

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU32, Ordering},
    },
};

use fs_err as fs;
use image::{ExtendedColorType, ImageEncoder, codecs::jpeg::JpegEncoder, imageops};
use serde::{Deserialize, Serialize};
use ts_rs::TS;

use crate::{
    Code, Destination, Error, GenerationParams, Result,
    cards::Problem,
    db::Db,
    event::{Event, Events},
    files::{self, Existing},
    infotext, picture,
};

pub(crate) use index::params_of;

/// Longest side of a thumbnail, in pixels.
const THUMBNAIL: u32 = 384;

/// One picture with all that is known of it.
#[derive(Debug, Clone, PartialEq, Serialize, TS)]
pub struct GalleryImage {
    /// Counts up, never used again.
    pub id: u32,
    /// File name.
    pub name: String,
    /// Folder and file name.
    pub path: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Marked by the person.
    pub favourite: bool,
    /// Milliseconds since 1970.
    pub created_at: i64,
    /// How long it took to make, where that is known.
    pub seconds: Option<f64>,
    /// What it was made on.
    pub device: Option<String>,
    /// `null`: the file has no recipe that is understood.
    pub params: Option<GenerationParams>,
    /// What each adapter that was switched on did.
    pub patches: Vec<AdapterPatch>,
    /// What the person should know of how it was made: whole sentences.
    pub warnings: Vec<String>,
}

/// What an adapter did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
pub struct AdapterPatch {
    /// Its name in the recipe.
    pub name: String,
    /// Modules that it changed.
    pub applied: u32,
    /// How many of them beside the layer, as a weight changes over the steps.
    #[serde(default)]
    pub beside: u32,
    /// Modules that it has.
    pub total: u32,
    /// Modules without effect, with the reason: at most 100 of them.
    pub left_out: Vec<Problem>,
}

/// Which pictures are wanted.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, TS)]
#[serde(default)]
pub struct GalleryQuery {
    /// Words that prompt, adapters, ground or seed must contain; empty for all.
    pub search: String,
    /// Only those that were marked.
    pub favourites: bool,
    /// Only those made since then, in milliseconds since 1970.
    pub since: Option<i64>,
    /// Name of a base model.
    pub ground: Option<String>,
    /// Name of an adapter.
    pub adapter: Option<String>,
    /// Otherwise the newest come first.
    pub oldest_first: bool,
}

/// How many pictures there are of what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, TS)]
pub struct GalleryCounts {
    /// All.
    pub all: u32,
    /// Those that were marked.
    pub favourites: u32,
    /// By base model, the most used first.
    pub grounds: Vec<NameCount>,
    /// By adapter, the most used first.
    pub adapters: Vec<NameCount>,
}

/// A name with the number of its pictures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, TS)]
pub struct NameCount {
    /// Of a base model or adapter.
    pub name: String,
    /// Of pictures.
    pub count: u32,
}

/// What became of pictures that were to be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, TS)]
pub struct Deleted {
    /// For undoing it; `null` where they cannot come back.
    pub undo: Option<u32>,
    /// How many are gone.
    pub count: u32,
}

/// How a picture was made, beyond its recipe.
#[derive(Debug, Clone, Default)]
pub(crate) struct Making {
    pub(crate) seconds: Option<f64>,
    pub(crate) device: Option<String>,
    pub(crate) patches: Vec<AdapterPatch>,
    pub(crate) warnings: Vec<String>,
}

/// The pictures of one folder.
#[derive(Debug, Clone)]
pub(crate) struct Gallery(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    db: Arc<Db>,
    events: Events,
    folder: RwLock<PathBuf>,
    thumbnails: PathBuf,
    revision: AtomicU32,
    /// What was deleted, by the number that undoes it.
    deleted: Mutex<HashMap<u32, Vec<(u32, PathBuf)>>>,
    watch: watch::Watch,
}

impl Gallery {
    /// Opens the gallery of a folder and begins to bring its index up to date.
    pub(crate) fn open(
        db: Arc<Db>,
        events: Events,
        folder: PathBuf,
        thumbnails: PathBuf,
    ) -> Gallery {
        let gallery = Gallery(Arc::new(Inner {
            db,
            events,
            folder: RwLock::new(folder),
            thumbnails,
            revision: AtomicU32::new(1),
            deleted: Mutex::default(),
            watch: watch::Watch::default(),
        }));
        gallery.watch();
        gallery
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.0.folder.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_folder(&self, folder: PathBuf) {
        if self.folder() != folder {
            *self.0.folder.write().unwrap_or_else(PoisonError::into_inner) = folder;
            self.watch();
        }
    }

    pub(crate) fn revision(&self) -> u32 {
        self.0.revision.load(Ordering::Relaxed)
    }

    /// Makes sure that pictures can be written, before time is spent on making them.
    pub(crate) fn prepare(&self) -> Result<()> {
        files::prepare_folder(&self.folder())
    }

    /// Writes a picture and puts it into the index.
    pub(crate) fn save(
        &self,
        image: &engine::Image,
        params: &GenerationParams,
        making: &Making,
    ) -> Result<GalleryImage> {
        let day = jiff::ZonedDateTime::now().strftime("%Y-%m-%d").to_string();
        let folder = Destination::Folder(self.folder().join(day));
        folder.prepare()?;
        let path = folder.save(0, 1, image, params)?;
        let db = self.0.db.lock();
        let id = index::add(&db, &path, Some(making))?;
        Ok(index::get(&db, &[id])?.remove(0))
    }

    /// Ids of the pictures that are wanted, in order.
    pub(crate) fn ids(&self, query: &GalleryQuery) -> Result<Vec<u32>> {
        index::ids(&self.0.db.lock(), query)
    }

    /// Details, in the order of the ids; ids without a picture are left out.
    pub(crate) fn images(&self, ids: &[u32]) -> Result<Vec<GalleryImage>> {
        index::get(&self.0.db.lock(), ids)
    }

    pub(crate) fn image(&self, id: u32) -> Result<GalleryImage> {
        self.images(&[id])?.pop().ok_or_else(|| {
            Error::new(Code::MissingFile, "this picture is gone")
                .hint("it was deleted, or its file was moved away")
        })
    }

    pub(crate) fn counts(&self) -> Result<GalleryCounts> {
        index::counts(&self.0.db.lock())
    }

    pub(crate) fn set_favourite(&self, ids: &[u32], favourite: bool) -> Result<()> {
        let mut db = self.0.db.lock();
        index::set_favourite(&mut db, ids, favourite)?;
        self.changed();
        Ok(())
    }

    /// Moves pictures to the trash, or deletes them for good.
    ///
    /// # Errors
    /// [`Code::NoTrash`] if there is no trash for one of them; those before it are gone all the same,
    /// and can come back.
    pub(crate) fn delete(&self, ids: &[u32], for_good: bool) -> Result<Deleted> {
        let mut gone = Vec::new();
        let mut failed = None;
        for image in self.images(ids)? {
            let path = PathBuf::from(&image.path);
            match remove(&path, for_good) {
                Ok(()) => gone.push((image.id, path)),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        let removed: Vec<u32> = gone.iter().map(|(id, _)| *id).collect();
        let db = self.0.db.lock();
        index::set_gone(&db, &removed, true)?;
        self.changed();
        drop(db);
        if let Some(error) = failed {
            return Err(error);
        }
        let count = removed.len() as u32;
        let undo = (!for_good && CAN_RESTORE && count > 0).then(|| {
            let mut deleted = self.0.deleted.lock().unwrap_or_else(PoisonError::into_inner);
            let undo = deleted.keys().max().map_or(1, |last| last + 1);
            deleted.insert(undo, gone);
            undo
        });
        Ok(Deleted { undo, count })
    }

    /// Brings deleted pictures back from the trash.
    pub(crate) fn undo_delete(&self, undo: u32) -> Result<()> {
        let gone = self.0.deleted.lock().unwrap_or_else(PoisonError::into_inner).remove(&undo);
        let gone = gone.ok_or_else(|| {
            Error::new(Code::MissingFile, "these pictures cannot be brought back")
                .hint("look for them in the system's trash")
        })?;
        restore(&gone.iter().map(|(_, path)| path.as_path()).collect::<Vec<_>>())?;
        let back: Vec<u32> =
            gone.iter().filter(|(_, path)| path.exists()).map(|(id, _)| *id).collect();
        let db = self.0.db.lock();
        index::set_gone(&db, &back, false)?;
        self.changed();
        Ok(())
    }

    /// The picture's file.
    pub(crate) fn path(&self, id: u32) -> Result<PathBuf> {
        Ok(PathBuf::from(self.image(id)?.path))
    }

    /// The recipe as other programs write it.
    pub(crate) fn recipe_text(&self, id: u32) -> Result<String> {
        let image = self.image(id)?;
        image
            .params
            .as_ref()
            .map(infotext::write)
            .ok_or_else(|| Error::new(Code::MissingFile, format!("`{}` has no recipe", image.name)))
    }

    /// A small version: bytes and type.
    pub(crate) fn thumbnail(&self, id: u32) -> Result<(Vec<u8>, &'static str)> {
        let image = self.image(id)?;
        let path = Path::new(&image.path);
        if image.width.max(image.height) <= THUMBNAIL {
            return Ok((fs::read(path)?, "image/png"));
        }
        let kept = self.0.thumbnails.join(format!("{id}-{}.jpg", image.created_at));
        if let Ok(bytes) = fs::read(&kept) {
            return Ok((bytes, "image/jpeg"));
        }
        let bytes = scaled(path, THUMBNAIL)?;
        // Failing to keep it costs time later, and nothing else.
        let write = |file: &mut dyn io::Write| file.write_all(&bytes);
        if let Err(error) = files::write(&kept, Existing::Replace, write) {
            tracing::warn!("{error}");
        }
        Ok((bytes, "image/jpeg"))
    }

    /// Tells everyone that the gallery is another now. Called with the database locked, so that the
    /// order of events is that of changes.
    fn changed(&self) {
        let revision = self.0.revision.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.events.send(&Event::Gallery { revision });
    }
}

/// A picture no longer than `side`, as JPEG.
pub(crate) fn scaled(path: &Path, side: u32) -> Result<Vec<u8>> {
    let image = picture::open(path)?;
    let scale = (f64::from(side) / f64::from(image.width().max(image.height()))).min(1.0);
    let of = |length: u32| ((f64::from(length) * scale).round() as u32).max(1);
    let small = imageops::thumbnail(&image, of(image.width()), of(image.height()));
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 88)
        .write_image(&small, small.width(), small.height(), ExtendedColorType::Rgb8)
        .map_err(|error| {
            Error::new(Code::Unknown, format!("cannot scale `{}`: {error}", path.display()))
        })?;
    Ok(bytes)
}

/// Whether what is in the trash can be brought back by a program.
const CAN_RESTORE: bool = cfg!(any(windows, all(unix, not(target_os = "macos"))));

/// Moves a file to the trash, or deletes it for good. One that is gone already is no failure.
pub(crate) fn remove(path: &Path, for_good: bool) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    if for_good {
        return match path.is_dir() {
            true => Ok(fs::remove_dir_all(path)?),
            false => Ok(fs::remove_file(path)?),
        };
    }
    trash::delete(path).map_err(|error| {
        let message = format!("there is no trash for `{}` ({error})", path.display());
        Error::new(Code::NoTrash, message).hint("it can only be deleted for good")
    })
}

#[cfg(any(windows, all(unix, not(target_os = "macos"))))]
fn restore(paths: &[&Path]) -> Result<()> {
    let explain = |error: trash::Error| {
        Error::new(Code::Unknown, format!("cannot take pictures out of the trash: {error}"))
            .hint("look for them in the system's trash")
    };
    let mut newest: HashMap<PathBuf, trash::TrashItem> = HashMap::new();
    for item in trash::os_limited::list().map_err(explain)? {
        let path = item.original_path();
        if paths.contains(&path.as_path())
            && newest.get(&path).is_none_or(|other| other.time_deleted <= item.time_deleted)
        {
            newest.insert(path, item);
        }
    }
    trash::os_limited::restore_all(newest.into_values()).map_err(explain)
}

#[cfg(not(any(windows, all(unix, not(target_os = "macos")))))]
fn restore(_: &[&Path]) -> Result<()> {
    Err(Error::new(Code::Unknown, "pictures cannot be taken out of this system's trash")
        .hint("put them back by hand"))
}
