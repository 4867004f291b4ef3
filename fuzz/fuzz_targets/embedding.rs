//! A textual-inversion embedding.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| engine::testing::targets::embedding(bytes));
