//! What the studio and its inference thread share: the queue's and Live's state, behind one lock.
//!
//! Whoever changes a job takes the state's lock, then the database's, and sends the event before it lets
//! go of either; so events come in the order of changes, and a snapshot that is made under both locks
//! fits between two of them.

use std::{
    io::Cursor,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};

use crate::{
    Code, Error, Failure, GenerationParams, Result, Settings,
    cards::Cards,
    data::DataFolder,
    db::Db,
    event::{Event, Events, Notice},
    gallery::{Gallery, GalleryImage, Making},
    live::{Live, LiveState, Wish},
    queue::{self, Job, JobProgress, JobState},
    worker,
};

/// What the studio and the inference thread share.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) data: DataFolder,
    pub(crate) db: Arc<Db>,
    pub(crate) events: Events,
    pub(crate) gallery: Gallery,
    pub(crate) cards: Cards,
    settings: RwLock<Settings>,
    state: Mutex<State>,
    look: Condvar,
    /// What `auto` stands for: looked for once, as a driver takes its time.
    best_device: OnceLock<engine::DeviceId>,
}

/// What changes while the program runs and is not in the database.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) paused: bool,
    pub(crate) closing: bool,
    /// The job that is being made, and what stops it.
    running: Option<(u32, Arc<AtomicBool>)>,
    pub(crate) progress: Option<JobProgress>,
    pub(crate) live: Live,
    wish: Option<Wish>,
    /// The frame that is being made: whether it is one for a moving hand, and what stops it.
    rendering: Option<(bool, Arc<AtomicBool>)>,
    frame: Option<Frame>,
    /// The last preview: job, revision, PNG.
    preview: Option<(u32, u32, Arc<Vec<u8>>)>,
    /// The last frame as PNG.
    shown: Option<Arc<Vec<u8>>>,
    pub(crate) notices: Vec<Notice>,
    /// Files that were handed over before a window listened.
    pub(crate) files: Vec<String>,
}

/// A picture of Live.
#[derive(Debug)]
pub(crate) struct Frame {
    /// The wish's parameters, as the window gave them.
    pub(crate) asked: GenerationParams,
    /// Whether it is the full recipe.
    pub(crate) full: bool,
    /// The same, resolved.
    pub(crate) params: GenerationParams,
    pub(crate) image: engine::Image,
    pub(crate) making: Making,
}

/// What the inference thread is to do.
pub(crate) enum Work {
    Job(Box<Job>, Arc<AtomicBool>),
    Frame(Box<Wish>, Arc<AtomicBool>),
    /// Nothing, and nothing has come for a while.
    Rest,
    Close,
}

impl Desk {
    pub(crate) fn new(
        data: DataFolder,
        db: Arc<Db>,
        events: Events,
        gallery: Gallery,
        cards: Cards,
        settings: Settings,
        notices: Vec<Notice>,
    ) -> Desk {
        Desk {
            data,
            db,
            events,
            gallery,
            cards,
            settings: RwLock::new(settings),
            state: Mutex::new(State { notices, ..State::default() }),
            look: Condvar::new(),
            best_device: OnceLock::new(),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // Every change is made whole before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn settings(&self) -> Settings {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_settings(&self, settings: Settings) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// "CPU · f32".
    pub(crate) fn device_label(&self, precision: engine::Precision) -> String {
        let precision = match precision {
            engine::Precision::F32 => "f32",
            engine::Precision::Bf16 => "bf16",
            engine::Precision::F16 => "f16",
        };
        format!("{} · {precision}", self.device().to_string().to_uppercase())
    }

    /// What the settings say to compute on.
    pub(crate) fn device(&self) -> engine::DeviceId {
        let best = || *self.best_device.get_or_init(engine::DeviceId::best);
        self.settings().device.parse().unwrap_or_else(|_| best())
    }

    // ---- queue

    /// One job for each picture, with seeds counting up. A picture that Live has just shown is not made
    /// again: it is kept.
    pub(crate) fn enqueue(&self, params: &GenerationParams, count: u32) -> Result<Vec<u32>> {
        let seed = params.seed.unwrap_or_else(crate::random_seed);
        let mut state = self.state();
        if count == 1 && state.running.is_none() {
            let shown = state.frame.take_if(|frame| frame.full && frame.asked == *params);
            if let Some(frame) = shown {
                let id = self.keep(&mut state, &frame)?;
                state.frame = Some(frame);
                return Ok(vec![id]);
            }
        }
        self.add_jobs(state, |db| {
            let seeds = (0..count).map(|index| seed.saturating_add(u64::from(index)));
            let with = |seed| GenerationParams { seed: Some(seed), ..params.clone() };
            seeds.map(|seed| queue::add(db, &with(seed))).collect()
        })
    }

    /// Puts jobs into the queue, tells of them, and lets Live wait; gives their ids.
    pub(crate) fn add_jobs(
        &self,
        state: MutexGuard<'_, State>,
        add: impl FnOnce(&mut rusqlite::Connection) -> Result<Vec<Job>>,
    ) -> Result<Vec<u32>> {
        let mut db = self.db.lock();
        let jobs = add(&mut db)?;
        let ids = jobs.iter().map(|job| job.id).collect();
        for job in jobs {
            self.events.send(&Event::Job(Box::new(job)));
        }
        let order = queue::order(&db)?;
        self.events.send(&Event::Queue { order, paused: state.paused });
        // Jobs go before Live.
        if !state.paused
            && let Some((_, cancel)) = &state.rendering
        {
            cancel.store(true, Ordering::Relaxed);
        }
        drop((db, state));
        self.look.notify_all();
        Ok(ids)
    }

    /// Makes a job of a frame.
    fn keep(&self, state: &mut State, frame: &Frame) -> Result<u32> {
        let job = queue::add(&self.db.lock(), &frame.params)?;
        let saved = self.gallery.save(&frame.image, &frame.params, &frame.making);
        self.note_use(&saved);
        self.end(state, job.id, saved);
        Ok(job.id)
    }

    /// Takes jobs out of the queue, and stops the one that is running.
    pub(crate) fn cancel(&self, ids: &[u32]) -> Result<()> {
        let state = self.state();
        let db = self.db.lock();
        for &id in ids {
            if let Some((running, cancel)) = &state.running
                && *running == id
            {
                cancel.store(true, Ordering::Relaxed);
            } else if queue::get(&db, id)?.state == JobState::Queued {
                let job = queue::set(&db, id, JobState::Cancelled, None, None)?;
                self.events.send(&Event::Job(Box::new(job)));
            }
        }
        let order = queue::order(&db)?;
        self.events.send(&Event::Queue { order, paused: state.paused });
        Ok(())
    }

    /// Changes the queue in the database, tells of a job that changed, and wakes the worker.
    pub(crate) fn with_queue(
        &self,
        change: impl FnOnce(&mut rusqlite::Connection) -> Result<Option<Event>>,
    ) -> Result<()> {
        let state = self.state();
        let mut db = self.db.lock();
        if let Some(event) = change(&mut db)? {
            self.events.send(&event);
        }
        let order = queue::order(&db)?;
        self.events.send(&Event::Queue { order, paused: state.paused });
        drop((db, state));
        self.look.notify_all();
        Ok(())
    }

    pub(crate) fn set_paused(&self, paused: bool) -> Result<()> {
        self.state().paused = paused;
        self.with_queue(|_| Ok(None))
    }

    /// Waits for something to do; with patience, no longer than that.
    pub(crate) fn next(&self, patience: Option<Duration>) -> Work {
        let deadline = patience.map(|patience| Instant::now() + patience);
        let mut state = self.state();
        loop {
            if state.closing {
                return Work::Close;
            }
            match self.take(&mut state) {
                Ok(Some(work)) => return work,
                Ok(None) => {}
                Err(error) => {
                    // A disk that is full, say: going on at once would only fail again.
                    tracing::error!("the queue pauses: {error}");
                    state.paused = true;
                    self.events.send(&Event::Queue { order: Vec::new(), paused: true });
                    self.events.send(&Event::Notice(Notice::from(&error)));
                }
            }
            let Some(deadline) = deadline else {
                state = self.look.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Work::Rest;
            }
            (state, _) =
                self.look.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn take(&self, state: &mut State) -> Result<Option<Work>> {
        let cancel = Arc::new(AtomicBool::new(false));
        if !state.paused {
            let db = self.db.lock();
            if let Some(job) = queue::take(&db)? {
                state.running = Some((job.id, cancel.clone()));
                state.progress = None;
                self.events.send(&Event::Job(Box::new(job.clone())));
                let order = queue::order(&db)?;
                self.events.send(&Event::Queue { order, paused: false });
                if state.wish.is_some() {
                    self.wait_for_jobs(state);
                }
                return Ok(Some(Work::Job(Box::new(job), cancel)));
            }
        }
        let Some(wish) = state.wish.take() else { return Ok(None) };
        state.rendering = Some((wish.moving, cancel.clone()));
        state.live.state = LiveState::Rendering;
        state.live.reason = None;
        self.events.send(&Event::Live(Box::new(state.live.clone())));
        Ok(Some(Work::Frame(Box::new(wish), cancel)))
    }

    /// Ends a job by what came of it.
    pub(crate) fn finish(&self, id: u32, saved: Result<GalleryImage>) {
        self.note_use(&saved);
        let mut state = self.state();
        state.running = None;
        state.progress = None;
        self.end(&mut state, id, saved);
    }

    /// Remembers when models were last used.
    fn note_use(&self, saved: &Result<GalleryImage>) {
        let params = saved.as_ref().ok().and_then(|image| image.params.as_ref());
        if let Some(Err(error)) = params.map(|params| self.cards.used(params)) {
            tracing::warn!("what was used is not written down: {error}");
        }
    }

    fn end(&self, state: &mut State, id: u32, saved: Result<GalleryImage>) {
        let db = self.db.lock();
        let ended = match &saved {
            Ok(image) => queue::set(&db, id, JobState::Done, Some(image.id), None),
            // The program ends; the job goes on the next time.
            Err(error) if worker::is_cancelled(error) && state.closing => {
                queue::set(&db, id, JobState::Interrupted, None, None)
            }
            Err(error) if worker::is_cancelled(error) => {
                queue::set(&db, id, JobState::Cancelled, None, None)
            }
            Err(error) => {
                tracing::warn!("a picture failed: {error:?}");
                queue::set(&db, id, JobState::Failed, None, Some(&Failure::from(error)))
            }
        };
        if let Ok(image) = saved {
            self.events.send(&Event::ImageSaved(Box::new(image)));
        }
        match ended {
            Ok(job) => self.events.send(&Event::Job(Box::new(job))),
            Err(error) => tracing::error!("the end of job {id} is not written down: {error}"),
        }
    }

    pub(crate) fn tell(&self, progress: JobProgress) {
        let mut state = self.state();
        self.events.send(&Event::Progress(progress.clone()));
        state.progress = Some(progress);
    }

    /// Keeps a preview for whoever asks; gives its revision.
    pub(crate) fn keep_preview(&self, job: u32, image: &engine::Image) -> u32 {
        let png = Arc::new(png_of(image));
        let mut state = self.state();
        let revision = state.preview.as_ref().map_or(1, |(_, revision, _)| revision + 1);
        state.preview = Some((job, revision, png));
        revision
    }

    pub(crate) fn preview(&self, job: u32) -> Result<Vec<u8>> {
        let state = self.state();
        let kept = state.preview.as_ref().filter(|(of, _, _)| *of == job);
        let (_, _, png) =
            kept.ok_or_else(|| Error::new(Code::MissingFile, "there is no preview"))?;
        Ok(png.to_vec())
    }

    // ---- Live

    pub(crate) fn wish(&self, params: GenerationParams, number: u32, moving: bool) {
        let mut state = self.state();
        // A frame for a moving hand is short, and ends: if each wish stopped the one before, a hand
        // that never rests would see none.
        if let Some((false, cancel)) = &state.rendering {
            cancel.store(true, Ordering::Relaxed);
        }
        state.wish = Some(Wish { params, number, moving, made: Instant::now() });
        if state.running.is_some() {
            self.wait_for_jobs(&mut state);
        } else if state.live.state == LiveState::Off {
            state.live.state = LiveState::Rendering;
        }
        drop(state);
        self.look.notify_all();
    }

    fn wait_for_jobs(&self, state: &mut State) {
        if state.live.state != LiveState::Waiting {
            state.live.state = LiveState::Waiting;
            state.live.reason = Some("Live waits: a picture of the queue is being made.".into());
            self.events.send(&Event::Live(Box::new(state.live.clone())));
        }
    }

    pub(crate) fn live_off(&self) {
        let mut state = self.state();
        state.wish = None;
        state.frame = None;
        if let Some((_, cancel)) = &state.rendering {
            cancel.store(true, Ordering::Relaxed);
        }
        state.live = Live { revision: state.live.revision, ..Live::default() };
        self.events.send(&Event::Live(Box::new(state.live.clone())));
    }

    /// Takes in what came of a frame.
    pub(crate) fn show(&self, wish: Wish, frame: Result<Frame>) {
        let png = frame.as_ref().ok().map(|frame| Arc::new(png_of(&frame.image)));
        let mut state = self.state();
        state.rendering = None;
        if state.live.state == LiveState::Off {
            return;
        }
        match frame {
            Ok(frame) => {
                state.live = Live {
                    state: LiveState::Shown,
                    revision: Some(state.live.revision.unwrap_or_default() + 1),
                    wish: wish.number,
                    full: frame.full,
                    seconds: Some(wish.made.elapsed().as_secs_f64()),
                    reason: None,
                    error: None,
                };
                state.shown = png;
                state.frame = Some(frame);
            }
            // Something else went first; the wish still stands if there is no newer one.
            Err(error) if worker::is_cancelled(&error) => {
                state.wish.get_or_insert(wish);
                return;
            }
            Err(error) => {
                state.live.state = LiveState::Failed;
                state.live.error = Some(Failure::from(&error));
                state.frame = None;
            }
        }
        self.events.send(&Event::Live(Box::new(state.live.clone())));
    }

    pub(crate) fn shown(&self) -> Result<Vec<u8>> {
        let shown = self.state().shown.clone();
        let shown = shown.ok_or_else(|| Error::new(Code::MissingFile, "there is no frame yet"))?;
        Ok(shown.to_vec())
    }

    // ---- end

    /// Stops what is being made, and lets the worker end.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closing = true;
        state.wish = None;
        let stops = state.running.iter().map(|(_, cancel)| cancel);
        for cancel in stops.chain(state.rendering.iter().map(|(_, cancel)| cancel)) {
            cancel.store(true, Ordering::Relaxed);
        }
        drop(state);
        self.look.notify_all();
    }
}

/// A picture without a recipe, for the screen.
fn png_of(image: &engine::Image) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let written = PngEncoder::new(&mut bytes).write_image(
        &image.pixels,
        image.width,
        image.height,
        ExtendedColorType::Rgb8,
    );
    if let Err(error) = written {
        tracing::error!("a picture cannot be shown: {error}");
    }
    bytes.into_inner()
}
