//! Kafka consumer groups as a library: a segmented log and the consumer side of Kafka, in your process, in one
//! directory, with Kafka's semantics and Kafka's bytes on disk.
//!
//! ```
//! use std::time::Duration;
//! use girok::{Girok, ProducerRecord, TopicConfig, TopicPartition};
//!
//! # let dir = std::env::temp_dir().join(format!("girok-front-page-{}", std::process::id()));
//! let girok = Girok::open(&dir)?;
//! girok.admin().create_topic("orders", 1, TopicConfig::default())?;
//!
//! let producer = girok.producer().build()?;
//! let sent = producer.send(ProducerRecord::new("orders", "two coffees").key("table 4"))?;
//! println!("stored as {}", sent.wait()?); // orders-0@0 (synced)
//!
//! let mut consumer = girok.consumer().group_id("kitchen").build()?;
//! consumer.assign(&[TopicPartition::new("orders", 0)])?;
//! for record in &consumer.poll(Duration::from_secs(1))? {
//!     println!("{:?}: {:?}", record.key(), record.value());
//! }
//! let receipts = consumer.commit()?;
//! println!("{}", girok.admin().verify(&receipts[0])?); // stored
//! # drop((producer, consumer));
//! # girok.close()?;
//! # std::fs::remove_dir_all(&dir).unwrap();
//! # Ok::<(), girok::Error>(())
//! ```
//!
//! # The journey of a record
//! A [`Producer`] encodes it into its partition's open batch and gives a [`Delivery`] for it; the batch is appended to
//! the log by whoever fills it. It is *written* at once, and *synced* by a sync that all who wait share; then it is
//! visible. A [`Consumer`] polls it where it lies, without copying, and commits the offset behind it; the commit is a
//! record itself, in `__consumer_offsets`, and gives a [`Receipt`] that can be verified later. [`Admin`] looks after
//! topics and groups, and [`Girok`] is the door to all of them. Below are the engine ([`Girok::log`]) and the coordinator
//! ([`Girok::coordinator`]), each a crate of its own.
//!
//! # Threads, forks and drops
//! There is one background thread, `girok-io`, which nobody must wait for; [`Builder::threads`] leaves it out.
//! Everything blocking has a non-blocking twin and a future that needs no runtime and may be dropped at any time. After
//! a fork the child has the memory but not the thread: every call there is an error, and drops do nothing. The last
//! handle of a directory closes it.
//!
//! # Numbers
//! The background tells the [`metrics`](https://docs.rs/metrics) facade, labelled `dir`: gauges `girok_topics`,
//! `girok_partitions`, `girok_partitions_live`, `girok_partitions_poisoned`, `girok_regions`, `girok_mappings`,
//! `girok_log_bytes`, `girok_held_removed_bytes` (removed from the log, still held by a reader); counters
//! `girok_produced_records_total`, `girok_produced_batches_total`, `girok_produced_bytes_total`,
//! `girok_failed_batches_total`, `girok_polls_total`, `girok_polled_records_total`, `girok_overtaken_total` (positions
//! that retention overtook), `girok_syncs_total`, `girok_ring_submissions_total`, `girok_written_bytes_total`,
//! `girok_read_bytes_total`, `girok_background_failures_total`.
//!
//! # What it is not
//! It does not replicate, and there is no socket yet. Refused by name until their time comes: groups with members
//! (`subscribe`), transactions and `read_committed`, idempotent producers. Reading through mappings means that a
//! medium's error, or somebody else cutting a file, is a `SIGBUS`; [`ReadMode::Copy`] reads by checked calls instead.

/// README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod admin;
mod consumer;
mod core;
mod error;
mod girok;
mod groups;
mod meters;
mod partitioner;
mod producer;

pub use crate::girok::{Builder, Girok, Recovery};

pub use crate::producer::{
    Bytes, Delivery, Producer, ProducerBuilder, ProducerRecord, ProducerTopic, RecordMetadata,
};

pub use crate::partitioner::{Partitioner, murmur2, partition_for_key};

pub use crate::consumer::{
    CommitResults, Consumer, ConsumerBuilder, Header, Headers, IsolationLevel, Iter, NextRecords,
    OffsetReset, PendingCommit, Record, Records, Wakeup,
};

pub use crate::admin::{Admin, ConfigEntry, ListedOffset, NewTopic, OffsetSpec, OffsetTarget};

pub use crate::error::{Error, Result};

pub use girok_coordinator::records::OffsetAndMetadata;
pub use girok_coordinator::{
    Clamped, CommitEntry, Coordinator, GroupKind, GroupListing, Receipt, Reject, Settings as GroupSettings,
    Verdict,
};
pub use girok_engine::batch::Codec;
pub use girok_engine::{
    CheckCrcs, CheckpointReport, CleanupPolicy, Durability, Env, Log, LogConfig, Moment, Offset,
    PartitionReport, ReadMode, RecoveryReport, RegionMode, Remedy, Stats, Timestamp, TimestampType,
    TopicConfig, TopicDescription, TopicId, TopicPartition,
};
