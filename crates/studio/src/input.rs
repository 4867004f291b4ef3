//! Pictures to start from: copied into the data folder, so that a recipe finds them tomorrow.

use std::path::{Path, PathBuf};

use fs_err as fs;
use image::ImageFormat;

use crate::{
    Code, Error, FileRef, Result,
    cards::InputPicture,
    files::{self, Existing},
    hash, picture,
};

/// The folder of first pictures. A file is called by the beginning of its SHA-256 and its own name.
#[derive(Debug, Clone)]
pub(crate) struct Inputs {
    folder: PathBuf,
}

/// Digits of the hash in a file's name.
const DIGITS: usize = 16;

impl Inputs {
    pub(crate) fn at(folder: PathBuf) -> Inputs {
        Inputs { folder }
    }

    /// Copies a picture into the folder, unless it is there already.
    pub(crate) fn add(&self, path: &Path) -> Result<InputPicture> {
        let size = picture::size(path)?;
        let sha256 = hash::sha256(path)?;
        let own = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some((copy, name)) = self.find(&sha256)? {
            return Ok(input(&copy, name, sha256, size));
        }
        let copy = self.folder.join(format!("{}-{own}", &sha256[..DIGITS]));
        let bytes = fs::read(path)?;
        files::write(&copy, Existing::Replace, |file| std::io::Write::write_all(file, &bytes))?;
        Ok(input(&copy, own, sha256, size))
    }

    /// The picture with this hash.
    pub(crate) fn get(&self, sha256: &str) -> Result<Option<InputPicture>> {
        let Some((path, name)) = self.find(sha256)? else { return Ok(None) };
        let size = picture::size(&path)?;
        Ok(Some(input(&path, name, hash::sha256(&path)?, size)))
    }

    /// Bytes and type of the picture with this hash.
    pub(crate) fn read(&self, sha256: &str) -> Result<(Vec<u8>, &'static str)> {
        let (path, _) = self.find(sha256)?.ok_or_else(|| {
            Error::new(Code::MissingFile, "the picture to start from is gone")
                .hint("drop it on the window again")
        })?;
        let bytes = fs::read(path)?;
        let mime = image::guess_format(&bytes)
            .map_or("image/png", |format: ImageFormat| format.to_mime_type());
        Ok((bytes, mime))
    }

    /// Path and own name of the picture with this hash.
    fn find(&self, sha256: &str) -> Result<Option<(PathBuf, String)>> {
        if sha256.len() < DIGITS || !sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(None);
        }
        let prefix = format!("{}-", sha256[..DIGITS].to_ascii_lowercase());
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(own) = name.strip_prefix(&prefix) {
                return Ok(Some((entry.path(), own.to_owned())));
            }
        }
        Ok(None)
    }
}

fn input(copy: &Path, name: String, sha256: String, (width, height): (u32, u32)) -> InputPicture {
    let called = copy.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file = FileRef { name: called, sha256: Some(sha256.clone()), data_sha256: None };
    InputPicture { id: sha256, file, name, width, height }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_kept_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cat.png");
        image::RgbImage::from_pixel(24, 16, image::Rgb([1, 2, 3])).save(&path).unwrap();
        fs::create_dir(folder.path().join("inputs")).unwrap();
        let inputs = Inputs::at(folder.path().join("inputs"));
        let first = inputs.add(&path).unwrap();
        assert_eq!((first.name.as_str(), first.width, first.height), ("cat.png", 24, 16));
        assert_eq!(inputs.add(&path).unwrap(), first);
        fs::remove_file(&path).unwrap();
        assert_eq!(inputs.get(&first.id).unwrap(), Some(first.clone()));
        assert_eq!(inputs.read(&first.id).unwrap().1, "image/png");
        assert_eq!(inputs.get(&"0".repeat(64)).unwrap(), None);
        assert!(inputs.read("../../x").is_err());
    }
}
