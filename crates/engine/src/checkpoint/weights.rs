//! Where the weights of one component of a diffusers folder lie: in one file, or in several with an index.
//!
//! The index is `<stem>.safetensors.index.json`, with the names of the files under `weight_map`. A variant
//! has its name before the ending, or behind `index`: `<stem>.fp16.safetensors`,
//! `<stem>.safetensors.index.fp16.json`. PyTorch files (`.bin`) are called the same way and taken only if
//! there is nothing else.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{Error, Result, inspect};

/// What the files of UNets and VAEs, and those of text encoders, are called, and how they end: the better
/// format first.
const FORMATS: &[(&str, [&str; 2])] = &[
    ("safetensors", ["diffusion_pytorch_model", "model"]),
    ("bin", ["diffusion_pytorch_model", "pytorch_model"]),
];

/// The plain files first: others are the same in half precision, or from before the end of training.
const VARIANTS: &[&str] = &["", "fp16", "bf16", "non_ema"];

/// An index of a hundred thousand tensors.
const MAX_INDEX: u64 = 16 << 20;

/// The files with the weights in `folder`, of the first variant that is there; none if there is none.
///
/// # Errors
/// [`Error::Damaged`] for an index that is none, [`Error::Incomplete`] if a file is missing that it names.
pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let stems = FORMATS.iter().flat_map(|(ending, stems)| stems.iter().map(move |s| (ending, s)));
    for (ending, stem) in stems {
        for variant in VARIANTS {
            let dot = if variant.is_empty() { "" } else { "." };
            let file = folder.join(format!("{stem}{dot}{variant}.{ending}"));
            if file.is_file() {
                return Ok(vec![file]);
            }
            for index in [
                format!("{stem}.{ending}.index{dot}{variant}.json"),
                format!("{stem}{dot}{variant}.{ending}.index.json"),
            ] {
                let index = folder.join(index);
                if index.is_file() {
                    return listed(&index);
                }
            }
        }
    }
    Ok(Vec::new())
}

/// The files that an index names.
fn listed(index: &Path) -> Result<Vec<PathBuf>> {
    let damaged = |problem: String| Error::Damaged { path: index.to_owned(), problem };
    let (_, index_json) = inspect::read_json_up_to(index, MAX_INDEX)?;
    let map = index_json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| damaged("it has no `weight_map`".into()))?;
    let mut names = BTreeSet::new();
    for name in map.values() {
        // Beside the index, nowhere else.
        let plain = |name: &&str| Path::new(name).file_name().is_some_and(|file| file == *name);
        let name = name.as_str().filter(plain);
        names.insert(name.ok_or_else(|| damaged("its `weight_map` names no file".into()))?);
    }
    if names.is_empty() {
        return Err(damaged("its `weight_map` is empty".into()));
    }
    let files: Vec<_> = names.iter().map(|name| index.with_file_name(name)).collect();
    match files.iter().find(|file| !file.is_file()) {
        None => Ok(files),
        Some(missing) => Err(Error::Incomplete {
            path: index.to_owned(),
            missing: format!("`{}` is missing, which it names", missing.display()),
            advice: "Get the folder again, with all its files".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use fs_err as fs;

    use super::*;

    #[test]
    fn the_plain_files_come_first_and_an_index_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &str| fs::write(path(name), text).unwrap();
        let found = || files(folder.path());
        assert_eq!(found().unwrap(), Vec::<PathBuf>::new());

        write("pytorch_model.fp16.bin", "");
        assert_eq!(found().unwrap(), [path("pytorch_model.fp16.bin")], "better than nothing");
        let index = r#"{"weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors",
            "c": "model-2.safetensors"}}"#;
        write("model.safetensors.index.fp16.json", index);
        write("model-1.safetensors", "");
        assert!(found().unwrap_err().to_string().contains("model-2.safetensors"));
        write("model-2.safetensors", "");
        let both = vec![path("model-1.safetensors"), path("model-2.safetensors")];
        assert_eq!(found().unwrap(), both);

        write("model.bf16.safetensors", "");
        assert_eq!(found().unwrap(), both, "fp16 before bf16");
        write("model.safetensors", "");
        assert_eq!(found().unwrap(), [path("model.safetensors")]);
    }

    #[test]
    fn an_index_that_is_none_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join("model.safetensors.index.json");
        for text in [
            "",
            "[]",
            r#"{"weight_map": {}}"#,
            r#"{"weight_map": {"a": 1}}"#,
            r#"{"weight_map": {"a": "../model.safetensors"}}"#,
            r#"{"weight_map": {"a": "/etc/passwd"}}"#,
            r#"{"weight_map": {"a": ".."}}"#,
        ] {
            fs::write(&index, text).unwrap();
            assert!(matches!(files(folder.path()), Err(Error::Damaged { .. })), "{text}");
        }
    }
}
