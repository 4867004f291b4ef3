//! Attention: softmax(q · kᵀ / √d) · v, head by head.

#[cfg(target_arch = "x86_64")]
mod amx;
mod queries;

use rayon::prelude::*;

use crate::{
    Isa,
    lanes::{LANES, load, on_lanes, store},
    math::exp,
    matmul::{Columns, Rows, Shape, product},
    memory::Values,
    number::Number,
};

/// Queries per task. With 4,096 keys its scores take 2 MiB.
const QUERY_BLOCK: usize = 128;

/// The sizes of one attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Sequences.
    pub batch: usize,
    /// Heads, side by side in each row.
    pub heads: usize,
    /// Numbers per row, of all heads.
    pub width: usize,
}

impl Heads {
    /// Numbers per row and head.
    #[must_use]
    pub fn depth(self) -> usize {
        self.width / self.heads
    }
}

/// Scaled dot-product attention (Vaswani et al., 2017).
///
/// * `q`: `(batch, queries, width)`
/// * `k`, `v`: `(batch, keys, width)`
/// * `causal`: a query sees no later key than itself
/// * returns `(batch, queries, width)`
///
/// # Panics
/// If the lengths of the slices do not agree.
#[must_use]
pub fn attention<T: Number>(q: &[T], k: &[T], v: &[T], heads: Heads, causal: bool) -> Values<T> {
    attention_with(Isa::current(), q, k, v, heads, causal)
}

/// [`attention`] with the kernels of one rung.
///
/// # Panics
/// As [`attention`], and if the processor does not have the rung.
#[must_use]
pub fn attention_with<T: Number>(
    isa: Isa,
    q: &[T],
    k: &[T],
    v: &[T],
    heads: Heads,
    causal: bool,
) -> Values<T> {
    assert!(isa.is_available(), "{isa}: this processor does not have it");
    let Heads { batch, width, .. } = heads;
    let (queries, keys) = (q.len() / (batch * width), k.len() / (batch * width));
    assert_eq!(q.len(), batch * queries * width, "whole rows");
    assert_eq!((k.len(), v.len()), (batch * keys * width, k.len()), "as many values as keys");
    assert_eq!(heads.depth() * heads.heads, width, "heads of the same size");
    assert!(keys > 0, "something to attend to");
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Amx
        && !causal
        && let (Some(q), Some(k), Some(v)) = (T::as_bf16(q), T::as_bf16(k), T::as_bf16(v))
    {
        return T::from_bf16(amx::attention(q, k, v, heads));
    }
    match causal {
        false if isa > Isa::Portable => queries::attention(isa, q, k, v, heads),
        _ => in_f32(q, k, v, heads, causal),
    }
}

/// Products of f32, all scores of some queries at once.
fn in_f32<T: Number>(q: &[T], k: &[T], v: &[T], heads: Heads, causal: bool) -> Values<T> {
    let Heads { batch, heads, width } = heads;
    let (queries, keys) = (q.len() / (batch * width), k.len() / (batch * width));
    let d = width / heads;
    let scale = 1.0 / (d as f32).sqrt();
    let (q, k, v) = (widened(q), widened(k), widened(v));

    let blocks = queries.div_ceil(QUERY_BLOCK);
    let parts: Vec<Vec<f32>> = (0..batch * heads * blocks)
        .into_par_iter()
        .map(|task| {
            let (image, head, block) =
                (task / (heads * blocks), task / blocks % heads, task % blocks);
            let first = block * QUERY_BLOCK;
            let rows = QUERY_BLOCK.min(queries - first);
            let q = &q[(image * queries + first) * width + head * d..];
            let k = &k[image * keys * width + head * d..];
            let v = &v[image * keys * width + head * d..];

            let mut scores = vec![0.0; rows * keys];
            let shape = Shape { m: rows, k: d, n: keys };
            product(shape, Rows(q, width), Columns(k, width), &mut scores, keys, scale, false);
            for (row, scores) in scores.chunks_exact_mut(keys).enumerate() {
                let seen = if causal { (first + row + 1).min(keys) } else { keys };
                softmax(&mut scores[..seen]);
                scores[seen..].fill(0.0);
            }
            let mut out = vec![0.0; rows * d];
            let shape = Shape { m: rows, k: keys, n: d };
            product(shape, Rows(&scores, keys), Rows(v, width), &mut out, d, 1.0, false);
            out
        })
        .collect();

    // SAFETY: each row is written below.
    let mut out = unsafe { Values::unwritten(q.len()) };
    out.par_chunks_mut(width).enumerate().for_each(|(row, out)| {
        let (image, query) = (row / queries, row % queries);
        for (head, out) in out.chunks_exact_mut(d).enumerate() {
            let part = &parts[(image * heads + head) * blocks + query / QUERY_BLOCK];
            let at = query % QUERY_BLOCK * d;
            for (out, part) in out.iter_mut().zip(&part[at..at + d]) {
                *out = T::from_f32(*part);
            }
        }
    });
    out
}

/// As f32, without a copy where they are that.
fn widened<T: Number>(values: &[T]) -> Widened<'_> {
    match T::as_f32(values) {
        Some(values) => Widened::Given(values),
        None => Widened::Made(crate::pointwise::widen(values)),
    }
}

enum Widened<'a> {
    Given(&'a [f32]),
    Made(Values<f32>),
}

impl std::ops::Deref for Widened<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Widened::Given(values) => values,
            Widened::Made(values) => values,
        }
    }
}

on_lanes! {
    /// Turns scores into weights that are positive and sum to 1.
    fn softmax(scores: &mut [f32]) {
        let n = scores.len();
        // SAFETY: as many numbers as there are, and the macro's function has the instructions.
        unsafe {
            let at = scores.as_mut_ptr();
            let mut largest = L::splat(f32::NEG_INFINITY);
            for i in (0..n / LANES * LANES).step_by(LANES) {
                largest = largest.max(L::load(at.add(i)));
            }
            let rest = &scores[n / LANES * LANES..];
            let largest = largest.to_array().iter().chain(rest).copied().fold(f32::MIN, f32::max);
            let mut totals = L::splat(0.0);
            for i in (0..n).step_by(LANES) {
                let count = LANES.min(n - i);
                let mut weight = exp(load::<L, f32>(at.add(i), count).sub(L::splat(largest)));
                if count < LANES {
                    let mut weights = weight.to_array();
                    weights[count..].fill(0.0);
                    weight = L::load(weights.as_ptr());
                }
                totals = totals.add(weight);
                store(weight, at.add(i), count);
            }
            let factor = L::splat(1.0 / totals.to_array().iter().sum::<f32>());
            for i in (0..n).step_by(LANES) {
                let count = LANES.min(n - i);
                store(load::<L, f32>(at.add(i), count).mul(factor), at.add(i), count);
            }
        }
    }
}

on_lanes! {
    /// The Euclidean length of a row.
    fn length<T: Number>(row: &[T]) -> f32 {
        // SAFETY: as many numbers as there are, and the macro's function has the instructions.
        unsafe {
            let mut sums = L::splat(0.0);
            for at in (0..row.len()).step_by(LANES) {
                let x: L = load(row.as_ptr().add(at), LANES.min(row.len() - at));
                sums = x.mul_add(x, sums);
            }
            sums.to_array().iter().sum::<f32>().sqrt()
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::testing::{narrow, numbers, rungs};

    /// By the definition, in f64.
    fn exact(q: &[f32], k: &[f32], v: &[f32], heads: Heads, causal: bool) -> Vec<f64> {
        let Heads { batch, width, .. } = heads;
        let (d, queries) = (heads.depth(), q.len() / (batch * width));
        let keys = k.len() / (batch * width);
        let mut out = vec![0.0; q.len()];
        for (index, out) in out.chunks_exact_mut(d).enumerate() {
            let (row, h) = (index / heads.heads, index % heads.heads);
            let (b, i) = (row / queries, row % queries);
            let at = |x: &[f32], row: usize, c: usize| f64::from(x[row * width + h * d + c]);
            let seen = if causal { i + 1 } else { keys };
            let scores: Vec<f64> = (0..seen)
                .map(|j| (0..d).map(|c| at(q, row, c) * at(k, b * keys + j, c)).sum::<f64>())
                .map(|dot| dot / (d as f64).sqrt())
                .collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (c, out) in out.iter_mut().enumerate() {
                let sum: f64 = (0..seen).map(|j| weights[j] * at(v, b * keys + j, c)).sum();
                *out = sum / total;
            }
        }
        out
    }

    #[test]
    fn agrees_with_the_definition_on_every_rung() {
        for (queries, keys, depth, causal) in [
            (1, 1, 4, false),
            (130, 77, 12, false),
            (77, 77, 4, true),
            (70, 300, 40, false),
            (33, 515, 80, false),
            (40, 64, 160, false),
            (5, 40, 512, false),
        ] {
            let heads = Heads { batch: 2, heads: 3, width: 3 * depth };
            let make = |rows: usize, seed| narrow::<bf16>(&numbers(2 * rows * heads.width, seed));
            let (q, k, v) = (make(queries, 1), make(keys, 2), make(keys, 3));
            let wide = |x: &[bf16]| x.iter().map(|x| 3.0 * x.to_f32()).collect::<Vec<_>>();
            let (q3, k3, v3) = (wide(&q), wide(&k), wide(&v));
            let expected = exact(&q3, &k3, &v3, heads, causal);
            let (qb, kb, vb) = (narrow::<bf16>(&q3), narrow::<bf16>(&k3), narrow::<bf16>(&v3));
            let back = |x: &[bf16]| x.iter().map(|x| x.to_f32()).collect::<Vec<_>>();
            let expected_b = exact(&back(&qb), &back(&kb), &back(&vb), heads, causal);
            for isa in rungs() {
                let out = attention_with(isa, &q3, &k3, &v3, heads, causal);
                for (ours, exact) in out.iter().zip(&expected) {
                    assert!(
                        (f64::from(*ours) - exact).abs() < 2e-5,
                        "{isa} {queries} {keys} {depth}"
                    );
                }
                let out = attention_with(isa, &qb, &kb, &vb, heads, causal);
                for (ours, exact) in out.iter().zip(&expected_b) {
                    let error = (f64::from(ours.to_f32()) - exact).abs();
                    assert!(error < 2e-2, "{isa} {queries} {keys} {depth}: {error}");
                }
            }
        }
    }

    /// Scores far beyond what the exponential reaches: the largest one takes all.
    #[test]
    fn huge_scores_do_not_overflow() {
        let heads = Heads { batch: 1, heads: 1, width: 32 };
        let mut k = vec![bf16::ZERO; 600 * 32];
        k[555 * 32] = bf16::from_f32(100.0);
        let mut v = vec![bf16::ONE; 600 * 32];
        v[555 * 32..556 * 32].fill(bf16::from_f32(3.0));
        let mut q = vec![bf16::ZERO; 40 * 32];
        for row in q.chunks_exact_mut(32) {
            row[0] = bf16::from_f32(1000.0);
        }
        for isa in rungs() {
            let out = attention_with(isa, &q, &k, &v, heads, false);
            assert!(out.iter().all(|x| x.to_f32() == 3.0), "{isa}");
        }
    }
}
