//! SHA-256 of model files and folders, remembered between runs.
//!
//! A hash is believed as long as the file's size and date stay the same. A base model has gigabytes, so
//! the hashes of large files are kept in the cache folder for the next run.
//!
//! A folder's hash is that of a listing of its weight files: for each `.safetensors` file at most two
//! levels down, sorted by path, a line `<path with slashes> <sha-256 in hex>\n`.

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::UNIX_EPOCH,
};

use engine::checkpoint::header::TensorFile;
use fs_err as fs;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    Result,
    files::{self, Existing},
};

/// Files below this size, in bytes, are hashed in a moment and not remembered for the next run.
const WORTH_KEEPING: u64 = 16 << 20;

/// The hashes of a file or folder, in lower-case hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hashes {
    /// Of the whole file, or of the folder's listing.
    pub sha256: String,
    /// Of what follows the header, for a safetensors file.
    pub data_sha256: Option<String>,
}

/// Computes hashes, and remembers those of large files.
#[derive(Debug)]
pub struct HashCache {
    /// Where they are remembered; nowhere if there is no such folder.
    path: Option<PathBuf>,
    known: Mutex<BTreeMap<PathBuf, Known>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Known {
    size: u64,
    /// Nanoseconds since 1970.
    modified: u128,
    #[serde(flatten)]
    hashes: Hashes,
}

impl HashCache {
    /// Opens what was remembered in a folder. If that cannot be read, it starts anew.
    #[must_use]
    pub fn open(folder: Option<&Path>) -> HashCache {
        let path = folder.map(|folder| folder.join("hashes.json"));
        let text = path.as_ref().and_then(|path| fs::read_to_string(path).ok());
        let known = text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        HashCache { path, known: Mutex::new(known) }
    }

    /// The hashes of a model file or folder.
    ///
    /// # Errors
    /// Fails if it cannot be read.
    pub fn hashes(&self, path: &Path) -> Result<Hashes> {
        if path.is_dir() {
            return self.of_folder(path);
        }
        if let Some(known) = self.known(path) {
            return Ok(known);
        }
        let status = fs::metadata(path)?;
        let found = TensorFile::open(path)?.sha256()?;
        let hashes = Hashes { sha256: hex(&found.file), data_sha256: Some(hex(&found.data)) };
        self.remember(path, &status, &hashes);
        Ok(hashes)
    }

    /// The hashes of a file, if it need not be read for that.
    #[must_use]
    pub fn known(&self, path: &Path) -> Option<Hashes> {
        let status = fs::metadata(path).ok()?;
        let path = fs::canonicalize(path).ok()?;
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known.get(&path)?;
        let current = entry.size == status.len() && Some(entry.modified) == modified(&status);
        current.then(|| entry.hashes.clone())
    }

    fn of_folder(&self, folder: &Path) -> Result<Hashes> {
        let mut listing = Sha256::new();
        for path in weight_files(folder)? {
            let name = path.strip_prefix(folder).unwrap_or(&path);
            let name: Vec<_> = name.iter().map(|part| part.to_string_lossy()).collect();
            let hash = self.hashes(&path)?.sha256;
            listing.update(format!("{} {hash}\n", name.join("/")));
        }
        Ok(Hashes { sha256: hex(&listing.finalize()), data_sha256: None })
    }

    /// Failing to remember costs time later, and nothing else.
    fn remember(&self, path: &Path, status: &std::fs::Metadata, hashes: &Hashes) {
        let (Some(modified), Ok(path)) = (modified(status), fs::canonicalize(path)) else { return };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(path, Known { size: status.len(), modified, hashes: hashes.clone() });
        let Some(path) = self.path.as_ref().filter(|_| status.len() >= WORTH_KEEPING) else {
            return;
        };
        let large = |(_, known): &(&PathBuf, &Known)| known.size >= WORTH_KEEPING;
        let large: BTreeMap<_, _> = known.iter().filter(large).collect();
        let written = files::prepare_folder(files::folder_of(path)).and_then(|()| {
            files::write(path, Existing::Replace, |writer| {
                serde_json::to_writer(writer, &large).map_err(Into::into)
            })
            .map_err(Into::into)
        });
        if let Err(error) = written {
            tracing::debug!("hashes are not remembered: {error}");
        }
    }
}

/// The SHA-256 of any file, in lower-case hex.
///
/// # Errors
/// Fails if it cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    let mut file = fs::File::open(path)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// The `.safetensors` files of a folder and of the folders in it, sorted; if there are none, the `.bin` files
/// of PyTorch that are read instead.
pub(crate) fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut pickles) = (Vec::new(), Vec::new());
    let mut folders = vec![(folder.to_owned(), 2)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                if depth > 1 {
                    folders.push((path, depth - 1));
                }
            } else if path.extension().is_some_and(|extension| extension == "safetensors") {
                files.push(path);
            } else if path.extension().is_some_and(|extension| extension == "bin") {
                pickles.push(path);
            }
        }
    }
    if files.is_empty() {
        files = pickles;
    }
    files.sort();
    Ok(files)
}

fn modified(status: &std::fs::Metadata) -> Option<u128> {
    let since = status.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(since.as_nanos())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A safetensors file with one tensor of bytes.
    fn write(path: &Path, len: usize, fill: u8) {
        let header =
            format!(r#"{{"t":{{"dtype":"U8","shape":[{len}],"data_offsets":[0,{len}]}}}}"#);
        let len_bytes = (header.len() as u64).to_le_bytes();
        let bytes = [&len_bytes[..], header.as_bytes(), &vec![fill; len]].concat();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn of_a_file_and_of_its_data() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        write(&path, 3, b'a');
        let hashes = HashCache::open(None).hashes(&path).unwrap();
        assert_eq!(hashes.sha256, sha256(&path).unwrap());
        // SHA-256 of "aaa".
        let aaa = "9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0";
        assert_eq!(hashes.data_sha256.as_deref(), Some(aaa));
    }

    #[test]
    fn a_folder_s_hash_is_that_of_its_weights() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        write(&model.join("unet/a.safetensors"), 3, b'a');
        write(&model.join("vae/b.safetensors"), 3, b'b');
        let cache = HashCache::open(None);
        let hash = cache.hashes(&model).unwrap().sha256;

        let listing = ["unet/a.safetensors", "vae/b.safetensors"]
            .map(|name| format!("{name} {}\n", sha256(&model.join(name)).unwrap()))
            .concat();
        let file = folder.path().join("listing");
        fs::write(&file, listing).unwrap();
        assert_eq!(hash, sha256(&file).unwrap());

        fs::write(model.join("README.md"), "x").unwrap();
        assert_eq!(cache.hashes(&model).unwrap().sha256, hash);
        write(&model.join("unet/a.safetensors"), 3, b'c');
        assert_ne!(cache.hashes(&model).unwrap().sha256, hash);
    }

    #[test]
    fn large_files_are_remembered_until_they_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let cached = folder.path().join("cache");
        write(&path, 17 << 20, 0);
        let hashes = HashCache::open(Some(&cached)).hashes(&path).unwrap();
        let reopened = HashCache::open(Some(&cached));
        assert_eq!(reopened.known(&path), Some(hashes.clone()));

        write(&path, (17 << 20) + 1, 0);
        assert_eq!(reopened.known(&path), None);
        assert_ne!(reopened.hashes(&path).unwrap(), hashes);

        fs::write(cached.join("hashes.json"), "{ damaged").unwrap();
        assert_eq!(HashCache::open(Some(&cached)).known(&path), None);
    }
}
