//! Writes SD 1.5 with random weights at its true shapes, and five adapters of rank 32 for it: what there is to
//! time where no model can be fetched. `sd15 FOLDER` makes `FOLDER/model.safetensors` (2.1 GB, f16) and
//! `FOLDER/loras/style0.safetensors` to `style4`.

use std::{
    env,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use fs_err as fs;
use half::f16;
use serde_json::{Map, json};

const UNET: &str = include_str!("../../../tests/fixtures/keymaps/unet_sd1.tsv");
const TEXT: &str = include_str!("../../../tests/fixtures/keymaps/clip_l_hf.tsv");
const VAE: &str = include_str!("../../../tests/fixtures/keymaps/vae_kl_f8.tsv");

const RANK: usize = 32;

struct Tensor {
    name: String,
    shape: Vec<usize>,
    /// Of numbers that are evenly spread around their middle.
    spread: f32,
    middle: f32,
}

/// The rows of a table of names: its first column, its second, and the shape in its last.
fn rows(table: &str) -> impl Iterator<Item = (&str, &str, Vec<usize>)> {
    table.lines().skip(1).filter_map(|line| {
        let columns: Vec<&str> = line.split('\t').collect();
        let shape =
            columns.iter().rev().find(|column| column.starts_with(|c: char| c.is_ascii_digit()));
        let shape = shape?.split(',').map(|side| side.parse().ok()).collect::<Option<_>>()?;
        Some((columns[0], columns[1], shape))
    })
}

/// Weights that keep the size of what they are multiplied with, factors of 1, offsets of 0.
fn weight(name: String, shape: Vec<usize>) -> Tensor {
    let inputs: usize = shape[1..].iter().product();
    let (spread, middle) = match (shape.len(), name.ends_with(".weight")) {
        (1, true) => (0.0, 1.0),
        (1, false) => (0.0, 0.0),
        _ => ((3.0 / inputs as f32).sqrt(), 0.0),
    };
    Tensor { name, shape, spread, middle }
}

/// Writes a safetensors file.
fn write(path: &Path, tensors: &[Tensor], seed: u64) -> std::io::Result<()> {
    let (mut header, mut at) = (Map::new(), 0);
    for tensor in tensors {
        let end = at + 2 * tensor.shape.iter().product::<usize>();
        let entry = json!({"dtype": "F16", "shape": tensor.shape, "data_offsets": [at, end]});
        header.insert(tensor.name.clone(), entry);
        at = end;
    }
    let header = serde_json::to_vec(&header)?;
    let mut file = BufWriter::with_capacity(1 << 20, fs::File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    // Marsaglia (2003): numbers that look random enough to time.
    let mut state = seed | 1;
    for tensor in tensors {
        for _ in 0..tensor.shape.iter().product::<usize>() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let even = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
            let value = f16::from_f32(tensor.middle + tensor.spread * even);
            file.write_all(&value.to_le_bytes())?;
        }
    }
    file.flush()
}

/// The modules that an adapter of attention and feed-forward layers changes, as kohya names them.
fn adapter() -> Vec<Tensor> {
    let unet = rows(UNET).map(|(_, name, shape)| ("lora_unet", name, shape));
    let text = rows(TEXT).map(|(name, _, shape)| ("lora_te", name, shape));
    let parts = ["attn", ".ff.net", "self_attn", "mlp.fc"];
    let mut tensors = Vec::new();
    for (prefix, name, shape) in unet.chain(text) {
        let Some(module) = name.strip_suffix(".weight") else { continue };
        let [outputs, inputs] = shape[..] else { continue };
        if !parts.iter().any(|part| module.contains(part)) {
            continue;
        }
        let name = format!("{prefix}_{}", module.replace('.', "_"));
        let tensor = |part: &str, shape, spread, middle| Tensor {
            name: format!("{name}.{part}"),
            shape,
            spread,
            middle,
        };
        tensors.push(tensor("lora_down.weight", vec![RANK, inputs], 0.035, 0.0));
        tensors.push(tensor("lora_up.weight", vec![outputs, RANK], 0.035, 0.0));
        tensors.push(tensor("alpha", vec![], 0.0, RANK as f32 / 2.0));
    }
    tensors
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = env::args_os().nth(1).map(PathBuf::from).ok_or("usage: sd15 FOLDER")?;
    fs::create_dir_all(folder.join("loras"))?;
    let named = |prefix: &str, name: &str| format!("{prefix}.{name}");
    let unet = rows(UNET).map(|(name, _, shape)| (named("model.diffusion_model", name), shape));
    let text =
        rows(TEXT).map(|(name, _, shape)| (named("cond_stage_model.transformer", name), shape));
    let vae = rows(VAE).map(|(name, _, shape)| (named("first_stage_model", name), shape));
    let model: Vec<Tensor> =
        unet.chain(text).chain(vae).map(|(name, shape)| weight(name, shape)).collect();
    write(&folder.join("model.safetensors"), &model, 1)?;
    for style in 0..5 {
        let path = folder.join(format!("loras/style{style}.safetensors"));
        write(&path, &adapter(), style + 2)?;
    }
    Ok(())
}
