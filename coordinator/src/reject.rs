//! Why something was not done, per partition where that is the unit, in Kafka's words and with Kafka's numbers.

use std::sync::Arc;

use girok_engine::{Error, Offset, Remedy, TopicId, TopicPartition};

/// A refusal. Nothing was changed for the partition or group it names.
///
/// ```
/// use girok_coordinator::Reject;
/// let reject = Reject::GroupIdNotFound { group: "search".into() };
/// assert_eq!((reject.code(), reject.name()), (69, "GROUP_ID_NOT_FOUND"));
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Reject {
    /// No such topic, or not so many partitions.
    #[error(
        "unknown topic or partition {partition}: {}; create it first, or check the name",
        match partitions { None => "there is no such topic".into(), Some(n) => format!("the topic has {n} partitions") }
    )]
    UnknownTopicOrPartition {
        /// As it was asked for.
        partition: TopicPartition,
        /// How many partitions the topic has, if there is one.
        partitions: Option<i32>,
    },

    /// The topic was deleted and created again since the caller looked.
    #[error(
        "{partition}: topic id is {expected}, the commit means {found}: the topic was created anew since; \
             start from the new topic's offsets"
    )]
    UnknownTopicId {
        /// Which.
        partition: TopicPartition,
        /// The id the topic has.
        expected: TopicId,
        /// The id that was meant.
        found: TopicId,
    },

    /// The note beside the offset is too long.
    #[error("{partition}: metadata has {chars} characters, at most {max} are kept; shorten it")]
    OffsetMetadataTooLarge {
        /// Which.
        partition: TopicPartition,
        /// Its length in UTF-16 units, as Kafka counts.
        chars: usize,
        /// What is allowed.
        max: usize,
    },

    /// Negative numbers name no record.
    #[error("{partition}: offset {offset} is negative; commit the offset of the next record to process")]
    NegativeOffset {
        /// Which.
        partition: TopicPartition,
        /// What was committed.
        offset: Offset,
    },

    /// The offset lies behind the end of the log, so nobody can have processed the records before it. (Kafka would
    /// store it and skip records that come later.)
    #[error("{partition}: offset {offset} is beyond the log's end, {end}; commit at most {end}")]
    BeyondEnd {
        /// Which.
        partition: TopicPartition,
        /// What was committed.
        offset: Offset,
        /// The next offset to be given out.
        end: Offset,
    },

    /// The group's name is not acceptable for what was asked.
    #[error("group id {group:?}: {why}")]
    InvalidGroupId {
        /// The name, cut if it is very long.
        group: String,
        /// What is wrong with it.
        why: &'static str,
    },

    /// A commit from outside the group, while the group has members: it would move the members' offsets.
    #[error(
        "group {group:?} has {members} members, and the commit comes from none of them; commit as a member, or \
             wait until the group is empty"
    )]
    UnknownMemberId {
        /// The group.
        group: Arc<str>,
        /// How many members it has.
        members: usize,
    },

    /// What was asked for needs a group without members.
    #[error("group {group:?} has {members} members; stop them first")]
    NonEmptyGroup {
        /// The group.
        group: Arc<str>,
        /// How many members it has.
        members: usize,
    },

    /// Nobody here knows how to share partitions like that.
    #[error("assignor {assignor:?} is not supported; there are: uniform, range")]
    UnsupportedAssignor {
        /// Its name as it was asked for, or the beginning of it.
        assignor: Box<str>,
    },

    /// There is no such group.
    #[error("there is no group {group:?}; check the name (a group exists while it has members or offsets)")]
    GroupIdNotFound {
        /// The name asked for.
        group: Arc<str>,
    },

    /// The group's members still read the topic.
    #[error("group {group:?} is subscribed to {topic}; unsubscribe its members first")]
    GroupSubscribedToTopic {
        /// The group.
        group: Arc<str>,
        /// The topic.
        topic: Arc<str>,
    },

    /// A transaction that may move the offset is still open, and the caller wants only what is settled.
    #[error("{partition}: a transaction with an offset of group {group:?} is still open; try again later")]
    UnstableOffsetCommit {
        /// The group.
        group: Arc<str>,
        /// Which.
        partition: TopicPartition,
    },

    /// The record could not be brought to where it was promised to be.
    #[error("not stored: {0}")]
    NotStored(Error),
}

impl Reject {
    /// Kafka's error code, for those who speak its protocol.
    pub fn code(&self) -> i16 {
        self.code_and_name().0
    }

    /// Kafka's name for that code.
    pub fn name(&self) -> &'static str {
        self.code_and_name().1
    }

    fn code_and_name(&self) -> (i16, &'static str) {
        match self {
            Reject::BeyondEnd { .. } => (1, "OFFSET_OUT_OF_RANGE"),
            Reject::UnknownTopicOrPartition { .. } => (3, "UNKNOWN_TOPIC_OR_PARTITION"),
            Reject::OffsetMetadataTooLarge { .. } => (12, "OFFSET_METADATA_TOO_LARGE"),
            Reject::InvalidGroupId { .. } => (24, "INVALID_GROUP_ID"),
            Reject::UnknownMemberId { .. } => (25, "UNKNOWN_MEMBER_ID"),
            Reject::NegativeOffset { .. } => (42, "INVALID_REQUEST"),
            Reject::NonEmptyGroup { .. } => (68, "NON_EMPTY_GROUP"),
            Reject::GroupIdNotFound { .. } => (69, "GROUP_ID_NOT_FOUND"),
            Reject::GroupSubscribedToTopic { .. } => (86, "GROUP_SUBSCRIBED_TO_TOPIC"),
            Reject::UnstableOffsetCommit { .. } => (88, "UNSTABLE_OFFSET_COMMIT"),
            Reject::UnknownTopicId { .. } => (100, "UNKNOWN_TOPIC_ID"),
            Reject::UnsupportedAssignor { .. } => (112, "UNSUPPORTED_ASSIGNOR"),
            // As Kafka's coordinator translates what its log says: wait where waiting helps, else look for another
            // coordinator (here: a reopened one).
            Reject::NotStored(error) => match error.remedy() {
                Remedy::TryAgain => (15, "COORDINATOR_NOT_AVAILABLE"),
                Remedy::FixTheCall => (-1, "UNKNOWN_SERVER_ERROR"),
                _ => (16, "NOT_COORDINATOR"),
            },
        }
    }

    /// What the caller can do about it.
    pub fn remedy(&self) -> Remedy {
        match self {
            Reject::NotStored(error) => error.remedy(),
            Reject::UnstableOffsetCommit { .. } => Remedy::TryAgain,
            _ => Remedy::FixTheCall,
        }
    }
}
