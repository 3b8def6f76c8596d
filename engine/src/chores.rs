//! What a partition's background does, a step at a time: room ahead of appenders, rolls by time, rest for the idle,
//! retention, and the tidy end.
//!
//! Each function looks at the state and the time handed in, does at most one thing that takes long, and says when it
//! wants to be asked again. None of them is needed for correctness: an engine that nobody steps appends more slowly
//! and keeps everything, but loses nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::batch::Header;
use crate::config::TopicConfig;
use crate::env::Moment;
use crate::error::{Error, Result};
use crate::partition::{Core, Partition};
use crate::segment::{Active, Segment};
use crate::types::{Durability, Timestamp};

/// How far ahead of the appenders room is made ready, at most; a small partition has as much again as it holds.
const AHEAD_BYTES_MAX: u32 = 4 << 20;
const AHEAD_BYTES_MIN: u32 = 64 << 10;
/// How much of it at a time: each step of zeros is synced, and a longer one lengthens the tail of the appends beside.
const AHEAD_STEP_BYTES_MAX: u32 = 1 << 20;

impl Core {
    /// Whether somebody asked for a sync, or something has been unsynced for long enough.
    pub(crate) fn sync_is_due(&self, now: Moment, next: &mut Moment) -> bool {
        let mut admin = self.admin.lock().unwrap();
        if !self.is_dirty() && admin.sealing.is_empty() {
            admin.dirty_since = None;
            self.sync_wanted.store(false, Ordering::SeqCst);
            return false;
        }
        let since = *admin.dirty_since.get_or_insert(now);
        let due = since + Duration::from_millis(self.config().flush_ms_max);
        if self.sync_wanted.load(Ordering::SeqCst) || now >= due {
            admin.dirty_since = None;
            return true;
        }
        *next = (*next).min(due);
        false
    }

    /// Makes room ready ahead of the appenders, off their path: zeros for a `Synced` topic, so that its syncs meet
    /// blocks that were written before; pages for a `Written` one, so that its stores meet pages that are there.
    ///
    /// A full disk is no error here: the appender that needs the room will be told.
    pub(crate) fn prepare_ahead(self: &Arc<Self>) -> Result<()> {
        let Some(active) = self.active.get() else { return Ok(()) };
        if active.tail.is_closed() || self.poisoned_now() {
            return Ok(());
        }
        let synced_topic = self.config().durability == Durability::Synced;
        loop {
            let used = active.tail.reserved().bytes();
            let target =
                used.saturating_add(used.clamp(AHEAD_BYTES_MIN, AHEAD_BYTES_MAX)).min(active.tail.limit());
            let ready = if synced_topic { active.tail.allocated() } else { active.faulted() };
            if ready >= target || used == 0 {
                active.set_low_water(ready.saturating_sub(AHEAD_BYTES_MAX / 2).max(used + 1));
                return Ok(());
            }
            let step = ready.clamp(AHEAD_BYTES_MIN, AHEAD_STEP_BYTES_MAX);
            let to = ready.saturating_add(step).min(active.tail.limit());
            let made = if synced_topic {
                self.grow_ahead(&active, to)?
            } else {
                (active.tail.allocated() >= to || self.grow(&active, to).is_ok()) && active.fault_in(to)
            };
            if !made {
                active.set_low_water(u32::MAX);
                return Ok(());
            }
        }
    }

    /// Zeros up to `to`, synced before appenders may use them. `false` if there was no room.
    fn grow_ahead(&self, active: &Active, to: u32) -> Result<bool> {
        let _admin = self.admin.lock().unwrap();
        let now = active.tail.allocated();
        if now >= to || active.tail.is_closed() {
            return Ok(now >= to);
        }
        if active.reserve_blocks(now, to, true).is_err() {
            return Ok(false);
        }
        // This sync also covers records; if it fails, they are as lost as if it had been theirs.
        active.file.sync().map_err(|cause| self.poison(&cause))?;
        active.tail.grown_to(to);
        Ok(true)
    }

    /// Seals the active segment once it is older than `segment.ms`.
    pub(crate) fn roll_by_time(self: &Arc<Self>, now: Moment, next: &mut Moment) -> Result<()> {
        let Some(active) = self.active.get() else { return Ok(()) };
        if active.tail.reserved().records() == 0 {
            return Ok(());
        }
        let since = *self.admin.lock().unwrap().first_append.get_or_insert(now);
        let config = self.config();
        // As in `seal_what_is_due`: a record that waits there is not compacted.
        let most = if config.is_compacted() { config.max_compaction_lag_ms } else { u64::MAX };
        let due = since + Duration::from_millis(config.segment_ms.min(most));
        if now >= due {
            return self.roll(&active);
        }
        *next = (*next).min(due);
        Ok(())
    }

    /// Whether nothing was appended for `idle`.
    pub(crate) fn is_idle(self: &Arc<Self>, now: Moment, idle: Duration) -> bool {
        let end = Partition(self.clone()).end_offset();
        let mut admin = self.admin.lock().unwrap();
        if admin.seen.0 != end {
            admin.seen = (end, now);
            return false;
        }
        now.since(admin.seen.1) >= idle
    }

    /// Seals the last segment, open or parked, once all of it is too old to keep, its oldest record has waited for
    /// compaction as long as it may, or its records span `segment.ms` (Kafka's measure, by their own times;
    /// [`roll_by_time`](Self::roll_by_time) goes by how long it was open).
    fn seal_what_is_due(self: &Arc<Self>, config: &TopicConfig, wall: Timestamp) -> Result<()> {
        let last = self.list().last().clone();
        // Published is not yet readable where appenders write through a ring.
        let written = last.written.get().bytes();
        if self.poisoned_now() || written == 0 || last.sealed_end().is_some() {
            return Ok(());
        }
        let newest = self.max_timestamp(&last)?.as_millis();
        let is_old = config.deletes()
            && config.retention_ms.is_some_and(|keep_ms| {
                (0..wall.as_millis().saturating_sub(keep_ms as i64)).contains(&newest)
            });
        let mapped = last.mapping(&*self.log.env.disk)?;
        let oldest = Header::parse(last.slice(&mapped, 0, written)).map_err(|flaw| last.corrupt(0, &flaw))?;
        // A compacted topic's records must leave the last segment before they can be compacted in time.
        let lag_ms = i64::try_from(config.max_compaction_lag_ms).unwrap_or(i64::MAX);
        let is_overdue = config.is_compacted()
            && (1..wall.as_millis().saturating_sub(lag_ms)).contains(&oldest.max_timestamp.as_millis());
        let span = newest.saturating_sub(oldest.max_timestamp.as_millis().max(0));
        if !is_old && !is_overdue && span < config.segment_ms.min(i64::MAX as u64) as i64 {
            return Ok(());
        }
        self.open_active()?;
        if let Some(active) = self.active.get()
            && Arc::ptr_eq(&active.segment, &last)
        {
            self.roll(&active)?;
        }
        // Only what is synced may go.
        self.lead_sync().map(|_| ())
    }

    /// Retention by time and by size: removes the oldest sealed segments for as long as they are too old or too much.
    pub(crate) fn retain(self: &Arc<Self>, wall: Timestamp) -> Result<()> {
        self.remove_below_start()?;
        let config = self.config();
        self.seal_what_is_due(&config, wall)?;
        if !config.deletes() {
            return Ok(());
        }
        if let Some(keep_ms) = config.retention_ms {
            let before = wall.as_millis().saturating_sub(keep_ms as i64);
            self.remove_oldest(|segment, _| {
                self.max_timestamp(segment).is_ok_and(|max| max.as_millis() >= 0 && max.as_millis() < before)
            })?;
        }
        if let Some(keep_bytes) = config.retention_bytes {
            let total: u64 = self.list().0.iter().map(|segment| segment.bytes() as u64).sum();
            let excess = std::cell::Cell::new(total.saturating_sub(keep_bytes));
            self.remove_oldest(|segment, _| {
                let bytes = segment.bytes() as u64;
                let goes = bytes <= excess.get();
                excess.set(excess.get().saturating_sub(bytes));
                goes
            })?;
        }
        Ok(())
    }

    /// The largest timestamp in a segment.
    pub(crate) fn max_timestamp(&self, segment: &Segment) -> Result<Timestamp> {
        let mut indexes = segment.indexes.lock().unwrap();
        if indexes.covered() < segment.bytes() {
            let mapped = segment.mapping(&*self.log.env.disk)?;
            segment.catch_up(&mapped, &mut indexes)?;
        }
        Ok(indexes.max_timestamp())
    }

    /// How old the oldest segment is, for choosing among partitions.
    pub(crate) fn oldest_timestamp(&self) -> Timestamp {
        self.max_timestamp(&self.list().0[0]).unwrap_or(Timestamp::NONE)
    }

    /// The end of use: everything synced, every file cut to its end, the indexes and the epochs written.
    pub(crate) fn rest(self: &Arc<Self>) -> Result<()> {
        let partition = Partition(self.clone());
        partition.wait_for(partition.end_offset(), Durability::Synced)?;
        while !self.park()? {
            // Somebody is appending or syncing at this moment; whoever it is will find the log closed next.
            std::thread::yield_now();
            partition.wait_for(partition.end_offset(), Durability::Synced)?;
        }
        for segment in &self.list().0 {
            if !segment.indexes_saved.load(Ordering::Acquire) {
                self.save_indexes(segment);
            }
            segment.unmap();
        }
        let path = self.folder.join("leader-epoch-checkpoint");
        let bytes = crate::kafka_files::leader_epochs_bytes(&self.leader_epochs.lock().unwrap());
        crate::disk::replace_file(&*self.log.env.disk, &path, &bytes)
            .map_err(|e| Error::io("writing", path, e))
    }
}
