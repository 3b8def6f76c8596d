//! As evenly as can be, over all topics together, moving the least.
//!
//! Where all members read the same, that is arithmetic: `P` partitions and `M` members make shares of `P / M`, and `P % M`
//! of them one larger; whoever has more than a share gives the rest up, the larger shares go first to those who have as
//! much already, and what is free fills up the others. Where members read different topics, partitions are a graph: first
//! everybody keeps what they have, what is free goes to the least burdened, and then, for as long as somebody has two
//! more than another who could be relieved through a chain of swaps, one partition moves along that chain. When no such
//! chain is left nothing is more even (Harvey, Ladner, Lovász and Tamir, "Semi-matchings for bipartite graphs and load
//! balancing", 2003).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use girok_engine::TopicId;

use super::{Partitions, Subscriber};

pub(super) fn assign(subscribers: &[Subscriber<'_>], topics: &BTreeMap<TopicId, i32>) -> Vec<Partitions> {
    let mut board = Board::new(subscribers, topics);
    if board.reads_alike() {
        board.share_alike();
    } else {
        board.give_to_the_least();
        board.even_out();
    }
    board.shares()
}

/// A topic that somebody reads.
struct Topic {
    id: TopicId,
    /// The index of its first partition among all.
    first: usize,
    partitions: usize,
    readers: Vec<usize>,
}

/// Members and partitions as numbers.
struct Board {
    topics: Vec<Topic>,
    /// By partition: who has it.
    owner: Vec<Option<usize>>,
    /// By partition: its topic.
    topic_of: Vec<usize>,
    /// By member: which partitions it has, sorted.
    has: Vec<Vec<usize>>,
    /// By partition: who had it before.
    before: Vec<Option<usize>>,
}

impl Board {
    fn new(subscribers: &[Subscriber<'_>], topics: &BTreeMap<TopicId, i32>) -> Board {
        let mut board = Board {
            topics: Vec::new(),
            owner: Vec::new(),
            topic_of: Vec::new(),
            has: vec![Vec::new(); subscribers.len()],
            before: Vec::new(),
        };
        let mut readers: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
        for (member, subscriber) in subscribers.iter().enumerate() {
            for topic in subscriber.topics {
                readers.entry(*topic).or_default().push(member);
            }
        }
        for (id, readers) in readers {
            let Some(partitions) = topics.get(&id).and_then(|n| usize::try_from(*n).ok()) else { continue };
            let first = board.owner.len();
            board.owner.resize(first + partitions, None);
            board.topic_of.resize(first + partitions, board.topics.len());
            board.topics.push(Topic { id, first, partitions, readers });
        }
        for (member, subscriber) in subscribers.iter().enumerate() {
            for (id, numbers) in subscriber.owned.topics() {
                let Ok(at) = board.topics.binary_search_by_key(&id, |topic| topic.id) else { continue };
                let topic = &board.topics[at];
                if !subscriber.reads(id) {
                    continue;
                }
                for number in numbers.iter().filter_map(|number| usize::try_from(*number).ok()) {
                    let partition = topic.first + number;
                    if number < topic.partitions && board.owner[partition].is_none() {
                        board.owner[partition] = Some(member);
                        board.has[member].push(partition);
                    }
                }
            }
        }
        board.before.clone_from(&board.owner);
        board
    }

    fn reads_alike(&self) -> bool {
        self.topics.iter().all(|topic| topic.readers.len() == self.has.len())
    }

    fn free(&self) -> Vec<usize> {
        (0..self.owner.len()).filter(|partition| self.owner[*partition].is_none()).collect()
    }

    fn give(&mut self, partition: usize, member: usize) {
        self.owner[partition] = Some(member);
        self.has[member].push(partition);
    }

    fn share_alike(&mut self) {
        let members = self.has.len();
        if members == 0 {
            return;
        }
        let (share, mut larger) = (self.owner.len() / members, self.owner.len() % members);
        for has in &mut self.has {
            let keeps = if has.len() > share && larger > 0 {
                larger -= 1;
                share + 1
            } else {
                share
            };
            for partition in has.drain(keeps.min(has.len())..) {
                self.owner[partition] = None;
            }
        }
        let mut free = self.free().into_iter();
        for member in 0..members {
            let wants = share.saturating_sub(self.has[member].len());
            for partition in free.by_ref().take(wants) {
                self.give(partition, member);
            }
        }
        // Those who have the larger share already kept it above.
        for member in 0..members {
            if self.has[member].len() == share
                && let Some(partition) = free.next()
            {
                self.give(partition, member);
            }
        }
        debug_assert!(free.next().is_none(), "the shares are all there is");
    }

    /// Those that few may read first: they have the least choice.
    fn give_to_the_least(&mut self) {
        let mut free = self.free();
        free.sort_by_key(|partition| self.topics[self.topic_of[*partition]].readers.len());
        for partition in free {
            let readers = &self.topics[self.topic_of[partition]].readers;
            let least = readers.iter().copied().min_by_key(|member| self.has[*member].len());
            self.give(partition, least.expect("a topic that somebody reads"));
        }
    }

    /// Always from the one who has the most: whoever gave all at once what another needs would have to get some back.
    fn even_out(&mut self) {
        loop {
            let mut moved = false;
            let mut burdened: BTreeSet<(usize, Reverse<usize>)> =
                self.has.iter().enumerate().map(|(member, has)| (has.len(), Reverse(member))).collect();
            while let Some((most, Reverse(member))) = burdened.pop_last() {
                let least = self.has.iter().map(Vec::len).min().unwrap_or_default();
                if least + 2 > most {
                    break;
                }
                // Who cannot be relieved is out, until the next round finds that nothing moved any more.
                if let Some(relieved_by) = self.relieve(member) {
                    moved = true;
                    let size = self.has[relieved_by].len();
                    if burdened.remove(&(size - 1, Reverse(relieved_by))) {
                        burdened.insert((size, Reverse(relieved_by)));
                    }
                    burdened.insert((most - 1, Reverse(member)));
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// Moves one partition from `member` along the shortest chain to the least burdened who can be reached, if that makes
    /// the two more even. Whom it ended with.
    fn relieve(&mut self, member: usize) -> Option<usize> {
        /// Whom one was reached from, and by which topic.
        type From = (usize, usize);
        let mut reached: Vec<Option<From>> = vec![None; self.has.len()];
        let mut asked = vec![false; self.topics.len()];
        let mut queue = VecDeque::from([member]);
        let mut best: Option<usize> = None;
        while let Some(at) = queue.pop_front() {
            for topic in self.topics_of(at) {
                // Whoever holds a partition of a topic reaches all its readers; the first who asks does so for all.
                if std::mem::replace(&mut asked[topic], true) {
                    continue;
                }
                for reader in &self.topics[topic].readers {
                    if *reader == member || reached[*reader].is_some() {
                        continue;
                    }
                    reached[*reader] = Some((at, topic));
                    queue.push_back(*reader);
                    if best.is_none_or(|best| self.has[*reader].len() < self.has[best].len()) {
                        best = Some(*reader);
                    }
                }
            }
        }
        let best = best.filter(|best| self.has[*best].len() + 2 <= self.has[member].len())?;
        let mut to = best;
        while let Some((from, topic)) = reached[to] {
            self.hand_over(topic, from, to);
            to = from;
        }
        Some(best)
    }

    /// The topics that a member has partitions of.
    fn topics_of(&self, member: usize) -> Vec<usize> {
        let mut topics: Vec<usize> =
            self.has[member].iter().map(|partition| self.topic_of[*partition]).collect();
        topics.sort_unstable();
        topics.dedup();
        topics
    }

    /// One partition of a topic: one that comes home, or was not `from`'s before, if there is one.
    fn hand_over(&mut self, topic: usize, from: usize, to: usize) {
        let cost = |partition: usize| match self.before[partition] {
            Some(before) if before == to => 0,
            Some(before) if before == from => 2,
            _ => 1,
        };
        let mine = self.has[from].iter().enumerate().filter(|(_, p)| self.topic_of[**p] == topic);
        let (at, partition) = mine
            .map(|(at, p)| (at, *p))
            .min_by_key(|(_, p)| (cost(*p), usize::MAX - *p))
            .expect("it has one");
        self.has[from].remove(at);
        self.give(partition, to);
    }

    fn shares(self) -> Vec<Partitions> {
        let name = |partition: usize| {
            let topic = &self.topics[self.topic_of[partition]];
            (topic.id, (partition - topic.first) as i32)
        };
        self.has.iter().map(|has| has.iter().map(|partition| name(*partition)).collect()).collect()
    }
}
