//! Matrix products with packed weights: linear layers and convolutions, in one skeleton.
//!
//! A convolution is a matrix product whose rows are spread over the image: output pixel `m` is the sum
//! over the taps of the kernel of (the pixel that the tap sees) · (the tap's weights). So nothing is
//! copied into a matrix: the skeleton asks [`Rows`] where row `m` begins, adds the tap's offset, and
//! multiplies the channels that lie there. A linear layer has one tap.
//!
//! ```text
//! task     a range of rows × a range of outputs; the tasks depend on the shapes alone
//!  chunk   a range of inputs whose packed weights stay in the second-level cache
//!   block  the rows that one micro-kernel takes at once: gathered, or where they lie
//!    pair  two panels of 16 outputs: one call of the micro-kernel, 32 columns wide
//!     end  bias, time embedding, activation, residual; rounded once and stored
//! ```
//!
//! A 3 × 3 convolution may take another way, with fewer products: [`winograd`].
//!
//! Each number of the result is summed in one order, tap by tap and input by input within a chunk,
//! whatever the number of threads.

mod finish;
mod low_rank;
mod micro;
mod pack;
mod rows;
mod winograd;

use half::bf16;
use rayon::prelude::*;

pub(crate) use self::pack::PANEL;
use self::{
    finish::End,
    micro::{Block, Micro},
    rows::Rows,
};
pub use self::{
    finish::{Activation, Extras},
    low_rank::{Factors, LowRank, put_left},
    pack::{Packed, Sampling},
};
use crate::{
    Isa,
    conv::{Padded, Size, Window},
    memory::{Shared, Values, with_scratch},
    number::Number,
};

/// Columns of one call of a micro-kernel: two panels.
const PAIR: usize = 2 * PANEL;

/// A linear layer: `out[r, o] = bias[o] + Σᵢ x[r, i] · w[o, i]`, and what [`Extras`] adds.
///
/// * `x`: `(rows, inputs)`
/// * returns `(rows, outputs)`, or `(rows, outputs / 2)` if gated
///
/// # Panics
/// If the lengths of the slices do not agree.
#[must_use]
pub fn linear<T: Operand>(x: &[T], w: &Packed<T>, extras: &Extras<'_, T>) -> Values<T> {
    linear_with(Isa::current(), x, w, extras)
}

/// [`linear`] with the kernels of one rung.
///
/// # Panics
/// As [`linear`], and if the processor does not have the rung.
#[must_use]
pub fn linear_with<T: Operand>(
    isa: Isa,
    x: &[T],
    w: &Packed<T>,
    extras: &Extras<'_, T>,
) -> Values<T> {
    assert_eq!(x.len() % w.inputs(), 0, "whole rows");
    assert_eq!(w.taps(), 1, "a linear layer");
    let rows = Rows::matrix(x.len() / w.inputs(), w.inputs());
    let width = extras.width(w.outputs());
    // SAFETY: each row of the result is written by the product below.
    let mut out = unsafe { Values::unwritten(rows.count() * width) };
    product(isa, x, &rows, w, 0, extras, &mut out);
    out
}

/// A two-dimensional convolution (cross-correlation, as in every deep-learning library).
///
/// * `x`: `(B, H, W, C)` with a border of zeros
/// * returns `(B, H', W', outputs)` with its size; for weights that were packed for twice the size
///   ([`Sampling::Double`]), what the convolution makes of the image doubled by repeating pixels
///
/// # Panics
/// If the sizes do not agree.
#[must_use]
pub fn conv<T: Operand>(
    x: &Padded<T>,
    w: &Packed<T>,
    window: Window,
    extras: &Extras<'_, T>,
) -> (Values<T>, Size) {
    conv_with(Isa::current(), x, w, window, extras)
}

/// [`conv`] with the kernels of one rung.
///
/// # Panics
/// As [`conv`], and if the processor does not have the rung.
#[must_use]
pub fn conv_with<T: Operand>(
    isa: Isa,
    x: &Padded<T>,
    w: &Packed<T>,
    window: Window,
    extras: &Extras<'_, T>,
) -> (Values<T>, Size) {
    let size = x.size();
    assert_eq!(size.channels, w.inputs(), "as many channels as inputs");
    let phases = Rows::of_convolution(size, window, w.sampling());
    let out_size = phases[0].out_size(size.batch, w.outputs());
    // SAFETY: the phases together write each pixel of the result.
    let mut out = unsafe { Values::unwritten(out_size.len()) };
    if extras.beside.is_none() && winograd::applies(isa, w, size, window) {
        assert!(isa.is_available(), "{isa}: this processor does not have it");
        let end = End::new(w, extras, &phases[0], out.len());
        winograd::conv(isa, x, &w.transformed(), w.inputs(), &end, &mut out);
        return (out, out_size);
    }
    for (phase, rows) in phases.iter().enumerate() {
        product(isa, x.values(), rows, w, phase, extras, &mut out);
    }
    (out, out_size)
}

/// A number that the micro-kernels multiply.
pub trait Operand: Number {
    /// The product with the micro-kernel of a rung.
    #[doc(hidden)]
    fn dispatch(isa: Isa, job: &Job<'_, Self>);
}

impl Operand for f32 {
    fn dispatch(isa: Isa, job: &Job<'_, f32>) {
        assert!(isa.is_available(), "{isa}: this processor does not have it");
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => job.run::<micro::avx512::F32>(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => job.run::<micro::avx2::F32>(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => job.run::<micro::neon::F32>(),
            _ => job.run::<micro::portable::Plain>(),
        }
    }
}

impl Operand for bf16 {
    fn dispatch(isa: Isa, job: &Job<'_, bf16>) {
        assert!(isa.is_available(), "{isa}: this processor does not have it");
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => job.run::<micro::amx::Tiles>(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => job.run::<micro::avx512::Bf16Dot>(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => job.run::<micro::avx512::Bf16>(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => job.run::<micro::avx2::Bf16>(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => job.run::<micro::neon::Bf16>(),
            _ => job.run::<micro::portable::Plain>(),
        }
    }
}

/// What a rung's micro-kernel is to be run for.
#[doc(hidden)]
pub struct Job<'a, T>(Kind<'a, T>);

enum Kind<'a, T> {
    Product(&'a Product<'a, T>),
    Addition(&'a low_rank::Addition<'a, T>),
}

impl<T: Operand> Job<'_, T> {
    fn run<M: Micro<T>>(&self) {
        match &self.0 {
            Kind::Product(product) => product.run::<M>(),
            Kind::Addition(addition) => addition.run::<M>(),
        }
    }
}

/// One product, all that its tasks share.
struct Product<'a, T> {
    x: &'a [T],
    rows: &'a Rows,
    w: &'a Packed<T>,
    phase: usize,
    beside: Option<Beside<'a, T>>,
    end: End<'a, T>,
    out: Shared<T>,
}

/// [`Extras::beside`], checked against the sizes.
struct Beside<'a, T> {
    x: &'a [T],
    rows: Rows,
    w: &'a Packed<T>,
}

impl<'a, T: Operand> Beside<'a, T> {
    fn new((x, w): (&'a [T], &'a Packed<T>), rows: &Rows, outputs: usize) -> Beside<'a, T> {
        assert_eq!((w.taps(), w.outputs()), (1, outputs), "weights for the same outputs");
        assert_eq!(rows.out_rows(), rows.count(), "rows of the result in their order");
        assert_eq!(x.len(), rows.count() * w.inputs(), "a row for each of the result");
        Beside { x, rows: Rows::matrix(rows.count(), w.inputs()), w }
    }

    /// Numbers of scratch memory for a block.
    fn scratch<M: Micro<T>>(&self) -> usize {
        self.w.chunks().iter().map(|chunk| M::scratch(1, chunk.len())).sum()
    }

    /// Makes a block's chunks ready.
    ///
    /// # Safety
    /// As [`Micro::prepare`], with room for [`scratch`](Beside::scratch) numbers.
    unsafe fn prepare<M: Micro<T>>(
        &self,
        block: usize,
        mut scratch: *mut f32,
        ready: &mut Vec<M::Ready>,
    ) {
        ready.clear();
        let rows = self.rows.block::<{ micro::MOST_ROWS }>(block * M::ROWS, M::ROWS);
        for chunk in self.w.chunks() {
            let (inputs, taps) = (&rows.inputs[..M::ROWS], self.rows.taps());
            let block = Block::of(self.x, inputs, taps, chunk, self.w.inputs());
            // SAFETY: all rows lie inside `x`, as `new` asserted; the caller's conditions.
            unsafe {
                ready.push(M::prepare(&block, scratch));
                scratch = scratch.add(M::scratch(1, chunk.len()));
            }
        }
    }
}

fn product<T: Operand>(
    isa: Isa,
    x: &[T],
    rows: &Rows,
    w: &Packed<T>,
    phase: usize,
    extras: &Extras<'_, T>,
    out: &mut [T],
) {
    if rows.count() == 0 {
        return;
    }
    rows.assert_inside(x.len(), w.inputs());
    assert_eq!(rows.taps().len(), w.taps(), "as many taps as the weights");
    let end = End::new(w, extras, rows, out.len());
    let beside = extras.beside.map(|beside| Beside::new(beside, rows, w.outputs()));
    let product = Product { x, rows, w, phase, beside, end, out: Shared::new(out) };
    T::dispatch(isa, &Job(Kind::Product(&product)));
}

/// Bytes of packed weights that one task multiplies with again and again: they should stay in the
/// second-level cache, which has 1 or 2 MiB on processors that matter and 512 KiB on older ones.
const WEIGHTS_IN_CACHE: usize = 640 << 10;

/// Bytes of unfinished sums that one task keeps.
const SUMS_IN_CACHE: usize = 384 << 10;

/// Tasks to aim for: many more than threads, so that none waits long for the last one.
const TASKS: usize = 48;

impl<T: Operand> Product<'_, T> {
    fn run<M: Micro<T>>(&self) {
        let blocks = self.rows.count().div_ceil(M::ROWS);
        let pairs = self.end.pairs();
        let chunks = self.w.chunks();

        let widest = chunks.iter().map(|chunk| chunk.len()).max().unwrap_or(0);
        let pair_bytes = widest * self.w.taps() * PAIR * size_of::<T>();
        let most_pairs = (WEIGHTS_IN_CACHE / pair_bytes.max(1)).clamp(1, pairs);
        let ranges = pairs.div_ceil(most_pairs);
        let sums = M::ROWS * PAIR;
        let most_blocks = match chunks.len() {
            1 => 16,
            _ => (SUMS_IN_CACHE / (pairs.div_ceil(ranges) * sums * 4)).max(1),
        };
        // Few rows: share the outputs out rather than leave threads without work.
        let ranges = match blocks.div_ceil(most_blocks) * ranges {
            few if few < TASKS / 4 => (TASKS / 4).div_ceil(blocks.div_ceil(most_blocks)).min(pairs),
            _ => ranges,
        };
        let per_range = pairs.div_ceil(ranges);
        let ranges = pairs.div_ceil(per_range);
        let per_task = blocks.div_ceil(TASKS.div_ceil(ranges)).clamp(1, most_blocks);
        let tasks = blocks.div_ceil(per_task);

        (0..ranges * tasks).into_par_iter().with_max_len(1).for_each(|task| {
            let (range, task) = (task / tasks, task % tasks);
            let pairs = range * per_range..pairs.min((range + 1) * per_range);
            let blocks = task * per_task..blocks.min((task + 1) * per_task);
            let kept = if chunks.len() == 1 { 1 } else { blocks.len() * pairs.len() };
            let gathered = M::scratch(self.w.taps(), widest);
            let beside = self.beside.as_ref().map_or(0, Beside::scratch::<M>);
            with_scratch(kept * sums + gathered + beside, |scratch| {
                let (sums_of_task, scratch) = scratch.split_at_mut(kept * sums);
                let (gathered, beside) = scratch.split_at_mut(gathered);
                // SAFETY: the processor has the instructions (`dispatch` asserted it); `product`
                // asserted that all rows with all taps lie inside `x`; the weights hold every panel
                // of every chunk; the scratch has room for all sums and for a gathered block; and
                // this task alone writes its rows and outputs of `out`.
                unsafe {
                    self.task::<M>(blocks, pairs, sums_of_task, gathered, beside);
                }
            });
        });
    }

    /// # Safety
    /// The processor must have the micro-kernel's instructions; see `run` for the rest.
    unsafe fn task<M: Micro<T>>(
        &self,
        blocks: std::ops::Range<usize>,
        pairs: std::ops::Range<usize>,
        sums: &mut [f32],
        gathered: &mut [f32],
        beside: &mut [f32],
    ) {
        let chunks = self.w.chunks();
        let size = M::ROWS * PAIR;
        let mut ready_beside = Vec::new();
        // SAFETY: as this function's.
        unsafe {
            M::enter();
            for (index, chunk) in chunks.iter().enumerate() {
                let (first, last) = (index == 0, index + 1 == chunks.len());
                for (at, block) in blocks.clone().enumerate() {
                    let rows = self.rows.block::<{ micro::MOST_ROWS }>(block * M::ROWS, M::ROWS);
                    let (inputs, taps) = (&rows.inputs[..M::ROWS], self.rows.taps());
                    let ready = Block::of(self.x, inputs, taps, chunk, self.w.inputs());
                    let a = M::prepare(&ready, gathered.as_mut_ptr());
                    if let Some(other) = self.beside.as_ref().filter(|_| last) {
                        other.prepare::<M>(block, beside.as_mut_ptr(), &mut ready_beside);
                    }
                    for (pair_at, pair) in pairs.clone().enumerate() {
                        let place = match chunks.len() {
                            1 => 0,
                            _ => (at * pairs.len() + pair_at) * size,
                        };
                        let c = sums.as_mut_ptr().add(place);
                        let (left, right) = self.end.panels(pair);
                        let b0 = self.w.panel(self.phase, left, chunk.start);
                        let b1 = self.w.panel(self.phase, right.unwrap_or(left), chunk.start);
                        M::multiply(&a, b0, b1, c, !first);
                        if let Some(other) = self.beside.as_ref().filter(|_| last) {
                            for (a, chunk) in ready_beside.iter().zip(other.w.chunks()) {
                                let b0 = other.w.panel(0, left, chunk.start);
                                let b1 = other.w.panel(0, right.unwrap_or(left), chunk.start);
                                M::multiply(a, b0, b1, c, true);
                            }
                        }
                        if last {
                            M::finish(&self.end, c, &rows, pair, self.out.get());
                        }
                    }
                }
            }
            M::leave();
        }
    }
}

/// Whether a rung multiplies a small known product rightly: asked at start, so that a processor (or an
/// emulator) whose instructions fail is found out before it spoils a picture.
pub(crate) fn multiplies_rightly(isa: Isa) -> bool {
    let (rows, inputs, outputs) = (37, 70, 50);
    // Small whole numbers: every product and sum is exact in f32 and bf16.
    let whole = |i: usize, by: usize| ((i * by) % 7) as f32 - 3.0;
    let x: Vec<f32> = (0..rows * inputs).map(|i| whole(i, 5)).collect();
    let w: Vec<f32> = (0..outputs * inputs).map(|i| whole(i, 3)).collect();
    let exact: Vec<f32> = x
        .chunks(inputs)
        .flat_map(|x| w.chunks(inputs).map(|w| x.iter().zip(w).map(|(x, w)| x * w).sum()))
        .collect();
    let narrow: Vec<bf16> = x.iter().map(|&x| Number::from_f32(x)).collect();
    let rows = || pack::rows_of(&w, inputs);
    let Ok(f32s) = Packed::for_isa(isa, outputs, inputs, 1, None, Sampling::Same, (rows(), None));
    let Ok(bf16s) = Packed::for_isa(isa, outputs, inputs, 1, None, Sampling::Same, (rows(), None));
    let rounded: Vec<bf16> = exact.iter().map(|&x| Number::from_f32(x)).collect();
    linear_with::<f32>(isa, &x, &f32s, &Extras::none()) == exact
        && linear_with::<bf16>(isa, &narrow, &bf16s, &Extras::none()) == rounded
}

#[cfg(test)]
mod tests;
