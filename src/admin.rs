//! Looking after topics, configuration, records and groups.
//!
//! Every call does what it says before it returns, and waits until that survives a power cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use girok_coordinator::records::OffsetAndMetadata;
use girok_coordinator::{CommitEntry, GroupListing, Receipt, Reject, Verdict};
use girok_engine::{
    Offset, Timestamp, TopicConfig, TopicDescription, TopicId, TopicPartition, check_topic_name, is_internal,
};

use crate::consumer::CommitResults;
use crate::core::Core;
use crate::error::{Error, Result, invalid};
use crate::girok::Handle;

/// Looks after a directory's topics and groups. From [`Girok::admin`](crate::Girok::admin).
///
/// ```
/// use girok::{Girok, NewTopic, Offset, OffsetSpec, TopicConfig, TopicPartition};
/// let girok = Girok::in_memory()?;
/// let admin = girok.admin();
/// admin.create_topics(&[NewTopic::new("orders", 3), NewTopic::new("clicks", 1).config("retention.ms", "60000")])?;
/// admin.alter_config("orders", &[("cleanup.policy", "compact")])?;
/// assert_eq!(admin.describe_topics(&["orders"])?[0].partitions, 3);
///
/// let ends = admin.list_offsets(&[TopicPartition::new("orders", 0)], OffsetSpec::Latest)?;
/// assert_eq!(ends.into_values().next().flatten().map(|found| found.offset), Some(Offset::ZERO));
/// # Ok::<(), girok::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Admin {
    handle: Arc<Handle>,
}

/// A topic to be made.
///
/// ```
/// use girok::NewTopic;
/// let topic = NewTopic::new("clicks", 6).config("retention.ms", "3600000");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a topic is not there until it is created"]
pub struct NewTopic<'a> {
    name: &'a str,
    partitions: i32,
    config: Vec<(&'a str, &'a str)>,
}

impl<'a> NewTopic<'a> {
    /// So many partitions, and the default configuration.
    pub fn new(name: &'a str, partitions: i32) -> Self {
        NewTopic { name, partitions, config: Vec::new() }
    }

    /// Sets a key of its configuration, by Kafka's name.
    pub fn config(mut self, key: &'a str, value: &'a str) -> Self {
        self.config.push((key, value));
        self
    }
}

/// Which offset of a partition is asked for (Kafka's `OffsetSpec`).
///
/// ```
/// use girok::{OffsetSpec, Timestamp};
/// let yesterday = OffsetSpec::ForTimestamp(Timestamp::from_millis(1_700_000_000_000));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetSpec {
    /// Of the first record there is.
    Earliest,
    /// Behind the last record that is visible.
    Latest,
    /// Of the first record at or after a time.
    ForTimestamp(Timestamp),
    /// Of the record with the largest timestamp; the first of those.
    MaxTimestamp,
}

/// An offset that was asked for.
///
/// ```
/// # use std::time::Duration;
/// # use girok::*;
/// # let girok = Girok::in_memory()?;
/// # girok.admin().create_topic("orders", 1, TopicConfig::default())?;
/// # let producer = girok.producer().build()?;
/// let time = Timestamp::from_millis(1_700_000_000_000);
/// producer.send(ProducerRecord::new("orders", "tea").timestamp(time))?.wait()?;
/// let orders = TopicPartition::new("orders", 0);
/// let found = girok.admin().list_offsets(&[orders.clone()], OffsetSpec::ForTimestamp(time))?;
/// assert_eq!(found[&orders], Some(ListedOffset { offset: Offset::ZERO, timestamp: time }));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedOffset {
    /// The offset.
    pub offset: Offset,
    /// Its record's time; [`Timestamp::NONE`] where there is no record to have one (`Earliest` and `Latest`).
    pub timestamp: Timestamp,
}

/// A key of a topic's configuration.
///
/// ```
/// # use girok::*;
/// # let girok = Girok::in_memory()?;
/// # girok.admin().create_topics(&[NewTopic::new("clicks", 1).config("retention.ms", "60000")])?;
/// let entries: Vec<ConfigEntry> = girok.admin().describe_config("clicks")?;
/// let retention = entries.iter().find(|entry| entry.name == "retention.ms").unwrap();
/// assert_eq!((&*retention.value, retention.is_default), ("60000", false));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Its name, Kafka's where Kafka has it.
    pub name: &'static str,
    /// Its value, as Kafka's tools write it.
    pub value: String,
    /// Whether that is the default.
    pub is_default: bool,
}

/// Where to set a group's offsets (`kafka-consumer-groups --reset-offsets`).
///
/// ```
/// use girok::{OffsetTarget, Offset};
/// let back_a_hundred = OffsetTarget::Shift(-100);
/// let exactly = OffsetTarget::To(Offset::new(7));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetTarget {
    /// To the first record there is.
    Earliest,
    /// Behind the last.
    Latest,
    /// To the first record at or after a time; behind the last if there is none.
    Time(Timestamp),
    /// To an offset. One outside the log becomes the nearest inside.
    To(Offset),
    /// By so many records from what is committed, forward or back, within the log.
    Shift(i64),
    /// To what is committed already, for its other effects: the expiry begins anew.
    Current,
}

impl Admin {
    pub(crate) fn new(handle: Arc<Handle>) -> Self {
        Admin { handle }
    }

    fn core(&self) -> Result<&Core> {
        self.handle.core.check()?;
        Ok(&self.handle.core)
    }

    /// Makes a topic.
    ///
    /// # Errors
    /// [`TopicExists`](girok_engine::Error::TopicExists); a bad name, no partitions, a configuration out of bounds.
    pub fn create_topic(&self, name: &str, partitions: i32, config: TopicConfig) -> Result<TopicId> {
        let core = self.core()?;
        let id = core.log.create_topic(name, partitions, config)?;
        core.topics_changed();
        Ok(id)
    }

    /// Makes topics: all of them, or none if one is refused before any was begun.
    ///
    /// # Errors
    /// As [`create_topic`](Self::create_topic).
    pub fn create_topics(&self, topics: &[NewTopic<'_>]) -> Result<Vec<TopicId>> {
        let core = self.core()?;
        let mut configs = Vec::with_capacity(topics.len());
        let mut names = BTreeSet::new();
        for topic in topics {
            check_topic_name(topic.name)?;
            configs.push(TopicConfig::from_entries(topic.config.iter().copied())?);
            if core.log.topic(topic.name).is_ok() || !names.insert(topic.name) {
                return Err(girok_engine::Error::TopicExists { name: topic.name.into() }.into());
            }
            if topic.partitions < 1 {
                return Err(invalid(
                    "partition count",
                    "at least 1",
                    format_args!("{} for {}", topic.partitions, topic.name),
                    "give the topic at least one partition",
                ));
            }
        }
        let make = |(topic, config): (&NewTopic<'_>, TopicConfig)| {
            self.create_topic(topic.name, topic.partitions, config)
        };
        topics.iter().zip(configs).map(make).collect()
    }

    /// Removes a topic, its records and what groups have committed for it. Records that were polled stay good.
    ///
    /// # Errors
    /// [`UnknownTopicOrPartition`](girok_engine::Error::UnknownTopicOrPartition); an internal topic.
    pub fn delete_topic(&self, name: &str) -> Result<()> {
        let core = self.core()?;
        self.refuse_internal(name, "deleting")?;
        let topic = core.log.topic(name)?;
        core.log.delete_topic(name)?;
        core.forget_topic(name);
        // All of them first, so that their syncs can be shared.
        let told: Vec<_> = (core.groups.existing().iter().flatten())
            .map(|coordinator| coordinator.topic_deleted(name, topic.id))
            .collect();
        for answer in told {
            answer?.wait()?;
        }
        Ok(())
    }

    fn refuse_internal(&self, name: &str, doing: &str) -> Result<()> {
        if is_internal(name) {
            return Err(invalid(
                "topic",
                "one of your own",
                name,
                &format!("{doing} it would take the groups' committed offsets; use the calls about groups"),
            ));
        }
        Ok(())
    }

    /// Gives a topic more partitions, `total` in all. Running producers see them at their next send.
    ///
    /// # Errors
    /// Fewer than it has; an unknown topic.
    pub fn create_partitions(&self, name: &str, total: i32) -> Result<()> {
        let core = self.core()?;
        self.refuse_internal(name, "repartitioning")?;
        core.log.create_partitions(name, total)?;
        core.topics_changed();
        Ok(())
    }

    /// All topics, internal ones included, by name.
    ///
    /// # Errors
    /// A closed directory.
    pub fn list_topics(&self) -> Result<Vec<TopicDescription>> {
        Ok(self.core()?.log.topics())
    }

    /// These topics.
    ///
    /// # Errors
    /// The first that is unknown.
    pub fn describe_topics(&self, names: &[&str]) -> Result<Vec<TopicDescription>> {
        let core = self.core()?;
        names.iter().map(|name| Ok(core.log.topic(name)?)).collect()
    }

    /// Every key of a topic's configuration.
    ///
    /// # Errors
    /// An unknown topic.
    pub fn describe_config(&self, topic: &str) -> Result<Vec<ConfigEntry>> {
        let config = self.core()?.log.topic(topic)?.config;
        let entry = |(name, value, is_default)| ConfigEntry { name, value, is_default };
        Ok(config.entries().map(entry).collect())
    }

    /// Sets keys of a topic's configuration, all or none. Running producers and consumers go on under the new one.
    ///
    /// # Errors
    /// An unknown key (the nearest known one is named), a value out of bounds, an unknown topic.
    pub fn alter_config(&self, topic: &str, entries: &[(&str, &str)]) -> Result<()> {
        let core = self.core()?;
        let mut config = TopicConfig::clone(&core.log.topic(topic)?.config);
        for (key, value) in entries {
            config.set(key, value)?;
        }
        config.validate()?;
        Ok(core.log.alter_topic(topic, config)?)
    }

    /// Removes the records before these offsets, at most up to the high watermark. Returns where each partition begins
    /// now.
    ///
    /// # Errors
    /// An offset beyond the high watermark; an unknown partition. Partitions before it in the list are done.
    pub fn delete_records(
        &self,
        before: &[(TopicPartition, Offset)],
    ) -> Result<BTreeMap<TopicPartition, Offset>> {
        let core = self.core()?;
        before
            .iter()
            .map(|(tp, offset)| {
                self.refuse_internal(tp.topic(), "deleting records of")?;
                Ok((tp.clone(), core.known(tp)?.partition.delete_records(*offset)?))
            })
            .collect()
    }

    /// An offset of each partition; `None` where no record is meant.
    ///
    /// # Errors
    /// An unknown partition; damage on the way.
    pub fn list_offsets(
        &self,
        partitions: &[TopicPartition],
        spec: OffsetSpec,
    ) -> Result<BTreeMap<TopicPartition, Option<ListedOffset>>> {
        self.core()?;
        partitions.iter().map(|tp| Ok((tp.clone(), self.list_offset(tp, spec)?))).collect()
    }

    fn list_offset(&self, tp: &TopicPartition, spec: OffsetSpec) -> Result<Option<ListedOffset>> {
        let known = self.core()?.known(tp)?;
        let partition = &known.partition;
        let at = |offset| Some(ListedOffset { offset, timestamp: Timestamp::NONE });
        Ok(match spec {
            OffsetSpec::Earliest => at(partition.start_offset()),
            OffsetSpec::Latest => at(partition.high_watermark()),
            OffsetSpec::ForTimestamp(time) => {
                partition.offset_for_time(time)?.map(|(offset, timestamp)| ListedOffset { offset, timestamp })
            }
            OffsetSpec::MaxTimestamp => {
                // "Is there a record at or after this time?" is answered from the indexes, so halve the times in
                // question. Whatever is found may be much later than what was asked, and the rest halves at once.
                let look = |time| partition.offset_for_time(Timestamp::from_millis(time));
                let mut best = look(0)?;
                let mut none_from = i64::MAX;
                while let Some((_, timestamp)) = best
                    && timestamp.as_millis() + 1 < none_from
                {
                    let known = timestamp.as_millis();
                    let middle = known + ((none_from - known) / 2).max(1);
                    match look(middle)? {
                        Some(later) => best = Some(later),
                        None => none_from = middle,
                    }
                }
                best.map(|(offset, timestamp)| ListedOffset { offset, timestamp })
            }
        })
    }

    /// All groups, by name.
    ///
    /// # Errors
    /// Committed offsets that cannot be read.
    pub fn list_groups(&self) -> Result<Vec<GroupListing>> {
        let core = self.core()?;
        let mut groups = Vec::new();
        for coordinator in core.groups.existing() {
            groups.extend(coordinator.as_ref().map_err(Clone::clone)?.groups().wait()?);
        }
        groups.sort_by(|a, b| a.group.cmp(&b.group));
        Ok(groups)
    }

    /// Everything a group has committed. Waits until what it tells is durable. A group that does not exist has committed
    /// nothing.
    ///
    /// # Errors
    /// Committed offsets that cannot be read.
    pub fn list_group_offsets(&self, group: &str) -> Result<BTreeMap<TopicPartition, OffsetAndMetadata>> {
        let fetched = self.core()?.groups.of(group)?.fetch(group, None).wait()?;
        Ok(fetched.into_iter().filter_map(|one| Some((one.partition, one.committed?))).collect())
    }

    /// Sets offsets of a group that has no members. Each partition gets a receipt or a reason, in the order given.
    ///
    /// # Errors
    /// Committed offsets that cannot be read.
    pub fn alter_group_offsets(&self, group: &str, entries: &[CommitEntry]) -> Result<CommitResults> {
        let coordinator = self.core()?.groups.of(group)?;
        let results = coordinator.reset(group, entries).wait();
        Ok(entries.iter().map(|entry| entry.partition.clone()).zip(results).collect())
    }

    /// Sets offsets of a group that has no members to where `target` says, for these partitions, or for all it has
    /// committed if none are given.
    ///
    /// # Errors
    /// An unknown partition; [`OffsetTarget::Shift`] or [`OffsetTarget::Current`] for one with nothing committed.
    pub fn reset_group_offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
        target: OffsetTarget,
    ) -> Result<CommitResults> {
        let core = self.core()?;
        let committed = self.list_group_offsets(group)?;
        let partitions: Vec<TopicPartition> = match partitions.is_empty() {
            true => committed.keys().cloned().collect(),
            false => partitions.to_vec(),
        };
        let mut entries = Vec::with_capacity(partitions.len());
        for tp in partitions {
            let known = core.known(&tp)?;
            let partition = &known.partition;
            let (start, end) = (partition.start_offset(), partition.high_watermark());
            let current = || {
                committed.get(&tp).map(|found| found.offset).ok_or_else(|| {
                    invalid(
                        "offset reset",
                        "a partition with a committed offset",
                        format_args!("none for {tp} in group {group:?}"),
                        "reset it to the earliest, the latest, a time or an offset",
                    )
                })
            };
            let to = match target {
                OffsetTarget::Earliest => start,
                OffsetTarget::Latest => end,
                OffsetTarget::Time(time) => {
                    partition.offset_for_time(time)?.map_or(end, |(offset, _)| offset)
                }
                OffsetTarget::To(offset) => offset,
                OffsetTarget::Shift(by) => Offset::new(current()?.get().saturating_add(by)),
                OffsetTarget::Current => current()?,
            };
            let to = to.clamp(start, end);
            let epoch = if to > Offset::ZERO { partition.leader_epoch_at(to + -1) } else { -1 };
            let mut entry =
                CommitEntry::new(tp.clone(), to).with_leader_epoch(epoch).with_topic_id(partition.topic_id());
            if target == OffsetTarget::Current {
                entry = entry.with_metadata(committed[&tp].metadata.clone());
            }
            entries.push(entry);
        }
        self.alter_group_offsets(group, &entries)
    }

    /// Deletes offsets of a group. Each partition gets a result, in the order given.
    ///
    /// # Errors
    /// [`Error::Rejected`]: no such group.
    pub fn delete_group_offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<(TopicPartition, Result<(), Reject>)>> {
        let results = self.core()?.groups.of(group)?.delete_offsets(group, partitions)?.wait()?;
        Ok(partitions.iter().cloned().zip(results).collect())
    }

    /// Deletes a group that has no members, with everything it has committed.
    ///
    /// # Errors
    /// [`Error::Rejected`]: no such group, or one with members.
    pub fn delete_group(&self, group: &str) -> Result<()> {
        Ok(self.core()?.groups.of(group)?.delete_group(group)?.wait()?)
    }

    /// What became of a commit: now, or after any number of restarts.
    ///
    /// ```
    /// # use girok::*;
    /// # let girok = Girok::in_memory()?;
    /// # girok.admin().create_topic("orders", 1, TopicConfig::default())?;
    /// # girok.producer().build()?.send(ProducerRecord::new("orders", "tea"))?.wait()?;
    /// # let mut consumer = girok.consumer().group_id("kitchen").build()?;
    /// # let orders = TopicPartition::new("orders", 0);
    /// # consumer.assign(&[orders.clone()])?;
    /// # let records = consumer.poll(std::time::Duration::from_secs(5))?;
    /// let kept: String = consumer.commit()?[0].to_string(); // in a file, say
    ///
    /// let receipt: Receipt = kept.parse()?;
    /// assert_eq!(girok.admin().verify(&receipt)?, Verdict::Stored);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// Committed offsets that cannot be read.
    pub fn verify(&self, receipt: &Receipt) -> Result<Verdict> {
        self.core()?.groups.of(&receipt.group)?.verify(receipt).wait().map_err(Error::from)
    }
}
