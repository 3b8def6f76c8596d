//! The four codecs, and how to get plain records back without trusting anybody's numbers.
//!
//! Each codec is a feature of this crate. A build that leaves one out knows such a batch, checks its checksum, stores
//! it and hands it on; only its records are out of reach, and the error names the feature.

use std::cell::RefCell;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::Batch;
use super::header::{Flaw, HEADER_BYTES};
use crate::error::Error;
use crate::types::{Offset, TopicPartition};

#[cfg(feature = "gzip")]
mod gzip;
#[cfg(feature = "lz4")]
mod lz4;
#[cfg(feature = "snappy")]
mod snappy;
#[cfg(feature = "zstd")]
mod zstd;

/// How the records of a batch are compressed, by Kafka's ids and names.
///
/// ```
/// use girok_engine::batch::Codec;
/// assert_eq!("zstd".parse::<Codec>().unwrap(), Codec::Zstd);
/// assert_eq!(Codec::Lz4.to_string(), "lz4");
/// assert!(Codec::None.is_built_in());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Codec {
    /// Not at all.
    #[default]
    None,
    /// A gzip stream (RFC 1952).
    Gzip,
    /// Snappy blocks in the framing of Java's `SnappyOutputStream`.
    Snappy,
    /// An LZ4 frame.
    Lz4,
    /// A Zstandard frame (RFC 8878).
    Zstd,
}

impl Codec {
    /// Every codec, in the order of their ids.
    pub const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    /// The id in a batch's attributes.
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// The codec with that id.
    #[inline]
    pub fn from_id(id: u8) -> Option<Codec> {
        Codec::ALL.get(id as usize).copied()
    }

    /// Kafka's name, which is also the name of the cargo feature.
    pub const fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        }
    }

    /// The cargo feature that brings it, if it needs one.
    pub const fn feature(self) -> Option<&'static str> {
        match self {
            Codec::None => None,
            codec => Some(codec.name()),
        }
    }

    /// Whether this build can read and write it.
    pub const fn is_built_in(self) -> bool {
        match self {
            Codec::None => true,
            Codec::Gzip => cfg!(feature = "gzip"),
            Codec::Snappy => cfg!(feature = "snappy"),
            Codec::Lz4 => cfg!(feature = "lz4"),
            Codec::Zstd => cfg!(feature = "zstd"),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Codec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Codec::ALL.into_iter().find(|codec| codec.name() == text).ok_or_else(|| {
            Error::invalid(
                "compression",
                "none, gzip, snappy, lz4 or zstd",
                format_args!("{text:?}"),
                "use one of these names",
            )
        })
    }
}

/// Why a batch's records cannot be had.
///
/// ```
/// use girok_engine::batch::CodecError;
/// let bomb = CodecError::TooLarge { max: 1 << 20 };
/// let told = bomb.at(&"orders-3".parse()?, 41.into(), "00000000000000000000.log".as_ref(), 0);
/// assert!(told.to_string().contains("orders-3 at offset 41"), "{told}");
/// # Ok::<(), girok_engine::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The compressed bytes are not what the codec writes.
    #[error("{0}")]
    Flaw(#[from] Flaw),
    /// They would be more than the caller allows.
    #[error("the batch is larger than {max} bytes when decompressed")]
    TooLarge {
        /// What the caller allows, in bytes.
        max: usize,
    },
    /// This build leaves the codec out.
    #[error(
        "the batch is compressed with {0}, which this build leaves out; build girok with the feature \"{0}\""
    )]
    FeatureMissing(&'static str),
}

impl CodecError {
    /// The engine's error for a stored batch: which partition, offset, file and byte.
    pub fn at(self, partition: &TopicPartition, offset: Offset, path: &Path, position: u64) -> Error {
        match self {
            CodecError::Flaw(flaw) => Error::corrupt(
                path,
                position + flaw.at as u64,
                flaw.expected,
                flaw.found,
                format!("the other batches of {partition} are not affected; seek past offset {offset}"),
            ),
            CodecError::TooLarge { max } => Error::invalid(
                format!("batch of {partition} at offset {offset}"),
                format!("at most {max} bytes when decompressed"),
                "more",
                "raise the limit for decompressed batches if it is not a bomb, or seek past it",
            ),
            CodecError::FeatureMissing(feature) => {
                Error::FeatureMissing { partition: partition.clone(), offset, feature }
            }
        }
    }
}

/// Puts an uncompressed image of `batch` into `into`: the header without its codec, length and checksum made to
/// match, and then plain records, so that [`Batch::records`] reads it. What `into` held is gone; its room is reused.
///
/// Never makes, nor asks memory for, more than `max_bytes` (header included), whatever the compressed bytes claim.
/// The codecs' own state, some tens of kilobytes each, is kept per thread.
///
/// ```
/// use girok_engine::Timestamp;
/// use girok_engine::batch::{Batch, BatchBuilder, Codec, CodecError, decompress};
/// # if !Codec::Lz4.is_built_in() { return Ok(()) }
/// let mut builder = BatchBuilder::new(Codec::Lz4);
/// builder.append(Timestamp::from_millis(1), None, Some(&[b'a'; 10_000]), &[])?;
/// let bytes = builder.finish()?.to_vec();
/// let batch = Batch::parse(&bytes)?;
///
/// let mut plain = Vec::new();
/// decompress(&batch, &mut plain, 1 << 20)?;
/// let record = Batch::parse(&plain)?.records().next().unwrap()?;
/// assert_eq!(record.value(), Some(&[b'a'; 10_000][..]));
/// assert_eq!(decompress(&batch, &mut plain, 5_000), Err(CodecError::TooLarge { max: 5_000 }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn decompress(batch: &Batch<'_>, into: &mut Vec<u8>, max_bytes: usize) -> Result<(), CodecError> {
    into.clear();
    let result = image(batch, into, max_bytes.min(i32::MAX as usize));
    if result.is_err() {
        into.clear();
    }
    result.map_err(|stop| match stop {
        Stop::Flaw { expected, found } => Flaw::new(HEADER_BYTES, expected, found).into(),
        Stop::TooLarge => CodecError::TooLarge { max: max_bytes },
        Stop::FeatureMissing(feature) => CodecError::FeatureMissing(feature),
    })
}

fn image(batch: &Batch<'_>, into: &mut Vec<u8>, max: usize) -> Result<(), Stop> {
    if max < HEADER_BYTES {
        return Err(Stop::TooLarge);
    }
    let mut header = batch.header();
    let codec =
        header.codec().map_err(|flaw| Stop::Flaw { expected: "a codec id of 0 to 4", found: flaw.found })?;
    into.extend_from_slice(&batch.bytes()[..HEADER_BYTES]);
    let mut out = Unpacked::new(into, max);
    // Kafka's cleaner leaves headers with nothing behind them.
    if !(batch.body().is_empty() && header.record_count == 0) {
        unpack(codec, batch.body(), &mut out)?;
    }
    drop(out);
    header.attributes = header.attributes.with_codec(Codec::None);
    let (head, body) = into.split_first_chunk_mut::<HEADER_BYTES>().expect("put there above");
    *head = header.seal(body);
    Ok(())
}

/// Why unpacking ended early.
#[derive(Debug)]
enum Stop {
    Flaw {
        expected: &'static str,
        found: String,
    },
    TooLarge,
    #[cfg_attr(
        all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd"),
        allow(dead_code)
    )]
    FeatureMissing(&'static str),
}

impl Stop {
    #[cfg_attr(
        not(any(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd")),
        allow(dead_code)
    )]
    #[cold]
    fn flaw(expected: &'static str, found: impl fmt::Display) -> Self {
        Stop::Flaw { expected, found: found.to_string() }
    }
}

/// A vector that codecs write to, and never past its bound.
///
/// They ask for room, write into it and say how much they made. Room is zeroed when it is given; that costs a
/// fiftieth of what decompressing into it does.
struct Unpacked<'a> {
    bytes: &'a mut Vec<u8>,
    /// What is made; the vector is longer while there is room.
    len: usize,
    max: usize,
}

#[cfg_attr(
    not(all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd")),
    allow(dead_code)
)]
impl<'a> Unpacked<'a> {
    fn new(bytes: &'a mut Vec<u8>, max: usize) -> Self {
        let len = bytes.len();
        debug_assert!(len <= max);
        Unpacked { bytes, len, max }
    }

    fn len(&self) -> usize {
        self.len
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// As much room as the bound leaves of `wanted`.
    fn at_most(&mut self, wanted: usize) -> &mut [u8] {
        self.split(wanted).1
    }

    /// The same, and what was made before.
    fn split(&mut self, wanted: usize) -> (&[u8], &mut [u8]) {
        let end = self.len + wanted.min(self.max - self.len);
        if end > self.bytes.len() {
            // Not `reserve`: that doubles, past the bound too.
            self.bytes.reserve_exact(end - self.bytes.len());
            self.bytes.resize(end, 0);
        }
        let (made, room) = self.bytes.split_at_mut(self.len);
        (made, &mut room[..end - self.len])
    }

    /// Room for a codec that cannot say how much it will make of `packed` bytes: some, and more each time.
    fn room(&mut self, packed: usize) -> &mut [u8] {
        self.at_most(packed.saturating_mul(4).max(self.len).max(4096))
    }

    fn exactly(&mut self, wanted: usize) -> Result<&mut [u8], Stop> {
        if wanted > self.max - self.len {
            return Err(Stop::TooLarge);
        }
        Ok(self.at_most(wanted))
    }

    /// That much of the room was filled.
    fn made(&mut self, bytes: usize) -> Result<(), Stop> {
        if bytes > self.max - self.len {
            return Err(Stop::TooLarge);
        }
        self.len += bytes;
        Ok(())
    }
}

impl Drop for Unpacked<'_> {
    fn drop(&mut self) {
        self.bytes.truncate(self.len);
    }
}

fn unpack(codec: Codec, packed: &[u8], out: &mut Unpacked<'_>) -> Result<(), Stop> {
    /// What the codecs keep between two calls.
    #[derive(Default)]
    struct State {
        #[cfg(feature = "gzip")]
        gzip: Option<flate2::Decompress>,
        #[cfg(feature = "zstd")]
        zstd: Option<::zstd::zstd_safe::DCtx<'static>>,
    }
    thread_local! {
        static STATE: RefCell<State> = RefCell::default();
    }
    STATE.with_borrow_mut(|state| match codec {
        Codec::None => {
            out.exactly(packed.len())?.copy_from_slice(packed);
            out.made(packed.len())
        }
        #[cfg(feature = "gzip")]
        Codec::Gzip => gzip::unpack(&mut state.gzip, packed, out),
        #[cfg(feature = "snappy")]
        Codec::Snappy => snappy::unpack(packed, out),
        #[cfg(feature = "lz4")]
        Codec::Lz4 => lz4::unpack(packed, out),
        #[cfg(feature = "zstd")]
        Codec::Zstd => zstd::unpack(&mut state.zstd, packed, out),
        #[allow(unreachable_patterns)]
        missing => {
            let _ = &state;
            Err(Stop::FeatureMissing(missing.name()))
        }
    })
}

/// Compresses, and keeps what the codecs need to do so again: up to a few hundred kilobytes, made when first used.
pub(super) struct Packer {
    codec: Codec,
    #[cfg_attr(not(any(feature = "gzip", feature = "zstd")), allow(dead_code))]
    level: Option<i32>,
    packed: Vec<u8>,
    #[cfg(feature = "gzip")]
    gzip: Option<flate2::Compress>,
    #[cfg(feature = "snappy")]
    snappy: Option<snap::raw::Encoder>,
    #[cfg(feature = "lz4")]
    lz4: Option<lz4_flex::block::CompressTable>,
    #[cfg(feature = "zstd")]
    zstd: Option<::zstd::zstd_safe::CCtx<'static>>,
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Packer({})", self.codec)
    }
}

impl Packer {
    pub(super) fn new(codec: Codec) -> Self {
        Packer {
            codec,
            level: None,
            packed: Vec::new(),
            #[cfg(feature = "gzip")]
            gzip: None,
            #[cfg(feature = "snappy")]
            snappy: None,
            #[cfg(feature = "lz4")]
            lz4: None,
            #[cfg(feature = "zstd")]
            zstd: None,
        }
    }

    pub(super) fn codec(&self) -> Codec {
        self.codec
    }

    /// As hard as `level` says, in the codec's own terms.
    pub(super) fn with_level(codec: Codec, level: i32) -> Result<Self, Error> {
        let range = match codec {
            Codec::Gzip => 1..=9,
            Codec::Zstd => -131_072..=22,
            Codec::None | Codec::Snappy | Codec::Lz4 => {
                return Err(Error::invalid(
                    "compression level",
                    format!("none for {codec}"),
                    level,
                    "leave it out",
                ));
            }
        };
        if !range.contains(&level) {
            return Err(Error::invalid(
                "compression level",
                format!("{} to {} for {codec}", range.start(), range.end()),
                level,
                "choose a level of that range, or leave it out",
            ));
        }
        Ok(Packer { level: Some(level), ..Packer::new(codec) })
    }

    /// The compressed form of `plain`; itself, if the codec is none.
    pub(super) fn pack<'p>(&'p mut self, plain: &'p [u8]) -> Result<&'p [u8], Error> {
        if self.codec == Codec::None {
            return Ok(plain);
        }
        if !self.codec.is_built_in() {
            return Err(feature_missing(self.codec.name()));
        }
        self.packed.clear();
        let packed: Result<(), String> = match self.codec {
            #[cfg(feature = "gzip")]
            Codec::Gzip => gzip::pack(&mut self.gzip, self.level, plain, &mut self.packed),
            #[cfg(feature = "snappy")]
            Codec::Snappy => snappy::pack(&mut self.snappy, plain, &mut self.packed),
            #[cfg(feature = "lz4")]
            Codec::Lz4 => lz4::pack(&mut self.lz4, plain, &mut self.packed),
            #[cfg(feature = "zstd")]
            Codec::Zstd => zstd::pack(&mut self.zstd, self.level, plain, &mut self.packed),
            missing => Err(format!("{missing}, which this build leaves out")),
        };
        match packed {
            Ok(()) => Ok(&self.packed),
            Err(found) => Err(Error::invalid(
                "batch",
                format!("records that {} can compress", self.codec),
                found,
                "free some memory and try again, or use another codec",
            )),
        }
    }
}

/// The error of a call that needs a codec this build leaves out.
pub(super) fn feature_missing(feature: &str) -> Error {
    Error::Unsupported {
        what: format!("compression with {feature} in this build"),
        fix: format!("build girok with the feature \"{feature}\""),
    }
}

#[cfg(all(test, not(feature = "zstd")))]
mod tests {
    use super::*;
    use crate::batch::{BatchBuilder, ValidBatch};
    use crate::types::Timestamp;

    /// A build without zstd meets a batch that Kafka compressed with it: it knows what it is, checks its checksum,
    /// and says what is missing and where.
    #[test]
    fn a_codec_that_was_left_out_is_named() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/segments/g-zstd-0");
        let path = golden.join("00000000000000000000.log");
        let bytes = std::fs::read(&path).unwrap();
        let batch = Batch::parse(&bytes).unwrap();
        batch.check_crc().unwrap();
        assert!(batch.records().next().unwrap().unwrap_err().found.contains("zstd"));

        let error = decompress(&batch, &mut Vec::new(), 1 << 20).unwrap_err();
        assert_eq!(error, CodecError::FeatureMissing("zstd"));
        let told =
            error.at(&TopicPartition::new("g-zstd", 0), batch.header().base_offset, &path, 0).to_string();
        assert!(
            told.starts_with("g-zstd-0 at offset 0: ") && told.contains("the feature \"zstd\""),
            "{told}"
        );

        let refused = ValidBatch::check(batch.bytes(), 1 << 20).unwrap_err();
        assert!(matches!(refused, Error::Unsupported { .. }), "{refused}");
        let mut builder = BatchBuilder::new(Codec::Zstd);
        builder.append(Timestamp::from_millis(1), None, None, &[]).unwrap();
        assert!(matches!(builder.finish(), Err(Error::Unsupported { .. })));
        assert!(!Codec::Zstd.is_built_in());
    }
}
