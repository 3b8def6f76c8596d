//! Opening a directory whose bytes are anybody's.

use std::path::Path;
use std::sync::Arc;

use girok_engine::batch::{Batch, BatchBuilder, Codec, batches};
use girok_engine::disk::{Disk, MemoryDisk, Open, read_file, write_all_at};
use girok_engine::{Env, FetchBounds, Log, LogConfig, Offset, Partition, Timestamp, TopicPartition};

const FOLDER: &str = "/log/orders-0";

/// Takes the first byte of `data` for what else lies in the folder, and the rest for the bytes of a segment: opening
/// never panics; what is served is what stood there, whole checksummed batches from the front whose offsets only
/// grow; the partition can be appended to, and closed, and opened again with nothing lost and nothing looked into.
pub fn recovery(data: &[u8]) {
    let Some((&about, segment)) = data.split_first() else { return };
    let disk = MemoryDisk::new();
    let env = Env { disk: Arc::new(disk.clone()), ..Env::system() };
    disk.create_dir(Path::new(FOLDER)).expect("in memory");
    write(&disk, "00000000000000000000.log", segment);
    // Without this file a folder is nobody's and left alone.
    write(&disk, "partition.metadata", b"version: 0\ntopic_id: dSeqYQWsRMq6ZpYM8_CjTA");
    if about & 1 != 0 {
        // Index files that have nothing to do with it.
        write(&disk, "00000000000000000000.index", &segment[..segment.len() / 2]);
        write(&disk, "00000000000000000000.timeindex", &segment[segment.len() / 2..]);
    }
    if about & 2 != 0 {
        write(&disk, "leader-epoch-checkpoint", &segment[..segment.len().min(30)]);
    }

    let Ok((log, report)) = Log::open(env.clone(), "/log", LogConfig::default()) else { return };
    let name = TopicPartition::new("orders", 0);
    let Ok(partition) = log.partition(&name) else {
        assert!(report.refused.iter().any(|(refused, _)| *refused == name), "{report:?}");
        return;
    };
    let served = read(&partition);
    assert!(segment.starts_with(&served), "what stood there");
    let mut next = Offset::ZERO;
    for batch in batches(&served) {
        let batch = batch.expect("whole batches");
        batch.check_crc().expect("checksummed");
        assert!(batch.header().base_offset >= next);
        next = batch.header().next_offset();
    }
    assert_eq!(partition.end_offset(), next);
    assert!(served.len() >= whole_prefix(segment), "cut too much: {report:?}");
    let kept = served.len() as u64;
    let zeros = segment[served.len()..].iter().all(|&byte| byte == 0);
    let cut = report.cut().map(|report| report.cut_bytes).sum::<u64>();
    assert!(zeros || cut > 0, "kept {kept} of {}, and nobody says so: {report:?}", segment.len());

    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(Timestamp::from_millis(1), None, Some(b"after"), &[]).expect("small");
    let batch = builder.finish().expect("uncompressed");
    // A segment may be at its last offset, or the partition at its last leader epoch: then appending is an error.
    let Ok(appended) = partition.append(&batch) else { return };
    assert_eq!(appended.base_offset, next);
    partition.sync().expect("in memory");
    let whole = read(&partition);
    assert!(whole.starts_with(&served));
    let last = Batch::parse(&whole[served.len()..]).expect("ours");
    assert_eq!(last.records().next().expect("one").expect("ours").value(), Some(&b"after"[..]));
    drop(partition);
    log.close().expect("in memory");
    drop(log);

    // Closed, the file is exactly its batches, as Kafka's tools want it.
    let (log, report) = Log::open(env, "/log", LogConfig::default()).expect("closed cleanly");
    assert!(report.clean && report.refused.is_empty(), "{report:?}");
    let partition = log.partition(&name).expect("it was there");
    assert_eq!(read(&partition), whole);
    let last = Path::new(FOLDER).join("00000000000000000000.log");
    if let Ok(bytes) = read_file(&disk, &last, 1 << 30) {
        assert!(whole.starts_with(&bytes));
    }
}

/// The bytes nobody may cut: checksummed batches from the front without a gap, as many as a segment can number.
fn whole_prefix(segment: &[u8]) -> usize {
    let (mut len, mut next) = (0, Offset::ZERO);
    for batch in batches(segment).map_while(Result::ok) {
        let header = batch.header();
        let beyond = header.next_offset().get() > i32::MAX as i64;
        if header.base_offset != next || beyond || batch.check_crc().is_err() {
            break;
        }
        len += batch.bytes().len();
        next = batch.header().next_offset();
    }
    len
}

fn write(disk: &MemoryDisk, name: &str, bytes: &[u8]) {
    let file = disk.open(&Path::new(FOLDER).join(name), Open::CreateNew).expect("in memory");
    write_all_at(&*file, bytes, 0).expect("in memory");
}

fn read(partition: &Partition) -> Vec<u8> {
    let mut reader = partition.reader(partition.start_offset());
    let mut bytes = Vec::new();
    loop {
        let view = reader.read(&FetchBounds::default()).expect("what was kept can be read");
        if view.is_empty() {
            return bytes;
        }
        bytes.extend_from_slice(view.bytes());
    }
}
