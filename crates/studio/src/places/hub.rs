//! The cache of the Hugging Face hub: downloads by repository, each with its history.
//!
//! `models--ORG--NAME/refs/main` names the folder in `snapshots/` that is current; what lies there are links
//! into `blobs/`. A download that is not finished has no link yet, or one that leads nowhere.

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
};

use fs_err as fs;

use crate::library::{self, Entry, Walk};

/// Starts of the names of folders with models; those of data sets start otherwise.
const START: &str = "models--";

/// A revision is a hash of 40 digits.
const MAX_REVISION: u64 = 256;

/// Names of files that say nothing: the repository's does.
const NAMELESS: &[&str] = &["diffusion_pytorch_model", "model", "pytorch_model", "learned_embeds"];

/// Whether a folder is such a cache.
pub(super) fn is_one(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    entries
        .flatten()
        .any(|entry| repository(&entry.path()).is_some() && entry.path().join("snapshots").is_dir())
}

/// Lists the current models of all repositories, called `ORG/NAME`.
pub(super) fn list(root: &Path, walk: &mut Walk) {
    let Ok(entries) = fs::read_dir(root) else { return };
    let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    folders.sort();
    for folder in folders {
        let (Some(name), Some(snapshot)) = (repository(&folder), current(&folder)) else {
            continue;
        };
        if library::is_model_folder(&snapshot) {
            if walk.first_time(&snapshot) {
                let (path, qualified_name) = (snapshot, name.clone());
                let entry =
                    Entry { name, qualified_name, title: None, path, kind: None, sha256: None };
                walk.entries.push(entry);
            }
            continue;
        }
        let before = std::mem::take(&mut walk.entries);
        walk.folder(&snapshot);
        let found = std::mem::replace(&mut walk.entries, before);
        walk.entries.extend(named(found, &name));
    }
}

/// Files of a repository under its name. Of one that is there in two formats, the safetensors file.
fn named(found: Vec<Entry>, repository: &str) -> Vec<Entry> {
    let alone = found.len() == 1;
    let mut by_name: BTreeMap<String, Entry> = BTreeMap::new();
    for mut entry in found {
        let nameless = NAMELESS.contains(&entry.name.as_str());
        if alone || nameless {
            let inside = entry.qualified_name.strip_suffix(&entry.name).unwrap_or_default();
            entry.name = match inside.trim_end_matches('/') {
                "" => repository.to_owned(),
                inside => format!("{repository}/{inside}"),
            };
            entry.qualified_name = entry.name.clone();
        } else {
            entry.qualified_name = format!("{repository}/{}", entry.qualified_name);
        }
        let safe = entry.path.extension().is_some_and(|own| own == "safetensors");
        if safe || !by_name.contains_key(&entry.qualified_name) {
            by_name.insert(entry.qualified_name.clone(), entry);
        }
    }
    by_name.into_values().collect()
}

/// `ORG/NAME` of the folder `models--ORG--NAME`.
fn repository(folder: &Path) -> Option<String> {
    let name = folder.file_name()?.to_str()?.strip_prefix(START)?;
    (!name.is_empty()).then(|| name.replace("--", "/"))
}

/// The snapshot that `refs/main` names; without it, the only one.
fn current(folder: &Path) -> Option<PathBuf> {
    let snapshots = folder.join("snapshots");
    let mut revision = String::new();
    let main = fs::File::open(folder.join("refs").join("main"));
    let read = main.and_then(|file| file.take(MAX_REVISION).read_to_string(&mut revision));
    let named = Path::new(revision.trim());
    // A name, and no way out of the folder.
    let plain = named.file_name().is_some_and(|name| name == named.as_os_str());
    if read.is_ok() && plain {
        return Some(snapshots.join(named)).filter(|snapshot| snapshot.is_dir());
    }
    let mut all = fs::read_dir(snapshots).ok()?.flatten().map(|entry| entry.path());
    let (first, second) = (all.next(), all.next());
    first.filter(|snapshot| second.is_none() && snapshot.is_dir())
}
