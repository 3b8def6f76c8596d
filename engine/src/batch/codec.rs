//! The four codecs, and how to get plain records back without trusting anybody's numbers.
//!
//! Each codec is a feature of this crate. A build that leaves one out knows such a batch, checks its checksum, stores
//! it and hands it on; only its records are out of reach, and the error names the feature.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::Batch;
use super::header::Flaw;
use crate::error::Error;
use crate::types::{Offset, TopicPartition};

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
pub fn decompress(batch: &Batch<'_>, into: &mut Vec<u8>, max_bytes: usize) -> Result<(), CodecError> {
    into.clear();
    let codec = batch.header().codec()?;
    if batch.bytes().len() > max_bytes && codec == Codec::None {
        return Err(CodecError::TooLarge { max: max_bytes });
    }
    match codec {
        Codec::None => {
            into.extend_from_slice(batch.bytes());
            Ok(())
        }
        codec => Err(CodecError::FeatureMissing(codec.name())),
    }
}
