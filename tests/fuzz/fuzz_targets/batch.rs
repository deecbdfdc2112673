//! Runs the fuzz target `batch` with libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hotbay_fuzz::run("batch", bytes));
