//! From whole batches to the records of one poll: what to skip, where to stop, what to check first.
//!
//! Plain functions of bytes. A poll hands out at most so many records, a batch may hold more, compaction leaves holes,
//! control batches are nobody's business, and the first batch may begin before the offset that was asked for.

use girok_engine::Offset;
use girok_engine::batch::{Batch, Flaw, Header};

/// A stretch of whole batches, and which of their offsets are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Bytes of the batches.
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// Offsets from here ...
    pub(crate) from: Offset,
    /// ... to here, exclusive.
    pub(crate) next: Offset,
    /// How many records that is.
    pub(crate) len: usize,
    /// Where the next cut begins: `end`, or the last batch again if only part of it was taken.
    pub(crate) resume: usize,
}

/// Takes up to `max` records from `from` on, beginning with the batch at `start`. Stops before a compressed batch, and
/// before one that does not fit any more: only a batch that is larger than `max` by itself is taken in pieces, because
/// the way to the second piece leads through the first.
/// A cut without records means: nothing but control batches and holes up to `next`, go on from `resume`.
pub(crate) fn cut(bytes: &[u8], start: usize, from: Offset, max: usize) -> Result<Cut, Flaw> {
    let mut cut = Cut { start, end: start, from, next: from, len: 0, resume: start };
    while cut.resume < bytes.len() && cut.len < max {
        let header = Header::parse(&bytes[cut.resume..]).map_err(|flaw| flaw.moved(cut.resume))?;
        let behind = cut.resume + header.size();
        if header.is_control() {
            cut.pass(&header, behind);
            continue;
        }
        if header.is_compressed() {
            break;
        }
        let first = cut.next.max(header.base_offset);
        let is_dense = header.record_count as i64 == header.last_offset_delta as i64 + 1;
        let room = max - cut.len;
        let (here, up_to) = if is_dense {
            let all = (header.next_offset() - first).max(0) as usize;
            (all.min(room), first + all.min(room) as i64)
        } else if first == header.base_offset && header.record_count as usize <= room {
            (header.record_count as usize, header.next_offset())
        } else {
            count_sparse(&Batch::parse(&bytes[cut.resume..])?, first, room)?
        };
        if up_to < header.next_offset() && cut.len > 0 {
            break;
        }
        cut.len += here;
        if up_to >= header.next_offset() {
            cut.pass(&header, behind);
        } else {
            (cut.next, cut.end) = (up_to, behind);
            break;
        }
    }
    Ok(cut)
}

impl Cut {
    fn pass(&mut self, header: &Header, behind: usize) {
        self.next = self.next.max(header.next_offset());
        (self.end, self.resume) = (behind, behind);
        if self.len == 0 {
            self.start = behind;
        }
    }
}

/// How many records a batch with holes has from `first` on, up to `room`, and the offset behind the last of them.
fn count_sparse(batch: &Batch<'_>, first: Offset, room: usize) -> Result<(usize, Offset), Flaw> {
    let mut count = 0;
    for record in batch.records() {
        let record = record?;
        if record.offset() < first {
            continue;
        }
        if count == room {
            return Ok((count, record.offset()));
        }
        count += 1;
    }
    Ok((count, batch.header().next_offset()))
}

/// Walks every record and header of an uncompressed batch, so that nobody need look for errors again.
pub(crate) fn walk(batch: &Batch<'_>) -> Result<(), Flaw> {
    let mut next = batch.header().base_offset;
    for record in batch.records() {
        let record = record?;
        if record.offset() < next {
            return Err(Flaw {
                at: 0,
                expected: "offsets that rise from record to record".into(),
                found: format!("offset {} where {next} or more was due", record.offset()),
            });
        }
        next = record.offset() + 1;
        for header in record.headers() {
            header?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use girok_engine::Timestamp;
    use girok_engine::batch::{BatchBuilder, Codec, batches};

    fn batch(base: i64, records: usize) -> Vec<u8> {
        let mut builder = BatchBuilder::new(Codec::None);
        for n in 0..records {
            builder.append(Timestamp::from_millis(n as i64), None, Some(b"value"), &[]).unwrap();
        }
        builder.set_base_offset(Offset::new(base));
        let mut bytes = Vec::new();
        builder.encode_into(&mut bytes).unwrap();
        bytes
    }

    /// Every cut is at most as long as asked, and together they are everything, in order, once.
    #[test]
    fn cuts_cover_everything_once() {
        let bytes = [batch(0, 3), batch(3, 10), batch(20, 1), batch(21, 4)].concat();
        let all: Vec<i64> = (0..13).chain(20..25).collect();
        for max in 1..20 {
            for from in 0..25 {
                let (mut at, mut position, mut seen) = (0, Offset::new(from), Vec::new());
                while at < bytes.len() {
                    let cut = cut(&bytes, at, position, max).unwrap();
                    assert!(cut.len <= max);
                    let offsets = batches(&bytes[cut.start..cut.end])
                        .flat_map(|batch| batch.unwrap().records())
                        .map(|record| record.unwrap().offset())
                        .filter(|offset| (cut.from..cut.next).contains(offset));
                    let before = seen.len();
                    seen.extend(offsets.map(Offset::get));
                    assert_eq!(seen.len() - before, cut.len, "max {max} from {from}");
                    (at, position) = (cut.resume, cut.next);
                }
                let expected: Vec<i64> = all.iter().copied().filter(|offset| *offset >= from).collect();
                assert_eq!(seen, expected, "max {max} from {from}");
            }
        }
    }
}
