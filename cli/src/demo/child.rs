//! The child: the log, the producer and both readers, in one process that may be killed at any moment.
//!
//! It takes one-word commands on stdin (`down` and `up`, for the sink of `search`) and ends when stdin ends: the producer
//! stops, the readers drain, the log is closed. On stdout it says how it is doing, one JSON object a line. What it needs to
//! know after a kill stands in the log, in the committed offsets, and in the ack journal; nothing else is kept.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use girok::{
    CommitEntry, Consumer, Error, Girok, OffsetSpec, ProducerRecord, Record, Timestamp, TopicConfig,
    TopicPartition,
};
use serde_json::json;

use super::journal::{Entry, Journal};
use super::sample::{Numbers, Source, TICK};
use super::{Layout, archive, document, search};
use crate::fail::{Fail, Result};

/// The topic.
pub const TOPIC: &str = "resources";

/// How many partitions it has.
pub const PARTITIONS: i32 = 6;

/// How often the child says how it is doing.
const STATUS_EVERY: Duration = Duration::from_millis(100);

/// The part of the demo that is killed. The demo starts it.
#[derive(Args)]
pub struct Child {
    /// Where everything of this demo is
    #[arg(long)]
    base: PathBuf,
    /// How old a file of the archive becomes, in ms
    #[arg(long)]
    archive_ms: u64,
    /// Lines to produce
    #[arg(long)]
    file: Option<PathBuf>,
}

/// What the threads of the child tell one another.
#[derive(Default)]
pub struct Stage {
    /// The sink of `search` refuses everything.
    pub sink_is_down: AtomicBool,
    /// How many bulks it refused.
    pub refused: AtomicU64,
    /// The producer has stopped, and all it sent is visible.
    pub all_produced: AtomicBool,
    /// The producer shall stop.
    finish: AtomicBool,
    /// Somebody failed; all shall stop as they are.
    abort: AtomicBool,
}

impl Stage {
    /// Whether all shall stop as they are.
    pub fn aborted(&self) -> bool {
        self.abort.load(Ordering::Acquire)
    }

    /// Sleeps, unless all shall stop.
    pub fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.aborted() && Instant::now() < until {
            thread::sleep(Duration::from_millis(10).min(time));
        }
    }

    /// Runs a part; if it fails or panics, all stop.
    fn part(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        struct AbortUnless<'s>(&'s Stage, bool);
        impl Drop for AbortUnless<'_> {
            fn drop(&mut self) {
                self.0.abort.fetch_or(!self.1, Ordering::AcqRel);
            }
        }
        let mut guard = AbortUnless(self, false);
        work()?;
        guard.1 = true;
        Ok(())
    }
}

/// Starts a part in a thread of its own.
fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    stage: &'scope Stage,
    name: &str,
    work: impl FnOnce() -> Result<()> + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, Result<()>>> {
    let thread = thread::Builder::new().name(name.into());
    let started = thread.spawn_scoped(scope, move || stage.part(work));
    started.map_err(|e| {
        stage.abort.store(true, Ordering::Release);
        Fail::io(format!("starting the thread of {name}"))(e)
    })
}

/// All partitions.
pub fn partitions() -> Vec<TopicPartition> {
    (0..PARTITIONS).map(|partition| TopicPartition::new(TOPIC, partition)).collect()
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// Whether everything that is visible was polled.
pub fn is_read(consumer: &Consumer, tp: &TopicPartition) -> Result<bool> {
    let ends = consumer.end_offsets(std::slice::from_ref(tp))?;
    Ok(consumer.position(tp)? >= ends[tp])
}

/// Commits what a sink has, and waits until that is durable.
pub fn commit(consumer: &mut Consumer, entries: &[CommitEntry]) -> Result<()> {
    let (mut refused, mut stored) = (Vec::new(), Vec::new());
    for (tp, result) in consumer.commit_offsets(entries)? {
        match result {
            Ok(receipt) => stored.push(receipt),
            Err(reject) => refused.push((tp, reject)),
        }
    }
    if refused.is_empty() { Ok(()) } else { Err(Error::NotCommitted { refused, stored }.into()) }
}

/// Somebody else produced this.
pub fn foreign(record: &Record<'_>) -> Fail {
    Fail::Found(format!(
        "{}@{} was not made by the producer of the demo; leave its topic alone while it runs",
        record.topic_partition(),
        record.offset()
    ))
}

impl Child {
    pub fn run(&self) -> Result<()> {
        let layout = Layout::new(&self.base);
        let begun = Instant::now();
        let girok = Girok::open(layout.log())?;
        let opened = begun.elapsed();
        let admin = girok.admin();
        if !admin.list_topics()?.iter().any(|topic| &*topic.name == TOPIC) {
            admin.create_topic(TOPIC, PARTITIONS, TopicConfig::default())?;
        }
        let (mut journal, entries) = Journal::open(&layout.journal())?;
        let found = find(&girok, &entries)?;
        journal.append(&found)?;
        let numbers = entries.iter().chain(&found).map(|entry| entry.sequence).collect();
        let mut producing = Producing {
            source: Source::open(self.file.as_deref())?,
            numbers: Numbers::except(numbers),
            journal,
        };

        let stage = Arc::new(Stage::default());
        listen(stage.clone());
        say(&status(&girok, &stage)?);
        say(&json!({ "opened_ms": opened.as_secs_f64() * 1e3, "found": found.len() }));
        self.act(&girok, &stage, &layout, &mut producing)?;
        Ok(girok.close()?)
    }

    /// All parts at once, until the producer has stopped and the readers have everything.
    fn act(&self, girok: &Girok, stage: &Stage, layout: &Layout, producing: &mut Producing) -> Result<()> {
        let archive_age_max = Duration::from_millis(self.archive_ms);
        thread::scope(|scope| {
            let parts = [
                start(scope, stage, "producer", || producing.run(girok, stage)),
                start(scope, stage, search::GROUP, || search::run(girok, stage, &layout.search())),
                start(scope, stage, archive::GROUP, || {
                    archive::run(girok, stage, &layout.archive(), archive_age_max)
                }),
            ];
            let mut done = stage.part(|| {
                while parts.iter().flatten().any(|part| !part.is_finished()) {
                    say(&status(girok, stage)?);
                    thread::sleep(STATUS_EVERY);
                }
                say(&status(girok, stage)?);
                Ok(())
            });
            for part in parts {
                let panicked = |_| Err(Fail::Found("a thread of the demo panicked".into()));
                done = done.and(part.and_then(|part| part.join().unwrap_or_else(panicked)));
            }
            done
        })
    }
}

/// Says something to the parent. If nobody listens any more, stdin will end too.
fn say(what: &serde_json::Value) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{what}").and_then(|()| stdout.flush());
}

/// Does as the parent says.
fn listen(stage: Arc<Stage>) {
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(std::result::Result::ok) {
            match line.as_str() {
                "down" => stage.sink_is_down.store(true, Ordering::Release),
                "up" => stage.sink_is_down.store(false, Ordering::Release),
                _ => eprintln!("girok: the demo's child does not know the word {line:?}"),
            }
        }
        stage.sink_is_down.store(false, Ordering::Release);
        stage.finish.store(true, Ordering::Release);
    });
}

/// How many records there are, and how many of them each group has not committed.
fn status(girok: &Girok, stage: &Stage) -> Result<serde_json::Value> {
    let admin = girok.admin();
    let committed = |group| -> Result<i64> {
        Ok(admin.list_group_offsets(group)?.values().map(|committed| committed.offset.get()).sum())
    };
    // First: whoever sees a refusal sees the commits that were under way before it.
    let refused = stage.refused.load(Ordering::Acquire);
    // Nothing leaves this log, so offsets count records. Commits first: they are never beyond an end taken later.
    let (search, archive) = (committed(search::GROUP)?, committed(archive::GROUP)?);
    let ends = admin.list_offsets(&partitions(), OffsetSpec::Latest)?;
    let stored: i64 = ends.values().flatten().map(|end| end.offset.get()).sum();
    Ok(
        json!({ "stored": stored, "search": stored - search, "archive": stored - archive, "refused": refused }),
    )
}

/// What the log has behind the last line of the journal: stored, and not acknowledged before the kill.
fn find(girok: &Girok, entries: &[Entry]) -> Result<Vec<Entry>> {
    let mut consumer = girok.consumer().build()?;
    let partitions = partitions();
    consumer.assign(&partitions)?;
    for tp in &partitions {
        let of_it = entries.iter().filter(|entry| entry.partition == tp.partition());
        let next = of_it.map(|entry| entry.offset + 1).max().unwrap_or(0);
        consumer.seek(tp, next.into())?;
    }
    let mut found = Vec::new();
    loop {
        let mut at_end = true;
        for tp in &partitions {
            at_end &= is_read(&consumer, tp)?;
        }
        if at_end {
            return Ok(found);
        }
        for record in &consumer.poll(Duration::from_secs(1))? {
            found.push(Entry {
                partition: record.partition(),
                offset: record.offset().get(),
                sequence: document::sequence(&record).ok_or_else(|| foreign(&record))?,
                digest: document::digest(
                    record.key().unwrap_or_default(),
                    record.value().unwrap_or_default(),
                ),
                found: true,
            });
        }
    }
}

/// The producer, its source and its journal.
struct Producing {
    source: Source,
    numbers: Numbers,
    journal: Journal,
}

impl Producing {
    /// A batch of samples at every tick, until the demo is over. Each is journalled when its ack is there.
    fn run(&mut self, girok: &Girok, stage: &Stage) -> Result<()> {
        let producer = girok.producer().build()?;
        let mut time = now_ms();
        let mut due = Instant::now();
        while !stage.finish.load(Ordering::Acquire) && !stage.aborted() {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            // A tick that comes late is not made up for: these are measurements.
            due = (due + TICK).max(Instant::now());
            // The machine's clock may be set back while this runs, and readers rely on the order of time.
            time = time.max(now_ms());
            let samples = self.source.tick(&mut self.numbers)?;
            let mut sent = Vec::with_capacity(samples.len());
            for (sequence, sample) in &samples {
                let text = sequence.to_string();
                let record =
                    ProducerRecord::new(TOPIC, &sample.value).timestamp(Timestamp::from_millis(time));
                let mut record = record.header(document::SEQUENCE, &text);
                let mut key = "";
                if let Some(given) = &sample.key {
                    record = record.key(given);
                    key = given;
                }
                let digest = document::digest(key.as_bytes(), sample.value.as_bytes());
                sent.push((*sequence, digest, producer.send(record)?));
            }
            // All partitions share their syncs; what follows does not wait any more.
            producer.flush()?;
            let mut entries = Vec::with_capacity(sent.len());
            for (sequence, digest, delivery) in sent {
                let stored = delivery.wait()?;
                let (partition, offset) = (stored.partition, stored.offset.get());
                entries.push(Entry { partition, offset, sequence, digest, found: false });
            }
            self.journal.append(&entries)?;
        }
        stage.all_produced.store(true, Ordering::Release);
        Ok(())
    }
}
