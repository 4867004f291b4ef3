//! Attention in AMX tiles, with the softmax made as the keys come (Milakov & Gimelshein, 2018; Dao et
//! al., 2022): the scores of 32 queries and a few keys at a time, never all of them.
//!
//! A weight is `2^(score - shift)` of its row, divided at the end by the sum of all. Any shift will do
//! as long as nothing overflows and not everything vanishes. Where the lengths of queries and keys
//! show that no score is beyond ±100 (in powers of 2), which is nearly always, it is 0, and each score
//! is weighed at once, while the tiles compute the next ones. Otherwise it is the largest score so far.

use std::arch::x86_64::{
    __m512, __m512bh, _mm512_cvtne2ps_pbh, _mm512_fmadd_ps, _mm512_fmsub_ps, _mm512_loadu_ps,
    _mm512_max_ps, _mm512_mul_ps, _mm512_reduce_max_ps, _mm512_roundscale_ps, _mm512_scalef_ps,
    _mm512_set1_ps, _mm512_sub_ps,
};

use half::bf16;
use rayon::prelude::*;

use super::{Heads, length};
use crate::{
    lanes::{Avx512, LANES, Lanes, store},
    memory::{Shared, Values, with_scratch},
    tile::{self, Left},
};

/// Queries that are worked on at once: two tiles of rows.
const QUERIES: usize = 32;

/// Keys whose scores are made at once: two tiles of columns.
const PAIR: usize = 32;

/// Keys whose weights are collected before they meet their values.
const KEYS: usize = 256;

/// Blocks of queries per task.
const BLOCKS_PER_TASK: usize = 4;

/// Rows and columns of a tile.
const SIDE: usize = 16;

/// Numbers of the sum in a tile.
const DEPTH: usize = 32;

/// Numbers of bf16 in a tile.
const TILE: usize = SIDE * DEPTH;

/// The largest score, as a power of 2, with which weights need no shift: 2^100 times any number of keys
/// and the size of any value is still a number, and 2^-100 is not yet 0.
const UNSHIFTED: f32 = 100.0;

/// The keys and values of all heads, as tiles.
struct Tiles {
    /// For each head: `[key / 16][depth / 32]` tiles of `[depth / 2][key][depth % 2]`.
    keys: Values<bf16>,
    /// For each head: `[key / 32][depth / 16]` tiles of `[key / 2][depth][key % 2]`, where one more
    /// value, behind the others, is 1 for each key that exists: it becomes the sum of the weights.
    values: Values<bf16>,
    /// The length of each head's longest key.
    longest: Vec<f32>,
    /// Keys, and the same up to whole pairs of tiles.
    count: usize,
    padded: usize,
    /// Steps of a sum over the depth, and tiles of a row of results.
    steps: usize,
    columns: usize,
}

pub(super) fn attention(q: &[bf16], k: &[bf16], v: &[bf16], heads: Heads) -> Values<bf16> {
    let Heads { batch, heads: count, width } = heads;
    let depth = heads.depth();
    let queries = q.len() / (batch * width);
    let tiles = Tiles::new(k, v, heads);

    // SAFETY: the tasks below write all rows of all heads.
    let mut out: Values<bf16> = unsafe { Values::unwritten(q.len()) };
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
                    let place = Place { rows, width, depth, head };
                    tiles.attend(&q[at..last], shared.get().add(at), place, scratch);
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
        let (steps, columns) = (depth.div_ceil(DEPTH), (depth + 1).div_ceil(SIDE));
        // SAFETY: each task below writes the tiles of one head, all of them.
        let (mut key_tiles, mut value_tiles): (Values<bf16>, Values<bf16>) = unsafe {
            (
                Values::unwritten(batch * count * padded * steps * DEPTH),
                Values::unwritten(batch * count * padded * columns * SIDE),
            )
        };
        let longest = key_tiles
            .par_chunks_mut(padded * steps * DEPTH)
            .zip(value_tiles.par_chunks_mut(padded * columns * SIDE))
            .enumerate()
            .map(|(head, (key_tiles, value_tiles))| {
                let at = head / count * keys * width + head % count * depth;
                let row = |x: &'_ [bf16], key: usize| -> *const bf16 {
                    x[at + key * width..][..depth].as_ptr()
                };
                for (index, tile) in key_tiles.chunks_exact_mut(TILE).enumerate() {
                    let (first, step) = (index / steps * SIDE, index % steps * DEPTH);
                    let present = DEPTH.min(depth - step);
                    if first + SIDE > keys || present < DEPTH {
                        tile.fill(bf16::ZERO);
                    }
                    for key in first..keys.min(first + SIDE) {
                        // SAFETY: the rest of a row of `depth` numbers, up to `present`.
                        let from = unsafe { row(k, key).add(step) };
                        for c in 0..present / 2 {
                            let place = c * DEPTH + (key - first) * 2;
                            // SAFETY: as above; two numbers side by side in both.
                            unsafe {
                                let pair = from.add(2 * c).cast::<[bf16; 2]>().read_unaligned();
                                *tile.as_mut_ptr().add(place).cast::<[bf16; 2]>() = pair;
                            }
                        }
                        if !present.is_multiple_of(2) {
                            let place = present / 2 * DEPTH + (key - first) * 2;
                            // SAFETY: as above.
                            tile[place] = unsafe { *from.add(present - 1) };
                        }
                    }
                }
                for (index, tile) in value_tiles.chunks_exact_mut(TILE).enumerate() {
                    let (first, column) = (index / columns * DEPTH, index % columns * SIDE);
                    let present = SIDE.min(depth.saturating_sub(column));
                    if first + DEPTH > keys || present < SIDE {
                        tile.fill(bf16::ZERO);
                    }
                    let ones = present < SIDE && column + present == depth;
                    for key in first..keys.min(first + DEPTH) {
                        // SAFETY: as many numbers of the row as are present.
                        let from = unsafe {
                            std::slice::from_raw_parts(row(v, key).wrapping_add(column), present)
                        };
                        let to = &mut tile[(key - first) / 2 * DEPTH..][..DEPTH];
                        for (c, value) in from.iter().enumerate() {
                            to[2 * c + key % 2] = *value;
                        }
                        if ones {
                            to[2 * present + key % 2] = bf16::ONE;
                        }
                    }
                }
                (0..keys).map(|key| length(&k[at + key * width..][..depth])).fold(0.0, f32::max)
            })
            .collect();
        Tiles { keys: key_tiles, values: value_tiles, longest, count: keys, padded, steps, columns }
    }

    /// Numbers of f32 that [`attend`](Tiles::attend) needs: scores, weights, queries, results.
    fn scratch(&self) -> usize {
        QUERIES * (KEYS + KEYS / 2 + self.steps * DEPTH / 2 + self.columns * SIDE)
    }

    /// Attention of up to 32 queries of one head.
    ///
    /// * `q`, `out`: the first row's part of the head and what follows it
    ///
    /// # Safety
    /// The processor must have AMX and its tiles be configured; the rows of `out` belong to the caller
    /// alone.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn attend(
        &self,
        q: &[bf16],
        out: *mut bf16,
        Place { rows, width, depth, head }: Place,
        scratch: &mut [f32],
    ) {
        let (scores, rest) = scratch.split_at_mut(QUERIES * KEYS);
        let (weights, rest) = rest.split_at_mut(QUERIES * KEYS / 2);
        let (queries, results) = rest.split_at_mut(QUERIES * self.steps * DEPTH / 2);
        let queries = queries.as_mut_ptr().cast::<bf16>();
        let (query_row, result_row) = (self.steps * DEPTH, self.columns * SIDE);

        // The queries together, with zeros where there are none.
        let mut longest = 0.0f32;
        for row in 0..QUERIES {
            // SAFETY: a row of the scratch.
            let to =
                unsafe { std::slice::from_raw_parts_mut(queries.add(row * query_row), query_row) };
            let present = if row < rows { depth } else { 0 };
            to[..present].copy_from_slice(&q[(row * width).min(q.len())..][..present]);
            to[present..].fill(bf16::ZERO);
            longest = longest.max(length(&to[..present]));
        }
        results.fill(0.0);
        // Scores as powers of 2.
        let scale = std::f32::consts::LOG2_E / (depth as f32).sqrt();
        let work = Work {
            tiles: self,
            queries,
            keys: self.keys[head * self.padded * query_row..].as_ptr(),
            values: self.values[head * self.padded * result_row..].as_ptr(),
            scores: scores.as_mut_ptr(),
            weights: weights.as_mut_ptr().cast(),
            results: results.as_mut_ptr(),
            scale,
        };
        // Not a number is not below the limit either.
        // SAFETY: the caller's conditions; the scratch holds 32 rows of scores, weights, queries and
        // results, and the tiles of this head `padded` keys.
        unsafe {
            if longest * self.longest[head] * scale < UNSHIFTED {
                work.unshifted();
            } else {
                work.shifted();
            }
        }
        for row in 0..rows {
            let results = &results[row * result_row..][..result_row];
            for c in (0..depth).step_by(LANES) {
                // SAFETY: the caller's own row.
                unsafe {
                    let factor = Avx512::splat(1.0 / results[depth]);
                    let values = Avx512::load(results.as_ptr().add(c)).mul(factor);
                    store(values, out.add(row * width + c), LANES.min(depth - c));
                }
            }
        }
    }
}

/// Which rows a block of queries is.
struct Place {
    /// How many.
    rows: usize,
    /// Numbers from one to the next.
    width: usize,
    /// Numbers of this head in each.
    depth: usize,
    head: usize,
}

/// What one block of queries works with.
struct Work<'a> {
    tiles: &'a Tiles,
    queries: *const bf16,
    keys: *const bf16,
    values: *const bf16,
    scores: *mut f32,
    weights: *mut bf16,
    results: *mut f32,
    scale: f32,
}

impl Work<'_> {
    /// The scores of two tiles of keys, into 32 rows `stride` bytes apart.
    ///
    /// # Safety
    /// As [`Tiles::attend`].
    #[inline(always)]
    unsafe fn score(&self, pair: usize, to: *mut f32, stride: usize) {
        // SAFETY: the caller's conditions.
        unsafe {
            let row = self.tiles.steps * DEPTH;
            let left = Left {
                start: [self.queries.cast(), self.queries.add(SIDE * row).cast()],
                stride: [row * size_of::<bf16>(); 2],
            };
            let tiles = self.keys.add(pair * PAIR * row);
            tile::clear();
            let right = [tiles.cast(), tiles.add(SIDE * row).cast()];
            tile::multiply(left, right, tile::BYTES, self.tiles.steps);
            tile::store(to, stride);
        }
    }

    /// Adds to the results the values of `count` keys from `first` on, times their weights.
    ///
    /// # Safety
    /// As [`Tiles::attend`].
    #[inline(always)]
    unsafe fn add_values(&self, first: usize, count: usize) {
        // SAFETY: the caller's conditions.
        unsafe {
            let row = self.tiles.columns * SIDE;
            let stride = row * size_of::<f32>();
            let left = Left {
                start: [self.weights.cast(), self.weights.add(SIDE * KEYS).cast()],
                stride: [KEYS * size_of::<bf16>(); 2],
            };
            let (steps, step) = (count / DEPTH, self.tiles.columns * tile::BYTES);
            for column in (0..self.tiles.columns).step_by(2) {
                let tiles = self.values.add(first * row + column * TILE);
                let to = self.results.add(column * SIDE);
                if column + 1 < self.tiles.columns {
                    tile::load(to, stride);
                    tile::multiply(left, [tiles.cast(), tiles.add(TILE).cast()], step, steps);
                    tile::store(to, stride);
                } else {
                    tile::load_column(to, stride);
                    tile::multiply_column(left, tiles.cast(), step, steps);
                    tile::store_column(to, stride);
                }
            }
        }
    }

    /// Weighs every score as it is. The scores of a pair of tiles are made while those of the pair
    /// before are weighed: the tiles' unit and the vectors' work at the same time.
    ///
    /// # Safety
    /// As [`Tiles::attend`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn unshifted(&self) {
        let pairs = self.tiles.padded / PAIR;
        let scale = _mm512_set1_ps(self.scale);
        // SAFETY: the caller's conditions; two pairs of scores fit where 256 keys would.
        unsafe {
            let place = |pair: usize| self.scores.add(pair % 2 * QUERIES * PAIR);
            self.score(0, place(0), PAIR * size_of::<f32>());
            let row = self.tiles.steps * DEPTH;
            let (halves, stride) = (2 * self.tiles.steps, row * size_of::<bf16>());
            for pair in 0..pairs {
                let column = pair * PAIR % KEYS;
                let (scores, weights) = (place(pair), self.weights.add(column));
                let next = pair + 1 < pairs;
                if next {
                    tile::clear();
                }
                for half in 0..halves {
                    // Half a step of the next scores, and meanwhile some rows of these.
                    if next {
                        let step = half / 2;
                        let queries = self.queries.add(step * DEPTH + half % 2 * SIDE * row).cast();
                        if half % 2 == 0 {
                            let tiles = self.keys.add((pair + 1) * PAIR * row + step * TILE);
                            let right = [tiles.cast(), tiles.add(SIDE * row).cast()];
                            tile::multiply_upper(queries, stride, right);
                        } else {
                            tile::multiply_lower(queries, stride);
                        }
                    }
                    for row in QUERIES * half / halves..QUERIES * (half + 1) / halves {
                        let weigh = |at: usize| {
                            let scores = _mm512_loadu_ps(scores.add(row * PAIR + at));
                            exp2(_mm512_mul_ps(scores, scale))
                        };
                        put(weights.add(row * KEYS), weigh(0), weigh(SIDE));
                    }
                }
                if next {
                    tile::store(place(pair + 1), PAIR * size_of::<f32>());
                }
                if column + PAIR == KEYS || pair + 1 == pairs {
                    self.add_values(pair * PAIR - column, column + PAIR);
                }
            }
        }
    }

    /// Weighs scores by how far they are from the largest one of their row so far, and brings what was
    /// summed before down when a larger one comes.
    ///
    /// # Safety
    /// As [`Tiles::attend`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn shifted(&self) {
        let scale = _mm512_set1_ps(self.scale);
        let mut largest = [f32::NEG_INFINITY; QUERIES];
        let row_len = self.tiles.columns * SIDE;
        for first in (0..self.tiles.padded).step_by(KEYS) {
            let keys = KEYS.min(self.tiles.padded - first);
            // SAFETY: the caller's conditions.
            unsafe {
                for pair in 0..keys / PAIR {
                    let to = self.scores.add(pair * PAIR);
                    self.score(first / PAIR + pair, to, KEYS * size_of::<f32>());
                }
                for (row, largest) in largest.iter_mut().enumerate() {
                    let scores = self.scores.add(row * KEYS);
                    // Scores of keys that do not exist.
                    for key in self.tiles.count.saturating_sub(first).min(keys)..keys {
                        *scores.add(key) = f32::NEG_INFINITY;
                    }
                    let mut highest = _mm512_loadu_ps(scores);
                    for at in (SIDE..keys).step_by(SIDE) {
                        highest = _mm512_max_ps(highest, _mm512_loadu_ps(scores.add(at)));
                    }
                    let now = largest.max(_mm512_reduce_max_ps(highest) * self.scale);
                    let kept = libm::exp2f(*largest - now);
                    *largest = now;
                    let results =
                        std::slice::from_raw_parts_mut(self.results.add(row * row_len), row_len);
                    results.iter_mut().for_each(|result| *result *= kept);
                    let shift = _mm512_set1_ps(now);
                    for at in (0..keys).step_by(PAIR) {
                        let weigh = |at: usize| {
                            let scores = _mm512_loadu_ps(scores.add(at));
                            exp2(_mm512_fmsub_ps(scores, scale, shift))
                        };
                        put(self.weights.add(row * KEYS + at), weigh(at), weigh(at + SIDE));
                    }
                }
                self.add_values(first, keys);
            }
        }
    }
}

/// Rounds and stores 32 weights.
///
/// # Safety
/// They must be writable.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn put(to: *mut bf16, first: __m512, second: __m512) {
    // SAFETY: the caller's 32 numbers.
    unsafe { to.cast::<__m512bh>().write_unaligned(_mm512_cvtne2ps_pbh(second, first)) }
}

/// `2^x` from -126 to 127, within 8e-5 of its value, a twentieth of what rounding to bf16 does: the
/// polynomial of degree 3 with the least relative error from -1/2 to 1/2 (`scripts/fit.py`).
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
