//! A small world: a journal in memory that can fail, lose its power and be compacted, topics and a clock that do as
//! they are told, and a reader of record batches that is too simple to be wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use girok_coordinator::records::{EndTransaction, OffsetAndMetadata, OffsetCommitValue, Record};
use girok_coordinator::{
    BatchInfo, Commit, CommitEntry, CommitOptions, Coordinator, Each, Ends, Entries, FetchedOffset, Ground,
    Journal, OpenError, OpenReport, Receipt, Reject, Settings, State, StateFile, TopicView, Topics,
};
use girok_engine::wait::{Ticket, Waiters};
use girok_engine::{
    Chance, Clock, Durability, Error, Moment, Offset, Result, SeededChance, Timestamp, TopicId,
    TopicPartition,
};

/// A record as it lies in a segment.
#[derive(Clone, Debug)]
pub struct Raw {
    pub offset: i64,
    pub timestamp: i64,
    pub producer_id: i64,
    pub transactional: bool,
    pub control: bool,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

impl Raw {
    pub fn marker(&self) -> Option<EndTransaction> {
        if self.control { EndTransaction::decode(self.key.as_deref().unwrap()) } else { None }
    }
}

/// Kafka's own segment.
pub fn golden() -> Vec<Raw> {
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/__consumer_offsets-0.log"));
    raw_records(&bytes.unwrap())
}

/// What Kafka's own tool printed of it.
pub fn golden_dump() -> String {
    std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/golden/__consumer_offsets-0.dump.txt"
    ))
    .unwrap()
}

/// Every record of consecutive uncompressed batches.
pub fn raw_records(mut bytes: &[u8]) -> Vec<Raw> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let i64_at = |at: usize| i64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
        let i32_at = |at: usize| i32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        let size = 12 + i32_at(8) as usize;
        let (base_offset, base_timestamp, producer_id) = (i64_at(0), i64_at(27), i64_at(43));
        let attributes = u16::from_be_bytes(bytes[21..23].try_into().unwrap());
        assert_eq!(attributes & 7, 0, "uncompressed");
        let mut body = &bytes[61..size];
        for _ in 0..i32_at(57) {
            let _length = varint(&mut body);
            body = &body[1..];
            let timestamp = base_timestamp + varint(&mut body);
            let offset = base_offset + varint(&mut body);
            let key = field(&mut body);
            let value = field(&mut body);
            assert_eq!(varint(&mut body), 0, "no headers");
            let (transactional, control) = (attributes & 16 != 0, attributes & 32 != 0);
            records.push(Raw { offset, timestamp, producer_id, transactional, control, key, value });
        }
        assert!(body.is_empty());
        bytes = &bytes[size..];
    }
    records
}

fn varint(bytes: &mut &[u8]) -> i64 {
    let (mut value, mut shift) = (0u64, 0);
    loop {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return (value >> 1) as i64 ^ -((value & 1) as i64);
        }
    }
}

fn field(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let len = usize::try_from(varint(bytes)).ok()?;
    let (field, rest) = bytes.split_at(len);
    *bytes = rest;
    Some(field.to_vec())
}

/// The start of the tests' time, in November 2026.
pub const START_MS: i64 = 1_795_353_653_000;

/// A record in a [`FakeJournal`].
#[derive(Clone, Debug)]
pub struct Logged {
    pub at: Offset,
    pub info: BatchInfo,
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

#[derive(Debug, Default)]
struct Inside {
    records: Vec<Logged>,
    end: i64,
    synced: i64,
    /// Leader epochs and where they start.
    epochs: Vec<(i32, i64)>,
    refuse_appends: Option<Error>,
    /// The next append fails after its bytes are in the log.
    fail_late: bool,
    poisoned: Option<Error>,
    /// Whether a sync happens as soon as somebody waits for one.
    syncs_by_itself: bool,
    batches: usize,
}

/// A journal in memory.
#[derive(Debug)]
pub struct FakeJournal {
    inside: Mutex<Inside>,
    waiters: Waiters,
    batch_bytes_max: usize,
}

impl FakeJournal {
    pub fn new() -> Self {
        Self::with_batches_of(1 << 20)
    }

    pub fn with_batches_of(batch_bytes_max: usize) -> Self {
        let inside = Inside { syncs_by_itself: true, epochs: vec![(0, 0)], ..Inside::default() };
        FakeJournal { inside: Mutex::new(inside), waiters: Waiters::new(), batch_bytes_max }
    }

    /// The same log after a restart of the process: what was written is there.
    pub fn restarted(&self) -> FakeJournal {
        let held = self.inside.lock().unwrap();
        let inside = Inside {
            records: held.records.clone(),
            end: held.end,
            synced: held.end,
            epochs: held.epochs.clone(),
            syncs_by_itself: true,
            ..Inside::default()
        };
        FakeJournal {
            inside: Mutex::new(inside),
            waiters: Waiters::new(),
            batch_bytes_max: self.batch_bytes_max,
        }
    }

    /// The same log after a power cut: what was not synced is gone, and the leader epoch is raised.
    pub fn after_power_cut(&self) -> FakeJournal {
        let after = self.restarted();
        let synced = self.inside.lock().unwrap().synced;
        let mut inside = after.inside.lock().unwrap();
        inside.records.retain(|record| record.at.get() < synced);
        (inside.end, inside.synced) = (synced, synced);
        let epoch = inside.epochs.last().unwrap().0 + 1;
        inside.epochs.push((epoch, synced));
        drop(inside);
        after
    }

    /// The same log after compaction: of every key the last record and, of the others, those that `keep` keeps.
    /// Tombstones before `tombstones_until` are gone, too. What belongs to a transaction is neither removed nor does
    /// it supersede anything, as Kafka's cleaner stops before the first open one.
    pub fn compacted(&self, mut keep: impl FnMut() -> bool, tombstones_until: i64) -> FakeJournal {
        let after = self.restarted();
        let mut inside = after.inside.lock().unwrap();
        let mut last = BTreeMap::new();
        for record in inside.records.iter().filter(|record| !record.info.transactional) {
            last.insert(record.key.clone(), record.at);
        }
        // The cleaner removes older records of a key before newer ones, never the other way round.
        let mut kept_one = BTreeSet::new();
        inside.records.retain(|record| {
            if record.info.control || record.info.transactional {
                return true;
            }
            let is_last = last[&record.key] == record.at;
            let kept = match is_last {
                true => record.value.is_some() || record.at.get() >= tombstones_until,
                false => kept_one.contains(&record.key) || keep(),
            };
            if kept && !is_last {
                kept_one.insert(record.key.clone());
            }
            kept
        });
        // A tombstone goes only when nothing is left for it to delete.
        let with_last: BTreeSet<_> = inside.records.iter().map(|r| (r.key.clone(), r.at)).collect();
        inside.records.retain(|record| {
            record.info.control
                || record.info.transactional
                || with_last.contains(&(record.key.clone(), last[&record.key]))
        });
        drop(inside);
        after
    }

    /// The first `records` records and no more.
    pub fn prefix(&self, records: usize) -> FakeJournal {
        let after = self.restarted();
        let mut inside = after.inside.lock().unwrap();
        inside.records.truncate(records);
        inside.end = inside.records.last().map_or(0, |record| record.at.get() + 1);
        inside.synced = inside.end;
        drop(inside);
        after
    }

    pub fn records(&self) -> Vec<Logged> {
        self.inside.lock().unwrap().records.clone()
    }

    pub fn end(&self) -> Offset {
        Offset::new(self.inside.lock().unwrap().end)
    }

    pub fn batches(&self) -> usize {
        self.inside.lock().unwrap().batches
    }

    /// What another broker appended: a record as it is.
    pub fn append_raw(&self, info: BatchInfo, key: &[u8], value: Option<&[u8]>) -> Offset {
        let mut inside = self.inside.lock().unwrap();
        let at = Offset::new(inside.end);
        inside.records.push(Logged { at, info, key: key.to_vec(), value: value.map(<[u8]>::to_vec) });
        inside.end += 1;
        inside.synced = inside.end;
        at
    }

    pub fn append_record(&self, info: BatchInfo, record: &Record) -> Offset {
        let mut entries = Entries::default();
        entries.push(record);
        let (key, value) = entries.iter().next().unwrap();
        self.append_raw(info, key, value)
    }

    /// The end of a transaction.
    pub fn append_marker(&self, producer_id: i64, end: EndTransaction) -> Offset {
        let info = BatchInfo { producer_id, transactional: true, control: true, ..now_info() };
        let kind = if end == EndTransaction::Commit { 1 } else { 0 };
        self.append_raw(info, &[0, 0, 0, kind], Some(&[0, 0, 0, 0, 0, 0]))
    }

    pub fn refuse_appends(&self, error: Option<Error>) {
        self.inside.lock().unwrap().refuse_appends = error;
    }

    /// The next append fails, but too late: its bytes are in the log.
    pub fn fail_late(&self) {
        self.inside.lock().unwrap().fail_late = true;
    }

    /// From now on nothing is synced until [`sync`](Self::sync).
    pub fn hold_syncs(&self) {
        self.inside.lock().unwrap().syncs_by_itself = false;
    }

    pub fn sync(&self) {
        let mut inside = self.inside.lock().unwrap();
        inside.synced = inside.end;
        drop(inside);
        self.waiters.wake_all();
    }

    /// A sync fails: what is not synced never will be, and appends are refused.
    pub fn poison(&self) {
        let partition = TopicPartition::new("__consumer_offsets", 0);
        let error = Error::Poisoned { partition, cause: "Input/output error".into() };
        let mut inside = self.inside.lock().unwrap();
        inside.poisoned = Some(error.clone());
        inside.refuse_appends = Some(error);
        drop(inside);
        self.waiters.wake_all();
    }

    fn look(&self, up_to: Offset, durability: Durability) -> Poll<Result<()>> {
        let mut inside = self.inside.lock().unwrap();
        if inside.syncs_by_itself && inside.poisoned.is_none() {
            inside.synced = inside.end;
        }
        let reached = if durability == Durability::Written { inside.end } else { inside.synced };
        match &inside.poisoned {
            _ if up_to.get() <= reached => Poll::Ready(Ok(())),
            Some(error) => Poll::Ready(Err(error.clone())),
            None => Poll::Pending,
        }
    }
}

impl Journal for FakeJournal {
    fn append(&self, entries: &Entries, wall: Timestamp) -> Result<Offset> {
        assert!(!entries.is_empty());
        assert!(entries.len() == 1 || entries.batch_bytes_max() <= self.batch_bytes_max);
        let mut inside = self.inside.lock().unwrap();
        if let Some(error) = &inside.refuse_appends {
            return Err(error.clone());
        }
        let base = inside.end;
        for (key, value) in entries.iter() {
            let (at, info) = (Offset::new(inside.end), BatchInfo::at(wall));
            inside.records.push(Logged { at, info, key: key.to_vec(), value: value.map(<[u8]>::to_vec) });
            inside.end += 1;
        }
        inside.batches += 1;
        if std::mem::take(&mut inside.fail_late) {
            return Err(Error::Busy { partition: tp("__consumer_offsets-0") });
        }
        Ok(Offset::new(base))
    }

    fn batch_bytes_max(&self) -> usize {
        self.batch_bytes_max
    }

    fn poll_durable(
        &self,
        up_to: Offset,
        durability: Durability,
        ticket: &mut Ticket,
        context: &mut Context<'_>,
    ) -> Poll<Result<()>> {
        if let Poll::Ready(ready) = self.look(up_to, durability) {
            return Poll::Ready(ready);
        }
        self.waiters.register(ticket, context.waker());
        self.look(up_to, durability)
    }

    fn leave(&self, ticket: &mut Ticket) {
        self.waiters.leave(ticket);
    }

    fn read_from(&self, from: Offset, each: &mut Each<'_>) -> Result<Offset> {
        for Logged { at, info, key, value } in self.records() {
            if at >= from {
                each(at, &info, Some(&key), value.as_deref()).map_err(|flaw| {
                    Error::corrupt(
                        "__consumer_offsets-0",
                        at.get() as u64,
                        flaw.expected,
                        flaw.found,
                        "all before",
                    )
                })?;
            }
        }
        Ok(self.end())
    }

    fn leader_epoch_at(&self, offset: Offset) -> i32 {
        let inside = self.inside.lock().unwrap();
        inside.epochs.iter().rev().find(|(_, start)| *start <= offset.get()).map_or(0, |(epoch, _)| *epoch)
    }
}

/// Topics that do as they are told.
#[derive(Debug, Default)]
pub struct FakeTopics(Mutex<BTreeMap<String, (TopicView, i64, i64)>>);

impl FakeTopics {
    pub fn create(&self, name: &str, id: u8, partitions: i32, end: i64) {
        let view = TopicView { id: TopicId([id; 16]), partitions };
        self.0.lock().unwrap().insert(name.into(), (view, end, end));
    }

    pub fn delete(&self, name: &str) {
        self.0.lock().unwrap().remove(name);
    }

    pub fn set_ends(&self, name: &str, published: i64, synced: i64) {
        let mut topics = self.0.lock().unwrap();
        let topic = topics.get_mut(name).unwrap();
        (topic.1, topic.2) = (published, synced);
    }
}

impl Topics for FakeTopics {
    fn topic(&self, name: &str) -> Option<TopicView> {
        Some(self.0.lock().unwrap().get(name)?.0)
    }

    fn ends(&self, partition: &TopicPartition) -> Option<Ends> {
        let topics = self.0.lock().unwrap();
        let (view, published, synced) = topics.get(partition.topic())?;
        (0..view.partitions)
            .contains(&partition.partition())
            .then_some(Ends { published: Offset::new(*published), synced: Offset::new(*synced) })
    }
}

/// Two clocks that stand still until they are moved.
#[derive(Debug)]
pub struct FakeClock(Mutex<(u64, i64)>);

impl FakeClock {
    fn new() -> Self {
        FakeClock(Mutex::new((0, START_MS)))
    }

    /// Time passes.
    pub fn pass(&self, time: Duration) {
        let mut clock = self.0.lock().unwrap();
        clock.0 += time.as_nanos() as u64;
        clock.1 += time.as_millis() as i64;
    }

    /// Somebody sets the wall clock.
    pub fn jump(&self, ms: i64) {
        self.0.lock().unwrap().1 += ms;
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Moment {
        Moment::from_nanos(self.0.lock().unwrap().0)
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_millis(self.0.lock().unwrap().1)
    }
}

/// A coordinator and all it stands on.
#[derive(Debug)]
pub struct World {
    pub journal: Arc<FakeJournal>,
    pub topics: Arc<FakeTopics>,
    pub clock: Arc<FakeClock>,
    pub settings: Settings,
    pub state_file: Option<StateFile>,
    pub coordinator: Coordinator,
}

impl World {
    /// Topics `orders` (3 partitions) and `views` (2), each partition 1,000 records long; nothing committed.
    pub fn new() -> World {
        Self::with(Settings::default(), FakeJournal::new(), None)
    }

    pub fn with(settings: Settings, journal: FakeJournal, state_file: Option<StateFile>) -> World {
        let topics = Arc::new(FakeTopics::default());
        topics.create("orders", 1, 3, 1000);
        topics.create("views", 2, 2, 1000);
        let clock = Arc::new(FakeClock::new());
        Self::open(Arc::new(journal), topics, clock, settings, state_file).unwrap().0
    }

    pub fn open(
        journal: Arc<FakeJournal>,
        topics: Arc<FakeTopics>,
        clock: Arc<FakeClock>,
        settings: Settings,
        state_file: Option<StateFile>,
    ) -> Result<(World, OpenReport), OpenError> {
        let ground = Ground {
            journal: journal.clone(),
            topics: topics.clone(),
            clock: clock.clone(),
            state_file: state_file.clone(),
        };
        let (coordinator, report) = Coordinator::open(ground, settings.clone())?;
        Ok((World { journal, topics, clock, settings, state_file, coordinator }, report))
    }

    /// Opens again, over what became of the journal.
    pub fn reopened(&self, journal: FakeJournal) -> (World, OpenReport) {
        let (topics, clock) = (self.topics.clone(), self.clock.clone());
        Self::open(Arc::new(journal), topics, clock, self.settings.clone(), self.state_file.clone()).unwrap()
    }

    pub fn begin_commit(&self, group: &str, partition: &str, offset: i64) -> Commit {
        self.coordinator.commit(group, &[entry(partition, offset)], CommitOptions::default())
    }

    pub fn try_commit(&self, group: &str, partition: &str, offset: i64) -> Result<Receipt, Reject> {
        self.begin_commit(group, partition, offset).wait().remove(0)
    }

    pub fn commits(&self, group: &str, partition: &str, offset: i64) -> Receipt {
        self.try_commit(group, partition, offset).unwrap()
    }

    pub fn fetched(&self, group: &str, partition: &str) -> FetchedOffset {
        self.coordinator.fetch(group, Some(&[tp(partition)])).wait().unwrap().remove(0)
    }

    /// What a group has committed; `None` is nothing.
    pub fn committed(&self, group: &str, partition: &str) -> Option<i64> {
        self.fetched(group, partition).committed.map(|committed| committed.offset.get())
    }

    pub fn group_names(&self) -> Vec<String> {
        self.coordinator.groups().wait().unwrap().iter().map(|listing| listing.group.to_string()).collect()
    }
}

pub fn tp(name: &str) -> TopicPartition {
    name.parse().unwrap()
}

pub fn entry(partition: &str, offset: i64) -> CommitEntry {
    CommitEntry::new(tp(partition), Offset::new(offset))
}

pub fn now_info() -> BatchInfo {
    BatchInfo::at(Timestamp::from_millis(START_MS))
}

/// An offset commit as another broker would write it, for a topic without id.
pub fn offset_record(group: &str, partition: &str, offset: i64) -> Record {
    let committed = OffsetAndMetadata::new(Offset::new(offset), Timestamp::from_millis(START_MS));
    let value = Some(OffsetCommitValue { version: 3, committed });
    Record::OffsetCommit { legacy: false, group: group.into(), partition: tp(partition), value }
}

/// What a user can see of a state: groups, their members and their offsets. Not what deletions are remembered.
pub fn visible(state: &State) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, group) in state.groups() {
        let (kind, members, epoch) = (group.kind(), group.members(), group.epoch());
        lines.push(format!("{name}: {kind:?} {} {members} {epoch}", group.protocol_type()));
        lines.extend(
            group.offsets().map(|(partition, committed)| format!("{name} {partition} {committed:?}")),
        );
    }
    lines
}

/// Random choices that a seed decides.
pub struct Dice(SeededChance);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(SeededChance::new(seed))
    }

    /// A number below `n`.
    pub fn below(&self, n: u64) -> u64 {
        self.0.next_u64() % n
    }

    pub fn of<'a, T: ?Sized>(&self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len() as u64) as usize]
    }
}
