//! Tables, files and documents agree with each other.

use std::path::{Path, PathBuf};

use e2e::repository;
use engine::{
    checkpoint::header::TensorFile,
    sample::{SAMPLERS, schedule::SCHEDULES},
};
use fs_err as fs;

/// Names of the tensors of a golden file.
fn golden(name: &str) -> Vec<String> {
    let path = repository().join("tests/golden").join(name);
    let file = TensorFile::open(&path).expect("golden files are committed");
    file.tensors().keys().cloned().collect()
}

/// Every sampler has golden latents, every schedule golden sigmas.
#[test]
fn every_record_has_golden_tensors() {
    let latents = golden("sampling/samplers.safetensors");
    for sampler in SAMPLERS {
        let prefix = format!("{}.", sampler.id);
        assert!(latents.iter().any(|name| name.starts_with(&prefix)), "{}", sampler.id);
    }
    let sigmas = golden("sampling/schedules.safetensors");
    for schedule in SCHEDULES {
        let prefix = format!("{}.", schedule.id);
        assert!(sigmas.iter().any(|name| name.starts_with(&prefix)), "{}", schedule.id);
    }
}

/// Ids are for files and command lines, names for people: both tell records apart.
#[test]
fn ids_and_names_are_unique() {
    let unique = |mut values: Vec<&str>| {
        values.sort_unstable();
        values.windows(2).all(|pair| pair[0] != pair[1])
    };
    assert!(unique(SAMPLERS.iter().map(|record| record.id).collect()));
    assert!(unique(SAMPLERS.iter().map(|record| record.name).collect()));
    assert!(unique(SCHEDULES.iter().map(|record| record.id).collect()));
    assert!(unique(SCHEDULES.iter().map(|record| record.name).collect()));
    let plain =
        |id: &str| id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    assert!(SAMPLERS.iter().all(|record| plain(record.id)));
    assert!(SCHEDULES.iter().all(|record| plain(record.id)));
}

/// A source file begins by saying what is in it.
#[test]
fn every_source_file_has_a_header() {
    let mut files = Vec::new();
    for folder in ["crates", "src-tauri/src", "src-tauri/tests", "tests"] {
        sources(&repository().join(folder), &mut files);
    }
    assert!(files.len() > 40, "only {} files were found", files.len());
    for path in files {
        let text = fs::read_to_string(&path).expect("a source file is text");
        let header = text.strip_prefix("//! ").and_then(|text| text.lines().next());
        let told = header.is_some_and(|header| header.split_whitespace().count() >= 2);
        assert!(told, "`{}` does not begin with what it is", path.display());
    }
}

fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder is in the repository") {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
