//! What a successful commit hands back: proof that can be kept, and held against the log later.
//!
//! A receipt says what was stored, where, how durably, by whose leave, and carries a checksum over the record's key,
//! value and offset. Its text is one line, and reading it back checks that line against the checksum, so a receipt
//! that was altered, cut or mistyped is not taken for one.

use std::fmt::{self, Write};
use std::str::FromStr;
use std::sync::Arc;

use girok_engine::{Durability, Error, Offset, Timestamp, TopicId, TopicPartition};

use crate::records::{OffsetAndMetadata, OffsetCommitValue, Record};
use crate::state::checksum;

/// Proof of one committed offset.
///
/// ```
/// use girok_coordinator::Receipt;
/// let line = "girok-receipt/1 group=\"search\" partition=orders-3 topic_id=AQEBAQEBAQEBAQEBAQEBAQ offset=42 \
///             leader_epoch=-1 metadata=\"\" commit_timestamp=7 expire_timestamp=none version=4 place=17 \
///             durability=synced epoch=-1 log_epoch=0 checksum=d94e070f";
/// let receipt: Receipt = line.parse().unwrap();
/// assert_eq!(receipt.committed.offset.get(), 42);
/// assert_eq!(receipt.to_string(), line);
/// // One digit changed, and it is no receipt any more.
/// assert!(line.replace("offset=42", "offset=43").parse::<Receipt>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Who committed.
    pub group: Arc<str>,
    /// For which partition.
    pub partition: TopicPartition,
    /// What is stored.
    pub committed: OffsetAndMetadata,
    /// The version of the record it is stored in.
    pub version: i16,
    /// Where: an offset in `__consumer_offsets`.
    pub place: Offset,
    /// What it survives. Never more than the records it covers do.
    pub durability: Durability,
    /// The member epoch or generation that it was fenced by; −1 for a standalone consumer.
    pub epoch: i32,
    /// The leader epoch of `__consumer_offsets` under which it was stored: an epoch ends where the log was cut.
    pub log_epoch: i32,
    /// CRC-32 over the record's key, its value and `place`.
    pub checksum: u32,
}

/// What became of a commit.
///
/// ```
/// use girok_coordinator::Verdict;
/// assert!(!Verdict::Lost.is_good() && Verdict::Stored.is_good());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It is the group's offset for the partition now, byte for byte.
    Stored,
    /// A later commit took its place.
    Superseded {
        /// The one that counts now.
        committed: OffsetAndMetadata,
        /// Where that stands.
        place: Offset,
    },
    /// It was deleted later: by somebody, by the retention, or with its topic.
    Deleted {
        /// Where the deletion stands.
        place: Offset,
    },
    /// It is older than deletions are remembered, and nothing is known of its key: it was deleted, or never was.
    Unknown,
    /// It should be in the log and is not: the log was cut (by a power cut, if the receipt says `written`), damaged,
    /// or is not the log that the receipt is from.
    Lost,
}

impl Verdict {
    /// Whether the commit has had its effect: it is stored, or something that came later replaced or deleted it.
    pub fn is_good(&self) -> bool {
        matches!(self, Verdict::Stored | Verdict::Superseded { .. } | Verdict::Deleted { .. })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Stored => f.write_str("stored"),
            Verdict::Superseded { committed, place } => {
                write!(f, "superseded by offset {} at place {place}", committed.offset)
            }
            Verdict::Deleted { place } => write!(f, "deleted at place {place}"),
            Verdict::Unknown => f.write_str("unknown: older than deletions are remembered"),
            Verdict::Lost => f.write_str("lost"),
        }
    }
}

impl Receipt {
    /// The checksum that the other fields ask for.
    fn expected_checksum(&self) -> u32 {
        let record = Record::OffsetCommit {
            legacy: false,
            group: self.group.clone(),
            partition: self.partition.clone(),
            value: Some(OffsetCommitValue { version: self.version, committed: self.committed.clone() }),
        };
        let (mut key, mut value) = (Vec::new(), Vec::new());
        record.encode_key(&mut key);
        record.encode_value(&mut value);
        checksum(&key, Some(&value), self.place)
    }
}

const HEAD: &str = "girok-receipt/1";

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.committed;
        write!(f, "{HEAD} group={} partition={}", Quoted(&self.group), self.partition)?;
        write!(f, " topic_id={} offset={} leader_epoch={}", c.topic_id, c.offset, c.leader_epoch)?;
        write!(f, " metadata={} commit_timestamp={}", Quoted(&c.metadata), c.commit_timestamp)?;
        match c.expire_timestamp {
            Some(at) => write!(f, " expire_timestamp={at}")?,
            None => write!(f, " expire_timestamp=none")?,
        }
        write!(f, " version={} place={} durability={}", self.version, self.place, self.durability)?;
        write!(f, " epoch={} log_epoch={} checksum={:08x}", self.epoch, self.log_epoch, self.checksum)
    }
}

/// Text in quotes, in printable characters, on one line.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c.is_control() => write!(f, "\\u{{{:x}}}", c as u32)?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

/// Reads the fields in their order, and knows the one it is at.
struct Fields<'a> {
    rest: &'a str,
}

impl<'a> Fields<'a> {
    fn wrong(expected: impl Into<String>, found: &str) -> Error {
        let found: String = found.chars().take(80).collect();
        Error::invalid(
            "receipt",
            expected,
            format_args!("{found:?}"),
            "keep the whole line as it was printed",
        )
    }

    fn literal(&mut self, text: &str) -> Result<(), Error> {
        self.rest =
            self.rest.strip_prefix(text).ok_or_else(|| Self::wrong(format!("{text:?}"), self.rest))?;
        Ok(())
    }

    fn name(&mut self, name: &str) -> Result<(), Error> {
        self.literal(" ")?;
        self.literal(name)?;
        self.literal("=")
    }

    fn word(&mut self, name: &str) -> Result<&'a str, Error> {
        self.name(name)?;
        let end = self.rest.find(' ').unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(word)
    }

    fn parsed<T: FromStr>(&mut self, name: &str) -> Result<T, Error> {
        let word = self.word(name)?;
        word.parse().map_err(|_| Self::wrong(format!("a value for {name}"), word))
    }

    fn quoted(&mut self, name: &str) -> Result<String, Error> {
        self.name(name)?;
        self.literal("\"")?;
        let start = self.rest;
        let wrong = || Self::wrong(format!("{name} in quotes"), start);
        let mut out = String::new();
        let mut chars = self.rest.chars();
        loop {
            match chars.next().ok_or_else(wrong)? {
                '"' => break,
                '\\' => match chars.next().ok_or_else(wrong)? {
                    c @ ('"' | '\\') => out.push(c),
                    'u' => {
                        let (hex, rest) = chars
                            .as_str()
                            .strip_prefix('{')
                            .and_then(|text| text.split_once('}'))
                            .ok_or_else(wrong)?;
                        let code = u32::from_str_radix(hex, 16).map_err(|_| wrong())?;
                        out.push(char::from_u32(code).ok_or_else(wrong)?);
                        chars = rest.chars();
                    }
                    _ => return Err(wrong()),
                },
                c => out.push(c),
            }
        }
        self.rest = chars.as_str();
        Ok(out)
    }
}

impl FromStr for Receipt {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut fields = Fields { rest: text.trim_end() };
        fields.literal(HEAD)?;
        let group = fields.quoted("group")?;
        let partition: TopicPartition = fields.parsed("partition")?;
        let topic_id: TopicId = fields.parsed("topic_id")?;
        let offset = Offset::new(fields.parsed("offset")?);
        let leader_epoch = fields.parsed("leader_epoch")?;
        let metadata = fields.quoted("metadata")?;
        let commit_timestamp = Timestamp::from_millis(fields.parsed("commit_timestamp")?);
        let expire_timestamp = match fields.word("expire_timestamp")? {
            "none" => None,
            ms => {
                let ms = ms.parse().map_err(|_| Fields::wrong("milliseconds or none", ms))?;
                Some(Timestamp::from_millis(ms))
            }
        };
        let version = fields.parsed("version")?;
        let place = Offset::new(fields.parsed("place")?);
        let durability = match fields.word("durability")? {
            "written" => Durability::Written,
            "synced" => Durability::Synced,
            other => return Err(Fields::wrong("written or synced", other)),
        };
        let epoch = fields.parsed("epoch")?;
        let log_epoch = fields.parsed("log_epoch")?;
        let checksum = fields.word("checksum")?;
        let checksum =
            u32::from_str_radix(checksum, 16).map_err(|_| Fields::wrong("eight hex digits", checksum))?;
        if !fields.rest.is_empty() {
            return Err(Fields::wrong("the end of the receipt", fields.rest));
        }
        if ![1, 3, 4].contains(&version) {
            return Err(Fields::wrong("a record of version 1, 3 or 4", &version.to_string()));
        }
        // The record these would be in has no room for longer ones, so it never was.
        for (what, text) in [("group", &*group), ("topic", partition.topic()), ("metadata", &*metadata)] {
            if text.len() > i16::MAX as usize {
                return Err(Fields::wrong(format!("a {what} of at most 32767 bytes"), text));
            }
        }
        let committed = OffsetAndMetadata {
            offset,
            leader_epoch,
            metadata: metadata.into(),
            commit_timestamp,
            expire_timestamp,
            topic_id,
        };
        let group = group.into();
        let receipt =
            Receipt { group, partition, committed, version, place, durability, epoch, log_epoch, checksum };
        let expected = receipt.expected_checksum();
        if expected != checksum {
            return Err(Fields::wrong(
                format!("checksum={expected:08x} for what the receipt says"),
                &format!("checksum={checksum:08x}"),
            ));
        }
        Ok(receipt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(group: &str, metadata: &str, version: i16) -> Receipt {
        let mut receipt = Receipt {
            group: group.into(),
            partition: TopicPartition::new("orders", 3),
            committed: OffsetAndMetadata {
                offset: Offset::new(42),
                leader_epoch: if version >= 3 { 5 } else { -1 },
                metadata: metadata.into(),
                commit_timestamp: Timestamp::from_millis(7),
                expire_timestamp: (version == 1).then_some(Timestamp::from_millis(99)),
                topic_id: if version == 4 { TopicId([1; 16]) } else { TopicId::ZERO },
            },
            version,
            place: Offset::new(17),
            durability: Durability::Synced,
            epoch: -1,
            log_epoch: 0,
            checksum: 0,
        };
        receipt.checksum = receipt.expected_checksum();
        receipt
    }

    /// Names and notes may hold anything; the receipt stays one line and comes back as it was.
    #[test]
    fn a_receipt_comes_back_from_its_text() {
        for group in ["search", "", "a b=\"c\" \\", "기록\n\t\u{1b}[2J", "\u{85}}{"] {
            for metadata in ["", "note", "\" offset=9 \\u{41}", "\r\n"] {
                for version in [1, 3, 4] {
                    let receipt = receipt(group, metadata, version);
                    let text = receipt.to_string();
                    assert!(!text.contains(char::is_control), "{text:?}");
                    assert_eq!(text.parse::<Receipt>().unwrap(), receipt);
                }
            }
        }
    }

    /// Cut anywhere or with any character changed, the text of a receipt is refused or means the same.
    #[test]
    fn an_altered_receipt_is_refused() {
        let receipt = receipt("search", "note", 4);
        let text = receipt.to_string();
        for cut in 0..text.len() {
            assert!(text[..cut].parse::<Receipt>().is_err(), "cut at {cut}");
        }
        // Durability, epochs and the case of the checksum's digits are outside of the checksum.
        let covered = text.find(" durability").unwrap();
        for at in 0..covered {
            for other in [b'0', b'9', b'x', b' ', b'"'] {
                let mut bytes = text.clone().into_bytes();
                if bytes[at] != other {
                    bytes[at] = other;
                    let altered = String::from_utf8(bytes).unwrap();
                    assert!(altered.parse::<Receipt>().is_err(), "{altered}");
                }
            }
        }
    }
}
