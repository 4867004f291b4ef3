//! The program `impasto`, as a person runs it, with the starter model.
//!
//! Pictures are small (64 × 64, a few steps): that is enough to tell them apart, and takes a moment.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod convert;
mod pictures;
mod program;
mod recipes;
mod sheets;
mod wrong_inputs;

#[cfg(unix)]
mod interrupted;
