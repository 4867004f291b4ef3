//! The configurations of a diffusers folder, from what the weights and the family of a model show.

use std::path::Path;

use fs_err as fs;
use serde_json::{Value, json};

use super::{NewFile, used_layers};
use crate::{
    Error, Result,
    architecture::{Heads, Modules},
    checkpoint::{Checkpoint, TextEncoderConfig, keys::Component},
    inspect::family,
    ops::Activation,
    sample::{denoiser::Prediction, training::TrainingSchedule},
    text::tokenizer,
};

/// The configurations of a base model in a single file, and its vocabulary, which is CLIP's.
///
/// # Errors
/// [`Error::WrongKind`] if its UNet is of a form that a configuration cannot say.
pub(super) fn of(path: &Path, checkpoint: &Checkpoint) -> Result<Vec<(String, NewFile)>> {
    let modules = checkpoint.tensors.modules();
    let unet = unet(checkpoint, &modules).ok_or_else(|| Error::WrongKind {
        path: path.to_owned(),
        wanted: "a single file to be written as a folder",
        found: "a pruned model, whose UNet has transformers of different depths on one level"
            .into(),
        advice: "Use it as the single file that it is".into(),
    })?;
    let mut texts = vec![
        ("model_index.json".to_owned(), text(&index(checkpoint))),
        ("unet/config.json".to_owned(), text(&unet)),
        ("vae/config.json".to_owned(), text(&vae(checkpoint, &modules))),
        ("scheduler/scheduler_config.json".to_owned(), text(&scheduler(checkpoint))),
    ];
    for encoder in &checkpoint.text_encoders {
        let folder = encoder.component.folder();
        let config = text_encoder(checkpoint, encoder, &modules);
        texts.push((format!("{folder}/config.json"), text(&config)));
        let folder = folder.replace("text_encoder", "tokenizer");
        let vocabulary = tokenizer::clip_files(encoder.padding).into_iter();
        texts.extend(vocabulary.map(|(name, text)| (format!("{folder}/{name}"), text)));
    }
    Ok(texts.into_iter().map(|(name, text)| (name, NewFile::Text(text))).collect())
}

fn text(config: &Value) -> String {
    format!("{config:#}\n")
}

fn index(checkpoint: &Checkpoint) -> Value {
    let has = |component| checkpoint.text_encoders.iter().any(|one| one.component == component);
    let (first, second) = (has(Component::TextEncoder), has(Component::TextEncoder2));
    let part = |is_there: bool, class: &str| match is_there {
        true => json!(["transformers", class]),
        false => json!([null, null]),
    };
    let mut index = json!({
        "_class_name": match (first, second) {
            (_, false) => "StableDiffusionPipeline",
            (true, true) => "StableDiffusionXLPipeline",
            (false, true) => "StableDiffusionXLImg2ImgPipeline",
        },
        "feature_extractor": [null, null],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": part(first, "CLIPTextModel"),
        "tokenizer": part(first, "CLIPTokenizer"),
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    });
    let more = match second {
        false => json!({"requires_safety_checker": false, "safety_checker": [null, null]}),
        true => json!({
            "force_zeros_for_empty_prompt": checkpoint.zeroes_empty_negative,
            "image_encoder": [null, null],
            "requires_aesthetics_score": !first,
            "text_encoder_2": part(true, "CLIPTextModelWithProjection"),
            "tokenizer_2": part(true, "CLIPTokenizer"),
        }),
    };
    extend(&mut index, more);
    index
}

fn extend(config: &mut Value, more: Value) {
    if let (Value::Object(config), Value::Object(more)) = (config, more) {
        config.extend(more);
    }
}

/// Transformer blocks for each level on the way down, if all of a level, its counterpart on the way up, and
/// the middle behind the last have as many; a level without attention may say anything.
fn depths(modules: &Modules, levels: usize) -> Option<Vec<usize>> {
    let depth = |attention: &str| {
        let block = |i| format!("{attention}.transformer_blocks.{i}.attn1.to_q");
        (0..).take_while(|&i| modules.contains_key(&block(i))).count()
    };
    let of_level = |blocks: &str| -> Vec<usize> {
        let place = |i: usize| format!("{blocks}.attentions.{i}");
        let there = |i: &usize| modules.contains_key(&format!("{}.proj_in", place(*i)));
        (0..).take_while(there).map(|i| depth(&place(i))).collect()
    };
    let middle = of_level("unet.mid_block");
    (0..levels)
        .map(|level| {
            let mut all = of_level(&format!("unet.down_blocks.{level}"));
            all.extend(of_level(&format!("unet.up_blocks.{}", levels - 1 - level)));
            if level + 1 == levels {
                all.extend(&middle);
            }
            let first = all.first().copied().unwrap_or(1);
            all.iter().all(|depth| *depth == first).then_some(first)
        })
        .collect()
}

/// A size of a module's weight; 0 if there is no such module, which no model that opens lacks.
fn size(modules: &Modules, module: &str, axis: usize) -> usize {
    modules.get(module).and_then(|shape| shape.get(axis)).copied().unwrap_or_default()
}

/// Channels of each level, from the first of its resnets.
fn channels(modules: &Modules, blocks: &str) -> Vec<usize> {
    (0..)
        .map(|level| size(modules, &format!("{blocks}.{level}.resnets.0.conv1"), 0))
        .take_while(|channels| *channels > 0)
        .collect()
}

/// Resnets of the first level.
fn layers(modules: &Modules, blocks: &str) -> usize {
    (0..).take_while(|i| modules.contains_key(&format!("{blocks}.0.resnets.{i}.conv1"))).count()
}

/// What each level of a side is called, by whether it has attention.
fn types(modules: &Modules, blocks: &str, levels: usize, side: &str) -> Vec<String> {
    let attends =
        |level: usize| modules.contains_key(&format!("{blocks}.{level}.attentions.0.proj_in"));
    (0..levels)
        .map(|level| format!("{}{side}Block2D", if attends(level) { "CrossAttn" } else { "" }))
        .collect()
}

fn unet(checkpoint: &Checkpoint, modules: &Modules) -> Option<Value> {
    let channels = channels(modules, "unet.down_blocks");
    let heads = match checkpoint.unet.heads {
        Heads::Count(count) => json!(count),
        Heads::Width(width) => json!(channels.iter().map(|c| c / width).collect::<Vec<_>>()),
    };
    let linear = modules
        .iter()
        .find(|(name, _)| name.starts_with("unet.") && name.ends_with(".proj_in"))
        .is_some_and(|(_, shape)| shape.len() == 2);
    let mut config = json!({
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": heads,
        "block_out_channels": channels,
        "cross_attention_dim": family::context_width(modules),
        "down_block_types": types(modules, "unet.down_blocks", channels.len(), "Down"),
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "in_channels": size(modules, "unet.conv_in", 1),
        "layers_per_block": layers(modules, "unet.down_blocks"),
        "norm_eps": 1e-5,
        "norm_num_groups": checkpoint.unet.groups,
        "out_channels": size(modules, "unet.conv_out", 0),
        "sample_size": (checkpoint.architecture.native_size)(checkpoint.prediction) / 8,
        "up_block_types": types(modules, "unet.up_blocks", channels.len(), "Up"),
        "transformer_layers_per_block": depths(modules, channels.len())?,
        "use_linear_projection": linear,
    });
    if let inputs @ 1.. = size(modules, "unet.add_embedding.linear_1", 1) {
        extend(
            &mut config,
            json!({
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": checkpoint.unet.size_width,
                "projection_class_embeddings_input_dim": inputs,
            }),
        );
    }
    Some(config)
}

fn vae(checkpoint: &Checkpoint, modules: &Modules) -> Value {
    let channels = channels(modules, "vae.encoder.down_blocks");
    json!({
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": channels,
        "down_block_types": vec!["DownEncoderBlock2D"; channels.len()],
        "force_upcast": checkpoint.vae.overflows_f16,
        "in_channels": size(modules, "vae.encoder.conv_in", 1),
        "latent_channels": size(modules, "vae.decoder.conv_in", 1),
        "layers_per_block": layers(modules, "vae.encoder.down_blocks"),
        "norm_num_groups": checkpoint.vae.groups,
        "out_channels": size(modules, "vae.decoder.conv_out", 0),
        "sample_size": (checkpoint.architecture.native_size)(checkpoint.prediction),
        "scaling_factor": checkpoint.vae.scaling_factor,
        "up_block_types": vec!["UpDecoderBlock2D"; channels.len()],
    })
}

fn text_encoder(checkpoint: &Checkpoint, encoder: &TextEncoderConfig, modules: &Modules) -> Value {
    let prefix = encoder.component.prefix();
    let embeddings = format!("{prefix}text_model.embeddings");
    let words = size(modules, &format!("{embeddings}.token_embedding"), 0);
    let feed_forward = format!("{prefix}text_model.encoder.layers.0.mlp.fc1");
    let projection = size(modules, &format!("{prefix}text_projection"), 0);
    let mut config = json!({
        "architectures": [match projection {
            0 => "CLIPTextModel",
            _ => "CLIPTextModelWithProjection",
        }],
        "model_type": "clip_text_model",
        "bos_token_id": words.saturating_sub(2),
        "eos_token_id": words.saturating_sub(1),
        "hidden_act": match encoder.clip.activation {
            Activation::QuickGelu => "quick_gelu",
            _ => "gelu",
        },
        "hidden_size": size(modules, &format!("{embeddings}.token_embedding"), 1),
        "intermediate_size": size(modules, &feed_forward, 0),
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": size(modules, &format!("{embeddings}.position_embedding"), 0),
        "num_attention_heads": encoder.clip.heads,
        "num_hidden_layers": used_layers(checkpoint, encoder),
        "pad_token_id": match encoder.padding {
            Some(_) => 0,
            None => words.saturating_sub(1),
        },
        "vocab_size": words,
    });
    if projection > 0 {
        extend(&mut config, json!({"projection_dim": projection}));
    }
    config
}

fn scheduler(checkpoint: &Checkpoint) -> Value {
    let zero_terminal = checkpoint.training != TrainingSchedule::stable_diffusion();
    json!({
        "_class_name": "DDIMScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": false,
        "num_train_timesteps": 1000,
        "prediction_type": match checkpoint.prediction {
            Prediction::Epsilon => "epsilon",
            Prediction::V => "v_prediction",
        },
        "rescale_betas_zero_snr": zero_terminal,
        "set_alpha_to_one": false,
        "steps_offset": 1,
        "timestep_spacing": if zero_terminal { "trailing" } else { "leading" },
    })
}

/// The longest text of a folder that is written again: a vocabulary has a megabyte or two.
const MAX_TEXT: u64 = 16 << 20;

/// What describes the weights of a folder, as it is there, but for the index of shards that become whole
/// files, and for parts that are not written again.
pub(super) fn of_folder(path: &Path, checkpoint: &Checkpoint) -> Result<Vec<(String, NewFile)>> {
    let encoders = checkpoint.text_encoders.iter().map(|encoder| encoder.component.folder());
    let mut folders: Vec<String> = [Component::UNet, Component::Vae]
        .map(Component::folder)
        .into_iter()
        .chain(encoders)
        .map(str::to_owned)
        .collect();
    folders.extend(["scheduler", "tokenizer", "tokenizer_2"].map(str::to_owned));
    folders.push(String::new());
    let mut files = Vec::new();
    for folder in folders {
        let Ok(entries) = fs::read_dir(path.join(&folder)) else { continue };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let describes = [".json", ".txt"].iter().any(|ending| name.ends_with(ending));
            let status = fs::metadata(entry.path())?;
            if !describes || !status.is_file() || status.len() > MAX_TEXT {
                continue;
            }
            let mut text = fs::read_to_string(entry.path())?;
            if name == "model_index.json" {
                text = without_absent(&text);
            }
            // PyTorch files become safetensors.
            if name.ends_with(".bin.index.json") {
                text = text.replace(".bin\"", ".safetensors\"");
            }
            let name = name.replace(".bin.index.json", ".safetensors.index.json");
            let inside = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            files.push((inside, NewFile::Text(text)));
        }
    }
    files.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(files)
}

/// A pipeline's index without the parts that only check pictures.
fn without_absent(text: &str) -> String {
    let Ok(Value::Object(mut index)) = serde_json::from_str(text) else { return text.to_owned() };
    for part in ["safety_checker", "feature_extractor", "image_encoder"] {
        if let Some(entry) = index.get_mut(part) {
            *entry = json!([null, null]);
        }
    }
    serde_json::to_string_pretty(&index).unwrap_or_else(|_| text.to_owned())
}
