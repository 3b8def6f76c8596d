//! Of each topic a contiguous range to every member, the same range of topics that look the same.
//!
//! Topics with as many partitions and the same readers are shared alike, so whoever joins them by partition finds both
//! sides in one place. Ranges leave little choice in what moves; the one there is, the order of the members, is that of
//! the ranges they have, and newcomers stand behind, by instance and member id as in Kafka.

use std::collections::BTreeMap;

use girok_engine::TopicId;

use super::{Partitions, Subscriber};

pub(super) fn assign(subscribers: &[Subscriber<'_>], topics: &BTreeMap<TopicId, i32>) -> Vec<Partitions> {
    // Topics that look the same, by who reads them and how many partitions they have.
    let mut alike: BTreeMap<(Vec<usize>, i32), Vec<TopicId>> = BTreeMap::new();
    for (topic, partitions) in topics {
        let readers: Vec<usize> = (0..subscribers.len()).filter(|m| subscribers[*m].reads(*topic)).collect();
        if !readers.is_empty() {
            alike.entry((readers, *partitions)).or_default().push(*topic);
        }
    }
    let mut shares = vec![Vec::new(); subscribers.len()];
    for ((mut readers, partitions), topics) in alike {
        readers.sort_by_key(|member| place(&subscribers[*member], &topics, partitions));
        let (range, larger) = (partitions / readers.len() as i32, partitions % readers.len() as i32);
        let mut next = 0;
        for (rank, member) in (0..).zip(readers) {
            let end = next + range + i32::from(rank < larger);
            shares[member].extend(topics.iter().flat_map(|topic| (next..end).map(|number| (*topic, number))));
            next = end;
        }
        debug_assert_eq!(next, partitions.max(0), "the ranges are all there is");
    }
    shares.into_iter().map(|share| share.into_iter().collect()).collect()
}

/// Where a member stands: those who have a range by where it begins, the others behind them, static ones first.
fn place<'a>(
    subscriber: &Subscriber<'a>,
    topics: &[TopicId],
    partitions: i32,
) -> (i32, bool, &'a str, &'a str) {
    let begins = topics.iter().filter_map(|topic| subscriber.owned.of(*topic).first()).min();
    let begins = begins.copied().filter(|begins| *begins < partitions).unwrap_or(i32::MAX);
    (begins, subscriber.instance.is_none(), subscriber.instance.unwrap_or_default(), subscriber.member)
}
