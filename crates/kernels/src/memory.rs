//! The memory of activations and weights: written before it is read, and kept for the next step.
//!
//! A step of a network makes the same few hundred results as the step before it, of a few MiB each. An
//! allocator that gives such blocks back to the system has them cleared and mapped anew every time,
//! which takes longer than computing what is in them. So [`Values`] live in an arena: a long range of
//! addresses that is reserved once, of which the system backs what is touched, in large pages. A block
//! takes the lowest free place that it fits; freed neighbors grow together; and [`give_back`] returns
//! what is free.

use std::{
    alloc::{Layout, alloc, dealloc, handle_alloc_error},
    cell::RefCell,
    collections::BTreeMap,
    fmt,
    marker::PhantomData,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    sync::{Mutex, MutexGuard, PoisonError},
};

use half::{bf16, f16};

/// A cache line, and a row of an AMX tile.
const LINE: usize = 64;

/// Blocks of the arena begin at multiples of this.
const GRAIN: usize = 4096;

/// The size of a large page of memory.
const LARGE_PAGE: usize = 2 << 20;

/// Addresses to reserve. They cost nothing until they are used.
const RESERVE: usize = 1 << 38;

/// A kind of which any bits are a value, so that memory can be handed out as it was left.
///
/// # Safety
/// That is what it promises.
pub unsafe trait AnyBits: Copy + Default {}

// SAFETY: as every number of a fixed width.
unsafe impl AnyBits for f32 {}
// SAFETY: as above.
unsafe impl AnyBits for bf16 {}
// SAFETY: as above.
unsafe impl AnyBits for f16 {}

/// Numbers that begin at a cache line, in memory that is used again when they are dropped.
pub struct Values<T> {
    block: Block,
    len: usize,
    kind: PhantomData<T>,
}

impl<T: AnyBits> Values<T> {
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
    /// Every number must be written before it is read.
    pub(crate) unsafe fn unwritten(len: usize) -> Values<T> {
        Values { block: Block::take(len * size_of::<T>()), len, kind: PhantomData }
    }
}

impl<T: AnyBits> From<&[T]> for Values<T> {
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

/// A piece of memory of the arena, or of the allocator where there is none.
struct Block {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it owns its memory, like a Vec.
unsafe impl Send for Block {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Block {}

/// The free places of the reserved addresses: beginning and length.
struct Arena {
    begin: usize,
    end: usize,
    free: BTreeMap<usize, usize>,
}

/// The arena, once somebody asked for memory; none where addresses cannot be reserved.
static ARENA: Mutex<Option<Arena>> = Mutex::new(None);

fn arena() -> MutexGuard<'static, Option<Arena>> {
    let mut arena = ARENA.lock().unwrap_or_else(PoisonError::into_inner);
    if arena.is_none() {
        *arena = Some(Arena::reserve());
    }
    arena
}

/// Gives memory that is kept for the next results back to the system: after a picture.
pub fn give_back() {
    if let Some(arena) = &mut *arena() {
        arena.give_back();
    }
}

impl Arena {
    /// Reserves as many addresses as the system lets us have.
    fn reserve() -> Arena {
        let mut bytes = RESERVE;
        while bytes >= 1 << 30 {
            if let Some(begin) = system::reserve(bytes) {
                let aligned = begin.next_multiple_of(LARGE_PAGE);
                let end = begin + bytes;
                return Arena { begin: aligned, end, free: [(aligned, end - aligned)].into() };
            }
            bytes /= 2;
        }
        Arena { begin: 0, end: 0, free: BTreeMap::new() }
    }

    /// The lowest place for so many bytes.
    fn take(&mut self, bytes: usize) -> Option<usize> {
        let (&start, &len) = self.free.iter().find(|(_, len)| **len >= bytes)?;
        self.free.remove(&start);
        if len > bytes {
            self.free.insert(start + bytes, len - bytes);
        }
        Some(start)
    }

    fn put(&mut self, mut start: usize, mut len: usize) {
        if let Some((&before, &before_len)) = self.free.range(..start).next_back()
            && before + before_len == start
        {
            self.free.remove(&before);
            (start, len) = (before, before_len + len);
        }
        if let Some(after_len) = self.free.remove(&(start + len)) {
            len += after_len;
        }
        self.free.insert(start, len);
    }

    fn give_back(&mut self) {
        for (&start, &len) in &self.free {
            let (from, to) = (start.next_multiple_of(LARGE_PAGE), start + len);
            // What lies above was never touched, or given back before: asking again costs little.
            let to = to / LARGE_PAGE * LARGE_PAGE;
            if from < to {
                system::give_back(from, to - from);
            }
        }
    }

    fn holds(&self, address: usize) -> bool {
        (self.begin..self.end).contains(&address)
    }
}

#[cfg(unix)]
mod system {
    use std::ptr;

    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

    /// Addresses that are backed when they are touched, with zeros.
    pub(super) fn reserve(bytes: usize) -> Option<usize> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping, at an address that the system chooses.
        let begin = unsafe {
            mmap_anonymous(ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, flags)
        };
        let begin = begin.ok()?;
        // Pages of 2 MiB: 500 times fewer addresses to look up, and to be made when first touched.
        #[cfg(target_os = "linux")]
        // SAFETY: advice on our own mapping; it changes nothing in it.
        let _ = unsafe { madvise(begin, bytes, Advice::LinuxHugepage) };
        Some(begin.addr())
    }

    /// Lets the system have pages back. They are zeros when they are next touched.
    pub(super) fn give_back(start: usize, bytes: usize) {
        #[cfg(target_os = "linux")]
        const UNUSED: Advice = Advice::LinuxDontNeed;
        #[cfg(not(target_os = "linux"))]
        const UNUSED: Advice = Advice::DontNeed;
        // SAFETY: pages of the arena that are free, so that nobody reads them before writing.
        let _ = unsafe { madvise(ptr::with_exposed_provenance_mut(start), bytes, UNUSED) };
    }
}

#[cfg(not(unix))]
mod system {
    pub(super) fn reserve(_: usize) -> Option<usize> {
        None
    }

    pub(super) fn give_back(_: usize, _: usize) {}
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, LINE).expect("smaller than memory")
}

impl Block {
    fn take(bytes: usize) -> Block {
        if bytes == 0 {
            // A line's worth of nowhere: aligned, never read.
            let start = NonNull::without_provenance(LINE.try_into().expect("not 0"));
            return Block { start, bytes };
        }
        #[cfg(all(test, target_os = "linux"))]
        if let Some(start) = guarded::take(bytes) {
            return Block { start, bytes };
        }
        if bytes >= GRAIN {
            let bytes = bytes.next_multiple_of(GRAIN);
            let place = arena().as_mut().and_then(|arena| arena.take(bytes));
            if let Some(start) =
                place.and_then(|at| NonNull::new(std::ptr::with_exposed_provenance_mut(at)))
            {
                return Block { start, bytes };
            }
        }
        let layout = layout(bytes);
        // SAFETY: the layout is not empty.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }) else {
            handle_alloc_error(layout)
        };
        Block { start, bytes }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        #[cfg(all(test, target_os = "linux"))]
        if guarded::put(self.start, self.bytes) {
            return;
        }
        if self.bytes >= GRAIN
            && let Some(arena) = &mut *arena()
            && arena.holds(self.start.addr().get())
        {
            return arena.put(self.start.addr().get(), self.bytes);
        }
        // SAFETY: allocated with this very layout.
        unsafe { dealloc(self.start.as_ptr(), layout(self.bytes)) }
    }
}

/// Memory between pages that nobody may touch: whoever reads or writes beyond it dies at once. It begins
/// as numbers that are none, so that what was read before it was written shows in the results.
#[cfg(all(test, target_os = "linux"))]
pub(crate) mod guarded {
    use std::{
        collections::BTreeMap,
        ptr::{self, NonNull},
        slice,
        sync::{
            Mutex, PoisonError,
            atomic::{AtomicU8, Ordering},
        },
    };

    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

    use super::LINE;

    /// Which end of a block touches a forbidden page; the other may be up to a page away.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Side {
        Begin = 1,
        End = 2,
    }

    const PAGE: usize = 4096;

    /// What lies between the end of a block and its page, and must still be there.
    const BEYOND: u8 = 0xa5;

    static SIDE: AtomicU8 = AtomicU8::new(0);

    /// Where each block's mapping begins, and its length.
    static MAPPINGS: Mutex<BTreeMap<usize, (usize, usize)>> = Mutex::new(BTreeMap::new());

    /// Runs `f` with all memory of this process's kernels guarded.
    pub(crate) fn during<R>(side: Side, f: impl FnOnce() -> R) -> R {
        SIDE.store(side as u8, Ordering::SeqCst);
        let result = f();
        SIDE.store(0, Ordering::SeqCst);
        result
    }

    pub(super) fn is_on() -> bool {
        SIDE.load(Ordering::SeqCst) != 0
    }

    pub(super) fn take(bytes: usize) -> Option<NonNull<u8>> {
        let side = SIDE.load(Ordering::SeqCst);
        if side == 0 {
            return None;
        }
        let (room, inner) = (bytes.next_multiple_of(LINE), bytes.next_multiple_of(PAGE));
        let len = inner + 2 * PAGE;
        let flags = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping; the protected pages and what is filled are inside it.
        unsafe {
            let mapping = mmap_anonymous(ptr::null_mut(), len, flags, MapFlags::PRIVATE)
                .expect("memory for a test");
            let first = mapping.cast::<u8>().add(PAGE);
            mprotect(mapping, PAGE, MprotectFlags::empty()).expect("memory for a test");
            mprotect(first.add(inner).cast(), PAGE, MprotectFlags::empty())
                .expect("memory for a test");
            let start = if side == Side::End as u8 { first.add(inner - room) } else { first };
            start.write_bytes(0xff, bytes);
            start.add(bytes).write_bytes(BEYOND, room - bytes);
            let mut mappings = MAPPINGS.lock().unwrap_or_else(PoisonError::into_inner);
            mappings.insert(start.addr(), (mapping.addr(), len));
            NonNull::new(start)
        }
    }

    pub(super) fn put(start: NonNull<u8>, bytes: usize) -> bool {
        let mut mappings = MAPPINGS.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((mapping, len)) = mappings.remove(&start.addr().get()) else { return false };
        drop(mappings);
        let beyond = bytes.next_multiple_of(LINE) - bytes;
        // SAFETY: the block's own mapping, which nobody uses any more.
        unsafe {
            let beyond = slice::from_raw_parts(start.as_ptr().add(bytes), beyond);
            assert!(beyond.iter().all(|byte| *byte == BEYOND), "written behind {bytes} bytes");
            munmap(ptr::with_exposed_provenance_mut(mapping), len).expect("memory for a test");
        }
        true
    }
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
        // One for each call within a call.
        static FREE: RefCell<Vec<Values<f32>>> = const { RefCell::new(Vec::new()) };
    }
    let free = FREE.with_borrow_mut(Vec::pop);
    let mut scratch = free.unwrap_or_else(|| Values::zeros(0));
    #[cfg(all(test, target_os = "linux"))]
    if guarded::is_on() {
        // SAFETY: the callers write before they read, which the test that asked for this shows.
        scratch = unsafe { Values::unwritten(len) };
    }
    if scratch.len() < len {
        scratch = Values::zeros(len.next_power_of_two());
    }
    let result = f(&mut scratch[..len]);
    FREE.with_borrow_mut(|free| free.push(scratch));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut values: Vec<Values<f32>> = (0..100).map(|i| Values::zeros(i * 331)).collect();
        for (i, values) in values.iter_mut().enumerate() {
            assert!(values.as_ptr().addr() % LINE == 0 && values.iter().all(|x| *x == 0.0));
            values.fill(i as f32);
        }
        values.retain(|values| values.len() % 3 != 0);
        let more: Vec<Values<f32>> = (0..100).map(|i| Values::zeros(i * 77)).collect();
        give_back();
        for values in &values {
            assert!(values.iter().all(|x| *x == (values.len() / 331) as f32));
        }
        assert!(more.iter().all(|values| values.iter().all(|x| *x == 0.0)));
    }

    #[test]
    fn freed_neighbors_grow_together() {
        let mut arena = Arena { begin: 0, end: 100, free: [(0, 100)].into() };
        let places: Vec<usize> = (0..5).map(|_| arena.take(20).unwrap()).collect();
        assert_eq!((places, arena.take(1)), (vec![0, 20, 40, 60, 80], None));
        for start in [20, 60, 0, 40] {
            arena.put(start, 20);
        }
        assert_eq!(arena.free, [(0, 80)].into());
        assert_eq!((arena.take(10), arena.take(70), arena.take(1)), (Some(0), Some(10), None));
    }
}
