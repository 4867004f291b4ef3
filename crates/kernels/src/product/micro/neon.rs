//! NEON: 6 rows by 16 columns in 24 registers, one panel after the other.

use std::arch::aarch64::{
    float32x4_t, vaddq_f32, vandq_u32, vdupq_n_f32, vdupq_n_u32, vfmaq_n_f32, vld1q_f32, vld1q_u32,
    vreinterpretq_f32_u32, vshlq_n_u32, vst1q_f32,
};

use half::bf16;

use super::{Block, Gathered, MOST_ROWS, Micro, gather_f32};
use crate::{
    lanes,
    product::{PAIR, PANEL, finish::End, rows::RowBlock},
};

/// Products of f32.
pub(in crate::product) struct F32;

/// Weights of bf16, widened as they are read, times f32.
pub(in crate::product) struct Bf16;

const ROWS: usize = 6;

/// Registers of a panel's width.
const QUARTERS: usize = PANEL / 4;

type Sums = [[float32x4_t; QUARTERS]; ROWS];

#[inline]
#[target_feature(enable = "neon")]
fn zeros() -> Sums {
    [[vdupq_n_f32(0.0); QUARTERS]; ROWS]
}

/// Adds one input's products: `sums[row] += a[row] · b`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn step(sums: &mut Sums, a: *const f32, b: [float32x4_t; QUARTERS]) {
    for (row, sums) in sums.iter_mut().enumerate() {
        // SAFETY: `a` has a number for each row.
        let a = unsafe { *a.add(row) };
        for (sum, b) in sums.iter_mut().zip(b) {
            *sum = vfmaq_n_f32(*sum, b, a);
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
unsafe fn put(sums: &Sums, c: *mut f32, add: bool) {
    for (row, sums) in sums.iter().enumerate() {
        for (quarter, &sum) in sums.iter().enumerate() {
            // SAFETY: a quarter of a panel's row of the block of sums.
            unsafe {
                let c = c.add(row * PAIR + 4 * quarter);
                vst1q_f32(c, if add { vaddq_f32(vld1q_f32(c), sum) } else { sum });
            }
        }
    }
}

// SAFETY: every access below is one that the trait's conditions allow.
unsafe impl Micro<f32> for F32 {
    const ROWS: usize = ROWS;

    type Ready = Gathered;

    fn scratch(taps: usize, chunk: usize) -> usize {
        taps * chunk * ROWS
    }

    unsafe fn prepare(block: &Block<'_, f32>, scratch: *mut f32) -> Gathered {
        // SAFETY: the caller's conditions.
        unsafe { gather_f32::<f32, ROWS>(block, scratch) }
    }

    #[target_feature(enable = "neon")]
    unsafe fn multiply(a: &Gathered, b0: *const f32, b1: *const f32, c: *mut f32, add: bool) {
        for (side, b) in [b0, b1].into_iter().enumerate() {
            let mut sums = zeros();
            for k in 0..a.groups {
                // SAFETY: input `k` of the panel and of the block.
                unsafe {
                    let b = b.add(k * PANEL);
                    let b = std::array::from_fn(|quarter| vld1q_f32(b.add(4 * quarter)));
                    step(&mut sums, a.at.add(k * ROWS), b);
                }
            }
            // SAFETY: the panel's side of the block of sums.
            unsafe { put(&sums, c.add(side * PANEL), add) }
        }
    }

    unsafe fn finish(
        end: &End<'_, f32>,
        c: *const f32,
        rows: &RowBlock<MOST_ROWS>,
        pair: usize,
        out: *mut f32,
    ) {
        // SAFETY: the caller's conditions.
        unsafe { end.store::<lanes::Neon>(c, rows, pair, out) }
    }
}

// SAFETY: every access below is one that the trait's conditions allow.
unsafe impl Micro<bf16> for Bf16 {
    const ROWS: usize = ROWS;

    type Ready = Gathered;

    fn scratch(taps: usize, chunk: usize) -> usize {
        taps * chunk * ROWS
    }

    unsafe fn prepare(block: &Block<'_, bf16>, scratch: *mut f32) -> Gathered {
        // SAFETY: the caller's conditions.
        unsafe { gather_f32::<bf16, ROWS>(block, scratch) }
    }

    #[target_feature(enable = "neon")]
    unsafe fn multiply(a: &Gathered, b0: *const bf16, b1: *const bf16, c: *mut f32, add: bool) {
        let high = vdupq_n_u32(0xffff_0000);
        for (side, b) in [b0, b1].into_iter().enumerate() {
            let mut sums = zeros();
            // The weights of two inputs lie side by side in 32 bits: the first in the lower half.
            for pair in 0..a.groups / 2 {
                // SAFETY: two inputs of the panel and of the block.
                unsafe {
                    let b: *const u32 = b.add(pair * 2 * PANEL).cast();
                    let b: [_; QUARTERS] =
                        std::array::from_fn(|quarter| vld1q_u32(b.add(4 * quarter)));
                    let first = b.map(|b| vreinterpretq_f32_u32(vshlq_n_u32::<16>(b)));
                    step(&mut sums, a.at.add(2 * pair * ROWS), first);
                    let second = b.map(|b| vreinterpretq_f32_u32(vandq_u32(b, high)));
                    step(&mut sums, a.at.add((2 * pair + 1) * ROWS), second);
                }
            }
            // SAFETY: the panel's side of the block of sums.
            unsafe { put(&sums, c.add(side * PANEL), add) }
        }
    }

    unsafe fn finish(
        end: &End<'_, bf16>,
        c: *const f32,
        rows: &RowBlock<MOST_ROWS>,
        pair: usize,
        out: *mut bf16,
    ) {
        // SAFETY: the caller's conditions.
        unsafe { end.store::<lanes::Neon>(c, rows, pair, out) }
    }
}
