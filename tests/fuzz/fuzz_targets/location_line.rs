//! Runs the fuzz target `location_line` with libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hotbay_fuzz::run("location_line", bytes));
