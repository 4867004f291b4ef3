//! PEFT's settings of an adapter: what alpha is where no tensor says it.
//!
//! They stand in `adapter_config.json` beside the weights, or, in files that diffusers writes, as one
//! JSON text in the header's metadata (`lora_adapter_metadata`), each key with its component in
//! front.

use std::path::Path;

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use crate::{Error, Result};

/// The class of the network that was adapted, or its folder's name -> the component that is meant.
const COMPONENTS: &[(&str, &str)] = &[
    ("UNet2DConditionModel", "unet."),
    ("unet", "unet."),
    ("CLIPTextModel", "text_encoder."),
    ("text_encoder", "text_encoder."),
    ("CLIPTextModelWithProjection", "text_encoder_2."),
    ("text_encoder_2", "text_encoder_2."),
];

/// How large the programs for a pattern may get; patterns are module paths, so this is plenty.
const PATTERN_LIMIT: usize = 1 << 16;

/// Of Cayley's series; each term is a product of matrices, and later ones are nothing where it converges.
const MOST_TERMS: u64 = 64;

/// How PEFT makes rotations of what is stored for OFT.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rotation {
    /// How many terms of Cayley's series; `None` for the transform itself, of which PEFT takes the transpose.
    pub(super) terms: Option<u64>,
    /// COFT's `eps`: no block's norm may be more than that divided by √blocks.
    pub(super) bound: Option<f64>,
}

/// What is not in the tensors.
#[derive(Debug)]
pub(crate) struct Settings {
    /// What canonical names must start with; PEFT's own names do not tell the component.
    pub(super) component: Option<&'static str>,
    alpha: Option<f64>,
    /// The first that matches a module's name decides.
    alpha_pattern: Vec<(Regex, f64)>,
    /// Rank-stabilized: alpha / √rank. Kalajdzievski, 2023, <https://arxiv.org/abs/2312.03732>.
    rank_stabilized: bool,
    /// Only of a configuration for OFT.
    pub(super) rotation: Option<Rotation>,
}

impl Settings {
    /// Nothing is said.
    pub(super) const NONE: Settings = Settings {
        component: None,
        alpha: None,
        alpha_pattern: Vec::new(),
        rank_stabilized: false,
        rotation: None,
    };

    /// Reads `adapter_config.json`, already parsed.
    ///
    /// # Errors
    /// [`Error::Damaged`] names a value of the wrong type, [`Error::WrongKind`] a setting that
    /// cannot be followed.
    pub(super) fn from_config(path: &Path, config: &Map<String, Value>) -> Result<Settings> {
        let class = config.get("auto_mapping").and_then(|mapping| mapping.get("base_model_class"));
        let folder = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        let component = [class.and_then(Value::as_str), folder]
            .into_iter()
            .flatten()
            .find_map(|name| COMPONENTS.iter().find(|row| row.0 == name))
            .map(|row| row.1);
        if config.get("fan_in_fan_out") == Some(&Value::Bool(true)) {
            return Err(Error::WrongKind {
                path: path.to_owned(),
                wanted: "an adapter's configuration",
                found: "one for transposed layers (`fan_in_fan_out`)".into(),
                advice: "Stable Diffusion has no such layers, so this adapter is for another model"
                    .into(),
            });
        }
        let settings = Settings::read(&|key| config.get(key));
        let settings =
            settings.map_err(|problem| Error::Damaged { path: path.to_owned(), problem })?;
        Ok(Settings { component, ..settings })
    }

    /// The settings of one component in the metadata that diffusers writes, or none.
    pub(super) fn from_metadata(text: Option<&String>, component: &'static str) -> Settings {
        // Metadata never keeps a file from being used.
        let values: Option<Map<String, Value>> =
            text.and_then(|text| serde_json::from_str(text).ok());
        let settings = values.and_then(|values| {
            Settings::read(&|key| values.get(&format!("{component}{key}"))).ok()
        });
        Settings { component: Some(component), ..settings.unwrap_or(Settings::NONE) }
    }

    fn read<'a>(value: &dyn Fn(&str) -> Option<&'a Value>) -> Result<Settings, String> {
        let given = |key: &str| value(key).filter(|value| !value.is_null());
        let number = |key: &str| -> Result<Option<f64>, String> {
            given(key)
                .map(|value| {
                    value.as_f64().ok_or_else(|| format!("its `{key}` is {value}, not a number"))
                })
                .transpose()
        };
        // LoRA calls it `lora_alpha`, PEFT's LoHa and LoKr `alpha`.
        let alpha = match number("lora_alpha")? {
            Some(alpha) => Some(alpha),
            None => number("alpha")?,
        };
        let mut alpha_pattern = Vec::new();
        for (pattern, alpha) in
            given("alpha_pattern").and_then(Value::as_object).into_iter().flatten()
        {
            let alpha = alpha.as_f64().ok_or_else(|| {
                format!("its `alpha_pattern` gives {alpha} to `{pattern}`, not a number")
            })?;
            // A pattern may match the whole path of a module, or the end of it behind a dot.
            let pattern = RegexBuilder::new(&format!(r"^(?:.*\.)?(?:{pattern})$"))
                .size_limit(PATTERN_LIMIT)
                .build()
                .map_err(|_| format!("its `alpha_pattern` has a bad pattern, `{pattern}`"))?;
            alpha_pattern.push((pattern, alpha));
        }
        let flag = |key, default| given(key).and_then(Value::as_bool).unwrap_or(default);
        let rotation = match given("peft_type").and_then(Value::as_str) {
            Some("OFT") => {
                let terms = given("num_cayley_neumann_terms").map_or(Some(5), Value::as_u64);
                let terms = terms.filter(|terms| *terms <= MOST_TERMS).ok_or_else(|| {
                    format!("its `num_cayley_neumann_terms` is not a number up to {MOST_TERMS}")
                })?;
                let eps = number("eps")?.unwrap_or(6e-5);
                Some(Rotation {
                    terms: flag("use_cayley_neumann", true).then_some(terms),
                    bound: flag("coft", false).then_some(eps),
                })
            }
            _ => None,
        };
        let rank_stabilized = flag("use_rslora", false);
        Ok(Settings { component: None, alpha, alpha_pattern, rank_stabilized, rotation })
    }

    /// The alpha of a module.
    pub(super) fn alpha(&self, module: &str) -> Option<f64> {
        let pattern = self.alpha_pattern.iter().find(|(pattern, _)| pattern.is_match(module));
        pattern.map(|(_, alpha)| *alpha).or(self.alpha)
    }

    /// What a module's change is multiplied by; `None` if the settings do not say.
    pub(super) fn scale(&self, module: &str, rank: usize) -> Option<f64> {
        let rank = rank as f64;
        let divisor = if self.rank_stabilized { rank.sqrt() } else { rank };
        self.alpha(module).map(|alpha| alpha / divisor)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(config: Value) -> Result<Settings> {
        let Value::Object(config) = config else { panic!("an object") };
        Settings::from_config(Path::new("adapter/adapter_config.json"), &config)
    }

    #[test]
    fn alpha_is_divided_by_the_rank() {
        let plain = settings(json!({ "lora_alpha": 8, "r": 4 })).unwrap();
        assert_eq!(plain.scale("base_model.model.a.to_q", 4), Some(2.0));
        let stabilized = settings(json!({ "lora_alpha": 8, "use_rslora": true })).unwrap();
        assert_eq!(stabilized.scale("a.to_q", 4), Some(4.0));
        assert_eq!(Settings::NONE.scale("a.to_q", 4), None);
    }

    #[test]
    fn the_first_pattern_that_ends_the_name_decides() {
        let config = json!({
            "lora_alpha": 8,
            "alpha_pattern": { "to_k": 2, "attn[12].to_q": 3, ".*to_q": 4, "o_v": 5 },
        });
        let settings = settings(config).unwrap();
        let alpha = |name| settings.alpha(name);
        assert_eq!(alpha("base_model.model.x.attn1.to_k"), Some(2.0));
        assert_eq!(alpha("base_model.model.x.attn2.to_q"), Some(3.0));
        assert_eq!(alpha("x.attn3.to_q"), Some(4.0));
        assert_eq!(alpha("x.attn1.to_v"), Some(8.0), "a pattern starts behind a dot");
    }

    #[test]
    fn the_component_comes_from_the_class_or_the_folder() {
        let class = json!({ "auto_mapping": { "base_model_class": "CLIPTextModel" } });
        assert_eq!(settings(class).unwrap().component, Some("text_encoder."));
        let config = Settings::from_config(Path::new("x/unet/adapter_config.json"), &Map::new());
        assert_eq!(config.unwrap().component, Some("unet."));
    }

    #[test]
    fn bad_values_are_named() {
        let error = settings(json!({ "lora_alpha": "8" })).unwrap_err().to_string();
        assert!(error.contains("lora_alpha"), "{error}");
        let error = settings(json!({ "alpha_pattern": { "(": 1 } })).unwrap_err().to_string();
        assert!(error.contains("bad pattern"), "{error}");
        let error = settings(json!({ "fan_in_fan_out": true })).unwrap_err().to_string();
        assert!(error.contains("fan_in_fan_out"), "{error}");
    }

    #[test]
    fn rotations_are_those_of_oft() {
        let rotation = |config| settings(config).unwrap().rotation;
        assert_eq!(rotation(json!({ "peft_type": "LORA", "coft": true })), None);
        let default = Rotation { terms: Some(5), bound: None };
        assert_eq!(rotation(json!({ "peft_type": "OFT", "eps": 1.0 })), Some(default));
        let exact = json!({ "peft_type": "OFT", "use_cayley_neumann": false, "coft": true });
        assert_eq!(rotation(exact), Some(Rotation { terms: None, bound: Some(6e-5) }));
        let endless = json!({ "peft_type": "OFT", "num_cayley_neumann_terms": 1e12 as u64 });
        assert!(settings(endless).unwrap_err().to_string().contains("up to 64"));
    }

    #[test]
    fn metadata_has_the_component_in_front() {
        let text = json!({ "unet.lora_alpha": 6, "text_encoder.lora_alpha": 2 }).to_string();
        let unet = Settings::from_metadata(Some(&text), "unet.");
        assert_eq!(unet.scale("unet.x", 3), Some(2.0));
        assert_eq!(Settings::from_metadata(Some(&"{".to_owned()), "unet.").scale("x", 3), None);
    }
}
