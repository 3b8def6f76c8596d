//! What a poll returns: records of one partition, borrowed from the very memory the log is in.
//!
//! A [`Records`] holds its segment (or, for compressed batches, an inflated copy in a pooled buffer) by one reference
//! count and borrows neither consumer nor log, so it can be sent to another thread and outlive both. Its batches were
//! walked before it was handed out, so iterating meets no errors.

use std::borrow::Cow;
use std::fmt;
use std::iter::FusedIterator;
use std::sync::Arc;

use girok_engine::batch::{self, Batch, RecordPlace};
use girok_engine::{Offset, Timestamp, TopicPartition, View};

/// What keeps the bytes.
#[derive(Clone)]
pub(crate) enum Keep {
    Nothing,
    View(View),
    /// Plain images of compressed batches.
    Plain(Arc<Vec<u8>>),
}

/// Records of one partition, as a poll returns them. [`Send`], [`Sync`], cheap to clone; keeps its memory alive for as
/// long as it lives, whatever retention does meanwhile.
///
/// ```
/// # use std::time::Duration;
/// # use girok::*;
/// # let girok = Girok::in_memory()?;
/// # girok.admin().create_topic("orders", 1, TopicConfig::default())?;
/// # let producer = girok.producer().build()?;
/// # producer.send(ProducerRecord::new("orders", "tea").key("table 4"))?.wait()?;
/// # let mut consumer = girok.consumer().build()?;
/// # consumer.assign(&[TopicPartition::new("orders", 0)])?;
/// let records = consumer.poll(Duration::from_secs(5))?;
/// assert_eq!(records.len(), 1);
/// for record in &records {
///     println!("{}@{}: {:?}", record.topic_partition(), record.offset(), record.value());
/// }
/// let elsewhere = std::thread::spawn(move || records.next_offset());
/// assert_eq!(elsewhere.join().unwrap(), Offset::new(1));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone)]
#[must_use = "records that were polled count as processed at the next poll, looked at or not"]
pub struct Records {
    pub(crate) topic_partition: TopicPartition,
    pub(crate) keep: Keep,
    /// Whole batches, somewhere in what is kept.
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// Where in the first of them to begin.
    pub(crate) place: RecordPlace,
    /// Only offsets in `from..next` are meant.
    pub(crate) from: Offset,
    pub(crate) next: Offset,
    pub(crate) len: usize,
}

impl Records {
    pub(crate) fn empty(topic_partition: TopicPartition) -> Self {
        Records {
            topic_partition,
            keep: Keep::Nothing,
            start: 0,
            end: 0,
            place: RecordPlace::default(),
            from: Offset::ZERO,
            next: Offset::ZERO,
            len: 0,
        }
    }

    /// The partition all of them are from. When there are none, a name that no partition has.
    pub fn topic_partition(&self) -> &TopicPartition {
        &self.topic_partition
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none: the poll's time was up.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// No record here has a lower offset.
    pub fn first_offset(&self) -> Offset {
        self.from
    }

    /// Where the consumer reads on; what to commit when all of these are processed.
    pub fn next_offset(&self) -> Offset {
        self.next
    }

    /// The records, in order of offset.
    #[inline]
    pub fn iter(&self) -> Iter<'_> {
        let rest = &self.bytes()[self.start..self.end];
        Iter { records: self, rest, place: self.place, batch: None, left: self.len }
    }

    fn bytes(&self) -> &[u8] {
        match &self.keep {
            Keep::Nothing => &[],
            Keep::View(view) => view.bytes(),
            Keep::Plain(plain) => plain,
        }
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.len {
            0 => f.write_str("Records(none)"),
            n => write!(f, "Records({n} of {}, {} to {})", self.topic_partition, self.from, self.next),
        }
    }
}

impl<'a> IntoIterator for &'a Records {
    type Item = Record<'a>;
    type IntoIter = Iter<'a>;
    #[inline]
    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// The records of one poll. From [`Records::iter`].
///
/// ```
/// # use std::time::Duration;
/// # use girok::*;
/// # let girok = Girok::in_memory()?;
/// # girok.admin().create_topic("orders", 1, TopicConfig::default())?;
/// # let producer = girok.producer().build()?;
/// for drink in ["tea", "coffee"] {
///     producer.send(ProducerRecord::new("orders", drink))?;
/// }
/// producer.flush()?;
/// # let mut consumer = girok.consumer().group_id("kitchen").build()?;
/// # consumer.assign(&[TopicPartition::new("orders", 0)])?;
/// let records = consumer.poll(Duration::from_secs(5))?;
/// let mut iter: Iter<'_> = records.iter();
/// assert_eq!(iter.len(), records.len());
/// assert_eq!(iter.next().unwrap().value(), Some(&b"tea"[..]));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone)]
pub struct Iter<'a> {
    records: &'a Records,
    rest: &'a [u8],
    /// Where to begin in the next batch.
    place: RecordPlace,
    batch: Option<batch::Records<'a>>,
    left: usize,
}

impl fmt::Debug for Iter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Iter({} of {:?})", self.left, self.records)
    }
}

/// The records of the next batch that is not a control batch, from `place` on if it is the very next, and what is behind it. A
/// function of bytes and not a method: an iterator whose address nobody takes stays in registers.
#[inline(never)]
fn next_batch(mut rest: &[u8], mut place: RecordPlace) -> Option<(batch::Records<'_>, &[u8])> {
    // What is here was walked before it was handed out, so a flaw would be ours; it ends the iteration.
    while let Ok(batch) = Batch::parse(rest) {
        rest = &rest[batch.bytes().len()..];
        let begin = std::mem::take(&mut place);
        if !batch.header().is_control() {
            return Some((batch.records_from(begin), rest));
        }
    }
    debug_assert!(rest.is_empty(), "a batch that was walked does not parse");
    None
}

impl<'a> Iterator for Iter<'a> {
    type Item = Record<'a>;

    #[inline]
    fn next(&mut self) -> Option<Record<'a>> {
        if self.left == 0 {
            return None;
        }
        loop {
            if let Some(batch) = &mut self.batch {
                while let Some(Ok(inner)) = batch.next() {
                    // Before: part of a batch that begins earlier. (After cannot be: `left` is counted.)
                    if inner.offset() >= self.records.from {
                        self.left -= 1;
                        return Some(Record { topic_partition: &self.records.topic_partition, inner });
                    }
                    super::cut::effort::walked();
                }
            }
            let Some((batch, rest)) = next_batch(self.rest, std::mem::take(&mut self.place)) else {
                self.left = 0;
                return None;
            };
            (self.batch, self.rest) = (Some(batch), rest);
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Iter<'_> {}
impl FusedIterator for Iter<'_> {}

/// One record, borrowed from a [`Records`].
///
/// ```
/// # use std::time::Duration;
/// # use girok::*;
/// # let girok = Girok::in_memory()?;
/// # girok.admin().create_topic("orders", 1, TopicConfig::default())?;
/// # let producer = girok.producer().build()?;
/// producer.send(ProducerRecord::new("orders", "tea").key("table 4").header("trace", "a1"))?.wait()?;
/// # let mut consumer = girok.consumer().build()?;
/// # consumer.assign(&[TopicPartition::new("orders", 0)])?;
/// let records = consumer.poll(Duration::from_secs(5))?;
/// let record = records.iter().next().unwrap();
/// assert_eq!((record.key(), record.value()), (Some(&b"table 4"[..]), Some(&b"tea"[..])));
/// let trace = record.headers().next().unwrap();
/// assert_eq!((&*trace.key(), trace.value()), ("trace", Some(&b"a1"[..])));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Record<'a> {
    topic_partition: &'a TopicPartition,
    inner: batch::Record<'a>,
}

impl<'a> Record<'a> {
    /// The partition it is from.
    pub fn topic_partition(&self) -> &'a TopicPartition {
        self.topic_partition
    }

    /// The topic it is from.
    pub fn topic(&self) -> &'a str {
        self.topic_partition.topic()
    }

    /// The number of the partition it is from.
    pub fn partition(&self) -> i32 {
        self.topic_partition.partition()
    }

    /// Its offset in the partition.
    #[inline]
    pub fn offset(&self) -> Offset {
        self.inner.offset()
    }

    /// Its time: its producer's, or the log's where the topic stamps records.
    #[inline]
    pub fn timestamp(&self) -> Timestamp {
        self.inner.timestamp()
    }

    /// The key. `None` is Kafka's null, not the empty key.
    #[inline]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.inner.key()
    }

    /// The value. `None` is Kafka's null: in a compacted topic, a tombstone.
    #[inline]
    pub fn value(&self) -> Option<&'a [u8]> {
        self.inner.value()
    }

    /// The headers, in order.
    pub fn headers(&self) -> Headers<'a> {
        Headers(self.inner.headers())
    }

    /// The value of the last header of that name, as Kafka's `lastHeader`; the inner `None` is null.
    pub fn header(&self, name: &str) -> Option<Option<&'a [u8]>> {
        self.headers()
            .filter(|header| header.key_bytes() == name.as_bytes())
            .last()
            .map(|header| header.value())
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{} ", self.topic_partition, self.offset())?;
        self.inner.fmt(f)
    }
}

/// The headers of one record, in order. From [`Record::headers`].
///
/// ```
/// # use std::time::Duration;
/// # use girok::*;
/// # let girok = Girok::in_memory()?;
/// # girok.admin().create_topic("orders", 1, TopicConfig::default())?;
/// # let producer = girok.producer().build()?;
/// let tea = ProducerRecord::new("orders", "tea").header("trace", "a1").header("trace", "b2");
/// producer.send(tea)?.wait()?;
/// # let mut consumer = girok.consumer().group_id("kitchen").build()?;
/// # consumer.assign(&[TopicPartition::new("orders", 0)])?;
/// # let records = consumer.poll(Duration::from_secs(5))?;
/// # let record = records.iter().next().unwrap();
/// let headers: Headers<'_> = record.headers();
/// assert_eq!(headers.map(|header| header.value().unwrap()).collect::<Vec<_>>(), [b"a1", b"b2"]);
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Headers<'a>(batch::Headers<'a>);

impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        // Walked before it was handed out.
        self.0.next()?.ok().map(Header)
    }
}

impl FusedIterator for Headers<'_> {}

/// One header: a name, which may repeat, and a value, which may be null.
///
/// ```
/// # use std::time::Duration;
/// # use girok::*;
/// # let girok = Girok::in_memory()?;
/// # girok.admin().create_topic("orders", 1, TopicConfig::default())?;
/// # let producer = girok.producer().build()?;
/// let tea = ProducerRecord::new("orders", "tea").header("trace", "a1").header("trace", "b2");
/// producer.send(tea)?.wait()?;
/// # let mut consumer = girok.consumer().group_id("kitchen").build()?;
/// # consumer.assign(&[TopicPartition::new("orders", 0)])?;
/// # let records = consumer.poll(Duration::from_secs(5))?;
/// # let record = records.iter().next().unwrap();
/// let header: Header<'_> = record.headers().next().unwrap();
/// assert_eq!((&*header.key(), header.value()), ("trace", Some(&b"a1"[..])));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a>(batch::RecordHeader<'a>);

impl<'a> Header<'a> {
    /// The name. What is not UTF-8 is shown with replacement characters, as Kafka's clients do.
    pub fn key(&self) -> Cow<'a, str> {
        self.0.key()
    }

    /// The name as it lies in the record.
    pub fn key_bytes(&self) -> &'a [u8] {
        self.0.key_bytes()
    }

    /// The value.
    pub fn value(&self) -> Option<&'a [u8]> {
        self.0.value()
    }
}
