//! Attention in AMX tiles, with the softmax made as the keys come (Milakov & Gimelshein, 2018; Dao et
//! al., 2022): the scores of 32 queries and 256 keys at a time, never all of them.

use std::arch::x86_64::{
    __m256bh, __m512, _mm512_add_ps, _mm512_cvtneps_pbh, _mm512_fmadd_ps, _mm512_fmsub_ps,
    _mm512_loadu_ps, _mm512_mask_blend_ps, _mm512_max_ps, _mm512_reduce_add_ps,
    _mm512_reduce_max_ps, _mm512_roundscale_ps, _mm512_scalef_ps, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_sub_ps,
};

use half::bf16;
use rayon::prelude::*;

use super::Heads;
use crate::{
    memory::{Aligned, Shared, unwritten, with_scratch},
    number::Number,
    tile::{self, Left},
};

/// Queries that are worked on at once: two tiles of rows.
const QUERIES: usize = 32;

/// Keys whose scores are made before they are weighed: as many registers of 16 as hold a row of them.
const KEYS: usize = 256;

/// Blocks of queries per task.
const BLOCKS_PER_TASK: usize = 4;

/// Rows and columns of a tile.
const SIDE: usize = 16;

/// Numbers of the sum in a tile.
const DEPTH: usize = 32;

/// Numbers of bf16 in a tile.
const TILE: usize = SIDE * DEPTH;

/// The keys and values of all heads, as tiles.
struct Tiles {
    /// For each head: `[key / 16][depth / 32]` tiles of `[depth / 2][key][depth % 2]`.
    keys: Aligned<bf16>,
    /// For each head: `[key / 32][depth / 16]` tiles of `[key / 2][depth][key % 2]`.
    values: Aligned<bf16>,
    /// Keys, and the same up to whole pairs of tiles.
    count: usize,
    padded: usize,
    /// Steps of a sum over the depth, and tiles of a row of results.
    steps: usize,
    columns: usize,
}

pub(super) fn attention(q: &[bf16], k: &[bf16], v: &[bf16], heads: Heads) -> Vec<bf16> {
    let Heads { batch, heads: count, width } = heads;
    let depth = heads.depth();
    let queries = q.len() / (batch * width);
    let tiles = Tiles::new(k, v, heads);

    // SAFETY: the tasks below write all rows of all heads.
    let mut out: Vec<bf16> = unsafe { unwritten(q.len()) };
    let shared = Shared::new(&mut out);
    let blocks = queries.div_ceil(QUERIES);
    let tasks = blocks.div_ceil(BLOCKS_PER_TASK);
    (0..batch * count * tasks).into_par_iter().with_max_len(1).for_each(|task| {
        let (head, task) = (task / tasks, task % tasks);
        let (image, place) = (head / count, head % count);
        with_scratch(tiles.scratch(), |scratch| {
            // SAFETY: `attention_with` asserted that the processor has AMX; this task alone writes its
            // queries' part of this head.
            unsafe {
                tile::configure();
                for block in task * BLOCKS_PER_TASK..blocks.min((task + 1) * BLOCKS_PER_TASK) {
                    let first = block * QUERIES;
                    let rows = QUERIES.min(queries - first);
                    let at = (image * queries + first) * width + place * depth;
                    let last = at + (rows - 1) * width + depth;
                    tiles.attend(
                        &q[at..last],
                        shared.get().add(at),
                        rows,
                        width,
                        depth,
                        head,
                        scratch,
                    );
                }
                tile::release();
            }
        });
    });
    out
}

impl Tiles {
    fn new(k: &[bf16], v: &[bf16], heads: Heads) -> Tiles {
        let Heads { batch, heads: count, width } = heads;
        let (depth, keys) = (heads.depth(), k.len() / (batch * width));
        let padded = keys.next_multiple_of(2 * SIDE);
        let (steps, columns) = (depth.div_ceil(DEPTH), depth.div_ceil(SIDE));
        // SAFETY: each task below writes the tiles of one head, all of them.
        let (mut key_tiles, mut value_tiles) = unsafe {
            (
                Aligned::unwritten(batch * count * padded * steps * DEPTH),
                Aligned::unwritten(batch * count * padded * columns * SIDE),
            )
        };
        key_tiles
            .par_chunks_mut(padded * steps * DEPTH)
            .zip(value_tiles.par_chunks_mut(padded * columns * SIDE))
            .enumerate()
            .for_each(|(head, (key_tiles, value_tiles))| {
                let at = head / count * keys * width + head % count * depth;
                let row = |x: &'_ [bf16], key: usize| -> *const bf16 {
                    x[at + key * width..][..depth].as_ptr()
                };
                for (index, tile) in key_tiles.chunks_exact_mut(TILE).enumerate() {
                    let (first, step) = (index / steps * SIDE, index % steps * DEPTH);
                    let present = DEPTH.min(depth - step) / 2;
                    if first + SIDE > keys || present < DEPTH / 2 || !depth.is_multiple_of(2) {
                        tile.fill(bf16::ZERO);
                    }
                    for key in first..keys.min(first + SIDE) {
                        let from = row(k, key);
                        for c in step..depth.min(step + DEPTH) {
                            let place = (c - step) / 2 * DEPTH + (key - first) * 2 + c % 2;
                            // SAFETY: number `c` of the row of `depth` numbers.
                            tile[place] = unsafe { *from.add(c) };
                        }
                    }
                }
                for (index, tile) in value_tiles.chunks_exact_mut(TILE).enumerate() {
                    let (first, column) = (index / columns * DEPTH, index % columns * SIDE);
                    let present = SIDE.min(depth - column);
                    if first + DEPTH > keys || present < SIDE {
                        tile.fill(bf16::ZERO);
                    }
                    for key in first..keys.min(first + DEPTH) {
                        let from = row(v, key);
                        for c in 0..present {
                            let place = (key - first) / 2 * DEPTH + c * 2 + key % 2;
                            // SAFETY: number `column + c` of the row of `depth` numbers.
                            tile[place] = unsafe { *from.add(column + c) };
                        }
                    }
                }
            });
        Tiles { keys: key_tiles, values: value_tiles, count: keys, padded, steps, columns }
    }

    /// Numbers of f32 that [`attend`](Tiles::attend) needs: scores, weights, queries, results.
    fn scratch(&self) -> usize {
        QUERIES * (KEYS + KEYS / 2 + self.steps * DEPTH / 2 + self.columns * SIDE)
    }

    /// Attention of up to 32 queries of one head.
    ///
    /// * `q`, `out`: rows of `depth` numbers, `width` apart
    ///
    /// # Safety
    /// The processor must have AMX and its tiles be configured; the rows of `out` belong to the caller
    /// alone.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn attend(
        &self,
        q: &[bf16],
        out: *mut bf16,
        rows: usize,
        width: usize,
        depth: usize,
        head: usize,
        scratch: &mut [f32],
    ) {
        let (scores, rest) = scratch.split_at_mut(QUERIES * KEYS);
        let (weights, rest) = rest.split_at_mut(QUERIES * KEYS / 2);
        let (queries, results) = rest.split_at_mut(QUERIES * self.steps * DEPTH / 2);
        let weights = weights.as_mut_ptr().cast::<bf16>();
        let queries = queries.as_mut_ptr().cast::<bf16>();
        let (query_row, result_row) = (self.steps * DEPTH, self.columns * SIDE);

        // The queries together, with zeros where there are none.
        for row in 0..QUERIES {
            // SAFETY: a row of the scratch.
            let to =
                unsafe { std::slice::from_raw_parts_mut(queries.add(row * query_row), query_row) };
            let present = if row < rows { depth } else { 0 };
            to[..present].copy_from_slice(&q[(row * width).min(q.len())..][..present]);
            to[present..].fill(bf16::ZERO);
        }
        results.fill(0.0);
        let mut largest = [f32::NEG_INFINITY; QUERIES];
        let mut totals = [0.0; QUERIES];
        // Scores as powers of 2.
        let scale = std::f32::consts::LOG2_E / (depth as f32).sqrt();

        let key_tiles = self.keys[head * self.padded * query_row..].as_ptr();
        let value_tiles = self.values[head * self.padded * result_row..].as_ptr();
        for first in (0..self.padded).step_by(KEYS) {
            let keys = KEYS.min(self.padded - first);
            // SAFETY: the scratch holds 32 rows of scores, weights, queries and results; the tiles of
            // this head hold `padded` keys.
            unsafe {
                let left = Left {
                    start: [queries.cast(), queries.add(SIDE * query_row).cast()],
                    stride: [query_row * 2; 2],
                };
                for pair in 0..keys / (2 * SIDE) {
                    let tiles = key_tiles.add((first + pair * 2 * SIDE) * query_row);
                    let right = [tiles.cast(), tiles.add(SIDE * query_row).cast()];
                    tile::clear();
                    tile::multiply(left, right, tile::BYTES, self.steps);
                    tile::store(scores.as_mut_ptr().add(pair * 2 * SIDE), KEYS * 4);
                }
                let present = keys.min(self.count - first);
                for row in 0..QUERIES {
                    let scores = scores.as_ptr().add(row * KEYS);
                    let weights = weights.add(row * KEYS);
                    let before = largest[row];
                    let (now, total) = if present == KEYS {
                        weigh::<KEYS>(scores, KEYS, KEYS, scale, before, weights)
                    } else {
                        weigh::<0>(scores, present, keys, scale, before, weights)
                    };
                    let kept = (before - now).exp2();
                    totals[row] = totals[row] * kept + total;
                    largest[row] = now;
                    if kept != 1.0 {
                        for result in &mut results[row * result_row..][..result_row] {
                            *result *= kept;
                        }
                    }
                }
                let left = Left {
                    start: [weights.cast(), weights.add(SIDE * KEYS).cast()],
                    stride: [KEYS * 2; 2],
                };
                let step = self.columns * tile::BYTES;
                for pair in 0..self.columns.div_ceil(2) {
                    let tiles = value_tiles.add(first * result_row + pair * 2 * TILE);
                    let to = results.as_mut_ptr().add(pair * 2 * SIDE);
                    if 2 * pair + 1 < self.columns {
                        tile::load(to, result_row * 4);
                        let right = [tiles.cast(), tiles.add(TILE).cast()];
                        tile::multiply(left, right, step, keys / DEPTH);
                        tile::store(to, result_row * 4);
                    } else {
                        tile::load_column(to, result_row * 4);
                        tile::multiply_column(left, tiles.cast(), step, keys / DEPTH);
                        tile::store_column(to, result_row * 4);
                    }
                }
            }
        }

        for row in 0..rows {
            let factor = 1.0 / totals[row];
            for (c, result) in results[row * result_row..][..depth].iter().enumerate() {
                // SAFETY: the caller's own row.
                unsafe { *out.add(row * width + c) = Number::from_f32(result * factor) }
            }
        }
    }
}

/// Turns a row of scores into weights `2^(score · scale - largest)`.
///
/// * `present`: how many of the `keys` scores count; the rest weigh nothing. `N` is both, where they
///   are known, so that the row stays in registers
/// * `before`: the largest scaled score so far
/// * returns the largest one now, and the sum of the weights
///
/// # Safety
/// `keys`, a multiple of 32 up to 256, scores must be readable and as many weights writable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn weigh<const N: usize>(
    scores: *const f32,
    present: usize,
    keys: usize,
    scale: f32,
    before: f32,
    weights: *mut bf16,
) -> (f32, f32) {
    let (present, keys) = if N > 0 { (N, N) } else { (present, keys) };
    let nothing = _mm512_set1_ps(f32::NEG_INFINITY);
    let load = |at: usize| -> __m512 {
        // SAFETY: 16 scores of the row.
        let values = unsafe { _mm512_loadu_ps(scores.add(at)) };
        if N > 0 || at + SIDE <= present {
            values
        } else {
            let count = present.saturating_sub(at).min(SIDE) as u32;
            let mask = ((1u32 << count) - 1) as u16;
            _mm512_mask_blend_ps(mask, nothing, values)
        }
    };
    let mut highest = load(0);
    for at in (SIDE..keys).step_by(SIDE) {
        highest = _mm512_max_ps(highest, load(at));
    }
    let now = before.max(_mm512_reduce_max_ps(highest) * scale);
    let (scales, offset) = (_mm512_set1_ps(scale), _mm512_set1_ps(now));
    let mut sums = [_mm512_setzero_ps(); 2];
    for at in (0..keys).step_by(2 * SIDE) {
        for side in 0..2 {
            let at = at + side * SIDE;
            let weight = exp2(_mm512_fmsub_ps(load(at), scales, offset));
            sums[side] = _mm512_add_ps(sums[side], weight);
            // SAFETY: 16 weights of the row.
            unsafe {
                weights.add(at).cast::<__m256bh>().write_unaligned(_mm512_cvtneps_pbh(weight))
            }
        }
    }
    (now, _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1])))
}

/// `2^x` for `x` up to 0, within 8e-5 of its value, a twentieth of what rounding to bf16 does: the
/// polynomial of degree 3 with the least relative error from -1/2 to 1/2.
#[inline]
#[target_feature(enable = "avx512f")]
fn exp2(x: __m512) -> __m512 {
    let whole = _mm512_roundscale_ps::<0x08>(x);
    let rest = _mm512_sub_ps(x, whole);
    let mut p = _mm512_set1_ps(0.055_171_67);
    p = _mm512_fmadd_ps(p, rest, _mm512_set1_ps(0.242_611_12));
    p = _mm512_fmadd_ps(p, rest, _mm512_set1_ps(0.693_261));
    p = _mm512_fmadd_ps(p, rest, _mm512_set1_ps(0.999_928_1));
    _mm512_scalef_ps(p, whole)
}
