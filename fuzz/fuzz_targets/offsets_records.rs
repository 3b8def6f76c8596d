//! Drives `girok_fuzz::offsets_records` with libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| girok_fuzz::offsets_records(data));
