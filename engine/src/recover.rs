//! What is still true after a crash, exactly.
//!
//! Up to the recovery point every byte was synced and known good: a bad batch there is corruption, named and never
//! skipped. Behind it the log is cut at the last whole valid batch whose base offset is exactly the next one. What is
//! cut is reported; if a whole valid batch stands behind the cut, the cut bytes are saved beside the segment and the
//! report says `suspect`. A cut raises the leader epoch. What was kept is synced before anybody reads it.
//!
//! ```text
//!   0                recovery point          cut                end of file
//!   ├───────────────────────┼─────────────────┼──────────────────────┤
//!   │ trusted, not read     │ read, kept,     │ zeros: reserved room │  → cut off
//!   │ (lengths are checked) │ synced          │ else:  cut, reported │  → saved if suspect, cut off
//! ```

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backup::unshare;
use crate::batch::{Batch, HEADER_BYTES, Header};
use crate::checkpoint::{PartitionPoint, SegmentPoint};
use crate::config::TopicConfig;
use crate::disk::{
    Access, Disk, Entry, File, Kind, Open, read_file, read_full_at, replace_file, write_all_at,
};
use crate::error::{Error, Result};
use crate::index::Indexes;
use crate::kafka_files::{self, Suffix};
use crate::segment::{Gauges, Segment, file_name};
use crate::tail::Mark;
use crate::types::{Offset, TopicPartition};

/// What recovery did to one partition.
///
/// ```
/// # use girok_engine::*;
/// # let env = Env::in_memory();
/// # let (log, _) = Log::open(env.clone(), "/log", LogConfig::default())?;
/// # log.create_topic("orders", 1, TopicConfig::default())?;
/// # let partition = log.partition(&TopicPartition::new("orders", 0))?;
/// # let mut builder = batch::BatchBuilder::new(batch::Codec::None);
/// # builder.append(Timestamp::from_millis(1), None, Some(b"tea"), &[])?;
/// # partition.append(&builder.finish()?)?;
/// # log.close()?;
/// # env.disk.remove("/log/girok.checkpoint".as_ref())?;
/// # let file = env.disk.open("/log/orders-0/00000000000000000000.log".as_ref(), disk::Open::Write)?;
/// # disk::write_all_at(&*file, b"torn!", file.len()?)?;
/// // One batch, and behind it five bytes of one that a power cut tore.
/// let (_log, report) = Log::open(env, "/log", LogConfig::default())?;
/// let orders = report.cut().next().unwrap();
/// assert_eq!((orders.end, orders.cut_bytes), (Offset::new(1), 5));
/// assert!(!orders.suspect, "nothing whole stood behind them");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionReport {
    /// Which.
    pub partition: TopicPartition,
    /// The next offset after what was kept.
    pub end: Offset,
    /// Bytes read to find that out. What lies below the recovery point is not read.
    pub scanned_bytes: u64,
    /// Bytes behind the end that were neither kept nor zeros. They are gone, or in [`saved`](Self::saved).
    pub cut_bytes: u64,
    /// Whether a whole valid batch stood behind the cut: something in the middle was lost, not just the end.
    pub suspect: bool,
    /// Where the cut bytes were put, if they were suspect.
    pub saved: Vec<PathBuf>,
    /// The leader epoch from now on; raised if anything was cut.
    pub leader_epoch: i32,
}

impl PartitionReport {
    /// Whether anything was cut.
    pub fn is_cut(&self) -> bool {
        self.cut_bytes > 0
    }
}

/// What opening a log found and did.
///
/// ```
/// # use girok_engine::*;
/// let (log, report) = Log::open(Env::in_memory(), "/log", LogConfig::default())?;
/// assert!(report.clean && report.partitions.is_empty());
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct RecoveryReport {
    /// The log was closed properly, or is new: nothing was read.
    pub clean: bool,
    /// Which open of this directory this is, from 1.
    pub boot: u64,
    /// Partitions that had to be looked into.
    pub partitions: Vec<PartitionReport>,
    /// Partitions that cannot be used, and why. The others can.
    pub refused: Vec<(TopicPartition, Error)>,
    /// What else was found: a damaged checkpoint, leftovers of an interrupted chore, folders that were adopted.
    pub notes: Vec<String>,
}

impl RecoveryReport {
    /// The partitions that lost something.
    pub fn cut(&self) -> impl Iterator<Item = &PartitionReport> {
        self.partitions.iter().filter(|report| report.is_cut())
    }
}

/// A partition as recovery found it.
pub(crate) struct Recovered {
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) log_start: Offset,
    pub(crate) leader_epochs: Vec<(i32, Offset)>,
    pub(crate) cleaned_to: Offset,
}

/// Where and how to recover.
pub(crate) struct Recovery<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) folder: Arc<Path>,
    pub(crate) name: &'a TopicPartition,
    pub(crate) config: &'a TopicConfig,
    pub(crate) gauges: &'a Arc<Gauges>,
    pub(crate) buffered: bool,
    /// What is known good. `None`: nothing is.
    pub(crate) point: Option<&'a PartitionPoint>,
    /// Nobody has removed anything since the point was made: the directory was closed cleanly with it.
    pub(crate) is_as_closed: bool,
    /// Where the log starts by Kafka's log-start-offset-checkpoint, which is asked where there is no point.
    pub(crate) start: Option<Offset>,
    /// Kafka wrote the folder.
    pub(crate) is_adopted: bool,
    pub(crate) boot: u64,
}

/// What was kept and waits for its sync, of all partitions that are recovered together: the medium takes many such
/// syncs in little more time than one. Nobody reads a partition before its files have left this list.
#[derive(Default)]
pub(crate) struct Unsynced {
    files: Vec<(TopicPartition, PathBuf, Arc<dyn File>)>,
    failed: Vec<(TopicPartition, Error)>,
}

impl Unsynced {
    /// More descriptors than this are not held open for it.
    const FILES_MAX: usize = 64;

    fn add(&mut self, disk: &dyn Disk, name: &TopicPartition, path: PathBuf, file: Arc<dyn File>) {
        self.files.push((name.clone(), path, file));
        if self.files.len() >= Self::FILES_MAX {
            self.sync(disk);
        }
    }

    fn sync(&mut self, disk: &dyn Disk) {
        let files: Vec<&dyn File> = self.files.iter().map(|(_, _, file)| &**file).collect();
        let results = disk.sync_many(&files);
        for ((name, path, _), result) in self.files.drain(..).zip(results) {
            if let Err(e) = result {
                self.failed.push((name, Error::io("syncing", path, e)));
            }
        }
    }

    /// Syncs what is left. Returns the partitions that must not be used, because something of theirs did not arrive.
    pub(crate) fn finish(mut self, disk: &dyn Disk) -> Vec<(TopicPartition, Error)> {
        self.sync(disk);
        self.failed
    }
}

/// A segment's file, as the folder lists it.
struct Found {
    base: Offset,
    bytes: u64,
}

impl Recovery<'_> {
    /// Recovers the partition, or says why it cannot be used. The report is `None` if nothing had to be read: every
    /// file is exactly as long as what the point calls known good. What comes back may be used once `unsynced` is
    /// finished.
    pub(crate) fn run(
        &self,
        notes: &mut Vec<String>,
        unsynced: &mut Unsynced,
    ) -> Result<(Recovered, Option<PartitionReport>)> {
        self.finish_swaps(notes)?;
        let found = self.find_segments()?;
        if self.point.is_some_and(|point| self.is_as_left(point, &found)) {
            return Ok((self.trusted(&found)?, None));
        }
        self.scan(&found, notes, unsynced).map(|(recovered, report)| (recovered, Some(report)))
    }

    /// Completes or undoes what a compaction or removal left half-done.
    ///
    /// Our compaction writes a new segment as `.cleaned` and renames it over the first of those it stands for (see
    /// [`replaced`](Self::replaced) for what it may leave behind them); Kafka's renames it to `.swap` first, removes
    /// the old ones and then renames again. So `.cleaned` and `.deleted` are rubbish, and `.swap` is the truth.
    fn finish_swaps(&self, notes: &mut Vec<String>) -> Result<()> {
        let mut changed = false;
        let entries = self.entries()?;
        for entry in &entries {
            let path = self.folder.join(&entry.name);
            match kafka_files::segment_file(&entry.name) {
                Some((_, _, Suffix::Cleaned | Suffix::Deleted)) => {
                    self.disk.remove(&path).map_err(|e| Error::io("removing", &path, e))?;
                    notes.push(format!("{}: removed, left over from an interrupted chore", path.display()));
                    changed = true;
                }
                Some((base, ending, Suffix::Swap)) => {
                    let to = self.folder.join(file_name(base, ending));
                    if ending == "log" {
                        self.remove_replaced(&entries, base, &path)?;
                    }
                    self.disk.rename(&path, &to).map_err(|e| Error::io("renaming", &path, e))?;
                    notes.push(format!("{}: put in place, a compaction was interrupted", to.display()));
                    changed = true;
                }
                _ if entry.name.ends_with(".tmp") => {
                    self.disk.remove(&path).map_err(|e| Error::io("removing", &path, e))?;
                    changed = true;
                }
                _ => {}
            }
        }
        if changed {
            self.sync_folder()?;
        }
        Ok(())
    }

    /// Removes the segments whose offsets a swapped-in segment covers.
    fn remove_replaced(&self, entries: &[Entry], base: Offset, swap: &Path) -> Result<()> {
        let bytes = self.map_whole(swap)?;
        let mut last = base;
        for batch in crate::batch::batches(bytes.bytes()) {
            let batch = batch.map_err(|flaw| {
                Error::corrupt(swap, flaw.at as u64, flaw.expected, flaw.found, "restore it from a backup")
            })?;
            last = batch.header().last_offset();
        }
        for entry in entries {
            if let Some((other, ending, Suffix::None)) = kafka_files::segment_file(&entry.name)
                && other >= base
                && (other <= last || other == base)
            {
                let path = self.folder.join(file_name(other, ending));
                self.disk.remove(&path).map_err(|e| Error::io("removing", &path, e))?;
            }
        }
        Ok(())
    }

    fn entries(&self) -> Result<Vec<Entry>> {
        if let Some(point) = self.point
            && !self.disk.is_dir(&self.folder)
        {
            return Err(self.corrupt_below(&self.folder, 0, point.log_start, point.log_start));
        }
        self.disk.list(&self.folder).map_err(|e| Error::io("listing", &*self.folder, e))
    }

    fn sync_folder(&self) -> Result<()> {
        self.disk.sync_dir(&self.folder).map_err(|e| Error::io("syncing", &*self.folder, e))
    }

    fn find_segments(&self) -> Result<Vec<Found>> {
        let mut found: Vec<Found> = self
            .entries()?
            .into_iter()
            .filter(|entry| entry.kind == Kind::File)
            .filter_map(|entry| match kafka_files::segment_file(&entry.name) {
                Some((base, "log", Suffix::None)) => Some(Found { base, bytes: entry.len }),
                _ => None,
            })
            .collect();
        found.sort_by_key(|segment| segment.base);
        if let Some(long) = found.iter().find(|segment| segment.bytes > i32::MAX as u64) {
            return Err(Error::corrupt(
                self.folder.join(file_name(long.base, "log")),
                i32::MAX as u64,
                format!("a segment of at most {} bytes", i32::MAX),
                format!("{} bytes", long.bytes),
                "no Kafka segment is longer; restore the folder from a backup",
            ));
        }
        Ok(found)
    }

    /// Whether there is nothing to recover: no folder and none expected, or one that is exactly as long as what is
    /// known good. An open region has room behind its end, so a file that does not has not been appended to since.
    pub(crate) fn is_untouched(&self) -> Result<bool> {
        match self.point {
            None => Ok(!self.disk.is_dir(&self.folder)),
            Some(point) => {
                Ok(self.disk.is_dir(&self.folder) && self.is_as_left(point, &self.find_segments()?))
            }
        }
    }

    fn is_as_left(&self, point: &PartitionPoint, found: &[Found]) -> bool {
        // The start may have been moved past what was synced; then there is something to mend.
        let end = point.segments.last().map_or(Offset::ZERO, |last| last.base + last.records as i64);
        // A roll may be known while the end of the segment before it is not yet synced. Such an end may be lost to the
        // byte where the sync left it: then every length is as it was left, and there is a hole.
        let is_whole = point.segments.last().is_none_or(|last| last.base <= point.recovery_point);
        is_whole
            && end >= point.log_start
            && point.segments.len() == found.len()
            && point.segments.iter().zip(found).all(|(p, f)| p.base == f.base && p.bytes as u64 == f.bytes)
    }

    fn trusted(&self, found: &[Found]) -> Result<Recovered> {
        let point = self.point.expect("only a folder with a point is trusted");
        let last = found.len().saturating_sub(1);
        let mut segments = Vec::with_capacity(found.len().max(1));
        for (i, known) in point.segments.iter().enumerate() {
            segments.push(self.segment(
                known.base,
                Mark::new(known.records, known.bytes),
                0,
                i < last,
                Some(known),
            ));
        }
        self.finish(segments, point.log_start, point.leader_epochs.clone(), point.cleaned_to)
    }

    fn finish(
        &self,
        mut segments: Vec<Arc<Segment>>,
        log_start: Offset,
        leader_epochs: Vec<(i32, Offset)>,
        cleaned_to: Offset,
    ) -> Result<Recovered> {
        if segments.is_empty() {
            let path = self.folder.join(file_name(log_start, "log"));
            self.disk.open(&path, Open::Create).map_err(|e| Error::io("creating", &path, e))?;
            self.sync_folder()?;
            segments.push(self.segment(log_start, Mark::default(), 0, false, None));
            segments[0].named.store(true, std::sync::atomic::Ordering::Release);
        }
        let log_start = log_start.max(segments[0].base);
        Ok(Recovered { segments, log_start, leader_epochs, cleaned_to })
    }

    fn segment(
        &self,
        base: Offset,
        end: Mark,
        verified: u32,
        sealed: bool,
        known: Option<&SegmentPoint>,
    ) -> Arc<Segment> {
        let indexes = known.and_then(|known| self.load_indexes(base, end, known));
        let saved = indexes.is_some();
        let indexes = indexes.unwrap_or_else(|| Indexes::new(self.config.index_interval_bytes));
        let segment = Segment::new(
            base,
            self.folder.clone(),
            self.gauges.clone(),
            end,
            verified,
            indexes,
            self.buffered,
        );
        segment.named.store(true, std::sync::atomic::Ordering::Release);
        segment.indexes_saved.store(saved, std::sync::atomic::Ordering::Release);
        if sealed {
            segment.seal(end);
        }
        Arc::new(segment)
    }

    /// The index files, if they are the ones the checkpoint speaks of. Anything else is drawn again from the log.
    fn load_indexes(&self, base: Offset, end: Mark, known: &SegmentPoint) -> Option<Indexes> {
        if !known.indexed || end != Mark::new(known.records, known.bytes) {
            return None;
        }
        let read = |ending: &str, crc: u32| {
            let path = self.folder.join(file_name(base, ending));
            let bytes = read_file(self.disk, &path, end.bytes() as u64 + 4096).ok()?;
            (crc32fast::hash(&bytes) == crc).then_some(bytes)
        };
        let offsets = read("index", known.index_crc)?;
        let times = read("timeindex", known.timeindex_crc)?;
        Indexes::load(self.config.index_interval_bytes, &offsets, &times, end.bytes(), known.max_timestamp)
            .ok()
    }

    fn map_whole(&self, path: &Path) -> Result<Whole> {
        let file = self.disk.open(path, Open::Read).map_err(|e| Error::io("opening", path, e))?;
        let len = file.len().map_err(|e| Error::io("measuring", path, e))? as usize;
        let map = match len {
            0 => None,
            _ => Some(file.map(len, Access::Read).map_err(|e| Error::io("mapping", path, e))?),
        };
        Ok(Whole(map))
    }

    /// Reads what is not known good, keeps what is, cuts the rest.
    fn scan(
        &self,
        found: &[Found],
        notes: &mut Vec<String>,
        unsynced: &mut Unsynced,
    ) -> Result<(Recovered, PartitionReport)> {
        let point = self.point;
        let known = |base: Offset| point.and_then(|p| p.segments.iter().find(|s| s.base == base));
        let recovery_point = point.map_or(Offset::ZERO, |p| p.recovery_point);
        let log_start = point.map(|p| p.log_start).or(self.start).unwrap_or(Offset::ZERO);
        // Compaction leaves holes between batches; who knows nothing must reckon with it. Nothing else does: where a
        // batch stands decides its offset. Between segments our compaction leaves none, Kafka's may; anywhere else such
        // a hole is a lost end of the earlier one.
        let holes = point.is_none() || self.config.is_compacted();
        let replaced = self.replaced(found)?;
        self.check_nothing_missing(found, &replaced, notes)?;

        let mut report = PartitionReport {
            partition: self.name.clone(),
            end: log_start,
            scanned_bytes: 0,
            cut_bytes: 0,
            suspect: false,
            saved: Vec::new(),
            leader_epoch: 0,
        };
        let mut segments: Vec<Arc<Segment>> = Vec::new();
        let mut next: Option<Offset> = None;
        let mut cut = false;
        let mut removed = false;
        for (i, file) in found.iter().enumerate() {
            let path = self.folder.join(file_name(file.base, "log"));
            let last = i + 1 == found.len();
            if let Some(next) = next.filter(|next| file.base < *next && !cut)
                && self.stands_below(&path, file, known(file.base), next)?
            {
                self.remove_segment(&path)?;
                notes
                    .push(format!("{}: removed, a compaction has put its records elsewhere", path.display()));
                removed = true;
                continue;
            }
            // After a cut nothing follows; and a segment must begin where the one before it ended (later, where
            // compaction had left a hole).
            let follows = next.is_none_or(|next| {
                let was_whole = known(file.base).is_some() && file.base <= recovery_point;
                file.base == next || (file.base > next && (self.is_adopted || was_whole))
            });
            if cut || !follows {
                if file.base < recovery_point && !cut {
                    return Err(self.corrupt_below(&path, 0, next.unwrap_or(log_start), file.base));
                }
                cut = true;
                self.cut_bytes(&path, 0, next.unwrap_or(file.base), &mut report)?;
                self.remove_segment(&path)?;
                continue;
            }
            let known = known(file.base);
            if let Some(end) = replaced.get(&file.base) {
                report.scanned_bytes += end.bytes() as u64;
                segments.push(self.segment(file.base, *end, end.bytes(), !last, None));
                next = Some(file.base + end.records() as i64);
                continue;
            }
            if let Some(known) = known
                && known.sealed
                && file.base + known.records as i64 <= recovery_point
            {
                // Whole, synced and known good; only its length is looked at, and room behind it cut off.
                if let Some(cut) = self.trim(&path, file.bytes, known.bytes)? {
                    unsynced.add(self.disk, self.name, path, cut);
                }
                let end = Mark::new(known.records, known.bytes);
                segments.push(self.segment(file.base, end, 0, !last, Some(known)));
                next = Some(file.base + known.records as i64);
                continue;
            }
            let trusted = known.map_or(Mark::default(), |known| Mark::new(known.records, known.bytes));
            if (trusted.bytes() as u64) > file.bytes {
                return Err(self.corrupt_below(
                    &path,
                    file.bytes,
                    file.base + trusted.records() as i64,
                    file.base,
                ));
            }
            let scanned = self.scan_segment(&path, file, trusted, holes, recovery_point)?;
            report.scanned_bytes += (scanned.end.bytes() - trusted.bytes()) as u64;
            let end = file.base + scanned.end.records() as i64;
            if scanned.rubbish {
                cut = true;
                self.cut_bytes(&path, scanned.end.bytes() as u64, end, &mut report)?;
            }
            let kept = match self.trim(&path, file.bytes, scanned.end.bytes())? {
                // Perhaps a file of its own by now, every byte of it written anew; or the same one.
                Some(cut) => cut,
                None => scanned.file,
            };
            unsynced.add(self.disk, self.name, path, kept);
            let verified = if trusted.bytes() == 0 { scanned.end.bytes() } else { 0 };
            segments.push(self.segment(file.base, scanned.end, verified, !last, None));
            next = Some(end);
        }
        // The last one kept is the one that goes on, whatever the folder listed behind it.
        if (cut || removed)
            && let Some(last) = segments.pop()
        {
            let end = last.published.get();
            segments.push(self.segment(last.base, end, last.verified(), false, None));
        }
        // That file has no checksum: nothing is removed on its word, only hidden.
        let end = next.unwrap_or(Offset::ZERO);
        let is_beyond = point.is_none() && !self.is_adopted && log_start > end;
        let log_start = if is_beyond { end } else { log_start };
        if let Some(start) = self.start.filter(|_| is_beyond) {
            notes.push(format!(
                "{}: starts at offset {start}, says {}, and ends before, at {end}: all that is left of it is hidden",
                self.folder.display(),
                kafka_files::LOG_START_OFFSET_CHECKPOINT
            ));
        }
        let mut epochs = self.leader_epochs(point)?;
        report.end = next.unwrap_or(log_start).max(log_start);
        if report.cut_bytes > 0 {
            let epoch = epochs.last().map_or(0, |(epoch, _)| *epoch) + 1;
            epochs.retain(|(_, start)| *start < report.end);
            epochs.push((epoch, report.end));
            self.write_leader_epochs(&epochs)?;
        }
        report.leader_epoch = epochs.last().map_or(0, |(epoch, _)| *epoch);
        // A log whose start was moved past what the medium kept goes on at its start: everything below was deleted.
        if next.is_some_and(|next| report.end > next) {
            for segment in segments.drain(..) {
                self.remove_segment(&segment.path("log"))?;
            }
        }
        self.sync_folder()?;
        let cleaned_to = point.map_or(Offset::ZERO, |p| p.cleaned_to);
        Ok((self.finish(segments, log_start, epochs, cleaned_to)?, report))
    }

    /// Segments that a compaction has replaced since the checkpoint was written: where they end.
    ///
    /// A new segment is renamed over the first of those it stands for, and then the others are removed, so a crash may
    /// leave some of them. It is known by its content: it is valid from its first byte to its last, and it ends at the
    /// very offset where a sealed segment ended, which no cut and no damage could bring about, because compaction never
    /// leaves out the last batch. Its length is never that of the first it stands for, unless it stands for that alone.
    fn replaced(&self, found: &[Found]) -> Result<BTreeMap<Offset, Mark>> {
        let mut replaced = BTreeMap::new();
        let Some(point) = self.point else { return Ok(replaced) };
        for file in found {
            let was = point.segments.iter().find(|known| known.base == file.base && known.sealed);
            if was.is_none_or(|was| was.bytes as u64 == file.bytes) {
                continue;
            }
            let path = self.folder.join(file_name(file.base, "log"));
            let whole = self.map_whole(&path)?;
            let mut next = file.base;
            let is_valid = crate::batch::batches(whole.bytes()).all(|batch| {
                let Ok(batch) = batch else { return false };
                let follows = batch.header().base_offset >= next && batch.check_crc().is_ok();
                next = batch.header().next_offset();
                follows
            });
            let records = next - file.base;
            let ends_with = |known: &SegmentPoint| {
                known.sealed && known.base >= file.base && known.base + known.records as i64 == next
            };
            if is_valid && (1..=i32::MAX as i64).contains(&records) && point.segments.iter().any(ends_with) {
                replaced.insert(file.base, Mark::new(records as u32, file.bytes as u32));
            }
        }
        Ok(replaced)
    }

    /// Whether all of a segment's offsets are below `next`, so that the segments before it stand for them.
    fn stands_below(
        &self,
        path: &Path,
        file: &Found,
        known: Option<&SegmentPoint>,
        next: Offset,
    ) -> Result<bool> {
        if let Some(known) = known {
            return Ok(file.base + known.records as i64 <= next);
        }
        let whole = self.map_whole(path)?;
        let last = crate::batch::batches(whole.bytes()).map_while(|batch| batch.ok()).last();
        Ok(last.is_some_and(|last| last.header().next_offset() <= next))
    }

    /// Every segment that was known good is still there, or compaction has put what is left of it elsewhere, or it was
    /// removed on purpose.
    ///
    /// Retention frees room, so it must not need any: it removes the oldest segments first, and the checkpoint hears of
    /// it later. After a crash the oldest may therefore be gone, which is said and no more; after a clean close the
    /// checkpoint has heard of everything.
    fn check_nothing_missing(
        &self,
        found: &[Found],
        replaced: &BTreeMap<Offset, Mark>,
        notes: &mut Vec<String>,
    ) -> Result<()> {
        let Some(point) = self.point else { return Ok(()) };
        let first = found.first().map(|segment| segment.base);
        let mut retired = 0;
        for known in &point.segments {
            let there = found.iter().any(|segment| segment.base == known.base);
            let end = known.base + known.records as i64;
            let elsewhere = replaced
                .range(..known.base)
                .next_back()
                .is_some_and(|(base, mark)| *base + mark.records() as i64 >= end);
            // What lies wholly below the start was deleted.
            if there || known.bytes == 0 || end <= point.log_start || elsewhere {
                continue;
            }
            if self.is_as_closed || first.is_none_or(|first| known.base >= first) {
                let path = self.folder.join(file_name(known.base, "log"));
                return Err(self.corrupt_below(&path, 0, known.base, known.base));
            }
            retired += 1;
        }
        if let Some(first) = first.filter(|_| retired > 0) {
            notes.push(format!(
                "{}: {retired} segments that girok.checkpoint knows are gone, everything below offset {first}: taken for \
                 removed by retention just before the crash",
                self.folder.display()
            ));
        }
        Ok(())
    }

    fn corrupt_below(&self, path: &Path, position: u64, expected: Offset, base: Offset) -> Error {
        Error::corrupt(
            path,
            position,
            format!("the batch at offset {expected}, which was known good (synced and checked)"),
            "the file missing, or shorter than it was".to_string(),
            format!(
                "everything before offset {} is intact; restore the segment of base offset {base} from a backup: \
                 data below the recovery point is never skipped silently",
                expected.min(base)
            ),
        )
    }

    /// Reads a segment from where it is trusted, and brings what is kept to the page cache once more.
    ///
    /// A sync alone would not do for that: if one failed before the process died, the kernel calls the pages clean
    /// although they never arrived, and a later sync succeeds without writing them. Written again, they are dirty again.
    /// Each piece is read, checked and written while the processor's own cache holds it, by calls and not through a
    /// mapping: what is written is what was checked, a page costs no fault, and a medium that cannot read is an error.
    fn scan_segment(
        &self,
        path: &Path,
        file: &Found,
        trusted: Mark,
        holes: bool,
        recovery_point: Offset,
    ) -> Result<Scanned> {
        let segment = self.disk.open(path, Open::Write).map_err(|e| Error::io("opening", path, e))?;
        let len = segment.len().map_err(|e| Error::io("measuring", path, e))?;
        let mut next = file.base + trusted.records() as i64;
        let mut at = trusted.bytes() as u64;
        // The batch at the front of some bytes, if it is whole, valid and the one that must come next.
        let good = |bytes: &[u8], next: Offset| {
            let batch = Batch::parse(bytes).ok()?;
            let base = batch.header().base_offset;
            let in_order = base == next || (holes && base > next);
            let relative = batch.header().last_offset() - file.base;
            let is_good = in_order && (0..i32::MAX as i64).contains(&relative) && batch.check_crc().is_ok();
            is_good.then(|| (batch.bytes().len(), batch.header().next_offset()))
        };
        let mut piece = vec![0; len.saturating_sub(at).min(PIECE_BYTES as u64) as usize];
        while at < len {
            let bytes = self.read_piece(&*segment, path, &mut piece, at, len)?;
            let mut done = 0;
            while let Some((size, then)) = good(&bytes[done..], next) {
                done += size;
                next = then;
            }
            write_all_at(&*segment, &bytes[..done], at).map_err(|e| Error::io("writing", path, e))?;
            if done == 0 {
                // A batch longer than a piece, or the end. Its length is not believed enough to make room for it.
                let is_long = Header::parse(bytes)
                    .is_ok_and(|header| header.size() > bytes.len() && header.size() as u64 <= len - at);
                let long = match is_long {
                    true => good(&self.map_whole(path)?.bytes()[at as usize..], next),
                    false => None,
                };
                let Some((size, then)) = long else { break };
                self.rewrite(&*segment, path, &mut piece, at, at + size as u64)?;
                done = size;
                next = then;
            }
            at += done as u64;
        }
        let mut rubbish = false;
        let mut behind = at;
        while behind < len && !rubbish {
            let bytes = self.read_piece(&*segment, path, &mut piece, behind, len)?;
            rubbish = !is_zeros(bytes);
            behind += bytes.len() as u64;
        }
        if rubbish && next < recovery_point {
            // Not the torn end of a crash: this was known good.
            let whole = self.map_whole(path)?;
            let flaw = Batch::parse(&whole.bytes()[at as usize..])
                .and_then(|batch| batch.check_crc().map(|()| batch));
            let (expected, found) = match flaw {
                Err(flaw) => (flaw.expected.to_string(), flaw.found.to_string()),
                Ok(batch) => {
                    (format!("a batch at offset {next}"), format!("offset {}", batch.header().base_offset))
                }
            };
            return Err(Error::corrupt(
                path,
                at,
                expected,
                found,
                format!(
                    "everything before offset {next} is intact, and offsets up to {recovery_point} were known good: \
                     restore the segment from a backup"
                ),
            ));
        }
        Ok(Scanned { end: Mark::new((next - file.base) as u32, at as u32), rubbish, file: segment })
    }

    /// As much of the bytes between `at` and `to` as a piece holds.
    fn read_piece<'p>(
        &self,
        file: &dyn File,
        path: &Path,
        piece: &'p mut [u8],
        at: u64,
        to: u64,
    ) -> Result<&'p [u8]> {
        let wanted = (to - at).min(piece.len() as u64) as usize;
        let got = read_full_at(file, &mut piece[..wanted], at).map_err(|e| Error::io("reading", path, e))?;
        assert_eq!(got, wanted, "the file was just measured, and the directory is ours");
        Ok(&piece[..wanted])
    }

    /// Writes what is there once more; see [`scan_segment`](Self::scan_segment).
    fn rewrite(&self, file: &dyn File, path: &Path, piece: &mut [u8], mut at: u64, to: u64) -> Result<()> {
        while at < to {
            let bytes = self.read_piece(file, path, piece, at, to)?;
            write_all_at(file, bytes, at).map_err(|e| Error::io("writing", path, e))?;
            at += bytes.len() as u64;
        }
        Ok(())
    }

    /// Reports the bytes behind `from`, and keeps them beside the segment if a whole valid batch is among them.
    fn cut_bytes(&self, path: &Path, from: u64, next: Offset, report: &mut PartitionReport) -> Result<()> {
        let whole = self.map_whole(path)?;
        let rest = &whole.bytes()[from as usize..];
        let used = used_bytes(rest);
        if used == 0 {
            return Ok(());
        }
        report.cut_bytes += used as u64;
        // A whole batch may end in zeros (a last record without headers does), so the search goes on behind `used`.
        if let Some(batch_end) = last_batch_end(rest, used, next) {
            report.suspect = true;
            let mut name = path.file_stem().unwrap_or_default().to_os_string();
            name.push(format!(".cut-{}", self.boot));
            let saved = path.with_file_name(name);
            self.save(&saved, &rest[..used.max(batch_end)]).map_err(|e| Error::io("saving", &saved, e))?;
            report.saved.push(saved);
        }
        Ok(())
    }

    fn remove_segment(&self, path: &Path) -> Result<()> {
        self.disk.remove(path).map_err(|e| Error::io("removing", path, e))?;
        for ending in ["index", "timeindex"] {
            let path = path.with_extension(ending);
            match self.disk.remove(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io("removing", path, e)),
                _ => {}
            }
        }
        Ok(())
    }

    fn save(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = self.disk.open(path, Open::Create)?;
        file.set_len(0)?;
        write_all_at(&*file, bytes, 0)?;
        file.sync()
    }

    /// Cuts reserved room off a segment. What comes back was cut and is not synced yet.
    fn trim(&self, path: &Path, from: u64, to: u32) -> Result<Option<Arc<dyn File>>> {
        if from > to as u64 {
            unshare(self.disk, path).map_err(|e| Error::io("copying", path, e))?;
            let file = self.disk.open(path, Open::Write).map_err(|e| Error::io("opening", path, e))?;
            file.set_len(to as u64).map_err(|e| Error::io("cutting", path, e))?;
            return Ok(Some(file));
        }
        if from < to as u64 {
            return Err(Error::corrupt(
                path,
                from,
                format!("a file of {to} bytes, as the checkpoint says"),
                format!("the end of the file at {from}"),
                "the segment was known good; restore it from a backup",
            ));
        }
        Ok(None)
    }

    /// The partition's epochs, by the checkpoint or by its own file. An open that cuts something raises the epoch in the
    /// file first; if it dies before it has written the checkpoint, only the file knows.
    pub(crate) fn leader_epochs(&self, point: Option<&PartitionPoint>) -> Result<Vec<(i32, Offset)>> {
        let path = self.folder.join("leader-epoch-checkpoint");
        let on_disk = match read_file(self.disk, &path, 16 << 20) {
            Ok(bytes) => kafka_files::parse_leader_epochs(&path, &bytes)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(Error::io("reading", path, e)),
        };
        let known = point.map(|p| p.leader_epochs.clone()).unwrap_or_default();
        // The file is written before the checkpoint when an epoch is raised, so the higher one is the later one.
        let newer = if on_disk.last().map(|e| e.0) >= known.last().map(|e| e.0) { on_disk } else { known };
        Ok(if newer.is_empty() { vec![(0, Offset::ZERO)] } else { newer })
    }

    fn write_leader_epochs(&self, epochs: &[(i32, Offset)]) -> Result<()> {
        let path = self.folder.join("leader-epoch-checkpoint");
        replace_file(self.disk, &path, &kafka_files::leader_epochs_bytes(epochs))
            .map_err(|e| Error::io("writing", path, e))
    }
}

struct Scanned {
    end: Mark,
    /// Bytes behind the end that are not zeros.
    rubbish: bool,
    /// What is kept was written to it again, and waits for a sync.
    file: Arc<dyn File>,
}

/// Read, checked and written at a time: a fraction of a core's own cache.
const PIECE_BYTES: usize = 256 << 10;

/// Reserved room is looked at by the page: comparing with zeros that stay in the cache goes as fast as memory can be
/// read, and a segment has up to 64 MiB of it.
static ZEROS: [u8; 4096] = [0; 4096];

fn is_zeros(bytes: &[u8]) -> bool {
    bytes.chunks(ZEROS.len()).all(|page| page == &ZEROS[..page.len()])
}

/// Where the zeros at the end of some bytes begin.
fn used_bytes(bytes: &[u8]) -> usize {
    let zeros: usize = bytes.rchunks(ZEROS.len()).take_while(|page| is_zeros(page)).map(<[u8]>::len).sum();
    bytes[..bytes.len() - zeros].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// A file mapped for reading, whole.
struct Whole(Option<crate::disk::Map>);

impl Whole {
    fn bytes(&self) -> &[u8] {
        match &self.0 {
            None => &[],
            #[allow(unsafe_code)]
            // SAFETY: mapped for the file's length, which nobody changes: the partition is not open for appends, the
            // directory is locked by us, and the slice ends with `self`.
            Some(map) => unsafe { std::slice::from_raw_parts(map.as_ptr(), map.len()) },
        }
    }
}

/// Where the last whole valid batch at or above `next` ends, in bytes that are about to be cut, if there is one that
/// begins below `used`.
///
/// Wherever a batch begins, byte 16 from there is the magic 2 and the lengths make sense; only such places are
/// checksummed. Batches of lower offsets are an earlier life of the file and do not count.
fn last_batch_end(bytes: &[u8], used: usize, next: Offset) -> Option<usize> {
    let mut found = None;
    let mut at = 0;
    while at < used && at + HEADER_BYTES <= bytes.len() {
        let whole = (bytes[at + 16] == 2)
            .then(|| Header::parse(&bytes[at..]).ok())
            .flatten()
            .filter(|header| header.base_offset >= next && at + header.size() <= bytes.len())
            .filter(|_| Batch::parse(&bytes[at..]).is_ok_and(|batch| batch.check_crc().is_ok()));
        match whole {
            Some(header) => {
                at += header.size();
                found = Some(at);
            }
            None => at += 1,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::{BatchBuilder, Codec};
    use crate::{Env, FetchBounds, Log, LogConfig, Timestamp};

    proptest! {
        /// By the page as by the byte, wherever the last byte that is not zero stands.
        #[test]
        fn zeros_are_zeros(len in 0..20_000_usize, used in 0..20_000_usize, first in 0..20_000_usize) {
            let mut bytes = vec![0; len];
            for at in [used.checked_sub(1), Some(first).filter(|first| *first < used)].into_iter().flatten() {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = 1;
                }
            }
            let last = bytes.iter().rposition(|byte| *byte != 0);
            prop_assert_eq!(is_zeros(&bytes), last.is_none());
            prop_assert_eq!(used_bytes(&bytes), last.map_or(0, |last| last + 1));
        }
    }

    /// Batches of every size against the pieces that recovery reads: whole ones are kept, up to one whose last byte
    /// flipped.
    #[test]
    fn batches_longer_than_a_piece_are_kept_and_cut_like_others() {
        let sizes =
            [100, PIECE_BYTES - 200, 10, 3 * PIECE_BYTES, PIECE_BYTES, 2 * PIECE_BYTES + 1, 7, 70_000];
        for damaged in 0..=sizes.len() {
            let env = Env::in_memory();
            let (log, _) = Log::open(env.clone(), "/log", LogConfig::default()).unwrap();
            let config = TopicConfig { max_message_bytes: 4 << 20, ..TopicConfig::default() };
            log.create_topic("t", 1, config).unwrap();
            let tp = TopicPartition::new("t", 0);
            let partition = log.partition(&tp).unwrap();
            let mut positions = vec![0];
            let mut builder = BatchBuilder::new(Codec::None);
            for size in sizes {
                builder.append(env.clock.wall(), None, Some(&vec![7; size]), &[]).unwrap();
                partition.append(&builder.finish().unwrap()).unwrap();
                positions.push(partition.bytes());
                builder.clear();
            }
            log.close().unwrap();
            env.disk.remove("/log/girok.checkpoint".as_ref()).unwrap();
            let file = env.disk.open("/log/t-0/00000000000000000000.log".as_ref(), Open::Write).unwrap();
            let len = file.len().unwrap();
            assert_eq!(len, *positions.last().unwrap());
            file.allocate(len, 3 * PIECE_BYTES as u64 + 5).unwrap();
            if let Some(end) = positions.get(damaged + 1) {
                // The last byte of a record is its count of headers.
                write_all_at(&*file, &[2], end - 1).unwrap();
            }

            let (log, report) = Log::open(env.clone(), "/log", LogConfig::default()).unwrap();
            let kept = damaged.min(sizes.len());
            let one = &report.partitions[0];
            assert_eq!((one.end, one.scanned_bytes), (Offset::new(kept as i64), positions[kept]));
            // A whole batch ends in a zero, which counts as room behind the cut.
            let used = len - u64::from(damaged + 1 != sizes.len());
            assert_eq!(one.cut_bytes, used.saturating_sub(positions[kept]));
            assert_eq!(one.suspect, damaged + 1 < sizes.len());
            let partition = log.partition(&tp).unwrap();
            let mut reader = partition.reader(Offset::ZERO);
            for size in &sizes[..kept] {
                let view = reader.read(&FetchBounds { bytes_max: 1, ..FetchBounds::default() }).unwrap();
                let batch = view.batches().next().unwrap().unwrap();
                let record = batch.records().next().unwrap().unwrap();
                assert_eq!(record.value().unwrap(), vec![7; *size]);
                assert_ne!(record.timestamp(), Timestamp::NONE);
            }
            assert_eq!(reader.position(), one.end);
        }
    }
}
