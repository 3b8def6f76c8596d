//! `girok produce`: each line becomes a record.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use girok::{Codec, Durability, ProducerRecord};
use serde_json::json;

use crate::Global;
use crate::fail::{Fail, Result};
use crate::out::{Out, grouped};
use crate::progress::{Progress, Unit};

/// A line that is longer is no record of anybody's.
const LINE_BYTES_MAX: u64 = 1 << 30;

#[derive(Args)]
pub struct Produce {
    /// Where to; it must exist
    topic: String,
    /// Read lines from here instead of stdin
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// What stands between key and value; a line without it has no key
    #[arg(long, short, value_name = "TEXT")]
    key_separator: Option<String>,
    /// At most so many records a second
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// What to wait for: that records survive the machine, or the process, or nothing
    #[arg(long, value_enum, default_value_t = Acks::Synced)]
    acks: Acks,
    /// none, gzip, snappy, lz4 or zstd
    #[arg(long, short = 'z', default_value_t = Codec::None, value_name = "CODEC")]
    compression: Codec,
    /// The partition for all, whatever their keys
    #[arg(long, short, value_name = "N")]
    partition: Option<i32>,
    /// A header for all; may be repeated
    #[arg(long = "header", short = 'H', value_name = "NAME=VALUE")]
    headers: Vec<String>,
    /// An empty value is null: in a compacted topic, the end of its key
    #[arg(long)]
    empty_as_null: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Acks {
    Synced,
    Written,
    None,
}

impl Produce {
    pub fn run(&self, global: &Global, out: &mut Out) -> Result<()> {
        if let Some(rate) = self.rate
            && !(rate.is_finite() && rate > 0.0)
        {
            return Err(Fail::usage(format!("--rate: expected records a second above 0, found {rate}")));
        }
        if self.key_separator.as_deref() == Some("") {
            return Err(Fail::usage(
                "--key-separator: expected text, found nothing; leave it out for no keys",
            ));
        }
        let mut headers = Vec::new();
        for header in &self.headers {
            let pair = header.split_once('=');
            headers.push(
                pair.ok_or_else(|| Fail::usage(format!("--header: expected NAME=VALUE, found {header:?}")))?,
            );
        }
        // The input first: a mistyped file should not cost a recovery.
        let (input, length): (Box<dyn Read>, u64) = match &self.file {
            None => (Box::new(io::stdin().lock()), 0),
            Some(path) => {
                let file = File::open(path).map_err(Fail::io(format!("opening {}", path.display())))?;
                let length = file.metadata().map_or(0, |meta| meta.len());
                (Box::new(file), length)
            }
        };
        let named = self.file.as_ref().map_or("stdin".into(), |path| path.display().to_string());
        let mut input = BufReader::with_capacity(256 << 10, input);

        let girok = global.open(false)?;
        // A topic that is missing is an error also when there is nothing to send.
        girok.admin().describe_topics(&[&self.topic])?;
        let durability = if self.acks == Acks::Synced { Durability::Synced } else { Durability::Written };
        let producer = girok.producer().compression(self.compression).durability(durability).build()?;
        let progress = Progress::new("producing", Unit::Bytes, length);
        let begun = Instant::now();
        let (mut records, mut bytes, mut line) = (0u64, 0u64, Vec::new());
        loop {
            line.clear();
            let got = input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
            let got = got.map_err(Fail::io(format!("reading {named}")))?;
            if got == 0 {
                break;
            }
            bytes += got as u64;
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            let (key, value) = split(&line, self.key_separator.as_deref());
            let mut record = match (value.is_empty() && self.empty_as_null, key) {
                (true, Some(key)) => ProducerRecord::tombstone(&self.topic, key),
                (true, None) => {
                    return Err(Fail::Found(format!(
                        "{named}, line {}: an empty value is null here and needs a key; {records} records were sent",
                        records + 1
                    )));
                }
                (false, _) => ProducerRecord::new(&self.topic, value),
            };
            if let Some(key) = key {
                record = record.key(key);
            }
            if let Some(partition) = self.partition {
                record = record.partition(partition);
            }
            for (name, value) in &headers {
                record = record.header(name, *value);
            }
            if let Some(rate) = self.rate {
                // When this record is due, counted from the beginning, so that a late one does not delay the others.
                let due = begun + Duration::from_secs_f64(records as f64 / rate);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            // Failures of single deliveries are told by flush.
            drop(producer.send(record)?);
            records += 1;
            progress.at(bytes);
        }
        match self.acks {
            Acks::Synced | Acks::Written => producer.flush()?,
            Acks::None => {}
        }
        let seconds = begun.elapsed().as_secs_f64();
        drop((progress, producer));
        girok.close()?;
        if out.json {
            return out.object(
                &json!({ "topic": self.topic, "records": records, "bytes": bytes, "seconds": seconds }),
            );
        }
        let rate = records as f64 / seconds.max(1e-9);
        eprintln!(
            "{} records to {} in {seconds:.2} s ({} a second)",
            grouped(records),
            self.topic,
            grouped(rate as u64)
        );
        Ok(())
    }
}

/// Key and value of a line.
fn split<'l>(line: &'l [u8], separator: Option<&str>) -> (Option<&'l [u8]>, &'l [u8]) {
    let Some(separator) = separator.map(str::as_bytes) else { return (None, line) };
    match line.windows(separator.len()).position(|window| window == separator) {
        None => (None, line),
        Some(at) => (Some(&line[..at]), &line[at + separator.len()..]),
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn a_line_is_cut_at_the_first_separator() {
        assert_eq!(split(b"a:b:c", Some(":")), (Some(&b"a"[..]), &b"b:c"[..]));
        assert_eq!(split(b"a::b", Some("::")), (Some(&b"a"[..]), &b"b"[..]));
        assert_eq!(split(b"ab", Some("::")), (None, &b"ab"[..]));
        assert_eq!(split(b"a:b", None), (None, &b"a:b"[..]));
        assert_eq!(split(b"", Some(":")), (None, &b""[..]));
        assert_eq!(split(b":", Some(":")), (Some(&b""[..]), &b""[..]));
    }
}
