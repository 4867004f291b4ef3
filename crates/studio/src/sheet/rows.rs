//! The tables of sheets: their queries.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Axes, Grid, Sheet, SheetCell, SheetEntry};
use crate::{
    Code, Error, Result, db, gallery,
    queue::{self, Job, JobState},
};

/// Adds a sheet and a job for each of its cells, in the order in which they are to be made.
pub(super) fn add(db: &Connection, grid: &Grid) -> Result<(u32, Vec<Job>)> {
    let axes = serde_json::to_string(&grid.axes).unwrap_or_default();
    db.execute(
        "INSERT INTO sheet (title, params, axes, columns, cells, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            grid.title(),
            grid.params.to_json().to_string(),
            axes,
            grid.columns() as u32,
            grid.cells() as u32,
            db::now()
        ],
    )?;
    let sheet = u32::try_from(db.last_insert_rowid()).unwrap_or(u32::MAX);
    let mut jobs = Vec::with_capacity(grid.cells());
    for place in grid.order() {
        let job = queue::add(db, &grid.cell(place))?;
        db.prepare_cached("INSERT INTO sheet_cell (sheet, place, job) VALUES (?1, ?2, ?3)")?
            .execute(params![sheet, place as u32, job.id])?;
        jobs.push(Job { sheet: Some(sheet), ..job });
    }
    Ok((sheet, jobs))
}

/// Gives a cell another job.
pub(super) fn set_job(db: &Connection, sheet: u32, place: usize, job: u32) -> Result<()> {
    db.prepare_cached("UPDATE sheet_cell SET job = ?3 WHERE sheet = ?1 AND place = ?2")?
        .execute(params![sheet, place as u32, job])?;
    Ok(())
}

/// Keeps the picture that a job made, if it is a cell of a sheet: jobs leave the list, cells stay.
pub(crate) fn keep_image(db: &Connection, job: u32, image: u32) -> Result<()> {
    db.prepare_cached("UPDATE sheet_cell SET image = ?2 WHERE job = ?1")?
        .execute(params![job, image])?;
    Ok(())
}

/// All sheets, the newest first.
pub(crate) fn all(db: &Connection) -> Result<Vec<SheetEntry>> {
    let mut statement = db.prepare_cached(
        "SELECT id, title, columns, cells / columns, created_at FROM sheet ORDER BY id DESC",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(SheetEntry {
            id: row.get(0)?,
            title: row.get(1)?,
            columns: row.get(2)?,
            rows: row.get(3)?,
            created_at: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A sheet that must be there.
pub(super) fn get(db: &Connection, id: u32) -> Result<Sheet> {
    let row: Option<(String, String, String, i64)> = db
        .prepare_cached("SELECT title, params, axes, created_at FROM sheet WHERE id = ?1")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?;
    let (title, params, axes, created_at) = row.ok_or_else(|| {
        Error::new(Code::MissingFile, "this sheet is gone").hint("it was deleted")
    })?;
    let unreadable =
        || Error::new(Code::Unknown, format!("the sheet “{title}” cannot be read any more"));
    let params = gallery::params_of(&params).ok_or_else(unreadable)?;
    let Axes { x, y } = serde_json::from_str(&axes).map_err(|error| unreadable().because(error))?;
    Ok(Sheet { id, cells: cells(db, id)?, title, params, x, y, created_at })
}

fn cells(db: &Connection, sheet: u32) -> Result<Vec<SheetCell>> {
    let mut statement = db.prepare_cached(
        "SELECT sheet_cell.job, job.state, sheet_cell.image IS NOT NULL,
             CASE WHEN image.gone = 0 THEN image.id END
         FROM sheet_cell
             LEFT JOIN job ON job.id = sheet_cell.job
             LEFT JOIN image ON image.id = sheet_cell.image
         WHERE sheet = ?1 ORDER BY place",
    )?;
    let rows = statement.query_map([sheet], |row| {
        let state: Option<String> = row.get(1)?;
        let made: bool = row.get(2)?;
        // A job that ended leaves the list by and by.
        let ended = if made { JobState::Done } else { JobState::Cancelled };
        let state = state.map_or(ended, |state| JobState::of(&state));
        Ok(SheetCell { job: row.get(0)?, state, image: row.get(3)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Takes a sheet out; its jobs and its pictures stay.
pub(super) fn remove(db: &Connection, id: u32) -> Result<()> {
    db.execute("DELETE FROM sheet WHERE id = ?1", [id])?;
    Ok(())
}
