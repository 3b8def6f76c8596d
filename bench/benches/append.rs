//! Appending: encode, checksum, reserve, copy, publish; and, for `Synced`, the sync that is shared.
//!
//! Beside an append nobody waits for stands the bare loop that encodes, checksums and copies the same bytes into the same
//! kind of region; beside a synced one, `pwrite` and `fdatasync` of the same bytes into blocks that were written before.
//! Before anything is timed, the bytes in the log are compared with what the bare loop made, every one of them.

use std::fs;
use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use girok_bench::engine::{Bench, build, read_all};
use girok_bench::limits::{self, RawSync, Records};
use girok_bench::payload::Kind;
use girok_bench::place::{self, sized};
use girok_bench::stats::Times;
use girok_bench::versus::Ratios;
use girok_engine::batch::{BatchBuilder, Codec};
use girok_engine::{Durability, Partition};

fn main() {
    let mut criterion = place::criterion();
    let bench = Bench::open();
    place::warm(bench.dir(), sized(1 << 30, 16 << 20)).expect("a warm machine");

    prove(&bench);
    let mut ratios = Ratios::new();
    written(&bench, &mut ratios);
    synced(&bench, &mut ratios);
    singly(&bench, &mut criterion);
    criterion.final_summary();
    println!("\n{}", ratios.table());
}

/// The engine's bytes are the limit's bytes.
fn prove(bench: &Bench) {
    for per_batch in [1, 64] {
        let records = Records::new(Kind::Random, 16, 84, per_batch);
        let partition = bench.partition(Durability::Synced);
        let batches = 1000;
        append_all(&partition, &records, batches);
        partition.sync().expect("a sync");
        let path = bench.dir().join("bare");
        let (_, region, len) = limits::bare_append(&path, &records, batches).expect("the bare loop");
        let ours = read_all(&partition);
        assert!(ours == region.bytes()[..len], "the engine and the bare loop wrote different bytes");
        assert_eq!(limits::walk(&ours), records.expected(batches));
        fs::remove_file(path).expect("our own file");
        bench.drop_partition(partition);
    }
}

fn append_all(partition: &Partition, records: &Records, batches: usize) -> Duration {
    let mut builder = BatchBuilder::new(Codec::None);
    let started = Instant::now();
    for batch in 0..batches {
        let built = build(&mut builder, records, batch);
        black_box(partition.append(&built).expect("an append"));
    }
    started.elapsed()
}

/// Nobody waits for the medium.
fn written(bench: &Bench, ratios: &mut Ratios) {
    let total = sized(128 << 20, 1 << 20);
    for (key, value, per_batch) in [(16, 84, 1), (16, 84, 64), (16, 1008, 64), (16, 1008, 8)] {
        let records = Records::new(Kind::Random, key, value, per_batch);
        let batches = total / records.payload_bytes();
        let path = bench.dir().join("bare");
        let per_second =
            |took: Duration| (batches * records.payload_bytes()) as f64 / took.as_secs_f64() / 1e6;
        ratios.compare(
            &format!("append, `Written`, {} B × {per_batch}", key + value),
            "MB/s",
            Some(0.6),
            15,
            |_| {
                let (took, region, _) = limits::bare_append(&path, &records, batches).expect("the bare loop");
                drop(region);
                fs::remove_file(&path).expect("our own file");
                per_second(took)
            },
            |_| {
                let partition = bench.partition(Durability::Written);
                let took = append_all(&partition, &records, batches);
                assert_eq!(partition.high_watermark().get(), (batches * per_batch) as i64);
                bench.drop_partition(partition);
                per_second(took)
            },
        );
    }
}

/// Every append waits until it is on the medium.
fn synced(bench: &Bench, ratios: &mut Ratios) {
    let rounds = 15;
    let times = sized(300, 10);
    for (waiters, aim) in [(1, 0.8), (4, 2.0), (16, 8.0)] {
        for (key, value) in [(16, 1008), (16, 84)] {
            let records = Records::new(Kind::Random, key, value, 1);
            let mut one = Vec::new();
            records.encode(0, 0, &mut one);
            let path = bench.dir().join("raw");
            let mut raw = RawSync::new(&path, 64 << 20).expect("a file");
            let partition = bench.partition(Durability::Synced);
            let (mut raw_times, mut our_times) = (Times::new(), Times::new());
            let syncs_before = bench.syncs();
            let measured = ratios.compare(
                &format!("append, `Synced`, {} B, {waiters} waiting", key + value),
                "appends/s",
                Some(aim),
                rounds,
                |_| {
                    let started = Instant::now();
                    raw_times.add(&raw.run(&one, times).expect("raw syncs"));
                    times as f64 / started.elapsed().as_secs_f64()
                },
                |_| {
                    let (took, timed) = append_and_wait(&partition, &records, waiters, times);
                    our_times.add(&timed);
                    (waiters * times) as f64 / took.as_secs_f64()
                },
            );
            if !measured {
                bench.drop_partition(partition);
                fs::remove_file(&path).expect("our own file");
                continue;
            }
            let (appended, syncs) = (our_times.count(), bench.syncs() - syncs_before);
            ratios.note(format!(
                "{:.1} appends a sync ({} syncs); µs p50 {:.0} p99 {:.0} p99.9 {:.0} max {:.0}; raw p50 {:.0} p99 {:.0}",
                appended as f64 / syncs as f64,
                syncs,
                our_times.micros(0.5),
                our_times.micros(0.99),
                our_times.micros(0.999),
                our_times.max_micros(),
                raw_times.micros(0.5),
                raw_times.micros(0.99),
            ));
            if waiters > 1 && raw_times.is_starved() {
                ratios.doubt();
            }
            assert_eq!(partition.synced_offset().get(), appended as i64, "an ack for what is not synced");
            assert_eq!(limits::check(&read_all(&partition)), appended);
            bench.drop_partition(partition);
            fs::remove_file(&path).expect("our own file");
        }
    }
}

/// `waiters` threads, each appending one batch and waiting for its sync, `times` times.
fn append_and_wait(
    partition: &Partition,
    records: &Records,
    waiters: usize,
    times: usize,
) -> (Duration, Times) {
    let barrier = Barrier::new(waiters + 1);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..waiters)
            .map(|waiter| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let mut builder = BatchBuilder::new(Codec::None);
                    let mut all = Times::new();
                    barrier.wait();
                    for n in 0..times {
                        let started = Instant::now();
                        let built = build(&mut builder, records, waiter * times + n);
                        let appended = partition.append(&built).expect("an append");
                        partition.wait_for(appended.next_offset, Durability::Synced).expect("a sync");
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
            all.add(&thread.join().expect("an appender"));
        }
        (started.elapsed(), all)
    })
}

/// The same through criterion, for its history and its plots.
fn singly(bench: &Bench, criterion: &mut Criterion) {
    let records = Records::new(Kind::Random, 16, 84, 64);
    let mut group = criterion.benchmark_group("append");
    group.throughput(Throughput::Bytes(records.payload_bytes() as u64));
    group.bench_function("bare loop, 100 B x 64", |b| {
        b.iter_custom(|batches| {
            let path = bench.dir().join("bare");
            let (took, ..) = limits::bare_append(&path, &records, batches as usize).expect("the bare loop");
            fs::remove_file(path).expect("our own file");
            took
        });
    });
    group.bench_function("Written, 100 B x 64", |b| {
        b.iter_custom(|batches| {
            let partition = bench.partition(Durability::Written);
            let took = append_all(&partition, &records, batches as usize);
            bench.drop_partition(partition);
            took
        });
    });
    let mut one = Vec::new();
    let single = Records::new(Kind::Random, 16, 1008, 1);
    single.encode(0, 0, &mut one);
    group.throughput(Throughput::Elements(1));
    group.bench_function("pwrite and fdatasync, 1 KiB", |b| {
        let path = bench.dir().join("raw");
        let mut raw = RawSync::new(&path, 64 << 20).expect("a file");
        b.iter(|| raw.append(&one).expect("a raw sync"));
        fs::remove_file(path).expect("our own file");
    });
    group.bench_function("Synced, 1 KiB, one waiting", |b| {
        let partition = bench.partition(Durability::Synced);
        b.iter_custom(|times| append_and_wait(&partition, &single, 1, times as usize).0);
        bench.drop_partition(partition);
    });
    group.finish();
}
