//! Kafka's field encodings, read with suspicion and written exactly.
//!
//! Keys and old values use the plain form (a length of two or four bytes, −1 for null), newer values the *flexible*
//! one (an unsigned varint of length + 1, 0 for null, and tagged fields at the end of every struct). A [`Reader`]
//! checks every length and count against the bytes that remain before anything is allocated for it.

use std::fmt;

use girok_engine::TopicId;

/// What is wrong in a record's bytes, and where. The caller knows which record it is and adds that.
///
/// ```
/// use girok_coordinator::records::{Part, Record};
/// let flaw = Record::decode(&[0, 1, 0, 9, b'g'], None).unwrap_err();
/// assert_eq!((flaw.part, flaw.at), (Part::Key, 4));
/// assert_eq!(flaw.to_string(), "key, byte 4: expected a group of 9 bytes, found 1 left");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// In the key or in the value.
    pub part: Part,
    /// The byte in that part, from 0.
    pub at: usize,
    /// What would have been right.
    pub expected: String,
    /// What is there.
    pub found: String,
}

/// One of the two halves of a record.
///
/// ```
/// use girok_coordinator::records::{Part, Record};
/// // A sound key, and a value that ends within its version.
/// let flaw = Record::decode(&[0, 2, 0, 1, b'g'], Some(&[0])).unwrap_err();
/// assert_eq!(flaw.part, Part::Value);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Which thing the record is about.
    Key,
    /// What it says about it.
    Value,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = match self.part {
            Part::Key => "key",
            Part::Value => "value",
        };
        write!(f, "{part}, byte {}: expected {}, found {}", self.at, self.expected, self.found)
    }
}

impl std::error::Error for Flaw {}

pub(crate) type Read<T> = Result<T, Flaw>;

/// A cursor over one part of a record.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    part: Part,
    flexible: bool,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(part: Part, bytes: &'a [u8]) -> Self {
        Reader { bytes, at: 0, part, flexible: false }
    }

    /// From here on lengths are varints and structs end with tagged fields.
    pub(crate) fn set_flexible(&mut self, flexible: bool) {
        self.flexible = flexible;
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    #[cold]
    pub(crate) fn flaw(&self, at: usize, expected: impl Into<String>, found: impl fmt::Display) -> Flaw {
        Flaw { part: self.part, at, expected: expected.into(), found: found.to_string() }
    }

    fn take(&mut self, len: usize, what: &str) -> Read<&'a [u8]> {
        if len > self.remaining() {
            return Err(self.flaw(
                self.at,
                format!("{what} of {len} bytes"),
                format!("{} left", self.remaining()),
            ));
        }
        let taken = &self.bytes[self.at..self.at + len];
        self.at += len;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self, what: &str) -> Read<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, what)?);
        Ok(out)
    }

    pub(crate) fn i8(&mut self, what: &str) -> Read<i8> {
        Ok(i8::from_be_bytes(self.fixed(what)?))
    }

    pub(crate) fn i16(&mut self, what: &str) -> Read<i16> {
        Ok(i16::from_be_bytes(self.fixed(what)?))
    }

    pub(crate) fn i32(&mut self, what: &str) -> Read<i32> {
        Ok(i32::from_be_bytes(self.fixed(what)?))
    }

    pub(crate) fn i64(&mut self, what: &str) -> Read<i64> {
        Ok(i64::from_be_bytes(self.fixed(what)?))
    }

    pub(crate) fn uuid(&mut self, what: &str) -> Read<TopicId> {
        Ok(TopicId(self.fixed(what)?))
    }

    /// An unsigned varint of at most 32 bits: seven bits a byte, the lowest first.
    fn uvarint(&mut self, what: &str) -> Read<u32> {
        let start = self.at;
        let mut value = 0u32;
        for shift in (0..35).step_by(7) {
            let [byte] = self.fixed::<1>(what)?;
            let bits = u32::from(byte & 0x7f);
            if shift == 28 && bits > 0x0f {
                return Err(self.flaw(start, format!("{what} as a varint of 32 bits"), "a longer one"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.flaw(start, format!("{what} as a varint of at most 5 bytes"), "a longer one"))
    }

    /// The length of what follows; `None` is null. `wide` lengths have four bytes in the plain form.
    fn length(&mut self, wide: bool, what: &str) -> Read<Option<usize>> {
        if self.flexible {
            return Ok((self.uvarint(what)? as usize).checked_sub(1));
        }
        let start = self.at;
        let len = if wide { self.i32(what)? } else { i32::from(self.i16(what)?) };
        match len {
            -1 => Ok(None),
            0.. => Ok(Some(len as usize)),
            _ => Err(self.flaw(start, format!("a length of {what} from -1"), len)),
        }
    }

    pub(crate) fn nullable_string(&mut self, what: &str) -> Read<Option<&'a str>> {
        let Some(len) = self.length(false, what)? else { return Ok(None) };
        let start = self.at;
        let bytes = self.take(len, what)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(e) => Err(self.flaw(start + e.valid_up_to(), format!("{what} in UTF-8"), "other bytes")),
        }
    }

    pub(crate) fn string(&mut self, what: &str) -> Read<&'a str> {
        let start = self.at;
        self.nullable_string(what)?.ok_or_else(|| self.flaw(start, what, "null"))
    }

    pub(crate) fn nullable_bytes(&mut self, what: &str) -> Read<Option<&'a [u8]>> {
        let Some(len) = self.length(true, what)? else { return Ok(None) };
        self.take(len, what).map(Some)
    }

    pub(crate) fn bytes(&mut self, what: &str) -> Read<&'a [u8]> {
        let start = self.at;
        self.nullable_bytes(what)?.ok_or_else(|| self.flaw(start, what, "null"))
    }

    /// How many elements follow, each of at least `element_bytes_min`: the count is believed only as far as the
    /// bytes that remain could hold that many.
    pub(crate) fn nullable_count(&mut self, element_bytes_min: usize, what: &str) -> Read<Option<usize>> {
        let start = self.at;
        let Some(count) = self.length(true, what)? else { return Ok(None) };
        if count > self.remaining() / element_bytes_min {
            return Err(self.flaw(
                start,
                format!("a count of {what} that fits into {} bytes", self.remaining()),
                count,
            ));
        }
        Ok(Some(count))
    }

    pub(crate) fn array<T>(
        &mut self,
        element_bytes_min: usize,
        what: &str,
        mut element: impl FnMut(&mut Self) -> Read<T>,
    ) -> Read<Vec<T>> {
        let start = self.at;
        let count = self
            .nullable_count(element_bytes_min, what)?
            .ok_or_else(|| self.flaw(start, format!("an array of {what}"), "null"))?;
        let mut out = Vec::with_capacity(count);
        for _ in 0..count {
            out.push(element(self)?);
        }
        Ok(out)
    }

    /// The tagged fields that end a flexible struct. `known` reads a tag it knows from a reader of that field's
    /// bytes and returns true; fields from the future are skipped.
    pub(crate) fn tags(&mut self, mut known: impl FnMut(u32, &mut Reader<'a>) -> Read<bool>) -> Read<()> {
        if !self.flexible {
            return Ok(());
        }
        let start = self.at;
        let count = self.uvarint("the number of tagged fields")? as usize;
        if count > self.remaining() / 2 {
            let expected = format!("a number of tagged fields that fits into {} bytes", self.remaining());
            return Err(self.flaw(start, expected, count));
        }
        for _ in 0..count {
            let tag = self.uvarint("a field's tag")?;
            let size = self.uvarint("a tagged field's size")? as usize;
            let end = self.at.checked_add(size).filter(|&end| end <= self.bytes.len()).ok_or_else(|| {
                self.flaw(
                    self.at,
                    format!("tagged field {tag} of {size} bytes"),
                    format!("{} left", self.remaining()),
                )
            })?;
            let mut field =
                Reader { bytes: &self.bytes[..end], at: self.at, part: self.part, flexible: true };
            if known(tag, &mut field)? && field.at != end {
                return Err(self.flaw(
                    field.at,
                    format!("the end of tagged field {tag}"),
                    format!("{} bytes more", end - field.at),
                ));
            }
            self.at = end;
        }
        Ok(())
    }

    /// The one-byte varint before a tagged struct that may be null.
    pub(crate) fn tagged_struct_is_present(&mut self, what: &str) -> Read<bool> {
        Ok(self.uvarint(what)? != 0)
    }

    /// Nothing may follow the last field.
    pub(crate) fn end(&self) -> Read<()> {
        match self.remaining() {
            0 => Ok(()),
            left => Err(self.flaw(self.at, "the end of the record", format!("{left} bytes more"))),
        }
    }
}

/// Appends fields to a buffer that its owner reuses.
pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    flexible: bool,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>, flexible: bool) -> Self {
        Writer { out, flexible }
    }

    pub(crate) fn i8(&mut self, value: i8) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn i16(&mut self, value: i16) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn i32(&mut self, value: i32) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn uuid(&mut self, id: TopicId) {
        self.out.extend_from_slice(&id.0);
    }

    pub(crate) fn uvarint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    fn length(&mut self, len: Option<usize>, wide: bool) {
        match (self.flexible, len) {
            (true, Some(len)) => self.uvarint(u32::try_from(len + 1).expect("records are far below 4 GiB")),
            (true, None) => self.uvarint(0),
            (false, _) if wide => self.i32(len.map_or(-1, |n| i32::try_from(n).expect("below 2 GiB"))),
            // Whoever lets a string in from outside bounds it (`Reject::InvalidGroupId`, `metadata_chars_max`).
            (false, _) => self.i16(len.map_or(-1, |n| i16::try_from(n).expect("strings were bounded"))),
        }
    }

    pub(crate) fn nullable_string(&mut self, text: Option<&str>) {
        self.length(text.map(str::len), false);
        self.out.extend_from_slice(text.unwrap_or_default().as_bytes());
    }

    pub(crate) fn string(&mut self, text: &str) {
        self.nullable_string(Some(text));
    }

    pub(crate) fn nullable_bytes(&mut self, bytes: Option<&[u8]>) {
        self.length(bytes.map(<[u8]>::len), true);
        self.out.extend_from_slice(bytes.unwrap_or_default());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.nullable_bytes(Some(bytes));
    }

    pub(crate) fn array<T>(&mut self, elements: &[T], mut element: impl FnMut(&mut Self, &T)) {
        self.length(Some(elements.len()), true);
        for e in elements {
            element(self, e);
        }
    }

    /// Ends a flexible struct that has no tagged fields.
    pub(crate) fn no_tags(&mut self) {
        if self.flexible {
            self.uvarint(0);
        }
    }

    /// Ends a flexible struct that has at most one tagged field, of tag 0.
    pub(crate) fn tag_0(&mut self, field: Option<impl FnOnce(&mut Writer<'_>)>) {
        debug_assert!(self.flexible, "only flexible structs have tagged fields");
        let Some(field) = field else { return self.uvarint(0) };
        self.uvarint(1);
        self.uvarint(0);
        let mut bytes = Vec::new();
        field(&mut Writer { out: &mut bytes, flexible: true });
        self.uvarint(u32::try_from(bytes.len()).expect("below 4 GiB"));
        self.out.extend_from_slice(&bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths and counts come from outside: none of them may cost memory before the bytes are there.
    #[test]
    fn a_count_is_believed_only_as_far_as_bytes_remain() {
        let mut reader = Reader::new(Part::Value, &[0x7f, 0xff, 0xff, 0xff, 1, 2, 3]);
        let flaw = reader.array(4, "partitions", |r| r.i32("partition")).unwrap_err();
        assert_eq!(
            flaw.to_string(),
            "value, byte 0: expected a count of partitions that fits into 3 bytes, found 2147483647"
        );

        let mut reader = Reader::new(Part::Value, &[0xff, 0xff, 0xff, 0xff, 0x0f]);
        reader.set_flexible(true);
        let flaw = reader.array(1, "topics", |r| r.i8("topic")).unwrap_err();
        assert_eq!(flaw.found, "4294967294");
    }

    #[test]
    fn a_varint_has_at_most_32_bits() {
        for (bytes, wanted) in [
            (&[0x00][..], Some(0)),
            (&[0xac, 0x02], Some(300)),
            (&[0xff, 0xff, 0xff, 0xff, 0x0f], Some(u32::MAX)),
            (&[0xff, 0xff, 0xff, 0xff, 0x1f], None),
            (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00], None),
            (&[0x80], None),
        ] {
            assert_eq!(Reader::new(Part::Value, bytes).uvarint("n").ok(), wanted, "{bytes:?}");
        }
        for value in [0, 1, 127, 128, 16_383, 16_384, u32::MAX] {
            let mut out = Vec::new();
            Writer::new(&mut out, true).uvarint(value);
            assert_eq!(Reader::new(Part::Value, &out).uvarint("n"), Ok(value));
        }
    }

    /// A field from the future is skipped; one that claims more bytes than there are is a flaw.
    #[test]
    fn unknown_tags_are_skipped_within_bounds() {
        let mut reader = Reader::new(Part::Value, &[2, 9, 3, 1, 2, 3, 10, 0, 0x42]);
        reader.set_flexible(true);
        reader.tags(|_, _| Ok(false)).unwrap();
        assert_eq!(reader.i8("what follows"), Ok(0x42));

        let mut reader = Reader::new(Part::Value, &[1, 9, 200, 1, 2, 3]);
        reader.set_flexible(true);
        assert!(reader.tags(|_, _| Ok(false)).unwrap_err().expected.contains("tagged field 9 of 200 bytes"));
    }

    /// A tagged field that is known must be read to its last byte and not one further.
    #[test]
    fn a_known_tag_is_read_exactly() {
        let mut reader = Reader::new(Part::Value, &[1, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1, 7]);
        reader.set_flexible(true);
        let flaw = reader.tags(|_, field| field.i64("hash").map(|_| true)).unwrap_err();
        assert_eq!((flaw.at, flaw.expected.as_str()), (11, "the end of tagged field 0"));
    }
}
