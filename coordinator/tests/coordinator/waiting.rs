//! What is promised about waiting: nothing is told before it is durable, nothing is applied that was not appended, and
//! walking away from a commit takes nothing back.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use girok_coordinator::{CommitOptions, Reject, Settings, Verdict};
use girok_engine::{Durability, Error, Offset, Remedy};

use crate::support::{Dice, FakeJournal, World, entry, tp};

const WRITTEN: CommitOptions = CommitOptions {
    committer: girok_coordinator::Committer::Standalone,
    durability: Some(Durability::Written),
    expire: None,
};

/// An append that failed applies nothing: not the offset, not the group.
#[test]
fn a_failed_append_changes_nothing() {
    let world = World::new();
    world.commits("search", "orders-0", 1);
    let before = world.coordinator.state();
    world.journal.refuse_appends(Some(Error::Busy { partition: tp("__consumer_offsets-0") }));
    let entries = [entry("orders-0", 2), entry("nowhere-0", 2), entry("orders-1", 2)];
    let results = world.coordinator.commit("search", &entries, CommitOptions::default()).wait();
    let codes: Vec<i16> = results.iter().map(|r| r.as_ref().unwrap_err().code()).collect();
    assert_eq!(codes, [15, 3, 15], "each partition has its own reason");
    assert_eq!(results[0].as_ref().unwrap_err().remedy(), Remedy::TryAgain);
    assert_eq!(world.try_commit("new", "orders-0", 1).unwrap_err().code(), 15);
    assert!(world.coordinator.delete_group("search").is_err());
    assert_eq!(world.coordinator.state(), before);

    world.journal.refuse_appends(None);
    assert_eq!(world.commits("search", "orders-0", 2).place, Offset::new(1));
}

/// An append fails after its bytes are in the log. Nobody is told that it took; but it is there, a replay would find
/// it, and so the next append does.
#[test]
fn an_append_that_failed_too_late_is_found() {
    let world = World::new();
    world.commits("search", "orders-0", 1);
    world.journal.fail_late();
    assert_eq!(world.try_commit("search", "orders-1", 2).unwrap_err().code(), 15);
    assert_eq!(world.committed("search", "orders-1"), None);

    let next = world.commits("search", "orders-0", 3);
    assert_eq!(next.place, Offset::new(2));
    assert_eq!(world.committed("search", "orders-1"), Some(2));
    let (again, _) = world.reopened(world.journal.restarted());
    assert_eq!(again.coordinator.state(), world.coordinator.state());
    assert_eq!(world.coordinator.state().horizon(), Offset::ZERO, "nothing is missing");
}

/// After a failed sync commits fail and say why; what is durable already can still be read; what is not is never
/// told; opening again rebuilds what survived.
#[test]
fn a_poisoned_journal_tells_what_is_durable_and_no_more() {
    let world = World::new();
    let durable = world.commits("search", "orders-0", 1);
    world.journal.hold_syncs();
    let waiting = world.begin_commit("search", "orders-1", 1);
    assert!(waiting.results()[0].is_ok(), "appended");
    world.journal.poison();
    let refused = waiting.wait().remove(0).unwrap_err();
    assert_eq!((refused.code(), refused.remedy()), (16, Remedy::Restart));
    assert!(refused.to_string().contains("poisoned"), "{refused}");

    assert_eq!(world.committed("search", "orders-0"), Some(1));
    assert_eq!(world.coordinator.verify(&durable).wait().unwrap(), Verdict::Stored);
    assert!(world.coordinator.fetch("search", Some(&[tp("orders-1")])).wait().is_err());
    assert!(matches!(
        world.try_commit("search", "orders-0", 2),
        Err(Reject::NotStored(Error::Poisoned { .. }))
    ));
    assert!(world.coordinator.save_state().unwrap().is_none());

    let (world, _) = world.reopened(world.journal.after_power_cut());
    assert_eq!(world.committed("search", "orders-0"), Some(1));
    assert_eq!(world.committed("search", "orders-1"), None);
    world.commits("search", "orders-1", 2);
}

#[derive(Default)]
struct Counts(AtomicUsize);

impl Wake for Counts {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A commit and whoever asks for it wait for the same sync, and are woken by it once.
#[test]
fn nothing_is_told_before_it_is_durable() {
    let world = World::new();
    world.journal.hold_syncs();
    let woken = Arc::new(Counts::default());
    let waker = Waker::from(woken.clone());
    let mut context = Context::from_waker(&waker);

    let mut commit = pin!(world.begin_commit("search", "orders-0", 7));
    let mut fetch = pin!(world.coordinator.fetch("search", None));
    let mut list = pin!(world.coordinator.groups());
    assert!(commit.as_mut().poll(&mut context).is_pending());
    assert!(fetch.as_mut().poll(&mut context).is_pending());
    assert!(list.as_mut().poll(&mut context).is_pending());
    // Who asks about something else need not wait.
    assert_eq!(world.committed("archive", "orders-0"), None);

    world.journal.sync();
    assert_eq!(woken.0.load(Ordering::SeqCst), 3);
    let Poll::Ready(results) = commit.as_mut().poll(&mut context) else { panic!("synced") };
    let receipt = results[0].as_ref().unwrap();
    assert_eq!((receipt.committed.offset, receipt.durability), (Offset::new(7), Durability::Synced));
    let Poll::Ready(Ok(fetched)) = fetch.as_mut().poll(&mut context) else { panic!("synced") };
    assert_eq!(fetched[0].committed.as_ref().unwrap().offset, Offset::new(7));
    assert!(list.as_mut().poll(&mut context).is_ready());
}

/// A deletion is an answer, too: "nothing committed" waits for the tombstone.
#[test]
fn a_deletion_is_not_told_before_it_is_durable() {
    let world = World::new();
    world.commits("search", "orders-0", 7);
    world.journal.hold_syncs();
    let deleted = world.coordinator.delete_offsets("search", &[tp("orders-0")]).unwrap();
    let deleted = deleted.wait_timeout(Duration::from_millis(1)).unwrap_err();
    let fetch = world.coordinator.fetch("search", Some(&[tp("orders-0")]));
    let fetch = fetch.wait_timeout(Duration::from_millis(1)).unwrap_err();
    world.journal.sync();
    assert!(deleted.wait().unwrap()[0].is_ok());
    assert_eq!(fetch.wait().unwrap()[0].committed, None);
}

/// A commit that asks for `Written` does not wait for the sync, and says what it is.
#[test]
fn written_is_told_at_once() {
    let world = World::new();
    world.journal.hold_syncs();
    let receipt =
        world.coordinator.commit("search", &[entry("orders-0", 7)], WRITTEN).wait().remove(0).unwrap();
    assert_eq!(receipt.durability, Durability::Written);
    let fetch = world.coordinator.fetch("search", None).wait_timeout(Duration::from_millis(1));
    assert!(fetch.is_err(), "but it is not shown to others earlier");
}

/// Walking away from a commit, or from a wait for it, does not take it back.
#[test]
fn a_forgotten_commit_is_a_commit() {
    let world = World::new();
    world.journal.hold_syncs();
    drop(world.begin_commit("search", "orders-0", 7));
    let commit = world.begin_commit("search", "orders-1", 8);
    let commit = commit.wait_timeout(Duration::from_millis(1)).unwrap_err();
    drop(commit);
    let waker = Waker::noop();
    let mut context = Context::from_waker(waker);
    let mut polled = Box::pin(world.begin_commit("search", "orders-2", 9));
    assert!(polled.as_mut().poll(&mut context).is_pending());
    drop(polled);
    world.journal.sync();
    let all = world.coordinator.fetch("search", None).wait().unwrap();
    let all: Vec<i64> = all.iter().map(|o| o.committed.as_ref().unwrap().offset.get()).collect();
    assert_eq!(all, [7, 8, 9]);
}

/// An ack is never more durable than the records it covers: where those are only written, so is the commit, whatever
/// became of its own record.
#[test]
fn an_ack_is_no_more_durable_than_its_records() {
    let world = World::new();
    world.topics.set_ends("orders", 1000, 500);
    assert_eq!(world.commits("search", "orders-0", 500).durability, Durability::Synced);
    assert_eq!(world.commits("search", "orders-0", 501).durability, Durability::Written);
    world.topics.set_ends("orders", 1000, 1000);
    assert_eq!(world.commits("search", "orders-0", 501).durability, Durability::Synced);
}

/// A deletion of more offsets than fit into one batch takes several, and none of them is too large.
#[test]
fn many_facts_take_several_batches() {
    let world = World::with(Settings::default(), FakeJournal::with_batches_of(2_000), None);
    world.topics.create("wide", 9, 100, 10);
    let partitions: Vec<String> = (0..100).map(|n| format!("wide-{n}")).collect();
    let entries: Vec<_> = partitions.iter().map(|partition| entry(partition, 1)).collect();
    let receipts = world.coordinator.commit("search", &entries, CommitOptions::default()).wait();
    assert!(receipts.iter().all(Result::is_ok));
    let batches = world.journal.batches();
    assert!((5..=20).contains(&batches), "{batches}");
    for (n, receipt) in receipts.iter().enumerate() {
        let receipt = receipt.as_ref().unwrap();
        assert_eq!((receipt.place, &receipt.partition), (Offset::new(n as i64), &tp(&partitions[n])));
    }
    world.coordinator.delete_group("search").unwrap().wait().unwrap();
    assert!(world.coordinator.fetch("search", None).wait().unwrap().is_empty());
}

/// Many threads commit at once. Every commit has its own place, the last place of each key is what counts, and every
/// receipt is either stored or superseded.
#[test]
fn commits_of_many_threads_are_in_one_order() {
    let world = World::new();
    let receipts: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|seed| {
                let world = &world;
                scope.spawn(move || {
                    let dice = Dice::new(seed);
                    let commit = |_| {
                        let partition = dice.of(&["orders-0", "orders-1", "views-0"]);
                        world.commits(dice.of(&["a", "b"]), partition, dice.below(1000) as i64)
                    };
                    (0..500).map(commit).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let mut last = std::collections::BTreeMap::new();
    let mut places = std::collections::BTreeSet::new();
    for receipt in &receipts {
        assert!(places.insert(receipt.place));
        let key = (receipt.group.clone(), receipt.partition.clone());
        let held = last.entry(key).or_insert(receipt);
        if held.place < receipt.place {
            *held = receipt;
        }
    }
    assert_eq!(places.len(), 2000);
    for receipt in &receipts {
        let verdict = world.coordinator.verify(receipt).wait().unwrap();
        let newest = last[&(receipt.group.clone(), receipt.partition.clone())];
        if newest.place == receipt.place {
            assert_eq!(verdict, Verdict::Stored);
            let committed = world.committed(&receipt.group, &receipt.partition.to_string());
            assert_eq!(committed, Some(receipt.committed.offset.get()));
        } else {
            assert_eq!(
                verdict,
                Verdict::Superseded { committed: newest.committed.clone(), place: newest.place }
            );
        }
    }
}

/// A thread that waits for a sync sleeps until it comes.
#[test]
fn a_blocked_thread_is_woken_by_the_sync() {
    let world = World::new();
    world.journal.hold_syncs();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| world.commits("search", "orders-0", 7));
        while world.journal.end() == Offset::ZERO {
            std::thread::yield_now();
        }
        world.journal.sync();
        assert_eq!(waiter.join().unwrap().durability, Durability::Synced);
    });
}
