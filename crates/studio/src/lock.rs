//! One studio per data folder.
//!
//! Whoever holds the lock on `impasto.lock` has the folder. A second start finds it taken, hands its
//! files over through the socket beside it, and ends. A lock goes with its program, however that ends,
//! so nothing has to be cleaned up.

use std::{
    fs::{File, TryLockError},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use fs_err as fs;

use crate::{Code, Error, Result};

/// The holder answers within this time, or is not well.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longer messages are not read: thousands of paths.
const MAX_MESSAGE: u64 = 4 << 20;

/// The right to a data folder, until it is dropped.
#[derive(Debug)]
pub(crate) struct FolderLock {
    _file: File,
    socket: PathBuf,
}

impl FolderLock {
    /// Takes the folder, or hands `files` over to the program that has it; then there is no lock.
    pub(crate) fn take(folder: &Path, files: &[PathBuf]) -> Result<Option<FolderLock>> {
        fs::create_dir_all(folder)?;
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(folder.join("impasto.lock"))?
            .into_parts()
            .0;
        let socket = folder.join("impasto.sock");
        match file.try_lock() {
            Ok(()) => Ok(Some(FolderLock { _file: file, socket })),
            Err(TryLockError::WouldBlock) => {
                hand_over(&socket, files).map_err(|error| {
                    let message = format!(
                        "`{}` is in use by another Impasto, which does not answer ({error})",
                        folder.display()
                    );
                    Error::new(Code::Unknown, message)
                        .hint("end the other one, or choose another folder with --data-dir")
                })?;
                Ok(None)
            }
            Err(TryLockError::Error(error)) => {
                let message = format!("cannot lock the folder `{}`: {error}", folder.display());
                Err(Error::new(Code::Unknown, message)
                    .hint("choose a folder on a local disk with --data-dir"))
            }
        }
    }
}

#[cfg(unix)]
mod socket {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    impl FolderLock {
        /// Hears what second starts hand over, on a thread of its own, as long as the program lives.
        pub(crate) fn listen(
            &self,
            mut heard: impl FnMut(Vec<String>) + Send + 'static,
        ) -> Result<()> {
            // What a program that was killed has left; nobody listens there, as we have the lock.
            let _ = fs::remove_file(&self.socket);
            let listener = at(&self.socket, |path| UnixListener::bind(path))?;
            let serve = move || {
                for stream in listener.incoming().flatten() {
                    let _ = stream.set_read_timeout(Some(PATIENCE));
                    let mut line = String::new();
                    let read = std::io::Read::take(&stream, MAX_MESSAGE);
                    if BufReader::new(read).read_line(&mut line).is_ok()
                        && let Ok(files) = serde_json::from_str(&line)
                    {
                        heard(files);
                        let _ = (&stream).write_all(b"taken\n");
                    }
                }
            };
            std::thread::Builder::new().name("second starts".into()).spawn(serve)?;
            Ok(())
        }
    }

    pub(super) fn hand_over(socket: &Path, files: &[PathBuf]) -> std::io::Result<()> {
        let mut stream = connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let here = std::env::current_dir().unwrap_or_default();
        let files: Vec<_> = files.iter().map(|file| here.join(file)).collect();
        let mut message = serde_json::to_string(&files)?;
        message.push('\n');
        stream.write_all(message.as_bytes())?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        match answer.trim() {
            "taken" => Ok(()),
            _ => Err(std::io::Error::other("it hung up")),
        }
    }

    /// The holder binds its socket a moment after it took the lock.
    fn connect(socket: &Path) -> std::io::Result<UnixStream> {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            match at(socket, |path| UnixStream::connect(path)) {
                Ok(stream) => return Ok(stream),
                Err(error) if std::time::Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Uses a socket's path. The system takes paths up to about 100 bytes only; a longer one is reached
    /// through a link of a short name in the folder for temporary files.
    fn at<T>(socket: &Path, used: impl Fn(&Path) -> std::io::Result<T>) -> std::io::Result<T> {
        const LONGEST: usize = 100;
        if socket.as_os_str().len() <= LONGEST {
            return used(socket);
        }
        let link = tempfile::tempdir()?;
        let folder = link.path().join("f");
        std::os::unix::fs::symlink(crate::files::folder_of(socket), &folder)?;
        used(&folder.join(socket.file_name().unwrap_or_default()))
    }
}

#[cfg(unix)]
use socket::hand_over;

#[cfg(not(unix))]
impl FolderLock {
    /// There are no such sockets on this system: a second start says that the folder is in use.
    pub(crate) fn listen(&self, _: impl FnMut(Vec<String>) + Send + 'static) -> Result<()> {
        let _ = &self.socket;
        Ok(())
    }
}

#[cfg(not(unix))]
fn hand_over(_: &Path, _: &[PathBuf]) -> std::io::Result<()> {
    Err(std::io::Error::other("this system has no local sockets"))
}

#[cfg(all(test, unix))]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_second_start_hands_its_files_over() {
        let folder = tempfile::tempdir().unwrap();
        // Longer than the system's limit for sockets, too.
        for name in ["short".to_owned(), "long".repeat(40)] {
            let folder = folder.path().join(name);
            let lock = FolderLock::take(&folder, &[]).unwrap().expect("nobody else has it");
            let (sender, receiver) = mpsc::channel();
            lock.listen(move |files| sender.send(files).unwrap()).unwrap();
            let second = FolderLock::take(&folder, &["/a b.png".into(), "c".into()]).unwrap();
            assert!(second.is_none());
            let files = receiver.recv_timeout(PATIENCE).unwrap();
            assert_eq!(files[0], "/a b.png");
            assert!(Path::new(&files[1]).is_absolute());
            drop(lock);
            assert!(FolderLock::take(&folder, &[]).unwrap().is_some());
        }
    }
}
