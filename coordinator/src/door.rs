//! The door: one coordinator over one journal, for many threads.
//!
//! Every call takes the same way: decide ([`step`]) under the lock, append the facts to the journal, apply them, let
//! go of the lock, and only then wait for durability, so that many waiters share one sync. An append that failed
//! applies nothing. An answer that reveals a commit is not let out before that commit is durable; [`Answer`] and
//! [`Commit`] are the waiting ends of that, blocking or as futures, and forgetting one takes nothing back.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use girok_engine::disk::{self, Disk};
use girok_engine::wait::{Ticket, block_on};
use girok_engine::{Clock, Durability, Error, Offset, Result, Timestamp, TopicId, TopicPartition};

use crate::journal::{Entries, Journal};
use crate::receipt::{Receipt, Verdict};
use crate::records::Record;
use crate::reject::Reject;
use crate::settings::Settings;
use crate::state::{
    BatchInfo, Clamped, CommitEntry, Committer, Decision, Expired, ExpiryClock, FetchedOffset, GroupKind,
    Input, Now, Reply, State, checksum, step,
};
use crate::state_file::{self, Origin};
use crate::topics::Topics;

/// What a coordinator stands on.
///
/// ```
/// # use std::sync::Arc;
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
/// # let env = Env::in_memory();
/// # let (clock, disk) = (env.clock.clone(), env.disk.clone());
/// # let (log, _) = Log::open(env, "/log", LogConfig::default())?;
/// # log.create_topic("offsets", 1, TopicConfig::default())?;
/// # let partition = log.partition(&TopicPartition::new("offsets", 0))?;
/// let journal = Arc::new(PartitionJournal::new(partition));
/// let ground = Ground { journal, topics: Arc::new(Orders), clock, state_file: None };
/// let (coordinator, _) = Coordinator::open(ground, Settings::default())?;
/// assert!(coordinator.groups().wait()?.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Ground {
    /// Where its facts are kept.
    pub journal: Arc<dyn Journal>,
    /// The topics that can be committed for.
    pub topics: Arc<dyn Topics>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where its state file is, if it shall have one.
    pub state_file: Option<StateFile>,
}

/// Where the state file is.
///
/// ```
/// # use std::sync::Arc;
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
/// # let env = Env::in_memory();
/// # let (clock, disk) = (env.clock.clone(), env.disk.clone());
/// # let (log, _) = Log::open(env, "/log", LogConfig::default())?;
/// # log.create_topic("offsets", 1, TopicConfig::default())?;
/// # let partition = log.partition(&TopicPartition::new("offsets", 0))?;
/// # let journal = Arc::new(PartitionJournal::new(partition));
/// let file = StateFile { disk, path: "/log/girok-groups.state".into(), boot: log.boot() };
/// let ground = Ground { journal, topics: Arc::new(Orders), clock, state_file: Some(file) };
/// let (coordinator, _) = Coordinator::open(ground, Settings::default())?;
/// assert_eq!(coordinator.save_state()?, Some(Offset::ZERO));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct StateFile {
    /// On which disk.
    pub disk: Arc<dyn Disk>,
    /// Under which name; see [`state_file::FILE_NAME`].
    pub path: PathBuf,
    /// The directory's present boot number.
    pub boot: u64,
}

/// What opening a coordinator found.
///
/// ```
/// # use std::sync::Arc;
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
/// # let env = Env::in_memory();
/// # let (clock, disk) = (env.clock.clone(), env.disk.clone());
/// # let (log, _) = Log::open(env, "/log", LogConfig::default())?;
/// # log.create_topic("offsets", 1, TopicConfig::default())?;
/// # let partition = log.partition(&TopicPartition::new("offsets", 0))?;
/// # let journal = Arc::new(PartitionJournal::new(partition));
/// # let ground = Ground { journal, topics: Arc::new(Orders), clock, state_file: None };
/// # let (coordinator, _) = Coordinator::open(ground.clone(), Settings::default())?;
/// # let entries = [CommitEntry::new(TopicPartition::new("orders", 0), Offset::new(42))];
/// coordinator.commit("search", &entries, CommitOptions::default()).wait().remove(0)?;
/// drop(coordinator);
/// let (_, report) = Coordinator::open(ground, Settings::default())?;
/// assert_eq!((report.records_replayed, report.clamped.len()), (1, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct OpenReport {
    /// Up to which offset the state file told, if it was used.
    pub state_file_covered: Option<Offset>,
    /// Why there is a state file that was not used.
    pub state_file_refused: Option<Error>,
    /// How many records of the log were read.
    pub records_replayed: u64,
    /// Groups whose members ended with the process they lived in.
    pub members_gone: Vec<Arc<str>>,
    /// Commits that pointed beyond the end of their partition, and were set back to it.
    pub clamped: Vec<Clamped>,
}

/// The offsets log could not be read to its end. Nothing was changed, on disk or elsewhere.
///
/// ```
/// # use girok_coordinator::*;
/// # use girok_engine::*;
/// # let env = Env::in_memory();
/// # let (clock, disk) = (env.clock.clone(), env.disk.clone());
/// # let (log, _) = Log::open(env, "/log", LogConfig::default())?;
/// # log.create_topic("offsets", 1, TopicConfig::default())?;
/// # let partition = log.partition(&TopicPartition::new("offsets", 0))?;
/// # let journal = PartitionJournal::new(partition);
/// # let mut entries = Entries::default();
/// // The key of an offset commit (type 1), cut in the middle of the group's name.
/// let key = Box::from([0, 1, 0, 9, b'g']);
/// entries.push(&records::Record::Unknown { kind: 1, key, value: None });
/// journal.append(&entries, Timestamp::from_millis(7))?;
/// let error: OpenError = replay(&journal, None, &Settings::default()).unwrap_err();
/// assert!(error.to_string().contains("expected a group of 9 bytes"), "{error}");
/// assert_eq!(error.last_good.next_offset(), Offset::ZERO);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct OpenError {
    /// What is wrong, and where.
    pub error: Error,
    /// The groups as they were before that place: what can be saved. They are not served as the truth.
    pub last_good: Box<State>,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups = self.last_good.groups().count();
        write!(
            f,
            "committed offsets: {}; {groups} groups are intact up to place {}",
            self.error, self.last_good.next
        )
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl From<OpenError> for Error {
    fn from(e: OpenError) -> Error {
        e.error
    }
}

/// Rebuilds the groups: from the state file as far as it goes and can be trusted, from the log for the rest. Appends
/// nothing, so it serves those who only look.
///
/// # Errors
/// [`OpenError`] if the log cannot be read or holds a record that does not decode. That is never taken for an empty
/// log.
pub fn replay(
    journal: &dyn Journal,
    file: Option<&StateFile>,
    settings: &Settings,
) -> Result<(State, OpenReport), OpenError> {
    let mut report = OpenReport::default();
    let mut state = State::new(settings.clone());
    if let Some(file) = file {
        match load(file, settings) {
            Ok(None) => {}
            Ok(Some((loaded, origin))) => match foreign(&origin, file, journal) {
                None => (state, report.state_file_covered) = (loaded, Some(origin.covered)),
                Some(error) => report.state_file_refused = Some(error),
            },
            Err(error) => report.state_file_refused = Some(error),
        }
    }
    let from = state.next;
    let mut read = |state: &mut State| {
        journal.read_from(from, &mut |at, info, key, value| {
            report.records_replayed += 1;
            state.replay(at, info, key, value)
        })
    };
    match read(&mut state) {
        Ok(end) if end >= from => {
            state.skip_to(end);
            Ok((state, report))
        }
        // The log ends before what the state file covers: it was cut, and the file knows commits that are gone.
        Ok(end) => {
            let path = file.map_or_else(PathBuf::new, |file| file.path.clone());
            let (mut state, mut again) = replay(journal, None, settings)?;
            state.skip_to(end);
            again.state_file_refused = Some(Error::corrupt(
                path,
                20,
                format!("a state up to offset {end} at most, where the log ends"),
                from.to_string(),
                "the log was read instead",
            ));
            Ok((state, again))
        }
        Err(error) => Err(OpenError { error, last_good: Box::new(state) }),
    }
}

/// A state file should be some kilobytes to some hundred megabytes.
const STATE_FILE_BYTES_MAX: u64 = 4 << 30;

fn load(file: &StateFile, settings: &Settings) -> Result<Option<(State, Origin)>> {
    match disk::read_file(&*file.disk, &file.path, STATE_FILE_BYTES_MAX) {
        Ok(bytes) => state_file::decode(&bytes, settings.clone(), &file.path).map(Some),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("reading", &file.path, e)),
    }
}

/// Why a sound state file is not about this log, if it is not.
fn foreign(origin: &Origin, file: &StateFile, journal: &dyn Journal) -> Option<Error> {
    let intact = "the log was read instead";
    if origin.boot > file.boot {
        let expected = format!("a boot up to {}, which is the directory's", file.boot);
        return Some(Error::corrupt(&file.path, 12, expected, origin.boot.to_string(), intact));
    }
    if origin.covered > Offset::ZERO {
        let epoch = journal.leader_epoch_at(origin.covered + -1);
        if epoch != origin.log_epoch {
            let expected =
                format!("leader epoch {epoch}, which the log has before offset {}", origin.covered);
            return Some(Error::corrupt(&file.path, 44, expected, origin.log_epoch.to_string(), intact));
        }
    }
    None
}

/// The groups and their committed offsets. `Sync`: share it behind an [`Arc`].
///
/// ```
/// use std::sync::Arc;
/// use girok_coordinator::{CommitEntry, CommitOptions, Coordinator, Ground, PartitionJournal, Settings, Verdict};
/// use girok_coordinator::{Ends, TopicView, Topics};
/// use girok_engine::{Env, Log, LogConfig, Offset, TopicConfig, TopicId, TopicPartition};
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
///
/// let env = Env::in_memory();
/// let clock = env.clock.clone();
/// let (log, _) = Log::open(env, "/log", LogConfig::default())?;
/// log.create_topic("offsets", 1, TopicConfig::default())?;
/// let journal = PartitionJournal::new(log.partition(&TopicPartition::new("offsets", 0))?);
///
/// let ground = Ground { journal: Arc::new(journal), topics: Arc::new(Orders), clock, state_file: None };
/// let (coordinator, _) = Coordinator::open(ground, Settings::default())?;
///
/// let orders = TopicPartition::new("orders", 0);
/// let entries = [CommitEntry::new(orders.clone(), Offset::new(42))];
/// let receipt = coordinator.commit("search", &entries, CommitOptions::default()).wait().remove(0)?;
/// assert_eq!(coordinator.verify(&receipt).wait()?, Verdict::Stored);
///
/// let fetched = coordinator.fetch("search", Some(&[orders])).wait()?;
/// assert_eq!(fetched[0].committed.as_ref().unwrap().offset, Offset::new(42));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Coordinator {
    ground: Ground,
    settings: Settings,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    entries: Entries,
    expiry: ExpiryClock,
}

/// How to commit.
///
/// ```
/// # use std::sync::Arc;
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
/// # let env = Env::in_memory();
/// # let (clock, disk) = (env.clock.clone(), env.disk.clone());
/// # let (log, _) = Log::open(env, "/log", LogConfig::default())?;
/// # log.create_topic("offsets", 1, TopicConfig::default())?;
/// # let partition = log.partition(&TopicPartition::new("offsets", 0))?;
/// # let journal = Arc::new(PartitionJournal::new(partition));
/// # let ground = Ground { journal, topics: Arc::new(Orders), clock, state_file: None };
/// # let (coordinator, _) = Coordinator::open(ground, Settings::default())?;
/// # let entries = [CommitEntry::new(TopicPartition::new("orders", 0), Offset::new(42))];
/// let unhurried = CommitOptions { durability: Some(Durability::Written), ..CommitOptions::default() };
/// let receipt = coordinator.commit("search", &entries, unhurried).wait().remove(0)?;
/// assert_eq!(receipt.durability, Durability::Written);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitOptions {
    /// Who commits.
    pub committer: Committer,
    /// What "committed" means; `None` is the coordinator's setting.
    pub durability: Option<Durability>,
    /// When the offsets expire, whatever the retention says.
    pub expire: Option<Timestamp>,
}

impl Coordinator {
    /// Rebuilds the groups (see [`replay`]), ends members that lived in an earlier process, and sets commits that
    /// point beyond their partitions back to the end.
    ///
    /// # Errors
    /// [`OpenError`] if the log cannot be read to its end or not be appended to; [`Settings::check`] comes first.
    pub fn open(ground: Ground, settings: Settings) -> Result<(Coordinator, OpenReport), OpenError> {
        let nothing = |error| OpenError { error, last_good: Box::new(State::new(settings.clone())) };
        settings.check().map_err(nothing)?;
        let (state, mut report) = replay(&*ground.journal, ground.state_file.as_ref(), &settings)?;
        let expiry = ExpiryClock::since(state.latest_timestamp());
        let inner = Mutex::new(Inner { state, entries: Entries::default(), expiry });
        let coordinator = Coordinator { ground, settings, inner };
        if let Err(error) = coordinator.put_in_order(&mut report) {
            let last_good = Box::new(coordinator.inner.into_inner().expect("nobody else had it").state);
            return Err(OpenError { error, last_good });
        }
        Ok((coordinator, report))
    }

    fn put_in_order(&self, report: &mut OpenReport) -> Result<()> {
        let mut inner = self.lock();
        let (decision, _) = self.act(&mut inner, Input::MembersGone)?;
        if let Reply::MembersGone(groups) = decision {
            report.members_gone = groups;
        }
        let mut beyond: Vec<(TopicPartition, TopicId, Offset)> = Vec::new();
        for (_, group) in inner.state.groups() {
            for (partition, committed) in group.offsets() {
                let Some(topic) = self.ground.topics.topic(partition.topic()) else { continue };
                let Some(ends) = self.ground.topics.ends(partition) else { continue };
                if committed.offset > ends.published {
                    beyond.push((partition.clone(), topic.id, ends.published));
                }
            }
        }
        beyond.sort();
        beyond.dedup();
        let mut up_to = Offset::ZERO;
        for (partition, topic_id, end) in beyond {
            let (reply, end) =
                self.act(&mut inner, Input::ClampTo { partition: &partition, topic_id, end })?;
            if let Reply::ClampTo(clamped) = reply {
                report.clamped.extend(clamped);
            }
            up_to = end;
        }
        // Before anybody appends to those partitions. Once their ends have moved on, a commit whose clamp was lost in
        // another power cut would point at a record that nobody has read.
        self.ground.journal.wait_durable(up_to, Durability::Synced)
    }

    /// The settings it was opened with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Stores offsets for a group. Each partition gets a receipt or a reason; see [`Commit`].
    pub fn commit(&self, group: &str, entries: &[CommitEntry], options: CommitOptions) -> Commit {
        let CommitOptions { committer, durability, expire } = options;
        self.store(
            Input::Commit { group, committer, entries, expire },
            entries,
            durability,
            committer.epoch(),
        )
    }

    /// Sets a group's offsets from outside; refused while the group has members.
    pub fn reset(&self, group: &str, entries: &[CommitEntry]) -> Commit {
        self.store(Input::Reset { group, entries }, entries, None, -1)
    }

    fn store(
        &self,
        input: Input<'_>,
        entries: &[CommitEntry],
        durability: Option<Durability>,
        epoch: i32,
    ) -> Commit {
        let mut receipts: Vec<Receipt> = Vec::new();
        let mut failed = None;
        let mut inner = self.lock();
        let now = self.now(&inner, &input);
        let Decision { facts, reply } = step(&inner.state, input, &*self.ground.topics, now);
        let Reply::Commit(decided) = reply else { unreachable!("a commit is answered as one") };
        receipts.reserve_exact(facts.len());
        let appended = self.append(&mut inner, facts, &mut |record, place, checksum, log_epoch| {
            if let Record::OffsetCommit { group, partition, value: Some(value), .. } = record {
                receipts.push(Receipt {
                    group: group.clone(),
                    partition: partition.clone(),
                    committed: value.committed.clone(),
                    version: value.version,
                    place,
                    durability: Durability::Written,
                    epoch,
                    log_epoch,
                    checksum,
                });
            }
        });
        drop(inner);
        if let Err(error) = appended {
            failed = Some(error);
        }
        debug_assert_eq!(decided.len(), entries.len());
        // Facts are appended in order, so receipts are a prefix of them; what failed has none.
        let up_to = receipts.last().map_or(Offset::ZERO, |receipt| receipt.place + 1);
        let mut receipts = receipts.into_iter();
        let results = decided
            .into_iter()
            .map(|decided| {
                decided?;
                receipts.next().ok_or_else(|| {
                    Reject::NotStored(failed.clone().expect("only what failed has no receipt"))
                })
            })
            .collect();
        Commit {
            results,
            up_to,
            durability: durability.unwrap_or(self.settings.durability),
            journal: self.ground.journal.clone(),
            topics: self.ground.topics.clone(),
            ticket: Ticket::default(),
        }
    }

    /// What a group has committed: for the partitions asked for, or for all that have an offset. A group that does
    /// not exist has committed nothing.
    pub fn fetch(&self, group: &str, partitions: Option<&[TopicPartition]>) -> Answer<Vec<FetchedOffset>> {
        self.fetch_with(group, partitions, false)
    }

    /// [`fetch`](Self::fetch) that marks offsets as unstable while an open transaction may still move them.
    pub fn fetch_stable(
        &self,
        group: &str,
        partitions: Option<&[TopicPartition]>,
    ) -> Answer<Vec<FetchedOffset>> {
        self.fetch_with(group, partitions, true)
    }

    fn fetch_with(
        &self,
        group: &str,
        partitions: Option<&[TopicPartition]>,
        require_stable: bool,
    ) -> Answer<Vec<FetchedOffset>> {
        let inner = self.lock();
        let input = Input::Fetch { group, partitions, require_stable };
        let now = self.now(&inner, &input);
        let decision = step(&inner.state, input, &*self.ground.topics, now);
        drop(inner);
        let Reply::Fetch(fetched) = decision.reply else { unreachable!("a fetch is answered as one") };
        self.answer(fetched.offsets, fetched.revealed)
    }

    /// Deletes a group's offsets for some partitions; a result for each.
    ///
    /// # Errors
    /// A [`Reject`] for the whole call: no such group, a group with members of a foreign protocol, an append that
    /// failed.
    #[allow(clippy::type_complexity)] // an answer with a result per partition is what it is
    pub fn delete_offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Answer<Vec<Result<(), Reject>>>, Reject> {
        let mut inner = self.lock();
        let acted = self.act(&mut inner, Input::DeleteOffsets { group, partitions });
        drop(inner);
        let (reply, end) = acted.map_err(Reject::NotStored)?;
        let Reply::DeleteOffsets(results) = reply else { unreachable!("a deletion is answered as one") };
        Ok(self.answer(results?, end))
    }

    /// Deletes a group with everything it has committed.
    ///
    /// # Errors
    /// A [`Reject`]: no such group, one that has members, an append that failed.
    pub fn delete_group(&self, group: &str) -> Result<Answer<()>, Reject> {
        let mut inner = self.lock();
        let acted = self.act(&mut inner, Input::DeleteGroup { group });
        drop(inner);
        let (reply, end) = acted.map_err(Reject::NotStored)?;
        let Reply::DeleteGroup(result) = reply else { unreachable!("a deletion is answered as one") };
        result?;
        Ok(self.answer((), end))
    }

    /// Lets old offsets expire and forgets old deletions. Call it every
    /// [`offsets_retention_check_interval`](Settings::offsets_retention_check_interval).
    ///
    /// # Errors
    /// What the append said. Nothing expired that was not appended; the next call tries again.
    pub fn expire(&self) -> Result<Expired> {
        let mut inner = self.lock();
        let clock = inner.expiry;
        let (reply, _) = self.act(&mut inner, Input::Expire { clock })?;
        let Reply::Expire(expired) = reply else { unreachable!("a check is answered as one") };
        inner.expiry = expired.clock;
        let remembered = i64::try_from(self.settings.tombstone_retention.as_millis()).unwrap_or(i64::MAX);
        let before = expired.clock.seen().as_millis().saturating_sub(remembered);
        inner.state.forget_tombstones(Timestamp::from_millis(before));
        Ok(expired)
    }

    /// A topic was deleted: deletes what groups committed for it. Returns whose offsets went.
    ///
    /// # Errors
    /// What the append said; call again then.
    #[allow(clippy::type_complexity)] // as above
    pub fn topic_deleted(&self, name: &str, id: TopicId) -> Result<Answer<Vec<(Arc<str>, TopicPartition)>>> {
        let mut inner = self.lock();
        let (reply, end) = self.act(&mut inner, Input::TopicDeleted { name, id })?;
        drop(inner);
        let Reply::TopicDeleted(deleted) = reply else { unreachable!("a deletion is answered as one") };
        Ok(self.answer(deleted, end))
    }

    /// What became of a commit. Waits until what it tells is durable.
    pub fn verify(&self, receipt: &Receipt) -> Answer<Verdict> {
        let verdict = self.lock().state.verify(receipt);
        // An epoch ends where the log was cut: what stands there now is another record, and what a later commit
        // superseded is not the one that was cut off.
        let cut = self.ground.journal.leader_epoch_at(receipt.place) != receipt.log_epoch;
        match verdict {
            Verdict::Stored => self.answer(Verdict::Stored, receipt.place + 1),
            _ if cut => self.answer(Verdict::Lost, Offset::ZERO),
            Verdict::Superseded { place, .. } | Verdict::Deleted { place } => self.answer(verdict, place + 1),
            _ => self.answer(verdict, Offset::ZERO),
        }
    }

    /// All groups, by name.
    pub fn groups(&self) -> Answer<Vec<GroupListing>> {
        let inner = self.lock();
        let list = |(name, group): (&Arc<str>, &crate::state::Group)| GroupListing {
            group: name.clone(),
            kind: group.kind(),
            protocol_type: group.protocol_type().into(),
            members: group.members(),
            epoch: group.epoch(),
            offsets: group.offsets().count(),
        };
        let listing = inner.state.groups().map(list).collect();
        self.answer(listing, inner.state.next)
    }

    /// The groups as they are at this moment, durable or not: for tests, and for tools that say so.
    pub fn state(&self) -> State {
        self.lock().state.clone()
    }

    /// Writes the state file, so that the next open reads less. Waits until what it says is durable. Returns up to
    /// which offset it tells, or `None` if there is no state file to write.
    ///
    /// # Errors
    /// What the disk said; the old file, if any, is still there then.
    pub fn save_state(&self) -> Result<Option<Offset>> {
        let Some(file) = &self.ground.state_file else { return Ok(None) };
        let journal = &*self.ground.journal;
        let (bytes, covered) = {
            let inner = self.lock();
            let bytes = state_file::encode(&inner.state, file.boot, |at| journal.leader_epoch_at(at))?;
            (bytes, inner.state.next)
        };
        // A state file that outlives the log it tells about would bring back commits that were lost with it.
        journal.wait_durable(covered, Durability::Synced)?;
        disk::replace_file(&*file.disk, &file.path, &bytes)
            .map_err(|e| Error::io("writing", &file.path, e))?;
        Ok(Some(covered))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("deciding or applying panicked, which is a bug: open the directory again")
    }

    fn now(&self, inner: &Inner, input: &Input<'_>) -> Now {
        let wall = self.ground.clock.wall();
        let wall = match input {
            // The check judges the clock itself.
            Input::Expire { .. } => wall,
            _ => wall.max(inner.expiry.seen()),
        };
        Now { wall, now: self.ground.clock.now() }
    }

    fn answer<T>(&self, value: T, up_to: Offset) -> Answer<T> {
        Answer {
            value: Some(value),
            up_to,
            durability: self.settings.durability,
            journal: self.ground.journal.clone(),
            ticket: Ticket::default(),
        }
    }

    /// Decides, appends, applies; the reply and the end of what it rests on.
    fn act(&self, inner: &mut Inner, input: Input<'_>) -> Result<(Reply, Offset)> {
        let now = self.now(inner, &input);
        let Decision { facts, reply } = step(&inner.state, input, &*self.ground.topics, now);
        let end = self.append(inner, facts, &mut |_, _, _, _| {})?;
        Ok((reply, end))
    }

    /// Appends facts and applies each batch of them once it is in the log; `each` sees record, place, checksum and
    /// log epoch. There is one batch unless the facts do not fit into one, and then each batch counts by itself:
    /// nothing that comes here in such numbers must be all or nothing.
    fn append(
        &self,
        inner: &mut Inner,
        facts: Vec<Record>,
        each: &mut dyn FnMut(&Record, Offset, u32, i32),
    ) -> Result<Offset> {
        let Inner { state, entries, expiry } = inner;
        let wall = self.ground.clock.wall().max(expiry.seen());
        let journal = &*self.ground.journal;
        let bytes_max = journal.batch_bytes_max();
        let mut facts = facts.into_iter().peekable();
        let mut batch = Vec::new();
        while facts.peek().is_some() {
            entries.clear();
            while let Some(fact) = facts.peek() {
                entries.push(fact);
                if entries.len() > 1 && entries.batch_bytes_max() > bytes_max {
                    entries.pop();
                    break;
                }
                batch.extend(facts.next());
            }
            let base = journal.append(entries, wall)?;
            if base > state.next {
                catch_up(state, journal, base)?;
            }
            let info = BatchInfo::at(wall);
            let log_epoch = journal.leader_epoch_at(base);
            for (n, (fact, (key, value))) in batch.drain(..).zip(entries.iter()).enumerate() {
                let place = base + n as i64;
                let checksum = checksum(key, value, place);
                each(&fact, place, checksum, log_epoch);
                state.apply(fact, place, checksum, &info);
            }
        }
        Ok(state.next)
    }
}

/// An append that was told as failed is in the log after all: its bytes were there before what failed. Nobody else
/// appends, so that is what the gap is, and the state must have it like everything else that a replay would find.
#[cold]
fn catch_up(state: &mut State, journal: &dyn Journal, to: Offset) -> Result<()> {
    let from = state.next;
    journal.read_from(from, &mut |at, info, key, value| {
        if at < to { state.replay(at, info, key, value) } else { Ok(()) }
    })?;
    state.skip_to(to);
    Ok(())
}

/// One group in a list of all.
///
/// ```
/// # use std::sync::Arc;
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
/// # let env = Env::in_memory();
/// # let (clock, disk) = (env.clock.clone(), env.disk.clone());
/// # let (log, _) = Log::open(env, "/log", LogConfig::default())?;
/// # log.create_topic("offsets", 1, TopicConfig::default())?;
/// # let partition = log.partition(&TopicPartition::new("offsets", 0))?;
/// # let journal = Arc::new(PartitionJournal::new(partition));
/// # let ground = Ground { journal, topics: Arc::new(Orders), clock, state_file: None };
/// # let (coordinator, _) = Coordinator::open(ground, Settings::default())?;
/// # let entries = [CommitEntry::new(TopicPartition::new("orders", 0), Offset::new(42))];
/// coordinator.commit("search", &entries, CommitOptions::default()).wait().remove(0)?;
/// let listing: GroupListing = coordinator.groups().wait()?.remove(0);
/// assert_eq!((&*listing.group, listing.kind, listing.offsets), ("search", GroupKind::Simple, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupListing {
    /// Its name.
    pub group: Arc<str>,
    /// Who its members are.
    pub kind: GroupKind,
    /// "consumer" for consumers, empty for groups that assign themselves.
    pub protocol_type: Box<str>,
    /// How many members it has.
    pub members: usize,
    /// Its generation or group epoch; −1 if it never had one.
    pub epoch: i32,
    /// For how many partitions it has committed offsets.
    pub offsets: usize,
}

/// An answer that is known and waits for what it reveals to be durable. Block on it with [`wait`](Self::wait) or
/// await it; dropping it takes nothing back.
///
/// ```
/// # use std::sync::Arc;
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
/// # let env = Env::in_memory();
/// # let (clock, disk) = (env.clock.clone(), env.disk.clone());
/// # let (log, _) = Log::open(env, "/log", LogConfig::default())?;
/// # log.create_topic("offsets", 1, TopicConfig::default())?;
/// # let partition = log.partition(&TopicPartition::new("offsets", 0))?;
/// # let journal = Arc::new(PartitionJournal::new(partition));
/// # let ground = Ground { journal, topics: Arc::new(Orders), clock, state_file: None };
/// # let (coordinator, _) = Coordinator::open(ground, Settings::default())?;
/// # let entries = [CommitEntry::new(TopicPartition::new("orders", 0), Offset::new(42))];
/// drop(coordinator.commit("search", &entries, CommitOptions::default())); // stored, and nobody waited
/// let answer: Answer<Vec<FetchedOffset>> = coordinator.fetch("search", None);
/// assert_eq!(answer.wait()?.len(), 1); // told once the commit is synced
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "an answer says nothing until it is waited for"]
pub struct Answer<T> {
    value: Option<T>,
    up_to: Offset,
    durability: Durability,
    journal: Arc<dyn Journal>,
    ticket: Ticket,
}

impl<T> Answer<T> {
    /// Blocks until it may be told.
    ///
    /// # Errors
    /// The journal's error if what it would reveal never becomes durable.
    pub fn wait(mut self) -> Result<T> {
        self.journal.wait_durable(self.up_to, self.durability)?;
        Ok(self.value.take().expect("an answer is told once"))
    }

    /// [`wait`](Self::wait) for at most this long; gives itself back if that was too short.
    pub fn wait_timeout(mut self, timeout: Duration) -> Result<Result<T>, Self> {
        match block_on(Some(timeout), |context| self.poll_value(context)) {
            Some(result) => Ok(result),
            None => Err(self),
        }
    }

    fn poll_value(&mut self, context: &mut Context<'_>) -> Poll<Result<T>> {
        match self.journal.poll_durable(self.up_to, self.durability, &mut self.ticket, context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => Poll::Ready(Ok(self.value.take().expect("an answer is told once"))),
        }
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        self.journal.leave(&mut self.ticket);
    }
}

impl<T: Unpin> Future for Answer<T> {
    type Output = Result<T>;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        self.poll_value(context)
    }
}

/// A commit on its way. It is decided and appended already: for every entry there is a receipt or a reason, in order.
/// What remains is to wait for its durability: [`wait`](Self::wait) blocks, and the commit is a future, too. Dropping
/// it takes nothing back; it is how one commits without waiting.
///
/// ```
/// # use std::sync::Arc;
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
/// # let env = Env::in_memory();
/// # let (clock, disk) = (env.clock.clone(), env.disk.clone());
/// # let (log, _) = Log::open(env, "/log", LogConfig::default())?;
/// # log.create_topic("offsets", 1, TopicConfig::default())?;
/// # let partition = log.partition(&TopicPartition::new("offsets", 0))?;
/// # let journal = Arc::new(PartitionJournal::new(partition));
/// # let ground = Ground { journal, topics: Arc::new(Orders), clock, state_file: None };
/// # let (coordinator, _) = Coordinator::open(ground, Settings::default())?;
/// let at = |offset| CommitEntry::new(TopicPartition::new("orders", 0), Offset::new(offset));
/// let commit: Commit = coordinator.commit("search", &[at(42), at(101)], CommitOptions::default());
/// assert!(matches!(commit.results()[1], Err(Reject::BeyondEnd { .. }))); // known already
/// assert_eq!(commit.wait().remove(0)?.durability, Durability::Synced);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a commit may have been refused: wait for its results, or drop it with `drop` if that does not matter"]
pub struct Commit {
    results: Vec<Result<Receipt, Reject>>,
    up_to: Offset,
    durability: Durability,
    journal: Arc<dyn Journal>,
    topics: Arc<dyn Topics>,
    ticket: Ticket,
}

impl Commit {
    /// The results as they are now: receipts say `Written`.
    pub fn results(&self) -> &[Result<Receipt, Reject>] {
        &self.results
    }

    /// Blocks until the commit is as durable as was asked. Where that fails, no partition is committed.
    pub fn wait(mut self) -> Vec<Result<Receipt, Reject>> {
        let reached = self.journal.wait_durable(self.up_to, self.durability);
        self.finish(&reached)
    }

    /// [`wait`](Self::wait) for at most this long; gives itself back if that was too short.
    pub fn wait_timeout(mut self, timeout: Duration) -> Result<Vec<Result<Receipt, Reject>>, Self> {
        block_on(Some(timeout), |context| self.poll_results(context)).ok_or(self)
    }

    fn poll_results(&mut self, context: &mut Context<'_>) -> Poll<Vec<Result<Receipt, Reject>>> {
        match self.journal.poll_durable(self.up_to, self.durability, &mut self.ticket, context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(reached) => Poll::Ready(self.finish(&reached)),
        }
    }

    fn finish(&mut self, reached: &Result<()>) -> Vec<Result<Receipt, Reject>> {
        let mut results = std::mem::take(&mut self.results);
        for result in &mut results {
            let Ok(receipt) = result else { continue };
            match reached {
                Err(error) => *result = Err(Reject::NotStored(error.clone())),
                // An ack is never more durable than the records it covers.
                Ok(()) if self.durability == Durability::Synced => {
                    let ends = self.topics.ends(&receipt.partition);
                    if ends.is_some_and(|ends| ends.synced >= receipt.committed.offset) {
                        receipt.durability = Durability::Synced;
                    }
                }
                Ok(()) => {}
            }
        }
        results
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        self.journal.leave(&mut self.ticket);
    }
}

impl Future for Commit {
    type Output = Vec<Result<Receipt, Reject>>;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_results(context)
    }
}
