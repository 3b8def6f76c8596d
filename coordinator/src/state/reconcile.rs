//! From what a member has to what it shall have, without ever two owners: reconciliation, as KIP-848 has it
//! (`CurrentAssignmentBuilder`).
//!
//! A member is led to its target one heartbeat at a time. What it shall not keep it must give up first, and say so;
//! what it shall have new it gets as soon as nobody owns it any more:
//!
//! ```text
//!                        ┌────────────── all it shall have is free ──────────────┐
//!              gave all up                                                       ▼
//!   UNREVOKED ────────────▶ (look at the target) ── something is not free ──▶ UNRELEASED ──▶ STABLE
//!       ▲                        │                                                 │            │
//!       └── has what it shall not keep ◀───────────── the target changed ──────────┴────────────┘
//! ```
//!
//! Its epoch is that of the target it was led to last, and stays behind while it has something to give up.

use girok_engine::TopicId;

use crate::assign::Partitions;

/// How far a member has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemberState {
    /// It has what it shall have.
    Stable,
    /// It has been asked to give partitions up and has not said that it did.
    UnrevokedPartitions,
    /// It waits for partitions that others have not given up.
    UnreleasedPartitions,
    /// Written by a later version.
    Unknown,
}

impl MemberState {
    pub(crate) fn from_id(id: i8) -> Self {
        match id {
            0 => MemberState::Stable,
            1 => MemberState::UnrevokedPartitions,
            2 => MemberState::UnreleasedPartitions,
            _ => MemberState::Unknown,
        }
    }

    pub(crate) fn id(self) -> i8 {
        match self {
            MemberState::Stable => 0,
            MemberState::UnrevokedPartitions => 1,
            MemberState::UnreleasedPartitions => 2,
            MemberState::Unknown => 127,
        }
    }
}

/// What a member has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Current {
    pub(crate) epoch: i32,
    /// The one before, in case the answer with the present one was lost.
    pub(crate) previous_epoch: i32,
    pub(crate) state: MemberState,
    /// What it owns.
    pub(crate) assigned: Partitions,
    /// What it owns too, and shall give up.
    pub(crate) revoking: Partitions,
}

impl Current {
    /// Before its first heartbeat was answered.
    pub(crate) fn joining() -> Self {
        Current {
            epoch: 0,
            previous_epoch: 0,
            state: MemberState::Stable,
            assigned: Partitions::default(),
            revoking: Partitions::default(),
        }
    }
}

/// What to reconcile it with.
pub(crate) struct Goal<'a> {
    /// The epoch of the target assignment.
    pub(crate) epoch: i32,
    /// The member's part of it.
    pub(crate) target: &'a Partitions,
    /// Whether the member reads a topic (it may have unsubscribed since the target was made).
    pub(crate) reads: &'a dyn Fn(TopicId) -> bool,
    /// Whether nobody owns a partition.
    pub(crate) is_free: &'a dyn Fn(TopicId, i32) -> bool,
    /// What the member says it owns; `None` if it does not say.
    pub(crate) reported: Option<&'a Partitions>,
}

/// Leads a member one step towards its target. `None` if nothing changes.
pub(crate) fn reconcile(current: &Current, goal: &Goal<'_>) -> Option<Current> {
    let next = match current.state {
        MemberState::Stable if current.epoch == goal.epoch => drop_unsubscribed(current, goal),
        MemberState::UnrevokedPartitions => {
            // Silence is no answer: a member that does not say what it owns may own everything.
            let gave_up = goal.reported.is_some_and(|reported| is_disjoint(reported, &current.revoking));
            if gave_up { lead(current, goal) } else { drop_unsubscribed(current, goal) }
        }
        _ => lead(current, goal),
    };
    (next != *current).then_some(next)
}

fn lead(current: &Current, goal: &Goal<'_>) -> Current {
    let has = &current.assigned;
    let shall_have = |topic, number| goal.target.contains(topic, number) && (goal.reads)(topic);
    let keeps = has.filtered(shall_have);
    let revoking = has.filtered(|topic, number| !shall_have(topic, number));
    // A member that says it owns none of them has nothing to give up: it lost them, or never heard of them.
    let owns_some = goal.reported.is_none_or(|reported| !is_disjoint(reported, &revoking));
    if !revoking.is_empty() && owns_some {
        return Current { state: MemberState::UnrevokedPartitions, assigned: keeps, revoking, ..*current };
    }
    let news = goal.target.filtered(|topic, number| (goal.reads)(topic) && !keeps.contains(topic, number));
    // What it was asked to give up, and shall have after all, it owns still.
    let available = news
        .filtered(|topic, number| (goal.is_free)(topic, number) || current.revoking.contains(topic, number));
    let waits = available.len() < news.len();
    let (epoch, previous_epoch) = if current.epoch == goal.epoch {
        (current.epoch, current.previous_epoch)
    } else {
        (goal.epoch, current.epoch)
    };
    Current {
        epoch,
        previous_epoch,
        state: if waits { MemberState::UnreleasedPartitions } else { MemberState::Stable },
        assigned: keeps.iter().chain(available.iter()).collect(),
        revoking: Partitions::default(),
    }
}

/// What a member does not subscribe to any more it must give up at once, whatever the target still says.
fn drop_unsubscribed(current: &Current, goal: &Goal<'_>) -> Current {
    let dropped = current.assigned.filtered(|topic, _| !(goal.reads)(topic));
    if dropped.is_empty() {
        return current.clone();
    }
    let owns_some = goal.reported.is_none_or(|reported| !is_disjoint(reported, &dropped));
    let revoking = if owns_some {
        current.revoking.iter().chain(dropped.iter()).collect()
    } else {
        current.revoking.clone()
    };
    Current {
        state: if revoking.is_empty() { current.state } else { MemberState::UnrevokedPartitions },
        assigned: current.assigned.filtered(|topic, _| (goal.reads)(topic)),
        revoking,
        ..*current
    }
}

fn is_disjoint(some: &Partitions, others: &Partitions) -> bool {
    some.iter().all(|(topic, number)| !others.contains(topic, number))
}

#[cfg(test)]
mod tests {
    use girok_engine::{Chance, SeededChance};

    use super::*;

    const TOPIC: TopicId = TopicId([1; 16]);
    const OTHER: TopicId = TopicId([2; 16]);

    fn some(numbers: impl IntoIterator<Item = i32>) -> Partitions {
        numbers.into_iter().map(|number| (TOPIC, number)).collect()
    }

    /// A member, and what its client believes.
    struct Member {
        current: Current,
        /// What the client owns: what it was told, less what it has given up.
        owns: Partitions,
        reads_other: bool,
    }

    /// A group without a log: members, their targets, and who owns what.
    struct Group {
        members: Vec<Member>,
        targets: Vec<Partitions>,
        epoch: i32,
    }

    impl Group {
        fn new(members: usize) -> Group {
            let member =
                || Member { current: Current::joining(), owns: Partitions::default(), reads_other: true };
            Group {
                members: (0..members).map(|_| member()).collect(),
                targets: vec![Partitions::default(); members],
                epoch: 0,
            }
        }

        fn target(&mut self, targets: Vec<Partitions>) {
            (self.epoch, self.targets) = (self.epoch + 1, targets);
        }

        fn owners(&self, topic: TopicId, number: i32) -> usize {
            let owns = |member: &&Member| {
                let Current { assigned, revoking, .. } = &member.current;
                assigned.contains(topic, number) || revoking.contains(topic, number)
            };
            self.members.iter().filter(owns).count()
        }

        /// A heartbeat, with or without what the client owns. Its answer arrives, or is lost.
        fn heartbeat(&mut self, at: usize, reports: bool, arrives: bool) {
            let before: Vec<Partitions> =
                self.members.iter().map(|member| member.current.assigned.clone()).collect();
            let member = &self.members[at];
            let reads_other = member.reads_other;
            let reported = reports.then(|| member.owns.clone());
            let next = reconcile(
                &member.current,
                &Goal {
                    epoch: self.epoch,
                    target: &self.targets[at],
                    reads: &|topic| topic == TOPIC || reads_other,
                    is_free: &|topic, number| self.owners(topic, number) == 0,
                    reported: reported.as_ref(),
                },
            );
            if let Some(next) = next {
                let was = &self.members[at].current;
                for (topic, number) in next.assigned.iter() {
                    let its_own =
                        was.assigned.contains(topic, number) || was.revoking.contains(topic, number);
                    assert!(its_own || self.owners(topic, number) == 0, "granted before it was released");
                }
                assert!(next.epoch >= was.epoch && next.epoch <= self.epoch);
                assert_eq!(next.state == MemberState::UnrevokedPartitions, !next.revoking.is_empty());
                self.members[at].current = next;
            }
            for (other, member) in self.members.iter().enumerate().filter(|(other, _)| *other != at) {
                assert_eq!(member.current.assigned, before[other], "nobody else is touched");
            }
            let member = &mut self.members[at];
            if arrives {
                // A client keeps and takes what the answer says, and so gives up the rest.
                member.owns = member.current.assigned.clone();
            }
        }

        fn is_stable(&self) -> bool {
            self.members.iter().zip(&self.targets).all(|(member, target)| {
                let shall_have = target.filtered(|topic, _| topic == TOPIC || member.reads_other);
                member.current.state == MemberState::Stable
                    && member.current.epoch == self.epoch
                    && member.current.assigned == shall_have
            })
        }
    }

    /// What the records say comes back as it was.
    #[test]
    fn states_have_kafkas_numbers() {
        for id in [0, 1, 2, 127] {
            assert_eq!(MemberState::from_id(id).id(), id);
        }
        assert_eq!(MemberState::from_id(3), MemberState::Unknown, "of a later version");
    }

    /// The protocol's own example: M1 owns 0 to 5, M2 joins; M1 keeps 0 to 2 and stays behind until it has given up the
    /// rest, M2 waits in the new epoch, and gets them afterwards.
    #[test]
    fn two_members_share_what_one_had() {
        let mut group = Group::new(2);
        group.target(vec![some(0..6), Partitions::default()]);
        group.heartbeat(0, true, true);
        assert_eq!((group.members[0].current.epoch, group.members[0].owns.len()), (1, 6));

        group.target(vec![some(0..3), some(3..6)]);
        group.heartbeat(1, true, true);
        let waits = &group.members[1].current;
        assert_eq!(
            (waits.epoch, waits.state, waits.assigned.len()),
            (2, MemberState::UnreleasedPartitions, 0)
        );
        group.heartbeat(0, true, true);
        let gives_up = &group.members[0].current;
        assert_eq!((gives_up.epoch, gives_up.state), (1, MemberState::UnrevokedPartitions));
        assert_eq!((&gives_up.assigned, &gives_up.revoking), (&some(0..3), &some(3..6)));
        group.heartbeat(0, false, true);
        assert_eq!(group.members[0].current.epoch, 1, "silence is no answer");
        group.heartbeat(1, true, true);
        assert!(group.members[1].owns.is_empty(), "not released");
        group.heartbeat(0, true, true);
        assert_eq!(
            (group.members[0].current.epoch, group.members[0].current.state),
            (2, MemberState::Stable)
        );
        group.heartbeat(1, true, true);
        assert_eq!(group.members[1].owns, some(3..6));
        assert!(group.is_stable());
    }

    /// What a member unsubscribes from it gives up at once, whatever the target still says.
    #[test]
    fn the_unsubscribed_goes_at_once() {
        let mut group = Group::new(1);
        let both: Partitions = [(TOPIC, 0), (OTHER, 0)].into_iter().collect();
        group.target(vec![both]);
        group.heartbeat(0, true, true);
        group.members[0].reads_other = false;
        group.heartbeat(0, true, true);
        let current = &group.members[0].current;
        assert_eq!((&current.assigned, current.revoking.len()), (&some([0]), 1));
        group.heartbeat(0, true, true);
        assert_eq!(group.members[0].current.state, MemberState::Stable);
    }

    /// Targets change at any time, heartbeats come in any order, say what they own or not, and answers are lost: never two
    /// owners, nothing granted before it is released, and once it is quiet everybody has what they shall have.
    #[test]
    fn never_two_owners() {
        for seed in 0..300 {
            let chance = SeededChance::new(seed);
            let below = |n: usize| (chance.next_u64() % n as u64) as usize;
            let members = 1 + below(5);
            let mut group = Group::new(members);
            for _ in 0..200 {
                if below(12) == 0 {
                    let mut targets = vec![Vec::new(); members];
                    for number in 0..6 {
                        targets[below(members)].push((TOPIC, number));
                        targets[below(members)].push((OTHER, number));
                    }
                    group.target(targets.into_iter().map(|target| target.into_iter().collect()).collect());
                }
                let at = below(members);
                if below(20) == 0 {
                    // Another subscription is another epoch.
                    group.members[at].reads_other ^= true;
                    group.target(group.targets.clone());
                }
                group.heartbeat(at, below(3) > 0, below(4) > 0);
                for number in 0..6 {
                    assert!(
                        [TOPIC, OTHER].iter().all(|topic| group.owners(*topic, number) <= 1),
                        "seed {seed}: two owners"
                    );
                }
            }
            for _ in 0..4 {
                (0..members).for_each(|at| group.heartbeat(at, true, true));
            }
            assert!(
                group.is_stable(),
                "seed {seed}: everybody has spoken, and not all have what they shall have"
            );
        }
    }
}
