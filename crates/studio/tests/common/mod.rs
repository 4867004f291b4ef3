//! A studio with what it says: what the tests without a window share.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::{
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

use engine::{DeviceId, DeviceInfo};
use fs_err as fs;
use studio::{
    DataFolder, GenerationParams, Studio,
    event::{Event, Snapshot},
    gallery::GalleryQuery,
    queue::{Job, JobState},
};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A studio with what it says.
pub(crate) struct Desk {
    pub(crate) studio: Studio,
    pub(crate) events: Receiver<Event>,
    pub(crate) first: Snapshot,
}

impl Desk {
    pub(crate) fn open(folder: &Path) -> Desk {
        Desk::of(Studio::open(DataFolder::at(folder), &[]).unwrap().expect("nobody has it"))
    }

    /// On devices that are taken for usable.
    pub(crate) fn open_on(folder: &Path, devices: &[DeviceId]) -> Desk {
        let info = |&id: &DeviceId| DeviceInfo {
            id,
            name: id.to_string(),
            memory_bytes: None,
            driver: None,
            unusable: None,
        };
        let devices = || devices.iter().map(info).collect();
        let studio = Studio::open_on(DataFolder::at(folder), &[], devices).unwrap();
        Desk::of(studio.expect("nobody has it"))
    }

    fn of(studio: Studio) -> Desk {
        let (sender, events) = mpsc::channel();
        studio.subscribe(move |event| sender.send(event.clone()).is_ok()).unwrap();
        let Event::Snapshot(first) = events.recv().unwrap() else { panic!("no snapshot") };
        Desk { studio, events, first: *first }
    }

    /// A small picture of the starter's.
    pub(crate) fn small(&self, seed: u64, steps: u32) -> GenerationParams {
        let defaults = self.first.defaults.clone();
        GenerationParams { width: 64, height: 64, steps, seed: Some(seed), ..defaults }
    }

    pub(crate) fn enqueue(&self, params: &GenerationParams) -> u32 {
        self.studio.enqueue(params, 1).unwrap()[0]
    }

    /// Waits for an event.
    pub(crate) fn wait<T>(&self, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left).expect("the event comes in time");
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    }

    pub(crate) fn wait_for(&self, id: u32, state: JobState) -> Job {
        self.wait(|event| match event {
            Event::Job(job) if job.id == id && job.state == state => Some((**job).clone()),
            Event::Job(job) if job.id == id && job.state.ended() => panic!("{job:?}"),
            _ => None,
        })
    }

    pub(crate) fn all(&self) -> Vec<u32> {
        self.studio.image_ids(&GalleryQuery::default()).unwrap()
    }
}

/// All files under a folder whose name has this in it.
pub(crate) fn files(folder: &Path, part: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, part));
        } else if entry.file_name().to_string_lossy().contains(part) {
            found.push(path);
        }
    }
    found
}

pub(crate) fn pixels(bytes: &[u8]) -> Vec<u8> {
    image::load_from_memory(bytes).unwrap().into_rgb8().into_raw()
}
