//! Functions of single numbers, and copies: activations, sums, concatenation, enlargement.

use half::f16;
use rayon::prelude::*;

use crate::{
    conv::{Padded, Size},
    lanes::{LANES, Lanes, load, on_lanes, store},
    math::{gelu, quick_gelu, silu},
    memory::{Shared, Values},
    number::Number,
    product::Activation,
};

/// Numbers per task.
const BLOCK: usize = 16 * 1024;

/// `x[i] = f(x[i])`, for any activation but the gated one.
///
/// # Panics
/// For [`Activation::Geglu`], which is [`geglu`].
pub fn activate<T: Number>(x: &mut [T], activation: Activation) {
    assert_ne!(activation, Activation::Geglu, "a function of one number");
    x.par_chunks_mut(BLOCK).for_each(|x| match activation {
        Activation::Silu => apply_silu(x),
        Activation::Gelu => apply_gelu(x),
        Activation::QuickGelu | Activation::Geglu => apply_quick_gelu(x),
    });
}

on_lanes! {
    fn apply_silu<T: Number>(x: &mut [T]) {
        // SAFETY: the macro's function has the instructions.
        unsafe { map::<L, T>(x, |x| silu(x)) }
    }
}

on_lanes! {
    fn apply_gelu<T: Number>(x: &mut [T]) {
        // SAFETY: the macro's function has the instructions.
        unsafe { map::<L, T>(x, |x| gelu(x)) }
    }
}

on_lanes! {
    fn apply_quick_gelu<T: Number>(x: &mut [T]) {
        // SAFETY: the macro's function has the instructions.
        unsafe { map::<L, T>(x, |x| quick_gelu(x)) }
    }
}

#[inline(always)]
unsafe fn map<L: Lanes, T: Number>(x: &mut [T], f: impl Fn(L) -> L) {
    for at in (0..x.len()).step_by(LANES) {
        let count = LANES.min(x.len() - at);
        // SAFETY: as many numbers as there are.
        unsafe {
            let place = x.as_mut_ptr().add(at);
            store(f(load(place, count)), place, count);
        }
    }
}

/// The gated linear unit of Shazeer (2020): `value · gelu(gate)`. A linear layer of even width does it
/// by itself ([`Activation::Geglu`]).
///
/// * `x`: rows of `2 n` numbers, the values before the gates
/// * returns rows of `n`
///
/// # Panics
/// If `x` is no whole number of rows.
#[must_use]
pub fn geglu<T: Number>(x: &[T], n: usize) -> Values<T> {
    assert_eq!(x.len() % (2 * n), 0, "whole rows");
    // SAFETY: each row is written by its task.
    let mut out = unsafe { Values::unwritten(x.len() / 2) };
    out.par_chunks_mut(n).zip(x.par_chunks(2 * n)).for_each(|(out, x)| gate(x, out));
    out
}

on_lanes! {
    fn gate<T: Number>(x: &[T], out: &mut [T]) {
        let n = out.len();
        assert_eq!(x.len(), 2 * n, "values and gates");
        for at in (0..n).step_by(LANES) {
            let count = LANES.min(n - at);
            // SAFETY: as many numbers as there are.
            unsafe {
                let value: L = load(x.as_ptr().add(at), count);
                let gate: L = load(x.as_ptr().add(n + at), count);
                store(value.mul(gelu(gate)), out.as_mut_ptr().add(at), count);
            }
        }
    }
}

/// Rounds numbers to how they are stored.
#[must_use]
pub fn narrow<T: Number>(x: &[f32]) -> Values<T> {
    // SAFETY: each block is written by its task.
    let mut out = unsafe { Values::unwritten(x.len()) };
    out.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK)).for_each(|(out, x)| round(x, out));
    out
}

on_lanes! {
    fn round<T: Number>(x: &[f32], out: &mut [T]) {
        assert_eq!(x.len(), out.len(), "a place for each");
        for at in (0..x.len()).step_by(LANES) {
            let count = LANES.min(x.len() - at);
            // SAFETY: as many numbers as there are.
            unsafe { store::<L, T>(load(x.as_ptr().add(at), count), out.as_mut_ptr().add(at), count) }
        }
    }
}

/// Numbers as f32.
#[must_use]
pub fn widen<T: Number>(x: &[T]) -> Values<f32> {
    // SAFETY: each block is written by its task.
    let mut out = unsafe { Values::unwritten(x.len()) };
    out.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK)).for_each(|(out, x)| {
        for (out, x) in out.iter_mut().zip(x) {
            *out = x.to_f32();
        }
    });
    out
}

on_lanes! {
    /// Widens IEEE half precision as it lies in a file: little-endian bytes.
    ///
    /// # Panics
    /// Unless there are two bytes for each number.
    pub fn widen_f16_bytes(bytes: &[u8], out: &mut [f32]) {
        assert_eq!(bytes.len(), 2 * out.len(), "two bytes a number");
        let whole = if cfg!(target_endian = "little") { out.len() / LANES * LANES } else { 0 };
        for at in (0..whole).step_by(LANES) {
            // SAFETY: sixteen numbers on both sides; loading needs no alignment.
            unsafe { L::load_f16(bytes.as_ptr().add(2 * at).cast()).store(out.as_mut_ptr().add(at)) }
        }
        for (out, bytes) in out[whole..].iter_mut().zip(bytes[2 * whole..].as_chunks::<2>().0) {
            *out = f16::from_le_bytes(*bytes).to_f32();
        }
    }
}

on_lanes! {
    /// Whether no number is infinite or none at all.
    #[must_use]
    pub fn all_finite(values: &[f32]) -> bool {
        // What is not finite times zero is no number, and stays so in every sum.
        let (parts, rest) = values.as_chunks::<{ 4 * LANES }>();
        // SAFETY: sixteen numbers each.
        unsafe {
            let mut sums = [L::splat(0.0); 4];
            for part in parts {
                for (i, sum) in sums.iter_mut().enumerate() {
                    let values = L::load(part.as_ptr().add(i * LANES));
                    *sum = values.mul_add(L::splat(0.0), *sum);
                }
            }
            let sum = sums[0].add(sums[1]).add(sums[2].add(sums[3]));
            sum.to_array().iter().chain(rest).all(|value| value.is_finite())
        }
    }
}

/// Puts the channels of `b` behind those of `a`, row by row.
///
/// # Panics
/// If the numbers of rows differ.
#[must_use]
pub fn concat<T: Number>(a: &[T], a_channels: usize, b: &[T], b_channels: usize) -> Values<T> {
    assert_eq!(a.len() / a_channels, b.len() / b_channels, "as many rows");
    let channels = a_channels + b_channels;
    // SAFETY: each row is written by its task.
    let mut out = unsafe { Values::unwritten(a.len() + b.len()) };
    out.par_chunks_mut(channels)
        .zip(a.par_chunks(a_channels))
        .zip(b.par_chunks(b_channels))
        .with_min_len(16)
        .for_each(|((out, a), b)| {
            out[..a_channels].copy_from_slice(a);
            out[a_channels..].copy_from_slice(b);
        });
    out
}

/// The first `height` rows and `width` columns of the images doubled by repeating pixels (nearest
/// neighbor), ready for a convolution.
///
/// # Panics
/// If `x` is of another size, or a side longer than doubled.
#[must_use]
pub fn doubled<T: Number>(x: &[T], size: Size, height: usize, width: usize) -> Padded<T> {
    assert_eq!(x.len(), size.len(), "an image of another size");
    assert!(height <= 2 * size.height && width <= 2 * size.width, "no larger than doubled");
    let (row, channels) = (size.width * size.channels, size.channels);
    Padded::build(Size { height, width, ..size }, |index, to| {
        let (image, y) = (index / height, index % height);
        let x = &x[(image * size.height + y / 2) * row..][..row];
        for (column, to) in to.chunks_exact_mut(channels).enumerate() {
            to.copy_from_slice(&x[column / 2 * channels..][..channels]);
        }
    })
}

/// Images in planes, `(B, C, H, W)`, as latents and pictures come, to pixels, `(B, H, W, C)`.
///
/// # Panics
/// If there are not as many numbers as the size says.
#[must_use]
pub fn from_planes<T: Number>(planes: &[f32], size: Size) -> Values<T> {
    assert_eq!(planes.len(), size.len(), "an image of another size");
    let (pixels, channels) = (size.height * size.width, size.channels);
    // SAFETY: each number is written below.
    let mut out = unsafe { Values::unwritten(planes.len()) };
    let images =
        out.chunks_exact_mut(pixels * channels).zip(planes.chunks_exact(pixels * channels));
    for (out, planes) in images {
        for (pixel, out) in out.chunks_exact_mut(channels).enumerate() {
            for (channel, out) in out.iter_mut().enumerate() {
                *out = T::from_f32(planes[channel * pixels + pixel]);
            }
        }
    }
    out
}

/// Images in pixels, `(B, H, W, C)`, to planes, `(B, C, H, W)`.
///
/// # Panics
/// If there are not as many numbers as the size says.
#[must_use]
pub fn to_planes<T: Number>(x: &[T], size: Size) -> Vec<f32> {
    assert_eq!(x.len(), size.len(), "an image of another size");
    let (pixels, channels) = (size.height * size.width, size.channels);
    let mut planes = vec![0.0; x.len()];
    let shared = Shared::new(&mut planes);
    x.par_chunks_exact(channels).enumerate().for_each(|(pixel, x)| {
        let (image, pixel) = (pixel / pixels, pixel % pixels);
        for (channel, x) in x.iter().enumerate() {
            // SAFETY: this pixel's place in each plane, which no other task writes.
            unsafe {
                *shared.get().add((image * channels + channel) * pixels + pixel) = x.to_f32();
            }
        }
    });
    planes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geglu_gates_the_first_half_by_the_second() {
        assert_eq!(geglu(&[3.0f32, 5.0, 0.0, 20.0], 2)[..], [0.0, 100.0]);
    }

    #[test]
    fn concat_keeps_rows_together() {
        let out = concat(&[1.0f32, 2.0, 3.0, 4.0], 2, &[5.0, 6.0], 1);
        assert_eq!(out[..], [1.0, 2.0, 5.0, 3.0, 4.0, 6.0]);
    }

    #[test]
    fn doubling_repeats_rows_and_columns_of_each_image() {
        let size = Size { batch: 2, height: 1, width: 2, channels: 1 };
        let out = doubled(&[1.0f32, 2.0, 3.0, 4.0], size, 2, 3);
        let one = |a: f32, b: f32| {
            let row = [0.0, a, a, b, 0.0];
            [[0.0; 5], row, row, [0.0; 5]].concat()
        };
        assert_eq!(out.values(), [one(1.0, 2.0), one(3.0, 4.0)].concat());
    }

    #[test]
    fn halves_of_a_file_are_widened_and_checked() {
        let halves: Vec<f16> =
            (0..35u8).map(|i| f16::from_f32(f32::from(i) * 0.37 - 5.0)).collect();
        let bytes: Vec<u8> = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
        let mut wide = vec![0.0; 35];
        widen_f16_bytes(&bytes, &mut wide);
        assert!(wide.iter().zip(&halves).all(|(wide, half)| *wide == half.to_f32()));
        assert!(all_finite(&wide));
        wide[34] = f32::NEG_INFINITY;
        assert!(!all_finite(&wide));
        wide[34] = f32::NAN;
        assert!(!all_finite(&wide));
    }

    #[test]
    fn planes_and_pixels_turn_into_each_other() {
        let size = Size { batch: 2, height: 1, width: 2, channels: 3 };
        let planes: Vec<f32> = (0..12u8).map(f32::from).collect();
        let pixels: Values<f32> = from_planes(&planes, size);
        assert_eq!(pixels[..6], [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
        assert_eq!(to_planes(&pixels, size), planes);
    }
}
