//! The promise: damage is repaired as documented or refused by name, and never served as data.
//!
//! A stopped engine's files are cut or overwritten at random places, one place at a time, and the directory is opened
//! again. Beside it stands what was sent. Every partition must then be exactly intact, or end early in a way that is
//! reported (only behind the recovery point, after a crash), or give an error that names the damaged file; committed
//! offsets must be there or be an error, never silently gone. The places come from a seed that is the same in every run: `GIROK_SEED=N cargo test
//! --test damage` takes another, `GIROK_DAMAGES=N` damages more.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use girok::{Codec, CommitEntry, Durability, Error, Girok, LogConfig, ProducerRecord, TopicConfig};
use girok_engine::batch::{Batch, BatchBuilder, decompress};
use girok_engine::{FetchBounds, Offset, Partition, RecoveryReport, Timestamp, TopicPartition};
use support::Rng;

/// What is damaged when nobody says otherwise: the same in every run, so that a red one is about the change.
const SEED: u64 = 412_305;

/// A directory by its files, and what must be in it.
struct Image {
    name: &'static str,
    files: BTreeMap<PathBuf, Vec<u8>>,
    clean: bool,
    sent: BTreeMap<TopicPartition, Vec<Vec<u8>>>,
    /// Everything below was known good when the checkpoint was written.
    known_good: BTreeMap<TopicPartition, i64>,
    /// Every offset that was committed, oldest first.
    committed: BTreeMap<TopicPartition, Vec<i64>>,
}

/// Files in memory where there is a place for them: a thousand opens sync some ten thousand times.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .unwrap_or_else(|_| tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
}

fn files_in(dir: &Path, below: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_in(&path, below, into);
        } else {
            into.insert(path.strip_prefix(below).unwrap().to_owned(), fs::read(&path).unwrap());
        }
    }
}

fn is_log(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "log")
}

fn config() -> LogConfig {
    LogConfig { growth_bytes_min: 4096, growth_bytes_max: 8192, ..LogConfig::default() }
}

fn open(dir: &Path) -> Result<Girok, Error> {
    Girok::builder().threads(false).config(config()).open(dir)
}

/// A small directory of everything: several segments, two durabilities, compressed batches, commits, a start that was
/// moved. Once as a clean close leaves it, once as SIGKILL does, some time after a checkpoint.
fn images() -> [Image; 2] {
    let dir = scratch();
    let girok = open(dir.path()).unwrap();
    let plain = TopicConfig {
        segment_bytes: 4096,
        index_interval_bytes: 256,
        retention_ms: None,
        ..TopicConfig::default()
    };
    girok.admin().create_topic("plain", 2, plain.clone()).unwrap();
    let packed = TopicConfig { durability: Durability::Written, ..plain };
    girok.admin().create_topic("packed", 1, packed).unwrap();
    let mut sent: BTreeMap<TopicPartition, Vec<Vec<u8>>> = BTreeMap::new();
    let mut committed: BTreeMap<TopicPartition, Vec<i64>> = BTreeMap::new();
    let mut known_good = BTreeMap::new();
    let mut consumer = girok.consumer().group_id("g").enable_auto_commit(false).build().unwrap();
    for round in 0..12 {
        for (topic, number, codec) in
            [("plain", 0, Codec::None), ("plain", 1, Codec::None), ("packed", 0, Codec::Lz4)]
        {
            let producer = girok.producer().compression(codec).build().unwrap();
            let tp = TopicPartition::new(topic, number);
            let all = sent.entry(tp).or_default();
            let deliveries: Vec<_> = (0..6)
                .map(|_| {
                    let value = format!("{topic} {number} {} {}", all.len(), "x".repeat(all.len() % 90));
                    all.push(value.clone().into_bytes());
                    producer.send(ProducerRecord::new(topic, value).partition(number)).unwrap()
                })
                .collect();
            for delivery in deliveries {
                delivery.wait().unwrap();
            }
        }
        if round % 3 == 1 {
            let entries: Vec<_> = sent
                .iter()
                .map(|(tp, all)| CommitEntry::new(tp.clone(), Offset::new(all.len() as i64 - round)))
                .collect();
            for (tp, receipt) in consumer.commit_offsets(&entries).unwrap() {
                committed.entry(tp).or_default().push(receipt.unwrap().committed.offset.get());
            }
        }
        if round == 5 {
            let moved = TopicPartition::new("plain", 1);
            girok.log().partition(&moved).unwrap().delete_records(Offset::new(3)).unwrap();
            for tp in sent.keys() {
                known_good.insert(tp.clone(), girok.log().partition(tp).unwrap().sync().unwrap().get());
            }
            girok.log().save_checkpoint().unwrap();
        }
    }
    for tp in sent.keys() {
        girok.log().partition(tp).unwrap().sync().unwrap();
    }
    let mut crashed = BTreeMap::new();
    files_in(dir.path(), dir.path(), &mut crashed);
    drop(consumer);
    girok.close().unwrap();
    let mut closed = BTreeMap::new();
    files_in(dir.path(), dir.path(), &mut closed);
    let all = sent.iter().map(|(tp, all)| (tp.clone(), all.len() as i64)).collect();
    [
        Image {
            name: "closed",
            files: closed,
            clean: true,
            sent: sent.clone(),
            known_good: all,
            committed: committed.clone(),
        },
        Image { name: "crashed", files: crashed, clean: false, sent, known_good, committed },
    ]
}

/// One place, damaged.
#[derive(Debug)]
#[allow(dead_code)] // some of it is only for whoever reads about a failure
struct Damage {
    file: PathBuf,
    at: usize,
    /// From `at` on nothing but zeros is left, as if it had never been written: no reader could tell.
    like_unwritten: bool,
    /// The damage lies in the first bytes of a batch that no checksum of Kafka's covers: its base offset and epoch.
    in_base_offset: bool,
    how: &'static str,
}

fn damage(image: &Image, rng: &Rng) -> (Damage, Vec<u8>) {
    let names: Vec<_> = image.files.iter().filter(|(_, bytes)| !bytes.is_empty()).collect();
    // Logs are most of what there is to lose, but every file has its turn.
    let (file, original) = loop {
        let (file, bytes) = rng.pick(&names);
        if is_log(file) || rng.chance(0.4) {
            break (*file, *bytes);
        }
    };
    let mut bytes = original.clone();
    // Room that was reserved and never used is not interesting.
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
    let at = rng.index(used);
    let how = match rng.below(5) {
        0 => {
            bytes.truncate(at);
            "cut"
        }
        1 => {
            bytes[at] ^= 1 << rng.below(8);
            "one bit flipped"
        }
        2 => {
            let end = (at + 1 + rng.index(64)).min(bytes.len());
            bytes[at..end].copy_from_slice(&rng.bytes(end - at));
            "overwritten"
        }
        3 => {
            let end = (at + 1 + rng.index(512)).min(bytes.len());
            bytes[at..end].fill(0);
            "zeroed"
        }
        _ => {
            // A sector of this very file, written to the wrong place.
            let (from, len) = (rng.index(used), 1 + rng.index(512));
            let piece = original[from..(from + len).min(used)].to_vec();
            let end = (at + piece.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&piece[..end - at]);
            "a piece of it written to the wrong place"
        }
    };
    let first = original.iter().zip(&bytes).position(|(a, b)| a != b).unwrap_or(bytes.len());
    let like_unwritten = bytes[first..].iter().all(|byte| *byte == 0);
    let mut in_base_offset = false;
    if is_log(file) {
        let mut start = 0;
        for batch in girok_engine::batch::batches(original).map_while(Result::ok) {
            let touched = |range: std::ops::Range<usize>| {
                range.clone().any(|i| i < bytes.len() && bytes[i] != original[i])
            };
            in_base_offset |= touched(start..start + 8) && !touched(start + 8..start + batch.bytes().len());
            start += batch.bytes().len();
        }
    }
    (Damage { file: file.clone(), at, like_unwritten, in_base_offset, how }, bytes)
}

/// Reads a partition from its start. Whatever is served is what was sent, at its offset; where it ends, or the error
/// that ends it.
fn read(partition: &Partition, sent: &[Vec<u8>]) -> Result<i64, girok_engine::Error> {
    let mut next = partition.start_offset().get();
    let mut reader = partition.reader(partition.start_offset());
    loop {
        let view = reader.read(&FetchBounds { bytes_max: 1500, ..FetchBounds::default() })?;
        if view.is_empty() {
            return Ok(next);
        }
        for batch in view.batches() {
            let (mut plain, batch) = (Vec::new(), batch.unwrap());
            let batch = if batch.header().is_compressed() {
                decompress(&batch, &mut plain, 1 << 20).expect("its checksum was right");
                Batch::parse(&plain).unwrap()
            } else {
                batch
            };
            for record in batch.records() {
                let record = record.unwrap();
                if record.offset().get() < view.from().get() {
                    continue;
                }
                assert_eq!(record.offset().get(), next, "{}: no gap, nothing twice", partition.name());
                assert_eq!(
                    record.value(),
                    Some(&sent[next as usize][..]),
                    "{}: offset {next}",
                    partition.name()
                );
                next += 1;
            }
        }
    }
}

/// What happened to the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Intact,
    Cut,
    RefusedPartition,
    RefusedDirectory,
}

fn names(error: &impl std::fmt::Display, damage: &Damage) {
    let name = damage.file.file_name().unwrap().to_str().unwrap();
    let text = error.to_string();
    assert!(text.contains(name), "an error names {name}: {text}");
}

fn is_reported(report: &RecoveryReport, tp: &TopicPartition, end: i64) -> bool {
    report.cut().any(|one| one.partition == *tp && one.end.get() == end)
}

/// Opens what is left and holds it against what was sent.
fn examine(dir: &Path, image: &Image, damage: &Damage) -> Outcome {
    let girok = match open(dir) {
        Ok(girok) => girok,
        Err(error) => {
            // Without it nobody knows what topics there are.
            assert_eq!(damage.file, Path::new("girok.meta"), "only this one is needed to open: {error}");
            names(&error, damage);
            return Outcome::RefusedDirectory;
        }
    };
    let report = girok.recovery().report().clone();
    let mut outcome = Outcome::Intact;
    let mut ends = BTreeMap::new();
    for (tp, sent) in &image.sent {
        let is_hit = damage.file.starts_with(tp.folder());
        let is_log = is_hit && is_log(&damage.file);
        let served = girok.log().partition(tp).and_then(|partition| {
            let end = partition.end_offset().get();
            ends.insert(tp.clone(), end);
            read(&partition, sent).map(|read| (partition, end, read))
        });
        match served {
            Err(error) => {
                assert!(is_hit, "{tp} was not touched: {error}");
                names(&error, damage);
                outcome = outcome.max(Outcome::RefusedPartition);
            }
            Ok((partition, end, read)) => {
                assert_eq!(read, end, "{tp}: all that is there can be read");
                assert!(end <= sent.len() as i64, "{tp}: nothing is made up");
                if end < sent.len() as i64 {
                    assert!(is_log, "{tp}: cut, and not touched");
                    assert!(!image.clean, "{tp}: everything was known good");
                    assert!(end >= image.known_good[tp], "{tp}: cut below the recovery point, at {end}");
                    let said = is_reported(&report, tp, end);
                    assert!(said || damage.like_unwritten, "{tp}: cut at {end} without a word: {report:?}");
                    outcome = outcome.max(Outcome::Cut);
                }
                // Lookups by offset give the same, whatever became of the indexes.
                let start = partition.start_offset().get();
                for at in (start..end).step_by(5) {
                    let mut reader = partition.reader(Offset::new(at));
                    let view = reader.read(&FetchBounds { bytes_max: 1, ..FetchBounds::default() }).unwrap();
                    let header = view.batches().next().unwrap().unwrap().header();
                    assert!(
                        header.base_offset.get() <= at && at < header.next_offset().get(),
                        "{tp} at {at}"
                    );
                }
                // And it goes on: what is appended now stands right behind.
                let mut builder = BatchBuilder::new(Codec::None);
                builder.append(Timestamp::from_millis(1), None, Some(b"on"), &[]).unwrap();
                let appended = partition.append(&builder.finish().unwrap()).unwrap();
                assert_eq!(appended.base_offset.get(), end);
            }
        }
    }
    let offsets_hit =
        damage.file.starts_with("__consumer_offsets-0") || damage.file.ends_with("girok-groups.state");
    match girok.admin().list_group_offsets("g") {
        Err(error) => {
            assert!(offsets_hit, "commits were not touched: {error}");
            names(&error, damage);
            outcome = outcome.max(Outcome::RefusedPartition);
        }
        Ok(stored) => {
            for (tp, history) in &image.committed {
                let last = *history.last().unwrap();
                let stored = stored.get(tp).map(|stored| stored.offset.get());
                // Where the log was cut, the commit was set back to its end.
                let cut = ends.get(tp).copied().unwrap_or(i64::MAX);
                if stored == Some(last.min(cut)) {
                    continue;
                }
                assert!(
                    offsets_hit && !image.clean,
                    "{tp}: committed {last}, stored {stored:?}, end {cut}: {report:?}"
                );
                let tp_offsets = TopicPartition::new("__consumer_offsets", 0);
                let said = report.cut().any(|one| one.partition == tp_offsets);
                assert!(said || damage.like_unwritten, "{tp}: {history:?} became {stored:?} without a word");
                assert!(
                    stored.is_some_and(|stored| history.contains(&stored)),
                    "{tp}: {history:?} became {stored:?}"
                );
                outcome = outcome.max(Outcome::Cut);
            }
        }
    }
    // Damage that keeps a partition from being used keeps the directory from being called clean, and no more.
    let _ = girok.close();
    outcome
}

/// A thousand places, one at a time: exactly intact, or repaired as documented, or refused by name.
#[test]
fn a_thousand_places() {
    let number = |name: &str| std::env::var(name).ok().map(|n| n.parse::<u64>().expect("a number"));
    let seed = number("GIROK_SEED").unwrap_or(SEED);
    let count = number("GIROK_DAMAGES").unwrap_or(1000);
    println!("GIROK_SEED={seed}, {count} places");
    let rng = Rng::new(seed);
    let images = images();
    let dir = scratch();
    let mut outcomes: BTreeMap<(&str, Outcome), u64> = BTreeMap::new();
    let mut weak = 0;
    for round in 0..count {
        let image = rng.pick(&images);
        let (damage, bytes) = damage(image, &rng);
        if damage.in_base_offset {
            // What Kafka's checksum leaves out; `a_batch_knows_its_place` is about these.
            weak += 1;
            continue;
        }
        let dir = dir.path().join(round.to_string());
        for (path, original) in &image.files {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, original).unwrap();
        }
        fs::write(dir.join(&damage.file), &bytes).unwrap();
        let examined = std::panic::catch_unwind(|| examine(&dir, image, &damage));
        match examined {
            Ok(outcome) => *outcomes.entry((image.name, outcome)).or_default() += 1,
            Err(panic) => {
                eprintln!("GIROK_SEED={seed}, place {round}, {} directory: {damage:?}", image.name);
                std::panic::resume_unwind(panic);
            }
        }
        fs::remove_dir_all(&dir).unwrap();
    }
    println!("{outcomes:?}, and {weak} in base offsets");
    if count >= 1000 {
        for seen in [
            ("closed", Outcome::Intact),
            ("closed", Outcome::RefusedPartition),
            ("closed", Outcome::RefusedDirectory),
            ("crashed", Outcome::Intact),
            ("crashed", Outcome::Cut),
            ("crashed", Outcome::RefusedPartition),
        ] {
            assert!(outcomes.contains_key(&seen), "never {seen:?}: too tame to prove a thing: {outcomes:?}");
        }
    }
}

/// A bit of `girok.checkpoint` flips: its CRC-32 notices, the report names the file, and every partition is read from
/// its start instead of being trusted. Nothing is lost.
#[test]
fn a_flipped_checkpoint_bit_is_named() {
    let [closed, _] = images();
    let dir = scratch();
    let len = closed.files[Path::new("girok.checkpoint")].len();
    for at in (0..len).step_by(7) {
        let dir = dir.path().join(at.to_string());
        for (path, bytes) in &closed.files {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let mut bytes = closed.files[Path::new("girok.checkpoint")].clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(dir.join("girok.checkpoint"), bytes).unwrap();
        let girok = match open(&dir) {
            Ok(girok) => girok,
            // The bit that makes the version a newer one, perhaps: then it is that which is named.
            Err(error) => panic!("byte {at}: {error}"),
        };
        let report = girok.recovery().report();
        let named = report.notes.iter().any(|note| note.contains("girok.checkpoint"));
        assert!(named, "byte {at}: {:?}", report.notes);
        assert!(!report.clean && report.refused.is_empty() && report.cut().count() == 0, "{report:?}");
        for (tp, sent) in &closed.sent {
            let partition = girok.log().partition(tp).unwrap();
            assert_eq!(read(&partition, sent).unwrap(), sent.len() as i64);
        }
        girok.close().unwrap();
    }
}

/// A batch's base offset stands before what its checksum covers. That its neighbours contradict a wrong one is noticed
/// all the same: after a crash by recovery, in a sealed segment by the first who reads it.
#[test]
fn a_batch_knows_its_place() {
    for image in images() {
        let dir = scratch();
        let tp = TopicPartition::new("plain", 0);
        for (n, (file, original)) in
            image.files.iter().filter(|(path, _)| path.starts_with("plain-0") && is_log(path)).enumerate()
        {
            let mut start = 0;
            for batch in girok_engine::batch::batches(original).map_while(Result::ok) {
                let (base, len) = (batch.header().base_offset.get(), batch.bytes().len());
                for wrong in [base ^ 1, base ^ 2, base ^ 64, base + 1000, -1, base ^ (1 << 40)] {
                    let dir = dir.path().join(format!("{n}-{start}-{wrong}"));
                    for (path, bytes) in &image.files {
                        let path = dir.join(path);
                        fs::create_dir_all(path.parent().unwrap()).unwrap();
                        fs::write(path, bytes).unwrap();
                    }
                    let mut bytes = original.clone();
                    bytes[start..start + 8].copy_from_slice(&wrong.to_be_bytes());
                    fs::write(dir.join(file), bytes).unwrap();
                    let girok = open(&dir).unwrap();
                    let report = girok.recovery().report();
                    let served = girok.log().partition(&tp).and_then(|one| read(&one, &image.sent[&tp]));
                    match served {
                        Err(error) => assert!(
                            error.to_string().contains(file.file_name().unwrap().to_str().unwrap()),
                            "{error}"
                        ),
                        Ok(end) => {
                            assert!(!image.clean && end >= image.known_good[&tp], "{wrong} for {base}");
                            assert!(is_reported(report, &tp, end), "{wrong} for {base}: {report:?}");
                        }
                    }
                    drop(girok);
                    fs::remove_dir_all(&dir).unwrap();
                }
                start += len;
            }
        }
    }
}
