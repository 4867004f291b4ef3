//! Generation parameters: all that a person chose for a picture.
//!
//! They name files by name and hash, never by path, so that a recipe survives moving and renaming what
//! it is made of. [`resolve`](crate::resolve) finds the files and makes an [`engine::Request`] of them.
//!
//! # Versions
//!
//! What is written into files carries [`VERSION`]. An old version is brought up by one function per
//! step, in [`UPGRADES`]; a field is never given another meaning without such a step.

use std::path::PathBuf;

use engine::{
    AdapterUse,
    adapter::{
        block::BlockWeights,
        curve::{Curve, Fade, Keyframe},
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use ts_rs::TS;

use crate::{Code, Error, Result};

/// The version of what is written. Goes up with every change that an older reader would misread.
pub const VERSION: u32 = 1;

/// A JSON object of parameters, maybe only of some.
pub type Fields = Map<String, Value>;

/// How to bring the fields of version `n + 1` (counting from 0) to those of the next.
const UPGRADES: &[fn(&mut Fields)] = &[];

/// All that a person chose for a picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
pub struct GenerationParams {
    /// [`VERSION`].
    pub version: u32,
    /// The base model.
    pub model: FileRef,
    /// A VAE instead of the base model's own.
    pub vae: Option<FileRef>,
    /// What the base model's UNet predicts, where its file does not say it or says it wrongly.
    pub prediction: Option<Prediction>,
    /// The stack.
    pub adapters: Vec<AdapterParams>,
    /// Embeddings that the prompts call by their names; [`resolve`](crate::resolve) finds them.
    #[serde(default)]
    pub embeddings: Vec<FileRef>,
    /// May contain adapter tags, which [`resolve`](crate::resolve) moves into the stack.
    pub prompt: String,
    /// What to avoid.
    pub negative_prompt: String,
    /// Pixels, a multiple of 8.
    pub width: u32,
    /// Pixels, a multiple of 8.
    pub height: u32,
    /// Steps of the full schedule; with a first picture, the end of it is run.
    pub steps: u32,
    /// Classifier-free guidance; 1 turns it off.
    pub guidance_scale: f64,
    /// Id of a sampler.
    pub sampler: String,
    /// Id of a schedule.
    pub schedule: String,
    /// Up to 2^53 - 1; `None` asks for a random one.
    pub seed: Option<u64>,
    /// Whose random numbers.
    #[serde(with = "RngName")]
    #[ts(as = "RngName")]
    pub rng: engine::Rng,
    /// 1 is the text encoder's last layer; of SDXL the last but one.
    pub clip_skip: u32,
    /// What SDXL is told of sizes, where that is not the picture's own size.
    #[serde(default)]
    pub sizes: Option<SizeParams>,
    /// Another base model for the last steps.
    #[serde(default)]
    pub refiner: Option<RefinerParams>,
    /// How weights and activations are stored.
    #[serde(with = "PrecisionName")]
    #[ts(as = "PrecisionName")]
    pub precision: engine::Precision,
    /// Start from a picture.
    pub init: Option<InitParams>,
    /// First noise from a file instead of from the seed.
    pub noise: Option<NoiseParams>,
}

/// A file by name and hash.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, TS)]
pub struct FileRef {
    /// File name without extension, a short name, or a path; without a folder once it is resolved.
    pub name: String,
    /// SHA-256 of the file in hex, or its first ten digits at least. For a folder see
    /// [`hash`](crate::hash).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[ts(optional)]
    pub sha256: Option<String>,
    /// SHA-256 of what follows a safetensors file's header, or its first twelve digits at least: by
    /// this A1111 knows adapters, as it survives a change of metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[ts(optional)]
    pub data_sha256: Option<String>,
}

/// One adapter of the stack.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
pub struct AdapterParams {
    /// The adapter.
    #[serde(flatten)]
    pub file: FileRef,
    /// How much of it acts on the UNet.
    pub unet_weight: f64,
    /// How much of it acts on the text encoder; of SDXL's two, on the first.
    pub text_encoder_weight: f64,
    /// How much of it acts on SDXL's second text encoder, where that is not the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[ts(optional)]
    pub text_encoder_2_weight: Option<f64>,
    /// What its weights are multiplied by in single blocks: text encoders, IN00 to IN11, the middle,
    /// OUT00 to OUT11.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[ts(optional)]
    pub blocks: Option<Vec<f64>>,
    /// What the UNet's weight is multiplied by over the steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[ts(optional)]
    pub over_steps: Option<Vec<KeyframeParams>>,
    /// How many ranks of it are used; all without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[ts(optional)]
    pub rank_limit: Option<u32>,
    /// An adapter that is switched off keeps its place and its weights, and does nothing.
    #[serde(default = "enabled")]
    pub enabled: bool,
}

/// What an adapter's weight is multiplied by at one place among the steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, TS)]
pub struct KeyframeParams {
    /// 0 is the first step, 1 the last.
    pub at: f64,
    /// Of the weight.
    pub factor: f64,
    /// To the next keyframe.
    #[serde(default)]
    pub fade: FadeName,
}

/// How a weight goes from one keyframe to the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "lowercase")]
pub enum FadeName {
    /// It stays, and jumps at the next.
    Hold,
    /// In a straight line.
    #[default]
    Linear,
    /// Slowly at both ends.
    Cosine,
}

/// What SDXL is told of sizes, and its refiner of beauty.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[serde(default)]
pub struct SizeParams {
    /// Width and height before the training picture was scaled; `null`: the picture's.
    pub original: Option<(u32, u32)>,
    /// Pixels cut off at the left and at the top.
    pub crop: (u32, u32),
    /// Width and height that it was scaled to; `null`: the picture's.
    pub target: Option<(u32, u32)>,
    /// The refiner's score for the prompt, 1 to 10.
    pub aesthetic_score: f64,
    /// The refiner's score for the negative prompt.
    pub negative_aesthetic_score: f64,
}

impl Default for SizeParams {
    fn default() -> SizeParams {
        let engine::Sizes { original, crop, target, aesthetic_score, negative_aesthetic_score } =
            engine::Sizes::default();
        SizeParams { original, crop, target, aesthetic_score, negative_aesthetic_score }
    }
}

impl From<&SizeParams> for engine::Sizes {
    fn from(params: &SizeParams) -> engine::Sizes {
        let SizeParams { original, crop, target, aesthetic_score, negative_aesthetic_score } =
            *params;
        engine::Sizes { original, crop, target, aesthetic_score, negative_aesthetic_score }
    }
}

/// A base model that takes over in the midst of sampling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
pub struct RefinerParams {
    /// The base model, of the same latents.
    #[serde(flatten)]
    pub file: FileRef,
    /// The part of the steps that come before it, `0..=1`.
    pub switch_at: f64,
}

/// The picture to start from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
pub struct InitParams {
    /// The picture; a recipe of another program knows that there was one, but not which.
    pub image: Option<FileRef>,
    /// The part of the schedule that is run, `0..=1`.
    pub denoising_strength: f64,
    /// How a picture of another shape is brought to this one's.
    #[serde(default)]
    pub fit: InitFit,
    /// Another picture that says where it is repainted: where it is white.
    #[serde(default)]
    pub mask: Option<FileRef>,
}

/// How a first picture of another shape is brought to the picture's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "lowercase")]
pub enum InitFit {
    /// Its edges are cut off: A1111's "crop and resize".
    #[default]
    Crop,
    /// All of it is kept, on a ground of its edges' mean color.
    Fit,
}

/// First noise from a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
pub struct NoiseParams {
    /// A safetensors file with a tensor `noise`, `(n, 4, height / 8, width / 8)` of unit variance.
    #[serde(flatten)]
    pub file: FileRef,
    /// Which of the `n`.
    #[serde(default)]
    pub index: usize,
}

/// What a UNet outputs, in diffusers' words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise in its input.
    Epsilon,
    /// The velocity from picture to noise.
    VPrediction,
}

impl From<Prediction> for engine::sample::denoiser::Prediction {
    fn from(prediction: Prediction) -> Self {
        match prediction {
            Prediction::Epsilon => Self::Epsilon,
            Prediction::VPrediction => Self::V,
        }
    }
}

#[derive(Serialize, Deserialize, TS)]
#[serde(remote = "engine::Rng", rename_all = "kebab-case")]
#[ts(rename = "Rng", rename_all = "kebab-case")]
pub(crate) enum RngName {
    TorchCpu,
    Nv,
}

#[derive(Serialize, Deserialize, TS)]
#[serde(remote = "engine::Precision", rename_all = "lowercase")]
#[ts(rename = "Precision", rename_all = "lowercase")]
pub(crate) enum PrecisionName {
    F32,
    Bf16,
    F16,
}

/// The default of [`AdapterParams::enabled`].
fn enabled() -> bool {
    true
}

impl AdapterParams {
    /// An adapter that acts on everything alike.
    #[must_use]
    pub fn new(file: FileRef, weight: f64) -> AdapterParams {
        AdapterParams {
            file,
            unet_weight: weight,
            text_encoder_weight: weight,
            text_encoder_2_weight: None,
            blocks: None,
            over_steps: None,
            rank_limit: None,
            enabled: true,
        }
    }

    /// Whether nothing of it acts anywhere.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        let second = self.text_encoder_2_weight.unwrap_or(self.text_encoder_weight);
        [self.unet_weight, self.text_encoder_weight, second].iter().all(|weight| *weight == 0.0)
    }

    /// The same for the engine.
    ///
    /// # Errors
    /// Fails if there are as many factors as no list of blocks has, or a rank limit of 0.
    pub fn to_use(&self, path: PathBuf) -> Result<AdapterUse> {
        let wrong = |found: String, rule: &str| {
            let message = format!("`{}` cannot be used with {found}", self.file.name);
            Err(Error::new(Code::InvalidParams { field: "adapters" }, message).hint(rule))
        };
        let blocks = match &self.blocks {
            None => BlockWeights::default(),
            Some(list) => match BlockWeights::new(list) {
                Some(blocks) => blocks,
                None => {
                    let found = format!("a list of {} weights of blocks", list.len());
                    return wrong(found, "a list has 12, 17, 20 or 26 numbers");
                }
            },
        };
        if self.rank_limit == Some(0) {
            return wrong("a rank limit of 0".into(), "it is 1 at least");
        }
        let keyframes = self.over_steps.iter().flatten().map(|&frame| frame.into());
        Ok(AdapterUse {
            unet_weight: self.unet_weight,
            text_encoder_weight: self.text_encoder_weight,
            text_encoder_2_weight: self.text_encoder_2_weight.unwrap_or(self.text_encoder_weight),
            blocks,
            over_steps: Curve::new(keyframes.collect()),
            rank_limit: self.rank_limit.map(|limit| limit as usize),
            ..AdapterUse::new(path, 0.0)
        })
    }
}

impl From<KeyframeParams> for Keyframe {
    fn from(KeyframeParams { at, factor, fade }: KeyframeParams) -> Keyframe {
        let fade = match fade {
            FadeName::Hold => Fade::Hold,
            FadeName::Linear => Fade::Linear,
            FadeName::Cosine => Fade::Cosine,
        };
        Keyframe { at, factor, fade }
    }
}

impl From<Keyframe> for KeyframeParams {
    fn from(Keyframe { at, factor, fade }: Keyframe) -> KeyframeParams {
        let fade = match fade {
            Fade::Hold => FadeName::Hold,
            Fade::Linear => FadeName::Linear,
            Fade::Cosine => FadeName::Cosine,
        };
        KeyframeParams { at, factor, fade }
    }
}

impl FileRef {
    /// A file of which only the name is known.
    pub fn named(name: impl Into<String>) -> FileRef {
        FileRef { name: name.into(), ..FileRef::default() }
    }
}

/// What people of SD 1.x programs expect; the model is the starter, of which
/// [`Library::defaults`](crate::Library::defaults) knows more.
impl Default for GenerationParams {
    fn default() -> GenerationParams {
        GenerationParams {
            version: VERSION,
            model: FileRef::named(crate::starter::NAME),
            vae: None,
            prediction: None,
            adapters: Vec::new(),
            embeddings: Vec::new(),
            prompt: String::new(),
            negative_prompt: String::new(),
            width: 512,
            height: 512,
            steps: 20,
            guidance_scale: 7.0,
            sampler: "dpmpp_2m".into(),
            schedule: "karras".into(),
            seed: None,
            rng: engine::Rng::TorchCpu,
            clip_skip: 1,
            sizes: None,
            refiner: None,
            precision: engine::Precision::F32,
            init: None,
            noise: None,
        }
    }
}

impl GenerationParams {
    /// Replaces what the fields tell, leaves the rest, and says which of them mean nothing here.
    ///
    /// # Errors
    /// Fails if a field has a value of the wrong type; then nothing is replaced.
    pub fn apply(&mut self, mut fields: Fields) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        let version = fields.get("version").and_then(Value::as_u64).unwrap_or(u64::from(VERSION));
        if version > u64::from(VERSION) {
            warnings.push(format!(
                "the recipe is of version {version}, but this program knows versions up to \
                 {VERSION}: parts of it may have no effect"
            ));
        }
        let first = usize::try_from(version.max(1) - 1).unwrap_or(usize::MAX);
        for upgrade in UPGRADES.iter().skip(first) {
            upgrade(&mut fields);
        }
        fields.insert("version".into(), VERSION.into());

        let mut all = to_fields(self);
        all.extend(fields.clone());
        let applied: GenerationParams =
            serde_json::from_value(Value::Object(all)).map_err(|error| {
                Error::new(Code::Unknown, format!("the recipe has a wrong value: {error}"))
                    .because(error)
            })?;

        let mut unknown = Vec::new();
        collect_unknown("", &Value::Object(fields), &applied.to_json(), &mut unknown);
        if !unknown.is_empty() {
            let names = unknown.join("`, `");
            warnings.push(format!("`{names}` of the recipe has no effect in this version"));
        }
        *self = applied;
        Ok(warnings)
    }

    /// The lossless form that is written into pictures.
    #[must_use]
    pub fn to_json(&self) -> Value {
        Value::Object(to_fields(self))
    }
}

fn to_fields(params: &GenerationParams) -> Fields {
    match serde_json::to_value(params) {
        Ok(Value::Object(fields)) => fields,
        other => unreachable!("a struct of plain fields is a JSON object, not {other:?}"),
    }
}

/// The paths of fields that were given but did not arrive: `adapters.0.region`.
fn collect_unknown(path: &str, given: &Value, arrived: &Value, unknown: &mut Vec<String>) {
    let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (given, arrived) {
        (Value::Object(given), Value::Object(arrived)) => {
            for (key, value) in given {
                match arrived.get(key) {
                    Some(arrived) => collect_unknown(&join(key), value, arrived, unknown),
                    None if value.is_null() => {}
                    None => unknown.push(join(key)),
                }
            }
        }
        (Value::Array(given), Value::Array(arrived)) => {
            for (index, (given, arrived)) in given.iter().zip(arrived).enumerate() {
                collect_unknown(&join(&index.to_string()), given, arrived, unknown);
            }
        }
        _ => {}
    }
}

/// Parameters in which nothing has its default, for the tests of everything that writes them.
#[cfg(test)]
pub(crate) fn elaborate() -> GenerationParams {
    let file = |name: &str, digit: &str| FileRef {
        name: name.into(),
        sha256: Some(digit.repeat(64)),
        data_sha256: None,
    };
    let mut neon = file("neon", "3");
    neon.data_sha256 = Some("4".repeat(64));
    let mut ink = file("Ink, wet: v1.2", "5");
    ink.data_sha256 = Some("6".repeat(64));
    GenerationParams {
        version: VERSION,
        model: file("starter", "1"),
        vae: Some(file("vae-ft-mse", "2")),
        prediction: Some(Prediction::VPrediction),
        adapters: vec![
            AdapterParams {
                text_encoder_weight: 0.4,
                text_encoder_2_weight: Some(0.6),
                blocks: Some((0..26).map(|place| f64::from(place) / 10.0).collect()),
                over_steps: Some(vec![
                    KeyframeParams { at: 0.0, factor: 0.25, fade: FadeName::Cosine },
                    KeyframeParams { at: 0.5, factor: 1.0, fade: FadeName::Hold },
                ]),
                rank_limit: Some(4),
                ..AdapterParams::new(neon, 0.8)
            },
            AdapterParams::new(ink, -0.25),
        ],
        embeddings: vec![file("EasyNegative", "a")],
        prompt: "a (fox:1.2), \"neon\" style\nSteps: up, a hill: steep".into(),
        negative_prompt: "blurry: very\nдождь".into(),
        width: 128,
        height: 192,
        steps: 31,
        guidance_scale: 4.25,
        sampler: "dpmpp_2m_sde".into(),
        schedule: "exponential".into(),
        seed: Some((1 << 53) - 1),
        rng: engine::Rng::Nv,
        clip_skip: 2,
        sizes: Some(SizeParams { original: Some((640, 480)), ..SizeParams::default() }),
        refiner: Some(RefinerParams { file: file("refiner", "9"), switch_at: 0.75 }),
        precision: engine::Precision::Bf16,
        init: Some(InitParams {
            image: Some(file("cat.png", "7")),
            denoising_strength: 0.6,
            fit: InitFit::Fit,
            mask: Some(file("mask.png", "b")),
        }),
        noise: Some(NoiseParams { file: file("noise.safetensors", "8"), index: 2 }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Fields {
        value.as_object().expect("an object").clone()
    }

    #[test]
    fn everything_comes_back() {
        let params = elaborate();
        let mut back = GenerationParams::default();
        let warnings = back.apply(fields(params.to_json())).expect("our own JSON");
        assert_eq!(back, params);
        assert_eq!(warnings, [""; 0]);
    }

    /// The first version as it was released. It must read for ever: add new versions, never edit this.
    #[test]
    fn version_1_reads() {
        let released = json!({
            "version": 1,
            "model": {"name": "starter", "sha256": "11"},
            "vae": null,
            "adapters": [{
                "name": "neon", "sha256": "22", "data_sha256": "33", "unet_weight": 0.8,
                "text_encoder_weight": 0.4, "enabled": true
            }],
            "prompt": "a fox", "negative_prompt": "", "width": 128, "height": 64, "steps": 12,
            "guidance_scale": 4.0, "sampler": "euler", "schedule": "karras", "seed": 7,
            "rng": "torch-cpu", "clip_skip": 1, "precision": "bf16",
            "init": {"image": {"name": "cat.png"}, "denoising_strength": 0.5}, "noise": null
        });
        let mut params = GenerationParams::default();
        assert_eq!(params.apply(fields(released)).expect("version 1"), [""; 0]);
        assert_eq!((params.width, params.height, params.seed), (128, 64, Some(7)));
        assert_eq!(params.precision, engine::Precision::Bf16);
        assert_eq!(params.adapters[0].file.data_sha256.as_deref(), Some("33"));
        let image = params.init.expect("it has one").image.expect("it is named");
        assert_eq!(image, FileRef::named("cat.png"));
    }

    #[test]
    fn missing_fields_keep_what_is_there() {
        let mut params = GenerationParams { steps: 33, ..GenerationParams::default() };
        params.apply(fields(json!({"prompt": "a fox"}))).expect("one field");
        assert_eq!((params.prompt.as_str(), params.steps), ("a fox", 33));
    }

    #[test]
    fn unknown_fields_are_named() {
        let mut params = GenerationParams::default();
        let warnings = params
            .apply(fields(json!({
                "version": 9, "tiling": true, "refiner": null,
                "adapters": [{
                    "name": "x", "unet_weight": 1, "text_encoder_weight": 1, "region": [1, 0]
                }]
            })))
            .expect("unknown fields do no harm");
        assert!(warnings[0].contains("version 9"), "{warnings:?}");
        assert!(warnings[1].contains("`tiling`, `adapters.0.region`"), "{warnings:?}");
    }

    #[test]
    fn wrong_values_change_nothing() {
        let mut params = GenerationParams::default();
        for wrong in [json!({"steps": "many"}), json!({"seed": -1}), json!({"adapters": [{}]})] {
            assert!(params.apply(fields(wrong)).is_err());
        }
        assert_eq!(params, GenerationParams::default());
    }
}
