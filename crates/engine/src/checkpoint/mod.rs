//! Base models on disk.

pub mod header;
pub mod keys;
