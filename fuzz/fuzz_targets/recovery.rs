//! Drives `girok_fuzz::recovery` with libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| girok_fuzz::recovery(data));
