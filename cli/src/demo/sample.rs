//! What is produced: the metrics of this machine, or the lines of a file.
//!
//! A source is asked for what is due at every tick, and gives key and value of each record.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use sysinfo::{Disks, Networks, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::fail::{Fail, Result};

/// How often a source is asked.
pub const TICK: Duration = Duration::from_millis(20);

/// So many lines of a file are sent in a tick: 10,000 a second, if the disk keeps up.
const LINES_PER_TICK: usize = 200;

/// So many processes, those that are busiest, are of interest.
const PROCESSES: usize = 10;

/// A key, and a value that is UTF-8.
pub struct Sample {
    /// The resource that was measured; `None` for lines of a file, which go to all partitions in turn.
    pub key: Option<String>,
    pub value: String,
}

impl Sample {
    fn new(key: impl Into<String>, value: serde_json::Value) -> Self {
        Sample { key: Some(key.into()), value: value.to_string() }
    }
}

/// Where records come from.
pub enum Source {
    Machine(Box<Machine>),
    Lines(Lines),
}

impl Source {
    /// The file's lines, or else this machine's metrics.
    pub fn open(file: Option<&Path>) -> Result<Source> {
        match file {
            Some(path) => {
                let opened = File::open(path).map_err(Fail::io(format!("opening {}", path.display())))?;
                Ok(Source::Lines(Lines { path: path.into(), reader: BufReader::new(opened), next: 0 }))
            }
            None => Ok(Source::Machine(Box::new(Machine::new()?))),
        }
    }

    /// What is due in this tick, each with its number. Numbers come from `numbers`, in order. A file's line has that of
    /// its place, so that a producer that starts again goes on where the last one was; a metric has the next one free.
    pub fn tick(&mut self, numbers: &mut Numbers) -> Result<Vec<(u64, Sample)>> {
        match self {
            Source::Machine(machine) => {
                Ok(machine.tick().into_iter().map(|one| (numbers.take(), one)).collect())
            }
            Source::Lines(lines) => lines.tick(numbers),
        }
    }
}

/// Numbers for records: each that no stored record has, once.
pub struct Numbers {
    next: u64,
    /// Those that are taken, at or above `next`, the largest first.
    taken: Vec<u64>,
}

impl Numbers {
    /// All but these.
    pub fn except(mut taken: Vec<u64>) -> Self {
        taken.sort_unstable_by(|a, b| b.cmp(a));
        Numbers { next: 0, taken }
    }

    fn peek(&mut self) -> u64 {
        while let Some(taken) = self.taken.pop_if(|taken| *taken <= self.next) {
            if taken == self.next {
                self.next += 1;
            }
        }
        self.next
    }

    /// The next one.
    pub fn take(&mut self) -> u64 {
        let number = self.peek();
        self.next += 1;
        number
    }
}

/// Reads lines of a file, once.
pub struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    /// The number of the line that the reader stands before.
    next: u64,
}

impl Lines {
    fn tick(&mut self, numbers: &mut Numbers) -> Result<Vec<(u64, Sample)>> {
        let mut samples = Vec::with_capacity(LINES_PER_TICK);
        while samples.len() < LINES_PER_TICK {
            let wanted = numbers.peek();
            let mut line = Vec::new();
            let got = self.reader.read_until(b'\n', &mut line);
            if got.map_err(Fail::io(format!("reading {}", self.path.display())))? == 0 {
                break;
            }
            self.next += 1;
            if self.next <= wanted {
                continue; // It is stored already.
            }
            while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                line.pop();
            }
            samples.push((
                numbers.take(),
                Sample { key: None, value: String::from_utf8_lossy(&line).into_owned() },
            ));
        }
        Ok(samples)
    }
}

/// This machine.
pub struct Machine {
    system: System,
    disks: Disks,
    networks: Networks,
    ticks: u64,
}

impl Machine {
    fn new() -> Result<Self> {
        let failed = |what: &'static str| {
            move |error| {
                Fail::Found(format!(
                    "this machine does not tell about its {what}: {error:?}; use --file instead"
                ))
            }
        };
        Ok(Machine {
            system: System::new().map_err(failed("processors and memory"))?,
            disks: Disks::new_with_refreshed_list().map_err(failed("disks"))?,
            networks: Networks::new_with_refreshed_list().map_err(failed("networks"))?,
            ticks: 0,
        })
    }

    /// Memory, networks and processors each time (the kernel's counters for the latter move every 200 ms), disks every
    /// tenth, processes, which cost most, every fiftieth.
    fn tick(&mut self) -> Vec<Sample> {
        let turn = self.ticks;
        self.ticks += 1;
        let mut samples = Vec::new();

        self.system.refresh_memory();
        samples.push(Sample::new(
            "memory",
            json!({
                "total": self.system.total_memory(),
                "used": self.system.used_memory(),
                "available": self.system.available_memory(),
                "swap_used": self.system.used_swap(),
            }),
        ));
        self.system.refresh_cpu_usage();
        for (number, cpu) in self.system.cpus().iter().enumerate() {
            let usage = percent(cpu.usage());
            samples.push(Sample::new(
                format!("cpu/{number}"),
                json!({ "usage": usage, "mhz": cpu.frequency() }),
            ));
        }
        self.networks.refresh(true);
        for (name, network) in self.networks.iter() {
            samples.push(Sample::new(
                format!("network/{}", name.display()),
                json!({
                    "received": network.received(),
                    "transmitted": network.transmitted(),
                    "total_received": network.total_received(),
                    "total_transmitted": network.total_transmitted(),
                    "errors": network.errors_on_received() + network.errors_on_transmitted(),
                }),
            ));
        }
        if turn.is_multiple_of(10) {
            self.disks.refresh(true);
            for disk in self.disks.iter() {
                let usage = disk.usage();
                samples.push(Sample::new(
                    format!("disk/{}", disk.mount_point().display()),
                    json!({
                        "device": disk.name().to_string_lossy(),
                        "total": disk.total_space(),
                        "available": disk.available_space(),
                        "read": usage.read_bytes,
                        "written": usage.written_bytes,
                    }),
                ));
            }
        }
        if turn.is_multiple_of(50) {
            let what = ProcessRefreshKind::nothing().with_cpu().with_memory().with_disk_usage();
            self.system.refresh_processes_specifics(ProcessesToUpdate::All, true, what);
            let mut processes: Vec<_> = self.system.processes().values().collect();
            processes
                .sort_by(|a, b| b.cpu_usage().total_cmp(&a.cpu_usage()).then(b.memory().cmp(&a.memory())));
            for process in processes.into_iter().take(PROCESSES) {
                let usage = process.disk_usage();
                samples.push(Sample::new(
                    format!("process/{}", process.pid()),
                    json!({
                        "name": process.name().to_string_lossy(),
                        "cpu": percent(process.cpu_usage()),
                        "memory": process.memory(),
                        "read": usage.read_bytes,
                        "written": usage.written_bytes,
                    }),
                ));
            }
        }
        samples
    }
}

/// Two digits are enough.
fn percent(usage: f32) -> f64 {
    (f64::from(usage) * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_that_nobody_has() {
        let mut numbers = Numbers::except(vec![5, 0, 1, 3]);
        assert_eq!([(); 5].map(|()| numbers.take()), [2, 4, 6, 7, 8]);
        assert_eq!(Numbers::except(Vec::new()).take(), 0);
    }

    /// A producer was killed after lines 0, 1 and 3 were stored, and starts again: 2 is not forgotten, 3 not sent again.
    #[test]
    fn a_file_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines");
        std::fs::write(&path, b"zero\none\r\ntwo\nthree\nfour\n\nsix, \xff and no newline").unwrap();
        let mut source = Source::open(Some(&path)).unwrap();
        let lines = source.tick(&mut Numbers::except(vec![0, 1, 3])).unwrap();
        let lines: Vec<(u64, &str)> =
            lines.iter().map(|(number, one)| (*number, one.value.as_str())).collect();
        assert_eq!(lines, [(2, "two"), (4, "four"), (5, ""), (6, "six, \u{fffd} and no newline")]);
        assert!(source.tick(&mut Numbers::except(vec![0, 1, 3])).unwrap().is_empty(), "once is enough");
    }

    #[test]
    fn this_machine_has_memory_and_a_processor() {
        let mut source = Source::open(None).unwrap();
        let mut numbers = Numbers::except(Vec::new());
        let samples = source.tick(&mut numbers).unwrap();
        for resource in ["memory", "cpu/0"] {
            let of = samples.iter().find(|(_, one)| one.key.as_deref() == Some(resource));
            let value: serde_json::Value = serde_json::from_str(&of.expect(resource).1.value).unwrap();
            assert!(value.is_object(), "{value}");
        }
    }
}
