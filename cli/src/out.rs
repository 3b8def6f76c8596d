//! Where a command prints to: stdout, buffered, as text in columns or as JSON lines.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use serde_json::Value;

use crate::fail::{Fail, Result};

/// stdout, in the way that was asked for.
pub struct Out {
    pub json: bool,
    stdout: BufWriter<Stdout>,
    is_terminal: bool,
}

/// A closed pipe is no failure: `girok dump … | head` has what it wants.
fn sort(done: io::Result<()>) -> Result<()> {
    done.map_err(|e| match e.kind() {
        io::ErrorKind::BrokenPipe => Fail::NobodyReads,
        _ => Fail::Io { doing: "writing to stdout".into(), source: e },
    })
}

impl Out {
    pub fn new(json: bool) -> Self {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        Out { json, stdout: BufWriter::with_capacity(64 << 10, stdout), is_terminal }
    }

    /// Bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        sort(self.stdout.write_all(bytes))
    }

    /// A line of text.
    pub fn line(&mut self, line: impl AsRef<str>) -> Result<()> {
        self.bytes(line.as_ref().as_bytes())?;
        self.bytes(b"\n")
    }

    /// A line of JSON.
    pub fn object(&mut self, object: &Value) -> Result<()> {
        self.line(object.to_string())
    }

    /// What was printed so far is seen now if somebody is looking; for commands that go on and on.
    pub fn look(&mut self) -> Result<()> {
        if self.is_terminal { self.flush() } else { Ok(()) }
    }

    pub fn flush(&mut self) -> Result<()> {
        sort(self.stdout.flush())
    }

    /// Rows in columns, numbers to the right. Prints nothing if there are no rows.
    pub fn table(&mut self, head: &[&str], rows: &[Vec<String>]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut widths: Vec<usize> = head.iter().map(|text| text.chars().count()).collect();
        for row in rows {
            for (width, text) in widths.iter_mut().zip(row) {
                *width = (*width).max(text.chars().count());
            }
        }
        let is_number: Vec<bool> = (0..head.len())
            .map(|column| {
                rows.iter().all(|row| {
                    let text = &row[column];
                    text == "-" || text.chars().all(|c| c.is_ascii_digit() || "-+,.%".contains(c))
                })
            })
            .collect();
        let head: Vec<String> = head.iter().map(|text| text.to_uppercase()).collect();
        for row in std::iter::once(&head).chain(rows) {
            let mut line = String::new();
            for (column, text) in row.iter().enumerate() {
                let pad = " ".repeat(widths[column] - text.chars().count());
                if is_number[column] {
                    line.extend([&pad, text.as_str()]);
                } else {
                    line.extend([text.as_str(), &pad]);
                }
                line.push_str("  ");
            }
            self.line(line.trim_end())?;
        }
        Ok(())
    }
}

/// 1234567 as 1,234,567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes as JSON: a string where they are text, else `{"hex": …}`, so that nothing is lost.
pub fn bytes_json(bytes: Option<&[u8]>) -> Value {
    match bytes {
        None => Value::Null,
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(_) => {
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                serde_json::json!({ "hex": hex })
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_in_thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_hex() {
        assert_eq!(bytes_json(Some(b"tea")).to_string(), r#""tea""#);
        assert_eq!(bytes_json(Some(&[0xff, 1])).to_string(), r#"{"hex":"ff01"}"#);
        assert_eq!(bytes_json(None), Value::Null);
    }
}
