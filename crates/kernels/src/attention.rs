//! Attention: softmax(q · kᵀ / √d) · v, head by head.

use rayon::prelude::*;

use crate::{
    math::exp,
    matmul::{Columns, Rows, Shape, product},
};

/// Queries per task. With 4,096 keys its scores take 2 MiB.
const QUERY_BLOCK: usize = 128;

/// Scaled dot-product attention with the heads side by side in each row (Vaswani et al., 2017).
///
/// * `q`: `(batch, queries, heads · d)`
/// * `k`, `v`: `(batch, keys, heads · d)`
/// * `causal`: a query sees no later key than itself
/// * returns `(batch, queries, heads · d)`
///
/// # Panics
/// If the lengths of the slices do not agree.
#[must_use]
pub fn attention(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    batch: usize,
    heads: usize,
    width: usize,
    causal: bool,
) -> Vec<f32> {
    let (queries, keys) = (q.len() / (batch * width), k.len() / (batch * width));
    assert_eq!(q.len(), batch * queries * width, "whole rows");
    assert_eq!((k.len(), v.len()), (batch * keys * width, k.len()), "as many values as keys");
    let d = width / heads;
    assert_eq!(d * heads, width, "heads of the same size");
    let scale = 1.0 / (d as f32).sqrt();

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

    let mut out = vec![0.0; q.len()];
    out.par_chunks_mut(width).enumerate().for_each(|(row, out)| {
        let (image, query) = (row / queries, row % queries);
        for (head, out) in out.chunks_exact_mut(d).enumerate() {
            let part = &parts[(image * heads + head) * blocks + query / QUERY_BLOCK];
            let at = query % QUERY_BLOCK * d;
            out.copy_from_slice(&part[at..at + d]);
        }
    });
    out
}

/// Turns scores into weights that are positive and sum to 1.
fn softmax(scores: &mut [f32]) {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for score in scores.iter_mut() {
        *score = exp(*score - largest);
    }
    let total: f32 = sum(scores);
    let factor = 1.0 / total;
    for score in scores {
        *score *= factor;
    }
}

/// Eight running sums side by side: vectorized, in a fixed order, and more exact than one.
fn sum(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<8>();
    let mut sums = [0.0f32; 8];
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value;
        }
    }
    sums.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::tests::numbers;

    #[test]
    fn agrees_with_the_definition() {
        for (queries, keys, causal) in [(1, 1, false), (130, 77, false), (77, 77, true)] {
            let (batch, heads, width) = (2, 3, 12);
            let d = width / heads;
            let q = numbers(batch * queries * width, 1);
            let (k, v) = (numbers(batch * keys * width, 2), numbers(batch * keys * width, 3));
            let out = attention(&q, &k, &v, batch, heads, width, causal);
            for b in 0..batch {
                for h in 0..heads {
                    for i in 0..queries {
                        let row = |x: &[f32], t: usize, n: usize| -> Vec<f64> {
                            let at = (b * n + t) * width + h * d;
                            x[at..at + d].iter().map(|&x| f64::from(x)).collect()
                        };
                        let query = row(&q, i, queries);
                        let seen = if causal { i + 1 } else { keys };
                        let weights: Vec<f64> = (0..seen)
                            .map(|j| {
                                let key = row(&k, j, keys);
                                let dot: f64 = query.iter().zip(&key).map(|(a, b)| a * b).sum();
                                (dot / (d as f64).sqrt()).exp()
                            })
                            .collect();
                        let total: f64 = weights.iter().sum();
                        let ours = row(&out, i, queries);
                        for (c, ours) in ours.into_iter().enumerate() {
                            let exact: f64 =
                                (0..seen).map(|j| weights[j] * row(&v, j, keys)[c]).sum::<f64>()
                                    / total;
                            assert!((ours - exact).abs() < 1e-5, "{i} {c}");
                        }
                    }
                }
            }
        }
    }
}
