//! Kafka's bytes: what a broker wrote we read as its own tool does, and write again as it did.

use girok_coordinator::records::{
    AssignedPartitions, ClassicMember, ClassicMemberMetadata, ConsumerGroupMemberMetadata,
    ConsumerGroupPartitionMetadata, GroupMetadata, OffsetAndMetadata, OffsetCommitValue, Record,
    RegularExpression, TargetAssignmentMember, TopicMetadata, describe,
};
use girok_engine::{Offset, Timestamp, TopicId, TopicPartition};

use crate::support::{golden, golden_dump};

/// Every record of the golden segment prints exactly as `kafka-dump-log --offsets-decoder` printed it.
#[test]
fn a_segment_prints_as_kafkas_own_tool_prints_it() {
    let dump = golden_dump();
    let mut printed = dump.lines().filter_map(|line| line.strip_prefix("| offset: "));
    for record in golden() {
        let line = printed.next().expect("a line per record");
        let key = record.key.as_deref().unwrap();
        let size = record.value.as_ref().map_or(-1, |value| value.len() as i64);
        let start = format!(
            "{} CreateTime: {} keySize: {} valueSize: {size} ",
            record.offset,
            record.timestamp,
            key.len()
        );
        assert!(line.starts_with(&start), "{line}\n{start}");
        let end = match record.marker() {
            Some(marker) => format!(" endTxnMarker: {} coordinatorEpoch: 0", marker.name()),
            None => {
                let described = describe(Offset::new(record.offset), key, record.value.as_deref());
                format!(" key: {} payload: {}", described.key, described.payload.unwrap())
            }
        };
        assert!(line.ends_with(&end), "{line}\n{end}");
    }
    assert_eq!(printed.next(), None);
}

/// Decoded and encoded again, each of Kafka's records is the same bytes.
#[test]
fn a_segment_is_written_again_byte_for_byte() {
    let mut kinds = std::collections::BTreeSet::new();
    for raw in golden().into_iter().filter(|raw| !raw.control) {
        let key = raw.key.unwrap();
        let record = Record::decode(&key, raw.value.as_deref()).unwrap();
        kinds.insert(record.kind());
        assert_eq!(encoded(&record), (key, raw.value), "offset {}", raw.offset);
    }
    assert_eq!(Vec::from_iter(kinds), [1, 2, 3, 5, 6, 7, 8]);
}

/// Every version of every schema comes back as it went, whatever its optional fields hold.
#[test]
fn every_version_comes_back() {
    let id = TopicId([7; 16]);
    for version in 0..=4 {
        let record = Record::OffsetCommit {
            legacy: version == 0,
            group: "".into(),
            partition: TopicPartition::new("orders", 3),
            value: Some(OffsetCommitValue {
                version,
                committed: OffsetAndMetadata {
                    offset: Offset::new(42),
                    leader_epoch: if version >= 3 { 5 } else { -1 },
                    metadata: "기록".into(),
                    commit_timestamp: Timestamp::from_millis(1_795_353_653_658),
                    expire_timestamp: (version == 1).then_some(Timestamp::from_millis(9)),
                    topic_id: if version >= 4 { id } else { TopicId::ZERO },
                },
            }),
        };
        comes_back(&record);
        let record = Record::GroupMetadata {
            group: "connect".into(),
            value: Some(GroupMetadata {
                version,
                protocol_type: "connect".into(),
                generation: 3,
                protocol: Some("eager".into()),
                leader: None,
                current_state_timestamp: if version >= 2 { 77 } else { -1 },
                members: vec![ClassicMember {
                    member_id: "m".into(),
                    group_instance_id: (version >= 3).then_some("static".into()),
                    client_id: "c".into(),
                    client_host: "/127.0.0.1".into(),
                    rebalance_timeout_ms: if version >= 1 { 300_000 } else { -1 },
                    session_timeout_ms: 45_000,
                    subscription: [1, 2, 3].into(),
                    assignment: [].into(),
                }],
            }),
        };
        comes_back(&record);
    }
    comes_back(&Record::ConsumerGroupPartitionMetadata {
        group: "g".into(),
        value: Some(ConsumerGroupPartitionMetadata {
            topics: vec![TopicMetadata {
                topic_id: id,
                topic_name: "orders".into(),
                num_partitions: 2,
                partition_racks: vec![(0, vec!["a".into(), "b".into()]), (1, vec![])],
            }],
        }),
    });
    comes_back(&Record::ConsumerGroupMemberMetadata {
        group: "g".into(),
        member: "m".into(),
        value: Some(ConsumerGroupMemberMetadata {
            instance_id: Some("i".into()),
            rack_id: Some("r".into()),
            client_id: "c".into(),
            client_host: "h".into(),
            subscribed_topic_names: vec!["a".into(), "b".into()],
            subscribed_topic_regex: None,
            rebalance_timeout_ms: -1,
            server_assignor: Some("uniform".into()),
            classic: Some(ClassicMemberMetadata {
                session_timeout_ms: 45_000,
                supported_protocols: vec![("range".into(), [0, 1].into())],
            }),
        }),
    });
    comes_back(&Record::TargetAssignmentMember {
        group: "g".into(),
        member: "m".into(),
        value: Some(TargetAssignmentMember {
            topic_partitions: vec![AssignedPartitions {
                topic_id: id,
                partitions: vec![0, 5],
                assignment_epochs: None,
            }],
        }),
    });
    comes_back(&Record::RegularExpression {
        group: "g".into(),
        regex: "order.*".into(),
        value: Some(RegularExpression { topics: vec!["orders".into()], version: 12, timestamp: 99 }),
    });
}

/// Share and streams groups are not ours to understand, and tomorrow's types are nobody's yet: kept, not refused.
#[test]
fn types_we_do_not_know_are_kept() {
    for kind in [9i16, 10, 15, 17, 23, 99, -1] {
        let key = [&kind.to_be_bytes()[..], b"whatever"].concat();
        for value in [Some(vec![0xff; 9]), Some(vec![]), None] {
            let record = Record::decode(&key, value.as_deref()).unwrap();
            assert_eq!(record.kind(), kind);
            assert_eq!(encoded(&record), (key.clone(), value.clone()));
            let described = describe(Offset::new(8), &key, value.as_deref());
            assert_eq!(described.key, format!("Unknown record type {kind} at offset 8, skipping."));
            assert_eq!(described.payload, None);
        }
    }
}

/// A tagged field that a later Kafka adds must not make an old offset unreadable.
#[test]
fn a_field_from_the_future_is_skipped() {
    let key = [0, 1, 0, 1, b'g', 0, 1, b't', 0, 0, 0, 0];
    let mut value = vec![0, 4];
    value.extend_from_slice(&42i64.to_be_bytes());
    value.extend_from_slice(&(-1i32).to_be_bytes());
    value.push(1);
    value.extend_from_slice(&7i64.to_be_bytes());
    value.extend_from_slice(&[2, 0, 16]);
    value.extend_from_slice(&[7; 16]);
    value.extend_from_slice(&[9, 3, 1, 2, 3]);
    let Ok(Record::OffsetCommit { value: Some(read), .. }) = Record::decode(&key, Some(&value)) else {
        panic!("an offset commit")
    };
    assert_eq!((read.committed.offset, read.committed.topic_id), (Offset::new(42), TopicId([7; 16])));
}

/// However a record is cut short, there is an error and no panic; nothing that was cut passes for the whole.
#[test]
fn a_record_cut_anywhere_is_a_flaw() {
    for raw in golden().into_iter().filter(|raw| !raw.control) {
        let key = raw.key.unwrap();
        for cut in 0..key.len() {
            assert!(Record::decode(&key[..cut], None).is_err(), "offset {} key cut at {cut}", raw.offset);
        }
        let Some(value) = raw.value else { continue };
        for cut in 0..value.len() {
            let flaw = Record::decode(&key, Some(&value[..cut])).unwrap_err();
            assert!(flaw.at <= cut, "{flaw}");
        }
        let longer = [&value[..], &[0]].concat();
        assert!(Record::decode(&key, Some(&longer)).unwrap_err().found.contains("1 bytes more"));
    }
}

/// A value from the future is refused by its version, so that it is never half understood.
#[test]
fn a_version_from_the_future_is_named() {
    let flaw = Record::decode(&[0, 2, 0, 1, b'g'], Some(&[0, 5, 0, 0])).unwrap_err();
    assert_eq!(flaw.to_string(), "value, byte 0: expected a version from 0 to 4, found 5");
}

/// Subscriptions that are not the consumer protocol's are printed as the bytes they are.
#[test]
fn foreign_subscriptions_are_printed_as_they_are() {
    let mut value = GroupMetadata::empty("consumer".into(), 1, -1);
    value.members.push(ClassicMember {
        member_id: "m".into(),
        group_instance_id: None,
        client_id: "c".into(),
        client_host: "h".into(),
        rebalance_timeout_ms: 1,
        session_timeout_ms: 1,
        subscription: [0].into(),
        assignment: [0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 2].into(),
    });
    let (key, bytes) = encoded(&Record::GroupMetadata { group: "g".into(), value: Some(value) });
    let payload = describe(Offset::ZERO, &key, bytes.as_deref()).payload.unwrap();
    assert!(
        payload.ends_with(
            r#""subscription":"AA==","assignment":{"assignedPartitions":[],"userData":"AQI="}}]}}"#
        ),
        "{payload}"
    );
}

fn encoded(record: &Record) -> (Vec<u8>, Option<Vec<u8>>) {
    let (mut key, mut value) = (Vec::new(), Vec::new());
    record.encode_key(&mut key);
    let live = record.encode_value(&mut value);
    (key, live.then_some(value))
}

fn comes_back(record: &Record) {
    let (key, value) = encoded(record);
    assert_eq!(Record::decode(&key, value.as_deref()).as_ref(), Ok(record));
}
