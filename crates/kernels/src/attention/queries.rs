//! Attention in vector registers, with the softmax made as the keys come (Milakov & Gimelshein, 2018; Dao
//! et al., 2022).
//!
//! The queries lie side by side in a register, so everything that a softmax does along the keys is done
//! for sixteen queries at once, and nothing is ever turned around:
//!
//! ```text
//! scores   [key][query]        from a few keys, one number at a time, times all queries
//! weights  [key][query]        where the scores were; the sums stay in registers
//! results  [channel][query] += values, one number at a time, times the weights
//! ```
//!
//! As in AMX, a score is weighed as it is where the lengths of queries and keys show that this cannot
//! overflow, and by its distance from the largest score so far where they do not.

use rayon::prelude::*;

use super::{Heads, length};
use crate::{
    Isa,
    lanes::{LANES, Lanes},
    math::exp,
    memory::{Shared, Values, with_scratch},
    number::Number,
};

/// Keys whose weights are collected before they meet their values: their scores, for 32 queries, stay in
/// the first-level cache. A multiple of the rows of every micro-kernel.
const KEYS: usize = 192;

/// Rows that there is a micro-kernel with, for channels.
const VALUE_ROWS: [usize; 6] = [4, 5, 6, 8, 10, 12];

/// Blocks of queries per task.
const BLOCKS_PER_TASK: usize = 4;

/// The largest score, in powers of e, with which weights need no shift: e^69 times any number of keys and
/// the size of any value is still a number, and e^-69 is not yet 0.
const UNSHIFTED: f32 = 69.0;

/// How numbers are multiplied: words of 32 bits, which hold one f32 or two bf16 that follow each other
/// along the sum.
///
/// The functions that work through a block are not inlined into what calls them, which has no
/// instructions beyond the oldest processor's. That is welcome: in a larger function the compiler finds
/// too few registers, and keeps some of the sums in memory.
///
/// # Safety
/// Its functions may only be called where the processor has its instructions.
unsafe trait Unit {
    type Lanes: Lanes;

    /// Numbers in a word.
    const GROUP: usize;

    /// `sum + a · b`, where `a` is one word and `b` sixteen.
    unsafe fn multiply_add(sum: Self::Lanes, a: f32, b: Self::Lanes) -> Self::Lanes;

    /// `e^x`, as exactly as the words can hold.
    unsafe fn weigh(x: Self::Lanes) -> Self::Lanes;

    /// The words of the weights of one key, or of two.
    unsafe fn words(first: Self::Lanes, second: Self::Lanes) -> Self::Lanes;

    /// [`multiply`] with the unit's instructions.
    unsafe fn multiply<const ROWS: usize, const SIDE: usize>(
        a: *const f32,
        b: *const f32,
        steps: usize,
        c: *mut f32,
        add: bool,
    );

    /// [`weigh_scores`] with the unit's instructions.
    unsafe fn weigh_scores<const SIDE: usize>(
        scores: *mut f32,
        count: usize,
        scale: f32,
        softmax: &mut Softmax<SIDE>,
    );

    /// [`raise_shifts`] with the unit's instructions.
    unsafe fn raise_shifts<const SIDE: usize>(
        scores: *const f32,
        count: usize,
        scale: f32,
        softmax: &mut Softmax<SIDE>,
        results: &mut [f32],
    );
}

/// Makes a [`Unit`] of its own functions and of the instructions that those for a block are compiled with.
macro_rules! unit {
    ($(#[$cfg:meta])? $name:ident, $lanes:ty, [$($(#[$features:meta])+)?], $($own:tt)*) => {
        $(#[$cfg])?
        struct $name;

        $(#[$cfg])?
        // SAFETY: the instructions of the lanes, which the trait demands.
        unsafe impl Unit for $name {
            type Lanes = $lanes;

            $($own)*

            $($(#[$features])+)?
            unsafe fn multiply<const ROWS: usize, const SIDE: usize>(
                a: *const f32,
                b: *const f32,
                steps: usize,
                c: *mut f32,
                add: bool,
            ) {
                // SAFETY: the caller's conditions.
                unsafe { multiply::<$name, ROWS, SIDE>(a, b, steps, c, add) }
            }

            $($(#[$features])+)?
            unsafe fn weigh_scores<const SIDE: usize>(
                scores: *mut f32,
                count: usize,
                scale: f32,
                softmax: &mut Softmax<SIDE>,
            ) {
                // SAFETY: the caller's conditions.
                unsafe { weigh_scores::<$name, SIDE>(scores, count, scale, softmax) }
            }

            $($(#[$features])+)?
            unsafe fn raise_shifts<const SIDE: usize>(
                scores: *const f32,
                count: usize,
                scale: f32,
                softmax: &mut Softmax<SIDE>,
                results: &mut [f32],
            ) {
                // SAFETY: the caller's conditions.
                unsafe { raise_shifts::<$name, SIDE>(scores, count, scale, softmax, results) }
            }
        }
    };
}

/// Words of f32.
macro_rules! whole {
    ($(#[$cfg:meta])? $name:ident, $lanes:ty, $features:tt) => {
        unit! {
            $(#[$cfg])? $name, $lanes, $features,

            const GROUP: usize = 1;

            #[inline(always)]
            unsafe fn multiply_add(sum: $lanes, a: f32, b: $lanes) -> $lanes {
                // SAFETY: the caller's conditions.
                unsafe { <$lanes>::splat(a).mul_add(b, sum) }
            }

            #[inline(always)]
            unsafe fn weigh(x: $lanes) -> $lanes {
                // SAFETY: the caller's conditions.
                unsafe { exp(x) }
            }

            #[inline(always)]
            unsafe fn words(first: $lanes, _: $lanes) -> $lanes {
                first
            }
        }
    };
}

whole!(Portable, crate::lanes::Plain, []);
whole!(
    #[cfg(target_arch = "aarch64")]
    Neon,
    crate::lanes::Neon,
    []
);
whole!(
    #[cfg(target_arch = "x86_64")]
    Avx2,
    crate::lanes::Avx2,
    [#[target_feature(enable = "avx2,fma,f16c")]]
);
whole!(
    #[cfg(target_arch = "x86_64")]
    Avx512,
    crate::lanes::Avx512,
    [#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]]
);
// Words of two bf16.
unit! {
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    crate::lanes::Avx512,
    [#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]],

    const GROUP: usize = 2;

    #[inline(always)]
    unsafe fn multiply_add(sum: Self::Lanes, a: f32, b: Self::Lanes) -> Self::Lanes {
        // SAFETY: the caller's conditions.
        unsafe { sum.add_pairs(Self::Lanes::splat(a), b) }
    }

    #[inline(always)]
    unsafe fn weigh(x: Self::Lanes) -> Self::Lanes {
        // SAFETY: the caller's conditions.
        unsafe { crate::math::exp2_rough(x.mul(Self::Lanes::splat(std::f32::consts::LOG2_E))) }
    }

    #[inline(always)]
    unsafe fn words(first: Self::Lanes, second: Self::Lanes) -> Self::Lanes {
        // SAFETY: the caller's conditions.
        unsafe { first.pairs(second) }
    }
}

/// How far the softmax of `SIDE · 16` queries has come.
struct Softmax<const SIDE: usize> {
    /// What is taken away from each score.
    shifts: [[f32; LANES]; SIDE],
    /// The sums of the weights.
    totals: [[f32; LANES]; SIDE],
}

/// Attention of all queries over all keys, on a rung without AMX.
pub(super) fn attention<T: Number>(isa: Isa, q: &[T], k: &[T], v: &[T], heads: Heads) -> Values<T> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 if T::GROUP == 2 => run::<T, Avx512Bf16, 12, 2>(q, k, v, heads),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => run::<T, Avx512, 12, 2>(q, k, v, heads),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => run::<T, Avx2, 6, 1>(q, k, v, heads),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => run::<T, Neon, 4, 1>(q, k, v, heads),
        _ => run::<T, Portable, 4, 1>(q, k, v, heads),
    }
}

/// With blocks of `SIDE · 16` queries, and a micro-kernel of `ROWS` keys.
fn run<T: Number, U: Unit, const ROWS: usize, const SIDE: usize>(
    q: &[T],
    k: &[T],
    v: &[T],
    heads: Heads,
) -> Values<T> {
    let Heads { batch, heads: count, width } = heads;
    let queries = q.len() / (batch * width);
    let words = Words::new(k, v, heads, U::GROUP, ROWS);
    let scale = 1.0 / (heads.depth() as f32).sqrt();
    let work = Work { q, queries, heads, words, scale };
    // SAFETY: the tasks below write all rows of all heads.
    let mut out: Values<T> = unsafe { Values::unwritten(q.len()) };
    let shared = Shared::new(&mut out);
    let blocks = queries.div_ceil(SIDE * LANES);
    let tasks = blocks.div_ceil(BLOCKS_PER_TASK);
    (0..batch * count * tasks).into_par_iter().with_max_len(1).for_each(|task| {
        let (head, task) = (task / tasks, task % tasks);
        with_scratch(work.scratch(SIDE * LANES), |scratch| {
            for block in task * BLOCKS_PER_TASK..blocks.min((task + 1) * BLOCKS_PER_TASK) {
                // SAFETY: `attention_with` asserted that the processor has the rung; this task alone
                // writes its queries' part of this head.
                unsafe { work.attend::<U, ROWS, SIDE>(head, block, scratch, shared.get()) }
            }
        });
    });
    out
}

/// One number of f32, or two of bf16 that follow each other along a sum.
#[inline(always)]
fn word<T: Number>(group: usize, first: T, second: T) -> f32 {
    if group == 1 {
        return first.to_f32();
    }
    let (low, high) = (first.to_f32().to_bits(), second.to_f32().to_bits());
    f32::from_bits(low >> 16 | high & 0xffff_0000)
}

/// The keys and values of all heads in the order in which the micro-kernels read them.
struct Words {
    /// For each head: `[key / rows][depth / GROUP][key % rows]` words.
    keys: Values<f32>,
    /// For each head: `[channel / value_rows][key / GROUP][channel % value_rows]` words.
    values: Values<f32>,
    /// The length of each head's longest key.
    longest: Vec<f32>,
    count: usize,
    /// Words along the depth, and along the keys.
    steps: usize,
    key_steps: usize,
    /// Keys filled up to whole blocks, and the rows of a block of channels.
    padded: usize,
    value_rows: usize,
    /// Channels filled up to whole blocks.
    channels: usize,
}

impl Words {
    fn new<T: Number>(k: &[T], v: &[T], heads: Heads, group: usize, rows: usize) -> Words {
        let Heads { batch, heads: count, width } = heads;
        let (depth, keys) = (heads.depth(), k.len() / (batch * width));
        let (steps, key_steps) = (depth.div_ceil(group), keys.div_ceil(group));
        let padded = keys.next_multiple_of(rows);
        // As few channels of zeros as can be.
        let value_rows = (rows / 2 + 1..=rows)
            .rev()
            .filter(|rows| VALUE_ROWS.contains(rows))
            .min_by_key(|&rows| depth.next_multiple_of(rows))
            .expect("at least the micro-kernel's own");
        let channels = depth.next_multiple_of(value_rows);
        let mut words = Words {
            keys: Values::zeros(batch * count * padded * steps),
            values: Values::zeros(batch * count * key_steps * channels),
            longest: Vec::new(),
            count: keys,
            steps,
            key_steps,
            padded,
            value_rows,
            channels,
        };
        words.longest = words
            .keys
            .par_chunks_mut(padded * steps)
            .zip(words.values.par_chunks_mut(key_steps * channels))
            .enumerate()
            .map(|(head, (key_words, value_words))| {
                let at = head / count * keys * width + head % count * depth;
                let mut longest = 0.0f32;
                for key in 0..keys {
                    let row = &k[at + key * width..][..depth];
                    longest = longest.max(length(row));
                    let to = &mut key_words[key / rows * rows * steps + key % rows..];
                    for (step, pair) in row.chunks(group).enumerate() {
                        to[step * rows] =
                            word(group, pair[0], *pair.get(1).unwrap_or(&T::default()));
                    }
                }
                for step in 0..key_steps {
                    let row = |key: usize| &v[at + key * width..][..depth];
                    let first = row(step * group);
                    let second = (step * group + 1 < keys).then(|| row(step * group + 1));
                    for (channel, &value) in first.iter().enumerate() {
                        let other = second.map_or(T::default(), |second| second[channel]);
                        let (block, place) = (channel / value_rows, channel % value_rows);
                        value_words[(block * key_steps + step) * value_rows + place] =
                            word(group, value, other);
                    }
                }
                longest
            })
            .collect();
        words
    }
}

/// What all tasks share.
struct Work<'a, T> {
    q: &'a [T],
    queries: usize,
    heads: Heads,
    words: Words,
    scale: f32,
}

impl<T: Number> Work<'_, T> {
    /// Words of scratch memory for a block of so many queries: queries, scores, results.
    fn scratch(&self, queries: usize) -> usize {
        queries * (self.words.steps + KEYS + self.words.channels)
    }

    /// Attention of a block of `SIDE · 16` queries of one head.
    ///
    /// # Safety
    /// The processor must have the unit's instructions, the words be made for it and for `ROWS`, the
    /// scratch have room, and the rows of `out` belong to the caller alone.
    unsafe fn attend<U: Unit, const ROWS: usize, const SIDE: usize>(
        &self,
        head: usize,
        block: usize,
        scratch: &mut [f32],
        out: *mut T,
    ) {
        let (Heads { heads, width, .. }, words) = (self.heads, &self.words);
        let depth = self.heads.depth();
        let across = SIDE * LANES;
        let first = block * across;
        let rows = across.min(self.queries - first);
        let at = (head / heads * self.queries + first) * width + head % heads * depth;

        let (queries, rest) = scratch.split_at_mut(across * words.steps);
        let (scores, results) = rest.split_at_mut(across * KEYS);
        let mut longest = 0.0f32;
        queries.fill(0.0);
        for row in 0..rows {
            let from = &self.q[at + row * width..][..depth];
            longest = longest.max(length(from));
            for (step, pair) in from.chunks(U::GROUP).enumerate() {
                let other = *pair.get(1).unwrap_or(&T::default());
                queries[step * across + row] = word(U::GROUP, pair[0], other);
            }
        }
        results.fill(0.0);
        // What is not a number is not below the limit either.
        let bounded = longest * words.longest[head] * self.scale < UNSHIFTED;

        let keys = words.keys[head * words.padded * words.steps..].as_ptr();
        let values = words.values[head * words.key_steps * words.channels..].as_ptr();
        let scores = scores.as_mut_ptr();
        // SAFETY: the words of this head and the scratch, as they were made above; `out`'s rows are the
        // caller's.
        unsafe {
            let shift = if bounded { 0.0 } else { f32::NEG_INFINITY };
            let mut softmax =
                Softmax { shifts: [[shift; LANES]; SIDE], totals: [[0.0; LANES]; SIDE] };
            for begin in (0..words.count).step_by(KEYS) {
                let count = KEYS.min(words.count - begin);
                for row in (0..count).step_by(ROWS) {
                    let a = keys.add((begin + row) * words.steps);
                    let c = scores.add(row * across);
                    U::multiply::<ROWS, SIDE>(a, queries.as_ptr(), words.steps, c, false);
                }
                if !bounded {
                    U::raise_shifts(scores, count, self.scale, &mut softmax, results);
                }
                U::weigh_scores(scores, count, self.scale, &mut softmax);
                let steps = count.div_ceil(U::GROUP);
                for channel in (0..words.channels).step_by(words.value_rows) {
                    let a =
                        values.add(channel * words.key_steps + begin / U::GROUP * words.value_rows);
                    let c = results.as_mut_ptr().add(channel * across);
                    match words.value_rows {
                        12 => U::multiply::<12, SIDE>(a, scores, steps, c, true),
                        10 => U::multiply::<10, SIDE>(a, scores, steps, c, true),
                        8 => U::multiply::<8, SIDE>(a, scores, steps, c, true),
                        6 => U::multiply::<6, SIDE>(a, scores, steps, c, true),
                        5 => U::multiply::<5, SIDE>(a, scores, steps, c, true),
                        _ => U::multiply::<4, SIDE>(a, scores, steps, c, true),
                    }
                }
            }
            for row in 0..rows {
                let factor = 1.0 / softmax.totals[row / LANES][row % LANES];
                let to = std::slice::from_raw_parts_mut(out.add(at + row * width), depth);
                for (channel, to) in to.iter_mut().enumerate() {
                    *to = T::from_f32(results[channel * across + row] * factor);
                }
            }
        }
    }
}

/// Turns the scores of `count` keys into weights, and adds them up.
///
/// # Safety
/// `scores` must be `[count][SIDE · 16]`, and the processor have the unit's instructions.
#[inline(always)]
unsafe fn weigh_scores<U: Unit, const SIDE: usize>(
    scores: *mut f32,
    count: usize,
    scale: f32,
    softmax: &mut Softmax<SIDE>,
) {
    // SAFETY: the caller's conditions.
    unsafe {
        let scale = U::Lanes::splat(scale);
        let places = softmax.shifts.iter().zip(&mut softmax.totals).enumerate();
        for (side, (shift, totals)) in places {
            let shift = U::Lanes::load(shift.as_ptr());
            let mut total = U::Lanes::load(totals.as_ptr());
            for step in 0..count.div_ceil(U::GROUP) {
                // One or two weights of each query; where there is no second key, it weighs nothing.
                let mut weights = [U::Lanes::splat(0.0); 2];
                for (place, weight) in weights.iter_mut().take(U::GROUP).enumerate() {
                    let key = step * U::GROUP + place;
                    if key < count {
                        let score = U::Lanes::load(scores.add((key * SIDE + side) * LANES));
                        *weight = U::weigh(score.mul(scale).sub(shift));
                        total = total.add(*weight);
                    }
                }
                // Where scores were that have been read.
                let words = U::words(weights[0], weights[1]);
                words.store(scores.add((step * SIDE + side) * LANES));
            }
            total.store(totals.as_mut_ptr());
        }
    }
}

/// Raises the shifts to the largest of the scores of `count` more keys, and brings down what was summed
/// before.
///
/// # Safety
/// As [`weigh_scores`]; `results` has whole rows of `SIDE · 16`.
#[inline(always)]
unsafe fn raise_shifts<U: Unit, const SIDE: usize>(
    scores: *const f32,
    count: usize,
    scale: f32,
    softmax: &mut Softmax<SIDE>,
    results: &mut [f32],
) {
    // SAFETY: the caller's conditions.
    unsafe {
        let scale = U::Lanes::splat(scale);
        let places = softmax.shifts.iter_mut().zip(&mut softmax.totals).enumerate();
        for (side, (shifts, totals)) in places {
            let before = U::Lanes::load(shifts.as_ptr());
            let mut largest = before;
            for key in 0..count {
                let score = U::Lanes::load(scores.add((key * SIDE + side) * LANES));
                largest = largest.max(score.mul(scale));
            }
            largest.store(shifts.as_mut_ptr());
            let kept = exp(before.sub(largest));
            U::Lanes::load(totals.as_ptr()).mul(kept).store(totals.as_mut_ptr());
            for row in results.chunks_exact_mut(SIDE * LANES) {
                let result = row.as_mut_ptr().add(side * LANES);
                U::Lanes::load(result).mul(kept).store(result);
            }
        }
    }
}

/// `c[row] = Σ a[step][row] · b[step]`, or `c[row] += …`, for `SIDE · 16` columns.
///
/// # Safety
/// * `a`: `[steps][ROWS]` words
/// * `b`: `[steps][SIDE · 16]` words
/// * `c`: `[ROWS][SIDE · 16]`
///
/// and the processor must have the unit's instructions.
#[inline(always)]
unsafe fn multiply<U: Unit, const ROWS: usize, const SIDE: usize>(
    a: *const f32,
    b: *const f32,
    steps: usize,
    c: *mut f32,
    add: bool,
) {
    // SAFETY: the caller's conditions.
    unsafe {
        let mut sums = [[U::Lanes::splat(0.0); SIDE]; ROWS];
        for step in 0..steps {
            let (a, b) = (a.add(step * ROWS), b.add(step * SIDE * LANES));
            let mut right = [U::Lanes::splat(0.0); SIDE];
            for (side, right) in right.iter_mut().enumerate() {
                *right = U::Lanes::load(b.add(side * LANES));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = U::multiply_add(*sum, *a.add(row), right);
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (side, sum) in sums.into_iter().enumerate() {
                let c = c.add((row * SIDE + side) * LANES);
                let sum = if add { U::Lanes::load(c).add(sum) } else { sum };
                sum.store(c);
            }
        }
    }
}
