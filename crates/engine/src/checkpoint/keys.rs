//! Tensor names: from what files call them to the one name that the engine uses.
//!
//! The canonical name is the Diffusers module path with its component in front, e.g.
//! `unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q.weight`. Every other naming is
//! a table of prefix pairs, and a name is looked up by its longest prefix that ends at a dot. Code
//! never branches on a name: a layout that a table cannot express needs a better table.
//!
//! The original layout ("LDM", of CompVis' latent-diffusion) numbers the blocks of all levels in
//! one run, so its numbers depend on how many levels and resnets a network has. [`UNetBlocks`] and
//! [`VaeBlocks`] read that from the names that a file has and generate the pairs. Nothing is taken
//! for granted, so pruned, distilled and tiny networks need no code of their own.
//!
//! # Adding a layout
//!
//! Add its prefixes to the component's list, or its pairs to the component's rows.
//!
//! **Invariant:** a name that no table covers ends up in [`Names::unknown`], never in a guess.

use std::collections::{BTreeMap, BTreeSet};

use crate::architecture::TextEncoder;

/// A network of a base model. Canonical names start with its [`prefix`](Component::prefix).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Component {
    /// The denoiser.
    UNet,
    /// The text encoder; of two, CLIP's.
    TextEncoder,
    /// The second of two text encoders: OpenCLIP's, with a projection of its pooled state.
    TextEncoder2,
    /// Pictures to latents and back.
    Vae,
}

impl Component {
    /// Every component of the base models that can be loaded.
    pub(crate) const ALL: &[Component] =
        &[Component::UNet, Component::TextEncoder, Component::TextEncoder2, Component::Vae];

    /// What canonical names start with, the dot included.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Component::UNet => "unet.",
            Component::TextEncoder => "text_encoder.",
            Component::TextEncoder2 => "text_encoder_2.",
            Component::Vae => "vae.",
        }
    }

    /// Its folder in a diffusers folder.
    pub(crate) fn folder(self) -> &'static str {
        self.prefix().trim_end_matches('.')
    }

    /// What it is called in a sentence.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Component::UNet => "UNet",
            Component::TextEncoder => "text encoder",
            Component::TextEncoder2 => "second text encoder",
            Component::Vae => "VAE",
        }
    }

    /// The component that a canonical name belongs to.
    pub(crate) fn of(canonical: &str) -> Option<Component> {
        Self::ALL.iter().copied().find(|component| canonical.starts_with(component.prefix()))
    }

    /// What its tensors may be prefixed with in a file, the most specific first; files of one
    /// component alone have no prefix.
    fn file_prefixes(self) -> &'static [&'static str] {
        match self {
            Component::UNet => &["model.diffusion_model.", "diffusion_model.", "unet.", ""],
            Component::TextEncoder => &[
                "cond_stage_model.transformer.",
                "conditioner.embedders.0.transformer.",
                "cond_stage_model.model.",
                FIRST_OPEN_CLIP,
                "text_encoder.",
                "",
            ],
            // The refiner has no other; SD 2.x in the same layout, with a UNet that takes no pooled state,
            // has its only one there.
            Component::TextEncoder2 => {
                &["conditioner.embedders.1.model.", FIRST_OPEN_CLIP, "text_encoder_2."]
            }
            Component::Vae => &["first_stage_model.", "vae.", ""],
        }
    }

    /// Whether OpenCLIP's tensors that start with `prefix` are those of this component.
    fn reads(self, names: &BTreeSet<&str>, prefix: &str) -> bool {
        let pooled = has_prefix(names, "model.diffusion_model.label_emb.");
        prefix != FIRST_OPEN_CLIP || pooled == (self == Component::TextEncoder2)
    }

    /// The pairs for tensors of this component that start with `prefix`, or none if the file has
    /// no such tensors.
    fn rows(self, names: &BTreeSet<&str>, prefix: &str) -> Vec<(String, String)> {
        let has = |start: &str| has_prefix(names, &format!("{prefix}{start}"));
        match self {
            Component::UNet if has("input_blocks.0.0.") => {
                UNetBlocks::from_ldm(names, prefix).rows()
            }
            Component::UNet if has("down_blocks.0.") => owned(DIFFUSERS_UNET),
            Component::Vae if has("decoder.mid.") || has("encoder.mid.") => {
                VaeBlocks::from_ldm(names, prefix).rows()
            }
            Component::Vae if has("decoder.mid_block.") || has("encoder.mid_block.") => {
                owned(DIFFUSERS_VAE)
            }
            Component::Vae if has("decoder.layers.0.") || has("encoder.layers.0.") => {
                owned(DIFFUSERS_TINY)
            }
            Component::Vae if has("3.conv.0.") && has("4.conv.0.") => tiny_rows(names, prefix),
            Component::TextEncoder
                if has("text_model.embeddings.") || has("embeddings.token_embedding.") =>
            {
                owned(TEXT_ENCODER)
            }
            Component::TextEncoder2 if has("text_model.embeddings.") => owned(TEXT_ENCODER),
            Component::TextEncoder | Component::TextEncoder2
                if has("transformer.resblocks.0.") && self.reads(names, prefix) =>
            {
                open_clip_rows(names, prefix)
            }
            _ => Vec::new(),
        }
    }
}

/// Where sgm's layout keeps the text encoder of SD 2.x, and of the refiner the second one.
const FIRST_OPEN_CLIP: &str = "conditioner.embedders.0.model.";

/// LDM -> Diffusers for what stands outside of the UNet's numbered blocks.
const LDM_UNET_ENDS: &[(&str, &str)] = &[
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
    ("input_blocks.0.0", "conv_in"),
    ("middle_block.1", "mid_block.attentions.0"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
];

/// LDM -> Diffusers inside a resnet of the UNet. Attention has the same inner names in both.
const LDM_UNET_RESNET: &[(&str, &str)] = &[
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
];

/// LDM -> Diffusers inside a resnet of the VAE.
const LDM_VAE_RESNET: &[(&str, &str)] = &[
    ("norm1", "norm1"),
    ("conv1", "conv1"),
    ("norm2", "norm2"),
    ("conv2", "conv2"),
    ("nin_shortcut", "conv_shortcut"),
];

/// LDM -> Diffusers for each half of the VAE, beside its levels. LDM stores the attention's
/// matrices as 1×1 convolutions, Diffusers as matrices: same elements, same order.
const LDM_VAE_HALF: &[(&str, &str)] = &[
    ("conv_in", "conv_in"),
    ("mid.attn_1.norm", "mid_block.attentions.0.group_norm"),
    ("mid.attn_1.q", "mid_block.attentions.0.to_q"),
    ("mid.attn_1.k", "mid_block.attentions.0.to_k"),
    ("mid.attn_1.v", "mid_block.attentions.0.to_v"),
    ("mid.attn_1.proj_out", "mid_block.attentions.0.to_out.0"),
    ("norm_out", "conv_norm_out"),
    ("conv_out", "conv_out"),
];

/// What a UNet with Diffusers' names consists of.
const DIFFUSERS_UNET: &[(&str, &str)] = &[
    ("time_embedding", "time_embedding"),
    ("add_embedding", "add_embedding"),
    ("class_embedding", "class_embedding"),
    ("conv_in", "conv_in"),
    ("down_blocks", "down_blocks"),
    ("mid_block", "mid_block"),
    ("up_blocks", "up_blocks"),
    ("conv_norm_out", "conv_norm_out"),
    ("conv_out", "conv_out"),
];

/// What a VAE with Diffusers' names consists of; until version 0.12 its attention had other names.
const DIFFUSERS_VAE: &[(&str, &str)] = &[
    ("encoder", "encoder"),
    ("encoder.mid_block.attentions.0.query", "encoder.mid_block.attentions.0.to_q"),
    ("encoder.mid_block.attentions.0.key", "encoder.mid_block.attentions.0.to_k"),
    ("encoder.mid_block.attentions.0.value", "encoder.mid_block.attentions.0.to_v"),
    ("encoder.mid_block.attentions.0.proj_attn", "encoder.mid_block.attentions.0.to_out.0"),
    ("decoder", "decoder"),
    ("decoder.mid_block.attentions.0.query", "decoder.mid_block.attentions.0.to_q"),
    ("decoder.mid_block.attentions.0.key", "decoder.mid_block.attentions.0.to_k"),
    ("decoder.mid_block.attentions.0.value", "decoder.mid_block.attentions.0.to_v"),
    ("decoder.mid_block.attentions.0.proj_attn", "decoder.mid_block.attentions.0.to_out.0"),
    ("quant_conv", "quant_conv"),
    ("post_quant_conv", "post_quant_conv"),
];

/// What TAESD consists of in diffusers' names.
const DIFFUSERS_TINY: &[(&str, &str)] =
    &[("decoder.layers", "decoder.layers"), ("encoder.layers", "encoder.layers")];

/// CLIP's text encoder. The first SD 1.x files, and newer transformers, leave out `text_model.`.
const TEXT_ENCODER: &[(&str, &str)] = &[
    ("text_model.embeddings", "text_model.embeddings"),
    ("text_model.encoder", "text_model.encoder"),
    ("text_model.final_layer_norm", "text_model.final_layer_norm"),
    ("text_projection", "text_projection"),
    ("embeddings", "text_model.embeddings"),
    ("encoder", "text_model.encoder"),
    ("final_layer_norm", "text_model.final_layer_norm"),
];

/// OpenCLIP -> CLIP for what stands outside of the layers. Its text projection is used the other way
/// round than CLIP's; [`PROJECTION`] turns it.
const OPEN_CLIP_ENDS: &[(&str, &str)] = &[
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("token_embedding", "text_model.embeddings.token_embedding"),
    ("ln_final", "text_model.final_layer_norm"),
    ("text_projection", "text_projection"),
];

/// OpenCLIP -> CLIP inside a layer. Query, key and value are one matrix here; [`THIRDS`] divides it.
const OPEN_CLIP_LAYER: &[(&str, &str)] = &[
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("attn.in_proj_weight", "self_attn.in_proj.weight"),
    ("attn.in_proj_bias", "self_attn.in_proj.bias"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
];

/// What OpenCLIP stores with rows and columns exchanged, where it is a layer at all: of the one text
/// encoder of SD 2.x nothing pooled is used.
pub(super) const PROJECTION: &str = "text_encoder_2.text_projection";

/// What is stored in one, a third of the rows each.
const THIRDS: (&str, [&str; 3]) = (".in_proj.", [".q_proj.", ".k_proj.", ".v_proj."]);

/// Tensors that are known and without effect on a picture: left over from training, or tables that
/// are computed anyway. `v_pred`, `ztsnr` and `denoiser.sigmas` mark the prediction type and are
/// looked up by name.
const IGNORED_NAMES: &[&str] = &[
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "betas",
    "denoiser.sigmas",
    "log_one_minus_alphas_cumprod",
    "logit_scale",
    "logvar",
    "lvlb_weights",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "posterior_variance",
    "scale_factor",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "v_pred",
    "ztsnr",
];
const IGNORED_PREFIXES: &[&str] = &[
    "discriminator.",
    "first_stage_model.loss.",
    "first_stage_model.model_ema.",
    "loss.",
    "model_ema.",
    "optimizer_states.",
    "vae.loss.",
    "vae.model_ema.",
];
/// `position_ids` counts from 0 to 76; merges of models turned it into floats or worse.
const IGNORED_SUFFIXES: &[&str] = &["embeddings.position_ids", ".logit_scale"];

fn is_ignored(name: &str) -> bool {
    IGNORED_NAMES.contains(&name)
        || IGNORED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || IGNORED_SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

/// Where a tensor is in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// Its name there.
    pub(crate) name: String,
    /// What of the tensor there it is.
    pub(crate) part: Part,
}

/// What a tensor is of one in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it.
    Whole,
    /// Which third of the rows, where three tensors are stored as one.
    Third(usize),
    /// All of it, rows and columns exchanged.
    Transposed,
}

impl Source {
    /// The shape of what it is in a tensor of this shape.
    pub(crate) fn shape(&self, whole: &[usize]) -> Vec<usize> {
        let mut shape = whole.to_vec();
        match (self.part, shape.first_mut()) {
            (Part::Third(_), Some(rows)) => *rows /= 3,
            (Part::Transposed, _) => shape.reverse(),
            _ => {}
        }
        shape
    }
}

/// The names of a file, sorted out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// Canonical name -> where it is in the file.
    pub(crate) tensors: BTreeMap<String, Source>,
    /// Known to have no effect on a picture.
    pub(crate) ignored: Vec<String>,
    /// Covered by no table, or a second tensor for a canonical name.
    pub(crate) unknown: Vec<String>,
}

impl Names {
    /// Whether the file has tensors of this component.
    pub(crate) fn has(&self, component: Component) -> bool {
        let prefix = component.prefix();
        self.tensors
            .range(prefix.to_owned()..)
            .next()
            .is_some_and(|(name, _)| name.starts_with(prefix))
    }
}

/// The canonical names of a file with a whole model, or with one component of it.
pub(crate) fn single_file<'a>(names: impl IntoIterator<Item = &'a str>) -> Names {
    sort_out(names, Component::ALL.iter().map(|component| (*component, component.file_prefixes())))
}

/// The canonical names of a file that is meant to be one component: only that one is looked for.
///
/// A component's file may also be a whole checkpoint, or have any of the prefixes; whatever else
/// is in it ends up in [`Names::unknown`].
pub(crate) fn component_file<'a>(
    component: Component,
    names: impl IntoIterator<Item = &'a str>,
) -> Names {
    let prefixes = [component.file_prefixes(), &[""]].concat();
    sort_out(names, [(component, prefixes.as_slice())])
}

/// The canonical names of a VAE, in either layout, with or without a prefix.
pub(crate) fn vae_file<'a>(names: impl IntoIterator<Item = &'a str>) -> Names {
    component_file(Component::Vae, names)
}

/// Sorts names out: which components are looked for, and behind which prefixes.
fn sort_out<'a, 'p>(
    names: impl IntoIterator<Item = &'a str>,
    components: impl IntoIterator<Item = (Component, &'p [&'p str])>,
) -> Names {
    let names: BTreeSet<&str> = names.into_iter().collect();
    let mut renames = Renames::default();
    for (component, prefixes) in components {
        let found = prefixes
            .iter()
            .map(|prefix| (prefix, component.rows(&names, prefix)))
            .find(|(_, rows)| !rows.is_empty());
        for (from, to) in found.iter().flat_map(|(prefix, rows)| {
            rows.iter().map(move |(from, to)| {
                (format!("{prefix}{from}"), format!("{}{to}", component.prefix()))
            })
        }) {
            renames.insert(from, to);
        }
    }

    let mut sorted = Names::default();
    for name in names {
        if is_ignored(name) {
            sorted.ignored.push(name.to_owned());
            continue;
        }
        let Some(canonical) = renames.rename(name) else {
            sorted.unknown.push(name.to_owned());
            continue;
        };
        let (joint, parts) = THIRDS;
        let source = |part| Source { name: name.to_owned(), part };
        let found = if canonical.contains(joint) {
            let thirds = parts.iter().zip(0..);
            thirds.map(|(of, i)| (canonical.replace(joint, of), source(Part::Third(i)))).collect()
        } else if canonical == PROJECTION {
            vec![(format!("{canonical}.weight"), source(Part::Transposed))]
        } else {
            vec![(canonical, source(Part::Whole))]
        };
        if found.iter().any(|(canonical, _)| sorted.tensors.contains_key(canonical)) {
            sorted.unknown.push(name.to_owned());
        } else {
            sorted.tensors.extend(found);
        }
    }
    sorted
}

/// Pairs of prefixes, looked up by the longest one that ends where a part of the name does.
#[derive(Debug, Clone, Default)]
pub(crate) struct Renames(BTreeMap<String, String>);

impl Renames {
    fn insert(&mut self, from: String, to: String) {
        self.0.insert(from, to);
    }

    /// The other name, or `None` if no row covers this one.
    pub(crate) fn rename(&self, name: &str) -> Option<String> {
        let ends = std::iter::once(name.len()).chain(name.rmatch_indices('.').map(|(at, _)| at));
        ends.into_iter().find_map(|end| {
            let to = self.0.get(&name[..end])?;
            Some([to, &name[end..]].concat())
        })
    }
}

impl FromIterator<(String, String)> for Renames {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(rows: I) -> Self {
        Renames(rows.into_iter().collect())
    }
}

/// The blocks of a UNet, in the order of the data: level by level down, then up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct UNetBlocks {
    down: Vec<Level>,
    up: Vec<Level>,
}

/// Blocks at one resolution.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Level {
    /// One for each resnet: whether attention follows it.
    attention: Vec<bool>,
    /// Whether the level ends with a convolution that changes the resolution.
    resamples: bool,
}

impl UNetBlocks {
    /// Reads the blocks off the LDM names that start with `prefix`.
    pub(crate) fn from_ldm(names: &BTreeSet<&str>, prefix: &str) -> UNetBlocks {
        let has = |start: String| has_prefix(names, &start);
        let (mut down, mut up) = (vec![Level::default()], vec![Level::default()]);
        // Block 0 is the first convolution.
        for block in (1..).map(|i| format!("{prefix}input_blocks.{i}")) {
            if !has(format!("{block}.")) {
                break;
            }
            let level = down.last_mut().expect("starts with one level, only grows");
            if has(format!("{block}.0.op.")) {
                level.resamples = true;
                down.push(Level::default());
            } else {
                level.attention.push(has(format!("{block}.1.")));
            }
        }
        for block in (0..).map(|i| format!("{prefix}output_blocks.{i}")) {
            if !has(format!("{block}.")) {
                break;
            }
            let level = up.last_mut().expect("starts with one level, only grows");
            let plain = has(format!("{block}.1.conv."));
            level.attention.push(!plain && has(format!("{block}.1.")));
            if plain || has(format!("{block}.2.conv.")) {
                level.resamples = true;
                up.push(Level::default());
            }
        }
        UNetBlocks { down, up }
    }

    /// Reads the blocks off the Diffusers names of tensors or modules that start with `prefix`.
    pub(crate) fn from_diffusers(names: &BTreeSet<&str>, prefix: &str) -> UNetBlocks {
        let has = |start: String| has_prefix(names, &start);
        let levels = |side: &str, sampler: &str| -> Vec<Level> {
            (0..)
                .map(|b| format!("{prefix}{side}.{b}"))
                .take_while(|level| has(format!("{level}.")))
                .map(|level| Level {
                    attention: (0..)
                        .take_while(|l| has(format!("{level}.resnets.{l}.")))
                        .map(|l| has(format!("{level}.attentions.{l}.")))
                        .collect(),
                    resamples: has(format!("{level}.{sampler}.0.")),
                })
                .collect()
        };
        UNetBlocks {
            down: levels("down_blocks", "downsamplers"),
            up: levels("up_blocks", "upsamplers"),
        }
    }

    /// Every pair (LDM prefix, Diffusers prefix), without the component's prefix.
    pub(crate) fn rows(&self) -> Vec<(String, String)> {
        let mut rows = owned(LDM_UNET_ENDS);
        resnet_rows(&mut rows, LDM_UNET_RESNET, "middle_block.0", "mid_block.resnets.0");
        resnet_rows(&mut rows, LDM_UNET_RESNET, "middle_block.2", "mid_block.resnets.1");
        // The LDM numbers run on through all levels; the first convolution is number 0.
        let mut i = 1;
        for (b, level) in self.down.iter().enumerate() {
            for (l, attention) in level.attention.iter().enumerate() {
                let (ldm, diffusers) = (format!("input_blocks.{i}"), format!("down_blocks.{b}"));
                block_rows(&mut rows, &ldm, &diffusers, l, *attention);
                i += 1;
            }
            if level.resamples {
                rows.push((
                    format!("input_blocks.{i}.0.op"),
                    format!("down_blocks.{b}.downsamplers.0.conv"),
                ));
                i += 1;
            }
        }
        let mut i = 0;
        for (b, level) in self.up.iter().enumerate() {
            for (l, attention) in level.attention.iter().enumerate() {
                let (ldm, diffusers) = (format!("output_blocks.{i}"), format!("up_blocks.{b}"));
                block_rows(&mut rows, &ldm, &diffusers, l, *attention);
                i += 1;
                // The upsampler has no number of its own: it stands behind whatever comes last.
                if level.resamples && l + 1 == level.attention.len() {
                    let position = if *attention { 2 } else { 1 };
                    rows.push((
                        format!("{ldm}.{position}.conv"),
                        format!("{diffusers}.upsamplers.0.conv"),
                    ));
                }
            }
        }
        rows
    }
}

/// The rows of one numbered block: a resnet, and attention if it has any.
fn block_rows(
    rows: &mut Vec<(String, String)>,
    ldm: &str,
    diffusers: &str,
    l: usize,
    attention: bool,
) {
    let resnet = format!("{diffusers}.resnets.{l}");
    resnet_rows(rows, LDM_UNET_RESNET, &format!("{ldm}.0"), &resnet);
    if attention {
        rows.push((format!("{ldm}.1"), format!("{diffusers}.attentions.{l}")));
    }
}

fn resnet_rows(
    rows: &mut Vec<(String, String)>,
    layers: &[(&str, &str)],
    ldm: &str,
    diffusers: &str,
) {
    rows.extend(
        layers.iter().map(|(from, to)| (format!("{ldm}.{from}"), format!("{diffusers}.{to}"))),
    );
}

/// The levels of a VAE: how many resnets each has, by the LDM number of the level (0 is the one
/// at the picture's resolution).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct VaeBlocks {
    encoder: Vec<usize>,
    decoder: Vec<usize>,
}

impl VaeBlocks {
    /// Reads the levels off the LDM names that start with `prefix`.
    pub(crate) fn from_ldm(names: &BTreeSet<&str>, prefix: &str) -> VaeBlocks {
        let levels = |side: &str| -> Vec<usize> {
            (0..)
                .map(|i| format!("{prefix}{side}.{i}."))
                .take_while(|level| has_prefix(names, level))
                .map(|level| {
                    (0..).take_while(|j| has_prefix(names, &format!("{level}block.{j}."))).count()
                })
                .collect()
        };
        VaeBlocks { encoder: levels("encoder.down"), decoder: levels("decoder.up") }
    }

    /// Reads the levels off the Diffusers names that start with `prefix`.
    pub(crate) fn from_diffusers(names: &BTreeSet<&str>, prefix: &str) -> VaeBlocks {
        let levels = |side: &str| -> Vec<usize> {
            (0..)
                .map(|i| format!("{prefix}{side}.{i}."))
                .take_while(|level| has_prefix(names, level))
                .map(|level| {
                    (0..).take_while(|j| has_prefix(names, &format!("{level}resnets.{j}."))).count()
                })
                .collect()
        };
        let mut decoder = levels("decoder.up_blocks");
        decoder.reverse();
        VaeBlocks { encoder: levels("encoder.down_blocks"), decoder }
    }

    /// Every pair (LDM prefix, Diffusers prefix), without the component's prefix.
    pub(crate) fn rows(&self) -> Vec<(String, String)> {
        let mut rows =
            owned(&[("quant_conv", "quant_conv"), ("post_quant_conv", "post_quant_conv")]);
        for half in ["encoder", "decoder"] {
            for (from, to) in LDM_VAE_HALF {
                rows.push((format!("{half}.{from}"), format!("{half}.{to}")));
            }
            for (ldm, diffusers) in [("block_1", "resnets.0"), ("block_2", "resnets.1")] {
                let (ldm, diffusers) =
                    (format!("{half}.mid.{ldm}"), format!("{half}.mid_block.{diffusers}"));
                resnet_rows(&mut rows, LDM_VAE_RESNET, &ldm, &diffusers);
            }
        }
        for (i, resnets) in self.encoder.iter().enumerate() {
            let (ldm, diffusers) =
                (format!("encoder.down.{i}"), format!("encoder.down_blocks.{i}"));
            vae_level_rows(&mut rows, &ldm, &diffusers, *resnets);
            rows.push((
                format!("{ldm}.downsample.conv"),
                format!("{diffusers}.downsamplers.0.conv"),
            ));
        }
        for (i, resnets) in self.decoder.iter().enumerate() {
            // LDM counts the decoder's levels from the picture, Diffusers from the latents.
            let b = self.decoder.len() - 1 - i;
            let (ldm, diffusers) = (format!("decoder.up.{i}"), format!("decoder.up_blocks.{b}"));
            vae_level_rows(&mut rows, &ldm, &diffusers, *resnets);
            rows.push((format!("{ldm}.upsample.conv"), format!("{diffusers}.upsamplers.0.conv")));
        }
        rows
    }
}

fn vae_level_rows(rows: &mut Vec<(String, String)>, ldm: &str, diffusers: &str, resnets: usize) {
    for j in 0..resnets {
        let (ldm, diffusers) = (format!("{ldm}.block.{j}"), format!("{diffusers}.resnets.{j}"));
        resnet_rows(rows, LDM_VAE_RESNET, &ldm, &diffusers);
    }
}

/// The names that tensors with these canonical names have in a single file of the original layout. Where
/// OpenCLIP keeps query, key and value in one, the canonical name is that of the whole, with `in_proj`.
pub(crate) fn original(canonical: &BTreeSet<&str>, text_encoders: &[TextEncoder]) -> Renames {
    let mut parts = vec![
        (
            Component::UNet,
            "model.diffusion_model.",
            UNetBlocks::from_diffusers(canonical, "unet.").rows(),
        ),
        (Component::Vae, "first_stage_model.", VaeBlocks::from_diffusers(canonical, "vae.").rows()),
    ];
    for TextEncoder { component, prefix, is_open_clip, .. } in text_encoders {
        let rows = match is_open_clip {
            false => vec![(String::new(), String::new())],
            true => {
                let layer = |i| format!("{}text_model.encoder.layers.{i}.", component.prefix());
                let layers = (0..).take_while(|&i| has_prefix(canonical, &layer(i))).count();
                open_clip_layers(layers)
            }
        };
        parts.push((*component, prefix, rows));
    }
    let mut renames = Renames::default();
    for (component, prefix, rows) in parts {
        for (from, to) in rows {
            let canonical = format!("{}{to}", component.prefix());
            let original = format!("{prefix}{from}");
            renames.insert(
                canonical.trim_end_matches('.').to_owned(),
                original.trim_end_matches('.').to_owned(),
            );
        }
    }
    renames
}

/// Every pair (number, Diffusers prefix) of a half of TAESD as its author stores it: a file for each half,
/// of numbered layers. The decoder begins with a layer without weights, which diffusers does not count.
fn tiny_rows(names: &BTreeSet<&str>, prefix: &str) -> Vec<(String, String)> {
    const LAYERS: usize = 20;
    let decodes = !has_prefix(names, &format!("{prefix}0."));
    (0..LAYERS)
        .skip(usize::from(decodes))
        .map(|i| match decodes {
            true => (i.to_string(), format!("decoder.layers.{}", i - 1)),
            false => (i.to_string(), format!("encoder.layers.{i}")),
        })
        .collect()
}

/// Every pair (OpenCLIP prefix, CLIP prefix) of the text encoder that starts with `prefix`.
fn open_clip_rows(names: &BTreeSet<&str>, prefix: &str) -> Vec<(String, String)> {
    let layer = |i| format!("{prefix}transformer.resblocks.{i}.");
    open_clip_layers((0..).take_while(|&i| has_prefix(names, &layer(i))).count())
}

/// Every pair (OpenCLIP prefix, CLIP prefix) of a text encoder with so many layers.
fn open_clip_layers(layers: usize) -> Vec<(String, String)> {
    let mut rows = owned(OPEN_CLIP_ENDS);
    for layer in 0..layers {
        let (from, to) = (
            format!("transformer.resblocks.{layer}"),
            format!("text_model.encoder.layers.{layer}"),
        );
        let pairs = OPEN_CLIP_LAYER.iter();
        rows.extend(pairs.map(|(a, b)| (format!("{from}.{a}"), format!("{to}.{b}"))));
    }
    rows
}

fn owned(rows: &[(&str, &str)]) -> Vec<(String, String)> {
    rows.iter().map(|&(from, to)| (from.to_owned(), to.to_owned())).collect()
}

/// Whether any name starts with `prefix`.
fn has_prefix(names: &BTreeSet<&str>, prefix: &str) -> bool {
    names.range(prefix..).next().is_some_and(|name| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table of facts: original name, Diffusers name, shape.
    fn keymap(text: &'static str) -> Vec<(&'static str, &'static str)> {
        let rows: Vec<_> = text
            .lines()
            .skip(1)
            .map(|line| {
                let mut columns = line.split('\t');
                (columns.next().unwrap(), columns.next().unwrap())
            })
            .collect();
        assert!(rows.len() > 200);
        rows
    }

    const UNETS: &[(&str, &str)] = &[
        ("SD 1.x", include_str!("../../../../tests/fixtures/keymaps/unet_sd1.tsv")),
        ("SD 2.x", include_str!("../../../../tests/fixtures/keymaps/unet_sd2.tsv")),
        ("SDXL", include_str!("../../../../tests/fixtures/keymaps/unet_sdxl.tsv")),
        ("refiner", include_str!("../../../../tests/fixtures/keymaps/unet_sdxl_refiner.tsv")),
    ];
    const VAE: &str = include_str!("../../../../tests/fixtures/keymaps/vae_kl_f8.tsv");

    fn assert_maps(family: &str, component: Component, prefix: &str, map: &[(&str, &str)]) {
        let file: Vec<String> = map.iter().map(|(ldm, _)| format!("{prefix}{ldm}")).collect();
        let names = single_file(file.iter().map(String::as_str));
        assert_eq!(names.unknown, Vec::<String>::new(), "{family} with prefix `{prefix}`");
        for (ldm, diffusers) in map {
            let canonical = format!("{}{diffusers}", component.prefix());
            assert_eq!(
                names.tensors.get(&canonical).map(|source| &source.name),
                Some(&format!("{prefix}{ldm}")),
                "{family}: {canonical}"
            );
        }
        assert_eq!(names.tensors.len(), map.len(), "{family}");
    }

    #[test]
    fn every_unet_name_maps_from_the_original_layout() {
        for (family, text) in UNETS {
            for prefix in ["model.diffusion_model.", ""] {
                assert_maps(family, Component::UNet, prefix, &keymap(text));
            }
        }
    }

    #[test]
    fn every_unet_name_maps_to_the_original_layout() {
        for (family, text) in UNETS {
            let map = keymap(text);
            let canonical: Vec<String> = map.iter().map(|(_, to)| format!("unet.{to}")).collect();
            let names = canonical.iter().map(String::as_str).collect();
            let back: Renames = UNetBlocks::from_diffusers(&names, "unet.")
                .rows()
                .into_iter()
                .map(|(ldm, diffusers)| (diffusers, ldm))
                .collect();
            for (ldm, diffusers) in map {
                assert_eq!(back.rename(diffusers).as_deref(), Some(ldm), "{family}: {diffusers}");
            }
        }
    }

    #[test]
    fn every_vae_name_maps_both_ways() {
        let map = keymap(VAE);
        for prefix in ["first_stage_model.", "vae.", ""] {
            assert_maps("VAE", Component::Vae, prefix, &map);
        }
        let names = map.iter().map(|(ldm, _)| *ldm).collect();
        let blocks = VaeBlocks::from_ldm(&names, "");
        let names = map.iter().map(|(_, diffusers)| *diffusers).collect();
        assert_eq!(VaeBlocks::from_diffusers(&names, ""), blocks);
        let rows = blocks.rows();
        let back: Renames = rows.into_iter().map(|(ldm, diffusers)| (diffusers, ldm)).collect();
        for (ldm, diffusers) in map {
            assert_eq!(back.rename(diffusers).as_deref(), Some(ldm), "{diffusers}");
        }
    }

    #[test]
    fn every_name_of_openclip_maps() {
        let map = keymap(include_str!("../../../../tests/fixtures/keymaps/openclip_h_sd2.tsv"));
        let file: Vec<String> =
            map.iter().map(|(name, _)| format!("cond_stage_model.model.{name}")).collect();
        let names = single_file(file.iter().map(String::as_str));
        assert_eq!(names.unknown, Vec::<String>::new());
        assert_eq!(names.ignored, ["cond_stage_model.model.logit_scale"]);
        // 24 layers of twelve tensors, of which two are thirds of three; and five more.
        assert_eq!(names.tensors.len(), 24 * 16 + 5);
        for (name, clip) in map {
            if clip == "(drop)" || name == "text_projection" {
                continue;
            }
            let parts: &[&str] = if name.contains("in_proj") { &["q", "k", "v"] } else { &[""] };
            for (third, part) in parts.iter().enumerate() {
                let clip = clip.replace("{q,k,v}", part);
                let source = &names.tensors[&format!("text_encoder.{clip}")];
                assert_eq!(source.name, format!("cond_stage_model.model.{name}"));
                let part = if parts.len() > 1 { Part::Third(third) } else { Part::Whole };
                assert_eq!(source.part, part);
            }
        }
    }

    #[test]
    fn the_new_layout_keeps_its_names() {
        for (family, text) in UNETS {
            let map: Vec<_> = keymap(text).into_iter().map(|(_, to)| (to, to)).collect();
            assert_maps(family, Component::UNet, "", &map);
        }
        let map: Vec<_> = keymap(VAE).into_iter().map(|(_, to)| (to, to)).collect();
        assert_maps("VAE", Component::Vae, "", &map);
    }

    #[test]
    fn other_depths_need_no_code() {
        // One resnet a level, attention on the middle of three levels only.
        let blocks = UNetBlocks {
            down: vec![
                Level { attention: vec![false], resamples: true },
                Level { attention: vec![true], resamples: true },
                Level { attention: vec![false], resamples: false },
            ],
            up: vec![
                Level { attention: vec![false; 2], resamples: true },
                Level { attention: vec![true; 2], resamples: true },
                Level { attention: vec![false; 2], resamples: false },
            ],
        };
        let rows = blocks.rows();
        for expected in [
            ("input_blocks.2.0.op", "down_blocks.0.downsamplers.0.conv"),
            ("input_blocks.3.1", "down_blocks.1.attentions.0"),
            ("input_blocks.5.0.in_layers.2", "down_blocks.2.resnets.0.conv1"),
            ("output_blocks.1.1.conv", "up_blocks.0.upsamplers.0.conv"),
            ("output_blocks.3.2.conv", "up_blocks.1.upsamplers.0.conv"),
            ("output_blocks.5.0.skip_connection", "up_blocks.2.resnets.1.conv_shortcut"),
        ] {
            let expected = (expected.0.to_owned(), expected.1.to_owned());
            assert!(rows.contains(&expected), "{expected:?}");
        }
        // Both layouts' names, completed to tensors, tell the same structure.
        let tensor = |name: &String| format!("{name}.weight");
        let ldm: Vec<String> = rows.iter().map(|(ldm, _)| tensor(ldm)).collect();
        let diffusers: Vec<String> = rows.iter().map(|(_, diffusers)| tensor(diffusers)).collect();
        let set = |names: &'_ [String]| -> BTreeSet<&'static str> {
            names.iter().map(|name| &*name.clone().leak()).collect()
        };
        assert_eq!(UNetBlocks::from_ldm(&set(&ldm), ""), blocks);
        assert_eq!(UNetBlocks::from_diffusers(&set(&diffusers), ""), blocks);
    }

    #[test]
    fn a_whole_checkpoint_is_sorted_out() {
        let names = single_file([
            "model.diffusion_model.input_blocks.0.0.weight",
            "model.diffusion_model.input_blocks.1.1.norm.weight",
            "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
            "cond_stage_model.transformer.text_model.embeddings.position_ids",
            "first_stage_model.decoder.mid.attn_1.q.weight",
            "first_stage_model.loss.logvar",
            "model_ema.diffusion_modelinput_blocks00weight",
            "betas",
            "model.diffusion_model.something_new.weight",
        ]);
        assert_eq!(
            names.tensors.keys().collect::<Vec<_>>(),
            [
                "text_encoder.text_model.embeddings.token_embedding.weight",
                "unet.conv_in.weight",
                "unet.down_blocks.0.attentions.0.norm.weight",
                "vae.decoder.mid_block.attentions.0.to_q.weight",
            ]
        );
        assert_eq!(names.unknown, ["model.diffusion_model.something_new.weight"]);
        assert_eq!(names.ignored.len(), 4);
        for component in [Component::UNet, Component::TextEncoder, Component::Vae] {
            assert!(names.has(component), "{component:?}");
        }
        assert!(!names.has(Component::TextEncoder2));
    }

    #[test]
    fn old_names_are_understood() {
        let names = single_file(["cond_stage_model.transformer.embeddings.token_embedding.weight"]);
        assert!(
            names.tensors.contains_key("text_encoder.text_model.embeddings.token_embedding.weight")
        );
        let names = vae_file(["decoder.mid_block.attentions.0.proj_attn.bias"]);
        assert_eq!(
            names.tensors.keys().collect::<Vec<_>>(),
            ["vae.decoder.mid_block.attentions.0.to_out.0.bias"]
        );
    }

    #[test]
    fn a_second_tensor_for_one_name_is_unknown() {
        let names = single_file([
            "cond_stage_model.transformer.embeddings.token_embedding.weight",
            "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
        ]);
        assert_eq!(names.tensors.len(), 1);
        assert_eq!(names.unknown.len(), 1);
    }

    #[test]
    fn a_prefix_ends_at_a_dot() {
        let renames: Renames = [("out.2".to_owned(), "conv_out".to_owned())].into_iter().collect();
        assert_eq!(renames.rename("out.2.bias").as_deref(), Some("conv_out.bias"));
        assert_eq!(renames.rename("out.20.bias"), None);
    }
}
