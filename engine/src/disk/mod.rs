//! The disk seam: files, folders, mappings and syncs, as the engine needs them and no more.
//!
//! Three disks stand behind it: [`SystemDisk`] (plain syscalls, with `io_uring` for syncs of many files where the
//! probe finds it), [`MemoryDisk`] (for tests and throw-away logs; gone with the process), and the simulated one in
//! `tests/support`, which tears sectors and loses what was not synced. Whatever only Linux has stands behind here.
//!
//! The rules every disk keeps:
//! - A write is in the *page cache* when the call returns: every later read, and every mapping, sees it, and it
//!   survives the process. It is on the *medium* only after [`File::sync`] returned `Ok`.
//! - A new, renamed or removed name is on the medium only after [`Disk::sync_dir`] of its folder.
//! - A read or write may be short; the loops [`read_full_at`] and [`write_all_at`] are for callers who mind.
//! - A mapping may be longer than its file. Touching it past the file's end is the caller's crime.

use std::any::Any;
use std::fmt;
use std::io;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

mod memory;
#[cfg(feature = "io-uring")]
mod ring;
mod system;

pub use memory::MemoryDisk;
pub use system::{RingUse, SystemDisk, SystemDiskOptions};

/// How to open a file.
///
/// ```
/// # use std::path::Path;
/// # use girok_engine::disk::*;
/// # let disk = MemoryDisk::new();
/// # disk.create_dir(Path::new("/log"))?;
/// let note = Path::new("/log/note");
/// assert!(disk.open(note, Open::Read).is_err(), "not there yet");
/// disk.open(note, Open::CreateNew)?;
/// assert!(disk.open(note, Open::CreateNew).is_err(), "there already");
/// assert!(disk.open(note, Open::Create).is_ok());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// Existing, for reading.
    Read,
    /// Existing, for reading and writing.
    Write,
    /// It must not exist yet.
    CreateNew,
    /// Created if missing, kept as it is if not.
    Create,
}

/// What a name in a folder is.
///
/// ```
/// # use std::path::Path;
/// # use girok_engine::disk::*;
/// # let disk = MemoryDisk::new();
/// # disk.create_dir(Path::new("/log"))?;
/// disk.create_dir(Path::new("/log/orders-0"))?;
/// assert_eq!(disk.list(Path::new("/log"))?[0].kind, Kind::Folder);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A plain file.
    File,
    /// A folder.
    Folder,
    /// Anything else: a link, a socket, a device.
    Other,
}

/// One name in a folder.
///
/// ```
/// # use std::path::Path;
/// # use girok_engine::disk::*;
/// # let disk = MemoryDisk::new();
/// # disk.create_dir(Path::new("/log"))?;
/// # let file = disk.open(Path::new("/log/note"), Open::CreateNew)?;
/// write_all_at(&*file, b"kept", 0)?;
/// let entries = disk.list(Path::new("/log"))?;
/// assert_eq!(entries, [Entry { name: "note".into(), kind: Kind::File, len: 4 }]);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name, without the folder. Names that are not UTF-8 are shown with replacement characters.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its length in bytes if it is a file.
    pub len: u64,
}

/// What a disk has done since it was made.
///
/// ```
/// # use std::path::Path;
/// # use girok_engine::disk::*;
/// # let disk = MemoryDisk::new();
/// # disk.create_dir(Path::new("/log"))?;
/// # let file = disk.open(Path::new("/log/note"), Open::CreateNew)?;
/// write_all_at(&*file, b"kept", 0)?;
/// file.sync()?;
/// let Counters { syncs, written_bytes, .. } = disk.counters();
/// assert_eq!((syncs, written_bytes), (1, 4));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Files synced, by whatever way.
    pub syncs: u64,
    /// Folders synced.
    pub dir_syncs: u64,
    /// Submissions to `io_uring` (each may carry many syncs). Zero where the ring is refused.
    pub ring_submissions: u64,
    /// Syncs that went through `io_uring`.
    pub ring_syncs: u64,
    /// Bytes written by calls (not through mappings).
    pub written_bytes: u64,
    /// Bytes read by calls (not through mappings).
    pub read_bytes: u64,
}

/// The counters while they are counting; a disk shares one with its files.
#[derive(Debug, Default)]
struct Tally {
    syncs: AtomicU64,
    dir_syncs: AtomicU64,
    #[cfg_attr(not(feature = "io-uring"), allow(dead_code))]
    ring_submissions: AtomicU64,
    #[cfg_attr(not(feature = "io-uring"), allow(dead_code))]
    ring_syncs: AtomicU64,
    written_bytes: AtomicU64,
    read_bytes: AtomicU64,
}

impl Tally {
    fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    fn counters(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            syncs: read(&self.syncs),
            dir_syncs: read(&self.dir_syncs),
            ring_submissions: read(&self.ring_submissions),
            ring_syncs: read(&self.ring_syncs),
            written_bytes: read(&self.written_bytes),
            read_bytes: read(&self.read_bytes),
        }
    }
}

/// Keeps a directory ours. Dropping it lets go.
///
/// ```
/// # use std::path::Path;
/// # use girok_engine::disk::*;
/// # let disk = MemoryDisk::new();
/// # disk.create_dir(Path::new("/log"))?;
/// let path = Path::new("/log/girok.lock");
/// let lock: Box<dyn DirLock> = disk.lock(path, "process 7").unwrap();
/// assert!(disk.lock(path, "process 8").is_err());
/// drop(lock);
/// assert!(disk.lock(path, "process 8").is_ok());
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait DirLock: Send + Sync + fmt::Debug {}

/// Why a directory could not be locked.
///
/// ```
/// # use std::path::Path;
/// # use girok_engine::disk::*;
/// # let disk = MemoryDisk::new();
/// # disk.create_dir(Path::new("/log"))?;
/// # let path = Path::new("/log/girok.lock");
/// let _lock = disk.lock(path, "process 7").unwrap();
/// match disk.lock(path, "process 8") {
///     Err(LockError::Held(holder)) => assert_eq!(holder, "process 7"),
///     other => panic!("it is held: {other:?}"),
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub enum LockError {
    /// Somebody has it; what the lock file says about them.
    Held(String),
    /// The system refused.
    Io(io::Error),
}

/// A file system, as much of it as the engine needs.
///
/// ```
/// use std::path::Path;
/// use girok_engine::disk::{Disk, MemoryDisk, Open};
/// fn finish(disk: &dyn Disk, dir: &Path) -> std::io::Result<()> {
///     disk.open(&dir.join("done.tmp"), Open::CreateNew)?.sync()?;
///     disk.rename(&dir.join("done.tmp"), &dir.join("done"))?;
///     disk.sync_dir(dir) // only now does the new name survive a power cut
/// }
/// # let disk = MemoryDisk::new();
/// # disk.create_dir(Path::new("/log"))?;
/// finish(&disk, Path::new("/log"))?;
/// assert_eq!(disk.list(Path::new("/log"))?[0].name, "done");
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait Disk: Send + Sync + fmt::Debug {
    /// Opens a file.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>>;
    /// The names in a folder, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;
    /// Whether the path is a folder.
    fn is_dir(&self, path: &Path) -> bool;
    /// Makes a folder and its missing parents. It is no error if it exists.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;
    /// Renames a file or folder, replacing a file of the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name. Open files and mappings keep the bytes.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Gives a file a second name.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the folder's names survive a power cut.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Syncs many files, in one submission where the machine can. One result each, in order.
    fn sync_many(&self, files: &[&dyn File]) -> Vec<io::Result<()>>;
    /// Writes all of `from` at `at` and syncs the file, as one linked submission where the machine can.
    fn write_and_sync(&self, file: &dyn File, from: &[u8], at: u64) -> io::Result<()> {
        write_all_at(file, from, at)?;
        file.sync()
    }
    /// [`File::allocate`] for many files, in one submission where the machine can: (file, from, length in bytes).
    /// One result each, in order.
    fn allocate_many(&self, wanted: &[(&dyn File, u64, u64)]) -> Vec<io::Result<()>> {
        wanted.iter().map(|(file, at, len)| file.allocate(*at, *len)).collect()
    }
    /// Takes the lock file at `path`, writing `holder` into it. `Held` tells what the present holder wrote.
    fn lock(&self, path: &Path, holder: &str) -> Result<Box<dyn DirLock>, LockError>;
    /// Whether files below `dir` may be written through a shared mapping: only where allocated blocks are really
    /// reserved, so that a full disk cannot raise SIGBUS.
    fn maps_safely(&self, dir: &Path) -> bool;
    /// What it has done so far.
    fn counters(&self) -> Counters;
}

/// An open file. Closing is dropping; sync first, or a write-back error goes unseen.
///
/// ```
/// # use std::path::Path;
/// # use girok_engine::disk::*;
/// # let disk = MemoryDisk::new();
/// # disk.create_dir(Path::new("/log"))?;
/// # let file = disk.open(Path::new("/log/note"), Open::CreateNew)?;
/// file.allocate(0, 4096)?;
/// write_all_at(&*file, b"kept", 4)?;
/// file.sync()?;
/// let mut bytes = [1; 8];
/// assert_eq!(read_full_at(&*file, &mut bytes, 0)?, 8);
/// assert_eq!(&bytes, b"\0\0\0\0kept");
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait File: Send + Sync + fmt::Debug + Any {
    /// Reads at a position; 0 at the end. May be short.
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes at a position, growing the file if need be. May be short.
    fn write_at(&self, from: &[u8], at: u64) -> io::Result<usize>;
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether it is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Reserves blocks for `at..at + len`, growing the file; new bytes read as zeros. Fails when there is no room,
    /// and then the file may have grown, but holds no bytes that were not there before.
    fn allocate(&self, at: u64, len: u64) -> io::Result<()>;
    /// Cuts or extends (with zeros, unallocated) to `len`.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Brings data and length to the medium (`fdatasync`), those written through mappings too.
    fn sync(&self) -> io::Result<()>;
    /// Maps the first `len` bytes of address space, shared with the file. `len` may exceed the file's length.
    fn map(&self, len: usize, access: Access) -> io::Result<Map>;
    /// Faults the pages of `map` in for writing, so that stores there meet no fault later. A hint: does nothing where
    /// there is no way to.
    fn populate(&self, _map: &Map, _at: usize, _len: usize) -> io::Result<()> {
        Ok(())
    }
    /// How many names it has.
    fn links(&self) -> io::Result<u64>;
    /// For a disk's own `sync_many`, to find its own files again.
    fn as_any(&self) -> &dyn Any;
}

/// What a mapping is for.
///
/// ```
/// # use std::path::Path;
/// # use girok_engine::disk::*;
/// # let disk = MemoryDisk::new();
/// # disk.create_dir(Path::new("/log"))?;
/// # let file = disk.open(Path::new("/log/note"), Open::CreateNew)?;
/// file.allocate(0, 4096)?;
/// let shown = file.map(4096, Access::Read)?; // as sealed segments are
/// let filled = file.map(4096, Access::Write)?; // as the active one is
/// assert_eq!(shown.len(), filled.len());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing.
    Write,
}

/// A stretch of memory that is a file. The engine decides who may touch which part of it, and when.
///
/// ```
/// # use std::path::Path;
/// # use girok_engine::disk::*;
/// # let disk = MemoryDisk::new();
/// # disk.create_dir(Path::new("/log"))?;
/// # let file = disk.open(Path::new("/log/note"), Open::CreateNew)?;
/// file.allocate(0, 4096)?;
/// let map = file.map(1 << 20, Access::Read)?;
/// drop(file);
/// assert_eq!(map.len(), 1 << 20, "address space, longer than the file, and it outlives the handle");
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Map {
    ptr: NonNull<u8>,
    len: usize,
    _owner: Box<dyn Any + Send + Sync>,
}

// SAFETY: a Map is a pointer, a length and an owner that is Send + Sync; it dereferences nothing itself. Who reads
// and writes through the pointer, and when, is argued where that is done (`segment`).
#[allow(unsafe_code)]
unsafe impl Send for Map {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Map {}

impl Map {
    /// A mapping of `len` bytes at `ptr`, alive as long as `owner`.
    ///
    /// # Safety
    /// `ptr` is valid for reads (and writes, if mapped for writing) of the file's bytes for as long as `owner`
    /// lives, wherever `owner` is moved.
    #[allow(unsafe_code)]
    pub unsafe fn new(ptr: NonNull<u8>, len: usize, owner: Box<dyn Any + Send + Sync>) -> Self {
        Map { ptr, len, _owner: owner }
    }

    /// Its first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// How many bytes of address space.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Map({} bytes)", self.len)
    }
}

/// Makes a folder and its missing parents so that a power cut cannot take them away again: a folder is a name in its
/// parent, and that name is on the medium only when the parent was synced. A folder that exists may have been made by
/// somebody who died before syncing its parent, so its own parent is synced in any case.
pub fn create_dir_synced(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let missing =
        dir.ancestors().take_while(|path| !path.as_os_str().is_empty() && !disk.is_dir(path)).count();
    disk.create_dir(dir)?;
    for made in dir.ancestors().take(missing.max(1)) {
        let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
        disk.sync_dir(parent.unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

/// Reads until `into` is full or the file ends; how many bytes there were.
pub fn read_full_at(file: &dyn File, into: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match file.read_at(&mut into[done..], at + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// Writes all of `from`.
pub fn write_all_at(file: &dyn File, from: &[u8], at: u64) -> io::Result<()> {
    let mut done = 0;
    while done < from.len() {
        match file.write_at(&from[done..], at + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Reads a whole small file; refuses one longer than `max` bytes.
pub fn read_file(disk: &dyn Disk, path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let file = disk.open(path, Open::Read)?;
    let len = file.len()?;
    if len > max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{len} bytes long, expected at most {max}"),
        ));
    }
    let mut bytes = vec![0; len as usize];
    let got = read_full_at(&*file, &mut bytes, 0)?;
    bytes.truncate(got);
    Ok(bytes)
}

/// Replaces a small file so that a crash leaves the old bytes or the new ones, never a mixture: written beside it,
/// synced, renamed over it, and the folder synced.
pub fn replace_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    let beside = path.with_file_name(name);
    match disk.remove(&beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = disk.open(&beside, Open::CreateNew)?;
    write_all_at(&*file, bytes, 0)?;
    file.sync()?;
    drop(file);
    disk.rename(&beside, path)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new("")))
}
