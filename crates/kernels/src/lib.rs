//! The arithmetic of Impasto, on plain slices: no tensors, no models.
//!
//! Everything works on channels-last data: a feature map is `(B, H, W, C)`, a token sequence
//! `(B, T, C)`, and both are the same memory, rows of `C` numbers, in f32 or bf16 ([`Number`]). Sums
//! are f32; a result is rounded once.
//!
//! What is worth it exists once per instruction set, behind one function: see [`Isa`] for the rungs and
//! how one is chosen, [`product`] for the skeleton that all matrix products and convolutions share.
//! Everything else is written once, in sixteen numbers at a time.
//!
//! **Invariant:** no result depends on the number of threads. Work is cut into tasks by the shapes
//! alone, each number is computed by one task in a fixed order, and the tasks run on rayon's current
//! pool. Nor does it depend on the system's mathematical library.

pub mod attention;
#[cfg(all(test, target_os = "linux"))]
mod bounds;
pub mod conv;
mod isa;
mod lanes;
mod math;
pub mod matmul;
pub mod memory;
pub mod norm;
mod number;
pub mod pointwise;
pub mod product;
#[cfg(test)]
mod testing;
#[cfg(target_arch = "x86_64")]
mod tile;

pub use isa::{Choice, Isa};
pub use memory::Values;
pub use number::Number;
pub use product::Operand;
