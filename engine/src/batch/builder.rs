//! Makes batches: records go in one at a time, a batch that may be appended comes out.
//!
//! A builder is meant to be kept. Its buffers stay, so a producer that sends batch after batch allocates nothing once
//! it is warm. Records are encoded as they come; compression and the checksum happen once, at the end.

use super::codec::{Codec, Packer};
use super::header::{Attributes, HEADER_BYTES, Header};
use super::valid::{self, ValidBatch};
use super::varint::{self, Filler, field_len};
use crate::error::{Error, Result};
use crate::types::{Offset, Timestamp};

/// A batch in the making.
///
/// ```
/// use girok_engine::Timestamp;
/// use girok_engine::batch::{BatchBuilder, Codec};
/// let mut builder = BatchBuilder::new(Codec::None);
/// for n in 0..3 {
///     builder.append(Timestamp::from_millis(n), None, Some(b"value"), &[])?;
/// }
/// let batch = builder.finish()?;
/// assert_eq!(batch.header().record_count, 3);
/// builder.clear(); // and on to the next
/// # Ok::<(), girok_engine::Error>(())
/// ```
#[derive(Debug)]
pub struct BatchBuilder {
    packer: Packer,
    /// Room for the header, the encoded records, and zeroed room for more: a record is encoded in place, into exactly
    /// its slice. The header stands in front so that one call checksums a batch that is not compressed.
    plain: Vec<u8>,
    /// How much of it is header and records.
    used: usize,
    /// The largest timestamp so far, the first one, how many there are, and what the setters set.
    header: Header,
    /// There is a record without a key.
    keyless: bool,
}

/// A header that says nothing yet.
const FRESH: Header = Header {
    base_offset: Offset::ZERO,
    batch_length: 0,
    partition_leader_epoch: -1,
    crc: 0,
    attributes: Attributes(0),
    last_offset_delta: 0,
    base_timestamp: Timestamp::NONE,
    max_timestamp: Timestamp::NONE,
    producer_id: -1,
    producer_epoch: -1,
    base_sequence: -1,
    record_count: 0,
};

impl BatchBuilder {
    /// A builder for batches compressed with `codec`. [`finish`](Self::finish) fails if this build leaves it out.
    pub fn new(codec: Codec) -> Self {
        Self::with_packer(Packer::new(codec))
    }

    /// The same with a compression level: 1 to 9 for gzip, −131072 to 22 for zstd. The other codecs have none.
    pub fn with_level(codec: Codec, level: i32) -> Result<Self> {
        Packer::with_level(codec, level).map(Self::with_packer)
    }

    fn with_packer(packer: Packer) -> Self {
        BatchBuilder { packer, plain: Vec::new(), used: HEADER_BYTES, header: FRESH, keyless: false }
    }

    /// How the batches are compressed.
    pub fn codec(&self) -> Codec {
        self.packer.codec()
    }

    /// Adds a record. Its offset is the next in the batch.
    ///
    /// Fails, and changes nothing, if the timestamp is negative (but for [`Timestamp::NONE`]) or the batch would
    /// reach 2 GiB.
    #[inline]
    pub fn append(
        &mut self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> Result<()> {
        let count = self.header.record_count;
        let base = if count == 0 { timestamp } else { self.header.base_timestamp };
        let timestamp_delta = timestamp.as_millis().wrapping_sub(base.as_millis());
        let used = match self.put_small(timestamp_delta, count, key, value, headers) {
            Some(used) if timestamp >= Timestamp::NONE => used,
            _ => self.put_any(timestamp, timestamp_delta, key, value, headers)?,
        };
        self.used = used;
        self.keyless |= key.is_none();
        let header = &mut self.header;
        header.base_timestamp = base;
        header.max_timestamp = header.max_timestamp.max(timestamp);
        header.record_count = count + 1;
        Ok(())
    }

    /// Encodes an ordinary record behind the others, and says where it ends: one without headers, whose numbers take
    /// a byte or two each. They are put together in a register and stored at once, which takes a third off the time
    /// of a record of 100 bytes against storing them byte by byte.
    ///
    /// Stores reach up to eight bytes past what they are for; what is stored next, or the next record, overwrites
    /// that.
    #[inline(always)]
    fn put_small(
        &mut self,
        timestamp_delta: i64,
        offset_delta: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> Option<usize> {
        let time = Small::new(timestamp_delta)?;
        let offset = Small::new(offset_delta as i64)?;
        let key_len = Small::new(key.map_or(-1, |key| key.len() as i64))?;
        let value_len = Small::new(value.map_or(-1, |value| value.len() as i64))?;
        let (key, value) = (key.unwrap_or_default(), value.unwrap_or_default());
        let len = 2 + time.len + offset.len + key_len.len + key.len() + value_len.len + value.len();
        let first = Small::new(len as i64)?;
        let end = self.used + first.len + len;
        let out = self.plain.get_mut(self.used..end + SLACK)?;
        if !headers.is_empty() {
            return None;
        }
        // Length, attributes (none), time and offset: seven bytes at most.
        let time_at = first.len + 1;
        let offset_at = time_at + time.len;
        let run = first.bytes | time.bytes << (8 * time_at) | offset.bytes << (8 * offset_at);
        out[..8].copy_from_slice(&run.to_le_bytes());
        let key_len_at = offset_at + offset.len;
        out[key_len_at..key_len_at + 8].copy_from_slice(&key_len.bytes.to_le_bytes());
        let key_at = key_len_at + key_len.len;
        out[key_at..key_at + key.len()].copy_from_slice(key);
        let value_len_at = key_at + key.len();
        out[value_len_at..value_len_at + 8].copy_from_slice(&value_len.bytes.to_le_bytes());
        let value_at = value_len_at + value_len.len;
        out[value_at..value_at + value.len()].copy_from_slice(value);
        // No headers.
        out[value_at + value.len()] = 0;
        Some(end)
    }

    /// The same for any record, and the place where one is refused.
    #[inline(never)]
    fn put_any(
        &mut self,
        timestamp: Timestamp,
        timestamp_delta: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> Result<usize> {
        let offset_delta = self.header.record_count;
        let len = record_len(timestamp_delta, offset_delta, key, value, headers);
        if timestamp < Timestamp::NONE || len > BATCH_BODY_MAX.saturating_sub(self.body_bytes()) {
            return Err(self.refuse(timestamp, len));
        }
        let end = self.used + varint::len(len as i64) + len;
        if end + SLACK > self.plain.len() {
            let doubled = (self.plain.len() * 2).clamp(4096, BATCH_BODY_MAX);
            self.plain.resize(doubled.max(end + SLACK), 0);
        }
        let mut out = Filler { bytes: &mut self.plain[self.used..end], at: 0 };
        out.put(len as i64);
        out.byte(0);
        out.put(timestamp_delta);
        out.put(offset_delta as i64);
        out.field(key);
        out.field(value);
        out.put(headers.len() as i64);
        for (key, value) in headers {
            out.field(Some(key.as_bytes()));
            out.field(*value);
        }
        debug_assert_eq!(out.at, out.bytes.len());
        Ok(end)
    }

    fn body_bytes(&self) -> usize {
        self.used - HEADER_BYTES
    }

    #[cold]
    fn refuse(&self, timestamp: Timestamp, len: usize) -> Error {
        if timestamp < Timestamp::NONE {
            return Error::invalid(
                "record timestamp",
                "milliseconds since 1970, or -1 for none",
                timestamp,
                "stamp the record with the time of the event, or with the clock",
            );
        }
        Error::invalid(
            "record",
            format!("a batch of at most {BATCH_BODY_MAX} bytes of records"),
            format_args!("{} bytes and a record of {len}", self.body_bytes()),
            "finish the batch before, or make the record smaller",
        )
    }

    /// How many bytes such a record would add if it were appended now, before compression. For callers who mind
    /// `batch_size` or `max.message.bytes`.
    pub fn record_bytes(
        &self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> usize {
        let base = if self.is_empty() { timestamp } else { self.header.base_timestamp };
        let delta = timestamp.as_millis().wrapping_sub(base.as_millis());
        let len = record_len(delta, self.header.record_count, key, value, headers);
        varint::len(len as i64) + len
    }

    /// How many records are in it.
    pub fn len(&self) -> usize {
        self.header.record_count as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.header.record_count == 0
    }

    /// Bytes of the batch if it were finished now, header included, before compression.
    pub fn estimated_bytes(&self) -> usize {
        self.used
    }

    /// Forgets the records, keeps the buffers, the codec and what the setters set.
    pub fn clear(&mut self) {
        self.used = HEADER_BYTES;
        self.keyless = false;
        let set = self.header;
        self.header = Header {
            base_offset: set.base_offset,
            partition_leader_epoch: set.partition_leader_epoch,
            attributes: set.attributes,
            producer_id: set.producer_id,
            producer_epoch: set.producer_epoch,
            base_sequence: set.base_sequence,
            ..FRESH
        };
    }

    /// Stands for offsets from `base` on instead of 0. A log that appends the batch overwrites it; this is for
    /// batches that are kept elsewhere.
    pub fn set_base_offset(&mut self, base: Offset) {
        self.header.base_offset = base;
    }

    /// The leader epoch; −1 unless set. A log that appends the batch overwrites it.
    pub fn set_leader_epoch(&mut self, epoch: i32) {
        self.header.partition_leader_epoch = epoch;
    }

    /// The idempotent producer's id, epoch and first sequence number; all −1 unless set. Batches that have them can
    /// be [encoded](Self::encode_into) but, in this version, not appended.
    pub fn set_producer(&mut self, id: i64, epoch: i16, base_sequence: i32) {
        self.header.producer_id = id;
        self.header.producer_epoch = epoch;
        self.header.base_sequence = base_sequence;
    }

    /// Marks the batch as part of a transaction, or as Kafka's own marker. Such batches can be
    /// [encoded](Self::encode_into) but, in this version, not appended.
    pub fn set_kind(&mut self, transactional: bool, control: bool) {
        self.header.attributes =
            self.header.attributes.with_transactional(transactional).with_control(control);
    }

    /// Compresses and checksums: a batch that may be appended. The builder keeps its records until
    /// [`clear`](Self::clear).
    ///
    /// Fails if there are no records, if this build leaves the codec out, or if a setter made it a kind of batch that
    /// cannot be appended.
    pub fn finish(&mut self) -> Result<ValidBatch<'_>> {
        valid::refuse_by_name(&self.header)?;
        let keyless = self.keyless;
        let (head, body) = self.seal()?;
        Ok(ValidBatch::trusted(head, body, keyless))
    }

    /// The same as bytes behind those that `into` holds, whatever the setters made it: for files of one's own, and
    /// for tests.
    pub fn encode_into(&mut self, into: &mut Vec<u8>) -> Result<()> {
        let (head, body) = self.seal()?;
        into.extend_from_slice(&head);
        into.extend_from_slice(body);
        Ok(())
    }

    fn seal(&mut self) -> Result<([u8; HEADER_BYTES], &[u8])> {
        if self.is_empty() {
            return Err(Error::invalid(
                "batch",
                "at least one record",
                "none",
                "append records before finishing",
            ));
        }
        let header = &mut self.header;
        header.last_offset_delta = header.record_count - 1;
        if self.packer.codec() == Codec::None {
            let head = header.seal_in_place(&mut self.plain[..self.used]);
            return Ok((head, &self.plain[HEADER_BYTES..self.used]));
        }
        header.attributes = header.attributes.with_codec(self.packer.codec());
        let body = self.packer.pack(&self.plain[HEADER_BYTES..self.used])?;
        Ok((header.seal(body), body))
    }
}

/// Records of one batch take at most this many bytes, so that the batch's length fits Kafka's `i32` with room for
/// what a codec adds to what it cannot compress.
const BATCH_BODY_MAX: usize = i32::MAX as usize / 4 * 3;

/// Room behind the records, so that short ones may be stored in longer pieces.
const SLACK: usize = 8;

/// A number that is one or two bytes long as a varint, and those bytes as they stand in memory.
#[derive(Clone, Copy)]
struct Small {
    bytes: u64,
    len: usize,
}

impl Small {
    #[inline(always)]
    fn new(value: i64) -> Option<Small> {
        let raw = varint::zigzag(value);
        if raw >= 1 << 14 {
            return None;
        }
        let two = (raw >= 0x80) as u64;
        Some(Small { bytes: raw & 0x7f | two << 7 | raw >> 7 << 8, len: 1 + two as usize })
    }
}

/// The length that stands in front of a record.
#[inline(always)]
fn record_len(
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[(&str, Option<&[u8]>)],
) -> usize {
    let mut len = 1
        + varint::len(timestamp_delta)
        + varint::len(offset_delta as i64)
        + field_len(key)
        + field_len(value)
        + varint::len(headers.len() as i64);
    for (key, value) in headers {
        len += field_len(Some(key.as_bytes())) + field_len(*value);
    }
    len
}
