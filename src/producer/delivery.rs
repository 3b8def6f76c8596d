//! What became of a record: to be waited for, awaited, looked at or dropped.
//!
//! A delivery is a reference to its batch's fate and an index into it, so it costs no allocation. Whoever waits has the
//! batch appended at once instead of letting it linger, and leads the sync if nobody else does; a future asks the
//! background to.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use girok_engine::wait::Ticket;
use girok_engine::{Appended, Durability, Offset, Timestamp};

use crate::core::Task;
use crate::error::{Error, Result};
use crate::producer::lane::Slot;

/// Where a record came to rest.
///
/// ```
/// # use girok::{Girok, ProducerRecord, TopicConfig};
/// # let girok = Girok::in_memory()?;
/// # girok.admin().create_topic("orders", 1, TopicConfig::default())?;
/// # let producer = girok.producer().build()?;
/// let metadata = producer.send(ProducerRecord::new("orders", "tea"))?.wait()?;
/// assert_eq!(metadata.to_string(), "orders-0@0 (synced)");
/// # Ok::<(), girok::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordMetadata {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The record's offset in it.
    pub offset: Offset,
    /// The record's time: its own, or the log's where the topic stamps records.
    pub timestamp: Timestamp,
    /// What it has survived so far; at least what was waited for.
    pub durability: Durability,
}

impl fmt::Display for RecordMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}@{} ({})", self.topic, self.partition, self.offset, self.durability)
    }
}

/// A record on its way. [`wait`](Self::wait) for it, `.await` it (it is cancel-safe and needs no runtime),
/// [`try_get`](Self::try_get) it, or drop it: the record goes its way all the same, and
/// [`flush`](crate::Producer::flush) tells if it did not arrive.
///
/// ```
/// # use girok::{Girok, ProducerRecord, TopicConfig};
/// # let girok = Girok::in_memory()?;
/// # girok.admin().create_topic("orders", 1, TopicConfig::default())?;
/// # let producer = girok.producer().build()?;
/// let first = producer.send(ProducerRecord::new("orders", "tea"))?;
/// let second = producer.send(ProducerRecord::new("orders", "cake"))?;
/// // One batch, and one sync for both.
/// assert_eq!(second.wait()?.offset - first.wait()?.offset, 1);
/// # Ok::<(), girok::Error>(())
/// ```
#[must_use = "drop it explicitly if nobody minds when the record arrives"]
pub struct Delivery {
    slot: Arc<Slot>,
    index: u32,
    timestamp: Timestamp,
    /// Made by the first poll that has to wait.
    waiting: Option<Box<Waiting>>,
}

/// Places in the queues a future may stand in; one each, for one ticket belongs to one queue.
#[derive(Default)]
struct Waiting {
    appended: Ticket,
    written: Ticket,
    synced: Ticket,
}

impl Delivery {
    pub(crate) fn new(slot: Arc<Slot>, index: u32, timestamp: Timestamp) -> Self {
        Delivery { slot, index, timestamp, waiting: None }
    }

    /// Waits until the record has the durability this producer asks for. Its batch is appended now if it is still
    /// open, and the sync is led by this thread if nobody else leads one.
    ///
    /// # Errors
    /// What the append or the sync said; the whole batch shares it.
    pub fn wait(self) -> Result<RecordMetadata> {
        let lane = &self.slot.lane;
        lane.core().check()?;
        let appended = loop {
            match self.slot.outcome() {
                Some(outcome) => break outcome.clone()?,
                None => match lane.append_slot(&self.slot, Duration::from_secs(60)) {
                    // Still no room: somebody else's stalled copy. The batch stays open, and so do we.
                    Err(Error::Timeout { .. }) => lane.core().check()?,
                    _ => continue,
                },
            }
        };
        let wanted = lane.durability();
        lane.partition().wait_for(appended.next_offset, wanted)?;
        Ok(self.metadata(&appended, wanted))
    }

    /// What is known now: `None` while the record does not have the durability this producer asks for. Never waits,
    /// and appends nothing.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn try_get(&self) -> Result<Option<RecordMetadata>> {
        let lane = &self.slot.lane;
        let Some(outcome) = self.slot.outcome() else {
            lane.core().check()?;
            return Ok(None);
        };
        let appended = outcome.clone()?;
        let wanted = lane.durability();
        let partition = lane.partition();
        if wanted == Durability::Synced && partition.synced_offset() >= appended.next_offset {
            return Ok(Some(self.metadata(&appended, wanted)));
        }
        // The rest is the future's first look, with nobody to wake.
        let mut ticket = Ticket::default();
        let mut context = Context::from_waker(Waker::noop());
        let looked = poll_durable(&self.slot, &appended, wanted, &mut ticket, &mut context);
        partition.leave_durable(&mut ticket);
        Ok(looked?.is_ready().then(|| self.metadata(&appended, wanted)))
    }

    fn metadata(&self, appended: &Appended, waited_for: Durability) -> RecordMetadata {
        let partition = self.slot.lane.partition();
        let is_synced = || partition.synced_offset() >= appended.next_offset;
        RecordMetadata {
            topic: partition.name().topic_shared(),
            partition: partition.name().partition(),
            offset: appended.base_offset + self.index as i64,
            timestamp: appended.log_append_time.unwrap_or(self.timestamp),
            durability: if waited_for == Durability::Synced || is_synced() {
                Durability::Synced
            } else {
                Durability::Written
            },
        }
    }
}

impl Future for Delivery {
    type Output = Result<RecordMetadata>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let lane = &this.slot.lane;
        lane.core().check()?;
        let waiting = this.waiting.get_or_insert_default();
        if this.slot.outcome().is_none() {
            let appended = lane.append_slot(&this.slot, Duration::ZERO);
            this.slot.waiters.register(&mut waiting.appended, context.waker());
            if this.slot.outcome().is_none() {
                if let Err(Error::Timeout { .. }) = appended {
                    // No room: try again in a moment, linger or not.
                    let again = lane.core().now() + Duration::from_millis(1);
                    lane.core().set_timer(again, Task::Wake(context.waker().clone()));
                }
                return Poll::Pending;
            }
        }
        let appended = this.slot.outcome().expect("looked above").clone()?;
        let wanted = lane.durability();
        // The copies before this one come first, which only their makers can finish; a sync covers what is written.
        if poll_durable(&this.slot, &appended, Durability::Written, &mut waiting.written, context)?
            .is_pending()
        {
            return Poll::Pending;
        }
        if wanted == Durability::Synced
            && poll_durable(&this.slot, &appended, wanted, &mut waiting.synced, context)?.is_pending()
        {
            return Poll::Pending;
        }
        Poll::Ready(Ok(this.metadata(&appended, wanted)))
    }
}

/// An error, or whether it is as durable as wanted.
fn poll_durable(
    slot: &Slot,
    appended: &Appended,
    wanted: Durability,
    ticket: &mut Ticket,
    context: &mut Context<'_>,
) -> Result<Poll<()>> {
    match slot.lane.partition().poll_durable(appended.next_offset, wanted, ticket, context) {
        Poll::Ready(ready) => Ok(Poll::Ready(ready?)),
        Poll::Pending => Ok(Poll::Pending),
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let Some(waiting) = &mut self.waiting else { return };
        if self.slot.lane.core().process.is_current() {
            let partition = self.slot.lane.partition();
            self.slot.waiters.leave(&mut waiting.appended);
            partition.leave_durable(&mut waiting.written);
            partition.leave_durable(&mut waiting.synced);
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.slot.lane.partition().name();
        match self.slot.outcome() {
            None => write!(f, "Delivery(to {name}, open)"),
            Some(Ok(appended)) => write!(f, "Delivery({name}@{})", appended.base_offset + self.index as i64),
            Some(Err(error)) => write!(f, "Delivery(to {name}, failed: {error})"),
        }
    }
}
