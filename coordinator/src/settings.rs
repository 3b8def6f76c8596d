//! How the coordinator behaves, with Kafka's names and defaults.

use std::time::Duration;

use girok_engine::{Durability, Error, Result};

/// Settings of a coordinator.
///
/// ```
/// use girok_coordinator::Settings;
/// let settings = Settings::default();
/// assert_eq!(settings.offsets_retention.as_secs(), 7 * 24 * 3600);
/// assert_eq!(settings.offset_metadata_chars_max, 4096);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long an offset outlives its last commit (or its group's last member): `offsets.retention.minutes`,
    /// 7 days.
    pub offsets_retention: Duration,
    /// How often [`Coordinator::expire`](crate::Coordinator::expire) wants to be called:
    /// `offsets.retention.check.interval.ms`, 10 minutes.
    pub offsets_retention_check_interval: Duration,
    /// The longest note beside an offset, in UTF-16 units: `offset.metadata.max.bytes`, 4,096 (Kafka counts
    /// characters too, whatever the name says). At most 10,922, which is what a record has room for.
    pub offset_metadata_chars_max: usize,
    /// The version offset commits are written in. 4 carries topic ids, so that the offset of a topic that was
    /// created anew is told from that of its namesake; 3 is for brokers before 3.5. Default 4.
    pub offset_commit_version: i16,
    /// How long a deleted offset is remembered, so that its receipt is answered `Deleted` and not `Unknown`:
    /// `delete.retention.ms` of the offsets topic, 1 day.
    pub tombstone_retention: Duration,
    /// What "committed" means unless a commit asks for something else, and what a fetched offset has survived.
    /// Default [`Durability::Synced`].
    pub durability: Durability,
}

impl Default for Settings {
    fn default() -> Self {
        const DAY: Duration = Duration::from_hours(24);
        Settings {
            offsets_retention: 7 * DAY,
            offsets_retention_check_interval: Duration::from_mins(10),
            offset_metadata_chars_max: 4096,
            offset_commit_version: 4,
            tombstone_retention: DAY,
            durability: Durability::Synced,
        }
    }
}

/// A plain string's length is an i16 in bytes, and a UTF-16 unit has at most three of them in UTF-8.
const METADATA_CHARS_CEILING: usize = i16::MAX as usize / 3;

impl Settings {
    /// Names the first setting that cannot be.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a value is out of its range.
    pub fn check(&self) -> Result<()> {
        if self.offset_metadata_chars_max > METADATA_CHARS_CEILING {
            return Err(Error::invalid(
                "setting offset_metadata_chars_max",
                format!("at most {METADATA_CHARS_CEILING}"),
                self.offset_metadata_chars_max,
                "a record has no room for longer metadata",
            ));
        }
        if !matches!(self.offset_commit_version, 3 | 4) {
            return Err(Error::invalid(
                "setting offset_commit_version",
                "3 or 4",
                self.offset_commit_version,
                "older versions are read, not written",
            ));
        }
        Ok(())
    }
}
