//! What a producer sends: borrowed where it can be, owned where that is easier.

use std::borrow::Cow;
use std::ops::Deref;

use girok_engine::Timestamp;

/// Bytes to send: a borrowed or owned slice or string.
///
/// ```
/// use girok::Bytes;
/// let all: [Bytes<'_>; 4] = ["text".into(), b"bytes".into(), vec![1, 2].into(), String::from("owned").into()];
/// assert_eq!(all[1].len(), 5);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bytes<'a>(Cow<'a, [u8]>);

impl Deref for Bytes<'_> {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

macro_rules! from_borrowed {
    ($($kind:ty),*) => {$(
        impl<'a> From<&'a $kind> for Bytes<'a> {
            fn from(bytes: &'a $kind) -> Self {
                Bytes(Cow::Borrowed(bytes.as_ref()))
            }
        }
    )*};
}
from_borrowed!([u8], str, Vec<u8>, String);

impl<'a, const N: usize> From<&'a [u8; N]> for Bytes<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Bytes(Cow::Borrowed(bytes))
    }
}

impl From<Vec<u8>> for Bytes<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes(Cow::Owned(bytes))
    }
}

impl From<String> for Bytes<'_> {
    fn from(text: String) -> Self {
        Bytes(Cow::Owned(text.into_bytes()))
    }
}

impl<'a> From<Cow<'a, [u8]>> for Bytes<'a> {
    fn from(bytes: Cow<'a, [u8]>) -> Self {
        Bytes(bytes)
    }
}

/// A record to send: a topic and a value, and what else it may have.
///
/// ```
/// use girok::{ProducerRecord, Timestamp};
/// let record = ProducerRecord::new("orders", "two coffees")
///     .key("table 4")
///     .timestamp(Timestamp::from_millis(1_700_000_000_000))
///     .header("trace", "a1");
/// assert_eq!(record.topic(), "orders");
/// ```
#[derive(Clone, Debug)]
#[must_use = "a record goes nowhere until it is sent"]
pub struct ProducerRecord<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: Option<i32>,
    pub(crate) timestamp: Option<Timestamp>,
    pub(crate) key: Option<Bytes<'a>>,
    pub(crate) value: Option<Bytes<'a>>,
    pub(crate) headers: Vec<(&'a str, Option<&'a [u8]>)>,
}

impl<'a> ProducerRecord<'a> {
    /// A record without key, for a partition that the producer chooses, stamped with the clock when it is sent.
    pub fn new(topic: &'a str, value: impl Into<Bytes<'a>>) -> Self {
        ProducerRecord {
            topic,
            partition: None,
            timestamp: None,
            key: None,
            value: Some(value.into()),
            headers: Vec::new(),
        }
    }

    /// A record whose value is null: in a compacted topic, the end of its key.
    pub fn tombstone(topic: &'a str, key: impl Into<Bytes<'a>>) -> Self {
        ProducerRecord { value: None, ..ProducerRecord::new(topic, &[]).key(key) }
    }

    /// Its key. Records of one key go to one partition, in order. Without one the key is null.
    pub fn key(mut self, key: impl Into<Bytes<'a>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The partition it goes to, whatever its key.
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Its time, if it is not the time of sending.
    pub fn timestamp(mut self, timestamp: Timestamp) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// Adds a header. Names may repeat; their order is kept.
    pub fn header(mut self, name: &'a str, value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.headers.push((name, Some(value.as_ref())));
        self
    }

    /// Adds a header whose value is null.
    pub fn null_header(mut self, name: &'a str) -> Self {
        self.headers.push((name, None));
        self
    }

    /// The topic it is for.
    pub fn topic(&self) -> &str {
        self.topic
    }
}
