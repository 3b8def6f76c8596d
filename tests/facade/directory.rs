//! The directory itself: who has it, how it ends, forks, and what a broken disk leaves standing.

use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use girok::{
    CommitEntry, Env, Error, Girok, Moment, Offset, ProducerRecord, Remedy, Timestamp, TopicConfig, Verdict,
};
use girok_engine::batch::{BatchBuilder, Codec};
use girok_engine::{Clock, FetchBounds, Log, LogConfig};

use crate::support::SimWorld;
use crate::{LONG, drain, orders, producer, reader, send_numbers, tp, values, written};

/// The last handle closes the directory, whoever it is; the next open has nothing to recover.
#[test]
fn the_last_handle_closes() {
    let dir = tempfile::tempdir().unwrap();
    let girok = Girok::open(dir.path()).unwrap();
    girok.admin().create_topic("orders", 1, TopicConfig::default()).unwrap();
    let producer = producer(&girok);
    let consumer = reader(&girok, 1);
    drop(girok);
    drop(producer.send(ProducerRecord::new("orders", "tea")).unwrap());
    let held = Girok::open(dir.path()).unwrap_err();
    assert_eq!(held.remedy(), Remedy::TryAgain);
    assert!(held.to_string().contains(&std::process::id().to_string()), "the holder is named: {held}");
    drop(producer);
    drop(consumer);

    let girok = Girok::open(dir.path()).unwrap();
    assert!(girok.recovery().clean, "{:?}", girok.recovery());
    assert_eq!(values(&reader(&girok, 1).poll(LONG).unwrap()), ["tea"]);
}

/// A temporary directory goes when it is closed; a mistyped path is found out.
#[test]
fn temporary_directories_go() {
    let girok = Girok::temporary().unwrap();
    let dir = girok.log().dir().to_path_buf();
    assert!(dir.join("girok.lock").exists());
    drop(girok);
    assert!(!dir.exists());

    let missing = Girok::builder().create(false).open(&dir).unwrap_err();
    assert!(missing.to_string().contains(&dir.display().to_string()), "{missing}");
    assert!(!dir.exists());
}

/// Closing twice is one close; everything afterwards says closed, and records that were polled stay.
#[test]
fn after_close_everything_says_so() {
    let girok = orders(1);
    let producer = producer(&girok);
    send_numbers(&producer, "orders", 0, 3);
    let mut consumer = girok.consumer().group_id("search").build().unwrap();
    consumer.assign(&[tp("orders", 0)]).unwrap();
    let records = consumer.poll(LONG).unwrap();
    girok.close().unwrap();
    girok.close().unwrap();
    girok.close_timeout(Duration::from_secs(1)).unwrap();
    let errors = [
        producer.send(ProducerRecord::new("orders", "x")).unwrap_err(),
        producer.flush().unwrap_err(),
        consumer.poll(LONG).unwrap_err(),
        consumer.commit().unwrap_err(),
        girok.admin().list_topics().unwrap_err(),
        girok.producer().build().unwrap_err(),
        girok.consumer().build().unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error.engine(), Some(girok_engine::Error::Closed { .. })), "{error}");
    }
    assert_eq!(values(&records), ["0", "1", "2"]);
    assert!(matches!(consumer.close(), Err(Error::Engine(girok_engine::Error::Closed { .. }))));
}

/// A poll that waits ends when the directory is closed, also one that waits for nothing because all is paused.
#[test]
fn close_ends_a_waiting_poll() {
    for paused in [false, true] {
        let girok = orders(1);
        let mut consumer = reader(&girok, 1);
        if paused {
            consumer.pause(&[tp("orders", 0)]).unwrap();
        }
        close_meanwhile(&girok, || {
            let begun = Instant::now();
            let ended = consumer.poll(LONG).unwrap_err();
            assert!(matches!(ended.engine(), Some(girok_engine::Error::Closed { .. })), "{ended}");
            assert!(begun.elapsed() < LONG / 2);
        });
    }
}

/// And so does a delivery that is awaited: it is told what became of it.
#[test]
fn close_ends_an_awaited_delivery() {
    let girok = Girok::in_memory().unwrap();
    girok.admin().create_topic("orders", 1, TopicConfig::default()).unwrap();
    let sent =
        girok.producer().linger(LONG).build().unwrap().send(ProducerRecord::new("orders", "tea")).unwrap();
    close_meanwhile(&girok, || drop(crate::run(sent)));
}

fn close_meanwhile(girok: &Girok, during: impl FnOnce()) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(30));
            girok.close().unwrap();
        });
        during();
    });
}

/// A clock that stops the background in its tracks, as a disk that hangs would.
#[derive(Debug)]
struct Stalling {
    inner: Arc<dyn Clock>,
    stalled: Mutex<bool>,
    moved: Condvar,
}

impl Clock for Stalling {
    fn now(&self) -> Moment {
        let mut stalled = self.stalled.lock().unwrap();
        while *stalled {
            stalled = self.moved.wait(stalled).unwrap();
        }
        self.inner.now()
    }
    fn wall(&self) -> Timestamp {
        self.inner.wall()
    }
}

/// Whoever will not wait for a close is told that it goes on, and can ask again.
#[test]
fn a_close_can_be_waited_for_in_pieces() {
    let env = Env::in_memory();
    let clock =
        Arc::new(Stalling { inner: env.clock.clone(), stalled: Mutex::new(false), moved: Condvar::new() });
    let girok = Girok::builder().env(Env { clock: clock.clone(), ..env }).open("/log").unwrap();
    girok.admin().create_topic("orders", 1, written()).unwrap();
    *clock.stalled.lock().unwrap() = true;
    let slow = girok.close_timeout(Duration::from_millis(30)).unwrap_err();
    assert!(matches!(slow, Error::Timeout { .. }), "{slow}");
    assert_eq!(slow.remedy(), Remedy::TryAgain);
    *clock.stalled.lock().unwrap() = false;
    clock.moved.notify_all();
    girok.close_timeout(LONG).unwrap();
}

/// Opened by the other process below.
#[test]
fn other_process_tries_to_open() {
    let Ok(dir) = std::env::var("GIROK_TEST_OPEN") else { return };
    let says = match Girok::open(dir) {
        Ok(_) => "opened".to_owned(),
        Err(error) => error.to_string(),
    };
    println!("RESULT {says}");
}

fn open_elsewhere(dir: &Path) -> String {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "directory::other_process_tries_to_open", "--nocapture"])
        .env("GIROK_TEST_OPEN", dir)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[allow(unsafe_code)]
mod process {
    unsafe extern "C" {
        fn fork() -> i32;
        fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
        fn _exit(status: i32) -> !;
    }

    /// Runs `child` in a forked child; what it returned.
    pub fn in_a_fork(child: impl FnOnce() -> u8) -> i32 {
        // SAFETY: the child runs a few calls of ours that take no lock another thread could hold, and leaves by _exit,
        // so neither the harness nor any destructor of the parent's runs twice.
        unsafe {
            match fork() {
                0 => _exit(child() as i32),
                pid => {
                    assert!(pid > 0, "fork failed");
                    let mut status = 0;
                    assert_eq!(waitpid(pid, &mut status, 0), pid);
                    assert_eq!(status & 0x7F, 0, "the child was killed");
                    status >> 8
                }
            }
        }
    }
}

/// A forked child has the memory but not the thread: every call there is an error by that name, drops do nothing, the
/// parent goes on, and the directory is still locked.
#[test]
fn a_fork_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let girok = Girok::open(dir.path()).unwrap();
    girok.admin().create_topic("orders", 1, written()).unwrap();
    let producer = girok.producer().linger(LONG).build().unwrap();
    let mut consumer = girok.consumer().group_id("search").build().unwrap();
    consumer.assign(&[tp("orders", 0)]).unwrap();
    let open = producer.send(ProducerRecord::new("orders", "before the fork")).unwrap();

    // The child owns copies of all of these and drops them.
    let mut all = Some((girok, producer, consumer, open));
    let wrong = process::in_a_fork(|| {
        let (girok, producer, mut consumer, open) = all.take().expect("the child's own");
        let is_forked = |error: Option<Error>| matches!(error, Some(Error::Engine(girok_engine::Error::Forked { opened_by, found, .. })) if opened_by != found);
        let checks = [
            is_forked(producer.send(ProducerRecord::new("orders", "x")).err()),
            is_forked(producer.flush().err()),
            is_forked(consumer.poll(Duration::from_millis(1)).err()),
            is_forked(consumer.commit().err()),
            is_forked(girok.admin().list_topics().err()),
            is_forked(girok.close().err()),
            is_forked(open.try_get().err()),
            is_forked(open.wait().err()),
        ];
        drop((producer, consumer, girok));
        checks.iter().position(|good| !good).map_or(0, |n| n as u8 + 1)
    });
    assert_eq!(wrong, 0, "check {wrong} of the child's did not say Forked");

    let elsewhere = open_elsewhere(dir.path());
    assert!(elsewhere.contains("is held by"), "the child's end let go of the lock: {elsewhere}");
    let (girok, producer, mut consumer, open) = all.take().expect("the parent's own");
    assert_eq!(open.wait().unwrap().offset, Offset::ZERO);
    drop(producer.send(ProducerRecord::new("orders", "after the fork")).unwrap());
    producer.flush().unwrap();
    assert_eq!(values(&consumer.poll(LONG).unwrap()), ["before the fork", "after the fork"]);
    consumer.commit().unwrap();
    drop((producer, consumer));
    girok.close().unwrap();
    assert!(open_elsewhere(dir.path()).contains("RESULT opened"));
}

/// The engine's own handles know it as well: whoever works below producers and consumers (`girok.log()`) must not append to
/// the parent's files either, from a copy of its memory, or take its topics away.
#[test]
fn a_fork_is_found_out_below() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(Env::system(), dir.path(), LogConfig::default()).unwrap();
    log.create_topic("orders", 1, written()).unwrap();
    let orders = log.partition(&tp("orders", 0)).unwrap();
    let reader = orders.reader(Offset::ZERO);
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(Timestamp::from_millis(1_700_000_000_000), None, Some(b"tea"), &[]).unwrap();
    let batch = builder.finish().unwrap();
    orders.append(&batch).unwrap();

    let mut all = Some((log, orders, reader));
    let wrong = process::in_a_fork(|| {
        let (log, orders, mut reader) = all.take().expect("the child's own");
        let is_forked = |error: Option<girok_engine::Error>| matches!(error, Some(girok_engine::Error::Forked { opened_by, found, .. }) if opened_by != found);
        let bounds = FetchBounds::default();
        let checks = [
            is_forked(orders.append(&batch).err()),
            is_forked(orders.try_append(&batch).err()),
            is_forked(orders.fetch(Offset::ZERO, &bounds).err()),
            is_forked(reader.read(&bounds).err()),
            is_forked(orders.sync().err()),
            is_forked(orders.wait_readable(Offset::new(1), Some(Duration::ZERO)).err()),
            is_forked(orders.delete_records(Offset::new(1)).err()),
            is_forked(orders.offset_for_time(Timestamp::from_millis(0)).err()),
            is_forked(log.partition(&tp("orders", 0)).err()),
            is_forked(log.create_topic("clicks", 1, written()).err()),
            is_forked(log.create_partitions("orders", 2).err()),
            is_forked(log.alter_topic("orders", written()).err()),
            is_forked(log.delete_topic("orders").err()),
            is_forked(log.step(log.env().clock.now()).err()),
            is_forked(log.save_checkpoint().err()),
            is_forked(log.check_open().err()),
            is_forked(log.close().err()),
        ];
        drop((reader, orders, log));
        checks.iter().position(|good| !good).map_or(0, |n| n as u8 + 1)
    });
    assert_eq!(wrong, 0, "check {wrong} of the child's did not say Forked");

    assert!(open_elsewhere(dir.path()).contains("is held by"), "the child's end let go of the lock");
    let (log, orders, mut reader) = all.take().expect("the parent's own");
    assert_eq!(orders.append(&batch).unwrap().base_offset, Offset::new(1));
    assert_eq!(reader.read(&FetchBounds::default()).unwrap().next(), Offset::new(2));
    log.close().unwrap();
    assert!(open_elsewhere(dir.path()).contains("RESULT opened"));
}

/// The sync of the offsets log fails once: commits fail and say why, polls and sends go on, and opening again brings back
/// exactly what had been committed before.
#[test]
fn a_poisoned_offsets_log_stops_commits_only() {
    let world = SimWorld::from_seed(31);
    let open = || Girok::builder().env(world.env()).threads(false).open("/log").unwrap();
    let girok = open();
    girok.admin().create_topic("orders", 1, written()).unwrap();
    send_numbers(&producer(&girok), "orders", 0, 4);
    let mut consumer = girok.consumer().group_id("search").max_poll_records(1).build().unwrap();
    consumer.assign(&[tp("orders", 0)]).unwrap();
    assert_eq!(consumer.poll_now().unwrap().len(), 1);
    consumer.commit().unwrap();

    assert_eq!(consumer.poll_now().unwrap().len(), 1);
    world.disk.fail_next_sync();
    let failed = consumer.commit().unwrap_err();
    assert!(failed.to_string().contains("__consumer_offsets-0 is poisoned"), "{failed}");
    assert_eq!(failed.remedy(), Remedy::Restart);
    assert_eq!(consumer.poll_now().unwrap().len(), 1);
    assert!(consumer.commit().is_err());
    drop(producer(&girok).send(ProducerRecord::new("orders", "more")).unwrap());
    drop(consumer);
    assert!(girok.close().is_err());
    drop(girok);

    world.disk.power_cut();
    let girok = open();
    let committed = girok.admin().list_group_offsets("search").unwrap();
    assert_eq!(committed[&tp("orders", 0)].offset, Offset::new(1));
}

/// A damaged log of committed offsets is an error with the place named. Nobody who has a group starts from zero because
/// of it; whoever has none reads on.
#[test]
fn damaged_offsets_are_never_taken_for_none() {
    let dir = tempfile::tempdir().unwrap();
    {
        let girok = Girok::open(dir.path()).unwrap();
        girok.admin().create_topic("orders", 1, written()).unwrap();
        send_numbers(&producer(&girok), "orders", 0, 4);
        let mut consumer = girok.consumer().group_id("search").build().unwrap();
        consumer.assign(&[tp("orders", 0)]).unwrap();
        drain(&mut consumer);
        consumer.close().unwrap();
        girok.close().unwrap();
    }
    std::fs::remove_file(dir.path().join("girok-groups.state")).unwrap();
    let offsets = dir.path().join("__consumer_offsets-0/00000000000000000000.log");
    let mut bytes = std::fs::read(&offsets).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&offsets, bytes).unwrap();

    let girok = Girok::open(dir.path()).unwrap();
    assert!(
        girok.recovery().notes.iter().any(|note| note.contains("committed offsets")),
        "{:?}",
        girok.recovery()
    );
    let mut consumer = girok.consumer().group_id("search").build().unwrap();
    let errors = [
        consumer.assign(&[tp("orders", 0)]).unwrap_err(),
        girok.admin().list_group_offsets("search").unwrap_err(),
        girok.admin().list_groups().unwrap_err(),
        girok.coordinator("search").unwrap_err(),
    ];
    for error in errors {
        assert!(error.to_string().contains("__consumer_offsets-0"), "{error}");
        assert_eq!(error.remedy(), Remedy::Restore);
    }
    assert!(consumer.poll_now().is_err(), "nothing was assigned");
    assert_eq!(drain(&mut reader(&girok, 1)).len(), 4);
}

/// The last handle may be let go by the background itself: it closes, and ends.
#[test]
fn the_background_may_hold_the_last_handle() {
    struct Holder(Mutex<Option<Girok>>);
    impl std::task::Wake for Holder {
        fn wake(self: Arc<Self>) {
            drop(self.0.lock().unwrap().take());
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let girok = Girok::open(dir.path()).unwrap();
    girok.admin().create_topic("orders", 1, TopicConfig::default()).unwrap();
    let mut sent = producer(&girok).send(ProducerRecord::new("orders", "tea")).unwrap();
    let waker = Arc::new(Holder(Mutex::new(Some(girok)))).into();
    let mut context = std::task::Context::from_waker(&waker);
    // The sync that this asks for is led by the background, which then wakes the holder.
    drop(std::pin::Pin::new(&mut sent).poll(&mut context));
    drop(waker);
    let begun = Instant::now();
    let girok = loop {
        match Girok::open(dir.path()) {
            Ok(girok) => break girok,
            Err(error) => assert!(begun.elapsed() < LONG, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(girok.recovery().clean, "{:?}", girok.recovery());
}

/// A power cut takes records that a commit covered: the commit is set back to the end, and the report says so.
#[test]
fn commits_never_point_past_the_end() {
    let world = SimWorld::from_seed(32);
    let open = || Girok::builder().env(world.env()).threads(false).open("/log").unwrap();
    let girok = open();
    girok.admin().create_topic("orders", 1, written()).unwrap();
    send_numbers(&producer(&girok), "orders", 0, 3);
    girok.log().partition(&tp("orders", 0)).unwrap().sync().unwrap();
    // Written, and perhaps never on the medium; the commit that covers them is synced.
    send_numbers(&producer(&girok), "orders", 0, 4);
    let mut consumer = girok.consumer().group_id("search").build().unwrap();
    consumer.assign(&[tp("orders", 0)]).unwrap();
    assert_eq!(drain(&mut consumer).len(), 7);
    let receipts = consumer.commit().unwrap();
    assert_eq!(receipts[0].durability, girok::Durability::Written, "no more durable than what it covers");
    world.disk.power_cut();
    drop(consumer);
    drop(girok);

    let girok = open();
    let end = girok.log().partition(&tp("orders", 0)).unwrap().end_offset();
    let committed = girok.admin().list_group_offsets("search").unwrap()[&tp("orders", 0)].offset;
    assert_eq!(committed, end);
    if end < Offset::new(7) {
        let clamped = &girok.recovery().clamped()[0];
        assert_eq!((clamped.was, clamped.now), (Offset::new(7), end));
    }
}

fn segment(dir: &Path, partition: i32) -> std::path::PathBuf {
    dir.join(format!("orders-{partition}/00000000000000000000.log"))
}

/// One flipped bit: what stands before it is delivered, then the error names it each time, the position stays, the other
/// partitions go on, and whoever seeks past it goes on there.
#[test]
fn damage_is_named_and_passed_by() {
    let dir = tempfile::tempdir().unwrap();
    {
        let girok = Girok::open(dir.path()).unwrap();
        girok.admin().create_topic("orders", 2, written()).unwrap();
        let producer = girok.producer().linger(Duration::ZERO).build().unwrap();
        send_numbers(&producer, "orders", 0, 5);
        send_numbers(&producer, "orders", 1, 5);
        drop(producer);
        girok.close().unwrap();
    }
    let mut bytes = std::fs::read(segment(dir.path(), 0)).unwrap();
    let batch = bytes.len() / 5;
    bytes[2 * batch + batch - 2] ^= 0x10;
    std::fs::write(segment(dir.path(), 0), &bytes).unwrap();

    let girok = Girok::open(dir.path()).unwrap();
    let mut consumer = reader(&girok, 2);
    let (mut seen, mut errors) = (Vec::new(), Vec::new());
    for _ in 0..12 {
        match consumer.poll_now() {
            Ok(records) => seen.extend(records.iter().map(|r| (r.partition(), r.offset().get()))),
            Err(error) => errors.push(error),
        }
    }
    seen.sort();
    assert_eq!(seen, [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]);
    assert!(!errors.is_empty());
    for error in &errors {
        let says = error.to_string();
        assert!(says.contains("orders-0/00000000000000000000.log"), "{says}");
        assert_eq!(error.remedy(), Remedy::Restore);
    }
    assert_eq!(consumer.position(&tp("orders", 0)).unwrap(), Offset::new(2));
    consumer.seek(&tp("orders", 0), Offset::new(3)).unwrap();
    assert_eq!(drain(&mut consumer).iter().map(|(_, offset, _)| offset.get()).collect::<Vec<_>>(), [3, 4]);
}

/// A batch whose checksum is right and whose records are nonsense, as a broken client of a broker could have left it: what
/// stands before it is delivered, it never is, and nobody panics over it.
#[test]
fn nonsense_with_a_good_checksum_is_never_delivered() {
    let dir = tempfile::tempdir().unwrap();
    {
        let girok = Girok::open(dir.path()).unwrap();
        girok.admin().create_topic("orders", 1, written()).unwrap();
        send_numbers(&producer(&girok), "orders", 0, 3);
        girok.close().unwrap();
    }
    let mut builder = BatchBuilder::new(Codec::None);
    builder.set_base_offset(Offset::new(3));
    for _ in 0..2 {
        builder.append(Timestamp::from_millis(1), None, Some(b"value"), &[]).unwrap();
    }
    let mut bad = Vec::new();
    builder.encode_into(&mut bad).unwrap();
    bad[61 + 4] = 0x7F; // the first record's key, longer than the record
    let crc = crc32c(&bad[21..]);
    bad[17..21].copy_from_slice(&crc.to_be_bytes());
    let mut file = std::fs::OpenOptions::new().append(true).open(segment(dir.path(), 0)).unwrap();
    file.write_all(&bad).unwrap();
    drop(file);
    // As if a broker had written it: adopted, so its checksums are all that is checked.
    for ours in ["girok.checkpoint", "girok.meta"] {
        std::fs::remove_file(dir.path().join(ours)).unwrap();
    }

    let girok = Girok::open(dir.path()).unwrap();
    let mut consumer = reader(&girok, 1);
    assert_eq!(values(&consumer.poll_now().unwrap()), ["0", "1", "2"]);
    let error = consumer.poll_now().unwrap_err();
    assert!(matches!(error, Error::BadBatch { offset, .. } if offset == Offset::new(3)), "{error}");
    assert!(error.to_string().contains("seek past offset 4"), "{error}");
    assert_eq!(consumer.position(&tp("orders", 0)).unwrap(), Offset::new(3));
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8)
            .fold(crc ^ *byte as u32, |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 })
    })
}

/// Committed offsets live for a week after their last commit, however often the directory is closed, killed or loses its
/// power meanwhile; and what has expired stays so. The time when nobody had the directory open counts, too, but only the
/// second check believes it: it might be a clock that somebody set wrong.
#[test]
fn offsets_grow_old_across_restarts() {
    const DAY: Duration = Duration::from_hours(24);
    const CHECK: Duration = Duration::from_mins(10);
    type Ending = fn(&SimWorld, &Girok);
    let endings: [Ending; 3] = [
        |_, girok| girok.close().unwrap(),
        |world, _| world.disk.process_death(),
        |world, _| world.disk.power_cut(),
    ];
    for (n, end) in endings.into_iter().enumerate() {
        let world = SimWorld::from_seed(34 + n as u64);
        let open = || Girok::builder().env(world.env()).threads(false).open("/log").unwrap();
        let restart = |girok: Girok, away: Duration| {
            end(&world, &girok);
            drop(girok);
            world.clock.advance(away);
            open()
        };
        let pass = |girok: &Girok, time: Duration| {
            for _ in 0..time.as_secs() / CHECK.as_secs() {
                world.clock.advance(CHECK);
                girok.step().unwrap();
            }
        };
        let commit = |girok: &Girok, group: &str| {
            let entry = CommitEntry::new(tp("orders", 0), Offset::new(2));
            girok.admin().alter_group_offsets(group, &[entry]).unwrap().remove(0).1.unwrap()
        };
        let committed = |girok: &Girok| {
            let groups = girok.admin().list_groups().unwrap();
            groups.into_iter().map(|listing| listing.group.to_string()).collect::<Vec<_>>()
        };

        let girok = open();
        let config = TopicConfig { retention_ms: None, ..TopicConfig::default() };
        girok.admin().create_topic("orders", 1, config).unwrap();
        send_numbers(&producer(&girok), "orders", 0, 3);
        let receipt = commit(&girok, "search");
        commit(&girok, "archive");
        // What rests is mapped anew as large as it may become, and the simulated disk is small.
        girok.admin().alter_config("__consumer_offsets", &[("segment.bytes", "131072")]).unwrap();
        pass(&girok, 3 * DAY);
        let girok = restart(girok, Duration::ZERO);
        pass(&girok, 3 * DAY);
        commit(&girok, "archive");
        assert_eq!(committed(&girok), ["archive", "search"], "six days old");
        assert_eq!(girok.admin().verify(&receipt).unwrap(), Verdict::Stored);

        let girok = restart(girok, DAY);
        girok.step().unwrap();
        assert_eq!(committed(&girok), ["archive", "search"], "a week old, and only one check says so");
        pass(&girok, CHECK);
        assert_eq!(committed(&girok), ["archive"], "two do");
        let girok = restart(girok, Duration::ZERO);
        assert_eq!(committed(&girok), ["archive"]);
        assert!(matches!(girok.admin().verify(&receipt).unwrap(), Verdict::Deleted { .. }));

        // Whoever comes back begins as if the group had never been.
        let mut consumer = girok.consumer().group_id("search").build().unwrap();
        consumer.assign(&[tp("orders", 0)]).unwrap();
        assert_eq!(consumer.position(&tp("orders", 0)).unwrap(), Offset::ZERO);
        pass(&girok, 6 * DAY);
        assert_eq!(committed(&girok), [""; 0], "the other's week is over, too");
    }
}

/// What the background counts reaches the recorder, and the names are those on the front page.
#[test]
fn numbers_reach_the_recorder() {
    let world = SimWorld::from_seed(33);
    let girok = Girok::builder().env(world.env()).threads(false).open("/log").unwrap();
    girok.admin().create_topic("orders", 2, written()).unwrap();
    send_numbers(&producer(&girok), "orders", 0, 10);
    drain(&mut reader(&girok, 2));
    world.clock.advance(Duration::from_secs(10));
    let recorder = Recorder::default();
    metrics::with_local_recorder(&recorder, || girok.step().unwrap());
    let names = recorder.0.lock().unwrap().clone();
    let front_page = include_str!("../../src/lib.rs");
    assert!(names.len() >= 20, "{names:?}");
    for name in &names {
        assert!(front_page.contains(&format!("`{name}`")), "{name} is not on the front page");
    }
    assert_eq!(girok.stats().partitions, 2);
    assert!(girok.background_error().is_none());
}

/// Remembers names.
#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl Recorder {
    fn note(&self, key: &metrics::Key) {
        self.0.lock().unwrap().push(key.name().to_owned());
    }
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
    fn describe_gauge(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
    fn describe_histogram(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
    fn register_counter(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
        self.note(key);
        metrics::Counter::noop()
    }
    fn register_gauge(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
        self.note(key);
        metrics::Gauge::noop()
    }
    fn register_histogram(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Histogram {
        self.note(key);
        metrics::Histogram::noop()
    }
}
