//! A PyTorch file, or the instructions of a pickle.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| engine::testing::targets::pickle(bytes));
