//! Runs the fuzz target `traceparent` with libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hotbay_fuzz::run("traceparent", bytes));
