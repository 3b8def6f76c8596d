//! A record in words: the very JSON that `kafka-dump-log --offsets-decoder` prints.

use girok_engine::Offset;

use super::json::Json;
use super::wire::Flaw;
use super::{EndTransaction, Record};

/// A decoded record of `__consumer_offsets`, ready to print.
///
/// ```
/// use girok_coordinator::records::{Described, describe};
/// use girok_engine::Offset;
/// let Described { key, payload, .. } = describe(Offset::new(4), &[0, 2, 0, 1, b'g'], None);
/// assert_eq!(key, r#"{"type":"2","data":{"group":"g"}}"#);
/// assert_eq!(payload.as_deref(), Some("<DELETE>"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The type's number, if the key has one.
    pub kind: Option<i16>,
    /// The key as JSON; for what cannot be decoded a sentence that says why.
    pub key: String,
    /// The value as JSON, `<DELETE>` for a tombstone, `None` for what cannot be decoded.
    pub payload: Option<String>,
    /// What is wrong with it, if it is of a known type and does not decode.
    pub flaw: Option<Flaw>,
}

/// Prints a record as Kafka's tool does: key `{"type":"1","data":{…}}`, payload `{"version":"4","data":{…}}`. Where
/// Kafka's tool says that it skips a record, so do we.
pub fn describe(offset: Offset, key: &[u8], value: Option<&[u8]>) -> Described {
    let kind = key.first_chunk().map(|bytes| i16::from_be_bytes(*bytes));
    match Record::decode(key, value) {
        Ok(Record::Unknown { kind, .. }) => Described {
            kind: Some(kind),
            key: format!("Unknown record type {kind} at offset {offset}, skipping."),
            payload: None,
            flaw: None,
        },
        Ok(record) => Described {
            kind,
            key: key_json(&record),
            payload: Some(if record.is_tombstone() { "<DELETE>".into() } else { value_json(&record) }),
            flaw: None,
        },
        Err(flaw) => Described {
            kind,
            key: format!("Error at offset {offset}, skipping. {flaw}"),
            payload: None,
            flaw: Some(flaw),
        },
    }
}

impl EndTransaction {
    /// As Kafka's tool prints it: `COMMIT` or `ABORT`.
    pub fn name(self) -> &'static str {
        match self {
            EndTransaction::Abort => "ABORT",
            EndTransaction::Commit => "COMMIT",
        }
    }
}

fn key_json(record: &Record) -> String {
    let mut j = Json::new();
    j.object(|j| {
        j.key("type").string(&record.kind().to_string());
        j.key("data").object(|j| {
            let group = record.group().map_or("", |group| group);
            // The two oldest types call it `group`, the others `groupId`.
            j.key(if record.kind() <= 2 { "group" } else { "groupId" }).string(group);
            match record {
                Record::OffsetCommit { partition, .. } => {
                    j.key("topic").string(partition.topic());
                    j.key("partition").number(partition.partition());
                }
                Record::ConsumerGroupMemberMetadata { member, .. }
                | Record::TargetAssignmentMember { member, .. }
                | Record::CurrentMemberAssignment { member, .. } => j.key("memberId").string(member),
                Record::RegularExpression { regex, .. } => j.key("regularExpression").string(regex),
                _ => {}
            }
        });
    });
    j.into_string()
}

fn value_json(record: &Record) -> String {
    let version = match record {
        Record::OffsetCommit { value: Some(v), .. } => v.version,
        Record::GroupMetadata { value: Some(v), .. } => v.version,
        _ => 0,
    };
    let mut j = Json::new();
    j.object(|j| {
        j.key("version").string(&version.to_string());
        j.key("data");
        match record {
            Record::OffsetCommit { value: Some(v), .. } => v.json(j),
            Record::GroupMetadata { value: Some(v), .. } => v.json(j),
            Record::ConsumerGroupMetadata { value: Some(v), .. } => v.json(j),
            Record::ConsumerGroupPartitionMetadata { value: Some(v), .. } => v.json(j),
            Record::ConsumerGroupMemberMetadata { value: Some(v), .. } => v.json(j),
            Record::TargetAssignmentMetadata { value: Some(v), .. } => v.json(j),
            Record::TargetAssignmentMember { value: Some(v), .. } => v.json(j),
            Record::CurrentMemberAssignment { value: Some(v), .. } => v.json(j),
            Record::RegularExpression { value: Some(v), .. } => v.json(j),
            _ => j.null(),
        }
    });
    j.into_string()
}
