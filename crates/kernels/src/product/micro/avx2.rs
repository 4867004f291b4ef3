//! AVX2 and FMA: 6 rows by 16 columns in 12 registers, one panel after the other.

use std::arch::x86_64::{
    __m256, _mm256_add_ps, _mm256_and_si256, _mm256_castsi256_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
    _mm256_loadu_si256, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps, _mm256_slli_epi32,
    _mm256_storeu_ps,
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

type Sums = [[__m256; 2]; ROWS];

/// Adds one input's products: `sums[row] += a[row] · b`.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn step(sums: &mut Sums, a: *const f32, b: [__m256; 2]) {
    for (row, sums) in sums.iter_mut().enumerate() {
        // SAFETY: `a` has a number for each row.
        let a = _mm256_set1_ps(unsafe { *a.add(row) });
        sums[0] = _mm256_fmadd_ps(a, b[0], sums[0]);
        sums[1] = _mm256_fmadd_ps(a, b[1], sums[1]);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn put(sums: &Sums, c: *mut f32, add: bool) {
    for (row, sums) in sums.iter().enumerate() {
        for (half, &sum) in sums.iter().enumerate() {
            // SAFETY: a half panel's row of the block of sums.
            unsafe {
                let c = c.add(row * PAIR + half * 8);
                let sum = if add { _mm256_add_ps(_mm256_loadu_ps(c), sum) } else { sum };
                _mm256_storeu_ps(c, sum);
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

    #[target_feature(enable = "avx2,fma")]
    unsafe fn prepare(block: &Block<'_, f32>, scratch: *mut f32) -> Gathered {
        // SAFETY: the caller's conditions.
        unsafe { gather_f32::<f32, ROWS>(block, scratch) }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn multiply(a: &Gathered, b0: *const f32, b1: *const f32, c: *mut f32, add: bool) {
        for (side, b) in [b0, b1].into_iter().enumerate() {
            let mut sums: Sums = [[_mm256_setzero_ps(); 2]; ROWS];
            for k in 0..a.groups {
                // SAFETY: input `k` of the panel and of the block.
                unsafe {
                    let b = b.add(k * PANEL);
                    let b = [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8))];
                    step(&mut sums, a.at.add(k * ROWS), b);
                }
            }
            // SAFETY: this panel's half of the block of sums.
            unsafe { put(&sums, c.add(side * PANEL), add) }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn finish(
        end: &End<'_, f32>,
        c: *const f32,
        rows: &RowBlock<MOST_ROWS>,
        pair: usize,
        out: *mut f32,
    ) {
        // SAFETY: the caller's conditions.
        unsafe { end.store::<lanes::Avx2>(c, rows, pair, out) }
    }
}

// SAFETY: every access below is one that the trait's conditions allow.
unsafe impl Micro<bf16> for Bf16 {
    const ROWS: usize = ROWS;

    type Ready = Gathered;

    fn scratch(taps: usize, chunk: usize) -> usize {
        taps * chunk * ROWS
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn prepare(block: &Block<'_, bf16>, scratch: *mut f32) -> Gathered {
        // SAFETY: the caller's conditions.
        unsafe { gather_f32::<bf16, ROWS>(block, scratch) }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn multiply(a: &Gathered, b0: *const bf16, b1: *const bf16, c: *mut f32, add: bool) {
        let high = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
        for (side, b) in [b0, b1].into_iter().enumerate() {
            let mut sums: Sums = [[_mm256_setzero_ps(); 2]; ROWS];
            // The weights of two inputs lie side by side in 32 bits: the first in the lower half.
            for pair in 0..a.groups / 2 {
                // SAFETY: two inputs of the panel and of the block.
                unsafe {
                    let b = b.add(pair * 2 * PANEL);
                    let b = [_mm256_loadu_si256(b.cast()), _mm256_loadu_si256(b.add(PANEL).cast())];
                    let first = b.map(|b| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(b)));
                    step(&mut sums, a.at.add(2 * pair * ROWS), first);
                    let second = b.map(|b| _mm256_castsi256_ps(_mm256_and_si256(b, high)));
                    step(&mut sums, a.at.add((2 * pair + 1) * ROWS), second);
                }
            }
            // SAFETY: this panel's half of the block of sums.
            unsafe { put(&sums, c.add(side * PANEL), add) }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn finish(
        end: &End<'_, bf16>,
        c: *const f32,
        rows: &RowBlock<MOST_ROWS>,
        pair: usize,
        out: *mut bf16,
    ) {
        // SAFETY: the caller's conditions.
        unsafe { end.store::<lanes::Avx2>(c, rows, pair, out) }
    }
}
