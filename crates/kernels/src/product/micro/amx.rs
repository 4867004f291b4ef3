//! AMX: 32 rows by 32 columns in four tiles of 16 × 16 sums.
//!
//! A tile of the left operand is 16 rows of 32 inputs, read from where they lie: neighboring pixels of
//! an image, or rows of a matrix. Only where 16 rows do not lie at even distances (at the end of an
//! image's row, or of the image), or a row is no multiple of 32 inputs, are they copied first.

use half::bf16;

use super::{Block, MOST_ROWS, Micro};
use crate::{
    lanes,
    number::Number,
    product::{PAIR, PANEL, finish::End, rows::RowBlock},
    tile,
};

/// Products of bf16 in AMX tiles.
pub(in crate::product) struct Tiles;

/// Rows of a tile.
const TILE: usize = 16;

/// Inputs of a tile.
const DEPTH: usize = <bf16 as Number>::STEP;

/// Two tiles of rows, each either where it lies or copied.
pub(in crate::product) struct Ready {
    /// The first row's first input at no offset.
    start: [*const bf16; 2],
    /// Bytes from row to row.
    stride: [usize; 2],
    /// Numbers from tap to tap where rows were copied; otherwise `taps` tells.
    tap_step: [Option<usize>; 2],
    taps: *const usize,
    tap_count: usize,
    steps: usize,
    /// Whether there is more than one tile of rows.
    both: bool,
}

impl Ready {
    /// Adds the products of all taps to the sums in the registers.
    ///
    /// # Safety
    /// As [`Micro::multiply`], between [`Micro::enter`] and [`Micro::leave`].
    #[inline(always)]
    unsafe fn multiply(&self, b0: *const bf16, b1: *const bf16) {
        for tap in 0..self.tap_count {
            // SAFETY: the caller's conditions: rows and weights for all taps.
            unsafe {
                let place = |side: usize| {
                    let offset = match self.tap_step[side] {
                        Some(step) => tap * step,
                        None => *self.taps.add(tap),
                    };
                    self.start[side].add(offset).cast()
                };
                let left = tile::Left { start: [place(0), place(1)], stride: self.stride };
                let right = [b0, b1].map(|b| b.add(tap * self.steps * DEPTH * PANEL).cast());
                if self.both {
                    tile::multiply(left, right, tile::BYTES, self.steps);
                } else {
                    tile::multiply_row(left, right, tile::BYTES, self.steps);
                }
            }
        }
    }
}

// SAFETY: every access below is one that the trait's conditions allow.
unsafe impl Micro<bf16> for Tiles {
    const ROWS: usize = 2 * TILE;

    type Ready = Ready;

    fn scratch(taps: usize, chunk: usize) -> usize {
        taps * chunk * 2 * TILE / 2
    }

    unsafe fn enter() {
        // SAFETY: the processor has AMX.
        unsafe { tile::configure() }
    }

    unsafe fn leave() {
        // SAFETY: as above.
        unsafe { tile::release() }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    unsafe fn prepare(block: &Block<'_, bf16>, scratch: *mut f32) -> Ready {
        let mut ready = Ready {
            start: [std::ptr::null(); 2],
            stride: [0; 2],
            tap_step: [None; 2],
            taps: block.taps.as_ptr(),
            tap_count: block.taps.len(),
            steps: block.len / DEPTH,
            both: block.rows[TILE..].iter().any(|row| *row != block.rows[TILE - 1]),
        };
        for (side, rows) in block.rows.chunks_exact(TILE).enumerate() {
            let step = rows[1].wrapping_sub(rows[0]);
            let even = rows.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) == step);
            // SAFETY: inside `x`, by the caller's conditions.
            let first = unsafe { block.x.add(rows[0] + block.begin) };
            if even && block.present == block.len {
                ready.start[side] = first;
                ready.stride[side] = step * size_of::<bf16>();
            } else {
                let len = block.taps.len() * block.len * TILE;
                // SAFETY: a half of the scratch for each side.
                let copy = unsafe { scratch.cast::<bf16>().add(side * len) };
                // SAFETY: the caller's conditions.
                unsafe { copy_rows(block, rows, copy) }
                ready.start[side] = copy;
                ready.stride[side] = block.len * size_of::<bf16>();
                ready.tap_step[side] = Some(block.len * TILE);
            }
        }
        ready
    }

    unsafe fn multiply(a: &Ready, b0: *const bf16, b1: *const bf16, c: *mut f32, add: bool) {
        const C_STRIDE: usize = PAIR * size_of::<f32>();
        // SAFETY: the caller's conditions: a block of sums at `c`, rows and weights for all taps.
        unsafe {
            if add {
                tile::load(c, C_STRIDE);
            } else {
                tile::clear();
            }
            a.multiply(b0, b1);
            tile::store(c, C_STRIDE);
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    unsafe fn finish(
        end: &End<'_, bf16>,
        c: *const f32,
        rows: &RowBlock<MOST_ROWS>,
        pair: usize,
        out: *mut bf16,
    ) {
        // SAFETY: the caller's conditions.
        unsafe { end.store::<lanes::Avx512>(c, rows, pair, out) }
    }
}

/// Copies the rows of a tile together: `[tap][row][input]`, missing inputs as zeros.
///
/// # Safety
/// As [`Micro::prepare`], with room for `taps · 16 · len` numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn copy_rows(block: &Block<'_, bf16>, rows: &[usize], mut to: *mut bf16) {
    for offset in block.taps {
        for row in rows {
            // SAFETY: the row with this tap is inside `x`, the place inside the scratch.
            unsafe {
                let from = block.x.add(row + offset + block.begin);
                std::ptr::copy_nonoverlapping(from, to, block.present);
                std::ptr::write_bytes(to.add(block.present), 0, block.len - block.present);
                to = to.add(block.len);
            }
        }
    }
}
