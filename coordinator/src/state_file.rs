//! `girok-groups.state`: the groups as they were at some offset, so that opening need not read the whole log.
//!
//! ```text
//! byte  0  "girokgrp"
//!       8  version, u32 = 1
//!      12  boot of the directory that wrote it, u64
//!      20  covered, i64: the offset after the last record that is in it
//!      28  horizon, i64: below it records are missing
//!      36  latest timestamp, i64
//!      44  leader epoch of the record before `covered`, i32; −1 if there is none
//!      48  length of the batches in bytes, u64
//!      56  Kafka record batches: the last record of each key, at its own offset
//!       …  CRC-32 (IEEE) of everything before, u32
//! ```
//!
//! All numbers are big-endian, as in the batches. The file is a convenience: when it is damaged, missing or about
//! another log, the log alone suffices. While a transaction is open, `covered` stops before its first record, because
//! what is not decided yet has no place in a file of last records.

use std::path::Path;

use girok_engine::batch::{BatchBuilder, Codec, batches};
use girok_engine::{Error, Offset, Result, Timestamp};

use crate::records::Record;
use crate::settings::Settings;
use crate::state::{BatchInfo, Mark, State};

/// The file's name, in the directory's top folder.
pub const FILE_NAME: &str = "girok-groups.state";

const MAGIC: &[u8; 8] = b"girokgrp";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 56;
const TRAILER_BYTES: usize = 4;

/// Batches are cut here, so that reading one needs little memory at a time.
const BATCH_RECORDS_MAX: usize = 1000;

/// What the header says about where the state is from.
///
/// ```
/// use girok_coordinator::state_file::{Origin, decode, encode};
/// use girok_coordinator::{Settings, State};
/// let state = State::new(Settings::default());
/// let origin = Origin { boot: 3, covered: state.next_offset(), log_epoch: -1 };
/// let bytes = encode(&state, 3, |_| -1).unwrap();
/// assert_eq!(decode(&bytes, Settings::default(), "girok-groups.state".as_ref()).unwrap(), (state, origin));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The directory's boot number when it was written.
    pub boot: u64,
    /// The offset to go on reading the log at.
    pub covered: Offset,
    /// The log's leader epoch at the record before `covered`; −1 if there is none.
    pub log_epoch: i32,
}

/// The file's bytes for a state. `leader_epoch_at` tells the log's epoch at an offset.
///
/// # Errors
/// [`Error::Invalid`] if a record does not fit into a batch, which none from a log does.
pub fn encode(state: &State, boot: u64, leader_epoch_at: impl Fn(Offset) -> i32) -> Result<Vec<u8>> {
    let first_open =
        state.pending.values().flat_map(|offsets| offsets.values()).map(|slot| slot.mark.place).min();
    let covered = first_open.map_or(state.next, |open| open.min(state.next));
    let log_epoch = if covered > Offset::ZERO { leader_epoch_at(covered + -1) } else { -1 };

    let mut out = Vec::new();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&boot.to_be_bytes());
    out.extend_from_slice(&covered.get().to_be_bytes());
    out.extend_from_slice(&state.horizon.get().to_be_bytes());
    out.extend_from_slice(&state.latest.as_millis().to_be_bytes());
    out.extend_from_slice(&log_epoch.to_be_bytes());
    out.extend_from_slice(&[0; 8]);
    debug_assert_eq!(out.len(), HEADER_BYTES);

    let mut builder = BatchBuilder::new(Codec::None);
    let mut next = Offset::ZERO;
    let (mut key, mut value) = (Vec::new(), Vec::new());
    for (mark, record) in last_records(state) {
        if !builder.is_empty() && (mark.place != next || builder.len() == BATCH_RECORDS_MAX) {
            builder.encode_into(&mut out)?;
            builder.clear();
        }
        if builder.is_empty() {
            builder.set_base_offset(mark.place);
        }
        key.clear();
        value.clear();
        record.encode_key(&mut key);
        let live = record.encode_value(&mut value);
        let bytes = mark.raw.as_deref().or(live.then_some(&value[..]));
        builder.append(mark.timestamp, Some(&key), bytes, &[])?;
        next = mark.place + 1;
    }
    if !builder.is_empty() {
        builder.encode_into(&mut out)?;
    }
    let body = (out.len() - HEADER_BYTES) as u64;
    out[HEADER_BYTES - 8..HEADER_BYTES].copy_from_slice(&body.to_be_bytes());
    let crc = crc32fast::hash(&out);
    out.extend_from_slice(&crc.to_be_bytes());
    Ok(out)
}

/// The last record of every key, in the order of the log.
fn last_records(state: &State) -> Vec<(&Mark, Record)> {
    let mut records = Vec::new();
    for (name, group) in &state.groups {
        let group_name = || name.clone();
        for (partition, slot) in &group.offsets {
            let value = slot.value.clone();
            let (legacy, partition) = (slot.legacy, partition.clone());
            records
                .push((&slot.mark, Record::OffsetCommit { legacy, group: group_name(), partition, value }));
        }
        if let Some(kept) = &group.classic {
            let value = Some(kept.value.clone());
            records.push((&kept.mark, Record::GroupMetadata { group: group_name(), value }));
        }
        let Some(consumer) = &group.consumer else { continue };
        if let Some(kept) = &consumer.metadata {
            let value = Some(kept.value.clone());
            records.push((&kept.mark, Record::ConsumerGroupMetadata { group: group_name(), value }));
        }
        if let Some(kept) = &consumer.partition_metadata {
            let value = Some(kept.value.clone());
            records.push((&kept.mark, Record::ConsumerGroupPartitionMetadata { group: group_name(), value }));
        }
        if let Some(kept) = &consumer.target {
            let value = Some(kept.value.clone());
            records.push((&kept.mark, Record::TargetAssignmentMetadata { group: group_name(), value }));
        }
        for (id, member) in &consumer.members {
            let (group, id) = (group_name, || id.clone());
            if let Some(kept) = &member.metadata {
                let value = Some(kept.value.clone());
                let record = Record::ConsumerGroupMemberMetadata { group: group(), member: id(), value };
                records.push((&kept.mark, record));
            }
            if let Some(kept) = &member.target {
                let value = Some(kept.value.clone());
                let record = Record::TargetAssignmentMember { group: group(), member: id(), value };
                records.push((&kept.mark, record));
            }
            if let Some(kept) = &member.current {
                let value = Some(kept.value.clone());
                let record = Record::CurrentMemberAssignment { group: group(), member: id(), value };
                records.push((&kept.mark, record));
            }
        }
        for (regex, kept) in &consumer.regexes {
            let (regex, value) = (regex.clone(), Some(kept.value.clone()));
            records.push((&kept.mark, Record::RegularExpression { group: group_name(), regex, value }));
        }
    }
    for (key, kept) in &state.unknown {
        let kind = key.first_chunk().map_or(-1, |kind| i16::from_be_bytes(*kind));
        let record = Record::Unknown { kind, key: key.clone(), value: Some(kept.value.clone()) };
        records.push((&kept.mark, record));
    }
    records.sort_by_key(|(mark, _)| mark.place);
    records
}

/// Reads the file's bytes; `path` is for the errors. The log has to be read on from [`Origin::covered`].
///
/// # Errors
/// [`Error::Corrupt`] naming the byte, if it is not what was written; [`Error::NewerFormat`] if a newer version wrote
/// it. Either way the log alone suffices.
pub fn decode(bytes: &[u8], settings: Settings, path: &Path) -> Result<(State, Origin)> {
    let corrupt = |at: usize, expected: String, found: String| {
        let intact = "the log alone suffices: remove this file, it is written anew";
        Error::corrupt(path, at as u64, expected, found, intact)
    };
    if bytes.len() < HEADER_BYTES + TRAILER_BYTES {
        let expected = format!("at least {} bytes", HEADER_BYTES + TRAILER_BYTES);
        return Err(corrupt(bytes.len(), expected, "the end of the file".into()));
    }
    if &bytes[..8] != MAGIC {
        return Err(corrupt(
            0,
            "\"girokgrp\"".into(),
            format!("{:?}", bytes[..8].escape_ascii().to_string()),
        ));
    }
    let u32_at = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    // The version comes before the checksum: a newer file may have its checksum elsewhere.
    let version = u32_at(8);
    if version > VERSION {
        return Err(Error::NewerFormat { path: path.into(), expected: VERSION, found: version });
    }
    let (rest, trailer) = bytes.split_at(bytes.len() - TRAILER_BYTES);
    let (expected, found) = (crc32fast::hash(rest), u32_at(rest.len()));
    if expected != found {
        debug_assert_eq!(trailer.len(), TRAILER_BYTES);
        return Err(corrupt(rest.len(), format!("checksum {expected:08x}"), format!("{found:08x}")));
    }
    if version == 0 {
        return Err(corrupt(8, format!("version {VERSION}"), "0".into()));
    }
    let body = &rest[HEADER_BYTES..];
    if u64_at(48) != body.len() as u64 {
        return Err(corrupt(48, format!("{} bytes of batches", body.len()), u64_at(48).to_string()));
    }

    let mut state = State::new(settings);
    let mut at = HEADER_BYTES;
    for batch in batches(body) {
        let batch = batch.map_err(|flaw| corrupt(at + flaw.at, flaw.expected.to_string(), flaw.found))?;
        let flawed =
            |flaw: girok_engine::batch::Flaw| corrupt(at + flaw.at, flaw.expected.to_string(), flaw.found);
        batch.check_crc().map_err(flawed)?;
        if batch.header().is_compressed() {
            return Err(corrupt(at, "an uncompressed batch".into(), "a compressed one".into()));
        }
        for record in batch.records() {
            let record = record.map_err(flawed)?;
            let info = BatchInfo::at(record.timestamp());
            state.replay(record.offset(), &info, record.key(), record.value()).map_err(|flaw| {
                corrupt(at, format!("record {}: {}", record.offset(), flaw.expected), flaw.found)
            })?;
        }
        at += batch.bytes().len();
    }
    for (byte, what) in [(20, "offset for what it covers"), (28, "offset for its horizon")] {
        let offset = u64_at(byte) as i64;
        if offset < 0 {
            return Err(corrupt(byte, format!("an {what} from 0 on"), offset.to_string()));
        }
    }
    state.next = Offset::new(u64_at(20) as i64);
    state.horizon = Offset::new(u64_at(28) as i64);
    state.latest = Timestamp::from_millis(u64_at(36) as i64);
    let origin = Origin { boot: u64_at(12), covered: state.next, log_epoch: u32_at(44) as i32 };
    Ok((state, origin))
}
