//! The coordinator over the engine's own log: the same promises, through real batches, segments and syncs.

use std::path::Path;
use std::sync::Arc;

use girok_coordinator::records::{Record, describe};
use girok_coordinator::{
    CommitOptions, Coordinator, Ground, Journal, OpenError, OpenReport, PartitionJournal, Settings,
    StateFile, Verdict, replay, state_file,
};
use girok_engine::batch::{BatchBuilder, Codec};
use girok_engine::{
    Durability, Env, Error, FetchBounds, Log, LogConfig, Offset, Partition, Timestamp, TopicConfig,
};

use crate::support::{FakeTopics, entry, raw_records, tp, visible};

fn offsets_of(log: &Log) -> Partition {
    log.partition(&tp("__consumer_offsets-0")).unwrap()
}

fn log(env: &Env) -> Log {
    let (log, _) = Log::open(env.clone(), "/log", LogConfig::default()).unwrap();
    if log.topic("__consumer_offsets").is_err() {
        log.create_internal_topic("__consumer_offsets", 1, TopicConfig::default()).unwrap();
    }
    log
}

fn file_of(log: &Log) -> StateFile {
    let path = log.dir().join(state_file::FILE_NAME);
    StateFile { disk: log.env().disk.clone(), path, boot: log.boot() }
}

fn open(log: &Log) -> Result<(Coordinator, OpenReport), OpenError> {
    let topics = FakeTopics::default();
    topics.create("orders", 1, 3, 1000);
    let ground = Ground {
        journal: Arc::new(PartitionJournal::new(offsets_of(log))),
        topics: Arc::new(topics),
        clock: log.env().clock.clone(),
        state_file: Some(file_of(log)),
    };
    Coordinator::open(ground, Settings::default())
}

/// Commits, a clean close, another open: with the state file nothing is read, without it everything, and the groups
/// and their receipts are the same.
#[test]
fn commits_survive_their_log() {
    let env = Env::in_memory();
    let first = log(&env);
    let (coordinator, _) = open(&first).unwrap();
    let mut receipts = Vec::new();
    for n in 0..100 {
        let group = ["search", "archive"][n % 2];
        let entries = [entry("orders-0", n as i64), entry("orders-1", 2 * n as i64).with_metadata("기록")];
        for result in coordinator.commit(group, &entries, CommitOptions::default()).wait() {
            receipts.push(result.unwrap());
        }
    }
    assert_eq!(receipts.last().unwrap().durability, Durability::Synced);
    coordinator.delete_offsets("archive", &[tp("orders-1")]).unwrap().wait().unwrap();
    let lived = coordinator.state();
    let end = coordinator.save_state().unwrap().unwrap();
    first.close().unwrap();
    drop((coordinator, first));

    let again = log(&env);
    let (coordinator, report) = open(&again).unwrap();
    assert_eq!((report.state_file_covered, report.records_replayed), (Some(end), 0));
    assert_eq!(coordinator.state(), lived);
    let (alone, report) =
        replay(&PartitionJournal::new(offsets_of(&again)), None, &Settings::default()).unwrap();
    assert_eq!((report.state_file_covered, report.records_replayed), (None, 201));
    assert_eq!(alone, lived);
    for (n, receipt) in receipts.iter().enumerate() {
        let verdict = coordinator.verify(receipt).wait().unwrap();
        let deleted = (&*receipt.group, receipt.partition.partition()) == ("archive", 1);
        let expected = match n {
            _ if deleted => matches!(verdict, Verdict::Deleted { .. }),
            196.. => verdict == Verdict::Stored,
            _ => matches!(verdict, Verdict::Superseded { .. }),
        };
        assert!(expected, "{n}: {verdict}");
    }
}

/// What lies in the log are Kafka's records in Kafka's batches, one batch for one commit.
#[test]
fn a_commit_is_one_batch_of_kafkas_records() {
    let env = Env::in_memory();
    let log = log(&env);
    let (coordinator, _) = open(&log).unwrap();
    let entries = [entry("orders-0", 7), entry("orders-1", 8)];
    drop(coordinator.commit("search", &entries, CommitOptions::default()).wait());
    drop(coordinator.delete_group("search").unwrap().wait());
    let view = offsets_of(&log).fetch(Offset::ZERO, &FetchBounds::default()).unwrap();
    let counts: Vec<i32> = view.batches().map(|batch| batch.unwrap().header().record_count).collect();
    assert_eq!(counts, [2, 3]);
    let kinds: Vec<(i16, bool)> = raw_records(view.bytes())
        .iter()
        .map(|raw| Record::decode(raw.key.as_deref().unwrap(), raw.value.as_deref()).unwrap())
        .map(|record| (record.kind(), record.is_tombstone()))
        .collect();
    assert_eq!(kinds, [(1, false), (1, false), (1, true), (1, true), (2, true)]);
    let first = &raw_records(view.bytes())[0];
    let described = describe(Offset::ZERO, first.key.as_deref().unwrap(), first.value.as_deref());
    assert_eq!(described.key, r#"{"type":"1","data":{"group":"search","topic":"orders","partition":0}}"#);
    let timestamp = first.timestamp;
    let payload = format!(
        r#"{{"version":"4","data":{{"offset":7,"leaderEpoch":-1,"metadata":"","commitTimestamp":{timestamp},"topicId":"AQEBAQEBAQEBAQEBAQEBAQ"}}}}"#
    );
    assert_eq!(described.payload.unwrap(), payload);
}

/// An imported offsets topic may be compressed, and read from the middle of a batch.
#[test]
fn compressed_batches_are_read() {
    let env = Env::in_memory();
    let log = log(&env);
    let partition = offsets_of(&log);
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::None] {
        let mut builder = BatchBuilder::new(codec);
        for n in 0..3 {
            let mut entries = girok_coordinator::Entries::default();
            entries.push(&crate::support::offset_record(&codec.to_string(), "orders-0", n));
            let (key, value) = entries.iter().next().unwrap();
            builder.append(Timestamp::from_millis(n), Some(key), value, &[]).unwrap();
        }
        partition.append(&builder.finish().unwrap()).unwrap();
    }
    let journal = PartitionJournal::new(partition);
    let (state, report) = replay(&journal, None, &Settings::default()).unwrap();
    assert_eq!((report.records_replayed, state.next_offset()), (12, Offset::new(12)));
    assert!(
        state.groups().all(|(_, group)| group.committed(&tp("orders-0")).unwrap().offset == Offset::new(2))
    );
    assert_eq!(state.groups().count(), 4);

    let mut seen = Vec::new();
    journal
        .read_from(Offset::new(4), &mut |at, _, _, _| {
            seen.push(at.get());
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, Vec::from_iter(4..12), "nothing before, though the batch begins at 3");
}

/// A record that cannot be is an error that names partition, offset and byte.
#[test]
fn damage_is_named_with_its_place() {
    let env = Env::in_memory();
    let log = log(&env);
    let (coordinator, _) = open(&log).unwrap();
    drop(coordinator.commit("search", &[entry("orders-0", 7)], CommitOptions::default()).wait());
    let good = visible(&coordinator.state());
    drop(coordinator);
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(Timestamp::from_millis(1), Some(&[0, 2, 0, 1, b'g']), Some(&[0, 9]), &[]).unwrap();
    let partition = offsets_of(&log);
    partition.append(&builder.finish().unwrap()).unwrap();
    let failed = open(&log).unwrap_err();
    assert!(matches!(failed.error, Error::Corrupt { .. }));
    let text = failed.to_string();
    assert!(
        text.contains(
            "__consumer_offsets-0, offset 1, value at byte 0: expected a version from 0 to 4, found 9"
        ),
        "{text}"
    );
    assert_eq!(visible(&failed.last_good), good);
    assert_eq!(partition.end_offset(), Offset::new(2));
}

/// A state file that is damaged is told, the log is read, and the next save mends it.
#[test]
fn a_damaged_state_file_is_mended() {
    let env = Env::in_memory();
    let log = log(&env);
    let (coordinator, _) = open(&log).unwrap();
    drop(coordinator.commit("search", &[entry("orders-0", 7)], CommitOptions::default()).wait());
    coordinator.save_state().unwrap();
    drop(coordinator);
    let path = Path::new("/log").join(state_file::FILE_NAME);
    let file = env.disk.open(&path, girok_engine::disk::Open::Write).unwrap();
    file.write_at(b"?", 70).unwrap();
    let (coordinator, report) = open(&log).unwrap();
    let refused = report.state_file_refused.unwrap().to_string();
    assert!(refused.contains("/log/girok-groups.state at byte") && refused.contains("checksum"), "{refused}");
    assert_eq!(report.records_replayed, 1);
    coordinator.save_state().unwrap();
    assert!(open(&log).unwrap().1.state_file_covered.is_some());
}
