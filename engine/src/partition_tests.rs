//! Scenes inside one partition, with the cast the public calls do not show: an appender that stalls between its
//! reservation and its publish, a sync that somebody else leads, a view that outlives everything.
//!
//! Nothing here depends on time: who waits is asked through its waker, and the clock is handed to `step`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::batch::{BatchBuilder, Codec};
use crate::segment::Active;
use crate::tail::Reservation;
use crate::wait::Ticket;
use crate::*;

/// Counts how often it is woken.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Bell {
    fn rings(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// A log in memory with one topic, `t`, of one partition.
struct Scene {
    log: Log,
    partition: Partition,
    bell: Arc<Bell>,
    ticket: Ticket,
}

const REGIONS: [RegionMode; 2] = [RegionMode::Mapped, RegionMode::Written];

impl Scene {
    fn new(region: RegionMode, durability: Durability, segment_bytes: u32) -> Scene {
        let config = LogConfig {
            region,
            window_bytes: 16 << 10,
            write_buffer_bytes: 16 << 10,
            idle_ms: 1000,
            ..LogConfig::default()
        };
        let (log, _) = Log::open(Env::in_memory(), "/log", config).unwrap();
        let topic = TopicConfig {
            durability,
            segment_bytes,
            max_message_bytes: 4096,
            retention_ms: None,
            ..TopicConfig::default()
        };
        log.create_topic("t", 1, topic).unwrap();
        let partition = log.partition(&TopicPartition::new("t", 0)).unwrap();
        Scene { log, partition, bell: Arc::default(), ticket: Ticket::default() }
    }

    fn append(&self, size: usize) -> Result<Appended> {
        with_batch(size, |batch| self.partition.try_append(batch))
    }

    /// An appender reserves its room, and then nothing.
    fn stall(&self, size: usize) -> Stalled {
        let active = self.partition.0.active.get().unwrap();
        let room = active.tail.reserve(1, size as u32).unwrap();
        Stalled { partition: self.partition.clone(), active, room, size }
    }

    fn is_durable(&mut self, up_to: Offset, durability: Durability) -> bool {
        let waker = Waker::from(self.bell.clone());
        let mut context = Context::from_waker(&waker);
        match self.partition.poll_durable(up_to, durability, &mut self.ticket, &mut context) {
            Poll::Ready(ready) => ready.map(|()| true).unwrap(),
            Poll::Pending => false,
        }
    }

    fn is_readable(&mut self, from: Offset) -> bool {
        let waker = Waker::from(self.bell.clone());
        let mut context = Context::from_waker(&waker);
        match self.partition.poll_readable(from, &mut self.ticket, &mut context) {
            Poll::Ready(ready) => ready.map(|()| true).unwrap(),
            Poll::Pending => false,
        }
    }

    fn step_at(&self, ms: u64) {
        self.log.step(Moment::from_nanos(ms * 1_000_000)).unwrap();
    }
}

/// An appender between reserve and publish.
struct Stalled {
    partition: Partition,
    active: Arc<Active>,
    room: Reservation,
    size: usize,
}

impl Stalled {
    fn finishes(self) {
        let Stalled { partition, active, room, size } = self;
        with_batch(size, |batch| active.copy_in(&room, batch, 0));
        partition.0.publish(&active, room).unwrap();
    }
}

/// A batch of one record that is `size` bytes in all.
fn with_batch<T>(size: usize, then: impl FnOnce(&batch::ValidBatch<'_>) -> T) -> T {
    let mut builder = BatchBuilder::new(Codec::None);
    let value = vec![b'v'; size];
    // What stands around the value takes 61 bytes and a few, by the lengths' lengths.
    for less in 61..90 {
        builder.append(Timestamp::from_millis(1), None, Some(&value[..size - less]), &[]).unwrap();
        if builder.finish().unwrap().size() == size {
            return then(&builder.finish().unwrap());
        }
        builder.clear();
    }
    panic!("no record makes a batch of {size} bytes");
}

/// Reads on from 0; how many records there are, one after the other.
fn read(partition: &Partition) -> i64 {
    let mut reader = partition.reader(Offset::ZERO);
    let mut next = 0;
    loop {
        let view = reader.read(&FetchBounds::default()).unwrap();
        if view.is_empty() {
            return next;
        }
        for batch in view.batches() {
            let batch = batch.unwrap();
            batch.check_crc().unwrap();
            assert_eq!(batch.header().base_offset.get(), next);
            next += 1;
        }
    }
}

/// One appender stalls. The others complete their copies, as many as the window holds, and their acks wait; readers
/// keep reading what was there before; and when the copy is finished, all of it appears at once.
#[test]
fn one_appender_stalls_and_the_others_go_on() {
    for region in REGIONS {
        let mut scene = Scene::new(region, Durability::Written, 1 << 20);
        for _ in 0..3 {
            scene.append(300).unwrap();
        }
        let stalled = scene.stall(500);
        let mut last = Offset::new(3);
        let mut bytes = 0;
        loop {
            match scene.append(300) {
                Ok(appended) => {
                    assert_eq!(appended.base_offset, last + 1);
                    last = appended.base_offset;
                    bytes += 300;
                }
                Err(error) => {
                    assert!(matches!(error, Error::Busy { .. }), "{error}");
                    assert_eq!(error.remedy(), Remedy::TryAgain);
                    break;
                }
            }
        }
        assert!((14 << 10..=16 << 10).contains(&(bytes + 500)), "{region:?}: a window of 16 KiB, {bytes}");
        assert_eq!(scene.partition.high_watermark(), Offset::new(3));
        assert_eq!(read(&scene.partition), 3, "readers keep reading");
        assert!(!scene.is_durable(last + 1, Durability::Written), "an ack waits for all copies before it");
        assert!(!scene.is_durable(last + 1, Durability::Synced));
        assert!(scene.is_durable(Offset::new(3), Durability::Written));
        assert_eq!(scene.partition.0.lead_sync().unwrap(), Some(true), "what was published can be synced");
        assert_eq!(scene.partition.synced_offset(), Offset::new(3));

        // One more comes, finds the window full, and waits.
        let waiting = scene.partition.clone();
        let waiting = std::thread::spawn(move || with_batch(300, |batch| waiting.append(batch)));
        while !scene.partition.0.written.any() {
            std::thread::yield_now();
        }
        let rings = scene.bell.rings();
        assert!(!scene.is_durable(last + 1, Durability::Written));
        stalled.finishes();
        assert!(scene.bell.rings() > rings, "whoever waited for the copies is woken");
        assert!(scene.is_durable(last + 1, Durability::Written));
        assert_eq!(waiting.join().unwrap().unwrap().base_offset, last + 1);
        assert_eq!(read(&scene.partition), last.get() + 2, "{region:?}");
        scene.log.close().unwrap();
    }
}

/// The same across a roll: the stalled copy goes into a segment that was sealed meanwhile, and what stands in the
/// next one is neither visible, nor acked, nor counted as synced, before that copy is there.
#[test]
fn an_appender_stalls_while_the_segment_rolls() {
    for region in REGIONS {
        let mut scene = Scene::new(region, Durability::Written, 4096);
        scene.append(1000).unwrap();
        let stalled = scene.stall(1000);
        let mut last = Offset::ZERO;
        for _ in 0..6 {
            last = scene.append(1000).unwrap().base_offset;
        }
        assert_eq!(last, Offset::new(7));
        assert_eq!(scene.partition.segments(), 2, "{region:?}");
        assert_eq!(scene.partition.high_watermark(), Offset::new(1));
        assert_eq!(read(&scene.partition), 1);
        assert!(!scene.is_durable(last + 1, Durability::Written));
        scene.partition.0.lead_sync().unwrap();
        assert_eq!(scene.partition.synced_offset(), Offset::new(1), "no gap in what is synced");
        assert!(!scene.partition.0.park().unwrap(), "nobody cuts a file that is being copied into");

        stalled.finishes();
        assert!(scene.is_durable(last + 1, Durability::Written));
        assert_eq!(read(&scene.partition), 8);
        assert_eq!(scene.partition.sync().unwrap(), Offset::new(8));
        assert_eq!(scene.partition.synced_offset(), Offset::new(8));
        scene.log.close().unwrap();
        let env = scene.log.env().clone();
        drop(scene);
        let (log, report) = Log::open(env, "/log", LogConfig::default()).unwrap();
        assert!(report.clean);
        assert_eq!(read(&log.partition(&TopicPartition::new("t", 0)).unwrap()), 8);
    }
}

/// Eight wait for a sync while somebody else's is under way. That one came too early for them; one more does for all.
#[test]
fn those_who_wait_share_a_sync() {
    let scene = Scene::new(RegionMode::Mapped, Durability::Synced, 1 << 20);
    scene.append(300).unwrap();
    scene.partition.sync().unwrap();
    scene.append(300).unwrap();
    let (active, mark) = scene.partition.0.begin_batched_sync().expect("something to sync, and nobody at it");
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let partition = scene.partition.clone();
            std::thread::spawn(move || {
                let appended = with_batch(300, |batch| partition.append(batch)).unwrap();
                partition.wait_for(appended.next_offset, Durability::Synced).unwrap();
                assert!(partition.high_watermark() >= appended.next_offset, "synced is visible");
            })
        })
        .collect();
    while scene.partition.end_offset() < Offset::new(10) {
        std::thread::yield_now();
    }
    assert_eq!(scene.partition.synced_offset(), Offset::new(1));
    let syncs = scene.log.stats().disk.syncs;
    scene.partition.0.finish_batched_sync(&active, mark, Ok(()));
    for thread in waiting {
        thread.join().unwrap();
    }
    assert_eq!(scene.log.stats().disk.syncs - syncs, 1, "one sync for eight");
    assert_eq!(scene.partition.synced_offset(), Offset::new(10));
}

/// A reader parked at the end is woken by what makes records visible, once, and by nothing else.
#[test]
fn a_parked_reader_is_woken_by_what_it_waits_for() {
    let mut written = Scene::new(RegionMode::Mapped, Durability::Written, 1 << 20);
    assert!(!written.is_readable(Offset::ZERO));
    written.step_at(1);
    written.step_at(10_000);
    assert_eq!(written.bell.rings(), 0, "nothing happened, nobody is woken");
    written.append(100).unwrap();
    assert_eq!(written.bell.rings(), 1, "the publish wakes");
    assert!(written.is_readable(Offset::ZERO));
    assert!(!written.is_readable(Offset::new(1)));

    let mut synced = Scene::new(RegionMode::Mapped, Durability::Synced, 1 << 20);
    synced.append(100).unwrap();
    synced.partition.sync().unwrap();
    assert!(!synced.is_readable(Offset::new(1)));
    synced.append(100).unwrap();
    assert_eq!(synced.bell.rings(), 0, "not visible yet, so nobody is woken");
    let background = Arc::new(Bell::default());
    let waker = Waker::from(background.clone());
    let due = synced.log.poll_background(&mut Ticket::default(), &mut Context::from_waker(&waker));
    assert!(due.is_ready(), "but the parked reader counts as one who waits for a sync");
    synced.step_at(1);
    assert_eq!(synced.bell.rings(), 1, "the sync wakes");
    assert!(synced.is_readable(Offset::new(1)));
    assert_eq!(read(&synced.partition), 2);
}

/// After a failed sync nobody trusts the pages: writes are refused and say why, those who waited are told, what was
/// visible can be read, other partitions do not notice, and opening again finds everything.
#[test]
fn a_failed_sync_poisons_one_partition() {
    let mut scene = Scene::new(RegionMode::Mapped, Durability::Synced, 1 << 20);
    scene.log.create_topic("other", 1, TopicConfig::default()).unwrap();
    scene.append(100).unwrap();
    scene.partition.sync().unwrap();
    scene.append(100).unwrap();
    assert!(!scene.is_durable(Offset::new(2), Durability::Synced));
    let (active, mark) = scene.partition.0.begin_batched_sync().unwrap();
    let rings = scene.bell.rings();
    scene.partition.0.finish_batched_sync(&active, mark, Err(std::io::Error::from_raw_os_error(5)));
    drop(active);
    assert!(scene.bell.rings() > rings, "those who waited are woken");

    let refusals = [
        scene.append(100).unwrap_err(),
        scene.partition.wait_for(Offset::new(2), Durability::Synced).unwrap_err(),
        scene.partition.sync().unwrap_err(),
        scene.partition.delete_records(Offset::new(1)).unwrap_err(),
        scene.partition.wait_readable(Offset::new(1), None).unwrap_err(),
    ];
    for error in refusals {
        assert!(matches!(error, Error::Poisoned { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("t-0") && text.contains("os error 5") && text.contains("open it again"),
            "{text}"
        );
        assert_eq!(error.remedy(), Remedy::Restart);
    }
    assert_eq!(read(&scene.partition), 1, "reads go on");
    assert_eq!(scene.log.stats().poisoned, 1);
    scene.step_at(5000);
    let other = scene.log.partition(&TopicPartition::new("other", 0)).unwrap();
    with_batch(100, |batch| other.append(batch)).unwrap();
    assert_eq!(other.sync().unwrap(), Offset::new(1), "the others do not notice");

    assert!(matches!(scene.log.close(), Err(Error::Poisoned { .. })), "closing says it again");
    let env = scene.log.env().clone();
    drop((scene, other));
    let (log, report) = Log::open(env, "/log", LogConfig::default()).unwrap();
    assert!(!report.clean && report.refused.is_empty(), "{report:?}");
    assert_eq!(read(&log.partition(&TopicPartition::new("t", 0)).unwrap()), 2);
    assert_eq!(read(&log.partition(&TopicPartition::new("other", 0)).unwrap()), 1);
}

/// Lets everything go that nobody holds: what is replaced is freed when no pin can see it any more, a few steps later.
fn until(log: &Log, done: impl Fn(Stats) -> bool) {
    for _ in 0..4 {
        if done(log.stats()) {
            return;
        }
        log.step(log.env().clock.now()).unwrap();
    }
    panic!("never: {:?}", log.stats());
}

/// A segment that was removed stays in memory for exactly as long as somebody has a view of it, and counts as held.
#[test]
fn a_segment_is_freed_after_its_last_view() {
    for region in REGIONS {
        let scene = Scene::new(region, Durability::Written, 4096);
        for _ in 0..10 {
            scene.append(1000).unwrap();
        }
        assert_eq!(scene.partition.segments(), 3);
        scene.partition.sync().unwrap();
        let view = scene.partition.fetch(Offset::ZERO, &FetchBounds::default()).unwrap();
        let bytes = view.bytes().to_vec();
        assert_eq!(bytes.len(), 4000);
        let second = view.clone();
        // Somebody looks at the list the very moment it is replaced.
        let pin = scene.partition.0.log.gauges.epochs.pin();
        assert_eq!(scene.partition.delete_records(Offset::new(9)).unwrap(), Offset::new(9));
        drop(pin);
        assert_eq!(scene.partition.segments(), 1);
        assert_eq!(scene.log.stats().held_removed_bytes, 4000, "{region:?}: one of the two removed is held");
        let folder = scene.log.env().disk.list(scene.partition.0.folder.as_ref()).unwrap();
        assert!(!folder.iter().any(|entry| entry.name.starts_with("00000000000000000000.")), "{folder:?}");
        let error = scene.partition.fetch(Offset::ZERO, &FetchBounds::default()).unwrap_err();
        assert!(matches!(error, Error::OffsetOutOfRange { .. }), "{error}");

        drop(view);
        for _ in 0..100 {
            scene.partition.0.log.gauges.unmap_retired();
        }
        assert_eq!(scene.log.stats().held_removed_bytes, 4000, "there is another");
        assert_eq!(second.bytes(), bytes, "and its bytes are what they were");
        let mappings = scene.log.stats().mappings;
        drop(second);
        until(&scene.log, |stats| stats.held_removed_bytes == 0 && stats.mappings < mappings);
    }
}

/// When the log and its partitions are gone nothing of them is left, whoever was last and whatever still waited to be
/// freed: what is replaced holds the very epochs that it waits for.
#[test]
fn nothing_is_left_of_a_log() {
    for (n, region) in REGIONS.into_iter().cycle().take(20).enumerate() {
        let scene = Scene::new(region, Durability::Written, 4096);
        for _ in 0..40 {
            scene.append(1000).unwrap();
        }
        scene.partition.sync().unwrap();
        let view = scene.partition.fetch(Offset::ZERO, &FetchBounds::default()).unwrap();
        let mut reader = scene.partition.reader(Offset::new(20));
        assert!(!reader.read(&FetchBounds::default()).unwrap().is_empty());
        scene.partition.delete_records(Offset::new(n as i64)).unwrap();
        let gauges = Arc::downgrade(&scene.partition.0.log.gauges);
        let (log, partition) = (scene.log.clone(), scene.partition.clone());
        drop(scene);
        if n % 2 == 0 {
            log.close().unwrap();
        }
        let elsewhere = std::thread::spawn(move || {
            drop(log);
            drop(partition);
            reader
        });
        drop(elsewhere.join().unwrap());
        assert!(gauges.upgrade().is_some(), "the view has its memory");
        drop(view);
        assert!(gauges.upgrade().is_none(), "{region:?}, {n}: somebody still holds what nobody can reach");
    }
}

/// A view is good whatever happens to its partition: parked, unmapped, deleted with its topic, closed.
#[test]
fn a_view_outlives_everything() {
    for region in REGIONS {
        let scene = Scene::new(region, Durability::Written, 4096);
        for _ in 0..6 {
            scene.append(1000).unwrap();
        }
        let views: Vec<_> = [0, 5]
            .map(|at| scene.partition.fetch(Offset::new(at), &FetchBounds::default()).unwrap())
            .into_iter()
            .collect();
        let bytes: Vec<_> = views.iter().map(|view| view.bytes().to_vec()).collect();
        let same = |when: &str| {
            for (view, bytes) in views.iter().zip(&bytes) {
                assert_eq!(view.bytes(), bytes, "{region:?}: {when}");
            }
        };
        scene.step_at(1);
        scene.step_at(2000);
        scene.step_at(4000);
        // Nobody appends, so it is parked.
        until(&scene.log, |stats| stats.regions == 0);
        until(&scene.log, |stats| stats.mappings == 2);
        same("parked and unmapped");
        scene.append(500).unwrap();
        same("appended to again");
        assert_eq!(read(&scene.partition), 7);
        scene.log.delete_topic("t").unwrap();
        same("deleted");
        let error = scene.append(100).unwrap_err();
        assert!(matches!(error, Error::UnknownTopicOrPartition { .. }), "{error}");
        scene.log.close().unwrap();
        let Scene { log, partition, .. } = scene;
        drop((log, partition));
        same("closed and dropped");
    }
}

/// What was read once is not held for ever: when nobody appends and nobody reads, no mapping is left, and the next
/// reader finds everything.
#[test]
fn an_idle_partition_holds_nothing() {
    for region in REGIONS {
        let scene = Scene::new(region, Durability::Written, 4096);
        for _ in 0..10 {
            scene.append(1000).unwrap();
        }
        scene.step_at(1);
        scene.step_at(1500);
        until(&scene.log, |stats| stats.regions == 0 && stats.mappings == 0);
        assert_eq!(read(&scene.partition), 10);
        assert!(scene.log.stats().mappings >= 3, "{region:?}: reading maps");
        scene.step_at(3000);
        assert!(scene.log.stats().mappings >= 3, "and keeps it for some time");
        scene.step_at(4000);
        until(&scene.log, |stats| stats.mappings == 0);
        assert_eq!(read(&scene.partition), 10);
    }
}

/// A configuration that allows larger batches takes effect at once, also where the active segment (empty or not) and
/// its buffer were made for smaller ones; and a smaller one refuses by name.
#[test]
fn raised_bounds_let_larger_batches_in() {
    for region in REGIONS {
        for before in [0, 3] {
            let scene = Scene::new(region, Durability::Written, 4096);
            for _ in 0..before {
                scene.append(1000).unwrap();
            }
            // Open, and empty: refused, but after the region was made.
            let error = scene.append(4097).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains("4097 bytes for t-0") && text.contains("max.message.bytes"), "{text}");
            scene.append(4096).unwrap();
            let raise = |segment_bytes, max_message_bytes| {
                let mut config = (*scene.partition.config()).clone();
                config.segment_bytes = segment_bytes;
                config.max_message_bytes = max_message_bytes;
                scene.log.alter_topic("t", config).unwrap();
            };
            raise(1 << 20, 200_000);
            // Larger than the old segment, and than the window and the buffer it was opened with.
            for size in [5000, 200_000, 100, 150_000] {
                with_batch(size, |batch| scene.partition.append(batch)).unwrap();
            }
            assert_eq!(read(&scene.partition), before + 5, "{region:?}");
            raise(1 << 20, 1000);
            assert!(scene.append(1001).is_err());
            scene.append(1000).unwrap();
            assert_eq!(read(&scene.partition), before + 6);
            scene.log.close().unwrap();
        }
        // And one whose active segment was opened and never written to.
        let scene = Scene::new(region, Durability::Written, 4096);
        scene.append(100).unwrap();
        let active = scene.partition.0.active.get().unwrap();
        scene.partition.0.roll(&active).unwrap();
        drop(active);
        assert_eq!(scene.partition.segments(), 2);
        let mut config = (*scene.partition.config()).clone();
        (config.segment_bytes, config.max_message_bytes) = (1 << 20, 300_000);
        scene.log.alter_topic("t", config).unwrap();
        with_batch(300_000, |batch| scene.partition.append(batch)).unwrap();
        assert_eq!((read(&scene.partition), scene.partition.segments()), (2, 2), "{region:?}");
    }
}

/// A record nobody waits for is synced within `flush_ms_max`, by the clock that `step` is told, and not before.
#[test]
fn what_nobody_waits_for_is_synced_in_time() {
    let scene = Scene::new(RegionMode::Mapped, Durability::Synced, 1 << 20);
    scene.append(100).unwrap();
    scene.step_at(1);
    assert_eq!(scene.partition.synced_offset(), Offset::ZERO, "flush_ms_max has not passed");
    let due = scene.log.step(Moment::from_nanos(0) + Duration::from_millis(500)).unwrap();
    assert!(due <= Moment::from_nanos(0) + Duration::from_millis(1001), "it says when it wants to be called");
    scene.step_at(1001);
    assert_eq!(scene.partition.synced_offset(), Offset::new(1));
}

/// An appender stalls so long that two segments fill up behind it. What the others appended is not `Written`, and the
/// high watermark does not pass the gap: a SIGKILL now would cut there.
#[test]
fn a_gap_two_segments_back_is_a_gap() {
    for region in REGIONS {
        let mut scene = Scene::new(region, Durability::Written, 8192);
        scene.append(1000).unwrap();
        let stalled = scene.stall(1000);
        while scene.partition.segments() < 4 {
            scene.append(1000).unwrap();
        }
        let end = scene.partition.end_offset();
        assert!(end > Offset::new(20));
        assert_eq!(scene.partition.high_watermark(), Offset::new(1), "{region:?}");
        assert!(!scene.is_durable(end, Durability::Written));
        assert_eq!(read(&scene.partition), 1);

        stalled.finishes();
        assert!(scene.is_durable(end, Durability::Written));
        assert_eq!(scene.partition.high_watermark(), end);
        assert_eq!(read(&scene.partition), end.get());
    }
}
