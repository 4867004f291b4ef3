//! An adapter, and its changes of modules that it fits.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| engine::testing::targets::adapter(bytes));
