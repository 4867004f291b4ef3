//! Where pictures go, and what they are called.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use fs_err as fs;

use crate::{
    Code, Error, GenerationParams, Result,
    files::{self, Existing},
    png,
};

/// Where the pictures of one batch go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Into a folder, as `<number>-<seed>.png`: the next free numbers, so that none is overwritten.
    Folder(PathBuf),
    /// To this file, which is replaced if it exists. The pictures of a larger batch are `name-1.png`,
    /// `name-2.png` and so on.
    File(PathBuf),
}

impl Destination {
    /// What a path means: a PNG file, or else a folder.
    ///
    /// # Errors
    /// Fails if it names a picture of another format.
    pub fn at(path: &Path) -> Result<Destination> {
        let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
        match extension.as_deref().and_then(|extension| extension.to_str()) {
            _ if path.is_dir() => Ok(Destination::Folder(path.to_owned())),
            Some("png") => Ok(Destination::File(path.to_owned())),
            Some("jpg" | "jpeg" | "webp" | "gif" | "bmp" | "tif" | "tiff" | "avif") => {
                let message = format!("cannot write `{}`", path.display());
                Err(Error::new(Code::InvalidParams { field: "out" }, message)
                    .hint("pictures are written as PNG: end the name in .png, or name a folder"))
            }
            _ => Ok(Destination::Folder(path.to_owned())),
        }
    }

    /// The person's pictures folder with `Impasto` in it, or `impasto-output` here if there is none.
    #[must_use]
    pub fn of_this_machine() -> Destination {
        let pictures = dirs::picture_dir().filter(|folder| folder.is_dir());
        let folder = pictures.map(|folder| folder.join("Impasto"));
        Destination::Folder(folder.unwrap_or_else(|| PathBuf::from("impasto-output")))
    }

    /// Makes sure that pictures can be written, before time is spent on making them.
    ///
    /// # Errors
    /// Names the folder and the reason.
    pub fn prepare(&self) -> Result<()> {
        files::prepare_folder(match self {
            Destination::Folder(folder) => folder,
            Destination::File(path) => files::folder_of(path),
        })
    }

    /// Writes a picture with its recipe, and tells where.
    ///
    /// * `index`, `count`: which picture of a batch it is, from 0, and how many there are
    ///
    /// # Errors
    /// Names the file and the reason; nothing half-written is left.
    pub fn save(
        &self,
        index: usize,
        count: usize,
        image: &engine::Image,
        recipe: &GenerationParams,
    ) -> Result<PathBuf> {
        match self {
            Destination::Folder(folder) => save_numbered(folder, image, recipe),
            Destination::File(path) => {
                let path = if count == 1 { path.clone() } else { numbered(path, index + 1) };
                png::save(&path, Existing::Replace, image, recipe)?;
                Ok(path)
            }
        }
    }
}

fn save_numbered(
    folder: &Path,
    image: &engine::Image,
    recipe: &GenerationParams,
) -> Result<PathBuf> {
    let mut number = last_number(folder)? + 1;
    let seed = recipe.seed.unwrap_or_default();
    loop {
        let path = folder.join(format!("{number:05}-{seed}.png"));
        match png::save(&path, Existing::Keep, image, recipe) {
            // Another program was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            other => return other.map(|()| path).map_err(Error::from),
        }
    }
}

/// The highest number that a file in the folder begins with.
fn last_number(folder: &Path) -> Result<u64> {
    let mut last = 0;
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let digits: String =
            name.to_string_lossy().chars().take_while(char::is_ascii_digit).take(12).collect();
        last = last.max(digits.parse().unwrap_or(0));
    }
    Ok(last)
}

/// `a/b.png` with a number: `a/b-1.png`.
fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name: OsString = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{number}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> engine::Image {
        engine::Image { width: 1, height: 1, pixels: vec![1, 2, 3] }
    }

    #[test]
    fn paths_are_files_or_folders() {
        let folder = tempfile::tempdir().unwrap();
        let dotted = folder.path().join("x.png");
        fs::create_dir(&dotted).unwrap();
        let at = |path: &str| Destination::at(Path::new(path)).unwrap();
        assert_eq!(at("a.PNG"), Destination::File("a.PNG".into()));
        assert_eq!(at("v1.5"), Destination::Folder("v1.5".into()));
        assert_eq!(Destination::at(&dotted).unwrap(), Destination::Folder(dotted));
        assert!(Destination::at(Path::new("a.jpg")).is_err());
    }

    #[test]
    fn a_folder_s_pictures_are_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("00041-5.png"), "x").unwrap();
        fs::write(folder.path().join("notes.txt"), "x").unwrap();
        let destination = Destination::Folder(folder.path().to_owned());
        let recipe = GenerationParams { seed: Some(9), ..GenerationParams::default() };
        for expected in ["00042-9.png", "00043-9.png"] {
            let path = destination.save(0, 1, &image(), &recipe).unwrap();
            assert_eq!(path, folder.path().join(expected));
        }
    }

    #[test]
    fn a_named_file_is_replaced_and_a_batch_is_numbered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        fs::write(&path, "x").unwrap();
        let destination = Destination::at(&path).unwrap();
        let recipe = GenerationParams::default();
        assert_eq!(destination.save(0, 1, &image(), &recipe).unwrap(), path);
        assert!(png::read_texts(&path).is_ok());
        let second = destination.save(1, 2, &image(), &recipe).unwrap();
        assert_eq!(second, folder.path().join("a-2.png"));
    }
}
