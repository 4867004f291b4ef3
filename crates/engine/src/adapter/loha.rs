//! LoHa: the change is the elementwise product of two low-rank products.
//!
//! Hyeon-Woo, Ye-Bin, Oh: FedPara, 2022, <https://arxiv.org/abs/2108.06098>:
//! `ΔW = alpha / rank · (w1_a · w1_b) ∘ (w2_a · w2_b)`, of rank up to `rank²`. In Tucker form for
//! convolutions each product has a core `t1`, `t2` with the kernel, and the `a` are stored transposed.

use crate::{
    Result,
    adapter::{
        Algorithm, Apply, Base, Delta,
        parts::{Parts, Suffix, dimensions, transposed, tucker},
    },
};

const SUFFIXES: &[Suffix] = &[
    ("hada_w1_a", "w1_a"),
    ("hada_w1_b", "w1_b"),
    ("hada_w2_a", "w2_a"),
    ("hada_w2_b", "w2_b"),
    ("hada_t1", "t1"),
    ("hada_t2", "t2"),
];

/// The names of the two products' parts: `a`, core, `b`.
const HALVES: [[&str; 3]; 2] = [["w1_a", "t1", "w1_b"], ["w2_a", "t2", "w2_b"]];

pub(super) static LOHA: Algorithm = Algorithm {
    id: "loha",
    name: "LoHa",
    suffixes: SUFFIXES,
    recognizes: |parts| {
        HALVES.iter().all(|[a, _, b]| parts.has(a) && parts.has(b))
            && parts.has("t1") == parts.has("t2")
    },
    rank,
    inputs: |parts| parts.shape("w1_b")?.get(1).copied(),
    apply: Some(Apply { fits, add_delta }),
};

fn rank(parts: &Parts) -> Option<usize> {
    parts.shape("w1_b")?.first().copied()
}

fn fits(parts: &Parts, shape: &[usize]) -> bool {
    let Some((outputs, inputs, taps)) = dimensions(shape) else { return false };
    HALVES.iter().all(|[a, core, b]| {
        let (Some(a), Some(b)) = (parts.shape(a), parts.shape(b)) else { return false };
        let elements = |shape: &[usize]| -> usize { shape.iter().product() };
        let rank = b.first().copied().unwrap_or_default();
        let right = match parts.shape(core) {
            None => rank.saturating_mul(inputs * taps),
            Some(core) => {
                // `a` is (rank, out) here, (out, rank) otherwise.
                if a.first() != core.first() || core.get(1) != Some(&rank) {
                    return false;
                }
                if core.iter().skip(2).product::<usize>() != taps || core.len() < 3 {
                    return false;
                }
                rank.saturating_mul(inputs)
            }
        };
        let left = match parts.shape(core) {
            None => rank,
            Some(core) => core[0],
        };
        rank > 0 && left > 0 && elements(a) == outputs.saturating_mul(left) && elements(b) == right
    })
}

fn add_delta(parts: &Parts, base: &Base<'_>, weight: f64, delta: &mut Delta) -> Result<()> {
    let shape = base.shape();
    let (outputs, inputs, taps) = dimensions(shape).expect("checked by `fits`");
    let half = |[a, core, b]: [&str; 3]| -> Result<Vec<f32>> {
        let (left, right) = (parts.read(a)?, parts.read(b)?);
        let rank = parts.shape(b).expect("checked by `fits`")[0];
        let (left, right, rank) = match parts.shape(core) {
            Some(&[p, ..]) => {
                let right = tucker(&parts.read(core)?, &right, (p, rank), taps);
                (transposed(&left, outputs), right, p)
            }
            _ => (left, right, rank),
        };
        let mut product = vec![0.0; outputs * inputs * taps];
        kernels::matmul::add_product(&mut product, &left, &right, rank, 1.0);
        Ok(product)
    };
    let (first, second) = (half(HALVES[0])?, half(HALVES[1])?);
    let scale = (weight * parts.scale(rank(parts).expect("checked by `fits`"))?) as f32;
    for ((sum, first), second) in delta.rest(shape).iter_mut().zip(first).zip(second) {
        *sum += scale * (first * second);
    }
    Ok(())
}
