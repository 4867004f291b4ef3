//! Where the window is: kept in the data folder, and used again if a screen still is there.
//!
//! All numbers are logical pixels, so that a window keeps its size on a screen of another scale.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError, mpsc},
    time::Duration,
};

use fs_err as fs;
use serde::{Deserialize, Serialize};
use studio::files::{self, Existing};

/// The size of a first window, if the screen has room for it.
const FIRST: Size = Size { width: 1440.0, height: 900.0 };

/// Below this the page has no room for its three columns.
const SMALLEST: Size = Size { width: 1024.0, height: 680.0 };

/// This much of the upper edge has to be on a screen, for a hand to catch the window by.
const HANDLE: f64 = 120.0;

/// Nothing is written while the window is being moved.
const QUIET: Duration = Duration::from_millis(400);

/// Width and height.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Size {
    pub(crate) width: f64,
    pub(crate) height: f64,
}

/// Left and upper edge.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Corner {
    pub(crate) x: f64,
    pub(crate) y: f64,
}

/// A screen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Screen {
    pub(crate) corner: Corner,
    pub(crate) size: Size,
}

/// Where the window is; its size and corner are those that it has when it is not maximised.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) size: Size,
    /// Nothing: in the middle.
    pub(crate) corner: Option<Corner>,
    pub(crate) maximised: bool,
}

impl Size {
    fn within(self, other: Size) -> Size {
        Size { width: self.width.min(other.width), height: self.height.min(other.height) }
    }

    fn at_least(self, other: Size) -> Size {
        Size { width: self.width.max(other.width), height: self.height.max(other.height) }
    }
}

impl Screen {
    /// Whether a window at `corner` can be caught by its upper edge.
    fn has(&self, corner: Corner, width: f64) -> bool {
        let (left, right) = (self.corner.x, self.corner.x + self.size.width);
        let seen = right.min(corner.x + width) - left.max(corner.x);
        let below_top = corner.y - self.corner.y;
        seen >= HANDLE && (0.0..self.size.height - HANDLE).contains(&below_top)
    }
}

impl Place {
    /// The place to open the window at, and the smallest size that it may get, on the screens that
    /// there are now; the first is the main one.
    pub(crate) fn fitting(kept: Option<Place>, screens: &[Screen]) -> (Place, Size) {
        let mut place = kept.unwrap_or(Place { size: FIRST, corner: None, maximised: false });
        let on =
            |corner: Corner| screens.iter().find(|screen| screen.has(corner, place.size.width));
        let screen = place.corner.and_then(on);
        if screen.is_none() {
            place.corner = None;
        }
        let Some(screen) = screen.or(screens.first()) else { return (place, SMALLEST) };
        let smallest = SMALLEST.within(screen.size);
        place.size = place.size.at_least(smallest).within(screen.size);
        (place, smallest)
    }
}

/// Keeps the window's place in a file.
#[derive(Debug)]
pub(crate) struct Keeper {
    file: PathBuf,
    place: Mutex<Option<Place>>,
    changed: mpsc::Sender<()>,
}

impl Keeper {
    /// Keeps places in `file`, some time after the last change.
    pub(crate) fn at(file: PathBuf) -> std::io::Result<std::sync::Arc<Keeper>> {
        let (changed, changes) = mpsc::channel();
        let keeper = std::sync::Arc::new(Keeper { file, place: Mutex::default(), changed });
        let writing = std::sync::Arc::downgrade(&keeper);
        let work = move || {
            while changes.recv().is_ok() {
                while changes.recv_timeout(QUIET).is_ok() {}
                let Some(keeper) = writing.upgrade() else { return };
                keeper.write();
            }
        };
        std::thread::Builder::new().name("window's place".into()).spawn(work)?;
        Ok(keeper)
    }

    /// The place of last time.
    pub(crate) fn read(&self) -> Option<Place> {
        let text = fs::read_to_string(&self.file).ok()?;
        let place: Place = serde_json::from_str(&text)
            .inspect_err(|error| tracing::warn!("`{}` is left aside: {error}", self.file.display()))
            .ok()?;
        let Size { width, height } = place.size;
        (width >= 1.0 && height >= 1.0).then_some(place)
    }

    /// Takes note of a change. A maximised window keeps the size that it goes back to.
    pub(crate) fn note(&self, place: Place) {
        let mut kept = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let before = kept.or_else(|| self.read()).filter(|_| place.maximised);
        *kept = Some(Place { maximised: place.maximised, ..before.unwrap_or(place) });
        // The thread lives as long as this.
        let _ = self.changed.send(());
    }

    /// Writes what was noted.
    pub(crate) fn write(&self) {
        let place = *self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = place
            && let Err(error) = write(&self.file, &place)
        {
            tracing::warn!("the window's place is not kept: {error}");
        }
    }
}

fn write(path: &Path, place: &Place) -> std::io::Result<()> {
    let json = serde_json::to_vec(place)?;
    files::write(path, Existing::Replace, |file| file.write_all(&json))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEFT: Screen = screen(0.0, 1920.0, 1080.0);
    const RIGHT: Screen = screen(1920.0, 1280.0, 720.0);

    const fn screen(x: f64, width: f64, height: f64) -> Screen {
        Screen { corner: Corner { x, y: 0.0 }, size: Size { width, height } }
    }

    const fn place(x: f64, y: f64, width: f64, height: f64) -> Place {
        let corner = Some(Corner { x, y });
        Place { size: Size { width, height }, corner, maximised: false }
    }

    #[test]
    fn a_first_window_fits_its_screen() {
        let (first, smallest) = Place::fitting(None, &[LEFT]);
        assert_eq!((first.size, first.corner), (FIRST, None));
        assert_eq!(smallest, SMALLEST);

        let tiny = screen(0.0, 1000.0, 600.0);
        let (first, smallest) = Place::fitting(None, &[tiny]);
        assert_eq!((first.size, smallest), (tiny.size, tiny.size));
    }

    #[test]
    fn a_kept_window_is_where_it_was() {
        let kept = place(1930.0, 10.0, 1100.0, 700.0);
        assert_eq!(Place::fitting(Some(kept), &[LEFT, RIGHT]).0, kept);
    }

    #[test]
    fn a_window_on_a_screen_that_is_gone_comes_to_the_middle_of_another() {
        for lost in [place(1930.0, 10.0, 1100.0, 700.0), place(100.0, -300.0, 1100.0, 700.0)] {
            let (place, _) = Place::fitting(Some(lost), &[LEFT]);
            assert_eq!((place.size, place.corner), (lost.size, None));
        }
    }

    #[test]
    fn sizes_that_make_no_sense_are_mended() {
        let (mended, _) = Place::fitting(Some(place(0.0, 0.0, 9000.0, 10.0)), &[LEFT]);
        assert_eq!(mended.size, Size { width: 1920.0, height: 680.0 });
    }

    #[test]
    fn a_maximised_window_remembers_the_size_before() {
        let folder = tempfile::tempdir().unwrap();
        let keeper = Keeper::at(folder.path().join("window.json")).unwrap();
        assert_eq!(keeper.read(), None);
        let normal = place(10.0, 20.0, 1200.0, 800.0);
        keeper.note(normal);
        keeper.note(Place { maximised: true, ..place(0.0, 0.0, 1920.0, 1080.0) });
        keeper.write();
        assert_eq!(keeper.read(), Some(Place { maximised: true, ..normal }));
        fs::write(folder.path().join("window.json"), "{").unwrap();
        assert_eq!(keeper.read(), None);
    }
}
