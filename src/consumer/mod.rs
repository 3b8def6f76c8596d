//! Reading: a consumer is assigned partitions, polls records of one at a time in turn, and says how far it is.
//!
//! ```text
//!  poll ── whose turn? ── reader of the partition ── view of the segment ── cut to max_poll_records ── Records
//!          one bit each   remembers where it is      held over several polls   inflated if compressed
//! ```
//!
//! Nothing is copied and nothing allocated on the way, once it is under way, unless a batch is compressed. What is
//! empty registers a waker and is not looked at again until that fires (`ready`).

mod cut;
mod pool;
mod ready;
mod records;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use girok_coordinator::records::OffsetAndMetadata;
use girok_coordinator::{CommitEntry, CommitOptions, Coordinator, Receipt, Reject};
use girok_engine::batch::{Batch, CodecError, Flaw, decompress};
use girok_engine::wait::{Ticket, block_on};
use girok_engine::{FetchBounds, Moment, Offset, Reader, Timestamp, TopicPartition, View};

use crate::core::{Known, Task, TimerKey};
use crate::error::{Error, Result, invalid, unsupported};
use crate::girok::Handle;
use cut::{Spot, cut, walk};
use pool::Pool;
use ready::Ready;
use records::Keep;

pub(crate) use ready::Sleeper;
pub use records::{Header, Headers, Iter, Record, Records};

/// Where to read on when there is no committed offset, or no record at it any more (`auto.offset.reset`).
///
/// ```
/// assert_eq!(girok::OffsetReset::default(), girok::OffsetReset::Earliest);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum OffsetReset {
    /// At the first record there is. The default, unlike in Kafka: a reader that starts a moment after its writer, in
    /// one program, should not miss the beginning.
    #[default]
    Earliest,
    /// Behind the last record there is.
    Latest,
    /// Nowhere: an error.
    None,
}

/// Which records are seen (`isolation.level`).
///
/// ```
/// use girok::{Girok, IsolationLevel};
/// let refused = Girok::in_memory()?.consumer().isolation_level(IsolationLevel::ReadCommitted).build().unwrap_err();
/// assert!(refused.to_string().contains("read_committed"), "{refused}");
/// # Ok::<(), girok::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum IsolationLevel {
    /// All.
    #[default]
    ReadUncommitted,
    /// Those of transactions that were committed. Refused for now: transactions come in a later version.
    ReadCommitted,
}

#[derive(Clone, Debug)]
struct Settings {
    group_id: Option<Arc<str>>,
    reset: OffsetReset,
    auto_commit: bool,
    auto_commit_interval: Duration,
    max_poll_records: usize,
    fetch_max_bytes: u32,
    max_partition_fetch_bytes: u32,
    check_crcs: bool,
    isolation: IsolationLevel,
}

/// Configures a [`Consumer`]. From [`Girok::consumer`](crate::Girok::consumer).
///
/// ```
/// use girok::{Girok, OffsetReset};
/// let girok = Girok::in_memory()?;
/// let consumer = girok.consumer().group_id("search").auto_offset_reset(OffsetReset::Latest).build()?;
/// # Ok::<(), girok::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it builds"]
pub struct ConsumerBuilder {
    handle: Arc<Handle>,
    settings: Settings,
}

impl ConsumerBuilder {
    pub(crate) fn new(handle: Arc<Handle>) -> Self {
        let settings = Settings {
            group_id: None,
            reset: OffsetReset::Earliest,
            auto_commit: true,
            auto_commit_interval: Duration::from_secs(5),
            max_poll_records: 500,
            fetch_max_bytes: 50 << 20,
            max_partition_fetch_bytes: 1 << 20,
            check_crcs: false,
            isolation: IsolationLevel::ReadUncommitted,
        };
        ConsumerBuilder { handle, settings }
    }

    /// The group whose committed offsets these are (`group.id`). Without one there are no commits.
    pub fn group_id(mut self, group: impl Into<Arc<str>>) -> Self {
        self.settings.group_id = Some(group.into());
        self
    }

    /// Where to read on without a valid committed offset (`auto.offset.reset`). [`OffsetReset::Earliest`], where Kafka
    /// has latest; the type says why.
    pub fn auto_offset_reset(mut self, reset: OffsetReset) -> Self {
        self.settings.reset = reset;
        self
    }

    /// Whether what was processed is committed every [`auto_commit_interval`](Self::auto_commit_interval)
    /// (`enable.auto.commit`). `true`, if there is a group. Records count as processed when the *next* poll begins, at an
    /// explicit commit, or at [`close`](Consumer::close); never by drop, so that an error on the way out of a loop does
    /// not skip what it was about.
    pub fn enable_auto_commit(mut self, enable: bool) -> Self {
        self.settings.auto_commit = enable;
        self
    }

    /// How often (`auto.commit.interval.ms`). 5 s.
    pub fn auto_commit_interval(mut self, interval: Duration) -> Self {
        self.settings.auto_commit_interval = interval;
        self
    }

    /// One poll returns at most so many records (`max.poll.records`). 500.
    pub fn max_poll_records(mut self, records: usize) -> Self {
        self.settings.max_poll_records = records;
        self
    }

    /// Whole batches that one poll looks at take at most so many bytes, or are one (`fetch.max.bytes`). 50 MiB; a poll
    /// is about one partition here, so the smaller of this and the next bounds it.
    pub fn fetch_max_bytes(mut self, bytes: u32) -> Self {
        self.settings.fetch_max_bytes = bytes;
        self
    }

    /// The same for each partition (`max.partition.fetch.bytes`). 1 MiB.
    pub fn max_partition_fetch_bytes(mut self, bytes: u32) -> Self {
        self.settings.max_partition_fetch_bytes = bytes;
        self
    }

    /// Whether this consumer checks every batch's checksum itself (`check.crcs`). `false`, unlike in Kafka: no network
    /// lies between, and the engine has checked each batch once after it came from a producer or from the medium. See
    /// [`LogConfig::check_crcs`](girok_engine::LogConfig::check_crcs) for all readers.
    pub fn check_crcs(mut self, check: bool) -> Self {
        self.settings.check_crcs = check;
        self
    }

    /// Which records are seen (`isolation.level`).
    pub fn isolation_level(mut self, level: IsolationLevel) -> Self {
        self.settings.isolation = level;
        self
    }

    /// The consumer.
    ///
    /// # Errors
    /// A setting out of bounds; [`IsolationLevel::ReadCommitted`], by name.
    pub fn build(self) -> Result<Consumer> {
        let ConsumerBuilder { handle, settings } = self;
        handle.core.check()?;
        if settings.isolation == IsolationLevel::ReadCommitted {
            return Err(unsupported(
                "isolation_level read_committed",
                "transactions come in a later version; use read_uncommitted",
            ));
        }
        for (name, found) in [
            ("max_poll_records", settings.max_poll_records),
            ("fetch_max_bytes", settings.fetch_max_bytes as usize),
            ("max_partition_fetch_bytes", settings.max_partition_fetch_bytes as usize),
        ] {
            if found == 0 {
                return Err(invalid(name, "at least 1", 0, "choose a larger value"));
            }
        }
        let sleeper = Arc::new(Sleeper::default());
        handle.core.register_sleeper(&sleeper);
        let auto_commit_due = handle.core.now() + settings.auto_commit_interval;
        Ok(Consumer {
            handle,
            assigned: Vec::new(),
            by_name: HashMap::new(),
            ready: Ready::new(0, sleeper.clone()),
            turn: 0,
            unprocessed: None,
            sleeper,
            ticket: Ticket::default(),
            pool: Pool::default(),
            scratch: Vec::new(),
            nothing: TopicPartition::new("", -1),
            auto_commit_due,
            auto_commit_error: None,
            settings,
        })
    }
}

/// A partition of a consumer.
struct Assigned {
    tp: TopicPartition,
    known: Arc<Known>,
    reader: Reader,
    /// The offset of the next record to be returned; `None` where no rule gives one.
    position: Option<Offset>,
    /// Where the records that the last poll returned begin, if they are of this partition: the next poll says that they
    /// are processed.
    unprocessed: Option<Offset>,
    /// What was last committed from here, or found committed.
    committed: Option<Offset>,
    /// The position was set and not yet looked at.
    is_new: bool,
    paused: bool,
    /// What was read and not yet returned: whole batches, and how far they were returned. A batch that is returned in many
    /// pieces is walked, and inflated, once.
    view: Option<(View, Spot)>,
    /// The same for batches of the view that were inflated.
    plain: Option<(Arc<Vec<u8>>, Spot)>,
    waker: Waker,
    ticket: Ticket,
}

impl Assigned {
    fn set_position(&mut self, to: Option<Offset>) {
        self.position = to;
        self.unprocessed = None;
        self.is_new = true;
        (self.view, self.plain) = (None, None);
        if let Some(to) = to {
            self.reader.seek(to);
        }
    }

    /// Behind the last record that is processed.
    fn processed(&self) -> Option<Offset> {
        self.unprocessed.or(self.position)
    }

    fn is_dirty(&self) -> bool {
        self.processed().is_some() && self.processed() != self.committed
    }

    fn flawed(&self, batch: Option<&Batch<'_>>, flaw: Flaw) -> Error {
        let offset = batch.map_or(self.position.unwrap_or_default(), |batch| batch.header().base_offset);
        Error::BadBatch {
            partition: self.tp.clone(),
            offset,
            last_offset: batch.map_or(offset, |batch| batch.header().last_offset()),
            expected: flaw.expected.into_owned(),
            found: flaw.found,
        }
    }
}

/// Reads the partitions it is assigned. [`Send`]; one thread at a time uses it, and others may [wake](Self::waker) it.
///
/// Dropping it commits nothing. In a forked child, drop does nothing.
///
/// ```
/// use std::time::Duration;
/// use girok::{Girok, ProducerRecord, TopicConfig, TopicPartition};
///
/// let girok = Girok::in_memory()?;
/// girok.admin().create_topic("orders", 2, TopicConfig::default())?;
/// let producer = girok.producer().build()?;
/// producer.send(ProducerRecord::new("orders", "tea").partition(0))?.wait()?;
/// producer.send(ProducerRecord::new("orders", "cake").partition(1))?.wait()?;
///
/// let mut consumer = girok.consumer().group_id("kitchen").build()?;
/// consumer.assign(&[TopicPartition::new("orders", 0), TopicPartition::new("orders", 1)])?;
/// let first = consumer.poll(Duration::from_secs(5))?;
/// let second = consumer.poll(Duration::from_secs(5))?;
/// assert_ne!(first.topic_partition(), second.topic_partition(), "partitions take turns");
///
/// let receipts = consumer.commit()?;
/// assert_eq!(receipts.len(), 2);
/// consumer.close()?;
/// # Ok::<(), girok::Error>(())
/// ```
pub struct Consumer {
    handle: Arc<Handle>,
    settings: Settings,
    assigned: Vec<Assigned>,
    by_name: HashMap<TopicPartition, usize>,
    ready: Arc<Ready>,
    /// Whose turn it is.
    turn: usize,
    /// Whose records the last poll returned.
    unprocessed: Option<usize>,
    sleeper: Arc<Sleeper>,
    ticket: Ticket,
    pool: Pool,
    scratch: Vec<u8>,
    nothing: TopicPartition,
    auto_commit_due: Moment,
    auto_commit_error: Option<Error>,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("group_id", &self.settings.group_id)
            .field("assigned", &self.assigned.len())
            .finish_non_exhaustive()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        if self.handle.core.process.is_current() {
            self.let_go();
            self.sleeper.waiters.leave(&mut self.ticket);
        }
    }
}

/// What became of a commit, partition by partition.
///
/// ```
/// # use std::time::Duration;
/// # use girok::*;
/// # let girok = Girok::in_memory()?;
/// # girok.admin().create_topic("orders", 1, TopicConfig::default())?;
/// # let producer = girok.producer().build()?;
/// # producer.send(ProducerRecord::new("orders", "tea"))?.wait()?;
/// # let mut consumer = girok.consumer().group_id("kitchen").build()?;
/// # consumer.assign(&[TopicPartition::new("orders", 0)])?;
/// let records = consumer.poll(Duration::from_secs(5))?;
/// let results: CommitResults = consumer.commit_async()?.wait();
/// assert_eq!(results[0].1.as_ref().unwrap().committed.offset, records.next_offset());
/// # Ok::<(), Error>(())
/// ```
pub type CommitResults = Vec<(TopicPartition, Result<Receipt, Reject>)>;

impl Consumer {
    /// Reads these partitions from now on, and no others. Those it has already keep their positions and pauses; a new one
    /// begins at the group's committed offset, or where [`auto_offset_reset`](ConsumerBuilder::auto_offset_reset) says.
    /// With automatic commits, what was processed is committed before partitions go; the records of the last poll are not
    /// among that, for only the next one says so.
    ///
    /// # Errors
    /// An unknown topic or partition, or committed offsets that cannot be read; the assignment stays as it was.
    pub fn assign(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        let core = self.handle.core.clone();
        core.check()?;
        let mut wanted: Vec<(TopicPartition, Arc<Known>)> = Vec::with_capacity(partitions.len());
        let mut by_name = HashMap::with_capacity(partitions.len());
        for tp in partitions {
            if let std::collections::hash_map::Entry::Vacant(free) = by_name.entry(tp.clone()) {
                free.insert(wanted.len());
                wanted.push((tp.clone(), core.known(tp)?));
            }
        }
        let is_kept = |tp: &TopicPartition, known: &Known| {
            let held = self.by_name.get(tp).map(|&index| &self.assigned[index]);
            held.is_some_and(|held| held.known.partition.topic_id() == known.partition.topic_id())
        };
        let fresh: Vec<TopicPartition> =
            wanted.iter().filter(|(tp, known)| !is_kept(tp, known)).map(|(tp, _)| tp.clone()).collect();
        let committed = self.fetch_committed(&fresh)?;
        self.auto_commit(true);

        let mut old: HashMap<TopicPartition, Assigned> =
            self.let_go().into_iter().map(|held| (held.tp.clone(), held)).collect();
        let ready = Ready::new(wanted.len(), self.sleeper.clone());
        let mut assigned = Vec::with_capacity(wanted.len());
        for (index, (tp, known)) in wanted.into_iter().enumerate() {
            let waker = ready.waker(index);
            let kept =
                old.remove(&tp).filter(|held| held.known.partition.topic_id() == known.partition.topic_id());
            if let Some(held) = kept {
                assigned.push(Assigned { waker, ..held });
                continue;
            }
            let found = committed.get(&tp).cloned().flatten().map(|found| found.offset);
            let position = found.or_else(|| reset_position(self.settings.reset, &known));
            let reader = known.partition.reader(position.unwrap_or_default());
            assigned.push(Assigned {
                tp,
                known,
                reader,
                position,
                unprocessed: None,
                committed: found,
                is_new: true,
                paused: false,
                view: None,
                plain: None,
                waker,
                ticket: Ticket::default(),
            });
        }
        self.unprocessed = assigned.iter().position(|held| held.unprocessed.is_some());
        (self.assigned, self.by_name, self.ready, self.turn) = (assigned, by_name, ready, 0);
        Ok(())
    }

    /// Leaves all queues; what it read so far of each partition stays with it.
    fn let_go(&mut self) -> Vec<Assigned> {
        self.by_name.clear();
        let mut assigned = std::mem::take(&mut self.assigned);
        for held in &mut assigned {
            held.known.partition.leave_readable(&mut held.ticket);
        }
        assigned
    }

    /// Shares a topic's partitions with the other members of a group. Not yet: groups with members come in a later
    /// version.
    ///
    /// # Errors
    /// [`Unsupported`](girok_engine::Error::Unsupported), always.
    pub fn subscribe(&mut self, _topics: &[&str]) -> Result<()> {
        Err(unsupported("subscribe", "groups with members come in a later version; assign partitions"))
    }

    /// What it is assigned, in the order given.
    pub fn assignment(&self) -> impl Iterator<Item = &TopicPartition> {
        self.assigned.iter().map(|held| &held.tp)
    }

    fn index(&self, tp: &TopicPartition) -> Result<usize> {
        self.by_name
            .get(tp)
            .copied()
            .ok_or_else(|| Error::NotAssigned { partition: tp.clone(), assigned: self.assigned.len() })
    }

    /// Records of one partition, or none when `timeout` has passed. Partitions that have some take turns. The records of
    /// the poll before count as processed from now on.
    ///
    /// # Errors
    /// [`Error::Woken`] once after a [`Wakeup::wake`]; what is wrong with one partition, whose position stays, while the
    /// next poll goes on with the others; an assignment that is empty. Nothing was lost in any of these.
    pub fn poll(&mut self, timeout: Duration) -> Result<Records> {
        if let Some(records) = self.look()? {
            return Ok(records);
        }
        let begun = Instant::now();
        loop {
            let left = timeout.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Ok(Records::empty(self.nothing.clone()));
            }
            // What was processed is committed in time also while nothing comes.
            let pause = match self.commits_automatically() && self.assigned.iter().any(Assigned::is_dirty) {
                true => self.auto_commit_due.since(self.handle.core.now()).max(Duration::from_millis(1)),
                false => left,
            };
            if let Some(records) = block_on(Some(pause.min(left)), |context| self.poll_once(context)) {
                return records;
            }
        }
    }

    /// [`poll`](Self::poll) that never waits: what is there now, or none.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    pub fn poll_now(&mut self) -> Result<Records> {
        Ok(self.look()?.unwrap_or_else(|| Records::empty(self.nothing.clone())))
    }

    /// [`poll`](Self::poll) as a future that waits as long as it takes, needs no runtime and is cancel-safe: dropped
    /// before it is ready, it has taken nothing.
    ///
    /// ```
    /// # use girok::{Girok, ProducerRecord, TopicConfig, TopicPartition};
    /// async fn first_value(girok: &Girok) -> girok::Result<Vec<u8>> {
    ///     let mut consumer = girok.consumer().build()?;
    ///     consumer.assign(&[TopicPartition::new("orders", 0)])?;
    ///     let records = consumer.next_records().await?;
    ///     Ok(records.iter().next().and_then(|record| record.value()).unwrap_or_default().to_vec())
    /// }
    /// ```
    pub fn next_records(&mut self) -> NextRecords<'_> {
        NextRecords { consumer: self, timer: None }
    }

    /// A handle with which other threads can end a [`poll`](Self::poll).
    pub fn waker(&self) -> Wakeup {
        Wakeup(self.sleeper.clone())
    }

    fn poll_once(&mut self, context: &mut Context<'_>) -> Poll<Result<Records>> {
        if let Some(done) = self.look().transpose() {
            return Poll::Ready(done);
        }
        self.sleeper.waiters.register(&mut self.ticket, context.waker());
        if self.ready.any() || self.sleeper.is_woken() {
            // Something came between the look and the registration.
            if let Some(done) = self.look().transpose() {
                return Poll::Ready(done);
            }
        }
        Poll::Pending
    }

    /// One look at those who may have something, in turn.
    fn look(&mut self) -> Result<Option<Records>> {
        self.handle.core.check()?;
        if self.assigned.is_empty() {
            return Err(invalid("poll", "a consumer with partitions", "none", "assign partitions first"));
        }
        self.set_processed();
        if self.commits_automatically() && self.handle.core.now() >= self.auto_commit_due {
            self.auto_commit(false);
        }
        if self.sleeper.take_woken() {
            return Err(Error::Woken);
        }
        while let Some(index) = self.ready.next(self.turn) {
            if self.assigned[index].paused {
                self.ready.clear(index);
                continue;
            }
            self.turn = (index + 1) % self.assigned.len();
            match self.take(index) {
                Ok(Some(records)) => {
                    self.assigned[index].unprocessed = Some(records.from);
                    self.unprocessed = Some(index);
                    let meters = &self.handle.core.meters;
                    meters.polls.add(1);
                    meters.polled_records.add(records.len as u64);
                    return Ok(Some(records));
                }
                Ok(None) => self.park(index)?,
                Err(error) => {
                    // A topic that is gone is told once; everything else may be mended.
                    if error.is_unknown_topic() || matches!(error, Error::NoOffset { .. }) {
                        self.ready.clear(index);
                    }
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// What the last poll returned is processed.
    fn set_processed(&mut self) {
        if let Some(index) = self.unprocessed.take() {
            self.assigned[index].unprocessed = None;
        }
    }

    /// Nothing to read: the log sets the bit again when there may be.
    fn park(&mut self, index: usize) -> Result<()> {
        self.ready.clear(index);
        let held = &mut self.assigned[index];
        let mut context = Context::from_waker(&held.waker);
        match held.known.partition.poll_readable(held.reader.position(), &mut held.ticket, &mut context) {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(())) => {
                self.ready.set(index);
                Ok(())
            }
            // Poisoned, and read to its end: told once, for nothing more will come.
            Poll::Ready(Err(error)) => Err(error.into()),
        }
    }

    /// The next records of one partition, if it has any now.
    fn take(&mut self, index: usize) -> Result<Option<Records>> {
        let max = self.settings.max_poll_records;
        loop {
            let held = &mut self.assigned[index];
            let Some(position) = held.position else {
                let group = self.settings.group_id.as_deref().map(str::to_owned);
                return Err(Error::NoOffset { partition: held.tp.clone(), group });
            };
            let (keep, spot) = match (&held.plain, &held.view) {
                (Some((plain, spot)), _) if spot.at < plain.len() => (Keep::Plain(plain.clone()), *spot),
                (_, Some((view, spot))) if spot.at < view.bytes().len() => (Keep::View(view.clone()), *spot),
                _ => {
                    if !self.fetch(index)? {
                        return Ok(None);
                    }
                    continue;
                }
            };
            let bytes = match &keep {
                Keep::Plain(plain) => &plain[..],
                Keep::View(view) => view.bytes(),
                Keep::Nothing => &[],
            };
            let cut = cut(bytes, spot, position, max).map_err(|flaw| held.flawed(None, flaw))?;
            let is_stuck = cut.len == 0 && cut.resume == spot;
            match &keep {
                Keep::Plain(_) => held.plain.as_mut().expect("looked above").1 = cut.resume,
                _ => held.view.as_mut().expect("looked above").1 = cut.resume,
            }
            if is_stuck {
                // A compressed batch comes first.
                self.inflate(index)?;
                continue;
            }
            held.position = Some(cut.next);
            if cut.len > 0 {
                return Ok(Some(Records {
                    topic_partition: held.tp.clone(),
                    keep,
                    start: cut.start.at,
                    place: cut.start.place,
                    end: cut.end,
                    from: cut.from,
                    next: cut.next,
                    len: cut.len,
                }));
            }
        }
    }

    /// Reads on in the log; `false` if there is nothing.
    fn fetch(&mut self, index: usize) -> Result<bool> {
        let settings = &self.settings;
        let held = &mut self.assigned[index];
        (held.view, held.plain) = (None, None);
        if !held.is_new && !held.reader.is_readable() {
            return Ok(false);
        }
        let bounds = FetchBounds {
            bytes_max: settings.max_partition_fetch_bytes.min(settings.fetch_max_bytes),
            records_max: u32::MAX,
        };
        let read = match held.reader.read(&bounds) {
            // Perhaps not the first batch: what stands before the damage is delivered first.
            Err(girok_engine::Error::Corrupt { .. }) => {
                held.reader.read(&FetchBounds { bytes_max: 1, records_max: 1 })
            }
            read => read,
        };
        let view = match read {
            Ok(view) => view,
            Err(girok_engine::Error::OffsetOutOfRange { .. }) if settings.reset != OffsetReset::None => {
                self.handle.core.meters.overtaken.add(1);
                let to = reset_position(settings.reset, &held.known);
                held.set_position(to);
                return self.fetch_after_reset(index);
            }
            Err(error) => return Err(error.into()),
        };
        held.is_new = false;
        if view.is_empty() {
            return Ok(false);
        }
        let view = check(held, view, settings.check_crcs)?;
        held.view = Some((view, Spot::default()));
        Ok(true)
    }

    /// The position was just set to the start or the end, which may move on before it is read; then the next poll tries
    /// again.
    fn fetch_after_reset(&mut self, index: usize) -> Result<bool> {
        let held = &mut self.assigned[index];
        held.is_new = false;
        if held.reader.is_readable() { self.fetch(index) } else { Ok(false) }
    }

    /// Inflates the compressed batch that comes next, and those behind it for as long as one poll wants more.
    fn inflate(&mut self, index: usize) -> Result<()> {
        /// What one poll inflates of small batches.
        const PLAIN_BYTES: usize = 1 << 20;
        let core = &self.handle.core;
        let bytes_max = core.log.config().decompressed_bytes_max as usize;
        let held = &mut self.assigned[index];
        let (view, spot) = held.view.as_mut().expect("a compressed batch lies in a view");
        let view = view.clone();
        let (mut at, start) = (spot.at, spot.at);
        let mut plain = self.pool.take();
        let mut records = 0;
        while at < view.bytes().len() {
            let batch = Batch::parse(&view.bytes()[at..]).map_err(|flaw| held.flawed(None, flaw))?;
            if !batch.header().is_compressed() {
                break;
            }
            cut::effort::inflated();
            let into = if at == start { &mut plain } else { &mut self.scratch };
            let inflated = decompress(&batch, into, bytes_max).and_then(|()| {
                let image = Batch::parse(into)?;
                walk(&image).map_err(CodecError::Flaw)
            });
            match inflated {
                Ok(()) => {}
                // What is good is delivered first; the next poll comes back to this one.
                Err(_) if at > start => break,
                Err(CodecError::Flaw(flaw)) => return Err(held.flawed(Some(&batch), flaw)),
                Err(error) => {
                    let folder = core.log.dir().join(held.tp.folder());
                    return Err(error.at(&held.tp, batch.header().base_offset, &folder, 0).into());
                }
            }
            if at > start {
                plain.extend_from_slice(&self.scratch);
            }
            at += batch.bytes().len();
            records += batch.header().record_count as usize;
            if records >= self.settings.max_poll_records || plain.len() >= PLAIN_BYTES {
                break;
            }
        }
        // Scratch space is for small batches; a large one is not kept for ever.
        if self.scratch.capacity() > PLAIN_BYTES {
            self.scratch = Vec::new();
        }
        held.view.as_mut().expect("looked above").1 = Spot::before(at);
        held.plain = Some((self.pool.share(plain), Spot::default()));
        Ok(())
    }

    /// Reads on from `offset`, whatever was committed. It is not checked against the log before the next poll.
    ///
    /// # Errors
    /// [`Error::NotAssigned`]; a negative offset.
    pub fn seek(&mut self, tp: &TopicPartition, offset: Offset) -> Result<()> {
        let index = self.index(tp)?;
        if offset < Offset::ZERO {
            return Err(invalid(
                "offset",
                "0 or more",
                offset,
                "seek_to_beginning and seek_to_end find the ends",
            ));
        }
        self.set_position(index, offset);
        Ok(())
    }

    /// Reads on from the first record there is; for all partitions if none are given, as in Kafka.
    ///
    /// # Errors
    /// [`Error::NotAssigned`].
    pub fn seek_to_beginning(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        self.seek_each(partitions, |known| known.partition.start_offset())
    }

    /// Reads on behind the last record that is visible now; for all partitions if none are given.
    ///
    /// # Errors
    /// [`Error::NotAssigned`].
    pub fn seek_to_end(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        self.seek_each(partitions, |known| known.partition.high_watermark())
    }

    fn seek_each(&mut self, partitions: &[TopicPartition], to: impl Fn(&Known) -> Offset) -> Result<()> {
        self.handle.core.check()?;
        let all = partitions.is_empty();
        let indexes: Vec<usize> = match all {
            true => (0..self.assigned.len()).collect(),
            false => partitions.iter().map(|tp| self.index(tp)).collect::<Result<_>>()?,
        };
        for index in indexes {
            let offset = to(&self.assigned[index].known);
            self.set_position(index, offset);
        }
        Ok(())
    }

    fn set_position(&mut self, index: usize, offset: Offset) {
        self.assigned[index].set_position(Some(offset));
        self.ready.set(index);
    }

    /// The offset of the next record that a poll returns.
    ///
    /// # Errors
    /// [`Error::NotAssigned`]; [`Error::NoOffset`] where nothing says.
    pub fn position(&self, tp: &TopicPartition) -> Result<Offset> {
        let held = &self.assigned[self.index(tp)?];
        held.position.ok_or_else(|| Error::NoOffset {
            partition: tp.clone(),
            group: self.settings.group_id.as_deref().map(str::to_owned),
        })
    }

    /// Polls pass these over until they are [resumed](Self::resume). Their positions stay.
    ///
    /// # Errors
    /// [`Error::NotAssigned`], and then nothing was paused.
    pub fn pause(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        self.set_paused(partitions, true)
    }

    /// Polls return records of these again.
    ///
    /// # Errors
    /// [`Error::NotAssigned`], and then nothing was resumed.
    pub fn resume(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        self.set_paused(partitions, false)
    }

    fn set_paused(&mut self, partitions: &[TopicPartition], paused: bool) -> Result<()> {
        for tp in partitions {
            self.index(tp)?;
        }
        for tp in partitions {
            let index = self.index(tp)?;
            self.assigned[index].paused = paused;
            if !paused {
                self.ready.set(index);
            }
        }
        Ok(())
    }

    /// Those that are paused.
    pub fn paused(&self) -> impl Iterator<Item = &TopicPartition> {
        self.assigned.iter().filter(|held| held.paused).map(|held| &held.tp)
    }

    /// The first offset at or after a time, with that record's time, for each partition; `None` where there is none.
    /// The partitions need not be assigned.
    ///
    /// # Errors
    /// An unknown partition; damage on the way.
    pub fn offsets_for_times(
        &self,
        times: &[(TopicPartition, Timestamp)],
    ) -> Result<BTreeMap<TopicPartition, Option<(Offset, Timestamp)>>> {
        self.handle.core.check()?;
        let find = |(tp, time): &(TopicPartition, Timestamp)| {
            let found = self.handle.core.known(tp)?.partition.offset_for_time(*time)?;
            Ok((tp.clone(), found))
        };
        times.iter().map(find).collect()
    }

    /// The first offset that can be read, for each partition. They need not be assigned.
    ///
    /// # Errors
    /// An unknown partition.
    pub fn beginning_offsets(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, Offset>> {
        self.offsets(partitions, |known| known.partition.start_offset())
    }

    /// The end of what can be read, for each partition: the next offset to become visible. They need not be assigned.
    ///
    /// # Errors
    /// An unknown partition.
    pub fn end_offsets(&self, partitions: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, Offset>> {
        self.offsets(partitions, |known| known.partition.high_watermark())
    }

    fn offsets(
        &self,
        partitions: &[TopicPartition],
        which: impl Fn(&Known) -> Offset,
    ) -> Result<BTreeMap<TopicPartition, Offset>> {
        self.handle.core.check()?;
        let offset = |tp: &TopicPartition| Ok((tp.clone(), which(&*self.handle.core.known(tp)?)));
        partitions.iter().map(offset).collect()
    }

    /// What the group has committed for each partition. They need not be assigned. Waits until what it tells is as durable
    /// as [`GroupSettings::durability`](crate::GroupSettings::durability) says, whatever the durability of the topic: the
    /// records before a committed offset are as safe as their topic makes them, and an offset whose records a power cut
    /// took is set back when the directory is opened ([`Recovery::clamped`](crate::Recovery::clamped)).
    ///
    /// # Errors
    /// [`Error::NoGroup`]; committed offsets that cannot be read.
    pub fn committed(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, Option<OffsetAndMetadata>>> {
        self.handle.core.check()?;
        self.group("committed")?;
        self.fetch_committed(partitions)
    }

    /// Nothing, for a consumer without a group.
    fn fetch_committed(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, Option<OffsetAndMetadata>>> {
        let Some(group) = &self.settings.group_id else { return Ok(BTreeMap::new()) };
        if partitions.is_empty() {
            return Ok(BTreeMap::new());
        }
        let fetched = self.handle.core.groups.of(group)?.fetch(group, Some(partitions)).wait()?;
        Ok(fetched.into_iter().map(|one| (one.partition, one.committed)).collect())
    }

    fn group(&self, doing: &'static str) -> Result<(&Arc<str>, &Coordinator)> {
        let group = self.settings.group_id.as_ref().ok_or(Error::NoGroup { doing })?;
        Ok((group, self.handle.core.groups.of(group)?))
    }

    /// Commits the positions of all partitions that moved since they were last committed, and waits until that is
    /// durable: everything that was polled counts as processed. A receipt for each.
    ///
    /// # Errors
    /// [`Error::NoGroup`]; [`Error::NotCommitted`] says for which partitions it was refused and why, and which were
    /// stored.
    pub fn commit(&mut self) -> Result<Vec<Receipt>> {
        let pending = self.commit_async()?;
        pending.wait_all(self)
    }

    /// [`commit`](Self::commit) that does not wait: the commit is decided and appended when this returns. Wait for the
    /// handle, await it, or drop it.
    ///
    /// # Errors
    /// [`Error::NoGroup`].
    pub fn commit_async(&mut self) -> Result<PendingCommit> {
        self.handle.core.check()?;
        self.group("commit")?;
        self.set_processed();
        self.commit_processed()
    }

    fn commit_processed(&mut self) -> Result<PendingCommit> {
        let (group, coordinator) = self.group("commit")?;
        let dirty: Vec<usize> =
            (0..self.assigned.len()).filter(|&index| self.assigned[index].is_dirty()).collect();
        let entries: Vec<CommitEntry> = dirty.iter().map(|&index| entry(&self.assigned[index])).collect();
        let commit =
            (!entries.is_empty()).then(|| coordinator.commit(group, &entries, CommitOptions::default()));
        if let Some(commit) = &commit {
            for (&index, result) in dirty.iter().zip(commit.results()) {
                if result.is_ok() {
                    let held = &mut self.assigned[index];
                    held.committed = held.processed();
                }
            }
        }
        let partitions = entries.into_iter().map(|entry| entry.partition).collect();
        Ok(PendingCommit { partitions, commit })
    }

    /// Commits these offsets, whatever the positions are, and waits until that is durable. Each partition gets a receipt
    /// or a reason, in the order given. Offsets are those of the next record to process.
    ///
    /// ```
    /// # use girok::*;
    /// # let girok = Girok::in_memory()?;
    /// # girok.admin().create_topic("orders", 1, TopicConfig::default())?;
    /// # girok.producer().build()?.send(ProducerRecord::new("orders", "tea"))?.wait()?;
    /// let mut consumer = girok.consumer().group_id("kitchen").build()?;
    /// let orders = TopicPartition::new("orders", 0);
    /// let results = consumer.commit_offsets(&[
    ///     CommitEntry::new(orders.clone(), Offset::new(1)).with_metadata("shelf 3"),
    ///     CommitEntry::new(orders.clone(), Offset::new(7)),
    /// ])?;
    /// assert!(results[0].1.is_ok());
    /// assert!(matches!(results[1].1, Err(Reject::BeyondEnd { .. })));
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NoGroup`].
    pub fn commit_offsets(&mut self, entries: &[CommitEntry]) -> Result<CommitResults> {
        self.handle.core.check()?;
        let (group, coordinator) = self.group("commit")?;
        let results = coordinator.commit(group, entries, CommitOptions::default()).wait();
        let results: CommitResults =
            entries.iter().map(|entry| entry.partition.clone()).zip(results).collect();
        for (tp, result) in &results {
            if let (Ok(receipt), Some(&index)) = (result, self.by_name.get(tp)) {
                self.assigned[index].committed = Some(receipt.committed.offset);
            }
        }
        Ok(results)
    }

    fn commits_automatically(&self) -> bool {
        self.settings.auto_commit && self.settings.group_id.is_some()
    }

    /// Commits what was processed. Polls go on if that fails; the next one tries again.
    fn auto_commit(&mut self, wait: bool) {
        if !self.commits_automatically() {
            return;
        }
        self.auto_commit_due = self.handle.core.now() + self.settings.auto_commit_interval;
        let done = self.commit_processed().and_then(|pending| {
            if wait { pending.wait_all(self).map(|_| ()) } else { pending.first_refusal() }
        });
        self.auto_commit_error = done.err();
    }

    /// Why the last automatic commit failed, if it did. Polls go on all the same.
    pub fn auto_commit_error(&self) -> Option<&Error> {
        self.auto_commit_error.as_ref()
    }

    /// Ends the consumer. With automatic commits, what was polled counts as processed and is committed, and this waits
    /// until that is durable.
    ///
    /// # Errors
    /// As [`commit`](Self::commit); the consumer is closed all the same.
    pub fn close(mut self) -> Result<()> {
        self.handle.core.check()?;
        if self.commits_automatically() {
            self.commit()?;
        }
        Ok(())
    }
}

/// Where the policy says to begin.
fn reset_position(reset: OffsetReset, known: &Known) -> Option<Offset> {
    match reset {
        OffsetReset::Earliest => Some(known.partition.start_offset()),
        OffsetReset::Latest => Some(known.partition.high_watermark()),
        OffsetReset::None => None,
    }
}

fn entry(held: &Assigned) -> CommitEntry {
    let position = held.processed().unwrap_or_default();
    let partition = &held.known.partition;
    let epoch = if position > Offset::ZERO { partition.leader_epoch_at(position + -1) } else { -1 };
    CommitEntry::new(held.tp.clone(), position).with_leader_epoch(epoch).with_topic_id(partition.topic_id())
}

/// Walks the uncompressed batches of a view that nobody has walked yet (one that came from the medium: what was appended
/// by this process was walked before). If one does not decode, what stands before it is delivered first.
fn check(held: &mut Assigned, view: View, check_crcs: bool) -> Result<View> {
    let Some(first) = view.batches().next().and_then(Result::ok) else { return Ok(view) };
    let from = first.header().base_offset;
    let is_walked = held.known.is_walked(from, view.next());
    if is_walked && !check_crcs {
        return Ok(view);
    }
    let mut good = 0;
    for batch in view.batches() {
        let batch = batch.map_err(|flaw| held.flawed(None, flaw))?;
        let mut checked = if check_crcs { batch.check_crc() } else { Ok(()) };
        if checked.is_ok() && !is_walked && !batch.header().is_compressed() {
            checked = walk(&batch);
        }
        if let Err(flaw) = checked {
            let error = held.flawed(Some(&batch), flaw);
            if good == 0 {
                held.set_position(held.position);
                return Err(error);
            }
            // Once more, only up to here; the next fetch begins with the bad one and says so.
            let from = view.from();
            held.reader.seek(from);
            let bounds = FetchBounds { bytes_max: good as u32, records_max: u32::MAX };
            let view = held.reader.read(&bounds)?;
            return Ok(view);
        }
        good += batch.bytes().len();
    }
    held.known.set_walked(from, view.next());
    Ok(view)
}

/// Ends a consumer's poll from another thread, as Kafka's `wakeup`.
///
/// ```
/// # use std::time::Duration;
/// # use girok::*;
/// # let girok = Girok::in_memory()?;
/// # girok.admin().create_topic("orders", 1, TopicConfig::default())?;
/// # let mut consumer = girok.consumer().build()?;
/// # consumer.assign(&[TopicPartition::new("orders", 0)])?;
/// let waker = consumer.waker();
/// std::thread::spawn(move || waker.wake());
/// assert!(matches!(consumer.poll(Duration::from_secs(60)), Err(Error::Woken)));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Wakeup(Arc<Sleeper>);

impl Wakeup {
    /// The poll that is waiting, or else the next one, fails with [`Error::Woken`].
    pub fn wake(&self) {
        self.0.wake_by_user();
    }
}

/// A commit on its way. [`wait`](Self::wait) for it or `.await` it; dropping it takes nothing back.
///
/// ```
/// # use std::time::Duration;
/// # use girok::*;
/// # let girok = Girok::in_memory()?;
/// # girok.admin().create_topic("orders", 1, TopicConfig::default())?;
/// # girok.producer().build()?.send(ProducerRecord::new("orders", "tea"))?.wait()?;
/// let mut consumer = girok.consumer().group_id("kitchen").build()?;
/// # consumer.assign(&[TopicPartition::new("orders", 0)])?;
/// let records = consumer.poll(Duration::from_secs(5))?;
/// let pending = consumer.commit_async()?;
/// for (partition, result) in pending.wait() {
///     println!("{partition}: {}", result.unwrap());
/// }
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a commit may have been refused; drop it explicitly if that does not matter"]
pub struct PendingCommit {
    partitions: Vec<TopicPartition>,
    commit: Option<girok_coordinator::Commit>,
}

impl PendingCommit {
    /// Waits until it is durable. A receipt or a reason for each partition; empty if nothing had moved.
    pub fn wait(mut self) -> CommitResults {
        let results = self.commit.take().map_or_else(Vec::new, girok_coordinator::Commit::wait);
        std::mem::take(&mut self.partitions).into_iter().zip(results).collect()
    }

    fn wait_all(self, consumer: &mut Consumer) -> Result<Vec<Receipt>> {
        let (mut stored, mut refused) = (Vec::new(), Vec::new());
        for (tp, result) in self.wait() {
            match result {
                Ok(receipt) => stored.push(receipt),
                Err(reject) => {
                    if let Some(&index) = consumer.by_name.get(&tp) {
                        // Decided, and then not durable: it counts as not committed.
                        consumer.assigned[index].committed = None;
                    }
                    refused.push((tp, reject));
                }
            }
        }
        if refused.is_empty() { Ok(stored) } else { Err(Error::NotCommitted { refused, stored }) }
    }

    fn first_refusal(self) -> Result<()> {
        let Some(commit) = &self.commit else { return Ok(()) };
        let refused: Vec<_> = self
            .partitions
            .iter()
            .zip(commit.results())
            .filter_map(|(tp, result)| Some((tp.clone(), result.as_ref().err()?.clone())))
            .collect();
        if refused.is_empty() { Ok(()) } else { Err(Error::NotCommitted { refused, stored: Vec::new() }) }
    }
}

impl Future for PendingCommit {
    type Output = CommitResults;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<CommitResults> {
        let results = match &mut self.commit {
            None => Vec::new(),
            Some(commit) => match Pin::new(commit).poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(results) => results,
            },
        };
        Poll::Ready(std::mem::take(&mut self.partitions).into_iter().zip(results).collect())
    }
}

/// The next records, when there are some. From [`Consumer::next_records`].
///
/// ```
/// # use std::time::Duration;
/// # use girok::*;
/// # let girok = Girok::in_memory()?;
/// # girok.admin().create_topic("orders", 1, TopicConfig::default())?;
/// # let producer = girok.producer().build()?;
/// # producer.send(ProducerRecord::new("orders", "tea"))?.wait()?;
/// # let mut consumer = girok.consumer().group_id("kitchen").build()?;
/// # consumer.assign(&[TopicPartition::new("orders", 0)])?;
/// # use std::{future::Future, pin::pin};
/// let mut next: std::pin::Pin<&mut NextRecords<'_>> = pin!(consumer.next_records());
/// // An executor of one line: no runtime is needed.
/// let polled = girok_engine::wait::block_on(None, |context| next.as_mut().poll(context));
/// assert_eq!(polled.expect("there was no time limit")?.len(), 1);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a future does nothing until it is polled"]
pub struct NextRecords<'c> {
    consumer: &'c mut Consumer,
    timer: Option<TimerKey>,
}

impl Future for NextRecords<'_> {
    type Output = Result<Records>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let polled = this.consumer.poll_once(context);
        let core = this.consumer.handle.core.clone();
        if let Some(key) = this.timer.take() {
            core.timers.cancel(&key);
        }
        if polled.is_pending()
            && this.consumer.commits_automatically()
            && this.consumer.assigned.iter().any(Assigned::is_dirty)
        {
            // What was processed is committed in time also while nothing comes.
            let due = this.consumer.auto_commit_due;
            this.timer = Some(core.set_timer(due, Task::Wake(context.waker().clone())));
        }
        polled
    }
}

impl Drop for NextRecords<'_> {
    fn drop(&mut self) {
        let core = &self.consumer.handle.core;
        if !core.process.is_current() {
            return;
        }
        if let Some(key) = self.timer.take() {
            core.timers.cancel(&key);
        }
        self.consumer.sleeper.waiters.leave(&mut self.consumer.ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::cut::effort::{INFLATED, WALKED};
    use crate::{Codec, Durability, Girok, Offset, ProducerRecord, TopicConfig, TopicPartition};
    use std::time::Duration;

    /// A large batch that is returned in hundreds of pieces is inflated once, and walked once to find where each piece
    /// begins: what a poll costs does not grow with how far into the batch it is.
    #[test]
    fn a_batch_in_pieces_is_walked_once() {
        const RECORDS: usize = 20_000;
        for codec in [Codec::None, Codec::Lz4] {
            let girok = Girok::in_memory().unwrap();
            let config = TopicConfig { durability: Durability::Written, ..TopicConfig::default() };
            girok.admin().create_topic("orders", 1, config).unwrap();
            let linger = Duration::from_secs(60);
            let producer =
                girok.producer().compression(codec).batch_size(1 << 20).linger(linger).build().unwrap();
            for n in 0..RECORDS {
                drop(producer.send(ProducerRecord::new("orders", n.to_string())).unwrap());
            }
            producer.flush().unwrap();

            let mut consumer = girok.consumer().max_poll_records(50).build().unwrap();
            consumer.assign(&[TopicPartition::new("orders", 0)]).unwrap();
            let read_from = |consumer: &mut crate::Consumer, from: usize| {
                WALKED.set(0);
                INFLATED.set(0);
                let (mut next, mut polls) = (from, 0);
                while next < RECORDS {
                    let records = consumer.poll_now().unwrap();
                    polls += 1;
                    for record in &records {
                        assert_eq!(record.offset(), Offset::new(next as i64));
                        assert_eq!(record.value(), Some(next.to_string().as_bytes()));
                        next += 1;
                    }
                }
                (polls, WALKED.get(), INFLATED.get())
            };
            let inflations = usize::from(codec != Codec::None);
            let (polls, walked, inflated) = read_from(&mut consumer, 0);
            assert_eq!((polls, inflated), (RECORDS / 50, inflations), "{codec}");
            // Each piece looks at one more record, where it ends.
            assert!(walked <= RECORDS + polls, "{codec}: {walked} records walked in {polls} polls");

            // From the middle the way there is walked, once.
            consumer.seek(&TopicPartition::new("orders", 0), Offset::new(9_990)).unwrap();
            let (polls, walked, inflated) = read_from(&mut consumer, 9_990);
            assert_eq!(inflated, inflations, "{codec}");
            assert!(walked <= RECORDS + polls, "{codec}: {walked} records walked in {polls} polls");
        }
    }
}
