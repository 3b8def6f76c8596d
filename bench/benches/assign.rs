//! Sharing partitions out: the assignors, from nothing, and when one member comes.
//!
//! There is no limit of the machine to stand beside these: what counts is that a rebalance of ten thousand partitions over
//! a thousand members is decided within the time that people do not notice. Every share is checked before it is timed.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

use girok_bench::place::{self, sized};
use girok_bench::stats::median;
use girok_coordinator::{Assignor, Partitions, Subscriber};
use girok_engine::TopicId;

fn main() {
    let mut criterion = place::criterion();
    println!("\n| what | from nothing, ms | one member comes, ms | moved then |\n|---|--:|--:|--:|");
    let sizes = [(10, 1_000), (100, 1_000), (1_000, 10_000)].map(|(m, p)| (sized(m, 5), sized(p, 50)));
    for (members, partitions) in sizes {
        for (assignor, mixed) in
            [(Assignor::Uniform, false), (Assignor::Uniform, true), (Assignor::Range, false)]
        {
            row(assignor, mixed, members, partitions);
        }
    }
    let group = Group::new(sized(1_000, 5), sized(10_000, 50), false);
    criterion.bench_function("assign/uniform, 10000 partitions to 1000 members", |b| {
        b.iter(|| Assignor::Uniform.assign(&group.subscribers(), &group.topics));
    });
    criterion.final_summary();
}

fn row(assignor: Assignor, mixed: bool, members: usize, partitions: usize) {
    let (mut fresh, mut joined) = (Vec::new(), Vec::new());
    let mut moved = 0;
    for _ in 0..sized(15, 1) {
        let mut group = Group::new(members, partitions, mixed);
        let started = Instant::now();
        let shares = black_box(assignor.assign(&group.subscribers(), &group.topics));
        fresh.push(started.elapsed().as_secs_f64() * 1e3);
        group.check(&shares);
        group.owned = shares;
        group.join();
        let started = Instant::now();
        let shares = black_box(assignor.assign(&group.subscribers(), &group.topics));
        joined.push(started.elapsed().as_secs_f64() * 1e3);
        group.check(&shares);
        moved = group.moved(&shares);
    }
    let reads = if mixed { ", mixed subscriptions" } else { "" };
    println!(
        "| {assignor}{reads}: {partitions} partitions, {members} members | {:.2} | {:.2} | {moved} |",
        median(&fresh),
        median(&joined)
    );
}

/// Ten topics; with mixed subscriptions every member reads nine of them.
struct Group {
    topics: BTreeMap<TopicId, i32>,
    ids: Vec<String>,
    reads: Vec<Vec<TopicId>>,
    owned: Vec<Partitions>,
    mixed: bool,
}

impl Group {
    fn new(members: usize, partitions: usize, mixed: bool) -> Group {
        let topics = (0..10).map(|n| (TopicId([n; 16]), partitions as i32 / 10)).collect();
        let mut group = Group { topics, ids: Vec::new(), reads: Vec::new(), owned: Vec::new(), mixed };
        (0..members).for_each(|_| group.join());
        group
    }

    fn join(&mut self) {
        let n = self.ids.len();
        self.ids.push(format!("member-{n:06}"));
        let skipped = self.mixed.then_some(n % 10);
        self.reads.push((0..10).filter(|t| Some(*t as usize) != skipped).map(|t| TopicId([t; 16])).collect());
        self.owned.push(Partitions::default());
    }

    fn subscribers(&self) -> Vec<Subscriber<'_>> {
        let one = |n: usize| Subscriber {
            member: &self.ids[n],
            instance: None,
            topics: &self.reads[n],
            owned: &self.owned[n],
        };
        (0..self.ids.len()).map(one).collect()
    }

    /// Every partition once, and the shares as even as they can be.
    fn check(&self, shares: &[Partitions]) {
        let mut all: Vec<_> = shares.iter().flat_map(Partitions::iter).collect();
        all.sort_unstable();
        let expected: Vec<_> =
            self.topics.iter().flat_map(|(topic, count)| (0..*count).map(|n| (*topic, n))).collect();
        assert!(all == expected, "every partition has one owner");
    }

    fn moved(&self, shares: &[Partitions]) -> usize {
        let pairs = self.owned.iter().zip(shares);
        pairs.map(|(owned, share)| owned.iter().filter(|(t, n)| !share.contains(*t, *n)).count()).sum()
    }
}
