//! Random days against a model that is too simple to be wrong: a map from group and partition to what was last
//! accepted.

use std::collections::BTreeMap;
use std::time::Duration;

use girok_coordinator::{CommitEntry, CommitOptions, Reject, Verdict};
use girok_engine::{Error, Offset, TopicId};

use crate::support::{Dice, World, tp};

const GROUPS: [&str; 4] = ["a", "b", "c", ""];
const PARTITIONS: [&str; 6] = ["orders-0", "orders-1", "orders-2", "views-0", "views-1", "nowhere-0"];

/// Steps through a random day; `after` looks at the world after each step.
pub fn live_a_little(world: &World, dice: &Dice, steps: usize, mut after: impl FnMut(&World)) {
    let mut model = Model::default();
    for _ in 0..steps {
        model.one_step(world, dice);
        after(world);
    }
}

#[derive(Default)]
struct Model {
    /// Offset, note, topic id.
    offsets: BTreeMap<(String, String), (i64, String, TopicId)>,
    receipts: Vec<girok_coordinator::Receipt>,
    ids: u8,
}

impl Model {
    fn one_step(&mut self, world: &World, dice: &Dice) {
        let (group, partition) = (dice.of(&GROUPS), dice.of(&PARTITIONS));
        let of_group = |model: &Self| model.offsets.keys().any(|(g, _)| g == group);
        match dice.below(20) {
            0..=10 => self.commit(world, dice, group),
            11 => {
                let results = world.coordinator.delete_offsets(group, &[tp(partition)]);
                match results {
                    Err(reject) if group.is_empty() => assert_eq!(reject.code(), 24),
                    Err(reject) => assert_eq!((reject.code(), of_group(self)), (69, false)),
                    Ok(results) => {
                        assert!(of_group(self));
                        results.wait().unwrap()[0].as_ref().unwrap();
                        self.offsets.remove(&(group.to_string(), partition.to_string()));
                    }
                }
            }
            12 => match world.coordinator.delete_group(group) {
                Err(reject) => assert_eq!((reject.code(), of_group(self)), (69, false)),
                Ok(deleted) => {
                    assert!(of_group(self));
                    deleted.wait().unwrap();
                    self.offsets.retain(|(g, _), _| g != group);
                }
            },
            13 => {
                // The topic is deleted and made anew; the coordinator hears of it, or not.
                let (topic, partitions) = if dice.below(2) == 0 { ("orders", 3) } else { ("views", 2) };
                let id = girok_coordinator::Topics::topic(&*world.topics, topic).unwrap().id;
                self.ids += 1;
                world.topics.create(topic, 100 + self.ids, partitions, 1000);
                if dice.below(2) == 0 {
                    let gone = world.coordinator.topic_deleted(topic, id).unwrap().wait().unwrap();
                    let before = self.offsets.len();
                    self.offsets.retain(|(_, p), (_, _, of)| tp(p).topic() != topic || *of != id);
                    assert_eq!(gone.len(), before - self.offsets.len());
                }
            }
            14 => {
                world.journal.refuse_appends(Some(Error::Busy { partition: tp("__consumer_offsets-0") }));
                let refused = world.try_commit(group, "orders-0", 1).unwrap_err();
                assert_eq!(refused.code(), 15);
                world.journal.refuse_appends(None);
            }
            15 => {
                world.clock.pass(Duration::from_mins(dice.below(30)));
                assert!(
                    world.coordinator.expire().unwrap().offsets.is_empty(),
                    "nobody lives that long here"
                );
            }
            16 => {
                if let Some(receipt) = self.receipts.get(dice.below(self.receipts.len() as u64 + 1) as usize)
                {
                    let key = (receipt.group.to_string(), receipt.partition.to_string());
                    let newest = self
                        .receipts
                        .iter()
                        .filter(|r| r.group == receipt.group && r.partition == receipt.partition)
                        .map(|r| r.place)
                        .max();
                    match world.coordinator.verify(receipt).wait().unwrap() {
                        Verdict::Stored => assert_eq!(newest, Some(receipt.place)),
                        Verdict::Superseded { place, .. } => assert_eq!(newest, Some(place)),
                        Verdict::Deleted { .. } => assert!(!self.offsets.contains_key(&key)),
                        other => panic!("{other:?}"),
                    }
                }
            }
            _ => self.compare(world, group),
        }
    }

    fn commit(&mut self, world: &World, dice: &Dice, group: &str) {
        let entries: Vec<CommitEntry> = (0..1 + dice.below(3))
            .map(|_| {
                let offset = dice.below(1010) as i64 - 5;
                let note = dice.of(&["", "note", "기록"]);
                let entry = CommitEntry::new(tp(dice.of(&PARTITIONS)), Offset::new(offset));
                entry.with_metadata(note)
            })
            .collect();
        let results = world.coordinator.commit(group, &entries, CommitOptions::default()).wait();
        for (entry, result) in entries.iter().zip(results) {
            let topic = girok_coordinator::Topics::topic(&*world.topics, entry.partition.topic());
            let offset = entry.offset.get();
            let expected = match topic {
                None => 3,
                Some(_) if offset < 0 => 42,
                Some(_) if offset > 1000 => 1,
                Some(_) => 0,
            };
            assert_eq!(result.as_ref().map_or_else(Reject::code, |_| 0), expected);
            let Ok(receipt) = result else { continue };
            let key = (group.to_string(), entry.partition.to_string());
            let note = entry.metadata.to_string();
            self.offsets.insert(key, (offset, note, topic.unwrap().id));
            self.receipts.push(receipt);
        }
    }

    fn compare(&self, world: &World, group: &str) {
        let fetched = world.coordinator.fetch(group, Some(&PARTITIONS.map(tp))).wait().unwrap();
        for (partition, found) in PARTITIONS.iter().zip(fetched) {
            let current = girok_coordinator::Topics::topic(&*world.topics, tp(partition).topic());
            let expected = self
                .offsets
                .get(&(group.to_string(), (*partition).to_string()))
                .filter(|(_, _, id)| current.is_some_and(|topic| topic.id == *id))
                .map(|(offset, note, _)| (*offset, note.clone()));
            let found = found.committed.map(|c| (c.offset.get(), c.metadata.to_string()));
            assert_eq!(found, expected, "{group:?} {partition}");
        }
        let mut names: Vec<&str> = self.offsets.keys().map(|(group, _)| group.as_str()).collect();
        names.dedup();
        assert_eq!(world.group_names(), names);
    }
}

/// A thousand steps of random days, restarts and all, and never another answer than the model's.
#[test]
fn random_days_agree_with_the_model() {
    for seed in 0..40 {
        let dice = Dice::new(seed);
        let mut world = World::new();
        let mut model = Model::default();
        for step in 0..250 {
            model.one_step(&world, &dice);
            if dice.below(50) == 0 {
                let before = world.coordinator.state();
                let (again, report) = world.reopened(world.journal.restarted());
                world = again;
                assert_eq!(world.coordinator.state(), before, "seed {seed}, step {step}");
                assert!(report.clamped.is_empty() && report.members_gone.is_empty());
            }
            for group in GROUPS {
                model.compare(&world, group);
            }
        }
    }
}
