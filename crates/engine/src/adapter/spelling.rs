//! Every name that a trainer may give a module of the loaded base model.
//!
//! Trainers flatten dots to underscores, which no parsing can undo (`to_out_0`, `ff_net_0_proj`).
//! So nothing is parsed: each known spelling of each module is generated and put into one map, and
//! an adapter's name is looked up there.
//!
//! # Adding a spelling
//!
//! Add a row to [`SPELLINGS`]: a prefix, which of a module's paths follows, and how it is joined. A
//! path that no row has yet is one more variant of [`Path`].

use std::collections::{BTreeSet, HashMap};

use crate::{
    architecture::Modules,
    checkpoint::keys::{Renames, UNetBlocks},
};

/// Which of a module's names follows the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    /// Diffusers' module path: the canonical name without its component.
    Diffusers,
    /// The original block names of the UNet.
    Ldm,
    /// Diffusers' first attention processors.
    Processor,
    /// The text encoder without its level `text_model`, which newer transformers leave out.
    Short,
}

/// What separates the parts of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Joint {
    Dot,
    Underscore,
}

/// Component, prefix, path, joint. If a file names one module twice, the row further up is used.
const SPELLINGS: &[(&str, &str, Path, Joint)] = &[
    // diffusers and OneTrainer
    ("unet.", "unet.", Path::Diffusers, Joint::Dot),
    ("text_encoder.", "text_encoder.", Path::Diffusers, Joint::Dot),
    ("text_encoder.", "text_encoder.", Path::Short, Joint::Dot),
    ("text_encoder_2.", "text_encoder_2.", Path::Diffusers, Joint::Dot),
    ("text_encoder_2.", "text_encoder_2.", Path::Short, Joint::Dot),
    // PEFT
    ("unet.", "base_model.model.", Path::Diffusers, Joint::Dot),
    ("unet.", "base_model.model.unet.", Path::Diffusers, Joint::Dot),
    ("text_encoder.", "base_model.model.", Path::Diffusers, Joint::Dot),
    ("text_encoder.", "base_model.model.", Path::Short, Joint::Dot),
    ("text_encoder.", "base_model.model.text_encoder.", Path::Diffusers, Joint::Dot),
    ("text_encoder_2.", "base_model.model.", Path::Diffusers, Joint::Dot),
    ("text_encoder_2.", "base_model.model.", Path::Short, Joint::Dot),
    ("text_encoder_2.", "base_model.model.text_encoder_2.", Path::Diffusers, Joint::Dot),
    ("unet.", "", Path::Diffusers, Joint::Dot),
    ("text_encoder.", "", Path::Diffusers, Joint::Dot),
    // kohya; `te1` is its name for the first of two text encoders, some tools use it for the only one
    ("unet.", "lora_unet_", Path::Diffusers, Joint::Underscore),
    ("text_encoder.", "lora_te_", Path::Diffusers, Joint::Underscore),
    ("text_encoder.", "lora_te1_", Path::Diffusers, Joint::Underscore),
    ("text_encoder_2.", "lora_te2_", Path::Diffusers, Joint::Underscore),
    ("unet.", "oft_unet_", Path::Diffusers, Joint::Underscore),
    // LyCORIS on its own, SimpleTuner
    ("unet.", "lycoris_", Path::Diffusers, Joint::Underscore),
    ("unet.", "lycoris_unet_", Path::Diffusers, Joint::Underscore),
    ("text_encoder.", "lycoris_", Path::Diffusers, Joint::Underscore),
    // diffusers' first attention processors
    ("unet.", "unet.", Path::Processor, Joint::Dot),
    ("unet.", "", Path::Processor, Joint::Dot),
    ("text_encoder.", "text_encoder.", Path::Processor, Joint::Dot),
    ("text_encoder_2.", "text_encoder_2.", Path::Processor, Joint::Dot),
    // ComfyUI
    ("unet.", "diffusion_model.", Path::Ldm, Joint::Dot),
    ("unet.", "model.diffusion_model.", Path::Ldm, Joint::Dot),
    ("text_encoder.", "text_encoders.clip_l.transformer.", Path::Diffusers, Joint::Dot),
    ("text_encoder_2.", "text_encoders.clip_g.transformer.", Path::Diffusers, Joint::Dot),
    // kohya with the original block names; in files that have both numberings, diffusers drops these
    ("unet.", "lora_unet_", Path::Ldm, Joint::Underscore),
    ("unet.", "oft_unet_", Path::Ldm, Joint::Underscore),
];

/// The end of a module's path -> what the first attention processors had there.
const PROCESSORS: &[(&str, &str)] = &[
    (".to_q", ".processor.to_q_lora"),
    (".to_k", ".processor.to_k_lora"),
    (".to_v", ".processor.to_v_lora"),
    (".to_out.0", ".processor.to_out_lora"),
    (".q_proj", ".to_q_lora"),
    (".k_proj", ".to_k_lora"),
    (".v_proj", ".to_v_lora"),
    (".out_proj", ".to_out_lora"),
];

/// Every spelling of every module of one base model.
#[derive(Debug)]
pub(super) struct Spellings(HashMap<String, Vec<Spelled>>);

/// What a spelling stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spelled {
    /// The canonical name.
    pub(super) module: String,
    /// Row of the table; of two spellings of a module, the smaller is used.
    pub(super) rank: usize,
}

impl Spellings {
    /// Generates all spellings.
    pub(super) fn of(modules: &Modules) -> Spellings {
        let names: BTreeSet<&str> = modules.keys().map(String::as_str).collect();
        let to_ldm: Renames = UNetBlocks::from_diffusers(&names, "unet.")
            .rows()
            .into_iter()
            .map(|(ldm, diffusers)| (diffusers, ldm))
            .collect();
        let mut spellings: HashMap<String, Vec<Spelled>> = HashMap::new();
        for (rank, (component, prefix, path, joint)) in SPELLINGS.iter().enumerate() {
            for module in modules.keys() {
                let Some(diffusers) = module.strip_prefix(component) else { continue };
                let path = match path {
                    Path::Diffusers => Some(diffusers.to_owned()),
                    Path::Ldm => to_ldm.rename(diffusers),
                    Path::Processor => processor(diffusers),
                    Path::Short => diffusers.strip_prefix("text_model.").map(str::to_owned),
                };
                let Some(path) = path else { continue };
                let path = match joint {
                    Joint::Dot => path,
                    Joint::Underscore => path.replace('.', "_"),
                };
                let spelled = spellings.entry(format!("{prefix}{path}")).or_default();
                if spelled.iter().all(|known| known.module != *module) {
                    spelled.push(Spelled { module: module.clone(), rank });
                }
            }
        }
        Spellings(spellings)
    }

    /// Adds names that stand for a module in one file only.
    pub(super) fn add(&mut self, names: Vec<(String, String)>) {
        for (name, module) in names {
            self.0.insert(name, vec![Spelled { module, rank: SPELLINGS.len() }]);
        }
    }

    /// What a name in a file stands for. Where modules of two networks share it, as the text encoders do
    /// in PEFT's naming, `component` decides, else the row further up.
    pub(super) fn get(&self, spelling: &str, component: Option<&str>) -> Option<&Spelled> {
        let fits = |spelled: &&Spelled| {
            component.is_none_or(|component| spelled.module.starts_with(component))
        };
        self.0.get(spelling)?.iter().find(fits)
    }
}

fn processor(path: &str) -> Option<String> {
    PROCESSORS
        .iter()
        .find_map(|(end, processor)| Some(format!("{}{processor}", path.strip_suffix(end)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spellings(modules: &[&str]) -> Spellings {
        Spellings::of(&modules.iter().map(|name| ((*name).to_owned(), vec![4, 4])).collect())
    }

    #[test]
    fn every_trainers_name_leads_to_the_module() {
        let module = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0";
        // One resnet a level makes level 1 start with block 3.
        let spellings = spellings(&[
            "unet.down_blocks.0.resnets.0.conv1",
            "unet.down_blocks.0.downsamplers.0.conv",
            "unet.down_blocks.1.resnets.0.conv1",
            module,
        ]);
        for name in [
            "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0",
            "base_model.model.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0",
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0",
            "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0",
            "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_out_0",
            "lycoris_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0",
            "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora",
            "diffusion_model.input_blocks.3.1.transformer_blocks.0.attn1.to_out.0",
        ] {
            assert_eq!(
                spellings.get(name, None).map(|found| &*found.module),
                Some(module),
                "{name}"
            );
        }
        let doubled =
            "lora_unet_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0";
        assert_eq!(spellings.get(doubled, None), None);
    }

    #[test]
    fn the_text_encoder_has_its_own() {
        let module = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj";
        let spellings = spellings(&[module]);
        for name in [
            "lora_te_text_model_encoder_layers_0_self_attn_q_proj",
            "lora_te1_text_model_encoder_layers_0_self_attn_q_proj",
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
            "text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora",
            "base_model.model.encoder.layers.0.self_attn.q_proj",
        ] {
            assert_eq!(
                spellings.get(name, None).map(|found| &*found.module),
                Some(module),
                "{name}"
            );
        }
        let second = "lora_te2_text_model_encoder_layers_0_self_attn_q_proj";
        assert_eq!(spellings.get(second, None), None);
    }

    /// SDXL's two are called alike in PEFT's naming; the folder's configuration says which is meant.
    #[test]
    fn the_component_decides_between_text_encoders() {
        let path = "text_model.encoder.layers.0.self_attn.q_proj";
        let (first, second) = (format!("text_encoder.{path}"), format!("text_encoder_2.{path}"));
        let spellings = spellings(&[&first, &second]);
        let get = |name: &str, component| {
            spellings.get(name, component).map(|found| found.module.clone())
        };
        let peft = format!("base_model.model.{path}");
        assert_eq!(get(&peft, None), Some(first.clone()));
        assert_eq!(get(&peft, Some("text_encoder.")), Some(first.clone()));
        assert_eq!(get(&peft, Some("text_encoder_2.")), Some(second.clone()));
        assert_eq!(get(&peft, Some("unet.")), None);
        let kohya = path.replace('.', "_");
        assert_eq!(get(&format!("lora_te1_{kohya}"), None), Some(first));
        assert_eq!(get(&format!("lora_te2_{kohya}"), None), Some(second));
    }
}
