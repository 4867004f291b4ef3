//! What a window hears: one stream of events, in order, that begins with a snapshot of everything.

use std::sync::{Arc, Mutex};

use serde::Serialize;
use serde_json::Value;
use ts_rs::TS;

use crate::{
    Failure, GenerationParams,
    gallery::GalleryImage,
    live::Live,
    queue::{Job, JobProgress},
    settings::Settings,
    sheet::SheetEntry,
};

/// One thing that changed.
#[derive(Debug, Clone, Serialize, TS)]
#[serde(tag = "event", content = "data", rename_all = "snake_case")]
pub enum Event {
    /// Everything, first of all.
    Snapshot(Box<Snapshot>),
    /// A job is new or changed.
    Job(Box<Job>),
    /// A job left the list.
    JobRemoved(u32),
    /// The order of the queue, or whether it pauses.
    Queue {
        /// Ids of queued jobs, in order.
        order: Vec<u32>,
        /// No job is begun.
        paused: bool,
    },
    /// How far a running job is.
    Progress(JobProgress),
    /// A picture is in the gallery.
    ImageSaved(Box<GalleryImage>),
    /// Pictures were deleted, restored, marked or found: ask again.
    Gallery {
        /// Counts up.
        revision: u32,
    },
    /// Model files changed: ask again.
    Library {
        /// Counts up.
        revision: u32,
    },
    /// A checkpoint is being copied into the library.
    Copying(CopyProgress),
    /// A model is being written anew.
    Converting(ConvertProgress),
    /// The settings changed.
    Settings(Box<Settings>),
    /// The saved stacks changed.
    Stacks(Vec<NamedStack>),
    /// A sheet was started or deleted: all of them, the newest first.
    Sheets(Vec<SheetEntry>),
    /// A frame of Live, or why there is none.
    Live(Box<Live>),
    /// Files that the system or a second start handed over.
    Files(Vec<String>),
    /// Something without a place of its own.
    Notice(Notice),
}

/// All that a fresh window needs.
#[derive(Debug, Clone, Serialize, TS)]
pub struct Snapshot {
    /// All that are in the list.
    pub jobs: Vec<Job>,
    /// Ids of queued jobs, in order.
    pub order: Vec<u32>,
    /// No job is begun.
    pub paused: bool,
    /// How far the running jobs are.
    pub progress: Vec<JobProgress>,
    /// The state of Live.
    pub live: Live,
    /// The settings.
    pub settings: Settings,
    /// What the window saved last; `null` at the first start.
    #[ts(type = "unknown")]
    pub session: Value,
    /// Stacks that were saved under a name.
    pub stacks: Vec<NamedStack>,
    /// All sheets, the newest first.
    pub sheets: Vec<SheetEntry>,
    /// Parameters to begin with: those that suit the starter, without adapters.
    pub defaults: GenerationParams,
    /// The devices and the precision: "CPU · f32", "2 cards · bf16".
    pub device: String,
    /// Where pictures go.
    pub output_folder: String,
    /// Where everything else lies.
    pub data_folder: String,
    /// See [`Event::Gallery`].
    pub gallery_revision: u32,
    /// See [`Event::Library`].
    pub library_revision: u32,
    /// What there was to say before the window listened.
    pub notices: Vec<Notice>,
}

/// A stack under a name, with weights and words; what is in it is the window's business.
#[derive(Debug, Clone, Serialize, TS)]
pub struct NamedStack {
    /// Unique.
    pub name: String,
    /// As the window saved it.
    #[ts(type = "unknown")]
    pub stack: Value,
    /// Milliseconds since 1970.
    pub saved_at: i64,
}

/// Something that the person must know and that has no place of its own: whole sentences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, TS)]
pub struct Notice {
    /// What happened.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl From<&crate::Error> for Notice {
    fn from(error: &crate::Error) -> Notice {
        let Failure { message, hint, .. } = error.into();
        Notice { message, hint }
    }
}

/// How far a copy is, in bytes.
#[derive(Debug, Clone, Serialize, TS)]
pub struct CopyProgress {
    /// Id of the card that is being copied.
    pub card: u32,
    /// Bytes written.
    pub done: u64,
    /// Bytes to write; `done` equals it at the end.
    pub total: u64,
    /// Why it failed, or that it was cancelled.
    pub error: Option<Failure>,
}

/// How far the conversion of a model is, in bytes.
#[derive(Debug, Clone, Serialize, TS)]
pub struct ConvertProgress {
    /// Id of the card that is converted.
    pub card: u32,
    /// Bytes written.
    pub done: u64,
    /// Bytes to write.
    pub total: u64,
    /// Id of the new model's card, once it is there.
    pub made: Option<u32>,
    /// Why it failed, or that it was cancelled.
    pub error: Option<Failure>,
}

/// Told of every event until it answers `false`.
pub(crate) type Listener = Box<dyn FnMut(&Event) -> bool + Send>;

/// Hands events to whoever listens, in the order in which they are sent.
///
/// Whoever changes state sends the event while holding that state's lock, so that the order of events
/// is the order of changes.
#[derive(Clone, Default)]
pub(crate) struct Events(Arc<Mutex<Vec<(Who, Listener)>>>);

/// Who listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// Shows everything to the person.
    Window,
    /// Does something about some events.
    Program,
}

impl Events {
    pub(crate) fn send(&self, event: &Event) {
        let mut listeners = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        listeners.retain_mut(|(_, listener)| listener(event));
    }

    /// Adds a window and tells it everything first.
    pub(crate) fn open_window(&self, snapshot: Snapshot, mut listener: Listener) {
        if listener(&Event::Snapshot(Box::new(snapshot))) {
            self.add(Who::Window, listener);
        }
    }

    pub(crate) fn add(&self, who: Who, listener: Listener) {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((who, listener));
    }

    /// Whether a window listens.
    pub(crate) fn heard(&self) -> bool {
        let listeners = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        listeners.iter().any(|(who, _)| *who == Who::Window)
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}
