//! SwarmUI's recipes: JSON under `sui_image_params`, as its pictures have it in their `parameters`.
//!
//! Keys and their meaning are those of SwarmUI's API. Samplers and schedules go by ComfyUI's names. In its
//! prompts `<lora:NAME:UNET:TE>` names the UNet's weight first, where A1111 names the text encoder's.

use serde_json::{Map, Value, json};

use crate::{
    params::{AdapterParams, Fields, FileRef},
    tags,
};

/// The object that has the parameters.
const PARAMS: &str = "sui_image_params";

/// ComfyUI's names of samplers that are called otherwise here.
const SAMPLERS: &[(&str, &str)] = &[
    ("euler_ancestral", "euler_a"),
    ("dpm_2", "dpm2"),
    ("dpm_2_ancestral", "dpm2_a"),
    ("dpmpp_2s_ancestral", "dpmpp_2s_a"),
    ("uni_pc", "unipc"),
];

/// Its keys for numbers and texts that mean the same here.
const SAME: &[(&str, &str)] = &[
    ("negativeprompt", "negative_prompt"),
    ("seed", "seed"),
    ("steps", "steps"),
    ("cfgscale", "guidance_scale"),
    ("width", "width"),
    ("height", "height"),
];

/// What changes no pixel here, or is read with something else.
const WITHOUT_EFFECT: &[&str] =
    &["swarm_version", "date", "generation_time", "aspectratio", "images"];

/// Reads a recipe, and says which of its settings have no effect here; `None` if it is none of SwarmUI's.
#[must_use]
pub fn read(text: &str) -> Option<(Fields, Vec<String>)> {
    let all: Map<String, Value> = serde_json::from_str(text).ok()?;
    let mut given = all.get(PARAMS)?.as_object()?.clone();
    let mut fields = Fields::new();
    let mut warnings = Vec::new();

    let split = tags::split(&text_of(given.remove("prompt")).unwrap_or_default());
    warnings.extend(split.warnings);
    fields.insert("prompt".into(), split.prompt.into());
    for (theirs, ours) in SAME {
        if let Some(value) = given.remove(*theirs) {
            fields.insert((*ours).into(), value);
        }
    }
    if let Some(name) = text_of(given.remove("model")) {
        fields.insert("model".into(), json!({"name": bare(&name)}));
    }
    if let Some(name) = text_of(given.remove("vae")).filter(|name| name != "None") {
        fields.insert("vae".into(), json!({"name": bare(&name)}));
    }
    if let Some(layer) = given.remove("clipstopatlayer").as_ref().and_then(Value::as_i64) {
        fields.insert("clip_skip".into(), layer.unsigned_abs().max(1).into());
    }
    if let Some(name) = text_of(given.remove("sampler")) {
        let row = SAMPLERS.iter().find(|(theirs, _)| *theirs == name);
        fields.insert("sampler".into(), row.map_or(name.as_str(), |row| row.1).into());
    }
    if let Some(name) = text_of(given.remove("scheduler")) {
        fields.insert("schedule".into(), name.into());
    }
    // ComfyUI makes noise on the CPU.
    fields.insert("rng".into(), "torch-cpu".into());

    let steps = fields.get("steps").and_then(Value::as_u64).unwrap_or_default();
    let steps = u32::try_from(steps).unwrap_or(u32::MAX);
    let mut adapters: Vec<AdapterParams> = listed(&mut given);
    adapters.extend(split.tags.into_iter().map(|mut tag| {
        (tag.unet_weight, tag.text_encoder_weight) = (tag.text_encoder_weight, tag.unet_weight);
        tag.name = bare(&tag.name);
        tag.into_params(steps)
    }));
    fields.insert("adapters".into(), json!(adapters));

    let ignored: Vec<String> =
        given.keys().filter(|key| !WITHOUT_EFFECT.contains(&key.as_str())).cloned().collect();
    if !ignored.is_empty() {
        let ignored = ignored.join(", ");
        warnings.push(format!("these settings of the recipe have no effect here: {ignored}"));
    }
    Some((fields, warnings))
}

/// The adapters that stand beside the prompt.
fn listed(given: &mut Map<String, Value>) -> Vec<AdapterParams> {
    let mut list = |key: &str| match given.remove(key) {
        Some(Value::Array(values)) => values,
        Some(Value::String(text)) => text.split(',').map(|one| one.trim().into()).collect(),
        _ => Vec::new(),
    };
    let (names, weights, of_text) = (list("loras"), list("loraweights"), list("loratencweights"));
    let number = |values: &[Value], at: usize| -> Option<f64> {
        let value = values.get(at)?;
        value.as_f64().or_else(|| value.as_str()?.trim().parse().ok()).filter(|n| n.is_finite())
    };
    let names = names.into_iter().filter_map(|name| text_of(Some(name)));
    let adapters = names.enumerate().map(|(at, name)| {
        let weight = number(&weights, at).unwrap_or(1.0);
        AdapterParams {
            text_encoder_weight: number(&of_text, at).unwrap_or(weight),
            ..AdapterParams::new(FileRef::named(bare(&name)), weight)
        }
    });
    adapters.collect()
}

fn text_of(value: Option<Value>) -> Option<String> {
    value.as_ref().and_then(Value::as_str).map(str::to_owned)
}

/// A model's name without its folder and ending.
fn bare(name: &str) -> String {
    let file = name.rsplit(['/', '\\']).next().unwrap_or(name);
    file.strip_suffix(".safetensors").unwrap_or(file).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GenerationParams;

    #[test]
    fn a_recipe_of_swarmui() {
        let text = json!({
            "sui_image_params": {
                "prompt": "a fox <lora:inks/ink:0.5:0.25>",
                "negativeprompt": "rain",
                "model": "sd15/dreamy_v2.safetensors",
                "seed": 7,
                "steps": 12,
                "cfgscale": 6.5,
                "width": 512,
                "height": 768,
                "sampler": "euler_ancestral",
                "scheduler": "karras",
                "clipstopatlayer": -2,
                "loras": ["styles/neon", "pixel"],
                "loraweights": ["0.8", "1"],
                "loratencweights": ["0.4"],
                "refinerupscale": 2,
                "swarm_version": "0.9.4",
            },
        });
        let (fields, warnings) = read(&text.to_string()).unwrap();
        let mut params = GenerationParams::default();
        assert_eq!(params.apply(fields).unwrap(), [""; 0]);
        assert_eq!(warnings, ["these settings of the recipe have no effect here: refinerupscale"]);
        assert_eq!((&*params.prompt, &*params.negative_prompt), ("a fox", "rain"));
        assert_eq!((&*params.model.name, params.seed, params.steps), ("dreamy_v2", Some(7), 12));
        assert_eq!((params.width, params.height, params.clip_skip), (512, 768, 2));
        assert_eq!((&*params.sampler, &*params.schedule), ("euler_a", "karras"));
        let stack = params.adapters.iter();
        let stack: Vec<_> = stack
            .map(|one| (one.file.name.as_str(), one.unet_weight, one.text_encoder_weight))
            .collect();
        assert_eq!(stack, [("neon", 0.8, 0.4), ("pixel", 1.0, 1.0), ("ink", 0.5, 0.25)]);
    }

    #[test]
    fn other_json_is_none() {
        for text in ["{}", "{\"sui_image_params\": 1}", "[1]", "a fox"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
