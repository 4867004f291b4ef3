//! Images: their sizes, their borders, and how a kernel moves over them. The convolution itself is in
//! [`product`](crate::product).

use rayon::prelude::*;

use crate::{
    memory::{Shared, Values},
    number::Number,
};

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
    /// That of a linear layer: one pixel after the other.
    pub const PIXEL: Window = Window { kernel: 1, stride: 1, before: 0, after: 0 };

    /// Output rows (or columns) for `pixels` input rows (or columns).
    #[must_use]
    pub fn outputs(self, pixels: usize) -> usize {
        (pixels + self.before + self.after - self.kernel) / self.stride + 1
    }
}

/// Pixels of zeros around a [`Padded`] image: what a 3 × 3 kernel sees beyond it.
pub const BORDER: usize = 1;

/// Images with a border of zeros, so that a convolution never asks whether a pixel exists.
#[derive(Debug)]
pub struct Padded<T> {
    values: Values<T>,
    size: Size,
}

impl<T: Number> Padded<T> {
    /// A copy of images of the given size.
    ///
    /// # Panics
    /// If `x` is of another size.
    #[must_use]
    pub fn new(x: &[T], size: Size) -> Padded<T> {
        assert_eq!(x.len(), size.len(), "an image of another size");
        let row = size.width * size.channels;
        Padded::build(size, |index, to| to.copy_from_slice(&x[index * row..][..row]))
    }

    /// Images whose row `index` (counted over the whole batch) is written by `fill`.
    pub(crate) fn build(size: Size, fill: impl Fn(usize, &mut [T]) + Sync) -> Padded<T> {
        let border = BORDER * size.channels;
        let row = size.width * size.channels + 2 * border;
        let rows = size.height + 2 * BORDER;
        // SAFETY: every row is written below, its border included.
        let mut values: Values<T> = unsafe { Values::unwritten(size.batch * rows * row) };
        let shared = Shared::new(&mut values);
        (0..size.batch * rows).into_par_iter().for_each(|index| {
            // SAFETY: each task has a row of its own.
            let to = unsafe { std::slice::from_raw_parts_mut(shared.get().add(index * row), row) };
            let (image, y) = (index / rows, index % rows);
            if y < BORDER || y >= size.height + BORDER {
                to.fill(T::default());
            } else {
                to[..border].fill(T::default());
                to[row - border..].fill(T::default());
                fill(image * size.height + y - BORDER, &mut to[border..row - border]);
            }
        });
        Padded { values, size }
    }

    /// The size without the border.
    #[must_use]
    pub fn size(&self) -> Size {
        self.size
    }

    /// `(B, H + 2, W + 2, C)`.
    #[must_use]
    pub fn values(&self) -> &[T] {
        &self.values
    }
}
