//! Runs the fuzz target `http_response` with libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hotbay_fuzz::run("http_response", bytes));
