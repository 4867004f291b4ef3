//! From generation parameters to a request: the only place where a name becomes a path.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    path::Path,
};

use engine::{
    AdapterUse, InitImage, Request,
    checkpoint::header::TensorFile,
    sample::{SAMPLERS, schedule::SCHEDULES},
};

use crate::{
    Code, Error, GenerationParams, Library, Result,
    library::Kind,
    params::{AdapterParams, FileRef, InitParams, NoiseParams},
    picture, tags,
};

/// Parameters of which nothing is left open.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The recipe to write into the picture: with seed, complete hashes, tags moved into the stack.
    pub params: GenerationParams,
    /// The same for the engine.
    pub request: Request,
    /// What is not as it was asked for, as clauses.
    pub warnings: Vec<String>,
}

/// Finds every file, checks every value, and draws the seed if it is random.
///
/// # Errors
/// Fails if a file cannot be found, or a value is outside what can be made. No tensor exists by then.
pub fn resolve(params: &GenerationParams, library: &Library) -> Result<Resolved> {
    let mut params = params.clone();
    let mut warnings = take_tags(&mut params);

    let sampler = SAMPLERS
        .iter()
        .find(|record| record.id == params.sampler)
        .ok_or_else(|| unknown("sampler", &params.sampler, SAMPLERS.iter().map(|r| r.id)))?;
    let schedule = SCHEDULES
        .iter()
        .find(|record| record.id == params.schedule)
        .ok_or_else(|| unknown("schedule", &params.schedule, SCHEDULES.iter().map(|r| r.id)))?;
    let seed = *params.seed.get_or_insert_with(random_seed);

    let mut find = |kind, reference: &mut FileRef| -> Result<_> {
        let found = library.find(kind, reference)?;
        *reference = found.reference;
        warnings.extend(found.warning);
        Ok(found.path)
    };
    let checkpoint = find(Kind::BaseModel, &mut params.model)?;
    let vae = params.vae.as_mut().map(|vae| find(Kind::Vae, vae)).transpose()?;
    let mut stack = Vec::new();
    for adapter in &mut params.adapters {
        let path = find(Kind::Adapter, &mut adapter.file)?;
        stack.push(AdapterUse {
            path,
            unet_weight: adapter.unet_weight,
            text_encoder_weight: adapter.text_encoder_weight,
        });
    }
    warnings.extend(join_twins(&mut params.adapters, &mut stack));
    let enabled = params.adapters.iter().map(|adapter| adapter.enabled);
    let adapters = stack.into_iter().zip(enabled).filter_map(|(a, on)| on.then_some(a)).collect();

    let mut request = Request {
        checkpoint,
        vae,
        adapters,
        prompt: params.prompt.clone(),
        negative_prompt: params.negative_prompt.clone(),
        clip_skip: params.clip_skip,
        width: params.width,
        height: params.height,
        sampler,
        schedule,
        steps: params.steps,
        guidance_scale: params.guidance_scale,
        seed,
        rng: params.rng,
        noise: None,
        precision: params.precision,
        init: None,
    };
    // Before a picture is scaled to a size that cannot be.
    request.check()?;
    if let Some(noise) = &mut params.noise {
        let found = library.find_file(&noise.file)?;
        noise.file = found.reference;
        warnings.extend(found.warning);
        request.noise = Some(read_noise(&found.path, noise)?);
    }
    if let Some(InitParams { image: Some(image), denoising_strength }) = &mut params.init {
        let found = library.find_file(image)?;
        *image = found.reference;
        warnings.extend(found.warning);
        let pixels = picture::open(&found.path)?;
        request.init = Some(InitImage {
            image: picture::cover(&pixels, params.width, params.height),
            denoising_strength: *denoising_strength,
        });
    } else if params.init.take().is_some() {
        warnings.push(
            "the recipe started from a picture that it does not name; without it, the picture will \
             be another"
                .into(),
        );
    }
    request.check()?;
    Ok(Resolved { params, request, warnings })
}

/// A seed below 2^32, so that every generator uses all of its bits.
#[must_use]
pub fn random_seed() -> u64 {
    // The standard library seeds its hashers from the operating system's random numbers.
    RandomState::new().build_hasher().finish() >> 32
}

/// One of the noises in a file, `(1, 4, h, w)`.
fn read_noise(path: &Path, noise: &NoiseParams) -> Result<engine::Tensor> {
    let file = TensorFile::open(path)?;
    let shape = file.tensors().get("noise").map(|info| info.shape.clone()).unwrap_or_default();
    let [count, _, _, _] = shape[..] else {
        let message = format!("cannot use `{}` as first noise", path.display());
        return Err(Error::new(Code::Unknown, message)
            .hint("it must have a tensor `noise` of shape (n, 4, height / 8, width / 8)"));
    };
    if noise.index >= count {
        let message = format!(
            "`{}` has first noise for {count} pictures, but picture {} of the batch was asked for",
            path.display(),
            noise.index + 1
        );
        return Err(Error::new(Code::InvalidParams { field: "noise" }, message));
    }
    let all = file.read_tensor("noise")?;
    all.narrow(0, noise.index, 1).map_err(|error| engine::Error::from(error).into())
}

/// Moves the tags of the prompt into the stack.
fn take_tags(params: &mut GenerationParams) -> Vec<String> {
    let split = tags::split(&params.prompt);
    params.prompt = split.prompt;
    params.adapters.extend(split.tags.into_iter().map(|tag| AdapterParams {
        file: FileRef::named(tag.name),
        unet_weight: tag.unet_weight,
        text_encoder_weight: tag.text_encoder_weight,
        enabled: true,
    }));
    split.warnings
}

/// Makes one of an adapter that is there twice. One that is switched off counts as nothing.
fn join_twins(adapters: &mut Vec<AdapterParams>, stack: &mut Vec<AdapterUse>) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut at = 0;
    while at < adapters.len() {
        let first = (0..at).find(|&first| {
            adapters[first].enabled
                && adapters[at].enabled
                && adapters[first].file.sha256 == adapters[at].file.sha256
        });
        let Some(first) = first else {
            at += 1;
            continue;
        };
        let twin = adapters.remove(at);
        stack.remove(at);
        let (joined, joined_use) = (&mut adapters[first], &mut stack[first]);
        joined.unet_weight += twin.unet_weight;
        joined.text_encoder_weight += twin.text_encoder_weight;
        joined_use.unet_weight = joined.unet_weight;
        joined_use.text_encoder_weight = joined.text_encoder_weight;
        warnings.push(format!(
            "`{}` is in the stack more than once; its weights were added up: {} for the UNet, {} for \
             the text encoder",
            twin.file.name, joined.unet_weight, joined.text_encoder_weight
        ));
    }
    warnings
}

fn unknown<'a>(field: &'static str, id: &str, ids: impl Iterator<Item = &'a str>) -> Error {
    let ids: Vec<_> = ids.collect();
    Error::new(Code::InvalidParams { field }, format!("there is no {field} `{id}`"))
        .hint(format!("choose one of {}", ids.join(", ")))
}
