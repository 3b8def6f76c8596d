//! Opening again: after a crash, where every byte behind the recovery point is read and checked, and after a clean
//! close, where no log is read at all.
//!
//! Beside the crash stands the bare loop that checks the same batches' checksums in memory that is resident: no recovery
//! can be faster that trusts nothing. A crash is a copy of the directory while the log is open, without its checkpoint, so
//! that the recovery point is 0, and synced, so that the disk's write-back is not measured. Before a figure counts, the
//! offsets must be where they were and the records the same.

use std::fs::{self, File};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use girok_bench::engine::{Bench, build, env, read_all};
use girok_bench::limits::{self, Records};
use girok_bench::payload::Kind;
use girok_bench::place::{self, sized};
use girok_bench::versus::Ratios;
use girok_engine::batch::{BatchBuilder, Codec};
use girok_engine::{Durability, Log, LogConfig, Partition, TopicConfig, TopicPartition};

fn main() {
    let mut criterion = place::criterion();
    let bench = Bench::open();
    place::warm(bench.dir(), sized(1 << 30, 16 << 20)).expect("a warm machine");
    let mut ratios = Ratios::new();
    for (key, value, per_batch) in [(16, 84, 1), (16, 84, 64), (16, 1008, 64)] {
        let records = Records::new(Kind::Random, key, value, per_batch);
        let partition = filled(&bench, &records, sized(256 << 20, 2 << 20));
        let bytes = read_all(&partition);
        ratios.compare(
            &format!("crash, {} MiB of {} B × {per_batch}", bytes.len() >> 20, key + value),
            "MB/s",
            None,
            7,
            |_| {
                let started = Instant::now();
                assert_eq!(limits::check(black_box(&bytes)), partition.end_offset().get() as u64);
                bytes.len() as f64 / started.elapsed().as_secs_f64() / 1e6
            },
            |round| {
                let took = recover(&bench, &partition, (round == 0).then_some(&bytes[..]));
                bytes.len() as f64 / took.as_secs_f64() / 1e6
            },
        );
        if (value, per_batch) == (84, 64) {
            singly(&bench, &mut criterion, &partition, &bytes);
        }
        bench.drop_partition(partition);
    }
    many(&bench, &mut ratios);
    criterion.final_summary();
    println!("\n{}", ratios.table());
}

fn filled(bench: &Bench, records: &Records, total: usize) -> Partition {
    let partition = bench.partition(Durability::Written);
    let mut builder = BatchBuilder::new(Codec::None);
    for batch in 0..total / records.payload_bytes() {
        partition.append(&build(&mut builder, records, batch)).expect("an append");
    }
    partition
}

/// Opens a crashed copy: how long it took. With `expected`, proves that it holds the same bytes.
fn recover(bench: &Bench, partition: &Partition, expected: Option<&[u8]>) -> Duration {
    let copy = crashed_copy(bench.log().dir(), &bench.dir().join("crashed"));
    let started = Instant::now();
    let (log, report) = Log::open(env(), &copy, LogConfig::default()).expect("a recovery");
    let took = started.elapsed();
    assert!(!report.clean && report.refused.is_empty(), "{report:?}");
    let mine = report.partitions.iter().find(|p| p.partition == *partition.name()).expect("our partition");
    assert_eq!((mine.end, mine.cut_bytes), (partition.end_offset(), 0), "nothing was lost, nothing cut");
    // The reserved room behind the end is looked at too, to know that it is zeros.
    assert!(mine.scanned_bytes >= partition.bytes(), "every byte was read: {report:?}");
    if let Some(expected) = expected {
        let again = log.partition(partition.name()).expect("our partition");
        assert!(read_all(&again) == expected, "recovery kept other bytes");
    }
    log.close().expect("a close");
    drop(log);
    fs::remove_dir_all(copy).expect("our own copy");
    took
}

/// The directory as a crash would leave it, without lock and checkpoint; on the medium.
fn crashed_copy(from: &Path, to: &Path) -> PathBuf {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry")) {
        let (path, name) = (entry.path(), entry.file_name());
        if name == "girok.lock" || name == "girok.checkpoint" {
            continue;
        }
        let beside = to.join(name);
        if path.is_dir() {
            crashed_copy(&path, &beside);
        } else {
            fs::copy(&path, &beside).expect("a copy");
            File::open(&beside).and_then(|file| file.sync_all()).expect("a sync");
        }
    }
    to.to_owned()
}

/// Many small partitions: crashed against reading and checking the same files, and closed cleanly.
fn many(bench: &Bench, ratios: &mut Ratios) {
    let partitions = sized(1000, 20);
    let records = Records::new(Kind::Random, 16, 84, 8);
    let dir = bench.dir().join("many");
    let (log, _) = Log::open(env(), &dir, LogConfig::default()).expect("a log");
    let config = TopicConfig { durability: Durability::Written, ..TopicConfig::default() };
    log.create_topic("many", partitions, config).expect("a topic");
    let mut builder = BatchBuilder::new(Codec::None);
    for n in 0..partitions {
        let partition = log.partition(&TopicPartition::new("many", n)).expect("a partition");
        for batch in 0..20 {
            partition.append(&build(&mut builder, &records, batch)).expect("an append");
        }
    }
    let crashed = bench.dir().join("many-crashed");
    let expected = 20 * records.per_batch() as u64;
    let measured = ratios.compare(
        &format!("crash, {partitions} partitions of 16 KiB"),
        "partitions/s",
        None,
        5,
        |_| {
            let started = Instant::now();
            for n in 0..partitions {
                let file = dir.join(format!("many-{n}")).join("00000000000000000000.log");
                let bytes = fs::read(file).expect("a log file");
                assert_eq!(limits::check(&bytes), expected);
            }
            f64::from(partitions) / started.elapsed().as_secs_f64()
        },
        |_| {
            crashed_copy(&dir, &crashed);
            let started = Instant::now();
            let (log, report) = Log::open(env(), &crashed, LogConfig::default()).expect("a recovery");
            let took = started.elapsed();
            assert!(
                !report.clean
                    && report.partitions.iter().all(|p| p.end.get() as u64 == expected && p.cut_bytes == 0)
            );
            log.close().expect("a close");
            drop(log);
            fs::remove_dir_all(&crashed).expect("our own copy");
            f64::from(partitions) / took.as_secs_f64()
        },
    );
    log.close().expect("a close");
    drop(log);
    if !measured {
        return;
    }
    let mut took = Vec::new();
    for _ in 0..sized(7, 1) {
        let started = Instant::now();
        let (log, report) = Log::open(env(), &dir, LogConfig::default()).expect("an open");
        took.push(started.elapsed().as_secs_f64() * 1e3);
        assert!(report.clean, "{report:?}");
        let last = log.partition(&TopicPartition::new("many", partitions - 1)).expect("a partition");
        assert_eq!(last.end_offset().get() as u64, expected);
        log.close().expect("a close");
    }
    let clean = girok_bench::stats::median(&took);
    ratios.note(format!("closed cleanly they open in {clean:.1} ms, all together"));
}

fn singly(bench: &Bench, criterion: &mut Criterion, partition: &Partition, bytes: &[u8]) {
    let mut group = criterion.benchmark_group("recover");
    group.sample_size(10).throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("checksums of the same bytes", |b| b.iter(|| limits::check(black_box(bytes))));
    group.bench_function("crashed log, 100 B x 64", |b| {
        b.iter_custom(|times| (0..times).map(|_| recover(bench, partition, None)).sum());
    });
    group.finish();
}
