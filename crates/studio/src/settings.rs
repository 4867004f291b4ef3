//! The person's settings, in a file that can be read and edited: `settings.toml`.

use std::path::Path;

use fs_err as fs;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};
use ts_rs::TS;

use crate::{
    Code, Error, Result,
    event::Notice,
    files::{self, Existing},
};

/// The device that is chosen by what there is.
pub(crate) const AUTO: &str = "auto";

/// What the person set. An empty file means the defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[serde(default)]
pub struct Settings {
    /// The window's colors: "system", "light" or "dark".
    pub theme: Theme,
    /// Folder for pictures; without one, Impasto in the platform's folder for pictures.
    pub output_folder: Option<String>,
    /// Folders with models, those of other programs too. They are never written to.
    pub model_folders: Vec<String>,
    /// What to compute on, by id: "auto" (every card that can be used, each a picture of its own, or else the
    /// processor), "cpu", "cuda:1".
    pub device: String,
    /// Threads to compute with; without a number, all cores. Pictures do not depend on it.
    pub threads: Option<u32>,
    /// Gigabytes in which base models stay loaded, on each device; without a number, half of its memory. The
    /// one in use stays in any case.
    pub model_memory: Option<u32>,
    /// Say so on the desktop when a picture is done and the window is not in front.
    pub notify: bool,
    /// Show the picture while it forms.
    pub previews: bool,
    /// Ask before pictures are deleted.
    pub confirm_delete: bool,
}

/// The window's colors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "lowercase")]
pub enum Theme {
    /// As the desktop's.
    #[default]
    System,
    /// Light.
    Light,
    /// Dark.
    Dark,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            theme: Theme::System,
            output_folder: None,
            model_folders: Vec::new(),
            device: AUTO.into(),
            threads: None,
            model_memory: None,
            notify: true,
            previews: true,
            confirm_delete: false,
        }
    }
}

/// Each setting with its comment and, for one that may be missing, an example.
///
/// The comments are for the file; the window has its own words.
const FIELDS: &[(&str, &str, Option<&str>)] = &[
    ("theme", "The window's colors: \"system\", \"light\" or \"dark\".", None),
    (
        "output_folder",
        "Folder for pictures. Without one: Impasto, in the platform's folder for pictures.",
        Some("\"/home/me/Pictures/Impasto\""),
    ),
    (
        "model_folders",
        "Folders with models, those of other programs too. They are never written to.",
        None,
    ),
    (
        "device",
        "What to compute on: \"auto\" (NVIDIA cards if there are any), \"cpu\", \"cuda:0\", \"cuda:1\", …",
        None,
    ),
    (
        "threads",
        "Threads to compute with. Without a number: all cores. Pictures do not depend on it.",
        Some("4"),
    ),
    (
        "model_memory",
        "Gigabytes in which base models stay loaded, on each device. Without a number: half of its memory.",
        Some("8"),
    ),
    (
        "notify",
        "Say so on the desktop when a picture is done and the window is not in front.",
        None,
    ),
    ("previews", "Show the picture while it forms.", None),
    ("confirm_delete", "Ask before pictures are deleted.", None),
];

impl Settings {
    /// Reads the file. What it does not say, or says wrongly, has its default; the notices tell what
    /// is wrong.
    pub(crate) fn read(path: &Path) -> (Settings, Vec<Notice>) {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return (Settings::default(), vec![Notice::from(&Error::from(error))]),
        };
        match text.parse::<Table>() {
            Ok(table) => from_table(table),
            Err(error) => {
                let notice = Notice {
                    message: format!("The settings `{}` cannot be read: {error}", path.display()),
                    hint: Some("The defaults are used until it is mended or saved anew.".into()),
                };
                (Settings::default(), vec![notice])
            }
        }
    }

    /// Writes the whole file, with a comment on every setting.
    ///
    /// # Errors
    /// Names the file and the reason.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        fs::create_dir_all(files::folder_of(path))?;
        let text = self.to_toml();
        files::write(path, Existing::Replace, |file| file.write_all(text.as_bytes()))?;
        Ok(())
    }

    fn to_toml(&self) -> String {
        let table = Table::try_from(self).unwrap_or_default();
        let mut text = String::from("# Settings of Impasto. The window writes this file, too.\n");
        for (name, comment, example) in FIELDS {
            text.push_str(&format!("\n# {comment}\n"));
            match (table.get(*name), example) {
                (Some(value), _) => text.push_str(&format!("{name} = {value}\n")),
                (None, Some(example)) => text.push_str(&format!("# {name} = {example}\n")),
                (None, None) => {}
            }
        }
        text
    }

    /// Refuses what cannot be used.
    ///
    /// # Errors
    /// Names the setting.
    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |field, message: String, hint: &str| {
            Err(Error::new(Code::InvalidParams { field }, message).hint(hint))
        };
        if self.device != AUTO && self.device.parse::<engine::DeviceId>().is_err() {
            let message = format!("there is no device `{}`", self.device);
            return wrong("device", message, "choose `auto`, `cpu` or `cuda:0`");
        }
        if let Some(threads) = self.threads.filter(|threads| !(1..=1024).contains(threads)) {
            return wrong("threads", format!("{threads} is no number of threads"), "1 to 1024");
        }
        if let Some(memory) = self.model_memory.filter(|memory| !(1..=4096).contains(memory)) {
            let message = format!("base models cannot stay loaded in {memory} GB");
            return wrong("model_memory", message, "1 to 4096");
        }
        if let Some(folder) = &self.output_folder {
            if !Path::new(folder).is_absolute() {
                let message = format!("`{folder}` is not a whole path");
                return wrong("output_folder", message, "choose the folder in the dialog");
            }
            files::prepare_folder(Path::new(folder)).map_err(|error| {
                Error::new(Code::InvalidParams { field: "output_folder" }, error.message())
                    .hint("choose a folder that you may write to")
            })?;
        }
        Ok(())
    }
}

/// Takes over what is right, field by field.
fn from_table(table: Table) -> (Settings, Vec<Notice>) {
    let mut notices = Vec::new();
    let mut good = Table::new();
    for (name, value) in table {
        if !FIELDS.iter().any(|(known, _, _)| *known == name) {
            let nearest = FIELDS
                .iter()
                .map(|(known, _, _)| (crate::library::edit_distance(&name, known), known))
                .min()
                .filter(|(distance, _)| *distance <= 3);
            notices.push(Notice {
                message: format!("The settings have an unknown key `{name}`."),
                hint: nearest.map(|(_, known)| format!("Did you mean `{known}`?")),
            });
            continue;
        }
        let mut with = good.clone();
        with.insert(name.clone(), value.clone());
        match Value::Table(with.clone()).try_into::<Settings>().map(|settings| settings.check()) {
            Ok(Ok(())) => good = with,
            Ok(Err(error)) => notices.push(refused(&name, &value, error.message())),
            Err(error) => notices.push(refused(&name, &value, error.message())),
        }
    }
    (Value::Table(good).try_into().unwrap_or_default(), notices)
}

fn refused(name: &str, value: &Value, reason: &str) -> Notice {
    Notice {
        message: format!("The setting `{name} = {value}` cannot be used: {reason}."),
        hint: Some("Its default is used.".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_back_with_their_comments() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config/settings.toml");
        let settings = Settings {
            theme: Theme::Dark,
            model_folders: vec!["/a \"b\"".into(), "/c".into()],
            threads: Some(3),
            confirm_delete: true,
            ..Settings::default()
        };
        settings.write(&path).unwrap();
        assert_eq!(Settings::read(&path), (settings, Vec::new()));
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().filter(|line| line.starts_with("# ")).count(), FIELDS.len() + 3);
    }

    #[test]
    fn every_field_is_in_the_file() {
        let all = Settings {
            output_folder: Some("/x".into()),
            threads: Some(1),
            model_memory: Some(8),
            ..Settings::default()
        };
        let table = Table::try_from(&all).unwrap();
        let known: Vec<_> = FIELDS.iter().map(|(name, _, _)| *name).collect();
        let mut names: Vec<_> = table.keys().map(String::as_str).collect();
        names.sort_by_key(|name| known.iter().position(|known| known == name));
        assert_eq!(names, known);
    }

    #[test]
    fn wrong_values_cost_only_themselves() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.toml");
        fs::write(&path, "teme = 1\nthreads = -3\nnotify = false\ntheme = \"pink\"\n").unwrap();
        let (settings, notices) = Settings::read(&path);
        assert_eq!(settings, Settings { notify: false, ..Settings::default() });
        assert_eq!(notices.len(), 3, "{notices:?}");
        let hints: Vec<_> = notices.iter().filter_map(|notice| notice.hint.as_deref()).collect();
        assert!(hints.contains(&"Did you mean `theme`?"), "{hints:?}");

        fs::write(&path, "theme = ").unwrap();
        let (settings, notices) = Settings::read(&path);
        assert_eq!((settings, notices.len()), (Settings::default(), 1));
    }
}
