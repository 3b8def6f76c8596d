//! `girok.meta`: what the directory is, in text that a person can read.
//!
//! ```text
//! girok.meta
//! version 1
//! directory A0fKAyVa9v6yI8Ae8L4Y6A
//! boot 17
//! topic orders dSeqYQWsRMq6ZpYM8_CjTA partitions=3 created=1700000000000
//!   retention.ms=3600000
//! deleting old-orders partitions=6
//! crc32 d5a556b7
//! ```
//!
//! It is replaced as a whole, by a rename, whenever a topic comes, changes or goes, and at every open for writing,
//! which raises the boot number. Of a topic's configuration only what differs from the defaults stands here.
//!
//! The upgrade promise: every later version of this library reads every earlier version of the file. The first two
//! lines and the last keep their form for ever, so that an older program can tell "newer" from "damaged", and it
//! refuses a newer file by name and changes nothing.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::path::Path;

use crate::config::{TopicConfig, check_any_topic_name};
use crate::disk::{Disk, read_file, replace_file};
use crate::error::{Error, Result};
use crate::types::{Timestamp, TopicId};

/// The file's name.
pub(crate) const FILE_NAME: &str = "girok.meta";

/// The version this program writes, and the newest it reads. Raised with every addition, so that an older program
/// refuses what it would misread.
const VERSION: u32 = 1;

/// 100,000 topics with the longest names and every key set stay below it.
const FILE_BYTES_MAX: u64 = 128 << 20;

/// What the directory is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DirMeta {
    /// The directory's identity, which a copy keeps. Of the form of Kafka's `directory.id`.
    pub(crate) directory: TopicId,
    /// How often it was opened for writing.
    pub(crate) boot: u64,
    /// The topics, internal ones included.
    pub(crate) topics: BTreeMap<String, TopicMeta>,
    /// Topics whose removal was begun, with their number of partitions: the next open finishes it.
    pub(crate) deleting: BTreeMap<String, i32>,
}

/// What a topic is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TopicMeta {
    pub(crate) id: TopicId,
    pub(crate) partitions: i32,
    pub(crate) config: TopicConfig,
    /// By the wall clock.
    pub(crate) created: Timestamp,
}

impl DirMeta {
    /// A new directory's, never opened.
    pub(crate) fn new(directory: TopicId) -> Self {
        DirMeta { directory, boot: 0, topics: BTreeMap::new(), deleting: BTreeMap::new() }
    }

    /// Reads it; `None` if the directory has none.
    pub(crate) fn load(disk: &dyn Disk, dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE_NAME);
        match read_file(disk, &path, FILE_BYTES_MAX) {
            Ok(bytes) => DirMeta::parse(&path, &bytes).map(Some),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("reading", path, e)),
        }
    }

    /// Replaces the file. After a crash it says the old or the new, never a mixture.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a topic that is being removed and exists too: the next open would remove the new one.
    pub(crate) fn store(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        if let Some(name) = self.deleting.keys().find(|name| self.topics.contains_key(*name)) {
            return Err(Error::invalid(
                "topic name",
                "one whose last bearer is wholly removed",
                format!("{name:?}, of which files are still to be removed"),
                "wait until the removal is done; if it failed, the next open finishes it",
            ));
        }
        let path = dir.join(FILE_NAME);
        replace_file(disk, &path, &self.to_bytes()).map_err(|e| Error::io("writing", path, e))
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut text = format!("{FILE_NAME}\nversion {VERSION}\n");
        let _ = writeln!(text, "directory {}\nboot {}", self.directory, self.boot);
        for (name, topic) in &self.topics {
            let TopicMeta { id, partitions, created, config } = topic;
            let _ = writeln!(text, "topic {name} {id} partitions={partitions} created={created}");
            for (key, value, is_default) in config.entries() {
                if !is_default {
                    let _ = writeln!(text, "  {key}={value}");
                }
            }
        }
        for (name, partitions) in &self.deleting {
            let _ = writeln!(text, "deleting {name} partitions={partitions}");
        }
        let crc = crc32fast::hash(text.as_bytes());
        let _ = writeln!(text, "crc32 {crc:08x}");
        text.into_bytes()
    }

    /// Reads the bytes; `path` is for the errors.
    fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let text = checked(path, bytes)?;
        let mut lines = Lines::new(path, text);
        lines.next();
        let (word, version) = lines.words();
        match version.parse::<u32>() {
            Ok(VERSION) if word == "version" => {}
            Ok(found) if word == "version" && found > VERSION => {
                return Err(Error::NewerFormat { path: path.into(), expected: VERSION, found });
            }
            _ => return Err(lines.wrong(&format!("version {VERSION}"))),
        }
        let (word, directory) = lines.words();
        let directory = directory.parse().ok().filter(|_| word == "directory");
        let directory = directory.ok_or_else(|| lines.wrong("directory ID"))?;
        let (word, boot) = lines.words();
        let boot = boot.parse().ok().filter(|_| word == "boot").ok_or_else(|| lines.wrong("boot NUMBER"))?;

        let mut meta = DirMeta { boot, ..DirMeta::new(directory) };
        let mut last = None;
        while !lines.rest.is_empty() {
            let (word, rest) = lines.words();
            match word {
                "topic" => {
                    let topic = read_topic(rest).filter(|(name, _)| !meta.topics.contains_key(*name));
                    let (name, topic) = topic.ok_or_else(|| {
                        lines.wrong("topic NAME ID partitions=N created=MS, each name once")
                    })?;
                    last = Some(meta.topics.entry(name.to_owned()).or_insert(topic));
                }
                "" => {
                    let (key, value) = rest.trim_start().split_once('=').unwrap_or((rest, ""));
                    let topic =
                        last.as_mut().ok_or_else(|| lines.wrong("a topic before its configuration"))?;
                    topic.config.set(key, value).map_err(|flaw| lines.wrong(&flaw.to_string()))?;
                }
                "deleting" => {
                    let doomed = rest.split_once(" partitions=").and_then(|(name, partitions)| {
                        check_any_topic_name(name).ok()?;
                        Some((name.to_owned(), partitions.parse().ok().filter(|count| *count >= 0)?))
                    });
                    let (name, partitions) =
                        doomed.ok_or_else(|| lines.wrong("deleting NAME partitions=N"))?;
                    meta.deleting.insert(name, partitions);
                    last = None;
                }
                _ => return Err(lines.wrong("a line that begins with \"topic\", \"deleting\" or two spaces")),
            }
        }
        Ok(meta)
    }
}

fn read_topic(text: &str) -> Option<(&str, TopicMeta)> {
    let mut words = text.split(' ');
    let name = words.next()?;
    check_any_topic_name(name).ok()?;
    let id = words.next()?.parse().ok()?;
    let partitions = words.next()?.strip_prefix("partitions=")?.parse().ok().filter(|count| *count >= 1)?;
    let created = Timestamp::from_millis(words.next()?.strip_prefix("created=")?.parse().ok()?);
    let topic = TopicMeta { id, partitions, config: TopicConfig::default(), created };
    words.next().is_none().then_some((name, topic))
}

/// The text above the last line, once that line's checksum has been found right.
fn checked<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a str> {
    let wrong = |at: usize, expected: String, found: String| Err(damaged(path, at as u64, expected, found));
    let first = format!("{FILE_NAME}\n");
    if !bytes.starts_with(first.as_bytes()) {
        return wrong(0, format!("the line {FILE_NAME:?}"), "something else".into());
    }
    const LAST_LINE_BYTES: usize = "crc32 xxxxxxxx\n".len();
    let cut = bytes.len().saturating_sub(LAST_LINE_BYTES).max(first.len());
    let (text, last) = bytes.split_at(cut);
    let right = format!("crc32 {:08x}\n", crc32fast::hash(text));
    if last != right.as_bytes() {
        return wrong(
            cut,
            format!("the last line {right:?}"),
            format!("{:?}", String::from_utf8_lossy(last)),
        );
    }
    match std::str::from_utf8(&bytes[..cut]) {
        Ok(text) => Ok(text),
        Err(flaw) => wrong(flaw.valid_up_to(), "text in UTF-8".into(), "something else".into()),
    }
}

fn damaged(path: &Path, at: u64, expected: String, found: String) -> Error {
    Error::corrupt(
        path,
        at,
        expected,
        found,
        "nothing was changed and the partitions' folders are whole; restore this file from a backup or a hot \
         checkpoint. Without it the folders are adopted as Kafka's are: topics and ids are kept, configurations are \
         not",
    )
}

/// The lines of the text, remembering the last one for the errors.
struct Lines<'a> {
    path: &'a Path,
    text: &'a str,
    rest: &'a str,
    line: &'a str,
    number: usize,
}

impl<'a> Lines<'a> {
    fn new(path: &'a Path, text: &'a str) -> Self {
        Lines { path, text, rest: text, line: "", number: 0 }
    }

    fn next(&mut self) -> &'a str {
        (self.line, self.rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
        self.number += 1;
        self.line
    }

    /// The next line's first word and the rest of it.
    fn words(&mut self) -> (&'a str, &'a str) {
        let line = self.next();
        line.split_once(' ').unwrap_or((line, ""))
    }

    fn wrong(&self, expected: &str) -> Error {
        let at = self.line.as_ptr() as usize - self.text.as_ptr() as usize;
        damaged(
            self.path,
            at as u64,
            format!("in line {}, {expected}", self.number),
            format!("{:?}", self.line),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    fn example() -> DirMeta {
        let mut meta = DirMeta::new("A0fKAyVa9v6yI8Ae8L4Y6A".parse().unwrap());
        meta.boot = 17;
        let topic = |id: u8, config: &[(&str, &str)]| TopicMeta {
            id: TopicId([id; 16]),
            partitions: 3,
            config: TopicConfig::from_entries(config.iter().copied()).unwrap(),
            created: Timestamp::from_millis(1_700_000_000_000),
        };
        meta.topics
            .insert("orders".into(), topic(1, &[("retention.ms", "3600000"), ("segment.bytes", "4096")]));
        meta.topics.insert("__consumer_offsets".into(), topic(2, &[("cleanup.policy", "compact,delete")]));
        meta.topics.insert("a.b-c".into(), topic(3, &[]));
        meta.deleting.insert("old-orders".into(), 6);
        meta
    }

    fn resealed(text: &str) -> Vec<u8> {
        format!("{text}crc32 {:08x}\n", crc32fast::hash(text.as_bytes())).into_bytes()
    }

    #[test]
    fn what_is_stored_is_loaded() {
        let (disk, dir) = (MemoryDisk::new(), Path::new("/log"));
        disk.create_dir(dir).unwrap();
        assert_eq!(DirMeta::load(&disk, dir).unwrap(), None);
        let meta = example();
        meta.store(&disk, dir).unwrap();
        assert_eq!(DirMeta::load(&disk, dir).unwrap(), Some(meta));
    }

    /// These bytes are in somebody's directory: they must stay readable, and version 1 must stay as it is.
    #[test]
    fn version_one_reads_as_it_always_did() {
        let text = "girok.meta\n\
                    version 1\n\
                    directory A0fKAyVa9v6yI8Ae8L4Y6A\n\
                    boot 17\n\
                    topic __consumer_offsets AgICAgICAgICAgICAgICAg partitions=3 created=1700000000000\n\
                    \x20 cleanup.policy=compact,delete\n\
                    topic a.b-c AwMDAwMDAwMDAwMDAwMDAw partitions=3 created=1700000000000\n\
                    topic orders AQEBAQEBAQEBAQEBAQEBAQ partitions=3 created=1700000000000\n\
                    \x20 retention.ms=3600000\n\
                    \x20 segment.bytes=4096\n\
                    deleting old-orders partitions=6\n\
                    crc32 8063ae16\n";
        assert_eq!(String::from_utf8(example().to_bytes()).unwrap(), text);
        assert_eq!(DirMeta::parse(Path::new("girok.meta"), text.as_bytes()).unwrap(), example());
    }

    #[test]
    fn no_bit_may_flip_unseen_and_no_cut_either() {
        let bytes = example().to_bytes();
        let path = Path::new("dir/girok.meta");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let error = DirMeta::parse(path, &flipped).unwrap_err();
            assert!(
                matches!(&error, Error::Corrupt { place, .. } if place.path == path),
                "bit {bit}: {error}"
            );
        }
        for len in 0..bytes.len() {
            let error = DirMeta::parse(path, &bytes[..len]).unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{len} bytes: {error}");
        }
    }

    #[test]
    fn a_newer_version_is_refused_by_name() {
        let newer = resealed("girok.meta\nversion 2\nwhatever there will be\n");
        let error = DirMeta::parse(Path::new("girok.meta"), &newer).unwrap_err();
        assert!(matches!(error, Error::NewerFormat { expected: 1, found: 2, .. }), "{error}");
    }

    /// A checksum says that the bytes are those that were written, not that they make sense.
    #[test]
    fn nonsense_under_a_good_checksum_is_named_with_its_line() {
        let head = "girok.meta\nversion 1\ndirectory A0fKAyVa9v6yI8Ae8L4Y6A\nboot 17\n";
        let id = "AQEBAQEBAQEBAQEBAQEBAQ";
        for (lines, expected) in [
            ("tropic a\n".to_string(), "line 5"),
            ("  retention.ms=1\n".to_string(), "a topic before"),
            (format!("topic a/b {id} partitions=1 created=0\n"), "line 5"),
            (format!("topic a {id} partitions=0 created=0\n"), "line 5"),
            (format!("topic a {id} partitions=1 created=0 more\n"), "line 5"),
            (format!("topic a {id} partitions=1 created=0\n  retention.mss=1\n"), "retention.mss"),
            (format!("topic a {id} partitions=1 created=0\n  segment.bytes=1\n"), "line 6"),
            (format!("topic a {id} partitions=1 created=0\ntopic a {id} partitions=1 created=0\n"), "line 6"),
            ("deleting a partitions=-1\n".to_string(), "line 5"),
        ] {
            let error =
                DirMeta::parse(Path::new("girok.meta"), &resealed(&format!("{head}{lines}"))).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        for head in ["girok.meta\n", "girok.meta\nversion 1\nboot 1\n", "girok.meta\nversion 0\n"] {
            assert!(DirMeta::parse(Path::new("girok.meta"), &resealed(head)).is_err());
        }
    }

    /// Removing `orders` failed half-way and somebody makes a new `orders`: the next open would finish the removal.
    #[test]
    fn a_topic_cannot_come_back_while_it_is_still_going() {
        let (disk, dir) = (MemoryDisk::new(), Path::new("/log"));
        disk.create_dir(dir).unwrap();
        let mut meta = example();
        meta.deleting.insert("orders".into(), 3);
        let error = meta.store(&disk, dir).unwrap_err();
        assert!(error.to_string().contains("still to be removed"), "{error}");
        assert_eq!(DirMeta::load(&disk, dir).unwrap(), None);
    }

    #[test]
    fn twenty_thousand_topics_are_no_burden() {
        let mut meta = example();
        let topic = meta.topics["orders"].clone();
        for number in 0..20_000 {
            meta.topics.insert(format!("topic-{number}"), topic.clone());
        }
        let bytes = meta.to_bytes();
        assert_eq!(DirMeta::parse(Path::new("girok.meta"), &bytes).unwrap(), meta);
    }
}
