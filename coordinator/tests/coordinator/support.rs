//! A reader of record batches that is too simple to be wrong: uncompressed batches, whole files, panics on doubt.

use girok_coordinator::records::EndTransaction;

/// A record as it lies in a segment.
#[derive(Clone, Debug)]
pub struct Raw {
    pub offset: i64,
    pub timestamp: i64,
    pub producer_id: i64,
    pub transactional: bool,
    pub control: bool,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

impl Raw {
    pub fn marker(&self) -> Option<EndTransaction> {
        if self.control { EndTransaction::decode(self.key.as_deref().unwrap()) } else { None }
    }
}

/// Kafka's own segment.
pub fn golden() -> Vec<Raw> {
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/__consumer_offsets-0.log"));
    raw_records(&bytes.unwrap())
}

/// What Kafka's own tool printed of it.
pub fn golden_dump() -> String {
    std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/golden/__consumer_offsets-0.dump.txt"
    ))
    .unwrap()
}

/// Every record of consecutive uncompressed batches.
pub fn raw_records(mut bytes: &[u8]) -> Vec<Raw> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let i64_at = |at: usize| i64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
        let i32_at = |at: usize| i32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        let size = 12 + i32_at(8) as usize;
        let (base_offset, base_timestamp, producer_id) = (i64_at(0), i64_at(27), i64_at(43));
        let attributes = u16::from_be_bytes(bytes[21..23].try_into().unwrap());
        assert_eq!(attributes & 7, 0, "uncompressed");
        let mut body = &bytes[61..size];
        for _ in 0..i32_at(57) {
            let _length = varint(&mut body);
            body = &body[1..];
            let timestamp = base_timestamp + varint(&mut body);
            let offset = base_offset + varint(&mut body);
            let key = field(&mut body);
            let value = field(&mut body);
            assert_eq!(varint(&mut body), 0, "no headers");
            let (transactional, control) = (attributes & 16 != 0, attributes & 32 != 0);
            records.push(Raw { offset, timestamp, producer_id, transactional, control, key, value });
        }
        assert!(body.is_empty());
        bytes = &bytes[size..];
    }
    records
}

fn varint(bytes: &mut &[u8]) -> i64 {
    let (mut value, mut shift) = (0u64, 0);
    loop {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return (value >> 1) as i64 ^ -((value & 1) as i64);
        }
    }
}

fn field(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let len = usize::try_from(varint(bytes)).ok()?;
    let (field, rest) = bytes.split_at(len);
    *bytes = rest;
    Some(field.to_vec())
}
