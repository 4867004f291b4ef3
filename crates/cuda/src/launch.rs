//! How the operations start their kernels.

use crate::{Card, Result, backend::Launch};

/// A kernel's parameter: a struct that is the same in C++.
///
/// # Safety
/// Every byte of it is part of a number, so that it can be read as bytes.
pub(crate) unsafe trait Params: Copy {}

/// Declares a kernel's parameter, which must have no holes between its fields.
macro_rules! params {
    ($(#[$doc:meta])* struct $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default)]
        #[repr(C)]
        pub(crate) struct $name { $($(#[$field_doc])* $field: $kind),* }

        const _: () = assert!(size_of::<$name>() == 0 $(+ size_of::<$kind>())*, "no holes");

        // SAFETY: its fields are numbers, and the line above says that there is nothing else in it.
        unsafe impl $crate::launch::Params for $name {}
    };
}
pub(crate) use params;

/// Blocks and what each of them has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Blocks along x, y, z.
    pub(crate) grid: [usize; 3],
    /// Threads of a block.
    pub(crate) threads: usize,
    /// Bytes of dynamic shared memory of a block.
    pub(crate) shared: usize,
}

impl Geometry {
    /// As many blocks in a row as it takes for `count` things, `per_block` in each.
    pub(crate) fn row(count: usize, per_block: usize, threads: usize) -> Geometry {
        Geometry { grid: [count.div_ceil(per_block), 1, 1], threads, shared: 0 }
    }
}

/// Queues a kernel.
///
/// # Panics
/// If the geometry is beyond what 32 bits hold.
///
/// # Errors
/// Those of the driver.
pub(crate) fn launch<P: Params>(
    card: &Card,
    kernel: &str,
    geometry: Geometry,
    params: &P,
) -> Result<()> {
    #[cfg(test)]
    assert_eq!(crate::emulated::parameter_bytes(kernel), Some(size_of::<P>()), "{kernel}");
    // SAFETY: `Params` promises that all bytes are parts of numbers.
    let bytes = unsafe {
        std::slice::from_raw_parts(std::ptr::from_ref(params).cast::<u8>(), size_of::<P>())
    };
    let grid = geometry.grid.map(narrow);
    let block = [narrow(geometry.threads), 1, 1];
    card.0.launch(&Launch { kernel, grid, block, shared: narrow(geometry.shared), params: bytes })
}

/// A size as the kernels count.
///
/// # Panics
/// If it is beyond 31 bits: the kernels count in `int` too.
pub(crate) fn narrow(size: usize) -> u32 {
    let size = i32::try_from(size).expect("a size that the kernels can count");
    size.cast_unsigned()
}
