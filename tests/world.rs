//! The promise: what was acked is there, what was cut is reported, and nothing comes back.
//!
//! A day of a log is lived from a seed on a simulated disk: appends, syncs, reads, rolls, retention, disks that fail
//! or fill up, deaths and power cuts in the middle of any operation. Beside it stands a `Vec` per partition, simple
//! enough to be obviously right, and after every death an independent reading of the medium that says what recovery
//! must report. `GIROK_SEEDS=100000 cargo test --release --test world` lives more days, `GIROK_SEED=7` one of them.

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use girok_engine::batch::{BatchBuilder, Codec, batches};
use girok_engine::disk::{Disk, Kind, Open, read_full_at};
use girok_engine::{
    Clock, Durability, Error, FetchBounds, Log, LogConfig, Offset, Partition, Reader, RecoveryReport,
    Timestamp, TopicConfig, TopicPartition,
};
use support::{Faults, SimWorld};

const DIR: &str = "/log";

/// One record as it was sent.
#[derive(Clone, Debug, PartialEq)]
struct Sent {
    value: Vec<u8>,
    time: Timestamp,
}

/// What must be true of one partition.
struct Model {
    tp: TopicPartition,
    durability: Durability,
    /// Every record from offset `first` on; those behind the acks may be cut.
    records: Vec<Sent>,
    /// Where batches end: a cut falls on one of these.
    boundaries: Vec<i64>,
    written: i64,
    synced: i64,
    start: i64,
    epoch: i32,
    seen: Option<Reader>,
}

impl Model {
    fn end(&self) -> i64 {
        self.records.len() as i64
    }

    /// The medium kept everything below `to`.
    fn cut(&mut self, to: i64) {
        self.records.truncate(to as usize);
        self.boundaries.retain(|end| *end <= to);
        self.written = to;
        self.synced = to;
        self.seen = None;
    }
}

/// How the last life ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Closed,
    Died,
    /// While it was being opened again, perhaps before it had touched anything.
    DiedOpening,
    PowerCut,
    /// The close gave an error, perhaps after all that matters was written, and then the power went.
    CloseFailed,
}

struct Day {
    world: SimWorld,
    log: Option<Log>,
    models: Vec<Model>,
    next_value: u64,
    deaths: usize,
    cuts: usize,
    suspects: usize,
    poisonings: usize,
}

impl Day {
    fn new(seed: u64) -> Day {
        let world = SimWorld::from_seed(seed);
        let rng = &world.rng;
        world.disk.set_maps_safely(rng.chance(0.7));
        world.disk.set_reserve_bytes(64 << 10);
        let models = (0..rng.between(1, 3))
            .map(|n| Model {
                tp: TopicPartition::new(format!("t{n}"), 0),
                durability: if rng.chance(0.6) { Durability::Synced } else { Durability::Written },
                records: Vec::new(),
                boundaries: vec![0],
                written: 0,
                synced: 0,
                start: 0,
                epoch: 0,
                seen: None,
            })
            .collect();
        Day { world, log: None, models, next_value: 0, deaths: 0, cuts: 0, suspects: 0, poisonings: 0 }
    }

    fn open(&self) -> Result<(Log, RecoveryReport), Error> {
        let config = LogConfig {
            growth_bytes_min: 4 << 10,
            growth_bytes_max: 16 << 10,
            window_bytes: 16 << 10,
            write_buffer_bytes: 16 << 10,
            open_files_max: 8,
            idle_ms: 300,
            checkpoint_interval_ms: 500,
            retention_check_ms: 1000,
            ..LogConfig::default()
        };
        Log::open(self.world.env(), DIR, config)
    }

    fn partition(&self, n: usize) -> Result<Partition, Error> {
        self.log.as_ref().unwrap().partition(&self.models[n].tp)
    }

    /// One batch; what the answer promises is written down.
    fn append(&mut self, n: usize) -> Result<(), Error> {
        let rng = &self.world.rng;
        let mut builder = BatchBuilder::new(if rng.chance(0.1) { Codec::Lz4 } else { Codec::None });
        let mut sent = Vec::new();
        // Mostly alike, as real records are: equal sizes are what lets ghosts line up.
        let size = if rng.chance(0.7) { 100 } else { rng.between(0, 900) };
        for _ in 0..rng.between(1, 6) {
            self.next_value += 1;
            let mut value = format!("{}-{}", self.world.seed, self.next_value).into_bytes();
            value.resize(value.len().max(size as usize), b'.');
            let time = Timestamp::from_millis(self.world.clock.wall().as_millis() - rng.below(50) as i64);
            builder.append(time, None, Some(&value), &[])?;
            sent.push(Sent { value, time });
        }
        let wants_sync = rng.chance(0.3);
        let partition = self.partition(n)?;
        let model = &mut self.models[n];
        match partition.append(&builder.finish()?) {
            Ok(appended) => {
                assert_eq!(appended.base_offset, Offset::new(model.end()), "offsets have no gaps");
                model.records.append(&mut sent);
                model.boundaries.push(model.end());
                model.written = model.end();
            }
            Err(error) => {
                // Given offsets and then failed, or refused before: what is there now tells.
                if partition.end_offset() > Offset::new(model.end()) {
                    model.records.append(&mut sent);
                    model.boundaries.push(model.end());
                }
                return Err(error);
            }
        }
        if wants_sync {
            partition.wait_for(Offset::new(model.end()), Durability::Synced)?;
            model.synced = model.end();
        }
        Ok(())
    }

    /// Reads on where the last read ended, and compares.
    fn read(&mut self, n: usize) -> Result<(), Error> {
        let partition = self.partition(n)?;
        let small = self.world.rng.chance(0.5);
        let model = &mut self.models[n];
        let reader = model.seen.get_or_insert_with(|| partition.reader(Offset::new(model.start)));
        if reader.position() < partition.start_offset() {
            reader.seek(partition.start_offset());
        }
        let bounds = FetchBounds { bytes_max: if small { 1 } else { 1 << 20 }, ..FetchBounds::default() };
        let from = reader.position().get();
        let view = reader.read(&bounds)?;
        let mut next = from;
        for batch in view.batches() {
            next = compare(&model.records, batch.unwrap(), from, next);
        }
        assert_eq!(view.next().get(), next, "a view says where it ends");
        assert!(next <= partition.high_watermark().get());
        if model.durability == Durability::Synced {
            assert!(next <= partition.synced_offset().get(), "only what is synced is visible");
        }
        Ok(())
    }

    /// Lookups against the model, anywhere in the partition.
    fn look_up(&mut self, n: usize) -> Result<(), Error> {
        let partition = self.partition(n)?;
        let rng = &self.world.rng;
        let model = &self.models[n];
        let high = partition.high_watermark().get();
        if high <= model.start {
            return Ok(());
        }
        let offset = rng.between(model.start as u64, high as u64 - 1) as i64;
        let view =
            partition.fetch(Offset::new(offset), &FetchBounds { bytes_max: 1, ..FetchBounds::default() })?;
        let batch = view.batches().next().expect("below the high watermark").unwrap();
        let header = batch.header();
        assert!(header.base_offset.get() <= offset && offset < header.next_offset().get());
        compare(&model.records, batch, offset, offset);

        let time = model.records[offset as usize].time;
        let expected = (model.start..high)
            .find(|at| model.records[*at as usize].time >= time)
            .map(|at| (Offset::new(at), model.records[at as usize].time));
        assert_eq!(partition.offset_for_time(time)?, expected, "the first offset at or after a time");
        Ok(())
    }

    /// One step of the day. An error is an answer too, and may end this life.
    fn step(&mut self) -> Result<(), Error> {
        let n = self.world.rng.index(self.models.len());
        self.world.clock.advance(Duration::from_millis(self.world.rng.below(40)));
        match self.world.rng.below(100) {
            0..45 => self.append(n),
            45..60 => self.read(n),
            60..65 => self.look_up(n),
            65..80 => {
                let now = self.world.clock.now();
                self.log.as_ref().unwrap().step(now).map(|_| ())
            }
            80..85 => {
                self.world.disk.tick();
                Ok(())
            }
            85..88 => {
                let partition = self.partition(n)?;
                let end = partition.sync()?;
                self.models[n].synced = end.get();
                Ok(())
            }
            88..90 => {
                let partition = self.partition(n)?;
                let (start, high) = (self.models[n].start, partition.high_watermark().get());
                let to = self.world.rng.between(start as u64, high as u64) as i64;
                let result = partition.delete_records(Offset::new(to)).map(|_| ());
                // Also if the answer was an error: the start moved before the checkpoint that failed.
                self.models[n].start = partition.start_offset().get();
                result
            }
            90..92 => self.log.as_ref().unwrap().save_checkpoint(),
            92..94 => {
                self.world.clock.advance(Duration::from_secs(2));
                Ok(())
            }
            94..95 => {
                self.world.disk.set_faults(Faults { short: 0.2, ..Faults::default() });
                Ok(())
            }
            95..96 => {
                self.world.disk.fail_next_sync();
                Ok(())
            }
            96..97 => {
                let used = self.world.disk.used_bytes();
                self.world.disk.set_capacity(used + self.world.rng.below(64 << 10));
                Ok(())
            }
            97..98 => {
                self.world.disk.set_capacity(u64::MAX);
                Ok(())
            }
            _ => {
                let power = self.world.rng.chance(0.7);
                self.world.disk.set_doom(Some((self.world.rng.between(1, 30), power)));
                Ok(())
            }
        }
    }

    /// A life, from an open to its end.
    fn live(&mut self, steps: usize) -> End {
        for _ in 0..steps {
            let life = self.world.disk.life();
            let result = self.step();
            if self.world.disk.life() != life {
                return if self.world.disk.died_by_power() { End::PowerCut } else { End::Died };
            }
            match result {
                Ok(()) | Err(Error::NoRoom { .. }) => {}
                Err(Error::Poisoned { .. }) => {
                    // Reads go on, writes are refused; the only way back is to open again, and that is like a death:
                    // the kernel may have dropped what was not synced.
                    self.poisonings += 1;
                    let n = self.world.rng.index(self.models.len());
                    let _ = self.read(n);
                    self.world.disk.power_cut();
                    return End::PowerCut;
                }
                // A full disk or a short life makes chores fail; they come again.
                Err(Error::Io { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        match self.world.rng.below(3) {
            0 => {
                self.world.disk.heal();
                match self.log.take().unwrap().close() {
                    Ok(()) => End::Closed,
                    Err(_) => {
                        self.world.disk.power_cut();
                        End::CloseFailed
                    }
                }
            }
            1 => {
                self.world.disk.process_death();
                End::Died
            }
            _ => {
                self.world.disk.power_cut();
                End::PowerCut
            }
        }
    }

    /// Opens again and holds what is there against what was promised.
    fn reopen(&mut self, end: End) {
        for model in &mut self.models {
            model.seen = None;
        }
        self.log = None;
        self.deaths += 1;
        self.world.disk.heal();
        let expected: BTreeMap<_, _> =
            self.models.iter().map(|model| (model.tp.clone(), self.survey(&model.tp))).collect();
        // Also recovery dies, now and then.
        if self.world.rng.chance(0.2) {
            let power = end == End::PowerCut && self.world.rng.chance(0.5);
            self.world.disk.set_doom(Some((self.world.rng.between(1, 40), power)));
        }
        let life = self.world.disk.life();
        let opened = self.open();
        if self.world.disk.life() != life {
            // What it cut before it died is cut; the survey no longer speaks of this medium.
            drop(opened);
            let by_power = matches!(end, End::PowerCut | End::CloseFailed);
            let end = if by_power { End::CloseFailed } else { End::DiedOpening };
            return self.reopen(end);
        }
        self.world.disk.set_doom(None);
        let (log, report) = opened.unwrap();
        if !matches!(end, End::DiedOpening | End::CloseFailed) {
            assert_eq!(report.clean, end == End::Closed, "after {end:?}");
        }
        assert!(report.refused.is_empty(), "{:?}", report.refused);
        for model in &mut self.models {
            if log.topic(model.tp.topic()).is_err() {
                assert_eq!(model.end(), 0);
                let config = TopicConfig {
                    segment_bytes: 8 << 10,
                    segment_ms: 20_000,
                    durability: model.durability,
                    flush_ms_max: 100,
                    retention_ms: None,
                    ..TopicConfig::default()
                };
                log.create_topic(model.tp.topic(), 1, config).unwrap();
                continue;
            }
            let partition = log.partition(&model.tp).unwrap();
            let kept = partition.end_offset().get();
            let (acked, what) = match end {
                End::PowerCut | End::CloseFailed => (model.synced, "acked Synced survives every power cut"),
                End::Died | End::DiedOpening => {
                    (model.written, "acked Written survives every death of the process")
                }
                End::Closed => (model.end(), "a clean close keeps everything"),
            };
            assert!(kept >= acked, "{what}: {} kept {kept} of {acked}", model.tp);
            assert!(kept <= model.end(), "{}: nothing is made up", model.tp);
            let (survived, rubbish) = expected[&model.tp];
            let start = partition.start_offset().get();
            if survived >= start {
                assert!(
                    kept == start || model.boundaries.contains(&kept),
                    "{}: cut at the end of a batch",
                    model.tp
                );
                assert_eq!(kept, survived, "{}: kept what the medium holds", model.tp);
            } else {
                assert_eq!(kept, start, "{}: all that the medium holds was deleted before", model.tp);
            }
            let said = report.partitions.iter().find(|said| said.partition == model.tp);
            match said {
                Some(said) => {
                    assert_eq!(said.end.get(), kept);
                    assert_eq!(said.cut_bytes, rubbish, "{}: what is reported is what was cut", model.tp);
                    assert_eq!(said.suspect, !said.saved.is_empty());
                    if said.is_cut() {
                        self.cuts += 1;
                        assert!(partition.leader_epoch() > model.epoch, "a cut raises the leader epoch");
                    }
                    self.suspects += usize::from(said.suspect);
                }
                None => assert_eq!(rubbish, 0, "{}: cut without a word", model.tp),
            }
            model.epoch = partition.leader_epoch();
            assert!(start <= model.start.max(kept));
            model.start = start;
            model.cut(kept);
            model.boundaries.push(kept);
            // Every record that is left is the one that was sent: no ghost, no neighbour, no zeros.
            let mut reader = partition.reader(Offset::new(model.start));
            let mut next = model.start;
            loop {
                let view = reader.read(&FetchBounds::default()).unwrap();
                if view.is_empty() {
                    break;
                }
                for batch in view.batches() {
                    next = compare(&model.records, batch.unwrap(), model.start, next);
                }
            }
            assert_eq!(next, kept.max(model.start), "{}: what was kept is visible", model.tp);
        }
        self.log = Some(log);
    }

    /// What the files of a partition hold, read by other code: the end of its whole valid batches in order, and how
    /// many bytes behind that are not zeros.
    fn survey(&self, tp: &TopicPartition) -> (i64, u64) {
        let disk = self.world.disk.mount();
        let folder = PathBuf::from(DIR).join(tp.folder());
        let Ok(entries) = disk.list(&folder) else { return (0, 0) };
        let (mut next, mut rubbish): (Option<i64>, u64) = (None, 0);
        let mut broken = false;
        for entry in entries.iter().filter(|entry| entry.kind == Kind::File && entry.name.ends_with(".log")) {
            let base: i64 = entry.name[..20].parse().unwrap();
            let file = disk.open(&folder.join(&entry.name), Open::Read).unwrap();
            let mut bytes = vec![0; entry.len as usize];
            read_full_at(&*file, &mut bytes, 0).unwrap();
            let mut at = 0;
            let mut expected = next.unwrap_or(base);
            broken |= base != expected;
            if !broken {
                for batch in batches(&bytes) {
                    let Ok(batch) = batch else { break };
                    if batch.header().base_offset.get() != expected || batch.check_crc().is_err() {
                        break;
                    }
                    at += batch.bytes().len();
                    expected = batch.header().next_offset().get();
                }
                next = Some(expected);
            }
            let left = &bytes[at..];
            let used = left.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            rubbish += used as u64;
            broken |= used > 0;
        }
        (next.unwrap_or(0), rubbish)
    }
}

/// Compares a batch with what was sent, from `from` on; returns the offset after it.
fn compare(sent: &[Sent], batch: girok_engine::batch::Batch<'_>, from: i64, mut next: i64) -> i64 {
    let mut plain = Vec::new();
    let batch = if batch.header().codec().unwrap() == Codec::None {
        batch
    } else {
        girok_engine::batch::decompress(&batch, &mut plain, 1 << 20).unwrap();
        girok_engine::batch::Batch::parse(&plain).unwrap()
    };
    for record in batch.records() {
        let record = record.unwrap();
        if record.offset().get() < from {
            continue;
        }
        assert_eq!(record.offset().get(), next, "no record is missing or twice");
        let expected = &sent[next as usize];
        assert_eq!(record.value(), Some(&expected.value[..]), "offset {next}");
        assert_eq!(record.timestamp(), expected.time);
        next += 1;
    }
    next
}

/// Lives the day of a seed; returns what the disk did, as one number, and what happened.
fn live_day(seed: u64) -> (u64, [usize; 4]) {
    let mut day = Day::new(seed);
    day.reopen_first();
    for _ in 0..day.world.rng.between(2, 5) {
        let steps = day.world.rng.between(10, 120) as usize;
        let end = day.live(steps);
        day.reopen(end);
    }
    (day.world.disk.trace(), [day.deaths, day.cuts, day.suspects, day.poisonings])
}

impl Day {
    fn reopen_first(&mut self) {
        self.reopen(End::Closed);
    }
}

fn seeds() -> std::ops::Range<u64> {
    if let Ok(one) = std::env::var("GIROK_SEED") {
        let one = one.parse().expect("GIROK_SEED is a number");
        return one..one + 1;
    }
    0..std::env::var("GIROK_SEEDS").map_or(1000, |n| n.parse().expect("GIROK_SEEDS is a number"))
}

/// Acked `Synced` survives every power cut, acked `Written` every process death, what recovery reports is exactly
/// what was cut, and no ghost batch ever comes back.
#[test]
fn a_thousand_days() {
    let mut sums = [0usize; 4];
    let seeds = seeds();
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let lived = std::panic::catch_unwind(|| live_day(seed));
        match lived {
            Ok((_, happened)) => sums.iter_mut().zip(happened).for_each(|(sum, n)| *sum += n),
            Err(panic) => {
                eprintln!(
                    "seed {seed} failed; again: GIROK_SEED={seed} cargo test --test world a_thousand_days"
                );
                std::panic::resume_unwind(panic);
            }
        }
    }
    let [deaths, cuts, suspects, poisonings] = sums;
    println!(
        "{count} days: {deaths} deaths, {cuts} cuts, {suspects} of them suspect, {poisonings} poisonings"
    );
    if count >= 1000 {
        assert!(
            deaths > 0 && cuts > 0 && suspects > 0 && poisonings > 0,
            "the days are too quiet to prove a thing"
        );
    }
}

/// One seed, one day: twice the same trace of everything the disk was asked, whatever days this thread has lived
/// before and other threads are living meanwhile.
#[test]
fn a_day_can_be_lived_again() {
    std::thread::scope(|scope| {
        scope.spawn(|| (1000..1100).for_each(|seed| assert!(live_day(seed).0 != 0)));
        for seed in [1, 2, 3, 90_211] {
            let first = live_day(seed);
            let on_a_new_thread = scope.spawn(move || live_day(seed));
            (2000..2010).for_each(|seed| assert!(live_day(seed).0 != 0));
            assert_eq!(live_day(seed), first, "seed {seed}");
            assert_eq!(on_a_new_thread.join().unwrap(), first, "seed {seed}");
        }
    });
}

/// A roll was known to the checkpoint, and the end of the segment before it was not yet synced: the power cut took
/// that end, to the byte where the last sync had left the file, and kept the name of the new one. Every length was as
/// the checkpoint had it, so nothing was read, and the log went on behind a hole.
#[test]
fn a_roll_may_outlive_the_end_before_it() {
    let mut holes = 0;
    for seed in 0..100 {
        let world = SimWorld::from_seed(seed);
        let open = || Log::open(world.env(), DIR, LogConfig::default()).unwrap().0;
        let tp = TopicPartition::new("t0", 0);
        let append = |log: &Log, bytes: usize| {
            let mut builder = BatchBuilder::new(Codec::None);
            builder.append(world.clock.wall(), None, Some(&vec![b'v'; bytes]), &[]).unwrap();
            log.partition(&tp).unwrap().append(&builder.finish().unwrap()).unwrap();
        };
        let log = open();
        let config = TopicConfig {
            segment_bytes: 4096,
            durability: Durability::Written,
            flush_ms_max: 60_000,
            ..TopicConfig::default()
        };
        log.create_topic("t0", 1, config).unwrap();
        append(&log, 1000);
        log.close().unwrap();
        let files = || {
            let entries = world.disk.mount().list(&PathBuf::from(DIR).join(tp.folder())).unwrap();
            let logs = entries.into_iter().filter(|entry| entry.name.ends_with(".log"));
            logs.map(|entry| entry.len).collect::<Vec<_>>()
        };
        let synced = files()[0];

        let log = open();
        append(&log, 1000);
        append(&log, 3000);
        log.save_checkpoint().unwrap();
        world.disk.power_cut();
        drop(log);
        let left = files();
        holes += usize::from(left == [synced, 0]);

        let log = open();
        let partition = log.partition(&tp).unwrap();
        let mut reader = partition.reader(Offset::ZERO);
        while !reader.read(&FetchBounds::default()).unwrap().is_empty() {}
        assert_eq!(reader.position(), partition.end_offset(), "seed {seed}: {left:?}, no hole");
        assert!(reader.position() >= Offset::new(1));
    }
    assert!(holes > 0, "the medium never lost just that end");
}

/// An open cut a torn end off, raised the leader epoch in the partition's own file, and lost its power before it had written
/// the checkpoint. The next one found every file as long as the old checkpoint said, read nothing, and went on in the old
/// epoch: records of two lives had one epoch, and receipts of the second life were told to be lost by the third. (Found
/// by the days with commits, among a hundred thousand.)
#[test]
fn an_epoch_once_raised_is_never_forgotten() {
    let mut raised = 0;
    for seed in 0..300 {
        let world = SimWorld::from_seed(seed);
        let open = || Log::open(world.env(), DIR, LogConfig::default());
        let tp = TopicPartition::new("t0", 0);
        let append = |log: &Log, bytes: usize| {
            let mut builder = BatchBuilder::new(Codec::None);
            builder.append(world.clock.wall(), None, Some(&vec![b'v'; bytes]), &[]).unwrap();
            log.partition(&tp).unwrap().append(&builder.finish().unwrap()).unwrap();
        };
        let log = open().unwrap().0;
        let config = TopicConfig {
            segment_bytes: 8192,
            durability: Durability::Written,
            flush_ms_max: 60_000,
            ..TopicConfig::default()
        };
        log.create_topic("t0", 1, config).unwrap();
        append(&log, 1000);
        log.partition(&tp).unwrap().sync().unwrap();
        log.save_checkpoint().unwrap();
        append(&log, 3000);
        world.disk.power_cut();
        drop(log);

        world.disk.set_doom(Some((1 + seed % 40, true)));
        drop(open());
        world.disk.heal();
        let epochs = PathBuf::from(DIR).join(tp.folder()).join("leader-epoch-checkpoint");
        let in_file = match world.disk.mount().open(&epochs, Open::Read) {
            Ok(file) => {
                let mut bytes = vec![0; file.len().unwrap() as usize];
                read_full_at(&*file, &mut bytes, 0).unwrap();
                let text = String::from_utf8(bytes).unwrap();
                text.lines().last().unwrap().split(' ').next().unwrap().parse().unwrap()
            }
            Err(_) => 0,
        };
        let (log, report) = open().unwrap();
        raised += usize::from(in_file == 1 && report.cut().count() == 0);
        assert!(log.partition(&tp).unwrap().leader_epoch() >= in_file, "seed {seed}: epoch {in_file}");
    }
    assert!(raised > 0, "no open died between its cut and its checkpoint");
}
