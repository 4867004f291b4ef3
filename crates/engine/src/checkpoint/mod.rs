//! x
pub mod header;
