//! Linear layers, and convolutions of one pixel, by cuBLASLt.
//!
//! Rows of ours are columns of a matrix of theirs. With weights `(outputs, channels)` and pixels
//! `(pixels, channels)` as they lie, their product is `Wᵀ · X`: both run along the channels, which is the order
//! that tensor cores read best.

use std::ptr::{self, NonNull};

use cudarc::{
    cublaslt::{
        result::{self, CublasError},
        sys::{
            self, cublasComputeType_t as Compute, cublasLtEpilogue_t as Epilogue, cublasLtHandle_t,
            cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t,
            cublasLtMatmulDescAttributes_t as Attribute, cublasLtMatmulPreference_t,
            cublasLtMatmulPreferenceAttributes_t as Preference, cublasLtMatrixLayout_t,
            cublasLtReductionScheme_t as Reduction, cudaDataType,
        },
    },
    driver::sys::CUstream,
};

use super::{Addresses, Kind, Plans, WORKSPACE, pointer, version_name};
use crate::Format;

/// `CUBLAS_OP_T`, which the bindings have in another library.
const TRANSPOSED: i32 = 1;

/// The oldest library whose answers the bindings know.
const OLDEST: usize = 120_000;

/// The library with what it chose for each kind of products.
pub(super) struct Linears {
    handle: cublasLtHandle_t,
    stream: CUstream,
    version: usize,
    plans: Plans<Plan>,
}

// SAFETY: The handles are not bound to a thread; they are used behind the device's lock.
unsafe impl Send for Linears {}

struct Plan {
    product: Product,
    weights: Layout,
    input: Layout,
    output: Layout,
    algorithm: cublasLtMatmulAlgo_t,
    workspace: usize,
}

impl Linears {
    /// The library, if it is there. The context is current.
    pub(super) fn find(stream: CUstream) -> Option<Linears> {
        // SAFETY: Loads the library, whose constructors are sound to run.
        if !unsafe { sys::is_culib_present() } {
            return None;
        }
        // SAFETY: Needs nothing.
        let version = unsafe { sys::cublasLtGetVersion() };
        if version < OLDEST {
            return None;
        }
        let handle = result::create_handle().ok()?;
        Some(Linears { handle, stream, version, plans: Plans::new() })
    }

    pub(super) fn version(&self) -> String {
        version_name(self.version)
    }

    /// Asks how to do a kind of products. Bytes of memory that it needs beside, or `None` if it does not do them.
    pub(super) fn prepare(&mut self, kind: Kind) -> Option<usize> {
        let handle = self.handle;
        self.plans.get(kind, || Plan::choose(handle, kind).ok()).map(|plan| plan.workspace)
    }

    /// Queues a product. False if it was refused: then it is not asked again.
    pub(super) fn queue(&mut self, kind: Kind, addresses: &Addresses) -> bool {
        let (handle, stream) = (self.handle, self.stream);
        self.plans.queue(kind, |plan| plan.queue(handle, stream, addresses))
    }
}

impl Drop for Linears {
    fn drop(&mut self) {
        self.plans = Plans::new();
        // SAFETY: The handle is our own, and nothing of it runs any more. A failure leaves nothing to do.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Plan {
    fn choose(handle: cublasLtHandle_t, kind: Kind) -> Result<Plan, CublasError> {
        let number = match kind.format {
            Format::F32 => cudaDataType::CUDA_R_32F,
            Format::F16 => cudaDataType::CUDA_R_16F,
            Format::Bf16 => cudaDataType::CUDA_R_16BF,
        };
        let [batch, height, width, channels] = kind.input.map(i64::from);
        let (pixels, outputs) = (batch * height * width, i64::from(kind.output[3]));
        let product = Product::new()?;
        product.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &TRANSPOSED)?;
        let epilogue = match (kind.bias, kind.relu) {
            (false, false) => Epilogue::CUBLASLT_EPILOGUE_DEFAULT,
            (true, false) => Epilogue::CUBLASLT_EPILOGUE_BIAS,
            (false, true) => Epilogue::CUBLASLT_EPILOGUE_RELU,
            (true, true) => Epilogue::CUBLASLT_EPILOGUE_RELU_BIAS,
        };
        product.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
        let weights = Layout::new(number, channels, outputs)?;
        let input = Layout::new(number, channels, pixels)?;
        let output = Layout::new(number, outputs, pixels)?;
        let wishes = Wishes::new()?;
        wishes.set(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE)?;
        // Partial sums are added in f32, or not made.
        let scheme = Reduction::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        wishes.set(Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &scheme)?;
        for name in [
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            wishes.set(name, &kind.alignment)?;
        }
        // SAFETY: All are made above and live.
        let found = unsafe {
            result::get_matmul_algo_heuristic(
                handle,
                product.0.as_ptr(),
                weights.0.as_ptr(),
                input.0.as_ptr(),
                output.0.as_ptr(),
                output.0.as_ptr(),
                wishes.0.as_ptr(),
            )
        }?;
        let (algorithm, workspace) = (found.algo, found.workspaceSize);
        Ok(Plan { product, weights, input, output, algorithm, workspace })
    }

    fn queue(
        &self,
        handle: cublasLtHandle_t,
        stream: CUstream,
        addresses: &Addresses,
    ) -> Result<(), CublasError> {
        if let Some(bias) = addresses.bias {
            self.product.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
        }
        let one = 1_f32;
        let kept = if addresses.residual.is_some() { 1_f32 } else { 0_f32 };
        let residual = addresses.residual.unwrap_or(addresses.output);
        // SAFETY: The layouts say how the job's buffers lie, and the workspace is as large as was asked for. Both
        // factors are read before this returns.
        unsafe {
            result::matmul(
                handle,
                self.product.0.as_ptr(),
                (&raw const one).cast(),
                (&raw const kept).cast(),
                pointer(addresses.weights),
                self.weights.0.as_ptr(),
                pointer(addresses.input),
                self.input.0.as_ptr(),
                pointer(residual),
                self.output.0.as_ptr(),
                pointer(addresses.output),
                self.output.0.as_ptr(),
                &raw const self.algorithm,
                pointer(addresses.workspace),
                self.workspace,
                stream.cast(),
            )
        }
    }
}

/// What is multiplied, and what is done at the end.
struct Product(NonNull<sys::cublasLtMatmulDescOpaque_t>);

impl Product {
    fn new() -> Result<Product, CublasError> {
        let made: cublasLtMatmulDesc_t =
            result::create_matmul_desc(Compute::CUBLAS_COMPUTE_32F, cudaDataType::CUDA_R_32F)?;
        NonNull::new(made).map(Product).ok_or(NOTHING)
    }

    fn set<T>(&self, name: Attribute, value: &T) -> Result<(), CublasError> {
        // SAFETY: The library reads as many bytes as the value has, and refuses another size than it expects.
        unsafe {
            result::set_matmul_desc_attribute(
                self.0.as_ptr(),
                name,
                ptr::from_ref(value).cast(),
                size_of::<T>(),
            )
        }
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        // SAFETY: Our own, once. A failure leaves nothing to do.
        let _ = unsafe { result::destroy_matmul_desc(self.0.as_ptr()) };
    }
}

/// How a matrix lies: columns without gaps.
struct Layout(NonNull<sys::cublasLtMatrixLayoutOpaque_t>);

impl Layout {
    fn new(number: cudaDataType, rows: i64, columns: i64) -> Result<Layout, CublasError> {
        let made: cublasLtMatrixLayout_t = result::create_matrix_layout(
            number,
            rows.cast_unsigned(),
            columns.cast_unsigned(),
            rows,
        )?;
        NonNull::new(made).map(Layout).ok_or(NOTHING)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: Our own, once. A failure leaves nothing to do.
        let _ = unsafe { result::destroy_matrix_layout(self.0.as_ptr()) };
    }
}

/// What an algorithm has to keep to.
struct Wishes(NonNull<sys::cublasLtMatmulPreferenceOpaque_t>);

impl Wishes {
    fn new() -> Result<Wishes, CublasError> {
        let made: cublasLtMatmulPreference_t = result::create_matmul_pref()?;
        NonNull::new(made).map(Wishes).ok_or(NOTHING)
    }

    fn set<T>(&self, name: Preference, value: &T) -> Result<(), CublasError> {
        // SAFETY: As for a product's attributes.
        unsafe {
            result::set_matmul_pref_attribute(
                self.0.as_ptr(),
                name,
                ptr::from_ref(value).cast(),
                size_of::<T>(),
            )
        }
    }
}

impl Drop for Wishes {
    fn drop(&mut self) {
        // SAFETY: Our own, once. A failure leaves nothing to do.
        let _ = unsafe { result::destroy_matmul_pref(self.0.as_ptr()) };
    }
}

/// The library said that it made something, and there is nothing.
const NOTHING: CublasError = CublasError(sys::cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED);
