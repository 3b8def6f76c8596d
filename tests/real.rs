//! The promise: what holds in the simulated world holds on a real disk, in a real process, when the real thing
//! misbehaves.
//!
//! A process is killed at random moments, disks fill up, files may not grow, descriptors run short, and a directory
//! is already taken. Scenes that need a process of their own run this very program again: [`other_side`] is the other
//! side, and the variable `GIROK_REAL_ROLE` tells it its role. A seed decides the moments and is printed;
//! `GIROK_SEED=N` repeats its choices, `GIROK_KILLS=N` kills more often. Where mounting is refused the scenes that
//! need a small disk say so and are skipped; with `GIROK_REQUIRE_ROOT_TESTS=1` they fail instead.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use girok::{Durability, Girok, LogConfig, ProducerRecord, RegionMode, TopicConfig};
use girok_engine::batch::{BatchBuilder, Codec};
use girok_engine::inspect::Directory;
use girok_engine::{Env, Error, FetchBounds, Log, Offset, Partition, Remedy, Timestamp, TopicPartition};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Op, Rng, SimWorld};

/// This program again, as the other side of a scene.
fn other(role: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["other_side", "--exact", "--ignored", "--nocapture"]);
    command.env("GIROK_REAL_ROLE", role).env("GIROK_REAL_DIR", dir).stdin(Stdio::null());
    command
}

/// Runs the other side to its end; what it said is shown if it failed.
fn succeeds(mut command: Command) -> String {
    let output = command.output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {said}", output.status);
    said
}

#[test]
#[ignore = "the other side of the scenes here, which start it themselves"]
fn other_side() {
    let Ok(role) = std::env::var("GIROK_REAL_ROLE") else {
        return println!("only a scene starts this; by itself it has nothing to do");
    };
    let dir = PathBuf::from(std::env::var("GIROK_REAL_DIR").expect("started by a scene"));
    match role.as_str() {
        "work" => work(&dir),
        "grow no further" => grow_no_further(&dir),
        "many partitions" => many_partitions(&dir),
        "hold" => hold(&dir),
        other => panic!("no such role: {other}"),
    }
}

/// A folder on the disk that holds the build, as real as the machine has one.
fn real_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |n| n.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn small_config(region: RegionMode) -> LogConfig {
    LogConfig { region, checkpoint_interval_ms: 100, write_buffer_bytes: 256 << 10, ..LogConfig::default() }
}

// ---------------------------------------------------------------------------------------------------------------
// Killed at any moment.

/// One record, by who made it: the round, the thread in it and its number there. Everything else follows from that.
type Made = (u64, u64, u64);

const TOPICS: [&str; 2] = ["synced", "written"];
const PARTITIONS: i32 = 3;

fn value_of((round, thread, n): Made) -> Vec<u8> {
    let mut value = format!("{round} {thread} {n} ").into_bytes();
    let rng = Rng::new(round << 40 | thread << 32 | n);
    // Sizes of one kind let ghosts line up; sizes of many kinds find everything else.
    let len = if rng.chance(0.5) { 64 } else { rng.below(600) as usize };
    value.extend(rng.bytes(len));
    value
}

fn made(value: &[u8]) -> Made {
    let mut words = value.splitn(4, |byte| *byte == b' ');
    let mut word = || -> u64 {
        let text = words.next().and_then(|word| std::str::from_utf8(word).ok());
        text.and_then(|text| text.parse().ok()).expect("a value that somebody made")
    };
    let made = (word(), word(), word());
    assert_eq!(value, value_of(made), "the record of {made:?} is as it was sent");
    made
}

/// The other side: producers and a consumer that never stop, and write down every ack after they got it.
fn work(dir: &Path) {
    let round = number("GIROK_REAL_ROUND", 0);
    let region = if round.is_multiple_of(2) { RegionMode::Auto } else { RegionMode::Written };
    let girok = Girok::builder().config(small_config(region)).open(dir.join("log")).unwrap();
    let journal = |name: &str| {
        let path = dir.join("journals").join(format!("{round:03}-{name}"));
        fs::File::options().create(true).append(true).open(path).unwrap()
    };
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (girok, mut journal) = (girok.clone(), journal(&format!("acks-{thread}")));
            scope.spawn(move || {
                let topic = TOPICS[thread as usize % 2];
                let producer = girok.producer().linger(Duration::from_millis(1)).build().unwrap();
                let rng = Rng::new(round << 8 | thread);
                for n in 0.. {
                    // A few at once, so that batches, not only records, are cut in two.
                    let first = n * 32;
                    let sent: Vec<_> = (first..first + rng.between(1, 32))
                        .map(|n| {
                            let made = (round, thread, n);
                            let partition = rng.below(PARTITIONS as u64) as i32;
                            let record = ProducerRecord::new(topic, value_of(made)).partition(partition);
                            (made, producer.send(record).unwrap())
                        })
                        .collect();
                    let mut lines = String::new();
                    for ((round, thread, n), delivery) in sent {
                        let at = delivery.wait().unwrap();
                        assert!(topic != "synced" || at.durability == Durability::Synced);
                        lines += &format!("{topic} {} {} {round} {thread} {n}\n", at.partition, at.offset);
                    }
                    journal.write_all(lines.as_bytes()).unwrap();
                }
            });
        }
        let mut journal = journal("commits");
        let mut consumer = girok.consumer().group_id("readers").enable_auto_commit(false).build().unwrap();
        consumer.assign(&partitions()).unwrap();
        loop {
            if consumer.poll(Duration::from_millis(20)).unwrap().is_empty() {
                continue;
            }
            let mut lines = String::new();
            for receipt in consumer.commit().unwrap() {
                let (tp, offset) = (&receipt.partition, receipt.committed.offset);
                lines += &format!("{} {} {offset}\n", tp.topic(), tp.partition());
            }
            journal.write_all(lines.as_bytes()).unwrap();
        }
    });
}

fn partitions() -> Vec<TopicPartition> {
    let each =
        |topic: &&'static str| (0..PARTITIONS).map(|n| TopicPartition::new(*topic, n)).collect::<Vec<_>>();
    TOPICS.iter().flat_map(each).collect()
}

/// What the dead were told, and what was seen of them before.
#[derive(Default)]
struct Promises {
    /// Acked records that nobody has looked for yet.
    acked: BTreeMap<TopicPartition, BTreeMap<i64, Made>>,
    committed: BTreeMap<TopicPartition, i64>,
    /// What the partitions held when they were last looked at.
    held: BTreeMap<TopicPartition, Vec<Made>>,
    read: BTreeSet<PathBuf>,
    records: u64,
    commits: u64,
}

impl Promises {
    /// Reads the journals that nobody has read. A last line without an end was never finished: no promise.
    fn listen(&mut self, journals: &Path) {
        for entry in fs::read_dir(journals).unwrap() {
            let path = entry.unwrap().path();
            if !self.read.insert(path.clone()) {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
                let (topic, rest) = line.trim().split_once(' ').unwrap();
                let numbers: Vec<i64> = rest.split(' ').map(|word| word.parse().unwrap()).collect();
                let tp = TopicPartition::new(topic, numbers[0] as i32);
                match numbers[1..] {
                    [offset, round, thread, n] => {
                        let made = (round as u64, thread as u64, n as u64);
                        let before = self.acked.entry(tp).or_default().insert(offset, made);
                        assert_eq!(before, None, "an offset is given once");
                        self.records += 1;
                    }
                    [offset] => {
                        let to = self.committed.entry(tp).or_default();
                        *to = offset.max(*to);
                        self.commits += 1;
                    }
                    _ => panic!("{line}"),
                }
            }
        }
    }

    /// Opens the directory of the dead and holds what is there against what was promised.
    fn hold_against(&mut self, dir: &Path) {
        let girok = Girok::open(dir).unwrap();
        let report = girok.recovery().report();
        assert!(report.refused.is_empty(), "{:?}", report.refused);
        assert!(girok.recovery().clamped().is_empty(), "no commit was past the end");
        for tp in partitions() {
            let partition = girok.log().partition(&tp).unwrap();
            let end = partition.end_offset().get();
            assert_eq!(partition.start_offset(), Offset::ZERO);
            let known = self.held.entry(tp.clone()).or_default();
            assert!(end >= known.len() as i64, "{tp}: what was once seen stays");
            let mut seen = 0;
            let mut last: BTreeMap<(u64, u64), u64> = BTreeMap::new();
            let mut reader = partition.reader(Offset::ZERO);
            loop {
                let view = reader.read(&FetchBounds::default()).unwrap();
                if view.is_empty() {
                    break;
                }
                for batch in view.batches() {
                    for record in batch.unwrap().records() {
                        let record = record.unwrap();
                        assert_eq!(record.offset().get(), seen, "{tp}: no gap, nothing twice");
                        let made = made(record.value().unwrap());
                        match known.get(seen as usize) {
                            Some(before) => {
                                assert_eq!(*before, made, "{tp}: offset {seen} was another before")
                            }
                            None => known.push(made),
                        }
                        let newer =
                            last.insert((made.0, made.1), made.2).is_none_or(|before| before < made.2);
                        assert!(newer, "{tp}: one producer's records keep their order, {made:?}");
                        seen += 1;
                    }
                }
            }
            assert_eq!(seen, end, "{tp}: all that is there can be read");
            for (offset, made) in self.acked.remove(&tp).unwrap_or_default() {
                assert_eq!(
                    known.get(offset as usize),
                    Some(&made),
                    "{tp}: acked at offset {offset} of {end}"
                );
            }
        }
        let stored = girok.admin().list_group_offsets("readers").unwrap();
        for tp in partitions() {
            let stored = stored.get(&tp).map_or(0, |stored| stored.offset.get());
            let acked = self.committed.get(&tp).copied().unwrap_or(0);
            assert!(stored >= acked, "{tp}: committed {acked}, stored {stored}");
            let end = self.held[&tp].len() as i64;
            assert!(stored <= end, "{tp}: committed {stored}, past the end {end}");
        }
        girok.close().unwrap();
    }
}

/// A child that does not outlive a failed scene.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Fifty times: whatever was acked, `Written` or `Synced`, record or commit, is there after SIGKILL. Sometimes the
/// next one is killed before anybody has looked, sometimes while it is still recovering from the last time.
#[test]
fn killed_fifty_times() {
    let seed = number("GIROK_SEED", u64::from(std::process::id()));
    let kills = number("GIROK_KILLS", 50);
    println!("GIROK_SEED={seed}, {kills} kills");
    let rng = Rng::new(seed);
    let dir = real_dir();
    let (log, journals) = (dir.path().join("log"), dir.path().join("journals"));
    fs::create_dir(&journals).unwrap();
    let girok = Girok::open(&log).unwrap();
    for (topic, durability) in TOPICS.iter().zip([Durability::Synced, Durability::Written]) {
        // Small segments: rolls are moments, too.
        let config = TopicConfig {
            durability,
            segment_bytes: 256 << 10,
            retention_ms: None,
            ..TopicConfig::default()
        };
        girok.admin().create_topic(topic, PARTITIONS, config).unwrap();
    }
    girok.close().unwrap();
    drop(girok);

    let mut promises = Promises::default();
    for round in 0..kills {
        let mut command = other("work", dir.path());
        command.env("GIROK_REAL_ROUND", round.to_string()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut worker = Worker(command.spawn().unwrap());
        if rng.chance(0.8) {
            // Until it works, and then for some time.
            let path = journals.join(format!("{round:03}-acks-{}", rng.below(4)));
            let patience = Instant::now() + Duration::from_secs(60);
            while fs::metadata(&path).is_ok_and(|file| file.len() == 0) || !path.exists() {
                if let Some(status) = worker.0.try_wait().unwrap() {
                    let mut said = String::new();
                    let _ = std::io::Read::read_to_string(&mut worker.0.stderr.take().unwrap(), &mut said);
                    panic!("round {round}: it ended by itself, {status}: {said}");
                }
                assert!(Instant::now() < patience, "round {round}: nothing was acked in a minute");
                std::thread::sleep(Duration::from_millis(2));
            }
            std::thread::sleep(Duration::from_micros(rng.below(120_000)));
        } else {
            // While it starts, opens and recovers.
            std::thread::sleep(Duration::from_micros(rng.below(60_000)));
        }
        worker.0.kill().unwrap();
        let status = worker.0.wait().unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(9),
            "round {round}: {status}"
        );
        promises.listen(&journals);
        if rng.chance(0.7) || round + 1 == kills {
            promises.hold_against(&log);
        }
    }
    println!("{} records and {} commits were acked", promises.records, promises.commits);
    assert!(
        promises.records > 50 * kills && promises.commits > kills,
        "too quiet to prove a thing: {} records, {} commits",
        promises.records,
        promises.commits
    );
}

// ---------------------------------------------------------------------------------------------------------------
// No room.

/// A small disk of its own, gone with this.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None`, with a word about it, where mounting is refused.
    fn mount(scene: &str, options: &str) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let options = CString::new(options).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        match rustix::mount::mount("tmpfs", dir.path(), "tmpfs", flags, Some(options.as_c_str())) {
            Ok(()) => Some(SmallDisk(dir)),
            Err(refused) => {
                let why = format!("{scene}: mounting a tmpfs is refused here ({refused})");
                assert!(std::env::var_os("GIROK_REQUIRE_ROOT_TESTS").is_none(), "{why}");
                println!("SKIPPED {why}; run it as root to see it");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

/// A batch of one record that tells its offset.
fn batch(
    builder: &mut BatchBuilder,
    offset: i64,
    bytes: usize,
) -> Result<girok_engine::batch::ValidBatch<'_>, Error> {
    let mut value = offset.to_be_bytes().to_vec();
    value.resize(bytes.max(8), offset as u8);
    builder.append(Timestamp::from_millis(offset), None, Some(&value), &[])?;
    builder.finish()
}

/// Appends until it is refused; why, and where the partition ends then.
fn fill(partition: &Partition, bytes: usize) -> (Error, Offset) {
    let mut builder = BatchBuilder::new(Codec::None);
    loop {
        let offset = partition.end_offset();
        match partition.append(&batch(&mut builder, offset.get(), bytes).unwrap()) {
            Ok(appended) => assert_eq!(appended.base_offset, offset),
            Err(error) => {
                assert_eq!(partition.end_offset(), offset, "a refused batch has no offset");
                return (error, offset);
            }
        }
        builder.clear();
    }
}

fn append_one(partition: &Partition) -> Result<Offset, Error> {
    let mut builder = BatchBuilder::new(Codec::None);
    let offset = partition.end_offset();
    partition.append(&batch(&mut builder, offset.get(), 100)?).map(|appended| appended.base_offset)
}

/// Everything from the start to the end is what was appended; how many records.
fn read_all(partition: &Partition) -> i64 {
    let mut next = partition.start_offset().get();
    let from = next;
    let mut reader = partition.reader(partition.start_offset());
    loop {
        let view = reader.read(&FetchBounds::default()).unwrap();
        if view.is_empty() {
            break;
        }
        for batch in view.batches() {
            let batch = batch.unwrap();
            batch.check_crc().unwrap();
            for record in batch.records() {
                let record = record.unwrap();
                if record.offset() < view.from() {
                    continue;
                }
                assert_eq!(record.offset().get(), next);
                let value = record.value().unwrap();
                assert_eq!(value[..8], next.to_be_bytes());
                assert!(value[8..].iter().all(|byte| *byte == next as u8));
                next += 1;
            }
        }
    }
    assert_eq!(next, partition.high_watermark().get(), "to the end of what is visible");
    next - from
}

fn is_no_room(error: &Error, what: &Path) {
    assert!(matches!(error, Error::NoRoom { .. }), "{error}");
    assert_eq!(error.remedy(), Remedy::MakeRoom);
    let text = error.to_string();
    assert!(text.contains(what.to_str().unwrap()) && text.contains("free some space"), "{text}");
}

/// A disk of 64 MiB fills up: appends are refused with an error that says so, reads go on, and appends resume when a
/// file is removed or records are deleted. Nothing ends in SIGBUS, also with stores straight into mappings.
#[test]
fn a_disk_fills_up() {
    for region in [RegionMode::Mapped, RegionMode::Written] {
        let Some(disk) = SmallDisk::mount("a_disk_fills_up", "size=64m") else { return };
        let dir = disk.path().join("log");
        let filler = disk.path().join("filler");
        fs::write(&filler, vec![1; 8 << 20]).unwrap();
        let (log, _) = Log::open(Env::system(), &dir, small_config(region)).unwrap();
        let config = TopicConfig { segment_bytes: 4 << 20, retention_ms: None, ..TopicConfig::default() };
        log.create_topic("t", 1, config.clone()).unwrap();
        let partition = log.partition(&TopicPartition::new("t", 0)).unwrap();

        let (error, end) = fill(&partition, 60_000);
        is_no_room(&error, &dir.join("t-0"));
        assert!(end.get() * 60_000 > 48 << 20, "{region:?}: most of the room was used, {end}");
        partition.sync().unwrap();
        assert_eq!(read_all(&partition), end.get(), "reads go on");
        // Chores meet the full disk, too, and may say so, but break nothing.
        if let Err(error) = log.step(log.env().clock.now()) {
            assert!(matches!(error, Error::NoRoom { .. }), "{error}");
        }

        fs::remove_file(&filler).unwrap();
        let (error, resumed) = fill(&partition, 60_000);
        is_no_room(&error, &dir);
        assert!(resumed.get() - end.get() > 100, "{region:?}: a removed file makes room: {end} to {resumed}");
        partition.sync().unwrap();

        // Down to the last byte.
        let (error, full) = fill(&partition, 100);
        is_no_room(&error, &dir);
        partition.sync().unwrap();
        assert_eq!(read_all(&partition), full.get());
        let half = Offset::new(full.get() / 2);
        assert_eq!(partition.delete_records(half).unwrap(), half);
        let (error, again) = fill(&partition, 60_000);
        is_no_room(&error, &dir);
        assert!(again.get() - full.get() > 300, "{region:?}: deleted records make room: {full} to {again}");
        partition.sync().unwrap();
        assert_eq!(read_all(&partition), again.get() - half.get());

        // Closing writes a little. If there is no room for that, it says so, and the next open looks for itself.
        if let Err(error) = log.close() {
            assert!(matches!(error, Error::NoRoom { .. }), "{error}");
        }
        drop((partition, log));
        let opened = Log::open(Env::system(), &dir, small_config(region));
        let (log, report) = opened.expect("a full disk can be opened, if only to delete from");
        assert!(report.refused.is_empty() && report.cut().count() == 0, "{report:?}");
        let partition = log.partition(&TopicPartition::new("t", 0)).unwrap();
        assert_eq!(partition.end_offset(), again);
        assert_eq!(read_all(&partition), again.get() - half.get());
        let most = Offset::new(again.get() - 5);
        assert_eq!(partition.delete_records(most).unwrap(), most);
        assert_eq!(append_one(&partition).unwrap(), again);
        partition.sync().unwrap();
        assert_eq!(read_all(&partition), 6);
        log.close().unwrap();
        drop((partition, log));
        drop(disk);
    }
}

/// The other side: files of this process may not grow past 1 MiB, and the signal that says so is ignored.
fn grow_no_further(dir: &Path) {
    let limit = Rlimit { current: Some(1 << 20), maximum: Some(1 << 20) };
    setrlimit(Resource::Fsize, limit).unwrap();
    for region in [RegionMode::Auto, RegionMode::Written] {
        let dir = dir.join(format!("{region:?}"));
        let (log, _) = Log::open(Env::system(), &dir, small_config(region)).unwrap();
        for durability in [Durability::Written, Durability::Synced] {
            let topic = durability.to_string();
            log.create_topic(
                &topic,
                1,
                TopicConfig { durability, retention_ms: None, ..TopicConfig::default() },
            )
            .unwrap();
            let partition = log.partition(&TopicPartition::new(topic.as_str(), 0)).unwrap();
            let (error, end) = fill(&partition, 10_000);
            let text = error.to_string();
            let file = dir.join(format!("{topic}-0/00000000000000000000.log"));
            assert!(text.contains(file.to_str().unwrap()), "{text}");
            assert!(text.contains("File too large") && text.contains("ulimit -f"), "{text}");
            assert!(end.get() > 90, "most of the mebibyte was used: {end}");
            // Asked again, the answer is the same, and the chores come to no harm.
            let (again, _) = fill(&partition, 10_000);
            assert_eq!(again.to_string(), text);
            let _ = log.step(log.env().clock.now());
            partition.sync().unwrap();
            assert_eq!(read_all(&partition), end.get(), "reads go on");
        }
        log.close().unwrap();
    }
}

/// `RLIMIT_FSIZE`, for real: a file that cannot grow is an error that says what to raise, and nothing is lost.
#[test]
fn a_file_may_not_grow() {
    let dir = real_dir();
    let this = other("grow no further", dir.path());
    // An ignored signal stays ignored in the program that is executed; a handler would not.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(this.get_program()).args(this.get_args());
    command.envs(this.get_envs().filter_map(|(name, value)| Some((name, value?))));
    succeeds(command);

    for region in ["Auto", "Written"] {
        let (log, report) = Log::open(Env::system(), dir.path().join(region), LogConfig::default()).unwrap();
        assert!(report.clean, "{report:?}");
        for topic in ["written-0", "synced-0"] {
            let partition = log.partition(&topic.parse().unwrap()).unwrap();
            let end = partition.end_offset();
            assert!(end.get() > 90);
            assert_eq!(read_all(&partition), end.get());
            assert_eq!(append_one(&partition).unwrap(), end, "without the limit it goes on");
        }
        log.close().unwrap();
    }
}

/// A disk that lets nothing be made or grown any more (`EROFS`, `EPERM`, `EFBIG`): the error names the file and what
/// to do, what is there can be read, and when the disk has come to its senses appends go on without a gap.
#[test]
fn nothing_can_be_made_or_grown() {
    let tp = TopicPartition::new("t", 0);
    for (errno, advice) in [(Errno::ROFS, "writable"), (Errno::PERM, "may"), (Errno::FBIG, "ulimit -f")] {
        for region in [RegionMode::Mapped, RegionMode::Written] {
            for durability in [Durability::Written, Durability::Synced] {
                let world = SimWorld::from_seed(errno.raw_os_error() as u64);
                let config = LogConfig {
                    growth_bytes_min: 4096,
                    growth_bytes_max: 8192,
                    write_buffer_bytes: 16 << 10,
                    region,
                    ..LogConfig::default()
                };
                let open = || Log::open(world.env(), "/log", config.clone()).unwrap();
                let (log, _) = open();
                let topic = TopicConfig {
                    durability,
                    segment_bytes: 32 << 10,
                    retention_ms: None,
                    ..TopicConfig::default()
                };
                log.create_topic("t", 1, topic.clone()).unwrap();
                let partition = log.partition(&tp).unwrap();
                append_one(&partition).unwrap();

                // A file that cannot grow.
                world.disk.refuse_growth(Some(errno));
                let (error, end) = fill(&partition, 700);
                let text = error.to_string();
                assert!(text.contains("/log/t-0/00000000000000000000.log"), "{text}");
                assert!(text.contains(advice), "{text}");
                partition.sync().unwrap();
                assert_eq!(read_all(&partition), end.get());
                let error = log.create_topic("other", 1, topic.clone()).unwrap_err().to_string();
                assert!(error.contains("/log/girok.meta") && error.contains(advice), "{error}");
                assert!(log.topic("other").is_err(), "a refused topic is no topic");
                world.disk.refuse_growth(None);
                assert_eq!(append_one(&partition).unwrap(), end);

                // A segment that cannot be made.
                while partition.bytes() + 800 <= 32 << 10 {
                    append_one(&partition).unwrap();
                }
                world.disk.refuse_growth(Some(errno));
                let (error, end) = fill(&partition, 900);
                let text = error.to_string();
                let next = format!("/log/t-0/{:020}.log", end.get());
                assert!(text.contains(&next) && text.contains(advice), "{next}: {text}");
                partition.sync().unwrap();
                assert_eq!(read_all(&partition), end.get());
                world.disk.refuse_growth(None);
                assert_eq!(append_one(&partition).unwrap(), end);
                assert_eq!(partition.segments(), 2);

                // An active segment that cannot be opened again.
                partition.sync().unwrap();
                log.close().unwrap();
                drop((partition, log));
                let (log, report) = open();
                assert!(report.clean);
                let partition = log.partition(&tp).unwrap();
                let end = partition.end_offset();
                world.disk.fail_nth_of(Op::Open, 1, errno);
                let text = append_one(&partition).unwrap_err().to_string();
                assert!(text.contains("/log/t-0/0000") && text.contains(advice), "{text}");
                assert_eq!(read_all(&partition), end.get());
                assert_eq!(append_one(&partition).unwrap(), end);
                log.close().unwrap();
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Many, with little.

/// The other side: 1,024 descriptors.
fn many_partitions(dir: &Path) {
    const MANY: i32 = 10_000;
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(1024), maximum: hard }).unwrap();
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let mapped = || {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().filter(|line| line.contains("/many-")).count()
    };
    let begun = Instant::now();
    let config = LogConfig { idle_ms: 1, growth_bytes_min: 4096, ..LogConfig::default() };
    let (log, _) = Log::open(Env::system(), dir, config).unwrap();
    let topic = TopicConfig { durability: Durability::Written, retention_ms: None, ..TopicConfig::default() };
    log.create_topic("many", MANY, topic).unwrap();
    let partitions: Vec<_> =
        (0..MANY).map(|n| log.partition(&TopicPartition::new("many", n)).unwrap()).collect();
    assert!(descriptors() < 50, "a partition nobody writes to has no descriptor: {}", descriptors());
    println!("opened: {:?}", begun.elapsed());

    let mut most = 0;
    for (n, partition) in partitions.iter().enumerate() {
        assert_eq!(append_one(partition).unwrap(), Offset::ZERO);
        if n % 100 == 0 {
            most = most.max(descriptors());
        }
    }
    println!("appended: {:?}, up to {most} descriptors", begun.elapsed());
    assert!((100..=600).contains(&most), "at most half of 1,024 and a few: {most}");
    for (n, partition) in partitions.iter().enumerate() {
        assert_eq!(read_all(partition), 1, "{}", partition.name());
        if n % 500 == 0 {
            log.step(log.env().clock.now()).unwrap();
            assert!(mapped() <= 12_000, "mappings are bounded: {}", mapped());
            most = most.max(descriptors());
        }
    }
    println!("read: {:?}", begun.elapsed());
    assert!(most <= 600, "{most}");

    // Nobody does anything for a while.
    let idle = || {
        log.step(log.env().clock.now()).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        let stats = log.stats();
        (stats.regions, stats.mappings)
    };
    let patience = Instant::now() + Duration::from_secs(60);
    while idle() != (0, 0) {
        assert!(Instant::now() < patience, "an idle partition holds something: {:?}", log.stats());
    }
    assert_eq!(mapped(), 0, "no mapping of a segment is left");
    assert!(descriptors() < 50, "nor a descriptor: {}", descriptors());
    println!("idle: {:?}", begun.elapsed());

    // And all of them are as good as before.
    for partition in partitions.iter().step_by(97) {
        assert_eq!(append_one(partition).unwrap(), Offset::new(1));
        assert_eq!(read_all(partition), 2);
    }
    log.close().unwrap();
    println!("closed: {:?}", begun.elapsed());
    assert!(descriptors() < 50);
    drop((partitions, log));
    let (log, report) = Log::open(Env::system(), dir, LogConfig::default()).unwrap();
    assert!(report.clean && report.partitions.is_empty(), "a clean close is not looked into");
    assert_eq!(log.partition(&TopicPartition::new("many", 97)).unwrap().end_offset(), Offset::new(2));
    log.close().unwrap();
    println!("opened again: {:?}", begun.elapsed());
}

/// Ten thousand partitions in one directory, with 1,024 descriptors for the whole process: all can be appended to
/// and read, and when nobody does they hold no descriptor, no region and no mapping.
#[test]
fn ten_thousand_partitions_share_a_thousand_descriptors() {
    // What is counted here does not depend on the disk, and a real one would sync for minutes: in memory, if there is
    // room for it.
    let memory = Path::new("/dev/shm");
    let has_room = rustix::fs::statvfs(memory).is_ok_and(|stat| stat.f_bavail * stat.f_frsize > 1 << 30);
    let dir = if has_room { tempfile::tempdir_in(memory).unwrap() } else { real_dir() };
    println!("{}", succeeds(other("many partitions", dir.path())));
}

// ---------------------------------------------------------------------------------------------------------------
// Taken.

/// The other side: has the directory until it is killed.
fn hold(dir: &Path) {
    let (log, _) = Log::open(Env::system(), dir.join("log"), LogConfig::default()).unwrap();
    log.create_topic("t", 1, TopicConfig::default()).unwrap();
    let partition = log.partition(&TopicPartition::new("t", 0)).unwrap();
    for _ in 0..10 {
        append_one(&partition).unwrap();
    }
    fs::write(dir.join("ready.tmp"), "").unwrap();
    fs::rename(dir.join("ready.tmp"), dir.join("ready")).unwrap();
    loop {
        std::thread::park();
    }
}

/// A directory is open in one process at a time: the second opener is told who has it, and may look at it without
/// opening it. When the holder dies the directory is free.
#[test]
fn a_directory_in_use_names_its_holder() {
    let dir = real_dir();
    let log = dir.path().join("log");
    let mut holder = Worker(other("hold", dir.path()).stdout(Stdio::null()).spawn().unwrap());
    let patience = Instant::now() + Duration::from_secs(60);
    while !dir.path().join("ready").exists() {
        assert!(holder.0.try_wait().unwrap().is_none() && Instant::now() < patience, "it never got ready");
        std::thread::sleep(Duration::from_millis(5));
    }

    let error = Log::open(Env::system(), &log, LogConfig::default()).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    assert_eq!(error.remedy(), Remedy::TryAgain);
    let text = error.to_string();
    assert!(text.contains(&format!("process {} (real-", holder.0.id())), "{text}");
    assert!(text.contains(log.to_str().unwrap()), "{text}");
    let error = Girok::open(&log).unwrap_err().to_string();
    assert!(error.contains(&format!("process {} ", holder.0.id())), "the facade says it, too: {error}");

    // Reading beside it needs no lock and changes nothing.
    let beside = Directory::open(&log).unwrap();
    let partition = &beside.partitions().unwrap()[0];
    let mut batches = partition.segments().unwrap()[0].batches().unwrap();
    let mut count = 0;
    while let Some(found) = batches.next().unwrap() {
        assert_eq!(found.batch.header().base_offset, Offset::new(count));
        found.batch.check_crc().unwrap();
        count += 1;
    }
    assert_eq!(count, 10);

    holder.0.kill().unwrap();
    holder.0.wait().unwrap();
    let (log, report) = Log::open(Env::system(), &log, LogConfig::default()).unwrap();
    assert!(!report.clean, "it was killed");
    assert_eq!(read_all(&log.partition(&TopicPartition::new("t", 0)).unwrap()), 10);
    assert!(log.env().disk.counters().syncs > 0, "what was kept is synced before it is read");
    log.close().unwrap();
}
