//! Runs the program and reads what it says and makes.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

/// The starter's folder in the repository.
pub(crate) const STARTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/starter");

/// A prompt of the starter's own.
pub(crate) const FOX: &str = "a fox on a light blue background";

/// An empty folder to run the program in, with nothing of this machine in reach.
pub(crate) struct Desk {
    folder: TempDir,
}

/// How a run ended.
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Desk {
    pub(crate) fn new() -> Desk {
        Desk { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program with options as a shell would split them; `{fox}` is the prompt.
    pub(crate) fn command(&self, options: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_impasto"));
        command.args(options.split_whitespace().map(|o| if o == "{fox}" { FOX } else { o }));
        self.isolate(&mut command);
        command
    }

    /// Makes a command see nothing but this folder.
    pub(crate) fn isolate(&self, command: &mut Command) {
        let home = self.path("home");
        command
            .current_dir(self.folder.path())
            .env("HOME", &home)
            .env("XDG_CACHE_HOME", home.join("cache"))
            .env("XDG_DATA_HOME", home.join("data"))
            .env_remove("XDG_CONFIG_HOME")
            .stdin(Stdio::null());
    }

    pub(crate) fn run(&self, options: &str) -> Run {
        Run::of(self.command(options).output().unwrap())
    }

    /// `generate` of a small picture of a fox: fails the test if it fails.
    pub(crate) fn draw(&self, options: &str) -> Run {
        let run = self.run(&small(options));
        assert_eq!(run.code, Some(0), "{options}: {}", run.stderr);
        run
    }

    /// The same with `--json`.
    pub(crate) fn draw_json(&self, options: &str) -> Value {
        serde_json::from_str(&self.draw(&format!("{options} --json")).stdout).unwrap()
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// A picture's RGB bytes.
    pub(crate) fn pixels(&self, name: &str) -> Vec<u8> {
        pixels(&self.path(name))
    }

    /// Puts a copy of the starter's base model here, to be damaged.
    pub(crate) fn copy_model(&self, name: &str) {
        let mut copy = Command::new("cp");
        copy.arg("-r").arg(format!("{STARTER}/model")).arg(self.path(name));
        assert!(copy.status().unwrap().success());
    }

    /// The names in a folder, sorted; none if there is no such folder.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(folder)) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| name != "home")
            .collect();
        names.sort();
        names
    }
}

impl Run {
    pub(crate) fn of(output: Output) -> Run {
        Run {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Options for a small picture of a fox.
pub(crate) fn small(options: &str) -> String {
    format!("generate --prompt {{fox}} --width 64 --height 64 --steps 3 {options}")
}

pub(crate) fn pixels(path: &Path) -> Vec<u8> {
    image::open(path).unwrap().into_rgb8().into_raw()
}

/// How far apart two pictures are: the mean difference of a byte.
pub(crate) fn apart(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    let sum: u64 = a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.len() as f64
}
