//! Covers: a picture of what a model makes, from the person, or from beside the file.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    path::PathBuf,
};

use fs_err as fs;

use super::{Cards, reading::Reading, rows};
use crate::{
    Code, Error, Result, db,
    files::{self, Existing},
    gallery,
};

/// Longest side of a cover, in pixels.
const SIDE: u32 = 512;

/// Another number for another picture; `None` if there is none.
pub(super) fn revision(own: Option<&str>, reading: &Reading) -> Option<u32> {
    let mut hasher = DefaultHasher::new();
    match own {
        Some(name) => name.hash(&mut hasher),
        None => reading.cover_stamp()?.hash(&mut hasher),
    }
    // Enough of it to be another with near certainty, and whole in JavaScript.
    Some((hasher.finish() >> 32) as u32)
}

impl Cards {
    /// A card's cover, no longer than [`SIDE`], as JPEG.
    pub(crate) fn cover(&self, id: u32) -> Result<Vec<u8>> {
        let nothing = || Error::new(Code::MissingFile, "there is no cover");
        let file = self.file(id)?;
        let own = match &file.sha256 {
            Some(sha256) => rows::cover(&self.0.db.lock(), sha256)?,
            None => None,
        };
        if let Some(own) = own {
            return Ok(fs::read(self.0.data.covers().join(own))?);
        }
        let revision = revision(None, &file.reading).ok_or_else(nothing)?;
        let kept = self.0.data.cache.join("covers").join(format!("{id}-{revision}.jpg"));
        if let Ok(bytes) = fs::read(&kept) {
            return Ok(bytes);
        }
        let bytes = gallery::scaled(file.reading.cover.as_ref().ok_or_else(nothing)?, SIDE)?;
        // Failing to keep it costs time later, and nothing else.
        let written = files::prepare_folder(files::folder_of(&kept)).and_then(|()| {
            Ok(files::write(&kept, Existing::Replace, |file| file.write_all(&bytes))?)
        });
        if let Err(error) = written {
            tracing::warn!("{error}");
        }
        Ok(bytes)
    }

    /// Makes a picture a card's cover, or takes the person's one away.
    pub(crate) fn set_cover(&self, id: u32, picture: Option<PathBuf>) -> Result<()> {
        let sha256 = self.sha256(id)?;
        let folder = self.0.data.covers();
        let name = match picture {
            Some(picture) => {
                let name = format!("{}-{}.jpg", &sha256[..16], db::now());
                let bytes = gallery::scaled(&picture, SIDE)?;
                files::write(&folder.join(&name), Existing::Keep, |file| file.write_all(&bytes))?;
                Some(name)
            }
            None => None,
        };
        let before = rows::set_cover(&self.0.db.lock(), &sha256, name.as_deref())?;
        if let Some(before) = before
            && let Err(error) = fs::remove_file(folder.join(before))
        {
            tracing::warn!("an old cover stays: {error}");
        }
        self.changed();
        Ok(())
    }
}
