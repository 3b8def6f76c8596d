//! Record types 0 and 1: what a group committed for one partition.
//!
//! ```text
//! v0, v2   offset i64 | metadata str | commit timestamp i64
//! v1       offset i64 | metadata str | commit timestamp i64 | expire timestamp i64
//! v3       offset i64 | leader epoch i32 | metadata str | commit timestamp i64
//! v4       the same with a compact str, then tagged fields { 0: topic id, 16 bytes }
//! ```
//!
//! All are read. We write v4, as Kafka 4.x does; v1 where the commit carries its own expiry, because only v1 has
//! room for one; v3 for brokers before 3.5 if the settings ask for it.

use girok_engine::{Offset, Timestamp, TopicId};

use super::json::Json;
use super::wire::{Read, Reader, Writer};

/// A committed offset and what was committed with it.
///
/// ```
/// use girok_coordinator::records::OffsetAndMetadata;
/// use girok_engine::{Offset, Timestamp};
/// let committed = OffsetAndMetadata::new(Offset::new(42), Timestamp::from_millis(1_795_353_653_658));
/// assert_eq!((committed.leader_epoch, &*committed.metadata), (-1, ""));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetAndMetadata {
    /// The next record to process.
    pub offset: Offset,
    /// The leader epoch of the last record processed; −1 is unknown.
    pub leader_epoch: i32,
    /// The application's own note; empty if there is none.
    pub metadata: Box<str>,
    /// When it was committed, by the wall clock.
    pub commit_timestamp: Timestamp,
    /// When it expires, if the commit said so itself instead of leaving it to the retention.
    pub expire_timestamp: Option<Timestamp>,
    /// Which topic of that name was meant; [`TopicId::ZERO`] if the record does not say.
    pub topic_id: TopicId,
}

impl OffsetAndMetadata {
    /// An offset with nothing beside it.
    pub fn new(offset: Offset, commit_timestamp: Timestamp) -> Self {
        OffsetAndMetadata {
            offset,
            leader_epoch: -1,
            metadata: Box::default(),
            commit_timestamp,
            expire_timestamp: None,
            topic_id: TopicId::ZERO,
        }
    }
}

/// The value of an offset commit record, in one of its five versions.
///
/// ```
/// use girok_coordinator::records::{OffsetAndMetadata, OffsetCommitValue, Record};
/// use girok_engine::{Offset, Timestamp, TopicPartition};
/// let committed = OffsetAndMetadata::new(Offset::new(42), Timestamp::from_millis(7));
/// let value = Some(OffsetCommitValue { version: 4, committed });
/// let partition = TopicPartition::new("orders", 3);
/// let record = Record::OffsetCommit { legacy: false, group: "search".into(), partition, value };
/// # let (mut key, mut bytes) = (Vec::new(), Vec::new());
/// # record.encode_key(&mut key);
/// # record.encode_value(&mut bytes);
/// assert_eq!(Record::decode(&key, Some(&bytes)), Ok(record));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetCommitValue {
    /// 0 to 4.
    pub version: i16,
    /// What the record says. Fields its version has no room for have their defaults.
    pub committed: OffsetAndMetadata,
}

/// The newest version there is.
pub(crate) const OFFSET_COMMIT_VERSION_MAX: i16 = 4;

impl OffsetCommitValue {
    pub(crate) fn read(r: &mut Reader<'_>, version: i16) -> Read<Self> {
        r.set_flexible(version >= 4);
        let offset = Offset::new(r.i64("offset")?);
        let leader_epoch = if version >= 3 { r.i32("leader epoch")? } else { -1 };
        let metadata = r.string("metadata")?.into();
        let commit_timestamp = Timestamp::from_millis(r.i64("commit timestamp")?);
        let expire_timestamp = match version {
            1 => Some(r.i64("expire timestamp")?).filter(|&ms| ms != -1).map(Timestamp::from_millis),
            _ => None,
        };
        let mut topic_id = TopicId::ZERO;
        r.tags(|tag, field| {
            if tag == 0 {
                topic_id = field.uuid("topic id")?;
            }
            Ok(tag == 0)
        })?;
        let committed = OffsetAndMetadata {
            offset,
            leader_epoch,
            metadata,
            commit_timestamp,
            expire_timestamp,
            topic_id,
        };
        Ok(OffsetCommitValue { version, committed })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let OffsetCommitValue { version, committed: c } = self;
        let mut w = Writer::new(out, *version >= 4);
        w.i64(c.offset.get());
        if *version >= 3 {
            w.i32(c.leader_epoch);
        }
        w.string(&c.metadata);
        w.i64(c.commit_timestamp.as_millis());
        if *version == 1 {
            w.i64(c.expire_timestamp.map_or(-1, Timestamp::as_millis));
        }
        if *version >= 4 {
            if c.topic_id == TopicId::ZERO {
                w.no_tags();
            } else {
                // One tagged field, tag 0, sixteen bytes: spelled out, because this is the hot one.
                w.uvarint(1);
                w.uvarint(0);
                w.uvarint(16);
                w.uuid(c.topic_id);
            }
        }
    }

    pub(crate) fn json(&self, j: &mut Json) {
        let OffsetCommitValue { version, committed: c } = self;
        j.object(|j| {
            j.key("offset").number(c.offset.get());
            if *version >= 3 {
                j.key("leaderEpoch").number(c.leader_epoch);
            }
            j.key("metadata").string(&c.metadata);
            j.key("commitTimestamp").number(c.commit_timestamp.as_millis());
            if *version == 1 {
                j.key("expireTimestamp").number(c.expire_timestamp.map_or(-1, Timestamp::as_millis));
            }
            if c.topic_id != TopicId::ZERO {
                j.key("topicId").string(&c.topic_id.to_string());
            }
        });
    }
}
