//! What runs kernels: the seam between the operations and a driver.

use std::fmt::Debug;

use crate::Result;

/// One start of a kernel.
#[derive(Debug)]
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

    /// Bytes that are free, and all that there are.
    ///
    /// # Errors
    /// Those of the driver.
    fn memory(&self) -> Result<(u64, u64)>;
}
