//! Where models lie: plain folders, and those of other programs, which are read in place and never
//! written to.
//!
//! A folder's program is told by what lies in it, and only where that program keeps models is searched:
//! not its pictures, its Python, its extensions.
//!
//! # Adding a program
//!
//! Add a record to [`PROGRAMS`].

mod extra_paths;
mod hub;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use fs_err as fs;

use self::extra_paths::Surroundings;
use crate::{
    error::sentence,
    library::{Walk, same_file},
};

/// A program that keeps models in folders of its own.
#[derive(Debug)]
pub struct Program {
    /// What a person calls it.
    pub name: &'static str,
    /// What only its root has: everything of one of these rows.
    marks: &'static [&'static [&'static str]],
    /// Where its root lies in what a person may take for it.
    inside: &'static [&'static str],
    layout: Layout,
    /// Where it is found on most machines.
    usual: &'static [(Base, &'static str)],
}

/// How a program keeps its models.
#[derive(Debug)]
enum Layout {
    /// In folders of its root, searched to the bottom.
    Shelves {
        models: &'static [&'static str],
        /// What lies in them and is for the program alone.
        left_out: &'static [&'static str],
        /// A file of ComfyUI's that names more folders.
        more: Option<&'static str>,
    },
    /// As downloads with their history.
    Hub,
}

/// What usual places are told from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    Home,
    Documents,
    Data,
    Cache,
}

/// The programs, those first that have the marks of another as well.
const PROGRAMS: &[Program] = &[
    Program {
        name: "Forge",
        marks: &[&["modules_forge", "models/Stable-diffusion"]],
        inside: &["", "webui"],
        layout: A1111_LAYOUT,
        usual: &[
            (Base::Home, "stable-diffusion-webui-forge"),
            (Base::Home, "sd-webui-forge"),
            (Base::Home, "webui-forge"),
            (Base::Home, "forge"),
            (Base::Data, "stable-diffusion-webui-forge"),
        ],
    },
    Program {
        name: "AUTOMATIC1111",
        marks: &[&["models/Stable-diffusion"]],
        inside: &["", "webui"],
        layout: A1111_LAYOUT,
        usual: &[
            (Base::Home, "stable-diffusion-webui"),
            (Base::Home, "sd-webui"),
            (Base::Home, "automatic1111"),
            (Base::Data, "stable-diffusion-webui"),
        ],
    },
    Program {
        name: "InvokeAI",
        marks: &[&["invokeai.yaml"], &["databases/invokeai.db"], &["databases", "models"]],
        inside: &[""],
        layout: Layout::Shelves {
            models: &["models", "autoimport"],
            left_out: &["core"],
            more: None,
        },
        usual: &[(Base::Home, "invokeai"), (Base::Home, "InvokeAI"), (Base::Data, "invokeai")],
    },
    Program {
        name: "ComfyUI",
        marks: &[
            &["folder_paths.py", "models"],
            &["custom_nodes", "models"],
            &["models/checkpoints", "models/loras"],
            &[EXTRA_PATHS],
        ],
        inside: &["", "ComfyUI"],
        layout: Layout::Shelves {
            models: &[
                "models/checkpoints",
                "models/loras",
                "models/vae",
                "models/vae_approx",
                "models/embeddings",
                "models/unet",
                "models/diffusion_models",
                "models/diffusers",
                "models/clip",
                "models/text_encoders",
            ],
            left_out: &[],
            more: Some(EXTRA_PATHS),
        },
        usual: &[
            (Base::Home, "ComfyUI"),
            (Base::Home, "comfyui"),
            (Base::Home, "comfy/ComfyUI"),
            (Base::Documents, "ComfyUI"),
            (Base::Data, "ComfyUI"),
            (Base::Data, "comfyui"),
        ],
    },
    Program {
        name: "Hugging Face",
        marks: &[],
        inside: &["", "hub"],
        layout: Layout::Hub,
        usual: &[(Base::Cache, "huggingface/hub")],
    },
];

/// Forge has the folders of AUTOMATIC1111, and some of its own.
const A1111_LAYOUT: Layout = Layout::Shelves {
    models: &[
        "models/Stable-diffusion",
        "models/Lora",
        "models/LyCORIS",
        "models/VAE",
        "models/VAE-approx",
        "models/embeddings",
        "models/text_encoder",
        "models/diffusers",
        "embeddings",
    ],
    left_out: &[],
    more: None,
};

/// Where ComfyUI is told of folders elsewhere.
const EXTRA_PATHS: &str = "extra_model_paths.yaml";

/// A folder with models as a person names it.
#[derive(Debug)]
pub struct Place {
    /// As it was named.
    pub folder: PathBuf,
    /// Whose it is; `None`: a plain folder.
    pub program: Option<&'static Program>,
    /// What keeps it from being read, or a part of it: whole sentences.
    pub problem: Option<String>,
    root: PathBuf,
    shelves: Vec<PathBuf>,
}

impl Place {
    /// Looks what a folder is, and where in it models lie.
    #[must_use]
    pub fn at(folder: &Path) -> Place {
        Place::seen_from(folder, &Surroundings::of_this_machine())
    }

    /// A folder all of which is searched, whatever it looks like.
    pub(crate) fn plain(folder: &Path) -> Place {
        Place {
            folder: folder.to_owned(),
            program: None,
            problem: fs::read_dir(folder).err().map(|error| sentence(&error.to_string())),
            root: folder.to_owned(),
            shelves: vec![folder.to_owned()],
        }
    }

    fn seen_from(folder: &Path, around: &Surroundings<'_>) -> Place {
        let plain = Place::plain(folder);
        let Some((program, root)) = recognize(folder) else { return plain };
        let mut place = Place { program: Some(program), root, shelves: Vec::new(), ..plain };
        match &program.layout {
            Layout::Hub => place.shelves.push(place.root.clone()),
            Layout::Shelves { models, more, .. } => {
                place.shelves.extend(models.iter().map(|shelf| place.root.join(shelf)));
                place.shelves.retain(|shelf| shelf.is_dir());
                let extra = more.map(|name| place.root.join(name)).filter(|file| file.is_file());
                if let Some(file) = extra {
                    let (folders, problem) = extra_paths::read(&file, around);
                    place.shelves.extend(folders);
                    place.problem = place.problem.or(problem);
                }
            }
        }
        let mut once = BTreeSet::new();
        place.shelves.retain(|shelf| once.insert(shelf.clone()));
        place
    }

    /// Lists the models in it.
    pub(crate) fn list(&self, walk: &mut Walk) {
        match self.program.map(|program| &program.layout) {
            None => walk.folder(&self.root),
            Some(Layout::Hub) => hub::list(&self.root, walk),
            Some(Layout::Shelves { left_out, .. }) => {
                // None is listed as a part of another, whatever links there are.
                for shelf in &self.shelves {
                    walk.first_time(shelf);
                }
                for shelf in &self.shelves {
                    walk.shelf(shelf, left_out);
                }
            }
        }
    }

    /// Where changes matter: what is searched to the bottom.
    pub(crate) fn shelves(&self) -> impl Iterator<Item = &Path> {
        self.shelves.iter().map(PathBuf::as_path).filter(|shelf| shelf.is_dir())
    }

    /// What is not there now, on a drive that is unplugged for instance.
    pub(crate) fn lost(&self) -> impl Iterator<Item = &Path> {
        self.shelves.iter().map(PathBuf::as_path).filter(|shelf| fs::read_dir(shelf).is_err())
    }
}

/// Whose folder it is, and where its root lies.
fn recognize(folder: &Path) -> Option<(&'static Program, PathBuf)> {
    // A path that nothing is joined to would end in a slash.
    let within = |inside: &str| match inside {
        "" => folder.to_owned(),
        inside => folder.join(inside),
    };
    // A program that lies right here goes before one that lies deeper.
    (0..=1).find_map(|depth| {
        PROGRAMS.iter().find_map(|program| {
            let root = within(program.inside.get(depth)?);
            let marked = match program.layout {
                Layout::Hub => hub::is_one(&root),
                Layout::Shelves { .. } => {
                    program.marks.iter().any(|row| row.iter().all(|mark| root.join(mark).exists()))
                }
            };
            marked.then_some((program, root))
        })
    })
}

/// Where other programs are on most machines, whether or not they are on this one.
#[must_use]
pub fn usual() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let named = [
        variable("HF_HUB_CACHE").map(PathBuf::from),
        variable("HF_HOME").map(|home| PathBuf::from(home).join("hub")),
    ];
    let base = |base| match base {
        Base::Home => dirs::home_dir(),
        Base::Documents => dirs::document_dir(),
        Base::Data => dirs::data_dir(),
        Base::Cache => dirs::cache_dir(),
    };
    let usual = PROGRAMS.iter().flat_map(|program| program.usual);
    let usual = usual.filter_map(|(from, path)| Some(base(*from)?.join(path)));
    named.into_iter().flatten().chain(usual).collect()
}

/// Those of some folders that belong to a program and are not among the known ones, each once.
pub(crate) fn programs_in(candidates: &[PathBuf], known: &[PathBuf]) -> Vec<Place> {
    let mut found: Vec<Place> = Vec::new();
    for candidate in candidates.iter().filter(|folder| folder.is_dir()) {
        let mut seen = known.iter().chain(found.iter().map(|place| &place.folder));
        if seen.any(|other| same_file(other, candidate)) {
            continue;
        }
        let place = Place::at(candidate);
        if place.program.is_some() {
            found.push(place);
        }
    }
    found
}

#[cfg(test)]
mod tests;
