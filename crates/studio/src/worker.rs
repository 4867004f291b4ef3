//! An inference thread: takes a job or a frame of Live, makes the picture, looks again. There is one for each
//! device (`workers.rs`).
//!
//! The queue is in the database; the condition variable only says "look". Nothing is lost in a crash,
//! and nothing that panics takes the queue with it: the engine is opened anew, and the queue goes on.

use std::{
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use engine::{DeviceId, Engine, Output, Progress};

use crate::{
    Code, Error, Failure, GenerationParams, Resolved, Result, cards,
    desk::{self, Desk, Frame, Work},
    error::sentence,
    gallery::{AdapterPatch, Making},
    live::{Wish, moving_steps},
    queue::{Job, JobProgress, Phase},
    resolve,
};

/// Progress is told at most this often.
const PROGRESS: Duration = Duration::from_millis(100);

/// Previews are shown at most this often.
const PREVIEW: Duration = Duration::from_millis(200);

/// After so long without work, memory that is kept for the next picture is given back.
const PATIENCE: Duration = Duration::from_secs(30);

/// The inference threads' priority: the window's threads go first, so that it never stutters.
const NICE: i32 = 10;

/// Lowers the calling thread's priority on Linux, where a thread has one of its own and hands it on to
/// those that it starts.
#[cfg(target_os = "linux")]
pub(crate) fn lower_priority(nice: i32) {
    if let Err(error) = rustix::process::setpriority_process(None, nice) {
        tracing::warn!("a thread keeps its priority: {error}");
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn lower_priority(_: i32) {}

/// A device with its engine, and what is known of its speed.
struct Worker {
    desk: Arc<Desk>,
    /// Its number among the workers.
    number: u32,
    device: DeviceId,
    /// With the threads that it was opened for.
    engine: Option<(Option<u32>, Engine)>,
    /// What a step took the last time, and decoding, in seconds.
    step_seconds: Option<f64>,
    decode_seconds: Option<f64>,
}

/// A picture with all that there is to say of it.
struct Made {
    params: GenerationParams,
    output: Output,
    making: Making,
}

/// Runs until the desk is closed, or this worker is not wanted any more.
pub(crate) fn run(desk: Arc<Desk>, number: u32, device: DeviceId) {
    lower_priority(NICE);
    let (engine, step_seconds, decode_seconds) = (None, None, None);
    let mut worker = Worker { desk, number, device, engine, step_seconds, decode_seconds };
    let mut patience = None;
    loop {
        let work = worker.desk.next(number, patience);
        patience = Some(PATIENCE);
        match work {
            Work::Close => return,
            Work::Job(job, cancel) => worker.job(&job, &cancel),
            Work::Frame(wish, cancel) => worker.frame(*wish, &cancel),
            Work::Rest => {
                if let Some((_, engine)) = &mut worker.engine {
                    engine.give_back();
                }
                patience = None;
            }
        }
    }
}

impl Worker {
    fn job(&mut self, job: &Job, cancel: &AtomicBool) {
        let made = self.guarded(|worker| {
            worker.desk.gallery.prepare()?;
            worker.make(&job.params, cancel, &mut Telling::of_job(job.id))
        });
        if self.leaves_after(&made) {
            return self.desk.put_back(job.id);
        }
        let saved = made.and_then(|made| {
            self.desk.gallery.save(&made.output.image, &made.params, &made.making)
        });
        self.desk.finish(job.id, saved);
    }

    fn frame(&mut self, wish: Wish, cancel: &AtomicBool) {
        let mut params = wish.params.clone();
        if wish.moving {
            params.steps = moving_steps(params.steps, self.step_seconds);
        }
        let full = params.steps == wish.params.steps;
        let made = self.guarded(|worker| worker.make(&params, cancel, &mut Telling::nothing()));
        // The wish stands, and is another worker's.
        let made = match self.leaves_after(&made) {
            true => Err(engine::Error::Cancelled.into()),
            false => made,
        };
        let frame = made.map(|made| Frame {
            asked: wish.params.clone(),
            full,
            params: made.params,
            image: made.output.image,
            making: made.making,
        });
        self.desk.show(wish, frame);
    }

    /// Whether the device does not work and others go on without it. A device that fails at once would
    /// otherwise fail the whole queue, faster than those that work can take it.
    fn leaves_after(&self, made: &Result<Made>) -> bool {
        let failed = made.as_ref().err().filter(|error| is_of_device(error));
        failed.is_some_and(|error| self.desk.go_on_without(self.number, error))
    }

    /// Does something with the engine, and survives it.
    fn guarded(&mut self, work: impl FnOnce(&mut Worker) -> Result<Made>) -> Result<Made> {
        catch_unwind(AssertUnwindSafe(|| work(self))).unwrap_or_else(|panic| {
            let reason = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_default();
            tracing::error!("a picture failed by a fault in the program: {reason}");
            self.engine = None;
            let message = format!("the program has a fault: {reason}");
            Err(Error::new(Code::Unknown, message)
                .hint("the log tells more; the queue goes on with a fresh engine"))
        })
    }

    fn make(
        &mut self,
        params: &GenerationParams,
        cancel: &AtomicBool,
        telling: &mut Telling,
    ) -> Result<Made> {
        let started = Instant::now();
        let names = self.desk.cards.names()?;
        let Resolved { params, request, warnings } = resolve(params, &names)?;
        if cancel.load(Ordering::Relaxed) {
            return Err(engine::Error::Cancelled.into());
        }
        let desk = self.desk.clone();
        let previews = desk.settings().previews;
        let decode_seconds = self.decode_seconds;
        let mut clock = Clock::default();
        let engine = self.engine()?;
        let output = engine.generate(&request, &mut |progress| {
            clock.tick(&progress);
            telling.tell(&desk, &progress, request.steps, &clock, decode_seconds, previews);
            match cancel.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        self.step_seconds = clock.step_seconds().or(self.step_seconds);
        self.decode_seconds = clock.decode_seconds().or(self.decode_seconds);

        let warnings = warnings.iter().chain(&output.warnings).map(|text| sentence(text));
        let making = Making {
            seconds: Some(started.elapsed().as_secs_f64()),
            device: Some(desk::device_label([self.device], params.precision)),
            patches: patches(&params, &output),
            warnings: warnings.collect(),
        };
        Ok(Made { params, output, making })
    }

    /// The engine of the device, opened if need be.
    fn engine(&mut self) -> Result<&mut Engine> {
        let settings = self.desk.settings();
        let budget = settings.model_memory.map(|gigabytes| u64::from(gigabytes) << 30);
        if self.engine.as_ref().is_none_or(|(threads, _)| *threads != settings.threads) {
            self.engine = None;
            let threads = settings.threads.map(|threads| threads as usize);
            self.engine = Some((settings.threads, Engine::open(self.device, threads)?));
        }
        let (_, engine) = self.engine.as_mut().expect("opened above");
        engine.set_budget(budget);
        Ok(engine)
    }
}

/// What each adapter that is switched on did.
fn patches(params: &GenerationParams, output: &Output) -> Vec<AdapterPatch> {
    let enabled = params.adapters.iter().filter(|adapter| adapter.enabled);
    let reports = &output.patches.adapters;
    enabled
        .zip(reports)
        .map(|(adapter, report)| {
            let (applied, total, left_out) = cards::effect(report);
            let (name, beside) = (adapter.file.name.clone(), report.beside as u32);
            AdapterPatch { name, applied, beside, total, left_out }
        })
        .collect()
}

/// When sampling and decoding began, as the engine has no clock.
#[derive(Default)]
struct Clock {
    sampling: Option<Instant>,
    calls: usize,
    sampled: Option<Instant>,
    decoding: Option<Instant>,
}

impl Clock {
    fn tick(&mut self, progress: &Progress<'_>) {
        match progress.phase {
            engine::Phase::Sample => {
                self.sampling.get_or_insert_with(Instant::now);
                self.calls = progress.done;
                self.sampled = Some(Instant::now());
            }
            engine::Phase::Decode => {
                self.decoding.get_or_insert_with(Instant::now);
            }
            _ => {}
        }
    }

    fn step_seconds(&self) -> Option<f64> {
        let (begun, last) = (self.sampling?, self.sampled?);
        (self.calls > 0).then(|| (last - begun).as_secs_f64() / self.calls as f64)
    }

    fn decode_seconds(&self) -> Option<f64> {
        Some(self.decoding?.elapsed().as_secs_f64())
    }
}

/// Who is told of progress.
struct Telling {
    job: Option<u32>,
    progress: Option<Instant>,
    preview: Option<Instant>,
    phase: Option<engine::Phase>,
    revision: Option<u32>,
}

impl Telling {
    fn of_job(job: u32) -> Telling {
        Telling { job: Some(job), progress: None, preview: None, phase: None, revision: None }
    }

    fn nothing() -> Telling {
        Telling { job: None, ..Telling::of_job(0) }
    }

    fn tell(
        &mut self,
        desk: &Desk,
        progress: &Progress<'_>,
        steps: u32,
        clock: &Clock,
        decode_seconds: Option<f64>,
        previews: bool,
    ) {
        let Some(job) = self.job else { return };
        let due = |last: Option<Instant>, pause| last.is_none_or(|last| last.elapsed() >= pause);
        if let Some(denoised) = progress.denoised
            && previews
            && due(self.preview, PREVIEW)
            && let Ok(image) = denoised.preview()
        {
            self.preview = Some(Instant::now());
            self.revision = Some(desk.keep_preview(job, &image));
            self.progress = None;
        }
        // A phase is always announced.
        if self.phase == Some(progress.phase) && !due(self.progress, PROGRESS) {
            return;
        }
        (self.phase, self.progress) = (Some(progress.phase), Some(Instant::now()));
        let decode = decode_seconds.unwrap_or_default();
        let seconds_left = match progress.phase {
            engine::Phase::Sample => clock
                .step_seconds()
                .map(|step| step * progress.total.saturating_sub(progress.done) as f64 + decode),
            engine::Phase::Decode => decode_seconds,
            _ => None,
        };
        desk.tell(JobProgress {
            job,
            phase: Phase::from(progress.phase),
            done: progress.done as u32,
            total: progress.total as u32,
            step: progress.step as u32,
            steps,
            preview: self.revision,
            seconds_left,
        });
    }
}

/// What is said of a job that ended because the program does.
pub(crate) fn is_cancelled(error: &Error) -> bool {
    Failure::from(error).code == "cancelled"
}

/// Whether it says that the device cannot be used, or gave up.
fn is_of_device(error: &Error) -> bool {
    let source = std::error::Error::source(error);
    let source = source.and_then(|source| source.downcast_ref::<engine::Error>());
    matches!(source, Some(engine::Error::Device { .. } | engine::Error::Card(_)))
}
