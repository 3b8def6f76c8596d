//! Record batches and their codecs, fed with anything.

use girok_engine::Timestamp;
use girok_engine::batch::{
    self, Batch, BatchBuilder, Codec, CodecError, Control, HEADER_BYTES, Header, Record, Retained, Scratch,
    ValidBatch,
};

const MAX: usize = 1 << 20;

/// Walks `data` as a log: nothing panics; what parses is encoded to the same bytes; what may be appended can be read
/// to the last header, stamped, and cut by compaction without changing what is left.
pub fn batches(data: &[u8]) {
    let mut at = 0;
    for batch in batch::batches(data) {
        let batch = match batch {
            Ok(batch) => batch,
            Err(flaw) => {
                assert!(flaw.at >= at && flaw.at <= at + HEADER_BYTES, "{flaw} for the batch at {at}");
                break;
            }
        };
        assert_eq!(batch.bytes(), &data[at..at + batch.header().size()]);
        at += batch.bytes().len();
        one(&batch);
    }
    // The same again from every place where a batch might begin, as recovery looks for survivors.
    for at in 0..data.len().min(256) {
        if let Ok(batch) = Batch::parse(&data[at..]) {
            assert!(batch.header().next_offset() > batch.header().base_offset);
        }
    }
}

fn one(batch: &Batch<'_>) {
    let header = batch.header();
    assert_eq!(header.encode(), batch.bytes()[..HEADER_BYTES]);
    let valid = ValidBatch::check(batch.bytes(), MAX);
    let mut image = Vec::new();
    let plain = match batch::decompress(batch, &mut image, MAX) {
        Ok(()) => Batch::parse(&image),
        Err(_) => {
            assert!(valid.is_err(), "may be appended but not read");
            return;
        }
    };
    let Ok(plain) = plain else {
        assert!(valid.is_err(), "may be appended but not read");
        return;
    };
    let records: Vec<_> = plain.records().collect();
    assert!(records.len() <= header.record_count as usize + 1);
    for record in records.iter().flatten() {
        assert!(record.offset() >= header.base_offset && record.offset() <= header.last_offset());
        let headers = record.headers().count();
        assert!(headers <= plain.bytes().len());
        if header.is_control() {
            let _ = Control::of(record);
        }
    }
    let Ok(valid) = valid else { return };
    assert_eq!(valid.to_vec(), batch.bytes());
    let records: Vec<Record<'_>> = records.into_iter().map(|record| record.expect("checked")).collect();
    assert_eq!(records.len(), header.record_count as usize);
    assert!(records.iter().all(|record| record.headers().all(|header| header.is_ok())));

    let stamped = valid.log_append_time(Timestamp::from_millis(7)).to_vec();
    let stamped = Batch::parse(&stamped).expect("stamped");
    stamped.check_crc().expect("checksummed anew");
    cut(batch, &records);
}

fn cut(batch: &Batch<'_>, records: &[Record<'_>]) {
    let mut scratch = Scratch::default();
    let odd = |record: &Record<'_>| record.offset().get() % 2 == 1;
    let horizon = Some(Timestamp::from_millis(1));
    let wanted: Vec<_> = records.iter().filter(|record| odd(record)).collect();
    let bytes = match batch::retain(batch, &mut scratch, MAX, horizon, odd).expect("checked") {
        Retained::None => return assert!(wanted.is_empty()),
        Retained::Whole => batch.bytes(),
        Retained::Part(bytes) => bytes,
    };
    let left = Batch::parse(bytes).expect("cut");
    left.check_crc().expect("checksummed anew");
    assert_eq!(left.header().last_offset(), batch.header().last_offset());
    let mut image = Vec::new();
    batch::decompress(&left, &mut image, 2 * MAX).expect("compressed anew");
    let left: Vec<_> =
        Batch::parse(&image).expect("cut").records().map(|record| record.expect("kept")).collect();
    assert_eq!(left.iter().collect::<Vec<_>>(), wanted);
}

/// Takes the first byte of `data` for a codec, the next two for a bound, and the rest for a compressed body: nothing
/// panics, nothing grows past the bound, and the bound is exact. Then compresses `data` and gets it back.
pub fn decompression(data: &[u8]) {
    let Some((&[codec, low, high], body)) = data.split_first_chunk() else { return };
    let codec = Codec::ALL[1 + codec as usize % 4];
    let max = HEADER_BYTES + (usize::from(u16::from_le_bytes([low, high])) << 4);
    let header = Header {
        batch_length: (HEADER_BYTES - 12 + body.len()) as i32,
        attributes: batch::Attributes(codec.id().into()),
        last_offset_delta: 0,
        record_count: 0,
        ..template()
    };
    let bytes = [&header.encode()[..], body].concat();
    let batch = Batch::parse(&bytes).expect("a sane header");
    let mut into = Vec::new();
    match batch::decompress(&batch, &mut into, max) {
        Ok(()) => {
            assert!(into.len() <= max && into.capacity() <= max, "{} of {max}", into.capacity());
            let image = Batch::parse(&into).expect("an image is a batch");
            image.check_crc().expect("checksummed anew");
            let exact = into.len();
            let mut again = Vec::new();
            batch::decompress(&batch, &mut again, exact).expect("it fits exactly");
            assert_eq!(again, into);
            let short = batch::decompress(&batch, &mut again, exact - 1);
            assert_eq!(short, Err(CodecError::TooLarge { max: exact - 1 }));
        }
        Err(error) => {
            assert!(into.is_empty() && into.capacity() <= max, "{error}: {} of {max}", into.capacity());
        }
    }

    let mut builder = BatchBuilder::new(codec);
    builder.append(Timestamp::from_millis(1), None, Some(data), &[]).expect("small");
    let bytes = builder.finish().expect("built in").to_vec();
    let mut into = Vec::new();
    batch::decompress(&Batch::parse(&bytes).expect("ours"), &mut into, MAX + data.len()).expect("ours");
    let record = Batch::parse(&into).expect("ours").records().next().expect("one").expect("ours");
    assert_eq!(record.value(), Some(data));
}

/// A header that says nothing.
fn template() -> Header {
    let bytes = {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.append(Timestamp::NONE, None, None, &[]).expect("small");
        builder.finish().expect("uncompressed").to_vec()
    };
    Header::parse(&bytes).expect("ours")
}
