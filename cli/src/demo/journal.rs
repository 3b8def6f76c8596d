//! The producer's ack journal: one line for each record that it knows to be stored, `partition offset seq digest`.
//!
//! A line is written only after the log acknowledged the record, so whatever is in here must reach both readers. The
//! other way round does not hold: a SIGKILL may fall between the ack and its line. So the next producer first looks what
//! the log has behind the last line, and adds it, marked `found`. Lines rest in the kernel when they are written; the
//! demo kills a process, not the machine, and needs no sync for that.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use crate::fail::{Fail, Result};

/// A record that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub partition: i32,
    pub offset: i64,
    /// The producer's own number of it, unlike that of any other.
    pub sequence: u64,
    /// Of key and value.
    pub digest: u32,
    /// It was not acknowledged, but found in the log after a crash.
    pub found: bool,
}

impl Entry {
    fn parse(line: &str) -> Option<Entry> {
        let mut words = line.split(' ');
        let entry = Entry {
            partition: words.next()?.parse().ok()?,
            offset: words.next()?.parse().ok()?,
            sequence: words.next()?.parse().ok()?,
            digest: u32::from_str_radix(words.next()?, 16).ok()?,
            found: match words.next() {
                None => false,
                Some("found") => true,
                Some(_) => return None,
            },
        };
        words.next().is_none().then_some(entry)
    }
}

/// The journal of the producer that is running.
pub struct Journal {
    path: PathBuf,
    file: File,
    lines: String,
}

impl Journal {
    /// Opens it, or begins it. A line that a kill cut short is taken away: its record is found again in the log.
    pub fn open(path: &Path) -> Result<(Journal, Vec<Entry>)> {
        let doing = || Fail::io(format!("opening the ack journal {}", path.display()));
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(path).map_err(doing())?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(doing())?;
        let (entries, whole) = parse(path, &text)?;
        file.set_len(whole as u64).map_err(doing())?;
        file.seek(SeekFrom::End(0)).map_err(doing())?;
        Ok((Journal { path: path.into(), file, lines: String::new() }, entries))
    }

    /// Adds entries.
    pub fn append(&mut self, entries: &[Entry]) -> Result<()> {
        self.lines.clear();
        for entry in entries {
            let Entry { partition, offset, sequence, digest, found } = entry;
            let found = if *found { " found" } else { "" };
            writeln!(self.lines, "{partition} {offset} {sequence} {digest:08x}{found}")
                .expect("a String takes all");
        }
        let doing = || format!("writing the ack journal {}", self.path.display());
        self.file.write_all(self.lines.as_bytes()).map_err(|e| Fail::io(doing())(e))
    }
}

/// What a journal says.
pub fn read(path: &Path) -> Result<Vec<Entry>> {
    let text =
        std::fs::read(path).map_err(Fail::io(format!("reading the ack journal {}", path.display())))?;
    Ok(parse(path, &text)?.0)
}

/// The entries, and how many bytes of whole lines there are.
fn parse(path: &Path, text: &[u8]) -> Result<(Vec<Entry>, usize)> {
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let mut entries = Vec::new();
    for (number, line) in text[..whole].split_inclusive(|byte| *byte == b'\n').enumerate() {
        let line = std::str::from_utf8(&line[..line.len() - 1]).unwrap_or("bytes that are no text");
        entries.push(Entry::parse(line).ok_or_else(|| {
            Fail::Found(format!(
                "the ack journal {}, line {}: expected \"partition offset seq digest\", found {line:?}; the demo cannot \
                 tell what was produced",
                path.display(),
                number + 1
            ))
        })?);
    }
    Ok((entries, whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(offset: i64, found: bool) -> Entry {
        Entry { partition: 3, offset, sequence: offset as u64 + 100, digest: 0x0f31_c2aa, found }
    }

    /// A producer is killed while it writes a line; the next one goes on behind the last whole one.
    #[test]
    fn a_torn_line_is_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acks");
        let (mut journal, entries) = Journal::open(&path).unwrap();
        assert_eq!(entries, []);
        journal.append(&[entry(0, false), entry(1, false)]).unwrap();
        drop(journal);
        let whole = std::fs::read(&path).unwrap();

        for torn in [&b"3"[..], b"3 2 102 0f31", b"3 2 102 0f31c2aa"] {
            std::fs::write(&path, [&whole[..], torn].concat()).unwrap();
            assert_eq!(read(&path).unwrap(), [entry(0, false), entry(1, false)]);
            let (mut journal, entries) = Journal::open(&path).unwrap();
            assert_eq!(entries, [entry(0, false), entry(1, false)]);
            journal.append(&[entry(2, true)]).unwrap();
            assert_eq!(read(&path).unwrap(), [entry(0, false), entry(1, false), entry(2, true)]);
        }
    }

    #[test]
    fn a_line_that_means_nothing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acks");
        for bad in ["3 2 102", "3 2 102 zz", "3 2 102 0f lost", "3 2 102 0f found twice", ""] {
            std::fs::write(&path, format!("3 1 101 0f31c2aa\n{bad}\n3 4 104 0f31c2aa\n")).unwrap();
            let said = read(&path).unwrap_err().to_string();
            assert!(said.contains("line 2") && said.contains("acks"), "{bad:?}: {said}");
        }
    }
}
