//! The nouns everybody shares: offsets, positions, topic names, partitions, durability.
//!
//! They are different types because they are different things. An [`Offset`] counts records in a partition, a
//! [`Position`] counts bytes in a segment file, and adding one to the other does not compile.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};

/// A record's number in its partition, from 0. Negative numbers never name a record; Kafka uses them as marks.
///
/// ```
/// use girok_engine::Offset;
/// assert_eq!(Offset::new(41) + 1, Offset::new(42));
/// assert_eq!(Offset::new(42) - Offset::new(40), 2);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Offset(i64);

impl Offset {
    /// The first offset a partition can have.
    pub const ZERO: Offset = Offset(0);

    /// Wraps a number. Doors check for negative ones and name them in their errors.
    pub const fn new(offset: i64) -> Self {
        Offset(offset)
    }

    /// The number.
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl From<i64> for Offset {
    fn from(offset: i64) -> Self {
        Offset(offset)
    }
}

impl std::ops::Add<i64> for Offset {
    type Output = Offset;
    fn add(self, records: i64) -> Offset {
        Offset(self.0 + records)
    }
}

impl std::ops::Sub for Offset {
    type Output = i64;
    fn sub(self, other: Offset) -> i64 {
        self.0 - other.0
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A byte position in one segment file. At most 2³¹ − 1, as in Kafka.
///
/// ```
/// use girok_engine::Position;
/// assert!(Position::ZERO < Position::new(61), "the second batch stands behind the first one's header");
/// assert_eq!(Position::MAX.get(), i32::MAX as u32);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Position(u32);

impl Position {
    /// The first byte.
    pub const ZERO: Position = Position(0);
    /// No segment is longer than this.
    pub const MAX: Position = Position(i32::MAX as u32);

    /// Wraps a number of bytes.
    pub const fn new(bytes: u32) -> Self {
        Position(bytes)
    }

    /// The number of bytes from the start of the file.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Milliseconds since 1970, as Kafka stamps records. Negative means "none" (Kafka's −1).
///
/// ```
/// use girok_engine::Timestamp;
/// let noon = Timestamp::from_millis(43_200_000);
/// assert_eq!(noon.as_millis(), 12 * 60 * 60 * 1000);
/// assert!(Timestamp::NONE < noon);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Kafka's mark for a record that carries no time.
    pub const NONE: Timestamp = Timestamp(-1);

    /// Wraps milliseconds since the Unix epoch.
    pub const fn from_millis(ms: i64) -> Self {
        Timestamp(ms)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A partition of a topic, by name. Cheap to clone. Written `topic-N`, like its folder.
///
/// ```
/// use girok_engine::TopicPartition;
/// let tp: TopicPartition = "page-views-3".parse().unwrap();
/// assert_eq!((tp.topic(), tp.partition()), ("page-views", 3));
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    topic: Arc<str>,
    partition: i32,
}

impl TopicPartition {
    /// Names a partition; nothing is checked here, the door that takes it does.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        TopicPartition { topic: topic.into(), partition }
    }

    /// The topic's name.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The topic's name, shared.
    pub fn topic_shared(&self) -> Arc<str> {
        self.topic.clone()
    }

    /// The partition's number, from 0.
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// The name of the folder that holds it: `topic-N`.
    pub fn folder(&self) -> String {
        self.to_string()
    }
}

impl std::str::FromStr for TopicPartition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::Invalid {
            what: "partition name".into(),
            expected: "TOPIC-N with N from 0".into(),
            found: format!("{text:?}"),
            fix: "write the topic's name, a hyphen and the partition's number".into(),
        };
        let (topic, number) = text.rsplit_once('-').ok_or_else(wrong)?;
        let plain = !number.is_empty()
            && number.bytes().all(|b| b.is_ascii_digit())
            && (number == "0" || !number.starts_with('0'));
        if topic.is_empty() || !plain {
            return Err(wrong());
        }
        Ok(TopicPartition::new(topic, number.parse().map_err(|_| wrong())?))
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

impl fmt::Debug for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A topic's identity, which outlives its name: a re-created topic has another id. Shown as Kafka shows it, in
/// URL-safe base64 without padding.
///
/// ```
/// use girok_engine::TopicId;
/// let id: TopicId = "dSeqYQWsRMq6ZpYM8_CjTA".parse().unwrap();
/// assert_eq!(id.to_string(), "dSeqYQWsRMq6ZpYM8_CjTA");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TopicId(pub [u8; 16]);

impl TopicId {
    /// No id: what records from before topic ids carry.
    pub const ZERO: TopicId = TopicId([0; 16]);
}

const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // 16 bytes are 128 bits: 21 digits of 6 bits and one of 2, padded on the right with zeros.
        let bits = u128::from_be_bytes(self.0);
        for digit in 0..22 {
            let value = if digit < 21 { (bits >> (122 - 6 * digit)) & 63 } else { (bits & 3) << 4 };
            write!(f, "{}", BASE64_URL[value as usize] as char)?;
        }
        Ok(())
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for TopicId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::Invalid {
            what: "topic id".into(),
            expected: "22 digits of URL-safe base64".into(),
            found: format!("{text:?}"),
            fix: "copy the id as `girok topics` or Kafka's tools print it".into(),
        };
        if text.len() != 22 {
            return Err(wrong());
        }
        let mut bits = 0u128;
        for (digit, byte) in text.bytes().enumerate() {
            let value = BASE64_URL.iter().position(|&b| b == byte).ok_or_else(wrong)? as u128;
            bits = match digit {
                0..21 => (bits << 6) | value,
                _ if value & 15 == 0 => (bits << 2) | (value >> 4),
                _ => return Err(wrong()),
            };
        }
        Ok(TopicId(bits.to_be_bytes()))
    }
}

/// How much must survive before the producer hears "done". Ordered: `Written < Synced`.
///
/// ```
/// # use girok_engine::*;
/// # let (log, _) = Log::open(Env::in_memory(), "/log", LogConfig::default())?;
/// # log.create_topic("orders", 1, TopicConfig::default())?;
/// # let partition = log.partition(&TopicPartition::new("orders", 0))?;
/// # let mut builder = batch::BatchBuilder::new(batch::Codec::None);
/// # builder.append(Timestamp::from_millis(1), None, Some(b"tea"), &[])?;
/// # let batch = builder.finish()?;
/// let appended = partition.append(&batch)?;
/// partition.wait_for(appended.next_offset, Durability::Synced)?;
/// assert_eq!(partition.synced_offset(), appended.next_offset);
/// assert!(Durability::Written < Durability::Synced);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Durability {
    /// In the kernel's page cache: the process may die, the machine may not.
    Written,
    /// On the medium: the machine may lose power. Costs one sync, shared by all who wait for it.
    #[default]
    Synced,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::Written => "written",
            Durability::Synced => "synced",
        })
    }
}
