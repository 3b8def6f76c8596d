//! `girok verify`: every checksum there is.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use girok_coordinator::{Settings, state_file};
use girok_engine::inspect::{self, Directory, Problem, VerifyReport};
use serde_json::json;

use crate::Global;
use crate::fail::{Fail, Result};
use crate::out::{Out, grouped};
use crate::progress::{Progress, Unit};

/// Reads every batch of every segment and checks its checksum, holds indexes against their segments and against the
/// checksums that girok.checkpoint has of them, and checks girok's own files. Changes nothing, and works beside the process
/// that has the directory open, and on a broker's directory.
#[derive(Args)]
pub struct Verify {
    /// The directory, in place of --dir
    directory: Option<PathBuf>,
    /// How many threads [default: one for each core]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

impl Verify {
    pub fn run(&self, global: &Global, out: &mut Out) -> Result<()> {
        let dir = Directory::open(self.directory.clone().unwrap_or_else(|| global.dir()))?;
        let threads = self.threads.or_else(|| std::thread::available_parallelism().ok());
        let total = dir.partitions()?.iter().try_fold(0, |sum, folder| {
            Ok::<u64, girok_engine::Error>(sum + folder.segments()?.iter().map(|s| s.bytes()).sum::<u64>())
        })?;
        let progress = Progress::new("verifying", Unit::Bytes, total);
        let mut report =
            inspect::verify(&dir, threads.map_or(1, NonZeroUsize::get), |now| progress.at(now.bytes_done))?;
        drop(progress);
        groups_state(&dir, &mut report.problems);
        self.tell(&dir, &report, out)
    }

    fn tell(&self, dir: &Directory, report: &VerifyReport, out: &mut Out) -> Result<()> {
        let VerifyReport {
            clean, partitions, segments, batches, records, bytes, unfinished, problems, ..
        } = report;
        for end in unfinished {
            let path = end.path.display().to_string();
            if out.json {
                out.object(&json!({ "unfinished": path, "position": end.position, "bytes": end.bytes }))?;
            } else {
                out.line(format!(
                    "unfinished: {path} from byte {} on: being written now, or left by a crash; opening cuts it",
                    end.position
                ))?;
            }
        }
        for problem in problems {
            if out.json {
                out.object(&json!({
                    "problem": problem.path.display().to_string(), "position": problem.position,
                    "expected": problem.expected, "found": problem.found,
                }))?;
            } else {
                out.line(format!("problem: {problem}"))?;
            }
        }
        if out.json {
            out.object(&json!({
                "partitions": partitions, "segments": segments, "batches": batches, "records": records, "bytes": bytes,
                "clean": clean, "unfinished": unfinished.len(), "problems": problems.len(),
            }))?;
        } else {
            out.line(format!(
                "{} partitions, {} segments, {} batches, {} records, {} bytes: {}",
                grouped(*partitions),
                grouped(*segments),
                grouped(*batches),
                grouped(*records),
                grouped(*bytes),
                match problems.len() {
                    0 => "every checksum is right".into(),
                    1 => "1 problem".into(),
                    n => format!("{n} problems"),
                }
            ))?;
        }
        match problems.len() {
            0 => Ok(()),
            n => Err(Fail::Found(format!(
                "{n} problem{} in {}: restore the files named above from a backup or a checkpoint (docs/format.md, \
                 \"When recovery refuses\", says what each means)",
                if n == 1 { "" } else { "s" },
                dir.path().display()
            ))),
        }
    }
}

/// The coordinator's state file, which the engine knows nothing of.
fn groups_state(dir: &Directory, problems: &mut Vec<Problem>) {
    let path = dir.path().join(state_file::FILE_NAME);
    let Ok(bytes) = std::fs::read(&path) else { return };
    if let Err(error) = state_file::decode(&bytes, Settings::default(), &path) {
        problems.push(match error {
            girok_engine::Error::Corrupt { place, expected, found, .. } => {
                Problem { path: place.path, position: place.position, expected, found }
            }
            error => Problem {
                path,
                position: 0,
                expected: "a file that can be read".into(),
                found: error.to_string(),
            },
        });
    }
}
