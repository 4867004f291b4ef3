//! Base models on disk: a diffusers folder or a single file, tensors by canonical name.
//!
//! The canonical name of a tensor is its Diffusers module path with the component in front:
//! `unet.down_blocks.0.resnets.1.conv1.weight`, `text_encoder.text_model.…`, `vae.decoder.…`. Files
//! in other layouts are renamed by the tables of [`keys`]; the rest of the engine knows one name.
//!
//! Opening reads headers and configurations only. Tensors are read when a layer is made, and again
//! when an adapter's weight changes.

pub mod convert;
pub mod header;
pub mod keys;
pub(crate) mod pickle;
pub(crate) mod weights;

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
};

use fs_err as fs;
use serde_json::Value;

use crate::{
    Error, Result,
    architecture::{self, Architecture, Heads, Modules, TextEncoder},
    checkpoint::{
        header::{TensorFile, TensorReader},
        keys::{Component, Names, Part, Source},
    },
    inspect,
    model::{clip::ClipConfig, unet::UNetConfig},
    ops::Activation,
    sample::{
        denoiser::Prediction,
        training::{BetaCurve, TrainingSchedule},
    },
};

/// Configuration files are a few kilobytes.
const MAX_CONFIG: u64 = 1 << 20;

/// The sides of the pictures that a base model was trained on, in pixels.
///
/// # Errors
/// Those of a file or folder that is no base model of a known family.
pub fn native_size(path: &Path) -> Result<u32> {
    let checkpoint = Checkpoint::open(path)?;
    Ok((checkpoint.architecture.native_size)(checkpoint.prediction))
}

/// What a base model in single files predicts, in diffusers' words.
///
/// # Errors
/// Fails if the files cannot be read.
pub(crate) fn prediction(path: &Path, files: Vec<TensorFile>) -> Result<&'static str> {
    let mut tensors = Tensors::new(path);
    tensors.add(files, |names| keys::single_file(names));
    Ok(match predicted(&tensors)? {
        Prediction::Epsilon => "epsilon",
        Prediction::V => "v_prediction",
    })
}

/// One base model, opened.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub(crate) tensors: Tensors,
    pub(crate) architecture: &'static Architecture,
    pub(crate) unet: UNetConfig,
    /// In the order of the architecture's.
    pub(crate) text_encoders: Vec<TextEncoderConfig>,
    /// Whether an empty negative prompt is encoded as zeros.
    pub(crate) zeroes_empty_negative: bool,
    pub(crate) vae: VaeConfig,
    pub(crate) prediction: Prediction,
    pub(crate) training: TrainingSchedule,
}

/// What no shape shows of a text encoder.
#[derive(Debug, Clone)]
pub(crate) struct TextEncoderConfig {
    /// Where its tensors are.
    pub(crate) component: Component,
    pub(crate) clip: ClipConfig,
    /// The folder of its tokenizer, where it has one.
    pub(crate) tokenizer: Option<PathBuf>,
    /// What fills a chunk where there is no such folder, if it is another word than the end token.
    pub(crate) padding: Option<u8>,
}

/// What no shape shows of a VAE.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct VaeConfig {
    /// Groups of its group normalizations.
    pub(crate) groups: usize,
    /// Latents of unit variance are its latents times this.
    pub(crate) scaling_factor: f64,
    /// Whether its values are too large for f16.
    pub(crate) overflows_f16: bool,
}

/// The family and the modules of what may be a base model, or only the UNet of one.
///
/// # Errors
/// Everything without a UNet of a known family is named in the error.
pub(crate) fn outline(path: &Path) -> Result<(&'static Architecture, Modules)> {
    let mut tensors = Tensors::new(path);
    if fs::metadata(path)?.is_dir() {
        tensors.add_folder()?;
    } else {
        tensors.add(vec![TensorFile::open(path)?], |names| keys::single_file(names));
    }
    Ok((recognized(path, &tensors)?, tensors.adaptable()))
}

impl Checkpoint {
    /// Opens a diffusers folder or a single file.
    ///
    /// # Errors
    /// Everything that is no model of a known family is named in the error.
    pub(crate) fn open(path: &Path) -> Result<Checkpoint> {
        Checkpoint::open_with(path, None)
    }

    /// The same; `lender` is a base model whose text encoders and VAE are used where a single file has
    /// none.
    ///
    /// # Errors
    /// Those of opening either; a lender of another family.
    pub(crate) fn open_with(path: &Path, lender: Option<&Path>) -> Result<Checkpoint> {
        match fs::metadata(path)?.is_dir() {
            true => Checkpoint::open_folder(path),
            false => Checkpoint::open_file(path, lender),
        }
    }

    fn open_folder(path: &Path) -> Result<Checkpoint> {
        let incomplete = |missing: &str, advice: &str| Error::Incomplete {
            path: path.to_owned(),
            missing: missing.to_owned(),
            advice: advice.to_owned(),
        };
        if !path.join("unet").join("config.json").is_file() {
            if path.join("adapter_config.json").is_file() {
                return Err(Error::WrongKind {
                    path: path.to_owned(),
                    wanted: "a base model",
                    found: "a PEFT adapter folder".into(),
                    advice: "Put it on the stack of a base model instead".into(),
                });
            }
            return Err(incomplete(
                "it has no UNet (`unet/config.json`)",
                "A diffusers folder holds `unet`, `vae` and `text_encoder`; get the missing part, or \
                 name the `.safetensors` file itself",
            ));
        }
        let unet_config = Config::read(&path.join("unet").join("config.json"))?;
        let vae_config = Config::read_if_there(&path.join("vae").join("config.json"))?;
        let scheduler =
            Config::read_if_there(&path.join("scheduler").join("scheduler_config.json"))?;

        let mut tensors = Tensors::new(path);
        tensors.add_folder()?;
        let architecture = recognized(path, &tensors)?;
        require_components(&tensors, architecture)?;

        unet_config.expect(UNET_EXPECTATIONS)?;
        let unet = UNetConfig {
            heads: heads(&unet_config, architecture)?,
            groups: unet_config.size("norm_num_groups", architecture.groups)?,
            eps: unet_config.number("norm_eps", 1e-5)? as f32,
            size_width: unet_config.size("addition_time_embed_dim", SIZE_WIDTH)?,
        };
        let modules = tensors.modules();
        let text_encoders = architecture
            .text_encoders
            .iter()
            .map(|kind| text_encoder_in(path, kind, &modules))
            .collect::<Result<_>>()?;
        let index = Config::read_if_there(&path.join("model_index.json"))?;
        let zeroes_empty_negative = index
            .value("force_zeros_for_empty_prompt")
            .and_then(Value::as_bool)
            .unwrap_or(architecture.zeroes_empty_negative);
        let prediction = match scheduler.text("prediction_type")? {
            None | Some("epsilon") => Prediction::Epsilon,
            Some("v_prediction") => Prediction::V,
            Some(other) => return Err(scheduler.unsupported("prediction_type", other)),
        };
        Ok(Checkpoint {
            architecture,
            unet,
            text_encoders,
            zeroes_empty_negative,
            vae: VaeConfig::read(&vae_config, architecture)?,
            prediction,
            training: training_schedule(&scheduler)?,
            tensors,
        })
    }

    fn open_file(path: &Path, lender: Option<&Path>) -> Result<Checkpoint> {
        let mut tensors = Tensors::new(path);
        tensors.add(vec![TensorFile::open(path)?], |names| keys::single_file(names));
        let architecture = recognized(path, &tensors)?;
        let prediction = predicted(&tensors)?;
        let lent = match lender.filter(|_| !lacking(&tensors, architecture).is_empty()) {
            Some(lender) => Some(tensors.borrow(architecture, Checkpoint::open(lender)?)?),
            None => None,
        };
        require_components(&tensors, architecture)?;
        let modules = tensors.modules();
        let text_encoder = |kind: &TextEncoder| TextEncoderConfig {
            component: kind.component,
            clip: ClipConfig {
                heads: default_clip_heads(&modules, kind.component),
                activation: kind.activation,
                eps: 1e-5,
                unused_layers: kind.unused_layers,
                states: kind.states,
            },
            tokenizer: None,
            padding: kind.padding,
        };
        Ok(Checkpoint {
            architecture,
            unet: UNetConfig {
                heads: architecture.heads,
                groups: architecture.groups,
                eps: 1e-5,
                size_width: SIZE_WIDTH,
            },
            text_encoders: match &lent {
                Some(Lent { text_encoders: Some(lent), .. }) => lent.clone(),
                _ => architecture.text_encoders.iter().map(text_encoder).collect(),
            },
            zeroes_empty_negative: lent
                .as_ref()
                .map_or(architecture.zeroes_empty_negative, |lent| lent.zeroes_empty_negative),
            vae: lent.as_ref().and_then(|lent| lent.vae).unwrap_or(VaeConfig {
                groups: architecture.groups,
                scaling_factor: architecture.scaling_factor,
                overflows_f16: architecture.vae_overflows_f16,
            }),
            prediction,
            training: match tensors.has_mark("ztsnr") {
                true => TrainingSchedule::stable_diffusion_zero_terminal(),
                false => TrainingSchedule::stable_diffusion(),
            },
            tensors,
        })
    }
}

/// What a picture needs besides the UNet and is not there.
fn lacking(tensors: &Tensors, architecture: &Architecture) -> Vec<Component> {
    let encoders = architecture.text_encoders.iter().map(|encoder| encoder.component);
    let is_there = |component: &Component| {
        tensors.sources.keys().any(|name| Component::of(name) == Some(*component))
    };
    encoders.chain([Component::Vae]).filter(|component| !is_there(component)).collect()
}

/// Fails unless all that a picture needs is there.
fn require_components(tensors: &Tensors, architecture: &Architecture) -> Result<()> {
    let lacking = lacking(tensors, architecture);
    if lacking.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = lacking.iter().map(|component| component.name()).collect();
    let (path, family) = (tensors.path.clone(), architecture.name);
    Err(Error::Incomplete {
        path,
        missing: format!("it holds the UNet of {family} but no {}", names.join(" and no ")),
        advice: format!(
            "Use the complete checkpoint that it was taken from, or put a base model of {family} into the \
             library, whose other parts are then used"
        ),
    })
}

/// What another base model lends: configurations of what was taken from it.
#[derive(Debug)]
struct Lent {
    text_encoders: Option<Vec<TextEncoderConfig>>,
    zeroes_empty_negative: bool,
    vae: Option<VaeConfig>,
}

/// What the configuration of a text encoder in a folder says.
fn text_encoder_in(
    path: &Path,
    kind: &TextEncoder,
    modules: &Modules,
) -> Result<TextEncoderConfig> {
    let folder = kind.component.folder();
    let config = Config::read_if_there(&path.join(folder).join("config.json"))?;
    let tokenizer = path.join(folder.replace("text_encoder", "tokenizer"));
    Ok(TextEncoderConfig {
        component: kind.component,
        clip: ClipConfig {
            heads: config
                .size("num_attention_heads", default_clip_heads(modules, kind.component))?,
            activation: match config.text("hidden_act")? {
                None => kind.activation,
                Some("quick_gelu") => Activation::QuickGelu,
                Some("gelu") => Activation::Gelu,
                Some(other) => return Err(config.unsupported("hidden_act", other)),
            },
            eps: config.number("layer_norm_eps", 1e-5)? as f32,
            unused_layers: 0,
            states: kind.states,
        },
        tokenizer: Some(tokenizer).filter(|folder| folder.is_dir()),
        padding: kind.padding,
    })
}

/// A VAE of its own: a folder with its configuration (or a model folder that has one), or a file in
/// either layout. A safetensors file has no configuration, so it takes the base model's.
pub(crate) fn open_vae(
    path: &Path,
    architecture: &'static Architecture,
) -> Result<(Tensors, VaeConfig)> {
    let mut tensors = Tensors::new(path);
    let config = if fs::metadata(path)?.is_dir() {
        let (folder, files) = match path.join("vae").join("config.json").is_file() {
            true => (path.join("vae"), component_files(path, Component::Vae)?),
            false => (path.to_owned(), weights_in(path, path, "VAE")?),
        };
        tensors.add(files, |names| keys::vae_file(names));
        Config::read_if_there(&folder.join("config.json"))?
    } else {
        tensors.add(vec![TensorFile::open(path)?], |names| keys::vae_file(names));
        Config::default()
    };
    let modules = tensors.modules();
    let inputs = |name| modules.get(name).and_then(|shape: &Vec<usize>| shape.get(1)).copied();
    let tiny = inputs("vae.decoder.layers.0");
    match tiny.or(inputs("vae.decoder.conv_in")) {
        // Its latents are the UNet's, whatever the family.
        Some(4) if tiny.is_some() => {
            let config = VaeConfig { groups: 1, scaling_factor: 1.0, overflows_f16: false };
            Ok((tensors, config))
        }
        Some(4) => Ok((tensors, VaeConfig::read(&config, architecture)?)),
        other => Err(Error::WrongKind {
            path: path.to_owned(),
            wanted: "a VAE",
            found: match other {
                Some(channels) => format!("a VAE with {channels} latent channels instead of 4"),
                None => "a file without a VAE's decoder".into(),
            },
            advice: format!("Choose a VAE for {} models", architecture.name),
        }),
    }
}

/// Tensors by canonical name, in one file or several.
#[derive(Debug)]
pub(crate) struct Tensors {
    path: PathBuf,
    files: Vec<TensorFile>,
    /// Canonical name -> index in `files`, and where it is there.
    sources: BTreeMap<String, (usize, Source)>,
}

/// What to do about a weight that is no number.
const ADVICE: &str = "use another base model";

/// A module's weight in a file, to be read row by row.
#[derive(Debug)]
pub(crate) struct Weight<'a> {
    rows: Rows<'a>,
    /// What numbers of 8 bits were divided by (ComfyUI's "scaled" files); else 1.
    scale: f32,
    /// `(outputs)`, `(outputs, inputs)` or `(outputs, inputs, kernel, kernel)`
    pub(crate) shape: Vec<usize>,
}

/// Where the rows of a weight come from.
#[derive(Debug)]
enum Rows<'a> {
    /// Read from the tensor when they are wanted.
    Stored {
        tensor: TensorReader<'a>,
        /// Which number of the tensor is the first.
        begin: usize,
    },
    /// Columns in the file, brought together once.
    Gathered(Vec<f32>),
}

impl Weight<'_> {
    /// Reads the weights of some outputs, from `first` on, in f32 and in the file's order.
    ///
    /// # Errors
    /// [`Error::NotFinite`] names the tensor that holds NaN or infinity; otherwise the file cannot be read.
    pub(crate) fn read(&self, first: usize, to: &mut [f32]) -> Result<()> {
        let width: usize = self.shape[1..].iter().product();
        match &self.rows {
            Rows::Stored { tensor, begin } => {
                tensor.read_finite(begin + first * width, to, ADVICE)?;
            }
            Rows::Gathered(values) => to.copy_from_slice(&values[first * width..][..to.len()]),
        }
        if self.scale != 1.0 {
            to.iter_mut().for_each(|value| *value *= self.scale);
        }
        Ok(())
    }
}

impl Tensors {
    fn new(path: &Path) -> Tensors {
        Tensors { path: path.to_owned(), files: Vec::new(), sources: BTreeMap::new() }
    }

    /// Adds files that belong together, their tensors called by the names that `sort_out` finds for them.
    fn add(
        &mut self,
        files: Vec<TensorFile>,
        sort_out: impl Fn(&mut dyn Iterator<Item = &str>) -> Names,
    ) {
        let all = files.iter().flat_map(|file| file.tensors().keys());
        let names = sort_out(&mut all.map(String::as_str));
        for (name, source) in names.tensors {
            let holds = |file: &TensorFile| file.tensors().contains_key(&source.name);
            let file = files.iter().position(holds).expect("its name is from one of them");
            self.sources.insert(name, (self.files.len() + file, source));
        }
        self.files.extend(files);
    }

    /// Adds what the folders of a diffusers folder hold, as far as they are there.
    fn add_folder(&mut self) -> Result<()> {
        let path = self.path.clone();
        let has_folder = |component: &&Component| path.join(component.folder()).is_dir();
        for &component in Component::ALL.iter().filter(has_folder) {
            let files = component_files(&path, component)?;
            self.add(files, |names| keys::component_file(component, names));
        }
        Ok(())
    }

    /// Takes from another base model what this one lacks. Text encoders belong together: if one is
    /// lacking, all are taken.
    fn borrow(&mut self, architecture: &'static Architecture, lender: Checkpoint) -> Result<Lent> {
        if lender.architecture.id != architecture.id {
            return Err(Error::WrongKind {
                path: lender.tensors.path,
                wanted: "a base model that lends its text encoders and VAE",
                found: format!("an {} model", lender.architecture.name),
                advice: format!("Choose one of {}", architecture.name),
            });
        }
        let lacking = lacking(self, architecture);
        let of_text = |component: Component| component != Component::Vae;
        let text = lacking.iter().any(|component| of_text(*component));
        let vae = lacking.contains(&Component::Vae);
        let first = self.files.len();
        for (name, (file, source)) in lender.tensors.sources {
            let wanted = match Component::of(&name) {
                Some(Component::TextEncoder | Component::TextEncoder2) => text,
                Some(Component::Vae) => vae,
                _ => false,
            };
            if wanted {
                self.sources.insert(name, (first + file, source));
            }
        }
        self.files.extend(lender.tensors.files);
        Ok(Lent {
            text_encoders: text.then_some(lender.text_encoders),
            zeroes_empty_negative: lender.zeroes_empty_negative,
            vae: vae.then_some(lender.vae),
        })
    }

    /// The file or folder as the person named it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Every module with weights, and the shape of its weight.
    pub(crate) fn modules(&self) -> Modules {
        self.sources
            .iter()
            .filter_map(|(name, (file, source))| {
                let name = name.strip_suffix(".weight")?.to_owned();
                Some((name, without_trailing_one(&self.shape(*file, source))))
            })
            .collect()
    }

    /// The modules that adapters can change: all but the VAE's.
    pub(crate) fn adaptable(&self) -> Modules {
        let mut modules = self.modules();
        modules.retain(|name, _| !name.starts_with(Component::Vae.prefix()));
        modules
    }

    /// All numbers of a module's weight, in f32 and in the file's order.
    ///
    /// # Errors
    /// Those of [`Tensors::weight`] and [`Weight::read`].
    pub(crate) fn values(&self, module: &str) -> Result<Vec<f32>> {
        let weight = self.weight(module)?;
        let mut values = vec![0.0; weight.shape.iter().product()];
        weight.read(0, &mut values)?;
        Ok(values)
    }

    /// A module's weight.
    pub(crate) fn weight(&self, module: &str) -> Result<Weight<'_>> {
        let tensor = format!("{module}.weight");
        let Some((file, source)) = self.sources.get(&tensor) else {
            return Err(self.missing(&tensor));
        };
        let shape = without_trailing_one(&self.shape(*file, source));
        let usable = match *shape {
            [_] | [_, _] => true,
            [_, _, height, width] => height == width,
            _ => false,
        };
        if !usable || shape.contains(&0) {
            return Err(Error::WrongShape {
                path: self.path.clone(),
                tensor,
                found: shape,
                expected: "the weight of a linear layer, a square convolution or a norm".into(),
            });
        }
        let (tensor, begin) = self.reader(*file, source)?;
        let rows = match (source.part, shape.as_slice()) {
            (Part::Transposed, &[outputs, inputs]) => {
                let mut stored = vec![0.0; outputs * inputs];
                tensor.read_finite(0, &mut stored, ADVICE)?;
                let columns = (0..outputs).flat_map(|o| stored[o..].iter().step_by(outputs));
                Rows::Gathered(columns.copied().collect())
            }
            _ => Rows::Stored { tensor, begin },
        };
        Ok(Weight { rows, scale: self.scale(module)?, shape })
    }

    /// What a module's weight is multiplied by after it was read.
    fn scale(&self, module: &str) -> Result<f32> {
        let Some((file, source)) = self.sources.get(&format!("{module}.scale_weight")) else {
            return Ok(1.0);
        };
        let mut scale = [1.0];
        let (tensor, begin) = self.reader(*file, source)?;
        tensor.read_finite(begin, &mut scale, ADVICE)?;
        Ok(scale[0])
    }

    /// A module's bias, if it has one; `outputs` numbers.
    pub(crate) fn bias(&self, module: &str, outputs: usize) -> Result<Option<Vec<f32>>> {
        let tensor = format!("{module}.bias");
        let Some((file, source)) = self.sources.get(&tensor) else { return Ok(None) };
        let shape = self.shape(*file, source);
        if shape != [outputs] {
            return Err(Error::WrongShape {
                path: self.path.clone(),
                tensor,
                found: shape,
                expected: format!("one number for each of {outputs} outputs"),
            });
        }
        let mut bias = vec![0.0; outputs];
        let (tensor, begin) = self.reader(*file, source)?;
        tensor.read_finite(begin, &mut bias, ADVICE)?;
        Ok(Some(bias))
    }

    /// Whether there is a tensor of this name in a file, which says something by being there.
    fn has_mark(&self, name: &str) -> bool {
        self.files.iter().any(|file| file.tensors().contains_key(name))
    }

    fn shape(&self, file: usize, source: &Source) -> Vec<usize> {
        source.shape(&self.files[file].tensors()[&source.name].shape)
    }

    /// What reads a tensor, and which of its numbers is the first.
    fn reader<'a>(&'a self, file: usize, source: &'a Source) -> Result<(TensorReader<'a>, usize)> {
        let elements: usize = self.shape(file, source).iter().product();
        let begin = match source.part {
            Part::Third(third) => third * elements,
            Part::Whole | Part::Transposed => 0,
        };
        Ok((self.files[file].reader(&source.name)?, begin))
    }

    pub(crate) fn missing(&self, tensor: &str) -> Error {
        Error::Incomplete {
            path: self.path.clone(),
            missing: format!("`{tensor}` is missing"),
            advice: "Get the file again, or use another".into(),
        }
    }

    /// Changes when one of the files does.
    pub(crate) fn is_current(&self) -> bool {
        self.files.iter().all(TensorFile::is_current)
    }
}

/// Some files keep the VAE's attention as `(C, C, 1)`.
fn without_trailing_one(shape: &[usize]) -> Vec<usize> {
    match shape {
        [outputs, inputs, 1] => vec![*outputs, *inputs],
        other => other.to_vec(),
    }
}

fn recognized(path: &Path, tensors: &Tensors) -> Result<&'static Architecture> {
    let wrong = |found: &str| Error::WrongKind {
        path: path.to_owned(),
        wanted: "a base model",
        found: found.to_owned(),
        advice: format!("This version runs {} models", architecture::names()),
    };
    let files = || tensors.files.iter().map(TensorFile::tensors);
    // Before the structure: a ControlNet has half of a UNet's.
    let names = files().flat_map(|file| file.keys().map(String::as_str));
    if let Some(found) = inspect::family::foreign_model(names) {
        return Err(wrong(found));
    }
    architecture::recognize(&tensors.modules())
        .map_err(|found| wrong(inspect::foreign(files()).unwrap_or(found)))
}

/// The UNet's heads as a diffusers configuration says them.
fn heads(config: &Config, architecture: &Architecture) -> Result<Heads> {
    // Diffusers' `attention_head_dim` is the number of heads, for historical reasons.
    let key = ["num_attention_heads", "attention_head_dim"]
        .into_iter()
        .find(|key| config.value(key).is_some());
    let Some(key) = key else { return Ok(architecture.heads) };
    let Some(Value::Array(counts)) = config.value(key) else {
        return Ok(Heads::Count(config.size(key, 1)?));
    };
    // One for each level: families have heads of the same width, or as many, on all of them.
    let counts: Vec<_> = counts.iter().map(Value::as_u64).collect();
    let channels: Vec<_> = match config.value("block_out_channels") {
        Some(Value::Array(channels)) => channels.iter().map(Value::as_u64).collect(),
        _ => Vec::new(),
    };
    let width = match (channels.first(), counts.first()) {
        (Some(Some(channels)), Some(Some(count @ 1..))) => channels / count,
        _ => 0,
    };
    let same_width = counts.iter().zip(&channels).all(|(count, channels)| {
        count
            .zip(*channels)
            .is_some_and(|(count, channels)| count.checked_mul(width) == Some(channels))
    });
    match counts.first() {
        Some(Some(first)) if counts.iter().all(|count| *count == Some(*first)) => {
            Ok(Heads::Count(*first as usize))
        }
        Some(_) if same_width && width > 0 && counts.len() == channels.len() => {
            Ok(Heads::Width(width as usize))
        }
        _ => {
            Err(config
                .unsupported(key, &Value::from_iter(counts.into_iter().flatten()).to_string()))
        }
    }
}

/// What the UNet of a single file predicts: what its metadata or its marker says, else what is known of
/// the models of its family.
///
/// No tensor of SD 2.x says it, but training on velocities left its trace: a bias of the last transformer
/// varies more (ComfyUI's rule; 0.09 lies far from both kinds).
fn predicted(tensors: &Tensors) -> Result<Prediction> {
    let said = tensors.files.iter().find_map(|file| {
        match file.metadata().get("modelspec.prediction_type")?.as_str() {
            "v" | "v_prediction" => Some(Prediction::V),
            "epsilon" => Some(Prediction::Epsilon),
            _ => None,
        }
    });
    if let Some(prediction) = said {
        return Ok(prediction);
    }
    if tensors.has_mark("v_pred") {
        return Ok(Prediction::V);
    }
    const TRACE: &str = "unet.up_blocks.3.attentions.2.transformer_blocks.0.norm1";
    let modules = tensors.modules();
    // Those for inpainting were all trained on noise.
    let is_sd2 = architecture::recognize(&modules).is_ok_and(|found| found.id == "sd2")
        && modules.get("unet.conv_in").is_some_and(|shape| shape.get(1) == Some(&4));
    let Some((file, source)) = tensors.sources.get(&format!("{TRACE}.bias")).filter(|_| is_sd2)
    else {
        return Ok(Prediction::Epsilon);
    };
    let outputs = tensors.shape(*file, source).first().copied().unwrap_or_default();
    let bias = tensors.bias(TRACE, outputs)?.unwrap_or_default();
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / bias.len() as f64;
    let average = mean(&mut bias.iter().map(|&value| f64::from(value)));
    let variance = mean(&mut bias.iter().map(|&value| (f64::from(value) - average).powi(2)));
    Ok(if variance.sqrt() > 0.09 { Prediction::V } else { Prediction::Epsilon })
}

/// CLIP has heads of 64 channels.
fn default_clip_heads(modules: &Modules, component: Component) -> usize {
    let prefix = component.prefix();
    let table = modules.get(&format!("{prefix}text_model.embeddings.token_embedding"));
    table.and_then(|shape| shape.get(1)).map_or(1, |width| (width / 64).max(1))
}

/// The files that hold the weights of one component of a diffusers folder.
fn component_files(path: &Path, component: Component) -> Result<Vec<TensorFile>> {
    weights_in(path, &path.join(component.folder()), component.name())
}

fn weights_in(model: &Path, folder: &Path, what: &str) -> Result<Vec<TensorFile>> {
    let files = weights::files(folder)?;
    if !files.is_empty() {
        return files.iter().map(|file| TensorFile::open(file)).collect();
    }
    Err(Error::Incomplete {
        path: model.to_owned(),
        missing: format!("its {what} has no weights in `{}`", folder.display()),
        advice: "Get the folder again, with all its files".into(),
    })
}

/// Numbers for each of the sizes that SDXL is told.
const SIZE_WIDTH: usize = 256;

/// Settings of a UNet that change its arithmetic, and the only values that are built here. A missing
/// setting means the first.
const UNET_EXPECTATIONS: &[(&str, &[&str])] = &[
    ("act_fn", &["\"silu\"", "\"swish\""]),
    ("time_embedding_type", &["\"positional\""]),
    ("resnet_time_scale_shift", &["\"default\""]),
    ("flip_sin_to_cos", &["true"]),
    ("freq_shift", &["0"]),
    ("center_input_sample", &["false"]),
    ("dual_cross_attention", &["false"]),
    ("class_embed_type", &["null"]),
    ("addition_embed_type", &["null", "\"text_time\""]),
    ("encoder_hid_dim", &["null"]),
    ("attention_type", &["\"default\""]),
    ("mid_block_scale_factor", &["1", "1.0"]),
    ("resnet_out_scale_factor", &["1", "1.0"]),
    ("conv_in_kernel", &["3"]),
    ("conv_out_kernel", &["3"]),
];

impl VaeConfig {
    fn read(config: &Config, architecture: &Architecture) -> Result<VaeConfig> {
        let scaling_factor = config.number("scaling_factor", architecture.scaling_factor)?;
        config.expect(&[("act_fn", &["\"silu\""]), ("shift_factor", &["null", "0", "0.0"])])?;
        Ok(VaeConfig {
            groups: config.size("norm_num_groups", architecture.groups)?,
            scaling_factor,
            overflows_f16: config
                .value("force_upcast")
                .and_then(Value::as_bool)
                .unwrap_or(architecture.vae_overflows_f16),
        })
    }
}

fn training_schedule(config: &Config) -> Result<TrainingSchedule> {
    let schedule = match config.value("trained_betas") {
        Some(list) => {
            let betas = list.as_array().into_iter().flatten();
            let betas: Vec<f32> = betas.filter_map(Value::as_f64).map(|beta| beta as f32).collect();
            TrainingSchedule::from_betas(&betas)
        }
        None => {
            let name = config.text("beta_schedule")?.unwrap_or("scaled_linear");
            let Some(curve) = BetaCurve::named(name) else {
                return Err(config.unsupported("beta_schedule", name));
            };
            TrainingSchedule::new(
                curve,
                config.number("beta_start", 0.00085)?,
                config.number("beta_end", 0.012)?,
                config.size("num_train_timesteps", 1000)?,
            )
        }
    };
    config.expect(&[("rescale_betas_zero_snr", &["false", "true"])])?;
    let schedule = match config.value("rescale_betas_zero_snr") {
        Some(Value::Bool(true)) => schedule.and_then(|schedule| schedule.zero_terminal()),
        _ => schedule,
    };
    schedule.map_err(|problem| config.unsupported("the noise schedule", &problem))
}

/// Reads a file as each kind of configuration, whatever comes of it: for tests with damaged ones.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn try_configuration(path: &Path) {
    let Ok(config) = Config::read(path) else { return };
    for architecture in architecture::ARCHITECTURES {
        let _ = heads(&config, architecture);
        let _ = VaeConfig::read(&config, architecture);
    }
    let _ = config.expect(UNET_EXPECTATIONS);
    let _ = training_schedule(&config);
    for key in ["norm_eps", "prediction_type", "hidden_act"] {
        let _ = (config.number(key, 1.0), config.text(key));
    }
}

/// A diffusers configuration file; a missing one is empty.
#[derive(Debug, Default)]
struct Config {
    path: PathBuf,
    values: serde_json::Map<String, Value>,
}

impl Config {
    fn read(path: &Path) -> Result<Config> {
        let mut text = String::new();
        fs::File::open(path)?.take(MAX_CONFIG).read_to_string(&mut text)?;
        let values = serde_json::from_str(&text).map_err(|error| Error::Damaged {
            path: path.to_owned(),
            problem: format!("it is not valid JSON ({error})"),
        })?;
        Ok(Config { path: path.to_owned(), values })
    }

    fn read_if_there(path: &Path) -> Result<Config> {
        match path.is_file() {
            true => Config::read(path),
            false => Ok(Config { path: path.to_owned(), ..Config::default() }),
        }
    }

    /// A value that is there and not `null`.
    fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.unsupported(key, &other.to_string())),
        }
    }

    fn number(&self, key: &str, default: f64) -> Result<f64> {
        let Some(value) = self.value(key) else { return Ok(default) };
        let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
        number.ok_or_else(|| self.unsupported(key, &value.to_string()))
    }

    /// A positive whole number.
    fn size(&self, key: &str, default: usize) -> Result<usize> {
        let Some(value) = self.value(key) else { return Ok(default) };
        let size = value.as_u64().filter(|size| (1..=1 << 20).contains(size));
        size.map(|size| size as usize).ok_or_else(|| self.unsupported(key, &value.to_string()))
    }

    /// Fails if one of the settings has a value that is not listed.
    fn expect(&self, expectations: &[(&str, &[&str])]) -> Result<()> {
        for (key, accepted) in expectations {
            if let Some(value) = self.value(key) {
                let value = value.to_string();
                if !accepted.contains(&value.as_str()) {
                    return Err(self.unsupported(key, &value));
                }
            }
        }
        Ok(())
    }

    fn unsupported(&self, key: &str, value: &str) -> Error {
        Error::WrongKind {
            path: self.path.clone(),
            wanted: "a model's configuration",
            found: format!("one that sets `{key}` to {value}"),
            advice: "This kind of model is not supported".into(),
        }
    }
}
