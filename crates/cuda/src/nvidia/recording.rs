//! Recorded work: CUDA graphs.
//!
//! Recording is *relaxed*: the driver then allows the recording thread to take memory, which it does at once and
//! does not record. In the stricter ways a single request that the arena cannot serve would break the recording.
//! Nothing else that relaxed recording allows is used: to wait, or to copy to and from the processor, is refused
//! before the driver sees it.
//!
//! Memory comes from an arena of the [pool](crate::pool), which is lent what the run before left there.

use std::{
    fmt,
    ptr::{self, NonNull},
    sync::Arc,
};

use cudarc::driver::sys::{self, CUgraph, CUgraphExec, CUgraphExec_st, CUstreamCaptureMode};

use super::{Device, State, driver::check};
use crate::{Error, Result, backend::Recording, pool::Space};

/// Begins to record what goes into the device's stream.
pub(super) fn begin(device: &Device, state: &mut State) -> Result<()> {
    state.refuse_recording("recording")?;
    let space = state.pool.open();
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    // SAFETY: The device's stream, on which nothing is being recorded.
    let begun = unsafe { sys::cuStreamBeginCapture_v2(device.stream, mode) };
    if let Err(error) = check(begun, || "beginning to record".into()) {
        state.pool.retire(space);
        return Err(error);
    }
    state.recording = Some(space);
    Ok(())
}

/// Ends a recording and forgets it.
pub(super) fn forget(device: &Device, state: &mut State) {
    let Some(space) = state.recording.take() else { return };
    if let Ok(graph) = end_capture(device) {
        // SAFETY: The graph that the driver just gave.
        unsafe { sys::cuGraphDestroy(graph) };
    }
    state.pool.retire(space);
}

fn end_capture(device: &Device) -> Result<CUgraph> {
    let mut graph: CUgraph = ptr::null_mut();
    // SAFETY: Writes one handle; the stream records.
    let ended = unsafe { sys::cuStreamEndCapture(device.stream, &raw mut graph) };
    check(ended, || "ending a recording".into())?;
    if graph.is_null() {
        let reason = "the driver dropped it, because something cannot be recorded".into();
        return Err(Error::Failed { doing: "ending a recording".into(), reason });
    }
    Ok(graph)
}

/// A recording that can run.
pub(super) struct Recorded {
    device: Arc<Device>,
    /// What runs.
    ready: NonNull<CUgraphExec_st>,
    operations: usize,
    space: Space,
}

// SAFETY: The handle is not bound to a thread, and is used behind the device's lock.
unsafe impl Send for Recorded {}
// SAFETY: As above.
unsafe impl Sync for Recorded {}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorded").field("operations", &self.operations).finish_non_exhaustive()
    }
}

impl Recorded {
    /// Ends a recording and makes it ready to run.
    pub(super) fn end(device: &Arc<Device>, state: &mut State) -> Result<Recorded> {
        let doing = "ending a recording";
        let Some(space) = state.recording.take() else {
            return Err(Error::Failed { doing: doing.into(), reason: "none was begun".into() });
        };
        match end_capture(device).and_then(make_ready) {
            Ok((ready, operations)) => {
                state.pool.close(space);
                Ok(Recorded { device: Arc::clone(device), ready, operations, space })
            }
            Err(error) => {
                state.pool.retire(space);
                Err(error)
            }
        }
    }
}

/// Makes what can run, and counts its operations.
fn make_ready(graph: CUgraph) -> Result<(NonNull<CUgraphExec_st>, usize)> {
    let mut operations = 0_usize;
    // SAFETY: Without room for nodes, the driver only counts them.
    unsafe { sys::cuGraphGetNodes(graph, ptr::null_mut(), &raw mut operations) };
    let mut ready: CUgraphExec = ptr::null_mut();
    // SAFETY: Writes one handle; the graph is the driver's and goes behind this.
    let made = unsafe { sys::cuGraphInstantiateWithFlags(&raw mut ready, graph, 0) };
    // SAFETY: What runs does not need what it was made of.
    unsafe { sys::cuGraphDestroy(graph) };
    let doing = || format!("making a recording of {operations} operations ready");
    check(made, doing)?;
    let reason = || Error::Failed { doing: doing(), reason: "the driver gave nothing".into() };
    Ok((NonNull::new(ready).ok_or_else(reason)?, operations))
}

impl Recording for Recorded {
    fn replay(&self) -> Result<()> {
        let _state = self.device.enter()?;
        // SAFETY: The recording is ready, and its arena is nobody else's.
        let queued = unsafe { sys::cuGraphLaunch(self.ready.as_ptr(), self.device.stream) };
        check(queued, || format!("running {} recorded operations", self.operations))
    }

    fn operations(&self) -> usize {
        self.operations
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        let mut state = match self.device.enter() {
            Ok(state) => state,
            Err(_) => self.device.lock(),
        };
        // SAFETY: The recording's own handle, once. Nothing of it runs any more after the wait, unless another
        // recording is under way, which a wait would break: then the driver finishes what is queued first.
        unsafe {
            if state.recording.is_none() {
                sys::cuStreamSynchronize(self.device.stream);
            }
            sys::cuGraphExecDestroy(self.ready.as_ptr());
        }
        state.pool.retire(self.space);
    }
}
