//! Where the rows of a product lie in memory, and where its results go.

use super::pack::Sampling;
use crate::conv::{BORDER, Size, Window};

/// The rows of one product: row `m` is pixel `(image, y, x)` of a grid, in that order.
#[derive(Debug)]
pub(super) struct Rows {
    batch: usize,
    height: usize,
    width: usize,
    /// Numbers from one image, row or pixel of the grid to the next, in the input.
    image_step: usize,
    row_step: usize,
    pixel_step: usize,
    /// Where each tap lies behind the pixel's own place.
    taps: Vec<usize>,
    /// Pixels of the output per pixel of the grid, in each direction.
    scale: usize,
    /// The grid's first pixel in the output, `(y, x)`.
    offset: (usize, usize),
}

/// Some rows, up to `N`. Those that are missing at the end repeat the last one.
pub(super) struct RowBlock<const N: usize> {
    /// Where each begins in the input.
    pub(super) inputs: [usize; N],
    /// Which row of the output each one is.
    pub(super) outputs: [usize; N],
    /// Which image of the batch each one belongs to.
    pub(super) images: [usize; N],
    /// How many there are.
    pub(super) count: usize,
}

impl Rows {
    /// The rows of a matrix.
    pub(super) fn matrix(rows: usize, inputs: usize) -> Rows {
        Rows {
            batch: 1,
            height: 1,
            width: rows,
            image_step: 0,
            row_step: 0,
            pixel_step: inputs,
            taps: vec![0],
            scale: 1,
            offset: (0, 0),
        }
    }

    /// The output pixels of a convolution over a bordered image of the given inner size; one set for
    /// each phase.
    pub(super) fn of_convolution(size: Size, window: Window, sampling: Sampling) -> Vec<Rows> {
        let pixel = size.channels;
        let row = (size.width + 2 * BORDER) * pixel;
        let image = (size.height + 2 * BORDER) * row;
        match sampling {
            Sampling::Same => {
                assert!(window.before <= BORDER && window.after <= BORDER, "within the border");
                let first = BORDER - window.before;
                let tap = |tap: usize| {
                    (first + tap / window.kernel) * row + (first + tap % window.kernel) * pixel
                };
                vec![Rows {
                    batch: size.batch,
                    height: window.outputs(size.height),
                    width: window.outputs(size.width),
                    image_step: image,
                    row_step: window.stride * row,
                    pixel_step: window.stride * pixel,
                    taps: (0..window.kernel * window.kernel).map(tap).collect(),
                    scale: 1,
                    offset: (0, 0),
                }]
            }
            Sampling::Double => {
                let same = Window { kernel: 3, stride: 1, before: 1, after: 1 };
                assert_eq!(window, same, "doubling is known for this window");
                (0..4)
                    .map(|phase| {
                        let (py, px) = (phase / 2, phase % 2);
                        let tap = |tap: usize| (py + tap / 2) * row + (px + tap % 2) * pixel;
                        Rows {
                            batch: size.batch,
                            height: size.height,
                            width: size.width,
                            image_step: image,
                            row_step: row,
                            pixel_step: pixel,
                            taps: (0..4).map(tap).collect(),
                            scale: 2,
                            offset: (py, px),
                        }
                    })
                    .collect()
            }
        }
    }

    pub(super) fn count(&self) -> usize {
        self.batch * self.height * self.width
    }

    pub(super) fn taps(&self) -> &[usize] {
        &self.taps
    }

    /// The size of the whole output.
    pub(super) fn out_size(&self, batch: usize, channels: usize) -> Size {
        Size { batch, height: self.scale * self.height, width: self.scale * self.width, channels }
    }

    /// Rows of the whole output.
    pub(super) fn out_rows(&self) -> usize {
        self.count() * self.scale * self.scale
    }

    /// Images of the batch.
    pub(super) fn images(&self) -> usize {
        self.batch
    }

    /// # Panics
    /// Unless every row with every tap has its `inputs` numbers inside a slice of `len`.
    pub(super) fn assert_inside(&self, len: usize, inputs: usize) {
        let last = self.place(self.count() - 1).0 + self.taps.iter().max().expect("a tap") + inputs;
        assert!(last <= len, "rows beyond their image");
    }

    /// The block of `rows` rows that begins at `first`, which exists.
    pub(super) fn block<const N: usize>(&self, first: usize, rows: usize) -> RowBlock<N> {
        let count = rows.min(self.count() - first);
        let mut block = RowBlock { inputs: [0; N], outputs: [0; N], images: [0; N], count };
        let (per_image, mut pixel) = (self.height * self.width, self.pixel(first));
        for i in 0..rows {
            let (image, y, x) = pixel;
            block.inputs[i] = image * self.image_step + y * self.row_step + x * self.pixel_step;
            let (out_y, out_x) = (self.scale * y + self.offset.0, self.scale * x + self.offset.1);
            block.outputs[i] = image * per_image * self.scale * self.scale
                + out_y * self.scale * self.width
                + out_x;
            block.images[i] = image;
            if i + 1 < count {
                pixel = match (x + 1 < self.width, y + 1 < self.height) {
                    (true, _) => (image, y, x + 1),
                    (false, true) => (image, y + 1, 0),
                    (false, false) => (image + 1, 0, 0),
                };
            }
        }
        block
    }

    fn pixel(&self, row: usize) -> (usize, usize, usize) {
        let (rest, x) = (row / self.width, row % self.width);
        (rest / self.height, rest % self.height, x)
    }

    /// Where a row begins in the input.
    fn place(&self, row: usize) -> (usize, (usize, usize, usize)) {
        let pixel @ (image, y, x) = self.pixel(row);
        (image * self.image_step + y * self.row_step + x * self.pixel_step, pixel)
    }
}
