//! `girok stats`: sizes, from outside.

use clap::Args;
use girok::TopicPartition;
use girok_engine::inspect::{Directory, PartitionFolder};
use serde_json::json;

use crate::Global;
use crate::fail::{Fail, Result};
use crate::out::{Out, grouped};

/// Partitions, segments and bytes of each topic. Works beside the process that has the directory open; bytes include the room
/// that is reserved for what comes next.
#[derive(Args)]
pub struct Stats {
    /// Each partition by itself
    #[arg(long, short)]
    partitions: bool,
}

#[derive(Default)]
struct Size {
    partitions: u64,
    segments: u64,
    log_bytes: u64,
    other_bytes: u64,
}

impl Size {
    fn add(&mut self, other: &Size) {
        self.partitions += other.partitions;
        self.segments += other.segments;
        self.log_bytes += other.log_bytes;
        self.other_bytes += other.other_bytes;
    }

    fn of(folder: &PartitionFolder) -> Result<Size> {
        let segments = folder.segments()?;
        let log_bytes = segments.iter().map(|segment| segment.bytes()).sum();
        let listing = format!("listing {}", folder.path().display());
        let mut all = 0;
        for entry in std::fs::read_dir(folder.path()).map_err(Fail::io(&listing))? {
            // Files come and go while the log is in use.
            all += entry.map_err(Fail::io(&listing))?.metadata().map_or(0, |meta| meta.len());
        }
        let other_bytes = all.saturating_sub(log_bytes);
        Ok(Size { partitions: 1, segments: segments.len() as u64, log_bytes, other_bytes })
    }
}

impl Stats {
    pub fn run(&self, global: &Global, out: &mut Out) -> Result<()> {
        let dir = Directory::open(global.dir())?;
        let mut total = Size::default();
        let mut groups: Vec<(String, Option<TopicPartition>, Size)> = Vec::new();
        for folder in dir.partitions()? {
            let size = Size::of(&folder)?;
            total.add(&size);
            let topic = folder.name().topic();
            if self.partitions {
                groups.push((topic.into(), Some(folder.name().clone()), size));
                continue;
            }
            match groups.last_mut() {
                Some((last, _, sum)) if last == topic => sum.add(&size),
                _ => groups.push((topic.into(), None, size)),
            }
        }
        let mut rows = Vec::new();
        for (topic, partition, size) in &groups {
            if out.json {
                let mut object = json!({
                    "topic": topic, "segments": size.segments, "logBytes": size.log_bytes,
                    "otherBytes": size.other_bytes,
                });
                match partition {
                    Some(tp) => object["partition"] = tp.partition().into(),
                    None => object["partitions"] = size.partitions.into(),
                }
                out.object(&object)?;
                continue;
            }
            let name = partition.as_ref().map_or_else(|| topic.clone(), |tp| tp.to_string());
            rows.push(row(name, size));
        }
        if out.json {
            return out.object(&json!({
                "dir": dir.path().display().to_string(), "topics": dir.topics()?.map(|topics| topics.len()),
                "partitions": total.partitions, "segments": total.segments, "logBytes": total.log_bytes,
                "otherBytes": total.other_bytes,
            }));
        }
        rows.push(row("in all".into(), &total));
        out.table(&["topic", "partitions", "segments", "log bytes", "index and other bytes"], &rows)
    }
}

fn row(name: String, size: &Size) -> Vec<String> {
    let numbers = [size.partitions, size.segments, size.log_bytes, size.other_bytes].map(grouped);
    [vec![name], numbers.to_vec()].concat()
}
