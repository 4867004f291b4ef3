//! The numbers that kernels read and write.

use half::bf16;

use crate::{
    lanes::Lanes,
    memory::{AnyBits, Values},
};

/// A number as activations and packed weights are stored. Sums are always f32.
pub trait Number: AnyBits + Send + Sync + PartialEq + std::fmt::Debug + 'static {
    /// How many numbers that follow each other along the sum lie side by side in packed weights.
    const GROUP: usize;
    /// Packed weights are filled up with zeros to a multiple of so many inputs.
    const STEP: usize;

    /// Exact.
    fn to_f32(self) -> f32;

    /// Rounded to the nearest, ties to even.
    fn from_f32(value: f32) -> Self;

    /// Sixteen numbers from `from` on.
    ///
    /// # Safety
    /// They must be readable, and the processor have the lanes' instructions.
    #[doc(hidden)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L;

    /// Rounds and stores sixteen numbers from `to` on.
    ///
    /// # Safety
    /// They must be writable, and the processor have the lanes' instructions.
    #[doc(hidden)]
    unsafe fn store<L: Lanes>(lanes: L, to: *mut Self);

    /// Rounds sixteen numbers of each of the [`GROUP`](Number::GROUP) inputs from `first` on, and stores them
    /// as a group of a panel, `[output 16][input % GROUP]`.
    ///
    /// # Safety
    /// All of them must be writable, and the processor have the lanes' instructions.
    #[doc(hidden)]
    unsafe fn store_group<L: Lanes>(input: impl Fn(usize) -> L, first: usize, to: *mut Self);

    /// A slice of this kind as f32, if it is one.
    fn as_f32(values: &[Self]) -> Option<&[f32]>;

    /// A slice of this kind as bf16, if it is one.
    fn as_bf16(values: &[Self]) -> Option<&[bf16]>;

    /// Numbers of bf16 as this kind, without a copy if it is that.
    fn from_bf16(values: Values<bf16>) -> Values<Self>;
}

impl Number for f32 {
    const GROUP: usize = 1;
    const STEP: usize = 1;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn from_f32(value: f32) -> f32 {
        value
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const f32) -> L {
        // SAFETY: the caller's conditions.
        unsafe { L::load(from) }
    }

    #[inline(always)]
    unsafe fn store<L: Lanes>(lanes: L, to: *mut f32) {
        // SAFETY: the caller's conditions.
        unsafe { lanes.store(to) }
    }

    #[inline(always)]
    unsafe fn store_group<L: Lanes>(input: impl Fn(usize) -> L, first: usize, to: *mut f32) {
        // SAFETY: the caller's conditions.
        unsafe { input(first).store(to) }
    }

    fn as_f32(values: &[f32]) -> Option<&[f32]> {
        Some(values)
    }

    fn as_bf16(_: &[f32]) -> Option<&[bf16]> {
        None
    }

    fn from_bf16(values: Values<bf16>) -> Values<f32> {
        crate::pointwise::widen(&values)
    }
}

impl Number for bf16 {
    /// What dot-product instructions take at once.
    const GROUP: usize = 2;
    /// The depth of an AMX tile.
    const STEP: usize = 32;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// Without a branch, so that it vectorizes; what is not a number stays so.
    #[inline(always)]
    fn from_f32(value: f32) -> bf16 {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        let nan = bits >> 16 | 0x40;
        bf16::from_bits(if value.is_nan() { nan } else { rounded } as u16)
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const bf16) -> L {
        // SAFETY: the caller's conditions.
        unsafe { L::load_bf16(from) }
    }

    #[inline(always)]
    unsafe fn store<L: Lanes>(lanes: L, to: *mut bf16) {
        // SAFETY: the caller's conditions.
        unsafe { lanes.store_bf16(to) }
    }

    #[inline(always)]
    unsafe fn store_group<L: Lanes>(input: impl Fn(usize) -> L, first: usize, to: *mut bf16) {
        // SAFETY: the caller's conditions.
        unsafe { input(first).store_bf16_pairs(input(first + 1), to) }
    }

    fn as_f32(_: &[bf16]) -> Option<&[f32]> {
        None
    }

    fn as_bf16(values: &[bf16]) -> Option<&[bf16]> {
        Some(values)
    }

    fn from_bf16(values: Values<bf16>) -> Values<bf16> {
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_to_bf16_agrees_with_the_half_crate() {
        for bits in (0..=u32::MAX).step_by(997) {
            let value = f32::from_bits(bits);
            let (ours, theirs) = (<bf16 as Number>::from_f32(value), bf16::from_f32(value));
            assert!(ours.to_bits() == theirs.to_bits(), "{value:e}");
            assert!(Number::to_f32(ours).to_bits() == theirs.to_f32().to_bits(), "{value:e}");
        }
    }
}
