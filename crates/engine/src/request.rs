//! What is asked of the engine, and what comes back: plain data.

use std::{ops::ControlFlow, path::PathBuf};

use candle_core::Tensor;

use crate::{
    Error, PatchReport, Result,
    adapter::{
        block::{Block, BlockWeights},
        curve::Curve,
    },
    preview::Estimate,
    sample::{Sampler, denoiser::Prediction, schedule::Schedule},
};

/// The longest side of a picture, in pixels. Attention in the VAE grows with the fourth power of it.
pub const MAX_SIDE: u32 = 4096;

/// One picture, completely described. Nothing that changes the picture lives anywhere else.
#[derive(Debug, Clone)]
pub struct Request {
    /// A diffusers folder or a single `.safetensors` file.
    pub checkpoint: PathBuf,
    /// Another base model, which lends its text encoders and VAE where the checkpoint is a UNet alone.
    pub lender: Option<PathBuf>,
    /// A VAE to use instead of the checkpoint's own, in either layout.
    pub vae: Option<PathBuf>,
    /// TAESD files: where one is of the base model's latents, [previews](Estimate::preview) are made with
    /// it. The picture does not depend on them.
    pub preview_decoders: Vec<PathBuf>,
    /// What the UNet predicts, where the checkpoint does not say it or says it wrongly.
    pub prediction: Option<Prediction>,
    /// The stack. Its order changes nothing.
    pub adapters: Vec<AdapterUse>,
    /// The text, with emphasis and `BREAK`; adapter tags have been taken out by the caller.
    pub prompt: String,
    /// The text of what to avoid; without effect at guidance 1.
    pub negative_prompt: String,
    /// Embeddings that the prompts may call by their names.
    pub embeddings: Vec<PathBuf>,
    /// 1 takes the text encoder's last layer, 2 the last but one, and so on. SDXL was trained on the last
    /// but one, and takes that for 1 too.
    pub clip_skip: u32,
    /// What SDXL is told of the picture's size.
    pub sizes: Sizes,
    /// Pixels, a multiple of 8.
    pub width: u32,
    /// Pixels, a multiple of 8.
    pub height: u32,
    /// How to walk down the sigmas.
    pub sampler: &'static Sampler,
    /// Which sigmas.
    pub schedule: &'static Schedule,
    /// Steps of the full schedule; img2img runs its end.
    pub steps: u32,
    /// Classifier-free guidance; 1 turns it off and halves the work.
    pub guidance_scale: f64,
    /// Up to 2^53 - 1; see [`Noise`](crate::noise::Noise) for how many bits each generator uses.
    pub seed: u64,
    /// Whose random numbers.
    pub rng: Rng,
    /// First noise to use instead of the generator's, `(1, 4, height / 8, width / 8)`, unit variance.
    pub noise: Option<Tensor>,
    /// How weights and activations are stored; arithmetic is f32.
    pub precision: Precision,
    /// Start from a picture instead of from noise alone.
    pub init: Option<InitImage>,
    /// Another base model that takes the last steps.
    pub refiner: Option<Refiner>,
}

/// A base model that takes over in the midst of sampling, such as SDXL's refiner. Adapters do not act on
/// it.
#[derive(Debug, Clone, PartialEq)]
pub struct Refiner {
    /// A diffusers folder or a single file, of the same latents.
    pub checkpoint: PathBuf,
    /// The part of the full schedule's steps that come before it, `0..=1`; at 1 it does nothing.
    pub switch_at: f64,
}

/// What SDXL is told of the sizes of pictures (Podell et al., 2023, section 2.2), and its refiner of
/// their beauty. Other families take no notice of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sizes {
    /// Width and height that the training picture had before it was scaled; the picture's own if
    /// nothing is said. Small ones make it look enlarged.
    pub original: Option<(u32, u32)>,
    /// How many pixels were cut off at the left and at the top.
    pub crop: (u32, u32),
    /// Width and height that it was scaled to; the picture's own if nothing is said.
    pub target: Option<(u32, u32)>,
    /// The refiner's score for the prompt, 1 to 10.
    pub aesthetic_score: f64,
    /// The refiner's score for the negative prompt.
    pub negative_aesthetic_score: f64,
}

impl Default for Sizes {
    /// The picture as it is, with the scores of the reference code.
    fn default() -> Sizes {
        Sizes {
            original: None,
            crop: (0, 0),
            target: None,
            aesthetic_score: 6.0,
            negative_aesthetic_score: 2.5,
        }
    }
}

/// One adapter of the stack.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterUse {
    /// A `.safetensors` file, or a PEFT folder.
    pub path: PathBuf,
    /// How much of it acts on the UNet; 0 is exactly nothing, negative is allowed.
    pub unet_weight: f64,
    /// How much of it acts on the text encoder; of SDXL's two, on the first.
    pub text_encoder_weight: f64,
    /// How much of it acts on SDXL's second text encoder.
    pub text_encoder_2_weight: f64,
    /// What these are multiplied by in single blocks.
    pub blocks: BlockWeights,
    /// What the UNet's is multiplied by over the steps. Text is encoded once, before them.
    pub over_steps: Curve,
    /// How many ranks of each change of low rank are used, from the first on; all without it.
    pub rank_limit: Option<usize>,
}

impl AdapterUse {
    /// An adapter that acts on everything alike.
    #[must_use]
    pub fn new(path: PathBuf, weight: f64) -> AdapterUse {
        AdapterUse {
            path,
            unet_weight: weight,
            text_encoder_weight: weight,
            text_encoder_2_weight: weight,
            blocks: BlockWeights::default(),
            over_steps: Curve::default(),
            rank_limit: None,
        }
    }

    /// Its weight in a block at a [position](crate::adapter::curve::position) among the steps.
    #[must_use]
    pub fn weight(&self, block: Block, position: f64) -> f64 {
        let weight = match block {
            Block::TextEncoder => self.text_encoder_weight,
            Block::TextEncoder2 => self.text_encoder_2_weight,
            _ => self.unet_weight * self.over_steps.at(position),
        };
        weight * self.blocks.of(block)
    }

    /// The weight of several uses of one adapter. Their order does not matter, not even to the last bit.
    pub(crate) fn sum(uses: &[AdapterUse], block: Block, position: f64) -> f64 {
        let mut weights: Vec<f64> = uses.iter().map(|one| one.weight(block, position)).collect();
        weights.sort_by(f64::total_cmp);
        weights.iter().sum()
    }
}

/// The picture that img2img starts from.
#[derive(Debug, Clone)]
pub struct InitImage {
    /// Exactly `width × height` pixels of the request.
    pub image: Image,
    /// The part of the schedule that is run, `0..=1`; 0 gives the decoded input back.
    pub denoising_strength: f64,
    /// Where it is repainted, everywhere without one: a byte for each pixel, 255 where it is, 0 where the
    /// picture stays as it was; between them the two are mixed.
    pub mask: Option<Vec<u8>>,
}

/// Whose random numbers the noise is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rng {
    /// PyTorch's generator on the CPU (Mersenne Twister), bit for bit.
    TorchCpu,
    /// The Philox numbers that PyTorch makes on a CUDA device.
    Nv,
}

/// How weights and activations are stored. Sums are f32 in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// bfloat16: the range of f32, 8 bits of precision.
    Bf16,
    /// IEEE half precision: 11 bits of precision, at most 65,504.
    F16,
}

impl Precision {
    /// The precision to use where nobody asks for one: bf16 where the processor multiplies it faster than
    /// f32, else f32.
    #[must_use]
    pub fn auto() -> Precision {
        if kernels::Isa::current().multiplies_bf16() { Precision::Bf16 } else { Precision::F32 }
    }
}

/// An 8-bit RGB picture, rows from the top, three bytes a pixel.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `width * height * 3` bytes.
    pub pixels: Vec<u8>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({} × {})", self.width, self.height)
    }
}

/// What the engine is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Reading the base model.
    Load,
    /// Applying the adapter stack.
    Patch,
    /// Encoding the prompts (and the picture of img2img).
    Encode,
    /// Calling the UNet.
    Sample,
    /// Decoding the latents.
    Decode,
}

/// Where a generation is. Each phase is announced with `done` = 0 before its work starts; loading
/// once more when the headers are read and `total` is known.
#[derive(Debug)]
pub struct Progress<'a> {
    /// What the engine is doing.
    pub phase: Phase,
    /// Units of work done in this phase: tensors, prompts, UNet calls.
    pub done: usize,
    /// Units of work in this phase.
    pub total: usize,
    /// Sampler steps begun so far (some samplers call the UNet twice a step); 0 in other phases.
    pub step: usize,
    /// The estimate of the clean latents `(1, 4, h, w)` after a UNet call;
    /// [`preview`](Estimate::preview) makes a small picture of it.
    pub denoised: Option<Estimate<'a>>,
}

/// Called after every unit of work. `Break` ends the generation with [`Error::Cancelled`].
pub type Watch<'a> = dyn FnMut(Progress<'_>) -> ControlFlow<()> + Send + 'a;

/// A finished picture and what led to it.
#[derive(Debug)]
pub struct Output {
    /// The picture.
    pub image: Image,
    /// What each adapter did.
    pub patches: PatchReport,
    /// The sampler's last output, `(1, 4, h, w)`, before the division by the VAE's scaling factor.
    pub latents: Tensor,
    /// What the text encoder made of the prompts.
    pub conditioning: Conditioning,
    /// What the person should know, as sentences: "the VAE overflowed in f16 and ran again in f32".
    pub warnings: Vec<String>,
}

/// The prompts as encoded, before their lengths are brought together.
#[derive(Debug, Clone)]
pub struct Conditioning {
    /// `(1, 77 n, width)`; of several text encoders the widths together.
    pub cond: Tensor,
    /// `(1, 77 m, width)`.
    pub uncond: Tensor,
    /// SDXL's pooled encodings of both prompts, each `(1, width)`.
    pub pooled: Option<Pooled>,
}

/// One vector for each prompt, which SDXL takes beside the encoded tokens.
#[derive(Debug, Clone)]
pub struct Pooled {
    /// Of the prompt, `(1, width)`.
    pub cond: Tensor,
    /// Of the negative prompt, `(1, width)`.
    pub uncond: Tensor,
}

impl Request {
    /// Checks every value before any file is opened or any memory is taken.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] names the first value that cannot be used, and what it may be.
    pub fn check(&self) -> Result<()> {
        let invalid = |field, found: String, rule: &str| {
            Err(Error::InvalidRequest { field, found, rule: rule.to_owned() })
        };
        for (field, side) in [("width", self.width), ("height", self.height)] {
            if !(8..=MAX_SIDE).contains(&side) || side % 8 != 0 {
                return Err(Error::InvalidRequest {
                    field,
                    found: side.to_string(),
                    rule: format!("it must be a multiple of 8 from 8 to {MAX_SIDE}"),
                });
            }
        }
        if !(1..=1000).contains(&self.steps) {
            return invalid("steps", self.steps.to_string(), "it must be from 1 to 1000");
        }
        if self.clip_skip == 0 {
            return invalid("clip skip", "0".into(), "1 is the text encoder's last layer");
        }
        if !self.guidance_scale.is_finite() {
            return invalid("guidance", self.guidance_scale.to_string(), "it must be a number");
        }
        if self.seed >= 1 << 53 {
            return invalid("seed", self.seed.to_string(), "it must be below 2^53");
        }
        let Sizes { aesthetic_score, negative_aesthetic_score, .. } = self.sizes;
        for score in [aesthetic_score, negative_aesthetic_score] {
            if !score.is_finite() {
                return invalid("the aesthetic score", score.to_string(), "it must be a number");
            }
        }
        if let Some(refiner) = &self.refiner
            && !(0.0..=1.0).contains(&refiner.switch_at)
        {
            let found = refiner.switch_at.to_string();
            return invalid(
                "the step at which the refiner begins",
                found,
                "it must be from 0 to 1",
            );
        }
        for adapter in &self.adapters {
            let weights =
                [adapter.unet_weight, adapter.text_encoder_weight, adapter.text_encoder_2_weight];
            let name = adapter.path.display();
            if let Some(weight) = weights.into_iter().find(|weight| !weight.is_finite()) {
                let found = format!("{weight} (`{name}`)");
                return invalid("the weight of an adapter", found, "it must be a number");
            }
            if !adapter.over_steps.is_finite() {
                let found = format!("one that is no number (`{name}`)");
                return invalid("a keyframe of an adapter", found, "it must be a number");
            }
        }
        let latent_shape = [1, 4, self.height as usize / 8, self.width as usize / 8];
        if let Some(noise) = &self.noise
            && noise.dims() != latent_shape
        {
            return invalid(
                "the noise",
                format!("of shape {:?}", noise.dims()),
                &format!("this size needs {latent_shape:?}"),
            );
        }
        if let Some(init) = &self.init {
            if !(0.0..=1.0).contains(&init.denoising_strength) {
                let found = init.denoising_strength.to_string();
                return invalid("the denoising strength", found, "it must be from 0 to 1");
            }
            let pixels = self.width as usize * self.height as usize;
            if let Some(mask) = init.mask.as_ref().filter(|mask| mask.len() != pixels) {
                return invalid(
                    "the mask",
                    format!("of {} pixels", mask.len()),
                    &format!("it must have the picture's {pixels}"),
                );
            }
            if (init.image.width, init.image.height) != (self.width, self.height) {
                return invalid(
                    "the size of the first picture",
                    format!("{} × {}", init.image.width, init.image.height),
                    "it must be scaled to the size of the picture to make",
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        adapter::curve::{Fade, Keyframe},
        testing::{adapter, request},
    };

    /// Each of these is refused by its name, before any file is opened: there is none.
    #[test]
    fn wrong_values_are_named() {
        let plain = Request { width: 16, height: 8, ..request("/nowhere".as_ref()) };
        plain.check().unwrap();
        let image = |width, height| Image { width, height, pixels: vec![0; 3 * 128] };
        let init =
            |image, denoising_strength, mask| Some(InitImage { image, denoising_strength, mask });
        let weighs = |weight| vec![adapter("/nowhere".as_ref(), weight)];
        let mut fading = weighs(1.0);
        let frame = Keyframe { at: f64::NAN, factor: 1.0, fade: Fade::Linear };
        fading[0].over_steps = Curve::new(vec![frame]);
        let refiner = Some(Refiner { checkpoint: "/nowhere".into(), switch_at: 1.5 });
        let sizes = Sizes { aesthetic_score: f64::NAN, ..Sizes::default() };
        let init_of = |init| Request { init, ..plain.clone() };
        let cases = [
            ("width", Request { width: 12, ..plain.clone() }),
            ("height", Request { height: MAX_SIDE + 8, ..plain.clone() }),
            ("steps", Request { steps: 0, ..plain.clone() }),
            ("clip skip", Request { clip_skip: 0, ..plain.clone() }),
            ("guidance", Request { guidance_scale: f64::INFINITY, ..plain.clone() }),
            ("seed", Request { seed: 1 << 53, ..plain.clone() }),
            ("the aesthetic score", Request { sizes, ..plain.clone() }),
            ("the weight of an adapter", Request { adapters: weighs(f64::NAN), ..plain.clone() }),
            ("a keyframe of an adapter", Request { adapters: fading, ..plain.clone() }),
            ("the step at which the refiner begins", Request { refiner, ..plain.clone() }),
            ("the denoising strength", init_of(init(image(16, 8), 1.1, None))),
            ("the mask", init_of(init(image(16, 8), 0.5, Some(vec![0; 127])))),
            ("the size of the first picture", init_of(init(image(8, 16), 0.5, None))),
        ];
        for (named, request) in cases {
            match request.check() {
                Err(Error::InvalidRequest { field, .. }) => assert_eq!(field, named),
                other => panic!("{named}: {other:?}"),
            }
        }
    }
}
