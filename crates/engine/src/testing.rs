//! Base models for tests, written when a test starts.
//!
//! Their configurations lie in `tests/golden/networks`; their weights are a formula of tensor name
//! and index ([`fill`]), so that a model of the full structure of SD 1.5 costs the repository nothing.
//! `make.py` in that folder has the same formula, and what the references make of the models.
//!
//! - `tiny`: everything that a configuration can say differs from SD 1.x, and all is small.
//! - `taesd`: TAESD alone.
//! - `inpaint`: `sd15` with a UNet of nine channels.
//! - `sd15`, `sd21`, `sdxl`, `refiner`: the structures of SD 1.5, SD 2.1, SDXL and its refiner, narrow;
//!   also available as single files of the original naming.
//!
//! Nothing here is part of the program. A file that cannot be read or written is a panic with its
//! name: tests have no use for an error.

pub mod targets;
pub mod torch;

use std::{
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor, safetensors};

use crate::{
    AdapterUse, Engine, Output, Precision, Request, Result, Rng, Sizes,
    sample::{
        SAMPLERS, Sampler,
        schedule::{SCHEDULES, Schedule},
    },
};

/// A file or folder of the repository, from its root.
#[must_use]
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// A sampler by its id.
#[must_use]
pub fn sampler(id: &str) -> &'static Sampler {
    SAMPLERS.iter().find(|sampler| sampler.id == id).unwrap_or_else(|| panic!("no sampler `{id}`"))
}

/// A schedule by its id.
#[must_use]
pub fn schedule(id: &str) -> &'static Schedule {
    let found = SCHEDULES.iter().find(|schedule| schedule.id == id);
    found.unwrap_or_else(|| panic!("no schedule `{id}`"))
}

/// What the tests change one thing of: "a fox", 48 × 64, `dpmpp_2m`, `karras`, 20 steps, guidance 3,
/// seed 3, f32.
#[must_use]
pub fn request(checkpoint: &Path) -> Request {
    Request {
        checkpoint: checkpoint.to_owned(),
        lender: None,
        vae: None,
        preview_decoders: Vec::new(),
        prediction: None,
        adapters: Vec::new(),
        prompt: "a fox".to_owned(),
        negative_prompt: String::new(),
        embeddings: Vec::new(),
        clip_skip: 1,
        sizes: Sizes::default(),
        width: 48,
        height: 64,
        sampler: sampler("dpmpp_2m"),
        schedule: schedule("karras"),
        steps: 20,
        guidance_scale: 3.0,
        seed: 3,
        rng: Rng::TorchCpu,
        noise: None,
        precision: Precision::F32,
        init: None,
        refiner: None,
    }
}

/// An adapter with one weight for all that it acts on.
#[must_use]
pub fn adapter(path: &Path, weight: f64) -> AdapterUse {
    AdapterUse::new(path.to_owned(), weight)
}

/// A generation that nobody watches.
///
/// # Errors
/// Those of [`Engine::generate`].
pub fn generate(engine: &mut Engine, request: &Request) -> Result<Output> {
    engine.generate(request, &mut |_| ControlFlow::Continue(()))
}

/// Choices that look random and are the same each time (Knuth's generator of MMIX).
#[derive(Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// One of `0..sides`.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }

    /// Changes a stack in one of the ways that a person can: adds one of the adapters `a`, `b` and
    /// `c`, drags one elsewhere, moves its slider (also to 0), or takes it off.
    pub fn change(&mut self, stack: &mut Vec<(&'static str, f64)>) {
        let weight = self.roll(41) as f64 / 20.0 - 1.0;
        let at = self.roll(stack.len().max(1));
        match self.roll(4) {
            _ if stack.is_empty() => stack.push((["a", "b", "c"][self.roll(3)], weight)),
            0 if stack.len() < 4 => stack.insert(at, (["a", "b", "c"][self.roll(3)], weight)),
            1 => {
                let moved = stack.remove(at);
                stack.insert(self.roll(stack.len() + 1), moved);
            }
            2 => stack[at].1 = weight,
            _ => drop(stack.remove(at)),
        }
    }
}

/// The tensors of a file below `tests/golden`.
#[must_use]
pub fn golden(path: &str) -> HashMap<String, Tensor> {
    let path = repository("tests/golden").join(path);
    safetensors::load(&path, &Device::Cpu).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

/// The numbers of a tensor, widened to f64.
#[must_use]
pub fn values(tensor: &Tensor) -> Vec<f64> {
    let flat = tensor.to_dtype(DType::F64).and_then(|tensor| tensor.flatten_all());
    flat.and_then(|tensor| tensor.to_vec1()).expect("a tensor on the CPU can be read")
}

/// How far two tensors of one shape are apart: the norm of the difference by that of the reference.
#[must_use]
pub fn apart(ours: &Tensor, reference: &Tensor) -> f64 {
    assert_eq!(ours.dims(), reference.dims(), "shapes");
    let (ours, reference) = (values(ours), values(reference));
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
    let difference = square(&mut ours.iter().zip(&reference).map(|(a, b)| a - b));
    (difference / square(&mut reference.iter().copied())).sqrt()
}

/// `count` numbers in `-1..1`, exact in f32: FNV-1a of the name, then SplitMix64 (Steele et al., 2014).
fn uniform(name: &str, count: usize) -> impl Iterator<Item = f32> {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (1..=count as u64).map(move |i| {
        let mut z = seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 40) as f32 * 2f32.powi(-23) - 1.0
    })
}

/// A tensor whose size is right for what its name says it is, so that activations stay near 1.
#[must_use]
pub fn fill(name: &str, shape: &[usize]) -> Tensor {
    let (center, spread) = if name.ends_with(".bias") {
        (0.0, 0.1)
    } else if shape.len() == 1 {
        (1.0, 0.3)
    } else if name.ends_with("embedding.weight") {
        (0.0, 0.5)
    } else {
        let inputs: usize = shape[1..].iter().product();
        (0.0, (3.0 / inputs as f64).sqrt() as f32)
    };
    tensor(uniform(name, shape.iter().product()).map(|x| center + spread * x), shape)
}

/// An input of unit variance.
#[must_use]
pub fn given(name: &str, shape: &[usize]) -> Tensor {
    let spread = 3f64.sqrt() as f32;
    tensor(uniform(name, shape.iter().product()).map(|x| spread * x), shape)
}

fn tensor(values: impl Iterator<Item = f32>, shape: &[usize]) -> Tensor {
    let values: Vec<f32> = values.collect();
    Tensor::from_vec(values, shape, &Device::Cpu).expect("a value for every place")
}

/// Every tensor of a model, by canonical name.
#[must_use]
pub fn tensors(model: &str) -> BTreeMap<String, Tensor> {
    let listing = read(&repository("tests/golden/networks").join(model).join("tensors.json"));
    let listing: BTreeMap<String, Vec<usize>> =
        serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&listing)
            .expect("`tensors.json` is JSON")
            .into_iter()
            .map(|(name, shape)| {
                let shape = shape.as_array().expect("a shape is a list");
                let sizes = shape.iter().map(|size| size.as_u64().expect("of sizes") as usize);
                (name, sizes.collect())
            })
            .collect();
    listing.into_iter().map(|(name, shape)| (name.clone(), fill(&name, &shape))).collect()
}

/// Writes a model as a diffusers folder.
pub fn write_folder(model: &str, folder: &Path) {
    copy(&repository("tests/golden/networks").join(model), folder);
    let mut parts: BTreeMap<&str, HashMap<String, Tensor>> = BTreeMap::new();
    let tensors = tensors(model);
    for (name, tensor) in &tensors {
        let (part, name) = name.split_once('.').expect("a canonical name begins with its network");
        parts.entry(part).or_default().insert(name.to_owned(), tensor.clone());
    }
    for (part, tensors) in parts {
        let file = match part {
            "text_encoder" | "text_encoder_2" => "model.safetensors",
            _ => "diffusion_pytorch_model.safetensors",
        };
        write(&tensors, &folder.join(part).join(file));
    }
}

/// Writes a model as a single file of the original naming; all but `tiny`.
///
/// The maps in `tests/fixtures/keymaps` name the tensors as two columns, original and Diffusers; the
/// attention of the VAE is stored as 1 × 1 convolutions there. OpenCLIP's text encoder has query, key and
/// value in one, its projection with rows and columns exchanged, and in SD 2.x a last layer that is not
/// used.
pub fn write_single_file(model: &str, file: &Path) {
    let (unet, clip, open_clip) = match model {
        "sd15" | "inpaint" => ("unet_sd1.tsv", Some("cond_stage_model.transformer"), None),
        "sd21" => ("unet_sd2.tsv", None, Some(("text_encoder", "cond_stage_model.model"))),
        "sdxl" => (
            "unet_sdxl.tsv",
            Some("conditioner.embedders.0.transformer"),
            Some(("text_encoder_2", "conditioner.embedders.1.model")),
        ),
        "refiner" => (
            "unet_sdxl_refiner.tsv",
            None,
            Some(("text_encoder_2", "conditioner.embedders.0.model")),
        ),
        _ => panic!("no single file of `{model}`"),
    };
    let mut names = HashMap::new();
    for (map, part, prefix) in
        [(unet, "unet", "model.diffusion_model"), ("vae_kl_f8.tsv", "vae", "first_stage_model")]
    {
        let rows = read(&repository("tests/fixtures/keymaps").join(map));
        for row in rows.lines().skip(1) {
            let mut columns = row.split('\t');
            let (Some(original), Some(diffusers)) = (columns.next(), columns.next()) else {
                panic!("{map}: `{row}` has no second column");
            };
            names.insert(format!("{part}.{diffusers}"), format!("{prefix}.{original}"));
        }
    }
    let mut renamed = HashMap::new();
    let tensors = tensors(model);
    if let Some((from, to)) = open_clip {
        write_open_clip(&tensors, (from, to), model == "sd21", &mut renamed);
    }
    if model == "sd21" {
        // Nothing in the numbers of these weights says what they predict.
        renamed.insert("v_pred".to_owned(), tensor([1.0].into_iter(), &[1]));
    }
    for (name, mut tensor) in tensors {
        let original = match (names.get(&name), name.strip_prefix("text_encoder."), clip) {
            (Some(original), ..) => original.clone(),
            (None, Some(rest), Some(clip)) => format!("{clip}.{rest}"),
            // Written above.
            _ => continue,
        };
        if original.contains(".mid.attn_1.") && tensor.rank() == 2 {
            tensor = tensor.unsqueeze(2).and_then(|t| t.unsqueeze(3)).expect("two more sizes");
        }
        renamed.insert(original, tensor);
    }
    write(&renamed, file);
}

/// A text encoder of a model with OpenCLIP's names. `spare`: with one layer more, of which nothing may
/// depend.
fn write_open_clip(
    tensors: &BTreeMap<String, Tensor>,
    (from, to): (&str, &str),
    spare: bool,
    renamed: &mut HashMap<String, Tensor>,
) {
    let of = |name: &str| tensors[&format!("{from}.text_model.{name}")].clone();
    let mut insert = |name: &str, tensor: Tensor| {
        renamed.insert(format!("{to}.{name}"), tensor);
    };
    if let Some(projection) = tensors.get(&format!("{from}.text_projection.weight")) {
        let turned = projection.t().and_then(|turned| turned.contiguous());
        insert("text_projection", turned.expect("a matrix"));
    }
    insert("positional_embedding", of("embeddings.position_embedding.weight"));
    insert("token_embedding.weight", of("embeddings.token_embedding.weight"));
    let first = |layer| format!("{from}.text_model.encoder.layers.{layer}.layer_norm1.weight");
    let layers = (0..).take_while(|i| tensors.contains_key(&first(*i))).last().unwrap_or_default();
    for end in ["weight", "bias"] {
        insert(&format!("ln_final.{end}"), of(&format!("final_layer_norm.{end}")));
        for layer in 0..=layers + usize::from(spare) {
            let from = format!("encoder.layers.{}", layer.min(layers));
            let to = format!("transformer.resblocks.{layer}");
            let thirds: Vec<Tensor> = ["q", "k", "v"]
                .map(|part| of(&format!("{from}.self_attn.{part}_proj.{end}")))
                .into();
            let joint = Tensor::cat(&thirds, 0).expect("three of a shape");
            insert(&format!("{to}.attn.in_proj_{end}"), joint);
            for (clip, open_clip) in [
                ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"),
                ("self_attn.out_proj", "attn.out_proj"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            ] {
                insert(&format!("{to}.{open_clip}.{end}"), of(&format!("{from}.{clip}.{end}")));
            }
        }
    }
}

/// Writes an adapter for a model: LoRA of rank 4 and alpha 2 in kohya's naming, on the attention of
/// UNet and text encoder. `name` decides on its numbers.
pub fn write_adapter(model: &str, name: &str, file: &Path) {
    let mut factors = HashMap::new();
    for (module, tensor) in tensors(model) {
        let Some(module) = module.strip_suffix(".weight") else { continue };
        let attention =
            ["to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj"];
        let Some((part, path)) = module.split_once('.').filter(|(part, _)| *part != "vae") else {
            continue;
        };
        if !attention.iter().any(|layer| path.ends_with(&format!(".{layer}"))) {
            continue;
        }
        let prefix = match part {
            "unet" => "lora_unet",
            "text_encoder_2" => "lora_te2",
            _ => "lora_te",
        };
        let key = format!("{prefix}_{}", path.replace('.', "_"));
        let (outputs, inputs) = tensor.dims2().expect("attention is linear");
        let down = fill(&format!("{name}.{module}.down"), &[4, inputs]);
        let up = fill(&format!("{name}.{module}.up"), &[outputs, 4]);
        let alpha = Tensor::new(2f32, &Device::Cpu).expect("a number");
        factors.insert(format!("{key}.lora_down.weight"), down);
        factors.insert(format!("{key}.lora_up.weight"), up);
        factors.insert(format!("{key}.alpha"), alpha);
    }
    write(&factors, file);
}

/// Writes tensors as a safetensors file.
pub fn write(tensors: &HashMap<String, Tensor>, file: &Path) {
    safetensors::save(tensors, file).unwrap_or_else(|error| panic!("{file:?}: {error}"));
}

/// The tensors of a safetensors file.
#[must_use]
pub fn load(file: &Path) -> HashMap<String, Tensor> {
    safetensors::load(file, &Device::Cpu).unwrap_or_else(|error| panic!("{file:?}: {error}"))
}

fn read(path: &Path) -> String {
    fs_err::read_to_string(path).unwrap_or_else(|error| panic!("{error}"))
}

/// Copies a folder with all below it.
fn copy(from: &Path, to: &Path) {
    fs_err::create_dir_all(to).unwrap_or_else(|error| panic!("{error}"));
    let entries = fs_err::read_dir(from).unwrap_or_else(|error| panic!("{error}"));
    for entry in entries {
        let entry = entry.unwrap_or_else(|error| panic!("{error}"));
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs_err::copy(entry.path(), &to).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}
