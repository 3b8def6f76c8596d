//! A segmented log of Kafka's record batches, in one directory, in one process.
//!
//! The journey of a record: a producer encodes it into a [`batch`], and [`Partition::append`] reserves room for it in
//! the active segment with one compare-and-swap, copies it there and publishes it. It is [`Written`](Durability) at
//! once and [`Synced`](Durability) when a sync, shared by all who wait, has passed it. A reader asks
//! [`Partition::fetch`] for an offset and borrows whole batches from the very memory they were written to; nothing is
//! locked, copied or decoded on the way. When a segment is full it seals and the next begins; retention, compaction
//! and the background's other chores happen in [`Log::step`], which the owner calls. After a crash, recovery cuts each
//! partition at the last whole valid batch and says exactly what it cut.
//!
//! The engine opens no thread, no socket and no runtime, and takes disk, clock and chance from outside
//! ([`Env`]), so that a whole day can be lived again from a seed.
//!
//! # What it is not
//! It does not know consumers, groups or committed offsets (that is `girok-coordinator`), and it does not replicate.
#![warn(clippy::pedantic)]
#![allow(
    clippy::missing_errors_doc, // every public function's errors are the one `Error`, told in its own docs
    clippy::must_use_candidate,
    clippy::module_name_repetitions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_lossless,
    clippy::similar_names,
    clippy::too_many_lines,
    clippy::struct_excessive_bools,
    clippy::doc_markdown
)]

pub mod batch;
pub mod disk;
pub mod wait;

mod checkpoint;
mod config;
mod env;
mod error;
mod index;
pub mod kafka_files;
mod log;
mod meta;
mod partition;
mod recover;
mod segment;
mod sync;
mod tail;
mod types;

pub use config::{CheckCrcs, LogConfig, ReadMode, RegionMode, TopicConfig};
pub use env::{Chance, Clock, Env, Moment, SeededChance, SystemClock};
pub use error::{Error, Place, Remedy, Result};
pub use types::{Durability, Offset, Position, Timestamp, TopicId, TopicPartition};
