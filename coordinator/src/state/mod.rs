//! What the groups have committed: the last record of each key of `__consumer_offsets`, and what follows from it.
//!
//! A state is a function of the log and nothing else. [`State::apply`] takes one record and is the same code whether
//! the record was decided a microsecond ago or is read back after a crash, so replay to any prefix gives the state that
//! was. Because only the last record of a key counts (never the order *between* keys), a compacted log gives the same
//! groups as the log it was compacted from. [`step`] decides what to append; it lives beside this file and only reads.

mod expiry;
#[cfg_attr(not(test), expect(dead_code, reason = "heartbeats lead members by it, and they come next"))]
mod reconcile;
mod step;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use girok_engine::{Offset, Timestamp, TopicPartition};

use crate::receipt::{Receipt, Verdict};
use crate::records::{
    CONSUMER, ConsumerGroupMemberMetadata, ConsumerGroupMetadata, ConsumerGroupPartitionMetadata,
    CurrentMemberAssignment, EndTransaction, Flaw, GroupMetadata, OffsetAndMetadata, OffsetCommitValue, Part,
    Record, RegularExpression, TargetAssignmentMember, TargetAssignmentMetadata,
};
use crate::settings::Settings;

pub use expiry::{ExpiryClock, ExpiryTime};
pub use step::{
    Clamped, CommitEntry, Committer, Decision, Expired, Fetched, FetchedOffset, Input, Now, Reply, step,
};

/// What a record's batch says about it.
///
/// ```
/// use girok_coordinator::BatchInfo;
/// use girok_engine::Timestamp;
/// let plain = BatchInfo::at(Timestamp::from_millis(1_795_353_653_658));
/// assert!(!plain.transactional && !plain.control);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchInfo {
    /// The record's own timestamp.
    pub timestamp: Timestamp,
    /// The producer, −1 if it has no id.
    pub producer_id: i64,
    /// Whether it is part of a transaction.
    pub transactional: bool,
    /// Whether it is a control record: the end of a transaction.
    pub control: bool,
}

impl BatchInfo {
    /// A batch without transaction, as we write them.
    pub fn at(timestamp: Timestamp) -> Self {
        BatchInfo { timestamp, producer_id: -1, transactional: false, control: false }
    }
}

/// A value, and where in the log it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept<V> {
    pub(crate) value: V,
    pub(crate) mark: Mark,
}

/// Where a record stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) place: Offset,
    pub(crate) timestamp: Timestamp,
    /// The value's own bytes, where ours would be others: fields from the future, or another way to write the same.
    pub(crate) raw: Option<Box<[u8]>>,
}

/// The last record of one offset key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) legacy: bool,
    /// `None` is a tombstone, remembered for those who hold a receipt.
    pub(crate) value: Option<OffsetCommitValue>,
    /// CRC-32 over key, value and place.
    pub(crate) checksum: u32,
    pub(crate) mark: Mark,
}

impl Slot {
    pub(crate) fn committed(&self) -> Option<&OffsetAndMetadata> {
        self.value.as_ref().map(|value| &value.committed)
    }
}

/// Everything about one group.
///
/// A group exists while something of it does: an offset, a classic group's metadata, a KIP-848 group's epoch or
/// members. A group with offsets only is *simple*: its consumers assign themselves.
///
/// ```
/// # use girok_coordinator::*;
/// # use girok_engine::*;
/// # let orders = TopicPartition::new("orders", 0);
/// # let committed = records::OffsetAndMetadata::new(Offset::new(42), Timestamp::from_millis(7));
/// # let value = Some(records::OffsetCommitValue { version: 3, committed });
/// # let (group, partition) = ("search".into(), orders.clone());
/// # let commit = records::Record::OffsetCommit { legacy: false, group, partition, value };
/// # let mut state = State::new(Settings::default());
/// # state.apply(commit, Offset::ZERO, 0, &BatchInfo::at(Timestamp::from_millis(7)));
/// let group: &Group = state.group("search").unwrap();
/// assert_eq!(group.committed(&orders).unwrap().offset, Offset::new(42));
/// assert_eq!((group.members(), group.epoch()), (0, -1));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    pub(crate) offsets: BTreeMap<TopicPartition, Slot>,
    /// How many of them are no tombstones.
    live: usize,
    pub(crate) classic: Option<Kept<GroupMetadata>>,
    pub(crate) consumer: Option<Box<ConsumerGroup>>,
}

/// The KIP-848 part of a group, last record by last record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConsumerGroup {
    pub(crate) metadata: Option<Kept<ConsumerGroupMetadata>>,
    pub(crate) partition_metadata: Option<Kept<ConsumerGroupPartitionMetadata>>,
    pub(crate) target: Option<Kept<TargetAssignmentMetadata>>,
    pub(crate) members: BTreeMap<Arc<str>, ConsumerMember>,
    pub(crate) regexes: BTreeMap<Arc<str>, Kept<RegularExpression>>,
}

/// A KIP-848 member, last record by last record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConsumerMember {
    pub(crate) metadata: Option<Kept<ConsumerGroupMemberMetadata>>,
    pub(crate) target: Option<Kept<TargetAssignmentMember>>,
    pub(crate) current: Option<Kept<CurrentMemberAssignment>>,
}

impl ConsumerGroup {
    fn is_nothing(&self) -> bool {
        self.metadata.is_none()
            && self.partition_metadata.is_none()
            && self.target.is_none()
            && self.members.is_empty()
            && self.regexes.is_empty()
    }
}

/// What kind of group it is.
///
/// ```
/// # use girok_coordinator::*;
/// # use girok_engine::*;
/// # let orders = TopicPartition::new("orders", 0);
/// # let committed = records::OffsetAndMetadata::new(Offset::new(42), Timestamp::from_millis(7));
/// # let value = Some(records::OffsetCommitValue { version: 3, committed });
/// # let (group, partition) = ("search".into(), orders.clone());
/// # let commit = records::Record::OffsetCommit { legacy: false, group, partition, value };
/// # let mut state = State::new(Settings::default());
/// # state.apply(commit, Offset::ZERO, 0, &BatchInfo::at(Timestamp::from_millis(7)));
/// assert_eq!(state.group("search").unwrap().kind(), GroupKind::Simple); // it has offsets and nothing else
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupKind {
    /// Nobody ever joined it: it has committed offsets and nothing else.
    Simple,
    /// Its members speak the classic protocol.
    Classic,
    /// Its members speak the consumer protocol (KIP-848).
    Consumer,
}

impl Group {
    /// What kind of group it is.
    pub fn kind(&self) -> GroupKind {
        match (&self.consumer, &self.classic) {
            (Some(_), _) => GroupKind::Consumer,
            (None, Some(classic)) if !classic.value.protocol_type.is_empty() => GroupKind::Classic,
            _ => GroupKind::Simple,
        }
    }

    /// Its protocol type: "consumer" for consumers, empty for simple groups.
    pub fn protocol_type(&self) -> &str {
        match (&self.consumer, &self.classic) {
            (Some(_), _) => CONSUMER,
            (None, Some(classic)) => &classic.value.protocol_type,
            (None, None) => "",
        }
    }

    /// How many members the log knows of.
    pub fn members(&self) -> usize {
        let classic = self.classic.as_ref().map_or(0, |classic| classic.value.members.len());
        let consumer = self.consumer.as_ref().map_or(0, |consumer| {
            consumer.members.values().filter(|member| member.metadata.is_some()).count()
        });
        classic + consumer
    }

    /// The number of its last rebalance: generation or group epoch. −1 for simple groups.
    pub fn epoch(&self) -> i32 {
        if let Some(metadata) = self.consumer.as_ref().and_then(|consumer| consumer.metadata.as_ref()) {
            return metadata.value.epoch;
        }
        self.classic.as_ref().map_or(-1, |classic| classic.value.generation)
    }

    /// What is committed, in order of topic and partition.
    pub fn offsets(&self) -> impl Iterator<Item = (&TopicPartition, &OffsetAndMetadata)> {
        self.offsets.iter().filter_map(|(partition, slot)| Some((partition, slot.committed()?)))
    }

    /// What is committed for one partition.
    pub fn committed(&self, partition: &TopicPartition) -> Option<&OffsetAndMetadata> {
        self.offsets.get(partition)?.committed()
    }

    fn exists(&self) -> bool {
        self.live > 0 || self.classic.is_some() || self.consumer.is_some()
    }

    fn is_nothing(&self) -> bool {
        self.offsets.is_empty() && self.classic.is_none() && self.consumer.is_none()
    }

    /// Whether its members read that topic. A consumer group whose subscriptions cannot be read is taken to read
    /// everything.
    fn is_subscribed_to(&self, topic: &str) -> bool {
        if let Some(consumer) = &self.consumer {
            let by_name = |member: &ConsumerMember| {
                let names = member.metadata.as_ref().map(|m| &m.value.subscribed_topic_names);
                names.is_some_and(|names| names.iter().any(|name| &**name == topic))
            };
            let by_regex = |regex: &Kept<RegularExpression>| regex.value.topics.iter().any(|t| &**t == topic);
            return consumer.members.values().any(by_name) || consumer.regexes.values().any(by_regex);
        }
        let Some(classic) = &self.classic else { return false };
        if classic.value.members.is_empty() {
            return false;
        }
        match classic.value.subscribed_topics() {
            Some(topics) => topics.contains(topic),
            None => &*classic.value.protocol_type == CONSUMER,
        }
    }
}

/// All groups, as the log has them up to some offset.
///
/// ```
/// use girok_coordinator::records::Record;
/// use girok_coordinator::{BatchInfo, Settings, State};
/// use girok_engine::{Offset, Timestamp, TopicPartition};
///
/// let mut state = State::new(Settings::default());
/// // A commit as it stands in the log: group "g", topic "t", partition 0, offset 42 (version 2).
/// let key = [0, 1, 0, 1, b'g', 0, 1, b't', 0, 0, 0, 0];
/// let value = [0, 2, 0, 0, 0, 0, 0, 0, 0, 42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
/// let info = BatchInfo::at(Timestamp::from_millis(7));
/// state.replay(Offset::ZERO, &info, Some(&key), Some(&value)).unwrap();
///
/// let partition = TopicPartition::new("t", 0);
/// assert_eq!(state.group("g").unwrap().committed(&partition).unwrap().offset, Offset::new(42));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub(crate) settings: Settings,
    pub(crate) groups: BTreeMap<Arc<str>, Group>,
    /// Offsets of transactions that have not ended, by producer.
    pub(crate) pending: BTreeMap<i64, BTreeMap<(Arc<str>, TopicPartition), Slot>>,
    /// Records of types we do not know, by their keys: not ours to understand, not ours to lose.
    pub(crate) unknown: BTreeMap<Box<[u8]>, Kept<Box<[u8]>>>,
    /// The offset after the last record applied.
    pub(crate) next: Offset,
    /// Below here records are missing, compacted away or forgotten: what is unknown there may have been deleted.
    pub(crate) horizon: Offset,
    /// The latest timestamp of a record.
    pub(crate) latest: Timestamp,
}

impl State {
    /// Before the first record.
    pub fn new(settings: Settings) -> Self {
        State {
            settings,
            groups: BTreeMap::new(),
            pending: BTreeMap::new(),
            unknown: BTreeMap::new(),
            next: Offset::ZERO,
            horizon: Offset::ZERO,
            latest: Timestamp::NONE,
        }
    }

    /// The settings it decides by.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The offset after the last record it has seen.
    pub fn next_offset(&self) -> Offset {
        self.next
    }

    /// The first offset from which on nothing is missing.
    pub fn horizon(&self) -> Offset {
        self.horizon
    }

    /// The latest timestamp of a record it has seen; [`Timestamp::NONE`] before the first.
    pub fn latest_timestamp(&self) -> Timestamp {
        self.latest
    }

    /// A group, if it exists.
    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.get(name).filter(|group| group.exists())
    }

    /// All groups that exist, by name.
    pub fn groups(&self) -> impl Iterator<Item = (&Arc<str>, &Group)> {
        self.groups.iter().filter(|(_, group)| group.exists())
    }

    /// Whether a transaction that may move this offset has not ended.
    pub(crate) fn is_pending(&self, group: &str, partition: &TopicPartition) -> bool {
        self.pending.values().any(|offsets| offsets.keys().any(|(g, p)| &**g == group && p == partition))
    }

    /// The offsets of a group that transactions may still move.
    pub(crate) fn pending_of(&self, group: &str) -> impl Iterator<Item = &TopicPartition> {
        self.pending
            .values()
            .flat_map(|offsets| offsets.keys())
            .filter(move |(g, _)| &**g == group)
            .map(|(_, p)| p)
    }

    /// Reads one record of the log and applies it.
    ///
    /// # Errors
    /// A [`Flaw`] if it has no key or does not decode; nothing was changed then.
    pub fn replay(
        &mut self,
        at: Offset,
        info: &BatchInfo,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Result<(), Flaw> {
        let key = key.ok_or_else(|| Flaw {
            part: Part::Key,
            at: 0,
            expected: "a key".into(),
            found: "none: a record that names nothing".into(),
        })?;
        if info.control {
            self.see(at, info);
            if let Some(end) = EndTransaction::decode(key) {
                self.end_transaction(info.producer_id, end);
            }
            return Ok(());
        }
        let record = Record::decode(key, value)?;
        let raw = value.and_then(|value| {
            let mut ours = Vec::with_capacity(value.len());
            record.encode_value(&mut ours);
            (ours != value).then(|| value.into())
        });
        self.apply_raw(record, at, checksum(key, value, at), info, raw);
        Ok(())
    }

    /// Applies a record that was appended at `at`. `checksum` is [`checksum`] over its bytes.
    pub fn apply(&mut self, record: Record, at: Offset, checksum: u32, info: &BatchInfo) {
        self.apply_raw(record, at, checksum, info, None);
    }

    /// The log goes on at `next`: whatever lay between is gone.
    pub fn skip_to(&mut self, next: Offset) {
        if next > self.next {
            (self.next, self.horizon) = (next, next);
        }
    }

    fn see(&mut self, at: Offset, info: &BatchInfo) {
        self.skip_to(at);
        self.next = self.next.max(at + 1);
        self.latest = self.latest.max(info.timestamp);
    }

    fn apply_raw(
        &mut self,
        record: Record,
        at: Offset,
        checksum: u32,
        info: &BatchInfo,
        raw: Option<Box<[u8]>>,
    ) {
        fn keep<V>(value: Option<V>, mark: Mark) -> Option<Kept<V>> {
            value.map(|value| Kept { value, mark })
        }
        self.see(at, info);
        // Times before 1970 are none; only they keep a record from being written again.
        let mark = Mark { place: at, timestamp: info.timestamp.max(Timestamp::NONE), raw };
        match record {
            Record::OffsetCommit { legacy, group, partition, value } => {
                let slot = Slot { legacy, value, checksum, mark };
                if info.transactional && slot.value.is_some() {
                    let offsets = self.pending.entry(info.producer_id).or_default();
                    offsets.insert((group, partition), slot);
                } else {
                    self.put_offset(group, partition, slot);
                }
            }
            Record::GroupMetadata { group, value } => {
                self.with_group(&group, |g| g.classic = keep(value, mark));
            }
            Record::ConsumerGroupMetadata { group, value } => {
                self.with_consumer(&group, |c| c.metadata = keep(value, mark));
            }
            Record::ConsumerGroupPartitionMetadata { group, value } => {
                self.with_consumer(&group, |c| c.partition_metadata = keep(value, mark));
            }
            Record::TargetAssignmentMetadata { group, value } => {
                self.with_consumer(&group, |c| c.target = keep(value, mark));
            }
            Record::ConsumerGroupMemberMetadata { group, member, value } => {
                self.with_member(&group, &member, |m| m.metadata = keep(value, mark));
            }
            Record::TargetAssignmentMember { group, member, value } => {
                self.with_member(&group, &member, |m| m.target = keep(value, mark));
            }
            Record::CurrentMemberAssignment { group, member, value } => {
                self.with_member(&group, &member, |m| m.current = keep(value, mark));
            }
            Record::RegularExpression { group, regex, value } => {
                self.with_consumer(&group, |c| match value {
                    Some(value) => drop(c.regexes.insert(regex, Kept { value, mark })),
                    None => drop(c.regexes.remove(&regex)),
                });
            }
            Record::Unknown { key, value, .. } => match value {
                Some(value) => {
                    let mark = Mark { raw: None, ..mark };
                    self.unknown.insert(key, Kept { value, mark });
                }
                None => {
                    self.unknown.remove(&key);
                }
            },
        }
    }

    fn put_offset(&mut self, group: Arc<str>, partition: TopicPartition, slot: Slot) {
        if slot.value.is_none() && !self.pending.is_empty() {
            // A tombstone forgets what open transactions were about to commit, too.
            let key = (group.clone(), partition.clone());
            for offsets in self.pending.values_mut() {
                offsets.remove(&key);
            }
            self.pending.retain(|_, offsets| !offsets.is_empty());
        }
        let group = match self.groups.get_mut(&group) {
            Some(group) => group,
            None => self.groups.entry(group).or_default(),
        };
        let lives = usize::from(slot.value.is_some());
        match group.offsets.entry(partition) {
            // Replay may begin before what a state file already knows.
            Entry::Occupied(held) if held.get().mark.place > slot.mark.place => {}
            Entry::Occupied(mut held) => {
                group.live = group.live + lives - usize::from(held.get().value.is_some());
                held.insert(slot);
            }
            Entry::Vacant(vacant) => {
                group.live += lives;
                vacant.insert(slot);
            }
        }
    }

    fn with_group(&mut self, name: &Arc<str>, change: impl FnOnce(&mut Group)) {
        let group = self.groups.entry(name.clone()).or_default();
        change(group);
        if group.is_nothing() {
            self.groups.remove(name);
        }
    }

    fn with_consumer(&mut self, name: &Arc<str>, change: impl FnOnce(&mut ConsumerGroup)) {
        self.with_group(name, |group| {
            let consumer = group.consumer.get_or_insert_default();
            change(consumer);
            if consumer.is_nothing() {
                group.consumer = None;
            }
        });
    }

    fn with_member(&mut self, name: &Arc<str>, member: &Arc<str>, change: impl FnOnce(&mut ConsumerMember)) {
        self.with_consumer(name, |consumer| {
            let held = consumer.members.entry(member.clone()).or_default();
            change(held);
            if *held == ConsumerMember::default() {
                consumer.members.remove(member);
            }
        });
    }

    /// A transaction ended. What it committed counts from the place of its own record, not of the marker: a plain
    /// commit that stands between the two is the later one.
    fn end_transaction(&mut self, producer_id: i64, end: EndTransaction) {
        let Some(offsets) = self.pending.remove(&producer_id) else { return };
        if end == EndTransaction::Commit {
            for ((group, partition), slot) in offsets {
                self.put_offset(group, partition, slot);
            }
        }
    }

    /// What became of a commit, from all that this state knows. It knows nothing of power cuts: see
    /// [`Coordinator::verify`](crate::Coordinator::verify), which does.
    pub fn verify(&self, receipt: &Receipt) -> Verdict {
        let slot = self.groups.get(&*receipt.group).and_then(|group| group.offsets.get(&receipt.partition));
        let Some(slot) = slot else {
            // Nothing is known of the key. Where no record is missing, that means the receipt's own record is.
            return if receipt.place < self.horizon { Verdict::Unknown } else { Verdict::Lost };
        };
        match slot.mark.place.cmp(&receipt.place) {
            std::cmp::Ordering::Equal if slot.checksum == receipt.checksum => Verdict::Stored,
            std::cmp::Ordering::Greater => match slot.committed() {
                Some(committed) => {
                    Verdict::Superseded { committed: committed.clone(), place: slot.mark.place }
                }
                None => Verdict::Deleted { place: slot.mark.place },
            },
            // Another record stands where this one stood, or the key's last record is an earlier one.
            _ => Verdict::Lost,
        }
    }

    /// Forgets tombstones from before `timestamp`, so that memory does not grow with everything that ever was.
    /// Receipts of theirs are answered `Unknown` from now on.
    pub fn forget_tombstones(&mut self, before: Timestamp) {
        let mut horizon = self.horizon;
        self.groups.retain(|_, group| {
            group.offsets.retain(|_, slot| {
                let keep = slot.value.is_some() || slot.mark.timestamp >= before;
                if !keep {
                    horizon = horizon.max(slot.mark.place + 1);
                }
                keep
            });
            !group.is_nothing()
        });
        self.horizon = horizon;
    }
}

/// CRC-32 over a record's key, value and offset: what a receipt carries. The offset goes in because compaction keeps
/// it (batch checksums it does not keep), so a record that was moved is not taken for the one that was promised.
pub fn checksum(key: &[u8], value: Option<&[u8]>, at: Offset) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(key);
    crc.update(value.unwrap_or_default());
    crc.update(&at.get().to_be_bytes());
    crc.finalize()
}
