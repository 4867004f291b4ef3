//! Attention: softmax(q · kᵀ / √d) · v, head by head.

pub use kernels::attention::Heads;

use crate::{
    Buffer, Format, Result,
    launch::{Geometry, launch, narrow, params},
};

params! {
    /// That of all attention kernels.
    struct AttentionParams {
        q: u64,
        k: u64,
        v: u64,
        output: u64,
        batch: u32,
        heads: u32,
        queries: u32,
        keys: u32,
        width: u32,
        depth: u32,
        causal: u32,
        scale: f32,
    }
}

/// Scaled dot-product attention (Vaswani et al., 2017), with the softmax made while the keys go by (Milakov &
/// Gimelshein, 2018), so that no matrix of scores is ever in memory (Dao et al., 2022).
///
/// * `q`: `(batch, queries, width)`
/// * `k`, `v`: `(batch, keys, width)`
/// * `causal`: a query sees no later key than itself
/// * returns `(batch, queries, width)`
///
/// In 16 bits, the weights of the values are rounded to that too.
///
/// # Panics
/// If the lengths or formats of the buffers do not agree, or there is nothing to attend to.
///
/// # Errors
/// [`OutOfMemory`](crate::Error::OutOfMemory), or those of the driver.
pub fn attention(q: &Buffer, k: &Buffer, v: &Buffer, heads: Heads, causal: bool) -> Result<Buffer> {
    let Heads { batch, width, .. } = heads;
    let (queries, keys) = (q.len() / (batch * width), k.len() / (batch * width));
    assert_eq!(q.len(), batch * queries * width, "whole rows");
    assert_eq!((k.len(), v.len()), (batch * keys * width, k.len()), "as many values as keys");
    assert_eq!((k.format(), v.format()), (q.format(), q.format()), "one format");
    assert_eq!(heads.depth() * heads.heads, width, "heads of the same size");
    assert!(keys > 0, "something to attend to");
    let out = Buffer::new(q.card(), q.len(), q.format())?;
    if queries > 0 {
        let params = AttentionParams {
            q: q.address(),
            k: k.address(),
            v: v.address(),
            output: out.address(),
            batch: narrow(batch),
            heads: narrow(heads.heads),
            queries: narrow(queries),
            keys: narrow(keys),
            width: narrow(width),
            depth: narrow(heads.depth()),
            causal: causal.into(),
            scale: 1.0 / (heads.depth() as f32).sqrt(),
        };
        let plan = Plan::of(heads, q.format());
        let kernel = format!("{}_{}", plan.kernel, q.format().suffix());
        launch(q.card(), &kernel, plan.geometry(heads, queries), &params)?;
    }
    Ok(out)
}

/// A kernel, and what a block of it makes.
#[derive(Debug)]
struct Plan {
    kernel: &'static str,
    queries: usize,
    threads: usize,
    shared: usize,
}

impl Plan {
    /// By the depth alone.
    fn of(heads: Heads, format: Format) -> Plan {
        let depth = heads.depth();
        // Rows of 16 bits in shared memory have 8 numbers more than they need, so that they do not all
        // begin in the same bank.
        let tiled = |kernel, room: usize, queries: usize| {
            const KEYS: usize = 64;
            let shared = (queries + 2 * KEYS) * (room + 8) * 2;
            Plan { kernel, queries, threads: 128, shared }
        };
        if format == Format::F32 || !depth.is_multiple_of(8) || depth > 512 {
            let (queries, keys, pitch) = (16, 32, 36);
            // Rows are an odd number of four numbers apart.
            let row = depth.div_ceil(4) * 4;
            let row = if row.is_multiple_of(8) { row + 4 } else { row };
            let numbers = 2 * queries * row + (keys + queries) * pitch + 3 * queries;
            return Plan { kernel: "attention_plain", queries, threads: 128, shared: 4 * numbers };
        }
        match depth {
            ..=48 => tiled("attention_48", 48, 128),
            49..=64 => tiled("attention_64", 64, 128),
            65..=80 => tiled("attention_80", 80, 64),
            81..=128 => tiled("attention_128", 128, 64),
            129..=160 => tiled("attention_160", 160, 64),
            _ => {
                let (queries, keys, slice, stages) = (32, 64, 128, 3);
                let halves =
                    queries * (512 + 8) + stages * keys * (slice + 8) + queries * (keys + 8);
                let shared = 2 * halves + 4 * 4 * queries;
                Plan { kernel: "attention_512", queries, threads: 256, shared }
            }
        }
    }

    fn geometry(&self, heads: Heads, queries: usize) -> Geometry {
        let grid = [queries.div_ceil(self.queries), heads.batch * heads.heads, 1];
        Geometry { grid, threads: self.threads, shared: self.shared }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FORMATS, assert_close, cards, numbers, wide};

    /// By the definition, in f64.
    fn exact(q: &[f64], k: &[f64], v: &[f64], heads: Heads, causal: bool) -> Vec<f64> {
        let Heads { batch, width, .. } = heads;
        let (d, queries) = (heads.depth(), q.len() / (batch * width));
        let keys = k.len() / (batch * width);
        let mut out = vec![0.0; q.len()];
        for (index, out) in out.chunks_exact_mut(d).enumerate() {
            let (row, h) = (index / heads.heads, index % heads.heads);
            let (b, i) = (row / queries, row % queries);
            let at = |x: &[f64], row: usize, c: usize| x[row * width + h * d + c];
            let seen = if causal { (i + 1).min(keys) } else { keys };
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
    fn agrees_with_the_definition_for_every_depth() {
        for card in cards() {
            for (queries, keys, depth, heads, causal) in [
                (1, 1, 8, 2, false),
                (130, 77, 40, 2, false),
                (77, 77, 64, 3, true),
                (64, 130, 64, 1, false),
                (150, 64, 48, 1, true),
                (70, 100, 80, 2, false),
                (33, 128, 72, 1, true),
                (20, 65, 128, 2, false),
                (65, 70, 160, 1, false),
                (17, 100, 160, 2, true),
                (35, 130, 512, 1, false),
                (40, 70, 512, 1, true),
                (5, 66, 264, 2, false),
                (20, 40, 6, 3, false),
                (18, 18, 4, 2, true),
                (9, 7, 12, 1, false),
            ] {
                let heads = Heads { batch: 2, heads, width: heads * depth };
                for (format, _) in FORMATS {
                    let make = |rows: usize, seed, by: f32| {
                        let values = numbers(2 * rows * heads.width, seed);
                        let values: Vec<f32> = values.iter().map(|x| x * by).collect();
                        Buffer::upload(&card, &values, format).unwrap()
                    };
                    let (q, k, v) = (make(queries, 1, 3.0), make(keys, 2, 3.0), make(keys, 3, 1.0));
                    let exact = exact(&wide(&q), &wide(&k), &wide(&v), heads, causal);
                    let out = attention(&q, &k, &v, heads, causal).unwrap();
                    let what = format!("{format:?} {queries} {keys} {depth} {causal}");
                    // Scores are sums of up to 512 products, and up to 20.
                    let tolerance = if format == Format::F32 { 100.0 } else { 1.0 };
                    assert_close(&out, &exact, tolerance, 0.5, &what);
                }
            }
        }
    }

    /// Scores far beyond what the exponential reaches: the largest one takes all.
    #[test]
    fn huge_scores_do_not_overflow() {
        for card in cards() {
            for (format, _) in FORMATS {
                for depth in [32, 160, 512, 12] {
                    let heads = Heads { batch: 1, heads: 1, width: depth };
                    let rows = |count: usize, special: usize, by: f32, rest: f32| {
                        let mut values = vec![rest; count * depth];
                        values[special * depth..(special + 1) * depth].fill(by);
                        Buffer::upload(&card, &values, format).unwrap()
                    };
                    let (q, k) = (rows(20, 0, 100.0, 100.0), rows(150, 133, 100.0, -50.0));
                    let out = attention(&q, &k, &rows(150, 133, 3.0, 1.0), heads, false).unwrap();
                    // Its own weight is not exactly 1: the difference of numbers so large is not exactly 0.
                    let what = format!("{format:?} {depth}");
                    assert_close(&out, &vec![3.0; 20 * depth], 1.0, 3.0, &what);
                }
            }
        }
    }

    #[test]
    fn plans_are_within_a_cards_limits() {
        for (format, _) in FORMATS {
            for depth in [4, 8, 40, 64, 80, 96, 128, 160, 168, 512, 700] {
                for tokens in [1, 77, 64, 256, 1024, 4096, 16384, 65536] {
                    let heads = Heads { batch: 2, heads: 20, width: 20 * depth };
                    let plan = Plan::of(heads, format);
                    let Geometry { grid, threads, shared } = plan.geometry(heads, tokens);
                    assert!(threads <= 1024 && shared <= 99 << 10, "{plan:?}");
                    assert!(grid[1] <= 65535 && grid[0] * plan.queries >= tokens, "{plan:?}");
                }
            }
        }
    }
}
