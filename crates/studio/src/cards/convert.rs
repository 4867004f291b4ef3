//! Models of the library written anew, on a thread of their own.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use engine::checkpoint::convert::Stored;

use super::{
    Cards, File, copy,
    types::{ConvertPlan, ConvertWish, StoredName},
};
use crate::{
    AdapterParams, Code, Error, Failure, Kind, Result,
    convert::NewModel,
    event::{ConvertProgress, Event},
    files::{self, Existing},
    library, worker,
};

/// Writing gigabytes leaves the processor to pictures.
const NICE: i32 = 10;

impl Cards {
    /// What writing a model anew would give, from headers alone.
    pub(crate) fn plan_conversion(&self, id: u32, wish: &ConvertWish) -> Result<ConvertPlan> {
        let file = self.file(id)?;
        let place = self.place_of(&file);
        let path = path_of(&file, &place, wish)?;
        let new = self.plan_model(&file, &path, wish)?;
        let free_name = check_free(&path);
        Ok(ConvertPlan {
            name: library::model_name(&path),
            place: place.display().to_string(),
            bytes: new.size(),
            free: files::free_space(&place),
            from_folder: file.entry.path.is_dir(),
            problem: free_name.and_then(|()| new.check_room()).err().map(Failure::from),
        })
    }

    /// The model that a wish describes, with its stack written into it.
    fn plan_model(&self, file: &File, path: &Path, wish: &ConvertWish) -> Result<NewModel> {
        let names = self.names()?;
        let mut stack = Vec::new();
        let acting = |adapter: &&AdapterParams| adapter.enabled && !adapter.is_nothing();
        for adapter in wish.adapters.iter().filter(acting) {
            let found = names.find(Kind::Adapter, &adapter.file)?;
            stack.push(adapter.to_use(found.path)?);
        }
        NewModel::plan_blend(&file.entry.path, &stack, path, wish.precision.map(Into::into))
    }

    /// Begins to write a model anew; events tell how it goes, and its card comes by itself.
    pub(crate) fn convert(&self, id: u32, wish: &ConvertWish) -> Result<()> {
        let file = self.file(id)?;
        let place = self.place_of(&file);
        files::prepare_folder(&place)?;
        let path = path_of(&file, &place, wish)?;
        check_free(&path)?;
        let new = self.plan_model(&file, &path, wish)?;
        new.check_room()?;
        // What people say of a model is not true of a blend.
        let with_sidecars = wish.adapters.is_empty();

        let stop = Arc::new(AtomicBool::new(false));
        {
            let mut all = self.0.conversions.lock().unwrap_or_else(PoisonError::into_inner);
            if all.contains_key(&id) {
                let message = "this model is being converted already";
                return Err(Error::new(Code::Unknown, message).hint("wait for it, or stop it"));
            }
            all.insert(id, stop.clone());
        }
        let cards = self.clone();
        let spawned = std::thread::Builder::new().name("convert".into()).spawn(move || {
            worker::lower_priority(NICE);
            let tell = |done, made, error| {
                let total = new.size();
                let progress = ConvertProgress { card: id, done, total, made, error };
                cards.0.events.send(&Event::Converting(progress));
            };
            let (mut done, mut told) = (0, Instant::now());
            tell(0, None, None);
            let written = new.write(Existing::Keep, &mut |bytes| {
                done += bytes;
                if told.elapsed() > copy::PROGRESS {
                    told = Instant::now();
                    tell(done, None, None);
                }
                !stop.load(Ordering::Relaxed)
            });
            let made = written.and_then(|()| {
                if with_sidecars {
                    copy::copy_sidecars(&file.entry.path, &path);
                }
                cards.take(library::entry(&cards.0.data.models(), path.clone()), Some(0))
            });
            cards.0.conversions.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            match made {
                Ok(made) => tell(new.size(), Some(made), None),
                Err(error) => tell(done, None, Some(Failure::from(&error))),
            }
        });
        if let Err(error) = spawned {
            self.0.conversions.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            return Err(error.into());
        }
        Ok(())
    }

    /// Stops a conversion; what was written goes.
    pub(crate) fn cancel_conversion(&self, id: u32) {
        let all = self.0.conversions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stop) = all.get(&id) {
            stop.store(true, Ordering::Relaxed);
        }
    }

    /// Where a new model goes: beside the old one in our own folder, else into ours.
    fn place_of(&self, file: &File) -> PathBuf {
        let own = self.0.data.models();
        let beside = file.entry.path.parent().filter(|folder| folder.starts_with(&own));
        beside.map_or_else(|| own.join(copy::shelf_of(file.reading.kind)), Path::to_owned)
    }
}

impl From<StoredName> for Stored {
    fn from(stored: StoredName) -> Stored {
        match stored {
            StoredName::F32 => Stored::F32,
            StoredName::F16 => Stored::F16,
            StoredName::Bf16 => Stored::Bf16,
        }
    }
}

/// Where a wish leads: to its name, or one that is free.
fn path_of(file: &File, place: &Path, wish: &ConvertWish) -> Result<PathBuf> {
    let ending = if wish.folder { "" } else { ".safetensors" };
    let Some(name) = wish.name.as_deref().map(str::trim) else {
        let own = file.entry.name.rsplit('/').next().unwrap_or_default();
        let blend = if wish.adapters.is_empty() { "" } else { "-blend" };
        let suffix = match wish.precision {
            Some(StoredName::F32) => "-f32",
            Some(StoredName::F16) => "-f16",
            Some(StoredName::Bf16) => "-bf16",
            None => "",
        };
        return Ok(copy::free_name(place, &format!("{own}{blend}{suffix}{ending}")));
    };
    let invalid = |message: String, hint: &str| {
        Err(Error::new(Code::InvalidParams { field: "name" }, message).hint(hint))
    };
    let wrong = |one: char| one.is_control() || "/\\:*?\"<>|".contains(one);
    if name.is_empty() {
        return invalid("the new file needs a name".into(), "write one");
    }
    if name.starts_with('.') || name.contains(wrong) {
        let hint = "leave out slashes, other signs that file names cannot have, and a dot in front";
        return invalid(format!("`{name}` is no name for a file"), hint);
    }
    let name = name.strip_suffix(".safetensors").unwrap_or(name);
    Ok(place.join(format!("{name}{ending}")))
}

fn check_free(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let message = format!("`{}` is there already", library::file_name(path));
    let error = Error::new(Code::InvalidParams { field: "name" }, message);
    Err(error.hint("choose another name; nothing is replaced"))
}
