//! ComfyUI's `extra_model_paths.yaml`: folders elsewhere, section by section.
//!
//! Each section has a `base_path` and, by kind of model, folders in it, one a line. The file is another
//! program's and may be anything: it is read event by event, with bounds on its size, depth and number of
//! folders, and what stands before a damage still counts.

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Component, Path, PathBuf},
};

use fs_err as fs;
use yaml_rust2::{Event, parser::Parser};

use crate::library::file_name;

/// A longer file is none of ComfyUI's.
const MAX_SIZE: u64 = 256 << 10;

/// The format nests three deep.
const MAX_DEPTH: usize = 6;

/// More folders are no person's.
const MAX_FOLDERS: usize = 500;

/// Kinds of models that the library has something to do with; the others are upscalers, extensions, ….
const KINDS: &[&str] = &[
    "checkpoints",
    "loras",
    "vae",
    "vae_approx",
    "embeddings",
    "unet",
    "diffusion_models",
    "diffusers",
    "clip",
    "text_encoders",
];

/// What paths in the file may refer to.
pub(super) struct Surroundings<'a> {
    pub(super) home: Option<PathBuf>,
    pub(super) variable: &'a dyn Fn(&str) -> Option<String>,
}

impl Surroundings<'static> {
    pub(super) fn of_this_machine() -> Self {
        Surroundings { home: dirs::home_dir(), variable: &|name| std::env::var(name).ok() }
    }
}

/// The folders that the file names, those of the default section first, and what is wrong with it.
pub(super) fn read(path: &Path, around: &Surroundings<'_>) -> (Vec<PathBuf>, Option<String>) {
    let beside = path.parent().unwrap_or(path);
    let (sections, problem) = match text(path) {
        Ok(text) => sections(&text),
        Err(problem) => (Vec::new(), Some(problem)),
    };
    let problem = problem.map(|problem| {
        format!(
            "`{}` cannot be read: {problem}. Mend it there, or take it away; until then, folders \
             that only it names are left out.",
            file_name(path)
        )
    });
    let (first, then): (Vec<_>, Vec<_>) = sections.iter().partition(|section| section.is_default());
    let folders = first.into_iter().chain(then).flat_map(|section| section.folders(beside, around));
    (folders.take(MAX_FOLDERS).collect(), problem)
}

fn text(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAX_SIZE + 1).read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err("it is too long for a list of folders".into());
    }
    let text = String::from_utf8(bytes).map_err(|_| "it is not in UTF-8")?;
    Ok(text.trim_start_matches('\u{feff}').to_owned())
}

/// Keys and values of one section; a value may be a list.
#[derive(Debug, Default)]
struct Section(Vec<(String, Vec<String>)>);

impl Section {
    fn value(&self, key: &str) -> Option<&str> {
        let (_, values) = self.0.iter().find(|(own, _)| own == key)?;
        values.first().map(|value| value.trim())
    }

    fn is_default(&self) -> bool {
        self.value("is_default").is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    fn folders(&self, beside: &Path, around: &Surroundings<'_>) -> Vec<PathBuf> {
        let base = self.value("base_path").map(|base| beside.join(around.expand(base)));
        let base = base.as_deref().unwrap_or(beside);
        let kinds = self.0.iter().filter(|(key, _)| KINDS.contains(&key.as_str()));
        let lines = kinds.flat_map(|(_, values)| values.iter().flat_map(|value| value.lines()));
        let lines = lines.map(str::trim).filter(|line| !line.is_empty());
        lines.map(|line| plain(&base.join(around.expand(line)))).collect()
    }
}

impl Surroundings<'_> {
    /// A path with `~`, `$NAME` and `${NAME}` filled in; what is not known stays as it is written.
    fn expand(&self, path: &str) -> PathBuf {
        let mut full = String::new();
        let mut rest = path;
        while let Some(at) = rest.find('$') {
            full.push_str(&rest[..at]);
            rest = &rest[at..];
            let braced = rest.strip_prefix("${").and_then(|inside| inside.split_once('}'));
            let word = rest[1..]
                .find(|one: char| !one.is_ascii_alphanumeric() && one != '_')
                .map_or(rest, |end| &rest[..=end]);
            let (name, length) = match braced {
                Some((name, _)) => (name, name.len() + 3),
                None => (&word[1..], word.len()),
            };
            match (self.variable)(name).filter(|_| !name.is_empty()) {
                Some(value) => full.push_str(&value),
                None => full.push_str(&rest[..length]),
            }
            rest = &rest[length..];
        }
        full.push_str(rest);
        let home = self.home.as_ref().zip(full.strip_prefix('~'));
        match home {
            Some((home, "")) => home.clone(),
            Some((home, rest)) if rest.starts_with(['/', '\\']) => home.join(&rest[1..]),
            _ => full.into(),
        }
    }
}

/// A path without `.` and `..`, so that one folder has one name.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    plain
}

/// The sections of a text, and what is wrong with it where it ends early.
fn sections(text: &str) -> (Vec<Section>, Option<String>) {
    let mut reader = Reader::default();
    let mut parser = Parser::new_from_str(text);
    loop {
        match parser.next_token() {
            Ok((Event::StreamEnd, _)) => return (reader.sections, None),
            Ok((event, mark)) => {
                if let Err(problem) = reader.take(event) {
                    reader.end();
                    let problem = format!("{problem} in line {}", mark.line());
                    return (reader.sections, Some(problem));
                }
            }
            Err(error) => {
                reader.end();
                let problem = format!("{} in line {}", error.info(), error.marker().line());
                return (reader.sections, Some(problem));
            }
        }
    }
}

/// Takes the events of a file in. Only mappings of texts in a mapping say anything.
#[derive(Default)]
struct Reader {
    sections: Vec<Section>,
    /// What is open: for a mapping its last key, `None` in front of one.
    open: Vec<Level>,
    anchors: BTreeMap<usize, String>,
}

enum Level {
    Map { key: Option<String> },
    List,
}

impl Reader {
    fn take(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::MappingStart(..) => self.begin(Level::Map { key: None })?,
            Event::SequenceStart(..) => self.begin(Level::List)?,
            Event::MappingEnd | Event::SequenceEnd => {
                self.open.pop();
                self.valued();
            }
            Event::Scalar(text, _, anchor, _) => {
                if anchor > 0 {
                    self.anchors.insert(anchor, text.clone());
                }
                self.text(text)?;
            }
            // Of what is said twice, only texts are looked up: nothing grows by being repeated.
            Event::Alias(anchor) => {
                let text = self.anchors.get(&anchor).cloned().unwrap_or_default();
                self.text(text)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, level: Level) -> Result<(), String> {
        if self.open.len() >= MAX_DEPTH {
            return Err("it is nested too deeply".into());
        }
        if let Some(Level::Map { key: None }) = self.open.last() {
            return Err("a name is expected".into());
        }
        self.open.push(level);
        // The second mapping is a section.
        if self.open.len() == 2 && matches!(self.open[1], Level::Map { .. }) {
            self.sections.push(Section::default());
        }
        Ok(())
    }

    fn text(&mut self, text: String) -> Result<(), String> {
        match self.open.last_mut() {
            Some(Level::Map { key: key @ None }) => *key = Some(text),
            Some(_) => {
                self.value(text);
                self.valued();
            }
            None if text.trim().is_empty() => {}
            None => return Err("it has no sections".into()),
        }
        Ok(())
    }

    /// Takes a value of a section.
    fn value(&mut self, text: String) {
        let (Some(section), [Level::Map { .. }, Level::Map { key: Some(key) }, list @ ..]) =
            (self.sections.last_mut(), &self.open[..])
        else {
            return;
        };
        match section.0.last_mut().filter(|(own, _)| own == key && !list.is_empty()) {
            Some((_, values)) => values.push(text),
            None => section.0.push((key.clone(), vec![text])),
        }
    }

    /// What was open has its value; in a mapping, a key comes next.
    fn valued(&mut self) {
        if let Some(Level::Map { key }) = self.open.last_mut() {
            *key = None;
        }
    }

    fn end(&mut self) {
        self.open.clear();
    }
}
