//! Promise: no bytes make it panic, or take what is not there for data. The fuzz targets, on stable, in every run.
//!
//! Each target is fed what Kafka wrote (`tests/golden/`), what lies in `fuzz/corpus/TARGET/` (small seeds, and what a
//! fuzzer found), and mutations of both. The mutations come from a seed: `GIROK_SEED=N cargo test --test fuzz_replay` repeats
//! a run, and a failure prints its own. `GIROK_FUZZ_ROUNDS=N` tries longer.

use std::path::{Path, PathBuf};

use girok_engine::batch::{Batch, Codec, batches};

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")),
        Err(_) => default,
    }
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Every log that Kafka wrote, with a megabyte cut short: the first batches say it all.
fn golden_logs() -> Vec<Vec<u8>> {
    let mut logs = Vec::new();
    for folder in std::fs::read_dir(root("tests/golden/segments")).unwrap() {
        let folder = folder.unwrap().path();
        if folder.is_dir() {
            for file in std::fs::read_dir(folder).unwrap() {
                let path = file.unwrap().path();
                if path.extension().is_some_and(|ending| ending == "log") {
                    let mut log = std::fs::read(path).unwrap();
                    log.truncate(6000);
                    logs.push(log);
                }
            }
        }
    }
    logs.sort();
    assert!(logs.len() >= 19, "{}", logs.len());
    logs
}

/// Small seeds, and what a fuzzer found, kept for good.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = root("fuzz/corpus").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no inputs", folder.display());
    paths.into_iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Damage of the kinds that matter: bits, numbers at their edges, cuts, repeats, pieces of others.
fn mutate(seed: &[u8], others: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=chance.below(4) {
        let at = chance.below(bytes.len());
        match chance.below(7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << chance.below(8),
            1 if !bytes.is_empty() => bytes[at] = chance.next() as u8,
            2 if bytes.len() >= 4 => {
                let edges = [0, 1, -1, i32::MAX, i32::MIN, 255, 65_536, 1 << 20];
                let at = at.min(bytes.len() - 4);
                bytes[at..at + 4].copy_from_slice(&edges[chance.below(edges.len())].to_be_bytes());
            }
            3 => bytes.truncate(at),
            4 if !bytes.is_empty() => {
                let len = chance.below(64).min(bytes.len() - at);
                bytes.drain(at..at + len);
            }
            5 => {
                let other = &others[chance.below(others.len())];
                let from = chance.below(other.len());
                let len = chance.below(200).min(other.len() - from);
                bytes.splice(at..at, other[from..from + len].iter().copied());
            }
            _ => bytes.insert(at, [0, 0x7f, 0x80, 0xff][chance.below(4)]),
        }
    }
    bytes
}

/// Says which bytes it was, when the target panics.
struct Story<'a> {
    target: &'a str,
    seed: u64,
    bytes: &'a [u8],
}

impl Drop for Story<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hex: String = self.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!("{} broke its promise, GIROK_SEED={}, on: {hex}", self.target, self.seed);
        }
    }
}

fn replay(target: &str, run: fn(&[u8]), mut seeds: Vec<Vec<u8>>, mend: fn(&mut [u8])) {
    let seed = number("GIROK_SEED", u64::from(std::process::id()));
    let rounds = number("GIROK_FUZZ_ROUNDS", 200);
    println!("{target}: GIROK_SEED={seed}, {rounds} rounds");
    seeds.extend(corpus(target));
    seeds.push(Vec::new());
    let mut chance = Chance(seed);
    for bytes in &seeds {
        let _story = Story { target, seed, bytes };
        run(bytes);
    }
    for _ in 0..rounds {
        for original in &seeds {
            let mut bytes = mutate(original, &seeds, &mut chance);
            // Half of them with a right checksum, or nothing behind it would ever be reached.
            if chance.below(2) == 0 {
                mend(&mut bytes);
            }
            let _story = Story { target, seed, bytes: &bytes };
            run(&bytes);
        }
    }
}

/// Makes length and checksum of the first batch those of its bytes.
fn mend_batch(bytes: &mut [u8]) {
    if bytes.len() < 61 {
        return;
    }
    let claimed = i32::from_be_bytes(bytes[8..12].try_into().unwrap()) as i64 + 12;
    let end = if (61..=bytes.len() as i64).contains(&claimed) { claimed as usize } else { bytes.len() };
    bytes[8..12].copy_from_slice(&(end as i32 - 12).to_be_bytes());
    bytes[16] = 2;
    let crc = !bytes[21..end].iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ byte as u32, |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 })
    });
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
}

#[test]
fn batches_of_anything() {
    replay("batches", girok_fuzz::batches, golden_logs(), mend_batch);
}

#[test]
fn compressed_anything() {
    let mut seeds = Vec::new();
    for log in golden_logs() {
        for batch in
            batches(&log).map_while(Result::ok).filter(|batch| batch.header().is_compressed()).take(2)
        {
            seeds.push(compressed_seed(&batch));
        }
    }
    assert!(seeds.len() >= 4, "one of each codec");
    replay("decompression", girok_fuzz::decompression, seeds, |_| {});
}

#[test]
fn recovery_of_anything() {
    let seeds = golden_logs().into_iter().map(|log| [&[0], &log[..]].concat()).collect();
    replay("recovery", girok_fuzz::recovery, seeds, |bytes| {
        mend_batch(bytes.get_mut(1..).unwrap_or_default())
    });
}

#[test]
fn offsets_records_of_anything() {
    let mut seeds = Vec::new();
    for folder in ["__consumer_offsets-0", "__transaction_state-0"] {
        let path = root("tests/golden/segments").join(folder).join("00000000000000000000.log");
        let log = std::fs::read(path).unwrap();
        let mut all = Vec::new();
        for batch in batches(&log).map(Result::unwrap) {
            for record in batch.records().map(Result::unwrap) {
                let flags =
                    [batch.header().is_transactional() as u8 | (batch.header().is_control() as u8) << 1, 1];
                let key = record.key().unwrap_or_default();
                let value_len = record.value().map_or(u16::MAX, |value| value.len() as u16);
                let lengths = [(key.len() as u16).to_be_bytes(), value_len.to_be_bytes()].concat();
                let one = [&flags[..], &lengths, key, record.value().unwrap_or_default()].concat();
                all.extend_from_slice(&one);
                seeds.push(one);
            }
        }
        seeds.push(all);
    }
    assert!(seeds.len() > 25);
    replay("offsets_records", girok_fuzz::offsets_records, seeds, |_| {});
}

/// As the target reads it: codec, bound, body.
fn compressed_seed(batch: &Batch<'_>) -> Vec<u8> {
    let codec = batch.header().codec().unwrap();
    assert_ne!(codec, Codec::None);
    [&[codec.id() - 1, 0xff, 0x0f], batch.body()].concat()
}
