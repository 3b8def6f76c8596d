//! The promise: any call, from any thread, at any time.
//!
//! Real threads append, read in order, look up at random, sync, delete and retire segments while the background parks
//! regions as fast as it can and far fewer may be open than there are partitions. What a reader sees must be exactly
//! what was appended, in order, once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use girok_engine::batch::{BatchBuilder, Codec};
use girok_engine::{
    Durability, Env, Error, FetchBounds, Log, LogConfig, Offset, Partition, ReadMode, RegionMode, Timestamp,
    TopicConfig, TopicPartition,
};

const PARTITIONS: i32 = 6;
const APPENDS: i64 = 3_000;

/// What record `offset` of partition `n` holds.
fn value(n: i32, offset: i64) -> Vec<u8> {
    let mut value = format!("{n}:{offset}:").into_bytes();
    value.resize(20 + (offset as usize * 7919) % 300, b'x');
    value
}

struct Scene {
    log: Log,
    /// Set by an appender when it is through.
    ends: Vec<AtomicI64>,
    done: AtomicBool,
}

fn scene(env: Env, dir: &std::path::Path, region: RegionMode, read: ReadMode) -> Arc<Scene> {
    let config = LogConfig {
        region,
        read,
        open_files_max: 8,
        idle_ms: 1,
        checkpoint_interval_ms: 5,
        retention_check_ms: 5,
        growth_bytes_min: 4 << 10,
        growth_bytes_max: 16 << 10,
        window_bytes: 8 << 10,
        write_buffer_bytes: 16 << 10,
        ..LogConfig::default()
    };
    let (log, _) = Log::open(env, dir, config).unwrap();
    for (name, durability) in [("written", Durability::Written), ("synced", Durability::Synced)] {
        let config = TopicConfig {
            segment_bytes: 32 << 10,
            durability,
            flush_ms_max: 2,
            retention_ms: None,
            ..TopicConfig::default()
        };
        log.create_topic(name, PARTITIONS / 2, config).unwrap();
    }
    let ends = (0..PARTITIONS).map(|_| AtomicI64::new(-1)).collect();
    Arc::new(Scene { log, ends, done: AtomicBool::new(false) })
}

fn partition(scene: &Scene, n: i32) -> Partition {
    let topic = if n % 2 == 0 { "written" } else { "synced" };
    scene.log.partition(&TopicPartition::new(topic, n / 2)).unwrap()
}

/// Two threads share a partition; a lock around the counter and the append keeps the content predictable, and every
/// third append goes without waiting for anything.
fn append(scene: &Scene, n: i32) {
    let partition = partition(scene, n);
    let mut builder = BatchBuilder::new(Codec::None);
    let mut next = 0;
    while next < APPENDS {
        builder.clear();
        let records = 1 + next % 4;
        for i in 0..records {
            builder.append(Timestamp::from_millis(next + i), None, Some(&value(n, next + i)), &[]).unwrap();
        }
        let appended = partition.append(&builder.finish().unwrap()).unwrap();
        assert_eq!(appended.base_offset, Offset::new(next));
        next += records;
        if next % 97 == 0 {
            partition.wait_for(appended.next_offset, Durability::Synced).unwrap();
        }
        if next % 1000 < 4 {
            // Long enough for the background to park it.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    partition.sync().unwrap();
    scene.ends[n as usize].store(next, Ordering::SeqCst);
}

/// Every record, in order, from the first to the last, waiting for what is not there yet.
fn follow(scene: &Scene, n: i32) {
    let partition = partition(scene, n);
    let mut reader = partition.reader(Offset::ZERO);
    let mut next = 0;
    loop {
        let bounds = FetchBounds { bytes_max: 1 << (6 + next % 12), ..FetchBounds::default() };
        let view = reader.read(&bounds).unwrap();
        if view.is_empty() {
            let end = scene.ends[n as usize].load(Ordering::SeqCst);
            if end == next {
                return;
            }
            assert!(end < 0 || next < end);
            partition.wait_readable(reader.position(), Some(Duration::from_millis(50))).unwrap();
            continue;
        }
        for batch in view.batches() {
            let batch = batch.unwrap();
            batch.check_crc().unwrap();
            for record in batch.records() {
                let record = record.unwrap();
                assert_eq!(record.offset(), Offset::new(next), "partition {n}");
                assert_eq!(record.value(), Some(&value(n, next)[..]), "partition {n} offset {next}");
                next += 1;
            }
        }
    }
}

/// Any offset below the high watermark can be fetched, and its batch holds it.
fn look_up(scene: &Scene, seed: i64) {
    let mut chance = seed;
    while !scene.done.load(Ordering::SeqCst) {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let n = (chance >> 33).rem_euclid(PARTITIONS as i64) as i32;
        let partition = partition(scene, n);
        let high = partition.high_watermark().get();
        if high == 0 {
            continue;
        }
        let offset = (chance >> 17).rem_euclid(high);
        let view =
            partition.fetch(Offset::new(offset), &FetchBounds { bytes_max: 1, ..FetchBounds::default() });
        let view = view.unwrap();
        let batch = view.batches().next().unwrap().unwrap();
        let record =
            batch.records().map(|record| record.unwrap()).find(|r| r.offset().get() == offset).unwrap();
        assert_eq!(record.value(), Some(&value(n, offset)[..]));
        if chance % 50 == 0 {
            let found = partition.offset_for_time(Timestamp::from_millis(offset)).unwrap();
            assert_eq!(found.map(|(at, _)| at.get()), Some(offset));
        }
    }
}

fn all_at_once(env: Env, dir: &std::path::Path, region: RegionMode, read: ReadMode) {
    let scene = scene(env, dir, region, read);
    std::thread::scope(|scope| {
        let scene = &*scene;
        let background = scope.spawn(move || {
            while !scene.done.load(Ordering::SeqCst) {
                match scene.log.step(scene.log.env().clock.now()) {
                    Ok(_) => std::thread::sleep(Duration::from_micros(200)),
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let lookers: Vec<_> = (0..2).map(|seed| scope.spawn(move || look_up(scene, seed))).collect();
        let workers: Vec<_> = (0..PARTITIONS)
            .flat_map(|n| [scope.spawn(move || append(scene, n)), scope.spawn(move || follow(scene, n))])
            .collect();
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        scene.done.store(true, Ordering::SeqCst);
        for result in results.into_iter().chain(lookers.into_iter().map(|l| l.join())) {
            result.unwrap();
        }
        background.join().unwrap();
    });
    scene.log.close().unwrap();
    assert!(matches!(scene.log.partition(&TopicPartition::new("written", 0)), Err(Error::Closed { .. })));
}

#[test]
fn through_a_mapping() {
    all_at_once(Env::in_memory(), "/log".as_ref(), RegionMode::Mapped, ReadMode::Mapped);
}

#[test]
fn through_a_ring() {
    all_at_once(Env::in_memory(), "/log".as_ref(), RegionMode::Written, ReadMode::Mapped);
}

#[test]
fn with_copies() {
    all_at_once(Env::in_memory(), "/log".as_ref(), RegionMode::Mapped, ReadMode::Copy);
}

#[test]
fn on_the_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    all_at_once(Env::system(), dir.path(), RegionMode::Auto, ReadMode::Mapped);
}
