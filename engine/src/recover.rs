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
    Access, Disk, Entry, Kind, Open, create_dir_synced, read_file, read_full_at, replace_file, write_all_at,
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
    /// Kafka's log-start-offset-checkpoint, for a folder that Kafka wrote.
    pub(crate) adopted_start: Option<Offset>,
    pub(crate) boot: u64,
}

/// A segment's file, as the folder lists it.
struct Found {
    base: Offset,
    bytes: u64,
}

impl Recovery<'_> {
    /// Recovers the partition, or says why it cannot be used. The report is `None` if nothing had to be read: every
    /// file is exactly as long as what the point calls known good.
    pub(crate) fn run(&self, notes: &mut Vec<String>) -> Result<(Recovered, Option<PartitionReport>)> {
        if self.point.is_none() {
            // A folder that the checkpoint speaks of has long been on the medium; if it is gone, that is loss.
            create_dir_synced(self.disk, &self.folder)
                .map_err(|e| Error::io("creating", &*self.folder, e))?;
        }
        self.finish_swaps(notes)?;
        let found = self.find_segments()?;
        if self.point.is_some_and(|point| self.is_as_left(point, &found)) {
            return Ok((self.trusted(&found)?, None));
        }
        self.scan(&found, notes).map(|(recovered, report)| (recovered, Some(report)))
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
    fn scan(&self, found: &[Found], notes: &mut Vec<String>) -> Result<(Recovered, PartitionReport)> {
        let point = self.point;
        let known = |base: Offset| point.and_then(|p| p.segments.iter().find(|s| s.base == base));
        let recovery_point = point.map_or(Offset::ZERO, |p| p.recovery_point);
        let log_start = point.map(|p| p.log_start).or(self.adopted_start).unwrap_or(Offset::ZERO);
        // Compaction leaves holes between batches; who knows nothing must reckon with it. Nothing else does: where a
        // batch stands decides its offset. Between segments our compaction leaves none, Kafka's may; anywhere else such
        // a hole is a lost end of the earlier one.
        let holes = point.is_none() || self.config.is_compacted();
        let replaced = self.replaced(found)?;
        self.check_nothing_missing(found, &replaced)?;

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
                file.base == next || (file.base > next && (self.adopted_start.is_some() || was_whole))
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
                self.trim(&path, file.bytes, known.bytes)?;
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
            self.trim(&path, file.bytes, scanned.end.bytes())?;
            let verified = if trusted.bytes() == 0 { scanned.end.bytes() } else { 0 };
            segments.push(self.segment(file.base, scanned.end, verified, !last, None));
            self.rewrite_and_sync(&path, trusted.bytes(), scanned.end.bytes())?;
            next = Some(end);
        }
        // The last one kept is the one that goes on, whatever the folder listed behind it.
        if (cut || removed)
            && let Some(last) = segments.pop()
        {
            let end = last.published.get();
            segments.push(self.segment(last.base, end, last.verified(), false, None));
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

    /// Every segment that was known good is still there, or compaction has put what is left of it elsewhere.
    fn check_nothing_missing(&self, found: &[Found], replaced: &BTreeMap<Offset, Mark>) -> Result<()> {
        let Some(point) = self.point else { return Ok(()) };
        let first = found.first().map(|segment| segment.base);
        for known in &point.segments {
            let there = found.iter().any(|segment| segment.base == known.base);
            let end = known.base + known.records as i64;
            let elsewhere = replaced
                .range(..known.base)
                .next_back()
                .is_some_and(|(base, mark)| *base + mark.records() as i64 >= end);
            // Retention removes the oldest, and what lies wholly below the start was deleted. Everything else is loss.
            let retired =
                first.is_some_and(|first| known.base < first) || end <= point.log_start || elsewhere;
            if !there && !retired && known.bytes > 0 {
                let path = self.folder.join(file_name(known.base, "log"));
                return Err(self.corrupt_below(&path, 0, known.base, known.base));
            }
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

    fn scan_segment(
        &self,
        path: &Path,
        file: &Found,
        trusted: Mark,
        holes: bool,
        recovery_point: Offset,
    ) -> Result<Scanned> {
        let whole = self.map_whole(path)?;
        let bytes = whole.bytes();
        let mut at = trusted.bytes() as usize;
        let mut next = file.base + trusted.records() as i64;
        while at < bytes.len() {
            let good = Batch::parse(&bytes[at..]).ok().filter(|batch| {
                let base = batch.header().base_offset;
                let in_order = base == next || (holes && base > next);
                let relative = batch.header().last_offset() - file.base;
                in_order && (0..i32::MAX as i64).contains(&relative) && batch.check_crc().is_ok()
            });
            let Some(batch) = good else { break };
            at += batch.bytes().len();
            next = batch.header().next_offset();
        }
        let rest = &bytes[at..];
        let rubbish = used(rest) > 0;
        if rubbish && next < recovery_point {
            // Not the torn end of a crash: this was known good.
            let flaw = Batch::parse(rest).and_then(|batch| batch.check_crc().map(|()| batch));
            let (expected, found) = match flaw {
                Err(flaw) => (flaw.expected.to_string(), flaw.found.to_string()),
                Ok(batch) => {
                    (format!("a batch at offset {next}"), format!("offset {}", batch.header().base_offset))
                }
            };
            return Err(Error::corrupt(
                path,
                at as u64,
                expected,
                found,
                format!(
                    "everything before offset {next} is intact, and offsets up to {recovery_point} were known good: \
                     restore the segment from a backup"
                ),
            ));
        }
        Ok(Scanned { end: Mark::new((next - file.base) as u32, at as u32), rubbish })
    }

    /// Reports the bytes behind `from`, and keeps them beside the segment if a whole valid batch is among them.
    fn cut_bytes(&self, path: &Path, from: u64, next: Offset, report: &mut PartitionReport) -> Result<()> {
        let whole = self.map_whole(path)?;
        let rest = &whole.bytes()[from as usize..];
        let used = used(rest);
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

    /// Cuts reserved room off a segment.
    fn trim(&self, path: &Path, from: u64, to: u32) -> Result<()> {
        if from > to as u64 {
            unshare(self.disk, path).map_err(|e| Error::io("copying", path, e))?;
            let file = self.disk.open(path, Open::Write).map_err(|e| Error::io("opening", path, e))?;
            file.set_len(to as u64).map_err(|e| Error::io("cutting", path, e))?;
            file.sync().map_err(|e| Error::io("syncing", path, e))?;
        } else if from < to as u64 {
            return Err(Error::corrupt(
                path,
                from,
                format!("a file of {to} bytes, as the checkpoint says"),
                format!("the end of the file at {from}"),
                "the segment was known good; restore it from a backup",
            ));
        }
        Ok(())
    }

    /// Brings what was kept to the medium before anybody reads it.
    ///
    /// A sync alone would not do: if one failed before the process died, the kernel calls the pages clean although they
    /// never arrived, and a later sync succeeds without writing them. Written again, they are dirty again.
    fn rewrite_and_sync(&self, path: &Path, from: u32, to: u32) -> Result<()> {
        let file = self.disk.open(path, Open::Write).map_err(|e| Error::io("opening", path, e))?;
        let mut piece = vec![0; (to - from).min(1 << 20) as usize];
        let mut at = from;
        while at < to {
            let piece = &mut piece[..(to - at).min(1 << 20) as usize];
            let got = read_full_at(&*file, piece, at as u64).map_err(|e| Error::io("reading", path, e))?;
            assert_eq!(got, piece.len(), "the file was just scanned to {to}, and the directory is ours");
            write_all_at(&*file, piece, at as u64).map_err(|e| Error::io("writing", path, e))?;
            at += got as u32;
        }
        file.sync().map_err(|e| Error::io("syncing", path, e))
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

/// Where the last byte ends that is not zero. Behind a segment's end lies reserved room, up to 64 MiB of it, so whole pages
/// are compared at a time: ten times as fast as byte by byte.
fn used(bytes: &[u8]) -> usize {
    static ZEROS: [u8; 4096] = [0; 4096];
    let mut behind = bytes.len().div_ceil(ZEROS.len()) * ZEROS.len();
    for page in bytes.chunks(ZEROS.len()).rev() {
        behind -= ZEROS.len();
        if *page != ZEROS[..page.len()] {
            let last = page.iter().rposition(|byte| *byte != 0).expect("the page is not zero");
            return behind + last + 1;
        }
    }
    0
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// The last byte that is not zero, wherever it stands, by looking at every byte.
    #[test]
    fn used_bytes_end_at_the_last_that_is_not_zero() {
        for len in [0, 1, 4095, 4096, 4097, 20_000] {
            assert_eq!(used(&vec![0; len]), 0);
            for at in (0..len).step_by(97).chain([len.saturating_sub(1)]).filter(|at| *at < len) {
                let mut bytes = vec![0; len];
                bytes[at / 2] = 1;
                bytes[at] = 7;
                assert_eq!(used(&bytes), at + 1, "{at} of {len}");
            }
        }
    }
}
