//! Base models on disk.

pub mod header;
