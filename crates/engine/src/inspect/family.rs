//! Families of models: which one a file belongs to, and what says so.
//!
//! Shapes and names are proof, metadata is hearsay: a file may be trained on one model and say
//! another. Evidence is therefore asked in order of its strength, and a contradiction is reported.
//!
//! # Adding a foreign model
//!
//! Add the start of one of its names to [`FOREIGN_MODELS`] or [`FOREIGN_ADAPTERS`], and what it is for to
//! [`PURPOSES`].

use std::{collections::BTreeMap, fmt};

use serde_json::{Map, Value};

use crate::{adapter::Contents, architecture::Modules};

const SD1: &str = "SD 1.x";
const SD2: &str = "SD 2.x";
const SDXL: &str = "SDXL";
const REFINER: &str = "SDXL refiner";
const SD1_OR_SD2: &str = "SD 1.x or SD 2.x";
const SD3: &str = "SD 3";
const FLUX: &str = "FLUX";
const CASCADE: &str = "Stable Cascade";

/// What cross-attention's inputs are called in all spellings: they take the text embeddings.
pub(crate) const CROSS_ATTENTION: &[&str] = &[
    "attn2.to_k",
    "attn2.to_v",
    "attn2_to_k",
    "attn2_to_v",
    "attn2.processor.to_k_lora",
    "attn2.processor.to_v_lora",
];

/// Width of the text embeddings -> family.
const CONTEXT_WIDTHS: &[(usize, &str)] = &[(768, SD1), (1024, SD2), (2048, SDXL), (1280, REFINER)];

/// Starts of names in files of models that are not loaded, a prefix taken off. The first row that is there
/// counts: what has the networks of another model in it goes before that.
const FOREIGN_MODELS: &[(&str, &str)] = &[
    ("control_model.", "a ControlNet"),
    ("controlnet_cond_embedding.", "a ControlNet"),
    ("controlnet_blocks.", "a ControlNet"),
    ("input_hint_block.", "a ControlNet"),
    ("lllite_", "a ControlNet (LLLite)"),
    ("lora_controlnet", "a control-LoRA"),
    ("ip_adapter_proj_model.", "an IP-Adapter"),
    ("image_proj.", "an IP-Adapter"),
    ("image_proj_model.", "an IP-Adapter"),
    ("ip_adapter.", "an IP-Adapter"),
    ("adapter.body.", "a T2I-Adapter"),
    ("adapter.conv_in.", "a T2I-Adapter"),
    ("body.0.block1.", "a T2I-Adapter"),
    ("body.0.resnets.0.block1.", "a T2I-Adapter"),
    ("transformer_layes.", "a T2I-Adapter (style)"),
    ("style_embedding", "a T2I-Adapter (style)"),
    ("layers.0.residual_group.overlap_attn.", "an upscaler (HAT)"),
    ("layers.0.residual_group.blocks.", "an upscaler (SwinIR)"),
    ("before_RG.", "an upscaler (DAT)"),
    ("body.0.rdb1.", "an upscaler (Real-ESRGAN)"),
    ("RRDB_trunk.", "an upscaler (ESRGAN)"),
    ("model.1.sub.0.", "an upscaler (ESRGAN)"),
    ("block_1.c1_r.", "an upscaler (SPAN)"),
    ("taesd_decoder.", "a TAESD"),
    ("taesd_encoder.", "a TAESD"),
    ("decoder.layers.3.conv.", "a TAESD"),
    ("encoder.layers.1.conv.", "a TAESD"),
    ("3.conv.0.", "a TAESD"),
    ("1.conv.0.", "a TAESD"),
    ("joint_blocks.", "an SD 3 model"),
    ("txt_in.individual_token_refiner.", "a HunyuanVideo model"),
    ("double_stream_modulation_img.", "a FLUX.2 model"),
    ("distilled_guidance_layer.", "a Chroma model"),
    ("double_blocks.", "a FLUX model"),
    ("single_blocks.", "a FLUX model"),
    ("single_transformer_blocks.", "a FLUX model"),
    ("double_layers.", "an AuraFlow model"),
    ("double_stream_blocks.", "a HiDream model"),
    ("noise_refiner.", "a Lumina or Z-Image model"),
    ("patchify_proj.", "an LTX-Video model"),
    ("head.modulation", "a Wan model"),
    ("condition_embedder.time_proj.", "a Wan model"),
    ("decoder.middle.0.residual.", "a VAE for videos (Wan)"),
    ("clip_txt_mapper.", "a Stable Cascade model"),
    ("effnet_mapper.", "a Stable Cascade model"),
    ("input_blocks.8.0.time_mixer.", "a Stable Video Diffusion model"),
    ("input_blocks.8.0.time_stack.", "a Stable Video Diffusion model"),
    ("cond_stage_model.roberta.", "an Alt-Diffusion model"),
    ("pos_embed.proj.", "a transformer model (SD 3, PixArt or a newer one)"),
    ("transformer_blocks.0.attn.add_q_proj.", "a transformer model (SD 3, FLUX or a newer one)"),
    ("transformer_blocks.", "a transformer model (PixArt or a newer one)"),
    ("text_encoders.", "a checkpoint of a newer model with its text encoders"),
    ("model.layers.0.self_attn.", "a language model"),
    ("language_model.model.layers.", "a language model"),
    ("model.language_model.layers.", "a language model"),
    ("layers.0.attention.wq.", "a language model"),
    ("gpt_neox.layers.", "a language model"),
    ("h.0.attn.", "a language model"),
    ("encoder.block.0.layer.0.SelfAttention.", "a T5 text encoder"),
];

/// Starts of the names of CLIP's half that reads pictures, and of the one that reads texts beside it.
const VISION: &[&str] = &["vision_model.", "visual."];
const TEXT_BESIDE_VISION: &[&str] = &["text_model.", "transformer.resblocks.", "token_embedding."];

/// Starts of what a model is -> what it is for, as a sentence.
const PURPOSES: &[(&str, &str)] = &[
    ("a ControlNet", "It guides a base model by outlines, depths or poses"),
    ("a control-LoRA", "It guides a base model by outlines, depths or poses"),
    ("a T2I-Adapter", "It guides a base model by outlines, depths or poses"),
    ("an IP-Adapter", "It guides a base model by the content or style of a picture"),
    ("an upscaler", "It enlarges finished pictures"),
    ("a TAESD", "It is a small VAE, for pictures while they form"),
    ("a CLIP vision model", "It reads pictures, for an IP-Adapter for instance"),
    ("a CLIP model", "It compares texts and pictures"),
    ("a T5 text encoder", "It reads prompts for SD 3, FLUX and others"),
    ("a language model", "It writes texts"),
    ("a motion module", "It makes a base model's pictures move"),
    ("a Wan model", "It makes videos"),
    ("a HunyuanVideo model", "It makes videos"),
    ("an LTX-Video model", "It makes videos"),
    ("a Stable Video Diffusion model", "It makes videos"),
    ("a VAE for videos", "It is a part of a model that makes videos"),
];

/// Architectures in GGUF files, by their starts -> what they are; all others are language models.
const GGUF: &[(&str, &str)] = &[
    ("flux", "a FLUX model"),
    ("sd1", "an SD 1.x UNet"),
    ("sdxl", "an SDXL UNet"),
    ("sd3", "an SD 3 model"),
    ("wan", "a Wan model"),
    ("hyvid", "a HunyuanVideo model"),
    ("hunyuan_video", "a HunyuanVideo model"),
    ("ltxv", "an LTX-Video model"),
    ("qwen_image", "a Qwen-Image model"),
    ("lumina", "a Lumina or Z-Image model"),
    ("hidream", "a HiDream model"),
    ("aura", "an AuraFlow model"),
    ("cosmos", "a Cosmos model"),
    ("chroma", "a Chroma model"),
    ("t5", "a T5 text encoder"),
    ("clip", "a CLIP vision model"),
];

/// Starts of modules' names in adapters for models that are not loaded.
const FOREIGN_ADAPTERS: &[(&str, &str)] = &[
    ("lora_unet_double_blocks_", FLUX),
    ("lora_unet_single_blocks_", FLUX),
    ("transformer.single_transformer_blocks.", FLUX),
    ("base_model.model.single_transformer_blocks.", FLUX),
    ("single_transformer_blocks.", FLUX),
    ("diffusion_model.double_blocks.", FLUX),
    ("diffusion_model.single_blocks.", FLUX),
    ("double_blocks.", FLUX),
    ("single_blocks.", FLUX),
    ("lora_transformer_single_transformer_blocks_", FLUX),
    ("lora_unet_joint_blocks_", SD3),
    ("diffusion_model.joint_blocks.", SD3),
    ("lora_te3_", "SD 3 or FLUX (it has a T5 text encoder)"),
    ("transformer.transformer_blocks.", "SD 3 or FLUX"),
    ("base_model.model.transformer_blocks.", "SD 3 or FLUX"),
    ("transformer_blocks.", "SD 3 or FLUX"),
    ("lora_transformer_", "SD 3 or FLUX"),
    ("lora_prior_", CASCADE),
    ("lora_unet_down_blocks_0_0_mapper", CASCADE),
    ("diffusion_model.layers.", "a newer transformer model (Z-Image, Lumina)"),
    ("lora_unet__layers_", "a newer transformer model (Z-Image, Lumina)"),
    ("transformer.layers.", "a newer transformer model (Z-Image, Lumina)"),
    ("diffusion_model.blocks.", "a newer transformer model (Wan, Cosmos)"),
    ("lora_unet_blocks_", "a newer transformer model (Wan, Anima)"),
    ("base_model.model.model.layers.", "a language model"),
];

/// Parts of names, wherever they stand, that belong to other kinds of models.
const FOREIGN_PARTS: &[(&str, &str)] =
    &[("motion_modules", "AnimateDiff"), ("temporal_transformer", "AnimateDiff")];

/// Starts of names of what changes a text encoder.
const TEXT_ENCODER_NAMES: &[&str] = &[
    "lora_te",
    "lycoris_te_",
    "lycoris_text_model_",
    "text_encoder",
    "text_model.",
    "base_model.model.text_model.",
    "base_model.model.text_encoder",
    "base_model.model.encoder.layers.",
];

/// Starts of names of what changes the second text encoder, which of our families only SDXL has.
const SECOND_TEXT_ENCODER: &[&str] =
    &["lora_te2_", "text_encoder_2.", "text_encoders.clip_g.", "base_model.model.text_encoder_2."];

/// Parts of names that tell a family by the depth of its UNet.
const STRUCTURE: &[(&str, &str, &str)] = &[
    ("transformer_blocks_1_", SDXL, "more than one transformer block in a row"),
    ("transformer_blocks.1.", SDXL, "more than one transformer block in a row"),
    ("up_blocks_3_", SD1_OR_SD2, "a fourth level"),
    ("up_blocks.3.", SD1_OR_SD2, "a fourth level"),
    ("output_blocks_9_", SD1_OR_SD2, "a fourth level"),
    ("output_blocks.9.", SD1_OR_SD2, "a fourth level"),
];

/// Metadata key, start of its value -> family.
const METADATA: &[(&str, &str, &str)] = &[
    ("ss_base_model_version", "sd_v1", SD1),
    ("ss_base_model_version", "sd_1.5", SD1),
    ("ss_base_model_version", "sd_v2", SD2),
    ("ss_base_model_version", "sdxl", SDXL),
    ("ss_base_model_version", "sd3", SD3),
    ("ss_base_model_version", "flux", FLUX),
    ("ss_base_model_version", "chroma", "Chroma"),
    ("ss_base_model_version", "lumina", "Lumina"),
    ("modelspec.architecture", "stable-diffusion-v1", SD1),
    ("modelspec.architecture", "stable-diffusion-v2", SD2),
    ("modelspec.architecture", "stable-diffusion-xl-v1-refiner", REFINER),
    ("modelspec.architecture", "stable-diffusion-xl", SDXL),
    ("modelspec.architecture", "stable-diffusion-v3", SD3),
    ("modelspec.architecture", "stable-diffusion-3", SD3),
    ("modelspec.architecture", "flux", FLUX),
    ("ss_v2", "True", SD2),
    // Files from before `ss_base_model_version`: kohya's scripts knew two families then.
    ("ss_v2", "False", SD1),
];

/// The family that a file belongs to, as far as it shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Family {
    /// "SD 1.x"; `None` if nothing says it.
    pub name: Option<&'static str>,
    /// What says so: "its cross-attention takes 768 numbers".
    pub evidence: Vec<String>,
    /// What metadata says otherwise.
    pub contradiction: Option<String>,
    /// Width of the text embeddings that it takes.
    pub context: Option<usize>,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.name, self.context) {
            (Some(name), _) => f.write_str(name),
            (None, Some(width)) => write!(f, "a model with text embeddings of {width} numbers"),
            (None, None) => f.write_str("another model"),
        }
    }
}

/// The family of base models that an adapter is for.
pub(crate) fn of_adapter(contents: &Contents) -> Family {
    let mut family = Family::default();
    let mut says = |name: &'static str, evidence: String| {
        if family.name.is_none() {
            family.name = Some(name);
        }
        if family.name == Some(name) {
            family.evidence.push(evidence);
        }
    };
    let modules: Vec<_> = contents
        .modules()
        .map(|(parts, algorithm)| (parts.spelling(), (algorithm.inputs)(&parts), parts))
        .collect();
    let names = || {
        let leftovers = contents.leftovers.iter().map(|problem| problem.name.as_str());
        modules.iter().map(|(name, ..)| *name).chain(leftovers)
    };

    let foreign = FOREIGN_ADAPTERS
        .iter()
        .find_map(|(start, what)| Some((names().find(|name| name.starts_with(start))?, *what)));
    let foreign = foreign.or_else(|| {
        FOREIGN_PARTS
            .iter()
            .find_map(|(part, what)| Some((names().find(|name| name.contains(part))?, *what)))
    });
    if let Some((name, what)) = foreign {
        says(what, format!("it has modules like `{name}`"));
    }

    let crosses = |name: &str| CROSS_ATTENTION.iter().any(|suffix| name.ends_with(suffix));
    let context = modules.iter().filter(|(name, ..)| crosses(name)).find_map(|row| row.1);
    if let Some((width, name)) = CONTEXT_WIDTHS.iter().find(|row| Some(row.0) == context) {
        says(name, format!("its cross-attention takes {width} numbers"));
    }
    if let Some(name) = names().find(|name| starts_with_any(name, SECOND_TEXT_ENCODER)) {
        says(SDXL, format!("it changes a second text encoder (`{name}`)"));
    }
    // The width of CLIP stands in the first attention layer's inputs.
    let text_width = modules
        .iter()
        .filter(|(name, ..)| is_text_encoder(name) && !starts_with_any(name, SECOND_TEXT_ENCODER))
        .filter(|(name, ..)| !name.ends_with("fc2"))
        .find_map(|row| row.1);
    let text_families = [(768, SD1), (1024, SD2)];
    if let Some((width, name)) = text_families.iter().find(|row| Some(row.0) == text_width) {
        says(name, format!("its text encoder is {width} wide"));
    }
    let conv_projection = modules.iter().find(|(name, _, parts)| {
        name.ends_with("proj_in") && parts.shape("down").is_some_and(|shape| shape.len() == 4)
    });
    if let Some((name, ..)) = conv_projection {
        says(SD1, format!("`{name}` is a convolution"));
    }
    for (part, name, because) in STRUCTURE {
        if names().any(|module| module.contains(part)) {
            says(name, format!("its UNet has {because}"));
        }
    }
    let structural = family.name;
    let metadata = contents.files.iter().find_map(|file| of_metadata(file.metadata()));
    if let Some((said, key, value)) = metadata {
        let agrees = |name: &str| name == said || name == SD1_OR_SD2 && [SD1, SD2].contains(&said);
        match structural {
            None => family.name = Some(said),
            // The metadata may decide between the two.
            Some(name) if agrees(name) => family.name = Some(said),
            Some(name) => {
                family.contradiction =
                    Some(format!("its metadata says {said} (`{key}`), its tensors are for {name}"));
            }
        }
        if family.contradiction.is_none() {
            family.evidence.push(format!("its metadata says so (`{key}`: {value})"));
        }
    }
    family.context = context.or(text_width);
    family
}

fn of_metadata(metadata: &BTreeMap<String, String>) -> Option<(&'static str, &str, &str)> {
    METADATA.iter().find_map(|(key, start, family)| {
        let value = metadata.get(*key).filter(|value| value.starts_with(start))?;
        Some((*family, *key, value.as_str()))
    })
}

/// What a file of another model is, with its article.
pub(crate) fn foreign_model<'a>(
    mut names: impl Iterator<Item = &'a str> + Clone,
) -> Option<&'static str> {
    // `params_ema` and its like are how upscalers are wrapped.
    const PREFIXES: &[&str] = &[
        "model.diffusion_model.",
        "diffusion_model.",
        "transformer.",
        "params_ema.",
        "params.",
        "module.",
    ];
    let bare = |name: &'a str| {
        PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
    };
    FOREIGN_MODELS
        .iter()
        .find(|(start, _)| names.clone().any(|name| bare(name).starts_with(start)))
        .map(|(_, what)| *what)
        .or_else(|| {
            names
                .clone()
                .any(|name| FOREIGN_PARTS.iter().any(|(part, _)| name.contains(part)))
                .then_some("a motion module of AnimateDiff")
        })
        .or_else(|| {
            let has = |starts| names.clone().any(|name| starts_with_any(name, starts));
            let known = has(&["cond_stage_model.", "conditioner.", "first_stage_model."]);
            match (has(VISION) && !known, has(TEXT_BESIDE_VISION)) {
                (true, true) => Some("a CLIP model, for texts and pictures"),
                (true, false) => Some("a CLIP vision model"),
                (false, _) => None,
            }
        })
        // Upscalers that are one row of convolutions have no other names.
        .or_else(|| {
            let rows = names.clone().filter(|name| is_convolution_in_a_row(bare(name))).count();
            (rows >= 4 && names.all(|name| is_convolution_in_a_row(bare(name))))
                .then_some("an upscaler (compact Real-ESRGAN)")
        })
}

/// `body.12.weight`, `body.12.bias`.
fn is_convolution_in_a_row(name: &str) -> bool {
    let number = name.strip_prefix("body.").and_then(|rest| rest.split_once('.'));
    number.is_some_and(|(number, end)| {
        number.bytes().all(|byte| byte.is_ascii_digit()) && ["weight", "bias"].contains(&end)
    })
}

/// What a model is for that is not loaded: a sentence without its full stop.
pub(crate) fn purpose(what: &str) -> Option<&'static str> {
    PURPOSES.iter().find(|(start, _)| what.starts_with(start)).map(|(_, purpose)| *purpose)
}

/// What a GGUF file is by the architecture that it names, with its article.
pub(crate) fn of_gguf(architecture: &str) -> String {
    match GGUF.iter().find(|(start, _)| architecture.starts_with(start)) {
        Some((_, what)) => (*what).to_owned(),
        None => format!("a language model ({architecture})"),
    }
}

/// What the configuration of a UNet describes.
pub(crate) fn of_unet_config(config: &Map<String, Value>) -> Family {
    let number = |key: &str| config.get(key).and_then(Value::as_u64);
    let context = number("cross_attention_dim");
    let is = |key: &str, value: &str| config.get(key).and_then(Value::as_str) == Some(value);
    let (name, because) = if is("addition_embed_type", "text_time") {
        match context {
            Some(1280) => (REFINER, "it takes picture sizes and 1280 numbers of text"),
            _ => (SDXL, "it takes picture sizes beside the text"),
        }
    } else if config.get("use_linear_projection") == Some(&Value::Bool(true)) {
        (SD2, "its transformers start with a linear layer")
    } else {
        (SD1, "its transformers start with a convolution")
    };
    Family {
        name: Some(name),
        evidence: vec![because.to_owned()],
        contradiction: None,
        context: context.and_then(|width| usize::try_from(width).ok()),
    }
}

/// Width of the text embeddings that a base model's UNet takes.
pub(crate) fn context_width(modules: &Modules) -> Option<usize> {
    let (_, shape) = modules.iter().find(|(name, _)| name.ends_with(CROSS_ATTENTION[0]))?;
    shape.get(1).copied()
}

/// Whether a module's name in an adapter is that of a text encoder.
pub(crate) fn is_text_encoder(name: &str) -> bool {
    starts_with_any(name, TEXT_ENCODER_NAMES)
}

/// The part of a pipeline that a module's name in an adapter belongs to; `network` is what denoises.
pub(crate) fn component_of(name: &str, network: &'static str) -> &'static str {
    if starts_with_any(name, SECOND_TEXT_ENCODER) {
        "second text encoder"
    } else if name.starts_with("lora_te3_") {
        "third text encoder"
    } else if is_text_encoder(name) {
        "text encoder"
    } else {
        network
    }
}

/// Whether a module's name in an adapter is one of a network that is no UNet.
pub(crate) fn is_transformer(name: &str) -> bool {
    name.starts_with("transformer.")
        || FOREIGN_ADAPTERS.iter().any(|(start, _)| name.starts_with(start))
}

fn starts_with_any(name: &str, starts: &[&str]) -> bool {
    starts.iter().any(|start| name.starts_with(start))
}
