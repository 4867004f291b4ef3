//! The queue: pictures that are wanted, in order, in the database.
//!
//! A job is one picture. It is `queued`, then `running`, then one of `done`, `failed` and `cancelled`;
//! a job that was running when the program died is `interrupted`. Jobs that ended stay in the list
//! until they are dismissed, done ones until the next start.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use ts_rs::TS;

use crate::{Code, Error, Failure, GenerationParams, Result, db, gallery, sheet};

/// One picture that is wanted.
#[derive(Debug, Clone, PartialEq, Serialize, TS)]
pub struct Job {
    /// Counts up, never used again.
    pub id: u32,
    /// Where it is on its way.
    pub state: JobState,
    /// What is wanted, with a seed.
    pub params: GenerationParams,
    /// The picture that it made.
    pub image: Option<u32>,
    /// Why it failed.
    pub error: Option<Failure>,
    /// Milliseconds since 1970.
    pub created_at: i64,
    /// The sheet that it is a cell of.
    pub sheet: Option<u32>,
}

/// Where a job is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// It waits.
    Queued,
    /// It is being made.
    Running,
    /// The picture is there.
    Done,
    /// See its error.
    Failed,
    /// The person stopped it.
    Cancelled,
    /// The program ended before it did.
    Interrupted,
}

/// What the engine is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, TS)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Reading the base model.
    Load,
    /// Applying the stack.
    Patch,
    /// Encoding the prompts.
    Encode,
    /// Calling the UNet.
    Sample,
    /// Decoding the latents.
    Decode,
}

impl From<engine::Phase> for Phase {
    fn from(phase: engine::Phase) -> Phase {
        match phase {
            engine::Phase::Load => Phase::Load,
            engine::Phase::Patch => Phase::Patch,
            engine::Phase::Encode => Phase::Encode,
            engine::Phase::Sample => Phase::Sample,
            engine::Phase::Decode => Phase::Decode,
        }
    }
}

/// How far a running job is.
#[derive(Debug, Clone, PartialEq, Serialize, TS)]
pub struct JobProgress {
    /// Its id.
    pub job: u32,
    /// What the engine is doing.
    pub phase: Phase,
    /// Units of work done in this phase.
    pub done: u32,
    /// Units of work in this phase.
    pub total: u32,
    /// Sampler steps begun; 0 outside [`Phase::Sample`].
    pub step: u32,
    /// Sampler steps in all.
    pub steps: u32,
    /// Revision of `preview/JOB`, once there is one.
    pub preview: Option<u32>,
    /// Until the picture is there, once that can be told.
    pub seconds_left: Option<f64>,
}

impl JobState {
    fn name(self) -> &'static str {
        match self {
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Done => "done",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
            JobState::Interrupted => "interrupted",
        }
    }

    pub(crate) fn of(name: &str) -> JobState {
        match name {
            "queued" => JobState::Queued,
            "running" => JobState::Running,
            "done" => JobState::Done,
            "cancelled" => JobState::Cancelled,
            "interrupted" => JobState::Interrupted,
            _ => JobState::Failed,
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn ended(self) -> bool {
        !matches!(self, JobState::Queued | JobState::Running)
    }
}

const COLUMNS: &str = "id, state, params, image, error, created_at,
    (SELECT sheet FROM sheet_cell WHERE sheet_cell.job = job.id)";

fn job(row: &Row<'_>) -> rusqlite::Result<Job> {
    let params: String = row.get(2)?;
    let error: Option<String> = row.get(4)?;
    let mut state = JobState::of(&row.get::<_, String>(1)?);
    let mut error = error.and_then(|json| serde_json::from_str(&json).ok());
    let params = gallery::params_of(&params).unwrap_or_else(|| {
        // Written by a program of another time.
        state = JobState::Failed;
        error = Some(Failure::from(&Error::new(Code::Unknown, "this job cannot be read any more")));
        GenerationParams::default()
    });
    let (id, image, created_at, sheet) = (row.get(0)?, row.get(3)?, row.get(5)?, row.get(6)?);
    Ok(Job { id, state, params, image, error, created_at, sheet })
}

/// Adds a job at the end.
pub(crate) fn add(db: &Connection, params: &GenerationParams) -> Result<Job> {
    let created_at = db::now();
    db.execute(
        "INSERT INTO job (position, state, params, created_at)
         VALUES ((SELECT ifnull(max(position), 0) + 1 FROM job), 'queued', ?1, ?2)",
        params![params.to_json().to_string(), created_at],
    )?;
    let id = u32::try_from(db.last_insert_rowid()).unwrap_or(u32::MAX);
    get(db, id)
}

/// A job that must be there.
pub(crate) fn get(db: &Connection, id: u32) -> Result<Job> {
    let sql = format!("SELECT {COLUMNS} FROM job WHERE id = ?1");
    db.query_row(&sql, [id], job).optional()?.ok_or_else(|| {
        Error::new(Code::MissingFile, format!("there is no job {id}"))
            .hint("it was taken out of the list")
    })
}

/// All jobs, in the order in which they were wanted.
pub(crate) fn all(db: &Connection) -> Result<Vec<Job>> {
    let sql = format!("SELECT {COLUMNS} FROM job ORDER BY position");
    let mut statement = db.prepare(&sql)?;
    Ok(statement.query_map([], job)?.collect::<Result<_, _>>()?)
}

/// Ids of queued jobs, in order.
pub(crate) fn order(db: &Connection) -> Result<Vec<u32>> {
    let mut statement =
        db.prepare_cached("SELECT id FROM job WHERE state = 'queued' ORDER BY position")?;
    Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

/// Names of model files that queued jobs need, the next job's first.
pub(crate) fn wanted(db: &Connection) -> Result<Vec<String>> {
    const JOBS: u32 = 16;
    let mut statement = db.prepare_cached(
        "SELECT params FROM job WHERE state IN ('queued', 'running') ORDER BY position LIMIT ?1",
    )?;
    let rows = statement.query_map([JOBS], |row| row.get::<_, String>(0))?;
    let mut names = Vec::new();
    for params in rows {
        let Ok(params) = serde_json::from_str::<GenerationParams>(&params?) else { continue };
        let adapters = params.adapters.into_iter().map(|adapter| adapter.file);
        names.extend(adapters.chain([params.model]).chain(params.vae).map(|file| file.name));
    }
    Ok(names)
}

/// Takes the first queued job and marks it as running.
pub(crate) fn take(db: &Connection) -> Result<Option<Job>> {
    let first = db
        .query_row(
            "UPDATE job SET state = 'running' WHERE id =
                 (SELECT id FROM job WHERE state = 'queued' ORDER BY position LIMIT 1)
             RETURNING id",
            [],
            |row| row.get(0),
        )
        .optional()?;
    first.map(|id| get(db, id)).transpose()
}

/// Ends a job, or changes its state otherwise.
pub(crate) fn set(
    db: &Connection,
    id: u32,
    state: JobState,
    image: Option<u32>,
    error: Option<&Failure>,
) -> Result<Job> {
    let error = error.map(|error| serde_json::to_string(error).unwrap_or_default());
    db.execute(
        "UPDATE job SET state = ?2, image = ?3, error = ?4 WHERE id = ?1",
        params![id, state.name(), image, error],
    )?;
    if let Some(image) = image {
        sheet::keep_image(db, id, image)?;
    }
    get(db, id)
}

/// Puts a job that ended without a picture at the end of the queue.
pub(crate) fn again(db: &Connection, id: u32) -> Result<Job> {
    let job = get(db, id)?;
    if !job.state.ended() || job.state == JobState::Done {
        return Err(Error::new(Code::Unknown, "this picture is made or being made already"));
    }
    db.execute(
        "UPDATE job SET position = (SELECT max(position) + 1 FROM job) WHERE id = ?1",
        [id],
    )?;
    set(db, id, JobState::Queued, None, None)
}

/// Takes a job that ended out of the list.
pub(crate) fn remove(db: &Connection, id: u32) -> Result<()> {
    db.execute("DELETE FROM job WHERE id = ?1 AND state NOT IN ('queued', 'running')", [id])?;
    Ok(())
}

/// Moves a queued job before another, or to the end.
pub(crate) fn place(db: &mut Connection, id: u32, before: Option<u32>) -> Result<()> {
    let mut order = order(db)?;
    let Some(at) = order.iter().position(|&other| other == id) else {
        return Err(Error::new(Code::Unknown, "only a job that waits can be moved"));
    };
    order.remove(at);
    let to = before.and_then(|before| order.iter().position(|&other| other == before));
    order.insert(to.unwrap_or(order.len()), id);

    // The waiting jobs share the positions that they have.
    let transaction = db.transaction()?;
    let mut positions: Vec<i64> = Vec::with_capacity(order.len());
    for id in &order {
        positions.push(transaction.query_row(
            "SELECT position FROM job WHERE id = ?1",
            [id],
            |row| row.get(0),
        )?);
    }
    positions.sort_unstable();
    for (id, position) in order.iter().zip(positions) {
        transaction.execute("UPDATE job SET position = ?2 WHERE id = ?1", params![id, position])?;
    }
    transaction.commit()?;
    Ok(())
}

/// What a start does: running jobs become interrupted, done ones leave the list.
pub(crate) fn recover(db: &Connection) -> Result<()> {
    db.execute("UPDATE job SET state = 'interrupted' WHERE state = 'running'", [])?;
    db.execute("DELETE FROM job WHERE state IN ('done', 'cancelled')", [])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Db;

    fn with_jobs(test: impl FnOnce(&mut Connection, Vec<u32>)) {
        let folder = tempfile::tempdir().unwrap();
        let (db, _) = Db::open(&folder.path().join("studio.db")).unwrap();
        let mut db = db.lock();
        let ids = (0..4)
            .map(|seed| {
                let params = GenerationParams { seed: Some(seed), ..GenerationParams::default() };
                add(&db, &params).unwrap().id
            })
            .collect();
        test(&mut db, ids);
    }

    #[test]
    fn jobs_are_taken_in_order() {
        with_jobs(|db, ids| {
            assert_eq!(order(db).unwrap(), ids);
            let first = take(db).unwrap().unwrap();
            assert_eq!((first.id, first.state), (ids[0], JobState::Running));
            assert_eq!(first.params.seed, Some(0));
            assert_eq!(take(db).unwrap().unwrap().id, ids[1]);
            assert_eq!(order(db).unwrap(), ids[2..]);
        });
    }

    #[test]
    fn jobs_can_be_moved() {
        with_jobs(|db, ids| {
            place(db, ids[3], Some(ids[1])).unwrap();
            assert_eq!(order(db).unwrap(), [ids[0], ids[3], ids[1], ids[2]]);
            place(db, ids[0], None).unwrap();
            assert_eq!(order(db).unwrap(), [ids[3], ids[1], ids[2], ids[0]]);
            take(db).unwrap();
            assert!(place(db, ids[3], None).is_err());
        });
    }

    #[test]
    fn a_crash_interrupts_and_nothing_is_lost() {
        with_jobs(|db, ids| {
            take(db).unwrap();
            take(db).unwrap();
            take(db).unwrap();
            set(db, ids[0], JobState::Done, Some(7), None).unwrap();
            recover(db).unwrap();
            let states: Vec<_> =
                all(db).unwrap().into_iter().map(|job| (job.id, job.state)).collect();
            use JobState::{Interrupted, Queued};
            // Several workers had one each.
            assert_eq!(states, [(ids[1], Interrupted), (ids[2], Interrupted), (ids[3], Queued)]);
            again(db, ids[1]).unwrap();
            assert_eq!(order(db).unwrap(), [ids[3], ids[1]]);
            assert!(again(db, ids[1]).is_err());
        });
    }
}
