//! x
pub mod header;
pub mod keys;
