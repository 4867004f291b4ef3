//! Copying models into the library's own folder.

use std::{
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use fs_err as fs;

use super::{Cards, File, reading::Stamp, rows, sidecar, types::ModelKind};
use crate::{
    Code, Error, Failure, Result,
    event::{CopyProgress, Event},
    files,
    library::{self, Entry, file_name},
};

/// Progress is told at most this often.
pub(super) const PROGRESS: Duration = Duration::from_millis(100);

const BUFFER: usize = 4 << 20;

impl Cards {
    /// Copies a model that lies elsewhere into the library's own folder, on a thread of its own; the
    /// card stays the same.
    pub(crate) fn copy_in(&self, id: u32) -> Result<()> {
        let file = self.file(id)?;
        if file.entry.path.starts_with(self.0.data.models()) || file.starter {
            return Err(Error::new(Code::Unknown, "it is in the library already"));
        }
        let sources = sources(&file.entry.path)?;
        let total = sources.iter().map(|source| source.bytes).sum();
        let folder = self.0.data.models().join(shelf_of(file.reading.kind));
        files::prepare_folder(&folder)?;
        let hint = "free some space; it can be used where it lies";
        files::check_room(&folder, total, "the copy").map_err(|error| error.hint(hint))?;

        let stop = Arc::new(AtomicBool::new(false));
        {
            let mut copies = self.0.copies.lock().unwrap_or_else(PoisonError::into_inner);
            if copies.contains_key(&id) {
                return Ok(());
            }
            copies.insert(id, stop.clone());
        }
        let cards = self.clone();
        std::thread::Builder::new().name("copy".into()).spawn(move || {
            let copied = cards.copy(id, &file, &sources, &folder, total, &stop);
            cards.0.copies.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            let (done, error) = match copied {
                Ok(()) => (total, None),
                Err(error) => (0, Some(Failure::from(&error))),
            };
            cards.0.events.send(&Event::Copying(CopyProgress { card: id, done, total, error }));
            cards.changed();
        })?;
        Ok(())
    }

    /// Stops copying; what was copied goes.
    pub(crate) fn cancel_copy(&self, id: u32) {
        let copies = self.0.copies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stop) = copies.get(&id) {
            stop.store(true, Ordering::Relaxed);
        }
    }

    fn copy(
        &self,
        id: u32,
        file: &File,
        sources: &[Source],
        folder: &Path,
        total: u64,
        stop: &AtomicBool,
    ) -> Result<()> {
        let mut done = 0;
        let mut told: Option<Instant> = None;
        let mut watch = |bytes: u64| {
            done += bytes;
            if told.is_none_or(|told| told.elapsed() > PROGRESS) {
                told = Some(Instant::now());
                let progress = CopyProgress {
                    card: id,
                    done: done.min(total.saturating_sub(1)),
                    total,
                    error: None,
                };
                self.0.events.send(&Event::Copying(progress));
            }
            !stop.load(Ordering::Relaxed)
        };
        let from = &file.entry.path;
        let path = copy_model(from, &name_of(&file.entry), sources, folder, &mut watch)?;
        copy_sidecars(from, &path);

        let stamp = Stamp::of_model(&path)?;
        {
            let db = self.0.db.lock();
            rows::set_place(&db, id, &path, stamp)?;
            rows::take_away(&db, from)?;
        }
        let entry = library::entry(&self.0.data.models(), path);
        let moved = File { entry, folder: Some(0), stamp, ..file.clone() };
        {
            let mut shelf = self.shelf();
            shelf.files.remove(&id);
            shelf.put(vec![(id, moved)]);
        }
        self.rescan();
        Ok(())
    }
}

/// The folder for models of a kind, in ours.
pub(super) fn shelf_of(kind: ModelKind) -> &'static str {
    match kind {
        ModelKind::Adapter => "adapters",
        ModelKind::Vae => "vae",
        ModelKind::Embedding => "embeddings",
        ModelKind::Checkpoint | ModelKind::Other => "checkpoints",
    }
}

/// One file of a model.
pub(super) struct Source {
    /// From the model's folder; `None`: the model is this one file.
    inside: Option<PathBuf>,
    bytes: u64,
}

/// The files that a model consists of.
pub(super) fn sources(path: &Path) -> Result<Vec<Source>> {
    if !path.is_dir() {
        return Ok(vec![Source { inside: None, bytes: fs::metadata(path)?.len() }]);
    }
    let mut found = Vec::new();
    let mut folders = vec![(PathBuf::new(), 3)];
    while let Some((inside, depth)) = folders.pop() {
        for entry in fs::read_dir(path.join(&inside))? {
            let entry = entry?;
            let inside = inside.join(entry.file_name());
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            // Links are followed: a downloaded folder may consist of them.
            let status = fs::metadata(entry.path())?;
            if status.is_dir() && depth > 0 && !hidden {
                folders.push((inside, depth - 1));
            } else if status.is_file() {
                found.push(Source { inside: Some(inside), bytes: status.len() });
            }
        }
    }
    Ok(found)
}

/// What a model's copy is called. Folders of downloads are named by a hash, so there its own name counts.
pub(super) fn name_of(entry: &Entry) -> String {
    let (_, short) = entry.name.rsplit_once('/').unwrap_or_default();
    let extension = entry.path.extension().filter(|_| library::is_model_file(&entry.path));
    match (short, extension) {
        ("", _) => file_name(&entry.path),
        (short, Some(extension)) => format!("{short}.{}", extension.to_string_lossy()),
        (short, None) => short.to_owned(),
    }
}

/// Copies a model into a folder, under a temporary name until it is whole; gives its path. `watch` is
/// told of bytes as they are written and answers whether to go on.
pub(super) fn copy_model(
    from: &Path,
    name: &str,
    sources: &[Source],
    folder: &Path,
    watch: &mut dyn FnMut(u64) -> bool,
) -> Result<PathBuf> {
    // It goes away by itself unless everything is in it.
    let temporary = files::temporaries().tempdir_in(folder)?;
    let whole = temporary.path().join("model");
    for Source { inside, .. } in sources {
        // A path that nothing is joined to would end in a slash.
        let within = |base: &Path| match inside {
            Some(inside) => base.join(inside),
            None => base.to_owned(),
        };
        let to = within(&whole);
        fs::create_dir_all(files::folder_of(&to))?;
        copy_file(&within(from), &to, watch)?;
    }
    let path = free_name(folder, name);
    fs::rename(&whole, &path)?;
    Ok(path)
}

fn copy_file(from: &Path, to: &Path, watch: &mut dyn FnMut(u64) -> bool) -> Result<()> {
    let (mut reader, mut writer) = (fs::File::open(from)?, fs::File::create(to)?);
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        writer.write_all(&buffer[..read])?;
        if !watch(read as u64) {
            return Err(Error::new(Code::Cancelled, "the copy was stopped"));
        }
    }
    Ok(writer.sync_all()?)
}

/// Sidecars go with their model; without them it works as well.
pub(super) fn copy_sidecars(from: &Path, to: &Path) {
    let base = |path: &Path| sidecar::base(path).to_string_lossy().into_owned();
    let (old, new) = (base(from), base(to));
    for sidecar in sidecar::files(from) {
        let Some(ending) = file_name(&sidecar).strip_prefix(&old).map(str::to_owned) else {
            continue;
        };
        let copy = to.with_file_name(format!("{new}{ending}"));
        if !copy.exists()
            && let Err(error) = fs::copy(&sidecar, &copy)
        {
            tracing::warn!("a sidecar is left out: {error}");
        }
    }
}

/// A name in the folder that nothing has yet: `ink.safetensors`, `ink-2.safetensors`, ….
pub(super) fn free_name(folder: &Path, name: &str) -> PathBuf {
    let (stem, extension) = match name.rsplit_once('.') {
        Some((stem, extension)) if library::is_model_file(Path::new(name)) => {
            (stem, format!(".{extension}"))
        }
        _ => (name, String::new()),
    };
    let numbered = (2..).map(|number| format!("{stem}-{number}{extension}"));
    let mut names = [name.to_owned()].into_iter().chain(numbered);
    let free = names.find(|name| !folder.join(name).exists());
    folder.join(free.expect("numbers do not end"))
}
