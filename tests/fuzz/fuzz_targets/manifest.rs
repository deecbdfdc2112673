//! Runs the fuzz target `manifest` with libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hotbay_fuzz::run("manifest", bytes));
