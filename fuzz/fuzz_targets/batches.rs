//! Drives `girok_fuzz::batches` with libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| girok_fuzz::batches(data));
