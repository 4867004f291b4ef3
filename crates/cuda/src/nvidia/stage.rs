//! Copies to the card by way of memory that the card can read itself.
//!
//! A copy from ordinary memory makes the driver copy twice and wait. From a stage that is locked into memory the
//! card fetches alone, so the next part is copied to another stage while the last one is on its way.

use std::{
    ffi::c_void,
    ptr::{self, NonNull},
};

use cudarc::driver::sys::{self, CUevent, CUevent_flags, CUstream};

use super::driver::check;
use crate::Result;

/// As large as one copy is cut.
const STAGE: usize = 8 << 20;
/// One is filled, one is fetched from, and one is there so that neither waits for the other.
const STAGES: usize = 3;

struct Stage {
    memory: NonNull<u8>,
    /// When the last copy from it has been fetched.
    fetched: CUevent,
}

/// Stages that are used in turn.
pub(super) struct Ring {
    stages: Vec<Stage>,
    next: usize,
    /// Whether the system refused locked memory: copies go without it.
    refused: bool,
}

// SAFETY: Stages and events are not bound to a thread; the ring is used behind a lock.
unsafe impl Send for Ring {}

impl Ring {
    pub(super) fn new() -> Ring {
        Ring { stages: Vec::new(), next: 0, refused: false }
    }

    /// Queues a copy. `from` may change as soon as this returns.
    ///
    /// # Safety
    /// The stream's context is current, and `to` is the card's memory, as large as `from` at least.
    pub(super) unsafe fn copy(&mut self, stream: CUstream, to: u64, from: &[u8]) -> Result<()> {
        if self.stages.is_empty() && !self.refused {
            self.refused = self.fill().is_err();
        }
        if self.refused {
            let doing = || format!("copying {} bytes to the card", from.len());
            // SAFETY: The driver reads as many bytes as there are, and has read them when the stream is done.
            let queued =
                unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.as_ptr().cast(), from.len(), stream) };
            check(queued, doing)?;
            // SAFETY: The caller's stream.
            return check(unsafe { sys::cuStreamSynchronize(stream) }, doing);
        }
        for (index, part) in from.chunks(STAGE).enumerate() {
            let doing = || format!("copying {} bytes to the card", from.len());
            let stage = &self.stages[self.next];
            self.next = (self.next + 1) % STAGES;
            // SAFETY: The ring's own event. One that was never recorded has happened.
            check(unsafe { sys::cuEventSynchronize(stage.fetched) }, doing)?;
            // SAFETY: A stage is as large as the largest part, and the card has read it: the event said so.
            unsafe { ptr::copy_nonoverlapping(part.as_ptr(), stage.memory.as_ptr(), part.len()) };
            let target = to + (index * STAGE) as u64;
            // SAFETY: The stage is left alone until the event behind the copy has happened.
            let queued = unsafe {
                sys::cuMemcpyHtoDAsync_v2(target, stage.memory.as_ptr().cast(), part.len(), stream)
            };
            check(queued, doing)?;
            // SAFETY: The ring's own event and the caller's stream.
            check(unsafe { sys::cuEventRecord(stage.fetched, stream) }, doing)?;
        }
        Ok(())
    }

    /// Takes the stages from the system.
    fn fill(&mut self) -> Result<()> {
        for _ in 0..STAGES {
            let doing = || "locking memory to copy from".to_owned();
            let mut memory: *mut c_void = ptr::null_mut();
            // SAFETY: Writes one address.
            let locked = unsafe { sys::cuMemHostAlloc(&raw mut memory, STAGE, 0) };
            if let Err(error) = check(locked, doing) {
                self.clear();
                return Err(error);
            }
            let mut fetched: CUevent = ptr::null_mut();
            let flags = CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
            // SAFETY: Writes one handle.
            let made = unsafe { sys::cuEventCreate(&raw mut fetched, flags) };
            let stage = NonNull::new(memory.cast::<u8>());
            match (check(made, doing), stage) {
                (Ok(()), Some(memory)) => self.stages.push(Stage { memory, fetched }),
                (made, _) => {
                    // SAFETY: What was taken above, and nothing reads it.
                    unsafe { sys::cuMemFreeHost(memory) };
                    self.clear();
                    return made;
                }
            }
        }
        Ok(())
    }

    /// Gives the stages back. The context is current, and no copy is on its way.
    pub(super) fn clear(&mut self) {
        for stage in self.stages.drain(..) {
            // SAFETY: The ring's own memory and event, which nothing uses any more.
            unsafe {
                sys::cuEventDestroy_v2(stage.fetched);
                sys::cuMemFreeHost(stage.memory.as_ptr().cast());
            }
        }
    }
}
