//! NVIDIA cards, through the driver's own library.
//!
//! Nothing here is linked: the libraries are looked for when the program runs (`cudarc`), and each is asked
//! whether it is there before it is used, because a function that is missing is a panic.
//!
//! A card is the driver's primary context with one stream, which does not wait for others. Its state stands
//! behind one lock: what is queued by several threads is queued in some order.

mod driver;
mod libraries;
mod recording;
mod stage;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    ffi::{CString, c_int, c_void},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cudarc::driver::sys::{
    self, CUcontext, CUdevice, CUfunction, CUfunction_attribute as FunctionAttribute, CUmodule,
    CUresult, CUstream, CUstream_flags,
};
use half::{bf16, f16};

use self::{
    driver::{check, words},
    libraries::Libraries,
    recording::Recorded,
    stage::Ring,
};
use crate::{
    CardInfo, Error, Format, Result,
    backend::{Backend, Launch, ProductJob, Recording},
    pool::{Pool, Source, Space},
};

/// Bytes at an address that the driver may read as numbers.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

// MODULES: the names of the kernels' files, and what nvcc made of them for all cards.
include!(concat!(env!("OUT_DIR"), "/nvidia.rs"));

/// Dynamic shared memory that a kernel may have without asking.
const SHARED_UNASKED: u32 = 48 << 10;

/// The cards, or why there are none: a clause.
pub(crate) fn list() -> Result<Vec<CardInfo>, String> {
    driver::list()
}

/// A card of NVIDIA's with its queue.
#[derive(Debug)]
pub(crate) struct Nvidia(Arc<Device>);

struct Device {
    name: String,
    handle: CUdevice,
    context: CUcontext,
    stream: CUstream,
    modules: Vec<CUmodule>,
    state: Mutex<State>,
}

/// What the operations change.
struct State {
    pool: Pool<Memory>,
    ring: Ring,
    functions: HashMap<String, Function>,
    /// Where the running recording allocates.
    recording: Option<Space>,
    libraries: Libraries,
    /// Copies of biases in 16 bits, by the address of the original: libraries take no others.
    biases: BTreeMap<u64, Bias>,
}

#[derive(Clone, Copy)]
struct Function {
    handle: CUfunction,
    /// The most dynamic shared memory that it was allowed.
    shared: u32,
}

#[derive(Clone, Copy)]
struct Bias {
    address: u64,
    len: usize,
    format: Format,
}

// SAFETY: The driver's handles are not bound to a thread, as long as the context is current where they are
// used, which `enter` sees to. What changes is behind the lock.
unsafe impl Send for Device {}
// SAFETY: As above.
unsafe impl Sync for Device {}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The driver's memory.
#[derive(Debug)]
struct Memory {
    stream: CUstream,
}

impl Source for Memory {
    fn take(&mut self, bytes: usize) -> Result<u64> {
        let mut address = 0;
        // SAFETY: Writes one address; whoever holds the pool's lock has entered the context.
        match unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes) } {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => Err(Error::OutOfMemory { wanted: bytes }),
            result => {
                check(result, || format!("taking {bytes} bytes of memory"))?;
                Ok(address)
            }
        }
    }

    fn give(&mut self, address: u64, _bytes: usize) {
        // SAFETY: The pool gives back what it took, once. On a card that has stopped it fails, and nothing can
        // be done about that.
        unsafe { sys::cuMemFree_v2(address) };
    }

    fn settle(&mut self) {
        // SAFETY: The device's stream. Errors of the work come back at the next call.
        unsafe { sys::cuStreamSynchronize(self.stream) };
    }
}

impl Nvidia {
    /// Begins to use a card.
    ///
    /// # Errors
    /// [`Error::Unusable`], with the reason.
    pub(crate) fn open(index: usize) -> Result<Nvidia> {
        let cards = list().map_err(Error::Unusable)?;
        let Some(info) = cards.get(index) else {
            let last = cards.len().saturating_sub(1);
            return Err(Error::Unusable(format!(
                "there is no NVIDIA card {index}; choose one from 0 to {last}"
            )));
        };
        if let Some(reason) = &info.unusable {
            return Err(Error::Unusable(reason.clone()));
        }
        let number = c_int::try_from(index).unwrap_or(c_int::MAX);
        // cudarc panics where the driver lacks a function.
        catch_unwind(AssertUnwindSafe(|| Device::open(number, &info.name)))
            .unwrap_or_else(|_| {
                Err(Error::Unusable(
                    "the NVIDIA driver lacks what this program needs; install its newest version"
                        .into(),
                ))
            })
            .map(|device| Nvidia(Arc::new(device)))
    }

    /// The state, with the context current on this thread.
    fn enter(&self) -> Result<MutexGuard<'_, State>> {
        self.0.enter()
    }
}

impl Device {
    fn open(index: c_int, name: &str) -> Result<Device> {
        let doing = || format!("opening the {name}");
        let mut device = Device {
            name: name.to_owned(),
            handle: driver::device(index)
                .map_err(|error| Error::Failed { doing: doing(), reason: words(error) })?,
            context: ptr::null_mut(),
            stream: ptr::null_mut(),
            modules: Vec::new(),
            state: Mutex::new(State {
                pool: Pool::new(Memory { stream: ptr::null_mut() }),
                ring: Ring::new(),
                functions: HashMap::new(),
                recording: None,
                libraries: Libraries::none(),
                biases: BTreeMap::new(),
            }),
        };
        // SAFETY: Writes one handle. From here on, dropping the device gives back what there is of it.
        let kept = unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut device.context, device.handle) };
        check(kept, doing)?;
        // SAFETY: The context was retained.
        check(unsafe { sys::cuCtxSetCurrent(device.context) }, doing)?;
        let flags = CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: Writes one handle; the context is current.
        check(unsafe { sys::cuStreamCreate(&raw mut device.stream, flags) }, doing)?;
        for (kernels, image) in MODULES {
            let mut module: CUmodule = ptr::null_mut();
            // SAFETY: The image is what nvcc made, whole and aligned.
            let loaded = unsafe {
                sys::cuModuleLoadData(&raw mut module, image.0.as_ptr().cast::<c_void>())
            };
            check(loaded, || format!("loading the kernels `{kernels}`"))?;
            device.modules.push(module);
        }
        let stream = device.stream;
        let state = device.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.pool = Pool::new(Memory { stream });
        state.libraries = Libraries::find(stream);
        Ok(device)
    }

    fn enter(&self) -> Result<MutexGuard<'_, State>> {
        // SAFETY: The context lives as long as the device.
        check(unsafe { sys::cuCtxSetCurrent(self.context) }, || {
            format!("using the {}", self.name)
        })?;
        Ok(self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic behind the lock leaves whole values: each change is one assignment, or the pool's, which
        // does not panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A kernel by its name, with as much dynamic shared memory as it asks for.
    fn function(&self, state: &mut State, launch: &Launch<'_>) -> Result<CUfunction> {
        let doing = || format!("preparing the kernel `{}`", launch.kernel);
        let mut function = match state.functions.get(launch.kernel) {
            Some(function) => *function,
            None => Function { handle: self.look_up(launch.kernel)?, shared: SHARED_UNASKED },
        };
        if launch.shared > function.shared {
            let wanted = c_int::try_from(launch.shared).unwrap_or(c_int::MAX);
            let attribute = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: A function of a module that is loaded.
            check(unsafe { sys::cuFuncSetAttribute(function.handle, attribute, wanted) }, doing)?;
            function.shared = launch.shared;
        } else if state.functions.contains_key(launch.kernel) {
            return Ok(function.handle);
        }
        state.functions.insert(launch.kernel.to_owned(), function);
        Ok(function.handle)
    }

    fn look_up(&self, kernel: &str) -> Result<CUfunction> {
        let doing = || format!("preparing the kernel `{kernel}`");
        let failed = |reason: &str| Error::Failed { doing: doing(), reason: reason.into() };
        let name = CString::new(kernel).map_err(|_| failed("its name holds a zero"))?;
        for module in &self.modules {
            let mut handle: CUfunction = ptr::null_mut();
            // SAFETY: Writes one handle; the module is loaded and the name ends with a zero.
            match unsafe { sys::cuModuleGetFunction(&raw mut handle, *module, name.as_ptr()) } {
                CUresult::CUDA_ERROR_NOT_FOUND => {}
                result => {
                    check(result, doing)?;
                    return Ok(handle);
                }
            }
        }
        Err(failed("no file of kernels has it"))
    }

    /// Queues a kernel. The context is current.
    fn start(&self, function: CUfunction, launch: &Launch<'_>) -> CUresult {
        let [grid_x, grid_y, grid_z] = launch.grid;
        let [block_x, block_y, block_z] = launch.block;
        // One parameter, which the driver copies before it returns.
        let mut params = [launch.params.as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: The function launching a kernel writes its parameter as the kernel declares it, with addresses
        // of buffers that are large enough. The driver only reads the parameter.
        unsafe {
            sys::cuLaunchKernel(
                function,
                grid_x,
                grid_y,
                grid_z,
                block_x,
                block_y,
                block_z,
                launch.shared,
                self.stream,
                params.as_mut_ptr(),
                ptr::null_mut(),
            )
        }
    }

    /// A bias in the format of its layer, which is what libraries take. Made once for each bias, by way of the
    /// processor: it is some kilobytes, and waits for the card once. `None` during a recording, which cannot wait.
    fn bias(
        &self,
        state: &mut State,
        original: u64,
        len: usize,
        format: Format,
    ) -> Result<Option<u64>> {
        if format == Format::F32 {
            return Ok(Some(original));
        }
        if let Some(bias) = state.biases.get(&original)
            && (bias.len, bias.format) == (len, format)
        {
            return Ok(Some(bias.address));
        }
        if state.recording.is_some() {
            return Ok(None);
        }
        let mut numbers = vec![0_u8; len * 4];
        self.fetch(original, &mut numbers)?;
        let values = numbers
            .chunks_exact(4)
            .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]));
        let rounded: Vec<u8> = if format == Format::F16 {
            values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect()
        } else {
            values.flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect()
        };
        let address = state.pool.allocate(rounded.len())?;
        // SAFETY: The context is current, and the block is as large as the numbers.
        let copied = unsafe { state.ring.copy(self.stream, address, &rounded) };
        if let Err(error) = copied {
            state.pool.release(address);
            return Err(error);
        }
        if let Some(old) = state.biases.insert(original, Bias { address, len, format }) {
            state.pool.release(old.address);
        }
        Ok(Some(address))
    }

    /// Copies from the card and waits. The context is current.
    fn fetch(&self, from: u64, to: &mut [u8]) -> Result<()> {
        if to.is_empty() {
            return Ok(());
        }
        let doing = || format!("copying {} bytes from the card", to.len());
        // SAFETY: The caller's block is as large as the slice, which outlives the copy: the next line waits.
        let queued = unsafe {
            sys::cuMemcpyDtoHAsync_v2(to.as_ptr().cast_mut().cast(), from, to.len(), self.stream)
        };
        check(queued, doing)?;
        // SAFETY: The device's stream.
        check(unsafe { sys::cuStreamSynchronize(self.stream) }, doing)
    }
}

impl State {
    /// Forgets the copies of biases that lie in a range, whose numbers change.
    fn forget_biases(&mut self, from: u64, bytes: usize) {
        let range = from..from + bytes as u64;
        while let Some((original, bias)) =
            self.biases.range(range.clone()).next().map(|(o, b)| (*o, *b))
        {
            self.biases.remove(&original);
            self.pool.release(bias.address);
        }
    }

    /// Refuses what a recording cannot hold.
    fn refuse_recording(&self, doing: &str) -> Result<()> {
        match self.recording {
            None => Ok(()),
            Some(_) => Err(Error::Failed {
                doing: doing.into(),
                reason: "work is being recorded, which holds no copies to or from the processor"
                    .into(),
            }),
        }
    }
}

fn describe(launch: &Launch<'_>) -> String {
    format!("launching `{}` on {:?} x {:?}", launch.kernel, launch.grid, launch.block)
}

impl Backend for Nvidia {
    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.enter()?.pool.allocate(bytes)
    }

    fn release(&self, address: u64, bytes: usize) {
        // Buffers are also dropped after the card has stopped: what can be done is done.
        let mut state = match self.enter() {
            Ok(state) => state,
            Err(_) => self.0.lock(),
        };
        state.forget_biases(address, bytes);
        state.pool.release(address);
    }

    fn copy_in(&self, to: u64, from: &[u8]) -> Result<()> {
        let mut state = self.enter()?;
        state.refuse_recording("copying to the card")?;
        state.forget_biases(to, from.len());
        // SAFETY: The context is current; a buffer's block is as large as what is copied to it.
        unsafe { state.ring.copy(self.0.stream, to, from) }
    }

    fn copy_out(&self, from: u64, to: &mut [u8]) -> Result<()> {
        let state = self.enter()?;
        state.refuse_recording("copying from the card")?;
        self.0.fetch(from, to)
    }

    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        let _state = self.enter()?;
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: Both are blocks of the pool, at least as large.
        let queued = unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, self.0.stream) };
        check(queued, || format!("copying {bytes} bytes within the card"))
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let mut state = self.enter()?;
        let function = self.0.function(&mut state, launch)?;
        let queued = self.0.start(function, launch);
        if queued != CUresult::CUDA_ERROR_OUT_OF_MEMORY || state.recording.is_some() {
            return check(queued, || describe(launch));
        }
        // A kernel may need memory of the driver's own, which the pool has.
        state.pool.give_back();
        check(self.0.start(function, launch), || describe(launch))
    }

    fn product(&self, job: &ProductJob) -> Option<Result<()>> {
        let mut state = match self.enter() {
            Ok(state) => state,
            Err(error) => return Some(Err(error)),
        };
        libraries::product(&self.0, &mut state, job)
    }

    fn memory(&self) -> Result<(u64, u64)> {
        let state = self.enter()?;
        let (mut free, mut total) = (0_usize, 0_usize);
        // SAFETY: Writes two numbers.
        let told = unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) };
        check(told, || "asking for the card's memory".into())?;
        Ok(((free + state.pool.idle()) as u64, total as u64))
    }

    fn wait(&self) -> Result<()> {
        let state = self.enter()?;
        state.refuse_recording("waiting for the card")?;
        // SAFETY: The device's stream.
        check(unsafe { sys::cuStreamSynchronize(self.0.stream) }, || "computing".into())
    }

    fn peak_bytes(&self) -> u64 {
        self.0.lock().pool.peak() as u64
    }

    fn reset_peak(&self) {
        self.0.lock().pool.reset_peak();
    }

    fn give_back(&self) {
        if let Ok(mut state) = self.enter() {
            state.pool.give_back();
        }
    }

    fn libraries(&self) -> String {
        self.0.lock().libraries.names()
    }

    fn begin_recording(&self) -> Result<bool> {
        let mut state = self.enter()?;
        recording::begin(&self.0, &mut state)?;
        Ok(true)
    }

    fn end_recording(&self) -> Result<Box<dyn Recording>> {
        let mut state = self.enter()?;
        Ok(Box::new(Recorded::end(&self.0, &mut state)?))
    }

    fn forget_recording(&self) {
        if let Ok(mut state) = self.enter() {
            recording::forget(&self.0, &mut state);
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.context.is_null() {
            return;
        }
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: All handles are the device's own. Buffers and recordings hold it, so there are none any more,
        // and nothing is used after this. What fails on a card that has stopped is left to the driver.
        unsafe {
            sys::cuCtxSetCurrent(self.context);
            if !self.stream.is_null() {
                sys::cuStreamSynchronize(self.stream);
                state.libraries.close();
                state.ring.clear();
                state.pool.clear();
            }
            for module in self.modules.drain(..) {
                sys::cuModuleUnload(module);
            }
            if !self.stream.is_null() {
                sys::cuStreamDestroy_v2(self.stream);
            }
            sys::cuDevicePrimaryCtxRelease_v2(self.handle);
        }
    }
}
