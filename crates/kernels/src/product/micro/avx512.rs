//! AVX-512: 12 rows by 32 columns in 24 registers.

use std::arch::x86_64::{
    __m512, __m512bh, _mm512_add_ps, _mm512_and_si512, _mm512_castsi512_ps, _mm512_dpbf16_ps,
    _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_ps,
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

/// Products of bf16 with `vdpbf16ps`, two inputs at once.
pub(in crate::product) struct Bf16Dot;

const ROWS: usize = 12;

type Sums = [[__m512; 2]; ROWS];

/// Adds one input's products: `sums[row] += a[row] · b`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn step(sums: &mut Sums, a: *const f32, b: [__m512; 2]) {
    for (row, sums) in sums.iter_mut().enumerate() {
        // SAFETY: `a` has a number for each row.
        let a = _mm512_set1_ps(unsafe { *a.add(row) });
        sums[0] = _mm512_fmadd_ps(a, b[0], sums[0]);
        sums[1] = _mm512_fmadd_ps(a, b[1], sums[1]);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn put(sums: &Sums, c: *mut f32, add: bool) {
    for (row, sums) in sums.iter().enumerate() {
        for (side, &sum) in sums.iter().enumerate() {
            // SAFETY: a panel's row of the block of sums.
            unsafe {
                let c = c.add(row * PAIR + side * PANEL);
                let sum = if add { _mm512_add_ps(_mm512_loadu_ps(c), sum) } else { sum };
                _mm512_storeu_ps(c, sum);
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

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    unsafe fn prepare(block: &Block<'_, f32>, scratch: *mut f32) -> Gathered {
        // SAFETY: the caller's conditions.
        unsafe { gather_f32::<f32, ROWS>(block, scratch) }
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn multiply(a: &Gathered, b0: *const f32, b1: *const f32, c: *mut f32, add: bool) {
        let mut sums: Sums = [[_mm512_setzero_ps(); 2]; ROWS];
        for k in 0..a.groups {
            // SAFETY: input `k` of both panels and of the block.
            unsafe {
                let b = [b0, b1].map(|b| _mm512_loadu_ps(b.add(k * PANEL)));
                step(&mut sums, a.at.add(k * ROWS), b);
            }
        }
        // SAFETY: the block of sums.
        unsafe { put(&sums, c, add) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    unsafe fn finish(
        end: &End<'_, f32>,
        c: *const f32,
        rows: &RowBlock<MOST_ROWS>,
        pair: usize,
        out: *mut f32,
    ) {
        // SAFETY: the caller's conditions.
        unsafe { end.store::<lanes::Avx512>(c, rows, pair, out) }
    }
}

// SAFETY: every access below is one that the trait's conditions allow.
unsafe impl Micro<bf16> for Bf16 {
    const ROWS: usize = ROWS;

    type Ready = Gathered;

    fn scratch(taps: usize, chunk: usize) -> usize {
        taps * chunk * ROWS
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    unsafe fn prepare(block: &Block<'_, bf16>, scratch: *mut f32) -> Gathered {
        // SAFETY: the caller's conditions.
        unsafe { gather_f32::<bf16, ROWS>(block, scratch) }
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn multiply(a: &Gathered, b0: *const bf16, b1: *const bf16, c: *mut f32, add: bool) {
        let high = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
        let mut sums: Sums = [[_mm512_setzero_ps(); 2]; ROWS];
        // The weights of two inputs lie side by side in 32 bits: the first in the lower half.
        for pair in 0..a.groups / 2 {
            // SAFETY: two inputs of both panels and of the block.
            unsafe {
                let b = [b0, b1].map(|b| _mm512_loadu_si512(b.add(pair * 2 * PANEL).cast()));
                let first = b.map(|b| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(b)));
                step(&mut sums, a.at.add(2 * pair * ROWS), first);
                let second = b.map(|b| _mm512_castsi512_ps(_mm512_and_si512(b, high)));
                step(&mut sums, a.at.add((2 * pair + 1) * ROWS), second);
            }
        }
        // SAFETY: the block of sums.
        unsafe { put(&sums, c, add) }
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

// SAFETY: every access below is one that the trait's conditions allow.
unsafe impl Micro<bf16> for Bf16Dot {
    const ROWS: usize = ROWS;

    type Ready = Gathered;

    fn scratch(taps: usize, chunk: usize) -> usize {
        taps * chunk * ROWS / 2
    }

    /// Pairs of inputs as they are, row by row.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    unsafe fn prepare(block: &Block<'_, bf16>, scratch: *mut f32) -> Gathered {
        let scratch = scratch.cast::<[bf16; 2]>();
        for (tap, &offset) in block.taps.iter().enumerate() {
            for (row, &start) in block.rows.iter().enumerate() {
                // SAFETY: the row with this tap is inside `x`, the place inside the scratch.
                unsafe {
                    let from = block.x.add(start + offset + block.begin);
                    let to = scratch.add(tap * block.len / 2 * ROWS + row);
                    for pair in 0..block.present / 2 {
                        *to.add(pair * ROWS) = *from.add(2 * pair).cast::<[bf16; 2]>();
                    }
                    if !block.present.is_multiple_of(2) {
                        let last = *from.add(block.present - 1);
                        *to.add(block.present / 2 * ROWS) = [last, bf16::ZERO];
                    }
                    for pair in block.present.div_ceil(2)..block.len / 2 {
                        *to.add(pair * ROWS) = [bf16::ZERO; 2];
                    }
                }
            }
        }
        Gathered { at: scratch.cast(), groups: block.taps.len() * block.len / 2 }
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn multiply(a: &Gathered, b0: *const bf16, b1: *const bf16, c: *mut f32, add: bool) {
        let mut sums: Sums = [[_mm512_setzero_ps(); 2]; ROWS];
        for pair in 0..a.groups {
            // SAFETY: two inputs of both panels and of the block. A register of 32 bf16 is one of 16
            // times 32 bits.
            unsafe {
                let load = |b: *const bf16| -> __m512bh {
                    std::mem::transmute(_mm512_loadu_si512(b.add(pair * 2 * PANEL).cast()))
                };
                let (left, right) = (load(b0), load(b1));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let a = *a.at.add(pair * ROWS + row);
                    let a: __m512bh = std::mem::transmute(_mm512_set1_ps(a));
                    sums[0] = _mm512_dpbf16_ps(sums[0], a, left);
                    sums[1] = _mm512_dpbf16_ps(sums[1], a, right);
                }
            }
        }
        // SAFETY: the block of sums.
        unsafe { put(&sums, c, add) }
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
