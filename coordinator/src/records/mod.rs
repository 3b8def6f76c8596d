//! The records of `__consumer_offsets`, byte for byte as Kafka writes them.
//!
//! A record's key names a thing (an i16 type, then names: always the plain form) and its value says what became of it
//! (an i16 version, then fields), or is absent: a tombstone. The log is compacted by key, so the last record of each
//! key is the truth and everything else is history. [`Record::decode`] reads both halves, [`Record::encode_key`] and
//! [`Record::encode_value`] write them, and [`describe`] prints them as `kafka-dump-log --offsets-decoder` does.
//!
//! Types that we do not know (share groups, streams groups, those of the future) are kept as bytes and are never an
//! error; so are tagged fields from the future. A known type that does not decode is a [`Flaw`].

mod classic;
mod consumer;
mod describe;
mod json;
mod offset_commit;
mod wire;

use std::sync::Arc;

use girok_engine::TopicPartition;

pub use classic::{ClassicMember, GroupMetadata};
pub use consumer::{
    AssignedPartitions, ClassicMemberMetadata, ConsumerGroupMemberMetadata, ConsumerGroupMetadata,
    ConsumerGroupPartitionMetadata, CurrentMemberAssignment, RegularExpression, TargetAssignmentMember,
    TargetAssignmentMetadata, TopicMetadata,
};
pub use describe::{Described, describe};
pub use offset_commit::{OffsetAndMetadata, OffsetCommitValue};
pub use wire::{Flaw, Part};

pub(crate) use classic::CONSUMER;
use classic::GROUP_METADATA_VERSION_MAX;
use offset_commit::OFFSET_COMMIT_VERSION_MAX;
use wire::{Read, Reader, Writer};

/// One record: the thing it is about and its new value, `None` where the thing is deleted.
///
/// ```
/// use girok_coordinator::records::{GroupMetadata, Record};
/// let record = Record::GroupMetadata {
///     group: "search".into(),
///     value: Some(GroupMetadata::empty("consumer".into(), 1, -1)),
/// };
/// let (mut key, mut value) = (Vec::new(), Vec::new());
/// record.encode_key(&mut key);
/// assert!(record.encode_value(&mut value));
/// assert_eq!(Record::decode(&key, Some(&value)), Ok(record));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Record {
    /// Types 0 and 1: what a group committed for a partition.
    OffsetCommit {
        /// Type 0, written by brokers before 0.9; the same key otherwise.
        legacy: bool,
        /// Whose offset.
        group: Arc<str>,
        /// Of which partition.
        partition: TopicPartition,
        /// The offset.
        value: Option<OffsetCommitValue>,
    },
    /// Type 2: a classic group.
    GroupMetadata {
        /// Its name.
        group: Arc<str>,
        /// Its last completed rebalance.
        value: Option<GroupMetadata>,
    },
    /// Type 3: a consumer group's epoch.
    ConsumerGroupMetadata {
        /// Its name.
        group: Arc<str>,
        /// Its epoch.
        value: Option<ConsumerGroupMetadata>,
    },
    /// Type 4: the partitions of a consumer group's topics.
    ConsumerGroupPartitionMetadata {
        /// The group.
        group: Arc<str>,
        /// The partitions.
        value: Option<ConsumerGroupPartitionMetadata>,
    },
    /// Type 5: a member of a consumer group.
    ConsumerGroupMemberMetadata {
        /// The group.
        group: Arc<str>,
        /// The member's id.
        member: Arc<str>,
        /// Who it is.
        value: Option<ConsumerGroupMemberMetadata>,
    },
    /// Type 6: the epoch of a consumer group's target assignment.
    TargetAssignmentMetadata {
        /// The group.
        group: Arc<str>,
        /// The epoch.
        value: Option<TargetAssignmentMetadata>,
    },
    /// Type 7: what a member shall own.
    TargetAssignmentMember {
        /// The group.
        group: Arc<str>,
        /// The member's id.
        member: Arc<str>,
        /// The partitions.
        value: Option<TargetAssignmentMember>,
    },
    /// Type 8: what a member owns.
    CurrentMemberAssignment {
        /// The group.
        group: Arc<str>,
        /// The member's id.
        member: Arc<str>,
        /// The partitions.
        value: Option<CurrentMemberAssignment>,
    },
    /// Type 16: what a regular expression stood for.
    RegularExpression {
        /// The group.
        group: Arc<str>,
        /// The expression.
        regex: Arc<str>,
        /// The topics.
        value: Option<RegularExpression>,
    },
    /// Any other type, as it is.
    Unknown {
        /// The type's number.
        kind: i16,
        /// The whole key, type included.
        key: Box<[u8]>,
        /// The whole value, version included.
        value: Option<Box<[u8]>>,
    },
}

/// Reads a value's version and then the value; `None` for a tombstone.
fn read_value<T>(
    bytes: Option<&[u8]>,
    newest: i16,
    read: impl FnOnce(&mut Reader<'_>, i16) -> Read<T>,
) -> Read<Option<T>> {
    let Some(bytes) = bytes else { return Ok(None) };
    let mut r = Reader::new(Part::Value, bytes);
    let version = r.i16("version")?;
    if !(0..=newest).contains(&version) {
        return Err(r.flaw(0, format!("a version from 0 to {newest}"), version));
    }
    let value = read(&mut r, version)?;
    r.end()?;
    Ok(Some(value))
}

/// The same for the types that were flexible from the start and have one version.
fn read_flexible<T>(bytes: Option<&[u8]>, read: impl FnOnce(&mut Reader<'_>) -> Read<T>) -> Read<Option<T>> {
    read_value(bytes, 0, |r, _| {
        r.set_flexible(true);
        read(r)
    })
}

impl Record {
    /// Reads a record from its key and value.
    ///
    /// # Errors
    /// A [`Flaw`] if a known type does not decode: a field that is cut, a count that cannot be, bytes after the
    /// last field, text that is not UTF-8, a version from the future.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Record, Flaw> {
        let mut r = Reader::new(Part::Key, key);
        let kind = r.i16("record type")?;
        if !matches!(kind, 0..=8 | 16) {
            return Ok(Record::Unknown { kind, key: key.into(), value: value.map(Into::into) });
        }
        let group: Arc<str> = r.string("a group")?.into();
        let record = match kind {
            0 | 1 => {
                let topic = r.string("a topic")?;
                let partition = TopicPartition::new(topic, r.i32("a partition")?);
                r.end()?;
                let value = read_value(value, OFFSET_COMMIT_VERSION_MAX, OffsetCommitValue::read)?;
                Record::OffsetCommit { legacy: kind == 0, group, partition, value }
            }
            2..=4 | 6 => {
                r.end()?;
                match kind {
                    2 => Record::GroupMetadata {
                        group,
                        value: read_value(value, GROUP_METADATA_VERSION_MAX, GroupMetadata::read)?,
                    },
                    3 => {
                        let value = read_flexible(value, ConsumerGroupMetadata::read)?;
                        Record::ConsumerGroupMetadata { group, value }
                    }
                    4 => {
                        let value = read_flexible(value, ConsumerGroupPartitionMetadata::read)?;
                        Record::ConsumerGroupPartitionMetadata { group, value }
                    }
                    _ => {
                        let value = read_flexible(value, TargetAssignmentMetadata::read)?;
                        Record::TargetAssignmentMetadata { group, value }
                    }
                }
            }
            _ => {
                let member: Arc<str> =
                    r.string(if kind == 16 { "a regular expression" } else { "a member" })?.into();
                r.end()?;
                match kind {
                    5 => {
                        let value = read_flexible(value, ConsumerGroupMemberMetadata::read)?;
                        Record::ConsumerGroupMemberMetadata { group, member, value }
                    }
                    7 => {
                        let value = read_flexible(value, TargetAssignmentMember::read)?;
                        Record::TargetAssignmentMember { group, member, value }
                    }
                    8 => {
                        let value = read_flexible(value, CurrentMemberAssignment::read)?;
                        Record::CurrentMemberAssignment { group, member, value }
                    }
                    _ => {
                        let value = read_flexible(value, RegularExpression::read)?;
                        Record::RegularExpression { group, regex: member, value }
                    }
                }
            }
        };
        Ok(record)
    }

    /// The number that Kafka gave this type of record.
    pub fn kind(&self) -> i16 {
        match self {
            Record::OffsetCommit { legacy, .. } => i16::from(!legacy),
            Record::GroupMetadata { .. } => 2,
            Record::ConsumerGroupMetadata { .. } => 3,
            Record::ConsumerGroupPartitionMetadata { .. } => 4,
            Record::ConsumerGroupMemberMetadata { .. } => 5,
            Record::TargetAssignmentMetadata { .. } => 6,
            Record::TargetAssignmentMember { .. } => 7,
            Record::CurrentMemberAssignment { .. } => 8,
            Record::RegularExpression { .. } => 16,
            Record::Unknown { kind, .. } => *kind,
        }
    }

    /// The group it is about; `None` for unknown types.
    pub fn group(&self) -> Option<&Arc<str>> {
        match self {
            Record::OffsetCommit { group, .. }
            | Record::GroupMetadata { group, .. }
            | Record::ConsumerGroupMetadata { group, .. }
            | Record::ConsumerGroupPartitionMetadata { group, .. }
            | Record::ConsumerGroupMemberMetadata { group, .. }
            | Record::TargetAssignmentMetadata { group, .. }
            | Record::TargetAssignmentMember { group, .. }
            | Record::CurrentMemberAssignment { group, .. }
            | Record::RegularExpression { group, .. } => Some(group),
            Record::Unknown { .. } => None,
        }
    }

    /// Whether it deletes what its key names.
    pub fn is_tombstone(&self) -> bool {
        match self {
            Record::OffsetCommit { value, .. } => value.is_none(),
            Record::GroupMetadata { value, .. } => value.is_none(),
            Record::ConsumerGroupMetadata { value, .. } => value.is_none(),
            Record::ConsumerGroupPartitionMetadata { value, .. } => value.is_none(),
            Record::ConsumerGroupMemberMetadata { value, .. } => value.is_none(),
            Record::TargetAssignmentMetadata { value, .. } => value.is_none(),
            Record::TargetAssignmentMember { value, .. } => value.is_none(),
            Record::CurrentMemberAssignment { value, .. } => value.is_none(),
            Record::RegularExpression { value, .. } => value.is_none(),
            Record::Unknown { value, .. } => value.is_none(),
        }
    }

    /// Appends the key's bytes.
    pub fn encode_key(&self, out: &mut Vec<u8>) {
        if let Record::Unknown { key, .. } = self {
            return out.extend_from_slice(key);
        }
        let mut w = Writer::new(out, false);
        w.i16(self.kind());
        w.string(self.group().expect("every known type is about a group"));
        match self {
            Record::OffsetCommit { partition, .. } => {
                w.string(partition.topic());
                w.i32(partition.partition());
            }
            Record::ConsumerGroupMemberMetadata { member, .. }
            | Record::TargetAssignmentMember { member, .. }
            | Record::CurrentMemberAssignment { member, .. } => w.string(member),
            Record::RegularExpression { regex, .. } => w.string(regex),
            _ => {}
        }
    }

    /// Appends the value's bytes; false, and nothing appended, if the record is a tombstone.
    pub fn encode_value(&self, out: &mut Vec<u8>) -> bool {
        fn flexible<T>(
            out: &mut Vec<u8>,
            value: Option<&T>,
            write: impl FnOnce(&T, &mut Writer<'_>),
        ) -> bool {
            let Some(value) = value else { return false };
            let mut w = Writer::new(out, true);
            w.i16(0);
            write(value, &mut w);
            true
        }
        match self {
            Record::OffsetCommit { value, .. } => {
                let Some(value) = value else { return false };
                out.extend_from_slice(&value.version.to_be_bytes());
                value.write(out);
                true
            }
            Record::GroupMetadata { value, .. } => {
                let Some(value) = value else { return false };
                out.extend_from_slice(&value.version.to_be_bytes());
                value.write(out);
                true
            }
            Record::ConsumerGroupMetadata { value, .. } => {
                flexible(out, value.as_ref(), ConsumerGroupMetadata::write)
            }
            Record::ConsumerGroupPartitionMetadata { value, .. } => {
                flexible(out, value.as_ref(), ConsumerGroupPartitionMetadata::write)
            }
            Record::ConsumerGroupMemberMetadata { value, .. } => {
                flexible(out, value.as_ref(), ConsumerGroupMemberMetadata::write)
            }
            Record::TargetAssignmentMetadata { value, .. } => {
                flexible(out, value.as_ref(), TargetAssignmentMetadata::write)
            }
            Record::TargetAssignmentMember { value, .. } => {
                flexible(out, value.as_ref(), TargetAssignmentMember::write)
            }
            Record::CurrentMemberAssignment { value, .. } => {
                flexible(out, value.as_ref(), CurrentMemberAssignment::write)
            }
            Record::RegularExpression { value, .. } => {
                flexible(out, value.as_ref(), RegularExpression::write)
            }
            Record::Unknown { value, .. } => {
                let Some(value) = value else { return false };
                out.extend_from_slice(value);
                true
            }
        }
    }
}

/// What ends a transaction, in a control batch.
///
/// ```
/// use girok_coordinator::records::EndTransaction;
/// assert_eq!(EndTransaction::decode(&[0, 0, 0, 1]), Some(EndTransaction::Commit));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndTransaction {
    /// Its commits never were.
    Abort,
    /// Its commits count.
    Commit,
}

impl EndTransaction {
    /// Reads a control record's key (i16 version, i16 type). `None` for other kinds of control record.
    pub fn decode(key: &[u8]) -> Option<EndTransaction> {
        match *key {
            [_, _, 0, 0, ..] => Some(EndTransaction::Abort),
            [_, _, 0, 1, ..] => Some(EndTransaction::Commit),
            _ => None,
        }
    }
}
