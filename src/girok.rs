//! The door: one directory, opened in this process, from which everything else comes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use girok_coordinator::{Clamped, Coordinator, Settings};
use girok_engine::{CheckpointReport, Env, Log, LogConfig, Moment, RecoveryReport, Stats, TopicConfig};

use crate::admin::Admin;
use crate::consumer::ConsumerBuilder;
use crate::core::Core;
use crate::error::{Error, Result, invalid};
use crate::groups::Groups;
use crate::producer::ProducerBuilder;

/// What opening a directory found: the engine's report, and commits that had to be set back.
///
/// ```
/// let girok = girok::Girok::in_memory()?;
/// assert!(girok.recovery().clean && girok.recovery().clamped().is_empty());
/// # Ok::<(), girok::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Recovery {
    engine: RecoveryReport,
    clamped: Vec<Clamped>,
}

impl Recovery {
    /// Commits that pointed beyond the end of their partition, because a power cut took the records they covered;
    /// each was set back to the end.
    pub fn clamped(&self) -> &[Clamped] {
        &self.clamped
    }

    /// The engine's part.
    pub fn report(&self) -> &RecoveryReport {
        &self.engine
    }
}

impl std::ops::Deref for Recovery {
    type Target = RecoveryReport;
    fn deref(&self) -> &RecoveryReport {
        &self.engine
    }
}

/// An open directory with its background. The last handle of it closes it.
pub(crate) struct Handle {
    pub(crate) core: Arc<Core>,
    recovery: Recovery,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.core.fmt(f)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // In a fork the threads are not there and the directory is the parent's.
        if !self.core.process.is_current() || self.core.is_closing() {
            return;
        }
        let _ = self.core.close(None);
        if let Some(thread) = self.thread.lock().unwrap().take()
            && thread.thread().id() != thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

/// A directory of topics, open in this process: the door to producers, consumers and the admin. Cheap to clone; may be
/// used from any thread.
///
/// Producers and consumers keep the directory open. When the last of them and of the clones is dropped, it is closed as
/// [`close`](Self::close) does, and nobody is told about errors. A forked child gets
/// [`Forked`](girok_engine::Error::Forked) from every call, and its drops do nothing.
///
/// ```
/// use std::time::Duration;
/// use girok::{Girok, OffsetReset, ProducerRecord, TopicConfig, TopicPartition};
///
/// let girok = Girok::temporary()?;
/// girok.admin().create_topic("orders", 1, TopicConfig::default())?;
/// girok.producer().build()?.send(ProducerRecord::new("orders", "two coffees"))?.wait()?;
///
/// let mut consumer = girok.consumer().group_id("kitchen").build()?;
/// consumer.assign(&[TopicPartition::new("orders", 0)])?;
/// let records = consumer.poll(Duration::from_secs(5))?;
/// assert_eq!(records.iter().next().unwrap().value(), Some(&b"two coffees"[..]));
/// consumer.commit()?;
/// drop(consumer);
/// girok.close()?;
/// # Ok::<(), girok::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Girok(Arc<Handle>);

impl Girok {
    /// Opens a directory, making it if it is missing, recovers what a crash left, and starts the one background thread,
    /// `girok-io`. [`recovery`](Self::recovery) says what was found.
    ///
    /// # Errors
    /// Those of [`Log::open`]: [`Locked`](girok_engine::Error::Locked) names the process that has it.
    pub fn open(dir: impl AsRef<Path>) -> Result<Girok> {
        Girok::builder().open(dir)
    }

    /// Everything that can be chosen about opening.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A directory that is only in memory and gone with this handle: for tests, and for logs that nobody must keep.
    /// Durability means nothing there, and everything else is the same.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn in_memory() -> Result<Girok> {
        Girok::builder().env(Env::in_memory()).open("/girok")
    }

    /// A new directory below the system's directory for temporary files, removed when it is closed.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn temporary() -> Result<Girok> {
        Girok::builder().open_temporary()
    }

    /// What opening the directory found, and did about it.
    pub fn recovery(&self) -> &Recovery {
        &self.0.recovery
    }

    /// A producer in the making.
    pub fn producer(&self) -> ProducerBuilder {
        ProducerBuilder::new(self.0.clone())
    }

    /// A consumer in the making.
    pub fn consumer(&self) -> ConsumerBuilder {
        ConsumerBuilder::new(self.0.clone())
    }

    /// Topics, configuration, offsets, groups.
    pub fn admin(&self) -> Admin {
        Admin::new(self.0.clone())
    }

    /// Numbers, as they are now. They are also told to the `metrics` facade; see the crate's front page.
    pub fn stats(&self) -> Stats {
        self.0.core.log.stats()
    }

    /// Copies the directory to `to` while it is in use: every visible record, every acknowledged commit, and no commit
    /// beyond its records. Sealed segments are shared, not copied. What producers hold open is appended first, and is in
    /// the copy if its topic's durability lets it be visible by then. The copy opens as a cleanly closed directory does.
    ///
    /// ```
    /// # use girok::{Girok, ProducerRecord, TopicConfig};
    /// # let girok = Girok::temporary()?;
    /// # girok.admin().create_topic("orders", 1, TopicConfig::default())?;
    /// # girok.producer().build()?.send(ProducerRecord::new("orders", "tea"))?.wait()?;
    /// # let place = std::env::temp_dir().join(format!("girok-doc-copy-{}", std::process::id()));
    /// girok.checkpoint(&place)?;
    /// let copy = Girok::open(&place)?;
    /// assert!(copy.recovery().clean);
    /// # drop(copy);
    /// # std::fs::remove_dir_all(&place).unwrap();
    /// # Ok::<(), girok::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Log::checkpoint`]; `to` is not there then.
    pub fn checkpoint(&self, to: impl AsRef<Path>) -> Result<CheckpointReport> {
        let core = &self.0.core;
        core.check()?;
        core.append_all()?;
        Ok(core.log.checkpoint(to)?)
    }

    /// The engine's door: everything below producers and consumers. Topics that are removed or get partitions through
    /// this door rather than through [`admin`](Self::admin) are noticed by running producers when a send fails.
    pub fn log(&self) -> &Log {
        &self.0.core.log
    }

    /// The coordinator's door, for a group.
    ///
    /// # Errors
    /// What is wrong with the log of committed offsets, if it could not be read: nobody starts from zero because of it.
    pub fn coordinator(&self, group: &str) -> Result<&Coordinator> {
        self.0.core.check()?;
        self.0.core.groups.of(group)
    }

    /// Does what is due now, for those who chose [`threads(false)`](Builder::threads): lingering batches, syncs that
    /// somebody waits for, retention and the rest. Returns when it wants to be called again at the latest, by the
    /// clock of [`Env`].
    ///
    /// # Errors
    /// The first that a chore met; the others were done all the same.
    pub fn step(&self) -> Result<Moment> {
        self.0.core.check()?;
        self.0.core.step(self.0.core.now())
    }

    /// The last error that the background met in a chore, if it ever did. What somebody waits for is told to them;
    /// this is for the rest.
    pub fn background_error(&self) -> Option<Error> {
        self.0.core.meters.last_failure()
    }

    /// Appends what producers hold open, syncs everything, saves the committed offsets' state, and lets the directory
    /// go; the next open reads no logs. All handles give [`Closed`](girok_engine::Error::Closed) from now on; records
    /// that were polled stay good. Idempotent: whoever closes again hears the same.
    ///
    /// # Errors
    /// What could not be appended, synced or saved. The directory is let go all the same, and the next open recovers.
    pub fn close(&self) -> Result<()> {
        self.0.core.close(None)
    }

    /// [`close`](Self::close) that waits at most so long.
    ///
    /// # Errors
    /// [`Error::Timeout`]: the closing goes on in the background, and the directory stays locked until it is done. Handles
    /// that are dropped meanwhile do not wait for it.
    pub fn close_timeout(&self, timeout: Duration) -> Result<()> {
        self.0.core.close(Some(timeout))
    }
}

/// Everything that can be chosen about opening a directory.
///
/// ```
/// use girok::{Girok, LogConfig, TopicConfig};
/// # let dir = std::env::temp_dir().join(format!("girok-doc-{}", std::process::id()));
/// let config = LogConfig { max_total_bytes: Some(10 << 30), ..LogConfig::default() };
/// let girok = Girok::builder()
///     .config(config)
///     .auto_create_topics(Some((6, TopicConfig::default())))
///     .open(&dir)?;
/// girok.close()?;
/// # std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), girok::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it opens"]
pub struct Builder {
    env: Option<Env>,
    config: LogConfig,
    groups: Settings,
    create: bool,
    auto_create: Option<(i32, TopicConfig)>,
    threads: bool,
    metrics_interval: Option<Duration>,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            env: None,
            config: LogConfig::default(),
            groups: Settings::default(),
            create: true,
            auto_create: None,
            threads: true,
            metrics_interval: Some(Duration::from_secs(10)),
        }
    }
}

impl Builder {
    /// How the directory is run.
    pub fn config(mut self, config: LogConfig) -> Self {
        self.config = config;
        self
    }

    /// How committed offsets are kept.
    pub fn groups(mut self, settings: Settings) -> Self {
        self.groups = settings;
        self
    }

    /// Time, chance and the disk, if they are not the machine's.
    pub fn env(mut self, env: Env) -> Self {
        self.env = Some(env);
        self
    }

    /// Whether a missing directory is made. `true`; with `false` it is an error, which finds mistyped paths.
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Makes a topic when a producer first sends to it, with so many partitions and that configuration. `None`, unlike
    /// a Kafka broker (`auto.create.topics.enable`): a mistyped name should be an error, not a topic.
    pub fn auto_create_topics(mut self, topics: Option<(i32, TopicConfig)>) -> Self {
        self.auto_create = topics;
        self
    }

    /// Whether the background thread is started. `true`. Without it [`Girok::step`] must be called, or nothing lingers
    /// to its end, futures wait for ever, and records that nobody waits for are not synced.
    pub fn threads(mut self, threads: bool) -> Self {
        self.threads = threads;
        self
    }

    /// How often the `metrics` facade is told numbers. 10 s; `None` is never.
    pub fn metrics_interval(mut self, interval: Option<Duration>) -> Self {
        self.metrics_interval = interval;
        self
    }

    /// Opens the directory.
    ///
    /// # Errors
    /// As [`Girok::open`].
    pub fn open(self, dir: impl AsRef<Path>) -> Result<Girok> {
        self.open_at(dir.as_ref(), None)
    }

    /// Opens a new directory below the system's directory for temporary files; see [`Girok::temporary`].
    ///
    /// # Errors
    /// As [`Girok::open`].
    pub fn open_temporary(self) -> Result<Girok> {
        let env = self.env.clone().unwrap_or_else(Env::system);
        let name = format!("girok-{}-{:016x}", std::process::id(), env.chance.next_u64());
        let dir = std::env::temp_dir().join(name);
        self.env(env).open_at(&dir, Some(dir.clone()))
    }

    fn open_at(self, dir: &Path, temporary: Option<PathBuf>) -> Result<Girok> {
        let env = self.env.unwrap_or_else(Env::system);
        if !self.create && !env.disk.is_dir(dir) {
            return Err(invalid(
                "directory",
                "one that exists",
                dir.display(),
                "check the path, or allow it to be made with create(true)",
            ));
        }
        if let Some((partitions, config)) = &self.auto_create {
            config.validate()?;
            if *partitions < 1 {
                return Err(invalid(
                    "auto_create_topics",
                    "at least one partition",
                    partitions,
                    "give it one",
                ));
            }
        }
        let (log, mut report) = Log::open(env, dir, self.config)?;
        let groups = match Groups::open(&log, self.groups) {
            Ok(groups) => groups,
            Err(error) => {
                let _ = log.close();
                return Err(error);
            }
        };
        report.notes.extend(groups.notes().iter().cloned());
        let recovery = Recovery { engine: report, clamped: groups.clamped().to_vec() };
        let core = Core::new(log, groups, self.auto_create, self.threads, self.metrics_interval, temporary);
        let thread = match self.threads {
            false => None,
            true => {
                let core = core.clone();
                let started = thread::Builder::new().name("girok-io".into()).spawn(move || core.run());
                Some(
                    started
                        .map_err(|e| girok_engine::Error::io("starting the background thread for", dir, e))?,
                )
            }
        };
        Ok(Girok(Arc::new(Handle { core, recovery, thread: Mutex::new(thread) })))
    }
}
