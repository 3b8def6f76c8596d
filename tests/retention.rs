//! The promise: what is kept is what was asked for, by time and by size, and nothing that somebody still reads is
//! taken from under them.

mod support;

use std::time::Duration;

use girok_engine::batch::{BatchBuilder, Codec};
use girok_engine::{
    Clock, Durability, Error, FetchBounds, Log, LogConfig, Offset, Partition, Timestamp, TopicConfig,
    TopicPartition,
};
use support::SimWorld;

/// A log in a quiet world, and a topic `t` of one partition.
struct Scene {
    world: SimWorld,
    log: Log,
    partition: Partition,
}

fn scene(directory: LogConfig, topic: TopicConfig) -> Scene {
    let world = SimWorld::from_seed(11);
    world.disk.set_reserve_bytes(64 << 10);
    let (log, _) = Log::open(world.env(), "/log", directory).unwrap();
    log.create_topic("t", 1, topic).unwrap();
    let partition = log.partition(&TopicPartition::new("t", 0)).unwrap();
    Scene { world, log, partition }
}

fn quick() -> LogConfig {
    LogConfig { retention_check_ms: 1, growth_bytes_min: 4 << 10, ..LogConfig::default() }
}

fn small() -> TopicConfig {
    TopicConfig { segment_bytes: 8 << 10, durability: Durability::Written, ..TopicConfig::default() }
}

impl Scene {
    /// `count` records of a kilobyte, stamped now.
    fn append(&self, count: usize) {
        let mut builder = BatchBuilder::new(Codec::None);
        for _ in 0..count {
            builder.clear();
            builder.append(self.world.clock.wall(), None, Some(&[7; 1000]), &[]).unwrap();
            self.partition.append(&builder.finish().unwrap()).unwrap();
        }
    }

    fn step(&self) {
        // Twice: a sealed segment is first synced, then old enough to go.
        for _ in 0..2 {
            self.world.clock.advance(Duration::from_millis(5));
            self.log.step(self.world.clock.now()).unwrap();
        }
    }

    fn files(&self) -> Vec<String> {
        use girok_engine::disk::Disk;
        let disk = self.world.disk.mount();
        let entries = disk.list("/log/t-0".as_ref()).unwrap();
        entries.into_iter().map(|entry| entry.name).filter(|name| name.ends_with(".log")).collect()
    }
}

#[test]
fn old_segments_go_and_young_ones_stay() {
    let scene = scene(quick(), TopicConfig { retention_ms: Some(60_000), ..small() });
    scene.append(20);
    scene.world.clock.advance(Duration::from_secs(45));
    scene.append(20);
    scene.step();
    assert_eq!(scene.partition.start_offset(), Offset::ZERO, "nothing is a minute old");

    scene.world.clock.advance(Duration::from_secs(30));
    scene.step();
    let start = scene.partition.start_offset();
    assert!(
        start > Offset::ZERO && start <= Offset::new(20),
        "only segments that are old as a whole: {start}"
    );
    assert_eq!(scene.files().len(), scene.partition.segments(), "their files are gone too");
    let error = scene.partition.fetch(Offset::ZERO, &FetchBounds::default()).unwrap_err();
    assert!(matches!(error, Error::OffsetOutOfRange { start: said, .. } if said == start));
}

/// An idle partition is parked, and its last segment goes all the same when its time has come, as Kafka's does.
#[test]
fn an_idle_partition_forgets_too() {
    let scene = scene(
        LogConfig { idle_ms: 100, ..quick() },
        TopicConfig { retention_ms: Some(60_000), segment_ms: 60_000, ..small() },
    );
    scene.append(3);
    for _ in 0..120 {
        scene.world.clock.advance(Duration::from_secs(1));
        scene.step();
    }
    assert_eq!(scene.partition.start_offset(), Offset::new(3), "everything was too old");
    assert_eq!(scene.log.stats().regions, 0, "nobody appends: it is parked again");
    scene.append(1);
    assert_eq!(scene.partition.end_offset(), Offset::new(4));
}

/// Partitions that nobody touches after a restart are looked after like the others, and only those with something to
/// remove are opened for it.
#[test]
fn what_nobody_touches_is_retired_too() {
    for bound in [None, Some(10_000)] {
        let topic = TopicConfig { retention_ms: bound.is_none().then_some(60_000), ..small() };
        let Scene { world, log, partition } = scene(quick(), topic);
        log.create_topic("young", 1, TopicConfig { retention_ms: None, ..small() }).unwrap();
        let young = log.partition(&TopicPartition::new("young", 0)).unwrap();
        let mut builder = BatchBuilder::new(Codec::None);
        for _ in 0..40 {
            builder.clear();
            builder.append(world.clock.wall(), None, Some(&[7; 1000]), &[]).unwrap();
            partition.append(&builder.finish().unwrap()).unwrap();
        }
        young.append(&builder.finish().unwrap()).unwrap();
        log.close().unwrap();
        drop((log, partition, young));

        let config = LogConfig { max_total_bytes: bound, ..quick() };
        let (log, report) = Log::open(world.env(), "/log", config).unwrap();
        assert!(report.clean);
        for _ in 0..3 {
            world.clock.advance(Duration::from_secs(120));
            log.step(world.clock.now()).unwrap();
        }
        assert_eq!(log.stats().partitions_live, 1, "the young one is as cold as before");
        assert!(log.stats().log_bytes <= 10_000, "{} bytes", log.stats().log_bytes);
        let partition = log.partition(&TopicPartition::new("t", 0)).unwrap();
        assert!(partition.start_offset() > Offset::new(20));
        assert_eq!(partition.end_offset(), Offset::new(40));
    }
}

#[test]
fn no_more_than_was_asked_for_by_size_and_no_less() {
    let scene = scene(quick(), TopicConfig { retention_bytes: Some(30_000), retention_ms: None, ..small() });
    scene.append(100);
    scene.step();
    let bytes = scene.partition.bytes();
    // As Kafka: the oldest goes only if at least the bound is left.
    assert!((30_000..30_000 + 8_192).contains(&bytes), "{bytes}");
    assert_eq!(scene.partition.end_offset(), Offset::new(100));
}

#[test]
fn the_directory_as_a_whole_is_bounded() {
    let config = LogConfig { max_total_bytes: Some(50_000), ..quick() };
    let scene = scene(config, TopicConfig { retention_ms: None, ..small() });
    scene.log.create_topic("other", 1, TopicConfig { retention_ms: None, ..small() }).unwrap();
    let other = scene.log.partition(&TopicPartition::new("other", 0)).unwrap();
    scene.append(40);
    scene.world.clock.advance(Duration::from_secs(1));
    let mut builder = BatchBuilder::new(Codec::None);
    for _ in 0..30 {
        builder.clear();
        builder.append(scene.world.clock.wall(), None, Some(&[7; 1000]), &[]).unwrap();
        other.append(&builder.finish().unwrap()).unwrap();
    }
    scene.step();
    assert!(scene.partition.bytes() + other.bytes() <= 50_000);
    assert!(scene.partition.start_offset() > Offset::ZERO, "the oldest records go first, whosever they are");
    assert_eq!(other.start_offset(), Offset::ZERO);
}

#[test]
fn a_quiet_segment_rolls_when_its_time_is_up() {
    let scene = scene(quick(), TopicConfig { segment_ms: 10_000, ..small() });
    scene.append(1);
    scene.step();
    assert_eq!(scene.partition.segments(), 1);
    scene.world.clock.advance(Duration::from_secs(11));
    scene.step();
    assert_eq!(scene.partition.segments(), 2);
    scene.append(1);
    assert_eq!(scene.partition.end_offset(), Offset::new(2));
}

/// Deleted records stay deleted across a clean close and across a power cut.
#[test]
fn deleted_records_stay_deleted() {
    let scene = scene(quick(), TopicConfig { durability: Durability::Synced, ..small() });
    scene.append(30);
    scene.partition.sync().unwrap();
    assert_eq!(scene.partition.delete_records(Offset::new(17)).unwrap(), Offset::new(17));
    assert!(scene.partition.fetch(Offset::new(16), &FetchBounds::default()).is_err());
    let view = scene.partition.fetch(Offset::new(17), &FetchBounds::default()).unwrap();
    assert_eq!(view.next(), Offset::new(21), "the rest of the segment that holds it");
    for wrong in [-1, 31] {
        let error = scene.partition.delete_records(Offset::new(wrong)).unwrap_err();
        assert!(matches!(error, Error::OffsetOutOfRange { .. }), "{error}");
    }

    let Scene { world, log, partition } = scene;
    world.disk.power_cut();
    drop((log, partition));
    let (log, report) = Log::open(world.env(), "/log", quick()).unwrap();
    assert_eq!(report.cut().count(), 0);
    let partition = log.partition(&TopicPartition::new("t", 0)).unwrap();
    assert_eq!((partition.start_offset(), partition.end_offset()), (Offset::new(17), Offset::new(30)));
    log.close().unwrap();
    let (log, _) = Log::open(world.env(), "/log", quick()).unwrap();
    let partition = log.partition(&TopicPartition::new("t", 0)).unwrap();
    assert_eq!((partition.start_offset(), partition.end_offset()), (Offset::new(17), Offset::new(30)));
}

/// A view outlives the segment it looks at, and what it holds is counted until it lets go.
#[test]
fn a_view_outlives_its_segment() {
    let scene = scene(quick(), TopicConfig { retention_bytes: Some(9_000), retention_ms: None, ..small() });
    scene.append(60);
    let view = scene.partition.fetch(Offset::ZERO, &FetchBounds::default()).unwrap();
    let before = view.bytes().to_vec();
    scene.step();
    assert!(scene.partition.start_offset() > Offset::ZERO);
    assert!(!scene.files().contains(&"00000000000000000000.log".to_owned()), "the file is gone");
    assert_eq!(view.bytes(), before, "its bytes are not");
    assert!(scene.log.stats().held_removed_bytes > 0);
    drop(view);
    // The slot's own reference goes when no epoch can see it any more: a few turns of the engine.
    for _ in 0..3 {
        scene.step();
    }
    assert_eq!(scene.log.stats().held_removed_bytes, 0, "nobody holds it");
}

/// A time before, between and after: the same offsets after retention as before it.
#[test]
fn times_are_found_in_what_is_left() {
    let scene = scene(quick(), TopicConfig { retention_bytes: Some(20_000), retention_ms: None, ..small() });
    let first = scene.world.clock.wall().as_millis();
    for _ in 0..60 {
        scene.append(1);
        scene.world.clock.advance(Duration::from_millis(100));
    }
    scene.step();
    let start = scene.partition.start_offset();
    assert!(start > Offset::ZERO);
    let at = |ms: i64| scene.partition.offset_for_time(Timestamp::from_millis(ms)).unwrap().map(|(at, _)| at);
    assert_eq!(at(first), Some(start), "what was earlier is gone");
    assert_eq!(at(first + 5_550), Some(Offset::new(56)));
    assert_eq!(at(first + 60_000), None);
}
