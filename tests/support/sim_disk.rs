//! A disk that lives from a seed: it loses what it may lose, and keeps what it promised.
//!
//! ```text
//!              write, mapping, allocate, set_len        create, rename, remove, hard_link
//!                          │                                        │
//!   page cache      [ sectors, length ]                   [ names ]  +  pending operations, in order
//!                          │ sync: all of it                        │ sync_dir: all of them
//!                          │ tick, power cut: some sectors,         │ tick, power cut: some first ones
//!                          │ some length                            │
//!   medium          [ sectors, length ]                   [ names ]
//! ```
//!
//! At a power cut, of every file a random subset of the 512-byte sectors that differ survives, and its length is the
//! old one, the new one, or one in between with zeros where no sector came. Of every folder a random number of the
//! pending operations survives, always the first ones, as in a journal. A synced file whose folder was not synced may
//! be gone. A truncation is an operation of the journal too: either it happened, or nothing behind it did.
//!
//! It is kinder than life in one point: a rename from one folder to another is on the medium at once, with all names
//! that were pending anywhere. It is stricter in two: a file's sync brings no folder along (ext4's often does), and a store through
//! a mapping into bytes that were never allocated panics where a real disk might have had room.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Component, Path};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use girok_engine::disk::{Access, Counters, DirLock, Disk, Entry, File, Kind, LockError, Map, Open};
use rustix::io::Errno;

use super::Rng;

/// What the medium writes whole.
const SECTOR_BYTES: usize = 512;
/// What the kernel marks clean or dirty.
const PAGE_BYTES: usize = 4096;
/// No file grows beyond this; a real one may, but then a test has a mistake.
const FILE_BYTES_MAX: u64 = 1 << 31;
/// The root folder's number.
const ROOT: u64 = 1;

static ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// The verbs that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Open,
    List,
    CreateDir,
    RemoveDir,
    Rename,
    Remove,
    HardLink,
    SyncDir,
    Lock,
    Read,
    Write,
    Len,
    Allocate,
    SetLen,
    Sync,
    Map,
    Links,
}

/// How often the disk misbehaves by itself, as probabilities. The default is never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A read or write does only a part.
    pub short: f64,
    /// An operation other than a sync fails with `EIO` and does nothing.
    pub error: f64,
    /// A sync fails, and what it should have written is lost for good.
    pub sync_error: f64,
}

/// The simulated disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    /// The life of the process that has it from [`SimDisk::mount`]; `None` is the test's own view.
    life: Option<u64>,
}

struct State {
    rng: Rng,
    /// Everything that happened, folded into a number.
    trace: u64,
    operations: u64,
    /// Goes up when the process or the machine dies; handles of an earlier life are dead.
    life: u64,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    locks: BTreeSet<u64>,
    capacity: u64,
    used: u64,
    reserve_bytes: usize,
    maps_safely: bool,
    faults: Faults,
    /// Failures to come: of which verb (`None`: any), after how many more of them, and with what error.
    script: Vec<(Option<Op>, u64, Errno)>,
    /// The end of this life: operations still to come, and whether it is a power cut.
    doom: Option<(u64, bool)>,
    by_power: bool,
    refuse_growth: Option<Errno>,
    counters: Counters,
}

enum Inode {
    Folder(Folder),
    File(Data),
}

#[derive(Default)]
struct Folder {
    cached: BTreeMap<String, u64>,
    medium: BTreeMap<String, u64>,
    pending: Vec<NameOp>,
}

/// One entry of a folder's journal.
#[derive(Clone)]
enum NameOp {
    Link(String, u64),
    Unlink(String),
    Rename(String, String),
}

struct Data {
    cache: Arc<Memory>,
    len: usize,
    medium: Vec<u8>,
    /// The shortest the file has been since its length was last on the medium, if it was cut since.
    truncated_to: Option<usize>,
    /// Pages that a failed sync has lost: clean for the kernel while the cache holds these bytes.
    dropped: BTreeMap<usize, Vec<u8>>,
    /// Room is taken for bytes `0..charged`, and was at the last sync.
    charged: usize,
    medium_charged: usize,
    links: u64,
    /// Handles and mappings of this life.
    opens: u64,
}

/// Bytes whose address stays. Everything in a seeded world happens on one thread, one thing after another; threads
/// that race for the same bytes do so as they would for a file's.
struct Memory(*mut [u64]);

// SAFETY: the pointer is owned; who may touch the bytes, and when, is the mapping's user's to argue (see `Map`).
#[allow(unsafe_code)]
unsafe impl Send for Memory {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Memory {}

impl Memory {
    fn new(bytes: usize) -> Self {
        Memory(Box::into_raw(vec![0u64; bytes.div_ceil(8)].into_boxed_slice()))
    }

    fn len(&self) -> usize {
        self.0.len() * 8
    }

    fn as_ptr(&self) -> *mut u8 {
        self.0.cast()
    }

    fn bytes(&self, from: usize, to: usize) -> &[u8] {
        assert!(from <= to && to <= self.len());
        // SAFETY: the range lies in the allocation. Callers look at it at once and keep no reference across a
        // point where somebody else could store.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.as_ptr().add(from), to - from)
        }
    }

    fn store(&self, from: &[u8], at: usize) {
        assert!(at + from.len() <= self.len());
        // SAFETY: the range lies in the allocation, and `from` does not: nobody outside has a reference into it.
        #[allow(unsafe_code)]
        unsafe {
            self.as_ptr().add(at).copy_from_nonoverlapping(from.as_ptr(), from.len());
        }
    }

    fn zero(&self, from: usize, to: usize) {
        assert!(from <= to && to <= self.len());
        // SAFETY: the range lies in the allocation.
        #[allow(unsafe_code)]
        unsafe {
            self.as_ptr().add(from).write_bytes(0, to - from);
        }
    }

    /// The same bytes at another address.
    fn copy(&self, len: usize) -> Memory {
        let copy = Memory::new(len);
        copy.store(self.bytes(0, len.min(self.len())), 0);
        copy
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw`, and dropped once.
        #[allow(unsafe_code)]
        drop(unsafe { Box::from_raw(self.0) });
    }
}

impl SimDisk {
    /// An empty disk whose choices come from `seed`, as large as the memory, and well behaved.
    pub fn new(seed: u64) -> Self {
        let root = Inode::Folder(Folder::default());
        SimDisk {
            life: None,
            state: Arc::new(Mutex::new(State {
                rng: Rng::new(seed),
                trace: seed,
                operations: 0,
                life: 0,
                inodes: BTreeMap::from([(ROOT, root)]),
                next_inode: ROOT + 1,
                locks: BTreeSet::new(),
                capacity: u64::MAX,
                used: 0,
                reserve_bytes: 128 << 10,
                maps_safely: true,
                faults: Faults::default(),
                script: Vec::new(),
                doom: None,
                by_power: false,
                refuse_growth: None,
                counters: Counters::default(),
            })),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that has panicked still drops its handles.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk as the process that runs now sees it: after its death every call gives `EIO`. Hand this to an engine
    /// that is to die, else its destructors work on the next one's files.
    pub fn mount(&self) -> SimDisk {
        SimDisk { state: self.state.clone(), life: Some(self.state().life) }
    }

    /// The power goes and comes back: only what the medium has is left, every lock is free, and every handle from
    /// before gives `EIO`. Old mappings stay readable memory, but belong to no file any more.
    pub fn power_cut(&self) {
        self.state().power_cut();
    }

    /// The process dies and the machine does not: nothing is lost but locks and handles.
    pub fn process_death(&self) {
        self.state().process_death();
    }

    /// Takes back every fault that was asked for and has not happened yet; there is room again.
    pub fn heal(&self) {
        let mut state = self.state();
        state.script.clear();
        state.doom = None;
        state.faults = Faults::default();
        state.refuse_growth = None;
        state.capacity = u64::MAX;
    }

    /// How often the process or the machine has died.
    pub fn life(&self) -> u64 {
        self.state().life
    }

    /// Whether the last death was a power cut.
    pub fn died_by_power(&self) -> bool {
        self.state().by_power
    }

    /// The `n`-th operation from now does not happen: the power goes (or only the process dies) just before it, in
    /// the middle of whatever the engine is doing. `None` takes it back.
    pub fn set_doom(&self, doom: Option<(u64, bool)>) {
        self.state().doom = doom;
    }

    /// The `n`-th operation from now fails with `errno`, whatever it is; 1 is the next. A sync that fails so loses
    /// its pages.
    pub fn fail_nth(&self, n: u64, errno: Errno) {
        assert!(n > 0);
        self.state().script.push((None, n, errno));
    }

    /// The `n`-th operation of this kind from now fails with `errno`; 1 is the next.
    pub fn fail_nth_of(&self, op: Op, n: u64, errno: Errno) {
        assert!(n > 0);
        self.state().script.push((Some(op), n, errno));
    }

    /// The next sync fails with `EIO` and drops the dirty pages: the kernel takes them for clean from then on, later
    /// syncs succeed, and a power cut shows that they never reached the medium.
    pub fn fail_next_sync(&self) {
        self.fail_nth_of(Op::Sync, 1, Errno::IO);
    }

    /// From now on creating and growing files fails with this (`EROFS`, `EPERM`, `EFBIG`), or with nothing again.
    pub fn refuse_growth(&self, errno: Option<Errno>) {
        self.state().refuse_growth = errno;
    }

    /// How much room there is in all, in bytes of files' contents. What is there stays, even if it is more.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().capacity = bytes;
    }

    /// The room that files take.
    pub fn used_bytes(&self) -> u64 {
        self.state().used
    }

    /// How it misbehaves by itself.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Whether files may be written through mappings; by default yes.
    pub fn set_maps_safely(&self, safely: bool) {
        self.state().maps_safely = safely;
    }

    /// How much address space a file gets when it is first mapped, if no more is asked for; 128 KiB by default. A
    /// longer mapping is refused while a shorter one lives, because the bytes may not move.
    pub fn set_reserve_bytes(&self, bytes: usize) {
        self.state().reserve_bytes = bytes;
    }

    /// The kernel's own write-back at work: a few random dirty sectors and pending names reach the medium.
    pub fn tick(&self) {
        self.state().tick();
    }

    /// How many operations there were.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// A hash over every operation, what it carried and how it ended. Two runs of a seed have the same.
    pub fn trace(&self) -> u64 {
        self.state().trace
    }

    /// What the medium has of a file this very moment, without waiting for a power cut: for a test's own checks.
    pub fn on_medium(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        let mut inode = ROOT;
        for name in names(path) {
            let Some(Inode::Folder(folder)) = state.inodes.get(&inode) else { return None };
            inode = *folder.medium.get(&name)?;
        }
        match state.inodes.get(&inode) {
            Some(Inode::File(data)) => Some(data.medium.clone()),
            _ => None,
        }
    }

    fn handle(&self, number: u64, life: u64, how: Open) -> SimFile {
        let disk = SimDisk { state: self.state.clone(), life: Some(life) };
        SimFile { disk, number, life, writable: how != Open::Read }
    }

    /// One operation: counted, traced, and failed if it is its turn.
    fn run<T>(
        &self,
        op: Op,
        subject: &dyn fmt::Display,
        body: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.state();
        if self.life.is_some_and(|life| life != state.life) {
            return Err(stale());
        }
        if self.life.is_some() && state.meets_its_doom() {
            return Err(stale());
        }
        state.begin(op, subject);
        let result = match state.fault(op) {
            Some(errno) => Err(errno.into()),
            None => body(&mut state),
        };
        state.end(&result);
        result
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        write!(f, "SimDisk(operation {}, life {}, trace {:016x})", state.operations, state.life, state.trace)
    }
}

/// What the dead hear.
fn stale() -> io::Error {
    Errno::IO.into()
}

/// The names on the way to a path.
fn names(path: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_string_lossy().into_owned()),
            Component::ParentDir => {
                names.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    names
}

impl Data {
    fn new() -> Self {
        Data {
            cache: Arc::new(Memory::new(0)),
            len: 0,
            medium: Vec::new(),
            truncated_to: None,
            dropped: BTreeMap::new(),
            charged: 0,
            medium_charged: 0,
            links: 0,
            opens: 0,
        }
    }

    /// Whether the kernel would write this page back.
    fn may_write(&self, page: usize) -> bool {
        let Some(lost) = self.dropped.get(&page) else { return true };
        let from = page * PAGE_BYTES;
        let (same, behind) = self.cache.bytes(from, self.len.min(from + PAGE_BYTES)).split_at(lost.len());
        same != lost || behind.iter().any(|byte| *byte != 0)
    }

    /// Copies `from..to` of the cache to the medium, which reaches that far.
    fn write_back(&mut self, from: usize, to: usize) {
        self.medium[from..to].copy_from_slice(self.cache.bytes(from, to));
        self.medium_charged = self.medium_charged.max(to);
    }

    /// The truncation reaches the medium.
    fn settle(&mut self) {
        if let Some(to) = self.truncated_to.take() {
            self.medium.truncate(to);
        }
    }

    /// Everything reaches the medium, except what an earlier failure has lost.
    fn sync(&mut self) {
        self.settle();
        self.medium.resize(self.len, 0);
        for page in 0..self.len.div_ceil(PAGE_BYTES) {
            if self.may_write(page) {
                self.dropped.remove(&page);
                let from = page * PAGE_BYTES;
                self.write_back(from, self.len.min(from + PAGE_BYTES));
            }
        }
        self.medium_charged = self.charged;
    }

    /// A sync fails: some pages got through, the others are clean and lost.
    fn lose(&mut self, rng: &Rng) {
        let through = self.medium.len().min(self.len).min(self.truncated_to.unwrap_or(usize::MAX));
        for page in 0..self.len.div_ceil(PAGE_BYTES) {
            let from = page * PAGE_BYTES;
            let to = self.len.min(from + PAGE_BYTES);
            let same = to <= self.medium.len() && self.medium[from..to] == *self.cache.bytes(from, to);
            if same || !self.may_write(page) {
                continue;
            }
            if to <= through && rng.chance(0.25) {
                self.dropped.remove(&page);
                self.write_back(from, to);
            } else {
                self.dropped.insert(page, self.cache.bytes(from, to).to_vec());
            }
        }
    }

    /// The power goes: decides what of the unsynced is on the medium.
    fn survive(&mut self, rng: &Rng) {
        let mut written = self.len;
        if let Some(to) = self.truncated_to {
            if rng.chance(0.5) {
                self.settle();
            } else {
                // The truncation did not happen, so neither did anything that was done behind it.
                written = to / SECTOR_BYTES * SECTOR_BYTES;
            }
        }
        if self.truncated_to.is_none() {
            let len = match rng.below(3) {
                0 => self.medium.len(),
                1 => self.len,
                _ => rng.between(self.medium.len() as u64, self.len as u64) as usize,
            };
            self.medium.resize(len, 0);
        }
        self.truncated_to = None;
        let likely = *rng.pick(&[0.0, 0.1, 0.5, 0.9, 1.0]);
        let end = written.min(self.medium.len());
        for from in (0..end).step_by(SECTOR_BYTES) {
            let to = end.min(from + SECTOR_BYTES);
            if self.medium[from..to] != *self.cache.bytes(from, to)
                && self.may_write(from / PAGE_BYTES)
                && rng.chance(likely)
            {
                self.write_back(from, to);
            }
        }
        self.dropped.clear();
        self.len = self.medium.len();
        self.charged = self.charged.max(self.medium_charged).min(self.len);
        self.medium_charged = self.charged;
        let cache = Memory::new(self.len);
        cache.store(&self.medium, 0);
        self.cache = Arc::new(cache);
        self.opens = 0;
    }

    /// Sees to it that the cache has a place for `end` bytes.
    fn make_place(&mut self, end: usize) -> io::Result<()> {
        if end > self.cache.len() {
            if Arc::strong_count(&self.cache) > 1 {
                return Err(io::Error::other(format!(
                    "the simulated disk reserved {} bytes for a file that is mapped and must hold {end}: \
                     raise SimDisk::set_reserve_bytes",
                    self.cache.len(),
                )));
            }
            self.cache = Arc::new(self.cache.copy(end.max(2 * self.cache.len())));
        }
        Ok(())
    }

    /// Stores through a mapping may only go where there are blocks. The rest of the last page is forgiven, as by
    /// the kernel.
    fn check_stores(&self, number: u64) {
        if self.links == 0 && self.opens == 0 {
            return; // forgotten, see `forget_cache`
        }
        let mut at = self.charged.next_multiple_of(PAGE_BYTES);
        while at < self.cache.len() {
            let to = self.cache.len().min(at + PAGE_BYTES);
            assert!(
                *self.cache.bytes(at, to) == ZEROS[..to - at],
                "file {number} of {} bytes, {} of them allocated, was stored into through a mapping at {at} or \
                 behind: on a real disk this raises SIGBUS, or does once it is full",
                self.len,
                self.charged,
            );
            at = to;
        }
    }

    /// A file without names or handles: its dirty pages are gone, and only a power cut that undoes the removal can
    /// bring it back, as the medium has it.
    fn forget_cache(&mut self) {
        self.truncated_to = None;
        self.dropped.clear();
        self.charged = 0;
        self.len = self.medium.len();
        self.cache = Arc::new(Memory::new(self.len));
        self.cache.store(&self.medium, 0);
    }

    /// The rest of the last page is zeroed before it reaches anybody, as the kernel does.
    fn clear_tail(&self) {
        let to = self.len.next_multiple_of(PAGE_BYTES).min(self.cache.len());
        if self.len < to {
            self.cache.zero(self.len, to);
        }
    }
}

impl State {
    fn mix(&mut self, bytes: &[u8]) {
        // FNV-1a, by words where it can.
        let mut hash = self.trace;
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            let word = u64::from_le_bytes(word.try_into().unwrap());
            hash = (hash ^ word).wrapping_mul(0x0100_0000_01B3).rotate_left(23);
        }
        for byte in words.remainder() {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
        self.trace = hash;
    }

    fn meets_its_doom(&mut self) -> bool {
        match &mut self.doom {
            None => false,
            Some((left, _)) if *left > 1 => {
                *left -= 1;
                false
            }
            Some((_, is_power_cut)) => {
                if *is_power_cut {
                    self.power_cut();
                } else {
                    self.process_death();
                }
                true
            }
        }
    }

    fn begin(&mut self, op: Op, subject: &dyn fmt::Display) {
        self.operations += 1;
        self.mix(format!("{op:?} {subject}").as_bytes());
    }

    fn end<T>(&mut self, result: &io::Result<T>) {
        let code = match result {
            Ok(_) => 0,
            Err(e) => e.raw_os_error().unwrap_or(-1),
        };
        self.mix(&code.to_le_bytes());
    }

    /// The error this operation must end with, if it is its turn.
    fn fault(&mut self, op: Op) -> Option<Errno> {
        let mut hit = None;
        self.script.retain_mut(|(which, left, errno)| {
            if which.is_none_or(|which| which == op) {
                *left -= 1;
                if *left == 0 {
                    hit = hit.or(Some(*errno));
                }
            }
            *left > 0
        });
        let likely = if op == Op::Sync { self.faults.sync_error } else { self.faults.error };
        if hit.is_none() && likely > 0.0 && self.rng.chance(likely) {
            hit = Some(Errno::IO);
        }
        hit
    }

    /// How much of `len` bytes a read or write does this time.
    fn shorten(&mut self, len: usize) -> usize {
        if len > 1 && self.faults.short > 0.0 && self.rng.chance(self.faults.short) {
            self.rng.between(1, len as u64 - 1) as usize
        } else {
            len
        }
    }

    fn find(&self, names: &[String]) -> io::Result<u64> {
        names.iter().try_fold(ROOT, |at, name| match self.inodes.get(&at) {
            Some(Inode::Folder(folder)) => folder.cached.get(name).copied().ok_or(Errno::NOENT.into()),
            _ => Err(Errno::NOTDIR.into()),
        })
    }

    fn folder(&mut self, number: u64) -> io::Result<&mut Folder> {
        match self.inodes.get_mut(&number) {
            Some(Inode::Folder(folder)) => Ok(folder),
            _ => Err(Errno::NOTDIR.into()),
        }
    }

    fn file(&mut self, number: u64) -> io::Result<&mut Data> {
        match self.inodes.get_mut(&number) {
            Some(Inode::File(data)) => Ok(data),
            _ => Err(Errno::ISDIR.into()),
        }
    }

    /// The folder of a path's last name, and that name.
    fn parent(&mut self, path: &Path) -> io::Result<(u64, String)> {
        let mut names = names(path);
        let last = names.pop().ok_or(Errno::ISDIR)?;
        let folder = self.find(&names)?;
        self.folder(folder)?;
        Ok((folder, last))
    }

    fn add(&mut self, inode: Inode) -> u64 {
        let number = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(number, inode);
        number
    }

    /// Takes a name away from a file.
    fn unlinked(&mut self, number: u64) {
        if let Ok(data) = self.file(number) {
            data.links -= 1;
        }
        self.free(number);
    }

    /// Gives back the room of a file that has neither name nor handle. Its bytes stay while a name on the medium
    /// might bring it back.
    fn free(&mut self, number: u64) {
        if let Some(Inode::File(data)) = self.inodes.get_mut(&number)
            && data.links == 0
            && data.opens == 0
        {
            self.used -= data.charged as u64;
            data.forget_cache();
        }
    }

    /// Takes room up to `end`; up to where there was room.
    fn charge(&mut self, number: u64, end: usize) -> io::Result<usize> {
        let room = self.capacity.saturating_sub(self.used);
        let data = self.file(number)?;
        let more = (end.saturating_sub(data.charged) as u64).min(room);
        data.charged += more as usize;
        let granted = data.charged.min(end);
        self.used += more;
        Ok(granted)
    }

    fn tick(&mut self) {
        self.mix(b"tick");
        let files: Vec<u64> = self.numbers(|inode| matches!(inode, Inode::File(_)));
        let folders: Vec<u64> =
            self.numbers(|inode| matches!(inode, Inode::Folder(f) if !f.pending.is_empty()));
        let State { rng, inodes, .. } = self;
        if !folders.is_empty() && rng.chance(0.25) {
            let number = *rng.pick(&folders);
            if let Some(Inode::Folder(folder)) = inodes.get_mut(&number) {
                let first = rng.index(folder.pending.len() + 1);
                folder.commit(first);
            }
        }
        for _ in 0..rng.below(8) {
            if files.is_empty() {
                break;
            }
            let number = *rng.pick(&files);
            let Some(Inode::File(data)) = inodes.get_mut(&number) else { continue };
            if data.links == 0 || data.len == 0 {
                continue;
            }
            let from = rng.index(data.len.div_ceil(SECTOR_BYTES)) * SECTOR_BYTES;
            let to = data.len.min(from + SECTOR_BYTES);
            if data.truncated_to.is_some_and(|cut| to > cut) {
                data.settle();
            }
            if data.medium.len() < to {
                // The length runs ahead of the data, to here or further.
                let len = if rng.chance(0.5) { to } else { rng.between(to as u64, data.len as u64) as usize };
                data.medium.resize(len, 0);
            }
            if data.may_write(from / PAGE_BYTES) {
                data.write_back(from, to);
            }
        }
    }

    fn numbers(&self, which: impl Fn(&Inode) -> bool) -> Vec<u64> {
        self.inodes.iter().filter(|(_, inode)| which(inode)).map(|(number, _)| *number).collect()
    }

    fn process_death(&mut self) {
        self.mix(b"process death");
        self.by_power = false;
        self.life += 1;
        self.doom = None;
        self.locks.clear();
        for number in self.numbers(|inode| matches!(inode, Inode::File(_))) {
            if let Ok(data) = self.file(number) {
                data.check_stores(number);
                data.opens = 0;
                data.clear_tail();
                // Old mappings must not reach the file any more: give it its bytes at another address.
                data.cache = Arc::new(data.cache.copy(data.len));
            }
            self.free(number);
        }
    }

    fn power_cut(&mut self) {
        self.mix(b"power cut");
        self.by_power = true;
        self.life += 1;
        self.doom = None;
        self.locks.clear();
        let State { rng, inodes, .. } = self;
        for (number, inode) in inodes.iter_mut() {
            match inode {
                Inode::Folder(folder) => {
                    let first = rng.index(folder.pending.len() + 1);
                    folder.commit(first);
                    folder.pending.clear();
                    folder.cached = folder.medium.clone();
                }
                Inode::File(data) => {
                    data.check_stores(*number);
                    data.clear_tail();
                    data.survive(rng);
                    data.links = 0;
                }
            }
        }
        // What no surviving name leads to is gone.
        let mut reached = BTreeSet::from([ROOT]);
        let mut next = vec![ROOT];
        while let Some(number) = next.pop() {
            let Some(Inode::Folder(folder)) = self.inodes.get(&number) else { continue };
            for child in folder.cached.values().copied().collect::<Vec<_>>() {
                if let Some(Inode::File(data)) = self.inodes.get_mut(&child) {
                    data.links += 1;
                }
                if reached.insert(child) {
                    next.push(child);
                }
            }
        }
        self.inodes.retain(|number, _| reached.contains(number));
        self.used = self
            .inodes
            .values()
            .map(|inode| match inode {
                Inode::File(data) => data.charged as u64,
                Inode::Folder(_) => 0,
            })
            .sum();
        let left: Vec<u8> = self
            .inodes
            .iter()
            .flat_map(|(number, inode)| match inode {
                Inode::File(data) => [*number, data.len as u64],
                Inode::Folder(folder) => [*number, folder.cached.len() as u64],
            })
            .flat_map(u64::to_le_bytes)
            .collect();
        self.mix(&left);
    }

    /// Forgets files that neither a name, on the medium or off it, nor a handle leads to.
    fn forget(&mut self) {
        let mut named = BTreeSet::from([ROOT]);
        for inode in self.inodes.values() {
            if let Inode::Folder(folder) = inode {
                named.extend(folder.cached.values().chain(folder.medium.values()));
                named.extend(folder.pending.iter().filter_map(|op| match op {
                    NameOp::Link(_, number) => Some(number),
                    _ => None,
                }));
            }
        }
        self.inodes.retain(|number, inode| {
            named.contains(number) || matches!(inode, Inode::File(data) if data.opens > 0)
        });
    }
}

impl Folder {
    /// The first operations of the journal reach the medium.
    fn commit(&mut self, first: usize) {
        for op in self.pending.drain(..first) {
            match op {
                NameOp::Link(name, number) => {
                    self.medium.insert(name, number);
                }
                NameOp::Unlink(name) => {
                    self.medium.remove(&name);
                }
                NameOp::Rename(from, to) => {
                    if let Some(number) = self.medium.remove(&from) {
                        self.medium.insert(to, number);
                    }
                }
            }
        }
    }

    fn link(&mut self, name: String, number: u64) {
        self.cached.insert(name.clone(), number);
        self.pending.push(NameOp::Link(name, number));
    }

    fn unlink(&mut self, name: String) -> Option<u64> {
        let number = self.cached.remove(&name);
        self.pending.push(NameOp::Unlink(name));
        number
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        self.run(Op::Open, &format_args!("{} {how:?}", path.display()), |state| {
            let (number, life) = state.open(path, how)?;
            Ok(Arc::new(self.handle(number, life, how)) as Arc<dyn File>)
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.run(Op::List, &dir.display(), |state| {
            let number = state.find(&names(dir))?;
            let names: Vec<_> = state.folder(number)?.cached.clone().into_iter().collect();
            let entry = |(name, number)| match state.inodes.get(&number) {
                Some(Inode::File(data)) => Entry { name, kind: Kind::File, len: data.len as u64 },
                _ => Entry { name, kind: Kind::Folder, len: 0 },
            };
            Ok(names.into_iter().map(entry).collect())
        })
    }

    fn is_dir(&self, path: &Path) -> bool {
        let mut state = self.state();
        if self.life.is_some_and(|life| life != state.life) {
            return false;
        }
        state.find(&names(path)).is_ok_and(|number| state.folder(number).is_ok())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.run(Op::CreateDir, &dir.display(), |state| {
            let mut at = ROOT;
            for name in names(dir) {
                let there = state.folder(at)?.cached.get(&name).copied();
                at = match (there, state.refuse_growth) {
                    (Some(number), _) => number,
                    (None, Some(errno)) => return Err(errno.into()),
                    (None, None) => {
                        let number = state.add(Inode::Folder(Folder::default()));
                        state.folder(at)?.link(name, number);
                        number
                    }
                };
            }
            state.folder(at).map(drop)
        })
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.run(Op::RemoveDir, &dir.display(), |state| {
            let (parent, name) = state.parent(dir)?;
            let number = *state.folder(parent)?.cached.get(&name).ok_or(Errno::NOENT)?;
            if !state.folder(number)?.cached.is_empty() {
                return Err(Errno::NOTEMPTY.into());
            }
            state.folder(parent)?.unlink(name);
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.run(Op::Rename, &format_args!("{} {}", from.display(), to.display()), |state| {
            state.rename(from, to)
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.run(Op::Remove, &path.display(), |state| {
            let (parent, name) = state.parent(path)?;
            let number = *state.folder(parent)?.cached.get(&name).ok_or(Errno::NOENT)?;
            state.file(number)?;
            state.folder(parent)?.unlink(name);
            state.unlinked(number);
            Ok(())
        })
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.run(Op::HardLink, &format_args!("{} {}", from.display(), to.display()), |state| {
            let number = state.find(&names(from))?;
            let (parent, name) = state.parent(to)?;
            if state.folder(parent)?.cached.contains_key(&name) {
                return Err(Errno::EXIST.into());
            }
            state.file(number)?.links += 1;
            state.folder(parent)?.link(name, number);
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.run(Op::SyncDir, &dir.display(), |state| {
            let number = state.find(&names(dir))?;
            let folder = state.folder(number)?;
            let all = folder.pending.len();
            folder.commit(all);
            state.counters.dir_syncs += 1;
            state.forget();
            Ok(())
        })
    }

    fn sync_many(&self, files: &[&dyn File]) -> Vec<io::Result<()>> {
        files.iter().map(|file| file.sync()).collect()
    }

    fn lock(&self, path: &Path, holder: &str) -> Result<Box<dyn DirLock>, LockError> {
        // An operation of its own, so that it can be made to fail; a refusal is an answer, not a failure.
        let answer = self.run(Op::Lock, &path.display(), |state| {
            let (number, life) = state.open(path, Open::Create)?;
            let data = state.file(number)?;
            data.opens -= 1;
            let text = data.cache.bytes(0, data.len).to_vec();
            if !state.locks.insert(number) {
                return Ok(Err(String::from_utf8_lossy(&text).trim().to_string()));
            }
            if let Err(e) = state.set_len(number, 0).and_then(|()| state.write(number, holder.as_bytes(), 0))
            {
                state.locks.remove(&number);
                return Err(e);
            }
            Ok(Ok(SimLock { disk: self.clone(), number, life }))
        });
        match answer {
            Ok(Ok(lock)) => Ok(Box::new(lock)),
            Ok(Err(text)) => Err(LockError::Held(text)),
            Err(e) => Err(LockError::Io(e)),
        }
    }

    fn maps_safely(&self, _: &Path) -> bool {
        self.state().maps_safely
    }

    fn counters(&self) -> Counters {
        self.state().counters
    }
}

impl State {
    /// Opens a file; its number and the life the handle belongs to.
    fn open(&mut self, path: &Path, how: Open) -> io::Result<(u64, u64)> {
        let (parent, name) = self.parent(path)?;
        let number = match (self.folder(parent)?.cached.get(&name).copied(), how) {
            (Some(_), Open::CreateNew) => return Err(Errno::EXIST.into()),
            (Some(number), _) => number,
            (None, Open::Read | Open::Write) => return Err(Errno::NOENT.into()),
            (None, Open::Create | Open::CreateNew) => {
                if let Some(errno) = self.refuse_growth {
                    return Err(errno.into());
                }
                let number = self.add(Inode::File(Data { links: 1, ..Data::new() }));
                self.folder(parent)?.link(name, number);
                number
            }
        };
        self.file(number)?.opens += 1;
        Ok((number, self.life))
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (old, new) = (names(from), names(to));
        let number = self.find(&old)?;
        let ((from_parent, from), (to_parent, to)) = (self.parent(from)?, self.parent(to)?);
        let moves_folder = self.folder(number).is_ok();
        let there = self.folder(to_parent)?.cached.get(&to).copied();
        if there == Some(number) {
            return Ok(());
        }
        if moves_folder && new.starts_with(&old) {
            return Err(Errno::INVAL.into());
        }
        match there.and_then(|there| self.inodes.get(&there)) {
            Some(Inode::Folder(_)) if !moves_folder => return Err(Errno::ISDIR.into()),
            Some(Inode::File(_)) if moves_folder => return Err(Errno::NOTDIR.into()),
            Some(Inode::Folder(folder)) if !folder.cached.is_empty() => return Err(Errno::NOTEMPTY.into()),
            _ => {}
        }
        self.folder(from_parent)?.cached.remove(&from);
        self.folder(to_parent)?.cached.insert(to.clone(), number);
        if from_parent == to_parent {
            self.folder(from_parent)?.pending.push(NameOp::Rename(from, to));
        } else {
            self.folder(to_parent)?.pending.push(NameOp::Link(to, number));
            self.folder(from_parent)?.pending.push(NameOp::Unlink(from));
            for inode in self.inodes.values_mut() {
                if let Inode::Folder(folder) = inode {
                    let all = folder.pending.len();
                    folder.commit(all);
                }
            }
        }
        if let Some(there) = there {
            self.unlinked(there);
        }
        Ok(())
    }

    /// Writes what fits; how much that was.
    fn write(&mut self, number: u64, from: &[u8], at: u64) -> io::Result<usize> {
        if from.is_empty() {
            return Ok(0);
        }
        let end =
            at.checked_add(from.len() as u64).filter(|end| *end <= FILE_BYTES_MAX).ok_or(Errno::FBIG)?;
        let (at, mut end) = (at as usize, end as usize);
        let len = self.file(number)?.len;
        if let Some(errno) = self.refuse_growth
            && end > len
        {
            if at >= len {
                return Err(errno.into());
            }
            end = len;
        }
        end = at + self.shorten(end - at);
        let granted = self.charge(number, end)?;
        if granted <= at {
            return Err(Errno::NOSPC.into());
        }
        end = granted;
        let data = self.file(number)?;
        if end > data.len {
            data.clear_tail();
        }
        data.make_place(end)?;
        data.cache.store(&from[..end - at], at);
        data.len = data.len.max(end);
        // Written again, a page is dirty again, whatever became of it before.
        for page in at / PAGE_BYTES..=(end - 1) / PAGE_BYTES {
            data.dropped.remove(&page);
        }
        self.mix(&from[..end - at]);
        self.counters.written_bytes += (end - at) as u64;
        Ok(end - at)
    }

    fn set_len(&mut self, number: u64, len: u64) -> io::Result<()> {
        if len > FILE_BYTES_MAX {
            return Err(Errno::FBIG.into());
        }
        let len = len as usize;
        let refused = self.refuse_growth;
        let data = self.file(number)?;
        data.clear_tail();
        if len < data.len {
            data.cache.zero(len, data.len);
            data.dropped.retain(|page, lost| {
                lost.truncate(len.saturating_sub(page * PAGE_BYTES));
                !lost.is_empty()
            });
            // What is cut from the cache only may have been on the medium never.
            if len < data.medium.len() {
                data.truncated_to = Some(data.truncated_to.map_or(len, |before| before.min(len)));
            }
            let freed = data.charged.saturating_sub(len);
            data.charged -= freed;
            data.len = len;
            self.used -= freed as u64;
        } else {
            if let Some(errno) = refused
                && len > data.len
            {
                return Err(errno.into());
            }
            data.make_place(len)?;
            data.len = len;
        }
        Ok(())
    }

    fn allocate(&mut self, number: u64, at: u64, len: u64) -> io::Result<()> {
        let end = at.checked_add(len).filter(|end| *end <= FILE_BYTES_MAX).ok_or(Errno::FBIG)? as usize;
        let refused = self.refuse_growth;
        let before = self.file(number)?.charged;
        if let Some(errno) = refused
            && end > before
        {
            return Err(errno.into());
        }
        if self.charge(number, end)? < end {
            let data = self.file(number)?;
            let taken = data.charged - before;
            data.charged = before;
            self.used -= taken as u64;
            return Err(Errno::NOSPC.into());
        }
        let data = self.file(number)?;
        if end > data.len {
            data.clear_tail();
            data.make_place(end)?;
            data.len = end;
        }
        Ok(())
    }
}

/// An open file of the simulated disk.
struct SimFile {
    disk: SimDisk,
    number: u64,
    life: u64,
    writable: bool,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({} of life {})", self.number, self.life)
    }
}

impl SimFile {
    fn run<T>(&self, op: Op, detail: &str, body: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        self.disk.run(op, &format_args!("{} {detail}", self.number), body)
    }

    fn for_writing(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(Errno::BADF.into()) }
    }
}

impl File for SimFile {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        self.run(Op::Read, &format!("{}+{}", at, into.len()), |state| {
            let len = state.file(self.number)?.len;
            if at >= len as u64 || into.is_empty() {
                return Ok(0);
            }
            let from = at as usize;
            let n = state.shorten(into.len().min(len - from));
            let data = state.file(self.number)?;
            into[..n].copy_from_slice(data.cache.bytes(from, from + n));
            state.counters.read_bytes += n as u64;
            Ok(n)
        })
    }

    fn write_at(&self, from: &[u8], at: u64) -> io::Result<usize> {
        self.run(Op::Write, &format!("{}+{}", at, from.len()), |state| {
            self.for_writing()?;
            state.write(self.number, from, at)
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.run(Op::Len, "", |state| Ok(state.file(self.number)?.len as u64))
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        self.run(Op::Allocate, &format!("{at}+{len}"), |state| {
            self.for_writing()?;
            if len == 0 { Ok(()) } else { state.allocate(self.number, at, len) }
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.run(Op::SetLen, &len.to_string(), |state| {
            self.for_writing()?;
            state.set_len(self.number, len)
        })
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        if self.life != state.life {
            return Err(stale());
        }
        state.begin(Op::Sync, &self.number);
        let fault = state.fault(Op::Sync);
        let State { inodes, rng, counters, .. } = &mut *state;
        let Some(Inode::File(data)) = inodes.get_mut(&self.number) else { return Err(stale()) };
        data.check_stores(self.number);
        let result = match fault {
            Some(errno) => {
                data.lose(rng);
                Err(errno.into())
            }
            None => {
                data.sync();
                counters.syncs += 1;
                Ok(())
            }
        };
        // What came through mappings shows in the trace when it matters for the first time.
        let medium = data.medium.clone();
        state.mix(&medium);
        state.end(&result);
        result
    }

    fn map(&self, len: usize, access: Access) -> io::Result<Map> {
        self.run(Op::Map, &format!("{len} {access:?}"), |state| {
            if access == Access::Write && !self.writable {
                return Err(Errno::ACCESS.into());
            }
            let reserve = state.reserve_bytes;
            let life = state.life;
            let data = state.file(self.number)?;
            let wanted = len.max(data.len);
            // Nobody has it mapped yet: the last moment at which it can move to a roomy place.
            let roomy = if Arc::strong_count(&data.cache) == 1 { wanted.max(reserve) } else { wanted };
            data.make_place(roomy)?;
            data.opens += 1;
            let memory = data.cache.clone();
            let ptr = NonNull::new(memory.as_ptr()).ok_or(Errno::NOMEM)?;
            let owner = Mapped { disk: self.disk.clone(), number: self.number, life, _memory: memory };
            // SAFETY: the memory holds at least `len` bytes at an address that stays for as long as the owner.
            #[allow(unsafe_code)]
            Ok(unsafe { Map::new(ptr, len, Box::new(owner)) })
        })
    }

    fn links(&self) -> io::Result<u64> {
        self.run(Op::Links, "", |state| Ok(state.file(self.number)?.links))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.disk.state().close(self.number, self.life);
    }
}

/// What a mapping keeps alive.
struct Mapped {
    disk: SimDisk,
    number: u64,
    life: u64,
    _memory: Arc<Memory>,
}

impl Drop for Mapped {
    fn drop(&mut self) {
        self.disk.state().close(self.number, self.life);
    }
}

impl State {
    fn close(&mut self, number: u64, life: u64) {
        if life == self.life
            && let Ok(data) = self.file(number)
        {
            data.opens -= 1;
            self.free(number);
        }
    }
}

#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
    number: u64,
    life: u64,
}

impl DirLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.life == self.life {
            state.locks.remove(&self.number);
        }
    }
}
