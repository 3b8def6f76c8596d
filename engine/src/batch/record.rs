//! Records, borrowed from the bytes of a batch and decoded one at a time.
//!
//! ```text
//! length | attributes | timestamp delta | offset delta | key length, key | value length, value | header count, headers
//! varint | 1 byte     | varlong         | varint       | varint (-1: null)                     | varint
//! ```
//!
//! This is the loop every poll runs, so it does what a hand-written loop over the same numbers does and little more:
//! one bounds check a record and one a field, no copy, headers left for whoever asks. What is wrong is a small code
//! on the way out; only then is it put into words.

use std::borrow::Cow;
use std::fmt;
use std::iter::FusedIterator;

use super::codec::Codec;
use super::header::{CRC_FROM, Flaw, HEADER_BYTES, Header, TimestampType};
use super::varint;
use crate::types::{Offset, Timestamp};

/// One record, borrowed from its batch.
///
/// ```
/// use girok_engine::Timestamp;
/// use girok_engine::batch::{Batch, BatchBuilder, Codec};
/// let mut builder = BatchBuilder::new(Codec::None);
/// builder.append(Timestamp::from_millis(7), None, Some(b"value"), &[("trace", Some(b"a1"))])?;
/// let bytes = builder.finish()?.to_vec();
///
/// let record = Batch::parse(&bytes)?.records().next().unwrap()?;
/// assert_eq!((record.key(), record.value()), (None, Some(&b"value"[..])));
/// let header = record.headers().next().unwrap()?;
/// assert_eq!((&*header.key(), header.value()), ("trace", Some(&b"a1"[..])));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    offset: Offset,
    timestamp: Timestamp,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    /// From the header count to the record's end. Never empty.
    tail: &'a [u8],
}

impl<'a> Record<'a> {
    /// Its offset in the partition (relative to the batch's base offset, 0 for a batch not yet appended).
    #[inline]
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// Its time; the batch's max timestamp where the log stamps the records.
    #[inline]
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// The key. `None` is Kafka's null, not the empty key.
    #[inline]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.key
    }

    /// The value. `None` is Kafka's null: in a compacted topic, a tombstone.
    #[inline]
    pub fn value(&self) -> Option<&'a [u8]> {
        self.value
    }

    /// The headers, decoded as they are asked for. An error ends the iteration.
    #[inline]
    pub fn headers(&self) -> Headers<'a> {
        let mut rest = self.tail;
        match varint::take_i32(&mut rest) {
            // A header is at least two bytes, so a count that lies is found before anybody believes it.
            Some(count) if count >= 0 && count as usize <= rest.len() / 2 => {
                Headers { rest, left: count as u32, wrong: count == 0 && !rest.is_empty() }
            }
            _ => Headers { rest, left: 0, wrong: true },
        }
    }

    pub(crate) fn tail(&self) -> &'a [u8] {
        self.tail
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |bytes: Option<&[u8]>| bytes.map(|b| b.escape_ascii().to_string());
        f.debug_struct("Record")
            .field("offset", &self.offset)
            .field("timestamp", &self.timestamp)
            .field("key", &shown(self.key))
            .field("value", &shown(self.value))
            .finish_non_exhaustive()
    }
}

/// One header of a record: a name, which may repeat, and a value, which may be null.
///
/// ```
/// # use girok_engine::Timestamp;
/// # use girok_engine::batch::*;
/// # let mut builder = BatchBuilder::new(Codec::None);
/// builder.append(Timestamp::from_millis(7), None, None, &[("retried", None)])?;
/// let bytes = builder.finish()?.to_vec();
/// let record = Batch::parse(&bytes)?.records().next().unwrap()?;
/// let header = record.headers().next().unwrap()?;
/// assert_eq!((&*header.key(), header.value()), ("retried", None));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader<'a> {
    key: &'a [u8],
    value: Option<&'a [u8]>,
}

impl<'a> RecordHeader<'a> {
    /// The name. What is not UTF-8 is shown with replacement characters, as Kafka's clients do.
    pub fn key(&self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.key)
    }

    /// The name as it lies in the record.
    pub fn key_bytes(&self) -> &'a [u8] {
        self.key
    }

    /// The value.
    pub fn value(&self) -> Option<&'a [u8]> {
        self.value
    }
}

/// The headers of one record, in order. From [`Record::headers`].
///
/// ```
/// # use girok_engine::Timestamp;
/// # use girok_engine::batch::*;
/// # let mut builder = BatchBuilder::new(Codec::None);
/// builder.append(Timestamp::from_millis(7), None, None, &[("via", Some(b"a")), ("via", Some(b"b"))])?;
/// # let bytes = builder.finish()?.to_vec();
/// # let record = Batch::parse(&bytes)?.records().next().unwrap()?;
/// let mut headers = record.headers();
/// assert_eq!(headers.count_left(), 2);
/// assert_eq!(headers.next().unwrap()?.value(), Some(&b"a"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    rest: &'a [u8],
    left: u32,
    wrong: bool,
}

impl<'a> Headers<'a> {
    /// How many are still to come, as the record says.
    pub fn count_left(&self) -> usize {
        self.left as usize
    }

    fn take(&mut self) -> Option<RecordHeader<'a>> {
        let key = take_bytes(&mut self.rest)??;
        let value = take_bytes(&mut self.rest)?;
        Some(RecordHeader { key, value })
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Result<RecordHeader<'a>, Flaw>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.wrong {
            if self.left == 0 {
                return None;
            }
            let header = self.take();
            self.left -= 1;
            // The last header ends where the record ends.
            if let Some(header) = header
                && (self.left > 0 || self.rest.is_empty())
            {
                return Some(Ok(header));
            }
        }
        *self = Headers { rest: &[], left: 0, wrong: false };
        Some(Err(Flaw::new(
            0,
            "record headers that fill the end of the record",
            "a count or length that does not",
        )))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left as usize + 1))
    }
}

impl FusedIterator for Headers<'_> {}

/// A length and as many bytes; −1 is null. `None` if that cannot be.
#[inline(always)]
fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let len = varint::take_i32(rest)?;
    if len >= 0 {
        let (bytes, after) = rest.split_at_checked(len as usize)?;
        *rest = after;
        Some(Some(bytes))
    } else if len == -1 {
        Some(None)
    } else {
        None
    }
}

/// Where a record stopped making sense.
#[derive(Clone, Copy)]
enum Wrong {
    Length,
    Attributes,
    TimestampDelta,
    OffsetDelta,
    Key,
    Value,
    Headers,
}

impl Wrong {
    fn expected(self) -> &'static str {
        match self {
            Wrong::Length => "a record whose length fits the batch",
            Wrong::Attributes => "a record with attributes",
            Wrong::TimestampDelta => "a record with a timestamp delta",
            Wrong::OffsetDelta => "a record whose offset delta is within the batch",
            Wrong::Key => "a record whose key fits its length",
            Wrong::Value => "a record whose value fits its length",
            Wrong::Headers => "a record with a header count",
        }
    }
}

/// What records are relative to.
#[derive(Clone, Copy, Debug)]
struct Frame {
    base_offset: i64,
    base_timestamp: i64,
    append_time: Option<Timestamp>,
    last_offset_delta: u32,
}

impl Frame {
    #[inline(always)]
    fn take<'a>(&self, rest: &mut &'a [u8]) -> Result<Record<'a>, Wrong> {
        let mut ahead = *rest;
        let len = varint::take_i32(&mut ahead).ok_or(Wrong::Length)?;
        // A negative length becomes one that no slice has.
        let (mut record, after) = ahead.split_at_checked(len as usize).ok_or(Wrong::Length)?;
        // Kafka keeps the attributes of a record for later; it ignores them, and so do we.
        record = record.get(1..).ok_or(Wrong::Attributes)?;
        let timestamp_delta = varint::take_i64(&mut record).ok_or(Wrong::TimestampDelta)?;
        let offset_delta = varint::take_i32(&mut record).ok_or(Wrong::OffsetDelta)? as u32;
        if offset_delta > self.last_offset_delta {
            return Err(Wrong::OffsetDelta);
        }
        let key = take_bytes(&mut record).ok_or(Wrong::Key)?;
        let value = take_bytes(&mut record).ok_or(Wrong::Value)?;
        if record.is_empty() {
            return Err(Wrong::Headers);
        }
        *rest = after;
        let timestamp = match self.append_time {
            None => Timestamp::from_millis(self.base_timestamp.wrapping_add(timestamp_delta)),
            Some(time) => time,
        };
        let offset = Offset::new(self.base_offset + offset_delta as i64);
        Ok(Record { offset, timestamp, key, value, tail: record })
    }
}

/// The records of an uncompressed batch, in order. From [`Batch::records`](super::Batch::records).
///
/// Each is checked as far as it is decoded. An error ends the iteration; so does a batch that holds more or less than
/// its header says. A compressed batch is one error: [`decompress`](super::decompress) it first.
///
/// ```
/// # use girok_engine::Timestamp;
/// # use girok_engine::batch::*;
/// # let mut builder = BatchBuilder::new(Codec::None);
/// for value in ["tea", "milk"] {
///     builder.append(Timestamp::from_millis(7), None, Some(value.as_bytes()), &[])?;
/// }
/// let bytes = builder.finish()?.to_vec();
/// let records: Vec<Record<'_>> = Batch::parse(&bytes)?.records().collect::<Result<_, _>>()?;
/// assert_eq!((records[1].offset().get(), records[1].value()), (1, Some(&b"milk"[..])));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    frame: Frame,
    left: u32,
    /// How many there are in all, as the header says.
    count: u32,
    /// Nothing more to say: the end was reached and checked, or an error was given.
    done: bool,
    /// The whole batch, to name what is wrong with it.
    batch: &'a [u8],
}

/// A place between two records of a batch, where one may [read on](super::Batch::records_from) without walking there
/// again. The default is before the first. It means something only in the batch it was taken in.
///
/// ```
/// # use girok_engine::Timestamp;
/// # use girok_engine::batch::*;
/// # let mut builder = BatchBuilder::new(Codec::None);
/// for value in ["tea", "milk"] {
///     builder.append(Timestamp::from_millis(7), None, Some(value.as_bytes()), &[])?;
/// }
/// let bytes = builder.finish()?.to_vec();
/// let batch = Batch::parse(&bytes)?;
/// let mut records = batch.records();
/// assert_eq!(records.place(), RecordPlace::default());
/// records.next();
/// let place = records.place();
/// assert_eq!(batch.records_from(place).next().unwrap()?.value(), Some(&b"milk"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordPlace {
    /// Bytes behind the header.
    at: u32,
    /// Records before it.
    records: u32,
}

impl<'a> Records<'a> {
    /// Where the next record begins.
    #[inline]
    pub fn place(&self) -> RecordPlace {
        let at = (self.batch.len() - HEADER_BYTES - self.rest.len()) as u32;
        RecordPlace { at, records: self.count - self.left }
    }

    #[inline]
    pub(crate) fn from_place(header: &Header, batch: &'a [u8], place: RecordPlace) -> Self {
        let mut records = Records::new(header, batch);
        // A place of another batch may be anywhere; what is read there is checked like everything else.
        records.rest = records.rest.get(place.at as usize..).unwrap_or_default();
        records.left = records.left.saturating_sub(place.records);
        records
    }

    #[inline]
    pub(crate) fn new(header: &Header, batch: &'a [u8]) -> Self {
        let append_time =
            (header.timestamp_type() == TimestampType::LogAppendTime).then_some(header.max_timestamp);
        Records {
            // Of a compressed batch there is nothing to read here, so that the first record is an error.
            rest: if header.is_compressed() { &[] } else { &batch[HEADER_BYTES..] },
            frame: Frame {
                base_offset: header.base_offset.get(),
                base_timestamp: header.base_timestamp.as_millis(),
                append_time,
                last_offset_delta: header.last_offset_delta as u32,
            },
            left: header.record_count as u32,
            count: header.record_count as u32,
            done: false,
            batch,
        }
    }

    /// The header once more. It was parsed from the same bytes before.
    fn said(&self) -> Header {
        Header::parse(self.batch).expect("a batch has a header")
    }

    /// The last record did not end where the batch ends. Said once.
    #[cold]
    fn end(&mut self) -> Option<Flaw> {
        if std::mem::replace(&mut self.done, true) {
            return None;
        }
        let expected = format!("the end of the batch after {} records", self.said().record_count);
        Some(Flaw::new(
            self.batch.len() - self.rest.len(),
            expected,
            format_args!("{} more bytes", self.rest.len()),
        ))
    }

    #[cold]
    fn flaw(&mut self, wrong: Wrong) -> Flaw {
        self.done = true;
        let header = self.said();
        let index = header.record_count as u32 - self.left;
        self.left = 0;
        if header.is_compressed() {
            let found = header.codec().map_or("another id", Codec::name);
            return Flaw::new(CRC_FROM, "an uncompressed batch (decompress it first)", found);
        }
        let at = self.batch.len() - self.rest.len();
        let found = format!(
            "record {index} of {} with {} bytes left that begin {}",
            header.record_count,
            self.rest.len(),
            Hex(&self.rest[..self.rest.len().min(8)])
        );
        Flaw::new(at, wrong.expected(), found)
    }
}

/// Bytes in messages.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Flaw>;

    // Always: as a call it returns a record and room for a flaw through memory, which halves the speed of a poll.
    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return if self.rest.is_empty() { None } else { self.end().map(Err) };
        }
        match self.frame.take(&mut self.rest) {
            Ok(record) => {
                self.left -= 1;
                Some(Ok(record))
            }
            Err(wrong) => Some(Err(self.flaw(wrong))),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left as usize + 1))
    }
}

impl FusedIterator for Records<'_> {}
