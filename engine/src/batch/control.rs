//! Kafka's own records: markers in control batches, which tell how a transaction ended and are never delivered.
//!
//! ```text
//! key: version, i16 | type, i16          value of types 0 and 1: version, i16 | coordinator epoch, i32
//! ```

use std::fmt;

use super::header::Flaw;
use super::record::Record;

/// What a record of a control batch says.
///
/// ```
/// use girok_engine::Timestamp;
/// use girok_engine::batch::{Batch, BatchBuilder, Codec, Control};
/// let mut builder = BatchBuilder::new(Codec::None);
/// builder.set_producer(7, 0, -1);
/// builder.set_kind(true, true);
/// builder.append(Timestamp::from_millis(1), Some(&[0, 0, 0, 1]), Some(&[0, 0, 0, 0, 0, 9]), &[])?;
/// let mut bytes = Vec::new();
/// builder.encode_into(&mut bytes)?;
///
/// let marker = Batch::parse(&bytes)?.records().next().unwrap()?;
/// assert_eq!(Control::of(&marker)?, Control::Commit { coordinator_epoch: 9 });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// The producer's open transaction in this partition was aborted.
    Abort {
        /// The epoch of the coordinator that said so.
        coordinator_epoch: i32,
    },
    /// It was committed.
    Commit {
        /// The epoch of the coordinator that said so.
        coordinator_epoch: i32,
    },
    /// A type that means nothing in a partition of ours: 2 to 5 belong to KRaft's metadata log.
    Other(i16),
}

impl Control {
    /// Reads a record of a control batch. Versions from 0 on are read as version 0, as Kafka does.
    pub fn of(record: &Record<'_>) -> Result<Control, Flaw> {
        let key = record.key().unwrap_or_default();
        let kind = match key.first_chunk::<4>() {
            Some(&[high, low, kind @ ..]) if i16::from_be_bytes([high, low]) >= 0 => i16::from_be_bytes(kind),
            _ => {
                return Err(Flaw::new(
                    0,
                    "a control record's key of version and type",
                    format_args!("{} bytes: {}", key.len(), key.escape_ascii()),
                ));
            }
        };
        if !matches!(kind, 0 | 1) {
            return Ok(Control::Other(kind));
        }
        let value = record.value().unwrap_or_default();
        match value.first_chunk::<6>() {
            Some(&[high, low, epoch @ ..]) if i16::from_be_bytes([high, low]) >= 0 => {
                let coordinator_epoch = i32::from_be_bytes(epoch);
                Ok(if kind == 1 {
                    Control::Commit { coordinator_epoch }
                } else {
                    Control::Abort { coordinator_epoch }
                })
            }
            _ => Err(Flaw::new(
                0,
                "an end transaction marker of version and coordinator epoch",
                format_args!("{} bytes: {}", value.len(), value.escape_ascii()),
            )),
        }
    }
}

impl fmt::Display for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Control::Abort { .. } => f.write_str("ABORT"),
            Control::Commit { .. } => f.write_str("COMMIT"),
            Control::Other(kind) => write!(f, "control type {kind}"),
        }
    }
}
