//! What the studio and its inference threads share: the queue's and Live's state, behind one lock.
//!
//! Whoever changes a job takes the state's lock, then the database's, and sends the event before it lets
//! go of either; so events come in the order of changes, and a snapshot that is made under both locks
//! fits between two of them.

use std::{
    io::Cursor,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use engine::{DeviceId, DeviceInfo};
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
    workers::{Workers, devices_for},
};

/// So long after the last wish, Live does not keep a worker from the queue.
const LIVE_RESTS: Duration = Duration::from_secs(30);

/// What the studio and the inference threads share.
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
    /// What there is to compute on: looked for once, as a driver takes its time.
    pub(crate) devices: Vec<DeviceInfo>,
}

/// What changes while the program runs and is not in the database.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) paused: bool,
    pub(crate) closing: bool,
    workers: Workers,
    /// The jobs that are being made, in the order in which they were begun.
    running: Vec<Running>,
    pub(crate) live: Live,
    wish: Option<Wish>,
    /// When the last wish came.
    wished: Option<Instant>,
    /// The frame that is being made: whether it is one for a moving hand, and what stops it.
    rendering: Option<(bool, Arc<AtomicBool>)>,
    frame: Option<Frame>,
    /// The last preview of each job: its number, revision, PNG.
    previews: Vec<(u32, u32, Arc<Vec<u8>>)>,
    /// Of the preview that came last. It counts on from job to job: an address never means another picture.
    revision: u32,
    /// The last frame as PNG.
    shown: Option<Arc<Vec<u8>>>,
    pub(crate) notices: Vec<Notice>,
    /// Files that were handed over before a window listened.
    pub(crate) files: Vec<String>,
}

/// A job that is being made.
#[derive(Debug)]
struct Running {
    job: u32,
    worker: u32,
    /// What stops it.
    cancel: Arc<AtomicBool>,
    progress: Option<JobProgress>,
}

impl State {
    /// What pictures are made on.
    pub(crate) fn devices(&self) -> impl Iterator<Item = DeviceId> {
        self.workers.devices()
    }

    /// How far the jobs are that are being made.
    pub(crate) fn progress(&self) -> Vec<JobProgress> {
        self.running.iter().filter_map(|running| running.progress.clone()).collect()
    }

    /// Whether the worker that makes the frames of Live makes a job.
    fn live_is_kept_waiting(&self) -> bool {
        self.running.iter().any(|running| self.workers.is_first(running.worker))
    }

    /// Whether the first worker makes frames of Live only: there are others for the jobs, and the hand has
    /// moved a moment ago. A lone worker makes jobs first.
    fn live_has_a_worker(&self) -> bool {
        let moves = self.wish.is_some() || self.rendering.is_some();
        let moved = || self.wished.is_some_and(|wished| wished.elapsed() < LIVE_RESTS);
        self.workers.are_several() && self.live.state != LiveState::Off && (moves || moved())
    }
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

/// What an inference thread is to do.
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
        devices: Vec<DeviceInfo>,
    ) -> Desk {
        Desk {
            data,
            db,
            events,
            gallery,
            cards,
            settings: RwLock::new(settings),
            state: Mutex::default(),
            look: Condvar::new(),
            devices,
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

    // ---- workers

    /// Fits the workers to the settings: gives those that are new, whose threads are to begin. Those that are
    /// not wanted any more end theirs when their picture is done.
    pub(crate) fn fit_workers(&self) -> Vec<(u32, DeviceId)> {
        let new = {
            let mut state = self.state();
            let wanted = devices_for(&self.settings().device, &self.devices);
            state.workers.fit(&wanted)
        };
        self.look.notify_all();
        new
    }

    /// Forgets a worker whose thread did not begin.
    pub(crate) fn forget_worker(&self, worker: u32) {
        self.state().workers.remove(worker);
        self.look.notify_all();
    }

    /// Takes a worker off whose device does not work, if others go on; tells whether that is so.
    pub(crate) fn go_on_without(&self, worker: u32, error: &Error) -> bool {
        let mut state = self.state();
        let Some(device) = state.workers.spare(worker) else { return false };
        tracing::error!("pictures are made without {device}: {error:?}");
        let reason = Failure::from(error).message;
        self.events.send(&Event::Notice(Notice {
            message: format!("Pictures are made without {device} for now. {reason}"),
            hint: Some(
                "To try it again, choose the device anew or start the program again.".into(),
            ),
        }));
        drop(state);
        self.look.notify_all();
        true
    }

    // ---- queue

    /// One job for each picture, with seeds counting up. A picture that Live has just shown is not made
    /// again: it is kept.
    pub(crate) fn enqueue(&self, params: &GenerationParams, count: u32) -> Result<Vec<u32>> {
        let seed = params.seed.unwrap_or_else(crate::random_seed);
        let mut state = self.state();
        if count == 1 && !state.live_is_kept_waiting() {
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
        // Jobs go before Live, unless it has a worker of its own.
        if !state.paused
            && !state.live_has_a_worker()
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

    /// Takes jobs out of the queue, and stops those that are running.
    pub(crate) fn cancel(&self, ids: &[u32]) -> Result<()> {
        let state = self.state();
        let db = self.db.lock();
        for &id in ids {
            if let Some(running) = state.running.iter().find(|running| running.job == id) {
                running.cancel.store(true, Ordering::Relaxed);
            } else if queue::get(&db, id)?.state == JobState::Queued {
                let job = queue::set(&db, id, JobState::Cancelled, None, None)?;
                self.events.send(&Event::Job(Box::new(job)));
            }
        }
        let order = queue::order(&db)?;
        self.events.send(&Event::Queue { order, paused: state.paused });
        Ok(())
    }

    /// Changes the queue in the database, tells of a job that changed, and wakes the workers.
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

    /// Waits for something that a worker is to do; with patience, no longer than that.
    pub(crate) fn next(&self, worker: u32, patience: Option<Duration>) -> Work {
        let deadline = patience.map(|patience| Instant::now() + patience);
        let mut state = self.state();
        loop {
            if state.closing || !state.workers.stays(worker) {
                return Work::Close;
            }
            match self.take(&mut state, worker) {
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

    fn take(&self, state: &mut State, worker: u32) -> Result<Option<Work>> {
        let cancel = Arc::new(AtomicBool::new(false));
        let first = state.workers.is_first(worker);
        let frames_only = first && state.live_has_a_worker();
        if !state.paused && !frames_only {
            let db = self.db.lock();
            if let Some(job) = queue::take(&db)? {
                let order = queue::order(&db)?;
                let running =
                    Running { job: job.id, worker, cancel: cancel.clone(), progress: None };
                state.running.push(running);
                self.events.send(&Event::Job(Box::new(job.clone())));
                self.events.send(&Event::Queue { order, paused: false });
                if first && state.wish.is_some() {
                    self.wait_for_jobs(state);
                }
                return Ok(Some(Work::Job(Box::new(job), cancel)));
            }
        }
        // One frame at a time: a worker that leaves may still have one.
        if !first || state.rendering.is_some() {
            return Ok(None);
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
        state.running.retain(|running| running.job != id);
        self.end(&mut state, id, saved);
    }

    /// Puts a job back that its worker could not make, to where it stood: others do.
    pub(crate) fn put_back(&self, id: u32) {
        let mut state = self.state();
        let cancelled = |running: &Running| running.cancel.load(Ordering::Relaxed);
        let stopped = state.running.iter().any(|running| running.job == id && cancelled(running));
        if stopped {
            drop(state);
            return self.finish(id, Err(engine::Error::Cancelled.into()));
        }
        state.running.retain(|running| running.job != id);
        let db = self.db.lock();
        let put = queue::set(&db, id, JobState::Queued, None, None).and_then(|job| {
            self.events.send(&Event::Job(Box::new(job)));
            let order = queue::order(&db)?;
            self.events.send(&Event::Queue { order, paused: state.paused });
            Ok(())
        });
        if let Err(error) = put {
            tracing::error!("job {id} is not put back into the queue: {error}");
        }
        drop((db, state));
        self.look.notify_all();
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
        if let Some(running) = state.running.iter_mut().find(|running| running.job == progress.job)
        {
            running.progress = Some(progress);
        }
    }

    /// Keeps a preview for whoever asks; gives its revision.
    pub(crate) fn keep_preview(&self, job: u32, image: &engine::Image) -> u32 {
        let png = Arc::new(png_of(image));
        let state = &mut *self.state();
        // A job that ended keeps its preview until another has one: a window may still ask for it.
        let runs = |id: u32| state.running.iter().any(|running| running.job == id);
        state.previews.retain(|(of, _, _)| *of != job && runs(*of));
        state.revision += 1;
        state.previews.push((job, state.revision, png));
        state.revision
    }

    pub(crate) fn preview(&self, job: u32) -> Result<Vec<u8>> {
        let state = self.state();
        let kept = state.previews.iter().find(|(of, _, _)| *of == job);
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
        let made = Instant::now();
        (state.wish, state.wished) = (Some(Wish { params, number, moving, made }), Some(made));
        if state.live_is_kept_waiting() {
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
        drop(state);
        // The worker that Live had is there for jobs again.
        self.look.notify_all();
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
                drop(state);
                return self.look.notify_all();
            }
            Err(error) => {
                state.live.state = LiveState::Failed;
                state.live.error = Some(Failure::from(&error));
                state.frame = None;
            }
        }
        self.events.send(&Event::Live(Box::new(state.live.clone())));
        drop(state);
        // The first worker may be another by now, and have waited for this frame.
        self.look.notify_all();
    }

    pub(crate) fn shown(&self) -> Result<Vec<u8>> {
        let shown = self.state().shown.clone();
        let shown = shown.ok_or_else(|| Error::new(Code::MissingFile, "there is no frame yet"))?;
        Ok(shown.to_vec())
    }

    // ---- end

    /// Stops what is being made, and lets the workers end.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closing = true;
        state.wish = None;
        let stops = state.running.iter().map(|running| &running.cancel);
        for cancel in stops.chain(state.rendering.iter().map(|(_, cancel)| cancel)) {
            cancel.store(true, Ordering::Relaxed);
        }
        drop(state);
        self.look.notify_all();
    }
}

/// "CPU · f32", "2 cards · bf16".
pub(crate) fn device_label(
    devices: impl IntoIterator<Item = DeviceId>,
    precision: engine::Precision,
) -> String {
    let precision = match precision {
        engine::Precision::F32 => "f32",
        engine::Precision::Bf16 => "bf16",
        engine::Precision::F16 => "f16",
    };
    let devices: Vec<_> = devices.into_iter().collect();
    let what = match devices.as_slice() {
        [device] => device.to_string().to_uppercase(),
        several => format!("{} cards", several.len()),
    };
    format!("{what} · {precision}")
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
