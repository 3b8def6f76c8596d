//! `girok demo`: the promise on this machine's own metrics, with an outage and a SIGKILL, and a count by somebody else.
//!
//! ```text
//!  parent ── down, up ──▶ child: samples ──▶ log `resources` ──▶ search ──▶ bulk-000001.ndjson ─┐
//!    │ SIGKILL at half time       │                        └──▶ archive ──▶ resources-0.….zst  ─┤
//!    └ starts it again            └──▶ ack journal ───────────────────────────────────────────┴──▶ audit ──▶ table
//! ```
//! Here are the parent and its timeline. The child is in [`child`]: its producer in [`sample`] and [`journal`], its readers
//! in [`search`] and [`archive`], what they write in [`document`]. [`audit`] reads all of that again when it is over.

mod actor;
mod archive;
mod audit;
mod child;
mod document;
mod journal;
mod sample;
mod search;

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::Global;
use crate::fail::{Fail, Result};
use crate::out::{Out, grouped};
use actor::{Actor, Status};
use audit::{Audit, Reader, Tally};

pub use child::Child;

const HELP: &str = "\
Metrics of this machine go into a topic of six partitions many times a second. Two readers take them from there, \
each with its own committed offsets: search writes bulks for Elasticsearch in the order of time, archive writes zstd \
files. For a while the sink of search fails, which archive does not notice. At half time all of it is killed with \
SIGKILL and started again. Then every record is looked up: in the producer's ack journal, and in the files of both \
sinks.

The directory (--dir) must be new or empty. Without one a temporary one is used, whatever $GIROK_DIR says, and removed \
unless --keep is given or something is wrong. In it are log/ (the topics), acks.txt (a line for each record that is \
stored), search/ and archive/.

Exit code 1 if anything was lost.";

/// When the sink of `search` fails and comes back, and when the child is killed, as parts of the whole time.
const DOWN_AT: f64 = 0.20;
const UP_AT: f64 = 0.45;
const KILL_AT: f64 = 0.50;

/// So many files of each partition the archive has at the end, or more if they would be too old.
const ARCHIVE_FILES: f64 = 8.0;
const ARCHIVE_AGE_MAX: Duration = Duration::from_secs(10);

/// How long the child may take to open its log, or to drain and close it.
const PATIENCE: Duration = Duration::from_secs(120);

const WATCH_EVERY: Duration = Duration::from_millis(50);

/// What `girok demo` takes.
#[derive(Args)]
#[command(after_help = HELP)]
pub struct Demo {
    /// How long to produce
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(2..=86_400))]
    seconds: u32,
    /// Produce the lines of a file (at most 10,000 a second, until it ends) instead of metrics
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Keep the temporary directory
    #[arg(long)]
    keep: bool,
}

/// Where things are in the directory of a demo.
struct Layout(PathBuf);

impl Layout {
    fn new(base: &Path) -> Self {
        Layout(base.into())
    }

    fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    fn journal(&self) -> PathBuf {
        self.0.join("acks.txt")
    }

    fn search(&self) -> PathBuf {
        self.0.join(search::GROUP)
    }

    fn archive(&self) -> PathBuf {
        self.0.join(archive::GROUP)
    }
}

impl Demo {
    pub fn run(&self, global: &Global, out: &mut Out) -> Result<()> {
        if let Some(file) = &self.file {
            fs::File::open(file).map_err(|e| Fail::usage(format!("--file {}: {e}", file.display())))?;
        }
        let base = match &global.dir {
            Some(dir) => dir.clone(),
            None => std::env::temp_dir().join(format!("girok-demo-{}", std::process::id())),
        };
        begin(&base)?;
        let stays = self.keep || global.dir.is_some();
        let done = self.play(&base).and_then(|audit| self.tell(&audit, out));
        match done {
            Ok(()) if stays => {
                eprintln!(
                    "everything is in {0}; look inside with `girok verify --dir {0}/log`",
                    base.display()
                );
                Ok(())
            }
            Ok(()) => fs::remove_dir_all(&base).map_err(Fail::io(format!("removing {}", base.display()))),
            Err(fail) => {
                eprintln!("girok: what there is stays in {}", base.display());
                Err(fail)
            }
        }
    }

    /// The demo itself, and the audit.
    fn play(&self, base: &Path) -> Result<Audit> {
        let layout = Layout::new(base);
        let length = Duration::from_secs(self.seconds.into());
        let archive_age_max = length.div_f64(ARCHIVE_FILES).min(ARCHIVE_AGE_MAX);
        let mut show = Show::new();
        let mut actor = Actor::start(base, self.file.as_deref(), archive_age_max)?;
        actor.wait_until_open(PATIENCE)?;
        show.begun = Instant::now();
        show.tell(&format!(
            "process {} runs the log, its producer and two readers in {}",
            actor.id(),
            base.display()
        ));

        show.watch(&mut actor, length.mul_f64(DOWN_AT))?;
        actor.send("down")?;
        show.tell("the sink of search fails from now on");

        // What was under way is committed before the first refusal.
        show.watch_for(&mut actor, length.mul_f64(UP_AT), |status| status.refused > 0)?;
        let before = actor.status();
        show.watch(&mut actor, length.mul_f64(UP_AT))?;
        let status = actor.status();
        actor.send("up")?;
        let since = |behind: fn(&Status) -> u64| {
            grouped((status.stored - behind(&status)).saturating_sub(before.stored - behind(&before)))
        };
        show.tell(&format!(
            "it is back, and refused {} bulks; meanwhile search committed {} records, archive {}",
            grouped(status.refused),
            since(|status| status.search),
            since(|status| status.archive)
        ));

        show.watch(&mut actor, length.mul_f64(KILL_AT))?;
        let status = actor.status();
        let killed = actor.kill()?;
        show.tell(&format!(
            "killed process {killed} with SIGKILL; search was {} records behind, archive {}",
            grouped(status.search),
            grouped(status.archive)
        ));
        let mut actor = Actor::start(base, self.file.as_deref(), archive_age_max)?;
        let opened = actor.wait_until_open(PATIENCE)?;
        show.tell(&format!(
            "process {} goes on: opened the log in {:.1} ms, and found {} records that were stored but not acknowledged",
            actor.id(),
            opened.ms,
            grouped(opened.found)
        ));

        show.watch(&mut actor, length)?;
        show.tell("the producer stops, the readers read to the end");
        actor.finish(PATIENCE, |status| show.look(status))?;
        show.bar.finish_and_clear();
        audit::audit(&layout)
    }

    /// The result, for people or for programs; an error if it is bad.
    fn tell(&self, audit: &Audit, out: &mut Out) -> Result<()> {
        for reader in &audit.readers {
            for problem in &reader.problems {
                eprintln!("{}: {problem}", reader.name);
            }
        }
        if out.json {
            out.object(&audit.to_json())?;
        } else {
            let (produced, found) = (audit.readers[0].tally.produced, audit.found);
            out.line(format!(
                "the ack journal has {} records, {} of them found in the log after the kill",
                grouped(produced),
                grouped(found)
            ))?;
            for reader in &audit.readers {
                out.line(summary(reader))?;
            }
            let rows = audit.readers.each_ref().map(|Reader { name, tally, .. }| {
                let counts = [tally.produced, tally.consumed, tally.duplicated, tally.lost];
                [name.to_string()].into_iter().chain(counts.map(grouped)).collect()
            });
            out.line("")?;
            out.table(&["reader", "produced", "consumed", "duplicated", "lost"], &rows)?;
        }
        if audit.is_good() {
            return Ok(());
        }
        let counts = audit.readers.each_ref().map(|Reader { name, tally, problems, .. }| {
            let Tally { lost, unknown, .. } = tally;
            format!("{name}: {lost} lost, {unknown} that nobody produced, {} other problems", problems.len())
        });
        Err(Fail::Found(format!("this must not happen. {}", counts.join("; "))))
    }
}

/// A new directory, or an empty one.
fn begin(base: &Path) -> Result<()> {
    let doing = || Fail::io(format!("making {}", base.display()));
    fs::create_dir_all(base).map_err(doing())?;
    if fs::read_dir(base).map_err(doing())?.next().is_some() {
        return Err(Fail::usage(format!(
            "{} is not empty: the demo counts what is in its directory, so give it a new one with --dir",
            base.display()
        )));
    }
    Ok(())
}

/// What else the audit saw.
fn summary(reader: &Reader) -> String {
    let (records, files) = (grouped(reader.tally.consumed), grouped(reader.files));
    let size = indicatif::HumanBytes(reader.bytes);
    let order = match reader.late {
        None => String::new(),
        Some(0) => ", all in the order of time".into(),
        Some(late) => format!(", {} of them behind a younger one", grouped(late)),
    };
    format!("{} has {records} records in {files} files of {size}{order}", reader.name)
}

/// What is told while it runs, on stderr: what happens, line by line, and how it stands if somebody is looking.
struct Show {
    begun: Instant,
    bar: ProgressBar,
    is_terminal: bool,
    /// When and how many records there were, for the rate.
    last: (Instant, u64),
    rate: f64,
}

impl Show {
    fn new() -> Show {
        let style = ProgressStyle::with_template("{spinner} {msg}").expect("the template is right");
        let bar = ProgressBar::new_spinner().with_style(style);
        let now = Instant::now();
        Show { begun: now, bar, is_terminal: std::io::stderr().is_terminal(), last: (now, 0), rate: 0.0 }
    }

    fn tell(&self, what: &str) {
        let line = format!("{:5.1} s  {what}", self.begun.elapsed().as_secs_f64());
        self.bar.suspend(|| eprintln!("{line}"));
    }

    fn look(&mut self, status: Status) {
        if !self.is_terminal {
            return;
        }
        let (since, before) = self.last;
        if since.elapsed() >= Duration::from_secs(1) {
            self.rate = status.stored.saturating_sub(before) as f64 / since.elapsed().as_secs_f64();
            self.last = (Instant::now(), status.stored);
        }
        self.bar.set_message(format!(
            "{} records, {} a second; not yet committed: search {}, archive {}",
            grouped(status.stored),
            grouped(self.rate as u64),
            grouped(status.search),
            grouped(status.archive)
        ));
        self.bar.tick();
    }

    /// Watches until so long after the beginning.
    fn watch(&mut self, actor: &mut Actor, until: Duration) -> Result<()> {
        self.watch_for(actor, until, |_| false)
    }

    /// The same, until something is seen.
    fn watch_for(&mut self, actor: &mut Actor, until: Duration, is_it: fn(&Status) -> bool) -> Result<()> {
        while self.begun.elapsed() < until && !is_it(&actor.status()) {
            actor.check()?;
            self.look(actor.status());
            std::thread::sleep(WATCH_EVERY.min(until.saturating_sub(self.begun.elapsed())));
        }
        actor.check()
    }
}
