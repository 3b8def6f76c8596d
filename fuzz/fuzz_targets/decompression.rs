//! Drives `girok_fuzz::decompression` with libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| girok_fuzz::decompression(data));
