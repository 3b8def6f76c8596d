//! Producers: where records go, when they go, and what their senders hear.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use girok::{
    CleanupPolicy, Codec, Delivery, Durability, Error, Girok, Offset, Partitioner, Producer, ProducerRecord,
    ProducerTopic, RecordMetadata, Remedy, Timestamp, TimestampType, TopicConfig, partition_for_key,
};
use girok_engine::FetchBounds;

use crate::support::SimWorld;
use crate::{LONG, ageless_orders, drain, orders, poll_once, producer, reader, run, tp, values, written};

/// What may cross threads says so at compile time.
#[test]
fn producers_are_shared_between_threads() {
    fn shared<T: Clone + Send + Sync>() {}
    fn sent<T: Send + 'static>() {}
    shared::<Girok>();
    shared::<Producer>();
    sent::<Delivery>();
    sent::<ProducerTopic>();

    let girok = orders(1);
    let producer = producer(&girok);
    std::thread::scope(|scope| {
        for name in ["a", "b", "c", "d"] {
            let producer = producer.clone();
            scope.spawn(move || {
                for n in 0..500 {
                    drop(producer.send(ProducerRecord::new("orders", format!("{name}{n}"))).unwrap());
                }
            });
        }
    });
    producer.flush().unwrap();
    let all = drain(&mut reader(&girok, 1));
    assert_eq!(all.len(), 2000);
    for name in ["a", "b", "c", "d"] {
        let own: Vec<_> =
            all.iter().filter(|(.., text)| text.starts_with(name)).map(|(.., text)| &text[1..]).collect();
        assert!(
            own.iter().enumerate().all(|(n, text)| *text == n.to_string()),
            "{name}'s records are in its order"
        );
    }
}

fn batches(girok: &Girok, partition: i32) -> Vec<i32> {
    let partition = girok.log().partition(&tp("orders", partition)).unwrap();
    let bounds = FetchBounds { bytes_max: 1 << 30, records_max: u32::MAX };
    let view = partition.fetch(partition.start_offset(), &bounds).unwrap();
    view.batches().map(|batch| batch.unwrap().header().record_count).collect()
}

/// What is sent close together becomes one batch; with no linger each record is its own, and there at once.
#[test]
fn records_linger_to_share_a_batch() {
    let girok = orders(2);
    let patient = girok.producer().linger(LONG).build().unwrap();
    for n in 0..100 {
        drop(patient.send(ProducerRecord::new("orders", n.to_string()).partition(0)).unwrap());
    }
    assert!(drain(&mut reader(&girok, 2)).is_empty());
    patient.flush().unwrap();
    assert_eq!(batches(&girok, 0), [100]);

    let eager = girok.producer().linger(Duration::ZERO).build().unwrap();
    for n in 0..3 {
        drop(eager.send(ProducerRecord::new("orders", n.to_string()).partition(1)).unwrap());
    }
    assert_eq!(batches(&girok, 1), [1, 1, 1]);
}

/// A batch is closed before it would pass `batch_size`; a record that is larger alone gets a batch of its own.
#[test]
fn batches_keep_to_their_size() {
    let girok = orders(1);
    let producer = girok.producer().linger(LONG).batch_size(1000).build().unwrap();
    for _ in 0..20 {
        drop(producer.send(ProducerRecord::new("orders", &[b'x'; 200])).unwrap());
    }
    drop(producer.send(ProducerRecord::new("orders", &[b'x'; 5000])).unwrap());
    producer.flush().unwrap();
    assert_eq!(batches(&girok, 0), [4, 4, 4, 4, 4, 1]);
}

/// The linger is the background's business: with nobody filling the batch it is appended when its time is over, by the
/// clock that was handed in.
#[test]
fn a_linger_ends_by_the_clock() {
    let world = SimWorld::from_seed(1);
    let girok = Girok::builder().env(world.env()).threads(false).open("/log").unwrap();
    girok.admin().create_topic("orders", 1, written()).unwrap();
    let producer = girok.producer().linger(Duration::from_millis(20)).build().unwrap();
    let sent = producer.send(ProducerRecord::new("orders", "tea")).unwrap();

    world.clock.advance(Duration::from_millis(19));
    let next = girok.step().unwrap();
    assert_eq!(sent.try_get().unwrap(), None);
    assert_eq!(next.as_nanos(), 20_000_000, "the step says when it is due");

    world.clock.advance(Duration::from_millis(1));
    girok.step().unwrap();
    assert_eq!(sent.try_get().unwrap().unwrap().offset, Offset::ZERO);
}

/// The same with the real thread and the real clock: nobody flushes, waits or fills, and the record arrives.
#[test]
fn a_dropped_delivery_loses_nothing() {
    let girok = orders(1);
    let producer = girok.producer().linger(Duration::from_millis(1)).build().unwrap();
    drop(producer.send(ProducerRecord::new("orders", "tea")).unwrap());
    assert_eq!(values(&reader(&girok, 1).poll(LONG).unwrap()), ["tea"]);
}

/// Whoever waits does not wait for the linger, and hears where the record is and what it has survived.
#[test]
fn waiting_ends_the_linger() {
    let girok = ageless_orders(1);
    girok.admin().create_topic("safe", 1, TopicConfig::default()).unwrap();
    let producer = girok.producer().linger(LONG).build().unwrap();
    let time = Timestamp::from_millis(1_700_000_000_000);
    let first = producer.send(ProducerRecord::new("orders", "tea").timestamp(time)).unwrap();
    let second = producer.send(ProducerRecord::new("orders", "cake").timestamp(time)).unwrap();
    let RecordMetadata { offset, timestamp, durability, .. } = second.wait().unwrap();
    assert_eq!((offset, timestamp, durability), (Offset::new(1), time, Durability::Written));
    assert_eq!(first.try_get().unwrap().unwrap().offset, Offset::ZERO);
    assert_eq!(batches(&girok, 0), [2]);

    let safe = producer.send(ProducerRecord::new("safe", "tea")).unwrap().wait().unwrap();
    assert_eq!(safe.durability, Durability::Synced);
}

/// One may ask to be told earlier than the topic promises; nobody sees the record earlier.
#[test]
fn told_earlier_is_not_seen_earlier() {
    let world = SimWorld::from_seed(2);
    let girok = Girok::builder().env(world.env()).threads(false).open("/log").unwrap();
    girok.admin().create_topic("orders", 1, TopicConfig::default()).unwrap();
    let hasty = girok.producer().durability(Durability::Written).build().unwrap();
    let told = hasty.send(ProducerRecord::new("orders", "tea")).unwrap().wait().unwrap();
    assert_eq!(told.durability, Durability::Written);
    let mut consumer = reader(&girok, 1);
    assert!(consumer.poll_now().unwrap().is_empty());
    // The consumer that looks counts as one who waits: the next step syncs.
    girok.step().unwrap();
    assert_eq!(values(&consumer.poll_now().unwrap()), ["tea"]);
}

/// And one may ask for more.
#[test]
fn a_producer_may_wait_for_more_than_the_topic_promises() {
    let girok = orders(1);
    let careful = girok.producer().durability(Durability::Synced).build().unwrap();
    let told = careful.send(ProducerRecord::new("orders", "tea")).unwrap().wait().unwrap();
    assert_eq!(told.durability, Durability::Synced);
}

/// A delivery is a future that needs no runtime; the background leads the sync.
#[test]
fn deliveries_can_be_awaited() {
    let girok = Girok::in_memory().unwrap();
    girok.admin().create_topic("orders", 1, TopicConfig::default()).unwrap();
    let producer = girok.producer().linger(LONG).build().unwrap();
    let offsets: Vec<i64> = run(async {
        let sent: Vec<Delivery> =
            (0..10).map(|n| producer.send(ProducerRecord::new("orders", n.to_string())).unwrap()).collect();
        let mut offsets = Vec::new();
        for delivery in sent {
            let metadata = delivery.await.unwrap();
            assert_eq!(metadata.durability, Durability::Synced);
            offsets.push(metadata.offset.get());
        }
        offsets
    });
    assert_eq!(offsets, (0..10).collect::<Vec<_>>());
    assert_eq!(batches(&girok, 0), [10], "they were sent before the first was awaited");
}

/// Dropped between two polls, a delivery takes nothing back and leaves nobody to be woken.
#[test]
fn a_cancelled_wait_takes_nothing_back() {
    let world = SimWorld::from_seed(3);
    let girok = Girok::builder().env(world.env()).threads(false).open("/log").unwrap();
    girok.admin().create_topic("orders", 1, TopicConfig::default()).unwrap();
    let producer = producer(&girok);
    let mut kept = producer.send(ProducerRecord::new("orders", "tea")).unwrap();
    let mut dropped = producer.send(ProducerRecord::new("orders", "cake")).unwrap();
    let (polled, kept_flag) = poll_once(&mut kept);
    assert!(polled.is_pending());
    let (polled, dropped_flag) = poll_once(&mut dropped);
    assert!(polled.is_pending());
    drop(dropped);
    girok.step().unwrap();
    assert!(kept_flag.was_woken() && !dropped_flag.was_woken());
    assert_eq!(run(kept).unwrap().offset, Offset::ZERO);
    assert_eq!(drain(&mut reader(&girok, 1)).len(), 2);
}

/// Keys go where Kafka's clients would send them.
#[test]
fn keys_go_where_kafka_sends_them() {
    let girok = orders(6);
    let producer = producer(&girok);
    let mut used = BTreeSet::new();
    for n in 0..200 {
        let key = format!("table {n}");
        let sent = producer.send(ProducerRecord::new("orders", "tea").key(&key)).unwrap().wait().unwrap();
        assert_eq!(sent.partition, partition_for_key(key.as_bytes(), 6));
        used.insert(sent.partition);
    }
    assert_eq!(used.len(), 6);
}

/// Records without a key fill one partition's batch and then move on; over time nobody is left out.
#[test]
fn keyless_records_stick_and_move_on() {
    let girok = orders(4);
    let producer = girok.producer().linger(LONG).batch_size(1000).build().unwrap();
    for _ in 0..2000 {
        drop(producer.send(ProducerRecord::new("orders", &[b'x'; 90])).unwrap());
    }
    producer.flush().unwrap();
    let mut records = 0;
    for partition in 0..4 {
        let counts = batches(&girok, partition);
        let (last, full) = counts.split_last().unwrap();
        assert!(full.iter().all(|count| (8..=10).contains(count)), "batches are full: {counts:?}");
        let here: i32 = full.iter().sum::<i32>() + last;
        assert!((200..900).contains(&here), "partition {partition} has {here} of 2000");
        records += here;
    }
    assert_eq!(records, 2000);
}

/// Partitions can take turns.
#[test]
fn round_robin_takes_turns() {
    let girok = orders(3);
    let producer = girok.producer().round_robin().build().unwrap();
    let went: Vec<i32> = (0..6)
        .map(|_| {
            producer.send(ProducerRecord::new("orders", "tea").key("same")).unwrap().wait().unwrap().partition
        })
        .collect();
    assert_eq!(went, [0, 1, 2, 0, 1, 2]);
}

/// A rule of one's own is followed, and checked.
#[test]
fn a_partitioner_of_ones_own_is_checked() {
    #[derive(Debug)]
    struct ByLength;
    impl Partitioner for ByLength {
        fn partition(&self, topic: &str, _: Option<&[u8]>, value: Option<&[u8]>, partitions: i32) -> i32 {
            assert_eq!((topic, partitions), ("orders", 3));
            value.map_or(-1, |value| value.len() as i32)
        }
    }
    let girok = orders(3);
    let producer = girok.producer().partitioner(ByLength).build().unwrap();
    assert_eq!(producer.send(ProducerRecord::new("orders", "xx")).unwrap().wait().unwrap().partition, 2);
    let wrong = producer.send(ProducerRecord::new("orders", "xxx")).unwrap_err();
    assert!(wrong.to_string().contains("0 to 2") && wrong.to_string().contains("found 3"), "{wrong}");
}

/// A record that is too large is refused before anything is taken, and the error says whose limit it was.
#[test]
fn oversize_records_are_refused_by_their_size() {
    let girok = orders(1);
    girok.admin().alter_config("orders", &[("max.message.bytes", "5000")]).unwrap();
    let producer = girok.producer().linger(LONG).max_request_size(10_000).build().unwrap();
    drop(producer.send(ProducerRecord::new("orders", "small")).unwrap());

    let client = producer.send(ProducerRecord::new("orders", &[0; 20_000])).unwrap_err();
    assert!(
        client.to_string().contains("10000") && client.to_string().contains("max_request_size"),
        "{client}"
    );
    assert_eq!(client.remedy(), Remedy::FixTheCall);
    let topic = producer.send(ProducerRecord::new("orders", &[0; 6000])).unwrap_err();
    assert!(topic.to_string().contains("5000") && topic.to_string().contains("max.message.bytes"), "{topic}");

    // What was open is as it was, and the next record is fine.
    drop(producer.send(ProducerRecord::new("orders", "small too")).unwrap());
    producer.flush().unwrap();
    let texts: Vec<_> = drain(&mut reader(&girok, 1)).into_iter().map(|(.., text)| text).collect();
    assert_eq!(texts, ["small", "small too"]);
}

/// What makes no sense is an error and changes nothing.
#[test]
fn bad_records_are_named() {
    let girok = orders(2);
    let producer = producer(&girok);
    for (record, says) in [
        (ProducerRecord::new("nobody", "x"), "nobody"),
        (ProducerRecord::new("orders", "x").partition(2), "0 to 1"),
        (ProducerRecord::new("orders", "x").partition(-1), "found -1"),
        (ProducerRecord::new("orders", "x").timestamp(Timestamp::from_millis(-7)), "-7"),
        (ProducerRecord::new("__consumer_offsets", "x"), "belongs to the coordinator"),
    ] {
        let error = producer.send(record).unwrap_err();
        assert!(error.to_string().contains(says), "{says}: {error}");
        assert_eq!(error.remedy(), Remedy::FixTheCall);
    }
    assert!(girok.producer().batch_size(0).build().is_err());
    assert!(girok.producer().buffer_memory(100).build().is_err(), "less than one batch");
    producer.flush().unwrap();
    assert!(drain(&mut reader(&girok, 2)).is_empty());
}

/// Open batches take a bounded amount of memory, however many partitions there are: what would pass the bound has the
/// others appended first.
#[test]
fn open_batches_take_bounded_memory() {
    let girok = orders(50);
    let bound = 10 * 16_384;
    let producer = girok.producer().linger(LONG).buffer_memory(bound).build().unwrap();
    for n in 0..5000 {
        drop(producer.send(ProducerRecord::new("orders", &[b'x'; 100]).partition(n % 50)).unwrap());
        assert!(producer.buffered_bytes() <= bound, "{} bytes", producer.buffered_bytes());
    }
    producer.flush().unwrap();
    assert_eq!(producer.buffered_bytes(), 0);
    assert_eq!(drain(&mut reader(&girok, 50)).len(), 5000);
}

/// Every codec comes back as what was sent, keys, nulls, headers and times included.
#[test]
fn every_codec_comes_back_as_it_was_sent() {
    for codec in Codec::ALL {
        let girok = ageless_orders(1);
        let producer = girok.producer().compression(codec).linger(LONG).build().unwrap();
        let text = "many coffees ".repeat(50);
        for n in 0..300 {
            let record = ProducerRecord::new("orders", &text)
                .timestamp(Timestamp::from_millis(1000 + n))
                .header("trace", "a1")
                .null_header("empty");
            let record = if n % 2 == 0 { record.key("even") } else { record };
            drop(producer.send(record).unwrap());
        }
        drop(producer.send(ProducerRecord::tombstone("orders", "gone")).unwrap());
        producer.flush().unwrap();

        let mut consumer = reader(&girok, 1);
        let mut seen = 0;
        while seen < 301 {
            let records = consumer.poll(LONG).unwrap();
            assert_eq!(records.iter().count(), records.len());
            for record in &records {
                let n = record.offset().get();
                assert_eq!(n, seen, "{codec}");
                if n == 300 {
                    assert_eq!((record.key(), record.value()), (Some(&b"gone"[..]), None));
                } else {
                    assert_eq!(record.timestamp(), Timestamp::from_millis(1000 + n));
                    assert_eq!(record.key(), (n % 2 == 0).then_some(&b"even"[..]));
                    assert_eq!(record.value(), Some(text.as_bytes()));
                    let headers: Vec<_> =
                        record.headers().map(|h| (h.key().into_owned(), h.value())).collect();
                    assert_eq!(headers, [("trace".into(), Some(&b"a1"[..])), ("empty".into(), None)]);
                    assert_eq!(record.header("empty"), Some(None));
                }
                seen += 1;
            }
        }
        if codec != Codec::None {
            let bytes = girok.log().partition(&tp("orders", 0)).unwrap().bytes();
            assert!(bytes < 300 * text.len() as u64 / 2, "{codec} compresses: {bytes} bytes");
        }
    }
}

/// Where the topic stamps records, the metadata and the consumer both have the log's time.
#[test]
fn the_log_may_stamp_the_records() {
    let world = SimWorld::from_seed(4);
    let girok = Girok::builder().env(world.env()).threads(false).open("/log").unwrap();
    let config = TopicConfig { timestamp_type: TimestampType::LogAppendTime, ..written() };
    girok.admin().create_topic("orders", 1, config).unwrap();
    let producer = producer(&girok);
    let sent =
        producer.send(ProducerRecord::new("orders", "tea").timestamp(Timestamp::from_millis(5))).unwrap();
    let stamped = sent.wait().unwrap().timestamp;
    assert_eq!(stamped, Timestamp::from_millis(1_700_000_000_000));
    let records = reader(&girok, 1).poll_now().unwrap();
    assert_eq!(records.iter().next().unwrap().timestamp(), stamped);
}

/// A failed batch is told to everyone who holds a delivery of it, and to flush if nobody does.
#[test]
fn a_failure_nobody_waited_for_is_told_by_flush() {
    let world = SimWorld::from_seed(5);
    let girok = Girok::builder().env(world.env()).threads(false).open("/log").unwrap();
    girok.admin().create_topic("orders", 1, TopicConfig::default()).unwrap();
    let producer = producer(&girok);
    producer.send(ProducerRecord::new("orders", "before")).unwrap().wait().unwrap();

    world.disk.fail_next_sync();
    let first = producer.send(ProducerRecord::new("orders", "a")).unwrap();
    let error = first.wait().unwrap_err();
    assert!(matches!(error.engine(), Some(girok_engine::Error::Poisoned { .. })), "{error}");
    assert_eq!(error.remedy(), Remedy::Restart);

    // Poisoned: what is sent now fails, whether or not anybody waits.
    drop(producer.send(ProducerRecord::new("orders", "b")));
    assert!(matches!(producer.flush().unwrap_err().engine(), Some(girok_engine::Error::Poisoned { .. })));
    // Reads go on.
    assert_eq!(values(&reader(&girok, 1).poll_now().unwrap()), ["before"]);
}

/// The last clone of a producer appends what is open.
#[test]
fn the_last_clone_appends_what_is_open() {
    let girok = orders(1);
    let producer = girok.producer().linger(LONG).build().unwrap();
    let other = producer.clone();
    drop(other.send(ProducerRecord::new("orders", "tea")).unwrap());
    drop(other);
    assert!(reader(&girok, 1).poll_now().unwrap().is_empty());
    drop(producer);
    assert_eq!(values(&reader(&girok, 1).poll_now().unwrap()), ["tea"]);
}

/// Topics come, grow and go under a running producer.
#[test]
fn a_running_producer_sees_topics_change() {
    let girok = orders(1);
    let producer = producer(&girok);
    let topic = producer.topic("orders").unwrap();
    let send_to = |partition| producer.send_to(&topic, Some(partition), None, Some(b"x")).map(drop);
    send_to(0).unwrap();
    assert!(send_to(3).is_err());
    girok.admin().create_partitions("orders", 4).unwrap();
    send_to(3).unwrap();
    assert_eq!(producer.partitions_for("orders").unwrap(), 4);
    producer.flush().unwrap();

    // Through the engine's own door, too, once a send fails.
    girok.log().delete_topic("orders").unwrap();
    girok.log().create_topic("orders", 2, written()).unwrap();
    let eager = girok.producer().linger(Duration::ZERO).build().unwrap();
    assert_eq!(
        eager.send(ProducerRecord::new("orders", "anew").partition(1)).unwrap().wait().unwrap().offset,
        Offset::ZERO
    );
    girok.admin().delete_topic("orders").unwrap();
    eager.flush().unwrap();
    let gone = eager.send(ProducerRecord::new("orders", "x")).unwrap_err();
    assert!(gone.to_string().contains("orders"), "{gone}");
}

/// Topics are made at first use only where that was asked for.
#[test]
fn topics_are_made_at_first_use_if_asked() {
    let girok = Girok::builder()
        .env(girok::Env::in_memory())
        .auto_create_topics(Some((3, written())))
        .open("/log")
        .unwrap();
    let sent = girok.producer().build().unwrap().send(ProducerRecord::new("new", "x").key("k")).unwrap();
    assert_eq!(sent.wait().unwrap().partition, partition_for_key(b"k", 3));
    assert_eq!(girok.admin().describe_topics(&["new"]).unwrap()[0].partitions, 3);
}

/// After the directory is closed nothing is taken, and what was open before is in the log.
#[test]
fn close_appends_what_is_open_and_takes_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let girok = Girok::open(dir.path()).unwrap();
    girok.admin().create_topic("orders", 1, written()).unwrap();
    let producer = girok.producer().linger(LONG).build().unwrap();
    let sent = producer.send(ProducerRecord::new("orders", "tea")).unwrap();
    girok.close().unwrap();
    let closed = producer.send(ProducerRecord::new("orders", "late")).unwrap_err();
    assert!(matches!(closed.engine(), Some(girok_engine::Error::Closed { .. })), "{closed}");
    drop((sent, producer, girok));

    let girok = Girok::open(dir.path()).unwrap();
    assert!(girok.recovery().clean);
    assert_eq!(values(&reader(&girok, 1).poll_now().unwrap()), ["tea"]);
}

/// Sends from many threads while another flushes: every record arrives once, in its sender's order.
#[test]
fn flushing_meets_sending() {
    let girok = orders(3);
    let producer = girok.producer().linger(Duration::from_millis(1)).batch_size(500).build().unwrap();
    std::thread::scope(|scope| {
        for name in 0..3 {
            let producer = producer.clone();
            scope.spawn(move || {
                for n in 0..1000 {
                    drop(
                        producer.send(ProducerRecord::new("orders", format!("{n}")).partition(name)).unwrap(),
                    );
                }
            });
        }
        for _ in 0..50 {
            producer.flush().unwrap();
        }
    });
    producer.flush().unwrap();
    let mut next = BTreeMap::from([(0, 0), (1, 0), (2, 0)]);
    for (tp, _, text) in drain(&mut reader(&girok, 3)) {
        let expected = next.get_mut(&tp.partition()).unwrap();
        assert_eq!(text, expected.to_string());
        *expected += 1;
    }
    assert!(next.values().all(|n| *n == 1000), "{next:?}");
}

/// An error is cheap to clone and says what to do.
#[test]
fn errors_can_be_kept() {
    let girok = orders(1);
    let error = producer(&girok).send(ProducerRecord::new("nobody", "x")).unwrap_err();
    let kept: Error = error.clone();
    assert_eq!(kept.to_string(), error.to_string());
}

/// A partition that cannot be used refuses what must go there, by name, and nothing else: records without a key go round
/// it.
#[test]
fn a_refused_partition_keeps_nothing_from_the_others() {
    let dir = tempfile::tempdir().unwrap();
    {
        let girok = Girok::open(dir.path()).unwrap();
        girok.admin().create_topic("orders", 3, written()).unwrap();
        let producer = producer(&girok);
        for partition in 0..3 {
            producer.send(ProducerRecord::new("orders", "x").partition(partition)).unwrap().wait().unwrap();
        }
        girok.close().unwrap();
    }
    let log = dir.path().join("orders-1/00000000000000000000.log");
    std::fs::OpenOptions::new().write(true).open(log).unwrap().set_len(10).unwrap();

    let girok = Girok::open(dir.path()).unwrap();
    let lingering = girok.producer().linger(LONG).batch_size(200).build().unwrap();
    let takes_turns = girok.producer().round_robin().build().unwrap();
    for (producer, keeps_keys) in [(lingering, true), (takes_turns, false)] {
        for n in 0..60 {
            drop(producer.send(ProducerRecord::new("orders", format!("keyless {n}"))).unwrap());
        }
        producer.flush().unwrap();
        let error = producer.send(ProducerRecord::new("orders", "there").partition(1)).unwrap_err();
        assert!(error.to_string().contains("orders-1"), "{error}");
        assert_eq!(error.remedy(), Remedy::Restore);
        let key = (0..).map(|n| n.to_string()).find(|key| partition_for_key(key.as_bytes(), 3) == 1).unwrap();
        match producer.send(ProducerRecord::new("orders", "keyed").key(&key)) {
            Err(error) => assert!(keeps_keys && error.to_string().contains("orders-1"), "{error}"),
            Ok(_) => assert!(!keeps_keys, "a key goes where Kafka sends it"),
        }
        producer.flush().unwrap();
    }
    for partition in [0, 2] {
        let mut consumer = girok.consumer().build().unwrap();
        consumer.assign(&[tp("orders", partition)]).unwrap();
        assert!(drain(&mut consumer).len() > 10, "both others took their turns");
    }
}

/// Sending opens what is sent to.
#[test]
fn sending_opens_what_is_sent_to() {
    let girok = orders(1000);
    let before = girok.stats().partitions_live;
    let producer = producer(&girok);
    producer.send(ProducerRecord::new("orders", "x").partition(7)).unwrap().wait().unwrap();
    assert_eq!(girok.stats().partitions_live, before + 1);
}

/// A record without a key is refused before it joins a batch of a compacted topic, which would be refused whole.
#[test]
fn a_keyless_record_spoils_no_batch_of_a_compacted_topic() {
    let girok = Girok::in_memory().unwrap();
    let config = TopicConfig { cleanup_policy: CleanupPolicy::Compact, ..written() };
    girok.admin().create_topic("orders", 1, config).unwrap();
    let producer = girok.producer().linger(LONG).build().unwrap();
    for n in 0..10 {
        let error = producer.send(ProducerRecord::new("orders", "keyless")).unwrap_err();
        assert!(error.to_string().contains("orders-0 is compacted"), "{error}");
        assert_eq!(error.remedy(), Remedy::FixTheCall);
        drop(producer.send(ProducerRecord::new("orders", "keyed").key(n.to_string())).unwrap());
    }
    producer.flush().unwrap();
    assert_eq!(drain(&mut reader(&girok, 1)).len(), 10);
    assert_eq!(batches(&girok, 0), [10], "one batch");
}
