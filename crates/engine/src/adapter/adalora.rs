//! AdaLoRA: a LoRA with a factor for each rank, of which training drops the least.
//!
//! Zhang et al., 2023, <https://arxiv.org/abs/2303.10512>: `ΔW = B · (E ∘ A)`, `E` one number for each row of
//! `A`. PEFT scales it by `alpha / (rank + 1e-5)`.

use crate::{
    Result,
    adapter::{
        Algorithm, Apply, Base, Delta, lora,
        parts::{Pair, Parts, dimensions, scale_rows},
    },
};

pub(super) static ADALORA: Algorithm = Algorithm {
    id: "adalora",
    name: "AdaLoRA",
    suffixes: lora::SUFFIXES,
    recognizes: |parts| parts.has("singular_values") && parts.has("up") && parts.has("down"),
    rank: lora::rank,
    inputs: lora::inputs,
    apply: Some(Apply { fits, add_delta }),
};

fn fits(parts: &Parts, shape: &[usize]) -> bool {
    let linear = dimensions(shape).is_some_and(|(_, _, taps)| taps == 1);
    linear
        && !parts.has("mid")
        && lora::fits(parts, shape)
        && parts.elements("singular_values") == lora::rank(parts)
}

fn add_delta(parts: &Parts, _: &Base<'_>, weight: f64, delta: &mut Delta) -> Result<()> {
    let (left, mut right) = (parts.read("up")?, parts.read("down")?);
    let rank = lora::rank(parts).expect("checked by `fits`");
    let factors = parts.read("singular_values")?;
    scale_rows(&mut right, &factors);
    let alpha = parts.alpha()?.filter(|alpha| *alpha > 0.0).unwrap_or(rank as f64);
    let scale = weight * alpha / (rank as f64 + 1e-5);
    delta.pairs.push(Pair::new(left, right, rank, scale));
    Ok(())
}
