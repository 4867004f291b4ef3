//! Functions of single numbers, and copies: activations, sums, concatenation, enlargement.

use rayon::prelude::*;

use crate::{conv::Size, math::gelu};

/// Numbers per task.
const BLOCK: usize = 16 * 1024;

/// `x[i] = f(x[i])`.
pub fn apply(x: &mut [f32], f: impl Fn(f32) -> f32 + Sync) {
    x.par_chunks_mut(BLOCK).for_each(|x| {
        for x in x {
            *x = f(*x);
        }
    });
}

/// `x[i] += y[i]`.
///
/// # Panics
/// If the lengths differ.
pub fn add(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "two of the same size");
    x.par_chunks_mut(BLOCK).zip(y.par_chunks(BLOCK)).for_each(|(x, y)| {
        for (x, y) in x.iter_mut().zip(y) {
            *x += y;
        }
    });
}

/// Adds to each pixel of image `b` the row `b` of `rows`, `(B, C)`.
///
/// # Panics
/// If the lengths do not agree.
pub fn add_rows(x: &mut [f32], size: Size, rows: &[f32]) {
    assert_eq!(x.len(), size.len(), "an image of another size");
    assert_eq!(rows.len(), size.batch * size.channels, "one row per image");
    let pixels = size.height * size.width;
    x.par_chunks_mut(size.channels).enumerate().for_each(|(pixel, x)| {
        let row = &rows[pixel / pixels * size.channels..][..size.channels];
        for (x, row) in x.iter_mut().zip(row) {
            *x += row;
        }
    });
}

/// The gated linear unit of Shazeer (2020): `value · gelu(gate)`.
///
/// * `x`: rows of `2 n` numbers, the values before the gates
/// * returns rows of `n`
///
/// # Panics
/// If `x` is no whole number of rows.
#[must_use]
pub fn geglu(x: &[f32], n: usize) -> Vec<f32> {
    assert_eq!(x.len() % (2 * n), 0, "whole rows");
    let mut out = vec![0.0; x.len() / 2];
    out.par_chunks_mut(n).zip(x.par_chunks(2 * n)).for_each(|(out, x)| {
        let (values, gates) = x.split_at(n);
        for ((out, value), &gate) in out.iter_mut().zip(values).zip(gates) {
            *out = value * gelu(gate);
        }
    });
    out
}

/// Puts the channels of `b` behind those of `a`, row by row.
///
/// # Panics
/// If the numbers of rows differ.
#[must_use]
pub fn concat(a: &[f32], a_channels: usize, b: &[f32], b_channels: usize) -> Vec<f32> {
    assert_eq!(a.len() / a_channels, b.len() / b_channels, "as many rows");
    let channels = a_channels + b_channels;
    let mut out = vec![0.0; a.len() + b.len()];
    out.par_chunks_mut(channels)
        .zip(a.par_chunks(a_channels))
        .zip(b.par_chunks(b_channels))
        .for_each(|((out, a), b)| {
            out[..a_channels].copy_from_slice(a);
            out[a_channels..].copy_from_slice(b);
        });
    out
}

/// Doubles height and width by repeating each pixel (nearest neighbor).
///
/// # Panics
/// If `x` is of another size.
#[must_use]
pub fn double(x: &[f32], size: Size) -> Vec<f32> {
    assert_eq!(x.len(), size.len(), "an image of another size");
    let row = size.width * size.channels;
    let mut out = vec![0.0; 4 * x.len()];
    out.par_chunks_mut(2 * row).enumerate().for_each(|(y, out)| {
        let x = &x[y / 2 * row..][..row];
        for (out, pixel) in out.chunks_exact_mut(2 * size.channels).zip(x.chunks(size.channels)) {
            out[..size.channels].copy_from_slice(pixel);
            out[size.channels..].copy_from_slice(pixel);
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geglu_gates_the_first_half_by_the_second() {
        assert_eq!(geglu(&[3.0, 5.0, 0.0, 20.0], 2), [0.0, 100.0]);
    }

    #[test]
    fn concat_keeps_rows_together() {
        let out = concat(&[1.0, 2.0, 3.0, 4.0], 2, &[5.0, 6.0], 1);
        assert_eq!(out, [1.0, 2.0, 5.0, 3.0, 4.0, 6.0]);
    }

    #[test]
    fn double_repeats_rows_and_columns_of_each_image() {
        let size = Size { batch: 2, height: 1, width: 2, channels: 1 };
        let out = double(&[1.0, 2.0, 3.0, 4.0], size);
        assert_eq!(
            out,
            [1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 3.0, 3.0, 4.0, 4.0]
        );
    }

    #[test]
    fn rows_are_added_to_their_own_image() {
        let size = Size { batch: 2, height: 1, width: 2, channels: 1 };
        let mut x = [0.0; 4];
        add_rows(&mut x, size, &[1.0, 2.0]);
        assert_eq!(x, [1.0, 1.0, 2.0, 2.0]);
    }
}
