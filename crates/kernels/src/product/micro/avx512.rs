//! AVX-512: 12 rows by 32 columns in 24 registers.

use std::arch::x86_64::{
    __m512, __m512bh, _mm512_add_ps, _mm512_and_si512, _mm512_castsi512_ps, _mm512_dpbf16_ps,
    _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_maskz_loadu_epi16,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_epi16,
    _mm512_storeu_ps,
};

use half::bf16;

use super::{Block, MOST_ROWS, Micro};
use crate::{
    lanes::{self, Lanes},
    number::Number,
    product::{PAIR, PANEL, finish::End, rows::RowBlock},
};

/// Products of f32.
pub(in crate::product) struct F32;

/// Weights of bf16, widened as they are read, times f32.
pub(in crate::product) struct Bf16;

/// Products of bf16 with `vdpbf16ps`, two inputs at once.
pub(in crate::product) struct Bf16Dot;

const ROWS: usize = 12;

/// Words of a row that lie side by side in a gathered block: a line of the cache.
const LINE: usize = 16;

/// A block copied into one piece: `[tap][word / 16][row][word % 16]`, where a word is one number of f32 or
/// two of bf16. Whole lines are copied, not single numbers, and a micro-kernel finds a row's next word
/// beside the one before.
#[derive(Clone, Copy)]
pub(in crate::product) struct Lines {
    at: *const f32,
    taps: usize,
    /// Words of each tap.
    words: usize,
}

impl Lines {
    /// Words of scratch memory for a block.
    const fn scratch(taps: usize, words: usize) -> usize {
        taps * words.next_multiple_of(LINE) * ROWS
    }

    /// The lines of all taps, one after the other: where the first row's line begins, with the others
    /// behind it, and how many of its words there are.
    #[inline(always)]
    fn each(&self) -> impl Iterator<Item = (*const f32, usize)> + use<> {
        let (at, words) = (self.at, self.words);
        let lines = words.div_ceil(LINE);
        (0..self.taps * lines).map(move |line| {
            let present = LINE.min(words - line % lines * LINE);
            (at.wrapping_add(line * ROWS * LINE), present)
        })
    }
}

/// Copies a block as f32.
///
/// # Safety
/// As [`Micro::prepare`], with room for [`Lines::scratch`].
#[inline(always)]
unsafe fn gather<T: Number>(block: &Block<'_, T>, scratch: *mut f32) -> Lines {
    let lines = block.len.div_ceil(LINE);
    for (tap, &offset) in block.taps.iter().enumerate() {
        for (row, &start) in block.rows.iter().enumerate() {
            // SAFETY: the row with this tap is inside `x`, the place inside the scratch.
            unsafe {
                let from = block.x.add(start + offset + block.begin);
                for line in 0..lines {
                    let begin = line * LINE;
                    let to = scratch.add(((tap * lines + line) * ROWS + row) * LINE);
                    let present = block.present.saturating_sub(begin).min(LINE);
                    lanes::load::<lanes::Avx512, T>(from.wrapping_add(begin), present).store(to);
                }
            }
        }
    }
    Lines { at: scratch, taps: block.taps.len(), words: block.len }
}

type Sums = [[__m512; 2]; ROWS];

/// Adds one input's products: `sums[row] += a[row] · b`, with the rows' numbers a line apart.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn step(sums: &mut Sums, a: *const f32, b: [__m512; 2]) {
    for (row, sums) in sums.iter_mut().enumerate() {
        // SAFETY: `a` has a number for each row.
        let a = _mm512_set1_ps(unsafe { *a.add(row * LINE) });
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

    type Ready = Lines;

    fn scratch(taps: usize, chunk: usize) -> usize {
        Lines::scratch(taps, chunk)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn prepare(block: &Block<'_, f32>, scratch: *mut f32) -> Lines {
        // SAFETY: the caller's conditions.
        unsafe { gather::<f32>(block, scratch) }
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn multiply(a: &Lines, b0: *const f32, b1: *const f32, c: *mut f32, add: bool) {
        let mut sums: Sums = [[_mm512_setzero_ps(); 2]; ROWS];
        let mut panels = [b0, b1];
        for (a, words) in a.each() {
            for word in 0..words {
                // SAFETY: an input of both panels and of the block.
                unsafe {
                    step(&mut sums, a.add(word), panels.map(|b| _mm512_loadu_ps(b)));
                    panels = panels.map(|b| b.add(PANEL));
                }
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

    type Ready = Lines;

    fn scratch(taps: usize, chunk: usize) -> usize {
        Lines::scratch(taps, chunk)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn prepare(block: &Block<'_, bf16>, scratch: *mut f32) -> Lines {
        // SAFETY: the caller's conditions.
        unsafe { gather::<bf16>(block, scratch) }
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn multiply(a: &Lines, b0: *const bf16, b1: *const bf16, c: *mut f32, add: bool) {
        let high = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
        let mut sums: Sums = [[_mm512_setzero_ps(); 2]; ROWS];
        // The weights of two inputs lie side by side in 32 bits: the first in the lower half.
        let mut panels = [b0, b1];
        for (a, words) in a.each() {
            for word in (0..words).step_by(2) {
                // SAFETY: two inputs of both panels and of the block.
                unsafe {
                    let b = panels.map(|b| _mm512_loadu_si512(b.cast()));
                    let first = b.map(|b| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(b)));
                    step(&mut sums, a.add(word), first);
                    let second = b.map(|b| _mm512_castsi512_ps(_mm512_and_si512(b, high)));
                    step(&mut sums, a.add(word + 1), second);
                    panels = panels.map(|b| b.add(2 * PANEL));
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

// SAFETY: every access below is one that the trait's conditions allow.
unsafe impl Micro<bf16> for Bf16Dot {
    const ROWS: usize = ROWS;

    type Ready = Lines;

    fn scratch(taps: usize, chunk: usize) -> usize {
        Lines::scratch(taps, chunk / 2)
    }

    /// Pairs of inputs as they are.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    unsafe fn prepare(block: &Block<'_, bf16>, scratch: *mut f32) -> Lines {
        const NUMBERS: usize = 2 * LINE;
        let lines = block.len / NUMBERS;
        for (tap, &offset) in block.taps.iter().enumerate() {
            for (row, &start) in block.rows.iter().enumerate() {
                // SAFETY: the row with this tap is inside `x`, the place inside the scratch.
                unsafe {
                    let from = block.x.add(start + offset + block.begin);
                    for line in 0..lines {
                        let to = scratch.add(((tap * lines + line) * ROWS + row) * LINE);
                        let present = block.present.saturating_sub(line * NUMBERS).min(NUMBERS);
                        // As many as there are, and zeros.
                        let mask = (u64::MAX >> 32 >> (NUMBERS - present)) as u32;
                        let from = from.wrapping_add(line * NUMBERS).cast();
                        _mm512_storeu_epi16(to.cast(), _mm512_maskz_loadu_epi16(mask, from));
                    }
                }
            }
        }
        Lines { at: scratch, taps: block.taps.len(), words: block.len / 2 }
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn multiply(a: &Lines, b0: *const bf16, b1: *const bf16, c: *mut f32, add: bool) {
        let mut sums: Sums = [[_mm512_setzero_ps(); 2]; ROWS];
        let (mut b0, mut b1) = (b0, b1);
        for (a, words) in a.each() {
            for word in 0..words {
                // SAFETY: two inputs of both panels and of the block. A register of 32 bf16 is one of 16
                // times 32 bits.
                unsafe {
                    let load = |b: *const bf16| -> __m512bh {
                        std::mem::transmute(_mm512_loadu_si512(b.cast()))
                    };
                    let (left, right) = (load(b0), load(b1));
                    (b0, b1) = (b0.add(2 * PANEL), b1.add(2 * PANEL));
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let a = *a.add(row * LINE + word);
                        let a: __m512bh = std::mem::transmute(_mm512_set1_ps(a));
                        sums[0] = _mm512_dpbf16_ps(sums[0], a, left);
                        sums[1] = _mm512_dpbf16_ps(sums[1], a, right);
                    }
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
