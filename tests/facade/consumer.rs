//! Consumers: whose turn it is, where they go on, and what they say they have done.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use girok::{
    CommitEntry, Consumer, Durability, Error, Girok, IsolationLevel, NextRecords, Offset, OffsetReset,
    PendingCommit, ProducerRecord, Records, Reject, Remedy, Timestamp, TopicConfig, Verdict, Wakeup,
};

use crate::support::SimWorld;
use crate::{
    LONG, ageless_orders, drain, orders, poll_once, producer, reader, run, send_numbers, tp, values, written,
};

/// What may cross threads says so at compile time.
#[test]
fn consumers_can_be_sent() {
    fn sent<T: Send>() {}
    fn shared<T: Clone + Send + Sync + 'static>() {}
    sent::<Consumer>();
    sent::<NextRecords<'_>>();
    sent::<PendingCommit>();
    shared::<Records>();
    shared::<Wakeup>();
}

/// Partitions that have something take turns, whatever each has.
#[test]
fn partitions_take_turns() {
    let girok = orders(3);
    let producer = producer(&girok);
    for partition in 0..3 {
        send_numbers(&producer, "orders", partition, 10);
    }
    let mut consumer = girok.consumer().max_poll_records(2).build().unwrap();
    consumer.assign(&[tp("orders", 0), tp("orders", 1), tp("orders", 2)]).unwrap();
    let turns: Vec<(i32, Vec<String>)> = (0..6)
        .map(|_| consumer.poll_now().unwrap())
        .map(|records| (records.topic_partition().partition(), values(&records)))
        .collect();
    let two = |a: i32, b: i32| vec![a.to_string(), b.to_string()];
    assert_eq!(
        turns,
        [(0, two(0, 1)), (1, two(0, 1)), (2, two(0, 1)), (0, two(2, 3)), (1, two(2, 3)), (2, two(2, 3))]
    );
}

/// A busy partition does not starve the others: whoever has one record is heard within a round.
#[test]
fn the_busy_do_not_starve_the_quiet() {
    let girok = orders(10);
    let producer = producer(&girok);
    send_numbers(&producer, "orders", 7, 5000);
    let mut consumer = girok.consumer().max_poll_records(10).build().unwrap();
    consumer.assign(&(0..10).map(|n| tp("orders", n)).collect::<Vec<_>>()).unwrap();
    for _ in 0..20 {
        assert_eq!(consumer.poll_now().unwrap().topic_partition().partition(), 7);
    }
    send_numbers(&producer, "orders", 2, 1);
    let heard = (0..2).any(|_| consumer.poll_now().unwrap().topic_partition().partition() == 2);
    assert!(heard);
}

/// A batch that is larger than a poll comes in slices, in order, without a gap.
#[test]
fn large_batches_come_in_slices() {
    let girok = orders(1);
    let producer = girok.producer().linger(LONG).batch_size(1 << 20).build().unwrap();
    send_numbers(&producer, "orders", 0, 1000);
    let mut consumer = girok.consumer().max_poll_records(300).build().unwrap();
    consumer.assign(&[tp("orders", 0)]).unwrap();
    let mut lens = Vec::new();
    let mut next = 0;
    while next < 1000 {
        let records = consumer.poll_now().unwrap();
        assert_eq!((records.first_offset(), records.iter().len()), (Offset::new(next), records.len()));
        for record in &records {
            assert_eq!(record.value(), Some(next.to_string().as_bytes()));
            next += 1;
        }
        assert_eq!(records.next_offset(), Offset::new(next));
        lens.push(records.len());
    }
    assert_eq!(lens, [300, 300, 300, 100]);
}

/// Paused partitions keep their place and say nothing.
#[test]
fn the_paused_keep_their_place() {
    let girok = orders(2);
    let producer = producer(&girok);
    send_numbers(&producer, "orders", 0, 3);
    send_numbers(&producer, "orders", 1, 3);
    let mut consumer = reader(&girok, 2);
    consumer.pause(&[tp("orders", 0)]).unwrap();
    assert_eq!(consumer.paused().cloned().collect::<Vec<_>>(), [tp("orders", 0)]);
    assert!(drain(&mut consumer).iter().all(|(from, ..)| *from == tp("orders", 1)));
    assert_eq!(consumer.position(&tp("orders", 0)).unwrap(), Offset::ZERO);

    // A seek while paused counts when it is resumed, and data that comes meanwhile is not forgotten.
    consumer.seek(&tp("orders", 0), Offset::new(2)).unwrap();
    assert!(consumer.poll_now().unwrap().is_empty());
    send_numbers(&producer, "orders", 0, 1);
    consumer.resume(&[tp("orders", 0)]).unwrap();
    assert_eq!(values(&consumer.poll_now().unwrap()), ["2", "0"]);

    let refused = consumer.pause(&[tp("orders", 1), tp("orders", 9)]).unwrap_err();
    assert!(matches!(refused, Error::NotAssigned { .. }), "{refused}");
    assert_eq!(consumer.paused().count(), 0, "all or none");
}

/// Any offset can be sought, in the middle of a batch, too; the next record is that one.
#[test]
fn seeking_finds_the_record() {
    let girok = orders(1);
    send_numbers(&producer(&girok), "orders", 0, 100);
    let mut consumer = reader(&girok, 1);
    let orders = tp("orders", 0);
    for offset in [57, 0, 99, 31] {
        consumer.seek(&orders, Offset::new(offset)).unwrap();
        assert_eq!(consumer.position(&orders).unwrap(), Offset::new(offset));
        let records = consumer.poll_now().unwrap();
        assert_eq!((records.first_offset().get(), records.len() as i64), (offset, 100 - offset));
        assert_eq!(values(&records)[0], offset.to_string());
    }
    consumer.seek_to_end(std::slice::from_ref(&orders)).unwrap();
    assert!(consumer.poll_now().unwrap().is_empty());
    consumer.seek_to_beginning(&[]).unwrap();
    assert_eq!(consumer.poll_now().unwrap().len(), 100);

    assert!(consumer.seek(&orders, Offset::new(-1)).unwrap_err().to_string().contains("-1"));
    assert!(matches!(consumer.seek(&tp("orders", 1), Offset::ZERO), Err(Error::NotAssigned { .. })));
}

/// A sought offset in a compressed batch is found as well, and what stands before it is not delivered.
#[test]
fn seeking_finds_the_record_in_a_compressed_batch() {
    let girok = orders(1);
    let producer = girok.producer().compression(girok::Codec::Gzip).linger(LONG).build().unwrap();
    send_numbers(&producer, "orders", 0, 100);
    send_numbers(&producer, "orders", 0, 100);
    let mut consumer = girok.consumer().max_poll_records(30).build().unwrap();
    consumer.assign(&[tp("orders", 0)]).unwrap();
    consumer.seek(&tp("orders", 0), Offset::new(95)).unwrap();
    assert_eq!(values(&consumer.poll_now().unwrap()), ["95", "96", "97", "98", "99"].map(String::from));
    assert_eq!(consumer.poll_now().unwrap().first_offset(), Offset::new(100));
    assert_eq!(consumer.poll_now().unwrap().first_offset(), Offset::new(130));
}

/// The first record at or after a time, as Kafka's `offsetsForTimes`; and the ends.
#[test]
fn offsets_are_found_by_time() {
    let girok = ageless_orders(2);
    let producer = girok.producer().linger(LONG).build().unwrap();
    for n in 0..10 {
        let time = Timestamp::from_millis(1000 + 10 * n);
        drop(producer.send(ProducerRecord::new("orders", "x").partition(0).timestamp(time)).unwrap());
    }
    producer.flush().unwrap();
    let consumer = reader(&girok, 2);
    let find = |ms| {
        let found = consumer.offsets_for_times(&[(tp("orders", 0), Timestamp::from_millis(ms))]).unwrap();
        found[&tp("orders", 0)].map(|(offset, time)| (offset.get(), time.as_millis()))
    };
    assert_eq!(find(0), Some((0, 1000)));
    assert_eq!(find(1041), Some((5, 1050)));
    assert_eq!(find(1090), Some((9, 1090)));
    assert_eq!(find(1091), None);

    let both = [tp("orders", 0), tp("orders", 1)];
    let ends: Vec<i64> = consumer.end_offsets(&both).unwrap().into_values().map(Offset::get).collect();
    assert_eq!(ends, [10, 0]);
    girok.admin().delete_records(&[(tp("orders", 0), Offset::new(4))]).unwrap();
    assert_eq!(consumer.beginning_offsets(&both).unwrap()[&both[0]], Offset::new(4));
    assert!(consumer.end_offsets(&[tp("orders", 2)]).unwrap_err().to_string().contains("0 to 1"));
}

fn reading_from(girok: &Girok, reset: OffsetReset) -> Consumer {
    let mut consumer = girok.consumer().auto_offset_reset(reset).build().unwrap();
    consumer.assign(&[tp("orders", 0)]).unwrap();
    consumer
}

/// Without a committed offset: at the beginning, at the end as it was when the partition was assigned, or not at all.
#[test]
fn the_reset_policy_decides_where_to_begin() {
    let girok = orders(1);
    let producer = producer(&girok);
    send_numbers(&producer, "orders", 0, 3);
    let mut earliest = reading_from(&girok, OffsetReset::Earliest);
    let mut latest = reading_from(&girok, OffsetReset::Latest);
    let mut none = reading_from(&girok, OffsetReset::None);
    drop(producer.send(ProducerRecord::new("orders", "new")).unwrap());
    producer.flush().unwrap();

    assert_eq!(values(&earliest.poll_now().unwrap()), ["0", "1", "2", "new"]);
    assert_eq!(values(&latest.poll_now().unwrap()), ["new"]);
    let refused = none.poll_now().unwrap_err();
    assert!(matches!(refused, Error::NoOffset { .. }) && refused.remedy() == Remedy::FixTheCall, "{refused}");
    assert!(none.position(&tp("orders", 0)).is_err());
    none.seek(&tp("orders", 0), Offset::new(2)).unwrap();
    assert_eq!(values(&none.poll_now().unwrap()), ["2", "new"]);
}

/// Retention overtakes a slow reader: it goes on at what remains, at the end, or says so, as it chose.
#[test]
fn an_overtaken_reader_goes_on_as_it_chose() {
    let girok = orders(1);
    send_numbers(&producer(&girok), "orders", 0, 10);
    let mut readers = [OffsetReset::Earliest, OffsetReset::Latest, OffsetReset::None].map(|reset| {
        let mut consumer = reading_from(&girok, reset);
        consumer.seek(&tp("orders", 0), Offset::new(3)).unwrap();
        consumer
    });
    girok.admin().delete_records(&[(tp("orders", 0), Offset::new(6))]).unwrap();
    send_numbers(&producer(&girok), "orders", 0, 1);

    assert_eq!(values(&readers[0].poll_now().unwrap()), ["6", "7", "8", "9", "0"]);
    assert!(readers[1].poll_now().unwrap().is_empty());
    assert_eq!(readers[1].position(&tp("orders", 0)).unwrap(), Offset::new(11));
    let refused = readers[2].poll_now().unwrap_err();
    let says = refused.to_string();
    assert!(says.contains("offset 3") && says.contains("6 to 11"), "{says}");
    assert_eq!(readers[2].position(&tp("orders", 0)).unwrap(), Offset::new(3), "the position stays");
}

/// A position beyond the end is out of range as well, not something to wait for.
#[test]
fn a_position_beyond_the_end_is_reset() {
    let girok = orders(1);
    send_numbers(&producer(&girok), "orders", 0, 3);
    let mut consumer = reading_from(&girok, OffsetReset::Earliest);
    consumer.seek(&tp("orders", 0), Offset::new(1000)).unwrap();
    assert_eq!(consumer.poll_now().unwrap().len(), 3);
}

/// Another thread can end a poll; a wake that comes too early ends the next one, and only that.
#[test]
fn a_poll_can_be_ended_from_outside() {
    let girok = orders(1);
    let mut consumer = reader(&girok, 1);
    let waker = consumer.waker();
    waker.wake();
    assert!(matches!(consumer.poll_now(), Err(Error::Woken)));
    assert!(consumer.poll_now().unwrap().is_empty());

    let begun = Instant::now();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        waker.wake();
    });
    assert!(matches!(consumer.poll(LONG), Err(Error::Woken)));
    assert!(begun.elapsed() < LONG / 2);
    thread.join().unwrap();
}

/// A blocked poll is woken by the record it waits for, also where a sync decides that it is visible.
#[test]
fn a_poll_waits_for_records() {
    for config in [written(), TopicConfig::default()] {
        let girok = Girok::in_memory().unwrap();
        girok.admin().create_topic("orders", 3, config).unwrap();
        let mut consumer = reader(&girok, 3);
        let empty = consumer.poll(Duration::from_millis(5)).unwrap();
        assert_eq!((empty.is_empty(), empty.iter().count()), (true, 0));

        let sender = girok.producer().linger(Duration::ZERO).build().unwrap();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            // Nobody waits for the delivery: the parked reader is the one who wants the sync.
            drop(sender.send(ProducerRecord::new("orders", "tea").partition(1)).unwrap());
        });
        let begun = Instant::now();
        assert_eq!(values(&consumer.poll(LONG).unwrap()), ["tea"]);
        assert!(begun.elapsed() < LONG / 2);
        thread.join().unwrap();
    }
}

/// A thousand partitions, one of them busy: every record is found, and the rest cost nothing that shows.
#[test]
fn a_thousand_partitions_and_one_busy_one() {
    let girok = orders(1000);
    let mut consumer = reader(&girok, 1000);
    assert!(consumer.poll_now().unwrap().is_empty());
    let producer = girok.producer().linger(Duration::ZERO).build().unwrap();
    for n in 0..2000 {
        drop(producer.send(ProducerRecord::new("orders", n.to_string()).partition(617)).unwrap());
        assert_eq!(values(&consumer.poll(LONG).unwrap()), [n.to_string()]);
    }
    // And any of them is heard.
    for partition in [0, 63, 64, 999] {
        drop(producer.send(ProducerRecord::new("orders", "x").partition(partition)).unwrap());
        assert_eq!(consumer.poll(LONG).unwrap().topic_partition().partition(), partition);
    }
}

/// The future gives what a poll gives, is woken by a publish, and has taken nothing when it is dropped.
#[test]
fn records_can_be_awaited() {
    let girok = orders(1);
    let sender = girok.producer().linger(Duration::ZERO).build().unwrap();
    let mut consumer = reader(&girok, 1);
    {
        let mut cancelled = consumer.next_records();
        let (polled, flag) = poll_once(&mut cancelled);
        assert!(polled.is_pending() && !flag.was_woken());
        drop(sender.send(ProducerRecord::new("orders", "tea")).unwrap());
        assert!(flag.was_woken());
        // Dropped here, ready and never looked at.
    }
    assert_eq!(values(&run(consumer.next_records()).unwrap()), ["tea"]);

    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        drop(sender.send(ProducerRecord::new("orders", "cake")).unwrap());
    });
    assert_eq!(values(&run(consumer.next_records()).unwrap()), ["cake"]);
    thread.join().unwrap();
}

/// Records outlive the consumer, the directory handle, the topic and retention.
#[test]
fn records_outlive_everything() {
    let girok = Girok::temporary().unwrap();
    girok.admin().create_topic("orders", 1, written()).unwrap();
    send_numbers(&producer(&girok), "orders", 0, 5);
    let mut consumer = reader(&girok, 1);
    let records = consumer.poll_now().unwrap();
    drop(consumer);
    girok.admin().delete_topic("orders").unwrap();
    girok.close().unwrap();
    drop(girok);
    let elsewhere = std::thread::spawn(move || values(&records));
    assert_eq!(elsewhere.join().unwrap(), ["0", "1", "2", "3", "4"]);
}

fn in_group(girok: &Girok, group: &str) -> Consumer {
    let mut consumer = girok.consumer().group_id(group).enable_auto_commit(false).build().unwrap();
    consumer.assign(&[tp("orders", 0), tp("orders", 1)]).unwrap();
    consumer
}

/// Where one consumer of a group stopped, the next goes on; another group has its own place.
#[test]
fn a_group_goes_on_where_it_was() {
    let girok = orders(2);
    let producer = producer(&girok);
    send_numbers(&producer, "orders", 0, 10);
    send_numbers(&producer, "orders", 1, 10);
    let mut first = in_group(&girok, "search");
    assert_eq!(drain(&mut first).len(), 20);
    let receipts = first.commit().unwrap();
    assert_eq!(receipts.len(), 2);
    assert!(first.commit().unwrap().is_empty(), "nothing moved since");
    for receipt in &receipts {
        assert_eq!((&*receipt.group, receipt.committed.offset), ("search", Offset::new(10)));
        assert_eq!(girok.admin().verify(receipt).unwrap(), Verdict::Stored);
    }
    drop(first);
    send_numbers(&producer, "orders", 1, 1);
    assert_eq!(drain(&mut in_group(&girok, "search")).len(), 1);
    assert_eq!(drain(&mut in_group(&girok, "archive")).len(), 21);
}

/// Committed offsets and their receipts survive a close and an open.
#[test]
fn commits_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let kept = {
        let girok = Girok::open(dir.path()).unwrap();
        girok.admin().create_topic("orders", 2, TopicConfig::default()).unwrap();
        send_numbers(&producer(&girok), "orders", 0, 10);
        let mut consumer = in_group(&girok, "search");
        let records = consumer.poll(LONG).unwrap();
        let results = consumer
            .commit_offsets(&[CommitEntry::new(tp("orders", 0), Offset::new(4)).with_metadata("note")])
            .unwrap();
        assert_eq!(records.len(), 10);
        let receipt = results[0].1.as_ref().unwrap();
        assert_eq!(receipt.durability, Durability::Synced);
        let text = receipt.to_string();
        drop(consumer);
        girok.close().unwrap();
        text
    };
    let girok = Girok::open(dir.path()).unwrap();
    assert!(girok.recovery().clean && girok.recovery().clamped().is_empty());
    assert_eq!(girok.admin().verify(&kept.parse().unwrap()).unwrap(), Verdict::Stored);
    let mut consumer = in_group(&girok, "search");
    let found = consumer.committed(&[tp("orders", 0), tp("orders", 1)]).unwrap();
    assert_eq!(found[&tp("orders", 0)].as_ref().map(|c| (c.offset.get(), &*c.metadata)), Some((4, "note")));
    assert_eq!(found[&tp("orders", 1)], None);
    assert_eq!(consumer.poll(LONG).unwrap().first_offset(), Offset::new(4));
}

/// Records count as processed when the next poll begins, and are committed when the interval is over.
#[test]
fn automatic_commits_come_after_processing() {
    let world = SimWorld::from_seed(11);
    let girok = Girok::builder().env(world.env()).threads(false).open("/log").unwrap();
    girok.admin().create_topic("orders", 1, written()).unwrap();
    send_numbers(&producer(&girok), "orders", 0, 3);
    let committed = || {
        let offsets = girok.admin().list_group_offsets("search").unwrap();
        offsets.get(&tp("orders", 0)).map(|committed| committed.offset.get())
    };
    let mut consumer = girok.consumer().group_id("search").max_poll_records(1).build().unwrap();
    consumer.assign(&[tp("orders", 0)]).unwrap();
    assert_eq!(consumer.poll_now().unwrap().len(), 1);
    assert_eq!(consumer.poll_now().unwrap().len(), 1);
    assert_eq!(committed(), None, "the interval is not over");

    world.clock.advance(Duration::from_secs(5));
    assert_eq!(committed(), None, "nothing happens behind the consumer's back");
    assert_eq!(consumer.poll_now().unwrap().len(), 1);
    assert_eq!(committed(), Some(2), "what that poll returned is not processed yet");

    // Dropped on the way out of a loop: the third record is not committed, and comes again.
    drop(consumer);
    assert_eq!(committed(), Some(2));
    let mut again = girok.consumer().group_id("search").build().unwrap();
    again.assign(&[tp("orders", 0)]).unwrap();
    assert_eq!(values(&again.poll_now().unwrap()), ["2"]);
    again.close().unwrap();
    assert_eq!(committed(), Some(3), "close says it was processed");
}

/// A new assignment commits what was processed, and that is not what the last poll returned.
#[test]
fn a_new_assignment_commits_what_was_processed() {
    let girok = orders(2);
    send_numbers(&producer(&girok), "orders", 0, 6);
    let mut consumer = girok.consumer().group_id("search").max_poll_records(2).build().unwrap();
    consumer.assign(&[tp("orders", 0)]).unwrap();
    assert_eq!(consumer.poll_now().unwrap().len(), 2);
    assert_eq!(consumer.poll_now().unwrap().len(), 2);
    consumer.assign(&[tp("orders", 1)]).unwrap();
    let committed = |consumer: &Consumer| {
        let found = consumer.committed(&[tp("orders", 0)]).unwrap();
        found[&tp("orders", 0)].as_ref().map(|committed| committed.offset.get())
    };
    assert_eq!(committed(&consumer), Some(2));
    consumer.assign(&[tp("orders", 0), tp("orders", 1)]).unwrap();
    assert_eq!(values(&consumer.poll_now().unwrap()), ["2", "3"], "what was not processed comes again");

    // One that stays is at its place, and the next poll says that its records are processed.
    consumer.assign(&[tp("orders", 0)]).unwrap();
    assert_eq!(committed(&consumer), Some(2));
    assert_eq!(values(&consumer.poll_now().unwrap()), ["4", "5"]);
    consumer.assign(&[tp("orders", 1)]).unwrap();
    assert_eq!(committed(&consumer), Some(4));
}

/// While nothing comes, what was processed is committed in time all the same.
#[test]
fn a_waiting_consumer_commits_in_time() {
    let girok = orders(1);
    send_numbers(&producer(&girok), "orders", 0, 3);
    let build = || {
        let interval = Duration::from_millis(20);
        let mut consumer =
            girok.consumer().group_id("search").auto_commit_interval(interval).build().unwrap();
        consumer.assign(&[tp("orders", 0)]).unwrap();
        consumer
    };
    let committed =
        || girok.admin().list_group_offsets("search").unwrap().into_values().next().map(|c| c.offset.get());
    let mut consumer = build();
    assert_eq!(consumer.poll(LONG).unwrap().len(), 3);
    assert!(consumer.poll(Duration::from_millis(200)).unwrap().is_empty());
    assert_eq!(committed(), Some(3));

    // And so does one that is awaited.
    send_numbers(&producer(&girok), "orders", 0, 2);
    assert_eq!(consumer.poll(LONG).unwrap().len(), 2);
    std::thread::scope(|scope| {
        let sender = girok.producer().linger(Duration::ZERO).build().unwrap();
        let committed = &committed;
        scope.spawn(move || {
            let begun = Instant::now();
            while committed() != Some(5) {
                assert!(begun.elapsed() < LONG, "nobody committed");
                std::thread::sleep(Duration::from_millis(5));
            }
            drop(sender.send(ProducerRecord::new("orders", "end")).unwrap());
        });
        assert_eq!(values(&run(consumer.next_records()).unwrap()), ["end"]);
    });
}

/// A commit that is refused says for which partition and why, and the others are stored.
#[test]
fn refused_commits_say_why() {
    let girok = orders(2);
    send_numbers(&producer(&girok), "orders", 0, 5);
    let mut consumer = in_group(&girok, "search");
    let results = consumer
        .commit_offsets(&[
            CommitEntry::new(tp("orders", 0), Offset::new(5)),
            CommitEntry::new(tp("orders", 1), Offset::new(1)),
            CommitEntry::new(tp("nobody", 0), Offset::new(0)),
            CommitEntry::new(tp("orders", 0), Offset::new(3)).with_metadata("x".repeat(5000)),
        ])
        .unwrap();
    assert!(results[0].1.is_ok());
    assert!(matches!(results[1].1, Err(Reject::BeyondEnd { .. })));
    assert!(matches!(results[2].1, Err(Reject::UnknownTopicOrPartition { .. })));
    assert!(matches!(results[3].1, Err(Reject::OffsetMetadataTooLarge { .. })));

    consumer.seek(&tp("orders", 0), Offset::new(2)).unwrap();
    consumer.seek(&tp("orders", 1), Offset::new(99)).unwrap();
    let Err(Error::NotCommitted { refused, stored }) = consumer.commit() else { panic!("99 was committed") };
    assert_eq!((refused.len(), stored.len()), (1, 1));
    assert_eq!((&refused[0].0, stored[0].committed.offset), (&tp("orders", 1), Offset::new(2)));
}

/// Asynchronous commits are decided at once, and can be waited for, awaited or dropped.
#[test]
fn commits_need_not_be_waited_for() {
    let girok = orders(2);
    send_numbers(&producer(&girok), "orders", 0, 9);
    let mut consumer = in_group(&girok, "search");
    let committed = || girok.admin().list_group_offsets("search").unwrap()[&tp("orders", 0)].offset.get();
    consumer.seek(&tp("orders", 0), Offset::new(1)).unwrap();
    drop(consumer.commit_async().unwrap());
    assert_eq!(committed(), 1);
    consumer.seek(&tp("orders", 0), Offset::new(2)).unwrap();
    let waited = consumer.commit_async().unwrap().wait();
    assert_eq!(waited[0].1.as_ref().unwrap().committed.offset, Offset::new(2));
    consumer.seek(&tp("orders", 0), Offset::new(3)).unwrap();
    let awaited = run(consumer.commit_async().unwrap());
    assert_eq!(awaited[0].1.as_ref().unwrap().committed.offset, Offset::new(3));
    assert!(consumer.commit_async().unwrap().wait().is_empty());
}

/// What comes later is refused by its name, and what makes no sense with a reason.
#[test]
fn what_is_not_there_yet_is_refused_by_name() {
    let girok = orders(1);
    let mut consumer = girok.consumer().build().unwrap();
    for (refused, says) in [
        (consumer.subscribe(&["orders"]).unwrap_err(), "subscribe"),
        (
            girok.consumer().isolation_level(IsolationLevel::ReadCommitted).build().unwrap_err(),
            "read_committed",
        ),
        (consumer.commit().unwrap_err(), "group_id"),
        (consumer.committed(&[tp("orders", 0)]).unwrap_err(), "group_id"),
        (consumer.poll_now().unwrap_err(), "assign"),
        (consumer.assign(&[tp("orders", 1)]).unwrap_err(), "orders-1"),
        (consumer.assign(&[tp("nobody", 0)]).unwrap_err(), "nobody"),
        (girok.consumer().max_poll_records(0).build().unwrap_err(), "max_poll_records"),
    ] {
        assert!(refused.to_string().contains(says), "{says}: {refused}");
        assert_eq!(refused.remedy(), Remedy::FixTheCall);
    }
}

/// A new assignment keeps the places of those who stay.
#[test]
fn those_who_stay_keep_their_place() {
    let girok = orders(3);
    let producer = producer(&girok);
    (0..3).for_each(|partition| send_numbers(&producer, "orders", partition, 4));
    let mut consumer = girok.consumer().max_poll_records(3).build().unwrap();
    consumer.assign(&[tp("orders", 0), tp("orders", 1), tp("orders", 0)]).unwrap();
    assert_eq!(consumer.assignment().count(), 2, "named twice, assigned once");
    assert_eq!(consumer.poll_now().unwrap().len(), 3);
    consumer.pause(&[tp("orders", 1)]).unwrap();

    consumer.assign(&[tp("orders", 2), tp("orders", 1), tp("orders", 0)]).unwrap();
    let rest = drain(&mut consumer);
    let count = |partition| rest.iter().filter(|(from, ..)| *from == tp("orders", partition)).count();
    assert_eq!((count(0), count(1), count(2)), (1, 0, 4));

    // One that leaves and comes back has no place of its own any more.
    consumer.assign(&[tp("orders", 1)]).unwrap();
    consumer.assign(&[tp("orders", 0)]).unwrap();
    assert_eq!(drain(&mut consumer).len(), 4);
}

/// A topic is deleted under its reader: told once, and the others go on; one of the same name is another topic.
#[test]
fn a_topic_that_is_gone_is_told_once() {
    let girok = orders(1);
    girok.admin().create_topic("other", 1, written()).unwrap();
    let mut consumer = girok.consumer().group_id("search").enable_auto_commit(false).build().unwrap();
    consumer.assign(&[tp("orders", 0), tp("other", 0)]).unwrap();
    send_numbers(&producer(&girok), "orders", 0, 3);
    assert_eq!(drain(&mut consumer).len(), 3);
    consumer.commit().unwrap();

    girok.admin().delete_topic("orders").unwrap();
    let told: Vec<Error> = (0..5).filter_map(|_| consumer.poll_now().err()).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].to_string().contains("orders"), "{}", told[0]);
    send_numbers(&producer(&girok), "other", 0, 2);
    assert_eq!(drain(&mut consumer).len(), 2);

    girok.admin().create_topic("orders", 1, written()).unwrap();
    send_numbers(&producer(&girok), "orders", 0, 7);
    consumer.assign(&[tp("orders", 0)]).unwrap();
    assert_eq!(drain(&mut consumer).len(), 7, "the old topic's committed offset is not the new one's");
}

/// Producing and consuming at once, from several partitions, for a while: every record once, in order.
#[test]
fn consuming_while_producing_skips_nothing() {
    let girok = Girok::temporary().unwrap();
    let config = TopicConfig { segment_bytes: 64 << 10, ..written() };
    girok.admin().create_topic("orders", 4, config).unwrap();
    const EACH: u32 = 5000;
    let sender = girok.producer().linger(Duration::from_millis(1)).batch_size(700).build().unwrap();
    let thread = std::thread::spawn(move || {
        for n in 0..EACH {
            for partition in 0..4 {
                drop(sender.send(ProducerRecord::new("orders", n.to_string()).partition(partition)).unwrap());
            }
        }
        sender.flush().unwrap();
    });
    let mut consumer = girok.consumer().max_poll_records(37).build().unwrap();
    consumer.assign(&(0..4).map(|n| tp("orders", n)).collect::<Vec<_>>()).unwrap();
    let mut next: BTreeMap<i32, u32> = BTreeMap::new();
    while next.len() < 4 || next.values().any(|n| *n < EACH) {
        let records = consumer.poll(LONG).unwrap();
        assert!(!records.is_empty(), "stuck at {next:?}");
        let expected = next.entry(records.topic_partition().partition()).or_default();
        for text in values(&records) {
            assert_eq!(text, expected.to_string());
            *expected += 1;
        }
    }
    thread.join().unwrap();
}
