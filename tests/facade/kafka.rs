//! A broker's own folders under the facade: everything is read, markers are nobody's business, and commits go on.

use std::io::Read as _;
use std::path::Path;

use girok::{Consumer, Girok, Offset, OffsetReset, ProducerRecord, TopicPartition};

use crate::{LONG, producer};

/// A directory with copies of the golden folders whose name begins so.
fn brokers_directory(prefix: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/segments");
    for folder in std::fs::read_dir(golden).unwrap().map(Result::unwrap) {
        let name = folder.file_name().into_string().unwrap();
        if !folder.path().is_dir() || !name.starts_with(prefix) {
            continue;
        }
        std::fs::create_dir(dir.path().join(&name)).unwrap();
        for file in std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap) {
            std::fs::copy(file.path(), dir.path().join(&name).join(file.file_name())).unwrap();
        }
    }
    dir
}

fn read(girok: &Girok, tp: &TopicPartition, max: usize) -> Vec<i64> {
    let mut consumer = girok.consumer().max_poll_records(max).check_crcs(true).build().unwrap();
    consumer.assign(std::slice::from_ref(tp)).unwrap();
    let mut offsets = Vec::new();
    loop {
        let records = consumer.poll_now().unwrap();
        if records.is_empty() {
            assert_eq!(consumer.position(tp).unwrap(), end(&consumer, tp), "{tp}: nothing is left");
            return offsets;
        }
        assert!(records.len() <= max);
        assert_eq!(records.iter().count(), records.len(), "{tp}: as many as it says");
        offsets.extend(records.iter().map(|record| record.offset().get()));
    }
}

fn end(consumer: &Consumer, tp: &TopicPartition) -> Offset {
    consumer.end_offsets(std::slice::from_ref(tp)).unwrap()[tp]
}

/// Every folder of the broker's, every codec, compacted, rolled and transactional, in polls of any size: the same records
/// each time, in order, and as many as Kafka's own account counts outside control batches.
#[test]
fn a_brokers_folders_are_read_whole() {
    let dir = brokers_directory("g-");
    let girok = Girok::open(dir.path()).unwrap();
    assert!(girok.recovery().refused.is_empty(), "{:?}", girok.recovery().refused);
    let topics = girok.admin().list_topics().unwrap();
    assert!(topics.len() >= 12);
    for topic in topics {
        for number in 0..topic.partitions {
            let tp = TopicPartition::new(topic.name.as_str(), number);
            let whole = read(&girok, &tp, usize::MAX);
            assert!(whole.is_sorted_by(|a, b| a < b), "{tp}");
            assert_eq!(whole.len(), counted(&tp), "{tp}");
            for max in [1, 7] {
                assert!(read(&girok, &tp, max) == whole, "{tp} in polls of {max}");
            }
        }
    }
}

/// How many records `kafka-dump-log` counted, control batches left out.
fn counted(tp: &TopicPartition) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dump").join(tp.folder());
    // A partition that nothing was sent to was not dumped.
    let Ok(files) = std::fs::read_dir(folder) else { return 0 };
    let mut dumps = String::new();
    for file in files.map(|file| file.unwrap().path()) {
        let name = file.to_string_lossy().into_owned();
        if name.ends_with(".log.txt") {
            dumps += &std::fs::read_to_string(file).unwrap();
        } else if name.ends_with(".log.txt.gz") {
            let mut gunzip = flate2::read::GzDecoder::new(std::fs::File::open(file).unwrap());
            gunzip.read_to_string(&mut dumps).unwrap();
        }
    }
    let batches =
        dumps.lines().filter(|line| line.starts_with("baseOffset") && line.contains("isControl: false"));
    batches
        .map(|line| {
            let count = line.split(" count: ").nth(1).unwrap().split(' ').next().unwrap();
            count.parse::<usize>().unwrap()
        })
        .sum()
}

/// What a group had committed at the broker is where it goes on here; and what it commits here comes behind that.
#[test]
fn a_brokers_group_goes_on_here() {
    let dir = brokers_directory("");
    let girok = Girok::open(dir.path()).unwrap();
    let groups = girok.admin().list_groups().unwrap();
    assert!(!groups.is_empty());
    let mut gone_on = 0;
    for group in groups {
        if group.members > 0 {
            continue;
        }
        for (tp, committed) in girok.admin().list_group_offsets(&group.group).unwrap() {
            let mut consumer = girok
                .consumer()
                .group_id(group.group.clone())
                .auto_offset_reset(OffsetReset::None)
                .enable_auto_commit(false)
                .build()
                .unwrap();
            if consumer.assign(std::slice::from_ref(&tp)).is_err() {
                continue;
            }
            assert_eq!(consumer.position(&tp).unwrap(), committed.offset);
            producer(&girok)
                .send(ProducerRecord::new(tp.topic(), "ours").partition(tp.partition()))
                .unwrap()
                .wait()
                .unwrap();
            let records = consumer.poll(LONG).unwrap();
            assert!(records.first_offset() >= committed.offset);
            consumer.commit().unwrap();
            gone_on += 1;
        }
    }
    assert!(gone_on > 0, "no group of the broker's had an offset of a topic that is here");
}
