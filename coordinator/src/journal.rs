//! Where facts are kept: a log, seen through the few calls that the coordinator needs.

use std::fmt;
use std::task::{Context, Poll};

use girok_engine::wait::{Ticket, block_on};
use girok_engine::{Durability, Offset, Result, Timestamp};

use crate::records::{Flaw, Record};
use crate::state::BatchInfo;

/// The log of one partition of `__consumer_offsets`. The coordinator is the only one who appends to it.
///
/// [`PartitionJournal`](crate::PartitionJournal) is the one over a real log.
///
/// ```
/// # use girok_coordinator::*;
/// # use girok_engine::*;
/// # let env = Env::in_memory();
/// # let (clock, disk) = (env.clock.clone(), env.disk.clone());
/// # let (log, _) = Log::open(env, "/log", LogConfig::default())?;
/// # log.create_topic("offsets", 1, TopicConfig::default())?;
/// # let partition = log.partition(&TopicPartition::new("offsets", 0))?;
/// let journal: Box<dyn Journal> = Box::new(PartitionJournal::new(partition));
/// let mut entries = Entries::default();
/// entries.push(&records::Record::GroupMetadata { group: "g".into(), value: None });
/// let base = journal.append(&entries, Timestamp::from_millis(7))?;
/// journal.wait_durable(base + 1, Durability::Synced)?;
/// let end = journal.read_from(base, &mut |_, _, key, value| {
///     assert_eq!((key, value), (Some(&[0, 2, 0, 1, b'g'][..]), None));
///     Ok(())
/// })?;
/// assert_eq!(end, base + 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Journal: Send + Sync + fmt::Debug {
    /// Appends all of `entries` as one batch, stamped `wall`; the offset of the first. They are
    /// [`Written`](Durability::Written) when this returns. On an error they count as not appended; if they are in the
    /// log nevertheless (the failure came after their bytes), the next append's offset tells.
    fn append(&self, entries: &Entries, wall: Timestamp) -> Result<Offset>;

    /// The largest batch that [`append`](Self::append) takes, in bytes.
    fn batch_bytes_max(&self) -> usize;

    /// Ready when everything below `up_to` has `durability`, or never will.
    fn poll_durable(
        &self,
        up_to: Offset,
        durability: Durability,
        ticket: &mut Ticket,
        context: &mut Context<'_>,
    ) -> Poll<Result<()>>;

    /// Gives back a place taken by [`poll_durable`](Self::poll_durable).
    fn leave(&self, ticket: &mut Ticket);

    /// The blocking form of [`poll_durable`](Self::poll_durable).
    fn wait_durable(&self, up_to: Offset, durability: Durability) -> Result<()> {
        let mut ticket = Ticket::default();
        let result = block_on(None, |context| self.poll_durable(up_to, durability, &mut ticket, context));
        self.leave(&mut ticket);
        result.expect("no time limit was given")
    }

    /// Hands every record from `from` on to `each`, in order, control records too; returns the end of the log. Where
    /// `each` finds a flaw, the error names the place.
    fn read_from(&self, from: Offset, each: &mut Each<'_>) -> Result<Offset>;

    /// The leader epoch under which `offset` was written. It is raised when an open had to cut something off, so it
    /// tells a record from another that stands at the place of one that is lost.
    fn leader_epoch_at(&self, offset: Offset) -> i32;
}

/// What [`Journal::read_from`] does with each record: offset, batch, key, value.
///
/// ```
/// # use girok_coordinator::Each;
/// let mut tombstones = 0;
/// let each: &mut Each<'_> = &mut |_, _, _, value| {
///     tombstones += usize::from(value.is_none());
///     Ok(())
/// };
/// # let info = girok_coordinator::BatchInfo::at(girok_engine::Timestamp::NONE);
/// each(girok_engine::Offset::ZERO, &info, Some(b"key"), None)?;
/// assert_eq!(tombstones, 1);
/// # Ok::<(), girok_coordinator::records::Flaw>(())
/// ```
pub type Each<'a> = dyn FnMut(Offset, &BatchInfo, Option<&[u8]>, Option<&[u8]>) -> Result<(), Flaw> + 'a;

/// Encoded records on their way to a [`Journal`], in one buffer that is used again and again.
///
/// ```
/// use girok_coordinator::Entries;
/// use girok_coordinator::records::Record;
/// let mut entries = Entries::default();
/// entries.push(&Record::GroupMetadata { group: "g".into(), value: None });
/// assert_eq!(entries.iter().next(), Some((&[0, 2, 0, 1, b'g'][..], None)));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Entries {
    bytes: Vec<u8>,
    /// For each record where its key ends and where its value does; a tombstone has no end.
    ends: Vec<(usize, Option<usize>)>,
}

/// A record's length, offset, timestamp, key length, value length and header count, at their longest.
const RECORD_OVERHEAD_MAX: usize = 1 + 5 + 5 + 10 + 5 + 5 + 1;

impl Entries {
    /// Adds a record.
    pub fn push(&mut self, record: &Record) {
        record.encode_key(&mut self.bytes);
        let key_end = self.bytes.len();
        let live = record.encode_value(&mut self.bytes);
        self.ends.push((key_end, live.then_some(self.bytes.len())));
    }

    /// Takes the last record out again.
    pub(crate) fn pop(&mut self) {
        self.ends.pop();
        let end = self.ends.last().map_or(0, |(key_end, value_end)| value_end.unwrap_or(*key_end));
        self.bytes.truncate(end);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Forgets them and keeps the buffer.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Key and value of each, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let mut start = 0;
        self.ends.iter().map(move |&(key_end, value_end)| {
            let key = &self.bytes[start..key_end];
            start = value_end.unwrap_or(key_end);
            (key, value_end.map(|end| &self.bytes[key_end..end]))
        })
    }

    /// How large a batch of them is at most.
    pub fn batch_bytes_max(&self) -> usize {
        const HEADER_BYTES: usize = 61;
        HEADER_BYTES + self.bytes.len() + self.ends.len() * RECORD_OVERHEAD_MAX
    }
}
