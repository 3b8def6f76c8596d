//! The admin: topics, configuration, records and groups.

use std::time::Duration;

use girok::{
    CommitEntry, Error, Girok, GroupKind, NewTopic, Offset, OffsetSpec, OffsetTarget, ProducerRecord, Reject,
    Remedy, Timestamp, TopicConfig, TopicPartition, Verdict,
};

use crate::{ageless_orders, drain, orders, producer, reader, send_numbers, tp};

/// Topics are made together or not at all, and bad ones are named.
#[test]
fn topics_are_made_all_or_none() {
    let girok = orders(1);
    let admin = girok.admin();
    for (topics, says) in [
        (vec![NewTopic::new("a", 1), NewTopic::new("orders", 1)], "orders exists"),
        (vec![NewTopic::new("a", 1), NewTopic::new("a", 1)], "a exists"),
        (vec![NewTopic::new("a", 1), NewTopic::new("b", 0)], "0 for b"),
        (vec![NewTopic::new("a", 1), NewTopic::new("b/c", 1)], "b/c"),
        (vec![NewTopic::new("a", 1), NewTopic::new("b", 1).config("retention.msec", "1")], "retention.ms"),
        (
            vec![NewTopic::new("a", 1), NewTopic::new("b", 1).config("min.insync.replicas", "2")],
            "min.insync.replicas",
        ),
    ] {
        let refused = admin.create_topics(&topics).unwrap_err();
        assert!(refused.to_string().contains(says), "{says}: {refused}");
        assert_eq!(refused.remedy(), Remedy::FixTheCall);
    }
    let names: Vec<String> = admin.list_topics().unwrap().into_iter().map(|topic| topic.name).collect();
    assert_eq!(names, ["orders"]);
    let ids = admin.create_topics(&[NewTopic::new("a", 2), NewTopic::new("b", 3)]).unwrap();
    let described = admin.describe_topics(&["b", "a"]).unwrap();
    assert_eq!((described[0].partitions, described[0].id), (3, ids[1]));
    assert!(admin.describe_topics(&["c"]).is_err());
    assert!(admin.create_partitions("b", 3).unwrap_err().to_string().contains("never removed"));
}

/// Configuration is spoken in Kafka's words, and set all or none.
#[test]
fn configuration_speaks_kafka() {
    let girok = orders(1);
    let admin = girok.admin();
    let value = |key: &str| {
        let entries = admin.describe_config("orders").unwrap();
        entries
            .into_iter()
            .find(|entry| entry.name == key)
            .map(|entry| (entry.value, entry.is_default))
            .unwrap()
    };
    assert_eq!(value("retention.ms"), ("604800000".into(), true));
    admin.alter_config("orders", &[("retention.ms", "-1"), ("cleanup.policy", "compact")]).unwrap();
    assert_eq!(
        (value("retention.ms"), value("cleanup.policy")),
        (("-1".into(), false), ("compact".into(), false))
    );
    let refused = admin.alter_config("orders", &[("retention.ms", "5"), ("segment.bytes", "x")]).unwrap_err();
    assert!(refused.to_string().contains("segment.bytes"), "{refused}");
    assert_eq!(value("retention.ms").0, "-1", "all or none");
}

/// Offsets of every kind that Kafka's admin lists.
#[test]
fn offsets_of_every_kind() {
    let girok = ageless_orders(2);
    let producer = producer(&girok);
    for time in [50, 10, 90, 30, 90, 20] {
        let record = ProducerRecord::new("orders", "x").partition(0).timestamp(Timestamp::from_millis(time));
        producer.send(record).unwrap().wait().unwrap();
    }
    let admin = girok.admin();
    let both = [tp("orders", 0), tp("orders", 1)];
    let list = |spec| {
        let found = admin.list_offsets(&both, spec).unwrap();
        both.each_ref().map(|tp| found[tp].map(|found| (found.offset.get(), found.timestamp.as_millis())))
    };
    assert_eq!(list(OffsetSpec::Earliest), [Some((0, -1)), Some((0, -1))]);
    assert_eq!(list(OffsetSpec::Latest), [Some((6, -1)), Some((0, -1))]);
    assert_eq!(list(OffsetSpec::MaxTimestamp), [Some((2, 90)), None]);
    assert_eq!(list(OffsetSpec::ForTimestamp(Timestamp::from_millis(60))), [Some((2, 90)), None]);
    assert_eq!(list(OffsetSpec::ForTimestamp(Timestamp::from_millis(91))), [None, None]);

    let starts = admin.delete_records(&[(tp("orders", 0), Offset::new(4))]).unwrap();
    assert_eq!(starts[&tp("orders", 0)], Offset::new(4));
    assert_eq!(list(OffsetSpec::Earliest)[0], Some((4, -1)));
    assert_eq!(list(OffsetSpec::MaxTimestamp)[0], Some((4, 90)));
    assert_eq!(drain(&mut reader(&girok, 1)).len(), 2);
    let beyond = admin.delete_records(&[(tp("orders", 0), Offset::new(7))]).unwrap_err();
    assert!(beyond.to_string().contains("4 to 6"), "{beyond}");
}

fn group_with_commits() -> (Girok, [TopicPartition; 2]) {
    let girok = orders(2);
    let producer = producer(&girok);
    for (partition, count) in [(0, 10), (1, 4)] {
        send_numbers(&producer, "orders", partition, count);
    }
    let both = [tp("orders", 0), tp("orders", 1)];
    let mut consumer = girok.consumer().group_id("search").build().unwrap();
    consumer.assign(&both).unwrap();
    drain(&mut consumer);
    consumer.close().unwrap();
    (girok, both)
}

/// A group's offsets can be looked at, moved in every way Kafka's tool knows, and deleted.
#[test]
fn a_groups_offsets_can_be_moved() {
    let (girok, both) = group_with_commits();
    let admin = girok.admin();
    let groups = admin.list_groups().unwrap();
    assert_eq!((&*groups[0].group, groups[0].kind, groups[0].offsets), ("search", GroupKind::Simple, 2));
    let committed = || {
        let offsets = admin.list_group_offsets("search").unwrap();
        both.each_ref().map(|tp| offsets.get(tp).map(|found| found.offset.get()))
    };
    assert_eq!(committed(), [Some(10), Some(4)]);
    let moved_to = |target, expected| {
        let results = admin.reset_group_offsets("search", &[], target).unwrap();
        assert!(results.iter().all(|(_, result)| result.is_ok()), "{results:?}");
        assert_eq!(committed(), expected, "{target:?}");
    };
    moved_to(OffsetTarget::Earliest, [Some(0), Some(0)]);
    moved_to(OffsetTarget::Latest, [Some(10), Some(4)]);
    moved_to(OffsetTarget::Shift(-3), [Some(7), Some(1)]);
    moved_to(OffsetTarget::Shift(-3), [Some(4), Some(0)]);
    moved_to(OffsetTarget::To(Offset::new(6)), [Some(6), Some(4)]);
    moved_to(OffsetTarget::Current, [Some(6), Some(4)]);
    moved_to(OffsetTarget::Time(Timestamp::from_millis(0)), [Some(0), Some(0)]);
    moved_to(OffsetTarget::Time(Timestamp::from_millis(i64::MAX / 2)), [Some(10), Some(4)]);

    let deleted = admin.delete_group_offsets("search", &both[..1]).unwrap();
    assert!(deleted[0].1.is_ok());
    assert_eq!(committed(), [None, Some(4)]);
    let refused = admin.reset_group_offsets("search", &both[..1], OffsetTarget::Shift(1)).unwrap_err();
    assert!(refused.to_string().contains("orders-0"), "{refused}");

    admin.delete_group("search").unwrap();
    assert_eq!(committed(), [None, None]);
    assert!(admin.list_groups().unwrap().is_empty());
    let gone = admin.delete_group("search").unwrap_err();
    assert!(matches!(gone, Error::Rejected(Reject::GroupIdNotFound { .. })), "{gone}");
}

/// Receipts tell what became of a commit.
#[test]
fn receipts_tell_what_became_of_a_commit() {
    let (girok, both) = group_with_commits();
    let admin = girok.admin();
    let commit = |offset| {
        let entry = CommitEntry::new(both[0].clone(), Offset::new(offset));
        admin.alter_group_offsets("search", &[entry]).unwrap().remove(0).1.unwrap()
    };
    let (first, second) = (commit(3), commit(5));
    assert!(matches!(admin.verify(&first).unwrap(), Verdict::Superseded { .. }));
    assert_eq!(admin.verify(&second).unwrap(), Verdict::Stored);
    admin.delete_group("search").unwrap();
    assert!(matches!(admin.verify(&second).unwrap(), Verdict::Deleted { .. }));
}

/// With a topic goes what was committed for it.
#[test]
fn commits_go_with_their_topic() {
    let (girok, _) = group_with_commits();
    girok.admin().delete_topic("orders").unwrap();
    assert!(girok.admin().list_group_offsets("search").unwrap().is_empty());
    let refused = girok.admin().delete_topic("__consumer_offsets").unwrap_err();
    assert!(refused.to_string().contains("committed offsets"), "{refused}");
}

/// Once a topic is said to be deleted, what was committed for it stays deleted, whatever happens to the machine.
#[test]
fn commits_of_a_deleted_topic_stay_deleted() {
    let world = crate::support::SimWorld::from_seed(22);
    let open = || Girok::builder().env(world.env()).threads(false).open("/log").unwrap();
    let girok = open();
    girok.admin().create_topic("orders", 1, TopicConfig::default()).unwrap();
    producer(&girok).send(ProducerRecord::new("orders", "tea")).unwrap().wait().unwrap();
    let mut consumer = girok.consumer().group_id("search").build().unwrap();
    consumer.assign(&[tp("orders", 0)]).unwrap();
    assert_eq!(drain(&mut consumer).len(), 1);
    consumer.commit().unwrap();
    girok.admin().delete_topic("orders").unwrap();
    world.disk.power_cut();
    drop((consumer, girok));
    assert!(open().admin().list_group_offsets("search").unwrap().is_empty());
}

/// Retention removes what is old, by the clock, in the background.
#[test]
fn a_configuration_counts_at_once() {
    let world = crate::support::SimWorld::from_seed(21);
    let girok = Girok::builder().env(world.env()).threads(false).open("/log").unwrap();
    girok.admin().create_topics(&[NewTopic::new("orders", 1).config("girok.durability", "written")]).unwrap();
    send_numbers(&producer(&girok), "orders", 0, 10);
    girok.admin().alter_config("orders", &[("retention.ms", "1000"), ("segment.ms", "1")]).unwrap();
    for _ in 0..3 {
        world.clock.advance(Duration::from_secs(600));
        girok.step().unwrap();
    }
    let mut late = girok.consumer().build().unwrap();
    late.assign(&[tp("orders", 0)]).unwrap();
    assert!(late.poll_now().unwrap().is_empty());
    assert_eq!(late.position(&tp("orders", 0)).unwrap(), Offset::new(10));
}
