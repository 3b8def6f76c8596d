//! Who shall read what: the assignors, as plain functions of who there is.
//!
//! An assignor is given all members of a group with what they subscribed to and what they were to own before, and says
//! what each shall own now. It looks at nothing else, so the same question always has the same answer, and it keeps
//! what members have wherever balance allows: a partition that moves is a pause for somebody.
//!
//! ```text
//! uniform   every member as many as every other, give or take one, whatever the topics; moves the least that can be moved
//! range     of each topic every member a contiguous range, the same range of all topics that look the same
//! ```

mod range;
mod uniform;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use girok_engine::TopicId;

use crate::reject::Reject;

/// Partitions by topic: the numbers of each topic sorted, no topic without any.
///
/// ```
/// use girok_coordinator::Partitions;
/// use girok_engine::TopicId;
/// let orders = TopicId([1; 16]);
/// let some: Partitions = [(orders, 2), (orders, 0)].into_iter().collect();
/// assert_eq!(some.iter().collect::<Vec<_>>(), [(orders, 0), (orders, 2)]);
/// assert!(some.contains(orders, 2) && !some.contains(orders, 1));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partitions(BTreeMap<TopicId, Vec<i32>>);

impl Partitions {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In order of topic and number.
    pub fn iter(&self) -> impl Iterator<Item = (TopicId, i32)> {
        self.0.iter().flat_map(|(topic, numbers)| numbers.iter().map(|number| (*topic, *number)))
    }

    /// Topic by topic.
    pub fn topics(&self) -> impl Iterator<Item = (TopicId, &[i32])> {
        self.0.iter().map(|(topic, numbers)| (*topic, &numbers[..]))
    }

    /// The numbers of one topic.
    pub fn of(&self, topic: TopicId) -> &[i32] {
        self.0.get(&topic).map_or(&[], |numbers| numbers)
    }

    /// Whether it is one of them.
    pub fn contains(&self, topic: TopicId, number: i32) -> bool {
        self.of(topic).binary_search(&number).is_ok()
    }

    /// Puts one in; `false` if it was there.
    pub fn insert(&mut self, topic: TopicId, number: i32) -> bool {
        let numbers = self.0.entry(topic).or_default();
        match numbers.binary_search(&number) {
            Ok(_) => false,
            Err(at) => {
                numbers.insert(at, number);
                true
            }
        }
    }

    /// Takes one out; `false` if it was not there.
    pub fn remove(&mut self, topic: TopicId, number: i32) -> bool {
        let Some(numbers) = self.0.get_mut(&topic) else { return false };
        let Ok(at) = numbers.binary_search(&number) else { return false };
        numbers.remove(at);
        if numbers.is_empty() {
            self.0.remove(&topic);
        }
        true
    }

    /// Those for which `keep` says so.
    #[must_use]
    pub fn filtered(&self, mut keep: impl FnMut(TopicId, i32) -> bool) -> Partitions {
        self.iter().filter(|(topic, number)| keep(*topic, *number)).collect()
    }
}

impl FromIterator<(TopicId, i32)> for Partitions {
    fn from_iter<I: IntoIterator<Item = (TopicId, i32)>>(all: I) -> Self {
        let mut partitions = Partitions::default();
        for (topic, number) in all {
            partitions.0.entry(topic).or_default().push(number);
        }
        for numbers in partitions.0.values_mut() {
            numbers.sort_unstable();
            numbers.dedup();
        }
        partitions
    }
}

/// A member, as an assignor sees it.
///
/// ```
/// use girok_coordinator::{Assignor, Partitions, Subscriber};
/// use girok_engine::TopicId;
/// let orders = TopicId([1; 16]);
/// let none = Partitions::default();
/// let subscribed = [orders];
/// let one = |member| Subscriber { member, instance: None, topics: &subscribed, owned: &none };
/// let shares = Assignor::Uniform.assign(&[one("a"), one("b")], &[(orders, 3)].into());
/// assert_eq!(shares.iter().map(Partitions::len).collect::<Vec<_>>(), [2, 1]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Subscriber<'a> {
    /// Its id. No two are the same, and they come in order.
    pub member: &'a str,
    /// Its static name, if it has one.
    pub instance: Option<&'a str>,
    /// What it subscribed to, sorted, no topic twice. Topics that do not exist count for nothing.
    pub topics: &'a [TopicId],
    /// What it was to own before. No partition is owned by two.
    pub owned: &'a Partitions,
}

impl Subscriber<'_> {
    fn reads(&self, topic: TopicId) -> bool {
        self.topics.binary_search(&topic).is_ok()
    }
}

/// How partitions are shared.
///
/// ```
/// use girok_coordinator::Assignor;
/// assert_eq!("range".parse::<Assignor>().unwrap(), Assignor::Range);
/// assert!("roundrobin".parse::<Assignor>().unwrap_err().to_string().contains("uniform, range"));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Assignor {
    /// As evenly as can be, over all topics together; what members have stays with them. Kafka's default.
    #[default]
    Uniform,
    /// Of each topic a contiguous range to every member, the same of all topics that have the same subscribers and as
    /// many partitions: for those who join topics by partition.
    Range,
}

impl Assignor {
    /// All of them, the default first.
    pub const ALL: [Assignor; 2] = [Assignor::Uniform, Assignor::Range];

    /// Kafka's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Assignor::Uniform => "uniform",
            Assignor::Range => "range",
        }
    }

    /// What each of `subscribers` shall own, in their order. `topics` says how many partitions there are of each topic
    /// that exists. Every partition that anybody may read has exactly one owner.
    pub fn assign(self, subscribers: &[Subscriber<'_>], topics: &BTreeMap<TopicId, i32>) -> Vec<Partitions> {
        match self {
            Assignor::Uniform => uniform::assign(subscribers, topics),
            Assignor::Range => range::assign(subscribers, topics),
        }
    }
}

impl fmt::Display for Assignor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Assignor {
    type Err = Reject;

    fn from_str(name: &str) -> Result<Self, Reject> {
        let known = Assignor::ALL.into_iter().find(|assignor| assignor.name() == name);
        known.ok_or_else(|| Reject::UnsupportedAssignor { assignor: name.chars().take(64).collect() })
    }
}

#[cfg(test)]
mod tests;
