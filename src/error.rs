//! Everything that can go wrong here: the engine's errors, and the few that only producers and consumers can have.
//!
//! Each says what was expected, what was found, where, and what to do; [`Error::remedy`] says the last to a program.
//! Errors are cheap to clone, because one failed batch is told to everyone who waits for one of its records.

use std::time::Duration;

use girok_coordinator::{Receipt, Reject};
use girok_engine::{Offset, Remedy, TopicPartition};

/// The result of most calls.
///
/// ```
/// fn partitions_of(girok: &girok::Girok, topic: &str) -> girok::Result<i32> {
///     Ok(girok.admin().describe_topics(&[topic])?[0].partitions)
/// }
/// # assert!(partitions_of(&girok::Girok::in_memory()?, "orders").is_err());
/// # Ok::<(), girok::Error>(())
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
///
/// ```
/// use girok::{Error, Girok, Remedy};
/// let girok = Girok::in_memory()?;
/// let error = girok.producer().build()?.send(girok::ProducerRecord::new("orders", "one")).unwrap_err();
/// assert_eq!(error.remedy(), Remedy::FixTheCall);
/// assert!(error.to_string().contains("create it first"), "{error}");
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The engine's: files, topics, offsets, durability.
    #[error(transparent)]
    Engine(#[from] girok_engine::Error),

    /// [`Wakeup::wake`](crate::Wakeup::wake) was called while or before a poll. Nothing was lost; poll again.
    #[error("the consumer was woken from another thread; poll again to go on")]
    Woken,

    /// Something took longer than the caller was ready to wait. It may still happen.
    #[error("{what} took longer than {} ms; {then}", after.as_millis())]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
        /// What that means, and what to do.
        then: &'static str,
    },

    /// A call about a partition that this consumer does not read.
    #[error("{partition} is not assigned to this consumer, which has {assigned} partitions; assign it first")]
    NotAssigned {
        /// Which.
        partition: TopicPartition,
        /// How many it has.
        assigned: usize,
    },

    /// There is no committed offset to begin at, and [`OffsetReset::None`](crate::OffsetReset::None) forbids guessing.
    #[error(
        "{partition} has no committed offset{} and auto_offset_reset is none; seek, or choose earliest or latest",
        .group.as_ref().map_or(String::new(), |group| format!(" of group {group:?}"))
    )]
    NoOffset {
        /// Which.
        partition: TopicPartition,
        /// For which group, if the consumer has one.
        group: Option<String>,
    },

    /// Commits belong to a group, and the consumer has none.
    #[error("{doing} needs a group, and this consumer has none; set group_id when building it")]
    NoGroup {
        /// What was tried.
        doing: &'static str,
    },

    /// The coordinator refused something, in Kafka's words.
    #[error(transparent)]
    Rejected(#[from] Reject),

    /// Some or all partitions of a commit were refused.
    #[error(
        "{} of {} partitions were not committed: {}",
        refused.len(),
        refused.len() + stored.len(),
        refused.iter().map(|(_, reject)| reject.to_string()).collect::<Vec<_>>().join("; ")
    )]
    NotCommitted {
        /// Which, and why.
        refused: Vec<(TopicPartition, Reject)>,
        /// The others.
        stored: Vec<Receipt>,
    },

    /// A batch whose checksum is right and whose records do not decode: its maker was broken. Never served as data.
    #[error(
        "{partition}: the batch at offset {offset} does not decode: expected {expected}, found {found}; its checksum \
         is right, so it was made that way; seek past offset {last_offset} to go on without it"
    )]
    BadBatch {
        /// Where.
        partition: TopicPartition,
        /// The batch's base offset.
        offset: Offset,
        /// Its last offset.
        last_offset: Offset,
        /// What should have been there.
        expected: String,
        /// What was.
        found: String,
    },
}

impl Error {
    /// What the caller can do about it.
    pub fn remedy(&self) -> Remedy {
        match self {
            Error::Engine(error) => error.remedy(),
            Error::Woken | Error::Timeout { .. } => Remedy::TryAgain,
            Error::NotAssigned { .. } | Error::NoOffset { .. } | Error::NoGroup { .. } => Remedy::FixTheCall,
            Error::BadBatch { .. } => Remedy::Restore,
            Error::Rejected(reject) => reject.remedy(),
            Error::NotCommitted { refused, .. } => {
                refused.first().map_or(Remedy::TryAgain, |(_, reject)| reject.remedy())
            }
        }
    }

    /// The engine's error underneath, if it is one.
    pub fn engine(&self) -> Option<&girok_engine::Error> {
        match self {
            Error::Engine(error) => Some(error),
            _ => None,
        }
    }

    pub(crate) fn is_unknown_topic(&self) -> bool {
        matches!(self.engine(), Some(girok_engine::Error::UnknownTopicOrPartition { .. }))
    }
}

/// An argument that cannot be accepted.
pub(crate) fn invalid(
    what: &str,
    expected: impl Into<String>,
    found: impl std::fmt::Display,
    fix: &str,
) -> Error {
    Error::Engine(girok_engine::Error::invalid(what, expected, found, fix))
}

/// Something of Kafka's that comes later, refused by its name.
pub(crate) fn unsupported(what: &str, fix: &str) -> Error {
    Error::Engine(girok_engine::Error::Unsupported { what: what.into(), fix: fix.into() })
}

/// Does all of them, whatever fails on the way, and says what failed first.
pub(crate) fn do_all(doings: impl IntoIterator<Item = Result<()>>) -> Result<()> {
    let mut first = Ok(());
    for done in doings {
        if first.is_ok() {
            first = done;
        }
    }
    first
}
