//! Memory that kernels write before they read: aligned to cache lines, never cleared for nothing.

use std::{
    alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error},
    cell::RefCell,
    fmt,
    marker::PhantomData,
    ops::{Deref, DerefMut},
    ptr::NonNull,
};

/// A cache line, and a row of an AMX tile.
const LINE: usize = 64;

/// A slice that begins at a cache line.
pub(crate) struct Aligned<T> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: it owns its memory, like a Vec.
unsafe impl<T: Send> Send for Aligned<T> {}
// SAFETY: as above; shared access only reads.
unsafe impl<T: Sync> Sync for Aligned<T> {}

impl<T: Copy + Default> Aligned<T> {
    /// `len` zeros. `T` is a number, whose zero is all bits clear.
    pub(crate) fn zeros(len: usize) -> Aligned<T> {
        Aligned::allocate(len, true)
    }

    /// Room for `len` numbers that nobody has written yet.
    ///
    /// # Safety
    /// Every number must be written before it is read. (Any bits are a valid number.)
    pub(crate) unsafe fn unwritten(len: usize) -> Aligned<T> {
        Aligned::allocate(len, false)
    }

    fn allocate(len: usize, clear: bool) -> Aligned<T> {
        let Some(layout) = Aligned::<T>::layout(len) else {
            return Aligned { start: NonNull::dangling(), len };
        };
        // SAFETY: the layout is not empty.
        let start = unsafe { if clear { alloc_zeroed(layout) } else { alloc(layout) } };
        let Some(start) = NonNull::new(start.cast()) else { handle_alloc_error(layout) };
        Aligned { start, len }
    }
}

impl<T> Aligned<T> {
    fn layout(len: usize) -> Option<Layout> {
        let bytes = len * size_of::<T>();
        (bytes > 0).then(|| Layout::from_size_align(bytes, LINE).expect("smaller than memory"))
    }
}

impl<T> Drop for Aligned<T> {
    fn drop(&mut self) {
        if let Some(layout) = Aligned::<T>::layout(self.len) {
            // SAFETY: allocated with this very layout.
            unsafe { dealloc(self.start.as_ptr().cast(), layout) }
        }
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` numbers were allocated at `start` and have been written.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T> fmt::Debug for Aligned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}; {}]", std::any::type_name::<T>(), self.len)
    }
}

/// A result that is about to be written, whole, by tasks that each write their own part of it.
///
/// # Safety
/// Every number must be written before the vector is used.
pub(crate) unsafe fn unwritten<T: Copy>(len: usize) -> Vec<T> {
    let mut values = Vec::with_capacity(len);
    // SAFETY: the capacity is there, and any bits are a valid number; the caller writes them all.
    #[expect(clippy::uninit_vec, reason = "clearing gigabytes per picture that are overwritten")]
    unsafe {
        values.set_len(len);
    }
    values
}

/// A pointer that tasks share. Each keeps to its own part of what it points to.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(*mut T, PhantomData<T>);

// SAFETY: whoever dereferences it keeps to a part that no other task touches, and says so there.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(values: &mut [T]) -> Shared<T> {
        Shared(values.as_mut_ptr(), PhantomData)
    }

    pub(crate) fn get(self) -> *mut T {
        self.0
    }
}

/// Runs `f` with `len` numbers of this thread's own memory, unwritten or with what the last call left
/// there, aligned to a cache line. It is kept, so that a step allocates nothing.
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Aligned<f32>> = RefCell::new(Aligned::zeros(0));
    }
    SCRATCH.with(|scratch| {
        let mut scratch = scratch.borrow_mut();
        if scratch.len() < len {
            *scratch = Aligned::zeros(len.next_power_of_two());
        }
        f(&mut scratch[..len])
    })
}
