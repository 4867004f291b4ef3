//! What a file or folder is, from its header and content alone.
//!
//! File names prove nothing: an embedding lies in the folder for LoRAs, a web page was saved as a
//! model. [`inspect`] reads headers, configurations and first bytes, never the weights, and says
//! something true about every file. PyTorch files are read as data and never executed.

pub(crate) mod family;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::{BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use fs_err as fs;
use serde_json::{Map, Value};

pub use family::Family;

use crate::{
    Error, Result,
    acceleration::{self, Acceleration},
    adapter::{self, ALGORITHMS, Algorithm, Contents, Problem},
    architecture::{self, Architecture, Modules},
    checkpoint::{
        self,
        header::{Hashes, TensorFile, TensorInfo},
        keys::{self, Component},
        pickle::Layout,
        weights,
    },
    sample::denoiser::Prediction,
    text::embedding,
};

/// Configuration files are a few kilobytes; a vocabulary has a megabyte or two.
const MAX_CONFIG: u64 = 1 << 20;
const MAX_JSON: u64 = 16 << 20;

/// What kind of thing a file or folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// UNet, text encoder and VAE in one, as a file or a folder.
    BaseModel,
    /// A UNet, VAE or text encoder alone.
    Component,
    /// A LoRA or one of its relatives.
    Adapter,
    /// A textual-inversion embedding.
    Embedding,
    /// A model of a kind that is not used here, ControlNets among them.
    OtherModel,
    /// A PyTorch file that cannot be read.
    Pickle,
    /// A configuration without weights.
    Configuration,
    /// A tokenizer, or a part of one.
    Tokenizer,
    /// A PNG or JPEG picture.
    Picture,
    /// A folder that is none of the above.
    Folder,
    /// Anything else.
    Other,
}

impl Kind {
    /// The name for programs.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Kind::BaseModel => "base_model",
            Kind::Component => "component",
            Kind::Adapter => "adapter",
            Kind::Embedding => "embedding",
            Kind::OtherModel => "other_model",
            Kind::Pickle => "pickle",
            Kind::Configuration => "configuration",
            Kind::Tokenizer => "tokenizer",
            Kind::Picture => "picture",
            Kind::Folder => "folder",
            Kind::Other => "other",
        }
    }
}

/// What is known of a file or folder. [`fmt::Display`] writes a summary of a few lines.
#[derive(Debug, Clone)]
pub struct ModelFile {
    /// Where it is.
    pub path: PathBuf,
    /// What kind of thing it is.
    pub kind: Kind,
    /// What it is, with its article: "an SD 1.x base model".
    pub what: String,
    /// Whether this version of the engine can use it for what it is.
    pub usable: bool,
    /// The family of base models that it belongs to or is for.
    pub family: Option<Family>,
    /// Bytes of the file, or of the weight files in the folder.
    pub size: u64,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of elements of all tensors.
    pub parameters: u64,
    /// How many tensors are stored in each type.
    pub precisions: BTreeMap<&'static str, usize>,
    /// Whether PyTorch wrote it, or a part of it.
    pub is_pickle: bool,
    /// How tensors are named: "diffusers", "original (LDM)", "kohya".
    pub naming: Option<&'static str>,
    /// What the UNet predicts, where a file says it: "epsilon", "v_prediction".
    pub prediction: Option<String>,
    /// Of base models: the sides of the pictures that it was trained on, in pixels.
    pub native_size: Option<u32>,
    /// What its name says of how few steps it needs.
    pub acceleration: Option<Acceleration>,
    /// The parts of a model.
    pub components: Vec<ComponentInfo>,
    /// Only of adapters.
    pub adapter: Option<AdapterInfo>,
    /// Shapes of an embedding's tensors: (vectors, width), by name.
    pub embedding: BTreeMap<String, (usize, usize)>,
    /// What the header says beside the tensors.
    pub metadata: BTreeMap<String, String>,
    /// What else a person should know, as sentences.
    pub notes: Vec<String>,
    /// Filled by [`ModelFile::hash`].
    pub hashes: Option<FileHashes>,
}

/// One network of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComponentInfo {
    /// "UNet", "text encoder", "VAE".
    pub name: &'static str,
    /// Number of its tensors; 0 if its weights are not there.
    pub tensors: usize,
    /// Number of their elements.
    pub parameters: u64,
}

/// What an adapter is made of.
#[derive(Debug, Clone)]
pub struct AdapterInfo {
    /// Each algorithm with the number of its modules, the most used first.
    pub algorithms: Vec<(&'static Algorithm, usize)>,
    /// Smallest and largest rank.
    pub rank: Option<(usize, usize)>,
    /// Smallest and largest alpha.
    pub alpha: Option<(f64, f64)>,
    /// Number of modules in each part of the base model.
    pub modules: BTreeMap<&'static str, usize>,
    /// Words that call for the style, as the trainer noted them.
    pub trigger_words: Vec<String>,
    /// Embeddings that are in the same file.
    pub embeddings: Vec<String>,
    /// Tensors that belong to no module.
    pub leftovers: Vec<Problem>,
}

impl AdapterInfo {
    /// What a person calls its algorithms, the most used first. A LoCon has modules without kernels
    /// too; it is called by the more particular name.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        let names = || self.algorithms.iter().map(|(algorithm, _)| algorithm.name);
        let locon = names().any(|name| name == "LoCon");
        names().filter(|name| !locon || *name != "LoRA").collect()
    }
}

/// The hashes by which other programs know a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHashes {
    /// SHA-256 of the whole file, in hexadecimal.
    pub sha256: String,
    /// Its first ten digits: A1111's and Civitai's hash of a checkpoint.
    pub auto_v2: String,
    /// First twelve digits of the SHA-256 of what follows the header: their hash of an adapter.
    pub auto_v3: String,
    /// What the trainer noted as the latter (`sshs_model_hash`).
    pub stored: Option<String>,
    /// Whether that is what the file has now.
    pub stored_matches: Option<bool>,
}

/// Says what a file or folder is. Reads headers and configurations, no weights, and takes no hashes.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::Damaged`] if it is a safetensors file that
/// contradicts itself. Everything else is an answer, not an error: a PyTorch file that is refused among it.
pub fn inspect(path: &Path) -> Result<ModelFile> {
    let mut answer = inspect_contents(path)?;
    if matches!(answer.kind, Kind::BaseModel | Kind::Adapter) || answer.is_unet() {
        answer.suggest();
    }
    Ok(answer)
}

fn inspect_contents(path: &Path) -> Result<ModelFile> {
    if fs::metadata(path)?.is_dir() {
        return inspect_folder(path);
    }
    match TensorFile::open(path) {
        Ok(file) => inspect_tensors(path, vec![file]),
        Err(Error::NotSafetensors { found, advice, .. }) => {
            let mut answer = inspect_other(path, &found, advice)?;
            answer.size = fs::metadata(path)?.len();
            Ok(answer)
        }
        Err(error @ (Error::Damaged { .. } | Error::WrongKind { .. })) => {
            describe_refused(path, error)
        }
        Err(error) => Err(error),
    }
}

impl ModelFile {
    fn new(path: &Path, kind: Kind, what: impl Into<String>) -> ModelFile {
        ModelFile {
            path: path.to_owned(),
            kind,
            what: what.into(),
            usable: false,
            family: None,
            size: 0,
            tensors: 0,
            parameters: 0,
            precisions: BTreeMap::new(),
            is_pickle: false,
            naming: None,
            prediction: None,
            native_size: None,
            acceleration: None,
            components: Vec::new(),
            adapter: None,
            embedding: BTreeMap::new(),
            metadata: BTreeMap::new(),
            notes: Vec::new(),
            hashes: None,
        }
    }

    /// Whether it is the UNet of a base model, without the rest.
    #[must_use]
    pub fn is_unet(&self) -> bool {
        matches!(&self.components[..], [only] if only.name == Component::UNet.name())
    }

    /// What suits it, by its family and by what it is called.
    fn suggest(&mut self) {
        let told = ["modelspec.title", "modelspec.architecture", "ss_output_name"];
        let told = told.iter().filter_map(|key| self.metadata.get(*key)).map(String::as_str);
        let name = self.path.file_stem().map(|name| name.to_string_lossy().into_owned());
        self.acceleration = acceleration::recognize(name.as_deref().into_iter().chain(told));

        let family = self.family.as_ref().and_then(|family| family.name);
        let mut records = architecture::ARCHITECTURES.iter();
        let record = records.find(|record| Some(record.name) == family);
        if let Some(record) = record.filter(|_| self.kind != Kind::Adapter) {
            let prediction = match self.prediction.as_deref() {
                Some("v_prediction") => Prediction::V,
                _ => Prediction::Epsilon,
            };
            self.native_size = Some((record.native_size)(prediction));
        }
    }

    fn note(mut self, sentence: impl Into<String>) -> ModelFile {
        self.notes.push(sentence.into());
        self
    }

    /// Computes the hashes of a safetensors or PyTorch file; does nothing for anything else. Reads all of it.
    ///
    /// # Errors
    /// Fails if the file cannot be read to its end.
    pub fn hash(&mut self) -> Result<()> {
        let file = match TensorFile::open(&self.path) {
            Ok(file) => file,
            Err(Error::NotSafetensors { .. }) => return Ok(()),
            Err(_) if self.kind == Kind::Pickle => return Ok(()),
            Err(error) => return Err(error),
        };
        let Hashes { file: whole, data } = file.sha256()?;
        let (sha256, data) = (hex(&whole), hex(&data));
        let stored = file.metadata().get("sshs_model_hash").cloned();
        self.hashes = Some(FileHashes {
            auto_v2: sha256[..10].to_owned(),
            auto_v3: data[..12].to_owned(),
            stored_matches: stored.as_ref().map(|stored| *stored == data),
            sha256,
            stored,
        });
        Ok(())
    }
}

impl fmt::Display for ModelFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.path.display(), self.what)?;
        let mut line = |label: &str, text: String| -> fmt::Result {
            if text.is_empty() { Ok(()) } else { writeln!(f, "  {label:<14}{text}") }
        };
        if let Some(family) = &self.family {
            let mut text = family.to_string();
            if !family.evidence.is_empty() {
                text += &format!(" ({})", family.evidence.join("; "));
            }
            line("family", text)?;
            line("but", family.contradiction.clone().unwrap_or_default())?;
        }
        line("naming", self.naming.unwrap_or_default().to_owned())?;
        line("prediction", self.prediction.clone().unwrap_or_default())?;
        let size = self.native_size.map(|side| format!("{side} × {side}"));
        line("made for", size.unwrap_or_default())?;
        let fast = self.acceleration.map(|Acceleration { method, steps }| {
            format!(
                "{} by its name: {steps} steps, guidance {}, {}, {}",
                method.name, method.guidance_scale, method.sampler, method.schedule
            )
        });
        line("few steps", fast.unwrap_or_default())?;
        for component in &self.components {
            let text = match component.tensors {
                0 => "no weights that can be read here".into(),
                tensors => {
                    format!("{tensors} tensors, {} parameters", grouped(component.parameters))
                }
            };
            line(component.name, text)?;
        }
        if let Some(adapter) = &self.adapter {
            let algorithms = adapter.algorithms.iter().map(|(algorithm, modules)| {
                let support = if algorithm.is_supported() { "" } else { " (not supported yet)" };
                format!("{} in {modules} modules{support}", algorithm.name)
            });
            line("algorithm", algorithms.collect::<Vec<_>>().join(", "))?;
            line("rank", range(adapter.rank))?;
            line("alpha", range(adapter.alpha))?;
            let modules =
                adapter.modules.iter().map(|(name, count)| format!("{count} in the {name}"));
            line("modules", modules.collect::<Vec<_>>().join(", "))?;
            line("trigger", adapter.trigger_words.join(", "))?;
            line("embeddings", adapter.embeddings.join(", "))?;
            if let Some(first) = adapter.leftovers.first() {
                line("left over", format!("{} tensors, {first}", adapter.leftovers.len()))?;
            }
        }
        for (name, (vectors, width)) in &self.embedding {
            line("embedding", format!("{name}: {vectors} × {width}"))?;
        }
        if self.tensors > 0 {
            let types = self.precisions.iter().map(|(name, count)| format!("{count} {name}"));
            let types = types.collect::<Vec<_>>().join(", ");
            line("tensors", format!("{types}; {} parameters", grouped(self.parameters)))?;
        }
        for (key, label) in HIGHLIGHTS {
            let value =
                self.metadata.get(*key).filter(|value| !value.is_empty() && *value != "None");
            line(label, value.map(|value| shortened(value)).unwrap_or_default())?;
        }
        if self.size > 0 {
            line("size", format!("{} bytes", grouped(self.size)))?;
        }
        if let Some(hashes) = &self.hashes {
            line("sha256", hashes.sha256.clone())?;
            line("AutoV2", hashes.auto_v2.clone())?;
            line("AutoV3", hashes.auto_v3.clone())?;
            if hashes.stored_matches == Some(false) {
                line("but", "the hash in its metadata is another one".into())?;
            }
        }
        for note in &self.notes {
            line("note", note.clone())?;
        }
        Ok(())
    }
}

/// Metadata that is worth a line of the summary.
const HIGHLIGHTS: &[(&str, &str)] = &[
    ("modelspec.title", "title"),
    ("modelspec.author", "author"),
    ("modelspec.license", "license"),
    ("modelspec.usage_hint", "usage"),
    ("ss_sd_model_name", "trained on"),
    ("ss_training_comment", "comment"),
];

/// Says what files with tensors are that belong together: one file, or the shards of a component.
fn inspect_tensors(path: &Path, files: Vec<TensorFile>) -> Result<ModelFile> {
    let mut answer = describe_tensors(path, &files)?;
    files.iter().for_each(|file| answer.count(file));
    if answer.kind == Kind::BaseModel && answer.usable && path.is_file() {
        // Some say it in their numbers only.
        answer.prediction = checkpoint::prediction(path, files).ok().map(str::to_owned);
    }
    Ok(answer)
}

impl ModelFile {
    /// Adds what is counted in a file.
    fn count(&mut self, file: &TensorFile) {
        self.size += file.size();
        self.is_pickle |= file.is_pickle();
        self.metadata.extend(file.metadata().clone());
        for info in file.tensors().values() {
            self.tensors += 1;
            self.parameters += info.elements() as u64;
            *self.precisions.entry(info.dtype.name()).or_default() += 1;
        }
    }
}

fn describe_tensors(path: &Path, files: &[TensorFile]) -> Result<ModelFile> {
    let tensors: Vec<&BTreeMap<String, TensorInfo>> =
        files.iter().map(TensorFile::tensors).collect();
    let names = || tensors.iter().flat_map(|file| file.keys().map(String::as_str));
    let format = match files.iter().any(TensorFile::is_pickle) {
        true => "a PyTorch file",
        false => "a safetensors file",
    };
    if names().next().is_none() {
        return Ok(ModelFile::new(path, Kind::Other, format!("{format} without tensors")));
    }
    if let [only] = files
        && let Some(answer) = describe_nameless(path, only.tensors())
    {
        return Ok(answer);
    }
    if let Some(embedding) = embedding(&tensors) {
        let family = family_of_embedding(&embedding);
        let mut answer = ModelFile::new(path, Kind::Embedding, "a textual-inversion embedding");
        answer.usable = true;
        answer.family = family;
        answer.embedding = embedding;
        return Ok(answer);
    }
    // An adapter's tensors for a foreign model begin like the model's own, but IP-Adapters have some for
    // themselves.
    let is_ip_adapter = names().any(|name| name.starts_with("image_proj."));
    let is_list = || files.iter().any(|file| adapter::is_list(file.tensors()));
    if files.len() == 1 && !is_ip_adapter && (names().any(is_adapter_tensor) || is_list()) {
        return describe_adapter(path);
    }
    if let Some(what) = family::foreign_model(names()) {
        return Ok(other_model(path, what));
    }
    Ok(describe_networks(path, &tensors, format))
}

/// A model that is not used here, and what others use it for.
fn other_model(path: &Path, what: impl Into<String>) -> ModelFile {
    let answer = ModelFile::new(path, Kind::OtherModel, what);
    let purpose = family::purpose(&answer.what).map(|purpose| format!("{purpose}."));
    let notes = purpose.into_iter().chain(["Models of this kind are not supported.".to_owned()]);
    ModelFile { notes: notes.collect(), ..answer }
}

/// What has no name for its tensor: a PyTorch file with nothing else.
fn describe_nameless(path: &Path, tensors: &BTreeMap<String, TensorInfo>) -> Option<ModelFile> {
    if let Some(info) = tensors.get("") {
        let what = format!("a single tensor {:?} without a name", info.shape);
        return Some(ModelFile::new(path, Kind::Other, what));
    }
    None
}

/// A base model, or one of its networks.
fn describe_networks(
    path: &Path,
    tensors: &[&BTreeMap<String, TensorInfo>],
    format: &str,
) -> ModelFile {
    let all: BTreeMap<&str, &TensorInfo> =
        tensors.iter().flat_map(|file| file.iter().map(|(name, info)| (&**name, info))).collect();
    let names = keys::single_file(all.keys().copied());
    if names.tensors.is_empty() {
        return describe_unknown(path, &all, format);
    }
    let mut sorted = Sorted::default();
    sorted.add(&names, &all);
    let mut answer = describe_sorted(path, &sorted);
    answer.prediction = prediction(&all);
    answer
}

/// The tensors of a model by canonical name.
#[derive(Default)]
struct Sorted {
    shapes: BTreeMap<String, Vec<usize>>,
    unknown: Vec<String>,
    /// Whether some have their original names.
    original: bool,
}

impl Sorted {
    fn add(&mut self, names: &keys::Names, all: &BTreeMap<&str, &TensorInfo>) {
        let original = ["input_blocks.0.0.weight", "mid.attn_1.norm.weight"];
        self.original |= all.keys().any(|name| original.iter().any(|end| name.ends_with(end)));
        self.shapes.extend(
            names
                .tensors
                .iter()
                .map(|(name, source)| (name.clone(), source.shape(&all[&*source.name].shape))),
        );
        self.unknown.extend(names.unknown.iter().cloned());
    }
}

fn describe_sorted(path: &Path, sorted: &Sorted) -> ModelFile {
    let modules: Modules = sorted
        .shapes
        .iter()
        .filter_map(|(name, shape)| Some((name.strip_suffix(".weight")?.to_owned(), shape.clone())))
        .collect();
    let mut components = Vec::new();
    for &component in Component::ALL {
        let name = component.name();
        let of_component =
            sorted.shapes.iter().filter(|(name, _)| Component::of(name) == Some(component));
        let elements: Vec<usize> = of_component.map(|(_, shape)| shape.iter().product()).collect();
        if !elements.is_empty() {
            let parameters = elements.iter().map(|&elements| elements as u64).sum();
            components.push(ComponentInfo { name, tensors: elements.len(), parameters });
        }
    }

    let (kind, usable, what) = match components.as_slice() {
        [] => unreachable!("some tensors belong to a component"),
        [only] if only.name == "UNet" => {
            let what = match architecture::recognize(&modules) {
                Ok(architecture) => format!("the UNet of an {} model", architecture.name),
                Err(found) => format!("the UNet of {found}"),
            };
            // Another model of its family lends the rest.
            (Kind::Component, usable_family(&modules), what)
        }
        [only] => {
            let (usable, what) = describe_component(only.name, &modules);
            (Kind::Component, usable, what)
        }
        _ => match architecture::recognize(&modules) {
            Ok(architecture) => {
                let usable = missing(Some(architecture), &components).is_empty();
                (Kind::BaseModel, usable, format!("an {} base model", architecture.name))
            }
            Err(found) => (Kind::BaseModel, false, found.to_owned()),
        },
    };
    let missing = missing(architecture::recognize(&modules).ok(), &components);
    let mut answer = ModelFile::new(path, kind, what);
    answer.usable = usable;
    answer.naming = Some(if sorted.original { "original (LDM)" } else { "diffusers" });
    answer.components = components;
    answer.family = family_of_unet(&modules);
    if modules.get("unet.conv_in").and_then(|shape| shape.get(1)) == Some(&9) {
        answer.notes.push("It is for inpainting: its UNet takes 9 channels.".into());
    }
    if kind == Kind::BaseModel && !missing.is_empty() && usable_family(&modules) {
        answer.notes.push(format!("It has no {}.", missing.join(" and no ")));
    }
    if !sorted.unknown.is_empty() && usable_family(&modules) {
        answer.notes.push(format!(
            "{} of its tensors have names that are not known, like `{}`.",
            sorted.unknown.len(),
            sorted.unknown[0]
        ));
    }
    answer
}

/// What a model of an architecture needs that is not among the components.
fn missing(
    architecture: Option<&'static Architecture>,
    components: &[ComponentInfo],
) -> Vec<&'static str> {
    let encoders = match architecture {
        Some(architecture) => architecture.text_encoders,
        None => &[],
    };
    let needed = [Component::UNet, Component::Vae].into_iter();
    needed
        .chain(encoders.iter().map(|encoder| encoder.component))
        .map(Component::name)
        .filter(|name| components.iter().all(|component| component.name != *name))
        .collect()
}

fn usable_family(modules: &Modules) -> bool {
    architecture::recognize(modules).is_ok()
}

fn family_of_unet(modules: &Modules) -> Option<Family> {
    modules.contains_key("unet.conv_in").then_some(())?;
    let name = architecture::recognize(modules).ok().map(|architecture| architecture.name)?;
    let context = family::context_width(modules);
    let projection = modules.iter().find(|(name, _)| name.ends_with(".proj_in"));
    let pooled = modules.contains_key("unet.add_embedding.linear_1");
    let evidence = match projection {
        _ if pooled => "its UNet takes a pooled prompt and sizes".to_owned(),
        Some((_, shape)) if shape.len() == 4 => {
            "its transformers start with a convolution".to_owned()
        }
        _ => "its transformers start with a linear layer".to_owned(),
    };
    Some(Family { name: Some(name), evidence: vec![evidence], contradiction: None, context })
}

/// Whether it can be used, and what it is.
fn describe_component(name: &str, modules: &Modules) -> (bool, String) {
    let size =
        |module: &str, axis: usize| -> Option<usize> { modules.get(module)?.get(axis).copied() };
    if name == "VAE" {
        if let Some(&[_, channels, _, _]) = modules.get("vae.decoder.layers.0").map(Vec::as_slice) {
            let what = format!("TAESD, a small VAE with {channels} latent channels");
            return (channels == 4, what);
        }
        return match (modules.get("vae.decoder.conv_in").map(Vec::as_slice), ()) {
            (Some(&[_, 4, _, _]), ()) => {
                (true, "a VAE with 4 latent channels, as SD 1.x, SD 2.x and SDXL have".into())
            }
            (Some(&[_, 16, _, _]), ()) => {
                (false, "a VAE with 16 latent channels, as SD 3 and FLUX have".into())
            }
            (Some(shape), ()) if shape.len() == 5 => (false, "a VAE for videos".into()),
            (Some(shape), ()) => {
                let channels = shape.get(1).copied().unwrap_or_default();
                (false, format!("a VAE with {channels} latent channels"))
            }
            (None, ()) => (false, "a VAE without its decoder".into()),
        };
    }
    let width = size("text_encoder.text_model.embeddings.token_embedding", 1).unwrap_or_default();
    let known = match width {
        768 => ", as SD 1.x and SDXL have",
        1024 => ", as SD 2.x has",
        1280 => ", SDXL's second",
        _ => "",
    };
    (false, format!("a CLIP text encoder of width {width}{known}"))
}

/// What names the prediction in a single file: marker tensors.
fn prediction(tensors: &BTreeMap<&str, &TensorInfo>) -> Option<String> {
    let marks = [("v_pred", "v_prediction"), ("edm_vpred.sigma_max", "v_prediction (EDM)")];
    marks.iter().find(|row| tensors.contains_key(row.0)).map(|row| row.1.to_owned())
}

fn describe_unknown(path: &Path, tensors: &BTreeMap<&str, &TensorInfo>, format: &str) -> ModelFile {
    let first: Vec<String> =
        tensors.iter().take(3).map(|(name, info)| format!("`{name}` {:?}", info.shape)).collect();
    ModelFile::new(path, Kind::Other, format!("{format} of an unknown kind")).note(format!(
        "It has {} tensors: {}",
        tensors.len(),
        first.join(", ")
    ))
}

/// Endings and parts of tensors' names that only adapters have.
const ADAPTER_MARKS: &[&str] = &[
    ".lora_down.",
    ".lora_up.",
    ".lora.down.",
    ".lora.up.",
    "_lora.down.",
    "_lora.up.",
    ".lora_A",
    ".lora_B",
    ".lora_embedding_",
    ".lora_linear_layer.",
    ".hada_w",
    ".lokr_w",
    ".oft_",
    ".boft_",
    ".ia3_l",
    ".on_input",
    ".dora_scale",
    ".w_norm",
    ".diff_b",
];

fn is_adapter_tensor(name: &str) -> bool {
    let numbered = || {
        let start = name.split(':').next().unwrap_or_default();
        ["unet", "text_encoder"].contains(&start) && name.ends_with(":down")
    };
    ADAPTER_MARKS.iter().any(|mark| name.contains(mark)) || name.ends_with(".diff") || numbered()
}

/// Starts of modules' names -> who names them so.
const NAMINGS: &[(&str, &str)] = &[
    ("lora_unet_input_blocks_", "kohya, original block names"),
    ("lora_unet_output_blocks_", "kohya, original block names"),
    ("lora_unet_middle_block_", "kohya, original block names"),
    ("lora_", "kohya"),
    ("oft_unet_", "kohya"),
    ("lycoris_", "LyCORIS"),
    ("base_model.model.", "PEFT"),
    ("unet:", "cloneofsimo/lora, numbered"),
    ("text_encoder:", "cloneofsimo/lora, numbered"),
    ("diffusion_model.", "ComfyUI"),
    ("model.diffusion_model.", "ComfyUI"),
    ("text_encoders.", "ComfyUI"),
    ("unet.", "diffusers"),
    ("text_encoder.", "diffusers"),
    ("transformer.", "diffusers"),
    ("down_blocks.", "diffusers, attention processors"),
    ("mid_block.", "diffusers, attention processors"),
    ("up_blocks.", "diffusers, attention processors"),
];

fn describe_adapter(path: &Path) -> Result<ModelFile> {
    let contents = Contents::open(path)?;
    let metadata: BTreeMap<String, String> =
        contents.files.iter().flat_map(|file| file.metadata().clone()).collect();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut info = AdapterInfo {
        algorithms: Vec::new(),
        rank: None,
        alpha: None,
        modules: BTreeMap::new(),
        trigger_words: trigger_words(&metadata),
        embeddings: contents.embeddings.clone(),
        leftovers: contents.leftovers.clone(),
    };
    let transformer = contents.modules().any(|(parts, _)| family::is_transformer(parts.spelling()));
    let network = if transformer { "transformer" } else { "UNet" };
    let mut naming = None;
    for (parts, algorithm) in contents.modules() {
        *counts.entry(algorithm.id).or_default() += 1;
        let spelling = parts.spelling();
        *info.modules.entry(family::component_of(spelling, network)).or_default() += 1;
        widen(&mut info.rank, (algorithm.rank)(&parts));
        widen(&mut info.alpha, parts.alpha()?);
        let row = NAMINGS.iter().position(|(start, _)| spelling.starts_with(start));
        naming = naming.into_iter().chain(row).min();
    }
    info.algorithms = ALGORITHMS
        .iter()
        .filter_map(|algorithm| Some((*algorithm, *counts.get(algorithm.id)?)))
        .collect();
    info.algorithms.sort_by_key(|(_, modules)| std::cmp::Reverse(*modules));

    let family = family::of_adapter(&contents);
    let mut names = info.names();
    names.sort_unstable();
    let mut answer = match names.as_slice() {
        [] => ModelFile::new(path, Kind::Adapter, "an adapter without a usable module"),
        names => {
            let names = names.join(" and ");
            ModelFile::new(path, Kind::Adapter, format!("a {names} adapter for {family}"))
        }
    };
    answer.usable = info.algorithms.iter().any(|(algorithm, _)| algorithm.is_supported())
        && family.name.is_none_or(architecture::loads);
    answer.naming = naming.map(|row| NAMINGS[row].1);
    answer.prediction = metadata
        .get("ss_v_parameterization")
        .filter(|value| *value == "True")
        .map(|_| "v_prediction".into())
        .or_else(|| metadata.get("modelspec.prediction_type").cloned());
    answer.family = Some(family);
    answer.adapter = Some(info);
    Ok(answer)
}

/// Grows a range by a value.
fn widen<T: PartialOrd + Copy>(range: &mut Option<(T, T)>, value: Option<T>) {
    let Some(value) = value else { return };
    let (low, high) = range.get_or_insert((value, value));
    if value < *low {
        *low = value;
    }
    if value > *high {
        *high = value;
    }
}

/// Trigger words as trainers note them, else the words that its captions have most often in common.
fn trigger_words(metadata: &BTreeMap<String, String>) -> Vec<String> {
    for key in ["modelspec.trigger_phrase", "trigger_words"] {
        if let Some(words) = metadata.get(key) {
            let words = words.split(',').map(str::trim).filter(|word| !word.is_empty());
            return words.map(str::to_owned).collect();
        }
    }
    // Directory -> tag -> how many captions have it.
    let tags: Option<BTreeMap<String, BTreeMap<String, u64>>> =
        metadata.get("ss_tag_frequency").and_then(|text| serde_json::from_str(text).ok());
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for (tag, count) in tags.into_iter().flatten().flat_map(|(_, tags)| tags) {
        let sum = sums.entry(tag.trim().to_owned()).or_default();
        *sum = sum.saturating_add(count);
    }
    let most = sums.values().copied().max().unwrap_or_default();
    sums.into_iter().filter(|(_, count)| *count == most).take(3).map(|(tag, _)| tag).collect()
}

/// The tensors of a textual-inversion embedding: (vectors, width) by name.
fn embedding(
    tensors: &[&BTreeMap<String, TensorInfo>],
) -> Option<BTreeMap<String, (usize, usize)>> {
    let parts = embedding::parts(tensors.iter().copied().flatten())?;
    Some(parts.iter().map(|part| (part.name.to_owned(), (part.vectors, part.width))).collect())
}

fn family_of_embedding(tensors: &BTreeMap<String, (usize, usize)>) -> Option<Family> {
    let has = |width: usize| tensors.values().any(|row| row.1 == width);
    let name = match (has(768), has(1024), has(1280)) {
        (true, _, true) => "SDXL",
        (true, ..) => "SD 1.x",
        (_, true, _) => "SD 2.x",
        (_, _, true) => "SDXL refiner",
        _ => return None,
    };
    let widths: BTreeSet<usize> = tensors.values().map(|row| row.1).collect();
    let widths: Vec<String> = widths.iter().map(usize::to_string).collect();
    let evidence = format!("its vectors have {} numbers", widths.join(" and "));
    Some(Family { name: Some(name), evidence: vec![evidence], ..Family::default() })
}

/// What files are that are no base model of a known family, with the article, if that shows.
///
/// For messages of those who wanted something else of them.
pub(crate) fn foreign<'a>(
    files: impl Iterator<Item = &'a BTreeMap<String, TensorInfo>>,
) -> Option<&'static str> {
    let tensors: Vec<_> = files.collect();
    let names = || tensors.iter().flat_map(|file| file.keys().map(String::as_str));
    if embedding(&tensors).is_some() {
        return Some("a textual-inversion embedding");
    }
    if names().any(is_adapter_tensor) {
        return Some("an adapter (a LoRA or one of its relatives)");
    }
    family::foreign_model(names()).or_else(|| {
        let sorted = keys::single_file(names());
        let has = Component::ALL.iter().filter(|component| sorted.has(**component));
        match has.collect::<Vec<_>>().as_slice() {
            [Component::Vae] => Some("a VAE alone"),
            [Component::TextEncoder] => Some("a text encoder alone"),
            _ => None,
        }
    })
}

fn inspect_folder(path: &Path) -> Result<ModelFile> {
    let has = |name: &str| path.join(name).is_file();
    let adapter_config = ["", "unet", "text_encoder", "text_encoder_2"]
        .iter()
        .map(|folder| path.join(folder))
        .find(|folder| folder.join("adapter_config.json").is_file());
    if has("model_index.json") || path.join("unet").join("config.json").is_file() {
        return inspect_diffusers_folder(path);
    }
    if let Some(folder) = adapter_config {
        return match describe_adapter(path) {
            Ok(mut answer) => {
                answer.usable &= answer.adapter.is_some();
                let contents = Contents::open(path)?;
                contents.files.iter().for_each(|file| answer.count(file));
                Ok(answer)
            }
            // Without weights that can be used, the configuration still says what it would be.
            Err(error @ (Error::Incomplete { .. } | Error::WrongKind { .. })) => {
                let mut answer = inspect(&folder.join("adapter_config.json"))?;
                answer.path = path.to_owned();
                Ok(answer.note(format!("It cannot be used: {error}.")))
            }
            Err(error) => Err(error),
        };
    }
    for name in ["pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin"] {
        if has(name) {
            let mut answer = inspect(&path.join(name))?;
            answer.path = path.to_owned();
            return Ok(answer);
        }
    }
    if has("tokenizer.json") || has("vocab.json") && has("merges.txt") {
        return Ok(ModelFile::new(path, Kind::Tokenizer, "a tokenizer"));
    }
    for name in ["scheduler_config.json", "tokenizer_config.json", "preprocessor_config.json"] {
        if has(name) {
            let mut answer = inspect(&path.join(name))?;
            answer.path = path.to_owned();
            return Ok(answer);
        }
    }
    if has("config.json") {
        return inspect_component_folder(path);
    }
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let extension =
            path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
        let kind = match (path.is_dir(), extension) {
            (true, _) => "folders".to_owned(),
            (_, Some(extension)) => format!(".{extension}"),
            (_, None) => "other".to_owned(),
        };
        *kinds.entry(kind).or_default() += 1;
    }
    let contents: Vec<String> =
        kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let what = match contents.is_empty() {
        true => "an empty folder".to_owned(),
        false => format!("a folder ({})", contents.join(", ")),
    };
    Ok(ModelFile::new(path, Kind::Folder, what).note("It is no model itself; name a file in it."))
}

const MISSING: &str = "its weights are missing";

/// The weights of a component in its folder: files, or the reason that there are none.
fn component_weights(folder: &Path) -> Result<Vec<TensorFile>, &'static str> {
    let files = weights::files(folder).map_err(|_| "a part of its weights is missing")?;
    match files.as_slice() {
        [] => Err(MISSING),
        files => files
            .iter()
            .map(|path| TensorFile::open(path).map_err(|_| "its weights cannot be read"))
            .collect(),
    }
}

/// What folders of the families that are run here are called.
const PIPELINES: &[&str] = &[
    "StableDiffusionPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLInpaintPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "LatentConsistencyModelPipeline",
];

fn inspect_diffusers_folder(path: &Path) -> Result<ModelFile> {
    let mut files = Vec::new();
    let mut absent = Vec::new();
    let is_there = |component: Component| path.join(component.folder()).is_dir();
    for &component in Component::ALL {
        // The refiner has only the second text encoder, most models only the first.
        let other = match component {
            Component::TextEncoder => is_there(Component::TextEncoder2),
            Component::TextEncoder2 => true,
            Component::UNet | Component::Vae => false,
        };
        if other && !is_there(component) {
            continue;
        }
        match component_weights(&path.join(component.folder())) {
            Ok(found) => files.push((component, found)),
            Err(reason) => absent.push((component.name(), reason)),
        }
    }
    let config = read_json(&path.join("unet").join("config.json")).map(|(_, config)| config).ok();
    let complete = absent.is_empty();
    let mut answer = if complete {
        let mut sorted = Sorted::default();
        for (component, files) in &files {
            let tensors = files.iter().flat_map(TensorFile::tensors);
            let all: BTreeMap<&str, &TensorInfo> =
                tensors.map(|(name, info)| (name.as_str(), info)).collect();
            sorted.add(&keys::component_file(*component, all.keys().copied()), &all);
        }
        let mut answer = describe_sorted(path, &sorted);
        files.iter().flat_map(|(_, files)| files).for_each(|file| answer.count(file));
        let what = format!("{} in a diffusers folder", answer.what);
        ModelFile { what, naming: Some("diffusers"), ..answer }
    } else {
        let family = config.as_ref().map(family::of_unet_config);
        let name = family.as_ref().and_then(|family| family.name).unwrap_or("unknown");
        let article = if name.starts_with("SD") { "an " } else { "a model of " };
        let missing = match files.is_empty() {
            true => "without weights that can be read here",
            false => "with only a part of its weights",
        };
        let what = format!("{article}{name} model in a diffusers folder, {missing}");
        let mut answer = ModelFile::new(path, Kind::BaseModel, what);
        answer.family = family;
        answer.naming = Some("diffusers");
        answer.components = absent
            .iter()
            .map(|(name, _)| ComponentInfo { name, tensors: 0, parameters: 0 })
            .collect();
        answer
    };
    for (name, reason) in absent {
        answer.notes.push(format!("{}: {reason}.", capitalized(name)));
    }
    if let Ok((_, scheduler)) = read_json(&path.join("scheduler").join("scheduler_config.json")) {
        let prediction = scheduler.get("prediction_type").and_then(Value::as_str);
        answer.prediction = Some(prediction.unwrap_or("epsilon").to_owned());
    }
    if let Ok((_, index)) = read_json(&path.join("model_index.json"))
        && let Some(class) = index.get("_class_name").and_then(Value::as_str)
        && !PIPELINES.contains(&class)
    {
        answer.notes.push(format!("Its pipeline is called {class}."));
    }
    Ok(answer)
}

/// A folder with one component of a diffusers model.
fn inspect_component_folder(path: &Path) -> Result<ModelFile> {
    match component_weights(path) {
        Ok(files) => inspect_tensors(path, files),
        Err(reason) => {
            let mut answer = inspect(&path.join("config.json"))?;
            answer.path = path.to_owned();
            match reason == MISSING {
                // The configuration's description says so already.
                true => Ok(answer),
                false => Ok(answer.note(format!("{}.", capitalized(reason)))),
            }
        }
    }
}

/// Says what a file is that is no safetensors file.
fn inspect_other(path: &Path, found: &str, advice: &str) -> Result<ModelFile> {
    let mut file = fs::File::open(path)?;
    let mut start = [0u8; 24];
    let mut got = 0;
    while let read @ 1.. = file.read(&mut start[got..])? {
        got += read;
    }
    match start[..got] {
        [0x89, b'P', b'N', b'G', ..] => {
            let size =
                |at: usize| start[at..].first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
            let what = match (size(16), size(20)) {
                (Some(width), Some(height)) => format!("a PNG picture, {width} × {height}"),
                _ => "a PNG picture".to_owned(),
            };
            let mut answer = ModelFile::new(path, Kind::Picture, what);
            let texts = png_texts(&mut file)?;
            if texts.iter().any(|text| text == "sd-ti-embedding") {
                answer.notes.push("A textual-inversion embedding is inside it.".into());
            }
            if !texts.is_empty() {
                answer.notes.push(format!("It carries texts called {}.", texts.join(", ")));
            }
            Ok(answer)
        }
        [0xff, 0xd8, 0xff, ..] => Ok(ModelFile::new(path, Kind::Picture, "a JPEG picture")),
        _ if found == "a JSON text" => describe_json(path),
        _ => {
            let merges = start.starts_with(b"#version") || path.ends_with("merges.txt");
            if merges {
                return Ok(ModelFile::new(path, Kind::Tokenizer, "the merges of a tokenizer"));
            }
            if found.contains("GGUF") {
                return Ok(describe_gguf(path, file));
            }
            let what = match found {
                "empty" => "an empty file",
                "of an unknown format" => "a file of an unknown format",
                // A zip archive or a pickle that is none of PyTorch's.
                found => found,
            };
            let answer = ModelFile::new(path, Kind::Other, what);
            // A text is no surprise under its own name, but one that is called a model is.
            let named = path.extension().and_then(|extension| extension.to_str());
            let promised = ["safetensors", "ckpt", "pt", "pth", "bin"].map(Some).contains(&named);
            Ok(if promised { answer.note(format!("{advice}.")) } else { answer })
        }
    }
}

/// Says what a GGUF file is by the architecture that it names. Only that is read.
fn describe_gguf(path: &Path, file: fs::File) -> ModelFile {
    let answer = match gguf_architecture(&mut BufReader::new(file)) {
        Some(name) => other_model(path, format!("{} in a GGUF file", family::of_gguf(&name))),
        None => other_model(path, "a GGUF file"),
    };
    answer.note("Quantised files are not supported yet; use a safetensors file.")
}

/// `general.architecture` of a GGUF file, which stands among its first entries.
fn gguf_architecture(file: &mut (impl Read + Seek)) -> Option<String> {
    // Bytes of a value by its type, for those of a fixed length.
    const SIZES: [u64; 13] = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];
    const TEXT: u32 = 8;
    const MAX_ENTRIES: u64 = 64;
    const MAX_KEY: u64 = 1 << 12;
    fn bytes<const N: usize>(file: &mut impl Read) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        file.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }
    fn text(file: &mut impl Read) -> Option<Vec<u8>> {
        let length = u64::from_le_bytes(bytes(file)?);
        let mut text = Vec::new();
        (length <= MAX_KEY).then_some(())?;
        file.take(length).read_to_end(&mut text).ok()?;
        Some(text)
    }
    // Behind the magic number, the version and two counts.
    file.seek(SeekFrom::Start(24)).ok()?;
    for _ in 0..MAX_ENTRIES {
        let key = text(file)?;
        let kind = u32::from_le_bytes(bytes(file)?);
        if key == b"general.architecture" && kind == TEXT {
            let name = String::from_utf8(text(file)?).ok()?;
            let plain = |one: char| one.is_ascii_alphanumeric() || "_-.".contains(one);
            return (!name.is_empty() && name.chars().all(plain)).then_some(name);
        }
        let skipped = match kind {
            TEXT => u64::from_le_bytes(bytes(file)?),
            kind => *SIZES.get(kind as usize).filter(|size| **size > 0)?,
        };
        file.seek(SeekFrom::Current(i64::try_from(skipped).ok()?)).ok()?;
    }
    None
}

/// The keywords of a PNG's texts. Steps over the chunks without reading the picture.
fn png_texts(file: &mut fs::File) -> Result<Vec<String>> {
    const MAX_CHUNKS: usize = 10_000;
    let mut texts: Vec<String> = Vec::new();
    file.seek(SeekFrom::Start(8))?;
    for _ in 0..MAX_CHUNKS {
        let mut chunk = [0u8; 8 + 79];
        let at = file.stream_position()?;
        let mut got = 0;
        while let read @ 1.. = file.read(&mut chunk[got..])? {
            got += read;
        }
        let Some((head, body)) = chunk[..got].split_at_checked(8) else { break };
        if [b"tEXt", b"zTXt", b"iTXt"].iter().any(|kind| head[4..] == kind[..]) {
            let keyword = body.split(|&byte| byte == 0).next().unwrap_or_default();
            texts.push(String::from_utf8_lossy(keyword).into_owned());
        }
        let length = u32::from_be_bytes(*head.first_chunk().expect("eight bytes"));
        file.seek(SeekFrom::Start(at + 12 + u64::from(length)))?;
    }
    Ok(texts)
}

/// Says why a file with the first bytes of a PyTorch file cannot be read. Any other error stays one.
fn describe_refused(path: &Path, error: Error) -> Result<ModelFile> {
    let mut start = Vec::new();
    fs::File::open(path)?.take(4).read_to_end(&mut start)?;
    let Some(layout) = Layout::of(&start) else { return Err(error) };
    let file = match layout {
        Layout::Zip => "a zip archive, as PyTorch writes them",
        Layout::Pickles => "a Python pickle, as older versions of PyTorch write them",
    };
    let why = match error {
        Error::Damaged { .. } => "that is damaged",
        _ => "that is refused",
    };
    let mut answer = ModelFile::new(path, Kind::Pickle, format!("{file}, {why}"));
    answer.size = fs::metadata(path)?.len();
    Ok(answer.note(format!("{}.", capitalized(&error.to_string()))))
}

/// Configuration files by their names; the content is looked at for the rest.
const CONFIGURATIONS: &[(&str, Kind, &str)] = &[
    ("vocab.json", Kind::Tokenizer, "the vocabulary of a tokenizer"),
    ("tokenizer.json", Kind::Tokenizer, "a tokenizer"),
    ("tokenizer_config.json", Kind::Tokenizer, "the configuration of a tokenizer"),
    ("special_tokens_map.json", Kind::Tokenizer, "the special tokens of a tokenizer"),
    ("preprocessor_config.json", Kind::Configuration, "the configuration of an image processor"),
];

fn describe_json(path: &Path) -> Result<ModelFile> {
    let Ok((_, json)) = read_json_up_to(path, MAX_JSON) else {
        return Ok(ModelFile::new(path, Kind::Other, "a text that starts like JSON"));
    };
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let text = |key: &str| json.get(key).and_then(Value::as_str);
    if let Some(kind) = text("peft_type") {
        let algorithm = match kind {
            "LORA" => "LoRA",
            "LOHA" => "LoHa",
            "LOKR" => "LoKr",
            "IA3" => "(IA)³",
            "ADALORA" => "AdaLoRA",
            other => other,
        };
        let class = json.get("auto_mapping").and_then(|mapping| mapping.get("base_model_class"));
        let class = class.and_then(Value::as_str).unwrap_or("an unnamed network");
        let what = format!("the configuration of a PEFT adapter ({algorithm} for {class})");
        let mut answer = ModelFile::new(path, Kind::Configuration, what);
        for (key, label) in [("r", "rank"), ("lora_alpha", "alpha"), ("alpha", "alpha")] {
            if let Some(value) = json.get(key).filter(|value| value.is_number()) {
                answer.notes.push(format!("Its {label} is {value}."));
            }
        }
        return Ok(answer);
    }
    if let Some(class) = text("_class_name") {
        let what = match class {
            _ if name == "model_index.json" => format!("the index of a diffusers folder ({class})"),
            _ if name == "scheduler_config.json" => format!("a configuration for {class}"),
            _ => format!("a configuration for {class}, without its weights"),
        };
        let mut answer = ModelFile::new(path, Kind::Configuration, what);
        if class == "UNet2DConditionModel" {
            answer.family = Some(family::of_unet_config(&json));
        }
        answer.prediction = text("prediction_type").map(str::to_owned);
        return Ok(answer);
    }
    if let Some(row) = CONFIGURATIONS.iter().find(|row| name.ends_with(row.0)) {
        return Ok(ModelFile::new(path, row.1, row.2));
    }
    if let Some(kind) = text("model_type") {
        let what = format!("a configuration for {kind}, without its weights");
        return Ok(ModelFile::new(path, Kind::Configuration, what));
    }
    let listed = json.values().filter(|value| {
        value.get("shape").is_some_and(Value::is_array) && value.get("dtype").is_some()
    });
    match listed.count() {
        0 => Ok(ModelFile::new(path, Kind::Other, "a JSON text")),
        tensors => {
            let what =
                format!("a list of {tensors} tensors' names and shapes, without their values");
            Ok(ModelFile::new(path, Kind::Configuration, what))
        }
    }
}

/// Reads a configuration file: its bytes, and the object that it holds.
///
/// # Errors
/// [`Error::Damaged`] if it is no JSON object or too long for a configuration.
pub(crate) fn read_json(path: &Path) -> Result<(Vec<u8>, Map<String, Value>)> {
    read_json_up_to(path, MAX_CONFIG)
}

/// The same for longer ones.
pub(crate) fn read_json_up_to(path: &Path, limit: u64) -> Result<(Vec<u8>, Map<String, Value>)> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    let json = serde_json::from_slice(&bytes).map_err(|error| Error::Damaged {
        path: path.to_owned(),
        problem: format!("it is not valid JSON ({error})"),
    })?;
    Ok((bytes, json))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `12345678` as `12,345,678`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn range<T: PartialEq + fmt::Display>(range: Option<(T, T)>) -> String {
    match range {
        None => String::new(),
        Some((low, high)) if low == high => low.to_string(),
        Some((low, high)) => format!("{low} to {high}"),
    }
}

fn shortened(text: &str) -> String {
    const LENGTH: usize = 100;
    match text.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
