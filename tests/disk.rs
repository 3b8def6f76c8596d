//! The promise: every disk behind the seam behaves as the engine was told. One suite of scenes runs over all three of
//! them, then the simulated one shows what it loses and what it keeps, and the ring that it is really used.
#![allow(unsafe_code)] // stores and loads through mappings, as the engine makes them

mod support;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use girok_engine::batch::{BatchBuilder, Codec};
use girok_engine::disk::{
    Access, Disk, File, Kind, LockError, Map, MemoryDisk, Open, RingUse, SystemDisk, SystemDiskOptions,
    read_file, read_full_at, replace_file, write_all_at,
};
use girok_engine::wait::Ticket;
use girok_engine::{Durability, Env, Log, LogConfig, Partition, RegionMode, TopicConfig, TopicPartition};
use rustix::io::Errno;
use support::{Faults, Op, Rng, SimDisk, SimWorld};

/// A disk and a folder on it.
struct Place {
    disk: Box<dyn Disk>,
    dir: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> Arc<dyn File> {
        let file = self.disk.open(&self.path(name), Open::CreateNew).unwrap();
        write_all_at(&*file, bytes, 0).unwrap();
        file
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        read_file(&*self.disk, &self.path(name), 1 << 30)
    }
}

/// Plays the scene on every kind of disk.
fn on_every_disk(scene: impl Fn(&Place)) {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().to_path_buf();
    let memory: Box<dyn Disk> = Box::new(MemoryDisk::new());
    let simulated: Box<dyn Disk> = Box::new(SimDisk::new(1));
    for place in [
        Place { disk: Box::new(SystemDisk::new()), dir, _temporary: Some(temporary) },
        Place { disk: memory, dir: "/log".into(), _temporary: None },
        Place { disk: simulated, dir: "/log".into(), _temporary: None },
    ] {
        println!("on {:?}", place.disk);
        place.disk.create_dir(&place.dir).unwrap();
        scene(&place);
    }
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|e| e.raw_os_error())
}

fn is<T>(result: io::Result<T>, expected: Errno) -> bool {
    errno(result) == Some(expected.raw_os_error())
}

fn store(map: &Map, bytes: &[u8], at: usize) {
    assert!(at + bytes.len() <= map.len());
    // SAFETY: within the mapping, and these scenes run on one thread.
    unsafe { map.as_ptr().add(at).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
}

fn load(map: &Map, at: usize, len: usize) -> Vec<u8> {
    assert!(at + len <= map.len());
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts(map.as_ptr().add(at), len).to_vec() }
}

/// What is written is read, wherever it was written; holes are zeros; the end is the end.
#[test]
fn what_is_written_is_read() {
    on_every_disk(|place| {
        let file = place.file("a", b"hello");
        write_all_at(&*file, b"world", 10_000).unwrap();
        assert_eq!(file.len().unwrap(), 10_005);
        let mut bytes = vec![7; 20_000];
        assert_eq!(read_full_at(&*file, &mut bytes, 0).unwrap(), 10_005);
        assert_eq!(&bytes[..5], b"hello");
        assert!(bytes[5..10_000].iter().all(|b| *b == 0));
        assert_eq!(&bytes[10_000..10_005], b"world");
        assert_eq!(file.read_at(&mut bytes, 10_005).unwrap(), 0);
        assert_eq!(file.read_at(&mut bytes, u64::from(u32::MAX)).unwrap(), 0);
        file.sync().unwrap();
        assert!(place.disk.counters().syncs >= 1);
    });
}

/// Each way of opening does what it says and refuses the rest.
#[test]
fn opening_keeps_its_word() {
    on_every_disk(|place| {
        let open = |name: &str, how| place.disk.open(&place.path(name), how);
        assert!(is(open("a", Open::Read), Errno::NOENT));
        assert!(is(open("a", Open::Write), Errno::NOENT));
        write_all_at(&*open("a", Open::Create).unwrap(), b"kept", 0).unwrap();
        assert!(is(open("a", Open::CreateNew), Errno::EXIST));
        assert_eq!(open("a", Open::Create).unwrap().len().unwrap(), 4);
        assert!(is(open("a", Open::Read).unwrap().write_at(b"x", 0), Errno::BADF));
        assert!(is(open("a", Open::Read).unwrap().map(8, Access::Write), Errno::ACCESS));
        assert!(is(open("missing/a", Open::CreateNew), Errno::NOENT));
        assert!(is(open("a/a", Open::Read), Errno::NOTDIR));
        place.disk.create_dir(&place.path("folder")).unwrap();
        assert!(is(open("folder", Open::Read), Errno::ISDIR));
        assert!(is(open("folder", Open::Write), Errno::ISDIR));
    });
}

/// Mappings, reads and writes see the same bytes at once, and a cut clears what lay behind it.
#[test]
fn mappings_reads_and_writes_agree() {
    on_every_disk(|place| {
        let file = place.file("a", b"");
        file.allocate(0, 8192).unwrap();
        assert_eq!(file.len().unwrap(), 8192);
        let (writing, reading) =
            (file.map(8192, Access::Write).unwrap(), file.map(8192, Access::Read).unwrap());
        store(&writing, b"stored", 4090);
        assert_eq!(load(&reading, 4090, 6), b"stored");
        let mut bytes = [0; 6];
        file.read_at(&mut bytes, 4090).unwrap();
        assert_eq!(&bytes, b"stored");
        write_all_at(&*file, b"called", 100).unwrap();
        assert_eq!(load(&writing, 100, 6), b"called");

        file.set_len(4093).unwrap();
        file.allocate(0, 8192).unwrap();
        assert_eq!(load(&reading, 4090, 6), b"sto\0\0\0");
    });
}

/// A mapping made while the file was small sees it grow, up to the mapping's length, and outlives the handle.
#[test]
fn a_file_grows_under_its_mapping() {
    on_every_disk(|place| {
        let file = place.file("a", b"small");
        let early = file.map(1 << 16, Access::Write).unwrap();
        file.allocate(0, 1 << 16).unwrap();
        write_all_at(&*file, b"later", 50_000).unwrap();
        assert_eq!(load(&early, 0, 5), b"small");
        assert_eq!(load(&early, 50_000, 5), b"later");
        let late = place.disk.open(&place.path("a"), Open::Read).unwrap().map(1 << 16, Access::Read).unwrap();
        drop(file);
        store(&early, b"!", 65_535);
        assert_eq!(load(&late, 65_535, 1), b"!");
    });
}

/// A longer mapping may be made while a shorter one is held, as when a sealed file becomes the active one again.
#[test]
fn a_longer_mapping_joins_a_shorter() {
    on_every_disk(|place| {
        let file = place.file("a", b"0123456789");
        let short = file.map(10, Access::Read).unwrap();
        let long = file.map(100_000, Access::Write).unwrap();
        file.allocate(0, 100_000).unwrap();
        store(&long, b"x", 3);
        assert_eq!(load(&short, 0, 10), b"012x456789");
    });
}

/// `allocate` grows with zeros, never overwrites and never shrinks.
#[test]
fn allocation_adds_zeros_only() {
    on_every_disk(|place| {
        let file = place.file("a", b"kept");
        file.allocate(0, 3).unwrap();
        assert_eq!(file.len().unwrap(), 4);
        file.allocate(2, 1000).unwrap();
        let bytes = place.read("a").unwrap();
        assert_eq!((bytes.len(), &bytes[..4]), (1002, &b"kept"[..]));
        assert!(bytes[4..].iter().all(|b| *b == 0));
        file.allocate(5000, 0).unwrap();
        assert_eq!(file.len().unwrap(), 1002);
        assert!(errno(file.allocate(1, u64::MAX)).is_some());
        assert!(errno(file.write_at(b"x", u64::MAX)).is_some());
        assert!(errno(file.set_len(u64::MAX)).is_some());
        assert_eq!(file.len().unwrap(), 1002);
    });
}

/// Renaming replaces, in one step, and who has the old file open keeps it.
#[test]
fn renaming_replaces() {
    on_every_disk(|place| {
        let old = place.file("a", b"old");
        place.file("b", b"new");
        place.disk.rename(&place.path("b"), &place.path("a")).unwrap();
        assert_eq!(place.read("a").unwrap(), b"new");
        assert!(is(place.read("b"), Errno::NOENT));
        let mut bytes = [0; 3];
        old.read_at(&mut bytes, 0).unwrap();
        assert_eq!((&bytes, old.links().unwrap()), (b"old", 0));
        assert!(is(place.disk.rename(&place.path("b"), &place.path("c")), Errno::NOENT));

        replace_file(&*place.disk, &place.path("a"), b"newer").unwrap();
        assert_eq!(place.read("a").unwrap(), b"newer");
        let names: Vec<_> = place.disk.list(&place.dir).unwrap().into_iter().map(|e| e.name).collect();
        assert_eq!(names, ["a"]);
    });
}

/// A folder moves with all that is in it, into a free place or over an empty folder only.
#[test]
fn folders_move_whole() {
    on_every_disk(|place| {
        let disk = &place.disk;
        disk.create_dir(&place.path("t-0/deep")).unwrap();
        place.file("t-0/deep/a", b"inside");
        disk.rename(&place.path("t-0"), &place.path("t-0.delete")).unwrap();
        assert_eq!(place.read("t-0.delete/deep/a").unwrap(), b"inside");
        assert!(!disk.is_dir(&place.path("t-0")));
        disk.create_dir(&place.path("full/inner")).unwrap();
        assert!(is(disk.rename(&place.path("t-0.delete"), &place.path("full")), Errno::NOTEMPTY));
        disk.create_dir(&place.path("empty")).unwrap();
        disk.rename(&place.path("t-0.delete"), &place.path("empty")).unwrap();
        assert_eq!(place.read("empty/deep/a").unwrap(), b"inside");
        assert!(is(disk.rename(&place.path("empty"), &place.path("empty/deep/x")), Errno::INVAL));
        disk.rename(&place.path("empty/deep/a"), &place.path("full/a")).unwrap();
        assert_eq!(place.read("full/a").unwrap(), b"inside");
    });
}

/// Two names of one file share its bytes, and it goes with the last of them.
#[test]
fn hard_links_share_bytes() {
    on_every_disk(|place| {
        let disk = &place.disk;
        let file = place.file("a", b"shared");
        disk.hard_link(&place.path("a"), &place.path("b")).unwrap();
        assert_eq!(file.links().unwrap(), 2);
        assert!(is(disk.hard_link(&place.path("a"), &place.path("b")), Errno::EXIST));
        write_all_at(&*file, b"S", 0).unwrap();
        disk.rename(&place.path("a"), &place.path("b")).unwrap();
        assert_eq!(file.links().unwrap(), 2, "renaming onto another name of the same file does nothing");
        disk.remove(&place.path("a")).unwrap();
        assert_eq!((place.read("b").unwrap(), file.links().unwrap()), (b"Shared".to_vec(), 1));
    });
}

/// Open files and mappings keep a removed file's bytes; the name is free at once.
#[test]
fn removing_keeps_the_bytes_of_who_has_them() {
    on_every_disk(|place| {
        let file = place.file("a", b"keep me");
        let map = file.map(7, Access::Read).unwrap();
        place.disk.remove(&place.path("a")).unwrap();
        place.file("a", b"another");
        drop(file);
        assert_eq!(load(&map, 0, 7), b"keep me");
        assert!(is(place.disk.remove(&place.path("missing")), Errno::NOENT));
    });
}

/// A folder lists its names in order, with kinds and lengths, and goes only when it is empty.
#[test]
fn folders_list_in_order() {
    on_every_disk(|place| {
        let disk = &place.disk;
        place.file("b", b"12");
        place.file("a", b"1");
        disk.create_dir(&place.path("c")).unwrap();
        disk.create_dir(&place.path("c")).unwrap();
        place.file("c/x", b"");
        let listed = disk.list(&place.dir).unwrap();
        let listed: Vec<_> = listed.iter().map(|e| (e.name.as_str(), e.kind, e.len)).collect();
        assert_eq!(listed, [("a", Kind::File, 1), ("b", Kind::File, 2), ("c", Kind::Folder, 0)]);
        assert!(disk.is_dir(&place.path("c")) && !disk.is_dir(&place.path("a")));
        assert!(is(disk.remove_dir(&place.path("c")), Errno::NOTEMPTY));
        disk.remove(&place.path("c/x")).unwrap();
        disk.remove_dir(&place.path("c")).unwrap();
        assert!(is(disk.list(&place.path("c")), Errno::NOENT));
        assert!(is(disk.sync_dir(&place.path("c")), Errno::NOENT));
        disk.sync_dir(&place.dir).unwrap();
        assert_eq!(disk.counters().dir_syncs, 1);
    });
}

/// A second opener is refused and told who holds the lock, in the same process too; when the holder lets go, or has
/// left a stale file behind, the next one gets it.
#[test]
fn a_second_opener_is_told_who_was_first() {
    on_every_disk(|place| {
        let path = place.path(".lock");
        place.file(".lock", b"a stale holder with a longer text than the next one");
        let lock = place.disk.lock(&path, "process 41, girok").unwrap();
        match place.disk.lock(&path, "process 42") {
            Err(LockError::Held(holder)) => assert_eq!(holder, "process 41, girok"),
            other => panic!("expected to be refused, found {other:?}"),
        }
        drop(lock);
        let _again = place.disk.lock(&path, "process 43").unwrap();
        assert_eq!(place.read(".lock").unwrap(), b"process 43");
        assert!(matches!(place.disk.lock(&place.path("missing/.lock"), ""), Err(LockError::Io(_))));
    });
}

/// Many files sync together, each with its own result, and a write can bring its sync along.
#[test]
fn many_files_sync_together() {
    on_every_disk(|place| {
        let files: Vec<_> = (0..300).map(|n| place.file(&format!("{n}"), b"bytes")).collect();
        let before = place.disk.counters().syncs;
        let borrowed: Vec<&dyn File> = files.iter().map(|f| &**f).collect();
        let results = place.disk.sync_many(&borrowed);
        assert!(results.len() == 300 && results.iter().all(|r| r.is_ok()));
        assert_eq!(place.disk.counters().syncs - before, 300);

        place.disk.write_and_sync(&*files[7], b"over and out", 3).unwrap();
        place.disk.write_and_sync(&*files[8], b"", 3).unwrap();
        assert_eq!(place.read("7").unwrap(), b"bytover and out");
        assert_eq!(place.disk.counters().syncs - before, 302);

        let wanted: Vec<_> = borrowed.iter().map(|f| (*f, 0, 5000)).collect();
        assert!(place.disk.allocate_many(&wanted).iter().all(|r| r.is_ok()));
        assert!(files.iter().all(|f| f.len().unwrap() == 5000 || f.len().unwrap() == 5003));
    });
}

/// A full disk refuses to allocate and to write, keeps what it has, and works again when there is room.
#[test]
fn a_full_disk_says_so_and_recovers() {
    let full = |disk: &dyn Disk, grow: &dyn Fn(u64)| {
        let dir = Path::new("/log");
        disk.create_dir(dir).unwrap();
        let file = disk.open(&dir.join("a"), Open::CreateNew).unwrap();
        write_all_at(&*file, &[1; 6000], 0).unwrap();
        assert!(is(file.allocate(0, 12_000), Errno::NOSPC));
        assert_eq!(file.len().unwrap(), 6000, "a refused allocation leaves the file as it was");
        assert_eq!(file.write_at(&[2; 6000], 6000).unwrap(), 4000, "what fits is written");
        assert!(is(file.write_at(&[2; 6000], 10_000), Errno::NOSPC));
        write_all_at(&*file, &[3; 10], 0).unwrap();
        assert_eq!(file.len().unwrap(), 10_000);
        grow(20_000);
        file.allocate(0, 12_000).unwrap();
        let map = file.map(12_000, Access::Read).unwrap();
        drop(file);
        disk.remove(&dir.join("a")).unwrap();
        let next = disk.open(&dir.join("b"), Open::CreateNew).unwrap();
        assert!(is(next.allocate(0, 20_000), Errno::NOSPC), "a mapping holds its file's room");
        drop(map);
        next.allocate(0, 20_000).unwrap();
    };
    let memory = MemoryDisk::with_capacity(10_000);
    full(&memory, &|bytes| memory.set_capacity(bytes));
    let simulated = SimDisk::new(1);
    simulated.set_capacity(10_000);
    full(&simulated, &|bytes| simulated.set_capacity(bytes));
    assert_eq!((memory.used_bytes(), simulated.used_bytes()), (20_000, 20_000));
}

/// Large files in memory live in reserved address space from the start, and give their memory back when cut.
#[test]
fn large_files_in_memory_come_and_go() {
    let disk = MemoryDisk::new();
    let file = disk.open(Path::new("large"), Open::CreateNew).unwrap();
    file.set_len(1 << 34).unwrap();
    assert_eq!(disk.used_bytes(), 0, "a hole takes no room");
    write_all_at(&*file, b"far out", (1 << 34) - 7).unwrap();
    let mut bytes = [0; 7];
    assert_eq!(file.read_at(&mut bytes, (1 << 34) - 7).unwrap(), 7);
    assert_eq!(&bytes, b"far out");
    file.set_len(3).unwrap();
    file.set_len(1 << 34).unwrap();
    file.read_at(&mut bytes, (1 << 34) - 7).unwrap();
    assert_eq!(bytes, [0; 7], "what was cut is gone when the file grows again");
}

/// Memory, for the tests of others, is one disk in all its clones.
#[test]
fn clones_of_a_memory_disk_are_one_disk() {
    let disk = MemoryDisk::new();
    let clone = disk.clone();
    replace_file(&disk, Path::new("note"), b"seen").unwrap();
    assert_eq!(read_file(&clone, Path::new("/note"), 10).unwrap(), b"seen");
    let lock = disk.lock(Path::new("lock"), "me").unwrap();
    assert!(matches!(clone.lock(Path::new("lock"), "you"), Err(LockError::Held(holder)) if holder == "me"));
    drop(lock);
    clone.lock(Path::new("lock"), "you").unwrap();
}

// What the system's disk does beyond the contract.

/// Many syncs go through the ring in one submission. Where the machine refuses `io_uring` the test says so, and
/// the plain syncs are counted instead.
#[test]
fn many_syncs_are_one_submission() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SystemDisk::new();
    let files: Vec<_> = (0..16)
        .map(|n| {
            let file = disk.open(&dir.path().join(n.to_string()), Open::CreateNew).unwrap();
            write_all_at(&*file, b"dirty", 0).unwrap();
            file
        })
        .collect();
    let borrowed: Vec<&dyn File> = files.iter().map(|f| &**f).collect();
    assert!(disk.sync_many(&borrowed).iter().all(|r| r.is_ok()));
    disk.write_and_sync(&*files[3], b"linked", 5).unwrap();
    let counters = disk.counters();
    assert_eq!(counters.syncs, 17);
    assert_eq!(counters.written_bytes, 16 * 5 + 6);
    match disk.ring_refused() {
        Some(why) => {
            println!("io_uring is refused here ({why}): plain syncs were counted instead");
            assert_eq!((counters.ring_submissions, counters.ring_syncs), (0, 0));
        }
        None => assert_eq!((counters.ring_submissions, counters.ring_syncs), (2, 17)),
    }
    assert_eq!(read_file(&disk, &dir.path().join("3"), 100).unwrap(), b"dirtylinked");
}

/// Eight partitions somebody waits for cost one submission, not eight syncs: the background's step collects them. Where
/// the machine refuses `io_uring` the test says so, and the plain syncs are counted instead.
#[test]
fn a_step_syncs_all_dirty_partitions_at_once() {
    const PARTITIONS: i32 = 8;
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(SystemDisk::new());
    let env = Env { disk: disk.clone(), ..Env::system() };
    let clock = env.clock.clone();
    let mapped = LogConfig { region: RegionMode::Mapped, ..LogConfig::default() };
    let (log, _) = Log::open(env, dir.path(), mapped).unwrap();
    let config = TopicConfig { durability: Durability::Synced, ..TopicConfig::default() };
    log.create_topic("orders", PARTITIONS, config).unwrap();
    let partitions: Vec<_> =
        (0..PARTITIONS).map(|n| log.partition(&TopicPartition::new("orders", n)).unwrap()).collect();
    let append = |partition: &Partition| {
        let mut builder = BatchBuilder::new(Codec::None);
        // Of today: the step's retention would roll what is older than a week, and a new file goes its own way.
        builder.append(clock.wall(), None, Some(b"two coffees"), &[]).unwrap();
        partition.append(&builder.finish().unwrap()).unwrap();
    };
    // A file's first sync also syncs its name: that one goes its own way. So do zeros ahead of the appenders.
    for partition in &partitions {
        append(partition);
        partition.sync().unwrap();
    }
    log.step(clock.now()).unwrap();

    let mut context = Context::from_waker(Waker::noop());
    let mut poll = |partition: &Partition| {
        let mut ticket = Ticket::default();
        let end = partition.end_offset();
        let ready = partition.poll_durable(end, Durability::Synced, &mut ticket, &mut context);
        partition.leave_durable(&mut ticket);
        matches!(ready, Poll::Ready(Ok(())))
    };
    partitions.iter().for_each(append);
    assert!(!partitions.iter().any(&mut poll), "nobody synced them yet");
    let before = log.stats().disk;
    log.step(clock.now()).unwrap();
    let after = log.stats().disk;
    assert!(partitions.iter().all(&mut poll));
    match disk.ring_refused() {
        Some(why) => {
            println!("io_uring is refused here ({why}): plain syncs were counted instead");
            assert!(after.syncs - before.syncs >= PARTITIONS as u64);
            assert_eq!((after.ring_submissions, after.ring_syncs), (0, 0));
        }
        None => {
            assert_eq!(after.ring_submissions - before.ring_submissions, 1);
            assert_eq!(after.ring_syncs - before.ring_syncs, PARTITIONS as u64);
        }
    }
    log.close().unwrap();
}

/// Without the ring the same calls do the same.
#[test]
fn without_the_ring_nothing_changes_but_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SystemDisk::with_options(SystemDiskOptions { ring: RingUse::Never });
    let [a, b] = ["a", "b"].map(|name| disk.open(&dir.path().join(name), Open::CreateNew).unwrap());
    assert!(disk.sync_many(&[&*a, &*b]).iter().all(|r| r.is_ok()));
    disk.write_and_sync(&*a, b"written", 0).unwrap();
    assert!(disk.allocate_many(&[(&*a, 0, 100), (&*b, 0, 200)]).iter().all(|r| r.is_ok()));
    let counters = disk.counters();
    assert_eq!((counters.syncs, counters.ring_submissions, counters.ring_syncs), (3, 0, 0));
    assert_eq!((a.len().unwrap(), b.len().unwrap()), (100, 200));
    assert!(disk.ring_refused().is_some());
}

/// One bad file among many is told by its own result, and the others are synced.
#[test]
fn each_sync_has_its_own_result() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, foreign) = (SystemDisk::new(), SimDisk::new(1));
    let good = disk.open(&dir.path().join("good"), Open::CreateNew).unwrap();
    let bad = foreign.open(Path::new("bad"), Open::CreateNew).unwrap();
    foreign.fail_next_sync();
    let results = disk.sync_many(&[&*good, &*bad, &*good]);
    assert_eq!(results.iter().map(|r| r.is_ok()).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(results[1].as_ref().unwrap_err().raw_os_error(), Some(Errno::IO.raw_os_error()));
    // And through the ring, where there is one: a device that can be opened, but neither allocated nor synced.
    let null = disk.open(Path::new("/dev/null"), Open::Write).unwrap();
    let five: [&dyn File; 5] = [&*good, &*good, &*null, &*good, &*good];
    let expected = [true, true, false, true, true];
    assert_eq!(
        disk.allocate_many(&five.map(|file| (file, 0, 10))).iter().map(|r| r.is_ok()).collect::<Vec<_>>(),
        expected
    );
    assert_eq!(good.len().unwrap(), 10);
    assert_eq!(disk.sync_many(&five).iter().map(|r| r.is_ok()).collect::<Vec<_>>(), expected);
    if disk.ring_refused().is_none() {
        assert_eq!((disk.counters().ring_submissions, disk.counters().ring_syncs), (2, 4));
    }
}

/// The file system decides whether mappings are safe: tmpfs reserves blocks, procfs has none.
#[test]
fn only_known_file_systems_map_safely() {
    let disk = SystemDisk::new();
    assert!(!disk.maps_safely(Path::new("/proc")));
    assert!(!disk.maps_safely(Path::new("/nowhere/at/all")));
    if Path::new("/dev/shm").is_dir() {
        assert!(disk.maps_safely(Path::new("/dev/shm")));
    }
}

/// The name of the variable that makes this binary the child of `a_short_write_breaks_its_link`.
const CHILD: &str = "GIROK_TEST_SHORT_WRITE_CHILD";

/// A linked write that the kernel cuts short cancels its sync; the rest is tried by plain calls, and their error is the
/// caller's. Forced by a limit on the size of files, in a child process because the limit is the whole process's.
#[test]
fn a_short_write_breaks_its_link() {
    const LIMIT: u64 = 64 << 10;
    if let Some(path) = std::env::var_os(CHILD) {
        let disk = SystemDisk::new();
        let file = disk.open(Path::new(&path), Open::CreateNew).unwrap();
        let limit = rustix::process::Rlimit {
            current: Some(LIMIT),
            maximum: rustix::process::getrlimit(rustix::process::Resource::Fsize).maximum,
        };
        rustix::process::setrlimit(rustix::process::Resource::Fsize, limit).unwrap();

        let bytes: Vec<u8> = (0..LIMIT + 5000).map(|n| n as u8).collect();
        let result = disk.write_and_sync(&*file, &bytes, 0);
        assert!(is(result, Errno::FBIG), "the rest does not fit");
        assert_eq!(file.len().unwrap(), LIMIT, "what fits was written");
        let counters = disk.counters();
        assert_eq!((counters.written_bytes, counters.syncs), (LIMIT, 0), "and nothing claims to be synced");
        if disk.ring_refused().is_none() {
            assert_eq!(counters.ring_submissions, 1);
        }

        // With the limit lifted the same call goes through, link and all.
        let limit = rustix::process::Rlimit { current: limit.maximum, ..limit };
        rustix::process::setrlimit(rustix::process::Resource::Fsize, limit).unwrap();
        disk.write_and_sync(&*file, &bytes, 0).unwrap();
        assert_eq!(read_file(&disk, Path::new(&path), 1 << 20).unwrap(), bytes);
        assert_eq!(disk.counters().syncs, 1);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // The shell ignores SIGXFSZ for its child: safe Rust has no way to.
    let output = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" a_short_write_breaks_its_link --exact --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, dir.path().join("limited"))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("1 passed"), "the child ran no scene: {told}");
}

// What the simulated disk loses, and what it keeps.

const A: &str = "/log/a";

/// A disk with a folder that is on the medium.
fn simulated(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.create_dir(Path::new("/log")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

fn created(disk: &SimDisk, path: &str) -> Arc<dyn File> {
    let file = disk.open(Path::new(path), Open::CreateNew).unwrap();
    disk.sync_dir(Path::new("/log")).unwrap();
    file
}

fn bytes_of(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
    read_file(disk, Path::new(path), 1 << 30).ok()
}

/// Written by calls or through a mapping, what was synced is there after every cut, whatever came later.
#[test]
fn the_synced_survives_every_cut() {
    for seed in 0..200 {
        let disk = simulated(seed);
        let rng = Rng::new(seed);
        let file = created(&disk, A);
        let kept = rng.bytes(3000);
        file.allocate(0, 8192).unwrap();
        let map = file.map(8192, Access::Write).unwrap();
        store(&map, &kept[..2000], 0);
        write_all_at(&*file, &kept[2000..], 2000).unwrap();
        file.sync().unwrap();
        // Behind it: neither a later store nor a later write touches it.
        store(&map, &rng.bytes(3000), 3072);
        write_all_at(&*file, &rng.bytes(500), 7000).unwrap();
        for _ in 0..rng.below(4) {
            disk.tick();
        }
        disk.power_cut();
        assert_eq!(&bytes_of(&disk, A).unwrap()[..3000], &kept[..], "seed {seed}");
    }
}

/// What was not synced survives whole, not at all, or in pieces of a sector; each of these happens, and a sector is
/// never anything but the old one or the new one.
#[test]
fn the_unsynced_survives_by_sectors() {
    let (mut none, mut all, mut torn, mut shorter, mut zeros_behind) = (0, 0, 0, 0, 0);
    for seed in 0..300 {
        let disk = simulated(seed);
        let file = created(&disk, A);
        write_all_at(&*file, &[1; 4096], 0).unwrap();
        file.sync().unwrap();
        write_all_at(&*file, &[2; 8192], 0).unwrap();
        disk.power_cut();
        let bytes = bytes_of(&disk, A).unwrap();
        assert!((4096..=8192).contains(&bytes.len()));
        let sectors: Vec<u8> = bytes
            .chunks(512)
            .map(|sector| {
                assert!(sector.iter().all(|b| *b == sector[0]), "seed {seed}: half a sector was written");
                sector[0]
            })
            .collect();
        assert!(sectors[..8].iter().all(|s| [1, 2].contains(s)), "old or new: {sectors:?}");
        assert!(sectors[8..].iter().all(|s| [0, 2].contains(s)), "zero or new: {sectors:?}");
        none += i32::from(!sectors.contains(&2));
        all += i32::from(sectors == [2; 16]);
        torn += i32::from(sectors.contains(&1) && sectors.contains(&2));
        shorter += i32::from(bytes.len() < 8192);
        zeros_behind += i32::from(sectors[8..].contains(&0));
    }
    let seen = [none, all, torn, shorter, zeros_behind];
    assert!(seen.iter().all(|n| *n > 10), "each kind of survival must be common: {seen:?}");
}

/// A synced file is lost if its folder was not; a synced folder keeps the name; and names survive in order.
#[test]
fn names_survive_as_a_journal_does() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..100 {
        let disk = simulated(seed);
        for name in ["a", "b", "c"] {
            let file = disk.open(&Path::new("/log").join(name), Open::CreateNew).unwrap();
            write_all_at(&*file, name.as_bytes(), 0).unwrap();
            file.sync().unwrap();
        }
        disk.power_cut();
        let names: Vec<_> = disk.list(Path::new("/log")).unwrap().into_iter().map(|e| e.name).collect();
        assert!(
            ["a", "b", "c"].starts_with(&names.iter().map(String::as_str).collect::<Vec<_>>()),
            "{names:?}"
        );
        for name in &names {
            assert_eq!(bytes_of(&disk, &format!("/log/{name}")).unwrap(), name.as_bytes());
        }
        lost += i32::from(names.is_empty());
        kept += i32::from(names.len() == 3);
    }
    assert!(lost > 10 && kept > 10, "both must happen: {lost} and {kept}");

    for seed in 0..50 {
        let disk = simulated(seed);
        created(&disk, A);
        disk.remove(Path::new(A)).unwrap();
        disk.sync_dir(Path::new("/log")).unwrap();
        disk.power_cut();
        assert_eq!(bytes_of(&disk, A), None, "a removal that was synced stays");
    }
}

/// A replaced file is the old one or the new one, whole, wherever the power goes.
#[test]
fn replacing_is_atomic_at_every_step() {
    for seed in 0..300 {
        let disk = simulated(seed);
        replace_file(&disk, Path::new(A), &[1; 1500]).unwrap();
        // It takes six operations: each of them fails, and in one run of seven none does.
        if seed % 7 < 6 {
            disk.fail_nth(1 + seed % 7, Errno::IO);
        }
        let done = replace_file(&disk, Path::new(A), &[2; 2500]);
        disk.tick();
        disk.power_cut();
        let bytes = bytes_of(&disk, A).expect("one of the two");
        assert!(bytes == [1; 1500] || bytes == [2; 2500], "seed {seed}: {} bytes", bytes.len());
        assert!(done.is_err() || bytes == [2; 2500], "seed {seed}: it said it was done");
        assert_eq!(done.is_ok(), seed % 7 == 6, "seed {seed}");
    }
}

/// After a failed sync the kernel takes the pages for clean: the next sync says it is fine, reads show the bytes, and a
/// power cut shows that they were lost. Writing them again is what helps.
#[test]
fn a_failed_sync_drops_the_pages() {
    let mut lost = 0;
    for seed in 0..100 {
        let disk = simulated(seed);
        let file = created(&disk, A);
        file.allocate(0, 16 << 10).unwrap();
        file.sync().unwrap();
        let map = file.map(16 << 10, Access::Write).unwrap();
        store(&map, &[1; 16 << 10], 0);
        disk.fail_next_sync();
        assert!(is(file.sync(), Errno::IO));
        file.sync().unwrap();
        assert_eq!(bytes_of(&disk, A).unwrap(), [1; 16 << 10]);
        write_all_at(&*file, &[2; 4096], 4096).unwrap();
        file.sync().unwrap();
        disk.power_cut();
        let bytes = bytes_of(&disk, A).unwrap();
        assert_eq!(bytes[4096..8192], [2; 4096]);
        lost += i32::from(bytes.contains(&0));
    }
    assert!(lost > 90, "lost in {lost} runs");
}

/// A truncation happened or not; what was written behind it never mixes with what it cut away.
#[test]
fn a_truncation_is_all_or_nothing() {
    let (mut old, mut new) = (0, 0);
    for seed in 0..200 {
        let disk = simulated(seed);
        let file = created(&disk, A);
        write_all_at(&*file, &[1; 4096], 0).unwrap();
        file.sync().unwrap();
        file.set_len(1024).unwrap();
        write_all_at(&*file, &[2; 3072], 1024).unwrap();
        disk.power_cut();
        let bytes = bytes_of(&disk, A).unwrap();
        assert_eq!(bytes[..1024], [1; 1024]);
        let behind = &bytes[1024..];
        assert!(!(behind.contains(&1) && behind.contains(&2)), "seed {seed}");
        assert!(!behind.contains(&1) || behind == [1; 3072], "seed {seed}");
        old += i32::from(behind.contains(&1));
        new += i32::from(behind.contains(&2));
    }
    assert!(old > 20 && new > 20, "{old} and {new}");
}

/// A process that dies loses nothing it wrote, but its locks and handles; what it still does reaches nobody.
#[test]
fn the_cache_outlives_the_process_and_its_handles_do_not() {
    let disk = simulated(1);
    let mounted = disk.mount();
    let file = mounted.open(Path::new(A), Open::CreateNew).unwrap();
    file.allocate(0, 4096).unwrap();
    let map = file.map(4096, Access::Write).unwrap();
    store(&map, b"written", 0);
    let _lock = mounted.lock(Path::new("/log/.lock"), "the dead").unwrap();
    disk.process_death();

    store(&map, b"too late", 0);
    assert!(is(file.write_at(b"too late", 0), Errno::IO));
    assert!(is(file.sync(), Errno::IO));
    assert!(is(mounted.remove(Path::new(A)), Errno::IO));
    assert!(!mounted.is_dir(Path::new("/log")) && disk.is_dir(Path::new("/log")));
    assert_eq!(&bytes_of(&disk, A).unwrap()[..8], b"written\0");
    let lock = disk.mount().lock(Path::new("/log/.lock"), "the next").unwrap();
    drop(_lock);
    assert!(matches!(disk.lock(Path::new("/log/.lock"), ""), Err(LockError::Held(who)) if who == "the next"));
    drop(lock);
    disk.power_cut();
    assert_eq!(load(&map, 0, 8), b"too late", "an old mapping stays readable");
}

/// Failures come when they were asked for, and only then.
#[test]
fn scripted_failures_come_on_time() {
    let disk = simulated(1);
    let file = created(&disk, A);
    disk.fail_nth(3, Errno::IO);
    file.write_at(b"1", 0).unwrap();
    file.read_at(&mut [0], 0).unwrap();
    assert!(is(file.write_at(b"3", 0), Errno::IO));
    file.write_at(b"4", 0).unwrap();

    disk.fail_nth_of(Op::Rename, 1, Errno::ACCESS);
    file.write_at(b"5", 0).unwrap();
    assert!(is(disk.rename(Path::new(A), Path::new("/log/b")), Errno::ACCESS));
    assert!(bytes_of(&disk, A).is_some());

    for refusal in [Errno::ROFS, Errno::PERM, Errno::FBIG] {
        disk.refuse_growth(Some(refusal));
        assert!(is(disk.open(Path::new("/log/new"), Open::Create), refusal));
        assert!(is(disk.create_dir(Path::new("/log/folder")), refusal));
        assert!(is(file.write_at(b"grow", 1), refusal));
        assert!(is(file.allocate(0, 100), refusal));
        assert!(is(file.set_len(100), refusal));
        assert_eq!(file.write_at(b"in place", 0).unwrap(), 1);
    }
    disk.refuse_growth(None);
    file.allocate(0, 100).unwrap();
}

/// Reads and writes that do only a part are finished by whoever loops; who does not would lose bytes here.
#[test]
fn short_reads_and_writes_happen() {
    let disk = simulated(1);
    disk.set_faults(Faults { short: 0.9, ..Faults::default() });
    let file = created(&disk, A);
    let bytes = Rng::new(9).bytes(10_000);
    let before = disk.operations();
    write_all_at(&*file, &bytes, 0).unwrap();
    let mut read = vec![0; 10_000];
    assert_eq!(read_full_at(&*file, &mut read, 0).unwrap(), 10_000);
    assert_eq!(read, bytes);
    assert!(disk.operations() - before > 2);
}

/// A store through a mapping to where no block was allocated is a SIGBUS waiting for a full disk.
#[test]
#[should_panic(expected = "SIGBUS")]
fn a_store_without_a_block_is_found() {
    let disk = simulated(1);
    let file = created(&disk, A);
    file.allocate(0, 4096).unwrap();
    let map = file.map(16 << 10, Access::Write).unwrap();
    store(&map, b"crime", 8192);
    let _ = file.sync();
}

/// Plays a random scene on the world of this seed.
fn a_days_work(seed: u64) -> (u64, Vec<(String, Vec<u8>)>) {
    let world = SimWorld::from_seed(seed);
    let (disk, rng) = (&world.disk, &world.rng);
    disk.set_faults(Faults { short: 0.1, error: 0.01, sync_error: 0.02 });
    disk.set_capacity(200_000);
    for _ in 0..300 {
        let path = PathBuf::from(format!("/d{}/f{}", rng.below(2), rng.below(4)));
        let other = PathBuf::from(format!("/d{}/f{}", rng.below(2), rng.below(4)));
        let _ = disk.create_dir(path.parent().unwrap());
        let _ = disk.create_dir(other.parent().unwrap());
        match rng.below(12) {
            0 => drop(disk.rename(&path, &other)),
            1 => drop(disk.remove(&path)),
            2 => drop(disk.hard_link(&path, &other)),
            3 => drop(disk.sync_dir(Path::new(if rng.chance(0.5) { "/d0" } else { "/" }))),
            4 => disk.tick(),
            5 if rng.chance(0.3) => disk.power_cut(),
            6 if rng.chance(0.3) => disk.process_death(),
            _ => {
                let Ok(file) = disk.open(&path, Open::Create) else { continue };
                let (at, len) = (rng.below(20_000), rng.index(5000));
                match rng.below(6) {
                    0 => drop(file.set_len(at)),
                    1 => drop(file.sync()),
                    2 => {
                        let end = at + len as u64;
                        if file.allocate(0, end).is_ok()
                            && let Ok(map) = file.map(end as usize, Access::Write)
                        {
                            store(&map, &rng.bytes(len), at as usize);
                        }
                    }
                    _ => drop(file.write_at(&rng.bytes(len), at)),
                }
            }
        }
    }
    disk.set_faults(Faults::default());
    disk.power_cut();
    let mut left = Vec::new();
    let mut used = 0;
    for folder in disk.list(Path::new("/")).unwrap() {
        for entry in disk.list(&Path::new("/").join(&folder.name)).unwrap() {
            let path = format!("/{}/{}", folder.name, entry.name);
            let bytes = bytes_of(disk, &path).unwrap();
            assert_eq!(bytes.len() as u64, entry.len);
            assert_eq!(disk.on_medium(Path::new(&path)).unwrap(), bytes);
            used += entry.len;
            left.push((path, bytes));
        }
    }
    assert!(disk.used_bytes() <= used, "holes take no room, links share it, and nothing else takes any");
    (disk.trace(), left)
}

/// One seed is one run: the same operations, the same failures, the same bytes left. Another seed is another.
#[test]
fn one_seed_is_one_run() {
    let mut traces = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let (first, second) = (a_days_work(seed), a_days_work(seed));
        assert_eq!(first.0, second.0, "seed {seed}: two traces");
        assert_eq!(first.1, second.1, "seed {seed}: two outcomes");
        traces.insert(first.0);
    }
    assert_eq!(traces.len(), 100);
}

/// The clock goes where it is told; the wall may jump and the monotonic hand does not notice.
#[test]
fn the_clock_is_told_the_time() {
    use girok_engine::{Clock, Timestamp};
    use std::time::Duration;
    let world = SimWorld::from_seed(1);
    let (now, wall) = (world.clock.now(), world.clock.wall());
    for _ in 0..4 {
        world.clock.advance(Duration::from_micros(250));
    }
    assert_eq!(world.clock.now().since(now), Duration::from_millis(1));
    assert_eq!(world.clock.wall(), Timestamp::from_millis(wall.as_millis() + 1));
    world.clock.jump_wall(-5000);
    assert_eq!(world.clock.wall(), Timestamp::from_millis(wall.as_millis() - 4999));
    assert_eq!(world.clock.now().since(now), Duration::from_millis(1));
    world.clock.set_wall(Timestamp::from_millis(7));
    assert_eq!(world.clock.wall(), Timestamp::from_millis(7));
    assert_eq!(world.env().disk.counters(), world.disk.counters());
}
