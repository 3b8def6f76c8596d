//! One partition: append at the end, read from anywhere, wait for either.
//!
//! The append path is a reservation, a copy and a publish; everything that can fail (validation, LogAppendTime, room)
//! comes before the reservation, and everything slow (growing, rolling, reopening) stands behind one lock that an
//! append meets only when it runs out of room. Readers walk a list of segments that is replaced, never changed, and
//! borrow what is visible. A sync is led by one of those who wait for it and shared by all.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::batch::{Batch, CodecError, Header, ValidBatch, decompress};
use crate::checkpoint::{PartitionPoint, SegmentPoint};
use crate::config::{ReadMode, TimestampType, TopicConfig};
use crate::disk::{File, Open};
use crate::env::Moment;
use crate::error::{Error, Result};
use crate::group_commit::GroupCommit;
use crate::index::Indexes;
use crate::log::Shared;
use crate::recover::Recovered;
use crate::segment::{Active, Mapped, Opening, Segment, View};
use crate::slot::Slot;
use crate::tail::{Mark, Refusal};
use crate::types::{Durability, Offset, Timestamp, TopicId, TopicPartition};
use crate::wait::{Ticket, Waiters, block_on};
use std::sync::Mutex;

/// What an append gave its batch.
///
/// ```
/// # use girok_engine::*;
/// # let (log, _) = Log::open(Env::in_memory(), "/log", LogConfig::default())?;
/// # log.create_topic("orders", 1, TopicConfig::default())?;
/// # let partition = log.partition(&TopicPartition::new("orders", 0))?;
/// # let mut builder = batch::BatchBuilder::new(batch::Codec::None);
/// # builder.append(Timestamp::from_millis(1), None, Some(b"one"), &[])?;
/// let appended = partition.append(&builder.finish()?)?;
/// assert_eq!((appended.base_offset, appended.next_offset), (Offset::new(0), Offset::new(1)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The offset of the batch's first record.
    pub base_offset: Offset,
    /// One past the offset of its last record.
    pub next_offset: Offset,
    /// The time all records were given, where the topic stamps them (`LogAppendTime`).
    pub log_append_time: Option<Timestamp>,
}

/// How much one fetch may return. At least one batch always comes, however large.
///
/// ```
/// # use girok_engine::*;
/// # let (log, _) = Log::open(Env::in_memory(), "/log", LogConfig::default())?;
/// # log.create_topic("orders", 1, TopicConfig::default())?;
/// # let partition = log.partition(&TopicPartition::new("orders", 0))?;
/// # let mut builder = batch::BatchBuilder::new(batch::Codec::None);
/// # builder.append(Timestamp::from_millis(1), None, Some(b"tea"), &[])?;
/// # let batch = builder.finish()?;
/// partition.append(&batch)?;
/// partition.append(&batch)?;
/// partition.sync()?;
/// let one = FetchBounds { records_max: 1, ..FetchBounds::default() };
/// assert_eq!(partition.fetch(Offset::ZERO, &one)?.next(), Offset::new(1));
/// assert_eq!(partition.fetch(Offset::ZERO, &FetchBounds::default())?.next(), Offset::new(2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchBounds {
    /// Bytes of whole batches. Default 1 MiB, Kafka's `max.partition.fetch.bytes`.
    pub bytes_max: u32,
    /// Records, counted in whole batches: the batch that passes the bound is the last. Default: no bound.
    pub records_max: u32,
}

impl Default for FetchBounds {
    fn default() -> Self {
        FetchBounds { bytes_max: 1 << 20, records_max: u32::MAX }
    }
}

/// The segments, oldest first; never empty, never changed, only replaced.
#[derive(Debug)]
pub(crate) struct List(pub(crate) Vec<Arc<Segment>>);

impl List {
    pub(crate) fn last(&self) -> &Arc<Segment> {
        self.0.last().expect("a partition has a segment")
    }

    /// Where to look for an offset: the last segment that begins at or before it.
    fn find(&self, offset: Offset) -> usize {
        self.0.partition_point(|segment| segment.base <= offset).saturating_sub(1)
    }
}

/// What needs the slow path's lock.
#[derive(Debug, Default)]
pub(crate) struct Admin {
    /// Sealed, and not yet settled, synced and cut: oldest first. Their descriptors stay open until a clean sync.
    pub(crate) sealing: VecDeque<Arc<Active>>,
    /// When the background first saw something unsynced.
    pub(crate) dirty_since: Option<Moment>,
    /// What was published when the background last looked, and when that last changed.
    pub(crate) seen: (Offset, Moment),
    /// When the active segment got its first record.
    pub(crate) first_append: Option<Moment>,
    /// Where compaction has come to.
    pub(crate) cleaned_to: Offset,
}

/// A partition's inner life, shared by all handles.
pub(crate) struct Core {
    pub(crate) name: TopicPartition,
    pub(crate) topic_id: TopicId,
    pub(crate) log: Arc<Shared>,
    pub(crate) config: Slot<TopicConfig>,
    pub(crate) folder: Arc<std::path::Path>,
    pub(crate) list: Slot<List>,
    pub(crate) active: Slot<Active>,
    pub(crate) admin: Mutex<Admin>,
    /// How long the queue of the sealing is: raised before the next segment can be found, lowered when one has left.
    sealing: AtomicUsize,
    /// Who takes segments out of the list, or puts others in their place, holds it until the files are gone too. Taken
    /// before `admin`.
    pub(crate) removal: Mutex<()>,
    log_start: AtomicI64,
    pub(crate) leader_epoch: AtomicI32,
    pub(crate) leader_epochs: Mutex<Vec<(i32, Offset)>>,
    /// What an append must know of the configuration, in one word: the largest batch, [`STAMPED`] and [`KEYED`].
    rules: AtomicU64,
    /// [`Durability`] that decides visibility, as a number: 0 written, 1 synced.
    visible_when: AtomicU8,
    /// Somebody waits for a sync and cannot lead one.
    pub(crate) sync_wanted: AtomicBool,
    /// Those who wait for visible records.
    pub(crate) readable: Waiters,
    /// Those who wait for copies to be finished: appenders for room, and whoever waits for `Written`.
    pub(crate) written: Waiters,
    /// Those who wait for a sync, and who of them makes it.
    commit: GroupCommit,
    poisoned: OnceLock<String>,
    /// The topic was deleted.
    pub(crate) gone: AtomicBool,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Partition({})", self.name)
    }
}

/// A partition of an open log. Cheap to clone; all clones are one. Every call may be made from any thread at any
/// time; calls that block say so and have a non-blocking twin (`try_`, `poll_`).
///
/// See [`Log`](crate::Log) for the whole journey in one example.
///
/// ```
/// # use girok_engine::*;
/// # let (log, _) = Log::open(Env::in_memory(), "/log", LogConfig::default())?;
/// # log.create_topic("orders", 1, TopicConfig::default())?;
/// # let partition = log.partition(&TopicPartition::new("orders", 0))?;
/// # let mut builder = batch::BatchBuilder::new(batch::Codec::None);
/// # builder.append(Timestamp::from_millis(1), None, Some(b"tea"), &[])?;
/// # let batch = builder.finish()?;
/// partition.append(&batch)?;
/// assert_eq!((partition.end_offset(), partition.high_watermark()), (Offset::new(1), Offset::ZERO));
/// partition.sync()?;
/// assert_eq!(partition.high_watermark(), Offset::new(1), "seen by readers once it is synced");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Partition(pub(crate) Arc<Core>);

impl Partition {
    /// Its name.
    pub fn name(&self) -> &TopicPartition {
        &self.0.name
    }

    /// Its topic's id.
    pub fn topic_id(&self) -> TopicId {
        self.0.topic_id
    }

    /// Its topic's configuration, as it is now.
    pub fn config(&self) -> Arc<TopicConfig> {
        self.0.config()
    }

    /// The first offset that can still be read: raised by retention and [`delete_records`](Self::delete_records).
    pub fn start_offset(&self) -> Offset {
        self.0.log_start()
    }

    /// The next offset to be given out. Offsets below may not be visible yet.
    pub fn end_offset(&self) -> Offset {
        let list = self.0.list();
        let last = list.last();
        last.offset(last.published.get())
    }

    /// The end of what readers see: everything below has the topic's durability.
    pub fn high_watermark(&self) -> Offset {
        self.0.high_watermark()
    }

    /// The end of what would survive a power cut.
    pub fn synced_offset(&self) -> Offset {
        self.0.reached(|segment| segment.synced.get())
    }

    /// The partition's leader epoch: raised by every open that had to cut something.
    pub fn leader_epoch(&self) -> i32 {
        self.0.leader_epoch.load(Ordering::Acquire)
    }

    /// The epoch under which `offset` was written, by the partition's history of epochs.
    pub fn leader_epoch_at(&self, offset: Offset) -> i32 {
        let history = self.0.leader_epochs.lock().unwrap();
        history.iter().rev().find(|(_, start)| *start <= offset).map_or(0, |(epoch, _)| *epoch)
    }

    /// Appends a batch; readers see it once it has the topic's durability. It is [`Written`](Durability::Written)
    /// when this returns; [`wait_for`](Self::wait_for) waits for more. Waits when appenders are ahead of the disk, and
    /// for copies by other threads that were begun before this one's and are not finished.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a batch larger than `max.message.bytes` or `segment.bytes`, [`Error::NoRoom`] when the
    /// disk is full (reads go on, and so do writes once there is room), [`Error::Poisoned`] after a failed sync.
    pub fn append(&self, batch: &ValidBatch<'_>) -> Result<Appended> {
        let (appended, is_written) = match self.put(batch) {
            Err(Error::Busy { .. }) => (self.append_waiting(batch)?, false),
            other => other?,
        };
        if !is_written {
            self.wait_for(appended.next_offset, Durability::Written)?;
        }
        Ok(appended)
    }

    #[cold]
    fn append_waiting(&self, batch: &ValidBatch<'_>) -> Result<Appended> {
        let mut ticket = Ticket::default();
        let result = block_on(None, |context| {
            self.0.written.register(&mut ticket, context.waker());
            match self.try_append(batch) {
                Err(Error::Busy { .. }) => Poll::Pending,
                other => Poll::Ready(other),
            }
        });
        self.0.written.leave(&mut ticket);
        result.expect("no time limit was given")
    }

    /// [`append`](Self::append) that never waits. The batch has its offsets and is copied; it is `Written` as soon as
    /// every copy begun before it is finished too, which [`poll_durable`](Self::poll_durable) tells.
    ///
    /// # Errors
    /// [`Error::Busy`] where `append` would wait: register with [`poll_room`](Self::poll_room) and try again.
    pub fn try_append(&self, batch: &ValidBatch<'_>) -> Result<Appended> {
        self.put(batch).map(|(appended, _)| appended)
    }

    /// The same, and whether it is known to be `Written` already, which it is unless another copy before it goes on.
    fn put(&self, batch: &ValidBatch<'_>) -> Result<(Appended, bool)> {
        let core = &self.0;
        core.check_writable()?;
        let rules = core.rules.load(Ordering::Acquire);
        core.check_batch(batch, rules)?;
        let stamp = (rules & STAMPED != 0).then(|| core.log.env.clock.wall());
        let stamped;
        let batch = match stamp {
            None => batch,
            Some(now) => {
                stamped = batch.clone().log_append_time(now);
                &stamped
            }
        };
        let (records, bytes) = (batch.header().record_count as u32, batch.size() as u32);
        loop {
            let Some(active) = core.active.get() else {
                core.open_active()?;
                continue;
            };
            match active.tail.reserve(records, bytes) {
                Ok(room) => {
                    let base_offset = active.segment.offset(room.start);
                    let next_offset = active.segment.offset(room.end);
                    active.copy_in(&room, batch, core.leader_epoch.load(Ordering::Relaxed));
                    let end = room.end.bytes();
                    core.publish(&active, room)?;
                    if active.passes_low_water(end) {
                        core.log.wake_background();
                    }
                    // Segments before this one are through once they have left the queue of the sealing.
                    let is_written = core.sealing.load(Ordering::Acquire) == 0
                        && active.segment.written.get().bytes() >= end;
                    return Ok((Appended { base_offset, next_offset, log_append_time: stamp }, is_written));
                }
                Err(Refusal::NeedsRoom { end }) => core.grow(&active, end)?,
                Err(Refusal::SegmentFull) => core.roll(&active)?,
                Err(Refusal::Closed) => core.open_active()?,
                Err(Refusal::WindowFull) => {
                    // In a written region it may be only the writer that is behind, and that can be anybody.
                    if !core.write_out(&active)? {
                        return Err(Error::Busy { partition: core.name.clone() });
                    }
                }
            }
        }
    }

    /// Ready when an append that was [`Busy`](Error::Busy) is worth another try. Give `ticket` back with
    /// [`leave_room`](Self::leave_room) when no longer interested; dropping it merely costs one idle wake-up.
    pub fn poll_room(&self, ticket: &mut Ticket, context: &mut Context<'_>) {
        self.0.written.register(ticket, context.waker());
    }

    /// Gives back a place taken by [`poll_room`](Self::poll_room).
    pub fn leave_room(&self, ticket: &mut Ticket) {
        self.0.written.leave(ticket);
    }

    /// Gives back a place taken by [`poll_readable`](Self::poll_readable).
    pub fn leave_readable(&self, ticket: &mut Ticket) {
        self.0.readable.leave(ticket);
    }

    /// Reads whole batches, beginning with the one that contains `from`; nothing if `from` is the end. Never waits.
    /// For reading on and on, a [`Reader`] is cheaper: it remembers where it is.
    ///
    /// # Errors
    /// [`Error::OffsetOutOfRange`] below the start or beyond the end, [`Error::Corrupt`] for bytes that came from the
    /// medium and fail their checksum.
    pub fn fetch(&self, from: Offset, bounds: &FetchBounds) -> Result<View> {
        self.reader(from).read(bounds)
    }

    /// A reader that begins at `from`.
    pub fn reader(&self, from: Offset) -> Reader {
        Reader { core: self.0.clone(), next: from, spot: None }
    }

    /// Waits until records at or after `from` are visible, or `timeout` has passed (`false`).
    ///
    /// # Errors
    /// [`Error::Closed`] when the log closes meanwhile; [`Error::Poisoned`] when what was waited for can never come.
    pub fn wait_readable(&self, from: Offset, timeout: Option<Duration>) -> Result<bool> {
        let mut ticket = Ticket::default();
        let ready = block_on(timeout, |context| self.poll_readable(from, &mut ticket, context));
        self.0.readable.leave(&mut ticket);
        ready.map_or(Ok(false), |ready| ready.map(|()| true))
    }

    /// Ready when records at or after `from` are visible. The non-blocking twin of
    /// [`wait_readable`](Self::wait_readable), cancel-safe: give `ticket` back with
    /// [`leave_readable`](Self::leave_readable).
    pub fn poll_readable(
        &self,
        from: Offset,
        ticket: &mut Ticket,
        context: &mut Context<'_>,
    ) -> Poll<Result<()>> {
        let core = &*self.0;
        let look = || {
            if self.high_watermark() > from {
                return Some(Ok(()));
            }
            core.check_open().and_then(|()| core.check_poison()).err().map(Err)
        };
        if let Some(ready) = look() {
            return Poll::Ready(ready);
        }
        core.readable.register(ticket, context.waker());
        if let Some(ready) = look() {
            return Poll::Ready(ready);
        }
        core.want_sync_if_hidden();
        Poll::Pending
    }

    /// Waits until everything below `up_to` has `durability`. The first to wait for a sync leads it, the others
    /// share it.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if the sync failed, [`Error::Closed`] when the log was closed before.
    pub fn wait_for(&self, up_to: Offset, durability: Durability) -> Result<()> {
        let core = &*self.0;
        if durability == Durability::Synced {
            // First the copies before it, which only their makers can finish; then the sync, which anybody can lead.
            self.wait_for(up_to, Durability::Written)?;
        }
        if let Poll::Ready(ready) = core.look_durable(up_to, durability) {
            return ready;
        }
        let mut ticket = Ticket::default();
        let result = block_on(None, |context| {
            loop {
                if let Poll::Ready(ready) = core.look_durable(up_to, durability) {
                    return Poll::Ready(ready);
                }
                match durability {
                    Durability::Written => core.written.register(&mut ticket, context.waker()),
                    Durability::Synced if core.lead_sync_as(&ticket)?.is_some() => continue,
                    Durability::Synced => core.commit.register(&mut ticket, up_to, context.waker(), true),
                }
                let may_lead = durability == Durability::Synced && core.commit.may_lead(&ticket);
                if !may_lead && core.look_durable(up_to, durability).is_pending() {
                    return Poll::Pending;
                }
            }
        });
        core.leave_durable(&mut ticket, durability);
        result.expect("no time limit was given")
    }

    /// The non-blocking twin of [`wait_for`](Self::wait_for). It leads no sync but asks the background for one.
    /// Cancel-safe: give `ticket` back with [`leave_durable`](Self::leave_durable).
    pub fn poll_durable(
        &self,
        up_to: Offset,
        durability: Durability,
        ticket: &mut Ticket,
        context: &mut Context<'_>,
    ) -> Poll<Result<()>> {
        let core = &*self.0;
        if let Poll::Ready(ready) = core.look_durable(up_to, durability) {
            return Poll::Ready(ready);
        }
        match durability {
            Durability::Written => core.written.register(ticket, context.waker()),
            Durability::Synced => core.commit.register(ticket, up_to, context.waker(), false),
        }
        if let Poll::Ready(ready) = core.look_durable(up_to, durability) {
            return Poll::Ready(ready);
        }
        if durability == Durability::Synced {
            core.want_sync();
        }
        Poll::Pending
    }

    /// Gives back a place taken by [`poll_durable`](Self::poll_durable).
    pub fn leave_durable(&self, ticket: &mut Ticket) {
        self.0.leave_durable(ticket, Durability::Synced);
        self.0.leave_durable(ticket, Durability::Written);
    }

    /// Syncs everything appended before this call. Blocks; shares a sync with others who wait.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if it failed.
    pub fn sync(&self) -> Result<Offset> {
        let end = self.end_offset();
        self.wait_for(end, Durability::Synced)?;
        Ok(end)
    }

    /// The first offset whose record is at or after `time`, and that record's time; `None` if there is none. Looks
    /// inside batches, compressed ones too, as Kafka's ListOffsets does.
    ///
    /// # Errors
    /// [`Error::Corrupt`], or [`Error::FeatureMissing`] for a batch compressed with a codec that is left out.
    pub fn offset_for_time(&self, time: Timestamp) -> Result<Option<(Offset, Timestamp)>> {
        self.0.offset_for_time(time)
    }

    /// Removes everything below `before` (and moves the start there), at most up to the high watermark. Returns the
    /// new start. Whole segments go at once, the rest is hidden.
    ///
    /// # Errors
    /// [`Error::OffsetOutOfRange`] beyond the high watermark or for a negative offset.
    pub fn delete_records(&self, before: Offset) -> Result<Offset> {
        let core = &*self.0;
        core.check_writable()?;
        let end = self.high_watermark();
        if before > end || before < Offset::ZERO {
            return Err(core.out_of_range(before, end));
        }
        core.raise_start(before);
        core.remove_below_start()?;
        core.log.save_checkpoint()?;
        Ok(core.log_start())
    }

    /// Bytes in its segments' log files.
    pub fn bytes(&self) -> u64 {
        self.0.list().0.iter().map(|segment| segment.bytes() as u64).sum()
    }

    /// How many segments it has.
    pub fn segments(&self) -> usize {
        self.0.list().0.len()
    }

    /// Why it refuses writes, if it does: what the failed sync said.
    pub fn poisoned(&self) -> Option<&str> {
        self.0.poisoned.get().map(String::as_str)
    }
}

impl Core {
    pub(crate) fn new(
        log: Arc<Shared>,
        name: TopicPartition,
        topic_id: TopicId,
        config: Arc<TopicConfig>,
        recovered: Recovered,
    ) -> Self {
        let Recovered { segments, log_start, leader_epochs, cleaned_to } = recovered;
        assert!(!segments.is_empty());
        let folder: Arc<std::path::Path> = log.dir.join(name.folder()).into();
        let epoch = leader_epochs.last().map_or(0, |(epoch, _)| *epoch);
        let visible_when = AtomicU8::new(u8::from(config.durability == Durability::Synced));
        let rules = AtomicU64::new(append_rules(&config));
        let gauges = log.gauges.clone();
        let epochs = &gauges.epochs;
        Core {
            name,
            topic_id,
            log,
            config: Slot::new(epochs, Some(config)),
            folder,
            list: Slot::new(epochs, Some(Arc::new(List(segments)))),
            active: Slot::new(epochs, None),
            admin: Mutex::new(Admin { cleaned_to, ..Admin::default() }),
            sealing: AtomicUsize::new(0),
            removal: Mutex::new(()),
            log_start: AtomicI64::new(log_start.get()),
            leader_epoch: AtomicI32::new(epoch),
            leader_epochs: Mutex::new(leader_epochs),
            visible_when,
            rules,
            sync_wanted: AtomicBool::new(false),
            readable: Waiters::new(),
            written: Waiters::new(),
            commit: GroupCommit::new(),
            poisoned: OnceLock::new(),
            gone: AtomicBool::new(false),
        }
    }

    pub(crate) fn list(&self) -> Arc<List> {
        self.list.get().expect("a partition has a list")
    }

    pub(crate) fn config(&self) -> Arc<TopicConfig> {
        self.config.get().expect("a partition has a configuration")
    }

    /// Another configuration. Records that were visible stay visible: what is there is synced first if the new one
    /// wants that.
    pub(crate) fn configure(self: &Arc<Core>, config: Arc<TopicConfig>) -> Result<()> {
        let when = u8::from(config.durability == Durability::Synced);
        if when == 1 && self.visible_when.load(Ordering::Acquire) == 0 {
            let partition = Partition(self.clone());
            partition.wait_for(partition.high_watermark(), Durability::Synced)?;
        }
        self.visible_when.store(when, Ordering::Release);
        self.rules.store(append_rules(&config), Ordering::Release);
        self.config.put(Some(config));
        self.readable.wake_all();
        Ok(())
    }

    pub(crate) fn log_start(&self) -> Offset {
        Offset::new(self.log_start.load(Ordering::Acquire))
    }

    pub(crate) fn raise_start(&self, to: Offset) {
        self.log_start.fetch_max(to.get(), Ordering::AcqRel);
    }

    fn is_visible_when_synced(&self) -> bool {
        self.visible_when.load(Ordering::Acquire) == 1
    }

    /// What readers may see of a segment.
    pub(crate) fn visible(&self, segment: &Segment) -> Mark {
        if self.is_visible_when_synced() { segment.synced.get() } else { segment.written.get() }
    }

    /// The end of what readers see.
    fn high_watermark(&self) -> Offset {
        self.reached(|segment| self.visible(segment))
    }

    /// The offset up to which `mark` has come without a gap. A later segment counts only when all earlier ones are
    /// through: one appender may still be copying into a segment that was rolled, and even the next may be full by then.
    fn reached(&self, mark: impl Fn(&Segment) -> Mark) -> Offset {
        let list = self.list();
        let mut at = list.0.len() - 1;
        // Syncs go oldest first, so there is no gap below a segment that is synced to its end; there are few others.
        while at > 0 && list.0[at - 1].sealed_end() != Some(list.0[at - 1].synced.get()) {
            at -= 1;
        }
        while at + 1 < list.0.len() && list.0[at].sealed_end() == Some(mark(&list.0[at])) {
            at += 1;
        }
        list.0[at].offset(mark(&list.0[at]))
    }

    fn check_open(&self) -> Result<()> {
        self.log.check_open()?;
        if self.gone.load(Ordering::Acquire) {
            return Err(Error::UnknownTopicOrPartition {
                name: self.name.to_string(),
                found: "the topic was deleted".into(),
            });
        }
        Ok(())
    }

    pub(crate) fn check_poison(&self) -> Result<()> {
        match self.poisoned.get() {
            None => Ok(()),
            Some(cause) => Err(Error::Poisoned { partition: self.name.clone(), cause: cause.clone() }),
        }
    }

    pub(crate) fn check_writable(&self) -> Result<()> {
        self.check_open()?;
        self.log.check_accepting()?;
        self.check_poison()
    }

    fn check_batch(&self, batch: &ValidBatch<'_>, rules: u64) -> Result<()> {
        let (size, max) = (batch.size(), rules as u32 as usize);
        if size > max {
            return Err(Error::invalid(
                "batch",
                format!("at most {max} bytes (the smaller of max.message.bytes and segment.bytes)"),
                format!("{size} bytes for {}", self.name),
                "send smaller batches, or raise the topic's max.message.bytes",
            ));
        }
        if rules & KEYED != 0 && batch.has_keyless_records() {
            return Err(Error::invalid(
                "record",
                format!("a key, because {} is compacted", self.name),
                "none",
                "give every record a key, or set the topic's cleanup.policy to delete",
            ));
        }
        Ok(())
    }

    fn out_of_range(&self, requested: Offset, end: Offset) -> Error {
        Error::OffsetOutOfRange { partition: self.name.clone(), requested, start: self.log_start(), end }
    }

    pub(crate) fn poisoned_now(&self) -> bool {
        self.poisoned.get().is_some()
    }

    pub(crate) fn poison(&self, cause: &io::Error) -> Error {
        let cause = self.poisoned.get_or_init(|| cause.to_string()).clone();
        self.wake_everybody();
        Error::Poisoned { partition: self.name.clone(), cause }
    }

    pub(crate) fn publish(&self, active: &Active, room: crate::tail::Reservation) -> Result<()> {
        if !active.tail.publish(room) {
            return Ok(());
        }
        if active.is_written() {
            self.write_out(active)?;
        } else {
            self.wake_written();
        }
        if self.commit.has_followers() || (self.readable.any() && self.is_visible_when_synced()) {
            // Somebody without a thread of its own waits for a sync, or a reader for what the sync makes visible.
            self.want_sync();
        }
        Ok(())
    }

    /// More has come as far as the page cache. Readers of a `Synced` topic are not told: they see it later.
    fn wake_written(&self) {
        self.written.wake_after_seq_cst();
        if !self.is_visible_when_synced() {
            self.readable.wake_after_seq_cst();
        }
    }

    pub(crate) fn wake_everybody(&self) {
        self.written.wake_all();
        self.readable.wake_all();
        self.commit.wake_all(false);
    }

    /// Brings what is published to the page cache. A failed write is as bad as a failed sync: bytes that were given
    /// offsets are not where they should be.
    fn write_out(&self, active: &Active) -> Result<bool> {
        match active.write_out() {
            Ok(moved) => {
                if moved {
                    self.wake_written();
                }
                Ok(moved)
            }
            Err(cause) => Err(self.poison(&cause)),
        }
    }

    /// A reader parked at the end of what is visible waits for the sync that makes more visible.
    fn want_sync_if_hidden(&self) {
        if self.is_visible_when_synced() && self.is_dirty() {
            self.want_sync();
        }
    }

    fn want_sync(&self) {
        if !self.sync_wanted.swap(true, Ordering::AcqRel) {
            self.log.wake_background();
        }
    }

    fn leave_durable(&self, ticket: &mut Ticket, durability: Durability) {
        match durability {
            Durability::Written => self.written.leave(ticket),
            Durability::Synced => {
                if self.commit.leave(ticket) {
                    self.want_sync();
                }
            }
        }
    }

    fn look_durable(&self, up_to: Offset, durability: Durability) -> Poll<Result<()>> {
        let reached = match durability {
            Durability::Written => self.reached(|segment| segment.written.get()),
            Durability::Synced => self.reached(|segment| segment.synced.get()),
        };
        if reached >= up_to {
            return Poll::Ready(Ok(()));
        }
        match self.check_open().and_then(|()| self.check_poison()) {
            Err(error) => Poll::Ready(Err(error)),
            Ok(()) => Poll::Pending,
        }
    }

    /// Whether something is published and not synced.
    pub(crate) fn is_dirty(&self) -> bool {
        let list = self.list();
        let first = list.0.len().saturating_sub(2);
        list.0[first..].iter().any(|segment| segment.synced.get() != segment.published.get())
    }

    /// Syncs what is published, if nobody else is at it or about to be (`None`). `Some(true)` if more is synced than
    /// before.
    pub(crate) fn lead_sync(&self) -> Result<Option<bool>> {
        self.check_poison()?;
        if !self.commit.try_lead(&Ticket::default()) {
            return Ok(None);
        }
        self.sync_as_leader()
    }

    /// The same, by one of those who wait, to whom the lead may have been handed. It may take half a sync longer to
    /// take the others along.
    fn lead_sync_as(&self, ticket: &Ticket) -> Result<Option<bool>> {
        self.check_poison()?;
        if !self.commit.try_lead(ticket) {
            return Ok(None);
        }
        let clock = &*self.log.env.clock;
        let begun = clock.now();
        let patience = (self.log.sync_time() / 2).min(PATIENCE_MAX);
        self.commit.gather(|| clock.now().since(begun) < patience);
        self.sync_as_leader()
    }

    fn sync_as_leader(&self) -> Result<Option<bool>> {
        self.sync_wanted.store(false, Ordering::SeqCst);
        let clock = &*self.log.env.clock;
        let begun = clock.now();
        let result = self.sync_now(|file, _| file.sync());
        self.log.note_sync_time(clock.now().since(begun));
        self.after_sync(result)
    }

    /// The end of every sync: the lead is given up, and those it concerns are woken.
    fn after_sync(&self, result: Result<bool, io::Error>) -> Result<Option<bool>> {
        match result {
            Ok(moved) => {
                let stranded = self.commit.done(self.reached(|segment| segment.synced.get()));
                // If nothing moved, what they wait for is not published yet; whoever publishes it asks for the sync.
                if stranded && moved {
                    self.want_sync();
                }
                if moved {
                    self.written.wake_all();
                    self.readable.wake_all();
                }
                Ok(Some(moved))
            }
            Err(cause) => {
                let error = self.poison(&cause);
                self.commit.wake_all(true);
                Err(error)
            }
        }
    }

    /// What a sync would have to sync now: for the background, which syncs many partitions in one submission.
    /// Takes the lead; [`finish_batched_sync`](Self::finish_batched_sync) must follow.
    pub(crate) fn begin_batched_sync(&self) -> Option<(Arc<Active>, Mark)> {
        if self.poisoned.get().is_some() || !self.commit.try_lead(&Ticket::default()) {
            return None;
        }
        self.sync_wanted.store(false, Ordering::SeqCst);
        let simple = (|| {
            let sealing = !self.admin.lock().unwrap().sealing.is_empty();
            let active = self.active.get()?;
            let published = active.tail.published();
            let easy = !sealing && active.segment.named.load(Ordering::Acquire) && !active.is_written();
            (easy && active.segment.synced.get() != published).then_some((active, published))
        })();
        if simple.is_none() {
            // Not the simple case (a roll, a new file, a ring): the ordinary way, on its own.
            let result = self.sync_now(|file, _| file.sync());
            // A failure poisons the partition, and everybody who asks is told.
            let _ = self.after_sync(result);
        }
        simple
    }

    pub(crate) fn finish_batched_sync(&self, active: &Active, mark: Mark, result: io::Result<()>) {
        let result = result.map(|()| {
            active.segment.synced.set(mark);
            true
        });
        let _ = self.after_sync(result);
    }

    /// Oldest segment first, so that what is synced never has a gap. Only by who leads.
    fn sync_now(&self, sync: impl Fn(&dyn File, &Segment) -> io::Result<()>) -> io::Result<bool> {
        let mut moved = false;
        loop {
            let (sealing, active) = {
                let admin = self.admin.lock().unwrap();
                match admin.sealing.front() {
                    Some(oldest) => (true, oldest.clone()),
                    None => match self.active.get() {
                        Some(active) => (false, active),
                        None => return Ok(moved),
                    },
                }
            };
            let segment = &active.segment;
            active.write_out()?;
            let mark = segment.written.get();
            if segment.synced.get() != mark {
                if !segment.named.load(Ordering::Acquire) {
                    self.log.env.disk.sync_dir(&self.folder)?;
                    segment.named.store(true, Ordering::Release);
                }
                sync(&*active.file, segment)?;
                segment.synced.set(mark);
                moved = true;
            }
            if !sealing {
                return Ok(moved);
            }
            // A sealed segment leaves the queue when its last copy is published and synced; until then nothing
            // behind it may count as synced.
            match active.tail.settled() {
                Some(end) if end == mark => self.settle(&active)?,
                Some(_) => {}
                None => return Ok(moved),
            }
        }
    }

    /// A sealed segment is whole and synced: cut its file to its end and let its region go. Readers map it anew.
    fn settle(&self, active: &Arc<Active>) -> io::Result<()> {
        let segment = &active.segment;
        let end = segment.published.get().bytes() as u64;
        if active.file.len()? > end {
            active.file.set_len(end)?;
        }
        self.save_indexes(segment);
        segment.unmap();
        let mut admin = self.admin.lock().unwrap();
        admin.sealing.retain(|other| !Arc::ptr_eq(other, active));
        self.sealing.store(admin.sealing.len(), Ordering::Release);
        Ok(())
    }

    /// Writes a sealed segment's index files. They are a convenience: whoever misses them draws them again.
    pub(crate) fn save_indexes(&self, segment: &Segment) {
        let disk = &*self.log.env.disk;
        let save = || -> Result<()> {
            let mapped = segment.mapping(disk)?;
            let mut indexes = segment.indexes.lock().unwrap();
            segment.catch_up(&mapped, &mut indexes)?;
            indexes.seal();
            for (ending, bytes) in [("index", indexes.offset_bytes()), ("timeindex", indexes.time_bytes())] {
                let path = segment.path(ending);
                crate::disk::replace_file(disk, &path, bytes).map_err(|e| Error::io("writing", path, e))?;
            }
            Ok(())
        };
        segment.indexes_saved.store(save().is_ok(), Ordering::Release);
    }

    fn opening(&self, how: Open, config: &TopicConfig) -> Opening<'_> {
        let log = &self.log.config;
        let buffered = self.log.buffered;
        Opening {
            disk: &*self.log.env.disk,
            how,
            limit: config.segment_bytes,
            window: log.window_bytes,
            buffer: buffered.then(|| log.write_buffer_bytes.max(config.max_message_bytes)),
        }
    }

    /// Makes the last segment open for appends again, or begins the next one if it is sealed.
    pub(crate) fn open_active(self: &Arc<Core>) -> Result<()> {
        self.log.make_room_for_region(self)?;
        let mut admin = self.admin.lock().unwrap();
        if self.active.get().is_some_and(|active| !active.tail.is_closed()) {
            return Ok(());
        }
        self.check_writable()?;
        let config = self.config();
        let list = self.list();
        let last = list.last();
        match last.sealed_end() {
            None => {
                let active = Active::open(last.clone(), &self.opening(Open::Write, &config))?;
                self.active.put(Some(Arc::new(active)));
            }
            Some(end) => self.begin_segment(&mut admin, &list, last.offset(end), &config)?,
        }
        Ok(())
    }

    /// The next segment, at `base`.
    fn begin_segment(
        &self,
        admin: &mut Admin,
        list: &List,
        base: Offset,
        config: &TopicConfig,
    ) -> Result<()> {
        let segment = Arc::new(Segment::new(
            base,
            self.folder.clone(),
            self.log.gauges.clone(),
            Mark::default(),
            0,
            Indexes::new(config.index_interval_bytes),
            self.log.buffered,
        ));
        // A file of that name can only be left over from a roll that failed; it holds nothing.
        let active = Active::open(segment.clone(), &self.opening(Open::Create, config))?;
        let mut segments = list.0.clone();
        segments.push(segment);
        self.list.put(Some(Arc::new(List(segments))));
        self.active.put(Some(Arc::new(active)));
        admin.first_append = None;
        Ok(())
    }

    /// Seals the active segment and begins the next. Copies into the old one may still be going on; nobody waits
    /// for them.
    pub(crate) fn roll(self: &Arc<Core>, full: &Arc<Active>) -> Result<()> {
        self.log.make_room_for_region(self)?;
        let waiting = {
            let mut admin = self.admin.lock().unwrap();
            if !self.active.get().is_some_and(|active| Arc::ptr_eq(&active, full)) || full.tail.is_closed() {
                return Ok(());
            }
            self.check_writable()?;
            let end = full.tail.close();
            if end == Mark::default() {
                // Empty, and still too small: the configuration was raised since it was opened. Open it again.
                self.active.put(None);
                return Ok(());
            }
            full.segment.seal(end);
            admin.sealing.push_back(full.clone());
            self.sealing.store(admin.sealing.len(), Ordering::Release);
            let config = self.config();
            let begun = self.begin_segment(&mut admin, &self.list(), full.segment.offset(end), &config);
            if begun.is_err() {
                // Sealed all the same: the next append tries again to begin the next one.
                self.active.put(None);
            }
            begun?;
            admin.sealing.len()
        };
        // A sealed segment keeps its descriptor and its dirty pages until it is synced. The background sees to that;
        // where it falls behind, or there is none, an appender does.
        self.want_sync();
        if waiting > SEALING_MAX {
            self.lead_sync()?;
        }
        Ok(())
    }

    /// Room in the file up to `end` at least. Fails when the disk is full, and then nothing has changed.
    pub(crate) fn grow(&self, active: &Active, end: u32) -> Result<()> {
        let synced_topic = self.is_visible_when_synced();
        if synced_topic && self.unsynced_bytes() > self.log.config.unsynced_bytes_max as u64 {
            // Memory is bounded: an appender that is this far ahead of the medium takes part in the sync.
            self.lead_sync()?;
        }
        let _admin = self.admin.lock().unwrap();
        let now = active.tail.allocated();
        if now >= end || active.tail.is_closed() {
            return Ok(());
        }
        self.check_writable()?;
        let config = self.config();
        let (log, gauges) = (&self.log.config, &self.log.gauges);
        let limit = config.segment_bytes.max(end);
        let step = now.clamp(log.growth_bytes_min, log.growth_bytes_max);
        // An appender that has come to the end waits for as little as possible; the background makes more.
        let step = if synced_topic { step.min(log.growth_bytes_min) } else { step };
        let wish = end.max(now.saturating_add(step)).next_multiple_of(4096).min(limit);
        let need = end.next_multiple_of(4096).min(limit);
        let reserve = |to: u32| {
            active.reserve_blocks(now, to, synced_topic).or_else(|_| {
                // Files that were removed may still be mapped, and hold their room, until the background comes.
                gauges.unmap_retired();
                active.reserve_blocks(now, to, synced_topic)
            })
        };
        let reached = match reserve(wish) {
            Ok(()) => wish,
            Err(_) if need < wish => {
                reserve(need).map_err(|e| Error::io("growing", active.segment.path("log"), e))?;
                need
            }
            Err(e) => return Err(Error::io("growing", active.segment.path("log"), e)),
        };
        active.tail.grown_to(reached);
        Ok(())
    }

    fn unsynced_bytes(&self) -> u64 {
        let list = self.list();
        list.0.iter().rev().take(3).map(|s| (s.published.get().bytes() - s.synced.get().bytes()) as u64).sum()
    }

    /// Closes the region of an idle partition: synced, cut, descriptor and mapping let go. `false` if it is in use.
    pub(crate) fn park(&self) -> Result<bool> {
        self.lead_sync()?;
        let admin = self.admin.lock().unwrap();
        let Some(active) = self.active.get() else { return Ok(admin.sealing.is_empty()) };
        if !admin.sealing.is_empty() {
            return Ok(false);
        }
        let end = active.tail.close();
        let segment = &active.segment;
        if active.tail.settled() != Some(end) || segment.synced.get() != end {
            active.tail.reopen();
            return Ok(false);
        }
        active.file.set_len(end.bytes() as u64).map_err(|e| Error::io("cutting", segment.path("log"), e))?;
        segment.unmap();
        self.active.put(None);
        Ok(true)
    }

    /// Finds the batch that contains `offset` in a segment: its position, or the end of what is visible.
    pub(crate) fn locate(&self, segment: &Segment, mapped: &Mapped, offset: Offset) -> Result<u32> {
        let end = self.visible(segment).bytes();
        let mut at = {
            let mut indexes = segment.indexes.lock().unwrap();
            // Indexes lag behind the end; the walk from the last entry is bounded by drawing them as far as the end.
            if end.saturating_sub(indexes.covered()) > LOOKUP_WALK_BYTES {
                segment.catch_up(mapped, &mut indexes)?;
            }
            indexes.lookup(segment.base, offset).get()
        };
        let bytes = segment.slice(mapped, 0, end);
        let end = bytes.len() as u32;
        while at < end {
            let header = Header::parse(&bytes[at as usize..])
                .map_err(|flaw| segment.corrupt(at as u64 + flaw.at as u64, &flaw))?;
            if header.last_offset() >= offset {
                break;
            }
            at += header.size() as u32;
        }
        Ok(at.min(end))
    }

    fn offset_for_time(&self, time: Timestamp) -> Result<Option<(Offset, Timestamp)>> {
        self.check_open()?;
        let start = self.log_start();
        let disk = &*self.log.env.disk;
        for segment in &self.list().0 {
            let end = self.visible(segment);
            if end.records() == 0 || segment.offset(end) <= start {
                continue;
            }
            let mapped = match segment.mapping(disk) {
                // Removed meanwhile.
                Err(_) if segment.offset(end) <= self.log_start() => continue,
                mapped => mapped?,
            };
            let from = {
                let mut indexes = segment.indexes.lock().unwrap();
                segment.catch_up(&mapped, &mut indexes)?;
                if indexes.max_timestamp() < time {
                    continue;
                }
                indexes.lookup_time(segment.base, time)
            };
            let mut at = self.locate(segment, &mapped, from.max(start))?;
            let bytes = segment.slice(&mapped, 0, end.bytes());
            let mut scratch = Vec::new();
            while at < end.bytes() {
                let corrupt = |flaw: crate::batch::Flaw| segment.corrupt(at as u64 + flaw.at as u64, &flaw);
                let batch = Batch::parse(&bytes[at as usize..]).map_err(corrupt)?;
                let header = batch.header();
                if header.max_timestamp >= time && !header.is_control() {
                    if !segment.is_verified(at, at + header.size() as u32) {
                        batch.check_crc().map_err(corrupt)?;
                    }
                    if let Some(found) =
                        self.record_at_time(&batch, &mut scratch, time, start, segment, at)?
                    {
                        return Ok(Some(found));
                    }
                }
                at += header.size() as u32;
            }
        }
        Ok(None)
    }

    fn record_at_time(
        &self,
        batch: &Batch<'_>,
        scratch: &mut Vec<u8>,
        time: Timestamp,
        start: Offset,
        segment: &Segment,
        at: u32,
    ) -> Result<Option<(Offset, Timestamp)>> {
        let max = self.log.config.decompressed_bytes_max as usize;
        let corrupt = |flaw: crate::batch::Flaw| segment.corrupt(at as u64 + flaw.at as u64, &flaw);
        let plain = if batch.header().is_compressed() {
            decompress(batch, scratch, max).map_err(|e| self.codec_error(e, &batch.header(), segment, at))?;
            Batch::parse(scratch).map_err(corrupt)?
        } else {
            *batch
        };
        for record in plain.records() {
            let record = record.map_err(corrupt)?;
            if record.offset() >= start && record.timestamp() >= time {
                return Ok(Some((record.offset(), record.timestamp())));
            }
        }
        Ok(None)
    }

    /// Why a batch could not be inflated, as an error that names the place.
    fn codec_error(&self, error: CodecError, header: &Header, segment: &Segment, at: u32) -> Error {
        match error {
            CodecError::Flaw(flaw) => segment.corrupt(at as u64 + flaw.at as u64, &flaw),
            CodecError::FeatureMissing(feature) => {
                Error::FeatureMissing { partition: self.name.clone(), offset: header.base_offset, feature }
            }
            CodecError::TooLarge { max } => Error::invalid(
                "compressed batch",
                format!("at most {max} bytes when inflated (decompressed_bytes_max)"),
                format!("more at offset {} of {}", header.base_offset, self.name),
                "raise decompressed_bytes_max if the batch is to be trusted",
            ),
        }
    }

    /// What the checkpoint says about this partition.
    pub(crate) fn point(&self) -> PartitionPoint {
        let list = self.list();
        let synced = self.reached(|segment| segment.synced.get());
        let segments = list
            .0
            .iter()
            .map(|segment| {
                let indexes = segment.indexes.lock().unwrap();
                let saved = segment.indexes_saved.load(Ordering::Acquire);
                SegmentPoint {
                    base: segment.base,
                    bytes: segment.synced.get().bytes(),
                    records: segment.synced.get().records(),
                    max_timestamp: indexes.max_timestamp(),
                    index_crc: if saved { crc32fast::hash(indexes.offset_bytes()) } else { 0 },
                    timeindex_crc: if saved { crc32fast::hash(indexes.time_bytes()) } else { 0 },
                    sealed: segment.sealed_end().is_some_and(|end| end == segment.synced.get()),
                    indexed: saved,
                }
            })
            .collect();
        PartitionPoint {
            topic_id: self.topic_id,
            log_start: self.log_start(),
            recovery_point: synced,
            end: synced,
            leader_epochs: self.leader_epochs.lock().unwrap().clone(),
            segments,
            cleaned_to: self.admin.lock().unwrap().cleaned_to,
        }
    }

    /// Takes segments that lie wholly below the log's start out of the list and off the disk.
    pub(crate) fn remove_below_start(&self) -> Result<u64> {
        let start = self.log_start();
        self.remove_oldest(|segment, next| {
            next.is_some_and(|next| next <= start) && segment.sealed_end().is_some()
        })
    }

    /// Removes the oldest segments for as long as `doomed` says so; the last segment always stays. Returns the bytes
    /// that went. Views of them stay good.
    pub(crate) fn remove_oldest(&self, doomed: impl Fn(&Segment, Option<Offset>) -> bool) -> Result<u64> {
        let _removal = self.removal.lock().unwrap();
        let admin = self.admin.lock().unwrap();
        let list = self.list();
        let mut count = 0;
        while count + 1 < list.0.len() {
            let segment = &list.0[count];
            let settled = !admin.sealing.iter().any(|active| Arc::ptr_eq(&active.segment, segment));
            if !settled || !doomed(segment, Some(list.0[count + 1].base)) {
                break;
            }
            count += 1;
        }
        if count == 0 {
            return Ok(0);
        }
        self.raise_start(list.0[count].base);
        self.list.put(Some(Arc::new(List(list.0[count..].to_vec()))));
        drop(admin);
        let mut bytes = 0;
        for segment in &list.0[..count] {
            bytes += segment.bytes() as u64;
            segment.forget();
            self.remove_files(segment)?;
        }
        self.log.env.disk.sync_dir(&self.folder).map_err(|e| Error::io("syncing", &*self.folder, e))?;
        // A file gives its room back when its last mapping goes, and room may be what this was done for.
        self.log.gauges.unmap_retired();
        Ok(bytes)
    }

    /// Removes a segment's files. The log goes first: indexes without a log mean nothing, a log without indexes
    /// would be read.
    pub(crate) fn remove_files(&self, segment: &Segment) -> Result<()> {
        for ending in ["log", "index", "timeindex", "txnindex", "snapshot"] {
            let path = segment.path(ending);
            match self.log.env.disk.remove(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io("removing", path, e)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// A bit of [`Core::rules`]: records get the time of their append.
const STAMPED: u64 = 1 << 32;
/// Another: every record needs a key, as Kafka demands of compacted topics (`InvalidRecordException`).
const KEYED: u64 = 1 << 33;

fn append_rules(config: &TopicConfig) -> u64 {
    let stamped = config.timestamp_type == TimestampType::LogAppendTime;
    config.max_message_bytes.min(config.segment_bytes) as u64
        | if stamped { STAMPED } else { 0 }
        | if config.is_compacted() { KEYED } else { 0 }
}

/// A leader waits at most this long for others to come along, however slow the disk.
const PATIENCE_MAX: Duration = Duration::from_millis(1);

/// More sealed segments than this may not wait for their sync.
const SEALING_MAX: usize = 4;

/// A lookup walks at most this far past the last index entry before it draws the index further.
const LOOKUP_WALK_BYTES: u32 = 64 << 10;

/// Reads a partition on and on, remembering where it is: no lookup, no lock and no allocation per read once it is
/// under way. [`Send`]; keeps its present segment in memory.
///
/// ```
/// # use girok_engine::*;
/// # let (log, _) = Log::open(Env::in_memory(), "/log", LogConfig::default())?;
/// # log.create_topic("orders", 1, TopicConfig::default())?;
/// # let partition = log.partition(&TopicPartition::new("orders", 0))?;
/// # let mut builder = batch::BatchBuilder::new(batch::Codec::None);
/// # builder.append(Timestamp::from_millis(1), None, Some(b"tea"), &[])?;
/// # let batch = builder.finish()?;
/// # partition.append(&batch)?;
/// # partition.append(&batch)?;
/// # partition.sync()?;
/// let mut reader = partition.reader(Offset::ZERO);
/// while reader.is_readable() {
///     let view = reader.read(&FetchBounds::default())?;
///     assert_eq!(view.next(), reader.position());
/// }
/// assert_eq!(reader.position(), partition.high_watermark());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Reader {
    core: Arc<Core>,
    next: Offset,
    spot: Option<Spot>,
}

struct Spot {
    segment: Arc<Segment>,
    mapped: Arc<Mapped>,
    position: u32,
    /// The batch at `position` begins at the offset that is read next, or after it; else it merely contains it.
    at_boundary: bool,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reader({} at offset {})", self.core.name, self.next)
    }
}

impl Reader {
    /// The offset that the next read begins at.
    pub fn position(&self) -> Offset {
        self.next
    }

    /// Reads on from another offset.
    pub fn seek(&mut self, to: Offset) {
        if to != self.next {
            self.next = to;
            self.spot = None;
        }
    }

    /// Whether there is something to read now: one or two loads.
    pub fn is_readable(&self) -> bool {
        match &self.spot {
            Some(spot) => {
                let visible = self.core.visible(&spot.segment);
                visible.bytes() > spot.position || spot.segment.sealed_end() == Some(visible)
            }
            None => self.core.high_watermark() > self.next,
        }
    }

    /// Whole batches from [`position`](Self::position) on, which moves past them; an empty view at the end.
    ///
    /// # Errors
    /// As [`Partition::fetch`]; the position stays.
    pub fn read(&mut self, bounds: &FetchBounds) -> Result<View> {
        self.core.check_open()?;
        match self.read_on(bounds) {
            // Removed in the middle of it: what went wrong is that the offset is gone.
            Err(_) if self.next < self.core.log_start() => {
                let end = self.core.high_watermark();
                Err(self.core.out_of_range(self.next, end))
            }
            other => other,
        }
    }

    fn read_on(&mut self, bounds: &FetchBounds) -> Result<View> {
        loop {
            if self.next < self.core.log_start() {
                let end = self.core.high_watermark();
                return Err(self.core.out_of_range(self.next, end));
            }
            let spot = match &mut self.spot {
                Some(spot) => spot,
                empty => match Self::find(&self.core, self.next)? {
                    Some(spot) => empty.insert(spot),
                    None => return Ok(View::empty(self.next)),
                },
            };
            let visible = self.core.visible(&spot.segment);
            if visible.bytes() > spot.position {
                let view = Self::take(&self.core, spot, visible, self.next, bounds)?;
                self.next = view.next();
                return Ok(view);
            }
            // At the end of this segment: there is a next one only if this one is through.
            if spot.segment.sealed_end() != Some(visible) {
                return Ok(View::empty(self.next));
            }
            let end = spot.segment.offset(visible);
            // Not simply the next in the list: compaction may have put this one and those behind it into a segment
            // that begins further down, or have left nothing in the next.
            let list = self.core.list();
            let through =
                |segment: &Segment| segment.sealed_end().is_some_and(|mark| segment.offset(mark) <= end);
            let Some(next) = list.0[list.find(end)..].iter().find(|segment| !through(segment)) else {
                return Ok(View::empty(self.next));
            };
            if self.core.visible(next).bytes() == 0 {
                return Ok(View::empty(self.next));
            }
            let mapped = next.mapping(&*self.core.log.env.disk)?;
            let position = if next.base >= end { 0 } else { self.core.locate(next, &mapped, end)? };
            self.spot = Some(Spot { segment: next.clone(), mapped, position, at_boundary: true });
        }
    }

    fn find(core: &Arc<Core>, offset: Offset) -> Result<Option<Spot>> {
        let partition = Partition(core.clone());
        let (high, end) = (partition.high_watermark(), partition.end_offset());
        if offset > end || offset < core.log_start() {
            return Err(core.out_of_range(offset, high));
        }
        let list = core.list();
        let segment = &list.0[list.find(offset)];
        if offset >= high {
            return Ok(None);
        }
        let mapped = segment.mapping(&*core.log.env.disk)?;
        let position = core.locate(segment, &mapped, offset)?;
        Ok(Some(Spot { segment: segment.clone(), mapped, position, at_boundary: false }))
    }

    fn take(core: &Core, spot: &mut Spot, visible: Mark, from: Offset, bounds: &FetchBounds) -> Result<View> {
        let Spot { segment, mapped, position, at_boundary } = spot;
        // The mapping of a parked segment ends where the segment then ended; appends since have made a new one.
        if mapped.len() < visible.bytes() as usize {
            *mapped = segment.mapping(&*core.log.env.disk)?;
        }
        let start = *position;
        let all = segment.slice(mapped, start, visible.bytes());
        let (taken, next) = if all.len() <= bounds.bytes_max as usize && bounds.records_max == u32::MAX {
            (all.len(), segment.offset(visible))
        } else {
            walk(segment, all, start, bounds)?
        };
        let end = start + taken as u32;
        let always = core.log.config.check_crcs == crate::config::CheckCrcs::Always;
        let lowest = if *at_boundary { from } else { segment.base };
        let view = match core.log.config.read {
            ReadMode::Mapped => {
                if always || !segment.is_verified(start, end) {
                    segment.verify_from(&all[..taken], start, lowest, &all[taken..])?;
                }
                segment.view(mapped.clone(), start, end, from, next)
            }
            ReadMode::Copy => {
                let bytes = segment.copy(&*core.log.env.disk, start, end)?;
                if always || !segment.is_verified(start, end) {
                    segment.verify_from(&bytes, start, lowest, &all[taken..])?;
                }
                Segment::copied(bytes, 0, taken, from, next)
            }
        };
        *position = end;
        *at_boundary = true;
        Ok(view)
    }
}

/// How many bytes of whole batches fit the bounds (one batch at least), and the offset after them.
fn walk(segment: &Segment, bytes: &[u8], start: u32, bounds: &FetchBounds) -> Result<(usize, Offset)> {
    let (mut at, mut records, mut next) = (0, 0u64, segment.base);
    while at < bytes.len() {
        let (size, count, behind) = Header::span(&bytes[at..])
            .map_err(|flaw| segment.corrupt(start as u64 + (at + flaw.at) as u64, &flaw))?;
        if at > 0 && (at + size > bounds.bytes_max as usize || records >= bounds.records_max as u64) {
            break;
        }
        at += size;
        records += count as u64;
        next = behind;
    }
    if at > bytes.len() {
        let flaw =
            crate::batch::Flaw::new(at, "a whole batch", "a batch that reaches past the end of the segment");
        return Err(segment.corrupt(start as u64, &flaw));
    }
    Ok((at, next))
}
