//! Who may commit, fetch and delete what: Kafka's rules, in Kafka's codes.

use girok_coordinator::records::{EndTransaction, GroupMetadata, Record};
use girok_coordinator::{
    BatchInfo, CommitEntry, CommitOptions, Committer, Input, Now, Reject, Reply, Settings, State, Topics,
    step,
};
use girok_engine::{Moment, Offset, Remedy, Timestamp, TopicId};

use crate::support::{FakeJournal, FakeTopics, START_MS, World, entry, golden, now_info, offset_record, tp};

fn code<T: std::fmt::Debug>(result: Result<T, Reject>) -> i16 {
    result.unwrap_err().code()
}

/// The groups of Kafka's golden segment, after its first `records` records.
fn kafkas_groups(records: usize) -> State {
    let mut state = State::new(Settings::default());
    for raw in golden().into_iter().take(records) {
        let info = BatchInfo {
            timestamp: Timestamp::from_millis(raw.timestamp),
            producer_id: raw.producer_id,
            transactional: raw.transactional,
            control: raw.control,
        };
        state.replay(Offset::new(raw.offset), &info, raw.key.as_deref(), raw.value.as_deref()).unwrap();
    }
    state
}

fn kafkas_topics() -> FakeTopics {
    let topics = FakeTopics::default();
    topics.create("g-none", 9, 1, 200);
    topics.create("g-2parts", 9, 2, 10);
    topics.create("g-gzip", 9, 1, 200);
    topics
}

fn now() -> Now {
    Now { wall: Timestamp::from_millis(START_MS), now: Moment::from_nanos(0) }
}

fn ask(state: &State, topics: &dyn Topics, input: Input<'_>) -> (Vec<Record>, Reply) {
    let decision = step(state, input, topics, now());
    (decision.facts, decision.reply)
}

/// A consumer that assigned itself commits for a group that nobody made: the group is there.
#[test]
fn a_commit_makes_the_group() {
    let world = World::new();
    assert_eq!(world.committed("search", "orders-0"), None);
    world.commits("search", "orders-0", 42);
    assert_eq!(world.committed("search", "orders-0"), Some(42));
    assert_eq!(world.group_names(), ["search"]);

    world.commits("search", "orders-0", 43);
    assert_eq!(world.committed("search", "orders-0"), Some(43));
    assert_eq!(world.committed("search", "orders-1"), None);
    assert_eq!(world.committed("archive", "orders-0"), None, "groups are isolated");
}

/// While a group has members, whoever is none of them may not move its offsets: code 25.
#[test]
fn outsiders_do_not_commit_for_a_group_with_members() {
    let (topics, entries) = (kafkas_topics(), [entry("g-none-0", 7)]);
    // After record 18 both of Kafka's groups have their member, after 22 the KIP-848 one has lost its own.
    for (records, group, accepted) in [
        (5, "g-group-classic", true),
        (6, "g-group-classic", false),
        (10, "g-group-consumer", true),
        (19, "g-group-consumer", false),
        (23, "g-group-consumer", true),
    ] {
        let state = kafkas_groups(records);
        let commit =
            Input::Commit { group, committer: Committer::Standalone, entries: &entries, expire: None };
        let (facts, Reply::Commit(mut results)) = ask(&state, &topics, commit) else { panic!() };
        let reset = Input::Reset { group, entries: &entries };
        let (_, Reply::Commit(mut resets)) = ask(&state, &topics, reset) else { panic!() };
        if accepted {
            assert_eq!((results.remove(0).unwrap(), resets.remove(0).unwrap(), facts.len()), (0, 0, 1));
        } else {
            assert_eq!((code(results.remove(0)), code(resets.remove(0)), facts.len()), (25, 68, 0));
        }
    }
}

/// Each partition of a commit is judged by itself: the good ones are stored beside the bad ones.
#[test]
fn every_partition_is_judged_by_itself() {
    let world = World::new();
    let entries = [
        entry("orders-0", 1),
        entry("nowhere-0", 1),
        entry("orders-3", 1),
        entry("orders-1", -1),
        entry("orders-1", 1001),
        entry("orders-1", 1000).with_metadata("x".repeat(4097)),
        entry("orders-1", 1000).with_topic_id(TopicId([9; 16])),
        entry("orders-2", 1000).with_metadata("x".repeat(4096)).with_topic_id(TopicId([1; 16])),
    ];
    let results = world.coordinator.commit("search", &entries, CommitOptions::default()).wait();
    let codes: Vec<i16> = results.iter().map(|r| r.as_ref().map_or_else(Reject::code, |_| 0)).collect();
    assert_eq!(codes, [0, 3, 3, 42, 1, 12, 100, 0]);
    assert_eq!(world.committed("search", "orders-0"), Some(1));
    assert_eq!(world.committed("search", "orders-1"), None);
    assert_eq!(world.committed("search", "orders-2"), Some(1000));
    let text = results[4].as_ref().unwrap_err().to_string();
    assert_eq!(text, "orders-1: offset 1001 is beyond the log's end, 1000; commit at most 1000");
    assert!(results.iter().flat_map(|r| r.as_ref().err()).all(|r| r.remedy() == Remedy::FixTheCall));
    assert!(results[2].as_ref().unwrap_err().to_string().contains("the topic has 3 partitions"));
}

/// Kafka counts a note's length in UTF-16 units, not in bytes.
#[test]
fn metadata_is_counted_as_kafka_counts() {
    let world = World::new();
    for (metadata, accepted) in [
        ("기".repeat(4096), true),
        ("기".repeat(4097), false),
        ("🦀".repeat(2048), true),
        ("🦀".repeat(2049), false),
    ] {
        let entries = [entry("orders-0", 1).with_metadata(&*metadata)];
        let result = world.coordinator.commit("search", &entries, CommitOptions::default()).wait().remove(0);
        match result {
            Ok(_) => assert!(accepted),
            Err(reject) => assert_eq!((reject.code(), accepted), (12, false)),
        }
        if accepted {
            let fetched = world.fetched("search", "orders-0").committed.unwrap();
            assert_eq!(*fetched.metadata, *metadata, "notes come back as they went");
        }
    }
}

/// The empty name is a group like any other for commits and fetches, as in Kafka; deleting single offsets of it is
/// not allowed (24), deleting it whole is.
#[test]
fn the_empty_group_is_a_group() {
    let world = World::new();
    world.commits("", "orders-0", 5);
    assert_eq!(world.committed("", "orders-0"), Some(5));
    let refused = world.coordinator.delete_offsets("", &[tp("orders-0")]);
    assert_eq!(refused.map(drop).unwrap_err().code(), 24);
    world.coordinator.delete_group("").unwrap().wait().unwrap();
    assert_eq!(world.committed("", "orders-0"), None);

    let long = "g".repeat(32_768);
    assert_eq!(code(world.try_commit(&long, "orders-0", 1)), 24, "a key has no room for it");
    world.commits(&long[1..], "orders-0", 1);
}

/// Of two offsets for one partition in one commit the later counts, and the earlier one's receipt says so.
#[test]
fn the_later_of_two_wins() {
    let world = World::new();
    let entries = [entry("orders-0", 9), entry("orders-0", 4)];
    let receipts = world.coordinator.commit("search", &entries, CommitOptions::default()).wait();
    assert_eq!(world.committed("search", "orders-0"), Some(4));
    let places: Vec<i64> = receipts.iter().map(|r| r.as_ref().unwrap().place.get()).collect();
    assert_eq!(places, [0, 1]);
}

/// What is committed for a topic does not count for its namesake that came after it.
#[test]
fn a_topic_made_anew_starts_without_offsets() {
    let world = World::new();
    world.commits("search", "orders-0", 42);
    world.topics.delete("orders");
    world.topics.create("orders", 7, 3, 10);
    assert_eq!(world.committed("search", "orders-0"), None);
    world.commits("search", "orders-0", 3);
    assert_eq!(world.committed("search", "orders-0"), Some(3));
}

/// Offsets from before topic ids cannot say which topic of that name they mean, so they count.
#[test]
fn an_offset_without_topic_id_is_kept() {
    let journal = FakeJournal::new();
    journal.append_record(now_info(), &offset_record("search", "orders-0", 42));
    let world = World::with(Settings::default(), journal, None);
    assert_eq!(world.committed("search", "orders-0"), Some(42));
}

/// When a topic goes, so do the offsets for it: those with its id and those without one, not those of a namesake.
#[test]
fn a_deleted_topic_takes_its_offsets_with_it() {
    let journal = FakeJournal::new();
    journal.append_record(now_info(), &offset_record("old", "orders-1", 7));
    let world = World::with(Settings::default(), journal, None);
    world.commits("search", "orders-0", 42);
    world.commits("search", "views-0", 1);
    world.topics.delete("orders");
    world.topics.create("orders", 7, 3, 10);
    world.commits("archive", "orders-2", 3);

    let gone = world.coordinator.topic_deleted("orders", TopicId([1; 16])).unwrap().wait().unwrap();
    let gone: Vec<String> = gone.iter().map(|(group, partition)| format!("{group} {partition}")).collect();
    assert_eq!(gone, ["old orders-1", "search orders-0"]);
    assert_eq!(world.committed("archive", "orders-2"), Some(3));
    assert_eq!(world.committed("search", "views-0"), Some(1));
    assert_eq!(world.group_names(), ["archive", "search"]);
}

/// A fetch without partitions is all of them, in order.
#[test]
fn everything_can_be_fetched_at_once() {
    let world = World::new();
    for (partition, offset) in [("views-1", 4), ("orders-2", 3), ("orders-0", 1), ("orders-1", 2)] {
        world.commits("search", partition, offset);
    }
    world.coordinator.delete_offsets("search", &[tp("orders-1")]).unwrap().wait().unwrap()[0]
        .clone()
        .unwrap();
    let all = world.coordinator.fetch("search", None).wait().unwrap();
    let all: Vec<String> =
        all.iter().map(|o| format!("{} {}", o.partition, o.committed.as_ref().unwrap().offset)).collect();
    assert_eq!(all, ["orders-0 1", "orders-2 3", "views-1 4"]);
    assert!(world.coordinator.fetch("nobody", None).wait().unwrap().is_empty());
}

/// Deleting offsets: an absent group is 69; a partition without offset is no error; the last offset ends the group.
#[test]
fn offsets_can_be_deleted() {
    let world = World::new();
    assert_eq!(world.coordinator.delete_offsets("search", &[]).map(drop).unwrap_err().code(), 69);
    world.commits("search", "orders-0", 42);
    let partitions = [tp("orders-0"), tp("orders-1"), tp("orders-0")];
    let results = world.coordinator.delete_offsets("search", &partitions).unwrap().wait().unwrap();
    assert!(results.iter().all(Result::is_ok) && results.len() == 3);
    assert_eq!(world.journal.records().len(), 2, "one tombstone, for the one that was there");
    assert_eq!(world.committed("search", "orders-0"), None);
    assert_eq!(world.group_names(), [""; 0]);
}

/// What its members read cannot be deleted (86); a group of another protocol with members not at all (68).
#[test]
fn what_is_read_is_not_deleted() {
    let (topics, partitions) = (kafkas_topics(), [tp("g-none-0"), tp("g-gzip-0")]);
    for (records, group, codes) in [
        (19, "g-group-classic", [86, 0]),
        (19, "g-group-consumer", [86, 0]),
        (23, "g-group-consumer", [0, 0]),
    ] {
        let input = Input::DeleteOffsets { group, partitions: &partitions };
        let (_, Reply::DeleteOffsets(results)) = ask(&kafkas_groups(records), &topics, input) else {
            panic!()
        };
        let found: Vec<i16> =
            results.unwrap().into_iter().map(|r| r.as_ref().map_or_else(Reject::code, |()| 0)).collect();
        assert_eq!(found, codes, "{group} after {records} records");
    }

    let mut state = kafkas_groups(6);
    let mut connect = GroupMetadata::empty("connect".into(), 1, -1);
    connect.members = match Record::decode(&golden()[5].key.clone().unwrap(), golden()[5].value.as_deref()) {
        Ok(Record::GroupMetadata { value: Some(value), .. }) => value.members,
        other => panic!("{other:?}"),
    };
    let record = Record::GroupMetadata { group: "sinks".into(), value: Some(connect) };
    state.apply(record, Offset::new(100), 0, &now_info());
    let input = Input::DeleteOffsets { group: "sinks", partitions: &partitions };
    let (_, Reply::DeleteOffsets(result)) = ask(&state, &topics, input) else { panic!() };
    assert_eq!(code(result), 68);
}

/// Deleting a group: 69 if there is none, 68 while it has members, and then everything of it goes, in the order
/// that Kafka's replay wants.
#[test]
fn groups_can_be_deleted() {
    let topics = kafkas_topics();
    let delete = |records, group| {
        let state = kafkas_groups(records);
        let (facts, Reply::DeleteGroup(result)) = ask(&state, &topics, Input::DeleteGroup { group }) else {
            panic!()
        };
        result.map(|()| facts.iter().map(Record::kind).collect::<Vec<_>>())
    };
    assert_eq!(code(delete(25, "nobody")), 69);
    assert_eq!(code(delete(19, "g-group-classic")), 68);
    assert_eq!(code(delete(19, "g-group-consumer")), 68);
    assert_eq!(delete(25, "g-group-consumer").unwrap(), [1, 1, 1, 6, 4, 3]);
    assert_eq!(delete(5, "g-group-classic").unwrap(), [2]);
    assert_eq!(code(delete(25, "g-group-assign")), 69, "its only offset was deleted");
    assert_eq!(delete(24, "g-group-assign").unwrap(), [1, 2]);
}

/// The members that a log tells of lived in another process. Opening ends them, with the records that Kafka writes
/// when the last member's session runs out; then the groups accept commits.
#[test]
fn members_do_not_outlive_their_process() {
    let journal = FakeJournal::new();
    for raw in golden().into_iter().take(19) {
        let info = BatchInfo {
            timestamp: Timestamp::from_millis(raw.timestamp),
            producer_id: raw.producer_id,
            transactional: raw.transactional,
            control: raw.control,
        };
        journal.append_raw(info, raw.key.as_deref().unwrap(), raw.value.as_deref());
    }
    let world = World::with(Settings::default(), journal, None);
    let kinds: Vec<i16> = world.journal.records()[19..]
        .iter()
        .map(|logged| Record::decode(&logged.key, logged.value.as_deref()).unwrap().kind())
        .collect();
    assert_eq!(kinds, [2, 8, 7, 5, 3], "as in Kafka's own records 19 to 22");
    let state = world.coordinator.state();
    let (classic, consumer) =
        (state.group("g-group-classic").unwrap(), state.group("g-group-consumer").unwrap());
    assert_eq!((classic.members(), classic.epoch(), classic.protocol_type()), (0, 2, "consumer"));
    assert_eq!((consumer.members(), consumer.epoch()), (0, 3));
    world.commits("g-group-classic", "orders-0", 1);

    let again = world.reopened(world.journal.restarted());
    assert!(again.1.members_gone.is_empty(), "once");
}

/// An open transaction's offset is not there yet: a plain fetch tells the old one, a stable one says to wait; its end
/// decides.
#[test]
fn a_transaction_counts_when_it_is_committed() {
    for (end, wanted) in [(EndTransaction::Commit, Some(99)), (EndTransaction::Abort, Some(42))] {
        let journal = FakeJournal::new();
        journal.append_record(now_info(), &offset_record("search", "orders-0", 42));
        let open = BatchInfo { producer_id: 5, transactional: true, ..now_info() };
        journal.append_record(open, &offset_record("search", "orders-0", 99));
        let world = World::with(Settings::default(), journal, None);
        assert_eq!(world.committed("search", "orders-0"), Some(42));
        let stable = world.coordinator.fetch_stable("search", Some(&[tp("orders-0"), tp("orders-1")]));
        let stable = stable.wait().unwrap();
        assert_eq!((stable[0].unstable, &stable[0].committed, stable[1].unstable), (true, &None, false));

        let journal = world.journal.restarted();
        journal.append_marker(6, EndTransaction::Commit);
        journal.append_marker(5, end);
        let (world, _) = world.reopened(journal);
        assert_eq!(world.committed("search", "orders-0"), wanted);
        let stable = world.coordinator.fetch_stable("search", Some(&[tp("orders-0")])).wait().unwrap();
        assert_eq!((stable[0].unstable, stable[0].committed.is_some()), (false, true));
    }
}

/// A plain commit that stands between a transaction's offset and its end is the later one and stays.
#[test]
fn a_transaction_does_not_overtake_a_later_commit() {
    let journal = FakeJournal::new();
    let open = BatchInfo { producer_id: 5, transactional: true, ..now_info() };
    journal.append_record(open, &offset_record("search", "orders-0", 10));
    journal.append_record(now_info(), &offset_record("search", "orders-0", 11));
    journal.append_marker(5, EndTransaction::Commit);
    let world = World::with(Settings::default(), journal, None);
    assert_eq!(world.committed("search", "orders-0"), Some(11));
}

/// Deleting an offset forgets what an open transaction was about to commit, and a group that exists only by such a
/// transaction can be deleted.
#[test]
fn a_deletion_reaches_into_open_transactions() {
    let journal = FakeJournal::new();
    let open = BatchInfo { producer_id: 5, transactional: true, ..now_info() };
    journal.append_record(open, &offset_record("search", "orders-0", 10));
    journal.append_record(open, &offset_record("archive", "orders-0", 10));
    let world = World::with(Settings::default(), journal, None);
    world.coordinator.delete_offsets("search", &[tp("orders-0")]).unwrap().wait().unwrap();
    world.coordinator.delete_group("archive").unwrap().wait().unwrap();
    assert_eq!(world.coordinator.delete_group("archive").map(drop).unwrap_err().code(), 69);
    let journal = world.journal.restarted();
    journal.append_marker(5, EndTransaction::Commit);
    let (world, _) = world.reopened(journal);
    assert_eq!(world.committed("search", "orders-0"), None);
    assert_eq!(world.committed("archive", "orders-0"), None);
}

/// After a power cut the log may end before a commit that survived. The commit is set back to the end, said so, and
/// what never was committed stays so.
#[test]
fn commits_beyond_the_end_are_clamped_and_reported() {
    let world = World::new();
    let entries =
        [CommitEntry::new(tp("orders-0"), Offset::new(900)).with_leader_epoch(3).with_metadata("note")];
    world.coordinator.commit("search", &entries, CommitOptions::default()).wait().remove(0).unwrap();
    world.commits("search", "views-0", 900);
    world.commits("archive", "orders-0", 500);
    world.topics.set_ends("orders", 600, 600);
    let (world, report) = world.reopened(world.journal.restarted());
    let told: Vec<String> = report
        .clamped
        .iter()
        .map(|c| format!("{} {} {} -> {}", c.group, c.partition, c.was, c.now))
        .collect();
    assert_eq!(told, ["search orders-0 900 -> 600"]);
    let clamped = world.fetched("search", "orders-0").committed.unwrap();
    assert_eq!((clamped.offset.get(), clamped.leader_epoch, &*clamped.metadata), (600, -1, "note"));
    assert_eq!(world.committed("archive", "orders-0"), Some(500));
    assert_eq!(world.committed("search", "views-0"), Some(900));
    assert!(world.reopened(world.journal.restarted()).1.clamped.is_empty(), "once");
}

/// Settings that cannot be are refused by name before anything is read.
#[test]
fn impossible_settings_are_named() {
    let long = Settings { offset_metadata_chars_max: 20_000, ..Settings::default() };
    assert!(long.check().unwrap_err().to_string().contains("offset_metadata_chars_max"));
    let old = Settings { offset_commit_version: 2, ..Settings::default() };
    assert!(old.check().unwrap_err().to_string().contains("offset_commit_version: expected 3 or 4, found 2"));
}

/// Commits can be written for old brokers: version 3 knows no topic ids, so a namesake's offset cannot be told apart.
#[test]
fn version_3_is_a_setting() {
    let settings = Settings { offset_commit_version: 3, ..Settings::default() };
    let world = World::with(settings, FakeJournal::new(), None);
    let receipt = world.commits("search", "orders-0", 42);
    assert_eq!((receipt.version, receipt.committed.topic_id), (3, TopicId::ZERO));
    assert_eq!(&world.journal.records()[0].value.as_ref().unwrap()[..2], [0, 3]);
}
