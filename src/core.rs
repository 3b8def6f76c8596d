//! What all handles of one open directory share, and the background that serves them.
//!
//! There is one thread, `girok-io`, and it only ever calls [`Core::step`]: the engine's chores, batches whose linger
//! is over, waits whose time has come, numbers for the `metrics` facade. Whoever sets an earlier timer pokes it. With
//! `threads(false)` the owner calls the same function.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock, Weak};
use std::task::{Context, Poll, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;

use girok_engine::wait::{Ticket, Waiters, block_on};
use girok_engine::{Log, Moment, Offset, Partition, Process, TopicConfig, TopicDescription, TopicPartition};

use crate::consumer::Sleeper;
use crate::error::{Error, Result, do_all};
use crate::groups::Groups;
use crate::meters::Meters;
use crate::producer::{Lane, Lanes};

/// A partition's handle, and what is known of its batches' insides.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) partition: Partition,
    /// Every batch from here on was appended by this process, through a check that walks each record.
    fresh_from: Offset,
    /// One stretch of older batches whose records were walked here: from, to.
    walked: Mutex<(Offset, Offset)>,
}

impl Known {
    fn new(partition: Partition) -> Self {
        let end = partition.end_offset();
        Known { partition, fresh_from: end, walked: Mutex::new((end, end)) }
    }

    /// Whether the records of `from..to` are known to decode. Asked once for each view, not for each record.
    pub(crate) fn is_walked(&self, from: Offset, to: Offset) -> bool {
        from >= self.fresh_from || {
            let (low, high) = *self.walked.lock().unwrap();
            low <= from && (to <= high || high >= self.fresh_from)
        }
    }

    /// `from..to` was walked just now. A stretch that touches the known one joins it, a longer one replaces it.
    pub(crate) fn set_walked(&self, from: Offset, to: Offset) {
        let mut walked = self.walked.lock().unwrap();
        let (low, high) = *walked;
        if from <= high && to >= low {
            *walked = (low.min(from), high.max(to));
        } else if to - from > high - low {
            *walked = (from, to);
        }
    }
}

/// What a timer does when its time has come.
pub(crate) enum Task {
    /// The linger of a producer's open batch is over.
    Seal(Weak<Lane>),
    /// Somebody wants to look again.
    Wake(Waker),
}

/// Everything that happens at a time.
#[derive(Default)]
pub(crate) struct Timers {
    queue: Mutex<BTreeMap<(Moment, u64), Task>>,
    next: AtomicU64,
}

/// A timer that was set; [`Timers::cancel`] takes it.
pub(crate) type TimerKey = (Moment, u64);

impl Timers {
    pub(crate) fn cancel(&self, key: &TimerKey) {
        self.queue.lock().unwrap().remove(key);
    }

    fn due(&self, now: Moment) -> Option<Task> {
        let mut queue = self.queue.lock().unwrap();
        let first = queue.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    fn next(&self) -> Option<Moment> {
        self.queue.lock().unwrap().first_key_value().map(|((at, _), _)| *at)
    }
}

/// What the handles of one open directory share.
pub(crate) struct Core {
    pub(crate) log: Log,
    pub(crate) groups: Groups,
    pub(crate) process: Process,
    pub(crate) auto_create: Option<(i32, TopicConfig)>,
    pub(crate) timers: Timers,
    pub(crate) meters: Meters,
    /// Raised whenever a topic was made, removed or given partitions through this facade.
    pub(crate) topics_epoch: AtomicU64,
    /// When old offsets are looked for next.
    groups_due: Mutex<Moment>,
    known: RwLock<HashMap<TopicPartition, Arc<Known>>>,
    producers: Mutex<Vec<Weak<Lanes>>>,
    sleepers: Mutex<Vec<Weak<Sleeper>>>,
    threads: bool,
    /// The background's, while it runs.
    io_thread: OnceLock<ThreadId>,
    poked: AtomicBool,
    background: Waiters,
    /// No call may begin any more.
    closed: AtomicBool,
    close_wanted: AtomicBool,
    close_outcome: OnceLock<Result<()>>,
    close_done: Waiters,
    /// A directory that goes when the log does.
    temporary: Option<PathBuf>,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Girok({})", self.log.dir().display())
    }
}

impl Core {
    pub(crate) fn new(
        log: Log,
        groups: Groups,
        auto_create: Option<(i32, TopicConfig)>,
        threads: bool,
        metrics_interval: Option<Duration>,
        temporary: Option<PathBuf>,
    ) -> Arc<Self> {
        let now = log.env().clock.now();
        Arc::new(Core {
            process: log.process(),
            log,
            groups,
            auto_create,
            timers: Timers::default(),
            meters: Meters::new(metrics_interval, now),
            topics_epoch: AtomicU64::new(0),
            groups_due: Mutex::new(now),
            known: RwLock::new(HashMap::new()),
            producers: Mutex::new(Vec::new()),
            sleepers: Mutex::new(Vec::new()),
            threads,
            io_thread: OnceLock::new(),
            poked: AtomicBool::new(false),
            background: Waiters::new(),
            closed: AtomicBool::new(false),
            close_wanted: AtomicBool::new(false),
            close_outcome: OnceLock::new(),
            close_done: Waiters::new(),
            temporary,
        })
    }

    /// Whether a call may go on: the log is open, and this is the process that opened it. Two loads.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        if self.process.is_current() && !self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(self.why_not())
    }

    #[cold]
    fn why_not(&self) -> Error {
        // A fork, or a close that has begun here and has not come to the log yet.
        let said = self.log.check_open().err();
        said.unwrap_or_else(|| girok_engine::Error::Closed { dir: self.log.dir().to_path_buf() }).into()
    }

    pub(crate) fn now(&self) -> Moment {
        self.log.env().clock.now()
    }

    /// A partition's handle; the topic may have been re-created since it was last asked for.
    pub(crate) fn known(&self, tp: &TopicPartition) -> Result<Arc<Known>> {
        let partition = self.log.partition(tp)?;
        if let Some(known) = self.known.read().unwrap().get(tp)
            && known.partition.topic_id() == partition.topic_id()
        {
            return Ok(known.clone());
        }
        let mut all = self.known.write().unwrap();
        match all.get(tp) {
            Some(known) if known.partition.topic_id() == partition.topic_id() => Ok(known.clone()),
            _ => {
                let known = Arc::new(Known::new(partition));
                all.insert(tp.clone(), known.clone());
                Ok(known)
            }
        }
    }

    /// Lets go of what is known about a topic that was removed.
    pub(crate) fn forget_topic(&self, topic: &str) {
        self.known.write().unwrap().retain(|tp, _| tp.topic() != topic);
        self.topics_changed();
    }

    pub(crate) fn topics_changed(&self) {
        self.topics_epoch.fetch_add(1, Ordering::Release);
    }

    /// A topic, described; it is made now if topics are made at first use.
    pub(crate) fn topic(&self, topic: &str) -> Result<TopicDescription> {
        match self.log.topic(topic) {
            Ok(found) => Ok(found),
            Err(error @ girok_engine::Error::UnknownTopicOrPartition { .. }) => {
                let Some((partitions, config)) = &self.auto_create else { return Err(error.into()) };
                match self.log.create_topic(topic, *partitions, config.clone()) {
                    Ok(_) => self.topics_changed(),
                    // Somebody else was quicker.
                    Err(girok_engine::Error::TopicExists { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
                Ok(self.log.topic(topic)?)
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn register(&self, lanes: &Arc<Lanes>) {
        let mut producers = self.producers.lock().unwrap();
        producers.retain(|other| other.strong_count() > 0);
        producers.push(Arc::downgrade(lanes));
    }

    /// A consumer that must be told when the directory closes.
    pub(crate) fn register_sleeper(&self, sleeper: &Arc<Sleeper>) {
        let mut sleepers = self.sleepers.lock().unwrap();
        sleepers.retain(|other| other.strong_count() > 0);
        sleepers.push(Arc::downgrade(sleeper));
    }

    /// Appends what any producer holds open.
    pub(crate) fn append_all(&self) -> Result<()> {
        let producers: Vec<_> = self.producers.lock().unwrap().iter().filter_map(Weak::upgrade).collect();
        do_all(producers.iter().map(|lanes| lanes.append_all()))
    }

    /// Does `task` at `at`. The background is told if it would have slept longer.
    pub(crate) fn set_timer(&self, at: Moment, task: Task) -> TimerKey {
        let key = (at, self.timers.next.fetch_add(1, Ordering::Relaxed));
        let is_first = {
            let mut queue = self.timers.queue.lock().unwrap();
            queue.insert(key, task);
            queue.first_key_value().is_some_and(|(first, _)| *first == key)
        };
        if is_first {
            self.poke();
        }
        key
    }

    /// Has the background look again at what is due.
    pub(crate) fn poke(&self) {
        if !self.poked.swap(true, Ordering::SeqCst) {
            self.background.wake_all();
        }
    }

    /// Everything that is due now. Returns when it wants to be called again at the latest, or the first error: one chore
    /// that fails keeps no other from its turn.
    pub(crate) fn step(&self, now: Moment) -> Result<Moment> {
        while let Some(task) = self.timers.due(now) {
            match task {
                Task::Seal(lane) => {
                    if let Some(lane) = lane.upgrade() {
                        lane.linger_is_over(now);
                    }
                }
                Task::Wake(waker) => waker.wake(),
            }
        }
        let log = self.log.step(now);
        let mut next = log.as_ref().copied().unwrap_or(now);
        let groups = self.step_groups(now, &mut next);
        self.meters.publish(self, now, &mut next);
        if let Some(at) = self.timers.next() {
            next = next.min(at);
        }
        log?;
        groups.map(|()| next)
    }

    fn step_groups(&self, now: Moment, next: &mut Moment) -> Result<()> {
        let mut due = self.groups_due.lock().unwrap();
        let is_due = now >= *due;
        if is_due {
            *due = now + self.groups.settings().offsets_retention_check_interval;
        }
        *next = (*next).min(*due);
        drop(due);
        if is_due { self.groups.tick() } else { Ok(()) }
    }

    /// Ready when there is something to step for.
    pub(crate) fn poll_work(&self, tickets: &mut [Ticket; 2], context: &mut Context<'_>) -> Poll<()> {
        let look = || self.poked.swap(false, Ordering::SeqCst) || self.close_wanted.load(Ordering::SeqCst);
        if look() {
            return Poll::Ready(());
        }
        self.background.register(&mut tickets[0], context.waker());
        if look() {
            return Poll::Ready(());
        }
        self.log.poll_background(&mut tickets[1], context)
    }

    /// The background thread's life.
    pub(crate) fn run(self: Arc<Self>) {
        let _ = self.io_thread.set(thread::current().id());
        let _if_it_panics = Bereaved(&self);
        let mut tickets = [Ticket::default(), Ticket::default()];
        while !self.close_wanted.load(Ordering::SeqCst) {
            let now = self.now();
            let pause = match self.step(now) {
                Ok(next) => next.since(self.now()),
                Err(error) => {
                    self.meters.step_failed(&error);
                    // The chores that failed are tried again; a full disk may have room by then.
                    Duration::from_millis(100)
                }
            };
            block_on(Some(pause), |context| self.poll_work(&mut tickets, context));
        }
        // Whoever asked for it reads the outcome.
        let _ = self.close_here();
    }

    /// Closes on this thread, once; whoever comes later hears the same.
    fn close_here(&self) -> Result<()> {
        // Also where a last handle is dropped on the background thread itself, which must not go on then.
        self.close_wanted.store(true, Ordering::SeqCst);
        let outcome = self.close_outcome.get_or_init(|| {
            let mut first = Ok(());
            let producers: Vec<_> = self.producers.lock().unwrap().drain(..).collect();
            for lanes in producers.iter().filter_map(Weak::upgrade) {
                first = first.and(lanes.close());
            }
            self.closed.store(true, Ordering::SeqCst);
            first = first.and(self.groups.save());
            let closed = self.log.close().map_err(Error::from);
            self.known.write().unwrap().clear();
            if let Some(dir) = &self.temporary {
                // Nobody will look there again; what cannot be removed is the system's to clean.
                let _ = std::fs::remove_dir_all(dir);
            }
            first.and(closed)
        });
        self.wake_the_last();
        outcome.clone()
    }

    /// Everybody who still waits looks once more, and finds it closed.
    fn wake_the_last(&self) {
        self.close_done.wake_all();
        for sleeper in self.sleepers.lock().unwrap().drain(..).filter_map(|sleeper| sleeper.upgrade()) {
            sleeper.waiters.wake_all();
        }
        let tasks = std::mem::take(&mut *self.timers.queue.lock().unwrap());
        for task in tasks.into_values() {
            if let Task::Wake(waker) = task {
                waker.wake();
            }
        }
    }

    /// Closes, and waits for it at most so long.
    pub(crate) fn close(&self, timeout: Option<Duration>) -> Result<()> {
        if !self.process.is_current() {
            return Err(self.why_not());
        }
        if !self.threads || self.io_thread.get() == Some(&thread::current().id()) {
            return self.close_here();
        }
        self.close_wanted.store(true, Ordering::SeqCst);
        self.poke();
        let mut ticket = Ticket::default();
        let done = block_on(timeout, |context| {
            self.close_done.register(&mut ticket, context.waker());
            self.close_outcome.get().map_or(Poll::Pending, |outcome| Poll::Ready(outcome.clone()))
        });
        self.close_done.leave(&mut ticket);
        done.unwrap_or_else(|| {
            Err(Error::Timeout {
                what: format!("closing {}", self.log.dir().display()),
                after: timeout.unwrap_or_default(),
                then: "it goes on in the background; the directory stays locked until it is done",
            })
        })
    }

    /// Whether somebody has begun to close it.
    pub(crate) fn is_closing(&self) -> bool {
        self.close_wanted.load(Ordering::SeqCst) || self.close_outcome.get().is_some()
    }
}

/// A background that panicked closes nothing any more; those who wait for it are told.
struct Bereaved<'a>(&'a Core);

impl Drop for Bereaved<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let core = self.0;
            core.closed.store(true, Ordering::SeqCst);
            let cause = std::io::Error::other("it panicked, which is a bug; the next open recovers");
            let error = girok_engine::Error::io("running the background thread of", core.log.dir(), cause);
            let _ = core.close_outcome.set(Err(error.into()));
            core.wake_the_last();
        }
    }
}
