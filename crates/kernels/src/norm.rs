//! Normalization: over groups of channels of an image, and over the channels of a token.

use rayon::prelude::*;

use crate::{
    conv::{Padded, Size},
    lanes::{LANES, Lanes, load, on_lanes, store},
    math::silu,
    memory::{Shared, Values},
    number::Number,
};

/// Pixels per task.
const PIXEL_BLOCK: usize = 256;

/// Rows of a layer normalization per task.
const ROW_BLOCK: usize = 32;

/// For each image and channel: `x · factor + offset`.
struct Factors {
    factors: Vec<f32>,
    offsets: Vec<f32>,
    channels: usize,
}

/// Group normalization (Wu & He, 2018).
///
/// * `x`: `(B, H, W, C)`
/// * `gamma`, `beta`: `(C)`
/// * returns `(B, H, W, C)`
///
/// Mean and variance are taken over all pixels and `C / groups` channels of one image, in f64.
///
/// # Panics
/// If the lengths do not agree or `C` is no multiple of `groups`.
#[must_use]
pub fn group_norm<T: Number>(
    x: &[T],
    size: Size,
    gamma: &[f32],
    beta: &[f32],
    groups: usize,
    eps: f32,
) -> Values<T> {
    let factors = factors(x, size, gamma, beta, groups, eps);
    // SAFETY: each row is written by its task.
    let mut out = unsafe { Values::unwritten(x.len()) };
    let row = size.width * size.channels;
    if row > 0 {
        out.par_chunks_mut(row).zip(x.par_chunks(row)).enumerate().for_each(|(index, (to, x))| {
            factors.apply(x, index / size.height, false, to);
        });
    }
    out
}

/// [`group_norm`], then SiLU if `activate`, into an image that is ready for a convolution.
///
/// # Panics
/// As [`group_norm`].
#[must_use]
pub fn group_norm_padded<T: Number>(
    x: &[T],
    size: Size,
    gamma: &[f32],
    beta: &[f32],
    groups: usize,
    eps: f32,
    activate: bool,
) -> Padded<T> {
    let factors = factors(x, size, gamma, beta, groups, eps);
    let row = size.width * size.channels;
    Padded::build(size, |index, to| {
        factors.apply(&x[index * row..][..row], index / size.height, activate, to);
    })
}

impl Factors {
    /// Normalizes pixels of one image.
    fn apply<T: Number>(&self, x: &[T], image: usize, activate: bool, to: &mut [T]) {
        let range = image * self.channels..(image + 1) * self.channels;
        let (factors, offsets) = (&self.factors[range.clone()], &self.offsets[range]);
        if activate {
            scale_and_activate(x, factors, offsets, to);
        } else {
            scale(x, factors, offsets, to);
        }
    }
}

on_lanes! {
    fn scale<T: Number>(x: &[T], factors: &[f32], offsets: &[f32], to: &mut [T]) {
        // SAFETY: the macro's function has the instructions.
        unsafe { map_channels::<L, T>(x, factors, offsets, to, |x| x) }
    }
}

on_lanes! {
    fn scale_and_activate<T: Number>(x: &[T], factors: &[f32], offsets: &[f32], to: &mut [T]) {
        // SAFETY: the macro's function has the instructions.
        unsafe { map_channels::<L, T>(x, factors, offsets, to, |x| silu(x)) }
    }
}

/// `f(x · factor + offset)`, pixel by pixel.
#[inline(always)]
unsafe fn map_channels<L: Lanes, T: Number>(
    x: &[T],
    factors: &[f32],
    offsets: &[f32],
    to: &mut [T],
    f: impl Fn(L) -> L,
) {
    let channels = factors.len();
    assert!(x.len() == to.len() && x.len().is_multiple_of(channels) && offsets.len() == channels);
    for pixel in (0..x.len()).step_by(channels) {
        // SAFETY: sixteen channels of this pixel, as long as there are so many.
        unsafe {
            let (x, to) = (x.as_ptr().add(pixel), to.as_mut_ptr().add(pixel));
            for c in (0..channels).step_by(LANES) {
                let count = LANES.min(channels - c);
                let factor = load::<L, f32>(factors.as_ptr().add(c), count);
                let offset = load::<L, f32>(offsets.as_ptr().add(c), count);
                let value = f(load::<L, T>(x.add(c), count).mul_add(factor, offset));
                store(value, to.add(c), count);
            }
        }
    }
}

fn factors<T: Number>(
    x: &[T],
    size: Size,
    gamma: &[f32],
    beta: &[f32],
    groups: usize,
    eps: f32,
) -> Factors {
    let channels = size.channels;
    assert_eq!(x.len(), size.len(), "an image of another size");
    assert_eq!((gamma.len(), beta.len()), (channels, channels), "one factor per channel");
    let per_group = channels / groups;
    assert_eq!(per_group * groups, channels, "groups of the same size");

    let image_len = size.height * size.width * channels;
    let blocks = (size.height * size.width).div_ceil(PIXEL_BLOCK);
    // Σ(x - p) and then Σ(x - p)² of each channel of each block, where p is the image's first pixel:
    // near the mean, so that f32 loses nothing that matters.
    let sums: Vec<Vec<f32>> = (0..size.batch * blocks)
        .into_par_iter()
        .map(|task| {
            let image = &x[task / blocks * image_len..][..image_len];
            let begin = task % blocks * PIXEL_BLOCK * channels;
            let end = (begin + PIXEL_BLOCK * channels).min(image_len);
            let mut sums = vec![0.0; 2 * channels];
            add_up(&image[begin..end], &image[..channels], &mut sums);
            sums
        })
        .collect();

    let pixels = (size.height * size.width) as f64;
    let count = pixels * per_group as f64;
    let mut result = Factors { factors: vec![], offsets: vec![], channels };
    for image in 0..size.batch {
        let blocks = &sums[image * blocks..(image + 1) * blocks];
        for first in (0..channels).step_by(per_group) {
            let (mut sum, mut squares) = (0.0, 0.0);
            for c in first..first + per_group {
                let pivot = f64::from(x[image * image_len + c].to_f32());
                let s: f64 = blocks.iter().map(|sums| f64::from(sums[c])).sum();
                let q: f64 = blocks.iter().map(|sums| f64::from(sums[channels + c])).sum();
                sum += s + pixels * pivot;
                squares += q + 2.0 * pivot * s + pixels * pivot * pivot;
            }
            let mean = sum / count;
            let variance = (squares / count - mean * mean).max(0.0);
            let scale = 1.0 / (variance + f64::from(eps)).sqrt();
            for c in first..first + per_group {
                let factor = f64::from(gamma[c]) * scale;
                result.factors.push(factor as f32);
                result.offsets.push((f64::from(beta[c]) - mean * factor) as f32);
            }
        }
    }
    result
}

on_lanes! {
    /// Adds up each channel's distances from the pivot, and behind them their squares.
    fn add_up<T: Number>(x: &[T], pivots: &[T], sums: &mut [f32]) {
        let channels = pivots.len();
        assert!(x.len().is_multiple_of(channels) && sums.len() == 2 * channels);
        // Two registers of channels at a time, so that bf16 is read in whole cache lines.
        for first in (0..channels).step_by(2 * LANES) {
            let counts = [0, LANES].map(|at| channels.saturating_sub(first + at).min(LANES));
            // SAFETY: the channels that there are of pixels that there are.
            unsafe {
                let mut totals = [[L::splat(0.0); 2]; 2];
                let pivots = [0, 1].map(|i| {
                    load::<L, T>(pivots.as_ptr().wrapping_add(first + i * LANES), counts[i])
                });
                for pixel in (0..x.len()).step_by(channels) {
                    for i in 0..2 {
                        let at = x.as_ptr().wrapping_add(pixel + first + i * LANES);
                        let distance = load::<L, T>(at, counts[i]).sub(pivots[i]);
                        totals[i][0] = totals[i][0].add(distance);
                        totals[i][1] = distance.mul_add(distance, totals[i][1]);
                    }
                }
                for i in 0..2 {
                    for (kind, total) in totals[i].into_iter().enumerate() {
                        let at = kind * channels + first + i * LANES;
                        store(total, sums.as_mut_ptr().wrapping_add(at), counts[i]);
                    }
                }
            }
        }
    }
}

/// Layer normalization (Ba et al., 2016) of each row of `gamma.len()` numbers.
///
/// # Panics
/// If the lengths do not agree.
#[must_use]
pub fn layer_norm<T: Number>(x: &[T], gamma: &[f32], beta: &[f32], eps: f32) -> Values<T> {
    let channels = gamma.len();
    assert_eq!((x.len() % channels, beta.len()), (0, channels), "whole rows");
    // SAFETY: each block is written by its task.
    let mut out: Values<T> = unsafe { Values::unwritten(x.len()) };
    let shared = Shared::new(&mut out);
    x.par_chunks(ROW_BLOCK * channels).enumerate().for_each(|(block, x)| {
        // SAFETY: each task has rows of its own.
        let to = unsafe {
            let at = shared.get().add(block * ROW_BLOCK * channels);
            std::slice::from_raw_parts_mut(at, x.len())
        };
        normalize_rows(x, gamma, beta, eps, to);
    });
    out
}

on_lanes! {
    fn normalize_rows<T: Number>(x: &[T], gamma: &[f32], beta: &[f32], eps: f32, to: &mut [T]) {
        let channels = gamma.len();
        assert!(x.len() == to.len() && x.len().is_multiple_of(channels) && beta.len() == channels);
        for row in (0..x.len()).step_by(channels) {
            // SAFETY: the channels of this row, as many as there are.
            unsafe {
                let (x, to) = (x.as_ptr().add(row), to.as_mut_ptr().add(row));
                let at = |c: usize| load::<L, T>(x.add(c), LANES.min(channels - c));
                let mean = sum::<L>(channels, &at) / channels as f32;
                let middle = L::splat(mean);
                let squares = sum::<L>(channels, |c| {
                    let distance = at(c).sub(middle);
                    let square = distance.mul(distance);
                    match channels - c {
                        count if count < LANES => {
                            let mut squares = square.to_array();
                            squares[count..].fill(0.0);
                            L::load(squares.as_ptr())
                        }
                        _ => square,
                    }
                });
                let factor = L::splat(1.0 / (squares / channels as f32 + eps).sqrt());
                for c in (0..channels).step_by(LANES) {
                    let count = LANES.min(channels - c);
                    let gamma = load::<L, f32>(gamma.as_ptr().add(c), count);
                    let beta = load::<L, f32>(beta.as_ptr().add(c), count);
                    let value = at(c).sub(middle).mul(factor).mul_add(gamma, beta);
                    store(value, to.add(c), count);
                }
            }
        }
    }
}

/// The sum over all channels, sixteen at a time, in a fixed order.
#[inline(always)]
unsafe fn sum<L: Lanes>(channels: usize, at: impl Fn(usize) -> L) -> f32 {
    // SAFETY: the caller has the instructions.
    let mut sums = unsafe {
        let mut sums = L::splat(0.0);
        for c in (0..channels).step_by(LANES) {
            sums = sums.add(at(c));
        }
        sums.to_array()
    };
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::numbers;

    #[test]
    fn a_normalized_group_has_mean_0_and_variance_1() {
        let size = Size { batch: 2, height: 19, width: 17, channels: 6 };
        let x: Vec<f32> = numbers(size.len(), 1).iter().map(|x| x * 3.0 + 100.0).collect();
        let out = group_norm(&x, size, &[1.0; 6], &[0.0; 6], 3, 0.0);
        for image in out.chunks(size.len() / 2) {
            for group in 0..3 {
                let values: Vec<f64> = image
                    .chunks(6)
                    .flat_map(|pixel| &pixel[group * 2..group * 2 + 2])
                    .map(|&x| f64::from(x))
                    .collect();
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                let variance =
                    values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64;
                assert!(mean.abs() < 1e-4 && (variance - 1.0).abs() < 1e-4, "{mean} {variance}");
            }
        }
    }

    #[test]
    fn a_padded_result_is_the_same_with_a_border_of_zeros() {
        let size = Size { batch: 2, height: 3, width: 5, channels: 4 };
        let x = numbers(size.len(), 2);
        let (gamma, beta) = (numbers(4, 3), numbers(4, 4));
        let flat = group_norm(&x, size, &gamma, &beta, 2, 1e-5);
        let padded = group_norm_padded(&x, size, &gamma, &beta, 2, 1e-5, false);
        assert_eq!(padded.values(), Padded::new(&flat, size).values());
        let inner: f32 = flat.iter().map(|x| x.abs()).sum();
        let all: f32 = padded.values().iter().map(|x| x.abs()).sum();
        assert!((inner - all).abs() < 1e-3 * all);
    }

    #[test]
    fn a_normalized_row_has_its_scale_and_offset() {
        let out = layer_norm(&[1.0f32, 3.0, -4.0, 4.0], &[2.0, 1.0], &[0.5, -0.5], 0.0);
        assert_eq!(out[..], [-1.5, 0.5, -1.5, 0.5]);
    }
}
