//! LoRA, and LoCon for convolutions: the change is a product of two thin matrices.
//!
//! Hu et al., 2021, <https://arxiv.org/abs/2106.09685>: `ΔW = alpha / rank · up · down`. For a
//! convolution, `down` is a convolution to `rank` channels and `up` one of size 1 × 1 behind it, or,
//! in Tucker form, `down` is 1 × 1 as well and a third convolution `mid` between them has the
//! kernel (LyCORIS, Yeh et al., 2023, <https://arxiv.org/abs/2309.14859>).
//!
//! Factors are matched by their number of elements: files for SD 1.x have matrices for its 1 × 1
//! convolutions, files for SDXL 1 × 1 convolutions for its linear layers, and the memory is the same.

use crate::{
    Result,
    adapter::{
        Algorithm, Apply, Base, Delta,
        parts::{Pair, Parts, Suffix, dimensions, transposed, tucker},
    },
};

pub(super) const SUFFIXES: &[Suffix] = &[
    // kohya
    ("lora_down.weight", "down"),
    ("lora_mid.weight", "mid"),
    ("lora_up.weight", "up"),
    ("lora_up.bias", "bias"),
    // PEFT and today's diffusers
    ("lora_A.weight", "down"),
    ("lora_B.weight", "up"),
    ("lora_B.bias", "bias"),
    ("lora_A", "down"),
    ("lora_B", "up"),
    // diffusers before PEFT
    ("lora.down.weight", "down"),
    ("lora.up.weight", "up"),
    ("lora_linear_layer.down.weight", "down"),
    ("lora_linear_layer.up.weight", "up"),
    // diffusers' first attention processors: `….processor.to_q_lora.down.weight`
    ("down.weight", "down"),
    ("up.weight", "up"),
    // cloneofsimo/lora: `unet:0:down`
    ("down", "down"),
    ("up", "up"),
    // AdaLoRA's factors of each rank
    ("lora_E", "singular_values"),
];

const APPLY: Apply = Apply { fits, add_delta };

/// Factors of linear layers and 1 × 1 convolutions.
pub(super) static LORA: Algorithm = Algorithm {
    id: "lora",
    name: "LoRA",
    suffixes: SUFFIXES,
    recognizes: |parts| parts.has("up") && parts.has("down"),
    rank,
    inputs,
    apply: Some(APPLY),
};

/// The same for larger kernels.
pub(super) static LOCON: Algorithm = Algorithm {
    id: "locon",
    name: "LoCon",
    suffixes: SUFFIXES,
    recognizes: |parts| {
        let kernel = |shape: &[usize]| shape.get(2..).is_some_and(|kernel| kernel != [1, 1]);
        let down = parts.shape("down").unwrap_or_default();
        parts.has("up") && (parts.has("mid") || down.len() == 4 && kernel(down))
    },
    rank,
    inputs,
    apply: Some(APPLY),
};

pub(super) fn rank(parts: &Parts) -> Option<usize> {
    parts.shape("down")?.first().copied()
}

pub(super) fn inputs(parts: &Parts) -> Option<usize> {
    parts.shape("down")?.get(1).copied()
}

pub(super) fn fits(parts: &Parts, shape: &[usize]) -> bool {
    let Some((outputs, inputs, taps)) = dimensions(shape) else { return false };
    let Some(rank) = rank(parts).filter(|rank| *rank > 0) else { return false };
    let bias_fits = parts.elements("bias").is_none_or(|elements| elements == outputs);
    let factors_fit = match parts.shape("mid") {
        None => {
            parts.elements("up") == Some(outputs.saturating_mul(rank))
                && parts.elements("down") == Some(rank.saturating_mul(inputs * taps))
        }
        Some(&[p, q, height, width]) => {
            q == rank
                && height.saturating_mul(width) == taps
                && p > 0
                && parts.elements("up") == Some(outputs.saturating_mul(p))
                && parts.elements("down") == Some(rank.saturating_mul(inputs))
        }
        Some(_) => false,
    };
    bias_fits && factors_fit && parts.shape("up").and_then(|up| up.first()) == Some(&outputs)
}

/// PEFT's LoRA of a table of token embeddings: `ΔE = alpha / rank · (B · A)ᵀ`, with `A` of `(rank, tokens)` and
/// `B` of `(width, rank)`.
pub(super) static OF_TABLE: Algorithm = Algorithm {
    id: "lora_embedding",
    name: "LoRA of token embeddings",
    suffixes: &[("lora_embedding_A", "table_down"), ("lora_embedding_B", "table_up")],
    recognizes: |parts| parts.has("table_down") && parts.has("table_up"),
    rank: |parts| parts.shape("table_down")?.first().copied(),
    inputs: |_| None,
    apply: Some(Apply { fits: table_fits, add_delta: add_table_delta }),
};

fn table_fits(parts: &Parts, shape: &[usize]) -> bool {
    let rank = parts.shape("table_down").and_then(|down| down.first()).copied().unwrap_or_default();
    let of = |part| parts.shape(part).unwrap_or_default();
    rank > 0
        && matches!(*shape, [rows, width] if of("table_down") == [rank, rows] && of("table_up") == [width, rank])
}

fn add_table_delta(parts: &Parts, base: &Base<'_>, weight: f64, delta: &mut Delta) -> Result<()> {
    let [rows, _] = *base.shape() else { unreachable!("checked by `fits`") };
    let (down, up) = (parts.read("table_down")?, parts.read("table_up")?);
    let rank = down.len() / rows;
    let scale = weight * parts.scale(rank)?;
    let (left, right) = (transposed(&down, rows), transposed(&up, rank));
    delta.pairs.push(Pair::new(left, right, rank, scale));
    Ok(())
}

fn add_delta(parts: &Parts, _: &Base<'_>, weight: f64, delta: &mut Delta) -> Result<()> {
    let (left, right) = (parts.read("up")?, parts.read("down")?);
    let rank = rank(parts).expect("checked by `fits`");
    let scale = weight * parts.scale(rank)?;
    delta.pairs.push(match parts.shape("mid") {
        Some(&[p, q, height, width]) => {
            let right = tucker(&parts.read("mid")?, &right, (p, q), height * width);
            Pair::new(left, right, p, scale)
        }
        _ => Pair::new(left, right, rank, scale),
    });
    if parts.has("bias") {
        delta.add_bias(&parts.read("bias")?, scale as f32);
    }
    Ok(())
}
