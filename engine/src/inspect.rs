//! A look at a directory from outside: what is in it, batch by batch, and whether every checksum is right.
//!
//! Nothing is locked and nothing written, so it works beside the process that has the directory open, and on folders
//! that Kafka wrote. Files are read in pieces, so a segment of any size costs little memory. The price of not locking is
//! that things may be on the move: the end of the newest segment may be half written, files may come and go. What
//! looks wrong is therefore looked at twice before [`verify`] says so.
//!
//! [`verify`] is the one place in this crate that starts threads; they end before it returns.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::batch::{Batch, Flaw, HEADER_BYTES, Header};
use crate::checkpoint::{self, Checkpoint, SegmentPoint};
use crate::disk::{Disk, File, Kind, Open, SystemDisk, read_file, read_full_at};
use crate::error::{Error, Result};
use crate::kafka_files::{self, Folder, Suffix};
use crate::log::TopicDescription;
use crate::meta::{self, DirMeta};
use crate::segment::file_name;
use crate::types::{Offset, Timestamp, TopicId, TopicPartition};

/// One read. Larger batches get as much room as they have bytes in the file.
const CHUNK_BYTES: usize = 1 << 20;
/// No index is larger: entries for every record of a segment of 2 GiB.
const INDEX_BYTES_MAX: u64 = 4 << 30;

/// A directory of partitions, looked at from outside.
///
/// ```
/// use girok_engine::batch::{BatchBuilder, Codec};
/// use girok_engine::inspect::{Directory, End};
/// use girok_engine::{Env, Log, LogConfig, Timestamp, TopicConfig};
///
/// let env = Env::in_memory();
/// let (log, _) = Log::open(env.clone(), "/log", LogConfig::default())?;
/// log.create_topic("orders", 1, TopicConfig::default())?;
/// let mut batch = BatchBuilder::new(Codec::None);
/// batch.append(Timestamp::from_millis(1), None, Some(b"tea"), &[])?;
/// log.partition(&"orders-0".parse()?)?.append(&batch.finish()?)?;
///
/// // The log is still open: that does not matter here.
/// let dir = Directory::on(env.disk.clone(), "/log")?;
/// let partition = &dir.partitions()?[0];
/// assert_eq!(partition.name().to_string(), "orders-0");
/// let mut batches = partition.segments()?[0].batches()?;
/// let found = batches.next()?.unwrap();
/// assert_eq!((found.position, found.batch.header().record_count), (0, 1));
/// assert!(batches.next()?.is_none());
/// assert!(matches!(batches.end(), Some(End::Zeros { .. })), "room that is reserved");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Directory {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl Directory {
    /// A directory of this machine.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is no directory.
    pub fn open(path: impl Into<PathBuf>) -> Result<Directory> {
        Directory::on(Arc::new(SystemDisk::new()), path)
    }

    /// A directory of any disk.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn on(disk: Arc<dyn Disk>, path: impl Into<PathBuf>) -> Result<Directory> {
        let path = path.into();
        if disk.is_dir(&path) {
            return Ok(Directory { disk, path });
        }
        Err(Error::invalid(
            "directory",
            "one that exists",
            path.display(),
            "check the path; a directory of topics is made by the first process that opens it",
        ))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The partitions there are, by name. Folders that are on their way out, or of brokers' own business, are not among
    /// them.
    ///
    /// # Errors
    /// What the system says.
    pub fn partitions(&self) -> Result<Vec<PartitionFolder>> {
        let entries = self.disk.list(&self.path).map_err(|e| Error::io("listing", &self.path, e))?;
        let mut found: Vec<PartitionFolder> = entries
            .into_iter()
            .filter(|entry| entry.kind == Kind::Folder)
            .filter_map(|entry| match kafka_files::partition_folder(&entry.name)? {
                Folder::Partition(name) => {
                    let path = self.path.join(&entry.name);
                    Some(PartitionFolder { disk: self.disk.clone(), name, path })
                }
                _ => None,
            })
            .collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// One partition.
    ///
    /// # Errors
    /// [`Error::UnknownTopicOrPartition`] if it has no folder; one that was never appended to need not have one.
    pub fn partition(&self, name: &TopicPartition) -> Result<PartitionFolder> {
        let path = self.path.join(name.folder());
        if self.disk.is_dir(&path) {
            return Ok(PartitionFolder { disk: self.disk.clone(), name: name.clone(), path });
        }
        let found = format!("no folder {}", path.display());
        Err(Error::UnknownTopicOrPartition { name: name.to_string(), found })
    }

    /// The topics that `girok.meta` names, by name; `None` if there is no such file, because a broker wrote the
    /// directory.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::NewerFormat`].
    pub fn topics(&self) -> Result<Option<Vec<TopicDescription>>> {
        let Some(meta) = DirMeta::load(&*self.disk, &self.path)? else { return Ok(None) };
        let describe = |(name, topic): (String, meta::TopicMeta)| TopicDescription {
            name,
            id: topic.id,
            partitions: topic.partitions,
            config: Arc::new(topic.config),
        };
        Ok(Some(meta.topics.into_iter().map(describe).collect()))
    }
}

/// A partition's folder.
///
/// ```
/// # use girok_engine::*;
/// # let env = Env::in_memory();
/// # let (log, _) = Log::open(env.clone(), "/log", LogConfig::default())?;
/// # let id = log.create_topic("orders", 1, TopicConfig::default())?;
/// # let partition = log.partition(&TopicPartition::new("orders", 0))?;
/// # let mut builder = batch::BatchBuilder::new(batch::Codec::None);
/// # builder.append(Timestamp::from_millis(1), None, Some(b"tea"), &[])?;
/// # partition.append(&builder.finish()?)?;
/// # log.close()?;
/// # let dir = inspect::Directory::on(env.disk.clone(), "/log")?;
/// let folder = dir.partition(&"orders-0".parse()?)?;
/// assert_eq!(folder.topic_id()?, Some(id));
/// assert_eq!(folder.segments()?.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct PartitionFolder {
    disk: Arc<dyn Disk>,
    name: TopicPartition,
    path: PathBuf,
}

impl PartitionFolder {
    /// A partition's folder by itself. One whose name is no partition's is taken for partition 0 of a topic of that name,
    /// so that a folder that was moved aside can be read.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is no folder.
    pub fn open(path: impl Into<PathBuf>) -> Result<PartitionFolder> {
        let Directory { disk, path } = Directory::open(path)?;
        let folder = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let name = folder.parse().unwrap_or_else(|_| TopicPartition::new(folder, 0));
        Ok(PartitionFolder { disk, name, path })
    }

    /// The partition.
    pub fn name(&self) -> &TopicPartition {
        &self.name
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The id of its topic, if its `partition.metadata` says so.
    ///
    /// # Errors
    /// A file that does not make sense.
    pub fn topic_id(&self) -> Result<Option<TopicId>> {
        kafka_files::read_partition_metadata(&*self.disk, &self.path)
    }

    /// Its segments, oldest first.
    ///
    /// # Errors
    /// What the system says.
    pub fn segments(&self) -> Result<Vec<Segment>> {
        let entries = self.disk.list(&self.path).map_err(|e| Error::io("listing", &self.path, e))?;
        let mut found: Vec<Segment> = entries
            .into_iter()
            .filter(|entry| entry.kind == Kind::File)
            .filter_map(|entry| match kafka_files::segment_file(&entry.name)? {
                (base, "log", Suffix::None) => Some(Segment {
                    disk: self.disk.clone(),
                    path: self.path.join(&entry.name),
                    base: Some(base),
                    bytes: entry.len,
                }),
                _ => None,
            })
            .collect();
        found.sort_by_key(|segment| segment.base);
        Ok(found)
    }
}

/// A segment's file, or another that holds batches one after the other, such as the bytes that recovery put aside.
///
/// ```
/// # use girok_engine::*;
/// # let env = Env::in_memory();
/// # let (log, _) = Log::open(env.clone(), "/log", LogConfig::default())?;
/// # let id = log.create_topic("orders", 1, TopicConfig::default())?;
/// # let partition = log.partition(&TopicPartition::new("orders", 0))?;
/// # let mut builder = batch::BatchBuilder::new(batch::Codec::None);
/// # builder.append(Timestamp::from_millis(1), None, Some(b"tea"), &[])?;
/// # partition.append(&builder.finish()?)?;
/// # log.close()?;
/// # let dir = inspect::Directory::on(env.disk.clone(), "/log")?;
/// let segment = &dir.partition(&"orders-0".parse()?)?.segments()?[0];
/// assert!(segment.path().ends_with("orders-0/00000000000000000000.log"));
/// assert_eq!(segment.base_offset(), Some(Offset::ZERO));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Segment {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    base: Option<Offset>,
    bytes: u64,
}

impl Segment {
    /// A file of this machine.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: impl Into<PathBuf>) -> Result<Segment> {
        let path = path.into();
        let disk: Arc<dyn Disk> = Arc::new(SystemDisk::new());
        let bytes = disk.open(&path, Open::Read).and_then(|file| file.len());
        let bytes = bytes.map_err(|e| Error::io("opening", &path, e))?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let base = kafka_files::segment_file(&name).map(|(base, ..)| base);
        Ok(Segment { disk, path, base, bytes })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The base offset that its name says, if it does.
    pub fn base_offset(&self) -> Option<Offset> {
        self.base
    }

    /// How long the file was when it was looked for, reserved room included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its batches, from the start.
    ///
    /// # Errors
    /// What the system says.
    pub fn batches(&self) -> Result<Batches> {
        let file = self.disk.open(&self.path, Open::Read).map_err(|e| Error::io("opening", &self.path, e))?;
        Ok(Batches { path: self.path.clone(), file, room: Vec::new(), from: 0, at: 0, given: 0, end: None })
    }
}

/// A batch and where it stands.
///
/// ```
/// # use girok_engine::*;
/// # let env = Env::in_memory();
/// # let (log, _) = Log::open(env.clone(), "/log", LogConfig::default())?;
/// # let id = log.create_topic("orders", 1, TopicConfig::default())?;
/// # let partition = log.partition(&TopicPartition::new("orders", 0))?;
/// # let mut builder = batch::BatchBuilder::new(batch::Codec::None);
/// # builder.append(Timestamp::from_millis(1), None, Some(b"tea"), &[])?;
/// # partition.append(&builder.finish()?)?;
/// # log.close()?;
/// # let dir = inspect::Directory::on(env.disk.clone(), "/log")?;
/// # let segment = &dir.partitions()?[0].segments()?[0];
/// let mut batches = segment.batches()?;
/// let found = batches.next()?.unwrap();
/// assert_eq!((found.position, found.batch.header().base_offset), (0, Offset::ZERO));
/// assert!(found.batch.check_crc().is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Found<'b> {
    /// Its first byte in the file.
    pub position: u64,
    /// The batch. Its checksum was not looked at.
    pub batch: Batch<'b>,
}

/// What stands behind the last batch.
///
/// ```
/// # use girok_engine::*;
/// # let env = Env::in_memory();
/// # let (log, _) = Log::open(env.clone(), "/log", LogConfig::default())?;
/// # let id = log.create_topic("orders", 1, TopicConfig::default())?;
/// # let partition = log.partition(&TopicPartition::new("orders", 0))?;
/// # let mut builder = batch::BatchBuilder::new(batch::Codec::None);
/// # builder.append(Timestamp::from_millis(1), None, Some(b"tea"), &[])?;
/// # partition.append(&builder.finish()?)?;
/// # log.close()?;
/// # let dir = inspect::Directory::on(env.disk.clone(), "/log")?;
/// # let segment = &dir.partitions()?[0].segments()?[0];
/// use girok_engine::inspect::End;
/// let mut batches = segment.batches()?;
/// while batches.next()?.is_some() {}
/// assert_eq!(batches.end(), Some(&End::Whole), "it was closed, so nothing is reserved");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The end of the file.
    Whole,
    /// Zeros up to the end of the file: room that is reserved.
    Zeros {
        /// Where they begin.
        at: u64,
        /// How many.
        bytes: u64,
    },
    /// Something that is no batch, or not a whole one.
    Unreadable {
        /// Where it begins.
        at: u64,
        /// How many bytes there are.
        bytes: u64,
        /// What is wrong with them; its place is counted from `at`.
        flaw: Flaw,
    },
}

/// The batches of a file, read in pieces. From [`Segment::batches`].
///
/// Not an [`Iterator`], because a batch is borrowed from the room the next one is read into.
///
/// ```
/// # use girok_engine::*;
/// # let env = Env::in_memory();
/// # let (log, _) = Log::open(env.clone(), "/log", LogConfig::default())?;
/// # let id = log.create_topic("orders", 1, TopicConfig::default())?;
/// # let partition = log.partition(&TopicPartition::new("orders", 0))?;
/// # let mut builder = batch::BatchBuilder::new(batch::Codec::None);
/// # builder.append(Timestamp::from_millis(1), None, Some(b"tea"), &[])?;
/// # partition.append(&builder.finish()?)?;
/// # log.close()?;
/// # let dir = inspect::Directory::on(env.disk.clone(), "/log")?;
/// # let segment = &dir.partitions()?[0].segments()?[0];
/// let (mut batches, mut records) = (segment.batches()?, 0);
/// while let Some(found) = batches.next()? {
///     records += found.batch.header().record_count;
/// }
/// assert_eq!(records, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Batches {
    path: PathBuf,
    file: Arc<dyn File>,
    /// From `from` on, the bytes of the file from `at` on.
    room: Vec<u8>,
    from: usize,
    at: u64,
    /// The size of the batch that was given out last, which stands at `from`.
    given: usize,
    end: Option<End>,
}

impl Batches {
    /// The next batch; `None` at the [`end`](Self::end).
    ///
    /// # Errors
    /// What the system says. Bytes that are no batch are no error here, but the end.
    #[allow(clippy::should_implement_trait)] // it lends
    pub fn next(&mut self) -> Result<Option<Found<'_>>> {
        self.pass(self.given);
        self.given = 0;
        if self.end.is_some() {
            return Ok(None);
        }
        self.fill(HEADER_BYTES)?;
        if self.rest().is_empty() {
            self.end = Some(End::Whole);
            return Ok(None);
        }
        match self.take_whole()? {
            Ok(size) => {
                self.given = size;
                let batch = Batch::parse(&self.rest()[..size]).expect("it was just found whole");
                Ok(Some(Found { position: self.at, batch }))
            }
            Err(flaw) => {
                self.end = Some(self.look_behind(flaw)?);
                Ok(None)
            }
        }
    }

    /// What stands behind the last batch, once [`next`](Self::next) has said `None`.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Where the next batch begins.
    pub fn position(&self) -> u64 {
        self.at + self.given as u64
    }

    fn rest(&self) -> &[u8] {
        &self.room[self.from..]
    }

    fn pass(&mut self, bytes: usize) {
        self.from += bytes;
        self.at += bytes as u64;
    }

    /// Makes sure that the batch that comes next is in the room as a whole; its size.
    fn take_whole(&mut self) -> Result<Result<usize, Flaw>> {
        let header = match Header::parse(self.rest()) {
            Ok(header) => header,
            Err(flaw) => return Ok(Err(flaw)),
        };
        if self.rest().len() < header.size() {
            // A length that lies is found before anybody makes room for it.
            let len = self.file.len().map_err(|e| Error::io("reading", &self.path, e))?;
            if header.size() as u64 <= len.saturating_sub(self.at) {
                self.fill(header.size())?;
            }
        }
        Ok(Batch::parse(self.rest()).map(|batch| batch.bytes().len()))
    }

    /// Reads until there are `wanted` bytes, or the file ends.
    fn fill(&mut self, wanted: usize) -> Result<()> {
        if self.rest().len() >= wanted {
            return Ok(());
        }
        self.room.drain(..std::mem::take(&mut self.from));
        let had = self.room.len();
        self.room.resize(wanted.max(CHUNK_BYTES), 0);
        let got = read_full_at(&*self.file, &mut self.room[had..], self.at + had as u64)
            .map_err(|e| Error::io("reading", &self.path, e))?;
        self.room.truncate(had + got);
        Ok(())
    }

    /// Whether what follows is reserved room or rubbish.
    fn look_behind(&mut self, flaw: Flaw) -> Result<End> {
        let (mut zeros, mut to) = (true, self.at);
        let mut room = std::mem::take(&mut self.room);
        self.from = 0;
        room.resize(CHUNK_BYTES, 0);
        loop {
            let got =
                read_full_at(&*self.file, &mut room, to).map_err(|e| Error::io("reading", &self.path, e))?;
            if got == 0 {
                break;
            }
            zeros &= room[..got].iter().all(|byte| *byte == 0);
            to += got as u64;
        }
        let (at, bytes) = (self.at, to - self.at);
        Ok(match zeros {
            true if bytes == 0 => End::Whole,
            true => End::Zeros { at, bytes },
            false => End::Unreadable { at, bytes, flaw },
        })
    }

    /// Whether a whole valid batch whose base offset is at least `next` stands anywhere behind the end.
    fn any_valid_behind(&mut self, next: Offset) -> Result<bool> {
        (self.room, self.from) = (Vec::new(), 0);
        self.at += 1;
        loop {
            self.fill(HEADER_BYTES)?;
            if self.rest().len() < HEADER_BYTES {
                return Ok(false);
            }
            // Wherever a batch begins, byte 16 from there is the magic 2; only such places are looked at more closely.
            let rest = self.rest();
            let places = &rest[16..rest.len() - (HEADER_BYTES - 16 - 1)];
            match places.iter().position(|byte| *byte == 2) {
                Some(skip) => self.pass(skip),
                None => {
                    self.pass(places.len());
                    continue;
                }
            }
            let plausible = Header::parse(self.rest()).is_ok_and(|header| header.base_offset >= next);
            if plausible
                && let Ok(size) = self.take_whole()?
                && Batch::parse(&self.rest()[..size]).is_ok_and(|batch| batch.check_crc().is_ok())
            {
                return Ok(true);
            }
            self.pass(1);
        }
    }
}

/// Something that is not what it should be.
///
/// ```
/// # use girok_engine::batch::{BatchBuilder, Codec};
/// # use girok_engine::disk::{Disk, MemoryDisk, Open, write_all_at};
/// # use girok_engine::{Offset, Timestamp};
/// # let mut builder = BatchBuilder::new(Codec::None);
/// # builder.append(Timestamp::from_millis(1), None, Some(b"tea"), &[])?;
/// # let first = builder.finish()?.to_vec();
/// # builder.append(Timestamp::from_millis(2), None, Some(b"milk"), &[])?;
/// # builder.set_base_offset(Offset::new(1));
/// # let second = builder.finish()?.to_vec();
/// # let disk = MemoryDisk::new();
/// # disk.create_dir("/log/orders-0".as_ref())?;
/// # let file = disk.open("/log/orders-0/00000000000000000000.log".as_ref(), Open::CreateNew)?;
/// # let mut flipped = first.clone();
/// # *flipped.last_mut().unwrap() ^= 1;
/// # write_all_at(&*file, &[flipped, second].concat(), 0)?;
/// # use std::sync::Arc;
/// use girok_engine::inspect::{Directory, verify};
/// // A bit flipped in the first of two batches.
/// let report = verify(&Directory::on(Arc::new(disk), "/log")?, 1, |_| ())?;
/// let problem = &report.problems[0];
/// assert!(problem.path.ends_with("orders-0/00000000000000000000.log"));
/// assert!(problem.expected.contains("checksum"), "{problem}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// In which file.
    pub path: PathBuf,
    /// At which byte.
    pub position: u64,
    /// What should have been there.
    pub expected: String,
    /// What was.
    pub found: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Problem { path, position, expected, found } = self;
        write!(f, "{} at byte {position}: expected {expected}, found {found}", path.display())
    }
}

/// The end of a log that a crash left, or that is being written at this moment. Opening the directory cuts it.
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
/// # let whole = file.len()?;
/// # disk::write_all_at(&*file, b"torn!", whole)?;
/// // One batch, and behind it five bytes of one that a power cut tore.
/// let dir = inspect::Directory::on(env.disk.clone(), "/log")?;
/// let report = inspect::verify(&dir, 1, |_| ())?;
/// let end = &report.unfinished[0];
/// assert_eq!((end.position, end.bytes), (whole, 5));
/// assert!(report.problems.is_empty(), "nothing that was finished is damaged");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// In which file.
    pub path: PathBuf,
    /// From which byte on.
    pub position: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// What [`verify`] found.
///
/// ```
/// # use girok_engine::*;
/// # let env = Env::in_memory();
/// # let (log, _) = Log::open(env.clone(), "/log", LogConfig::default())?;
/// # let id = log.create_topic("orders", 1, TopicConfig::default())?;
/// # let partition = log.partition(&TopicPartition::new("orders", 0))?;
/// # let mut builder = batch::BatchBuilder::new(batch::Codec::None);
/// # builder.append(Timestamp::from_millis(1), None, Some(b"tea"), &[])?;
/// # partition.append(&builder.finish()?)?;
/// # log.close()?;
/// # let dir = inspect::Directory::on(env.disk.clone(), "/log")?;
/// let report = inspect::verify(&dir, 1, |_| ())?;
/// assert!(report.clean && report.problems.is_empty());
/// assert_eq!((report.partitions, report.batches, report.records), (1, 1, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Whether the directory was closed cleanly. Always `false` for folders that Kafka wrote: nothing says so there.
    pub clean: bool,
    /// Partitions looked at.
    pub partitions: u64,
    /// Segments looked at.
    pub segments: u64,
    /// Batches whose checksum was right.
    pub batches: u64,
    /// Records in them, as their headers say.
    pub records: u64,
    /// Bytes read of segments and indexes.
    pub bytes: u64,
    /// Ends of logs that are not whole batches, and need not be.
    pub unfinished: Vec<Unfinished>,
    /// What is wrong, by file and byte.
    pub problems: Vec<Problem>,
}

/// How far [`verify`] is.
///
/// ```
/// # use girok_engine::*;
/// # let env = Env::in_memory();
/// # let (log, _) = Log::open(env.clone(), "/log", LogConfig::default())?;
/// # let id = log.create_topic("orders", 1, TopicConfig::default())?;
/// # let partition = log.partition(&TopicPartition::new("orders", 0))?;
/// # let mut builder = batch::BatchBuilder::new(batch::Codec::None);
/// # builder.append(Timestamp::from_millis(1), None, Some(b"tea"), &[])?;
/// # partition.append(&builder.finish()?)?;
/// # log.close()?;
/// # let dir = inspect::Directory::on(env.disk.clone(), "/log")?;
/// use std::sync::Mutex;
/// let last = Mutex::new(None);
/// inspect::verify(&dir, 1, |progress| *last.lock().unwrap() = Some(progress))?;
/// let last = last.into_inner()?.unwrap();
/// assert_eq!(last.bytes_done, last.bytes_total);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of segments that were read.
    pub bytes_done: u64,
    /// Bytes of segments in all, reserved room included.
    pub bytes_total: u64,
}

/// Looks at every checksum in a directory: each batch's CRC-32C, indexes against their segments and against the
/// checksums in `girok.checkpoint`, that file's own, and the one of `girok.meta`. With `threads` threads, segment by
/// segment; `progress` is told about every megabyte, from any of them.
///
/// Works beside the process that has the directory open. Damage is in the report, not an error.
///
/// ```
/// # use girok_engine::{Env, Log, LogConfig, TopicConfig, inspect};
/// # let env = Env::in_memory();
/// # let (log, _) = Log::open(env.clone(), "/log", LogConfig::default())?;
/// # log.create_topic("orders", 3, TopicConfig::default())?;
/// log.close()?;
/// let dir = inspect::Directory::on(env.disk.clone(), "/log")?;
/// let report = inspect::verify(&dir, 2, |_| ())?;
/// assert!(report.clean && report.problems.is_empty());
/// # Ok::<(), girok_engine::Error>(())
/// ```
///
/// # Errors
/// What the system says when listing folders. A file that cannot be read is a problem in the report.
pub fn verify(dir: &Directory, threads: usize, progress: impl Fn(Progress) + Sync) -> Result<VerifyReport> {
    let mut verifier = Verifier::new(dir);
    let folders = dir.partitions()?;
    let mut jobs = Vec::new();
    for folder in &folders {
        let segments = folder.segments()?;
        if verifier.known.clean {
            verifier.find_missing(folder, &segments);
        }
        let count = segments.len();
        let job =
            |(number, segment)| Job { folder: folder.name.clone(), segment, is_last: number + 1 == count };
        jobs.extend(segments.into_iter().enumerate().map(job));
    }
    // The largest first, so that no thread is left alone with one at the end.
    jobs.sort_by(|a, b| b.segment.bytes.cmp(&a.segment.bytes).then(a.segment.path.cmp(&b.segment.path)));
    let total = jobs.iter().map(|job| job.segment.bytes).sum();
    let meter = Meter { done: AtomicU64::new(0), total, tell: &progress };

    let mut looked = verifier.look_at(&jobs, threads, &meter);
    if looked.iter().any(|look| !look.problems.is_empty()) {
        // Somebody may be at work here: a batch is copied in, an index replaced before the checkpoint says so. Whoever
        // closed the directory cleanly has nothing to finish; otherwise give them time for a checkpoint.
        let wait = if verifier.known.clean || !verifier.known.is_ours { 200 } else { 6_000 };
        std::thread::sleep(Duration::from_millis(wait));
        verifier.known = Known::load(dir);
        let again: Vec<usize> = (0..jobs.len()).filter(|&job| !looked[job].problems.is_empty()).collect();
        let jobs: Vec<Job> = again.iter().map(|&job| jobs[job].again(dir)).collect();
        let silent = Meter { done: AtomicU64::new(0), total: 0, tell: &|_| () };
        for (job, look) in again.into_iter().zip(verifier.look_at(&jobs, threads, &silent)) {
            looked[job] = look;
        }
    }

    let mut report = VerifyReport { clean: verifier.known.clean, ..VerifyReport::default() };
    report.partitions = folders.len() as u64;
    report.problems = verifier.known.problems;
    report.problems.append(&mut verifier.missing);
    for look in looked {
        report.segments += u64::from(look.is_there);
        report.batches += look.batches;
        report.records += look.records;
        report.bytes += look.bytes;
        report.unfinished.extend(look.unfinished);
        report.problems.extend(look.problems);
    }
    report.unfinished.sort_by(|a, b| a.path.cmp(&b.path));
    report.problems.sort_by(|a, b| (&a.path, a.position).cmp(&(&b.path, b.position)));
    Ok(report)
}

/// What the directory's own files say about its segments.
struct Known {
    /// There is a `girok.meta`: what is in the directory is ours, or was adopted.
    is_ours: bool,
    clean: bool,
    checkpoint: Checkpoint,
    problems: Vec<Problem>,
}

impl Known {
    /// Never fails: what cannot be read is a problem.
    fn load(dir: &Directory) -> Known {
        let mut problems = Vec::new();
        let mut named = |path: PathBuf, error: Error| {
            problems.push(match error {
                Error::Corrupt { place, expected, found, .. } => {
                    Problem { path: place.path, position: place.position, expected, found }
                }
                error => Problem {
                    path,
                    position: 0,
                    expected: "a file that can be read".into(),
                    found: error.to_string(),
                },
            });
        };
        let is_ours = match DirMeta::load(&*dir.disk, &dir.path) {
            Ok(meta) => meta.is_some(),
            Err(error) => {
                named(dir.path.join(meta::FILE_NAME), error);
                true
            }
        };
        let mut notes = Vec::new();
        let loaded = Checkpoint::load(&*dir.disk, &dir.path, &mut notes);
        let path = dir.path.join(checkpoint::FILE_NAME);
        let checkpoint = match loaded {
            Ok(checkpoint) => checkpoint.unwrap_or_default(),
            Err(error) => {
                named(path.clone(), error);
                Checkpoint::default()
            }
        };
        for note in notes {
            problems.push(Problem {
                path: path.clone(),
                position: 0,
                expected: "points under their right checksums".into(),
                found: note,
            });
        }
        Known { is_ours, clean: checkpoint.clean, checkpoint, problems }
    }
}

/// A segment to look at.
struct Job {
    folder: TopicPartition,
    segment: Segment,
    /// Nothing newer stands in its folder, so somebody may be appending to it.
    is_last: bool,
}

impl Job {
    /// The same segment as it is now: another may have begun behind it.
    fn again(&self, dir: &Directory) -> Job {
        let path = dir.path.join(self.folder.folder());
        let folder = PartitionFolder { disk: dir.disk.clone(), name: self.folder.clone(), path };
        let newest =
            folder.segments().ok().and_then(|segments| segments.last().and_then(|newest| newest.base));
        let is_last = newest.is_none_or(|newest| self.segment.base >= Some(newest));
        Job { folder: self.folder.clone(), segment: self.segment.clone(), is_last }
    }
}

/// What a segment was found to be.
#[derive(Default)]
struct Look {
    is_there: bool,
    batches: u64,
    records: u64,
    bytes: u64,
    unfinished: Option<Unfinished>,
    problems: Vec<Problem>,
}

struct Meter<'p> {
    done: AtomicU64,
    total: u64,
    tell: &'p (dyn Fn(Progress) + Sync),
}

impl Meter<'_> {
    fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (self.tell)(Progress { bytes_done: done.min(self.total), bytes_total: self.total });
    }
}

struct Verifier<'d> {
    dir: &'d Directory,
    known: Known,
    missing: Vec<Problem>,
}

impl<'d> Verifier<'d> {
    fn new(dir: &'d Directory) -> Self {
        Verifier { dir, known: Known::load(dir), missing: Vec::new() }
    }

    /// Segments that a cleanly closed directory had and has no more, or has less of.
    fn find_missing(&mut self, folder: &PartitionFolder, segments: &[Segment]) {
        let Some(point) = self.known.checkpoint.partitions.get(&folder.name) else { return };
        let lengths: BTreeMap<Option<Offset>, u64> =
            segments.iter().map(|segment| (segment.base, segment.bytes)).collect();
        for known in &point.segments {
            let found = lengths.get(&Some(known.base)).copied();
            if found.is_some_and(|bytes| bytes >= u64::from(known.bytes))
                || (found.is_none() && known.bytes == 0)
            {
                continue;
            }
            self.missing.push(Problem {
                path: folder.path.join(file_name(known.base, "log")),
                position: found.unwrap_or(0),
                expected: format!("{} bytes, as girok.checkpoint says", known.bytes),
                found: found.map_or("no file".into(), |bytes| format!("{bytes} bytes")),
            });
        }
    }

    /// Looks at all of them, with so many threads at most. One look each, in order.
    fn look_at(&self, jobs: &[Job], threads: usize, meter: &Meter<'_>) -> Vec<Look> {
        let next = AtomicUsize::new(0);
        let done: Mutex<Vec<(usize, Look)>> = Mutex::new(Vec::with_capacity(jobs.len()));
        std::thread::scope(|scope| {
            for _ in 0..threads.clamp(1, jobs.len().max(1)) {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some(job) = jobs.get(number) else { break };
                        let mut look = Look::default();
                        if let Err(error) = self.look(job, &mut look, meter) {
                            unreadable(job, &error, &mut look);
                        }
                        done.lock().unwrap().push((number, look));
                    }
                });
            }
        });
        let mut done = done.into_inner().unwrap();
        done.sort_by_key(|(number, _)| *number);
        done.into_iter().map(|(_, look)| look).collect()
    }

    fn point(&self, job: &Job) -> Option<&SegmentPoint> {
        let point = self.known.checkpoint.partitions.get(&job.folder)?;
        point.segments.iter().find(|segment| Some(segment.base) == job.segment.base)
    }

    fn look(&self, job: &Job, look: &mut Look, meter: &Meter<'_>) -> Result<()> {
        let base = job.segment.base.unwrap_or_default();
        let mut batches = job.segment.batches()?;
        look.is_there = true;
        let mut indexes = self.indexes(job, look)?;
        let recovery_point = self
            .known
            .checkpoint
            .partitions
            .get(&job.folder)
            .map_or(Offset::ZERO, |point| point.recovery_point);
        let mut next = base;
        let mut told = 0;
        let problem = |position, expected: String, found: String| Problem {
            path: job.segment.path.clone(),
            position,
            expected,
            found,
        };
        // The end of the newest segment is settled once the directory was closed, or below the recovery point.
        let is_settled =
            |next: Offset| !job.is_last || self.known.clean || !self.known.is_ours || next < recovery_point;
        let mut flaw_at = None;
        while let Some(Found { position, batch }) = batches.next()? {
            let header = batch.header();
            let wrong = match batch.check_crc() {
                Err(flaw) => Some((flaw.expected.into_owned(), flaw.found)),
                Ok(()) if header.base_offset < next => {
                    Some((format!("a base offset from {next} on"), header.base_offset.to_string()))
                }
                Ok(()) => None,
            };
            match wrong {
                None => {
                    look.batches += 1;
                    look.records += header.record_count as u64;
                    next = header.next_offset();
                    indexes.pass(base, &header, position);
                }
                // What stands behind a bad batch below is looked at all the same.
                Some((expected, found)) if is_settled(next) => {
                    look.problems.push(problem(position, expected, found));
                    indexes.pass(base, &header, position);
                }
                Some(wrong) => {
                    flaw_at = Some((position, wrong));
                    break;
                }
            }
            if batches.position() - told >= CHUNK_BYTES as u64 {
                meter.add(batches.position() - told);
                told = batches.position();
            }
        }
        let len = batches.file.len().map_err(|e| Error::io("reading", &job.segment.path, e))?;
        let end = match (flaw_at, batches.end().cloned()) {
            (Some((at, (expected, found))), _) => {
                let flaw = Flaw { at: 0, expected: expected.into(), found };
                End::Unreadable { at, bytes: len.saturating_sub(at), flaw }
            }
            (None, end) => end.unwrap_or(End::Whole),
        };
        look.bytes += match &end {
            End::Whole => batches.position(),
            End::Zeros { at, .. } | End::Unreadable { at, .. } => *at,
        };
        // Behind what cannot be read there is nothing to hold an index against.
        if !matches!(end, End::Unreadable { .. }) {
            indexes.finish(&mut look.problems);
        }
        match end {
            End::Whole => {}
            // Whoever has it open may not have cut it yet.
            End::Zeros { .. } if !self.known.clean && (self.known.is_ours || job.is_last) => {}
            End::Zeros { at, bytes } => {
                let expected = "the end of the file behind the last batch".into();
                look.problems.push(problem(at, expected, format!("{bytes} zeros")));
            }
            End::Unreadable { at, bytes, flaw } => {
                if is_settled(next) {
                    look.problems.push(problem(at + flaw.at as u64, flaw.expected.into_owned(), flaw.found));
                } else if batches.any_valid_behind(next)? {
                    let expected =
                        format!("{} (whole batches follow, so this was no unfinished end)", flaw.expected);
                    look.problems.push(problem(at + flaw.at as u64, expected, flaw.found));
                } else {
                    look.unfinished =
                        Some(Unfinished { path: job.segment.path.clone(), position: at, bytes });
                }
            }
        }
        // Reserved room was not read, and is done.
        meter.add(job.segment.bytes.saturating_sub(told));
        Ok(())
    }

    /// The index files of a segment, as far as they must be right.
    fn indexes(&self, job: &Job, look: &mut Look) -> Result<IndexWalk> {
        // While a segment of ours is appended to, its index is in memory and its files are of an earlier time.
        if job.is_last && self.known.is_ours && !self.known.clean {
            return Ok(IndexWalk::default());
        }
        let known = self.point(job).filter(|point| point.indexed);
        let mut read = |ending: &str, crc: Option<u32>| -> Result<IndexFile> {
            let path = job.segment.path.with_extension(ending);
            let bytes = match read_file(&*self.dir.disk, &path, INDEX_BYTES_MAX) {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    if crc.is_some_and(|crc| crc != 0) {
                        let expected = "an index file, as girok.checkpoint says".into();
                        look.problems.push(Problem { path, position: 0, expected, found: "no file".into() });
                    }
                    return Ok(IndexFile::default());
                }
                Err(e) => return Err(Error::io("reading", path, e)),
            };
            look.bytes += bytes.len() as u64;
            let found = crc32fast::hash(&bytes);
            if let Some(crc) = crc.filter(|crc| *crc != found) {
                look.problems.push(Problem {
                    path: path.clone(),
                    position: 0,
                    expected: format!("a file whose CRC-32 is {crc:08x}, as girok.checkpoint says"),
                    found: format!("{found:08x}"),
                });
            }
            Ok(IndexFile { path, bytes, slot: 0, flaw: None })
        };
        let offsets = read("index", known.map(|point| point.index_crc))?;
        let times = read("timeindex", known.map(|point| point.timeindex_crc))?;
        Ok(IndexWalk { offsets, times, pending: None })
    }
}

/// A file that cannot be read: a problem, unless it is gone because retention or compaction took it.
fn unreadable(job: &Job, error: &Error, look: &mut Look) {
    if let Error::Io { source, .. } = error
        && source.kind() == io::ErrorKind::NotFound
    {
        look.is_there = false;
        return;
    }
    look.problems.push(Problem {
        path: job.segment.path.clone(),
        position: look.bytes,
        expected: "a file that can be read".into(),
        found: error.to_string(),
    });
}

/// An index file, held against the batches of its segment as they pass.
#[derive(Default)]
struct IndexFile {
    path: PathBuf,
    bytes: Vec<u8>,
    /// The first entry that no batch has confirmed yet.
    slot: usize,
    /// The first that is wrong; those behind it are not looked at.
    flaw: Option<Problem>,
}

impl IndexFile {
    /// The entry in question, as two numbers of `N` and 4 bytes. Zeros up to the end are unused room, which a live broker
    /// has.
    fn entry<const N: usize>(&self) -> Option<(i64, i64)> {
        if self.flaw.is_some() {
            return None;
        }
        let rest = &self.bytes[self.slot * (N + 4)..];
        let entry = rest.get(..N + 4)?;
        if entry.iter().all(|byte| *byte == 0) && rest.iter().all(|byte| *byte == 0) {
            return None;
        }
        let number = |bytes: &[u8]| bytes.iter().fold(0i64, |n, byte| n << 8 | i64::from(*byte));
        Some((number(&entry[..N]), number(&entry[N..])))
    }

    fn wrong<const N: usize>(&mut self, expected: String, found: String) {
        let position = (self.slot * (N + 4)) as u64;
        self.flaw = Some(Problem { path: self.path.clone(), position, expected, found });
    }

    /// No batch is left to confirm what is left.
    fn finish<const N: usize>(mut self, what: &str, problems: &mut Vec<Problem>) {
        if let Some(entry) = self.entry::<N>() {
            let expected = format!("an entry about {what} of the segment");
            self.wrong::<N>(expected, format!("{} and {}", entry.0, entry.1));
        } else if self.flaw.is_none() && !self.bytes.len().is_multiple_of(N + 4) {
            self.slot = self.bytes.len() / (N + 4);
            let over = self.bytes.len() % (N + 4);
            self.wrong::<N>(format!("whole entries of {} bytes", N + 4), format!("{over} bytes at the end"));
        }
        problems.extend(self.flaw);
    }
}

/// Both index files of a segment.
#[derive(Default)]
struct IndexWalk {
    offsets: IndexFile,
    times: IndexFile,
    /// The position of the offset entry in question, once its batch has passed.
    pending: Option<u64>,
}

impl IndexWalk {
    /// The next batch: entries about it are confirmed, or found wrong.
    fn pass(&mut self, base: Offset, header: &Header, position: u64) {
        let behind = position + header.size() as u64;
        while let Some((relative, at)) = self.offsets.entry::<4>().filter(|entry| (entry.1 as u64) < behind) {
            // The entry is about the batch at `at`, and has the last offset of it, or (brokers before 4.0) of a later one
            // that was appended together with it.
            let is_at = at as u64 == position || self.pending == Some(at as u64);
            let last = header.last_offset() - base;
            if is_at && relative > last {
                self.pending = Some(at as u64);
                break;
            }
            if !is_at || relative < last {
                let expected = format!("byte {position} with offset {}", header.last_offset());
                self.offsets.wrong::<4>(expected, format!("byte {at} with offset {}", base + relative));
                break;
            }
            self.offsets.slot += 1;
        }
        while let Some((time, relative)) =
            self.times.entry::<8>().filter(|entry| base + entry.1 <= header.last_offset())
        {
            if Timestamp::from_millis(time) != header.max_timestamp || base + relative < header.base_offset {
                let expected =
                    format!("timestamp {} with offset {}", header.max_timestamp, header.last_offset());
                self.times.wrong::<8>(expected, format!("timestamp {time} with offset {}", base + relative));
                break;
            }
            self.times.slot += 1;
        }
    }

    fn finish(self, problems: &mut Vec<Problem>) {
        self.offsets.finish::<4>("a position", problems);
        self.times.finish::<8>("an offset", problems);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchBuilder, Codec};
    use crate::disk::MemoryDisk;
    use crate::env::Env;
    use crate::{Log, LogConfig, TopicConfig};

    fn golden() -> Directory {
        Directory::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/segments")).unwrap()
    }

    /// A topic of one partition, with `count` batches of about a hundred bytes, in segments of 4 KiB.
    fn some_log(env: &Env, count: u64) -> Log {
        let (log, _) = Log::open(env.clone(), "/log", LogConfig::default()).unwrap();
        let config = TopicConfig { segment_bytes: 4096, index_interval_bytes: 512, ..TopicConfig::default() };
        if log.topic("orders").is_err() {
            log.create_topic("orders", 1, config).unwrap();
        }
        let orders = log.partition(&"orders-0".parse().unwrap()).unwrap();
        for n in 0..count {
            let mut batch = BatchBuilder::new(Codec::None);
            let time = Timestamp::from_millis(1_700_000_000_000 + n as i64);
            batch.append(time, Some(b"key"), Some(&[n as u8; 40]), &[]).unwrap();
            orders.append(&batch.finish().unwrap()).unwrap();
        }
        orders.sync().unwrap();
        log
    }

    fn dir(env: &Env) -> Directory {
        Directory::on(env.disk.clone(), "/log").unwrap()
    }

    fn flip(disk: &dyn Disk, path: &Path, at: u64) {
        let file = disk.open(path, Open::Write).unwrap();
        let mut byte = [0];
        file.read_at(&mut byte, at).unwrap();
        file.write_at(&[byte[0] ^ 4], at).unwrap();
    }

    #[test]
    fn what_kafka_wrote_is_right_to_the_last_checksum() {
        let report = verify(&golden(), 3, |_| ()).unwrap();
        assert_eq!(report.problems, [], "{:#?}", report.problems);
        assert_eq!(report.unfinished, []);
        assert!(report.segments >= 19 && report.records >= 7000, "{report:?}");
    }

    /// A flipped bit anywhere in a segment's checksummed part, or in an index, is named with its file.
    #[test]
    fn a_flipped_bit_is_named() {
        let original = golden();
        let folder =
            original.partitions().unwrap().into_iter().find(|p| p.name.topic() == "g-segments").unwrap();
        let memory = Arc::new(MemoryDisk::new());
        memory.create_dir(Path::new("/copy/g-segments-0")).unwrap();
        for entry in original.disk.list(&folder.path).unwrap() {
            let bytes = read_file(&*original.disk, &folder.path.join(&entry.name), u64::MAX).unwrap();
            let copy =
                memory.open(&Path::new("/copy/g-segments-0").join(&entry.name), Open::CreateNew).unwrap();
            crate::disk::write_all_at(&*copy, &bytes, 0).unwrap();
        }
        let copy = Directory::on(memory.clone(), "/copy").unwrap();
        assert_eq!(verify(&copy, 2, |_| ()).unwrap().problems, []);
        let log = "/copy/g-segments-0/00000000000000000000.log";
        let index = "/copy/g-segments-0/00000000000000000000.index";
        let times = "/copy/g-segments-0/00000000000000000000.timeindex";
        for (path, at) in
            [(log, 17), (log, 30), (log, 5000), (log, 700_001), (index, 7), (index, 83), (times, 7)]
        {
            flip(&*memory, Path::new(path), at);
            let problems = verify(&copy, 2, |_| ()).unwrap().problems;
            assert!(!problems.is_empty(), "{path} at {at}");
            assert!(problems.iter().all(|problem| problem.path == Path::new(path)), "{problems:#?}");
            flip(&*memory, Path::new(path), at);
        }
    }

    #[test]
    fn a_log_in_use_is_read_beside_its_owner() {
        let env = Env::in_memory();
        let log = some_log(&env, 200);
        let report = verify(&dir(&env), 2, |_| ()).unwrap();
        assert_eq!((report.batches, report.records, report.clean), (200, 200, false));
        assert_eq!((report.problems, report.unfinished), (vec![], vec![]));

        let partition = &dir(&env).partitions().unwrap()[0];
        let segments = partition.segments().unwrap();
        assert!(segments.len() > 3);
        let mut seen = 0;
        for segment in &segments {
            let mut batches = segment.batches().unwrap();
            while let Some(found) = batches.next().unwrap() {
                assert_eq!(found.batch.header().base_offset, Offset::new(seen));
                seen += 1;
            }
        }
        assert_eq!(seen, 200);
        log.close().unwrap();
        assert!(verify(&dir(&env), 2, |_| ()).unwrap().clean);
    }

    /// After a clean close everything is settled: the checkpoint knows every index and every length.
    #[test]
    fn after_a_clean_close_every_file_has_a_checksum_or_a_length() {
        let env = Env::in_memory();
        some_log(&env, 200).close().unwrap();
        let folder = Path::new("/log/orders-0");
        let segments = dir(&env).partitions().unwrap()[0].segments().unwrap();
        let first = segments[0].path.clone();
        let mut files: Vec<PathBuf> = vec!["/log/girok.checkpoint".into(), "/log/girok.meta".into()];
        files.extend(["index", "timeindex", "log"].map(|ending| first.with_extension(ending)));
        files.extend(["timeindex", "log"].map(|ending| segments.last().unwrap().path.with_extension(ending)));
        for file in files {
            let middle = env.disk.open(&file, Open::Read).unwrap().len().unwrap() / 2;
            flip(&*env.disk, &file, middle);
            // A damaged checkpoint no longer says that the directory was closed: then nobody knows about the rest.
            let problems = Known::load(&dir(&env)).problems;
            if !problems.is_empty() {
                assert_eq!(problems[0].path, file);
            } else {
                let report = verify(&dir(&env), 1, |_| ()).unwrap();
                assert!(report.problems.iter().any(|problem| problem.path == file), "{report:#?}");
            }
            flip(&*env.disk, &file, middle);
        }
        env.disk.remove(&first).unwrap();
        let report = verify(&dir(&env), 1, |_| ()).unwrap();
        assert_eq!(report.problems.len(), 1, "{report:#?}");
        assert_eq!(report.problems[0].found, "no file");
        assert!(report.problems[0].path.starts_with(folder));
    }

    /// What a crash tears off at the end is no damage; what stands in the middle is.
    #[test]
    fn a_torn_end_is_unfinished_and_a_torn_middle_is_a_problem() {
        let env = Env::in_memory();
        let log = some_log(&env, 3);
        let newest = dir(&env).partitions().unwrap()[0].segments().unwrap().pop().unwrap();
        let mut batches = newest.batches().unwrap();
        let mut positions = Vec::new();
        while let Some(found) = batches.next().unwrap() {
            positions.push(found.position);
        }
        // The process died: what follows is a directory that nobody closed.
        let verifier = Verifier::new(&dir(&env)).known;
        assert!(!verifier.clean);
        let look = |flipped: u64| {
            flip(&*env.disk, &newest.path, flipped);
            let dir = dir(&env);
            let verifier = Verifier::new(&dir);
            let job = Job { folder: "orders-0".parse().unwrap(), segment: newest.clone(), is_last: true };
            let silent = Meter { done: AtomicU64::new(0), total: 0, tell: &|_| () };
            let look = verifier.look_at(&[job], 1, &silent).pop().unwrap();
            flip(&*env.disk, &newest.path, flipped);
            look
        };
        let torn = look(positions[2] + 70);
        assert_eq!((torn.batches, torn.problems.len()), (2, 0));
        assert_eq!(torn.unfinished.unwrap().position, positions[2]);
        let middle = look(positions[1] + 70);
        assert_eq!((middle.batches, middle.unfinished), (1, None));
        assert_eq!(middle.problems[0].position, positions[1]);
        assert!(middle.problems[0].expected.contains("whole batches follow"), "{:?}", middle.problems);
        drop(log);
    }

    /// A length of 2 GiB in a header is not room for 2 GiB.
    #[test]
    fn a_length_that_lies_makes_no_room() {
        let disk = Arc::new(MemoryDisk::new());
        disk.create_dir(Path::new("/d/t-0")).unwrap();
        let mut batch = BatchBuilder::new(Codec::None);
        batch.append(Timestamp::from_millis(1), None, Some(b"v"), &[]).unwrap();
        let mut bytes = batch.finish().unwrap().to_vec();
        bytes[8..12].copy_from_slice(&(i32::MAX - 100).to_be_bytes());
        let path = Path::new("/d/t-0/00000000000000000000.log");
        crate::disk::write_all_at(&*disk.open(path, Open::CreateNew).unwrap(), &bytes, 0).unwrap();
        let dir = Directory::on(disk, "/d").unwrap();
        let mut batches = dir.partitions().unwrap()[0].segments().unwrap()[0].batches().unwrap();
        assert!(batches.next().unwrap().is_none());
        assert!(matches!(batches.end(), Some(End::Unreadable { at: 0, .. })));
        assert!(batches.room.capacity() <= 2 * CHUNK_BYTES);
        assert_eq!(verify(&dir, 1, |_| ()).unwrap().problems.len(), 1);
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let missing = Directory::open("/no/such/directory").unwrap_err();
        assert!(missing.to_string().contains("/no/such/directory"), "{missing}");
    }
}
