//! From whole batches to the records of one poll: what to skip, where to stop, what to check first.
//!
//! Plain functions of bytes. A poll hands out at most so many records, a batch may hold more, compaction leaves holes,
//! control batches are nobody's business, and the first batch may begin before the offset that was asked for.
//!
//! A batch that is taken in pieces is walked once in all: each cut walks what it takes, to know the place where the next
//! one begins. Records are as long as they like, so there is no other way to that place.

use girok_engine::Offset;
use girok_engine::batch::{Batch, Flaw, Header, RecordPlace};

/// How far one has read in bytes of whole batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spot {
    /// Where the next batch begins.
    pub(crate) at: usize,
    /// Where in it the next record does.
    pub(crate) place: RecordPlace,
}

impl Spot {
    /// Before the batch at `at`.
    pub(crate) fn before(at: usize) -> Self {
        Spot { at, place: RecordPlace::default() }
    }
}

/// A stretch of whole batches, and which of their offsets are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// The first of the batches, and where in it the records that are meant begin, or a little before.
    pub(crate) start: Spot,
    /// The end of the last batch.
    pub(crate) end: usize,
    /// Offsets from here ...
    pub(crate) from: Offset,
    /// ... to here, exclusive.
    pub(crate) next: Offset,
    /// How many records that is.
    pub(crate) len: usize,
    /// Where the next cut begins: at `end`, or in the last batch if only part of it was taken.
    pub(crate) resume: Spot,
}

/// Takes up to `max` records from `from` on, beginning at `start`. Stops before a compressed batch, and
/// before one that does not fit any more: only a batch that is larger than `max` by itself is taken in pieces, because
/// the way to the second piece leads through the first.
/// A cut without records means: nothing but control batches and holes up to `next`, go on from `resume`.
pub(crate) fn cut(bytes: &[u8], start: Spot, from: Offset, max: usize) -> Result<Cut, Flaw> {
    let mut cut = Cut { start, end: start.at, from, next: from, len: 0, resume: start };
    while cut.resume.at < bytes.len() && cut.len < max {
        let Spot { at, place } = cut.resume;
        let header = Header::parse(&bytes[at..]).map_err(|flaw| flaw.moved(at))?;
        let behind = at + header.size();
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
        let all = if is_dense {
            Some((header.next_offset() - first).max(0) as usize)
        } else {
            // How many of a batch with holes are left is known only at its start.
            (first == header.base_offset).then_some(header.record_count as usize)
        };
        if let Some(all) = all.filter(|all| *all <= room) {
            cut.len += all;
            cut.pass(&header, behind);
            continue;
        }
        if cut.len > 0 && all.is_some() {
            // By its count it does not fit any more.
            break;
        }
        let piece = take_piece(&Batch::parse(&bytes[at..])?, place, first, room)?;
        if piece.next < header.next_offset() && cut.len > 0 {
            break;
        }
        cut.len += piece.len;
        if cut.len == piece.len {
            cut.start.place = piece.begin;
        }
        if piece.next >= header.next_offset() {
            cut.pass(&header, behind);
        } else {
            (cut.next, cut.end, cut.resume.place) = (piece.next, behind, piece.end);
            break;
        }
    }
    Ok(cut)
}

impl Cut {
    fn pass(&mut self, header: &Header, behind: usize) {
        self.next = self.next.max(header.next_offset());
        (self.end, self.resume) = (behind, Spot::before(behind));
        if self.len == 0 {
            self.start = self.resume;
        }
    }
}

/// Some of a batch's records.
struct Piece {
    len: usize,
    begin: RecordPlace,
    end: RecordPlace,
    /// The offset of the record behind them, or behind the batch.
    next: Offset,
}

/// The records of a batch from `first` on, `room` at most. Walks from `place`, which is at or before them.
fn take_piece(batch: &Batch<'_>, place: RecordPlace, first: Offset, room: usize) -> Result<Piece, Flaw> {
    let mut records = batch.records_from(place);
    let mut piece = Piece { len: 0, begin: place, end: place, next: batch.header().next_offset() };
    while let Some(record) = records.next() {
        effort::walked();
        let offset = record?.offset();
        if offset < first {
            piece.begin = records.place();
        } else if piece.len == room {
            piece.next = offset;
            break;
        } else {
            piece.len += 1;
        }
        piece.end = records.place();
    }
    Ok(piece)
}

/// What the way to the records costs, counted: for tests, which ask no clock.
pub(crate) mod effort {
    #[cfg(test)]
    thread_local! {
        pub(crate) static WALKED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
        pub(crate) static INFLATED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    /// A batch was inflated.
    #[inline(always)]
    pub(crate) fn inflated() {
        #[cfg(test)]
        INFLATED.set(INFLATED.get() + 1);
    }

    /// A record was decoded that is not the one somebody gets now.
    #[inline(always)]
    pub(crate) fn walked() {
        #[cfg(test)]
        WALKED.set(WALKED.get() + 1);
    }
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
    use girok_engine::batch::{BatchBuilder, Codec, Retained, Scratch, batches, retain};

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

    /// A batch with holes, as compaction leaves it: of ten offsets from `base` on, those in `kept`.
    fn sparse(base: i64, kept: &[i64]) -> Vec<u8> {
        let bytes = batch(base, 10);
        let keep = |record: &girok_engine::batch::Record<'_>| kept.contains(&record.offset().get());
        let mut scratch = Scratch::default();
        match retain(&Batch::parse(&bytes).unwrap(), &mut scratch, 1 << 20, None, keep).unwrap() {
            Retained::Part(part) => part.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    /// Every cut is at most as long as asked, and together they are everything, in order, once.
    #[test]
    fn cuts_cover_everything_once() {
        let holes = [31, 32, 35, 36, 38];
        let bytes = [batch(0, 3), batch(3, 10), batch(20, 1), batch(21, 4), sparse(30, &holes), batch(40, 5)]
            .concat();
        let all: Vec<i64> = (0..13).chain(20..25).chain(holes).chain(40..45).collect();
        for max in 1..20 {
            for from in 0..45 {
                let (mut at, mut position, mut seen) = (Spot::default(), Offset::new(from), Vec::new());
                while at.at < bytes.len() {
                    let cut = cut(&bytes, at, position, max).unwrap();
                    assert!(cut.len <= max);
                    let mut place = cut.start.place;
                    let offsets = batches(&bytes[cut.start.at..cut.end])
                        .flat_map(|batch| batch.unwrap().records_from(std::mem::take(&mut place)))
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
