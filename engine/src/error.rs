//! What can go wrong, sorted by what the person holding the error can do about it.
//!
//! Every message says what was expected, what was found, where, and what to do; [`Error::remedy`] says the last of
//! these to a program. Errors are cheap to clone: one failed sync is told to everybody who waited for it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::types::{Offset, TopicPartition};

/// The engine's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What to do about an [`Error`].
///
/// ```
/// use girok_engine::{Env, Log, LogConfig, Remedy};
/// let env = Env::in_memory();
/// let (_log, _) = Log::open(env.clone(), "/log", LogConfig::default())?;
/// let refused = Log::open(env, "/log", LogConfig::default()).unwrap_err();
/// assert_eq!(refused.remedy(), Remedy::TryAgain, "somebody may close it: {refused}");
/// # Ok::<(), girok_engine::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// The call asked for something that cannot be: change the call.
    FixTheCall,
    /// It may go through later, unchanged.
    TryAgain,
    /// The disk or a limit is full: free something, then try again.
    MakeRoom,
    /// Bytes on disk are not what they were: restore a backup, or repair as the message says.
    Restore,
    /// This process can no longer be trusted with the directory: close it and open it again.
    Restart,
}

/// Where in a file something was found.
///
/// ```
/// use girok_engine::Place;
/// let place = Place { path: "orders-3/00000000000000412000.log".into(), position: 8192 };
/// assert_eq!(place.to_string(), "orders-3/00000000000000412000.log at byte 8192");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// The byte in it.
    pub position: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.path.display(), self.position)
    }
}

/// Everything that can go wrong in the engine.
///
/// ```
/// # use girok_engine::*;
/// # let (log, _) = Log::open(Env::in_memory(), "/log", LogConfig::default())?;
/// # log.create_topic("orders", 1, TopicConfig::default())?;
/// # let partition = log.partition(&TopicPartition::new("orders", 0))?;
/// # let mut builder = batch::BatchBuilder::new(batch::Codec::None);
/// # builder.append(Timestamp::from_millis(1), None, Some(b"tea"), &[])?;
/// # let batch = builder.finish()?;
/// match partition.fetch(Offset::new(9), &FetchBounds::default()) {
///     Err(Error::OffsetOutOfRange { requested, end, .. }) => assert!(requested > end),
///     other => panic!("nobody has written that far: {other:?}"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument, name, configuration key or batch that is not acceptable. Nothing was changed.
    #[error("invalid {what}: expected {expected}, found {found}; {fix}")]
    Invalid {
        /// What was judged: "topic name", "batch", "configuration key".
        what: String,
        /// What would have been right.
        expected: String,
        /// What was there.
        found: String,
        /// What to do.
        fix: String,
    },

    /// The topic or partition does not exist.
    #[error("unknown topic or partition {name}: {found}; create it first, or check the name")]
    UnknownTopicOrPartition {
        /// As it was asked for.
        name: String,
        /// What there is instead.
        found: String,
    },

    /// The topic exists already.
    #[error("topic {name} exists already; choose another name or delete it first")]
    TopicExists {
        /// Its name.
        name: String,
    },

    /// No record has that offset, and none will be found by waiting.
    #[error(
        "offset {requested} is out of range for {partition}: it holds {start} to {end} (the end is the next \
             offset); seek to an offset in that range, or let auto_offset_reset decide"
    )]
    OffsetOutOfRange {
        /// Where.
        partition: TopicPartition,
        /// The offset asked for.
        requested: Offset,
        /// The first offset still there.
        start: Offset,
        /// The next offset to be given out.
        end: Offset,
    },

    /// Bytes on disk fail their checksum or contradict themselves. They are never served as data.
    #[error(
        "corrupt: {place}: expected {expected}, found {found}; {intact} (see docs/format.md, \"Recovery\")"
    )]
    Corrupt {
        /// The file and byte.
        place: Place,
        /// What should have been there.
        expected: String,
        /// What was.
        found: String,
        /// What is still good, and what to do.
        intact: String,
    },

    /// A batch is compressed with a codec this build leaves out.
    #[error(
        "{partition} at offset {offset}: the batch is compressed with {feature}, which this build leaves out; \
             build girok with the feature \"{feature}\""
    )]
    FeatureMissing {
        /// Where.
        partition: TopicPartition,
        /// The batch's base offset.
        offset: Offset,
        /// The cargo feature that would read it.
        feature: &'static str,
    },

    /// Another process, or another handle in this one, holds the directory.
    #[error("{} is held by {holder}: a directory is open in one process at a time; close it there, or open it \
             read-only", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// Who holds it, as its lock file says.
        holder: String,
    },

    /// The directory was written by a newer version than this one.
    #[error("{}: format version {found} is newer than this program's {expected}; use the newer program: nothing \
             was changed", path.display())]
    NewerFormat {
        /// The file that says so.
        path: PathBuf,
        /// The version this program knows.
        expected: u32,
        /// The version found.
        found: u32,
    },

    /// A sync failed once, so the kernel may have dropped dirty pages: the partition refuses writes.
    #[error(
        "{partition} is poisoned: a sync failed ({cause}) and the kernel may have dropped what was not on the \
             medium; reads go on, writes are refused; close the directory, mend the disk and open it again"
    )]
    Poisoned {
        /// Which.
        partition: TopicPartition,
        /// What the sync said.
        cause: String,
    },

    /// There is no room: the disk is full, or a limit of ours is reached.
    #[error("no room for {doing} ({}): {source}; {}, then try again: nothing was lost", path.display(), make_room(source))]
    NoRoom {
        /// What needed room.
        doing: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },

    /// The operating system refused something else.
    #[error("{doing} {}: {source}{}", path.display(), advice(source))]
    Io {
        /// What was being done: "opening", "growing", "syncing".
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },

    /// Appenders are ahead of the disk; a non-blocking call says so, a blocking one waits.
    #[error("{partition} is busy: appends are ahead of the disk; wait and try again")]
    Busy {
        /// Which.
        partition: TopicPartition,
    },

    /// The directory, or this handle, was opened for reading only.
    #[error("{} is open read-only: {doing} needs it open for writing", dir.display())]
    ReadOnly {
        /// The directory.
        dir: PathBuf,
        /// What was tried.
        doing: &'static str,
    },

    /// The log was closed.
    #[error("the log in {} is closed; open it again", dir.display())]
    Closed {
        /// The directory.
        dir: PathBuf,
    },

    /// This process is a fork of the one that opened the directory; it has the memory but not the threads.
    #[error("{} was opened before a fork: process {opened_by} owns it, this is {found}; open directories after \
             forking. A child that never execs keeps the directory locked until it ends", dir.display())]
    Forked {
        /// The directory.
        dir: PathBuf,
        /// The process that opened it.
        opened_by: u32,
        /// This process.
        found: u32,
    },

    /// Kafka has it, this library does not yet, and says so by name instead of guessing.
    #[error("{what} is not supported: {fix}")]
    Unsupported {
        /// The feature.
        what: String,
        /// What to do instead.
        fix: String,
    },
}

impl Error {
    /// What the caller can do about it.
    pub fn remedy(&self) -> Remedy {
        match self {
            Error::Invalid { .. }
            | Error::UnknownTopicOrPartition { .. }
            | Error::TopicExists { .. }
            | Error::OffsetOutOfRange { .. }
            | Error::FeatureMissing { .. }
            | Error::NewerFormat { .. }
            | Error::ReadOnly { .. }
            | Error::Unsupported { .. }
            | Error::Forked { .. } => Remedy::FixTheCall,
            Error::Locked { .. } | Error::Busy { .. } => Remedy::TryAgain,
            Error::NoRoom { .. } => Remedy::MakeRoom,
            Error::Corrupt { .. } => Remedy::Restore,
            Error::Io { .. } | Error::Poisoned { .. } | Error::Closed { .. } => Remedy::Restart,
        }
    }

    /// Sorts what the system said: no room is an error of its own, because it can be mended.
    pub fn io(doing: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Error::NoRoom { doing: doing.into(), path, source: Arc::new(source) }
            }
            _ => Error::Io { doing, path, source: Arc::new(source) },
        }
    }

    /// An argument or configuration that cannot be accepted.
    pub fn invalid(
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl fmt::Display,
        fix: impl Into<String>,
    ) -> Self {
        Error::Invalid {
            what: what.into(),
            expected: expected.into(),
            found: found.to_string(),
            fix: fix.into(),
        }
    }

    /// Bytes that are not what they should be.
    pub fn corrupt(
        path: impl Into<PathBuf>,
        position: u64,
        expected: impl Into<String>,
        found: impl Into<String>,
        intact: impl Into<String>,
    ) -> Self {
        Error::Corrupt {
            place: Place { path: path.into(), position },
            expected: expected.into(),
            found: found.into(),
            intact: intact.into(),
        }
    }
}

/// What makes room depends on what there is too little of.
fn make_room(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::FileTooLarge => {
            "raise the limit on the size of files (ulimit -f), or choose a smaller segment.bytes"
        }
        io::ErrorKind::QuotaExceeded => "free some space or have the quota raised",
        _ => "free some space",
    }
}

/// What can be done about what the system refused, where its word alone does not tell.
fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            "; make the file system writable again (after an error on the medium the kernel may have made it \
             read-only: its log tells), then try again"
        }
        io::ErrorKind::PermissionDenied => "; check that this user may write there, then try again",
        _ => "",
    }
}
