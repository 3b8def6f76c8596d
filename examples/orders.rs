//! One producer and two independent readers over one directory; run it twice and see the readers go on where they were.
//!
//! ```text
//! cargo run --example orders -- ./orders-data
//! ```

use std::time::Duration;

use girok::{Girok, NewTopic, ProducerRecord, Result, TopicPartition};

fn main() -> Result<()> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "orders-data".into());
    let girok = Girok::open(&dir)?;
    if girok.admin().describe_topics(&["orders"]).is_err() {
        girok.admin().create_topics(&[NewTopic::new("orders", 3)])?;
    }

    let producer = girok.producer().build()?;
    for table in 1..=6 {
        let (key, value) = (format!("table {table}"), format!("{table} coffees"));
        // Whoever needs to know when it is safe keeps the delivery; flush waits for all of them.
        drop(producer.send(ProducerRecord::new("orders", &value).key(&key))?);
    }
    producer.flush()?;

    for group in ["kitchen", "books"] {
        let mut consumer = girok.consumer().group_id(group).build()?;
        consumer.assign(&[0, 1, 2].map(|partition| TopicPartition::new("orders", partition)))?;
        loop {
            let records = consumer.poll(Duration::from_millis(200))?;
            if records.is_empty() {
                break;
            }
            for record in &records {
                let text =
                    |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
                println!(
                    "{group}: {}@{} {} {}",
                    record.topic_partition(),
                    record.offset(),
                    text(record.key()),
                    text(record.value())
                );
            }
        }
        for receipt in consumer.commit()? {
            println!("{group}: committed {} up to {}", receipt.partition, receipt.committed.offset);
        }
    }
    girok.close()
}
