//! What the person sees while a picture is made, and what it cost.

use std::{
    ops::ControlFlow,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use engine::{Phase, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;

/// Set by Ctrl-C, read after every unit of work.
static CANCELLED: AtomicBool = AtomicBool::new(false);

/// Lets Ctrl-C end the work in an orderly way. A second one ends the program at once.
pub(crate) fn catch_ctrl_c() {
    let caught = ctrlc::set_handler(|| {
        if CANCELLED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    });
    // Then Ctrl-C ends the program at once, which leaves nothing half-written either.
    let _ = caught;
}

/// Whether Ctrl-C was pressed.
pub(crate) fn cancelled() -> bool {
    CANCELLED.load(Ordering::Relaxed)
}

/// Where the time went, in seconds; a batch is added up.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Timings {
    pub(crate) load_s: f64,
    pub(crate) patch_s: f64,
    pub(crate) encode_s: f64,
    /// One figure a step, of all pictures in a row.
    pub(crate) step_s: Vec<f64>,
    pub(crate) decode_s: f64,
}

/// Draws a bar on stderr (where that is a terminal) and measures.
pub(crate) struct Watcher {
    bars: MultiProgress,
    /// Of the phase.
    bar: ProgressBar,
    /// Of all pictures, where they belong together.
    all: Option<ProgressBar>,
    prefix: String,
    phase: Option<Phase>,
    /// When the last event came.
    since: Instant,
    timings: Timings,
    /// Where the steps of this picture begin in the timings.
    first_step: usize,
}

impl Watcher {
    pub(crate) fn new() -> Watcher {
        let bars = MultiProgress::new();
        let bar = bars.add(ProgressBar::new(1).with_style(style()));
        Watcher {
            bars,
            bar,
            all: None,
            prefix: String::new(),
            phase: None,
            since: Instant::now(),
            timings: Timings::default(),
            first_step: 0,
        }
    }

    /// Shows how far all pictures are, too: those of a sheet.
    pub(crate) fn over(&mut self, count: usize) {
        let all = ProgressBar::new(count as u64).with_style(style()).with_message("sheet");
        self.all = Some(self.bars.add(all));
    }

    /// Begins the next picture of a batch.
    pub(crate) fn begin(&mut self, index: usize, count: usize) {
        if let Some(all) = &self.all {
            all.set_position(index as u64);
            if index > 0 {
                all.set_prefix(left(all));
            }
        }
        self.prefix =
            if count == 1 { String::new() } else { format!("picture {}/{count}: ", index + 1) };
        self.phase = None;
        self.first_step = self.timings.step_s.len();
        self.bar.set_prefix("");
        self.bar.set_message(format!("{}looking for models", self.prefix));
    }

    /// For the engine: draws, measures, and stops if Ctrl-C was pressed.
    pub(crate) fn watch(&mut self, progress: Progress<'_>) -> ControlFlow<()> {
        let now = Instant::now();
        let took = (now - self.since).as_secs_f64();
        self.since = now;
        match self.phase {
            // Before the first phase nothing was done.
            None => {}
            Some(Phase::Load) => self.timings.load_s += took,
            Some(Phase::Patch) => self.timings.patch_s += took,
            Some(Phase::Encode) => self.timings.encode_s += took,
            Some(Phase::Sample) => {
                // The call that just ended belongs to the last step that was begun; the announcement of
                // the next phase comes right behind the last call.
                let steps = &mut self.timings.step_s;
                let step = match progress.phase {
                    Phase::Sample => self.first_step + progress.step.max(1) - 1,
                    _ => steps.len().max(self.first_step + 1) - 1,
                };
                if steps.len() <= step {
                    steps.resize(step + 1, 0.0);
                }
                steps[step] += took;
            }
            Some(Phase::Decode) => self.timings.decode_s += took,
        }
        self.draw(&progress);
        if cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// After the engine has returned.
    pub(crate) fn end(&mut self) {
        if self.phase == Some(Phase::Decode) {
            self.timings.decode_s += self.since.elapsed().as_secs_f64();
        }
        self.phase = None;
        self.since = Instant::now();
    }

    /// Prints something without tearing the bar.
    pub(crate) fn aside(&self, print: impl FnOnce()) {
        self.bars.suspend(print);
    }

    pub(crate) fn finish(self) -> Timings {
        self.all.iter().for_each(ProgressBar::finish_and_clear);
        self.bar.finish_and_clear();
        self.timings
    }

    fn draw(&mut self, progress: &Progress<'_>) {
        if self.phase != Some(progress.phase) {
            self.phase = Some(progress.phase);
            let doing = match progress.phase {
                Phase::Load => "loading",
                Phase::Patch => "applying adapters",
                Phase::Encode => "encoding",
                Phase::Sample => "sampling",
                Phase::Decode => "decoding",
            };
            // Also forgets how fast the phase before was.
            self.bar.reset();
            self.bar.set_length(progress.total as u64);
            self.bar.set_prefix("");
            self.bar.set_message(format!("{}{doing}", self.prefix));
        }
        self.bar.set_length(progress.total as u64);
        self.bar.set_position(progress.done as u64);
        if progress.phase == Phase::Sample && progress.done > 0 {
            self.bar.set_prefix(left(&self.bar));
        }
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{msg:>30} {bar:32} {pos}/{len}{prefix}")
        .expect("the template is correct")
        .progress_chars("━━─")
}

/// The time that a bar still takes, as it looks now.
fn left(bar: &ProgressBar) -> String {
    let left = bar.eta().as_secs();
    format!(", {}:{:02} left", left / 60, left % 60)
}
