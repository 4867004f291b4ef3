//! Brings the gallery's index up to date with its folder.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

use fs_err as fs;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::{Gallery, index};
use crate::{Result, files};

/// Changes that come within this time are looked at together.
const SETTLE: Duration = Duration::from_millis(300);

/// Pictures that are read between two looks at the database by others.
const BATCH: usize = 200;

/// How deep below the folder pictures are looked for.
const MAX_DEPTH: usize = 4;

/// A picture that is half-written for longer than this will never be whole: whoever wrote it is gone.
const STALE: Duration = Duration::from_secs(10);

/// The watch on the folder; a new one ends the one before.
#[derive(Debug, Default)]
pub(super) struct Watch {
    watcher: Mutex<Option<RecommendedWatcher>>,
    generation: AtomicU64,
}

impl Gallery {
    /// Brings the index up to date, now and whenever the folder changes, on a thread of its own.
    pub(super) fn watch(&self) {
        let folder = self.folder();
        let (changed, changes) = mpsc::channel::<()>();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Looking at the folder is an event of its own: answered, it would keep us looking forever.
            if event.is_ok_and(|event| event.kind.is_access()) {
                return;
            }
            // Nobody listens any more when the thread has ended: the folder is another now.
            let _ = changed.send(());
        });
        let watcher = watcher.and_then(|mut watcher| {
            fs::create_dir_all(&folder)?;
            watcher.watch(&folder, RecursiveMode::Recursive)?;
            Ok(watcher)
        });
        let watcher = watcher
            .inspect_err(|error| tracing::warn!("cannot watch `{}`: {error}", folder.display()));
        let generation = self.0.watch.generation.fetch_add(1, Ordering::Relaxed) + 1;
        *self.0.watch.watcher.lock().unwrap_or_else(PoisonError::into_inner) = watcher.ok();

        let weak = std::sync::Arc::downgrade(&self.0);
        let look = move || {
            loop {
                let unfinished = {
                    let Some(inner) = weak.upgrade() else { return };
                    let gallery = Gallery(inner);
                    if gallery.0.watch.generation.load(Ordering::Relaxed) != generation {
                        return;
                    }
                    gallery.update(&folder).unwrap_or_else(|error| {
                        tracing::warn!(
                            "cannot list the pictures in `{}`: {error}",
                            folder.display()
                        );
                        false
                    })
                };
                let ended = match unfinished {
                    true => changes.recv_timeout(STALE) == Err(RecvTimeoutError::Disconnected),
                    false => changes.recv().is_err(),
                };
                if ended {
                    return;
                }
                while changes.recv_timeout(SETTLE).is_ok() {}
            }
        };
        let spawned = std::thread::Builder::new().name("gallery".into()).spawn(look);
        if let Err(error) = spawned {
            tracing::error!("the gallery is not kept up to date: {error}");
        }
    }

    /// Takes in new and changed pictures, and lets go of those that are gone. Answers whether there is
    /// something half-written to look at again.
    fn update(&self, folder: &Path) -> Result<bool> {
        let known = index::known(&self.0.db.lock())?;
        let mut known: HashMap<String, (u32, i64, i64)> =
            known.into_iter().map(|(id, path, size, time)| (path, (id, size, time))).collect();
        let mut found = Vec::new();
        let unfinished = list(folder, MAX_DEPTH, &mut found);

        let mut fresh = Vec::new();
        for path in found {
            let Ok((modified, size)) = files::stamp(&path) else { continue };
            let same = known.remove(path.to_string_lossy().as_ref());
            if same.is_none_or(|(_, s, m)| (s, m) != (size, modified)) {
                fresh.push(path);
            }
        }
        // A picture that was made meanwhile is in the index and not in what was found.
        let gone: Vec<u32> = known
            .into_iter()
            .filter(|(path, _)| !Path::new(path).exists() || !Path::new(path).starts_with(folder))
            .map(|(_, (id, _, _))| id)
            .collect();
        self.forget(&gone)?;
        for batch in fresh.chunks(BATCH) {
            let mut db = self.0.db.lock();
            let transaction = db.transaction()?;
            let mut added = false;
            for path in batch {
                match index::add(&transaction, path, None) {
                    Ok(_) => added = true,
                    Err(error) => tracing::warn!("`{}` is left out: {error}", path.display()),
                }
            }
            transaction.commit()?;
            if added {
                self.changed();
            }
        }
        Ok(unfinished)
    }

    /// Takes pictures out of the index whose files are gone; those that can still be brought back stay.
    fn forget(&self, ids: &[u32]) -> Result<()> {
        let deleted = self.0.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        let kept: Vec<u32> = deleted.values().flatten().map(|(id, _)| *id).collect();
        drop(deleted);
        let ids: Vec<_> = ids.iter().filter(|id| !kept.contains(id)).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let mut db = self.0.db.lock();
        let transaction = db.transaction()?;
        for id in ids {
            transaction.execute("DELETE FROM image WHERE id = ?1", [id])?;
        }
        transaction.commit()?;
        self.changed();
        Ok(())
    }
}

/// PNG files in a folder and the folders in it; what a crash left half-written goes. Answers whether
/// something may still be written.
fn list(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> bool {
    let mut unfinished = files::sweep(folder, STALE);
    let Ok(entries) = fs::read_dir(folder) else { return unfinished };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let path = entry.path();
        if name.starts_with('.') {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if depth > 0 {
                unfinished |= list(&path, depth - 1, found);
            }
        } else if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png")) {
            found.push(path);
        }
    }
    unfinished
}
