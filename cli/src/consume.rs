//! `girok consume`: records, printed.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use clap::Args;
use girok::{CommitEntry, Consumer, Girok, Offset, OffsetReset, OffsetSpec, TopicPartition};

use crate::Global;
use crate::fail::{Fail, Result};
use crate::format::{self, Format, record_json};
use crate::out::Out;
use crate::progress::{Progress, Unit};
use crate::spec::{Partitions, Place, TopicSpec, parse_partitions};

/// How often a group's progress is committed while records come without a pause (`auto.commit.interval.ms`).
const COMMIT_EVERY: Duration = Duration::from_secs(5);

#[derive(Args)]
#[command(after_help = format!("Format (--format):\n{}", format::HELP))]
pub struct Consume {
    /// What from, with partitions if not all: orders, or orders:0,2,5-7
    #[arg(value_name = "TOPIC[:PARTITIONS]")]
    topic: TopicSpec,
    /// Only these partitions: 0,2,5-7
    #[arg(long, short, value_parser = parse_partitions, value_name = "LIST")]
    partitions: Option<Partitions>,
    /// How to print a record; see below [default: the value and a line feed]
    #[arg(long, short, value_name = "FORMAT")]
    format: Option<Format>,
    /// Where to begin: beginning, end, an offset, -N (the last N of each partition), @TIME (ms since 1970, a date such as
    /// 2026-11-23T06:15:00Z, or how long ago: @-15m) [default: beginning, or what the group has committed]
    #[arg(long, value_name = "WHERE", allow_hyphen_values = true)]
    from: Option<Place>,
    /// Wait for more at the end
    #[arg(long)]
    follow: bool,
    /// Stop after so many records
    #[arg(long, short, value_name = "N")]
    max: Option<u64>,
    /// Begin at this group's committed offsets, and commit what was printed
    #[arg(long, short, value_name = "NAME")]
    group: Option<String>,
}

impl Consume {
    pub fn run(&self, global: &Global, out: &mut Out) -> Result<()> {
        let mut spec = self.topic.clone();
        if let Some(Partitions(list)) = &self.partitions {
            if spec.partitions.is_some() {
                return Err(Fail::usage(
                    "partitions stand behind the topic and in --partitions; name them once",
                ));
            }
            spec.partitions = Some(list.clone());
        }
        let girok = global.open(false)?;
        let partitions = spec.resolve(&girok)?;
        let mut consumer =
            girok.consumer().enable_auto_commit(false).auto_offset_reset(OffsetReset::Earliest);
        if let Some(group) = &self.group {
            consumer = consumer.group_id(group.as_str());
        }
        let mut consumer = consumer.build()?;
        consumer.assign(&partitions)?;
        if let Some(from) = self.from {
            for (tp, offset) in places(&girok, &partitions, from)? {
                consumer.seek(&tp, offset)?;
            }
        }

        let default = "%v\\n".parse().expect("a format");
        let format = self.format.as_ref().unwrap_or(&default);
        let mut processed: BTreeMap<TopicPartition, Offset> = BTreeMap::new();
        let mut left = self.max.unwrap_or(u64::MAX);
        let mut line = Vec::new();
        // Nobody needs a bar beside what they read, or for what has no end.
        let progress = if self.follow || io::stdout().is_terminal() {
            None
        } else {
            Some(progress(&girok, &consumer, left)?)
        };
        let mut seen = 0;
        let mut committed = Instant::now();
        let printed = loop {
            if left == 0 {
                break Ok(());
            }
            let mut records = consumer.poll_now()?;
            if records.is_empty() && self.follow {
                // Nothing more for now: show what there is, then wait. Whoever follows is ended by a signal, so this
                // is also where commits are made.
                self.commit(&girok, &mut consumer, &mut processed, out)?;
                records = consumer.poll(Duration::from_secs(3600))?;
            }
            if records.is_empty() {
                if self.follow {
                    continue;
                }
                break Ok(());
            }
            let mut next = records.next_offset();
            let mut failed = None;
            for record in &records {
                if left == 0 {
                    next = record.offset();
                    break;
                }
                line.clear();
                format.append(&record, &mut line);
                let printed = if out.json { out.object(&record_json(&record)) } else { out.bytes(&line) };
                if let Err(fail) = printed {
                    (next, failed) = (record.offset(), Some(fail));
                    break;
                }
                left -= 1;
            }
            seen += records.len() as u64;
            if let Some(progress) = &progress {
                progress.at(seen);
            }
            processed.insert(records.topic_partition().clone(), next);
            if let Some(fail) = failed {
                break Err(fail);
            }
            out.look()?;
            if committed.elapsed() >= COMMIT_EVERY {
                self.commit(&girok, &mut consumer, &mut processed, out)?;
                committed = Instant::now();
            }
        };
        let printed = printed.and_then(|()| self.commit(&girok, &mut consumer, &mut processed, out));
        drop((consumer, progress));
        girok.close()?;
        printed
    }
}

impl Consume {
    /// What was printed is committed once it is out, if there is a group to commit for.
    fn commit(
        &self,
        girok: &Girok,
        consumer: &mut Consumer,
        processed: &mut BTreeMap<TopicPartition, Offset>,
        out: &mut Out,
    ) -> Result<()> {
        out.flush()?;
        if self.group.is_none() || processed.is_empty() {
            return Ok(());
        }
        let mut entries = Vec::new();
        for (tp, next) in std::mem::take(processed) {
            let epoch = match next {
                Offset::ZERO => -1,
                next => girok.log().partition(&tp)?.leader_epoch_at(next + -1),
            };
            entries.push(CommitEntry::new(tp, next).with_leader_epoch(epoch));
        }
        for (_, result) in consumer.commit_offsets(&entries)? {
            result?;
        }
        Ok(())
    }
}

/// A bar over what there is to read, but `most` records.
fn progress(girok: &Girok, consumer: &Consumer, most: u64) -> Result<Progress> {
    let partitions: Vec<TopicPartition> = consumer.assignment().cloned().collect();
    let mut total = 0;
    for (tp, end) in places(girok, &partitions, Place::End)? {
        total += (end - consumer.position(&tp)?).max(0) as u64;
    }
    Ok(Progress::new("consuming", Unit::Records, total.min(most)))
}

/// The offset that a place is in each partition, within what there is.
pub fn places(
    girok: &Girok,
    partitions: &[TopicPartition],
    place: Place,
) -> Result<Vec<(TopicPartition, Offset)>> {
    let admin = girok.admin();
    let list = |spec| -> Result<BTreeMap<TopicPartition, Option<Offset>>> {
        let found = admin.list_offsets(partitions, spec)?;
        Ok(found.into_iter().map(|(tp, found)| (tp, found.map(|found| found.offset))).collect())
    };
    let (starts, ends) = (list(OffsetSpec::Earliest)?, list(OffsetSpec::Latest)?);
    let times = match place {
        Place::Time(time) => list(OffsetSpec::ForTimestamp(time))?,
        _ => BTreeMap::new(),
    };
    let at = |tp: &TopicPartition| {
        let start = starts.get(tp).copied().flatten().unwrap_or_default();
        let end = ends.get(tp).copied().flatten().unwrap_or_default();
        let offset = match place {
            Place::Beginning => start,
            Place::End => end,
            Place::Offset(offset) => Offset::new(offset),
            Place::BeforeEnd(records) => Offset::new(end.get().saturating_sub(records)),
            Place::Time(_) => times.get(tp).copied().flatten().unwrap_or(end),
        };
        offset.clamp(start, end)
    };
    Ok(partitions.iter().map(|tp| (tp.clone(), at(tp))).collect())
}
