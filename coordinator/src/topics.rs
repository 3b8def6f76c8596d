//! What the coordinator must know about topics to judge a commit, and nothing more.

use std::fmt;

use girok_engine::{Offset, TopicId, TopicPartition};

/// The topics of the directory, as they are at the moment of asking.
///
/// ```
/// use girok_coordinator::{Ends, TopicView, Topics};
/// use girok_engine::{Offset, TopicId, TopicPartition};
///
/// /// One topic, `orders`, with one partition of 100 records.
/// #[derive(Debug)]
/// struct Orders;
///
/// impl Topics for Orders {
///     fn topic(&self, name: &str) -> Option<TopicView> {
///         (name == "orders").then_some(TopicView { id: TopicId([1; 16]), partitions: 1 })
///     }
///     fn ends(&self, partition: &TopicPartition) -> Option<Ends> {
///         let end = Offset::new(100);
///         (partition.topic() == "orders").then_some(Ends { published: end, synced: end })
///     }
/// }
/// ```
pub trait Topics: Send + Sync + fmt::Debug {
    /// The topic of that name, if there is one.
    fn topic(&self, name: &str) -> Option<TopicView>;
    /// How far a partition goes, if there is such a partition.
    fn ends(&self, partition: &TopicPartition) -> Option<Ends>;
}

/// A topic as the coordinator sees it.
///
/// ```
/// # use girok_coordinator::*;
/// # use girok_engine::*;
/// # #[derive(Debug)]
/// # struct Orders;
/// # impl Topics for Orders {
/// #     fn topic(&self, name: &str) -> Option<TopicView> {
/// #         (name == "orders").then_some(TopicView { id: TopicId([1; 16]), partitions: 1 })
/// #     }
/// #     fn ends(&self, _: &TopicPartition) -> Option<Ends> {
/// #         Some(Ends { published: Offset::new(100), synced: Offset::new(100) })
/// #     }
/// # }
/// let topic: TopicView = Orders.topic("orders").unwrap();
/// assert_eq!((topic.id, topic.partitions), (TopicId([1; 16]), 1));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicView {
    /// Its identity: a re-created topic has another.
    pub id: TopicId,
    /// How many partitions it has.
    pub partitions: i32,
}

/// How far a partition goes. Ends are the next offset, as always.
///
/// ```
/// # use girok_coordinator::*;
/// # use girok_engine::*;
/// # #[derive(Debug)]
/// # struct Orders;
/// # impl Topics for Orders {
/// #     fn topic(&self, name: &str) -> Option<TopicView> {
/// #         (name == "orders").then_some(TopicView { id: TopicId([1; 16]), partitions: 1 })
/// #     }
/// #     fn ends(&self, _: &TopicPartition) -> Option<Ends> {
/// #         Some(Ends { published: Offset::new(100), synced: Offset::new(100) })
/// #     }
/// # }
/// let ends: Ends = Orders.ends(&TopicPartition::new("orders", 0)).unwrap();
/// assert!(ends.synced <= ends.published);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Behind the last record there is: no commit may point further.
    pub published: Offset,
    /// Behind the last record that would survive a power cut: a commit that points further is not `Synced` itself,
    /// whatever became of its own record.
    pub synced: Offset,
}
