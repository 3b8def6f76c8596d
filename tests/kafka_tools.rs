//! The promise: Apache Kafka's own tools read what we wrote.
//!
//! `kafka-dump-log` is the judge, not our reading of the format. First it has to agree with `tests/golden/dump` about
//! files that Kafka wrote, which shows that the judge is the right one and listens; then it reads ours.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use girok_coordinator::records::describe;
use girok_coordinator::{
    CommitEntry, CommitOptions, Coordinator, Ends, Ground, PartitionJournal, Settings, TopicView, Topics,
};
use girok_engine::batch::{BatchBuilder, Codec};
use girok_engine::kafka_files::{
    leader_epochs_bytes, offset_checkpoint_bytes, parse_leader_epochs, parse_meta_properties,
    parse_offset_checkpoint, parse_partition_metadata, partition_metadata_bytes,
};
use girok_engine::{
    CleanupPolicy, Durability, Env, Log, LogConfig, Offset, Timestamp, TopicConfig, TopicId, TopicPartition,
};

#[path = "support/kafka_tools.rs"]
mod kafka_tools;
use kafka_tools::kafka_dump_log;

const DEEP: [&str; 2] = ["--print-data-log", "--deep-iteration"];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The names of the files in `root/folder`, as `folder/name`, if they have one of the endings and are not empty.
fn files(root: &Path, folder: &str, endings: &[&str]) -> Vec<String> {
    let entries = std::fs::read_dir(root.join(folder)).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.metadata().unwrap().len() > 0)
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| endings.iter().any(|ending| name.ends_with(ending)))
        .map(|name| format!("{folder}/{name}"))
        .collect();
    names.sort();
    names
}

/// What was printed for each file.
fn by_file(printed: &str) -> BTreeMap<String, String> {
    let mut dumps = BTreeMap::new();
    for dump in printed.split("Dumping ").skip(1) {
        let (name, text) = dump.split_once('\n').unwrap_or((dump, ""));
        dumps.insert(name.to_string(), text.to_string());
    }
    dumps
}

/// The judge judges as it did when the golden dumps were made.
#[test]
fn kafka_still_reads_what_kafka_wrote() {
    let segments = golden().join("segments");
    let mut compared = 0;
    for (folders, extra) in [
        (
            &[
                "g-none-0",
                "g-gzip-0",
                "g-snappy-0",
                "g-lz4-0",
                "g-zstd-0",
                "g-txn-0",
                "g-nulls-0",
                "g-headers-0",
            ][..],
            None,
        ),
        (&["__consumer_offsets-0"], Some("--offsets-decoder")),
    ] {
        let names: Vec<String> = folders
            .iter()
            .flat_map(|folder| {
                files(&segments, folder, &[".log", ".index", ".timeindex", ".snapshot", ".txnindex"])
            })
            .collect();
        let args: Vec<&str> = DEEP.into_iter().chain(extra).collect();
        let Some(printed) = kafka_dump_log("kafka_still_reads_what_kafka_wrote", &segments, &names, &args)
        else {
            return;
        };
        for (name, text) in by_file(&printed) {
            let Ok(expected) = std::fs::read_to_string(golden().join("dump").join(format!("{name}.txt")))
            else {
                continue;
            };
            // The golden dumps have what the tool says on its other stream, too.
            let expected = expected.split("Non-consecutive offsets").next().unwrap_or_default();
            assert_eq!(text, by_file(expected)[&name], "{name}");
            compared += 1;
        }
    }
    assert!(compared >= 20, "only {compared} dumps were compared");
}

/// A record as the test knows it: everything that the dump shows.
struct Known {
    offset: i64,
    timestamp: i64,
    key: String,
    value: String,
    headers: bool,
}

impl Known {
    fn line(&self) -> String {
        let headers = if self.headers { "trace,empty" } else { "" };
        format!(
            "| offset: {} CreateTime: {} keySize: {} valueSize: {} sequence: -1 headerKeys: [{headers}] key: {} payload: {}",
            self.offset,
            self.timestamp,
            self.key.len(),
            self.value.len(),
            self.key,
            self.value
        )
    }
}

/// Appends records of many sizes in batches of many sizes, from offset `base` on.
fn append(log: &Log, tp: &TopicPartition, codec: Codec, base: i64, records: i64) -> Vec<Known> {
    let partition = log.partition(tp).unwrap();
    let mut builder = BatchBuilder::new(codec);
    let mut known = Vec::new();
    for number in 0..records {
        let record = Known {
            offset: base + number,
            timestamp: 1_700_000_000_000 + number * 10,
            key: format!("key-{number}"),
            value: format!("value-{number}-{}", "abcdefghij".repeat((number % 23) as usize)),
            headers: number % 7 == 0,
        };
        let headers: &[(&str, Option<&[u8]>)] =
            if record.headers { &[("trace", Some(b"t-1")), ("empty", None)] } else { &[] };
        let (key, value) = (record.key.as_bytes(), record.value.as_bytes());
        builder.append(Timestamp::from_millis(record.timestamp), Some(key), Some(value), headers).unwrap();
        known.push(record);
        if builder.len() as i64 > number % 13 || number == records - 1 {
            let appended = partition.append(&builder.finish().unwrap()).unwrap();
            assert_eq!(appended.base_offset, Offset::new(base + number + 1 - builder.len() as i64));
            builder.clear();
        }
    }
    known
}

/// Compares the dump of a partition's whole log with what was appended, and checks each batch's own line.
fn check_logs(dumps: &BTreeMap<String, String>, folder: &str, codec: Codec, known: &[Known]) {
    let mut lines = Vec::new();
    for (name, text) in dumps.iter().filter(|(name, _)| name.starts_with(folder) && name.ends_with(".log")) {
        let base: i64 = name[folder.len() + 1..][..20].parse().unwrap();
        assert!(text.starts_with(&format!("Log starting offset: {base}\n")), "{name}");
        let mut position = 0;
        for line in text.lines().skip(1) {
            if line.starts_with('|') {
                lines.push(line);
                continue;
            }
            let words: Vec<&str> = line.split(' ').collect();
            let field = |name: &str| {
                let at = words.iter().position(|word| *word == format!("{name}:"));
                words[at.unwrap_or_else(|| panic!("no {name} in {line:?}")) + 1]
            };
            assert_eq!((field("isvalid"), field("magic")), ("true", "2"), "{name}: {line}");
            assert_eq!(field("compresscodec"), codec.to_string(), "{name}: {line}");
            assert_eq!(field("position"), position.to_string(), "{name}: {line}");
            assert_eq!((field("producerId"), field("isControl")), ("-1", "false"), "{name}: {line}");
            position += field("size").parse::<u64>().unwrap();
        }
    }
    let expected: Vec<String> = known.iter().map(Known::line).collect();
    assert_eq!(lines, expected);
}

/// Every codec, many batches, several segments, indexes included, after a clean close.
#[test]
fn kafka_dumps_what_we_wrote_with_every_codec() {
    const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(Env::system(), dir.path(), LogConfig::default()).unwrap();
    let config = TopicConfig {
        segment_bytes: 8 << 10,
        index_interval_bytes: 512,
        durability: Durability::Written,
        ..TopicConfig::default()
    };
    let topics: Vec<_> =
        CODECS.iter().map(|codec| (*codec, TopicPartition::new(format!("t-{codec}"), 0))).collect();
    let mut known = Vec::new();
    for (codec, tp) in &topics {
        log.create_topic(tp.topic(), 1, config.clone()).unwrap();
        known.push(append(&log, tp, *codec, 0, 1000));
    }
    log.close().unwrap();

    let names: Vec<String> =
        topics.iter().flat_map(|(_, tp)| files(dir.path(), &tp.folder(), &[".log"])).collect();
    assert!(names.len() > 2 * CODECS.len(), "some logs roll: {names:?}");
    let test = "kafka_dumps_what_we_wrote_with_every_codec";
    let Some(printed) = kafka_dump_log(test, dir.path(), &names, &DEEP) else { return };
    let dumps = by_file(&printed);
    assert_eq!(dumps.len(), names.len());
    for ((codec, tp), known) in topics.iter().zip(&known) {
        check_logs(&dumps, &tp.folder(), *codec, known);
    }

    // The indexes against the logs, as Kafka checks its own.
    let indexes: Vec<String> = topics
        .iter()
        .flat_map(|(_, tp)| files(dir.path(), &tp.folder(), &[".index", ".timeindex"]))
        .collect();
    assert!(indexes.len() > CODECS.len(), "{indexes:?}");
    let printed = kafka_dump_log(test, dir.path(), &indexes, &["--verify-index-only"]).unwrap();
    assert_eq!(by_file(&printed).len(), indexes.len());
    assert!(!printed.contains("ismatch") && !printed.contains("not"), "{printed}");
    let printed = kafka_dump_log(test, dir.path(), &indexes, &["--index-sanity-check"]).unwrap();
    assert_eq!(printed.matches("passed sanity check").count(), indexes.len(), "{printed}");
}

/// Copies a directory as it lies there: what another process, or a crash, would find.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (entry, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).unwrap();
        if entry.is_dir() { copy(&entry, &to) } else { std::fs::copy(&entry, &to).map(drop).unwrap() }
    }
}

/// A directory as a death leaves it has room behind the last batch, which is no batch; opened and closed once (which is
/// what `girok close` does), every file ends with its last batch and has its indexes.
#[test]
fn kafka_dumps_a_crashed_directory_that_was_closed() {
    let (dir, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tp = TopicPartition::new("orders", 0);
    let (log, _) = Log::open(Env::system(), dir.path(), LogConfig::default()).unwrap();
    log.create_topic(tp.topic(), 1, TopicConfig { segment_bytes: 32 << 10, ..TopicConfig::default() })
        .unwrap();
    let known = append(&log, &tp, Codec::None, 0, 1000);
    copy(dir.path(), crashed.path());
    log.close().unwrap();

    let logs = files(crashed.path(), &tp.folder(), &[".log"]);
    let last = crashed.path().join(logs.last().unwrap());
    assert_eq!(std::fs::read(&last).unwrap().last(), Some(&0), "the scene: room behind the last batch");
    let (log, report) = Log::open(Env::system(), crashed.path(), LogConfig::default()).unwrap();
    assert!(!report.clean && report.cut().next().is_none(), "{report:?}");
    log.close().unwrap();

    let names = files(crashed.path(), &tp.folder(), &[".log"]);
    let test = "kafka_dumps_a_crashed_directory_that_was_closed";
    let Some(printed) = kafka_dump_log(test, crashed.path(), &names, &DEEP) else { return };
    check_logs(&by_file(&printed), &tp.folder(), Codec::None, &known);
    let indexes = files(crashed.path(), &tp.folder(), &[".index", ".timeindex"]);
    let printed = kafka_dump_log(test, crashed.path(), &indexes, &["--index-sanity-check"]).unwrap();
    assert_eq!(printed.matches("passed sanity check").count(), indexes.len(), "{printed}");
}

/// What our compaction leaves, plain and compressed: batches with holes and batches that were emptied.
#[test]
fn kafka_dumps_what_our_compaction_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::system();
    let clock = env.clock.clone();
    let (log, _) =
        Log::open(env, dir.path(), LogConfig { retention_check_ms: 1000, ..LogConfig::default() }).unwrap();
    let config = TopicConfig {
        cleanup_policy: CleanupPolicy::Compact,
        segment_bytes: 4096,
        min_cleanable_dirty_ratio: 0.0,
        ..TopicConfig::default()
    };
    for codec in [Codec::None, Codec::Lz4] {
        let topic = format!("t-{codec}");
        log.create_topic(&topic, 1, config.clone()).unwrap();
        let partition = log.partition(&TopicPartition::new(topic, 0)).unwrap();
        let mut builder = BatchBuilder::new(codec);
        for number in 0..2000i64 {
            // A few keys are written again and again, some once.
            let key =
                if number % 10 == 0 { format!("once-{number}") } else { format!("often-{}", number % 7) };
            let time = Timestamp::from_millis(1_700_000_000_000 + number);
            builder.append(time, Some(key.as_bytes()), Some(number.to_string().as_bytes()), &[]).unwrap();
            if builder.len() == 5 {
                partition.append(&builder.finish().unwrap()).unwrap();
                builder.clear();
            }
        }
        partition.sync().unwrap();
    }
    let mut now = clock.now();
    for _ in 0..20 {
        now = now + std::time::Duration::from_secs(2);
        log.step(now).unwrap();
    }
    log.close().unwrap();

    let names: Vec<String> =
        ["t-none-0", "t-lz4-0"].iter().flat_map(|folder| files(dir.path(), folder, &[".log"])).collect();
    let test = "kafka_dumps_what_our_compaction_leaves";
    let Some(printed) = kafka_dump_log(test, dir.path(), &names, &DEEP) else { return };
    for folder in ["t-none-0", "t-lz4-0"] {
        let dumps = by_file(&printed);
        let lines: Vec<&str> = dumps
            .iter()
            .filter(|(name, _)| name.starts_with(folder))
            .flat_map(|(_, text)| text.lines())
            .collect();
        let batches = lines.iter().filter(|line| line.starts_with("baseOffset"));
        assert!(
            batches.clone().count() > 0 && batches.clone().all(|line| line.ends_with("isvalid: true")),
            "{folder}"
        );
        // By Kafka's reading, every key's last record is there, and most of what was superseded is not.
        let mut last = BTreeMap::new();
        let records: Vec<&&str> = lines.iter().filter(|line| line.starts_with('|')).collect();
        for record in &records {
            let (_, pair) = record.split_once("key: ").unwrap();
            let (key, value) = pair.split_once(" payload: ").unwrap();
            last.insert(key.to_string(), value.to_string());
        }
        for number in (0..2000).step_by(10) {
            assert_eq!(last[&format!("once-{number}")], number.to_string(), "{folder}");
        }
        for key in 0..7 {
            let expected = (0..2000).rev().find(|n| n % 10 != 0 && n % 7 == key).unwrap();
            assert_eq!(last[&format!("often-{key}")], expected.to_string(), "{folder}");
        }
        assert!(records.len() < 500, "{folder}: {} of 2000 records are left", records.len());
    }
}

/// A partition that Kafka wrote, appended to by us, is still Kafka's to read: its records first, then ours.
#[test]
fn kafka_reads_on_where_we_went_on() {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["g-none-0", "g-zstd-0"] {
        copy(&golden().join("segments").join(folder), &dir.path().join(folder));
    }
    let (log, _) = Log::open(Env::system(), dir.path(), LogConfig::default()).unwrap();
    let known = append(&log, &TopicPartition::new("g-none", 0), Codec::None, 200, 50);
    append(&log, &TopicPartition::new("g-zstd", 0), Codec::Lz4, 200, 50);
    log.close().unwrap();

    let names: Vec<String> =
        ["g-none-0", "g-zstd-0"].iter().flat_map(|folder| files(dir.path(), folder, &[".log"])).collect();
    let Some(printed) = kafka_dump_log("kafka_reads_on_where_we_went_on", dir.path(), &names, &DEEP) else {
        return;
    };
    for (name, text) in by_file(&printed) {
        let path = golden().join("dump").join(format!("{name}.txt"));
        let before = by_file(&std::fs::read_to_string(path).unwrap()).remove(&name).unwrap();
        let ours = text.strip_prefix(&before).unwrap_or_else(|| panic!("{name}: Kafka's records first"));
        let records: Vec<&str> = ours.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(records, known.iter().map(Known::line).collect::<Vec<_>>(), "{name}");
        assert!(ours.lines().all(|line| line.starts_with('|') || line.ends_with("isvalid: true")), "{name}");
    }
}

/// One topic with a thousand records, for commits.
#[derive(Debug)]
struct Orders;

impl Topics for Orders {
    fn topic(&self, name: &str) -> Option<TopicView> {
        (name == "orders").then_some(TopicView { id: TopicId([1; 16]), partitions: 3 })
    }
    fn ends(&self, _: &TopicPartition) -> Option<Ends> {
        Some(Ends { published: Offset::new(1000), synced: Offset::new(1000) })
    }
}

/// Commits, a metadata string, a deleted offset: `--offsets-decoder` prints them, and prints what our own dump prints.
#[test]
fn kafka_decodes_our_committed_offsets() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::system();
    let clock = env.clock.clone();
    let (log, _) = Log::open(env, dir.path(), LogConfig::default()).unwrap();
    let config = TopicConfig { cleanup_policy: CleanupPolicy::Compact, ..TopicConfig::default() };
    log.create_internal_topic("__consumer_offsets", 1, config).unwrap();
    let place = TopicPartition::new("__consumer_offsets", 0);
    let journal = PartitionJournal::new(log.partition(&place).unwrap());
    let ground = Ground { journal: Arc::new(journal), topics: Arc::new(Orders), clock, state_file: None };
    let (coordinator, _) = Coordinator::open(ground, Settings::default()).unwrap();
    let orders = |partition| TopicPartition::new("orders", partition);
    for (group, partition, offset) in
        [("search", 0, 41), ("search", 1, 1000), ("archive", 2, 0), ("search", 0, 42)]
    {
        let entry = CommitEntry::new(orders(partition), Offset::new(offset)).with_metadata("batch \"7\"");
        let commit = coordinator.commit(group, &[entry], CommitOptions::default());
        commit.wait().remove(0).unwrap();
    }
    let deleted = coordinator.delete_offsets("search", &[orders(1)]);
    assert!(deleted.is_ok());

    // What our own dump would say, from the same bytes.
    let view = log.partition(&place).unwrap();
    view.sync().unwrap();
    let view = view.fetch(Offset::ZERO, &girok_engine::FetchBounds::default()).unwrap();
    let mut ours = Vec::new();
    for batch in view.batches() {
        for record in batch.unwrap().records() {
            let record = record.unwrap();
            let said = describe(record.offset(), record.key().unwrap(), record.value());
            ours.push(format!("key: {} payload: {}", said.key, said.payload.unwrap()));
        }
    }
    drop(view);
    drop(coordinator);
    log.close().unwrap();

    let names = files(dir.path(), "__consumer_offsets-0", &[".log"]);
    let args = ["--print-data-log", "--deep-iteration", "--offsets-decoder"];
    let Some(printed) = kafka_dump_log("kafka_decodes_our_committed_offsets", dir.path(), &names, &args)
    else {
        return;
    };
    let records: Vec<&str> = printed.lines().filter(|line| line.starts_with('|')).collect();
    let theirs: Vec<&str> = records.iter().map(|line| &line[line.find("key: ").unwrap()..]).collect();
    assert_eq!(theirs, ours);
    assert_eq!(theirs.len(), 5, "{theirs:?}");
    assert!(theirs[3].contains(r#""group":"search","topic":"orders","partition":0"#), "{}", theirs[3]);
    assert!(theirs[3].contains(r#""offset":42"#) && theirs[4].ends_with("<DELETE>"), "{theirs:?}");
}

/// Kafka's small files, as it left them, are read, and written again byte for byte. No Java is needed for that.
#[test]
fn kafkas_small_files_are_written_again_as_they_were() {
    let segments = golden().join("segments");
    let mut folders = 0;
    for entry in std::fs::read_dir(&segments).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let file = path.join("partition.metadata");
            let bytes = std::fs::read(&file).unwrap();
            let id = parse_partition_metadata(&file, &bytes).unwrap();
            assert_eq!(partition_metadata_bytes(id), bytes, "{}", file.display());

            let file = path.join("leader-epoch-checkpoint");
            let bytes = std::fs::read(&file).unwrap();
            let epochs = parse_leader_epochs(&file, &bytes).unwrap();
            assert_eq!(leader_epochs_bytes(&epochs), bytes, "{}", file.display());
            folders += 1;
        }
    }
    assert!(folders >= 15, "only {folders} folders");

    for name in [
        "log-start-offset-checkpoint",
        "recovery-point-offset-checkpoint",
        "replication-offset-checkpoint",
        "cleaner-offset-checkpoint",
    ] {
        let file = segments.join(name);
        let bytes = std::fs::read(&file).unwrap();
        let offsets = parse_offset_checkpoint(&file, &bytes).unwrap();
        // Kafka's lines come in the order of a hash map, so they are compared sorted.
        let sorted = |bytes: &[u8]| {
            let mut lines: Vec<String> =
                std::str::from_utf8(bytes).unwrap().lines().map(str::to_string).collect();
            lines[2..].sort();
            lines
        };
        assert_eq!(sorted(&offset_checkpoint_bytes(&offsets)), sorted(&bytes), "{name}");
        assert!(!offsets.is_empty());
    }
    let starts = segments.join("log-start-offset-checkpoint");
    let starts = parse_offset_checkpoint(&starts, &std::fs::read(&starts).unwrap()).unwrap();
    assert_eq!(starts[&TopicPartition::new("g-single", 0)], Offset::new(5));

    let file = segments.join("meta.properties");
    let broker = parse_meta_properties(&file, &std::fs::read(&file).unwrap()).unwrap();
    assert_eq!((broker.version, broker.node_id), (1, Some(1)));
    assert!(broker.cluster_id.is_some() && broker.directory_id.is_some());
}
