//! Runs the fuzz target `signed_files` with libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hotbay_fuzz::run("signed_files", bytes));
