//! The promise: Kafka's producer, consumer and admin, in one process, doing what their names say.
//!
//! Scenes, sorted by who plays the lead.

mod admin;
mod consumer;
mod directory;
mod gate;
mod kafka;
mod producer;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;
use std::thread::Thread;
use std::time::{Duration, Instant};

use girok::{
    Consumer, Durability, Girok, Offset, Producer, ProducerRecord, Records, TopicConfig, TopicPartition,
};

/// Longer than anything here takes; only a failure waits for it.
const LONG: Duration = Duration::from_secs(60);

fn tp(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

fn written() -> TopicConfig {
    TopicConfig { durability: Durability::Written, ..TopicConfig::default() }
}

/// A directory in memory with topic `orders`.
fn orders(partitions: i32) -> Girok {
    let girok = Girok::in_memory().unwrap();
    girok.admin().create_topic("orders", partitions, written()).unwrap();
    girok
}

/// The same, and it keeps what is old: for scenes with timestamps of 1970, which the default retention of seven days
/// would remove as soon as the background looks.
fn ageless_orders(partitions: i32) -> Girok {
    let girok = Girok::in_memory().unwrap();
    girok
        .admin()
        .create_topic("orders", partitions, TopicConfig { retention_ms: None, ..written() })
        .unwrap();
    girok
}

fn producer(girok: &Girok) -> Producer {
    girok.producer().build().unwrap()
}

/// Sends `count` records with values `0..count` to a partition, as one batch or several.
fn send_numbers(producer: &Producer, topic: &str, partition: i32, count: u32) {
    for n in 0..count {
        let value = n.to_string();
        drop(producer.send(ProducerRecord::new(topic, &value).partition(partition)).unwrap());
    }
    producer.flush().unwrap();
}

/// A standalone consumer of partitions `0..partitions` of `orders`, without a group.
fn reader(girok: &Girok, partitions: i32) -> Consumer {
    let mut consumer = girok.consumer().build().unwrap();
    consumer.assign(&(0..partitions).map(|n| tp("orders", n)).collect::<Vec<_>>()).unwrap();
    consumer
}

fn values(records: &Records) -> Vec<String> {
    records.iter().map(|r| String::from_utf8(r.value().unwrap().to_vec()).unwrap()).collect()
}

/// Everything there is to read now, in the order polls return it.
fn drain(consumer: &mut Consumer) -> Vec<(TopicPartition, Offset, String)> {
    let mut all = Vec::new();
    loop {
        let records = consumer.poll_now().unwrap();
        if records.is_empty() {
            return all;
        }
        let texts = values(&records);
        all.extend(
            records.iter().zip(texts).map(|(r, text)| (r.topic_partition().clone(), r.offset(), text)),
        );
    }
}

/// The smallest executor: polls, and parks until somebody wakes it.
fn run<F: Future>(future: F) -> F::Output {
    let waker = Arc::new(Unpark(std::thread::current(), AtomicBool::new(false)));
    let mut future = std::pin::pin!(future);
    let context_waker = waker.clone().into();
    let mut context = std::task::Context::from_waker(&context_waker);
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        let begun = Instant::now();
        while !waker.1.swap(false, Ordering::SeqCst) {
            assert!(begun.elapsed() < LONG, "nobody woke the future");
            std::thread::park_timeout(LONG);
        }
    }
}

/// Polls a future once, with a waker that remembers whether it was woken.
fn poll_once<F: Future + Unpin>(future: &mut F) -> (std::task::Poll<F::Output>, Arc<Unpark>) {
    let flag = Arc::new(Unpark(std::thread::current(), AtomicBool::new(false)));
    let waker = flag.clone().into();
    let polled = std::pin::Pin::new(future).poll(&mut std::task::Context::from_waker(&waker));
    (polled, flag)
}

struct Unpark(Thread, AtomicBool);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.1.store(true, Ordering::SeqCst);
        self.0.unpark();
    }
}

impl Unpark {
    fn was_woken(&self) -> bool {
        self.1.load(Ordering::SeqCst)
    }
}
