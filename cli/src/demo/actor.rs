//! The parent's hands on the child process: start it, hear it, tell it, kill it, let it finish.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fail::{Fail, Result};

/// SIGKILL, everywhere.
const SIGKILL: i32 = 9;

/// What the child last said about itself, in records.
#[derive(Clone, Copy, Debug, Default)]
pub struct Status {
    /// How many there are.
    pub stored: u64,
    /// How many of them `search` has not committed.
    pub search: u64,
    pub archive: u64,
    /// How many bulks the sink of `search` refused.
    pub refused: u64,
}

/// What the child found when it opened its log.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    pub ms: f64,
    /// Records that were stored and not yet journalled.
    pub found: u64,
}

#[derive(Default)]
struct Heard {
    opened: Option<Opened>,
    status: Status,
}

/// A child that runs. Dropped, it is killed.
pub struct Actor {
    process: Child,
    stdin: Option<ChildStdin>,
    heard: Arc<Mutex<Heard>>,
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Actor {
    /// This program once more, as the child.
    pub fn start(base: &Path, file: Option<&Path>, archive_age_max: Duration) -> Result<Actor> {
        let doing = || Fail::io("starting the demo's child process");
        let mut command = Command::new(std::env::current_exe().map_err(doing())?);
        command.arg("demo-child").arg("--base").arg(base);
        command.arg("--archive-ms").arg(archive_age_max.as_millis().to_string());
        if let Some(file) = file {
            command.arg("--file").arg(file);
        }
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(doing())?;
        let (stdin, stdout) = (process.stdin.take(), process.stdout.take());
        let heard = Arc::<Mutex<Heard>>::default();
        let listener = heard.clone();
        thread::spawn(move || {
            // Ends with the child.
            for line in
                stdout.into_iter().flat_map(|stdout| BufReader::new(stdout).lines()).map_while(Result::ok)
            {
                listener.lock().unwrap().hear(&line);
            }
        });
        Ok(Actor { process, stdin, heard })
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn status(&self) -> Status {
        self.heard.lock().unwrap().status
    }

    /// The child must be running.
    pub fn check(&mut self) -> Result<()> {
        match self.process.try_wait().map_err(Fail::io("waiting for the demo's child process"))? {
            None => Ok(()),
            Some(status) => Err(Fail::Found(format!(
                "the demo's child process {} ended by itself ({status}); what it said is above",
                self.id()
            ))),
        }
    }

    /// Waits until its log is open.
    pub fn wait_until_open(&mut self, patience: Duration) -> Result<Opened> {
        let begun = Instant::now();
        loop {
            if let Some(opened) = self.heard.lock().unwrap().opened {
                return Ok(opened);
            }
            self.check()?;
            if begun.elapsed() > patience {
                return Err(Fail::Found(format!(
                    "the demo's child did not open its log within {patience:?}"
                )));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Tells it a word.
    pub fn send(&mut self, word: &str) -> Result<()> {
        let Some(stdin) = &mut self.stdin else { return Ok(()) };
        writeln!(stdin, "{word}").map_err(Fail::io("speaking to the demo's child process"))
    }

    /// Kills it with SIGKILL, which it cannot notice, and waits until it is gone.
    pub fn kill(mut self) -> Result<u32> {
        self.check()?;
        let doing = || Fail::io("killing the demo's child process");
        self.process.kill().map_err(doing())?;
        let status = self.process.wait().map_err(doing())?;
        match status.signal() {
            Some(SIGKILL) => Ok(self.id()),
            _ => Err(Fail::Found(format!(
                "the demo's child process ended before it could be killed ({status})"
            ))),
        }
    }

    /// Lets it stop producing, read to the end, close the log, and end.
    pub fn finish(mut self, patience: Duration, mut look: impl FnMut(Status)) -> Result<()> {
        drop(self.stdin.take());
        let begun = Instant::now();
        loop {
            match self.process.try_wait().map_err(Fail::io("waiting for the demo's child process"))? {
                Some(status) if status.success() => return Ok(()),
                Some(_) => return self.check(),
                None => {}
            }
            if begun.elapsed() > patience {
                return Err(Fail::Found(format!(
                    "the demo's readers did not come to the end within {patience:?}: search is {} records behind, \
                     archive {}",
                    self.status().search,
                    self.status().archive
                )));
            }
            look(self.status());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Heard {
    fn hear(&mut self, line: &str) {
        let Ok(said) = serde_json::from_str::<Value>(line) else { return };
        let number = |name: &str| said[name].as_u64().unwrap_or(0);
        match said["opened_ms"].as_f64() {
            Some(ms) => self.opened = Some(Opened { ms, found: number("found") }),
            None => {
                self.status = Status {
                    stored: number("stored"),
                    search: number("search"),
                    archive: number("archive"),
                    refused: number("refused"),
                }
            }
        }
    }
}
