//! Sending: a record is encoded at once into its partition's open batch, so nothing need be owned, and its place comes
//! back as a [`Delivery`] that can be waited for, awaited or dropped.
//!
//! ```text
//!  send ── partitioner ── lane of the partition ── open batch ──(full, linger over, waited for)── append ── sync
//!                         one lock, no allocation                in the thread that filled it      shared
//! ```
//!
//! There is no sender thread and no network, so a batch is appended by whoever fills it; what nobody fills is appended
//! by the background when its linger is over. A record that was sent and not yet appended lives in this process only,
//! as in Kafka's client: it is safe once its delivery says so.

mod delivery;
mod lane;
mod record;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::Duration;

use girok_engine::batch::Codec;
use girok_engine::{Durability, Timestamp, TopicDescription, TopicId, TopicPartition, is_internal};

use crate::core::Core;
use crate::error::{Error, Result, do_all, invalid, unsupported};
use crate::girok::Handle;
use crate::partitioner::{self, Partitioner, Strategy, partition_for_key};

pub use delivery::{Delivery, RecordMetadata};
pub(crate) use lane::Lane;
pub use record::{Bytes, ProducerRecord};

/// How a producer sends. Names and defaults are those of Kafka's producer where it has them.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) linger: Duration,
    pub(crate) batch_size: usize,
    pub(crate) compression: Codec,
    pub(crate) durability: Option<Durability>,
    pub(crate) max_request_size: usize,
    pub(crate) buffer_memory: usize,
    pub(crate) max_block: Duration,
    pub(crate) strategy: Strategy,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            linger: Duration::from_millis(5),
            batch_size: 16_384,
            compression: Codec::None,
            durability: None,
            max_request_size: 1 << 20,
            buffer_memory: 32 << 20,
            max_block: Duration::from_secs(60),
            strategy: Strategy::Default,
        }
    }
}

/// Configures a [`Producer`]. From [`Girok::producer`](crate::Girok::producer).
///
/// ```
/// use std::time::Duration;
/// use girok::{Codec, Girok};
/// let girok = Girok::in_memory()?;
/// let producer = girok.producer().linger(Duration::from_millis(20)).compression(Codec::Lz4).build()?;
/// # Ok::<(), girok::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it builds"]
pub struct ProducerBuilder {
    handle: Arc<Handle>,
    settings: Settings,
}

impl ProducerBuilder {
    pub(crate) fn new(handle: Arc<Handle>) -> Self {
        ProducerBuilder { handle, settings: Settings::default() }
    }

    /// How long a batch that is not full waits for more records (`linger.ms`). 5 ms, as in Kafka 4: an append costs
    /// less here than a network round trip, but a batch of one record takes up to twice the bytes and the reading of
    /// one among many, for ever. With zero each record is a batch of its own and appended before `send` returns.
    /// Whoever waits for a delivery never waits for the linger.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.settings.linger = linger;
        self
    }

    /// A batch is appended before it would grow beyond so many bytes, uncompressed (`batch.size`). 16,384. A larger
    /// record gets a batch of its own.
    pub fn batch_size(mut self, bytes: usize) -> Self {
        self.settings.batch_size = bytes;
        self
    }

    /// How batches are compressed (`compression.type`). [`Codec::None`].
    pub fn compression(mut self, codec: Codec) -> Self {
        self.settings.compression = codec;
        self
    }

    /// What a delivery waits for, in the place of Kafka's `acks`: by default the topic's own durability, at which a
    /// record also becomes visible. [`Durability::Written`] is told earlier; the record is not seen earlier.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.settings.durability = Some(durability);
        self
    }

    /// No record is larger, encoded and uncompressed (`max.request.size`). 1 MiB. The topic's `max.message.bytes`
    /// bounds the batch as it is stored.
    pub fn max_request_size(mut self, bytes: usize) -> Self {
        self.settings.max_request_size = bytes;
        self
    }

    /// Open batches take at most so much memory together (`buffer.memory`). 32 MiB. A send that would need more
    /// appends what is open first.
    pub fn buffer_memory(mut self, bytes: usize) -> Self {
        self.settings.buffer_memory = bytes;
        self
    }

    /// How long a send waits when appends are ahead of the disk (`max.block.ms`). 60 s. Then it fails, and its record
    /// was not taken.
    pub fn max_block(mut self, time: Duration) -> Self {
        self.settings.max_block = time;
        self
    }

    /// Chooses partitions by a rule of one's own (`partitioner.class`). The default is Kafka's: by key, else sticky.
    pub fn partitioner(mut self, partitioner: impl Partitioner + 'static) -> Self {
        self.settings.strategy = Strategy::Custom(Arc::new(partitioner));
        self
    }

    /// Partitions take turns, keys or not (Kafka's `RoundRobinPartitioner`).
    pub fn round_robin(mut self) -> Self {
        self.settings.strategy = Strategy::RoundRobin;
        self
    }

    /// The producer.
    ///
    /// # Errors
    /// A setting out of bounds; a codec that this build leaves out.
    pub fn build(self) -> Result<Producer> {
        let ProducerBuilder { handle, settings } = self;
        handle.core.check()?;
        const MAX: usize = 1 << 30;
        for (name, found, least) in [
            ("batch_size", settings.batch_size, 1),
            ("max_request_size", settings.max_request_size, 1),
            ("buffer_memory", settings.buffer_memory, settings.batch_size),
        ] {
            if found < least || (found > MAX && name != "buffer_memory") {
                let expected = format!("{least} to {MAX} bytes");
                return Err(invalid(name, expected, found, "choose a value in that range"));
            }
        }
        if !settings.compression.is_built_in() {
            let codec = settings.compression;
            return Err(unsupported(
                &format!("compression with {codec} in this build"),
                &format!("build girok with the feature \"{codec}\""),
            ));
        }
        let lanes = Arc::new(Lanes {
            core: handle.core.clone(),
            settings,
            topics: RwLock::default(),
            buffered: AtomicUsize::new(0),
            failure: Mutex::default(),
        });
        handle.core.register(&lanes);
        Ok(Producer(Arc::new(Last { lanes, handle })))
    }
}

/// Sends records. Cheap to clone; all clones are one and share open batches. May be used from any thread.
///
/// Dropping the last clone appends what is still open ([`Written`](Durability::Written), not synced) and tells nobody
/// about errors; call [`flush`](Self::flush) to be told. In a forked child, drop does nothing.
///
/// ```
/// use girok::{Durability, Girok, ProducerRecord, TopicConfig};
/// let girok = Girok::in_memory()?;
/// girok.admin().create_topic("orders", 3, TopicConfig::default())?;
///
/// let producer = girok.producer().build()?;
/// let sent = producer.send(ProducerRecord::new("orders", "two coffees").key("table 4"))?;
/// let metadata = sent.wait()?;
/// assert_eq!((metadata.offset.get(), metadata.durability), (0, Durability::Synced));
/// # Ok::<(), girok::Error>(())
/// ```
#[derive(Clone)]
pub struct Producer(Arc<Last>);

/// The last clone of a producer appends what is open.
struct Last {
    lanes: Arc<Lanes>,
    handle: Arc<Handle>,
}

impl Drop for Last {
    fn drop(&mut self) {
        if self.handle.core.process.is_current() {
            let _ = self.lanes.append_all();
        }
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("settings", &self.0.lanes.settings).finish_non_exhaustive()
    }
}

impl Producer {
    /// Sends a record. It is encoded before this returns, so nothing of it need live on.
    ///
    /// # Errors
    /// Nothing was taken: an unknown topic or partition, a record larger than `max_request_size` or the topic allows,
    /// a negative timestamp; [`Error::Timeout`] when appends stayed ahead of the disk for `max_block`; and what the
    /// append of the batch that was full said ([`NoRoom`](girok_engine::Error::NoRoom) and the like), which its own
    /// deliveries and [`flush`](Self::flush) are told as well.
    pub fn send(&self, record: ProducerRecord<'_>) -> Result<Delivery> {
        let lanes = &self.0.lanes;
        lanes.core.check()?;
        let topic = lanes.topic(record.topic)?;
        lanes.send(
            &topic,
            record.partition,
            record.timestamp,
            record.key.as_deref(),
            record.value.as_deref(),
            &record.headers,
        )
    }

    /// A topic to send to with [`send_to`](Self::send_to), looked up once.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn topic(&self, name: &str) -> Result<ProducerTopic> {
        self.0.lanes.core.check()?;
        Ok(ProducerTopic(RwLock::new(self.0.lanes.topic(name)?)))
    }

    /// [`send`](Self::send) without looking the topic up: the shortest way from bytes to a batch.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_to(
        &self,
        topic: &ProducerTopic,
        partition: Option<i32>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Result<Delivery> {
        let lanes = &self.0.lanes;
        lanes.core.check()?;
        let held = topic.0.read().unwrap();
        if held.epoch == lanes.core.topics_epoch.load(Ordering::Acquire) {
            return lanes.send(&held, partition, None, key, value, &[]);
        }
        let name = held.name.clone();
        drop(held);
        let fresh = lanes.topic(&name)?;
        *topic.0.write().unwrap() = fresh.clone();
        lanes.send(&fresh, partition, None, key, value, &[])
    }

    /// Appends everything that is open and waits until all that was sent has the durability that deliveries wait for.
    ///
    /// # Errors
    /// The first failure of a batch since the last flush, whether or not somebody waited for it. Later batches were
    /// appended all the same.
    pub fn flush(&self) -> Result<()> {
        let lanes = &self.0.lanes;
        lanes.core.check()?;
        // Open batches of all partitions first, so that their syncs can be shared.
        let appended = lanes.append_all();
        let waited = lanes.wait_all();
        let failure = lanes.failure.lock().unwrap().take();
        match failure {
            Some(error) => Err(error),
            None => appended.and(waited),
        }
    }

    /// How many partitions a topic has.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn partitions_for(&self, topic: &str) -> Result<i32> {
        self.0.lanes.core.check()?;
        Ok(self.0.lanes.topic(topic)?.lanes.len() as i32)
    }

    /// Bytes set aside for batches that are open now: at most `buffer_memory`, and a batch for each thread that is sending.
    pub fn buffered_bytes(&self) -> usize {
        self.0.lanes.buffered.load(Ordering::Relaxed)
    }
}

/// A topic that a producer has looked up. See [`Producer::send_to`].
///
/// ```
/// use girok::{Girok, TopicConfig};
/// let girok = Girok::in_memory()?;
/// girok.admin().create_topic("orders", 3, TopicConfig::default())?;
/// let producer = girok.producer().build()?;
/// let orders = producer.topic("orders")?;
/// for n in 0..1000u32 {
///     producer.send_to(&orders, Some(1), None, Some(&n.to_be_bytes()))?;
/// }
/// producer.flush()?;
/// # Ok::<(), girok::Error>(())
/// ```
pub struct ProducerTopic(RwLock<Arc<Topic>>);

impl fmt::Debug for ProducerTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProducerTopic({})", self.0.read().unwrap().name)
    }
}

/// A topic as its producer knows it.
pub(crate) struct Topic {
    name: Arc<str>,
    /// The facade's count of changes to topics when this was looked up.
    epoch: u64,
    id: TopicId,
    /// One for each partition, made when the first record goes there: nobody opens ten thousand partitions to send to one,
    /// and one that cannot be used keeps no record from the others. Shared with what the topic was known as before, so
    /// that a lane opened by one who still knows that is found by a flush.
    lanes: Vec<Arc<OnceLock<Arc<Lane>>>>,
    /// Where records without a key go (upper half), and how many bytes went there (lower half).
    sticky: AtomicU64,
    turn: AtomicU32,
}

/// A producer's inner life: a lane for each partition it has sent to.
pub(crate) struct Lanes {
    pub(crate) core: Arc<Core>,
    pub(crate) settings: Settings,
    topics: RwLock<BTreeMap<Arc<str>, Arc<Topic>>>,
    /// Set aside for open batches.
    pub(crate) buffered: AtomicUsize,
    /// The first failure since the last flush.
    pub(crate) failure: Mutex<Option<Error>>,
}

impl Lanes {
    fn topic(self: &Arc<Self>, name: &str) -> Result<Arc<Topic>> {
        let epoch = self.core.topics_epoch.load(Ordering::Acquire);
        if let Some(topic) = self.topics.read().unwrap().get(name)
            && topic.epoch == epoch
        {
            return Ok(topic.clone());
        }
        self.look_up(name)
    }

    /// Asks the log what the topic is now. Lanes of partitions that are still the same stay, open batches and all.
    #[cold]
    fn look_up(self: &Arc<Self>, name: &str) -> Result<Arc<Topic>> {
        if is_internal(name) {
            return Err(invalid(
                "topic",
                "one of your own",
                format!("{name}, which belongs to the coordinator"),
                "commit offsets through a consumer or the admin",
            ));
        }
        let TopicDescription { id, partitions: count, .. } = self.core.topic(name)?;
        let epoch = self.core.topics_epoch.load(Ordering::Acquire);
        let mut topics = self.topics.write().unwrap();
        let old = topics.get(name).cloned();
        let name: Arc<str> = old.as_ref().map_or_else(|| name.into(), |old| old.name.clone());
        let old = old.filter(|old| old.id == id);
        let kept =
            |number: usize| old.as_ref().and_then(|old| old.lanes.get(number).cloned()).unwrap_or_default();
        let lanes = (0..count as usize).map(kept).collect();
        let first = (self.core.log.env().chance.next_u64() % count as u64) << 32;
        let topic = Arc::new(Topic {
            name: name.clone(),
            epoch,
            id,
            lanes,
            sticky: AtomicU64::new(first),
            turn: AtomicU32::new(0),
        });
        topics.insert(name, topic.clone());
        Ok(topic)
    }

    fn send(
        self: &Arc<Self>,
        topic: &Arc<Topic>,
        partition: Option<i32>,
        timestamp: Option<Timestamp>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> Result<Delivery> {
        let timestamp = timestamp.unwrap_or_else(|| self.core.log.env().clock.wall());
        let number = self.choose(topic, partition, key, value)?;
        let lane = match self.lane(topic, number) {
            Err(error) if !error.is_unknown_topic() && self.may_go_anywhere(partition, key) => {
                self.detour(topic, number).ok_or(error)
            }
            lane => lane,
        };
        let sent = lane.and_then(|lane| lane.send(self, timestamp, key, value, headers));
        match sent {
            // The topic was deleted, and perhaps made again, behind the facade's back: look once more.
            Err(error) if error.is_unknown_topic() => {
                let fresh = self.look_up(&topic.name)?;
                let number = partitioner::check(number, fresh.lanes.len() as i32, &fresh.name)?;
                let lane = self.lane(&fresh, number)?;
                if topic
                    .lanes
                    .get(number as usize)
                    .and_then(|old| old.get())
                    .is_some_and(|old| Arc::ptr_eq(old, lane))
                {
                    return Err(error);
                }
                lane.send(self, timestamp, key, value, headers)
            }
            sent => sent,
        }
    }

    /// A partition's lane, made now if nothing was sent there before.
    #[inline]
    fn lane<'t>(self: &Arc<Self>, topic: &'t Topic, number: i32) -> Result<&'t Arc<Lane>> {
        match topic.lanes[number as usize].get() {
            Some(lane) => Ok(lane),
            None => self.open_lane(topic, number),
        }
    }

    #[cold]
    fn open_lane<'t>(self: &Arc<Self>, topic: &'t Topic, number: i32) -> Result<&'t Arc<Lane>> {
        let known = self.core.known(&TopicPartition::new(topic.name.clone(), number))?;
        Ok(topic.lanes[number as usize].get_or_init(|| Arc::new(Lane::new(self, known))))
    }

    /// Whether it is the producer's own choice where a record goes.
    fn may_go_anywhere(&self, partition: Option<i32>, key: Option<&[u8]>) -> bool {
        match self.settings.strategy {
            Strategy::Default => partition.is_none() && key.is_none(),
            Strategy::RoundRobin => partition.is_none(),
            Strategy::Custom(_) => false,
        }
    }

    /// The next partition that can be used, where the chosen one cannot; keyless records stick to it from now on.
    #[cold]
    fn detour<'t>(self: &Arc<Self>, topic: &'t Topic, around: i32) -> Option<&'t Arc<Lane>> {
        let count = topic.lanes.len() as i32;
        let usable = |step| {
            let number = (around + step) % count;
            self.lane(topic, number).ok().map(|lane| (number, lane))
        };
        let (number, lane) = (1..count).find_map(usable)?;
        topic.sticky.store((number as u64) << 32, Ordering::Relaxed);
        Some(lane)
    }

    #[inline]
    fn choose(
        &self,
        topic: &Topic,
        partition: Option<i32>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Result<i32> {
        let count = topic.lanes.len() as i32;
        if let Some(partition) = partition {
            return partitioner::check(partition, count, &topic.name);
        }
        match &self.settings.strategy {
            Strategy::Default => Ok(match key {
                Some(key) => partition_for_key(key, count),
                None => self.stick(topic, value.map_or(0, <[u8]>::len)),
            }),
            Strategy::RoundRobin => Ok((topic.turn.fetch_add(1, Ordering::Relaxed) % count as u32) as i32),
            Strategy::Custom(custom) => {
                partitioner::check(custom.partition(&topic.name, key, value, count), count, &topic.name)
            }
        }
    }

    /// The partition that keyless records go to now; another one after a batch's worth.
    #[inline]
    fn stick(&self, topic: &Topic, value_bytes: usize) -> i32 {
        // What a record without key and headers takes, give or take a byte.
        let bytes = (value_bytes + 10).min(u32::MAX as usize / 2) as u64;
        let before = topic.sticky.fetch_add(bytes, Ordering::Relaxed);
        let (at, had) = ((before >> 32) as i32, before as u32 as u64);
        if had == 0 || had + bytes + 61 <= self.settings.batch_size as u64 {
            return at;
        }
        let count = topic.lanes.len() as u64;
        let step = if count > 1 { 1 + self.core.log.env().chance.next_u64() % (count - 1) } else { 0 };
        let next = (at as u64 + step) % count;
        topic.sticky.store(next << 32 | bytes, Ordering::Relaxed);
        if self.settings.linger.is_zero() || next == at as u64 {
            return next as i32;
        }
        // What was filled is as full as it gets: no need for it to linger.
        if let Some(lane) = topic.lanes[at as usize].get() {
            lane.append_if_idle();
        }
        next as i32
    }

    /// All lanes there are.
    fn all(&self) -> Vec<Arc<Lane>> {
        let topics = self.topics.read().unwrap();
        topics.values().flat_map(|topic| topic.lanes.iter().filter_map(|lane| lane.get()).cloned()).collect()
    }

    /// Appends every open batch; the first error, after all were tried.
    pub(crate) fn append_all(&self) -> Result<()> {
        do_all(self.all().iter().map(|lane| lane.append_open(self.settings.max_block)))
    }

    fn wait_all(&self) -> Result<()> {
        do_all(self.all().iter().map(|lane| lane.wait_durable()))
    }

    /// Appends every open batch and takes no more records.
    pub(crate) fn close(&self) -> Result<()> {
        do_all(self.all().iter().map(|lane| lane.close(self.settings.max_block)))
    }
}
