//! Record types 3 to 8 and 16: a group of the consumer protocol (KIP-848), spread over one record per thing that
//! changes by itself.
//!
//! ```text
//! 3   group           epoch; how the subscribed topics looked when it was last raised (a hash)
//! 4   group           the partitions of the subscribed topics; obsolete since 4.1, only deleted now
//! 5   group, member   who the member is and what it subscribed to
//! 6   group           the epoch of the target assignment
//! 7   group, member   what the member shall own
//! 8   group, member   what the member owns, and what it has still to give up
//! 16  group, regex    which topics a regular expression stood for
//! ```
//!
//! All have version 0 and are flexible: what was added later came as tagged fields.

use girok_engine::TopicId;

use super::json::Json;
use super::wire::{Read, Reader, Writer};

/// Type 3: the group and its epoch.
///
/// ```
/// use girok_coordinator::records::{ConsumerGroupMetadata, Record};
/// let value = Some(ConsumerGroupMetadata { epoch: 7, metadata_hash: 0 });
/// // Type and group; version, epoch, no tagged fields.
/// let record = Record::decode(&[0, 3, 0, 1, b'g'], Some(&[0, 0, 0, 0, 0, 7, 0]));
/// assert_eq!(record, Ok(Record::ConsumerGroupMetadata { group: "g".into(), value }));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerGroupMetadata {
    /// Raised whenever a new target assignment is needed.
    pub epoch: i32,
    /// A hash over the subscribed topics as they were; 0 is unknown (Kafka 4.1 and later).
    pub metadata_hash: i64,
}

impl ConsumerGroupMetadata {
    pub(crate) fn read(r: &mut Reader<'_>) -> Read<Self> {
        let epoch = r.i32("epoch")?;
        let mut metadata_hash = 0;
        r.tags(|tag, field| {
            if tag == 0 {
                metadata_hash = field.i64("metadata hash")?;
            }
            Ok(tag == 0)
        })?;
        Ok(ConsumerGroupMetadata { epoch, metadata_hash })
    }

    pub(crate) fn write(&self, w: &mut Writer<'_>) {
        w.i32(self.epoch);
        w.tag_0((self.metadata_hash != 0).then_some(|w: &mut Writer<'_>| w.i64(self.metadata_hash)));
    }

    pub(crate) fn json(&self, j: &mut Json) {
        j.object(|j| {
            j.key("epoch").number(self.epoch);
            if self.metadata_hash != 0 {
                j.key("metadataHash").number(self.metadata_hash);
            }
        });
    }
}

/// Type 4: the partitions of the subscribed topics. Obsolete since Kafka 4.1.
///
/// ```
/// use girok_coordinator::records::{ConsumerGroupPartitionMetadata, Record};
/// let value = Some(ConsumerGroupPartitionMetadata { topics: vec![] });
/// // Type and group; version, a list of none, no tagged fields.
/// let record = Record::decode(&[0, 4, 0, 1, b'g'], Some(&[0, 0, 1, 0]));
/// assert_eq!(record, Ok(Record::ConsumerGroupPartitionMetadata { group: "g".into(), value }));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerGroupPartitionMetadata {
    /// One entry per subscribed topic.
    pub topics: Vec<TopicMetadata>,
}

/// A topic in [`ConsumerGroupPartitionMetadata`].
///
/// ```
/// use girok_coordinator::records::{ConsumerGroupPartitionMetadata, Record, TopicMetadata};
/// # use girok_engine::TopicId;
/// let topic = TopicMetadata {
///     topic_id: TopicId([1; 16]),
///     topic_name: "orders".into(),
///     num_partitions: 1,
///     partition_racks: vec![(0, vec!["rack-a".into()])],
/// };
/// let value = Some(ConsumerGroupPartitionMetadata { topics: vec![topic] });
/// let record = Record::ConsumerGroupPartitionMetadata { group: "g".into(), value };
/// # let (mut key, mut bytes) = (Vec::new(), Vec::new());
/// # record.encode_key(&mut key);
/// # record.encode_value(&mut bytes);
/// assert_eq!(Record::decode(&key, Some(&bytes)), Ok(record));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicMetadata {
    /// Which topic.
    pub topic_id: TopicId,
    /// Its name.
    pub topic_name: Box<str>,
    /// How many partitions it had.
    pub num_partitions: i32,
    /// Per partition, the racks its replicas stood in; empty if unknown.
    pub partition_racks: Vec<(i32, Vec<Box<str>>)>,
}

impl ConsumerGroupPartitionMetadata {
    pub(crate) fn read(r: &mut Reader<'_>) -> Read<Self> {
        let topics = r.array(23, "topics", |r| {
            let topic = TopicMetadata {
                topic_id: r.uuid("topic id")?,
                topic_name: r.string("topic name")?.into(),
                num_partitions: r.i32("number of partitions")?,
                partition_racks: r.array(6, "partitions", |r| {
                    let partition = r.i32("partition")?;
                    let racks = read_strings(r, "racks")?;
                    r.tags(|_, _| Ok(false))?;
                    Ok((partition, racks))
                })?,
            };
            r.tags(|_, _| Ok(false))?;
            Ok(topic)
        })?;
        r.tags(|_, _| Ok(false))?;
        Ok(ConsumerGroupPartitionMetadata { topics })
    }

    pub(crate) fn write(&self, w: &mut Writer<'_>) {
        w.array(&self.topics, |w, t| {
            w.uuid(t.topic_id);
            w.string(&t.topic_name);
            w.i32(t.num_partitions);
            w.array(&t.partition_racks, |w, (partition, racks)| {
                w.i32(*partition);
                w.array(racks, |w, rack| w.string(rack));
                w.no_tags();
            });
            w.no_tags();
        });
        w.no_tags();
    }

    pub(crate) fn json(&self, j: &mut Json) {
        j.object(|j| {
            j.key("topics").array(&self.topics, |j, t| {
                j.object(|j| {
                    j.key("topicId").string(&t.topic_id.to_string());
                    j.key("topicName").string(&t.topic_name);
                    j.key("numPartitions").number(t.num_partitions);
                    j.key("partitionMetadata").array(&t.partition_racks, |j, (partition, racks)| {
                        j.object(|j| {
                            j.key("partition").number(*partition);
                            j.key("racks").array(racks, |j, rack| j.string(rack));
                        });
                    });
                });
            });
        });
    }
}

/// Type 5: who a member is.
///
/// ```
/// use girok_coordinator::records::{ConsumerGroupMemberMetadata, Record};
/// let member = ConsumerGroupMemberMetadata {
///     instance_id: None,
///     rack_id: None,
///     client_id: "kitchen".into(),
///     client_host: "/127.0.0.1".into(),
///     subscribed_topic_names: vec!["orders".into()],
///     subscribed_topic_regex: None,
///     rebalance_timeout_ms: 300_000,
///     server_assignor: Some("uniform".into()),
///     classic: None,
/// };
/// let (group, value) = ("g".into(), Some(member));
/// let record = Record::ConsumerGroupMemberMetadata { group, member: "m".into(), value };
/// # let (mut key, mut bytes) = (Vec::new(), Vec::new());
/// # record.encode_key(&mut key);
/// # record.encode_value(&mut bytes);
/// assert_eq!(Record::decode(&key, Some(&bytes)), Ok(record));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerGroupMemberMetadata {
    /// Its static name, if it has one.
    pub instance_id: Option<Box<str>>,
    /// Where it stands.
    pub rack_id: Option<Box<str>>,
    /// The client's name for itself.
    pub client_id: Box<str>,
    /// Where it connected from.
    pub client_host: Box<str>,
    /// The topics it subscribed to by name, sorted.
    pub subscribed_topic_names: Vec<Box<str>>,
    /// The regular expression it subscribed by; null or empty is none.
    pub subscribed_topic_regex: Option<Box<str>>,
    /// How long it may take to give partitions up, in milliseconds.
    pub rebalance_timeout_ms: i32,
    /// The assignor it prefers.
    pub server_assignor: Option<Box<str>>,
    /// Set if the member speaks the classic protocol.
    pub classic: Option<ClassicMemberMetadata>,
}

/// What a member of the classic protocol said of itself when it joined a consumer group.
///
/// ```
/// use girok_coordinator::records::{ClassicMemberMetadata, ConsumerGroupMemberMetadata, Record};
/// let protocols = vec![("range".into(), Box::from(*b"subscription"))];
/// let classic = ClassicMemberMetadata { session_timeout_ms: 45_000, supported_protocols: protocols };
/// # let member = ConsumerGroupMemberMetadata {
/// #     instance_id: None,
/// #     rack_id: None,
/// #     client_id: "kitchen".into(),
/// #     client_host: "/127.0.0.1".into(),
/// #     subscribed_topic_names: vec!["orders".into()],
/// #     subscribed_topic_regex: None,
/// #     rebalance_timeout_ms: 300_000,
/// #     server_assignor: Some("uniform".into()),
/// #     classic: Some(classic),
/// # };
/// let (group, value) = ("g".into(), Some(member));
/// let record = Record::ConsumerGroupMemberMetadata { group, member: "m".into(), value };
/// # let (mut key, mut bytes) = (Vec::new(), Vec::new());
/// # record.encode_key(&mut key);
/// # record.encode_value(&mut bytes);
/// assert_eq!(Record::decode(&key, Some(&bytes)), Ok(record));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassicMemberMetadata {
    /// How long it may be silent, in milliseconds.
    pub session_timeout_ms: i32,
    /// The assignors it can do: name and subscription.
    pub supported_protocols: Vec<(Box<str>, Box<[u8]>)>,
}

impl ConsumerGroupMemberMetadata {
    pub(crate) fn read(r: &mut Reader<'_>) -> Read<Self> {
        let mut member = ConsumerGroupMemberMetadata {
            instance_id: r.nullable_string("instance id")?.map(Into::into),
            rack_id: r.nullable_string("rack id")?.map(Into::into),
            client_id: r.string("client id")?.into(),
            client_host: r.string("client host")?.into(),
            subscribed_topic_names: read_strings(r, "subscribed topics")?,
            subscribed_topic_regex: r.nullable_string("subscribed regex")?.map(Into::into),
            rebalance_timeout_ms: r.i32("rebalance timeout")?,
            server_assignor: r.nullable_string("server assignor")?.map(Into::into),
            classic: None,
        };
        r.tags(|tag, field| {
            if tag == 0 && field.tagged_struct_is_present("classic member metadata")? {
                let session_timeout_ms = field.i32("session timeout")?;
                let supported_protocols = field.array(3, "supported protocols", |r| {
                    let name = r.string("protocol name")?.into();
                    let metadata = r.bytes("protocol metadata")?.into();
                    r.tags(|_, _| Ok(false))?;
                    Ok((name, metadata))
                })?;
                field.tags(|_, _| Ok(false))?;
                member.classic = Some(ClassicMemberMetadata { session_timeout_ms, supported_protocols });
            }
            Ok(tag == 0)
        })?;
        Ok(member)
    }

    pub(crate) fn write(&self, w: &mut Writer<'_>) {
        w.nullable_string(self.instance_id.as_deref());
        w.nullable_string(self.rack_id.as_deref());
        w.string(&self.client_id);
        w.string(&self.client_host);
        w.array(&self.subscribed_topic_names, |w, topic| w.string(topic));
        w.nullable_string(self.subscribed_topic_regex.as_deref());
        w.i32(self.rebalance_timeout_ms);
        w.nullable_string(self.server_assignor.as_deref());
        // Kafka writes this tagged field always: one byte of 0 where there is no such metadata.
        w.tag_0(Some(|w: &mut Writer<'_>| {
            let Some(classic) = &self.classic else { return w.uvarint(0) };
            w.uvarint(1);
            w.i32(classic.session_timeout_ms);
            w.array(&classic.supported_protocols, |w, (name, metadata)| {
                w.string(name);
                w.bytes(metadata);
                w.no_tags();
            });
            w.no_tags();
        }));
    }

    pub(crate) fn json(&self, j: &mut Json) {
        j.object(|j| {
            j.key("instanceId").nullable_string(self.instance_id.as_deref());
            j.key("rackId").nullable_string(self.rack_id.as_deref());
            j.key("clientId").string(&self.client_id);
            j.key("clientHost").string(&self.client_host);
            j.key("subscribedTopicNames").array(&self.subscribed_topic_names, |j, topic| j.string(topic));
            j.key("subscribedTopicRegex").nullable_string(self.subscribed_topic_regex.as_deref());
            j.key("rebalanceTimeoutMs").number(self.rebalance_timeout_ms);
            j.key("serverAssignor").nullable_string(self.server_assignor.as_deref());
            j.key("classicMemberMetadata");
            match &self.classic {
                None => j.null(),
                Some(classic) => j.object(|j| {
                    j.key("sessionTimeoutMs").number(classic.session_timeout_ms);
                    j.key("supportedProtocols").array(&classic.supported_protocols, |j, (name, metadata)| {
                        j.object(|j| {
                            j.key("name").string(name);
                            j.key("metadata").base64(metadata);
                        });
                    });
                }),
            }
        });
    }
}

/// Type 6: the epoch that the target assignment was computed for.
///
/// ```
/// use girok_coordinator::records::{Record, TargetAssignmentMetadata};
/// let value = Some(TargetAssignmentMetadata { assignment_epoch: 7, assignment_timestamp: 0 });
/// // Type and group; version, epoch, no tagged fields.
/// let record = Record::decode(&[0, 6, 0, 1, b'g'], Some(&[0, 0, 0, 0, 0, 7, 0]));
/// assert_eq!(record, Ok(Record::TargetAssignmentMetadata { group: "g".into(), value }));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetAssignmentMetadata {
    /// The group epoch it answers.
    pub assignment_epoch: i32,
    /// When it was computed, in milliseconds; 0 is unknown (Kafka 4.3 and later).
    pub assignment_timestamp: i64,
}

impl TargetAssignmentMetadata {
    pub(crate) fn read(r: &mut Reader<'_>) -> Read<Self> {
        let assignment_epoch = r.i32("assignment epoch")?;
        let mut assignment_timestamp = 0;
        r.tags(|tag, field| {
            if tag == 0 {
                assignment_timestamp = field.i64("assignment timestamp")?;
            }
            Ok(tag == 0)
        })?;
        Ok(TargetAssignmentMetadata { assignment_epoch, assignment_timestamp })
    }

    pub(crate) fn write(&self, w: &mut Writer<'_>) {
        w.i32(self.assignment_epoch);
        w.tag_0(
            (self.assignment_timestamp != 0).then_some(|w: &mut Writer<'_>| w.i64(self.assignment_timestamp)),
        );
    }

    pub(crate) fn json(&self, j: &mut Json) {
        j.object(|j| {
            j.key("assignmentEpoch").number(self.assignment_epoch);
            if self.assignment_timestamp != 0 {
                j.key("assignmentTimestamp").number(self.assignment_timestamp);
            }
        });
    }
}

/// Partitions of one topic, by its id.
///
/// ```
/// use girok_coordinator::records::{AssignedPartitions, Record, TargetAssignmentMember};
/// # use girok_engine::TopicId;
/// let orders =
///     AssignedPartitions { topic_id: TopicId([1; 16]), partitions: vec![0, 2], assignment_epochs: None };
/// let value = Some(TargetAssignmentMember { topic_partitions: vec![orders] });
/// let record = Record::TargetAssignmentMember { group: "g".into(), member: "m".into(), value };
/// # let (mut key, mut bytes) = (Vec::new(), Vec::new());
/// # record.encode_key(&mut key);
/// # record.encode_value(&mut bytes);
/// assert_eq!(Record::decode(&key, Some(&bytes)), Ok(record));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignedPartitions {
    /// Which topic.
    pub topic_id: TopicId,
    /// Which of its partitions.
    pub partitions: Vec<i32>,
    /// For each of them the epoch it was assigned in (Kafka 4.3 and later; only in what a member owns).
    pub assignment_epochs: Option<Vec<i32>>,
}

/// Id, one length, the number of tags.
const ASSIGNED_PARTITIONS_BYTES_MIN: usize = 18;

impl AssignedPartitions {
    fn read_list(r: &mut Reader<'_>, what: &str, with_epochs: bool) -> Read<Vec<Self>> {
        r.array(ASSIGNED_PARTITIONS_BYTES_MIN, what, |r| {
            let topic_id = r.uuid("topic id")?;
            let partitions = r.array(4, "partitions", |r| r.i32("partition"))?;
            let mut assignment_epochs = None;
            r.tags(|tag, field| {
                if !with_epochs || tag != 0 {
                    return Ok(false);
                }
                if let Some(count) = field.nullable_count(4, "assignment epochs")? {
                    let epochs: Read<Vec<i32>> = (0..count).map(|_| field.i32("assignment epoch")).collect();
                    assignment_epochs = Some(epochs?);
                }
                Ok(true)
            })?;
            Ok(AssignedPartitions { topic_id, partitions, assignment_epochs })
        })
    }

    fn write_list(w: &mut Writer<'_>, list: &[Self]) {
        w.array(list, |w, t| {
            w.uuid(t.topic_id);
            w.array(&t.partitions, |w, p| w.i32(*p));
            w.tag_0(
                t.assignment_epochs
                    .as_ref()
                    .map(|epochs| |w: &mut Writer<'_>| w.array(epochs, |w, epoch| w.i32(*epoch))),
            );
        });
    }

    fn json_list(list: &[Self], j: &mut Json) {
        j.array(list, |j, t| {
            j.object(|j| {
                j.key("topicId").string(&t.topic_id.to_string());
                j.key("partitions").array(&t.partitions, |j, p| j.number(*p));
                if let Some(epochs) = &t.assignment_epochs {
                    j.key("assignmentEpochs").array(epochs, |j, epoch| j.number(*epoch));
                }
            });
        });
    }
}

/// Type 7: what a member shall own.
///
/// ```
/// use girok_coordinator::records::{Record, TargetAssignmentMember};
/// let nothing_to_own = Some(TargetAssignmentMember { topic_partitions: vec![] });
/// // Type, group and member; version, a list of none, no tagged fields.
/// let record = Record::decode(&[0, 7, 0, 1, b'g', 0, 1, b'm'], Some(&[0, 0, 1, 0]));
/// assert_eq!(
///     record,
///     Ok(Record::TargetAssignmentMember { group: "g".into(), member: "m".into(), value: nothing_to_own })
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetAssignmentMember {
    /// By topic.
    pub topic_partitions: Vec<AssignedPartitions>,
}

impl TargetAssignmentMember {
    pub(crate) fn read(r: &mut Reader<'_>) -> Read<Self> {
        let topic_partitions = AssignedPartitions::read_list(r, "topics", false)?;
        r.tags(|_, _| Ok(false))?;
        Ok(TargetAssignmentMember { topic_partitions })
    }

    pub(crate) fn write(&self, w: &mut Writer<'_>) {
        AssignedPartitions::write_list(w, &self.topic_partitions);
        w.no_tags();
    }

    pub(crate) fn json(&self, j: &mut Json) {
        j.object(|j| {
            j.key("topicPartitions");
            AssignedPartitions::json_list(&self.topic_partitions, j);
        });
    }
}

/// Type 8: what a member owns.
///
/// ```
/// use girok_coordinator::records::{AssignedPartitions, CurrentMemberAssignment, Record};
/// # use girok_engine::TopicId;
/// # let orders =
/// #     AssignedPartitions { topic_id: TopicId([1; 16]), partitions: vec![0, 2], assignment_epochs: None };
/// let stable = CurrentMemberAssignment {
///     member_epoch: 7,
///     previous_member_epoch: 6,
///     state: 0,
///     assigned_partitions: vec![orders],
///     partitions_pending_revocation: vec![],
/// };
/// let (group, value) = ("g".into(), Some(stable));
/// let record = Record::CurrentMemberAssignment { group, member: "m".into(), value };
/// # let (mut key, mut bytes) = (Vec::new(), Vec::new());
/// # record.encode_key(&mut key);
/// # record.encode_value(&mut bytes);
/// assert_eq!(Record::decode(&key, Some(&bytes)), Ok(record));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentMemberAssignment {
    /// The epoch the member was told.
    pub member_epoch: i32,
    /// The one before, in case that answer was lost.
    pub previous_member_epoch: i32,
    /// 0 stable, 1 has partitions to give up, 2 waits for partitions of others.
    pub state: i8,
    /// What it owns.
    pub assigned_partitions: Vec<AssignedPartitions>,
    /// What it owns and has been asked to give up.
    pub partitions_pending_revocation: Vec<AssignedPartitions>,
}

impl CurrentMemberAssignment {
    pub(crate) fn read(r: &mut Reader<'_>) -> Read<Self> {
        let value = CurrentMemberAssignment {
            member_epoch: r.i32("member epoch")?,
            previous_member_epoch: r.i32("previous member epoch")?,
            state: r.i8("state")?,
            assigned_partitions: AssignedPartitions::read_list(r, "assigned partitions", true)?,
            partitions_pending_revocation: AssignedPartitions::read_list(r, "revoked partitions", true)?,
        };
        r.tags(|_, _| Ok(false))?;
        Ok(value)
    }

    pub(crate) fn write(&self, w: &mut Writer<'_>) {
        w.i32(self.member_epoch);
        w.i32(self.previous_member_epoch);
        w.i8(self.state);
        AssignedPartitions::write_list(w, &self.assigned_partitions);
        AssignedPartitions::write_list(w, &self.partitions_pending_revocation);
        w.no_tags();
    }

    pub(crate) fn json(&self, j: &mut Json) {
        j.object(|j| {
            j.key("memberEpoch").number(self.member_epoch);
            j.key("previousMemberEpoch").number(self.previous_member_epoch);
            j.key("state").number(self.state);
            j.key("assignedPartitions");
            AssignedPartitions::json_list(&self.assigned_partitions, j);
            j.key("partitionsPendingRevocation");
            AssignedPartitions::json_list(&self.partitions_pending_revocation, j);
        });
    }
}

/// Type 16: which topics a regular expression stood for.
///
/// ```
/// use girok_coordinator::records::{Record, RegularExpression};
/// let topics = vec!["orders-eu".into(), "orders-us".into()];
/// let value = Some(RegularExpression { topics, version: 12, timestamp: 7 });
/// let record = Record::RegularExpression { group: "g".into(), regex: "orders-.*".into(), value };
/// # let (mut key, mut bytes) = (Vec::new(), Vec::new());
/// # record.encode_key(&mut key);
/// # record.encode_value(&mut bytes);
/// assert_eq!(Record::decode(&key, Some(&bytes)), Ok(record));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegularExpression {
    /// The topics that matched, sorted.
    pub topics: Vec<Box<str>>,
    /// The metadata offset at which it was resolved.
    pub version: i64,
    /// When it was resolved, in milliseconds.
    pub timestamp: i64,
}

impl RegularExpression {
    pub(crate) fn read(r: &mut Reader<'_>) -> Read<Self> {
        let value = RegularExpression {
            topics: read_strings(r, "topics")?,
            version: r.i64("version")?,
            timestamp: r.i64("timestamp")?,
        };
        r.tags(|_, _| Ok(false))?;
        Ok(value)
    }

    pub(crate) fn write(&self, w: &mut Writer<'_>) {
        w.array(&self.topics, |w, topic| w.string(topic));
        w.i64(self.version);
        w.i64(self.timestamp);
        w.no_tags();
    }

    pub(crate) fn json(&self, j: &mut Json) {
        j.object(|j| {
            j.key("topics").array(&self.topics, |j, topic| j.string(topic));
            j.key("version").number(self.version);
            j.key("timestamp").number(self.timestamp);
        });
    }
}

fn read_strings(r: &mut Reader<'_>, what: &str) -> Read<Vec<Box<str>>> {
    r.array(1, what, |r| Ok(r.string(what)?.into()))
}
