//! Runs the fuzz target `log_lines` with libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hotbay_fuzz::run("log_lines", bytes));
