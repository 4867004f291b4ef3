//! The options of the window, as the person or the file manager gives them.

use std::path::PathBuf;

use clap::{Parser, ValueHint};

/// Stable Diffusion with stacked adapters, in a window.
#[derive(Debug, Parser)]
#[command(name = "impasto-studio", version, about)]
pub(crate) struct Args {
    /// Keep everything in this folder: pictures, models, settings, the window's place
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub(crate) data_dir: Option<PathBuf>,

    /// Files to open, as if they were dropped on the window
    #[arg(value_name = "FILE", value_hint = ValueHint::AnyPath)]
    files: Vec<PathBuf>,
}

impl Args {
    /// The files as whole paths: the window that gets them may have been started elsewhere.
    pub(crate) fn files(&self) -> std::io::Result<Vec<PathBuf>> {
        self.files.iter().map(std::path::absolute).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_become_whole_paths() {
        let args = Args::parse_from(["impasto-studio", "--data-dir", "d", "a b.png", "/c"]);
        let files = args.files().unwrap();
        assert!(files[0].is_absolute() && files[0].ends_with("a b.png"));
        assert_eq!(files[1], PathBuf::from("/c"));
        assert_eq!(args.data_dir, Some("d".into()));
    }
}
