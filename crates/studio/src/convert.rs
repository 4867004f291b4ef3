//! Model files written anew: as safetensors, in another precision, as a folder or as one file.
//!
//! What is written and how is the engine's; here it gets a name and a place, and nothing is there
//! half-written or replaced unasked.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use engine::{
    AdapterUse,
    checkpoint::convert::{Conversion, NewFolder, Stored},
};
use fs_err as fs;

use crate::{
    Code, Error, Result,
    files::{self, Existing},
};

/// How model files end that are not written here.
const OTHER_ENDINGS: &[&str] = &["ckpt", "pt", "pth", "bin", "gguf"];

/// A model that is to be written.
#[derive(Debug)]
pub struct NewModel {
    path: PathBuf,
    content: Content,
}

#[derive(Debug)]
enum Content {
    File(Conversion),
    Folder(NewFolder),
}

impl NewModel {
    /// Plans a model from headers alone: one file if `path` ends in `.safetensors`, else a folder. Without
    /// a precision each number keeps its bits.
    ///
    /// # Errors
    /// Fails if that cannot be made of it, or the path is one of another format.
    pub fn plan(from: &Path, path: &Path, precision: Option<Stored>) -> Result<NewModel> {
        NewModel::plan_blend(from, &[], path, precision)
    }

    /// The same with a stack of adapters written into it.
    ///
    /// # Errors
    /// Also those of adapters that do not fit, or that a file cannot hold: weights over steps.
    pub fn plan_blend(
        from: &Path,
        stack: &[AdapterUse],
        path: &Path,
        precision: Option<Stored>,
    ) -> Result<NewModel> {
        let ends =
            |ending: &str| path.extension().is_some_and(|own| own.eq_ignore_ascii_case(ending));
        if OTHER_ENDINGS.iter().any(|ending| ends(ending)) {
            let message =
                format!("cannot write `{}`: only safetensors files are written", path.display());
            return Err(Error::new(Code::InvalidParams { field: "name" }, message)
                .hint("let its name end in `.safetensors`, or name a folder"));
        }
        let content = match ends("safetensors") {
            true => Content::File(Conversion::plan_blend(from, stack, precision)?),
            false => Content::Folder(NewFolder::plan_blend(from, stack, precision)?),
        };
        Ok(NewModel { path: path.to_owned(), content })
    }

    /// Bytes that it will take.
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.content {
            Content::File(file) => file.size(),
            Content::Folder(folder) => folder.size(),
        }
    }

    /// Number of tensors in it.
    #[must_use]
    pub fn tensors(&self) -> usize {
        match &self.content {
            Content::File(file) => file.tensors(),
            Content::Folder(folder) => folder.tensors(),
        }
    }

    /// Fails if there is no room for it.
    ///
    /// # Errors
    /// Says how much it takes and how much is free.
    pub fn check_room(&self) -> Result<()> {
        files::check_room(files::folder_of(&self.path), self.size(), "the new file")
    }

    /// Writes it, under a temporary name until it is whole; folders are never replaced. `watch` is told of
    /// bytes as they are written and answers whether to go on.
    ///
    /// # Errors
    /// Those of reading and writing; [`Code::Cancelled`] when `watch` said so. Nothing of it stays then.
    pub fn write(&self, existing: Existing, watch: &mut dyn FnMut(u64) -> bool) -> Result<()> {
        self.check_room()?;
        let mut stopped = false;
        let mut watch = |bytes| {
            stopped |= !watch(bytes);
            !stopped
        };
        let written = match &self.content {
            Content::File(file) => files::write(&self.path, existing, |to| {
                file.write(&mut Watched { to, watch: &mut watch })
            }),
            Content::Folder(folder) => files::write_folder(&self.path, |inside| {
                for (name, file) in &folder.files {
                    let path = inside.join(name);
                    fs::create_dir_all(files::folder_of(&path))?;
                    files::write(&path, Existing::Keep, |to| {
                        file.write(&mut Watched { to, watch: &mut watch })
                    })?;
                }
                Ok(())
            }),
        };
        match written {
            Err(_) if stopped => Err(engine::Error::Cancelled.into()),
            written => Ok(written?),
        }
    }
}

/// Counts what is written, and stops when it is told to.
struct Watched<'a> {
    to: &'a mut dyn Write,
    watch: &'a mut dyn FnMut(u64) -> bool,
}

impl Write for Watched<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        match (self.watch)(written as u64) {
            true => Ok(written),
            false => Err(io::Error::other("cancelled")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
