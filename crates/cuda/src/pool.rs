//! Memory that is kept: what is given back serves the next request, without the driver.
//!
//! The driver takes a millisecond for memory and waits for the card before it takes it back, so a network that
//! allocates each of its results would wait thousands of times a picture. A [`Pool`] takes large segments from
//! it, cuts blocks from them (the smallest that fit), and joins blocks again when they are given back.
//!
//! All work of a card is one queue, so a block that was given back may be handed out at once: whoever writes to
//! it does so behind whatever still reads it.
//!
//! A recorded graph writes to the same addresses each time that it runs. So what is allocated during a recording
//! comes from an *arena*, segments that nobody else gets while the graph is there.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{Error, Result};

/// Where segments come from.
pub(crate) trait Source {
    /// Takes a segment, aligned to 256 bytes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], or those of the driver.
    fn take(&mut self, bytes: usize) -> Result<u64>;

    /// Gives a segment back that nothing uses any more.
    fn give(&mut self, address: u64, bytes: usize);

    /// Waits until nothing that is queued uses memory.
    fn settle(&mut self);
}

/// Blocks are multiples of this, so all of them are aligned to it within a segment.
const GRAIN: usize = 512;
/// Blocks up to this size come from segments of their own, or a bias would keep a large segment from being
/// given back.
const SMALL: usize = 512 << 10;
/// What small blocks are cut from.
const SMALL_SEGMENT: usize = 4 << 20;
/// From this size, a block gets a segment that is as large as it.
const LARGE: usize = 16 << 20;
/// What the blocks between are cut from.
const SEGMENT: usize = 32 << 20;
/// Large segments are multiples of what the driver maps at once.
const PAGE: usize = 2 << 20;

/// A part of the pool that is used on its own: the common one, or an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Space(usize);

/// What everybody gets.
const COMMON: Space = Space(0);

#[derive(Debug)]
struct Segment {
    bytes: usize,
    space: Space,
    small: bool,
    /// Whether a block of it was in use since the segment came into its space.
    touched: bool,
}

#[derive(Debug)]
struct Block {
    bytes: usize,
    segment: u64,
    free: bool,
}

#[derive(Debug, Default)]
struct Arena {
    /// Blocks that are in use.
    used: usize,
    /// Whether its graph is gone.
    retired: bool,
    /// Others' blocks that were given back during the recording: the graph may still read them.
    parked: Vec<u64>,
}

/// Kept memory of one queue of work.
#[derive(Debug)]
pub(crate) struct Pool<S> {
    source: S,
    segments: BTreeMap<u64, Segment>,
    blocks: BTreeMap<u64, Block>,
    /// Free blocks: the smallest that fits is the first from there.
    free: BTreeSet<(Space, bool, usize, u64)>,
    arenas: HashMap<Space, Arena>,
    /// Where blocks are cut from now.
    current: Space,
    next_arena: usize,
    reserved: usize,
    /// Bytes of free common blocks.
    idle: usize,
    peak: usize,
}

impl<S: Source> Pool<S> {
    pub(crate) fn new(source: S) -> Pool<S> {
        Pool {
            source,
            segments: BTreeMap::new(),
            blocks: BTreeMap::new(),
            free: BTreeSet::new(),
            arenas: HashMap::new(),
            current: COMMON,
            next_arena: 1,
            reserved: 0,
            idle: 0,
            peak: 0,
        }
    }

    /// Takes a block.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the source has no more, also after all that is kept was given back to it.
    pub(crate) fn allocate(&mut self, bytes: usize) -> Result<u64> {
        let wanted = bytes
            .max(1)
            .checked_next_multiple_of(GRAIN)
            .ok_or(Error::OutOfMemory { wanted: bytes })?;
        let address = match self.find(wanted) {
            Some(address) => address,
            None => {
                self.grow(wanted).map_err(|error| match error {
                    Error::OutOfMemory { .. } => Error::OutOfMemory { wanted: bytes },
                    other => other,
                })?;
                // Cannot be missing: the new segment is at least as large.
                self.find(wanted).ok_or(Error::OutOfMemory { wanted: bytes })?
            }
        };
        self.cut(address, wanted);
        self.note_peak();
        Ok(address)
    }

    /// Gives a block back. Addresses that are no block's are ignored.
    pub(crate) fn release(&mut self, address: u64) {
        let Some(space) = self.space_of(address) else { return };
        if self.current != space
            && let Some(arena) = self.arenas.get_mut(&self.current)
        {
            arena.parked.push(address);
            return;
        }
        self.join(address);
        if let Some(arena) = self.arenas.get_mut(&space) {
            arena.used -= 1;
            if arena.retired && arena.used == 0 {
                self.dissolve(space);
            }
        }
    }

    /// Gives back to the source what is kept and not used. Not during a recording, which waiting would end.
    pub(crate) fn give_back(&mut self) {
        if self.current != COMMON {
            return;
        }
        let unused = self.unused_segments();
        if unused.is_empty() {
            return;
        }
        self.source.settle();
        for start in unused {
            self.remove_segment(start);
        }
    }

    /// Begins an arena: until [`close`](Pool::close), blocks come from it. What is kept and not used is lent to
    /// it, so that a run like the one before needs nothing from the source.
    pub(crate) fn open(&mut self) -> Space {
        let space = Space(self.next_arena);
        self.next_arena += 1;
        self.arenas.insert(space, Arena::default());
        for start in self.unused_segments() {
            self.move_segment(start, space);
        }
        self.current = space;
        space
    }

    /// Ends the allocating from an arena, and gives back what it did not need of what it was lent.
    pub(crate) fn close(&mut self, space: Space) {
        if self.current != space {
            return;
        }
        self.current = COMMON;
        let untouched = |segment: &Segment| segment.space == space && !segment.touched;
        let starts: Vec<u64> = self
            .segments
            .iter()
            .filter(|(_, segment)| untouched(segment))
            .map(|(s, _)| *s)
            .collect();
        for start in starts {
            self.move_segment(start, COMMON);
        }
        self.note_peak();
    }

    /// The graph of an arena is gone. Its memory is everybody's as soon as no block of it is in use.
    pub(crate) fn retire(&mut self, space: Space) {
        self.close(space);
        let Some(arena) = self.arenas.get_mut(&space) else { return };
        arena.retired = true;
        let parked = std::mem::take(&mut arena.parked);
        let empty = arena.used == 0;
        for address in parked {
            self.release(address);
        }
        if empty {
            self.dissolve(space);
        }
    }

    /// Whether blocks come from an arena now.
    pub(crate) fn in_arena(&self) -> bool {
        self.current != COMMON
    }

    /// Bytes that are in use, those that graphs hold among them.
    pub(crate) fn used(&self) -> usize {
        self.reserved - self.idle
    }

    /// Bytes that are kept for the next requests.
    pub(crate) fn idle(&self) -> usize {
        self.idle
    }

    /// The most that was in use since the last [`reset_peak`](Pool::reset_peak).
    pub(crate) fn peak(&self) -> usize {
        self.peak
    }

    /// Begins to measure the peak anew.
    pub(crate) fn reset_peak(&mut self) {
        self.peak = self.used();
    }

    /// Gives everything back, whatever is still in use: the end of the pool.
    pub(crate) fn clear(&mut self) {
        self.source.settle();
        for (start, segment) in std::mem::take(&mut self.segments) {
            self.source.give(start, segment.bytes);
        }
        self.blocks.clear();
        self.free.clear();
        self.arenas.clear();
        (self.reserved, self.idle) = (0, 0);
    }

    fn note_peak(&mut self) {
        // During a recording, the arena still has what it was lent and may not need.
        if self.current == COMMON {
            self.peak = self.peak.max(self.used());
        }
    }

    fn space_of(&self, address: u64) -> Option<Space> {
        let block = self.blocks.get(&address).filter(|block| !block.free)?;
        Some(self.segments.get(&block.segment)?.space)
    }

    /// The smallest free block that is large enough.
    fn find(&self, wanted: usize) -> Option<u64> {
        let small = wanted <= SMALL;
        let from = (self.current, small, wanted, 0);
        let (space, kind, _, address) = self.free.range(from..).next()?;
        ((*space, *kind) == (self.current, small)).then_some(*address)
    }

    /// Takes a segment that has room for a block. If there is none, gives back what is kept and tries again.
    fn grow(&mut self, wanted: usize) -> Result<()> {
        let exact = wanted.checked_next_multiple_of(PAGE).unwrap_or(wanted);
        let bytes = match wanted {
            _ if wanted <= SMALL => SMALL_SEGMENT,
            _ if wanted < LARGE => SEGMENT,
            _ => exact,
        };
        let start = match self.source.take(bytes) {
            Err(Error::OutOfMemory { .. }) if self.current == COMMON => {
                self.give_back();
                self.source.take(exact).map(|start| (start, exact))
            }
            Err(Error::OutOfMemory { .. }) => self.source.take(exact).map(|start| (start, exact)),
            taken => taken.map(|start| (start, bytes)),
        };
        let (start, bytes) = start?;
        let small = wanted <= SMALL;
        self.segments.insert(start, Segment { bytes, space: COMMON, small, touched: false });
        self.blocks.insert(start, Block { bytes, segment: start, free: true });
        self.free.insert((COMMON, small, bytes, start));
        self.reserved += bytes;
        self.idle += bytes;
        if self.current != COMMON {
            self.move_segment(start, self.current);
        }
        Ok(())
    }

    /// Takes a free block into use, and leaves free what is too much of it.
    fn cut(&mut self, address: u64, wanted: usize) {
        let Some(block) = self.blocks.get_mut(&address) else { return };
        let Some(segment) = self.segments.get_mut(&block.segment) else { return };
        let (start, bytes) = (block.segment, block.bytes);
        let (space, small) = (segment.space, segment.small);
        segment.touched = true;
        block.free = false;
        self.free.remove(&(space, small, bytes, address));
        let rest = bytes - wanted;
        // What no block of the segment's kind would fit into stays with this one.
        let kept = if rest >= GRAIN && (small || rest > SMALL) {
            block.bytes = wanted;
            let after = address + wanted as u64;
            self.blocks.insert(after, Block { bytes: rest, segment: start, free: true });
            self.free.insert((space, small, rest, after));
            wanted
        } else {
            bytes
        };
        if space == COMMON {
            self.idle -= kept;
        }
        if let Some(arena) = self.arenas.get_mut(&space) {
            arena.used += 1;
        }
    }

    /// Makes a block free, and one with its free neighbours.
    fn join(&mut self, address: u64) {
        let Some(block) = self.blocks.remove(&address) else { return };
        let Some(segment) = self.segments.get(&block.segment) else { return };
        let (space, small) = (segment.space, segment.small);
        if space == COMMON {
            self.idle += block.bytes;
        }
        let (mut start, mut bytes) = (address, block.bytes);
        let neighbour = |block: &Block, other: &Block| other.free && other.segment == block.segment;
        if let Some((before, other)) = self.blocks.range(..address).next_back()
            && neighbour(&block, other)
        {
            (start, bytes) = (*before, bytes + other.bytes);
            self.free.remove(&(space, small, other.bytes, start));
        }
        let end = address + block.bytes as u64;
        if let Some(other) = self.blocks.get(&end)
            && neighbour(&block, other)
        {
            bytes += other.bytes;
            self.free.remove(&(space, small, other.bytes, end));
            self.blocks.remove(&end);
        }
        self.blocks.insert(start, Block { bytes, segment: block.segment, free: true });
        self.free.insert((space, small, bytes, start));
    }

    /// Common segments of which nothing is in use: each is one free block.
    fn unused_segments(&self) -> Vec<u64> {
        let unused = |start: &u64, segment: &Segment| {
            let block = self.blocks.get(start);
            segment.space == COMMON
                && block.is_some_and(|block| block.free && block.bytes == segment.bytes)
        };
        self.segments.iter().filter(|(start, seg)| unused(start, seg)).map(|(s, _)| *s).collect()
    }

    fn remove_segment(&mut self, start: u64) {
        let Some(segment) = self.segments.remove(&start) else { return };
        self.blocks.remove(&start);
        self.free.remove(&(segment.space, segment.small, segment.bytes, start));
        self.reserved -= segment.bytes;
        self.idle -= segment.bytes;
        self.source.give(start, segment.bytes);
    }

    /// Moves a segment with its free blocks to another space.
    fn move_segment(&mut self, start: u64, to: Space) {
        let Some(segment) = self.segments.get_mut(&start) else { return };
        let (from, small) = (segment.space, segment.small);
        segment.space = to;
        segment.touched = false;
        let end = start + segment.bytes as u64;
        for (address, block) in self.blocks.range(start..end).filter(|(_, block)| block.free) {
            self.free.remove(&(from, small, block.bytes, *address));
            self.free.insert((to, small, block.bytes, *address));
            if from == COMMON {
                self.idle -= block.bytes;
            }
            if to == COMMON {
                self.idle += block.bytes;
            }
        }
    }

    /// Makes an arena's segments common.
    fn dissolve(&mut self, space: Space) {
        self.arenas.remove(&space);
        let starts: Vec<u64> =
            self.segments.iter().filter(|(_, seg)| seg.space == space).map(|(s, _)| *s).collect();
        for start in starts {
            self.move_segment(start, COMMON);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// Memory that is only counted.
    #[derive(Debug, Default)]
    struct Fake {
        limit: usize,
        taken: BTreeMap<u64, usize>,
        next: u64,
        takes: usize,
        settles: usize,
    }

    impl Source for Fake {
        fn take(&mut self, bytes: usize) -> Result<u64> {
            self.takes += 1;
            if self.taken.values().sum::<usize>() + bytes > self.limit {
                return Err(Error::OutOfMemory { wanted: bytes });
            }
            self.next += 1 << 40;
            self.taken.insert(self.next, bytes);
            Ok(self.next)
        }

        fn give(&mut self, address: u64, bytes: usize) {
            assert_eq!(self.taken.remove(&address), Some(bytes), "given back as it was taken");
        }

        fn settle(&mut self) {
            self.settles += 1;
        }
    }

    fn pool(limit: usize) -> Pool<Fake> {
        Pool::new(Fake { limit, ..Fake::default() })
    }

    /// Blocks fill their segments without gaps or overlaps, and the counters are right.
    fn check(pool: &Pool<Fake>) {
        let mut at = 0;
        for (address, block) in &pool.blocks {
            let segment = &pool.segments[&block.segment];
            if *address == block.segment {
                at = *address;
            }
            assert_eq!(*address, at, "a gap or an overlap");
            at += block.bytes as u64;
            assert!(at <= block.segment + segment.bytes as u64);
            let key = (segment.space, segment.small, block.bytes, *address);
            assert_eq!(pool.free.contains(&key), block.free);
        }
        let free = pool.blocks.values().filter(|block| block.free).count();
        assert_eq!(pool.free.len(), free);
        let idle: usize = pool
            .free
            .iter()
            .filter(|(space, ..)| *space == COMMON)
            .map(|(_, _, bytes, _)| bytes)
            .sum();
        assert_eq!(pool.idle, idle);
        assert_eq!(pool.reserved, pool.source.taken.values().sum::<usize>());
    }

    #[test]
    fn what_is_given_back_serves_the_next() {
        let mut pool = pool(1 << 30);
        let first = pool.allocate(3 * MIB).unwrap();
        pool.release(first);
        assert_eq!(pool.allocate(3 * MIB).unwrap(), first);
        assert_eq!(pool.source.takes, 1);
        check(&pool);
    }

    #[test]
    fn addresses_are_aligned_and_apart() {
        let mut pool = pool(1 << 30);
        let mut last = None;
        for bytes in [0, 1, 255, 256, 257, 1000, 512 << 10, (512 << 10) + 1, 20 * MIB + 3] {
            let address = pool.allocate(bytes).unwrap();
            assert_eq!(address % 256, 0);
            assert_ne!(Some(address), last);
            last = Some(address);
        }
        check(&pool);
    }

    #[test]
    fn small_blocks_do_not_hold_large_segments() {
        let mut pool = pool(1 << 30);
        let large = pool.allocate(20 * MIB).unwrap();
        pool.release(large);
        let small = pool.allocate(100).unwrap();
        pool.give_back();
        assert_eq!(pool.source.taken.len(), 1);
        assert_eq!(pool.used(), GRAIN);
        pool.release(small);
        pool.give_back();
        assert!(pool.source.taken.is_empty());
        check(&pool);
    }

    #[test]
    fn neighbours_become_one() {
        let mut pool = pool(SEGMENT);
        let blocks: Vec<u64> = (0..4).map(|_| pool.allocate(8 * MIB).unwrap()).collect();
        for index in [1, 3, 2, 0] {
            pool.release(blocks[index]);
            check(&pool);
        }
        assert_eq!(pool.allocate(32 * MIB).unwrap(), blocks[0]);
        assert_eq!(pool.source.takes, 1);
    }

    #[test]
    fn kept_memory_goes_before_a_request_fails() {
        let mut pool = pool(100 * MIB);
        let first = pool.allocate(60 * MIB).unwrap();
        pool.release(first);
        // 80 do not fit beside the 60 that are kept.
        let second = pool.allocate(80 * MIB).unwrap();
        assert_eq!(pool.source.settles, 1);
        assert_eq!(pool.allocate(40 * MIB), Err(Error::OutOfMemory { wanted: 40 * MIB }));
        check(&pool);
        // What failed changed nothing.
        assert_eq!(pool.used(), 80 * MIB);
        // Where a segment of the usual size does not fit, one as large as the block does.
        pool.allocate(2 * MIB).unwrap();
        pool.release(second);
        check(&pool);
    }

    #[test]
    fn the_peak_is_the_most_that_was_used() {
        let mut pool = pool(1 << 30);
        let blocks: Vec<u64> = (0..3).map(|_| pool.allocate(20 * MIB).unwrap()).collect();
        for block in &blocks {
            pool.release(*block);
        }
        assert_eq!((pool.used(), pool.peak(), pool.idle()), (0, 60 * MIB, 60 * MIB));
        pool.reset_peak();
        pool.allocate(20 * MIB).unwrap();
        assert_eq!(pool.peak(), 20 * MIB);
    }

    #[test]
    fn an_arena_is_nobody_elses() {
        let mut pool = pool(1 << 30);
        let warm: Vec<u64> = (0..2).map(|_| pool.allocate(20 * MIB).unwrap()).collect();
        let unneeded = pool.allocate(64 * MIB).unwrap();
        for block in warm.iter().chain([&unneeded]) {
            pool.release(*block);
        }
        let takes = pool.source.takes;
        let arena = pool.open();
        assert!(pool.in_arena());
        let passing = pool.allocate(20 * MIB).unwrap();
        let result = pool.allocate(20 * MIB).unwrap();
        pool.release(passing);
        pool.close(arena);
        assert_eq!(pool.source.takes, takes, "what was kept was lent");
        check(&pool);
        // What the arena did not need is common again; what it needed is not, though it is free.
        assert_eq!(pool.idle(), 64 * MIB);
        assert_eq!(pool.used(), 40 * MIB);
        let other = pool.allocate(20 * MIB).unwrap();
        assert!(other != passing && other != result);
        // A result that outlives its graph keeps the arena.
        pool.retire(arena);
        check(&pool);
        assert_eq!(pool.arenas.len(), 1);
        pool.release(result);
        assert!(pool.arenas.is_empty());
        check(&pool);
        pool.release(other);
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn what_a_graph_reads_is_kept_for_it() {
        let mut pool = pool(1 << 30);
        let input = pool.allocate(20 * MIB).unwrap();
        let arena = pool.open();
        pool.release(input);
        pool.close(arena);
        assert_ne!(pool.allocate(20 * MIB).unwrap(), input);
        assert_eq!(pool.used(), 40 * MIB);
        pool.retire(arena);
        assert_eq!(pool.used(), 20 * MIB);
        assert_eq!(pool.allocate(20 * MIB).unwrap(), input);
        check(&pool);
    }

    #[test]
    fn a_recording_never_waits_for_the_card() {
        let mut pool = pool(50 * MIB);
        let half_used = [pool.allocate(12 * MIB).unwrap(), pool.allocate(12 * MIB).unwrap()];
        pool.release(half_used[1]);
        let arena = pool.open();
        let wanted = 30 * MIB;
        assert_eq!(pool.allocate(wanted), Err(Error::OutOfMemory { wanted }));
        pool.give_back();
        assert_eq!(pool.source.settles, 0);
        pool.retire(arena);
        check(&pool);
        assert!(pool.arenas.is_empty());
    }

    #[test]
    fn nothing_is_left_at_the_end() {
        let mut pool = pool(1 << 30);
        pool.allocate(20 * MIB).unwrap();
        pool.open();
        pool.allocate(100).unwrap();
        pool.clear();
        assert!(pool.source.taken.is_empty());
        assert_eq!((pool.source.settles, pool.used()), (1, 0));
        check(&pool);
    }

    #[test]
    fn no_order_of_requests_breaks_it() {
        let mut pool = pool(600 * MIB);
        let mut state = 1_u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % below
        };
        let mut held: Vec<u64> = Vec::new();
        let mut graphs = Vec::new();
        for turn in 0..20_000 {
            match random(20) {
                0..9 => {
                    let bytes = [1 << 10, 300 << 10, 3 * MIB, 40 * MIB][random(4)];
                    if let Ok(address) = pool.allocate(random(bytes)) {
                        held.push(address);
                    }
                }
                9..18 if !held.is_empty() => pool.release(held.swap_remove(random(held.len()))),
                18 if turn % 7 == 0 => match pool.current {
                    COMMON => graphs.push(pool.open()),
                    open => pool.close(open),
                },
                19 if turn % 5 == 0 && !graphs.is_empty() => {
                    let graph = graphs.swap_remove(random(graphs.len()));
                    pool.retire(graph);
                }
                19 => pool.give_back(),
                _ => {}
            }
            if turn % 50 == 0 {
                check(&pool);
            }
        }
        for graph in graphs {
            pool.retire(graph);
        }
        for address in held {
            pool.release(address);
        }
        check(&pool);
        assert_eq!(pool.used(), 0);
        pool.give_back();
        assert!(pool.source.taken.is_empty());
    }
}
