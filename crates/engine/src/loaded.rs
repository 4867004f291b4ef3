//! One base model as it is loaded: its weights under a stack, the networks made of them, and what its text
//! encoders last said.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::{Device, Tensor};
use kernels::conv::Size;

use crate::{
    Conditioning, Error, Image, InitImage, PatchReport, Phase, Pooled, Precision, Progress,
    Request, Result, Watch,
    adapter::{
        block::Blocks,
        patch::{Adapters, BaseModel, PatchedWeights, Share, Stack, Tally},
        way::Demand,
    },
    architecture::{INPUTS, Modules},
    checkpoint::{Checkpoint, Tensors, VaeConfig, keys::Component, open_vae},
    device,
    model::{
        clip::Clip,
        layers::Scope,
        tile::{self, Blend},
        unet::UNet,
        vae::{Decoder, Encoder},
    },
    ops::{self, Map, Stay, Storage},
    preview::Look,
    text::{
        self, Vocabulary,
        embedding::{Embedding, Place},
        tokenizer::Tokenizer,
    },
};

/// One base model with its stack.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// What its networks run on.
    device: ops::Device,
    /// Where its UNet's weights are between their uses. Unless they are always on the card, its memory is short.
    stay: Stay,
    /// Of the picture that it was opened for.
    pixels: u64,
    path: PathBuf,
    lender: Option<PathBuf>,
    vae_path: Option<PathBuf>,
    pub(crate) checkpoint: Checkpoint,
    adapters: Adapters,
    /// The VAE that was chosen instead of the base model's own.
    vae: Option<Tensors>,
    vae_config: VaeConfig,
    /// One for each text encoder.
    tokenizers: Vec<Tokenizer>,
    /// Every module of UNet and text encoders: what adapters can change.
    modules: Modules,
    /// Where these belong.
    blocks: Arc<Blocks>,
    weights: PatchedWeights,
    /// VAE weights. They have no adapters, and may be in another precision than the rest.
    vae_weights: PatchedWeights,
    networks: Option<Networks>,
    /// TAESD for previews, with its file and how it is stored.
    preview: Option<(PathBuf, Arc<Decoder>, Storage)>,
    /// The last conditioning, and all that it was made of.
    conditioning: Option<(Words, Conditioning)>,
}

/// All that a conditioning depends on, for one base model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Words {
    prompt: String,
    negative_prompt: String,
    clip_skip: u32,
    precision: Precision,
    embeddings: Vec<Embedding>,
    /// What acts on the text encoders.
    stack: Vec<[Share; 2]>,
}

impl Words {
    fn new(request: &Request, embeddings: Vec<Embedding>, stack: &Stack) -> Words {
        Words {
            embeddings,
            prompt: request.prompt.clone(),
            negative_prompt: request.negative_prompt.clone(),
            clip_skip: request.clip_skip,
            precision: request.precision,
            stack: stack.on_text(),
        }
    }
}

/// How the names of the text encoders' modules begin.
const TEXT_ENCODER: &str = "text_encoder";

/// The layer of SDXL's UNet that reads the pooled prompt.
const ADD_EMBEDDING: &str = "unet.add_embedding.linear_1";

/// What weights become.
#[derive(Debug)]
pub(crate) struct Networks {
    /// Only until the prompts are encoded, unless an adapter acts on one.
    clips: Option<Vec<Clip>>,
    /// Gone only while its weights are made anew.
    unet: Option<UNet>,
    pub(crate) decoder: Decoder,
    /// Only where a picture was to be encoded.
    encoder: Option<Encoder>,
}

impl Networks {
    pub(crate) fn unet(&self) -> &UNet {
        self.unet.as_ref().expect("built with its weights")
    }
}

impl Loaded {
    /// Opens a request's base model and VAE: headers and configurations only.
    ///
    /// * `stay`: where the UNet's weights will be between their uses
    ///
    /// # Errors
    /// Those of files that are no such thing.
    pub(crate) fn open(request: &Request, device: &ops::Device, stay: Stay) -> Result<Loaded> {
        let checkpoint = Checkpoint::open_with(&request.checkpoint, request.lender.as_deref())?;
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
        let modules = checkpoint.tensors.adaptable();
        let blocks = Arc::new(Blocks::of(&modules));
        Ok(Loaded {
            device: device.clone(),
            stay,
            pixels: pixels(request),
            blocks,
            path: request.checkpoint.clone(),
            lender: request.lender.clone(),
            vae_path: request.vae.clone(),
            checkpoint,
            adapters: Adapters::default(),
            vae,
            vae_config,
            tokenizers,
            modules,
            weights: PatchedWeights::on(device, stay),
            vae_weights: PatchedWeights::on(device, stay_of_vae(stay)),
            networks: None,
            preview: None,
            conditioning: None,
        })
    }

    /// The networks of the latest request.
    pub(crate) fn networks(&self) -> &Networks {
        self.networks.as_ref().expect("built by `patch`, which comes first")
    }

    /// Whether this was opened from that file or folder.
    pub(crate) fn is_of(&self, checkpoint: &Path) -> bool {
        self.path == checkpoint
    }

    /// Whether it works with little of the card's memory because of a larger picture than this one, which may do
    /// without.
    pub(crate) fn is_short_for_no_reason(&self, request: &Request) -> bool {
        self.is_short() && pixels(request) < self.pixels
    }

    /// Whether it works with as little of the card's memory as there is a way to.
    fn is_short(&self) -> bool {
        self.stay != Stay::Always
    }

    /// Bytes of the UNet's weights that are copied to the card at each step.
    pub(crate) fn streamed_bytes(&self) -> u64 {
        self.weights.streamed_bytes(|module| !module.starts_with(TEXT_ENCODER))
    }

    /// Bytes of weights in memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.weights.bytes() + self.vae_weights.bytes()
    }

    /// Bytes of weights that a request will have in memory at once, about.
    pub(crate) fn needed_bytes(&self, request: &Request) -> u64 {
        let size = |precision| self.storage(precision).number_bytes();
        let elements = |shape: &Vec<usize>| shape.iter().product::<usize>() as u64;
        let networks: u64 = self.modules.values().map(elements).sum();
        let vae = self.vae_tensors().modules();
        let vae = vae_modules(self.vae_tensors(), self.encodes(request))
            .iter()
            .filter_map(|name| vae.get(name).map(elements))
            .sum::<u64>();
        networks * size(request.precision) + vae * size(self.vae_precision(request.precision))
    }

    /// Fails before anything is read if the weights do not fit into what memory is left: that of the device,
    /// and the processor's, where they may be there.
    ///
    /// # Errors
    /// [`Error::CardMemory`] if another [`Stay`] may do, else [`Error::OutOfMemory`].
    pub(crate) fn require_memory(&self, request: &Request) -> Result<()> {
        let needed = self.needed_bytes(request);
        let available = || {
            let elsewhere = if self.is_short() { device::available_memory()? } else { 0 };
            Some(self.device.available_memory()?.saturating_add(elsewhere))
        };
        let short = || available().filter(|&available| available < needed);
        if short().is_some() {
            // What is kept for intermediate results is ours to give.
            self.device.give_back();
        }
        let advice = match request.precision {
            precision if self.storage(precision).number_bytes() > 2 => {
                "Choose precision bf16, which takes half"
            }
            _ => "Choose a smaller base model",
        };
        let lack = |available| self.lack("loading the base model", needed, available, advice);
        short().map_or(Ok(()), |available| Err(lack(available)))
    }

    /// That there is less memory than something takes. Of a card, unless it is short already, so that the
    /// picture is made once more in a smaller way.
    fn lack(
        &self,
        doing: &'static str,
        needed: u64,
        available: u64,
        advice: &'static str,
    ) -> Error {
        match self.device {
            ops::Device::Card(_) if !self.is_short() => {
                let wanted = usize::try_from(needed.saturating_sub(available));
                Error::CardMemory { wanted: wanted.unwrap_or(usize::MAX) }
            }
            _ => Error::OutOfMemory { doing, needed, available, advice },
        }
    }

    /// What its networks run on, and how numbers of a request are stored there.
    pub(crate) fn storage_for(&self, request: &Request) -> Storage {
        self.storage(request.precision)
    }

    /// Whether this is the base model of a request, and its files are as they were.
    pub(crate) fn is_for(&self, request: &Request) -> bool {
        self.path == request.checkpoint
            && self.lender == request.lender
            && self.vae_path == request.vae
            && self.checkpoint.tensors.is_current()
            && self.vae.as_ref().is_none_or(Tensors::is_current)
    }

    /// Fits a request's adapters, and brings weights and networks to what they make of them.
    ///
    /// # Errors
    /// Adapters that do not fit are named; otherwise files that cannot be read, or [`Error::Cancelled`].
    pub(crate) fn prepare(
        &mut self,
        request: &Request,
        opened: bool,
        warnings: &mut Vec<String>,
        watch: &mut Watch<'_>,
    ) -> Result<(Words, Stack, PatchReport)> {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy();
        let base = BaseModel {
            name: &name,
            architecture: self.checkpoint.architecture.name,
            modules: &self.modules,
            blocks: &self.blocks,
            demand: matches!(self.device, ops::Device::Host).then(|| Demand::of(request)),
        };
        let (stack, report) = self.adapters.stack(&request.adapters, &base)?;
        let words = Words::new(request, self.embeddings(request, &stack, warnings)?, &stack);
        self.patch(&stack, &words, request, opened, watch)?;
        if let Err(error) = self.prepare_preview(request) {
            warnings.push(format!("previews are rough: {error}"));
        }
        Ok((words, stack, report))
    }

    /// Loads the TAESD of a request that is for latents of this kind, if it is not there yet.
    fn prepare_preview(&mut self, request: &Request) -> Result<()> {
        let architecture = self.checkpoint.architecture;
        let wanted = request.preview_decoders.iter().find(|path| {
            // Nothing but their names tells them apart: "taesd", "taesdxl".
            let name = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
            name.contains("xl") == (architecture.native_size)(self.checkpoint.prediction).ge(&1024)
        });
        let precision = request.precision;
        let current = self.preview.as_ref().map(|(path, _, storage)| (path, storage.precision));
        if current == wanted.map(|path| (path, precision)) {
            return Ok(());
        }
        self.preview = None;
        if let Some(path) = wanted.filter(|_| !self.is_short()) {
            let (tensors, config) = open_vae(path, architecture)?;
            let storage = self.storage(precision);
            let weights = weights_of_vae(&tensors, false, (self.stay, &storage))?;
            let decoder = Decoder::new(&weights.layers().scope("vae"), config.groups)?;
            self.preview = Some((path.clone(), Arc::new(decoder), storage));
        }
        Ok(())
    }

    /// What the latents are looked at with while they form.
    pub(crate) fn look(&self, request: &Request) -> Look {
        let preview = self.preview.as_ref();
        let decoder = preview.map(|(_, decoder, storage)| (decoder.clone(), storage.clone()));
        // Where memory is short, a rough preview will do.
        let pixels = pixels(request);
        let fits = |decoder: &Decoder| {
            let available = self.device.available_memory();
            available.is_none_or(|available| decoder.peak_bytes(pixels) < available / 2)
        };
        let decoder = decoder.filter(|(decoder, _)| fits(decoder));
        Look { colors: self.checkpoint.architecture.colors, decoder }
    }

    /// Reads the embeddings of a request, and has those that its adapters bring. Those for other text
    /// encoders are left out, with a warning.
    fn embeddings(
        &self,
        request: &Request,
        stack: &Stack,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Embedding>> {
        let width_of = |component: Component| {
            let table = format!("{}text_model.embeddings.token_embedding", component.prefix());
            self.modules.get(&table).and_then(|shape| shape.get(1)).copied().unwrap_or_default()
        };
        let encoders = self.checkpoint.text_encoders.iter().map(|encoder| encoder.component);
        let widths: Vec<_> =
            encoders.map(|component| (place_of(component), width_of(component))).collect();
        let mut embeddings = Vec::new();
        let given = request.embeddings.iter().map(|path| Embedding::open(path));
        for embedding in given.chain(stack.embeddings().cloned().map(Ok)) {
            let embedding = embedding?;
            if widths.iter().all(|(place, width)| embedding.rows(*place, *width).is_some()) {
                embeddings.push(embedding);
                continue;
            }
            let found: Vec<String> = [&embedding.first, &embedding.second]
                .into_iter()
                .flatten()
                .filter_map(|rows| rows.first().map(|row| row.len().to_string()))
                .collect();
            warnings.push(format!(
                "the embedding `{}` was left out: its vectors have {} numbers, and those of {} have {}",
                embedding.name,
                found.join(" and "),
                self.checkpoint.architecture.name,
                widths.iter().map(|row| row.1.to_string()).collect::<Vec<_>>().join(" and "),
            ));
        }
        Ok(embeddings)
    }

    /// Brings weights and networks to what the request and its stack make of them.
    ///
    /// On a model that was just opened, weights that no adapter touches belong to loading; everything
    /// else is patching.
    fn patch(
        &mut self,
        stack: &Stack,
        words: &Words,
        request: &Request,
        opened: bool,
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        let (precision, encoder) = (request.precision, self.encodes(request));
        let encoded = self.encoded(words).is_some();
        let wanted = self.modules.keys().filter(|name| !encoded || !name.starts_with(TEXT_ENCODER));
        let outdated = self.weights.outdated(wanted.cloned(), stack, precision);
        let (plain, patched): (Vec<_>, Vec<_>) =
            outdated.into_iter().partition(|(_, recipe)| opened && recipe.0.is_empty());
        let vae = vae_modules(self.vae_tensors(), encoder);
        let vae = self.vae_weights.outdated(
            vae.into_iter(),
            &Stack::default(),
            self.vae_precision(precision),
        );

        let changed = !(plain.is_empty() && patched.is_empty() && vae.is_empty());
        let lacks = |n: &Networks| {
            encoder && n.encoder.is_none() || !encoded && n.clips.is_none() || n.unet.is_none()
        };
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
        self.vae_weights.make(vae_tensors, &Stack::default(), vae, &mut tally)?;
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

    /// Whether a request has a picture encoded: to start from, or for a UNet that was made for inpainting.
    fn encodes(&self, request: &Request) -> bool {
        let inputs = self.modules.get("unet.conv_in").and_then(|shape| shape.get(1));
        request.init.is_some() || inputs.is_some_and(|inputs| *inputs != INPUTS[0])
    }

    /// How numbers of a precision are stored on its device.
    fn storage(&self, precision: Precision) -> Storage {
        Storage { device: self.device.clone(), precision }
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
        let unet = Some(self.unet(context)?);
        let vae = self.vae_weights.layers().scope("vae");
        let decoder = self.decoder(&vae)?;
        let encoder = match encoder {
            true => Some(Encoder::new(&vae, self.vae_config.groups)?),
            false => None,
        };
        Ok(Networks { clips, unet, decoder, encoder })
    }

    /// * `context`: channels of a prompt
    fn unet(&self, context: usize) -> Result<UNet> {
        UNet::new(&self.weights.layers().scope("unet"), context, self.checkpoint.unet)
    }

    /// Brings the UNet to what a stack makes of it at its place among the steps. Says whether it is another
    /// now.
    ///
    /// # Errors
    /// Files that cannot be read. The UNet is gone then, until the next picture is [prepared](Loaded::prepare).
    pub(crate) fn repaint(&mut self, stack: &Stack, precision: Precision) -> Result<bool> {
        let modules = self.modules.keys().filter(|name| !name.starts_with(TEXT_ENCODER));
        let outdated = self.weights.outdated(modules.cloned(), stack, precision);
        if outdated.is_empty() {
            return Ok(false);
        }
        let networks = self.networks.as_mut().expect("built by `patch`, which comes first");
        // It shares the layers: gone before the new ones are made.
        let context = networks.unet.take().map_or(0, |unet| unet.context());
        let mut watch = |_: Progress<'_>| ControlFlow::Continue(());
        let mut tally = Tally::new(Phase::Sample, outdated.len(), &mut watch)?;
        self.weights.make(&self.checkpoint.tensors, stack, outdated, &mut tally)?;
        let unet = self.unet(context)?;
        self.networks.as_mut().expect("it was there before").unet = Some(unet);
        Ok(true)
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
    pub(crate) fn conditioning(&mut self, request: &Request, words: Words) -> Result<Conditioning> {
        if let Some(conditioning) = self.encoded(&words) {
            return Ok(conditioning.clone());
        }
        let networks = self.networks.as_mut().expect("built by `patch`, which comes first");
        let clips = networks.clips.take().expect("built where a prompt is new");
        let conditioning = self.encode_prompts(&clips, &words.embeddings, request)?;
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
    fn encode_prompts(
        &self,
        clips: &[Clip],
        embeddings: &[Embedding],
        request: &Request,
    ) -> Result<Conditioning> {
        let (cond, pooled) = self.encode_prompt(clips, &request.prompt, embeddings, request)?;
        let (mut uncond, mut other) =
            self.encode_prompt(clips, &request.negative_prompt, embeddings, request)?;
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
        embeddings: &[Embedding],
        request: &Request,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (mut encoded, mut pooled) = (Vec::new(), None);
        let encoders = self.checkpoint.text_encoders.iter().zip(&self.tokenizers);
        for (clip, (encoder, tokenizer)) in clips.iter().zip(encoders) {
            let place = place_of(encoder.component);
            let rows = embeddings.iter().map(|embedding| {
                embedding.rows(place, clip.width()).expect("those that fit were chosen")
            });
            let rows: Vec<_> = rows.collect();
            let vocabulary = Vocabulary::new(tokenizer, embeddings);
            let mut values = Vec::new();
            for chunk in text::chunks(tokenizer, &vocabulary, prompt) {
                let end = chunk.ids.iter().position(|&id| id == tokenizer.end());
                let end = end.expect("each chunk ends with an end token");
                let vectors = chunk
                    .vectors
                    .iter()
                    .map(|&(place, embedding, row)| (place, rows[embedding][row].as_slice()));
                let vectors: Vec<_> = vectors.collect();
                let (skip, storage) = (request.clip_skip, self.storage(request.precision));
                let made = clip.encode(&chunk.ids, end, &vectors, skip, &storage)?;
                let mut states = made.states.values()?.into_owned();
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
    pub(crate) fn pooled(
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
        let (original, target) =
            (given.original.unwrap_or(picture), given.target.unwrap_or(picture));
        let score = if positive { given.aesthetic_score } else { given.negative_aesthetic_score };
        let mut sizes =
            [original.1, original.0, given.crop.1, given.crop.0].map(f64::from).to_vec();
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
    ///
    /// # Errors
    /// [`Error::Diverged`] if the VAE makes no numbers of it even in f32.
    pub(crate) fn init_latents(&self, request: &Request) -> Result<Option<Tensor>> {
        let values = |init: &InitImage| init.image.pixels.iter().map(|&c| from_byte(c)).collect();
        let values: Option<Vec<f32>> = request.init.as_ref().map(values);
        values.map(|values| self.latents_of(&values, request)).transpose()
    }

    /// What a UNet for inpainting takes behind the latents: the mask, and the latents of what it leaves of
    /// the picture, five planes of them. Where nothing is left, that is a gray picture, as in A1111. Nothing
    /// for other UNets.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the VAE makes no numbers of the picture.
    pub(crate) fn inpainting(&self, request: &Request) -> Result<Vec<f32>> {
        if self.networks().unet().inputs() == INPUTS[0] {
            return Ok(Vec::new());
        }
        let (width, height) = (request.width as usize, request.height as usize);
        let mut values = vec![0.0; 3 * width * height];
        let mut mask = vec![1.0; width / 8 * (height / 8)];
        if let Some(InitImage { image, mask: Some(repainted), .. }) = &request.init {
            let pixels = values.chunks_mut(3).zip(image.pixels.chunks(3)).zip(repainted);
            for ((values, pixel), _) in pixels.filter(|(_, mask)| !is_repainted(**mask)) {
                values.copy_from_slice(&[0, 1, 2].map(|color| from_byte(pixel[color])));
            }
            mask = latent_mask(repainted, width / 8)?.flatten_all()?.to_vec1()?;
        }
        let latents = self.latents_of(&values, request)?;
        Ok([mask, latents.flatten_all()?.to_vec1::<f32>()?].concat())
    }

    /// The latents of a picture of the request's size, of unit variance.
    ///
    /// * `values`: -1 to 1, three for each pixel
    fn latents_of(&self, values: &[f32], request: &Request) -> Result<Tensor> {
        let networks = self.networks();
        let encoder = networks.encoder.as_ref().expect("built where a picture is to be encoded");
        let side = self.tile_side(networks, request)?;
        let storage = self.storage(self.vae_precision(request.precision));
        let size = (request.height as usize / 8, request.width as usize / 8);
        if let Some(latents) = self.encode_with(encoder, values, size, &storage, side)? {
            return Ok(latents);
        }
        // Half precision overflowed.
        let weights = self.vae_in_f32(true)?;
        let encoder = Encoder::new(&weights.layers().scope("vae"), self.vae_config.groups)?;
        let storage = self.storage(Precision::F32);
        let latents = self.encode_with(&encoder, values, size, &storage, side)?;
        latents.ok_or(Error::Diverged {
            phase: "encoding the picture",
            advice: "The VAE is damaged; choose another",
        })
    }

    /// The latents of a picture, or nothing if there are values that are not numbers in them.
    ///
    /// * `size`: height and width, in latents
    /// * `side`: of the tiles, in latents
    fn encode_with(
        &self,
        encoder: &Encoder,
        values: &[f32],
        (height, width): (usize, usize),
        storage: &Storage,
        side: usize,
    ) -> Result<Option<Tensor>> {
        let row = 8 * width * 3;
        let axes = (height, width);
        // The first four channels are the mean.
        let mut blend = Blend::new(height, width, 4);
        for down in tile::spans(height, side) {
            for across in tile::spans(width, side) {
                let rows = 8 * down.start..8 * down.end;
                let part =
                    rows.flat_map(|y| &values[y * row + 24 * across.start..][..24 * across.len()]);
                let pixels: Vec<f32> = part.copied().collect();
                let (height, width) = (8 * down.len(), 8 * across.len());
                let size = Size { batch: 1, height, width, channels: 3 };
                let moments = encoder.forward(Map::new(&pixels, size, storage)?)?.into_tokens();
                let channels = moments.channels();
                let moments = moments.values()?;
                let mean: Vec<f32> =
                    moments.chunks(channels).flat_map(|place| &place[..4]).copied().collect();
                let fades = tile::fades((&down, &across), axes, side, 1);
                blend.add((down.start, across.start), &mean, &fades.0, &fades.1);
            }
        }
        let means = blend.finish();
        if means.iter().any(|value| !value.is_finite()) {
            return Ok(None);
        }
        let latents = Tensor::from_vec(means, (1, height, width, 4), &Device::Cpu)?;
        let latents = latents.permute((0, 3, 1, 2))?.contiguous()?;
        Ok(Some((latents * self.vae_config.scaling_factor)?))
    }

    /// Latents `(1, 4, h, w)` to a picture eight times their size.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the VAE makes no numbers of them even in f32.
    pub(crate) fn decode(
        &self,
        networks: &Networks,
        latents: &Tensor,
        request: &Request,
        warnings: &mut Vec<String>,
    ) -> Result<Image> {
        let side = self.tile_side(networks, request)?;
        if side < latents.dim(2)?.max(latents.dim(3)?) {
            warnings.push("the picture was decoded in tiles, as memory is short".into());
        }
        let storage = self.storage(self.vae_precision(request.precision));
        if let Some(image) = self.decode_with(&networks.decoder, latents, &storage, side)? {
            return Ok(image);
        }
        let broken = Error::Diverged {
            phase: "decoding the picture",
            advice: "The VAE is damaged; choose another",
        };
        if storage.precision == Precision::F32 {
            return Err(broken);
        }
        warnings.push("the VAE overflowed in half precision and was run again in f32".into());
        let weights = self.vae_in_f32(false)?;
        let decoder = self.decoder(&weights.layers().scope("vae"))?;
        let storage = self.storage(Precision::F32);
        self.decode_with(&decoder, latents, &storage, side)?.ok_or(broken)
    }

    /// The picture, or nothing if there are values that are not numbers in it.
    ///
    /// * `side`: of the tiles, in latents
    fn decode_with(
        &self,
        decoder: &Decoder,
        latents: &Tensor,
        storage: &Storage,
        side: usize,
    ) -> Result<Option<Image>> {
        let latents = (latents / self.vae_config.scaling_factor)?;
        let (_, _, height, width) = latents.dims4()?;
        let mut blend = Blend::new(8 * height, 8 * width, 3);
        for down in tile::spans(height, side) {
            for across in tile::spans(width, side) {
                let part = latents.narrow(2, down.start, down.len())?;
                let part = part.narrow(3, across.start, across.len())?.contiguous()?;
                let made = decoder.forward(map_of(&part, 1, storage)?)?.into_tokens();
                let fades = tile::fades((&down, &across), (height, width), side, 8);
                blend.add((8 * down.start, 8 * across.start), &made.values()?, &fades.0, &fades.1);
            }
        }
        let values = blend.finish();
        if values.iter().any(|value| !value.is_finite()) {
            return Ok(None);
        }
        Ok(Some(Image {
            width: 8 * width as u32,
            height: 8 * height as u32,
            pixels: values.into_iter().map(to_byte).collect(),
        }))
    }

    /// The longest side of what the VAE takes at once, in latents: all of the picture, unless that does
    /// not fit into what memory is left.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if not even a small tile fits.
    pub(crate) fn tile_side(&self, networks: &Networks, request: &Request) -> Result<usize> {
        let whole = request.width.max(request.height) as usize / 8;
        let pixels = pixels(request);
        let decoder = &networks.decoder;
        let Some(available) = self.device.available_memory() else { return Ok(whole) };
        let needed = |side: usize| decoder.peak_bytes(usize::pow(8 * side, 2) as u64);
        let fits = |side: &usize| needed(*side) <= available;
        if self.is_short() {
            let side = (tile::SMALLEST..=2 * tile::SMALLEST).rev().find(fits);
            return Ok(whole.min(side.unwrap_or(tile::SMALLEST)));
        }
        if decoder.peak_bytes(pixels) <= available {
            return Ok(whole);
        }
        let (doing, advice) = ("decoding the picture", "Choose a smaller picture");
        let lack = || self.lack(doing, needed(tile::SMALLEST), available, advice);
        (tile::SMALLEST..whole).rev().find(fits).ok_or_else(lack)
    }

    fn vae_in_f32(&self, encoder: bool) -> Result<PatchedWeights> {
        weights_of_vae(self.vae_tensors(), encoder, (self.stay, &self.storage(Precision::F32)))
    }
}

fn pixels(request: &Request) -> u64 {
    u64::from(request.width) * u64::from(request.height)
}

/// A color as the VAE takes it, -1 to 1.
fn from_byte(color: u8) -> f32 {
    f32::from(color) / 127.5 - 1.0
}

/// A color as the VAE makes it, -1 to 1, as a byte.
pub(crate) fn to_byte(color: f32) -> u8 {
    ((color * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8
}

/// Whether a mask says that a pixel is repainted.
fn is_repainted(mask: u8) -> bool {
    mask >= 128
}

/// A mask as the latents have it, `(1, 1, h, w)`: 1 where most of the eight by eight pixels are repainted,
/// else 0.
///
/// * `width`: in latents
pub(crate) fn latent_mask(mask: &[u8], width: usize) -> Result<Tensor> {
    let row = 8 * width;
    let values: Vec<f32> = mask
        .chunks(8 * row)
        .flat_map(|rows| {
            (0..width).map(move |column| {
                let block = rows.chunks(row).flat_map(move |row| &row[8 * column..][..8]);
                let repainted = block.filter(|mask| is_repainted(**mask)).count();
                if repainted >= 32 { 1.0 } else { 0.0 }
            })
        })
        .collect();
    let height = values.len() / width;
    Ok(Tensor::from_vec(values, (1, 1, height, width), &Device::Cpu)?)
}

/// Which vectors of an embedding a text encoder reads.
fn place_of(component: Component) -> Place {
    match component {
        Component::TextEncoder2 => Place::Second,
        _ => Place::First,
    }
}

/// Where a VAE's weights are between their uses if the UNet's are there: used once for a picture, they never
/// take what the UNet's could have.
fn stay_of_vae(unet: Stay) -> Stay {
    match unet {
        Stay::Always => Stay::Always,
        Stay::WhileRoom | Stay::Never => Stay::Never,
    }
}

/// The weights of a VAE's decoder, and of its encoder where that is needed.
///
/// * `stay`: where the UNet's are between their uses
fn weights_of_vae(
    tensors: &Tensors,
    encoder: bool,
    (stay, storage): (Stay, &Storage),
) -> Result<PatchedWeights> {
    let mut weights = PatchedWeights::on(&storage.device, stay_of_vae(stay));
    let (modules, plain) = (vae_modules(tensors, encoder), Stack::default());
    let outdated = weights.outdated(modules.into_iter(), &plain, storage.precision);
    let mut watch = |_: Progress<'_>| ControlFlow::Continue(());
    let mut tally = Tally::new(Phase::Decode, outdated.len(), &mut watch)?;
    weights.make(tensors, &plain, outdated, &mut tally)?;
    Ok(weights)
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
pub(crate) fn map_of(latents: &Tensor, batch: usize, storage: &Storage) -> Result<Map> {
    let (_, channels, height, width) = latents.dims4()?;
    let planes = latents.flatten_all()?.to_vec1::<f32>()?;
    let size = Size { batch, height, width, channels };
    Map::from_planes(&planes.repeat(batch), size, storage)
}

/// Whether all values are numbers.
pub(crate) fn finite(values: &Tensor) -> Result<bool> {
    Ok(values.flatten_all()?.to_vec1::<f32>()?.iter().all(|value| value.is_finite()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{repository, request};

    /// In both directions, with the starter's VAE: tiles come near to the whole, and the picture changes
    /// where they meet as it does elsewhere.
    #[test]
    fn tiles_show_no_seams() {
        let side = 384;
        let ramp = |x: u32, y: u32| [x * 255 / side, y * 255 / side, 255 - (x + y) * 127 / side];
        let pixels = (0..side).flat_map(|y| (0..side).flat_map(move |x| ramp(x, y)));
        let pixels = pixels.map(|value| value as u8).collect();
        let picture = Image { width: side, height: side, pixels };
        let mut wanted = request(&repository("assets/starter/model"));
        (wanted.width, wanted.height) = (side, side);
        let image = picture.clone();
        wanted.init = Some(crate::InitImage { image, denoising_strength: 0.0, mask: None });
        let mut loaded = Loaded::open(&wanted, &ops::Device::Host, Stay::Always).unwrap();
        let storage = loaded.storage(Precision::F32);
        let mut watch = |_: Progress<'_>| ControlFlow::Continue(());
        loaded.prepare(&wanted, true, &mut Vec::new(), &mut watch).unwrap();
        let networks = loaded.networks();
        let encoder = networks.encoder.as_ref().unwrap();

        let values: Vec<f32> = picture.pixels.iter().map(|&color| from_byte(color)).collect();
        let latents = |side| {
            let made = loaded.encode_with(encoder, &values, (48, 48), &storage, side);
            made.unwrap().unwrap()
        };
        let (whole, tiled) = (latents(48), latents(32));
        let apart = crate::testing::apart(&tiled, &whole);
        assert!(apart > 0.0 && apart < 0.1, "latents {apart}");

        let decoded = |side| {
            let made = loaded.decode_with(&networks.decoder, &whole, &storage, side);
            made.unwrap().unwrap().pixels
        };
        let (whole, tiled) = (decoded(48), decoded(32));
        let differences = |a: &[u8], b: &[u8]| -> f64 {
            let sum: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
            sum / a.len() as f64
        };
        let apart = differences(&whole, &tiled);
        assert!(apart > 0.0 && apart < 5.0, "pixels {apart}");
        // From each row to the next, beside the same of the picture in one piece.
        let row = side as usize * 3;
        let changes = |pixels: &[u8]| -> Vec<f64> {
            let rows: Vec<_> = pixels.chunks(row).collect();
            rows.windows(2).map(|pair| differences(pair[0], pair[1])).collect()
        };
        let (tiled, whole) = (changes(&tiled), changes(&whole));
        // The tiles meet between the rows 128 and 256.
        for y in 120..264 {
            let more = (tiled[y] - whole[y]).abs();
            assert!(more < 1.0, "row {y}: {} instead of {}", tiled[y], whole[y]);
        }
    }
}
