//! Plain Rust: what every other micro-kernel is tested against.

use super::{Block, Gathered, MOST_ROWS, Micro, gather_f32};
use crate::{
    lanes::{self, multiply_add},
    number::Number,
    product::{PAIR, PANEL, finish::End, rows::RowBlock},
};

/// Products of f32, whatever the weights are stored as.
pub(in crate::product) struct Plain;

const ROWS: usize = 4;

// SAFETY: every access below is one that the trait's conditions allow.
unsafe impl<T: Number> Micro<T> for Plain {
    const ROWS: usize = ROWS;

    type Ready = Gathered;

    fn scratch(taps: usize, chunk: usize) -> usize {
        taps * chunk * ROWS
    }

    unsafe fn prepare(block: &Block<'_, T>, scratch: *mut f32) -> Gathered {
        // SAFETY: the caller's conditions.
        unsafe { gather_f32::<T, ROWS>(block, scratch) }
    }

    unsafe fn multiply(a: &Gathered, b0: *const T, b1: *const T, c: *mut f32, add: bool) {
        for (side, b) in [b0, b1].into_iter().enumerate() {
            let mut sums = [[0.0f32; PANEL]; ROWS];
            for k in 0..a.groups {
                // SAFETY: input `k` of the block and of the panel.
                unsafe {
                    let w: [f32; PANEL] = std::array::from_fn(|column| {
                        let (group, rest) = (k / T::GROUP, k % T::GROUP);
                        (*b.add((group * PANEL + column) * T::GROUP + rest)).to_f32()
                    });
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let x = *a.at.add(k * ROWS + row);
                        for (sum, w) in sums.iter_mut().zip(w) {
                            *sum = multiply_add(x, w, *sum);
                        }
                    }
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                // SAFETY: a panel's row of the block of sums.
                let c = unsafe { &mut *c.add(row * PAIR + side * PANEL).cast::<[f32; PANEL]>() };
                for (c, sum) in c.iter_mut().zip(sums) {
                    *c = if add { *c + sum } else { *sum };
                }
            }
        }
    }

    unsafe fn finish(
        end: &End<'_, T>,
        c: *const f32,
        rows: &RowBlock<MOST_ROWS>,
        pair: usize,
        out: *mut T,
    ) {
        // SAFETY: the caller's conditions.
        unsafe { end.store::<lanes::Plain>(c, rows, pair, out) }
    }
}
