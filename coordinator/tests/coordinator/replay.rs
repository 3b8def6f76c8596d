//! Replay is life once more: to any prefix of the log, over any log that compaction can leave, and with the damage
//! named where there is some.

use girok_coordinator::{BatchInfo, Settings, State, replay};
use girok_engine::{Error, Offset};

use crate::model::live_a_little;
use crate::support::{Dice, FakeJournal, World, now_info, offset_record, visible};

/// Whatever was lived, the state after each record is the state that reading the log up to there gives.
#[test]
fn a_prefix_gives_the_state_that_was() {
    for seed in 0..20 {
        let world = World::new();
        let mut states: Vec<(usize, State)> = Vec::new();
        live_a_little(&world, &Dice::new(seed), 60, |world| {
            states.push((world.journal.records().len(), world.coordinator.state()));
        });
        let mut replayed = State::new(Settings::default());
        let mut done = 0;
        let records = world.journal.records();
        for (len, lived) in &states {
            for record in &records[done..*len] {
                replayed.replay(record.at, &record.info, Some(&record.key), record.value.as_deref()).unwrap();
            }
            done = *len;
            assert_eq!(&replayed, lived, "seed {seed}, after {len} records");
        }
        for prefix in 0..records.len() {
            replay(&world.journal.prefix(prefix), None, &Settings::default()).unwrap();
        }
    }
}

/// A compacted log, whichever superseded records the cleaner has left and in however many passes, tells the same
/// groups as the whole one; transactions included.
#[test]
fn a_compacted_log_tells_the_same_groups() {
    for seed in 0..60 {
        let (world, dice) = (World::new(), Dice::new(seed));
        live_a_little(&world, &dice, 80, |_| {});
        let open = BatchInfo { producer_id: 3, transactional: true, ..now_info() };
        let journal = world.journal.restarted();
        journal.append_record(open, &offset_record("a", "orders-0", 77));
        journal.append_record(now_info(), &offset_record("a", "orders-1", 78));
        let settings = Settings::default();
        let (whole, _) = replay(&journal, None, &settings).unwrap();
        let mut log = journal;
        for _ in 0..3 {
            let tombstones_until = dice.below(log.end().get() as u64 + 1) as i64;
            log = log.compacted(|| dice.below(3) == 0, tombstones_until);
            let (holed, _) = replay(&log, None, &settings).unwrap();
            assert_eq!(visible(&holed), visible(&whole), "seed {seed}");
            assert_eq!(holed.next_offset(), whole.next_offset());
        }
    }
}

/// A record that does not decode is an error that names its place. It never means "start from zero", and what stands
/// before it can still be saved.
#[test]
fn a_damaged_log_is_an_error_with_its_place() {
    let world = World::new();
    world.commits("search", "orders-0", 42);
    let journal = world.journal.restarted();
    journal.append_raw(now_info(), &world.journal.records()[0].key, Some(&[0, 4, 1, 2, 3]));
    journal.append_record(now_info(), &offset_record("archive", "orders-0", 1));
    let failed = replay(&journal, None, &Settings::default()).unwrap_err();
    let Error::Corrupt { place, expected, .. } = &failed.error else { panic!("{failed}") };
    assert_eq!((place.position, expected.as_str()), (1, "offset of 8 bytes"));
    assert_eq!(visible(&failed.last_good), visible(&world.coordinator.state()));
    assert_eq!(failed.last_good.next_offset(), Offset::new(1));
    assert!(failed.to_string().contains("1 groups are intact up to place 1"), "{failed}");

    let (topics, clock) = (world.topics.clone(), world.clock.clone());
    let end = journal.end();
    let journal = std::sync::Arc::new(journal);
    let refused = World::open(journal.clone(), topics, clock, Settings::default(), None).unwrap_err();
    assert_eq!(refused.last_good.next_offset(), Offset::new(1));
    assert_eq!(journal.end(), end, "nothing was appended to it");
}

/// A log whose beginning was deleted is read from where it begins.
#[test]
fn a_log_that_begins_late_is_read() {
    let journal = FakeJournal::new();
    journal.append_record(now_info(), &offset_record("a", "orders-0", 1));
    journal.append_record(now_info(), &offset_record("b", "orders-0", 2));
    let mut state = State::new(Settings::default());
    let last = &journal.records()[1];
    state.replay(last.at, &last.info, Some(&last.key), last.value.as_deref()).unwrap();
    assert_eq!((state.horizon(), state.next_offset()), (Offset::new(1), Offset::new(2)));
    assert!(state.group("a").is_none() && state.group("b").is_some());
}

/// A record without key names nothing; Kafka never writes one here.
#[test]
fn a_record_without_key_is_a_flaw() {
    let mut state = State::new(Settings::default());
    let flaw = state.replay(Offset::ZERO, &now_info(), None, Some(&[1])).unwrap_err();
    assert!(flaw.to_string().contains("expected a key"), "{flaw}");
    assert_eq!(state, State::new(Settings::default()));
}
