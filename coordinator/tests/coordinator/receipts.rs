//! A receipt can be held against the log, now or years later, and the answer is exact about what it knows.

use std::time::Duration;

use girok_coordinator::records::OffsetAndMetadata;
use girok_coordinator::{CommitOptions, Receipt, Settings, Verdict, checksum};
use girok_engine::{Durability, Offset};

use crate::support::{FakeJournal, World, entry, tp};

fn verdict(world: &World, receipt: &Receipt) -> Verdict {
    world.coordinator.verify(receipt).wait().unwrap()
}

/// The life of a commit, as its receipt tells it: stored, superseded, deleted, forgotten. A restart changes nothing.
#[test]
fn a_receipt_follows_its_commit() {
    let world = World::new();
    let first = world.commits("search", "orders-0", 42);
    let (world, _) = world.reopened(world.journal.restarted());
    assert_eq!(verdict(&world, &first), Verdict::Stored);

    let second = world.commits("search", "orders-0", 43);
    let by =
        |committed: &OffsetAndMetadata, place| Verdict::Superseded { committed: committed.clone(), place };
    for restart in [false, true] {
        let world = if restart { &world.reopened(world.journal.restarted()).0 } else { &world };
        assert_eq!(verdict(world, &first), by(&second.committed, second.place));
        assert_eq!(verdict(world, &second), Verdict::Stored);
    }

    world.coordinator.delete_offsets("search", &[tp("orders-0")]).unwrap().wait().unwrap();
    for restart in [false, true] {
        let world = if restart { &world.reopened(world.journal.restarted()).0 } else { &world };
        assert_eq!(verdict(world, &first), Verdict::Deleted { place: Offset::new(2) });
        assert_eq!(verdict(world, &second), Verdict::Deleted { place: Offset::new(2) });
    }

    // A day later nobody remembers the deletion.
    world.coordinator.expire().unwrap();
    for _ in 0..50 {
        world.clock.pass(Duration::from_mins(30));
        world.coordinator.expire().unwrap();
    }
    assert_eq!(verdict(&world, &second), Verdict::Unknown);
    let third = world.commits("search", "orders-0", 44);
    assert!(matches!(verdict(&world, &second), Verdict::Superseded { .. }));
    assert_eq!(verdict(&world, &third), Verdict::Stored);
}

/// What a receipt says is what is stored: group, place, epoch, and the checksum over the very bytes in the log.
#[test]
fn a_receipt_says_what_is_stored() {
    let world = World::new();
    world.commits("other", "orders-0", 1);
    let entries = [entry("orders-1", 42).with_metadata("note").with_leader_epoch(3)];
    let receipt =
        world.coordinator.commit("search", &entries, CommitOptions::default()).wait().remove(0).unwrap();
    let logged = &world.journal.records()[1];
    assert_eq!(receipt.checksum, checksum(&logged.key, logged.value.as_deref(), Offset::new(1)));
    assert_eq!((&*receipt.group, receipt.place, receipt.epoch), ("search", Offset::new(1), -1));
    assert_eq!((receipt.durability, receipt.log_epoch), (Durability::Synced, 0));
    let (offset, metadata) = (receipt.committed.offset.get(), &*receipt.committed.metadata);
    assert_eq!((offset, receipt.committed.leader_epoch, metadata), (42, 3, "note"));
    assert_eq!(receipt.to_string().parse::<Receipt>().unwrap(), receipt, "and it can be kept as text");
}

/// A commit that was only written is lost with the power. The receipt says so, even when other commits have since
/// taken its place in the log, or a later one of the same key has come behind it.
#[test]
fn a_commit_lost_with_the_power_is_lost() {
    let world = World::new();
    let kept = world.commits("search", "orders-0", 1);
    world.journal.hold_syncs();
    let written = CommitOptions { durability: Some(Durability::Written), ..CommitOptions::default() };
    let receipt =
        world.coordinator.commit("search", &[entry("orders-0", 2)], written).wait().remove(0).unwrap();
    assert_eq!(receipt.durability, Durability::Written);
    let (world, _) = world.reopened(world.journal.after_power_cut());
    assert_eq!(world.committed("search", "orders-0"), Some(1));
    assert_eq!(verdict(&world, &receipt), Verdict::Lost);
    assert_eq!(verdict(&world, &kept), Verdict::Stored);

    let same_place = world.commits("archive", "orders-0", 9);
    assert_eq!(same_place.place, receipt.place);
    assert_eq!(verdict(&world, &receipt), Verdict::Lost);
    let later = world.commits("search", "orders-0", 3);
    assert_eq!(verdict(&world, &receipt), Verdict::Lost, "the later one superseded `kept`, not this one");
    assert!(matches!(verdict(&world, &kept), Verdict::Superseded { .. }));
    assert_eq!(verdict(&world, &later), Verdict::Stored);
    world.coordinator.delete_group("search").unwrap().wait().unwrap();
    assert_eq!(verdict(&world, &receipt), Verdict::Lost);
    assert!(matches!(verdict(&world, &kept), Verdict::Deleted { .. }));
}

/// A receipt from another log, or from one whose records were changed, is not taken for stored.
#[test]
fn a_foreign_receipt_is_lost() {
    let world = World::new();
    world.commits("search", "orders-0", 42);
    let elsewhere = World::new();
    elsewhere.commits("other", "orders-0", 42);
    let foreign = elsewhere.commits("search", "orders-0", 42);
    assert_eq!(verdict(&world, &foreign), Verdict::Lost, "beyond the end of this log");
    let unheard = elsewhere.commits("unheard", "orders-0", 42);
    assert_eq!(verdict(&world, &unheard), Verdict::Lost, "nothing is missing here, so it never was");

    let other = World::new();
    other.commits("search", "orders-0", 41);
    let receipt = world.commits("archive", "orders-0", 1);
    other.commits("archive", "orders-0", 2);
    assert_eq!(verdict(&other, &receipt), Verdict::Lost, "same key, same place, other bytes");
}

/// Where compaction has made holes, what is not there may have been deleted: unknown. Behind the last hole it may
/// not: lost.
#[test]
fn holes_are_told_from_losses() {
    let world = World::new();
    let gone = world.commits("gone", "orders-0", 1);
    world.commits("search", "orders-0", 1);
    world.coordinator.delete_group("gone").unwrap().wait().unwrap();
    let last = world.commits("search", "orders-0", 2);
    let (after, _) = world.reopened(world.journal.compacted(|| false, i64::MAX));
    assert_eq!(after.coordinator.state().horizon(), last.place);
    assert_eq!(verdict(&after, &gone), Verdict::Unknown);
    assert_eq!(verdict(&after, &last), Verdict::Stored);

    let elsewhere = World::new();
    for n in 0..9 {
        elsewhere.commits("unheard", "orders-0", n);
    }
    let never = elsewhere.commits("unheard", "orders-0", 1);
    assert_eq!(verdict(&after, &never), Verdict::Lost);
}

/// A topic that was made anew supersedes, and one that was deleted deletes.
#[test]
fn receipts_outlive_topics() {
    let world = World::new();
    let receipt = world.commits("search", "orders-0", 42);
    let id = receipt.committed.topic_id;
    world.topics.delete("orders");
    assert_eq!(verdict(&world, &receipt), Verdict::Stored, "until the coordinator is told");
    world.coordinator.topic_deleted("orders", id).unwrap().wait().unwrap();
    assert!(matches!(verdict(&world, &receipt), Verdict::Deleted { .. }));
    world.topics.create("orders", 7, 3, 10);
    let anew = world.commits("search", "orders-0", 1);
    assert!(matches!(verdict(&world, &receipt), Verdict::Superseded { .. }));
    assert_eq!(verdict(&world, &anew), Verdict::Stored);
}

/// Commits with an expiry, and those in the old version, have receipts like the others.
#[test]
fn every_version_has_receipts() {
    let settings = Settings { offset_commit_version: 3, ..Settings::default() };
    let world = World::with(settings, FakeJournal::new(), None);
    let three = world.commits("search", "orders-0", 42);
    let options = CommitOptions {
        expire: Some(girok_engine::Timestamp::from_millis(9_999_999_999_999)),
        ..CommitOptions::default()
    };
    let one = world.coordinator.commit("search", &[entry("orders-1", 1)], options).wait().remove(0).unwrap();
    let (world, _) = world.reopened(world.journal.restarted());
    for receipt in [three, one] {
        let receipt: Receipt = receipt.to_string().parse().unwrap();
        assert_eq!(verdict(&world, &receipt), Verdict::Stored);
    }
}
