//! Polling: from a reader's position to eight bytes of every key and value.
//!
//! Beside it stands the hand-written loop that decodes the same varints from a slice that is already there. Both must
//! come to the same three sums, which are known before anything was written.

use std::fs::File;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use girok::{Girok, TopicConfig, TopicPartition};
use girok_bench::engine::{Bench, build, read_all};
use girok_bench::limits::{self, Records, Walked};
use girok_bench::payload::Kind;
use girok_bench::place::{self, sized};
use girok_bench::versus::Ratios;
use girok_engine::batch::{BatchBuilder, Codec};
use girok_engine::{Durability, FetchBounds, Offset, Partition};
use memmap2::{MmapOptions, MmapRaw};

fn main() {
    let mut criterion = place::criterion();
    let bench = Bench::open();
    place::warm(bench.dir(), sized(1 << 30, 16 << 20)).expect("a warm machine");
    let mut ratios = Ratios::new();
    for (key, value, per_batch) in [(16, 84, 1), (16, 84, 64), (16, 1008, 64)] {
        let filled = Filled::new(&bench, Records::new(Kind::Random, key, value, per_batch));
        filled.compare(&mut ratios);
        if (value, per_batch) == (84, 64) {
            filled.singly(&mut criterion);
        }
        bench.drop_partition(filled.partition);
    }
    for (key, value, per_batch) in [(16, 84, 64), (16, 1008, 64)] {
        consumer(&mut ratios, &Records::new(Kind::Random, key, value, per_batch));
    }
    criterion.final_summary();
    println!("\n{}", ratios.table());
}

/// The same through the facade: a consumer with Kafka's defaults (500 records a poll), from the beginning to the end.
fn consumer(ratios: &mut Ratios, records: &Records) {
    let dir = place::directory();
    let girok = Girok::open(dir.path()).expect("a directory");
    let config = TopicConfig { durability: Durability::Written, ..TopicConfig::default() };
    girok.admin().create_topic("bench", 1, config).expect("a topic");
    let tp = TopicPartition::new("bench", 0);
    let partition = girok.log().partition(&tp).expect("a partition");
    let batches = sized(64 << 20, 1 << 20) / records.payload_bytes();
    let mut builder = BatchBuilder::new(Codec::None);
    for batch in 0..batches {
        partition.append(&build(&mut builder, records, batch)).expect("an append");
    }
    let expected = records.expected(batches);
    let all = read_all(&partition);
    assert_eq!(limits::walk(&all), expected, "the hand-written loop reads what was written");
    let mut consumer = girok.consumer().build().expect("a consumer");
    consumer.assign(std::slice::from_ref(&tp)).expect("an assignment");
    let mut poll = || {
        consumer.seek_to_beginning(&[]).expect("the beginning");
        let mut walked = Walked::default();
        loop {
            let records = consumer.poll_now().expect("a poll");
            if records.is_empty() {
                return walked;
            }
            for record in &records {
                walked.add(record.key().expect("a key"), record.value().expect("a value"));
            }
        }
    };
    let size = records.payload_bytes() / records.per_batch();
    ratios.compare(
        &format!("Consumer::poll {size} B × {}", records.per_batch()),
        "M records/s",
        Some(0.7),
        21,
        |_| speed(expected, || limits::walk(black_box(&all))),
        |_| speed(expected, &mut poll),
    );
}

/// Millions of records a second that `read` reads, which must be those expected every time.
fn speed(expected: Walked, mut read: impl FnMut() -> Walked) -> f64 {
    let started = Instant::now();
    let mut times = 0;
    while times == 0 || started.elapsed() < Duration::from_millis(sized(100, 1)) {
        assert_eq!(read(), expected);
        times += 1;
    }
    (times * expected.records) as f64 / started.elapsed().as_secs_f64() / 1e6
}

/// A partition with records in it, and its file once more for the hand-written loop.
struct Filled {
    records: Records,
    partition: Partition,
    file: MmapRaw,
    bytes: usize,
    expected: Walked,
}

impl Filled {
    fn new(bench: &Bench, records: Records) -> Self {
        let partition = bench.partition(Durability::Written);
        let batches = sized(64 << 20, 1 << 20) / records.payload_bytes();
        let mut builder = BatchBuilder::new(Codec::None);
        for batch in 0..batches {
            let built = build(&mut builder, &records, batch);
            partition.append(&built).expect("an append");
        }
        let bytes = partition.bytes() as usize;
        let name = bench.log().dir().join(partition.name().folder()).join("00000000000000000000.log");
        let file = File::open(name).expect("the segment's file");
        let file = MmapOptions::new().len(bytes).map_raw_read_only(&file).expect("a mapping");
        let expected = records.expected(batches);
        let filled = Filled { records, partition, file, bytes, expected };
        assert_eq!(limits::walk(filled.slice()), expected, "the hand-written loop reads what was written");
        assert_eq!(filled.poll(1 << 20), expected, "polling reads what was written");
        filled
    }

    #[allow(unsafe_code)]
    fn slice(&self) -> &[u8] {
        // SAFETY: the file is at least that long (the engine published those bytes), nothing below is written again,
        // and the mapping lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.file.as_ptr(), self.bytes) }
    }

    /// Reads the partition from start to end, `bytes_max` at a time.
    fn poll(&self, bytes_max: u32) -> Walked {
        let bounds = FetchBounds { bytes_max, ..FetchBounds::default() };
        let mut reader = self.partition.reader(Offset::ZERO);
        let mut walked = Walked::default();
        loop {
            let view = reader.read(&bounds).expect("a read");
            if view.is_empty() {
                return walked;
            }
            for batch in view.batches() {
                for record in batch.expect("a good batch").records() {
                    let record = record.expect("a good record");
                    walked.add(record.key().expect("a key"), record.value().expect("a value"));
                }
            }
        }
    }

    fn compare(&self, ratios: &mut Ratios) {
        let size = self.records.payload_bytes() / self.records.per_batch();
        for bytes_max in [1 << 20, 64 << 10] {
            ratios.compare(
                &format!("poll {size} B × {}, {} KiB a fetch", self.records.per_batch(), bytes_max >> 10),
                "M records/s",
                Some(0.7),
                21,
                |_| speed(self.expected, || limits::walk(black_box(self.slice()))),
                |_| speed(self.expected, || self.poll(bytes_max)),
            );
        }
    }

    fn singly(&self, criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group("poll");
        group.throughput(Throughput::Elements(self.expected.records));
        group.bench_function("hand-written walk, 100 B x 64", |b| {
            b.iter(|| limits::walk(black_box(self.slice())))
        });
        group.bench_function("poll, 100 B x 64, 1 MiB a fetch", |b| b.iter(|| self.poll(1 << 20)));
        group.finish();
    }
}
