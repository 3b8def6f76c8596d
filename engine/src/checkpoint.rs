//! `girok.checkpoint`: what is known good, so that opening does not read the logs.
//!
//! A point for every partition says where it starts and ends, up to where it is synced, and what its segments and
//! their indexes look like. After a clean close that is all there is to know; after a crash it says where recovery has
//! to begin. It is a hint: recovery trusts a point only as far as its checksum, and a directory without the file, or
//! with a damaged one, opens all the same, only slower.
//!
//! ```text
//! header, 32 bytes                                 then for each partition, in order of name
//!  0  "girok.cp"                                    0  bytes of body          u32
//!  8  version 1                  u32                4  CRC-32 of 0..4 and body  u32
//! 12  flags: 1 = clean           u32                8  body:
//! 16  boot number                u64                   topic id               16
//! 24  partitions                 u32                   partition              i32
//! 28  CRC-32 of bytes 0 to 27    u32                   bytes of topic's name  u32
//!                                                      leader epochs          u32
//! all numbers big-endian, as Kafka's                   segments               u32
//!                                                      log start, recovery point, end, cleaned to   4 × i64
//!                                                      topic's name
//!                                                      each leader epoch: epoch i32, start i64            12
//!                                                      each segment:                                      36
//!                                                        base i64, bytes u32, records u32, max timestamp i64,
//!                                                        CRC-32 of index u32, of timeindex u32,
//!                                                        flags u32: 1 = sealed, 2 = indexed
//! ```
//!
//! Every byte is under some checksum, and each checksum covers one partition, so a flipped bit costs one partition its
//! point, and that partition is named.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::config::check_any_topic_name;
use crate::disk::{Disk, read_file, replace_file};
use crate::error::{Error, Result};
use crate::types::{Offset, Position, Timestamp, TopicId, TopicPartition};

/// The file's name.
pub(crate) const FILE_NAME: &str = "girok.checkpoint";

const MAGIC: &[u8; 8] = b"girok.cp";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 32;
/// Length and checksum before a partition's body.
const PREFIX_BYTES: usize = 8;
/// A body without its name, epochs and segments.
const FIXED_BYTES: usize = 16 + 4 * 4 + 4 * 8;
const EPOCH_BYTES: usize = 12;
const SEGMENT_BYTES: usize = 36;

const CLEAN: u32 = 1;
const SEALED: u32 = 1;
const INDEXED: u32 = 2;

/// A million partitions of a hundred segments each stay below it.
const FILE_BYTES_MAX: u64 = 4 << 30;

/// What is known good about a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// Which open of the directory wrote it.
    pub(crate) boot: u64,
    /// Everything was synced and cut, and nothing was written since.
    pub(crate) clean: bool,
    /// A point for each partition that holds, or held, anything.
    pub(crate) partitions: BTreeMap<TopicPartition, PartitionPoint>,
}

/// What is known good about a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PartitionPoint {
    /// The topic's identity: the point of a removed topic says nothing about a new one of the same name.
    pub(crate) topic_id: TopicId,
    /// The first offset that can be read.
    pub(crate) log_start: Offset,
    /// Everything below is synced and was checked.
    pub(crate) recovery_point: Offset,
    /// The next offset.
    pub(crate) end: Offset,
    /// At which offset each leader epoch began.
    pub(crate) leader_epochs: Vec<(i32, Offset)>,
    /// Its segments, in order.
    pub(crate) segments: Vec<SegmentPoint>,
    /// Everything below was compacted.
    pub(crate) cleaned_to: Offset,
}

/// What is known good about a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SegmentPoint {
    /// Its base offset.
    pub(crate) base: Offset,
    /// So many bytes are synced.
    pub(crate) bytes: u32,
    /// Offsets from the base to the end of those bytes.
    pub(crate) records: u32,
    /// The largest timestamp among them.
    pub(crate) max_timestamp: Timestamp,
    /// CRC-32 of the whole `.index` file, if `indexed`.
    pub(crate) index_crc: u32,
    /// CRC-32 of the whole `.timeindex` file, if `indexed`.
    pub(crate) timeindex_crc: u32,
    /// Nothing will be appended to it.
    pub(crate) sealed: bool,
    /// Its index files are whole and as their checksums say.
    pub(crate) indexed: bool,
}

impl Checkpoint {
    /// Reads it; `None` if the directory has none. Partitions whose point is damaged are left out and named in
    /// `notes`, and then the directory does not count as cleanly closed.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if nothing of it can be used, [`Error::NewerFormat`].
    pub(crate) fn load(disk: &dyn Disk, dir: &Path, notes: &mut Vec<String>) -> Result<Option<Self>> {
        let path = dir.join(FILE_NAME);
        match read_file(disk, &path, FILE_BYTES_MAX) {
            Ok(bytes) => Checkpoint::decode(&path, &bytes, notes).map(Some),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("reading", path, e)),
        }
    }

    /// Replaces the file. After a crash it says the old or the new, never a mixture.
    pub(crate) fn store(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        let path = dir.join(FILE_NAME);
        replace_file(disk, &path, &self.encode()).map_err(|e| Error::io("writing", path, e))
    }

    /// The bytes of the file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let body_bytes = |tp: &TopicPartition, point: &PartitionPoint| {
            FIXED_BYTES
                + tp.topic().len()
                + EPOCH_BYTES * point.leader_epochs.len()
                + SEGMENT_BYTES * point.segments.len()
        };
        let all = self.partitions.iter().map(|(tp, point)| PREFIX_BYTES + body_bytes(tp, point));
        let mut out = Vec::with_capacity(HEADER_BYTES + all.sum::<usize>());
        out.extend_from_slice(MAGIC);
        put_u32(&mut out, VERSION);
        put_u32(&mut out, if self.clean { CLEAN } else { 0 });
        out.extend_from_slice(&self.boot.to_be_bytes());
        put_u32(&mut out, self.partitions.len() as u32);
        let crc = crc32fast::hash(&out);
        put_u32(&mut out, crc);
        for (tp, point) in &self.partitions {
            let start = out.len();
            put_u32(&mut out, body_bytes(tp, point) as u32);
            put_u32(&mut out, 0);
            out.extend_from_slice(&point.topic_id.0);
            put_u32(&mut out, tp.partition() as u32);
            put_u32(&mut out, tp.topic().len() as u32);
            put_u32(&mut out, point.leader_epochs.len() as u32);
            put_u32(&mut out, point.segments.len() as u32);
            for offset in [point.log_start, point.recovery_point, point.end, point.cleaned_to] {
                put_i64(&mut out, offset.get());
            }
            out.extend_from_slice(tp.topic().as_bytes());
            for (epoch, from) in &point.leader_epochs {
                put_u32(&mut out, *epoch as u32);
                put_i64(&mut out, from.get());
            }
            for segment in &point.segments {
                put_i64(&mut out, segment.base.get());
                put_u32(&mut out, segment.bytes);
                put_u32(&mut out, segment.records);
                put_i64(&mut out, segment.max_timestamp.as_millis());
                put_u32(&mut out, segment.index_crc);
                put_u32(&mut out, segment.timeindex_crc);
                let sealed = if segment.sealed { SEALED } else { 0 };
                put_u32(&mut out, sealed | if segment.indexed { INDEXED } else { 0 });
            }
            let crc = record_crc(&out[start..start + 4], &out[start + PREFIX_BYTES..]);
            out[start + 4..start + PREFIX_BYTES].copy_from_slice(&crc.to_be_bytes());
        }
        out
    }

    /// Reads the bytes of the file; `path` is for the errors, what had to be left out is named in `notes`.
    pub(crate) fn decode(path: &Path, bytes: &[u8], notes: &mut Vec<String>) -> Result<Self> {
        let Some((header, mut rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            let found = format!("the end of the file at {}", bytes.len());
            return Err(useless(
                path,
                bytes.len() as u64,
                format!("a header of {HEADER_BYTES} bytes"),
                found,
            ));
        };
        let mut fields = Fields(header);
        if fields.take::<8>().as_ref() != Some(MAGIC) {
            let found = format!("{:?}", String::from_utf8_lossy(&header[..8]));
            return Err(useless(path, 0, "\"girok.cp\"".into(), found));
        }
        let crc = crc32fast::hash(&header[..28]).to_be_bytes();
        if crc != header[28..] {
            let (right, found) = (hex(&crc), hex(&header[28..]));
            return Err(useless(path, 28, format!("the header's checksum {right}"), found));
        }
        let mut field = || fields.u32().unwrap_or(0);
        let version = field();
        if version != VERSION {
            return Err(Error::NewerFormat { path: path.into(), expected: VERSION, found: version });
        }
        let flags = field();
        let boot = u64::from(field()) << 32 | u64::from(field());
        let count = field();

        let mut points = Vec::new();
        let mut topic: Arc<str> = "".into();
        let mut whole = true;
        for number in 1..=count {
            let at = bytes.len() - rest.len();
            let (expected, found) = match split_record(rest) {
                Ok((body, behind)) => {
                    rest = behind;
                    match read_point(body, &mut topic) {
                        Some(point) => {
                            points.push(point);
                            continue;
                        }
                        None => ("a point that makes sense".into(), "one that contradicts itself".into()),
                    }
                }
                Err(flaw) => {
                    rest = flaw.behind.unwrap_or(&[]);
                    (flaw.expected, flaw.found)
                }
            };
            whole = false;
            let who = name_of(&bytes[at..])
                .unwrap_or_else(|| format!("partition number {number} of {count} in it"));
            notes.push(format!(
                "corrupt: {} at byte {at}: the point of {who}: expected {expected}, found {found}; the point is left \
                 out, and the partition is read from its start (see docs/format.md, \"Recovery\")",
                path.display()
            ));
            if rest.is_empty() && number < count {
                notes.push(format!(
                    "corrupt: {} at byte {at}: the points of {} more partitions cannot be found behind that one",
                    path.display(),
                    count - number
                ));
                break;
            }
        }
        if !rest.is_empty() {
            whole = false;
            let at = bytes.len() - rest.len();
            notes.push(format!("corrupt: {} at byte {at}: expected the end of the file", path.display()));
        }
        let clean = flags & CLEAN != 0 && whole;
        Ok(Checkpoint { boot, clean, partitions: points.into_iter().collect() })
    }
}

/// A record that is not what it should be, and what lies behind it if its length can be believed.
struct Flaw<'a> {
    expected: String,
    found: String,
    behind: Option<&'a [u8]>,
}

/// Takes one partition's record off the front: its body, once the checksum is right, and what lies behind.
fn split_record(bytes: &[u8]) -> Result<(&[u8], &[u8]), Flaw<'_>> {
    let lost = |expected: &str, found: String| Flaw { expected: expected.into(), found, behind: None };
    let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX_BYTES>() else {
        return Err(lost(
            "a length and a checksum",
            format!("{} bytes and the end of the file", bytes.len()),
        ));
    };
    let mut fields = Fields(prefix);
    let (len, crc) = (fields.u32().unwrap_or(0) as usize, fields.u32().unwrap_or(0));
    let Some((body, behind)) = rest.split_at_checked(len) else {
        return Err(lost(
            "a length within the file",
            format!("{len} bytes, of which {} are there", rest.len()),
        ));
    };
    let right = record_crc(&prefix[..4], body);
    if right == crc {
        return Ok((body, behind));
    }
    // The length itself may be what was flipped. It is believed if the body's own counts say the same.
    let behind = (body_bytes(body) == Some(len as u64)).then_some(behind);
    Err(Flaw { expected: format!("checksum {right:08x}"), found: format!("{crc:08x}"), behind })
}

fn record_crc(len: &[u8], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(len);
    crc.update(body);
    crc.finalize()
}

/// How long a body must be by its own counts.
fn body_bytes(body: &[u8]) -> Option<u64> {
    let mut counts = Fields(body.get(20..32)?);
    let (name, epochs, segments) = (counts.u32()?, counts.u32()?, counts.u32()?);
    let lists = u64::from(epochs) * EPOCH_BYTES as u64 + u64::from(segments) * SEGMENT_BYTES as u64;
    Some(FIXED_BYTES as u64 + u64::from(name) + lists)
}

/// Which partition a damaged record was about, if its name is still a name.
fn name_of(record: &[u8]) -> Option<String> {
    let body = record.get(PREFIX_BYTES..)?;
    let mut fields = Fields(body.get(16..)?);
    let (partition, len) = (fields.u32()?, fields.u32()? as usize);
    let name = std::str::from_utf8(body.get(FIXED_BYTES..)?.get(..len)?).ok()?;
    check_any_topic_name(name).ok()?;
    Some(format!("{name}-{partition}"))
}

/// Reads a body whose checksum is right. `topic` is the last topic's name, to be shared by its partitions.
fn read_point(body: &[u8], topic: &mut Arc<str>) -> Option<(TopicPartition, PartitionPoint)> {
    if body_bytes(body)? != body.len() as u64 {
        return None;
    }
    let mut fields = Fields(body);
    let topic_id = TopicId(fields.take::<16>()?);
    let partition = i32::try_from(fields.u32()?).ok()?;
    let (name, epochs, segments) = (fields.u32()?, fields.u32()?, fields.u32()?);
    let mut point = PartitionPoint {
        topic_id,
        log_start: fields.offset()?,
        recovery_point: fields.offset()?,
        end: fields.offset()?,
        cleaned_to: fields.offset()?,
        // Counted against the body's length above.
        leader_epochs: Vec::with_capacity(epochs as usize),
        segments: Vec::with_capacity(segments as usize),
    };
    let name = std::str::from_utf8(fields.bytes(name as usize)?).ok()?;
    check_any_topic_name(name).ok()?;
    if **topic != *name {
        *topic = name.into();
    }
    for _ in 0..epochs {
        point.leader_epochs.push((i32::try_from(fields.u32()?).ok()?, fields.offset()?));
    }
    for _ in 0..segments {
        let base = fields.offset()?;
        let (bytes, records) = (fields.u32()?, fields.u32()?);
        if bytes > Position::MAX.get() || records > Position::MAX.get() {
            return None;
        }
        let max_timestamp = Timestamp::from_millis(fields.i64()?);
        let (index_crc, timeindex_crc, flags) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let (sealed, indexed) = (flags & SEALED != 0, flags & INDEXED != 0);
        let segment =
            SegmentPoint { base, bytes, records, max_timestamp, index_crc, timeindex_crc, sealed, indexed };
        point.segments.push(segment);
    }
    let in_order = point.segments.is_sorted_by(|a, b| a.base < b.base);
    (in_order && point.recovery_point <= point.end)
        .then(|| (TopicPartition::new(topic.clone(), partition), point))
}

fn useless(path: &Path, at: u64, expected: String, found: String) -> Error {
    Error::corrupt(
        path,
        at,
        expected,
        found,
        "the logs themselves are whole; without this file they are read instead",
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Big-endian fields from the front of some bytes. `None` at their end.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_be_bytes)
    }

    /// Never negative.
    fn offset(&mut self) -> Option<Offset> {
        self.i64().filter(|offset| *offset >= 0).map(Offset::new)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::disk::MemoryDisk;

    fn example() -> Checkpoint {
        let segment = SegmentPoint {
            base: Offset::new(40),
            bytes: 8192,
            records: 17,
            max_timestamp: Timestamp::from_millis(1_700_000_000_000),
            index_crc: 0xdead_beef,
            timeindex_crc: 0x0bad_cafe,
            sealed: true,
            indexed: true,
        };
        let active = SegmentPoint {
            base: Offset::new(57),
            bytes: 61,
            records: 1,
            max_timestamp: Timestamp::NONE,
            ..SegmentPoint::default()
        };
        let point = PartitionPoint {
            topic_id: TopicId([7; 16]),
            log_start: Offset::new(41),
            recovery_point: Offset::new(57),
            end: Offset::new(58),
            leader_epochs: vec![(0, Offset::ZERO), (3, Offset::new(50))],
            segments: vec![segment, active],
            cleaned_to: Offset::new(40),
        };
        let mut checkpoint = Checkpoint { boot: 17, clean: true, ..Checkpoint::default() };
        checkpoint.partitions.insert(TopicPartition::new("orders", 0), point.clone());
        checkpoint.partitions.insert(TopicPartition::new("orders", 1), PartitionPoint::default());
        checkpoint.partitions.insert(TopicPartition::new("__consumer_offsets", 0), point);
        checkpoint
    }

    fn decode(bytes: &[u8]) -> (Result<Checkpoint>, Vec<String>) {
        let mut notes = Vec::new();
        (Checkpoint::decode(Path::new("dir/girok.checkpoint"), bytes, &mut notes), notes)
    }

    #[test]
    fn what_is_stored_is_loaded() {
        let (disk, dir) = (MemoryDisk::new(), Path::new("/log"));
        disk.create_dir(dir).unwrap();
        let mut notes = Vec::new();
        assert_eq!(Checkpoint::load(&disk, dir, &mut notes).unwrap(), None);
        for checkpoint in [example(), Checkpoint::default()] {
            checkpoint.store(&disk, dir).unwrap();
            assert_eq!(Checkpoint::load(&disk, dir, &mut notes).unwrap(), Some(checkpoint));
        }
        assert!(notes.is_empty());
    }

    /// These bytes are in somebody's directory: they must stay readable, and version 1 must stay as it is.
    #[test]
    fn version_one_reads_as_it_always_did() {
        let mut small = Checkpoint { boot: 2, clean: true, ..Checkpoint::default() };
        let mut point = example().partitions.remove(&TopicPartition::new("orders", 0)).unwrap();
        point.segments.truncate(1);
        point.leader_epochs.truncate(1);
        small.partitions.insert(TopicPartition::new("a", 5), point);
        let bytes = "6769726f6b2e6370 00000001 00000001 0000000000000002 00000001 c9ae96bd \
             00000071 fc244147 07070707070707070707070707070707 00000005 00000001 00000001 00000001 \
             0000000000000029 0000000000000039 000000000000003a 0000000000000028 61 00000000 0000000000000000 \
             0000000000000028 00002000 00000011 0000018bcfe56800 deadbeef 0badcafe 00000003";
        let bytes: String = bytes.split_whitespace().collect();
        assert_eq!(hex(&small.encode()), bytes);
    }

    /// The promise behind choosing a checksum for each partition: whatever bit flips, what is damaged is named, and
    /// nothing wrong is believed.
    #[test]
    fn a_flipped_bit_is_named_and_costs_one_partition_its_point() {
        let whole = example();
        let bytes = whole.encode();
        let mut spared = 0;
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let (decoded, notes) = decode(&flipped);
            match decoded {
                Err(error) => {
                    assert!(bit / 8 < HEADER_BYTES, "bit {bit}: {error}");
                    assert!(error.to_string().contains("girok.checkpoint at byte"), "{error}");
                }
                Ok(rest) => {
                    assert!(bit / 8 >= HEADER_BYTES && !rest.clean && !notes.is_empty(), "bit {bit}");
                    assert!(notes[0].contains("girok.checkpoint at byte"), "{notes:?}");
                    assert!(rest.partitions.iter().all(|(tp, point)| whole.partitions[tp] == *point));
                    assert!(rest.partitions.len() < 3, "bit {bit}: a flip below a checksum went unseen");
                    spared += usize::from(rest.partitions.len() == 2);
                }
            }
        }
        assert!(spared * 10 > bytes.len() * 8 * 7, "most flips cost one point only: {spared}");

        // One in the middle, where a name is still a name.
        let mut flipped = bytes.clone();
        flipped[HEADER_BYTES + PREFIX_BYTES + 40] ^= 1;
        let (decoded, notes) = decode(&flipped);
        assert!(notes[0].contains("the point of __consumer_offsets-0"), "{notes:?}");
        assert_eq!(decoded.unwrap().partitions.len(), 2);
    }

    #[test]
    fn a_cut_or_lengthened_file_is_noticed() {
        let bytes = example().encode();
        for len in 0..bytes.len() {
            let (decoded, notes) = decode(&bytes[..len]);
            assert!(decoded.is_err() || (!decoded.unwrap().clean && !notes.is_empty()), "{len} bytes");
        }
        let (decoded, notes) = decode(&[&bytes[..], &[0]].concat());
        assert!(!decoded.unwrap().clean && notes[0].contains("the end of the file"), "{notes:?}");
    }

    #[test]
    fn a_newer_version_is_refused_by_name() {
        let mut bytes = Checkpoint::default().encode();
        bytes[11] = 2;
        let crc = crc32fast::hash(&bytes[..28]).to_be_bytes();
        bytes[28..32].copy_from_slice(&crc);
        assert!(matches!(decode(&bytes).0, Err(Error::NewerFormat { found: 2, .. })));
    }

    #[test]
    fn a_hundred_thousand_partitions_come_back() {
        let point = example().partitions[&TopicPartition::new("orders", 0)].clone();
        let mut large = Checkpoint { boot: 3, clean: true, ..Checkpoint::default() };
        for number in 0..100_000 {
            large.partitions.insert(TopicPartition::new("orders", number), point.clone());
        }
        let bytes = large.encode();
        let start = std::time::Instant::now();
        let (decoded, notes) = decode(&bytes);
        println!("decoded {} bytes in {:?}", bytes.len(), start.elapsed());
        assert_eq!(decoded.unwrap(), large);
        assert!(notes.is_empty());
    }

    proptest! {
        /// Counts come from the disk: none of them may allocate, index or add beyond the bytes that are there.
        #[test]
        fn no_bytes_at_all_can_do_harm(
            mut bytes in prop::collection::vec(any::<u8>(), 0..400),
            seal in any::<bool>(),
        ) {
            if seal && bytes.len() >= HEADER_BYTES + PREFIX_BYTES {
                // Make the checksums right, so that what is behind them is looked at too.
                bytes[..8].copy_from_slice(MAGIC);
                bytes[8..12].copy_from_slice(&VERSION.to_be_bytes());
                bytes[24..28].copy_from_slice(&1u32.to_be_bytes());
                let crc = crc32fast::hash(&bytes[..28]).to_be_bytes();
                bytes[28..32].copy_from_slice(&crc);
                let len = (bytes.len() - HEADER_BYTES - PREFIX_BYTES) as u32;
                bytes[32..36].copy_from_slice(&len.to_be_bytes());
                let crc = record_crc(&bytes[32..36], &bytes[40..]).to_be_bytes();
                bytes[36..40].copy_from_slice(&crc);
            }
            let _ = decode(&bytes);
        }
    }
}
