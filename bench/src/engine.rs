//! The engine as the benches use it: a real directory, the real disk, and one thread that steps the background.
//!
//! Every measurement gets a fresh topic of one partition, so that none inherits the other's pages, blocks or segments.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use girok_engine::batch::{BatchBuilder, ValidBatch};
use girok_engine::disk::SystemDisk;
use girok_engine::wait::{Ticket, block_on};
use girok_engine::{
    Durability, Env, FetchBounds, Log, LogConfig, Offset, Partition, SeededChance, SystemClock, Timestamp,
    TopicConfig, TopicPartition,
};
use tempfile::TempDir;

use crate::limits::Records;
use crate::place;

/// The real disk, the real clock, and chance from a seed.
pub fn env() -> Env {
    Env {
        disk: Arc::new(SystemDisk::new()),
        clock: Arc::new(SystemClock::new()),
        chance: Arc::new(SeededChance::new(1)),
    }
}

/// An open log with its background running, in a directory that goes away with it.
#[derive(Debug)]
pub struct Bench {
    log: Log,
    topics: AtomicU64,
    background: Background,
    dir: TempDir,
}

impl Bench {
    /// Opens one below the benches' directory.
    ///
    /// # Panics
    /// If it cannot.
    pub fn open() -> Self {
        let dir = place::directory();
        let (log, _) = Log::open(env(), dir.path().join("log"), LogConfig::default()).expect("a log");
        Bench { background: Background::start(&log), log, topics: AtomicU64::new(0), dir }
    }

    /// A place beside the log for the limits' files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Syncs the disk has issued so far.
    pub fn syncs(&self) -> u64 {
        self.log.stats().disk.syncs
    }

    /// A new, empty partition.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn partition(&self, durability: Durability) -> Partition {
        let name = format!("bench-{}", self.topics.fetch_add(1, Ordering::Relaxed));
        let config = TopicConfig { durability, ..TopicConfig::default() };
        self.log.create_topic(&name, 1, config).expect("a topic");
        self.log.partition(&TopicPartition::new(name, 0)).expect("a partition")
    }

    /// Removes a partition that was [made here](Self::partition), so that its pages are not written back during the
    /// next measurement.
    ///
    /// # Panics
    /// If it cannot be removed.
    #[allow(clippy::needless_pass_by_value)]
    pub fn drop_partition(&self, partition: Partition) {
        self.log.delete_topic(partition.name().topic()).expect("our own topic");
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.background.stop();
    }
}

/// The thread that a log's owner lends it.
#[derive(Debug)]
pub struct Background {
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Steps `log` whenever it wants to be stepped.
    ///
    /// # Panics
    /// If no thread can be started.
    pub fn start(log: &Log) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let thread = {
            let (log, stopping) = (log.clone(), stopping.clone());
            thread::Builder::new().name("girok-background".into()).spawn(move || {
                let mut ticket = Ticket::default();
                while !stopping.load(Ordering::Acquire) && !log.is_closed() {
                    let now = log.env().clock.now();
                    let Ok(next) = log.step(now) else { continue };
                    let pause = next.since(now).min(Duration::from_millis(100));
                    block_on(Some(pause), |context| log.poll_background(&mut ticket, context));
                }
            })
        };
        Background { stopping, thread: Some(thread.expect("a thread")) }
    }

    /// Ends the thread.
    pub fn stop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The `batch`-th of `records`, through the engine's builder.
///
/// # Panics
/// If the builder refuses it.
#[inline]
pub fn build<'b>(builder: &'b mut BatchBuilder, records: &Records, batch: usize) -> ValidBatch<'b> {
    builder.clear();
    for n in 0..records.per_batch() {
        let (timestamp, key, value) = records.get(batch, n);
        builder.append(Timestamp::from_millis(timestamp), Some(key), Some(value), &[]).expect("a record");
    }
    builder.finish().expect("a batch")
}

/// Everything in a partition, as it lies in its files.
///
/// # Panics
/// If it cannot be read.
pub fn read_all(partition: &Partition) -> Vec<u8> {
    let mut reader = partition.reader(Offset::ZERO);
    let mut all = Vec::new();
    loop {
        let view = reader.read(&FetchBounds::default()).expect("a read");
        if view.is_empty() {
            return all;
        }
        all.extend_from_slice(view.bytes());
    }
}
