//! The promise: once polling is under way, a poll of uncompressed batches allocates nothing, nor does a record.
//!
//! A counting allocator stands in for the system's. It counts per thread, so the background and the test harness may
//! allocate what they like.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use girok::{Codec, Durability, Girok, TopicConfig, TopicPartition};

struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came; counting touches a plain thread-local cell.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many allocations this thread makes meanwhile.
fn allocations(during: impl FnOnce()) -> u64 {
    let before = COUNT.with(Cell::get);
    during();
    COUNT.with(Cell::get) - before
}

/// The counter itself counts, or every zero below means nothing.
#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(7)))), 1);
    assert_eq!(allocations(|| ()), 0);
}

const RECORDS: u64 = 20_000;
const PARTITIONS: i32 = 3;

fn girok_with_records(codec: Codec) -> Girok {
    let girok = Girok::temporary().unwrap();
    let config = TopicConfig { durability: Durability::Written, ..TopicConfig::default() };
    girok.admin().create_topic("orders", PARTITIONS, config).unwrap();
    // Batches are full whatever the machine does meanwhile, so all partitions are read to their ends in step.
    let producer = girok.producer().compression(codec).linger(Duration::from_secs(60)).build().unwrap();
    let topic = producer.topic("orders").unwrap();
    for n in 0..RECORDS * PARTITIONS as u64 {
        let partition = (n % PARTITIONS as u64) as i32;
        drop(producer.send_to(&topic, Some(partition), Some(b"key"), Some(&n.to_be_bytes())).unwrap());
    }
    producer.flush().unwrap();
    girok
}

fn partitions() -> Vec<TopicPartition> {
    (0..PARTITIONS).map(|n| TopicPartition::new("orders", n)).collect()
}

/// Reads everything there is; how many records that was, and the sum of what they held.
fn read_all(consumer: &mut girok::Consumer) -> (u64, u64) {
    let (mut count, mut sum) = (0, 0);
    // Not one poll further: finding the end registers a waker there, once for each partition.
    while count < RECORDS * PARTITIONS as u64 {
        let records = consumer.poll_now().unwrap();
        for record in &records {
            count += 1;
            sum += u64::from_be_bytes(record.value().unwrap().try_into().unwrap())
                + record.key().unwrap().len() as u64;
        }
    }
    (count, sum)
}

/// Sixty thousand records over three partitions, hundreds of polls: not one allocation.
#[test]
fn a_poll_allocates_nothing() {
    let girok = girok_with_records(Codec::None);
    let mut consumer = girok.consumer().group_id("counting").enable_auto_commit(false).build().unwrap();
    consumer.assign(&partitions()).unwrap();
    // Under way: the first poll of each partition makes its mapping.
    for _ in 0..PARTITIONS {
        assert!(!consumer.poll(Duration::from_secs(10)).unwrap().is_empty());
    }
    consumer.seek_to_beginning(&[]).unwrap();

    let mut seen = (0, 0);
    let made = allocations(|| seen = read_all(&mut consumer));
    let all = RECORDS * PARTITIONS as u64;
    assert_eq!(seen, (all, all * (all - 1) / 2 + 3 * all));
    assert_eq!(made, 0);
}

/// Finding nothing is free as well, as often as one looks.
#[test]
fn a_poll_that_finds_nothing_allocates_nothing() {
    let girok = girok_with_records(Codec::None);
    let mut consumer = girok.consumer().build().unwrap();
    consumer.assign(&partitions()).unwrap();
    read_all(&mut consumer);
    assert!(consumer.poll_now().unwrap().is_empty());
    let made = allocations(|| {
        for _ in 0..1000 {
            assert!(consumer.poll_now().unwrap().is_empty());
        }
    });
    assert_eq!(made, 0);
}

/// Compressed batches are inflated into buffers that are used again: a handful of allocations, however many batches.
#[test]
fn compressed_polls_use_their_buffers_again() {
    let girok = girok_with_records(Codec::Lz4);
    let mut consumer = girok.consumer().build().unwrap();
    consumer.assign(&partitions()).unwrap();
    read_all(&mut consumer);
    consumer.seek_to_beginning(&[]).unwrap();

    let polls = RECORDS * PARTITIONS as u64 / 500;
    let mut seen = (0, 0);
    let bytes_allocated = allocations(|| seen = read_all(&mut consumer));
    assert_eq!(seen.0, RECORDS * PARTITIONS as u64);
    // What the codec itself needs for a frame, and nothing that grows with the records.
    assert!(bytes_allocated < polls * 40, "{bytes_allocated} allocations in about {polls} polls");
}

/// A record that is sent costs no allocation; its batch costs one, for its fate.
#[test]
fn a_send_allocates_once_a_batch() {
    let girok = Girok::temporary().unwrap();
    let config = TopicConfig { durability: Durability::Written, ..TopicConfig::default() };
    girok.admin().create_topic("orders", 1, config).unwrap();
    let producer = girok.producer().linger(Duration::from_secs(60)).build().unwrap();
    let topic = producer.topic("orders").unwrap();
    let send = |n: u64| {
        for n in 0..n {
            drop(producer.send_to(&topic, Some(0), None, Some(&n.to_be_bytes())).unwrap());
        }
    };
    send(10_000);
    let made = allocations(|| send(100_000));
    let batches = 100_000 * 18 / 16_384;
    assert!(made <= 3 * batches, "{made} allocations for about {batches} batches");
}

/// With a thousand partitions and one busy one, a poll that finds a record and the look that finds no more cost the same
/// few allocations as with one partition: the empty ones are not registered again and again.
#[test]
fn a_thousand_empty_partitions_cost_nothing() {
    let girok = Girok::in_memory().unwrap();
    let config = TopicConfig { durability: Durability::Written, ..TopicConfig::default() };
    girok.admin().create_topic("orders", 1000, config).unwrap();
    let mut consumer = girok.consumer().build().unwrap();
    consumer.assign(&(0..1000).map(|n| TopicPartition::new("orders", n)).collect::<Vec<_>>()).unwrap();
    assert!(consumer.poll_now().unwrap().is_empty());
    let producer = girok.producer().linger(Duration::ZERO).build().unwrap();
    let topic = producer.topic("orders").unwrap();
    for _ in 0..100 {
        drop(producer.send_to(&topic, Some(617), None, Some(b"tea")).unwrap());
        let made = allocations(|| {
            assert_eq!(consumer.poll_now().unwrap().len(), 1);
            assert!(consumer.poll_now().unwrap().is_empty());
        });
        assert!(made <= 10, "{made} allocations");
    }
}
