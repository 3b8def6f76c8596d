//! A hot checkpoint: a copy of the whole directory, taken while producers and consumers go on, that opens as if it had
//! been closed cleanly.
//!
//! Sealed segments never change, so the copy gets a second name for them (a hard link) and costs no room; what is
//! still being written is copied up to where it is written at that moment. `__consumer_offsets` comes first: every
//! commit in the copy was made before the partition it speaks of was copied, so no commit points past its end.
//!
//! ```text
//!   girok-groups.state   __consumer_offsets   all other partitions                       girok.checkpoint   rename
//!   ──────┼──────────────────┼───────────────────┼──────────┼── … ──────────────────────────────┼─────────────┼───▶
//!     covers less than    commits up to here   their ends, later than every commit copied     "clean"     it is there
//! ```
//!
//! The copy is built beside its place, as `NAME.incomplete`, and renamed when everything is on the medium: whoever sees
//! the folder sees all of it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use crate::checkpoint::{Checkpoint, PartitionPoint, SegmentPoint};
use crate::config::is_internal;
use crate::disk::{Disk, File, Kind, Open, create_dir_synced, read_full_at, replace_file, write_all_at};
use crate::error::{Error, Result};
use crate::kafka_files::{self, Suffix, segment_file};
use crate::log::{Log, Look, Shared};
use crate::meta::DirMeta;
use crate::partition::{Core, Partition};
use crate::segment::{Segment, Source, file_name};
use crate::tail::Mark;
use crate::types::{Offset, TopicPartition};

/// Bytes that are copied at a time.
const PIECE_BYTES: usize = 1 << 20;
/// The coordinator's file, which speaks of offsets in `__consumer_offsets`.
const GROUPS_STATE: &str = "girok-groups.state";

/// What a [`checkpoint`](Log::checkpoint) copied.
///
/// ```
/// # use girok_engine::*;
/// # let (log, _) = Log::open(Env::in_memory(), "/log", LogConfig::default())?;
/// log.create_topic("orders", 3, TopicConfig::default())?;
/// let report = log.checkpoint("/copy")?;
/// assert_eq!((report.topics, report.partitions), (1, 3));
/// assert_eq!(report.segments_linked + report.segments_copied, 0, "nobody has written anything yet");
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointReport {
    /// Topics, internal ones included.
    pub topics: usize,
    /// Partitions of all of them, empty ones included.
    pub partitions: usize,
    /// Segments that both directories now share. They take no room of their own until one side removes its name.
    pub segments_linked: usize,
    /// Segments that were copied: each partition's last, and all where the target is on another file system.
    pub segments_copied: usize,
    /// Bytes of the linked segments.
    pub bytes_linked: u64,
    /// Bytes of the copied ones.
    pub bytes_copied: u64,
}

impl Log {
    /// Copies the directory to `to`, while it is in use. The copy has every record that was visible, and every commit
    /// that was acknowledged, when this call began, some of those made meanwhile, and no commit beyond its records; it
    /// opens as a cleanly closed directory does. Everything is on the medium when this returns.
    ///
    /// The two directories share the files of sealed segments where the file system can. Neither changes them: whoever
    /// needs to write to such a file makes one of its own first.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `to` is there and not empty, or lies in this directory; what keeps a partition from being
    /// used, because a copy without it would look complete; [`Error::NoRoom`] and the like. The target is not there
    /// then, only perhaps a folder named `.incomplete` beside it, if that could not be removed either.
    pub fn checkpoint(&self, to: impl AsRef<Path>) -> Result<CheckpointReport> {
        self.check_open()?;
        let (shared, to) = (self.shared(), to.as_ref());
        let disk = &*shared.env.disk;
        let is_there = check_target(disk, &shared.dir, to)?;
        let mut name = to.file_name().unwrap_or_default().to_os_string();
        name.push(".incomplete");
        let beside = to.with_file_name(name);
        create_dir_synced(disk, &beside).map_err(|e| Error::io("creating", &beside, e))?;
        let copied = Copying { shared, disk, to: &beside, report: CheckpointReport::default() }.run();
        let done = copied.and_then(|report| {
            if is_there {
                disk.remove_dir(to).map_err(|e| Error::io("replacing", to, e))?;
            }
            disk.rename(&beside, to).map_err(|e| Error::io("renaming", &beside, e))?;
            let parent = parent_of(to);
            disk.sync_dir(parent).map_err(|e| Error::io("syncing", parent, e))?;
            Ok(report)
        });
        if done.is_err() && disk.is_dir(&beside) {
            // Whatever cannot be removed now stays under a name that says what it is.
            let _ = remove_tree(disk, &beside);
        }
        done
    }

    /// Bytes that the directory's files take, indexes and room reserved ahead of the appenders included. Walks all
    /// folders. Segments shared with a [`checkpoint`](Self::checkpoint) count here as well as there.
    ///
    /// # Errors
    /// [`Error::Io`] if a folder cannot be listed.
    pub fn size_on_disk(&self) -> Result<u64> {
        self.check_open()?;
        let shared = self.shared();
        let disk = &*shared.env.disk;
        let entries = disk.list(&shared.dir).map_err(|e| Error::io("listing", &*shared.dir, e))?;
        let mut bytes = 0;
        for entry in entries {
            bytes += match entry.kind {
                Kind::Folder => folder_bytes(disk, &shared.dir.join(&entry.name))?,
                _ => entry.len,
            };
        }
        Ok(bytes)
    }
}

impl Partition {
    /// Bytes that the partition's files take, indexes and room reserved ahead of the appenders included;
    /// [`bytes`](Self::bytes) is the records alone.
    ///
    /// # Errors
    /// [`Error::Io`] if its folder cannot be listed.
    pub fn size_on_disk(&self) -> Result<u64> {
        folder_bytes(&*self.0.log.env.disk, &self.0.folder)
    }
}

fn folder_bytes(disk: &dyn Disk, folder: &Path) -> Result<u64> {
    match disk.list(folder) {
        Ok(entries) => Ok(entries.iter().map(|entry| entry.len).sum()),
        // A topic that was deleted since its folder was seen.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(Error::io("listing", folder, e)),
    }
}

/// A folder without a parent in its path lies in the current one.
fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether the target is there already, empty.
fn check_target(disk: &dyn Disk, dir: &Path, to: &Path) -> Result<bool> {
    let refuse = |found: String| {
        Err(Error::invalid(
            "target of a checkpoint",
            "a folder outside the log's directory that is empty or not there yet",
            found,
            "choose another place; nothing was changed",
        ))
    };
    if to.file_name().is_none() || to.starts_with(dir) || dir.starts_with(to) {
        return refuse(format!("{} for the log in {}", to.display(), dir.display()));
    }
    match disk.list(to) {
        Ok(entries) => match entries.first() {
            None => Ok(true),
            Some(entry) => refuse(format!("{} in {}", entry.name, to.display())),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => refuse(format!("the file {}", to.display())),
        Err(e) => Err(Error::io("listing", to, e)),
    }
}

/// Removes what a checkpoint made: folders of files, two deep.
fn remove_tree(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    for entry in disk.list(dir)? {
        let path = dir.join(&entry.name);
        match entry.kind {
            Kind::Folder => remove_tree(disk, &path)?,
            _ => disk.remove(&path)?,
        }
    }
    disk.remove_dir(dir)
}

/// Gives `path` a file of its own if it shares one with a checkpoint, before somebody writes to it.
pub(crate) fn unshare(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let file = disk.open(path, Open::Read)?;
    if file.links()? <= 1 {
        return Ok(());
    }
    let beside = path.with_extension("log.tmp");
    match disk.remove(&beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let copy = disk.open(&beside, Open::CreateNew)?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    loop {
        let got = read_full_at(&*file, &mut piece, at)?;
        if got == 0 {
            break;
        }
        write_all_at(&*copy, &piece[..got], at)?;
        at += got as u64;
    }
    copy.sync()?;
    disk.rename(&beside, path)?;
    disk.sync_dir(parent_of(path))
}

/// Whether a hard link was refused for a reason that a copy does not share.
fn cannot_link(error: &io::Error) -> bool {
    const CANNOT: [Errno; 6] =
        [Errno::XDEV, Errno::PERM, Errno::MLINK, Errno::OPNOTSUPP, Errno::NOSYS, Errno::ACCESS];
    CANNOT.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

struct Copying<'a> {
    shared: &'a Arc<Shared>,
    disk: &'a dyn Disk,
    to: &'a Path,
    report: CheckpointReport,
}

/// A partition, as far as it could be copied while it was looked at.
enum Looked {
    /// There is nothing in it, and no folder.
    Empty,
    /// In use.
    Live(Arc<Core>),
    /// Linked, up to what is still to be copied.
    Taken(PartitionPoint, Vec<Pending>),
}

/// A segment's bytes that are still to be copied.
struct Pending {
    base: Offset,
    bytes: u32,
    from: Source,
}

impl Copying<'_> {
    fn run(mut self) -> Result<CheckpointReport> {
        // First: it must not cover offsets that the copy of the log does not have.
        self.copy_groups_state()?;
        let mut meta = self.shared.meta();
        meta.deleting.clear();
        meta.boot = self.shared.boot();
        let mut points = BTreeMap::new();
        let names: Vec<String> = meta.topics.keys().cloned().collect();
        let (internal, ordinary): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| is_internal(name));
        for name in internal.into_iter().chain(ordinary) {
            let before = self.report;
            match self.copy_topic(&name, meta.topics[&name].partitions) {
                Ok(topic) => points.extend(topic),
                // Deleted meanwhile: then it is not in the copy either.
                Err(_) if !self.shared.has_topic(&name, meta.topics[&name].id) => {
                    self.report = before;
                    for number in 0..meta.topics[&name].partitions {
                        let folder = self.to.join(TopicPartition::new(name.as_str(), number).folder());
                        if self.disk.is_dir(&folder) {
                            remove_tree(self.disk, &folder).map_err(|e| Error::io("removing", folder, e))?;
                        }
                    }
                    meta.topics.remove(&name);
                }
                Err(error) => return Err(error),
            }
        }
        self.report.topics = meta.topics.len();
        self.finish(&meta, points)?;
        Ok(self.report)
    }

    fn copy_groups_state(&self) -> Result<()> {
        let from = self.shared.dir.join(GROUPS_STATE);
        match self.disk.open(&from, Open::Read) {
            Ok(file) => {
                let bytes = file.len().map_err(|e| Error::io("measuring", &from, e))?;
                let to = self.to.join(GROUPS_STATE);
                let copy = self.copy_bytes(&Source::File(file), bytes, &from, &to)?;
                copy.sync().map_err(|e| Error::io("syncing", to, e))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::io("opening", from, e)),
        }
    }

    fn finish(&self, meta: &DirMeta, points: BTreeMap<TopicPartition, PartitionPoint>) -> Result<()> {
        crate::log::write_kafka_files(self.disk, self.to, &points)?;
        Checkpoint { boot: meta.boot, clean: true, partitions: points }.store(self.disk, self.to)?;
        meta.store(self.disk, self.to)?;
        self.disk.sync_dir(self.to).map_err(|e| Error::io("syncing", self.to, e))
    }

    fn copy_topic(&mut self, name: &str, partitions: i32) -> Result<Vec<(TopicPartition, PartitionPoint)>> {
        let mut points = Vec::new();
        for number in 0..partitions {
            self.shared.check_open()?;
            let tp = TopicPartition::new(name, number);
            let shared = self.shared.clone();
            let point = match shared.look(&tp, |look| match look {
                Look::Live(core) => Ok(Looked::Live(core)),
                Look::Refused(error) => Err(error.clone()),
                Look::Cold(None) => Ok(Looked::Empty),
                Look::Cold(Some(point)) => self.take_cold(&tp, point),
            })? {
                Looked::Live(core) => Some(self.copy_live(&core)?),
                Looked::Empty => None,
                Looked::Taken(point, pending) => {
                    let folder = tp.folder();
                    self.end_folder(&shared.dir.join(&folder), &self.to.join(folder), &point, pending)?;
                    Some(point)
                }
            };
            points.extend(point.map(|point| (tp, point)));
            self.report.partitions += 1;
        }
        Ok(points)
    }

    /// Links or opens the files of a partition that nobody has touched since the log was opened, and nobody can while
    /// this lasts: they are as its point says.
    fn take_cold(&mut self, tp: &TopicPartition, point: &PartitionPoint) -> Result<Looked> {
        let from = self.shared.dir.join(tp.folder());
        let to = self.begin_folder(tp)?;
        let mut point = point.clone();
        let mut pending = Vec::new();
        let last = point.segments.len().saturating_sub(1);
        for (i, known) in point.segments.iter_mut().enumerate() {
            known.sealed = i < last;
            if i < last && self.link_segment(&from, &to, known)? {
                known.indexed &= self.link(&from, &to, &file_name(known.base, "index"))?
                    && self.link(&from, &to, &file_name(known.base, "timeindex"))?;
                continue;
            }
            let path = from.join(file_name(known.base, "log"));
            let file = self.disk.open(&path, Open::Read).map_err(|e| Error::io("opening", path, e))?;
            pending.push(Pending { base: known.base, bytes: known.bytes, from: Source::File(file) });
            known.indexed = false;
        }
        Ok(Looked::Taken(point, pending))
    }

    fn copy_live(&mut self, core: &Core) -> Result<PartitionPoint> {
        let to = self.begin_folder(&core.name)?;
        let was_poisoned = core.poisoned_now();
        let (point, pending) = {
            // Retention and compaction wait while files get their second names, not while bytes are copied.
            let _removal = core.removal.lock().unwrap();
            let log_start = core.log_start();
            let (sealing, cleaned_to) = {
                let admin = core.admin.lock().unwrap();
                (admin.sealing.iter().map(|active| active.segment.base).collect::<Vec<_>>(), admin.cleaned_to)
            };
            let mut taken: Vec<(Arc<Segment>, Mark)> = Vec::new();
            for segment in &core.list().0 {
                // After a failed sync only what was synced before can be believed.
                let end = if was_poisoned { segment.synced.get() } else { segment.written.get() };
                taken.push((segment.clone(), end));
                // One appender may still be copying into a segment that was rolled: what follows does not count yet.
                if segment.sealed_end() != Some(end) {
                    break;
                }
            }
            let (mut segments, mut pending) = (Vec::new(), Vec::new());
            let last = taken.len() - 1;
            for (i, (segment, end)) in taken.iter().enumerate() {
                let mut known = segment_point(segment, *end, i < last);
                // The last one is the copy's to go on with, so it is never shared.
                let settled = i < last && segment.synced.get() == *end && !sealing.contains(&segment.base);
                if settled && self.link_segment(&core.folder, &to, &known)? {
                    known.indexed &= self.link(&core.folder, &to, &file_name(known.base, "index"))?
                        && self.link(&core.folder, &to, &file_name(known.base, "timeindex"))?;
                } else {
                    known.indexed = false;
                    let from = segment.source(self.disk)?;
                    pending.push(Pending { base: segment.base, bytes: end.bytes(), from });
                }
                segments.push(known);
            }
            let end = taken[last].0.offset(taken[last].1);
            let mut leader_epochs = core.leader_epochs.lock().unwrap().clone();
            leader_epochs.retain(|(epoch, start)| *start <= end || *epoch == 0);
            let point = PartitionPoint {
                topic_id: core.topic_id,
                log_start: log_start.min(end),
                recovery_point: end,
                end,
                leader_epochs,
                segments,
                cleaned_to,
            };
            (point, pending)
        };
        self.end_folder(&core.folder, &to, &point, pending)?;
        if !was_poisoned {
            // A sync that failed while the bytes were copied puts them in doubt.
            core.check_poison()?;
        }
        Ok(point)
    }

    fn begin_folder(&self, tp: &TopicPartition) -> Result<PathBuf> {
        let to = self.to.join(tp.folder());
        self.disk.create_dir(&to).map_err(|e| Error::io("creating", &to, e))?;
        Ok(to)
    }

    /// Copies what could not be linked, and the small files, and syncs all of it.
    fn end_folder(
        &mut self,
        from: &Path,
        to: &Path,
        point: &PartitionPoint,
        pending: Vec<Pending>,
    ) -> Result<()> {
        let mut copies = Vec::new();
        for Pending { base, bytes, from: source } in pending {
            let name = file_name(base, "log");
            copies.push(self.copy_bytes(&source, bytes as u64, &from.join(&name), &to.join(&name))?);
            self.report.segments_copied += 1;
            self.report.bytes_copied += bytes as u64;
        }
        let files: Vec<&dyn File> = copies.iter().map(|file| &**file).collect();
        for result in self.disk.sync_many(&files) {
            result.map_err(|e| Error::io("syncing", to, e))?;
        }
        drop(copies);
        // What only a broker has written: its producers' state, and which transactions were aborted.
        let first = point.segments.first().map_or(Offset::ZERO, |segment| segment.base);
        for entry in self.disk.list(from).map_err(|e| Error::io("listing", from, e))? {
            if let Some((base, "snapshot" | "txnindex", Suffix::None)) = segment_file(&entry.name)
                && base >= first
                && base <= point.end
            {
                self.link(from, to, &entry.name)?;
            }
        }
        kafka_files::ensure_partition_metadata(self.disk, to, point.topic_id)?;
        let path = to.join(kafka_files::LEADER_EPOCH_CHECKPOINT);
        replace_file(self.disk, &path, &kafka_files::leader_epochs_bytes(&point.leader_epochs))
            .map_err(|e| Error::io("writing", path, e))?;
        self.disk.sync_dir(to).map_err(|e| Error::io("syncing", to, e))
    }

    /// Links a sealed segment; `false` if it has to be copied.
    fn link_segment(&mut self, from: &Path, to: &Path, known: &SegmentPoint) -> Result<bool> {
        let name = file_name(known.base, "log");
        let (old, new) = (from.join(&name), to.join(&name));
        match self.disk.hard_link(&old, &new) {
            Ok(()) => {}
            Err(e) if cannot_link(&e) => return Ok(false),
            Err(e) => return Err(Error::io("linking", old, e)),
        }
        let len = self.disk.open(&new, Open::Read).and_then(|file| file.len());
        if len.map_err(|e| Error::io("measuring", &new, e))? != known.bytes as u64 {
            // A compaction whose last step failed: the name means its result, this process still has the original.
            self.disk.remove(&new).map_err(|e| Error::io("removing", new, e))?;
            return Ok(false);
        }
        self.report.segments_linked += 1;
        self.report.bytes_linked += known.bytes as u64;
        Ok(true)
    }

    /// Links or copies a small file; `false` if there is none.
    fn link(&self, from: &Path, to: &Path, name: &str) -> Result<bool> {
        let (from, to) = (from.join(name), to.join(name));
        match self.disk.hard_link(&from, &to) {
            Ok(()) => return Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) if cannot_link(&e) => {}
            Err(e) => return Err(Error::io("linking", from, e)),
        }
        let file = match self.disk.open(&from, Open::Read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file.map_err(|e| Error::io("opening", &from, e))?,
        };
        let bytes = file.len().map_err(|e| Error::io("measuring", &from, e))?;
        let copy = self.copy_bytes(&Source::File(file), bytes, &from, &to)?;
        copy.sync().map_err(|e| Error::io("syncing", to, e))?;
        Ok(true)
    }

    /// Copies the first `bytes` into a new file, which is still to be synced.
    fn copy_bytes(&self, source: &Source, bytes: u64, from: &Path, to: &Path) -> Result<Arc<dyn File>> {
        let copy = self.disk.open(to, Open::CreateNew).map_err(|e| Error::io("creating", to, e))?;
        let mut piece = vec![0; PIECE_BYTES.min(bytes as usize)];
        let mut at = 0;
        while at < bytes {
            let wanted = piece.len().min((bytes - at) as usize);
            let got = source.read(&mut piece[..wanted], at).map_err(|e| Error::io("reading", from, e))?;
            if got < wanted {
                return Err(Error::corrupt(
                    from,
                    at + got as u64,
                    format!("a file of at least {bytes} bytes"),
                    "its end",
                    "somebody cut the file; restore it from a backup",
                ));
            }
            write_all_at(&*copy, &piece[..wanted], at).map_err(|e| Error::io("writing", to, e))?;
            at += wanted as u64;
        }
        Ok(copy)
    }
}

fn segment_point(segment: &Segment, end: Mark, sealed: bool) -> SegmentPoint {
    let indexes = segment.indexes.lock().unwrap();
    let indexed = sealed && segment.indexes_saved.load(std::sync::atomic::Ordering::Acquire);
    SegmentPoint {
        base: segment.base,
        bytes: end.bytes(),
        records: end.records(),
        max_timestamp: indexes.max_timestamp(),
        index_crc: if indexed { crc32fast::hash(indexes.offset_bytes()) } else { 0 },
        timeindex_crc: if indexed { crc32fast::hash(indexes.time_bytes()) } else { 0 },
        sealed,
        indexed,
    }
}
