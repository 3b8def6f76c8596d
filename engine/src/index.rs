//! Where in the file is offset N, and where does time T begin? Sparse answers, two small indexes per segment.
//!
//! There is one entry for every few kilobytes of log, so a lookup lands a little early and the reader walks the
//! rest. Nothing here is precious: lose an index and it is drawn again from the segment's batch headers. The bytes
//! are Kafka's:
//!
//! ```text
//! NNN.index      | relative offset, u32 | position, u32 |                of a batch: its last offset, its first byte
//! NNN.timeindex  | timestamp, i64                       | relative offset, u32 |  of the batch with the largest so far
//! ```
//!
//! Offsets are relative to the segment's base, numbers are big-endian, both columns only grow. The entries are kept
//! encoded, so that what is written, checksummed and searched is one thing.

use crate::batch::{Flaw, Header};
use crate::types::{Offset, Position, Timestamp};

/// Bytes of an entry in an `.index` file.
const OFFSET_ENTRY: usize = 8;
/// Bytes of an entry in a `.timeindex` file.
const TIME_ENTRY: usize = 12;

/// Both indexes of one segment, as far as its batches were noted.
///
/// One writer at a time notes batches in order; Kafka's rules decide which of them become entries, so that a cleanly
/// closed segment has the bytes Kafka would have written.
#[derive(Debug)]
pub(crate) struct Indexes {
    /// An entry when more than this lies behind the last one. Kafka's `index.interval.bytes`.
    interval_bytes: u32,
    /// Every batch that begins below is noted.
    covered: u32,
    /// Where the batch of the last entry begins.
    last_entry: u32,
    /// The largest timestamp, and the relative last offset of the first batch that has it.
    max: (Timestamp, u32),
    offsets: Vec<u8>,
    times: Vec<u8>,
}

impl Indexes {
    /// Nothing noted yet.
    pub(crate) fn new(interval_bytes: u32) -> Self {
        Indexes {
            interval_bytes,
            covered: 0,
            last_entry: 0,
            max: (Timestamp::NONE, 0),
            offsets: Vec::new(),
            times: Vec::new(),
        }
    }

    /// The indexes of a segment of `end` bytes, from the bytes of their files as [`seal`](Self::seal) left them.
    /// Checks that they could be: whole entries, growing, within the segment, the last timestamp the largest. Whether
    /// they are *this* segment's is for a checksum to say.
    pub(crate) fn load(
        interval_bytes: u32,
        offsets: &[u8],
        times: &[u8],
        end: u32,
        max_timestamp: Timestamp,
    ) -> Result<Self, Flaw> {
        whole(offsets, OFFSET_ENTRY)?;
        whole(times, TIME_ENTRY)?;
        let mut last: Option<(u32, u32)> = None;
        for (slot, entry) in offsets.chunks_exact(OFFSET_ENTRY).map(offset_entry).enumerate() {
            let grows = last.is_none_or(|last| entry.0 > last.0 && entry.1 > last.1);
            if !grows || entry.0 > i32::MAX as u32 || entry.1 >= end {
                return Err(Flaw::new(
                    slot * OFFSET_ENTRY,
                    format!("an entry above {:?} and below byte {end}", last.unwrap_or_default()),
                    format_args!("offset +{} at {}", entry.0, entry.1),
                ));
            }
            last = Some(entry);
        }
        let mut max = (Timestamp::NONE, 0);
        for (slot, entry) in times.chunks_exact(TIME_ENTRY).map(time_entry).enumerate() {
            if entry.0 <= max.0 || entry.1 < max.1 || entry.1 > i32::MAX as u32 {
                return Err(Flaw::new(
                    slot * TIME_ENTRY,
                    format!("an entry above {max:?}"),
                    format_args!("timestamp {} at offset +{}", entry.0, entry.1),
                ));
            }
            max = entry;
        }
        if max.0 != max_timestamp.max(Timestamp::NONE) {
            return Err(Flaw::new(times.len(), format!("a last timestamp of {max_timestamp}"), max.0));
        }
        Ok(Indexes {
            interval_bytes,
            covered: end,
            last_entry: last.map_or(0, |(_, position)| position),
            max,
            offsets: offsets.to_vec(),
            times: times.to_vec(),
        })
    }

    /// How far the batches are noted: the position where the next one begins.
    pub(crate) fn covered(&self) -> u32 {
        self.covered
    }

    /// Takes note of the batch at `position`, which must be where the last one ended, in a segment whose base offset
    /// is `base`. It becomes an entry if more than the interval lies between the last entry's batch and this one:
    /// what Kafka does both when it appends and when it recovers.
    pub(crate) fn note(&mut self, base: Offset, header: &Header, position: u32) {
        debug_assert_eq!(position, self.covered, "batches are noted in order, each once");
        self.covered = position + header.size() as u32;
        // Kafka refuses to append what its index cannot say; such a batch cannot be in a segment of ours either.
        let Ok(relative) = i32::try_from(header.last_offset() - base) else { return };
        let relative = relative as u32;
        if header.max_timestamp > self.max.0 {
            self.max = (header.max_timestamp, relative);
        }
        if position - self.last_entry > self.interval_bytes {
            self.offsets.extend_from_slice(&relative.to_be_bytes());
            self.offsets.extend_from_slice(&position.to_be_bytes());
            self.last_entry = position;
            self.seal();
        }
    }

    /// Enters the largest timestamp, as Kafka does when a segment is rolled or closed. Harmless to repeat, and the
    /// segment may still grow.
    pub(crate) fn seal(&mut self) {
        let last = self.times.last_chunk::<TIME_ENTRY>().map_or(Timestamp::NONE, |entry| time_entry(entry).0);
        if self.max.0 > last {
            self.times.extend_from_slice(&self.max.0.as_millis().to_be_bytes());
            self.times.extend_from_slice(&self.max.1.to_be_bytes());
        }
    }

    /// Where to begin to walk for `offset`: at or before the batch that contains it.
    pub(crate) fn lookup(&self, base: Offset, offset: Offset) -> Position {
        let relative = offset - base;
        let slot = upper_bound(&self.offsets, OFFSET_ENTRY, |entry| offset_entry(entry).0 as i64 <= relative);
        let at = slot.checked_sub(1).map(|slot| &self.offsets[slot * OFFSET_ENTRY..]);
        Position::new(at.map_or(0, |entry| offset_entry(entry).1))
    }

    /// Where to begin to walk for the first record at or after `time`: all that come before have earlier times, or
    /// stand in the same batch.
    pub(crate) fn lookup_time(&self, base: Offset, time: Timestamp) -> Offset {
        let slot = upper_bound(&self.times, TIME_ENTRY, |entry| time_entry(entry).0 <= time);
        let at = slot.checked_sub(1).map(|slot| &self.times[slot * TIME_ENTRY..]);
        base + at.map_or(0, |entry| time_entry(entry).1 as i64)
    }

    /// The largest timestamp noted; [`Timestamp::NONE`] if there is none.
    pub(crate) fn max_timestamp(&self) -> Timestamp {
        self.max.0
    }

    /// What belongs into the `.index` file.
    pub(crate) fn offset_bytes(&self) -> &[u8] {
        &self.offsets
    }

    /// What belongs into the `.timeindex` file.
    pub(crate) fn time_bytes(&self) -> &[u8] {
        &self.times
    }
}

fn whole(bytes: &[u8], entry: usize) -> Result<(), Flaw> {
    match bytes.len() % entry {
        0 => Ok(()),
        over => Err(Flaw::new(
            bytes.len() - over,
            format!("entries of {entry} bytes"),
            format_args!("{over} bytes at the end"),
        )),
    }
}

/// Relative offset and position.
fn offset_entry(bytes: &[u8]) -> (u32, u32) {
    let (offset, position) = bytes[..OFFSET_ENTRY].split_at(4);
    (
        u32::from_be_bytes(offset.try_into().expect("four bytes")),
        u32::from_be_bytes(position.try_into().expect("four bytes")),
    )
}

/// Timestamp and relative offset.
fn time_entry(bytes: &[u8]) -> (Timestamp, u32) {
    let (time, offset) = bytes[..TIME_ENTRY].split_at(8);
    (
        Timestamp::from_millis(i64::from_be_bytes(time.try_into().expect("eight bytes"))),
        u32::from_be_bytes(offset.try_into().expect("four bytes")),
    )
}

/// The number of entries at the front for which `holds`.
fn upper_bound(bytes: &[u8], entry: usize, holds: impl Fn(&[u8]) -> bool) -> usize {
    let (mut low, mut high) = (0, bytes.len() / entry);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(&bytes[middle * entry..]) { low = middle + 1 } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchBuilder, Codec, batches};
    use std::path::Path;

    fn golden(folder: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/segments").join(folder)
    }

    fn draw(log: &[u8], base: Offset, interval: u32) -> Indexes {
        let mut indexes = Indexes::new(interval);
        for batch in batches(log) {
            let position = indexes.covered();
            indexes.note(base, &batch.unwrap().header(), position);
        }
        indexes
    }

    /// Kafka's index files of every segment it wrote, drawn again from the segment alone.
    #[test]
    fn drawn_again_they_are_kafkas_bytes() {
        let (mut segments, mut entries) = (0, 0);
        for folder in std::fs::read_dir(golden("")).unwrap() {
            let folder = folder.unwrap().path();
            if !folder.is_dir() {
                continue;
            }
            for file in std::fs::read_dir(&folder).unwrap() {
                let path = file.unwrap().path();
                if path.extension().is_none_or(|ending| ending != "log") {
                    continue;
                }
                let base: i64 = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
                // The topic's setting was lowered after its first segment was made, and a segment keeps its own.
                let interval = if base == 4734 { 1024 } else { 4096 };
                let log = std::fs::read(&path).unwrap();
                let mut indexes = draw(&log, Offset::new(base), interval);
                indexes.seal();
                let kafkas = |ending: &str| std::fs::read(path.with_extension(ending)).unwrap();
                let (offsets, times) = (kafkas("index"), kafkas("timeindex"));
                assert!(indexes.offset_bytes() == offsets, "{}", path.with_extension("index").display());
                assert!(indexes.time_bytes() == times, "{}", path.with_extension("timeindex").display());

                let loaded =
                    Indexes::load(interval, &offsets, &times, log.len() as u32, indexes.max_timestamp())
                        .unwrap();
                assert_eq!(format!("{loaded:?}"), format!("{indexes:?}"), "{}", path.display());
                segments += 1;
                entries += offsets.len() / OFFSET_ENTRY;
            }
        }
        assert!(segments >= 19 && entries >= 300, "{segments} segments, {entries} entries");
    }

    /// The oracle walks every batch.
    #[test]
    fn a_lookup_lands_at_or_before_the_batch_and_not_far_from_it() {
        let (mut log, mut places) = (Vec::new(), Vec::new());
        let base = Offset::new(1000);
        let mut next = base;
        for n in 0..500i64 {
            let mut builder = BatchBuilder::new(Codec::None);
            builder.set_base_offset(next);
            for record in 0..n % 4 + 1 {
                // Times go up and down, now and then far down.
                let time = 10_000 + n * 10 - (n % 7) * 25 - if n % 50 == 0 { 3000 } else { 0 } + record;
                builder.append(Timestamp::from_millis(time), None, Some(&[0; 60]), &[]).unwrap();
            }
            places.push((log.len() as u32, log.len() as u32 + builder.estimated_bytes() as u32));
            builder.encode_into(&mut log).unwrap();
            next = batches(&log[places.last().unwrap().0 as usize..])
                .next()
                .unwrap()
                .unwrap()
                .header()
                .next_offset();
        }
        let mut indexes = draw(&log, base, 1000);
        indexes.seal();
        let all: Vec<_> = batches(&log).map(|batch| batch.unwrap()).collect();
        for offset in base.get() - 5..next.get() {
            let found = indexes.lookup(base, Offset::new(offset)).get();
            let wanted = all.iter().position(|batch| batch.header().last_offset().get() >= offset).unwrap();
            assert!(places.iter().any(|place| place.0 == found), "a batch begins there");
            assert!(found <= places[wanted].0, "offset {offset}: {found} is too far");
            assert!(places[wanted].0 - found <= 1000 + 500, "offset {offset}: {found} is too early");
        }
        for time in 6_000..16_000 {
            let time = Timestamp::from_millis(time);
            let from = indexes.lookup_time(base, time);
            let first = all.iter().find(|batch| batch.header().max_timestamp >= time);
            if let Some(first) = first {
                assert!(from <= first.header().last_offset(), "time {time}: {from} is behind the first");
            }
        }
    }

    #[test]
    fn what_cannot_be_an_index_is_named() {
        let entry = |offset: u32, position: u32| [offset.to_be_bytes(), position.to_be_bytes()].concat();
        let none = Timestamp::NONE;
        let load = |offsets: &[u8], times: &[u8], max| Indexes::load(4096, offsets, times, 9000, max);
        assert!(load(&entry(5, 4200), &[], none).is_ok());
        assert_eq!(load(&entry(5, 4200)[..7], &[], none).unwrap_err().at, 0);
        assert_eq!(load(&[entry(5, 4200), entry(5, 8400)].concat(), &[], none).unwrap_err().at, 8);
        assert_eq!(load(&[entry(5, 4200), entry(6, 4200)].concat(), &[], none).unwrap_err().at, 8);
        assert_eq!(load(&entry(5, 9000), &[], none).unwrap_err().at, 0, "past the segment's end");

        let time = |time: i64, offset: u32| [&time.to_be_bytes()[..], &offset.to_be_bytes()].concat();
        let of = Timestamp::from_millis;
        assert!(load(&[], &[time(70, 1), time(80, 2)].concat(), of(80)).is_ok());
        assert_eq!(load(&[], &[time(80, 1), time(70, 2)].concat(), of(80)).unwrap_err().at, 12);
        assert_eq!(load(&[], &[time(70, 3), time(80, 2)].concat(), of(80)).unwrap_err().at, 12);
        assert_eq!(load(&[], &time(70, 3), of(80)).unwrap_err().at, 12, "not sealed");
    }
}
