//! What runs kernels: the seam between the operations and a driver.

use std::fmt::Debug;

use crate::{Error, Format, Result, Size, Window, product::Activation};

/// One start of a kernel.
#[derive(Debug)]
#[cfg_attr(
    not(any(feature = "nvidia", feature = "emulated")),
    expect(dead_code, reason = "nothing starts kernels where there is no card at all")
)]
pub(crate) struct Launch<'a> {
    /// The kernel's name in `kernels/`.
    pub(crate) kernel: &'a str,
    /// Blocks along x, y, z.
    pub(crate) grid: [u32; 3],
    /// Threads of a block along x, y, z.
    pub(crate) block: [u32; 3],
    /// Bytes of dynamic shared memory of a block.
    pub(crate) shared: u32,
    /// The bytes of its one parameter.
    pub(crate) params: &'a [u8],
}

/// One linear layer or convolution with all that belongs to it, for a library that may have it ready.
///
/// In this order: the sums of products, plus `bias`, plus `image_rows`, then `activation`, plus `residual`;
/// sums are f32. What is `None` is not done.
///
/// A linear layer is a convolution of one image of one row with [`Window::PIXEL`]: its rows are the pixels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProductJob {
    /// Of the input, the weights, the output, `image_rows` and `residual`.
    pub(crate) format: Format,
    /// Address of `(batch, height, width, channels)`.
    pub(crate) input: u64,
    /// The input's size.
    pub(crate) size: Size,
    /// The height and width to which the input is doubled (each pixel repeated twice in height and width)
    /// before the window moves over it: twice its own, or one less.
    pub(crate) doubled: Option<(usize, usize)>,
    /// How the kernel moves.
    pub(crate) window: Window,
    /// Address of `(outputs, kernel, kernel, channels)`.
    pub(crate) weights: u64,
    /// Rows of the weights.
    pub(crate) outputs: usize,
    /// Address of `(outputs)` in f32. Libraries may keep a rounded copy until memory there is given back or
    /// copied to, so no kernel writes there between two jobs.
    pub(crate) bias: Option<u64>,
    /// Address of `(batch, outputs)`: a row of numbers that all pixels of an image get added.
    pub(crate) image_rows: Option<u64>,
    /// A function of each sum. The gated one leaves `outputs / 2` channels.
    pub(crate) activation: Option<Activation>,
    /// Address of numbers of the output's own size.
    pub(crate) residual: Option<u64>,
    /// Address of the result.
    pub(crate) output: u64,
    /// The result's size, whose channels are `outputs`, or half as many if gated.
    pub(crate) output_size: Size,
}

/// A device's memory and its queue of work. Everything is queued in order.
pub(crate) trait Backend: Debug + Send + Sync {
    /// Takes memory, aligned to 256 bytes; its contents are undefined.
    ///
    /// # Errors
    /// [`OutOfMemory`](crate::Error::OutOfMemory).
    fn allocate(&self, bytes: usize) -> Result<u64>;

    /// Gives back what [`allocate`](Backend::allocate) gave, once all that is queued has run.
    fn release(&self, address: u64, bytes: usize);

    /// Copies to the device. `from` may be changed as soon as this returns.
    ///
    /// # Errors
    /// Those of the driver.
    fn copy_in(&self, to: u64, from: &[u8]) -> Result<()>;

    /// Copies from the device, when all that is queued has run.
    ///
    /// # Errors
    /// Those of the driver, also of the work before.
    fn copy_out(&self, from: u64, to: &mut [u8]) -> Result<()>;

    /// Copies within the device.
    ///
    /// # Errors
    /// Those of the driver.
    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()>;

    /// Queues a kernel.
    ///
    /// # Errors
    /// Those of the driver.
    fn launch(&self, launch: &Launch<'_>) -> Result<()>;

    /// Queues a product with a library of the card's maker, if there is one that does all of the job: its
    /// activation and additions too, which may be asked for again without. `None` leaves it to our own kernel.
    ///
    /// # Errors
    /// Those of the library.
    fn product(&self, _job: &ProductJob) -> Option<Result<()>> {
        None
    }

    /// Bytes that are free, and all that there are.
    ///
    /// # Errors
    /// Those of the driver.
    fn memory(&self) -> Result<(u64, u64)>;

    /// Waits until all that is queued has run.
    ///
    /// # Errors
    /// Those of the work.
    fn wait(&self) -> Result<()> {
        Ok(())
    }

    /// The most bytes that were in use since [`reset_peak`](Backend::reset_peak).
    fn peak_bytes(&self) -> u64 {
        0
    }

    /// Begins to measure the peak anew.
    fn reset_peak(&self) {}

    /// Gives memory that is kept for the next requests back to the driver.
    fn give_back(&self) {}

    /// The maker's libraries that are in use, for people.
    fn libraries(&self) -> String {
        "own kernels only".into()
    }

    /// Begins to record what is queued instead of running it. Whether that is possible.
    ///
    /// # Errors
    /// Those of the driver.
    fn begin_recording(&self) -> Result<bool> {
        Ok(false)
    }

    /// Ends a recording and makes it ready to run.
    ///
    /// # Errors
    /// Those of the driver, also of what could not be recorded. The recording is then gone.
    fn end_recording(&self) -> Result<Box<dyn Recording>> {
        Err(Error::Failed { doing: "recording".into(), reason: "nothing was begun".into() })
    }

    /// Ends a recording and forgets it.
    fn forget_recording(&self) {}
}

/// Recorded work, with the memory that it computes in.
pub(crate) trait Recording: Debug + Send + Sync {
    /// Queues all of it.
    ///
    /// # Errors
    /// Those of the driver.
    fn replay(&self) -> Result<()>;

    /// How many operations there are.
    fn operations(&self) -> usize;
}
