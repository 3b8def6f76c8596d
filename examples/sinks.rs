//! An agent that buffers for two sinks: one of them is down for a while, the other does not notice, and the first goes on
//! where it was.
//!
//! ```text
//! cargo run --example sinks
//! ```

use std::time::Duration;

use girok::{Consumer, Girok, NewTopic, ProducerRecord, Records, Result, TopicPartition};

const PARTITIONS: i32 = 3;

/// Somewhere that records go, and that may refuse them.
struct Sink {
    group: &'static str,
    refuses_until_round: usize,
    taken: usize,
}

impl Sink {
    fn take(&mut self, round: usize, records: &Records) -> bool {
        let accepts = round >= self.refuses_until_round;
        self.taken += if accepts { records.len() } else { 0 };
        accepts
    }
}

/// One try to empty the buffer into a sink. Commits after each poll that the sink took; goes back to what it refused.
fn drain(consumer: &mut Consumer, sink: &mut Sink, round: usize) -> Result<()> {
    loop {
        let records = consumer.poll(Duration::from_millis(100))?;
        if records.is_empty() {
            return Ok(());
        }
        if !sink.take(round, &records) {
            println!("round {round}: {} is down, {records:?} wait", sink.group);
            return consumer.seek(records.topic_partition(), records.first_offset());
        }
        consumer.commit()?;
    }
}

fn main() -> Result<()> {
    let girok = Girok::temporary()?;
    girok.admin().create_topics(&[NewTopic::new("metrics", PARTITIONS)])?;
    let partitions: Vec<_> = (0..PARTITIONS).map(|n| TopicPartition::new("metrics", n)).collect();
    let producer = girok.producer().build()?;

    let mut sinks = Vec::new();
    for (group, refuses_until_round) in [("search", 3), ("archive", 0)] {
        let mut consumer = girok.consumer().group_id(group).enable_auto_commit(false).build()?;
        consumer.assign(&partitions)?;
        sinks.push((consumer, Sink { group, refuses_until_round, taken: 0 }));
    }
    for round in 0..5 {
        for n in 0..1000 {
            let (key, value) = (format!("cpu{}", n % 16), format!("{{\"round\":{round},\"load\":{n}}}"));
            drop(producer.send(ProducerRecord::new("metrics", value).key(key))?);
        }
        producer.flush()?;
        for (consumer, sink) in &mut sinks {
            drain(consumer, sink, round)?;
            println!("round {round}: {} has {}", sink.group, sink.taken);
        }
    }
    Ok(())
}
