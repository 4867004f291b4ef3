//! Convolution on channels-last images: rows are copied into a matrix, then multiplied.

use rayon::prelude::*;

use crate::matmul::{Columns, Element, ROW_BLOCK, Rows, Shape, add_bias, linear, product};

/// The size of a batch of images: `(batch, height, width, channels)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Images.
    pub batch: usize,
    /// Rows.
    pub height: usize,
    /// Pixels per row.
    pub width: usize,
    /// Numbers per pixel.
    pub channels: usize,
}

impl Size {
    /// Numbers in all.
    #[must_use]
    pub fn len(self) -> usize {
        self.pixels() * self.channels
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Pixels of all images.
    #[must_use]
    pub fn pixels(self) -> usize {
        self.batch * self.height * self.width
    }
}

/// How a square kernel moves over an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Rows and columns of the kernel.
    pub kernel: usize,
    /// Pixels from one position to the next.
    pub stride: usize,
    /// Zeros above and to the left.
    pub before: usize,
    /// Zeros below and to the right.
    pub after: usize,
}

impl Window {
    /// Output rows (or columns) for `pixels` input rows (or columns).
    #[must_use]
    pub fn outputs(self, pixels: usize) -> usize {
        (pixels + self.before + self.after - self.kernel) / self.stride + 1
    }
}

/// A two-dimensional convolution (cross-correlation, as in every deep-learning library).
///
/// * `x`: `(B, H, W, C)`, its [`Size`] in `size`
/// * `w`: `(outputs, kernel, kernel, C)`
/// * returns `(B, H', W', outputs)` with its size
///
/// # Panics
/// If the lengths of the slices do not agree, or the padded image is smaller than the kernel.
#[must_use]
pub fn conv2d<W: Element>(
    x: &[f32],
    size: Size,
    w: &[W],
    bias: Option<&[f32]>,
    window: Window,
) -> (Vec<f32>, Size) {
    assert_eq!(x.len(), size.len(), "an image of another size");
    let inputs = window.kernel * window.kernel * size.channels;
    let outputs = w.len() / inputs;
    let out_size = Size {
        batch: size.batch,
        height: window.outputs(size.height),
        width: window.outputs(size.width),
        channels: outputs,
    };
    if window == (Window { kernel: 1, stride: 1, before: 0, after: 0 }) {
        return (linear(x, w, bias, inputs), out_size);
    }

    let pixels = out_size.pixels();
    if pixels < 4 * ROW_BLOCK {
        let mut columns = vec![0.0; pixels * inputs];
        columns.par_chunks_mut(inputs).enumerate().for_each(|(pixel, row)| {
            gather(x, size, out_size, window, pixel, row);
        });
        return (linear(&columns, w, bias, inputs), out_size);
    }
    let w = W::widen(w);
    let mut out = vec![0.0; out_size.len()];
    out.par_chunks_mut(ROW_BLOCK * outputs).enumerate().for_each_init(
        || vec![0.0; ROW_BLOCK * inputs],
        |columns, (block, out)| {
            let rows = out.len() / outputs;
            for (row, columns) in columns.chunks_exact_mut(inputs).take(rows).enumerate() {
                gather(x, size, out_size, window, block * ROW_BLOCK + row, columns);
            }
            let shape = Shape { m: rows, k: inputs, n: outputs };
            product(shape, Rows(columns, inputs), Columns(&w, inputs), out, outputs, 1.0, false);
            add_bias(out, outputs, bias);
        },
    );
    (out, out_size)
}

/// Copies what the kernel sees at one output pixel: `kernel · kernel` rows of `C` numbers, zeros
/// where it looks beyond the image.
fn gather(x: &[f32], size: Size, out_size: Size, window: Window, pixel: usize, row: &mut [f32]) {
    let (height, width, channels) = (size.height, size.width, size.channels);
    let image = pixel / (out_size.height * out_size.width);
    let y = pixel / out_size.width % out_size.height * window.stride;
    let left = pixel % out_size.width * window.stride;
    for (tap, row) in row.chunks_exact_mut(channels).enumerate() {
        // In the padded image; subtracting the padding may go below 0.
        let source_y = (y + tap / window.kernel).checked_sub(window.before);
        let source_x = (left + tap % window.kernel).checked_sub(window.before);
        match (source_y, source_x) {
            (Some(sy), Some(sx)) if sy < height && sx < width => {
                let at = ((image * height + sy) * width + sx) * channels;
                row.copy_from_slice(&x[at..at + channels]);
            }
            _ => row.fill(0.0),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Numbers between -1 and 1, the same for the same seed.
    pub(crate) fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        (0..count)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect()
    }

    fn naive(x: &[f32], size: Size, w: &[f32], window: Window) -> Vec<f64> {
        let inputs = window.kernel * window.kernel * size.channels;
        let (height, width) = (window.outputs(size.height), window.outputs(size.width));
        let mut out = Vec::new();
        for b in 0..size.batch {
            for y in 0..height {
                for column in 0..width {
                    for w in w.chunks(inputs) {
                        let mut sum = 0.0;
                        for ky in 0..window.kernel {
                            for kx in 0..window.kernel {
                                let sy = (y * window.stride + ky) as isize - window.before as isize;
                                let sx =
                                    (column * window.stride + kx) as isize - window.before as isize;
                                let inside = sy >= 0
                                    && sx >= 0
                                    && sy < size.height as isize
                                    && sx < size.width as isize;
                                for c in 0..size.channels {
                                    if inside {
                                        let at = ((b * size.height + sy as usize) * size.width
                                            + sx as usize)
                                            * size.channels
                                            + c;
                                        let w = w[(ky * window.kernel + kx) * size.channels + c];
                                        sum += f64::from(x[at]) * f64::from(w);
                                    }
                                }
                            }
                        }
                        out.push(sum);
                    }
                }
            }
        }
        out
    }

    #[test]
    fn agrees_with_the_definition_for_every_window_the_networks_use() {
        let windows = [
            Window { kernel: 3, stride: 1, before: 1, after: 1 },
            Window { kernel: 3, stride: 2, before: 1, after: 1 },
            Window { kernel: 3, stride: 2, before: 0, after: 1 },
            Window { kernel: 1, stride: 1, before: 0, after: 0 },
        ];
        for size in [
            Size { batch: 2, height: 5, width: 7, channels: 3 },
            Size { batch: 1, height: 40, width: 33, channels: 2 },
        ] {
            for window in windows {
                let x = numbers(size.len(), 1);
                let w = numbers(4 * window.kernel * window.kernel * size.channels, 2);
                let (out, out_size) = conv2d(&x, size, &w, None, window);
                let exact = naive(&x, size, &w, window);
                assert_eq!((out.len(), out_size.len()), (exact.len(), exact.len()));
                for (ours, exact) in out.iter().zip(exact) {
                    assert!((f64::from(*ours) - exact).abs() < 1e-5, "{size:?} {window:?}");
                }
            }
        }
    }
}
