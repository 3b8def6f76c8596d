//! What the machine can do, measured with nothing of Girok in the way.
//!
//! Each limit does the work that cannot be avoided and no more: encode, checksum and copy the same bytes into the same
//! kind of memory; write and sync the same bytes into blocks that are there already; decode the same varints from
//! memory that is resident. They are written by hand and share no code with the engine, which also makes them a
//! second opinion: the bytes they make are compared with the engine's before anything is timed.
//!
//! ```text
//! a batch, as Kafka lays it out (magic 2; big-endian; the checksum covers everything from `attributes` on)
//!
//! 0           8        12      16    17    21           23                 27              35             43
//! | base      | length | leader| mag | crc | attributes | last offset      | base timestamp| max timestamp| producer id,
//! | offset i64| i32    | epoch | ic  | u32 | i16        | delta i32        | i64           | i64          | epoch, seq.
//! 57              61
//! | record count  | records: varint length, i8 attributes, varlong timestamp delta, varint offset delta,
//! | i32           |          varint key length, key, varint value length, value, varint header count
//! ```

use std::fs::File;
use std::hint::{black_box, spin_loop};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::payload::{self, Kind};
use crate::region::{Blocks, Region};
use crate::stats::Times;

/// Bytes before the first record.
pub const HEADER_BYTES: usize = 61;

/// The records every bench writes: one key and value size, timestamps a millisecond apart, from a seed.
#[derive(Clone, Debug)]
pub struct Records {
    bytes: Vec<u8>,
    key: usize,
    value: usize,
    per_batch: usize,
}

/// The time of the first record of every batch, in milliseconds.
pub const FIRST_TIMESTAMP: i64 = 1_790_000_000_000;

impl Records {
    /// Records of `key + value` bytes each (both at least 8), `per_batch` to a batch.
    pub fn new(kind: Kind, key: usize, value: usize, per_batch: usize) -> Self {
        assert!(
            key >= 8 && value >= 8 && per_batch >= 1,
            "keys and values of 8 bytes and more, batches of one"
        );
        // More than the caches closest to the core hold, less than would drive everything else out.
        let bytes = payload::bytes(kind, 11, (1 << 20) + (key + value) * (per_batch + 1));
        Records { bytes, key, value, per_batch }
    }

    /// The `n`-th record of batch `batch`: timestamp, key, value.
    #[inline]
    pub fn get(&self, batch: usize, n: usize) -> (i64, &[u8], &[u8]) {
        let at = (batch * 4159) & ((1 << 20) - 1);
        let record = &self.bytes[at + n * (self.key + self.value)..][..self.key + self.value];
        let (key, value) = record.split_at(self.key);
        (FIRST_TIMESTAMP + n as i64, key, value)
    }

    /// Records in a batch.
    pub fn per_batch(&self) -> usize {
        self.per_batch
    }

    /// Payload bytes of one batch: keys and values only.
    pub fn payload_bytes(&self) -> usize {
        (self.key + self.value) * self.per_batch
    }

    /// What [`walk`] must find in the first `batches` batches.
    pub fn expected(&self, batches: usize) -> Walked {
        let mut walked = Walked::default();
        for batch in 0..batches {
            for n in 0..self.per_batch {
                let (_, key, value) = self.get(batch, n);
                walked.add(key, value);
            }
        }
        walked
    }

    /// Encodes one whole batch at the end of `out`, by hand.
    pub fn encode(&self, batch: usize, base_offset: i64, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + HEADER_BYTES, 0);
        for n in 0..self.per_batch {
            let (timestamp, key, value) = self.get(batch, n);
            let (time, offset) = (timestamp - FIRST_TIMESTAMP, n as i64);
            let len = 1
                + varint_bytes(time)
                + varint_bytes(offset)
                + varint_bytes(key.len() as i64)
                + key.len()
                + varint_bytes(value.len() as i64)
                + value.len()
                + 1;
            put_varint(out, len as i64);
            out.push(0);
            put_varint(out, time);
            put_varint(out, offset);
            put_varint(out, key.len() as i64);
            out.extend_from_slice(key);
            put_varint(out, value.len() as i64);
            out.extend_from_slice(value);
            out.push(0);
        }
        let size = out.len() - start;
        let last = self.per_batch as i32 - 1;
        let head = &mut out[start..];
        head[0..8].copy_from_slice(&base_offset.to_be_bytes());
        head[8..12].copy_from_slice(&(size as i32 - 12).to_be_bytes());
        head[16] = 2;
        head[23..27].copy_from_slice(&last.to_be_bytes());
        head[27..35].copy_from_slice(&FIRST_TIMESTAMP.to_be_bytes());
        head[35..43].copy_from_slice(&(FIRST_TIMESTAMP + i64::from(last)).to_be_bytes());
        head[43..57].fill(0xff);
        head[57..61].copy_from_slice(&(last + 1).to_be_bytes());
        let crc = crc32c::crc32c(&head[21..]);
        head[17..21].copy_from_slice(&crc.to_be_bytes());
    }
}

#[inline]
fn varint_bytes(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)) as u64;
    ((63 - (zigzag | 1).leading_zeros() as usize) / 7) + 1
}

#[inline]
fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    while zigzag >= 0x80 {
        out.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

/// What a reader found: enough to know that it read every record, and read it right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// How many records.
    pub records: u64,
    /// The first eight bytes of every key, added up.
    pub keys: u64,
    /// The first eight bytes of every value, added up.
    pub values: u64,
}

impl Walked {
    /// Counts one record. Keys and values have at least eight bytes here.
    ///
    /// # Panics
    /// If they do not.
    #[inline]
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.records += 1;
        self.keys = self.keys.wrapping_add(eight(key));
        self.values = self.values.wrapping_add(eight(value));
    }
}

#[inline]
fn eight(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes are eight bytes"))
}

/// Walks whole batches that are known to be good, decoding every varint and loading eight bytes of each key and value.
///
/// # Panics
/// On bytes that are not whole good batches.
pub fn walk(mut bytes: &[u8]) -> Walked {
    let mut walked = Walked::default();
    while !bytes.is_empty() {
        let size = 12 + be_i32(&bytes[8..]) as usize;
        let count = be_i32(&bytes[57..]);
        let (batch, rest) = bytes.split_at(size);
        let mut at = HEADER_BYTES;
        for _ in 0..count {
            let len = varint(batch, &mut at);
            let end = at + len as usize;
            at += 1;
            black_box(varint(batch, &mut at));
            black_box(varint(batch, &mut at));
            let key_len = varint(batch, &mut at) as usize;
            let key = &batch[at..at + key_len];
            at += key_len;
            let value_len = varint(batch, &mut at) as usize;
            let value = &batch[at..at + value_len];
            at += value_len;
            black_box(varint(batch, &mut at));
            walked.add(key, value);
            assert!(at == end, "a record that is not as long as it says");
        }
        bytes = rest;
    }
    walked
}

#[inline]
fn be_i32(bytes: &[u8]) -> i32 {
    i32::from_be_bytes(bytes[..4].try_into().expect("four bytes are four bytes"))
}

#[inline]
fn varint(bytes: &[u8], at: &mut usize) -> i64 {
    let first = bytes[*at];
    *at += 1;
    let mut zigzag = u64::from(first & 0x7f);
    if first >= 0x80 {
        let mut shift = 7;
        loop {
            let next = bytes[*at];
            *at += 1;
            zigzag |= u64::from(next & 0x7f) << shift;
            shift += 7;
            if next < 0x80 {
                break;
            }
        }
    }
    ((zigzag >> 1) as i64) ^ -((zigzag & 1) as i64)
}

/// Walks the headers of whole batches, up to the end or to the zeros of reserved room, and checks each one's checksum:
/// what any recovery must do at least. The number of records.
///
/// # Panics
/// On a checksum that is wrong.
pub fn check(mut bytes: &[u8]) -> u64 {
    let mut records = 0;
    while bytes.len() >= HEADER_BYTES && be_i32(&bytes[8..]) != 0 {
        let (batch, rest) = bytes.split_at(12 + be_i32(&bytes[8..]) as usize);
        assert_eq!(crc32c::crc32c(&batch[21..]), be_i32(&batch[17..]) as u32, "a batch that was good");
        records += be_i32(&batch[57..]) as u64;
        bytes = rest;
    }
    records
}

/// How far ahead of the stores [`bare_append`]'s helper faults pages in, as the engine does (decision 0001).
const PREFAULT_AHEAD: usize = 4 << 20;

/// The bare append loop: encode, checksum, copy into a mapping of reserved blocks, with a helper that faults pages in
/// ahead. Returns how long `batches` batches took and the region they are in, with its used length.
///
/// # Errors
/// If the file cannot be made.
pub fn bare_append(path: &Path, records: &Records, batches: usize) -> io::Result<(Duration, Region, usize)> {
    let mut one = Vec::new();
    records.encode(0, 0, &mut one);
    let len = (batches * (one.len() + 8)).next_multiple_of(1 << 20);
    let mut region = Region::create(path, len, Blocks::Reserved)?;
    let prefaulter = region.prefaulter();
    let (at, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut end = 0;
    let took = thread::scope(|scope| -> io::Result<Duration> {
        let helper = scope.spawn(|| -> io::Result<()> {
            let mut faulted = 0;
            while !done.load(Ordering::Acquire) && faulted < len {
                if faulted < at.load(Ordering::Relaxed) + PREFAULT_AHEAD {
                    prefaulter.populate(faulted, 1 << 20)?;
                    faulted += 1 << 20;
                } else {
                    thread::sleep(Duration::from_micros(50));
                }
            }
            Ok(())
        });
        let started = Instant::now();
        for batch in 0..batches {
            one.clear();
            records.encode(batch, (batch * records.per_batch) as i64, &mut one);
            region.store(end, &one);
            end += one.len();
            at.store(end, Ordering::Relaxed);
        }
        let took = started.elapsed();
        done.store(true, Ordering::Release);
        helper.join().expect("faulting in does not panic")?;
        Ok(took)
    })?;
    Ok((took, region, end))
}

/// `pwrite` and `fdatasync`, one after another, into blocks that were written before. The file is kept between calls.
#[derive(Debug)]
pub struct RawSync {
    region: Region,
    at: usize,
}

impl RawSync {
    /// A file of `len` bytes (a multiple of 1 MiB), zeroed and synced.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(path: &Path, len: usize) -> io::Result<Self> {
        Ok(RawSync { region: Region::create(path, len, Blocks::Zeroed { piece: 64 << 10 })?, at: 0 })
    }

    /// Appends and syncs once; starts over when the file is full.
    ///
    /// # Errors
    /// If the disk does.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.at + bytes.len() > self.region.len() {
            self.at = 0;
        }
        self.region.file().write_all_at(bytes, self.at as u64)?;
        self.region.file().sync_data()?;
        self.at += bytes.len();
        Ok(())
    }

    /// [`append`](Self::append) `times` times, each one timed.
    ///
    /// # Errors
    /// If the disk does.
    pub fn run(&mut self, bytes: &[u8], times: usize) -> io::Result<Times> {
        let mut all = Times::new();
        for _ in 0..times {
            let started = Instant::now();
            self.append(bytes)?;
            all.record(started.elapsed());
        }
        Ok(all)
    }
}

/// Copies `bytes` again and again until `total` are copied, within memory of `2 * bytes`: bytes a second.
pub fn memory_copy(bytes: usize, total: usize) -> f64 {
    let from = payload::bytes(Kind::Random, 5, bytes);
    let mut to = vec![1; bytes];
    let rounds = (total / bytes).max(1);
    let started = Instant::now();
    for _ in 0..rounds {
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
    }
    (rounds * bytes) as f64 / started.elapsed().as_secs_f64()
}

/// CRC-32C over pieces of `bytes` until `total` are summed: bytes a second.
pub fn checksum(bytes: usize, total: usize) -> f64 {
    let from = payload::bytes(Kind::Random, 6, bytes);
    let rounds = (total / bytes).max(1);
    let started = Instant::now();
    for _ in 0..rounds {
        black_box(crc32c::crc32c(black_box(&from)));
    }
    (rounds * bytes) as f64 / started.elapsed().as_secs_f64()
}

/// Writes `piece` bytes a call into the page cache, `total` in all, into reserved blocks: bytes a second.
///
/// # Errors
/// If the disk does.
pub fn page_cache_write(path: &Path, piece: usize, total: usize) -> io::Result<f64> {
    let from = payload::bytes(Kind::Random, 7, piece);
    let file = File::create(path)?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, total as u64)?;
    let started = Instant::now();
    for at in (0..total / piece).map(|n| n * piece) {
        file.write_all_at(&from, at as u64)?;
    }
    let speed = total as f64 / started.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(speed)
}

/// How two threads tell one another something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Park and unpark: a futex call each way.
    Futex,
    /// Both spin on a word. Needs two cores that have nothing else to do.
    Spin,
}

/// One thread says a number, the other says it back, `rounds` times: how long each round trip took.
pub fn ping_pong(signal: Signal, rounds: usize) -> Times {
    let (ping, pong) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut times = Times::new();
    let wait_for = |word: &AtomicU64, value: u64| {
        while word.load(Ordering::Acquire) != value {
            match signal {
                Signal::Futex => thread::park(),
                Signal::Spin => spin_loop(),
            }
        }
    };
    let here = thread::current();
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            for n in 1..=rounds as u64 {
                wait_for(&ping, n);
                pong.store(n, Ordering::Release);
                if signal == Signal::Futex {
                    here.unpark();
                }
            }
        });
        for n in 1..=rounds as u64 {
            let started = Instant::now();
            ping.store(n, Ordering::Release);
            if signal == Signal::Futex {
                other.thread().unpark();
            }
            wait_for(&pong, n);
            times.record(started.elapsed());
        }
    });
    times
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the hand-written encoder makes, the hand-written walk reads, for records on both sides of the sizes at
    /// which varints grow.
    #[test]
    fn the_limits_agree_with_themselves() {
        for (key, value, per_batch) in [(8, 8, 1), (16, 84, 64), (8, 1016, 3), (64, 9000, 200)] {
            let records = Records::new(Kind::Words, key, value, per_batch);
            let mut bytes = Vec::new();
            for batch in 0..5 {
                records.encode(batch, (batch * per_batch) as i64, &mut bytes);
            }
            assert_eq!(walk(&bytes), records.expected(5));
            assert_eq!(check(&bytes), 5 * per_batch as u64);
        }
    }

    /// Every length a varint can have is predicted.
    #[test]
    fn varints_are_as_long_as_predicted() {
        for value in (0..63).flat_map(|shift| [1i64 << shift, -(1 << shift), (1 << shift) - 1]).chain([
            0,
            -1,
            i64::MIN,
        ]) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), varint_bytes(value), "{value}");
            assert_eq!(varint(&out, &mut 0), value);
        }
    }
}
