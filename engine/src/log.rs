//! The door: one directory of topics, held by one process.
//!
//! A [`Log`] knows its topics, opens their partitions at first touch, keeps the directory's own files
//! (`girok.meta`, `girok.checkpoint`, `girok.lock`) and does the background's chores whenever its owner calls
//! [`Log::step`]. It starts no thread.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::checkpoint::{Checkpoint, PartitionPoint};
use crate::compact::Cleaner;
use crate::config::{
    Limits, LogConfig, RegionMode, TopicConfig, check_any_topic_name, check_topic_name, collides,
};
use crate::disk::{Counters, DirLock, Disk, Kind, LockError};
use crate::env::{Env, Moment};
use crate::error::{Error, Result};
use crate::fork::Process;
use crate::kafka_files::{self, Folder};
use crate::meta::{DirMeta, TopicMeta};
use crate::partition::{Core, Partition};
use crate::recover::{Recovered, Recovery, RecoveryReport};
use crate::segment::Gauges;
use crate::tail::Mark;
use crate::types::{Offset, Timestamp, TopicId, TopicPartition};
use crate::wait::{Ticket, Waiters};

/// What all partitions of a log share.
pub(crate) struct Shared {
    pub(crate) env: Env,
    pub(crate) dir: Arc<Path>,
    pub(crate) config: LogConfig,
    pub(crate) gauges: Arc<Gauges>,
    /// Appenders write into a ring that is written out, not into a mapping.
    pub(crate) buffered: bool,
    /// Nothing more may be written: a close has begun, and waits for what was.
    closing: AtomicBool,
    closed: AtomicBool,
    /// Which process opened the log.
    process: Process,
    background: Waiters,
    background_wanted: AtomicBool,
    /// Partitions with a region, for the background to look after.
    open: Mutex<Vec<Weak<Core>>>,
    evict_next: AtomicU64,
    topics: RwLock<BTreeMap<String, Topic>>,
    meta: Mutex<DirMeta>,
    /// One change of a topic's configuration at a time.
    altering: Mutex<()>,
    /// One checkpoint at a time; holds when the last was written.
    saving: Mutex<Option<Moment>>,
    retention_at: Mutex<Option<Moment>>,
    /// When the background next lets go of mappings that nobody has.
    unmap_at: Mutex<Option<Moment>>,
    pub(crate) cleaner: Mutex<Cleaner>,
    /// How long a sync that somebody waited for took last, in ns.
    sync_nanos: AtomicU64,
    boot: u64,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The last partition is gone too, so nothing is replaced from now on.
        self.gauges.let_go();
    }
}

struct Topic {
    id: TopicId,
    config: Arc<TopicConfig>,
    partitions: Vec<Arc<Mutex<Entry>>>,
}

/// A partition as the log knows it.
enum Entry {
    /// As the last clean close left it; its folder is looked at when somebody first asks.
    Cold(Option<PartitionPoint>),
    /// In use.
    Live(Arc<Core>),
    /// Not usable, and why.
    Refused(Error),
}

/// What [`Shared::look`] shows.
pub(crate) enum Look<'a> {
    /// As the last clean close left it; without a point there is nothing in it, and no folder.
    Cold(Option<&'a PartitionPoint>),
    /// In use.
    Live(Arc<Core>),
    /// Not usable, and why.
    Refused(&'a Error),
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Log({})", self.dir.display())
    }
}

/// A topic, described.
///
/// ```
/// # use girok_engine::*;
/// # let (log, _) = Log::open(Env::in_memory(), "/log", LogConfig::default())?;
/// let id = log.create_topic("orders", 3, TopicConfig::default())?;
/// let orders = &log.topics()[0];
/// assert_eq!((orders.name.as_str(), orders.id, orders.partitions), ("orders", id, 3));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct TopicDescription {
    /// Its name.
    pub name: String,
    /// Its id, which a topic re-created under the same name does not share.
    pub id: TopicId,
    /// How many partitions it has.
    pub partitions: i32,
    /// Its configuration.
    pub config: Arc<TopicConfig>,
}

/// What a log is doing, in numbers, at one instant.
///
/// ```
/// # use girok_engine::*;
/// # let (log, _) = Log::open(Env::in_memory(), "/log", LogConfig::default())?;
/// assert_eq!(log.stats().topics, 0);
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Topics, internal ones included.
    pub topics: usize,
    /// Partitions of all of them.
    pub partitions: usize,
    /// Partitions that somebody has touched since the log was opened.
    pub partitions_live: usize,
    /// Partitions open for appends, each with a descriptor and a region of address space.
    pub regions: usize,
    /// Mappings alive, those that only views still hold included.
    pub mappings: usize,
    /// Bytes in segments that were removed and that some view still holds.
    pub held_removed_bytes: u64,
    /// Bytes in the log files of the live partitions and, as the checkpoint knows them, of the others.
    pub log_bytes: u64,
    /// Partitions that refuse writes because a sync failed.
    pub poisoned: usize,
    /// Views that were copies (`read = copy`).
    pub copies: u64,
    /// What the disk did.
    pub disk: Counters,
}

/// One directory of topics, open in this process. Cheap to clone; the directory is let go by [`close`](Log::close),
/// or, as well as can be done without telling anyone about errors, when the last clone is dropped.
///
/// ```
/// use girok_engine::batch::{BatchBuilder, Codec};
/// use girok_engine::{Env, FetchBounds, Log, LogConfig, Offset, Timestamp, TopicConfig, TopicPartition};
///
/// let (log, report) = Log::open(Env::in_memory(), "/log", LogConfig::default())?;
/// assert!(report.clean);
/// log.create_topic("orders", 1, TopicConfig::default())?;
/// let orders = log.partition(&TopicPartition::new("orders", 0))?;
///
/// let mut batch = BatchBuilder::new(Codec::None);
/// batch.append(Timestamp::from_millis(1_700_000_000_000), Some(b"key"), Some(b"value"), &[])?;
/// let appended = orders.append(&batch.finish()?)?;
/// orders.sync()?;
///
/// let view = orders.fetch(appended.base_offset, &FetchBounds::default())?;
/// assert_eq!(view.next(), Offset::new(1));
/// log.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Log(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    lock: Mutex<Option<Box<dyn DirLock>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A forked child must not write to what its parent holds.
        if self.shared.process.is_current() {
            let _ = self.shared.close();
        }
    }
}

const LOCK_FILE: &str = "girok.lock";

impl Log {
    /// Opens a directory, making it if it is missing, and recovers what a crash left. Says what it found.
    ///
    /// # Errors
    /// [`Error::Locked`] naming the holder if the directory is open elsewhere; [`Error::NewerFormat`];
    /// [`Error::Invalid`] for a directory that holds something else. A partition that cannot be used does not keep
    /// the others from opening: it is named in [`RecoveryReport::refused`], and asking for it gives the error again.
    pub fn open(env: Env, dir: impl AsRef<Path>, config: LogConfig) -> Result<(Log, RecoveryReport)> {
        config.validate()?;
        let config = config.within(Limits::of_this_process());
        let dir: Arc<Path> = dir.as_ref().into();
        let disk = &*env.disk;
        crate::disk::create_dir_synced(disk, &dir).map_err(|e| Error::io("creating", &*dir, e))?;
        let holder = format!(
            "process {} ({}), since {} ms after 1970",
            std::process::id(),
            std::env::current_exe()
                .ok()
                .and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()))
                .unwrap_or_else(|| "unnamed".into()),
            env.clock.wall()
        );
        let lock = disk.lock(&dir.join(LOCK_FILE), &holder).map_err(|e| match e {
            LockError::Held(holder) => Error::Locked { dir: dir.to_path_buf(), holder },
            LockError::Io(e) => Error::io("locking", dir.join(LOCK_FILE), e),
        })?;
        let mut report = RecoveryReport::default();
        let mut meta = load_meta(&env, &dir)?;
        let checkpoint = match Checkpoint::load(disk, &dir, &mut report.notes) {
            Ok(checkpoint) => checkpoint,
            Err(error @ Error::Corrupt { .. }) => {
                report.notes.push(format!("{error}; every partition was read from its start"));
                None
            }
            Err(error) => return Err(error),
        };
        let clean = match &checkpoint {
            Some(checkpoint) => checkpoint.clean && checkpoint.boot == meta.boot,
            None => meta.boot == 0 && report.notes.is_empty(),
        };
        meta.boot += 1;
        report.clean = clean;
        report.boot = meta.boot;
        finish_deletes(&env, &dir, &mut meta, &mut report.notes)?;
        meta.store(disk, &dir)?;
        // What is adopted is named there only when it was looked through: a crash before begins the adoption again.
        let adopted = adopt(&env, &dir, &mut meta, &mut report.notes)?;

        let buffered = match config.region {
            RegionMode::Auto => !disk.maps_safely(&dir),
            RegionMode::Mapped if !disk.maps_safely(&dir) => {
                return Err(Error::invalid(
                    "region mode",
                    "a file system that reserves the blocks it allocates (ext4, xfs, tmpfs) for mapped regions",
                    format!("another one below {}", dir.display()),
                    "use RegionMode::Auto or RegionMode::Written: a full disk could otherwise kill the process",
                ));
            }
            RegionMode::Mapped => false,
            RegionMode::Written => true,
        };
        let mut points = checkpoint.map(|checkpoint| checkpoint.partitions).unwrap_or_default();
        let boot = meta.boot;
        let shared = Arc::new(Shared {
            env: env.clone(),
            dir: dir.clone(),
            config,
            gauges: Arc::default(),
            buffered,
            closing: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            process: Process::current(),
            background: Waiters::new(),
            background_wanted: AtomicBool::new(false),
            open: Mutex::new(Vec::new()),
            evict_next: AtomicU64::new(0),
            topics: RwLock::new(BTreeMap::new()),
            meta: Mutex::new(meta.clone()),
            altering: Mutex::new(()),
            saving: Mutex::new(None),
            retention_at: Mutex::new(None),
            unmap_at: Mutex::new(None),
            cleaner: Mutex::default(),
            sync_nanos: AtomicU64::new(0),
            boot,
        });
        let mut topics = BTreeMap::new();
        for (name, topic) in &meta.topics {
            let config = Arc::new(topic.config.clone());
            let mut partitions = Vec::new();
            for number in 0..topic.partitions {
                let tp = TopicPartition::new(name.as_str(), number);
                let point = points.remove(&tp).filter(|point| point.topic_id == topic.id);
                let mut entry = Entry::Cold(point);
                let is_adopted = adopted.contains_key(&tp);
                if !clean || is_adopted {
                    entry = shared.recover(&tp, topic, &config, entry, &adopted, &mut report);
                }
                partitions.push(Arc::new(Mutex::new(entry)));
            }
            topics.insert(name.clone(), Topic { id: topic.id, config, partitions });
        }
        *shared.topics.write().unwrap() = topics;
        let log = Log(Arc::new(Inner { shared, lock: Mutex::new(Some(lock)) }));
        if !clean || !adopted.is_empty() {
            // What was just established need not be established again after the next crash.
            log.0.shared.save_checkpoint()?;
        }
        if !adopted.is_empty() {
            meta.store(disk, &dir)?;
        }
        Ok((log, report))
    }

    /// Makes a topic. Its partitions are empty and use nothing until somebody touches them.
    ///
    /// # Errors
    /// [`Error::TopicExists`], or [`Error::Invalid`] for a bad name (Kafka's rules), a name that differs from another
    /// only in `.` and `_`, no partitions, or a configuration out of bounds.
    pub fn create_topic(&self, name: &str, partitions: i32, config: TopicConfig) -> Result<TopicId> {
        check_topic_name(name)?;
        self.create_any_topic(name, partitions, config)
    }

    /// Makes an internal topic such as `__consumer_offsets`; for the coordinator.
    ///
    /// # Errors
    /// As [`create_topic`](Self::create_topic), except that internal names are allowed.
    pub fn create_internal_topic(&self, name: &str, partitions: i32, config: TopicConfig) -> Result<TopicId> {
        self.create_any_topic(name, partitions, config)
    }

    fn create_any_topic(&self, name: &str, partitions: i32, config: TopicConfig) -> Result<TopicId> {
        let shared = &self.0.shared;
        shared.check_open()?;
        check_any_topic_name(name)?;
        config.validate()?;
        check_partitions(partitions)?;
        let mut topics = shared.topics.write().unwrap();
        if topics.contains_key(name) {
            return Err(Error::TopicExists { name: name.into() });
        }
        if let Some(other) = topics.keys().find(|other| collides(name, other)) {
            return Err(Error::invalid(
                "topic name",
                "one that differs from every other in more than '.' and '_'",
                format!("{name:?} beside {other:?}"),
                "metrics could not tell them apart; choose another name",
            ));
        }
        let id = shared.new_topic_id();
        let mut meta = shared.meta.lock().unwrap();
        let mut changed = meta.clone();
        let topic = TopicMeta { id, partitions, config: config.clone(), created: shared.env.clock.wall() };
        changed.topics.insert(name.into(), topic);
        changed.store(&*shared.env.disk, &shared.dir)?;
        *meta = changed;
        let partitions = (0..partitions).map(|_| Arc::new(Mutex::new(Entry::Cold(None)))).collect();
        topics.insert(name.into(), Topic { id, config: Arc::new(config), partitions });
        Ok(id)
    }

    /// Gives a topic more partitions, `total` in all.
    ///
    /// # Errors
    /// [`Error::Invalid`] for fewer than it has; partitions are never taken away.
    pub fn create_partitions(&self, name: &str, total: i32) -> Result<()> {
        let shared = &self.0.shared;
        shared.check_open()?;
        check_partitions(total)?;
        let mut topics = shared.topics.write().unwrap();
        let topic = topics.get_mut(name).ok_or_else(|| unknown(name))?;
        let now = topic.partitions.len();
        if (total as usize) <= now {
            return Err(Error::invalid(
                "partition count",
                format!("more than the {now} that {name} has"),
                total,
                "partitions can be added, never removed",
            ));
        }
        shared.change_meta(|meta| {
            if let Some(topic) = meta.topics.get_mut(name) {
                topic.partitions = total;
            }
        })?;
        topic.partitions.resize_with(total as usize, || Arc::new(Mutex::new(Entry::Cold(None))));
        Ok(())
    }

    /// Replaces a topic's configuration. Running producers and readers go on under the new one.
    ///
    /// # Errors
    /// [`Error::Invalid`] for values out of bounds, [`Error::UnknownTopicOrPartition`].
    pub fn alter_topic(&self, name: &str, config: TopicConfig) -> Result<()> {
        let shared = &self.0.shared;
        shared.check_open()?;
        config.validate()?;
        // One after the other, and without the lock that every look at a topic takes: a partition may wait for a sync.
        let _altering = shared.altering.lock().unwrap();
        let (config, entries) = {
            let mut topics = shared.topics.write().unwrap();
            let topic = topics.get_mut(name).ok_or_else(|| unknown(name))?;
            shared.change_meta(|meta| {
                if let Some(topic) = meta.topics.get_mut(name) {
                    topic.config = config.clone();
                }
            })?;
            topic.config = Arc::new(config);
            (topic.config.clone(), topic.partitions.clone())
        };
        for entry in entries {
            let core = match &*entry.lock().unwrap() {
                Entry::Live(core) => core.clone(),
                // Opened from now on, it gets the new configuration.
                Entry::Cold(_) | Entry::Refused(_) => continue,
            };
            core.configure(config.clone())?;
        }
        Ok(())
    }

    /// Removes a topic and its files. Views of its records stay good; handles of its partitions give errors.
    ///
    /// # Errors
    /// [`Error::UnknownTopicOrPartition`]; [`Error::Io`] if a file could not be removed (it will be, at the next
    /// open).
    pub fn delete_topic(&self, name: &str) -> Result<()> {
        let shared = &self.0.shared;
        shared.check_open()?;
        let topic = {
            let mut topics = shared.topics.write().unwrap();
            if !topics.contains_key(name) {
                return Err(unknown(name));
            }
            shared.change_meta(|meta| {
                if let Some(topic) = meta.topics.remove(name) {
                    meta.deleting.insert(name.to_owned(), topic.partitions);
                }
            })?;
            topics.remove(name).expect("just looked")
        };
        // Whoever compacts it makes files in its folders: held until they are gone.
        let mut cleaner = shared.cleaner.lock().unwrap();
        cleaner.abandon(Some(name));
        for (number, entry) in topic.partitions.iter().enumerate() {
            if let Entry::Live(core) = &*entry.lock().unwrap() {
                core.gone.store(true, Ordering::Release);
                core.wake_everybody();
                core.active.put(None);
                for segment in &core.list().0 {
                    segment.forget();
                }
            }
            remove_folder(&shared.env, &shared.dir.join(TopicPartition::new(name, number as i32).folder()))?;
        }
        shared.change_meta(|meta| {
            meta.deleting.remove(name);
        })
    }

    /// The topics, by name.
    pub fn topics(&self) -> Vec<TopicDescription> {
        let topics = self.0.shared.topics.read().unwrap();
        topics
            .iter()
            .map(|(name, topic)| TopicDescription {
                name: name.clone(),
                id: topic.id,
                partitions: topic.partitions.len() as i32,
                config: topic.config.clone(),
            })
            .collect()
    }

    /// One topic.
    ///
    /// # Errors
    /// [`Error::UnknownTopicOrPartition`].
    pub fn topic(&self, name: &str) -> Result<TopicDescription> {
        let topics = self.0.shared.topics.read().unwrap();
        let topic = topics.get(name).ok_or_else(|| unknown(name))?;
        Ok(TopicDescription {
            name: name.into(),
            id: topic.id,
            partitions: topic.partitions.len() as i32,
            config: topic.config.clone(),
        })
    }

    /// A partition, opened now if nobody has touched it before. Keep the handle: looking it up costs two locks.
    ///
    /// # Errors
    /// [`Error::UnknownTopicOrPartition`], or what recovery found wrong with it.
    pub fn partition(&self, tp: &TopicPartition) -> Result<Partition> {
        let shared = &self.0.shared;
        shared.check_open()?;
        let (entry, id, config) = {
            let topics = shared.topics.read().unwrap();
            let topic = topics.get(tp.topic()).ok_or_else(|| unknown(tp.topic()))?;
            let entry = usize::try_from(tp.partition()).ok().and_then(|n| topic.partitions.get(n));
            let entry = entry.ok_or_else(|| Error::UnknownTopicOrPartition {
                name: tp.to_string(),
                found: format!("{} has partitions 0 to {}", tp.topic(), topic.partitions.len() - 1),
            })?;
            (entry.clone(), topic.id, topic.config.clone())
        };
        shared.open_entry(tp, &entry, id, config).map(Partition)
    }

    /// Does what is due: shared syncs of records nobody waits for, room ahead of appenders, idle regions, rolls by
    /// time, retention, compaction, the checkpoint. Returns when it wants to be called again at the latest;
    /// [`poll_background`](Self::poll_background) tells when earlier.
    ///
    /// # Errors
    /// The first that a chore met; the others were done all the same, and a poisoned partition is no error here.
    pub fn step(&self, now: Moment) -> Result<Moment> {
        self.0.shared.step(now)
    }

    /// Ready when there is something to [`step`](Self::step) for before the time it named.
    pub fn poll_background(&self, ticket: &mut Ticket, context: &mut Context<'_>) -> Poll<()> {
        let shared = &self.0.shared;
        if shared.background_wanted.swap(false, Ordering::SeqCst) {
            return Poll::Ready(());
        }
        shared.background.register(ticket, context.waker());
        if shared.background_wanted.swap(false, Ordering::SeqCst) || shared.closed.load(Ordering::SeqCst) {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Syncs everything, writes the checkpoint and Kafka's own files, and lets the directory go. Idempotent.
    ///
    /// # Errors
    /// [`Error::Poisoned`] and the like if something could not be synced; the directory is let go all the same, and
    /// the next open recovers.
    pub fn close(&self) -> Result<()> {
        let result = self.0.shared.close();
        self.0.lock.lock().unwrap().take();
        result
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        self.0.shared.closed.load(Ordering::Acquire)
    }

    /// Writes the checkpoint now: what is synced need not be read again after a crash.
    ///
    /// # Errors
    /// [`Error::NoRoom`] or [`Error::Io`].
    pub fn save_checkpoint(&self) -> Result<()> {
        self.0.shared.check_open()?;
        self.0.shared.save_checkpoint()
    }

    /// Numbers.
    pub fn stats(&self) -> Stats {
        self.0.shared.stats()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.0.shared.dir
    }

    /// Which open of the directory this is, from 1; raised and synced before anything else happens.
    pub fn boot(&self) -> u64 {
        self.0.shared.boot
    }

    /// The clock, disk and chance it was opened with.
    pub fn env(&self) -> &Env {
        &self.0.shared.env
    }

    /// Its configuration.
    pub fn config(&self) -> &LogConfig {
        &self.0.shared.config
    }

    /// Checks that this process is the one that opened the log, and that it is still open.
    ///
    /// # Errors
    /// [`Error::Closed`] or [`Error::Forked`].
    pub fn check_open(&self) -> Result<()> {
        self.0.shared.check_open()
    }

    /// The process that opened it.
    pub fn process(&self) -> Process {
        self.0.shared.process
    }
}

impl Shared {
    /// Whether something new may be written: no close has begun.
    pub(crate) fn check_accepting(&self) -> Result<()> {
        if self.closing.load(Ordering::Acquire) {
            return Err(Error::Closed { dir: self.dir.to_path_buf() });
        }
        Ok(())
    }

    /// Two loads, on every append and every read.
    #[inline]
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.process.is_current() && !self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(self.why_not())
    }

    #[cold]
    fn why_not(&self) -> Error {
        let dir = self.dir.to_path_buf();
        if self.process.is_current() {
            return Error::Closed { dir };
        }
        // The memory is a copy, and the files are the parent's.
        Error::Forked { dir, opened_by: self.process.id(), found: std::process::id() }
    }

    pub(crate) fn wake_background(&self) {
        if !self.background_wanted.swap(true, Ordering::SeqCst) {
            self.background.wake_all();
        }
    }

    fn new_topic_id(&self) -> TopicId {
        let chance = &self.env.chance;
        let bits = (chance.next_u64() as u128) << 64 | chance.next_u64() as u128;
        // A version 4 UUID, as Kafka's are.
        let bits = bits & !(0xF << 76) & !(0b11 << 62) | 4 << 76 | 0b10 << 62;
        TopicId(bits.to_be_bytes())
    }

    fn change_meta(&self, change: impl FnOnce(&mut DirMeta)) -> Result<()> {
        let mut meta = self.meta.lock().unwrap();
        let mut changed = meta.clone();
        change(&mut changed);
        changed.store(&*self.env.disk, &self.dir)?;
        *meta = changed;
        Ok(())
    }

    fn core(
        self: &Arc<Self>,
        name: TopicPartition,
        id: TopicId,
        config: Arc<TopicConfig>,
        recovered: Recovered,
    ) -> Result<Arc<Core>> {
        let core = Core::new(self.clone(), name, id, config, recovered);
        kafka_files::ensure_partition_metadata(&*self.env.disk, &core.folder, id)?;
        Ok(Arc::new(core))
    }

    /// Recovers one partition at open, after a crash or when its folder was adopted.
    fn recover(
        self: &Arc<Self>,
        tp: &TopicPartition,
        topic: &TopicMeta,
        config: &Arc<TopicConfig>,
        entry: Entry,
        adopted: &BTreeMap<TopicPartition, Offset>,
        report: &mut RecoveryReport,
    ) -> Entry {
        let Entry::Cold(point) = entry else { return entry };
        let recovery = Recovery {
            disk: &*self.env.disk,
            folder: self.dir.join(tp.folder()).into(),
            name: tp,
            config,
            gauges: &self.gauges,
            buffered: self.buffered,
            point: point.as_ref(),
            adopted_start: adopted.get(tp).copied(),
            boot: self.boot,
        };
        if !adopted.contains_key(tp) && matches!(recovery.is_untouched(), Ok(true)) {
            let epochs = recovery.leader_epochs(point.as_ref());
            return match (epochs, point) {
                (_, None) => Entry::Cold(None),
                (Ok(leader_epochs), Some(point)) => {
                    Entry::Cold(Some(PartitionPoint { leader_epochs, ..point }))
                }
                (Err(error), _) => {
                    report.refused.push((tp.clone(), error.clone()));
                    Entry::Refused(error)
                }
            };
        }
        let outcome = recovery.run(&mut report.notes).and_then(|(recovered, partition)| {
            report.partitions.extend(partition);
            self.core(tp.clone(), topic.id, config.clone(), recovered)
        });
        match outcome {
            Ok(core) => Entry::Live(core),
            Err(error) => {
                report.refused.push((tp.clone(), error.clone()));
                Entry::Refused(error)
            }
        }
    }

    /// Shows a partition as the log knows it. Nobody opens it meanwhile, if nobody has before.
    pub(crate) fn look<T>(&self, tp: &TopicPartition, see: impl FnOnce(Look<'_>) -> Result<T>) -> Result<T> {
        let entry = {
            let topics = self.topics.read().unwrap();
            let topic = topics.get(tp.topic()).ok_or_else(|| unknown(tp.topic()))?;
            let entry = usize::try_from(tp.partition()).ok().and_then(|number| topic.partitions.get(number));
            entry.cloned().ok_or_else(|| unknown(tp.topic()))?
        };
        match &*entry.lock().unwrap() {
            Entry::Cold(point) => see(Look::Cold(point.as_ref())),
            Entry::Live(core) => see(Look::Live(core.clone())),
            Entry::Refused(error) => see(Look::Refused(error)),
        }
    }

    pub(crate) fn has_topic(&self, name: &str, id: TopicId) -> bool {
        self.topics.read().unwrap().get(name).is_some_and(|topic| topic.id == id)
    }

    pub(crate) fn meta(&self) -> DirMeta {
        self.meta.lock().unwrap().clone()
    }

    pub(crate) fn boot(&self) -> u64 {
        self.boot
    }

    /// The partition itself, opened now if nobody has touched it before.
    fn open_entry(
        self: &Arc<Self>,
        tp: &TopicPartition,
        entry: &Mutex<Entry>,
        id: TopicId,
        config: Arc<TopicConfig>,
    ) -> Result<Arc<Core>> {
        let core = {
            let mut entry = entry.lock().unwrap();
            let recovered = match &*entry {
                Entry::Live(core) => return Ok(core.clone()),
                Entry::Refused(error) => return Err(error.clone()),
                Entry::Cold(point) => self.recover_cold(tp, point.as_ref(), &config),
            };
            if let Err(error @ Error::Corrupt { .. }) = &recovered {
                *entry = Entry::Refused(error.clone());
            }
            let core = self.core(tp.clone(), id, config.clone(), recovered?)?;
            *entry = Entry::Live(core.clone());
            core
        };
        // The topic may have been configured anew between the caller's look and this one.
        let now = self.topics.read().unwrap().get(tp.topic()).map(|topic| topic.config.clone());
        if let Some(now) = now.filter(|now| !Arc::ptr_eq(now, &config)) {
            core.configure(now)?;
        }
        Ok(core)
    }

    /// Only a folder without a point (a new one) or as a clean close left it is cold.
    fn recover_cold(
        &self,
        tp: &TopicPartition,
        point: Option<&PartitionPoint>,
        config: &TopicConfig,
    ) -> Result<Recovered> {
        let recovery = Recovery {
            disk: &*self.env.disk,
            folder: self.dir.join(tp.folder()).into(),
            name: tp,
            config,
            gauges: &self.gauges,
            buffered: self.buffered,
            point,
            adopted_start: None,
            boot: self.boot,
        };
        recovery.run(&mut Vec::new()).map(|(recovered, _)| recovered)
    }

    /// Opens partitions that nobody has touched since the log was opened and that hold what retention or compaction
    /// is to look at; the others stay as cheap as they are. What the checkpoint says of them is enough to know.
    fn open_what_is_due(self: &Arc<Self>, wall: Timestamp) -> Result<()> {
        let mut due = Vec::new();
        {
            let topics = self.topics.read().unwrap();
            let mut total = 0;
            let mut bounded = Vec::new();
            for (name, topic) in topics.iter() {
                for (number, entry) in topic.partitions.iter().enumerate() {
                    let tp = || TopicPartition::new(name.as_str(), number as i32);
                    let job = || (tp(), entry.clone(), topic.id, topic.config.clone());
                    match &*entry.lock().unwrap() {
                        Entry::Live(core) => total += Partition(core.clone()).bytes(),
                        Entry::Cold(Some(point)) => {
                            total += point.segments.iter().map(|segment| segment.bytes as u64).sum::<u64>();
                            if is_due(point, &topic.config, wall) {
                                due.push(job());
                            } else if topic.config.deletes() && point.segments.len() > 1 {
                                bounded.push(job());
                            }
                        }
                        Entry::Cold(None) | Entry::Refused(_) => {}
                    }
                }
            }
            if self.config.max_total_bytes.is_some_and(|max| total > max) {
                due.append(&mut bounded);
            }
        }
        let mut first = Ok(());
        for (tp, entry, id, config) in due {
            let opened = self.open_entry(&tp, &entry, id, config).map(|_| ());
            if first.is_ok() {
                first = opened;
            }
        }
        first
    }

    pub(crate) fn live(&self) -> Vec<Arc<Core>> {
        let topics = self.topics.read().unwrap();
        let entries = topics.values().flat_map(|topic| &topic.partitions);
        entries
            .filter_map(|entry| match &*entry.lock().unwrap() {
                Entry::Live(core) => Some(core.clone()),
                _ => None,
            })
            .collect()
    }

    fn open_cores(&self) -> Vec<Arc<Core>> {
        let mut open = self.open.lock().unwrap();
        open.retain(|core| core.strong_count() > 0);
        open.iter().filter_map(Weak::upgrade).collect()
    }

    /// Before a region is opened: notes who will have one, and closes the coldest others if there are too many.
    pub(crate) fn make_room_for_region(&self, core: &Arc<Core>) -> Result<()> {
        {
            let mut open = self.open.lock().unwrap();
            if !open.iter().any(|other| other.as_ptr() == Arc::as_ptr(core)) {
                open.push(Arc::downgrade(core));
            }
        }
        let max = self.config.open_files_max as usize;
        if self.gauges.regions.load(Ordering::Relaxed) < max {
            return Ok(());
        }
        // Round and round: whoever was opened longest ago is tried first.
        let open = self.open_cores();
        for _ in 0..open.len() {
            let at = self.evict_next.fetch_add(1, Ordering::Relaxed) as usize % open.len();
            let other = &open[at];
            if !Arc::ptr_eq(other, core) && matches!(other.park(), Ok(true)) {
                self.unregister(other);
                if self.gauges.regions.load(Ordering::Relaxed) < max {
                    break;
                }
            }
        }
        Ok(())
    }

    /// How long a sync takes here: the last one that somebody waited for.
    pub(crate) fn sync_time(&self) -> Duration {
        Duration::from_nanos(self.sync_nanos.load(Ordering::Relaxed))
    }

    pub(crate) fn note_sync_time(&self, took: Duration) {
        self.sync_nanos.store(took.as_nanos().min(u64::MAX.into()) as u64, Ordering::Relaxed);
    }

    fn unregister(&self, core: &Arc<Core>) {
        self.open.lock().unwrap().retain(|other| other.as_ptr() != Arc::as_ptr(core));
    }

    fn step(self: &Arc<Self>, now: Moment) -> Result<Moment> {
        self.check_open()?;
        let mut first = Ok(());
        let mut keep = |result: Result<()>| {
            if first.is_ok() {
                first = result;
            }
        };
        let mut next = now + Duration::from_millis(self.config.idle_ms.max(1));
        keep(self.step_syncs(now, &mut next));
        for core in self.open_cores() {
            keep(core.prepare_ahead());
            keep(core.roll_by_time(now, &mut next));
            if core.is_idle(now, Duration::from_millis(self.config.idle_ms))
                && matches!(core.park(), Ok(true))
            {
                self.unregister(&core);
            }
        }
        keep(self.step_retention(now, &mut next));
        keep(self.step_compaction(now, &mut next));
        keep(self.step_checkpoint(now, &mut next));
        self.step_mappings(now, &mut next);
        self.gauges.unmap_retired();
        first.map(|()| next)
    }

    /// Syncs what somebody asked for or what has waited long enough: all of it in one submission.
    fn step_syncs(&self, now: Moment, next: &mut Moment) -> Result<()> {
        let mut jobs: Vec<(Arc<Core>, Arc<crate::segment::Active>, Mark)> = Vec::new();
        for core in self.open_cores() {
            if core.sync_is_due(now, next)
                && let Some((active, mark)) = core.begin_batched_sync()
            {
                jobs.push((core, active, mark));
            }
        }
        let files: Vec<&dyn crate::disk::File> = jobs.iter().map(|(_, active, _)| &*active.file).collect();
        let results = match files.len() {
            0 => Vec::new(),
            1 => vec![files[0].sync()],
            _ => self.env.disk.sync_many(&files),
        };
        for ((core, active, mark), result) in jobs.iter().zip(results) {
            core.finish_batched_sync(active, *mark, result);
        }
        Ok(())
    }

    fn step_retention(self: &Arc<Self>, now: Moment, next: &mut Moment) -> Result<()> {
        let interval = Duration::from_millis(self.config.retention_check_ms);
        {
            let mut at = self.retention_at.lock().unwrap();
            match *at {
                Some(due) if now < due => {
                    *next = (*next).min(due);
                    return Ok(());
                }
                _ => *at = Some(now + interval),
            }
        }
        let wall = self.env.clock.wall();
        let mut first = self.open_what_is_due(wall);
        let live = self.live();
        for core in &live {
            let result = core.retain(wall);
            if first.is_ok() {
                first = result;
            }
        }
        if let Some(max) = self.config.max_total_bytes {
            self.bound_total(&live, max)?;
        }
        first
    }

    /// Removes the oldest sealed segments of the whole directory until it fits.
    fn bound_total(&self, live: &[Arc<Core>], max: u64) -> Result<()> {
        let mut total: u64 = live.iter().map(|core| Partition(core.clone()).bytes()).sum();
        while total > max {
            let oldest = live
                .iter()
                .filter(|core| core.config().deletes() && core.list().0.len() > 1)
                .min_by_key(|core| core.oldest_timestamp());
            let Some(core) = oldest else { break };
            let first = core.list().0[0].base;
            let removed = core.remove_oldest(|segment, _| segment.base == first)?;
            if removed == 0 {
                break;
            }
            total = total.saturating_sub(removed);
        }
        Ok(())
    }

    fn step_checkpoint(&self, now: Moment, next: &mut Moment) -> Result<()> {
        let interval = Duration::from_millis(self.config.checkpoint_interval_ms);
        let due = match *self.saving.lock().unwrap() {
            Some(last) => last + interval,
            None => now,
        };
        if now < due {
            *next = (*next).min(due);
            return Ok(());
        }
        if self.gauges.regions.load(Ordering::Relaxed) > 0 { self.save_checkpoint() } else { Ok(()) }
    }

    /// Lets the mappings of segments go that nobody appends to: all of them now and then, so that what was read once
    /// is not held for ever, and at once when there are too many. Views and readers keep what they have; whoever comes
    /// next maps again, which is two system calls in every `idle_ms`.
    fn step_mappings(&self, now: Moment, next: &mut Moment) {
        let mappings = self.gauges.mappings.load(Ordering::Relaxed);
        let regions = self.gauges.regions.load(Ordering::Relaxed);
        let mut at = self.unmap_at.lock().unwrap();
        if mappings <= regions {
            *at = None;
            return;
        }
        let due = *at.get_or_insert(now + Duration::from_millis(self.config.idle_ms));
        if now < due && mappings <= self.config.mappings_max as usize {
            *next = (*next).min(due);
            return;
        }
        *at = None;
        for core in self.live() {
            for segment in &core.list().0 {
                if segment.sealed_end().is_some() || core.active.get().is_none() {
                    segment.unmap();
                }
            }
        }
    }

    fn points(&self) -> BTreeMap<TopicPartition, PartitionPoint> {
        let topics = self.topics.read().unwrap();
        let mut points = BTreeMap::new();
        for (name, topic) in topics.iter() {
            for (number, entry) in topic.partitions.iter().enumerate() {
                let tp = TopicPartition::new(name.as_str(), number as i32);
                match &*entry.lock().unwrap() {
                    Entry::Live(core) => {
                        points.insert(tp, core.point());
                    }
                    Entry::Cold(Some(point)) => {
                        points.insert(tp, point.clone());
                    }
                    Entry::Cold(None) | Entry::Refused(_) => {}
                }
            }
        }
        points
    }

    pub(crate) fn save_checkpoint(&self) -> Result<()> {
        self.write_checkpoint(false)
    }

    fn write_checkpoint(&self, clean: bool) -> Result<()> {
        let mut saving = self.saving.lock().unwrap();
        *saving = Some(self.env.clock.now());
        let checkpoint = Checkpoint { boot: self.boot, clean, partitions: self.points() };
        checkpoint.store(&*self.env.disk, &self.dir)
    }

    fn close(&self) -> Result<()> {
        if self.closed.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.check_open()?;
        // First, or who appends without a pause would keep a close from its end.
        self.closing.store(true, Ordering::SeqCst);
        // Held until nobody can begin again.
        let mut cleaner = self.cleaner.lock().unwrap();
        cleaner.abandon(None);
        let mut first = Ok(());
        let live = self.live();
        for core in &live {
            let result = core.rest();
            if first.is_ok() {
                first = result;
            }
        }
        self.closed.store(true, Ordering::SeqCst);
        for core in &live {
            core.wake_everybody();
        }
        self.background.wake_all();
        // Without every partition synced and cut, the next open has to look for itself.
        let refused = self.topics.read().unwrap().values().any(|topic| {
            topic.partitions.iter().any(|entry| matches!(&*entry.lock().unwrap(), Entry::Refused(_)))
        });
        let wrote = self
            .write_checkpoint(first.is_ok() && !refused)
            .and_then(|()| write_kafka_files(&*self.env.disk, &self.dir, &self.points()));
        // Let go of the partitions: handles that are still out there keep only their own.
        self.topics.write().unwrap().clear();
        first.and(wrote)
    }

    fn stats(&self) -> Stats {
        let mut stats = Stats {
            regions: self.gauges.regions.load(Ordering::Relaxed),
            mappings: self.gauges.mappings.load(Ordering::Relaxed),
            held_removed_bytes: self.gauges.held_removed.load(Ordering::Relaxed),
            copies: self.gauges.copies.load(Ordering::Relaxed),
            disk: self.env.disk.counters(),
            ..Stats::default()
        };
        let topics = self.topics.read().unwrap();
        stats.topics = topics.len();
        for topic in topics.values() {
            stats.partitions += topic.partitions.len();
            for entry in &topic.partitions {
                match &*entry.lock().unwrap() {
                    Entry::Live(core) => {
                        let partition = Partition(core.clone());
                        stats.partitions_live += 1;
                        stats.log_bytes += partition.bytes();
                        stats.poisoned += usize::from(partition.poisoned().is_some());
                    }
                    Entry::Cold(Some(point)) => {
                        stats.log_bytes += point.segments.iter().map(|s| s.bytes as u64).sum::<u64>();
                    }
                    Entry::Cold(None) | Entry::Refused(_) => {}
                }
            }
        }
        stats
    }
}

/// The files that Kafka itself would look for beside the partitions' folders.
pub(crate) fn write_kafka_files(
    disk: &dyn Disk,
    dir: &Path,
    points: &BTreeMap<TopicPartition, PartitionPoint>,
) -> Result<()> {
    let offsets = |of: fn(&PartitionPoint) -> Offset, from: Offset| -> BTreeMap<_, _> {
        let all = points.iter().map(|(tp, point)| (tp.clone(), of(point)));
        all.filter(|(_, offset)| *offset >= from).collect()
    };
    let first = Offset::new(1);
    for (name, offsets) in [
        (kafka_files::LOG_START_OFFSET_CHECKPOINT, offsets(|point| point.log_start, first)),
        (kafka_files::RECOVERY_POINT_OFFSET_CHECKPOINT, offsets(|point| point.recovery_point, Offset::ZERO)),
        (kafka_files::CLEANER_OFFSET_CHECKPOINT, offsets(|point| point.cleaned_to, first)),
    ] {
        let path = dir.join(name);
        let bytes = kafka_files::offset_checkpoint_bytes(&offsets);
        crate::disk::replace_file(disk, &path, &bytes).map_err(|e| Error::io("writing", path, e))?;
    }
    Ok(())
}

/// Whether a partition that nobody has touched holds something for retention or compaction to look at.
fn is_due(point: &PartitionPoint, config: &TopicConfig, wall: Timestamp) -> bool {
    let Some((oldest, newest)) = point.segments.first().zip(point.segments.last()) else { return false };
    let total: u64 = point.segments.iter().map(|segment| segment.bytes as u64).sum();
    let is_old = config.retention_ms.is_some_and(|keep_ms| {
        let before = wall.as_millis().saturating_sub(keep_ms as i64);
        oldest.bytes > 0 && (0..before).contains(&oldest.max_timestamp.as_millis())
    });
    let is_large = config.retention_bytes.is_some_and(|keep| total > keep) && point.segments.len() > 1;
    (config.deletes() && (is_old || is_large)) || (config.is_compacted() && newest.base > point.cleaned_to)
}

fn unknown(name: &str) -> Error {
    Error::UnknownTopicOrPartition { name: name.into(), found: "no topic of that name".into() }
}

fn check_partitions(count: i32) -> Result<()> {
    const PARTITIONS_MAX: i32 = 100_000;
    if !(1..=PARTITIONS_MAX).contains(&count) {
        return Err(Error::invalid(
            "partition count",
            format!("1 to {PARTITIONS_MAX}"),
            count,
            "give the topic at least one partition",
        ));
    }
    Ok(())
}

/// What the directory says it is. A directory without `girok.meta` is new if it is empty, Kafka's if it has
/// partition folders, and somebody else's otherwise.
fn load_meta(env: &Env, dir: &Path) -> Result<DirMeta> {
    if let Some(meta) = DirMeta::load(&*env.disk, dir)? {
        return Ok(meta);
    }
    let entries = env.disk.list(dir).map_err(|e| Error::io("listing", dir, e))?;
    let is_known = |name: &str| {
        kafka_files::is_top_level(name)
            || kafka_files::partition_folder(name).is_some()
            || name == "lost+found"
    };
    let foreign = entries.iter().find(|entry| !is_known(&entry.name));
    if let Some(foreign) = foreign {
        return Err(Error::invalid(
            "directory",
            "an empty directory, one that Girok made, or one of Kafka's log directories",
            format!("{} in {}", foreign.name, dir.display()),
            "choose another directory: nothing was changed",
        ));
    }
    let bits = (env.chance.next_u64() as u128) << 64 | env.chance.next_u64() as u128;
    Ok(DirMeta::new(TopicId(bits.to_be_bytes())))
}

/// Takes in partition folders that the meta file does not know: Kafka's, copied here. Returns where each starts.
fn adopt(
    env: &Env,
    dir: &Path,
    meta: &mut DirMeta,
    notes: &mut Vec<String>,
) -> Result<BTreeMap<TopicPartition, Offset>> {
    let disk = &*env.disk;
    let mut adopted = BTreeMap::new();
    let entries = disk.list(dir).map_err(|e| Error::io("listing", dir, e))?;
    let mut starts: Option<BTreeMap<TopicPartition, Offset>> = None;
    for entry in entries.iter().filter(|entry| entry.kind == Kind::Folder) {
        let Some(Folder::Partition(tp)) = kafka_files::partition_folder(&entry.name) else { continue };
        let known = meta.topics.get(tp.topic()).is_some_and(|topic| tp.partition() < topic.partitions);
        if known || meta.deleting.contains_key(tp.topic()) {
            continue;
        }
        let folder = dir.join(&entry.name);
        let Some(id) = kafka_files::read_partition_metadata(disk, &folder)? else {
            notes.push(format!("{}: ignored, it has no partition.metadata", folder.display()));
            continue;
        };
        if let Some(topic) = meta.topics.get(tp.topic())
            && topic.id != id
        {
            notes.push(format!(
                "{}: ignored, its topic id is {id} and topic {} has {}",
                folder.display(),
                tp.topic(),
                topic.id
            ));
            continue;
        }
        let starts = match &mut starts {
            Some(starts) => starts,
            none => none.insert(kafka_files::read_offset_checkpoint(
                disk,
                &dir.join(kafka_files::LOG_START_OFFSET_CHECKPOINT),
            )?),
        };
        let topic = meta.topics.entry(tp.topic().to_owned()).or_insert_with(|| TopicMeta {
            id,
            partitions: 0,
            config: TopicConfig::for_adopted(tp.topic()),
            created: env.clock.wall(),
        });
        topic.partitions = topic.partitions.max(tp.partition() + 1);
        notes.push(format!("{}: adopted", folder.display()));
        adopted.insert(tp.clone(), starts.get(&tp).copied().unwrap_or(Offset::ZERO));
    }
    Ok(adopted)
}

/// Finishes removing topics whose removal a crash interrupted.
fn finish_deletes(env: &Env, dir: &Path, meta: &mut DirMeta, notes: &mut Vec<String>) -> Result<()> {
    for (name, partitions) in std::mem::take(&mut meta.deleting) {
        for number in 0..partitions {
            remove_folder(env, &dir.join(TopicPartition::new(name.as_str(), number).folder()))?;
        }
        notes.push(format!("topic {name}: finished removing it"));
    }
    Ok(())
}

fn remove_folder(env: &Env, folder: &PathBuf) -> Result<()> {
    if !env.disk.is_dir(folder) {
        return Ok(());
    }
    for entry in env.disk.list(folder).map_err(|e| Error::io("listing", folder, e))? {
        let path = folder.join(&entry.name);
        env.disk.remove(&path).map_err(|e| Error::io("removing", path, e))?;
    }
    env.disk.remove_dir(folder).map_err(|e| Error::io("removing", folder, e))?;
    let parent = folder.parent().unwrap_or(Path::new(""));
    env.disk.sync_dir(parent).map_err(|e| Error::io("syncing", parent, e))
}
