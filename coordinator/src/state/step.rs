//! Decide, then act: what an input means for the groups, as facts to append and a reply to give.
//!
//! [`step`] is a plain function of the state, the topics, the input and the time. It opens no file, asks no clock and
//! changes nothing: the caller appends the facts to the journal first, applies them with
//! [`State::apply`](super::State::apply) when that succeeded, and only then lets the reply out. The rules are Kafka's
//! (`OffsetMetadataManager`), with two that are stricter: a commit may not point beyond the end of the log, and a
//! clock that jumps does not expire anything at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use girok_engine::{Moment, Offset, Timestamp, TopicId, TopicPartition};

use super::{ExpiryClock, Group, GroupKind, State};
use crate::records::{ConsumerGroupMetadata, GroupMetadata, OffsetAndMetadata, OffsetCommitValue, Record};
use crate::reject::Reject;
use crate::topics::Topics;

/// What time it is.
///
/// ```
/// use girok_coordinator::Now;
/// use girok_engine::Env;
/// let clock = Env::in_memory().clock;
/// let now = Now { wall: clock.wall(), now: clock.now() };
/// assert!(clock.now() >= now.now);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// By the wall clock: stamps commits.
    pub wall: Timestamp,
    /// By the clock that never jumps.
    pub now: Moment,
}

/// Who commits.
///
/// ```
/// use girok_coordinator::Committer;
/// assert_eq!(Committer::default().epoch(), -1); // nothing fences a standalone consumer
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Committer {
    /// A consumer that assigned its partitions itself, or an administrator: accepted while the group has no members.
    #[default]
    Standalone,
}

impl Committer {
    /// The epoch that fences its commits; −1 is none.
    pub fn epoch(self) -> i32 {
        match self {
            Committer::Standalone => -1,
        }
    }
}

/// One partition of a commit.
///
/// ```
/// use girok_coordinator::CommitEntry;
/// use girok_engine::{Offset, TopicPartition};
/// let entry = CommitEntry::new(TopicPartition::new("orders", 3), Offset::new(42)).with_metadata("batch 7");
/// assert_eq!((entry.leader_epoch, &*entry.metadata), (-1, "batch 7"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitEntry {
    /// Which partition.
    pub partition: TopicPartition,
    /// Which topic of that name is meant; `None` is the one there is now.
    pub topic_id: Option<TopicId>,
    /// The next record to process.
    pub offset: Offset,
    /// The leader epoch of the last record processed; −1 is unknown.
    pub leader_epoch: i32,
    /// The application's own note.
    pub metadata: Box<str>,
}

impl CommitEntry {
    /// An offset with nothing beside it.
    pub fn new(partition: TopicPartition, offset: Offset) -> Self {
        CommitEntry { partition, topic_id: None, offset, leader_epoch: -1, metadata: Box::default() }
    }

    /// With a note beside it.
    #[must_use]
    pub fn with_metadata(mut self, metadata: impl Into<Box<str>>) -> Self {
        self.metadata = metadata.into();
        self
    }

    /// With the leader epoch of the last record processed.
    #[must_use]
    pub fn with_leader_epoch(mut self, leader_epoch: i32) -> Self {
        self.leader_epoch = leader_epoch;
        self
    }

    /// Only if the topic still is the one with this id.
    #[must_use]
    pub fn with_topic_id(mut self, id: TopicId) -> Self {
        self.topic_id = Some(id);
        self
    }
}

/// What is asked of the coordinator.
///
/// ```
/// # use girok_coordinator::*;
/// # use girok_engine::*;
/// # #[derive(Debug)]
/// # struct Orders;
/// # impl Topics for Orders {
/// #     fn topic(&self, name: &str) -> Option<TopicView> {
/// #         (name == "orders").then_some(TopicView { id: TopicId([1; 16]), partitions: 1 })
/// #     }
/// #     fn ends(&self, _: &TopicPartition) -> Option<Ends> {
/// #         Some(Ends { published: Offset::new(100), synced: Offset::new(100) })
/// #     }
/// # }
/// # let orders = TopicPartition::new("orders", 0);
/// # let committed = records::OffsetAndMetadata::new(Offset::new(42), Timestamp::from_millis(7));
/// # let value = Some(records::OffsetCommitValue { version: 3, committed });
/// # let (group, partition) = ("search".into(), orders.clone());
/// # let commit = records::Record::OffsetCommit { legacy: false, group, partition, value };
/// # let mut state = State::new(Settings::default());
/// # state.apply(commit, Offset::ZERO, 0, &BatchInfo::at(Timestamp::from_millis(7)));
/// # let now = Now { wall: Timestamp::from_millis(7), now: Moment::from_nanos(0) };
/// let input = Input::DeleteGroup { group: "search" };
/// let decision = step(&state, input, &Orders, now);
/// assert!(decision.facts[0].is_tombstone());
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Input<'a> {
    /// Store offsets.
    Commit {
        /// The group; it is created if it does not exist. May be empty, as in Kafka.
        group: &'a str,
        /// Who commits.
        committer: Committer,
        /// What is committed. A partition may occur twice; the later one wins.
        entries: &'a [CommitEntry],
        /// When these offsets expire, whatever the retention says (Kafka's OffsetCommit v2 to v4).
        expire: Option<Timestamp>,
    },
    /// Set offsets from outside the group: like a commit, refused while the group has members.
    Reset {
        /// The group; it is created if it does not exist.
        group: &'a str,
        /// The offsets.
        entries: &'a [CommitEntry],
    },
    /// Read offsets.
    Fetch {
        /// The group; one that does not exist has committed nothing.
        group: &'a str,
        /// For these partitions; `None` is all that have one.
        partitions: Option<&'a [TopicPartition]>,
        /// Whether offsets that an open transaction may still move are refused.
        require_stable: bool,
    },
    /// Delete offsets.
    DeleteOffsets {
        /// The group.
        group: &'a str,
        /// Of which partitions.
        partitions: &'a [TopicPartition],
    },
    /// Delete a group with everything it has committed.
    DeleteGroup {
        /// The group.
        group: &'a str,
    },
    /// Let old offsets expire.
    Expire {
        /// What the last check knew of the time.
        clock: ExpiryClock,
    },
    /// A topic was deleted: nobody's offsets for it mean anything any more.
    TopicDeleted {
        /// Its name.
        name: &'a str,
        /// Its id.
        id: TopicId,
    },
    /// A partition lost records that were committed (after a power cut): commits beyond its end are set back to it.
    ClampTo {
        /// Which.
        partition: &'a TopicPartition,
        /// Of which topic.
        topic_id: TopicId,
        /// Its end.
        end: Offset,
    },
    /// The process in which the groups' members lived is gone, and they with it.
    MembersGone,
}

/// What the coordinator answers.
///
/// ```
/// # use girok_coordinator::*;
/// # use girok_engine::*;
/// # #[derive(Debug)]
/// # struct Orders;
/// # impl Topics for Orders {
/// #     fn topic(&self, name: &str) -> Option<TopicView> {
/// #         (name == "orders").then_some(TopicView { id: TopicId([1; 16]), partitions: 1 })
/// #     }
/// #     fn ends(&self, _: &TopicPartition) -> Option<Ends> {
/// #         Some(Ends { published: Offset::new(100), synced: Offset::new(100) })
/// #     }
/// # }
/// # let orders = TopicPartition::new("orders", 0);
/// # let committed = records::OffsetAndMetadata::new(Offset::new(42), Timestamp::from_millis(7));
/// # let value = Some(records::OffsetCommitValue { version: 3, committed });
/// # let (group, partition) = ("search".into(), orders.clone());
/// # let commit = records::Record::OffsetCommit { legacy: false, group, partition, value };
/// # let mut state = State::new(Settings::default());
/// # state.apply(commit, Offset::ZERO, 0, &BatchInfo::at(Timestamp::from_millis(7)));
/// # let now = Now { wall: Timestamp::from_millis(7), now: Moment::from_nanos(0) };
/// let decision = step(&state, Input::DeleteGroup { group: "nobody" }, &Orders, now);
/// assert!(matches!(decision.reply, Reply::DeleteGroup(Err(Reject::GroupIdNotFound { .. }))));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Reply {
    /// To a commit or reset: for every entry the number of its fact, or why there is none.
    Commit(Vec<Result<usize, Reject>>),
    /// To a fetch.
    Fetch(Fetched),
    /// To a deletion of offsets: for every partition whether there is now none (that there was none before is no
    /// error, as in Kafka).
    DeleteOffsets(Result<Vec<Result<(), Reject>>, Reject>),
    /// To the deletion of a group.
    DeleteGroup(Result<(), Reject>),
    /// To a check for old offsets.
    Expire(Expired),
    /// To the deletion of a topic: whose offsets went with it.
    TopicDeleted(Vec<(Arc<str>, TopicPartition)>),
    /// To a clamp: whose offsets were set back.
    ClampTo(Vec<Clamped>),
    /// To the end of all members: the groups that had some.
    MembersGone(Vec<Arc<str>>),
}

/// What to append, and what to answer once it is appended.
///
/// ```
/// # use girok_coordinator::*;
/// # use girok_engine::*;
/// # #[derive(Debug)]
/// # struct Orders;
/// # impl Topics for Orders {
/// #     fn topic(&self, name: &str) -> Option<TopicView> {
/// #         (name == "orders").then_some(TopicView { id: TopicId([1; 16]), partitions: 1 })
/// #     }
/// #     fn ends(&self, _: &TopicPartition) -> Option<Ends> {
/// #         Some(Ends { published: Offset::new(100), synced: Offset::new(100) })
/// #     }
/// # }
/// # let orders = TopicPartition::new("orders", 0);
/// # let committed = records::OffsetAndMetadata::new(Offset::new(42), Timestamp::from_millis(7));
/// # let value = Some(records::OffsetCommitValue { version: 3, committed });
/// # let (group, partition) = ("search".into(), orders.clone());
/// # let commit = records::Record::OffsetCommit { legacy: false, group, partition, value };
/// # let mut state = State::new(Settings::default());
/// # state.apply(commit, Offset::ZERO, 0, &BatchInfo::at(Timestamp::from_millis(7)));
/// # let now = Now { wall: Timestamp::from_millis(7), now: Moment::from_nanos(0) };
/// let input = Input::DeleteOffsets { group: "search", partitions: &[orders] };
/// let Decision { facts, reply } = step(&state, input, &Orders, now);
/// assert_eq!(facts.len(), 1); // one tombstone to append
/// assert!(matches!(reply, Reply::DeleteOffsets(Ok(_))));
/// ```
#[derive(Clone, Debug)]
pub struct Decision {
    /// In this order, in one batch.
    pub facts: Vec<Record>,
    /// To be let out after the facts are applied.
    pub reply: Reply,
}

/// The answer to a fetch.
///
/// ```
/// # use girok_coordinator::*;
/// # use girok_engine::*;
/// # #[derive(Debug)]
/// # struct Orders;
/// # impl Topics for Orders {
/// #     fn topic(&self, name: &str) -> Option<TopicView> {
/// #         (name == "orders").then_some(TopicView { id: TopicId([1; 16]), partitions: 1 })
/// #     }
/// #     fn ends(&self, _: &TopicPartition) -> Option<Ends> {
/// #         Some(Ends { published: Offset::new(100), synced: Offset::new(100) })
/// #     }
/// # }
/// # let orders = TopicPartition::new("orders", 0);
/// # let committed = records::OffsetAndMetadata::new(Offset::new(42), Timestamp::from_millis(7));
/// # let value = Some(records::OffsetCommitValue { version: 3, committed });
/// # let (group, partition) = ("search".into(), orders.clone());
/// # let commit = records::Record::OffsetCommit { legacy: false, group, partition, value };
/// # let mut state = State::new(Settings::default());
/// # state.apply(commit, Offset::ZERO, 0, &BatchInfo::at(Timestamp::from_millis(7)));
/// # let now = Now { wall: Timestamp::from_millis(7), now: Moment::from_nanos(0) };
/// let input = Input::Fetch { group: "search", partitions: None, require_stable: false };
/// let Reply::Fetch(fetched) = step(&state, input, &Orders, now).reply else { unreachable!() };
/// assert_eq!((fetched.offsets.len(), fetched.revealed), (1, Offset::new(1)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// In the order asked for.
    pub offsets: Vec<FetchedOffset>,
    /// The answer rests on records before this offset of `__consumer_offsets`: it may be let out once they are
    /// durable. Zero if it rests on none.
    pub revealed: Offset,
}

/// One partition of the answer to a fetch.
///
/// ```
/// # use girok_coordinator::*;
/// # use girok_engine::*;
/// # #[derive(Debug)]
/// # struct Orders;
/// # impl Topics for Orders {
/// #     fn topic(&self, name: &str) -> Option<TopicView> {
/// #         (name == "orders").then_some(TopicView { id: TopicId([1; 16]), partitions: 1 })
/// #     }
/// #     fn ends(&self, _: &TopicPartition) -> Option<Ends> {
/// #         Some(Ends { published: Offset::new(100), synced: Offset::new(100) })
/// #     }
/// # }
/// # let orders = TopicPartition::new("orders", 0);
/// # let committed = records::OffsetAndMetadata::new(Offset::new(42), Timestamp::from_millis(7));
/// # let value = Some(records::OffsetCommitValue { version: 3, committed });
/// # let (group, partition) = ("search".into(), orders.clone());
/// # let commit = records::Record::OffsetCommit { legacy: false, group, partition, value };
/// # let mut state = State::new(Settings::default());
/// # state.apply(commit, Offset::ZERO, 0, &BatchInfo::at(Timestamp::from_millis(7)));
/// # let now = Now { wall: Timestamp::from_millis(7), now: Moment::from_nanos(0) };
/// let input = Input::Fetch { group: "search", partitions: Some(&[orders]), require_stable: true };
/// let Reply::Fetch(fetched) = step(&state, input, &Orders, now).reply else { unreachable!() };
/// let FetchedOffset { committed, unstable, .. } = &fetched.offsets[0];
/// assert_eq!(committed.as_ref().map(|c| c.offset), Some(Offset::new(42)));
/// assert!(!unstable);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedOffset {
    /// Which partition.
    pub partition: TopicPartition,
    /// What is committed for it, if anything is, for the topic that has this name now.
    pub committed: Option<OffsetAndMetadata>,
    /// Set if only settled offsets were asked for and this one is not; `committed` is then `None`.
    pub unstable: bool,
}

/// What a check for old offsets found.
///
/// ```
/// # use girok_coordinator::*;
/// # use girok_engine::*;
/// # #[derive(Debug)]
/// # struct Orders;
/// # impl Topics for Orders {
/// #     fn topic(&self, name: &str) -> Option<TopicView> {
/// #         (name == "orders").then_some(TopicView { id: TopicId([1; 16]), partitions: 1 })
/// #     }
/// #     fn ends(&self, _: &TopicPartition) -> Option<Ends> {
/// #         Some(Ends { published: Offset::new(100), synced: Offset::new(100) })
/// #     }
/// # }
/// # let orders = TopicPartition::new("orders", 0);
/// # let committed = records::OffsetAndMetadata::new(Offset::new(42), Timestamp::from_millis(7));
/// # let value = Some(records::OffsetCommitValue { version: 3, committed });
/// # let (group, partition) = ("search".into(), orders.clone());
/// # let commit = records::Record::OffsetCommit { legacy: false, group, partition, value };
/// # let mut state = State::new(Settings::default());
/// # state.apply(commit, Offset::ZERO, 0, &BatchInfo::at(Timestamp::from_millis(7)));
/// // A week and a second after the commit.
/// let wall = Timestamp::from_millis(7 + 7 * 24 * 3_600_000 + 1_000);
/// let now = Now { wall, now: Moment::from_nanos(0) };
/// let input = Input::Expire { clock: ExpiryClock::since(wall) };
/// let Reply::Expire(expired) = step(&state, input, &Orders, now).reply else { unreachable!() };
/// assert_eq!((expired.offsets, expired.groups), (vec![("search".into(), orders)], vec!["search".into()]));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Offsets that expired.
    pub offsets: Vec<(Arc<str>, TopicPartition)>,
    /// Groups that ended with the last of theirs.
    pub groups: Vec<Arc<str>>,
    /// The wall clock has jumped forward by more than an hour; the next check will tell whether that is true.
    pub held: bool,
    /// For the next check.
    pub clock: ExpiryClock,
}

/// A commit that pointed beyond the end of the log and was set back to it.
///
/// ```
/// # use girok_coordinator::*;
/// # use girok_engine::*;
/// # #[derive(Debug)]
/// # struct Orders;
/// # impl Topics for Orders {
/// #     fn topic(&self, name: &str) -> Option<TopicView> {
/// #         (name == "orders").then_some(TopicView { id: TopicId([1; 16]), partitions: 1 })
/// #     }
/// #     fn ends(&self, _: &TopicPartition) -> Option<Ends> {
/// #         Some(Ends { published: Offset::new(100), synced: Offset::new(100) })
/// #     }
/// # }
/// # let orders = TopicPartition::new("orders", 0);
/// # let committed = records::OffsetAndMetadata::new(Offset::new(42), Timestamp::from_millis(7));
/// # let value = Some(records::OffsetCommitValue { version: 3, committed });
/// # let (group, partition) = ("search".into(), orders.clone());
/// # let commit = records::Record::OffsetCommit { legacy: false, group, partition, value };
/// # let mut state = State::new(Settings::default());
/// # state.apply(commit, Offset::ZERO, 0, &BatchInfo::at(Timestamp::from_millis(7)));
/// # let now = Now { wall: Timestamp::from_millis(7), now: Moment::from_nanos(0) };
/// # let topic_id = TopicId([1; 16]);
/// let input = Input::ClampTo { partition: &orders, topic_id, end: Offset::new(40) };
/// let Reply::ClampTo(clamped) = step(&state, input, &Orders, now).reply else { unreachable!() };
/// assert_eq!((clamped[0].was, clamped[0].now), (Offset::new(42), Offset::new(40)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clamped {
    /// Whose.
    pub group: Arc<str>,
    /// Of which partition.
    pub partition: TopicPartition,
    /// What was committed.
    pub was: Offset,
    /// What is committed now: the end of the log.
    pub now: Offset,
}

/// Decides what an input means.
///
/// ```
/// use girok_coordinator::{CommitEntry, Committer, Ends, Input, Now, Reply, Settings, State, TopicView, Topics, step};
/// use girok_engine::{Moment, Offset, Timestamp, TopicId, TopicPartition};
/// # #[derive(Debug)]
/// # struct Orders;
/// # impl Topics for Orders {
/// #     fn topic(&self, name: &str) -> Option<TopicView> {
/// #         (name == "orders").then_some(TopicView { id: TopicId([1; 16]), partitions: 1 })
/// #     }
/// #     fn ends(&self, _: &TopicPartition) -> Option<Ends> {
/// #         Some(Ends { published: Offset::new(100), synced: Offset::new(100) })
/// #     }
/// # }
/// let state = State::new(Settings::default());
/// let entries = [CommitEntry::new(TopicPartition::new("orders", 0), Offset::new(42))];
/// let input =
///     Input::Commit { group: "search", committer: Committer::Standalone, entries: &entries, expire: None };
/// let now = Now { wall: Timestamp::from_millis(7), now: Moment::from_nanos(0) };
///
/// let decision = step(&state, input, &Orders, now);
/// assert_eq!(decision.facts.len(), 1);
/// assert!(matches!(&decision.reply, Reply::Commit(results) if results[0].is_ok()));
/// ```
pub fn step(state: &State, input: Input<'_>, topics: &dyn Topics, now: Now) -> Decision {
    let mut facts = Vec::new();
    let reply = match input {
        Input::Commit { group, committer: Committer::Standalone, entries, expire } => {
            let refuse = |group, members| Reject::UnknownMemberId { group, members };
            Reply::Commit(commit(state, group, entries, expire, refuse, topics, now, &mut facts))
        }
        Input::Reset { group, entries } => {
            let refuse = |group, members| Reject::NonEmptyGroup { group, members };
            Reply::Commit(commit(state, group, entries, None, refuse, topics, now, &mut facts))
        }
        Input::Fetch { group, partitions, require_stable } => {
            Reply::Fetch(fetch(state, group, partitions, require_stable, topics))
        }
        Input::DeleteOffsets { group, partitions } => {
            Reply::DeleteOffsets(delete_offsets(state, group, partitions, &mut facts))
        }
        Input::DeleteGroup { group } => Reply::DeleteGroup(delete_group(state, group, &mut facts)),
        Input::Expire { clock } => Reply::Expire(expire(state, clock, now, &mut facts)),
        Input::TopicDeleted { name, id } => Reply::TopicDeleted(topic_deleted(state, name, id, &mut facts)),
        Input::ClampTo { partition, topic_id, end } => {
            Reply::ClampTo(clamp(state, partition, topic_id, end, &mut facts))
        }
        Input::MembersGone => Reply::MembersGone(members_gone(state, now, &mut facts)),
    };
    Decision { facts, reply }
}

#[allow(clippy::too_many_arguments)] // private, and each of them is a different thing
fn commit(
    state: &State,
    name: &str,
    entries: &[CommitEntry],
    expire: Option<Timestamp>,
    refuse: impl Fn(Arc<str>, usize) -> Reject,
    topics: &dyn Topics,
    now: Now,
    facts: &mut Vec<Record>,
) -> Vec<Result<usize, Reject>> {
    let all = |reject: Reject| entries.iter().map(|_| Err(reject.clone())).collect();
    if name.len() > i16::MAX as usize {
        return all(invalid_group_id(name, "it is longer than 32767 bytes"));
    }
    let group = match state.groups.get_key_value(name) {
        Some((group, held)) => {
            let members = held.members();
            if members > 0 {
                return all(refuse(group.clone(), members));
            }
            group.clone()
        }
        None => Arc::from(name),
    };
    // An explicit expiry fits into version 1 only, which has no room for leader epoch and topic id.
    let version = if expire.is_some() { 1 } else { state.settings.offset_commit_version };
    facts.reserve_exact(entries.len());
    let mut results = Vec::with_capacity(entries.len());
    for entry in entries {
        results.push(match check(state, entry, topics) {
            Err(reject) => Err(reject),
            Ok(id) => {
                let committed = OffsetAndMetadata {
                    offset: entry.offset,
                    leader_epoch: if version >= 3 { entry.leader_epoch } else { -1 },
                    metadata: entry.metadata.clone(),
                    commit_timestamp: now.wall,
                    expire_timestamp: expire,
                    topic_id: if version >= 4 { id } else { TopicId::ZERO },
                };
                facts.push(Record::OffsetCommit {
                    legacy: false,
                    group: group.clone(),
                    partition: entry.partition.clone(),
                    value: Some(OffsetCommitValue { version, committed }),
                });
                Ok(facts.len() - 1)
            }
        });
    }
    results
}

/// Whether one partition of a commit can be stored; the topic's id if so.
fn check(state: &State, entry: &CommitEntry, topics: &dyn Topics) -> Result<TopicId, Reject> {
    let partition = &entry.partition;
    let unknown = |partitions| Reject::UnknownTopicOrPartition { partition: partition.clone(), partitions };
    let topic = topics.topic(partition.topic()).ok_or_else(|| unknown(None))?;
    if !(0..topic.partitions).contains(&partition.partition()) {
        return Err(unknown(Some(topic.partitions)));
    }
    match entry.topic_id {
        Some(found) if found != topic.id => {
            let (partition, expected) = (partition.clone(), topic.id);
            return Err(Reject::UnknownTopicId { partition, expected, found });
        }
        _ => {}
    }
    let max = state.settings.offset_metadata_chars_max;
    // There are never more UTF-16 units than bytes, so the count is rarely needed.
    if entry.metadata.len() > max {
        let chars = entry.metadata.encode_utf16().count();
        if chars > max {
            return Err(Reject::OffsetMetadataTooLarge { partition: partition.clone(), chars, max });
        }
    }
    if entry.offset < Offset::ZERO {
        return Err(Reject::NegativeOffset { partition: partition.clone(), offset: entry.offset });
    }
    let ends = topics.ends(partition).ok_or_else(|| unknown(Some(topic.partitions)))?;
    if entry.offset > ends.published {
        let (partition, end) = (partition.clone(), ends.published);
        return Err(Reject::BeyondEnd { partition, offset: entry.offset, end });
    }
    Ok(topic.id)
}

fn fetch(
    state: &State,
    name: &str,
    partitions: Option<&[TopicPartition]>,
    require_stable: bool,
    topics: &dyn Topics,
) -> Fetched {
    let group = state.groups.get(name);
    let mut revealed = Offset::ZERO;
    let mut one = |partition: &TopicPartition| {
        if require_stable && state.is_pending(name, partition) {
            return FetchedOffset { partition: partition.clone(), committed: None, unstable: true };
        }
        let slot = group.and_then(|group| group.offsets.get(partition));
        if let Some(slot) = slot {
            // That an offset was deleted is an answer, too, and must not be taken back by a power cut.
            revealed = revealed.max(slot.mark.place + 1);
        }
        // An offset of the topic's former namesake is none. Records from before topic ids cannot say whose they
        // are, and a topic that is gone has no id to compare with.
        let current = topics.topic(partition.topic()).map(|topic| topic.id);
        let same =
            |c: &&OffsetAndMetadata| c.topic_id == TopicId::ZERO || current.is_none_or(|id| id == c.topic_id);
        let committed = slot.and_then(|slot| slot.committed()).filter(same).cloned();
        FetchedOffset { partition: partition.clone(), committed, unstable: false }
    };
    let offsets = if let Some(partitions) = partitions {
        partitions.iter().map(&mut one).collect()
    } else {
        let known = group.into_iter().flat_map(|group| group.offsets.keys());
        let open = state.pending_of(name).filter(|_| require_stable);
        let all: BTreeSet<&TopicPartition> = known.chain(open).collect();
        all.into_iter().map(&mut one).filter(|o| o.committed.is_some() || o.unstable).collect()
    };
    Fetched { offsets, revealed }
}

fn delete_offsets(
    state: &State,
    name: &str,
    partitions: &[TopicPartition],
    facts: &mut Vec<Record>,
) -> Result<Vec<Result<(), Reject>>, Reject> {
    if name.is_empty() {
        return Err(invalid_group_id(name, "only commits and fetches may leave it empty"));
    }
    let (name, group) = existing(state, name)?;
    let none = Group::default();
    let group = group.unwrap_or(&none);
    let members = group.members();
    if members > 0 && group.kind() != GroupKind::Consumer && group.protocol_type() != crate::records::CONSUMER
    {
        return Err(Reject::NonEmptyGroup { group: name, members });
    }
    let mut done = BTreeSet::new();
    let results = partitions.iter().map(|partition| {
        if group.is_subscribed_to(partition.topic()) {
            return Err(Reject::GroupSubscribedToTopic {
                group: name.clone(),
                topic: partition.topic_shared(),
            });
        }
        let stored = group.committed(partition).is_some() || state.is_pending(&name, partition);
        if stored && done.insert(partition) {
            facts.push(offset_tombstone(group, &name, partition));
        }
        Ok(())
    });
    Ok(results.collect())
}

fn delete_group(state: &State, name: &str, facts: &mut Vec<Record>) -> Result<(), Reject> {
    let (name, group) = existing(state, name)?;
    let none = Group::default();
    let group = group.unwrap_or(&none);
    let members = group.members();
    if members > 0 {
        return Err(Reject::NonEmptyGroup { group: name, members });
    }
    let pending = state.pending_of(&name);
    let partitions: BTreeSet<_> = group.offsets().map(|(partition, _)| partition).chain(pending).collect();
    for partition in partitions {
        facts.push(offset_tombstone(group, &name, partition));
    }
    group_tombstones(group, &name, facts);
    Ok(())
}

/// The group's name and what is known of it; a group that exists only by an open transaction has no more than that.
fn existing<'a>(state: &'a State, name: &str) -> Result<(Arc<str>, Option<&'a Group>), Reject> {
    match state.groups.get_key_value(name) {
        Some((name, group)) if group.exists() => Ok((name.clone(), Some(group))),
        _ if state.pending_of(name).next().is_some() => Ok((name.into(), None)),
        _ => Err(Reject::GroupIdNotFound { group: name.into() }),
    }
}

fn expire(state: &State, clock: ExpiryClock, now: Now, facts: &mut Vec<Record>) -> Expired {
    let time = clock.look(now);
    let mut expired = Expired { offsets: Vec::new(), groups: Vec::new(), held: time.held, clock: time.clock };
    let retention_ms = i64::try_from(state.settings.offsets_retention.as_millis()).unwrap_or(i64::MAX);
    for (name, group) in state.groups() {
        let since = age_since(group);
        let mut all = state.pending_of(name).next().is_none();
        for (partition, committed) in group.offsets() {
            let older_than_retention =
                |since: Timestamp| time.wall.as_millis().saturating_sub(since.as_millis()) >= retention_ms;
            let old = match (committed.expire_timestamp, since) {
                (_, Since::Never) => false,
                (Some(at), _) => time.wall >= at,
                (None, Since::Commit) => older_than_retention(committed.commit_timestamp),
                (None, Since::Empty(at)) => older_than_retention(at),
            };
            if old && !group.is_subscribed_to(partition.topic()) && !state.is_pending(name, partition) {
                facts.push(offset_tombstone(group, name, partition));
                expired.offsets.push((name.clone(), partition.clone()));
            } else {
                all = false;
            }
        }
        if all && group.members() == 0 {
            group_tombstones(group, name, facts);
            expired.groups.push(name.clone());
        }
    }
    expired
}

/// From when on a group's offsets grow old.
#[derive(Clone, Copy)]
enum Since {
    /// Not at all.
    Never,
    /// Each from its own commit.
    Commit,
    /// All from when the last member left.
    Empty(Timestamp),
}

fn age_since(group: &Group) -> Since {
    match (group.kind(), &group.classic) {
        (GroupKind::Classic, Some(classic)) if classic.value.members.is_empty() => {
            match classic.value.current_state_timestamp {
                -1 => Since::Commit,
                at => Since::Empty(Timestamp::from_millis(at)),
            }
        }
        // What a group with members reads does not grow old; where that cannot be known, nothing does.
        (GroupKind::Classic, Some(classic)) if classic.value.subscribed_topics().is_none() => Since::Never,
        _ => Since::Commit,
    }
}

fn topic_deleted(
    state: &State,
    topic: &str,
    id: TopicId,
    facts: &mut Vec<Record>,
) -> Vec<(Arc<str>, TopicPartition)> {
    let mut deleted = BTreeSet::new();
    for (name, group) in state.groups() {
        for (partition, committed) in group.offsets() {
            if partition.topic() == topic && of_topic(committed, id) {
                deleted.insert((name.clone(), partition.clone()));
            }
        }
    }
    for ((name, partition), slot) in state.pending.values().flatten() {
        if partition.topic() == topic && slot.committed().is_some_and(|committed| of_topic(committed, id)) {
            deleted.insert((name.clone(), partition.clone()));
        }
    }
    let none = Group::default();
    for (name, partition) in &deleted {
        facts.push(offset_tombstone(state.groups.get(name).unwrap_or(&none), name, partition));
    }
    deleted.into_iter().collect()
}

fn of_topic(committed: &OffsetAndMetadata, id: TopicId) -> bool {
    committed.topic_id == id || committed.topic_id == TopicId::ZERO
}

fn clamp(
    state: &State,
    partition: &TopicPartition,
    id: TopicId,
    end: Offset,
    facts: &mut Vec<Record>,
) -> Vec<Clamped> {
    let mut clamped = Vec::new();
    for (name, group) in state.groups() {
        let Some(slot) = group.offsets.get(partition) else { continue };
        let Some(value) = slot.value.as_ref().filter(|value| of_topic(&value.committed, id)) else {
            continue;
        };
        let was = value.committed.offset;
        if was <= end {
            continue;
        }
        let mut value = value.clone();
        value.committed.offset = end;
        // The record it was counted from is gone, and its epoch with it. The time of the commit stays: nobody
        // committed anew.
        value.committed.leader_epoch = -1;
        facts.push(Record::OffsetCommit {
            legacy: false,
            group: name.clone(),
            partition: partition.clone(),
            value: Some(value),
        });
        clamped.push(Clamped { group: name.clone(), partition: partition.clone(), was, now: end });
    }
    clamped
}

fn members_gone(state: &State, now: Now, facts: &mut Vec<Record>) -> Vec<Arc<str>> {
    let mut gone = Vec::new();
    for (name, group) in state.groups() {
        if group.members() == 0 {
            continue;
        }
        if let Some(classic) = group.classic.as_ref().filter(|classic| !classic.value.members.is_empty()) {
            // What Kafka writes when the last member's session has run out.
            let metadata = &classic.value;
            let generation = metadata.generation.wrapping_add(1);
            let empty =
                GroupMetadata::empty(metadata.protocol_type.clone(), generation, now.wall.as_millis());
            facts.push(Record::GroupMetadata { group: name.clone(), value: Some(empty) });
        }
        if let Some(consumer) = group.consumer.as_deref().filter(|consumer| !consumer.members.is_empty()) {
            member_tombstones(group, name, facts, |_| {});
            let metadata = consumer.metadata.as_ref().map(|kept| &kept.value);
            let epoch = metadata.map_or(0, |metadata| metadata.epoch).wrapping_add(1);
            let value = Some(ConsumerGroupMetadata { epoch, metadata_hash: 0 });
            facts.push(Record::ConsumerGroupMetadata { group: name.clone(), value });
        }
        gone.push(name.clone());
    }
    gone
}

fn offset_tombstone(group: &Group, name: &Arc<str>, partition: &TopicPartition) -> Record {
    Record::OffsetCommit {
        legacy: group.offsets.get(partition).is_some_and(|slot| slot.legacy),
        group: name.clone(),
        partition: partition.clone(),
        value: None,
    }
}

/// All current assignments, then all targets, `between`, then all members: who replays them one by one never sees a
/// target without its member.
fn member_tombstones(
    group: &Group,
    name: &Arc<str>,
    facts: &mut Vec<Record>,
    between: impl FnOnce(&mut Vec<Record>),
) {
    let Some(consumer) = &group.consumer else { return };
    let ids = || consumer.members.iter().map(|(id, member)| (name.clone(), id.clone(), member));
    facts.extend(
        ids()
            .filter(|(_, _, m)| m.current.is_some())
            .map(|(group, member, _)| Record::CurrentMemberAssignment { group, member, value: None }),
    );
    facts.extend(
        ids()
            .filter(|(_, _, m)| m.target.is_some())
            .map(|(group, member, _)| Record::TargetAssignmentMember { group, member, value: None }),
    );
    between(facts);
    facts.extend(
        ids()
            .filter(|(_, _, m)| m.metadata.is_some())
            .map(|(group, member, _)| Record::ConsumerGroupMemberMetadata { group, member, value: None }),
    );
}

/// Ends a group: in the order in which Kafka's replay demands it, 8, 7, 6, 5, 16, 4, 3 for a consumer group.
fn group_tombstones(group: &Group, name: &Arc<str>, facts: &mut Vec<Record>) {
    let Some(consumer) = &group.consumer else {
        return facts.push(Record::GroupMetadata { group: name.clone(), value: None });
    };
    member_tombstones(group, name, facts, |facts| {
        facts.push(Record::TargetAssignmentMetadata { group: name.clone(), value: None });
    });
    for regex in consumer.regexes.keys() {
        facts.push(Record::RegularExpression { group: name.clone(), regex: regex.clone(), value: None });
    }
    facts.push(Record::ConsumerGroupPartitionMetadata { group: name.clone(), value: None });
    facts.push(Record::ConsumerGroupMetadata { group: name.clone(), value: None });
    if group.classic.is_some() {
        facts.push(Record::GroupMetadata { group: name.clone(), value: None });
    }
}

fn invalid_group_id(name: &str, why: &'static str) -> Reject {
    Reject::InvalidGroupId { group: name.chars().take(64).collect(), why }
}
