//! Low-rank changes of a weight: adapters, added to its rows before they are packed.
//!
//! A stack of adapters changes a weight by `Σ scaleₐ · leftₐ · rightₐ`, a sum of products of thin matrices.
//! With all left factors side by side and all right ones below each other it is one product, whose sum
//! over the ranks of all adapters is made in the micro-kernels' registers: as much arithmetic as the
//! products one by one, but the weight is passed once, while it lies in the cache.

use super::{
    Job, Kind, Operand, PAIR, PANEL, Packed,
    micro::{Block, MOST_ROWS, Micro},
    pack,
};
use crate::{
    Isa,
    lanes::{self, LANES, on_lanes},
    memory::{Shared, Values, with_scratch},
};

/// One pair of factors: the change `scale · left · right`.
#[derive(Debug, Clone, Copy)]
pub struct Factors<'a> {
    /// `(outputs, rank)`
    pub left: &'a [f32],
    /// `(rank, width)`, where `width` is a row of the weight: its inputs times its taps.
    pub right: &'a [f32],
    /// How many columns and rows they have.
    pub rank: usize,
    /// What the product is multiplied by.
    pub scale: f32,
}

/// A sum of changes by pairs of factors, which are rounded to `T`; sums are f32.
#[derive(Debug)]
pub struct LowRank<T> {
    /// `(outputs, all ranks)`, scaled.
    left: Values<T>,
    /// `(width, all ranks)`, as if it were the weights of a layer.
    right: Packed<T>,
}

impl<T: Operand> LowRank<T> {
    /// From factors that change one weight; the order in which they come is that of the sum.
    ///
    /// # Panics
    /// If there are none, or they are not of one weight.
    #[must_use]
    pub fn new(pairs: &[Factors<'_>]) -> LowRank<T> {
        LowRank::for_isa(Isa::current(), pairs)
    }

    /// [`new`](LowRank::new) as one rung likes it best. Any rung can multiply with it.
    pub(crate) fn for_isa(isa: Isa, pairs: &[Factors<'_>]) -> LowRank<T> {
        let (outputs, width) = match pairs {
            [first, ..] => (first.left.len() / first.rank, first.right.len() / first.rank),
            [] => panic!("at least one pair of factors"),
        };
        for pair in pairs {
            assert_eq!(pair.left.len(), outputs * pair.rank, "left factors of one weight");
            assert_eq!(pair.right.len(), width * pair.rank, "right factors of one weight");
        }
        let ranks: usize = pairs.iter().map(|pair| pair.rank).sum();
        let mut left = Values::zeros(outputs * ranks);
        put_left(pairs, 0, &mut left);
        let right = pairs.iter().flat_map(|pair| pair.right.chunks_exact(width));
        let right = Packed::from_inputs(isa, width, &right.collect::<Vec<_>>());
        LowRank { left, right }
    }

    /// Adds the change of some rows of the weight, from row `first` on, to `sum`: `(rows, width)`. On the
    /// calling thread.
    ///
    /// # Panics
    /// If there are no such rows.
    pub fn add_to(&self, first: usize, sum: &mut [f32]) {
        self.add_with(Isa::current(), first, sum);
    }

    /// [`add_to`](LowRank::add_to) with the kernels of one rung.
    pub(crate) fn add_with(&self, isa: Isa, first: usize, sum: &mut [f32]) {
        let to = Target::Rows(Shared::new(sum));
        self.run(isa, first, sum.len(), to);
    }

    /// Packs the sum of `base`, `(rows, width)` of a linear layer's weight from row `first` on, and the change
    /// of these rows. On the calling thread.
    ///
    /// * `panels`: of the rows, those that are missing in the last one as zeros
    pub(super) fn pack_with(&self, isa: Isa, first: usize, base: &[f32], panels: &mut [T]) {
        let width = self.right.outputs();
        let (padded, rows) = (width.next_multiple_of(T::STEP), base.len() / width);
        assert_eq!(panels.len(), rows.div_ceil(PANEL) * PANEL * padded, "panels of all rows");
        if padded != width {
            panels.fill(T::default());
        }
        self.run(isa, first, base.len(), Target::Panels(base, Shared::new(panels)));
    }

    fn run(&self, isa: Isa, first: usize, len: usize, to: Target<'_, T>) {
        let (width, ranks) = (self.right.outputs(), self.right.inputs());
        assert_eq!(len % width, 0, "whole rows");
        let rows = len / width;
        let left = &self.left[first * ranks..][..rows * ranks];
        let addition = Addition { left, right: &self.right, rows, to };
        T::dispatch(isa, &Job(Kind::Addition(&addition)));
    }
}

/// Where a change goes.
enum Target<'a, T> {
    /// It is added to rows of the weight, `(rows, width)`.
    Rows(Shared<f32>),
    /// What it makes of such rows is packed in panels.
    Panels(&'a [f32], Shared<T>),
}

/// Rows of a weight's change, and where they go.
pub(super) struct Addition<'a, T> {
    /// `(rows, ranks)`
    left: &'a [T],
    right: &'a Packed<T>,
    rows: usize,
    to: Target<'a, T>,
}

impl<T: Operand> Addition<'_, T> {
    pub(super) fn run<M: Micro<T>>(&self) {
        let (width, ranks) = (self.right.outputs(), self.right.inputs());
        let chunks = self.right.chunks();
        let widest = chunks.iter().map(|chunk| chunk.len()).max().unwrap_or(0);
        let (size, blocks) = (M::ROWS * PAIR, self.rows.div_ceil(M::ROWS));
        let (gathered, taps) = (M::scratch(1, widest), [0]);
        // The changes of all rows in a pair of panels: they stay in the first-level cache.
        let sums = (blocks * M::ROWS).next_multiple_of(PANEL) * PAIR;
        let mut ready = Vec::with_capacity(chunks.len() * blocks);
        with_scratch(sums + chunks.len() * blocks * gathered, |scratch| {
            let (c, scratch) = scratch.split_at_mut(sums);
            // SAFETY: the processor has the instructions (`dispatch` asserted it); all rows lie inside
            // `left`, and what is missing at the end repeats the last one; each block has a part of the
            // scratch for itself; the weights hold every panel of every chunk, and `c` a block of sums.
            unsafe {
                M::enter();
                for (chunk, block) in chunks.iter().flat_map(|c| (0..blocks).map(move |b| (c, b))) {
                    let row = |row: usize| (block * M::ROWS + row).min(self.rows - 1) * ranks;
                    let rows: [usize; MOST_ROWS] = std::array::from_fn(row);
                    let block = Block::of(self.left, &rows[..M::ROWS], &taps, chunk, ranks);
                    let scratch = scratch.as_mut_ptr().add(ready.len() * gathered);
                    ready.push(M::prepare(&block, scratch));
                }
                for column in (0..width).step_by(PAIR) {
                    let left = column / PANEL;
                    let right = if column + PANEL < width { left + 1 } else { left };
                    for (block, c) in c.chunks_exact_mut(size).take(blocks).enumerate() {
                        for (at, chunk) in chunks.iter().enumerate() {
                            let b = [left, right].map(|at| self.right.panel(0, at, chunk.start));
                            let a = &ready[at * blocks + block];
                            M::multiply(a, b[0], b[1], c.as_mut_ptr(), at > 0);
                        }
                    }
                    self.put(c, column);
                }
                M::leave();
            }
        });
    }

    /// Brings the change in a pair of panels to where it goes.
    ///
    /// * `c`: `(rows, 32)`
    ///
    /// # Safety
    /// This thread alone has the rows or panels.
    #[inline(always)]
    unsafe fn put(&self, c: &[f32], column: usize) {
        let width = self.right.outputs();
        let columns = PAIR.min(width - column);
        match &self.to {
            Target::Rows(sum) => {
                let len = (self.rows - 1) * width + columns;
                // SAFETY: the columns lie in all rows, which this thread has.
                let sum = unsafe { std::slice::from_raw_parts_mut(sum.get().add(column), len) };
                add_block(&c[..self.rows * PAIR], sum, width, columns);
            }
            Target::Panels(base, panels) => {
                let panel_len = PANEL * width.next_multiple_of(T::STEP);
                for panel in 0..self.rows.div_ceil(PANEL) {
                    let first = panel * PANEL;
                    let rows = PANEL.min(self.rows - first);
                    let base = &base[first * width + column..][..(rows - 1) * width + columns];
                    let change = &c[first * PAIR..][..PANEL * PAIR];
                    let len = columns.next_multiple_of(T::STEP) * PANEL;
                    let at = panel * panel_len + column * PANEL;
                    // SAFETY: inside the panel, which this thread has.
                    let to = unsafe { std::slice::from_raw_parts_mut(panels.get().add(at), len) };
                    pack::pack_sum(base, (rows, width), change, to, columns);
                }
            }
        }
    }
}

/// Puts the left factors of all pairs side by side, scaled and rounded.
///
/// * `to`: `(outputs, all ranks)`, from output `first` on
///
/// # Panics
/// If there are no whole rows.
pub fn put_left<T: Operand>(pairs: &[Factors<'_>], first: usize, to: &mut [T]) {
    let ranks: usize = pairs.iter().map(|pair| pair.rank).sum();
    assert_eq!(to.len() % ranks.max(1), 0, "whole rows");
    let mut begin = 0;
    for pair in pairs.iter().filter(|pair| pair.rank > 0) {
        let left = &pair.left[first * pair.rank..];
        put_scaled(&Factors { left, ..*pair }, to, begin, ranks);
        begin += pair.rank;
    }
}

on_lanes! {
    /// Puts a pair's left factor into `to`: `(outputs, ranks)`, from column `begin` on.
    fn put_scaled<T: Operand>(pair: &Factors<'_>, to: &mut [T], begin: usize, ranks: usize) {
        let rows = to.chunks_exact_mut(ranks).zip(pair.left.chunks_exact(pair.rank));
        for (to, from) in rows {
            let to = &mut to[begin..][..from.len()];
            for at in (0..from.len()).step_by(LANES) {
                let count = LANES.min(from.len() - at);
                // SAFETY: `count` numbers from `at` on are in both rows.
                unsafe {
                    let scaled = lanes::load::<L, f32>(from.as_ptr().add(at), count).mul(L::splat(pair.scale));
                    lanes::store(scaled, to.as_mut_ptr().add(at), count);
                }
            }
        }
    }
}

on_lanes! {
    /// Adds the first `columns` of each row of a block of sums to rows that begin `width` apart.
    fn add_block(c: &[f32], sum: &mut [f32], width: usize, columns: usize) {
        for (row, c) in c.chunks_exact(PAIR).enumerate() {
            let sum = &mut sum[row * width..][..columns];
            for at in (0..columns).step_by(LANES) {
                let (count, to) = (LANES.min(columns - at), sum[at..].as_mut_ptr());
                // SAFETY: `count` numbers from `at` on are in both rows.
                unsafe {
                    let sum: L = lanes::load(to, count);
                    lanes::store(sum.add(L::load(c.as_ptr().add(at))), to, count);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::{
        product::{Sampling, pack::rows_of},
        testing::{numbers, rungs},
    };

    fn agrees<T: Operand>(tolerance: f64) {
        for (outputs, width, ranks) in [
            (1, 1, vec![1]),
            (5, 40, vec![4]),
            (70, 33, vec![3, 8]),
            (48, 200, vec![32, 16, 32]),
            (13, 64, vec![500, 300]),
        ] {
            let factors: Vec<_> = (ranks.iter().enumerate())
                .map(|(i, rank)| {
                    let seed = 2 * i as u64;
                    (numbers(outputs * rank, seed), numbers(rank * width, seed + 1), *rank)
                })
                .collect();
            let pairs: Vec<_> = (factors.iter().enumerate())
                .map(|(i, (left, right, rank))| Factors {
                    left,
                    right,
                    rank: *rank,
                    scale: 0.5 + i as f32,
                })
                .collect();
            let base = numbers(outputs * width, 99);
            let exact = |output: usize, at: usize| {
                let product = |pair: &Factors<'_>| {
                    let each = (0..pair.rank).map(|rank| {
                        let left = f64::from(pair.left[output * pair.rank + rank]);
                        left * f64::from(pair.right[rank * width + at])
                    });
                    f64::from(pair.scale) * each.sum::<f64>()
                };
                pairs.iter().map(product).sum::<f64>() + f64::from(base[output * width + at])
            };
            let usual = (ranks.iter().sum::<usize>() as f64).sqrt();
            for isa in rungs() {
                let low_rank = LowRank::<T>::for_isa(isa, &pairs);
                // In two parts, of which the first is no whole block.
                let mut sum = base.clone();
                let (a, b) = sum.split_at_mut(outputs / 3 * width);
                if !a.is_empty() {
                    low_rank.add_with(isa, 0, a);
                }
                low_rank.add_with(isa, outputs / 3, b);
                let packed = |rows: &[f32], change| {
                    let rows = (rows_of(rows, width), change);
                    let Ok(packed) =
                        Packed::<T>::for_isa(isa, outputs, width, 1, None, Sampling::Same, rows);
                    packed.values().map(f32::to_bits).collect::<Vec<_>>()
                };
                let what = format!("{isa} {outputs}x{width} {ranks:?}");
                assert!(packed(&base, Some(&low_rank)) == packed(&sum, None), "packed: {what}");
                for (i, ours) in sum.iter().enumerate() {
                    let error = (f64::from(*ours) - exact(i / width, i % width)).abs();
                    assert!(error < tolerance * usual, "{what}: {error}");
                }
            }
        }
    }

    #[test]
    fn it_adds_the_products_on_every_rung() {
        agrees::<f32>(1e-6);
        agrees::<bf16>(2e-2);
    }
}
