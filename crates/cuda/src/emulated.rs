//! A card that is not there: the kernels as the system's C++ compiler makes them, for tests.
//!
//! What goes unnoticed on a card is found here. Fresh memory is full of NaNs, each buffer has a fence around
//! it that is looked at after every kernel, and `emulator/emulator.hpp` says what a kernel itself must not do.

use std::{
    alloc::{Layout, alloc, dealloc},
    collections::BTreeMap,
    ffi::{CStr, CString, c_char, c_int, c_void},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    Error, Result,
    backend::{Backend, Launch, Recording},
};

unsafe extern "C" {
    fn impasto_emulate(
        kernel: *const c_char,
        grid: *const u32,
        block: *const u32,
        shared: u32,
        parameter: *const c_void,
        spans: *const u64,
        span_count: usize,
        error: *mut c_char,
        error_bytes: usize,
    ) -> c_int;
}

#[cfg(test)]
unsafe extern "C" {
    fn impasto_emulated_parameter(kernel: *const c_char) -> usize;
}

/// Bytes before and behind a buffer that nobody may write.
const FENCE: usize = 256;

/// What memory is full of that nobody has written: NaNs in every format.
const POISON: u8 = 0xff;

/// How much memory the card says it has, unless it is told.
const MEMORY_BYTES: u64 = 8 << 30;

/// The card.
#[derive(Debug, Clone, Default)]
pub(crate) struct Emulated(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Where each buffer begins, and its length in bytes.
    buffers: BTreeMap<u64, usize>,
    /// What is recorded instead of run.
    tape: Option<Tape>,
    /// Requests for memory until one is refused.
    refused_after: Option<u32>,
    /// All of its memory in bytes, where that is not [`MEMORY_BYTES`].
    memory: Option<u64>,
    /// The most bytes that were in use at once.
    peak: u64,
}

impl State {
    /// Bytes in use.
    fn used(&self) -> u64 {
        self.buffers.values().map(|bytes| *bytes as u64).sum()
    }
}

#[derive(Debug, Default)]
struct Tape {
    launches: Vec<Taped>,
    /// Buffers that were given back meanwhile: the work computes in them.
    parked: Vec<(u64, usize)>,
}

/// A launch that was recorded.
#[derive(Debug)]
struct Taped {
    kernel: String,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    params: Vec<u8>,
}

impl Emulated {
    /// One in want of memory; see [`Card::emulated_short`](crate::Card::emulated_short).
    pub(crate) fn short(refuses: Option<u32>, memory: Option<u64>) -> Emulated {
        let state = State { refused_after: refuses, memory, ..State::default() };
        Emulated(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses what a recording cannot hold.
    fn require_running(&self, doing: &str) -> Result<()> {
        match self.state().tape {
            None => Ok(()),
            Some(_) => Err(Error::Failed {
                doing: doing.into(),
                reason: "a recording holds nothing but kernels".into(),
            }),
        }
    }
}

/// Work that was recorded.
#[derive(Debug)]
struct Taping {
    card: Emulated,
    tape: Tape,
}

impl Recording for Taping {
    fn replay(&self) -> Result<()> {
        self.tape.launches.iter().try_for_each(|taped| {
            self.card.launch(&Launch {
                kernel: &taped.kernel,
                grid: taped.grid,
                block: taped.block,
                shared: taped.shared,
                params: &taped.params,
            })
        })
    }

    fn operations(&self) -> usize {
        self.tape.launches.len()
    }
}

impl Drop for Taping {
    fn drop(&mut self) {
        for (address, bytes) in self.tape.parked.drain(..) {
            self.card.release(address, bytes);
        }
    }
}

fn layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes.checked_add(2 * FENCE)?, FENCE).ok()
}

/// Whether nothing was written beside a buffer.
fn is_intact(address: u64, bytes: usize) -> bool {
    [address as usize - FENCE, address as usize + bytes].into_iter().all(|fence| {
        // SAFETY: `allocate` took and wrote both fences of every buffer that is on the card.
        let fence = unsafe { std::slice::from_raw_parts(fence as *const u8, FENCE) };
        fence.iter().all(|byte| *byte == POISON)
    })
}

impl Backend for Emulated {
    fn allocate(&self, bytes: usize) -> Result<u64> {
        let mut state = self.state();
        let left = state.refused_after;
        state.refused_after = left.and_then(|left| left.checked_sub(1));
        drop(state);
        if left == Some(0) {
            return Err(Error::OutOfMemory { wanted: bytes });
        }
        let (free, _) = self.memory()?;
        let layout = layout(bytes).filter(|_| bytes as u64 <= free);
        let layout = layout.ok_or(Error::OutOfMemory { wanted: bytes })?;
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc(layout) };
        if memory.is_null() {
            return Err(Error::OutOfMemory { wanted: bytes });
        }
        // SAFETY: as many bytes as were taken.
        unsafe { memory.write_bytes(POISON, layout.size()) };
        let address = memory as u64 + FENCE as u64;
        let mut state = self.state();
        state.buffers.insert(address, bytes);
        state.peak = state.peak.max(state.used());
        Ok(address)
    }

    fn release(&self, address: u64, bytes: usize) {
        let mut state = self.state();
        if let Some(tape) = &mut state.tape {
            tape.parked.push((address, bytes));
            return;
        }
        let taken = state.buffers.remove(&address);
        drop(state);
        assert_eq!(taken, Some(bytes), "a buffer of the card");
        if !std::thread::panicking() {
            assert!(is_intact(address, bytes), "something was written beside a buffer");
        }
        if let Some(layout) = layout(bytes) {
            // SAFETY: `allocate` took it with the same layout, and it was on the card until now.
            unsafe { dealloc((address as usize - FENCE) as *mut u8, layout) };
        }
    }

    fn copy_in(&self, to: u64, from: &[u8]) -> Result<()> {
        self.require_running("copying to the card")?;
        // SAFETY: the caller copies into a buffer of the card, and nothing runs meanwhile.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
        Ok(())
    }

    fn copy_out(&self, from: u64, to: &mut [u8]) -> Result<()> {
        self.require_running("copying from the card")?;
        // SAFETY: the caller copies from a buffer of the card, and nothing runs meanwhile.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.require_running("copying on the card")?;
        // SAFETY: the caller copies between buffers of the card, and nothing runs meanwhile.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let failed = |reason: String| Error::Failed {
            doing: format!("launching `{}`", launch.kernel),
            reason,
        };
        let kernel = CString::new(launch.kernel).map_err(|error| failed(error.to_string()))?;
        let mut state = self.state();
        if let Some(tape) = &mut state.tape {
            let Launch { kernel, grid, block, shared, params } = *launch;
            let (kernel, params) = (kernel.to_owned(), params.to_vec());
            tape.launches.push(Taped { kernel, grid, block, shared, params });
            return Ok(());
        }
        let buffers = &state.buffers;
        let spans: Vec<u64> =
            buffers.iter().flat_map(|(address, bytes)| [*address, *bytes as u64]).collect();
        let mut error = [0 as c_char; 512];
        // SAFETY: the arrays are as long as the C++ side is told or knows; the parameter's length is that
        // of the kernel's (a test compares them), and the kernel's accesses are checked against the spans.
        let status = unsafe {
            impasto_emulate(
                kernel.as_ptr(),
                launch.grid.as_ptr(),
                launch.block.as_ptr(),
                launch.shared,
                launch.params.as_ptr().cast(),
                spans.as_ptr(),
                buffers.len(),
                error.as_mut_ptr(),
                error.len(),
            )
        };
        if status != 0 {
            // SAFETY: the C++ side ends what it writes with a zero, and the array was full of them.
            let reason = unsafe { CStr::from_ptr(error.as_ptr()) };
            return Err(failed(reason.to_string_lossy().into_owned()));
        }
        match buffers.iter().find(|(address, bytes)| !is_intact(**address, **bytes)) {
            Some((_, bytes)) => Err(failed(format!("it wrote beside a buffer of {bytes} bytes"))),
            None => Ok(()),
        }
    }

    fn memory(&self) -> Result<(u64, u64)> {
        let state = self.state();
        let all = state.memory.unwrap_or(MEMORY_BYTES);
        Ok((all.saturating_sub(state.used()), all))
    }

    fn peak_bytes(&self) -> u64 {
        self.state().peak
    }

    fn reset_peak(&self) {
        let mut state = self.state();
        state.peak = state.used();
    }

    fn begin_recording(&self) -> Result<bool> {
        self.state().tape = Some(Tape::default());
        Ok(true)
    }

    fn end_recording(&self) -> Result<Box<dyn Recording>> {
        let tape = self.state().tape.take().unwrap_or_default();
        Ok(Box::new(Taping { card: self.clone(), tape }))
    }

    fn forget_recording(&self) {
        // What was parked goes with it.
        drop(self.end_recording());
    }
}

/// Bytes of a kernel's parameter, as the C++ side has it; `None` if there is no such kernel.
#[cfg(test)]
pub(crate) fn parameter_bytes(kernel: &str) -> Option<usize> {
    let kernel = CString::new(kernel).ok()?;
    // SAFETY: a string that ends with a zero.
    let bytes = unsafe { impasto_emulated_parameter(kernel.as_ptr()) };
    (bytes > 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use crate::{
        Buffer, Card, Error, Format, Result,
        launch::{Geometry, launch, params},
        pointwise,
    };

    params! {
        /// That of `emulator/wrong.cu`.
        struct WrongParams { values: u64, mistake: u32, length: u32 }
    }

    /// Turns two blocks of 64 numbers around, with one of the mistakes of `emulator/wrong.cu`.
    fn turn_around(mistake: u32) -> Result<Vec<f32>> {
        let numbers: Vec<f32> = (0..128u8).map(f32::from).collect();
        let buffer = Buffer::upload(&Card::emulated(), &numbers, Format::F32)?;
        let params = WrongParams { values: buffer.address(), mistake, length: 128 };
        let geometry = Geometry { grid: [2, 1, 1], threads: 64, shared: 256 };
        let launched = launch(buffer.card(), "turn_around_wrongly", geometry, &params);
        let result = launched.and_then(|()| buffer.download());
        if result.is_err() {
            // It would be found once more when it is released.
            std::mem::forget(buffer);
        }
        result
    }

    fn reason(mistake: u32) -> String {
        match turn_around(mistake) {
            Err(Error::Failed { reason, .. }) => reason,
            other => panic!("mistake {mistake} went unnoticed: {other:?}"),
        }
    }

    /// A recording computes with what its inputs are when it is replayed, in memory of its own.
    #[test]
    fn recorded_work_is_repeated_on_other_numbers() {
        let card = Card::emulated();
        let x = Buffer::upload(&card, &[1.0, 2.0], Format::F32).unwrap();
        let work = || {
            let doubled = pointwise::affine(&x, 2.0, 0.0)?;
            pointwise::add(&doubled, &x)
        };
        let (result, graph) = card.capture(work).unwrap();
        assert_eq!(graph.operations(), 2);
        assert!(result.download().unwrap().iter().all(|number| number.is_nan()), "not run yet");
        for (given, expected) in [([1.0, 2.0], [3.0, 6.0]), ([5.0, -1.0], [15.0, -3.0])] {
            x.write(&given).unwrap();
            let other = Buffer::upload(&card, &[7.0; 2], Format::F32).unwrap();
            graph.replay().unwrap();
            assert_eq!(result.download().unwrap(), expected);
            assert_eq!(other.download().unwrap(), [7.0; 2]);
        }
        let refused = card.capture(|| Buffer::upload(&card, &[1.0], Format::F32)).unwrap_err();
        assert!(refused.contains("a recording holds nothing but kernels"), "{refused}");
        assert_eq!(x.download().unwrap(), [5.0, -1.0], "the card works on");
    }

    #[test]
    fn memory_is_refused_when_it_is_full() {
        let card = Card::emulated_short(None, Some(100));
        let first = Buffer::upload(&card, &[1.0; 20], Format::F32).unwrap();
        let refused = Buffer::upload(&card, &[1.0; 6], Format::F32);
        assert!(matches!(refused, Err(Error::OutOfMemory { wanted: 24 })), "{refused:?}");
        assert_eq!((card.memory().unwrap(), card.peak_bytes()), ((20, 100), 80));
        drop(first);
        assert_eq!((card.memory().unwrap(), card.peak_bytes()), ((100, 100), 80));
        card.reset_peak();
        Buffer::upload(&card, &[1.0; 25], Format::F32).unwrap();
        assert_eq!(card.peak_bytes(), 100);
    }

    #[test]
    fn a_right_kernel_runs() {
        let turned = turn_around(0).unwrap();
        assert_eq!((turned[0], turned[63], turned[64]), (63.0, 0.0, 127.0));
    }

    #[test]
    fn shared_memory_has_fences() {
        assert!(
            reason(1).contains("shared memory was written at byte 256 of 256"),
            "{}",
            reason(1)
        );
    }

    #[test]
    fn every_thread_must_come_to_a_barrier() {
        let two = reason(2);
        assert!(two.contains("thread (32, 0, 0)") && two.contains("others at that in"), "{two}");
        assert!(reason(3).contains("left while others wait"), "{}", reason(3));
    }

    #[test]
    fn what_is_not_waited_for_is_not_there() {
        assert!(turn_around(4).unwrap().iter().all(|x| x.is_nan()));
        assert!(turn_around(5).unwrap().iter().any(|x| x.is_nan()));
    }

    #[test]
    fn accesses_stay_in_buffers_and_are_aligned() {
        assert!(reason(6).contains("of a buffer of 512"), "{}", reason(6));
        assert!(reason(7).contains("no multiple of 16"), "{}", reason(7));
        assert!(reason(9).contains("beside a buffer of 512 bytes"), "{}", reason(9));
    }

    #[test]
    fn a_warp_works_together() {
        assert!(reason(8).contains("others of its warp have left"), "{}", reason(8));
    }

    #[test]
    fn a_launch_is_within_the_limits_of_a_card() {
        let buffer = Buffer::upload(&Card::emulated(), &[0.0; 64], Format::F32).unwrap();
        let params = WrongParams { values: buffer.address(), mistake: 0, length: 64 };
        for (grid, threads, shared) in
            [([1, 1, 1], 1025, 256), ([1, 70_000, 1], 64, 256), ([1, 1, 1], 64, (99 << 10) + 1)]
        {
            let geometry = Geometry { grid, threads, shared };
            launch(buffer.card(), "turn_around_wrongly", geometry, &params).unwrap_err();
        }
    }
}
