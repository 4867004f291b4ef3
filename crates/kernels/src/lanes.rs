//! Sixteen numbers at once: what a kernel of single numbers is written in, once for all rungs.
//!
//! [`Lanes`] is a register of AVX-512, two of AVX2, or an array. Its functions are inlined into a
//! function that has the instructions of a rung, which [`on_lanes`] makes. The rungs with FMA give the
//! same bits; the portable one rounds a product before it adds.

use half::{bf16, f16};

use crate::number::Number;

/// How many numbers.
pub(crate) const LANES: usize = 16;

/// Sixteen numbers of f32.
///
/// # Safety
/// All functions of an implementation may only be called where the processor has its instructions.
/// Those that take a pointer read or write sixteen numbers there, which need no alignment.
pub unsafe trait Lanes: Copy {
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn load_bf16(from: *const bf16) -> Self;
    /// Rounds to the nearest, ties to even; what is not a number stays so.
    unsafe fn store_bf16(self, to: *mut bf16);
    /// Rounds as [`store_bf16`](Lanes::store_bf16), and stores each number with that of `second` behind it:
    /// 32 numbers.
    unsafe fn store_bf16_pairs(self, second: Self, to: *mut bf16);
    /// IEEE half precision.
    unsafe fn load_f16(from: *const f16) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// `self · factor + term`.
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self;
    unsafe fn min(self, other: Self) -> Self;
    unsafe fn max(self, other: Self) -> Self;
    unsafe fn abs(self) -> Self;
    /// The absolute value of `self` with the sign of `sign`.
    unsafe fn copysign(self, sign: Self) -> Self;
    /// `2^self`, for whole numbers from -126 to 127.
    unsafe fn power_of_2(self) -> Self;
    /// Near `1 / self`: the first value of Newton's iteration.
    unsafe fn reciprocal_guess(self) -> Self;

    /// Columns of rows: number `i` of row `j` becomes number `j` of row `i`, whatever its bits.
    #[inline(always)]
    unsafe fn turned(rows: [Self; LANES]) -> [Self; LANES] {
        // SAFETY: sixteen numbers each.
        unsafe {
            let rows = rows.map(|row| row.to_array());
            std::array::from_fn(|i| Self::load(rows.map(|row| row[i]).as_ptr()))
        }
    }

    #[inline(always)]
    unsafe fn to_array(self) -> [f32; LANES] {
        let mut values = [0.0; LANES];
        // SAFETY: sixteen numbers.
        unsafe { self.store(values.as_mut_ptr()) }
        values
    }
}

/// [`Lanes`] of plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Plain([f32; LANES]);

/// `a · b + c`: rounded once where the target has the instruction, as on the rungs with FMA.
#[inline(always)]
pub(crate) fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

impl Plain {
    #[inline(always)]
    fn each(self, f: impl Fn(f32) -> f32) -> Plain {
        let mut values = self.0;
        for value in &mut values {
            *value = f(*value);
        }
        Plain(values)
    }

    #[inline(always)]
    fn both(self, other: Plain, f: impl Fn(f32, f32) -> f32) -> Plain {
        let mut values = self.0;
        for (value, other) in values.iter_mut().zip(other.0) {
            *value = f(*value, other);
        }
        Plain(values)
    }
}

// SAFETY: plain Rust runs everywhere.
unsafe impl Lanes for Plain {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Plain {
        Plain([value; LANES])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Plain {
        // SAFETY: the caller's sixteen numbers.
        Plain(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's sixteen numbers.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Plain {
        // SAFETY: the caller's sixteen numbers.
        let narrow = unsafe { from.cast::<[bf16; LANES]>().read_unaligned() };
        let mut values = [0.0; LANES];
        for (value, narrow) in values.iter_mut().zip(narrow) {
            *value = Number::to_f32(narrow);
        }
        Plain(values)
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        let mut narrow = [bf16::ZERO; LANES];
        for (narrow, value) in narrow.iter_mut().zip(self.0) {
            *narrow = Number::from_f32(value);
        }
        // SAFETY: the caller's sixteen numbers.
        unsafe { to.cast::<[bf16; LANES]>().write_unaligned(narrow) }
    }

    #[inline(always)]
    unsafe fn store_bf16_pairs(self, second: Plain, to: *mut bf16) {
        let mut pairs = [[bf16::ZERO; 2]; LANES];
        for (pair, (first, second)) in pairs.iter_mut().zip(self.0.into_iter().zip(second.0)) {
            *pair = [Number::from_f32(first), Number::from_f32(second)];
        }
        // SAFETY: the caller's 32 numbers.
        unsafe { to.cast::<[[bf16; 2]; LANES]>().write_unaligned(pairs) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Plain {
        // SAFETY: the caller's sixteen numbers.
        let narrow = unsafe { from.cast::<[f16; LANES]>().read_unaligned() };
        let mut values = [0.0; LANES];
        for (value, narrow) in values.iter_mut().zip(narrow) {
            *value = narrow.to_f32();
        }
        Plain(values)
    }

    #[inline(always)]
    unsafe fn add(self, other: Plain) -> Plain {
        self.both(other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Plain) -> Plain {
        self.both(other, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul(self, other: Plain) -> Plain {
        self.both(other, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Plain, term: Plain) -> Plain {
        let mut values = self.0;
        for (value, (factor, term)) in values.iter_mut().zip(factor.0.into_iter().zip(term.0)) {
            *value = multiply_add(*value, factor, term);
        }
        Plain(values)
    }

    #[inline(always)]
    unsafe fn min(self, other: Plain) -> Plain {
        self.both(other, f32::min)
    }

    #[inline(always)]
    unsafe fn max(self, other: Plain) -> Plain {
        self.both(other, f32::max)
    }

    #[inline(always)]
    unsafe fn abs(self) -> Plain {
        self.each(f32::abs)
    }

    #[inline(always)]
    unsafe fn copysign(self, sign: Plain) -> Plain {
        self.both(sign, f32::copysign)
    }

    #[inline(always)]
    unsafe fn power_of_2(self) -> Plain {
        self.each(|n| f32::from_bits(((n as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    unsafe fn reciprocal_guess(self) -> Plain {
        self.each(|x| f32::from_bits(GUESS.wrapping_sub(x.to_bits())))
    }
}

/// Twice the exponent's bias, less what makes the guess's error the same at both ends of an octave.
const GUESS: u32 = 0x7ef3_11c7;

#[cfg(target_arch = "aarch64")]
pub(crate) use aarch64::Neon;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "aarch64")]
#[expect(clippy::undocumented_unsafe_blocks, reason = "all by the conditions of the trait `Lanes`")]
mod aarch64 {
    use std::arch::aarch64::*;

    use half::{bf16, f16};

    use super::{GUESS, LANES, Lanes};

    /// [`Lanes`] in four registers of NEON, which every processor of this kind has.
    #[derive(Clone, Copy)]
    pub(crate) struct Neon([float32x4_t; 4]);

    impl Neon {
        #[inline(always)]
        fn both(self, other: Neon, f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> Neon {
            Neon(std::array::from_fn(|part| f(self.0[part], other.0[part])))
        }

        /// Sixteen numbers of 16 bits, each widened from its bits.
        #[inline(always)]
        unsafe fn widened(from: *const u16, f: impl Fn(uint32x4_t) -> uint32x4_t) -> Neon {
            unsafe {
                let words = from.cast::<[u16; LANES]>().read_unaligned();
                Neon(std::array::from_fn(|part| {
                    let words: [u32; 4] = std::array::from_fn(|i| words[4 * part + i].into());
                    vreinterpretq_f32_u32(f(vld1q_u32(words.as_ptr())))
                }))
            }
        }
    }

    /// Rounded to bf16, in the upper halves of 32 bits.
    #[inline(always)]
    unsafe fn rounded(value: float32x4_t) -> uint32x4_t {
        unsafe {
            let bits = vreinterpretq_u32_f32(value);
            let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
            let rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
            let quiet = vorrq_u32(bits, vdupq_n_u32(0x40_0000));
            vbslq_u32(vceqq_f32(value, value), rounded, quiet)
        }
    }

    // SAFETY: NEON is part of the target.
    unsafe impl Lanes for Neon {
        #[inline(always)]
        unsafe fn splat(value: f32) -> Neon {
            unsafe { Neon([vdupq_n_f32(value); 4]) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Neon {
            unsafe { Neon(std::array::from_fn(|part| vld1q_f32(from.add(4 * part)))) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            for (part, value) in self.0.into_iter().enumerate() {
                unsafe { vst1q_f32(to.add(4 * part), value) }
            }
        }

        #[inline(always)]
        unsafe fn load_bf16(from: *const bf16) -> Neon {
            unsafe { Neon::widened(from.cast(), |bits| vshlq_n_u32::<16>(bits)) }
        }

        #[inline(always)]
        unsafe fn store_bf16(self, to: *mut bf16) {
            for (part, value) in self.0.into_iter().enumerate() {
                unsafe { vst1_u16(to.add(4 * part).cast(), vshrn_n_u32::<16>(rounded(value))) }
            }
        }

        #[inline(always)]
        unsafe fn store_bf16_pairs(self, second: Neon, to: *mut bf16) {
            for (part, (first, second)) in self.0.into_iter().zip(second.0).enumerate() {
                unsafe {
                    let pairs = vsriq_n_u32::<16>(rounded(second), rounded(first));
                    vst1q_u32(to.add(8 * part).cast(), pairs);
                }
            }
        }

        #[inline(always)]
        unsafe fn load_f16(from: *const f16) -> Neon {
            // The magnitude as f32's bits has an exponent that is too small by 112; where it is all ones
            // (infinite, or no number), it becomes all ones.
            unsafe {
                Neon::widened(from.cast(), |bits| {
                    let magnitude = vshlq_n_u32::<13>(vandq_u32(bits, vdupq_n_u32(0x7fff)));
                    let scaled = vmulq_n_f32(vreinterpretq_f32_u32(magnitude), 2f32.powi(112));
                    let special = vcgeq_u32(magnitude, vdupq_n_u32(0x7c00 << 13));
                    let special = vandq_u32(special, vdupq_n_u32(0x7f80_0000));
                    let sign = vshlq_n_u32::<16>(vandq_u32(bits, vdupq_n_u32(0x8000)));
                    vorrq_u32(vorrq_u32(vreinterpretq_u32_f32(scaled), special), sign)
                })
            }
        }

        #[inline(always)]
        unsafe fn add(self, other: Neon) -> Neon {
            self.both(other, |a, b| unsafe { vaddq_f32(a, b) })
        }

        #[inline(always)]
        unsafe fn sub(self, other: Neon) -> Neon {
            self.both(other, |a, b| unsafe { vsubq_f32(a, b) })
        }

        #[inline(always)]
        unsafe fn mul(self, other: Neon) -> Neon {
            self.both(other, |a, b| unsafe { vmulq_f32(a, b) })
        }

        #[inline(always)]
        unsafe fn mul_add(self, factor: Neon, term: Neon) -> Neon {
            let Neon(terms) = term;
            Neon(std::array::from_fn(|part| unsafe {
                vfmaq_f32(terms[part], self.0[part], factor.0[part])
            }))
        }

        #[inline(always)]
        unsafe fn min(self, other: Neon) -> Neon {
            self.both(other, |a, b| unsafe { vminq_f32(a, b) })
        }

        #[inline(always)]
        unsafe fn max(self, other: Neon) -> Neon {
            self.both(other, |a, b| unsafe { vmaxq_f32(a, b) })
        }

        #[inline(always)]
        unsafe fn abs(self) -> Neon {
            Neon(self.0.map(|x| unsafe { vabsq_f32(x) }))
        }

        #[inline(always)]
        unsafe fn copysign(self, sign: Neon) -> Neon {
            self.both(sign, |x, sign| unsafe { vbslq_f32(vdupq_n_u32(1 << 31), sign, x) })
        }

        #[inline(always)]
        unsafe fn power_of_2(self) -> Neon {
            Neon(self.0.map(|n| unsafe {
                let biased = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
                vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
            }))
        }

        #[inline(always)]
        unsafe fn reciprocal_guess(self) -> Neon {
            Neon(self.0.map(|x| unsafe {
                let bits = vsubq_u32(vdupq_n_u32(GUESS), vreinterpretq_u32_f32(x));
                vreinterpretq_f32_u32(bits)
            }))
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(clippy::undocumented_unsafe_blocks, reason = "all by the conditions of the trait `Lanes`")]
mod x86 {
    use std::arch::x86_64::*;

    use half::{bf16, f16};

    use super::{GUESS, LANES, Lanes};

    /// [`Lanes`] in one register of AVX-512.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(__m512);

    /// [`Lanes`] in two registers of AVX2.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(__m256, __m256);

    // SAFETY: the intrinsics need AVX-512 F, BW, DQ and VL, which is what the trait demands.
    unsafe impl Lanes for Avx512 {
        #[inline(always)]
        unsafe fn splat(value: f32) -> Avx512 {
            unsafe { Avx512(_mm512_set1_ps(value)) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Avx512 {
            unsafe { Avx512(_mm512_loadu_ps(from)) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm512_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        unsafe fn load_bf16(from: *const bf16) -> Avx512 {
            unsafe {
                let narrow = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(narrow)))
            }
        }

        #[inline(always)]
        unsafe fn store_bf16(self, to: *mut bf16) {
            unsafe {
                let narrow = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(self.rounded()));
                _mm256_storeu_si256(to.cast(), narrow);
            }
        }

        #[inline(always)]
        unsafe fn store_bf16_pairs(self, second: Avx512, to: *mut bf16) {
            unsafe {
                let first = _mm512_srli_epi32::<16>(self.rounded());
                // The odd ones of 32 numbers are the upper halves.
                let pairs = _mm512_mask_blend_epi16(0xaaaa_aaaa, first, second.rounded());
                _mm512_storeu_si512(to.cast(), pairs);
            }
        }

        #[inline(always)]
        unsafe fn load_f16(from: *const f16) -> Avx512 {
            unsafe { Avx512(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))) }
        }

        #[inline(always)]
        unsafe fn add(self, other: Avx512) -> Avx512 {
            unsafe { Avx512(_mm512_add_ps(self.0, other.0)) }
        }

        #[inline(always)]
        unsafe fn sub(self, other: Avx512) -> Avx512 {
            unsafe { Avx512(_mm512_sub_ps(self.0, other.0)) }
        }

        #[inline(always)]
        unsafe fn mul(self, other: Avx512) -> Avx512 {
            unsafe { Avx512(_mm512_mul_ps(self.0, other.0)) }
        }

        #[inline(always)]
        unsafe fn mul_add(self, factor: Avx512, term: Avx512) -> Avx512 {
            unsafe { Avx512(_mm512_fmadd_ps(self.0, factor.0, term.0)) }
        }

        #[inline(always)]
        unsafe fn min(self, other: Avx512) -> Avx512 {
            unsafe { Avx512(_mm512_min_ps(self.0, other.0)) }
        }

        #[inline(always)]
        unsafe fn max(self, other: Avx512) -> Avx512 {
            unsafe { Avx512(_mm512_max_ps(self.0, other.0)) }
        }

        #[inline(always)]
        unsafe fn abs(self) -> Avx512 {
            unsafe { Avx512(_mm512_abs_ps(self.0)) }
        }

        #[inline(always)]
        unsafe fn copysign(self, sign: Avx512) -> Avx512 {
            unsafe {
                let mask = _mm512_set1_ps(-0.0);
                let sign = _mm512_and_ps(mask, sign.0);
                Avx512(_mm512_or_ps(sign, _mm512_andnot_ps(mask, self.0)))
            }
        }

        #[inline(always)]
        unsafe fn power_of_2(self) -> Avx512 {
            unsafe {
                let biased = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
                Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased)))
            }
        }

        #[inline(always)]
        unsafe fn reciprocal_guess(self) -> Avx512 {
            unsafe {
                let guess = _mm512_set1_epi32(GUESS.cast_signed());
                let bits = _mm512_sub_epi32(guess, _mm512_castps_si512(self.0));
                Avx512(_mm512_castsi512_ps(bits))
            }
        }

        #[inline(always)]
        unsafe fn turned(rows: [Avx512; LANES]) -> [Avx512; LANES] {
            unsafe {
                // Within each quarter of a register squares of four turn, then the squares do.
                let mut squares = [_mm512_setzero_ps(); LANES];
                for (rows, to) in rows.as_chunks::<4>().0.iter().zip(squares.as_chunks_mut::<4>().0)
                {
                    let [a, b, c, d] = rows.map(|row| row.0);
                    let (ab, cd) = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
                    let (ab_high, cd_high) = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
                    *to = [
                        _mm512_shuffle_ps::<0b01_00_01_00>(ab, cd),
                        _mm512_shuffle_ps::<0b11_10_11_10>(ab, cd),
                        _mm512_shuffle_ps::<0b01_00_01_00>(ab_high, cd_high),
                        _mm512_shuffle_ps::<0b11_10_11_10>(ab_high, cd_high),
                    ];
                }
                let mut turned = rows;
                for at in 0..4 {
                    let [a, b, c, d] = [0, 4, 8, 12].map(|square| squares[square + at]);
                    let even = (shuffled::<0b10_00_10_00>(a, b), shuffled::<0b10_00_10_00>(c, d));
                    let odd = (shuffled::<0b11_01_11_01>(a, b), shuffled::<0b11_01_11_01>(c, d));
                    turned[at] = Avx512(shuffled::<0b10_00_10_00>(even.0, even.1));
                    turned[4 + at] = Avx512(shuffled::<0b10_00_10_00>(odd.0, odd.1));
                    turned[8 + at] = Avx512(shuffled::<0b11_01_11_01>(even.0, even.1));
                    turned[12 + at] = Avx512(shuffled::<0b11_01_11_01>(odd.0, odd.1));
                }
                turned
            }
        }
    }

    /// Two quarters of `a`, then two of `b`.
    #[inline(always)]
    unsafe fn shuffled<const WHICH: i32>(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_shuffle_f32x4::<WHICH>(a, b) }
    }

    impl Avx512 {
        /// Rounded to bf16, in the upper halves of 32 bits.
        #[inline(always)]
        unsafe fn rounded(self) -> __m512i {
            unsafe {
                let bits = _mm512_castps_si512(self.0);
                let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
                let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
                let rounded = _mm512_add_epi32(bits, half);
                let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
                let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
                _mm512_mask_blend_epi32(nan, rounded, quiet)
            }
        }

        /// `self + a · b`, where each of the sixteen numbers of `a` and `b` is two of bf16, both of whose
        /// products are added. Needs AVX-512 BF16.
        #[inline(always)]
        pub(crate) unsafe fn add_pairs(self, a: Avx512, b: Avx512) -> Avx512 {
            unsafe {
                let pairs = |x: __m512| -> __m512bh { std::mem::transmute(x) };
                Avx512(_mm512_dpbf16_ps(self.0, pairs(a.0), pairs(b.0)))
            }
        }

        /// Rounded to bf16, side by side with `second` rounded. Needs AVX-512 BF16.
        #[inline(always)]
        pub(crate) unsafe fn pairs(self, second: Avx512) -> Avx512 {
            unsafe {
                let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(second.0, self.0));
                let turned = _mm512_permutexvar_epi16(
                    _mm512_loadu_si512(SIDE_BY_SIDE.as_ptr().cast()),
                    both,
                );
                Avx512(_mm512_castsi512_ps(turned))
            }
        }
    }

    /// The first sixteen and the last sixteen in turn.
    static SIDE_BY_SIDE: [u16; 32] = {
        let mut places = [0; 32];
        let mut at = 0;
        while at < 32 {
            places[at] = at as u16 / 2 + at as u16 % 2 * 16;
            at += 1;
        }
        places
    };

    impl Avx2 {
        #[inline(always)]
        unsafe fn each(self, f: impl Fn(__m256) -> __m256) -> Avx2 {
            Avx2(f(self.0), f(self.1))
        }

        #[inline(always)]
        unsafe fn both(self, other: Avx2, f: impl Fn(__m256, __m256) -> __m256) -> Avx2 {
            Avx2(f(self.0, other.0), f(self.1, other.1))
        }
    }

    #[inline(always)]
    unsafe fn widen(narrow: __m128i) -> __m256 {
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(narrow))) }
    }

    /// Rounded to bf16, in the lower halves of 32 bits.
    #[inline(always)]
    unsafe fn rounded(value: __m256) -> __m256i {
        unsafe {
            let bits = _mm256_castps_si256(value);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
            let rounded = _mm256_add_epi32(bits, half);
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(value, value));
            _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan))
        }
    }

    // SAFETY: the intrinsics need AVX2, FMA and F16C, which is what the trait demands.
    unsafe impl Lanes for Avx2 {
        #[inline(always)]
        unsafe fn splat(value: f32) -> Avx2 {
            unsafe { Avx2(_mm256_set1_ps(value), _mm256_set1_ps(value)) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Avx2 {
            unsafe { Avx2(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe {
                _mm256_storeu_ps(to, self.0);
                _mm256_storeu_ps(to.add(8), self.1);
            }
        }

        #[inline(always)]
        unsafe fn load_bf16(from: *const bf16) -> Avx2 {
            unsafe {
                let narrow = _mm256_loadu_si256(from.cast());
                let high = _mm256_extracti128_si256::<1>(narrow);
                Avx2(widen(_mm256_castsi256_si128(narrow)), widen(high))
            }
        }

        #[inline(always)]
        unsafe fn store_bf16(self, to: *mut bf16) {
            unsafe {
                // Packing works within halves of a register, so the middle quarters change places.
                let packed = _mm256_packus_epi32(rounded(self.0), rounded(self.1));
                _mm256_storeu_si256(to.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(packed));
            }
        }

        #[inline(always)]
        unsafe fn store_bf16_pairs(self, second: Avx2, to: *mut bf16) {
            unsafe {
                for (part, (first, second)) in
                    [(self.0, second.0), (self.1, second.1)].into_iter().enumerate()
                {
                    let upper = _mm256_slli_epi32::<16>(rounded(second));
                    let pairs = _mm256_or_si256(rounded(first), upper);
                    _mm256_storeu_si256(to.add(16 * part).cast(), pairs);
                }
            }
        }

        #[inline(always)]
        unsafe fn load_f16(from: *const f16) -> Avx2 {
            unsafe {
                Avx2(
                    _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
                    _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast())),
                )
            }
        }

        #[inline(always)]
        unsafe fn add(self, other: Avx2) -> Avx2 {
            unsafe { self.both(other, |a, b| _mm256_add_ps(a, b)) }
        }

        #[inline(always)]
        unsafe fn sub(self, other: Avx2) -> Avx2 {
            unsafe { self.both(other, |a, b| _mm256_sub_ps(a, b)) }
        }

        #[inline(always)]
        unsafe fn mul(self, other: Avx2) -> Avx2 {
            unsafe { self.both(other, |a, b| _mm256_mul_ps(a, b)) }
        }

        #[inline(always)]
        unsafe fn mul_add(self, factor: Avx2, term: Avx2) -> Avx2 {
            unsafe {
                Avx2(
                    _mm256_fmadd_ps(self.0, factor.0, term.0),
                    _mm256_fmadd_ps(self.1, factor.1, term.1),
                )
            }
        }

        #[inline(always)]
        unsafe fn min(self, other: Avx2) -> Avx2 {
            unsafe { self.both(other, |a, b| _mm256_min_ps(a, b)) }
        }

        #[inline(always)]
        unsafe fn max(self, other: Avx2) -> Avx2 {
            unsafe { self.both(other, |a, b| _mm256_max_ps(a, b)) }
        }

        #[inline(always)]
        unsafe fn abs(self) -> Avx2 {
            unsafe { self.each(|x| _mm256_andnot_ps(_mm256_set1_ps(-0.0), x)) }
        }

        #[inline(always)]
        unsafe fn copysign(self, sign: Avx2) -> Avx2 {
            unsafe {
                let mask = _mm256_set1_ps(-0.0);
                self.both(sign, |value, sign| {
                    _mm256_or_ps(_mm256_and_ps(mask, sign), _mm256_andnot_ps(mask, value))
                })
            }
        }

        #[inline(always)]
        unsafe fn power_of_2(self) -> Avx2 {
            unsafe {
                self.each(|n| {
                    let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
                })
            }
        }

        #[inline(always)]
        unsafe fn reciprocal_guess(self) -> Avx2 {
            unsafe {
                let guess = _mm256_set1_epi32(GUESS.cast_signed());
                self.each(|x| _mm256_castsi256_ps(_mm256_sub_epi32(guess, _mm256_castps_si256(x))))
            }
        }

        #[inline(always)]
        unsafe fn turned(rows: [Avx2; LANES]) -> [Avx2; LANES] {
            unsafe {
                let mut turned = rows;
                let (upper, lower) = turned.split_at_mut(8);
                let quarter = |rows: &[Avx2], part: fn(&Avx2) -> __m256| {
                    turned_eight(std::array::from_fn(|i| part(&rows[i])))
                };
                let (above, below) = rows.split_at(8);
                let [a, b] = [quarter(above, |row| row.0), quarter(below, |row| row.0)];
                let [c, d] = [quarter(above, |row| row.1), quarter(below, |row| row.1)];
                for i in 0..8 {
                    upper[i] = Avx2(a[i], b[i]);
                    lower[i] = Avx2(c[i], d[i]);
                }
                turned
            }
        }
    }

    /// Columns of eight rows of eight numbers.
    #[inline(always)]
    unsafe fn turned_eight(rows: [__m256; 8]) -> [__m256; 8] {
        unsafe {
            // Within each half of a register squares of four turn, then the squares do.
            let mut squares = [_mm256_setzero_ps(); 8];
            for (rows, to) in rows.as_chunks::<4>().0.iter().zip(squares.as_chunks_mut::<4>().0) {
                let [a, b, c, d] = *rows;
                let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
                let (ab_high, cd_high) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
                *to = [
                    _mm256_shuffle_ps::<0b01_00_01_00>(ab, cd),
                    _mm256_shuffle_ps::<0b11_10_11_10>(ab, cd),
                    _mm256_shuffle_ps::<0b01_00_01_00>(ab_high, cd_high),
                    _mm256_shuffle_ps::<0b11_10_11_10>(ab_high, cd_high),
                ];
            }
            std::array::from_fn(|i| {
                let (a, b) = (squares[i % 4], squares[4 + i % 4]);
                if i < 4 {
                    _mm256_permute2f128_ps::<0x20>(a, b)
                } else {
                    _mm256_permute2f128_ps::<0x31>(a, b)
                }
            })
        }
    }
}

/// The first `count`, up to sixteen, numbers from `from` on, and zeros.
///
/// # Safety
/// They must be readable, and the processor have the instructions.
#[inline(always)]
pub(crate) unsafe fn load<L: Lanes, T: Number>(from: *const T, count: usize) -> L {
    // SAFETY: the caller's numbers.
    unsafe {
        if count == LANES {
            return T::load(from);
        }
        let mut values = [0.0; LANES];
        for (i, value) in values.iter_mut().take(count).enumerate() {
            *value = (*from.add(i)).to_f32();
        }
        L::load(values.as_ptr())
    }
}

/// Rounds and stores the first `count`, up to sixteen, numbers from `to` on.
///
/// # Safety
/// They must be writable, and the processor have the instructions.
#[inline(always)]
pub(crate) unsafe fn store<L: Lanes, T: Number>(lanes: L, to: *mut T, count: usize) {
    // SAFETY: the caller's numbers.
    unsafe {
        if count == LANES {
            return T::store(lanes, to);
        }
        for (i, value) in lanes.to_array().into_iter().take(count).enumerate() {
            *to.add(i) = T::from_f32(value);
        }
    }
}

/// Defines a function whose body, written in a type `L` of [`Lanes`], is compiled for each rung, and
/// chosen by [`Isa::untested`](crate::Isa::untested) when it is called.
macro_rules! on_lanes {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident$(<$T:ident: $bound:path>)?($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?
        $body:block
    ) => {
        $(#[$meta])*
        $vis fn $name$(<$T: $bound>)?($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            unsafe fn body<L: $crate::lanes::Lanes $(, $T: $bound)?>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            unsafe fn avx512$(<$T: $bound>)?($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function has the instructions.
                unsafe { body::<$crate::lanes::Avx512 $(, $T)?>($($arg),*) }
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn avx2$(<$T: $bound>)?($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function has the instructions.
                unsafe { body::<$crate::lanes::Avx2 $(, $T)?>($($arg),*) }
            }

            match $crate::Isa::untested() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: it is a rung that the processor has.
                $crate::Isa::Avx2 => unsafe { avx2($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                isa if isa > $crate::Isa::Avx2 => unsafe { avx512($($arg),*) },
                #[cfg(target_arch = "aarch64")]
                // SAFETY: its instructions are part of the target.
                $crate::Isa::Neon => unsafe { body::<$crate::lanes::Neon $(, $T)?>($($arg),*) },
                // SAFETY: plain Rust.
                _ => unsafe { body::<$crate::lanes::Plain $(, $T)?>($($arg),*) },
            }
        }
    };
}

pub(crate) use on_lanes;

#[cfg(test)]
mod tests {
    use super::*;

    fn agree<L: Lanes>() {
        let x: [f32; LANES] = std::array::from_fn(|i| (i as f32 - 7.5) * 1.37);
        let y: [f32; LANES] = std::array::from_fn(|i| (i as f32 - 3.0) * 0.81);
        // SAFETY: only called where the processor has the instructions; sixteen numbers each.
        unsafe {
            let (a, b) = (L::load(x.as_ptr()), L::load(y.as_ptr()));
            let (c, d) = (Plain::load(x.as_ptr()), Plain::load(y.as_ptr()));
            assert_eq!(a.add(b).to_array(), c.add(d).to_array());
            assert_eq!(a.sub(b).to_array(), c.sub(d).to_array());
            assert_eq!(a.mul(b).to_array(), c.mul(d).to_array());
            assert_eq!(a.min(b).to_array(), c.min(d).to_array());
            assert_eq!(a.max(b).to_array(), c.max(d).to_array());
            assert_eq!(a.abs().to_array(), c.abs().to_array());
            assert_eq!(a.copysign(b).to_array(), c.copysign(d).to_array());
            assert_eq!(a.reciprocal_guess().to_array(), c.reciprocal_guess().to_array());
            for (ours, (x, y)) in a.mul_add(b, a).to_array().into_iter().zip(x.into_iter().zip(y)) {
                assert!(
                    (f64::from(ours) - f64::from(x) * f64::from(y) - f64::from(x)).abs() < 1e-5
                );
            }
            let whole: [f32; LANES] = std::array::from_fn(|i| i as f32 * 16.0 - 126.0);
            let powers = L::load(whole.as_ptr()).power_of_2().to_array();
            assert_eq!(powers, whole.map(|n| n.exp2()));
            let odd = [0.0, -0.0, 1.0, 1.003_906_3, 1.011_718_8, f32::NAN, f32::INFINITY, -2.5e-39];
            let odd: [f32; LANES] = std::array::from_fn(|i| odd[i % 8] * (1 + i / 8) as f32);
            let (mut narrow, mut plain) = ([bf16::ZERO; LANES], [bf16::ZERO; LANES]);
            L::load(odd.as_ptr()).store_bf16(narrow.as_mut_ptr());
            Plain::load(odd.as_ptr()).store_bf16(plain.as_mut_ptr());
            assert_eq!(narrow.map(bf16::to_bits), plain.map(bf16::to_bits));
            let mut pairs = [[bf16::ZERO; 2]; LANES];
            L::load(odd.as_ptr()).store_bf16_pairs(a, pairs.as_mut_ptr().cast());
            assert_eq!(pairs.map(|pair| pair[0].to_bits()), plain.map(bf16::to_bits));
            assert_eq!(pairs.map(|pair| pair[1]), x.map(<bf16 as Number>::from_f32));
            let square: [[f32; LANES]; LANES] =
                std::array::from_fn(|row| std::array::from_fn(|at| (LANES * row + at) as f32));
            let turned = L::turned(square.map(|row| L::load(row.as_ptr())));
            for (column, turned) in turned.into_iter().enumerate() {
                assert_eq!(turned.to_array(), square.map(|row| row[column]));
            }
            let halves: [f16; LANES] = std::array::from_fn(|i| f16::from_f32(odd[i % 4] * 3.3));
            let (half, plain) = (L::load_f16(halves.as_ptr()), Plain::load_f16(halves.as_ptr()));
            assert_eq!(half.to_array(), plain.to_array());
            let (wide, plain) = (L::load_bf16(narrow.as_ptr()), Plain::load_bf16(narrow.as_ptr()));
            assert_eq!(wide.to_array().map(f32::to_bits), plain.to_array().map(f32::to_bits));
        }
    }

    #[test]
    fn every_kind_of_lanes_computes_the_same() {
        agree::<Plain>();
        #[cfg(target_arch = "aarch64")]
        agree::<Neon>();
        #[cfg(target_arch = "x86_64")]
        {
            if crate::Isa::Avx2.is_available() {
                agree::<Avx2>();
            }
            if crate::Isa::Avx512.is_available() {
                agree::<Avx512>();
            }
        }
    }
}
