//! The configurations of a diffusers folder, from what the weights and the family of a model show.

use serde_json::{Value, json};

use super::{NewFile, used_layers};
use crate::{
    architecture::{Heads, Modules},
    checkpoint::Checkpoint,
    inspect::family,
    ops::Activation,
    sample::{denoiser::Prediction, training::TrainingSchedule},
    text::tokenizer,
};

/// The configurations of a base model in a single file, and its vocabulary, which is CLIP's.
pub(super) fn of(checkpoint: &Checkpoint) -> Vec<(String, NewFile)> {
    let modules = checkpoint.tensors.modules();
    let configs = [
        ("model_index.json", index()),
        ("unet/config.json", unet(checkpoint, &modules)),
        ("vae/config.json", vae(checkpoint, &modules)),
        ("text_encoder/config.json", text_encoder(checkpoint, &modules)),
        ("scheduler/scheduler_config.json", scheduler(checkpoint)),
    ];
    let configs = configs.map(|(name, config)| (name.to_owned(), format!("{config:#}\n")));
    let vocabulary = tokenizer::clip_files(checkpoint.architecture.text_encoder.padding);
    let vocabulary = vocabulary.into_iter().map(|(name, text)| (format!("tokenizer/{name}"), text));
    let files = configs.into_iter().chain(vocabulary);
    files.map(|(name, text)| (name, NewFile::Text(text))).collect()
}

fn index() -> Value {
    json!({
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [null, null],
        "requires_safety_checker": false,
        "safety_checker": [null, null],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    })
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

fn unet(checkpoint: &Checkpoint, modules: &Modules) -> Value {
    let channels = channels(modules, "unet.down_blocks");
    let heads = match checkpoint.unet.heads {
        Heads::Count(count) => json!(count),
        Heads::Width(width) => json!(channels.iter().map(|c| c / width).collect::<Vec<_>>()),
    };
    let linear = modules
        .iter()
        .find(|(name, _)| name.starts_with("unet.") && name.ends_with(".proj_in"))
        .is_some_and(|(_, shape)| shape.len() == 2);
    json!({
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
        "use_linear_projection": linear,
    })
}

fn vae(checkpoint: &Checkpoint, modules: &Modules) -> Value {
    let channels = channels(modules, "vae.encoder.down_blocks");
    json!({
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": channels,
        "down_block_types": vec!["DownEncoderBlock2D"; channels.len()],
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

fn text_encoder(checkpoint: &Checkpoint, modules: &Modules) -> Value {
    let embeddings = "text_encoder.text_model.embeddings";
    let words = size(modules, &format!("{embeddings}.token_embedding"), 0);
    let feed_forward = "text_encoder.text_model.encoder.layers.0.mlp.fc1";
    json!({
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "bos_token_id": words.saturating_sub(2),
        "eos_token_id": words.saturating_sub(1),
        "hidden_act": match checkpoint.clip.activation {
            Activation::QuickGelu => "quick_gelu",
            _ => "gelu",
        },
        "hidden_size": size(modules, &format!("{embeddings}.token_embedding"), 1),
        "intermediate_size": size(modules, feed_forward, 0),
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": size(modules, &format!("{embeddings}.position_embedding"), 0),
        "num_attention_heads": checkpoint.clip.heads,
        "num_hidden_layers": used_layers(checkpoint),
        "pad_token_id": match checkpoint.architecture.text_encoder.padding {
            Some(_) => 0,
            None => words.saturating_sub(1),
        },
        "vocab_size": words,
    })
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
