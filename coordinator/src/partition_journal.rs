//! A journal over a partition of the engine's log: one engine, used twice.

use std::fmt;
use std::sync::Mutex;
use std::task::{Context, Poll};

use girok_engine::batch::{Batch, BatchBuilder, Codec, CodecError, Flaw, batches, decompress};
use girok_engine::wait::Ticket;
use girok_engine::{Durability, Error, FetchBounds, Offset, Partition, Result, Timestamp};

use crate::journal::{Each, Entries, Journal};
use crate::records;
use crate::state::BatchInfo;

/// The partition of `__consumer_offsets` as a [`Journal`]. Nobody else may append to it.
///
/// See [`Coordinator`](crate::Coordinator) for one at work.
///
/// ```
/// # use girok_coordinator::*;
/// # use girok_engine::*;
/// # let env = Env::in_memory();
/// # let (clock, disk) = (env.clock.clone(), env.disk.clone());
/// # let (log, _) = Log::open(env, "/log", LogConfig::default())?;
/// # log.create_topic("offsets", 1, TopicConfig::default())?;
/// # let partition = log.partition(&TopicPartition::new("offsets", 0))?;
/// let journal = PartitionJournal::new(partition);
/// let (state, report) = replay(&journal, None, &Settings::default())?;
/// assert_eq!((state.next_offset(), report.records_replayed), (journal.partition().end_offset(), 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct PartitionJournal {
    partition: Partition,
    /// The coordinator appends under its own lock, so this one is never waited for.
    builder: Mutex<BatchBuilder>,
}

/// Kafka's bound on a batch is the topic's, and compressed batches of a foreign log may grow at most to this.
const DECOMPRESSED_BYTES_MAX: usize = 64 << 20;

impl PartitionJournal {
    /// A journal over that partition.
    pub fn new(partition: Partition) -> Self {
        PartitionJournal { partition, builder: Mutex::new(BatchBuilder::new(Codec::None)) }
    }

    /// The partition.
    pub fn partition(&self) -> &Partition {
        &self.partition
    }

    /// `what` names the thing in the partition, and `byte` is counted in that.
    fn corrupt(
        &self,
        what: fmt::Arguments<'_>,
        byte: usize,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Error {
        let place = format!("{}, {what}", self.partition.name());
        let intact = "no committed offset is served from it; restore the folder from a backup (`girok dump` shows \
                      what it holds)";
        Error::corrupt(place, byte as u64, expected, found, intact)
    }
}

impl Journal for PartitionJournal {
    fn append(&self, entries: &Entries, wall: Timestamp) -> Result<Offset> {
        let mut builder = self.builder.lock().expect("building a batch does not panic");
        builder.clear();
        for (key, value) in entries.iter() {
            builder.append(wall, Some(key), value, &[])?;
        }
        Ok(self.partition.append(&builder.finish()?)?.base_offset)
    }

    fn batch_bytes_max(&self) -> usize {
        usize::try_from(self.partition.config().max_message_bytes).unwrap_or(usize::MAX)
    }

    fn poll_durable(
        &self,
        up_to: Offset,
        durability: Durability,
        ticket: &mut Ticket,
        context: &mut Context<'_>,
    ) -> Poll<Result<()>> {
        self.partition.poll_durable(up_to, durability, ticket, context)
    }

    fn leave(&self, ticket: &mut Ticket) {
        self.partition.leave_durable(ticket);
    }

    fn wait_durable(&self, up_to: Offset, durability: Durability) -> Result<()> {
        // Leads the sync itself instead of asking the background for one.
        self.partition.wait_for(up_to, durability)
    }

    fn read_from(&self, from: Offset, each: &mut Each<'_>) -> Result<Offset> {
        // Recovery has synced what it kept, but a partition that is open already may be ahead of its last sync.
        let end = self.partition.end_offset();
        self.partition.wait_for(end, Durability::Synced)?;
        let mut reader = self.partition.reader(from.max(self.partition.start_offset()).min(end));
        let mut plain = Vec::new();
        while reader.position() < end {
            let view = reader.read(&FetchBounds::default())?;
            if view.is_empty() {
                break;
            }
            let mut at = view.from();
            for batch in view.batches() {
                let batch = batch.map_err(|flaw| {
                    self.corrupt(
                        format_args!("batches from offset {at} on"),
                        flaw.at,
                        flaw.expected,
                        flaw.found,
                    )
                })?;
                self.read_batch(&batch, from, &mut plain, each)?;
                at = batch.header().next_offset();
            }
        }
        Ok(end)
    }

    fn leader_epoch_at(&self, offset: Offset) -> i32 {
        self.partition.leader_epoch_at(offset)
    }
}

impl PartitionJournal {
    fn read_batch(
        &self,
        batch: &Batch<'_>,
        from: Offset,
        plain: &mut Vec<u8>,
        each: &mut Each<'_>,
    ) -> Result<()> {
        let header = batch.header();
        let base = header.base_offset;
        let flawed = |flaw: Flaw| {
            self.corrupt(format_args!("batch at offset {base}"), flaw.at, flaw.expected, flaw.found)
        };
        let inflated;
        let batch = if header.is_compressed() {
            // Ours are not compressed; an imported log's may be, if somebody set that on the topic.
            decompress(batch, plain, DECOMPRESSED_BYTES_MAX).map_err(|e| match e {
                CodecError::Flaw(flaw) => flawed(flaw),
                other => other.at(
                    self.partition.name(),
                    base,
                    self.partition.name().folder().as_ref(),
                    base.get() as u64,
                ),
            })?;
            inflated = batches(plain).next().expect("one batch came out").map_err(flawed)?;
            &inflated
        } else {
            batch
        };
        for record in batch.records() {
            let record = record.map_err(flawed)?;
            if record.offset() < from {
                continue;
            }
            let info = BatchInfo {
                timestamp: record.timestamp(),
                producer_id: header.producer_id,
                transactional: header.is_transactional(),
                control: header.is_control(),
            };
            each(record.offset(), &info, record.key(), record.value()).map_err(|flaw| {
                let records::Flaw { part, at, expected, found } = flaw;
                let part = if part == records::Part::Key { "key" } else { "value" };
                self.corrupt(format_args!("offset {}, {part}", record.offset()), at, expected, found)
            })?;
        }
        Ok(())
    }
}
