//! Sidecars: what other programs keep beside a model file. They are read, never written.
//!
//! `BASE` is the file's path without its extension. Pictures: `BASE.EXT`, then `BASE.preview.EXT`.
//! `BASE.json` is A1111's, `BASE.civitai.info` that of Civitai's tools; both are JSON, and both names
//! are used for other things as well, so that only known keys are believed.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use fs_err as fs;
use serde_json::Value;

use super::reading::Stamp;

/// Extensions of pictures, in A1111's order. GIFs are left out: nothing here reads them.
const PICTURES: &[&str] = &["png", "jpg", "jpeg", "webp"];

/// A longer text is no sidecar.
const MAX_SIZE: u64 = 8 << 20;

/// What is said beside a model file.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Sidecars {
    pub(super) title: Option<String>,
    pub(super) trigger_words: Option<Vec<String>>,
    pub(super) default_weight: Option<f64>,
    /// A picture of what the file makes.
    pub(super) cover: Option<PathBuf>,
    /// Label and value.
    pub(super) facts: Vec<(String, String)>,
}

/// Reads what lies beside a model file.
pub(super) fn read(path: &Path) -> Sidecars {
    let mut found = Sidecars {
        cover: pictures(path).into_iter().find(|picture| picture.is_file()),
        ..Sidecars::default()
    };
    if let Some(info) = json(&beside(path, ".civitai.info")) {
        read_civitai(&info, &mut found);
    }
    // What the person wrote in A1111 goes before what the file's page said.
    if let Some(own) = json(&beside(path, ".json")) {
        read_a1111(&own, &mut found);
    }
    found
}

/// Every sidecar that is there.
pub(super) fn files(path: &Path) -> Vec<PathBuf> {
    let texts = [".civitai.info", ".json"].map(|ending| beside(path, ending));
    pictures(path).into_iter().chain(texts).filter(|path| path.is_file()).collect()
}

/// Changes whenever a sidecar comes, goes or changes.
pub(super) fn stamp(path: &Path) -> Stamp {
    files(path).iter().filter_map(|path| Stamp::of_file(path).ok()).sum()
}

fn pictures(path: &Path) -> Vec<PathBuf> {
    let names = PICTURES
        .iter()
        .flat_map(|extension| [format!(".{extension}"), format!(".preview.{extension}")]);
    names.map(|ending| beside(path, &ending)).collect()
}

/// `BASE` with another ending.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = base(path);
    name.push(ending);
    path.with_file_name(name)
}

/// A model's name as its sidecars have it.
pub(super) fn base(path: &Path) -> OsString {
    let base = match path.is_dir() {
        // `sd-v1.5` is the whole name of a folder.
        true => path.file_name(),
        false => path.file_stem(),
    };
    base.unwrap_or_default().to_owned()
}

fn json(path: &Path) -> Option<Value> {
    let small = fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() <= MAX_SIZE);
    small.then(|| fs::read_to_string(path).ok()).flatten().and_then(|text| {
        serde_json::from_str(text.trim_start_matches('\u{feff}'))
            .inspect_err(|error| tracing::debug!("`{}` is no sidecar: {error}", path.display()))
            .ok()
    })
}

fn text(json: &Value, key: &str) -> Option<String> {
    let text = json.get(key)?.as_str()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Words and phrases, cut at commas.
fn words<'a>(lists: impl IntoIterator<Item = &'a str>) -> Option<Vec<String>> {
    let mut words: Vec<String> = Vec::new();
    for word in lists.into_iter().flat_map(|list| list.split(',')).map(str::trim) {
        if !word.is_empty() && words.iter().all(|known| known != word) {
            words.push(word.to_owned());
        }
    }
    (!words.is_empty()).then_some(words)
}

fn read_a1111(json: &Value, found: &mut Sidecars) {
    let activation = text(json, "activation text");
    found.trigger_words = words(activation.as_deref()).or(found.trigger_words.take());
    // 0 means that nobody set it.
    let weight = json.get("preferred weight").and_then(Value::as_f64);
    let weight = weight.filter(|weight| *weight != 0.0 && weight.is_finite());
    found.default_weight = weight.or(found.default_weight);
    for (key, label) in [("notes", "Notes"), ("negative text", "Negative words")] {
        found.facts.extend(text(json, key).map(|text| (label.to_owned(), text)));
    }
}

fn read_civitai(json: &Value, found: &mut Sidecars) {
    let model = json.get("model").and_then(|model| text(model, "name"));
    let version = text(json, "name");
    found.title = model.or_else(|| version.clone());
    let trained = json.get("trainedWords").and_then(Value::as_array);
    found.trigger_words = words(trained.into_iter().flatten().filter_map(Value::as_str));
    for (key, label) in [("baseModel", "Made for"), ("name", "Version")] {
        found.facts.extend(text(json, key).map(|text| (label.to_owned(), text)));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_others_keep_beside_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("Wet Ink v1.2.safetensors");
        let write = |ending: &str, text: &str| {
            fs::write(folder.path().join(format!("Wet Ink v1.2{ending}")), text).unwrap();
        };
        write(".safetensors", "");
        assert_eq!(read(&file), Sidecars::default());
        let before = stamp(&file);
        write(
            ".civitai.info",
            &json!({
                "name": "v1.2", "baseModel": "SD 1.5", "trainedWords": ["wet ink, blot", "blot"],
                "model": {"name": "Wet Ink"}
            })
            .to_string(),
        );
        write(".preview.png", "no picture, but that is seen when it is shown");
        let found = read(&file);
        assert_eq!(found.title.as_deref(), Some("Wet Ink"));
        assert_eq!(found.trigger_words.unwrap(), ["wet ink", "blot"]);
        assert_eq!(found.default_weight, None);
        assert!(found.cover.unwrap().ends_with("Wet Ink v1.2.preview.png"));
        assert!(found.facts.contains(&("Made for".into(), "SD 1.5".into())));
        assert_ne!(stamp(&file), before);

        write(".png", "");
        write(".json", "\u{feff}{\"activation text\": \"inkwash\", \"preferred weight\": 0.7}");
        let found = read(&file);
        assert_eq!(found.trigger_words.unwrap(), ["inkwash"], "the person's own word");
        assert_eq!(found.default_weight, Some(0.7));
        assert!(found.cover.unwrap().ends_with("Wet Ink v1.2.png"));
        assert_eq!(files(&file).len(), 4);
    }

    #[test]
    fn what_is_no_sidecar_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.safetensors");
        for text in ["", "[1, 2]", "{\"preferred weight\": 0}", "{\"activation text\": 7}"] {
            fs::write(folder.path().join("a.json"), text).unwrap();
            fs::write(folder.path().join("a.civitai.info"), text).unwrap();
            assert_eq!(read(&file), Sidecars::default(), "{text}");
        }
    }
}
