//! Offsets grow old by Kafka's rules, and a clock that jumps does not make them older.

use std::time::Duration;

use girok_coordinator::records::{EndTransaction, GroupMetadata, Record};
use girok_coordinator::{BatchInfo, CommitOptions, Settings};
use girok_engine::{Clock, Timestamp};

use crate::support::{FakeJournal, START_MS, World, entry, golden, now_info, offset_record, tp};

const HOUR: Duration = Duration::from_hours(1);
const WEEK: Duration = Duration::from_hours(7 * 24);

/// Time passes as it does for a running process, with a check every ten minutes' worth of it (in steps of half an
/// hour, for the test's sake).
fn live_through(world: &World, time: Duration) -> Vec<String> {
    let mut expired = Vec::new();
    let mut left = time;
    while !left.is_zero() {
        let now = left.min(HOUR / 2);
        world.clock.pass(now);
        left -= now;
        let report = world.coordinator.expire().unwrap();
        assert!(!report.held);
        expired.extend(report.offsets.iter().map(|(group, partition)| format!("{group} {partition}")));
        expired.extend(report.groups.iter().map(|group| format!("{group} ended")));
    }
    expired
}

/// A self-assigned consumer's offset lives for a week after its last commit, and the group with it.
#[test]
fn an_offset_expires_a_week_after_its_commit() {
    let world = World::new();
    world.commits("search", "orders-0", 1);
    world.commits("search", "orders-1", 1);
    assert_eq!(live_through(&world, HOUR), [""; 0]);
    world.commits("search", "orders-1", 2);
    assert_eq!(live_through(&world, WEEK - 2 * HOUR), [""; 0]);
    assert_eq!(live_through(&world, HOUR), ["search orders-0"]);
    assert_eq!(live_through(&world, HOUR), ["search orders-1", "search ended"]);
    assert_eq!(world.group_names(), [""; 0]);
    assert_eq!(live_through(&world, WEEK), [""; 0]);
}

/// An offset that came with its own expiry goes then, not before and not later, whatever the retention says; it is
/// stored in a version 1 record, which has the room.
#[test]
fn an_explicit_expiry_wins() {
    let world = World::new();
    let at = Timestamp::from_millis(START_MS + 2 * 3_600_000);
    let options = CommitOptions { expire: Some(at), ..CommitOptions::default() };
    let receipt =
        world.coordinator.commit("search", &[entry("orders-0", 1)], options).wait().remove(0).unwrap();
    assert_eq!((receipt.version, receipt.committed.expire_timestamp), (1, Some(at)));
    assert_eq!(&world.journal.records()[0].value.as_ref().unwrap()[..2], [0, 1]);
    let (world, _) = world.reopened(world.journal.restarted());
    assert_eq!(live_through(&world, HOUR + HOUR / 2), [""; 0]);
    assert_eq!(live_through(&world, HOUR / 2), ["search orders-0", "search ended"]);

    // A later commit without one is under the retention again.
    let later = Some(Timestamp::from_millis(START_MS + 4 * 3_600_000));
    drop(world.coordinator.commit(
        "search",
        &[entry("orders-0", 1)],
        CommitOptions { expire: later, ..options },
    ));
    world.commits("search", "orders-0", 2);
    assert_eq!(live_through(&world, 10 * HOUR), [""; 0]);
}

/// The offsets of a group that had members live for a week after the last one left, however old they are.
#[test]
fn an_empty_group_ages_from_when_it_became_empty() {
    let journal = FakeJournal::new();
    let group = || "search".into();
    let empty = GroupMetadata::empty("consumer".into(), 3, START_MS + 3 * 24 * 3_600_000);
    journal.append_record(now_info(), &offset_record("search", "orders-0", 1));
    journal.append_record(now_info(), &Record::GroupMetadata { group: group(), value: Some(empty) });
    let world = World::with(Settings::default(), journal, None);
    assert_eq!(live_through(&world, WEEK + 70 * HOUR), [""; 0]);
    assert_eq!(live_through(&world, 2 * HOUR), ["search orders-0", "search ended"]);
    assert_eq!(world.group_names(), [""; 0]);
}

/// Without a note of when it became empty, each offset ages from its own commit.
#[test]
fn an_old_empty_group_ages_by_its_commits() {
    let journal = FakeJournal::new();
    let empty = GroupMetadata::empty("consumer".into(), 3, -1);
    journal.append_record(now_info(), &offset_record("search", "orders-0", 1));
    journal.append_record(now_info(), &Record::GroupMetadata { group: "search".into(), value: Some(empty) });
    let world = World::with(Settings::default(), journal, None);
    assert_eq!(live_through(&world, WEEK), ["search orders-0", "search ended"]);
}

/// What members read does not grow old while they read it; what they have stopped reading does.
#[test]
fn what_members_read_does_not_grow_old() {
    use girok_coordinator::{ExpiryClock, Input, Now, Reply, State, step};
    let mut state = State::new(Settings::default());
    for raw in golden().into_iter().take(19).filter(|raw| !raw.transactional) {
        let info = BatchInfo::at(Timestamp::from_millis(raw.timestamp));
        let at = girok_engine::Offset::new(raw.offset);
        state.replay(at, &info, raw.key.as_deref(), raw.value.as_deref()).unwrap();
    }
    let next = state.next_offset();
    state.apply(offset_record("g-group-classic", "views-0", 1), next, 0, &now_info());
    state.apply(offset_record("g-group-consumer", "views-1", 1), next + 1, 0, &now_info());
    let late = Timestamp::from_millis(START_MS + 30 * 24 * 3_600_000);
    let clock = ExpiryClock::since(late);
    let now = Now { wall: late, now: girok_engine::Moment::from_nanos(0) };
    let topics = crate::support::FakeTopics::default();
    let Reply::Expire(expired) = step(&state, Input::Expire { clock }, &topics, now).reply else { panic!() };
    let gone: Vec<String> = expired.offsets.iter().map(|(group, p)| format!("{group} {p}")).collect();
    assert_eq!(gone, ["g-group-classic views-0", "g-group-consumer views-1"]);
    assert!(expired.groups.is_empty());
}

/// While a transaction is open on a partition, its offset stays, and so does the group.
#[test]
fn an_open_transaction_keeps_its_offset() {
    let journal = FakeJournal::new();
    journal.append_record(now_info(), &offset_record("search", "orders-0", 1));
    let open = BatchInfo { producer_id: 5, transactional: true, ..now_info() };
    journal.append_record(open, &offset_record("search", "orders-0", 2));
    journal.append_record(now_info(), &offset_record("search", "orders-1", 1));
    let world = World::with(Settings::default(), journal, None);
    assert_eq!(live_through(&world, WEEK + HOUR), ["search orders-1"]);
    let journal = world.journal.restarted();
    journal.append_marker(5, EndTransaction::Abort);
    let (world, _) = world.reopened(journal);
    assert_eq!(world.coordinator.expire().unwrap().offsets, [("search".into(), tp("orders-0"))]);
    assert_eq!(world.group_names(), [""; 0]);
}

/// Somebody sets the clock to next year: nothing expires at once. If it is set right again, nothing ever did; if two
/// checks in a row see it, it is next year.
#[test]
fn a_jump_of_the_clock_needs_two_checks() {
    let world = World::new();
    world.commits("search", "orders-0", 1);
    live_through(&world, HOUR);

    const YEAR_MS: i64 = 365 * 24 * 3_600_000;
    world.clock.jump(YEAR_MS);
    let report = world.coordinator.expire().unwrap();
    assert!(report.held && report.offsets.is_empty());
    world.clock.jump(-YEAR_MS);
    assert_eq!(live_through(&world, HOUR), [""; 0]);
    assert_eq!(world.committed("search", "orders-0"), Some(1));

    world.clock.jump(YEAR_MS);
    assert!(world.coordinator.expire().unwrap().held);
    world.clock.pass(HOUR / 6);
    let report = world.coordinator.expire().unwrap();
    assert!(!report.held);
    assert_eq!(report.offsets, [("search".into(), tp("orders-0"))]);
}

/// A clock that is set back by weeks neither ends an offset early nor gives it a second life; and what is committed
/// meanwhile is not born old.
#[test]
fn a_clock_set_back_changes_nothing() {
    const MONTH_MS: i64 = 30 * 24 * 3_600_000;
    let world = World::new();
    world.commits("search", "orders-0", 1);
    assert_eq!(live_through(&world, WEEK - HOUR), [""; 0]);
    world.clock.jump(-MONTH_MS);
    world.commits("archive", "orders-0", 1);
    // Time stands still for expiry until the wall clock has caught up.
    assert_eq!(live_through(&world, 2 * HOUR), [""; 0]);
    assert!(world.clock.wall() < Timestamp::from_millis(START_MS));
    world.clock.jump(MONTH_MS);
    assert_eq!(live_through(&world, HOUR), ["search orders-0", "search ended"]);
    assert_eq!(world.committed("archive", "orders-0"), Some(1));
}

/// A commit that was stamped while the clock stood in the next century does not make everything else old, not even
/// after a restart, when that stamp is all there is to compare with.
#[test]
fn a_stamp_from_the_future_ends_nothing() {
    const CENTURY_MS: i64 = 100 * 365 * 24 * 3_600_000;
    let world = World::new();
    world.commits("search", "orders-0", 1);
    world.clock.jump(CENTURY_MS);
    world.commits("archive", "orders-0", 1);
    world.clock.jump(-CENTURY_MS);
    let (world, _) = world.reopened(world.journal.restarted());
    assert_eq!(live_through(&world, HOUR), [""; 0]);
    assert_eq!(world.committed("search", "orders-0"), Some(1));
}

/// If the tombstones cannot be appended, nothing has expired, and the next check tries again.
#[test]
fn a_failed_append_expires_nothing() {
    let world = World::new();
    world.commits("search", "orders-0", 1);
    live_through(&world, WEEK - HOUR);
    world.clock.pass(HOUR);
    let busy = girok_engine::Error::Busy { partition: tp("__consumer_offsets-0") };
    world.journal.refuse_appends(Some(busy));
    assert!(world.coordinator.expire().is_err());
    assert_eq!(world.committed("search", "orders-0"), Some(1));
    world.journal.refuse_appends(None);
    assert_eq!(world.coordinator.expire().unwrap().offsets.len(), 1);
}
