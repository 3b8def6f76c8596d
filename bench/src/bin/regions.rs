//! The measurements behind `docs/decisions/0001`: how a segment's memory should reach its file, and how to sync it.
//!
//! `cargo run --release -p girok-bench --bin regions [sync|many|ahead|growth|throughput]...` prints Markdown tables,
//! all of them without arguments. Nothing of the engine takes part: these are the system calls themselves, so that
//! the engine can be built on the answer. Ways take turns in short rounds; ratios are within a round.
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use girok_bench::payload::{self, Kind};
use girok_bench::place;
use girok_bench::region::{Blocks, Region};
use girok_bench::stats::{Rounds, Times, median};
use io_uring::{IoUring, opcode, squeue, types};
use rustix::fs::FallocateFlags;

const MIB: usize = 1 << 20;

fn main() -> io::Result<()> {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |name: &str| asked.is_empty() || asked.iter().any(|a| a == name);
    let dir = place::directory();
    place::warm(dir.path(), place::sized(2048, 64) * MIB)?;
    if wanted("sync") {
        sync_paths(dir.path(), "one at a time, 4 KiB appends that do not start on a page", 4096, 61)?;
        sync_paths(dir.path(), "one at a time, 64 KiB appends that do not start on a page", 65536, 61)?;
    }
    if wanted("many") {
        many_files(dir.path())?;
    }
    if wanted("ahead") {
        zeros_ahead(dir.path())?;
    }
    if wanted("growth") {
        growth(dir.path())?;
    }
    if wanted("throughput") {
        throughput(dir.path())?;
    }
    Ok(())
}

// ---------------------------------------------------------------------------------------------- one sync at a time

/// How bytes get into the file and onto the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    StoreFdatasync,
    StoreMsync,
    WriteFdatasync,
    WriteDsync,
    RingLinked,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::StoreFdatasync => "store, fdatasync",
            Way::StoreMsync => "store, msync",
            Way::WriteFdatasync => "pwrite, fdatasync",
            Way::WriteDsync => "pwritev2 RWF_DSYNC",
            Way::RingLinked => "io_uring, write linked to fsync",
        }
    }
}

/// One way into one file, with what it has cost so far.
struct Contender {
    way: Way,
    blocks: Blocks,
    region: Region,
    at: usize,
    copying: Times,
    whole: Times,
    per_round: Vec<f64>,
    device_per_append: Vec<f64>,
}

impl Contender {
    fn append(&mut self, ring: Option<&mut IoUring>, bytes: &[u8]) -> io::Result<()> {
        let started = Instant::now();
        let at = self.at;
        match self.way {
            Way::StoreFdatasync | Way::StoreMsync => self.region.store(at, bytes),
            Way::WriteFdatasync => self.region.file().write_all_at(bytes, at as u64)?,
            Way::WriteDsync | Way::RingLinked => {}
        }
        let copied = started.elapsed();
        match self.way {
            Way::StoreFdatasync | Way::WriteFdatasync => self.region.file().sync_data()?,
            Way::StoreMsync => self.region.msync(at, bytes.len())?,
            Way::WriteDsync => {
                let flags = rustix::io::ReadWriteFlags::DSYNC;
                let pieces = [io::IoSlice::new(bytes)];
                let wrote = rustix::io::pwritev2(self.region.file(), &pieces, at as u64, flags)?;
                assert_eq!(wrote, bytes.len(), "a short write");
            }
            Way::RingLinked => write_linked_to_sync(ring.expect("a ring"), self.region.file(), bytes, at)?,
        }
        self.whole.record(started.elapsed());
        self.copying.record(copied);
        self.at += bytes.len();
        Ok(())
    }
}

fn name_of(blocks: Blocks) -> String {
    match blocks {
        Blocks::Growing => "growing".into(),
        Blocks::Reserved => "reserved, never written".into(),
        Blocks::Zeroed { piece } => format!("zeroed in {} KiB pieces", piece >> 10),
        Blocks::Recycled { piece } => format!("recycled, first filled in {} KiB pieces", piece >> 10),
    }
}

#[allow(unsafe_code)]
fn write_linked_to_sync(ring: &mut IoUring, file: &File, bytes: &[u8], at: usize) -> io::Result<()> {
    let fd = types::Fd(file.as_raw_fd());
    let write = opcode::Write::new(fd, bytes.as_ptr(), bytes.len() as u32)
        .offset(at as u64)
        .build()
        .flags(squeue::Flags::IO_LINK)
        .user_data(bytes.len() as u64);
    let sync = opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build();
    // SAFETY: both requests complete before this function returns (it waits for two completions), so `bytes` and the
    // descriptor outlive them.
    unsafe { ring.submission().push_multiple(&[write, sync]).map_err(io::Error::other)? };
    ring.submit_and_wait(2)?;
    for done in ring.completion() {
        if i64::from(done.result()) != done.user_data() as i64 {
            return Err(io::Error::other(format!("a linked request returned {}", done.result())));
        }
    }
    Ok(())
}

fn sync_paths(dir: &Path, title: &str, bytes: usize, first_at: usize) -> io::Result<()> {
    let rounds = place::sized(24, 2);
    let per_round = place::sized(if bytes > 16384 { 24 } else { 64 }, 4);
    let len = (first_at + rounds * per_round * bytes).next_multiple_of(MIB);
    let payload = payload::bytes(Kind::Random, 1, bytes);
    let mut ring = IoUring::new(8).ok();
    if ring.is_none() {
        println!("(io_uring is refused here: its rows are missing)");
    }

    let all = [Way::WriteFdatasync, Way::StoreFdatasync, Way::StoreMsync, Way::WriteDsync, Way::RingLinked];
    let two = &all[..2];
    let kib = |n: usize| n << 10;
    let plan: [(Blocks, &[Way]); 9] = [
        (Blocks::Zeroed { piece: kib(4) }, &all),
        (Blocks::Zeroed { piece: kib(16) }, two),
        (Blocks::Zeroed { piece: kib(64) }, two),
        (Blocks::Zeroed { piece: kib(256) }, two),
        (Blocks::Zeroed { piece: kib(1024) }, &all),
        (Blocks::Recycled { piece: kib(4) }, two),
        (Blocks::Recycled { piece: kib(1024) }, two),
        (Blocks::Reserved, &all),
        (Blocks::Growing, &[Way::WriteFdatasync, Way::WriteDsync, Way::RingLinked]),
    ];
    let mut contenders = Vec::new();
    for (blocks, ways) in plan {
        for &way in ways {
            if way == Way::RingLinked && ring.is_none() {
                continue;
            }
            contenders.push(Contender {
                way,
                blocks,
                region: Region::create(&dir.join(format!("{}", contenders.len())), len, blocks)?,
                at: first_at,
                copying: Times::new(),
                whole: Times::new(),
                per_round: vec![],
                device_per_append: vec![],
            });
        }
    }
    for _ in 0..rounds {
        for contender in &mut contenders {
            let mut took = Vec::with_capacity(per_round);
            let device_before = place::device_bytes_written(dir);
            for _ in 0..per_round {
                let started = Instant::now();
                contender.append(ring.as_mut(), &payload)?;
                took.push(started.elapsed().as_secs_f64());
            }
            if let (Some(before), Some(after)) = (device_before, place::device_bytes_written(dir)) {
                contender.device_per_append.push((after - before) as f64 / per_round as f64 / 1024.0);
            }
            contender.per_round.push(median(&took));
        }
    }

    println!("\n### {title}\n");
    println!(
        "µs; `copy` is the part before the sync, `device` is KiB written to the device per append, `ratio` is the \
         speed against the first row within a round\n"
    );
    println!("| blocks | way | p50 | p90 | p99 | max | copy p50 | device | ratio |");
    println!("|---|---|--:|--:|--:|--:|--:|--:|--:|");
    let limit = contenders[0].per_round.clone();
    for contender in &contenders {
        let ratios: Vec<f64> = limit.iter().zip(&contender.per_round).map(|(l, c)| l / c).collect();
        let w = &contender.whole;
        println!(
            "| {} | {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.1} | {:.0} | {:.2} |",
            name_of(contender.blocks),
            contender.way.name(),
            w.micros(0.5),
            w.micros(0.9),
            w.micros(0.99),
            w.max_micros(),
            contender.copying.micros(0.5),
            median(&contender.device_per_append),
            median(&ratios),
        );
        // What was appended must be there, however it got there.
        let mut found = vec![0; bytes];
        contender.region.file().read_exact_at(&mut found, (contender.at - bytes) as u64)?;
        assert_eq!(found, payload, "{:?} lost its last append", contender.way);
    }
    drop(contenders);
    empty(dir)
}

// ------------------------------------------------------------------------------------------------- many files at once

/// Sixteen partitions, 4 KiB dirty in each: one sync after another, all in one submission, or a thread each.
fn many_files(dir: &Path) -> io::Result<()> {
    const FILES: usize = 16;
    const BYTES: usize = 4096;
    let rounds = place::sized(200, 4);
    let payload = payload::bytes(Kind::Random, 2, BYTES);
    let len = (3 * rounds * BYTES + MIB).next_multiple_of(MIB);
    let mut files = Vec::new();
    for n in 0..FILES {
        files.push(Region::create(&dir.join(format!("many-{n}")), len, Blocks::Zeroed { piece: 4096 })?);
    }
    let mut ring = IoUring::new(64).ok();
    let (mut at, mut times) = (61, Rounds::new());
    for _ in 0..rounds {
        for way in ["one after another", "io_uring, one submission", "4 threads"] {
            if way.starts_with("io_uring") && ring.is_none() {
                continue;
            }
            for file in &mut files {
                file.store(at, &payload);
            }
            at += BYTES;
            let started = Instant::now();
            match way {
                "one after another" => {
                    for file in &files {
                        file.file().sync_data()?;
                    }
                }
                "4 threads" => thread::scope(|scope| {
                    let workers: Vec<_> = files
                        .chunks(FILES / 4)
                        .map(|part| scope.spawn(|| part.iter().try_for_each(|f| f.file().sync_data())))
                        .collect();
                    workers.into_iter().try_for_each(|w| w.join().expect("a sync does not panic"))
                })?,
                _ => sync_all_in_one(ring.as_mut().expect("checked"), &files)?,
            }
            times.record(way, started.elapsed().as_secs_f64() * 1e6);
        }
    }
    println!("\n### {FILES} files, 4 KiB stored into each, then all synced\n");
    println!("| way | µs for all, median | syncs/s | speed against the first row |\n|---|--:|--:|--:|");
    for way in times.ways() {
        let us = times.median(way);
        let ratio = times.ratio("one after another", way);
        println!("| {way} | {us:.0} | {:.0} | {ratio:.2} |", FILES as f64 * 1e6 / us);
    }
    drop(files);
    empty(dir)
}

#[allow(unsafe_code)]
fn sync_all_in_one(ring: &mut IoUring, files: &[Region]) -> io::Result<()> {
    for file in files {
        let fd = types::Fd(file.file().as_raw_fd());
        let sync = opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build();
        // SAFETY: the request names a descriptor that `files` keeps open, and completes before this returns.
        unsafe { ring.submission().push(&sync).map_err(io::Error::other)? };
    }
    ring.submit_and_wait(files.len())?;
    ring.completion().try_for_each(|done| match done.result() {
        0 => Ok(()),
        e => Err(io::Error::from_raw_os_error(-e)),
    })
}

// ------------------------------------------------------------------------------------------------------- zeros ahead

/// Who prepares the blocks an appender is going to store into and sync.
#[derive(Clone, Copy, Debug)]
enum Ahead {
    /// Nobody: reserved blocks.
    Nobody,
    /// All of it was zeroed before the clock started: what zeroing ahead could reach at best.
    All,
    /// A helper keeps `lead` bytes of zeros ready, `step` at a time, by writes of `piece` bytes; `synced` says whether
    /// it syncs each step itself or leaves that to the appender's next sync.
    Helper { piece: usize, step: usize, lead: usize, synced: bool },
    /// The same helper, syncing its steps; the appender calls `pwrite` instead of storing into the mapping.
    HelperThenWrite { piece: usize, step: usize, lead: usize },
}

impl Ahead {
    fn name(self) -> String {
        let size = |bytes: usize| {
            if bytes < MIB { format!("{} KiB", bytes >> 10) } else { format!("{} MiB", bytes >> 20) }
        };
        match self {
            Ahead::Nobody => "reserved only".into(),
            Ahead::All => "all zeroed before, 4 KiB pieces".into(),
            Ahead::Helper { piece, step, lead, synced } => format!(
                "helper, {} pieces, {} at a time, {} ahead, {}",
                size(piece),
                size(step),
                size(lead),
                if synced { "synced by it" } else { "synced by the next append" }
            ),
            Ahead::HelperThenWrite { piece, step, lead } => format!(
                "**pwrite** instead of store; helper, {} pieces, {} at a time, {} ahead, synced by it",
                size(piece),
                size(step),
                size(lead),
            ),
        }
    }
}

fn zeros_ahead(dir: &Path) -> io::Result<()> {
    let (small, mid, large) = (4 << 10, 16 << 10, MIB);
    let ways = [
        Ahead::All,
        Ahead::Nobody,
        Ahead::Helper { piece: small, step: 256 << 10, lead: MIB, synced: true },
        Ahead::Helper { piece: small, step: MIB, lead: 4 * MIB, synced: true },
        Ahead::Helper { piece: mid, step: 256 << 10, lead: MIB, synced: true },
        Ahead::Helper { piece: mid, step: MIB, lead: 4 * MIB, synced: true },
        Ahead::Helper { piece: mid, step: MIB, lead: 4 * MIB, synced: false },
        Ahead::Helper { piece: mid, step: 4 * MIB, lead: 8 * MIB, synced: true },
        Ahead::Helper { piece: 4 * mid, step: MIB, lead: 4 * MIB, synced: true },
        Ahead::Helper { piece: large, step: MIB, lead: 4 * MIB, synced: true },
        Ahead::HelperThenWrite { piece: mid, step: MIB, lead: 4 * MIB },
        Ahead::HelperThenWrite { piece: large, step: MIB, lead: 4 * MIB },
    ];
    for (bytes, total) in [(4096, place::sized(12, 1) * MIB), (65536, place::sized(48, 1) * MIB)] {
        let mut rounds = Rounds::new();
        let mut times: Vec<Times> = ways.iter().map(|_| Times::new()).collect();
        let mut waited = vec![0; ways.len()];
        for _ in 0..place::sized(5, 1) {
            for (n, &ahead) in ways.iter().enumerate() {
                let (took, waits) = append_and_sync(dir, ahead, bytes, total, &mut times[n])?;
                rounds.record(&ahead.name(), total as f64 / bytes as f64 / took.as_secs_f64());
                waited[n] += waits;
            }
        }
        println!(
            "\n### Store {} KiB and fdatasync, {} MiB in all, by who prepared the blocks\n",
            bytes >> 10,
            total >> 20
        );
        println!(
            "| blocks prepared by | appends/s | p50 µs | p99 | p99.9 | max | waits | against the first row |"
        );
        println!("|---|--:|--:|--:|--:|--:|--:|--:|");
        for (n, ahead) in ways.iter().enumerate() {
            let t = &times[n];
            println!(
                "| {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {} | {:.2} |",
                ahead.name(),
                rounds.median(&ahead.name()),
                t.micros(0.5),
                t.micros(0.99),
                t.micros(0.999),
                t.max_micros(),
                waited[n],
                rounds.ratio(&ahead.name(), &ways[0].name()),
            );
        }
    }
    Ok(())
}

/// Appends `total` bytes; the time it took and how often it had to wait for the helper.
fn append_and_sync(
    dir: &Path,
    ahead: Ahead,
    bytes: usize,
    total: usize,
    times: &mut Times,
) -> io::Result<(Duration, usize)> {
    let payload = payload::bytes(Kind::Random, 3, bytes);
    let blocks = match ahead {
        Ahead::All => Blocks::Zeroed { piece: 4096 },
        Ahead::Nobody | Ahead::Helper { .. } | Ahead::HelperThenWrite { .. } => Blocks::Reserved,
    };
    let len = total + 32 * MIB;
    let mut region = Region::create(&dir.join("ahead"), len, blocks)?;
    let helper = match ahead {
        Ahead::Helper { piece, step, lead, synced } => Some((piece, step, lead, synced)),
        Ahead::HelperThenWrite { piece, step, lead } => Some((piece, step, lead, true)),
        Ahead::All | Ahead::Nobody => None,
    };
    let ready = AtomicUsize::new(if helper.is_some() { 0 } else { len });
    let appended = AtomicUsize::new(0);
    let done = AtomicBool::new(false);
    let helper_file = region.file().try_clone()?;
    let mut waits = 0;
    let took = thread::scope(|scope| -> io::Result<Duration> {
        if let Some((piece, step, lead, synced)) = helper {
            let (ready, appended, done, file) = (&ready, &appended, &done, &helper_file);
            scope.spawn(move || -> io::Result<()> {
                let zeros = vec![0; piece];
                while !done.load(Ordering::Acquire) {
                    let end = ready.load(Ordering::Relaxed);
                    if end >= appended.load(Ordering::Acquire) + lead || end + step > len {
                        thread::sleep(Duration::from_micros(50));
                        continue;
                    }
                    for at in (end..end + step).step_by(piece) {
                        file.write_all_at(&zeros, at as u64)?;
                    }
                    if synced {
                        file.sync_data()?;
                    }
                    ready.store(end + step, Ordering::Release);
                }
                Ok(())
            });
            while ready.load(Ordering::Acquire) < lead {
                thread::sleep(Duration::from_micros(50));
            }
        }
        let started = Instant::now();
        let mut at = 61;
        while at + bytes <= total {
            let began = Instant::now();
            if ready.load(Ordering::Acquire) < at + bytes {
                waits += 1;
                while ready.load(Ordering::Acquire) < at + bytes {
                    thread::sleep(Duration::from_micros(20));
                }
            }
            match ahead {
                Ahead::HelperThenWrite { .. } => region.file().write_all_at(&payload, at as u64)?,
                _ => region.store(at, &payload),
            }
            region.file().sync_data()?;
            at += bytes;
            appended.store(at, Ordering::Release);
            times.record(began.elapsed());
        }
        let took = started.elapsed();
        done.store(true, Ordering::Release);
        Ok(took)
    })?;
    drop(region);
    empty(dir)?;
    Ok((took, waits))
}

// ------------------------------------------------------------------------------------------------------------ growth

fn growth(dir: &Path) -> io::Result<()> {
    let total = place::sized(1024, 64) * MIB;
    let ways: [(&str, usize, usize); 5] = [
        ("64 KiB doubling to 64 MiB", 64 << 10, 64 * MIB),
        ("64 KiB", 64 << 10, 64 << 10),
        ("1 MiB", MIB, MIB),
        ("64 MiB", 64 * MIB, 64 * MIB),
        ("all at once", total, total),
    ];
    let mut whole = Rounds::new();
    let mut worst = Rounds::new();
    let mut sync_after = Rounds::new();
    let mut calls = vec![0; ways.len()];
    for _ in 0..place::sized(7, 2) {
        for (n, &(name, first, last)) in ways.iter().enumerate() {
            let path = dir.join("growth");
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
            let (mut end, mut step) = (0, first);
            let mut took = Times::new();
            let mut in_all = Duration::ZERO;
            let mut syncs = Vec::new();
            while end < total {
                let add = step.min(total - end);
                let started = Instant::now();
                rustix::fs::fallocate(&file, FallocateFlags::empty(), end as u64, add as u64)?;
                took.record(started.elapsed());
                in_all += started.elapsed();
                // Every so often, the sync that must carry the new extents and length to the journal.
                if took.count() <= 8 {
                    file.write_all_at(&[1; 4096], end as u64)?;
                    let started = Instant::now();
                    file.sync_data()?;
                    syncs.push(started.elapsed().as_secs_f64() * 1e6);
                }
                end += add;
                step = (step * 2).min(last);
            }
            calls[n] = took.count();
            whole.record(name, in_all.as_secs_f64() * 1e3);
            worst.record(name, took.max_micros());
            sync_after.record(name, median(&syncs));
            drop(file);
            fs::remove_file(path)?;
        }
    }
    println!("\n### `fallocate` of a {} MiB segment, by step\n", total >> 20);
    println!(
        "| step | calls | ms in all | longest call, µs | 4 KiB pwrite + fdatasync right after a step, µs |"
    );
    println!("|---|--:|--:|--:|--:|");
    for (n, (name, ..)) in ways.iter().enumerate() {
        println!(
            "| {name} | {} | {:.2} | {:.0} | {:.0} |",
            calls[n],
            whole.median(name),
            worst.median(name),
            sync_after.median(name)
        );
    }
    // FALLOC_FL_WRITE_ZEROES (Linux 6.17) would make blocks count as written without writing them.
    let file = File::create(dir.join("probe"))?;
    let asked = rustix::fs::fallocate(&file, FallocateFlags::from_bits_retain(0x80), 0, MIB as u64);
    println!(
        "\nFALLOC_FL_WRITE_ZEROES: {}",
        asked.map_or_else(|e| format!("refused ({e})"), |()| "works".into())
    );
    drop(file);
    empty(dir)
}

// -------------------------------------------------------------------------------------------------------- throughput

/// How bytes reach the file when nobody waits for a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Into {
    Fresh,
    Prefaulted { ahead: usize },
    ZeroedAhead { piece: usize },
    Zeroed { piece: usize },
    Recycled { piece: usize },
    Buffered { piece: usize },
    Calls,
    Heap,
}

impl Into {
    fn name(self) -> String {
        match self {
            Into::Fresh => "mapped, reserved blocks".into(),
            Into::Prefaulted { ahead } => format!("mapped, helper faults {} MiB ahead", ahead >> 20),
            Into::ZeroedAhead { piece } => {
                format!("mapped, helper writes zeros in {} KiB pieces", piece >> 10)
            }
            Into::Zeroed { piece } => format!("mapped, all zeroed before in {} KiB pieces", piece >> 10),
            Into::Recycled { piece } => {
                format!("mapped, recycled, mapping kept, first filled in {} KiB pieces", piece >> 10)
            }
            Into::Buffered { piece } => {
                format!("written: 8 MiB buffer, pwrite of {} KiB by a thread", piece >> 10)
            }
            Into::Calls => "pwrite per batch".into(),
            Into::Heap => "plain memory (8 MiB, again and again)".into(),
        }
    }
}

fn throughput(dir: &Path) -> io::Result<()> {
    let total = place::sized(256, 8) * MIB;
    let ways = [
        Into::Fresh,
        Into::Prefaulted { ahead: 4 * MIB },
        Into::Prefaulted { ahead: 32 * MIB },
        Into::ZeroedAhead { piece: 4 << 10 },
        Into::ZeroedAhead { piece: 64 << 10 },
        Into::ZeroedAhead { piece: MIB },
        Into::Zeroed { piece: 4 << 10 },
        Into::Zeroed { piece: 64 << 10 },
        Into::Zeroed { piece: MIB },
        Into::Recycled { piece: 4 << 10 },
        Into::Recycled { piece: MIB },
        Into::Buffered { piece: 256 << 10 },
        Into::Buffered { piece: MIB },
        Into::Calls,
        Into::Heap,
    ];
    for batch in [6 << 10, 64 << 10] {
        let source = payload::bytes(Kind::Random, 4, 4 * MIB);
        for checksummed in [false, true] {
            let mut rounds = Rounds::new();
            for _ in 0..place::sized(7, 1) {
                for way in ways {
                    let took = fill(dir, way, batch, total, &source, checksummed)?;
                    rounds.record(&way.name(), total as f64 / took.as_secs_f64() / 1e9);
                }
            }
            println!(
                "\n### {} KiB batches, {} MiB, {}\n",
                batch >> 10,
                total >> 20,
                if checksummed { "CRC-32C and copy" } else { "copy only" }
            );
            println!("| into | GB/s | against reserved blocks (middle half) |\n|---|--:|--:|");
            for way in ways {
                let (low, high) = rounds.ratio_spread(&way.name(), &ways[0].name());
                println!(
                    "| {} | {:.2} | {:.2} ({low:.2} to {high:.2}) |",
                    way.name(),
                    rounds.median(&way.name()),
                    rounds.ratio(&way.name(), &ways[0].name())
                );
            }
        }
    }
    Ok(())
}

fn fill(dir: &Path, way: Into, batch: usize, total: usize, source: &[u8], crc: bool) -> io::Result<Duration> {
    let batches = total / batch;
    let slice = |n: usize| &source[(n * 64) % (source.len() - batch)..][..batch];
    let check = |bytes: &[u8]| {
        if crc {
            std::hint::black_box(crc32c::crc32c(bytes));
        }
    };
    let blocks = match way {
        Into::Zeroed { piece } => Blocks::Zeroed { piece },
        Into::Recycled { piece } => Blocks::Recycled { piece },
        _ => Blocks::Reserved,
    };
    if way == Into::Heap {
        let mut memory = vec![1u8; 8 * MIB];
        let started = Instant::now();
        for n in 0..batches {
            let at = (n * batch) % (memory.len() - batch);
            check(slice(n));
            memory[at..at + batch].copy_from_slice(slice(n));
        }
        std::hint::black_box(&memory);
        return Ok(started.elapsed());
    }
    let mut region = Region::create(&dir.join("fill"), total, blocks)?;
    let file = region.file().try_clone()?;
    let done = AtomicBool::new(false);
    let at = AtomicUsize::new(0);
    let ready = AtomicUsize::new(0);
    let prefaulter = region.prefaulter();
    let took = thread::scope(|scope| -> io::Result<Duration> {
        let (done, at, ready, file) = (&done, &at, &ready, &file);
        match way {
            Into::Prefaulted { ahead } => {
                scope.spawn(move || -> io::Result<()> {
                    let mut end = 0;
                    while !done.load(Ordering::Acquire) && end < total {
                        if end < at.load(Ordering::Relaxed) + ahead {
                            prefaulter.populate(end, MIB)?;
                            end += MIB;
                        } else {
                            thread::sleep(Duration::from_micros(20));
                        }
                    }
                    Ok(())
                });
            }
            Into::ZeroedAhead { piece } => {
                scope.spawn(move || -> io::Result<()> {
                    let zeros = vec![0; piece];
                    let mut end = 0;
                    while !done.load(Ordering::Acquire) && end < total {
                        file.write_all_at(&zeros, end as u64)?;
                        end += piece;
                        ready.store(end, Ordering::Release);
                    }
                    Ok(())
                });
            }
            _ => {}
        }
        let started = Instant::now();
        match way {
            Into::Buffered { piece } => {
                let (full, to_write) = mpsc::channel::<Vec<u8>>();
                let (give_back, empty) = mpsc::channel();
                for _ in 0..8 * MIB / piece {
                    give_back.send(Vec::with_capacity(piece + batch)).expect("open");
                }
                let writer = scope.spawn(move || -> io::Result<()> {
                    let mut end = 0;
                    for mut buffer in to_write {
                        file.write_all_at(&buffer, end)?;
                        end += buffer.len() as u64;
                        buffer.clear();
                        let _ = give_back.send(buffer);
                    }
                    Ok(())
                });
                let mut buffer = empty.recv().expect("open");
                for n in 0..batches {
                    check(slice(n));
                    buffer.extend_from_slice(slice(n));
                    if buffer.len() + batch > piece {
                        full.send(buffer).expect("the writer lives");
                        buffer = empty.recv().expect("the writer lives");
                    }
                }
                full.send(buffer).expect("the writer lives");
                drop(full);
                writer.join().expect("no panic")?;
            }
            Into::Calls => {
                for n in 0..batches {
                    check(slice(n));
                    file.write_all_at(slice(n), (n * batch) as u64)?;
                }
            }
            _ => {
                for n in 0..batches {
                    if let Into::ZeroedAhead { .. } = way {
                        while ready.load(Ordering::Acquire) < (n + 1) * batch {
                            thread::yield_now();
                        }
                    }
                    check(slice(n));
                    region.store(n * batch, slice(n));
                    at.store((n + 1) * batch, Ordering::Relaxed);
                }
            }
        }
        let took = started.elapsed();
        done.store(true, Ordering::Release);
        Ok(took)
    })?;
    assert_eq!(&region.bytes()[(batches - 1) * batch..][..batch], slice(batches - 1), "{way:?} lost a batch");
    drop(region);
    empty(dir)?;
    Ok(took)
}

/// Removes the files of an experiment, so that the kernel does not write them back during the next.
fn empty(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}
