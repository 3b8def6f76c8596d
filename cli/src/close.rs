//! `girok close`: after a crash, what a broker or its tools could not read becomes what they can.
//!
//! Opening a directory recovers it, and closing it cuts every file to its last batch and writes the indexes and Kafka's own
//! checkpoints. This command does both and says what it found. The report is also what the other commands show a part of.

use std::path::PathBuf;

use clap::Args;
use girok::Girok;
use serde_json::{Value, json};

use crate::Global;
use crate::fail::{Fail, Result};
use crate::out::{Out, grouped};
use crate::progress::with_spinner;

/// Opens the directory, which recovers what a crash left, and closes it cleanly: every file ends with its last batch, the
/// indexes are whole, and Kafka's tools and brokers read it. Says what was cut, saved and set back. Exit code 1 if a partition
/// cannot be used, or if anything had to be cut that may have been data.
#[derive(Args)]
pub struct Close {
    /// The directory, in place of --dir
    directory: Option<PathBuf>,
}

impl Close {
    pub fn run(&self, global: &Global, out: &mut Out) -> Result<()> {
        let dir = self.directory.clone().unwrap_or_else(|| global.dir());
        let girok = with_spinner("opening", || Girok::builder().create(false).open(&dir))?;
        let recovery = girok.recovery().clone();
        with_spinner("closing", || girok.close())?;

        let suspect = recovery.partitions.iter().filter(|partition| partition.suspect).count();
        if out.json {
            let partitions: Vec<Value> = recovery
                .partitions
                .iter()
                .map(|partition| {
                    let saved: Vec<String> =
                        partition.saved.iter().map(|path| path.display().to_string()).collect();
                    json!({
                        "partition": partition.partition.to_string(), "end": partition.end.get(),
                        "scannedBytes": partition.scanned_bytes, "cutBytes": partition.cut_bytes,
                        "suspect": partition.suspect, "saved": saved, "leaderEpoch": partition.leader_epoch,
                    })
                })
                .collect();
            let refused: Vec<Value> = recovery
                .refused
                .iter()
                .map(|(tp, error)| json!({ "partition": tp.to_string(), "error": error.to_string() }))
                .collect();
            let clamped: Vec<Value> = recovery
                .clamped()
                .iter()
                .map(|one| {
                    json!({
                        "group": &*one.group, "partition": one.partition.to_string(),
                        "was": one.was.get(), "now": one.now.get(),
                    })
                })
                .collect();
            out.object(&json!({
                "dir": dir.display().to_string(), "wasClean": recovery.clean, "boot": recovery.boot,
                "partitions": partitions, "refused": refused, "clamped": clamped, "notes": recovery.notes,
            }))?;
        } else {
            let rows: Vec<Vec<String>> = recovery
                .partitions
                .iter()
                .map(|partition| {
                    vec![
                        partition.partition.to_string(),
                        partition.end.to_string(),
                        grouped(partition.scanned_bytes),
                        grouped(partition.cut_bytes),
                        if partition.suspect { "suspect" } else { "" }.into(),
                    ]
                })
                .collect();
            out.table(&["partition", "end", "bytes read", "bytes cut", ""], &rows)?;
            for partition in &recovery.partitions {
                for path in &partition.saved {
                    out.line(format!("saved: {} ({} was cut here)", path.display(), partition.partition))?;
                }
            }
            for note in &recovery.notes {
                out.line(format!("note: {note}"))?;
            }
            for one in recovery.clamped() {
                out.line(format!("set back: {}", clamped_text(one)))?;
            }
            for (tp, error) in &recovery.refused {
                out.line(format!("refused: {tp}: {error}"))?;
            }
            let was = if recovery.clean { "was closed cleanly before" } else { "was recovered" };
            out.line(format!("{} {was}, and is closed cleanly", dir.display()))?;
        }
        match (recovery.refused.len(), suspect) {
            (0, 0) => Ok(()),
            (0, n) => Err(Fail::Found(format!(
                "{n} partitions lost something from their middle; what was cut is saved beside the segment, and `girok \
                 dump` reads it"
            ))),
            (n, _) => Err(Fail::Found(format!("{n} partitions cannot be used; the lines above say why"))),
        }
    }
}

fn clamped_text(one: &girok::Clamped) -> String {
    format!("group {} in {}: from {} to {}, its end", one.group, one.partition, one.was, one.now)
}

/// What recovery had to do that cost somebody something, on stderr.
pub fn tell_losses(girok: &Girok) {
    let recovery = girok.recovery();
    for cut in recovery.cut() {
        let how = if cut.suspect { "; it is suspect, and saved beside the segment" } else { "" };
        eprintln!(
            "girok: recovered {}: {} bytes were cut behind offset {}{how}",
            cut.partition, cut.cut_bytes, cut.end
        );
    }
    for (tp, error) in &recovery.refused {
        eprintln!("girok: {tp} cannot be used: {error}");
    }
    for one in recovery.clamped() {
        eprintln!("girok: a commit was set back: {}", clamped_text(one));
    }
}
