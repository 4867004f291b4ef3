//! A stack of adapters that is written into its base model.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
};

use serde_json::{Value, json};

use crate::{
    AdapterUse, Error, Result,
    adapter::{Adapter, Base, Delta, Fit, block::Blocks},
    architecture::Modules,
    checkpoint::{Checkpoint, header::DType, keys::Part},
};

/// A stack that is to be written into its base model: tensor by tensor, the numbers of the file plus the sum
/// of all changes, in f32.
#[derive(Debug)]
pub(super) struct Blend {
    checkpoint: Checkpoint,
    modules: Modules,
    blocks: Blocks,
    /// By content hash and rank limit, as pictures are made with it.
    stack: BTreeMap<([u8; 32], Option<usize>), Layer>,
    /// What of the base model each tensor of its files is.
    tensors: HashMap<(usize, String), Vec<Place>>,
}

#[derive(Debug)]
struct Layer {
    adapter: Adapter,
    fit: Fit,
    uses: Vec<AdapterUse>,
}

/// A part of a tensor: weight or bias of a module.
#[derive(Debug)]
struct Place {
    module: String,
    is_bias: bool,
    part: Part,
}

impl Blend {
    /// None for an empty stack.
    pub(super) fn of(path: &Path, stack: &[AdapterUse]) -> Result<Option<Arc<Blend>>> {
        (!stack.is_empty()).then(|| Blend::open(path, stack).map(Arc::new)).transpose()
    }

    /// Opens a base model and a stack for it.
    ///
    /// # Errors
    /// Those of opening them, and of adapters that do not fit; [`Error::WrongKind`] for what a file cannot
    /// hold: weights over steps, a base model in 8 bits, a bias where there is none.
    fn open(path: &Path, stack: &[AdapterUse]) -> Result<Blend> {
        let checkpoint = Checkpoint::open(path)?;
        let wrong = |path: &Path, found: String, advice: &str| Error::WrongKind {
            path: path.to_owned(),
            wanted: "a blend that a model file can hold",
            found,
            advice: advice.to_owned(),
        };
        let eight_bits = |dtype: DType| matches!(dtype, DType::F8E4M3 | DType::F8E5M2);
        let infos = checkpoint.tensors.files.iter().flat_map(|file| file.tensors().values());
        if infos.map(|info| info.dtype).any(eight_bits) {
            let found = "a base model whose numbers have 8 bits".to_owned();
            return Err(wrong(path, found, "Use a version of it in f16, bf16 or f32"));
        }
        let modules = checkpoint.tensors.adaptable();
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        let mut layers: BTreeMap<_, Layer> = BTreeMap::new();
        for adapter_use in stack {
            if !adapter_use.over_steps.is_level() {
                let found = "an adapter whose weight changes over the steps".to_owned();
                return Err(wrong(&adapter_use.path, found, "Give it one weight for all steps"));
            }
            let adapter = Adapter::open(&adapter_use.path)?;
            let fit = adapter.outline().fit(&modules);
            let architecture = checkpoint.architecture.name;
            if let Some(refusal) = adapter.outline().refusal(&fit, &name, architecture) {
                return Err(refusal);
            }
            let layer = layers.entry((adapter.hash(), adapter_use.rank_limit));
            let layer = layer.or_insert(Layer { adapter, fit, uses: Vec::new() });
            layer.uses.push(adapter_use.clone());
        }
        let mut tensors: HashMap<(usize, String), Vec<Place>> = HashMap::new();
        for (canonical, (file, source)) in &checkpoint.tensors.sources {
            let place = |module: &str, is_bias| Place {
                module: module.to_owned(),
                is_bias,
                part: source.part,
            };
            let weight = canonical.strip_suffix(".weight").map(|module| place(module, false));
            let bias = || canonical.strip_suffix(".bias").map(|module| place(module, true));
            let place = weight.or_else(bias).filter(|place| modules.contains_key(&place.module));
            let places = tensors.entry((*file, source.name.clone()));
            places.or_default().extend(place);
        }
        let blocks = Blocks::of(&modules);
        Ok(Blend { checkpoint, modules, blocks, stack: layers, tensors })
    }

    /// What to write of it into the new file's metadata.
    pub(super) fn describe(&self) -> String {
        let hex =
            |hash: &[u8; 32]| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let uses = self.stack.iter().flat_map(|((hash, rank_limit), layer)| {
            layer.uses.iter().map(move |adapter| {
                json!({
                    "name": layer.adapter.outline().name(),
                    "sha256": hex(hash),
                    "unet_weight": adapter.unet_weight,
                    "text_encoder_weight": adapter.text_encoder_weight,
                    "text_encoder_2_weight": adapter.text_encoder_2_weight,
                    "blocks": adapter.blocks.factors().as_slice(),
                    "rank_limit": rank_limit,
                })
            })
        });
        Value::Array(uses.collect()).to_string()
    }

    /// What a tensor of a file is changed by, in its own order; `None`: it stays.
    pub(super) fn change(&self, file: usize, tensor: &str) -> Result<Option<Vec<f32>>> {
        let Some(places) = self.tensors.get(&(file, tensor.to_owned())) else { return Ok(None) };
        let elements = self.checkpoint.tensors.files[file].tensors()[tensor].elements();
        let mut sum: Option<Vec<f32>> = None;
        for place in places {
            let Some(change) = self.change_of(place)? else { continue };
            let sum = sum.get_or_insert_with(|| vec![0.0; elements]);
            let begin = match place.part {
                Part::Third(third) => third * change.len(),
                Part::Whole | Part::Transposed => 0,
            };
            match (place.part, self.modules[&place.module].as_slice()) {
                (Part::Transposed, &[outputs, inputs]) => {
                    for (at, value) in change.iter().enumerate() {
                        sum[at % inputs * outputs + at / inputs] += value;
                    }
                }
                _ => {
                    for (sum, value) in sum[begin..].iter_mut().zip(&change) {
                        *sum += value;
                    }
                }
            }
        }
        Ok(sum)
    }

    fn change_of(&self, place: &Place) -> Result<Option<Vec<f32>>> {
        let Place { module, is_bias, .. } = place;
        let shape = &self.modules[module];
        let block = self.blocks.get(module);
        let tensors = &self.checkpoint.tensors;
        let read = || tensors.values(module);
        let bias = tensors.bias(module, shape[0])?;
        let base = Base::new(shape, bias.as_deref(), &read);
        let mut delta = Delta::default();
        for ((_, limit), Layer { adapter, fit, uses }) in &self.stack {
            let weight = AdapterUse::sum(uses, block, 0.0);
            if weight != 0.0 && fit.changes(module) {
                adapter.outline().add_limited(fit, module, &base, (weight, *limit), &mut delta)?;
            }
        }
        if delta.bias.is_some() && bias.is_none() {
            return Err(Error::WrongKind {
                path: tensors.path().to_owned(),
                wanted: "a blend that a model file can hold",
                found: format!("a change of the bias of `{module}`, which has none"),
                advice: "Use the adapter beside the base model".into(),
            });
        }
        Ok(match (is_bias, delta.bias.take()) {
            (true, bias) => bias,
            (false, _) if delta == Delta::default() => None,
            (false, _) => Some(delta.weight(shape)),
        })
    }
}
