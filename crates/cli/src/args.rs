//! The options, as the person types them.

use std::path::PathBuf;

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, RangedU64ValueParser},
};
use engine::{
    DeviceId, Precision, Rng,
    sample::{SAMPLERS, schedule::SCHEDULES},
};
use studio::{
    AdapterParams, FileRef, Folders, Library, Prediction,
    sheet::{AxisTarget, AxisWish, WeightPart},
};

/// Stable Diffusion with stacked adapters, from the command line.
#[derive(Debug, Parser)]
#[command(name = "impasto", version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make pictures.
    ///
    /// The path of each is printed. Every picture carries its recipe, which `--recipe` reads.
    Generate(GenerateArgs),
    /// Make a sheet: many pictures with one seed, in a grid along one or two axes.
    ///
    /// An axis is `NAME=VALUES`. NAME is an adapter, on the stack (`--lora`) or not: its weights; `unet:ADAPTER`
    /// or `te:ADAPTER`: one of them; or `steps`, `guidance`, `seed`, `sampler`, `schedule`, `clip-skip`,
    /// `denoise`, `model`, or `words`, of which the first stands in a prompt and each takes its place. VALUES
    /// stand between commas; `1-5` counts, `0-1 (+0.25)` goes in steps, `0-1 [5]` has so many values.
    ///
    /// The sheet carries the recipe and the axes: `impasto sheet --recipe sheet.png` makes it again.
    Sheet(Box<SheetArgs>),
    /// Say what a model file is.
    Inspect(InspectArgs),
    /// Write a model file anew, as safetensors.
    ///
    /// A PyTorch file keeps the names of its tensors, without the wrapping around them. A diffusers folder of
    /// SD 1.x or 2.x becomes a single file, and a single file a folder, if OUT does not end in `.safetensors`.
    /// Without `--precision` all numbers keep their bits.
    Convert(ConvertArgs),
    /// List what there is to choose from.
    List(ListArgs),
    /// Measure load, steps and decode for one picture, which is not kept.
    Bench(BenchArgs),
}

// The last of an option that is given twice counts, so that a script's options can be overridden.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) picture: PictureArgs,

    /// How many pictures, with seeds S, S+1, …
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=100_000))]
    pub(crate) batch: usize,

    /// Where pictures go: a file, or a folder in which they are numbered
    ///
    /// A folder's pictures are never overwritten; a file that is named is replaced. The pictures of a
    /// batch are then F-1.png, F-2.png, … Without this option they go to `Impasto` in your pictures
    /// folder, or to `impasto-output` here if you have none.
    #[arg(long, value_name = "F.png|DIR")]
    pub(crate) out: Option<PathBuf>,

    /// Write the sampler's last output (`latents`, before the division by the VAE's scaling factor)
    #[arg(long, value_name = "F.safetensors")]
    pub(crate) save_latents: Option<PathBuf>,

    /// Write the prompts as encoded (`cond` and `uncond`; for SDXL `pooled` and `uncond_pooled` too)
    #[arg(long, value_name = "F.safetensors")]
    pub(crate) save_conditioning: Option<PathBuf>,

    /// Print one JSON object with paths, seed and timings instead of the paths
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct SheetArgs {
    #[command(flatten)]
    pub(crate) picture: PictureArgs,

    /// What changes from left to right: 'neon=0-1 [5]'
    #[arg(long, value_name = "NAME=VALUES", value_parser = parse_axis)]
    pub(crate) x: Option<AxisWish>,

    /// What changes from the bottom to the top: 'steps=4,8,16'
    #[arg(long, value_name = "NAME=VALUES", value_parser = parse_axis)]
    pub(crate) y: Option<AxisWish>,

    /// Where the sheet goes; a file of that name is replaced
    ///
    /// Cells have their full size, unless a side would be longer than 8192 pixels.
    #[arg(long, value_name = "F.png")]
    pub(crate) out: PathBuf,

    /// Keep each cell as a picture of its own, numbered in the order in which they are made
    #[arg(long, value_name = "DIR")]
    pub(crate) cells: Option<PathBuf>,

    /// Print one JSON object with paths, labels, seed and timings instead of the paths
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) picture: PictureArgs,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Everything that makes one picture. What is left out comes from the recipe, or else suits the model.
#[derive(Debug, Args)]
pub(crate) struct PictureArgs {
    /// Base model: a diffusers folder, a file, or a name from `impasto list models`
    #[arg(long, value_name = "DIR|FILE|NAME")]
    pub(crate) model: Option<String>,

    /// What the picture shows
    ///
    /// `(word:1.2)` weighs, `BREAK` starts a new chunk, `<lora:NAME:TE:UNET>` adds an adapter; behind the
    /// weights `te2=`, `lbw=` (weights of blocks: a list or a preset), `start=`, `stop=` (steps) and `dyn=`
    /// (a limit of the rank) may follow.
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,

    /// What to avoid
    #[arg(long, value_name = "TEXT")]
    pub(crate) negative: Option<String>,

    /// Pixels, a multiple of 8
    #[arg(long, value_name = "W")]
    pub(crate) width: Option<u32>,

    /// Pixels, a multiple of 8
    #[arg(long, value_name = "H")]
    pub(crate) height: Option<u32>,

    /// Sampler steps
    #[arg(long, value_name = "N")]
    pub(crate) steps: Option<u32>,

    /// Guidance scale; 1 turns guidance off and takes half the time
    #[arg(long, value_name = "G", allow_negative_numbers = true)]
    pub(crate) guidance: Option<f64>,

    /// The picture's number among all with this prompt; random if left out
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,

    /// How to walk from noise to picture; see `impasto list samplers`
    #[arg(long, value_name = "ID", value_parser = PossibleValuesParser::new(SAMPLERS.iter().map(|s| s.id)), hide_possible_values = true)]
    pub(crate) sampler: Option<String>,

    /// How the steps are spaced; see `impasto list schedules`
    #[arg(long, value_name = "ID", value_parser = PossibleValuesParser::new(SCHEDULES.iter().map(|s| s.id)), hide_possible_values = true)]
    pub(crate) schedule: Option<String>,

    /// Put an adapter on the stack, with weights for UNet and text encoder; can be repeated
    ///
    /// The name ends at the last `=`. Without weights both are 1; the text encoder's is the UNet's if it
    /// is left out.
    #[arg(long, value_name = "FILE|DIR|NAME[=UNET[,TE]]", value_parser = parse_adapter)]
    pub(crate) lora: Vec<AdapterArg>,

    /// Start from this picture; its size is the default
    #[arg(long, value_name = "IMAGE")]
    pub(crate) init_image: Option<String>,

    /// Repaint the first picture only where this one is white
    #[arg(long, value_name = "IMAGE", requires = "init_image")]
    pub(crate) mask: Option<String>,

    /// How much of the first picture is repainted, 0 to 1 [default: 0.75]
    #[arg(long, value_name = "D", allow_negative_numbers = true)]
    pub(crate) denoise: Option<f64>,

    /// Use another VAE than the base model's own
    #[arg(long, value_name = "DIR|FILE")]
    pub(crate) vae: Option<String>,

    /// What the base model predicts, where its file does not say it or says it wrongly
    #[arg(long, value_enum)]
    pub(crate) prediction: Option<PredictionArg>,

    /// Which layer of the text encoder, from the end; 1 is the last
    #[arg(long, value_name = "N")]
    pub(crate) clip_skip: Option<u32>,

    /// Let another base model take the last steps, from this part of them on: SDXL's refiner [default: 0.8]
    #[arg(long, value_name = "FILE|DIR|NAME[=AT]", value_parser = parse_refiner)]
    pub(crate) refiner: Option<RefinerArg>,

    /// What SDXL is told of the size before scaling [default: the picture's]
    #[arg(long, value_name = "WxH", value_parser = parse_size)]
    pub(crate) original_size: Option<(u32, u32)>,

    /// What SDXL is told of pixels cut off at the left and at the top
    #[arg(long, value_name = "X,Y", value_parser = parse_crop)]
    pub(crate) crop: Option<(u32, u32)>,

    /// What SDXL is told of the size aimed at [default: the picture's]
    #[arg(long, value_name = "WxH", value_parser = parse_size)]
    pub(crate) target_size: Option<(u32, u32)>,

    /// What SDXL's refiner is told of the beauty of picture and negative prompt [default: 6,2.5]
    #[arg(long, value_name = "P,N", value_parser = parse_scores)]
    pub(crate) aesthetic_scores: Option<(f64, f64)>,

    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = parse_device)]
    pub(crate) device: DeviceChoice,

    /// How weights and activations are stored
    #[arg(long, value_enum)]
    pub(crate) precision: Option<PrecisionArg>,

    /// Whose random numbers: PyTorch's on the CPU, or those of a CUDA device (A1111's default)
    #[arg(long, value_enum)]
    pub(crate) rng: Option<RngArg>,

    /// First noise instead of the seed's: tensor `noise` [B,4,h,w] of unit variance
    #[arg(long, value_name = "F.safetensors")]
    pub(crate) noise: Option<String>,

    /// Make the picture of this recipe; other options override parts of it
    ///
    /// Pictures of ours and of A1111 (PNG, JPEG, WebP), or a JSON file.
    #[arg(long, value_name = "FILE.png|.json")]
    pub(crate) recipe: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) library: LibraryArgs,

    /// How many threads to compute with; the picture does not depend on it [default: all]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    pub(crate) threads: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct LibraryArgs {
    /// A folder in which models are found by name, one of another program (AUTOMATIC1111, ComfyUI, …) too;
    /// can be repeated
    #[arg(long, value_name = "DIR")]
    pub(crate) models: Vec<PathBuf>,
}

impl LibraryArgs {
    /// The library of this machine, with these folders.
    pub(crate) fn open(&self) -> studio::Result<Library> {
        Library::open(Folders { models: self.models.clone(), ..Folders::of_this_machine() })
    }
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A model file, or a folder
    #[arg(value_name = "FILE|DIR")]
    pub(crate) path: PathBuf,

    /// Of an adapter: what it would change of this base model, where, and how much
    #[arg(long, value_name = "FILE|DIR|NAME")]
    pub(crate) on: Option<String>,

    #[command(flatten)]
    pub(crate) library: LibraryArgs,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    /// A safetensors or PyTorch file, or a diffusers folder
    #[arg(value_name = "IN")]
    pub(crate) input: PathBuf,

    /// The new file, or the new folder
    #[arg(value_name = "OUT.safetensors|DIR")]
    pub(crate) output: PathBuf,

    /// How numbers are stored; whole numbers stay as they are [default: as in IN]
    #[arg(long, value_enum)]
    pub(crate) precision: Option<StoredArg>,

    /// Write an adapter into the model, with weights for UNet and text encoder; can be repeated
    #[arg(long, value_name = "FILE|DIR|NAME[=UNET[,TE]]", value_parser = parse_adapter)]
    pub(crate) lora: Vec<AdapterArg>,

    #[command(flatten)]
    pub(crate) library: LibraryArgs,

    /// Replace a file that has the name
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Of what
    #[arg(value_enum)]
    pub(crate) what: ListWhat,

    #[command(flatten)]
    pub(crate) library: LibraryArgs,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ListWhat {
    Models,
    Adapters,
    Samplers,
    Schedules,
    Devices,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum PrecisionArg {
    /// bf16 where the processor multiplies it faster than f32, else f32
    Auto,
    F32,
    Bf16,
    F16,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum StoredArg {
    F32,
    F16,
    Bf16,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum PredictionArg {
    /// The noise in its input
    Epsilon,
    /// The velocity from picture to noise, as SD 2.1 at 768 and some others do
    V,
}

impl From<PredictionArg> for Prediction {
    fn from(prediction: PredictionArg) -> Prediction {
        match prediction {
            PredictionArg::Epsilon => Prediction::Epsilon,
            PredictionArg::V => Prediction::VPrediction,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum RngArg {
    TorchCpu,
    Nv,
}

impl From<PrecisionArg> for Precision {
    fn from(precision: PrecisionArg) -> Precision {
        match precision {
            PrecisionArg::Auto => Precision::auto(),
            PrecisionArg::F32 => Precision::F32,
            PrecisionArg::Bf16 => Precision::Bf16,
            PrecisionArg::F16 => Precision::F16,
        }
    }
}

impl From<RngArg> for Rng {
    fn from(rng: RngArg) -> Rng {
        match rng {
            RngArg::TorchCpu => Rng::TorchCpu,
            RngArg::Nv => Rng::Nv,
        }
    }
}

/// An adapter with its weights.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AdapterArg {
    pub(crate) name: String,
    pub(crate) unet_weight: f64,
    pub(crate) text_encoder_weight: f64,
}

impl AdapterArg {
    pub(crate) fn to_params(&self) -> AdapterParams {
        AdapterParams {
            text_encoder_weight: self.text_encoder_weight,
            ..AdapterParams::new(FileRef::named(&self.name), self.unet_weight)
        }
    }
}

/// A refiner, and the part of the steps before it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RefinerArg {
    pub(crate) name: String,
    pub(crate) switch_at: f64,
}

/// A1111's and diffusers' default.
const SWITCH_AT: f64 = 0.8;

fn parse_refiner(text: &str) -> Result<RefinerArg, String> {
    let split = text.rsplit_once('=').and_then(|(name, at)| Some((name, at.parse().ok()?)));
    let (name, switch_at) = split.unwrap_or((text, SWITCH_AT));
    if name.is_empty() {
        return Err("it names no model".into());
    }
    if !(0.0..=1.0).contains(&switch_at) {
        return Err("the part of the steps before it is from 0 to 1".into());
    }
    Ok(RefinerArg { name: name.to_owned(), switch_at })
}

/// Two numbers with something between them.
fn parse_pair<T: std::str::FromStr>(
    text: &str,
    between: char,
    example: &str,
) -> Result<(T, T), String> {
    let pair = text.split_once(between);
    let pair = pair.and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
    pair.ok_or_else(|| format!("it should look like {example}"))
}

fn parse_size(text: &str) -> Result<(u32, u32), String> {
    parse_pair(text, 'x', "1024x768")
}

fn parse_crop(text: &str) -> Result<(u32, u32), String> {
    parse_pair(text, ',', "0,64")
}

fn parse_scores(text: &str) -> Result<(f64, f64), String> {
    parse_pair(text, ',', "6,2.5")
}

/// Parameters that can be axes, by the names of their options.
const AXES: &[(&str, AxisTarget)] = &[
    ("steps", AxisTarget::Steps),
    ("guidance", AxisTarget::Guidance),
    ("seed", AxisTarget::Seed),
    ("sampler", AxisTarget::Sampler),
    ("schedule", AxisTarget::Schedule),
    ("clip-skip", AxisTarget::ClipSkip),
    ("denoise", AxisTarget::Denoising),
    ("model", AxisTarget::Model),
    ("words", AxisTarget::Words),
];

/// Prefixes that name an adapter's network.
const PARTS: &[(&str, WeightPart)] =
    &[("lora:", WeightPart::Both), ("unet:", WeightPart::Unet), ("te:", WeightPart::TextEncoder)];

fn parse_axis(text: &str) -> Result<AxisWish, String> {
    let shape = "it should look like NAME=VALUES: 'neon=0-1 [5]', 'steps=4,8,16'";
    let (name, values) = text.split_once('=').ok_or(shape)?;
    let parameter = AXES.iter().find(|(known, _)| *known == name.trim());
    if let Some((_, target)) = parameter {
        return Ok(AxisWish { target: target.clone(), title: None, values: values.to_owned() });
    }
    // A file name may contain `=`, weights never do.
    let (name, values) = text.rsplit_once('=').ok_or(shape)?;
    let part = PARTS.iter().find_map(|(prefix, part)| Some((name.strip_prefix(prefix)?, *part)));
    let (name, part) = part.unwrap_or((name, WeightPart::Both));
    if name.is_empty() {
        return Err("it names no adapter and no parameter".into());
    }
    let target = AxisTarget::Weight { file: FileRef::named(name), part };
    Ok(AxisWish { target, title: None, values: values.to_owned() })
}

/// What to compute on, as it was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum DeviceChoice {
    /// The first card that can be used, or else the processor.
    Auto,
    Device(DeviceId),
}

fn parse_device(text: &str) -> Result<DeviceChoice, String> {
    match text {
        "auto" => Ok(DeviceChoice::Auto),
        _ => text.parse().map(DeviceChoice::Device),
    }
}

fn parse_adapter(text: &str) -> Result<AdapterArg, String> {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    // A file name may contain `=`: only what reads as weights is taken for them.
    let weights = text.rsplit_once('=').and_then(|(name, weights)| {
        let (unet, te) = weights.split_once(',').unwrap_or((weights, weights));
        Some((name, number(unet)?, number(te)?))
    });
    let (name, unet_weight, text_encoder_weight) = weights.unwrap_or((text, 1.0, 1.0));
    if name.is_empty() {
        return Err("it names no adapter".into());
    }
    if !unet_weight.is_finite() || !text_encoder_weight.is_finite() {
        return Err("a weight must be a finite number".into());
    }
    Ok(AdapterArg { name: name.to_owned(), unet_weight, text_encoder_weight })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_options_make_sense() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_axis_is_an_adapter_or_a_parameter() {
        let axis = |text| parse_axis(text).map(|AxisWish { target, values, .. }| (target, values));
        let weight = |name: &str, part, values: &str| {
            Ok((AxisTarget::Weight { file: FileRef::named(name), part }, values.to_owned()))
        };
        assert_eq!(axis("neon=0-1 [5]"), weight("neon", WeightPart::Both, "0-1 [5]"));
        assert_eq!(
            axis("unet:a/b=c.safetensors=1"),
            weight("a/b=c.safetensors", WeightPart::Unet, "1")
        );
        assert_eq!(axis("te:ink=0,1"), weight("ink", WeightPart::TextEncoder, "0,1"));
        assert_eq!(axis("lora:steps=0,1"), weight("steps", WeightPart::Both, "0,1"));
        assert_eq!(axis("steps=4,8"), Ok((AxisTarget::Steps, "4,8".to_owned())));
        assert_eq!(axis("words=a=b, c"), Ok((AxisTarget::Words, "a=b, c".to_owned())));
        assert!(axis("neon").is_err() && axis("=1").is_err() && axis("unet:=1").is_err());
    }

    #[test]
    fn a_refiner_ends_at_the_last_equals_sign() {
        let refiner = |name: &str, switch_at| Ok(RefinerArg { name: name.to_owned(), switch_at });
        assert_eq!(parse_refiner("xl"), refiner("xl", 0.8));
        assert_eq!(parse_refiner("a=b=0.5"), refiner("a=b", 0.5));
        assert_eq!(parse_refiner("a=b"), refiner("a=b", 0.8));
        assert!(parse_refiner("xl=2").is_err() && parse_refiner("=1").is_err());
        assert_eq!(parse_size("1024x768"), Ok((1024, 768)));
        assert_eq!(parse_crop("0, 64"), Ok((0, 64)));
        assert!(parse_size("1024").is_err() && parse_crop("-1,0").is_err());
    }

    #[test]
    fn adapters_end_at_the_last_equals_sign() {
        let cases = [
            ("neon", "neon", 1.0, 1.0),
            ("neon=0.8", "neon", 0.8, 0.8),
            ("neon=0.8,0.2", "neon", 0.8, 0.2),
            ("neon=-1,0", "neon", -1.0, 0.0),
            ("a=b.safetensors", "a=b.safetensors", 1.0, 1.0),
            ("a=b=.5", "a=b", 0.5, 0.5),
            ("/x/v=2/a.safetensors", "/x/v=2/a.safetensors", 1.0, 1.0),
            ("neon=strong", "neon=strong", 1.0, 1.0),
        ];
        for (text, name, unet_weight, text_encoder_weight) in cases {
            let name = name.to_owned();
            let expected = AdapterArg { name, unet_weight, text_encoder_weight };
            assert_eq!(parse_adapter(text), Ok(expected), "{text}");
        }
        for text in ["", "=1", "neon=nan", "neon=inf,1"] {
            assert!(parse_adapter(text).is_err(), "{text}");
        }
    }
}
