//! How `consume` prints a record: a format string with escapes, in the manner of kcat.
//!
//! The string is taken apart once, into pieces of text and fields, and every record is put together from them.

use girok::Record;
use serde_json::{Value, json};

use crate::out::bytes_json;

/// For `--help`.
pub const HELP: &str = "\
%t topic   %p partition   %o offset   %T timestamp (ms since 1970)
%k key     %K its length in bytes (-1: null)
%v value   %V its length in bytes (-1: null)   (%s and %S are the same)
%h headers, as NAME=VALUE,NAME=VALUE   %% a percent sign
\\n \\r \\t \\0 \\\\ \\xHH (one byte)";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Topic,
    Partition,
    Offset,
    Timestamp,
    Key,
    KeyLength,
    Value,
    ValueLength,
    Headers,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    Field(Field),
}

/// A format string, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format(Vec<Piece>);

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut plain = Vec::new();
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            let field = match letter {
                '%' => match letters.next() {
                    Some('t') => Field::Topic,
                    Some('p') => Field::Partition,
                    Some('o') => Field::Offset,
                    Some('T') => Field::Timestamp,
                    Some('k') => Field::Key,
                    Some('K') => Field::KeyLength,
                    Some('v' | 's') => Field::Value,
                    Some('V' | 'S') => Field::ValueLength,
                    Some('h') => Field::Headers,
                    Some('%') => {
                        plain.push(b'%');
                        continue;
                    }
                    other => {
                        let found = other.map_or("nothing".into(), |letter| format!("%{letter}"));
                        return Err(format!("expected one of %t %p %o %T %k %K %v %V %h %%, found {found}"));
                    }
                },
                '\\' => {
                    plain.push(match letters.next() {
                        Some('n') => b'\n',
                        Some('r') => b'\r',
                        Some('t') => b'\t',
                        Some('0') => 0,
                        Some('\\') => b'\\',
                        Some('x') => {
                            let digits: String = letters.by_ref().take(2).collect();
                            let byte =
                                (digits.len() == 2).then(|| u8::from_str_radix(&digits, 16).ok()).flatten();
                            byte.ok_or_else(|| format!("expected two hexadecimal digits, found \\x{digits}"))?
                        }
                        other => {
                            let found = other.map_or("nothing".into(), |letter| format!("\\{letter}"));
                            return Err(format!(r"expected one of \n \r \t \0 \\ \xHH, found {found}"));
                        }
                    });
                    continue;
                }
                other => {
                    plain.extend(other.encode_utf8(&mut [0; 4]).as_bytes());
                    continue;
                }
            };
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(Piece::Field(field));
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Format(pieces))
    }
}

impl Format {
    /// Appends the record to `line`. Null prints nothing.
    pub fn append(&self, record: &Record<'_>, line: &mut Vec<u8>) {
        let length = |bytes: Option<&[u8]>| bytes.map_or(-1, |bytes| bytes.len() as i64);
        for piece in &self.0 {
            let number: i64 = match piece {
                Piece::Text(text) => {
                    line.extend_from_slice(text);
                    continue;
                }
                Piece::Field(field) => match field {
                    Field::Partition => record.partition().into(),
                    Field::Offset => record.offset().get(),
                    Field::Timestamp => record.timestamp().as_millis(),
                    Field::KeyLength => length(record.key()),
                    Field::ValueLength => length(record.value()),
                    Field::Topic => {
                        line.extend_from_slice(record.topic().as_bytes());
                        continue;
                    }
                    Field::Key => {
                        line.extend_from_slice(record.key().unwrap_or_default());
                        continue;
                    }
                    Field::Value => {
                        line.extend_from_slice(record.value().unwrap_or_default());
                        continue;
                    }
                    Field::Headers => {
                        for (number, header) in record.headers().enumerate() {
                            if number > 0 {
                                line.push(b',');
                            }
                            line.extend_from_slice(header.key_bytes());
                            line.push(b'=');
                            line.extend_from_slice(header.value().unwrap_or_default());
                        }
                        continue;
                    }
                },
            };
            line.extend_from_slice(number.to_string().as_bytes());
        }
    }
}

/// The record as a JSON object.
pub fn record_json(record: &Record<'_>) -> Value {
    let headers: Vec<Value> = record
        .headers()
        .map(|header| json!({ "key": header.key(), "value": bytes_json(header.value()) }))
        .collect();
    json!({
        "topic": record.topic(),
        "partition": record.partition(),
        "offset": record.offset().get(),
        "timestamp": record.timestamp().as_millis(),
        "key": bytes_json(record.key()),
        "value": bytes_json(record.value()),
        "headers": headers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use girok::{Girok, ProducerRecord, TopicConfig, TopicPartition};
    use std::time::Duration;

    #[test]
    fn a_record_is_put_together_as_the_string_says() {
        let girok = Girok::in_memory().unwrap();
        girok.admin().create_topic("orders", 1, TopicConfig::default()).unwrap();
        let producer = girok.producer().build().unwrap();
        let time = girok::Timestamp::from_millis(7);
        let record =
            ProducerRecord::new("orders", "tea").key("k").timestamp(time).header("a", "1").null_header("b");
        producer.send(record).unwrap().wait().unwrap();
        producer.send(ProducerRecord::tombstone("orders", "k").timestamp(time)).unwrap().wait().unwrap();
        let mut consumer = girok.consumer().build().unwrap();
        consumer.assign(&[TopicPartition::new("orders", 0)]).unwrap();

        let format: Format = r"%t[%p]@%o %T %k(%K)=%v(%V) {%h} 100%%\t\x41é\n".parse().unwrap();
        let mut line = Vec::new();
        let mut seen = 0;
        while seen < 2 {
            let records = consumer.poll(Duration::from_secs(5)).unwrap();
            seen += records.len();
            records.iter().for_each(|record| format.append(&record, &mut line));
        }
        assert_eq!(
            String::from_utf8(line).unwrap(),
            "orders[0]@0 7 k(1)=tea(3) {a=1,b=} 100%\tAé\norders[0]@1 7 k(1)=(-1) {} 100%\tAé\n"
        );
    }

    #[test]
    fn what_means_nothing_is_named() {
        for bad in ["%x", "%", r"\q", r"\", r"\x4", r"\xzz"] {
            assert!(bad.parse::<Format>().unwrap_err().contains("expected"), "{bad}");
        }
    }
}
