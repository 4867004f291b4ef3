//! The engine: what is loaded on one device, and the one verb, [`generate`](Engine::generate).

use std::{ops::ControlFlow, sync::Arc};

use crate::{
    DeviceId, Error, Image, InitImage, Output, PatchReport, Phase, Progress, Request, Result,
    Watch,
    adapter::patch::Stack,
    architecture::INPUTS,
    device,
    guided::{Guided, HandOver, Masked},
    loaded::{Loaded, Words, finite, latent_mask},
    noise::Noise,
    ops::{self, Stay},
    sample::{denoiser::Watched, schedule::img2img_tail},
};

/// One device, and what is loaded on it.
///
/// A generation depends on its [`Request`] alone. What stays loaded from the ones before only makes
/// the next one faster.
#[derive(Debug)]
pub struct Engine {
    device: ops::Device,
    pool: Arc<rayon::ThreadPool>,
    /// Base models with their stacks, the one that was used last at the end.
    loaded: Vec<Loaded>,
    /// Bytes of weights that may stay loaded.
    budget: u64,
}

impl Engine {
    /// Opens a device.
    ///
    /// * `threads`: how many to compute with; all cores by default. The picture does not depend on it.
    ///
    /// # Errors
    /// [`Error::Device`] says why a device cannot be used.
    pub fn open(device: DeviceId, threads: Option<usize>) -> Result<Engine> {
        let opened = device::open(device)?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.unwrap_or(0))
            .thread_name(|index| format!("compute {index}"))
            .build()
            .map_err(|error| Error::Device {
                device: device.to_string(),
                reason: format!("its threads could not be started ({error})"),
            })?;
        let budget = usual_budget(&opened);
        Ok(Engine { device: opened, pool: Arc::new(pool), loaded: Vec::new(), budget })
    }

    /// Lets base models stay loaded as long as their weights fit into so many bytes; the one in use
    /// stays in any case. Without a number, or a call, that is half of the device's memory.
    pub fn set_budget(&mut self, bytes: Option<u64>) {
        self.budget = bytes.unwrap_or_else(|| usual_budget(&self.device));
        self.keep_within_budget(0);
    }

    /// Gives back all memory.
    pub fn unload(&mut self) {
        self.loaded.clear();
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

    /// The most bytes of a card's memory that were in use at once, since it was opened; `None` on the processor.
    #[must_use]
    pub fn peak_card_bytes(&self) -> Option<u64> {
        self.device.peak_card_bytes()
    }

    /// Gives back the memory that is kept for the next picture's intermediate results. To have it anew
    /// costs the next picture a second or two, so this is for when none is about to be made.
    pub fn give_back(&mut self) {
        self.device.give_back();
    }

    /// Makes a picture; where a card's memory does not suffice, once more with nothing else on it, the VAE in
    /// small tiles, and those weights in the processor's memory that would fill the last quarter of the card's.
    /// Where that quarter is too little for the picture's maps, all weights are there.
    ///
    /// A base model that was opened so stays so for the pictures after this one, until one is smaller.
    fn run(&mut self, request: &Request, watch: &mut Watch<'_>) -> Result<Output> {
        let mut made = self.once(request, Stay::Always, watch);
        let mut is_first = true;
        for stay in [Stay::WhileRoom, Stay::Never] {
            let Err(Error::CardMemory { .. }) = made else { break };
            is_first = false;
            self.unload();
            made = self.once(request, stay, watch);
        }
        if let Err(Error::CardMemory { .. }) = made {
            self.unload();
        }
        let mut output = made?;
        // Where weights are copied at each step, a warning says more than this one.
        if !is_first && self.loaded.iter().all(|loaded| loaded.streamed_bytes() == 0) {
            output.warnings.push(
                "the card's memory is short, so the picture was made with nothing else on it and decoded in \
                 small tiles"
                    .into(),
            );
        }
        Ok(output)
    }

    /// * `stay`: where the weights of models that are opened for it will be between their uses
    fn once(&mut self, request: &Request, stay: Stay, watch: &mut Watch<'_>) -> Result<Output> {
        let mut base = self.take(request, stay)?;
        let made = self.run_with(&mut base, request, stay, watch);
        self.loaded.push(base.loaded);
        made
    }

    /// With the refiner, if there is one.
    fn run_with(
        &mut self,
        base: &mut Taken,
        request: &Request,
        stay: Stay,
        watch: &mut Watch<'_>,
    ) -> Result<Output> {
        let Some(refining) = &request.refiner else { return paint(base, None, request, watch) };
        let second = Request {
            checkpoint: refining.checkpoint.clone(),
            lender: None,
            vae: None,
            prediction: None,
            adapters: Vec::new(),
            init: None,
            refiner: None,
            ..request.clone()
        };
        // The models that are in use do not count: both are needed at once.
        let mut refiner = self.take(&second, stay)?;
        require_same_latents(&base.loaded, &refiner.loaded)?;
        let made = paint(base, Some((&mut refiner, &second)), request, watch);
        self.loaded.push(refiner.loaded);
        made
    }

    /// Takes the base model of a request out of those that are loaded, or opens it.
    ///
    /// A model that does not open leaves those that are loaded where they are.
    fn take(&mut self, request: &Request, stay: Stay) -> Result<Taken> {
        if stay == Stay::Always {
            self.loaded.retain(|loaded| !loaded.is_short_for_no_reason(request));
        }
        if let Some(at) = self.loaded.iter().position(|loaded| loaded.is_for(request)) {
            return Ok(Taken { loaded: self.loaded.remove(at), opened: false });
        }
        let loaded = Loaded::open(request, &self.device, stay)?;
        // Its files may have changed.
        self.loaded.retain(|other| !other.is_of(&request.checkpoint));
        self.keep_within_budget(loaded.needed_bytes(request));
        Ok(Taken { loaded, opened: true })
    }

    /// Drops the models that were not used for the longest time, until `coming` bytes fit beside the rest.
    fn keep_within_budget(&mut self, coming: u64) {
        let kept = |loaded: &[Loaded]| loaded.iter().map(Loaded::bytes).sum::<u64>();
        let before = self.loaded.len();
        while !self.loaded.is_empty() && kept(&self.loaded).saturating_add(coming) > self.budget {
            self.loaded.remove(0);
        }
        if self.loaded.len() < before {
            self.give_back();
        }
    }
}

/// Half of the device's memory.
fn usual_budget(device: &ops::Device) -> u64 {
    device.memory().map_or(u64::MAX, |bytes| bytes / 2)
}

/// A base model in use.
struct Taken {
    loaded: Loaded,
    /// Whether it was opened for this picture.
    opened: bool,
}

/// One picture with base models that were taken.
fn paint(
    base: &mut Taken,
    refiner: Option<(&mut Taken, &Request)>,
    request: &Request,
    watch: &mut Watch<'_>,
) -> Result<Output> {
    let mut warnings = kernels::Isa::doubts().to_vec();
    let (words, stack, patches) = prepare(base, request, &mut warnings, watch)?;
    let refiner = match refiner {
        Some((refiner, request)) => {
            let (words, stack, _) = prepare(refiner, request, &mut warnings, watch)?;
            Some((refiner, request, words, stack))
        }
        None => None,
    };
    let second = refiner.as_ref().map_or(0, |(refiner, ..)| refiner.loaded.streamed_bytes());
    let loaded = &mut base.loaded;
    let streamed = loaded.streamed_bytes() + second;
    if streamed > 0 {
        warnings.push(format!(
            "the card's memory is too small for model and picture, so {:.1} MB of the model's weights are copied \
             there again at each step, which takes longer",
            streamed as f64 / 1e6
        ));
    }

    announce(watch, Phase::Encode, 2 + usize::from(request.init.is_some()))?;
    let conditioning = loaded.conditioning(request, words)?;
    let mut second = match refiner {
        Some((refiner, request, words, stack)) => {
            let conditioning = refiner.loaded.conditioning(request, words)?;
            Some((&mut refiner.loaded, request, conditioning, stack))
        }
        None => None,
    };
    // Found out before the work rather than after it.
    loaded.tile_side(loaded.networks(), request)?;
    let init = loaded.init_latents(request)?;
    if let (Some(latents), Some(init)) = (&init, &request.init)
        && init.denoising_strength == 0.0
    {
        announce(watch, Phase::Decode, 1)?;
        let image = loaded.decode(loaded.networks(), latents, request, &mut warnings)?;
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

    let mask = request.init.as_ref().and_then(|init| init.mask.as_ref());
    let mask = mask.filter(|_| loaded.networks().unet().inputs() == INPUTS[0]);
    let mask = mask.map(|mask| latent_mask(mask, request.width as usize / 8)).transpose()?;
    let look = loaded.look(request);
    let guided = HandOver {
        first: Guided::new(loaded, &conditioning, stack, sigmas, request)?,
        second: match (&mut second, &request.refiner) {
            (Some((loaded, request, conditioning, stack)), Some(refiner)) => {
                // The first step that A1111 gives to it: of n steps the one before which that part was made.
                let step = (refiner.switch_at * f64::from(request.steps)).ceil() as usize;
                let from = schedule.get(step).copied().unwrap_or(0.0);
                (from > 0.0)
                    .then(|| -> Result<_> {
                        let stack = std::mem::take(stack);
                        Ok((Guided::new(loaded, conditioning, stack, sigmas, request)?, from))
                    })
                    .transpose()?
            }
            _ => None,
        },
    };
    let guided = Masked { inner: guided, kept: init.zip(mask) };
    let mut denoiser = Watched::new(guided, look, watch, sampler, sigmas)?;
    let latents = (sampler.run)(&mut denoiser, latents, sigmas, &mut noise)?;
    drop(denoiser);
    // Makes room for the decoder's maps. What is given up costs the next picture a twentieth of a step.
    loaded.networks().unet().rest();
    if let Some((refiner, ..)) = second {
        refiner.networks().unet().rest();
    }
    if !finite(&latents)? {
        return Err(Error::Diverged {
            phase: "sampling",
            advice: "Lower the guidance or the adapters' weights, or choose precision f32",
        });
    }

    announce(watch, Phase::Decode, 1)?;
    let mut image = loaded.decode(loaded.networks(), &latents, request, &mut warnings)?;
    if let Some(InitImage { image: kept, mask: Some(mask), .. }) = &request.init {
        put_back(&mut image, kept, mask);
    }
    Ok(Output { image, patches, latents, conditioning, warnings })
}

/// The picture where the mask leaves it, which the VAE would change a little too.
fn put_back(image: &mut Image, kept: &Image, mask: &[u8]) {
    let pixels = image.pixels.chunks_mut(3).zip(kept.pixels.chunks(3));
    for ((new, kept), &mask) in pixels.zip(mask) {
        for (new, kept) in new.iter_mut().zip(kept) {
            let (mask, ours, theirs) = (u32::from(mask), u32::from(*new), u32::from(*kept));
            *new = ((ours * mask + theirs * (255 - mask) + 127) / 255) as u8;
        }
    }
}

/// Stack and networks of a base model as its request wants them.
fn prepare(
    taken: &mut Taken,
    request: &Request,
    warnings: &mut Vec<String>,
    watch: &mut Watch<'_>,
) -> Result<(Words, Stack, PatchReport)> {
    if taken.opened {
        announce(watch, Phase::Load, 1)?;
        taken.loaded.require_memory(request)?;
    }
    taken.loaded.prepare(request, taken.opened, warnings, watch)
}

/// Fails unless the latents of one base model mean something to the other.
fn require_same_latents(base: &Loaded, refiner: &Loaded) -> Result<()> {
    let (base, of) = (base.checkpoint.architecture, refiner.checkpoint.architecture);
    if base.scaling_factor == of.scaling_factor {
        return Ok(());
    }
    Err(Error::InvalidRequest {
        field: "the refiner",
        found: format!("a model of {}", of.name),
        rule: format!("the latents of {} are others; choose a model of its family", base.name),
    })
}

fn announce(watch: &mut Watch<'_>, phase: Phase, total: usize) -> Result<()> {
    match watch(Progress { phase, done: 0, total, step: 0, denoised: None }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled),
    }
}
