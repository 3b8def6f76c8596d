//! Which partition a record goes to, if its sender did not say.
//!
//! A record with a key goes where Kafka's own clients would send it (murmur2), so that programs in other languages find
//! it in the same place. One without sticks to a partition until that has had a batch's worth, and then moves on
//! (KIP-480, KIP-794): full batches, evenly spread.

use std::fmt;
use std::sync::Arc;

use crate::error::{Result, invalid};

/// Chooses partitions by a rule of one's own.
///
/// ```
/// use girok::{Girok, Partitioner, ProducerRecord, TopicConfig};
///
/// /// Everything urgent goes to partition 0.
/// #[derive(Debug)]
/// struct UrgentFirst;
///
/// impl Partitioner for UrgentFirst {
///     fn partition(&self, _topic: &str, key: Option<&[u8]>, _value: Option<&[u8]>, partitions: i32) -> i32 {
///         if key == Some(b"urgent") { 0 } else { 1 % partitions }
///     }
/// }
///
/// let girok = Girok::in_memory()?;
/// girok.admin().create_topic("jobs", 4, TopicConfig::default())?;
/// let producer = girok.producer().partitioner(UrgentFirst).build()?;
/// let urgent = producer.send(ProducerRecord::new("jobs", "now").key("urgent"))?.wait()?;
/// assert_eq!(urgent.partition, 0);
/// # Ok::<(), girok::Error>(())
/// ```
pub trait Partitioner: Send + Sync + fmt::Debug {
    /// The partition for a record, from 0 to `partitions` − 1; anything else fails the send.
    fn partition(&self, topic: &str, key: Option<&[u8]>, value: Option<&[u8]>, partitions: i32) -> i32;
}

/// How a producer chooses.
#[derive(Clone, Debug, Default)]
pub(crate) enum Strategy {
    /// By key if there is one, else sticky.
    #[default]
    Default,
    /// One after the other, keys or not.
    RoundRobin,
    Custom(Arc<dyn Partitioner>),
}

/// Kafka's hash of keys: murmur2, 32 bits, with Kafka's seed. Signed, as Java has it.
///
/// ```
/// assert_eq!(girok::murmur2(b"foobar"), -790332482);
/// ```
pub fn murmur2(data: &[u8]) -> i32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    let mut h = SEED ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes(word.try_into().expect("four bytes")).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (n, byte) in rest.iter().enumerate() {
            h ^= (*byte as u32) << (8 * n);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    (h ^ (h >> 15)) as i32
}

/// Where Kafka's default partitioner sends a key.
///
/// ```
/// assert_eq!(girok::partition_for_key(b"foobar", 6), 0);
/// ```
pub fn partition_for_key(key: &[u8], partitions: i32) -> i32 {
    (murmur2(key) & i32::MAX) % partitions.max(1)
}

/// Checks what a sender or a custom partitioner said.
pub(crate) fn check(partition: i32, partitions: i32, topic: &str) -> Result<i32> {
    if (0..partitions).contains(&partition) {
        return Ok(partition);
    }
    Err(invalid(
        "partition",
        format!("0 to {} for topic {topic}", partitions - 1),
        partition,
        "choose one of these, or add partitions to the topic",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own test of its hash.
    #[test]
    fn keys_hash_as_in_kafka() {
        let vectors: [(&[u8], i32); 6] = [
            (b"21", -973932308),
            (b"foobar", -790332482),
            (b"a-little-bit-long-string", -985981536),
            (b"a-little-bit-longer-string", -1486304829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
            (b"abc", 479470107),
        ];
        for (key, hash) in vectors {
            assert_eq!(murmur2(key), hash, "{}", key.escape_ascii());
        }
    }
}
