//! Groups that live: members come and go and change their minds, topics grow and vanish. After each change the shares are
//! held against what must be true of them, by other arithmetic than the assignors'.

use std::collections::BTreeMap;

use girok_engine::{Chance, SeededChance, TopicId};

use super::{Assignor, Partitions, Subscriber};

/// A member of the scenes.
#[derive(Clone, Debug)]
struct Member {
    id: String,
    instance: Option<String>,
    topics: Vec<TopicId>,
    owned: Partitions,
}

#[derive(Clone, Debug, Default)]
struct Scene {
    members: Vec<Member>,
    topics: BTreeMap<TopicId, i32>,
}

fn topic(n: u8) -> TopicId {
    TopicId([n; 16])
}

impl Scene {
    fn assign(&self, assignor: Assignor) -> Vec<Partitions> {
        let subscribers: Vec<_> = self
            .members
            .iter()
            .map(|m| Subscriber {
                member: &m.id,
                instance: m.instance.as_deref(),
                topics: &m.topics,
                owned: &m.owned,
            })
            .collect();
        assignor.assign(&subscribers, &self.topics)
    }

    fn settle(&mut self, shares: Vec<Partitions>) {
        for (member, share) in self.members.iter_mut().zip(shares) {
            member.owned = share;
        }
    }

    fn readers(&self, topic: TopicId) -> usize {
        self.members.iter().filter(|member| member.topics.contains(&topic)).count()
    }

    /// What anybody may read.
    fn readable(&self) -> Vec<(TopicId, i32)> {
        let read = self.topics.iter().filter(|(topic, _)| self.readers(**topic) > 0);
        read.flat_map(|(topic, partitions)| (0..*partitions).map(|number| (*topic, number))).collect()
    }

    fn may_read(&self, member: usize, topic: TopicId, number: i32) -> bool {
        self.members[member].topics.contains(&topic) && self.topics.get(&topic).is_some_and(|n| number < *n)
    }

    /// Every readable partition has one owner, who reads it; nothing else has one.
    fn check(&self, shares: &[Partitions]) {
        assert_eq!(shares.len(), self.members.len());
        let mut all: Vec<_> = shares.iter().flat_map(Partitions::iter).collect();
        all.sort_unstable();
        assert_eq!(all, self.readable());
        for (member, share) in shares.iter().enumerate() {
            assert!(share.iter().all(|(topic, number)| self.may_read(member, topic, number)));
        }
    }

    /// How many partitions stay with who had them.
    fn kept(&self, shares: &[Partitions]) -> usize {
        let pairs = self.members.iter().zip(shares);
        pairs.map(|(member, share)| share.iter().filter(|(t, n)| member.owned.contains(*t, *n)).count()).sum()
    }

    /// One more thing that happens to a group.
    fn happen(&mut self, chance: &SeededChance, all_topics: bool) {
        let below = |n: usize| (chance.next_u64() % n.max(1) as u64) as usize;
        let some_topics = |scene: &Scene| -> Vec<TopicId> {
            scene.topics.keys().copied().filter(|_| all_topics || below(2) == 0).collect()
        };
        match below(6) {
            0 | 1 => {
                let id = format!("m{:04}", below(10_000));
                let topics = some_topics(self);
                if let Err(at) = self.members.binary_search_by(|member| member.id.cmp(&id)) {
                    let instance = (below(4) == 0).then(|| format!("i{id}"));
                    self.members.insert(at, Member { id, instance, topics, owned: Partitions::default() });
                }
            }
            2 if !self.members.is_empty() => drop(self.members.remove(below(self.members.len()))),
            3 => {
                let grown = topic(1 + below(5) as u8);
                *self.topics.entry(grown).or_default() += 1 + below(4) as i32;
            }
            4 if self.topics.len() > 1 => {
                let gone = *self.topics.keys().nth(below(self.topics.len())).unwrap();
                self.topics.remove(&gone);
            }
            _ if !self.members.is_empty() => {
                let at = below(self.members.len());
                self.members[at].topics = some_topics(self);
            }
            _ => {}
        }
        if all_topics {
            let all: Vec<TopicId> = self.topics.keys().copied().collect();
            self.members.iter_mut().for_each(|member| member.topics.clone_from(&all));
        }
    }
}

fn lives(all_topics: bool, assignor: Assignor, look: impl Fn(&Scene, &[Partitions])) {
    for seed in 0..60 {
        let chance = SeededChance::new(seed);
        let mut scene = Scene::default();
        for turn in 0..120 {
            scene.happen(&chance, all_topics);
            let shares = scene.assign(assignor);
            let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                scene.check(&shares);
                look(&scene, &shares);
            }));
            if let Err(panic) = looked {
                eprintln!("{assignor}, seed {seed}, turn {turn}: {scene:?}");
                std::panic::resume_unwind(panic);
            }
            scene.settle(shares);
            assert_eq!(
                scene.assign(assignor),
                scene.members.iter().map(|m| m.owned.clone()).collect::<Vec<_>>(),
                "{assignor}, seed {seed}, turn {turn}: asked again, everybody keeps what they have"
            );
        }
    }
}

/// All read the same: nobody has two more than another, and no fewer partitions could have moved.
#[test]
fn shares_are_even_and_the_least_moves() {
    lives(true, Assignor::Uniform, |scene, shares| {
        let (members, partitions) = (scene.members.len(), scene.readable().len());
        if members == 0 {
            return;
        }
        let sizes: Vec<usize> = shares.iter().map(Partitions::len).collect();
        assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{sizes:?}");
        // Nobody can keep more than a share, and only so many a larger one.
        let (share, larger) = (partitions / members, partitions % members);
        let had = |m: usize| scene.members[m].owned.iter().filter(|(t, n)| scene.may_read(m, *t, *n)).count();
        let had: Vec<usize> = (0..members).map(had).collect();
        let could = had.iter().map(|had| (*had).min(share)).sum::<usize>()
            + had.iter().filter(|had| **had > share).count().min(larger);
        assert_eq!(scene.kept(shares), could);
    });
}

/// They read different topics: no way to share them out is more even. (The sum of squares says how even, and the best is
/// found by trying them all.)
#[test]
fn nothing_is_more_even() {
    fn best(scene: &Scene, left: &[(TopicId, i32)], sizes: &mut Vec<usize>) -> usize {
        let Some(((topic, _), rest)) = left.split_first() else {
            return sizes.iter().map(|size| size * size).sum();
        };
        let mut least = usize::MAX;
        for member in 0..sizes.len() {
            if scene.members[member].topics.contains(topic) {
                sizes[member] += 1;
                least = least.min(best(scene, rest, sizes));
                sizes[member] -= 1;
            }
        }
        least
    }
    let looked = std::cell::Cell::new(0);
    lives(false, Assignor::Uniform, |scene, shares| {
        let readable = scene.readable();
        if scene.members.len() <= 4 && readable.len() <= 8 {
            looked.set(looked.get() + 1);
            let found: usize = shares.iter().map(|share| share.len() * share.len()).sum();
            assert_eq!(found, best(scene, &readable, &mut vec![0; scene.members.len()]));
        }
    });
    assert!(looked.get() > 500, "only {} scenes were small enough to try everything", looked.get());
}

/// Ranges are contiguous, their sizes differ by one at most, and topics that look the same are shared alike.
#[test]
fn ranges_are_ranges() {
    lives(false, Assignor::Range, |scene, shares| {
        for (topic, partitions) in &scene.topics {
            let readers = scene.readers(*topic) as i32;
            for (member, share) in shares.iter().enumerate() {
                let numbers = share.of(*topic);
                assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
                if scene.members[member].topics.contains(topic) {
                    let (range, size) = (partitions / readers, numbers.len() as i32);
                    assert!(size == range || (size == range + 1 && partitions % readers > 0));
                }
            }
            for (other, as_many) in &scene.topics {
                let reads = |topic: &TopicId| {
                    scene.members.iter().map(|m| m.topics.contains(topic)).collect::<Vec<_>>()
                };
                if as_many == partitions && reads(topic) == reads(other) {
                    assert!(shares.iter().all(|share| share.of(*topic) == share.of(*other)));
                }
            }
        }
    });
}

/// Six partitions, three members, then two, three, four: each step moves what it must, and no more. And the first order of
/// ranges is by static name, then by id.
#[test]
fn members_come_and_go() {
    let member = |id: &str, instance: Option<&str>| Member {
        id: id.into(),
        instance: instance.map(str::to_owned),
        topics: vec![topic(1)],
        owned: Partitions::default(),
    };
    let mut scene =
        Scene { members: ["a", "b", "c"].map(|id| member(id, None)).into(), topics: [(topic(1), 6)].into() };
    let step = |scene: &mut Scene, moves: usize| {
        let shares = scene.assign(Assignor::Uniform);
        assert_eq!(6 - scene.kept(&shares), moves);
        scene.settle(shares);
    };
    step(&mut scene, 6);
    scene.members.remove(1);
    step(&mut scene, 2);
    scene.members.push(member("d", None));
    step(&mut scene, 2);
    scene.members.push(member("e", None));
    step(&mut scene, 1);

    let scene = Scene {
        members: vec![member("a", None), member("b", Some("z")), member("c", Some("y"))],
        topics: [(topic(1), 3), (topic(2), 0)].into(),
    };
    let shares = scene.assign(Assignor::Range);
    assert_eq!(shares.iter().map(|share| share.of(topic(1))).collect::<Vec<_>>(), [&[2], &[1], &[0]]);
}
