//! The promise: a checkpoint taken while everybody goes on opens like a directory that was closed cleanly, holds what
//! was there when it was begun, and no commit in it points past its records; and the two never change one another.

mod support;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use girok_engine::batch::{BatchBuilder, Codec};
use girok_engine::disk::{Disk, File, Kind, Open, SystemDisk, read_file, write_all_at};
use girok_engine::{
    CleanupPolicy, Durability, Env, Error, FetchBounds, Log, LogConfig, MemoryDisk, Offset, Partition,
    RegionMode, SeededChance, Timestamp, TopicConfig, TopicPartition,
};
use rustix::io::Errno;
use support::{Op, SimClock, SimWorld};

fn append(partition: &Partition, text: &str) -> Offset {
    let mut batch = BatchBuilder::new(Codec::None);
    batch
        .append(Timestamp::from_millis(1_700_000_000_000), Some(b"key"), Some(text.as_bytes()), &[])
        .unwrap();
    partition.append(&batch.finish().unwrap()).unwrap().base_offset
}

/// Every value with its offset.
fn read(partition: &Partition) -> Vec<(i64, String)> {
    let mut reader = partition.reader(partition.start_offset());
    let mut all = Vec::new();
    loop {
        let view = reader.read(&FetchBounds::default()).unwrap();
        if view.is_empty() {
            return all;
        }
        for batch in view.batches() {
            for record in batch.unwrap().records() {
                let record = record.unwrap();
                let value = String::from_utf8(record.value().unwrap().to_vec()).unwrap();
                all.push((record.offset().get(), value));
            }
        }
    }
}

fn small() -> TopicConfig {
    TopicConfig { segment_bytes: 4096, retention_ms: None, ..TopicConfig::default() }
}

fn tp(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

fn memory() -> (Arc<MemoryDisk>, Env) {
    let disk = Arc::new(MemoryDisk::new());
    let clock = Arc::new(SimClock::new());
    (disk.clone(), Env { disk, clock, chance: Arc::new(SeededChance::new(1)) })
}

/// Everything below a folder, byte for byte.
fn contents(disk: &dyn Disk, dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in disk.list(dir).unwrap() {
        let path = dir.join(&entry.name);
        match entry.kind {
            Kind::Folder => all.extend(contents(disk, &path)),
            _ => all.push((path.clone(), read_file(disk, &path, 1 << 30).unwrap())),
        }
    }
    all
}

/// A quiet directory: the copy is the same, opens without reading a log, shares what is sealed, and goes its own way.
#[test]
fn a_copy_is_the_same_and_then_its_own() {
    let (disk, env) = memory();
    let (log, _) = Log::open(env.clone(), "/log", LogConfig::default()).unwrap();
    log.create_topic("orders", 3, small()).unwrap();
    log.create_internal_topic("__consumer_offsets", 1, small()).unwrap();
    let orders = log.partition(&tp("orders", 0)).unwrap();
    for n in 0..100 {
        append(&orders, &format!("{n} ").repeat(50));
    }
    append(&log.partition(&tp("orders", 1)).unwrap(), "alone");
    orders.delete_records(Offset::new(30)).unwrap();
    orders.sync().unwrap();
    // The coordinator's file goes along, whatever is in it.
    let state = disk.open(Path::new("/log/girok-groups.state"), Open::CreateNew).unwrap();
    write_all_at(&*state, &[7; 3 << 20], 0).unwrap();

    let report = log.checkpoint("/copy").unwrap();
    let copied = read_file(&*disk, Path::new("/copy/girok-groups.state"), 4 << 20).unwrap();
    assert!(copied == [7; 3 << 20]);
    assert_eq!((report.topics, report.partitions, report.segments_copied), (2, 4, 2));
    assert_eq!(report.segments_linked, orders.segments() - 1);
    let first = disk.list(Path::new("/copy/orders-0")).unwrap();
    let first = first.iter().find(|entry| entry.name.ends_with(".log")).unwrap();
    let shared = disk.open(&Path::new("/copy/orders-0").join(&first.name), Open::Read).unwrap();
    assert_eq!(shared.links().unwrap(), 2, "a sealed segment is shared");

    let before = contents(&*disk, Path::new("/log"));
    let (copy, opened) = Log::open(env.clone(), "/copy", LogConfig::default()).unwrap();
    assert!(opened.clean && opened.partitions.is_empty() && opened.notes.is_empty(), "{opened:?}");
    let copied = copy.partition(&tp("orders", 0)).unwrap();
    assert_eq!(copied.start_offset(), Offset::new(30));
    assert_eq!(read(&copied), read(&orders));
    assert_eq!(read(&copy.partition(&tp("orders", 1)).unwrap()), [(0, "alone".into())]);
    assert_eq!(copied.topic_id(), orders.topic_id());
    assert_eq!(copy.topic("orders").unwrap().config, log.topic("orders").unwrap().config);

    // The copy lives on: appends, rolls, deletes. The original does not notice.
    for n in 0..100 {
        append(&copied, &format!("copy {n} ").repeat(50));
    }
    copied.delete_records(Offset::new(60)).unwrap();
    copy.delete_topic("__consumer_offsets").unwrap();
    copy.close().unwrap();
    assert!(contents(&*disk, Path::new("/log")) == before, "the original has changed");

    // And the other way round.
    let before = contents(&*disk, Path::new("/copy"));
    for n in 0..100 {
        append(&orders, &format!("original {n} ").repeat(50));
    }
    orders.delete_records(Offset::new(150)).unwrap();
    log.close().unwrap();
    assert!(contents(&*disk, Path::new("/copy")) == before, "the copy has changed");
}

/// Producers, commits, retention and compaction run while checkpoint after checkpoint is taken. Each opens clean and
/// holds a beginning of every partition, at least as long as it was when the checkpoint began.
#[test]
fn nobody_stops_for_a_checkpoint() {
    for region in [RegionMode::Auto, RegionMode::Written] {
        let env = Env::in_memory();
        let config = LogConfig { region, retention_check_ms: 5, ..LogConfig::default() };
        let (log, _) = Log::open(env.clone(), "/log", config.clone()).unwrap();
        let written = TopicConfig { durability: Durability::Written, retention_ms: None, ..small() };
        log.create_topic("orders", 2, written.clone()).unwrap();
        let compacted = TopicConfig { cleanup_policy: CleanupPolicy::Compact, ..written.clone() };
        log.create_internal_topic("__consumer_offsets", 1, compacted).unwrap();
        log.create_topic("short", 1, TopicConfig { retention_bytes: Some(20_000), ..written }).unwrap();
        let commits = log.partition(&tp("__consumer_offsets", 0)).unwrap();
        let done = AtomicBool::new(false);
        let committed = AtomicU64::new(0);
        /// Whatever happens, the others come to an end.
        struct Finally<'a>(&'a AtomicBool);
        impl Drop for Finally<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        std::thread::scope(|scope| {
            let _finally = Finally(&done);
            for number in 0..2 {
                let (log, done) = (&log, &done);
                scope.spawn(move || {
                    let orders = log.partition(&tp("orders", number)).unwrap();
                    let short = log.partition(&tp("short", 0)).unwrap();
                    let mut n = 0;
                    while !done.load(Ordering::Relaxed) {
                        append(&orders, &format!("{n}"));
                        append(&short, &"s".repeat(200));
                        n += 1;
                        if n % 16 == 0 {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                    }
                });
            }
            scope.spawn(|| {
                // A consumer commits where it is: what it has seen.
                let orders = log.partition(&tp("orders", 0)).unwrap();
                while !done.load(Ordering::Relaxed) {
                    append(&commits, &format!("{}", orders.high_watermark()));
                    if committed.fetch_add(1, Ordering::Relaxed).is_multiple_of(8) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            });
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    log.step(log.env().clock.now()).unwrap();
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            for round in 0..12 {
                std::thread::sleep(Duration::from_millis(10));
                let ends: Vec<_> = (0..2)
                    .map(|n| log.partition(&tp("orders", n)).unwrap().high_watermark())
                    .chain([commits.high_watermark()])
                    .collect();
                let to = format!("/copy {round}");
                log.checkpoint(&to).unwrap();
                let (copy, report) = Log::open(env.clone(), &to, config.clone()).unwrap();
                assert!(
                    report.clean && report.partitions.is_empty() && report.refused.is_empty(),
                    "{report:?}"
                );
                for number in 0..2 {
                    let copied = copy.partition(&tp("orders", number)).unwrap();
                    let records = read(&copied);
                    let end = ends[number as usize];
                    assert_eq!(copied.high_watermark(), copied.end_offset());
                    assert!(copied.end_offset() >= end, "round {round}: {copied:?} ends before {end}");
                    assert_eq!(records.len() as i64, copied.end_offset().get(), "round {round}, {region:?}");
                    for (at, (offset, value)) in records.iter().enumerate() {
                        assert_eq!((*offset, value.as_str()), (at as i64, format!("{at}").as_str()));
                    }
                }
                let end = copy.partition(&tp("orders", 0)).unwrap().end_offset();
                let in_copy = copy.partition(&tp("__consumer_offsets", 0)).unwrap();
                assert!(in_copy.end_offset() >= ends[2]);
                for (_, commit) in read(&in_copy) {
                    let commit = Offset::new(commit.parse().unwrap());
                    assert!(commit <= end, "round {round}: committed {commit}, and the copy ends at {end}");
                }
                read(&copy.partition(&tp("short", 0)).unwrap());
                copy.close().unwrap();
            }
        });
        assert!(committed.load(Ordering::Relaxed) > 100);
        log.close().unwrap();
    }
}

/// A power cut after the checkpoint returned takes nothing from it; one before leaves no folder of that name.
#[test]
fn it_is_there_whole_or_not_at_all() {
    let scene = || {
        let world = SimWorld::from_seed(11);
        let (log, _) = Log::open(world.env(), "/log", LogConfig::default()).unwrap();
        log.create_topic("orders", 2, small()).unwrap();
        let orders = log.partition(&tp("orders", 0)).unwrap();
        for n in 0..60 {
            append(&orders, &format!("{n} ").repeat(40));
        }
        orders.sync().unwrap();
        (world, log, orders)
    };
    let (world, log, orders) = scene();
    let expected = read(&orders);
    let before = world.disk.operations();
    log.checkpoint("/copies/copy").unwrap();
    let operations = world.disk.operations() - before;
    for n in 1..=operations + 1 {
        let (world, log, _) = scene();
        for later in n..n + 100 {
            world.disk.fail_nth(later, Errno::IO);
        }
        let result = log.checkpoint("/copies/copy");
        assert_eq!(result.is_ok(), n > operations, "operation {n}: {result:?}");
        world.disk.power_cut();
        for _ in 0..200 {
            let _ = world.disk.list(Path::new("/"));
        }
        if world.disk.is_dir(Path::new("/copies/copy")) {
            let (copy, report) = Log::open(world.env(), "/copies/copy", LogConfig::default()).unwrap();
            assert!(report.clean && report.notes.is_empty(), "operation {n}: {report:?}");
            assert_eq!(read(&copy.partition(&tp("orders", 0)).unwrap()), expected, "operation {n}");
        } else {
            assert!(result.is_err());
        }
        let (log, report) = Log::open(world.env(), "/log", LogConfig::default()).unwrap();
        assert!(report.refused.is_empty() && report.cut().count() == 0);
        assert_eq!(read(&log.partition(&tp("orders", 0)).unwrap()), expected);
    }
}

/// One failed operation: an error, no target, nothing left behind, and the next try succeeds.
#[test]
fn a_failed_one_leaves_nothing_behind() {
    for op in [Op::HardLink, Op::Write, Op::Sync, Op::SyncDir, Op::Rename, Op::CreateDir, Op::Open, Op::List]
    {
        let world = SimWorld::from_seed(5);
        let (log, _) = Log::open(world.env(), "/log", LogConfig::default()).unwrap();
        log.create_topic("orders", 1, small()).unwrap();
        let orders = log.partition(&tp("orders", 0)).unwrap();
        for n in 0..60 {
            append(&orders, &format!("{n} ").repeat(40));
        }
        orders.sync().unwrap();
        world.disk.fail_nth_of(op, 2, Errno::IO);
        let failed = log.checkpoint("/copy").unwrap_err();
        assert!(matches!(failed, Error::Io { .. }), "{op:?}: {failed}");
        let names: BTreeSet<_> =
            world.disk.list(Path::new("/")).unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, BTreeSet::from(["log".to_string()]), "{op:?}");
        log.checkpoint("/copy").unwrap();
        assert_eq!(read(&orders).len(), 60);
    }
}

/// Where it must not go, it says so and touches nothing.
#[test]
fn a_target_in_use_is_refused() {
    let (disk, env) = memory();
    let (log, _) = Log::open(env, "/log", LogConfig::default()).unwrap();
    disk.create_dir(Path::new("/full")).unwrap();
    disk.open(Path::new("/full/notes.txt"), Open::CreateNew).unwrap();
    disk.create_dir(Path::new("/empty")).unwrap();
    for (to, said) in [("/full", "notes.txt"), ("/log", "/log"), ("/log/copy", "/log/copy"), ("/", "/")] {
        let refused = log.checkpoint(to).unwrap_err();
        assert!(matches!(refused, Error::Invalid { .. }), "{refused}");
        assert!(refused.to_string().contains(said), "{refused}");
    }
    assert_eq!(disk.list(Path::new("/full")).unwrap().len(), 1);
    log.checkpoint("/empty").unwrap();
    log.close().unwrap();
    assert!(matches!(log.checkpoint("/late"), Err(Error::Closed { .. })));
}

/// A disk that cannot link: everything is copied.
#[derive(Debug)]
struct Unlinkable(SystemDisk);

impl Disk for Unlinkable {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        self.0.open(path, how)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<girok_engine::disk::Entry>> {
        self.0.list(dir)
    }
    fn is_dir(&self, path: &Path) -> bool {
        self.0.is_dir(path)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir(dir)
    }
    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.remove_dir(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn hard_link(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(Errno::XDEV.into())
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }
    fn sync_many(&self, files: &[&dyn File]) -> Vec<io::Result<()>> {
        self.0.sync_many(files)
    }
    fn lock(
        &self,
        path: &Path,
        holder: &str,
    ) -> Result<Box<dyn girok_engine::disk::DirLock>, girok_engine::disk::LockError> {
        self.0.lock(path, holder)
    }
    fn maps_safely(&self, dir: &Path) -> bool {
        self.0.maps_safely(dir)
    }
    fn counters(&self) -> girok_engine::disk::Counters {
        self.0.counters()
    }
}

#[test]
fn where_nothing_can_be_linked_everything_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env { disk: Arc::new(Unlinkable(SystemDisk::new())), ..Env::system() };
    let (log, _) = Log::open(env.clone(), dir.path().join("log"), LogConfig::default()).unwrap();
    log.create_topic("orders", 1, small()).unwrap();
    let orders = log.partition(&tp("orders", 0)).unwrap();
    for n in 0..100 {
        append(&orders, &format!("{n} ").repeat(50));
    }
    orders.sync().unwrap();
    let report = log.checkpoint(dir.path().join("copy")).unwrap();
    assert_eq!((report.segments_linked, report.segments_copied), (0, orders.segments()));
    assert_eq!((report.bytes_linked, report.bytes_copied), (0, orders.bytes()));
    let (copy, opened) = Log::open(env, dir.path().join("copy"), LogConfig::default()).unwrap();
    assert!(opened.clean);
    assert_eq!(read(&copy.partition(&tp("orders", 0)).unwrap()), read(&orders));
}

/// Partitions that nobody has touched since the last clean close are copied too, and stay untouched.
#[test]
fn the_cold_are_copied_without_being_opened() {
    let (_, env) = memory();
    let (log, _) = Log::open(env.clone(), "/log", LogConfig::default()).unwrap();
    log.create_topic("orders", 3, small()).unwrap();
    let orders = log.partition(&tp("orders", 1)).unwrap();
    for n in 0..100 {
        append(&orders, &format!("{n} ").repeat(50));
    }
    let expected = {
        orders.sync().unwrap();
        read(&orders)
    };
    log.close().unwrap();

    let (log, _) = Log::open(env.clone(), "/log", LogConfig::default()).unwrap();
    let report = log.checkpoint("/copy").unwrap();
    assert_eq!(log.stats().partitions_live, 0);
    assert!(report.segments_linked > 2 && report.segments_copied == 1, "{report:?}");
    let (copy, opened) = Log::open(env, "/copy", LogConfig::default()).unwrap();
    assert!(opened.clean);
    let copied = copy.partition(&tp("orders", 1)).unwrap();
    assert_eq!(read(&copied), expected);
    assert_eq!(copied.offset_for_time(Timestamp::from_millis(1)).unwrap().unwrap().0, Offset::ZERO);
}

/// After a crash recovery may make a shared segment the last one. Whoever appends to it takes a file of its own first.
#[test]
fn a_shared_file_is_never_written_to() {
    let world = SimWorld::from_seed(2);
    let (log, _) = Log::open(world.env(), "/log", LogConfig::default()).unwrap();
    log.create_topic("orders", 1, small()).unwrap();
    let orders = log.partition(&tp("orders", 0)).unwrap();
    while orders.segments() < 4 {
        append(&orders, &"x".repeat(400));
    }
    orders.sync().unwrap();
    log.checkpoint("/copy").unwrap();
    let expected = contents(&*world.disk, Path::new("/copy"));
    world.disk.process_death();

    // Somebody, or a power cut before the folder was synced, took the last segment away.
    let folder = Path::new("/log/orders-0");
    let names: Vec<_> = world.disk.list(folder).unwrap().into_iter().map(|entry| entry.name).collect();
    let last = names.iter().rfind(|name| name.ends_with(".log")).unwrap();
    world.disk.remove(&folder.join(last)).unwrap();
    let (log, report) = Log::open(world.env(), "/log", LogConfig::default()).unwrap();
    assert!(report.refused.is_empty(), "{report:?}");
    let orders = log.partition(&tp("orders", 0)).unwrap();
    for n in 0..40 {
        append(&orders, &format!("{n} ").repeat(50));
    }
    log.close().unwrap();
    assert!(contents(&*world.disk, Path::new("/copy")) == expected, "the copy has changed");
}

/// What is on disk is at least the records, and with the indexes and the reserved room all that the folder has.
#[test]
fn size_on_disk_counts_everything() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(Env::system(), dir.path(), LogConfig::default()).unwrap();
    log.create_topic("orders", 1, small()).unwrap();
    let orders = log.partition(&tp("orders", 0)).unwrap();
    for n in 0..100 {
        append(&orders, &format!("{n} ").repeat(50));
    }
    orders.sync().unwrap();
    let folder: u64 = std::fs::read_dir(dir.path().join("orders-0"))
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert_eq!(orders.size_on_disk().unwrap(), folder);
    assert!(folder > orders.bytes());
    assert!(log.size_on_disk().unwrap() > folder);
}
