//! Keeps the cards true: lists the folders, reads what is new, and takes hashes, on two threads.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::{
    Cards, File, PIGMENTS, Shelf,
    reading::{Reading, Stamp},
    rows::{self, Row},
    types::LibraryFolder,
};
use crate::{
    Result,
    library::{self, Entry, Walk, file_name},
    places::Place,
    queue,
    starter::{self, Style},
    worker,
};

/// Changes that come within this time are looked at together.
const SETTLE: Duration = Duration::from_millis(300);

/// The window hears of new cards at most this often.
const TELL: Duration = Duration::from_millis(250);

/// Files that are read between two looks at the database by others.
const BATCH: usize = 64;

/// How long opening waits for the first listing, so that a window has its cards at once.
const FIRST_LOOK: Duration = Duration::from_millis(300);

/// Hashing takes a whole core for minutes and is never urgent.
const NICE: i32 = 19;

/// The folders that are watched, each with whether all below it is.
type Watched = Vec<(PathBuf, bool)>;

/// What there is to do for the two threads, and the watch on the folders.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    wanted: Mutex<Wanted>,
    wake: Condvar,
    watch: Mutex<Option<(Watched, RecommendedWatcher)>>,
}

#[derive(Debug, Default)]
struct Wanted {
    look: bool,
    hash: bool,
    closing: bool,
    /// There are cards to show.
    listed: bool,
}

impl Scanner {
    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, change: impl FnOnce(&mut Wanted)) {
        change(&mut self.wanted());
        self.wake.notify_all();
    }

    /// Looks at every folder again.
    pub(super) fn look(&self) {
        self.set(|wanted| wanted.look = true);
    }

    /// Takes hashes that are missing.
    pub(super) fn hash(&self) {
        self.set(|wanted| wanted.hash = true);
    }

    pub(super) fn close(&self) {
        self.set(|wanted| wanted.closing = true);
        // Its thread holds the cards.
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn closing(&self) -> bool {
        self.wanted().closing
    }

    /// Waits until something is wanted; `false` at the end.
    fn wait(&self, mut take: impl FnMut(&mut Wanted) -> bool) -> bool {
        let mut wanted = self.wanted();
        loop {
            if wanted.closing {
                return false;
            }
            if take(&mut wanted) {
                return true;
            }
            wanted = self.wake.wait(wanted).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A file that was listed and may have to be read.
struct Listed {
    entry: Entry,
    folder: Option<u32>,
    starter: bool,
    style: Option<Style>,
}

/// What there is in all folders.
struct Look {
    listed: Vec<Listed>,
    folders: Vec<LibraryFolder>,
    /// Folders that are not there now.
    lost: Vec<PathBuf>,
    /// Folders to watch: with what is in them, or alone.
    watched: Watched,
}

impl Listed {
    fn into_file(
        self,
        stamp: Stamp,
        sha256: Option<String>,
        pigment: u8,
        reading: Reading,
    ) -> File {
        let Listed { entry, folder, starter, style } = self;
        File { entry, folder, starter, style, stamp, sha256, pigment, reading }
    }
}

impl Cards {
    /// Starts the threads, and waits a moment for the first listing.
    pub(super) fn begin(&self) -> Result<()> {
        self.0.scanner.look();
        let cards = self.clone();
        std::thread::Builder::new().name("library".into()).spawn(move || cards.keep_true())?;
        let cards = self.clone();
        std::thread::Builder::new().name("hashes".into()).spawn(move || cards.keep_hashed())?;
        let wanted = self.0.scanner.wanted();
        let listed = |wanted: &mut Wanted| !wanted.listed;
        let _ = self.0.scanner.wake.wait_timeout_while(wanted, FIRST_LOOK, listed);
        Ok(())
    }

    fn keep_true(&self) {
        while self.0.scanner.wait(|wanted| std::mem::take(&mut wanted.look)) {
            if let Err(error) = self.scan() {
                tracing::error!("the library is not up to date: {error}");
            }
            {
                let mut shelf = self.shelf();
                shelf.scanning = false;
                shelf.seen = true;
            }
            self.changed();
            self.0.scanner.set(|wanted| {
                wanted.listed = true;
                wanted.hash = true;
            });
            self.look_for_programs();
            std::thread::sleep(SETTLE);
        }
    }

    /// Brings the shelf up to date with the folders.
    fn scan(&self) -> Result<()> {
        let before: BTreeSet<u32> = {
            let mut shelf = self.shelf();
            shelf.scanning = true;
            shelf.files.keys().copied().collect()
        };
        let (placed, mut known) = {
            let db = self.0.db.lock();
            (rows::placed(&db)?, rows::files(&db)?)
        };
        let Look { listed, folders, lost, watched } = self.list(&placed);
        self.watch(watched);

        // What was read before is shown at once, and looked at afterwards.
        let (mut present, mut fresh, mut there) = (Vec::new(), Vec::new(), BTreeSet::new());
        for listed in listed {
            let row = known.remove(&listed.entry.path);
            there.extend(row.as_ref().map(|row| row.id));
            match row {
                Some(Row { id, stamp, sha256, pigment, reading: Some(reading) }) => {
                    present.push((id, listed.into_file(stamp, sha256, pigment, reading)));
                }
                _ => fresh.push(listed),
            }
        }
        let shown: Vec<(u32, PathBuf, Stamp)> =
            present.iter().map(|(id, file)| (*id, file.entry.path.clone(), file.stamp)).collect();
        {
            let mut shelf = self.shelf();
            shelf.folders = folders;
            shelf.files.retain(|id, _| there.contains(id) || !before.contains(id));
            shelf.put(present);
        }
        self.changed();
        if !shown.is_empty() {
            self.0.scanner.set(|wanted| wanted.listed = true);
        }

        // A drive that is unplugged comes back with everything on it.
        let gone = known.into_iter().filter(|(path, _)| {
            !lost.iter().any(|folder| path.starts_with(folder)) && !placed.contains(path)
        });
        {
            let db = self.0.db.lock();
            for (_, row) in gone {
                rows::forget(&db, row.id)?;
            }
        }
        for (id, path, stamp) in shown {
            if self.0.scanner.closing() {
                return Ok(());
            }
            let Ok(file) = self.file(id) else { continue };
            let same = Stamp::of_model(&path).is_ok_and(|now| now == stamp);
            if !same || !file.reading.is_current(&path) {
                let File { entry, folder, starter, style, .. } = file;
                fresh.push(Listed { entry, folder, starter, style });
            }
        }
        self.read(fresh)
    }

    /// Reads files and puts them on the shelf.
    fn read(&self, fresh: Vec<Listed>) -> Result<()> {
        let (mut batch, mut told) = (Vec::new(), Instant::now());
        let mut fresh = fresh.into_iter().peekable();
        while let Some(listed) = fresh.next() {
            if self.0.scanner.closing() {
                return Ok(());
            }
            // One that went away meanwhile is not listed the next time.
            if let Ok(stamp) = Stamp::of_model(&listed.entry.path) {
                let reading = Reading::of(&listed.entry.path);
                batch.push((listed, stamp, reading));
            }
            if batch.len() >= BATCH || told.elapsed() > TELL || fresh.peek().is_none() {
                self.keep(std::mem::take(&mut batch))?;
                if told.elapsed() > TELL {
                    self.changed();
                    told = Instant::now();
                }
            }
        }
        Ok(())
    }

    /// Keeps readings in the database and puts them on the shelf; gives their ids.
    fn keep(&self, batch: Vec<(Listed, Stamp, Reading)>) -> Result<Vec<u32>> {
        let mut used = self.shelf().pigments();
        let mut files = Vec::new();
        {
            let mut db = self.0.db.lock();
            let transaction = db.transaction()?;
            for (listed, stamp, reading) in batch {
                let fresh = (0..PIGMENTS).min_by_key(|at| used[usize::from(*at)]);
                let path = &listed.entry.path;
                let (id, pigment, sha256) =
                    rows::keep(&transaction, path, stamp, fresh.unwrap_or_default(), &reading)?;
                used[usize::from(pigment % PIGMENTS)] += 1;
                files.push((id, listed.into_file(stamp, sha256, pigment, reading)));
            }
            transaction.commit()?;
        }
        let ids = files.iter().map(|(id, _)| *id).collect();
        self.shelf().put(files);
        Ok(ids)
    }

    /// Reads one file now.
    pub(super) fn take(&self, entry: Entry, folder: Option<u32>) -> Result<u32> {
        let stamp = Stamp::of_model(&entry.path)?;
        let reading = Reading::of(&entry.path);
        let listed = Listed { entry, folder, starter: false, style: None };
        let ids = self.keep(vec![(listed, stamp, reading)])?;
        self.changed();
        self.0.scanner.hash();
        Ok(ids[0])
    }

    /// Everything that is there, and the folders that were looked at.
    fn list(&self, placed: &[PathBuf]) -> Look {
        let mut walk = Walk::default();
        let mut listed = Vec::new();
        if let Some(starter) = &self.0.starter {
            library::list_starter(starter, &mut walk.entries);
            for entry in walk.entries.drain(..) {
                let styles = &starter.catalog.adapters;
                let style = styles.iter().find(|style| style.name == entry.name).cloned();
                // What its list leaves out is another spelling of one that is there, for tests.
                if style.is_none() && entry.name != starter::NAME {
                    continue;
                }
                listed.push(Listed { entry, folder: None, starter: true, style });
            }
        }
        let own = self.0.data.models();
        let mut folders = Vec::new();
        let (mut lost, mut watched) = (Vec::new(), Vec::new());
        for (index, path) in [own].into_iter().chain(self.shelf().extra.clone()).enumerate() {
            let own = index == 0;
            let place = if own { Place::plain(&path) } else { Place::at(&path) };
            place.list(&mut walk);
            lost.extend(place.lost().map(Path::to_owned));
            watched.extend(place.shelves().map(|shelf| (shelf.to_owned(), true)));
            // New shelves come, and a file that names others changes.
            watched.extend(place.program.map(|_| (path.clone(), false)));
            let found = walk.entries.drain(..);
            let folder = Some(index as u32);
            listed.extend(found.map(|entry| Listed { entry, folder, starter: false, style: None }));
            folders.push(LibraryFolder {
                name: if own { "Impasto".to_owned() } else { file_name(&path) },
                path: path.display().to_string(),
                own,
                program: place.program.map(|program| program.name.to_owned()),
                problem: place.problem,
            });
        }
        for path in placed.iter().filter(|path| path.exists() && walk.first_time(path)) {
            let entry = in_place(path);
            listed.push(Listed { entry, folder: None, starter: false, style: None });
        }
        Look { listed, folders, lost, watched }
    }

    /// Watches these folders instead of others, with what is in them or alone.
    fn watch(&self, folders: Vec<(PathBuf, bool)>) {
        let mut watch = self.0.scanner.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if watch.as_ref().is_some_and(|(watched, _)| *watched == folders)
            || self.0.scanner.closing()
        {
            return;
        }
        let cards = std::sync::Arc::downgrade(&self.0);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading a file is no change of it.
            let change = event.is_ok_and(|event| !matches!(event.kind, EventKind::Access(_)));
            if let Some(cards) = cards.upgrade().filter(|_| change) {
                cards.scanner.look();
            }
        });
        let mut watcher = match watcher {
            Ok(watcher) => watcher,
            Err(error) => return tracing::warn!("the folders are not watched: {error}"),
        };
        for (folder, whole) in &folders {
            let mode = match whole {
                true => RecursiveMode::Recursive,
                false => RecursiveMode::NonRecursive,
            };
            if let Err(error) = watcher.watch(folder, mode) {
                tracing::warn!("cannot watch `{}`: {error}", folder.display());
            }
        }
        *watch = Some((folders, watcher));
    }

    // ---- hashes

    fn keep_hashed(&self) {
        worker::lower_priority(NICE);
        // What cannot be read is not tried again and again.
        let mut failed: HashMap<u32, Stamp> = HashMap::new();
        while self.0.scanner.wait(|wanted| std::mem::take(&mut wanted.hash)) {
            let (mut told, mut news) = (Instant::now(), false);
            while let Some((id, path, stamp)) = self.unhashed(&failed) {
                if self.0.scanner.closing() {
                    return;
                }
                if let Err(error) = self.take_hash(id, &path) {
                    tracing::warn!("`{}` has no hash: {error}", path.display());
                    failed.insert(id, stamp);
                }
                news = true;
                if told.elapsed() > TELL {
                    self.changed();
                    (told, news) = (Instant::now(), false);
                }
            }
            if news {
                self.changed();
            }
        }
    }

    /// The next file without a hash: what queued jobs need, then small ones first.
    fn unhashed(&self, failed: &HashMap<u32, Stamp>) -> Option<(u32, PathBuf, Stamp)> {
        let wanted = queue::wanted(&self.0.db.lock()).unwrap_or_default();
        let shelf = self.shelf();
        let open = shelf.files.iter().filter(|(id, file)| {
            file.sha256.is_none() && failed.get(id).is_none_or(|stamp| *stamp != file.stamp)
        });
        let next = open.min_by_key(|(_, file)| {
            let names = [&file.entry.name, &file.entry.qualified_name];
            let waits = wanted.iter().any(|name| names.contains(&name));
            (!waits, file.stamp.size)
        });
        next.map(|(id, file)| (*id, file.entry.path.clone(), file.stamp))
    }
}

impl Shelf {
    /// Puts files on the shelf, in place of what was known of them.
    pub(super) fn put(&mut self, files: Vec<(u32, File)>) {
        for (id, mut file) in files {
            // Its hash may have been taken since it was looked up.
            if let Some(old) = self.files.get(&id).filter(|old| old.stamp == file.stamp) {
                file.sha256 = file.sha256.or_else(|| old.sha256.clone());
            }
            self.files.insert(id, file);
        }
        self.sort();
        self.names = None;
    }

    /// The starter first, as its list has it, then by folder and name.
    fn sort(&mut self) {
        let mut order: Vec<u32> = self.files.keys().copied().collect();
        order.sort_by_cached_key(|id| {
            let file = &self.files[id];
            let folder = file.folder.unwrap_or(u32::MAX);
            let name = match file.starter {
                true => String::new(),
                false => file.entry.qualified_name.to_lowercase(),
            };
            (!file.starter, folder, name, *id)
        });
        self.order = order;
    }

    /// How many files have each pigment.
    fn pigments(&self) -> [usize; PIGMENTS as usize] {
        let mut used = [0; PIGMENTS as usize];
        for file in self.files.values() {
            used[usize::from(file.pigment % PIGMENTS)] += 1;
        }
        used
    }
}

/// What a model is called that lies in no folder of the library.
pub(super) fn in_place(path: &Path) -> Entry {
    library::entry(path.parent().unwrap_or(path), path.to_owned())
}
