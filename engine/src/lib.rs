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
//! The engine opens no thread, no socket and no runtime, and takes disk, clock and chance from outside ([`Env`]), so
//! that a whole day can be lived again from a seed. Two exceptions, both at the edge: [`inspect::verify`] reads with
//! threads that end before it returns, and the time limit of [`wait::block_on`] is by the machine's clock.
//!
//! # What it is not
//! It does not know consumers, groups or committed offsets (that is `girok-coordinator`), and it does not replicate.

pub mod batch;
pub mod disk;
pub mod wait;

mod backup;
mod checkpoint;
mod chores;
mod compact;
mod config;
mod env;
mod error;
mod fork;
mod group_commit;
mod index;
pub mod inspect;
pub mod kafka_files;
mod log;
mod meta;
mod partition;
#[cfg(all(test, not(loom)))]
mod partition_tests;
mod recover;
mod segment;
mod slot;
mod sync;
mod tail;
mod types;

pub use backup::CheckpointReport;
pub use config::{
    CheckCrcs, CleanupPolicy, INTERNAL_TOPICS, LogConfig, ReadMode, RegionMode, TimestampType, TopicConfig,
    check_topic_name, is_internal,
};
pub use disk::{MemoryDisk, SystemDisk};
pub use env::{Chance, Clock, Env, Moment, SeededChance, SystemClock};
pub use error::{Error, Place, Remedy, Result};
pub use fork::Process;
pub use log::{Log, Stats, TopicDescription};
pub use partition::{Appended, FetchBounds, Partition, Reader};
pub use recover::{PartitionReport, RecoveryReport};
pub use segment::View;
pub use types::{Durability, Offset, Position, Timestamp, TopicId, TopicPartition};
