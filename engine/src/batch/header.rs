//! The 61 bytes in front of every record batch, and what they promise about the bytes behind them.
//!
//! ```text
//!  0        8      12      16 17     21   23      27        35        43        51  53      57      61
//!  | base   | batch| leader|m | crc  |attr| last  | base    | max     | producer|ep | base  | record| records ...
//!  | offset | len  | epoch | 2|      |    | delta | time    | time    | id      |   | seq.  | count |
//!                             '--------- the length counts from byte 12, the CRC-32C covers from byte 21 on
//! ```
//!
//! All numbers are big-endian. The base offset and the leader epoch lie outside the checksum, because the log fills
//! them in when it appends.

use std::borrow::Cow;
use std::fmt;

use super::Codec;
use crate::error::Error;
use crate::types::{Offset, Timestamp};

/// A batch's header is this long; records begin behind it.
pub const HEADER_BYTES: usize = 61;

/// The batch length counts from here.
pub(crate) const LENGTH_FROM: usize = 12;
/// The checksum covers from here.
pub(crate) const CRC_FROM: usize = 21;
/// A record with nothing in it: length, attributes, two deltas, two lengths and a header count of one byte each.
pub(crate) const RECORD_BYTES_MIN: usize = 7;

/// Something in the bytes of a batch, or of an index, that cannot be. Names the byte (counted from the start of what
/// was given), what should have been there and what was; the caller knows the file.
///
/// ```
/// use girok_engine::batch::Header;
/// let flaw = Header::parse(&[0; 61]).unwrap_err();
/// assert_eq!(flaw.to_string(), "at byte 8: expected a batch length of at least 49, found 0");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// The byte.
    pub at: usize,
    /// What would have been right.
    pub expected: Cow<'static, str>,
    /// What was there.
    pub found: String,
}

impl Flaw {
    #[cold]
    pub(crate) fn new(at: usize, expected: impl Into<Cow<'static, str>>, found: impl fmt::Display) -> Self {
        Flaw { at, expected: expected.into(), found: found.to_string() }
    }

    /// The same flaw seen from `bytes` earlier: for someone who handed in the middle of a file.
    #[must_use]
    pub fn moved(mut self, bytes: usize) -> Self {
        self.at += bytes;
        self
    }

    /// The error of a call that was given such bytes; `what` names them ("batch").
    pub fn into_invalid(self, what: &str) -> Error {
        Error::invalid(
            what,
            format!("{} at byte {}", self.expected, self.at),
            self.found,
            "the bytes are refused and nothing was changed: build the batch again, or look how it got damaged",
        )
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: expected {}, found {}", self.at, self.expected, self.found)
    }
}

impl std::error::Error for Flaw {}

/// Who stamped the records of a batch.
///
/// ```
/// # use girok_engine::Timestamp;
/// # use girok_engine::batch::*;
/// # let mut builder = BatchBuilder::new(Codec::None);
/// builder.append(Timestamp::from_millis(7), None, Some(b"tea"), &[])?;
/// let batch = builder.finish()?;
/// assert_eq!(batch.header().timestamp_type(), TimestampType::CreateTime);
/// let stamped = batch.log_append_time(Timestamp::from_millis(9));
/// assert_eq!(stamped.header().timestamp_type(), TimestampType::LogAppendTime);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// The producer, each record by itself.
    CreateTime,
    /// The log, when it appended the batch: every record has the batch's max timestamp.
    LogAppendTime,
}

impl fmt::Display for TimestampType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TimestampType::CreateTime => "CreateTime",
            TimestampType::LogAppendTime => "LogAppendTime",
        })
    }
}

/// The 16 attribute bits of a batch: codec (bits 0 to 2), timestamp type (3), transactional (4), control (5), delete
/// horizon (6, KIP-534).
///
/// ```
/// use girok_engine::batch::{Attributes, Codec, TimestampType};
/// let attributes = Attributes(0b01010);
/// assert_eq!(attributes.codec().unwrap(), Codec::Snappy);
/// assert_eq!(attributes.timestamp_type(), TimestampType::LogAppendTime);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Attributes(pub u16);

impl Attributes {
    const CODEC: u16 = 0b111;
    const LOG_APPEND_TIME: u16 = 1 << 3;
    const TRANSACTIONAL: u16 = 1 << 4;
    const CONTROL: u16 = 1 << 5;
    const DELETE_HORIZON: u16 = 1 << 6;

    /// How the records are compressed. Ids 5 to 7 mean nothing yet.
    #[inline]
    pub fn codec(self) -> Result<Codec, Flaw> {
        let id = self.0 & Self::CODEC;
        Codec::from_id(id as u8).ok_or_else(|| Flaw::new(CRC_FROM, "a codec id of 0 to 4", id))
    }

    /// Whether there is a codec id other than 0, known or not.
    #[inline]
    pub fn is_compressed(self) -> bool {
        self.0 & Self::CODEC != 0
    }

    /// Who stamped the records.
    #[inline]
    pub fn timestamp_type(self) -> TimestampType {
        if self.0 & Self::LOG_APPEND_TIME == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    /// Whether the batch is part of a transaction.
    #[inline]
    pub fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    /// Whether the batch holds a marker of Kafka's own, which is never delivered.
    #[inline]
    pub fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }

    /// Whether the base timestamp is the time from which tombstones may be deleted.
    #[inline]
    pub fn has_delete_horizon(self) -> bool {
        self.0 & Self::DELETE_HORIZON != 0
    }

    #[inline]
    pub(crate) fn with_codec(self, codec: Codec) -> Self {
        Attributes(self.0 & !Self::CODEC | codec.id() as u16)
    }

    fn with(self, bit: u16, set: bool) -> Self {
        Attributes(if set { self.0 | bit } else { self.0 & !bit })
    }

    pub(crate) fn with_timestamp_type(self, kind: TimestampType) -> Self {
        self.with(Self::LOG_APPEND_TIME, kind == TimestampType::LogAppendTime)
    }

    pub(crate) fn with_transactional(self, set: bool) -> Self {
        self.with(Self::TRANSACTIONAL, set)
    }

    pub(crate) fn with_control(self, set: bool) -> Self {
        self.with(Self::CONTROL, set)
    }

    pub(crate) fn with_delete_horizon(self, set: bool) -> Self {
        self.with(Self::DELETE_HORIZON, set)
    }
}

/// A record batch's header, magic 2, as numbers.
///
/// ```
/// use girok_engine::batch::{BatchBuilder, Codec, Header};
/// use girok_engine::{Offset, Timestamp};
/// let mut builder = BatchBuilder::new(Codec::None);
/// builder.append(Timestamp::from_millis(1_700_000_000_000), Some(b"key"), Some(b"value"), &[])?;
/// let header = Header::parse(&builder.finish()?.to_vec())?;
/// assert_eq!((header.record_count, header.last_offset()), (1, Offset::ZERO));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The offset of the first record the batch was made with (compaction may have removed it).
    pub base_offset: Offset,
    /// Bytes of the batch behind this field; [`size`](Header::size) is all of them.
    pub batch_length: i32,
    /// The epoch of the leader that appended it; −1 before that.
    pub partition_leader_epoch: i32,
    /// CRC-32C of everything from the attributes on.
    pub crc: u32,
    /// Codec and flags.
    pub attributes: Attributes,
    /// The last record's offset less the base offset. Compaction keeps it.
    pub last_offset_delta: i32,
    /// What the records' timestamps are relative to; the delete horizon if that flag is set.
    pub base_timestamp: Timestamp,
    /// The largest timestamp in the batch.
    pub max_timestamp: Timestamp,
    /// The idempotent producer that sent it; −1 for none.
    pub producer_id: i64,
    /// Its epoch; −1 for none.
    pub producer_epoch: i16,
    /// The first record's sequence number; −1 for none.
    pub base_sequence: i32,
    /// How many records there are. Compaction lowers it, to 0 even.
    pub record_count: i32,
}

#[inline(always)]
fn array<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a range of N bytes")
}

impl Header {
    /// Reads the header that `bytes` begin with, and checks what can be checked without the records: that the magic
    /// is 2, that lengths and counts are not negative and fit one another. The checksum is
    /// [`Batch::check_crc`](super::Batch::check_crc)'s.
    #[inline(always)]
    pub fn parse(bytes: &[u8]) -> Result<Header, Flaw> {
        let Some(b) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(Flaw::new(0, "a batch header of 61 bytes", format_args!("{} bytes", bytes.len())));
        };
        let header = Header::read(b);
        let body = header.batch_length as i64 - (HEADER_BYTES - LENGTH_FROM) as i64;
        let records = header.record_count as i64;
        let sane = b[16] == 2
            && body >= 0
            && header.batch_length <= i32::MAX - LENGTH_FROM as i32
            && header.base_offset.get() >= 0
            && header.last_offset_delta >= 0
            && header.base_offset.get() < i64::MAX - header.last_offset_delta as i64
            && records >= 0
            && records <= header.last_offset_delta as i64 + 1
            && (header.attributes.is_compressed() || records * RECORD_BYTES_MIN as i64 <= body);
        if sane { Ok(header) } else { Err(Header::read(b).flaw(b[16])) }
    }

    /// The numbers, whatever they are.
    #[inline(always)]
    pub(crate) fn read(b: &[u8; HEADER_BYTES]) -> Header {
        Header {
            base_offset: Offset::new(i64::from_be_bytes(array(b, 0))),
            batch_length: i32::from_be_bytes(array(b, 8)),
            partition_leader_epoch: i32::from_be_bytes(array(b, 12)),
            crc: u32::from_be_bytes(array(b, 17)),
            attributes: Attributes(u16::from_be_bytes(array(b, 21))),
            last_offset_delta: i32::from_be_bytes(array(b, 23)),
            base_timestamp: Timestamp::from_millis(i64::from_be_bytes(array(b, 27))),
            max_timestamp: Timestamp::from_millis(i64::from_be_bytes(array(b, 35))),
            producer_id: i64::from_be_bytes(array(b, 43)),
            producer_epoch: i16::from_be_bytes(array(b, 51)),
            base_sequence: i32::from_be_bytes(array(b, 53)),
            record_count: i32::from_be_bytes(array(b, 57)),
        }
    }

    /// The size of the batch that `bytes` begin with, how many records it says it has, and the offset behind it: for
    /// finding where batches end. Whoever looks inside checks the header whole.
    #[inline]
    pub(crate) fn span(bytes: &[u8]) -> Result<(usize, u32, Offset), Flaw> {
        let header = match bytes.first_chunk::<HEADER_BYTES>() {
            Some(b) if b[16] == 2 => Header::read(b),
            _ => Header::parse(bytes)?,
        };
        let least = (HEADER_BYTES - LENGTH_FROM) as i32;
        let possible = least..=i32::MAX - LENGTH_FROM as i32;
        if !possible.contains(&header.batch_length) || header.base_offset.get() < 0 {
            return Header::parse(bytes).map(|header| (header.size(), 0, header.next_offset()));
        }
        let next = header.base_offset.get().saturating_add(header.last_offset_delta.max(0) as i64 + 1);
        Ok((header.size(), header.record_count.max(0) as u32, Offset::new(next)))
    }

    /// Which of the checks failed. The length comes first, so that a tail of zeros is named for what it is.
    #[cold]
    fn flaw(&self, magic: u8) -> Flaw {
        let least = (HEADER_BYTES - LENGTH_FROM) as i32;
        if self.batch_length < least {
            return Flaw::new(8, "a batch length of at least 49", self.batch_length);
        }
        match magic {
            2 => {}
            0 | 1 => {
                return Flaw::new(
                    16,
                    "magic 2",
                    format_args!("magic {magic}, which Kafka wrote before version 0.11"),
                );
            }
            other => return Flaw::new(16, "magic 2", format_args!("magic {other}")),
        }
        if self.batch_length > i32::MAX - LENGTH_FROM as i32 {
            return Flaw::new(
                8,
                "a batch of less than 2^31 bytes",
                format_args!("length {}", self.batch_length),
            );
        }
        if self.base_offset.get() < 0 {
            return Flaw::new(0, "a base offset from 0 on", self.base_offset);
        }
        if self.last_offset_delta < 0 || self.base_offset.get() >= i64::MAX - self.last_offset_delta as i64 {
            return Flaw::new(
                23,
                "a last offset from the base offset on, below 2^63 - 1",
                self.last_offset_delta,
            );
        }
        let most = match (self.last_offset_delta as i64 + 1, self.batch_length as i64 - least as i64) {
            (offsets, body) if !self.attributes.is_compressed() => {
                offsets.min(body / RECORD_BYTES_MIN as i64)
            }
            (offsets, _) => offsets,
        };
        Flaw::new(57, format!("a record count of 0 to {most}"), self.record_count)
    }

    /// The header as bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut b = [0; HEADER_BYTES];
        b[0..8].copy_from_slice(&self.base_offset.get().to_be_bytes());
        b[8..12].copy_from_slice(&self.batch_length.to_be_bytes());
        b[12..16].copy_from_slice(&self.partition_leader_epoch.to_be_bytes());
        b[16] = 2;
        b[17..21].copy_from_slice(&self.crc.to_be_bytes());
        b[21..23].copy_from_slice(&self.attributes.0.to_be_bytes());
        b[23..27].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        b[27..35].copy_from_slice(&self.base_timestamp.as_millis().to_be_bytes());
        b[35..43].copy_from_slice(&self.max_timestamp.as_millis().to_be_bytes());
        b[43..51].copy_from_slice(&self.producer_id.to_be_bytes());
        b[51..53].copy_from_slice(&self.producer_epoch.to_be_bytes());
        b[53..57].copy_from_slice(&self.base_sequence.to_be_bytes());
        b[57..61].copy_from_slice(&self.record_count.to_be_bytes());
        b
    }

    /// Sets length and checksum to those of `body`, and gives the bytes.
    pub(crate) fn seal(&mut self, body: &[u8]) -> [u8; HEADER_BYTES] {
        self.batch_length = (HEADER_BYTES - LENGTH_FROM + body.len()) as i32;
        let mut head = self.encode();
        self.crc = crc32c::crc32c_append(crc32c::crc32c(&head[CRC_FROM..]), body);
        head[17..21].copy_from_slice(&self.crc.to_be_bytes());
        head
    }

    /// The same for a body that stands behind room for its header: one checksum over both.
    pub(crate) fn seal_in_place(&mut self, batch: &mut [u8]) -> [u8; HEADER_BYTES] {
        self.batch_length = (batch.len() - LENGTH_FROM) as i32;
        batch[..HEADER_BYTES].copy_from_slice(&self.encode());
        self.crc = crc32c::crc32c(&batch[CRC_FROM..]);
        batch[17..21].copy_from_slice(&self.crc.to_be_bytes());
        *batch.first_chunk().expect("the header was just put there")
    }

    /// All bytes of the batch, this header included. At least 61.
    #[inline]
    pub fn size(&self) -> usize {
        LENGTH_FROM + self.batch_length as usize
    }

    /// The last offset the batch stands for, whether or not its record is still there.
    #[inline]
    pub fn last_offset(&self) -> Offset {
        self.base_offset + self.last_offset_delta as i64
    }

    /// The offset behind the batch.
    #[inline]
    pub fn next_offset(&self) -> Offset {
        self.last_offset() + 1
    }

    /// How the records are compressed.
    #[inline]
    pub fn codec(&self) -> Result<Codec, Flaw> {
        self.attributes.codec()
    }

    /// Whether the records must be decompressed first, by whatever codec.
    #[inline]
    pub fn is_compressed(&self) -> bool {
        self.attributes.is_compressed()
    }

    /// Whether the batch holds a marker of Kafka's own, which is never delivered.
    #[inline]
    pub fn is_control(&self) -> bool {
        self.attributes.is_control()
    }

    /// Whether the batch is part of a transaction.
    #[inline]
    pub fn is_transactional(&self) -> bool {
        self.attributes.is_transactional()
    }

    /// Who stamped the records.
    #[inline]
    pub fn timestamp_type(&self) -> TimestampType {
        self.attributes.timestamp_type()
    }

    /// The time from which compaction may delete the batch's tombstones, once that is decided (KIP-534).
    #[inline]
    pub fn delete_horizon(&self) -> Option<Timestamp> {
        self.attributes.has_delete_horizon().then_some(self.base_timestamp)
    }

    /// The sequence number of the last record; −1 if the batch has none. Sequence numbers wrap at 2³¹ to 0.
    pub fn last_sequence(&self) -> i32 {
        match self.base_sequence {
            -1 => -1,
            base => ((base as i64 + self.last_offset_delta as i64) & i32::MAX as i64) as i32,
        }
    }
}
