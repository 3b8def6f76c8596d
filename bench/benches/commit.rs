//! Committing: one group, one partition, one offset, and a receipt for it.
//!
//! A commit is a record in the offsets log, so its limits are those of an append: the bare loop that encodes, checksums and
//! copies a batch of the same size, and `pwrite` and `fdatasync` of as many bytes. Before anything is timed the commits
//! are fetched, verified by their receipts, and rebuilt from the log alone.

use std::fs;
use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use girok_bench::engine::{Bench, read_all};
use girok_bench::limits::{self, RawSync, Records};
use girok_bench::payload::Kind;
use girok_bench::place::{self, sized};
use girok_bench::stats::Times;
use girok_bench::versus::Ratios;
use girok_coordinator::{
    CommitEntry, CommitOptions, Coordinator, Ends, Ground, PartitionJournal, Settings, TopicView, Topics,
    Verdict,
};
use girok_engine::batch::batches;
use girok_engine::{Durability, Offset, Partition, TopicId, TopicPartition};

fn main() {
    let mut criterion = place::criterion();
    let bench = Bench::open();
    place::warm(bench.dir(), sized(1 << 30, 16 << 20)).expect("a warm machine");
    let like = prove(&bench);
    let mut ratios = Ratios::new();
    written(&bench, &mut ratios, &like);
    synced(&bench, &mut ratios, &like);
    singly(&bench, &mut criterion);
    criterion.final_summary();
    println!("\n{}", ratios.table());
}

/// One topic, as long as anybody could wish.
#[derive(Debug)]
struct Orders;

const PARTITIONS: i32 = 12;

impl Topics for Orders {
    fn topic(&self, name: &str) -> Option<TopicView> {
        (name == "orders").then_some(TopicView { id: TopicId([7; 16]), partitions: PARTITIONS })
    }

    fn ends(&self, partition: &TopicPartition) -> Option<Ends> {
        let end = Offset::new(i64::MAX - 1);
        (partition.topic() == "orders").then_some(Ends { published: end, synced: end })
    }
}

/// A coordinator over a new partition.
struct Seat {
    coordinator: Coordinator,
    journal: Partition,
}

impl Seat {
    fn new(bench: &Bench, durability: Durability) -> Self {
        let journal = bench.partition(durability);
        Seat { coordinator: Self::over(bench, &journal), journal }
    }

    fn over(bench: &Bench, journal: &Partition) -> Coordinator {
        let ground = Ground {
            journal: Arc::new(PartitionJournal::new(journal.clone())),
            topics: Arc::new(Orders),
            clock: bench.log().env().clock.clone(),
            state_file: None,
        };
        Coordinator::open(ground, Settings::default()).expect("an empty journal").0
    }

    /// Commits `offset` for one of the group's partitions.
    fn commit(&self, group: &str, partition: &TopicPartition, offset: i64, durability: Durability) {
        let entries = [CommitEntry::new(partition.clone(), Offset::new(offset))];
        let options = CommitOptions { durability: Some(durability), ..CommitOptions::default() };
        let receipt = self.coordinator.commit(group, &entries, options).wait().remove(0);
        black_box(receipt.expect("a receipt"));
    }

    /// `times` commits, nobody waiting for the medium.
    fn commit_many(&self, times: usize) -> Duration {
        let partitions = partitions();
        let started = Instant::now();
        for n in 0..times {
            self.commit("search", &partitions[n % partitions.len()], n as i64, Durability::Written);
        }
        started.elapsed()
    }
}

fn partitions() -> Vec<TopicPartition> {
    (0..PARTITIONS).map(|n| TopicPartition::new("orders", n)).collect()
}

/// Commits are there, by fetch, by receipt and in the log. Returns records of a commit's size.
fn prove(bench: &Bench) -> Records {
    let seat = Seat::new(bench, Durability::Synced);
    let mut receipts = Vec::new();
    for (n, partition) in partitions().into_iter().enumerate() {
        let entries = [CommitEntry::new(partition, Offset::new(n as i64 * 10))];
        let commit = seat.coordinator.commit("search", &entries, CommitOptions::default());
        receipts.push(commit.wait().remove(0).expect("a receipt"));
    }
    let again = Seat::over(bench, &seat.journal);
    for coordinator in [&seat.coordinator, &again] {
        let fetched = coordinator.fetch("search", None).wait().expect("what was committed");
        let offsets: Vec<i64> = fetched
            .iter()
            .map(|fetched| fetched.committed.as_ref().expect("an offset").offset.get())
            .collect();
        assert_eq!(offsets, (0..i64::from(PARTITIONS)).map(|n| n * 10).collect::<Vec<_>>());
        for receipt in &receipts {
            assert_eq!(coordinator.verify(receipt).wait().expect("a verdict"), Verdict::Stored);
        }
    }
    let bytes = read_all(&seat.journal);
    let batch = batches(&bytes).next().expect("a commit").expect("a good batch");
    let record = batch.records().next().expect("a record").expect("a good record");
    let (key, value) = (record.key().expect("a key").len(), record.value().expect("a value").len());
    let like = Records::new(Kind::Random, key, value, 1);
    let mut one = Vec::new();
    like.encode(0, 0, &mut one);
    assert_eq!(one.len(), batch.bytes().len(), "the limit writes as many bytes as a commit");
    bench.drop_partition(seat.journal);
    like
}

fn written(bench: &Bench, ratios: &mut Ratios, like: &Records) {
    let times = sized(200_000, 1000);
    let path = bench.dir().join("bare");
    ratios.compare(
        "commit, `Written`, one group, one partition",
        "commits/s",
        None,
        11,
        |_| {
            let (took, ..) = limits::bare_append(&path, like, times).expect("the bare loop");
            fs::remove_file(&path).expect("our own file");
            times as f64 / took.as_secs_f64()
        },
        |_| {
            let seat = Seat::new(bench, Durability::Written);
            let took = seat.commit_many(times);
            assert_eq!(seat.journal.high_watermark().get(), times as i64, "a record for every commit");
            bench.drop_partition(seat.journal);
            times as f64 / took.as_secs_f64()
        },
    );
}

fn synced(bench: &Bench, ratios: &mut Ratios, like: &Records) {
    let times = sized(300, 10);
    let mut one = Vec::new();
    like.encode(0, 0, &mut one);
    for groups in [1, 16, 100] {
        let path = bench.dir().join("raw");
        let mut raw = RawSync::new(&path, 16 << 20).expect("a file");
        let seat = Seat::new(bench, Durability::Synced);
        let (mut all, mut raw_times) = (Times::new(), Times::new());
        let syncs_before = bench.syncs();
        let measured = ratios.compare(
            &format!("commit, `Synced`, {groups} groups, each waiting"),
            "commits/s",
            None,
            11,
            |_| {
                let started = Instant::now();
                raw_times.add(&raw.run(&one, times).expect("raw syncs"));
                times as f64 / started.elapsed().as_secs_f64()
            },
            |round| {
                let (took, timed) = commit_and_wait(&seat, groups, times, round);
                all.add(&timed);
                (groups * times) as f64 / took.as_secs_f64()
            },
        );
        if measured {
            let syncs = bench.syncs() - syncs_before;
            ratios.note(format!(
                "{:.1} commits a sync ({} syncs); µs p50 {:.0} p99 {:.0} p99.9 {:.0} max {:.0}",
                all.count() as f64 / syncs as f64,
                syncs,
                all.micros(0.5),
                all.micros(0.99),
                all.micros(0.999),
                all.max_micros(),
            ));
            assert_eq!(
                seat.journal.synced_offset().get() as u64,
                all.count(),
                "a receipt for what is not synced"
            );
        }
        bench.drop_partition(seat.journal);
        fs::remove_file(&path).expect("our own file");
    }
}

/// A thread for each group, committing `times` times and waiting for each.
fn commit_and_wait(seat: &Seat, groups: usize, times: usize, round: usize) -> (Duration, Times) {
    let barrier = Barrier::new(groups + 1);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..groups)
            .map(|group| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let name = format!("group-{group}");
                    let partition = TopicPartition::new("orders", group as i32 % PARTITIONS);
                    let mut all = Times::new();
                    barrier.wait();
                    for n in 0..times {
                        let started = Instant::now();
                        seat.commit(&name, &partition, (round * times + n) as i64, Durability::Synced);
                        all.record(started.elapsed());
                    }
                    all
                })
            })
            .collect();
        barrier.wait();
        let started = Instant::now();
        let mut all = Times::new();
        for thread in threads {
            all.add(&thread.join().expect("a committer"));
        }
        (started.elapsed(), all)
    })
}

/// The same through criterion, for its history and its plots.
fn singly(bench: &Bench, criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("commit");
    group.throughput(Throughput::Elements(1));
    group.bench_function("Written, one partition", |b| {
        b.iter_custom(|times| {
            let seat = Seat::new(bench, Durability::Written);
            let took = seat.commit_many(times as usize);
            bench.drop_partition(seat.journal);
            took
        });
    });
    group.bench_function("Synced, one partition, one waiting", |b| {
        let seat = Seat::new(bench, Durability::Synced);
        b.iter_custom(|times| commit_and_wait(&seat, 1, times as usize, 0).0);
        bench.drop_partition(seat.journal);
    });
    group.bench_function("fetch, one partition", |b| {
        let seat = Seat::new(bench, Durability::Written);
        seat.commit_many(PARTITIONS as usize);
        let asked = &partitions()[..1];
        b.iter(|| seat.coordinator.fetch("search", Some(asked)).wait().expect("an offset"));
        bench.drop_partition(seat.journal);
    });
    group.finish();
}
