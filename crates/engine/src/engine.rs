//! The engine: what is loaded on one device, and the one verb, [`generate`](Engine::generate).

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::{Device, Tensor};
use kernels::{conv::Size, memory};

use crate::{
    Conditioning, DeviceId, Error, Image, Output, PatchReport, Phase, Pooled, Precision, Progress,
    Request, Result, Watch,
    adapter::patch::{Adapters, Coat, PatchedWeights, Tally},
    architecture::Modules,
    checkpoint::{Checkpoint, Tensors, VaeConfig, open_vae},
    device,
    model::{
        clip::Clip,
        layers::Scope,
        unet::{Prompts, UNet},
        vae::{Decoder, Encoder},
    },
    noise::Noise,
    ops::{Map, Tokens},
    sample::{
        Denoise,
        denoiser::{Prediction, Watched},
        schedule::img2img_tail,
        training::TrainingSchedule,
    },
    text::{self, tokenizer::Tokenizer},
};

/// One device, and what is loaded on it.
///
/// A generation depends on its [`Request`] alone. What stays loaded from the one before only makes
/// the next one faster.
#[derive(Debug)]
pub struct Engine {
    pool: Arc<rayon::ThreadPool>,
    loaded: Option<Loaded>,
    adapters: Adapters,
}

/// One base model with its stack.
#[derive(Debug)]
struct Loaded {
    path: PathBuf,
    vae_path: Option<PathBuf>,
    checkpoint: Checkpoint,
    /// The VAE that was chosen instead of the base model's own.
    vae: Option<Tensors>,
    vae_config: VaeConfig,
    /// One for each text encoder.
    tokenizers: Vec<Tokenizer>,
    /// Every module of UNet and text encoders: what adapters can change.
    modules: Modules,
    weights: PatchedWeights,
    /// VAE weights. They have no adapters, and may be in another precision than the rest.
    vae_weights: PatchedWeights,
    networks: Option<Networks>,
    /// The last conditioning, and all that it was made of.
    conditioning: Option<(Words, Conditioning)>,
}

/// All that a conditioning depends on, for one base model.
#[derive(Debug, Clone, PartialEq)]
struct Words {
    prompt: String,
    negative_prompt: String,
    clip_skip: u32,
    precision: Precision,
    /// Content hash and weight of each adapter that acts on the text encoder.
    stack: Vec<([u8; 32], u64)>,
}

impl Words {
    fn new(request: &Request, stack: &[Coat]) -> Words {
        Words {
            prompt: request.prompt.clone(),
            negative_prompt: request.negative_prompt.clone(),
            clip_skip: request.clip_skip,
            precision: request.precision,
            stack: stack
                .iter()
                .filter(|coat| coat.text_encoder_weight != 0.0)
                .map(|coat| (coat.fitted.adapter.hash(), coat.text_encoder_weight.to_bits()))
                .collect(),
        }
    }
}

/// How the names of the text encoders' modules begin.
const TEXT_ENCODER: &str = "text_encoder";

/// The layer of SDXL's UNet that reads the pooled prompt.
const ADD_EMBEDDING: &str = "unet.add_embedding.linear_1";

#[derive(Debug)]
struct Networks {
    /// Only until the prompts are encoded, unless an adapter acts on one.
    clips: Option<Vec<Clip>>,
    unet: UNet,
    decoder: Decoder,
    /// Only where a picture was to be encoded.
    encoder: Option<Encoder>,
}

impl Engine {
    /// Opens a device.
    ///
    /// * `threads`: how many to compute with; all cores by default. The picture does not depend on it.
    ///
    /// # Errors
    /// [`Error::Device`] says why a device cannot be used.
    pub fn open(device: DeviceId, threads: Option<usize>) -> Result<Engine> {
        device::check(device)?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.unwrap_or(0))
            .thread_name(|index| format!("compute {index}"))
            .build()
            .map_err(|error| Error::Device {
                device: device.to_string(),
                reason: format!("its threads could not be started ({error})"),
            })?;
        Ok(Engine { pool: Arc::new(pool), loaded: None, adapters: Adapters::default() })
    }

    /// Gives back all memory.
    pub fn unload(&mut self) {
        self.loaded = None;
        self.adapters.clear();
        self.give_back();
    }

    /// Makes one picture. Loads, patches, encodes, samples and decodes; reuses whatever did not
    /// change since the last one.
    ///
    /// # Errors
    /// See [`Error`]. After any error the engine is as usable as before.
    pub fn generate(&mut self, request: &Request, watch: &mut Watch<'_>) -> Result<Output> {
        request.check()?;
        let pool = self.pool.clone();
        pool.install(|| self.run(request, watch))
    }

    /// Gives back the memory that is kept for the next picture's intermediate results. To have it anew
    /// costs the next picture a second or two, so this is for when none is about to be made.
    pub fn give_back(&mut self) {
        memory::give_back();
    }

    fn run(&mut self, request: &Request, watch: &mut Watch<'_>) -> Result<Output> {
        let mut warnings = kernels::Isa::doubts().to_vec();
        let (loaded, stack, patches) = self.prepare(request, watch)?;

        // Found out before the work rather than after it.
        let pixels = u64::from(request.width) * u64::from(request.height);
        let needed = loaded.networks().decoder.peak_bytes(pixels);
        if let Some(available) = device::available_memory().filter(|&bytes| bytes < needed) {
            return Err(Error::OutOfMemory { doing: "decoding the picture", needed, available });
        }

        announce(watch, Phase::Encode, 2 + usize::from(request.init.is_some()))?;
        let conditioning = loaded.conditioning(request, &stack)?;
        let networks = loaded.networks();
        let init = loaded.init_latents(networks, request)?;
        if let (Some(latents), Some(init)) = (&init, &request.init)
            && init.denoising_strength == 0.0
        {
            announce(watch, Phase::Decode, 1)?;
            let image = loaded.decode(networks, latents, request.precision, &mut warnings)?;
            let latents = latents.clone();
            return Ok(Output { image, patches, latents, conditioning, warnings });
        }

        let (sampler, training) = (request.sampler, &loaded.checkpoint.training);
        let schedule = sampler.sigmas(training, request.schedule, request.steps as usize);
        let sigmas = match &request.init {
            Some(init) => img2img_tail(&schedule, request.steps as usize, init.denoising_strength),
            None => &schedule,
        };
        let shape = (1, 4, request.height as usize / 8, request.width as usize / 8);
        let given = request.noise.as_ref();
        let mut noise = Noise::new(request.rng, request.seed, shape, &schedule, given)?;
        let latents = sampler.first_latents(noise.first(), init.as_ref(), sigmas[0])?;

        let guided = Guided::new(networks, loaded, &conditioning, request)?;
        let colors = loaded.checkpoint.architecture.colors;
        let mut denoiser = Watched::new(guided, colors, watch, sampler, sigmas)?;
        let latents = (sampler.run)(&mut denoiser, latents, sigmas, &mut noise)?;
        // Makes room for the decoder's maps. What is given up costs the next picture a twentieth of a step.
        networks.unet.rest();
        if !finite(&latents)? {
            return Err(Error::Diverged {
                phase: "sampling",
                advice: "Lower the guidance or the adapters' weights, or choose precision f32",
            });
        }

        announce(watch, Phase::Decode, 1)?;
        let image = loaded.decode(networks, &latents, request.precision, &mut warnings)?;
        Ok(Output { image, patches, latents, conditioning, warnings })
    }

    /// Base model, stack and networks as the request wants them.
    fn prepare(
        &mut self,
        request: &Request,
        watch: &mut Watch<'_>,
    ) -> Result<(&mut Loaded, Vec<Coat>, PatchReport)> {
        let current = self.loaded.as_ref().is_some_and(|loaded| loaded.is_for(request));
        if !current {
            announce(watch, Phase::Load, 1)?;
            // A model that does not open leaves the one that is loaded where it is.
            let loaded = Loaded::open(request)?;
            self.unload();
            self.loaded = Some(loaded);
        }
        let loaded = self.loaded.as_mut().expect("opened above");
        let checkpoint = file_name(&loaded.path);
        let architecture = loaded.checkpoint.architecture.name;
        let (stack, report) =
            self.adapters.stack(&request.adapters, &loaded.modules, &checkpoint, architecture)?;

        loaded.patch(&stack, request, !current, watch)?;
        Ok((loaded, stack, report))
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn announce(watch: &mut Watch<'_>, phase: Phase, total: usize) -> Result<()> {
    match watch(Progress { phase, done: 0, total, step: 0, denoised: None }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled),
    }
}

impl Loaded {
    fn open(request: &Request) -> Result<Loaded> {
        let checkpoint = Checkpoint::open(&request.checkpoint)?;
        let (vae, vae_config) = match &request.vae {
            Some(path) => {
                let (tensors, config) = open_vae(path, checkpoint.architecture)?;
                (Some(tensors), config)
            }
            None => (None, checkpoint.vae),
        };
        let tokenizers = checkpoint
            .text_encoders
            .iter()
            .map(|encoder| match (&encoder.tokenizer, encoder.padding) {
                (Some(folder), _) => Tokenizer::open(folder),
                (None, Some(byte)) => Ok(Tokenizer::clip().padding_with(byte)),
                (None, None) => Ok(Tokenizer::clip()),
            })
            .collect::<Result<_>>()?;
        let mut modules = checkpoint.tensors.modules();
        modules.retain(|name, _| !name.starts_with("vae."));
        Ok(Loaded {
            path: request.checkpoint.clone(),
            vae_path: request.vae.clone(),
            checkpoint,
            vae,
            vae_config,
            tokenizers,
            modules,
            weights: PatchedWeights::default(),
            vae_weights: PatchedWeights::default(),
            networks: None,
            conditioning: None,
        })
    }

    /// The networks of the latest request.
    fn networks(&self) -> &Networks {
        self.networks.as_ref().expect("built by `patch`, which comes first")
    }

    /// Whether this is the base model of a request, and its files are as they were.
    fn is_for(&self, request: &Request) -> bool {
        self.path == request.checkpoint
            && self.vae_path == request.vae
            && self.checkpoint.tensors.is_current()
            && self.vae.as_ref().is_none_or(Tensors::is_current)
    }

    /// Brings weights and networks to what the request and its stack make of them.
    ///
    /// On a model that was just opened, weights that no adapter touches belong to loading; everything
    /// else is patching.
    fn patch(
        &mut self,
        stack: &[Coat],
        request: &Request,
        opened: bool,
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        let (precision, encoder) = (request.precision, request.init.is_some());
        let encoded = self.encoded(&Words::new(request, stack)).is_some();
        let wanted = self.modules.keys().filter(|name| !encoded || !name.starts_with(TEXT_ENCODER));
        let outdated = self.weights.outdated(wanted.cloned(), stack, precision);
        let (plain, patched): (Vec<_>, Vec<_>) =
            outdated.into_iter().partition(|(_, recipe)| opened && recipe.is_empty());
        let vae = vae_modules(self.vae_tensors(), encoder);
        let vae = self.vae_weights.outdated(vae.into_iter(), &[], self.vae_precision(precision));

        let changed = !(plain.is_empty() && patched.is_empty() && vae.is_empty());
        let lacks = |n: &Networks| encoder && n.encoder.is_none() || !encoded && n.clips.is_none();
        if changed || self.networks.as_ref().is_none_or(lacks) {
            // The networks share the layers: dropping them first lets the old weights go before the
            // new ones are made.
            self.networks = None;
        }
        let phase = if opened { Phase::Load } else { Phase::Patch };
        let loading = plain.len() + vae.len();
        let mut tally =
            Tally::new(phase, if opened { loading } else { loading + patched.len() }, watch)?;
        self.weights.make(&self.checkpoint.tensors, stack, plain, &mut tally)?;
        let vae_tensors = self.vae.as_ref().unwrap_or(&self.checkpoint.tensors);
        self.vae_weights.make(vae_tensors, &[], vae, &mut tally)?;
        if opened && !patched.is_empty() {
            tally = Tally::new(Phase::Patch, patched.len(), watch)?;
        }
        self.weights.make(&self.checkpoint.tensors, stack, patched, &mut tally)?;
        if self.networks.is_none() {
            self.networks = Some(self.build(encoder, !encoded)?);
        }
        Ok(())
    }

    fn vae_tensors(&self) -> &Tensors {
        self.vae.as_ref().unwrap_or(&self.checkpoint.tensors)
    }

    /// What the VAE works in. A picture is not worth decoding in f16 to find that it overflowed.
    fn vae_precision(&self, precision: Precision) -> Precision {
        match precision {
            Precision::F16 if self.vae_config.overflows_f16 => Precision::F32,
            precision => precision,
        }
    }

    fn build(&self, encoder: bool, text_encoders: bool) -> Result<Networks> {
        let clips = if text_encoders { Some(self.clips()?) } else { None };
        let context = match (&clips, &self.conditioning) {
            (Some(clips), _) => clips.iter().map(Clip::width).sum(),
            (None, Some((_, conditioning))) => conditioning.cond.dim(2)?,
            (None, None) => unreachable!("without its text encoders a prompt was encoded before"),
        };
        let unet = UNet::new(&self.weights.layers().scope("unet"), context, self.checkpoint.unet)?;
        let vae = self.vae_weights.layers().scope("vae");
        let decoder = self.decoder(&vae)?;
        let encoder = match encoder {
            true => Some(Encoder::new(&vae, self.vae_config.groups)?),
            false => None,
        };
        Ok(Networks { clips, unet, decoder, encoder })
    }

    fn clips(&self) -> Result<Vec<Clip>> {
        let layers = self.weights.layers();
        let encoders = self.checkpoint.text_encoders.iter().zip(&self.tokenizers);
        let built = encoders.map(|(encoder, tokenizer)| {
            let clip = Clip::new(&layers.scope(encoder.component.folder()), encoder.clip)?;
            if clip.vocabulary() == tokenizer.vocabulary() {
                return Ok(clip);
            }
            Err(Error::Incomplete {
                path: self.path.clone(),
                missing: format!(
                    "its {} knows {} tokens, but the tokenizer {} has {}",
                    encoder.component.name(),
                    clip.vocabulary(),
                    match &encoder.tokenizer {
                        Some(folder) => format!("in `{}`", folder.display()),
                        None => "of CLIP, which stands in where a model has none,".to_owned(),
                    },
                    tokenizer.vocabulary(),
                ),
                advice: "Use the model as a diffusers folder with its own tokenizer".into(),
            })
        });
        built.collect()
    }

    fn decoder(&self, vae: &Scope<'_>) -> Result<Decoder> {
        let decoder = Decoder::new(vae, self.vae_config.groups)?;
        vae.require(decoder.scale() == 8, "decoder.conv_out", "a decoder that enlarges 8 times")?;
        Ok(decoder)
    }

    /// What the text encoder makes of both prompts: anew only if something that it depends on changed,
    /// so that a slider that moves on the UNet alone does not wait for it.
    fn conditioning(&mut self, request: &Request, stack: &[Coat]) -> Result<Conditioning> {
        let words = Words::new(request, stack);
        if let Some(conditioning) = self.encoded(&words) {
            return Ok(conditioning.clone());
        }
        let networks = self.networks.as_mut().expect("built by `patch`, which comes first");
        let clips = networks.clips.take().expect("built where a prompt is new");
        let conditioning = self.encode_prompts(&clips, request)?;
        if words.stack.is_empty() {
            // Their memory is of more use than the tenths of a second that the next prompt saves.
            drop(clips);
            self.weights.forget(TEXT_ENCODER);
        } else if let Some(networks) = &mut self.networks {
            // An adapter's slider may move next, and must not wait for what the adapter does not change.
            networks.clips = Some(clips);
        }
        self.conditioning = Some((words, conditioning.clone()));
        Ok(conditioning)
    }

    /// What the text encoder made of these words, if they were the last.
    fn encoded(&self, words: &Words) -> Option<&Conditioning> {
        let (made_of, conditioning) = self.conditioning.as_ref()?;
        (made_of == words).then_some(conditioning)
    }

    /// Both prompts as encoded, each of its own length.
    fn encode_prompts(&self, clips: &[Clip], request: &Request) -> Result<Conditioning> {
        let (cond, pooled) = self.encode_prompt(clips, &request.prompt, request)?;
        let (mut uncond, mut other) = self.encode_prompt(clips, &request.negative_prompt, request)?;
        if request.negative_prompt.is_empty() && self.checkpoint.zeroes_empty_negative {
            (uncond, other) = (uncond.zeros_like()?, other.map(|it| it.zeros_like()).transpose()?);
        }
        let pooled = pooled.zip(other).map(|(cond, uncond)| Pooled { cond, uncond });
        let conditioning = Conditioning { cond, uncond, pooled };
        if finite(&conditioning.cond)? && finite(&conditioning.uncond)? {
            return Ok(conditioning);
        }
        Err(Error::Diverged {
            phase: "encoding the prompt",
            advice: "Lower the adapters' text encoder weights, or choose precision f32",
        })
    }

    /// One prompt: the channels of all text encoders side by side, and the pooled encoding of the first
    /// chunk, if one of them gives it.
    fn encode_prompt(
        &self,
        clips: &[Clip],
        prompt: &str,
        request: &Request,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (mut encoded, mut pooled) = (Vec::new(), None);
        for (clip, tokenizer) in clips.iter().zip(&self.tokenizers) {
            let mut values = Vec::new();
            for chunk in text::chunks(tokenizer, prompt) {
                let end = chunk.ids.iter().position(|&id| id == tokenizer.end());
                let end = end.expect("each chunk ends with an end token");
                let made = clip.encode(&chunk.ids, end, request.clip_skip, request.precision)?;
                let mut states = made.states.values().into_owned();
                text::emphasis::apply(&mut states, &chunk.weights);
                values.extend(states);
                pooled = pooled.or(made.pooled);
            }
            let tokens = values.len() / clip.width();
            encoded.push(Tensor::from_vec(values, (1, tokens, clip.width()), &Device::Cpu)?);
        }
        let pooled = pooled.map(|values| {
            let width = values.len();
            Tensor::from_vec(values, (1, width), &Device::Cpu)
        });
        Ok((Tensor::cat(&encoded, 2)?, pooled.transpose()?))
    }

    /// What the UNet is told beside the tokens: the pooled prompt (or negative prompt), and sizes, height
    /// before width as in the reference code. Of the refiner a score stands in place of the last two.
    fn pooled(
        &self,
        unet: &UNet,
        conditioning: &Conditioning,
        request: &Request,
        positive: bool,
    ) -> Result<Option<(Vec<f32>, Vec<f64>)>> {
        let Some(pooled) = &conditioning.pooled else { return Ok(None) };
        let pooled = if positive { &pooled.cond } else { &pooled.uncond };
        let pooled = pooled.flatten_all()?.to_vec1::<f32>()?;
        let (given, picture) = (request.sizes, (request.width, request.height));
        let (original, target) = (given.original.unwrap_or(picture), given.target.unwrap_or(picture));
        let score = if positive { given.aesthetic_score } else { given.negative_aesthetic_score };
        let mut sizes = [original.1, original.0, given.crop.1, given.crop.0].map(f64::from).to_vec();
        match unet.sizes(pooled.len()) {
            Some(6) => sizes.extend([target.1, target.0].map(f64::from)),
            Some(5) => sizes.push(score),
            _ => {
                return Err(Error::WrongShape {
                    path: self.path.clone(),
                    tensor: "unet.add_embedding.linear_1.weight".into(),
                    found: self.modules.get(ADD_EMBEDDING).cloned().unwrap_or_default(),
                    expected: format!(
                        "inputs for a pooled prompt of {} numbers and 5 or 6 sizes",
                        pooled.len()
                    ),
                });
            }
        }
        Ok(Some((pooled, sizes)))
    }

    /// The first picture of img2img in the model's latent space: the mean of the VAE's posterior.
    fn init_latents(&self, networks: &Networks, request: &Request) -> Result<Option<Tensor>> {
        let (Some(init), Some(encoder)) = (&request.init, &networks.encoder) else {
            return Ok(None);
        };
        let picture = &init.image;
        let size = Size {
            batch: 1,
            height: picture.height as usize,
            width: picture.width as usize,
            channels: 3,
        };
        let encode = |encoder: &Encoder, precision| -> Result<Option<Tensor>> {
            let pixels = picture.pixels.iter().map(|&byte| f32::from(byte) / 127.5 - 1.0).collect();
            let moments = encoder.forward(Map::new(pixels, size, precision));
            let (height, width) = (moments.size().height, moments.size().width);
            // Of the eight planes the first four are the mean.
            let mean = &moments.planes()[..4 * height * width];
            if mean.iter().any(|value| !value.is_finite()) {
                return Ok(None);
            }
            let latents = Tensor::from_slice(mean, (1, 4, height, width), &Device::Cpu)?;
            Ok(Some((latents * self.vae_config.scaling_factor)?))
        };
        if let Some(latents) = encode(encoder, self.vae_precision(request.precision))? {
            return Ok(Some(latents));
        }
        // Half precision overflowed.
        let weights = self.vae_in_f32(true)?;
        let encoder = Encoder::new(&weights.layers().scope("vae"), self.vae_config.groups)?;
        encode(&encoder, Precision::F32)?.map(Some).ok_or(Error::Diverged {
            phase: "encoding the picture",
            advice: "The VAE is damaged; choose another",
        })
    }

    /// Latents `(1, 4, h, w)` to a picture eight times their size.
    fn decode(
        &self,
        networks: &Networks,
        latents: &Tensor,
        precision: Precision,
        warnings: &mut Vec<String>,
    ) -> Result<Image> {
        let precision = self.vae_precision(precision);
        if let Some(image) = self.decode_with(&networks.decoder, latents, precision)? {
            return Ok(image);
        }
        let broken = Error::Diverged {
            phase: "decoding the picture",
            advice: "The VAE is damaged; choose another",
        };
        if precision == Precision::F32 {
            return Err(broken);
        }
        warnings.push("the VAE overflowed in half precision and was run again in f32".into());
        let weights = self.vae_in_f32(false)?;
        let decoder = self.decoder(&weights.layers().scope("vae"))?;
        self.decode_with(&decoder, latents, Precision::F32)?.ok_or(broken)
    }

    /// The picture, or nothing if there are values that are not numbers in it.
    fn decode_with(
        &self,
        decoder: &Decoder,
        latents: &Tensor,
        precision: Precision,
    ) -> Result<Option<Image>> {
        let latents = (latents / self.vae_config.scaling_factor)?;
        let picture = decoder.forward(map_of(&latents, 1, precision)?);
        let size = picture.size();
        let values = picture.into_tokens().values().into_owned();
        if values.iter().any(|value| !value.is_finite()) {
            return Ok(None);
        }
        Ok(Some(Image {
            width: size.width as u32,
            height: size.height as u32,
            pixels: values
                .into_iter()
                .map(|value| ((value * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8)
                .collect(),
        }))
    }

    fn vae_in_f32(&self, encoder: bool) -> Result<PatchedWeights> {
        let tensors = self.vae_tensors();
        let mut weights = PatchedWeights::default();
        let wanted = vae_modules(tensors, encoder).into_iter();
        let outdated = weights.outdated(wanted, &[], Precision::F32);
        let mut watch = |_: Progress<'_>| ControlFlow::Continue(());
        let mut tally = Tally::new(Phase::Decode, outdated.len(), &mut watch)?;
        weights.make(tensors, &[], outdated, &mut tally)?;
        Ok(weights)
    }
}

/// The VAE's modules: those of its decoder, and those of its encoder where they are needed.
fn vae_modules(tensors: &Tensors, encoder: bool) -> Vec<String> {
    let mut modules = tensors.modules();
    modules.retain(|name, _| {
        let decodes = name.starts_with("vae.decoder.") || name == "vae.post_quant_conv";
        decodes || encoder && (name.starts_with("vae.encoder.") || name == "vae.quant_conv")
    });
    modules.into_keys().collect()
}

/// Latents `(1, 4, h, w)` as a map of `batch` equal images.
fn map_of(latents: &Tensor, batch: usize, precision: Precision) -> Result<Map> {
    let (_, channels, height, width) = latents.dims4()?;
    let planes = latents.flatten_all()?.to_vec1::<f32>()?;
    let size = Size { batch, height, width, channels };
    Ok(Map::from_planes(&planes.repeat(batch), size, precision))
}

fn finite(values: &Tensor) -> Result<bool> {
    Ok(values.flatten_all()?.to_vec1::<f32>()?.iter().all(|value| value.is_finite()))
}

/// The UNet as a denoiser: scaling, prediction type and classifier-free guidance (Ho & Salimans,
/// 2022) around it.
struct Guided<'a> {
    unet: &'a UNet,
    /// Negative prompt and prompt, brought to one length; without guidance the prompt alone.
    prompts: Prompts,
    prediction: Prediction,
    training: &'a TrainingSchedule,
    guidance_scale: Option<f64>,
    precision: Precision,
}

impl<'a> Guided<'a> {
    fn new(
        networks: &'a Networks,
        loaded: &'a Loaded,
        conditioning: &Conditioning,
        request: &Request,
    ) -> Result<Guided<'a>> {
        let guidance_scale = Some(request.guidance_scale).filter(|&scale| scale != 1.0);
        let unet = &networks.unet;
        let cond = loaded.pooled(unet, conditioning, request, true)?;
        let (pooled, context) = match guidance_scale {
            None => (vec![cond], conditioning.cond.clone()),
            Some(_) => {
                let (cond_tokens, uncond_tokens) =
                    text::same_length(&conditioning.cond, &conditioning.uncond)?;
                let uncond = loaded.pooled(unet, conditioning, request, false)?;
                (vec![uncond, cond], Tensor::cat(&[uncond_tokens, cond_tokens], 0)?)
            }
        };
        let (batch, _, width) = context.dims3()?;
        let values = context.flatten_all()?.to_vec1::<f32>()?;
        let prompts = Tokens::new(values, batch, width, request.precision);
        let pooled: Vec<_> = pooled.into_iter().flatten().collect();
        Ok(Guided {
            unet,
            prompts: unet.read(&prompts, &pooled),
            prediction: request.prediction.unwrap_or(loaded.checkpoint.prediction),
            training: &loaded.checkpoint.training,
            guidance_scale,
            precision: request.precision,
        })
    }
}

impl Denoise for Guided<'_> {
    fn denoise(&mut self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let (_, channels, height, width) = x.dims4()?;
        let batch = if self.guidance_scale.is_some() { 2 } else { 1 };
        let scalings = self.prediction.scalings(sigma);
        let map = map_of(&scalings.input(x)?, batch, self.precision)?;
        let timestep = self.training.sigma_to_t(sigma);
        let out = self.unet.forward(map, timestep, &self.prompts, self.precision).planes();
        let out = Tensor::from_vec(out, (batch, channels, height, width), &Device::Cpu)?;
        match self.guidance_scale {
            None => scalings.denoised(x, &out),
            Some(scale) => {
                let uncond = scalings.denoised(x, &out.narrow(0, 0, 1)?)?;
                let cond = scalings.denoised(x, &out.narrow(0, 1, 1)?)?;
                Ok((&uncond + ((cond - &uncond)? * scale)?)?)
            }
        }
    }
}
