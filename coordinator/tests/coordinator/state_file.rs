//! The state file is worth exactly as much as the log: with it, without it, or with a broken one, the same groups.

use std::path::Path;
use std::sync::Arc;

use girok_coordinator::records::EndTransaction;
use girok_coordinator::state_file::{decode, encode};
use girok_coordinator::{BatchInfo, Settings, State, StateFile, replay};
use girok_engine::disk::{self, Disk, MemoryDisk};
use girok_engine::{Error, Offset, Timestamp};

use crate::model::live_a_little;
use crate::support::{Dice, FakeJournal, World, golden, now_info, offset_record, visible};

fn file() -> StateFile {
    let disk = Arc::new(MemoryDisk::new());
    disk.create_dir(Path::new("/log")).unwrap();
    StateFile { disk, path: "/log/girok-groups.state".into(), boot: 3 }
}

fn bytes(file: &StateFile) -> Vec<u8> {
    disk::read_file(&*file.disk, &file.path, 1 << 20).unwrap()
}

/// Written at any moment and read with the rest of the log behind it, it gives what the log alone gives: groups,
/// places, checksums and remembered deletions.
#[test]
fn file_and_tail_are_the_log() {
    for seed in 0..20 {
        let (file, dice) = (file(), Dice::new(seed));
        let world = World::with(Settings::default(), FakeJournal::new(), Some(file.clone()));
        live_a_little(&world, &dice, 40, |_| {});
        let covered = world.coordinator.save_state().unwrap().unwrap();
        assert_eq!(covered, world.journal.end());
        live_on(&world);

        let journal = world.journal.restarted();
        let settings = Settings::default();
        let (alone, _) = replay(&journal, None, &settings).unwrap();
        let (with_file, report) = replay(&journal, Some(&file), &settings).unwrap();
        assert_eq!(report.state_file_covered, Some(covered));
        assert!(report.state_file_refused.is_none());
        assert_eq!(report.records_replayed as i64, journal.end() - covered);
        assert_eq!(with_file, alone, "seed {seed}");
        assert_eq!(with_file, world.coordinator.state(), "seed {seed}");
    }
}

/// A tail behind the file: commits over what is in it and beside it, and deletions of it.
fn live_on(world: &World) {
    for (n, group) in ["a", "b", "tail"].into_iter().enumerate() {
        world.commits(group, "orders-0", n as i64);
    }
    drop(world.coordinator.delete_group("a"));
    drop(world.coordinator.delete_group("c"));
}

/// What another broker wrote is kept to the byte, whatever it is: fields from the future, old versions, types of
/// groups that are not ours.
#[test]
fn foreign_records_are_kept_to_the_byte() {
    let mut state = State::new(Settings::default());
    for raw in golden() {
        let info = BatchInfo {
            timestamp: Timestamp::from_millis(raw.timestamp),
            producer_id: raw.producer_id,
            transactional: raw.transactional,
            control: raw.control,
        };
        state.replay(Offset::new(raw.offset), &info, raw.key.as_deref(), raw.value.as_deref()).unwrap();
    }
    let next = state.next_offset();
    // An offset of version 2, one with a tagged field from the future, a share group.
    let key = |partition| [0, 1, 0, 1, b'g', 0, 1, b't', 0, 0, 0, partition];
    let old = [0, 2, 0, 0, 0, 0, 0, 0, 0, 42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    let new = [&[0, 4][..], &[0; 8], &[0; 4], &[1], &[0; 8], &[1, 9, 2, 1, 2]].concat();
    state.replay(next, &now_info(), Some(&key(0)), Some(&old)).unwrap();
    state.replay(next + 1, &now_info(), Some(&key(1)), Some(&new)).unwrap();
    state.replay(next + 2, &now_info(), Some(&[0, 11, 0, 1, b's']), Some(b"what is this")).unwrap();

    let bytes = encode(&state, 1, |_| 0).unwrap();
    let (decoded, origin) = decode(&bytes, Settings::default(), Path::new("f")).unwrap();
    assert_eq!(decoded, state);
    assert_eq!((origin.covered, origin.boot, origin.log_epoch), (next + 3, 1, 0));
    for wanted in [&old[..], &new[..], b"what is this"] {
        assert!(bytes.windows(wanted.len()).any(|window| window == wanted), "{wanted:?}");
    }
}

/// An open transaction has no place in a file of last records: the file stops before it, and the tail has it.
#[test]
fn an_open_transaction_stays_in_the_tail() {
    let journal = FakeJournal::new();
    journal.append_record(now_info(), &offset_record("a", "orders-0", 1));
    let open = BatchInfo { producer_id: 5, transactional: true, ..now_info() };
    journal.append_record(open, &offset_record("a", "orders-0", 2));
    journal.append_record(now_info(), &offset_record("b", "orders-0", 3));
    journal.append_record(now_info(), &offset_record("b", "orders-0", 4));
    let (file, settings) = (file(), Settings::default());
    let world = World::with(settings.clone(), journal, Some(file.clone()));
    world.coordinator.save_state().unwrap();
    let journal = world.journal.restarted();
    journal.append_marker(5, EndTransaction::Commit);
    let (with_file, report) = replay(&journal, Some(&file), &settings).unwrap();
    let (alone, _) = replay(&journal, None, &settings).unwrap();
    assert_eq!(report.state_file_covered, Some(Offset::new(1)));
    assert_eq!(visible(&with_file), visible(&alone));
    assert_eq!(with_file.group("a").unwrap().offsets().next().unwrap().1.offset, Offset::new(2));
}

/// Any bit flipped, any byte missing: the file is refused by name, and the log tells the same without it.
#[test]
fn a_damaged_file_is_refused_and_the_log_read() {
    let file = file();
    let world = World::with(Settings::default(), FakeJournal::new(), Some(file.clone()));
    for n in 0..3 {
        world.commits("search", "orders-0", n);
        world.commits("archive", "orders-1", n);
    }
    world.coordinator.save_state().unwrap();
    let good = bytes(&file);
    let journal = world.journal.restarted();
    let lived = world.coordinator.state();
    let put = |bytes: &[u8]| disk::replace_file(&*file.disk, &file.path, bytes).unwrap();
    let refused = |what: &str| {
        let (state, report) = replay(&journal, Some(&file), &Settings::default()).unwrap();
        assert_eq!(state, lived, "{what}");
        assert_eq!(report.state_file_covered, None, "{what}");
        report.state_file_refused.unwrap_or_else(|| panic!("{what} was not noticed"))
    };
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        put(&bad);
        let error = refused(&format!("byte {at}"));
        assert!(matches!(error, Error::Corrupt { .. } | Error::NewerFormat { .. }), "{error}");
        assert!(error.to_string().contains("girok-groups.state"), "{error}");
    }
    for len in (0..good.len()).step_by(7) {
        put(&good[..len]);
        refused(&format!("cut at {len}"));
    }
    put(&[&good[..], &[0]].concat());
    refused("a byte too many");

    let mut newer = good.clone();
    newer[11] = 2;
    put(&newer);
    assert!(matches!(refused("a newer version"), Error::NewerFormat { found: 2, .. }));
    put(&good);
    assert_eq!(replay(&journal, Some(&file), &Settings::default()).unwrap().1.records_replayed, 0);
}

/// Commits that the log has lost must not come back from the file: a file that knows more than the log, or another
/// log, is refused.
#[test]
fn a_file_about_another_log_is_refused() {
    let (file, settings) = (file(), Settings::default());
    let world = World::with(settings.clone(), FakeJournal::new(), Some(file.clone()));
    for n in 0..10 {
        world.commits("search", "orders-0", n);
    }
    world.coordinator.save_state().unwrap();

    let shorter = world.journal.prefix(6);
    let (state, report) = replay(&shorter, Some(&file), &settings).unwrap();
    assert_eq!(state, replay(&shorter, None, &settings).unwrap().0);
    let refused = report.state_file_refused.unwrap().to_string();
    assert!(refused.contains("up to offset 6 at most, where the log ends, found 10"), "{refused}");

    // The log was cut by a power cut and has grown again since, past where the file ends.
    let grown = World::with(settings.clone(), world.journal.prefix(6).after_power_cut(), None);
    for n in 0..10 {
        grown.commits("archive", "orders-0", n);
    }
    let (state, report) = replay(&*grown.journal, Some(&file), &settings).unwrap();
    assert_eq!(state, grown.coordinator.state());
    let refused = report.state_file_refused.unwrap().to_string();
    assert!(refused.contains("leader epoch 1"), "{refused}");

    let older = StateFile { boot: 2, ..file };
    let (_, report) = replay(&*world.journal, Some(&older), &settings).unwrap();
    assert!(report.state_file_refused.unwrap().to_string().contains("a boot up to 2"));
}

/// The file is not written before what it tells is durable.
#[test]
fn the_file_waits_for_the_log() {
    let file = file();
    let world = World::with(Settings::default(), FakeJournal::new(), Some(file.clone()));
    world.journal.hold_syncs();
    drop(world.begin_commit("search", "orders-0", 1));
    std::thread::scope(|scope| {
        let saver = scope.spawn(|| world.coordinator.save_state());
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(disk::read_file(&*file.disk, &file.path, 1 << 20).is_err(), "not yet");
        world.journal.sync();
        assert_eq!(saver.join().unwrap().unwrap(), Some(Offset::new(1)));
    });
    world.journal.poison();
    assert_eq!(bytes(&file)[..8], *b"girokgrp");
}

/// Deletions that were forgotten stay forgotten, and the file says since when.
#[test]
fn the_horizon_is_kept() {
    let file = file();
    let world = World::with(Settings::default(), FakeJournal::new(), Some(file.clone()));
    let receipt = world.commits("search", "orders-0", 1);
    world.coordinator.delete_group("search").unwrap().wait().unwrap();
    world.commits("archive", "orders-0", 1);
    for _ in 0..60 {
        world.clock.pass(std::time::Duration::from_mins(30));
        world.coordinator.expire().unwrap();
    }
    world.coordinator.save_state().unwrap();
    let (again, report) = world.reopened(world.journal.restarted());
    assert!(report.state_file_covered.is_some());
    assert_eq!(again.coordinator.verify(&receipt).wait().unwrap(), girok_coordinator::Verdict::Unknown);
    assert_eq!(again.coordinator.state(), world.coordinator.state());
}
