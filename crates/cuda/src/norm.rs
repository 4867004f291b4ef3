//! Normalization: over groups of channels of an image, and over the channels of a token.

use crate::{
    Buffer, Format, Result, Size,
    launch::{Geometry, launch, narrow, params},
};

params! {
    /// That of the group normalizations.
    struct GroupParams {
        input: u64,
        gamma: u64,
        beta: u64,
        output: u64,
        partial: u64,
        batch: u32,
        pixels: u32,
        channels: u32,
        groups: u32,
        block_pixels: u32,
        blocks: u32,
        apply_pixels: u32,
        silu: u32,
        eps: f32,
        unused: u32,
    }
}

params! {
    /// That of the layer normalization.
    struct LayerParams {
        input: u64,
        gamma: u64,
        beta: u64,
        output: u64,
        rows: u32,
        channels: u32,
        eps: f32,
        unused: u32,
    }
}

/// Factors and offsets, one of each per channel, in f32, and what is added to the variance.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// Factors.
    pub gamma: &'a Buffer,
    /// Offsets.
    pub beta: &'a Buffer,
    /// Added to the variance.
    pub eps: f32,
}

impl Norm<'_> {
    fn assert_for(&self, channels: usize) {
        for buffer in [self.gamma, self.beta] {
            let found = (buffer.len(), buffer.format());
            assert_eq!(found, (channels, Format::F32), "one number in f32 per channel");
        }
    }
}

/// Numbers of a group that a block keeps in shared memory.
const SMALL: usize = 8192;

/// Numbers that are worth a block.
const BLOCK: usize = 16 * 1024;

/// The most blocks that an image's sums come from.
const MOST_BLOCKS: usize = 256;

/// The most blocks that normalize an image: each of them adds up all those sums first.
const MOST_APPLYING: usize = 512;

/// Group normalization (Wu & He, 2018), then SiLU if `silu`.
///
/// * `x`: `(B, H, W, C)`
/// * returns `(B, H, W, C)`
///
/// Mean and variance are taken over all pixels and `C / groups` channels of one image.
///
/// # Panics
/// If the lengths do not agree or `C` is no multiple of `groups`.
///
/// # Errors
/// [`OutOfMemory`](crate::Error::OutOfMemory), or those of the driver.
pub fn group_norm(
    x: &Buffer,
    size: Size,
    norm: &Norm<'_>,
    groups: usize,
    silu: bool,
) -> Result<Buffer> {
    assert_eq!(x.len(), size.len(), "an image of another size");
    assert!(groups > 0 && size.channels.is_multiple_of(groups), "groups of the same size");
    norm.assert_for(size.channels);
    let (card, out) = (x.card(), Buffer::new(x.card(), x.len(), x.format())?);
    if x.is_empty() {
        return Ok(out);
    }
    let plan = Plan::of(size, groups);
    let partial = match plan {
        Plan::Small(_) => None,
        Plan::Large { blocks, .. } => {
            Some(Buffer::new(card, size.batch * groups * blocks * 2, Format::F32)?)
        }
    };
    let params = GroupParams {
        input: x.address(),
        gamma: norm.gamma.address(),
        beta: norm.beta.address(),
        output: out.address(),
        partial: partial.as_ref().map_or(0, Buffer::address),
        batch: narrow(size.batch),
        pixels: narrow(size.height * size.width),
        channels: narrow(size.channels),
        groups: narrow(groups),
        silu: silu.into(),
        eps: norm.eps,
        ..GroupParams::default()
    };
    let suffix = x.format().suffix();
    match plan {
        Plan::Small(geometry) => {
            launch(card, &format!("group_norm_small_{suffix}"), geometry, &params)?;
        }
        Plan::Large { block_pixels, blocks, apply_pixels, sums, apply } => {
            let params = GroupParams {
                block_pixels: narrow(block_pixels),
                blocks: narrow(blocks),
                apply_pixels: narrow(apply_pixels),
                ..params
            };
            launch(card, &format!("group_norm_sums_{suffix}"), sums, &params)?;
            launch(card, &format!("group_norm_apply_{suffix}"), apply, &params)?;
        }
    }
    Ok(out)
}

/// How a group normalization is shared out among blocks, by the shape alone.
#[derive(Debug)]
enum Plan {
    /// A block for each group.
    Small(Geometry),
    /// Blocks that sum up pixels, and blocks that normalize them.
    Large {
        block_pixels: usize,
        blocks: usize,
        apply_pixels: usize,
        sums: Geometry,
        apply: Geometry,
    },
}

impl Plan {
    fn of(size: Size, groups: usize) -> Plan {
        const THREADS: usize = 512;
        let (pixels, channels) = (size.height * size.width, size.channels);
        let in_group = pixels * channels / groups;
        if in_group <= SMALL {
            let shared = (32 + in_group) * 4;
            return Plan::Small(Geometry { grid: [groups, size.batch, 1], threads: 256, shared });
        }
        let few = BLOCK.div_ceil(channels);
        let block_pixels = few.max(pixels.div_ceil(MOST_BLOCKS));
        let blocks = pixels.div_ceil(block_pixels);
        let apply_pixels = few.max(pixels.div_ceil(MOST_APPLYING));
        let sides = if channels.is_multiple_of(8) { channels / 8 } else { channels };
        let at_once = (THREADS / sides).max(1);
        Plan::Large {
            block_pixels,
            blocks,
            apply_pixels,
            sums: Geometry {
                grid: [blocks, size.batch, 1],
                threads: THREADS,
                shared: (2 * at_once * channels + groups) * 4,
            },
            apply: Geometry {
                grid: [pixels.div_ceil(apply_pixels), size.batch, 1],
                threads: THREADS,
                shared: 2 * channels * 4,
            },
        }
    }
}

/// Layer normalization (Ba et al., 2016) of each row of as many numbers as there are factors.
///
/// # Panics
/// If the lengths do not agree.
///
/// # Errors
/// [`OutOfMemory`](crate::Error::OutOfMemory), or those of the driver.
pub fn layer_norm(x: &Buffer, norm: &Norm<'_>) -> Result<Buffer> {
    /// Rows of a block: a warp each.
    const ROWS: usize = 4;
    let channels = norm.gamma.len();
    norm.assert_for(channels);
    assert_eq!(x.len() % channels, 0, "whole rows");
    let out = Buffer::new(x.card(), x.len(), x.format())?;
    let rows = x.len() / channels;
    if rows > 0 {
        let params = LayerParams {
            input: x.address(),
            gamma: norm.gamma.address(),
            beta: norm.beta.address(),
            output: out.address(),
            rows: narrow(rows),
            channels: narrow(channels),
            eps: norm.eps,
            unused: 0,
        };
        let kernel = format!("layer_norm_{}", x.format().suffix());
        launch(x.card(), &kernel, Geometry::row(rows, ROWS, 32 * ROWS), &params)?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FORMATS, assert_close, cards, numbers, random, wide};

    /// A group normalization by its definition, in f64.
    fn exact(
        x: &[f64],
        size: Size,
        (gamma, beta): (&[f64], &[f64]),
        groups: usize,
        silu: bool,
    ) -> Vec<f64> {
        let (channels, per_group) = (size.channels, size.channels / groups);
        let mut out = x.to_vec();
        for image in out.chunks_exact_mut(size.len() / size.batch) {
            for first in (0..channels).step_by(per_group) {
                let group: Vec<f64> = image
                    .chunks_exact(channels)
                    .flat_map(|pixel| pixel[first..first + per_group].to_vec())
                    .collect();
                let count = group.len() as f64;
                let mean = group.iter().sum::<f64>() / count;
                let variance = group.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
                let scale = 1.0 / (variance + 1e-5).sqrt();
                for pixel in image.chunks_exact_mut(channels) {
                    for c in first..first + per_group {
                        let y = (pixel[c] - mean) * scale * gamma[c] + beta[c];
                        pixel[c] = if silu { y / (1.0 + (-y).exp()) } else { y };
                    }
                }
            }
        }
        out
    }

    #[test]
    fn group_norm_is_right_for_groups_of_every_size() {
        for card in cards() {
            for (format, _) in FORMATS {
                for (height, width, channels, groups) in [
                    (3, 5, 12, 3),
                    (1, 1, 32, 32),
                    (37, 31, 32, 4),
                    (40, 33, 20, 2),
                    (64, 65, 6, 3),
                    (5, 5, 2048, 2),
                    (40, 41, 10, 1),
                ] {
                    let size = Size { batch: 2, height, width, channels };
                    let x: Vec<f32> =
                        numbers(size.len(), 1).iter().map(|x| 2.0 * x + 30.0).collect();
                    let x = Buffer::upload(&card, &x, format).unwrap();
                    let (gamma, g) = random(&card, channels, 2, Format::F32);
                    let (beta, b) = random(&card, channels, 3, Format::F32);
                    let norm = Norm { gamma: &gamma, beta: &beta, eps: 1e-5 };
                    for silu in [false, true] {
                        let out = group_norm(&x, size, &norm, groups, silu).unwrap();
                        let exact = exact(&wide(&x), size, (&g, &b), groups, silu);
                        // In f32, 30 has steps of 2e-6.
                        let tolerance = if format == Format::F32 { 100.0 } else { 0.6 };
                        assert_close(&out, &exact, tolerance, 1.0, &format!("{format:?} {size:?}"));
                    }
                }
            }
        }
    }

    #[test]
    fn large_groups_lose_no_accuracy_far_from_zero() {
        for card in cards() {
            let size = Size { batch: 1, height: 160, width: 128, channels: 16 };
            let x: Vec<f32> =
                numbers(size.len(), 1).iter().map(|x| (x * 8.0).round() / 64.0 + 1000.0).collect();
            let x = Buffer::upload(&card, &x, Format::F32).unwrap();
            let ones = Buffer::upload(&card, &[1.0; 16], Format::F32).unwrap();
            let zeros = Buffer::upload(&card, &[0.0; 16], Format::F32).unwrap();
            let norm = Norm { gamma: &ones, beta: &zeros, eps: 1e-5 };
            let out = group_norm(&x, size, &norm, 2, false).unwrap();
            let exact = exact(&wide(&x), size, (&[1.0; 16], &[0.0; 16]), 2, false);
            for (ours, exact) in wide(&out).iter().zip(exact) {
                // The factor and the offset are about 14,000 and are subtracted from each other.
                assert!((ours - exact).abs() < 2e-3, "{ours} {exact}");
            }
        }
    }

    #[test]
    fn layer_norm_is_right_for_rows_of_every_length() {
        for card in cards() {
            for (format, _) in FORMATS {
                for (rows, channels) in [(1, 8), (5, 320), (9, 12), (6, 77), (3, 1280)] {
                    let (x, exact_x) = random(&card, rows * channels, 1, format);
                    let (gamma, g) = random(&card, channels, 2, Format::F32);
                    let (beta, b) = random(&card, channels, 3, Format::F32);
                    let norm = Norm { gamma: &gamma, beta: &beta, eps: 1e-5 };
                    let out = layer_norm(&x, &norm).unwrap();
                    let exact: Vec<f64> = exact_x
                        .chunks(channels)
                        .flat_map(|row| {
                            let size = Size { batch: 1, height: 1, width: 1, channels };
                            exact(row, size, (&g, &b), 1, false)
                        })
                        .collect();
                    let tolerance = if format == Format::F32 { 16.0 } else { 0.55 };
                    assert_close(&out, &exact, tolerance, 1.0, &format!("{format:?} {channels}"));
                }
            }
        }
    }

    #[test]
    fn plans_are_within_a_cards_limits() {
        for side in [1, 8, 16, 64, 96, 128, 512, 1024, 2048] {
            for channels in [32, 64, 128, 256, 320, 512, 960, 1280, 1920, 2560] {
                let size = Size { batch: 2, height: side, width: side, channels };
                let geometries = match Plan::of(size, 32) {
                    Plan::Small(geometry) => vec![geometry],
                    Plan::Large { block_pixels, blocks, apply_pixels, sums, apply } => {
                        let pixels = side * side;
                        assert!(block_pixels * blocks >= pixels && blocks <= MOST_BLOCKS);
                        assert!(block_pixels * (blocks - 1) < pixels);
                        assert!(apply_pixels * apply.grid[0] >= pixels);
                        vec![sums, apply]
                    }
                };
                for Geometry { grid, shared, .. } in geometries {
                    assert!(shared <= 48 << 10 && grid[1] <= 65535, "{size:?} {shared}");
                }
            }
        }
    }
}
