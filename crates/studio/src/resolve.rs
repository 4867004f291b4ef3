//! From generation parameters to a request: the only place where a name becomes a path.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    path::Path,
};

use engine::{
    AdapterUse, InitImage, Refiner, Request,
    checkpoint::header::TensorFile,
    sample::{SAMPLERS, schedule::SCHEDULES},
};

use crate::{
    Code, Error, GenerationParams, Library, Result,
    library::Kind,
    params::{AdapterParams, FileRef, InitFit, InitParams, NoiseParams, RefinerParams},
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

    let mut lacking = Vec::new();
    let mut find = |kind, reference: &mut FileRef| -> Result<_> {
        let found = library.find(kind, reference)?;
        *reference = found.reference;
        warnings.extend(found.warning);
        Ok(found.path)
    };
    let checkpoint = find(Kind::BaseModel, &mut params.model)?;
    let lender = library.lender(&checkpoint);
    // What the person says of the file holds unless the recipe has a word of its own.
    params.prediction = params.prediction.or_else(|| library.prediction_of(&params.model));
    let vae = params.vae.as_mut().map(|vae| find(Kind::Vae, vae)).transpose()?;
    let text = format!("{}\n{}", params.prompt, params.negative_prompt);
    let mut embeddings = Vec::new();
    let named = std::mem::take(&mut params.embeddings);
    for entry in library.embeddings_in(&text) {
        let as_named = named.iter().find(|one| one.name.eq_ignore_ascii_case(&entry.name)).cloned();
        let mut reference = as_named.unwrap_or_else(|| FileRef::named(&entry.qualified_name));
        embeddings.push(find(Kind::Embedding, &mut reference)?);
        params.embeddings.push(reference);
    }
    for gone in named {
        let found = |one: &FileRef| one.name.eq_ignore_ascii_case(&gone.name);
        if !params.embeddings.iter().any(found)
            && text.to_lowercase().contains(&gone.name.to_lowercase())
        {
            lacking.push(format!(
                "the recipe's words call the embedding `{}`, which is not in the library; the picture will \
                 be another",
                gone.name
            ));
        }
    }
    let refiner = match &mut params.refiner {
        Some(RefinerParams { file, switch_at }) => {
            Some(Refiner { checkpoint: find(Kind::BaseModel, file)?, switch_at: *switch_at })
        }
        None => None,
    };
    let mut stack = Vec::new();
    for adapter in &mut params.adapters {
        let path = find(Kind::Adapter, &mut adapter.file)?;
        stack.push(adapter.to_use(path)?);
    }
    warnings.extend(lacking);
    warnings.extend(lender.map(|lender| {
        let (unet, lender) = (&params.model.name, &lender.name);
        format!("`{unet}` is a UNet alone; the text encoders and the VAE are those of `{lender}`")
    }));
    warnings.extend(join_twins(&mut params.adapters, &mut stack));
    let enabled = params.adapters.iter().map(|adapter| adapter.enabled);
    let adapters = stack.into_iter().zip(enabled).filter_map(|(a, on)| on.then_some(a)).collect();

    let mut request = Request {
        checkpoint,
        lender: lender.map(|entry| entry.path.clone()),
        vae,
        preview_decoders: library.preview_decoders(),
        prediction: params.prediction.map(Into::into),
        adapters,
        prompt: params.prompt.clone(),
        negative_prompt: params.negative_prompt.clone(),
        embeddings,
        clip_skip: params.clip_skip,
        sizes: params.sizes.as_ref().map(Into::into).unwrap_or_default(),
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
        refiner,
    };
    // Before a picture is scaled to a size that cannot be.
    request.check()?;
    if let Some(noise) = &mut params.noise {
        let found = library.find_file(&noise.file)?;
        noise.file = found.reference;
        warnings.extend(found.warning);
        request.noise = Some(read_noise(&found.path, noise)?);
    }
    if let Some(InitParams { image: Some(image), denoising_strength, fit, mask }) = &mut params.init
    {
        let found = library.find_file(image)?;
        *image = found.reference;
        warnings.extend(found.warning);
        let scaled = |path: &Path| -> Result<engine::Image> {
            let pixels = picture::open(path)?;
            Ok(match fit {
                InitFit::Crop => picture::cover(&pixels, params.width, params.height),
                InitFit::Fit => picture::contain(&pixels, params.width, params.height),
            })
        };
        let image = scaled(&found.path)?;
        let mask = match mask {
            Some(mask) => {
                let found = library.find_file(mask)?;
                *mask = found.reference;
                warnings.extend(found.warning);
                Some(picture::brightness(&scaled(&found.path)?))
            }
            None => None,
        };
        request.init = Some(InitImage { image, denoising_strength: *denoising_strength, mask });
    } else if params.init.take().is_some() {
        warnings.push(
            "the recipe started from a picture that it does not name; without it, the picture will \
             be another"
                .into(),
        );
    }
    request.check()?;
    // What weighs nothing has no part in the picture and none in its recipe: weight 0 gives the very
    // file that no adapter gives. (It was looked up all the same, so a wrong name is still an error.)
    params.adapters.retain(|adapter| !adapter.enabled || !adapter.is_nothing());
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
    let steps = params.steps;
    params.adapters.extend(split.tags.into_iter().map(|tag| tag.into_params(steps)));
    split.warnings
}

/// Makes one of an adapter that is there twice in the same manner. One that is switched off counts as
/// nothing.
fn join_twins(adapters: &mut Vec<AdapterParams>, stack: &mut Vec<AdapterUse>) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut at = 0;
    while at < adapters.len() {
        let manner = |adapter: &AdapterParams| {
            let AdapterParams { blocks, over_steps, rank_limit, .. } = adapter.clone();
            (adapter.file.sha256.clone(), blocks, over_steps, rank_limit)
        };
        let first = (0..at).find(|&first| {
            adapters[first].enabled
                && adapters[at].enabled
                && manner(&adapters[first]) == manner(&adapters[at])
        });
        let Some(first) = first else {
            at += 1;
            continue;
        };
        let twin = adapters.remove(at);
        let (twin_use, joined) = (stack.remove(at), &mut adapters[first]);
        let sum = &mut stack[first];
        sum.unet_weight += twin_use.unet_weight;
        sum.text_encoder_weight += twin_use.text_encoder_weight;
        sum.text_encoder_2_weight += twin_use.text_encoder_2_weight;
        if joined.text_encoder_2_weight.or(twin.text_encoder_2_weight).is_some() {
            joined.text_encoder_2_weight = Some(sum.text_encoder_2_weight);
        }
        joined.unet_weight = sum.unet_weight;
        joined.text_encoder_weight = sum.text_encoder_weight;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Folders, Prediction, starter::Starter};

    fn library() -> Library {
        let starter = Some(Starter::folder().expect("it is in the repository"));
        Library::open(Folders { starter, ..Folders::default() }).unwrap()
    }

    fn adapter(name: &str, weight: f64) -> AdapterParams {
        AdapterParams::new(FileRef::named(name), weight)
    }

    fn params() -> GenerationParams {
        library().defaults(&FileRef::named("starter")).unwrap()
    }

    /// By their names in the words, in whatever case; one that a recipe had and that is gone is told.
    #[test]
    fn embeddings_are_found_in_the_words() {
        let folder = tempfile::tempdir().unwrap();
        for (name, tensor) in [("EasyNegative", "emb_params"), ("fox", "lora_unet_x.alpha")] {
            let header = format!(
                r#"{{"{tensor}": {{"dtype": "F32", "shape": [1, 768], "data_offsets": [0, 3072]}}}}"#
            );
            let length = (header.len() as u64).to_le_bytes();
            let bytes = [&length[..], header.as_bytes(), &[0; 3072]].concat();
            fs_err::write(folder.path().join(format!("{name}.safetensors")), bytes).unwrap();
        }
        let starter = Some(Starter::folder().expect("it is in the repository"));
        let models = vec![folder.path().to_owned()];
        let library = Library::open(Folders { starter, models, ..Folders::default() }).unwrap();
        let params = GenerationParams {
            prompt: "a fox".into(),
            negative_prompt: "(easynegative:1.2), gone".into(),
            embeddings: vec![FileRef::named("gone"), FileRef::named("never called")],
            ..params()
        };
        let resolved = resolve(&params, &library).unwrap();
        let [path] = &resolved.request.embeddings[..] else { panic!("{:?}", resolved.request) };
        assert!(path.ends_with("EasyNegative.safetensors"));
        assert_eq!(resolved.params.embeddings[0].name, "EasyNegative");
        assert!(resolved.params.embeddings[0].sha256.is_some());
        let [warning] = &resolved.warnings[..] else { panic!("{:?}", resolved.warnings) };
        assert!(warning.contains("`gone`"), "{warning}");
    }

    #[test]
    fn names_become_paths_and_hashes() {
        let params = GenerationParams { adapters: vec![adapter("neon", 0.5)], ..params() };
        let resolved = resolve(&params, &library()).unwrap();
        assert!(resolved.request.checkpoint.join("unet").is_dir());
        assert!(resolved.request.adapters[0].path.ends_with("adapters/neon.safetensors"));
        let seed = resolved.params.seed.unwrap();
        assert_eq!(resolved.request.seed, seed);
        assert!(seed < 1 << 32);
        let file = &resolved.params.adapters[0].file;
        assert_eq!(file.sha256.as_ref().unwrap().len(), 64);
        assert_eq!(file.data_sha256.as_ref().unwrap().len(), 64);
        assert_eq!(resolved.warnings, [""; 0]);

        // What is resolved stays as it is.
        let again = resolve(&resolved.params, &library()).unwrap();
        assert_eq!(again.params, resolved.params);
    }

    #[test]
    fn a_note_says_what_a_model_predicts_unless_the_recipe_does() {
        let sha256 = resolve(&params(), &library()).unwrap().params.model.sha256.unwrap();
        let said =
            || library().with_predictions([(sha256.clone(), Prediction::VPrediction)].into());
        let resolved = resolve(&params(), &said()).unwrap();
        assert_eq!(resolved.params.prediction, Some(Prediction::VPrediction));
        assert_eq!(resolved.request.prediction, Some(Prediction::VPrediction.into()));
        let own = GenerationParams { prediction: Some(Prediction::Epsilon), ..params() };
        let resolved = resolve(&own, &said()).unwrap();
        assert_eq!(resolved.request.prediction, Some(Prediction::Epsilon.into()));
        assert_eq!(resolve(&params(), &library()).unwrap().request.prediction, None);
    }

    #[test]
    fn random_seeds_differ() {
        let seeds: std::collections::BTreeSet<_> = (0..20).map(|_| random_seed()).collect();
        assert!(seeds.len() > 15, "{seeds:?}");
    }

    #[test]
    fn tags_and_twins_join_the_stack() {
        let params = GenerationParams {
            prompt: "a fox <lora:neon:0.25:0.5> <lora:pixel:1>".into(),
            adapters: vec![adapter("neon", 0.5), adapter("ink", 1.0)],
            ..params()
        };
        let resolved = resolve(&params, &library()).unwrap();
        assert_eq!(resolved.request.prompt, "a fox");
        assert_eq!(resolved.params.prompt, "a fox");
        let stack: Vec<_> = resolved
            .params
            .adapters
            .iter()
            .map(|a| (a.file.name.as_str(), a.unet_weight, a.text_encoder_weight))
            .collect();
        assert_eq!(stack, [("neon", 1.0, 0.75), ("ink", 1.0, 1.0), ("pixel", 1.0, 1.0)]);
        let weights: Vec<_> = resolved.request.adapters.iter().map(|a| a.unet_weight).collect();
        assert_eq!(weights, [1.0, 1.0, 1.0]);
        let [warning] = &resolved.warnings[..] else { panic!("{:?}", resolved.warnings) };
        assert!(warning.contains("`neon`") && warning.contains("0.75"), "{warning}");
    }

    #[test]
    fn what_is_switched_off_does_nothing_and_stays() {
        let off = AdapterParams { enabled: false, ..adapter("neon", 0.5) };
        let params = GenerationParams { adapters: vec![off, adapter("neon", 1.0)], ..params() };
        let resolved = resolve(&params, &library()).unwrap();
        assert_eq!(resolved.params.adapters.len(), 2);
        assert_eq!(resolved.request.adapters.len(), 1);
        assert_eq!(resolved.request.adapters[0].unet_weight, 1.0);
    }

    #[test]
    fn what_weighs_nothing_leaves_no_trace() {
        let with = GenerationParams { adapters: vec![adapter("neon", 0.0)], ..params() };
        let resolved = resolve(&with, &library()).unwrap();
        assert!(resolved.params.adapters.is_empty());
        let unknown = GenerationParams { adapters: vec![adapter("neno", 0.0)], ..params() };
        assert!(resolve(&unknown, &library()).is_err());
    }

    #[test]
    fn wrong_values_are_refused_before_anything_is_read() {
        let cases = [
            ("width", GenerationParams { width: 0, ..params() }),
            ("height", GenerationParams { height: 100_000, ..params() }),
            ("steps", GenerationParams { steps: 0, ..params() }),
            ("sampler", GenerationParams { sampler: "magic".into(), ..params() }),
            ("schedule", GenerationParams { schedule: "magic".into(), ..params() }),
            ("seed", GenerationParams { seed: Some(1 << 53), ..params() }),
        ];
        for (field, wrong) in cases {
            // A picture that does not exist: it is not even looked for.
            let init = Some(InitParams {
                image: Some(FileRef::named("/nonexistent.png")),
                denoising_strength: 0.5,
                fit: InitFit::Crop,
                mask: None,
            });
            let error = resolve(&GenerationParams { init, ..wrong }, &library()).unwrap_err();
            assert_eq!(error.code(), Code::InvalidParams { field }, "{error}");
        }
    }

    #[test]
    fn first_pictures_are_scaled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cat.png");
        image::RgbImage::from_pixel(40, 20, image::Rgb([9, 8, 7])).save(&path).unwrap();
        let image = Some(FileRef::named(path.to_str().unwrap()));
        let init =
            Some(InitParams { image, denoising_strength: 0.5, fit: InitFit::Crop, mask: None });
        let resolved = resolve(&GenerationParams { init, ..params() }, &library()).unwrap();
        let init = resolved.request.init.unwrap();
        assert_eq!((init.image.width, init.image.height), (128, 128));
        assert!(init.image.pixels.chunks(3).all(|pixel| pixel == [9, 8, 7]));
        let named = resolved.params.init.unwrap().image.unwrap();
        assert_eq!((named.name.as_str(), named.sha256.unwrap().len()), ("cat.png", 64));

        // Another program's recipe does not say which picture it was.
        let init = Some(InitParams {
            image: None,
            denoising_strength: 0.5,
            fit: InitFit::Crop,
            mask: None,
        });
        let resolved = resolve(&GenerationParams { init, ..params() }, &library()).unwrap();
        assert!(resolved.request.init.is_none() && resolved.params.init.is_none());
        assert_eq!(resolved.warnings.len(), 1);
    }
}
