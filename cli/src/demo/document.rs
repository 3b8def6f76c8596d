//! A record as it stands in a sink's file: one line of JSON, written by the readers and read again by the audit.
//!
//! The line says where the record was in the log, which number the producer gave it, and holds the value as it was, so
//! that the audit can tell that what arrived is what was produced.

use girok::{Record, murmur2};
use serde_json::Value;

use crate::spec::parse_time;

/// The header in which the producer numbers its records.
pub const SEQUENCE: &str = "seq";

/// A record on its way into a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    pub partition: i32,
    pub offset: i64,
    /// In ms since 1970.
    pub timestamp: i64,
    /// The line, with its newline.
    pub line: Vec<u8>,
}

/// What the audit takes from a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub partition: i32,
    pub offset: i64,
    /// In ms since 1970.
    pub timestamp: i64,
    pub sequence: u64,
    pub digest: u32,
}

/// Stands for key and value where both would be too long to keep.
pub fn digest(key: &[u8], value: &[u8]) -> u32 {
    (murmur2(value) as u32) ^ (murmur2(key) as u32).rotate_left(1)
}

/// The number the producer gave to a record of the demo.
pub fn sequence(record: &Record<'_>) -> Option<u64> {
    std::str::from_utf8(record.header(SEQUENCE)??).ok()?.parse().ok()
}

impl Document {
    /// `None` if the producer of the demo did not make this record.
    pub fn new(record: &Record<'_>) -> Option<Self> {
        let value = std::str::from_utf8(record.value()?).ok()?;
        let key = record.key().map(std::str::from_utf8).transpose().ok()?;
        let (partition, offset) = (record.partition(), record.offset().get());
        Some(Document::of(partition, offset, record.timestamp().as_millis(), sequence(record)?, key, value))
    }

    /// ```text
    /// {"@timestamp":"2026-11-23T06:15:00.125Z","partition":3,"offset":1042,"seq":20817,"resource":"cpu/1","value":{…}}
    /// ```
    pub fn of(
        partition: i32,
        offset: i64,
        timestamp: i64,
        sequence: u64,
        key: Option<&str>,
        value: &str,
    ) -> Self {
        let resource = key.map(Value::from).unwrap_or_default();
        let value = if is_object(value) { value.to_owned() } else { Value::from(value).to_string() };
        let line = format!(
            "{{\"@timestamp\":\"{}\",\"partition\":{partition},\"offset\":{offset},\"seq\":{sequence},\
             \"resource\":{resource},\"value\":{value}}}\n",
            iso(timestamp)
        );
        Document { partition, offset, timestamp, line: line.into_bytes() }
    }
}

/// Whether it can stand in a line as it is; anything else becomes a string there. Parsed one level deep, as in the line,
/// for the parser's depth is bounded.
fn is_object(value: &str) -> bool {
    let parsed = || serde_json::from_str::<Vec<Value>>(&format!("[{value}]"));
    value.starts_with('{') && !value.contains('\n') && parsed().is_ok_and(|all| all.len() == 1)
}

impl Seen {
    /// `None` if the line is not whole, or is something else.
    pub fn parse(line: &[u8]) -> Option<Self> {
        const VALUE: &str = ",\"value\":";
        let line = std::str::from_utf8(line).ok()?;
        let fields: Value = serde_json::from_str(line).ok()?;
        // Quotes inside of strings are escaped, so the first match is the field; and it is the last one.
        let value = line[line.find(VALUE)? + VALUE.len()..].trim_end().strip_suffix('}')?;
        let value = match &fields["value"] {
            Value::String(text) => text.as_str(),
            _ => value,
        };
        let key = fields["resource"].as_str().unwrap_or_default();
        Some(Seen {
            partition: fields["partition"].as_i64()?.try_into().ok()?,
            offset: fields["offset"].as_i64()?,
            timestamp: parse_time(fields["@timestamp"].as_str()?).ok()?.as_millis(),
            sequence: fields["seq"].as_u64()?,
            digest: digest(key.as_bytes(), value.as_bytes()),
        })
    }
}

/// Milliseconds since 1970 as RFC 3339, in UTC.
pub fn iso(ms: i64) -> String {
    let (days, ms) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    // A year that begins in March ends with the leap day (Hinnant, "chrono-compatible low-level date algorithms").
    let z = days + 719_468;
    let (era, day_of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{:03}Z", ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use girok::{Girok, ProducerRecord, Timestamp, TopicConfig, TopicPartition};
    use std::time::Duration;

    #[test]
    fn times_are_written_as_they_are_read() {
        assert_eq!(iso(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso(951_782_400_123), "2000-02-29T00:00:00.123Z");
        for ms in (0..4_000_000_000_000).step_by(86_399_999_917) {
            assert_eq!(parse_time(&iso(ms)).unwrap().as_millis(), ms);
        }
    }

    /// What the audit reads from a sink is what the producer journalled, whatever the value looks like.
    #[test]
    fn a_line_gives_back_the_value_byte_for_byte() {
        let values = [
            r#"{"usage":12.50,"value":{"b":1,"a":2}}"#,
            r#"{ "spaces" : 1 }"#,
            r#"not JSON, ,"value":"x"} \ "quoted""#,
            "{ broken",
            "[1,2]",
            r#"{},"offset":7"#,
            r#"{} "#,
            "12",
            "\"a string already\"",
            "",
            "tab\tand 기록",
        ];
        let girok = Girok::in_memory().unwrap();
        girok.admin().create_topic("resources", 1, TopicConfig::default()).unwrap();
        let producer = girok.producer().build().unwrap();
        for (number, value) in values.iter().enumerate() {
            let number = number.to_string();
            let record =
                ProducerRecord::new("resources", *value).key(",\"value\":").header(SEQUENCE, &number);
            drop(producer.send(record.timestamp(Timestamp::from_millis(7))).unwrap());
        }
        producer.flush().unwrap();
        let mut consumer = girok.consumer().build().unwrap();
        consumer.assign(&[TopicPartition::new("resources", 0)]).unwrap();
        let mut seen = 0;
        while seen < values.len() {
            for record in &consumer.poll(Duration::from_secs(5)).unwrap() {
                let document = Document::new(&record).unwrap();
                assert_eq!(document.line.iter().filter(|byte| **byte == b'\n').count(), 1);
                let expected = Seen {
                    partition: 0,
                    offset: seen as i64,
                    timestamp: 7,
                    sequence: seen as u64,
                    digest: digest(b",\"value\":", values[seen].as_bytes()),
                };
                assert_eq!(Seen::parse(&document.line), Some(expected), "{}", values[seen]);
                assert_eq!(
                    Seen::parse(&document.line[..document.line.len() - 3]),
                    None,
                    "a torn line is no line"
                );
                seen += 1;
            }
        }
    }
}
