//! Normalization: over groups of channels of an image, and over the channels of a token.

use rayon::prelude::*;

use crate::{conv::Size, math::silu};

/// Pixels per task.
const PIXEL_BLOCK: usize = 256;

/// Group normalization (Wu & He, 2018), followed by SiLU if `activate`.
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
pub fn group_norm(
    x: &[f32],
    size: Size,
    gamma: &[f32],
    beta: &[f32],
    groups: usize,
    eps: f32,
    activate: bool,
) -> Vec<f32> {
    let channels = size.channels;
    assert_eq!(x.len(), size.len(), "an image of another size");
    assert_eq!((gamma.len(), beta.len()), (channels, channels), "one factor per channel");
    let per_group = channels / groups;
    assert_eq!(per_group * groups, channels, "groups of the same size");

    let image = size.height * size.width * channels;
    // Σx and Σx² of each channel, block by block, so that the order of adding is fixed.
    let blocks_per_image = (size.height * size.width).div_ceil(PIXEL_BLOCK);
    let sums: Vec<Vec<[f64; 2]>> = (0..size.batch * blocks_per_image)
        .into_par_iter()
        .map(|task| {
            let (image_index, block) = (task / blocks_per_image, task % blocks_per_image);
            let begin = image_index * image + block * PIXEL_BLOCK * channels;
            let end = (begin + PIXEL_BLOCK * channels).min((image_index + 1) * image);
            let mut sums = vec![[0.0, 0.0]; channels];
            for pixel in x[begin..end].chunks_exact(channels) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    let value = f64::from(value);
                    sum[0] += value;
                    sum[1] += value * value;
                }
            }
            sums
        })
        .collect();

    let count = (size.height * size.width * per_group) as f64;
    // For each image and channel: x · factor + offset.
    let factors: Vec<(f32, f32)> = sums
        .chunks(blocks_per_image.max(1))
        .flat_map(|blocks| {
            (0..channels).map(move |channel| {
                let group = channel / per_group * per_group;
                let (mut sum, mut squares) = (0.0, 0.0);
                for block in blocks {
                    for [s, q] in &block[group..group + per_group] {
                        sum += s;
                        squares += q;
                    }
                }
                let mean = sum / count;
                let variance = (squares / count - mean * mean).max(0.0);
                let factor = f64::from(gamma[channel]) / (variance + f64::from(eps)).sqrt();
                (factor as f32, (f64::from(beta[channel]) - mean * factor) as f32)
            })
        })
        .collect();

    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(channels).zip(x.par_chunks(channels)).enumerate().for_each(
        |(pixel, (out, x))| {
            let image = pixel / (size.height * size.width);
            let factors = &factors[image * channels..(image + 1) * channels];
            for ((out, x), (factor, offset)) in out.iter_mut().zip(x).zip(factors) {
                let value = x * factor + offset;
                *out = if activate { silu(value) } else { value };
            }
        },
    );
    out
}

/// Layer normalization (Ba et al., 2016) of each row of `gamma.len()` numbers.
///
/// # Panics
/// If the lengths do not agree.
#[must_use]
pub fn layer_norm(x: &[f32], gamma: &[f32], beta: &[f32], eps: f32) -> Vec<f32> {
    let channels = gamma.len();
    assert_eq!((x.len() % channels, beta.len()), (0, channels), "whole rows");
    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(channels).zip(x.par_chunks(channels)).for_each(|(out, x)| {
        let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / channels as f64;
        let variance =
            x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / channels as f64;
        let (mean, factor) = (mean as f32, (1.0 / (variance + f64::from(eps)).sqrt()) as f32);
        for (((out, x), gamma), beta) in out.iter_mut().zip(x).zip(gamma).zip(beta) {
            *out = (x - mean) * factor * gamma + beta;
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::tests::numbers;

    #[test]
    fn a_normalized_group_has_mean_0_and_variance_1() {
        let size = Size { batch: 2, height: 19, width: 17, channels: 6 };
        let x: Vec<f32> = numbers(size.len(), 1).iter().map(|x| x * 3.0 + 100.0).collect();
        let out = group_norm(&x, size, &[1.0; 6], &[0.0; 6], 3, 0.0, false);
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
    fn a_normalized_row_has_its_scale_and_offset() {
        let out = layer_norm(&[1.0, 3.0, -4.0, 4.0], &[2.0, 1.0], &[0.5, -0.5], 0.0);
        assert_eq!(out, [-1.5, 0.5, -1.5, 0.5]);
    }
}
