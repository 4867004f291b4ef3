//! What the database knows of model files: readings that can be made again, and what the person said.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    reading::{Reading, Stamp},
    types::ModelNote,
};
use crate::{Prediction, Result, db};

/// A file that was read before.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) id: u32,
    pub(super) stamp: Stamp,
    pub(super) sha256: Option<String>,
    pub(super) pigment: u8,
    /// `None` if an older program read it.
    pub(super) reading: Option<Reading>,
}

/// Everything that was read before, by path.
pub(super) fn files(db: &Connection) -> Result<HashMap<PathBuf, Row>> {
    let mut statement =
        db.prepare("SELECT path, id, size, modified, sha256, pigment, card FROM model_file")?;
    let rows = statement.query_map([], |row| {
        let (path, card): (String, String) = (row.get(0)?, row.get(6)?);
        let reading = Reading::kept(&card);
        let stamp = Stamp { size: row.get(2)?, modified: row.get(3)? };
        let (id, sha256, pigment) = (row.get(1)?, row.get(4)?, row.get(5)?);
        Ok((path.into(), Row { id, stamp, sha256, pigment, reading }))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Keeps a reading; gives the file's id. A hash that is known stays if the file is the same.
pub(super) fn keep(
    db: &Connection,
    path: &Path,
    stamp: Stamp,
    pigment: u8,
    reading: &Reading,
) -> Result<(u32, u8, Option<String>)> {
    let card = serde_json::to_string(reading).expect("a reading is plain data");
    Ok(db.query_row(
        "INSERT INTO model_file (path, size, modified, sha256, pigment, card)
         VALUES (?1, ?2, ?3, NULL, ?4, ?5)
         ON CONFLICT (path) DO UPDATE SET
             sha256 = iif(size = ?2 AND modified = ?3, sha256, NULL),
             size = ?2, modified = ?3, card = ?5
         RETURNING id, pigment, sha256",
        params![path.to_string_lossy(), stamp.size, stamp.modified, pigment, card],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?)
}

pub(super) fn set_sha256(db: &Connection, id: u32, sha256: &str) -> Result<()> {
    db.execute("UPDATE model_file SET sha256 = ?2 WHERE id = ?1", params![id, sha256])?;
    Ok(())
}

/// The file is elsewhere now, with the same contents.
pub(super) fn set_place(db: &Connection, id: u32, path: &Path, stamp: Stamp) -> Result<()> {
    let path = path.to_string_lossy();
    // What the watch may have found there meanwhile is the same file.
    db.execute("DELETE FROM model_file WHERE path = ?2 AND id != ?1", params![id, path])?;
    db.execute(
        "UPDATE model_file SET path = ?2, size = ?3, modified = ?4 WHERE id = ?1",
        params![id, path, stamp.size, stamp.modified],
    )?;
    Ok(())
}

pub(super) fn forget(db: &Connection, id: u32) -> Result<()> {
    db.execute("DELETE FROM model_file WHERE id = ?1", [id])?;
    Ok(())
}

/// Models that are used where they lie, in the order in which they came.
pub(super) fn placed(db: &Connection) -> Result<Vec<PathBuf>> {
    let mut statement = db.prepare("SELECT path FROM placed_model ORDER BY placed_at, path")?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
    rows.map(|path| Ok(path?.into())).collect()
}

pub(super) fn place(db: &Connection, path: &Path) -> Result<()> {
    db.execute(
        "INSERT INTO placed_model (path, placed_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        params![path.to_string_lossy(), db::now()],
    )?;
    Ok(())
}

pub(super) fn take_away(db: &Connection, path: &Path) -> Result<()> {
    db.execute("DELETE FROM placed_model WHERE path = ?1", [path.to_string_lossy()])?;
    Ok(())
}

/// Folders of other programs about which the person was asked, and answered.
pub(super) fn answered_offers(db: &Connection) -> Result<BTreeSet<PathBuf>> {
    let mut statement = db.prepare("SELECT path FROM answered_offer")?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
    rows.map(|path| Ok(path?.into())).collect()
}

pub(super) fn answer_offer(db: &Connection, path: &Path) -> Result<()> {
    db.execute(
        "INSERT INTO answered_offer (path) VALUES (?1) ON CONFLICT DO NOTHING",
        [path.to_string_lossy()],
    )?;
    Ok(())
}

/// What the person said of a file, and the cover that they chose.
#[derive(Debug, Clone, Default)]
pub(super) struct Said {
    pub(super) note: ModelNote,
    /// Its name in the folder of covers.
    pub(super) cover: Option<String>,
}

/// What the person said, by hash.
pub(super) fn said(db: &Connection) -> Result<HashMap<String, Said>> {
    let mut statement = db.prepare(
        "SELECT sha256, title, trigger_words, default_weight, pigment, cover, prediction, acceleration
         FROM model_note",
    )?;
    let rows = statement.query_map([], |row| {
        let words: Option<String> = row.get(2)?;
        let note = ModelNote {
            title: row.get(1)?,
            trigger_words: words.and_then(|words| serde_json::from_str(&words).ok()),
            default_weight: row.get(3)?,
            pigment: row.get(4)?,
            prediction: row.get::<_, Option<String>>(6)?.and_then(prediction),
            acceleration: row.get(7)?,
        };
        Ok((row.get(0)?, Said { note, cover: row.get(5)? }))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn say(db: &Connection, sha256: &str, note: &ModelNote) -> Result<()> {
    let words = note.trigger_words.as_ref().map(|words| serde_json::json!(words).to_string());
    db.execute(
        "INSERT INTO model_note
             (sha256, title, trigger_words, default_weight, pigment, prediction, acceleration)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (sha256) DO UPDATE SET
             title = ?2, trigger_words = ?3, default_weight = ?4, pigment = ?5, prediction = ?6,
             acceleration = ?7",
        params![
            sha256,
            note.title,
            words,
            note.default_weight,
            note.pigment,
            note.prediction
                .and_then(|prediction| serde_json::json!(prediction).as_str().map(str::to_owned)),
            note.acceleration
        ],
    )?;
    Ok(())
}

/// As a recipe has it; what a newer program may have written says nothing.
fn prediction(text: String) -> Option<Prediction> {
    serde_json::from_value(text.into()).ok()
}

/// What the person says that base models predict, by hash.
pub(super) fn predictions(db: &Connection) -> Result<BTreeMap<String, Prediction>> {
    let notes = said(db)?.into_iter();
    Ok(notes.filter_map(|(sha256, said)| Some((sha256, said.note.prediction?))).collect())
}

/// The cover that the person chose for a file.
pub(super) fn cover(db: &Connection, sha256: &str) -> Result<Option<String>> {
    let mut statement = db.prepare_cached("SELECT cover FROM model_note WHERE sha256 = ?1")?;
    let cover: Option<Option<String>> =
        statement.query_row([sha256], |row| row.get(0)).optional()?;
    Ok(cover.flatten())
}

/// Sets or takes away a cover; gives the one before.
pub(super) fn set_cover(
    db: &Connection,
    sha256: &str,
    cover: Option<&str>,
) -> Result<Option<String>> {
    let before = self::cover(db, sha256)?;
    db.execute(
        "INSERT INTO model_note (sha256, cover) VALUES (?1, ?2)
         ON CONFLICT (sha256) DO UPDATE SET cover = ?2",
        params![sha256, cover],
    )?;
    Ok(before)
}

/// When files were last used, by hash, in milliseconds since 1970.
pub(super) fn uses(db: &Connection) -> Result<HashMap<String, i64>> {
    let mut statement = db.prepare("SELECT sha256, used_at FROM model_use")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn used(db: &Connection, sha256: &str) -> Result<()> {
    db.execute(
        "INSERT INTO model_use (sha256, used_at) VALUES (?1, ?2)
         ON CONFLICT (sha256) DO UPDATE SET used_at = ?2",
        params![sha256, db::now()],
    )?;
    Ok(())
}
