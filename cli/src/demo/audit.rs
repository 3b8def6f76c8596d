//! What became of every record, counted from outside.
//!
//! This looks at the producer's ack journal and at the files of the sinks, and at nothing else: not at the log, not at a
//! counter of somebody who took part.
//!
//! - *produced*: records in the journal.
//! - *consumed*: whole records in the sink's files, however often.
//! - *duplicated*: those of them that were there before. At-least-once allows it, after a kill.
//! - *lost*: produced, and not in the files with the same number, key and value at the same place. Nothing allows it.
//! - *unknown*: in the files, and not produced like that. Nothing allows that either, so
//!   `consumed - duplicated - unknown + lost = produced`.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::document::Seen;
use super::journal::{self, Entry};
use super::{Layout, archive, search};
use crate::fail::{Fail, Result};
use crate::progress::{Progress, Unit};

/// So many problems of a reader are told, and the rest is counted.
const PROBLEMS_TOLD_MAX: usize = 10;

/// The demo's result.
pub struct Audit {
    /// Records in the journal that were found after a kill, rather than acknowledged.
    pub found: u64,
    pub readers: [Reader; 2],
}

/// What a reader's sink has.
#[derive(Default)]
pub struct Reader {
    pub name: &'static str,
    pub tally: Tally,
    pub files: u64,
    pub bytes: u64,
    /// Records that came, for the first time, after a younger one; `None` where no order is promised.
    pub late: Option<u64>,
    /// What is wrong with the files, beside what is counted.
    pub problems: Vec<String>,
}

/// The counts of a reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub produced: u64,
    pub consumed: u64,
    pub duplicated: u64,
    pub lost: u64,
    pub unknown: u64,
}

impl Audit {
    /// Whether everything that was produced is there, and nothing else.
    pub fn is_good(&self) -> bool {
        self.readers.iter().all(Reader::is_good)
    }

    /// `groups.NAME.{produced,consumed,duplicated,lost}`, and the rebalances, of which readers with fixed partitions have
    /// none.
    pub fn to_json(&self) -> Value {
        let group = |reader: &Reader| {
            let Tally { produced, consumed, duplicated, lost, .. } = reader.tally;
            let counts =
                json!({ "produced": produced, "consumed": consumed, "duplicated": duplicated, "lost": lost });
            (reader.name.to_owned(), counts)
        };
        json!({ "groups": self.readers.iter().map(group).collect::<serde_json::Map<_, _>>(), "rebalances": [] })
    }
}

impl Reader {
    /// Whether everything that was produced is there, and nothing else.
    pub fn is_good(&self) -> bool {
        self.tally.lost == 0 && self.tally.unknown == 0 && self.problems.is_empty()
    }

    fn problem(&mut self, text: String) {
        match self.problems.len() {
            0..PROBLEMS_TOLD_MAX => self.problems.push(text),
            PROBLEMS_TOLD_MAX => self.problems.push("and more".into()),
            _ => {}
        }
    }
}

/// Looks at everything the demo left.
pub fn audit(layout: &Layout) -> Result<Audit> {
    let entries = journal::read(&layout.journal())?;
    let (bulks, volumes) = (files(&layout.search())?, files(&layout.archive())?);
    let total = bulks.iter().chain(&volumes).map(|file| file.bytes).sum();
    let mut look = Look { done: 0, progress: Progress::new("auditing", Unit::Bytes, total) };
    let readers = [look.search(&entries, &bulks)?, look.archive(&entries, &volumes)?];
    Ok(Audit { found: entries.iter().filter(|entry| entry.found).count() as u64, readers })
}

struct SinkFile {
    path: PathBuf,
    name: String,
    bytes: u64,
}

/// By name.
fn files(dir: &Path) -> Result<Vec<SinkFile>> {
    let doing = || Fail::io(format!("looking at {}", dir.display()));
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(doing())? {
        let entry = entry.map_err(doing())?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        files.push(SinkFile { path, name, bytes: entry.metadata().map_err(doing())?.len() });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// Which of the records that were produced were seen.
struct Ledger {
    records: HashMap<(i32, i64), Line>,
    tally: Tally,
    twice: Option<(i32, i64)>,
}

struct Line {
    sequence: u64,
    digest: u32,
    times: u32,
}

impl Ledger {
    fn new(entries: &[Entry]) -> Ledger {
        let mut ledger = Ledger { records: HashMap::new(), tally: Tally::default(), twice: None };
        for Entry { partition, offset, sequence, digest, .. } in entries {
            let line = Line { sequence: *sequence, digest: *digest, times: 0 };
            if ledger.records.insert((*partition, *offset), line).is_some() {
                ledger.twice = Some((*partition, *offset));
            }
        }
        ledger.tally.produced = ledger.records.len() as u64;
        ledger
    }

    /// A whole record in a file. Returns whether it is one that was not seen before.
    fn see(&mut self, seen: &Seen) -> bool {
        self.tally.consumed += 1;
        match self.records.get_mut(&(seen.partition, seen.offset)) {
            Some(line) if (line.sequence, line.digest) == (seen.sequence, seen.digest) => {
                line.times += 1;
                self.tally.duplicated += u64::from(line.times > 1);
                line.times == 1
            }
            _ => {
                self.tally.unknown += 1;
                false
            }
        }
    }

    fn close(mut self, reader: &mut Reader) {
        self.tally.lost = self.records.values().filter(|line| line.times == 0).count() as u64;
        reader.tally = self.tally;
        if let Some((partition, offset)) = self.twice {
            reader.problem(format!("the ack journal has the offset {offset} of partition {partition} twice"));
        }
    }
}

struct Look {
    done: u64,
    progress: Progress,
}

impl Look {
    fn at(&mut self, reader: &mut Reader, file: &SinkFile) {
        self.done += file.bytes;
        self.progress.at(self.done);
        reader.files += 1;
        reader.bytes += file.bytes;
    }

    /// Pairs of an action and a document. The end of a file may be torn, for its writer may have been killed; whatever is
    /// torn was not committed, and must be whole in a later file.
    fn search(&mut self, entries: &[Entry], files: &[SinkFile]) -> Result<Reader> {
        let mut reader = Reader { name: search::GROUP, late: Some(0), ..Reader::default() };
        let mut ledger = Ledger::new(entries);
        let (mut youngest, mut late) = (i64::MIN, 0);
        for file in files {
            if !(file.name.starts_with(search::PREFIX) && file.name.ends_with(search::SUFFIX)) {
                reader.problem(format!("{} is not a file of the sink", file.path.display()));
                continue;
            }
            let doing = || format!("reading {}", file.path.display());
            let mut lines = BufReader::new(File::open(&file.path).map_err(Fail::io(doing()))?);
            let (mut action, mut document, mut number) = (Vec::new(), Vec::new(), 0);
            loop {
                let mut line = |line: &mut Vec<u8>| -> Result<bool> {
                    line.clear();
                    lines.read_until(b'\n', line).map_err(Fail::io(doing()))?;
                    Ok(line.last() == Some(&b'\n'))
                };
                if !line(&mut action)? || !line(&mut document)? {
                    break;
                }
                number += 2;
                let seen = Seen::parse(&document).filter(|seen| id(&action).as_deref() == Some(&seen.id()));
                let Some(seen) = seen else {
                    let (path, first) = (file.path.display(), number - 1);
                    reader.problem(format!("{path}, line {first}: expected an action and its document"));
                    continue;
                };
                if ledger.see(&seen) {
                    late += u64::from(seen.timestamp < youngest);
                    youngest = youngest.max(seen.timestamp);
                }
            }
            self.at(&mut reader, file);
        }
        reader.late = Some(late);
        ledger.close(&mut reader);
        Ok(reader)
    }

    /// Whole files, each with exactly the records its name says.
    fn archive(&mut self, entries: &[Entry], files: &[SinkFile]) -> Result<Reader> {
        let mut reader = Reader { name: archive::GROUP, ..Reader::default() };
        let mut ledger = Ledger::new(entries);
        for file in files {
            let Some((partition, first, last)) = archive::parse_name(&file.name) else {
                reader.problem(format!("{} is not a file that was finished", file.path.display()));
                continue;
            };
            let opened =
                File::open(&file.path).map_err(Fail::io(format!("reading {}", file.path.display())))?;
            let (mut next, mut gap) = (first, None);
            let read = each_line(opened, |line| {
                let seen =
                    Seen::parse(line).ok_or_else(|| format!("expected offset {next}, found no record"))?;
                ledger.see(&seen);
                if (seen.partition, seen.offset) != (partition, next) && gap.is_none() {
                    gap =
                        Some(format!("expected offset {next} of partition {partition}, found {}", seen.id()));
                }
                next = seen.offset + 1;
                Ok(())
            });
            let gap =
                gap.or_else(|| (next != last + 1).then(|| format!("expected offset {next}, found its end")));
            if let Err(problem) = read.and_then(|()| gap.map_or(Ok(()), Err)) {
                reader.problem(format!("{}: {problem}", file.path.display()));
            }
            self.at(&mut reader, file);
        }
        ledger.close(&mut reader);
        Ok(reader)
    }
}

/// The lines of a zstd file, until `see` says what is wrong.
fn each_line(file: File, mut see: impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
    let said = |e: io::Error| e.to_string();
    let mut lines = BufReader::new(zstd::stream::read::Decoder::new(file).map_err(said)?);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).map_err(said)? > 0 {
        see(&line)?;
        line.clear();
    }
    Ok(())
}

impl Seen {
    fn id(&self) -> String {
        format!("{}-{}", self.partition, self.offset)
    }
}

/// The id in an action.
fn id(action: &[u8]) -> Option<String> {
    let action: Value = serde_json::from_slice(action).ok()?;
    Some(action["index"]["_id"].as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::child::TOPIC;
    use super::super::document::{Document, digest};
    use super::super::journal::Journal;
    use super::*;

    /// A demo that was: the records of one partition, with what its sinks got of them.
    struct Scene {
        dir: tempfile::TempDir,
    }

    impl Scene {
        fn of(produced: std::ops::Range<i64>) -> Scene {
            let scene = Scene { dir: tempfile::tempdir().unwrap() };
            let layout = scene.layout();
            let entries: Vec<Entry> = produced.map(|offset| entry(offset, &value(offset))).collect();
            Journal::open(&layout.journal()).unwrap().0.append(&entries).unwrap();
            fs::create_dir_all(layout.search()).unwrap();
            fs::create_dir_all(layout.archive()).unwrap();
            scene
        }

        fn layout(&self) -> Layout {
            Layout::new(self.dir.path())
        }

        fn bulk(&self, number: u32, documents: &[Document]) -> PathBuf {
            let mut text = Vec::new();
            for one in documents {
                let id = format!("{}-{}", one.partition, one.offset);
                text.extend(format!("{}\n", json!({ "index": { "_index": TOPIC, "_id": id } })).bytes());
                text.extend(&one.line);
            }
            let path = self.layout().search().join(format!("bulk-{number:06}.ndjson"));
            fs::write(&path, text).unwrap();
            path
        }

        fn volume(&self, name: (i64, i64), documents: &[Document]) -> PathBuf {
            let text: Vec<u8> = documents.iter().flat_map(|one| one.line.clone()).collect();
            let path = self.layout().archive().join(archive::name(0, name.0, name.1));
            fs::write(&path, zstd::encode_all(&text[..], 3).unwrap()).unwrap();
            path
        }

        fn audit(&self) -> Audit {
            audit(&self.layout()).unwrap()
        }

        fn search(&self) -> Reader {
            let [search, _] = self.audit().readers;
            search
        }

        fn archive(&self) -> Reader {
            let [_, archive] = self.audit().readers;
            archive
        }
    }

    fn value(offset: i64) -> String {
        format!("{{\"usage\":{offset}}}")
    }

    fn entry(offset: i64, value: &str) -> Entry {
        let digest = digest(b"cpu/0", value.as_bytes());
        Entry { partition: 0, offset, sequence: offset as u64 + 40, digest, found: offset == 3 }
    }

    fn document(offset: i64) -> Document {
        Document::of(0, offset, 1000 + offset, offset as u64 + 40, Some("cpu/0"), &value(offset))
    }

    fn documents(offsets: impl IntoIterator<Item = i64>) -> Vec<Document> {
        offsets.into_iter().map(document).collect()
    }

    fn tally(produced: u64, consumed: u64, duplicated: u64, lost: u64, unknown: u64) -> Tally {
        Tally { produced, consumed, duplicated, lost, unknown }
    }

    #[test]
    fn all_is_there_once() {
        let scene = Scene::of(0..10);
        scene.bulk(1, &documents(0..10));
        scene.volume((0, 5), &documents(0..6));
        scene.volume((6, 9), &documents(6..10));
        let audit = scene.audit();
        assert!(audit.is_good());
        assert_eq!(audit.found, 1);
        assert_eq!(audit.readers[0].late, Some(0));
        let group = json!({ "produced": 10, "consumed": 10, "duplicated": 0, "lost": 0 });
        assert_eq!(
            audit.to_json(),
            json!({ "groups": { "search": group, "archive": group }, "rebalances": [] })
        );
    }

    #[test]
    fn planted_losses_are_found() {
        let scene = Scene::of(0..10);
        scene.bulk(1, &documents([0, 1, 2, 4, 5, 6, 8, 9]));
        assert_eq!(scene.search().tally, tally(10, 8, 0, 2, 0));
        assert_eq!(scene.archive().tally, tally(10, 0, 0, 10, 0));
        assert!(!scene.audit().is_good());

        scene.bulk(1, &documents(0..10));
        scene.volume((0, 9), &documents(0..10));
        assert!(scene.audit().is_good());
        scene.volume((0, 9), &documents((0..4).chain(5..10)));
        let archive = scene.archive();
        assert_eq!(archive.tally, tally(10, 9, 0, 1, 0));
        assert!(
            archive.problems[0].contains("expected offset 4 of partition 0, found 0-5"),
            "{:?}",
            archive.problems
        );
        scene.volume((0, 9), &documents(0..9));
        assert!(scene.archive().problems[0].contains("expected offset 9, found its end"));
    }

    #[test]
    fn planted_duplicates_are_counted_and_allowed() {
        let scene = Scene::of(0..10);
        scene.bulk(1, &documents(0..7));
        scene.bulk(2, &documents((4..10).chain([9])));
        scene.volume((0, 9), &documents(0..10));
        scene.volume((0, 7), &documents(0..8));
        let audit = scene.audit();
        assert_eq!(audit.readers[0].tally, tally(10, 14, 4, 0, 0));
        assert_eq!(audit.readers[1].tally, tally(10, 18, 8, 0, 0));
        assert_eq!(audit.readers[0].late, Some(0), "a redelivery is not late");
        assert!(audit.is_good());
    }

    /// The place alone proves nothing: the record there must be the one that was produced.
    #[test]
    fn another_record_at_the_same_place_is_no_delivery() {
        let scene = Scene::of(0..3);
        let forged = [
            Document::of(0, 1, 1001, 41, Some("cpu/0"), "{\"usage\":7}"),
            Document::of(0, 1, 1001, 41, Some("cpu/1"), &value(1)),
            Document::of(0, 1, 1001, 42, Some("cpu/0"), &value(1)),
        ];
        for forged in forged {
            scene.bulk(1, &[document(0), forged, document(2)]);
            assert_eq!(scene.search().tally, tally(3, 3, 0, 1, 1));
        }
        scene.bulk(1, &documents(0..4));
        assert_eq!(scene.search().tally, tally(3, 4, 0, 0, 1), "nobody produced the fourth");
        assert!(!scene.search().is_good());
    }

    #[test]
    fn what_is_torn_is_not_there() {
        let scene = Scene::of(0..3);
        let path = scene.bulk(1, &documents(0..3));
        let whole = fs::read(&path).unwrap();
        for cut in 1..document(2).line.len() + 20 {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let search = scene.search();
            assert_eq!(search.tally, tally(3, 2, 0, 1, 0), "{cut} bytes are missing");
            assert!(search.problems.is_empty(), "a torn end is no problem if the record is whole elsewhere");
        }
        scene.bulk(2, &documents([2]));
        assert!(scene.search().is_good());

        // In the middle it would be one.
        fs::write(&path, [&whole[..whole.len() - 9], b"\n", &whole[..]].concat()).unwrap();
        assert!(!scene.search().is_good());

        let path = scene.volume((0, 2), &documents(0..3));
        assert!(scene.archive().is_good());
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        assert!(!scene.archive().is_good());
        fs::write(&path, whole).unwrap();
        fs::write(scene.layout().archive().join("resources-0.open"), b"").unwrap();
        assert!(!scene.archive().is_good(), "nothing is open at the end");
    }

    #[test]
    fn late_records_are_counted() {
        let scene = Scene::of(0..6);
        scene.bulk(1, &documents([0, 3, 1, 2, 4, 5]));
        let search = scene.search();
        assert_eq!(search.late, Some(2));
        assert!(search.is_good());
    }
}
