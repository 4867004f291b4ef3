//! T-LoRA with orthogonal factors: what training made of them, less what they were at first.
//!
//! Soboleva et al., 2025, <https://arxiv.org/abs/2507.05964>: `ΔW = P · (λ ∘ Q) − P₀ · (λ₀ ∘ Q₀)`, with `P` of
//! `(out, rank)`, `Q` of `(rank, in)` and one `λ` for each rank. The first state is that of a random matrix, so it
//! is in the file; LyCORIS leaves it out, see [`known`](super::known).
//!
//! The paper uses fewer of the ranks at noisier steps, and no file says how many. Here it is all of them, or as
//! many as the person allows, in both terms. The paper's plain form is stored as a LoRA, and is one.

use crate::{
    Result,
    adapter::{
        Algorithm, Apply, Base, Delta,
        parts::{Pair, Parts, Suffix, dimensions, scale_rows},
    },
};

pub(super) const SUFFIXES: &[Suffix] = &[
    ("p_layer.weight", "p_layer"),
    ("lambda_layer", "lambda_layer"),
    ("q_layer.weight", "q_layer"),
    ("base_p.weight", "base_p"),
    ("base_lambda", "base_lambda"),
    ("base_q.weight", "base_q"),
];

/// `P`, `λ` and `Q` as they are, and as they were.
const STATES: [[&str; 3]; 2] =
    [["p_layer", "lambda_layer", "q_layer"], ["base_p", "base_lambda", "base_q"]];

pub(super) static TLORA: Algorithm = Algorithm {
    id: "tlora_ortho",
    name: "T-LoRA (ortho)",
    suffixes: SUFFIXES,
    recognizes: |parts| STATES.as_flattened().iter().all(|part| parts.has(part)),
    rank,
    inputs: |parts| parts.shape("q_layer")?.get(1).copied(),
    apply: Some(Apply { fits, add_delta }),
};

fn rank(parts: &Parts) -> Option<usize> {
    parts.shape("q_layer")?.first().copied()
}

fn fits(parts: &Parts, shape: &[usize]) -> bool {
    let (Some((outputs, inputs, 1)), Some(rank)) = (dimensions(shape), rank(parts)) else {
        return false;
    };
    let fits = |[p, lambda, q]: [&str; 3]| {
        parts.shape(p) == Some(&[outputs, rank])
            && parts.elements(lambda) == Some(rank)
            && parts.shape(q) == Some(&[rank, inputs])
    };
    rank > 0 && STATES.into_iter().all(fits)
}

fn add_delta(parts: &Parts, _: &Base<'_>, weight: f64, delta: &mut Delta) -> Result<()> {
    let rank = rank(parts).expect("checked by `fits`");
    let scale = weight * parts.scale(rank)?;
    for ([p, lambda, q], scale) in STATES.into_iter().zip([scale, -scale]) {
        let (left, factors, mut right) = (parts.read(p)?, parts.read(lambda)?, parts.read(q)?);
        scale_rows(&mut right, &factors);
        delta.pairs.push(Pair::new(left, right, rank, scale));
    }
    Ok(())
}
