//! The studio: the whole program but for its window. Its verbs are what a window can ask for.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use engine::{
    DeviceInfo,
    adapter::Outline,
    text::{self, Vocabulary, embedding::Embedding, tokenizer::Tokenizer},
};
use fs_err as fs;
use rusqlite::OptionalExtension;
use serde::Serialize;
use serde_json::Value;
use ts_rs::TS;

use crate::{
    Code, DataFolder, Error, Failure, FileRef, GenerationParams, Recipe, Result, Settings,
    cards::{
        Cards, ConvertPlan, ConvertWish, DropItem, Dropped, Fit, InputPicture, LibraryView,
        ModelNote, RecipeOffer, StackStrength,
    },
    catalog::Catalog,
    db::{self, Db},
    desk::{self, Desk},
    error::sentence,
    event::{Event, Events, NamedStack, Notice, Snapshot, Who},
    gallery::{Deleted, Gallery, GalleryCounts, GalleryImage, GalleryQuery},
    input::Inputs,
    library::Library,
    lock::FolderLock,
    queue, settings,
    sheet::{self, AxisWish, Grid, Sheet, SheetEntry, SheetPlan},
    starter, worker,
};

/// How long a closing studio waits for what is being made to stop.
const CLOSING: Duration = Duration::from_secs(10);

/// More pictures at once are a slip of the hand.
const MAX_COUNT: u32 = 1000;

/// A prompt's length, as the text encoder counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, TS)]
pub struct TokenCount {
    /// Of the last chunk.
    pub used: u32,
    /// Of all chunks.
    pub total: u32,
    /// Tokens that a chunk holds.
    pub limit: u32,
    /// Where chunks end, as offsets into the text in UTF-16 units; the last is left out.
    pub ends: Vec<u32>,
}

/// Bytes for the screen.
#[derive(Debug, Clone)]
pub struct Pixels {
    /// A whole picture file.
    pub bytes: Vec<u8>,
    /// Its type.
    pub mime: &'static str,
    /// Whether the same address will always mean the same bytes.
    pub lasting: bool,
}

/// The program without its window; one per data folder.
///
/// Closing it (or dropping it) stops what is being made; the job goes on at the next start.
#[derive(Debug)]
pub struct Studio {
    desk: Arc<Desk>,
    inputs: Inputs,
    tokenizers: Mutex<HashMap<PathBuf, Arc<Tokenizer>>>,
    workers: Mutex<Vec<JoinHandle<()>>>,
    _lock: FolderLock,
}

impl Studio {
    /// Opens a data folder, or hands `files` over to the program that has it; then there is no studio.
    ///
    /// # Errors
    /// Fails if the folder cannot be used; what the person owns is never touched then.
    pub fn open(data: DataFolder, files: &[PathBuf]) -> Result<Option<Studio>> {
        Studio::open_on(data, files, engine::devices)
    }

    /// The same on devices that are told, instead of those that the machine has.
    ///
    /// * `devices`: asked once, and only by the program that has the data folder
    ///
    /// # Errors
    /// Those of [`Studio::open`].
    pub fn open_on(
        data: DataFolder,
        files: &[PathBuf],
        devices: impl FnOnce() -> Vec<DeviceInfo>,
    ) -> Result<Option<Studio>> {
        let Some(lock) = FolderLock::take(&data.data, files)? else { return Ok(None) };
        data.create()?;
        data.sweep();
        let (settings, mut notices) = Settings::read(&data.settings);
        let (db, notice) = Db::open(&data.database())?;
        notices.extend(notice);
        let devices = devices();
        if settings.device == settings::AUTO {
            notices.extend(engine::why_no_card(&devices).map(|reason| Notice {
                message: format!("Pictures are made by the processor: {reason}."),
                hint: None,
            }));
        }
        queue::recover(&db.lock())?;
        let (db, events) = (Arc::new(db), Events::default());

        let inputs = Inputs::at(data.inputs());
        let pictures = pictures_folder(&data, &settings);
        let gallery = Gallery::open(db.clone(), events.clone(), pictures, data.thumbnails());
        let folders = model_folders(&settings);
        let cards = Cards::open(&data, folders, db.clone(), events.clone(), inputs.clone())?;
        let desk = Arc::new(Desk::new(data, db, events, gallery, cards, settings, devices));
        desk.state().notices = notices;
        desk.state().files = files.iter().map(|path| path.display().to_string()).collect();

        let heard = desk.clone();
        lock.listen(move |files| heard.files(files))?;
        let (tokenizers, workers) = (Mutex::default(), Mutex::default());
        let studio = Studio { desk, inputs, tokenizers, workers, _lock: lock };
        studio.begin_work()?;
        Ok(Some(studio))
    }

    /// Begins the threads of those workers that the settings ask for and that are not there yet.
    fn begin_work(&self) -> Result<()> {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.retain(|worker| !worker.is_finished());
        let mut failed = None;
        for (number, device) in self.desk.fit_workers() {
            let desk = self.desk.clone();
            let begun = thread::Builder::new()
                .name(format!("worker {device}"))
                .spawn(move || worker::run(desk, number, device));
            match begun {
                Ok(worker) => workers.push(worker),
                Err(error) => {
                    self.desk.forget_worker(number);
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Stops what is being made and waits for it to stop.
    pub fn close(&self) {
        self.desk.close();
        self.desk.cards.close();
        let workers =
            std::mem::take(&mut *self.workers.lock().unwrap_or_else(PoisonError::into_inner));
        let deadline = Instant::now() + CLOSING;
        while !workers.iter().all(JoinHandle::is_finished) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        for worker in workers.into_iter().filter(JoinHandle::is_finished) {
            let _ = worker.join();
        }
    }

    /// Opens a window on everything that happens. The first event is a snapshot. The listener is dropped
    /// once it answers `false`; it must not call the studio.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn subscribe(&self, listener: impl FnMut(&Event) -> bool + Send + 'static) -> Result<()> {
        // What a person starts with; a session and a recipe have their own. Before the locks: the names
        // of models may have to be looked up for it.
        let precision = engine::Precision::auto();
        let defaults = GenerationParams { precision, ..self.defaults()? };
        let mut state = self.desk.state();
        let db = self.desk.db.lock();
        let settings = self.desk.settings();
        let snapshot = Snapshot {
            jobs: queue::all(&db)?,
            order: queue::order(&db)?,
            paused: state.paused,
            progress: state.progress(),
            live: state.live.clone(),
            session: session(&db)?,
            stacks: stacks(&db)?,
            sheets: sheet::all(&db)?,
            defaults,
            device: desk::device_label(state.devices(), precision),
            output_folder: self.desk.gallery.folder().display().to_string(),
            data_folder: self.desk.data.data.display().to_string(),
            gallery_revision: self.desk.gallery.revision(),
            library_revision: self.desk.cards.revision(),
            notices: std::mem::take(&mut state.notices),
            settings,
        };
        self.desk.events.open_window(snapshot, Box::new(listener));
        let files = std::mem::take(&mut state.files);
        if !files.is_empty() {
            self.desk.events.send(&Event::Files(files));
        }
        Ok(())
    }

    /// Listens to what happens from now on, without being a window: what the person should know waits
    /// for one. The listener must not call the studio.
    pub fn listen(&self, listener: impl FnMut(&Event) -> bool + Send + 'static) {
        self.desk.events.add(Who::Program, Box::new(listener));
    }

    /// The tables that lists are built from.
    #[must_use]
    pub fn catalog(&self) -> Catalog {
        Catalog::with(&self.desk.devices)
    }

    /// Hands files to the window, as if they were dropped on it.
    pub fn hand_over(&self, files: Vec<String>) {
        self.desk.files(files);
    }

    // ---- queue

    /// One job for each picture, with seeds counting up; gives their ids. A picture that Live shows
    /// already is kept as it is.
    ///
    /// # Errors
    /// Fails if the parameters cannot be used, or nothing can be written.
    pub fn enqueue(&self, params: &GenerationParams, count: u32) -> Result<Vec<u32>> {
        if !(1..=MAX_COUNT).contains(&count) {
            let message = format!("{count} is no number of pictures");
            return Err(Error::new(Code::InvalidParams { field: "count" }, message)
                .hint(format!("1 to {MAX_COUNT}")));
        }
        self.desk.enqueue(params, count)
    }

    /// Takes a job out of the queue, or stops it if it is running; others that run go on.
    ///
    /// # Errors
    /// Fails if there is no such job.
    pub fn cancel_job(&self, job: u32) -> Result<()> {
        self.desk.cancel(&[job])
    }

    /// Puts a job that ended without a picture at the end of the queue again.
    ///
    /// # Errors
    /// Fails if it is being made or done.
    pub fn requeue_job(&self, job: u32) -> Result<()> {
        self.desk.with_queue(|db| Ok(Some(Event::Job(Box::new(queue::again(db, job)?)))))
    }

    /// Takes a job that ended out of the list.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub fn dismiss_job(&self, job: u32) -> Result<()> {
        self.desk.with_queue(|db| {
            queue::remove(db, job)?;
            Ok(Some(Event::JobRemoved(job)))
        })
    }

    /// Moves a waiting job before another, or to the end.
    ///
    /// # Errors
    /// Fails if it does not wait any more.
    pub fn move_job(&self, job: u32, before: Option<u32>) -> Result<()> {
        self.desk.with_queue(|db| queue::place(db, job, before).map(|()| None))
    }

    /// While the queue pauses, no job is begun; those that run go on.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn set_paused(&self, paused: bool) -> Result<()> {
        self.desk.set_paused(paused)
    }

    // ---- sheets

    /// What a sheet along one or two axes would be.
    ///
    /// # Errors
    /// Names the axis and the value that cannot be used, or says that there are too few or too many pictures.
    pub fn plan_sheet(
        &self,
        params: &GenerationParams,
        x: &AxisWish,
        y: Option<&AxisWish>,
    ) -> Result<SheetPlan> {
        let names = self.desk.cards.names()?;
        self.desk.plan_sheet(&Grid::plan(params.clone(), x, y, &names)?)
    }

    /// Starts a sheet: a job for each of its cells, all with the same seed; gives its id.
    ///
    /// # Errors
    /// Those of [`Studio::plan_sheet`]; or nothing can be written.
    pub fn start_sheet(
        &self,
        params: &GenerationParams,
        x: &AxisWish,
        y: Option<&AxisWish>,
    ) -> Result<u32> {
        let names = self.desk.cards.names()?;
        self.desk.start_sheet(&Grid::plan(params.clone(), x, y, &names)?)
    }

    /// All sheets, the newest first.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn sheets(&self) -> Result<Vec<SheetEntry>> {
        self.desk.sheets()
    }

    /// A sheet with its cells.
    ///
    /// # Errors
    /// Fails if there is no such sheet.
    pub fn sheet(&self, id: u32) -> Result<Sheet> {
        self.desk.sheet(id)
    }

    /// What a cell of a sheet was asked to be. Its picture's recipe lacks what weighed nothing there.
    ///
    /// # Errors
    /// Fails if there is no such sheet or cell.
    pub fn sheet_cell(&self, id: u32, place: u32) -> Result<GenerationParams> {
        self.desk.sheet_cell(id, place as usize)
    }

    /// Stops what is left of a sheet: its jobs that run and those that wait.
    ///
    /// # Errors
    /// Fails if there is no such sheet.
    pub fn cancel_sheet(&self, id: u32) -> Result<()> {
        self.desk.cancel_sheet(id)
    }

    /// Puts the cells that have no picture into the queue again.
    ///
    /// # Errors
    /// Fails if there is no such sheet.
    pub fn complete_sheet(&self, id: u32) -> Result<()> {
        self.desk.complete_sheet(id)
    }

    /// Deletes a sheet and stops what is left of it; its pictures stay in the gallery.
    ///
    /// # Errors
    /// Fails if there is no such sheet.
    pub fn delete_sheet(&self, id: u32) -> Result<()> {
        self.desk.delete_sheet(id)
    }

    /// Writes a sheet as one PNG with labels and its recipe; cells without a picture are empty.
    ///
    /// # Errors
    /// Fails if there is no such sheet, or nothing can be written there.
    pub fn export_sheet(&self, id: u32, path: &Path) -> Result<()> {
        self.desk.export_sheet(id, path)
    }

    // ---- Live

    /// Asks for a frame; the newest wish wins. While the hand is `moving`, few steps will do.
    ///
    /// # Errors
    /// Fails without a seed: each frame would be another picture.
    pub fn live(&self, params: GenerationParams, wish: u32, moving: bool) -> Result<()> {
        if params.seed.is_none() {
            return Err(Error::new(Code::InvalidParams { field: "seed" }, "Live needs a seed"));
        }
        self.desk.wish(params, wish, moving);
        Ok(())
    }

    /// Ends Live.
    pub fn live_off(&self) {
        self.desk.live_off();
    }

    // ---- gallery

    /// Ids of the pictures that are wanted, in order.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn image_ids(&self, query: &GalleryQuery) -> Result<Vec<u32>> {
        self.desk.gallery.ids(query)
    }

    /// Details of pictures; those that are gone are left out.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn images(&self, ids: &[u32]) -> Result<Vec<GalleryImage>> {
        self.desk.gallery.images(ids)
    }

    /// How many pictures there are of what.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn gallery_counts(&self) -> Result<GalleryCounts> {
        self.desk.gallery.counts()
    }

    /// Marks pictures, or takes the mark off.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub fn set_favourite(&self, ids: &[u32], favourite: bool) -> Result<()> {
        self.desk.gallery.set_favourite(ids, favourite)
    }

    /// Moves pictures to the trash, or deletes them for good.
    ///
    /// # Errors
    /// [`Code::NoTrash`] where there is no trash: ask whether to delete for good.
    pub fn delete_images(&self, ids: &[u32], for_good: bool) -> Result<Deleted> {
        self.desk.gallery.delete(ids, for_good)
    }

    /// Brings deleted pictures back.
    ///
    /// # Errors
    /// Fails if they have left the trash.
    pub fn undo_delete(&self, undo: u32) -> Result<()> {
        self.desk.gallery.undo_delete(undo)
    }

    /// The file of a picture.
    ///
    /// # Errors
    /// Fails if there is no such picture.
    pub fn image_path(&self, id: u32) -> Result<PathBuf> {
        self.desk.gallery.path(id)
    }

    /// Where pictures go.
    #[must_use]
    pub fn pictures_folder(&self) -> PathBuf {
        self.desk.gallery.folder()
    }

    /// The recipe of a picture, as other programs write it.
    ///
    /// # Errors
    /// Fails if it has none.
    pub fn recipe_text(&self, id: u32) -> Result<String> {
        self.desk.gallery.recipe_text(id)
    }

    /// Reads a pasted recipe: ours as JSON, or A1111's text.
    ///
    /// # Errors
    /// Fails if it is neither.
    pub fn read_recipe(&self, text: &str) -> Result<RecipeOffer> {
        let names = self.desk.cards.names()?;
        offer(&names, Recipe::parse(text)?)
    }

    // ---- library

    /// Every model file that was found.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn library(&self) -> Result<LibraryView> {
        self.desk.cards.view()
    }

    /// What adapters would do on a base model, by ids of cards.
    ///
    /// # Errors
    /// Fails if the base model cannot be read.
    pub fn fits(&self, checkpoint: u32, adapters: &[u32]) -> Result<Vec<Fit>> {
        self.desk.cards.fits(checkpoint, adapters)
    }

    /// How much adapters change a base model, alone and together, by ids of cards. Reads their weights: a
    /// moment for those that were not measured before. A later question ends an earlier one.
    ///
    /// # Errors
    /// Fails if that happens, or a file cannot be read.
    pub fn strengths(&self, checkpoint: u32, adapters: &[u32]) -> Result<StackStrength> {
        self.desk.cards.strengths(checkpoint, adapters)
    }

    /// Keeps what the person says of a file, in place of what they said before.
    ///
    /// # Errors
    /// Fails if the file cannot be read for its hash, or nothing can be written.
    pub fn set_model_note(&self, card: u32, note: &ModelNote) -> Result<()> {
        self.desk.cards.set_note(card, note)
    }

    /// Makes a picture of the gallery a card's cover, or takes the one away that was chosen.
    ///
    /// # Errors
    /// Fails if there is no such card or picture.
    pub fn set_cover(&self, card: u32, image: Option<u32>) -> Result<()> {
        let picture = image.map(|image| self.desk.gallery.path(image)).transpose()?;
        self.desk.cards.set_cover(card, picture)
    }

    /// Begins to copy a model into the library's own folder; events tell how it goes.
    ///
    /// # Errors
    /// Fails if there is no room for it.
    pub fn copy_into_library(&self, card: u32) -> Result<()> {
        self.desk.cards.copy_in(card)
    }

    /// Stops copying; what was copied goes.
    pub fn cancel_copy(&self, card: u32) {
        self.desk.cards.cancel_copy(card);
    }

    /// What writing a model anew would give: its name, place and size.
    ///
    /// # Errors
    /// Fails if that cannot be made of it.
    pub fn plan_conversion(&self, card: u32, wish: &ConvertWish) -> Result<ConvertPlan> {
        self.desk.cards.plan_conversion(card, wish)
    }

    /// Begins to write a model anew, in the library's own folder; events tell how it goes.
    ///
    /// # Errors
    /// Fails if that cannot be made of it, the name is taken, or there is no room.
    pub fn convert_model(&self, card: u32, wish: &ConvertWish) -> Result<()> {
        self.desk.cards.convert(card, wish)
    }

    /// Stops a conversion; what was written goes.
    pub fn cancel_conversion(&self, card: u32) {
        self.desk.cards.cancel_conversion(card);
    }

    /// Takes a model that is used where it lies off the list; its file stays.
    ///
    /// # Errors
    /// Fails if it lies in a folder of the library.
    pub fn forget_model(&self, card: u32) -> Result<()> {
        self.desk.cards.forget(card)
    }

    /// Moves a model of the library's own folder to the trash.
    ///
    /// # Errors
    /// Fails if it lies elsewhere; [`Code::NoTrash`] where there is no trash.
    pub fn delete_model(&self, card: u32) -> Result<()> {
        self.desk.cards.delete(card)
    }

    /// Where a card's file is.
    ///
    /// # Errors
    /// Fails if there is no such card.
    pub fn model_path(&self, card: u32) -> Result<PathBuf> {
        self.desk.cards.path(card)
    }

    /// `{name: shape}` of every tensor of a model, as JSON.
    ///
    /// # Errors
    /// Fails if it cannot be read.
    pub fn key_listing(&self, card: u32) -> Result<String> {
        self.desk.cards.key_listing(card)
    }

    /// Takes the offer of another program's folder away, for good.
    ///
    /// # Errors
    /// Fails if nothing can be written.
    pub fn decline_folder(&self, path: &str) -> Result<()> {
        self.desk.cards.answer_offers(&[path.into()])
    }

    /// Looks at every folder with models again, on a thread of its own.
    pub fn rescan(&self) {
        self.desk.cards.rescan();
    }

    // ---- drop

    /// What files are that hover over the window; the fate of adapters is told for a base model.
    #[must_use]
    pub fn describe_drop(&self, paths: &[PathBuf], checkpoint: Option<u32>) -> Vec<DropItem> {
        self.desk.cards.describe(paths, checkpoint)
    }

    /// Takes dropped files in: adapters are copied into the library, base models are used where they
    /// lie, pictures are kept to start from. What cannot be used is told with its reason.
    #[must_use]
    pub fn drop_files(&self, paths: &[PathBuf]) -> Vec<Dropped> {
        self.desk.cards.drop(paths)
    }

    // ---- pictures to start from

    /// Keeps a picture to start from.
    ///
    /// # Errors
    /// Fails if it is no picture that can be read.
    pub fn keep_input(&self, path: &Path) -> Result<InputPicture> {
        self.inputs.add(path)
    }

    /// Makes a picture of the gallery one to start from.
    ///
    /// # Errors
    /// Fails if there is no such picture.
    pub fn start_from(&self, id: u32) -> Result<InputPicture> {
        self.inputs.add(&self.desk.gallery.path(id)?)
    }

    /// The picture to start from that a recipe names by its hash.
    ///
    /// # Errors
    /// Fails if it cannot be read.
    pub fn input_picture(&self, sha256: &str) -> Result<Option<InputPicture>> {
        self.inputs.get(sha256)
    }

    // ---- prompt

    /// A prompt's length for a base model; without one, as CLIP counts. Words that call embeddings are as long
    /// as these are: those of the library, and those that lie in the adapters in use.
    ///
    /// # Errors
    /// Fails if there is no such base model, or its tokenizer cannot be read.
    pub fn count_tokens(
        &self,
        checkpoint: Option<u32>,
        adapters: &[u32],
        text: &str,
    ) -> Result<TokenCount> {
        let tokenizer = self.tokenizer(checkpoint)?;
        let names = self.desk.cards.names()?;
        // What cannot be read says so when a picture is made.
        let mentioned = names.embeddings_in(text).into_iter();
        let mut embeddings: Vec<_> =
            mentioned.filter_map(|entry| Embedding::open(&entry.path).ok()).collect();
        for path in adapters.iter().filter_map(|card| self.desk.cards.path(*card).ok()) {
            let adapter = Outline::open(&path).ok();
            let found = adapter.iter().flat_map(Outline::embeddings);
            embeddings.extend(found.filter_map(|(_, embedding)| embedding.ok()));
        }
        let vocabulary = Vocabulary::new(&tokenizer, &embeddings);
        let text::Fill { used, ends } = text::fill(&tokenizer, &vocabulary, text);
        let utf16 = |end: usize| text[..end].encode_utf16().count() as u32;
        Ok(TokenCount {
            used: used.last().copied().unwrap_or_default() as u32,
            total: used.iter().sum::<usize>() as u32,
            limit: text::CAPACITY as u32,
            ends: ends.into_iter().map(utf16).collect(),
        })
    }

    fn tokenizer(&self, checkpoint: Option<u32>) -> Result<Arc<Tokenizer>> {
        let model = checkpoint.map(|card| self.desk.cards.path(card)).transpose()?;
        let folder = model.unwrap_or_default().join("tokenizer");
        let mut kept = self.tokenizers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tokenizer) = kept.get(&folder) {
            return Ok(tokenizer.clone());
        }
        let tokenizer = Arc::new(match folder.is_dir() {
            true => Tokenizer::open(&folder)?,
            false => Tokenizer::clip(),
        });
        kept.insert(folder, tokenizer.clone());
        Ok(tokenizer)
    }

    // ---- what the person owns

    /// Keeps what the window looks like; it is in the next snapshot.
    ///
    /// # Errors
    /// Fails if nothing can be written.
    pub fn save_session(&self, session: &Value) -> Result<()> {
        self.desk.db.lock().execute(
            "INSERT INTO session (id, json) VALUES (1, ?1) ON CONFLICT (id) DO UPDATE SET json = ?1",
            [session.to_string()],
        )?;
        Ok(())
    }

    /// Keeps a stack under a name; one of that name is replaced.
    ///
    /// # Errors
    /// Fails if the name is empty or nothing can be written.
    pub fn save_stack(&self, name: &str, stack: &Value) -> Result<()> {
        let name = name.trim();
        if name.is_empty() {
            let error = Error::new(Code::InvalidParams { field: "name" }, "a stack needs a name");
            return Err(error.hint("say what it makes: “neon on paper”"));
        }
        let db = self.desk.db.lock();
        db.execute(
            "INSERT INTO stack (name, json, saved_at) VALUES (?1, ?2, ?3)
             ON CONFLICT (name) DO UPDATE SET json = ?2, saved_at = ?3",
            rusqlite::params![name, stack.to_string(), db::now()],
        )?;
        self.desk.events.send(&Event::Stacks(stacks(&db)?));
        Ok(())
    }

    /// Deletes a saved stack.
    ///
    /// # Errors
    /// Fails if nothing can be written.
    pub fn delete_stack(&self, name: &str) -> Result<()> {
        let db = self.desk.db.lock();
        db.execute("DELETE FROM stack WHERE name = ?1", [name])?;
        self.desk.events.send(&Event::Stacks(stacks(&db)?));
        Ok(())
    }

    /// The settings as they are.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.desk.settings()
    }

    /// Takes settings over, at once and for the next start. Another device or number of threads is for the next
    /// picture; those that are being made end as they began.
    ///
    /// # Errors
    /// Names the setting that cannot be used, and nothing is changed then; or the system gives no thread for
    /// another device.
    pub fn set_settings(&self, settings: Settings) -> Result<()> {
        settings.check()?;
        settings.write(&self.desk.data.settings)?;
        self.desk.gallery.set_folder(pictures_folder(&self.desk.data, &settings));
        self.desk.cards.set_folders(model_folders(&settings))?;
        let state = self.desk.state();
        let before = self.desk.settings();
        self.desk.set_settings(settings.clone());
        self.desk.events.send(&Event::Settings(Box::new(settings.clone())));
        drop(state);
        // Only then: a device that failed is tried again for who changes something about it.
        match (before.device, before.threads) == (settings.device, settings.threads) {
            true => Ok(()),
            false => self.begin_work(),
        }
    }

    /// Where the program's log is.
    #[must_use]
    pub fn log_folder(&self) -> PathBuf {
        self.desk.data.log()
    }

    // ---- pixels

    /// Answers the window's own protocol: `picture|thumb|cover|preview|live|input`, a slash, an id.
    ///
    /// # Errors
    /// [`Code::MissingFile`] if there is no such picture.
    pub fn pixels(&self, address: &str) -> Result<Pixels> {
        let nothing = || Error::new(Code::MissingFile, format!("there is no picture `{address}`"));
        let (kind, id) = address.trim_matches('/').split_once('/').ok_or_else(nothing)?;
        let number = || id.parse::<u32>().map_err(|_| nothing());
        let png = |bytes| Pixels { bytes, mime: "image/png", lasting: true };
        let of = |(bytes, mime): (Vec<u8>, &'static str)| Pixels { bytes, mime, lasting: true };
        Ok(match kind {
            "picture" => png(fs::read(self.desk.gallery.path(number()?)?)?),
            "thumb" => of(self.desk.gallery.thumbnail(number()?)?),
            "cover" => of((self.desk.cards.cover(number()?)?, "image/jpeg")),
            "preview" => png(self.desk.preview(number()?)?),
            "live" => Pixels { lasting: false, ..png(self.desk.shown()?) },
            "input" => of(self.inputs.read(id)?),
            _ => return Err(nothing()),
        })
    }

    /// Parameters to begin with: those that suit the starter.
    fn defaults(&self) -> Result<GenerationParams> {
        match &self.desk.data.starter {
            Some(_) => self.desk.cards.names()?.defaults(&FileRef::named(starter::NAME)),
            None => Ok(GenerationParams::default()),
        }
    }
}

impl Drop for Studio {
    fn drop(&mut self) {
        self.close();
    }
}

impl Desk {
    /// Hands files to the window, now or as soon as there is one. No files: come to the front.
    fn files(&self, files: Vec<String>) {
        let mut state = self.state();
        if self.events.heard() {
            self.events.send(&Event::Files(files));
        } else {
            state.files.extend(files);
        }
    }
}

/// A recipe on what suits its base model, if that is here, and the starter's defaults otherwise.
///
/// # Errors
/// Fails if a value is of the wrong type.
pub(crate) fn offer(names: &Library, recipe: Recipe) -> Result<RecipeOffer> {
    let named = recipe.fields.get("model").cloned();
    let model: Option<FileRef> = named.and_then(|model| serde_json::from_value(model).ok());
    let suited = model.as_ref().and_then(|model| names.defaults(model).ok());
    let starter = || names.defaults(&FileRef::named(starter::NAME)).ok();
    let mut params = suited.or_else(starter).unwrap_or_default();
    params.prompt.clear();
    let mut warnings = recipe.warnings;
    warnings.extend(params.apply(recipe.fields)?);
    let warnings = warnings.iter().map(|warning| sentence(warning)).collect();
    Ok(RecipeOffer { params, warnings })
}

fn pictures_folder(data: &DataFolder, settings: &Settings) -> PathBuf {
    settings.output_folder.as_deref().map_or_else(|| data.pictures.clone(), PathBuf::from)
}

fn model_folders(settings: &Settings) -> Vec<PathBuf> {
    settings.model_folders.iter().map(PathBuf::from).collect()
}

fn session(db: &rusqlite::Connection) -> Result<Value> {
    let json: Option<String> =
        db.query_row("SELECT json FROM session", [], |row| row.get(0)).optional()?;
    Ok(json.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default())
}

fn stacks(db: &rusqlite::Connection) -> Result<Vec<NamedStack>> {
    let mut statement = db.prepare("SELECT name, json, saved_at FROM stack ORDER BY name")?;
    let rows = statement.query_map([], |row| {
        let json: String = row.get(1)?;
        let stack = serde_json::from_str(&json).unwrap_or_default();
        Ok(NamedStack { name: row.get(0)?, stack, saved_at: row.get(2)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A failure as the window shows it, for places where there is no [`Error`].
impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::from(&error)
    }
}
