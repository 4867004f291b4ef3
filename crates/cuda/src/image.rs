//! Images: their sizes, and how a kernel moves over them.

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
    /// The window of a linear layer: one pixel after the other.
    pub const PIXEL: Window = Window { kernel: 1, stride: 1, before: 0, after: 0 };

    /// Output rows (or columns) for `pixels` input rows (or columns).
    #[must_use]
    pub fn outputs(self, pixels: usize) -> usize {
        (pixels + self.before + self.after - self.kernel) / self.stride + 1
    }
}
