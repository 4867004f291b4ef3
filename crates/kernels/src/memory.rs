//! The memory of activations and weights: written before it is read, and kept for the next step.
//!
//! A step of a network makes the same few hundred results as the step before it, of a few MiB each. An
//! allocator that gives such blocks back to the system has them cleared and mapped anew every time,
//! which takes longer than computing what is in them. So a block of [`Values`] that is dropped goes to
//! a list, the next one of about its size takes it from there, and [`give_back`] empties the list.

use std::{
    alloc::{Layout, alloc, dealloc, handle_alloc_error},
    cell::RefCell,
    fmt,
    marker::PhantomData,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::number::Number;

/// A cache line, and a row of an AMX tile.
const LINE: usize = 64;

/// Blocks are multiples of this, so that similar ones can stand in for each other.
const GRAIN: usize = 64 << 10;

/// The size of a large page of memory. Blocks that hold several begin at one.
const LARGE_PAGE: usize = 2 << 20;

/// Numbers that begin at a cache line, in memory that is used again when they are dropped.
pub struct Values<T> {
    block: Block,
    len: usize,
    kind: PhantomData<T>,
}

impl<T: Number> Values<T> {
    /// `len` zeros.
    #[must_use]
    pub fn zeros(len: usize) -> Values<T> {
        // SAFETY: written at once.
        let mut values = unsafe { Values::unwritten(len) };
        values.fill(T::default());
        values
    }

    /// Room for `len` numbers that nobody has written yet.
    ///
    /// # Safety
    /// Every number must be written before it is read. (Any bits are a valid number.)
    pub(crate) unsafe fn unwritten(len: usize) -> Values<T> {
        Values { block: Block::take(len * size_of::<T>()), len, kind: PhantomData }
    }
}

impl<T: Number> From<&[T]> for Values<T> {
    fn from(from: &[T]) -> Values<T> {
        // SAFETY: written at once.
        let mut values = unsafe { Values::unwritten(from.len()) };
        values.copy_from_slice(from);
        values
    }
}

impl<T> Deref for Values<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the block has room for `len` numbers, and they have been written.
        unsafe { std::slice::from_raw_parts(self.block.start.as_ptr().cast(), self.len) }
    }
}

impl<T> DerefMut for Values<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.block.start.as_ptr().cast(), self.len) }
    }
}

impl<T: PartialEq, S: Deref<Target = [T]>> PartialEq<S> for Values<T> {
    fn eq(&self, other: &S) -> bool {
        **self == **other
    }
}

impl<T> fmt::Debug for Values<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}; {}]", std::any::type_name::<T>(), self.len)
    }
}

/// A piece of memory. Dropped, it goes to the list of free ones.
struct Block {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it owns its memory, like a Vec.
unsafe impl Send for Block {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Block {}

/// Blocks that nobody uses, the smallest first.
static FREE: Mutex<Vec<Free>> = Mutex::new(Vec::new());

/// A block on the list. Dropped, its memory goes back to the allocator.
struct Free {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it owns its memory, like a Vec.
unsafe impl Send for Free {}

fn free() -> MutexGuard<'static, Vec<Free>> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives the memory that is kept for the next results back to the allocator: after a picture, or before
/// results of quite other sizes.
pub fn give_back() {
    drop(std::mem::take(&mut *free()));
}

fn layout(bytes: usize) -> Layout {
    let align = if bytes >= 2 * LARGE_PAGE { LARGE_PAGE } else { LINE };
    Layout::from_size_align(bytes, align).expect("smaller than memory")
}

impl Block {
    fn take(bytes: usize) -> Block {
        if bytes == 0 {
            // A line's worth of nowhere: aligned, never read.
            let start = NonNull::without_provenance(LINE.try_into().expect("not 0"));
            return Block { start, bytes };
        }
        let bytes = bytes.next_multiple_of(if bytes < GRAIN { LINE } else { GRAIN });
        let mut list = free();
        let at = list.partition_point(|free| free.bytes < bytes);
        // A little larger is as good; much larger is kept for one of its size.
        if list.get(at).is_some_and(|free| free.bytes - bytes <= bytes / 8) {
            let free = list.remove(at);
            let block = Block { start: free.start, bytes: free.bytes };
            std::mem::forget(free);
            return block;
        }
        drop(list);
        let layout = layout(bytes);
        // SAFETY: the layout is not empty.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }) else {
            handle_alloc_error(layout)
        };
        prefer_large_pages(start, bytes);
        Block { start, bytes }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let free = Free { start: self.start, bytes: self.bytes };
            let mut list = self::free();
            let at = list.partition_point(|other| other.bytes < free.bytes);
            list.insert(at, free);
        }
    }
}

impl Drop for Free {
    fn drop(&mut self) {
        // SAFETY: allocated with this very layout.
        unsafe { dealloc(self.start.as_ptr(), layout(self.bytes)) }
    }
}

/// Asks for pages of 2 MiB: 500 times fewer addresses to look up, and to be made when first touched.
fn prefer_large_pages(start: NonNull<u8>, bytes: usize) {
    #[cfg(target_os = "linux")]
    if bytes >= 2 * LARGE_PAGE {
        // SAFETY: advice on pages that lie inside our own block; it changes nothing in them.
        let _ = unsafe {
            rustix::mm::madvise(
                start.as_ptr().cast(),
                bytes / LARGE_PAGE * LARGE_PAGE,
                rustix::mm::Advice::LinuxHugepage,
            )
        };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, bytes);
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

/// Runs `f` with `len` numbers of this thread's own memory, with whatever the last call left there. It
/// is kept, so that a step allocates nothing.
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Values<f32>> = RefCell::new(Values::zeros(0));
    }
    SCRATCH.with(|scratch| {
        let mut scratch = scratch.borrow_mut();
        if scratch.len() < len {
            *scratch = Values::zeros(len.next_power_of_two());
        }
        f(&mut scratch[..len])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_memory_is_used_again() {
        // Sizes that no other test asks for.
        let values = Values::<f32>::zeros(12_345_678);
        let place = values.as_ptr();
        drop(values);
        let again = Values::<f32>::zeros(12_300_000);
        assert_eq!(again.as_ptr(), place);
        assert!(again.iter().all(|value| *value == 0.0));
        assert!(Values::<f32>::zeros(1_000_000).as_ptr() != place);
        assert!(Values::<f32>::zeros(0).is_empty());
    }
}
