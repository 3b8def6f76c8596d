//! A file to append to, in the ways a log can: stores into a shared mapping, or writes by call.
//!
//! This is deliberately *not* the engine's region: it is the bare thing the engine's is measured against, with one
//! owner and no reservation. It knows in which state its blocks are, because that decides what a sync costs.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::FallocateFlags;

/// What the file system knows about the blocks an append will land in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocks {
    /// None yet: every append makes the file longer.
    Growing,
    /// Reserved by `fallocate` and never written: a sync must convert extents in the journal.
    Reserved,
    /// Filled with zeros by writes of `piece` bytes and synced; resident in the page cache.
    Zeroed {
        /// Bytes in one write. The page cache keeps it: a file filled in large pieces consists of large folios.
        piece: usize,
    },
    /// The same, then filled with data through the mapping that is still in use, and synced: a recycled segment.
    Recycled {
        /// Bytes in one write of the first fill.
        piece: usize,
    },
}

/// Lengths are multiples of this.
const MIB: usize = 1 << 20;

/// A file of a fixed length, mapped.
#[derive(Debug)]
pub struct Region {
    file: File,
    map: Arc<MmapRaw>,
}

impl Region {
    /// Makes a file of `len` bytes (a multiple of 1 MiB) whose blocks are as asked for, and syncs it.
    pub fn create(path: &Path, len: usize, blocks: Blocks) -> io::Result<Region> {
        assert!(len > 0 && len.is_multiple_of(MIB), "a region is a multiple of 1 MiB, not {len} bytes");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        if blocks != Blocks::Growing {
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len as u64)?;
        }
        if let Blocks::Zeroed { piece } | Blocks::Recycled { piece } = blocks {
            let zeros = vec![0; piece];
            for at in (0..len).step_by(piece) {
                file.write_all_at(&zeros, at as u64)?;
            }
        }
        file.sync_all()?;
        let map = Arc::new(MmapOptions::new().len(len).map_raw(&file)?);
        let mut region = Region { file, map };
        if let Blocks::Recycled { .. } = blocks {
            let old = vec![0xa5; MIB];
            for at in (0..len).step_by(MIB) {
                region.store(at, &old);
            }
            region.file.sync_all()?;
        }
        Ok(region)
    }

    /// How many bytes of address space, and of file once it is written to its end.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Never: a region has at least 1 MiB.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Copies bytes into the mapping. The file must reach that far (it does, unless [`Blocks::Growing`]).
    ///
    /// # Panics
    /// If they reach past the region's end.
    #[inline]
    #[allow(unsafe_code)]
    pub fn store(&mut self, at: usize, from: &[u8]) {
        assert!(at <= self.map.len() && from.len() <= self.map.len() - at, "a store past the region's end");
        // SAFETY: the range was just checked to lie in the mapping, which lives as long as `self`; `&mut self` makes
        // this the only store, and `from` cannot lie in the mapping because no slice of it is ever given out while
        // a store is possible.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.map.as_mut_ptr().add(at), from.len()) }
    }

    /// The mapping's bytes.
    #[allow(unsafe_code)]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the whole mapping is backed by the file, which only this region knows; stores need `&mut self`,
        // so nothing changes while the slice is borrowed.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr(), self.map.len()) }
    }

    /// A handle with which another thread can fault pages in ahead of the stores.
    pub fn prefaulter(&self) -> Prefaulter {
        Prefaulter { map: self.map.clone() }
    }

    /// `msync(MS_SYNC)` of a range.
    pub fn msync(&self, at: usize, len: usize) -> io::Result<()> {
        self.map.flush_range(at, len)
    }
}

/// Faults pages of a region in for writing, without changing them.
#[derive(Clone, Debug)]
pub struct Prefaulter {
    map: Arc<MmapRaw>,
}

impl Prefaulter {
    /// `MADV_POPULATE_WRITE` (Linux 5.14). The range is widened to whole pages.
    pub fn populate(&self, at: usize, len: usize) -> io::Result<()> {
        let len = len.min(self.map.len().saturating_sub(at));
        self.map.advise_range(Advice::PopulateWrite, at, len)
    }
}
