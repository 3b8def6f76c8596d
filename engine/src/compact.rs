//! Compaction: of every key the last record stays, and the log's past becomes the state it led to.
//!
//! A *cleaning* works on the sealed, synced segments of one partition. First it notes in a bounded [`OffsetMap`] at
//! which offset each key of the dirty part stands last; when the map is full it has come far enough, and the rest is
//! the next cleaning's. Then it copies the segments, oldest first, without what the map supersedes, packing small
//! neighbours into one file, and puts each new file in the place of those it stands for. The rules are those of
//! Kafka's `LogCleaner`, tombstones and their delete horizon (KIP-534) included; where we keep more, it says so below.
//!
//! ```text
//!   0                first dirty               as far as the map reaches     first that must not be cleaned
//!   ├────────────────────┼─────────────────────────────┼───────────────────────────┼───────────────
//!   │ cleaned before     │ dirty: keys go into the map │ dirty: next time          │ active, unsynced, too young
//!   └──────────── copied without the superseded ───────┘
//! ```
//!
//! It is a state machine that reads a few megabytes at a [`step`](Shared::step_compaction), so that the background,
//! which also syncs for those who wait, is never away for long. No lock that appenders or readers take is held while
//! it reads or copies.
//!
//! # Why a crash cannot hurt
//! The new file is written beside the log as `.log.cleaned` and synced; one rename over the first of the segments it
//! stands for is the moment it counts; the folder is synced, and only then do the other segments go. Whatever a crash
//! leaves is the old file and all its neighbours (and rubbish named `.cleaned`), or the new file and some of the old
//! neighbours, whose offsets it covers. Recovery tells the two apart by content: the last batch of what was copied
//! together is always kept, emptied if need be, so that a new file ends at exactly the offset where the last of the
//! old ones ended (`Recovery::replaced`). Groups are replaced oldest first, so a tombstone never goes before what it
//! deletes. Before a cleaning the checkpoint is written: recovery must know the segments it may find replaced.

use std::collections::BTreeSet;
use std::hash::Hasher;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::batch::{Batch, HEADER_BYTES, Header, Record, Retained, Scratch, decompress, emptied, retain};
use crate::config::TopicConfig;
use crate::disk::{Disk, Entry, File, Open, write_all_at};
use crate::env::{Chance, Moment};
use crate::error::{Error, Result};
use crate::index::Indexes;
use crate::kafka_files::{Suffix, segment_file};
use crate::log::Shared;
use crate::partition::{Core, List};
use crate::segment::{Mapped, Segment, file_name};
use crate::tail::{LIMIT, Mark};
use crate::types::{Offset, Timestamp, TopicPartition};

/// Bytes of log that one step reads or writes, before the background does something else.
const STEP_BYTES: u64 = 8 << 20;
/// Bytes gathered before they are written, and written before they are synced: no sync has much to do.
const WRITE_BYTES: usize = 1 << 20;
const UNSYNCED_BYTES_MAX: u32 = 16 << 20;

/// The log's one compaction: one partition at a time, because the map's memory is the log's.
#[derive(Debug, Default)]
pub(crate) struct Cleaner {
    /// When to look for something to do again.
    due: Option<Moment>,
    /// What was found to do, the dirtiest last. The checkpoint has been written since.
    queue: Vec<(Arc<Core>, Dirt)>,
    cleaning: Option<Box<Cleaning>>,
    /// Partitions with something in them that cannot be read; not tried again until the log is opened anew.
    refused: BTreeSet<TopicPartition>,
}

impl Cleaner {
    /// Stops what is going on in `topic`, or in any; what was begun is rubbish.
    pub(crate) fn abandon(&mut self, topic: Option<&str>) {
        let stops = |name: &TopicPartition| topic.is_none_or(|topic| name.topic() == topic);
        if let Some(cleaning) = self.cleaning.take_if(|cleaning| stops(&cleaning.core.name)) {
            cleaning.clean_up();
        }
        self.queue.retain(|(core, _)| !stops(&core.name));
        // A topic made anew under the name deserves another try.
        self.refused.retain(|name| !stops(name));
    }
}

impl Shared {
    /// A few megabytes of compaction, if there is any to do; whoever calls is told to come again at once while there
    /// is more.
    pub(crate) fn step_compaction(&self, now: Moment, next: &mut Moment) -> Result<()> {
        // Somebody else is at it, or the log is being closed.
        let Ok(mut cleaner) = self.cleaner.try_lock() else { return Ok(()) };
        let cleaner = &mut *cleaner;
        let mut first = Ok(());
        if cleaner.cleaning.is_none() && cleaner.queue.is_empty() {
            if let Some(due) = cleaner.due.filter(|due| now < *due) {
                *next = (*next).min(due);
                return Ok(());
            }
            cleaner.due = Some(now + Duration::from_millis(self.config.retention_check_ms));
            first = self.look_for_dirt(cleaner);
        }
        let mut budget = STEP_BYTES;
        while budget > 0 {
            let mut cleaning = match cleaner.cleaning.take() {
                Some(cleaning) => cleaning,
                None => {
                    let Some((core, dirt)) = cleaner.queue.pop() else { break };
                    match Cleaning::begin(core, dirt, self.env.clock.wall()) {
                        Ok(Some(cleaning)) => Box::new(cleaning),
                        Ok(None) => continue,
                        Err(error) => {
                            first = first.and(Err(error));
                            continue;
                        }
                    }
                }
            };
            let result = match cleaning.run(&mut budget) {
                Ok(false) => {
                    cleaner.cleaning = Some(cleaning);
                    continue;
                }
                Ok(true) => self.end_cleaning(cleaner, &cleaning),
                Err(error) => {
                    // What cannot be read now cannot be read the next time. What could not be written perhaps can.
                    if !matches!(error, Error::NoRoom { .. } | Error::Io { .. }) {
                        cleaner.refused.insert(cleaning.core.name.clone());
                    }
                    Err(error)
                }
            };
            cleaning.clean_up();
            first = first.and(result);
        }
        if cleaner.cleaning.is_some() || !cleaner.queue.is_empty() {
            *next = (*next).min(now);
        } else if let Some(due) = cleaner.due {
            *next = (*next).min(due);
        }
        first
    }

    /// Queues the partitions that are dirty enough, and writes the checkpoint: recovery must know every segment that
    /// may be replaced, as it is now and as sealed.
    fn look_for_dirt(&self, cleaner: &mut Cleaner) -> Result<()> {
        let wall = self.env.clock.wall();
        let mut first = Ok(());
        for core in self.live() {
            if !core.config().is_compacted() || core.poisoned_now() || cleaner.refused.contains(&core.name) {
                continue;
            }
            match core.dirt(wall) {
                Ok(Some(dirt)) => cleaner.queue.push((core, dirt)),
                Ok(None) => {}
                Err(error) => {
                    cleaner.refused.insert(core.name.clone());
                    first = first.and(Err(error));
                }
            }
        }
        cleaner.queue.sort_by(|a, b| a.1.share().total_cmp(&b.1.share()));
        if !cleaner.queue.is_empty()
            && let Err(error) = self.save_checkpoint()
        {
            cleaner.queue.clear();
            first = first.and(Err(error));
        }
        first
    }

    /// Notes what is clean now. Where the map was full before the end, the rest is the next cleaning's, at once.
    fn end_cleaning(&self, cleaner: &mut Cleaner, cleaning: &Cleaning) -> Result<()> {
        let Some(cleaned_to) = cleaning.cleaned_to() else { return Ok(()) };
        let core = &cleaning.core;
        core.admin.lock().unwrap().cleaned_to = cleaned_to;
        if cleaned_to < cleaning.to
            && let Some(dirt) = core.dirt(self.env.clock.wall())?
        {
            self.save_checkpoint()?;
            cleaner.queue.push((core.clone(), dirt));
        }
        Ok(())
    }
}

/// What a partition has to clean.
#[derive(Debug)]
struct Dirt {
    /// All that may be cleaned, oldest first: those that were cleaned before, too.
    segments: Vec<Arc<Segment>>,
    /// The first offset that was never cleaned.
    from: Offset,
    /// The end of the last segment.
    to: Offset,
    dirty_bytes: u64,
    total_bytes: u64,
}

impl Dirt {
    fn share(&self) -> f64 {
        self.dirty_bytes as f64 / self.total_bytes.max(1) as f64
    }
}

/// Where a sealed segment ends.
fn end_of(segment: &Segment) -> Offset {
    segment.offset(segment.sealed_end().unwrap_or_else(|| segment.published.get()))
}

impl Core {
    /// What there is to clean, if it is worth it: enough of the log is dirty, or some of it for too long.
    fn dirt(&self, wall: Timestamp) -> Result<Option<Dirt>> {
        let config = self.config();
        let (mut segments, cleaned_to) = {
            let admin = self.admin.lock().unwrap();
            let list = self.list();
            let settled = list.0[..list.0.len() - 1].iter().take_while(|segment| {
                segment.sealed_end().is_some_and(|end| end == segment.synced.get())
                    && !admin.sealing.iter().any(|active| Arc::ptr_eq(&active.segment, segment))
            });
            (settled.cloned().collect::<Vec<_>>(), admin.cleaned_to)
        };
        let start = self.log_start();
        // A log that was cut behind a crash may end before what was once cleaned.
        let from = if cleaned_to > self.end() { start } else { cleaned_to.max(start) };
        let first_dirty = segments.partition_point(|segment| end_of(segment) <= from);
        if config.min_compaction_lag_ms > 0 {
            let before = wall.as_millis().saturating_sub_unsigned(config.min_compaction_lag_ms);
            for at in first_dirty..segments.len() {
                if self.max_timestamp(&segments[at])?.as_millis() > before {
                    segments.truncate(at);
                    break;
                }
            }
        }
        let (clean, dirty) = segments.split_at(first_dirty.min(segments.len()));
        let bytes = |part: &[Arc<Segment>]| part.iter().map(|segment| segment.bytes() as u64).sum::<u64>();
        let (clean_bytes, dirty_bytes) = (bytes(clean), bytes(dirty));
        let Some(last) = dirty.last().filter(|_| dirty_bytes > 0) else { return Ok(None) };
        let to = end_of(last);
        let worth = dirty_bytes as f64
            >= config.min_cleanable_dirty_ratio * (clean_bytes + dirty_bytes) as f64
            || self.is_overdue(dirty, &config, wall)?;
        Ok(worth.then_some(Dirt { from, to, dirty_bytes, total_bytes: clean_bytes + dirty_bytes, segments }))
    }

    fn end(&self) -> Offset {
        let list = self.list();
        list.last().offset(list.last().published.get())
    }

    /// Whether something dirty is older than `max.compaction.lag.ms`, going by the segments' first batches.
    fn is_overdue(&self, dirty: &[Arc<Segment>], config: &TopicConfig, wall: Timestamp) -> Result<bool> {
        let before = wall.as_millis().saturating_sub_unsigned(config.max_compaction_lag_ms);
        if before <= 0 {
            return Ok(false);
        }
        for segment in dirty.iter().filter(|segment| segment.bytes() > 0) {
            let mapped = segment.mapping(&*self.log.env.disk)?;
            let header = Header::parse(segment.slice(&mapped, 0, segment.bytes()))
                .map_err(|flaw| segment.corrupt(flaw.at as u64, &flaw))?;
            if (1..before).contains(&header.max_timestamp.as_millis()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes what an earlier cleaning could not: files half written, and segments whose offsets stand in another.
    fn clear_leftovers(&self, entries: &[Entry]) -> Result<()> {
        let disk = &*self.log.env.disk;
        let _removal = self.removal.lock().unwrap();
        // A roll makes the next file before it is listed, so the list is looked at after the folder.
        let list = self.list();
        let listed = |base: Offset| list.0.iter().any(|segment| segment.base == base);
        let between = |base: Offset| list.0[0].base < base && base < list.last().base;
        let rubbish = |name: &str| match segment_file(name) {
            Some((_, _, Suffix::Cleaned | Suffix::Swap)) => true,
            Some((base, _, Suffix::None)) => between(base) && !listed(base),
            _ => false,
        };
        let doomed: Vec<_> = entries.iter().filter(|entry| rubbish(&entry.name)).collect();
        if doomed.is_empty() {
            return Ok(());
        }
        // What covers them must be on the medium first.
        disk.sync_dir(&self.folder).map_err(|e| Error::io("syncing", &*self.folder, e))?;
        for entry in doomed {
            let path = self.folder.join(&entry.name);
            disk.remove(&path).map_err(|e| Error::io("removing", path, e))?;
        }
        disk.sync_dir(&self.folder).map_err(|e| Error::io("syncing", &*self.folder, e))
    }
}

/// At which offset each key stands last, in bounded memory: the keys themselves are not kept, only 128 bits of hash.
///
/// The hash is SipHash under keys drawn by chance at each cleaning, so nobody can choose two keys that meet; by
/// accident two of a billion keys meet once in 10²⁰ cleanings. (Kafka's map keeps an MD5.)
struct OffsetMap {
    slots: Vec<Slot>,
    used: usize,
    secrets: [u64; 2],
}

#[derive(Clone, Copy)]
struct Slot {
    hash: [u64; 2],
    /// −1: nothing here.
    offset: i64,
}

impl OffsetMap {
    /// Room for `keys` keys, or for as many as fit `bytes_max`.
    fn new(keys: u64, bytes_max: usize, chance: &dyn Chance) -> Self {
        let slots_max = (bytes_max / size_of::<Slot>()).max(2);
        let slots = keys.saturating_mul(4).div_ceil(3).saturating_add(2).min(slots_max as u64) as usize;
        OffsetMap {
            slots: vec![Slot { hash: [0; 2], offset: -1 }; slots],
            used: 0,
            secrets: [chance.next_u64(), chance.next_u64()],
        }
    }

    fn hash(&self, key: &[u8]) -> [u64; 2] {
        self.secrets.map(|secret| {
            let mut hasher = std::hash::DefaultHasher::new();
            hasher.write_u64(secret);
            hasher.write(key);
            hasher.finish()
        })
    }

    /// The slot that holds this hash, or the one where it would go. There is always a free one.
    fn slot(&self, hash: [u64; 2]) -> usize {
        let mut at = ((hash[0] as u128 * self.slots.len() as u128) >> 64) as usize;
        while self.slots[at].offset != -1 && self.slots[at].hash != hash {
            at = if at + 1 == self.slots.len() { 0 } else { at + 1 };
        }
        at
    }

    /// Notes that the key stands at `offset`. `false`, and nothing is noted, if that would fill more than three
    /// quarters of the slots: beyond, every lookup would walk far.
    fn put(&mut self, key: &[u8], offset: Offset) -> bool {
        let hash = self.hash(key);
        let at = self.slot(hash);
        if self.slots[at].offset == -1 {
            if (self.used + 1) * 4 > (self.slots.len() * 3).max(4) {
                return false;
            }
            self.used += 1;
        }
        self.slots[at] = Slot { hash, offset: offset.get() };
        true
    }

    /// Where the key stands last, if it was noted.
    fn get(&self, key: &[u8]) -> Option<Offset> {
        let found = self.slots[self.slot(self.hash(key))].offset;
        (found != -1).then_some(Offset::new(found))
    }
}

impl std::fmt::Debug for OffsetMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OffsetMap({} of {} slots)", self.used, self.slots.len())
    }
}

/// One cleaning of one partition, as far as it has come.
#[derive(Debug)]
struct Cleaning {
    core: Arc<Core>,
    config: Arc<TopicConfig>,
    /// When it began: what horizons are measured against, and from.
    wall: Timestamp,
    segments: Vec<Arc<Segment>>,
    dirty_from: Offset,
    /// The end of the last segment.
    to: Offset,
    /// Segments with an index of aborted transactions, which a merge would lose: only a broker has written such.
    pinned: BTreeSet<Offset>,
    map: OffsetMap,
    /// At most so many segments may go into one file; see where it is lowered.
    group_max: usize,
    /// The map knows the last offset of every key that stands in `dirty_from..map_to`.
    map_to: Offset,
    stage: Stage,
    /// The place that is read next.
    at: Place,
    scratch: Scratch,
    image: Vec<u8>,
}

/// A batch in one of the segments, and the mapping that is read from.
#[derive(Debug, Default)]
struct Place {
    segment: usize,
    position: u32,
    mapped: Option<Arc<Mapped>>,
}

#[derive(Debug)]
enum Stage {
    /// Counting the records that might need a slot, which costs a look at each header.
    Counting { records: u64 },
    /// Noting keys.
    Noting,
    /// Copying the group that begins with this segment.
    Copying { first: usize, copy: Option<Box<Output>> },
}

/// The new file, while it is being written.
#[derive(Debug)]
struct Output {
    base: Offset,
    file: Arc<dyn File>,
    path: PathBuf,
    indexes: Indexes,
    buffer: Vec<u8>,
    /// Bytes in the file, and those of them that are synced.
    written: u32,
    synced: u32,
    /// Still to be copied as it is: what was found unchanged before the first change.
    prefix: std::ops::Range<u32>,
    /// The last batch that was met, if nothing of it was kept: the group may not end without it.
    dropped: Option<Header>,
}

impl Output {
    fn len(&self) -> u32 {
        self.written + self.buffer.len() as u32
    }
}

/// What becomes of a batch.
enum Fate<'s> {
    Whole,
    Part(&'s [u8]),
    Emptied([u8; HEADER_BYTES]),
    Dropped,
}

impl Cleaning {
    /// `None` if retention has left nothing to do since the dirt was seen.
    fn begin(core: Arc<Core>, mut dirt: Dirt, wall: Timestamp) -> Result<Option<Self>> {
        if core.gone.load(Ordering::Acquire) || core.poisoned_now() {
            return Ok(None);
        }
        let entries = core.log.env.disk.list(&core.folder);
        let entries = entries.map_err(|e| Error::io("listing", &*core.folder, e))?;
        core.clear_leftovers(&entries)?;
        let pinned =
            entries.iter().filter(|entry| entry.len > 0).filter_map(|e| match segment_file(&e.name) {
                Some((base, "txnindex", Suffix::None)) => Some(base),
                _ => None,
            });
        let list = core.list();
        let start = list.0[0].base;
        dirt.segments.retain(|segment| segment.base >= start);
        let first = dirt.segments.partition_point(|segment| end_of(segment) <= dirt.from);
        if first == dirt.segments.len() {
            return Ok(None);
        }
        Ok(Some(Cleaning {
            config: core.config(),
            wall,
            pinned: pinned.collect(),
            segments: dirt.segments,
            dirty_from: dirt.from,
            to: dirt.to,
            map: OffsetMap::new(0, 0, &*core.log.env.chance),
            map_to: dirt.from,
            group_max: usize::MAX,
            stage: Stage::Counting { records: 0 },
            at: Place { segment: first, ..Place::default() },
            scratch: Scratch::default(),
            image: Vec::new(),
            core,
        }))
    }

    /// Works until it is done, or there is no sense in it any more (`true`), or `budget` bytes have been looked at.
    fn run(&mut self, budget: &mut u64) -> Result<bool> {
        while *budget > 0 {
            if self.core.gone.load(Ordering::Acquire) || self.core.poisoned_now() {
                return Ok(true);
            }
            let done = match self.stage {
                Stage::Counting { .. } => self.count(budget)?,
                Stage::Noting => self.note(budget)?,
                Stage::Copying { .. } => self.copy(budget)?,
            };
            if done {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Up to where the log is clean now, if this came to its end. The checkpoint will say so when it is next written;
    /// until then a crash only means that it is cleaned again.
    fn cleaned_to(&self) -> Option<Offset> {
        let Stage::Copying { first, .. } = self.stage else { return None };
        (first == self.segments.len()).then_some(self.map_to)
    }

    /// Takes away what was half written.
    fn clean_up(&self) {
        if let Stage::Copying { copy: Some(copy), .. } = &self.stage {
            // If this fails, the next cleaning or the next open does it.
            let _ = self.core.log.env.disk.remove(&copy.path);
        }
    }

    fn mapped(&mut self) -> Result<Arc<Mapped>> {
        match &self.at.mapped {
            Some(mapped) => Ok(mapped.clone()),
            None => {
                let mapped = self.segments[self.at.segment].mapping(&*self.core.log.env.disk)?;
                Ok(self.at.mapped.insert(mapped).clone())
            }
        }
    }

    /// How many slots the map could need: one for each record, if no key repeats.
    fn count(&mut self, budget: &mut u64) -> Result<bool> {
        let Stage::Counting { mut records } = self.stage else { return Ok(false) };
        if self.at.segment == self.segments.len() {
            let log = &self.core.log;
            self.map = OffsetMap::new(records, log.config.compaction_map_bytes, &*log.env.chance);
            let first = self.segments.partition_point(|segment| end_of(segment) <= self.dirty_from);
            self.at = Place { segment: first, ..Place::default() };
            let mapped = self.mapped()?;
            self.at.position = self.core.locate(&self.segments[first], &mapped, self.dirty_from)?;
            self.stage = Stage::Noting;
            return Ok(false);
        }
        let mapped = self.mapped()?;
        let segment = &self.segments[self.at.segment];
        let end = segment.bytes();
        let bytes = segment.slice(&mapped, 0, end);
        while self.at.position < end && *budget > 0 {
            let header = Header::parse(&bytes[self.at.position as usize..])
                .map_err(|flaw| segment.corrupt(self.at.position as u64 + flaw.at as u64, &flaw))?;
            records += header.record_count as u64;
            self.at.position += header.size() as u32;
            // A look at a header costs a page, not a batch.
            *budget = budget.saturating_sub((header.size() as u64).min(4096));
        }
        if self.at.position >= end {
            self.at = Place { segment: self.at.segment + 1, ..Place::default() };
        }
        self.stage = Stage::Counting { records };
        Ok(false)
    }

    fn note(&mut self, budget: &mut u64) -> Result<bool> {
        let mapped = self.mapped()?;
        let segment = self.segments[self.at.segment].clone();
        let end = segment.bytes();
        let mut full = false;
        while self.at.position < end && *budget > 0 && !full {
            let batch = checked(&segment, &mapped, self.at.position)?;
            full = self.note_batch(&segment, &batch)?;
            self.at.position += batch.bytes().len() as u32;
            *budget = budget.saturating_sub(batch.bytes().len() as u64);
        }
        if self.at.position >= end && !full {
            self.at = Place { segment: self.at.segment + 1, ..Place::default() };
            if self.at.segment == self.segments.len() {
                self.map_to = self.to;
                full = true;
            }
        }
        if full {
            // What begins where the map ends is none of this cleaning's business.
            self.segments.retain(|segment| segment.base < self.map_to);
            self.at = Place::default();
            self.stage = Stage::Copying { first: 0, copy: None };
        }
        Ok(false)
    }

    /// Puts the keys of a batch into the map; `true` if it is full.
    ///
    /// Records of a transaction are not put there: without its end in sight nobody knows whether it was aborted, and
    /// an aborted record must not supersede a good one. They are superseded like all others.
    fn note_batch(&mut self, segment: &Segment, batch: &Batch<'_>) -> Result<bool> {
        let header = batch.header();
        if !header.is_control() && !header.is_transactional() && header.record_count > 0 {
            let plain;
            let source = if header.is_compressed() {
                let max = self.core.log.config.decompressed_bytes_max as usize;
                decompress(batch, &mut self.image, max).map_err(|error| {
                    error.at(
                        &self.core.name,
                        header.base_offset,
                        &segment.path("log"),
                        self.at.position as u64,
                    )
                })?;
                plain = Batch::parse(&self.image).map_err(|flaw| self.corrupt(segment, &flaw))?;
                &plain
            } else {
                batch
            };
            for record in source.records() {
                let record = record.map_err(|flaw| self.corrupt(segment, &flaw))?;
                if let Some(key) = record.key()
                    && record.offset() >= self.dirty_from
                    && !self.map.put(key, record.offset())
                {
                    self.map_to = record.offset();
                    return Ok(true);
                }
            }
        }
        self.map_to = self.map_to.max(header.next_offset());
        Ok(false)
    }

    fn corrupt(&self, segment: &Segment, flaw: &crate::batch::Flaw) -> Error {
        segment.corrupt(self.at.position as u64 + flaw.at as u64, flaw)
    }

    fn copy(&mut self, budget: &mut u64) -> Result<bool> {
        let Stage::Copying { first, mut copy } =
            std::mem::replace(&mut self.stage, Stage::Copying { first: 0, copy: None })
        else {
            return Ok(false);
        };
        if first == self.segments.len() {
            self.stage = Stage::Copying { first, copy };
            return Ok(true);
        }
        let result = self.copy_some(first, &mut copy, budget);
        match result {
            Ok(false) => self.stage = Stage::Copying { first, copy },
            Ok(true) if self.looks_like_the_first(first, copy.as_deref()) => {
                self.group_max = self.at.segment - first;
                self.stage = Stage::Copying { first, copy };
                self.clean_up();
                self.stage = Stage::Copying { first, copy: None };
                self.at = Place { segment: first, ..Place::default() };
            }
            Ok(true) => {
                self.group_max = usize::MAX;
                // The group is copied as far as it goes; without a copy there was nothing to change.
                if let Some(copy) = copy {
                    let path = copy.path.clone();
                    let replaced = self.replace(first, copy);
                    if !matches!(replaced, Ok(true)) {
                        // If this fails, the next cleaning or the next open does it.
                        let _ = self.core.log.env.disk.remove(&path);
                        return replaced.map(|_| true);
                    }
                }
                self.stage = Stage::Copying { first: first + 1, copy: None };
                self.at = Place { segment: first + 1, ..Place::default() };
            }
            Err(error) => {
                self.stage = Stage::Copying { first, copy };
                return Err(error);
            }
        }
        Ok(false)
    }

    /// Copies what is kept of the present segment; `true` at the end of the group.
    fn copy_some(&mut self, first: usize, copy: &mut Option<Box<Output>>, budget: &mut u64) -> Result<bool> {
        let mapped = self.mapped()?;
        let segment = self.segments[self.at.segment].clone();
        let end = segment.bytes();
        while *budget > 0 {
            if let Some(copy) = copy
                && !copy.prefix.is_empty()
            {
                // Always of the group's first segment, which is the present one.
                let batch = checked(&segment, &mapped, copy.prefix.start)?;
                copy.append(batch.bytes(), &batch.header())?;
                copy.prefix.start += batch.bytes().len() as u32;
                *budget = budget.saturating_sub(batch.bytes().len() as u64);
                continue;
            }
            if self.at.position >= end {
                return self.next_of_group(first, copy);
            }
            let batch = checked(&segment, &mapped, self.at.position)?;
            let size = batch.bytes().len() as u32;
            let is_last = self.at.position + size == end;
            // Room is kept for all that is still to come as it is, so that nothing passes Kafka's 2 GiB.
            let room = copy.as_ref().map_or(self.at.position, |copy| copy.len()) as u64
                + (end - self.at.position) as u64;
            let mut scratch = std::mem::take(&mut self.scratch);
            let fate = self.judge(&segment, &batch, &mut scratch, is_last, LIMIT as u64 - room);
            let outcome = match (fate, &mut *copy) {
                (Err(error), _) => Err(error),
                (Ok(Fate::Whole), None) => Ok(true),
                // The first change: copy what came before it, then judge again.
                (Ok(_), None) => {
                    *copy = Some(self.begin_copy(first)?);
                    Ok(false)
                }
                (Ok(fate), Some(copy)) => {
                    copy.dropped = None;
                    match fate {
                        Fate::Whole => copy.append(batch.bytes(), &batch.header()),
                        Fate::Part(bytes) => copy.append_new(bytes),
                        Fate::Emptied(bytes) => copy.append_new(&bytes),
                        Fate::Dropped => {
                            copy.dropped = Some(batch.header());
                            Ok(())
                        }
                    }
                    .map(|()| true)
                }
            };
            self.scratch = scratch;
            if outcome? {
                self.at.position += size;
                *budget = budget.saturating_sub(size as u64);
            }
        }
        Ok(false)
    }

    /// Whether the new file would be exactly as long as the first of the several it stands for. A recovery that finds
    /// it beside the others, and no newer checkpoint, would take it for the old one; such a group is copied again
    /// with one segment less.
    fn looks_like_the_first(&self, first: usize, copy: Option<&Output>) -> bool {
        self.at.segment > first && copy.is_some_and(|copy| copy.len() == self.segments[first].bytes())
    }

    /// At the end of a segment: goes on with the next if it fits into the same file, else the group ends (`true`).
    fn next_of_group(&mut self, first: usize, copy: &mut Option<Box<Output>>) -> Result<bool> {
        let next = self.at.segment + 1;
        let len = copy.as_ref().map_or(self.segments[first].bytes(), |copy| copy.len()) as u64;
        let fits = self.segments.get(next).is_some_and(|segment| {
            next - first < self.group_max
                && !self.pinned.contains(&segment.base)
                && len + segment.bytes() as u64 <= self.config.segment_bytes as u64
                && end_of(segment) - self.segments[first].base <= LIMIT as i64
        });
        if fits {
            if copy.is_none() {
                *copy = Some(self.begin_copy(first)?);
                return Ok(false);
            }
            self.at = Place { segment: next, ..Place::default() };
            return Ok(false);
        }
        if let Some(copy) = copy
            && let Some(header) = copy.dropped.take()
        {
            copy.append_new(&emptied(&header))?;
        }
        Ok(true)
    }

    /// What is kept of a batch, by Kafka's rules. `growth_max` is how much longer than it was it may become.
    ///
    /// Markers of transactions stay. So do, without their records, batches of idempotent producers, whose sequence
    /// numbers a broker would want to know (Kafka keeps the last of each producer): only folders that a broker wrote
    /// have them. Records without a key go, as they do in Kafka: nothing could ever supersede them.
    fn judge<'s>(
        &self,
        segment: &Segment,
        batch: &Batch<'_>,
        scratch: &'s mut Scratch,
        is_last: bool,
        growth_max: u64,
    ) -> Result<Fate<'s>> {
        let header = batch.header();
        if header.is_control() || (header.record_count == 0 && (is_last || header.producer_id != -1)) {
            return Ok(Fate::Whole);
        }
        let tombstones_stay =
            header.is_transactional() || header.delete_horizon().is_none_or(|horizon| self.wall < horizon);
        let keep = |record: &Record<'_>| {
            if record.offset() >= self.map_to {
                return true;
            }
            let Some(key) = record.key() else { return false };
            self.map.get(key).is_none_or(|last| record.offset() >= last)
                && (record.value().is_some() || tombstones_stay)
        };
        // A tombstone's time begins when everything it deletes is gone, which it is once the map has passed it.
        let horizon = (header.next_offset() <= self.map_to && !header.is_transactional()).then(|| {
            let wait = i64::try_from(self.config.delete_retention_ms).unwrap_or(i64::MAX);
            Timestamp::from_millis(self.wall.as_millis().saturating_add(wait))
        });
        let max = self.core.log.config.decompressed_bytes_max as usize;
        let retained = retain(batch, scratch, max, horizon, keep).map_err(|e| {
            e.at(&self.core.name, header.base_offset, &segment.path("log"), self.at.position as u64)
        })?;
        match retained {
            Retained::Whole => Ok(Fate::Whole),
            Retained::None if header.producer_id != -1 => Ok(Fate::Emptied(emptied(&header))),
            Retained::None => Ok(Fate::Dropped),
            Retained::Part(bytes) if bytes.len() as u64 <= header.size() as u64 + growth_max => {
                Ok(Fate::Part(bytes))
            }
            Retained::Part(bytes) => Err(Error::invalid(
                "segment to compact",
                format!("at most {LIMIT} bytes when its tombstones carry their delete horizon"),
                format!("{} bytes more, in {}", bytes.len() - header.size(), segment.path("log").display()),
                "lower the topic's segment.bytes below 2 GiB; until then the partition is not compacted",
            )),
        }
    }

    fn begin_copy(&self, first: usize) -> Result<Box<Output>> {
        let base = self.segments[first].base;
        let path = self.core.folder.join(file_name(base, "log.cleaned"));
        let file = self.core.log.env.disk.open(&path, Open::CreateNew);
        let file = file.map_err(|e| Error::io("creating", &path, e))?;
        Ok(Box::new(Output {
            base,
            file,
            path,
            indexes: Indexes::new(self.config.index_interval_bytes),
            buffer: Vec::with_capacity(WRITE_BYTES),
            written: 0,
            synced: 0,
            prefix: 0..self.at.position,
            dropped: None,
        }))
    }

    /// Puts the new file in the place of the segments from `first` to the present one. `false` if that can no longer
    /// be done, because retention took some of them meanwhile.
    fn replace(&mut self, first: usize, mut copy: Box<Output>) -> Result<bool> {
        copy.flush()?;
        copy.sync()?;
        let core = &self.core;
        let disk = &*core.log.env.disk;
        let old = &self.segments[first..=self.at.segment];
        let (base, end) = (copy.base, end_of(&self.segments[self.at.segment]));
        let new = Arc::new(Segment::new(
            base,
            core.folder.clone(),
            core.log.gauges.clone(),
            Mark::new((end - base) as u32, copy.written),
            copy.written,
            copy.indexes,
            core.log.buffered,
        ));
        new.seal(Mark::new((end - base) as u32, copy.written));

        let _removal = core.removal.lock().unwrap();
        let Some(at) =
            core.list().0.windows(old.len()).position(|w| w.iter().zip(old).all(|(a, b)| Arc::ptr_eq(a, b)))
        else {
            return Ok(false);
        };
        // The names are about to mean something else: whoever still reads the old segments keeps their old bytes.
        for segment in old {
            segment.keep_bytes(segment.mapping(disk)?);
        }
        for ending in ["index", "timeindex"] {
            remove_if_there(disk, old[0].path(ending))?;
        }
        if old.len() == 1 && old[0].bytes() == copy.written {
            // The one case in which the old indexes, had they come back, would look right to recovery.
            disk.sync_dir(&core.folder).map_err(|e| Error::io("syncing", &*core.folder, e))?;
        }
        let path = new.path("log");
        disk.rename(&copy.path, &path).map_err(|e| Error::io("renaming", &copy.path, e))?;
        // On the medium before the list says so: a checkpoint must never know more than the medium has.
        disk.sync_dir(&core.folder).map_err(|e| Error::io("syncing", &*core.folder, e))?;
        {
            let _admin = core.admin.lock().unwrap();
            // Only the end of the list can have changed since: a roll takes no removal lock.
            let mut segments = core.list().0.clone();
            segments.splice(at..at + old.len(), [new.clone()]);
            core.list.put(Some(Arc::new(List(segments))));
        }
        for segment in old {
            segment.forget();
        }
        let removed = old[1..].iter().try_for_each(|segment| core.remove_files(segment));
        let removed =
            removed.and(disk.sync_dir(&core.folder).map_err(|e| Error::io("syncing", &*core.folder, e)));
        core.save_indexes(&new);
        new.unmap();
        self.segments.splice(first..=self.at.segment, [new]);
        // Files that could not be removed do not hurt: the new one covers them (see `clear_leftovers`).
        removed.map(|()| true)
    }
}

impl Output {
    fn append(&mut self, bytes: &[u8], header: &Header) -> Result<()> {
        self.indexes.note(self.base, header, self.len());
        if self.buffer.len() + bytes.len() > WRITE_BYTES {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn append_new(&mut self, bytes: &[u8]) -> Result<()> {
        let header = Header::parse(bytes).map_err(|flaw| flaw.into_invalid("compacted batch"))?;
        self.append(bytes, &header)
    }

    fn flush(&mut self) -> Result<()> {
        write_all_at(&*self.file, &self.buffer, self.written as u64)
            .map_err(|e| Error::io("writing", &self.path, e))?;
        self.written += self.buffer.len() as u32;
        self.buffer.clear();
        if self.written - self.synced >= UNSYNCED_BYTES_MAX { self.sync() } else { Ok(()) }
    }

    fn sync(&mut self) -> Result<()> {
        self.file.sync().map_err(|e| Error::io("syncing", &self.path, e))?;
        self.synced = self.written;
        Ok(())
    }
}

fn remove_if_there(disk: &dyn Disk, path: PathBuf) -> Result<()> {
    match disk.remove(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("removing", path, e)),
        _ => Ok(()),
    }
}

/// The batch at `position`, its checksum checked unless somebody has done that.
fn checked<'m>(segment: &Segment, mapped: &'m Mapped, position: u32) -> Result<Batch<'m>> {
    let bytes = segment.slice(mapped, position, segment.bytes());
    let batch =
        Batch::parse(bytes).map_err(|flaw| segment.corrupt(position as u64 + flaw.at as u64, &flaw))?;
    if !segment.is_verified(position, position + batch.bytes().len() as u32) {
        segment.verify(batch.bytes(), position)?;
    }
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SeededChance;
    use std::collections::HashMap;

    /// The oracle is the standard library's map.
    #[test]
    fn the_map_knows_the_last_offset_of_every_key_it_took() {
        let mut map = OffsetMap::new(10_000, 1 << 20, &SeededChance::new(7));
        let mut model = HashMap::new();
        for n in 0..20_000u64 {
            let key = (n * n % 9_973).to_le_bytes();
            assert!(map.put(&key, Offset::new(n as i64)));
            model.insert(key, n as i64);
        }
        for n in 0..20_000u64 {
            let key = n.to_le_bytes();
            assert_eq!(map.get(&key).map(Offset::get), model.get(&key).copied());
        }
        assert_eq!(map.get(b""), None);
    }

    #[test]
    fn the_map_never_takes_more_memory_than_it_may() {
        for (keys, bytes) in [(u64::MAX, 4096), (1_000_000, 64 << 10), (3, 1 << 30), (0, 4096)] {
            let mut map = OffsetMap::new(keys, bytes, &SeededChance::new(1));
            let allocated = map.slots.capacity() * size_of::<Slot>();
            assert!(allocated <= bytes, "{allocated} of {bytes}");
            assert!(
                allocated as u64 <= keys.saturating_mul(64).saturating_add(64),
                "{allocated} for {keys} keys"
            );
            let mut taken = 0u64;
            while taken < keys && map.put(&taken.to_le_bytes(), Offset::new(taken as i64)) {
                taken += 1;
            }
            // What did not fit was not taken; what is there can still be moved on.
            assert!(taken == keys || taken as usize >= bytes / size_of::<Slot>() * 7 / 10);
            assert_eq!(map.get(&taken.to_le_bytes()), None);
            if taken > 0 {
                assert!(map.put(&0u64.to_le_bytes(), Offset::new(i64::MAX)));
                assert_eq!(map.get(&0u64.to_le_bytes()), Some(Offset::new(i64::MAX)));
            }
        }
    }

    /// Whoever knows one map's hashes knows nothing about the next one's.
    #[test]
    fn every_cleaning_hashes_by_its_own_secret() {
        let chance = SeededChance::new(3);
        let (one, two) = (OffsetMap::new(1, 4096, &chance), OffsetMap::new(1, 4096, &chance));
        assert_ne!(one.hash(b"key"), two.hash(b"key"));
        assert_ne!(one.hash(b"key")[0], one.hash(b"key")[1]);
    }
}
