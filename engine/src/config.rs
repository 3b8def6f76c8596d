//! What can be set: for each topic under Kafka's keys, and for a whole directory.
//!
//! A topic's configuration is spoken in Kafka's words ([`TopicConfig::set`] with `retention.ms`, `cleanup.policy`, …)
//! and kept as plain fields. A Kafka key that would mean nothing here is refused by name, with the reason: silently
//! accepting `min.insync.replicas` would promise something nobody keeps. The rest of the engine only reads these.

pub use crate::batch::TimestampType;
use crate::error::{Error, Result};
use crate::types::Durability;

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// What happens to old records (`cleanup.policy`).
///
/// ```
/// use girok_engine::{CleanupPolicy, TopicConfig};
/// let mut config = TopicConfig::default();
/// assert_eq!(config.cleanup_policy, CleanupPolicy::Delete);
/// config.set("cleanup.policy", "compact,delete")?;
/// assert_eq!(config.cleanup_policy, CleanupPolicy::CompactAndDelete);
/// # Ok::<(), girok_engine::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CleanupPolicy {
    /// Whole segments go by age and size.
    #[default]
    Delete,
    /// The last record of each key stays.
    Compact,
    /// Both.
    CompactAndDelete,
}

/// A topic's configuration: Kafka's keys, Kafka's defaults where they make sense in one process.
///
/// ```
/// use girok_engine::TopicConfig;
/// let mut config = TopicConfig::default();
/// config.set("retention.ms", "3600000")?;
/// assert_eq!(config.retention_ms, Some(3_600_000));
/// assert_eq!(config.get("retention.ms").as_deref(), Some("3600000"));
///
/// let refused = config.set("retention_ms", "1").unwrap_err();
/// assert!(refused.to_string().contains("retention.ms"), "the nearest key is named: {refused}");
/// # Ok::<(), girok_engine::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct TopicConfig {
    /// `segment.bytes`: a segment seals before it would grow beyond this. 1 GiB; from 4 KiB (Kafka: from 1 MiB), so
    /// that a test can roll a segment without writing a megabyte.
    pub segment_bytes: u32,
    /// `segment.ms`: a segment seals when its first record is this old. 7 days.
    pub segment_ms: u64,
    /// `retention.ms`: segments whose youngest record is older go. 7 days; `None` (Kafka's −1) keeps them.
    pub retention_ms: Option<u64>,
    /// `retention.bytes`: the oldest segments go when a partition is larger. `None` (Kafka's −1) by default.
    pub retention_bytes: Option<u64>,
    /// `max.message.bytes`: no record batch is larger, as stored. 1,048,588.
    pub max_message_bytes: u32,
    /// `index.interval.bytes`: an index entry for every so many bytes of log. 4,096.
    pub index_interval_bytes: u32,
    /// `message.timestamp.type`: the producer's time, or the log's when the batch was appended.
    pub timestamp_type: TimestampType,
    /// `cleanup.policy`.
    pub cleanup_policy: CleanupPolicy,
    /// `min.cleanable.dirty.ratio`: compaction begins when this share of the log, by bytes, was never compacted. 0.5.
    pub min_cleanable_dirty_ratio: f64,
    /// `delete.retention.ms`: how long a tombstone stays after compaction first saw it. 1 day.
    pub delete_retention_ms: u64,
    /// `min.compaction.lag.ms`: younger records are not compacted. 0.
    pub min_compaction_lag_ms: u64,
    /// `max.compaction.lag.ms`: an older record makes its log due, whatever the dirty ratio. No bound by default.
    pub max_compaction_lag_ms: u64,
    /// `girok.durability`: when a record becomes visible, and the ack a producer gets unless it asks for less.
    pub durability: Durability,
    /// `girok.flush.ms.max`: a record nobody waits for is synced within this. 1,000.
    pub flush_ms_max: u64,
}

impl Default for TopicConfig {
    fn default() -> Self {
        TopicConfig {
            segment_bytes: 1024 * MIB,
            segment_ms: 7 * DAY_MS,
            retention_ms: Some(7 * DAY_MS),
            retention_bytes: None,
            max_message_bytes: MIB + 12,
            index_interval_bytes: 4096,
            timestamp_type: TimestampType::CreateTime,
            cleanup_policy: CleanupPolicy::Delete,
            min_cleanable_dirty_ratio: 0.5,
            delete_retention_ms: DAY_MS,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: i64::MAX as u64,
            durability: Durability::Synced,
            flush_ms_max: 1000,
        }
    }
}

/// One key: how it is shown, how it is set, and what is expected of a value. `set` says `None` to a bad one.
struct Key {
    name: &'static str,
    expected: &'static str,
    get: fn(&TopicConfig) -> String,
    set: fn(&mut TopicConfig, &str) -> Option<()>,
}

/// Plain decimal digits; the bounds are the caller's. `7d` and `1GiB` are not Kafka's way.
fn number(text: &str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|n| plain && range.contains(n))
}

/// A number, or −1 for "no bound".
fn bound(text: &str) -> Option<Option<u64>> {
    if text == "-1" { Some(None) } else { number(text, 0..=MS_MAX).map(Some) }
}

fn shown(bound: Option<u64>) -> String {
    bound.map_or("-1".into(), |n| n.to_string())
}

/// Kafka's longest: an `i64`.
const MS_MAX: u64 = i64::MAX as u64;
const MS: &str = "a whole number of milliseconds from 0 to 9223372036854775807";
const MS_OR_NONE: &str = "a whole number of milliseconds from 0, or -1 for no bound";

/// Every key, in the order it is listed.
const KEYS: &[Key] = &[
    Key {
        name: "cleanup.policy",
        expected: "\"delete\", \"compact\" or \"compact,delete\"",
        get: |c| {
            match c.cleanup_policy {
                CleanupPolicy::Delete => "delete",
                CleanupPolicy::Compact => "compact",
                CleanupPolicy::CompactAndDelete => "compact,delete",
            }
            .into()
        },
        set: |c, text| {
            let mut parts: Vec<&str> = text.split(',').map(str::trim).collect();
            parts.sort_unstable();
            parts.dedup();
            c.cleanup_policy = match parts[..] {
                ["delete"] => CleanupPolicy::Delete,
                ["compact"] => CleanupPolicy::Compact,
                ["compact", "delete"] => CleanupPolicy::CompactAndDelete,
                _ => return None,
            };
            Some(())
        },
    },
    Key {
        name: "compression.type",
        expected: "\"producer\": batches are stored as they were sent, so choose the codec at the producer",
        get: |_| "producer".into(),
        set: |_, text| (text == "producer").then_some(()),
    },
    Key {
        name: "delete.retention.ms",
        expected: MS,
        get: |c| c.delete_retention_ms.to_string(),
        set: |c, text| number(text, 0..=MS_MAX).map(|n| c.delete_retention_ms = n),
    },
    Key {
        name: "girok.durability",
        expected: "\"synced\" or \"written\"",
        get: |c| c.durability.to_string(),
        set: |c, text| {
            c.durability = match text {
                "synced" => Durability::Synced,
                "written" => Durability::Written,
                _ => return None,
            };
            Some(())
        },
    },
    Key {
        name: "girok.flush.ms.max",
        expected: "a whole number of milliseconds from 1 to 9223372036854775807",
        get: |c| c.flush_ms_max.to_string(),
        set: |c, text| number(text, 1..=MS_MAX).map(|n| c.flush_ms_max = n),
    },
    Key {
        name: "index.interval.bytes",
        expected: "a whole number of bytes from 0 to 2147483647",
        get: |c| c.index_interval_bytes.to_string(),
        set: |c, text| number(text, 0..=i32::MAX as u64).map(|n| c.index_interval_bytes = n as u32),
    },
    Key {
        name: "max.compaction.lag.ms",
        expected: "a whole number of milliseconds from 1 to 9223372036854775807",
        get: |c| c.max_compaction_lag_ms.to_string(),
        set: |c, text| number(text, 1..=MS_MAX).map(|n| c.max_compaction_lag_ms = n),
    },
    Key {
        name: "max.message.bytes",
        expected: "a whole number of bytes from 0 to 2147483647",
        get: |c| c.max_message_bytes.to_string(),
        set: |c, text| number(text, 0..=i32::MAX as u64).map(|n| c.max_message_bytes = n as u32),
    },
    Key {
        name: "message.timestamp.type",
        expected: "\"CreateTime\" or \"LogAppendTime\"",
        get: |c| {
            match c.timestamp_type {
                TimestampType::CreateTime => "CreateTime",
                TimestampType::LogAppendTime => "LogAppendTime",
            }
            .into()
        },
        set: |c, text| {
            c.timestamp_type = match text {
                "CreateTime" => TimestampType::CreateTime,
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => return None,
            };
            Some(())
        },
    },
    Key {
        name: "min.cleanable.dirty.ratio",
        expected: "a number from 0 to 1",
        get: |c| c.min_cleanable_dirty_ratio.to_string(),
        set: |c, text| {
            let ratio = text.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio))?;
            c.min_cleanable_dirty_ratio = ratio;
            Some(())
        },
    },
    Key {
        name: "min.compaction.lag.ms",
        expected: MS,
        get: |c| c.min_compaction_lag_ms.to_string(),
        set: |c, text| number(text, 0..=MS_MAX).map(|n| c.min_compaction_lag_ms = n),
    },
    Key {
        name: "retention.bytes",
        expected: "a whole number of bytes from 0, or -1 for no bound",
        get: |c| shown(c.retention_bytes),
        set: |c, text| bound(text).map(|n| c.retention_bytes = n),
    },
    Key {
        name: "retention.ms",
        expected: MS_OR_NONE,
        get: |c| shown(c.retention_ms),
        set: |c, text| bound(text).map(|n| c.retention_ms = n),
    },
    Key {
        name: "segment.bytes",
        expected: "a whole number of bytes from 4096 to 2147483647",
        get: |c| c.segment_bytes.to_string(),
        set: |c, text| number(text, 4096..=i32::MAX as u64).map(|n| c.segment_bytes = n as u32),
    },
    Key {
        name: "segment.ms",
        expected: "a whole number of milliseconds from 1 to 9223372036854775807",
        get: |c| c.segment_ms.to_string(),
        set: |c, text| number(text, 1..=MS_MAX).map(|n| c.segment_ms = n),
    },
];

/// Kafka's keys that mean nothing here, and why, or what to use instead.
const REFUSED: &[(&str, &str)] = &[
    ("compression.gzip.level", "batches are stored as they were sent; set the level at the producer"),
    ("compression.lz4.level", "batches are stored as they were sent; set the level at the producer"),
    ("compression.zstd.level", "batches are stored as they were sent; set the level at the producer"),
    ("file.delete.delay.ms", "removed files go at once, views keep their memory; leave it out"),
    ("flush.messages", "syncs are shared by all who wait; use girok.durability and girok.flush.ms.max"),
    ("flush.ms", "use girok.flush.ms.max, which bounds the same time"),
    ("follower.replication.throttled.replicas", "there are no replicas in one process; leave it out"),
    ("leader.replication.throttled.replicas", "there are no replicas in one process; leave it out"),
    ("local.retention.bytes", "there is no remote storage; use retention.bytes"),
    ("local.retention.ms", "there is no remote storage; use retention.ms"),
    ("message.downconversion.enable", "only record batches of magic 2 exist here; leave it out"),
    ("message.format.version", "only record batches of magic 2 exist here; leave it out"),
    ("message.timestamp.after.max.ms", "records of any time are accepted; check times at the producer"),
    ("message.timestamp.before.max.ms", "records of any time are accepted; check times at the producer"),
    ("message.timestamp.difference.max.ms", "records of any time are accepted; check times at the producer"),
    ("min.insync.replicas", "there are no replicas in one process; girok.durability says what an ack means"),
    ("preallocate", "the active segment is always reserved ahead; leave it out"),
    ("remote.log.copy.disable", "there is no remote storage; leave it out"),
    ("remote.log.delete.on.disable", "there is no remote storage; leave it out"),
    ("remote.storage.enable", "there is no remote storage; leave it out"),
    ("segment.index.bytes", "indexes are as large as they need to be; leave it out"),
    ("segment.jitter.ms", "rolling costs one sync of one folder here and needs no jitter; leave it out"),
    ("unclean.leader.election.enable", "there are no replicas in one process; leave it out"),
];

impl TopicConfig {
    /// Sets one key from its text, as Kafka's tools write it: plain integers, no units. Nothing changes on an error.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown key (the nearest known one is named) or a bad value (the range is named);
    /// [`Error::Unsupported`] for a key of Kafka's that would mean nothing here.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let Some(known) = KEYS.iter().find(|known| known.name == key) else {
            return Err(unknown(key));
        };
        (known.set)(self, value.trim()).ok_or_else(|| {
            let what = format!("value of {key}");
            Error::invalid(what, known.expected, format!("{value:?}"), "write a value in that range")
        })
    }

    /// Sets many keys, or none if one of them is bad.
    ///
    /// ```
    /// # use girok_engine::TopicConfig;
    /// let config = TopicConfig::from_entries([("segment.bytes", "1048576"), ("cleanup.policy", "compact")])?;
    /// assert!(config.is_compacted());
    /// # Ok::<(), girok_engine::Error>(())
    /// ```
    pub fn from_entries<'a>(entries: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let mut config = TopicConfig::default();
        for (key, value) in entries {
            config.set(key, value)?;
        }
        config.validate()?;
        Ok(config)
    }

    /// A key's value as text, or `None` for a key that is not known.
    pub fn get(&self, key: &str) -> Option<String> {
        KEYS.iter().find(|known| known.name == key).map(|known| (known.get)(self))
    }

    /// Every key with its value and whether that is the default, sorted by key.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, String, bool)> + '_ {
        let default = TopicConfig::default();
        KEYS.iter().map(move |key| {
            let value = (key.get)(self);
            let is_default = value == (key.get)(&default);
            (key.name, value, is_default)
        })
    }

    /// Checks what the fields alone do not: they are public, so anything may stand in them.
    pub fn validate(&self) -> Result<()> {
        let mut scratch = TopicConfig::default();
        for (key, value, _) in self.entries() {
            scratch.set(key, &value)?;
        }
        if self.min_compaction_lag_ms > self.max_compaction_lag_ms {
            return Err(Error::invalid(
                "configuration",
                format!(
                    "min.compaction.lag.ms of at most max.compaction.lag.ms, {}",
                    self.max_compaction_lag_ms
                ),
                self.min_compaction_lag_ms,
                "lower the one or raise the other",
            ));
        }
        Ok(())
    }

    /// What a topic gets whose folder Kafka wrote and whose configuration stayed behind at the broker: nothing may go
    /// because of a default, so records are kept until somebody says otherwise; internal topics are compacted, as
    /// they are everywhere.
    pub fn for_adopted(topic: &str) -> Self {
        let kept = TopicConfig { retention_ms: None, ..TopicConfig::default() };
        if is_internal(topic) {
            TopicConfig { cleanup_policy: CleanupPolicy::Compact, segment_bytes: 100 * MIB, ..kept }
        } else {
            kept
        }
    }

    /// Whether the last record of each key is kept.
    pub fn is_compacted(&self) -> bool {
        matches!(self.cleanup_policy, CleanupPolicy::Compact | CleanupPolicy::CompactAndDelete)
    }

    /// Whether old segments go by age and size.
    pub fn deletes(&self) -> bool {
        matches!(self.cleanup_policy, CleanupPolicy::Delete | CleanupPolicy::CompactAndDelete)
    }
}

fn unknown(key: &str) -> Error {
    if let Some((name, why)) = REFUSED.iter().find(|(name, _)| *name == key) {
        return Error::Unsupported { what: format!("configuration key {name}"), fix: (*why).into() };
    }
    let nearest = KEYS.iter().min_by_key(|known| distance(known.name, key)).expect("there are keys");
    Error::invalid(
        "configuration key",
        format!("a key of a topic, such as {}", nearest.name),
        format!("{key:?}"),
        "check the spelling; `girok topics describe` lists all keys",
    )
}

/// How many letters must be added, dropped or changed to make one word of the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

/// How the active segment's memory reaches its file.
///
/// ```
/// use girok_engine::{Env, Log, LogConfig, RegionMode};
/// let config = LogConfig { region: RegionMode::Written, ..LogConfig::default() };
/// let (log, _) = Log::open(Env::in_memory(), "/log", config)?;
/// assert_eq!(log.config().region, RegionMode::Written);
/// # Ok::<(), girok_engine::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RegionMode {
    /// Mapped where the file system reserves blocks for real (ext4, xfs, tmpfs), written elsewhere.
    #[default]
    Auto,
    /// Appenders store into a shared mapping of the file. Refused on file systems that do not reserve blocks.
    Mapped,
    /// Appenders copy into a bounded buffer that is written out in large pieces.
    Written,
}

/// How readers get at the log's bytes.
///
/// ```
/// use girok_engine::*;
/// let config = LogConfig { read: ReadMode::Copy, ..LogConfig::default() };
/// # let (log, _) = Log::open(Env::in_memory(), "/log", config)?;
/// # log.create_topic("orders", 1, TopicConfig::default())?;
/// # let partition = log.partition(&TopicPartition::new("orders", 0))?;
/// # let mut builder = batch::BatchBuilder::new(batch::Codec::None);
/// # builder.append(Timestamp::from_millis(1), None, Some(b"tea"), &[])?;
/// # let batch = builder.finish()?;
/// partition.append(&batch)?;
/// partition.sync()?;
/// partition.fetch(Offset::ZERO, &FetchBounds::default())?;
/// assert_eq!(log.stats().copies, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ReadMode {
    /// Borrowed from a mapping of the file. A medium error, or somebody else cutting the file, is a SIGBUS.
    #[default]
    Mapped,
    /// Read by checked calls into memory of the reader's own: slower, and a medium error is an error.
    Copy,
}

/// When a batch's checksum is checked.
///
/// ```
/// use girok_engine::*;
/// # let env = Env::in_memory();
/// let config = LogConfig { check_crcs: CheckCrcs::Always, ..LogConfig::default() };
/// # let (log, _) = Log::open(env.clone(), "/log", config)?;
/// # log.create_topic("orders", 1, TopicConfig::default())?;
/// # let partition = log.partition(&TopicPartition::new("orders", 0))?;
/// # let mut builder = batch::BatchBuilder::new(batch::Codec::None);
/// # builder.append(Timestamp::from_millis(1), None, Some(b"tea"), &[])?;
/// # let batch = builder.finish()?;
/// # partition.append(&batch)?;
/// # partition.sync()?;
/// assert!(partition.fetch(Offset::ZERO, &FetchBounds::default()).is_ok());
///
/// # let file = env.disk.open("/log/orders-0/00000000000000000000.log".as_ref(), disk::Open::Write)?;
/// disk::write_all_at(&*file, b"?", 66)?; // somebody scribbles over the segment
/// let refused = partition.fetch(Offset::ZERO, &FetchBounds::default()).unwrap_err();
/// assert_eq!(refused.remedy(), Remedy::Restore);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CheckCrcs {
    /// Once after it came from a producer or the medium.
    #[default]
    Once,
    /// And again on every fetch.
    Always,
}

/// How a directory is run. Not kept on disk: each open says it anew.
///
/// ```
/// use girok_engine::{LogConfig, RegionMode};
/// let config = LogConfig { region: RegionMode::Written, max_total_bytes: Some(10 << 30), ..LogConfig::default() };
/// config.validate()?;
/// # Ok::<(), girok_engine::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// The oldest segments of all topics with a deleting policy go when the directory holds more. `None`: no bound.
    pub max_total_bytes: Option<u64>,
    /// At most so many segment files open at a time; never more than half of `RLIMIT_NOFILE`. 512.
    pub open_files_max: u32,
    /// At most so many mappings at a time, views aside; never more than half of `vm.max_map_count`. 16,384.
    pub mappings_max: u32,
    /// How many bytes may be reserved behind one appender's unfinished copy, for each active partition. 1 MiB.
    pub window_bytes: u32,
    /// The buffer between appenders and the file of a *written* region. 8 MiB.
    pub write_buffer_bytes: u32,
    /// An appender that would grow a `Synced` partition's file helps with its sync first when more than this is not
    /// on the medium yet. 64 MiB.
    pub unsynced_bytes_max: u32,
    /// How the active segment's memory reaches its file.
    pub region: RegionMode,
    /// How readers get at the log's bytes.
    pub read: ReadMode,
    /// When checksums are checked.
    pub check_crcs: CheckCrcs,
    /// The first step by which a segment's file grows; each step doubles. 64 KiB.
    pub growth_bytes_min: u32,
    /// The largest step by which a segment's file grows. 64 MiB.
    pub growth_bytes_max: u32,
    /// A partition that was not appended to for so long lets its region and descriptor go. 10 s.
    pub idle_ms: u64,
    /// How often `girok.checkpoint` is written while the log is in use: what a crash leaves to be read again. 5 s.
    pub checkpoint_interval_ms: u64,
    /// How often retention and compaction look for work. 5 minutes, as Kafka's `log.retention.check.interval.ms`.
    pub retention_check_ms: u64,
    /// A compressed batch that grows beyond this when inflated is refused. 64 MiB.
    pub decompressed_bytes_max: u32,
    /// Memory for the offset map of one compaction, as Kafka's `log.cleaner.dedupe.buffer.size`. 128 MiB.
    pub compaction_map_bytes: usize,
    /// Partitions of `__consumer_offsets` when it is created. 1, so that all groups share one group commit (Kafka: 50).
    pub offsets_partitions: i32,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            max_total_bytes: None,
            open_files_max: 512,
            mappings_max: 16_384,
            window_bytes: MIB,
            write_buffer_bytes: 8 * MIB,
            unsynced_bytes_max: 64 * MIB,
            region: RegionMode::Auto,
            read: ReadMode::Mapped,
            check_crcs: CheckCrcs::Once,
            growth_bytes_min: 64 * KIB,
            growth_bytes_max: 64 * MIB,
            idle_ms: 10_000,
            checkpoint_interval_ms: 5_000,
            retention_check_ms: 300_000,
            decompressed_bytes_max: 64 * MIB,
            compaction_map_bytes: 128 * MIB as usize,
            offsets_partitions: 1,
        }
    }
}

impl LogConfig {
    /// Checks every field; the error names the one that is wrong and its range.
    pub fn validate(&self) -> Result<()> {
        let check = |name: &str, found: u64, range: std::ops::RangeInclusive<u64>| {
            if range.contains(&found) {
                return Ok(());
            }
            let expected = match *range.end() {
                u64::MAX => format!("at least {}", range.start()),
                end => format!("{} to {end}", range.start()),
            };
            Err(Error::invalid(
                format!("configuration {name}"),
                expected,
                found,
                "choose a value in that range",
            ))
        };
        const BYTES_MAX: u64 = i32::MAX as u64;
        if let Some(bytes) = self.max_total_bytes {
            check("max_total_bytes", bytes, 1..=u64::MAX)?;
        }
        check("open_files_max", self.open_files_max.into(), 8..=u64::MAX)?;
        check("mappings_max", self.mappings_max.into(), 8..=u64::MAX)?;
        check("window_bytes", self.window_bytes.into(), 4096..=(1 << 30))?;
        check("write_buffer_bytes", self.write_buffer_bytes.into(), 4096..=(1 << 30))?;
        check("unsynced_bytes_max", self.unsynced_bytes_max.into(), 4096..=u64::MAX)?;
        check("growth_bytes_min", self.growth_bytes_min.into(), 4096..=BYTES_MAX)?;
        check("growth_bytes_max", self.growth_bytes_max.into(), self.growth_bytes_min.into()..=BYTES_MAX)?;
        check("idle_ms", self.idle_ms, 1..=u64::MAX)?;
        check("checkpoint_interval_ms", self.checkpoint_interval_ms, 1..=u64::MAX)?;
        check("retention_check_ms", self.retention_check_ms, 1..=u64::MAX)?;
        check("decompressed_bytes_max", self.decompressed_bytes_max.into(), 1024..=BYTES_MAX)?;
        check("compaction_map_bytes", self.compaction_map_bytes as u64, 4096..=u64::MAX)?;
        check("offsets_partitions", self.offsets_partitions.max(0) as u64, 1..=1_000_000)
    }

    /// The same, within what this process may use: at most half of its descriptors and of its mappings.
    pub(crate) fn within(mut self, limits: Limits) -> Self {
        let half = |limit: Option<u64>| limit.map_or(u32::MAX, |n| u32::try_from(n / 2).unwrap_or(u32::MAX));
        self.open_files_max = self.open_files_max.min(half(limits.open_files)).max(8);
        self.mappings_max = self.mappings_max.min(half(limits.mappings)).max(8);
        self
    }
}

/// What the operating system allows this process. `None` is no limit, or none that could be found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// `RLIMIT_NOFILE`, the soft one.
    pub(crate) open_files: Option<u64>,
    /// `vm.max_map_count`.
    pub(crate) mappings: Option<u64>,
}

impl Limits {
    /// Asks the operating system.
    pub(crate) fn of_this_process() -> Self {
        let mappings = std::fs::read_to_string("/proc/sys/vm/max_map_count");
        Limits {
            open_files: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
            mappings: mappings.ok().and_then(|text| text.trim().parse().ok()),
        }
    }
}

/// Kafka's internal topics. The coordinators make them; nobody else may.
pub const INTERNAL_TOPICS: [&str; 2] = ["__consumer_offsets", "__transaction_state"];

/// Whether a topic is one of Kafka's internal ones.
pub fn is_internal(topic: &str) -> bool {
    INTERNAL_TOPICS.contains(&topic)
}

/// What Kafka allows a topic to be called: 1 to 249 of `a-z A-Z 0-9 . _ -`, and neither `.` nor `..`. Internal topics
/// too. The error says what is wrong with it.
pub(crate) fn check_any_topic_name(name: &str) -> Result<()> {
    let wrong = |expected: &str, found: String| {
        Err(Error::invalid("topic name", expected, found, "choose another name; nothing was changed"))
    };
    if name.is_empty() || name.len() > 249 {
        return wrong("1 to 249 characters", format!("{} of them", name.chars().count()));
    }
    if name == "." || name == ".." {
        return wrong("a name that is not a folder's own", format!("{name:?}"));
    }
    let is_legal = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if let Some((at, odd)) = name.chars().enumerate().find(|(_, c)| !is_legal(c)) {
        return wrong(
            "only ASCII letters, digits, '.', '_' and '-'",
            format!("{odd:?} at character {at} of {name:?}"),
        );
    }
    Ok(())
}

/// Kafka's rules for the name of a topic that somebody wants to create: 1 to 249 of `a-z A-Z 0-9 . _ -`, neither `.`
/// nor `..`, and not an internal topic's.
///
/// ```
/// use girok_engine::check_topic_name;
/// assert!(check_topic_name("page-views.v2").is_ok());
/// assert!(check_topic_name("page views").is_err());
/// assert!(check_topic_name("__consumer_offsets").is_err());
/// ```
pub fn check_topic_name(name: &str) -> Result<()> {
    check_any_topic_name(name)?;
    if is_internal(name) {
        return Err(Error::invalid(
            "topic name",
            "a name that is not an internal topic's",
            format!("{name:?}"),
            "choose another name; internal topics are made when they are needed",
        ));
    }
    Ok(())
}

/// Whether two names would be one in a metric's name, where '.' becomes '_'. Kafka refuses the second of them.
pub(crate) fn collides(a: &str, b: &str) -> bool {
    let plain = |byte: u8| if byte == b'.' { b'_' } else { byte };
    a.len() == b.len() && a.bytes().map(plain).eq(b.bytes().map(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_kafkas() {
        let kafka = [
            ("cleanup.policy", "delete"),
            ("compression.type", "producer"),
            ("delete.retention.ms", "86400000"),
            ("index.interval.bytes", "4096"),
            ("max.compaction.lag.ms", "9223372036854775807"),
            ("max.message.bytes", "1048588"),
            ("message.timestamp.type", "CreateTime"),
            ("min.cleanable.dirty.ratio", "0.5"),
            ("min.compaction.lag.ms", "0"),
            ("retention.bytes", "-1"),
            ("retention.ms", "604800000"),
            ("segment.bytes", "1073741824"),
            ("segment.ms", "604800000"),
        ];
        let config = TopicConfig::default();
        for (key, value) in kafka {
            assert_eq!(config.get(key).as_deref(), Some(value), "{key}");
        }
        assert!(config.entries().all(|(_, _, is_default)| is_default));
        config.validate().unwrap();
    }

    #[test]
    fn every_key_can_be_set_to_what_it_shows() {
        let changed = TopicConfig {
            segment_bytes: 4096,
            segment_ms: 1,
            retention_ms: None,
            retention_bytes: Some(7),
            max_message_bytes: 100,
            index_interval_bytes: 0,
            timestamp_type: TimestampType::LogAppendTime,
            cleanup_policy: CleanupPolicy::CompactAndDelete,
            min_cleanable_dirty_ratio: 0.125,
            delete_retention_ms: 2,
            min_compaction_lag_ms: 3,
            max_compaction_lag_ms: 4,
            durability: Durability::Written,
            flush_ms_max: 6,
        };
        let mut again = TopicConfig::default();
        let mut defaults = 0;
        for (key, value, is_default) in changed.entries() {
            defaults += usize::from(is_default);
            again.set(key, &value).unwrap();
        }
        assert_eq!(again, changed);
        assert_eq!(defaults, 1, "compression.type has one value; everything else was changed");
    }

    #[test]
    fn the_keys_are_sorted_and_none_is_both_known_and_refused() {
        assert!(KEYS.windows(2).all(|pair| pair[0].name < pair[1].name));
        assert!(REFUSED.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(REFUSED.iter().all(|(name, _)| KEYS.iter().all(|key| key.name != *name)));
    }

    #[test]
    fn a_misspelt_key_is_answered_with_the_one_that_was_meant() {
        for (typed, meant) in [
            ("retention.mss", "retention.ms"),
            ("segment.byte", "segment.bytes"),
            ("clean.policy", "cleanup.policy"),
            ("girok.durabilty", "girok.durability"),
        ] {
            let said = TopicConfig::default().set(typed, "1").unwrap_err().to_string();
            assert!(said.contains(meant) && said.contains(typed), "{said}");
        }
    }

    #[test]
    fn a_key_that_would_promise_replicas_is_refused_by_name() {
        let refused = TopicConfig::default().set("min.insync.replicas", "2").unwrap_err();
        assert!(matches!(&refused, Error::Unsupported { what, .. } if what.contains("min.insync.replicas")));
        let refused = TopicConfig::default().set("compression.type", "gzip").unwrap_err();
        assert!(refused.to_string().contains("at the producer"), "{refused}");
    }

    #[test]
    fn a_bad_value_changes_nothing_and_names_the_range() {
        let mut config = TopicConfig::default();
        for (key, bad) in [
            ("segment.bytes", "4095"),
            ("segment.bytes", "2147483648"),
            ("segment.bytes", "1GiB"),
            ("segment.bytes", "+8192"),
            ("segment.bytes", ""),
            ("retention.ms", "7d"),
            ("retention.ms", "-2"),
            ("retention.ms", "9223372036854775808"),
            ("cleanup.policy", ""),
            ("cleanup.policy", "compact,shrink"),
            ("min.cleanable.dirty.ratio", "1.5"),
            ("min.cleanable.dirty.ratio", "NaN"),
            ("message.timestamp.type", "createtime"),
            ("girok.durability", "fast"),
        ] {
            let said = config.set(key, bad).unwrap_err().to_string();
            assert!(said.contains(key) && said.contains("expected"), "{said}");
        }
        assert_eq!(config, TopicConfig::default());
    }

    #[test]
    fn fields_set_by_hand_are_checked_too() {
        let config = TopicConfig { segment_bytes: 10, ..TopicConfig::default() };
        assert!(config.validate().unwrap_err().to_string().contains("segment.bytes"));
        let config = TopicConfig { retention_ms: Some(u64::MAX), ..TopicConfig::default() };
        assert!(config.validate().is_err());
        let config =
            TopicConfig { min_compaction_lag_ms: 9, max_compaction_lag_ms: 8, ..TopicConfig::default() };
        assert!(config.validate().unwrap_err().to_string().contains("min.compaction.lag.ms"));
    }

    #[test]
    fn a_directorys_configuration_names_what_is_out_of_range() {
        LogConfig::default().validate().unwrap();
        let config = LogConfig { growth_bytes_max: 4096, ..LogConfig::default() };
        assert!(config.validate().unwrap_err().to_string().contains("growth_bytes_max"));
        let config = LogConfig { offsets_partitions: -1, ..LogConfig::default() };
        assert!(config.validate().unwrap_err().to_string().contains("offsets_partitions"));
        let config = LogConfig { window_bytes: 0, ..LogConfig::default() };
        assert!(config.validate().unwrap_err().to_string().contains("window_bytes"));
    }

    #[test]
    fn a_process_with_few_descriptors_takes_half_of_them() {
        let limits = Limits { open_files: Some(256), mappings: Some(1000) };
        let config = LogConfig::default().within(limits);
        assert_eq!((config.open_files_max, config.mappings_max), (128, 500));
        let config = LogConfig::default().within(Limits::default());
        assert_eq!(config, LogConfig::default());
        assert!(Limits::of_this_process().open_files.is_some_and(|n| n > 0));
    }

    #[test]
    fn topic_names_follow_kafkas_rules() {
        let longest = "x".repeat(249);
        for good in ["a", "A.b_c-9", "...", "-", &longest, "__mine"] {
            check_topic_name(good).unwrap();
        }
        let too_long = "x".repeat(250);
        for bad in ["", ".", "..", "a b", "a/b", "caf\u{e9}", "a\0", "a\n", &too_long] {
            check_topic_name(bad).unwrap_err();
        }
        for internal in INTERNAL_TOPICS {
            check_any_topic_name(internal).unwrap();
            assert!(check_topic_name(internal).unwrap_err().to_string().contains("internal"));
        }
        assert!(collides("a.b_c", "a_b.c") && !collides("a.b", "a.b.") && !collides("a.b", "a.c"));
    }

    /// Kafka's week of retention must not remove old records the moment a folder is copied here.
    #[test]
    fn an_adopted_topic_loses_nothing_to_a_default() {
        let adopted = TopicConfig::for_adopted("orders");
        assert_eq!(
            (adopted.retention_ms, adopted.retention_bytes, adopted.is_compacted()),
            (None, None, false)
        );
        let offsets = TopicConfig::for_adopted("__consumer_offsets");
        assert!(offsets.is_compacted() && !offsets.deletes());
    }
}
