//! Runs the fuzz target `capabilities` with libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hotbay_fuzz::run("capabilities", bytes));
