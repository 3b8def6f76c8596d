//! Compaction's scissors: a batch with some of its records cut out.
//!
//! What stays keeps its offset and its time, and the batch keeps its base offset, last offset, producer and epoch, so
//! that nobody who reads it can tell but by the gaps. These are the rules of Kafka's `MemoryRecords.filterTo`.

use super::codec::{Codec, CodecError, Packer, decompress};
use super::header::{Attributes, Flaw, HEADER_BYTES, Header, TimestampType};
use super::record::Record;
use super::varint::{self, Filler, field_len};
use super::{Batch, Records};
use crate::types::Timestamp;

/// Buffers that [`retain`] reuses from one batch to the next.
///
/// ```
/// # use girok_engine::Timestamp;
/// # use girok_engine::batch::*;
/// # let mut builder = BatchBuilder::new(Codec::None);
/// # builder.append(Timestamp::from_millis(1), None, Some(b"tea"), &[])?;
/// # let bytes = builder.finish()?.to_vec();
/// let mut scratch = Scratch::default();
/// for batch in batches(&bytes) {
///     retain(&batch?, &mut scratch, 1 << 20, None, |record| record.value().is_some())?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct Scratch {
    image: Vec<u8>,
    kept: Vec<bool>,
    plain: Vec<u8>,
    batch: Vec<u8>,
    packer: Option<Packer>,
}

/// What [`retain`] leaves of a batch.
///
/// ```
/// # use girok_engine::Timestamp;
/// # use girok_engine::batch::*;
/// # let mut builder = BatchBuilder::new(Codec::None);
/// # builder.append(Timestamp::from_millis(1), None, Some(b"tea"), &[])?;
/// # let bytes = builder.finish()?.to_vec();
/// # let batch = Batch::parse(&bytes)?;
/// let mut scratch = Scratch::default();
/// assert_eq!(retain(&batch, &mut scratch, 1 << 20, None, |_| true)?, Retained::Whole);
/// assert_eq!(retain(&batch, &mut scratch, 1 << 20, None, |_| false)?, Retained::None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retained<'s> {
    /// No record. The batch may go, or stay as an [`emptied`] one.
    None,
    /// All of it: copy the batch as it is.
    Whole,
    /// A new batch, whole and checksummed.
    Part(&'s [u8]),
}

/// Cuts out the records for which `keep` says `false`; it is asked once for each, in order.
///
/// A batch that keeps a tombstone and has no delete horizon yet gets `delete_horizon`, the time from which its
/// tombstones may go (KIP-534): the base timestamp carries it from then on. A compressed batch is decompressed, up to
/// `decompressed_max` bytes, and what is left of it is compressed again with the same codec. The batch's checksum is
/// not looked at.
///
/// ```
/// use girok_engine::Timestamp;
/// use girok_engine::batch::{Batch, BatchBuilder, Codec, Retained, Scratch, retain};
/// let mut builder = BatchBuilder::new(Codec::None);
/// for value in ["old", "new"] {
///     builder.append(Timestamp::from_millis(1), Some(b"key"), Some(value.as_bytes()), &[])?;
/// }
/// let bytes = builder.finish()?.to_vec();
/// let mut scratch = Scratch::default();
///
/// let left = retain(&Batch::parse(&bytes)?, &mut scratch, 1 << 20, None, |record| record.offset().get() == 1)?;
/// let Retained::Part(left) = left else { panic!("one of two is left") };
/// let left = Batch::parse(left)?;
/// assert_eq!((left.header().record_count, left.header().last_offset().get()), (1, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn retain<'s>(
    batch: &Batch<'_>,
    scratch: &'s mut Scratch,
    decompressed_max: usize,
    delete_horizon: Option<Timestamp>,
    mut keep: impl FnMut(&Record<'_>) -> bool,
) -> Result<Retained<'s>, CodecError> {
    let Scratch { image, kept, plain, batch: out, packer } = scratch;
    let original = batch.header();
    let codec = original.codec()?;
    let source = match codec {
        Codec::None => *batch,
        _ => {
            decompress(batch, image, decompressed_max)?;
            Batch::parse(image)?
        }
    };

    kept.clear();
    let mut tombstones = false;
    for record in source.records() {
        let record = record?;
        let stays = keep(&record);
        tombstones |= stays && record.value().is_none();
        kept.push(stays);
    }
    let count = kept.iter().filter(|&&stays| stays).count();
    if count == 0 {
        return Ok(Retained::None);
    }
    let new_horizon = delete_horizon.filter(|_| tombstones && original.delete_horizon().is_none());
    if count == kept.len() && new_horizon.is_none() {
        return Ok(Retained::Whole);
    }

    let horizon = new_horizon.or(original.delete_horizon());
    let mut header = original;
    header.record_count = count as i32;
    header.attributes = header.attributes.with_delete_horizon(horizon.is_some());
    encode(source.records(), kept, horizon, &mut header, plain)?;

    let packer = match packer {
        Some(packer) if packer.codec() == codec => packer,
        other => other.insert(Packer::new(codec)),
    };
    let body = packer.pack(plain).map_err(|error| Flaw::new(HEADER_BYTES, "records to compress", error))?;
    if body.len() > i32::MAX as usize - HEADER_BYTES {
        return Err(CodecError::TooLarge { max: i32::MAX as usize });
    }
    out.clear();
    out.extend_from_slice(&header.seal(body));
    out.extend_from_slice(body);
    Ok(Retained::Part(out))
}

/// Encodes what is kept, and sets the header's timestamps to match.
fn encode(
    records: Records<'_>,
    kept: &[bool],
    horizon: Option<Timestamp>,
    header: &mut Header,
    plain: &mut Vec<u8>,
) -> Result<(), Flaw> {
    plain.clear();
    let mut base = horizon;
    let mut max = Timestamp::NONE;
    for (record, _) in records.zip(kept).filter(|(_, stays)| **stays) {
        let record = record?;
        let base = *base.get_or_insert(record.timestamp());
        let timestamp_delta = record.timestamp().as_millis().wrapping_sub(base.as_millis());
        let offset_delta = record.offset() - header.base_offset;
        max = max.max(record.timestamp());

        let len = 1
            + varint::len(timestamp_delta)
            + varint::len(offset_delta)
            + field_len(record.key())
            + field_len(record.value())
            + record.tail().len();
        let start = plain.len();
        plain.resize(start + varint::len(len as i64) + len, 0);
        let mut out = Filler { bytes: &mut plain[start..], at: 0 };
        out.put(len as i64);
        out.byte(0);
        out.put(timestamp_delta);
        out.put(offset_delta);
        out.field(record.key());
        out.field(record.value());
        out.raw(record.tail());
    }
    header.base_timestamp = base.unwrap_or(Timestamp::NONE);
    if header.timestamp_type() == TimestampType::CreateTime {
        header.max_timestamp = max;
    }
    Ok(())
}

/// A batch of no records that still stands for the offsets, and the producer's sequence numbers, of `header`'s. Kafka
/// leaves such where the last batch of a live producer was compacted away.
///
/// ```
/// # use girok_engine::Timestamp;
/// use girok_engine::batch::{Batch, BatchBuilder, Codec, emptied};
/// # let mut builder = BatchBuilder::new(Codec::None);
/// # builder.append(Timestamp::from_millis(1), None, None, &[])?;
/// # let header = builder.finish()?.header();
/// let bytes = emptied(&header);
/// let batch = Batch::parse(&bytes)?;
/// assert_eq!(batch.header().last_offset(), header.last_offset());
/// assert_eq!(batch.records().count(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn emptied(header: &Header) -> [u8; HEADER_BYTES] {
    let kept = Attributes::default()
        .with_timestamp_type(header.timestamp_type())
        .with_transactional(header.is_transactional())
        .with_control(header.is_control());
    let mut header = Header { attributes: kept, base_timestamp: Timestamp::NONE, record_count: 0, ..*header };
    header.seal(&[])
}
