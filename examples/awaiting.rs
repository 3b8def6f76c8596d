//! Deliveries, records and commits as futures, under an executor of twenty lines: no runtime is needed, and any will do.
//!
//! ```text
//! cargo run --example awaiting
//! ```

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::{self, Thread};

use girok::{Girok, NewTopic, ProducerRecord, Result, TopicPartition};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Arc::new(Unpark(thread::current())).into();
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

async fn orders(girok: &Girok) -> Result<()> {
    let producer = girok.producer().build()?;
    let mut consumer = girok.consumer().group_id("kitchen").build()?;
    consumer.assign(&[TopicPartition::new("orders", 0)])?;

    // Sent first and awaited after: one batch, and one sync for all.
    let sent = ["tea", "coffee", "cake"].map(|order| producer.send(ProducerRecord::new("orders", order)));
    for delivery in sent {
        println!("sent {}", delivery?.await?);
    }

    let records = consumer.next_records().await?;
    for record in &records {
        println!("got {}", String::from_utf8_lossy(record.value().unwrap_or_default()));
    }
    for (partition, result) in consumer.commit_async()?.await {
        println!("committed {partition}: {}", result?.committed.offset);
    }
    Ok(())
}

fn main() -> Result<()> {
    let girok = Girok::temporary()?;
    girok.admin().create_topics(&[NewTopic::new("orders", 1)])?;
    block_on(orders(&girok))
}
