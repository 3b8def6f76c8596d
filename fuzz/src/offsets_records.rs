//! Records of `__consumer_offsets`, and the state file made of them, fed with anything.

use std::path::Path;

use girok_coordinator::records::{Record, describe};
use girok_coordinator::{BatchInfo, Settings, State, state_file};
use girok_engine::{Offset, Timestamp};

/// Reads `data` as a log of records: for each two flag bytes (kind of batch, producer), the lengths of key and value
/// as big-endian u16 (a value of 65,535 bytes is a tombstone), key and value; and as a state file. Nothing panics; a
/// record that decodes says the same after being written again; a state comes back from its own file, byte for byte.
pub fn offsets_records(data: &[u8]) {
    let mut state = State::new(Settings::default());
    let mut rest = data;
    while let Some((&[kind, producer, k1, k2, v1, v2], body)) = rest.split_first_chunk() {
        let (key_len, value_len) = (u16::from_be_bytes([k1, k2]), u16::from_be_bytes([v1, v2]));
        let (key, body) = body.split_at(body.len().min(usize::from(key_len)));
        let (value, body) = match value_len {
            u16::MAX => (None, body),
            len => {
                let (value, body) = body.split_at(body.len().min(usize::from(len)));
                (Some(value), body)
            }
        };
        rest = body;
        let at = state.next_offset() + i64::from(kind >> 4);
        one(at, key, value);
        let info = BatchInfo {
            timestamp: Timestamp::from_millis(i64::from(kind)),
            producer_id: i64::from(producer % 4),
            transactional: kind & 1 != 0,
            control: kind & 2 != 0,
        };
        let before = state.next_offset();
        if let Err(flaw) = state.replay(at, &info, Some(key), value) {
            assert!(!flaw.to_string().is_empty());
            assert_eq!(state.next_offset(), before, "what is refused changes nothing");
        }
    }
    comes_back(&state);
    if let Ok((state, _)) = state_file::decode(data, Settings::default(), Path::new("girok-groups.state")) {
        comes_back(&state);
    }
}

fn one(at: Offset, key: &[u8], value: Option<&[u8]>) {
    let described = describe(at, key, value);
    match Record::decode(key, value) {
        Ok(record) => {
            assert!(described.flaw.is_none());
            let (mut again_key, mut again_value) = (Vec::new(), Vec::new());
            record.encode_key(&mut again_key);
            let live = record.encode_value(&mut again_value);
            assert_eq!(again_key, key, "a key has one spelling");
            let again = Record::decode(&again_key, live.then_some(&again_value[..]));
            assert_eq!(again.as_ref(), Ok(&record));
        }
        Err(flaw) => {
            assert!(flaw.at <= key.len().max(value.map_or(0, <[u8]>::len)), "{flaw}");
            assert_eq!(described.payload, None);
        }
    }
}

fn comes_back(state: &State) {
    let bytes = state_file::encode(state, 1, |_| 0).expect("whatever was read can be written");
    let (again, origin) = state_file::decode(&bytes, Settings::default(), Path::new("girok-groups.state"))
        .expect("what was written can be read");
    let bytes_again = state_file::encode(&again, 1, |_| 0).expect("and written again");
    if origin.covered == state.next_offset() {
        assert_eq!(&again, state);
        assert_eq!(bytes_again, bytes);
    }
}
