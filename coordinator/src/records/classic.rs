//! Record type 2: a group of the classic protocol, as its last completed rebalance left it.
//!
//! ```text
//! v0   protocol type str | generation i32 | protocol str? | leader str? | members [
//!          member id str | client id str | client host str | session timeout i32 | subscription | assignment ]
//! v1   + rebalance timeout i32 before the session timeout
//! v2   + current state timestamp i64 before the members
//! v3   + group instance id str? after the member id                     (what Kafka writes, and we)
//! v4   the same, flexible
//! ```
//!
//! Subscription and assignment are opaque to the coordinator, except that a group of type "consumer" carries
//! Kafka's consumer protocol in them, which tells the topics it is subscribed to.

use std::collections::BTreeSet;

use super::json::Json;
use super::wire::{Part, Read, Reader, Writer};

/// The value of a group metadata record.
///
/// ```
/// use girok_coordinator::records::GroupMetadata;
/// let empty = GroupMetadata::empty("consumer".into(), 7, 1_795_353_653_045);
/// assert!(empty.members.is_empty());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMetadata {
    /// 0 to 4.
    pub version: i16,
    /// "consumer", "connect", or empty for a group that nobody ever joined.
    pub protocol_type: Box<str>,
    /// The number of its last completed rebalance.
    pub generation: i32,
    /// The assignor that was chosen.
    pub protocol: Option<Box<str>>,
    /// The member that computed the assignment.
    pub leader: Option<Box<str>>,
    /// When it came into its present state, in milliseconds; −1 is unknown.
    pub current_state_timestamp: i64,
    /// Its members, in the order the coordinator had them.
    pub members: Vec<ClassicMember>,
}

/// One member of a classic group.
///
/// ```
/// use girok_coordinator::records::{ClassicMember, GroupMetadata, Record};
/// let member = ClassicMember {
///     member_id: "kitchen-1".into(),
///     group_instance_id: None,
///     client_id: "kitchen".into(),
///     client_host: "/127.0.0.1".into(),
///     rebalance_timeout_ms: 300_000,
///     session_timeout_ms: 45_000,
///     subscription: Box::default(),
///     assignment: Box::default(),
/// };
/// let group = GroupMetadata { members: vec![member], ..GroupMetadata::empty("consumer".into(), 7, -1) };
/// let record = Record::GroupMetadata { group: "g".into(), value: Some(group) };
/// # let (mut key, mut bytes) = (Vec::new(), Vec::new());
/// # record.encode_key(&mut key);
/// # record.encode_value(&mut bytes);
/// assert_eq!(Record::decode(&key, Some(&bytes)), Ok(record));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassicMember {
    /// The id the coordinator gave it.
    pub member_id: Box<str>,
    /// Its static name, if it has one.
    pub group_instance_id: Option<Box<str>>,
    /// The client's name for itself.
    pub client_id: Box<str>,
    /// Where it connected from.
    pub client_host: Box<str>,
    /// How long a rebalance waits for it, in milliseconds; −1 is unknown.
    pub rebalance_timeout_ms: i32,
    /// How long it may be silent, in milliseconds.
    pub session_timeout_ms: i32,
    /// What it subscribed to, in its protocol's encoding.
    pub subscription: Box<[u8]>,
    /// What it was given, in its protocol's encoding.
    pub assignment: Box<[u8]>,
}

pub(crate) const GROUP_METADATA_VERSION_MAX: i16 = 4;

/// The shortest a member can be: five lengths and a timeout.
const MEMBER_BYTES_MIN: usize = 9;

impl GroupMetadata {
    /// A group without members, in the version Kafka writes.
    pub fn empty(protocol_type: Box<str>, generation: i32, current_state_timestamp: i64) -> Self {
        GroupMetadata {
            version: 3,
            protocol_type,
            generation,
            protocol: None,
            leader: None,
            current_state_timestamp,
            members: Vec::new(),
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>, version: i16) -> Read<Self> {
        r.set_flexible(version >= 4);
        let value = GroupMetadata {
            version,
            protocol_type: r.string("protocol type")?.into(),
            generation: r.i32("generation")?,
            protocol: r.nullable_string("protocol")?.map(Into::into),
            leader: r.nullable_string("leader")?.map(Into::into),
            current_state_timestamp: if version >= 2 { r.i64("current state timestamp")? } else { -1 },
            members: r.array(MEMBER_BYTES_MIN, "members", |r| {
                let member = ClassicMember {
                    member_id: r.string("member id")?.into(),
                    group_instance_id: match version {
                        3.. => r.nullable_string("group instance id")?.map(Into::into),
                        _ => None,
                    },
                    client_id: r.string("client id")?.into(),
                    client_host: r.string("client host")?.into(),
                    rebalance_timeout_ms: if version >= 1 { r.i32("rebalance timeout")? } else { -1 },
                    session_timeout_ms: r.i32("session timeout")?,
                    subscription: r.bytes("subscription")?.into(),
                    assignment: r.bytes("assignment")?.into(),
                };
                r.tags(|_, _| Ok(false))?;
                Ok(member)
            })?,
        };
        r.tags(|_, _| Ok(false))?;
        Ok(value)
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let version = self.version;
        let mut w = Writer::new(out, version >= 4);
        w.string(&self.protocol_type);
        w.i32(self.generation);
        w.nullable_string(self.protocol.as_deref());
        w.nullable_string(self.leader.as_deref());
        if version >= 2 {
            w.i64(self.current_state_timestamp);
        }
        w.array(&self.members, |w, m| {
            w.string(&m.member_id);
            if version >= 3 {
                w.nullable_string(m.group_instance_id.as_deref());
            }
            w.string(&m.client_id);
            w.string(&m.client_host);
            if version >= 1 {
                w.i32(m.rebalance_timeout_ms);
            }
            w.i32(m.session_timeout_ms);
            w.bytes(&m.subscription);
            w.bytes(&m.assignment);
            w.no_tags();
        });
        w.no_tags();
    }

    pub(crate) fn json(&self, j: &mut Json) {
        let version = self.version;
        let consumers = &*self.protocol_type == CONSUMER;
        j.object(|j| {
            j.key("protocolType").string(&self.protocol_type);
            j.key("generation").number(self.generation);
            j.key("protocol").nullable_string(self.protocol.as_deref());
            j.key("leader").nullable_string(self.leader.as_deref());
            if version >= 2 {
                j.key("currentStateTimestamp").number(self.current_state_timestamp);
            }
            j.key("members").array(&self.members, |j, m| {
                j.object(|j| {
                    j.key("memberId").string(&m.member_id);
                    if version >= 3 {
                        j.key("groupInstanceId").nullable_string(m.group_instance_id.as_deref());
                    }
                    j.key("clientId").string(&m.client_id);
                    j.key("clientHost").string(&m.client_host);
                    if version >= 1 {
                        j.key("rebalanceTimeout").number(m.rebalance_timeout_ms);
                    }
                    j.key("sessionTimeout").number(m.session_timeout_ms);
                    // What does not decode is shown as it is, as Kafka's tool does.
                    j.key("subscription");
                    match Subscription::read(&m.subscription) {
                        Ok(subscription) if consumers => subscription.json(j),
                        _ => j.base64(&m.subscription),
                    }
                    j.key("assignment");
                    match Assignment::read(&m.assignment) {
                        Ok(assignment) if consumers => assignment.json(j),
                        _ => j.base64(&m.assignment),
                    }
                });
            });
        });
    }

    /// The topics its members are subscribed to; `None` if that cannot be known, because the group speaks another
    /// protocol or a subscription does not decode.
    pub(crate) fn subscribed_topics(&self) -> Option<BTreeSet<Box<str>>> {
        if &*self.protocol_type != CONSUMER {
            return None;
        }
        let mut topics = BTreeSet::new();
        for member in &self.members {
            // Version 0 is a prefix of all the others, and all that is needed here.
            let mut r = Reader::new(Part::Value, &member.subscription);
            r.i16("version").ok()?;
            topics.extend(read_topics(&mut r).ok()?.into_iter().map(Box::from));
        }
        Some(topics)
    }
}

/// The protocol type of Kafka's consumers.
pub(crate) const CONSUMER: &str = "consumer";

fn read_topics<'a>(r: &mut Reader<'a>) -> Read<Vec<&'a str>> {
    r.array(2, "topics", |r| r.string("topic"))
}

/// Partitions by topic, as the consumer protocol lists them.
struct TopicPartitions<'a> {
    topic: &'a str,
    partitions: Vec<i32>,
}

impl<'a> TopicPartitions<'a> {
    fn read(r: &mut Reader<'a>) -> Read<Vec<Self>> {
        r.array(6, "topics", |r| {
            Ok(TopicPartitions {
                topic: r.string("topic")?,
                partitions: r.array(4, "partitions", |r| r.i32("partition"))?,
            })
        })
    }

    fn json(list: &[Self], j: &mut Json) {
        j.array(list, |j, t| {
            j.object(|j| {
                j.key("topic").string(t.topic);
                j.key("partitions").array(&t.partitions, |j, p| j.number(*p));
            });
        });
    }
}

/// Kafka's ConsumerProtocolSubscription. A version from the future is read as the newest known one, because new
/// versions only add fields at the end.
struct Subscription<'a> {
    version: i16,
    topics: Vec<&'a str>,
    user_data: Option<&'a [u8]>,
    owned_partitions: Vec<TopicPartitions<'a>>,
    generation_id: i32,
    rack_id: Option<&'a str>,
}

impl<'a> Subscription<'a> {
    fn read(bytes: &'a [u8]) -> Read<Self> {
        let mut r = Reader::new(Part::Value, bytes);
        let version = r.i16("version")?;
        Ok(Subscription {
            version,
            topics: read_topics(&mut r)?,
            user_data: r.nullable_bytes("user data")?,
            owned_partitions: if version >= 1 { TopicPartitions::read(&mut r)? } else { Vec::new() },
            generation_id: if version >= 2 { r.i32("generation")? } else { -1 },
            rack_id: if version >= 3 { r.nullable_string("rack")? } else { None },
        })
    }

    fn json(&self, j: &mut Json) {
        j.object(|j| {
            j.key("topics").array(&self.topics, |j, topic| j.string(topic));
            json_user_data(self.user_data, j);
            if self.version >= 1 {
                j.key("ownedPartitions");
                TopicPartitions::json(&self.owned_partitions, j);
            }
            if self.version >= 2 {
                j.key("generationId").number(self.generation_id);
            }
            if self.version >= 3 {
                j.key("rackId").nullable_string(self.rack_id);
            }
        });
    }
}

/// Kafka's ConsumerProtocolAssignment.
struct Assignment<'a> {
    assigned_partitions: Vec<TopicPartitions<'a>>,
    user_data: Option<&'a [u8]>,
}

impl<'a> Assignment<'a> {
    fn read(bytes: &'a [u8]) -> Read<Self> {
        let mut r = Reader::new(Part::Value, bytes);
        r.i16("version")?;
        Ok(Assignment {
            assigned_partitions: TopicPartitions::read(&mut r)?,
            user_data: r.nullable_bytes("user data")?,
        })
    }

    fn json(&self, j: &mut Json) {
        j.object(|j| {
            j.key("assignedPartitions");
            TopicPartitions::json(&self.assigned_partitions, j);
            json_user_data(self.user_data, j);
        });
    }
}

fn json_user_data(user_data: Option<&[u8]>, j: &mut Json) {
    j.key("userData");
    match user_data {
        Some(bytes) => j.base64(bytes),
        None => j.null(),
    }
}
