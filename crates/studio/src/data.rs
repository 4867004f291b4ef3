//! Where everything lies that is not a picture: the data folder and its relatives.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use fs_err as fs;

use crate::{Code, Error, Folders, Result, files, places, starter::Starter};

/// Where a studio keeps things.
#[derive(Debug, Clone)]
pub struct DataFolder {
    /// Database, models, first pictures, covers, log.
    pub data: PathBuf,
    /// What can be deleted at any time: thumbnails, hashes.
    pub cache: PathBuf,
    /// The settings' file.
    pub settings: PathBuf,
    /// Where pictures go unless the settings say otherwise.
    pub pictures: PathBuf,
    /// The starter that comes with the program.
    pub starter: Option<PathBuf>,
    /// Where other programs may be, whose models are offered then.
    pub others: Vec<PathBuf>,
}

impl DataFolder {
    /// The platform's folders.
    ///
    /// # Errors
    /// Fails on a machine that has no home for data; a folder can be named then.
    pub fn of_this_machine() -> Result<DataFolder> {
        let folder = |folder: Option<PathBuf>| {
            folder.map(|folder| folder.join("impasto")).ok_or_else(|| {
                Error::new(Code::MissingFile, "this machine has no folder for a person's data")
                    .hint("name one with --data-dir")
            })
        };
        let data = folder(dirs::data_dir())?;
        let pictures = dirs::picture_dir().filter(|folder| folder.is_dir());
        Ok(DataFolder {
            cache: folder(dirs::cache_dir())?,
            settings: folder(dirs::config_dir())?.join("settings.toml"),
            pictures: pictures.map_or_else(|| data.join("pictures"), |home| home.join("Impasto")),
            starter: Starter::folder(),
            others: places::usual(),
            data,
        })
    }

    /// Everything in one folder: for tests, and to carry it about.
    #[must_use]
    pub fn at(folder: &Path) -> DataFolder {
        DataFolder {
            data: folder.to_owned(),
            cache: folder.join("cache"),
            settings: folder.join("settings.toml"),
            pictures: folder.join("pictures"),
            starter: Starter::folder(),
            others: Vec::new(),
        }
    }

    /// Makes the folders that are not there yet.
    pub(crate) fn create(&self) -> Result<()> {
        for folder in [&self.data, &self.cache, &self.inputs(), &self.covers(), &self.thumbnails()]
        {
            fs::create_dir_all(folder)?;
        }
        for name in ["checkpoints", "adapters", "vae", "embeddings"] {
            fs::create_dir_all(self.models().join(name))?;
        }
        Ok(())
    }

    /// Takes away what the program left half-written here when it was killed. Only for who holds the
    /// folder's lock: nobody else writes into these.
    pub(crate) fn sweep(&self) {
        let models = fs::read_dir(self.models()).into_iter().flatten().flatten();
        let own = [self.data.clone(), self.inputs(), self.covers(), self.thumbnails()];
        let own = own.into_iter().chain([self.cache.join("covers")]);
        for folder in own.chain(models.map(|entry| entry.path())) {
            files::sweep(&folder, Duration::ZERO);
        }
        // The command line keeps hashes here.
        files::sweep(&self.cache, Duration::from_secs(10));
    }

    /// The library's own folder, with `checkpoints`, `adapters`, `vae` and `embeddings` in it.
    #[must_use]
    pub fn models(&self) -> PathBuf {
        self.data.join("models")
    }

    /// Pictures to start from.
    pub(crate) fn inputs(&self) -> PathBuf {
        self.data.join("inputs")
    }

    /// Covers that the person chose.
    pub(crate) fn covers(&self) -> PathBuf {
        self.data.join("covers")
    }

    pub(crate) fn thumbnails(&self) -> PathBuf {
        self.cache.join("thumbnails")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.data.join("studio.db")
    }

    /// The window's log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.data.join("log")
    }

    /// Where names of model files are looked up.
    pub(crate) fn folders(&self, models: Vec<PathBuf>) -> Folders {
        Folders {
            starter: self.starter.clone(),
            models,
            data: Some(self.models()),
            cache: Some(self.cache.clone()),
            beside: vec![self.inputs()],
        }
    }
}
