//! AMX tiles of this thread: eight registers of 16 rows of 64 bytes.
//!
//! The registers are named in the assembly itself, since Rust knows none of them: 0 to 3 hold sums, two
//! by two tiles of 16 × 16; 4 and 5 the left operand, 16 rows of 32 inputs each; 6 and 7 the right one,
//! 16 columns of 32 inputs each in pairs, `[input / 2][column][input % 2]`.

use std::arch::asm;

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// All eight registers at their full size.
static FULL: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Makes the registers of this thread ready.
///
/// # Safety
/// The processor must have AMX, and the system must allow it ([`crate::Isa::is_available`]).
pub(crate) unsafe fn configure() {
    // SAFETY: reads 64 bytes of a configuration that is valid.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const FULL, options(nostack, readonly, preserves_flags));
    }
}

/// Gives the registers back, so that switching threads need not save them.
///
/// # Safety
/// As [`configure`].
pub(crate) unsafe fn release() {
    // SAFETY: changes nothing but the registers, which nobody uses any more.
    unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) }
}

/// Bytes of a tile.
pub(crate) const BYTES: usize = 1024;

/// The left operand: two tiles of rows. Successive tiles of the sum lie 64 bytes apart in each row.
#[derive(Clone, Copy)]
pub(crate) struct Left {
    /// Where each tile begins.
    pub(crate) start: [*const u8; 2],
    /// Bytes from row to row.
    pub(crate) stride: [usize; 2],
}

/// Clears the sums.
///
/// # Safety
/// The registers must be [`configure`]d; so for all functions below.
#[inline(always)]
pub(crate) unsafe fn clear() {
    // SAFETY: changes nothing but the registers.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            options(nostack, nomem, preserves_flags)
        );
    }
}

/// Loads the sums from 32 rows of 32 numbers, `stride` bytes apart.
///
/// # Safety
/// All of them must be readable.
#[inline(always)]
pub(crate) unsafe fn load(c: *const f32, stride: usize) {
    // SAFETY: the caller's conditions.
    unsafe {
        asm!(
            "tileloadd tmm0, [{c} + {s}]", "tileloadd tmm1, [{c} + {s} + 64]",
            "tileloadd tmm2, [{d} + {s}]", "tileloadd tmm3, [{d} + {s} + 64]",
            c = in(reg) c, d = in(reg) c.byte_add(16 * stride), s = in(reg) stride,
            options(nostack, readonly, preserves_flags)
        );
    }
}

/// Stores the sums to 32 rows of 32 numbers, `stride` bytes apart.
///
/// # Safety
/// All of them must be writable.
#[inline(always)]
pub(crate) unsafe fn store(c: *mut f32, stride: usize) {
    // SAFETY: the caller's conditions.
    unsafe {
        asm!(
            "tilestored [{c} + {s}], tmm0", "tilestored [{c} + {s} + 64], tmm1",
            "tilestored [{d} + {s}], tmm2", "tilestored [{d} + {s} + 64], tmm3",
            c = in(reg) c, d = in(reg) c.byte_add(16 * stride), s = in(reg) stride,
            options(nostack, preserves_flags)
        );
    }
}

/// [`load`] of the left half alone: 32 rows of 16 numbers.
///
/// # Safety
/// All of them must be readable.
#[inline(always)]
pub(crate) unsafe fn load_column(c: *const f32, stride: usize) {
    // SAFETY: the caller's conditions.
    unsafe {
        asm!(
            "tileloadd tmm0, [{c} + {s}]", "tileloadd tmm2, [{d} + {s}]",
            c = in(reg) c, d = in(reg) c.byte_add(16 * stride), s = in(reg) stride,
            options(nostack, readonly, preserves_flags)
        );
    }
}

/// [`store`] of the left half alone: 32 rows of 16 numbers.
///
/// # Safety
/// All of them must be writable.
#[inline(always)]
pub(crate) unsafe fn store_column(c: *mut f32, stride: usize) {
    // SAFETY: the caller's conditions.
    unsafe {
        asm!(
            "tilestored [{c} + {s}], tmm0", "tilestored [{d} + {s}], tmm2",
            c = in(reg) c, d = in(reg) c.byte_add(16 * stride), s = in(reg) stride,
            options(nostack, preserves_flags)
        );
    }
}

/// Adds the products of `steps` successive tiles: two tiles of rows by two of columns. The tiles of
/// each column lie `b_step` bytes apart.
///
/// The columns are read past the first-level cache (`tileloaddt1`): they stream through, and would only
/// drive out the rows, which are multiplied again with the next columns.
///
/// # Safety
/// `steps`, at least one, tiles must be readable at each place.
#[inline(always)]
pub(crate) unsafe fn multiply(a: Left, b: [*const u8; 2], b_step: usize, steps: usize) {
    // SAFETY: the caller's conditions.
    unsafe {
        asm!(
            "2:",
            "tileloaddt1 tmm6, [{b0} + {line}]",
            "tileloadd tmm4, [{a0} + {s0}]",
            "tileloaddt1 tmm7, [{b1} + {line}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{a1} + {s1}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a0}, 64", "add {a1}, 64", "add {b0}, {bs}", "add {b1}, {bs}",
            "dec {n}", "jnz 2b",
            a0 = inout(reg) a.start[0] => _, a1 = inout(reg) a.start[1] => _,
            b0 = inout(reg) b[0] => _, b1 = inout(reg) b[1] => _,
            n = inout(reg) steps => _, bs = in(reg) b_step,
            s0 = in(reg) a.stride[0], s1 = in(reg) a.stride[1], line = in(reg) 64usize,
            options(nostack, readonly)
        );
    }
}

/// The upper half of one step of [`multiply`], for callers that do something else in between: the first
/// tile of rows by two of columns.
///
/// # Safety
/// One tile must be readable at each place.
#[inline(always)]
pub(crate) unsafe fn multiply_upper(a: *const u8, a_stride: usize, b: [*const u8; 2]) {
    // SAFETY: the caller's conditions.
    unsafe {
        asm!(
            "tileloadd tmm6, [{b0} + {line}]",
            "tileloadd tmm4, [{a} + {s}]",
            "tileloadd tmm7, [{b1} + {line}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            a = in(reg) a, s = in(reg) a_stride, b0 = in(reg) b[0], b1 = in(reg) b[1],
            line = in(reg) 64usize,
            options(nostack, readonly, preserves_flags)
        );
    }
}

/// The lower half: the second tile of rows by the columns of the upper half.
///
/// # Safety
/// One tile must be readable.
#[inline(always)]
pub(crate) unsafe fn multiply_lower(a: *const u8, a_stride: usize) {
    // SAFETY: the caller's conditions.
    unsafe {
        asm!(
            "tileloadd tmm5, [{a} + {s}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            a = in(reg) a, s = in(reg) a_stride,
            options(nostack, readonly, preserves_flags)
        );
    }
}

/// [`multiply`] with the first tile of rows alone.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
pub(crate) unsafe fn multiply_row(a: Left, b: [*const u8; 2], b_step: usize, steps: usize) {
    // SAFETY: the caller's conditions.
    unsafe {
        asm!(
            "2:",
            "tileloadd tmm4, [{a0} + {s0}]",
            "tileloaddt1 tmm6, [{b0} + {line}]",
            "tileloaddt1 tmm7, [{b1} + {line}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "add {a0}, 64", "add {b0}, {bs}", "add {b1}, {bs}",
            "dec {n}", "jnz 2b",
            a0 = inout(reg) a.start[0] => _,
            b0 = inout(reg) b[0] => _, b1 = inout(reg) b[1] => _,
            n = inout(reg) steps => _, bs = in(reg) b_step,
            s0 = in(reg) a.stride[0], line = in(reg) 64usize,
            options(nostack, readonly)
        );
    }
}

/// [`multiply`] with the first tile of columns alone.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
pub(crate) unsafe fn multiply_column(a: Left, b: *const u8, b_step: usize, steps: usize) {
    // SAFETY: the caller's conditions.
    unsafe {
        asm!(
            "2:",
            "tileloaddt1 tmm6, [{b0} + {line}]",
            "tileloadd tmm4, [{a0} + {s0}]",
            "tileloadd tmm5, [{a1} + {s1}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "add {a0}, 64", "add {a1}, 64", "add {b0}, {bs}",
            "dec {n}", "jnz 2b",
            a0 = inout(reg) a.start[0] => _, a1 = inout(reg) a.start[1] => _,
            b0 = inout(reg) b => _, n = inout(reg) steps => _, bs = in(reg) b_step,
            s0 = in(reg) a.stride[0], s1 = in(reg) a.stride[1], line = in(reg) 64usize,
            options(nostack, readonly)
        );
    }
}
