//! Record batches: Kafka's unit of everything. What a producer sends is what is stored is what a consumer gets.
//!
//! A batch is a [`Header`] of 61 bytes and then records, plain or compressed as one. [`BatchBuilder`] makes one,
//! [`ValidBatch::check`] judges one that somebody else made; either way a [`ValidBatch`] is what may be appended.
//! [`Batch`] reads one where it lies, [`decompress`] turns a compressed one into a plain one, [`retain`] cuts records
//! out of one for compaction. Everything here is a pure function of bytes; what is wrong with them is a [`Flaw`], and
//! the caller, who knows the file, makes an error of it.

mod builder;
mod codec;
mod control;
mod header;
mod record;
mod retain;
mod valid;
mod varint;

pub use builder::BatchBuilder;
pub use codec::{Codec, CodecError, decompress};
pub use control::Control;
pub use header::{Attributes, Flaw, HEADER_BYTES, Header, TimestampType};
pub use record::{Headers, Record, RecordHeader, RecordPlace, Records};
pub use retain::{Retained, Scratch, emptied, retain};
pub use valid::ValidBatch;

use header::CRC_FROM;

/// A whole batch, borrowed from the bytes it lies in. Cheap to copy.
///
/// ```
/// use girok_engine::Timestamp;
/// use girok_engine::batch::{Batch, BatchBuilder, Codec};
/// let mut builder = BatchBuilder::new(Codec::None);
/// builder.append(Timestamp::from_millis(1), Some(b"k"), Some(b"v"), &[])?;
/// let mut bytes = builder.finish()?.to_vec();
/// assert!(Batch::parse(&bytes)?.check_crc().is_ok());
///
/// *bytes.last_mut().unwrap() ^= 1;
/// assert!(Batch::parse(&bytes)?.check_crc().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    // Nothing else: a header is 72 bytes as numbers, and moving one through every iterator costs more than reading the
    // few fields that somebody asks for (polling one record a batch ran at half the speed).
    bytes: &'a [u8],
}

impl<'a> Batch<'a> {
    /// The batch that `bytes` begin with; more may follow. Checks the header and that all its bytes are there, not
    /// the checksum.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Batch<'a>, Flaw> {
        let size = Header::parse(bytes)?.size();
        match bytes.get(..size) {
            Some(bytes) => Ok(Batch { bytes }),
            None => Err(cut_off(size, bytes.len())),
        }
    }

    /// Its header.
    #[inline]
    pub fn header(&self) -> Header {
        Header::read(self.head())
    }

    #[inline]
    fn head(&self) -> &'a [u8; HEADER_BYTES] {
        self.bytes.first_chunk().expect("a whole batch has a header")
    }

    /// All of it.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What follows the header: records, or the compressed form of them.
    #[inline]
    pub fn body(&self) -> &'a [u8] {
        &self.bytes[HEADER_BYTES..]
    }

    /// Whether the bytes are those the checksum was made of.
    pub fn check_crc(&self) -> Result<(), Flaw> {
        let (found, expected) = (crc32c::crc32c(&self.bytes[CRC_FROM..]), self.header().crc);
        if found == expected {
            return Ok(());
        }
        Err(Flaw::new(17, format!("a batch checksum of {expected:08x}"), format_args!("{found:08x}")))
    }

    /// The records of an uncompressed batch; those of control batches too, which nobody delivers.
    #[inline]
    pub fn records(&self) -> Records<'a> {
        Records::new(&self.header(), self.bytes)
    }

    /// The same, from a place on that [`Records::place`] gave.
    #[inline]
    pub fn records_from(&self, place: RecordPlace) -> Records<'a> {
        Records::from_place(&self.header(), self.bytes, place)
    }
}

#[cold]
fn cut_off(size: usize, found: usize) -> Flaw {
    Flaw::new(8, format!("a whole batch of {size} bytes"), format_args!("{found} bytes: the rest is cut off"))
}

/// The batches that stand one after the other in `bytes`, which end where a batch ends: otherwise the last item is
/// the [`Flaw`], its place counted from the start of `bytes`.
pub fn batches(bytes: &[u8]) -> Batches<'_> {
    Batches { bytes, at: 0 }
}

/// See [`batches`].
///
/// ```
/// # use girok_engine::Timestamp;
/// # use girok_engine::batch::*;
/// # let mut builder = BatchBuilder::new(Codec::None);
/// # builder.append(Timestamp::from_millis(1), None, Some(b"tea"), &[])?;
/// let one = builder.finish()?.to_vec();
/// let two = [&one[..], &one[..]].concat();
/// assert_eq!(batches(&two).filter_map(Result::ok).count(), 2);
/// let cut = &two[..two.len() - 1];
/// assert_eq!(batches(cut).last().unwrap().unwrap_err().at, one.len() + 8, "a whole one, then a flaw");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<Batch<'a>, Flaw>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.bytes[self.at..];
        if rest.is_empty() {
            return None;
        }
        match Batch::parse(rest) {
            Ok(batch) => {
                self.at += batch.bytes.len();
                Some(Ok(batch))
            }
            Err(flaw) => {
                let at = std::mem::replace(&mut self.at, self.bytes.len());
                Some(Err(flaw.moved(at)))
            }
        }
    }
}

impl std::iter::FusedIterator for Batches<'_> {}
