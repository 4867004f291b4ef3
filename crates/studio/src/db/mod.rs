//! The database: what the person owns, and an index of what can be found again.
//!
//! | Table | |
//! |---|---|
//! | `job`, `session`, `stack`, `image_note`, `model_note`, `model_use`, `placed_model`, `answered_offer`, `sheet`, `sheet_cell` | the person's own; never dropped |
//! | `image`, `image_adapter`, `model_file` | can be rebuilt from the files |
//!
//! Migrations only add, so that an older program still opens the database of a newer one. A database
//! that cannot be opened is set aside under a dated name and never deleted.
//!
//! **Invariant:** one connection, behind a mutex, in the one program that holds the data folder's lock.

use std::{
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use fs_err as fs;
use rusqlite::Connection;

use crate::{Result, event::Notice};

/// What turns a database of version `n` (counting from 0) into one of the next.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE job (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        position INTEGER NOT NULL,
        state TEXT NOT NULL,
        params TEXT NOT NULL,
        image INTEGER,
        error TEXT,
        created_at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX job_order ON job (state, position);
    CREATE TABLE session (id INTEGER PRIMARY KEY CHECK (id = 1), json TEXT NOT NULL) STRICT;
    CREATE TABLE stack (name TEXT PRIMARY KEY, json TEXT NOT NULL, saved_at INTEGER NOT NULL) STRICT;
    CREATE TABLE image_note (path TEXT PRIMARY KEY, favourite INTEGER NOT NULL) STRICT;
    CREATE TABLE model_note (
        sha256 TEXT PRIMARY KEY,
        title TEXT,
        trigger_words TEXT,
        default_weight REAL,
        pigment INTEGER,
        cover TEXT
    ) STRICT;
    CREATE TABLE model_use (sha256 TEXT PRIMARY KEY, used_at INTEGER NOT NULL) STRICT;
    CREATE TABLE placed_model (path TEXT PRIMARY KEY, placed_at INTEGER NOT NULL) STRICT;

    CREATE TABLE image (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        path TEXT NOT NULL UNIQUE,
        size INTEGER NOT NULL,
        modified INTEGER NOT NULL,
        width INTEGER NOT NULL,
        height INTEGER NOT NULL,
        params TEXT,
        ground TEXT,
        words TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        seconds REAL,
        device TEXT,
        patches TEXT,
        warnings TEXT,
        gone INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE INDEX image_age ON image (gone, created_at, id);
    CREATE TABLE image_adapter (
        image INTEGER NOT NULL REFERENCES image (id) ON DELETE CASCADE,
        name TEXT NOT NULL,
        PRIMARY KEY (image, name)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX image_adapter_name ON image_adapter (name, image);
    CREATE TABLE model_file (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        path TEXT NOT NULL UNIQUE,
        size INTEGER NOT NULL,
        modified INTEGER NOT NULL,
        sha256 TEXT,
        pigment INTEGER NOT NULL,
        card TEXT NOT NULL
    ) STRICT;
", "
    CREATE TABLE answered_offer (path TEXT PRIMARY KEY) STRICT;
    ALTER TABLE model_note ADD COLUMN prediction TEXT;
", "
    CREATE TABLE sheet (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        title TEXT NOT NULL,
        params TEXT NOT NULL,
        axes TEXT NOT NULL,
        columns INTEGER NOT NULL,
        cells INTEGER NOT NULL,
        created_at INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE sheet_cell (
        sheet INTEGER NOT NULL REFERENCES sheet (id) ON DELETE CASCADE,
        place INTEGER NOT NULL,
        job INTEGER NOT NULL,
        image INTEGER,
        PRIMARY KEY (sheet, place)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX sheet_cell_job ON sheet_cell (job);
", "
    ALTER TABLE model_note ADD COLUMN acceleration TEXT;
"];

/// The one connection.
#[derive(Debug)]
pub(crate) struct Db(Mutex<Connection>);

impl Db {
    /// Opens the database, or sets one aside that cannot be opened and begins a new one; then the
    /// notice says so.
    pub(crate) fn open(path: &Path) -> Result<(Db, Option<Notice>)> {
        let broken = match connect(path) {
            Ok(connection) => return Ok((Db(Mutex::new(connection)), None)),
            Err(error) => error,
        };
        // A full disk or a folder that is read-only is no reason to begin anew.
        if !matches!(
            broken.sqlite_error_code(),
            Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt)
        ) {
            return Err(broken.into());
        }
        let aside = set_aside(path)?;
        let notice = Notice {
            message: format!(
                "The database was damaged ({broken}) and has been set aside as `{}`.",
                aside.display()
            ),
            hint: Some(
                "Your pictures and models are untouched; the queue, saved stacks and notes begin \
                 anew."
                    .into(),
            ),
        };
        Ok((Db(Mutex::new(connect(path)?)), Some(notice)))
    }

    /// The connection, for one piece of work.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic between two statements leaves a transaction that is rolled back: no harm.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // With WAL, a power failure then costs the last moment at most and never the database.
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    let healthy: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if healthy != "ok" {
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
            Some(healthy),
        ));
    }
    migrate(&mut connection)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(version as usize) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", index as u32 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Renames the database and its journal; gives the new name.
fn set_aside(path: &Path) -> Result<std::path::PathBuf> {
    let now = jiff::ZonedDateTime::now().strftime("%Y-%m-%d-%H%M%S").to_string();
    let aside = path.with_file_name(format!("studio-{now}.db"));
    for suffix in ["", "-wal", "-shm"] {
        let with = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            std::path::PathBuf::from(name)
        };
        if with(path).exists() {
            fs::rename(with(path), with(&aside))?;
        }
    }
    Ok(aside)
}

/// Milliseconds since 1970.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_database_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("studio.db");
        fs::write(&path, "this is no database, however long one looks at it".repeat(100)).unwrap();
        let (db, notice) = Db::open(&path).unwrap();
        assert!(notice.expect("it says so").message.contains("set aside"));
        let jobs: i64 =
            db.lock().query_row("SELECT count(*) FROM job", [], |row| row.get(0)).unwrap();
        assert_eq!(jobs, 0);
        let names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("studio-"))
            .collect();
        assert_eq!(names.len(), 1, "{names:?}");
        let kept = fs::read_to_string(folder.path().join(&names[0])).unwrap();
        assert!(kept.starts_with("this is no database"));
    }

    #[test]
    fn what_was_written_is_there_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("studio.db");
        let (db, _) = Db::open(&path).unwrap();
        db.lock().execute("INSERT INTO session (id, json) VALUES (1, '{}')", []).unwrap();
        drop(db);
        let (db, notice) = Db::open(&path).unwrap();
        assert_eq!(notice, None);
        let json: String =
            db.lock().query_row("SELECT json FROM session", [], |row| row.get(0)).unwrap();
        assert_eq!(json, "{}");
    }
}
