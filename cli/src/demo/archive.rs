//! The reader `archive`: large zstd files, one partition each, the range of offsets in their names.
//!
//! ```text
//! resources-3.open ──sync──rename──▶ resources-3.00000000000000001042-00000000000000002217.ndjson.zst ──▶ commit
//! ```
//! A file has its name only when it is whole and on the medium, and only then its offsets are committed. After a kill,
//! what is open is thrown away and read again; a file that had its name and not yet its commit is there twice, under the
//! same name if it ends at the same record.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use girok::{CommitEntry, Girok, Offset, TopicPartition};
use zstd::stream::write::Encoder;

use super::child::{self, Stage, is_read};
use super::document::Document;
use crate::fail::{Fail, Result};

/// The group.
pub const GROUP: &str = "archive";

/// How files that are whole end.
pub const SUFFIX: &str = ".ndjson.zst";
const OPEN: &str = ".open";

/// A file ends at so many bytes, before compression.
const FILE_BYTES_MAX: usize = 64 << 20;

const LEVEL: i32 = 3;

/// The file that a partition's records go to now.
struct Volume {
    path: PathBuf,
    encoder: Encoder<'static, File>,
    first: i64,
    last: i64,
    bytes: usize,
    begun: Instant,
}

/// What a file is called.
pub fn name(partition: i32, first: i64, last: i64) -> String {
    format!("{}-{partition}.{first:020}-{last:020}{SUFFIX}", child::TOPIC)
}

/// The partition, first and last offset that a file's name promises.
pub fn parse_name(name: &str) -> Option<(i32, i64, i64)> {
    let (partition, range) =
        name.strip_prefix(child::TOPIC)?.strip_prefix('-')?.strip_suffix(SUFFIX)?.split_once('.')?;
    let (first, last) = range.split_once('-')?;
    Some((partition.parse().ok()?, first.parse().ok()?, last.parse().ok()?))
}

/// Reads, packs and commits until everything that was produced is packed. A file ends also at an age, for a demo has no
/// time to fill large ones.
pub fn run(girok: &Girok, stage: &Stage, dir: &Path, file_age_max: Duration) -> Result<()> {
    throw_away_open(dir)?;
    let mut consumer = girok.consumer().group_id(GROUP).enable_auto_commit(false).build()?;
    let partitions = child::partitions();
    consumer.assign(&partitions)?;
    let mut volumes: Vec<Option<Volume>> = partitions.iter().map(|_| None).collect();
    while !stage.aborted() {
        // Whoever sees this first knows that the ends found later are final.
        let is_last = stage.all_produced.load(Ordering::Acquire);
        let records = consumer.poll(Duration::from_millis(100))?;
        if !records.is_empty() {
            let slot = &mut volumes[records.topic_partition().partition() as usize];
            for record in &records {
                let document = Document::new(&record).ok_or_else(|| child::foreign(&record))?;
                let volume = match slot {
                    Some(volume) => volume,
                    None => slot.insert(Volume::begin(dir, document.partition, document.offset)?),
                };
                volume.append(&document)?;
            }
        }
        let mut at_end = true;
        for tp in &partitions {
            at_end &= is_read(&consumer, tp)?;
        }
        let is_over = is_last && at_end;
        let mut entries = Vec::new();
        for (tp, slot) in partitions.iter().zip(&mut volumes) {
            if let Some(volume) = slot.take_if(|volume| is_over || volume.is_due(file_age_max)) {
                entries.push(volume.finish(dir, tp)?);
            }
        }
        if !entries.is_empty() {
            let synced = File::open(dir).and_then(|dir| dir.sync_all());
            synced.map_err(Fail::io(format!("syncing {}", dir.display())))?;
            child::commit(&mut consumer, &entries)?;
        }
        if is_over {
            return Ok(());
        }
    }
    Ok(())
}

/// What a writer that was killed left open was never committed.
fn throw_away_open(dir: &Path) -> Result<()> {
    let doing = || Fail::io(format!("opening the sink of {GROUP} in {}", dir.display()));
    fs::create_dir_all(dir).map_err(doing())?;
    for entry in fs::read_dir(dir).map_err(doing())? {
        let path = entry.map_err(doing())?.path();
        if path.as_os_str().as_encoded_bytes().ends_with(OPEN.as_bytes()) {
            fs::remove_file(&path).map_err(doing())?;
        }
    }
    Ok(())
}

impl Volume {
    fn begin(dir: &Path, partition: i32, first: i64) -> Result<Volume> {
        let path = dir.join(format!("{}-{partition}{OPEN}", child::TOPIC));
        let encoder = || {
            let mut encoder = Encoder::new(File::create(&path)?, LEVEL)?;
            encoder.include_checksum(true)?;
            Ok(encoder)
        };
        let encoder = encoder().map_err(Fail::io(format!("beginning {}", path.display())))?;
        Ok(Volume { path, encoder, first, last: first, bytes: 0, begun: Instant::now() })
    }

    fn append(&mut self, document: &Document) -> Result<()> {
        let written = self.encoder.write_all(&document.line);
        written.map_err(|e| Fail::io(format!("writing {}", self.path.display()))(e))?;
        self.last = document.offset;
        self.bytes += document.line.len();
        Ok(())
    }

    fn is_due(&self, age_max: Duration) -> bool {
        self.bytes >= FILE_BYTES_MAX || self.begun.elapsed() >= age_max
    }

    /// Gives it its name. It is there for good when the folder is synced; then the entry may be committed.
    fn finish(self, dir: &Path, tp: &TopicPartition) -> Result<CommitEntry> {
        let to = dir.join(name(tp.partition(), self.first, self.last));
        let finished =
            self.encoder.finish().and_then(|file| file.sync_all()).and_then(|()| fs::rename(&self.path, &to));
        finished.map_err(Fail::io(format!("finishing {}", to.display())))?;
        Ok(CommitEntry::new(tp.clone(), Offset::new(self.last + 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(offset: i64) -> Document {
        Document { partition: 3, offset, timestamp: 1, line: format!("line {offset}\n").into_bytes() }
    }

    #[test]
    fn a_name_tells_its_range() {
        let name = name(3, 1042, 2217);
        assert_eq!(name, "resources-3.00000000000000001042-00000000000000002217.ndjson.zst");
        assert_eq!(parse_name(&name), Some((3, 1042, 2217)));
        for other in [
            "resources-3.open",
            "resources-3.ndjson.zst",
            "others-3.1-2.ndjson.zst",
            "resources-x.1-2.ndjson.zst",
        ] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }

    /// A writer is killed before its file has a name: nobody takes it for a file, and the next one throws it away.
    #[test]
    fn a_file_has_its_name_only_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let tp = TopicPartition::new(child::TOPIC, 3);
        let mut killed = Volume::begin(dir.path(), 3, 7).unwrap();
        killed.append(&document(7)).unwrap();
        assert!(
            fs::read_dir(dir.path())
                .unwrap()
                .all(|e| parse_name(e.unwrap().file_name().to_str().unwrap()).is_none())
        );
        std::mem::forget(killed);
        throw_away_open(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

        let mut volume = Volume::begin(dir.path(), 3, 7).unwrap();
        for offset in 7..10 {
            volume.append(&document(offset)).unwrap();
        }
        let entry = volume.finish(dir.path(), &tp).unwrap();
        assert_eq!(entry.offset, Offset::new(10), "the next one to read");
        let packed = fs::read(dir.path().join(name(3, 7, 9))).unwrap();
        assert_eq!(zstd::decode_all(&packed[..]).unwrap(), b"line 7\nline 8\nline 9\n");
    }
}
