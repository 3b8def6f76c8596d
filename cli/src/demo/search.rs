//! The reader `search`: bulks for Elasticsearch, in the order of time.
//!
//! ```text
//! partition 0  ── 12:00:01 ── 12:00:07 ─┐            every partition was seen up to here
//! partition 1  ── 12:00:02 ─────────────┼─┐          or later, so what is older can be
//! partition 2  ── 12:00:01 ── 12:00:03 ─┴─┴──▶ bulk  written in the order of time
//! ```
//! A log orders records within a partition. Across partitions a reader must wait for the slowest: a record leaves when
//! every partition was read beyond its time. One that has nothing more to read counts as read up to [`LATENESS`] ago. The
//! order is strict as long as a record is visible that soon after its timestamp; the audit counts those that were not.
//!
//! A bulk is appended to the sink's file and synced, and then its offsets are committed. If the sink refuses it, the
//! reader forgets what it holds and reads it again, from the committed offsets.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use girok::{CommitEntry, Consumer, Girok, Offset, Records};

use super::child::{self, Stage, is_read};
use super::document::Document;
use crate::fail::{Fail, Result};

/// The group.
pub const GROUP: &str = "search";

/// What the sink's files are called: `bulk-000001.ndjson`.
pub const PREFIX: &str = "bulk-";
pub const SUFFIX: &str = ".ndjson";

/// How long after its timestamp a record becomes visible, at most, for the order to be strict.
const LATENESS: Duration = Duration::from_millis(500);

/// A bulk is written when it has so many records, or is so old.
const BULK_RECORDS_MAX: usize = 5_000;
const BULK_AGE_MAX: Duration = Duration::from_millis(200);

/// Of each partition at most so many records wait in memory, and one poll more.
const WAITING_RECORDS_MAX: usize = 5_000;

/// How long to wait before a refused bulk is tried again.
const RETRY: Duration = Duration::from_millis(250);

const FILE_BYTES_MAX: u64 = 16 << 20;

/// A partition.
struct Lane {
    tp: girok::TopicPartition,
    /// Read, and not yet written.
    waiting: VecDeque<Document>,
    /// Every record with an earlier timestamp (in ms) was read.
    seen_until: i64,
    /// Everything before is written.
    written: Offset,
}

/// Reads, orders, writes and commits until everything that was produced is written.
pub fn run(girok: &Girok, stage: &Stage, dir: &Path) -> Result<()> {
    let mut sink = Sink::open(dir)?;
    let mut consumer = girok.consumer().group_id(GROUP).enable_auto_commit(false).build()?;
    let partitions = child::partitions();
    consumer.assign(&partitions)?;
    let mut lanes = Vec::new();
    for tp in partitions {
        let written = consumer.position(&tp)?;
        lanes.push(Lane { tp, waiting: VecDeque::new(), seen_until: i64::MIN, written });
    }
    while !stage.aborted() {
        // Whoever sees this first knows that the ends found later are final.
        let is_last = stage.all_produced.load(Ordering::Acquire);
        read(&mut consumer, &mut lanes)?;
        let at_end = see(&consumer, &mut lanes)?;
        let is_over = is_last && at_end;
        let until = if is_over {
            i64::MAX
        } else {
            lanes.iter().map(|lane| lane.seen_until).min().unwrap_or(i64::MIN)
        };
        let taken = take(&mut lanes, until);
        if taken.is_empty() {
            match is_over && lanes.iter().all(|lane| lane.waiting.is_empty()) {
                true => return Ok(()),
                false => continue,
            }
        }
        sink.is_down = stage.sink_is_down.load(Ordering::Acquire);
        match sink.bulk(&taken) {
            Ok(()) => commit(&mut consumer, &mut lanes, &taken)?,
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                stage.refused.fetch_add(1, Ordering::Release);
                for lane in &mut lanes {
                    lane.waiting.clear();
                    lane.seen_until = i64::MIN;
                    consumer.seek(&lane.tp, lane.written)?;
                }
                stage.pause(RETRY);
            }
            Err(e) => return Err(Fail::io(format!("writing a bulk to {}", dir.display()))(e)),
        }
    }
    Ok(())
}

/// Polls for as long as a bulk may take to fill.
fn read(consumer: &mut Consumer, lanes: &mut [Lane]) -> Result<()> {
    let begun = Instant::now();
    let mut fresh = 0;
    loop {
        for lane in lanes.iter() {
            let tp = std::slice::from_ref(&lane.tp);
            match lane.waiting.len() >= WAITING_RECORDS_MAX {
                true => consumer.pause(tp)?,
                false => consumer.resume(tp)?,
            }
        }
        let left = BULK_AGE_MAX.saturating_sub(begun.elapsed());
        let records = consumer.poll(left)?;
        keep(&records, lanes)?;
        fresh += records.len();
        if records.is_empty() || left.is_zero() || fresh >= BULK_RECORDS_MAX {
            return Ok(());
        }
    }
}

fn keep(records: &Records, lanes: &mut [Lane]) -> Result<()> {
    let Some(lane) = lanes.iter_mut().find(|lane| lane.tp == *records.topic_partition()) else {
        return Ok(());
    };
    for record in records {
        let document = Document::new(&record).ok_or_else(|| child::foreign(&record))?;
        lane.seen_until = lane.seen_until.max(document.timestamp);
        lane.waiting.push_back(document);
    }
    Ok(())
}

/// Moves on the partitions that have nothing more to read; says whether that is all of them.
fn see(consumer: &Consumer, lanes: &mut [Lane]) -> Result<bool> {
    // Before the ends: what becomes visible between the two is not older than LATENESS.
    let now = child::now_ms() - LATENESS.as_millis() as i64;
    let mut all = true;
    for lane in lanes {
        if is_read(consumer, &lane.tp)? {
            lane.seen_until = lane.seen_until.max(now);
        } else {
            all = false;
        }
    }
    Ok(all)
}

/// The oldest records, in order, up to a time.
fn take(lanes: &mut [Lane], until: i64) -> Vec<Document> {
    let mut taken = Vec::new();
    while taken.len() < BULK_RECORDS_MAX {
        let oldest = lanes
            .iter_mut()
            .filter_map(|lane| lane.waiting.front().map(|one| one.timestamp).map(|time| (time, lane)))
            .min_by_key(|(time, _)| *time);
        let Some((time, lane)) = oldest else { break };
        if time > until {
            break;
        }
        taken.extend(lane.waiting.pop_front());
    }
    taken
}

/// Commits behind what was written.
fn commit(consumer: &mut Consumer, lanes: &mut [Lane], written: &[Document]) -> Result<()> {
    let mut entries = Vec::new();
    for lane in lanes {
        let last = written.iter().rev().find(|one| one.partition == lane.tp.partition());
        if let Some(last) = last {
            lane.written = Offset::new(last.offset + 1);
            entries.push(CommitEntry::new(lane.tp.clone(), lane.written));
        }
    }
    child::commit(consumer, &entries)
}

/// The place of an Elasticsearch: files of what would be the bodies of requests to `_bulk`.
struct Sink {
    dir: PathBuf,
    file: Option<(File, u64)>,
    next_file: u32,
    /// It refuses everything, as a server that is not there.
    is_down: bool,
}

impl Sink {
    /// Begins a file of its own, behind those that are there. The last of those may end in the middle of an action,
    /// for its writer was killed; that end was never committed and is cut off.
    fn open(dir: &Path) -> Result<Sink> {
        let doing = || Fail::io(format!("opening the sink of {GROUP} in {}", dir.display()));
        fs::create_dir_all(dir).map_err(doing())?;
        let mut last = 0;
        for entry in fs::read_dir(dir).map_err(doing())? {
            let name = entry.map_err(doing())?.file_name();
            let number =
                name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok());
            last = last.max(number.unwrap_or(0));
        }
        let sink = Sink { dir: dir.into(), file: None, next_file: last + 1, is_down: false };
        if last > 0 {
            let path = sink.path(last);
            let whole = whole_actions(&fs::read(&path).map_err(doing())?);
            let file = OpenOptions::new().write(true).open(&path).map_err(doing())?;
            file.set_len(whole as u64).and_then(|()| file.sync_all()).map_err(doing())?;
        }
        Ok(sink)
    }

    fn path(&self, number: u32) -> PathBuf {
        self.dir.join(format!("{PREFIX}{number:06}{SUFFIX}"))
    }

    /// Writes and syncs: all of it, or nothing.
    fn bulk(&mut self, documents: &[Document]) -> io::Result<()> {
        if self.is_down {
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the sink is down"));
        }
        let mut body = Vec::new();
        for Document { partition, offset, line, .. } in documents {
            // The id makes a redelivered record replace itself in a real index.
            writeln!(body, r#"{{"index":{{"_index":"{}","_id":"{partition}-{offset}"}}}}"#, child::TOPIC)?;
            body.extend_from_slice(line);
        }
        if self.file.as_ref().is_none_or(|(_, bytes)| *bytes >= FILE_BYTES_MAX) {
            let path = self.path(self.next_file);
            self.file = Some((OpenOptions::new().write(true).create_new(true).open(path)?, 0));
            self.next_file += 1;
            File::open(&self.dir)?.sync_all()?;
        }
        let Some((file, bytes)) = &mut self.file else { return Ok(()) };
        if let Err(error) = file.write_all(&body).and_then(|()| file.sync_data()) {
            let _ = file.set_len(*bytes);
            return Err(error);
        }
        *bytes += body.len() as u64;
        Ok(())
    }
}

/// How many bytes are whole pairs of lines: an action and its document.
fn whole_actions(text: &[u8]) -> usize {
    let ends = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    ends.skip(1).step_by(2).last().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(partition: i32, offset: i64, timestamp: i64) -> Document {
        Document { partition, offset, timestamp, line: format!("{partition}@{offset}\n").into_bytes() }
    }

    fn lane(partition: i32, times: &[i64]) -> Lane {
        let waiting = times
            .iter()
            .enumerate()
            .map(|(offset, time)| document(partition, offset as i64, *time))
            .collect();
        let tp = girok::TopicPartition::new(child::TOPIC, partition);
        Lane { tp, waiting, seen_until: times.last().copied().unwrap_or(i64::MIN), written: Offset::ZERO }
    }

    #[test]
    fn records_of_all_partitions_leave_in_the_order_of_time() {
        let mut lanes = [lane(0, &[1, 7]), lane(1, &[2, 2, 9]), lane(2, &[1, 3])];
        let until = lanes.iter().map(|lane| lane.seen_until).min().unwrap();
        let times: Vec<i64> = take(&mut lanes, until).iter().map(|one| one.timestamp).collect();
        assert_eq!(times, [1, 1, 2, 2, 3], "7 may still be preceded by a record of partition 2");
        let times: Vec<i64> = take(&mut lanes, i64::MAX).iter().map(|one| one.timestamp).collect();
        assert_eq!(times, [7, 9]);
    }

    /// A writer is killed in the middle of a bulk; what it left can be sent to a server all the same.
    #[test]
    fn a_torn_end_is_cut_off_at_the_last_whole_action() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = Sink::open(dir.path()).unwrap();
        sink.bulk(&[document(0, 0, 1), document(1, 0, 1)]).unwrap();
        let path = sink.path(1);
        let whole = fs::read(&path).unwrap();
        let action = br#"{"index":{"_index":"resources","_id":"0-1"}}"#;
        for torn in [&b""[..], b"{", action, &[action, &b"\n"[..]].concat(), &[action, &b"\n0@"[..]].concat()]
        {
            fs::write(&path, [&whole[..], torn].concat()).unwrap();
            for file in 2..9 {
                let _ = fs::remove_file(sink.path(file));
            }
            let mut next = Sink::open(dir.path()).unwrap();
            assert_eq!(fs::read(&path).unwrap(), whole);
            next.bulk(&[document(0, 1, 2)]).unwrap();
            assert_eq!(whole_actions(&fs::read(next.path(2)).unwrap()) as u64, next.file.unwrap().1);
        }
    }

    #[test]
    fn a_sink_that_is_down_takes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = Sink::open(dir.path()).unwrap();
        sink.is_down = true;
        assert_eq!(sink.bulk(&[document(0, 0, 1)]).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
