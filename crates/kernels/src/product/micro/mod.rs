//! The micro-kernels: what multiplies one block of rows with one pair of panels.

pub(super) mod portable;

#[cfg(target_arch = "aarch64")]
pub(super) mod neon;

#[cfg(target_arch = "x86_64")]
pub(super) mod amx;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;

use std::ops::Range;

use super::{finish::End, rows::RowBlock};
use crate::number::Number;

/// The most rows of any micro-kernel.
pub(super) const MOST_ROWS: usize = 32;

/// A block of rows and the range of inputs that is summed: where to find the left operand.
pub(super) struct Block<'a, T> {
    pub(super) x: *const T,
    /// Where each row begins in `x`.
    pub(super) rows: &'a [usize],
    /// Where each tap lies behind that.
    pub(super) taps: &'a [usize],
    /// The first input of the range.
    pub(super) begin: usize,
    /// Inputs of the range as the weights have them.
    pub(super) len: usize,
    /// How many of them `x` has; the rest count as zeros.
    pub(super) present: usize,
}

impl<'a, T> Block<'a, T> {
    /// The inputs of a chunk.
    ///
    /// * `inputs`: of a whole row
    pub(super) fn of(
        x: &[T],
        rows: &'a [usize],
        taps: &'a [usize],
        chunk: &Range<usize>,
        inputs: usize,
    ) -> Block<'a, T> {
        let present = chunk.end.min(inputs) - chunk.start;
        Block { x: x.as_ptr(), rows, taps, begin: chunk.start, len: chunk.len(), present }
    }
}

/// A micro-kernel: `ROWS` rows by 32 columns at once.
///
/// # Safety
/// Implementations read and write only what their functions' conditions name.
pub(super) unsafe trait Micro<T: Number> {
    /// Rows of a block.
    const ROWS: usize;

    /// A block, made ready to be multiplied.
    type Ready;

    /// Numbers of scratch memory that [`prepare`](Micro::prepare) may write.
    fn scratch(taps: usize, chunk: usize) -> usize;

    /// Called by a thread before and after its products.
    ///
    /// # Safety
    /// The processor must have the instructions.
    unsafe fn enter() {}

    /// # Safety
    /// As [`enter`](Micro::enter).
    unsafe fn leave() {}

    /// Makes a block ready.
    ///
    /// # Safety
    /// All rows with all taps must lie inside the memory that `block.x` points into, and `scratch` must
    /// have room for [`scratch`](Micro::scratch) numbers, which stay as they are while the block is in
    /// use. The processor must have the instructions.
    unsafe fn prepare(block: &Block<'_, T>, scratch: *mut f32) -> Self::Ready;

    /// `c = a · [b0 | b1]`, or `c += …`; `c` is `(ROWS, 32)`.
    ///
    /// # Safety
    /// `b0` and `b1` must have a panel's weights for the block's taps and inputs, and `c` room for a
    /// block of sums. The processor must have the instructions.
    unsafe fn multiply(a: &Self::Ready, b0: *const T, b1: *const T, c: *mut f32, add: bool);

    /// Finishes and stores a block of sums.
    ///
    /// # Safety
    /// As [`End::store`]. The processor must have the instructions.
    unsafe fn finish(
        end: &End<'_, T>,
        c: *const f32,
        rows: &RowBlock<MOST_ROWS>,
        pair: usize,
        out: *mut T,
    );
}

/// A block copied into one piece, input by input: `[input / group][row][input % group]`.
#[derive(Clone, Copy)]
pub(super) struct Gathered {
    at: *const f32,
    /// Groups of inputs, of all taps.
    groups: usize,
}

/// Copies a block as f32.
///
/// # Safety
/// As [`Micro::prepare`], with room for `taps · len · ROWS` numbers.
#[inline(always)]
unsafe fn gather_f32<T: Number, const ROWS: usize>(
    block: &Block<'_, T>,
    scratch: *mut f32,
) -> Gathered {
    for (tap, &offset) in block.taps.iter().enumerate() {
        for (row, &start) in block.rows.iter().enumerate() {
            // SAFETY: the row with this tap is inside `x`, the place inside the scratch.
            unsafe {
                let from = block.x.add(start + offset + block.begin);
                let to = scratch.add(tap * block.len * ROWS + row);
                for i in 0..block.present {
                    *to.add(i * ROWS) = (*from.add(i)).to_f32();
                }
                for i in block.present..block.len {
                    *to.add(i * ROWS) = 0.0;
                }
            }
        }
    }
    Gathered { at: scratch, groups: block.taps.len() * block.len }
}
