//! Writing files so that none is ever half-written.
//!
//! A file is written under a temporary name in its own folder, flushed to the disk, and only then given
//! its name. Whatever fails on the way (a full disk, a crash, the plug) leaves no file of that name, or
//! the old one as it was.

use std::{
    ffi::OsStr,
    fmt::Display,
    io::{self, BufWriter, Write},
    path::Path,
    time::{Duration, SystemTime},
};

use fs_err as fs;
use tempfile::{Builder, NamedTempFile};

use crate::{Code, Error, Result, db};

const PREFIX: &str = ".impasto-";
const SUFFIX: &str = ".tmp";

/// Space that is left for everything else, in bytes.
const SPARE: u64 = 64 << 20;

/// What becomes of a file that already has the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and writing fails with [`io::ErrorKind::AlreadyExists`].
    Keep,
    /// It is replaced, in one step.
    Replace,
}

/// Writes a whole file or nothing.
///
/// # Errors
/// Names the file and the reason.
pub fn write(
    path: &Path,
    existing: Existing,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let explain = |error: &dyn Display, kind| {
        io::Error::new(kind, format!("cannot write `{}`: {error}", path.display()))
    };
    let attempt = || -> io::Result<()> {
        let mut file = temporary(folder_of(path))?;
        let mut writer = BufWriter::with_capacity(1 << 20, file.as_file_mut());
        content(&mut writer)?;
        writer.flush()?;
        drop(writer);
        file.as_file().sync_all()?;
        match existing {
            Existing::Keep => file.persist_noclobber(path)?,
            Existing::Replace => file.persist(path)?,
        };
        Ok(())
    };
    attempt().map_err(|error| explain(&error, error.kind()))
}

/// Makes a whole folder or nothing. One that is there is never replaced.
///
/// # Errors
/// Names the folder and the reason; [`io::ErrorKind::AlreadyExists`] if there is one.
pub fn write_folder(path: &Path, content: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let check_free = || match path.exists() {
        true => Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is there already")),
        false => Ok(()),
    };
    let attempt = || -> io::Result<()> {
        check_free()?;
        // It goes away by itself. The folder inside of it is as readable as any other.
        let temporary = temporaries().tempdir_in(folder_of(path))?;
        let whole = temporary.path().join("model");
        fs::create_dir(&whole)?;
        content(&whole)?;
        // A folder that is empty would be replaced.
        check_free()?;
        fs::rename(&whole, path)
    };
    attempt().map_err(|error| {
        io::Error::new(error.kind(), format!("cannot write `{}`: {error}", path.display()))
    })
}

/// Makes sure that a folder exists and can be written to, before any work is done for it.
///
/// # Errors
/// Names the folder and the reason.
pub fn prepare_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    temporary(folder).map(drop).map_err(|error| {
        let message = format!("cannot write to the folder `{}`: {error}", folder.display());
        io::Error::new(error.kind(), message).into()
    })
}

/// The folder that a file is in.
#[must_use]
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Bytes that can be written to a folder's disk, where the system tells.
#[cfg(unix)]
#[must_use]
pub fn free_space(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Bytes that can be written to a folder's disk, where the system tells.
#[cfg(not(unix))]
#[must_use]
pub fn free_space(_: &Path) -> Option<u64> {
    None
}

/// Fails if there is no room for some bytes: before anything is written.
pub(crate) fn check_room(folder: &Path, bytes: u64, what: &str) -> Result<()> {
    check_free(free_space(folder), folder, bytes, what)
}

fn check_free(free: Option<u64>, folder: &Path, bytes: u64, what: &str) -> Result<()> {
    match free {
        Some(free) if bytes.saturating_add(SPARE) > free => {
            let gb = |bytes: u64| bytes as f64 / 1e9;
            let message = format!(
                "there is no room for {what}: it takes {:.2} GB, and {:.2} GB are free in `{}`",
                gb(bytes),
                gb(free),
                folder.display()
            );
            Err(Error::new(Code::Unknown, message)
                .hint("free some space, or choose another folder"))
        }
        _ => Ok(()),
    }
}

/// When a file was last changed, in milliseconds since 1970, and its size.
pub(crate) fn stamp(path: &Path) -> io::Result<(i64, i64)> {
    let metadata = fs::metadata(path)?;
    let modified = jiff::Timestamp::try_from(metadata.modified()?)
        .map_or_else(|_| db::now(), jiff::Timestamp::as_millisecond);
    Ok((modified, i64::try_from(metadata.len()).unwrap_or(i64::MAX)))
}

/// Names of what goes away by itself unless it is given a name, or the program is killed.
pub(crate) fn temporaries<'a>() -> Builder<'a, 'a> {
    let mut builder = Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX);
    builder
}

/// Whether a name is one of [`temporaries`].
pub(crate) fn is_temporary(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX))
}

/// Takes away what a killed program left half-written in a folder. What is younger than `age` may be
/// another program's at work, and stays; answers whether there is any.
pub(crate) fn sweep(folder: &Path, age: Duration) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    let mut young = false;
    for entry in entries.flatten().filter(|entry| is_temporary(&entry.file_name())) {
        let Ok(status) = entry.metadata() else { continue };
        let old = status.modified().is_ok_and(|modified| {
            SystemTime::now().duration_since(modified).is_ok_and(|since| since >= age)
        });
        let swept = match (old || age.is_zero(), status.is_dir()) {
            (false, _) => {
                young = true;
                continue;
            }
            (true, true) => fs::remove_dir_all(entry.path()),
            (true, false) => fs::remove_file(entry.path()),
        };
        match swept {
            Ok(()) => tracing::info!("`{}` was left half-written", entry.path().display()),
            Err(error) => tracing::warn!("what was left half-written stays: {error}"),
        }
    }
    young
}

/// A file that goes away by itself unless it is given a name.
fn temporary(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = temporaries();
    // A picture is for whoever may read the folder; temporary files are private otherwise. The umask
    // still applies.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_failure_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let error = write(&path, Existing::Replace, |writer| {
            writer.write_all(&[0; 3 << 20])?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().contains("a.png"), "{error}");
        assert_eq!(names(folder.path()), [""; 0]);
        let hint = crate::Error::from(error).suggestion().unwrap().to_owned();
        assert!(hint.contains("full"), "{hint}");
    }

    #[test]
    fn existing_files_are_kept_unless_they_may_be_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write(&path, Existing::Keep, |writer| writer.write_all(b"one")).unwrap();
        let error = write(&path, Existing::Keep, |writer| writer.write_all(b"two")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        write(&path, Existing::Replace, |writer| writer.write_all(b"two")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn folders_written_at_once_leave_each_other_alone() {
        let parent = tempfile::tempdir().unwrap();
        let (one, two) = (parent.path().join("one"), parent.path().join("two"));
        write_folder(&one, |inside| {
            fs::write(inside.join("weights"), b"one")?;
            let error = write_folder(&two, |inside| {
                fs::write(inside.join("weights"), b"two")?;
                Err(io::ErrorKind::StorageFull.into())
            });
            assert_eq!(error.unwrap_err().kind(), io::ErrorKind::StorageFull);
            fs::write(inside.join("config"), b"one")
        })
        .unwrap();
        assert_eq!(fs::read(one.join("weights")).unwrap(), b"one");
        assert_eq!(names(parent.path()), ["one"]);
        let error = write_folder(&one, |_| Ok(())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(one.join("config")).unwrap(), b"one");
    }

    #[test]
    fn what_was_left_half_written_goes_when_nobody_can_be_at_it() {
        let folder = tempfile::tempdir().unwrap();
        let left = temporary(folder.path()).unwrap().into_temp_path().keep().unwrap();
        let copy = temporaries().tempdir_in(folder.path()).unwrap().keep();
        fs::write(copy.join("model"), b"half").unwrap();
        fs::write(folder.path().join("kept"), b"x").unwrap();
        assert!(sweep(folder.path(), Duration::from_secs(60)), "both are young");
        assert!(left.exists() && copy.exists());
        assert!(!sweep(folder.path(), Duration::ZERO));
        assert_eq!(names(folder.path()), ["kept"]);
        assert!(!sweep(&folder.path().join("nowhere"), Duration::ZERO));
    }

    #[test]
    fn a_full_disk_is_noticed_in_time() {
        let check = |free, bytes| check_free(free, Path::new("models"), bytes, "the new file");
        assert!(check(None, 1 << 40).is_ok(), "the system does not tell");
        assert!(check(Some(1 << 30), 1 << 20).is_ok());
        let error = check(Some(70_000_000), 7_000_000_000).unwrap_err();
        assert_eq!(
            error.message(),
            "there is no room for the new file: it takes 7.00 GB, and 0.07 GB are free in `models`"
        );
    }

    #[cfg(unix)]
    #[test]
    fn files_are_as_readable_as_any_other() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
        write(&ours, Existing::Keep, |writer| writer.write_all(b"x")).unwrap();
        fs::write(&plain, b"x").unwrap();
        let mode = |path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }

    #[test]
    fn a_file_in_place_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"x").unwrap();
        assert!(prepare_folder(&path).is_err());
        assert!(prepare_folder(&path.join("below")).is_err());
        prepare_folder(&folder.path().join("new/below")).unwrap();
    }
}
