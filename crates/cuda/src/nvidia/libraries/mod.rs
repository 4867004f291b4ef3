//! The maker's libraries: cuBLASLt for linear layers, cuDNN for convolutions.
//!
//! They are faster than our own kernels where they have a shape ready, and nothing needs them. Whatever a library
//! does not take, or fails at, is left to our own kernel; a shape that it refused once is not asked for again.
//! `IMPASTO_CUDA_LIBRARIES=off` leaves everything to our own.
//!
//! A library rounds a bias to the format of its layer, in 16 bits too. All else is as in our own kernels: sums in
//! f32 without TF32, one rounding of the result, and partial sums that are kept in f32.

mod convolution;
mod linear;

use std::{
    collections::HashMap,
    ffi::c_void,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
};

use cudarc::driver::sys::CUstream;

use self::{convolution::Convolutions, linear::Linears};
use super::{Device, State};
use crate::{
    Format, Result, Window,
    backend::ProductJob,
    pool::{Pool, Source},
    product::Activation,
};

/// The variable that turns the libraries off, with the value `off`.
pub(super) const SWITCH: &str = "IMPASTO_CUDA_LIBRARIES";

/// Memory that both may compute in, taken at the first use and kept.
const WORKSPACE: usize = 32 << 20;
/// The most that one convolution may have beside it.
const LARGEST_WORKSPACE: usize = 512 << 20;

/// The libraries that are there.
pub(super) struct Libraries {
    linears: Option<Linears>,
    convolutions: Option<Convolutions>,
    /// Address of what both compute in; they run one after the other.
    workspace: Option<u64>,
}

impl Libraries {
    /// None of them.
    pub(super) fn none() -> Libraries {
        Libraries { linears: None, convolutions: None, workspace: None }
    }

    /// Those that are there and can be used. The context is current.
    pub(super) fn find(stream: CUstream) -> Libraries {
        if std::env::var(SWITCH).is_ok_and(|value| value == "off") {
            return Libraries::none();
        }
        // cudarc panics where a library lacks a function.
        let linears = catch_unwind(|| Linears::find(stream)).ok().flatten();
        let convolutions = catch_unwind(|| Convolutions::find(stream)).ok().flatten();
        Libraries { linears, convolutions, workspace: None }
    }

    /// Those that are in use, for people.
    pub(super) fn names(&self) -> String {
        let linears = self.linears.as_ref().map(|found| format!("cuBLASLt {}", found.version()));
        let convolutions =
            self.convolutions.as_ref().map(|found| format!("cuDNN {}", found.version()));
        let names: Vec<String> = linears.into_iter().chain(convolutions).collect();
        if names.is_empty() { "own kernels only".into() } else { names.join(", ") }
    }

    /// Lets go of them. Nothing of theirs runs any more.
    pub(super) fn close(&mut self) {
        let closing = AssertUnwindSafe(|| {
            self.linears.take();
            self.convolutions.take();
        });
        // Whatever a library does at its end, the rest of the card is given back.
        drop(catch_unwind(closing));
    }
}

/// 91002 is "9.10.2".
fn version_name(version: usize) -> String {
    format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}

/// What a library is asked for once for all products of the same kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    format: Format,
    /// Batch, height, width and channels of the input.
    input: [i32; 4],
    /// Batch, height, width and channels of the output.
    output: [i32; 4],
    kernel: i32,
    stride: i32,
    border: i32,
    bias: bool,
    residual: bool,
    relu: bool,
    /// What all addresses are multiples of, up to 256.
    alignment: u32,
}

impl Kind {
    /// `None` for jobs with something that no library does.
    fn of(job: &ProductJob) -> Option<Kind> {
        let relu = match job.activation {
            None => false,
            // The libraries apply it behind everything, and we do before the residual.
            Some(Activation::Relu) if job.residual.is_none() => true,
            Some(_) => return None,
        };
        if job.doubled.is_some()
            || job.image_rows.is_some()
            || job.window.before != job.window.after
            || job.output_size.channels != job.outputs
        {
            return None;
        }
        let four = |numbers: [usize; 4]| {
            let mut whole = [0; 4];
            for (to, from) in whole.iter_mut().zip(numbers) {
                *to = i32::try_from(from).ok().filter(|number| *number > 0)?;
            }
            Some(whole)
        };
        let (size, out) = (job.size, job.output_size);
        let addresses = job.input | job.weights | job.output | job.residual.unwrap_or_default();
        Some(Kind {
            format: job.format,
            input: four([size.batch, size.height, size.width, size.channels])?,
            output: four([out.batch, out.height, out.width, out.channels])?,
            kernel: i32::try_from(job.window.kernel).ok()?,
            stride: i32::try_from(job.window.stride).ok()?,
            border: i32::try_from(job.window.before).ok()?,
            bias: job.bias.is_some(),
            residual: job.residual.is_some(),
            relu,
            alignment: 1 << addresses.trailing_zeros().min(8),
        })
    }
}

/// The addresses of one product, with the bias in the format that libraries take.
struct Addresses {
    input: u64,
    weights: u64,
    bias: Option<u64>,
    residual: Option<u64>,
    output: u64,
    workspace: u64,
}

/// An address of the card's, as the libraries take it.
fn pointer(address: u64) -> *mut c_void {
    ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or_default())
}

/// What a library knows of each kind of products that it was asked for. `None`: it does not do them.
struct Plans<P>(HashMap<Kind, Option<P>>);

impl<P> Plans<P> {
    fn new() -> Plans<P> {
        Plans(HashMap::new())
    }

    /// The plan of a kind, made at the first question.
    fn get(&mut self, kind: Kind, make: impl FnOnce() -> Option<P>) -> Option<&P> {
        // Tensor cores want 16 bytes at once, and the libraries' tables assume it.
        let make = || if kind.alignment < 16 { None } else { make() };
        self.0.entry(kind).or_insert_with(make).as_ref()
    }

    /// Queues a product by its plan. False if it was refused: then it is not asked for again.
    fn queue<E>(&mut self, kind: Kind, queue: impl FnOnce(&P) -> Result<(), E>) -> bool {
        let Some(Some(plan)) = self.0.get(&kind) else { return false };
        let done = queue(plan).is_ok();
        if !done {
            self.0.insert(kind, None);
        }
        done
    }
}

/// Queues a product with a library, or leaves it.
pub(super) fn product(device: &Device, state: &mut State, job: &ProductJob) -> Option<Result<()>> {
    let linear = job.window == Window::PIXEL;
    let there = if linear {
        state.libraries.linears.is_some()
    } else {
        state.libraries.convolutions.is_some()
    };
    if !there {
        return None;
    }
    let kind = Kind::of(job)?;
    // A library that is too old or too new lacks a function, which shows at the first use.
    let queued = catch_unwind(AssertUnwindSafe(|| queue(device, state, job, kind)));
    queued.unwrap_or_else(|_| {
        if linear {
            state.libraries.linears = None;
        } else {
            state.libraries.convolutions = None;
        }
        None
    })
}

fn queue(device: &Device, state: &mut State, job: &ProductJob, kind: Kind) -> Option<Result<()>> {
    let needed = if job.window == Window::PIXEL {
        state.libraries.linears.as_mut()?.prepare(kind)?
    } else {
        state.libraries.convolutions.as_mut()?.prepare(kind)?
    };
    let bias = match job.bias {
        None => None,
        Some(original) => match device.bias(state, original, job.outputs, job.format) {
            Ok(bias) => Some(bias?),
            Err(error) => return Some(Err(error)),
        },
    };
    let workspace = take_workspace(&mut state.pool, &mut state.libraries.workspace, needed)?;
    let addresses = Addresses {
        input: job.input,
        weights: job.weights,
        bias,
        residual: job.residual,
        output: job.output,
        workspace,
    };
    let done = if job.window == Window::PIXEL {
        state.libraries.linears.as_mut()?.queue(kind, &addresses)
    } else {
        state.libraries.convolutions.as_mut()?.queue(kind, &addresses)
    };
    if Some(workspace) != state.libraries.workspace {
        // Whoever gets it next writes to it behind this product.
        state.pool.release(workspace);
    }
    done.then_some(Ok(()))
}

/// Memory for a product to compute in: the common one, or more for this product. `None` if there is none left.
fn take_workspace<S: Source>(
    pool: &mut Pool<S>,
    common: &mut Option<u64>,
    needed: usize,
) -> Option<u64> {
    if needed > LARGEST_WORKSPACE {
        return None;
    }
    if needed > WORKSPACE {
        return pool.allocate(needed).ok();
    }
    if common.is_none() && !pool.in_arena() {
        *common = pool.allocate(WORKSPACE).ok();
    }
    match *common {
        Some(address) => Some(address),
        // What an arena gives is the recording's alone, so it is for this product only.
        None => pool.allocate(needed).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Size;

    fn job() -> ProductJob {
        ProductJob {
            format: Format::F16,
            input: 0x1000,
            size: Size { batch: 2, height: 64, width: 64, channels: 320 },
            doubled: None,
            window: Window { kernel: 3, stride: 1, before: 1, after: 1 },
            weights: 0x2000,
            outputs: 320,
            bias: Some(0x3000),
            image_rows: None,
            activation: None,
            residual: Some(0x4000),
            output: 0x5000,
            output_size: Size { batch: 2, height: 64, width: 64, channels: 320 },
        }
    }

    #[test]
    fn libraries_take_what_they_do_whole() {
        let kind = Kind::of(&job()).expect("cuDNN does bias and residual");
        assert_eq!((kind.alignment, kind.relu, kind.bias, kind.residual), (256, false, true, true));
        assert!(Kind::of(&ProductJob { activation: Some(Activation::Silu), ..job() }).is_none());
        assert!(Kind::of(&ProductJob { activation: Some(Activation::Relu), ..job() }).is_none());
        assert!(Kind::of(&ProductJob { image_rows: Some(0x6000), ..job() }).is_none());
        assert!(Kind::of(&ProductJob { doubled: Some((128, 128)), ..job() }).is_none());
        let window = Window { kernel: 3, stride: 2, before: 0, after: 1 };
        assert!(Kind::of(&ProductJob { window, ..job() }).is_none());
        let relu = ProductJob { activation: Some(Activation::Relu), residual: None, ..job() };
        assert!(Kind::of(&relu).is_some_and(|kind| kind.relu));
        assert_eq!(
            Kind::of(&ProductJob { input: 0x1010, ..job() }).map(|kind| kind.alignment),
            Some(16)
        );
    }

    #[test]
    fn versions_read_as_people_write_them() {
        assert_eq!(version_name(91_002), "9.10.2");
        assert_eq!(version_name(130_100), "13.1.0");
    }
}
