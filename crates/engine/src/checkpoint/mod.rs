//! x
pub mod header;
pub(crate) mod keys;
