//! The stream of events into the page.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use studio::{Result, Studio, event::Event};
use tauri::ipc::Channel;

/// Who listens, by the label of the window.
#[derive(Debug, Default)]
pub(crate) struct Listening(Mutex<HashMap<String, Arc<AtomicBool>>>);

impl Listening {
    /// Sends everything that happens into `channel`. A page that was loaded anew asks again: what it
    /// asked for before ends, though its channel would take events for ever.
    pub(crate) fn begin(
        &self,
        window: &str,
        studio: &Studio,
        channel: Channel<Event>,
    ) -> Result<()> {
        let wanted = Arc::new(AtomicBool::new(true));
        let before = {
            let mut listening = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            listening.insert(window.to_owned(), wanted.clone())
        };
        if let Some(before) = before {
            before.store(false, Ordering::Release);
        }
        studio.subscribe(move |event| {
            wanted.load(Ordering::Acquire) && channel.send(event.clone()).is_ok()
        })
    }
}
