//! Runs the fuzz target `contracts` with libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hotbay_fuzz::run("contracts", bytes));
