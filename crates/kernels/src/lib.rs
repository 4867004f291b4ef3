//! The arithmetic of Impasto, on plain slices: no tensors, no models.
//!
//! Everything works on channels-last data: a feature map is `(B, H, W, C)`, a token sequence
//! `(B, T, C)`, and both are the same memory, rows of `C` numbers. Sums are f32 (statistics f64);
//! weights may be stored in half precision and are widened block by block on the way in.
//!
//! **Invariant:** no result depends on the number of threads. Work is cut into tasks by the shapes
//! alone, each number is computed by one task in a fixed order, and the tasks run on rayon's current
//! pool. Nor does it depend on the system's mathematical library: [`math`] has its own functions.
//!
//! The kernels are portable. Versions for particular instruction sets go behind the same functions.

pub mod attention;
pub mod conv;
pub mod math;
pub mod matmul;
pub mod norm;
pub mod pointwise;

pub use matmul::Element;
