//! Batches that may be appended. There are two ways to get one, and both look at every record.
//!
//! A log that stores what it was sent must look before, not after: what is wrong in a stored batch is wrong for every
//! reader for as long as it is kept. What Kafka knows and this version does not (transactions, idempotent producers)
//! is refused by name.

use super::codec::{self, Codec, CodecError};
use super::header::{CRC_FROM, Flaw, HEADER_BYTES, Header, TimestampType};
use super::{Batch, Records};
use crate::error::{Error, Result};
use crate::types::{Offset, Timestamp};

/// A batch that was checked and may be appended: a header of its own, so that it can be stamped, and a borrowed body.
///
/// ```
/// use girok_engine::Timestamp;
/// use girok_engine::batch::{BatchBuilder, Codec, ValidBatch};
/// let mut builder = BatchBuilder::new(Codec::None);
/// builder.append(Timestamp::from_millis(1), None, Some(b"value"), &[])?;
/// let bytes = builder.finish()?.to_vec();
///
/// let batch = ValidBatch::check(&bytes, 1 << 20)?; // as if it had come from somebody else
/// assert_eq!(batch.size(), bytes.len());
/// assert!(ValidBatch::check(&bytes[1..], 1 << 20).is_err());
/// # Ok::<(), girok_engine::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ValidBatch<'a> {
    head: [u8; HEADER_BYTES],
    body: &'a [u8],
    /// There is a record without a key, which a compacted topic refuses.
    keyless: bool,
}

impl<'a> ValidBatch<'a> {
    #[inline]
    pub(crate) fn trusted(head: [u8; HEADER_BYTES], body: &'a [u8], keyless: bool) -> Self {
        ValidBatch { head, body, keyless }
    }

    /// Checks bytes that somebody else made: exactly one whole batch, checksum right, every record and header
    /// decodes, offsets run from 0 without a gap, the max timestamp is the largest there is. Compressed records are
    /// decompressed for it, up to `max_decompressed` bytes.
    ///
    /// Fails with [`Error::Invalid`] for what is wrong, and [`Error::Unsupported`] for what is right but not known
    /// here: transactional and control batches, batches of idempotent producers, message formats 0 and 1, codecs that
    /// this build leaves out.
    pub fn check(bytes: &'a [u8], max_decompressed: usize) -> Result<ValidBatch<'a>> {
        Self::check_with(bytes, max_decompressed, &mut Vec::new())
    }

    /// The same, with room to decompress into that the caller keeps.
    pub fn check_with(
        bytes: &'a [u8],
        max_decompressed: usize,
        scratch: &mut Vec<u8>,
    ) -> Result<ValidBatch<'a>> {
        if let Some(&magic @ (0 | 1)) = bytes.get(16)
            && bytes.get(8..12).is_some_and(|length| length != [0; 4])
        {
            return Err(Error::Unsupported {
                what: format!("message format {magic}"),
                fix: "send record batches of message format 2, as every producer since Kafka 0.11 does"
                    .into(),
            });
        }
        let invalid = |flaw: Flaw| flaw.into_invalid("batch");
        let batch = Batch::parse(bytes).map_err(invalid)?;
        if batch.bytes().len() != bytes.len() {
            return Err(invalid(Flaw::new(
                batch.bytes().len(),
                "the end of the one batch",
                format_args!("{} more bytes", bytes.len() - batch.bytes().len()),
            )));
        }
        batch.check_crc().map_err(invalid)?;
        let header = batch.header();
        refuse_by_name(&header)?;
        if header.timestamp_type() == TimestampType::LogAppendTime {
            return Err(invalid(Flaw::new(
                CRC_FROM,
                "timestamps of the producer (CreateTime)",
                "LogAppendTime, which only the log may set",
            )));
        }
        if header.record_count < 1 || header.last_offset_delta != header.record_count - 1 {
            let expected =
                format!("a record count of {}, one for each offset", header.last_offset_delta as i64 + 1);
            return Err(invalid(Flaw::new(57, expected, header.record_count)));
        }
        let keyless = match header.codec().map_err(invalid)? {
            Codec::None => check_records(&header, batch.records()).map_err(invalid)?,
            _ => {
                codec::decompress(&batch, scratch, max_decompressed).map_err(|e| match e {
                    CodecError::Flaw(flaw) => invalid(flaw),
                    CodecError::FeatureMissing(feature) => codec::feature_missing(feature),
                    CodecError::TooLarge { max } => Error::invalid(
                        "batch",
                        format!("at most {max} bytes when decompressed"),
                        format_args!("more, from {} compressed", batch.body().len()),
                        "send smaller batches, or raise the limit",
                    ),
                })?;
                let image = Batch::parse(scratch).map_err(invalid)?;
                check_records(&header, image.records()).map_err(invalid)?
            }
        };
        let head = *bytes.first_chunk().expect("a whole batch has a header");
        Ok(ValidBatch { head, body: batch.body(), keyless })
    }

    /// Its header.
    #[inline]
    pub fn header(&self) -> Header {
        Header::read(&self.head)
    }

    /// All bytes of it.
    #[inline]
    pub fn size(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }

    /// The header's bytes. Whoever appends fills in base offset (bytes 0 to 8) and leader epoch (12 to 16).
    #[inline]
    pub fn head(&self) -> &[u8; HEADER_BYTES] {
        &self.head
    }

    /// Whether there is a record without a key. A compacted topic takes no such batch: nothing could ever supersede
    /// that record.
    #[inline]
    pub fn has_keyless_records(&self) -> bool {
        self.keyless
    }

    /// The bytes behind the header.
    #[inline]
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Both, one after the other.
    pub fn to_vec(&self) -> Vec<u8> {
        [&self.head[..], self.body].concat()
    }

    /// Stamped by the log: every record's time is `now`. The checksum is made anew, the records are untouched.
    #[must_use]
    pub fn log_append_time(mut self, now: Timestamp) -> ValidBatch<'a> {
        let mut header = self.header();
        header.attributes = header.attributes.with_timestamp_type(TimestampType::LogAppendTime);
        header.max_timestamp = now;
        self.head = header.seal(self.body);
        self
    }
}

/// What Kafka knows and this version does not, each by its name.
pub(crate) fn refuse_by_name(header: &Header) -> Result<()> {
    let what = if header.is_control() {
        "appending a control batch"
    } else if header.is_transactional() {
        "appending a transactional batch"
    } else if header.producer_id != -1 || header.producer_epoch != -1 || header.base_sequence != -1 {
        "appending a batch of an idempotent producer"
    } else if header.attributes.has_delete_horizon() {
        "appending a batch with a delete horizon"
    } else {
        return Ok(());
    };
    Err(Error::Unsupported {
        what: what.into(),
        fix: "idempotent and transactional producers come in a later version, delete horizons are compaction's own; \
              send plain batches (enable.idempotence=false)"
            .into(),
    })
}

/// Walks every record and header, and compares them with what the batch's header says. Returns whether there is a
/// record without a key.
fn check_records(header: &Header, records: Records<'_>) -> Result<bool, Flaw> {
    let mut next: Offset = header.base_offset;
    let mut keyless = false;
    let mut max = i64::MIN;
    for record in records {
        let record = record?;
        if record.offset() != next {
            return Err(Flaw::new(
                HEADER_BYTES,
                format!("offset deltas without a gap, {} next", next - header.base_offset),
                record.offset() - header.base_offset,
            ));
        }
        if record.timestamp() < Timestamp::NONE {
            return Err(Flaw::new(
                HEADER_BYTES,
                "timestamps from 0 on, or -1 for none",
                format_args!("{} in record {}", record.timestamp(), next - header.base_offset),
            ));
        }
        for field in record.headers() {
            field?;
        }
        keyless |= record.key().is_none();
        max = max.max(record.timestamp().as_millis());
        next = next + 1;
    }
    if max != header.max_timestamp.as_millis() {
        return Err(Flaw::new(35, format!("a max timestamp of {max}"), header.max_timestamp));
    }
    Ok(keyless)
}
