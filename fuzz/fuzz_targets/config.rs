//! A configuration of a UNet, a VAE or a scheduler.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| engine::testing::targets::config(bytes));
