//! `impasto convert`: model files as safetensors, in another precision, and between folder and single file.

use std::{
    io::{self, Write},
    path::Path,
};

use engine::checkpoint::convert::{Conversion, NewFolder, Stored};
use fs_err as fs;
use studio::{
    Code, Error, Result,
    files::{self, Existing},
};

use crate::{
    args::{ConvertArgs, StoredArg},
    output, progress,
};

/// How model files end that are not written here.
const OTHER_ENDINGS: &[&str] = &["ckpt", "pt", "pth", "bin", "gguf"];

/// Space that is left for everything else, in bytes.
const SPARE: u64 = 64 << 20;

pub(crate) fn convert(args: &ConvertArgs) -> Result<()> {
    let ConvertArgs { input, output: path, precision, force } = args;
    let refused = |message: String, hint: &str| {
        Err(Error::new(Code::InvalidParams { field: "OUT" }, message).hint(hint))
    };
    let ends = |ending: &str| path.extension().is_some_and(|own| own.eq_ignore_ascii_case(ending));
    if OTHER_ENDINGS.iter().any(|ending| ends(ending)) {
        let message =
            format!("cannot write `{}`: only safetensors files are written", path.display());
        return refused(message, "let its name end in `.safetensors`, or name a folder");
    }
    let single_file = ends("safetensors");
    if path.exists() && !(*force && single_file) {
        let message = format!("`{}` is there already", path.display());
        let hint = match single_file {
            true => "choose another name, or replace it with `--force`",
            false => "choose another name: folders are not replaced",
        };
        return refused(message, hint);
    }
    progress::catch_ctrl_c();
    let precision = precision.map(Stored::from);
    let folder = files::folder_of(path);
    let room = |size| check_room(files::free_space(folder), size, folder);
    let (written, tensors, size) = if single_file {
        let conversion = Conversion::plan(input, precision)?;
        room(conversion.size())?;
        let existing = if *force { Existing::Replace } else { Existing::Keep };
        let written = files::write(path, existing, |to| conversion.write(&mut Cancellable(to)));
        (written, conversion.tensors(), conversion.size())
    } else {
        let new = NewFolder::plan(input, precision)?;
        room(new.size())?;
        let written = files::write_folder(path, |folder| {
            for (name, file) in &new.files {
                let path = folder.join(name);
                fs::create_dir_all(files::folder_of(&path))?;
                files::write(&path, Existing::Keep, |to| file.write(&mut Cancellable(to)))?;
            }
            Ok(())
        });
        (written, new.tensors(), new.size())
    };
    if progress::cancelled() && written.is_err() {
        return Err(engine::Error::Cancelled.into());
    }
    written?;
    output::line(&path.display().to_string());
    output::note(&format!("{tensors} tensors, {}", output::megabytes(size)));
    Ok(())
}

/// Fails before anything is written if there is no room for it.
fn check_room(free: Option<u64>, size: u64, folder: &Path) -> Result<()> {
    match free {
        Some(free) if size.saturating_add(SPARE) > free => {
            let message = format!(
                "there is no room for the new file: it takes {}, and {} are free in `{}`",
                output::megabytes(size),
                output::megabytes(free),
                folder.display()
            );
            Err(Error::new(Code::Unknown, message)
                .hint("free some space, or choose another folder"))
        }
        _ => Ok(()),
    }
}

/// Stops writing when Ctrl-C was pressed.
struct Cancellable<'a>(&'a mut dyn Write);

impl Write for Cancellable<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match progress::cancelled() {
            true => Err(io::Error::other("cancelled")),
            false => self.0.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl From<StoredArg> for Stored {
    fn from(stored: StoredArg) -> Stored {
        match stored {
            StoredArg::F32 => Stored::F32,
            StoredArg::F16 => Stored::F16,
            StoredArg::Bf16 => Stored::Bf16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_noticed_in_time() {
        let folder = Path::new("models");
        assert!(check_room(None, 1 << 40, folder).is_ok(), "the system does not tell");
        assert!(check_room(Some(1 << 30), 1 << 20, folder).is_ok());
        let error = check_room(Some(70_000_000), 7_000_000_000, folder).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no room for the new file: it takes 7000 MB, and 70 MB are free in `models`"
        );
    }
}
