//! Promise: what Kafka wrote is read exactly, what we write Kafka could have written, and nothing else is data.
//!
//! `tests/golden/` has folders of a real broker and what its own `kafka-dump-log` says about them. Every line of those
//! dumps is drawn again from the bytes and must come out the same; batches built from the records must be the same
//! bytes; compaction must cut as Kafka's cleaner cut. The rest of the file is about bytes that nobody should have sent.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use girok::{Girok, OffsetReset};
use girok_engine::batch::{
    Batch, BatchBuilder, Codec, CodecError, Control, HEADER_BYTES, Header, Record, Retained, Scratch,
    TimestampType, ValidBatch, batches, decompress, emptied, retain,
};
use girok_engine::{Env, Error, FetchBounds, Log, LogConfig, Offset, Partition, Timestamp, TopicPartition};
use proptest::prelude::*;

const MIB: usize = 1 << 20;

fn golden(path: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

/// Every dumped log: its folder, its base offset's twenty digits, Kafka's words.
fn dumps() -> Vec<(String, String, Vec<u8>)> {
    let mut found = Vec::new();
    for folder in std::fs::read_dir(golden("dump")).unwrap() {
        let folder = folder.unwrap().path();
        for file in std::fs::read_dir(&folder).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let Some((base, ending)) = name.split_once(".log.txt") else { continue };
            let mut text = std::fs::read(&path).unwrap();
            if ending == ".gz" {
                let mut plain = Vec::new();
                flate2::read::GzDecoder::new(&text[..]).read_to_end(&mut plain).unwrap();
                text = plain;
            }
            let folder = folder.file_name().unwrap().to_str().unwrap().to_owned();
            found.push((folder, base.to_owned(), text));
        }
    }
    found.sort();
    assert_eq!(found.len(), 19, "a dump was lost or not looked at");
    found
}

fn log(folder: &str, base: &str) -> Vec<u8> {
    std::fs::read(golden(format!("segments/{folder}/{base}.log"))).unwrap()
}

/// The batch's records, inflated if need be.
fn plain<'a>(batch: &Batch<'a>, scratch: &'a mut Vec<u8>) -> Batch<'a> {
    if !batch.header().is_compressed() {
        return *batch;
    }
    decompress(batch, scratch, MIB).unwrap();
    Batch::parse(scratch).unwrap()
}

/// A batch as `kafka-dump-log` prints it.
fn batch_line(header: &Header, position: usize, valid: bool) -> String {
    let horizon = match header.delete_horizon() {
        Some(time) => format!("OptionalLong[{time}]"),
        None => "OptionalLong.empty".into(),
    };
    format!(
        "baseOffset: {} lastOffset: {} count: {} baseSequence: {} lastSequence: {} producerId: {} producerEpoch: {} \
         partitionLeaderEpoch: {} isTransactional: {} isControl: {} deleteHorizonMs: {horizon} position: {position} \
         {}: {} size: {} magic: 2 compresscodec: {} crc: {} isvalid: {valid}",
        header.base_offset,
        header.last_offset(),
        header.record_count,
        header.base_sequence,
        header.last_sequence(),
        header.producer_id,
        header.producer_epoch,
        header.partition_leader_epoch,
        header.is_transactional(),
        header.is_control(),
        header.timestamp_type(),
        header.max_timestamp,
        header.size(),
        header.codec().unwrap(),
        header.crc,
    )
}

/// A record up to where the tool begins to decode keys and values.
fn record_line(header: &Header, record: &Record<'_>) -> String {
    let size = |bytes: Option<&[u8]>| bytes.map_or(-1, |bytes| bytes.len() as i64);
    let names: Vec<_> = record.headers().map(|header| header.unwrap().key().into_owned()).collect();
    let sequence = match header.base_sequence {
        -1 => -1,
        base => base as i64 + (record.offset() - header.base_offset),
    };
    format!(
        "| offset: {} {}: {} keySize: {} valueSize: {} sequence: {sequence} headerKeys: [{}]",
        record.offset(),
        header.timestamp_type(),
        record.timestamp(),
        size(record.key()),
        size(record.value()),
        names.join(","),
    )
}

/// Every field of every batch and record, of every log, as Kafka's own tool tells it.
#[test]
fn every_dumped_field_comes_out_the_same() {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (folder, base, dump) in dumps() {
        let bytes = log(&folder, &base);
        // The tool decodes the internal topics' keys and values into JSON, on the same line.
        let internal = folder.starts_with("__");
        let mut ours =
            format!("Dumping {folder}/{base}.log\nLog starting offset: {}\n", base.parse::<i64>().unwrap());
        let mut position = 0;
        for batch in batches(&bytes) {
            let batch = batch.unwrap();
            let header = batch.header();
            writeln!(ours, "{}", batch_line(&header, position, batch.check_crc().is_ok())).unwrap();
            let mut scratch = Vec::new();
            for record in plain(&batch, &mut scratch).records() {
                let record = record.unwrap();
                ours += &record_line(&header, &record);
                if header.is_control() {
                    let control = Control::of(&record).unwrap();
                    let (Control::Commit { coordinator_epoch } | Control::Abort { coordinator_epoch }) =
                        control
                    else {
                        panic!("{control:?} in {folder}")
                    };
                    write!(ours, " endTxnMarker: {control} coordinatorEpoch: {coordinator_epoch}").unwrap();
                    *seen.entry("control").or_default() += 1;
                } else if !internal {
                    let shown = |bytes| String::from_utf8_lossy(bytes);
                    if let Some(key) = record.key() {
                        write!(ours, " key: {}", shown(key)).unwrap();
                    }
                    if let Some(value) = record.value() {
                        write!(ours, " payload: {}", shown(value)).unwrap();
                    }
                }
                ours.push('\n');
                *seen.entry("records").or_default() += 1;
            }
            *seen.entry(header.codec().unwrap().name()).or_default() += 1;
            *seen.entry("transactional").or_default() += header.is_transactional() as usize;
            *seen.entry("horizon").or_default() += header.delete_horizon().is_some() as usize;
            *seen.entry("stamped").or_default() +=
                (header.timestamp_type() == TimestampType::LogAppendTime) as usize;
            position += header.size();
        }
        assert_eq!(position, bytes.len());

        // At the end of a compacted log the tool lists the gaps once more.
        let mut theirs = String::from_utf8_lossy(&dump).into_owned();
        if let Some(gaps) = theirs.find("Non-consecutive offsets") {
            theirs.truncate(gaps);
        }
        if internal {
            theirs = theirs
                .lines()
                .map(|line| line.split_once(" key: ").map_or(line, |(before, _)| before).to_owned() + "\n")
                .collect();
        }
        if ours != theirs {
            let differs = |(ours, theirs): &(&str, &str)| ours != theirs;
            let line = ours.lines().zip(theirs.lines()).find(differs);
            panic!("{folder}/{base}.log: ours and Kafka's differ: {line:#?}");
        }
    }
    for (what, least) in [
        ("none", 80),
        ("gzip", 1),
        ("snappy", 1),
        ("lz4", 1),
        ("zstd", 1),
        ("records", 7000),
        ("control", 5),
        ("transactional", 10),
        ("horizon", 1),
        ("stamped", 2),
    ] {
        assert!(seen[what] >= least, "{what}: {seen:?}");
    }
}

/// The same records through our builder are the same bytes, header and all; compressed ones inflate to the same.
#[test]
fn what_we_build_is_what_kafka_built() {
    let mut same = 0;
    for (folder, base, _) in dumps() {
        for batch in batches(&log(&folder, &base)) {
            let batch = batch.unwrap();
            let header = batch.header();
            let stamped = header.timestamp_type() == TimestampType::LogAppendTime;
            if header.record_count != header.last_offset_delta + 1
                || header.delete_horizon().is_some()
                || stamped
            {
                continue; // the cleaner's and the broker's own work
            }
            let codec = header.codec().unwrap();
            let mut builder = BatchBuilder::new(codec);
            builder.set_base_offset(header.base_offset);
            builder.set_leader_epoch(header.partition_leader_epoch);
            builder.set_producer(header.producer_id, header.producer_epoch, header.base_sequence);
            builder.set_kind(header.is_transactional(), header.is_control());
            let (mut theirs, mut ours) = (Vec::new(), Vec::new());
            let inflated = plain(&batch, &mut theirs);
            for record in inflated.records() {
                let record = record.unwrap();
                let headers: Vec<_> = record.headers().map(|header| header.unwrap()).collect();
                let names: Vec<_> = headers.iter().map(|header| header.key()).collect();
                let headers: Vec<_> =
                    names.iter().zip(&headers).map(|(name, header)| (&**name, header.value())).collect();
                let before = builder.estimated_bytes();
                let adds = builder.record_bytes(record.timestamp(), record.key(), record.value(), &headers);
                builder.append(record.timestamp(), record.key(), record.value(), &headers).unwrap();
                assert_eq!(builder.estimated_bytes(), before + adds);
            }
            let mut built = Vec::new();
            builder.encode_into(&mut built).unwrap();
            if codec == Codec::None {
                assert!(built == batch.bytes(), "{folder} at offset {}", header.base_offset);
            } else {
                let built = Batch::parse(&built).unwrap();
                assert_eq!(built.header().codec().unwrap(), codec);
                assert!(plain(&built, &mut ours).bytes() == inflated.bytes(), "{folder}");
            }
            same += 1;
        }
    }
    assert!(same > 700, "{same}");
}

/// A copy of the whole log directory, to do with as one likes.
fn golden_directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        std::fs::create_dir_all(dir.path().join(&folder)).unwrap();
        for entry in std::fs::read_dir(golden("segments").join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else {
                std::fs::write(dir.path().join(&path), std::fs::read(entry.path()).unwrap()).unwrap();
            }
        }
    }
    dir
}

/// All that a reader gets who begins at `from`, batch by batch.
fn read_from(partition: &Partition, from: Offset) -> Vec<u8> {
    let mut reader = partition.reader(from);
    let mut bytes = Vec::new();
    loop {
        let view = reader.read(&FetchBounds { bytes_max: 10_000, ..FetchBounds::default() }).unwrap();
        if view.is_empty() {
            return bytes;
        }
        bytes.extend_from_slice(view.bytes());
    }
}

/// Opened where Kafka left it, the directory has every partition, every byte, and room for more.
#[test]
fn a_directory_of_kafkas_is_opened_read_and_appended_to() {
    let dir = golden_directory();
    let mut logs: HashMap<String, Vec<u8>> = HashMap::new();
    for (folder, base, _) in dumps() {
        logs.entry(folder.clone()).or_default().extend(log(&folder, &base));
    }
    logs.insert("g-2parts-1".into(), Vec::new());

    let open = || Log::open(Env::system(), dir.path(), LogConfig::default()).unwrap();
    let (opened, report) = open();
    assert!(report.refused.is_empty() && report.cut().count() == 0, "{report:?}");
    let partitions: i32 = opened.topics().iter().map(|topic| topic.partitions).sum();
    assert_eq!(partitions as usize, logs.len());
    for (folder, bytes) in &mut logs {
        let name: TopicPartition = folder.parse().unwrap();
        let partition = opened.partition(&name).unwrap();
        let start = partition.start_offset();
        assert_eq!(start.get(), if folder == "g-single-0" { 5 } else { 0 }, "{folder}");
        let first = batches(bytes).map(Result::unwrap).find(|batch| batch.header().next_offset() > start);
        let from =
            first.map_or(bytes.len(), |batch| batch.bytes().as_ptr() as usize - bytes.as_ptr() as usize);
        assert!(read_from(&partition, start) == bytes[from..], "{folder}");

        // Any offset leads to the batch that contains it, or to the next one where compaction left a gap.
        for batch in batches(&bytes[from..]).map(Result::unwrap) {
            for offset in [batch.header().base_offset.max(start), batch.header().last_offset()] {
                let view = partition.fetch(offset, &FetchBounds::default()).unwrap();
                assert!(view.bytes().starts_with(batch.bytes()), "{folder} at {offset}");
            }
        }
        times_are_found(&partition, &bytes[from..], start, folder);

        // And on from there.
        let end = partition.end_offset();
        let mut builder = BatchBuilder::new(Codec::Lz4);
        builder.append(time(1_800_000_000_000), Some(b"ours"), Some(&[9; 300]), &[]).unwrap();
        let appended = partition.append(&builder.finish().unwrap()).unwrap();
        assert_eq!(appended.base_offset, end, "{folder}");
        partition.sync().unwrap();
        let view = partition.fetch(end, &FetchBounds::default()).unwrap();
        let batch = Batch::parse(view.bytes()).unwrap();
        assert_eq!(received(&batch)[0].value, Some(vec![9; 300]), "{folder}");
        bytes.extend_from_slice(view.bytes());
    }
    opened.close().unwrap();
    drop(opened);

    let (opened, report) = open();
    assert!(report.clean, "{report:?}");
    for (folder, bytes) in &logs {
        let partition = opened.partition(&folder.parse().unwrap()).unwrap();
        let read = read_from(&partition, partition.start_offset());
        assert!(!read.is_empty() && bytes.ends_with(&read), "{folder}");
    }
}

/// What an application polls of Kafka's partitions: each record once, in order, with all that is in it, and none of
/// Kafka's own markers.
#[test]
fn a_consumer_gets_every_record_and_no_marker() {
    let dir = golden_directory();
    let mut wanted: HashMap<TopicPartition, Vec<String>> = HashMap::new();
    let mut markers = 0;
    for (folder, base, _) in dumps() {
        let name: TopicPartition = folder.parse().unwrap();
        let start = if name.topic() == "g-single" { 5 } else { 0 };
        for batch in batches(&log(&folder, &base)).map(Result::unwrap) {
            if batch.header().is_control() {
                markers += 1;
                continue;
            }
            let mut scratch = Vec::new();
            for record in plain(&batch, &mut scratch).records().map(Result::unwrap) {
                if record.offset().get() >= start {
                    let headers = record.headers().map(Result::unwrap);
                    let headers = headers.map(|h| (h.key().into_owned(), h.value())).collect();
                    let said =
                        said(record.offset(), record.timestamp(), record.key(), record.value(), headers);
                    wanted.entry(name.clone()).or_default().push(said);
                }
            }
        }
    }
    assert!(markers >= 5);

    let girok = Girok::open(dir.path()).unwrap();
    let mut consumer = girok.consumer().auto_offset_reset(OffsetReset::Earliest).build().unwrap();
    let partitions: Vec<_> = wanted.keys().cloned().collect();
    consumer.assign(&partitions).unwrap();
    let mut got: HashMap<TopicPartition, Vec<String>> = HashMap::new();
    loop {
        let records = consumer.poll(Duration::ZERO).unwrap();
        if records.is_empty() {
            break;
        }
        for record in &records {
            let headers = record.headers().map(|h| (h.key().into_owned(), h.value())).collect();
            let said = said(record.offset(), record.timestamp(), record.key(), record.value(), headers);
            got.entry(record.topic_partition().clone()).or_default().push(said);
        }
    }
    for (partition, wanted) in &wanted {
        let got = got.get(partition).map_or(&[][..], |got| got);
        // Our own coordinator goes on writing where Kafka's stopped.
        let ours = if partition.topic() == "__consumer_offsets" { got.len() - wanted.len() } else { 0 };
        assert!(got[..got.len() - ours] == wanted[..], "{partition}");
        assert_eq!(
            consumer.position(partition).unwrap(),
            girok.log().partition(partition).unwrap().end_offset()
        );
    }
}

/// All that is in a record.
fn said(
    offset: Offset,
    at: Timestamp,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: Vec<(String, Option<&[u8]>)>,
) -> String {
    format!("{offset} {at} {key:?} {value:?} {headers:?}")
}

/// Kafka's rule: the first record, by offset, whose time is at or after the one asked for. Markers do not count.
fn times_are_found(partition: &Partition, bytes: &[u8], start: Offset, folder: &str) {
    let mut all = Vec::new();
    for batch in batches(bytes).map(Result::unwrap).filter(|batch| !batch.header().is_control()) {
        let mut scratch = Vec::new();
        let records = plain(&batch, &mut scratch).records().map(Result::unwrap);
        all.extend(
            records.map(|record| (record.offset(), record.timestamp())).filter(|record| record.0 >= start),
        );
    }
    let step = (all.len() / 200).max(1);
    let asked =
        all.iter().step_by(step).flat_map(|(_, at)| [at.as_millis() - 1, at.as_millis(), at.as_millis() + 1]);
    for asked in asked.chain([0, i64::MAX]) {
        let wanted = all.iter().find(|(_, at)| at.as_millis() >= asked).copied();
        assert_eq!(partition.offset_for_time(time(asked)).unwrap(), wanted, "{folder} at {asked}");
    }
}

/// Kafka's cleaner left the segments it replaced beside the new one: the same cut gives the same bytes.
#[test]
fn compaction_cuts_as_kafkas_cleaner_did() {
    let folder = golden("segments/g-compact-0");
    let old = std::fs::read(folder.join("00000000000000000000.log.deleted")).unwrap();
    let cleaned = std::fs::read(folder.join("00000000000000000000.log")).unwrap();
    let survivors: Vec<Offset> = batches(&cleaned)
        .flat_map(|batch| batch.unwrap().records())
        .map(|record| record.unwrap().offset())
        .collect();
    let horizon = batches(&cleaned).next().unwrap().unwrap().header().delete_horizon();
    assert!(horizon.is_some() && survivors.len() == 10);

    let mut scratch = Scratch::default();
    let mut ours = Vec::new();
    for batch in batches(&old) {
        let batch = batch.unwrap();
        let keep = |record: &Record<'_>| survivors.contains(&record.offset());
        match retain(&batch, &mut scratch, MIB, horizon, keep).unwrap() {
            Retained::None => {}
            Retained::Whole => ours.extend_from_slice(batch.bytes()),
            Retained::Part(bytes) => ours.extend_from_slice(bytes),
        }
    }
    assert!(ours == cleaned);
}

/// Whatever the codec, what is left keeps offset, time, headers and codec; and cutting nothing touches nothing.
#[test]
fn a_cut_batch_keeps_what_it_does_not_cut() {
    let mut scratch = Scratch::default();
    for codec in Codec::ALL {
        let mut builder = BatchBuilder::new(codec);
        for n in 0..100u8 {
            let value = [n; 30];
            let value = (n != 41).then_some(&value[..]);
            builder.append(time(5000 - n as i64), Some(&[n % 7]), value, &[("n", Some(&[n]))]).unwrap();
        }
        let bytes = builder.finish().unwrap().to_vec();
        let batch = Batch::parse(&bytes).unwrap();

        assert_eq!(retain(&batch, &mut scratch, MIB, None, |_| true).unwrap(), Retained::Whole);
        assert_eq!(retain(&batch, &mut scratch, MIB, None, |_| false).unwrap(), Retained::None);
        let horizon = Some(time(9_000_000));
        let odd = |record: &Record<'_>| record.offset().get() % 2 == 1;
        let Retained::Part(cut) = retain(&batch, &mut scratch, MIB, horizon, odd).unwrap() else {
            panic!("half is left")
        };
        let cut = cut.to_vec();
        let cut = Batch::parse(&cut).unwrap();
        cut.check_crc().unwrap();
        assert_eq!(cut.header().codec().unwrap(), codec);
        assert_eq!(cut.header().delete_horizon(), horizon, "41 is a tombstone");
        assert_eq!(cut.header().last_offset(), batch.header().last_offset());
        assert_eq!(cut.header().max_timestamp, time(4999));
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let kept: Vec<_> =
            plain(&batch, &mut before).records().map(|record| record.unwrap()).filter(odd).collect();
        let left: Vec<_> = plain(&cut, &mut after).records().map(|record| record.unwrap()).collect();
        assert_eq!(left, kept);

        // Once decided, the horizon stays; and a header alone still stands for the offsets.
        let first = |record: &Record<'_>| record.offset().get() == 1;
        let Retained::Part(again) = retain(&cut, &mut scratch, MIB, Some(time(9_999_999)), first).unwrap()
        else {
            panic!("one is left")
        };
        assert_eq!(Header::parse(again).unwrap().delete_horizon(), horizon);
        let empty = emptied(&cut.header());
        let empty = Batch::parse(&empty).unwrap();
        empty.check_crc().unwrap();
        assert_eq!((empty.records().count(), empty.header().next_offset()), (0, Offset::new(100)));
    }
}

fn time(ms: i64) -> Timestamp {
    Timestamp::from_millis(ms)
}

/// A record somebody might send.
#[derive(Clone, Debug)]
struct Sent {
    time: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

fn sent() -> impl Strategy<Value = Sent> {
    let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200));
    let times = prop_oneof![Just(-1), Just(0), 1_700_000_000_000..1_700_000_100_000i64, 0..i64::MAX];
    let headers = proptest::collection::vec((".{0,9}", bytes()), 0..4);
    (times, bytes(), bytes(), headers).prop_map(|(time, key, value, headers)| Sent {
        time,
        key,
        value,
        headers,
    })
}

fn codec() -> impl Strategy<Value = Codec> {
    proptest::sample::select(&Codec::ALL[..])
}

fn build(codec: Codec, records: &[Sent]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(codec);
    for record in records {
        let headers: Vec<_> =
            record.headers.iter().map(|(name, value)| (&**name, value.as_deref())).collect();
        builder.append(time(record.time), record.key.as_deref(), record.value.as_deref(), &headers).unwrap();
    }
    builder.finish().unwrap().to_vec()
}

fn received(batch: &Batch<'_>) -> Vec<Sent> {
    let mut scratch = Vec::new();
    let records = plain(batch, &mut scratch).records();
    records
        .map(|record| {
            let record = record.unwrap();
            let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
            Sent {
                time: record.timestamp().as_millis(),
                key: owned(record.key()),
                value: owned(record.value()),
                headers: record
                    .headers()
                    .map(|header| header.unwrap())
                    .map(|header| (header.key().into_owned(), owned(header.value())))
                    .collect(),
            }
        })
        .collect()
}

/// Whether the batch can be read at all, down to the last header.
fn reads(bytes: &[u8]) -> bool {
    let mut scratch = Vec::new();
    let Ok(batch) = Batch::parse(bytes) else { return false };
    let batch = match batch.header().codec() {
        Ok(Codec::None) => batch,
        _ => match decompress(&batch, &mut scratch, MIB) {
            Ok(()) => Batch::parse(&scratch).unwrap(),
            Err(_) => return false,
        },
    };
    batch.records().all(|record| record.is_ok_and(|record| record.headers().all(|header| header.is_ok())))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_sent_is_received(codec in codec(), records in proptest::collection::vec(sent(), 1..40)) {
        let bytes = build(codec, &records);
        let valid = ValidBatch::check(&bytes, MIB).unwrap();
        prop_assert_eq!(valid.to_vec(), &bytes[..]);
        let batch = Batch::parse(&bytes).unwrap();
        batch.check_crc().unwrap();
        prop_assert_eq!(batch.header().max_timestamp.as_millis(), records.iter().map(|r| r.time).max().unwrap());
        let got = received(&batch);
        prop_assert_eq!(format!("{got:?}"), format!("{records:?}"));

        // Stamped by the log, it is the same but for the time.
        let stamped = valid.log_append_time(time(77)).to_vec();
        let stamped = Batch::parse(&stamped).unwrap();
        stamped.check_crc().unwrap();
        for (got, sent) in received(&stamped).iter().zip(&records) {
            prop_assert_eq!((got.time, &got.key, &got.value), (77, &sent.key, &sent.value));
        }
    }

    /// One flipped bit: in what the checksum covers it is found; before that it may change where the batch claims to
    /// stand or who appended it, never what it holds.
    #[test]
    fn a_flipped_bit_is_never_other_data(
        codec in codec(),
        records in proptest::collection::vec(sent(), 1..10),
        place: prop::sample::Index,
        bit in 0..8u32,
    ) {
        let good = build(codec, &records);
        let mut bad = good.clone();
        let at = place.index(bad.len());
        bad[at] ^= 1 << bit;
        reads(&bad);
        if ValidBatch::check(&bad, MIB).is_ok() {
            prop_assert!(at < 8 || (12..16).contains(&at), "byte {at}");
        }
        if let Ok(batch) = Batch::parse(&bad) && batch.check_crc().is_ok() {
            prop_assert!(at < 8 || (12..16).contains(&at), "byte {at}");
            let other = received(&batch);
            prop_assert_eq!(format!("{other:?}"), format!("{records:?}"));
        }
    }

    /// Damage that somebody took the trouble to checksum again: an error or records, never a panic.
    #[test]
    fn forged_bytes_are_read_or_refused(
        codec in codec(),
        records in proptest::collection::vec(sent(), 1..10),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = build(codec, &records);
        for (place, byte) in damage {
            let at = place.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if bytes.len() >= HEADER_BYTES {
            let crc = crc32c(&bytes[21..]);
            bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        }
        reads(&bytes);
        if ValidBatch::check(&bytes, MIB).is_ok() {
            prop_assert!(reads(&bytes), "what may be appended can be read");
        }
    }
}

/// Makes the batch's length that of the bytes.
fn set_length(bytes: &mut [u8]) {
    let length = (bytes.len() - 12) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
}

/// CRC-32C, slowly, so that the test forges with its own pen.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ byte as u32, |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 })
    })
}

/// Kafka checksums batches with CRC-32C (Castagnoli). The other CRC-32 is in many libraries, and wrong.
#[test]
fn the_checksum_is_castagnolis() {
    assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    let bytes = log("g-none-0", "00000000000000000000");
    let batch = Batch::parse(&bytes).unwrap();
    assert_eq!(batch.header().crc, crc32c(&batch.bytes()[21..]));
}

/// Zeros by the gigabyte, sent as a few kilobytes: refused at the bound, in memory of the bound.
#[test]
fn a_bomb_is_refused_at_the_bound() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let mut builder = BatchBuilder::new(codec);
        builder.append(time(1), None, Some(&vec![0; 64 * MIB]), &[]).unwrap();
        let bytes = builder.finish().unwrap().to_vec();
        let batch = Batch::parse(&bytes).unwrap();
        assert!(bytes.len() < 4 * MIB, "{codec}: {}", bytes.len());

        let mut into = Vec::new();
        assert_eq!(decompress(&batch, &mut into, MIB), Err(CodecError::TooLarge { max: MIB }), "{codec}");
        assert!(into.is_empty() && into.capacity() <= MIB, "{codec} took {}", into.capacity());
        let refused = ValidBatch::check(&bytes, MIB).unwrap_err();
        assert!(
            matches!(refused, Error::Invalid { .. }) && refused.to_string().contains("1048576"),
            "{refused}"
        );

        // To the byte: what fits exactly is read.
        decompress(&batch, &mut into, 65 * MIB).unwrap();
        let exactly = into.len();
        decompress(&batch, &mut Vec::new(), exactly).unwrap();
        let short = decompress(&batch, &mut Vec::new(), exactly - 1);
        assert_eq!(short, Err(CodecError::TooLarge { max: exactly - 1 }), "{codec}");
    }
}

/// The headers of compressed streams can claim any size; the claims are not believed.
#[test]
fn a_claim_of_gigabytes_allocates_nothing() {
    let claims: [(Codec, &[u8]); 4] = [
        // A bare snappy block of 4 GiB - 1.
        (Codec::Snappy, &[0xff, 0xff, 0xff, 0xff, 0x0f, 0]),
        // Framed, a block of 2 GiB - 1 in a few bytes.
        (Codec::Snappy, b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\x7f\xff\xff\xff\0"),
        // A zstd frame with a window of 2 GiB and no content.
        (Codec::Zstd, &[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0, 0]),
        // A zstd frame that says its content is 8 EiB.
        (Codec::Zstd, &[0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x01, 0, 0]),
    ];
    for (codec, body) in claims {
        let mut bytes = build(codec, &[Sent { time: 1, key: None, value: None, headers: vec![] }]);
        bytes.truncate(HEADER_BYTES);
        bytes.extend_from_slice(body);
        set_length(&mut bytes);
        let mut into = Vec::new();
        let result = decompress(&Batch::parse(&bytes).unwrap(), &mut into, 64 * MIB);
        let nothing = result.is_ok() && into.len() == HEADER_BYTES;
        assert!(result.is_err() || nothing, "{codec}: {result:?} {}", into.len());
        assert!(into.capacity() < MIB, "{codec} took {}", into.capacity());
    }
}

/// Some producers send one bare snappy block, without Java's frame.
#[test]
fn a_bare_snappy_block_is_read() {
    let records = [Sent { time: 9, key: None, value: Some(vec![7; 3000]), headers: vec![] }];
    let framed = build(Codec::Snappy, &records);
    let (head, body) = framed.split_at(HEADER_BYTES);
    let mut bare = [head, &body[20..]].concat();
    set_length(&mut bare);
    assert_eq!(format!("{:?}", received(&Batch::parse(&bare).unwrap())), format!("{records:?}"));
}

/// gzip members may stand one after the other, and may have names; a trailer that lies is an error.
#[test]
fn gzip_as_others_write_it() {
    let records: Vec<_> = (0..50)
        .map(|n| Sent { time: n, key: None, value: Some(vec![n as u8; 50]), headers: vec![] })
        .collect();
    let plain = build(Codec::None, &records);
    let (first, second) = plain[HEADER_BYTES..].split_at(700);
    let member = |bytes: &[u8]| {
        let mut member = Vec::new();
        let mut encoder = flate2::GzBuilder::new()
            .filename("records")
            .comment("of somebody")
            .extra([1, 2, 3])
            .read(bytes, flate2::Compression::best());
        encoder.read_to_end(&mut member).unwrap();
        member
    };
    let mut bytes = [&plain[..HEADER_BYTES], &member(first), &member(second)].concat();
    set_length(&mut bytes);
    bytes[22] = Codec::Gzip.id();
    assert_eq!(format!("{:?}", received(&Batch::parse(&bytes).unwrap())), format!("{records:?}"));

    *bytes.last_mut().unwrap() ^= 1;
    let flaw = decompress(&Batch::parse(&bytes).unwrap(), &mut Vec::new(), MIB).unwrap_err();
    assert!(flaw.to_string().contains("gzip trailer"), "{flaw}");
}

/// What Kafka knows and we do not is refused by its name, not by a checksum or a shrug.
#[test]
fn what_comes_in_a_later_version_is_refused_by_name() {
    let refusal = |bytes: &[u8]| match ValidBatch::check(bytes, MIB) {
        Err(Error::Unsupported { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    for (folder, base, name) in [
        ("g-txn-0", "00000000000000000000", "transactional"),
        ("g-txn-0", "00000000000000000005", "control"),
        ("g-idem-0", "00000000000000000000", "idempotent"),
        ("g-compact-0", "00000000000000000000", "delete horizon"),
    ] {
        let bytes = log(folder, base);
        let bytes = Batch::parse(&bytes).unwrap().bytes();
        assert!(refusal(bytes).contains(name), "{}", refusal(bytes));
    }
    for magic in [0, 1] {
        let mut old = vec![0; 40];
        old[11] = 28;
        old[16] = magic;
        assert_eq!(refusal(&old), format!("message format {magic}"));
    }
    // And a builder that was told to make one does not hand it to a log.
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(time(1), None, None, &[]).unwrap();
    builder.set_kind(true, false);
    assert!(matches!(builder.finish(), Err(Error::Unsupported { .. })));
}

/// Each thing that can be wrong with a batch is called by its name, with the byte.
#[test]
fn what_is_wrong_is_named() {
    let good =
        build(Codec::None, &vec![Sent { time: 5, key: None, value: Some(vec![1; 9]), headers: vec![] }; 3]);
    // Each record: length, attributes, two deltas, key, value's length, value, header count.
    let record = |n: usize| HEADER_BYTES + n * 16;
    let wrong = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        let crc = crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        ValidBatch::check(&bytes, MIB).unwrap_err().to_string()
    };
    assert_eq!(good.len(), record(3));
    for (at, byte, words) in [
        (16, 3, "magic 2 at byte 16, found magic 3"),
        (22, 6, "codec id"),
        (22, 8, "LogAppendTime, which only the log may set"),
        (26, 9, "record count of 10"),
        (42, 9, "max timestamp of 5"),
        (60, 4, "record count of 0 to 3"),
        (record(1), 0x7f, "record whose length fits the batch"),
        (record(1) + 3, 6, "record whose offset delta is within the batch"),
        (record(1) + 3, 4, "offset deltas without a gap"),
        (record(1) + 4, 40, "record whose key fits its length"),
        (record(1) + 4, 3, "record whose key fits its length"),
        (record(1) + 5, 20, "record with a header count"),
        (record(1) + 15, 2, "record headers that fill"),
        (record(1) + 5, 17, "record whose value fits its length"),
        (record(2), 28, "record with a header count at byte 93"),
    ] {
        assert!(wrong(at, byte).contains(words), "byte {at} = {byte}: {}", wrong(at, byte));
    }

    let mut longer = [&good[..], &[0]].concat();
    set_length(&mut longer);
    let crc = crc32c(&longer[21..]);
    longer[17..21].copy_from_slice(&crc.to_be_bytes());
    let error = ValidBatch::check(&longer, MIB).unwrap_err().to_string();
    assert!(
        error.contains("the end of the batch after 3 records at byte 109, found 1 more bytes"),
        "{error}"
    );

    let mut unsummed = good.clone();
    unsummed[70] ^= 1;
    let error = ValidBatch::check(&unsummed, MIB).unwrap_err().to_string();
    assert!(error.contains("a batch checksum of"), "{error}");
    let two = [&good[..], &good[..]].concat();
    let error = ValidBatch::check(&two, MIB).unwrap_err().to_string();
    assert!(error.contains("the end of the one batch"), "{error}");
    for cut in 0..good.len() {
        assert!(ValidBatch::check(&good[..cut], MIB).is_err());
        assert!(cut == 0 || batches(&good[..cut]).next().unwrap().is_err());
    }
    let torn = [&good[..], &good[..80]].concat();
    let mut walk = batches(&torn);
    assert!(walk.next().unwrap().is_ok());
    assert_eq!(walk.next().unwrap().unwrap_err().at, good.len() + 8);
    assert!(walk.next().is_none());
}

/// A builder says no before it changes anything.
#[test]
fn a_builder_refuses_what_kafka_would() {
    let mut builder = BatchBuilder::new(Codec::Gzip);
    assert!(builder.finish().is_err(), "no records");
    builder.append(time(4), Some(b"k"), None, &[]).unwrap();
    let error = builder.append(time(-2), None, None, &[]).unwrap_err().to_string();
    assert!(error.contains("record timestamp") && error.contains("found -2"), "{error}");
    assert_eq!(builder.len(), 1);
    for (codec, level) in [(Codec::Lz4, 1), (Codec::Gzip, 10), (Codec::Zstd, 23)] {
        assert!(BatchBuilder::with_level(codec, level).is_err(), "{codec} {level}");
    }
    for (codec, level) in [(Codec::Gzip, 1), (Codec::Gzip, 9), (Codec::Zstd, -5), (Codec::Zstd, 19)] {
        let mut builder = BatchBuilder::with_level(codec, level).unwrap();
        builder.append(time(4), Some(b"k"), Some(&[3; 500]), &[]).unwrap();
        let bytes = builder.finish().unwrap().to_vec();
        ValidBatch::check(&bytes, MIB).unwrap();
    }
}

/// A builder is kept for the next batch; nothing of the last one leaks into it.
#[test]
fn a_cleared_builder_is_as_new() {
    for codec in Codec::ALL {
        let mut builder = BatchBuilder::new(codec);
        let mut once = Vec::new();
        for n in 0..3 {
            builder.clear();
            for r in 0..200i64 {
                builder.append(time(1000 * n + r), None, Some(&[r as u8; 700]), &[]).unwrap();
            }
            once = builder.finish().unwrap().to_vec();
            assert_eq!(ValidBatch::check(&once, MIB).unwrap().header().base_timestamp, time(1000 * n));
        }
        let mut fresh = BatchBuilder::new(codec);
        for r in 0..200i64 {
            fresh.append(time(2000 + r), None, Some(&[r as u8; 700]), &[]).unwrap();
        }
        assert!(fresh.finish().unwrap().to_vec() == once, "{codec}");
    }
}

/// Where a number in a record grows by a byte, nothing else may move.
#[test]
fn numbers_of_every_length_are_in_their_place() {
    let lengths =
        [None, Some(0), Some(1), Some(63), Some(64), Some(65), Some(8191), Some(8192), Some(20_000)];
    let deltas = [0, 1, -1, 63, 64, -64, -65, 8191, 8192, -8192, -8193, 1 << 33];
    let bytes = |len: Option<usize>| len.map(|len| (0..len).map(|n| n as u8).collect::<Vec<_>>());
    for codec in [Codec::None, Codec::Gzip] {
        let mut builder = BatchBuilder::new(codec);
        let mut records = Vec::new();
        for (n, key) in lengths.into_iter().enumerate() {
            for value in lengths {
                let time = 1_700_000_000_000
                    + if records.is_empty() { 0 } else { deltas[records.len() % deltas.len()] };
                let headers =
                    if records.len() % 5 == 4 { vec![("h".into(), bytes(Some(n)))] } else { vec![] };
                records.push(Sent { time, key: bytes(key), value: bytes(value), headers });
            }
        }
        assert!(records.len() > 64, "offset deltas of two bytes");
        for record in &records {
            let headers: Vec<_> =
                record.headers.iter().map(|(name, value)| (&**name, value.as_deref())).collect();
            let before = builder.estimated_bytes();
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            let adds = builder.record_bytes(time(record.time), key, value, &headers);
            builder.append(time(record.time), key, value, &headers).unwrap();
            assert_eq!(builder.estimated_bytes(), before + adds);
        }
        let bytes = builder.finish().unwrap().to_vec();
        ValidBatch::check(&bytes, MIB).unwrap();
        let got = received(&Batch::parse(&bytes).unwrap());
        assert!(format!("{got:?}") == format!("{records:?}"), "{codec}");
    }
}
