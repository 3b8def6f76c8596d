//! The promise: in a compacted topic the last record of every key stays, where it was and as it was, whatever happens
//! while the others go. The oracle is a map from key to the last record written.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use girok_engine::batch::{Batch, BatchBuilder, Codec, ValidBatch, decompress};
use girok_engine::{
    CleanupPolicy, Clock, Durability, Env, Error, FetchBounds, Log, LogConfig, MemoryDisk, Offset, Partition,
    ReadMode, RecoveryReport, SeededChance, Timestamp, TopicConfig, TopicPartition, View,
};
use rustix::io::Errno;
use support::{Rng, SimClock, SimWorld};

/// A record as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    offset: i64,
    time: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

fn records_of(view: &View) -> Vec<Record> {
    let mut records = Vec::new();
    let mut image = Vec::new();
    for batch in view.batches() {
        let batch = batch.unwrap();
        batch.check_crc().unwrap();
        if batch.header().is_control() {
            continue;
        }
        let batch = match batch.header().is_compressed() {
            false => batch,
            true => {
                decompress(&batch, &mut image, 1 << 20).unwrap();
                Batch::parse(&image).unwrap()
            }
        };
        records.extend(batch.records().map(|record| {
            let record = record.unwrap();
            Record {
                offset: record.offset().get(),
                time: record.timestamp().as_millis(),
                key: record.key().map(<[u8]>::to_vec),
                value: record.value().map(<[u8]>::to_vec),
            }
        }));
    }
    records
}

/// Everything from `from` to the end, with offsets that rise.
fn read_from(partition: &Partition, from: Offset) -> Vec<Record> {
    let mut reader = partition.reader(from);
    let mut all: Vec<Record> = Vec::new();
    loop {
        let view = reader.read(&FetchBounds { bytes_max: 700, ..FetchBounds::default() }).unwrap();
        if view.is_empty() {
            assert_eq!(reader.position(), partition.high_watermark(), "a reader stopped before the end");
            return all;
        }
        for record in records_of(&view) {
            assert!(all.last().is_none_or(|last| last.offset < record.offset), "{record:?} comes late");
            all.push(record);
        }
    }
}

fn read_all(partition: &Partition) -> Vec<Record> {
    read_from(partition, partition.start_offset())
}

/// A compacted topic and what was ever written to it.
struct Scene {
    clock: Arc<SimClock>,
    log: Log,
    orders: Partition,
    /// Every record, by offset.
    written: Vec<Record>,
}

const CHECK_MS: u64 = 60_000;

fn log_config() -> LogConfig {
    LogConfig { retention_check_ms: CHECK_MS, ..LogConfig::default() }
}

fn compacted() -> TopicConfig {
    TopicConfig {
        cleanup_policy: CleanupPolicy::Compact,
        segment_bytes: 4096,
        min_cleanable_dirty_ratio: 0.0,
        ..TopicConfig::default()
    }
}

fn name() -> TopicPartition {
    TopicPartition::new("orders", 0)
}

impl Scene {
    fn new(env: Env, clock: Arc<SimClock>, log_config: LogConfig, config: TopicConfig) -> Self {
        let (log, _) = Log::open(env, "/log", log_config).unwrap();
        log.create_topic("orders", 1, config).unwrap();
        let orders = log.partition(&name()).unwrap();
        Scene { clock, log, orders, written: Vec::new() }
    }

    fn in_world(world: &SimWorld, log_config: LogConfig, config: TopicConfig) -> Self {
        Scene::new(world.env(), world.clock.clone(), log_config, config)
    }

    fn in_memory(log_config: LogConfig, config: TopicConfig) -> Self {
        let clock = Arc::new(SimClock::new());
        let chance = Arc::new(SeededChance::new(1));
        let env = Env { disk: Arc::new(MemoryDisk::new()), clock: clock.clone(), chance };
        Scene::new(env, clock, log_config, config)
    }

    /// One batch.
    fn write(&mut self, codec: Codec, records: &[(&str, Option<&str>)]) -> Offset {
        let mut batch = BatchBuilder::new(codec);
        let time = self.clock.wall();
        for (key, value) in records {
            batch.append(time, Some(key.as_bytes()), value.map(str::as_bytes), &[("h", Some(b"x"))]).unwrap();
        }
        let appended = self.orders.append(&batch.finish().unwrap()).unwrap();
        assert_eq!(appended.base_offset.get(), self.written.len() as i64);
        for (key, value) in records {
            self.written.push(Record {
                offset: self.written.len() as i64,
                time: time.as_millis(),
                key: Some(key.as_bytes().to_vec()),
                value: value.map(|value| value.as_bytes().to_vec()),
            });
        }
        appended.base_offset
    }

    /// Keys of their own and large values until the present segment has rolled.
    fn roll(&mut self) {
        let segments = self.orders.segments();
        while self.orders.segments() == segments {
            let key = format!("filler {}", self.written.len());
            self.write(Codec::None, &[(&key, Some(&"x".repeat(400)))]);
        }
        self.orders.sync().unwrap();
    }

    fn step(&self) -> Result<(), Error> {
        loop {
            let now = self.clock.now();
            if self.log.step(now)? > now {
                return Ok(());
            }
        }
    }

    /// Lets the background look for something to compact, and do all of it.
    fn compact(&self) {
        self.orders.sync().unwrap();
        self.clock.advance(Duration::from_millis(CHECK_MS));
        self.step().unwrap();
    }

    /// The last record of each key.
    fn last(&self) -> BTreeMap<Vec<u8>, &Record> {
        self.written.iter().map(|record| (record.key.clone().unwrap(), record)).collect()
    }

    /// What the log holds is what was written; the last record of each key is there, unless it is a tombstone.
    fn check(&self) -> Vec<Record> {
        let all = read_all(&self.orders);
        for record in &all {
            assert_eq!(*record, self.written[record.offset as usize], "what stays is not changed");
        }
        for (key, last) in self.last() {
            let there = all.iter().rev().find(|record| record.key.as_ref() == Some(&key));
            match there {
                Some(there) => assert_eq!(there, last, "an old record of {key:?} has come to the end"),
                None => assert_eq!(last.value, None, "{last:?} is gone"),
            }
        }
        assert_eq!(self.orders.end_offset().get(), self.written.len() as i64);
        all
    }

    fn has(&self, offset: Offset) -> bool {
        read_all(&self.orders).iter().any(|record| record.offset == offset.get())
    }

    /// Everything that may be compacted is: of each key one record stands before the active segment.
    fn check_compact(&self, all: &[Record], active_from: Offset) {
        let mut seen = BTreeMap::new();
        for record in all.iter().filter(|record| record.offset < active_from.get()) {
            if let Some(before) = seen.insert(record.key.clone(), record.offset) {
                panic!("key {:?} stands at {before} and at {}", record.key, record.offset);
            }
        }
    }

    fn reopen(&mut self, env: Env, log_config: LogConfig) -> RecoveryReport {
        let (log, report) = Log::open(env, "/log", log_config).unwrap();
        assert!(report.refused.is_empty(), "{:?}", report.refused);
        self.orders = log.partition(&name()).unwrap();
        self.log = log;
        report
    }
}

/// Three values of one key: the last one stays, at its offset, and reads from anywhere before find it.
#[test]
fn the_last_value_stays_where_it_was() {
    let mut scene = Scene::in_memory(log_config(), compacted());
    for value in ["new", "paid", "sent"] {
        scene.write(Codec::None, &[("order 1", Some(value))]);
    }
    scene.roll();
    scene.compact();

    let all = scene.check();
    assert_eq!((all[0].offset, all[0].value.as_deref()), (2, Some(&b"sent"[..])));
    assert_eq!(scene.orders.start_offset(), Offset::ZERO, "compaction does not move the start");
    for offset in 0..3 {
        let view = scene.orders.fetch(Offset::new(offset), &FetchBounds::default()).unwrap();
        assert_eq!(records_of(&view)[0].offset, 2, "offset {offset} is in a hole: the next batch answers");
        assert_eq!(view.from(), Offset::new(offset));
    }
}

/// A log whose every record is superseded keeps its end: no offset is ever given out twice.
#[test]
fn a_log_of_nothing_but_the_past_keeps_its_end() {
    let world = SimWorld::from_seed(3);
    let config = TopicConfig { delete_retention_ms: 0, ..compacted() };
    let mut scene = Scene::in_world(&world, log_config(), config);
    for round in 0..3 {
        for key in 0..40 {
            let (key, value) = (format!("{key}"), format!("{}", round).repeat(60));
            scene.write(Codec::None, &[(&key, (round < 2).then_some(&*value))]);
        }
    }
    scene.compact();
    // The tombstones get their horizon, and once it is past they go.
    for _ in 0..2 {
        scene.roll();
        scene.compact();
    }
    scene.check();
    assert!(!scene.has(Offset::new(100)), "a tombstone outlived its horizon");

    let end = scene.orders.end_offset();
    scene.log.close().unwrap();
    let report = scene.reopen(world.env(), log_config());
    assert!(report.clean);
    assert_eq!(scene.orders.end_offset(), end);
    assert_eq!(scene.orders.start_offset(), Offset::ZERO);
    scene.check();

    drop(scene.log.clone());
    world.disk.power_cut();
    let report = scene.reopen(world.env(), log_config());
    assert_eq!(report.cut().count(), 0);
    assert_eq!(scene.orders.end_offset(), end);
    scene.check();
}

/// A tombstone deletes what came before it at once, and stays itself until those who read late have had their time.
#[test]
fn a_tombstone_stays_for_delete_retention_ms() {
    let config = TopicConfig { delete_retention_ms: 10 * CHECK_MS, ..compacted() };
    let mut scene = Scene::in_memory(log_config(), config);
    scene.write(Codec::None, &[("order 1", Some("new")), ("order 2", Some("new"))]);
    let tombstone = scene.write(Codec::Lz4, &[("order 1", None), ("order 3", Some("new"))]);
    scene.roll();

    scene.compact();
    assert!(!scene.has(Offset::ZERO) && scene.has(tombstone));
    let view = scene.orders.fetch(tombstone, &FetchBounds::default()).unwrap();
    let horizon = {
        let batch = view.batches().next().unwrap().unwrap();
        assert_eq!(batch.header().codec().unwrap(), Codec::Lz4);
        batch.header().delete_horizon().expect("the first cleaning sets it")
    };
    assert_eq!(horizon.as_millis(), scene.clock.wall().as_millis() + 10 * CHECK_MS as i64);

    // Cleaned again and again it stays, and its horizon with it.
    for _ in 0..8 {
        scene.roll();
        scene.compact();
        assert!(scene.has(tombstone));
    }
    assert!(scene.clock.wall() < horizon);
    for _ in 0..2 {
        scene.roll();
        scene.compact();
    }
    assert!(scene.clock.wall() >= horizon && !scene.has(tombstone));
    assert!(scene.has(tombstone + 1), "only the tombstone went");
    scene.check();
}

/// Random writes, tombstones, codecs, rolls, compactions, time passing, clean closes, deaths and power cuts.
#[test]
fn any_day_ends_with_the_last_record_of_every_key() {
    for seed in 0..60 {
        a_day(seed, 40);
    }
}

fn a_day(seed: u64, hours: u32) {
    let world = SimWorld::from_seed(seed);
    let rng = Rng::new(seed ^ 0xC0FFEE);
    let log_config = LogConfig {
        compaction_map_bytes: *rng.pick(&[4096, 1 << 20]),
        read: *rng.pick(&[ReadMode::Mapped, ReadMode::Copy]),
        ..log_config()
    };
    let config = TopicConfig {
        delete_retention_ms: *rng.pick(&[0, CHECK_MS, 5 * CHECK_MS]),
        segment_bytes: *rng.pick(&[4096, 8192]),
        min_cleanable_dirty_ratio: *rng.pick(&[0.0, 0.3]),
        ..compacted()
    };
    let keys = *rng.pick(&[3, 20, 300]);
    let mut scene = Scene::in_world(&world, log_config.clone(), config);
    println!("seed {seed}: {keys} keys");
    for hour in 0..hours {
        for _ in 0..rng.below(25) {
            let records: Vec<(String, Option<String>)> = (0..rng.between(1, 4))
                .map(|_| {
                    let value = format!("{hour} ").repeat(rng.between(1, 40) as usize);
                    (format!("key {}", rng.below(keys)), (!rng.chance(0.2)).then_some(value))
                })
                .collect();
            let records: Vec<_> = records.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
            scene.write(*rng.pick(&Codec::ALL), &records);
        }
        scene.orders.sync().unwrap();
        match rng.below(8) {
            0..5 => scene.compact(),
            5 => {
                scene.log.close().unwrap();
                assert!(scene.reopen(world.env(), log_config.clone()).clean);
            }
            6 => {
                world.disk.process_death();
                assert_eq!(scene.reopen(world.env(), log_config.clone()).cut().count(), 0, "hour {hour}");
            }
            _ => {
                world.disk.power_cut();
                assert_eq!(scene.reopen(world.env(), log_config.clone()).cut().count(), 0, "hour {hour}");
            }
        }
        scene.check();
    }
    scene.compact();
    scene.check();
}

/// Two worlds of one seed, in which segments were merged, shrunk and left alone.
fn before_a_compaction(seed: u64) -> (SimWorld, Scene) {
    let world = SimWorld::from_seed(seed);
    let config = TopicConfig { segment_bytes: 8192, delete_retention_ms: 0, ..compacted() };
    let mut scene = Scene::in_world(&world, log_config(), config);
    for n in 0..seed % 3 * 40 + 320 {
        let (key, value) = (format!("key {}", n % 23), format!("{n} ").repeat(40));
        let tombstone = n % 23 == 7 && n > 60;
        scene.write(*support::Rng::new(n).pick(&Codec::ALL), &[(&key, (!tombstone).then_some(&*value))]);
        if n % 50 == 49 && n < 160 {
            scene.compact();
        }
    }
    scene.orders.sync().unwrap();
    if seed % 2 == 1 {
        // Otherwise the checkpoint is older than the segments that are about to be replaced.
        scene.log.save_checkpoint().unwrap();
    }
    scene.clock.advance(Duration::from_millis(CHECK_MS));
    (world, scene)
}

/// The compaction dies at each of its disk operations in turn, by a power cut or by SIGKILL. Whatever is found
/// afterwards is complete, is not cut, and can be compacted.
#[test]
fn a_crash_at_any_operation_loses_nothing() {
    for (seed, power) in [(1, true), (2, false), (5, true), (6, true)] {
        let (world, scene) = before_a_compaction(seed);
        let before = world.disk.operations();
        scene.step().unwrap();
        let operations = world.disk.operations() - before;
        assert!(operations > 30, "{operations}: hardly anything happened");
        for n in 1..=operations {
            let (world, mut scene) = before_a_compaction(seed);
            // Dead from here on: nothing that is tried afterwards, to tidy up, gets through.
            for later in n..n + 60 {
                world.disk.fail_nth(later, Errno::IO);
            }
            let _ = scene.step();
            if power {
                world.disk.power_cut()
            } else {
                world.disk.process_death()
            }
            forgive(&world);

            let report = scene.reopen(world.env(), log_config());
            assert_eq!(report.cut().count(), 0, "seed {seed}, operation {n}: {report:?}");
            scene.check();
            scene.roll();
            scene.compact();
            scene.check();
        }
    }
}

/// Two segments of which half is left make one that is exactly as long as the first was. A crash between the rename and
/// the removal of the second must not pass for "nothing has happened".
#[test]
fn a_merge_may_come_out_as_long_as_what_it_replaces() {
    let scene = || {
        let world = SimWorld::from_seed(12);
        let mut scene = Scene::in_world(&world, log_config(), compacted());
        let mut bases = vec![0];
        for n in 0..10_000 {
            // All batches have one size; every second one is superseded until the third segment begins.
            let again = if bases.len() < 3 { n % 2 == 0 } else { n == bases[2] + 1 };
            let key = if again { "key 0000".into() } else { format!("key {n:04}") };
            let segments = scene.orders.segments();
            scene.write(Codec::None, &[(&key, Some("a value of some length"))]);
            if scene.orders.segments() > segments {
                bases.push(n);
            }
            if bases.len() == 4 {
                break;
            }
        }
        assert!(bases[1] % 2 == 0 && bases[2] == 2 * bases[1], "{bases:?}");
        // One and a half segments fit into a file now: what is left of the first, and the second.
        scene.log.alter_topic("orders", TopicConfig { segment_bytes: 6200, ..compacted() }).unwrap();
        scene.orders.sync().unwrap();
        scene.log.save_checkpoint().unwrap();
        scene.clock.advance(Duration::from_millis(CHECK_MS));
        (world, scene)
    };
    let (world, done) = scene();
    let before = world.disk.operations();
    done.step().unwrap();
    for n in 1..=world.disk.operations() - before {
        for power in [true, false] {
            let (world, mut scene) = scene();
            for later in n..n + 60 {
                world.disk.fail_nth(later, Errno::IO);
            }
            let _ = scene.step();
            if power {
                world.disk.power_cut()
            } else {
                world.disk.process_death()
            }
            forgive(&world);
            let report = scene.reopen(world.env(), log_config());
            assert_eq!(report.cut().count(), 0, "operation {n}: {report:?}");
            scene.check();
        }
    }
}

/// Lets failures that are still to come go by.
fn forgive(world: &SimWorld) {
    for _ in 0..100 {
        let _ = girok_engine::disk::Disk::list(&*world.disk, Path::new("/log"));
    }
}

/// One operation fails and the rest do not: the log lives on, and the next look finishes what was begun.
#[test]
fn a_failed_operation_is_made_up_for() {
    let (world, scene) = before_a_compaction(4);
    let before = world.disk.operations();
    scene.step().unwrap();
    for n in 1..=world.disk.operations() - before {
        let (world, mut scene) = before_a_compaction(4);
        world.disk.fail_nth(n, Errno::IO);
        let _ = scene.step();
        forgive(&world);
        scene.check();
        scene.clock.advance(Duration::from_millis(CHECK_MS));
        let _ = scene.step();
        scene.check();

        // And so does the next process.
        if n % 2 == 0 {
            let _ = scene.log.close();
        } else {
            world.disk.power_cut();
        }
        let report = scene.reopen(world.env(), log_config());
        assert_eq!(report.cut().count(), 0, "operation {n}: {report:?}");
        scene.check();
        scene.roll();
        scene.compact();
        let leftovers: Vec<_> = girok_engine::disk::Disk::list(&*world.disk, Path::new("/log/orders-0"))
            .unwrap()
            .into_iter()
            .filter(|entry| entry.name.contains(".cleaned") || entry.name.contains(".tmp"))
            .collect();
        assert_eq!(leftovers, [], "operation {n}");
        scene.check();
    }
}

/// A full disk: the compaction says so, nothing is lost, and it goes through once there is room.
#[test]
fn a_full_disk_postpones_it() {
    let (world, scene) = before_a_compaction(8);
    world.disk.set_capacity(world.disk.used_bytes());
    let refused = scene.step().unwrap_err();
    assert!(matches!(refused, Error::NoRoom { .. }), "{refused}");
    scene.check();

    world.disk.set_capacity(u64::MAX);
    let bytes = scene.orders.bytes();
    scene.clock.advance(Duration::from_millis(CHECK_MS));
    scene.step().unwrap();
    assert!(scene.orders.bytes() < bytes);
    scene.check();
}

/// Whoever holds a view keeps its bytes; whoever reads on from the middle of a replaced segment misses nothing, also
/// where the next records stand in a segment that now begins before the reader's place.
#[test]
fn readers_and_views_live_through_the_swap() {
    for read in [ReadMode::Mapped, ReadMode::Copy] {
        let log_config = LogConfig { read, mappings_max: 8, ..log_config() };
        let mut scene = Scene::in_memory(log_config, TopicConfig { segment_bytes: 16384, ..compacted() });
        for n in 0..600 {
            let value = format!("{n} ").repeat(20);
            let key = if n % 5 == 0 { format!("own {n}") } else { format!("key {}", n % 50) };
            scene.write(Codec::None, &[(&key, Some(&value))]);
        }
        scene.orders.sync().unwrap();
        let (segments, bytes) = (scene.orders.segments(), scene.orders.bytes());
        assert!(segments > 3);

        let bounds = FetchBounds { bytes_max: 2000, ..FetchBounds::default() };
        let mut readers: Vec<_> =
            (0..600).step_by(7).map(|at| (at, scene.orders.reader(Offset::new(at)), Vec::new())).collect();
        let mut views = Vec::new();
        for (_, reader, seen) in &mut readers {
            let view = reader.read(&bounds).unwrap();
            seen.extend(records_of(&view));
            views.push((view.to_vec(), view));
        }

        scene.log.alter_topic("orders", TopicConfig { segment_bytes: 64 << 10, ..compacted() }).unwrap();
        scene.compact();
        assert!(scene.orders.segments() < segments, "small segments were merged");
        assert!(scene.orders.bytes() < bytes / 2);
        for (bytes, view) in &views {
            assert!(view.bytes() == &bytes[..], "a view has changed under its holder");
        }
        if read == ReadMode::Mapped {
            assert!(scene.log.stats().held_removed_bytes > 0, "what views hold is a number somebody can see");
        }
        for (at, reader, seen) in &mut readers {
            loop {
                let view = reader.read(&bounds).unwrap();
                if view.is_empty() {
                    break;
                }
                seen.extend(records_of(&view));
            }
            assert!(seen.windows(2).all(|pair| pair[0].offset < pair[1].offset), "from {at}");
            for last in scene.last().values().filter(|last| last.offset >= *at) {
                assert!(seen.contains(last), "a reader that began at {at} missed {last:?}");
            }
        }
        drop((readers, views));
        for _ in 0..1000 {
            // Epochs need some traffic before they let go.
            scene.orders.fetch(Offset::ZERO, &bounds).unwrap();
            scene.log.step(scene.clock.now()).unwrap();
            if scene.log.stats().held_removed_bytes == 0 {
                break;
            }
            scene.write(Codec::None, &[("traffic", Some(&"z".repeat(3000)))]);
        }
        assert_eq!(scene.log.stats().held_removed_bytes, 0, "nobody holds it any more");
    }
}

/// Appenders, readers and the cleaner at once, on threads.
#[test]
fn nobody_stops_for_it() {
    let (log, _) =
        Log::open(Env::in_memory(), "/log", LogConfig { retention_check_ms: 1, ..log_config() }).unwrap();
    let config = TopicConfig { durability: Durability::Written, segment_bytes: 32 << 10, ..compacted() };
    log.create_topic("orders", 1, config).unwrap();
    let orders = log.partition(&name()).unwrap();
    let done = AtomicBool::new(false);
    const KEYS: u64 = 40;
    const WRITES: u64 = 20_000;
    std::thread::scope(|scope| {
        let cleaner = scope.spawn(|| {
            let clock = log.env().clock.clone();
            while !done.load(Ordering::Relaxed) {
                log.step(clock.now()).unwrap();
                std::thread::yield_now();
            }
        });
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    // Each sees every key's versions rise, and in the end the last of each.
                    let mut newest = BTreeMap::new();
                    let mut reader = orders.reader(Offset::ZERO);
                    while reader.position().get() < WRITES as i64 {
                        let view =
                            reader.read(&FetchBounds { bytes_max: 5000, ..FetchBounds::default() }).unwrap();
                        if view.is_empty() {
                            orders.wait_readable(reader.position(), Some(Duration::from_millis(20))).unwrap();
                        }
                        for record in records_of(&view) {
                            let before = newest.insert(record.key.clone(), record.offset);
                            assert!(before < Some(record.offset), "{before:?} {record:?}");
                        }
                    }
                    newest
                })
            })
            .collect();
        let mut batch = BatchBuilder::new(Codec::None);
        for n in 0..WRITES {
            batch.clear();
            let (key, value) = (format!("key {}", n % KEYS), [b'v'; 60]);
            batch.append(Timestamp::from_millis(n as i64), Some(key.as_bytes()), Some(&value), &[]).unwrap();
            orders.append(&batch.finish().unwrap()).unwrap();
            // The log would be three times this: so the cleaner does its work while the others do theirs.
            let begun = std::time::Instant::now();
            while orders.bytes() > 900_000 {
                assert!(begun.elapsed() < Duration::from_secs(60), "nobody compacts");
                std::thread::yield_now();
            }
        }
        for reader in readers {
            let newest = reader.join().unwrap();
            assert_eq!(newest.len() as u64, KEYS);
            assert!(newest.values().all(|offset| *offset >= (WRITES - KEYS) as i64));
        }
        done.store(true, Ordering::Relaxed);
        cleaner.join().unwrap();
    });
    log.close().unwrap();
}

/// A map that holds a hundred keys cleans a thousand of them, in rounds.
#[test]
fn a_small_map_takes_several_rounds() {
    let small = LogConfig { compaction_map_bytes: 4096, ..log_config() };
    let mut scene = Scene::in_memory(small, compacted());
    for n in 0..2000 {
        scene.write(Codec::None, &[(&format!("key {}", n % 1000), Some(&"x".repeat(30)))]);
    }
    scene.roll();
    let active_from = Offset::new(scene.written.len() as i64 - 30);
    scene.compact();
    let all = scene.check();
    scene.check_compact(&all, active_from);
    assert!(all.len() < 1100, "{} records are left of 2000", all.len());
}

/// Where one batch alone has more keys than the map holds, a round ends inside the batch.
#[test]
fn a_round_may_end_inside_a_batch() {
    let small = LogConfig { compaction_map_bytes: 4096, ..log_config() };
    let mut scene = Scene::in_memory(small, TopicConfig { segment_bytes: 64 << 10, ..compacted() });
    let keys: Vec<String> = (0..1000).map(|n| format!("{n}")).collect();
    for codec in [Codec::Gzip, Codec::None, Codec::Snappy] {
        let batch: Vec<_> = keys.iter().map(|key| (key.as_str(), Some("value"))).collect();
        scene.write(codec, &batch);
    }
    scene.roll();
    scene.compact();
    let all = scene.check();
    assert!(all.iter().all(|record| record.offset >= 2000), "only the third batch has last records");
    assert_eq!(all.iter().filter(|record| record.offset < 3000).count(), 1000);
}

/// What is young, what is not sealed and what is too little to bother stays as it is.
#[test]
fn what_must_not_be_cleaned_is_not() {
    let day_ms = 24 * 3_600_000;
    let config = TopicConfig { min_compaction_lag_ms: day_ms, ..compacted() };
    let mut scene = Scene::in_memory(log_config(), config.clone());
    let old = scene.write(Codec::None, &[("order 1", Some("new"))]);
    scene.write(Codec::None, &[("order 1", Some("paid"))]);
    scene.roll();
    scene.compact();
    assert!(scene.has(old), "younger than min.compaction.lag.ms");
    scene.clock.advance(Duration::from_millis(day_ms));
    scene.compact();
    assert!(!scene.has(old));

    // The active segment never is.
    let active = scene.write(Codec::None, &[("order 2", Some("new"))]);
    scene.write(Codec::None, &[("order 2", Some("paid"))]);
    scene.clock.advance(Duration::from_millis(2 * day_ms));
    scene.compact();
    assert!(scene.has(active));

    // With a dirty ratio of a half it takes as much dirt as there is clean log, or a record that waited too long.
    let config = TopicConfig { min_cleanable_dirty_ratio: 0.5, max_compaction_lag_ms: day_ms, ..compacted() };
    let mut scene = Scene::in_memory(log_config(), config);
    for _ in 0..6 {
        scene.roll();
    }
    scene.compact();
    let old = scene.write(Codec::None, &[("order 1", Some("new"))]);
    scene.write(Codec::None, &[("order 1", Some("paid"))]);
    scene.roll();
    scene.compact();
    assert!(scene.has(old), "one segment in seven is dirty");
    scene.clock.advance(Duration::from_millis(day_ms));
    scene.compact();
    assert!(!scene.has(old), "older than max.compaction.lag.ms");
    // Nor may it wait in the active segment for longer.
    scene.write(Codec::None, &[("order 3", Some("new"))]);
    scene.step().unwrap();
    let segments = scene.orders.segments();
    scene.clock.advance(Duration::from_millis(day_ms));
    scene.step().unwrap();
    assert_eq!(scene.orders.segments(), segments + 1);
    // An idle partition's neither: its last segment is closed, and rolls all the same.
    let waiting = scene.write(Codec::None, &[("order 3", Some("paid"))]);
    scene.orders.sync().unwrap();
    for _ in 0..3 {
        scene.clock.advance(Duration::from_secs(60));
        scene.step().unwrap();
    }
    assert_eq!(scene.log.stats().regions, 0);
    for _ in 0..2 {
        scene.clock.advance(Duration::from_millis(day_ms));
        scene.step().unwrap();
    }
    assert!(!scene.has(Offset::new(waiting.get() - 1)) && scene.has(waiting));
    scene.check();
}

/// `compact,delete`: what retention takes while a cleaning is under way is gone, and nothing else.
#[test]
fn retention_and_compaction_share_a_log() {
    let config = TopicConfig {
        cleanup_policy: CleanupPolicy::CompactAndDelete,
        retention_ms: Some(5 * CHECK_MS),
        ..compacted()
    };
    let mut scene = Scene::in_memory(log_config(), config);
    for n in 0..300 {
        scene.write(Codec::None, &[(&format!("key {}", n % 90), Some(&"x".repeat(60)))]);
        if n % 20 == 19 {
            scene.compact();
        }
    }
    assert!(scene.orders.start_offset() > Offset::ZERO);
    let all = read_all(&scene.orders);
    for (_, last) in scene.last() {
        let kept = last.offset >= scene.orders.start_offset().get();
        assert_eq!(kept, all.contains(last), "{last:?}");
    }
    let start = scene.orders.delete_records(Offset::new(290)).unwrap();
    scene.compact();
    assert!(read_all(&scene.orders).iter().all(|record| record.offset >= start.get()));
}

/// A topic that goes while it is being compacted is gone, folder and all.
#[test]
fn a_topic_may_be_deleted_in_the_middle() {
    let mut scene = Scene::in_memory(log_config(), TopicConfig { segment_bytes: 16 << 20, ..compacted() });
    let value = "x".repeat(200_000);
    for n in 0..180 {
        scene.write(Codec::None, &[(&format!("key {}", n % 3), Some(&value))]);
    }
    scene.orders.sync().unwrap();
    scene.clock.advance(Duration::from_millis(CHECK_MS));
    let now = scene.clock.now();
    for _ in 0..6 {
        assert!(scene.log.step(now).unwrap() <= now, "more to do: a step takes some megabytes at a time");
    }
    let disk = scene.log.env().disk.clone();
    let folder = PathBuf::from("/log/orders-0");
    assert!(disk.list(&folder).unwrap().iter().any(|entry| entry.name.ends_with(".log.cleaned")));
    scene.log.delete_topic("orders").unwrap();
    assert!(!disk.is_dir(&folder));
    scene.log.step(now).unwrap();
    scene.log.close().unwrap();
}

/// A folder that Kafka compacted: adopted, read, and compacted on by the same rules.
#[test]
fn kafkas_own_compacted_log_goes_on() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/segments/g-compact-0");
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("g-compact-0");
    std::fs::create_dir(&folder).unwrap();
    for file in std::fs::read_dir(golden).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.join(file.file_name())).unwrap();
    }
    let clock = Arc::new(SimClock::new());
    let env = || Env { clock: clock.clone(), ..Env::system() };
    let (log, report) = Log::open(env(), dir.path(), log_config()).unwrap();
    assert!(report.refused.is_empty() && report.cut().count() == 0, "{report:?}");
    let partition = log.partition(&TopicPartition::new("g-compact", 0)).unwrap();
    let all = read_all(&partition);
    assert_eq!((all[0].offset, all.len(), partition.end_offset().get()), (112, 10 + 41, 164));
    for hole in [0, 50, 82, 111] {
        let view = partition.fetch(Offset::new(hole), &FetchBounds::default()).unwrap();
        assert_eq!(records_of(&view)[0].offset, 112, "from {hole}");
    }

    // A crash now: the checkpoint knows the holes.
    std::mem::forget(log);
    drop(partition);
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), copy.path());
    let (log, report) = Log::open(env(), copy.path(), log_config()).unwrap();
    assert!(report.refused.is_empty() && report.cut().count() == 0, "{report:?}");
    log.alter_topic("g-compact", compacted()).unwrap();
    let partition = log.partition(&TopicPartition::new("g-compact", 0)).unwrap();
    let mut batch = BatchBuilder::new(Codec::None);
    for n in 0..100 {
        batch.clear();
        batch
            .append(clock.wall(), Some(format!("new {}", n % 7).as_bytes()), Some(&[b'x'; 100]), &[])
            .unwrap();
        partition.append(&batch.finish().unwrap()).unwrap();
    }
    partition.sync().unwrap();
    for _ in 0..2 {
        clock.advance(Duration::from_millis(CHECK_MS));
        log.step(clock.now()).unwrap();
    }
    let all = read_all(&partition);
    for key in 0..10 {
        let key = format!("key-{key}").into_bytes();
        let there: Vec<_> = all.iter().filter(|record| record.key.as_ref() == Some(&key)).collect();
        let last_of_kafka = 123 + if key == b"key-3" { 40 } else { 30 + i64::from(key[4] - b'0') };
        assert_eq!(there.len(), 1, "{there:?}");
        assert_eq!(there[0].offset, last_of_kafka);
    }
    log.close().unwrap();
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &to.join(entry.file_name()));
        } else if entry.file_name() != "girok.lock" {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Nothing could ever supersede a record without a key, so a compacted topic takes none, as in Kafka; the batch goes
/// as a whole, by whatever codec and from whatever maker. What a topic has from before it became compacted goes with
/// the first cleaning, as in Kafka too.
#[test]
fn a_compacted_topic_takes_no_record_without_a_key() {
    let keeping = TopicConfig { cleanup_policy: CleanupPolicy::Delete, ..compacted() };
    let scene = Scene::in_memory(LogConfig::default(), keeping.clone());
    for codec in [Codec::None, Codec::Lz4] {
        let mut batch = BatchBuilder::new(codec);
        batch.append(Timestamp::from_millis(1), Some(b"key"), Some(b"value"), &[]).unwrap();
        batch.append(Timestamp::from_millis(2), None, Some(b"value"), &[]).unwrap();
        scene.log.alter_topic("orders", keeping.clone()).unwrap();
        scene.orders.append(&batch.finish().unwrap()).unwrap();
        let end = scene.orders.end_offset();

        scene.log.alter_topic("orders", compacted()).unwrap();
        let bytes = batch.finish().unwrap().to_vec();
        for refused in [batch.finish().unwrap(), ValidBatch::check(&bytes, 1 << 20).unwrap()] {
            let error = scene.orders.append(&refused).unwrap_err().to_string();
            assert!(error.contains("expected a key, because orders-0 is compacted"), "{error}");
        }
        assert_eq!(scene.orders.end_offset(), end, "nothing was taken");
        batch.clear();
        batch.append(Timestamp::from_millis(3), Some(b"key"), None, &[]).unwrap();
        assert_eq!(scene.orders.append(&batch.finish().unwrap()).unwrap().base_offset, end);
    }
    scene.orders.sync().unwrap();
    assert!(read_all(&scene.orders).iter().any(|record| record.key.is_none()));
    let mut batch = BatchBuilder::new(Codec::None);
    batch.append(Timestamp::from_millis(4), Some(b"filler"), Some(&[b'x'; 3000]), &[]).unwrap();
    for _ in 0..3 {
        scene.orders.append(&batch.finish().unwrap()).unwrap();
    }
    scene.orders.sync().unwrap();
    scene.clock.advance(Duration::from_secs(3600));
    scene.step().unwrap();
    assert!(read_all(&scene.orders).iter().all(|record| record.key.is_some()));
}
