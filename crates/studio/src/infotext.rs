//! The A1111 text form of a recipe ("infotext"), which many programs read and write.
//!
//! The prompt, then a line `Negative prompt: …` if there is one, then one line of `Key: value` fields.
//! Adapters stand as [tags](crate::tags) in the prompt. The form is lossy (nothing is escaped in the
//! prompt, weights have no hash): we write it for others, and read it where our own JSON is missing.
//!
//! Field names, their order and the quoting are those of A1111 1.10.

use engine::sample::{SAMPLERS, Sampler, schedule::SCHEDULES};
use serde_json::{Value, json};

use crate::{
    params::{Fields, FileRef, GenerationParams},
    tags::{self, Tag},
};

/// Fields that change no pixel, or whose meaning is covered by others: no warning when they are not
/// used.
const WITHOUT_EFFECT: &[&str] =
    &["Version", "App", "User", "Cache FP16 weight for LoRA", "Init image hash", "Lora hashes"];

/// The schedule that A1111 1.9 and later takes for a sampler when it is told "Automatic".
fn automatic_schedule(sampler: &Sampler) -> &'static str {
    match sampler.id {
        "dpm2" | "dpm2_a" | "dpmpp_2s_a" | "dpmpp_2m" | "dpmpp_sde" => "karras",
        "dpmpp_2m_sde" | "dpmpp_3m_sde" => "exponential",
        _ => "normal",
    }
}

/// Writes resolved parameters as text.
///
/// What the text cannot say is left out: the first picture's name, first noise from a file.
#[must_use]
pub fn write(params: &GenerationParams) -> String {
    let mut text = params.prompt.clone();
    let adapters = || params.adapters.iter().filter(|adapter| adapter.enabled);
    for adapter in adapters() {
        let space = if text.is_empty() || text.ends_with(char::is_whitespace) { "" } else { " " };
        let tag = tags::write(&Tag::of(adapter, params.steps));
        text.extend([space, &tag]);
    }
    if !params.negative_prompt.is_empty() {
        text.extend(["\nNegative prompt: ", &params.negative_prompt]);
    }

    let sampler = SAMPLERS.iter().find(|sampler| sampler.id == params.sampler);
    let schedule = SCHEDULES.iter().find(|schedule| schedule.id == params.schedule);
    let short = |hash: &Option<String>, digits| {
        hash.as_ref().and_then(|hash| hash.get(..digits)).map(str::to_owned)
    };
    let lora_hashes: Vec<String> = adapters()
        .filter_map(|adapter| {
            let hash = short(&adapter.file.data_sha256, 12)?;
            Some(format!("{}: {hash}", adapter.file.name.replace([':', ','], "")))
        })
        .collect();
    let embeddings: Vec<String> = params
        .embeddings
        .iter()
        .filter_map(|file| Some(format!("{}: {}", file.name, short(&file.sha256, 12)?)))
        .collect();
    let fields = [
        ("Steps", Some(params.steps.to_string())),
        ("Sampler", sampler.map(|sampler| sampler.name.to_owned())),
        ("Schedule type", schedule.map(|schedule| schedule.name.to_owned())),
        ("CFG scale", Some(params.guidance_scale.to_string())),
        ("Seed", params.seed.map(|seed| seed.to_string())),
        ("Size", Some(format!("{}x{}", params.width, params.height))),
        ("Model hash", short(&params.model.sha256, 10)),
        ("Model", Some(params.model.name.clone())),
        ("VAE hash", params.vae.as_ref().and_then(|vae| short(&vae.sha256, 10))),
        ("VAE", params.vae.as_ref().map(|vae| vae.name.clone())),
        (
            "Denoising strength",
            params.init.as_ref().map(|init| init.denoising_strength.to_string()),
        ),
        ("Clip skip", (params.clip_skip > 1).then(|| params.clip_skip.to_string())),
        ("Refiner", params.refiner.as_ref().map(|refiner| with_hash(&refiner.file))),
        ("Refiner switch at", params.refiner.as_ref().map(|refiner| refiner.switch_at.to_string())),
        ("RNG", Some(if params.rng == engine::Rng::Nv { "NV" } else { "CPU" }.into())),
        ("Lora hashes", Some(lora_hashes.join(", ")).filter(|hashes| !hashes.is_empty())),
        ("TI hashes", Some(embeddings.join(", ")).filter(|hashes| !hashes.is_empty())),
        ("Precision", half_precision(params.precision).map(str::to_owned)),
        ("Version", Some(format!("impasto-{}", env!("CARGO_PKG_VERSION")))),
    ];
    let fields: Vec<String> = fields
        .into_iter()
        .filter_map(|(key, value)| Some(format!("{key}: {}", quote(value?))))
        .collect();
    text.extend(["\n", &fields.join(", ")]);
    text
}

/// A model by its name and the beginning of its hash, as A1111 writes a refiner: "name [0123456789]".
fn with_hash(file: &FileRef) -> String {
    match file.sha256.as_ref().and_then(|hash| hash.get(..10)) {
        Some(hash) => format!("{} [{hash}]", file.name),
        None => file.name.clone(),
    }
}

/// Undoes [`with_hash`].
fn without_hash(text: &str) -> (&str, Option<&str>) {
    let split = text.strip_suffix(']').and_then(|text| text.rsplit_once(" ["));
    match split.filter(|(_, hash)| hash.chars().all(|c| c.is_ascii_hexdigit())) {
        Some((name, hash)) => (name, Some(hash).filter(|hash| hash.len() >= 10)),
        None => (text, None),
    }
}

/// Our own field, which other programs skip. Pictures of theirs do not have it.
fn half_precision(precision: engine::Precision) -> Option<&'static str> {
    match precision {
        engine::Precision::F32 => None,
        engine::Precision::Bf16 => Some("bf16"),
        engine::Precision::F16 => Some("f16"),
    }
}

/// Quotes a value that would otherwise end too early.
fn quote(value: String) -> String {
    if value.contains([',', '\n', ':']) { Value::String(value).to_string() } else { value }
}

/// Undoes [`quote`]. What only looks quoted stays as it is.
fn unquote(value: &str) -> String {
    if value.starts_with('"')
        && let Ok(text) = serde_json::from_str(value)
    {
        return text;
    }
    value.to_owned()
}

/// Reads a text, and says which of its fields have no effect here. `None` if there is no line of fields
/// in it.
#[must_use]
pub fn read(text: &str) -> Option<(Fields, Vec<String>)> {
    let text = text.trim().replace("\r\n", "\n");
    let (prompts, last) = text.rsplit_once('\n').unwrap_or(("", &text));
    let found = parse_fields(last);
    // So A1111 tells fields from the last line of a prompt.
    if found.len() < 3 {
        return None;
    }

    let (mut prompt, mut negative) = (Vec::new(), None::<Vec<&str>>);
    for line in prompts.lines().map(str::trim) {
        match (line.strip_prefix("Negative prompt:"), &mut negative) {
            (Some(rest), None) => negative = Some(vec![rest.trim()]),
            (_, Some(negative)) => negative.push(line),
            (_, None) => prompt.push(line),
        }
    }
    let split = tags::split(&prompt.join("\n"));
    let mut reader = Reader { found, fields: Fields::new(), ignored: Vec::new() };
    reader.set("prompt", split.prompt);
    reader.set("negative_prompt", negative.unwrap_or_default().join("\n"));
    reader.read(split.tags);

    let mut warnings = split.warnings;
    if !reader.ignored.is_empty() {
        let ignored = reader.ignored.join(", ");
        warnings.push(format!("these settings of the recipe have no effect here: {ignored}"));
    }
    Some((reader.fields, warnings))
}

struct Reader {
    /// What is not yet understood.
    found: Vec<(String, String)>,
    fields: Fields,
    ignored: Vec<String>,
}

impl Reader {
    fn set(&mut self, field: &str, value: impl Into<Value>) {
        self.fields.insert(field.into(), value.into());
    }

    fn take(&mut self, key: &str) -> Option<String> {
        let at = self.found.iter().position(|(found, _)| found == key)?;
        Some(self.found.remove(at).1)
    }

    /// Takes a field whose text `parse` understands; otherwise it counts as ignored.
    fn take_as<T>(&mut self, key: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let value = self.take(key)?;
        let parsed = parse(&value);
        if parsed.is_none() {
            self.ignored.push(format!("{key}: {value}"));
        }
        parsed
    }

    fn copy<T: Into<Value>>(&mut self, key: &str, field: &str, parse: impl Fn(&str) -> Option<T>) {
        if let Some(value) = self.take_as(key, parse) {
            self.set(field, value);
        }
    }

    fn read(&mut self, tags: Vec<Tag>) {
        self.copy("Steps", "steps", |text| text.parse::<u32>().ok());
        self.copy("CFG scale", "guidance_scale", finite);
        self.copy("Seed", "seed", |text| text.parse::<u64>().ok());
        self.copy("Clip skip", "clip_skip", |text| text.parse::<u32>().ok());
        self.copy("Precision", "precision", |text| {
            ["f32", "bf16", "f16"].contains(&text).then(|| text.to_owned())
        });
        let size = self.take_as("Size", |text| {
            let (width, height) = text.split_once('x')?;
            Some((width.parse::<u32>().ok()?, height.parse::<u32>().ok()?))
        });
        if let Some((width, height)) = size {
            self.set("width", width);
            self.set("height", height);
        }
        // A1111's default is the numbers that a CUDA device makes.
        let rng = self.take_as("RNG", |text| match text {
            "CPU" => Some("torch-cpu"),
            "NV" | "GPU" => Some("nv"),
            _ => None,
        });
        self.set("rng", rng.unwrap_or("nv"));
        self.read_sampler();
        self.read_files(tags);

        // A second pass at a larger size has a strength of its own, which is not that of img2img.
        let second_pass = self.found.iter().any(|(key, _)| key.starts_with("Hires "));
        if !second_pass && let Some(strength) = self.take_as("Denoising strength", finite) {
            self.set("init", json!({"image": null, "denoising_strength": strength}));
        }
        for (key, value) in std::mem::take(&mut self.found) {
            if !WITHOUT_EFFECT.contains(&key.as_str()) {
                self.ignored.push(format!("{key}: {value}"));
            }
        }
    }

    fn read_sampler(&mut self) {
        let old = self.found.iter().any(|(key, value)| key == "Version" && before_1_9(value));
        let schedule_named = |name: &str| {
            SCHEDULES.iter().find(|s| s.name.eq_ignore_ascii_case(name) || s.id == name)
        };
        let sampler_named = |name: &str| {
            SAMPLERS.iter().find(|s| s.name.eq_ignore_ascii_case(name) || s.id == name)
        };
        // Before version 1.9 the schedule was a part of the sampler's name: "DPM++ 2M Karras".
        let sampler = self.take_as("Sampler", |name| {
            sampler_named(name).map(|sampler| (sampler, None)).or_else(|| {
                SCHEDULES.iter().find_map(|schedule| {
                    let rest = name.strip_suffix(schedule.name)?.strip_suffix(' ')?;
                    Some((sampler_named(rest)?, Some(schedule)))
                })
            })
        });
        let named = self.take_as("Schedule type", |name| {
            (name == "Automatic").then_some(None).or_else(|| schedule_named(name).map(Some))
        });
        let Some((sampler, in_name)) = sampler else {
            if let Some(Some(schedule)) = named {
                self.set("schedule", schedule.id);
            }
            return;
        };
        self.set("sampler", sampler.id);
        let schedule = match (named.flatten().or(in_name), named) {
            (Some(schedule), _) => schedule.id,
            // A name without a schedule meant none of the special ones then.
            (None, None) if old => "normal",
            (None, _) => automatic_schedule(sampler),
        };
        self.set("schedule", schedule);
    }

    fn read_files(&mut self, tags: Vec<Tag>) {
        // The first versions wrote 8 digits of another hash, which says nothing.
        let sha256 = |hash: Option<String>| {
            hash.filter(|hash| hash.len() >= 10 && hash.chars().all(|c| c.is_ascii_hexdigit()))
        };
        let hash = sha256(self.take("Model hash"));
        if let Some(name) = self.take("Model") {
            self.set("model", json!({"name": name, "sha256": hash}));
        }
        let hash = sha256(self.take("VAE hash"));
        if let Some(name) = self.take("VAE").filter(|name| name != "None" && name != "Automatic") {
            self.set("vae", json!({"name": name, "sha256": hash}));
        }
        if let Some(refiner) = self.take("Refiner") {
            let (name, hash) = without_hash(&refiner);
            // A1111 leaves it out only where there is no refiner.
            let switch_at = self.take_as("Refiner switch at", finite).unwrap_or(0.8);
            self.set("refiner", json!({"name": name, "sha256": hash, "switch_at": switch_at}));
        }
        let mut listed = |key| -> Vec<(String, String)> {
            self.take(key)
                .iter()
                .flat_map(|list| list.split(", "))
                .filter_map(|entry| entry.split_once(": "))
                .map(|(name, hash)| (name.to_owned(), hash.to_owned()))
                .collect()
        };
        let (hashes, embeddings) = (listed("Lora hashes"), listed("TI hashes"));
        if !embeddings.is_empty() {
            let embeddings = embeddings.into_iter();
            let embeddings: Vec<Value> = embeddings
                .map(|(name, hash)| json!({"name": name, "sha256": sha256(Some(hash))}))
                .collect();
            self.set("embeddings", embeddings);
        }
        let steps = self.fields.get("steps").and_then(Value::as_u64).unwrap_or_default();
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        let adapters: Vec<Value> = tags
            .into_iter()
            .map(|tag| {
                let listed = tag.name.replace([':', ','], "");
                let hash = hashes.iter().find(|(name, _)| *name == listed).map(|(_, hash)| hash);
                let mut adapter = json!(tag.into_params(steps));
                adapter["data_sha256"] = json!(hash);
                adapter
            })
            .collect();
        self.set("adapters", adapters);
    }
}

fn finite(text: &str) -> Option<f64> {
    text.parse().ok().filter(|value: &f64| value.is_finite())
}

/// Whether this is an A1111 from before schedules had a field of their own.
fn before_1_9(version: &str) -> bool {
    let version = version.strip_prefix('v').unwrap_or(version);
    let mut parts = version.split(['.', '-']).map(str::parse::<u32>);
    matches!((parts.next(), parts.next()), (Some(Ok(1)), Some(Ok(minor))) if minor < 9)
}

/// All `Key: value` of a line.
///
/// A key has at least two characters: first one of a word, then also spaces, hyphens and slashes. A
/// value is a quoted string, or reaches to the next comma. What fits neither is skipped.
fn parse_fields(line: &str) -> Vec<(String, String)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut fields = Vec::new();
    let mut rest = line;
    while let Some(start) = rest.find(is_word) {
        rest = &rest[start..];
        let end =
            rest.find(|c: char| !is_word(c) && ![' ', '-', '/'].contains(&c)).unwrap_or(rest.len());
        let key = &rest[..end];
        rest = &rest[end..];
        if key.chars().nth(1).is_none() || !rest.starts_with(':') {
            continue;
        }
        rest = rest[1..].trim_start();
        let end = quoted_end(rest).unwrap_or_else(|| rest.find(',').unwrap_or(rest.len()));
        fields.push((key.to_owned(), unquote(rest[..end].trim_end())));
        rest = &rest[end..];
    }
    fields
}

/// Where a quoted string ends that is followed by a comma or by nothing.
fn quoted_end(text: &str) -> Option<usize> {
    let inside = text.strip_prefix('"')?;
    let mut escaped = false;
    for (at, c) in inside.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' if at > 0 => {
                let end = at + 2;
                let next = text[end..].chars().next();
                return next.is_none_or(|next| next == ',').then_some(end);
            }
            '"' => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params;

    fn read_params(text: &str) -> (GenerationParams, Vec<String>) {
        let (fields, mut warnings) = read(text).expect("a line of fields");
        let mut params = GenerationParams::default();
        warnings.extend(params.apply(fields).expect("fields of the right types"));
        (params, warnings)
    }

    #[test]
    fn written_as_a1111_does() {
        let mut params = params::elaborate();
        params.prompt = "a fox".into();
        params.negative_prompt = "rain".into();
        let version = env!("CARGO_PKG_VERSION");
        let blocks: Vec<String> = (0..26).map(|at| (f64::from(at) / 10.0).to_string()).collect();
        let blocks = blocks.join(",");
        assert_eq!(
            write(&params),
            format!(
                "a fox <lora:neon:0.4:0.8:te2=0.6:lbw={blocks}:dyn=4> <lora:Ink, wet v1.2:-0.25>\n\
                 Negative prompt: rain\n\
                 Steps: 31, Sampler: DPM++ 2M SDE, Schedule type: Exponential, CFG scale: 4.25, \
                 Seed: 9007199254740991, Size: 128x192, Model hash: 1111111111, Model: starter, \
                 VAE hash: 2222222222, VAE: vae-ft-mse, Denoising strength: 0.6, Clip skip: 2, \
                 Refiner: refiner [9999999999], Refiner switch at: 0.75, RNG: NV, Lora hashes: \"neon: 444444444444, Ink wet v1.2: 666666666666\", \
                 TI hashes: \"EasyNegative: aaaaaaaaaaaa\", \
                 Precision: bf16, Version: impasto-{version}"
            )
        );
    }

    #[test]
    fn comes_back_but_for_what_it_cannot_say() {
        let mut expected = params::elaborate();
        let (back, warnings) = read_params(&write(&expected));
        assert_eq!(warnings, [""; 0]);
        (expected.noise, expected.prediction, expected.sizes) = (None, None, None);
        let init = expected.init.as_mut().expect("it has one");
        (init.image, init.fit, init.mask) = (None, params::InitFit::Crop, None);
        let shorten = |file: &mut params::FileRef, known: usize| {
            file.sha256 = file.sha256.take().map(|hash| hash[..known].to_owned());
            file.data_sha256 = file.data_sha256.take().map(|hash| hash[..12].to_owned());
        };
        shorten(&mut expected.model, 10);
        shorten(expected.vae.as_mut().expect("it has one"), 10);
        shorten(&mut expected.embeddings[0], 12);
        shorten(&mut expected.refiner.as_mut().expect("it has one").file, 10);
        // A fade.
        expected.adapters[0].over_steps = None;
        for adapter in &mut expected.adapters {
            shorten(&mut adapter.file, 0);
            adapter.file.sha256 = None;
            adapter.file.name = adapter.file.name.replace(':', "");
        }
        assert_eq!(back, expected);
    }

    /// The shape of a picture that A1111 1.4 made: no schedule, no RNG.
    #[test]
    fn old_versions() {
        let (params, warnings) = read_params(
            "<lora:Some_LORA_V1.2:1>, axe, sharp focus\nSteps: 28, Sampler: DPM++ 2S a, CFG scale: \
             16, Seed: 2527192005, Size: 512x768, Model hash: fc2511737a, Model: someMix, \
             Lora hashes: \"Some_LORA_V1.2: f4c3c4a69a0e\", Version: v1.4.0",
        );
        assert_eq!(warnings, [""; 0]);
        assert_eq!(params.prompt, ", axe, sharp focus");
        assert_eq!((params.width, params.height, params.steps), (512, 768, 28));
        assert_eq!((params.sampler.as_str(), params.schedule.as_str()), ("dpmpp_2s_a", "normal"));
        assert_eq!(params.rng, engine::Rng::Nv);
        assert_eq!(params.model.sha256.as_deref(), Some("fc2511737a"));
        let adapter = &params.adapters[0];
        assert_eq!((adapter.unet_weight, adapter.text_encoder_weight), (1.0, 1.0));
        assert_eq!(adapter.file.data_sha256.as_deref(), Some("f4c3c4a69a0e"));
    }

    #[test]
    fn schedules_in_all_spellings() {
        let cases = [
            ("Sampler: DPM++ 2M Karras", "dpmpp_2m", "karras"),
            ("Sampler: DPM++ 2M SDE Exponential", "dpmpp_2m_sde", "exponential"),
            ("Sampler: DPM++ 2M, Schedule type: Karras", "dpmpp_2m", "karras"),
            ("Sampler: DPM++ 2M, Schedule type: SGM Uniform", "dpmpp_2m", "sgm_uniform"),
            ("Sampler: DPM++ 2M, Schedule type: Automatic", "dpmpp_2m", "karras"),
            ("Sampler: DPM++ 2M", "dpmpp_2m", "karras"),
            ("Sampler: DPM++ 2M, Version: v1.8.0", "dpmpp_2m", "normal"),
            ("Sampler: DPM++ 2M, Version: v1.10.1", "dpmpp_2m", "karras"),
            ("Sampler: DPM++ 3M SDE", "dpmpp_3m_sde", "exponential"),
            ("Sampler: Euler a", "euler_a", "normal"),
        ];
        for (fields, sampler, schedule) in cases {
            let (params, warnings) = read_params(&format!("x\nSteps: 3, Seed: 1, {fields}"));
            assert_eq!((params.sampler.as_str(), params.schedule.as_str()), (sampler, schedule));
            assert_eq!(warnings, [""; 0], "{fields}");
        }
    }

    #[test]
    fn every_sampler_and_schedule_comes_back() {
        for sampler in SAMPLERS {
            for schedule in SCHEDULES {
                let params = GenerationParams {
                    sampler: sampler.id.into(),
                    schedule: schedule.id.into(),
                    ..GenerationParams::default()
                };
                let (back, warnings) = read_params(&write(&params));
                assert_eq!((back.sampler, back.schedule), (params.sampler, params.schedule));
                assert_eq!(warnings, [""; 0]);
            }
        }
    }

    #[test]
    fn what_is_not_honored_is_named() {
        let (params, warnings) = read_params(
            "x\nNegative prompt: \nSteps: 20, Sampler: DPM adaptive, CFG scale: 7, Seed: 1, ENSD: 31337, \
             Denoising strength: 0.7, Hires upscale: 2, ControlNet 0: \"Module: canny, Model: x\", \
             Token merging ratio: 0.5, TI hashes: \"EasyNegative: 66a7279a88dd\", Version: v1.10.1",
        );
        assert_eq!(params.init, None);
        assert_eq!(params.sampler, GenerationParams::default().sampler);
        let [warning] = &warnings[..] else { panic!("{warnings:?}") };
        for named in [
            "Sampler: DPM adaptive",
            "ENSD: 31337",
            "Denoising strength: 0.7",
            "Hires upscale: 2",
            "ControlNet 0: Module: canny, Model: x",
            "Token merging ratio: 0.5",
        ] {
            assert!(warning.contains(named), "{named}: {warning}");
        }
        assert!(!warning.contains("Version") && !warning.contains("TI hashes"), "{warning}");
        assert_eq!(params.embeddings[0].sha256.as_deref(), Some("66a7279a88dd"));
    }

    #[test]
    fn prompts_are_told_from_fields() {
        assert!(read("a fox").is_none());
        assert!(read("a fox\nnote: two fields: no, size: large").is_none());
        assert!(read("").is_none());
        let (params, _) = read_params("Steps: 5, Seed: 1, CFG scale: 2");
        assert_eq!((params.prompt.as_str(), params.steps), ("", 5));
        let (params, _) = read_params(
            "a\nb\nNegative prompt: c\nNegative prompt: d\r\nSteps: 5, Seed: 1, CFG scale: 2",
        );
        assert_eq!(params.prompt, "a\nb");
        assert_eq!(params.negative_prompt, "c\nNegative prompt: d");
    }

    #[test]
    fn fields_are_split_as_a1111_splits_them() {
        let parse = |line| {
            parse_fields(line).into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>()
        };
        assert_eq!(parse("Steps: 20, Sampler: Euler a, x"), ["Steps=20", "Sampler=Euler a"]);
        assert_eq!(parse("A/b-c d: 1,e: 2"), ["A/b-c d=1"]);
        assert_eq!(parse(r#"RP: "1,2;\"x\" é", Ok: 1"#), [r#"RP=1,2;"x" é"#, "Ok=1"]);
        // Quoted, but not up to a comma; a quote that never ends; an empty one.
        assert_eq!(parse(r#"ab: "x" y, cd: "z, ef: """#), [r#"ab="x" y"#, r#"cd="z"#, "ef="]);
        assert_eq!(parse("ab:, cd:"), ["ab=", "cd="]);
    }
}
