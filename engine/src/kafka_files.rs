//! The small text files that Kafka keeps beside its logs, read and written byte for byte, and the names of its files.
//!
//! We read them when a folder that Kafka wrote is adopted, and write them at a clean close, so that a broker can open
//! the folder again. While the log is in use `girok.checkpoint` says what these say, and more. `meta.properties` is
//! only recognised: it names a broker and its cluster, which a library is not part of.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::path::Path;

use crate::disk::{Disk, read_file, replace_file};
use crate::error::{Error, Result};
use crate::types::{Offset, TopicId, TopicPartition};

/// In a partition's folder: the topic's id.
pub const PARTITION_METADATA: &str = "partition.metadata";
/// In a partition's folder: at which offset each leader epoch began.
pub const LEADER_EPOCH_CHECKPOINT: &str = "leader-epoch-checkpoint";
/// In the directory: log start offsets that are not those of the first segment.
pub const LOG_START_OFFSET_CHECKPOINT: &str = "log-start-offset-checkpoint";
/// In the directory: up to where each partition is synced.
pub const RECOVERY_POINT_OFFSET_CHECKPOINT: &str = "recovery-point-offset-checkpoint";
/// In the directory: high watermarks.
pub const REPLICATION_OFFSET_CHECKPOINT: &str = "replication-offset-checkpoint";
/// In the directory: up to where each compacted partition was cleaned.
pub const CLEANER_OFFSET_CHECKPOINT: &str = "cleaner-offset-checkpoint";
/// In the directory: the broker and cluster it belongs to.
pub const META_PROPERTIES: &str = "meta.properties";

/// No checkpoint of Kafka's is larger: 100,000 partitions with the longest names are 27 MB.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// The broker's own metadata log, where it shares the directory. Never a topic.
const CLUSTER_METADATA: &str = "__cluster_metadata-0";

/// What a broker keeps at the top of its directory.
const KAFKA_TOP_LEVEL: [&str; 9] = [
    LOG_START_OFFSET_CHECKPOINT,
    RECOVERY_POINT_OFFSET_CHECKPOINT,
    REPLICATION_OFFSET_CHECKPOINT,
    CLEANER_OFFSET_CHECKPOINT,
    META_PROPERTIES,
    "bootstrap.checkpoint",
    ".kafka_cleanshutdown",
    ".lock",
    CLUSTER_METADATA,
];

/// What we keep there.
const GIROK_TOP_LEVEL: [&str; 4] = ["girok.meta", "girok.checkpoint", "girok.lock", "girok-groups.state"];

/// What stands behind the ending of a segment's file.
///
/// ```
/// use girok_engine::kafka_files::{Suffix, segment_file};
/// let (_, _, suffix) = segment_file("00000000000000000042.log.deleted").unwrap();
/// assert_eq!(suffix, Suffix::Deleted);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suffix {
    /// Nothing: it is part of the log.
    None,
    /// `.deleted`: removed from the log, waiting to be removed from the disk.
    Deleted,
    /// `.cleaned`: being written by compaction; rubbish after a crash.
    Cleaned,
    /// `.swap`: written whole by compaction, about to replace what it stands for.
    Swap,
}

/// Reads the name of a file in a partition's folder: base offset, ending (`log`, `index`, `timeindex`, `txnindex`,
/// `snapshot`) and suffix. `None` if it is no such name.
///
/// ```
/// use girok_engine::Offset;
/// use girok_engine::kafka_files::{Suffix, segment_file};
/// assert_eq!(segment_file("00000000000000000042.log"), Some((Offset::new(42), "log", Suffix::None)));
/// assert_eq!(segment_file("00000000000000000000.index.swap"), Some((Offset::ZERO, "index", Suffix::Swap)));
/// assert_eq!(segment_file("42.log"), None);
/// ```
pub fn segment_file(name: &str) -> Option<(Offset, &'static str, Suffix)> {
    let (digits, rest) = name.split_at_checked(20)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let base = digits.parse::<i64>().ok()?;
    let rest = rest.strip_prefix('.')?;
    let (ending, suffix) = match rest.split_once('.') {
        None => (rest, Suffix::None),
        Some((ending, "deleted")) => (ending, Suffix::Deleted),
        Some((ending, "cleaned")) => (ending, Suffix::Cleaned),
        Some((ending, "swap")) => (ending, Suffix::Swap),
        Some(_) => return None,
    };
    let ending = ["log", "index", "timeindex", "txnindex", "snapshot"].into_iter().find(|e| *e == ending)?;
    Some((Offset::new(base), ending, suffix))
}

/// What a folder in the directory is.
///
/// ```
/// use girok_engine::kafka_files::{Folder, partition_folder};
/// match partition_folder("orders-3") {
///     Some(Folder::Partition(name)) => assert_eq!((name.topic(), name.partition()), ("orders", 3)),
///     other => panic!("a plain partition's folder: {other:?}"),
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Folder {
    /// `topic-N`: a partition's.
    Partition(TopicPartition),
    /// `topic-N.<id>-delete`: a partition's on its way out. A long topic name is cut short in it.
    Delete(TopicPartition),
    /// `topic-N.<id>-future`: a broker was moving the partition between its disks.
    Future(TopicPartition),
    /// `topic-N.<id>-stray`: a broker found the folder and did not know the topic.
    Stray(TopicPartition),
}

/// Reads the name of a partition's folder. `None` if it is no such name, or that of the broker's own metadata.
///
/// ```
/// use girok_engine::kafka_files::{Folder, partition_folder};
/// assert_eq!(partition_folder("orders-3"), Some(Folder::Partition("orders-3".parse()?)));
/// let gone = partition_folder("orders-3.0123456789abcdef0123456789abcdef-delete");
/// assert_eq!(gone, Some(Folder::Delete("orders-3".parse()?)));
/// assert_eq!(partition_folder("orders"), None);
/// # Ok::<(), girok_engine::Error>(())
/// ```
pub fn partition_folder(name: &str) -> Option<Folder> {
    type Wrap = fn(TopicPartition) -> Folder;
    let marks: [(&str, Wrap); 3] =
        [("-delete", Folder::Delete), ("-future", Folder::Future), ("-stray", Folder::Stray)];
    for (mark, wrap) in marks {
        if let Some((partition, id)) = name.strip_suffix(mark).and_then(|rest| rest.rsplit_once('.'))
            && id.len() == 32
            && id.bytes().all(|byte| byte.is_ascii_hexdigit())
        {
            return plain_folder(partition).map(wrap);
        }
    }
    plain_folder(name).map(Folder::Partition)
}

fn plain_folder(name: &str) -> Option<TopicPartition> {
    let partition: TopicPartition = name.parse().ok()?;
    crate::config::check_any_topic_name(partition.topic()).ok()?;
    (name != CLUSTER_METADATA).then_some(partition)
}

/// Whether a name at the top of the directory is one of Kafka's or ours, partitions' folders aside. Whatever is
/// neither is somebody else's.
///
/// ```
/// use girok_engine::kafka_files::is_top_level;
/// assert!(is_top_level("recovery-point-offset-checkpoint") && is_top_level("girok.meta"));
/// assert!(!is_top_level("notes.txt"));
/// ```
pub fn is_top_level(name: &str) -> bool {
    // Both of us write a file beside itself first.
    let name = name.strip_suffix(".tmp").unwrap_or(name);
    KAFKA_TOP_LEVEL.contains(&name) || GIROK_TOP_LEVEL.contains(&name)
}

/// The lines of a small text file, each with its number (from 1) and the byte it begins at.
struct Lines<'a> {
    path: &'a Path,
    lines: std::iter::Enumerate<std::str::Lines<'a>>,
    text: &'a str,
}

/// A line and where it stands.
#[derive(Clone, Copy)]
struct Line<'a> {
    text: &'a str,
    number: usize,
    at: u64,
}

impl<'a> Lines<'a> {
    fn new(path: &'a Path, bytes: &'a [u8]) -> Result<Self> {
        let text = std::str::from_utf8(bytes).map_err(|flaw| {
            let at = flaw.valid_up_to();
            wrong(path, at as u64, "text in UTF-8", format!("byte {:#04x}", bytes[at]))
        })?;
        Ok(Lines { path, lines: text.lines().enumerate(), text })
    }

    fn next(&mut self) -> Option<Line<'a>> {
        let (number, text) = self.lines.next()?;
        let at = text.as_ptr() as usize - self.text.as_ptr() as usize;
        Some(Line { text, number: number + 1, at: at as u64 })
    }

    fn expect(&mut self, what: &str) -> Result<Line<'a>> {
        self.next()
            .ok_or_else(|| wrong(self.path, self.text.len() as u64, what, "the end of the file".into()))
    }

    fn wrong(&self, line: Line<'_>, expected: &str) -> Error {
        let expected = format!("in line {}, {expected}", line.number);
        wrong(self.path, line.at, &expected, format!("{:?}", line.text))
    }

    /// The two lines every checkpoint of Kafka's begins with: version 0, and how many lines follow.
    fn head(&mut self) -> Result<usize> {
        let line = self.expect("a version")?;
        match line.text.parse::<u32>() {
            Ok(0) => {}
            Ok(found) => return Err(Error::NewerFormat { path: self.path.into(), expected: 0, found }),
            Err(_) => return Err(self.wrong(line, "the version, 0")),
        }
        let line = self.expect("the number of lines that follow")?;
        line.text.parse().map_err(|_| self.wrong(line, "the number of lines that follow"))
    }

    /// Exactly `count` entries of `N` words each, and nothing after them. Nothing is reserved on the count's word.
    fn entries<const N: usize, T>(
        &mut self,
        count: usize,
        expected: &str,
        read: impl Fn([&'a str; N]) -> Option<T>,
    ) -> Result<Vec<T>> {
        let mut entries = Vec::new();
        for number in 0..count {
            let line = self.expect(&format!("entry {} of {count}", number + 1))?;
            let words: Vec<&str> = line.text.split_whitespace().take(N + 1).collect();
            let entry = <[&str; N]>::try_from(words).ok().and_then(&read);
            entries.push(entry.ok_or_else(|| self.wrong(line, expected))?);
        }
        match self.next() {
            Some(line) => Err(self.wrong(line, &format!("the end of the file after {count} entries"))),
            None => Ok(entries),
        }
    }
}

fn wrong(path: &Path, at: u64, expected: &str, found: String) -> Error {
    Error::corrupt(
        path,
        at,
        expected,
        found,
        "the logs themselves are not touched by this; restore the file from a backup, or remove it and Kafka's and \
         our recovery will find out again what it said",
    )
}

fn offset(text: &str) -> Option<Offset> {
    text.parse().ok().filter(|offset| *offset >= 0).map(Offset::new)
}

/// Reads `partition.metadata`: the id of the topic the folder belongs to.
///
/// ```
/// use girok_engine::kafka_files::{parse_partition_metadata, partition_metadata_bytes};
/// let id = "dSeqYQWsRMq6ZpYM8_CjTA".parse()?;
/// let bytes = partition_metadata_bytes(id);
/// assert_eq!(bytes, b"version: 0\ntopic_id: dSeqYQWsRMq6ZpYM8_CjTA");
/// assert_eq!(parse_partition_metadata("partition.metadata".as_ref(), &bytes)?, id);
/// # Ok::<(), girok_engine::Error>(())
/// ```
pub fn parse_partition_metadata(path: &Path, bytes: &[u8]) -> Result<TopicId> {
    let mut lines = Lines::new(path, bytes)?;
    let line = lines.expect("\"version: 0\"")?;
    match line.text.strip_prefix("version:").map(|version| version.trim().parse::<u32>()) {
        Some(Ok(0)) => {}
        Some(Ok(found)) => return Err(Error::NewerFormat { path: path.into(), expected: 0, found }),
        _ => return Err(lines.wrong(line, "\"version: 0\"")),
    }
    let line = lines.expect("\"topic_id: \" and the topic's id")?;
    let id = line.text.strip_prefix("topic_id:").and_then(|id| id.trim().parse().ok());
    let id = id.ok_or_else(|| lines.wrong(line, "\"topic_id: \" and 22 digits of URL-safe base64"))?;
    match lines.next() {
        Some(line) => Err(lines.wrong(line, "the end of the file")),
        None => Ok(id),
    }
}

/// Writes `partition.metadata`. Kafka ends the last line without a line feed.
pub fn partition_metadata_bytes(id: TopicId) -> Vec<u8> {
    format!("version: 0\ntopic_id: {id}").into_bytes()
}

/// Reads `leader-epoch-checkpoint`: each epoch with the offset it began at, both rising.
///
/// ```
/// use girok_engine::Offset;
/// use girok_engine::kafka_files::{leader_epochs_bytes, parse_leader_epochs};
/// let epochs = parse_leader_epochs("leader-epoch-checkpoint".as_ref(), b"0\n2\n0 0\n3 500\n")?;
/// assert_eq!(epochs, [(0, Offset::ZERO), (3, Offset::new(500))]);
/// assert_eq!(leader_epochs_bytes(&epochs), b"0\n2\n0 0\n3 500\n");
/// # Ok::<(), girok_engine::Error>(())
/// ```
pub fn parse_leader_epochs(path: &Path, bytes: &[u8]) -> Result<Vec<(i32, Offset)>> {
    let mut lines = Lines::new(path, bytes)?;
    let count = lines.head()?;
    let epochs: Vec<(i32, Offset)> =
        lines.entries(count, "EPOCH OFFSET, both from 0", |[epoch, start]| {
            Some((epoch.parse().ok().filter(|epoch| *epoch >= 0)?, offset(start)?))
        })?;
    if let Some(pair) = epochs.windows(2).find(|pair| pair[0].0 >= pair[1].0 || pair[0].1 > pair[1].1) {
        let expected = format!("epochs that rise, after epoch {} at offset {}", pair[0].0, pair[0].1);
        return Err(wrong(path, 0, &expected, format!("epoch {} at offset {}", pair[1].0, pair[1].1)));
    }
    Ok(epochs)
}

/// Writes `leader-epoch-checkpoint`.
pub fn leader_epochs_bytes(epochs: &[(i32, Offset)]) -> Vec<u8> {
    let mut text = format!("0\n{}\n", epochs.len());
    for (epoch, start) in epochs {
        let _ = writeln!(text, "{epoch} {start}");
    }
    text.into_bytes()
}

/// Reads one of the directory's offset checkpoints: log start, recovery point, replication, cleaner.
///
/// ```
/// use girok_engine::Offset;
/// use girok_engine::kafka_files::{offset_checkpoint_bytes, parse_offset_checkpoint};
/// let starts = parse_offset_checkpoint("log-start-offset-checkpoint".as_ref(), b"0\n1\norders 3 41\n")?;
/// assert_eq!(starts[&"orders-3".parse()?], Offset::new(41));
/// assert_eq!(offset_checkpoint_bytes(&starts), b"0\n1\norders 3 41\n");
/// # Ok::<(), girok_engine::Error>(())
/// ```
pub fn parse_offset_checkpoint(path: &Path, bytes: &[u8]) -> Result<BTreeMap<TopicPartition, Offset>> {
    let mut lines = Lines::new(path, bytes)?;
    let count = lines.head()?;
    let entries =
        lines.entries(count, "TOPIC PARTITION OFFSET, the numbers from 0", |[topic, partition, at]| {
            crate::config::check_any_topic_name(topic).ok()?;
            let partition = partition.parse().ok().filter(|partition| *partition >= 0)?;
            Some((TopicPartition::new(topic, partition), offset(at)?))
        })?;
    Ok(entries.into_iter().collect())
}

/// Writes one of the directory's offset checkpoints, sorted. (Kafka's own order is that of a hash map.)
pub fn offset_checkpoint_bytes(offsets: &BTreeMap<TopicPartition, Offset>) -> Vec<u8> {
    let mut text = format!("0\n{}\n", offsets.len());
    for (partition, offset) in offsets {
        let _ = writeln!(text, "{} {} {offset}", partition.topic(), partition.partition());
    }
    text.into_bytes()
}

/// The same from a disk; a missing file says nothing about any partition.
pub fn read_offset_checkpoint(disk: &dyn Disk, path: &Path) -> Result<BTreeMap<TopicPartition, Offset>> {
    match read_file(disk, path, FILE_BYTES_MAX) {
        Ok(bytes) => parse_offset_checkpoint(path, &bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(e) => Err(Error::io("reading", path, e)),
    }
}

/// The id of the topic a folder belongs to, from its `partition.metadata`. `None` if it has none.
pub fn read_partition_metadata(disk: &dyn Disk, folder: &Path) -> Result<Option<TopicId>> {
    let path = folder.join(PARTITION_METADATA);
    match read_file(disk, &path, 4096) {
        Ok(bytes) => parse_partition_metadata(&path, &bytes).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("reading", path, e)),
    }
}

/// Writes `partition.metadata` if it is missing, and refuses a folder that belongs to another topic: the name was
/// used before, and mixing two topics' records would be worse than an error.
pub fn ensure_partition_metadata(disk: &dyn Disk, folder: &Path, id: TopicId) -> Result<()> {
    let path = folder.join(PARTITION_METADATA);
    match read_partition_metadata(disk, folder)? {
        Some(found) if found == id => Ok(()),
        Some(found) => Err(Error::corrupt(
            path,
            0,
            format!("the topic id {id}, as girok.meta says"),
            found.to_string(),
            "the folder belongs to another topic of the same name; move it away, or restore the one that belongs here",
        )),
        None => replace_file(disk, &path, &partition_metadata_bytes(id))
            .map_err(|e| Error::io("writing", path, e)),
    }
}

/// What `meta.properties` says about the broker a directory belongs to. We never write it: a broker makes its own when
/// its storage is formatted.
///
/// ```
/// use girok_engine::kafka_files::parse_meta_properties;
/// let text = b"#\n#Sun Nov 22 13:16:39 UTC 2026\nnode.id=1\nversion=1\ncluster.id=4L6g3nShT-eMCtK--X86sw\n";
/// let broker = parse_meta_properties("meta.properties".as_ref(), text)?;
/// assert_eq!((broker.node_id, broker.version), (Some(1), 1));
/// # Ok::<(), girok_engine::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaProperties {
    /// 0 (with ZooKeeper) or 1 (KRaft).
    pub version: u32,
    /// `node.id`, or `broker.id` in version 0.
    pub node_id: Option<i32>,
    /// `cluster.id`.
    pub cluster_id: Option<String>,
    /// `directory.id`.
    pub directory_id: Option<TopicId>,
}

/// Reads `meta.properties`.
pub fn parse_meta_properties(path: &Path, bytes: &[u8]) -> Result<MetaProperties> {
    let mut lines = Lines::new(path, bytes)?;
    let mut found = MetaProperties { version: 0, node_id: None, cluster_id: None, directory_id: None };
    let mut has_version = false;
    while let Some(line) = lines.next() {
        if line.text.trim().is_empty() || line.text.starts_with(['#', '!']) {
            continue;
        }
        let (key, value) = line.text.split_once('=').ok_or_else(|| lines.wrong(line, "KEY=VALUE"))?;
        let (key, value) = (key.trim(), value.trim());
        match key {
            "version" => {
                found.version = value.parse().map_err(|_| lines.wrong(line, "version=NUMBER"))?;
                has_version = true;
            }
            "node.id" | "broker.id" => {
                found.node_id = Some(value.parse().map_err(|_| lines.wrong(line, "node.id=NUMBER"))?);
            }
            "cluster.id" => found.cluster_id = Some(value.to_string()),
            "directory.id" => {
                found.directory_id = Some(value.parse().map_err(|_| lines.wrong(line, "directory.id=ID"))?);
            }
            _ => {}
        }
    }
    match found.version {
        _ if !has_version => Err(wrong(path, 0, "a line version=NUMBER", "none".into())),
        0 | 1 => Ok(found),
        newer => Err(Error::NewerFormat { path: path.into(), expected: 1, found: newer }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    fn tp(name: &str) -> TopicPartition {
        name.parse().unwrap()
    }

    #[test]
    fn segment_files_are_known_by_their_names() {
        let base = Offset::new(4734);
        for (name, ending, suffix) in [
            ("00000000000000004734.log", "log", Suffix::None),
            ("00000000000000004734.index", "index", Suffix::None),
            ("00000000000000004734.timeindex.deleted", "timeindex", Suffix::Deleted),
            ("00000000000000004734.txnindex.cleaned", "txnindex", Suffix::Cleaned),
            ("00000000000000004734.snapshot", "snapshot", Suffix::None),
            ("00000000000000004734.log.swap", "log", Suffix::Swap),
        ] {
            assert_eq!(segment_file(name), Some((base, ending, suffix)), "{name}");
        }
        for name in [
            "",
            "0000000000000000473.log",
            "000000000000000004734.log",
            "99999999999999999999.log",
            "0000000000000000473x.log",
            "+0000000000000004734.log",
            "00000000000000004734",
            "00000000000000004734.",
            "00000000000000004734.txt",
            "00000000000000004734.log.swap.deleted",
            "00000000000000004734.cut-3",
            "0000000000000000473\u{e9}.log",
        ] {
            assert_eq!(segment_file(name), None, "{name}");
        }
    }

    #[test]
    fn folders_are_known_by_their_names() {
        let id = "0123456789abcdef0123456789abcdef";
        for (name, is) in [
            ("orders-0", Some(Folder::Partition(tp("orders-0")))),
            ("a-b.c_d-12", Some(Folder::Partition(tp("a-b.c_d-12")))),
            ("__consumer_offsets-0", Some(Folder::Partition(tp("__consumer_offsets-0")))),
            ("girok-3", Some(Folder::Partition(tp("girok-3")))),
            (&format!("a.b-7.{id}-delete"), Some(Folder::Delete(tp("a.b-7")))),
            (&format!("a-7.{id}-future"), Some(Folder::Future(tp("a-7")))),
            (&format!("a-7.{id}-stray"), Some(Folder::Stray(tp("a-7")))),
            ("a-7.0123-delete", None),
            ("__cluster_metadata-0", None),
            ("lost+found", None),
            ("orders", None),
            ("orders-01", None),
            ("orders--1", Some(Folder::Partition(tp("orders--1")))),
            ("orders-4294967296", None),
            ("or ders-1", None),
            ("..-1", None),
            ("-1", None),
        ] {
            assert_eq!(partition_folder(name), is, "{name}");
        }
    }

    #[test]
    fn at_the_top_everything_is_kafkas_or_ours_or_foreign() {
        for known in [
            "meta.properties",
            "recovery-point-offset-checkpoint",
            "recovery-point-offset-checkpoint.tmp",
            "__cluster_metadata-0",
            ".lock",
            "girok.meta",
            "girok.checkpoint.tmp",
            "girok-groups.state",
        ] {
            assert!(is_top_level(known), "{known}");
        }
        for foreign in ["lost+found", "notes.txt", "girok", "girok.txt", "orders-0", ".tmp", ""] {
            assert!(!is_top_level(foreign), "{foreign}");
        }
    }

    /// Kafka's own files, by the letter: `tests/golden` holds more of them.
    #[test]
    fn what_kafka_wrote_is_written_again_byte_for_byte() {
        let path = Path::new("x");
        let recovery = b"0\n3\n__consumer_offsets 0 25\ng-2parts 1 0\ng-lz4 0 200\n";
        let offsets = parse_offset_checkpoint(path, recovery).unwrap();
        assert_eq!(offsets[&tp("__consumer_offsets-0")], Offset::new(25));
        assert_eq!(offset_checkpoint_bytes(&offsets), recovery);

        let epochs = b"0\n1\n0 0\n";
        assert_eq!(leader_epochs_bytes(&parse_leader_epochs(path, epochs).unwrap()), epochs);
        assert_eq!(parse_leader_epochs(path, b"0\n0\n").unwrap(), []);
    }

    #[test]
    fn a_bad_file_is_named_with_the_line() {
        let path = Path::new("dir/leader-epoch-checkpoint");
        for (bytes, at, expected) in [
            (&b""[..], 0, "a version"),
            (b"zero\n", 0, "line 1"),
            (b"0\n-1\n", 2, "line 2"),
            (b"0\n2\n0 0\n", 8, "entry 2 of 2"),
            (b"0\n1\n0 0\n1 5\n", 8, "line 4"),
            (b"0\n1\n0 0 0\n", 4, "line 3"),
            (b"0\n1\n0 -4\n", 4, "line 3"),
            (b"0\n18446744073709551615\n", 23, "entry 1 of"),
            (b"0\n2\n1 0\n0 5\n", 0, "epochs that rise"),
            (b"0\n\xff\n", 2, "UTF-8"),
        ] {
            let error = parse_leader_epochs(path, bytes).unwrap_err();
            let Error::Corrupt { place, expected: said, .. } = &error else { panic!("{error}") };
            assert_eq!((place.path.as_path(), place.position), (path, at), "{error}");
            assert!(said.contains(expected), "{error}");
        }
        let newer = parse_offset_checkpoint(path, b"7\n0\n").unwrap_err();
        assert!(matches!(newer, Error::NewerFormat { found: 7, .. }), "{newer}");
        assert!(parse_partition_metadata(path, b"version: 0\ntopic_id: short").is_err());
        assert!(parse_partition_metadata(path, b"version: 0\n").is_err());
        assert!(matches!(
            parse_partition_metadata(path, b"version: 1\ntopic_id: x"),
            Err(Error::NewerFormat { found: 1, .. })
        ));
    }

    #[test]
    fn a_folder_keeps_the_id_it_has() {
        let (disk, folder) = (MemoryDisk::new(), Path::new("/log/orders-0"));
        let (ours, other) = (TopicId([7; 16]), TopicId([8; 16]));
        disk.create_dir(folder).unwrap();
        assert_eq!(read_partition_metadata(&disk, folder).unwrap(), None);
        ensure_partition_metadata(&disk, folder, ours).unwrap();
        ensure_partition_metadata(&disk, folder, ours).unwrap();
        let refused = ensure_partition_metadata(&disk, folder, other).unwrap_err().to_string();
        assert!(refused.contains(&ours.to_string()) && refused.contains("partition.metadata"), "{refused}");
        assert_eq!(read_partition_metadata(&disk, folder).unwrap(), Some(ours));
        let missing = Path::new("/log/log-start-offset-checkpoint");
        assert!(read_offset_checkpoint(&disk, missing).unwrap().is_empty());
    }

    #[test]
    fn a_brokers_directory_is_recognised() {
        let path = Path::new("meta.properties");
        let text =
            b"#\n#Sun Nov 22 13:16:39 UTC 2026\nnode.id=1\ndirectory.id=A0fKAyVa9v6yI8Ae8L4Y6A\nversion=1\n\
                     cluster.id=4L6g3nShT-eMCtK--X86sw\n";
        let broker = parse_meta_properties(path, text).unwrap();
        assert_eq!(broker.cluster_id.as_deref(), Some("4L6g3nShT-eMCtK--X86sw"));
        assert_eq!(broker.directory_id.unwrap().to_string(), "A0fKAyVa9v6yI8Ae8L4Y6A");
        assert!(parse_meta_properties(path, b"node.id=1\n").is_err());
        assert!(matches!(parse_meta_properties(path, b"version=2\n"), Err(Error::NewerFormat { .. })));
    }
}
