//! Normalization: over groups of channels of an image, and over the channels of a token.

use rayon::prelude::*;

use crate::{
    conv::{Padded, Size},
    math::silu,
    memory::{Shared, unwritten},
    number::Number,
    vectorized::vectorized,
};

/// Pixels per task.
const PIXEL_BLOCK: usize = 256;

/// Rows of a layer normalization per task.
const ROW_BLOCK: usize = 32;

/// For each image and channel: `x · factor + offset`.
struct Factors {
    values: Vec<[f32; 2]>,
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
) -> Vec<T> {
    let factors = factors(x, size, gamma, beta, groups, eps);
    // SAFETY: each row is written by its task.
    let mut out = unsafe { unwritten(x.len()) };
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
        let factors = &self.values[image * self.channels..(image + 1) * self.channels];
        if activate {
            scale_and_activate(x, factors, to);
        } else {
            scale(x, factors, to);
        }
    }
}

vectorized! {
    fn scale<T: Number>(x: &[T], factors: &[[f32; 2]], to: &mut [T]) {
        let channels = factors.len();
        for (to, x) in to.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
            for ((to, x), [factor, offset]) in to.iter_mut().zip(x).zip(factors) {
                *to = T::from_f32(x.to_f32() * factor + offset);
            }
        }
    }
}

vectorized! {
    fn scale_and_activate<T: Number>(x: &[T], factors: &[[f32; 2]], to: &mut [T]) {
        let channels = factors.len();
        for (to, x) in to.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
            for ((to, x), [factor, offset]) in to.iter_mut().zip(x).zip(factors) {
                *to = T::from_f32(silu(x.to_f32() * factor + offset));
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
    // Σ(x - p) and Σ(x - p)² of each channel of each block, where p is the image's first pixel: near
    // the mean, so that f32 loses nothing that matters.
    let sums: Vec<Vec<[f32; 2]>> = (0..size.batch * blocks)
        .into_par_iter()
        .map(|task| {
            let image = &x[task / blocks * image_len..][..image_len];
            let begin = task % blocks * PIXEL_BLOCK * channels;
            let end = (begin + PIXEL_BLOCK * channels).min(image_len);
            let mut sums = vec![[0.0, 0.0]; channels];
            add_up(&image[begin..end], &image[..channels], &mut sums);
            sums
        })
        .collect();

    let pixels = (size.height * size.width) as f64;
    let count = pixels * per_group as f64;
    let values = (0..size.batch * channels)
        .map(|index| {
            let (image, channel) = (index / channels, index % channels);
            let first = channel / per_group * per_group;
            let (mut sum, mut squares) = (0.0, 0.0);
            for c in first..first + per_group {
                let pivot = f64::from(x[image * image_len + c].to_f32());
                let (mut s, mut q) = (0.0, 0.0);
                for block in &sums[image * blocks..(image + 1) * blocks] {
                    s += f64::from(block[c][0]);
                    q += f64::from(block[c][1]);
                }
                sum += s + pixels * pivot;
                squares += q + 2.0 * pivot * s + pixels * pivot * pivot;
            }
            let mean = sum / count;
            let variance = (squares / count - mean * mean).max(0.0);
            let factor = f64::from(gamma[channel]) / (variance + f64::from(eps)).sqrt();
            [factor as f32, (f64::from(beta[channel]) - mean * factor) as f32]
        })
        .collect();
    Factors { values, channels }
}

vectorized! {
    /// Adds each channel's distances from the pivot, and their squares.
    fn add_up<T: Number>(x: &[T], pivots: &[T], sums: &mut [[f32; 2]]) {
        for pixel in x.chunks_exact(pivots.len()) {
            for ((sum, x), pivot) in sums.iter_mut().zip(pixel).zip(pivots) {
                let distance = x.to_f32() - pivot.to_f32();
                sum[0] += distance;
                sum[1] += distance * distance;
            }
        }
    }
}

/// Layer normalization (Ba et al., 2016) of each row of `gamma.len()` numbers.
///
/// # Panics
/// If the lengths do not agree.
#[must_use]
pub fn layer_norm<T: Number>(x: &[T], gamma: &[f32], beta: &[f32], eps: f32) -> Vec<T> {
    let channels = gamma.len();
    assert_eq!((x.len() % channels, beta.len()), (0, channels), "whole rows");
    // SAFETY: each block is written by its task.
    let mut out: Vec<T> = unsafe { unwritten(x.len()) };
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

vectorized! {
    fn normalize_rows<T: Number>(x: &[T], gamma: &[f32], beta: &[f32], eps: f32, to: &mut [T]) {
        let channels = gamma.len();
        for (to, x) in to.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
            let mean = sum(x, |x| x) / channels as f32;
            let variance = sum(x, |x| (x - mean) * (x - mean)) / channels as f32;
            let factor = 1.0 / (variance + eps).sqrt();
            for (((to, x), gamma), beta) in to.iter_mut().zip(x).zip(gamma).zip(beta) {
                *to = T::from_f32((x.to_f32() - mean) * factor * gamma + beta);
            }
        }
    }
}

/// Sixteen running sums side by side: vectorized, in a fixed order, and more exact than one.
#[inline(always)]
fn sum<T: Number>(x: &[T], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<16>();
    let mut sums = [0.0f32; 16];
    for chunk in chunks {
        for i in 0..16 {
            sums[i] += f(chunk[i].to_f32());
        }
    }
    let mut width = 8;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
        width /= 2;
    }
    sums[0] + rest.iter().map(|x| f(x.to_f32())).sum::<f32>()
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
        assert_eq!(out, [-1.5, 0.5, -1.5, 0.5]);
    }
}
