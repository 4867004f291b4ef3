//! Convolutions by cuDNN, channels last.
//!
//! One call does convolution, bias and residual, in one way: `IMPLICIT_PRECOMP_GEMM`, the only one that ends
//! without an activation, and one that gives the same bits each time.

use std::ptr::NonNull;

use cudarc::{
    cudnn::{
        result::{self, CudnnError},
        sys::{
            self, cudnnActivationMode_t as Activation, cudnnConvolutionFwdAlgo_t as Algorithm,
            cudnnConvolutionMode_t as Mode, cudnnDataType_t as Number, cudnnHandle_t,
            cudnnMathType_t as Math, cudnnNanPropagation_t as Nan, cudnnTensorFormat_t as Order,
        },
    },
    driver::sys::CUstream,
};

use super::{Addresses, Kind, Plans, pointer, version_name};
use crate::Format;

/// The oldest library whose answers the bindings know.
const OLDEST: usize = 90_000;
/// The way that is taken.
const ALGORITHM: Algorithm = Algorithm::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;

/// The library with what it knows of each kind of convolutions.
pub(super) struct Convolutions {
    handle: cudnnHandle_t,
    version: usize,
    plans: Plans<Plan>,
}

// SAFETY: The handles are not bound to a thread; they are used behind the device's lock.
unsafe impl Send for Convolutions {}

struct Plan {
    input: Tensor,
    output: Tensor,
    /// What lies like the bias: one number for each channel.
    bias: Tensor,
    weights: Weights,
    movement: Movement,
    end: End,
    workspace: usize,
}

impl Convolutions {
    /// The library, if it is there. The context is current.
    pub(super) fn find(stream: CUstream) -> Option<Convolutions> {
        // SAFETY: Loads the library, whose constructors are sound to run.
        if !unsafe { sys::is_culib_present() } {
            return None;
        }
        let version = result::get_version();
        if version < OLDEST {
            return None;
        }
        let found = Convolutions {
            // It loads further libraries, and fails if they are missing.
            handle: result::create_handle().ok()?,
            version,
            plans: Plans::new(),
        };
        // SAFETY: Both handles are there.
        unsafe { result::set_stream(found.handle, stream.cast()) }.ok()?;
        Some(found)
    }

    pub(super) fn version(&self) -> String {
        version_name(self.version)
    }

    /// Asks whether it does a kind of convolutions. Bytes of memory that it needs beside, or `None` if not.
    pub(super) fn prepare(&mut self, kind: Kind) -> Option<usize> {
        let handle = self.handle;
        self.plans.get(kind, || Plan::ask(handle, kind).ok()).map(|plan| plan.workspace)
    }

    /// Queues a convolution. False if it was refused: then it is not asked again.
    pub(super) fn queue(&mut self, kind: Kind, addresses: &Addresses) -> bool {
        let handle = self.handle;
        self.plans.queue(kind, |plan| plan.queue(handle, addresses))
    }
}

impl Drop for Convolutions {
    fn drop(&mut self) {
        self.plans = Plans::new();
        // SAFETY: The handle is our own, and nothing of it runs any more. A failure leaves nothing to do.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Plan {
    fn ask(handle: cudnnHandle_t, kind: Kind) -> Result<Plan, CudnnError> {
        let number = match kind.format {
            Format::F32 => Number::CUDNN_DATA_FLOAT,
            Format::F16 => Number::CUDNN_DATA_HALF,
            Format::Bf16 => Number::CUDNN_DATA_BFLOAT16,
        };
        let channels_first =
            |[batch, height, width, channels]: [i32; 4]| [batch, channels, height, width];
        let outputs = kind.output[3];
        let input = Tensor::new(number, channels_first(kind.input))?;
        let output = Tensor::new(number, channels_first(kind.output))?;
        let bias = Tensor::new(number, [1, outputs, 1, 1])?;
        let weights = Weights::new(number, [outputs, kind.input[3], kind.kernel, kind.kernel])?;
        let movement = Movement::new(kind)?;
        let end = End::new(kind.relu)?;
        // SAFETY: All are made above and live.
        let workspace = unsafe {
            result::get_convolution_forward_workspace_size(
                handle,
                input.0.as_ptr(),
                weights.0.as_ptr(),
                movement.0.as_ptr(),
                output.0.as_ptr(),
                ALGORITHM,
            )
        }?;
        Ok(Plan { input, output, bias, weights, movement, end, workspace })
    }

    fn queue(&self, handle: cudnnHandle_t, addresses: &Addresses) -> Result<(), CudnnError> {
        let (one, none) = (1_f32, 0_f32);
        let Some(bias) = addresses.bias else {
            if addresses.residual.is_some() {
                // Without a bias there is no call that adds.
                return Err(CudnnError(sys::cudnnStatus_t::CUDNN_STATUS_NOT_SUPPORTED));
            }
            // SAFETY: The descriptors say how the job's buffers lie, and the workspace is as large as was asked
            // for. Both factors are read before this returns.
            return unsafe {
                result::convolution_forward(
                    handle,
                    (&raw const one).cast(),
                    self.input.0.as_ptr(),
                    pointer(addresses.input),
                    self.weights.0.as_ptr(),
                    pointer(addresses.weights),
                    self.movement.0.as_ptr(),
                    ALGORITHM,
                    pointer(addresses.workspace),
                    self.workspace,
                    (&raw const none).cast(),
                    self.output.0.as_ptr(),
                    pointer(addresses.output),
                )
            };
        };
        let kept = if addresses.residual.is_some() { one } else { none };
        let residual = addresses.residual.unwrap_or(addresses.output);
        // SAFETY: As above.
        unsafe {
            result::convolution_bias_activation_forward(
                handle,
                (&raw const one).cast(),
                self.input.0.as_ptr(),
                pointer(addresses.input),
                self.weights.0.as_ptr(),
                pointer(addresses.weights),
                self.movement.0.as_ptr(),
                ALGORITHM,
                pointer(addresses.workspace),
                self.workspace,
                (&raw const kept).cast(),
                self.output.0.as_ptr(),
                pointer(residual),
                self.bias.0.as_ptr(),
                pointer(bias),
                self.end.0.as_ptr(),
                self.output.0.as_ptr(),
                pointer(addresses.output),
            )
        }
    }
}

/// The library said that it made something, and there is nothing.
const NOTHING: CudnnError = CudnnError(sys::cudnnStatus_t::CUDNN_STATUS_ALLOC_FAILED);

/// How numbers lie: channels last.
struct Tensor(NonNull<sys::cudnnTensorStruct>);

impl Tensor {
    fn new(number: Number, size: [i32; 4]) -> Result<Tensor, CudnnError> {
        let made = NonNull::new(result::create_tensor_descriptor()?).map(Tensor).ok_or(NOTHING)?;
        let order = Order::CUDNN_TENSOR_NHWC;
        // SAFETY: Made above.
        unsafe { result::set_tensor4d_descriptor(made.0.as_ptr(), order, number, size) }?;
        Ok(made)
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        // SAFETY: Our own, once. A failure leaves nothing to do.
        let _ = unsafe { result::destroy_tensor_descriptor(self.0.as_ptr()) };
    }
}

/// How weights lie: `(outputs, kernel, kernel, channels)`.
struct Weights(NonNull<sys::cudnnFilterStruct>);

impl Weights {
    fn new(
        number: Number,
        [outputs, channels, height, width]: [i32; 4],
    ) -> Result<Weights, CudnnError> {
        let made = NonNull::new(result::create_filter_descriptor()?).map(Weights).ok_or(NOTHING)?;
        let order = Order::CUDNN_TENSOR_NHWC;
        let size = [outputs, channels, height, width];
        // SAFETY: Made above.
        unsafe { result::set_filter4d_descriptor(made.0.as_ptr(), number, order, size) }?;
        Ok(made)
    }
}

impl Drop for Weights {
    fn drop(&mut self) {
        // SAFETY: Our own, once. A failure leaves nothing to do.
        let _ = unsafe { result::destroy_filter_descriptor(self.0.as_ptr()) };
    }
}

/// How the kernel moves, and in which precision sums are made.
struct Movement(NonNull<sys::cudnnConvolutionStruct>);

impl Movement {
    fn new(kind: Kind) -> Result<Movement, CudnnError> {
        let made =
            NonNull::new(result::create_convolution_descriptor()?).map(Movement).ok_or(NOTHING)?;
        let math = match kind.format {
            // The default would round f32 to TF32.
            Format::F32 => Math::CUDNN_FMA_MATH,
            Format::F16 | Format::Bf16 => Math::CUDNN_TENSOR_OP_MATH,
        };
        // SAFETY: Made above.
        unsafe {
            result::set_convolution2d_descriptor(
                made.0.as_ptr(),
                kind.border,
                kind.border,
                kind.stride,
                kind.stride,
                1,
                1,
                Mode::CUDNN_CROSS_CORRELATION,
                Number::CUDNN_DATA_FLOAT,
            )?;
            result::set_convolution_math_type(made.0.as_ptr(), math)?;
        }
        Ok(made)
    }
}

impl Drop for Movement {
    fn drop(&mut self) {
        // SAFETY: Our own, once. A failure leaves nothing to do.
        let _ = unsafe { result::destroy_convolution_descriptor(self.0.as_ptr()) };
    }
}

/// What is done to each sum at the end.
struct End(NonNull<sys::cudnnActivationStruct>);

impl End {
    fn new(relu: bool) -> Result<End, CudnnError> {
        let made = NonNull::new(result::create_activation_descriptor()?).map(End).ok_or(NOTHING)?;
        let mode = if relu {
            Activation::CUDNN_ACTIVATION_RELU
        } else {
            Activation::CUDNN_ACTIVATION_IDENTITY
        };
        // SAFETY: Made above.
        unsafe {
            result::set_activation_descriptor(made.0.as_ptr(), mode, Nan::CUDNN_PROPAGATE_NAN, 0.0)
        }?;
        Ok(made)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // SAFETY: Our own, once. A failure leaves nothing to do.
        let _ = unsafe { sys::cudnnDestroyActivationDescriptor(self.0.as_ptr()) };
    }
}
