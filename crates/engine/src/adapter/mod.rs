//! Adapters: files of weight changes for modules of a base model.
//!
//! [`Outline::open`] reads the headers and groups the tensors into modules by their suffixes.
//! [`Outline::fit`] looks each module up among all known spellings of the base model's modules and
//! compares shapes: what does not fit is listed with its reason, never left out in silence.
//! [`Outline::add_delta`] computes one module's change, from the file and the unpatched base.
//!
//! # Units
//!
//! A change is `weight · alpha / rank · …`, in f32, in the base weight's shape and order. The weight
//! is the person's; alpha is the file's, and a file without it means alpha = rank.
//!
//! # Adding an algorithm
//!
//! Write `adapter/<name>.rs` and add its record to [`ALGORITHMS`]. It is given the base weight and
//! the person's weight, so it may be anything from a sum to a rotation. A trainer that only *names*
//! things differently is one row in [`spelling`].
//!
//! **Invariant:** a change depends on the adapter, the unpatched base and the weight, and on nothing
//! else: not on other adapters, not on the number of threads.

mod adalora;
pub mod block;
pub mod curve;
mod dora;
mod full;
mod glora;
mod ia3;
mod known;
mod loha;
mod lokr;
mod lora;
mod numbered;
pub(crate) mod parts;
pub(crate) mod patch;
mod peft;
mod rotation;
mod spelling;
pub mod strength;
mod target;
mod tlora;
pub(crate) mod way;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

use fs_err as fs;

pub use parts::{Base, Delta};
use parts::{COMMON, Group, Parts, Suffix};
use peft::Settings;
use spelling::{Spelled, Spellings};
pub use target::Target;

use crate::{
    Error, Result,
    architecture::Modules,
    checkpoint::header::{TensorFile, TensorInfo},
    inspect::{
        self,
        family::{self, Family},
    },
    text::embedding::{self, Embedding},
};

/// How an adapter stores its changes.
#[derive(Debug)]
pub struct Algorithm {
    /// Written into files; never changes once released.
    pub id: &'static str,
    /// Shown to the person.
    pub name: &'static str,
    /// How its tensors' names end, and which part that is.
    suffixes: &'static [Suffix],
    /// Whether a module with these parts is of this algorithm. The first in the table is taken.
    recognizes: fn(&Parts) -> bool,
    /// The module's rank, where it has one.
    pub(crate) rank: fn(&Parts) -> Option<usize>,
    /// How many numbers the module takes in, as far as the parts show it (without a kernel's taps).
    pub(crate) inputs: fn(&Parts) -> Option<usize>,
    /// `None` if the algorithm is only recognized.
    apply: Option<Apply>,
}

impl Algorithm {
    /// Whether adapters of this algorithm can be used.
    #[must_use]
    pub fn is_supported(&self) -> bool {
        self.apply.is_some()
    }
}

/// What an algorithm does.
#[derive(Debug, Clone, Copy)]
struct Apply {
    /// Whether the parts make up a change for a base weight of this shape. Decides by the header.
    fits: fn(&Parts, &[usize]) -> bool,
    /// Adds the change of a base weight, at a weight of the adapter, to the sum. Only called if the parts
    /// fit.
    add_delta: fn(&Parts, &Base<'_>, f64, &mut Delta) -> Result<()>,
}

/// Every algorithm, the more particular before those that they build on.
pub static ALGORITHMS: &[&Algorithm] = &[
    &dora::DORA,
    &adalora::ADALORA,
    &lora::OF_TABLE,
    &known::SPARSE,
    &lora::LOCON,
    &lora::LORA,
    &loha::LOHA,
    &lokr::LOKR,
    &tlora::TLORA,
    &rotation::BOFT,
    &rotation::OFT,
    &rotation::INPUT_OFT,
    &rotation::HRA,
    &glora::GLORA,
    &ia3::IA3,
    &full::FULL,
    &full::NORM,
    &known::BOFT_OF_INPUTS,
    &known::REPLACEMENT,
    &known::VERA,
    &known::FOURIER,
    &known::TLORA_ALONE,
];

/// PEFT's tensors whose names may have the adapter's name between them and `.weight`.
const NAMED_PARTS: &[&str] =
    &["lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector"];

/// File names that a folder with an adapter may use.
const CONFIG: &str = "adapter_config.json";
/// The better format first.
const WEIGHTS: &[&str] = &["adapter_model.safetensors", "adapter_model.bin"];
const DIFFUSERS_WEIGHTS: &[&str] =
    &["pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin"];
/// PEFT folders of a whole pipeline.
const COMPONENT_FOLDERS: &[&str] = &["unet", "text_encoder", "text_encoder_2"];

/// A name in a file, or a module, with what is the matter with it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// As the file names it, or the canonical name if the module is in the base model.
    pub name: String,
    /// A clause: "LoKr is not supported yet".
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}

/// What each adapter did.
#[derive(Debug, Clone, Default)]
pub struct PatchReport {
    /// One per adapter, in the order of the request.
    pub adapters: Vec<AdapterReport>,
}

/// What one adapter did.
#[derive(Debug, Clone)]
pub struct AdapterReport {
    /// The file's name without its extension.
    pub name: String,
    /// Modules that were changed, by canonical name.
    pub applied: Vec<String>,
    /// How many of them were changed beside the layer, as weights change over the steps; the others in it.
    pub beside: usize,
    /// What in the file could not be used.
    pub unmatched: Vec<Problem>,
    /// Modules of the base model whose weight has another shape than the change.
    pub wrong_shape: Vec<Problem>,
}

impl AdapterReport {
    /// The report on an adapter for the base model that it was fitted to.
    #[must_use]
    pub fn new(adapter: &Outline, fit: &Fit) -> AdapterReport {
        AdapterReport {
            name: adapter.name().to_owned(),
            applied: fit.modules().map(str::to_owned).collect(),
            beside: 0,
            unmatched: fit.unmatched.clone(),
            wrong_shape: fit.wrong_shape.clone(),
        }
    }
}

/// What the headers of an adapter's files say, grouped into modules.
#[derive(Debug)]
pub(crate) struct Contents {
    path: PathBuf,
    pub(crate) files: Vec<TensorFile>,
    /// Configuration files and what they said.
    configs: Vec<(PathBuf, Vec<u8>)>,
    /// One for each file and component: see [`Contents::settings`].
    settings: Vec<Vec<Settings>>,
    /// Modules with their algorithms, by spelling.
    groups: Vec<(Group, &'static Algorithm)>,
    /// Tensors that belong to no module.
    pub(crate) leftovers: Vec<Problem>,
    /// Names of embeddings that are in the file as well.
    pub(crate) embeddings: Vec<String>,
}

impl Contents {
    /// Reads the headers of a file, a PEFT folder, or a folder of those.
    pub(crate) fn open(path: &Path) -> Result<Contents> {
        let mut contents = Contents {
            path: path.to_owned(),
            files: Vec::new(),
            configs: Vec::new(),
            settings: Vec::new(),
            groups: Vec::new(),
            leftovers: Vec::new(),
            embeddings: Vec::new(),
        };
        if fs::metadata(path)?.is_dir() {
            let folders = [path.to_owned()].into_iter();
            let folders = folders.chain(COMPONENT_FOLDERS.iter().map(|name| path.join(name)));
            for folder in folders.filter(|folder| folder.join(CONFIG).is_file()) {
                contents.add_peft_folder(&folder)?;
            }
            if contents.files.is_empty() {
                let weights = first_of(path, DIFFUSERS_WEIGHTS);
                contents.add_file(&weights.unwrap_or(path.join(DIFFUSERS_WEIGHTS[0])), None)?;
            }
        } else {
            contents.add_file(path, None)?;
        }
        contents.groups.sort_by(|a, b| a.0.spelling.cmp(&b.0.spelling));
        contents.leftovers.sort();
        Ok(contents)
    }

    fn add_peft_folder(&mut self, folder: &Path) -> Result<()> {
        let Some(weights) = first_of(folder, WEIGHTS) else {
            return Err(Error::Incomplete {
                path: folder.to_owned(),
                missing: format!("it has no weights (`{}`)", WEIGHTS[0]),
                advice: "Get the folder again, with all its files".into(),
            });
        };
        let path = folder.join(CONFIG);
        let (bytes, config) = inspect::read_json(&path)?;
        let settings = Settings::from_config(&path, &config)?;
        self.configs.push((path, bytes));
        self.add_file(&weights, Some(settings))
    }

    fn add_file(&mut self, path: &Path, settings: Option<Settings>) -> Result<()> {
        let file = TensorFile::open(path)?;
        let index = self.files.len();
        let infix = single_infix(&file)?;
        let suffixes = all_suffixes();

        let list = numbered::of_list(file.tensors());
        let mut groups: BTreeMap<String, Group> = BTreeMap::new();
        for tensor in file.tensors().keys() {
            if let Some((name, _)) = embedding::in_bundle(&file, tensor) {
                self.embeddings.push(name.to_owned());
                continue;
            }
            // SimpleTuner's bookkeeping.
            if tensor.starts_with("_aux.") {
                continue;
            }
            let plain = infix.as_ref().and_then(|infix| without_infix(tensor, infix));
            let plain = plain.or_else(|| list.as_ref()?.get(tensor).cloned());
            let Some((spelling, part)) = split(plain.as_deref().unwrap_or(tensor), &suffixes)
            else {
                self.leftovers.push(Problem {
                    name: tensor.clone(),
                    reason: "its ending belongs to no known algorithm".into(),
                });
                continue;
            };
            let group = groups.entry(spelling.to_owned()).or_insert_with(|| Group {
                spelling: spelling.to_owned(),
                file: index,
                tensors: BTreeMap::new(),
            });
            if let Some(other) = group.tensors.insert(part, tensor.clone()) {
                self.leftovers.push(Problem {
                    name: other,
                    reason: format!("`{tensor}` is the same part of the same module"),
                });
            }
        }

        let metadata = file.metadata().get("lora_adapter_metadata");
        self.settings.push(match settings {
            Some(settings) => vec![settings],
            None => ["unet.", "text_encoder.", "text_encoder_2."]
                .map(|component| Settings::from_metadata(metadata, component))
                .into(),
        });
        self.embeddings.sort();
        self.embeddings.dedup();
        self.files.push(file);
        for group in groups.into_values() {
            let parts = self.parts(&group);
            match ALGORITHMS.iter().find(|algorithm| (algorithm.recognizes)(&parts)) {
                Some(algorithm) => self.groups.push((group, algorithm)),
                None => {
                    let reason =
                        format!("its parts ({}) make up no known change", parts.describe());
                    self.leftovers.push(Problem { name: group.spelling, reason });
                }
            }
        }
        Ok(())
    }

    /// The settings for a module: the file's only ones, or those of the component that it is
    /// spelled with. A spelling without a component has none, and needs none.
    fn settings(&self, group: &Group) -> &Settings {
        static NONE: Settings = Settings::NONE;
        match self.settings[group.file].as_slice() {
            [only] => only,
            several => several
                .iter()
                .find(|settings| {
                    settings.component.is_some_and(|name| group.spelling.starts_with(name))
                })
                .unwrap_or(&NONE),
        }
    }

    fn parts<'a>(&'a self, group: &'a Group) -> Parts<'a> {
        Parts { file: &self.files[group.file], group, settings: self.settings(group) }
    }

    /// Every module with its algorithm, by spelling.
    pub(crate) fn modules(&self) -> impl Iterator<Item = (Parts<'_>, &'static Algorithm)> {
        self.groups.iter().map(|(group, algorithm)| (self.parts(group), *algorithm))
    }
}

/// What an adapter's headers say: which modules it changes, and of what.
#[derive(Debug)]
pub struct Outline {
    contents: Contents,
    name: String,
    family: Family,
}

/// One adapter: a safetensors or PyTorch file, or a PEFT folder.
#[derive(Debug)]
pub struct Adapter {
    outline: Outline,
    hash: [u8; 32],
    embeddings: Vec<Embedding>,
    /// Of embeddings that cannot be used.
    problems: Vec<Problem>,
}

impl Outline {
    /// Reads the headers of a safetensors or PyTorch file; of a PEFT folder (`adapter_config.json` beside
    /// `adapter_model.safetensors` or `.bin`); of a folder of such folders, called `unet` and
    /// `text_encoder`; or of a folder that diffusers wrote (`pytorch_lora_weights.safetensors` or `.bin`).
    ///
    /// # Errors
    /// [`Error::WrongKind`] says what the file is instead of an adapter, [`Error::Incomplete`] what
    /// a folder lacks; otherwise the errors of [`TensorFile::open`].
    pub fn open(path: &Path) -> Result<Outline> {
        let contents = Contents::open(path)?;
        if contents.groups.is_empty() {
            let found = inspect::foreign(contents.files.iter().map(TensorFile::tensors));
            return Err(Error::WrongKind {
                path: path.to_owned(),
                wanted: "an adapter",
                found: found.unwrap_or("a file without changes of any known kind").to_owned(),
                advice: "Choose a LoRA file or a PEFT folder".into(),
            });
        }
        let name = path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into());
        let family = family::of_adapter(&contents);
        Ok(Outline { contents, name, family })
    }

    /// The file's name without its extension.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The family of base models that the adapter was made for, as far as its shapes, names and
    /// metadata tell.
    #[must_use]
    pub fn trained_for(&self) -> String {
        self.family.to_string()
    }

    /// Reads the embeddings that lie in its files, each by its name, or says why it cannot be used.
    pub fn embeddings(&self) -> impl Iterator<Item = (String, Result<Embedding>)> {
        self.contents.files.iter().flat_map(embedding::bundled)
    }

    /// Finds the adapter's modules in a base model.
    #[must_use]
    pub fn fit(&self, modules: &Modules) -> Fit {
        let mut spellings = Spellings::of(modules);
        let groups = self.contents.groups.iter().map(|(group, _)| group);
        let numbered: Vec<&Group> =
            groups.filter(|group| numbered::is_number(&group.spelling)).collect();
        spellings.add(numbered::spellings(modules, &numbered));
        let mut fit = Fit { context: family::context_width(modules), ..Fit::default() };
        let mut found: BTreeMap<&str, (&Spelled, usize)> = BTreeMap::new();
        let mut foreign = 0;
        for (index, (group, algorithm)) in self.contents.groups.iter().enumerate() {
            let parts = self.contents.parts(group);
            self.report_extra_parts(&parts, algorithm, &mut fit);
            let component = parts.settings.component;
            let Some(spelled) = spellings.get(&group.spelling, component) else {
                foreign += usize::from(!family::is_text_encoder(&group.spelling));
                let reason = match numbered::is_number(&group.spelling) {
                    true => "the base model has another number of layers than the file",
                    false => "the base model has no module of this name",
                };
                fit.unmatched
                    .push(Problem { name: group.spelling.clone(), reason: reason.to_owned() });
                continue;
            };
            let Some(apply) = algorithm.apply else {
                fit.unsupported.insert(algorithm.id);
                fit.unmatched.push(Problem {
                    name: spelled.module.clone(),
                    reason: format!("{} is not supported yet", algorithm.name),
                });
                continue;
            };
            let shape = &modules[&spelled.module];
            if let Some(part) = COMMON
                .iter()
                .map(|(_, part)| part)
                .find(|part| parts.elements(part).is_some_and(|elements| elements != 1))
            {
                fit.wrong_shape.push(Problem {
                    name: spelled.module.clone(),
                    reason: format!("its {part} is not a single number"),
                });
                continue;
            }
            if !(apply.fits)(&parts, shape) || !full::bias_fits(&parts, shape) {
                fit.wrong_shape.push(Problem {
                    name: spelled.module.clone(),
                    reason: format!("{} for a weight of {shape:?}", parts.describe()),
                });
                continue;
            }
            let slot = found.entry(&spelled.module).or_insert((spelled, index));
            if slot.1 != index {
                // A module under two names: the spelling further up in the table is taken.
                let loser = if spelled.rank < slot.0.rank {
                    std::mem::replace(slot, (spelled, index)).1
                } else {
                    index
                };
                fit.unmatched.push(Problem {
                    name: self.contents.groups[loser].0.spelling.clone(),
                    reason: "the file has this module under another name as well, which is used"
                        .into(),
                });
            }
        }
        fit.modules =
            found.into_iter().map(|(name, (_, group))| (name.to_owned(), group)).collect();
        fit.unmatched.extend(self.contents.leftovers.iter().cloned());
        fit.refuse_strangers(foreign);
        if !numbered.is_empty() && numbered.len() > fit.modules.len() {
            fit.take_back("it fits, but the numbers of the file's modules are not this model's");
        }
        fit.unmatched.sort();
        fit.wrong_shape.sort();
        fit
    }

    /// Lists what belongs to a module but not to its algorithm.
    fn report_extra_parts(&self, parts: &Parts, algorithm: &Algorithm, fit: &mut Fit) {
        let known = |part: &str| {
            let mut suffixes = algorithm.suffixes.iter().chain(COMMON);
            let inside = algorithm.id == dora::DORA.id && dora::is_inner_part(parts, part);
            inside || part == full::BIAS || suffixes.any(|row| row.1 == part)
        };
        // An algorithm that is not applied is reported as a whole.
        if algorithm.apply.is_some() {
            fit.unmatched.extend(parts.group.tensors.iter().filter(|(part, _)| !known(part)).map(
                |(_, tensor)| {
                    let reason = format!("it is no part of {} and is not applied", algorithm.name);
                    Problem { name: tensor.clone(), reason }
                },
            ));
        }
    }

    /// Adds this adapter's change of one module to `delta`.
    ///
    /// * `fit`: this adapter's, for the base model of the module
    /// * `base`: the module there
    /// * `weight`: how much of the adapter is applied; may be negative
    /// * `delta`: the sum so far; nothing is added for a module that the adapter does not change
    ///
    /// Gives the same bits every time, with any number of threads.
    ///
    /// # Errors
    /// [`Error::NotFinite`] names the tensor that holds NaN or infinity; [`Error::Changed`] if the
    /// file was written to meanwhile.
    pub fn add_delta(
        &self,
        fit: &Fit,
        module: &str,
        base: &Base<'_>,
        weight: f64,
        delta: &mut Delta,
    ) -> Result<()> {
        let Some(&group) = fit.modules.get(module) else { return Ok(()) };
        let (group, algorithm) = &self.contents.groups[group];
        let apply = algorithm.apply.expect("only what can be applied fits");
        let parts = self.contents.parts(group);
        (apply.add_delta)(&parts, base, weight, delta)?;
        match algorithm.id == full::FULL.id {
            true => Ok(()),
            false => full::add_bias(&parts, weight, delta),
        }
    }

    /// The same with the first ranks of changes of low rank only, as many as the limit says.
    pub(crate) fn add_limited(
        &self,
        fit: &Fit,
        module: &str,
        base: &Base<'_>,
        (weight, limit): (f64, Option<usize>),
        delta: &mut Delta,
    ) -> Result<()> {
        let before = delta.pairs.len();
        self.add_delta(fit, module, base, weight, delta)?;
        delta.pairs[before..].iter_mut().for_each(|pair| pair.limit(limit));
        Ok(())
    }

    /// The rank of a module's change, if that is nothing but products of factors, times the weight.
    pub(crate) fn product_rank(&self, fit: &Fit, module: &str) -> Option<usize> {
        let (group, algorithm) = &self.contents.groups[*fit.modules.get(module)?];
        let products = [lora::LORA.id, lora::LOCON.id, tlora::TLORA.id];
        let parts = self.contents.parts(group);
        let changes_bias = parts.has("bias") || parts.has(full::BIAS);
        let is_product = products.contains(&algorithm.id) && !changes_bias;
        is_product.then(|| (algorithm.rank)(&parts))?
    }

    /// Why the adapter cannot be used on a base model, if it cannot: nothing in it fits.
    ///
    /// `checkpoint` and `architecture` name the base model in the message.
    #[must_use]
    pub fn refusal(&self, fit: &Fit, checkpoint: &str, architecture: &str) -> Option<Error> {
        if !fit.is_empty() {
            return None;
        }
        if let Some(id) = fit.unsupported.first() {
            let name = ALGORITHMS.iter().find(|algorithm| algorithm.id == *id)?.name;
            return Some(Error::WrongKind {
                path: self.contents.path.clone(),
                wanted: "an adapter",
                found: format!("made with {name}, which is not supported yet"),
                advice: "Turn it off, or use one of another algorithm".into(),
            });
        }
        // The same family in another size: say the sizes, or the message contradicts itself.
        let same_family = self.family.name == Some(architecture);
        let width = |width: usize| format!(" with text embeddings of {width} numbers");
        let (own, base) = match (same_family, self.family.context, fit.context) {
            (true, Some(own), Some(base)) if own != base => (width(own), width(base)),
            _ => (String::new(), String::new()),
        };
        Some(Error::WrongBaseModel {
            adapter: self.name.clone(),
            trained_for: format!("{}{own}", self.trained_for()),
            checkpoint: checkpoint.to_owned(),
            architecture: format!("{architecture}{base}"),
        })
    }
}

impl Adapter {
    /// Opens what [`Outline::open`] opens, and reads everything once, for the hash.
    ///
    /// # Errors
    /// Those of [`Outline::open`].
    pub fn open(path: &Path) -> Result<Adapter> {
        let outline = Outline::open(path)?;
        let hash = hash(&outline.contents)?;
        let (mut embeddings, mut problems) = (Vec::new(), Vec::new());
        for (name, found) in outline.embeddings() {
            match found {
                Ok(embedding) => embeddings.push(embedding),
                Err(error) => problems.push(Problem { name, reason: error.to_string() }),
            }
        }
        Ok(Adapter { outline, hash, embeddings, problems })
    }

    /// The embeddings in it, which prompts may call by their names while it is in use.
    #[must_use]
    pub fn embeddings(&self) -> &[Embedding] {
        &self.embeddings
    }

    /// What is the matter with embeddings in it that cannot be used.
    pub(crate) fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// What its headers say.
    #[must_use]
    pub fn outline(&self) -> &Outline {
        &self.outline
    }

    /// The SHA-256 of the file; of a folder, that of its files' hashes.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// Whether the files are still the ones that were opened.
    #[must_use]
    pub fn is_current(&self) -> bool {
        let same = |(path, bytes): &(PathBuf, Vec<u8>)| fs::read(path).ok().as_ref() == Some(bytes);
        self.outline.contents.files.iter().all(TensorFile::is_current)
            && self.outline.contents.configs.iter().all(same)
    }
}

/// Which modules of one base model an adapter changes.
#[derive(Debug, Clone, Default)]
pub struct Fit {
    /// Canonical name -> index of the adapter's module.
    modules: BTreeMap<String, usize>,
    /// What in the file could not be used, by name.
    pub unmatched: Vec<Problem>,
    /// Modules of the base model whose weight has another shape than the change.
    pub wrong_shape: Vec<Problem>,
    /// Ids of algorithms that are not applied.
    unsupported: BTreeSet<&'static str>,
    /// How many numbers the base model's text embeddings have.
    context: Option<usize>,
}

impl Fit {
    /// Whether nothing in the adapter fits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }

    /// Whether the adapter changes this module.
    #[must_use]
    pub fn changes(&self, module: &str) -> bool {
        self.modules.contains_key(module)
    }

    /// The modules that the adapter changes, by canonical name.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.modules.keys().map(String::as_str)
    }

    /// Takes everything back if the adapter is for another kind of base model.
    ///
    /// Some modules look alike in different families: the first text encoder of SDXL is that of
    /// SD 1.x, and so are some of its UNet's shapes. Applying those alone would make a different
    /// picture and no sense. An adapter is a stranger if none of the cross-attention that it changes
    /// fits (it reads text embeddings of another width), or if less than a third of its UNet modules
    /// do (one for SDXL reaches a sixth on SD 1.x; one for SD 1.x more than a half on the pruned
    /// models made of it).
    fn refuse_strangers(&mut self, unmatched_in_unet: usize) {
        let crosses =
            |name: &str| family::CROSS_ATTENTION.iter().any(|suffix| name.ends_with(suffix));
        let in_unet = |name: &str| name.starts_with("unet.");
        let misfit = |test: &dyn Fn(&str) -> bool| {
            self.wrong_shape.iter().filter(|problem| test(&problem.name)).count()
        };
        let fits = |test: &dyn Fn(&str) -> bool| self.modules().filter(|name| test(name)).count();

        let wrong_width = misfit(&crosses) > 0 && fits(&crosses) == 0;
        let strangers = misfit(&in_unet) + unmatched_in_unet;
        let few = strangers > 2 * fits(&in_unet);
        if wrong_width || few {
            self.take_back("it fits, but the adapter as a whole is for another base model");
        }
    }

    /// Uses nothing, for a reason.
    fn take_back(&mut self, reason: &str) {
        let modules = std::mem::take(&mut self.modules).into_keys();
        self.unmatched.extend(modules.map(|name| Problem { name, reason: reason.to_owned() }));
    }
}

/// Whether these are the tensors of an adapter without names, as cloneofsimo/lora writes a list.
pub(crate) fn is_list(tensors: &BTreeMap<String, TensorInfo>) -> bool {
    numbered::of_list(tensors).is_some()
}

/// Every algorithm's suffixes, the longest first: `lora.down.weight` before `down.weight`.
fn all_suffixes() -> Vec<Suffix> {
    let all = ALGORITHMS.iter().flat_map(|algorithm| algorithm.suffixes).chain(COMMON);
    let mut all: Vec<Suffix> = all.copied().collect();
    all.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
    all
}

/// Module and part of a tensor's name.
fn split<'a>(tensor: &'a str, suffixes: &[Suffix]) -> Option<(&'a str, &'static str)> {
    suffixes.iter().find_map(|(suffix, part)| {
        let module = tensor.strip_suffix(suffix)?;
        Some((module.strip_suffix('.').or_else(|| module.strip_suffix(':'))?, *part))
    })
}

/// The adapter's name in a PEFT tensor's name (`….lora_A.default.weight`), if it has one.
fn infix(tensor: &str) -> Option<&str> {
    NAMED_PARTS.iter().find_map(|part| {
        let (module, rest) = tensor.rsplit_once(&format!(".{part}."))?;
        let name = rest.strip_suffix(".weight").or_else(|| rest.strip_suffix(".bias"))?;
        (!module.is_empty() && !name.contains('.')).then_some(name)
    })
}

fn without_infix(tensor: &str, infix: &str) -> Option<String> {
    self::infix(tensor).filter(|found| *found == infix)?;
    let (start, end) = tensor.rsplit_once(&format!(".{infix}."))?;
    Some(format!("{start}.{end}"))
}

/// The first of these files that is in a folder.
fn first_of(folder: &Path, names: &[&str]) -> Option<PathBuf> {
    names.iter().map(|name| folder.join(name)).find(|path| path.is_file())
}

/// The one adapter name that a file's tensors have in theirs.
fn single_infix(file: &TensorFile) -> Result<Option<String>> {
    let names: BTreeSet<&str> = file.tensors().keys().filter_map(|name| infix(name)).collect();
    if names.len() > 1 {
        let names: Vec<_> = names.into_iter().map(|name| format!("`{name}`")).collect();
        return Err(Error::WrongKind {
            path: file.path().to_owned(),
            wanted: "an adapter",
            found: format!("several adapters in one file ({})", names.join(", ")),
            advice: "Save each of them in a file of its own".into(),
        });
    }
    Ok(names.into_iter().next().map(str::to_owned))
}

/// The file's SHA-256, or the hash of all files' hashes in the order in which they were added.
fn hash(contents: &Contents) -> Result<[u8; 32]> {
    use sha2::{Digest, Sha256};

    let mut hashes: Vec<[u8; 32]> = Vec::new();
    for file in &contents.files {
        hashes.push(file.sha256()?.file);
    }
    if let ([hash], []) = (hashes.as_slice(), contents.configs.as_slice()) {
        return Ok(*hash);
    }
    hashes
        .extend(contents.configs.iter().map(|(_, bytes)| <[u8; 32]>::from(Sha256::digest(bytes))));
    let mut all = Sha256::new();
    for hash in hashes {
        all.update(hash);
    }
    Ok(all.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_means_the_same_wherever_it_occurs() {
        // Parts are looked up by name alone, so two algorithms may share one only if they share
        // its suffixes.
        let mut meanings: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (suffix, part) in COMMON {
            meanings.entry(part).or_default().insert(suffix);
        }
        for algorithm in ALGORITHMS {
            let mut own: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
            for (suffix, part) in algorithm.suffixes {
                own.entry(part).or_default().insert(suffix);
            }
            for (part, suffixes) in own {
                let known = meanings.entry(part).or_insert_with(|| suffixes.clone());
                assert_eq!(*known, suffixes, "`{part}` of {}", algorithm.name);
            }
        }
    }

    #[test]
    fn a_suffix_means_one_part() {
        let mut parts: BTreeMap<&str, &str> = BTreeMap::new();
        for (suffix, part) in all_suffixes() {
            assert_eq!(*parts.entry(suffix).or_insert(part), part, "{suffix}");
        }
    }

    #[test]
    fn ids_are_unique() {
        let ids: BTreeSet<&str> = ALGORITHMS.iter().map(|algorithm| algorithm.id).collect();
        assert_eq!(ids.len(), ALGORITHMS.len());
    }

    #[test]
    fn names_are_split_at_the_longest_suffix() {
        let suffixes = all_suffixes();
        for (name, expected) in [
            ("a.to_q.lora.down.weight", Some(("a.to_q", "down"))),
            ("a.processor.to_q_lora.down.weight", Some(("a.processor.to_q_lora", "down"))),
            ("lora_unet_a.alpha", Some(("lora_unet_a", "alpha"))),
            ("unet:12:up", Some(("unet:12", "up"))),
            ("a_to_k_lora_down.weight", Some(("a_to_k_lora_down", "weight"))),
            ("lora_down.weight", Some(("lora_down", "weight"))),
            ("a.bias", None),
        ] {
            assert_eq!(split(name, &suffixes), expected, "{name}");
        }
    }

    #[test]
    fn the_name_of_a_peft_adapter_is_taken_out() {
        assert_eq!(infix("a.to_q.lora_A.default.weight"), Some("default"));
        assert_eq!(infix("a.to_q.lora_A.weight"), None);
        assert_eq!(
            without_infix("a.to_q.lora_A.default.weight", "default").as_deref(),
            Some("a.to_q.lora_A.weight")
        );
    }
}
