//! `impasto generate` and `impasto bench`.

use std::{path::PathBuf, time::Instant};

use engine::{Conditioning, DeviceId, Engine, Output, Pooled, Precision};
use serde::Serialize;
use serde_json::{Value, json};
use studio::{
    Code, Destination, Error, FileRef, Folders, GenerationParams, InitFit, InitParams, Library,
    NoiseParams, Recipe, RefinerParams, Resolved, Result, files, picture, random_seed, resolve,
    starter,
};

use crate::{
    args::{AdapterArg, BenchArgs, DeviceChoice, GenerateArgs, PictureArgs, RefinerArg},
    output,
    progress::{self, Timings, Watcher},
    tensors,
};

/// How much of a first picture is repainted if nobody says: A1111's default.
const DENOISING_STRENGTH: f64 = 0.75;

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    seed: u64,
    device: String,
    precision: &'static str,
    #[serde(flatten)]
    timings: Timings,
    /// From the start of the program's work to its end.
    total_s: f64,
    /// The most memory that the program held at once; `null` where the system does not tell.
    peak_rss_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_card_bytes: Option<u64>,
    images: Vec<PathBuf>,
    adapters: Vec<Value>,
    warnings: Vec<String>,
}

pub(crate) fn generate(args: &GenerateArgs) -> Result<()> {
    let destination = match &args.out {
        Some(path) => Destination::at(path)?,
        None => Destination::of_this_machine(),
    };
    let mut run = Run::start(&args.picture)?;
    destination.prepare()?;
    for path in [&args.save_latents, &args.save_conditioning].into_iter().flatten() {
        files::prepare_folder(files::folder_of(path))?;
    }

    let mut latents = Vec::new();
    for index in 0..args.batch {
        let (recipe, made) = run.of_batch(index, args.batch)?;
        let path = destination.save(index, args.batch, &made.image, &recipe)?;
        if !args.json {
            run.watcher.aside(|| output::line(&path.display().to_string()));
        }
        run.images.push(path);
        if args.save_latents.is_some() {
            latents.push(made.latents);
        }
        if let Some(path) = args.save_conditioning.as_ref().filter(|_| index == 0) {
            let Conditioning { cond, uncond, pooled } = made.conditioning;
            let mut named = vec![("cond", vec![cond]), ("uncond", vec![uncond])];
            if let Some(Pooled { cond, uncond }) = pooled {
                named.extend([("pooled", vec![cond]), ("uncond_pooled", vec![uncond])]);
            }
            tensors::save(path, &named)?;
        }
    }
    if let Some(path) = &args.save_latents {
        tensors::save(path, &[("latents", latents)])?;
    }
    let report = run.finish();
    if args.json {
        output::json(&report);
    }
    Ok(())
}

pub(crate) fn bench(args: &BenchArgs) -> Result<()> {
    let mut run = Run::start(&args.picture)?;
    let (recipe, _) = run.of_batch(0, 1)?;
    let report = run.finish();
    if args.json {
        output::json(&report);
        return Ok(());
    }

    let seconds = |seconds: f64| format!("{seconds:.3} s");
    let Timings { load_s, patch_s, encode_s, step_s, decode_s } = &report.timings;
    let mut sorted = step_s.clone();
    sorted.sort_by(f64::total_cmp);
    let step = match (sorted.first(), sorted.last()) {
        (Some(&fastest), Some(&slowest)) => format!(
            "{} (median of {}; {fastest:.3} to {slowest:.3})",
            seconds(sorted[sorted.len() / 2]),
            sorted.len()
        ),
        _ => "none".to_owned(),
    };
    let memory = report.peak_rss_bytes.map_or("unknown".to_owned(), output::megabytes);
    let size = format!("{} × {}", recipe.width, recipe.height);
    let rows = [
        ("model", recipe.model.name),
        ("size", size),
        ("sampler", format!("{}, {}", recipe.sampler, recipe.schedule)),
        ("device", report.device),
        ("precision", report.precision.to_owned()),
        ("load", seconds(*load_s)),
        ("patch", seconds(*patch_s)),
        ("encode", seconds(*encode_s)),
        ("step", step),
        ("decode", seconds(*decode_s)),
        ("total", seconds(report.total_s)),
        ("peak memory", memory),
    ];
    let card = report.peak_card_bytes.map(|bytes| ("on the card", output::megabytes(bytes)));
    let rows: Vec<_> = rows.into_iter().chain(card).collect();
    let rows: Vec<_> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    output::table(&rows);
    Ok(())
}

/// One call of the program: an engine, and the parameters of the first picture.
pub(crate) struct Run<'a> {
    args: &'a PictureArgs,
    device: DeviceId,
    started: Instant,
    pub(crate) library: Library,
    engine: Engine,
    /// With a seed.
    pub(crate) params: GenerationParams,
    pub(crate) watcher: Watcher,
    pub(crate) images: Vec<PathBuf>,
    adapters: Vec<Value>,
    warnings: Vec<String>,
}

impl<'a> Run<'a> {
    pub(crate) fn start(args: &'a PictureArgs) -> Result<Run<'a>> {
        let started = Instant::now();
        progress::catch_ctrl_c();
        let (device, reason) = match args.device {
            DeviceChoice::Auto => {
                let devices = engine::devices();
                (DeviceId::best_of(&devices), engine::why_no_card(&devices))
            }
            DeviceChoice::Device(device) => (device, None),
        };
        let engine = Engine::open(device, args.threads)?;
        let recipe = args.recipe.as_deref().map(Recipe::open).transpose()?;
        let library = Library::open(Folders {
            models: args.library.models.clone(),
            beside: args.recipe.iter().map(|path| files::folder_of(path).to_owned()).collect(),
            ..Folders::of_this_machine()
        })?;
        let mut run = Run {
            args,
            device,
            started,
            params: GenerationParams::default(),
            library,
            engine,
            watcher: Watcher::new(),
            images: Vec::new(),
            adapters: Vec::new(),
            warnings: Vec::new(),
        };
        if let Some(reason) = reason {
            run.warn(format!("the processor makes the picture, as {reason}"));
        }
        run.params = run.choose(recipe)?;
        Ok(run)
    }

    /// What suits the model, changed by the recipe, changed by the options.
    fn choose(&mut self, recipe: Option<Recipe>) -> Result<GenerationParams> {
        let args = self.args;
        let recipe_model = recipe
            .as_ref()
            .and_then(|recipe| serde_json::from_value(recipe.fields.get("model")?.clone()).ok());
        let model = args
            .model
            .as_ref()
            .map(FileRef::named)
            .or(recipe_model)
            .unwrap_or_else(|| FileRef::named(starter::NAME));
        let mut params = self.library.defaults(&model)?;

        let mut sized = false;
        if let Some(Recipe { fields, warnings }) = recipe {
            sized = fields.contains_key("width");
            params.prompt.clear();
            for warning in warnings.into_iter().chain(params.apply(fields)?) {
                self.warn(warning);
            }
            params.model = model;
        }
        self.override_with_options(&mut params, sized)?;
        if params.prompt.is_empty() && args.prompt.is_none() && args.recipe.is_none() {
            return Err(usage(
                "prompt",
                "there is no prompt",
                "say what to draw: --prompt \"a fox\"",
            ));
        }
        params.seed.get_or_insert_with(random_seed);
        Ok(params)
    }

    /// `sized`: the recipe has a size, so that a first picture's own does not count.
    fn override_with_options(&self, params: &mut GenerationParams, sized: bool) -> Result<()> {
        fn set<T: Clone>(field: &mut T, option: &Option<T>) {
            if let Some(value) = option {
                *field = value.clone();
            }
        }
        let args = self.args;
        set(&mut params.prompt, &args.prompt);
        set(&mut params.negative_prompt, &args.negative);
        set(&mut params.steps, &args.steps);
        set(&mut params.guidance_scale, &args.guidance);
        set(&mut params.sampler, &args.sampler);
        set(&mut params.schedule, &args.schedule);
        set(&mut params.clip_skip, &args.clip_skip);
        set(&mut params.precision, &args.precision.map(Precision::from));
        set(&mut params.rng, &args.rng.map(Into::into));
        params.prediction = args.prediction.map(Into::into).or(params.prediction);
        params.seed = args.seed.or(params.seed);
        if let Some(vae) = &args.vae {
            params.vae = Some(FileRef::named(vae));
        }
        if let Some(RefinerArg { name, switch_at }) = &args.refiner {
            let (file, switch_at) = (FileRef::named(name), *switch_at);
            params.refiner = Some(RefinerParams { file, switch_at });
        }
        let PictureArgs { original_size, crop, target_size, aesthetic_scores, .. } = args;
        if original_size.or(*crop).or(*target_size).is_some() || aesthetic_scores.is_some() {
            let sizes = params.sizes.get_or_insert_default();
            sizes.original = original_size.or(sizes.original);
            sizes.target = target_size.or(sizes.target);
            set(&mut sizes.crop, crop);
            let scores = (sizes.aesthetic_score, sizes.negative_aesthetic_score);
            (sizes.aesthetic_score, sizes.negative_aesthetic_score) =
                aesthetic_scores.unwrap_or(scores);
        }
        if !args.lora.is_empty() {
            params.adapters = args.lora.iter().map(AdapterArg::to_params).collect();
        }
        if let Some(noise) = &args.noise {
            params.noise = Some(NoiseParams { file: FileRef::named(noise), index: 0 });
        }

        if let Some(image) = &args.init_image {
            if !sized {
                let image = picture::open(image.as_ref())?;
                (params.width, params.height) = picture::natural_size(&image);
            }
            let strength = params.init.as_ref().map(|init| init.denoising_strength);
            params.init = Some(InitParams {
                image: Some(FileRef::named(image)),
                denoising_strength: strength.unwrap_or(DENOISING_STRENGTH),
                fit: InitFit::Crop,
                mask: args.mask.as_ref().map(FileRef::named),
            });
        }
        match (&mut params.init, args.denoise) {
            (Some(init), Some(strength)) => init.denoising_strength = strength,
            (None, Some(_)) => {
                let message = "--denoise has no picture to start from";
                return Err(usage("denoise", message, "name one with --init-image"));
            }
            _ => {}
        }
        set(&mut params.width, &args.width);
        set(&mut params.height, &args.height);
        Ok(())
    }

    /// Makes one picture of a batch, with its own seed, and gives its recipe.
    fn of_batch(&mut self, index: usize, count: usize) -> Result<(GenerationParams, Output)> {
        let mut params = self.params.clone();
        params.seed = params.seed.map(|seed| seed.saturating_add(index as u64));
        if let Some(noise) = &mut params.noise {
            noise.index += index;
        }
        self.picture(params, index, count)
    }

    /// Makes one picture of so many, and gives its recipe.
    pub(crate) fn picture(
        &mut self,
        params: GenerationParams,
        index: usize,
        count: usize,
    ) -> Result<(GenerationParams, Output)> {
        self.watcher.begin(index, count);
        let Resolved { params, request, warnings } = resolve(&params, &self.library)?;
        warnings.into_iter().for_each(|warning| self.warn(warning));
        if progress::cancelled() {
            return Err(engine::Error::Cancelled.into());
        }

        let watcher = &mut self.watcher;
        let made = self.engine.generate(&request, &mut |progress| watcher.watch(progress));
        self.watcher.end();
        let made = made?;
        made.warnings.iter().for_each(|warning| self.warn(warning.clone()));
        self.report_adapters(&params, &made);
        Ok((params, made))
    }

    /// What each adapter did, the same for each picture of a batch.
    fn report_adapters(&mut self, params: &GenerationParams, made: &Output) {
        self.adapters.clear();
        let enabled = params.adapters.iter().filter(|adapter| adapter.enabled);
        for (report, adapter) in made.patches.adapters.iter().zip(enabled) {
            let name = &adapter.file.name;
            self.adapters.push(json!({
                "name": name,
                "applied": report.applied.len(),
                "beside": report.beside,
                "unmatched": report.unmatched.len(),
                "wrong_shape": report.wrong_shape.len(),
            }));
            for (modules, problem) in [
                (&report.unmatched, "have no counterpart in the base model"),
                (&report.wrong_shape, "have another shape than in the base model"),
            ] {
                if let Some(first) = modules.first() {
                    self.warn(format!(
                        "{} modules of `{name}` {problem} and were left out, `{first}` first",
                        modules.len()
                    ));
                }
            }
        }
    }

    /// Tells the person, once.
    fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.watcher.aside(|| output::note(&format!("warning: {warning}")));
            self.warnings.push(warning);
        }
    }

    pub(crate) fn finish(self) -> Report {
        Report {
            seed: self.params.seed.unwrap_or_default(),
            device: self.device.to_string(),
            precision: match self.params.precision {
                Precision::F32 => "f32",
                Precision::Bf16 => "bf16",
                Precision::F16 => "f16",
            },
            timings: self.watcher.finish(),
            total_s: self.started.elapsed().as_secs_f64(),
            peak_rss_bytes: peak_memory(),
            peak_card_bytes: self.engine.peak_card_bytes(),
            images: self.images,
            adapters: self.adapters,
            warnings: self.warnings,
        }
    }
}

fn usage(field: &'static str, message: &str, hint: &str) -> Error {
    Error::new(Code::InvalidParams { field }, message).hint(hint)
}

/// The most memory that this program held at once, in bytes, where the system tells (Linux).
fn peak_memory() -> Option<u64> {
    let status = fs_err::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}
