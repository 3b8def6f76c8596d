//! A file system that is gone with the process: for tests, and for logs that nobody wants to keep.
//!
//! It behaves as POSIX does: open files outlive their names, hard links share bytes, renaming replaces. A sync
//! succeeds and does nothing, for there is no medium. Small files are plain vectors; a file that is mapped, or longer
//! than a mebibyte, moves once into a stretch of reserved address space, where its bytes stay where they are for
//! good, so that a mapping made while the file was small sees it grow.

use std::any::Any;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::{Component, Path};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};
use rustix::io::Errno;

use super::{Access, Counters, DirLock, Disk, Entry, File, Kind, LockError, Map, Open, Tally};

/// A file longer than this lives in reserved address space, mapped or not.
const HEAP_BYTES_MAX: usize = 1 << 20;

/// Address space reserved for one such file: no segment is longer. It costs nothing until it is written to.
const RESERVE_BYTES: usize = 1 << 31;

/// A disk in memory. Clones are the same disk.
///
/// ```
/// use std::path::Path;
/// use girok_engine::disk::{Disk, MemoryDisk, Open, read_file, write_all_at};
/// let disk = MemoryDisk::new();
/// disk.create_dir(Path::new("/log"))?;
/// let file = disk.open(Path::new("/log/note"), Open::CreateNew)?;
/// write_all_at(&*file, b"kept for now", 0)?;
/// assert_eq!(read_file(&disk, Path::new("/log/note"), 100)?, b"kept for now");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct MemoryDisk {
    shared: Arc<Shared>,
}

struct Shared {
    root: Mutex<Folder>,
    space: Arc<Space>,
    tally: Arc<Tally>,
}

impl MemoryDisk {
    /// An empty disk, as large as the memory.
    pub fn new() -> Self {
        MemoryDisk::with_capacity(u64::MAX)
    }

    /// An empty disk on which files may take `bytes` in all; then writing and allocating give `ENOSPC`. Names cost
    /// nothing, and a file's holes (made by [`File::set_len`]) nothing until they are written.
    pub fn with_capacity(bytes: u64) -> Self {
        let space = Arc::new(Space { capacity: AtomicU64::new(bytes), used: AtomicU64::new(0) });
        MemoryDisk { shared: Arc::new(Shared { root: Mutex::default(), space, tally: Arc::default() }) }
    }

    /// Changes the capacity, in bytes. What is there stays, even if it is more.
    pub fn set_capacity(&self, bytes: u64) {
        self.shared.space.capacity.store(bytes, Ordering::Relaxed);
    }

    /// The bytes that files take.
    pub fn used_bytes(&self) -> u64 {
        self.shared.space.used.load(Ordering::Relaxed)
    }

    fn root(&self) -> MutexGuard<'_, Folder> {
        // Every change of the tree is one insert or remove, so a panic elsewhere leaves it whole.
        self.shared.root.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryDisk {
    fn default() -> Self {
        MemoryDisk::new()
    }
}

impl fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryDisk({} bytes used)", self.used_bytes())
    }
}

/// How full the disk is.
#[derive(Debug)]
struct Space {
    capacity: AtomicU64,
    used: AtomicU64,
}

impl Space {
    /// Takes up to `wanted` bytes; how many there were.
    fn take(&self, wanted: u64) -> u64 {
        let mut taken = 0;
        let _ = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            taken = wanted.min(self.capacity.load(Ordering::Relaxed).saturating_sub(used));
            Some(used + taken)
        });
        taken
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Folder {
    names: BTreeMap<OsString, Node>,
}

enum Node {
    Folder(Folder),
    File(Arc<Inode>),
}

/// The names on the way to a path. `.` and `..` are resolved by name, and `/` is where relative paths begin too.
fn names(path: &Path) -> Vec<&OsStr> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::ParentDir => {
                names.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    names
}

impl Folder {
    /// The folder at the end of these names.
    fn folder(&mut self, names: &[&OsStr]) -> io::Result<&mut Folder> {
        names.iter().try_fold(self, |folder, name| match folder.names.get_mut(*name) {
            Some(Node::Folder(folder)) => Ok(folder),
            Some(Node::File(_)) => Err(Errno::NOTDIR.into()),
            None => Err(Errno::NOENT.into()),
        })
    }

    /// The folder that holds the path's last name, and that name.
    fn parent<'p>(&mut self, path: &'p Path) -> io::Result<(&mut Folder, &'p OsStr)> {
        let names = names(path);
        let (last, way) = names.split_last().ok_or(Errno::ISDIR)?;
        Ok((self.folder(way)?, last))
    }

    fn file(&mut self, path: &Path) -> io::Result<Arc<Inode>> {
        let (folder, name) = self.parent(path)?;
        match folder.names.get(name) {
            Some(Node::File(inode)) => Ok(inode.clone()),
            Some(Node::Folder(_)) => Err(Errno::ISDIR.into()),
            None => Err(Errno::NOENT.into()),
        }
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut root = self.root();
        let (folder, name) = root.parent(path)?;
        let inode = match (folder.names.get(name), how) {
            (Some(Node::Folder(_)), _) => return Err(Errno::ISDIR.into()),
            (Some(_), Open::CreateNew) => return Err(Errno::EXIST.into()),
            (Some(Node::File(inode)), _) => inode.clone(),
            (None, Open::Read | Open::Write) => return Err(Errno::NOENT.into()),
            (None, Open::Create | Open::CreateNew) => {
                let inode = Arc::new(Inode::new(self.shared.space.clone()));
                folder.names.insert(name.to_os_string(), Node::File(inode.clone()));
                inode
            }
        };
        Ok(Arc::new(MemoryFile { inode, writable: how != Open::Read, tally: self.shared.tally.clone() }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut root = self.root();
        let folder = root.folder(&names(dir))?;
        let mut entries: Vec<Entry> = folder
            .names
            .iter()
            .map(|(name, node)| {
                let (kind, len) = match node {
                    Node::Folder(_) => (Kind::Folder, 0),
                    Node::File(inode) => (Kind::File, inode.bytes().len as u64),
                };
                Entry { name: name.to_string_lossy().into_owned(), kind, len }
            })
            .collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn is_dir(&self, path: &Path) -> bool {
        self.root().folder(&names(path)).is_ok()
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut root = self.root();
        names(dir).iter().try_fold(&mut *root, |folder, name| {
            match folder.names.entry(name.to_os_string()).or_insert_with(|| Node::Folder(Folder::default())) {
                Node::Folder(folder) => Ok(folder),
                Node::File(_) => Err(io::Error::from(Errno::NOTDIR)),
            }
        })?;
        Ok(())
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut root = self.root();
        let (folder, name) = root.parent(dir).map_err(|_| io::Error::from(Errno::NOENT))?;
        match folder.names.get(name) {
            Some(Node::Folder(inner)) if inner.names.is_empty() => {
                folder.names.remove(name);
                Ok(())
            }
            Some(Node::Folder(_)) => Err(Errno::NOTEMPTY.into()),
            Some(Node::File(_)) => Err(Errno::NOTDIR.into()),
            None => Err(Errno::NOENT.into()),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (old, new) = (names(from), names(to));
        let mut root = self.root();
        let (folder, name) = root.parent(from)?;
        let moves_folder = match folder.names.get(name) {
            Some(Node::Folder(_)) => true,
            Some(Node::File(_)) => false,
            None => return Err(Errno::NOENT.into()),
        };
        if old == new {
            return Ok(());
        }
        if moves_folder && new.starts_with(&old) {
            return Err(Errno::INVAL.into());
        }
        let (folder, new_name) = root.parent(to)?;
        match (moves_folder, folder.names.get(new_name)) {
            (false, Some(Node::Folder(_))) => return Err(Errno::ISDIR.into()),
            (true, Some(Node::File(_))) => return Err(Errno::NOTDIR.into()),
            (true, Some(Node::Folder(inner))) if !inner.names.is_empty() => {
                return Err(Errno::NOTEMPTY.into());
            }
            // Two names of one file: POSIX leaves both.
            (false, Some(Node::File(there))) => {
                let there = there.clone();
                if Arc::ptr_eq(&there, &root.file(from)?) {
                    return Ok(());
                }
                there.links.fetch_sub(1, Ordering::Relaxed);
            }
            _ => {}
        }
        let (folder, name) = root.parent(from)?;
        let node = folder.names.remove(name).ok_or(Errno::NOENT)?;
        let (folder, name) = root.parent(to)?;
        folder.names.insert(name.to_os_string(), node);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut root = self.root();
        let inode = root.file(path)?;
        let (folder, name) = root.parent(path)?;
        folder.names.remove(name);
        inode.links.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut root = self.root();
        let inode = root.file(from)?;
        let (folder, name) = root.parent(to)?;
        if folder.names.contains_key(name) {
            return Err(Errno::EXIST.into());
        }
        inode.links.fetch_add(1, Ordering::Relaxed);
        folder.names.insert(name.to_os_string(), Node::File(inode));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.root().folder(&names(dir))?;
        Tally::add(&self.shared.tally.dir_syncs, 1);
        Ok(())
    }

    fn sync_many(&self, files: &[&dyn File]) -> Vec<io::Result<()>> {
        files.iter().map(|file| file.sync()).collect()
    }

    fn lock(&self, path: &Path, holder: &str) -> Result<Box<dyn DirLock>, LockError> {
        let file = self.open(path, Open::Create).map_err(LockError::Io)?;
        let inode = self.root().file(path).map_err(LockError::Io)?;
        if inode.locked.swap(true, Ordering::Acquire) {
            let text = inode.bytes().read(0, 1024);
            return Err(LockError::Held(String::from_utf8_lossy(&text).trim().to_string()));
        }
        let lock = Box::new(MemoryLock { inode });
        file.set_len(0)
            .and_then(|()| super::write_all_at(&*file, holder.as_bytes(), 0))
            .map_err(LockError::Io)?;
        Ok(lock)
    }

    fn maps_safely(&self, _: &Path) -> bool {
        true
    }

    fn counters(&self) -> Counters {
        self.shared.tally.counters()
    }
}

struct MemoryLock {
    inode: Arc<Inode>,
}

impl DirLock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.inode.locked.store(false, Ordering::Release);
    }
}

impl fmt::Debug for MemoryLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryLock")
    }
}

/// A file's bytes, whatever it is called and whoever has it open.
struct Inode {
    bytes: Mutex<Bytes>,
    links: AtomicU64,
    locked: AtomicBool,
    space: Arc<Space>,
}

impl Inode {
    fn new(space: Arc<Space>) -> Self {
        let bytes = Bytes { store: Store::Heap(Vec::new()), len: 0, charged: 0 };
        Inode { bytes: Mutex::new(bytes), links: AtomicU64::new(1), locked: AtomicBool::new(false), space }
    }

    fn bytes(&self) -> MutexGuard<'_, Bytes> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inode {
    fn drop(&mut self) {
        let charged = self.bytes().charged;
        self.space.give_back(charged);
    }
}

struct Bytes {
    store: Store,
    len: usize,
    /// The disk's room is taken for bytes `0..charged`.
    charged: u64,
}

/// Where a file's bytes are. Behind the file's end all of them are zero.
enum Store {
    /// Free to move.
    Heap(Vec<u8>),
    /// In reserved address space, shared with the mappings.
    Reserved(Arc<MmapRaw>),
}

impl Bytes {
    /// Sees to it that the first `len` bytes have a place that will not move while anybody has it mapped.
    fn reserve(&mut self, len: usize) -> io::Result<&Arc<MmapRaw>> {
        let present = match &self.store {
            Store::Reserved(region) => region.len(),
            Store::Heap(_) => 0,
        };
        if len > present || present == 0 {
            if let Store::Reserved(region) = &self.store
                && Arc::strong_count(region) > 1
            {
                return Err(io::Error::new(
                    io::ErrorKind::OutOfMemory,
                    format!("a file in memory that is mapped can be {present} bytes long, not {len}"),
                ));
            }
            let reserve = |bytes| MmapOptions::new().len(bytes).no_reserve_swap().map_anon();
            // Where address space is rationed (`ulimit -v`, strict overcommit) take what is asked for and no more;
            // then such a file cannot be mapped longer while it is mapped.
            let region: MmapRaw =
                reserve(len.max(RESERVE_BYTES)).or_else(|_| reserve(len.max(1 << 16)))?.into();
            // Memory is used by the page, not by 2 MiB for each small file. Kernels without huge pages refuse.
            let _ = region.advise(Advice::NoHugePage);
            let old = self.read(0, self.len);
            // SAFETY: the new region holds at least `len` bytes, and `len` is no less than `self.len`, and nobody else has it yet.
            #[allow(unsafe_code)]
            unsafe {
                region.as_mut_ptr().copy_from_nonoverlapping(old.as_ptr(), old.len());
            }
            self.store = Store::Reserved(Arc::new(region));
        }
        match &self.store {
            Store::Reserved(region) => Ok(region),
            Store::Heap(_) => Err(Errno::NOMEM.into()),
        }
    }

    /// A place for bytes up to `end`, without changing the length.
    fn make_place(&mut self, end: usize) -> io::Result<()> {
        match &mut self.store {
            Store::Heap(heap) if end <= HEAP_BYTES_MAX => {
                if heap.len() < end {
                    heap.resize(end, 0);
                }
                Ok(())
            }
            _ => self.reserve(end.max(self.len)).map(drop),
        }
    }

    fn read_into(&self, into: &mut [u8], at: usize) -> usize {
        let n = into.len().min(self.len.saturating_sub(at));
        match &self.store {
            Store::Heap(heap) => into[..n].copy_from_slice(&heap[at..][..n]),
            // SAFETY: `at + n` is at most `self.len`, which lies within the region, and the region is alive. Stores
            // through a mapping into these very bytes at this moment would be the mapping's owner's race, as with
            // a file of the system; see `Map`.
            #[allow(unsafe_code)]
            Store::Reserved(region) => unsafe {
                if n > 0 {
                    into.as_mut_ptr().copy_from_nonoverlapping(region.as_ptr().add(at), n);
                }
            },
        }
        n
    }

    fn read(&self, at: usize, max: usize) -> Vec<u8> {
        let mut bytes = vec![0; max.min(self.len.saturating_sub(at))];
        self.read_into(&mut bytes, at);
        bytes
    }

    /// Writes where there is a place already.
    fn write(&mut self, from: &[u8], at: usize) {
        match &mut self.store {
            Store::Heap(heap) => heap[at..][..from.len()].copy_from_slice(from),
            // SAFETY: `make_place` saw to the room. Other readers and writers of these bytes: as in `read_into`.
            #[allow(unsafe_code)]
            Store::Reserved(region) => unsafe {
                assert!(at + from.len() <= region.len());
                region.as_mut_ptr().add(at).copy_from_nonoverlapping(from.as_ptr(), from.len());
            },
        }
    }

    /// Zeros what lies in `from..to` and gives whole pages back to the system.
    fn clear(&mut self, from: usize, to: usize) -> io::Result<()> {
        match &mut self.store {
            Store::Heap(heap) => {
                heap.truncate(from);
                heap.shrink_to_fit();
            }
            Store::Reserved(region) => {
                let page = rustix::param::page_size();
                let whole = from.next_multiple_of(page).min(to);
                // SAFETY: `from..whole` lies within the region. Who still reads behind a cut reads zeros.
                #[allow(unsafe_code)]
                unsafe {
                    region.as_mut_ptr().add(from).write_bytes(0, whole - from);
                }
                if whole < to {
                    let pages = (to - whole).next_multiple_of(page).min(region.len() - whole);
                    // SAFETY: no Rust reference to these bytes is alive here; mappings hand out pointers, and
                    // whoever follows one behind the file's end breaks the seam's rules.
                    #[allow(unsafe_code)]
                    unsafe {
                        region.unchecked_advise_range(UncheckedAdvice::DontNeed, whole, pages)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes room on the disk up to `end`; to where there was room.
    fn charge(&mut self, end: u64, space: &Space) -> u64 {
        if end > self.charged {
            self.charged += space.take(end - self.charged);
        }
        self.charged.min(end)
    }
}

/// A position as an index, if it can be one.
fn index(position: Option<u64>) -> io::Result<usize> {
    match position {
        // Beyond this no reservation succeeds; refuse before it is tried.
        Some(position) if position <= 1 << 46 => Ok(position as usize),
        _ => Err(Errno::FBIG.into()),
    }
}

struct MemoryFile {
    inode: Arc<Inode>,
    writable: bool,
    tally: Arc<Tally>,
}

impl fmt::Debug for MemoryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryFile({} bytes)", self.inode.bytes().len)
    }
}

impl MemoryFile {
    fn writable(&self) -> io::Result<MutexGuard<'_, Bytes>> {
        if self.writable { Ok(self.inode.bytes()) } else { Err(Errno::BADF.into()) }
    }
}

impl File for MemoryFile {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let bytes = self.inode.bytes();
        let n = if at >= bytes.len as u64 { 0 } else { bytes.read_into(into, at as usize) };
        Tally::add(&self.tally.read_bytes, n as u64);
        Ok(n)
    }

    fn write_at(&self, from: &[u8], at: u64) -> io::Result<usize> {
        let mut bytes = self.writable()?;
        if from.is_empty() {
            return Ok(0);
        }
        let end = index(at.checked_add(from.len() as u64))?;
        let room = bytes.charge(end as u64, &self.inode.space).saturating_sub(at) as usize;
        if room == 0 {
            return Err(Errno::NOSPC.into());
        }
        let from = &from[..room.min(from.len())];
        let at = at as usize;
        bytes.make_place(at + from.len())?;
        bytes.write(from, at);
        bytes.len = bytes.len.max(at + from.len());
        Tally::add(&self.tally.written_bytes, from.len() as u64);
        Ok(from.len())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.inode.bytes().len as u64)
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        let mut bytes = self.writable()?;
        if len == 0 {
            return Ok(());
        }
        let end = index(at.checked_add(len))?;
        let before = bytes.charged;
        if bytes.charge(end as u64, &self.inode.space) < end as u64 {
            self.inode.space.give_back(bytes.charged - before);
            bytes.charged = before;
            return Err(Errno::NOSPC.into());
        }
        bytes.make_place(end)?;
        bytes.len = bytes.len.max(end);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut bytes = self.writable()?;
        let len = index(Some(len))?;
        if len < bytes.len {
            let to = bytes.len;
            bytes.len = len;
            bytes.clear(len, to)?;
            let freed = bytes.charged.saturating_sub(len as u64);
            bytes.charged -= freed;
            self.inode.space.give_back(freed);
        } else {
            bytes.make_place(len)?;
            bytes.len = len;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Tally::add(&self.tally.syncs, 1);
        Ok(())
    }

    fn map(&self, len: usize, access: Access) -> io::Result<Map> {
        if access == Access::Write && !self.writable {
            return Err(Errno::ACCESS.into());
        }
        let mut bytes = self.inode.bytes();
        let wanted = len.max(bytes.len);
        let region = bytes.reserve(wanted)?.clone();
        let ptr = NonNull::new(region.as_mut_ptr()).ok_or(Errno::NOMEM)?;
        // SAFETY: the region holds at least `len` bytes, readable and writable, and stays where it is for as long
        // as this clone of it, which the `Map` owns.
        #[allow(unsafe_code)]
        Ok(unsafe { Map::new(ptr, len, Box::new(Held { region, _inode: self.inode.clone() })) })
    }

    fn links(&self) -> io::Result<u64> {
        Ok(self.inode.links.load(Ordering::Relaxed))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What a mapping keeps alive: the memory, and the room that the file takes on the disk.
struct Held {
    #[allow(dead_code)] // held for its drop
    region: Arc<MmapRaw>,
    _inode: Arc<Inode>,
}
