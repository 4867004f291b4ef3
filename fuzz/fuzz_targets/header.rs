//! The header of a safetensors file, and what follows from it.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| engine::testing::targets::header(bytes));
