//! One partition's end of a producer: the open batch, and what became of those before it.
//!
//! A lane has one lock, held while a record is encoded and while a full batch is appended, so records of one producer
//! are appended in the order they were sent. A batch's fate is written once into its [`Slot`], where every delivery of
//! its records looks.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::task::Poll;
use std::time::Duration;

use girok_engine::batch::{BatchBuilder, Codec};
use girok_engine::wait::{Ticket, Waiters, block_on};
use girok_engine::{Appended, Durability, Moment, Offset, Partition, Timestamp};

use crate::core::{Core, Known, Task};
use crate::error::{Error, Result, invalid};
use crate::producer::{Delivery, Lanes};

/// One batch's fate.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) lane: Arc<Lane>,
    outcome: OnceLock<Result<Appended>>,
    /// Those who wait for the append.
    pub(crate) waiters: Waiters,
}

impl Slot {
    /// What became of the batch, once that is known.
    #[inline]
    pub(crate) fn outcome(&self) -> Option<&Result<Appended>> {
        self.outcome.get()
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Lane {
    core: Arc<Core>,
    lanes: Weak<Lanes>,
    known: Arc<Known>,
    codec: Codec,
    linger: Duration,
    durability: Option<Durability>,
    open: Mutex<Open>,
    /// The offset behind the last batch that was appended here.
    end: AtomicI64,
}

#[derive(Debug)]
struct Open {
    builder: BatchBuilder,
    /// The open batch's; `None` while there is none.
    slot: Option<Arc<Slot>>,
    /// When it has lingered long enough.
    due: Moment,
    /// A timer is set for this lane.
    timed: bool,
    /// Set aside for the open batch.
    reserved: usize,
    /// No batch may be larger.
    batch_bytes_max: usize,
    /// Every record of the open batch needs a key.
    keyed: bool,
    closed: bool,
    /// Batches whose fate is known and whose deliveries are to be told so.
    told: Vec<Arc<Slot>>,
}

impl Open {
    /// A batch that was begun, if one still is, never was; nobody holds a delivery of it.
    fn abandon(&mut self, lanes: &Lanes) {
        self.slot = None;
        self.builder.clear();
        lanes.buffered.fetch_sub(std::mem::take(&mut self.reserved), Ordering::Relaxed);
    }
}

/// The lane's lock. Who waits for a delivery is woken when it is let go, not before: a waker is somebody else's code, and
/// may want to send.
struct Locked<'a>(Option<MutexGuard<'a, Open>>);

impl Deref for Locked<'_> {
    type Target = Open;
    fn deref(&self) -> &Open {
        self.0.as_ref().expect("held until it is dropped")
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Open {
        self.0.as_mut().expect("held until it is dropped")
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let told = std::mem::take(&mut self.told);
        self.0 = None;
        told.iter().for_each(|slot| slot.waiters.wake_all());
    }
}

impl Lane {
    pub(crate) fn new(lanes: &Arc<Lanes>, known: Arc<Known>) -> Self {
        Lane {
            core: lanes.core.clone(),
            lanes: Arc::downgrade(lanes),
            known,
            codec: lanes.settings.compression,
            linger: lanes.settings.linger,
            durability: lanes.settings.durability,
            open: Mutex::new(Open {
                builder: BatchBuilder::new(lanes.settings.compression),
                slot: None,
                due: Moment::default(),
                timed: false,
                reserved: 0,
                batch_bytes_max: 0,
                keyed: false,
                closed: false,
                told: Vec::new(),
            }),
            end: AtomicI64::new(0),
        }
    }

    pub(crate) fn partition(&self) -> &Partition {
        &self.known.partition
    }

    /// What deliveries wait for.
    pub(crate) fn durability(&self) -> Durability {
        self.durability.unwrap_or_else(|| self.partition().config().durability)
    }

    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    pub(crate) fn send(
        self: &Arc<Self>,
        lanes: &Lanes,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> Result<Delivery> {
        let settings = &lanes.settings;
        let mut open = self.lock();
        if open.closed {
            return Err(girok_engine::Error::Closed { dir: self.core.log.dir().to_path_buf() }.into());
        }
        let mut bytes = open.builder.record_bytes(timestamp, key, value, headers);
        if bytes > settings.max_request_size {
            return Err(self.too_large(bytes, settings.max_request_size, "the producer's max_request_size"));
        }
        if !open.builder.is_empty()
            && open.builder.estimated_bytes() + bytes > settings.batch_size.min(open.batch_bytes_max)
        {
            self.append_batch(lanes, &mut open, settings.max_block)?;
            bytes = open.builder.record_bytes(timestamp, key, value, headers);
        }
        if open.builder.is_empty() {
            open = self.begin_batch(lanes, open, bytes)?;
        }
        let put = if open.keyed && key.is_none() {
            Err(self.keyless())
        } else {
            open.builder.append(timestamp, key, value, headers).map_err(Error::from)
        };
        if let Err(error) = put {
            if open.builder.is_empty() {
                open.abandon(lanes);
            }
            return Err(error);
        }
        let index = open.builder.len() as u32 - 1;
        let slot = open.slot.as_ref().expect("a batch was begun above").clone();
        if self.linger.is_zero()
            && let Err(error) = self.append_batch(lanes, &mut open, settings.max_block)
        {
            // Not in time: the record must not be appended later, for its sender may send it again.
            open.abandon(lanes);
            return Err(error);
        }
        drop(open);
        Ok(Delivery::new(slot, index, timestamp))
    }

    fn lock(&self) -> Locked<'_> {
        Locked(Some(self.open.lock().unwrap()))
    }

    fn try_lock(&self) -> Option<Locked<'_>> {
        self.open.try_lock().ok().map(|open| Locked(Some(open)))
    }

    /// The first record of a batch: memory is set aside, the topic's limits are looked up, the linger begins.
    fn begin_batch<'a>(
        self: &'a Arc<Self>,
        lanes: &Lanes,
        mut open: Locked<'a>,
        record_bytes: usize,
    ) -> Result<Locked<'a>> {
        let settings = &lanes.settings;
        let config = self.partition().config();
        open.batch_bytes_max = config.max_message_bytes.min(config.segment_bytes) as usize;
        open.keyed = config.is_compacted();
        let whole = open.builder.estimated_bytes() + record_bytes;
        if whole > open.batch_bytes_max && self.codec == Codec::None {
            let limit = open.batch_bytes_max;
            return Err(self.too_large(whole, limit, "the topic's max.message.bytes (or segment.bytes)"));
        }
        let wanted = whole.max(settings.batch_size);
        if lanes.buffered.load(Ordering::Relaxed) + wanted > settings.buffer_memory {
            // Everybody's open batches go, this lane's lock must not be held meanwhile.
            drop(open);
            lanes.append_all()?;
            open = self.lock();
            if open.closed {
                return Err(girok_engine::Error::Closed { dir: self.core.log.dir().to_path_buf() }.into());
            }
            if !open.builder.is_empty() {
                // Somebody began a batch here meanwhile; the record joins it, or it goes first.
                if open.builder.estimated_bytes() + record_bytes
                    <= settings.batch_size.min(open.batch_bytes_max)
                {
                    return Ok(open);
                }
                self.append_batch(lanes, &mut open, settings.max_block)?;
            }
        }
        lanes.buffered.fetch_add(wanted, Ordering::Relaxed);
        open.reserved = wanted;
        open.slot =
            Some(Arc::new(Slot { lane: self.clone(), outcome: OnceLock::new(), waiters: Waiters::new() }));
        if !self.linger.is_zero() {
            open.due = self.core.now() + self.linger;
            if !open.timed {
                open.timed = true;
                self.core.set_timer(open.due, Task::Seal(Arc::downgrade(self)));
            }
        }
        Ok(open)
    }

    #[cold]
    fn too_large(&self, bytes: usize, limit: usize, whose: &str) -> Error {
        invalid(
            "record",
            format!("at most {limit} bytes, {whose}"),
            format_args!("{bytes} bytes for {}", self.partition().name()),
            "send less at a time, or raise the limit",
        )
    }

    /// Kafka's `InvalidRecordException`, before the record spoils the batch it would have joined.
    #[cold]
    fn keyless(&self) -> Error {
        invalid(
            "record",
            format!("a key, because {} is compacted", self.partition().name()),
            "none",
            "give every record a key, or set the topic's cleanup.policy to delete",
        )
    }

    /// Appends the open batch, and tells everybody who holds a delivery of it. A batch that failed is gone; only a
    /// batch that could not wait any longer stays open.
    fn append_batch(&self, lanes: &Lanes, open: &mut Open, wait: Duration) -> Result<()> {
        if open.slot.is_none() {
            return Ok(());
        }
        let records = open.builder.len() as u64;
        let outcome = match open.builder.finish() {
            Err(error) => Err(error.into()),
            Ok(batch) => {
                let bytes = batch.size() as u64;
                let outcome = match self.partition().try_append(&batch) {
                    Err(girok_engine::Error::Busy { .. }) => self.append_when_room(&batch, wait)?,
                    outcome => outcome.map_err(Error::from),
                };
                if outcome.is_ok() {
                    self.core.meters.produced_records.add(records);
                    self.core.meters.produced_batches.add(1);
                    self.core.meters.produced_bytes.add(bytes);
                }
                outcome
            }
        };
        if let Ok(appended) = &outcome {
            self.end.fetch_max(appended.next_offset.get(), Ordering::AcqRel);
        }
        open.builder.clear();
        lanes.buffered.fetch_sub(std::mem::take(&mut open.reserved), Ordering::Relaxed);
        let slot = open.slot.take().expect("looked above");
        let result = outcome.as_ref().map(|_| ()).map_err(Clone::clone);
        if let Err(error) = &result {
            self.core.meters.failed_batches.add(1);
            lanes.failure.lock().unwrap().get_or_insert_with(|| error.clone());
        }
        let _ = slot.outcome.set(outcome);
        open.told.push(slot);
        result
    }

    /// The batch waits for room. `Err` is "not in time", and the batch stays open.
    #[cold]
    fn append_when_room(
        &self,
        batch: &girok_engine::batch::ValidBatch<'_>,
        wait: Duration,
    ) -> Result<Result<Appended>> {
        let partition = self.partition();
        let mut ticket = Ticket::default();
        let outcome = block_on(Some(wait), |context| {
            partition.poll_room(&mut ticket, context);
            match partition.try_append(batch) {
                Err(girok_engine::Error::Busy { .. }) => Poll::Pending,
                outcome => Poll::Ready(outcome.map_err(Error::from)),
            }
        });
        partition.leave_room(&mut ticket);
        outcome.ok_or_else(|| Error::Timeout {
            what: format!("making room in {}, whose appends are ahead of the disk,", partition.name()),
            after: wait,
            then: "the batch stays open and the record was not taken; send slower, or raise max_block",
        })
    }

    /// Appends what is open.
    pub(crate) fn append_open(&self, wait: Duration) -> Result<()> {
        let Some(lanes) = self.lanes.upgrade() else { return Ok(()) };
        self.append_batch(&lanes, &mut self.lock(), wait)
    }

    /// Appends what is open unless somebody is at it, or there is no room now.
    pub(crate) fn append_if_idle(&self) {
        if let Some(mut open) = self.try_lock()
            && let Some(lanes) = self.lanes.upgrade()
        {
            // A failure is told to the deliveries and to flush; a batch without room stays with its timer.
            let _ = self.append_batch(&lanes, &mut open, Duration::ZERO);
        }
    }

    /// Appends the batch that `slot` is of, if it is still open.
    pub(crate) fn append_slot(&self, slot: &Slot, wait: Duration) -> Result<()> {
        let Some(lanes) = self.lanes.upgrade() else { return Ok(()) };
        let mut open = self.lock();
        match &open.slot {
            Some(held) if std::ptr::eq(&**held, slot) => self.append_batch(&lanes, &mut open, wait),
            _ => Ok(()),
        }
    }

    /// The background's call when a timer of this lane has come: the batch that was open when it was set may have
    /// gone long ago, and another may be open now.
    pub(crate) fn linger_is_over(self: &Arc<Self>, now: Moment) {
        const AGAIN: Duration = Duration::from_millis(1);
        let again = match (self.try_lock(), self.lanes.upgrade()) {
            (_, None) => None,
            // Somebody is sending at this moment, and will perhaps be through in another.
            (None, _) => Some(now + AGAIN),
            (Some(mut open), Some(lanes)) => {
                if open.slot.is_some() && open.due <= now {
                    let _ = self.append_batch(&lanes, &mut open, Duration::ZERO);
                }
                let again = open.slot.is_some().then(|| open.due.max(now + AGAIN));
                open.timed = again.is_some();
                again
            }
        };
        if let Some(at) = again {
            self.core.set_timer(at, Task::Seal(Arc::downgrade(self)));
        }
    }

    /// Waits until everything appended here has the durability that deliveries wait for.
    pub(crate) fn wait_durable(&self) -> Result<()> {
        let end = Offset::new(self.end.load(Ordering::Acquire));
        if end > Offset::ZERO {
            match self.partition().wait_for(end, self.durability()) {
                // The topic was deleted meanwhile, and the records with it.
                Err(girok_engine::Error::UnknownTopicOrPartition { .. }) => {}
                waited => waited?,
            }
        }
        Ok(())
    }

    pub(crate) fn close(&self, wait: Duration) -> Result<()> {
        let appended = self.append_open(wait);
        self.lock().closed = true;
        appended
    }
}
