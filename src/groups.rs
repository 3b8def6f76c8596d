//! The coordinators of one directory: one for each partition of `__consumer_offsets`, which is one unless the directory
//! came from a broker.
//!
//! Where the topic exists, its partitions are read when the directory is opened, before anybody can append: a commit
//! that a power cut left beyond the end must be set back before the end moves. Where it does not exist it is made by
//! the first group that asks. A damaged offsets log keeps nobody from producing and polling; whoever commits is told.

use std::sync::{Arc, Mutex, OnceLock};

use girok_coordinator::{
    Clamped, Coordinator, Ends, Ground, PartitionJournal, Settings, StateFile, TopicView, Topics, state_file,
};
use girok_engine::{Log, TopicConfig, TopicPartition};

use crate::error::{Error, Result, do_all};

/// Where committed offsets are kept.
pub(crate) const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// The log's topics, as coordinators look at them.
#[derive(Debug)]
struct LogTopics(Log);

impl Topics for LogTopics {
    fn topic(&self, name: &str) -> Option<TopicView> {
        let topic = self.0.topic(name).ok()?;
        Some(TopicView { id: topic.id, partitions: topic.partitions })
    }

    fn ends(&self, tp: &TopicPartition) -> Option<Ends> {
        let partition = self.0.partition(tp).ok()?;
        Some(Ends { published: partition.end_offset(), synced: partition.synced_offset() })
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Groups {
    log: Log,
    settings: Settings,
    coordinators: OnceLock<Vec<Result<Coordinator>>>,
    opening: Mutex<()>,
    /// Commits that pointed beyond the end of their partition when the directory was opened.
    clamped: OnceLock<Vec<Clamped>>,
    notes: OnceLock<Vec<String>>,
}

impl Groups {
    /// Reads what is there. Never fails: what is damaged is told to those who ask for it.
    pub(crate) fn open(log: &Log, settings: Settings) -> Result<Self> {
        settings.check()?;
        let groups = Groups {
            log: log.clone(),
            settings,
            coordinators: OnceLock::new(),
            opening: Mutex::new(()),
            clamped: OnceLock::new(),
            notes: OnceLock::new(),
        };
        if let Ok(topic) = log.topic(OFFSETS_TOPIC) {
            groups.open_all(topic.partitions);
        }
        Ok(groups)
    }

    fn open_all(&self, partitions: i32) -> &[Result<Coordinator>] {
        self.coordinators.get_or_init(|| {
            let (mut clamped, mut notes) = (Vec::new(), Vec::new());
            let opened = (0..partitions)
                .map(|number| {
                    let journal = self.log.partition(&TopicPartition::new(OFFSETS_TOPIC, number))?;
                    let env = self.log.env();
                    let name = match partitions {
                        1 => state_file::FILE_NAME.to_owned(),
                        // A broker's directory has fifty, and its groups are few: the log suffices.
                        _ => String::new(),
                    };
                    let ground = Ground {
                        journal: Arc::new(PartitionJournal::new(journal)),
                        topics: Arc::new(LogTopics(self.log.clone())),
                        clock: env.clock.clone(),
                        state_file: (!name.is_empty()).then(|| StateFile {
                            disk: env.disk.clone(),
                            path: self.log.dir().join(name),
                            boot: self.log.boot(),
                        }),
                    };
                    let (coordinator, report) =
                        Coordinator::open(ground, self.settings.clone()).map_err(|e| {
                            notes.push(e.to_string());
                            Error::Engine(e.error)
                        })?;
                    notes.extend(
                        report.state_file_refused.map(|error| format!("{error}; the offsets log was read")),
                    );
                    clamped.extend(report.clamped);
                    Ok(coordinator)
                })
                .collect();
            let _ = self.clamped.set(clamped);
            let _ = self.notes.set(notes);
            opened
        })
    }

    fn all(&self) -> Result<&[Result<Coordinator>]> {
        if let Some(coordinators) = self.coordinators.get() {
            return Ok(coordinators);
        }
        let _one = self.opening.lock().unwrap();
        let partitions = match self.log.topic(OFFSETS_TOPIC) {
            Ok(topic) => topic.partitions,
            Err(girok_engine::Error::UnknownTopicOrPartition { .. }) => {
                let partitions = self.log.config().offsets_partitions;
                let config = TopicConfig {
                    durability: self.settings.durability,
                    ..TopicConfig::for_adopted(OFFSETS_TOPIC)
                };
                self.log.create_internal_topic(OFFSETS_TOPIC, partitions, config)?;
                partitions
            }
            Err(error) => return Err(error.into()),
        };
        Ok(self.open_all(partitions))
    }

    /// The coordinator of a group: Kafka's choice, so that a broker's directory is read right.
    pub(crate) fn of(&self, group: &str) -> Result<&Coordinator> {
        let all = self.all()?;
        let number = java_hash(group).unsigned_abs() as usize & i32::MAX as usize;
        all[number % all.len()].as_ref().map_err(Clone::clone)
    }

    /// Those that there are; none if no group ever asked.
    pub(crate) fn existing(&self) -> &[Result<Coordinator>] {
        self.coordinators.get().map_or(&[], |all| all)
    }

    pub(crate) fn clamped(&self) -> &[Clamped] {
        self.clamped.get().map_or(&[], |clamped| clamped)
    }

    pub(crate) fn notes(&self) -> &[String] {
        self.notes.get().map_or(&[], |notes| notes)
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Old offsets expire, and the next open reads less. The first error, after all was tried.
    pub(crate) fn tick(&self) -> Result<()> {
        let tick = |coordinator: &Coordinator| {
            coordinator.expire()?;
            coordinator.save_state()?;
            Ok(())
        };
        do_all(self.existing().iter().flatten().map(tick))
    }

    /// So that the next open reads less.
    pub(crate) fn save(&self) -> Result<()> {
        let save = |coordinator: &Coordinator| coordinator.save_state().map(drop).map_err(Error::from);
        do_all(self.existing().iter().flatten().map(save))
    }
}

/// Java's `String.hashCode`, over UTF-16 units.
fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(unit as i32))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups are found where Kafka put them: `Utils.abs(groupId.hashCode) % partitions`.
    #[test]
    fn groups_hash_as_in_java() {
        assert_eq!(java_hash("hello"), 99162322);
        assert_eq!(java_hash("polygenelubricants"), i32::MIN);
        assert_eq!(java_hash("검색"), 1_418_313);
    }
}
