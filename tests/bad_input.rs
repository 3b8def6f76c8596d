//! The promise: bad input gets an error that names it and says what to do, and changes nothing.
//!
//! One scene for each kind. Around each the directory is listed, byte for byte: what was refused has left no trace.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use girok::{CommitEntry, Error, Girok, LogConfig, OffsetReset, OffsetSpec, ProducerRecord, TopicConfig};
use girok_engine::batch::{BatchBuilder, Codec, ValidBatch};
use girok_engine::{Env, Error as LogError, FetchBounds, Log, Offset, Remedy, Timestamp, TopicPartition};
use rustix::io::Errno;
use support::{Op, SimWorld};

/// A directory with a topic `orders` of two partitions, ten records in the first.
struct Scene {
    dir: tempfile::TempDir,
    girok: Girok,
}

impl Scene {
    fn new() -> Scene {
        let dir = tempfile::tempdir().unwrap();
        // Without the background thread nothing happens here but what the scene asks for.
        let girok = Girok::builder().threads(false).open(dir.path()).unwrap();
        girok.admin().create_topic("orders", 2, TopicConfig::default()).unwrap();
        let producer = girok.producer().build().unwrap();
        for n in 0..10 {
            let record = ProducerRecord::new("orders", format!("order {n}")).partition(0);
            producer.send(record).unwrap().wait().unwrap();
        }
        // Opened, so that looking it up later changes nothing.
        girok.log().partition(&orders(1)).unwrap();
        Scene { dir, girok }
    }

    /// Runs something that must fail, without a trace; what it said.
    fn refuses<T: std::fmt::Debug, E: Into<Error>>(&self, act: impl FnOnce(&Girok) -> Result<T, E>) -> Error {
        let before = listing(self.dir.path());
        let error: Error = act(&self.girok).unwrap_err().into();
        assert_same(&before, &listing(self.dir.path()), &error);
        error
    }
}

fn orders(n: i32) -> TopicPartition {
    TopicPartition::new("orders", n)
}

/// Every file with its bytes, every folder with none.
fn listing(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                all.insert(path.clone(), None);
                folders.push(path);
            } else {
                let bytes = fs::read(&path).unwrap();
                all.insert(path, Some(bytes));
            }
        }
    }
    all
}

fn assert_same(
    before: &BTreeMap<PathBuf, Option<Vec<u8>>>,
    after: &BTreeMap<PathBuf, Option<Vec<u8>>>,
    error: &dyn std::fmt::Display,
) {
    let names = |all: &BTreeMap<PathBuf, Option<Vec<u8>>>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(before), names(after), "{error}");
    for (path, bytes) in before {
        assert!(after[path] == *bytes, "{} was changed: {error}", path.display());
    }
}

#[track_caller]
fn says(error: &impl std::fmt::Display, words: &[&str]) {
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "it should say {word:?}: {text}");
    }
}

/// Opens a directory that cannot be opened; what it said, and that all is as it was but the lock file: who looks
/// into a directory has to hold it.
fn open_refused(dir: &Path) -> LogError {
    let mut before = listing(dir);
    let error = Log::open(Env::system(), dir, LogConfig::default()).unwrap_err();
    let mut after = listing(dir);
    for all in [&mut before, &mut after] {
        all.remove(&dir.join("girok.lock"));
    }
    assert_same(&before, &after, &error);
    error
}

/// A directory of somebody else's is left alone, and the error says by what it was recognised.
#[test]
fn a_wrong_directory() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "\\documentclass{book}").unwrap();
    fs::create_dir(dir.path().join("photos")).unwrap();
    let error = open_refused(dir.path());
    assert_eq!(error.remedy(), Remedy::FixTheCall);
    says(&error, &["directory", dir.path().to_str().unwrap(), "nothing was changed"]);
    assert!(error.to_string().contains("photos") || error.to_string().contains("thesis.tex"), "{error}");

    // A file where a directory should be.
    let error = Log::open(Env::system(), dir.path().join("thesis.tex"), LogConfig::default()).unwrap_err();
    says(&error, &["thesis.tex"]);
    // And a name that is nobody's, for one who said it must exist.
    let error = Girok::builder().create(false).open(dir.path().join("mistyped")).unwrap_err();
    says(&error, &["mistyped"]);
    assert!(!dir.path().join("mistyped").exists());
}

/// Foreign files in a directory of ours keep nobody from opening it, and stay.
#[test]
fn foreign_files_in_our_directory() {
    let Scene { dir, girok } = Scene::new();
    girok.close().unwrap();
    drop(girok);
    let foreign = [
        ("notes.txt", "top level"),
        ("orders-0/notes.txt", "in a partition"),
        ("orders-0/0001.log", "not twenty digits"),
        ("orders-7/00000000000000000000.log", "a folder without metadata"),
        ("Orders 0/x", "no partition's name"),
    ];
    for (name, text) in foreign {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let (log, report) = Log::open(Env::system(), dir.path(), LogConfig::default()).unwrap();
    assert!(report.refused.is_empty(), "{:?}", report.refused);
    let noted =
        report.notes.iter().any(|note| note.contains("orders-7") && note.contains("partition.metadata"));
    assert!(noted, "what was left alone and might have been meant is noted: {:?}", report.notes);
    assert_eq!(log.partition(&orders(0)).unwrap().end_offset(), Offset::new(10));
    assert_eq!(log.topic("orders").unwrap().partitions, 2);
    log.close().unwrap();
    for (name, text) in foreign {
        assert_eq!(fs::read_to_string(dir.path().join(name)).unwrap(), text);
    }
}

/// A newer program's directory is not touched by an older one.
#[test]
fn a_newer_format() {
    let Scene { dir, girok } = Scene::new();
    girok.close().unwrap();
    drop(girok);
    let meta = dir.path().join("girok.meta");
    let text = fs::read_to_string(&meta).unwrap();
    // As a newer program would write it, with a right checksum in its last line.
    let body = text[..text.rfind("crc32").unwrap()].replacen("version 1\n", "version 999\n", 1);
    let mut crc = flate2::Crc::new();
    crc.update(body.as_bytes());
    let newer = format!("{body}crc32 {:08x}\n", crc.sum());
    assert!(newer.contains("version 999"));
    fs::write(&meta, newer).unwrap();
    let error = open_refused(dir.path());
    assert!(matches!(error, LogError::NewerFormat { found: 999, .. }), "{error}");
    says(&error, &["girok.meta", "999", "newer program", "nothing was changed"]);
    fs::write(&meta, text).unwrap();
    assert!(Log::open(Env::system(), dir.path(), LogConfig::default()).unwrap().1.clean);
}

/// Kafka's rules for topic names; the name is in the error.
#[test]
fn bad_topic_names() {
    let scene = Scene::new();
    let long = "x".repeat(250);
    for name in ["", ".", "..", "a b", "a/b", "../etc", "naïve", "a\0b", "a:b", "*", &long] {
        let error = scene.refuses(|girok| girok.admin().create_topic(name, 1, TopicConfig::default()));
        says(&error, &["topic name"]);
        assert_eq!(error.remedy(), Remedy::FixTheCall, "{error}");
        let shown: String = name.chars().take_while(|c| c.is_ascii_graphic()).collect();
        let shown = if name.len() > 249 { "250".into() } else { shown };
        says(&error, &[&shown]);
    }
    // An internal topic is the coordinator's to make.
    let error =
        scene.refuses(|girok| girok.admin().create_topic("__transaction_state", 1, TopicConfig::default()));
    says(&error, &["__transaction_state"]);
}

/// Names that exist, and names that metrics could not tell apart.
#[test]
fn colliding_names() {
    let scene = Scene::new();
    let error = scene.refuses(|girok| girok.admin().create_topic("orders", 1, TopicConfig::default()));
    says(&error, &["orders exists already"]);
    scene.girok.admin().create_topic("a.b_c", 1, TopicConfig::default()).unwrap();
    for name in ["a_b_c", "a.b.c", "a_b.c"] {
        let error = scene.refuses(|girok| girok.admin().create_topic(name, 1, TopicConfig::default()));
        says(&error, &[name, "a.b_c"]);
    }
}

/// No partitions, less than none, far too many, fewer than there are.
#[test]
fn partition_counts() {
    let scene = Scene::new();
    for count in [0, -1, i32::MIN, 100_001, i32::MAX] {
        let error = scene.refuses(|girok| girok.admin().create_topic("t", count, TopicConfig::default()));
        says(&error, &["partition count", "1 to 100000", &count.to_string()]);
    }
    for count in [0, -1, 1, 2] {
        let error = scene.refuses(|girok| girok.admin().create_partitions("orders", count));
        says(&error, &["partition count", &count.to_string()]);
    }
    let error = scene.refuses(|girok| girok.admin().create_partitions("odrers", 3));
    says(&error, &["odrers", "create it first"]);
}

/// Unknown configuration keys, Kafka's keys that mean nothing here, and values out of range: each by its name, and
/// none of a list is set if one is bad.
#[test]
fn configuration() {
    let scene = Scene::new();
    for (key, value, words) in [
        ("retention_ms", "1000", ["retention_ms", "such as retention.ms"]),
        ("retention.msec", "1000", ["retention.msec", "retention.ms"]),
        ("min.insync.replicas", "2", ["min.insync.replicas", "girok.durability"]),
        ("retention.ms", "7d", ["retention.ms", "7d"]),
        ("segment.bytes", "12", ["segment.bytes", "4096"]),
        ("segment.bytes", "99999999999", ["segment.bytes", "2147483647"]),
        ("cleanup.policy", "shred", ["cleanup.policy", "shred"]),
        ("girok.durability", "fsynced", ["girok.durability", "\"synced\" or \"written\""]),
    ] {
        let alter = |girok: &Girok| {
            girok.admin().alter_config("orders", &[("retention.bytes", "1234"), (key, value)])
        };
        let error = scene.refuses(alter);
        says(&error, &words);
    }
    assert_eq!(scene.girok.log().topic("orders").unwrap().config.retention_bytes, None, "all or nothing");
    let config = TopicConfig { segment_bytes: 5, ..TopicConfig::default() };
    let error = scene.refuses(|girok| girok.admin().create_topic("t", 1, config));
    says(&error, &["segment.bytes", "5"]);

    let dir = tempfile::tempdir().unwrap();
    let config = LogConfig { window_bytes: 1, ..LogConfig::default() };
    let error = Log::open(Env::system(), dir.path().join("new"), config).unwrap_err();
    says(&error, &["window_bytes", "4096"]);
    assert!(!dir.path().join("new").exists(), "not even made");
}

/// A record that no batch may hold, and a batch that its topic does not take.
#[test]
fn oversize_records() {
    let scene = Scene::new();
    let producer = scene.girok.producer().build().unwrap();
    let large = vec![0; 3 << 20];
    let error = scene.refuses(|_| {
        producer.send(ProducerRecord::new("orders", &large[..]).partition(1)).and_then(|sent| sent.wait())
    });
    assert_eq!(error.remedy(), Remedy::FixTheCall);
    says(&error, &["1048576", "max"]);
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(Timestamp::from_millis(1), None, Some(&large), &[]).unwrap();
    let batch = builder.finish().unwrap();
    let partition = scene.girok.log().partition(&orders(1)).unwrap();
    let error = scene.refuses(|_| partition.append(&batch));
    says(&error, &["1048588", "orders-1", "max.message.bytes", &batch.size().to_string()]);
    // Nothing in the way of the next.
    producer.send(ProducerRecord::new("orders", "small").partition(1)).unwrap().wait().unwrap();
}

/// What somebody else made is checked before it is stored: every bit of it matters.
#[test]
fn corrupt_batches() {
    let mut builder = BatchBuilder::new(Codec::None);
    for n in 0..3 {
        builder
            .append(Timestamp::from_millis(n), Some(b"key"), Some(b"value"), &[("h", Some(b"x"))])
            .unwrap();
    }
    let good = builder.finish().unwrap().to_vec();
    ValidBatch::check(&good, 1 << 20).unwrap();
    for at in 0..good.len() {
        // Base offset and leader epoch are the log's to fill in.
        if at < 8 || (12..16).contains(&at) {
            continue;
        }
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            let error = ValidBatch::check(&bad, 1 << 20).unwrap_err();
            assert_eq!(error.remedy(), Remedy::FixTheCall, "byte {at}, bit {bit}: {error}");
            assert!(error.to_string().contains("batch") || error.to_string().contains("format"), "{error}");
        }
    }
    for len in 0..good.len() {
        let error = ValidBatch::check(&good[..len], 1 << 20).unwrap_err();
        says(&error, &["batch"]);
    }
    let error = ValidBatch::check(&[&good[..], b"more"].concat(), 1 << 20).unwrap_err();
    says(&error, &["4 more bytes"]);
}

/// A few bytes that become a gigabyte are refused at the bound, when they are offered and when they are read.
#[test]
fn decompression_bombs() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let mut builder = BatchBuilder::new(codec);
        let zeros = vec![0; 8 << 20];
        builder.append(Timestamp::from_millis(1), None, Some(&zeros), &[]).unwrap();
        let bomb = builder.finish().unwrap().to_vec();
        assert!(bomb.len() < 1 << 20, "{codec:?}: {}", bomb.len());
        let error = ValidBatch::check(&bomb, 1 << 20).unwrap_err();
        says(&error, &["1048576 bytes", "decompressed"]);
        let batch = ValidBatch::check(&bomb, 16 << 20).unwrap();

        // Stored by one who allowed more, read by one who does not.
        let dir = tempfile::tempdir().unwrap();
        let (log, _) = Log::open(Env::system(), dir.path(), LogConfig::default()).unwrap();
        log.create_topic("t", 1, TopicConfig::default()).unwrap();
        log.partition(&TopicPartition::new("t", 0)).unwrap().append(&batch).unwrap();
        log.close().unwrap();
        drop(log);
        let config = LogConfig { decompressed_bytes_max: 1 << 20, ..LogConfig::default() };
        let girok = Girok::builder().threads(false).config(config).open(dir.path()).unwrap();
        let mut consumer = girok.consumer().auto_offset_reset(OffsetReset::Earliest).build().unwrap();
        consumer.assign(&[TopicPartition::new("t", 0)]).unwrap();
        let error = consumer.poll(Duration::ZERO).unwrap_err();
        says(&error, &["t-0", "offset 0", "1048576 bytes when decompressed"]);
        let error = girok.log().partition(&TopicPartition::new("t", 0)).unwrap();
        let error = error.offset_for_time(Timestamp::from_millis(0)).unwrap_err();
        says(&error, &["t-0", "offset 0", "decompressed_bytes_max"]);
    }
}

/// Offsets that cannot be, and partitions that are not.
#[test]
fn offsets_out_of_the_world() {
    let scene = Scene::new();
    let partition = scene.girok.log().partition(&orders(0)).unwrap();
    for offset in [-1, i64::MIN, 11, i64::MAX] {
        let error = scene.refuses(|_| partition.fetch(Offset::new(offset), &FetchBounds::default()));
        says(&error, &["orders-0", &offset.to_string(), "0 to 10"]);
        let error = scene.refuses(|_| partition.delete_records(Offset::new(offset)));
        says(&error, &["orders-0", &offset.to_string()]);
    }
    let mut consumer = scene.girok.consumer().group_id("g").build().unwrap();
    consumer.assign(&[orders(0)]).unwrap();
    let error = scene.refuses(|_| consumer.seek(&orders(0), Offset::new(-5)));
    says(&error, &["-5"]);
    for number in [-1, 2, i32::MAX] {
        let error = scene.refuses(|girok| girok.log().partition(&orders(number)));
        says(&error, &[&format!("orders-{number}"), "0 to 1"]);
        let producer = scene.girok.producer().build().unwrap();
        let error = scene.refuses(|_| {
            producer.send(ProducerRecord::new("orders", "x").partition(number)).and_then(|sent| sent.wait())
        });
        says(&error, &["orders", &number.to_string()]);
    }
    let error = scene.refuses(|girok| girok.admin().list_offsets(&[orders(5)], OffsetSpec::Latest));
    says(&error, &["orders-5"]);
    // A commit says for each partition why it was refused. (The first makes `__consumer_offsets`.)
    consumer.commit_offsets(&[CommitEntry::new(orders(0), Offset::new(1))]).unwrap()[0].1.as_ref().unwrap();
    let before = listing(scene.dir.path());
    for (tp, offset, words) in [
        (orders(0), -1, ["-1", "orders-0"]),
        (orders(0), 11, ["11", "orders-0"]),
        (orders(9), 0, ["orders-9", "orders-9"]),
        (TopicPartition::new("nothing", 0), 0, ["nothing-0", "nothing"]),
    ] {
        let results = consumer.commit_offsets(&[CommitEntry::new(tp, Offset::new(offset))]).unwrap();
        let reject = results[0].1.as_ref().unwrap_err();
        says(reject, &words);
        assert_same(&before, &listing(scene.dir.path()), reject);
    }
}

/// A directory that can be read and not written: the error names the file, and not a byte is changed.
#[test]
fn a_read_only_directory() {
    let world = SimWorld::from_seed(1);
    let (log, _) = Log::open(world.env(), "/log", LogConfig::default()).unwrap();
    log.create_topic("t", 1, TopicConfig::default()).unwrap();
    log.close().unwrap();
    drop(log);
    for op in [Op::Lock, Op::Write, Op::Rename] {
        world.disk.fail_nth_of(op, 1, Errno::ROFS);
        let error = Log::open(world.env(), "/log", LogConfig::default()).unwrap_err();
        says(&error, &["/log/girok.", "Read-only file system", "writable"]);
        let (log, report) = Log::open(world.env(), "/log", LogConfig::default()).unwrap();
        assert!(report.clean || op != Op::Lock, "{op:?}: nothing had happened");
        assert_eq!(log.topics().len(), 1);
        log.close().unwrap();
    }

    // For real, where binding is allowed.
    let Scene { dir, girok } = Scene::new();
    girok.close().unwrap();
    drop(girok);
    use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};
    let bound = mount_bind(dir.path(), dir.path())
        .and_then(|()| mount_remount(dir.path(), MountFlags::BIND | MountFlags::RDONLY, ""));
    if let Err(refused) = bound {
        let why = format!("a_read_only_directory: binding is refused here ({refused})");
        assert!(std::env::var_os("GIROK_REQUIRE_ROOT_TESTS").is_none(), "{why}");
        println!("SKIPPED the real half of {why}; run it as root to see it");
        return;
    }
    let before = listing(dir.path());
    let opened = Log::open(Env::system(), dir.path(), LogConfig::default()).map(|_| ());
    let beside = girok_engine::inspect::Directory::open(dir.path()).and_then(|one| one.partitions());
    let after = listing(dir.path());
    unmount(dir.path(), UnmountFlags::DETACH).unwrap();
    let error = opened.unwrap_err();
    says(&error, &["girok.lock", "Read-only file system", "writable"]);
    assert_same(&before, &after, &error);
    assert_eq!(beside.unwrap().len(), 2, "it can be looked at all the same");
}
