//! What must hold whatever the bytes are. Each target is a plain function of bytes that panics when its promise is
//! broken, so libFuzzer can drive it on nightly (`fuzz_targets/`) and `tests/fuzz_replay.rs` replays it over the
//! corpus on stable, in every test run.

mod batches;
mod offsets_records;
mod recovery;

pub use batches::{batches, decompression};
pub use offsets_records::offsets_records;
pub use recovery::recovery;
