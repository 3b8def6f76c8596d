//! The group coordinator: who has read how far, kept in `__consumer_offsets` and provable afterwards.
//!
//! The journey of a commit: a consumer hands [`Coordinator::commit`] an offset; [`step`], which is a plain function of
//! the [`State`], decides what that means and says it as [`records`], the facts; they are appended to the [`Journal`]
//! first and applied to the state after; and the consumer gets a [`Receipt`] once the journal is as durable as it asked
//! for. After a crash the same facts are read back from the log and applied by the same code, so replay to any point
//! gives the state that was. A [state file](state_file) makes opening fast, and the compacted log alone always
//! suffices.
//!
//! The records are Kafka's, byte for byte: `kafka-dump-log --offsets-decoder` reads ours, and we read a broker's.
//!
//! # What it is not
//! It moves no data, knows no sockets, starts no thread and asks no clock but the one it is given. Groups with members
//! are read and respected; joining one comes in a later version.
#![warn(clippy::pedantic)]
#![allow(
    clippy::missing_errors_doc,
    clippy::must_use_candidate,
    clippy::module_name_repetitions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    clippy::cast_lossless,
    clippy::similar_names,
    clippy::too_many_lines,
    clippy::doc_markdown,
    clippy::missing_panics_doc // panics here are bugs of ours, said where they would be
)]

mod assign;
mod door;
mod receipt;
mod state;
pub mod state_file;

mod journal;
mod partition_journal;
pub mod records;
mod reject;
mod settings;
mod topics;

pub use assign::{Assignor, Partitions, Subscriber};
pub use door::{
    Answer, Commit, CommitOptions, Coordinator, Ground, GroupListing, OpenError, OpenReport, StateFile,
    replay,
};
pub use journal::{Each, Entries, Journal};
pub use partition_journal::PartitionJournal;
pub use receipt::{Receipt, Verdict};
pub use reject::Reject;
pub use settings::Settings;
pub use state::{
    BatchInfo, Clamped, CommitEntry, Committer, Decision, Expired, ExpiryClock, ExpiryTime, Fetched,
    FetchedOffset, Group, GroupKind, Input, Now, Reply, State, checksum, step,
};
pub use topics::{Ends, TopicView, Topics};
