//! The machine's own file system: one syscall per verb, and `io_uring` where many syncs can share a submission.
//!
//! Interrupted calls are made again; every other error passes through as the kernel gave it, because the caller's
//! advice depends on it (`ENOSPC` is "make room", `EROFS` is not). Mappings are shared, and those for writing are
//! kept out of forked children: a child that stored into the active segment would be a second writer.

use std::any::Any;
use std::fmt;
use std::fs;
use std::io;
#[cfg(feature = "io-uring")]
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

#[cfg(feature = "io-uring")]
use super::ring::Ring;
use super::{
    Access, Counters, DirLock, Disk, Entry, File, Kind, LockError, Map, Open, Tally, read_full_at,
    write_all_at,
};

/// File systems on which an allocated block is really there, so that a store into a mapping cannot raise SIGBUS
/// for want of room. Copy-on-write ones (btrfs, bcachefs) allocate again at write-back; network ones promise less.
const MAPS_SAFELY: [u32; 3] = [
    0xEF53,      // ext4 (and ext2, ext3, where `allocate` falls back to writing zeros)
    0x5846_5342, // xfs
    0x0102_1994, // tmpfs
];

/// From how many files on a list goes through the ring. Measured on two cores and ext4, dirty 4 KiB each, median of a
/// hundred: 2 files 0.21 ms one by one against 0.26 by the ring, 4 files 0.44 against 0.39, 16 files 2.2 against 1.0,
/// 64 files 10 against 3.4. A thread for each file (1.6 for 16, 8 for 64) never came close, so where the ring is
/// refused files are synced one by one.
#[cfg(feature = "io-uring")]
const RING_FILES_MIN: usize = 4;

/// The longest text read back from a lock file.
const HOLDER_BYTES_MAX: usize = 1024;

/// When [`SystemDisk`] may use `io_uring`.
///
/// ```
/// use girok_engine::disk::{RingUse, SystemDisk, SystemDiskOptions};
/// let plain = SystemDisk::with_options(SystemDiskOptions { ring: RingUse::Never });
/// assert!(plain.ring_refused().is_some(), "it says why it is not used");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RingUse {
    /// Where a probe at its first use finds that the kernel and the sandbox allow it. The default.
    #[default]
    Auto,
    /// Plain syscalls only.
    Never,
}

/// Settings of a [`SystemDisk`].
///
/// ```
/// use girok_engine::disk::{Disk, RingUse, SystemDisk, SystemDiskOptions};
/// let disk = SystemDisk::with_options(SystemDiskOptions { ring: RingUse::Never });
/// assert_eq!(disk.counters().ring_submissions, 0);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDiskOptions {
    /// Whether syncs of many files may go through `io_uring`.
    pub ring: RingUse,
}

/// The disk of the machine we run on.
///
/// ```
/// use girok_engine::disk::{Disk, Open, SystemDisk, read_file, write_all_at};
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("note");
/// let disk = SystemDisk::new();
/// let file = disk.open(&path, Open::CreateNew)?;
/// write_all_at(&*file, b"kept", 0)?;
/// file.sync()?;
/// disk.sync_dir(path.parent().unwrap())?;
/// assert_eq!(read_file(&disk, &path, 100)?, b"kept");
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct SystemDisk {
    tally: Arc<Tally>,
    #[cfg(feature = "io-uring")]
    ring: Ring,
    options: SystemDiskOptions,
}

impl SystemDisk {
    /// With the default options.
    pub fn new() -> Self {
        SystemDisk::with_options(SystemDiskOptions::default())
    }

    /// With these options.
    pub fn with_options(options: SystemDiskOptions) -> Self {
        SystemDisk {
            tally: Arc::default(),
            #[cfg(feature = "io-uring")]
            ring: Ring::new(options.ring),
            options,
        }
    }

    /// Whether `io_uring` is used, asking the kernel if nobody has yet; if not, why not.
    pub fn ring_refused(&self) -> Option<String> {
        #[cfg(feature = "io-uring")]
        return self.ring.refused();
        #[cfg(not(feature = "io-uring"))]
        Some("built without the feature io-uring".into())
    }
}

impl Default for SystemDisk {
    fn default() -> Self {
        SystemDisk::new()
    }
}

impl fmt::Debug for SystemDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemDisk").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Makes a call again for as long as signals interrupt it.
fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

/// The folder a path names; the empty one is the current folder.
fn folder(dir: &Path) -> &Path {
    if dir.as_os_str().is_empty() { Path::new(".") } else { dir }
}

impl Disk for SystemDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let flags = OFlags::CLOEXEC
            | OFlags::NOCTTY
            | match how {
                Open::Read => OFlags::RDONLY,
                Open::Write => OFlags::RDWR,
                Open::CreateNew => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
                Open::Create => OFlags::RDWR | OFlags::CREATE,
            };
        let fd = retry(|| rustix::fs::openat(rustix::fs::CWD, path, flags, Mode::from_raw_mode(0o666)))?;
        // A folder opens for reading and then fails at every read: say so here.
        let stat = retry(|| rustix::fs::fstat(&fd))?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
            return Err(Errno::ISDIR.into());
        }
        Ok(Arc::new(SystemFile { fd, tally: self.tally.clone() }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(folder(dir))? {
            let entry = entry?;
            let kind = match entry.file_type() {
                Ok(t) if t.is_file() => Kind::File,
                Ok(t) if t.is_dir() => Kind::Folder,
                Ok(_) => Kind::Other,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            let len = match kind {
                Kind::File => match entry.metadata() {
                    Ok(metadata) => metadata.len(),
                    // Removed since the folder was read: it is not there.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(e),
                },
                _ => 0,
            };
            entries.push(Entry { name: entry.file_name().to_string_lossy().into_owned(), kind, len });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn is_dir(&self, path: &Path) -> bool {
        folder(path).is_dir()
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(folder(dir))
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = retry(|| rustix::fs::openat(rustix::fs::CWD, folder(dir), flags, Mode::empty()))?;
        retry(|| rustix::fs::fsync(&fd))?;
        Tally::add(&self.tally.dir_syncs, 1);
        Ok(())
    }

    fn sync_many(&self, files: &[&dyn File]) -> Vec<io::Result<()>> {
        #[cfg(feature = "io-uring")]
        if files.len() >= RING_FILES_MIN
            && let Some(fds) = ours(files)
            && let Some(done) = self.ring.sync_all(&fds, &self.tally)
        {
            return files
                .iter()
                .zip(done)
                // `None` was never begun, so asking again loses no error.
                .map(|(file, result)| result.unwrap_or_else(|| file.sync()))
                .collect();
        }
        files.iter().map(|file| file.sync()).collect()
    }

    #[cfg(feature = "io-uring")]
    fn write_and_sync(&self, file: &dyn File, from: &[u8], at: u64) -> io::Result<()> {
        use super::ring::Linked;
        let linked = match file.as_any().downcast_ref::<SystemFile>() {
            Some(ours) if !from.is_empty() => {
                self.ring.write_and_sync(ours.fd.as_fd(), from, at, &self.tally)
            }
            _ => Linked::Written(0),
        };
        match linked {
            Linked::Synced => Ok(()),
            Linked::Failed(error) => Err(error),
            // The link broke behind a short write, or there is no ring: the rest by plain calls.
            Linked::Written(done) => {
                write_all_at(file, &from[done..], at + done as u64)?;
                file.sync()
            }
        }
    }

    #[cfg(feature = "io-uring")]
    fn allocate_many(&self, wanted: &[(&dyn File, u64, u64)]) -> Vec<io::Result<()>> {
        let files: Vec<&dyn File> = wanted.iter().map(|(file, ..)| *file).collect();
        if wanted.len() >= RING_FILES_MIN
            && wanted.iter().all(|(_, _, len)| *len > 0)
            && let Some(fds) = ours(&files)
        {
            let ranges: Vec<_> = fds.iter().zip(wanted).map(|(fd, (_, at, len))| (*fd, *at, *len)).collect();
            if let Some(done) = self.ring.allocate_all(&ranges, &self.tally) {
                return wanted
                    .iter()
                    .zip(done)
                    .map(|((file, at, len), result)| match result {
                        Some(Err(e)) if e.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {
                            file.allocate(*at, *len)
                        }
                        Some(result) => result,
                        None => file.allocate(*at, *len),
                    })
                    .collect();
            }
        }
        wanted.iter().map(|(file, at, len)| file.allocate(*at, *len)).collect()
    }

    fn lock(&self, path: &Path, holder: &str) -> Result<Box<dyn DirLock>, LockError> {
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOCTTY;
            let fd = retry(|| rustix::fs::openat(rustix::fs::CWD, path, flags, Mode::from_raw_mode(0o666)))
                .map_err(LockError::Io)?;
            let file = SystemFile { fd, tally: self.tally.clone() };
            match rustix::fs::flock(&file.fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::INTR) => continue,
                Err(Errno::WOULDBLOCK) => {
                    let mut text = vec![0; HOLDER_BYTES_MAX];
                    let got = read_full_at(&file, &mut text, 0).map_err(LockError::Io)?;
                    return Err(LockError::Held(String::from_utf8_lossy(&text[..got]).trim().to_string()));
                }
                Err(e) => return Err(LockError::Io(e.into())),
            }
            // Somebody may have removed or replaced the name between our open and our lock; then what we hold
            // guards nothing.
            let held = retry(|| rustix::fs::fstat(&file.fd)).map_err(LockError::Io)?;
            match rustix::fs::stat(path) {
                Ok(named) if (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino) => {}
                Ok(_) | Err(Errno::NOENT) | Err(Errno::INTR) => continue,
                Err(e) => return Err(LockError::Io(e.into())),
            }
            file.set_len(0).map_err(LockError::Io)?;
            write_all_at(&file, holder.as_bytes(), 0).map_err(LockError::Io)?;
            return Ok(Box::new(SystemLock { _file: file }));
        }
    }

    fn maps_safely(&self, dir: &Path) -> bool {
        match retry(|| rustix::fs::statfs(folder(dir))) {
            // The type is a 32-bit number in a field whose width and sign differ between machines.
            Ok(stat) => MAPS_SAFELY.contains(&(stat.f_type as u32)),
            Err(_) => false,
        }
    }

    fn counters(&self) -> Counters {
        self.tally.counters()
    }
}

/// The descriptors of files that are all this kind of disk's.
#[cfg(feature = "io-uring")]
fn ours<'a>(files: &[&'a dyn File]) -> Option<Vec<std::os::fd::BorrowedFd<'a>>> {
    files.iter().map(|file| Some(file.as_any().downcast_ref::<SystemFile>()?.fd.as_fd())).collect()
}

/// A lock by `flock`, which belongs to the open file: a second opener is refused even in the same process, and a
/// forked child shares it. Letting go is closing and nothing else. An explicit unlock in a child would free the
/// parent's lock, and removing the name would let two later openers lock two different files.
#[derive(Debug)]
struct SystemLock {
    _file: SystemFile,
}

impl DirLock for SystemLock {}

/// An open file of the system.
#[derive(Debug)]
struct SystemFile {
    fd: OwnedFd,
    tally: Arc<Tally>,
}

impl File for SystemFile {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let got = retry(|| rustix::io::pread(&self.fd, &mut *into, at))?;
        Tally::add(&self.tally.read_bytes, got as u64);
        Ok(got)
    }

    fn write_at(&self, from: &[u8], at: u64) -> io::Result<usize> {
        let done = retry(|| rustix::io::pwrite(&self.fd, from, at))?;
        Tally::add(&self.tally.written_bytes, done as u64);
        Ok(done)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(retry(|| rustix::fs::fstat(&self.fd))?.st_size as u64)
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        match retry(|| rustix::fs::fallocate(&self.fd, FallocateFlags::empty(), at, len)) {
            Err(e) if e.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {}
            other => return other,
        }
        // Zeros for what is new. Holes below the present end stay holes: filling them would race with writers, and
        // nobody maps files for writing on such a file system (see `maps_safely`).
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let end = at.checked_add(len).ok_or(Errno::FBIG)?;
        let mut at = at.max(self.len()?);
        while at < end {
            let piece = (end - at).min(ZEROS.len() as u64) as usize;
            write_all_at(self, &ZEROS[..piece], at)?;
            at += piece as u64;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        retry(|| rustix::fs::ftruncate(&self.fd, len))
    }

    fn sync(&self) -> io::Result<()> {
        retry(|| rustix::fs::fdatasync(&self.fd))?;
        Tally::add(&self.tally.syncs, 1);
        Ok(())
    }

    fn map(&self, len: usize, access: Access) -> io::Result<Map> {
        let mut options = memmap2::MmapOptions::new();
        // With the length given, the file's own is not consulted: the mapping may reach past its end.
        options.len(len);
        let map = match access {
            Access::Read => options.map_raw_read_only(&self.fd)?,
            Access::Write => {
                let map = options.map_raw(&self.fd)?;
                map.advise(memmap2::Advice::DontFork)?;
                map
            }
        };
        let ptr = NonNull::new(map.as_mut_ptr()).ok_or(Errno::NOMEM)?;
        // SAFETY: `map` is a live mapping of `len` bytes that stays where it is until it is dropped, and it is
        // moved into the `Map` as its owner.
        #[allow(unsafe_code)]
        Ok(unsafe { Map::new(ptr, len, Box::new(map)) })
    }

    fn populate(&self, map: &Map, at: usize, len: usize) -> io::Result<()> {
        let page = rustix::param::page_size();
        let (from, to) = (at / page * page, at.saturating_add(len).min(map.len()));
        if from >= to {
            return Ok(());
        }
        // SAFETY: the range lies inside a live mapping of ours (`map` is borrowed), and faulting pages in changes no
        // byte of it. Past the file's end the call fails with EFAULT, as it should.
        #[allow(unsafe_code)]
        let done = unsafe {
            let start = map.as_ptr().add(from).cast();
            rustix::mm::madvise(start, to - from, rustix::mm::Advice::LinuxPopulateWrite)
        };
        Ok(done?)
    }

    fn links(&self) -> io::Result<u64> {
        #[allow(clippy::useless_conversion)] // 32 bits wide on some machines
        Ok(u64::from(retry(|| rustix::fs::fstat(&self.fd))?.st_nlink))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
