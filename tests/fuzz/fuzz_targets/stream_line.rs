//! Runs the fuzz target `stream_line` with libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hotbay_fuzz::run("stream_line", bytes));
